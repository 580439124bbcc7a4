/* Nodes of the DHT in one process, on virtual time, over a network that loses datagrams. tests/test_dht.py drives it.
 *
 * SPDX-License-Identifier: MIT
 *
 * A command a line on standard input; what it brings comes on standard output, and then a line `.`:
 *
 *   seed N · loss PERCENT                  of chance, and of the network
 *   node I IP:PORT [saved HEX]             a node begins
 *   evil I IP:PORT ID                      one that lies to all that ask it: its answers are made to mislead
 *   boot I IP:PORT · add I NAME PORT · remove I NAME · free I
 *   run MS                                 time passes; datagrams arrive, deadlines are met
 *   from I IP:PORT HEX                     a datagram arrives at node I from outside: `result R`
 *   flood I N NAMES                        N announcements arrive: each from an address of its own, with its token
 *   forge I N                              N announcements arrive with tokens that are drawn
 *   status I · answered I NAME · deadline I · save I · memory
 *   found I [NAME]                         peers since the last time: `peer NAME PEER INFORMANT TIME`
 *   parse HEX                              the fields of a message, and `bytes HEX`: it is written anew
 *   chew HEX                               each truncation and flip of a message is read, and given to a node
 *
 * What is sent to an address where no node is: `sent I IP:PORT HEX`.
 */
#include "../discovery.h"

#include "base.h"

enum { NODES = 256, QUEUE = 65536, FOUND = 4096, LINE = 200000 };

typedef struct packet {
    uint64_t at, order;
    datsync_ip from, to;
    size_t len;
    uint8_t *bytes;
} packet;

typedef struct sighting {
    uint8_t name[DATSYNC_NAME_BYTES];
    datsync_ip peer, informant;
    uint64_t at;
} sighting;

typedef struct member {
    datsync_dht *dht;
    datsync_ip ip;
    uint8_t evil_id[DATSYNC_NODE_BYTES];
    int evil, used, index;
    uint64_t deadline;
    sighting found[FOUND];
    size_t n_found, told;
} member;

static member members[NODES];
static packet queue[QUEUE];
static size_t queued;
static uint64_t now = 1000, order, seed = 1, sends, sent_bytes;
static unsigned loss;
static size_t live, most_live;

/* ---------------------------------------------------------------- text ----------------------------------------- */

static size_t unhex(const char *text, uint8_t *out)
{
    size_t n = 0;
    unsigned byte;
    for (; text && text[0] && text[1] && sscanf(text, "%2x", &byte) == 1; text += 2)
        out[n++] = (uint8_t)byte;
    return n;
}

static void hex(const void *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        printf("%02x", ((const uint8_t *)bytes)[i]);
}

static void put_ip(const datsync_ip *ip)
{
    printf("%u.%u.%u.%u:%u", ip->bytes[0], ip->bytes[1], ip->bytes[2], ip->bytes[3], ip->port);
}

static datsync_ip get_ip(const char *text)
{
    unsigned a = 0, b = 0, c = 0, d = 0, port = 0;
    datsync_ip ip;
    memset(&ip, 0, sizeof ip);
    if (!text || sscanf(text, "%u.%u.%u.%u:%u", &a, &b, &c, &d, &port) != 5)
        die("bad address");
    ip.bytes[0] = (uint8_t)a;
    ip.bytes[1] = (uint8_t)b;
    ip.bytes[2] = (uint8_t)c;
    ip.bytes[3] = (uint8_t)d;
    ip.size = 4;
    ip.port = (uint16_t)port;
    return ip;
}

static datsync_ip random_ip(void)
{
    uint64_t n = chance(&seed);
    datsync_ip ip;
    memset(&ip, 0, sizeof ip);
    ip.bytes[0] = (uint8_t)(20 + n % 60);
    ip.bytes[1] = (uint8_t)(n >> 8);
    ip.bytes[2] = (uint8_t)(n >> 16);
    ip.bytes[3] = (uint8_t)(n >> 24);
    ip.size = 4;
    ip.port = (uint16_t)(1024 + (n >> 32) % 60000);
    return ip;
}

static int same_ip(const datsync_ip *a, const datsync_ip *b)
{
    return memcmp(a->bytes, b->bytes, 4) == 0 && a->port == b->port;
}

/* ---------------------------------------------------------------- the network ---------------------------------- */

static int earlier(const packet *a, const packet *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void swap(size_t a, size_t b)
{
    packet p = queue[a];
    queue[a] = queue[b];
    queue[b] = p;
}

static void enqueue(const datsync_ip *from, const datsync_ip *to, const void *bytes, size_t len)
{
    if (queued == QUEUE)
        die("too many datagrams");
    packet p = {now + 10 + chance(&seed) % 100, order++, *from, *to, len, must(malloc(len ? len : 1))};
    memcpy(p.bytes, bytes, len);
    queue[queued] = p;
    for (size_t i = queued++; i > 0 && earlier(&queue[i], &queue[(i - 1) / 2]); i = (i - 1) / 2)
        swap(i, (i - 1) / 2);
}

static packet dequeue(void)
{
    packet first = queue[0];
    queue[0] = queue[--queued];
    for (size_t i = 0;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < queued && earlier(&queue[child + 1], &queue[child]))
            child++;
        if (child >= queued || !earlier(&queue[child], &queue[i]))
            return first;
        swap(i, child);
        i = child;
    }
}

static member *member_at(const datsync_ip *ip)
{
    for (int i = 0; i < NODES; i++)
        if (members[i].used && same_ip(&members[i].ip, ip))
            return &members[i];
    return NULL;
}

static void on_send(void *ctx, const datsync_ip *to, const void *bytes, size_t len)
{
    member *m = ctx;
    sends++;
    sent_bytes += len;
    if (!member_at(to)) {
        printf("sent %d ", m->index);
        put_ip(to);
        printf(" ");
        hex(bytes, len);
        printf("\n");
    } else if (chance(&seed) % 100 >= loss) {
        enqueue(&m->ip, to, bytes, len);
    }
}

static void on_found(void *ctx, const uint8_t *name, const datsync_ip *peer, const datsync_ip *informant)
{
    member *m = ctx;
    m->told++;
    if (m->n_found == FOUND)
        return;
    sighting *s = &m->found[m->n_found++];
    memcpy(s->name, name, DATSYNC_NAME_BYTES);
    s->peer = *peer;
    s->informant = *informant;
    s->at = now;
}

static void *resize(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    void *p = counted_resize(ptr, size, &live);
    most_live = live > most_live ? live : most_live;
    return p;
}

static void draw(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    for (size_t i = 0; i < len; i++)
        ((uint8_t *)buf)[i] = (uint8_t)chance(&seed);
}

static const datsync_env env = {NULL, resize, draw, NULL, NULL};

/* ---------------------------------------------------------------- one that lies -------------------------------- */

/* Nodes that are itself, nodes in one network, nodes nearer than any, all without a life; and many peers. */
static void evil_answer(member *m, const packet *p)
{
    static uint8_t nodes[20 * 26], peers[4000 * 8], out[40000];
    static unsigned turn;
    datsync_dht_message q, a;
    datsync_ip from = p->from;
    turn++;
    if (datsync_dht_parse(&q, p->bytes, p->len) < 0 || q.kind >= DATSYNC_DHT_OTHER_QUERY)
        return;
    const uint8_t *target = q.target.data ? q.target.data : q.name.data ? q.name.data : m->evil_id;
    for (unsigned i = 0; i < 20; i++) {
        datsync_ip ip = turn % 3 == 0 ? m->ip : random_ip();
        if (turn % 3 == 1) {
            memcpy(ip.bytes, "\x1e\x1e\x1e", 3);
            ip.bytes[3] = (uint8_t)i;
        }
        memcpy(nodes + i * 26, target, 20);
        nodes[i * 26 + 19] ^= (uint8_t)(i + 1);
        memcpy(nodes + i * 26 + 20, ip.bytes, 4);
        nodes[i * 26 + 24] = (uint8_t)(ip.port >> 8);
        nodes[i * 26 + 25] = (uint8_t)ip.port;
    }
    memset(&a, 0, sizeof a);
    a.kind = DATSYNC_DHT_ANSWER;
    a.port = a.implied_port = a.read_only = a.code = -1;
    a.transaction = q.transaction;
    a.id.data = m->evil_id;
    a.id.len = DATSYNC_NODE_BYTES;
    if (q.kind == DATSYNC_DHT_FIND_NODE || q.kind == DATSYNC_DHT_GET_PEERS) {
        a.nodes.data = nodes;
        a.nodes.len = sizeof nodes;
    }
    if (q.kind == DATSYNC_DHT_GET_PEERS) {
        for (unsigned i = 0; i < 4000; i++) {
            datsync_ip ip = random_ip();
            memcpy(peers + i * 8, "6:", 2);
            memcpy(peers + i * 8 + 2, ip.bytes, 4);
            memcpy(peers + i * 8 + 6, "\1\1", 2);
        }
        a.peers.data = peers;
        a.peers.len = sizeof peers;
        a.token = a.id;
    }
    int64_t len = datsync_dht_write(out, sizeof out, &a);
    if (len > 0)
        enqueue(&m->ip, &from, out, (size_t)len);
}

/* It introduces itself to everybody. */
static void evil_begin(member *m)
{
    uint8_t out[200];
    datsync_dht_message q;
    memset(&q, 0, sizeof q);
    q.kind = DATSYNC_DHT_PING;
    q.port = q.implied_port = q.read_only = q.code = -1;
    q.transaction.data = (const uint8_t *)"xx";
    q.transaction.len = 2;
    q.id.data = m->evil_id;
    q.id.len = DATSYNC_NODE_BYTES;
    int64_t len = datsync_dht_write(out, sizeof out, &q);
    for (int i = 0; i < NODES; i++)
        if (members[i].dht)
            enqueue(&m->ip, &members[i].ip, out, (size_t)len);
}

/* ---------------------------------------------------------------- time ----------------------------------------- */

static void meet(member *m)
{
    m->deadline = m->dht ? datsync_dht_deadline(m->dht) : UINT64_MAX;
}

static void deliver(const packet *p)
{
    member *m = member_at(&p->to);
    if (m && m->dht) {
        (void)datsync_dht_datagram(m->dht, p->bytes, p->len, &p->from, now);
        meet(m);
    } else if (m && m->evil) {
        evil_answer(m, p);
    }
}

static void run(uint64_t ms)
{
    uint64_t end = now + ms;
    unsigned long steps = 0;
    for (;;) {
        member *first = NULL;
        for (int i = 0; i < NODES; i++)
            if (members[i].dht && (!first || members[i].deadline < first->deadline))
                first = &members[i];
        uint64_t next = queued ? queue[0].at : UINT64_MAX;
        if (first && first->deadline < next)
            next = first->deadline;
        else
            first = NULL;
        if (next > end)
            break;
        steps = next > now ? 0 : steps + 1;
        if (steps > 100000)
            die("it spins");
        now = next > now ? next : now;
        if (first) {
            datsync_dht_step(first->dht, now);
            meet(first);
        } else {
            packet p = dequeue();
            deliver(&p);
            free(p.bytes);
        }
    }
    now = end;
}

/* ---------------------------------------------------------------- messages ------------------------------------- */

static void put_bytes(const char *name, datsync_bytes bytes)
{
    if (!bytes.data)
        return;
    printf("%s ", name);
    hex(bytes.data, bytes.len);
    printf("\n");
}

static void put_number(const char *name, int64_t number)
{
    if (number >= 0)
        printf("%s %lld\n", name, (long long)number);
}

static void parse(const uint8_t *bytes, size_t len)
{
    uint8_t out[8192], id[DATSYNC_NODE_BYTES];
    datsync_dht_message m;
    datsync_ip ip;
    int r = datsync_dht_parse(&m, bytes, len);
    if (r < 0) {
        printf("error %d\n", r);
        return;
    }
    printf("kind %d\n", m.kind);
    put_bytes("transaction", m.transaction);
    put_bytes("id", m.id);
    put_bytes("target", m.target);
    put_bytes("name", m.name);
    put_bytes("token", m.token);
    put_bytes("seen", m.seen);
    put_bytes("text", m.text);
    put_number("port", m.port);
    put_number("implied_port", m.implied_port);
    put_number("code", m.code);
    put_number("read_only", m.read_only);
    for (datsync_bytes rest = m.nodes; datsync_dht_next_node(&rest, id, &ip); printf("\n")) {
        printf("node ");
        hex(id, sizeof id);
        printf(" ");
        put_ip(&ip);
    }
    for (datsync_bytes rest = m.peers; datsync_dht_next_peer(&rest, &ip); printf("\n")) {
        printf("peer ");
        put_ip(&ip);
    }
    int64_t n = datsync_dht_write(out, sizeof out, &m);
    printf("bytes ");
    hex(out, n > 0 ? (size_t)n : 0);
    printf("\n");
}

static void on_nothing(void *ctx, const datsync_ip *to, const void *bytes, size_t len)
{
    (void)ctx;
    (void)to;
    (void)bytes;
    (void)len;
}

/* In memory of just its size, so that a sanitizer sees each byte too far. */
static int chew_one(datsync_dht *dht, const uint8_t *bytes, size_t len)
{
    uint8_t *copy = must(malloc(len ? len : 1)), out[2048], id[DATSYNC_NODE_BYTES];
    datsync_dht_message m, again;
    datsync_ip ip, from = get_ip("127.0.0.1:6881");
    memcpy(copy, bytes, len);
    int r = datsync_dht_parse(&m, copy, len);
    if (r == 0) {
        int64_t n = datsync_dht_write(out, sizeof out, &m);
        if (n >= 0 && (datsync_dht_parse(&again, out, (size_t)n) < 0 || again.kind != m.kind))
            die("what was written does not read");
        while (datsync_dht_next_node(&m.nodes, id, &ip))
            ;
        while (datsync_dht_next_peer(&m.peers, &ip))
            ;
    }
    now += 100;
    (void)datsync_dht_datagram(dht, copy, len, &from, now);
    datsync_dht_step(dht, now);
    free(copy);
    return r;
}

static void chew(uint8_t *bytes, size_t len)
{
    datsync_way way = {&members[0], on_nothing, on_found};
    datsync_dht *dht;
    unsigned read = 0, refused = 0;
    if (datsync_dht_new(&dht, &env, &way, NULL, 0, now) < 0)
        die("no node");
    for (size_t i = 0; i <= len; i++)
        *(chew_one(dht, bytes, i) < 0 ? &refused : &read) += 1;
    for (size_t i = 0; i < 8 * len; i++) {
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        *(chew_one(dht, bytes, len) < 0 ? &refused : &read) += 1;
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    datsync_dht_free(dht);
    printf("read %u refused %u\n", read, refused);
}

/* ---------------------------------------------------------------- floods --------------------------------------- */

static uint8_t last[2048];
static size_t last_len;

static void on_last(void *ctx, const datsync_ip *to, const void *bytes, size_t len)
{
    datsync_dht_message m;
    (void)ctx;
    (void)to;
    if (len > sizeof last || datsync_dht_parse(&m, bytes, len) < 0 || m.kind < DATSYNC_DHT_ANSWER)
        return;
    memcpy(last, bytes, len);
    last_len = len;
}

static void query(datsync_dht *dht, datsync_dht_message *q, const datsync_ip *from)
{
    uint8_t out[1024];
    q->transaction.data = (const uint8_t *)"ab";
    q->transaction.len = 2;
    q->id.data = (const uint8_t *)"abcdefghijklmnopqrst";
    q->id.len = DATSYNC_NODE_BYTES;
    int64_t len = datsync_dht_write(out, sizeof out, q);
    last_len = 0;
    (void)datsync_dht_datagram(dht, out, (size_t)len, from, now);
}

/* A node by itself is asked for its token and then told of a peer, again and again from other addresses. */
static void flood(unsigned n, unsigned names, int forged)
{
    datsync_way way = {members, on_last, on_found};
    datsync_dht *dht;
    datsync_dht_message q, a;
    uint8_t name[DATSYNC_NAME_BYTES], token[64] = {0};
    unsigned kept = 0;
    if (datsync_dht_new(&dht, &env, &way, NULL, 0, now) < 0)
        die("no node");
    most_live = live;
    for (unsigned i = 0; i < n; i++) {
        datsync_ip from = random_ip();
        uint64_t of = chance(&seed) % names;
        memset(name, 7, sizeof name);
        memcpy(name, &of, sizeof of);
        memset(&q, 0, sizeof q);
        q.port = q.implied_port = q.read_only = -1;
        q.kind = DATSYNC_DHT_GET_PEERS;
        q.name.data = name;
        q.name.len = sizeof name;
        q.token.len = 8;
        q.token.data = token;
        now += 10;
        if (forged) {
            draw(NULL, token, sizeof token);
        } else {
            q.token.data = NULL;
            query(dht, &q, &from);
            if (datsync_dht_parse(&a, last, last_len) < 0 || !a.token.data || a.token.len > sizeof token)
                continue;
            memcpy(token, a.token.data, a.token.len);
            q.token.data = token;
            q.token.len = a.token.len;
        }
        q.kind = DATSYNC_DHT_ANNOUNCE_PEER;
        q.port = (int64_t)(1 + i % 65000);
        query(dht, &q, &from);
        kept += datsync_dht_parse(&a, last, last_len) == 0 && a.kind == DATSYNC_DHT_ANSWER;
    }
    datsync_dht_state s;
    datsync_dht_status(dht, &s, now);
    printf("kept %u peers %u nodes %u memory %zu\n", kept, s.peers, s.nodes, most_live);
    datsync_dht_free(dht);
}

/* ---------------------------------------------------------------- commands ------------------------------------- */

static void begin(int i, const char *ip, const char *saved)
{
    static uint8_t bytes[LINE];
    member *m = &members[i];
    datsync_way way = {m, on_send, on_found};
    size_t len = unhex(saved, bytes);
    memset(m, 0, sizeof *m);
    m->index = i;
    m->ip = get_ip(ip);
    m->used = 1;
    if (datsync_dht_new(&m->dht, &env, &way, saved ? bytes : NULL, len, now) < 0)
        die("no node");
    meet(m);
}

static void put_status(const member *m)
{
    datsync_dht_state s;
    datsync_dht_status(m->dht, &s, now);
    printf("nodes %u good %u in_flight %u names %u peers %u looked_up %llu answered %llu told %zu sends %llu bytes "
           "%llu seen ",
           s.nodes, s.good, s.in_flight, s.names, s.peers, (unsigned long long)s.looked_up,
           (unsigned long long)s.answered, m->told, (unsigned long long)sends, (unsigned long long)sent_bytes);
    put_ip(&s.seen);
    printf("\n");
}

static void put_found(member *m)
{
    for (size_t i = 0; i < m->n_found; i++) {
        printf("peer ");
        hex(m->found[i].name, DATSYNC_NAME_BYTES);
        printf(" ");
        put_ip(&m->found[i].peer);
        printf(" ");
        put_ip(&m->found[i].informant);
        printf(" %llu\n", (unsigned long long)m->found[i].at);
    }
    m->n_found = 0;
}

static void end(member *m)
{
    datsync_dht_free(m->dht);
    m->dht = NULL;
    m->used = m->evil = 0;
}

static void of_member(const char *word, int i, const char *a, const char *b)
{
    static uint8_t bytes[LINE];
    member *m = &members[i];
    if (strcmp(word, "node") == 0) {
        begin(i, a, b && strcmp(b, "fresh") != 0 ? b : NULL);
        return;
    }
    if (strcmp(word, "evil") == 0) {
        memset(m, 0, sizeof *m);
        m->index = i;
        m->used = m->evil = 1;
        m->ip = get_ip(a);
        (void)unhex(b, m->evil_id);
        evil_begin(m);
        return;
    }
    if (strcmp(word, "free") == 0) {
        end(m);
        return;
    }
    if (!m->dht)
        die("no such node");
    if (strcmp(word, "boot") == 0) {
        datsync_ip ip = get_ip(a);
        printf("result %d\n", datsync_dht_bootstrap(m->dht, &ip, now));
    } else if (strcmp(word, "add") == 0) {
        (void)unhex(a, bytes);
        printf("result %d\n", datsync_dht_add(m->dht, bytes, (uint16_t)atoi(b), now));
    } else if (strcmp(word, "remove") == 0) {
        (void)unhex(a, bytes);
        printf("result %d\n", datsync_dht_remove(m->dht, bytes));
    } else if (strcmp(word, "answered") == 0) {
        (void)unhex(a, bytes);
        printf("result %d\n", datsync_dht_answered(m->dht, bytes));
    } else if (strcmp(word, "from") == 0) {
        datsync_ip ip = get_ip(a);
        printf("result %d\n", datsync_dht_datagram(m->dht, bytes, unhex(b, bytes), &ip, now));
    } else if (strcmp(word, "status") == 0) {
        put_status(m);
    } else if (strcmp(word, "deadline") == 0) {
        printf("in %lld\n", (long long)(datsync_dht_deadline(m->dht) - now));
    } else if (strcmp(word, "save") == 0) {
        int64_t n = datsync_dht_save(m->dht, bytes, a ? (size_t)atoi(a) : DATSYNC_DHT_SAVED_BYTES);
        printf("result %d\nsaved ", n < 0 ? (int)n : 0);
        hex(bytes, n < 0 ? 0 : (size_t)n);
        printf("\n");
    } else if (strcmp(word, "found") == 0) {
        put_found(m);
    } else {
        die(word);
    }
    meet(m);
}

int main(void)
{
    static char line[LINE];
    static uint8_t bytes[LINE];
    while (fgets(line, sizeof line, stdin)) {
        char *word = strtok(line, " \n"), *a = strtok(NULL, " \n"), *b = strtok(NULL, " \n"), *c = strtok(NULL, " \n");
        if (!word)
            continue;
        if (strcmp(word, "seed") == 0)
            seed = (uint64_t)atoi(a);
        else if (strcmp(word, "loss") == 0)
            loss = (unsigned)atoi(a);
        else if (strcmp(word, "run") == 0)
            run((uint64_t)atoi(a));
        else if (strcmp(word, "parse") == 0)
            parse(bytes, unhex(a, bytes));
        else if (strcmp(word, "chew") == 0)
            chew(bytes, unhex(a, bytes));
        else if (strcmp(word, "flood") == 0)
            flood((unsigned)atoi(a), (unsigned)atoi(b), 0);
        else if (strcmp(word, "forge") == 0)
            flood((unsigned)atoi(a), 1000, 1);
        else if (strcmp(word, "memory") == 0)
            printf("live %zu most %zu now %llu\n", live, most_live, (unsigned long long)now);
        else if (a && atoi(a) >= 0 && atoi(a) < NODES)
            of_member(word, atoi(a), b, c);
        printf(".\n");
        fflush(stdout);
    }
    for (int i = 0; i < NODES; i++)
        end(&members[i]);
    while (queued)
        free(queue[--queued].bytes);
    if (live)
        die("memory is not freed");
    return 0;
}
