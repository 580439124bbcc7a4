/* The driver of discovery's engines: commands on standard input, one a line. What an engine sends and finds comes as
 * lines `send ENGINE TO VIA HEX` and `found ENGINE NAME PEER INFORMANT`; then `ok WORD ...` or `error NUMBER`. Words
 * are separated by one space; bytes are hex, `-` for none; an address may have @VIA behind it. Every command is told
 * beside its function. Time stands still but for `time`.
 *
 * SPDX-License-Identifier: MIT
 */
#include "discovery.h"

#include "base.h"

#define ENGINES 64
#define WORDS 600

enum kind { NOTHING, MDNS, CLIENT, SERVER };

typedef struct engine {
    enum kind kind;
    void *at;
} engine;

static engine engines[ENGINES];
static uint64_t now, chances = 1;
static int quiet;
static uint8_t script[256]; /* random bytes that are given before those of chance */
static size_t script_at, script_len, live;
static uint64_t fails_after = UINT64_MAX; /* allocations that succeed still */

/* ================================================================ plugs ========================================= */

static void *plug_resize(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    if (size && fails_after-- == 0)
        return NULL;
    return counted_resize(ptr, size, &live);
}

static void plug_random(void *ctx, void *buf, size_t len)
{
    uint8_t *out = buf;
    (void)ctx;
    for (size_t i = 0; i < len; i++)
        out[i] = script_at < script_len ? script[script_at++] : (uint8_t)(chance(&chances) >> 56);
    if (script_at == script_len)
        script_at = script_len = 0;
}

static void script_add(const void *bytes, size_t len)
{
    if (len > sizeof script - script_len)
        die("too many random bytes");
    memcpy(script + script_len, bytes, len);
    script_len += len;
}

static void print_hex(const uint8_t *bytes, size_t len)
{
    if (!len)
        putchar('-');
    for (size_t i = 0; i < len; i++)
        printf("%02x", bytes[i]);
}

static uint8_t last[DATSYNC_MAX_DATAGRAM];
static size_t last_len, sent;

static void plug_send(void *ctx, const datsync_ip *to, const void *bytes, size_t len)
{
    char text[DATSYNC_IP_TEXT];
    if (len > sizeof last)
        die("a datagram is too long");
    memcpy(last, bytes, len);
    last_len = len;
    sent++;
    if (quiet)
        return;
    datsync_ip_text(to, text);
    printf("send %d %s %lu ", (int)((engine *)ctx - engines), text, (unsigned long)to->via);
    print_hex(bytes, len);
    putchar('\n');
}

static void plug_found(void *ctx, const uint8_t name[DATSYNC_NAME_BYTES], const datsync_ip *peer,
                       const datsync_ip *informant)
{
    char text[DATSYNC_IP_TEXT];
    if (peer->port == 0)
        die("a peer with port 0");
    if (quiet)
        return;
    printf("found %d ", (int)((engine *)ctx - engines));
    print_hex(name, DATSYNC_NAME_BYTES);
    datsync_ip_text(peer, text);
    printf(" %s", text);
    datsync_ip_text(informant, text);
    printf(" %s\n", text);
}

static const datsync_env env = {NULL, plug_resize, plug_random, NULL, NULL};

static int engine_try(engine *e, enum kind kind, const datsync_env *given)
{
    datsync_way way = {e, plug_send, plug_found};
    datsync_mdns *mdns = NULL;
    datsync_dns_client *client = NULL;
    datsync_dns_server *server = NULL;
    int error = kind == MDNS     ? datsync_mdns_new(&mdns, given, &way)
                : kind == CLIENT ? datsync_dns_client_new(&client, given, &way)
                                 : datsync_dns_server_new(&server, given, &way, now);
    if (error < 0)
        return error;
    e->kind = kind;
    e->at = kind == MDNS ? (void *)mdns : kind == CLIENT ? (void *)client : (void *)server;
    return 0;
}

static void *engine_new(engine *e, enum kind kind)
{
    if (e->kind)
        die("there is an engine with this number");
    if (engine_try(e, kind, &env) < 0)
        die("no engine");
    return e->at;
}

static void engine_free(engine *e)
{
    if (e->kind == MDNS)
        datsync_mdns_free(e->at);
    else if (e->kind == CLIENT)
        datsync_dns_client_free(e->at);
    else if (e->kind == SERVER)
        datsync_dns_server_free(e->at);
    memset(e, 0, sizeof *e);
}

static int engine_datagram(engine *e, const void *bytes, size_t len, const datsync_ip *from)
{
    /* In memory of just this size, so that a sanitizer sees who reads beyond. */
    uint8_t *copy = must(malloc(len + !len));
    int result;
    memcpy(copy, bytes, len);
    if (e->kind == MDNS)
        result = datsync_mdns_datagram(e->at, copy, len, from, now);
    else if (e->kind == CLIENT)
        result = datsync_dns_client_datagram(e->at, copy, len, from, now);
    else
        result = datsync_dns_server_datagram(e->at, copy, len, from, now);
    free(copy);
    return result;
}

static uint64_t engine_deadline(const engine *e)
{
    return e->kind == MDNS     ? datsync_mdns_deadline(e->at)
           : e->kind == CLIENT ? datsync_dns_client_deadline(e->at)
                               : datsync_dns_server_deadline(e->at);
}

static void engine_step(engine *e)
{
    if (e->kind == MDNS)
        datsync_mdns_step(e->at, now);
    else if (e->kind == CLIENT)
        datsync_dns_client_step(e->at, now);
    else
        datsync_dns_server_step(e->at, now);
}

/* ================================================================ words ========================================= */

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Bytes in memory of just their size; the caller frees it. */
static uint8_t *word_bytes(const char *word, size_t *len)
{
    size_t n = strcmp(word, "-") == 0 ? 0 : strlen(word) / 2;
    uint8_t *bytes = must(malloc(n + !n));
    for (size_t i = 0; i < n; i++) {
        if (digit(word[2 * i]) < 0 || digit(word[2 * i + 1]) < 0)
            die("not hex");
        bytes[i] = (uint8_t)(digit(word[2 * i]) << 4 | digit(word[2 * i + 1]));
    }
    *len = n;
    return bytes;
}

static void word_name(const char *word, uint8_t name[DATSYNC_NAME_BYTES])
{
    size_t len;
    uint8_t *bytes = word_bytes(word, &len);
    if (len != DATSYNC_NAME_BYTES)
        die("not a name");
    memcpy(name, bytes, len);
    free(bytes);
}

static datsync_ip word_ip(char *word)
{
    datsync_ip ip;
    char *at = strchr(word, '@');
    if (at)
        *at = 0;
    if (datsync_ip_parse(&ip, word) < 0)
        die("not an address");
    if (at)
        ip.via = (uint32_t)strtoul(at + 1, NULL, 10);
    return ip;
}

static uint64_t word_number(const char *word)
{
    char *end;
    uint64_t n = strtoull(word, &end, 10);
    if (*end || end == word)
        die("not a number");
    return n;
}

static engine *word_engine(const char *word, enum kind kind)
{
    uint64_t n = word_number(word);
    if (n >= ENGINES || !engines[n].kind || (kind && engines[n].kind != kind))
        die("no such engine");
    return engines + n;
}

static void say(int64_t result)
{
    if (result < 0)
        printf("error %ld\n", (long)result);
    else
        printf("ok %llu\n", (unsigned long long)result);
}

/* ================================================================ packets ======================================= */

static void print_string(datsync_bytes text, int there)
{
    putchar(' ');
    if (there)
        printf("%.*s", (int)text.len, text.len ? (const char *)text.data : "");
    else
        putchar('-');
}

static void print_number(unsigned number, int there)
{
    if (there)
        printf(" %u", number);
    else
        printf(" -");
}

/* item PART ABOUT TYPE CLASS TTL NAME DOMAIN SUBSCRIBE TOKEN HOST PORT ANNOUNCE UNANNOUNCE TARGET PEERS */
static void print_item(const datsync_dns_item *i)
{
    char text[DATSYNC_IP_TEXT] = "-";
    datsync_ip peer;
    printf("item %d %d %u %u %lu ", i->part, i->about, i->type, i->cls, (unsigned long)i->ttl);
    print_hex(i->name, i->about == DATSYNC_DNS_NAME ? DATSYNC_NAME_BYTES : 0);
    putchar(' ');
    print_hex(i->domain, i->domain_len);
    printf(" %d", (i->has & DATSYNC_DNS_SUBSCRIBE) != 0);
    print_string(i->token, (i->has & DATSYNC_DNS_TOKEN) != 0);
    print_string(i->host, (i->has & DATSYNC_DNS_HOST) != 0);
    print_number(i->port, (i->has & DATSYNC_DNS_PORT) != 0);
    print_number(i->announce, (i->has & DATSYNC_DNS_ANNOUNCE) != 0);
    print_number(i->unannounce, (i->has & DATSYNC_DNS_UNANNOUNCE) != 0);
    if (i->target.size)
        datsync_ip_text(&i->target, text);
    printf(" %s ", text);
    for (size_t k = 0; datsync_dns_peer(i, k, &peer); k++) {
        datsync_ip_text(&peer, text);
        printf("%s%s", k ? "," : "", text);
    }
    printf("%s\n", datsync_dns_peer(i, 0, &peer) ? "" : "-");
}

/* parse HEX -> lines of items; id, flags, items */
static void cmd_parse(int n, char **w)
{
    datsync_dns_cursor cursor = {0, 0};
    datsync_dns_item item;
    datsync_dns m;
    size_t len;
    uint8_t *bytes = word_bytes(w[0], &len);
    int error = datsync_dns_parse(&m, bytes, len);
    (void)n;
    while (error == 0 && datsync_dns_next(&m, &cursor, &item))
        print_item(&item);
    if (error < 0)
        say(error);
    else
        printf("ok %u %u %lu\n", m.id, m.flags, (unsigned long)cursor.index);
    free(bytes);
}

/* rewrite HEX [ROOM] -> what is read of a message, written anew */
static void cmd_rewrite(int n, char **w)
{
    static datsync_dns_item items[64];
    static datsync_ip peers[64][64];
    datsync_dns_cursor cursor = {0, 0};
    datsync_dns m;
    uint8_t out[4096];
    size_t len, count = 0;
    uint8_t *bytes = word_bytes(w[0], &len);
    int written = datsync_dns_parse(&m, bytes, len);
    while (written == 0 && count < 64 && datsync_dns_next(&m, &cursor, items + count)) {
        datsync_dns_item *i = items + count;
        while (i->type == DATSYNC_DNS_TXT && datsync_dns_peer(i, i->list_count, peers[count] + i->list_count))
            i->list_count++;
        i->list = peers[count++];
    }
    if (written == 0)
        written = datsync_dns_write(out, n > 1 ? (size_t)word_number(w[1]) : sizeof out, m.id, m.flags, items, count);
    if (written < 0) {
        say(written);
    } else {
        printf("ok hex ");
        print_hex(out, (size_t)written);
        putchar('\n');
    }
    free(bytes);
}

/* write PORT SIZE COUNT TOKEN-LENGTH: an answer with COUNT peers of SIZE (4, 16) with a port */
static void cmd_write(int n, char **w)
{
    static char token[300];
    datsync_ip list[40];
    datsync_dns_item item;
    uint8_t out[2048];
    (void)n;
    memset(&item, 0, sizeof item);
    memset(list, 0, sizeof list);
    memset(token, 'a', sizeof token);
    item.part = DATSYNC_DNS_ANSWER;
    item.about = DATSYNC_DNS_NAME;
    item.type = DATSYNC_DNS_TXT;
    item.has = DATSYNC_DNS_TOKEN;
    item.token = (datsync_bytes){(const uint8_t *)token, (size_t)word_number(w[3])};
    item.list = list;
    item.list_count = (size_t)word_number(w[2]);
    for (size_t i = 0; i < item.list_count; i++) {
        list[i].size = (uint8_t)word_number(w[1]);
        list[i].port = (uint16_t)word_number(w[0]);
    }
    say(datsync_dns_write(out, sizeof out, 0, 0, &item, 1));
}

/* believable PEER INFORMANT */
static void cmd_believable(int n, char **w)
{
    datsync_ip peer = word_ip(w[0]), informant = word_ip(w[1]);
    (void)n;
    say(datsync_ip_believable(&peer, &informant));
}

/* ================================================================ engines ======================================= */

/* time MS */
static void cmd_time(int n, char **w)
{
    (void)n;
    now = word_number(w[0]);
    say(0);
}

/* random HEX: the next random bytes; id NUMBER: the same, of one number of 16 bits */
static void cmd_random(int n, char **w)
{
    size_t len;
    uint8_t *bytes = word_bytes(w[0], &len);
    (void)n;
    script_add(bytes, len);
    free(bytes);
    say(0);
}

static void cmd_id(int n, char **w)
{
    uint16_t id = (uint16_t)word_number(w[0]);
    (void)n;
    script_add(&id, sizeof id);
    say(0);
}

static enum kind word_kind(const char *word)
{
    return word[0] == 'm' ? MDNS : word[0] == 'c' ? CLIENT : SERVER;
}

/* starved mdns|client|server: one is made with each of its allocations failing in turn, then with the C library's ->
 * how many there are */
static void cmd_starved(int n, char **w)
{
    uint64_t allocations = 0;
    engine e = {NOTHING, NULL};
    size_t before = live;
    int error;
    (void)n;
    for (;; allocations++) {
        fails_after = allocations;
        error = engine_try(&e, word_kind(w[0]), &env);
        if (error == 0)
            break;
        if (error != DATSYNC_E_NOMEM || live != before)
            die("an allocation that failed was not told, or memory is left");
    }
    fails_after = UINT64_MAX;
    engine_free(&e);
    if (engine_try(&e, word_kind(w[0]), NULL) < 0)
        die("no engine of the C library's");
    engine_free(&e);
    say((int64_t)allocations);
}

/* new ENGINE mdns|client|server; free ENGINE; memory -> bytes that are allocated */
static void cmd_new(int n, char **w)
{
    uint64_t number = word_number(w[0]);
    (void)n;
    if (number >= ENGINES)
        die("too many engines");
    (void)engine_new(engines + number, word_kind(w[1]));
    say(0);
}

static void cmd_free(int n, char **w)
{
    (void)n;
    engine_free(word_engine(w[0], NOTHING));
    say(0);
}

static void cmd_memory(int n, char **w)
{
    (void)n;
    (void)w;
    say((int64_t)live);
}

/* add ENGINE NAME PORT; remove ENGINE NAME; answered ENGINE NAME */
static void cmd_add(int n, char **w)
{
    engine *e = word_engine(w[0], NOTHING);
    uint8_t name[DATSYNC_NAME_BYTES];
    uint16_t port = (uint16_t)word_number(w[2]);
    (void)n;
    word_name(w[1], name);
    say(e->kind == MDNS ? datsync_mdns_add(e->at, name, port, now) : datsync_dns_client_add(e->at, name, port, now));
}

static void cmd_remove(int n, char **w)
{
    engine *e = word_engine(w[0], NOTHING);
    uint8_t name[DATSYNC_NAME_BYTES];
    (void)n;
    word_name(w[1], name);
    say(e->kind == MDNS ? datsync_mdns_remove(e->at, name) : datsync_dns_client_remove(e->at, name, now));
}

static void cmd_answered(int n, char **w)
{
    engine *e = word_engine(w[0], NOTHING);
    uint8_t name[DATSYNC_NAME_BYTES];
    (void)n;
    word_name(w[1], name);
    say(e->kind == MDNS ? datsync_mdns_answered(e->at, name, now) : datsync_dns_client_answered(e->at, name));
}

/* interfaces ENGINE IP:PREFIX@VIA ...: with `lo` behind it a loopback one, with `p2p` one without multicast */
static void cmd_interfaces(int n, char **w)
{
    static datsync_interface list[WORDS];
    engine *e = word_engine(w[0], MDNS);
    memset(list, 0, sizeof list);
    for (int i = 1; i < n; i++) {
        list[i - 1].loopback = strstr(w[i], "lo") != NULL;
        list[i - 1].multicast = strstr(w[i], "lo") == NULL && strstr(w[i], "p2p") == NULL;
        list[i - 1].ip = word_ip(w[i]);
        list[i - 1].prefix = (uint8_t)list[i - 1].ip.port;
        list[i - 1].ip.port = 0;
    }
    datsync_mdns_interfaces(e->at, list, (size_t)n - 1, now);
    say(0);
}

/* servers ENGINE IP:PORT ...: one server, by its addresses */
static void cmd_servers(int n, char **w)
{
    datsync_ip list[16];
    engine *e = word_engine(w[0], CLIENT);
    for (int i = 1; i < n && i <= 16; i++)
        list[i - 1] = word_ip(w[i]);
    say(datsync_dns_client_server(e->at, list, (size_t)n - 1, now));
}

/* datagram ENGINE FROM HEX -> what the engine's function returned */
static void cmd_datagram(int n, char **w)
{
    engine *e = word_engine(w[0], NOTHING);
    datsync_ip from = word_ip(w[1]);
    size_t len;
    uint8_t *bytes = word_bytes(w[2], &len);
    (void)n;
    say(engine_datagram(e, bytes, len, &from));
    free(bytes);
}

/* step ENGINE; deadline ENGINE -> milliseconds, or `never` */
static void cmd_step(int n, char **w)
{
    (void)n;
    engine_step(word_engine(w[0], NOTHING));
    say(0);
}

static void cmd_deadline(int n, char **w)
{
    uint64_t when = engine_deadline(word_engine(w[0], NOTHING));
    (void)n;
    if (when == UINT64_MAX)
        printf("ok never\n");
    else
        printf("ok %llu\n", (unsigned long long)when);
}

/* stop ENGINE; idle ENGINE; status ENGINE SERVER -> state, at, seen, error, peers */
static void cmd_stop(int n, char **w)
{
    (void)n;
    datsync_dns_client_stop(word_engine(w[0], CLIENT)->at, now);
    say(0);
}

static void cmd_idle(int n, char **w)
{
    (void)n;
    say(datsync_dns_client_idle(word_engine(w[0], CLIENT)->at));
}

static void cmd_status(int n, char **w)
{
    char at[DATSYNC_IP_TEXT], seen[DATSYNC_IP_TEXT] = "-";
    datsync_dns_status status;
    int error = datsync_dns_client_status(word_engine(w[0], CLIENT)->at, (int)word_number(w[1]), &status);
    (void)n;
    if (error < 0) {
        say(error);
        return;
    }
    datsync_ip_text(&status.at, at);
    if (status.seen.size)
        datsync_ip_text(&status.seen, seen);
    printf("ok %d %s %s %d %lu\n", status.state, at, seen, status.error, (unsigned long)status.peers);
}

/* counts ENGINE -> names, peers, subscriptions, questions, answers, pushes, limited, malformed, evicted */
static void cmd_counts(int n, char **w)
{
    datsync_dns_counts c;
    (void)n;
    datsync_dns_server_counts(word_engine(w[0], SERVER)->at, &c);
    printf("ok %lu %lu %lu %lu %lu %lu %lu %lu %lu\n", (unsigned long)c.names, (unsigned long)c.peers,
           (unsigned long)c.subscriptions, (unsigned long)c.questions, (unsigned long)c.answers,
           (unsigned long)c.pushes, (unsigned long)c.limited, (unsigned long)c.malformed, (unsigned long)c.evicted);
}

/* ================================================================ many ========================================== */

/* A message with one TXT item, to a server or from one. */
static size_t made(uint8_t *out, uint16_t id, unsigned flags, const uint8_t *name, const datsync_dns_item *said)
{
    datsync_dns_item items[2];
    int len;
    memset(items, 0, sizeof items);
    items[0].type = DATSYNC_DNS_TXT;
    items[0].about = name ? DATSYNC_DNS_NAME : DATSYNC_DNS_DOMAIN;
    if (name)
        memcpy(items[0].name, name, DATSYNC_NAME_BYTES);
    if (said) {
        items[1] = *said;
        items[1].part = flags & DATSYNC_DNS_FLAGS_ANSWER ? DATSYNC_DNS_ANSWER : DATSYNC_DNS_ADDITIONAL;
        items[1].type = DATSYNC_DNS_TXT;
        items[1].about = items[0].about;
        memcpy(items[1].name, items[0].name, DATSYNC_NAME_BYTES);
    }
    len = datsync_dns_write(out, DATSYNC_MAX_DATAGRAM, id, (uint16_t)flags, items, said ? 2 : 1);
    if (len < 0)
        die("a message can't be written");
    return (size_t)len;
}

/* Fresh clients, one that waits for the answer to a probe with this id, one for that to a question about the name. */
static void try_clients(const uint8_t *bytes, size_t len, uint16_t id, const uint8_t *name)
{
    static const char token[] = "GIfOTatril5YKkizayA6rT6LKCUlFdCwiFms01rQ904=";
    datsync_ip server;
    (void)datsync_ip_parse(&server, "127.0.0.1:5300");
    for (int asked = 0; asked < 2; asked++) {
        engine e = {NOTHING, NULL};
        uint16_t first = (uint16_t)(id - asked);
        script_add(&first, sizeof first);
        (void)engine_new(&e, CLIENT);
        if (datsync_dns_client_add(e.at, name, 3282, now) < 0 || datsync_dns_client_server(e.at, &server, 1, now) < 0)
            die("no client");
        if (asked) {
            uint8_t answer[DATSYNC_MAX_DATAGRAM];
            datsync_dns_item said;
            memset(&said, 0, sizeof said);
            said.has = DATSYNC_DNS_TOKEN;
            said.token = (datsync_bytes){(const uint8_t *)token, sizeof token - 1};
            (void)engine_datagram(&e, answer, made(answer, first, DATSYNC_DNS_FLAGS_ANSWER, NULL, &said), &server);
        }
        (void)engine_datagram(&e, bytes, len, &server);
        now += 10000;
        engine_step(&e);
        engine_free(&e);
    }
}

static uint64_t tries, parsed;

static void try_one(engine *mdns, engine *server, const uint8_t *bytes, size_t len, uint16_t id, const uint8_t *name)
{
    datsync_ip from;
    datsync_dns m;
    uint8_t *copy = must(malloc(len + !len));
    memcpy(copy, bytes, len);
    tries++;
    parsed += datsync_dns_parse(&m, copy, len) == 0;
    free(copy);
    now += 1000;
    (void)datsync_ip_parse(&from, "127.0.0.2:3282");
    (void)engine_datagram(server, bytes, len, &from);
    (void)datsync_ip_parse(&from, "10.79.0.3:5353");
    from.via = 2;
    (void)engine_datagram(mdns, bytes, len, &from);
    engine_step(mdns);
    engine_step(server);
    try_clients(bytes, len, id, name);
}

/* fuzz NAME HEX ...: every truncation and every flip of a bit of each, at the parser and at every engine, in a state in
 * which it means something -> how many, how many of them are messages. `random` secrets are for the server. */
static void cmd_fuzz(int n, char **w)
{
    engine mdns = {NOTHING, NULL}, server = {NOTHING, NULL};
    uint8_t name[DATSYNC_NAME_BYTES];
    datsync_interface one;
    memset(&one, 0, sizeof one);
    (void)datsync_ip_parse(&one.ip, "10.79.0.2:0");
    one.ip.via = 2;
    one.multicast = 1;
    quiet = 1;
    tries = parsed = 0;
    word_name(w[0], name);
    (void)engine_new(&server, SERVER);
    (void)engine_new(&mdns, MDNS);
    datsync_mdns_interfaces(mdns.at, &one, 1, now);
    (void)datsync_mdns_add(mdns.at, name, 3282, now);
    for (int k = 1; k < n; k++) {
        size_t len;
        uint8_t *bytes = word_bytes(w[k], &len);
        uint16_t id = (uint16_t)(bytes[0] << 8 | bytes[1]);
        for (size_t cut = 0; cut <= len; cut++)
            try_one(&mdns, &server, bytes, cut, id, name);
        for (size_t bit = 0; bit < 8 * len; bit++) {
            bytes[bit / 8] = (uint8_t)(bytes[bit / 8] ^ 1u << bit % 8);
            try_one(&mdns, &server, bytes, len, id, name);
            bytes[bit / 8] = (uint8_t)(bytes[bit / 8] ^ 1u << bit % 8);
        }
        free(bytes);
    }
    engine_free(&mdns);
    engine_free(&server);
    quiet = 0;
    printf("ok %llu %llu\n", (unsigned long long)tries, (unsigned long long)parsed);
}

/* flood ENGINE COUNT FIRST ADDRESSES NAMES: COUNT announcements with right tokens, from so many addresses of 11.0.0.0/8
 * in turn from number FIRST on, of so many names (0: of one each), 1,000 a millisecond -> datagrams that were sent */
static void cmd_flood(int n, char **w)
{
    engine *e = word_engine(w[0], SERVER);
    uint64_t count = word_number(w[1]), from = word_number(w[2]), addresses = word_number(w[3]),
             names = word_number(w[4]);
    char(*tokens)[44] = must(malloc((size_t)addresses * 44));
    uint8_t name[DATSYNC_NAME_BYTES] = {0xf1}, bytes[DATSYNC_MAX_DATAGRAM];
    datsync_dns_cursor cursor;
    datsync_dns_item item;
    datsync_dns m;
    datsync_ip ip;
    (void)n;
    quiet = 1;
    sent = 0;
    for (uint64_t i = 0; i < addresses + count; i++) {
        uint64_t who = from + i % addresses, what = i < addresses ? 0 : names ? (i - addresses) % names : i;
        memset(&ip, 0, sizeof ip);
        ip.size = 4;
        ip.port = 3282;
        ip.bytes[0] = 11;
        for (int k = 0; k < 3; k++)
            ip.bytes[1 + k] = (uint8_t)(who >> (16 - 8 * k));
        for (int k = 0; k < 8; k++)
            name[1 + k] = (uint8_t)(what >> 8 * k);
        if (i < addresses) {
            (void)engine_datagram(e, bytes, made(bytes, 1, DATSYNC_DNS_FLAGS_QUERY, NULL, NULL), &ip);
            memset(&cursor, 0, sizeof cursor);
            if (datsync_dns_parse(&m, last, last_len) < 0)
                die("an answer that is none");
            while (datsync_dns_next(&m, &cursor, &item))
                if (item.token.len == 44)
                    memcpy(tokens[i], item.token.data, 44);
            continue;
        }
        memset(&item, 0, sizeof item);
        item.has = DATSYNC_DNS_TOKEN | DATSYNC_DNS_ANNOUNCE | DATSYNC_DNS_SUBSCRIBE;
        item.token = (datsync_bytes){(const uint8_t *)tokens[i % addresses], 44};
        item.announce = 3282;
        (void)engine_datagram(e, bytes, made(bytes, 1, DATSYNC_DNS_FLAGS_QUERY, name, &item), &ip);
        now += i % 1000 == 0;
    }
    free(tokens);
    quiet = 0;
    printf("ok %lu\n", (unsigned long)sent);
}

/* ================================================================ commands ====================================== */

static const struct {
    const char *name;
    int words;
    void (*run)(int n, char **w);
} commands[] = {
    {"parse", 1, cmd_parse},
    {"rewrite", 1, cmd_rewrite},
    {"write", 4, cmd_write},
    {"believable", 2, cmd_believable},
    {"time", 1, cmd_time},
    {"random", 1, cmd_random},
    {"id", 1, cmd_id},
    {"new", 2, cmd_new},
    {"free", 1, cmd_free},
    {"memory", 0, cmd_memory},
    {"add", 3, cmd_add},
    {"remove", 2, cmd_remove},
    {"answered", 2, cmd_answered},
    {"interfaces", 1, cmd_interfaces},
    {"servers", 1, cmd_servers},
    {"datagram", 3, cmd_datagram},
    {"step", 1, cmd_step},
    {"deadline", 1, cmd_deadline},
    {"stop", 1, cmd_stop},
    {"idle", 1, cmd_idle},
    {"status", 2, cmd_status},
    {"counts", 1, cmd_counts},
    {"starved", 1, cmd_starved},
    {"fuzz", 2, cmd_fuzz},
    {"flood", 5, cmd_flood},
};

int main(void)
{
    static char line[1 << 18];
    while (fgets(line, sizeof line, stdin)) {
        char *words[WORDS];
        size_t k = 0;
        int n = 0;
        line[strcspn(line, "\r\n")] = 0;
        for (char *w = strtok(line, " "); w && n < WORDS; w = strtok(NULL, " "))
            words[n++] = w;
        while (k < sizeof commands / sizeof *commands && (n == 0 || strcmp(words[0], commands[k].name) != 0))
            k++;
        if (k == sizeof commands / sizeof *commands || n - 1 < commands[k].words)
            die("no such command");
        commands[k].run(n - 1, words + 1);
        fflush(stdout);
    }
    for (size_t i = 0; i < ENGINES; i++)
        engine_free(engines + i);
    if (live)
        die("memory is left");
    return 0;
}
