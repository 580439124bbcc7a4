/* The public interface as a program in C meets it: each check is a function, `api NAME` runs one and `api` names
 * them. What a check finds wrong is told on standard error with its line, and the exit status is 1. Allocations that
 * fail, addresses that are taken, plugs that are missing: what the test driver, which speaks for Python, has no
 * words for.
 *
 * SPDX-License-Identifier: MIT
 */
#include "datsync.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what) ((what) ? (void)0 : failed(__LINE__, #what))

static void failed(int line, const char *what)
{
    fprintf(stderr, "api.c:%d: %s\n", line, what);
    exit(1);
}

/* ================================================================ plugs ========================================= */

/* An allocator that gives `left` more times, and counts what is not given back. */
typedef struct allocator {
    long left, used;
} allocator;

static void *limited(void *ctx, void *ptr, size_t size)
{
    allocator *a = ctx;
    if (size == 0) {
        a->used -= ptr != NULL;
        free(ptr);
        return NULL;
    }
    if (a->left == 0)
        return NULL;
    a->left--;
    void *p = realloc(ptr, size);
    a->used += p && !ptr;
    return p;
}

static datsync_env env_of(allocator *a)
{
    datsync_env e;
    memset(&e, 0, sizeof e);
    e.ctx = a;
    e.resize = limited;
    return e;
}

/* Runs it with 0, 1, 2, ... allocations until it comes to its end. It returns an error, or 0; both ways nothing is
 * left. */
static void each_allocation_fails(int (*run)(const datsync_env *env))
{
    long n;
    int r = DATSYNC_E_NOMEM;
    for (n = 0; r != 0; n++) {
        allocator a = {0, 0};
        datsync_env env = env_of(&a);
        a.left = n;
        r = run(&env);
        CHECK(r == 0 || r == DATSYNC_E_NOMEM);
        CHECK(a.used == 0);
        CHECK(n < 10000);
    }
    CHECK(n > 1);
}

static datsync_bytes bytes(const char *text)
{
    datsync_bytes b;
    b.data = (const uint8_t *)text;
    b.len = strlen(text);
    return b;
}

static datsync_feed *feed_new(const uint8_t *key, unsigned flags)
{
    datsync_feed_options o;
    datsync_feed *f = NULL;
    memset(&o, 0, sizeof o);
    o.flags = DATSYNC_CREATE | flags;
    o.key = key;
    CHECK(datsync_feed_open(&f, &o) == 0);
    return f;
}

static datsync_feed *feed_of(unsigned blocks)
{
    datsync_feed *f = feed_new(NULL, 0);
    for (unsigned i = 0; i < blocks; i++) {
        datsync_bytes b = bytes("a block");
        CHECK(datsync_feed_append(f, &b, 1) == (int64_t)i + 1);
    }
    return f;
}

/* ================================================================ messages ====================================== */

/* What is encoded is decoded, with the same fields: whichever of them are given, on numbers whose header is a byte
 * and two. */
static void check_fields(void)
{
    uint8_t buf[64];
    for (int type = DATSYNC_FEED; type <= DATSYNC_DATA; type++)
        for (unsigned k = 0; k < 2; k++)
            for (unsigned has = 0; has < 64; has += 2) {
                datsync_message m;
                int needs = type != DATSYNC_HANDSHAKE && type != DATSYNC_INFO;
                unsigned known = type == DATSYNC_HANDSHAKE                         ? 0x2e
                                 : type == DATSYNC_HAVE || type == DATSYNC_REQUEST ? 0x1e
                                 : type == DATSYNC_CANCEL                          ? 0x0e
                                 : type == DATSYNC_DATA                            ? 0x16
                                                                                   : 0x06; /* but for lists */
                memset(&m, 0, sizeof m);
                m.type = type;
                m.channel = 8 * k;
                m.has = has;
                int64_t n = datsync_encode(&m, buf, sizeof buf, NULL);
                CHECK(n == datsync_encode(&m, NULL, 0, NULL));
                datsync_message back;
                CHECK(n == DATSYNC_E_INVALID || (n > 0 && datsync_decode(&back, buf, (size_t)n, NULL) == n));
                CHECK((n > 0) == (needs ? (has & 2) != 0 : (has & known) != 0));
                CHECK(n < 0 || back.has == (has & known));
            }
}

static void check_messages(void)
{
    datsync_message m;
    memset(&m, 0, sizeof m);
    m.type = DATSYNC_KEEP_ALIVE;
    CHECK(datsync_encode(&m, NULL, 0, NULL) == 1);
    uint8_t buf[64];
    CHECK(datsync_encode(&m, buf, 0, NULL) == DATSYNC_E_SPACE);
    CHECK(datsync_encode(&m, buf, 1, NULL) == 1 && buf[0] == 0);
    for (m.type = -1; m.type < 20; m.type++) /* no type, or no field: an Extension has its number */
        CHECK((datsync_encode(&m, NULL, 0, NULL) < 0) == (m.type < 15 || m.type > 16));
    check_fields();
    m.type = DATSYNC_HAVE;
    m.channel = 1u << 28;
    CHECK(datsync_encode(&m, buf, sizeof buf, NULL) == DATSYNC_E_INVALID);
    m.channel--;
    m.has = 1u << 1;
    m.u.have.start = 300;
    int64_t size = datsync_encode(&m, NULL, 0, NULL);
    CHECK(size == 1 + 5 + 3);
    size_t cap;
    for (cap = 0; cap < (size_t)size; cap++)
        CHECK(datsync_encode(&m, buf, cap, NULL) == DATSYNC_E_SPACE);
    CHECK(datsync_encode(&m, buf, cap, NULL) == size);
    memset(&m, 0, sizeof m);
    m.type = DATSYNC_EXTENSION;
    m.u.extension.payload.len = DATSYNC_MAX_FRAME - 2;
    CHECK(datsync_encode(&m, NULL, 0, NULL) == (int64_t)DATSYNC_MAX_FRAME + 4);
    m.u.extension.payload.len++;
    CHECK(datsync_encode(&m, NULL, 0, NULL) == DATSYNC_E_TOO_BIG);
    CHECK(datsync_decode(&m, buf, 0, NULL) == DATSYNC_E_MORE && m.type == -1);
    memset(&m, 0, sizeof m);
    m.body = bytes("\x22\x05xy"); /* a name of five bytes of which two are there; a node's tag is \x1a */
    size_t at = 0;
    datsync_bytes name;
    CHECK(datsync_next_extension(&m, &at, &name) == DATSYNC_E_MESSAGE);
    m.body = bytes("\x1a\x05xy");
    at = 0;
    datsync_node node;
    CHECK(datsync_next_node(&m, &at, &node) == DATSYNC_E_MESSAGE);
    m.body = bytes("\x1a\x02xy");
    at = 0;
    CHECK(datsync_next_node(&m, &at, &node) == DATSYNC_E_MESSAGE);
}

static void check_run_lengths(void)
{
    uint8_t bits[100];
    memset(bits, 0, sizeof bits);
    memset(bits + 10, 255, 40);
    bits[60] = 7;
    uint8_t code[128];
    size_t cap;
    for (cap = 0; cap < 61 + 16; cap++) /* as much as the worst of 61 bytes could need */
        CHECK(datsync_rle_encode(bits, sizeof bits, code, cap) == DATSYNC_E_SPACE);
    int64_t n = datsync_rle_encode(bits, sizeof bits, code, cap);
    CHECK(n > 0 && n < 16);
    CHECK(datsync_rle_size(code, (size_t)n, 61) == 61);
    CHECK(datsync_rle_size(code, (size_t)n, 60) == DATSYNC_E_RLE);
    uint8_t back[100];
    CHECK(datsync_rle_decode(code, (size_t)n, back, 60) == DATSYNC_E_SPACE);
    CHECK(datsync_rle_decode(code, (size_t)n, back, 61) == 61 && memcmp(bits, back, 61) == 0);
    CHECK(datsync_rle_decode(code, (size_t)n - 1, back, sizeof back) == DATSYNC_E_RLE);
}

static void check_errors(void)
{
    for (int e = -200; e < 10; e++)
        for (int other = -200; other < e; other++)
            CHECK(strcmp(datsync_strerror(e), datsync_strerror(other)) != 0 ||
                  strcmp(datsync_strerror(e), "unknown error") == 0);
    CHECK(strcmp(datsync_strerror(DATSYNC_E_BUSY), "unknown error") != 0);
    CHECK(strcmp(datsync_strerror(-12345), "unknown error") == 0);
}

/* ================================================================ memory stores and feeds ======================= */

static int use_memory_store(const datsync_env *env)
{
    datsync_store s;
    int r = datsync_memory_store(env, &s);
    if (r < 0)
        return r;
    CHECK(s.size(s.ctx, DATSYNC_PART_DATA) == DATSYNC_E_NO_ENTRY);
    r = s.write(s.ctx, DATSYNC_PART_DATA, 3, "abc", 3);
    uint8_t buf[16];
    if (r == 0) {
        CHECK(s.size(s.ctx, DATSYNC_PART_DATA) == 6);
        r = s.write(s.ctx, DATSYNC_PART_DATA, 5000, "x", 1);
        CHECK(s.size(s.ctx, DATSYNC_PART_DATA) == (r < 0 ? 6 : 5001));
        CHECK(s.read(s.ctx, DATSYNC_PART_DATA, 0, buf, 6) == 6 && memcmp(buf, "\0\0\0abc", 6) == 0);
    }
    if (r == 0) {
        CHECK(s.read(s.ctx, DATSYNC_PART_DATA, 4990, buf, 16) == 11 && memcmp(buf, "\0\0\0\0\0\0\0\0\0\0x", 11) == 0);
        CHECK(s.read(s.ctx, DATSYNC_PART_DATA, 5001, buf, 16) == 0);
        r = s.truncate(s.ctx, DATSYNC_PART_DATA, 5000);
    }
    if (r == 0) {
        CHECK(s.truncate(s.ctx, DATSYNC_PART_DATA, UINT64_MAX / 2) == DATSYNC_E_NO_SPACE);
        CHECK(s.write(s.ctx, DATSYNC_PART_DATA, UINT64_MAX / 2, "x", 1) == DATSYNC_E_NO_SPACE);
        CHECK(s.size(s.ctx, DATSYNC_PART_DATA) == 5000);
        r = s.truncate(s.ctx, DATSYNC_PART_DATA, 50000);
    }
    if (r == 0)
        CHECK(s.read(s.ctx, DATSYNC_PART_DATA, 4999, buf, 3) == 3 && memcmp(buf, "\0\0\0", 3) == 0);
    s.close(s.ctx);
    return r;
}

static void check_memory_store(void)
{
    each_allocation_fails(use_memory_store);
}

static void check_feed(void)
{
    datsync_feed *f = feed_of(3);
    uint64_t index = 9, inside = 9;
    datsync_bytes b = bytes("more");
    CHECK(datsync_feed_has_node(f, 0) && datsync_feed_has_node(f, 1) && datsync_feed_has_node(f, 4));
    CHECK(!datsync_feed_has_node(f, 3) && !datsync_feed_has_node(f, 5) && !datsync_feed_has_node(f, UINT64_MAX));
    CHECK(datsync_feed_append(f, NULL, 0) == 3);
    if (SIZE_MAX > UINT32_MAX) /* elsewhere so many cannot be counted */
        CHECK(datsync_feed_append(f, &b, (size_t)DATSYNC_MAX_BLOCKS) == DATSYNC_E_TOO_BIG);
    b.len = DATSYNC_MAX_BLOCK + 1;
    CHECK(datsync_feed_append(f, &b, 1) == DATSYNC_E_TOO_BIG);
    CHECK(datsync_feed_length(f) == 3 && datsync_feed_byte_length(f) == 21);
    CHECK(datsync_feed_finalize(f) == DATSYNC_E_STATE);
    CHECK(datsync_feed_want(f, 2, 1) == DATSYNC_E_INVALID);
    CHECK(datsync_feed_seek(f, 20, &index, &inside) == 0 && index == 2 && inside == 6);
    CHECK(datsync_feed_clear(f, 1, 2) == 0 && datsync_feed_clear(f, 1, 2) == 0 && datsync_feed_clear(f, 7, 9) == 0);
    CHECK(datsync_feed_count(f, 0, UINT64_MAX) == 2 && !datsync_feed_has(f, 1) && datsync_feed_has(f, 2));
    CHECK(datsync_feed_block_size(f, 1) == 7 && datsync_feed_get(f, 1, NULL, 0) == DATSYNC_E_NOT_FOUND);
    datsync_feed *reader = feed_new(datsync_feed_key(f), 0);
    b = bytes("more");
    CHECK(datsync_feed_append(reader, &b, 1) == DATSYNC_E_READ_ONLY && datsync_feed_length(reader) == 0);
    datsync_proof proof;
    CHECK(datsync_feed_proof(f, 0, 1, 0, &proof) == 0 && proof.node_count == 0);
    CHECK(datsync_feed_proof(f, 0, 0, 0, &proof) == 0 &&
          datsync_feed_put(reader, DATSYNC_MAX_BLOCKS, b, &proof) == DATSYNC_E_INVALID);
    b.len = DATSYNC_MAX_FRAME + 1;
    CHECK(datsync_feed_put(reader, 0, b, &proof) == DATSYNC_E_TOO_BIG);
    b = bytes("a block");
    proof.nodes[0].size += DATSYNC_MAX_BLOCKS * DATSYNC_MAX_FRAME;
    CHECK(datsync_feed_put(reader, 0, b, &proof) == DATSYNC_E_TOO_BIG);
    proof.nodes[0].size -= DATSYNC_MAX_BLOCKS * DATSYNC_MAX_FRAME;
    proof.nodes[0].index += 2 * DATSYNC_MAX_BLOCKS;
    CHECK(datsync_feed_put(reader, 0, b, &proof) == DATSYNC_E_TOO_BIG);
    proof.nodes[0].index -= 2 * DATSYNC_MAX_BLOCKS;
    CHECK(datsync_feed_put(reader, 0, b, &proof) == 1 && datsync_feed_put(reader, 0, b, &proof) == 0);
    b = bytes("more");
    datsync_feed *fixed = feed_new(NULL, DATSYNC_STATIC);
    CHECK(datsync_feed_append(fixed, &b, 1) == 1 && datsync_feed_finalize(fixed) == 0);
    CHECK(datsync_feed_finalize(fixed) == DATSYNC_E_STATE && datsync_feed_append(fixed, &b, 1) == DATSYNC_E_READ_ONLY);
    CHECK(datsync_feed_close(f) == 0 && datsync_feed_close(reader) == 0 && datsync_feed_close(fixed) == 0);
    CHECK(datsync_feed_close(NULL) == 0);
}

/* A memory store, whose tree is said to be as long as this, if not 0. */
static datsync_store plain;
static int64_t tree_length;

static int64_t long_size(void *ctx, int part)
{
    return part == DATSYNC_PART_TREE && tree_length ? tree_length : plain.size(ctx, part);
}

static int no_lock(void *ctx)
{
    (void)ctx;
    return 0;
}

static void check_sizes(void)
{
    datsync_bytes b[3];
    for (int i = 0; i < 3; i++)
        b[i] = bytes("a block");
    CHECK(datsync_memory_store(NULL, &plain) == 0);
    datsync_feed_options o;
    memset(&o, 0, sizeof o);
    o.store = plain;
    o.store.close = NULL; /* it is opened several times */
    o.store.lock = no_lock;
    o.flags = DATSYNC_CREATE;
    datsync_feed *f;
    CHECK(datsync_feed_open(&f, &o) == 0 && datsync_feed_append(f, b, 3) == 3 && datsync_feed_flush(f) == 0);
    CHECK(plain.size(plain.ctx, DATSYNC_PART_DATA) == 21);
    CHECK(datsync_feed_clear(f, 1, 3) == 0); /* at the end: the bytes go at once */
    CHECK(plain.size(plain.ctx, DATSYNC_PART_DATA) == 7);
    CHECK(datsync_feed_close(f) == 0);
    /* a tree for 2^32 blocks is as long as it may be */
    tree_length = (int64_t)(80 * DATSYNC_MAX_BLOCKS) + 79;
    o.store.size = long_size;
    o.flags = DATSYNC_READ_ONLY;
    CHECK(datsync_feed_open(&f, &o) == 0 && datsync_feed_length(f) == 3 && datsync_feed_close(f) == 0);
    tree_length++;
    CHECK(datsync_feed_open(&f, &o) == DATSYNC_E_TOO_BIG && f == NULL);
    plain.close(plain.ctx);
}

/* ================================================================ peers ========================================= */

/* All that two peers have to say to each other: 0, or the first error that is not the good end. */
static int pump(datsync_peer *a, datsync_peer *b, uint64_t now)
{
    const uint8_t *buf;
    int idle = 0, r = 0;
    while (idle < 2 && r == 0) {
        size_t n = datsync_peer_output(a, &buf, now);
        idle = n ? 0 : idle + 1;
        if (n) {
            int64_t k = datsync_peer_input(b, buf, n, now);
            r = k < 0 && k != DATSYNC_E_DONE ? (int)k : 0;
            datsync_peer_sent(a, n, now);
        }
        if (r == 0 && (r = datsync_peer_tick(a, now)) == DATSYNC_E_DONE)
            r = 0;
        datsync_peer *other = a;
        a = b;
        b = other;
    }
    return r;
}

static void check_handshake(void)
{
    static const char *const names[] = {"two", "one"};
    datsync_feed *f = feed_of(3), *g = feed_new(datsync_feed_key(f), 0);
    datsync_peer_options o;
    uint8_t user[] = "who I am";
    memset(&o, 0, sizeof o);
    memset(o.id, 'A', 32);
    o.live = 1;
    o.user_data.data = user;
    o.user_data.len = 8;
    o.extensions = names;
    o.extension_count = 2;
    datsync_peer *a;
    CHECK(datsync_peer_new(&a, &o, 0) == 0);
    memset(user, 0, sizeof user); /* it was copied */
    memset(&o, 0, sizeof o);
    memset(o.id, 'B', 32);
    o.extensions = names + 1;
    o.extension_count = 1;
    datsync_peer *b;
    CHECK(datsync_peer_new(&b, &o, 0) == 0);
    CHECK(datsync_peer_remote_id(a) == NULL && datsync_peer_remote_live(b) == 0);
    CHECK(datsync_peer_extension(a, f, "one", bytes("x")) == DATSYNC_E_STATE);
    CHECK(datsync_peer_open(a, f, DATSYNC_UPLOAD) == 0);
    CHECK(datsync_peer_open(a, f, DATSYNC_UPLOAD) == DATSYNC_E_STATE);
    CHECK(datsync_peer_extension(a, f, "one", bytes("x")) == DATSYNC_E_UNSUPPORTED); /* not known yet */
    const uint8_t *out;
    /* what goes over the wire first: Feed with its nonce in the clear, then the handshake */
    size_t n = datsync_peer_output(a, &out, 0);
    uint8_t *copy = malloc(n);
    CHECK(copy != NULL);
    memcpy(copy, out, n);
    datsync_message m;
    int64_t k = datsync_decode(&m, copy, n, NULL);
    CHECK(k > 0 && m.type == DATSYNC_FEED && m.u.feed.nonce.len == 24);
    datsync_cipher cipher;
    datsync_cipher_init(&cipher, datsync_feed_key(f), m.u.feed.nonce.data);
    datsync_cipher_xor(&cipher, copy + k, n - (size_t)k);
    CHECK(datsync_decode(&m, copy + k, n - (size_t)k, NULL) > 0 && m.type == DATSYNC_HANDSHAKE);
    CHECK(m.has == (1u << 1 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5) && m.u.handshake.live == 1 &&
          m.u.handshake.ack == 0);
    CHECK(m.u.handshake.id.len == 32 && m.u.handshake.id.data[0] == 'A');
    CHECK(m.u.handshake.user_data.len == 8 && memcmp(m.u.handshake.user_data.data, "who I am", 8) == 0);
    size_t at = 0; /* in the order of their names, which the other side relies on */
    datsync_bytes name;
    CHECK(datsync_next_extension(&m, &at, &name) == 1 && name.len == 3 && memcmp(name.data, "one", 3) == 0);
    CHECK(datsync_next_extension(&m, &at, &name) == 1 && name.len == 3 && memcmp(name.data, "two", 3) == 0);
    CHECK(datsync_next_extension(&m, &at, &name) == 0);
    free(copy);
    CHECK(datsync_peer_open(b, g, DATSYNC_DOWNLOAD) == 0);
    CHECK(pump(a, b, 0) == 0);
    CHECK(datsync_peer_remote_id(a)[0] == 'B' && datsync_peer_remote_id(b)[31] == 'A');
    CHECK(datsync_peer_remote_live(b) == 1 && datsync_peer_remote_live(a) == 0);
    CHECK(datsync_peer_remote_has(b, g, 0) && datsync_peer_remote_has(b, g, 2) && !datsync_peer_remote_has(b, g, 3));
    CHECK(!datsync_peer_remote_has(b, g, UINT64_MAX) && !datsync_peer_remote_has(b, f, 0));
    CHECK(datsync_peer_remote_length(b, g) == 3 && datsync_peer_remote_length(b, f) == 0);
    CHECK(datsync_peer_complete(b, g) && !datsync_peer_complete(b, f));
    CHECK(!datsync_peer_complete(a, f)); /* it asked for nothing, and was answered nothing */
    CHECK(datsync_feed_count(g, 0, 9) == 3);
    CHECK(datsync_peer_bytes_in(a) == datsync_peer_bytes_out(b) && datsync_peer_bytes_in(a) > 0);
    CHECK(datsync_peer_bytes_in(b) == datsync_peer_bytes_out(a) && datsync_peer_bytes_in(b) > 21);
    datsync_peer_free(a);
    datsync_peer_free(b);
    CHECK(datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0);
}

typedef struct heard {
    datsync_feed *other;
    int feeds, extensions, opened;
    char payload[16];
} heard;

static void hear(void *ctx, datsync_peer *p, const datsync_peer_event *e)
{
    heard *h = ctx;
    if (e->type == DATSYNC_PEER_FEED) {
        h->feeds++;
        CHECK(memcmp(e->discovery_key, datsync_feed_discovery_key(h->other), 32) != 0);
        h->opened = datsync_peer_open(p, h->other, DATSYNC_UPLOAD);
    } else if (e->type == DATSYNC_PEER_EXTENSION) {
        h->extensions++;
        CHECK(strcmp(e->name, "one") == 0 && e->payload.len < sizeof h->payload);
        memcpy(h->payload, e->payload.data, e->payload.len);
    }
}

static void check_extensions_and_send(void)
{
    static const char *const names[] = {"one", "two"};
    datsync_feed *f = feed_of(1), *g = feed_new(datsync_feed_key(f), 0), *h = feed_of(0);
    heard told;
    memset(&told, 0, sizeof told);
    datsync_peer_options o;
    memset(&o, 0, sizeof o);
    told.other = h;
    o.live = 1;
    o.extensions = names;
    o.extension_count = 2;
    datsync_peer *a;
    CHECK(datsync_peer_new(&a, &o, 0) == 0);
    o.extension_count = 1;
    o.ctx = &told;
    o.on_event = hear;
    datsync_peer *b;
    CHECK(datsync_peer_new(&b, &o, 0) == 0);
    datsync_peer *c;
    CHECK(datsync_peer_new(&c, &o, 0) == 0);
    datsync_message m;
    memset(&m, 0, sizeof m);
    m.type = DATSYNC_UNHAVE;
    m.has = 1u << 1;
    CHECK(datsync_peer_send(a, &m) == DATSYNC_E_STATE); /* no channel is open */
    CHECK(datsync_peer_open(a, f, DATSYNC_UPLOAD) == 0 && datsync_peer_open(b, g, DATSYNC_DOWNLOAD) == 0);
    CHECK(pump(a, b, 0) == 0 && datsync_peer_remote_has(b, g, 0));
    CHECK(datsync_peer_extension(a, f, "two", bytes("x")) == DATSYNC_E_UNSUPPORTED);
    CHECK(datsync_peer_extension(a, f, "three", bytes("x")) == DATSYNC_E_UNSUPPORTED);
    CHECK(datsync_peer_extension(a, h, "one", bytes("x")) == DATSYNC_E_STATE);
    CHECK(datsync_peer_extension(a, f, "one", bytes("hello")) == 0 && datsync_peer_send(a, &m) == 0);
    CHECK(pump(a, b, 0) == 0 && told.extensions == 1 && strcmp(told.payload, "hello") == 0);
    CHECK(!datsync_peer_remote_has(b, g, 0)); /* the Unhave */
    m.channel = 1;
    CHECK(datsync_peer_send(a, &m) == DATSYNC_E_STATE);
    const uint8_t *out;
    size_t n = datsync_peer_output(a, &out, 0);
    CHECK(n == 0);
    m.type = DATSYNC_KEEP_ALIVE;
    CHECK(datsync_peer_send(a, &m) == 0 && datsync_peer_output(a, &out, 0) == 1);
    uint8_t *place;
    /* more than there was room for; the remote's first feed is one that this side did not begin with */
    n = datsync_peer_space(b, &place);
    CHECK(n > 0 && datsync_peer_received(b, n + 1, 0) == DATSYNC_E_INVALID);
    datsync_peer_free(a);
    o.on_event = NULL;
    CHECK(datsync_peer_new(&a, &o, 0) == 0 && datsync_peer_open(a, f, DATSYNC_UPLOAD) == 0);
    n = datsync_peer_output(a, &out, 0);
    CHECK(datsync_peer_input(c, out, n, 0) >= 0 && told.feeds == 1 && told.opened == DATSYNC_E_FIRST_FEED);
    CHECK(datsync_peer_tick(c, 1000000) == DATSYNC_E_TIMEOUT && datsync_peer_open(c, g, 0) == DATSYNC_E_TIMEOUT);
    CHECK(datsync_peer_send(c, &m) == DATSYNC_E_STATE && datsync_peer_received(c, 0, 1000001) == DATSYNC_E_TIMEOUT);
    datsync_peer_free(a);
    datsync_peer_free(b);
    datsync_peer_free(c);
    datsync_peer_free(NULL);
    CHECK(datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0 && datsync_feed_close(h) == 0);
}

static void check_peer_limits(void)
{
    static char name[DATSYNC_MAX_EXTENSION_NAME + 1];
    static uint8_t user[DATSYNC_MAX_USER_DATA + 1];
    datsync_peer_options o;
    memset(&o, 0, sizeof o);
    o.user_data.data = user;
    o.user_data.len = sizeof user;
    datsync_peer *p;
    CHECK(datsync_peer_new(&p, &o, 0) == DATSYNC_E_TOO_BIG && p == NULL);
    o.user_data.len--;
    CHECK(datsync_peer_new(&p, &o, 0) == 0);
    datsync_peer_free(p);
    o.user_data.data = NULL;
    memset(name, 'n', DATSYNC_MAX_EXTENSION_NAME);
    const char *names[DATSYNC_MAX_EXTENSIONS + 1];
    for (size_t i = 0; i <= DATSYNC_MAX_EXTENSIONS; i++)
        names[i] = name;
    o.extensions = names;
    o.extension_count = 1;
    CHECK(datsync_peer_new(&p, &o, 0) == DATSYNC_E_TOO_BIG);
    name[DATSYNC_MAX_EXTENSION_NAME - 1] = 0;
    o.extension_count = DATSYNC_MAX_EXTENSIONS + 1;
    CHECK(datsync_peer_new(&p, &o, 0) == DATSYNC_E_TOO_BIG);
    o.extension_count--;
    CHECK(datsync_peer_new(&p, &o, 0) == 0);
    datsync_feed *feeds[DATSYNC_MAX_CHANNELS + 1];
    for (size_t i = 0; i <= DATSYNC_MAX_CHANNELS; i++) {
        feeds[i] = feed_new(NULL, 0);
        CHECK(datsync_peer_open(p, feeds[i], DATSYNC_UPLOAD) == (i < DATSYNC_MAX_CHANNELS ? 0 : DATSYNC_E_TOO_BIG));
    }
    datsync_peer_free(p);
    for (size_t i = 0; i <= DATSYNC_MAX_CHANNELS; i++)
        CHECK(datsync_feed_close(feeds[i]) == 0);
}

static datsync_peer *live_peer(datsync_feed *f, unsigned mode)
{
    datsync_peer_options o;
    memset(&o, 0, sizeof o);
    o.live = 1;
    datsync_peer *p = NULL;
    CHECK(datsync_peer_new(&p, &o, 0) == 0 && datsync_peer_open(p, f, mode) == 0);
    return p;
}

/* Silence is counted from what was last received, also where nothing was asked of the peer meanwhile. */
static void check_silence(void)
{
    datsync_feed *f = feed_of(1), *g = feed_new(datsync_feed_key(f), 0);
    datsync_message m;
    memset(&m, 0, sizeof m);
    m.type = DATSYNC_KEEP_ALIVE;
    datsync_peer *a = live_peer(f, DATSYNC_UPLOAD), *b = live_peer(g, DATSYNC_DOWNLOAD);
    const uint8_t *out;
    CHECK(pump(a, b, 0) == 0 && datsync_peer_send(a, &m) == 0 && datsync_peer_output(a, &out, 7000) == 1);
    CHECK(datsync_peer_input(b, out, 1, 7000) == 1);
    CHECK(datsync_peer_tick(b, 14499) == 0 && datsync_peer_tick(b, 14500) == DATSYNC_E_TIMEOUT);
    datsync_peer_free(a);
    datsync_peer_free(b);
    CHECK(datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0);
}

/* Who fills all the room that there was has more of it the next time, though it is of small frames. */
static void check_room(void)
{
    datsync_feed *f = feed_of(1), *g = feed_new(datsync_feed_key(f), 0);
    datsync_message m;
    memset(&m, 0, sizeof m);
    m.type = DATSYNC_KEEP_ALIVE;
    datsync_peer *a = live_peer(f, DATSYNC_UPLOAD), *b = live_peer(g, DATSYNC_DOWNLOAD);
    CHECK(pump(a, b, 0) == 0);
    size_t last = 0;
    for (int turn = 0; turn < 4; turn++) {
        uint8_t *place;
        size_t room = datsync_peer_space(b, &place);
        CHECK(room > last);
        for (size_t i = 0; i < room; i++)
            CHECK(datsync_peer_send(a, &m) == 0);
        const uint8_t *out;
        CHECK(datsync_peer_output(a, &out, 0) == room);
        memcpy(place, out, room);
        CHECK(datsync_peer_received(b, room, 0) == 0);
        datsync_peer_sent(a, room, 0);
        last = room;
    }
    datsync_peer_free(a);
    datsync_peer_free(b);
    CHECK(datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0);
}

/* Two peers that share 6 MiB for large frames, each of which is sent one of 8 MiB. */
static void check_pool(void)
{
    static uint8_t payload[DATSYNC_MAX_FRAME - 2];
    datsync_feed *f = feed_of(1);
    struct datsync_pool pool = {6u << 20, 0, NULL};
    datsync_peer_options o;
    size_t first = 3u << 20;
    memset(&o, 0, sizeof o);
    datsync_message m;
    memset(&m, 0, sizeof m);
    m.type = DATSYNC_EXTENSION;
    m.u.extension.payload.data = payload;
    m.u.extension.payload.len = sizeof payload;
    o.live = 1;
    datsync_feed *g[2];
    datsync_peer *from[2], *to[2];
    const uint8_t *out[2];
    size_t n[2];
    for (size_t i = 0; i < 2; i++) {
        g[i] = feed_new(datsync_feed_key(f), 0);
        o.pool = NULL;
        CHECK(datsync_peer_new(&from[i], &o, 0) == 0);
        o.pool = &pool;
        CHECK(datsync_peer_new(&to[i], &o, 0) == 0);
        CHECK(datsync_peer_open(from[i], f, DATSYNC_UPLOAD) == 0 &&
              datsync_peer_open(to[i], g[i], DATSYNC_DOWNLOAD) == 0);
        CHECK(pump(from[i], to[i], 0) == 0 && pool.used == 0);
        CHECK(datsync_peer_send(from[i], &m) == 0);
        n[i] = datsync_peer_output(from[i], &out[i], 0);
        CHECK(n[i] > DATSYNC_MAX_FRAME);
    }
    size_t done[2];
    for (size_t i = 0; i < 2;
         i++) { /* both have room for half of theirs, the second by going over the limit: it is its turn */
        done[i] = (size_t)datsync_peer_input(to[i], out[i], first, 0);
        CHECK(done[i] == first && datsync_peer_want_read(to[i]));
    }
    CHECK(pool.owner == to[1] && pool.used > pool.limit && pool.used < 8u << 20);
    done[0] += (size_t)datsync_peer_input(to[0], out[0] + done[0], n[0] - done[0], 0);
    CHECK(done[0] < n[0] && !datsync_peer_want_read(to[0]) && datsync_peer_want_read(to[1]));
    CHECK(datsync_peer_input(to[1], out[1] + done[1], n[1] - done[1], 0) == (int64_t)(n[1] - done[1]));
    while (pool.owner) { /* it gives its memory back when it is asked to read again */
        uint8_t *place;
        CHECK(datsync_peer_space(to[1], &place) > 0);
    }
    CHECK(datsync_peer_want_read(to[0]));
    CHECK(datsync_peer_input(to[0], out[0] + done[0], n[0] - done[0], 0) == (int64_t)(n[0] - done[0]));
    for (size_t i = 0; i < 2; i++) {
        datsync_peer_free(from[i]);
        datsync_peer_free(to[i]);
        CHECK(datsync_feed_close(g[i]) == 0);
    }
    CHECK(pool.used == 0 && pool.owner == NULL && datsync_feed_close(f) == 0);
}

static datsync_feed *fixture; /* 40 blocks, of the C library's memory */

static int clone_over_peers(const datsync_env *env)
{
    static const char *const names[] = {"one", "two"};
    datsync_feed_options fo;
    datsync_feed *g = NULL;
    datsync_peer *a = NULL, *b = NULL;
    memset(&fo, 0, sizeof fo);
    datsync_peer_options o;
    memset(&o, 0, sizeof o);
    fo.env = o.env = env;
    fo.key = datsync_feed_key(fixture);
    fo.flags = DATSYNC_CREATE;
    o.ack = 1;
    o.user_data = bytes("user data");
    o.extensions = names;
    o.extension_count = 2;
    int r;
    if ((r = datsync_feed_open(&g, &fo)) == 0 && (r = datsync_peer_new(&a, &o, 0)) == 0 &&
        (r = datsync_peer_new(&b, &o, 0)) == 0 && (r = datsync_peer_open(a, fixture, DATSYNC_UPLOAD)) == 0 &&
        (r = datsync_peer_open(b, g, DATSYNC_DOWNLOAD)) == 0 && (r = pump(a, b, 0)) == 0)
        CHECK(datsync_feed_count(g, 0, 99) == 40 && datsync_peer_complete(b, g) && !datsync_peer_want_write(b));
    datsync_peer_free(a);
    datsync_peer_free(b);
    if (g)
        CHECK(datsync_feed_close(g) == 0 || r != 0);
    return r;
}

static void check_clone_without_memory(void)
{
    fixture = feed_of(40);
    each_allocation_fails(clone_over_peers);
    CHECK(datsync_feed_close(fixture) == 0);
}

/* ================================================================ networks in memory ============================ */

static int use_memory_net(const datsync_env *env)
{
    datsync_memory_net *net;
    datsync_net n;
    intptr_t a = 0, b = 0, c = 0;
    int r = datsync_memory_net_new(&net, env, &n);
    if (r < 0)
        return r;
    char buf[300];
    memset(buf, 'x', sizeof buf - 1);
    buf[sizeof buf - 1] = 0;
    intptr_t listener;
    char from[64];
    CHECK(n.listen(n.ctx, buf, &listener, from, sizeof from) == DATSYNC_E_ADDRESS);
    CHECK(n.connect(n.ctx, "here", &a) == DATSYNC_E_REFUSED);
    if ((r = n.listen(n.ctx, "here", &listener, from, sizeof from)) == 0) {
        CHECK(strcmp(from, "here") == 0 && n.listen(n.ctx, "here", &a, from, sizeof from) == DATSYNC_E_IN_USE);
        CHECK(n.accept(n.ctx, listener, &b, from, sizeof from) == DATSYNC_E_AGAIN);
        r = n.connect(n.ctx, "here", &a);
    }
    datsync_pollfd fds[3];
    if (r == 0) {
        CHECK(n.connected(n.ctx, a) == 0 && n.connected(n.ctx, 99) == DATSYNC_E_IO);
        CHECK(n.accept(n.ctx, listener, &b, from, sizeof from) == 0 && a != b);
        CHECK(n.recv(n.ctx, b, buf, 9) == DATSYNC_E_AGAIN && n.send(n.ctx, a, "hi", 2) == 2);
        memset(fds, 0, sizeof fds);
        fds[0].handle = a;
        fds[1].handle = b;
        fds[2].handle = 99;
        fds[0].events = fds[1].events = fds[2].events = DATSYNC_POLL_READ;
        CHECK(n.poll(n.ctx, fds, 3, -1) == 2 && fds[0].revents == 0 && fds[1].revents == DATSYNC_POLL_READ &&
              fds[2].revents == DATSYNC_POLL_ERROR);
        CHECK(n.recv(n.ctx, b, buf, 9) == 2 && memcmp(buf, "hi", 2) == 0);
        n.close(n.ctx, a);
        n.close(n.ctx, a); /* nothing is there any more */
        CHECK(n.recv(n.ctx, b, buf, 9) == DATSYNC_E_CLOSED && n.send(n.ctx, b, "hi", 2) == DATSYNC_E_CLOSED);
        r = n.connect(n.ctx, "here", &c);
    }
    if (r == 0) { /* the listener goes with a connection that waits */
        n.close(n.ctx, listener);
        CHECK(n.recv(n.ctx, c, buf, 9) == DATSYNC_E_CLOSED && n.connect(n.ctx, "here", &a) == DATSYNC_E_REFUSED);
    }
    datsync_memory_net_free(net); /* with what is open still */
    datsync_memory_net_free(NULL);
    return r;
}

static void check_memory_net(void)
{
    each_allocation_fails(use_memory_net);
}

/* ================================================================ the synchronizer ============================== */

static void check_without_plugs(void)
{
    datsync_options o;
    memset(&o, 0, sizeof o);
    datsync *ds;
    CHECK(datsync_new(&ds, &o, 0) == 0);
    CHECK(datsync_listen(ds, "here") == DATSYNC_E_UNSUPPORTED &&
          datsync_connect(ds, "here", 0) == DATSYNC_E_UNSUPPORTED);
    CHECK(datsync_poll(ds, 0) == DATSYNC_E_UNSUPPORTED && datsync_run(ds) == DATSYNC_E_UNSUPPORTED);
    CHECK(datsync_free(ds) == 0 && datsync_free(NULL) == 0);
    datsync_memory_net *net;
    datsync_net n;
    CHECK(datsync_memory_net_new(&net, NULL, &n) == 0);
    o.net = &n; /* no clock: the caller's loop has its own */
    CHECK(datsync_new(&ds, &o, 0) == 0 && datsync_run(ds) == DATSYNC_E_UNSUPPORTED &&
          datsync_poll(ds, 0) == DATSYNC_E_UNSUPPORTED);
    CHECK(datsync_listen(ds, "here") == 0 && datsync_listen(ds, "here") == DATSYNC_E_IN_USE);
    CHECK(datsync_free(ds) == 0);
    datsync_memory_net_free(net);
}

static void check_adding(void)
{
    datsync_feed *fixed = feed_new(NULL, DATSYNC_STATIC), *other = feed_of(1);
    datsync_options o;
    memset(&o, 0, sizeof o);
    datsync *ds;
    CHECK(datsync_new(&ds, &o, 0) == 0);
    CHECK(datsync_add(ds, fixed, DATSYNC_UPLOAD) == DATSYNC_E_STATE); /* it has no key yet */
    datsync_drive_options drive_options;
    memset(&drive_options, 0, sizeof drive_options);
    drive_options.flags = DATSYNC_CREATE;
    datsync_drive *drive;
    CHECK(datsync_drive_open(&drive, &drive_options) == 0);
    CHECK(datsync_add_drive(ds, drive, DATSYNC_UPLOAD) == 0);
    CHECK(datsync_add_drive(ds, drive, DATSYNC_UPLOAD) == DATSYNC_E_STATE);
    CHECK(datsync_add(ds, datsync_drive_metadata(drive), DATSYNC_UPLOAD) == DATSYNC_E_STATE);
    datsync_feed *feeds[DATSYNC_MAX_CHANNELS + 1];
    for (size_t i = 0; i <= DATSYNC_MAX_CHANNELS; i++) {
        feeds[i] = feed_new(NULL, 0);
        CHECK(datsync_add(ds, feeds[i], DATSYNC_UPLOAD) == (i < DATSYNC_MAX_CHANNELS - 2 ? 0 : DATSYNC_E_TOO_BIG));
        CHECK(datsync_add(ds, feeds[i], DATSYNC_UPLOAD) ==
              (i < DATSYNC_MAX_CHANNELS - 2 ? DATSYNC_E_STATE : DATSYNC_E_TOO_BIG));
    }
    CHECK(!datsync_complete(ds, other) && datsync_offered(ds, other) == 0);
    CHECK(datsync_free(ds) == 0 && datsync_drive_close(drive) == 0 && datsync_drive_close(NULL) == 0);
    for (size_t i = 0; i <= DATSYNC_MAX_CHANNELS; i++)
        CHECK(datsync_feed_close(feeds[i]) == 0);
    CHECK(datsync_feed_close(fixed) == 0 && datsync_feed_close(other) == 0);
}

/* A network in memory of which one thing or the other is wrong, and options for a synchronizer on it. */
static struct bad {
    int broken, slow, deaf, endless; /* accept fails; no dial ends; no byte is taken; no end of bytes */
    int accepts, recvs, warnings, unreachable, last_error; /* what came of it */
    datsync_memory_net *memory;
    datsync_net real, net;
    datsync_env env;
    datsync_options options;
} bad;

static int bad_accept(void *ctx, intptr_t listener, intptr_t *stream, char *from, size_t cap)
{
    bad.accepts++;
    return bad.broken ? DATSYNC_E_IO : bad.real.accept(ctx, listener, stream, from, cap);
}

static int bad_connected(void *ctx, intptr_t stream)
{
    return bad.slow ? DATSYNC_E_AGAIN : bad.real.connected(ctx, stream);
}

static int64_t bad_recv(void *ctx, intptr_t stream, void *buf, size_t len)
{
    bad.recvs++;
    if (!bad.endless)
        return bad.real.recv(ctx, stream, buf, len);
    memset(buf, 0, len); /* keep-alives in the clear */
    return (int64_t)len;
}

static int64_t bad_send(void *ctx, intptr_t stream, const void *buf, size_t len)
{
    return bad.deaf ? DATSYNC_E_AGAIN : bad.real.send(ctx, stream, buf, len);
}

static void bad_log(void *ctx, int level, const char *line)
{
    (void)ctx;
    CHECK(level == DATSYNC_LOG_WARNING && strchr(line, '\n') == NULL);
    bad.warnings++;
}

static void bad_event(void *ctx, datsync *ds, const datsync_event *e)
{
    (void)ctx;
    (void)ds;
    bad.unreachable += e->type == DATSYNC_EV_UNREACHABLE;
    if (e->type == DATSYNC_EV_UNREACHABLE || e->type == DATSYNC_EV_DISCONNECTED)
        bad.last_error = e->error;
}

static void bad_begin(void)
{
    CHECK(datsync_memory_net_new(&bad.memory, NULL, &bad.real) == 0);
    bad.net = bad.real;
    bad.net.accept = bad_accept;
    bad.net.connected = bad_connected;
    bad.net.recv = bad_recv;
    bad.net.send = bad_send;
    bad.env.log = bad_log;
    bad.options.env = &bad.env;
    bad.options.net = &bad.net;
    bad.options.on_event = bad_event;
    bad.options.max_peers = 2;
}

static void check_bad_network(void)
{
    datsync_feed *f = feed_of(1);
    bad_begin();
    datsync *ds;
    CHECK(datsync_new(&ds, &bad.options, 0) == 0 && datsync_add(ds, f, DATSYNC_UPLOAD) == 0 &&
          datsync_listen(ds, "here") == 0);
    /* accept fails: it is told, and tried again a second later */
    bad.broken = 1;
    datsync_pollfd fds[4];
    CHECK(datsync_pollfds(ds, fds, 4) == 1 && fds[0].events == DATSYNC_POLL_READ);
    fds[0].revents = DATSYNC_POLL_READ;
    CHECK(datsync_step(ds, fds, 1, 10) == 0 && bad.warnings == 1 && bad.accepts == 1);
    CHECK(datsync_pollfds(ds, fds, 4) == 1 && fds[0].events == 0 && fds[0].revents == 0);
    CHECK(datsync_step(ds, fds, 1, 1009) == 0 && datsync_pollfds(ds, fds, 4) == 1 && fds[0].events == 0);
    CHECK(datsync_step(ds, fds, 1, 1010) == 0 && datsync_pollfds(ds, fds, 4) == 1 &&
          fds[0].events == DATSYNC_POLL_READ);
    CHECK(bad.accepts == 1);
    /* the cap: the third connection is closed again, and told */
    bad.broken = 0;
    intptr_t stream;
    CHECK(bad.real.connect(bad.real.ctx, "here", &stream) == 0 &&
          bad.real.connect(bad.real.ctx, "here", &stream) == 0 && bad.real.connect(bad.real.ctx, "here", &stream) == 0);
    fds[0].revents = DATSYNC_POLL_READ;
    CHECK(datsync_step(ds, fds, 1, 1020) == 0 && datsync_pollfds(ds, NULL, 0) == 3 && bad.warnings == 2 &&
          bad.accepts == 5);
    CHECK(datsync_free(ds) == 0);
    char bound[64];
    /* a dial that never gets through */
    CHECK(bad.real.listen(bad.real.ctx, "there", &stream, bound, sizeof bound) == 0);
    bad.slow = 1;
    bad.options.connect_timeout_ms = 2500;
    CHECK(datsync_new(&ds, &bad.options, 5000) == 0 && datsync_add(ds, f, DATSYNC_UPLOAD) == 0);
    CHECK(datsync_connect(ds, "there", 5000) == 0 && datsync_connect(ds, "there", 5000) == 0 &&
          datsync_candidates(ds) == 1);
    CHECK(datsync_step(ds, NULL, 0, 5000) == 0 && datsync_candidates(ds) == 1 && datsync_peers(ds) == 0);
    CHECK(datsync_pollfds(ds, fds, 4) == 1 && fds[0].events == DATSYNC_POLL_WRITE && datsync_deadline(ds) == 6000);
    CHECK(datsync_step(ds, NULL, 0, 7000) == 0 && datsync_deadline(ds) == 7500 && bad.unreachable == 0);
    CHECK(datsync_step(ds, NULL, 0, 7499) == 0 && bad.unreachable == 0);
    CHECK(datsync_step(ds, NULL, 0, 7500) == 0 && bad.unreachable == 1 && bad.last_error == DATSYNC_E_UNREACHABLE);
    CHECK(datsync_candidates(ds) == 1 && datsync_pollfds(ds, NULL, 0) == 0); /* it is dialled again later */
    CHECK(datsync_free(ds) == 0);
    /* nobody there: refused at once, again and again, and then given up, until it is asked for anew */
    CHECK(datsync_new(&ds, &bad.options, 0) == 0 && datsync_add(ds, f, DATSYNC_UPLOAD) == 0 &&
          datsync_connect(ds, "nowhere", 0) == 0);
    bad.unreachable = 0;
    while (datsync_candidates(ds)) {
        CHECK(datsync_deadline(ds) < 3600000 && bad.unreachable < 20);
        CHECK(datsync_step(ds, NULL, 0, datsync_deadline(ds)) == 0);
    }
    CHECK(bad.unreachable > 1 && bad.last_error == DATSYNC_E_REFUSED);
    CHECK(datsync_connect(ds, "nowhere", 9000000) == 0 && datsync_candidates(ds) == 1);
    bad.unreachable = 0;
    CHECK(datsync_step(ds, NULL, 0, 9000000) == 0 && bad.unreachable == 1 && datsync_candidates(ds) == 1);
    CHECK(datsync_free(ds) == 0 && datsync_feed_close(f) == 0);
    datsync_memory_net_free(bad.memory);
}

/* Each with its own time, to the millisecond; and what is in the midst of it when another ends, or all. */
static void check_slow_remotes(void)
{
    datsync_feed *f = feed_of(1);
    bad_begin();
    bad.options.live = 1;
    bad.options.timeout_ms = bad.options.handshake_timeout_ms = UINT32_MAX;
    intptr_t here;
    char text[64];
    CHECK(bad.real.listen(bad.real.ctx, "there", &here, text, sizeof text) == 0);
    /* it takes nothing from us */
    bad.deaf = 1;
    datsync *ds;
    CHECK(datsync_new(&ds, &bad.options, 100) == 0 && datsync_add(ds, f, DATSYNC_UPLOAD) == 0 &&
          datsync_connect(ds, "there", 100) == 0);
    datsync_pollfd fds[4];
    CHECK(datsync_step(ds, NULL, 0, 100) == 0 && datsync_pollfds(ds, fds, 4) == 1);
    CHECK(fds[0].events == (DATSYNC_POLL_READ | DATSYNC_POLL_WRITE));
    CHECK(datsync_step(ds, NULL, 0, 15099) == 0 && datsync_pollfds(ds, fds, 4) == 1 && bad.last_error == 0);
    CHECK(datsync_step(ds, NULL, 0, 15100) == 0 && datsync_pollfds(ds, fds, 4) == 0 &&
          bad.last_error == DATSYNC_E_SLOW);
    CHECK(datsync_free(ds) == 0);
    /* it sends without end: others have their turn */
    bad.deaf = 0;
    bad.endless = 1;
    CHECK(datsync_new(&ds, &bad.options, 0) == 0 && datsync_add(ds, f, DATSYNC_UPLOAD) == 0 &&
          datsync_connect(ds, "there", 0) == 0);
    CHECK(datsync_step(ds, NULL, 0, 0) == 0 && datsync_pollfds(ds, fds, 4) == 1);
    fds[0].revents = DATSYNC_POLL_READ;
    bad.recvs = 0;
    CHECK(datsync_step(ds, fds, 1, 1) == 0 && bad.recvs > 0 && bad.recvs <= 8);
    CHECK(datsync_free(ds) == 0);
    /* one that is dialled, while another one's end makes all look for work; and freed in the midst of it */
    bad.endless = 0;
    CHECK(datsync_new(&ds, &bad.options, 0) == 0 && datsync_add(ds, f, DATSYNC_UPLOAD) == 0 &&
          datsync_listen(ds, "here") == 0);
    intptr_t stream;
    CHECK(bad.real.connect(bad.real.ctx, "here", &stream) == 0 && datsync_pollfds(ds, fds, 4) == 1);
    fds[0].revents = DATSYNC_POLL_READ;
    CHECK(datsync_step(ds, fds, 1, 0) == 0 && datsync_pollfds(ds, fds, 4) == 2);
    bad.slow = 1;
    CHECK(datsync_connect(ds, "there", 0) == 0 && datsync_step(ds, NULL, 0, 0) == 0 &&
          datsync_pollfds(ds, fds, 4) == 3);
    CHECK(datsync_offered(ds, f) == 0);
    bad.real.close(bad.real.ctx, stream);
    fds[1].revents = DATSYNC_POLL_READ;
    CHECK(datsync_step(ds, fds, 3, 1) == 0 && datsync_pollfds(ds, fds, 4) == 2 && bad.last_error == DATSYNC_E_CLOSED);
    CHECK(datsync_deadline(ds) > 1 && datsync_step(ds, NULL, 0, 2) == 0 && datsync_candidates(ds) == 1);
    CHECK(datsync_free(ds) == 0 && datsync_feed_close(f) == 0);
    datsync_memory_net_free(bad.memory);
}

/* What two synchronizers tell of a clone, from the first to the last: their events by type. */
typedef struct told {
    unsigned events[DATSYNC_EV_VERSION + 1];
    uint64_t uploaded, downloaded;
    int end;
} told;

static void tell(void *ctx, datsync *ds, const datsync_event *e)
{
    told *t = ctx;
    (void)ds;
    t->events[e->type]++;
    if (e->type == DATSYNC_EV_UPLOAD)
        t->uploaded += e->size;
    if (e->type == DATSYNC_EV_BLOCK)
        t->downloaded += e->size;
    if (e->type == DATSYNC_EV_DISCONNECTED)
        t->end = e->error;
    CHECK((e->address != NULL) == (e->type <= DATSYNC_EV_UNREACHABLE || e->type == DATSYNC_EV_BLOCK ||
                                   e->type == DATSYNC_EV_UPLOAD || e->type == DATSYNC_EV_REJECT));
    CHECK((e->drive != NULL) == (e->type >= DATSYNC_EV_CONTENT));
    CHECK((e->path != NULL) == (e->type == DATSYNC_EV_ENTRY || e->type == DATSYNC_EV_REMOVED ||
                                e->type == DATSYNC_EV_REFUSED || e->type >= DATSYNC_EV_AWAY));
}

/* Both of them take turns, as long as one has something to do before `until`. Returns when that came to an end. */
static uint64_t take_turns(datsync *a, datsync *b, const datsync_net *n, uint64_t now, uint64_t until)
{
    datsync_pollfd fds[8];
    unsigned turns = 0;
    while (now < until) {
        datsync *both[2];
        uint64_t next = UINT64_MAX;
        int ready = 0;
        both[0] = a;
        both[1] = b;
        for (int i = 0; i < 2; i++) {
            size_t count = datsync_pollfds(both[i], fds, 8);
            CHECK(count <= 8 && turns++ < 100000);
            ready += n->poll(n->ctx, fds, count, 0);
            CHECK(datsync_step(both[i], fds, count, now) == 0);
            next = datsync_deadline(both[i]) < next ? datsync_deadline(both[i]) : next;
        }
        if (!ready && next > now)
            now = next < until ? next : until;
    }
    return turns;
}

static int64_t give_bytes(void *ctx, void *buf, size_t len)
{
    size_t *left = ctx, n = *left < len ? *left : len;
    memset(buf, 'x', n);
    *left -= n;
    return (int64_t)n;
}

static void check_clone(int of_drive)
{
    datsync_feed *f = feed_of(of_drive ? 0 : 5), *g = feed_new(datsync_feed_key(f), 0);
    datsync_drive_options drive_options;
    datsync_drive *from = NULL, *to = NULL;
    size_t left = 200000;
    memset(&drive_options, 0, sizeof drive_options);
    datsync_options o;
    memset(&o, 0, sizeof o);
    told here;
    memset(&here, 0, sizeof here);
    told there;
    memset(&there, 0, sizeof there);
    datsync_stat stat;
    memset(&stat, 0, sizeof stat);
    datsync_memory_net *net;
    datsync_net n;
    CHECK(datsync_memory_net_new(&net, NULL, &n) == 0);
    o.net = &n;
    o.on_event = tell;
    o.ctx = &here;
    datsync *a;
    CHECK(datsync_new(&a, &o, 0) == 0 && datsync_listen(a, "here") == 0);
    o.ctx = &there;
    o.live = of_drive; /* a live one stays: then it must have nothing to do */
    datsync *b;
    CHECK(datsync_new(&b, &o, 0) == 0 && datsync_connect(b, "here", 0) == 0);
    datsync_layout layout;
    if (of_drive) {
        drive_options.flags = DATSYNC_CREATE;
        CHECK(datsync_drive_open(&from, &drive_options) == 0);
        drive_options.key = datsync_feed_key(datsync_drive_metadata(from));
        CHECK(datsync_drive_open(&to, &drive_options) == 0);
        stat.mode = 0100644;
        CHECK(datsync_drive_put(from, "/a", &stat, give_bytes, &left) == 1 && datsync_drive_flush(from) == 0);
        memset(&layout, 0, sizeof layout);
        datsync_drive_layout(to, &layout);
        CHECK(datsync_add_drive(a, from, DATSYNC_UPLOAD) == 0);
        CHECK(datsync_add_drive(b, to, DATSYNC_UPLOAD | DATSYNC_DOWNLOAD) == 0);
        (void)take_turns(a, b, &n, 0, 20000);
        CHECK(there.events[DATSYNC_EV_VERSION] == 1 && there.events[DATSYNC_EV_PLAN] == 1 &&
              there.events[DATSYNC_EV_ENTRY] == 1);
        CHECK(there.events[DATSYNC_EV_CONTENT] == 1 && there.downloaded == here.uploaded && here.uploaded > 200000);
        CHECK(take_turns(a, b, &n, 20000, 40000) < 200); /* ticks and keep-alives, and that is all */
    } else {
        CHECK(datsync_add(a, f, DATSYNC_UPLOAD) == 0 && datsync_add(b, g, DATSYNC_DOWNLOAD) == 0);
        (void)take_turns(a, b, &n, 0, 20000);
        CHECK(here.events[DATSYNC_EV_LISTENING] == 1 && here.events[DATSYNC_EV_UPLOAD] == 5 && here.uploaded == 35);
        CHECK(here.events[DATSYNC_EV_BLOCK] == 0 && here.events[DATSYNC_EV_PEER] == 1 &&
              here.events[DATSYNC_EV_CONNECTED] == 1);
        CHECK(there.events[DATSYNC_EV_BLOCK] == 5 && there.downloaded == 35 && there.events[DATSYNC_EV_UPLOAD] == 0);
        CHECK(there.events[DATSYNC_EV_COMPLETE] == 1 && there.events[DATSYNC_EV_LENGTH] == 1);
        CHECK(there.events[DATSYNC_EV_DISCONNECTED] == 1 && there.end == DATSYNC_E_DONE && here.end == DATSYNC_E_DONE);
        CHECK(here.events[DATSYNC_EV_TICK] == 19 && datsync_complete(b, g) && datsync_candidates(b) == 0);
    }
    CHECK(datsync_free(a) == 0 && datsync_free(b) == 0 && datsync_drive_close(from) == 0 &&
          datsync_drive_close(to) == 0);
    CHECK(datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0);
    datsync_memory_net_free(net);
}

static void check_events(void)
{
    check_clone(0);
    check_clone(1);
}

/* ================================================================ addresses ===================================== */

/* A network on which nobody can be reached; it remembers who was dialled. `talks`: there all can be, and say nothing
 * or nonsense. */
static struct nowhere {
    char dialled[5000][24];
    size_t count;
    int talks, nonsense, unreachable;
    datsync_net net;
    datsync_options options;
} nowhere;

static int nowhere_connect(void *ctx, const char *address, intptr_t *stream)
{
    (void)ctx;
    CHECK(strlen(address) < sizeof *nowhere.dialled);
    *stream = (intptr_t)nowhere.count;
    if (nowhere.count < sizeof nowhere.dialled / sizeof *nowhere.dialled)
        strcpy(nowhere.dialled[nowhere.count], address);
    nowhere.count++;
    return nowhere.unreachable ? DATSYNC_E_UNREACHABLE : 0;
}

static int nowhere_connected(void *ctx, intptr_t stream)
{
    (void)ctx;
    (void)stream;
    return nowhere.talks ? 0 : DATSYNC_E_REFUSED;
}

static int64_t nowhere_recv(void *ctx, intptr_t stream, void *buf, size_t len)
{
    (void)ctx;
    (void)stream;
    memset(buf, 0xff, len);
    return nowhere.nonsense ? (int64_t)len : DATSYNC_E_AGAIN;
}

static int64_t nowhere_send(void *ctx, intptr_t stream, const void *buf, size_t len)
{
    (void)ctx;
    (void)stream;
    (void)buf;
    return (int64_t)len;
}

static void nowhere_close(void *ctx, intptr_t handle)
{
    (void)ctx;
    (void)handle;
}

/* Informants who come under one number by chance take one turn together: so here chance is always the same. */
static void no_chance(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    memset(buf, 7, len);
}

static datsync *nowhere_new(unsigned max_peers)
{
    static const datsync_env env = {.random = no_chance};
    memset(&nowhere, 0, sizeof nowhere);
    nowhere.options.env = &env;
    nowhere.net.connect = nowhere_connect;
    nowhere.net.connected = nowhere_connected;
    nowhere.net.recv = nowhere_recv;
    nowhere.net.send = nowhere_send;
    nowhere.net.close = nowhere_close;
    nowhere.options.net = &nowhere.net;
    nowhere.options.max_peers = max_peers;
    datsync *ds;
    CHECK(datsync_new(&ds, &nowhere.options, 0) == 0);
    return ds;
}

/* Steps as long as something is due until then, at each time that is. */
static void run_until(datsync *ds, uint64_t until)
{
    uint64_t at;
    unsigned turns = 0;
    while ((at = datsync_deadline(ds)) <= until) {
        CHECK(turns++ < 100000);
        CHECK(datsync_step(ds, NULL, 0, at) == 0);
    }
}

/* Who was dialled, in their order, and nobody else. */
static void was_dialled(const char *expected)
{
    char all[4096] = "";
    for (size_t i = 0; i < nowhere.count && strlen(all) < sizeof all - sizeof *nowhere.dialled - 1; i++) {
        strcat(all, i ? " " : "");
        strcat(all, nowhere.dialled[i]);
    }
    if (strcmp(all, expected) != 0)
        fprintf(stderr, "dialled: %s\n", all);
    CHECK(strcmp(all, expected) == 0);
    nowhere.count = 0;
}

static void check_addresses(void)
{
    datsync *ds = nowhere_new(1);
    /* chosen first, then one of each source in turn, and of a source one of each informant */
    CHECK(datsync_found(ds, "a1", 1, 100, 0) == 0 && datsync_found(ds, "a2", 1, 100, 0) == 0 &&
          datsync_found(ds, "a3", 1, 100, 0) == 0);
    CHECK(datsync_found(ds, "b1", 1, 200, 0) == 0 && datsync_found(ds, "c1", 2, 300, 0) == 0 &&
          datsync_found(ds, "c2", 2, 300, 0) == 0);
    CHECK(datsync_connect(ds, "x", 0) == 0 && datsync_connect(ds, "y", 0) == 0);
    CHECK(datsync_found(ds, "z", 0, 1, 0) == DATSYNC_E_INVALID &&
          datsync_found(ds, "z", DATSYNC_MAX_SOURCES, 1, 0) == DATSYNC_E_INVALID);
    CHECK(datsync_candidates(ds) == 8);
    run_until(ds, 0);
    was_dialled("x y a1 c1 b1 c2 a2 a3");
    CHECK(datsync_candidates(ds) == 8);
    CHECK(datsync_free(ds) == 0);

    /* 1, 1, 5, 15 s, then it is dropped; told of once more, it begins anew */
    ds = nowhere_new(4);
    CHECK(datsync_connect(ds, "x", 0) == 0 && datsync_connect(ds, "x", 0) == 0);
    run_until(ds, 999);
    was_dialled("x");
    run_until(ds, 1000);
    was_dialled("x");
    run_until(ds, 6999);
    was_dialled("x");
    run_until(ds, 7000);
    was_dialled("x");
    CHECK(datsync_candidates(ds) == 1);
    run_until(ds, 21999);
    was_dialled("");
    run_until(ds, 22000);
    was_dialled("x");
    CHECK(datsync_candidates(ds) == 0);
    run_until(ds, 4000000);
    was_dialled("");
    CHECK(datsync_connect(ds, "x", 4000000) == 0 && datsync_candidates(ds) == 1);
    run_until(ds, 4001000);
    was_dialled("x x");
    CHECK(datsync_free(ds) == 0);
}

/* A source that is flooded: nobody else loses, and what was chosen stays. */
static void check_addresses_full(void)
{
    datsync *ds = nowhere_new(4096);
    CHECK(datsync_connect(ds, "chosen", 0) == 0);
    char name[24];
    for (unsigned i = 0; i < 10; i++) {
        (void)snprintf(name, sizeof name, "honest-%u", i);
        CHECK(datsync_found(ds, name, 1, 7, 0) == 0);
    }
    for (unsigned i = 0; i < 3000; i++) {
        (void)snprintf(name, sizeof name, "flood-%u", i);
        CHECK(datsync_found(ds, name, 1, 8, 0) == 0);
    }
    for (unsigned i = 10; i < 20; i++) {
        (void)snprintf(name, sizeof name, "honest-%u", i);
        CHECK(datsync_found(ds, name, 1, 7, 0) == 0);
    }
    CHECK(datsync_found(ds, "other", 2, 8, 0) == 0);
    CHECK(datsync_candidates(ds) == DATSYNC_MAX_ADDRESSES + 2);
    run_until(ds, 500);
    CHECK(nowhere.count == DATSYNC_MAX_ADDRESSES + 2 && strcmp(nowhere.dialled[0], "chosen") == 0);
    unsigned k;
    for (unsigned i = 0; i < 20; i++) { /* all of them among the first: their informant has its turns */
        (void)snprintf(name, sizeof name, "honest-%u", i);
        for (k = 0; k < 50 && strcmp(nowhere.dialled[k], name) != 0; k++)
            ;
        CHECK(k < 50);
    }
    for (unsigned i = 1; i < DATSYNC_MAX_ADDRESSES; i++) {
        (void)snprintf(name, sizeof name, "chosen-%u", i);
        CHECK(datsync_connect(ds, name, 500) == 0);
    }
    CHECK(datsync_connect(ds, "one more", 500) == DATSYNC_E_TOO_BIG && datsync_connect(ds, "chosen", 500) == 0);
    CHECK(datsync_connect(ds, "honest-1", 500) == DATSYNC_E_TOO_BIG);
    run_until(ds, 30000); /* all are given up: now there is room */
    CHECK(datsync_candidates(ds) == 0 && datsync_connect(ds, "one more", 30000) == 0 && datsync_candidates(ds) == 1);
    CHECK(datsync_free(ds) == 0);

    /* what failed goes before what was not tried; what is barred stays */
    ds = nowhere_new(4);
    CHECK(datsync_found(ds, "failed", 1, 8, 0) == 0);
    run_until(ds, 0);
    nowhere.talks = nowhere.nonsense = 1;
    CHECK(datsync_found(ds, "stranger", 1, 8, 1) == 0);
    run_until(ds, 900);
    datsync_pollfd fds[1];
    CHECK(datsync_pollfds(ds, fds, 1) == 1);
    fds[0].revents = DATSYNC_POLL_READ;
    CHECK(datsync_step(ds, fds, 1, 901) == 0);
    was_dialled("failed stranger");
    nowhere.talks = nowhere.nonsense = 0;
    for (unsigned i = 0; i < DATSYNC_MAX_ADDRESSES; i++) {
        (void)snprintf(name, sizeof name, "new-%u", i);
        CHECK(datsync_found(ds, name, 1, 8, 902) == 0);
    }
    CHECK(datsync_found(ds, "stranger", 1, 8, 903) == 0);
    run_until(ds, 10000);
    for (k = 0; k < nowhere.count; k++)
        CHECK(strcmp(nowhere.dialled[k], "failed") != 0 && strcmp(nowhere.dialled[k], "stranger") != 0);
    CHECK(k >= DATSYNC_MAX_ADDRESSES - 1);
    CHECK(datsync_free(ds) == 0);

    /* four sources fill the book; there is still room for what is chosen, none for a fifth source without a failure
     * of its own */
    ds = nowhere_new(1);
    for (unsigned i = 0; i < 4096; i++) {
        (void)snprintf(name, sizeof name, "found-%u", i);
        CHECK(datsync_found(ds, name, 1 + i % 4, i, 0) == 0);
    }
    CHECK(datsync_candidates(ds) == 4096 && datsync_found(ds, "fifth", 5, 1, 0) == 0 && datsync_candidates(ds) == 4096);
    CHECK(datsync_connect(ds, "chosen", 0) == 0 && datsync_candidates(ds) == 4096);
    run_until(ds, 0);
    CHECK(nowhere.count == 4096 && strcmp(nowhere.dialled[0], "chosen") == 0);
    for (k = 0; k < 10 && strcmp(nowhere.dialled[k], "fifth") != 0; k++) /* its turn comes */
        ;
    CHECK(k < 10);
    CHECK(datsync_free(ds) == 0);
}

/* Found and chosen, found again, too long; and who hears of one that can't be dialled may tell of any number. */
static void fill_the_book(void *ctx, datsync *ds, const datsync_event *e)
{
    char name[24];
    unsigned i;
    (void)ctx;
    if (e->type != DATSYNC_EV_UNREACHABLE)
        return;
    for (i = 0; i < DATSYNC_MAX_ADDRESSES; i++) {
        (void)snprintf(name, sizeof name, "new-%u", i);
        CHECK(datsync_found(ds, name, 1, 1, 100) == 0);
    }
    CHECK(strcmp(e->address, "victim") == 0);
    nowhere.options.on_event = NULL;
}

static void check_addresses_found(void)
{
    char long_one[300];
    datsync *ds = nowhere_new(4);
    CHECK(datsync_found(ds, "a", 1, 1, 0) == 0 && datsync_found(ds, "b", 1, 2, 0) == 0 &&
          datsync_connect(ds, "b", 0) == 0);
    run_until(ds, 0);
    was_dialled("b a");
    run_until(ds, 40000); /* both are given up */
    nowhere.count = 0;
    CHECK(datsync_found(ds, "a", 1, 1, 40000) == 0 && datsync_found(ds, "b", 1, 1, 40000) == 0);
    run_until(ds, 80000);
    was_dialled("");
    run_until(ds, 82500); /* a minute after its last failure */
    was_dialled("b a");
    memset(long_one, 'x', sizeof long_one - 1);
    long_one[sizeof long_one - 1] = 0;
    CHECK(datsync_connect(ds, long_one, 0) == DATSYNC_E_ADDRESS &&
          datsync_found(ds, long_one, 1, 1, 0) == DATSYNC_E_ADDRESS);
    CHECK(datsync_free(ds) == 0);

    /* a full source: what is in use stays, however many come */
    ds = nowhere_new(1);
    nowhere.talks = 1;
    CHECK(datsync_found(ds, "in-use", 1, 1, 0) == 0);
    run_until(ds, 0);
    was_dialled("in-use");
    for (unsigned i = 0; i < DATSYNC_MAX_ADDRESSES; i++) {
        char name[24];
        (void)snprintf(name, sizeof name, "new-%u", i);
        CHECK(datsync_found(ds, name, 1, 1, 1) == 0);
    }
    CHECK(datsync_candidates(ds) == DATSYNC_MAX_ADDRESSES && datsync_free(ds) == 0);

    ds = nowhere_new(1);
    CHECK(datsync_free(ds) == 0);
    nowhere.unreachable = 1;
    nowhere.options.on_event = fill_the_book;
    CHECK(datsync_new(&ds, &nowhere.options, 0) == 0 && datsync_found(ds, "victim", 1, 1, 0) == 0);
    CHECK(datsync_step(ds, NULL, 0, 0) == 0 && nowhere.options.on_event == NULL && datsync_free(ds) == 0);
}

static datsync_net real; /* a network in memory, whose dials are counted */
static unsigned dials;
static char last_dialled[24];

static int counted_connect(void *ctx, const char *address, intptr_t *stream)
{
    CHECK(strlen(address) < sizeof last_dialled);
    strcpy(last_dialled, address);
    dials++;
    return real.connect(ctx, address, stream);
}

/* What was found and has worked goes before all else that was found. */
static void check_worked_before(void)
{
    datsync_feed *f = feed_of(1), *g = feed_new(datsync_feed_key(f), 0);
    datsync_memory_net *memory;
    CHECK(datsync_memory_net_new(&memory, NULL, &real) == 0);
    datsync_options options;
    memset(&options, 0, sizeof options);
    datsync_net n = real;
    n.connect = counted_connect;
    dials = 0;
    options.net = &n;
    options.live = 1;
    options.max_peers = 1;
    datsync *a;
    CHECK(datsync_new(&a, &options, 0) == 0 && datsync_listen(a, "here") == 0 &&
          datsync_add(a, f, DATSYNC_UPLOAD) == 0);
    datsync *b;
    CHECK(datsync_new(&b, &options, 0) == 0 && datsync_add(b, g, DATSYNC_DOWNLOAD) == 0 &&
          datsync_found(b, "here", 2, 1, 0) == 0);
    (void)take_turns(a, b, &real, 0, 1000);
    CHECK(dials == 1 && datsync_peers(b) == 1 && datsync_complete(b, g));
    CHECK(datsync_free(a) == 0); /* it goes, and comes back */
    CHECK(datsync_new(&a, &options, 1000) == 0 && datsync_listen(a, "here") == 0 &&
          datsync_add(a, f, DATSYNC_UPLOAD) == 0);
    datsync_pollfd fds[1];
    CHECK(datsync_pollfds(b, fds, 1) == 1);
    fds[0].revents = DATSYNC_POLL_READ;
    CHECK(datsync_step(b, fds, 1, 1001) == 0 && datsync_step(b, fds, 1, 1001) == 0); /* its last words, and its end */
    CHECK(datsync_found(b, "there", 1, 1, 2001) == 0 && datsync_found(b, "where", 3, 1, 2001) == 0 &&
          datsync_step(b, NULL, 0, 2001) == 0);
    CHECK(dials == 2 && strcmp(last_dialled, "here") == 0);
    CHECK(datsync_free(a) == 0 && datsync_free(b) == 0 && datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0);
    datsync_memory_net_free(memory);
}

/* Addresses at which a dial never ends are found one after the other: they delay the end of a transfer for a moment. */
#define HANGING 1000000

static int hanging_connect(void *ctx, const char *address, intptr_t *stream)
{
    if (strncmp(address, "hang-", 5) != 0)
        return real.connect(ctx, address, stream);
    *stream = HANGING;
    dials++;
    return 0;
}

static int hanging_connected(void *ctx, intptr_t stream)
{
    return stream == HANGING ? DATSYNC_E_AGAIN : real.connected(ctx, stream);
}

static void hanging_close(void *ctx, intptr_t handle)
{
    if (handle != HANGING)
        real.close(ctx, handle);
}

static int hanging_poll(void *ctx, datsync_pollfd *fds, size_t count, int timeout_ms)
{
    size_t i;
    int ready = 0;
    for (i = 0; i < count; i++) {
        fds[i].revents = 0;
        if (fds[i].handle != HANGING)
            ready += real.poll(ctx, &fds[i], 1, timeout_ms);
    }
    return ready;
}

static void find_more(void *ctx, datsync *ds, const datsync_event *e)
{
    uint64_t *complete_at = ctx;
    static unsigned ticks;
    char name[24];
    if (e->type == DATSYNC_EV_COMPLETE)
        *complete_at = ticks;
    if (e->type != DATSYNC_EV_TICK)
        return;
    (void)snprintf(name, sizeof name, "hang-%u", ticks++);
    CHECK(datsync_found(ds, name, 1, ticks, 1000u * ticks) == 0);
}

static void check_found_without_end(void)
{
    datsync_feed *f = feed_of(3), *g = feed_new(datsync_feed_key(f), 0);
    datsync_memory_net *memory;
    datsync_options o;
    datsync_net n;
    datsync *a, *b;
    uint64_t complete_at = 0;
    CHECK(datsync_memory_net_new(&memory, NULL, &real) == 0);
    memset(&o, 0, sizeof o);
    n = real;
    n.connect = hanging_connect;
    n.connected = hanging_connected;
    n.close = hanging_close;
    n.poll = hanging_poll;
    dials = 0;
    o.net = &n;
    o.max_peers = 6;
    CHECK(datsync_new(&a, &o, 0) == 0 && datsync_listen(a, "here") == 0 && datsync_add(a, f, DATSYNC_UPLOAD) == 0);
    o.on_event = find_more;
    o.ctx = &complete_at;
    o.live = 1;
    CHECK(datsync_new(&b, &o, 0) == 0 && datsync_add(b, g, DATSYNC_DOWNLOAD) == 0);
    CHECK(datsync_found(b, "hang-first", 1, 0, 0) == 0 && datsync_connect(b, "here", 0) == 0);
    (void)take_turns(a, b, &n, 0, 20000);
    CHECK(dials > 10 && complete_at >= 2 && complete_at <= 4);
    CHECK(datsync_free(b) == 0 && datsync_free(a) == 0 && datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0);
    datsync_memory_net_free(memory);
}

/* Dials of addresses that were found, and at which nobody is, keep out nobody who comes; those that were chosen do. */
static void check_room_for_who_comes(void)
{
    for (int chosen = 0; chosen < 2; chosen++) {
        datsync_feed *f = feed_of(3), *g = feed_new(datsync_feed_key(f), 0);
        datsync_memory_net *memory;
        datsync *a, *b;
        CHECK(datsync_memory_net_new(&memory, NULL, &real) == 0);
        datsync_net n = real;
        n.connect = hanging_connect;
        n.connected = hanging_connected;
        n.close = hanging_close;
        n.poll = hanging_poll;
        dials = 0;
        datsync_options o;
        memset(&o, 0, sizeof o);
        o.net = &n;
        o.max_peers = 2;
        o.live = 1;
        CHECK(datsync_new(&a, &o, 0) == 0 && datsync_listen(a, "here") == 0 && datsync_add(a, f, DATSYNC_UPLOAD) == 0);
        CHECK(datsync_new(&b, &o, 0) == 0 && datsync_add(b, g, DATSYNC_DOWNLOAD) == 0);
        for (unsigned i = 0; i < 6; i++) {
            char name[24];
            (void)snprintf(name, sizeof name, "hang-%u", i);
            CHECK((chosen ? datsync_connect(a, name, 0) : datsync_found(a, name, 1, i, 0)) == 0);
        }
        CHECK(datsync_step(a, NULL, 0, 0) == 0 && dials == 2 && datsync_connect(b, "here", 0) == 0);
        (void)take_turns(a, b, &n, 0, 500);
        CHECK(datsync_complete(b, g) == !chosen && datsync_peers(a) == !chosen);
        CHECK(datsync_free(b) == 0 && datsync_free(a) == 0 && datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0);
        datsync_memory_net_free(memory);
    }
}

/* ================================================================ names and sources ============================= */

/* A resolver and hosts that do as they are told; each handle is closed once. */
static struct town {
    int resolve, resolved; /* their results: addresses, or an error */
    int answers[64];       /* of `connected`, by handle; 1: not yet */
    int closed[64];
    char dialled[64][40]; /* by handle; a name that is resolved, too */
    size_t count;
    unsigned unreachable, connected;
    char told[40]; /* the address of the last event */
    int error;
    unsigned source;
    datsync_net net;
    datsync_options options;
} town;

static intptr_t town_handle(const char *what)
{
    CHECK(town.count < 64 && strlen(what) < sizeof *town.dialled);
    strcpy(town.dialled[town.count], what);
    return (intptr_t)town.count++;
}

static int town_resolve(void *ctx, const char *host, intptr_t *handle)
{
    (void)ctx;
    if (town.resolve < 0)
        return town.resolve;
    *handle = town_handle(host);
    return 0;
}

static int town_resolved(void *ctx, intptr_t handle, datsync_ip *list, size_t cap)
{
    static const char *const addresses[] = {"192.0.2.1:0", "[2001:db8::1]:0", "192.0.2.3:0", "192.0.2.4:0"};
    (void)ctx;
    CHECK(!town.closed[handle] && town.resolved <= (int)cap);
    for (int i = 0; i < town.resolved; i++)
        CHECK(datsync_ip_parse(&list[i], addresses[i % 4]) == 0);
    return town.resolved;
}

static int town_connect(void *ctx, const char *address, intptr_t *stream)
{
    (void)ctx;
    *stream = town_handle(address);
    return 0;
}

static int town_connected(void *ctx, intptr_t stream)
{
    (void)ctx;
    CHECK(!town.closed[stream]);
    return town.answers[stream] == 1 ? DATSYNC_E_AGAIN : town.answers[stream];
}

static int64_t town_recv(void *ctx, intptr_t stream, void *buf, size_t len)
{
    (void)ctx;
    (void)stream;
    (void)buf;
    (void)len;
    return DATSYNC_E_AGAIN;
}

static void town_close(void *ctx, intptr_t handle)
{
    (void)ctx;
    CHECK(handle >= 0 && !town.closed[handle]++);
}

static void town_event(void *ctx, datsync *ds, const datsync_event *e)
{
    (void)ctx;
    (void)ds;
    town.unreachable += e->type == DATSYNC_EV_UNREACHABLE;
    town.connected += e->type == DATSYNC_EV_CONNECTED;
    if (e->address) {
        (void)snprintf(town.told, sizeof town.told, "%s", e->address);
        town.error = e->error;
        town.source = e->source;
    }
}

static datsync *town_new(void)
{
    memset(&town, 0, sizeof town);
    town.resolved = 3;
    for (size_t i = 0; i < 64; i++)
        town.answers[i] = 1;
    town.net.resolve = town_resolve;
    town.net.resolved = town_resolved;
    town.net.connect = town_connect;
    town.net.connected = town_connected;
    town.net.recv = town_recv;
    town.net.send = nowhere_send;
    town.net.close = town_close;
    town.options.net = &town.net;
    town.options.on_event = town_event;
    datsync *ds;
    CHECK(datsync_new(&ds, &town.options, 0) == 0);
    return ds;
}

/* One turn in which all is ready. */
static void town_turn(datsync *ds, uint64_t now)
{
    datsync_pollfd fds[16];
    size_t n = datsync_pollfds(ds, fds, 16);
    CHECK(n <= 16);
    for (size_t i = 0; i < n; i++) {
        CHECK(fds[i].handle >= 0 && !town.closed[fds[i].handle]);
        fds[i].revents = fds[i].events;
    }
    CHECK(datsync_step(ds, fds, n, now) == 0);
}

static void town_end(datsync *ds)
{
    CHECK(datsync_free(ds) == 0);
    for (size_t i = 0; i < town.count; i++)
        CHECK(town.closed[i] == 1);
}

/* All addresses of a name are tried, each a little after the one before; the first that opens is taken, and nobody is
 * told of the others. */
static void check_names(void)
{
    datsync *ds = town_new();
    datsync_pollfd one[4];
    CHECK(datsync_connect(ds, "example.org:80", 0) == 0 && datsync_step(ds, NULL, 0, 0) == 0);
    CHECK(town.count == 1 && strcmp(town.dialled[0], "example.org") == 0);
    CHECK(datsync_pollfds(ds, one, 4) == 1 && one[0].handle == 0 && one[0].events == DATSYNC_POLL_READ);
    CHECK(datsync_step(ds, NULL, 0, 5000) == 0 && town.count == 1); /* it takes its time */
    town_turn(ds, 6000);
    CHECK(town.closed[0] && town.count == 2 && strcmp(town.dialled[1], "192.0.2.1:80") == 0);
    CHECK(datsync_deadline(ds) == 6250 && datsync_pollfds(ds, one, 4) == 1 && one[0].events == DATSYNC_POLL_WRITE);
    town_turn(ds, 6249);
    CHECK(town.count == 2);
    town_turn(ds, 6250);
    CHECK(town.count == 3 && strcmp(town.dialled[2], "[2001:db8::1]:80") == 0);
    town_turn(ds, 6500);
    CHECK(town.count == 4 && strcmp(town.dialled[3], "192.0.2.3:80") == 0 && datsync_candidates(ds) == 3);
    town.answers[2] = 0;
    town_turn(ds, 6600);
    town_turn(ds, 6600);
    CHECK(town.connected == 1 && strcmp(town.told, "example.org:80") == 0 && town.unreachable == 0);
    CHECK(town.closed[1] && town.closed[3] && !town.closed[2] && datsync_candidates(ds) == 1 && town.source == 0);
    town_end(ds);

    /* a failure hastens the next one; one word when the last one failed; then the name is looked up again */
    ds = town_new();
    for (size_t i = 0; i < 64; i++)
        town.answers[i] = DATSYNC_E_REFUSED;
    CHECK(datsync_found(ds, "example.org:80", 3, 1, 0) == 0);
    for (int i = 0; i < 8; i++)
        town_turn(ds, 0);
    CHECK(town.count == 4 && town.unreachable == 1 && town.error == DATSYNC_E_REFUSED && town.source == 3);
    CHECK(datsync_deadline(ds) == 1000);
    town_turn(ds, 1000);
    CHECK(town.count == 5 && strcmp(town.dialled[4], "example.org") == 0);
    town.resolved = DATSYNC_E_UNREACHABLE;
    town_turn(ds, 1000);
    CHECK(town.unreachable == 2 && town.error == DATSYNC_E_UNREACHABLE && town.count == 5);
    town.resolved = 0; /* a name without an address */
    town_turn(ds, 2000);
    town_turn(ds, 2000);
    CHECK(town.unreachable == 3 && town.error == DATSYNC_E_ADDRESS);
    CHECK(datsync_candidates(ds) == 0 && datsync_connect(ds, "example.org:80", 7000) == 0);
    town_turn(ds, 7000);
    CHECK(town.count == 7 && datsync_step(ds, NULL, 0, 16999) == 0 && town.unreachable == 3);
    CHECK(datsync_step(ds, NULL, 0, 17000) == 0 && town.unreachable == 4); /* a resolver that says nothing */
    town_end(ds);

    /* no room for another question, then for none; what is no name goes to connect */
    ds = town_new();
    town.resolve = DATSYNC_E_AGAIN;
    CHECK(datsync_connect(ds, "example.org:80", 0) == 0);
    town_turn(ds, 0);
    CHECK(town.count == 0 && town.unreachable == 0 && datsync_deadline(ds) == 250 && datsync_pollfds(ds, one, 4) == 0);
    town.resolve = DATSYNC_E_ADDRESS;
    town_turn(ds, 250);
    CHECK(town.unreachable == 1 && town.error == DATSYNC_E_ADDRESS);
    static const char *const nameless[] = {"192.0.2.7:1", "[::1]:2", "[fe80::1%eth0]:3", ":4", "unix:/a:5",
                                           "unix:77",     "a:b:6",   "a:65536",          "a:"};
    for (size_t i = 0; i < sizeof nameless / sizeof *nameless; i++)
        CHECK(datsync_connect(ds, nameless[i], 251) == 0);
    CHECK(datsync_step(ds, NULL, 0, 251) == 0 && town.count == sizeof nameless / sizeof *nameless);
    for (size_t i = 0; i < town.count; i++)
        CHECK(strcmp(town.dialled[i], nameless[i]) == 0);
    town_end(ds);

    /* freed, or stopped, wherever it is */
    for (int turns = 0; turns < 5; turns++)
        for (int stops = 0; stops < 2; stops++) {
            ds = town_new();
            CHECK(datsync_connect(ds, "example.org:80", 0) == 0);
            for (int i = 0; i < turns; i++)
                town_turn(ds, (uint64_t)i * 300);
            if (stops) {
                datsync_stop(ds);
                for (int i = 0; i < 3; i++)
                    town_turn(ds, 2000);
                CHECK(datsync_candidates(ds) == 0);
            }
            town_end(ds);
        }
}

/* A source that knows an old copy at once and the owner a second later, and what a guest hears of whom to wait for. */
typedef struct finder {
    intptr_t handle; /* that it waits for, in vain */
    uint64_t next, answers_at, owner_at;
    unsigned turns, stopped;
    uint64_t now;
    struct {
        intptr_t handle;
        short events;
    } waits[16];
    size_t count;
    told told;
    uint64_t complete_at, length;
    unsigned source;
} finder;

static size_t finder_pollfds(void *ctx, datsync_pollfd *fds, size_t cap)
{
    if (cap) {
        fds[0].handle = ((const finder *)ctx)->handle;
        fds[0].events = DATSYNC_POLL_READ;
        fds[0].revents = 0;
    }
    return 1;
}

static uint64_t finder_deadline(void *ctx)
{
    return ((const finder *)ctx)->next;
}

static void finder_step(void *ctx, datsync *ds, const datsync_pollfd *fds, size_t count, uint64_t now)
{
    finder *f = ctx;
    (void)fds;
    (void)count;
    f->now = now;
    if (!f->turns++) {
        datsync_interest(ds, f->handle, DATSYNC_POLL_READ);
        CHECK(datsync_found(ds, "old", 2, 1, now) == 0);
    }
    if (now >= f->next) {
        if (f->owner_at == f->next)
            CHECK(datsync_found(ds, "owner", 2, 1, now) == 0);
        f->next = f->next == f->owner_at ? UINT64_MAX : f->owner_at;
    }
}

static int finder_asks(void *ctx)
{
    const finder *f = ctx;
    return f->now < f->answers_at;
}

static void finder_stop(void *ctx, datsync *ds, uint64_t now)
{
    finder *f = ctx;
    (void)now;
    f->stopped++;
    datsync_interest(ds, f->handle, 0);
}

static void finder_event(void *ctx, datsync *ds, const datsync_event *e)
{
    finder *f = ctx;
    tell(&f->told, ds, e);
    if (e->type == DATSYNC_EV_COMPLETE) {
        f->complete_at = f->now;
        f->length = e->index;
    }
    if (e->type == DATSYNC_EV_PEER)
        f->source = e->source;
}

static void finder_interest(void *ctx, datsync *ds, intptr_t handle, short events)
{
    finder *f = ctx;
    size_t i = 0;
    (void)ds;
    while (i < f->count && f->waits[i].handle != handle)
        i++;
    CHECK(i < 16 && (i < f->count || events)); /* nothing is forgotten that was not told */
    f->waits[i].handle = handle;
    f->waits[i].events = events;
    f->count += i == f->count;
    if (!events)
        f->waits[i] = f->waits[--f->count];
}

/* What it heard is what it would be asked to wait for. */
static void finder_compare(const finder *f, const datsync *ds)
{
    datsync_pollfd fds[16];
    size_t n = datsync_pollfds(ds, fds, 16), i, both = 0;
    CHECK(n <= 16);
    for (size_t k = 0; k < n; k++) {
        for (i = 0; i < f->count && f->waits[i].handle != fds[k].handle; i++)
            ;
        CHECK(fds[k].events ? i < f->count && f->waits[i].events == fds[k].events : i == f->count);
        both += i < f->count;
    }
    CHECK(both == f->count);
}

/* Three synchronizers, until `until`. */
static void town_meeting(datsync **all, const datsync_net *n, finder *f, uint64_t until)
{
    datsync_pollfd fds[16];
    uint64_t now = 0;
    for (unsigned turns = 0; now < until; turns++) {
        uint64_t next = until;
        int ready = 0;
        CHECK(turns < 100000);
        for (int i = 0; i < 3; i++) {
            size_t count = datsync_pollfds(all[i], fds, 16);
            ready += n->poll(n->ctx, fds, count, 0);
            CHECK(datsync_step(all[i], fds, count, now) == 0);
            if (i == 2)
                finder_compare(f, all[i]);
            next = datsync_deadline(all[i]) < next ? datsync_deadline(all[i]) : next;
        }
        if (!ready)
            now = next > now ? next : now + (now < until);
    }
}

/* `answers_at`: when all ways have answered. Returns how long the feed was that it called complete. */
static uint64_t clone_from_found(uint64_t owner_at, uint64_t answers_at, uint64_t *complete_at)
{
    datsync_feed *own = feed_of(3), *old = feed_new(datsync_feed_key(own), 0),
                 *new = feed_new(datsync_feed_key(own), 0);
    datsync_memory_net *memory;
    datsync_net n;
    datsync_options o;
    datsync *all[3];
    finder f;
    datsync_source source = {&f, finder_pollfds, finder_deadline, finder_step, finder_asks, finder_stop};
    memset(&f, 0, sizeof f);
    memset(&o, 0, sizeof o);
    CHECK(datsync_memory_net_new(&memory, NULL, &n) == 0);
    char bound[16];
    CHECK(n.listen(n.ctx, "finder", &f.handle, bound, sizeof bound) == 0);
    o.net = &n;
    o.live = 1;
    CHECK(datsync_new(&all[0], &o, 0) == 0 && datsync_new(&all[1], &o, 0) == 0);
    CHECK(datsync_add(all[0], own, DATSYNC_UPLOAD) == 0 && datsync_listen(all[0], "owner") == 0);
    CHECK(datsync_add(all[1], old, DATSYNC_UPLOAD | DATSYNC_DOWNLOAD) == 0 && datsync_listen(all[1], "old") == 0);
    CHECK(datsync_connect(all[1], "owner", 0) == 0);
    (void)take_turns(all[0], all[1], &n, 0, 500);
    CHECK(datsync_feed_length(old) == 3 && datsync_free(all[1]) == 0 && datsync_free(all[0]) == 0);
    datsync_bytes more = bytes("more");
    CHECK(datsync_feed_append(own, &more, 1) == 4);

    CHECK(datsync_new(&all[0], &o, 0) == 0 && datsync_new(&all[1], &o, 0) == 0);
    CHECK(datsync_add(all[0], own, DATSYNC_UPLOAD) == 0 && datsync_listen(all[0], "owner") == 0);
    CHECK(datsync_add(all[1], old, DATSYNC_UPLOAD) == 0 && datsync_listen(all[1], "old") == 0);
    o.on_event = finder_event;
    o.on_interest = finder_interest;
    o.ctx = &f;
    o.live = 0;
    f.owner_at = f.next = owner_at;
    f.answers_at = answers_at;
    CHECK(datsync_new(&all[2], &o, 0) == 0 && datsync_add(all[2], new, DATSYNC_DOWNLOAD) == 0);
    CHECK(datsync_listen(all[2], "new") == 0 && datsync_add_source(all[2], &source) == 0);
    town_meeting(all, &n, &f, 8000);
    CHECK(f.source == 2 && f.turns > 1 && f.stopped == 0 && f.told.events[DATSYNC_EV_COMPLETE] >= 1);
    datsync_stop(all[2]);
    CHECK(datsync_step(all[2], NULL, 0, 8000) == 0 && f.stopped == 1);
    CHECK(datsync_add_source(all[2], &source) == DATSYNC_E_STATE);
    for (int i = 0; i < 3; i++)
        CHECK(datsync_free(all[i]) == 0);
    CHECK(f.stopped == 1 && f.count == 0);
    CHECK(datsync_feed_close(own) == 0 && datsync_feed_close(old) == 0 && datsync_feed_close(new) == 0);
    n.close(n.ctx, f.handle);
    datsync_memory_net_free(memory);
    *complete_at = f.complete_at;
    return f.length;
}

static int turns_left;

static int after_some_turns(void *ctx)
{
    (void)ctx;
    return turns_left-- == 0;
}

/* Where nothing is left to do, the loop ends by itself; who listens, looks for peers or is live waits for more. */
static void check_running(void)
{
    for (int waits = 0; waits < 4; waits++) {
        datsync_env env = {.clock = datsync_os_clock};
        datsync_options o = {.env = &env, .stopped = after_some_turns, .live = waits == 1};
        finder f = {.next = 0, .owner_at = 1};
        datsync_source source = {&f, finder_pollfds, finder_deadline, finder_step, NULL, NULL};
        datsync_memory_net *memory;
        datsync_net n;
        datsync *ds;
        char bound[16];
        CHECK(datsync_memory_net_new(&memory, NULL, &n) == 0);
        CHECK(n.listen(n.ctx, "finder", &f.handle, bound, sizeof bound) == 0);
        o.net = &n;
        CHECK(datsync_new(&ds, &o, 0) == 0);
        CHECK((waits == 2 ? datsync_listen(ds, "here") : waits == 3 ? datsync_add_source(ds, &source) : 0) == 0);
        turns_left = 5;
        CHECK(datsync_run(ds) == 0 && turns_left == (waits ? -1 : 4));
        CHECK(datsync_free(ds) == 0);
        n.close(n.ctx, f.handle);
        datsync_memory_net_free(memory);
    }
}

static void check_sources(void)
{
    uint64_t at;
    CHECK(clone_from_found(1000, 1200, &at) == 4 && at >= 1000 && at < 3500); /* the owner came in time */
    CHECK(clone_from_found(60000, 1500, &at) == 3 && at >= 1500 && at < 3500);
    CHECK(clone_from_found(60000, 60000, &at) == 3 && at >= 3000 && at < 6000); /* no longer than that */

    datsync *ds = nowhere_new(1);
    datsync_source source;
    memset(&source, 0, sizeof source);
    for (unsigned i = 0; i < DATSYNC_MAX_SOURCES; i++)
        CHECK(datsync_add_source(ds, &source) == 0);
    CHECK(datsync_add_source(ds, &source) == DATSYNC_E_TOO_BIG && datsync_free(ds) == 0);
}

static int shut;

static int count_shutdown(void *ctx, intptr_t stream)
{
    (void)ctx;
    (void)stream;
    shut++;
    return 0; /* the remote is not told: a network in memory has no half of an end */
}

/* Who stops tells the others, and waits for them two seconds; nothing else is done, and no event comes. */
static void check_stopping(void)
{
    datsync_feed *f = feed_of(3), *g = feed_new(datsync_feed_key(f), 0);
    datsync_memory_net *memory;
    datsync_options o;
    datsync_net n;
    datsync *a, *b;
    told here;
    intptr_t handle;
    CHECK(datsync_memory_net_new(&memory, NULL, &n) == 0);
    memset(&o, 0, sizeof o);
    o.net = &n;
    o.live = 1;
    CHECK(datsync_new(&a, &o, 0) == 0 && datsync_listen(a, "here") == 0 && datsync_add(a, f, DATSYNC_UPLOAD) == 0);
    n.shutdown = count_shutdown;
    o.on_event = tell;
    o.ctx = &here;
    memset(&here, 0, sizeof here);
    CHECK(datsync_new(&b, &o, 0) == 0 && datsync_add(b, g, DATSYNC_DOWNLOAD) == 0 && datsync_listen(b, "there") == 0);
    CHECK(datsync_connect(b, "here", 0) == 0 && datsync_connect(b, "nobody", 0) == 0);
    (void)take_turns(a, b, &n, 0, 500);
    CHECK(here.events[DATSYNC_EV_BLOCK] == 3 && datsync_peers(b) == 1);
    unsigned ticks = here.events[DATSYNC_EV_TICK], unreachable = here.events[DATSYNC_EV_UNREACHABLE];
    datsync_stop(b);
    datsync_stop(b);
    CHECK(datsync_deadline(b) <= 500 && datsync_candidates(b) == 1);
    CHECK(datsync_step(b, NULL, 0, 500) == 0 && shut == 1 && datsync_deadline(b) == 2500);
    CHECK(n.connect(n.ctx, "there", &handle) == DATSYNC_E_REFUSED); /* it doesn't listen any more */
    (void)take_turns(a, b, &n, 501, 2500);
    CHECK(datsync_candidates(b) == 1 && here.events[DATSYNC_EV_TICK] == ticks);
    CHECK(datsync_step(b, NULL, 0, 2500) == 0 && datsync_candidates(b) == 0 && datsync_deadline(b) == UINT64_MAX);
    CHECK(here.events[DATSYNC_EV_DISCONNECTED] == 0 && here.events[DATSYNC_EV_UNREACHABLE] == unreachable);
    CHECK(datsync_free(b) == 0 && datsync_free(a) == 0 && datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0);
    datsync_memory_net_free(memory);
}

static datsync_net unblocked;
static int blocked;

static int64_t blocking_send(void *ctx, intptr_t stream, const void *buf, size_t len)
{
    return blocked ? DATSYNC_E_AGAIN : unblocked.send(ctx, stream, buf, len);
}

/* Who stops on a network without a shutdown is gone after half a second where all was sent; where not, after two. */
static void check_stopping_unheard(void)
{
    for (int full = 0; full < 2; full++) {
        datsync_feed *f = feed_of(3), *g = feed_new(datsync_feed_key(f), 0);
        datsync_memory_net *memory;
        datsync_options o;
        datsync *a, *b;
        told here;
        CHECK(datsync_memory_net_new(&memory, NULL, &unblocked) == 0 && !unblocked.shutdown);
        datsync_net n = unblocked;
        n.send = blocking_send;
        blocked = 0;
        memset(&o, 0, sizeof o);
        memset(&here, 0, sizeof here);
        o.net = &n;
        o.live = 1;
        CHECK(datsync_new(&a, &o, 0) == 0 && datsync_listen(a, "here") == 0 && datsync_add(a, f, DATSYNC_UPLOAD) == 0);
        o.on_event = tell;
        o.ctx = &here;
        CHECK(datsync_new(&b, &o, 0) == 0 && datsync_add(b, g, DATSYNC_DOWNLOAD) == 0);
        CHECK(datsync_connect(b, "here", 0) == 0);
        (void)take_turns(a, b, &n, 0, 500);
        CHECK(here.events[DATSYNC_EV_BLOCK] == 3 && datsync_peers(b) == 1);
        blocked = full;
        datsync_stop(b);
        CHECK(datsync_step(b, NULL, 0, 500) == 0 && datsync_deadline(b) == (full ? 2500u : 1000u));
        CHECK(datsync_step(b, NULL, 0, 2499) == 0 && datsync_deadline(b) == (full ? 2500 : UINT64_MAX));
        CHECK(datsync_step(b, NULL, 0, 2500) == 0 && datsync_deadline(b) == UINT64_MAX);
        CHECK(datsync_free(b) == 0 && datsync_free(a) == 0);
        CHECK(datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0);
        datsync_memory_net_free(memory);
    }
}

/* Who speaks nonsense, or nothing, is left alone for ten minutes. */
static void check_strangers(void)
{
    datsync_feed *f = feed_of(1);
    for (int nonsense = 0; nonsense < 2; nonsense++) {
        datsync *ds = nowhere_new(4);
        nowhere.talks = 1;
        nowhere.nonsense = nonsense;
        CHECK(datsync_add(ds, f, DATSYNC_UPLOAD) == 0 && datsync_connect(ds, "x", 0) == 0);
        if (nonsense) { /* it comes when it is asked for */
            datsync_pollfd fds[1];
            CHECK(datsync_step(ds, NULL, 0, 0) == 0 && datsync_pollfds(ds, fds, 1) == 1);
            fds[0].revents = DATSYNC_POLL_READ;
            CHECK(datsync_step(ds, fds, 1, 1) == 0);
        }
        run_until(ds, 6000);
        was_dialled("x");
        CHECK(datsync_candidates(ds) == 0 && datsync_connect(ds, "x", 6000) == 0 && datsync_candidates(ds) == 0);
        run_until(ds, 600000);
        was_dialled("");
        run_until(ds, 606000);
        was_dialled("x");
        CHECK(datsync_free(ds) == 0);
    }
    CHECK(datsync_feed_close(f) == 0);
}

/* A store that fails: the feed is said to have failed, once, and takes no more part. */
static datsync_store whole;
static int store_is_broken, store_syncs;

static int broken_write(void *ctx, int part, uint64_t offset, const void *buf, size_t len)
{
    return store_is_broken ? DATSYNC_E_IO : whole.write(ctx, part, offset, buf, len);
}

static int counted_sync(void *ctx, int part)
{
    store_syncs++;
    return whole.sync(ctx, part);
}

/* What was appended is committed when the end begins, not when it is over; and nothing new begins. */
static void check_stopping_commits(void)
{
    datsync_feed_options fo;
    datsync_options o;
    datsync_memory_net *memory = NULL;
    datsync_net n;
    datsync_feed *f = NULL;
    datsync *ds = NULL;
    intptr_t listener = 0, stream = 0;
    char from[24];
    datsync_bytes block = bytes("a block");
    memset(&fo, 0, sizeof fo);
    memset(&o, 0, sizeof o);
    CHECK(datsync_memory_store(NULL, &whole) == 0 && datsync_memory_net_new(&memory, NULL, &n) == 0);
    CHECK(n.listen(n.ctx, "here", &listener, from, sizeof from) == 0);
    fo.store = whole;
    fo.store.sync = counted_sync;
    fo.flags = DATSYNC_CREATE;
    o.net = &n;
    CHECK(datsync_feed_open(&f, &fo) == 0 && datsync_new(&ds, &o, 0) == 0 && datsync_add(ds, f, DATSYNC_UPLOAD) == 0);
    CHECK(datsync_connect(ds, "here", 0) == 0);
    datsync_pollfd fds[2];
    CHECK(datsync_step(ds, fds, 0, 0) == 0 && n.accept(n.ctx, listener, &stream, from, sizeof from) == 0);
    CHECK(datsync_feed_append(f, &block, 1) == 1);
    store_syncs = 0;
    datsync_stop(ds);
    CHECK(datsync_listen(ds, "there") == DATSYNC_E_STATE);
    (void)n.recv(n.ctx, stream, from, sizeof from);
    size_t count = datsync_pollfds(ds, fds, 2);
    (void)n.poll(n.ctx, fds, count, 0);
    CHECK(datsync_step(ds, fds, count, 10) == 0 && store_syncs > 0);
    CHECK(datsync_candidates(ds) == 1 && datsync_deadline(ds) == 510); /* without a shutdown it has the usual time */
    CHECK(datsync_step(ds, fds, 0, 510) == 0 && datsync_candidates(ds) == 0);
    CHECK(datsync_free(ds) == 0 && datsync_feed_close(f) == 0);
    datsync_memory_net_free(memory);
}

static void check_store_fails(void)
{
    datsync_feed_options fo;
    datsync_options o;
    datsync_feed *f = NULL;
    datsync *ds;
    told here;
    datsync_bytes block = bytes("a block");
    memset(&fo, 0, sizeof fo);
    memset(&o, 0, sizeof o);
    memset(&here, 0, sizeof here);
    CHECK(datsync_memory_store(NULL, &whole) == 0);
    fo.store = whole;
    fo.store.write = broken_write;
    fo.flags = DATSYNC_CREATE;
    store_is_broken = 0;
    CHECK(datsync_feed_open(&f, &fo) == 0);
    o.on_event = tell;
    o.ctx = &here;
    CHECK(datsync_new(&ds, &o, 0) == 0 && datsync_add(ds, f, DATSYNC_UPLOAD) == 0);
    CHECK(datsync_feed_append(f, &block, 1) == 1);
    store_is_broken = 1;
    run_until(ds, 10000);
    CHECK(here.events[DATSYNC_EV_FAILED] == 1 && datsync_free(ds) == 0);
    store_is_broken = 0;
    CHECK(datsync_feed_close(f) == 0);
}

/* What a synchronizer was made with may go: names of extensions are copied, and those are spoken. */
static int use_options(const datsync_env *env)
{
    static const char *const names[] = {"one", "two"};
    datsync_options o;
    datsync *ds;
    memset(&o, 0, sizeof o);
    o.env = env;
    o.extensions = names;
    o.extension_count = 2;
    int r = datsync_new(&ds, &o, 0);
    return r == 0 ? datsync_free(ds) : r;
}

static void check_options_are_copied(void)
{
    datsync_feed *f = feed_of(2), *g = feed_new(datsync_feed_key(f), 0);
    const char *const spoken[] = {"hello"};
    char *name = malloc(6);
    const char **names = malloc(sizeof *names);
    datsync_peer_options po;
    datsync_memory_net *memory;
    datsync_pollfd fds[2];
    datsync_options o;
    datsync_peer *p;
    datsync_net n;
    datsync *a;
    intptr_t stream;
    uint64_t now;
    CHECK(name && names);
    CHECK(datsync_memory_net_new(&memory, NULL, &n) == 0);
    memset(&o, 0, sizeof o);
    memset(&po, 0, sizeof po);
    strcpy(name, "hello");
    names[0] = name;
    o.net = &n;
    o.extensions = names;
    o.extension_count = 1;
    CHECK(datsync_new(&a, &o, 0) == 0 && datsync_listen(a, "here") == 0 && datsync_add(a, f, DATSYNC_UPLOAD) == 0);
    memset(name, 'X', 5);
    names[0] = "other";
    free(name);
    free((void *)names);
    po.extensions = spoken;
    po.extension_count = 1;
    CHECK(datsync_peer_new(&p, &po, 0) == 0 && datsync_peer_open(p, g, DATSYNC_DOWNLOAD) == 0);
    CHECK(n.connect(n.ctx, "here", &stream) == 0);
    for (now = 0; now < 50; now++) {
        uint8_t buf[4096];
        const uint8_t *out;
        size_t count = datsync_pollfds(a, fds, 2), len;
        int64_t got;
        (void)n.poll(n.ctx, fds, count, 0);
        CHECK(datsync_step(a, fds, count, now) == 0);
        while ((len = datsync_peer_output(p, &out, now)) > 0 && (got = n.send(n.ctx, stream, out, len)) > 0)
            datsync_peer_sent(p, (size_t)got, now);
        if ((got = n.recv(n.ctx, stream, buf, sizeof buf)) > 0)
            CHECK(datsync_peer_input(p, buf, (size_t)got, now) == got);
        if (datsync_feed_count(g, 0, 2) == 2)
            break;
    }
    CHECK(datsync_peer_extension(p, g, "hello", bytes("there")) == 0);
    datsync_peer_free(p);
    n.close(n.ctx, stream);
    CHECK(datsync_free(a) == 0 && datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0);
    datsync_memory_net_free(memory);
    each_allocation_fails(use_options);
}

/* Who sends what does not verify, for an hour. */
static void check_liars(void)
{
    datsync_feed_options o;
    datsync_feed *f = NULL;
    datsync_bytes block = bytes("what was signed");
    memset(&o, 0, sizeof o);
    datsync_options options;
    memset(&options, 0, sizeof options);
    o.flags = DATSYNC_CREATE;
    CHECK(datsync_memory_store(NULL, &o.store) == 0 && datsync_feed_open(&f, &o) == 0);
    CHECK(datsync_feed_append(f, &block, 1) == 1 && datsync_feed_flush(f) == 0);
    CHECK(o.store.write(o.store.ctx, DATSYNC_PART_DATA, 0, "what was hinted", 15) == 0);
    datsync_feed *g = feed_new(datsync_feed_key(f), 0);
    datsync_memory_net *memory;
    CHECK(datsync_memory_net_new(&memory, NULL, &real) == 0);
    datsync_net n = real;
    n.connect = counted_connect;
    dials = 0;
    options.net = &n;
    options.live = 1;
    datsync *a;
    CHECK(datsync_new(&a, &options, 0) == 0 && datsync_listen(a, "here") == 0 &&
          datsync_add(a, f, DATSYNC_UPLOAD) == 0);
    datsync *b;
    CHECK(datsync_new(&b, &options, 0) == 0 && datsync_connect(b, "here", 0) == 0 &&
          datsync_add(b, g, DATSYNC_DOWNLOAD) == 0);
    (void)take_turns(a, b, &real, 0, 60000);
    CHECK(dials == 1 && datsync_feed_count(g, 0, 1) == 0 && datsync_candidates(b) == 0);
    (void)take_turns(a, b, &real, 60000, 3590000);
    CHECK(dials == 1);
    (void)take_turns(a, b, &real, 3590000, 3610000);
    CHECK(dials == 2);
    CHECK(datsync_free(a) == 0 && datsync_free(b) == 0 && datsync_feed_close(f) == 0 && datsync_feed_close(g) == 0);
    datsync_memory_net_free(memory);
}

/* Internet addresses: what is written is read again, in the room that there is; what is wrong leaves no trace. */
static void check_address_text(void)
{
    static const char *const good[] = {
        "0.0.0.0:0",
        "255.255.255.255:65535",
        "192.0.2.1:3282",
        "[::]:0",
        "[::1]:3282",
        "[1::]:1",
        "[1:2:3:4:5:6:7:8]:1",
        "[1:0:0:4::8]:1",
        "[2001:db8:0:1:1:1:1:1]:1",
        "[fe80::1%2]:80",
        "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
    };
    static const char *const wrong[] = {"",
                                        "1.2.3.4",
                                        "1.2.3.4:65536",
                                        "1.2.3.256:1",
                                        "01.2.3.4:1",
                                        "::1:1",
                                        "[::1]",
                                        "[::1:1",
                                        "[1:2:3:4:5:6:7:8:9]:1",
                                        "[:::]:1",
                                        "[fe80::1%]:1",
                                        "localhost:1",
                                        "1.2.3:4",
                                        "1.2.3.4:",
                                        "1.2.3.4:1x",
                                        "1.2.3.4:+1",
                                        "-1.2.3.4:1",
                                        "1..3.4:1",
                                        "1.2.3.4.5:1",
                                        "1.2.3.1000000000000:1",
                                        "[]:1",
                                        "[:]:1",
                                        "[1]:1",
                                        "[1:]:1",
                                        "[:1]:1",
                                        "[:1::]:1",
                                        "[1::2::3]:1",
                                        "[1::2:]:1",
                                        "[1::2]1",
                                        "[1::2] :1",
                                        "[12345::]:1",
                                        "[g::]:1",
                                        "[1:2:3:4:5:6:7]:1",
                                        "[1:2:3:4:5:6:7:]:1",
                                        "[1:2:3:4:5:6:7:8:]:1",
                                        "[1:2:3:4:5:6:7:8::]:1",
                                        "[::1:2:3:4:5:6:7:8]:1",
                                        "[1:2:3:4::5:6:7:8]:1",
                                        "[::1.2.3]:1",
                                        "[::1.2.3.256]:1",
                                        "[1.2.3.4]:1",
                                        "[1:2:3:4:5:6:7:1.2.3.4]:1",
                                        "[::1.2.3.4:5]:1",
                                        "[::%]:1",
                                        "[::%1",
                                        "[::%x]:1"};
    static const char *const otherwise[][2] = {
        {"[A:b::C]:1", "[a:b::c]:1"},
        {"[0001:0:0:0:0:0:0:0]:1", "[1::]:1"},
        {"[0:0:1::]:1", "[0:0:1::]:1"},
        {"[0:0:0:1:0:0:1:0]:1", "[::1:0:0:1:0]:1"},
        {"[1:0:0:2:0:0:0:3]:4", "[1:0:0:2::3]:4"},
        {"[1:0:2:0:3:0:4:0]:4", "[1:0:2:0:3:0:4:0]:4"},
        {"[1:2:3:4:5:6:7::]:1", "[1:2:3:4:5:6:7:0]:1"},
        {"[::2:3:4:5:6:7:8]:1", "[0:2:3:4:5:6:7:8]:1"},
        {"[::ffff:1.2.3.4]:1", "[::ffff:102:304]:1"},
        {"[64:ff9b::192.0.2.33]:1", "[64:ff9b::c000:221]:1"},
        {"[1:2:3:4:5:6:255.0.0.9]:1", "[1:2:3:4:5:6:ff00:9]:1"},
        {"[::1%7]:1", "[::1]:1"},
    };
    char text[DATSYNC_IP_TEXT + 1];
    datsync_ip ip, same;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK(datsync_ip_parse(&ip, good[i]) == 0);
        memset(text, 'x', sizeof text);
        datsync_ip_text(&ip, text);
        CHECK(strcmp(text, good[i]) == 0 && text[DATSYNC_IP_TEXT] == 'x');
    }
    memset(&ip, 0xff, sizeof ip);
    same = ip;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(datsync_ip_parse(&ip, wrong[i]) == DATSYNC_E_ADDRESS && memcmp(&ip, &same, sizeof ip) == 0);
    for (size_t i = 0; i < sizeof otherwise / sizeof *otherwise; i++) {
        CHECK(datsync_ip_parse(&ip, otherwise[i][0]) == 0);
        datsync_ip_text(&ip, text);
        CHECK(strcmp(text, otherwise[i][1]) == 0);
    }
    CHECK(datsync_ip_parse(&ip, "[fe80::a%7]:80") == 0 && ip.size == 16 && ip.port == 80 && ip.via == 7 &&
          ip.bytes[0] == 0xfe && ip.bytes[1] == 0x80 && ip.bytes[2] == 0 && ip.bytes[15] == 10);
    CHECK(datsync_ip_parse(&ip, "192.0.2.1:80") == 0 && ip.size == 4 && ip.port == 80 && ip.via == 0 &&
          memcmp(ip.bytes, "\300\0\2\1", 4) == 0);
    memset(&ip, 0xff, sizeof ip);
    ip.size = 16;
    ip.bytes[0] = 0xfe;
    ip.bytes[1] = 0x80;
    datsync_ip_text(&ip, text); /* the longest that there is */
    CHECK(strcmp(text, "[fe80:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535") == 0);
}

/* Offsets beyond 32 bits, in a folder of the operating system. */
static void check_far_offsets(void)
{
    static const uint64_t far = ((uint64_t)5 << 30) + 7;
    datsync_store s;
    CHECK(datsync_os_store(&s, ".", "far.", DATSYNC_CREATE) == 0);
    CHECK(s.write(s.ctx, DATSYNC_PART_DATA, far, "abc", 3) == 0);
    CHECK(s.size(s.ctx, DATSYNC_PART_DATA) == (int64_t)far + 3);
    char buf[8];
    CHECK(s.read(s.ctx, DATSYNC_PART_DATA, far - 1, buf, sizeof buf) == 4 && memcmp(buf, "\0abc", 4) == 0);
    CHECK(s.read(s.ctx, DATSYNC_PART_DATA, far & 0xffffffffu, buf, 3) == 3 && memcmp(buf, "\0\0\0", 3) == 0);
    CHECK(s.punch(s.ctx, DATSYNC_PART_DATA, far - 4096, 4098) == 0);
    CHECK(s.read(s.ctx, DATSYNC_PART_DATA, far + 2, buf, sizeof buf) == 1 && buf[0] == 'c');
    CHECK(s.truncate(s.ctx, DATSYNC_PART_DATA, far) == 0 && s.size(s.ctx, DATSYNC_PART_DATA) == (int64_t)far);
    CHECK(s.sync(s.ctx, DATSYNC_PART_DATA) == 0);
    CHECK(s.read(s.ctx, DATSYNC_PART_DATA, UINT64_MAX - 1, buf, 3) == DATSYNC_E_TOO_BIG);
    s.close(s.ctx);
}

/* ================================================================ which ========================================= */

static const struct check {
    const char *name;
    void (*run)(void);
} checks[] = {
    {"messages", check_messages},
    {"run-lengths", check_run_lengths},
    {"errors", check_errors},
    {"memory-store", check_memory_store},
    {"feed", check_feed},
    {"sizes", check_sizes},
    {"handshake", check_handshake},
    {"extensions-and-send", check_extensions_and_send},
    {"peer-limits", check_peer_limits},
    {"silence", check_silence},
    {"room", check_room},
    {"pool", check_pool},
    {"clone-without-memory", check_clone_without_memory},
    {"memory-net", check_memory_net},
    {"without-plugs", check_without_plugs},
    {"adding", check_adding},
    {"bad-network", check_bad_network},
    {"slow-remotes", check_slow_remotes},
    {"events", check_events},
    {"store-fails", check_store_fails},
    {"options-are-copied", check_options_are_copied},
    {"addresses", check_addresses},
    {"addresses-full", check_addresses_full},
    {"addresses-found", check_addresses_found},
    {"found-without-end", check_found_without_end},
    {"room-for-who-comes", check_room_for_who_comes},
    {"names", check_names},
    {"sources", check_sources},
    {"running", check_running},
    {"stopping", check_stopping},
    {"stopping-commits", check_stopping_commits},
    {"stopping-unheard", check_stopping_unheard},
    {"worked-before", check_worked_before},
    {"strangers", check_strangers},
    {"liars", check_liars},
    {"address-text", check_address_text},
    {"far-offsets", check_far_offsets},
};

int main(int argc, char **argv)
{
    CHECK(sodium_init() >= 0 && datsync_os_main(&argc, &argv) == 0);
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        if (argc < 2)
            puts(checks[i].name);
        else if (strcmp(argv[1], checks[i].name) == 0)
            return checks[i].run(), 0;
    return argc < 2 ? 0 : 2;
}
