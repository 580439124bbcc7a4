/* Discovery: the ways of the local network and of discovery servers, whose packets are DNS messages.
 *
 * SPDX-License-Identifier: MIT
 *
 * Rooms, bottom up, each calling only those above it: what they share, packets (bytes <-> messages, which decides
 * nothing), multicast DNS, the servers' clients, a server, all ways together. The last one alone knows of a network and
 * of the synchronizer, and joins in the DHT, which is in discovery_dht.c.
 */
#include "discovery.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define NEVER UINT64_MAX

/* ================================================================ what they share ================================ */

/* The caller's memory and chance, or the C library's and libsodium's; addresses; and how often something may happen. */

static void *env_default_resize(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    if (size == 0) {
        free(ptr);
        return NULL;
    }
    return realloc(ptr, size);
}

static void env_default_random(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    randombytes_buf(buf, len);
}

static void env_init(datsync_env *env, const datsync_env *given)
{
    memset(env, 0, sizeof *env);
    if (given)
        *env = *given;
    if (!env->resize)
        env->resize = env_default_resize;
    if (!env->random)
        env->random = env_default_random;
}

static void *env_zeroed(const datsync_env *env, size_t size)
{
    void *p = env->resize(env->ctx, NULL, size);
    if (p)
        memset(p, 0, size);
    return p;
}

/* An engine's own memory, with its env in front: the struct begins with it. */
static int env_engine(void *out_at, size_t size, const datsync_env *given)
{
    datsync_env env;
    void *engine;
    env_init(&env, given);
    if (sodium_init() < 0)
        return DATSYNC_E_RANDOM;
    engine = env_zeroed(&env, size);
    if (!engine)
        return DATSYNC_E_NOMEM;
    memcpy(engine, &env, sizeof env);
    memcpy(out_at, &engine, sizeof engine);
    return 0;
}

static void env_free(const datsync_env *env, void *ptr)
{
    datsync_env copy = *env; /* it may be what is freed */
    if (ptr)
        (void)copy.resize(copy.ctx, ptr, 0);
}

/* A number below `below`, which is small: that some are a little likelier does not matter here. */
static uint32_t env_below(const datsync_env *env, uint32_t below)
{
    uint32_t value;
    env->random(env->ctx, &value, sizeof value);
    return value % below;
}

/* Names are announced anew after 60 to 70 s, so that not all of a swarm speak at once. */
static uint64_t env_minute(const datsync_env *env)
{
    return 60000u + env_below(env, 10001);
}

static int ip_same_host(const datsync_ip *a, const datsync_ip *b)
{
    return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

static int ip_same(const datsync_ip *a, const datsync_ip *b)
{
    return a->port == b->port && ip_same_host(a, b);
}

static int ip_is_zero(const datsync_ip *ip)
{
    return sodium_is_zero(ip->bytes, ip->size);
}

/* How near an IPv4 address is: 0 nobody's or a group's, 1 this machine's, 2 a private network's, 3 public. */
static int ip_distance_4(const uint8_t b[4])
{
    if (b[0] == 0 || b[0] >= 224)
        return 0;
    if (b[0] == 127)
        return 1;
    if (b[0] == 10 || (b[0] == 172 && (b[1] & 0xf0) == 16) || (b[0] == 192 && b[1] == 168) ||
        (b[0] == 169 && b[1] == 254) || (b[0] == 100 && (b[1] & 0xc0) == 64))
        return 2;
    return 3;
}

static int ip_distance(const datsync_ip *ip)
{
    const uint8_t *b = ip->bytes;
    if (ip->size == 4)
        return ip_distance_4(b);
    if (sodium_is_zero(b, 10)) /* ::1; what stands for an IPv4 address must come as one */
        return sodium_is_zero(b, 15) && b[15] == 1;
    if (b[0] == 0xff)
        return 0;
    if ((b[0] & 0xfe) == 0xfc || (b[0] == 0xfe && (b[1] & 0xc0) == 0x80))
        return 2;
    return 3;
}

int datsync_ip_believable(const datsync_ip *peer, const datsync_ip *informant)
{
    int distance = ip_distance(peer);
    return distance > 0 && distance >= ip_distance(informant);
}

/* Something may happen every `cost` ms, and in a burst what would be due in `burst` ms: *whole is when the burst is
 * whole again. 1: now, and it is counted. */
static int rate_allows(uint64_t *whole, uint64_t now, uint64_t cost, uint64_t burst)
{
    if (*whole > now + burst)
        return 0;
    *whole = (*whole > now ? *whole : now) + cost;
    return 1;
}

static uint16_t get_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void put_u16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

/* ================================================================ packets of DNS ================================ */

/* A message is a header of 12 bytes with four counts, questions, and records in three parts. Reading goes item by item
 * and twice: parsing looks at each, so that whoever reads later meets no error. A count costs nothing, for each item
 * needs its bytes. Names may be compressed, which other programs do in the group: a pointer leads backwards from where
 * the last one led, and only so often, so that a name costs little. What is written has no compression. */

#define DNS_HEADER 12u
#define DNS_POINTERS 16u
/* The class IN; in the group the highest bit means something else, which does not matter here. */
#define DNS_CLASS 1u
#define DNS_CLASS_BITS 0x7fffu

static const uint8_t dns_domain[11] = "\3dat\5local";

/* A name from *at on, which goes behind it, as labels without compression. */
static int dns_name(const uint8_t *b, size_t len, size_t *at, uint8_t out[255], size_t *out_len)
{
    size_t from = *at, least = *at, n = 0, end = 0;
    for (unsigned pointers = 0, c = 1; c != 0;) {
        if (from >= len)
            return DATSYNC_E_MESSAGE;
        c = b[from];
        if (c >= 0xc0) {
            if (len - from < 2 || ++pointers > DNS_POINTERS)
                return DATSYNC_E_MESSAGE;
            end = end ? end : from + 2;
            from = (c & 63u) << 8 | b[from + 1];
            if (from < DNS_HEADER || from >= least)
                return DATSYNC_E_MESSAGE;
            least = from;
            continue;
        }
        if (c > 63 || c >= len - from || n + c >= 255)
            return DATSYNC_E_MESSAGE;
        memcpy(out + n, b + from, c + 1);
        n += c + 1;
        from += c + 1;
    }
    *at = end ? end : from;
    *out_len = n;
    return 0;
}

static int dns_digit(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Which enum datsync_dns_about a name is; of DATSYNC_DNS_NAME, which. */
static int dns_about(const uint8_t *domain, size_t len, uint8_t name[DATSYNC_NAME_BYTES])
{
    size_t at = 0;
    while (len - at > sizeof dns_domain)
        at += domain[at] + 1u;
    if (len - at != sizeof dns_domain || memcmp(domain + at, dns_domain, sizeof dns_domain) != 0)
        return DATSYNC_DNS_ELSEWHERE;
    if (at == 0)
        return DATSYNC_DNS_DOMAIN;
    if (domain[0] != 2 * DATSYNC_NAME_BYTES || at != 2 * DATSYNC_NAME_BYTES + 1)
        return DATSYNC_DNS_BELOW;
    for (size_t i = 0; i < DATSYNC_NAME_BYTES; i++) {
        int high = dns_digit(domain[1 + 2 * i]), low = dns_digit(domain[2 + 2 * i]);
        if (high < 0 || low < 0)
            return DATSYNC_DNS_BELOW;
        name[i] = (uint8_t)(high << 4 | low);
    }
    return DATSYNC_DNS_NAME;
}

/* A decimal of at most 65535, without a sign or needless zeros: 0, or an error. */
static int dns_number(datsync_bytes text, uint16_t *out)
{
    uint32_t value = 0;
    if (text.len == 0 || text.len > 5 || (text.data[0] == '0' && text.len > 1))
        return DATSYNC_E_MESSAGE;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return DATSYNC_E_MESSAGE;
        value = value * 10 + (uint32_t)(text.data[i] - '0');
    }
    *out = (uint16_t)value;
    return value > 65535 ? DATSYNC_E_MESSAGE : 0;
}

/* Eight characters of base64 are the six bytes of one peer. */
static int dns_peer(const uint8_t *text, datsync_ip *peer)
{
    uint8_t raw[6];
    size_t n;
    if (sodium_base642bin(raw, sizeof raw, (const char *)text, 8, NULL, &n, NULL, sodium_base64_VARIANT_ORIGINAL) < 0 ||
        n != sizeof raw)
        return DATSYNC_E_MESSAGE;
    memset(peer, 0, sizeof *peer);
    memcpy(peer->bytes, raw, 4);
    peer->size = 4;
    peer->port = get_u16(raw + 4);
    return 0;
}

static int dns_peers_valid(datsync_bytes text)
{
    datsync_ip peer;
    if (text.len % 8 != 0)
        return DATSYNC_E_MESSAGE;
    for (size_t i = 0; i < text.len; i += 8)
        if (dns_peer(text.data + i, &peer) < 0)
            return DATSYNC_E_MESSAGE;
    return 0;
}

static const struct {
    const char *key;
    uint32_t has;
} dns_keys[] = {
    {"subscribe", DATSYNC_DNS_SUBSCRIBE},
    {"token", DATSYNC_DNS_TOKEN},
    {"host", DATSYNC_DNS_HOST},
    {"port", DATSYNC_DNS_PORT},
    {"peers", DATSYNC_DNS_PEERS},
    {"announce", DATSYNC_DNS_ANNOUNCE},
    {"unannounce", DATSYNC_DNS_UNANNOUNCE},
};

/* Of a TXT record, one string: a key, `=`, a value. What it says goes into the item; an unknown key says nothing. */
static int dns_string(datsync_dns_item *item, const uint8_t *text, size_t len)
{
    const uint8_t *equals = memchr(text, '=', len);
    size_t key = equals ? (size_t)(equals - text) : len;
    datsync_bytes value = {text + key, 0};
    uint32_t has = 0;
    if (equals)
        value = (datsync_bytes){equals + 1, len - key - 1};
    for (size_t i = 0; i < sizeof dns_keys / sizeof *dns_keys; i++)
        if (strlen(dns_keys[i].key) == key && memcmp(dns_keys[i].key, text, key) == 0)
            has = dns_keys[i].has;
    item->has |= has;

    switch (has) {
    case DATSYNC_DNS_TOKEN:
        item->token = value;
        return 0;
    case DATSYNC_DNS_HOST:
        item->host = value;
        return 0;
    case DATSYNC_DNS_PORT:
        return dns_number(value, &item->port);
    case DATSYNC_DNS_PEERS:
        item->peers = value;
        return dns_peers_valid(value);
    case DATSYNC_DNS_ANNOUNCE:
        return dns_number(value, &item->announce);
    case DATSYNC_DNS_UNANNOUNCE:
        return dns_number(value, &item->unannounce);
    default:
        return 0;
    }
}

static int dns_strings(datsync_dns_item *item, const uint8_t *b, size_t len)
{
    for (size_t at = 0; at < len; at += b[at] + 1u) {
        if (b[at] >= len - at)
            return DATSYNC_E_MESSAGE;
        if (item->about != DATSYNC_DNS_ELSEWHERE && dns_string(item, b + at + 1, b[at]) < 0)
            return DATSYNC_E_MESSAGE;
    }
    return 0;
}

/* Four decimals, each up to its end or the next dot: 0, or an error. */
static int dns_dotted(datsync_bytes text, uint8_t out[4])
{
    for (int i = 0; i < 4; i++) {
        const uint8_t *dot = text.len ? memchr(text.data, '.', text.len) : NULL;
        datsync_bytes part = {text.data, dot ? (size_t)(dot - text.data) : text.len};
        uint16_t value;
        if ((dot == NULL) != (i == 3) || dns_number(part, &value) < 0 || value > 255)
            return DATSYNC_E_MESSAGE;
        out[i] = (uint8_t)value;
        if (dot)
            text = (datsync_bytes){dot + 1, text.len - part.len - 1};
    }
    return 0;
}

/* The target of an SRV record: an address, with its decimals as labels, or a name of which nobody here makes
 * anything. */
static int dns_target(datsync_dns_item *item, const uint8_t *b, size_t at, size_t end)
{
    uint8_t domain[255];
    size_t len;
    if (end - at < 7)
        return DATSYNC_E_MESSAGE;
    item->target.port = get_u16(b + at + 4);
    at += 6;
    if (dns_name(b, end, &at, domain, &len) < 0 || at != end)
        return DATSYNC_E_MESSAGE;
    for (size_t i = 0, next; domain[i]; i = next) {
        next = i + domain[i] + 1u;
        domain[i] = '.';
    }
    if (len > 2 && dns_dotted((datsync_bytes){domain + 1, len - 2}, item->target.bytes) == 0)
        item->target.size = 4;
    return 0;
}

static int dns_data(datsync_dns_item *item, const uint8_t *b, size_t at, size_t end)
{
    switch (item->type) {
    case DATSYNC_DNS_TXT:
        return dns_strings(item, b + at, end - at);
    case DATSYNC_DNS_SRV:
        return dns_target(item, b, at, end);
    case DATSYNC_DNS_A:
        if (end - at != 4)
            return DATSYNC_E_MESSAGE;
        memcpy(item->target.bytes, b + at, 4);
        item->target.size = 4;
        return 0;
    default:
        return 0;
    }
}

/* One question or record from *at on, which goes behind it. */
static int dns_item(datsync_dns_item *item, const uint8_t *b, size_t len, size_t *at, int part)
{
    size_t size;
    memset(item, 0, sizeof *item);
    item->part = part;
    if (dns_name(b, len, at, item->domain, &item->domain_len) < 0 || len - *at < 4)
        return DATSYNC_E_MESSAGE;
    item->type = get_u16(b + *at);
    item->cls = get_u16(b + *at + 2);
    item->about = dns_about(item->domain, item->domain_len, item->name);
    if ((item->cls & DNS_CLASS_BITS) != DNS_CLASS)
        item->about = DATSYNC_DNS_ELSEWHERE;
    *at += 4;
    if (part == DATSYNC_DNS_QUESTION)
        return 0;

    if (len - *at < 6)
        return DATSYNC_E_MESSAGE;
    item->ttl = (uint32_t)get_u16(b + *at) << 16 | get_u16(b + *at + 2);
    size = get_u16(b + *at + 4);
    *at += 6;
    if (size > len - *at || dns_data(item, b, *at, *at + size) < 0)
        return DATSYNC_E_MESSAGE;
    *at += size;
    return 0;
}

/* As datsync_dns_next, of a message that is not known to be one. */
static int dns_next(const datsync_dns *m, datsync_dns_cursor *cursor, datsync_dns_item *item)
{
    uint32_t before = 0;
    int part = 0;
    if (cursor->index == 0)
        cursor->at = DNS_HEADER;
    while (part < 4 && cursor->index >= before + m->counts[part])
        before += m->counts[part++];
    if (part == 4)
        return 0;
    cursor->index++;
    return dns_item(item, m->bytes, m->len, &cursor->at, part) < 0 ? DATSYNC_E_MESSAGE : 1;
}

int datsync_dns_parse(datsync_dns *m, const void *bytes, size_t len)
{
    datsync_dns_cursor cursor = {DNS_HEADER, 0};
    datsync_dns_item item;
    const uint8_t *b = bytes;
    int more;
    memset(m, 0, sizeof *m);
    if (len < DNS_HEADER)
        return DATSYNC_E_MESSAGE;
    m->id = get_u16(b);
    m->flags = get_u16(b + 2);
    for (size_t i = 0; i < 4; i++)
        m->counts[i] = get_u16(b + 4 + 2 * i);
    m->bytes = b;
    m->len = len;
    while ((more = dns_next(m, &cursor, &item)) > 0)
        ;
    return more < 0 || cursor.at != len ? DATSYNC_E_MESSAGE : 0;
}

int datsync_dns_next(const datsync_dns *m, datsync_dns_cursor *cursor, datsync_dns_item *item)
{
    return dns_next(m, cursor, item) > 0;
}

int datsync_dns_peer(const datsync_dns_item *item, size_t index, datsync_ip *peer)
{
    if (item->type == DATSYNC_DNS_SRV && item->target.size && index == 0) {
        *peer = item->target;
        return 1;
    }
    return item->type == DATSYNC_DNS_TXT && index < item->peers.len / 8 &&
           dns_peer(item->peers.data + 8 * index, peer) == 0;
}

/* Where a message is written. `error` is the first that happened. */
typedef struct dns_out {
    uint8_t *bytes;
    size_t len, cap;
    int error;
} dns_out;

static void dns_put(dns_out *out, const void *bytes, size_t len)
{
    if (!out->error && len > out->cap - out->len)
        out->error = DATSYNC_E_SPACE;
    if (out->error || len == 0)
        return;
    memcpy(out->bytes + out->len, bytes, len);
    out->len += len;
}

static void dns_put_number(dns_out *out, unsigned value)
{
    uint8_t b[2];
    put_u16(b, value);
    dns_put(out, b, 2);
}

static void dns_put_string(dns_out *out, const char *key, const void *value, size_t len)
{
    uint8_t size = (uint8_t)(strlen(key) + len);
    if (strlen(key) + len > 255)
        out->error = DATSYNC_E_TOO_BIG;
    dns_put(out, &size, 1);
    dns_put(out, key, strlen(key));
    dns_put(out, value, len);
}

/* The decimal's characters, up to five. */
static size_t dns_decimal(unsigned value, char text[5])
{
    size_t n = 0;
    for (unsigned unit = 10000; unit; unit /= 10)
        if (value >= unit || unit == 1)
            text[n++] = (char)('0' + value / unit % 10);
    return n;
}

static void dns_put_port(dns_out *out, const char *key, unsigned port)
{
    char text[5];
    dns_put_string(out, key, text, dns_decimal(port, text));
}

static void dns_put_peers(dns_out *out, const datsync_ip *list, size_t count)
{
    uint8_t raw[6 * DATSYNC_DNS_MAX_PEERS];
    char text[8 * DATSYNC_DNS_MAX_PEERS + 1];
    if (count > DATSYNC_DNS_MAX_PEERS) {
        out->error = DATSYNC_E_TOO_BIG;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (list[i].size != 4 || !list[i].port)
            out->error = DATSYNC_E_INVALID; /* port 0 kills a deployed peer that speaks uTP */
        memcpy(raw + 6 * i, list[i].bytes, 4);
        put_u16(raw + 6 * i + 4, list[i].port);
    }
    (void)sodium_bin2base64(text, sizeof text, raw, 6 * count, sodium_base64_VARIANT_ORIGINAL);
    dns_put_string(out, "peers=", text, 8 * count);
}

/* In the order in which the deployed ones write them. */
static void dns_put_strings(dns_out *out, const datsync_dns_item *item)
{
    if (item->has & DATSYNC_DNS_SUBSCRIBE)
        dns_put_string(out, "subscribe=", "true", 4);
    if (item->has & DATSYNC_DNS_TOKEN)
        dns_put_string(out, "token=", item->token.data, item->token.len);
    if (item->has & DATSYNC_DNS_HOST)
        dns_put_string(out, "host=", item->host.data, item->host.len);
    if (item->has & DATSYNC_DNS_PORT)
        dns_put_port(out, "port=", item->port);
    if (item->list_count)
        dns_put_peers(out, item->list, item->list_count);
    if (item->has & DATSYNC_DNS_ANNOUNCE)
        dns_put_port(out, "announce=", item->announce);
    if (item->has & DATSYNC_DNS_UNANNOUNCE)
        dns_put_port(out, "unannounce=", item->unannounce);
}

static void dns_put_target(dns_out *out, const datsync_ip *target)
{
    uint8_t size;
    char text[5];
    dns_put(out, "\0\0\0", 4); /* priority and weight */
    dns_put_number(out, target->port);
    for (int i = 0; i < 4; i++) {
        size = (uint8_t)dns_decimal(target->bytes[i], text);
        dns_put(out, &size, 1);
        dns_put(out, text, size);
    }
    dns_put(out, "", 1);
}

static void dns_put_domain(dns_out *out, const datsync_dns_item *item)
{
    char digits[1 + 2 * DATSYNC_NAME_BYTES + 1] = {2 * DATSYNC_NAME_BYTES};
    if (item->about == DATSYNC_DNS_NAME) {
        (void)sodium_bin2hex(digits + 1, sizeof digits - 1, item->name, DATSYNC_NAME_BYTES);
        dns_put(out, digits, sizeof digits - 1);
    }
    if (item->about == DATSYNC_DNS_NAME || item->about == DATSYNC_DNS_DOMAIN)
        dns_put(out, dns_domain, sizeof dns_domain);
    else
        dns_put(out, item->domain, item->domain_len);
}

static void dns_put_item(dns_out *out, const datsync_dns_item *item)
{
    size_t size_at;
    dns_put_domain(out, item);
    dns_put_number(out, item->type);
    dns_put_number(out, item->cls ? item->cls : DNS_CLASS);
    if (item->part == DATSYNC_DNS_QUESTION)
        return;

    dns_put_number(out, item->ttl >> 16);
    dns_put_number(out, item->ttl & 0xffff);
    size_at = out->len;
    dns_put_number(out, 0);
    if (item->type == DATSYNC_DNS_TXT)
        dns_put_strings(out, item);
    else if (item->type == DATSYNC_DNS_SRV && item->target.size == 4)
        dns_put_target(out, &item->target);
    else if (item->type == DATSYNC_DNS_A && item->target.size == 4)
        dns_put(out, item->target.bytes, 4);
    else
        out->error = DATSYNC_E_INVALID;
    if (!out->error)
        put_u16(out->bytes + size_at, (unsigned)(out->len - size_at - 2));
}

int datsync_dns_write(void *bytes, size_t cap, uint16_t id, uint16_t flags, const datsync_dns_item *items, size_t count)
{
    dns_out out = {bytes, 0, cap < 65535 ? cap : 65535, 0};
    unsigned counts[4] = {0, 0, 0, 0};
    for (size_t i = 0; i < count; i++) {
        if (items[i].part < 0 || items[i].part > 3 || (i > 0 && items[i].part < items[i - 1].part))
            return DATSYNC_E_INVALID;
        counts[items[i].part]++;
    }
    dns_put_number(&out, id);
    dns_put_number(&out, flags);
    for (int i = 0; i < 4; i++)
        dns_put_number(&out, counts[i]);
    for (size_t i = 0; i < count; i++)
        dns_put_item(&out, items + i);
    return out.error ? out.error : (int)out.len;
}

/* An item about a name, or of dat.local itself (NULL), with nothing said. */
static datsync_dns_item *dns_begin(datsync_dns_item *item, int part, int type, const uint8_t *name)
{
    memset(item, 0, sizeof *item);
    item->part = part;
    item->type = (uint16_t)type;
    item->about = name ? DATSYNC_DNS_NAME : DATSYNC_DNS_DOMAIN;
    if (name)
        memcpy(item->name, name, DATSYNC_NAME_BYTES);
    return item;
}

/* Write a message and send it. Those who call keep to what fits a datagram. */
static void dns_send(const datsync_way *way, const datsync_ip *to, unsigned id, unsigned flags,
                     const datsync_dns_item *items, size_t count)
{
    uint8_t bytes[DATSYNC_MAX_DATAGRAM];
    int len = datsync_dns_write(bytes, sizeof bytes, (uint16_t)id, (uint16_t)flags, items, count);
    if (len > 0)
        way->send(way->ctx, to, bytes, (size_t)len);
}

/* ================================================================ multicast DNS ================================= */

/* A question for each name goes to the group on each interface: at the start, after 1, 3 and 7 s for what was lost,
 * then each minute. Who announces a name answers to the group, and tells of it unasked with each question of its own:
 * the deployed peer asks on one interface alone, and hears on all. What is heard is taken from anybody, asked or not.
 *
 * A link is one family on one interface. Answers on it are limited; those over the rate are owed, a bit for each name,
 * and paid in turn as soon as the rate allows: as all hear an answer, one is enough for all who asked. */

#define MDNS_LINKS 128u
/* Addresses of this host that are known as its own. */
#define MDNS_ADDRESSES 256u
/* On each link 40 answers a second, and as many at once. */
#define MDNS_ANSWER_MS 25u
#define MDNS_BURST_MS 1000u
/* How long a first answer is waited for, and our own question may be on its way back to us. */
#define MDNS_PATIENCE_MS 1000u
/* Questions after 1, 2 and 4 s more, then each minute. */
#define MDNS_QUICK 3u

typedef struct mdns_link {
    uint32_t via;
    uint8_t size, gone; /* of the family's addresses */
    uint64_t whole;     /* the rate of answers */
    uint8_t owed[(DATSYNC_MAX_NAMES + 7) / 8];
    size_t turn; /* the name that is paid first */
} mdns_link;

typedef struct mdns_name {
    uint8_t name[DATSYNC_NAME_BYTES];
    uint16_t port; /* 0: nothing is announced */
    uint8_t answered, rounds;
    uint16_t echoes; /* own questions that come back from the group, each once */
    uint64_t began, asked, next;
} mdns_name;

struct datsync_mdns {
    datsync_env env;
    datsync_way way;
    mdns_link links[MDNS_LINKS];
    size_t link_count;
    datsync_interface own[MDNS_ADDRESSES]; /* this host's addresses, with their networks */
    size_t own_count;
    mdns_name names[DATSYNC_MAX_NAMES];
    size_t count;
};

void datsync_mdns_group(datsync_ip *group, int size, uint32_t via)
{
    static const uint8_t four[4] = {224, 0, 0, 251}, six[16] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb};
    memset(group, 0, sizeof *group);
    memcpy(group->bytes, size == 16 ? six : four, size == 16 ? 16 : 4);
    group->size = size == 16 ? 16 : 4;
    group->port = DATSYNC_MDNS_PORT;
    group->via = via;
}

int datsync_mdns_new(datsync_mdns **out, const datsync_env *env, const datsync_way *way)
{
    datsync_mdns *m;
    int error = env_engine(&m, sizeof *m, env);
    if (error < 0)
        return error;
    m->way = *way;
    *out = m;
    return 0;
}

void datsync_mdns_free(datsync_mdns *m)
{
    if (m)
        env_free(&m->env, m);
}

static mdns_name *mdns_find(const datsync_mdns *m, const uint8_t *name)
{
    for (size_t i = 0; i < m->count; i++)
        if (memcmp(m->names[i].name, name, DATSYNC_NAME_BYTES) == 0)
            return (mdns_name *)m->names + i;
    return NULL;
}

/* The link by which a datagram came; where the system can't tell, the first of its family. */
static mdns_link *mdns_link_of(datsync_mdns *m, const datsync_ip *from)
{
    for (size_t i = 0; i < m->link_count; i++)
        if (m->links[i].size == from->size && (m->links[i].via == from->via || !from->via))
            return m->links + i;
    return NULL;
}

static void mdns_ask(datsync_mdns *m, const mdns_link *l, mdns_name *n, uint64_t now)
{
    datsync_dns_item item;
    datsync_ip group;
    datsync_mdns_group(&group, l->size, l->via);
    n->echoes = (uint16_t)(now - n->asked < MDNS_PATIENCE_MS ? n->echoes + 1 : 1);
    n->asked = now;
    dns_send(&m->way, &group, 0, 0, dns_begin(&item, DATSYNC_DNS_QUESTION, DATSYNC_DNS_TXT, n->name), 1);
}

static int mdns_owes(const mdns_link *l)
{
    return !sodium_is_zero(l->owed, sizeof l->owed);
}

/* Tell the group on a link, at the port of who asked, that this host serves the name. */
static void mdns_say(const datsync_mdns *m, const mdns_link *l, const mdns_name *n, uint16_t port)
{
    datsync_dns_item items[2];
    datsync_ip group, self;
    memset(&self, 0, sizeof self);
    self.size = 4; /* 0.0.0.0: whoever sends this */
    self.port = n->port;
    datsync_mdns_group(&group, l->size, l->via);
    group.port = port;
    dns_begin(items, DATSYNC_DNS_QUESTION, DATSYNC_DNS_TXT, n->name);
    dns_begin(items + 1, DATSYNC_DNS_ANSWER, DATSYNC_DNS_TXT, n->name);
    items[1].list = &self;
    items[1].list_count = 1;
    dns_send(&m->way, &group, 0, DATSYNC_DNS_FLAGS_GROUP, items, 2);
}

/* The same, or owe it: where others are owed, it waits its turn. */
static void mdns_tell(datsync_mdns *m, mdns_link *l, const mdns_name *n, uint16_t port, uint64_t now)
{
    size_t bit = (size_t)(n - m->names);
    if (!mdns_owes(l) && rate_allows(&l->whole, now, MDNS_ANSWER_MS, MDNS_BURST_MS))
        mdns_say(m, l, n, port);
    else if (port == DATSYNC_MDNS_PORT)
        l->owed[bit / 8] |= (uint8_t)(1u << bit % 8);
}

static void mdns_ask_and_tell(datsync_mdns *m, mdns_link *l, mdns_name *n, uint64_t now)
{
    mdns_ask(m, l, n, now);
    if (n->port)
        mdns_tell(m, l, n, DATSYNC_MDNS_PORT, now);
}

static void mdns_round(datsync_mdns *m, mdns_name *n, uint64_t now)
{
    n->next = now + (n->rounds < MDNS_QUICK ? (uint64_t)1000 << n->rounds : env_minute(&m->env));
    if (n->rounds < MDNS_QUICK)
        n->rounds++;
    for (size_t i = 0; i < m->link_count; i++)
        mdns_ask_and_tell(m, m->links + i, n, now);
}

int datsync_mdns_add(datsync_mdns *m, const uint8_t name[DATSYNC_NAME_BYTES], uint16_t port, uint64_t now)
{
    mdns_name *n = mdns_find(m, name);
    if (n && n->port == port)
        return 0;
    if (!n && m->count == DATSYNC_MAX_NAMES)
        return DATSYNC_E_TOO_BIG;
    if (!n) {
        n = m->names + m->count++;
        memset(n, 0, sizeof *n);
        memcpy(n->name, name, DATSYNC_NAME_BYTES);
        n->began = now;
    }
    n->port = port;
    n->rounds = 0;
    mdns_round(m, n, now);
    return 0;
}

/* The last one takes its place, with what is owed of it. */
int datsync_mdns_remove(datsync_mdns *m, const uint8_t name[DATSYNC_NAME_BYTES])
{
    mdns_name *n = mdns_find(m, name);
    size_t to, from = m->count - 1;
    if (!n)
        return DATSYNC_E_NOT_FOUND;
    to = (size_t)(n - m->names);
    for (size_t i = 0; i < m->link_count; i++) {
        uint8_t *owed = m->links[i].owed;
        unsigned bit = owed[from / 8] >> from % 8 & 1;
        owed[from / 8] &= (uint8_t) ~(1u << from % 8);
        if (to != from)
            owed[to / 8] = (uint8_t)((owed[to / 8] & ~(1u << to % 8)) | bit << to % 8);
    }
    m->names[to] = m->names[from];
    m->count--;
    return 0;
}

/* Keep, or make, the link of one address; it hears of all names if it is new. */
static void mdns_link_up(datsync_mdns *m, const datsync_ip *ip, uint64_t now)
{
    for (size_t i = 0; i < m->link_count; i++) {
        if (m->links[i].size == ip->size && m->links[i].via == ip->via) {
            m->links[i].gone = 0;
            return;
        }
    }
    if (m->link_count == MDNS_LINKS)
        return;
    mdns_link *l = m->links + m->link_count++;
    memset(l, 0, sizeof *l);
    l->via = ip->via;
    l->size = ip->size;
    for (size_t i = 0; i < m->count; i++)
        mdns_ask_and_tell(m, l, m->names + i, now);
}

void datsync_mdns_interfaces(datsync_mdns *m, const datsync_interface *list, size_t count, uint64_t now)
{
    size_t kept = 0;
    int loopback = 1;
    m->own_count = 0;
    for (size_t i = 0; i < count; i++) {
        if (m->own_count < MDNS_ADDRESSES)
            m->own[m->own_count++] = list[i];
        if (list[i].multicast && !list[i].loopback)
            loopback = 0;
    }
    for (size_t i = 0; i < m->link_count; i++)
        m->links[i].gone = 1;
    for (size_t i = 0; i < count; i++)
        if (loopback ? list[i].loopback : list[i].multicast && !list[i].loopback)
            mdns_link_up(m, &list[i].ip, now);
    for (size_t i = 0; i < m->link_count; i++)
        if (!m->links[i].gone)
            m->links[kept++] = m->links[i];
    m->link_count = kept;
}

static int mdns_is_own(const datsync_mdns *m, const datsync_ip *ip)
{
    for (size_t i = 0; i < m->own_count; i++)
        if (ip_same_host(&m->own[i].ip, ip))
            return 1;
    return ip_distance(ip) == 1;
}

static int ip_in_network(const datsync_ip *ip, const datsync_interface *network)
{
    unsigned bits = network->prefix, whole = bits / 8;
    if (ip->size != network->ip.size || bits > 8u * ip->size || memcmp(ip->bytes, network->ip.bytes, whole) != 0)
        return 0;
    return bits % 8 == 0 || ((ip->bytes[whole] ^ network->ip.bytes[whole]) >> (8 - bits % 8)) == 0;
}

/* The port is open to anybody who can send to this host, and the group to the local network alone: what comes from
 * further away is no neighbour's (RFC 6762, 11). */
static int mdns_is_near(const datsync_mdns *m, const datsync_ip *from)
{
    if (from->size == 16 && from->bytes[0] == 0xfe && (from->bytes[1] & 0xc0) == 0x80)
        return 1;
    for (size_t i = 0; i < m->own_count; i++)
        if (ip_in_network(from, &m->own[i]))
            return 1;
    return mdns_is_own(m, from);
}

/* Somebody serves a name. Own answers come back from the group: an address of this host with a port that is announced
 * here is no peer; another process's port is one. */
static void mdns_heard(datsync_mdns *m, mdns_name *n, const datsync_ip *told, const datsync_ip *from)
{
    datsync_ip peer = *told;
    if (ip_is_zero(&peer)) {
        peer = *from;
        peer.port = told->port;
    }
    if (!peer.port || !datsync_ip_believable(&peer, from))
        return;
    if (mdns_is_own(m, &peer))
        for (size_t i = 0; i < m->count; i++)
            if (m->names[i].port == peer.port)
                return;
    n->answered = 1;
    m->way.found(m->way.ctx, n->name, &peer, from);
}

/* Somebody asks. An own question that comes back is not answered; but the like of another process here is. */
static void mdns_asked(datsync_mdns *m, mdns_name *n, const datsync_ip *from, uint64_t now)
{
    mdns_link *l = mdns_link_of(m, from);
    if (n->echoes && now - n->asked < MDNS_PATIENCE_MS && from->port == DATSYNC_MDNS_PORT && mdns_is_own(m, from)) {
        n->echoes--;
        return;
    }
    if (n->port && from->port && l)
        mdns_tell(m, l, n, from->port, now);
}

int datsync_mdns_datagram(datsync_mdns *m, const void *bytes, size_t len, const datsync_ip *from, uint64_t now)
{
    datsync_dns_cursor cursor = {0, 0};
    datsync_dns_item item;
    datsync_dns message;
    datsync_ip peer;
    int question;
    if (!mdns_is_near(m, from))
        return 0;
    if (datsync_dns_parse(&message, bytes, len) < 0)
        return DATSYNC_E_MESSAGE;
    question = !(message.flags & DATSYNC_DNS_FLAGS_ANSWER);
    while (datsync_dns_next(&message, &cursor, &item)) {
        mdns_name *n = item.about == DATSYNC_DNS_NAME ? mdns_find(m, item.name) : NULL;
        if (!n || question != (item.part == DATSYNC_DNS_QUESTION))
            continue;
        if (question && item.type == DATSYNC_DNS_TXT)
            mdns_asked(m, n, from, now);
        for (size_t i = 0; !question && datsync_dns_peer(&item, i, &peer); i++)
            mdns_heard(m, n, &peer, from);
    }
    return 0;
}

static uint64_t mdns_pays_at(const mdns_link *l)
{
    return !mdns_owes(l) ? NEVER : l->whole > MDNS_BURST_MS ? l->whole - MDNS_BURST_MS : 0;
}

static void mdns_pay(datsync_mdns *m, mdns_link *l, uint64_t now)
{
    while (mdns_owes(l)) {
        size_t n = l->turn;
        uint8_t bit = (uint8_t)(1u << n % 8);
        if ((l->owed[n / 8] & bit) && m->names[n].port) {
            if (!rate_allows(&l->whole, now, MDNS_ANSWER_MS, MDNS_BURST_MS))
                return;
            mdns_say(m, l, m->names + n, DATSYNC_MDNS_PORT);
        }
        l->owed[n / 8] &= (uint8_t)~bit;
        l->turn = (n + 1) % DATSYNC_MAX_NAMES;
    }
}

uint64_t datsync_mdns_deadline(const datsync_mdns *m)
{
    uint64_t first = NEVER;
    for (size_t i = 0; i < m->count; i++)
        if (m->names[i].next < first)
            first = m->names[i].next;
    for (size_t i = 0; i < m->link_count; i++)
        if (mdns_pays_at(m->links + i) < first)
            first = mdns_pays_at(m->links + i);
    return first;
}

void datsync_mdns_step(datsync_mdns *m, uint64_t now)
{
    for (size_t i = 0; i < m->link_count; i++)
        mdns_pay(m, m->links + i, now);
    for (size_t i = 0; i < m->count; i++)
        if (m->names[i].next <= now)
            mdns_round(m, m->names + i, now);
}

int datsync_mdns_answered(const datsync_mdns *m, const uint8_t name[DATSYNC_NAME_BYTES], uint64_t now)
{
    const mdns_name *n = mdns_find(m, name);
    if (!n)
        return DATSYNC_E_NOT_FOUND;
    return n->answered || now - n->began >= MDNS_PATIENCE_MS;
}

/* ================================================================ discovery servers ============================= */

/* A server is probed at one of its places (an address and a port) after the other until one gives a token; then each
 * name is asked there, and announced in the same question, anew each minute. A question is sent until it is answered,
 * up to four times; when it was not at all, the server is probed again, from the place that answered. A token that
 * changes means that the last announcement may not have counted: it is made once more at once.
 *
 * An ask is one question on its way, or the time of the next. Answers are taken from the place that was asked, with
 * the id of an ask on its way, and about its name; pushes from that place too. Of what it tells, port 0 and what is
 * oneself are left out. */

#define CLIENT_PLACES (2u * DATSYNC_MAX_DNS_ADDRESSES)
/* Pushes come up to three times, within 1.5 s: so many are remembered, for so long. */
#define CLIENT_PUSHES 64u
#define CLIENT_PUSH_MS 10000u
/* A server that is silent is asked again after 5 s, twice that and so on, up to 80 s. */
#define CLIENT_SILENT_MS 5000u
#define CLIENT_SILENT_DOUBLINGS 4u

/* Milliseconds after the first time at which it is sent again; at the last, it has failed. */
static const uint16_t client_probe_at[] = {500, 1500, 1750}, client_ask_at[] = {500, 1500, 3500, 7750};

typedef struct client_ask {
    uint16_t id;
    uint8_t sends;  /* of the question on its way; 0: there is none */
    uint8_t known;  /* the server may have the announcement */
    uint8_t heard;  /* it has answered */
    uint8_t hurry;  /* asked again at once, for the token was another */
    uint32_t token; /* which it was */
    uint64_t begun; /* when it was sent first */
    uint64_t due;   /* when it is sent, again, or has failed */
} client_ask;

typedef struct client_name {
    uint8_t name[DATSYNC_NAME_BYTES];
    uint16_t port; /* 0: nothing is announced */
    uint8_t leaving;
    client_ask asks[DATSYNC_MAX_DNS_SERVERS];
} client_name;

typedef struct client_server {
    datsync_ip places[CLIENT_PLACES];
    size_t count, at, tried; /* which is asked, and how many were in vain since one answered */
    client_ask probe;
    uint8_t token[DATSYNC_DNS_MAX_TOKEN];
    size_t token_len;
    uint32_t token_number;
    unsigned silences;
    int junk; /* what answered at this place gave no token */
    datsync_dns_status status;
    struct {
        uint16_t id;
        uint64_t until;
    } pushes[CLIENT_PUSHES];
    size_t next_push;
} client_server;

struct datsync_dns_client {
    datsync_env env;
    datsync_way way;
    uint16_t next_id;
    client_server servers[DATSYNC_MAX_DNS_SERVERS];
    size_t server_count;
    client_name names[DATSYNC_MAX_NAMES];
    size_t count;
};

int datsync_dns_client_new(datsync_dns_client **out, const datsync_env *env, const datsync_way *way)
{
    datsync_dns_client *c;
    int error = env_engine(&c, sizeof *c, env);
    if (error < 0)
        return error;
    c->way = *way;
    c->env.random(c->env.ctx, &c->next_id, sizeof c->next_id);
    *out = c;
    return 0;
}

void datsync_dns_client_free(datsync_dns_client *c)
{
    if (c)
        env_free(&c->env, c);
}

/* Ids count up. A few are left out that libutp, on the same socket, would take for its own: type and version, then one
 * of its first extensions. */
static uint16_t client_id(datsync_dns_client *c)
{
    uint16_t id = c->next_id;
    while ((id & 0x0fff) >= 0x100 && (id & 0x0fff) <= 0x102 && id >> 12 <= 4)
        id++;
    c->next_id = (uint16_t)(id + 1);
    return id;
}

/* Count one sending of an ask; the first gives it an id. The times are those of its kind. 0: it has failed. */
static int client_sends(datsync_dns_client *c, client_ask *ask, const uint16_t *times, unsigned count, uint64_t now)
{
    if (ask->sends == 0) {
        ask->id = client_id(c);
        ask->begun = now;
    }
    if (ask->sends == count)
        return 0;
    ask->due = ask->begun + times[ask->sends++];
    return 1;
}

static void client_set_aside(client_ask *ask, uint64_t until)
{
    ask->sends = 0;
    ask->due = until;
}

/* What leaves is gone as soon as no server has to be told. */
static void client_sweep(datsync_dns_client *c)
{
    for (size_t i = 0; i < c->count;) {
        client_name *n = c->names + i++;
        uint64_t first = NEVER;
        for (size_t k = 0; k < c->server_count; k++)
            first = n->asks[k].due < first ? n->asks[k].due : first;
        if (n->leaving && first == NEVER) {
            *n = c->names[--c->count];
            i--;
        }
    }
}

/* When a server gives its token, all names are due; when it is asked for one, none is. */
static void client_names_due(datsync_dns_client *c, size_t server, uint64_t when)
{
    for (size_t i = 0; i < c->count; i++) {
        client_ask *ask = c->names[i].asks + server;
        client_set_aside(ask, c->names[i].leaving ? NEVER : when);
    }
    client_sweep(c);
}

static void client_probe(datsync_dns_client *c, size_t server, uint64_t now)
{
    client_server *s = c->servers + server;
    datsync_dns_item item;
    if (client_sends(c, &s->probe, client_probe_at, 3, now)) {
        dns_send(&c->way, s->places + s->at, s->probe.id, DATSYNC_DNS_FLAGS_QUERY,
                 dns_begin(&item, DATSYNC_DNS_QUESTION, DATSYNC_DNS_TXT, NULL), 1);
        return;
    }

    s->status.error = s->junk ? DATSYNC_E_MESSAGE : DATSYNC_E_TIMEOUT;
    s->junk = 0;
    s->at = (s->at + 1) % s->count;
    client_set_aside(&s->probe, now);
    if (++s->tried < s->count) {
        client_probe(c, server, now);
        return;
    }
    s->tried = 0;
    s->status.state = DATSYNC_DNS_SILENT;
    s->probe.due = now + ((uint64_t)CLIENT_SILENT_MS << s->silences) + env_below(&c->env, 1000);
    if (s->silences < CLIENT_SILENT_DOUBLINGS)
        s->silences++;
    for (size_t i = 0; i < c->count; i++)
        c->names[i].asks[server].heard = 1; /* in its way */
}

/* A name is asked at one server. */
static void client_question(datsync_dns_client *c, client_name *n, size_t server, uint64_t now)
{
    client_server *s = c->servers + server;
    client_ask *ask = n->asks + server;
    datsync_dns_item items[2];
    if (!client_sends(c, ask, client_ask_at, 4, now)) {
        s->status.error = DATSYNC_E_TIMEOUT;
        s->status.state = DATSYNC_DNS_ASKED;
        client_names_due(c, server, NEVER); /* n may be gone now */
        client_set_aside(&s->probe, now);
        client_probe(c, server, now);
        return;
    }
    dns_begin(items, DATSYNC_DNS_QUESTION, DATSYNC_DNS_TXT, n->name);
    dns_begin(items + 1, DATSYNC_DNS_ADDITIONAL, DATSYNC_DNS_TXT, n->name);
    items[1].has = DATSYNC_DNS_TOKEN;
    items[1].token = (datsync_bytes){s->token, s->token_len};
    items[1].announce = items[1].unannounce = n->port;
    if (n->leaving)
        items[1].has |= DATSYNC_DNS_UNANNOUNCE;
    else
        items[1].has |= DATSYNC_DNS_SUBSCRIBE | (n->port ? DATSYNC_DNS_ANNOUNCE : 0);
    ask->known = !n->leaving && n->port;
    ask->token = s->token_number;
    dns_send(&c->way, s->places + s->at, ask->id, DATSYNC_DNS_FLAGS_QUERY, items, 2);
}

int datsync_dns_client_server(datsync_dns_client *c, const datsync_ip *addresses, size_t count, uint64_t now)
{
    client_server *s = c->servers + c->server_count;
    if (count == 0)
        return DATSYNC_E_INVALID;
    if (c->server_count == DATSYNC_MAX_DNS_SERVERS || count > DATSYNC_MAX_DNS_ADDRESSES)
        return DATSYNC_E_TOO_BIG;
    for (unsigned round = 0; round < 2; round++) {
        for (size_t i = 0; i < count; i++) {
            datsync_ip place = addresses[i];
            if (place.port && round > 0)
                continue;
            if (!place.port)
                place.port = round > 0 ? DATSYNC_DNS_OTHER_PORT : DATSYNC_DNS_SERVER_PORT;
            s->places[s->count++] = place;
        }
    }
    for (size_t i = 0; i < c->count; i++)
        client_set_aside(c->names[i].asks + c->server_count, NEVER);
    c->server_count++;
    client_probe(c, c->server_count - 1, now);
    return (int)c->server_count - 1;
}

static client_name *client_find(const datsync_dns_client *c, const uint8_t *name)
{
    for (size_t i = 0; i < c->count; i++)
        if (memcmp(c->names[i].name, name, DATSYNC_NAME_BYTES) == 0)
            return (client_name *)c->names + i;
    return NULL;
}

static int client_answers(const datsync_dns_client *c, size_t server)
{
    return c->servers[server].status.state == DATSYNC_DNS_ANSWERS;
}

int datsync_dns_client_add(datsync_dns_client *c, const uint8_t name[DATSYNC_NAME_BYTES], uint16_t port, uint64_t now)
{
    client_name *n = client_find(c, name);
    if (n && n->port == port && !n->leaving)
        return 0;
    if (!n && c->count == DATSYNC_MAX_NAMES)
        return DATSYNC_E_TOO_BIG;
    if (!n) {
        n = c->names + c->count++;
        memset(n, 0, sizeof *n);
        memcpy(n->name, name, DATSYNC_NAME_BYTES);
    }
    n->port = port;
    n->leaving = 0;
    for (size_t i = 0; i < c->server_count; i++) {
        client_set_aside(n->asks + i, client_answers(c, i) ? now : NEVER);
        if (client_answers(c, i))
            client_question(c, n, i, now);
    }
    return 0;
}

static void client_leave(datsync_dns_client *c, client_name *n, uint64_t now)
{
    if (n->leaving)
        return;
    n->leaving = 1;
    for (size_t i = 0; i < c->server_count; i++) {
        int tell = n->asks[i].known && client_answers(c, i);
        client_set_aside(n->asks + i, tell ? now : NEVER);
        if (tell)
            client_question(c, n, i, now);
    }
}

int datsync_dns_client_remove(datsync_dns_client *c, const uint8_t name[DATSYNC_NAME_BYTES], uint64_t now)
{
    client_name *n = client_find(c, name);
    if (!n || n->leaving)
        return DATSYNC_E_NOT_FOUND;
    client_leave(c, n, now);
    client_sweep(c);
    return 0;
}

void datsync_dns_client_stop(datsync_dns_client *c, uint64_t now)
{
    for (size_t i = 0; i < c->count; i++)
        client_leave(c, c->names + i, now);
    client_sweep(c);
}

int datsync_dns_client_idle(const datsync_dns_client *c)
{
    for (size_t i = 0; i < c->count; i++)
        if (c->names[i].leaving)
            return 0;
    return 1;
}

static void client_found(datsync_dns_client *c, client_server *s, const client_name *n, const datsync_ip *peer)
{
    const datsync_ip *informant = s->places + s->at;
    int self = n->port == peer->port && s->status.seen.size && ip_same_host(&s->status.seen, peer);
    if (n->leaving || !peer->port || self || !datsync_ip_believable(peer, informant))
        return;
    s->status.peers++;
    c->way.found(c->way.ctx, n->name, peer, informant);
}

/* The token that a server gives from now on. */
static void client_token(client_server *s, datsync_bytes token)
{
    if (token.len == 0 || token.len > sizeof s->token ||
        (token.len == s->token_len && memcmp(token.data, s->token, token.len) == 0))
        return;
    memcpy(s->token, token.data, token.len);
    s->token_len = token.len;
    s->token_number++;
}

/* The first TXT record of an answer that is about a name, or about dat.local: 1, or 0 without one. */
static int client_record(const datsync_dns *m, const uint8_t *name, datsync_dns_item *item)
{
    datsync_dns_cursor cursor = {0, 0};
    while (datsync_dns_next(m, &cursor, item))
        if (item->part == DATSYNC_DNS_ANSWER && item->type == DATSYNC_DNS_TXT &&
            item->about == (name ? DATSYNC_DNS_NAME : DATSYNC_DNS_DOMAIN) &&
            (!name || memcmp(name, item->name, DATSYNC_NAME_BYTES) == 0))
            return 1;
    return 0;
}

static void client_probed(datsync_dns_client *c, size_t server, const datsync_dns *m, uint64_t now)
{
    client_server *s = c->servers + server;
    datsync_dns_item item;
    if (!client_record(m, NULL, &item) || item.token.len == 0 || item.token.len > sizeof s->token) {
        s->junk = 1; /* it may be another's server, as at port 53 */
        return;
    }
    client_token(s, item.token);
    memset(&s->status.seen, 0, sizeof s->status.seen);
    if ((item.has & DATSYNC_DNS_PORT) && dns_dotted(item.host, s->status.seen.bytes) == 0) {
        s->status.seen.size = 4;
        s->status.seen.port = item.port;
    }
    s->status.state = DATSYNC_DNS_ANSWERS;
    s->status.error = s->junk = 0;
    s->silences = 0;
    s->tried = 0;
    client_set_aside(&s->probe, NEVER);
    client_names_due(c, server, now);
}

static void client_answered(datsync_dns_client *c, client_name *n, size_t server, const datsync_dns *m, uint64_t now)
{
    client_server *s = c->servers + server;
    client_ask *ask = n->asks + server;
    datsync_dns_item item;
    datsync_ip peer;
    if (!client_record(m, n->name, &item)) {
        s->status.error = DATSYNC_E_MESSAGE;
        return;
    }
    s->status.error = 0;
    ask->heard = 1;
    client_token(s, item.token);
    ask->hurry = ask->token != s->token_number && !ask->hurry;
    client_set_aside(ask, ask->hurry ? now : n->leaving ? NEVER : now + env_minute(&c->env));
    for (size_t i = 0; datsync_dns_peer(&item, i, &peer); i++)
        client_found(c, s, n, &peer);
}

/* A server tells unasked of one who came. It does so until it is told that this is known. */
static void client_pushed(datsync_dns_client *c, client_server *s, const datsync_dns *m, uint64_t now)
{
    datsync_dns_cursor cursor = {0, 0};
    datsync_dns_item item;
    dns_send(&c->way, s->places + s->at, m->id, DATSYNC_DNS_FLAGS_ANSWER, NULL, 0);
    for (size_t i = 0; i < CLIENT_PUSHES; i++)
        if (s->pushes[i].id == m->id && s->pushes[i].until > now)
            return;
    s->pushes[s->next_push].id = m->id;
    s->pushes[s->next_push].until = now + CLIENT_PUSH_MS;
    s->next_push = (s->next_push + 1) % CLIENT_PUSHES;

    while (datsync_dns_next(m, &cursor, &item)) {
        client_name *n = item.about == DATSYNC_DNS_NAME ? client_find(c, item.name) : NULL;
        datsync_ip peer;
        for (size_t i = 0; n && datsync_dns_peer(&item, i, &peer); i++)
            client_found(c, s, n, &peer);
    }
}

/* 0: it was asked nothing under this id. */
static int client_reply(datsync_dns_client *c, size_t server, const datsync_dns *m, uint64_t now)
{
    client_server *s = c->servers + server;
    if (s->probe.sends && s->probe.id == m->id) {
        client_probed(c, server, m, now);
        return 1;
    }
    for (size_t i = 0; i < c->count; i++) {
        client_ask *ask = c->names[i].asks + server;
        if (ask->sends && ask->id == m->id) {
            client_answered(c, c->names + i, server, m, now);
            return 1;
        }
    }
    return 0;
}

/* The next server that is asked at this place; the count: there is none. Two names may lead to one place. */
static size_t client_at(const datsync_dns_client *c, size_t first, const datsync_ip *place)
{
    while (first < c->server_count && !ip_same(c->servers[first].places + c->servers[first].at, place))
        first++;
    return first;
}

int datsync_dns_client_datagram(datsync_dns_client *c, const void *bytes, size_t len, const datsync_ip *from,
                                uint64_t now)
{
    datsync_dns message;
    size_t i = client_at(c, 0, from);
    if (i == c->server_count)
        return 0;
    if (datsync_dns_parse(&message, bytes, len) < 0) {
        c->servers[i].status.error = DATSYNC_E_MESSAGE;
        return 1;
    }
    if (message.flags & DATSYNC_DNS_FLAGS_ANSWER)
        while (i < c->server_count && !client_reply(c, i, &message, now))
            i = client_at(c, i + 1, from);
    else if (message.counts[DATSYNC_DNS_QUESTION] > 0)
        return 0;
    else
        client_pushed(c, c->servers + i, &message, now);
    datsync_dns_client_step(c, now); /* what is due now */
    return 1;
}

uint64_t datsync_dns_client_deadline(const datsync_dns_client *c)
{
    uint64_t first = NEVER;
    for (size_t k = 0; k < c->server_count; k++) {
        if (c->servers[k].probe.due < first)
            first = c->servers[k].probe.due;
        for (size_t i = 0; i < c->count; i++)
            if (c->names[i].asks[k].due < first)
                first = c->names[i].asks[k].due;
    }
    return first;
}

void datsync_dns_client_step(datsync_dns_client *c, uint64_t now)
{
    for (size_t k = 0; k < c->server_count; k++) {
        if (c->servers[k].probe.due <= now)
            client_probe(c, k, now);
        for (size_t i = 0; i < c->count; i++)
            if (c->names[i].asks[k].due <= now)
                client_question(c, c->names + i, k, now);
    }
    client_sweep(c);
}

int datsync_dns_client_answered(const datsync_dns_client *c, const uint8_t name[DATSYNC_NAME_BYTES])
{
    const client_name *n = client_find(c, name);
    if (!n || n->leaving)
        return DATSYNC_E_NOT_FOUND;
    for (size_t i = 0; i < c->server_count; i++)
        if (!n->asks[i].heard && c->servers[i].status.state != DATSYNC_DNS_SILENT)
            return 0;
    return 1;
}

int datsync_dns_client_status(const datsync_dns_client *c, int server, datsync_dns_status *out)
{
    if (server < 0 || (size_t)server >= c->server_count)
        return DATSYNC_E_NOT_FOUND;
    *out = c->servers[server].status;
    out->at = c->servers[server].places[c->servers[server].at];
    return 0;
}

/* ================================================================ a discovery server ============================ */

/* Entries (a name, an address, a port) lie in a table of fixed size, found by the hash of the name; the newest of a
 * chain comes first, and is announced anew by being taken out and put in again. So all chains, and the list of all
 * entries, are in the order of time, and the oldest is found without a search. There are two tables: of who announces,
 * and of who wants to be told.
 *
 * No one can push others out: of one name by one address few are kept, of one name so many; what is too much is the
 * oldest of the busiest address. So it is when the table is full: for that, addresses have their counts, and those of
 * about the same count stand in one class. Hashes have a key, so that nobody chooses who shares his.
 *
 * A token proves that its address hears us; only then is anything kept, or an answer longer than three times its
 * question (the answer to a probe, which gives the token, is not: it has up to 131 bytes for 27, three times what goes
 * over the wire with both headers). Answers and pushes are limited for each address, by hash too. */

#define TABLE_HEADS DATSYNC_DNS_MAX_ENTRIES
#define TABLE_CLASSES 20u /* floor(log2(count)) */
/* An address asks 32 times a second, after 256 at once: a host with all its names; and causes half as many pushes. */
#define SERVER_LIMITS 65536u
#define SERVER_QUESTION_MS 31u
#define SERVER_PUSH_COST_MS 62u
#define SERVER_BURST_MS 8000u
/* Subscribers who are told of one who came; pushes that wait to be acknowledged (each for 1.5 s); how often it is
 * looked which of them are sent again. */
#define SERVER_TOLD 16u
#define SERVER_PUSHES 4096u
#define SERVER_LOOK_MS 50u
/* Peers in the answer to a question for SRV or A. */
#define SERVER_RECORDS 10u
#define SERVER_TOKEN 44u

/* Links are numbers of entries, or of addresses; 0 is none, and number 0 is not used. */
typedef struct table_entry {
    uint8_t name[DATSYNC_NAME_BYTES], ip[4];
    uint16_t port;
    uint32_t second;         /* of the server's time in which it came */
    uint32_t chained;        /* the next of the same hash of names */
    uint32_t older, newer;   /* of all */
    uint32_t behind, before; /* older and newer of the same address */
} table_entry;

typedef struct table_address {
    uint8_t ip[4];
    uint32_t chained; /* the next of the same hash of addresses */
    uint32_t count, oldest, newest;
    uint32_t left, right; /* in its class */
} table_address;

typedef struct table {
    uint32_t seconds; /* for which an entry is kept */
    uint32_t used, spare, oldest, newest;
    uint32_t addresses_used, addresses_spare;
    uint32_t classes[TABLE_CLASSES];
    uint64_t count, names, evicted;
    table_entry *entries;
    table_address *addresses;
    uint32_t *heads, *address_heads;
} table;

typedef struct server_push {
    uint8_t name[DATSYNC_NAME_BYTES];
    datsync_ip peer, to;
    uint16_t id;
    uint8_t sends; /* 0: it was acknowledged, or sent for the last time */
    uint64_t begun;
} server_push;

struct datsync_dns_server {
    datsync_env env;
    datsync_way way;
    uint64_t born, rotate, look;
    uint8_t secrets[2][32]; /* the one before, and the current one */
    uint8_t key[crypto_shorthash_KEYBYTES];
    uint16_t next_push;
    table announced, subscribed;
    server_push pushes[SERVER_PUSHES]; /* at its id, modulo */
    struct {
        uint64_t questions, pushes;
    } limits[SERVER_LIMITS];
    datsync_dns_counts counts;
};

static uint32_t server_hash(const datsync_dns_server *s, const uint8_t *bytes, size_t len, uint32_t below)
{
    uint8_t out[crypto_shorthash_BYTES];
    (void)crypto_shorthash(out, bytes, len, s->key);
    return ((uint32_t)out[0] | (uint32_t)out[1] << 8 | (uint32_t)out[2] << 16 | (uint32_t)out[3] << 24) % below;
}

static uint32_t *table_head(const datsync_dns_server *s, const table *t, const uint8_t *name)
{
    return t->heads + server_hash(s, name, DATSYNC_NAME_BYTES, TABLE_HEADS);
}

static unsigned table_class(uint32_t count)
{
    unsigned n = 0;
    while (count >>= 1)
        n++;
    return n;
}

static void table_class_leave(table *t, table_address *a)
{
    *(a->left ? &t->addresses[a->left].right : &t->classes[table_class(a->count)]) = a->right;
    if (a->right)
        t->addresses[a->right].left = a->left;
}

static void table_class_enter(table *t, table_address *a)
{
    uint32_t *head = t->classes + table_class(a->count), number = (uint32_t)(a - t->addresses);
    a->left = 0;
    a->right = *head;
    if (*head)
        t->addresses[*head].left = number;
    *head = number;
}

/* Where the number of an address stands: in its chain, or behind its end, where it is 0. */
static uint32_t *table_address_at(const datsync_dns_server *s, const table *t, const uint8_t ip[4])
{
    uint32_t *at = t->address_heads + server_hash(s, ip, 4, TABLE_HEADS);
    while (*at && memcmp(t->addresses[*at].ip, ip, 4) != 0)
        at = &t->addresses[*at].chained;
    return at;
}

/* One entry more of an address. There is room: each address that is there has an entry. */
static table_address *table_address_more(const datsync_dns_server *s, table *t, const uint8_t ip[4])
{
    uint32_t *at = table_address_at(s, t, ip);
    table_address *a;
    if (*at) {
        a = t->addresses + *at;
        table_class_leave(t, a);
    } else {
        *at = t->addresses_spare ? t->addresses_spare : ++t->addresses_used;
        a = t->addresses + *at;
        if (t->addresses_spare)
            t->addresses_spare = a->chained;
        memset(a, 0, sizeof *a);
        memcpy(a->ip, ip, 4);
    }
    a->count++;
    table_class_enter(t, a);
    return a;
}

static void table_address_less(const datsync_dns_server *s, table *t, table_address *a)
{
    uint32_t *at, number = (uint32_t)(a - t->addresses);
    table_class_leave(t, a);
    if (--a->count) {
        table_class_enter(t, a);
        return;
    }
    at = table_address_at(s, t, a->ip);
    *at = a->chained;
    a->chained = t->addresses_spare;
    t->addresses_spare = number;
}

static int table_same_name(const table_entry *e, const uint8_t *name)
{
    return memcmp(e->name, name, DATSYNC_NAME_BYTES) == 0;
}

/* Out of the chain of its name: 1 if no other has that name now. */
static int table_unchain(const datsync_dns_server *s, table *t, uint32_t number)
{
    table_entry *e = t->entries + number;
    int last = 1;
    for (uint32_t *at = table_head(s, t, e->name); *at;) {
        table_entry *other = t->entries + *at;
        if (other == e) {
            *at = e->chained;
            continue;
        }
        last = last && !table_same_name(other, e->name);
        at = &other->chained;
    }
    return last;
}

static void table_remove(const datsync_dns_server *s, table *t, uint32_t number)
{
    table_entry *e = t->entries + number;
    table_address *a = t->addresses + *table_address_at(s, t, e->ip);
    t->names -= (uint64_t)table_unchain(s, t, number);
    *(e->older ? &t->entries[e->older].newer : &t->oldest) = e->newer;
    *(e->newer ? &t->entries[e->newer].older : &t->newest) = e->older;
    *(e->behind ? &t->entries[e->behind].before : &a->oldest) = e->before;
    *(e->before ? &t->entries[e->before].behind : &a->newest) = e->behind;
    table_address_less(s, t, a);
    t->count--;
    e->chained = t->spare;
    t->spare = number;
}

/* Room for one more of an address (0: which is not there yet). If there is none, the oldest of the busiest address
 * goes; of this one if none is in a higher class. */
static uint32_t table_room(const datsync_dns_server *s, table *t, uint32_t own)
{
    unsigned class_of_own = own ? table_class(t->addresses[own].count) : 0, busiest = TABLE_CLASSES - 1;
    uint32_t number = t->spare;
    if (!number && t->used < DATSYNC_DNS_MAX_ENTRIES)
        return ++t->used;
    if (!number) {
        while (!t->classes[busiest])
            busiest--;
        if (!own || class_of_own != busiest)
            own = t->classes[busiest];
        table_remove(s, t, t->addresses[own].oldest);
        t->evicted++;
        number = t->spare;
    }
    t->spare = t->entries[number].chained;
    return number;
}

/* What is there before one more is put in. */
typedef struct table_found {
    uint32_t same;       /* this name, address and port */
    uint32_t name, peer; /* how many of the name, and of the name by the address */
    uint32_t peer_oldest;
} table_found;

static table_found table_find(const datsync_dns_server *s, const table *t, const uint8_t *name, const datsync_ip *ip)
{
    table_found found = {0, 0, 0, 0};
    for (uint32_t i = *table_head(s, t, name); i; i = t->entries[i].chained) {
        const table_entry *e = t->entries + i;
        if (!table_same_name(e, name))
            continue;
        found.name++;
        if (memcmp(e->ip, ip->bytes, 4) != 0)
            continue;
        found.peer++;
        found.peer_oldest = i;
        if (e->port == ip->port)
            found.same = i;
    }
    return found;
}

/* Of a name, the oldest entry of the address that has most of them. */
static uint32_t table_crowd(const datsync_dns_server *s, const table *t, const uint8_t *name)
{
    const table_entry *entries = t->entries;
    uint32_t most = 0, number = 0;
    for (uint32_t i = *table_head(s, t, name); i; i = entries[i].chained) {
        uint32_t count = 0;
        if (!table_same_name(entries + i, name))
            continue;
        for (uint32_t k = i; k; k = entries[k].chained)
            count += table_same_name(entries + k, name) && memcmp(entries[k].ip, entries[i].ip, 4) == 0;
        if (count >= most || memcmp(entries[number].ip, entries[i].ip, 4) == 0)
            number = i;
        most = count > most ? count : most;
    }
    return number;
}

/* Put in, or make anew. 1: it was not there, and the name has not enough without it. */
static int table_put(const datsync_dns_server *s, table *t, const uint8_t *name, const datsync_ip *ip, uint32_t second)
{
    table_found found = table_find(s, t, name, ip);
    table_address *a;
    uint32_t number, *head;
    if (found.same || found.peer >= DATSYNC_DNS_MAX_OF_PEER)
        table_remove(s, t, found.same ? found.same : found.peer_oldest);
    else if (found.name >= DATSYNC_DNS_MAX_OF_NAME)
        table_remove(s, t, table_crowd(s, t, name));

    number = table_room(s, t, *table_address_at(s, t, ip->bytes));
    a = table_address_more(s, t, ip->bytes);
    table_entry *e = t->entries + number;
    memcpy(e->name, name, DATSYNC_NAME_BYTES);
    memcpy(e->ip, ip->bytes, 4);
    e->port = ip->port;
    e->second = second;
    head = table_head(s, t, name);
    t->names += (uint64_t)(table_find(s, t, name, ip).name == 0);
    e->chained = *head;
    *head = number;
    e->older = t->newest;
    e->behind = a->newest;
    e->newer = e->before = 0;
    *(e->older ? &t->entries[e->older].newer : &t->oldest) = number;
    *(e->behind ? &t->entries[e->behind].before : &a->oldest) = number;
    t->newest = a->newest = number;
    t->count++;
    return !found.same && found.name < DATSYNC_DNS_MAX_OF_NAME;
}

static void table_expire(const datsync_dns_server *s, table *t, uint32_t second)
{
    while (t->oldest && t->entries[t->oldest].second + t->seconds <= second)
        table_remove(s, t, t->oldest);
}

/* Up to `most` of a name, beginning anywhere by chance, so that each is as likely. */
static size_t table_some(const datsync_dns_server *s, const table *t, const uint8_t *name, datsync_ip *list,
                         size_t most)
{
    uint32_t all[DATSYNC_DNS_MAX_OF_NAME];
    size_t count = 0, begin, n = 0;
    for (uint32_t i = *table_head(s, t, name); i && count < DATSYNC_DNS_MAX_OF_NAME; i = t->entries[i].chained)
        if (table_same_name(t->entries + i, name))
            all[count++] = i;
    begin = count > 1 ? env_below(&s->env, (uint32_t)count) : 0;
    for (; n < most && n < count; n++) {
        const table_entry *e = t->entries + all[(begin + n) % count];
        memset(list + n, 0, sizeof *list);
        memcpy(list[n].bytes, e->ip, 4);
        list[n].size = 4;
        list[n].port = e->port;
    }
    return n;
}

static int table_new(const datsync_env *env, table *t, uint32_t seconds)
{
    t->seconds = seconds;
    /* Not zeroed: what is not used yet takes no memory then. */
    t->entries = env->resize(env->ctx, NULL, (DATSYNC_DNS_MAX_ENTRIES + 1) * sizeof *t->entries);
    t->heads = env_zeroed(env, TABLE_HEADS * sizeof *t->heads);
    t->addresses = env->resize(env->ctx, NULL, (DATSYNC_DNS_MAX_ENTRIES + 1) * sizeof *t->addresses);
    t->address_heads = env_zeroed(env, TABLE_HEADS * sizeof *t->address_heads);
    return t->entries && t->heads && t->addresses && t->address_heads ? 0 : DATSYNC_E_NOMEM;
}

static void table_free(const datsync_env *env, table *t)
{
    env_free(env, t->entries);
    env_free(env, t->heads);
    env_free(env, t->addresses);
    env_free(env, t->address_heads);
}

int datsync_dns_server_new(datsync_dns_server **out, const datsync_env *env, const datsync_way *way, uint64_t now)
{
    datsync_dns_server *s;
    int error = env_engine(&s, sizeof *s, env);
    if (error < 0)
        return error;
    s->way = *way;
    s->born = now;
    s->rotate = now + DATSYNC_DNS_SECRET_MS;
    s->look = NEVER;
    s->env.random(s->env.ctx, s->secrets, sizeof s->secrets);
    s->env.random(s->env.ctx, &s->next_push, sizeof s->next_push);
    s->env.random(s->env.ctx, s->key, sizeof s->key);
    if (table_new(&s->env, &s->announced, DATSYNC_DNS_ENTRY_MS / 1000) < 0 ||
        table_new(&s->env, &s->subscribed, DATSYNC_DNS_SUBSCRIPTION_MS / 1000) < 0) {
        datsync_dns_server_free(s);
        return DATSYNC_E_NOMEM;
    }
    *out = s;
    return 0;
}

void datsync_dns_server_free(datsync_dns_server *s)
{
    if (!s)
        return;
    table_free(&s->env, &s->announced);
    table_free(&s->env, &s->subscribed);
    sodium_memzero(s->secrets, sizeof s->secrets);
    env_free(&s->env, s);
}

static uint32_t server_second(const datsync_dns_server *s, uint64_t now)
{
    return (uint32_t)((now - s->born) / 1000);
}

/* The address as text, four decimals; of IPv6, its bytes. */
static size_t server_text(const datsync_ip *ip, char text[16])
{
    size_t n = 0;
    if (ip->size != 4) {
        memcpy(text, ip->bytes, 16);
        return 16;
    }
    for (int i = 0; i < 4; i++) {
        char part[5];
        size_t len = dns_decimal(ip->bytes[i], part);
        if (i > 0)
            text[n++] = '.';
        memcpy(text + n, part, len);
        n += len;
    }
    return n;
}

/* base64(SHA-256(secret || address)), as the deployed server makes it. */
static void server_token(const uint8_t secret[32], const char *text, size_t len, char out[SERVER_TOKEN + 1])
{
    crypto_hash_sha256_state state;
    uint8_t hash[crypto_hash_sha256_BYTES];
    (void)crypto_hash_sha256_init(&state);
    (void)crypto_hash_sha256_update(&state, secret, 32);
    (void)crypto_hash_sha256_update(&state, (const uint8_t *)text, len);
    (void)crypto_hash_sha256_final(&state, hash);
    (void)sodium_bin2base64(out, SERVER_TOKEN + 1, hash, sizeof hash, sodium_base64_VARIANT_ORIGINAL);
}

/* One question, while it is answered. */
typedef struct server_talk {
    datsync_ip from;
    size_t len; /* of the question's message */
    uint16_t id;
    int trusted;   /* it came with a token that is right */
    char text[16]; /* the asker's address */
    size_t text_len;
    char token[SERVER_TOKEN + 1];
    datsync_dns_item question, added; /* added.has is 0 if nothing was */
} server_talk;

static void server_check(const datsync_dns_server *s, server_talk *t)
{
    char before[SERVER_TOKEN + 1];
    t->text_len = server_text(&t->from, t->text);
    server_token(s->secrets[1], t->text, t->text_len, t->token);
    if (!(t->added.has & DATSYNC_DNS_TOKEN) || t->added.token.len != SERVER_TOKEN)
        return;
    server_token(s->secrets[0], t->text, t->text_len, before);
    t->trusted = sodium_memcmp(t->added.token.data, t->token, SERVER_TOKEN) == 0 ||
                 sodium_memcmp(t->added.token.data, before, SERVER_TOKEN) == 0;
}

static size_t server_limit(const datsync_dns_server *s, const datsync_ip *from)
{
    return server_hash(s, from->bytes, from->size == 4 ? 4 : 8, SERVER_LIMITS); /* of IPv6, the network */
}

static void server_push_out(const datsync_dns_server *s, const server_push *p)
{
    datsync_dns_item item;
    dns_begin(&item, DATSYNC_DNS_ADDITIONAL, DATSYNC_DNS_SRV, p->name)->target = p->peer;
    dns_send(&s->way, &p->to, p->id, DATSYNC_DNS_FLAGS_QUERY, &item, 1);
}

/* Tell some subscribers of one who came. */
static void server_tell(datsync_dns_server *s, const uint8_t *name, const datsync_ip *peer, uint64_t now)
{
    datsync_ip list[SERVER_TOLD];
    size_t count = table_some(s, &s->subscribed, name, list, SERVER_TOLD);
    for (size_t i = 0; i < count; i++) {
        if (!rate_allows(&s->limits[server_limit(s, peer)].pushes, now, SERVER_PUSH_COST_MS, SERVER_BURST_MS))
            return;
        server_push *p = s->pushes + s->next_push % SERVER_PUSHES;
        memset(p, 0, sizeof *p);
        memcpy(p->name, name, DATSYNC_NAME_BYTES);
        p->peer = *peer;
        p->to = list[i];
        p->id = s->next_push++;
        p->sends = 1;
        p->begun = now;
        s->counts.pushes++;
        if (s->look == NEVER)
            s->look = now + 500;
        server_push_out(s, p);
    }
}

/* Pushes go out again after 0.5 and 1.5 s. */
static void server_push_again(datsync_dns_server *s, uint64_t now)
{
    s->look = NEVER;
    for (size_t i = 0; i < SERVER_PUSHES; i++) {
        server_push *p = s->pushes + i;
        if (!p->sends)
            continue;
        if (now - p->begun >= (p->sends == 1 ? 500u : 1500u)) {
            server_push_out(s, p);
            p->sends = p->sends == 1 ? 2 : 0;
        }
        if (p->sends)
            s->look = now + SERVER_LOOK_MS;
    }
}

static void server_acknowledged(datsync_dns_server *s, uint16_t id, const datsync_ip *from)
{
    server_push *p = s->pushes + id % SERVER_PUSHES;
    if (p->sends && p->id == id && ip_same(&p->to, from))
        p->sends = 0;
}

/* The answer to TXT: a token, and peers as far as the length allows. */
static void server_answer_text(datsync_dns_server *s, server_talk *t, datsync_dns_item items[2], datsync_ip *list)
{
    datsync_dns_item *answer = items + 1;
    size_t head = 12 + 2 * (t->question.domain_len + 4) + 6 + 1 + 6 + SERVER_TOKEN + 1 + 6;
    size_t most = 3 * t->len > head ? (3 * t->len - head) / 8 : 0;
    answer->has = DATSYNC_DNS_TOKEN;
    answer->token = (datsync_bytes){(const uint8_t *)t->token, SERVER_TOKEN};
    if (t->trusted || most > DATSYNC_DNS_MAX_PEERS)
        most = DATSYNC_DNS_MAX_PEERS;
    if (t->question.about == DATSYNC_DNS_NAME) {
        answer->list = list;
        answer->list_count = table_some(s, &s->announced, t->question.name, list, most);
    }
    if (t->question.about == DATSYNC_DNS_DOMAIN && t->from.size == 4) {
        answer->has |= DATSYNC_DNS_HOST | DATSYNC_DNS_PORT;
        answer->host = (datsync_bytes){(const uint8_t *)t->text, t->text_len};
        answer->port = t->from.port;
    }
}

/* The answer to SRV or A, a record for each peer: how many. */
static size_t server_answer_records(datsync_dns_server *s, server_talk *t, datsync_dns_item *records)
{
    datsync_ip list[SERVER_RECORDS];
    size_t record = t->question.domain_len + 10 + (t->question.type == DATSYNC_DNS_A ? 4 : 23);
    size_t most = (t->trusted ? DATSYNC_MAX_DATAGRAM : 3 * t->len) - 12 - t->question.domain_len - 4, count;
    most = most / record < SERVER_RECORDS ? most / record : SERVER_RECORDS;
    count = table_some(s, &s->announced, t->question.name, list, most);
    for (size_t i = 0; i < count; i++)
        dns_begin(records + i, DATSYNC_DNS_ANSWER, t->question.type, t->question.name)->target = list[i];
    return count;
}

/* What the question changes, for who has a token: who announces, after which subscribers are told; who subscribes. */
static void server_change(datsync_dns_server *s, const server_talk *t, uint64_t now)
{
    const uint8_t *name = t->question.name;
    uint32_t second = server_second(s, now);
    datsync_ip peer = t->from;
    table_found found;
    peer.via = 0;
    if (t->added.has & DATSYNC_DNS_ANNOUNCE) {
        peer.port = t->added.announce ? t->added.announce : t->from.port;
        if (table_put(s, &s->announced, name, &peer, second))
            server_tell(s, name, &peer, now);
    }
    if (t->added.has & DATSYNC_DNS_UNANNOUNCE) {
        peer.port = t->added.unannounce ? t->added.unannounce : t->from.port;
        found = table_find(s, &s->announced, name, &peer);
        if (found.same)
            table_remove(s, &s->announced, found.same);
    }
    peer.port = t->from.port;
    if (t->added.has & DATSYNC_DNS_SUBSCRIBE) {
        (void)table_put(s, &s->subscribed, name, &peer, second);
        return;
    }
    found = table_find(s, &s->subscribed, name, &peer);
    if (found.same)
        table_remove(s, &s->subscribed, found.same);
}

static void server_answer(datsync_dns_server *s, server_talk *t, uint64_t now)
{
    datsync_dns_item items[1 + SERVER_RECORDS];
    datsync_ip list[DATSYNC_DNS_MAX_PEERS];
    size_t count = 1;
    int about = t->question.about, type = t->question.type;
    server_check(s, t);
    items[0] = t->question;
    if (type == DATSYNC_DNS_TXT && about != DATSYNC_DNS_ELSEWHERE &&
        (about != DATSYNC_DNS_BELOW || t->question.domain_len > 40)) {
        items[count] = t->question;
        items[count++].part = DATSYNC_DNS_ANSWER;
        server_answer_text(s, t, items, list);
    } else if (about == DATSYNC_DNS_NAME && (type == DATSYNC_DNS_SRV || type == DATSYNC_DNS_A)) {
        count += server_answer_records(s, t, items + count);
    }
    if (about == DATSYNC_DNS_NAME && t->trusted && t->from.size == 4)
        server_change(s, t, now);
    s->counts.answers++;
    dns_send(&s->way, &t->from, t->id, DATSYNC_DNS_FLAGS_ANSWER, items, count);
}

/* Of a message, its question, which is the only one, and the first TXT record about the same that was added. */
static int server_read(const datsync_dns *m, server_talk *t)
{
    datsync_dns_cursor cursor = {0, 0};
    datsync_dns_item item;
    if (m->counts[DATSYNC_DNS_QUESTION] != 1)
        return 0;
    (void)datsync_dns_next(m, &cursor, &t->question);
    while (!t->added.has && datsync_dns_next(m, &cursor, &item))
        if (item.part == DATSYNC_DNS_ADDITIONAL && item.type == DATSYNC_DNS_TXT && item.about == DATSYNC_DNS_NAME &&
            t->question.about == DATSYNC_DNS_NAME && memcmp(item.name, t->question.name, DATSYNC_NAME_BYTES) == 0)
            t->added = item;
    return 1;
}

/* When it is time, a new secret; after a long sleep, two. */
static void server_rotate(datsync_dns_server *s, uint64_t now)
{
    for (int i = 0; i < 2 && now >= s->rotate; i++) {
        memcpy(s->secrets[0], s->secrets[1], 32);
        s->env.random(s->env.ctx, s->secrets[1], 32);
        s->rotate += DATSYNC_DNS_SECRET_MS;
    }
    if (now >= s->rotate)
        s->rotate = now + DATSYNC_DNS_SECRET_MS;
}

int datsync_dns_server_datagram(datsync_dns_server *s, const void *bytes, size_t len, const datsync_ip *from,
                                uint64_t now)
{
    datsync_dns message;
    server_talk talk;
    if (!rate_allows(&s->limits[server_limit(s, from)].questions, now, SERVER_QUESTION_MS, SERVER_BURST_MS)) {
        s->counts.limited++;
        return 0;
    }
    if (datsync_dns_parse(&message, bytes, len) < 0) {
        s->counts.malformed++;
        return DATSYNC_E_MESSAGE;
    }
    if (message.flags & DATSYNC_DNS_FLAGS_ANSWER) {
        server_acknowledged(s, message.id, from);
        return 0;
    }
    memset(&talk, 0, sizeof talk);
    talk.from = *from;
    talk.len = len;
    talk.id = message.id;
    if (!from->port || !server_read(&message, &talk))
        return 0;
    s->counts.questions++;
    datsync_dns_server_step(s, now); /* what is too old goes first */
    server_answer(s, &talk, now);
    return 0;
}

/* When the first of a table has been kept long enough. */
static uint64_t server_expiry(const datsync_dns_server *s, const table *t)
{
    return t->oldest ? s->born + ((uint64_t)t->entries[t->oldest].second + t->seconds) * 1000 : NEVER;
}

uint64_t datsync_dns_server_deadline(const datsync_dns_server *s)
{
    uint64_t when[] = {server_expiry(s, &s->announced), server_expiry(s, &s->subscribed), s->rotate, s->look};
    uint64_t first = NEVER;
    for (size_t i = 0; i < sizeof when / sizeof *when; i++)
        first = when[i] < first ? when[i] : first;
    return first;
}

void datsync_dns_server_step(datsync_dns_server *s, uint64_t now)
{
    server_rotate(s, now);
    table_expire(s, &s->announced, server_second(s, now));
    table_expire(s, &s->subscribed, server_second(s, now));
    if (s->look <= now)
        server_push_again(s, now);
}

void datsync_dns_server_counts(const datsync_dns_server *s, datsync_dns_counts *out)
{
    *out = s->counts;
    out->names = s->announced.names;
    out->peers = s->announced.count;
    out->subscriptions = s->subscribed.count;
    out->evicted = s->announced.evicted + s->subscribed.evicted;
}

/* ================================================================ all ways together ============================= */

/* Sockets and names for the engines, which know neither: two shared sockets for multicast DNS, one of each family, that
 * join the group on each interface; one socket for discovery servers and the DHT together: what comes from a server's
 * address and is no question is the client's, all else the DHT's. Interfaces are looked at again now and then. The
 * hosts of servers and bootstraps are resolved at the beginning, and again while that fails.
 *
 * It holds: nothing here waits; a handle is told to a guest before it is waited for, and taken back before it is
 * closed; datsync_found is called in a turn only. */

/* Datagrams that are taken from one socket in one turn: others have theirs. */
#define DATAGRAMS 64u
/* Bytes of one that is read: more than any that is well-formed here. */
#define DATAGRAM_BYTES 2048u
/* Interfaces are looked at again after so many milliseconds; so many of their addresses are looked at. */
#define INTERFACES_MS 5000u
#define INTERFACES 64u
/* Hosts of servers and bootstraps, and bytes of one. A name is looked up again after so long, when that failed, at
 * first, and at last. */
#define HOSTS (DATSYNC_MAX_DNS_SERVERS + DATSYNC_MAX_BOOTSTRAPS)
#define HOST_BYTES 264u
/* Addresses of one bootstrap that are used: another one's have room. */
#define BOOTSTRAP_ADDRESSES 2u
#define HOST_AGAIN_MS 1000u
#define HOST_AGAIN_MAX_MS 60000u

const char *const *datsync_discovery_servers(void)
{
    static const char *const servers[] = {"discovery1.datprotocol.com", "discovery2.datprotocol.com", NULL};
    return servers;
}

const char *const *datsync_discovery_bootstraps(void)
{
    static const char *const bootstraps[] = {"bootstrap1.datprotocol.com:6881",
                                             "bootstrap2.datprotocol.com:6881",
                                             "bootstrap3.datprotocol.com:6881",
                                             "bootstrap4.datprotocol.com:6881",
                                             "dht.libtorrent.org:25401",
                                             "dht.transmissionbt.com:6881",
                                             NULL};
    return bootstraps;
}

enum host_state { HOST_WAITS, HOST_RESOLVING, HOST_KNOWN };

typedef struct host {
    int way;
    char text[HOST_BYTES]; /* as it was given */
    size_t name_len;       /* of `text`, without the port */
    uint16_t port;         /* 0: a server's usual ones */
    enum host_state state;
    intptr_t handle; /* while it is resolved */
    short told;
    uint64_t at; /* when it is looked up (again) */
    uint32_t failures;
    int error;          /* why it is not known */
    int server;         /* its number, of a server */
    datsync_ip address; /* of a bootstrap, the first */
} host;

enum { MDNS_4, MDNS_6, UNICAST, SOCKETS };

struct datsync_discovery {
    datsync_env env;
    datsync_net net;
    unsigned ways, silent;
    datsync *ds; /* whose turn it is; NULL: between turns */
    uint64_t now;
    datsync_mdns *mdns;
    datsync_dns_client *client;
    datsync_dht *dht;

    struct {
        intptr_t handle; /* -1: none */
        int error;       /* why */
        short told;
    } sockets[SOCKETS];

    struct {
        datsync_interface v[INTERFACES];
        size_t count;
        uint64_t look_at;
    } interfaces;

    struct {
        host *v;
        size_t count;
    } hosts;

    struct {
        uint8_t (*v)[DATSYNC_NAME_BYTES];
        size_t count;
    } names;

    uint64_t told[DATSYNC_BY_DHT + 1]; /* peers, by way */
};

/* ------------------------------------------------ what the engines call */

/* Who told. Of a far host it is its network, in which it may have any address; of the local network, the host in it. */
static uint64_t informant_of(const datsync_ip *ip, unsigned way)
{
    const uint8_t *from = ip->bytes + (ip->size == 16 && way == DATSYNC_BY_MDNS ? 8 : 0);
    uint64_t who = 0;
    for (int i = 0; i < (ip->size == 4 ? 4 : 8); i++)
        who = who << 8 | from[i];
    return who;
}

static void on_found(datsync_discovery *d, unsigned way, const datsync_ip *peer, const datsync_ip *informant)
{
    char text[DATSYNC_IP_TEXT];
    d->told[way]++;
    if (!d->ds)
        return;
    datsync_ip_text(peer, text);
    (void)datsync_found(d->ds, text, way, informant_of(informant, way), d->now); /* a full book has made room or not */
}

static void on_found_mdns(void *ctx, const uint8_t name[DATSYNC_NAME_BYTES], const datsync_ip *peer,
                          const datsync_ip *informant)
{
    (void)name;
    on_found(ctx, DATSYNC_BY_MDNS, peer, informant);
}

static void on_found_server(void *ctx, const uint8_t name[DATSYNC_NAME_BYTES], const datsync_ip *peer,
                            const datsync_ip *informant)
{
    (void)name;
    on_found(ctx, DATSYNC_BY_SERVER, peer, informant);
}

static void on_found_dht(void *ctx, const uint8_t name[DATSYNC_NAME_BYTES], const datsync_ip *peer,
                         const datsync_ip *informant)
{
    (void)name;
    on_found(ctx, DATSYNC_BY_DHT, peer, informant);
}

static void send_by(const datsync_discovery *d, int socket, const datsync_ip *to, const void *bytes, size_t len)
{
    if (d->sockets[socket].handle != -1)
        (void)d->net.send_to(d->net.ctx, d->sockets[socket].handle, bytes, len,
                             to); /* datagrams are lost now and then */
}

static void send_mdns(void *ctx, const datsync_ip *to, const void *bytes, size_t len)
{
    send_by(ctx, to->size == 4 ? MDNS_4 : MDNS_6, to, bytes, len);
}

static void send_unicast(void *ctx, const datsync_ip *to, const void *bytes, size_t len)
{
    if (to->size == 4)
        send_by(ctx, UNICAST, to, bytes, len);
}

/* ------------------------------------------------ handles */

static void tell_handle(const datsync_discovery *d, intptr_t handle, short *told, short events)
{
    if (handle != -1 && *told != events && d->ds)
        datsync_interest(d->ds, handle, events);
    *told = events;
}

static void close_handle(const datsync_discovery *d, intptr_t *handle, short *told)
{
    tell_handle(d, *handle, told, 0);
    if (*handle != -1)
        d->net.close(d->net.ctx, *handle);
    *handle = -1;
}

static int is_ready(const datsync_pollfd *fds, size_t count, intptr_t handle)
{
    for (size_t i = 0; i < count; i++)
        if (fds[i].handle == handle)
            return fds[i].revents != 0;
    return 0;
}

static void socket_open(datsync_discovery *d, int socket, int size, uint16_t port, int shared)
{
    datsync_ip at;
    memset(&at, 0, sizeof at);
    at.size = (uint8_t)size;
    at.port = port;
    d->sockets[socket].error = d->net.datagrams(d->net.ctx, &at, shared, &d->sockets[socket].handle);
    if (d->sockets[socket].error == DATSYNC_E_IN_USE && !shared) {
        at.port = 0;
        d->sockets[socket].error = d->net.datagrams(d->net.ctx, &at, shared, &d->sockets[socket].handle);
    }
    if (d->sockets[socket].error < 0)
        d->sockets[socket].handle = -1;
}

/* ------------------------------------------------ interfaces */

/* Is this address of an interface in the list; without `exactly`, any of the interface and family, which have one group
 * together? */
static int has_interface(const datsync_interface *list, size_t count, const datsync_interface *one, int exactly)
{
    for (size_t i = 0; i < count; i++)
        if (list[i].ip.via == one->ip.via && list[i].ip.size == one->ip.size &&
            (!exactly || (list[i].prefix == one->prefix && memcmp(list[i].ip.bytes, one->ip.bytes, 16) == 0)))
            return 1;
    return 0;
}

/* Enter or leave the group on those of a list that are not in the other one. A group that is entered already, by
 * another address of the interface, says so in vain. */
static void groups_change(datsync_discovery *d, const datsync_interface *list, size_t count,
                          const datsync_interface *others, size_t other_count,
                          int (*change)(void *ctx, intptr_t socket, const datsync_ip *group))
{
    for (size_t i = 0; i < count; i++) {
        int socket = list[i].ip.size == 4 ? MDNS_4 : MDNS_6;
        datsync_ip group;
        if (has_interface(others, other_count, &list[i], 0) || d->sockets[socket].handle == -1)
            continue;
        datsync_mdns_group(&group, list[i].ip.size, list[i].ip.via);
        (void)change(d->net.ctx, d->sockets[socket].handle, &group);
    }
}

/* What came is entered, what is gone is left; the engine is told where anything changed. */
static void interfaces_look(datsync_discovery *d, uint64_t now)
{
    datsync_interface list[INTERFACES];
    if (!d->mdns || now < d->interfaces.look_at)
        return;
    d->interfaces.look_at = now + INTERFACES_MS;
    int n = d->net.interfaces(d->net.ctx, list, INTERFACES);
    if (n < 0)
        return; /* as it was */
    size_t count = (size_t)n < INTERFACES ? (size_t)n : INTERFACES, same = 0;
    for (size_t i = 0; i < count; i++)
        same += (size_t)has_interface(d->interfaces.v, d->interfaces.count, &list[i], 1);
    if (same == count && count == d->interfaces.count)
        return;
    groups_change(d, d->interfaces.v, d->interfaces.count, list, count, d->net.leave);
    groups_change(d, list, count, d->interfaces.v, d->interfaces.count, d->net.join);
    memcpy(d->interfaces.v, list, count * sizeof *list);
    d->interfaces.count = count;
    datsync_mdns_interfaces(d->mdns, list, count, now);
}

/* ------------------------------------------------ hosts of servers and bootstraps */

/* HOST or HOST:PORT; IPv4 alone, for neither way knows other addresses. */
static int host_parse(host *h, int way, const char *text)
{
    size_t len = strlen(text);
    const char *colon = strrchr(text, ':');
    uint32_t port = 0;
    memset(h, 0, sizeof *h);
    h->way = way;
    h->handle = -1;
    if (!len || len >= HOST_BYTES)
        return DATSYNC_E_ADDRESS;
    memcpy(h->text, text, len + 1);
    h->name_len = colon ? (size_t)(colon - text) : len;
    for (const char *p = colon ? colon + 1 : "0"; *p; p++) {
        port = port * 10 + (uint32_t)(*p - '0');
        if (*p < '0' || *p > '9' || port > 65535)
            return DATSYNC_E_ADDRESS;
    }
    if (!h->name_len || (colon && (!port || strchr(text, ':') != colon)) || (way == DATSYNC_BY_DHT && !port))
        return DATSYNC_E_ADDRESS;
    h->port = (uint16_t)port;
    return 0;
}

/* Its addresses are known: those of IPv4, for both ways know no others. */
static int host_use(datsync_discovery *d, host *h, const datsync_ip *list, int count, uint64_t now)
{
    datsync_ip four[DATSYNC_MAX_DNS_ADDRESSES];
    size_t n = 0;
    int r = DATSYNC_E_ADDRESS;
    for (int i = 0; i < count && n < DATSYNC_MAX_DNS_ADDRESSES; i++)
        if (list[i].size == 4) {
            four[n] = list[i];
            four[n++].port = h->port;
        }
    if (h->way == DATSYNC_BY_SERVER && n)
        r = h->server = datsync_dns_client_server(d->client, four, n, now);
    for (size_t i = 0; i < n && i < BOOTSTRAP_ADDRESSES && h->way == DATSYNC_BY_DHT; i++) {
        int taken = datsync_dht_bootstrap(d->dht, &four[i], now);
        r = r < 0 ? taken : r; /* one is enough */
    }
    if (n)
        h->address = four[0];
    return r < 0 ? r : 0;
}

static void host_failed(host *h, int error, uint64_t now)
{
    uint64_t pause = (uint64_t)HOST_AGAIN_MS << (h->failures < 6 ? h->failures : 6);
    h->state = HOST_WAITS;
    h->error = error;
    h->failures++;
    h->at = now + (pause < HOST_AGAIN_MAX_MS ? pause : HOST_AGAIN_MAX_MS);
}

/* Numbers need no resolver. */
static int host_in_numbers(const host *h, datsync_ip *ip)
{
    char text[HOST_BYTES + 2];
    memcpy(text, h->text, h->name_len);
    memcpy(text + h->name_len, ":1", 3);
    return datsync_ip_parse(ip, text) == 0;
}

static void host_begin(datsync_discovery *d, host *h, uint64_t now)
{
    char name[HOST_BYTES];
    datsync_ip ip;
    int r;
    if (host_in_numbers(h, &ip)) {
        r = host_use(d, h, &ip, 1, now);
    } else if (d->net.resolve) {
        memcpy(name, h->text, h->name_len);
        name[h->name_len] = 0;
        r = d->net.resolve(d->net.ctx, name, &h->handle);
    } else {
        r = DATSYNC_E_UNSUPPORTED;
    }
    if (r < 0) {
        h->handle = -1;
        host_failed(h, r, now);
    } else {
        h->state = h->handle == -1 ? HOST_KNOWN : HOST_RESOLVING;
    }
}

static void host_step(datsync_discovery *d, host *h, int ready, uint64_t now)
{
    datsync_ip list[DATSYNC_MAX_DNS_ADDRESSES * 2];
    if (h->state == HOST_WAITS && now >= h->at)
        host_begin(d, h, now);
    if (h->state == HOST_RESOLVING)
        tell_handle(d, h->handle, &h->told, DATSYNC_POLL_READ);
    if (h->state != HOST_RESOLVING || !ready)
        return;
    int r = d->net.resolved(d->net.ctx, h->handle, list, sizeof list / sizeof *list);
    if (r == DATSYNC_E_AGAIN)
        return;
    close_handle(d, &h->handle, &h->told);
    h->state = HOST_KNOWN;
    if (r >= 0)
        r = host_use(d, h, list, r < (int)(sizeof list / sizeof *list) ? r : (int)(sizeof list / sizeof *list), now);
    if (r < 0)
        host_failed(h, r, now);
}

/* ------------------------------------------------ its turn, as a source */

static size_t discovery_pollfds(void *ctx, datsync_pollfd *fds, size_t cap)
{
    const datsync_discovery *d = ctx;
    size_t n = 0;
    for (size_t i = 0; i < SOCKETS + d->hosts.count; i++) {
        intptr_t handle = i < SOCKETS ? d->sockets[i].handle : d->hosts.v[i - SOCKETS].handle;
        if (handle == -1)
            continue;
        if (n < cap) {
            fds[n].handle = handle;
            fds[n].events = DATSYNC_POLL_READ;
            fds[n].revents = 0;
        }
        n++;
    }
    return n;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t discovery_deadline(void *ctx)
{
    const datsync_discovery *d = ctx;
    uint64_t at = NEVER;
    if (d->mdns)
        at = earlier(d->interfaces.look_at, datsync_mdns_deadline(d->mdns));
    if (d->client)
        at = earlier(at, datsync_dns_client_deadline(d->client));
    if (d->dht)
        at = earlier(at, datsync_dht_deadline(d->dht));
    for (size_t i = 0; i < d->hosts.count; i++)
        if (d->hosts.v[i].state == HOST_WAITS)
            at = earlier(at, d->hosts.v[i].at);
    return at;
}

static void take_datagram(datsync_discovery *d, int socket, const uint8_t *bytes, size_t len, const datsync_ip *from)
{
    if (socket != UNICAST)
        (void)datsync_mdns_datagram(d->mdns, bytes, len, from, d->now);
    else if (!(d->client && datsync_dns_client_datagram(d->client, bytes, len, from, d->now)) && d->dht)
        (void)datsync_dht_datagram(d->dht, bytes, len, from, d->now);
}

static void read_socket(datsync_discovery *d, int socket)
{
    uint8_t bytes[DATAGRAM_BYTES];
    datsync_ip from;
    for (unsigned i = 0; i < DATAGRAMS; i++) {
        int64_t n = d->net.receive_from(d->net.ctx, d->sockets[socket].handle, bytes, sizeof bytes, &from);
        if (n == DATSYNC_E_AGAIN)
            return;
        if (n >= 0) /* an error is of one that was sent before */
            take_datagram(d, socket, bytes, (size_t)n, &from);
    }
}

static void discovery_step(void *ctx, datsync *ds, const datsync_pollfd *fds, size_t count, uint64_t now)
{
    datsync_discovery *d = ctx;
    d->ds = ds;
    d->now = now;
    for (size_t i = 0; i < d->hosts.count; i++)
        host_step(d, &d->hosts.v[i], is_ready(fds, count, d->hosts.v[i].handle), now);
    interfaces_look(d, now);
    for (int i = 0; i < SOCKETS; i++) {
        tell_handle(d, d->sockets[i].handle, &d->sockets[i].told, DATSYNC_POLL_READ);
        if (d->sockets[i].handle != -1 && is_ready(fds, count, d->sockets[i].handle))
            read_socket(d, i);
    }
    if (d->mdns && datsync_mdns_deadline(d->mdns) <= now)
        datsync_mdns_step(d->mdns, now);
    if (d->client && datsync_dns_client_deadline(d->client) <= now)
        datsync_dns_client_step(d->client, now);
    if (d->dht && datsync_dht_deadline(d->dht) <= now)
        datsync_dht_step(d->dht, now);
    d->ds = NULL;
}

/* A host that is still looked up for the first time may be the one that knows. */
static int hosts_ask(const datsync_discovery *d, int way)
{
    for (size_t i = 0; i < d->hosts.count; i++)
        if (d->hosts.v[i].way == way && d->hosts.v[i].state != HOST_KNOWN && !d->hosts.v[i].failures)
            return 1;
    return 0;
}

static int discovery_asks(void *ctx)
{
    const datsync_discovery *d = ctx;
    for (size_t i = 0; i < d->names.count; i++) {
        const uint8_t *name = d->names.v[i];
        if ((d->mdns && datsync_mdns_answered(d->mdns, name, d->now) == 0) ||
            (d->client && (hosts_ask(d, DATSYNC_BY_SERVER) || datsync_dns_client_answered(d->client, name) == 0)) ||
            (d->dht && (hosts_ask(d, DATSYNC_BY_DHT) || datsync_dht_answered(d->dht, name) == 0)))
            return 1;
    }
    return 0;
}

static void close_all(datsync_discovery *d)
{
    for (int i = 0; i < SOCKETS; i++)
        close_handle(d, &d->sockets[i].handle, &d->sockets[i].told);
    for (size_t i = 0; i < d->hosts.count; i++)
        close_handle(d, &d->hosts.v[i].handle, &d->hosts.v[i].told);
}

/* Servers are told once; a datagram that is lost leaves them what they had, until it expires. */
static void discovery_stop(void *ctx, datsync *ds, uint64_t now)
{
    datsync_discovery *d = ctx;
    d->ds = ds;
    d->now = now;
    if (d->client)
        datsync_dns_client_stop(d->client, now);
    close_all(d);
    d->ds = NULL;
}

datsync_source datsync_discovery_source(datsync_discovery *d)
{
    datsync_source source = {d, discovery_pollfds, discovery_deadline, discovery_step, discovery_asks, discovery_stop};
    return source;
}

/* ------------------------------------------------ names, reports */

static uint16_t port_told(const datsync_discovery *d, unsigned way, uint16_t port)
{
    return d->silent & 1u << way ? 0 : port;
}

static void name_remove(datsync_discovery *d, const uint8_t name[DATSYNC_NAME_BYTES], uint64_t now)
{
    if (d->mdns)
        (void)datsync_mdns_remove(d->mdns, name);
    if (d->client)
        (void)datsync_dns_client_remove(d->client, name, now);
    if (d->dht)
        (void)datsync_dht_remove(d->dht, name);
}

int datsync_discovery_add(datsync_discovery *d, const uint8_t discovery_key[32], uint16_t port, uint64_t now)
{
    size_t i = 0;
    int r = 0;
    while (i < d->names.count && memcmp(d->names.v[i], discovery_key, DATSYNC_NAME_BYTES) != 0)
        i++;
    if (i == DATSYNC_MAX_NAMES)
        return DATSYNC_E_TOO_BIG;
    memcpy(d->names.v[i], discovery_key, DATSYNC_NAME_BYTES);
    d->now = now > d->now ? now : d->now;
    if (d->mdns)
        r = datsync_mdns_add(d->mdns, discovery_key, port_told(d, DATSYNC_BY_MDNS, port), now);
    if (r >= 0 && d->client)
        r = datsync_dns_client_add(d->client, discovery_key, port_told(d, DATSYNC_BY_SERVER, port), now);
    if (r >= 0 && d->dht)
        r = datsync_dht_add(d->dht, discovery_key, port_told(d, DATSYNC_BY_DHT, port), now);
    if (i == d->names.count && r >= 0)
        d->names.count++;
    else if (i == d->names.count)
        name_remove(d, discovery_key, now); /* no way goes on with it alone */
    return r < 0 ? r : 0;
}

int datsync_discovery_remove(datsync_discovery *d, const uint8_t discovery_key[32], uint64_t now)
{
    size_t i = 0;
    while (i < d->names.count && memcmp(d->names.v[i], discovery_key, DATSYNC_NAME_BYTES) != 0)
        i++;
    if (i == d->names.count)
        return DATSYNC_E_NOT_FOUND;
    memmove(d->names.v[i], d->names.v[--d->names.count], DATSYNC_NAME_BYTES);
    name_remove(d, discovery_key, now);
    return 0;
}

int64_t datsync_discovery_save(const datsync_discovery *d, void *buf, size_t cap)
{
    return d->dht ? datsync_dht_save(d->dht, buf, cap) : 0;
}

static void report_mdns(const datsync_discovery *d, datsync_discovery_report *out)
{
    const int *four = &d->sockets[MDNS_4].error, *six = &d->sockets[MDNS_6].error;
    out->way = DATSYNC_BY_MDNS;
    out->peers = d->told[DATSYNC_BY_MDNS];
    out->error = *four < 0 && *six < 0 ? *four : out->peers ? 0 : DATSYNC_E_AGAIN;
}

static void report_dht(const datsync_discovery *d, datsync_discovery_report *out, uint64_t now)
{
    datsync_dht_state status;
    datsync_dht_status(d->dht, &status, now);
    out->way = DATSYNC_BY_DHT;
    out->peers = d->told[DATSYNC_BY_DHT];
    out->seen = status.seen;
    out->error = d->sockets[UNICAST].error < 0 ? d->sockets[UNICAST].error : status.answered ? 0 : DATSYNC_E_AGAIN;
}

static void report_host(const datsync_discovery *d, const host *h, datsync_discovery_report *out)
{
    datsync_dns_status status;
    out->way = h->way;
    out->host = h->text;
    out->at = h->address;
    out->error = h->state != HOST_KNOWN ? (h->failures ? h->error : DATSYNC_E_AGAIN) : 0;
    if (h->state != HOST_KNOWN || h->way != DATSYNC_BY_SERVER ||
        datsync_dns_client_status(d->client, h->server, &status) < 0)
        return;
    out->at = status.at;
    out->seen = status.seen;
    out->peers = status.peers;
    out->error = status.state == DATSYNC_DNS_ANSWERS ? 0 : status.error ? status.error : DATSYNC_E_AGAIN;
}

/* Of multicast DNS and of the DHT as a whole, where they are used; then of each host. */
int datsync_discovery_look(const datsync_discovery *d, size_t index, datsync_discovery_report *out, uint64_t now)
{
    memset(out, 0, sizeof *out);
    if (d->mdns && index-- == 0) {
        report_mdns(d, out);
        return 1;
    }
    if (d->dht && index-- == 0) {
        report_dht(d, out, now);
        return 1;
    }
    if (index >= d->hosts.count)
        return 0;
    report_host(d, &d->hosts.v[index], out);
    return 1;
}

/* ------------------------------------------------ from begin to end */

static int add_hosts(datsync_discovery *d, int way, const char *const *list, size_t count, size_t most)
{
    if (count > most)
        return DATSYNC_E_TOO_BIG;
    for (size_t i = 0; i < count; i++) {
        int r = host_parse(&d->hosts.v[d->hosts.count], way, list[i]);
        if (r < 0)
            return r;
        d->hosts.count++;
    }
    return 0;
}

/* Those that were named, or else the usual ones. */
static int add_named(datsync_discovery *d, int way, const char *const *named, size_t count, const char *const *usual,
                     size_t most)
{
    size_t n = 0;
    while (!named && usual[n])
        n++;
    return add_hosts(d, way, named ? named : usual, named ? count : n, most);
}

static int begin_hosts(datsync_discovery *d, const datsync_discovery_options *o)
{
    int r = 0;
    d->hosts.v = env_zeroed(&d->env, HOSTS * sizeof *d->hosts.v);
    d->names.v = env_zeroed(&d->env, DATSYNC_MAX_NAMES * sizeof *d->names.v);
    if (!d->hosts.v || !d->names.v)
        return DATSYNC_E_NOMEM;
    if (d->client)
        r = add_named(d, DATSYNC_BY_SERVER, o->servers, o->server_count, datsync_discovery_servers(),
                      DATSYNC_MAX_DNS_SERVERS);
    if (r >= 0 && d->dht)
        r = add_named(d, DATSYNC_BY_DHT, o->bootstraps, o->bootstrap_count, datsync_discovery_bootstraps(),
                      DATSYNC_MAX_BOOTSTRAPS);
    return r;
}

static int begin_engines(datsync_discovery *d, const datsync_discovery_options *o, uint64_t now)
{
    datsync_way mdns = {d, send_mdns, on_found_mdns}, server = {d, send_unicast, on_found_server},
                dht = {d, send_unicast, on_found_dht};
    int r = 0;
    if (d->ways & 1u << DATSYNC_BY_MDNS)
        r = datsync_mdns_new(&d->mdns, &d->env, &mdns);
    if (r >= 0 && d->ways & 1u << DATSYNC_BY_SERVER)
        r = datsync_dns_client_new(&d->client, &d->env, &server);
    if (r >= 0 && d->ways & 1u << DATSYNC_BY_DHT)
        r = datsync_dht_new(&d->dht, &d->env, &dht, o->saved, o->saved_len, now);
    if (d->mdns) {
        socket_open(d, MDNS_4, 4, DATSYNC_MDNS_PORT, 1);
        socket_open(d, MDNS_6, 16, DATSYNC_MDNS_PORT, 1);
    }
    if (d->client || d->dht)
        socket_open(d, UNICAST, 4, o->port, 0);
    return r;
}

int datsync_discovery_new(datsync_discovery **out, const datsync_discovery_options *o, uint64_t now)
{
    datsync_env env;
    *out = NULL;
    if (!o->net || !o->net->datagrams)
        return DATSYNC_E_UNSUPPORTED;
    env_init(&env, o->env);
    datsync_discovery *d = env_zeroed(&env, sizeof *d);
    if (!d)
        return DATSYNC_E_NOMEM;
    d->env = env;
    d->net = *o->net;
    d->ways = o->ways ? o->ways : ~0u;
    d->silent = o->silent;
    d->now = d->interfaces.look_at = now;
    for (int i = 0; i < SOCKETS; i++)
        d->sockets[i].handle = -1;
    int r = begin_engines(d, o, now);
    if (r >= 0)
        r = begin_hosts(d, o);
    if (r < 0) {
        datsync_discovery_free(d);
        return r;
    }
    *out = d;
    return 0;
}

void datsync_discovery_free(datsync_discovery *d)
{
    if (!d)
        return;
    datsync_env env = d->env;
    close_all(d);
    datsync_mdns_free(d->mdns);
    datsync_dns_client_free(d->client);
    datsync_dht_free(d->dht);
    env_free(&env, d->hosts.v);
    env_free(&env, d->names.v);
    env_free(&env, d);
}
