/* Discovery by the distributed hash table of BitTorrent (BEP 5, IPv4).
 *
 * SPDX-License-Identifier: MIT
 *
 * Rooms, in the order of the file; a room calls only earlier rooms:
 *
 *   memory and addresses · bencode · messages · the table of nodes · peers of others · queries · look-ups · answers ·
 *   the engine
 *
 * An engine is one block of memory of fixed size, with two arrays that grow up to a bound: its own names, and the peers
 * of others. Nobody is asked anew what he did not answer; what is lost is made good by asking others.
 */
#include "discovery.h"

#include <sodium.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Nodes that a look-up wants to hear from, and that are told of the own peer (the deployed peers' number). */
#define CLOSEST 20u
/* Nodes that a look-up remembers: CLOSEST, and room for those that never answer. */
#define CANDIDATES 64u
/* Of them, as many not yet heard from as one node may have told, so that one that lies costs others nothing. */
#define CANDIDATES_EACH 4u
/* Nodes of one network (its first 24 bits) in the table or in a look-up: who has one network does not get the rest. */
#define NEIGHBOURS 2u
/* Queries of one look-up that wait, and of all. */
#define LOOK_FLIGHTS 16u
#define FLIGHTS 64u
/* Look-ups at once; the first is kept for the table's. */
#define LOOKS 8u
#define FLIGHT_MS 2500u
/* Bytes of a token that can be kept (BitTorrent's have 4 to 20), and of ours. */
#define TOKEN_MOST 40u
#define TOKEN_BYTES 8u
/* A longer `t` is not repeated: nobody has one. */
#define TRANSACTION_MOST 32u
/* 8 nodes a bucket as in BEP 5. Who shares BUCKETS bits with the own id is in the last; with 16 million nodes in all
 * there are no such. */
#define BUCKETS 32u
#define BUCKET_NODES 8u
#define ANSWER_NODES 8u
/* A node that was not heard of for so long is asked again, one each PING_MS; one that was silent so often is bad. */
#define FRESH_MS 900000u
#define PING_MS 3000u
#define SILENT_MOST 3u
/* Fewer nodes than this, and the bootstraps are asked, too. */
#define NODES_ENOUGH 8u
/* Pings of nodes that are known by their query alone, in a second and at once: nobody makes us ping others faster. */
#define PINGS 8u
#define PINGS_BURST 32u
#define SECRET_MS 300000u
/* A look-up of a name begins again after AGAIN_MS to half as much more; sooner after one that nobody answered, or that
 * found nobody, then each time twice as late. */
#define AGAIN_MS 600000u
#define SILENCE_MS 2000u
#define NOBODY_MS 15000u
/* Buckets, the farthest first, that are filled by a look-up each at the start. */
#define REFRESHES_FIRST 3u
/* Addresses are counted in so many pots: two in one pot share its rate. */
#define POTS 1024u
#define PEERS_OF_BOTH 4u /* of one name and address: people behind one router */
#define ANSWER_PEERS 64u

/* ================================================================ memory and addresses ========================== */

/* An address is kept as it is written: 4 bytes and the port, big-endian. Of addresses that lead into a private network
 * or to the own machine only what comes from there is believed: who is far away cannot send us to our neighbours. */

#define AT_BYTES 6u

enum at_scope { AT_NOWHERE = -1, AT_PUBLIC, AT_PRIVATE, AT_LOOPBACK };

static const uint8_t at_nobody[AT_BYTES];

static void *env_resize(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    if (size == 0) {
        free(ptr);
        return NULL;
    }
    return realloc(ptr, size);
}

static void env_random(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    randombytes_buf(buf, len);
}

/* A number below n. */
static uint32_t env_below(const datsync_env *env, uint32_t n)
{
    uint32_t drawn;
    env->random(env->ctx, &drawn, sizeof drawn);
    return (uint32_t)((uint64_t)drawn * n >> 32);
}

static void at_of_ip(uint8_t at[AT_BYTES], const datsync_ip *ip)
{
    memcpy(at, ip->bytes, 4);
    at[4] = (uint8_t)(ip->port >> 8);
    at[5] = (uint8_t)ip->port;
}

static datsync_ip at_ip(const uint8_t at[AT_BYTES])
{
    datsync_ip ip;
    memset(&ip, 0, sizeof ip);
    memcpy(ip.bytes, at, 4);
    ip.size = 4;
    ip.port = (uint16_t)(at[4] << 8 | at[5]);
    return ip;
}

static int at_scope(const uint8_t at[AT_BYTES])
{
    uint8_t a = at[0], b = at[1];
    if (a == 0 || a >= 224 || !(at[4] | at[5]))
        return AT_NOWHERE;
    if (a == 127)
        return AT_LOOPBACK;
    return a == 10 || (a == 172 && (b & 0xf0) == 16) || (a == 192 && b == 168) || (a == 169 && b == 254) ||
                   (a == 100 && (b & 0xc0) == 64)
               ? AT_PRIVATE
               : AT_PUBLIC;
}

/* May this address be believed from, or told to, one at that place? */
static int at_believed(const uint8_t at[AT_BYTES], const uint8_t place[AT_BYTES])
{
    int scope = at_scope(at);
    return scope != AT_NOWHERE && scope <= at_scope(place);
}

/* In a private network several nodes of one host are welcome: tests, and people with few hosts. */
static int at_same_host(const uint8_t a[AT_BYTES], const uint8_t b[AT_BYTES])
{
    return memcmp(a, b, at_scope(a) == AT_PUBLIC ? 4 : AT_BYTES) == 0;
}

static int at_neighbours(const uint8_t a[AT_BYTES], const uint8_t b[AT_BYTES])
{
    return at_scope(a) == AT_PUBLIC && memcmp(a, b, 3) == 0;
}

/* Is a nearer to the target than b? The distance is their exclusive or, as a number. */
static int id_nearer(const uint8_t *target, const uint8_t *a, const uint8_t *b)
{
    for (unsigned i = 0; i < DATSYNC_NODE_BYTES; i++)
        if (a[i] != b[i])
            return (a[i] ^ target[i]) < (b[i] ^ target[i]);
    return 0;
}

static int id_equal(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, DATSYNC_NODE_BYTES) == 0;
}

/* So many may come in a second, in thousandths; what is not used is kept up to a burst. */
typedef struct budget {
    uint64_t at;
    uint32_t left;
} budget;

static int budget_has(budget *b, uint32_t rate, uint32_t burst, uint64_t now)
{
    uint64_t gained = now > b->at ? now - b->at : 0;
    if (gained > (uint64_t)burst * 1000 / rate)
        gained = (uint64_t)burst * 1000 / rate;
    uint64_t left = b->left + gained * rate;
    b->left = left > burst * 1000u ? burst * 1000u : (uint32_t)left;
    b->at = now;
    return b->left >= 1000;
}

static void budget_spend(budget *b)
{
    b->left -= 1000;
}

/* ================================================================ bencode ======================================= */

/* Strings `4:spam`, numbers `i-3e`, lists `l...e` and dictionaries `d...e` of pairs, the key a string. Read from
 * front to back, each byte at most twice, without recursion. */

typedef struct bencode {
    const uint8_t *at, *end;
} bencode;

static int bencode_sees(const bencode *b, uint8_t c)
{
    return b->at < b->end && *b->at == c;
}

/* Digits without leading zeros, as many as 63 bits surely hold, and what ends them. */
static int bencode_digits(bencode *b, uint8_t stop, int64_t *value)
{
    const uint8_t *from = b->at;
    for (*value = 0; b->at < b->end && *b->at >= '0' && *b->at <= '9'; b->at++) {
        if (b->at - from == 18)
            return DATSYNC_E_MESSAGE;
        *value = *value * 10 + (*b->at - '0');
    }
    if (b->at == from || (*from == '0' && b->at - from > 1) || !bencode_sees(b, stop))
        return DATSYNC_E_MESSAGE;
    b->at++;
    return 0;
}

static int bencode_string(bencode *b, datsync_bytes *out)
{
    int64_t len;
    if (bencode_digits(b, ':', &len) < 0 || (uint64_t)len > (uint64_t)(b->end - b->at))
        return DATSYNC_E_MESSAGE;
    out->data = b->at;
    out->len = (size_t)len;
    b->at += len;
    return 0;
}

static int bencode_number(bencode *b, int64_t *out)
{
    b->at++; /* the i */
    int negative = bencode_sees(b, '-');
    b->at += negative;
    if (bencode_digits(b, 'e', out) < 0 || (negative && *out == 0))
        return DATSYNC_E_MESSAGE;
    *out = negative ? -*out : *out;
    return 0;
}

static int bencode_single(bencode *b)
{
    datsync_bytes string;
    int64_t number;
    return bencode_sees(b, 'i') ? bencode_number(b, &number) : bencode_string(b, &string);
}

/* Pass over one value. Of each dictionary and list that is open, a bit tells which it is, and whether a key waits for
 * its value. */
static int bencode_skip(bencode *b)
{
    uint32_t dictionary = 0, key = 0, top = 0; /* top: the bit of the innermost */
    datsync_bytes string;
    do {
        if (bencode_sees(b, 'e') && top && !(key & top)) {
            b->at++;
            top >>= 1;
        } else if ((dictionary & top) && !(key & top)) {
            if (bencode_string(b, &string) < 0)
                return DATSYNC_E_MESSAGE;
            key |= top;
        } else if (bencode_sees(b, 'd') || bencode_sees(b, 'l')) {
            if (top == (uint32_t)1 << (DATSYNC_MAX_DHT_DEPTH - 1))
                return DATSYNC_E_MESSAGE;
            key &= ~top;
            top = top ? top << 1 : 1;
            dictionary = *b->at == 'd' ? dictionary | top : dictionary & ~top;
            key &= ~top;
            b->at++;
        } else {
            if (bencode_single(b) < 0)
                return DATSYNC_E_MESSAGE;
            key &= ~top;
        }
    } while (top);
    return 0;
}

/* The next key of a dictionary: 1, or 0 at its end, which is then behind. */
static int bencode_key(bencode *b, datsync_bytes *key)
{
    if (bencode_sees(b, 'e')) {
        b->at++;
        return 0;
    }
    return bencode_string(b, key) < 0 ? DATSYNC_E_MESSAGE : 1;
}

/* ================================================================ messages ====================================== */

/* A message is a dictionary: `t`, `y` (which of q, r and e), and by that `q` and `a`, `r`, or `e`. The fields of `a`
 * and `r` have one meaning wherever they come, so one table serves to read and to write both, in the order in which
 * they are written. */

enum field_kind { FIELD_STRING, FIELD_NUMBER, FIELD_LIST };

typedef struct field {
    const char *key;
    uint8_t kind, len; /* of a string; 0: any */
    size_t at;
} field;

static const field fields[] = {
    {"id", FIELD_STRING, DATSYNC_NODE_BYTES, offsetof(datsync_dht_message, id)},
    {"implied_port", FIELD_NUMBER, 0, offsetof(datsync_dht_message, implied_port)},
    {"info_hash", FIELD_STRING, DATSYNC_NAME_BYTES, offsetof(datsync_dht_message, name)},
    {"nodes", FIELD_STRING, 0, offsetof(datsync_dht_message, nodes)},
    {"port", FIELD_NUMBER, 0, offsetof(datsync_dht_message, port)},
    {"target", FIELD_STRING, DATSYNC_NODE_BYTES, offsetof(datsync_dht_message, target)},
    {"token", FIELD_STRING, 0, offsetof(datsync_dht_message, token)},
    {"values", FIELD_LIST, 0, offsetof(datsync_dht_message, peers)},
};
enum { FIELDS = sizeof fields / sizeof *fields };

static const char *const queries[] = {"ping", "find_node", "get_peers", "announce_peer"};
enum { QUERIES = sizeof queries / sizeof *queries };

static datsync_bytes bytes_of(const void *data, size_t len)
{
    datsync_bytes bytes = {data, len};
    return bytes;
}

static int bytes_are(datsync_bytes bytes, const char *text)
{
    return bytes.data && bytes.len == strlen(text) && memcmp(bytes.data, text, bytes.len) == 0;
}

static void message_clear(datsync_dht_message *m, int kind)
{
    memset(m, 0, sizeof *m);
    m->kind = kind;
    m->port = m->implied_port = m->code = m->read_only = -1;
}

/* Read a value to where it belongs. What is of another type or length is passed over. */
static int field_read(bencode *b, enum field_kind kind, size_t len, void *to)
{
    const uint8_t *from = b->at;
    datsync_bytes string;
    if (kind == FIELD_NUMBER && bencode_sees(b, 'i'))
        return bencode_number(b, to);
    if (kind == FIELD_STRING && b->at < b->end && *b->at >= '0' && *b->at <= '9') {
        if (bencode_string(b, &string) < 0)
            return DATSYNC_E_MESSAGE;
        if (!len || string.len == len)
            *(datsync_bytes *)to = string;
        return 0;
    }
    int list = kind == FIELD_LIST && bencode_sees(b, 'l'), r = bencode_skip(b);
    if (r == 0 && list)
        *(datsync_bytes *)to = bytes_of(from + 1, (size_t)(b->at - from) - 2);
    return r;
}

/* The dictionary `a` or `r`. */
static int message_fields(bencode *b, datsync_dht_message *m)
{
    datsync_bytes key;
    int more;
    if (!bencode_sees(b, 'd'))
        return bencode_skip(b);
    b->at++;
    while ((more = bencode_key(b, &key)) > 0) {
        size_t i = 0;
        while (i < FIELDS && !bytes_are(key, fields[i].key))
            i++;
        if ((i == FIELDS ? bencode_skip(b) : field_read(b, fields[i].kind, fields[i].len, (char *)m + fields[i].at)) <
            0)
            return DATSYNC_E_MESSAGE;
    }
    return more;
}

/* The list of an error: its code and words. */
static int message_error(bencode *b, datsync_dht_message *m)
{
    datsync_bytes inside = {NULL, 0};
    int r = field_read(b, FIELD_LIST, 0, &inside);
    bencode list = {inside.data, inside.data ? inside.data + inside.len : NULL};
    if (r == 0 && list.at < list.end)
        r = field_read(&list, FIELD_NUMBER, 0, &m->code);
    if (r == 0 && list.at < list.end)
        r = field_read(&list, FIELD_STRING, 0, &m->text);
    return r;
}

static int message_kind(datsync_dht_message *m, datsync_bytes kind, datsync_bytes query)
{
    int i = 0;
    if (!m->transaction.data)
        return DATSYNC_E_MESSAGE;
    if (bytes_are(kind, "r") || bytes_are(kind, "e")) {
        m->kind = *kind.data == 'r' ? DATSYNC_DHT_ANSWER : DATSYNC_DHT_ERROR;
        return 0;
    }
    if (!bytes_are(kind, "q") || !query.data)
        return DATSYNC_E_MESSAGE;
    while (i < QUERIES && !bytes_are(query, queries[i]))
        i++;
    m->kind = DATSYNC_DHT_PING + i; /* behind the last is DATSYNC_DHT_OTHER_QUERY */
    m->text = query;
    return 0;
}

int datsync_dht_parse(datsync_dht_message *m, const void *bytes, size_t len)
{
    datsync_bytes key, kind = {NULL, 0}, query = {NULL, 0};
    int more, r = 0;
    message_clear(m, 0);
    if (!len || *(const uint8_t *)bytes != 'd')
        return DATSYNC_E_MESSAGE;
    bencode b = {(const uint8_t *)bytes + 1, (const uint8_t *)bytes + len};
    while (r == 0 && (more = bencode_key(&b, &key)) != 0)
        if (more < 0)
            r = more;
        else if (bytes_are(key, "a") || bytes_are(key, "r"))
            r = message_fields(&b, m);
        else if (bytes_are(key, "e"))
            r = message_error(&b, m);
        else if (bytes_are(key, "ip"))
            r = field_read(&b, FIELD_STRING, AT_BYTES, &m->seen);
        else if (bytes_are(key, "q"))
            r = field_read(&b, FIELD_STRING, 0, &query);
        else if (bytes_are(key, "ro"))
            r = field_read(&b, FIELD_NUMBER, 0, &m->read_only);
        else if (bytes_are(key, "t"))
            r = field_read(&b, FIELD_STRING, 0, &m->transaction);
        else if (bytes_are(key, "y"))
            r = field_read(&b, FIELD_STRING, 0, &kind);
        else
            r = bencode_skip(&b);
    return r < 0 ? r : message_kind(m, kind, query);
}

int datsync_dht_next_node(datsync_bytes *nodes, uint8_t id[DATSYNC_NODE_BYTES], datsync_ip *ip)
{
    if (nodes->len < DATSYNC_NODE_BYTES + AT_BYTES)
        return 0;
    memcpy(id, nodes->data, DATSYNC_NODE_BYTES);
    *ip = at_ip(nodes->data + DATSYNC_NODE_BYTES);
    nodes->data += DATSYNC_NODE_BYTES + AT_BYTES;
    nodes->len -= DATSYNC_NODE_BYTES + AT_BYTES;
    return 1;
}

int datsync_dht_next_peer(datsync_bytes *peers, datsync_ip *ip)
{
    datsync_bytes peer = {NULL, 0};
    while (peers->len && !peer.data) {
        bencode b = {peers->data, peers->data + peers->len};
        if (field_read(&b, FIELD_STRING, AT_BYTES, &peer) < 0)
            b.at = b.end;
        *peers = bytes_of(b.at, (size_t)(b.end - b.at));
    }
    if (!peer.data)
        return 0;
    *ip = at_ip(peer.data);
    return 1;
}

/* Where a message is written; what has no room is counted, not written. */
typedef struct output {
    uint8_t *to;
    size_t len, cap;
} output;

static void output_raw(output *o, const void *bytes, size_t len)
{
    if (len && o->len <= o->cap && len <= o->cap - o->len)
        memcpy(o->to + o->len, bytes, len);
    o->len += len;
}

static void output_text(output *o, const char *text)
{
    output_raw(o, text, strlen(text));
}

static void output_digits(output *o, uint64_t value)
{
    char digits[20];
    size_t n = sizeof digits;
    do {
        digits[--n] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    output_raw(o, digits + n, sizeof digits - n);
}

static void output_string(output *o, datsync_bytes value)
{
    output_digits(o, value.len);
    output_text(o, ":");
    output_raw(o, value.data, value.len);
}

static void output_number(output *o, int64_t value)
{
    output_text(o, "i");
    output_digits(o, (uint64_t)value);
    output_text(o, "e");
}

/* A pair of key and value, if there is a value. */
static void output_pair(output *o, const char *key, enum field_kind kind, const void *from)
{
    const datsync_bytes *bytes = from;
    const int64_t *number = from;
    if (kind == FIELD_NUMBER ? *number < 0 : !bytes->data)
        return;
    output_string(o, bytes_of(key, strlen(key)));
    if (kind == FIELD_NUMBER) {
        output_number(o, *number);
    } else if (kind == FIELD_STRING) {
        output_string(o, *bytes);
    } else {
        output_text(o, "l");
        output_raw(o, bytes->data, bytes->len);
        output_text(o, "e");
    }
}

static void output_fields(output *o, const char *key, const datsync_dht_message *m)
{
    output_text(o, key);
    for (size_t i = 0; i < FIELDS; i++)
        output_pair(o, fields[i].key, fields[i].kind, (const char *)m + fields[i].at);
    output_text(o, "e");
}

int64_t datsync_dht_write(void *buf, size_t cap, const datsync_dht_message *m)
{
    int query = m->kind < DATSYNC_DHT_ANSWER;
    datsync_bytes name = m->text;
    output o = {buf, 0, cap};
    if (m->kind < DATSYNC_DHT_PING || m->kind > DATSYNC_DHT_ERROR || !m->transaction.data)
        return DATSYNC_E_INVALID;
    if (m->kind < DATSYNC_DHT_OTHER_QUERY)
        name = bytes_of(queries[m->kind - DATSYNC_DHT_PING], strlen(queries[m->kind - DATSYNC_DHT_PING]));
    output_text(&o, "d");
    if (query)
        output_fields(&o, "1:ad", m);
    if (m->kind == DATSYNC_DHT_ERROR) {
        output_text(&o, "1:el");
        output_number(&o, m->code < 0 ? 201 : m->code);
        output_string(&o, m->text);
        output_text(&o, "e");
    }
    output_pair(&o, "ip", FIELD_STRING, &m->seen);
    if (query)
        output_pair(&o, "q", FIELD_STRING, &name);
    if (m->kind == DATSYNC_DHT_ANSWER)
        output_fields(&o, "1:rd", m);
    output_pair(&o, "ro", FIELD_NUMBER, &m->read_only);
    output_pair(&o, "t", FIELD_STRING, &m->transaction);
    output_text(&o, query ? "1:y1:qe" : m->kind == DATSYNC_DHT_ANSWER ? "1:y1:re" : "1:y1:ee");
    return o.len > cap ? DATSYNC_E_SPACE : (int64_t)o.len;
}

/* ================================================================ the table of nodes ============================ */

/* The nodes that are known, in buckets by how many leading bits their id shares with the own one: few of the many far
 * ones, nearly all of the near ones. A node that was heard only by its query (whose sender can be forged) takes an
 * empty place or that of its like, is told to nobody, and gives way to one that answered. A node that answers is never
 * pushed out. One node an address; NEIGHBOURS of one network. */

typedef struct node {
    uint8_t id[DATSYNC_NODE_BYTES], at[AT_BYTES]; /* at: port 0, the place is empty */
    uint8_t answered;                             /* at least once */
    uint8_t silent;                               /* queries without answer since the last one */
    uint64_t heard, asked;
} node;

#define NODES (BUCKETS * BUCKET_NODES)

typedef struct table {
    uint8_t id[DATSYNC_NODE_BYTES];
    node nodes[NODES];
} table;

/* What a node is good for. */
enum node_use { NODE_ANY, NODE_ASK, NODE_TELL };

static int node_is(const node *n, enum node_use use)
{
    if (at_scope(n->at) == AT_NOWHERE)
        return 0;
    return use == NODE_ANY ||
           (use == NODE_TELL ? n->answered && !n->silent : n->silent < (n->answered ? SILENT_MOST : 1));
}

/* When it wants to be asked again. */
static uint64_t node_due(const node *n)
{
    return n->answered && !n->silent ? n->heard + FRESH_MS : 0;
}

static unsigned table_bucket(const table *t, const uint8_t *id)
{
    unsigned bits = 0;
    while (bits < BUCKETS - 1 && !((id[bits / 8] ^ t->id[bits / 8]) >> (7 - bits % 8) & 1))
        bits++;
    return bits;
}

static node *table_at(table *t, const uint8_t at[AT_BYTES])
{
    for (unsigned i = 0; i < NODES; i++)
        if (memcmp(t->nodes[i].at, at, AT_BYTES) == 0)
            return &t->nodes[i];
    return NULL;
}

/* Is there another node of this host, or are there too many of its network, or one with this id that still answers? One
 * that answered counts others that did. */
static int table_refuses(const table *t, const uint8_t *id, const uint8_t at[AT_BYTES], int answered)
{
    unsigned neighbours = 0;
    for (unsigned i = 0; i < NODES; i++) {
        const node *n = &t->nodes[i];
        if (!node_is(n, answered ? NODE_TELL : NODE_ASK))
            continue;
        neighbours += (unsigned)at_neighbours(n->at, at);
        if (at_same_host(n->at, at) || id_equal(n->id, id))
            return 1;
    }
    return neighbours >= NEIGHBOURS;
}

/* The place for a new node: an empty one, else that of one that is worth less. */
static node *table_place(table *t, const uint8_t *id, int answered)
{
    node *bucket = &t->nodes[table_bucket(t, id) * BUCKET_NODES], *place = NULL;
    for (unsigned i = 0; i < BUCKET_NODES; i++) {
        if (at_scope(bucket[i].at) == AT_NOWHERE)
            return &bucket[i];
        if (!node_is(&bucket[i], NODE_ASK) || (answered && !bucket[i].answered))
            place = &bucket[i];
    }
    return place;
}

/* A node was heard: it answered, or it asked. Returns it if it is new here. */
static node *table_heard(table *t, const uint8_t *id, const uint8_t at[AT_BYTES], int answered, uint64_t now)
{
    node *n = table_at(t, at);
    if (at_scope(at) == AT_NOWHERE || id_equal(id, t->id))
        return NULL;
    if (n && id_equal(n->id, id)) {
        n->answered = (uint8_t)(n->answered | answered);
        n->silent = answered ? 0 : n->silent;
        n->heard = n->answered ? now : n->heard;
        return NULL;
    }
    if (n && !answered)
        return NULL; /* another id at its address is believed if it comes with an answer */
    if (n)
        memset(n, 0, sizeof *n);
    if (table_refuses(t, id, at, answered) || (n = table_place(t, id, answered)) == NULL)
        return NULL;
    memset(n, 0, sizeof *n);
    memcpy(n->id, id, DATSYNC_NODE_BYTES);
    memcpy(n->at, at, AT_BYTES);
    n->answered = (uint8_t)answered;
    n->heard = now;
    return n;
}

static void table_silent(table *t, const uint8_t at[AT_BYTES])
{
    node *n = table_at(t, at);
    if (n && n->silent < SILENT_MOST)
        n->silent++;
}

/* The nodes nearest to a target that are good for something and that `place` may be told of (NULL: all), the nearest
 * first. Returns how many. */
static unsigned table_nearest(const table *t, const uint8_t *target, enum node_use use, const uint8_t *place,
                              const node *out[], unsigned most)
{
    unsigned n = 0;
    for (unsigned i = 0; i < NODES; i++) {
        const node *one = &t->nodes[i];
        if (!node_is(one, use) || (place && !at_believed(one->at, place)))
            continue;
        unsigned at = n;
        while (at > 0 && id_nearer(target, one->id, out[at - 1]->id))
            at--;
        if (at == most)
            continue;
        n += n < most;
        memmove(&out[at + 1], &out[at], (n - 1 - at) * sizeof *out);
        out[at] = one;
    }
    return n;
}

/* The node that was asked longest ago, of those not heard of for long and still worth a query. */
static node *table_due(table *t, uint64_t now)
{
    node *due = NULL;
    for (unsigned i = 0; i < NODES; i++) {
        node *n = &t->nodes[i];
        if (node_is(n, NODE_ASK) && now >= node_due(n) && (!due || n->asked < due->asked))
            due = n;
    }
    return due;
}

/* ================================================================ peers of others =============================== */

/* Who announced which name here. Only who shows the token that was sent to his address may: so the sender is no forged
 * one. Nobody is pushed out; what is full stays full until something expires, and one address cannot fill it. */

typedef struct held {
    uint8_t name[DATSYNC_NAME_BYTES], at[AT_BYTES];
    uint64_t until;
} held;

typedef struct peers {
    held *list;
    size_t n, cap;
    uint8_t secret[2][32]; /* of now, and the one before */
    uint64_t secret_until;
} peers;

static void peers_token(const peers *p, unsigned which, const uint8_t at[AT_BYTES], uint8_t token[TOKEN_BYTES])
{
    uint8_t hash[crypto_generichash_BYTES_MIN];
    (void)crypto_generichash(hash, sizeof hash, at, 4, p->secret[which], sizeof p->secret[which]);
    memcpy(token, hash, TOKEN_BYTES);
}

/* A token lasts for 5 to 10 minutes. */
static void peers_turn_secrets(const datsync_env *env, peers *p, uint64_t now)
{
    if (now < p->secret_until)
        return;
    if (now < p->secret_until + SECRET_MS)
        memcpy(p->secret[1], p->secret[0], sizeof p->secret[1]);
    else
        env->random(env->ctx, p->secret[1], sizeof p->secret[1]);
    env->random(env->ctx, p->secret[0], sizeof p->secret[0]);
    p->secret_until = now + SECRET_MS;
}

static int peers_token_valid(const peers *p, const uint8_t at[AT_BYTES], datsync_bytes token)
{
    uint8_t ours[TOKEN_BYTES];
    for (unsigned i = 0; i < 2; i++) {
        peers_token(p, i, at, ours);
        if (token.len == TOKEN_BYTES && sodium_memcmp(ours, token.data, TOKEN_BYTES) == 0)
            return 1;
    }
    return 0;
}

static void peers_expire(peers *p, uint64_t now)
{
    for (size_t i = 0; i < p->n;)
        if (now >= p->list[i].until)
            p->list[i] = p->list[--p->n];
        else
            i++;
}

static int peers_grow(const datsync_env *env, peers *p)
{
    if (p->n < p->cap)
        return 0;
    size_t cap = p->cap ? 2 * p->cap : 32;
    held *list = cap > DATSYNC_DHT_PEERS ? NULL : env->resize(env->ctx, p->list, cap * sizeof *list);
    if (!list)
        return DATSYNC_E_TOO_BIG;
    p->list = list;
    p->cap = cap;
    return 0;
}

/* Keep a peer, or keep it longer. */
static int peers_add(const datsync_env *env, peers *p, const uint8_t *name, const uint8_t at[AT_BYTES], uint64_t now)
{
    unsigned of_name = 0, of_address = 0, of_both = 0;
    peers_expire(p, now);
    for (size_t i = 0; i < p->n; i++) {
        held *h = &p->list[i];
        int same = memcmp(h->name, name, DATSYNC_NAME_BYTES) == 0, near = memcmp(h->at, at, 4) == 0;
        if (same && memcmp(h->at, at, AT_BYTES) == 0) {
            h->until = now + DATSYNC_DHT_PEER_MS;
            return 0;
        }
        of_name += (unsigned)same;
        of_address += (unsigned)near;
        of_both += (unsigned)(same && near && at_scope(at) == AT_PUBLIC);
    }
    if (of_name >= DATSYNC_DHT_PEERS_OF_NAME || of_address >= DATSYNC_DHT_PEERS_OF_ADDRESS ||
        of_both >= PEERS_OF_BOTH || peers_grow(env, p) < 0)
        return DATSYNC_E_TOO_BIG;
    held *h = &p->list[p->n++];
    memcpy(h->name, name, DATSYNC_NAME_BYTES);
    memcpy(h->at, at, AT_BYTES);
    h->until = now + DATSYNC_DHT_PEER_MS;
    return 0;
}

/* Peers of a name that one at that place may be told of, as items of a list: at most so many, drawn by chance. */
static unsigned peers_draw(const datsync_env *env, const peers *p, const uint8_t *name, const uint8_t *place,
                           uint64_t now, uint8_t *out, unsigned most)
{
    unsigned n = 0, seen = 0;
    for (size_t i = 0; i < p->n && most; i++) {
        const held *h = &p->list[i];
        if (memcmp(h->name, name, DATSYNC_NAME_BYTES) != 0 || now >= h->until || !at_believed(h->at, place))
            continue;
        unsigned at = seen < most ? seen : env_below(env, seen + 1);
        seen++;
        if (at >= most)
            continue;
        n += n < most;
        memcpy(out + 8 * at, "6:", 2);
        memcpy(out + 8 * at + 2, h->at, AT_BYTES);
    }
    return n;
}

/* ================================================================ queries ======================================= */

/* Our queries wait for their answer, which must come from the address that was asked and repeat `t`, two bytes drawn by
 * chance: who cannot see the query cannot answer it. */

enum { NO_LOOK = LOOKS };

typedef struct flight {
    uint8_t at[AT_BYTES], transaction[2];
    uint8_t kind; /* 0: free */
    uint8_t look; /* whose it is, or NO_LOOK */
    uint64_t until;
} flight;

enum candidate_state { TOLD, ASKED, HEARD, GIVEN, FAILED };

typedef struct candidate {
    uint8_t id[DATSYNC_NODE_BYTES], at[AT_BYTES], teller[AT_BYTES]; /* teller: at_nobody, it is from our own table */
    uint8_t state, token_len, token[TOKEN_MOST];
} candidate;

enum look_stage { LOOK_FREE, LOOK_ASKING, LOOK_GIVING };

typedef struct look {
    uint8_t target[DATSYNC_NODE_BYTES];
    uint8_t stage;
    uint8_t nodes_only; /* find_node, for the table */
    uint16_t port;
    unsigned flights, queries, heard, given, found;
    size_t n;
    candidate list[CANDIDATES]; /* the nearest first */
} look;

typedef struct wanted {
    uint8_t name[DATSYNC_NAME_BYTES];
    uint16_t port;
    uint8_t answered, running, tries;
    uint64_t next;
} wanted;

struct datsync_dht {
    datsync_env env;
    datsync_way way;
    table table;
    peers peers;
    flight flights[FLIGHTS];
    look looks[LOOKS];
    wanted *names;
    size_t n_names, cap_names;
    uint8_t boots[DATSYNC_MAX_BOOTSTRAPS][AT_BYTES];
    size_t n_boots;
    budget answers, pings, pots[POTS];
    uint8_t pot_key[crypto_shorthash_KEYBYTES];
    uint64_t ping_at, refresh_at;
    unsigned refreshes, refresh_tries;
    int stuck; /* a look-up could not begin: nobody is known */
    uint64_t looked_up, answered;
    uint8_t seen[AT_BYTES];
};

static flight *flight_find(datsync_dht *d, const uint8_t *at, const uint8_t transaction[2])
{
    for (unsigned i = 0; i < FLIGHTS; i++) {
        flight *f = &d->flights[i];
        if (f->kind && memcmp(f->transaction, transaction, 2) == 0 && (!at || memcmp(f->at, at, AT_BYTES) == 0))
            return f;
    }
    return NULL;
}

/* Send a query and wait for its answer. 0, or -1 if too many wait. */
static int flight_send(datsync_dht *d, datsync_dht_message *m, const uint8_t at[AT_BYTES], unsigned owner, uint64_t now)
{
    uint8_t packet[DATSYNC_MAX_DATAGRAM];
    unsigned i = 0;
    while (i < FLIGHTS && d->flights[i].kind)
        i++;
    if (i == FLIGHTS)
        return -1;
    flight *f = &d->flights[i];
    d->env.random(d->env.ctx, f->transaction, sizeof f->transaction);
    while (flight_find(d, NULL, f->transaction))
        f->transaction[0]++;
    memcpy(f->at, at, AT_BYTES);
    f->kind = (uint8_t)m->kind;
    f->look = (uint8_t)owner;
    f->until = now + FLIGHT_MS;
    m->transaction = bytes_of(f->transaction, sizeof f->transaction);
    m->id = bytes_of(d->table.id, DATSYNC_NODE_BYTES);
    int64_t len = datsync_dht_write(packet, sizeof packet, m);
    datsync_ip to = at_ip(at);
    d->way.send(d->way.ctx, &to, packet, (size_t)len);
    return 0;
}

static void ping(datsync_dht *d, node *n, uint64_t now)
{
    datsync_dht_message m;
    message_clear(&m, DATSYNC_DHT_PING);
    if (flight_send(d, &m, n->at, NO_LOOK, now) == 0)
        n->asked = now;
}

/* ================================================================ look-ups ====================================== */

/* Ask the nodes nearest to a target for nearer ones, until the CLOSEST nearest of all that are known have answered or
 * are silent; then give each of them the own peer. What nodes tell is bounded for each: so many nodes not yet heard of,
 * so many peers. A node that lies can add queries that nobody answers; it cannot push out what others told. */

static size_t candidate_place(look *l, const candidate *c)
{
    size_t at = l->n;
    while (at > 0 && id_nearer(l->target, c->id, l->list[at - 1].id))
        at--;
    memmove(&l->list[at + 1], &l->list[at], (l->n - at) * sizeof *l->list);
    l->list[at] = *c;
    l->n++;
    return at;
}

static void candidate_remove(look *l, size_t at)
{
    l->n--;
    memmove(&l->list[at], &l->list[at + 1], (l->n - at) * sizeof *l->list);
}

/* Which one gives way in a full list: a silent one, else the farthest that is not being asked. */
static size_t candidate_last(const look *l)
{
    size_t last = l->n;
    for (size_t i = l->n; i-- > 0;) {
        if (l->list[i].state == FAILED)
            return i;
        if (last == l->n && l->list[i].state != ASKED)
            last = i;
    }
    return last;
}

/* A node was told by another, or is in the own table (teller: at_nobody). */
static void look_offer(const datsync_dht *d, look *l, const uint8_t *id, const uint8_t *at, const uint8_t *teller)
{
    candidate c;
    unsigned neighbours = 0, told = 0;
    size_t victim = l->n;
    int was_told =
        at_scope(teller) != AT_NOWHERE; /* the own table has its bounds, and who named a bootstrap meant it */
    if (at_scope(at) == AT_NOWHERE || id_equal(id, d->table.id))
        return;
    for (size_t i = 0; i < l->n; i++) {
        const candidate *o = &l->list[i];
        if (memcmp(o->at, at, AT_BYTES) == 0 || (was_told && o->state != FAILED && at_same_host(o->at, at)))
            return;
        neighbours += was_told && o->state != FAILED && at_neighbours(o->at, at);
        if (o->state == TOLD && was_told && memcmp(o->teller, teller, AT_BYTES) == 0) {
            told++;
            victim = i;
        }
    }
    if (neighbours >= NEIGHBOURS)
        return;
    if (told < CANDIDATES_EACH)
        victim = l->n == CANDIDATES ? candidate_last(l) : l->n;
    if (victim < l->n) {
        if (l->list[victim].state != FAILED && !id_nearer(l->target, id, l->list[victim].id))
            return;
        candidate_remove(l, victim);
    } else if (l->n == CANDIDATES) {
        return;
    }
    memset(&c, 0, sizeof c);
    memcpy(c.id, id, DATSYNC_NODE_BYTES);
    memcpy(c.at, at, AT_BYTES);
    memcpy(c.teller, teller, AT_BYTES);
    (void)candidate_place(l, &c);
}

/* A bootstrap's id is not known before it answers: until then it is the farthest. */
static void look_offer_boots(const datsync_dht *d, look *l)
{
    uint8_t far[DATSYNC_NODE_BYTES];
    for (unsigned i = 0; i < sizeof far; i++)
        far[i] = (uint8_t)~l->target[i];
    for (size_t i = 0; i < d->n_boots; i++)
        look_offer(d, l, far, d->boots[i], at_nobody);
}

/* Begin with the own table's nodes that answer; where these are few, with all that might, and the bootstraps; with
 * those that were silent where there are no others (the network may have been away). 0, or -1: nobody can be asked. */
static int look_begin(const datsync_dht *d, look *l, const uint8_t *target, int nodes_only, uint16_t port)
{
    const node *nearest[CLOSEST];
    unsigned n = 0;
    int few = 1;
    memset(l, 0, sizeof *l);
    memcpy(l->target, target, sizeof l->target);
    l->nodes_only = (uint8_t)nodes_only;
    l->port = port;
    for (int use = NODE_TELL; few && use >= NODE_ANY && (use > NODE_ANY || !n); use--) {
        n = table_nearest(&d->table, target, (enum node_use)use, NULL, nearest, CLOSEST);
        few = n < NODES_ENOUGH;
    }
    for (unsigned i = 0; i < n; i++)
        look_offer(d, l, nearest[i]->id, nearest[i]->at, at_nobody);
    if (few)
        look_offer_boots(d, l);
    l->stage = l->n ? LOOK_ASKING : LOOK_FREE;
    return l->n ? 0 : -1;
}

static wanted *wanted_find(const datsync_dht *d, const uint8_t *name)
{
    for (size_t i = 0; i < d->n_names; i++)
        if (memcmp(d->names[i].name, name, DATSYNC_NAME_BYTES) == 0)
            return &d->names[i];
    return NULL;
}

static uint64_t look_again(const datsync_dht *d, uint64_t now)
{
    return now + AGAIN_MS + env_below(&d->env, AGAIN_MS / 2);
}

/* The next time, twice as late with each try. */
static uint64_t look_retry(const datsync_dht *d, uint64_t first, unsigned tries, uint64_t now)
{
    uint64_t wait = first << (tries < 9 ? tries : 9);
    return wait < AGAIN_MS ? now + wait + env_below(&d->env, (uint32_t)wait / 4) : look_again(d, now);
}

static void look_end(datsync_dht *d, look *l, uint64_t now)
{
    l->stage = LOOK_FREE;
    d->looked_up++;
    if (l->nodes_only) {
        const node *some[NODES_ENOUGH];
        int few = table_nearest(&d->table, l->target, NODE_TELL, NULL, some, NODES_ENOUGH) < NODES_ENOUGH;
        d->refresh_at = !l->heard                         ? look_retry(d, SILENCE_MS, d->refresh_tries, now)
                        : few                             ? look_retry(d, NOBODY_MS, d->refresh_tries, now)
                        : d->refreshes <= REFRESHES_FIRST ? now + SILENCE_MS
                                                          : look_again(d, now);
        d->refresh_tries = !l->heard || few ? d->refresh_tries + (d->refresh_tries < 9) : 0;
        return;
    }
    wanted *w = wanted_find(d, l->target);
    if (!w)
        return;
    int nobody = !l->heard || (l->port && !l->given), useless = !l->found;
    w->running = 0;
    w->answered = 1;
    w->next = nobody    ? look_retry(d, SILENCE_MS, w->tries, now)
              : useless ? look_retry(d, NOBODY_MS, w->tries, now)
                        : look_again(d, now);
    w->tries = (uint8_t)(nobody || useless ? w->tries + (w->tries < 9) : 0);
}

static int look_ask(datsync_dht *d, look *l, candidate *c, uint64_t now)
{
    datsync_dht_message m;
    message_clear(&m, l->nodes_only ? DATSYNC_DHT_FIND_NODE : DATSYNC_DHT_GET_PEERS);
    *(l->nodes_only ? &m.target : &m.name) = bytes_of(l->target, sizeof l->target);
    if (flight_send(d, &m, c->at, (unsigned)(l - d->looks), now) < 0)
        return -1;
    c->state = ASKED;
    l->queries++;
    l->flights++;
    return 0;
}

static int look_give(datsync_dht *d, look *l, candidate *c, uint64_t now)
{
    datsync_dht_message m;
    message_clear(&m, DATSYNC_DHT_ANNOUNCE_PEER);
    m.name = bytes_of(l->target, sizeof l->target);
    m.token = bytes_of(c->token, c->token_len);
    m.port = l->port;
    m.implied_port = 0;
    if (flight_send(d, &m, c->at, (unsigned)(l - d->looks), now) < 0)
        return -1;
    c->state = GIVEN;
    l->flights++;
    return 0;
}

/* Send what may be sent to the nearest that were not silent. 0, or -1: too many queries wait in all. */
static int look_send(datsync_dht *d, look *l, uint64_t now)
{
    unsigned nearest = 0;
    for (size_t i = 0; i < l->n && nearest < CLOSEST && l->flights < LOOK_FLIGHTS; i++) {
        candidate *c = &l->list[i];
        int r = 0;
        if (c->state == FAILED || (l->stage == LOOK_GIVING && c->state == TOLD))
            continue;
        nearest++;
        if (l->stage == LOOK_ASKING && c->state == TOLD && l->queries < DATSYNC_DHT_QUERIES)
            r = look_ask(d, l, c, now);
        if (l->stage == LOOK_GIVING && c->state == HEARD && c->token_len)
            r = look_give(d, l, c, now);
        if (r < 0)
            return -1;
    }
    return 0;
}

static void look_run(datsync_dht *d, look *l, uint64_t now)
{
    while (l->stage != LOOK_FREE) {
        if (look_send(d, l, now) < 0 || l->flights)
            return;
        if (l->stage == LOOK_ASKING && l->port)
            l->stage = LOOK_GIVING;
        else
            look_end(d, l, now);
    }
}

/* Give a peer to the caller. */
static void look_found(datsync_dht *d, const uint8_t *name, const datsync_ip *peer, const uint8_t *teller)
{
    uint8_t at[AT_BYTES];
    wanted *w = wanted_find(d, name);
    at_of_ip(at, peer);
    if (!w || !at_believed(at, teller))
        return;
    datsync_ip informant = at_ip(teller);
    w->answered = 1;
    d->way.found(d->way.ctx, name, peer, &informant);
}

/* Of many peers, some in a row, from a place that is drawn. */
static void look_peers(datsync_dht *d, look *l, datsync_bytes list, const uint8_t *teller)
{
    datsync_bytes rest = list;
    datsync_ip ip;
    uint32_t all = 0, from = 0;
    while (datsync_dht_next_peer(&rest, &ip))
        all++;
    if (all > DATSYNC_DHT_FOUND_EACH)
        from = env_below(&d->env, all);
    for (uint32_t i = 0; datsync_dht_next_peer(&list, &ip); i++) {
        if ((i >= from ? i - from : i + all - from) >= DATSYNC_DHT_FOUND_EACH)
            continue;
        l->found++;
        look_found(d, l->target, &ip, teller);
    }
}

/* What was told by one that was asked. */
static void look_heard(datsync_dht *d, look *l, const uint8_t at[AT_BYTES], const datsync_dht_message *m)
{
    datsync_bytes nodes = m->nodes;
    uint8_t id[DATSYNC_NODE_BYTES], told[AT_BYTES];
    datsync_ip ip;
    size_t i = 0;
    while (i < l->n && (l->list[i].state != ASKED || memcmp(l->list[i].at, at, AT_BYTES) != 0))
        i++;
    if (i == l->n)
        return;
    candidate c = l->list[i];
    candidate_remove(l, i);
    memcpy(c.id, m->id.data, sizeof c.id); /* who told of it may have lied about its id */
    c.state = HEARD;
    if (m->token.data && m->token.len && m->token.len <= TOKEN_MOST) {
        c.token_len = (uint8_t)m->token.len;
        memcpy(c.token, m->token.data, m->token.len);
    }
    (void)candidate_place(l, &c);
    l->heard++;
    for (unsigned n = 0; n < CLOSEST && datsync_dht_next_node(&nodes, id, &ip); n++) {
        at_of_ip(told, &ip);
        if (at_believed(told, at))
            look_offer(d, l, id, told, at);
    }
    if (!l->nodes_only)
        look_peers(d, l, m->peers, at);
}

static void look_silent(look *l, const uint8_t at[AT_BYTES])
{
    for (size_t i = 0; i < l->n; i++)
        if (l->list[i].state == ASKED && memcmp(l->list[i].at, at, AT_BYTES) == 0)
            l->list[i].state = FAILED;
}

/* ================================================================ answers ======================================= */

/* What others ask. An answer is never longer than 3 times its question, and there are so many in a second, in all and
 * for one address: nobody is flooded with them in another's name. */

#define ANSWER_TIMES 3u

static int answer_allowed(datsync_dht *d, const uint8_t at[AT_BYTES], uint64_t now)
{
    uint8_t hash[crypto_shorthash_BYTES];
    (void)crypto_shorthash(hash, at, 4, d->pot_key);
    budget *pot = &d->pots[(hash[0] | (unsigned)hash[1] << 8) % POTS];
    if (!budget_has(pot, DATSYNC_DHT_ANSWERS_EACH, DATSYNC_DHT_ANSWERS_BURST, now) ||
        !budget_has(&d->answers, DATSYNC_DHT_ANSWERS, DATSYNC_DHT_ANSWERS, now))
        return 0;
    budget_spend(pot);
    budget_spend(&d->answers);
    return 1;
}

static void answer_send(datsync_dht *d, datsync_dht_message *m, const uint8_t at[AT_BYTES], size_t asked)
{
    uint8_t packet[DATSYNC_MAX_DATAGRAM];
    int64_t len = datsync_dht_write(packet, sizeof packet, m);
    datsync_ip to = at_ip(at);
    if (len > 0 && (uint64_t)len <= (uint64_t)ANSWER_TIMES * asked)
        d->way.send(d->way.ctx, &to, packet, (size_t)len);
}

/* The room for one more field in an answer. */
static size_t answer_room(const datsync_dht_message *m, size_t asked)
{
    uint8_t packet[DATSYNC_MAX_DATAGRAM];
    size_t most = ANSWER_TIMES * asked < sizeof packet ? ANSWER_TIMES * asked : sizeof packet;
    int64_t len = datsync_dht_write(packet, most, m);
    return len < 0 ? 0 : most - (size_t)len;
}

/* The nodes that are nearest to the target, as many as there is room for. */
static void answer_nodes(const datsync_dht *d, datsync_dht_message *m, const uint8_t *target, const uint8_t *place,
                         size_t asked, uint8_t out[ANSWER_NODES * (DATSYNC_NODE_BYTES + AT_BYTES)])
{
    enum { NODE = DATSYNC_NODE_BYTES + AT_BYTES, AROUND = sizeof "5:nodes208:" - 1 };
    const node *nearest[ANSWER_NODES];
    size_t room = answer_room(m, asked), most = room < AROUND ? 0 : (room - AROUND) / NODE;
    size_t n = table_nearest(&d->table, target, NODE_TELL, place, nearest, ANSWER_NODES);
    if (n > most)
        n = most;
    for (size_t i = 0; i < n; i++) {
        memcpy(out + i * NODE, nearest[i]->id, DATSYNC_NODE_BYTES);
        memcpy(out + i * NODE + DATSYNC_NODE_BYTES, nearest[i]->at, AT_BYTES);
    }
    if (n || !m->peers.data)
        m->nodes = bytes_of(out, n * NODE);
}

static void answer_peers(const datsync_dht *d, datsync_dht_message *m, const uint8_t *name, const uint8_t *place,
                         size_t asked, uint64_t now, uint8_t out[ANSWER_PEERS * (AT_BYTES + 2)])
{
    enum { PEER = AT_BYTES + 2, AROUND = sizeof "6:valueslee" - 1 };
    size_t room = answer_room(m, asked), most = room < AROUND ? 0 : (room - AROUND) / PEER;
    if (most > ANSWER_PEERS)
        most = ANSWER_PEERS;
    unsigned n = peers_draw(&d->env, &d->peers, name, place, now, out, (unsigned)most);
    if (n)
        m->peers = bytes_of(out, n * PEER);
}

/* An announcement. NULL, or what is wrong with it. */
static const char *answer_announce(datsync_dht *d, const datsync_dht_message *q, const uint8_t from[AT_BYTES],
                                   uint64_t now)
{
    uint8_t at[AT_BYTES];
    memcpy(at, from, AT_BYTES);
    if (!q->token.data || !peers_token_valid(&d->peers, from, q->token))
        return "bad token";
    if (q->implied_port <= 0) {
        if (q->port < 1 || q->port > 65535)
            return "bad port";
        at[4] = (uint8_t)(q->port >> 8);
        at[5] = (uint8_t)q->port;
    }
    datsync_ip peer = at_ip(at);
    if (peers_add(&d->env, &d->peers, q->name.data, at, now) == 0)
        look_found(d, q->name.data, &peer, from);
    return NULL;
}

static void answer(datsync_dht *d, const datsync_dht_message *q, const uint8_t from[AT_BYTES], size_t asked,
                   uint64_t now)
{
    uint8_t nodes[ANSWER_NODES * (DATSYNC_NODE_BYTES + AT_BYTES)], list[ANSWER_PEERS * (AT_BYTES + 2)],
        token[TOKEN_BYTES];
    const char *wrong = NULL;
    datsync_dht_message m;
    message_clear(&m, DATSYNC_DHT_ANSWER);
    m.transaction = q->transaction;
    m.id = bytes_of(d->table.id, DATSYNC_NODE_BYTES);
    peers_turn_secrets(&d->env, &d->peers, now);
    if (!q->id.data)
        wrong = "bad id";
    else if (q->kind == DATSYNC_DHT_FIND_NODE && !q->target.data)
        wrong = "bad target";
    else if (q->kind >= DATSYNC_DHT_GET_PEERS && !q->name.data)
        wrong = "bad info_hash";
    else if (q->kind == DATSYNC_DHT_FIND_NODE)
        answer_nodes(d, &m, q->target.data, from, asked, nodes);
    else if (q->kind == DATSYNC_DHT_GET_PEERS) {
        peers_token(&d->peers, 0, from, token);
        m.token = bytes_of(token, sizeof token);
        answer_peers(d, &m, q->name.data, from, asked, now, list);
        answer_nodes(d, &m, q->name.data, from, asked, nodes);
    } else if (q->kind == DATSYNC_DHT_ANNOUNCE_PEER)
        wrong = answer_announce(d, q, from, now);
    if (wrong) {
        m.kind = DATSYNC_DHT_ERROR;
        m.code = 203;
        m.text = bytes_of(wrong, strlen(wrong));
    }
    answer_send(d, &m, from, asked);
}

/* ================================================================ the engine ==================================== */

/* What comes is an answer to a query of ours, or a query; then, and when time has passed, look-ups go on, begin and
 * end. */

/* Peers that announced themselves here need no asking. */
static void dht_find_here(datsync_dht *d, const uint8_t *name, uint64_t now)
{
    static const uint8_t here[AT_BYTES] = {127, 0, 0, 1, 0, 1};
    uint8_t list[DATSYNC_DHT_PEERS_OF_NAME * (AT_BYTES + 2)], at[AT_BYTES];
    unsigned n = peers_draw(&d->env, &d->peers, name, here, now, list, DATSYNC_DHT_PEERS_OF_NAME);
    datsync_bytes rest = bytes_of(list, n * (AT_BYTES + 2));
    datsync_ip ip;
    while (datsync_dht_next_peer(&rest, &ip)) {
        at_of_ip(at, &ip);
        look_found(d, name, &ip, at);
    }
}

static void dht_start(datsync_dht *d, uint64_t now)
{
    for (;;) {
        wanted *first = NULL;
        unsigned i = 1;
        while (i < LOOKS && d->looks[i].stage != LOOK_FREE)
            i++;
        for (size_t k = 0; k < d->n_names; k++)
            if (!d->names[k].running && d->names[k].next <= now && (!first || d->names[k].next < first->next))
                first = &d->names[k];
        if (i == LOOKS || !first)
            return;
        dht_find_here(d, first->name, now);
        first->running = look_begin(d, &d->looks[i], first->name, 0, first->port) == 0;
        first->next = look_again(d, now);
        d->stuck |= !first->running;
        look_run(d, &d->looks[i], now);
    }
}

/* An id in that bucket. */
static void dht_draw(const datsync_dht *d, unsigned bucket, uint8_t target[DATSYNC_NODE_BYTES])
{
    const uint8_t *own = d->table.id;
    unsigned at = bucket / 8, bit = 0x80u >> bucket % 8, fixed = 0xff00u >> (bucket % 8 + 1) & 0xff;
    d->env.random(d->env.ctx, target, DATSYNC_NODE_BYTES);
    memcpy(target, own, at);
    target[at] = (uint8_t)(((own[at] ^ bit) & fixed) | (target[at] & ~fixed));
}

/* Look for nodes: at the start around the own id and in the first buckets, where most names are; then in turn around
 * the own id and in a bucket that is drawn. */
static void dht_refresh(datsync_dht *d, uint64_t now)
{
    uint8_t target[DATSYNC_NODE_BYTES];
    unsigned turn = d->refreshes;
    if (now < d->refresh_at || d->looks[0].stage != LOOK_FREE)
        return;
    memcpy(target, d->table.id, sizeof target);
    if (turn > REFRESHES_FIRST ? turn % 2 : turn > 0)
        dht_draw(d, turn > REFRESHES_FIRST ? env_below(&d->env, BUCKETS) : turn - 1, target);
    int begun = look_begin(d, &d->looks[0], target, 1, 0) == 0;
    d->refresh_at = look_again(d, now);
    d->refreshes += (unsigned)begun;
    d->stuck |= !begun;
    look_run(d, &d->looks[0], now);
}

static void dht_run(datsync_dht *d, uint64_t now)
{
    for (unsigned i = 0; i < LOOKS; i++)
        look_run(d, &d->looks[i], now);
    dht_refresh(d, now);
    dht_start(d, now);
}

/* There is somebody new to ask: what found nobody begins again. */
static void dht_wake(datsync_dht *d, uint64_t now)
{
    d->stuck = 0;
    if (d->refresh_tries || !d->refreshes)
        d->refresh_at = now;
    for (size_t i = 0; i < d->n_names; i++)
        if (!d->names[i].answered || d->names[i].tries)
            d->names[i].next = now;
}

/* Forget a query; what waits for it, no longer does. */
static void dht_land(datsync_dht *d, flight *f)
{
    if (f->look != NO_LOOK)
        d->looks[f->look].flights--;
    f->kind = 0;
}

static void dht_silent(datsync_dht *d, flight *f)
{
    table_silent(&d->table, f->at);
    if (f->look != NO_LOOK)
        look_silent(&d->looks[f->look], f->at);
    dht_land(d, f);
}

static void dht_answered(datsync_dht *d, const datsync_dht_message *m, const uint8_t from[AT_BYTES], uint64_t now)
{
    flight *f = m->transaction.len == 2 ? flight_find(d, from, m->transaction.data) : NULL;
    if (!f)
        return;
    if (m->kind == DATSYNC_DHT_ERROR) {
        dht_silent(d, f);
        return;
    }
    if (!m->id.data)
        return;
    d->answered++;
    if (m->seen.data)
        memcpy(d->seen, m->seen.data, sizeof d->seen);
    (void)table_heard(&d->table, m->id.data, from, 1, now);
    if (f->look != NO_LOOK && f->kind == DATSYNC_DHT_ANNOUNCE_PEER)
        d->looks[f->look].given++;
    else if (f->look != NO_LOOK)
        look_heard(d, &d->looks[f->look], from, m);
    dht_land(d, f);
    if (d->stuck)
        dht_wake(d, now);
}

static void dht_asked(datsync_dht *d, const datsync_dht_message *m, const uint8_t from[AT_BYTES], size_t len,
                      uint64_t now)
{
    if (m->kind == DATSYNC_DHT_OTHER_QUERY || m->transaction.len > TRANSACTION_MOST || !answer_allowed(d, from, now))
        return;
    answer(d, m, from, len, now);
    if (!m->id.data || m->read_only == 1)
        return;
    node *n = table_heard(&d->table, m->id.data, from, 0, now);
    if (n && budget_has(&d->pings, PINGS, PINGS_BURST, now)) {
        budget_spend(&d->pings);
        ping(d, n, now);
    }
}

int datsync_dht_datagram(datsync_dht *d, const void *bytes, size_t len, const datsync_ip *from, uint64_t now)
{
    const uint8_t *b = bytes;
    uint8_t at[AT_BYTES];
    datsync_dht_message m;
    if (len < 3 || b[0] != 'd' || b[1] < '0' || b[1] > '9' || (b[2] != ':' && (b[2] < '0' || b[2] > '9')))
        return 0;
    if (datsync_dht_parse(&m, bytes, len) < 0)
        return DATSYNC_E_MESSAGE;
    at_of_ip(at, from);
    if (from->size != 4 || at_scope(at) == AT_NOWHERE)
        return 1;
    if (m.kind < DATSYNC_DHT_ANSWER)
        dht_asked(d, &m, at, len, now);
    else
        dht_answered(d, &m, at, now);
    dht_run(d, now);
    return 1;
}

void datsync_dht_step(datsync_dht *d, uint64_t now)
{
    for (unsigned i = 0; i < FLIGHTS; i++)
        if (d->flights[i].kind && now >= d->flights[i].until)
            dht_silent(d, &d->flights[i]);
    if (now >= d->ping_at) {
        node *n = table_due(&d->table, now);
        if (n) {
            ping(d, n, now);
            d->ping_at = now + PING_MS;
        }
    }
    dht_run(d, now);
}

uint64_t datsync_dht_deadline(const datsync_dht *d)
{
    uint64_t at = d->looks[0].stage == LOOK_FREE ? d->refresh_at : UINT64_MAX; /* one at a time */
    int room = 0;
    for (unsigned i = 0; i < FLIGHTS; i++)
        if (d->flights[i].kind && d->flights[i].until < at)
            at = d->flights[i].until;
    for (unsigned i = 1; i < LOOKS; i++)
        room |= d->looks[i].stage == LOOK_FREE;
    for (size_t i = 0; room && i < d->n_names; i++)
        if (!d->names[i].running && d->names[i].next < at)
            at = d->names[i].next;
    for (unsigned i = 0; i < NODES; i++) {
        const node *n = &d->table.nodes[i];
        uint64_t due = node_due(n) > d->ping_at ? node_due(n) : d->ping_at;
        if (due < at && node_is(n, NODE_ASK))
            at = due;
    }
    return at;
}

int datsync_dht_bootstrap(datsync_dht *d, const datsync_ip *ip, uint64_t now)
{
    uint8_t at[AT_BYTES];
    at_of_ip(at, ip);
    if (ip->size != 4 || at_scope(at) == AT_NOWHERE)
        return DATSYNC_E_ADDRESS;
    for (size_t i = 0; i < d->n_boots; i++)
        if (memcmp(d->boots[i], at, AT_BYTES) == 0)
            return 0;
    if (d->n_boots == DATSYNC_MAX_BOOTSTRAPS)
        return DATSYNC_E_TOO_BIG;
    memcpy(d->boots[d->n_boots++], at, AT_BYTES);
    for (unsigned i = 0; i < LOOKS; i++)
        if (d->looks[i].stage == LOOK_ASKING && d->looks[i].n < NODES_ENOUGH) {
            look_offer_boots(d, &d->looks[i]);
            look_run(d, &d->looks[i], now);
        }
    dht_wake(d, now);
    return 0;
}

/* A name's look-up ends where it is. */
static void dht_stop(datsync_dht *d, const uint8_t *name)
{
    for (unsigned i = 1; i < LOOKS; i++) {
        if (d->looks[i].stage == LOOK_FREE || memcmp(d->looks[i].target, name, DATSYNC_NAME_BYTES) != 0)
            continue;
        for (unsigned k = 0; k < FLIGHTS; k++)
            if (d->flights[k].kind && d->flights[k].look == i)
                d->flights[k].look = NO_LOOK;
        d->looks[i].stage = LOOK_FREE;
    }
}

int datsync_dht_add(datsync_dht *d, const uint8_t name[DATSYNC_NAME_BYTES], uint16_t port, uint64_t now)
{
    wanted *w = wanted_find(d, name);
    if (w && w->port == port)
        return 0;
    if (w) {
        dht_stop(d, name);
        w->running = 0;
    } else if (d->n_names == DATSYNC_MAX_NAMES) {
        return DATSYNC_E_TOO_BIG;
    } else if (d->n_names == d->cap_names) {
        size_t cap = d->cap_names ? 2 * d->cap_names : 4;
        wanted *names = d->env.resize(d->env.ctx, d->names, cap * sizeof *names);
        if (!names)
            return DATSYNC_E_NOMEM;
        d->names = names;
        d->cap_names = cap;
    }
    if (!w) {
        w = &d->names[d->n_names++];
        memset(w, 0, sizeof *w);
        memcpy(w->name, name, DATSYNC_NAME_BYTES);
    }
    w->port = port;
    w->next = now;
    return 0;
}

int datsync_dht_remove(datsync_dht *d, const uint8_t name[DATSYNC_NAME_BYTES])
{
    wanted *w = wanted_find(d, name);
    if (!w)
        return DATSYNC_E_NOT_FOUND;
    dht_stop(d, name);
    *w = d->names[--d->n_names];
    return 0;
}

int datsync_dht_answered(const datsync_dht *d, const uint8_t name[DATSYNC_NAME_BYTES])
{
    const wanted *w = wanted_find(d, name);
    return w ? w->answered || d->stuck : DATSYNC_E_NOT_FOUND;
}

/* What is saved: 4 letters and a version, the own id, the nodes as in a message, and a hash of all that. */
static const uint8_t saved_head[5] = {'D', 'H', 'T', 'n', 1};
enum {
    SAVED_FIRST = sizeof saved_head + DATSYNC_NODE_BYTES,
    SAVED_NODE = DATSYNC_NODE_BYTES + AT_BYTES,
    SAVED_HASH = 16
};

int64_t datsync_dht_save(const datsync_dht *d, void *buf, size_t cap)
{
    uint8_t *to = buf;
    size_t at = SAVED_FIRST, nodes = 0;
    for (unsigned i = 0; i < NODES; i++)
        nodes += d->table.nodes[i].answered;
    if (cap < SAVED_FIRST + nodes * SAVED_NODE + SAVED_HASH)
        return DATSYNC_E_SPACE;
    memcpy(to, saved_head, sizeof saved_head);
    memcpy(to + sizeof saved_head, d->table.id, DATSYNC_NODE_BYTES);
    for (unsigned i = 0; i < NODES; i++) {
        const node *n = &d->table.nodes[i];
        if (!n->answered)
            continue;
        memcpy(to + at, n->id, DATSYNC_NODE_BYTES);
        memcpy(to + at + DATSYNC_NODE_BYTES, n->at, AT_BYTES);
        at += SAVED_NODE;
    }
    (void)crypto_generichash(to + at, SAVED_HASH, to, at, NULL, 0);
    return (int64_t)(at + SAVED_HASH);
}

/* The nodes are asked before they are told to others, as after a silence: much may have changed. */
static void dht_restore(datsync_dht *d, const uint8_t *saved, size_t len, uint64_t now)
{
    uint8_t hash[SAVED_HASH];
    if (!saved || len < SAVED_FIRST + SAVED_HASH || len > DATSYNC_DHT_SAVED_BYTES ||
        (len - SAVED_FIRST - SAVED_HASH) % SAVED_NODE || memcmp(saved, saved_head, sizeof saved_head) != 0)
        return;
    (void)crypto_generichash(hash, sizeof hash, saved, len - SAVED_HASH, NULL, 0);
    if (memcmp(hash, saved + len - SAVED_HASH, SAVED_HASH) != 0)
        return;
    memcpy(d->table.id, saved + sizeof saved_head, DATSYNC_NODE_BYTES);
    for (size_t at = SAVED_FIRST; at < len - SAVED_HASH; at += SAVED_NODE) {
        node *n = table_heard(&d->table, saved + at, saved + at + DATSYNC_NODE_BYTES, 1, now);
        if (n)
            n->silent = 1;
    }
}

int datsync_dht_new(datsync_dht **out, const datsync_env *env, const datsync_way *way, const void *saved,
                    size_t saved_len, uint64_t now)
{
    datsync_env e;
    *out = NULL;
    memset(&e, 0, sizeof e);
    if (env)
        e = *env;
    e.resize = e.resize ? e.resize : env_resize;
    e.random = e.random ? e.random : env_random;
    if (!way || !way->send || !way->found)
        return DATSYNC_E_INVALID;
    if (sodium_init() < 0)
        return DATSYNC_E_RANDOM;
    datsync_dht *d = e.resize(e.ctx, NULL, sizeof *d);
    if (!d)
        return DATSYNC_E_NOMEM;
    memset(d, 0, sizeof *d);
    d->env = e;
    d->way = *way;
    e.random(e.ctx, d->table.id, sizeof d->table.id);
    e.random(e.ctx, d->pot_key, sizeof d->pot_key);
    e.random(e.ctx, d->peers.secret, sizeof d->peers.secret);
    d->peers.secret_until = now + SECRET_MS;
    d->ping_at = d->refresh_at = now;
    d->pings.left = PINGS_BURST * 1000;
    d->answers.left = DATSYNC_DHT_ANSWERS * 1000;
    d->answers.at = d->pings.at = now;
    for (unsigned i = 0; i < POTS; i++) {
        d->pots[i].left = DATSYNC_DHT_ANSWERS_BURST * 1000;
        d->pots[i].at = now;
    }
    dht_restore(d, saved, saved_len, now);
    *out = d;
    return 0;
}

void datsync_dht_free(datsync_dht *d)
{
    if (!d)
        return;
    datsync_env env = d->env;
    if (d->names)
        (void)env.resize(env.ctx, d->names, 0);
    if (d->peers.list)
        (void)env.resize(env.ctx, d->peers.list, 0);
    sodium_memzero(&d->peers, sizeof d->peers);
    (void)env.resize(env.ctx, d, 0);
}

void datsync_dht_status(const datsync_dht *d, datsync_dht_state *s, uint64_t now)
{
    memset(s, 0, sizeof *s);
    for (unsigned i = 0; i < NODES; i++) {
        s->nodes += (unsigned)node_is(&d->table.nodes[i], NODE_ANY);
        s->good += (unsigned)node_is(&d->table.nodes[i], NODE_ANY) && now < node_due(&d->table.nodes[i]);
    }
    for (unsigned i = 0; i < FLIGHTS; i++)
        s->in_flight += d->flights[i].kind != 0;
    for (size_t i = 0; i < d->peers.n; i++)
        s->peers += now < d->peers.list[i].until;
    s->names = (unsigned)d->n_names;
    s->looked_up = d->looked_up;
    s->answered = d->answered;
    if (memcmp(d->seen, at_nobody, AT_BYTES) != 0)
        s->seen = at_ip(d->seen);
}
