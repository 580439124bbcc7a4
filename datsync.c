/* datsync: the Dat synchronizer in one file. The manual is datsync.h; the map of the rooms is in CONTRIBUTING.md.
 *
 * SPDX-License-Identifier: MIT
 *
 * Rooms, in the order of the file; a room calls only earlier rooms:
 *
 *   switches · memory and bytes · messages · flat tree · crypto · bitfield and run-length code · storage · feed:
 *   state, tree, data part, bitfield, commit, opening and recovery, reading, appending, proving, putting, verifying,
 *   wanting · peer: state, output, flights, asking, messages, session · addresses as text · networks in memory ·
 *   drive: state, entries, history, files, where the bytes are, stores, opening, what is here, writing, importing,
 *   serving, laying out · synchronizer: state, addresses, sources, connections, feeds, drives, the loop · errors
 *
 * Pure C99 and libsodium: no header of an operating system, no global state.
 */
#include "datsync.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

/* ================================================================ switches ====================================== */

/* What one does not need can be left out: drives (DATSYNC_NO_DRIVE), and the synchronizer with its addresses and its
 * loop (DATSYNC_NO_SYNCHRONIZER), where a program of its own moves the bytes of a peer. Functions that only such
 * rooms call are OPTIONAL. */
#if defined __GNUC__ && (defined DATSYNC_NO_DRIVE || defined DATSYNC_NO_SYNCHRONIZER)
#define OPTIONAL __attribute__((unused))
#else
#define OPTIONAL
#endif

/* Nodes in one page of the tree cache (5 KiB) and pages in the cache (1.3 MiB when all are used). */
#define TREE_PAGE_NODES 128u
#define TREE_PAGES 256u
/* Small blocks are gathered to writes of this size, and read ahead in pieces of it. */
#define GATHER_BYTES 262144u
/* Blocks of at least this size go to and from the store without passing a buffer. */
#define DIRECT_BYTES 16384u
/* A peer's input buffer: where it begins, where it stops without a large frame; and the output that is built at once
 * (it should stay in the processor's cache between building, encrypting and sending). */
#define INPUT_FIRST 4096u
#define INPUT_BYTES 524288u
#define OUTPUT_BYTES 262144u
/* Blocks that came before the nodes they need are kept up to so many bytes and blocks a channel; nothing more is asked
 * for while an eighth of that is used. */
#define PARKED_BYTES 4194304u
#define PARKED_BLOCKS DATSYNC_MAX_REQUESTS
/* Blocks of one run that are asked from one peer when several are there. */
#define RUN_BLOCKS 1024u
/* A peer that told of a single block only is not asked for so long: its answer to the Want should come first. */
#define WANT_PATIENCE_MS 1000u
/* Blocks of a feed that are remembered because a connection ended when they were asked for. */
#define SHUNNED 16u
/* A new connection has so long to say what it offers before a feed is called complete without it. */
#define SETTLE_MS 2000u
/* The ways of finding peers that have not answered yet delay the end of a transfer by no more than this after the first
 * handshake. */
#define ASK_MS 3000u
/* Milliseconds without a handshake after which an address counts as tried. */
#define TRY_MS 5000u
/* Addresses of one name that are tried, and after how many milliseconds the next one is tried beside the one before
 * (RFC 8305). A resolver has so long. */
#define NAME_ADDRESSES 8u
#define NEXT_ADDRESS_MS 250u
#define RESOLVE_MS 10000u
/* Signatures that are tried on opening before the feed is called corrupt. */
#define SIGNATURE_TRIES 64u
/* Files of a drive that are kept open. */
#define DRIVE_FILES 8u
/* Files that are downloaded at the same time, and blocks of them that are wanted before the next file begins. */
#define DRIVE_TARGETS 2048u
#define DRIVE_AHEAD 4096u
/* Files that are away or changed are looked at again after so many milliseconds; of those whose bytes must tell, so
 * many bytes are read at a time. */
#define LOOK_MS 60000u
#define DOUBT_BYTES 4194304u
/* Milliseconds for which an address is not believed that tells of blocks behind the end, and closes when asked for
 * one: twice, and each time so soon after the request that it may be the answer. */
#define WARY_MS 600000u
#define WARY_ENDS 2u
#define REFUSAL_MS 5000u
/* The book of addresses has room for so many, DATSYNC_MAX_ADDRESSES of each source; they are found by hash in so many
 * chains, and informants have their turns by so many hashes. An address is shorter than this: a name has at most 253
 * bytes. */
#define ADDRESSES 4096u
#define ADDRESS_SLOTS 1024u
#define INFORMANTS 256u
#define ADDRESS_BYTES 264u
/* The sources that are not a caller's: what somebody chose, and who came by himself. */
#define CHOSEN 0u
#define ACCEPTED DATSYNC_MAX_SOURCES
/* Milliseconds for which an address is not dialled: whose handshake failed, one that sent what does not verify, and one
 * that was given up and is found again. */
#define STRANGER_MS 600000u
#define LIAR_MS 3600000u
#define AGAIN_MS 60000u
/* Bytes and blocks that are gathered for one signature when files are imported. */
#define DRIVE_BATCH_BYTES 8388608u
#define DRIVE_BATCH_BLOCKS 1024u

/* Each evaluates an argument twice: give them nothing that acts. */
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define NONE UINT64_MAX

/* ================================================================ memory and bytes =============================== */

/* The caller's allocator, random numbers and log, or the C library's and libsodium's; arrays that grow; numbers as
 * bytes, big-endian as SLEEP has them and varints as protobuf has them (PROTOCOL 1). Everything below allocates
 * through here, so a program can count and limit all of it. */

static void *default_resize(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    if (size == 0) {
        free(ptr);
        return NULL;
    }
    return realloc(ptr, size);
}

static void default_random(void *ctx, void *buf, size_t len)
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
        env->resize = default_resize;
    if (!env->random)
        env->random = default_random;
}

static void *mem_resize(const datsync_env *env, void *ptr, size_t size)
{
    return env->resize(env->ctx, ptr, size);
}

static void *mem_zeroed(const datsync_env *env, size_t size)
{
    void *p = mem_resize(env, NULL, size);
    if (p)
        memset(p, 0, size);
    return p;
}

static void mem_free(const datsync_env *env, void *ptr)
{
    if (ptr)
        (void)env->resize(env->ctx, ptr, 0);
}

/* Make room for `need` items of an array that doubles. */
static int mem_grow(const datsync_env *env, void *array_at, size_t *cap, size_t need, size_t item)
{
    size_t n = *cap ? *cap : 8;
    if (need <= *cap)
        return 0;
    while (n < need)
        n *= 2;
    if (n > SIZE_MAX / item)
        return DATSYNC_E_NOMEM;
    void *p;
    memcpy(&p, array_at, sizeof p);
    p = mem_resize(env, p, n * item);
    if (!p)
        return DATSYNC_E_NOMEM;
    memcpy(array_at, &p, sizeof p);
    *cap = n;
    return 0;
}

static void env_log(const datsync_env *env, int level, const char *line)
{
    if (env->log)
        env->log(env->ctx, level, line);
}

static void put_u64(uint8_t *p, uint64_t v)
{
    for (int i = 7; i >= 0; i--) {
        p[i] = (uint8_t)v;
        v >>= 8;
    }
}

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | p[i];
    return v;
}

static int all_zero(const uint8_t *p, size_t len)
{
    return len == 0 || sodium_is_zero(p, len);
}

static int utf8_valid(const uint8_t *s, size_t len)
{
    size_t i = 0;
    while (i < len) {
        uint8_t c = s[i];
        size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
        if (n == 0 || n > len - i)
            return 0;
        for (size_t k = 1; k < n; k++)
            if ((s[i + k] & 0xc0) != 0x80)
                return 0;
        if ((c == 0xe0 && s[i + 1] < 0xa0) || (c == 0xed && s[i + 1] > 0x9f) || (c == 0xf0 && s[i + 1] < 0x90) ||
            (c == 0xf4 && s[i + 1] > 0x8f))
            return 0;
        i += n;
    }
    return 1;
}

int datsync_varint_decode(const uint8_t *buf, size_t len, uint64_t *value)
{
    uint64_t v = 0;
    size_t i;
    for (i = 0; i < len && i < 10; i++) {
        if (i == 9 && buf[i] > 1)
            return DATSYNC_E_MESSAGE; /* more than 64 bits */
        v |= (uint64_t)(buf[i] & 127) << (7 * i);
        if (buf[i] < 128) {
            *value = v;
            return (int)i + 1;
        }
    }
    return i < 10 ? DATSYNC_E_MORE : DATSYNC_E_MESSAGE;
}

int datsync_varint_encode(uint8_t *out, uint64_t value)
{
    int n = 0;
    while (value > 127) {
        out[n++] = (uint8_t)(value | 128);
        value >>= 7;
    }
    out[n++] = (uint8_t)value;
    return n;
}

static size_t varint_size(uint64_t value)
{
    size_t n = 1;
    while (value > 127) {
        value >>= 7;
        n++;
    }
    return n;
}

/* base + n. An empty buffer has no memory, and nothing may be added to NULL, not even 0. */
static uint8_t *bytes_at(uint8_t *base, size_t n)
{
    return base ? base + n : NULL;
}

/* ================================================================ messages ====================================== */

/* Bytes to messages and back (PROTOCOL 1 and 2), without allocation. One table of fields for each type of message
 * drives the decoder and the encoder, so that both know the same fields, in the order in which they are written. What
 * is decoded points into the frame. */

enum field_kind { F_UINT, F_BOOL, F_BYTES, F_NAMES, F_NODES };

typedef struct field {
    uint8_t number, kind, required;
    size_t at;
} field;

/* clang-format off */
#define FIELD(number, kind, required, member) {number, kind, required, offsetof(datsync_message, u.member)}
/* clang-format on */

static const field fields_feed[] = {FIELD(1, F_BYTES, 1, feed.discovery_key), FIELD(2, F_BYTES, 0, feed.nonce)};
static const field fields_handshake[] = {
    FIELD(1, F_BYTES, 0, handshake.id),        FIELD(2, F_BOOL, 0, handshake.live),
    FIELD(3, F_BYTES, 0, handshake.user_data), FIELD(4, F_NAMES, 0, handshake.extensions),
    FIELD(5, F_BOOL, 0, handshake.ack),
};
static const field fields_info[] = {FIELD(1, F_BOOL, 0, info.uploading), FIELD(2, F_BOOL, 0, info.downloading)};
static const field fields_have[] = {
    FIELD(1, F_UINT, 1, have.start),
    FIELD(2, F_UINT, 0, have.length),
    FIELD(3, F_BYTES, 0, have.bitfield),
    FIELD(4, F_BOOL, 0, have.ack),
};
static const field fields_request[] = {
    FIELD(1, F_UINT, 1, request.index),
    FIELD(2, F_UINT, 0, request.bytes),
    FIELD(3, F_BOOL, 0, request.hash),
    FIELD(4, F_UINT, 0, request.nodes),
};
static const field fields_data[] = {
    FIELD(1, F_UINT, 1, data.index),
    FIELD(2, F_BYTES, 0, data.value),
    FIELD(3, F_NODES, 0, data.nodes),
    FIELD(4, F_BYTES, 0, data.signature),
};

typedef struct raw_node {
    uint64_t index, size;
    datsync_bytes hash;
} raw_node;

static const field fields_node[] = {
    {1, F_UINT, 1, offsetof(raw_node, index)},
    {2, F_BYTES, 1, offsetof(raw_node, hash)},
    {3, F_UINT, 1, offsetof(raw_node, size)},
};

static const struct shape {
    const field *fields;
    size_t count;
} shapes[] = {
    {fields_feed, 2}, {fields_handshake, 5}, {fields_info, 2},    {fields_have, 4},    {fields_have, 2},
    {fields_have, 2}, {fields_have, 2},      {fields_request, 4}, {fields_request, 3}, {fields_data, 4},
};

/* One protobuf item at buf[*at]: its field number, and its number or its bytes. */
typedef struct item {
    uint64_t number, wire, value;
    datsync_bytes bytes;
} item;

static int item_next(const uint8_t *buf, size_t len, size_t *at, item *out)
{
    uint64_t tag = 0, n = 0;
    int k = datsync_varint_decode(buf + *at, len - *at, &tag);
    if (k < 0 || tag >> 3 == 0 || tag >> 32)
        return DATSYNC_E_MESSAGE;
    *at += (size_t)k;
    out->number = tag >> 3;
    out->wire = tag & 7;
    if (out->wire == 0) {
        k = datsync_varint_decode(buf + *at, len - *at, &out->value);
        if (k < 0)
            return DATSYNC_E_MESSAGE;
        *at += (size_t)k;
        return 0;
    }
    if (out->wire == 2) {
        k = datsync_varint_decode(buf + *at, len - *at, &n);
        if (k < 0)
            return DATSYNC_E_MESSAGE;
        *at += (size_t)k;
    } else if (out->wire == 1) {
        n = 8;
    } else if (out->wire == 5) {
        n = 4;
    } else {
        return DATSYNC_E_MESSAGE;
    }
    if (n > len - *at)
        return DATSYNC_E_MESSAGE;
    out->bytes.data = buf + *at;
    out->bytes.len = (size_t)n;
    *at += (size_t)n;
    return 0;
}

static const field *field_find(const field *fields, size_t count, uint64_t number)
{
    for (size_t i = 0; i < count; i++)
        if (fields[i].number == number)
            return &fields[i];
    return NULL;
}

static int node_decode(datsync_bytes b, datsync_node *out);

/* Decode a protobuf body into the struct at `base`. Unknown fields are passed over; a known one of the wrong wire type
 * is an error; of a repeated singular field the last counts. */
static int fields_decode(const field *fields, size_t count, datsync_bytes body, void *base, uint32_t *has)
{
    size_t at = 0;
    item it;
    datsync_node node;
    *has = 0;
    while (at < body.len) {
        if (item_next(body.data, body.len, &at, &it) < 0)
            return DATSYNC_E_MESSAGE;
        const field *f = field_find(fields, count, it.number);
        if (!f)
            continue;
        if (it.wire != (f->kind <= F_BOOL ? 0u : 2u))
            return DATSYNC_E_MESSAGE;
        char *to = (char *)base + f->at;
        if (f->kind == F_BOOL)
            it.value = it.value != 0;
        if (f->kind <= F_BOOL)
            memcpy(to, &it.value, sizeof it.value);
        else if (f->kind == F_BYTES)
            memcpy(to, &it.bytes, sizeof it.bytes);
        else if (f->kind == F_NODES && node_decode(it.bytes, &node) < 0)
            return DATSYNC_E_MESSAGE;
        *has |= 1u << f->number;
    }
    for (size_t i = 0; i < count; i++)
        if (fields[i].required && !(*has >> fields[i].number & 1))
            return DATSYNC_E_MESSAGE;
    return 0;
}

static int node_decode(datsync_bytes b, datsync_node *out)
{
    raw_node raw;
    memset(&raw, 0, sizeof raw);
    uint32_t has;
    if (fields_decode(fields_node, 3, b, &raw, &has) < 0 || raw.hash.len != 32)
        return DATSYNC_E_MESSAGE;
    out->index = raw.index;
    out->size = raw.size;
    memcpy(out->hash, raw.hash.data, 32);
    return 0;
}

int64_t datsync_frame_size(const uint8_t *buf, size_t len)
{
    uint64_t n = 0;
    int k = datsync_varint_decode(buf, MIN(len, 4), &n);
    if (k < 0)
        return len < 4 ? DATSYNC_E_MORE : DATSYNC_E_FRAME;
    return n > DATSYNC_MAX_FRAME ? DATSYNC_E_FRAME : (int64_t)n + k;
}

static int message_decode(datsync_message *m, const uint8_t *buf, size_t len)
{
    uint64_t header = 0;
    int k = datsync_varint_decode(buf, len, &header);
    if (k < 0 || header >> 32)
        return DATSYNC_E_MESSAGE;
    m->type = (int)(header & 15);
    m->channel = (unsigned)(header >> 4);
    if (len < 2) /* a header alone: the deployed implementation passes over it, whatever its type */
        return DATSYNC_E_MESSAGE;
    m->body.data = buf + k;
    m->body.len = len - (size_t)k;
    if (m->type == DATSYNC_EXTENSION) {
        int n = datsync_varint_decode(m->body.data, m->body.len, &m->u.extension.id);
        if (n < 0)
            return DATSYNC_E_MESSAGE;
        m->u.extension.payload.data = m->body.data + n;
        m->u.extension.payload.len = m->body.len - (size_t)n;
        return 0;
    }
    if (m->type > DATSYNC_DATA)
        return DATSYNC_E_MESSAGE;
    if (m->type == DATSYNC_HAVE || m->type == DATSYNC_UNHAVE)
        m->u.have.length = 1; /* the schema's default */
    return fields_decode(shapes[m->type].fields, shapes[m->type].count, m->body, m, &m->has);
}

int64_t datsync_decode(datsync_message *out, const uint8_t *buf, size_t len, size_t *skip)
{
    int64_t size = datsync_frame_size(buf, len);
    uint64_t body = 0;
    memset(out, 0, sizeof *out);
    out->type = -1;
    if (size < 0)
        return size;
    if ((uint64_t)size > len)
        return DATSYNC_E_MORE;
    int k = datsync_varint_decode(buf, len, &body);
    if (body == 0) {
        out->type = DATSYNC_KEEP_ALIVE;
        return size;
    }
    if (skip)
        *skip = (size_t)size;
    int r = message_decode(out, buf + k, (size_t)body);
    return r < 0 ? r : size;
}

int datsync_next_extension(const datsync_message *m, size_t *at, datsync_bytes *name)
{
    item it;
    while (*at < m->body.len) {
        if (item_next(m->body.data, m->body.len, at, &it) < 0)
            return DATSYNC_E_MESSAGE;
        if (it.number == 4 && it.wire == 2) {
            *name = it.bytes;
            return 1;
        }
    }
    return 0;
}

int datsync_next_node(const datsync_message *m, size_t *at, datsync_node *node)
{
    item it;
    while (*at < m->body.len) {
        if (item_next(m->body.data, m->body.len, at, &it) < 0)
            return DATSYNC_E_MESSAGE;
        if (it.number == 3 && it.wire == 2)
            return node_decode(it.bytes, node) < 0 ? DATSYNC_E_MESSAGE : 1;
    }
    return 0;
}

static size_t node_body_size(const datsync_node *n)
{
    return 1 + varint_size(n->index) + 2 + 32 + 1 + varint_size(n->size);
}

/* The size of one field, or 0 if it is not written. */
static size_t field_size(const field *f, const datsync_message *m)
{
    const char *from = (const char *)m + f->at;
    size_t n = 0;
    if (f->kind == F_NODES) {
        for (size_t i = 0; i < m->u.data.node_count; i++) {
            size_t k = node_body_size(&m->u.data.nodes[i]);
            n += 1 + varint_size(k) + k;
        }
        return n;
    }
    if (f->kind == F_NAMES) {
        for (size_t i = 0; i < m->u.handshake.extension_count; i++)
            n += 1 + varint_size(m->u.handshake.extensions[i].len) + m->u.handshake.extensions[i].len;
        return n;
    }
    if (!(m->has >> f->number & 1))
        return 0;
    datsync_bytes b;
    if (f->kind == F_BYTES) {
        memcpy(&b, from, sizeof b);
        return 1 + varint_size(b.len) + b.len;
    }
    uint64_t v;
    memcpy(&v, from, sizeof v);
    return 1 + varint_size(f->kind == F_BOOL ? v != 0 : v);
}

/* The byte before a field: its number, and its wire type. */
#define UINT_KEY(number) ((uint8_t)((number) << 3))
#define BYTES_KEY(number) ((uint8_t)((number) << 3 | 2))

static uint8_t *bytes_encode(uint8_t *p, uint8_t key, datsync_bytes b)
{
    *p++ = key;
    p += datsync_varint_encode(p, b.len);
    if (b.data && b.len)
        memcpy(p, b.data, b.len);
    return p + b.len;
}

static uint8_t *node_encode(uint8_t *p, const datsync_node *n)
{
    *p++ = BYTES_KEY(3);
    p += datsync_varint_encode(p, node_body_size(n));
    *p++ = UINT_KEY(1);
    p += datsync_varint_encode(p, n->index);
    *p++ = BYTES_KEY(2);
    *p++ = 32;
    memcpy(p, n->hash, 32);
    p += 32;
    *p++ = UINT_KEY(3);
    return p + datsync_varint_encode(p, n->size);
}

static uint8_t *field_encode(uint8_t *p, const field *f, const datsync_message *m)
{
    const char *from = (const char *)m + f->at;
    uint8_t key = (uint8_t)(f->kind <= F_BOOL ? UINT_KEY(f->number) : BYTES_KEY(f->number));
    datsync_bytes b;
    uint64_t v;
    if (f->kind == F_NODES) {
        for (size_t i = 0; i < m->u.data.node_count; i++)
            p = node_encode(p, &m->u.data.nodes[i]);
    } else if (f->kind == F_NAMES) {
        for (size_t i = 0; i < m->u.handshake.extension_count; i++)
            p = bytes_encode(p, key, m->u.handshake.extensions[i]);
    } else if (!(m->has >> f->number & 1)) {
        return p;
    } else if (f->kind == F_BYTES) {
        memcpy(&b, from, sizeof b);
        p = bytes_encode(p, key, b);
    } else {
        memcpy(&v, from, sizeof v);
        *p++ = key;
        p += datsync_varint_encode(p, f->kind == F_BOOL ? v != 0 : v);
    }
    return p;
}

int64_t datsync_encode(const datsync_message *m, uint8_t *buf, size_t cap, size_t *gap)
{
    const struct shape *s = NULL;
    size_t body = 0;
    uint8_t *p = buf;
    if (m->type == DATSYNC_KEEP_ALIVE) {
        if (buf && cap < 1)
            return DATSYNC_E_SPACE;
        if (buf)
            *buf = 0;
        return 1;
    }
    if (m->type < 0 || (m->type > DATSYNC_DATA && m->type != DATSYNC_EXTENSION) || m->channel >> 28)
        return DATSYNC_E_INVALID;
    uint64_t header = (uint64_t)m->channel << 4 | (uint64_t)m->type;
    if (m->type == DATSYNC_EXTENSION) {
        body = varint_size(m->u.extension.id) + m->u.extension.payload.len;
    } else {
        s = &shapes[m->type];
        for (size_t i = 0; i < s->count; i++) {
            if (s->fields[i].required && !(m->has >> s->fields[i].number & 1))
                return DATSYNC_E_INVALID;
            body += field_size(&s->fields[i], m);
        }
        if (!body) /* a header alone is passed over, whatever its type */
            return DATSYNC_E_INVALID;
    }
    size_t total = varint_size(header) + body;
    if (body > DATSYNC_MAX_FRAME || total > DATSYNC_MAX_FRAME)
        return DATSYNC_E_TOO_BIG;
    if (!buf)
        return (int64_t)(varint_size(total) + total);
    if (cap < varint_size(total) + total)
        return DATSYNC_E_SPACE;
    p += datsync_varint_encode(p, total);
    p += datsync_varint_encode(p, header);
    if (!s) {
        p += datsync_varint_encode(p, m->u.extension.id);
        if (m->u.extension.payload.len)
            memcpy(p, m->u.extension.payload.data, m->u.extension.payload.len);
        return p - buf + (int64_t)m->u.extension.payload.len;
    }
    for (size_t i = 0; i < s->count; i++) {
        p = field_encode(p, &s->fields[i], m);
        if (gap && s->fields == fields_data && s->fields[i].number == 2)
            *gap = (size_t)(p - buf) - m->u.data.value.len;
    }
    return p - buf;
}

/* ================================================================ flat tree ===================================== */

/* The hash tree's nodes have numbers in order: block i is node 2 i, and a parent's number lies between those of its
 * children (PROTOCOL 9). So who is whose parent, sibling or span is arithmetic, and no node needs a pointer. Pure
 * functions. */

unsigned datsync_flat_depth(uint64_t index)
{
    unsigned depth = 0;
    while (index & 1) {
        index >>= 1;
        depth++;
    }
    return depth;
}

static uint64_t flat_index(unsigned depth, uint64_t offset)
{
    return (offset << 1 << depth) | (((uint64_t)1 << depth) - 1);
}

static uint64_t flat_offset(uint64_t index, unsigned depth)
{
    return index >> depth >> 1;
}

uint64_t datsync_flat_parent(uint64_t index)
{
    unsigned d = datsync_flat_depth(index);
    return flat_index(d + 1, flat_offset(index, d) >> 1);
}

uint64_t datsync_flat_sibling(uint64_t index)
{
    unsigned d = datsync_flat_depth(index);
    return flat_index(d, flat_offset(index, d) ^ 1);
}

uint64_t datsync_flat_left_span(uint64_t index)
{
    return index - (((uint64_t)1 << datsync_flat_depth(index)) - 1);
}

uint64_t datsync_flat_right_span(uint64_t index)
{
    return index + (((uint64_t)1 << datsync_flat_depth(index)) - 1);
}

static uint64_t flat_left_child(uint64_t index) /* of a parent */
{
    return index - ((uint64_t)1 << (datsync_flat_depth(index) - 1));
}

size_t datsync_flat_full_roots(uint64_t out[64], uint64_t blocks)
{
    size_t n = 0;
    uint64_t at = 0; /* blocks to the left */
    for (int d = 62; d >= 0; d--)
        if (blocks >> d & 1) {
            out[n++] = 2 * at + (((uint64_t)1 << d) - 1);
            at += (uint64_t)1 << d;
        }
    return n;
}

/* ================================================================ crypto ======================================== */

/* The stream cipher, keys, links, and the hashes of leaves, parents and roots (PROTOCOL 3 and 9), all of them by
 * libsodium. The cipher is XSalsa20, which can begin at any byte of its stream: between two frames it goes on in the
 * middle of a 64-byte block, as the deployed one does. */

void datsync_cipher_init(datsync_cipher *c, const uint8_t key[32], const uint8_t nonce[24])
{
    (void)crypto_core_hsalsa20(c->subkey, nonce, key, NULL);
    memcpy(c->nonce, nonce + 16, 8);
    c->at = 0;
}

void datsync_cipher_xor(datsync_cipher *c, uint8_t *buf, size_t len)
{
    size_t n, skip = (size_t)(c->at & 63);
    if (skip) { /* finish the block that an earlier call began */
        uint8_t block[64];
        memset(block, 0, sizeof block);
        n = MIN(64 - skip, len);
        (void)crypto_stream_salsa20_xor_ic(block, block, 64, c->nonce, c->at >> 6, c->subkey);
        for (size_t i = 0; i < n; i++)
            buf[i] ^= block[skip + i];
        buf += n;
        len -= n;
        c->at += n;
    }
    if (len)
        (void)crypto_stream_salsa20_xor_ic(buf, buf, len, c->nonce, c->at >> 6, c->subkey);
    c->at += len;
}

void datsync_discovery_key(uint8_t out[32], const uint8_t key[32])
{
    (void)crypto_generichash(out, 32, (const uint8_t *)"hypercore", 9, key, 32);
}

/* ------------------------------------------------ links, as people have them */

static int link_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static int link_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* What follows this word (in lower case) at p, in whatever case it stands there; NULL if something else does. */
static const char *link_after(const char *p, const char *end, const char *word)
{
    for (; *word; word++, p++)
        if (p == end || (*p >= 'A' && *p <= 'Z' ? *p - 'A' + 'a' : *p) != *word)
            return NULL;
    return p;
}

static const char *link_until(const char *p, const char *end, const char *marks)
{
    while (p < end && !strchr(marks, *p))
        p++;
    return p;
}

/* What stands in a key's place and is none: something that would have to be looked up, or a key that is not whole? */
static int link_is_name(const char *p, const char *end, int web)
{
    const char *begin = p;
    int other = 0, hex = 1;
    for (end = link_until(p, end, "/?#"); p < end; p++) {
        other |= *p == '.' && p > begin;
        hex &= link_digit(*p) >= 0;
    }
    return other || (web && !hex);
}

/* The digits behind a +: the place behind them, NULL if they are no version. */
static const char *link_version(const char *p, const char *end, uint64_t *version)
{
    end = link_until(p, end, "/?#");
    for (*version = 0; p < end && *version <= DATSYNC_MAX_BLOCKS; p++) {
        if (*p < '0' || *p > '9')
            return NULL;
        *version = 10 * *version + (uint64_t)(*p - '0');
    }
    return *version && *version <= DATSYNC_MAX_BLOCKS ? end : NULL;
}

/* One slash before each name, none behind; what stays where it is (an empty name, `.`) goes, what leads up is no
 * path. */
static int link_tidy(char *path)
{
    const char *p = path;
    char *to = path;
    while (*p) {
        const char *stop = strchr(++p, '/');
        size_t n = stop ? (size_t)(stop - p) : strlen(p);
        if (n == 2 && memcmp(p, "..", 2) == 0)
            return DATSYNC_E_PATH;
        if (n && !(n == 1 && *p == '.')) {
            *to++ = '/';
            memmove(to, p, n);
            to += n;
        }
        p += n;
    }
    *to = 0;
    return 0;
}

static int link_path(const char *p, const char *end, char *path, size_t cap)
{
    size_t n = 0;
    for (; p < end; p++) {
        int c = (uint8_t)*p;
        if (n + 1 >= cap)
            return DATSYNC_E_TOO_BIG;
        if (c == '%') {
            if (end - p < 3 || link_digit(p[1]) < 0 || link_digit(p[2]) < 0)
                return DATSYNC_E_PATH;
            c = link_digit(p[1]) << 4 | link_digit(p[2]);
            p += 2;
        }
        if (c == 0)
            return DATSYNC_E_PATH;
        path[n++] = (char)c;
    }
    path[n] = 0;
    return utf8_valid((const uint8_t *)path, n) ? link_tidy(path) : DATSYNC_E_PATH;
}

/* Where the key's digits should be. Of an address in the web the host comes first, whatever digits it has. */
static const char *link_place(const char *p, const char *end, int *web)
{
    const char *next = link_after(p, end, "https://");
    next = next ? next : link_after(p, end, "http://");
    if ((*web = next != NULL) != 0) {
        p = link_until(next, end, "/?#");
        p += p < end && *p == '/';
    }
    if ((next = link_after(p, end, "dat:")) != NULL)
        p = next[0] == '/' && next[1] == '/' ? next + 2 : next;
    return p;
}

int datsync_link_parse(const char *link, uint8_t key[32], uint64_t *version, char *path, size_t cap)
{
    const char *p = link, *end = link + strlen(link);
    uint64_t number = 0;
    while (link_blank(*p))
        p++;
    while (end > p && link_blank(end[-1]))
        end--;
    int web;
    p = link_place(p, end, &web);
    int i;
    for (i = 0; i < 64 && p + i < end && link_digit(p[i]) >= 0; i++)
        key[i / 2] = (uint8_t)(i & 1 ? key[i / 2] | link_digit(p[i]) : link_digit(p[i]) << 4);
    if (i < 64 || (p + 64 < end && !strchr("+/?#", p[64])))
        return link_is_name(p, end, web) ? DATSYNC_E_UNSUPPORTED : DATSYNC_E_KEY;
    p += 64;
    if (p < end && *p == '+' && (p = link_version(p + 1, end, &number)) == NULL)
        return DATSYNC_E_INVALID;
    if (version)
        *version = number;
    end = link_until(p, end, "?#"); /* a query and a fragment were for the page's own scripts */
    int r;
    if (path) {
        r = link_path(p, end, path, cap);
    } else {
        for (r = 0; p < end && *p == '/'; p++)
            ;
        r = p < end ? DATSYNC_E_INVALID : 0;
    }
    return r < 0 ? r : number && !version ? DATSYNC_E_INVALID : 0;
}

int datsync_parse_link(uint8_t key[32], const char *link)
{
    return datsync_link_parse(link, key, NULL, NULL, 0) < 0 ? DATSYNC_E_KEY : 0;
}

static void leaf_hash(uint8_t out[32], datsync_bytes block)
{
    uint8_t small[1 + 8 + 503]; /* one call instead of three for what fits in four BLAKE2b blocks */
    small[0] = 0;
    put_u64(small + 1, block.len);
    if (block.len <= sizeof small - 9) {
        if (block.len)
            memcpy(small + 9, block.data, block.len);
        (void)crypto_generichash(out, 32, small, 9 + block.len, NULL, 0);
    } else {
        crypto_generichash_state st;
        (void)crypto_generichash_init(&st, NULL, 0, 32);
        (void)crypto_generichash_update(&st, small, 9);
        (void)crypto_generichash_update(&st, block.data, block.len);
        (void)crypto_generichash_final(&st, out, 32);
    }
}

/* The one place where leaves are hashed: several at once, so that lanes of a vector unit can share the work later. */
void datsync_leaf_hashes(datsync_node *out, const datsync_bytes *blocks, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        leaf_hash(out[i].hash, blocks[i]);
        out[i].size = blocks[i].len;
    }
}

void datsync_parent_hash(datsync_node *out, const datsync_node *left, const datsync_node *right)
{
    uint8_t buf[1 + 8 + 64];
    uint64_t index = datsync_flat_parent(left->index), size = left->size + right->size;
    buf[0] = 1;
    put_u64(buf + 1, size);
    memcpy(buf + 9, left->hash, 32);
    memcpy(buf + 41, right->hash, 32);
    (void)crypto_generichash(out->hash, 32, buf, sizeof buf, NULL, 0);
    out->index = index;
    out->size = size;
}

void datsync_root_hash(uint8_t out[32], const datsync_node *roots, size_t count)
{
    uint8_t buf[48];
    buf[0] = 2;
    crypto_generichash_state st;
    (void)crypto_generichash_init(&st, NULL, 0, 32);
    (void)crypto_generichash_update(&st, buf, 1);
    for (size_t i = 0; i < count; i++) {
        memcpy(buf, roots[i].hash, 32);
        put_u64(buf + 32, roots[i].index);
        put_u64(buf + 40, roots[i].size);
        (void)crypto_generichash_update(&st, buf, 48);
    }
    (void)crypto_generichash_final(&st, out, 32);
}

/* ================================================================ bitfield and run-length code ================== */

/* A sparse set of bits, most significant bit first in a byte as SLEEP has them. Pages of 8192 bits in tables of 1024
 * pages; an all-zero or all-one page or table takes no memory. And the run-length code in which a Have carries a
 * bitfield (PROTOCOL 10.7). */
#define PAGE_BITS 8192u
#define PAGE_BYTES 1024u
#define TABLE_PAGES 1024u
#define TABLE_BITS ((uint64_t)PAGE_BITS * TABLE_PAGES)
#define TABLE_KIB (sizeof(bittable) / 1024)

typedef struct bitpage {
    uint8_t *bytes; /* NULL: all bits equal, ones if count says so */
    unsigned count; /* ones */
} bitpage;

typedef struct bittable {
    uint64_t count;
    bitpage pages[TABLE_PAGES];
} bittable;

typedef struct bits {
    bittable **tables; /* NULL: zeros; &table_of_ones: ones */
    size_t table_count, table_cap;
    size_t owned; /* KiB: pages with bytes, and tables */
} bits;

static bittable *table_of_ones(void)
{
    static const uint64_t mark = TABLE_BITS; /* only its address matters */
    return (bittable *)(uintptr_t)&mark;
}

static void bits_free(const datsync_env *env, bits *b)
{
    for (size_t t = 0; t < b->table_count; t++) {
        bittable *table = b->tables[t];
        if (!table || table == table_of_ones())
            continue;
        for (size_t p = 0; p < TABLE_PAGES; p++)
            mem_free(env, table->pages[p].bytes);
        mem_free(env, table);
    }
    mem_free(env, b->tables);
    memset(b, 0, sizeof *b);
}

/* The page that holds bit i, as a value; `bytes` may be NULL. */
static bitpage bits_page(const bits *b, uint64_t i)
{
    bitpage page = {NULL, 0};
    uint64_t t = i / TABLE_BITS;
    if (t >= b->table_count || !b->tables[t])
        return page;
    if (b->tables[t] == table_of_ones())
        page.count = PAGE_BITS;
    else
        page = b->tables[t]->pages[i / PAGE_BITS % TABLE_PAGES];
    return page;
}

static unsigned page_byte(bitpage page, size_t at)
{
    return page.bytes ? page.bytes[at] : page.count ? 255u : 0u;
}

static int bits_get(const bits *b, uint64_t i)
{
    return (int)(page_byte(bits_page(b, i), (size_t)(i % PAGE_BITS / 8)) >> (7 - (i & 7)) & 1);
}

static int bits_reserve(const datsync_env *env, bits *b, size_t tables)
{
    if (tables <= b->table_count)
        return 0;
    if (mem_grow(env, &b->tables, &b->table_cap, tables, sizeof *b->tables) < 0)
        return DATSYNC_E_NOMEM;
    memset(b->tables + b->table_count, 0, (tables - b->table_count) * sizeof *b->tables);
    b->table_count = tables;
    return 0;
}

/* The page as one that can be written, with bytes; NULL when out of memory. */
static bitpage *bits_page_own(const datsync_env *env, bits *b, uint64_t i, bittable **table_out, int need_bytes)
{
    size_t t = (size_t)(i / TABLE_BITS);
    if (bits_reserve(env, b, t + 1) < 0)
        return NULL;
    bittable *table = b->tables[t];
    if (!table || table == table_of_ones()) {
        bittable *fresh = mem_zeroed(env, sizeof *fresh);
        if (!fresh)
            return NULL;
        if (table) {
            fresh->count = TABLE_BITS;
            for (size_t p = 0; p < TABLE_PAGES; p++)
                fresh->pages[p].count = PAGE_BITS;
        }
        b->tables[t] = table = fresh;
        b->owned += TABLE_KIB;
    }
    bitpage *page = &table->pages[i / PAGE_BITS % TABLE_PAGES];
    if (need_bytes && !page->bytes) {
        page->bytes = mem_resize(env, NULL, PAGE_BYTES);
        if (!page->bytes)
            return NULL;
        memset(page->bytes, page->count ? 255 : 0, PAGE_BYTES);
        b->owned++;
    }
    *table_out = table;
    return page;
}

/* A page or table whose bits have become equal gives its memory back. */
static void bits_collapse(const datsync_env *env, bits *b, uint64_t i, bittable *table, bitpage *page)
{
    if (page->count != 0 && page->count != PAGE_BITS)
        return;
    if (page->bytes) {
        mem_free(env, page->bytes);
        page->bytes = NULL;
        b->owned--;
    }
    if (table->count == 0 || table->count == TABLE_BITS) {
        b->tables[i / TABLE_BITS] = table->count ? table_of_ones() : NULL;
        b->owned -= TABLE_KIB;
        mem_free(env, table);
    }
}

/* Returns 1 if the bit changed, 0 if not, DATSYNC_E_NOMEM. */
static int bits_set(const datsync_env *env, bits *b, uint64_t i, int value)
{
    uint8_t mask = (uint8_t)(128 >> (i & 7));
    if (bits_get(b, i) == value)
        return 0;
    bittable *table;
    bitpage *page = bits_page_own(env, b, i, &table, 1);
    if (!page)
        return DATSYNC_E_NOMEM;
    page->bytes[i % PAGE_BITS / 8] ^= mask;
    page->count = value ? page->count + 1 : page->count - 1;
    table->count = value ? table->count + 1 : table->count - 1;
    bits_collapse(env, b, i, table, page);
    return 1;
}

/* bits_set for those who need not know whether it was so before: 0 or DATSYNC_E_NOMEM. */
static OPTIONAL int bits_put(const datsync_env *env, bits *b, uint64_t i, int value)
{
    int r = bits_set(env, b, i, value);
    return r < 0 ? r : 0;
}

/* In the byte that holds bit i, replace the bits of `mask`. */
static int bits_write(const datsync_env *env, bits *b, uint64_t i, unsigned mask, unsigned byte)
{
    unsigned old = page_byte(bits_page(b, i), (size_t)(i % PAGE_BITS / 8)), changed = (old ^ byte) & mask;
    if (!changed)
        return 0;
    bittable *table;
    bitpage *page = bits_page_own(env, b, i, &table, 1);
    if (!page)
        return DATSYNC_E_NOMEM;
    for (unsigned bit = 1; bit < 256; bit *= 2) {
        unsigned up = (changed & bit & byte) != 0, down = (changed & bit & old) != 0;
        page->count += up - down;
        table->count += up;
        table->count -= down;
    }
    page->bytes[i % PAGE_BITS / 8] = (uint8_t)(old ^ changed);
    bits_collapse(env, b, i, table, page);
    return 0;
}

static void bits_fill_table(const datsync_env *env, bits *b, size_t t, int value)
{
    bittable *table = b->tables[t];
    if (table && table != table_of_ones()) {
        for (size_t p = 0; p < TABLE_PAGES; p++)
            if (table->pages[p].bytes) {
                mem_free(env, table->pages[p].bytes);
                b->owned--;
            }
        b->owned -= TABLE_KIB;
        mem_free(env, table);
    }
    b->tables[t] = value ? table_of_ones() : NULL;
}

/* Set all of [start, end). Costs little time and memory however large the range is. */
static int bits_fill(const datsync_env *env, bits *b, uint64_t start, uint64_t end, int value)
{
    if (!value)
        end = MIN(end, (uint64_t)b->table_count * TABLE_BITS);
    if (start >= end)
        return 0;
    if (bits_reserve(env, b, (size_t)((end - 1) / TABLE_BITS) + 1) < 0)
        return DATSYNC_E_NOMEM;
    while (start < end) {
        bittable *table;
        if (start % TABLE_BITS == 0 && end - start >= TABLE_BITS) {
            bits_fill_table(env, b, (size_t)(start / TABLE_BITS), value);
            start += TABLE_BITS;
        } else if (start % PAGE_BITS == 0 && end - start >= PAGE_BITS) {
            bitpage *page = bits_page_own(env, b, start, &table, 0);
            if (!page)
                return DATSYNC_E_NOMEM;
            table->count = table->count - page->count + (value ? PAGE_BITS : 0);
            page->count = value ? PAGE_BITS : 0;
            bits_collapse(env, b, start, table, page);
            start += PAGE_BITS;
        } else { /* the rest of this byte */
            uint64_t stop = MIN(end, (start | 7) + 1);
            unsigned mask = (255u >> (start & 7)) & ~(255u >> (stop - (start & ~(uint64_t)7)));
            if (bits_write(env, b, start, mask, value ? 255 : 0) < 0)
                return DATSYNC_E_NOMEM;
            start = stop;
        }
    }
    return 0;
}

/* Replace a whole page by its bytes. */
static int bits_load_page(const datsync_env *env, bits *b, uint64_t start, const uint8_t bytes[PAGE_BYTES])
{
    unsigned count = 0;
    for (size_t i = 0; i < PAGE_BYTES; i++) {
        unsigned v = bytes[i];
        for (; v; v &= v - 1)
            count++;
    }
    if (count == 0 || count == PAGE_BITS)
        return bits_fill(env, b, start, start + PAGE_BITS, count != 0);
    bittable *table;
    bitpage *page = bits_page_own(env, b, start, &table, 1);
    if (!page)
        return DATSYNC_E_NOMEM;
    memcpy(page->bytes, bytes, PAGE_BYTES);
    table->count = table->count - page->count + count;
    page->count = count;
    return 0;
}

/* The first index in [from, end) whose bit is `value`; `end` if there is none. */
static uint64_t bits_next(const bits *b, uint64_t from, uint64_t end, int value)
{
    while (from < end) {
        uint64_t t = from / TABLE_BITS;
        if (t >= b->table_count)
            return value ? end : from;
        if (!b->tables[t] || b->tables[t] == table_of_ones()) {
            if ((b->tables[t] != NULL) == value)
                return from;
            from = (t + 1) * TABLE_BITS;
            continue;
        }
        bitpage page = bits_page(b, from);
        if (!page.bytes) {
            if ((page.count != 0) == value)
                return from;
            from = (from / PAGE_BITS + 1) * PAGE_BITS;
            continue;
        }
        for (size_t at = (size_t)(from % PAGE_BITS / 8); at < PAGE_BYTES; at++) {
            unsigned byte = value ? page.bytes[at] : page.bytes[at] ^ 255u;
            byte &= 255u >> (from & 7);
            if (byte) {
                while (!(byte & (128u >> (from & 7))))
                    from++;
                return MIN(from, end);
            }
            from = (from | 7) + 1;
        }
    }
    return end;
}

/* Ones in [start, end). */
static uint64_t bits_count(const bits *b, uint64_t start, uint64_t end)
{
    uint64_t n = 0;
    while (start < end) {
        uint64_t t = start / TABLE_BITS;
        if (t >= b->table_count)
            break;
        if (start % TABLE_BITS == 0 && end - start >= TABLE_BITS) {
            n += !b->tables[t] ? 0 : b->tables[t] == table_of_ones() ? TABLE_BITS : b->tables[t]->count;
            start += TABLE_BITS;
            continue;
        }
        bitpage page = bits_page(b, start);
        if (start % PAGE_BITS == 0 && end - start >= PAGE_BITS) {
            n += page.count;
            start += PAGE_BITS;
            continue;
        }
        n += page_byte(page, (size_t)(start % PAGE_BITS / 8)) >> (7 - (start & 7)) & 1;
        start++;
    }
    return n;
}

/* Copy whole bytes: bits [start, start + 8 * len), start a multiple of 8. */
static void bits_read(const bits *b, uint64_t start, uint8_t *out, size_t len)
{
    size_t i = 0;
    while (i < len) {
        bitpage page = bits_page(b, start + 8 * (uint64_t)i);
        size_t at = (size_t)((start / 8 + i) % PAGE_BYTES), n = MIN(len - i, PAGE_BYTES - at);
        if (page.bytes)
            memcpy(out + i, page.bytes + at, n);
        else
            memset(out + i, page.count ? 255 : 0, n);
        i += n;
    }
}

/* One more than the highest set bit. */
static uint64_t bits_length(const bits *b)
{
    size_t t = b->table_count;
    while (t-- > 0) {
        bittable *table = b->tables[t];
        if (!table)
            continue;
        if (table == table_of_ones())
            return (t + 1) * TABLE_BITS;
        for (size_t p = TABLE_PAGES; p-- > 0;) {
            bitpage page = table->pages[p];
            uint64_t base = t * TABLE_BITS + (uint64_t)p * PAGE_BITS;
            if (!page.count)
                continue;
            if (!page.bytes)
                return base + PAGE_BITS;
            for (size_t at = PAGE_BYTES; at-- > 0;)
                if (page.bytes[at]) {
                    unsigned low = 0;
                    while (!(page.bytes[at] >> low & 1))
                        low++;
                    return base + 8 * (uint64_t)at + 8 - low;
                }
        }
    }
    return 0;
}

/* One run of the code at buf[*at]: its bytes, and for a literal where they are. */
typedef struct rle_run {
    uint64_t len;
    const uint8_t *literal; /* NULL: a run of `fill` */
    unsigned fill;
} rle_run;

static int rle_next(const uint8_t *buf, size_t len, size_t *at, rle_run *run)
{
    uint64_t head = 0;
    int k = datsync_varint_decode(buf + *at, len - *at, &head);
    if (k < 0)
        return DATSYNC_E_RLE;
    *at += (size_t)k;
    run->literal = NULL;
    run->fill = head & 2 ? 255 : 0;
    run->len = head & 1 ? head >> 2 : head >> 1;
    if (head & 1)
        return 0;
    if (run->len > len - *at)
        return DATSYNC_E_RLE;
    run->literal = buf + *at;
    *at += (size_t)run->len;
    return 0;
}

int64_t datsync_rle_size(const uint8_t *buf, size_t len, size_t limit)
{
    uint64_t total = 0;
    size_t at = 0;
    rle_run run;
    while (at < len) {
        if (rle_next(buf, len, &at, &run) < 0 || run.len > limit - total)
            return DATSYNC_E_RLE;
        total += run.len;
    }
    return (int64_t)total;
}

int64_t datsync_rle_decode(const uint8_t *buf, size_t len, uint8_t *out, size_t cap)
{
    int64_t total = datsync_rle_size(buf, len, SIZE_MAX / 4);
    size_t at = 0;
    if (total < 0)
        return total;
    if ((uint64_t)total > cap)
        return DATSYNC_E_SPACE;
    rle_run run;
    while (at < len && rle_next(buf, len, &at, &run) == 0) {
        if (run.literal)
            memcpy(out, run.literal, (size_t)run.len);
        else
            memset(out, (int)run.fill, (size_t)run.len);
        out += run.len;
    }
    return total;
}

/* The deployed encoder takes a run only where that is shorter than going on with the literal; so do we, since vectors
 * compare bytes. */
typedef struct rle_state {
    const uint8_t *in;
    size_t from; /* of the literal not yet written */
    uint8_t *out;
} rle_state;

static void rle_literal(rle_state *s, size_t end)
{
    if (end == s->from)
        return;
    s->out += datsync_varint_encode(s->out, 2 * (uint64_t)(end - s->from));
    memcpy(s->out, s->in + s->from, end - s->from);
    s->out += end - s->from;
    s->from = end;
}

static void rle_run_maybe(rle_state *s, size_t end, size_t len, unsigned fill)
{
    uint64_t code = 4 * (uint64_t)len + (fill ? 2 : 0) + 1;
    size_t head = end - len - s->from, whole = end - s->from;
    size_t as_run = (head ? varint_size(2 * (uint64_t)head) + head : 0) + varint_size(code);
    if (as_run >= varint_size(2 * (uint64_t)whole) + whole)
        return;
    rle_literal(s, end - len);
    s->out += datsync_varint_encode(s->out, code);
    s->from = end;
}

int64_t datsync_rle_encode(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
    rle_state s = {in, 0, out};
    size_t run = 0;
    unsigned fill = 0;
    while (len > 0 && in[len - 1] == 0)
        len--;
    if (cap < len + len / 64 + 16)
        return DATSYNC_E_SPACE;
    for (size_t i = 0; i < len; i++) {
        if (in[i] == fill) {
            run++;
            continue;
        }
        if (run)
            rle_run_maybe(&s, i, run, fill);
        run = 0;
        if (in[i] == 0 || in[i] == 255) {
            fill = in[i];
            run = 1;
        }
    }
    if (run)
        rle_run_maybe(&s, len, run, fill);
    rle_literal(&s, len);
    return s.out - out;
}

/* ================================================================ storage ======================================= */

/* A store is a struct of functions over six parts (datsync.h). Here is the one in memory, and where each item lies
 * in a SLEEP file (PROTOCOL 17). */

/* The memory store: one growing array for each part. */
typedef struct memory_store {
    datsync_env env;
    struct {
        uint8_t *bytes;
        size_t len, cap;
        int exists;
    } part[DATSYNC_PARTS];
} memory_store;

static int64_t memory_read(void *ctx, int part, uint64_t offset, void *buf, size_t len)
{
    memory_store *s = ctx;
    if (offset >= s->part[part].len)
        return 0;
    size_t n;
    n = MIN(len, s->part[part].len - (size_t)offset);
    memcpy(buf, s->part[part].bytes + offset, n);
    return (int64_t)n;
}

static int memory_truncate(void *ctx, int part, uint64_t size)
{
    memory_store *s = ctx;
    if (size > SIZE_MAX / 4)
        return DATSYNC_E_NO_SPACE;
    if (mem_grow(&s->env, &s->part[part].bytes, &s->part[part].cap, (size_t)size, 1) < 0)
        return DATSYNC_E_NOMEM;
    if (size > s->part[part].len)
        memset(s->part[part].bytes + s->part[part].len, 0, (size_t)size - s->part[part].len);
    s->part[part].len = (size_t)size;
    s->part[part].exists = 1;
    return 0;
}

static int memory_write(void *ctx, int part, uint64_t offset, const void *buf, size_t len)
{
    memory_store *s = ctx;
    if (offset > SIZE_MAX / 4 - len)
        return DATSYNC_E_NO_SPACE;
    if (offset + len > s->part[part].len || !s->part[part].exists) {
        int r = memory_truncate(ctx, part, MAX(offset + len, s->part[part].len));
        if (r < 0)
            return r;
    }
    if (len)
        memcpy(s->part[part].bytes + offset, buf, len);
    return 0;
}

static int64_t memory_size(void *ctx, int part)
{
    memory_store *s = ctx;
    return s->part[part].exists ? (int64_t)s->part[part].len : DATSYNC_E_NO_ENTRY;
}

static int memory_sync(void *ctx, int part)
{
    (void)ctx;
    (void)part;
    return 0;
}

static void memory_close(void *ctx)
{
    memory_store *s = ctx;
    datsync_env env = s->env;
    sodium_memzero(s->part[DATSYNC_PART_SECRET_KEY].bytes, s->part[DATSYNC_PART_SECRET_KEY].len);
    for (int i = 0; i < DATSYNC_PARTS; i++)
        mem_free(&env, s->part[i].bytes);
    mem_free(&env, s);
}

int datsync_memory_store(const datsync_env *env, datsync_store *out)
{
    datsync_env e;
    env_init(&e, env);
    memory_store *s = mem_zeroed(&e, sizeof *s);
    memset(out, 0, sizeof *out);
    if (!s)
        return DATSYNC_E_NOMEM;
    s->env = e;
    out->ctx = s;
    out->read = memory_read;
    out->write = memory_write;
    out->size = memory_size;
    out->truncate = memory_truncate;
    out->sync = memory_sync;
    out->close = memory_close;
    return 0;
}

/* SLEEP headers (DEP-0009): magic, type, version, entry size, name. */
#define HEADER_BYTES 32u
#define NODE_BYTES 40u /* the hash, then the size */
#define SIGNATURE_BYTES 64u
#define BITFIELD_ENTRY 3584u
#define BITFIELD_ENTRY_OLD 3328u        /* to 6.22.0 */
#define BITFIELD_BITS (PAGE_BYTES * 3u) /* of an entry, before its index */

/* Where a node begins in the part of the tree, and the signature made with a block in theirs. */
static uint64_t node_at(uint64_t index)
{
    return HEADER_BYTES + NODE_BYTES * index;
}

static uint64_t signature_at(uint64_t block)
{
    return HEADER_BYTES + SIGNATURE_BYTES * block;
}

static void sleep_header(uint8_t out[HEADER_BYTES], int part)
{
    unsigned entry = part == DATSYNC_PART_BITFIELD ? BITFIELD_ENTRY
                     : part == DATSYNC_PART_TREE   ? NODE_BYTES
                                                   : SIGNATURE_BYTES;
    const char *name = part == DATSYNC_PART_BITFIELD ? "" : part == DATSYNC_PART_TREE ? "BLAKE2b" : "Ed25519";
    memset(out, 0, HEADER_BYTES);
    out[0] = 5;
    out[1] = 2;
    out[2] = 87;
    out[3] = part == DATSYNC_PART_BITFIELD ? 0 : part == DATSYNC_PART_SIGNATURES ? 1 : 2;
    out[5] = (uint8_t)(entry >> 8);
    out[6] = (uint8_t)entry;
    out[7] = (uint8_t)strlen(name);
    memcpy(out + 8, name, strlen(name));
}

/* ================================================================ feed: state =================================== */

/* What a feed knows of itself, and the few questions that other houses ask of it. No other house names its members.
 * `have` and `nodes` are what is held here and may be told; the bitfield part on disk follows at each commit. Who
 * wants to hear of changes is a watcher; who has the bytes elsewhere, as a drive has, is its keeper. */

typedef struct tree_page {
    uint64_t number;
    unsigned lo, hi; /* nodes [lo, hi) are to be written */
    uint8_t bytes[TREE_PAGE_NODES * NODE_BYTES];
} tree_page;

/* Who wants to know of changes to a feed: the peer room registers here, so that the feed need not know it. */
typedef struct watcher {
    struct watcher *next;
    int downloads; /* it asks for the feed's blocks */
    void (*added)(struct watcher *w, uint64_t start, uint64_t end);
    void (*cleared)(struct watcher *w, uint64_t start, uint64_t end);
    void (*committed)(struct watcher *w);
} watcher;

/* Who has a feed and more to say of it than the feed itself: a drive, whose content lies in files. The feed asks,
 * and need not know who answers. All NULL: it stands by itself. */
typedef struct feed_keeper {
    void *ctx;
    /* If there is a `keep`, the feed's bytes lie where anybody can change them: each block is checked against the
     * tree before it goes out, and the keeper commits what it keeps. It is called with a block that came, was
     * verified and is not empty: 1 if it is kept, 0 if it has no place any more, and is not held. The store's `sync`
     * of the data part syncs what was kept. */
    int (*keep)(void *ctx, uint64_t index, uint64_t at, datsync_bytes block);
    int (*lost)(void *ctx, uint64_t index); /* it was asked for, and is not as it was */
    int (*held_back)(void *ctx);            /* more is going to be wanted: nobody is told that this is all */
    int (*makes_room)(void *ctx);           /* where the store is full: that is going to end */
    datsync_feed *companion;                /* it is committed first, and a connection is done with both or with none */
} feed_keeper;

/* What each room alone touches is in a struct of its own; room `opening and recovery` begins and ends all of it. */
struct datsync_feed {
    datsync_env env;
    datsync_store store;
    unsigned flags;
    uint8_t key[32], discovery_key[32], secret_key[64];
    int has_key, has_secret_key, is_static;
    feed_keeper keeper;
    watcher *watchers;

    uint64_t length, byte_length;
    datsync_node roots[64]; /* of the tree of `length` blocks */
    size_t root_count;
    bits have, nodes; /* the blocks that are held; the nodes of the tree that are */
    int uncommitted;
    unsigned unsynced; /* bit for each part */
    uint64_t stuck;    /* where the last proof that lacked nodes could not climb on */

    struct {
        tree_page *pages[TREE_PAGES];
        uint64_t part_size;     /* bytes of the part, cached pages included */
        bits proven;            /* nodes whose size was found right, since the feed was opened */
        uint64_t pair, pair_at; /* the first block of a pair, and where it begins; the next is asked for most often */
    } tree;

    struct {
        int exists;
        uint8_t *gathered; /* bytes that are not written yet */
        uint64_t gathered_at;
        size_t gathered_len;
        uint8_t *ahead; /* bytes that were read ahead */
        uint64_t ahead_at, read_end;
        size_t ahead_len;
    } data;

    struct {
        size_t entry; /* bytes of a page on disk */
        bits dirty;   /* pages that are to be written */
        uint64_t page_count;
        int salvaged; /* what is on disk is not to be read */
        bits dropped; /* claims that opening found to be false, for datsync_feed_verify to tell */
        /* What it says on disk is not always what is here: `apart`, it is in `claimed`. `have` then lacks what is
         * away for the moment; where a keeper has the bytes, it also holds what is kept aside and not claimed yet. */
        int apart;
        bits claimed;
    } bitfield;

    struct {
        uint64_t bytes, since;   /* uncommitted; when the first was seen by datsync_feed_tick */
        uint64_t durable_length; /* committed: what an owner may tell */
        uint64_t away_since;     /* when the data part was looked at last, which lacks what is claimed */
    } group;

    struct {
        uint64_t length; /* the last signature that verified, so that it is not checked again */
        uint8_t root[32], signature[SIGNATURE_BYTES];
        uint64_t stored_length; /* the last one that was written */
    } last;

    struct {
        int all;
        bits wanted, reserved;     /* what is to be downloaded; what is in flight at some peer */
        uint64_t shunned[SHUNNED]; /* asked for when a connection ended: asked for last; the newest is the last */
        unsigned shunned_count;
        int distrust; /* a peer turned out to lack nodes that were promised: no more digests that count on them */
    } wanting;
};

const uint8_t *datsync_feed_key(const datsync_feed *f)
{
    return f->key;
}

/* A static feed has none before it is finalized. */
static int feed_has_key(const datsync_feed *f)
{
    return f->has_key;
}

const uint8_t *datsync_feed_discovery_key(const datsync_feed *f)
{
    return f->discovery_key;
}

const uint8_t *datsync_feed_secret_key(const datsync_feed *f)
{
    return f->has_secret_key ? f->secret_key : NULL;
}

uint64_t datsync_feed_length(const datsync_feed *f)
{
    return f->length;
}

uint64_t datsync_feed_byte_length(const datsync_feed *f)
{
    return f->byte_length;
}

int datsync_feed_has(const datsync_feed *f, uint64_t index)
{
    return index < DATSYNC_MAX_BLOCKS && bits_get(&f->have, index);
}

uint64_t datsync_feed_count(const datsync_feed *f, uint64_t start, uint64_t end)
{
    end = MIN(end, f->length);
    return start < end ? bits_count(&f->have, start, end) : 0;
}

int datsync_feed_has_node(const datsync_feed *f, uint64_t node)
{
    return node < 2 * DATSYNC_MAX_BLOCKS && bits_get(&f->nodes, node);
}

int datsync_feed_writable(const datsync_feed *f)
{
    return (f->has_secret_key || (f->is_static && !f->has_key)) && !(f->flags & DATSYNC_READ_ONLY);
}

static int feed_read_only(const datsync_feed *f)
{
    return f->flags & DATSYNC_READ_ONLY;
}

static OPTIONAL int feed_holds_all(const datsync_feed *f, uint64_t start, uint64_t end)
{
    return bits_next(&f->have, start, end, 0) >= end;
}

/* The first block in [start, end) that is held, or end. */
static uint64_t feed_next_held(const datsync_feed *f, uint64_t start, uint64_t end)
{
    return bits_next(&f->have, start, end, 1);
}

static uint64_t feed_next_lacked(const datsync_feed *f, uint64_t start, uint64_t end)
{
    return bits_next(&f->have, start, end, 0);
}

static void feed_watch(datsync_feed *f, watcher *w)
{
    w->next = f->watchers;
    f->watchers = w;
}

static void feed_unwatch(datsync_feed *f, watcher *w)
{
    watcher **at = &f->watchers;
    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
}

/* The first of them; their `next` leads on. */
static watcher *feed_watchers(const datsync_feed *f)
{
    return f->watchers;
}

static OPTIONAL void feed_set_keeper(datsync_feed *f, const feed_keeper *keeper)
{
    f->keeper = *keeper;
}

static int feed_is_kept(const datsync_feed *f)
{
    return f->keeper.keep != NULL;
}

static datsync_feed *feed_companion(const datsync_feed *f)
{
    return f->keeper.companion;
}

static int feed_held_back(const datsync_feed *f)
{
    return f->keeper.held_back && f->keeper.held_back(f->keeper.ctx);
}

static OPTIONAL int feed_makes_room(const datsync_feed *f)
{
    return f->keeper.makes_room && f->keeper.makes_room(f->keeper.ctx);
}

/* Is there anything that a crash would take? */
static OPTIONAL int feed_is_uncommitted(const datsync_feed *f)
{
    return f->uncommitted;
}

/* Is it an error of the store or the allocator, and not a matter of what the bytes say? */
static int is_fatal(int error)
{
    return error == DATSYNC_E_NOMEM || (error <= DATSYNC_E_IO && error > DATSYNC_E_HEADER);
}

static int feed_read_exact(datsync_feed *f, int part, uint64_t offset, void *buf, size_t len)
{
    int64_t n = f->store.read(f->store.ctx, part, offset, buf, len);
    if (n < 0)
        return (int)n;
    memset((uint8_t *)buf + n, 0, len - (size_t)n);
    return 0;
}

static int feed_write(datsync_feed *f, int part, uint64_t offset, const void *buf, size_t len)
{
    if (f->flags & DATSYNC_READ_ONLY)
        return DATSYNC_E_READ_ONLY;
    f->unsynced |= 1u << part;
    return f->store.write(f->store.ctx, part, offset, buf, len);
}

/* ================================================================ feed: tree ===================================== */

/* The nodes of the hash tree: pages of them are read and written through a cache, by number, and a page that gives
 * way is written first. A node that is stored is not believed yet: its size is not covered by its own hash, but by
 * its parent's. So the place of a block follows only from sizes that hashes prove and from the block's own. */

static int tree_page_write(datsync_feed *f, tree_page *p)
{
    if (p->lo >= p->hi || f->flags & DATSYNC_READ_ONLY)
        return 0;
    int r = feed_write(f, DATSYNC_PART_TREE, node_at(p->number * TREE_PAGE_NODES + p->lo),
                       p->bytes + NODE_BYTES * p->lo, NODE_BYTES * (size_t)(p->hi - p->lo));
    if (r < 0)
        return r;
    p->lo = TREE_PAGE_NODES;
    p->hi = 0;
    return 0;
}

static int tree_page_load(datsync_feed *f, uint64_t number, tree_page **out)
{
    tree_page **slot = &f->tree.pages[number % TREE_PAGES], *p = *slot;
    uint64_t at = node_at(number * TREE_PAGE_NODES);
    if (p && p->number == number) {
        *out = p;
        return 0;
    }
    if (!p) {
        p = mem_resize(&f->env, NULL, sizeof *p);
        if (!p)
            return DATSYNC_E_NOMEM;
        p->lo = TREE_PAGE_NODES;
        p->hi = 0;
        p->number = NONE;
        *slot = p;
    }
    int r = tree_page_write(f, p);
    if (r < 0)
        return r;
    p->number = NONE; /* not valid while it is read */
    if (at >= f->tree.part_size)
        memset(p->bytes, 0, sizeof p->bytes);
    else if ((r = feed_read_exact(f, DATSYNC_PART_TREE, at, p->bytes, sizeof p->bytes)) < 0)
        return r;
    p->number = number;
    *out = p;
    return 0;
}

/* A node as it is stored, claimed or not; DATSYNC_E_NOT_FOUND if its place is blank. */
static int tree_read(datsync_feed *f, uint64_t index, datsync_node *out)
{
    tree_page *p;
    int r = tree_page_load(f, index / TREE_PAGE_NODES, &p);
    if (r < 0)
        return r;
    const uint8_t *b = p->bytes + NODE_BYTES * (index % TREE_PAGE_NODES);
    if (get_u64(b) == 0 && all_zero(b, NODE_BYTES))
        return DATSYNC_E_NOT_FOUND;
    out->index = index;
    memcpy(out->hash, b, 32);
    out->size = get_u64(b + 32);
    return 0;
}

static int tree_get(datsync_feed *f, uint64_t index, datsync_node *out)
{
    return bits_get(&f->nodes, index) ? tree_read(f, index, out) : DATSYNC_E_NOT_FOUND;
}

static int tree_put(datsync_feed *f, const datsync_node *n)
{
    tree_page *p;
    unsigned at = (unsigned)(n->index % TREE_PAGE_NODES);
    int r = tree_page_load(f, n->index / TREE_PAGE_NODES, &p);
    if (r < 0)
        return r;
    memcpy(p->bytes + NODE_BYTES * at, n->hash, 32);
    put_u64(p->bytes + NODE_BYTES * at + 32, n->size);
    p->lo = MIN(p->lo, at);
    p->hi = MAX(p->hi, at + 1);
    f->tree.part_size = MAX(f->tree.part_size, node_at(n->index + 1));
    return 0;
}

static int tree_flush(datsync_feed *f)
{
    int r;
    for (size_t i = 0; i < TREE_PAGES; i++)
        if (f->tree.pages[i] && (r = tree_page_write(f, f->tree.pages[i])) < 0)
            return r;
    return 0;
}

/* Bytes that tree_flush would write, at most. */
static uint64_t tree_unwritten(const datsync_feed *f)
{
    uint64_t n = 0;
    for (size_t i = 0; i < TREE_PAGES; i++)
        n += f->tree.pages[i] && f->tree.pages[i]->lo < f->tree.pages[i]->hi ? sizeof f->tree.pages[i]->bytes : 0;
    return n;
}

/* ------------------------------------------------ sizes, and where a block begins */

/* A node's hash covers its size: does it with this size, over these two children? */
static int node_hashes(const datsync_node *n, uint64_t size, const datsync_node *left, const datsync_node *right)
{
    datsync_node l = *left, r = *right;
    l.size = size;
    r.size = 0;
    datsync_node got;
    datsync_parent_hash(&got, &l, &r);
    return memcmp(got.hash, n->hash, 32) == 0;
}

/* Two nodes of the tree: 1, or 0 if they are not both held. */
static int tree_get_both(datsync_feed *f, uint64_t a, uint64_t b, datsync_node *first, datsync_node *second)
{
    int r = tree_get(f, a, first);
    if (r == 0)
        r = tree_get(f, b, second);
    return r == 0 ? 1 : r == DATSYNC_E_NOT_FOUND ? 0 : r;
}

/* A node above the leaves, with its right size, whatever the store says: a root's is known, another's is what hashes
 * with its children, or what its parent's hash covers. DATSYNC_E_CORRUPT if none is right. Where nothing of this is
 * held, as stored. */
static int node_get_proven(datsync_feed *f, uint64_t index, datsync_node *n)
{
    uint64_t sibling = datsync_flat_sibling(index);
    int r = tree_get(f, index, n);
    if (r < 0 || !(index & 1) || bits_get(&f->tree.proven, index))
        return r;
    for (size_t i = 0; i < f->root_count; i++)
        if (f->roots[i].index == index) {
            n->size = f->roots[i].size;
            return 0;
        }
    datsync_node left, right;
    int below;
    if ((below =
             tree_get_both(f, flat_left_child(index), datsync_flat_sibling(flat_left_child(index)), &left, &right)) < 0)
        return below;
    r = below && node_hashes(n, n->size, &left, &right);
    if (!r && below && node_hashes(n, left.size + right.size, &left, &right)) {
        n->size = left.size + right.size;
        return 0;
    }
    datsync_node parent;
    int above;
    if (!r) {
        if ((above = tree_get_both(f, sibling, datsync_flat_parent(index), &left, &parent)) < 0)
            return above;
        if (!below && !above)
            return 0;
        r = above && (sibling < index ? node_hashes(&parent, n->size + left.size, &left, n)
                                      : node_hashes(&parent, n->size + left.size, n, &left));
    }
    r = r ? bits_set(&f->env, &f->tree.proven, index, 1) : DATSYNC_E_CORRUPT;
    return r < 0 ? r : 0;
}

/* The sizes of a block and of its neighbour under one parent: do they make up the parent's? 0 if one of them is
 * wrong; 1 also where they are not all held. */
static int pair_agrees(datsync_feed *f, uint64_t index)
{
    datsync_node left, right, parent;
    int r = tree_get_both(f, 2 * index, datsync_flat_sibling(2 * index), &left, &right);
    if (r == 1)
        r = node_get_proven(f, datsync_flat_parent(2 * index), &parent);
    else if (r == 0)
        return 1;
    if (r < 0)
        return r == DATSYNC_E_NOT_FOUND ? 1 : r == DATSYNC_E_CORRUPT ? 0 : r;
    return left.size <= parent.size && right.size == parent.size - left.size;
}

/* Where the first block of a pair begins: the sizes of all full roots to its left. */
static int pair_offset(datsync_feed *f, uint64_t index, uint64_t *offset)
{
    uint64_t roots[64];
    datsync_node n;
    size_t count = datsync_flat_full_roots(roots, index);
    int r;
    if (index != f->tree.pair) {
        f->tree.pair = NONE;
        f->tree.pair_at = 0;
        for (size_t i = 0; i < count; i++) {
            if ((r = node_get_proven(f, roots[i], &n)) < 0)
                return r;
            if (n.size > (uint64_t)INT64_MAX - f->tree.pair_at)
                return DATSYNC_E_CORRUPT;
            f->tree.pair_at += n.size;
        }
        f->tree.pair = index;
    }
    *offset = f->tree.pair_at;
    return 0;
}

/* Where a block's bytes begin. The second of a pair ends where its parent does; so the place of every block follows
 * from sizes that are proven and from its own. */
static int block_offset(datsync_feed *f, uint64_t index, uint64_t *offset)
{
    int r = pair_offset(f, index & ~(uint64_t)1, offset);
    if (r < 0 || !(index & 1))
        return r;
    datsync_node leaf;
    r = tree_get(f, 2 * index, &leaf);
    datsync_node parent;
    if (r == 0)
        r = node_get_proven(f, 2 * index - 1, &parent);
    if (r == 0) {
        if (leaf.size > parent.size)
            return DATSYNC_E_CORRUPT;
        *offset += parent.size - leaf.size;
    } else if (r == DATSYNC_E_NOT_FOUND && (r = tree_get(f, 2 * index - 2, &leaf)) == 0) {
        if (leaf.size > (uint64_t)INT64_MAX - *offset)
            return DATSYNC_E_CORRUPT;
        *offset += leaf.size;
    }
    return r;
}

static void block_offset_next(datsync_feed *f, uint64_t index, uint64_t offset, uint64_t size)
{
    if (!(index & 1))
        return;
    f->tree.pair = index + 1;
    f->tree.pair_at = offset + size;
}

/* Sizes have changed: where a block begins is to be found anew. */
static void block_offset_forget(datsync_feed *f)
{
    f->tree.pair = NONE;
}

/* ================================================================ feed: data part ================================ */

/* The blocks' bytes, one after the other. Small writes that follow each other are gathered to one, small reads in
 * order are read ahead; large ones pass by. A keeper takes the bytes instead where there is one. */

static int gather_flush(datsync_feed *f)
{
    int r = 0;
    if (f->data.gathered_len)
        r = feed_write(f, DATSYNC_PART_DATA, f->data.gathered_at, f->data.gathered, f->data.gathered_len);
    if (r == 0)
        f->data.gathered_len = 0;
    return r;
}

static int ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    return a_len && b_len && a < b + b_len && b < a + a_len;
}

/* These bytes are going to be others: what was read ahead of them counts no more. */
static void ahead_drop(datsync_feed *f, uint64_t at, size_t len)
{
    if (ranges_overlap(at, len, f->data.ahead_at, f->data.ahead_len))
        f->data.ahead_len = 0;
}

/* The part ends here from now on: nothing behind that is to be written, or was read ahead. */
static void data_forget(datsync_feed *f, uint64_t end)
{
    if (f->data.gathered_len && f->data.gathered_at + f->data.gathered_len > end)
        f->data.gathered_len = (size_t)(f->data.gathered_at < end ? end - f->data.gathered_at : 0);
    f->data.ahead_len = 0;
}

static int data_write(datsync_feed *f, uint64_t at, const uint8_t *buf, size_t len)
{
    if (len == 0) { /* the deployed implementation opens no feed without a data part, however empty */
        if (f->data.exists || (f->data.exists = f->store.size(f->store.ctx, DATSYNC_PART_DATA) >= 0))
            return 0;
        return feed_write(f, DATSYNC_PART_DATA, 0, "", 0);
    }
    ahead_drop(f, at, len);
    int r;
    if (f->data.gathered_len &&
        (at != f->data.gathered_at + f->data.gathered_len || f->data.gathered_len + len > GATHER_BYTES ||
         len >= DIRECT_BYTES) &&
        (r = gather_flush(f)) < 0)
        return r;
    if (len >= DIRECT_BYTES || f->keeper.keep)
        return feed_write(f, DATSYNC_PART_DATA, at, buf, len);
    if (!f->data.gathered && !(f->data.gathered = mem_resize(&f->env, NULL, GATHER_BYTES)))
        return DATSYNC_E_NOMEM;
    if (!f->data.gathered_len)
        f->data.gathered_at = at;
    memcpy(f->data.gathered + f->data.gathered_len, buf, len);
    f->data.gathered_len += len;
    return 0;
}

/* A block that came goes to where the feed's bytes are: 1, or 0 if it has no place any more. */
static int data_keep(datsync_feed *f, uint64_t index, uint64_t at, datsync_bytes block)
{
    if (!f->keeper.keep || !block.len) {
        int r = data_write(f, at, block.data, block.len);
        return r < 0 ? r : 1;
    }
    ahead_drop(f, at, block.len);
    f->unsynced |= 1u << DATSYNC_PART_DATA;
    return f->keeper.keep(f->keeper.ctx, index, at, block);
}

/* All of it, or DATSYNC_E_CORRUPT if the part is too short. */
static int data_read(datsync_feed *f, uint64_t at, uint8_t *buf, size_t len)
{
    int sequential = at == f->data.read_end;
    if (len == 0)
        return 0;
    if (at > (uint64_t)INT64_MAX - len)
        return DATSYNC_E_CORRUPT;
    int r;
    if (ranges_overlap(at, len, f->data.gathered_at, f->data.gathered_len) && (r = gather_flush(f)) < 0)
        return r;
    f->data.read_end = at + len;
    if (len < DIRECT_BYTES && sequential &&
        !(at >= f->data.ahead_at && at + len <= f->data.ahead_at + f->data.ahead_len)) {
        if (!f->data.ahead && !(f->data.ahead = mem_resize(&f->env, NULL, GATHER_BYTES)))
            return DATSYNC_E_NOMEM;
        f->data.ahead_len = 0;
        int64_t n = f->store.read(f->store.ctx, DATSYNC_PART_DATA, at, f->data.ahead, GATHER_BYTES);
        if (n < 0)
            return (int)n;
        f->data.ahead_at = at;
        f->data.ahead_len = (size_t)n;
        if (ranges_overlap(at, f->data.ahead_len, f->data.gathered_at,
                           f->data.gathered_len)) /* older than what is gathered */
            f->data.ahead_len = (size_t)(f->data.gathered_at > at ? f->data.gathered_at - at : 0);
    }
    if (at >= f->data.ahead_at && at + len <= f->data.ahead_at + f->data.ahead_len) {
        memcpy(buf, f->data.ahead + (at - f->data.ahead_at), len);
        return 0;
    }
    int64_t n = f->store.read(f->store.ctx, DATSYNC_PART_DATA, at, buf, len);
    return n < 0 ? (int)n : (size_t)n < len ? DATSYNC_E_CORRUPT : 0;
}

/* ================================================================ feed: bitfield ================================= */

/* What is claimed: a bit for each block that is held and for each node, and an index above them (PROTOCOL 17.4). A
 * claim is made here and written by the next commit, after what it claims. Sometimes what is claimed and what is
 * here differ. Then `apart` is set: `claimed` is what the bitfield file is to say, `have` is what is here. */

/* What the bitfield is to say. */
static const bits *feed_claims(const datsync_feed *f)
{
    return f->bitfield.apart ? &f->bitfield.claimed : &f->have;
}

/* The first block in [start, end) that is claimed, or end. */
static OPTIONAL uint64_t feed_next_claimed(const datsync_feed *f, uint64_t start, uint64_t end)
{
    return bits_next(feed_claims(f), start, end, 1);
}

/* Claim a node; as in the deployed index, two siblings claim their parent. */
static int tree_claim(datsync_feed *f, uint64_t index)
{
    int r;
    while ((r = bits_set(&f->env, &f->nodes, index, 1)) == 1) {
        uint64_t page = index / (2 * PAGE_BITS);
        if (bits_set(&f->env, &f->bitfield.dirty, page, 1) < 0)
            return DATSYNC_E_NOMEM;
        f->bitfield.page_count = MAX(f->bitfield.page_count, page + 1);
        f->uncommitted = 1;
        if (!bits_get(&f->nodes, datsync_flat_sibling(index)))
            break;
        index = datsync_flat_parent(index);
    }
    return r < 0 ? r : 0;
}

/* The data part is written to again: what is not in it will not come back, and must not be taken for the holes of
 * what is. */
static int claims_rejoin(datsync_feed *f)
{
    int r = 0;
    for (uint64_t page = 0; page < f->bitfield.page_count && r >= 0; page++)
        if (bits_count(&f->bitfield.claimed, page * PAGE_BITS, (page + 1) * PAGE_BITS) !=
            bits_count(&f->have, page * PAGE_BITS, (page + 1) * PAGE_BITS))
            r = bits_set(&f->env, &f->bitfield.dirty, page, 1);
    bits_free(&f->env, &f->bitfield.claimed);
    f->bitfield.apart = 0;
    f->uncommitted = 1;
    return r < 0 ? r : 0;
}

static int block_claim(datsync_feed *f, uint64_t index, int value)
{
    int r = bits_set(&f->env, &f->have, index, value);
    if (r <= 0)
        return r;
    if (value && bits_set(&f->env, &f->bitfield.dropped, index, 0) < 0) /* it has come back */
        return DATSYNC_E_NOMEM;
    if (value && f->bitfield.apart && !f->keeper.keep && (r = claims_rejoin(f)) < 0)
        return r;
    if (f->bitfield.apart && (!value || f->has_secret_key) && bits_set(&f->env, &f->bitfield.claimed, index, value) < 0)
        return DATSYNC_E_NOMEM; /* a reader's are claimed when their file is in its place */
    f->uncommitted = 1;
    f->bitfield.page_count = MAX(f->bitfield.page_count, index / PAGE_BITS + 1);
    r = bits_set(&f->env, &f->bitfield.dirty, index / PAGE_BITS, 1);
    return r < 0 ? r : 1;
}

/* What is claimed, apart from what is here. */
static int claims_set_apart(datsync_feed *f)
{
    uint64_t j, end = bits_length(&f->have);
    int r = 0;
    for (uint64_t i = bits_next(&f->have, 0, end, 1); i < end && r >= 0; i = bits_next(&f->have, j, end, 1)) {
        j = bits_next(&f->have, i, end, 0);
        r = bits_fill(&f->env, &f->bitfield.claimed, i, j, 1);
    }
    f->bitfield.apart = 1;
    return r < 0 ? r : 0;
}

/* Blocks that are held already: the bitfield says so from the next commit on. */
static OPTIONAL int claims_add(datsync_feed *f, uint64_t start, uint64_t end)
{
    int r = bits_fill(&f->env, &f->bitfield.claimed, start, end, 1);
    for (uint64_t page = start / PAGE_BITS; page * PAGE_BITS < end && r >= 0; page++)
        r = bits_set(&f->env, &f->bitfield.dirty, page, 1);
    f->uncommitted = 1;
    return r < 0 ? r : 0;
}

static int claims_are_apart(const datsync_feed *f)
{
    return f->bitfield.apart;
}

/* The next claim from a block on that opening found to be false, or NONE. */
static uint64_t claims_next_dropped(const datsync_feed *f, uint64_t index)
{
    return bits_next(&f->bitfield.dropped, index, NONE, 1);
}

static void claims_forget_dropped(datsync_feed *f)
{
    bits_free(&f->env, &f->bitfield.dropped);
}

/* ------------------------------------------------ its index */

/* The index of the bitfield (PROTOCOL 17.4) tells of each quarter of a node's span whether all, none or some of its
 * blocks are there. `limit` is the first index byte that the file has no room for: such children count as none. */

static unsigned index_code(unsigned nibble)
{
    return nibble == 15 ? 3 : nibble == 0 ? 0 : 1;
}

static unsigned index_parent(unsigned left, unsigned right)
{
    return index_code(left >> 4) << 6 | index_code(left & 15) << 4 | index_code(right >> 4) << 2 |
           index_code(right & 15);
}

/* The 511 index bytes whose span lies in one page of blocks. */
static void index_local(const datsync_feed *f, uint64_t page, uint64_t limit, uint8_t out[512])
{
    bitpage bp = bits_page(feed_claims(f), page * PAGE_BITS);
    for (size_t g = 0; g < 256; g++) {
        unsigned v = 0;
        for (size_t k = 0; k < 4; k++) {
            unsigned byte = page_byte(bp, 4 * g + k);
            v = v << 2 | (byte == 255 ? 3u : byte == 0 ? 0u : 1u);
        }
        out[2 * g] = (uint8_t)(page * 512 + 2 * g < limit ? v : 0);
    }
    for (size_t step = 1; step < 256; step *= 2)
        for (size_t k = 2 * step - 1; k < 511; k += 4 * step) {
            unsigned right = page * 512 + k + step < limit ? out[k + step] : 0;
            out[k] = (uint8_t)index_parent(out[k - step], right);
        }
    out[511] = 0;
}

/* An index byte whose span is a page or more. */
static unsigned index_high(const datsync_feed *f, uint64_t index, uint64_t limit)
{
    uint64_t half = (uint64_t)1 << (datsync_flat_depth(index) - 1);
    if (index >= limit)
        return 0;
    if (datsync_flat_depth(index) == 8) {
        bitpage bp = bits_page(feed_claims(f), index / 512 * PAGE_BITS);
        if (!bp.bytes && index + 255 < limit)
            return bp.count ? 255 : 0;
        uint8_t local[512];
        index_local(f, index / 512, limit, local);
        return local[255];
    }
    return index_parent(index_high(f, index - half, limit), index_high(f, index + half, limit));
}

static void bitfield_page(const datsync_feed *f, uint64_t page, uint8_t *out)
{
    size_t size = f->bitfield.entry - BITFIELD_BITS; /* of the index in one page; 512, or 256 in old files */
    uint64_t limit = f->bitfield.page_count * size, first = page * size;
    bits_read(feed_claims(f), page * PAGE_BITS, out, PAGE_BYTES);
    bits_read(&f->nodes, page * 2 * PAGE_BITS, out + PAGE_BYTES, 2 * PAGE_BYTES);
    out += BITFIELD_BITS;
    uint8_t local[512];
    for (uint64_t i = 0; i < size; i++) {
        if (i == 0 || (first + i) % 512 == 0)
            index_local(f, (first + i) / 512, limit, local);
        if ((first + i) % 512 == 511)
            out[i] = (uint8_t)index_high(f, first + i, limit);
        else
            out[i] = local[(first + i) % 512];
    }
}

/* Index bytes above a changed page lie in other pages: these change too. */
static int bitfield_mark_above(datsync_feed *f)
{
    uint64_t size = f->bitfield.entry - BITFIELD_BITS, limit = f->bitfield.page_count * size,
             end = f->bitfield.page_count;
    bits more;
    int r = 0;
    memset(&more, 0, sizeof more);
    for (uint64_t page = bits_next(&f->bitfield.dirty, 0, end, 1); page < end;
         page = bits_next(&f->bitfield.dirty, page + 1, end, 1)) {
        uint64_t index = page * 512 + 255;
        while (r >= 0 && datsync_flat_left_span(index) < 2 * 256 * f->bitfield.page_count) {
            if (index < limit)
                r = bits_set(&f->env, &more, index / size, 1);
            if (datsync_flat_left_span(index) == 0 && datsync_flat_right_span(index) >= limit)
                break;
            index = datsync_flat_parent(index);
        }
    }
    for (uint64_t page = bits_next(&more, 0, end, 1); page < end && r >= 0; page = bits_next(&more, page + 1, end, 1))
        r = bits_set(&f->env, &f->bitfield.dirty, page, 1);
    bits_free(&f->env, &more);
    return r < 0 ? r : 0;
}

static int bitfield_flush(datsync_feed *f)
{
    int r = bitfield_mark_above(f);
    if (r < 0)
        return r;
    uint8_t *buf = mem_resize(&f->env, NULL, f->bitfield.entry);
    if (!buf)
        return DATSYNC_E_NOMEM;
    uint64_t page;
    /* The last page first: the nodes that span several pages lie in the first of them, and must not be claimed
     * alone. */
    while (r == 0 && (page = bits_length(&f->bitfield.dirty)) > 0) {
        page--;
        bitfield_page(f, page, buf);
        r = feed_write(f, DATSYNC_PART_BITFIELD, HEADER_BYTES + page * f->bitfield.entry, buf, f->bitfield.entry);
        if (r == 0 && bits_set(&f->env, &f->bitfield.dirty, page, 0) < 0)
            r = DATSYNC_E_NOMEM;
    }
    mem_free(&f->env, buf);
    return r;
}

/* ================================================================ feed: commit ================================== */

/* The order of writes that makes a crash at any moment harmless: data, tree and signatures, each synced, then the
 * bitfield, synced. Blocks are committed in groups, since a sync is slow. An owner tells of a block only when its
 * group is committed; so what was told is never appended differently after a crash. When a block's bytes go away for
 * a while, the block is hidden here; when they are back, it is shown again. */

static int feed_sync(datsync_feed *f, int part)
{
    int r = 0;
    if ((f->unsynced >> part & 1) && !(f->flags & DATSYNC_NO_SYNC))
        r = f->store.sync(f->store.ctx, part);
    if (r == 0)
        f->unsynced &= ~(1u << part);
    return r;
}

/* The order is what makes a crash at any write harmless: first what is claimed, synced, then the claim. */
static int commit(datsync_feed *f)
{
    int r;
    if ((r = gather_flush(f)) < 0 || (r = tree_flush(f)) < 0 || (r = feed_sync(f, DATSYNC_PART_DATA)) < 0 ||
        (r = feed_sync(f, DATSYNC_PART_TREE)) < 0 || (r = feed_sync(f, DATSYNC_PART_SIGNATURES)) < 0 ||
        (r = bitfield_flush(f)) < 0)
        return r;
    return feed_sync(f, DATSYNC_PART_BITFIELD);
}

/* The disk is full of blocks, and there is no room left to say that they are there. Let the last ones go: a reader can
 * fetch them again. */
static int commit_make_room(datsync_feed *f)
{
    uint64_t need = 65536, freed = 0, i = 1, offset = 0;
    int r = 0;
    need += tree_unwritten(f) + bits_count(&f->bitfield.dirty, 0, f->bitfield.page_count) * f->bitfield.entry;
    datsync_node leaf;
    while (r >= 0 && freed < need && (i = bits_length(&f->have)) > 0) {
        if (tree_read(f, 2 * (i - 1), &leaf) < 0 || block_offset(f, i - 1, &offset) < 0 || pair_agrees(f, i - 1) != 1)
            return DATSYNC_E_NO_SPACE;
        freed += leaf.size;
        r = block_claim(f, i - 1, 0);
    }
    if (r < 0 || freed < need)
        return DATSYNC_E_NO_SPACE;
    for (watcher *w = f->watchers; w; w = w->next)
        w->cleared(w, i - 1, f->length);
    data_forget(f, offset);
    r = f->store.truncate(f->store.ctx, DATSYNC_PART_DATA, offset);
    return r < 0 ? r : commit(f);
}

int datsync_feed_flush(datsync_feed *f)
{
    if (f->flags & DATSYNC_READ_ONLY)
        return 0;
    int r;
    if (f->keeper.companion && f->keeper.companion->uncommitted && (r = datsync_feed_flush(f->keeper.companion)) < 0)
        return r;
    r = commit(f);
    if (r == DATSYNC_E_NO_SPACE && !datsync_feed_writable(f) && !f->keeper.keep)
        r = commit_make_room(f);
    if (r < 0)
        return r;
    f->group.bytes = 0;
    f->group.since = NONE;
    f->uncommitted = 0;
    f->group.durable_length = f->length;
    for (watcher *w = f->watchers; w; w = w->next)
        w->committed(w);
    return 0;
}

/* A writer's blocks are told and given only once they are committed: what was announced can never be appended
 * differently. */
static int feed_make_durable(datsync_feed *f)
{
    return datsync_feed_writable(f) && f->group.durable_length < f->length ? datsync_feed_flush(f) : 0;
}

/* Up to which block, of those before `end`, others may be told. */
static uint64_t feed_durable_end(const datsync_feed *f, uint64_t end)
{
    return datsync_feed_writable(f) ? MIN(end, f->group.durable_length) : end;
}

/* After a write of n bytes: is the group full? */
static int group_add(datsync_feed *f, uint64_t n)
{
    f->uncommitted = 1;
    f->group.bytes += n;
    if (f->group.bytes < DATSYNC_GROUP_BYTES ||
        (f->keeper.keep && !f->has_secret_key)) /* a clone's keeper commits, with what it keeps */
        return 0;
    return datsync_feed_flush(f);
}

static void tell_added(datsync_feed *f, uint64_t start, uint64_t end)
{
    for (watcher *w = f->watchers; w; w = w->next)
        w->added(w, start, end);
}

/* Blocks are not to be had now: say so. What the bitfield says of them stays, for they may come back. */
static int feed_hide(datsync_feed *f, uint64_t start, uint64_t end)
{
    int r = 0;
    for (start = bits_next(&f->have, start, end, 1); start < end && r >= 0;
         start = bits_next(&f->have, start, end, 1)) {
        uint64_t stop = bits_next(&f->have, start, end, 0);
        r = bits_fill(&f->env, &f->have, start, stop, 0);
        for (watcher *w = f->watchers; w && r >= 0; w = w->next)
            w->cleared(w, start, stop);
        start = stop;
    }
    return r < 0 ? r : 0;
}

/* They have come back. */
static OPTIONAL int feed_show(datsync_feed *f, uint64_t start, uint64_t end)
{
    int r = 0;
    for (; r >= 0 && (start = bits_next(&f->bitfield.claimed, start, end, 1)) < end; start++)
        if (!bits_get(&f->have, start) && bits_get(&f->nodes, 2 * start) &&
            (r = bits_set(&f->env, &f->have, start, 1)) > 0)
            tell_added(f, start, start + 1);
    return r < 0 ? r : 0;
}

/* Does the data part, of this size, reach to the end of a block? 1, 0 or the store's error. */
static int data_reaches(datsync_feed *f, uint64_t index, int64_t size)
{
    uint64_t offset;
    datsync_node leaf;
    int r = block_offset(f, index, &offset);
    if (r == 0)
        r = tree_get(f, 2 * index, &leaf);
    if (r < 0)
        return is_fatal(r) ? r : 0;
    return offset <= (uint64_t)size && leaf.size <= (uint64_t)size - offset;
}

static int64_t data_size(datsync_feed *f)
{
    int64_t size = f->store.size(f->store.ctx, DATSYNC_PART_DATA);
    return size == DATSYNC_E_NO_ENTRY ? 0 : size;
}

/* The data part lacked what is claimed. Has it come back? */
static int data_look(datsync_feed *f)
{
    int64_t size = data_size(f);
    uint64_t end = bits_length(&f->bitfield.claimed);
    int r = 0;
    if (size < 0)
        return (int)size;
    for (uint64_t i = bits_next(&f->bitfield.claimed, 0, end, 1); i < end && r >= 0;
         i = bits_next(&f->bitfield.claimed, i + 1, end, 1)) {
        if (bits_get(&f->have, i) || !bits_get(&f->nodes, 2 * i))
            continue;
        if ((r = data_reaches(f, i, size)) == 0)
            break;
        if (r > 0 && (r = bits_set(&f->env, &f->have, i, 1)) >= 0 &&
            (r = bits_set(&f->env, &f->bitfield.dropped, i, 0)) >= 0)
            tell_added(f, i, i + 1);
    }
    return r < 0 ? r : 0;
}

int datsync_feed_tick(datsync_feed *f, uint64_t now)
{
    int r;
    if (f->bitfield.apart && !f->keeper.keep && now - f->group.away_since >= LOOK_MS) {
        f->group.away_since = now;
        if ((r = data_look(f)) < 0)
            return r;
    }
    if (!f->uncommitted)
        return 0;
    if (f->group.since == NONE)
        f->group.since = now;
    if (now - f->group.since < DATSYNC_GROUP_MS)
        return 0;
    r = datsync_feed_flush(f);
    return r < 0 ? r : 1;
}

/* Blocks are here no more: claim them no more, and say so. */
static OPTIONAL int feed_retract(datsync_feed *f, uint64_t start, uint64_t end)
{
    const bits *claims = feed_claims(f);
    int r = 0;
    for (uint64_t i = bits_next(claims, start, end, 1); i < end && r >= 0;
         i = bits_next(claims, (i | (PAGE_BITS - 1)) + 1, end, 1)) {
        f->bitfield.page_count = MAX(f->bitfield.page_count, i / PAGE_BITS + 1);
        f->uncommitted = 1;
        r = bits_set(&f->env, &f->bitfield.dirty, i / PAGE_BITS, 1);
    }
    if (r >= 0 && f->bitfield.apart)
        r = bits_fill(&f->env, &f->bitfield.claimed, start, end, 0);
    return r < 0 ? r : feed_hide(f, start, end);
}

/* ================================================================ feed: opening and recovery ==================== */

/* A feed is what its files prove, not what they say. The length is that of the longest signature that verifies; where
 * more is claimed than signatures stand for, the feed is corrupt. A claim without its leaf, or behind the end of the
 * data part, is dropped, and remembered for verifying. An owner's blocks that are signed and not claimed, because a
 * crash came in between, are checked and claimed. This room begins and ends every part of a feed. */

static int feed_load_keys(datsync_feed *f, const datsync_feed_options *o, int *is_new)
{
    uint8_t stored[32];
    int64_t n = f->store.read(f->store.ctx, DATSYNC_PART_KEY, 0, stored, 32);
    if (n < 0 && n != DATSYNC_E_NO_ENTRY)
        return (int)n;
    if (n == 32 && o->key && memcmp(stored, o->key, 32) != 0)
        return DATSYNC_E_OTHER_FEED;
    *is_new = n != 32;
    if (*is_new && (n > 0 || f->store.size(f->store.ctx, DATSYNC_PART_TREE) > (int64_t)HEADER_BYTES))
        return DATSYNC_E_CORRUPT; /* half a key, or blocks without one: nothing to verify them with */
    if (*is_new && (!(f->flags & DATSYNC_CREATE) || f->flags & DATSYNC_READ_ONLY))
        return DATSYNC_E_NOT_FOUND;
    if (!*is_new || o->key) {
        memcpy(f->key, *is_new ? o->key : stored, 32);
        f->has_key = 1;
    }
    n = f->store.read(f->store.ctx, DATSYNC_PART_SECRET_KEY, 0, f->secret_key, 64);
    if (n < 0 && n != DATSYNC_E_NO_ENTRY && n != DATSYNC_E_ACCESS)
        return (int)n;
    f->has_secret_key = n == 64;
    if (o->secret_key) {
        memcpy(f->secret_key, o->secret_key, 64);
        f->has_secret_key = 1;
    }
    uint8_t seed[32];
    if (!f->has_key && !f->has_secret_key && !(f->flags & DATSYNC_STATIC)) {
        f->env.random(f->env.ctx, seed, sizeof seed);
        (void)crypto_sign_seed_keypair(f->key, f->secret_key, seed);
        sodium_memzero(seed, sizeof seed);
        f->has_key = f->has_secret_key = 1;
    }
    uint8_t pk[32];
    if (f->has_secret_key) {
        memcpy(seed, f->secret_key, 32); /* the public half must be the one that the seed gives */
        {
            uint8_t sk[64];
            (void)crypto_sign_seed_keypair(pk, sk, seed);
            sodium_memzero(sk, sizeof sk);
        }
        sodium_memzero(seed, sizeof seed);
        if (memcmp(pk, f->secret_key + 32, 32) != 0 || (f->has_key && memcmp(pk, f->key, 32) != 0))
            return DATSYNC_E_KEY;
        memcpy(f->key, pk, 32);
        f->has_key = 1;
    }
    return 0;
}

static int feed_write_new(datsync_feed *f)
{
    static const int headed[] = {DATSYNC_PART_TREE, DATSYNC_PART_SIGNATURES, DATSYNC_PART_BITFIELD};
    int r = 0;
    if (f->has_secret_key && f->store.size(f->store.ctx, DATSYNC_PART_SECRET_KEY) < 64)
        r = feed_write(f, DATSYNC_PART_SECRET_KEY, 0, f->secret_key, 64);
    if (r == 0)
        r = feed_sync(f, DATSYNC_PART_SECRET_KEY);
    if (r == 0 && f->has_key && f->store.size(f->store.ctx, DATSYNC_PART_KEY) < 32)
        r = feed_write(f, DATSYNC_PART_KEY, 0, f->key, 32);
    if (r == 0)
        r = feed_sync(f, DATSYNC_PART_KEY);
    uint8_t header[HEADER_BYTES];
    for (int i = 0; i < 3 && r == 0; i++) {
        if (f->store.size(f->store.ctx, headed[i]) >= (int64_t)HEADER_BYTES)
            continue;
        sleep_header(header, headed[i]);
        r = feed_write(f, headed[i], 0, header, sizeof header);
    }
    return r;
}

/* Blocks that are claimed without their leaf, if pages of the bitfield were so large. */
static int64_t bitfield_misfits(datsync_feed *f, uint64_t bytes, size_t entry)
{
    uint8_t *buf = mem_resize(&f->env, NULL, BITFIELD_BITS);
    int64_t misfits = 0;
    if (!buf)
        return DATSYNC_E_NOMEM;
    for (uint64_t at = 0; at < bytes && misfits >= 0; at += entry) {
        int64_t n = f->store.read(f->store.ctx, DATSYNC_PART_BITFIELD, HEADER_BYTES + at, buf, BITFIELD_BITS);
        if (n < 0)
            misfits = n;
        else
            memset(buf + n, 0, BITFIELD_BITS - (size_t)n);
        for (size_t i = 0; i < 8 * PAGE_BYTES && n > 0; i++)
            misfits += (buf[i / 8] >> (7 - i % 8) & 1) && !(buf[PAGE_BYTES + i / 4] >> (7 - 2 * (i % 4)) & 1);
    }
    mem_free(&f->env, buf);
    return misfits;
}

/* The size of a page. The deployed versions to 6.22.0 write 3328 into the header whenever they open, also where
 * later ones have written pages of 3584 bytes. So for these two sizes the content decides, then the size of the
 * file, and the header only after that. */
static int bitfield_entry(datsync_feed *f, uint64_t bytes)
{
    size_t other = f->bitfield.entry == BITFIELD_ENTRY ? BITFIELD_ENTRY_OLD : BITFIELD_ENTRY;
    if ((f->bitfield.entry != BITFIELD_ENTRY && f->bitfield.entry != BITFIELD_ENTRY_OLD) ||
        bytes / BITFIELD_ENTRY_OLD > DATSYNC_MAX_BLOCKS / PAGE_BITS)
        return 0;
    int64_t mine;
    if ((mine = bitfield_misfits(f, bytes, f->bitfield.entry)) < 0)
        return (int)mine;
    int64_t others;
    if ((others = bitfield_misfits(f, bytes, other)) < 0)
        return (int)others;
    if (others < mine || (others == mine && bytes % other == 0 && bytes % f->bitfield.entry != 0))
        f->bitfield.entry = other;
    return 0;
}

/* A header that is zeroed is what `overwrite` of the deployed versions 6.23.1 to 7.4.0 leaves: they would open an
 * empty feed, to which anything could be appended. They then write a header of pages of no bytes. */
static int bitfield_header(datsync_feed *f, uint64_t bytes)
{
    uint8_t header[HEADER_BYTES];
    int r = feed_read_exact(f, DATSYNC_PART_BITFIELD, 0, header, sizeof header);
    if (r < 0)
        return r;
    if (all_zero(header, 3) ? all_zero(header, sizeof header) : memcmp(header, "\5\2\127\0\0\0\0", 7) == 0)
        return DATSYNC_E_OVERWRITTEN;
    size_t stated;
    f->bitfield.entry = stated = (size_t)header[5] << 8 | header[6];
    if (memcmp(header, "\5\2\127", 3) != 0 || header[3] != 0 || f->bitfield.entry <= BITFIELD_BITS)
        return DATSYNC_E_CORRUPT;
    if ((r = bitfield_entry(f, bytes)) < 0 || f->bitfield.entry == stated || f->flags & DATSYNC_READ_ONLY)
        return r;
    header[5] = (uint8_t)(f->bitfield.entry >> 8);
    header[6] = (uint8_t)f->bitfield.entry;
    return feed_write(f, DATSYNC_PART_BITFIELD, 0, header, sizeof header);
}

static int bitfield_load(datsync_feed *f)
{
    int64_t size = f->store.size(f->store.ctx, DATSYNC_PART_BITFIELD), n = 0;
    f->bitfield.entry = BITFIELD_ENTRY;
    if (size == DATSYNC_E_NO_ENTRY || (size >= 0 && size < (int64_t)HEADER_BYTES))
        return 0;
    if (size < 0)
        return (int)size;
    int r;
    if ((r = bitfield_header(f, (uint64_t)size - HEADER_BYTES)) < 0) {
        f->bitfield.salvaged = r == DATSYNC_E_OVERWRITTEN && f->flags & DATSYNC_SALVAGE && f->flags & DATSYNC_READ_ONLY;
        return f->bitfield.salvaged ? 0 : r;
    }
    f->bitfield.page_count = ((uint64_t)size - HEADER_BYTES + f->bitfield.entry - 1) / f->bitfield.entry;
    if (f->bitfield.page_count > DATSYNC_MAX_BLOCKS / PAGE_BITS)
        return DATSYNC_E_TOO_BIG;
    uint8_t *buf = mem_resize(&f->env, NULL, f->bitfield.entry);
    if (!buf)
        return DATSYNC_E_NOMEM;
    for (uint64_t page = 0; page < f->bitfield.page_count && r == 0; page++) {
        n = f->store.read(f->store.ctx, DATSYNC_PART_BITFIELD, HEADER_BYTES + page * f->bitfield.entry, buf,
                          f->bitfield.entry);
        if (n < 0)
            r = (int)n;
        else if ((size_t)n < BITFIELD_BITS) /* a torn last page claims nothing */
            memset(buf, 0, BITFIELD_BITS);
        if (r == 0)
            r = bits_load_page(&f->env, &f->have, page * PAGE_BITS, buf);
        if (r == 0)
            r = bits_load_page(&f->env, &f->nodes, page * 2 * PAGE_BITS, buf + PAGE_BYTES);
        if (r == 0)
            r = bits_load_page(&f->env, &f->nodes, (page * 2 + 1) * PAGE_BITS, buf + 2 * PAGE_BYTES);
    }
    mem_free(&f->env, buf);
    return r;
}

static int block_drop(datsync_feed *f, uint64_t index)
{
    int r = bits_set(&f->env, &f->bitfield.dropped, index, 1);
    return r < 0 ? r : block_claim(f, index, 0);
}

/* Claims of nodes whose place is blank are dropped, and of blocks whose leaf is. */
static int claims_check(datsync_feed *f)
{
    enum { NODES = 4096 };
    uint8_t *buf = mem_resize(&f->env, NULL, NODES * NODE_BYTES);
    uint64_t at = 0, end = bits_length(&f->nodes);
    int r = 0;
    if (!buf)
        return DATSYNC_E_NOMEM;
    for (at = bits_next(&f->nodes, 0, end, 1); at < end && r == 0; at = bits_next(&f->nodes, at + NODES, end, 1)) {
        r = feed_read_exact(f, DATSYNC_PART_TREE, node_at(at), buf, NODES * NODE_BYTES);
        for (uint64_t i = 0; i < NODES && r == 0; i++) {
            const uint8_t *node = buf + NODE_BYTES * i;
            if (get_u64(node) == 0 && all_zero(node, NODE_BYTES) && bits_get(&f->nodes, at + i)) {
                r = bits_set(&f->env, &f->nodes, at + i, 0);
                if (r > 0)
                    r = bits_set(&f->env, &f->bitfield.dirty, (at + i) / (2 * PAGE_BITS), 1);
                if (r >= 0)
                    r = 0;
            }
        }
    }
    mem_free(&f->env, buf);
    end = bits_length(&f->have);
    for (uint64_t i = 0; i < end && r >= 0; i++) {
        bitpage leaves = bits_page(&f->nodes, 2 * i);
        if (!leaves.bytes && leaves.count) { /* a page of nodes that are all there: look at the next one */
            i |= PAGE_BITS / 2 - 1;
            continue;
        }
        i = bits_next(&f->have, i, end, 1);
        if (i < end && !bits_get(&f->nodes, 2 * i))
            r = block_drop(f, i);
    }
    return r < 0 ? r : 0;
}

/* Without a bitfield: whatever the tree has a node of is claimed. */
static int claims_from_tree(datsync_feed *f)
{
    datsync_node n;
    uint64_t end = f->tree.part_size > HEADER_BYTES ? (f->tree.part_size - HEADER_BYTES) / NODE_BYTES : 0;
    int r = 0;
    for (uint64_t i = 0; i < end && r >= 0; i++) {
        r = tree_read(f, i, &n);
        if (r == 0)
            r = bits_set(&f->env, &f->nodes, i, 1);
        if (r >= 0 && !(i & 1))
            r = bits_set(&f->env, &f->have, i / 2, 1);
        if (r == DATSYNC_E_NOT_FOUND)
            r = 0;
    }
    return r < 0 ? r : 0;
}

/* And what lies beyond the length that is signed, or stands for some of that, is of another time. */
static int claims_end(datsync_feed *f)
{
    uint64_t end = 2 * f->length, tree_end = MAX(end, bits_length(&f->nodes));
    int r = bits_fill(&f->env, &f->have, f->length, MAX(f->length, bits_length(&f->have)), 0);
    for (uint64_t x = datsync_flat_parent(end); r >= 0 && (x < tree_end || datsync_flat_left_span(x));
         x = datsync_flat_parent(x))
        r = bits_set(&f->env, &f->nodes, x, 0);
    if (r >= 0)
        r = bits_fill(&f->env, &f->nodes, end, tree_end, 0);
    return r < 0 ? r : 0;
}

/* A data part that is shorter than the blocks claimed: those at its end are not here. They stay claimed as long as
 * nothing is written to it, for it may be away for a moment. */
static int data_check(datsync_feed *f)
{
    int64_t size = data_size(f);
    int r = 0;
    if (size < 0)
        return (int)size;
    uint64_t i;
    while ((i = bits_length(&f->have)) > 0 && (r = data_reaches(f, i - 1, size)) == 0)
        if ((!f->bitfield.apart && (r = claims_set_apart(f)) < 0) ||
            (r = bits_set(&f->env, &f->bitfield.dropped, i - 1, 1)) < 0 ||
            (r = bits_set(&f->env, &f->have, i - 1, 0)) < 0)
            return r;
    return r < 0 ? r : 0;
}

static uint64_t tree_verified_by(const datsync_feed *f, uint64_t index);

/* The length that the claimed nodes stand for, as the deployed implementation finds it: the highest node among 0, 1, 3,
 * 7, ..., then step right, taking the largest subtrees. */
static uint64_t tree_blocks(const datsync_feed *f)
{
    uint64_t top = 0, next = 0, end = bits_length(&f->nodes);
    while (datsync_flat_right_span(next) < end) {
        next = datsync_flat_parent(next);
        if (bits_get(&f->nodes, next))
            top = next;
    }
    return bits_get(&f->nodes, top) ? tree_verified_by(f, top) / 2 : 0;
}

/* The right edge of the largest tree that can be verified from this node (PROTOCOL 12.2): climb while parent and
 * sibling are held, then step right. */
static uint64_t tree_verified_by(const datsync_feed *f, uint64_t index)
{
    uint64_t top = index;
    if (!bits_get(&f->nodes, index))
        return 0;
    while (bits_get(&f->nodes, datsync_flat_parent(top)) && bits_get(&f->nodes, datsync_flat_sibling(top)))
        top = datsync_flat_parent(top);
    unsigned depth = datsync_flat_depth(top);
    while (depth > 0) {
        /* the right neighbour at this depth, then its left children until one is held */
        top = flat_index(depth, flat_offset(top, depth) + 1);
        top = flat_left_child(top);
        depth--;
        while (depth > 0 && !bits_get(&f->nodes, top)) {
            top = flat_left_child(top);
            depth--;
        }
    }
    return bits_get(&f->nodes, top) ? top + 2 : top;
}

/* The roots of a tree of so many blocks as they lie in the store, claimed or not. */
static int roots_read(datsync_feed *f, uint64_t length, datsync_node *out, size_t *count)
{
    uint64_t index[64];
    int r = 0;
    *count = datsync_flat_full_roots(index, length);
    for (size_t i = 0; i < *count && r == 0; i++)
        r = tree_read(f, index[i], &out[i]);
    return r;
}

static void feed_set_length(datsync_feed *f, uint64_t length, const datsync_node *roots, size_t count)
{
    f->length = length;
    f->byte_length = 0;
    memmove(f->roots, roots, count * sizeof *roots);
    f->root_count = count;
    for (size_t i = 0; i < count; i++)
        f->byte_length += roots[i].size;
}

static int signature_verify(datsync_feed *f, uint64_t length, const uint8_t root[32],
                            const uint8_t signature[SIGNATURE_BYTES])
{
    if (f->last.length == length && memcmp(f->last.root, root, 32) == 0 &&
        memcmp(f->last.signature, signature, SIGNATURE_BYTES) == 0)
        return 0;
    if (crypto_sign_verify_detached(signature, root, 32, f->key) != 0)
        return DATSYNC_E_SIGNATURE;
    f->last.length = length;
    memcpy(f->last.root, root, 32);
    memcpy(f->last.signature, signature, SIGNATURE_BYTES);
    return 0;
}

/* Push a leaf on the stack of roots; `made` gets every node that this makes. */
static size_t roots_push(datsync_node *roots, size_t *count, const datsync_node *leaf, datsync_node *made)
{
    size_t n = 0;
    roots[(*count)++] = *leaf;
    made[n++] = *leaf;
    while (*count > 1 && datsync_flat_parent(roots[*count - 2].index) == datsync_flat_parent(roots[*count - 1].index)) {
        datsync_parent_hash(&made[n], &roots[*count - 2], &roots[*count - 1]);
        roots[--*count - 1] = made[n];
        n++;
    }
    return n;
}

/* An owner's blocks [from, to) lie in the store but are not claimed, since a crash came between writing and
 * claiming. Hash them onto the tree of `from` blocks. With `claim`, write and claim every node that this makes
 * (those that lie there may be torn); otherwise, see whether it gives the roots that are signed for `to`. */
static int tail_walk(datsync_feed *f, uint64_t from, uint64_t to, const datsync_node *want, size_t want_count,
                     int claim)
{
    datsync_node roots[66];
    size_t cap = 0;
    uint64_t at = 0;
    uint8_t *buf = NULL;
    memset(roots, 0, sizeof roots);
    size_t count;
    int r = roots_read(f, from, roots, &count);
    for (size_t i = 0; i < count && r == 0; i++) {
        r = roots[i].size > (uint64_t)INT64_MAX - at ? DATSYNC_E_HASH : 0;
        at += roots[i].size;
    }
    datsync_node made[66], leaf;
    for (uint64_t index = from; index < to && r >= 0; index++) {
        r = tree_read(f, 2 * index, &leaf);
        if (r == 0 && leaf.size > DATSYNC_MAX_FRAME)
            r = DATSYNC_E_HASH;
        if (r == 0)
            r = mem_grow(&f->env, &buf, &cap, (size_t)leaf.size + 1, 1);
        if (r == 0)
            r = data_read(f, at, buf, (size_t)leaf.size);
        if (r < 0)
            break;
        datsync_bytes block;
        block.data = buf;
        block.len = (size_t)leaf.size;
        datsync_leaf_hashes(&leaf, &block, 1);
        at += leaf.size;
        size_t n = roots_push(roots, &count, &leaf, made);
        for (size_t i = 0; i < n && r >= 0 && claim; i++) {
            r = tree_put(f, &made[i]);
            if (r == 0)
                r = tree_claim(f, made[i].index);
        }
        if (claim && r >= 0)
            r = block_claim(f, index, 1);
    }
    if (r >= 0 && count != want_count)
        r = DATSYNC_E_HASH;
    for (size_t i = 0; i < want_count && r >= 0; i++)
        if (memcmp(roots[i].hash, want[i].hash, 32) != 0)
            r = DATSYNC_E_HASH;
    mem_free(&f->env, buf);
    return r < 0 ? r : 0;
}

/* Does this signature stand, and for an owner: is everything up to it there? Sets the length if so. */
static int length_try(datsync_feed *f, uint64_t length, const uint8_t signature[SIGNATURE_BYTES], uint64_t claimed)
{
    datsync_node roots[64];
    size_t count;
    int r = roots_read(f, length, roots, &count);
    if (r < 0)
        return r;
    uint8_t root[32];
    datsync_root_hash(root, roots, count);
    if ((r = signature_verify(f, length, root, signature)) < 0)
        return r;
    if (f->has_secret_key && length > claimed) {
        r = tail_walk(f, claimed, length, roots, count, 0);
        if (r == 0)
            r = tail_walk(f, claimed, length, roots, count, 1);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < count; i++)
        if ((r = tree_claim(f, roots[i].index)) < 0)
            return r;
    feed_set_length(f, length, roots, count);
    return 0;
}

/* No signature stands: a static feed, if its tree hashes to its key. Otherwise nothing here can be verified: an
 * owner would fork the feed, and nobody could ever be given a proof. */
static int static_find(datsync_feed *f, uint64_t claimed)
{
    if (claimed == 0)
        return 0;
    datsync_node roots[64];
    memset(roots, 0, sizeof roots);
    size_t count;
    int r = roots_read(f, claimed, roots, &count);
    if (r < 0)
        return r == DATSYNC_E_NOT_FOUND ? DATSYNC_E_CORRUPT : r;
    uint8_t root[32];
    datsync_root_hash(root, roots, count);
    if (memcmp(root, f->key, 32) != 0)
        return DATSYNC_E_CORRUPT;
    f->is_static = 1;
    feed_set_length(f, claimed, roots, count);
    return 0;
}

/* Blocks of the first n before the first hole in the tree. */
static uint64_t tree_dense(const datsync_feed *f, uint64_t n)
{
    for (uint64_t x = bits_next(&f->nodes, 0, 2 * n, 0); x < 2 * n; x = bits_next(&f->nodes, x + 1, 2 * n, 0))
        if (datsync_flat_right_span(x) + 1 < 2 * n)
            return datsync_flat_left_span(x) / 2;
    return n;
}

/* An owner has holes if a crash came between the pages of his bitfield: then what they lack can be claimed again. Or
 * because he restores his feed from others: then they stay. */
static int holes_mend(datsync_feed *f)
{
    uint64_t dense = tree_dense(f, f->length);
    if (dense == f->length)
        return 0;
    int r = tail_walk(f, dense, f->length, f->roots, f->root_count, 0);
    if (r == 0)
        r = tail_walk(f, dense, f->length, f->roots, f->root_count, 1);
    return is_fatal(r) ? r : 0;
}

/* Look for a signature that stands among those of lengths (0, end], from above; not more than SIGNATURE_TRIES. */
static int signatures_scan(datsync_feed *f, uint64_t end, uint64_t stop, uint64_t claimed)
{
    enum { ENTRIES = 512 };
    uint8_t *buf = mem_resize(&f->env, NULL, ENTRIES * SIGNATURE_BYTES);
    unsigned tries = 0;
    int r = DATSYNC_E_NOT_FOUND;
    if (!buf)
        return DATSYNC_E_NOMEM;
    while (end > stop && r < 0 && !is_fatal(r) && tries < SIGNATURE_TRIES) {
        uint64_t from = end > ENTRIES ? end - ENTRIES : 0;
        r = feed_read_exact(f, DATSYNC_PART_SIGNATURES, signature_at(from), buf,
                            (size_t)(end - from) * SIGNATURE_BYTES);
        if (r < 0)
            break;
        r = DATSYNC_E_NOT_FOUND;
        for (; end > from && r < 0 && !is_fatal(r) && tries < SIGNATURE_TRIES; end--) {
            const uint8_t *signature = buf + SIGNATURE_BYTES * (end - from - 1);
            if (all_zero(signature, SIGNATURE_BYTES))
                continue;
            tries++;
            r = length_try(f, end, signature, claimed);
        }
    }
    mem_free(&f->env, buf);
    return r;
}

/* The longest signature that verifies; see datsync_feed_open. First those above what is claimed, then those below,
 * so that rubbish at the end of the file hides nothing. */
static int length_find(datsync_feed *f)
{
    int64_t size = f->store.size(f->store.ctx, DATSYNC_PART_SIGNATURES);
    uint64_t claimed = tree_blocks(f);
    if (size < 0 && size != DATSYNC_E_NO_ENTRY)
        return (int)size;
    uint64_t end = size > (int64_t)HEADER_BYTES ? ((uint64_t)size - HEADER_BYTES) / SIGNATURE_BYTES : 0;
    if (end > DATSYNC_MAX_BLOCKS)
        return DATSYNC_E_TOO_BIG;
    if (f->flags & DATSYNC_READ_ONLY && f->has_secret_key && !f->bitfield.salvaged)
        end = MIN(end, claimed); /* the tail that the owner has not committed is not for others to see */
    int r = signatures_scan(f, end, MIN(claimed, end), claimed);
    if (r < 0 && !is_fatal(r))
        r = signatures_scan(f, MIN(claimed, end), 0, claimed);
    if (is_fatal(r))
        return r;
    if (f->length == 0 && (r = static_find(f, claimed)) < 0)
        return r;
    if (f->bitfield.salvaged)
        return claims_end(f);
    if (claimed > f->length)
        return DATSYNC_E_CORRUPT;
    /* What an owner claims was synced before it: it may be the first pages of the bitfield that are lost. */
    if (f->has_secret_key && !(f->flags & DATSYNC_READ_ONLY) && bits_length(&f->have) > f->length)
        return DATSYNC_E_CORRUPT;
    if (f->has_secret_key && (r = holes_mend(f)) < 0)
        return r;
    /* those above stand for trees that never were, and must not be found inside the feed when it has grown */
    if (size > (int64_t)signature_at(f->length) && !(f->flags & DATSYNC_READ_ONLY)) {
        f->unsynced |= 1u << DATSYNC_PART_SIGNATURES;
        return f->store.truncate(f->store.ctx, DATSYNC_PART_SIGNATURES, signature_at(f->length));
    }
    return 0;
}

static int feed_load(datsync_feed *f, const datsync_feed_options *o)
{
    int is_new = 0, r;
    if (f->store.lock && !(f->flags & DATSYNC_READ_ONLY) && (r = f->store.lock(f->store.ctx)) < 0)
        return r;
    if ((r = feed_load_keys(f, o, &is_new)) < 0)
        return r;
    f->is_static = (f->flags & DATSYNC_STATIC) && !f->has_key;
    if (f->has_key)
        datsync_discovery_key(f->discovery_key, f->key);
    if ((r = bitfield_load(f)) < 0)
        return r;
    if (!(f->flags & DATSYNC_READ_ONLY) && (r = feed_write_new(f)) < 0)
        return r;
    int64_t size = f->store.size(f->store.ctx, DATSYNC_PART_TREE);
    f->tree.part_size = size > 0 ? (uint64_t)size : 0;
    if (f->tree.part_size / 80 > DATSYNC_MAX_BLOCKS)
        return DATSYNC_E_TOO_BIG;
    if (f->bitfield.salvaged && (r = claims_from_tree(f)) < 0)
        return r;
    if ((r = claims_check(f)) < 0 || (r = length_find(f)) < 0)
        return r;
    if ((r = data_check(f)) < 0)
        return r;
    f->group.durable_length = f->length;
    f->uncommitted = bits_next(&f->bitfield.dirty, 0, f->bitfield.page_count, 1) < f->bitfield.page_count;
    if (f->uncommitted) /* what recovery claims anew may never have been synced */
        f->unsynced |= 1u << DATSYNC_PART_DATA | 1u << DATSYNC_PART_TREE | 1u << DATSYNC_PART_SIGNATURES;
    if (is_new || f->uncommitted)
        return datsync_feed_flush(f);
    return 0;
}

static void feed_free(datsync_feed *f)
{
    datsync_env env = f->env;
    if (f->store.close)
        f->store.close(f->store.ctx);
    for (size_t i = 0; i < TREE_PAGES; i++)
        mem_free(&env, f->tree.pages[i]);
    bits_free(&env, &f->have);
    bits_free(&env, &f->nodes);
    bits_free(&env, &f->tree.proven);
    bits_free(&env, &f->bitfield.dirty);
    bits_free(&env, &f->bitfield.dropped);
    bits_free(&env, &f->bitfield.claimed);
    bits_free(&env, &f->wanting.wanted);
    bits_free(&env, &f->wanting.reserved);
    mem_free(&env, f->data.gathered);
    mem_free(&env, f->data.ahead);
    sodium_memzero(f->secret_key, sizeof f->secret_key);
    mem_free(&env, f);
}

int datsync_feed_open(datsync_feed **out, const datsync_feed_options *o)
{
    *out = NULL;
    if (sodium_init() < 0)
        return DATSYNC_E_RANDOM;
    datsync_env env;
    env_init(&env, o->env);
    datsync_feed *f = mem_zeroed(&env, sizeof *f);
    if (!f) {
        if (o->store.close)
            o->store.close(o->store.ctx);
        return DATSYNC_E_NOMEM;
    }
    f->env = env;
    f->store = o->store;
    f->flags = o->flags;
    f->wanting.all = 1;
    f->group.since = f->data.read_end = NONE;
    int r;
    if (!f->store.read && (r = datsync_memory_store(o->env, &f->store)) < 0) {
        mem_free(&env, f);
        return r;
    }
    r = feed_load(f, o);
    if (r < 0) {
        feed_free(f);
        return r;
    }
    *out = f;
    return 0;
}

int datsync_feed_close(datsync_feed *f)
{
    if (!f)
        return 0;
    int r = f->uncommitted || f->data.gathered_len ? datsync_feed_flush(f) : 0;
    feed_free(f);
    return r;
}

/* ================================================================ feed: reading ================================= */

/* Blocks by number and by byte. Where it is certain where a block lies, its bytes are returned without hashing them.
 * They are hashed where the place is unsure, when the feed is verified, and when a block of a keeper goes out. */

int64_t datsync_feed_block_size(datsync_feed *f, uint64_t index)
{
    datsync_node n;
    int r = index < DATSYNC_MAX_BLOCKS ? tree_get(f, 2 * index, &n) : DATSYNC_E_NOT_FOUND;
    if (r < 0)
        return r;
    return n.size > DATSYNC_MAX_FRAME ? DATSYNC_E_TOO_BIG : (int64_t)n.size;
}

/* A block that is claimed, into a buffer of its size, as it lies there. */
static int block_read_raw(datsync_feed *f, uint64_t index, uint8_t *buf, size_t size)
{
    uint64_t offset;
    int r = block_offset(f, index, &offset);
    if (r == 0)
        r = data_read(f, offset, buf, size);
    if (r == 0)
        block_offset_next(f, index, offset, size);
    return r;
}

/* The same, checked against the tree: DATSYNC_E_CORRUPT if these are not the block's bytes, or what keeps it from
 * being read. */
static int block_read_checked(datsync_feed *f, uint64_t index, uint8_t *buf, size_t size)
{
    datsync_node want;
    int r = block_read_raw(f, index, buf, size);
    if (r == 0)
        r = tree_get(f, 2 * index, &want);
    if (r < 0)
        return is_fatal(r) ? r : DATSYNC_E_CORRUPT;
    datsync_bytes block;
    block.data = buf;
    block.len = size;
    datsync_node got;
    datsync_leaf_hashes(&got, &block, 1);
    return memcmp(got.hash, want.hash, 32) == 0 ? 0 : DATSYNC_E_CORRUPT;
}

/* The same, where it is known that a size is wrong: its own, or its neighbour's. */
static int block_read(datsync_feed *f, uint64_t index, uint8_t *buf, size_t size)
{
    int r = pair_agrees(f, index);
    return r < 0 ? r : r ? block_read_raw(f, index, buf, size) : block_read_checked(f, index, buf, size);
}

/* A block that goes out to others: where a keeper has the bytes, they may be others by now. */
static int block_read_out(datsync_feed *f, uint64_t index, uint8_t *buf, size_t size)
{
    return f->keeper.keep ? block_read_checked(f, index, buf, size) : block_read(f, index, buf, size);
}

/* A block that is held could not be read for others (`error`): it is not told any more. Or the error, where it is
 * one of the whole store: a keeper's file that can't be read is no end of the others. */
static int block_lost(datsync_feed *f, uint64_t index, int error)
{
    if (error != DATSYNC_E_CORRUPT && (!f->keeper.keep || error == DATSYNC_E_NOMEM))
        return error;
    int r = f->keeper.lost ? f->keeper.lost(f->keeper.ctx, index) : 0;
    return r < 0 ? r : feed_hide(f, index, index + 1);
}

/* The bits of held blocks from `start` on; `size` bytes of them. */
static void feed_read_held(const datsync_feed *f, uint64_t start, uint8_t *out, size_t size)
{
    bits_read(&f->have, start, out, size);
}

/* Behind the last block that is held and signed. */
static uint64_t feed_held_end(const datsync_feed *f)
{
    return MIN(bits_length(&f->have), f->length);
}

int64_t datsync_feed_get(datsync_feed *f, uint64_t index, void *buf, size_t cap)
{
    if (!datsync_feed_has(f, index))
        return DATSYNC_E_NOT_FOUND;
    int64_t size = datsync_feed_block_size(f, index);
    if (size < 0)
        return size;
    if ((uint64_t)size > cap)
        return DATSYNC_E_SPACE;
    int r = block_read(f, index, buf, (size_t)size);
    return r < 0 ? r : size;
}

int datsync_feed_seek(datsync_feed *f, uint64_t offset, uint64_t *index, uint64_t *inside)
{
    if (offset >= f->byte_length)
        return DATSYNC_E_INVALID;
    size_t i;
    for (i = 0; i < f->root_count && offset >= f->roots[i].size; i++)
        offset -= f->roots[i].size;
    datsync_node n = f->roots[i];
    int r;
    while (n.index & 1) {
        uint64_t left = flat_left_child(n.index);
        if ((r = node_get_proven(f, left, &n)) < 0)
            return r;
        if (offset >= n.size) {
            offset -= n.size;
            n.index = datsync_flat_sibling(left);
        }
    }
    *index = n.index / 2;
    *inside = offset;
    return 0;
}

/* ================================================================ feed: appending =============================== */

/* New blocks: their leaves, the parents that they complete, one signature over the roots for each call. A failure
 * leaves the feed as it was. */

static int append_blocks(datsync_feed *f, const datsync_bytes *blocks, size_t count, datsync_node *roots,
                         size_t *root_count, uint64_t *bytes)
{
    enum { AT_ONCE = 64 };
    datsync_node leaves[AT_ONCE], made[66];
    size_t n;
    int r;
    for (size_t i = 0; i < count; i += AT_ONCE) {
        n = MIN(count - i, AT_ONCE);
        datsync_leaf_hashes(leaves, blocks + i, n);
        for (size_t k = 0; k < n; k++) {
            leaves[k].index = 2 * (f->length + i + k);
            size_t made_count = roots_push(roots, root_count, &leaves[k], made);
            for (size_t j = 0; j < made_count; j++)
                if ((r = tree_put(f, &made[j])) < 0)
                    return r;
            if ((r = data_write(f, f->byte_length + *bytes, blocks[i + k].data, blocks[i + k].len)) < 0)
                return r;
            *bytes += blocks[i + k].len;
        }
    }
    return 0;
}

static int append_claim(datsync_feed *f, uint64_t start, uint64_t end)
{
    int r;
    for (uint64_t i = start; i < end; i++)
        if ((r = block_claim(f, i, 1)) < 0 || (r = tree_claim(f, 2 * i)) < 0)
            return r;
    return 0;
}

/* Take back what a failed append has claimed. */
static void append_unclaim(datsync_feed *f, uint64_t start)
{
    uint64_t end = bits_length(&f->nodes);
    (void)bits_fill(&f->env, &f->have, start, bits_length(&f->have), 0);
    for (uint64_t node = 2 * start; datsync_flat_left_span(node) < end; node = datsync_flat_parent(node)) {
        if (node < 2 * start) /* the parents to the left that span the first new block */
            (void)bits_set(&f->env, &f->nodes, node, 0);
        if (datsync_flat_left_span(node) == 0 && node >= end)
            break;
    }
    (void)bits_fill(&f->env, &f->nodes, 2 * start, end, 0);
}

int64_t datsync_feed_append(datsync_feed *f, const datsync_bytes *blocks, size_t count)
{
    size_t root_count = f->root_count;
    uint64_t bytes = 0, start = f->length;
    if (!datsync_feed_writable(f))
        return DATSYNC_E_READ_ONLY;
    if (count >= DATSYNC_MAX_BLOCKS - f->length)
        return DATSYNC_E_TOO_BIG;
    for (size_t i = 0; i < count; i++)
        if (blocks[i].len > DATSYNC_MAX_BLOCK)
            return DATSYNC_E_TOO_BIG;
    if (count == 0)
        return (int64_t)f->length;
    datsync_node roots[66];
    memcpy(roots, f->roots, root_count * sizeof *roots);
    int r = append_blocks(f, blocks, count, roots, &root_count, &bytes);
    uint8_t root[32], signature[SIGNATURE_BYTES];
    if (r == 0 && f->has_secret_key) {
        datsync_root_hash(root, roots, root_count);
        (void)crypto_sign_detached(signature, NULL, root, 32, f->secret_key);
        r = feed_write(f, DATSYNC_PART_SIGNATURES, signature_at(start + count - 1), signature, SIGNATURE_BYTES);
    }
    if (r == 0)
        r = append_claim(f, start, start + count);
    if (r < 0) { /* as if it had not been: what was gathered for it goes, and the claims */
        data_forget(f, f->byte_length);
        append_unclaim(f, start);
        (void)f->store.truncate(f->store.ctx, DATSYNC_PART_SIGNATURES, signature_at(start));
        return r;
    }
    feed_set_length(f, start + count, roots, root_count);
    if (f->has_secret_key) {
        f->last.length = f->length;
        memcpy(f->last.root, root, 32);
        memcpy(f->last.signature, signature, SIGNATURE_BYTES);
    }
    (void)group_add(f, bytes); /* a commit that fails is tried again by the next one, which tells */
    tell_added(f, start, start + count);
    return (int64_t)f->length;
}

int datsync_feed_finalize(datsync_feed *f)
{
    if (!f->is_static || f->has_key)
        return DATSYNC_E_STATE;
    int r;
    if ((r = datsync_feed_flush(f)) < 0)
        return r;
    datsync_root_hash(f->key, f->roots, f->root_count);
    r = feed_write(f, DATSYNC_PART_KEY, 0, f->key, 32);
    if (r == 0)
        r = feed_sync(f, DATSYNC_PART_KEY);
    if (r < 0)
        return r;
    f->has_key = 1;
    datsync_discovery_key(f->discovery_key, f->key);
    return 0;
}

int datsync_feed_clear(datsync_feed *f, uint64_t start, uint64_t end)
{
    uint64_t from = 0, to = 0;
    int changed = 0;
    end = MIN(end, f->length);
    if (f->flags & DATSYNC_READ_ONLY)
        return DATSYNC_E_READ_ONLY;
    int r;
    for (uint64_t i = start; i < end; i++) {
        r = block_claim(f, i, 0);
        if (r < 0)
            return r;
        changed |= r;
    }
    if (!changed)
        return 0;
    if ((r = datsync_feed_flush(f)) < 0)
        return r;
    for (watcher *w = f->watchers; w; w = w->next)
        w->cleared(w, start, end);
    /* The bytes of the cleared blocks, as far as their place is known. */
    uint64_t a = start;
    uint64_t b = end;
    if (block_offset(f, a, &from) < 0 || block_offset(f, b, &to) < 0 || to <= from || pair_agrees(f, a) != 1 ||
        pair_agrees(f, b) != 1)
        return 0;
    data_forget(f, from); /* all is written */
    int64_t size = f->store.size(f->store.ctx, DATSYNC_PART_DATA);
    if (size >= 0 && to >= (uint64_t)size && from < (uint64_t)size)
        return f->store.truncate(f->store.ctx, DATSYNC_PART_DATA, from);
    return f->store.punch ? f->store.punch(f->store.ctx, DATSYNC_PART_DATA, from, to - from) : 0;
}

/* ================================================================ feed: proving ================================= */

/* What a remote needs so that it can verify a block (PROTOCOL 12): the uncles on the way up, the roots and a
 * signature, less what its digest says it has. A digest is a bit for each step upward; its lowest bit says that the
 * way ends in a node which is held. */

uint64_t datsync_feed_digest(const datsync_feed *f, uint64_t index)
{
    /* the deployed digest stops at the last byte of its bitfield, and misses what it could tell of roots at its edge */
    uint64_t leaf = 2 * index, digest = 0, bit = 2, end = (bits_length(&f->nodes) + 7) & ~(uint64_t)7;
    if (bits_get(&f->nodes, leaf))
        return 1;
    uint64_t next = datsync_flat_sibling(leaf);
    end = MAX(end, next + 2);
    uint64_t parent = datsync_flat_parent(next);
    while (bit >> 62 == 0 && (datsync_flat_right_span(next) < end || datsync_flat_left_span(parent) > 0)) {
        if (bits_get(&f->nodes, next))
            digest |= bit;
        if (bits_get(&f->nodes, parent)) {
            digest |= 2 * bit | 1;
            return digest + 1 == 4 * bit ? 1 : digest;
        }
        next = datsync_flat_sibling(parent);
        parent = datsync_flat_parent(next);
        bit *= 2;
    }
    return digest;
}

/* What a digest says its sender holds. */
typedef struct known_nodes {
    uint64_t index[200];
    size_t count;
} known_nodes;

static int known_has(const known_nodes *c, uint64_t index)
{
    for (size_t i = 0; i < c->count; i++)
        if (c->index[i] == index)
            return 1;
    return 0;
}

/* Only nodes that are held here count; two siblings imply their parent, as in the deployed index. */
static void known_add(const datsync_feed *f, known_nodes *c, uint64_t index)
{
    if (!bits_get(&f->nodes, index))
        return;
    while (!known_has(c, index) && c->count < sizeof c->index / sizeof *c->index) {
        c->index[c->count++] = index;
        if (!known_has(c, datsync_flat_sibling(index)))
            break;
        index = datsync_flat_parent(index);
    }
}

static void known_from_digest(const datsync_feed *f, known_nodes *c, uint64_t index, uint64_t digest)
{
    uint64_t next = 2 * index;
    int has_root = (int)(digest & 1);
    c->count = 0;
    uint64_t roots[64];
    for (digest >>= 1; digest && next < 2 * DATSYNC_MAX_BLOCKS; digest >>= 1) {
        if (digest == 1 && has_root) {
            known_add(f, c, next);
            /* holding a root means holding the roots to its left */
            if (datsync_flat_sibling(next) < next)
                next = datsync_flat_sibling(next);
            size_t n = datsync_flat_full_roots(roots, datsync_flat_right_span(next) / 2 + 1);
            for (size_t i = 0; i < n; i++)
                known_add(f, c, roots[i]);
            return;
        }
        if (digest & 1)
            known_add(f, c, datsync_flat_sibling(next));
        next = datsync_flat_parent(next);
    }
}

static int proof_add(datsync_feed *f, datsync_proof *p, uint64_t index)
{
    if (p->node_count == DATSYNC_MAX_PROOF)
        return DATSYNC_E_TOO_BIG;
    int r;
    if (!(index & 1) && (r = pair_agrees(f, index / 2)) != 1) /* it would prove nothing, and be taken for a lie */
        return r < 0 ? r : DATSYNC_E_CORRUPT;
    return node_get_proven(f, index, &p->nodes[p->node_count++]);
}

/* The signature for a tree of so many blocks. */
static int signature_read(datsync_feed *f, uint64_t length, uint8_t out[64])
{
    if (length == f->last.length) {
        memcpy(out, f->last.signature, SIGNATURE_BYTES);
        return 0;
    }
    int r = feed_read_exact(f, DATSYNC_PART_SIGNATURES, signature_at(length - 1), out, SIGNATURE_BYTES);
    return r < 0 ? r : all_zero(out, SIGNATURE_BYTES) ? DATSYNC_E_NO_SIGNATURE : 0;
}

/* The block's top node is a root here: the other roots, and the signature of them all. */
static int proof_roots(datsync_feed *f, datsync_proof *p, const known_nodes *known, uint64_t top)
{
    uint64_t roots[64], length = tree_verified_by(f, top) / 2;
    size_t n = datsync_flat_full_roots(roots, length);
    int r;
    for (size_t i = 0; i < n; i++)
        if (roots[i] != top && !known_has(known, roots[i]) && (r = proof_add(f, p, roots[i])) < 0)
            return r;
    p->length = length;
    if (f->is_static)
        return 0;
    p->has_signature = 1;
    return signature_read(f, length, p->signature);
}

int datsync_feed_proof(datsync_feed *f, uint64_t index, uint64_t digest, int hash, datsync_proof *p)
{
    uint64_t next = 2 * index;
    p->node_count = 0;
    p->has_signature = 0;
    p->length = 0;
    if (index >= DATSYNC_MAX_BLOCKS || !bits_get(&f->nodes, next))
        return DATSYNC_E_NOT_FOUND;
    int r;
    if (hash && (r = proof_add(f, p, next)) < 0)
        return r;
    if (digest == 1)
        return 0;
    known_nodes known;
    known_from_digest(f, &known, index, digest);
    while (!known_has(&known, next)) {
        uint64_t sibling = datsync_flat_sibling(next);
        if (!bits_get(&f->nodes, sibling))
            return proof_roots(f, p, &known, next);
        if (!known_has(&known, sibling) && (r = proof_add(f, p, sibling)) < 0)
            return r;
        next = datsync_flat_parent(next);
    }
    return 0;
}

/* ================================================================ feed: putting ================================== */

/* A block that came, with its proof: climb from its hash to a node that is held, or to roots that the owner signed,
 * and only then store it and what was proven on the way. Whatever does not verify changes nothing. */

/* A block or hash on its way into the store. */
typedef struct putting {
    uint64_t index;
    datsync_bytes value;
    const datsync_node *nodes; /* of the proof, not used yet */
    size_t node_count;
    datsync_node store[2 * DATSYNC_MAX_PROOF + 66]; /* verified, to be written */
    size_t store_count;
    datsync_node top;
    uint64_t length; /* of a tree that was verified on the way, 0 if none */
    datsync_node roots[64];
    size_t root_count;
    const uint8_t *signature; /* new, to be written */
} putting;

/* A leaf is held with the right hash, and its size or its neighbour's is wrong: it came as a hash alone, and its
 * parent's hash binds only the sum of two sizes; or it was damaged. The block itself settles them. */
static int put_sizes(datsync_feed *f, putting *p)
{
    if (!p->value.data || p->top.index != 2 * p->index)
        return DATSYNC_E_HASH;
    datsync_node parent, sibling;
    int r;
    if ((r = node_get_proven(f, datsync_flat_parent(p->top.index), &parent)) < 0 ||
        (r = tree_get(f, datsync_flat_sibling(p->top.index), &sibling)) < 0)
        return is_fatal(r) ? r : DATSYNC_E_HASH;
    if (p->top.size > parent.size)
        return DATSYNC_E_HASH;
    sibling.size = parent.size - p->top.size;
    p->store[p->store_count++] = p->top;
    p->store[p->store_count++] = sibling;
    block_offset_forget(f);
    return 1;
}

/* Climb from the leaf until a node that is held says the same hash (1), or nothing is left to climb with (0). */
static int put_climb(datsync_feed *f, putting *p)
{
    for (;;) {
        datsync_node held;
        uint64_t index = datsync_flat_sibling(p->top.index);
        int r;
        if (bits_get(&f->nodes, p->top.index)) {
            if ((r = tree_get(f, p->top.index, &held)) < 0)
                return r;
            if (memcmp(held.hash, p->top.hash, 32) != 0)
                return DATSYNC_E_HASH;
            if (p->top.index & 1 && held.size != p->top.size)
                p->store[p->store_count++] = p->top; /* damaged: the hash covers this size, and not that one */
            if (p->top.index & 1 ||
                (held.size == p->top.size && (!p->value.data || (r = pair_agrees(f, p->index)) != 0)))
                return r < 0 ? r : 1;
            return put_sizes(f, p);
        }
        datsync_node sibling;
        if (bits_get(&f->nodes, index)) { /* what is held was verified, and is never replaced */
            if ((r = node_get_proven(f, index, &sibling)) < 0)
                return r;
            if (p->node_count && p->nodes[0].index == index) {
                p->nodes++;
                p->node_count--;
            }
        } else if (p->node_count && p->nodes[0].index == index) {
            sibling = *p->nodes++;
            p->node_count--;
            p->store[p->store_count++] = sibling;
        } else {
            return 0;
        }
        if (p->store_count + 2 > 2 * DATSYNC_MAX_PROOF)
            return DATSYNC_E_HASH;
        p->store[p->store_count++] = p->top;
        datsync_node parent;
        if (index < p->top.index)
            datsync_parent_hash(&parent, &sibling, &p->top);
        else
            datsync_parent_hash(&parent, &p->top, &sibling);
        p->top = parent;
    }
}

/* The top is a root: with the other roots, which come from the proof or are held, it must be what was signed. */
static int put_roots(datsync_feed *f, putting *p, const datsync_proof *proof)
{
    uint64_t right = datsync_flat_right_span(p->top.index);
    int linked = 0;
    if (p->node_count)
        right = MAX(right, datsync_flat_right_span(p->nodes[p->node_count - 1].index));
    p->length = right / 2 + 1;
    if (p->length > DATSYNC_MAX_BLOCKS)
        return DATSYNC_E_TOO_BIG;
    uint64_t index[64];
    p->root_count = datsync_flat_full_roots(index, p->length);
    int r;
    for (size_t i = 0; i < p->root_count; i++) {
        if (index[i] == p->top.index) {
            linked = 1;
            p->roots[i] = p->top;
            p->store[p->store_count++] = p->top;
        } else if (p->node_count && p->nodes[0].index == index[i]) {
            p->roots[i] = *p->nodes++;
            p->node_count--;
            p->store[p->store_count++] = p->roots[i];
        } else if ((r = tree_get(f, index[i], &p->roots[i])) < 0) {
            return r == DATSYNC_E_NOT_FOUND ? DATSYNC_E_PROOF : r;
        }
    }
    if (!linked) /* the signature, however good, would say nothing of this block */
        return DATSYNC_E_PROOF;
    uint8_t root[32];
    datsync_root_hash(root, p->roots, p->root_count);
    if (!proof->has_signature) {
        if (f->is_static && p->length != f->length)
            return DATSYNC_E_PROOF;
        if (memcmp(root, f->key, 32) != 0)
            return f->is_static ? DATSYNC_E_HASH : DATSYNC_E_NO_SIGNATURE;
        f->is_static = 1;
        return 0;
    }
    if (f->last.stored_length != p->length)
        p->signature = proof->signature;
    return signature_verify(f, p->length, root, proof->signature);
}

/* Everything is verified: write data, nodes and signature, and only then claim them. */
static int put_store(datsync_feed *f, putting *p)
{
    uint64_t offset = 0, old = f->length;
    int r, fresh = 0;
    for (size_t i = 0; i < p->store_count; i++)
        if ((r = tree_put(f, &p->store[i])) < 0)
            return r;
    if (p->signature) {
        r = feed_write(f, DATSYNC_PART_SIGNATURES, signature_at(p->length - 1), p->signature, SIGNATURE_BYTES);
        if (r < 0)
            return r;
        f->last.stored_length = p->length;
    }
    for (size_t i = 0; i < p->store_count; i++)
        if ((r = tree_claim(f, p->store[i].index)) < 0)
            return r;
    if ((r = tree_claim(f, 2 * p->index)) < 0)
        return r;
    if (p->length > f->length)
        feed_set_length(f, p->length, p->roots, p->root_count);
    if (p->value.data && !bits_get(&f->have, p->index)) {
        if ((r = block_offset(f, p->index, &offset)) < 0)
            return r == DATSYNC_E_NOT_FOUND ? DATSYNC_E_PROOF : r;
        if ((r = data_keep(f, p->index, offset, p->value)) <= 0)
            return r;
        block_offset_next(f, p->index, offset, p->value.len);
        if ((fresh = block_claim(f, p->index, 1)) < 0)
            return fresh;
    }
    if (fresh || p->store_count || f->length > old)
        if ((r = group_add(f, p->value.data ? p->value.len : 0)) < 0)
            return r;
    if (fresh)
        tell_added(f, p->index, p->index + 1);
    return fresh;
}

int datsync_feed_put(datsync_feed *f, uint64_t index, datsync_bytes value, const datsync_proof *proof)
{
    if (f->flags & DATSYNC_READ_ONLY)
        return DATSYNC_E_READ_ONLY;
    if (index >= DATSYNC_MAX_BLOCKS || proof->node_count > DATSYNC_MAX_PROOF || !f->has_key)
        return DATSYNC_E_INVALID;
    if (value.data && value.len > DATSYNC_MAX_FRAME)
        return DATSYNC_E_TOO_BIG;
    for (size_t i = 0; i < proof->node_count; i++)
        if (proof->nodes[i].index >= 2 * DATSYNC_MAX_BLOCKS ||
            proof->nodes[i].size > DATSYNC_MAX_BLOCKS * DATSYNC_MAX_FRAME)
            return DATSYNC_E_TOO_BIG;
    putting p;
    p.index = index;
    p.value = value;
    p.nodes = proof->nodes;
    p.node_count = proof->node_count;
    p.store_count = p.root_count = 0;
    p.length = 0;
    p.signature = NULL;
    if (value.data) {
        datsync_leaf_hashes(&p.top, &value, 1);
        p.top.index = 2 * index;
    } else {
        if (!p.node_count || p.nodes[0].index != 2 * index)
            return DATSYNC_E_PROOF;
        p.top = *p.nodes++;
        p.node_count--;
    }
    int r = put_climb(f, &p);
    if (r == 0) {
        f->stuck = p.top.index;
        r = put_roots(f, &p, proof);
    }
    return r < 0 ? r : put_store(f, &p);
}

/* Where the last proof that lacked nodes could not climb on. */
static uint64_t feed_stuck(const datsync_feed *f)
{
    return f->stuck;
}

/* ================================================================ feed: verifying ================================ */

/* Read everything and check it: each block against its leaf, each leaf up to the roots, the roots against a
 * signature. Unless the feed is read-only, a block that fails is no longer claimed. */

/* A node with nothing above it: is it one of the roots of a tree, of this length or an earlier one, whose signature
 * verifies? 1, 0, or the store's error. (A part of a growing feed may hang from the roots of its past.) */
static int verify_root(datsync_feed *f, uint64_t index, uint64_t *good_length)
{
    uint64_t length = tree_verified_by(f, index) / 2;
    if (length == *good_length)
        return 1;
    if (!length)
        return 0;
    datsync_node roots[64];
    size_t count;
    int r;
    if ((r = roots_read(f, length, roots, &count)) < 0)
        return is_fatal(r) ? r : 0;
    uint8_t root[32];
    datsync_root_hash(root, roots, count);
    uint8_t signature[SIGNATURE_BYTES];
    if (f->is_static) {
        if (memcmp(root, f->key, 32) != 0)
            return 0;
    } else {
        if ((r = feed_read_exact(f, DATSYNC_PART_SIGNATURES, signature_at(length - 1), signature, SIGNATURE_BYTES)) < 0)
            return r;
        if (crypto_sign_verify_detached(signature, root, 32, f->key) != 0)
            return 0;
    }
    *good_length = length;
    return 1;
}

/* One step up from a held node: 1 with the parent's index if it hashes right, 0 if there is no parent here,
 * DATSYNC_E_HASH, or the store's error. */
static int verify_parent(datsync_feed *f, const datsync_node *node, uint64_t *parent)
{
    *parent = datsync_flat_parent(node->index);
    if (!bits_get(&f->nodes, *parent) || !bits_get(&f->nodes, datsync_flat_sibling(node->index)))
        return 0;
    datsync_node sibling, want;
    int r;
    if ((r = tree_get(f, datsync_flat_sibling(node->index), &sibling)) < 0 || (r = tree_get(f, *parent, &want)) < 0)
        return is_fatal(r) ? r : DATSYNC_E_HASH;
    datsync_node got;
    if (sibling.index < node->index)
        datsync_parent_hash(&got, &sibling, node);
    else
        datsync_parent_hash(&got, node, &sibling);
    return memcmp(got.hash, want.hash, 32) == 0 && got.size == want.size ? 1 : DATSYNC_E_HASH;
}

/* Up from a leaf that agrees with its block: the part that is wrong, DATSYNC_PARTS if none is, or the store's error.
 * `done` is a node of the way up that was followed before. */
static int verify_climb(datsync_feed *f, uint64_t index, uint64_t *good_length, uint64_t done)
{
    datsync_node node;
    uint64_t parent;
    int r;
    for (; index != done; index = parent) {
        if ((r = tree_get(f, index, &node)) < 0 || (r = verify_parent(f, &node, &parent)) < 0)
            return is_fatal(r) ? r : DATSYNC_PART_TREE;
        if (r == 0) {
            r = verify_root(f, index, good_length);
            return r < 0 ? r : r ? DATSYNC_PARTS : f->is_static ? DATSYNC_PART_TREE : DATSYNC_PART_SIGNATURES;
        }
    }
    return DATSYNC_PARTS;
}

/* The part in which block i is wrong, DATSYNC_PARTS if none is, or the store's error. */
static int verify_block(datsync_feed *f, uint64_t i, uint8_t **buf, size_t *cap, uint64_t *good_length, uint64_t *done)
{
    datsync_node want;
    uint64_t offset;
    int r;
    if ((r = tree_get(f, 2 * i, &want)) < 0 || (r = block_offset(f, i, &offset)) < 0 || want.size > DATSYNC_MAX_FRAME)
        return is_fatal(r) ? r : DATSYNC_PART_TREE;
    if ((r = mem_grow(&f->env, buf, cap, (size_t)want.size + 1, 1)) < 0)
        return r;
    if ((r = block_read_raw(f, i, *buf, (size_t)want.size)) < 0)
        return is_fatal(r) ? r : DATSYNC_PART_DATA;
    datsync_bytes block;
    block.data = *buf;
    block.len = (size_t)want.size;
    datsync_node got;
    datsync_leaf_hashes(&got, &block, 1);
    got.index = 2 * i;
    if (memcmp(got.hash, want.hash, 32) != 0) { /* if the parent agrees with the block, it is the leaf that is wrong */
        r = verify_parent(f, &got, &offset);
        return is_fatal(r) ? r : r == 1 ? DATSYNC_PART_TREE : DATSYNC_PART_DATA;
    }
    r = verify_climb(f, 2 * i, good_length, *done);
    if (r == DATSYNC_PARTS && !(i & 1))
        *done = datsync_flat_parent(2 * i); /* the right neighbour need not climb the same way again */
    return r;
}

int64_t datsync_feed_verify(datsync_feed *f, datsync_fault_fn *fn, void *ctx)
{
    uint64_t good = 0, good_length = NONE, done = NONE;
    uint8_t *buf = NULL;
    size_t cap = 0;
    int r = gather_flush(f);
    if (r < 0)
        return r;
    for (uint64_t i = claims_next_dropped(f, 0); i != NONE; i = claims_next_dropped(f, i + 1))
        fn(ctx, i, bits_get(&f->nodes, 2 * i) ? DATSYNC_PART_DATA : DATSYNC_PART_TREE);
    claims_forget_dropped(f);
    if (claims_are_apart(f) && !feed_is_kept(f) && !feed_read_only(f) &&
        f->store.size(f->store.ctx, DATSYNC_PART_DATA) >= 0)
        r = claims_rejoin(f); /* a data part that is not there at all may be away; one that is cut off is damaged */
    for (uint64_t i = bits_next(&f->have, 0, f->length, 1); i < f->length && r >= 0;
         i = bits_next(&f->have, i + 1, f->length, 1)) {
        r = verify_block(f, i, &buf, &cap, &good_length, &done);
        good += r == DATSYNC_PARTS;
        if (r < 0 || r == DATSYNC_PARTS)
            continue;
        fn(ctx, i, r);
        if (!feed_read_only(f))
            r = block_claim(f, i, 0);
    }
    mem_free(&f->env, buf);
    if (r >= 0 && f->uncommitted)
        r = datsync_feed_flush(f);
    return r < 0 ? r : (int64_t)good;
}

/* ================================================================ feed: wanting ================================= */

/* What is to be downloaded, and what is on its way at some peer. All connections of a feed share this: a block is
 * asked of one of them at a time. */

int datsync_feed_want(datsync_feed *f, uint64_t start, uint64_t end)
{
    if (start > end)
        return DATSYNC_E_INVALID;
    f->wanting.all = 0;
    return bits_fill(&f->env, &f->wanting.wanted, MIN(start, DATSYNC_MAX_BLOCKS), MIN(end, DATSYNC_MAX_BLOCKS), 1);
}

void datsync_feed_unwant(datsync_feed *f)
{
    f->wanting.all = 0;
    bits_free(&f->env, &f->wanting.wanted);
}

static uint64_t next_wanted(const datsync_feed *f, uint64_t from, uint64_t end)
{
    return f->wanting.all ? MIN(from, end) : bits_next(&f->wanting.wanted, from, end, 1);
}

/* The first block in [from, end) that is wanted and not held. */
static uint64_t next_missing(const datsync_feed *f, uint64_t from, uint64_t end)
{
    for (;;) {
        uint64_t i = next_wanted(f, from, end);
        from = bits_next(&f->have, i, end, 0);
        if (from == i || from >= end)
            return from;
    }
}

uint64_t datsync_feed_missing(const datsync_feed *f)
{
    uint64_t n = 0;
    if (f->wanting.all)
        return f->length - datsync_feed_count(f, 0, f->length);
    for (uint64_t i = next_missing(f, 0, f->length); i < f->length; i = next_missing(f, i + 1, f->length))
        n++;
    return n;
}

/* The first block in [from, end) that is wanted, not held, not in flight and offered. */
static uint64_t next_candidate(const datsync_feed *f, const bits *offered, uint64_t from, uint64_t end)
{
    for (;;) {
        uint64_t i = next_missing(f, from, end);
        from = bits_next(&f->wanting.reserved, i, end, 0);
        from = bits_next(offered, from, end, 1);
        if (from == i || from >= end)
            return from;
    }
}

/* A block that is in flight at some peer is asked of no other. */
static int feed_reserve(datsync_feed *f, uint64_t index)
{
    return bits_set(&f->env, &f->wanting.reserved, index, 1) < 0 ? DATSYNC_E_NOMEM : 0;
}

static void feed_release(datsync_feed *f, uint64_t index)
{
    (void)bits_set(&f->env, &f->wanting.reserved, index, 0); /* clearing takes no memory */
}

/* Is it to be asked for: wanted, not held and not in flight? */
static int feed_asks_for(const datsync_feed *f, uint64_t index)
{
    return !bits_get(&f->have, index) && !bits_get(&f->wanting.reserved, index) &&
           next_wanted(f, index, index + 1) == index;
}

/* Take a range into what is wanted, or out of it. */
static OPTIONAL int feed_want_range(datsync_feed *f, uint64_t start, uint64_t end, int value)
{
    return bits_fill(&f->env, &f->wanting.wanted, start, end, value);
}

static int feed_wants_all(const datsync_feed *f)
{
    return f->wanting.all;
}

/* A peer turned out to lack nodes that were promised: from now on no digest counts on them. */
static void feed_distrust(datsync_feed *f)
{
    f->wanting.distrust = 1;
}

static int feed_trusts(const datsync_feed *f)
{
    return !f->wanting.distrust;
}

/* A peer may close when it is asked for a block that it told of (the deployed one does, where it lacks the hash). So
 * the block that was asked for when a connection ended is shunned: it is asked for last, when nothing else is on its
 * way. */
static void feed_shun(datsync_feed *f, uint64_t index)
{
    unsigned n = 0;
    for (unsigned i = 0; i < f->wanting.shunned_count; i++)
        if (f->wanting.shunned[i] != index && !bits_get(&f->have, f->wanting.shunned[i]))
            f->wanting.shunned[n++] = f->wanting.shunned[i];
    if (n == SHUNNED)
        memmove(f->wanting.shunned, f->wanting.shunned + 1, --n * sizeof f->wanting.shunned[0]);
    f->wanting.shunned[n++] = index;
    f->wanting.shunned_count = n;
}

/* Keep the shunned blocks from the choice, as ones that are reserved. Returns which, a bit for each, the oldest
 * first. */
static unsigned shunned_reserve(datsync_feed *f)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < f->wanting.shunned_count; i++)
        if (!bits_get(&f->have, f->wanting.shunned[i]) && !bits_get(&f->wanting.reserved, f->wanting.shunned[i])) {
            if (feed_reserve(f, f->wanting.shunned[i]) < 0)
                break;
            kept |= 1u << i;
        }
    return kept;
}

static void shunned_release(datsync_feed *f, unsigned i)
{
    feed_release(f, f->wanting.shunned[i]);
}

/* ================================================================ peer: state =================================== */

/* One connection: its channels, one for each feed that either side opened, and what is known of the remote on each.
 * No other house names these members. */

/* A block that was asked for. Walking up from its leaf to `top`, every node and its sibling are promised: they come
 * with the answer, so that later requests need not ask for them again. */
typedef struct flight {
    uint64_t index; /* NONE: answered */
    uint64_t sent, top;
} flight;

/* An answer that came before the nodes that it needs (the deployed implementation answers out of order). */
typedef struct parked {
    struct parked *next;
    flight flight;
    uint64_t stuck; /* the node from which its proof could not climb on */
    size_t len;
    /* the frame follows */
} parked;

typedef struct request {
    struct channel *channel;
    uint64_t index, bytes, nodes;
    int hash;
} request;

/* A set of node indexes, open addressing; what is promised by requests in flight. Slots hold index + 1. */
typedef struct promises {
    uint64_t *slots;
    size_t cap, count;
} promises;

/* One feed on one connection. What a few rooms touch is in a struct of its own. */
typedef struct channel {
    watcher watch; /* first: the feed calls with it */
    datsync_peer *peer;
    datsync_feed *feed; /* NULL: not open on this side */
    uint8_t discovery_key[32];
    int local, remote; /* channel numbers, -1: not open */
    unsigned mode;
    int remote_wants, remote_downloading;

    bits offered;           /* what the remote has */
    uint64_t remote_length; /* behind the last of it */
    uint64_t heard_end;     /* behind the last of what it told of after its Wants were answered */
    bits late;              /* asked, given up, may still come */
    bits asked;             /* of a peer of 2017 or 2018, on this channel */
    promises promised;      /* nodes that come with answers */
    uint64_t progress;      /* when the last answer came */
    uint64_t ask_after;     /* no request before */
    uint64_t last_bytes;    /* the last byte offset asked for: a repeat is dropped */

    struct {
        bits sent;                          /* by range */
        uint64_t starts[DATSYNC_MAX_WANTS]; /* of the open ones: sent, not answered yet */
        unsigned out, answered;
        int whole; /* the remote tells its whole bitfield at once: a peer of 2017 or 2018 */
        enum { HINT_NONE, HINT_FRESH, HINT_OVER } hint; /* a single block was told of, and it may be not there */
    } wants;

    struct {
        uint64_t wants[DATSYNC_MAX_WANTS][2]; /* the remote's, not answered yet: start, length */
        unsigned count;
    } due;

    struct {
        flight *ring; /* of DATSYNC_MAX_REQUESTS */
        size_t head, count, open;
    } flights;

    struct {
        parked *first;
        size_t bytes, count;
        int reorders; /* this remote does answer out of order */
    } parked;

    struct {
        uint64_t at, end; /* the run of blocks that is asked from this peer */
    } run;

    struct {
        uint64_t since, bytes, per_second;
        uint64_t block_bytes, delay; /* of a mean block; the shortest time of an answer */
    } rate;

    struct {
        uint64_t start, end; /* added, not announced yet */
        bits acks;           /* to be acknowledged after the next commit */
        uint64_t acks_end;   /* of those that are committed */
        int told;            /* a Have was sent */
    } news;

    struct {
        int told, finished; /* that nothing more is wanted; this side is done */
    } ending;

    struct {
        uint8_t *bytes; /* frames that came before datsync_peer_open */
        size_t len, cap;
        unsigned count;
    } early;
} channel;

struct datsync_peer {
    datsync_env env;
    datsync_peer_options opt;
    uint8_t id[32], remote_id[32];
    uint64_t now;
    int error; /* what ended it */

    channel **channels; /* all, in the order in which they appeared */
    size_t channel_count, channel_cap;
    channel *by_number[DATSYNC_MAX_CHANNELS]; /* the remote's numbers */
    unsigned local_count;
    int handshaken, remote_live, remote_ack;
    size_t early_total; /* bytes, of all channels */
    size_t in_flight;   /* requests, of all channels */
    uint64_t last_in, last_out, bytes_in, bytes_out;
    uint64_t wary_until; /* until then no bitfield is believed about blocks behind the verified length */
    int wake;            /* a feed was opened; what waited for it can be parsed by the next tick */
    uint8_t *user_data;  /* a copy */

    struct {
        datsync_cipher in, out;
        int has_nonce, in_ready;
        uint8_t nonce[24]; /* the remote's */
    } cipher;

    struct {
        char **names; /* sorted */
        size_t count;
        int remote[DATSYNC_MAX_EXTENSIONS]; /* the remote's index -> ours, -1 */
        size_t remote_count;
    } extensions;

    struct {
        uint8_t *buf;
        size_t cap, start, clear, end; /* decrypted up to `clear` */
        int was_full, paused, starved; /* starved: a large frame waits for the pool, which another one owns */
    } in;

    struct {
        uint8_t *buf;
        size_t cap, start, crypt, end; /* encrypted up to `crypt` */
    } out;

    struct {
        request *ring;
        size_t cap, head, count;
    } queue; /* requests that are to be answered */
};

static void peer_event(datsync_peer *p, int type, channel *c, uint64_t index, uint64_t size, int error)
{
    if (!p->opt.on_event)
        return;
    datsync_peer_event e;
    memset(&e, 0, sizeof e);
    e.type = type;
    e.feed = c ? c->feed : NULL;
    e.discovery_key = c ? c->discovery_key : NULL;
    e.index = index;
    e.size = size;
    e.error = error;
    p->opt.on_event(p->opt.ctx, p, &e);
}

static uint32_t peer_timeout(const datsync_peer *p)
{
    return p->opt.timeout_ms ? p->opt.timeout_ms : DATSYNC_TIMEOUT_MS;
}

static uint64_t later(uint64_t t, uint64_t ms)
{
    return t + ms < t ? NONE : t + ms;
}

static channel *channel_by_feed(const datsync_peer *p, const datsync_feed *feed)
{
    for (size_t i = 0; i < p->channel_count && feed; i++)
        if (p->channels[i]->feed == feed)
            return p->channels[i];
    return NULL;
}

static channel *channel_by_key(const datsync_peer *p, const uint8_t discovery_key[32])
{
    for (size_t i = 0; i < p->channel_count; i++)
        if (memcmp(p->channels[i]->discovery_key, discovery_key, 32) == 0)
            return p->channels[i];
    return NULL;
}

/* ================================================================ peer: output ================================== */

/* Builds the frames that go out: Have and Unhave, acknowledgements, answers to Wants and to Requests. Frames are
 * encrypted when they are taken. While DATSYNC_MAX_OUTPUT bytes wait (OUTPUT_BYTES for Requests) no more answers are
 * begun; what is due waits in small tables. An Unhave does not wait. */

static size_t out_pending(const datsync_peer *p)
{
    return p->out.end - p->out.start;
}

/* Room for n more bytes behind what is there. */
static uint8_t *out_room(datsync_peer *p, size_t n)
{
    if (p->out.start == p->out.end)
        p->out.start = p->out.crypt = p->out.end = 0;
    if (p->out.start && p->out.end + n > p->out.cap) {
        memmove(p->out.buf, p->out.buf + p->out.start, p->out.end - p->out.start);
        p->out.end -= p->out.start;
        p->out.crypt -= p->out.start;
        p->out.start = 0;
    }
    if (p->out.end + n > p->out.cap) {
        size_t cap = p->out.cap ? p->out.cap : 512;
        while (cap < p->out.end + n)
            cap *= 2;
        uint8_t *out = mem_resize(&p->env, p->out.buf, cap);
        if (!out)
            return NULL;
        p->out.buf = out;
        p->out.cap = cap;
    }
    return bytes_at(p->out.buf, p->out.end);
}

/* Append a message; the place of a Data's value is returned in *gap if asked for. */
static int out_message(datsync_peer *p, const datsync_message *m, uint8_t **gap)
{
    int64_t n = datsync_encode(m, NULL, 0, NULL);
    size_t at = 0;
    if (n < 0)
        return (int)n;
    uint8_t *to = out_room(p, (size_t)n);
    if (!to)
        return DATSYNC_E_NOMEM;
    n = datsync_encode(m, to, (size_t)n, &at);
    if (n < 0)
        return (int)n;
    if (gap)
        *gap = to + at;
    p->out.end += (size_t)n;
    return 0;
}

static void message_init(datsync_message *m, int type, const channel *c, uint32_t has)
{
    memset(m, 0, sizeof *m);
    m->type = type;
    m->channel = (unsigned)c->local;
    m->has = has;
}

static int out_range(channel *c, int type, uint64_t start, uint64_t length)
{
    datsync_message m;
    message_init(&m, type, c,
                 length == 1 && type != DATSYNC_WANT ? DATSYNC_HAVE_START : DATSYNC_HAVE_START | DATSYNC_HAVE_LENGTH);
    m.u.have.start = start;
    m.u.have.length = length;
    c->news.told |= type == DATSYNC_HAVE;
    return out_message(c->peer, &m, NULL);
}

/* A Have of a bitfield; one that says nothing must be there all the same, with no bytes. */
static int out_have_bitfield(channel *c, uint64_t start, uint64_t length, const uint8_t *code, size_t len)
{
    datsync_message m;
    message_init(&m, DATSYNC_HAVE, c, DATSYNC_HAVE_START | DATSYNC_HAVE_LENGTH | DATSYNC_HAVE_BITFIELD);
    m.u.have.start = start;
    m.u.have.length = length;
    m.u.have.bitfield.data = code;
    m.u.have.bitfield.len = len;
    c->news.told = 1;
    return out_message(c->peer, &m, NULL);
}

static int out_info(channel *c, int uploading, int downloading)
{
    datsync_message m;
    message_init(&m, DATSYNC_INFO, c, DATSYNC_INFO_UPLOADING | DATSYNC_INFO_DOWNLOADING);
    m.u.info.uploading = (uint64_t)uploading;
    m.u.info.downloading = (uint64_t)downloading;
    return out_message(c->peer, &m, NULL);
}

/* The feed tells of changes. */
static void on_added(watcher *w, uint64_t start, uint64_t end)
{
    channel *c = (channel *)w;
    if (!c->remote_wants)
        return;
    if (c->news.start >= c->news.end) {
        c->news.start = start;
        c->news.end = end;
    }
    c->news.start = MIN(c->news.start, start);
    c->news.end = MAX(c->news.end, end);
}

static void on_cleared(watcher *w, uint64_t start, uint64_t end)
{
    channel *c = (channel *)w;
    (void)bits_fill(&c->peer->env, &c->news.acks, start, end, 0);
    if (c->remote_wants && !c->peer->error && out_range(c, DATSYNC_UNHAVE, start, end - start) < 0)
        c->peer->error = DATSYNC_E_NOMEM;
}

static void on_committed(watcher *w)
{
    channel *c = (channel *)w;
    c->news.acks_end = bits_length(&c->news.acks);
}

/* Announce what was added since the last time, as runs, but not what the remote has. */
static int out_added(channel *c)
{
    datsync_feed *f = c->feed;
    uint64_t end = feed_durable_end(f, c->news.end);
    int r = 0;
    while (c->news.start < end && r == 0 && out_pending(c->peer) < DATSYNC_MAX_OUTPUT) {
        uint64_t i = feed_next_held(f, c->news.start, end);
        i = bits_next(&c->offered, i, end, 0);
        c->news.start = i;
        if (i >= end || !datsync_feed_has(f, i))
            continue;
        uint64_t stop = bits_next(&c->offered, i, feed_next_lacked(f, i, end), 1);
        r = out_range(c, DATSYNC_HAVE, i, stop - i);
        c->news.start = stop;
    }
    return r;
}

/* A block came: it is acknowledged after the next commit, to who asks for that. */
static int out_ack_later(channel *c, uint64_t index)
{
    return c->peer->remote_ack ? bits_set(&c->peer->env, &c->news.acks, index, 1) : 0;
}

static int out_acks(channel *c)
{
    uint64_t i, end = c->news.acks_end;
    int r = 0;
    for (i = bits_next(&c->news.acks, 0, end, 1); i < end && r == 0 && out_pending(c->peer) < DATSYNC_MAX_OUTPUT;
         i = bits_next(&c->news.acks, i, end, 1)) {
        datsync_message m;
        message_init(&m, DATSYNC_HAVE, c, DATSYNC_HAVE_START | DATSYNC_HAVE_LENGTH | DATSYNC_HAVE_ACK);
        m.u.have.start = i;
        m.u.have.length = m.u.have.ack = 1;
        r = out_message(c->peer, &m, NULL);
        if (bits_set(&c->peer->env, &c->news.acks, i, 0) < 0)
            r = DATSYNC_E_NOMEM;
    }
    if (i >= end)
        c->news.acks_end = 0;
    return r;
}

/* The answer to a Want: the bitfield of the range (PROTOCOL 10.4). That the last block goes ahead of the first
 * answer (10.5) is in on_want. */
static int out_bitfield(channel *c, uint64_t start, uint64_t length)
{
    datsync_feed *f = c->feed;
    uint64_t held = feed_held_end(f);
    uint64_t end = length ? start + MIN(length, DATSYNC_MAX_BLOCKS) : held;
    int r;
    if ((r = feed_make_durable(f)) < 0)
        return r;
    end = MIN(end, held);
    end = MIN(end, start + (uint64_t)DATSYNC_WANT_RANGE * 32); /* never more than half a frame */
    if (!(c->mode & DATSYNC_UPLOAD))
        end = start;
    size_t bytes = end > start ? (size_t)((end - start + 7) / 8) : 0;
    uint8_t *buf = mem_resize(&c->peer->env, NULL, 2 * bytes + bytes / 64 + 17);
    if (!buf)
        return DATSYNC_E_NOMEM;
    feed_read_held(f, start, buf, bytes);
    int64_t n = datsync_rle_encode(buf, bytes, buf + bytes, bytes + bytes / 64 + 17);
    r = out_have_bitfield(c, start, length, buf + bytes, n > 0 ? (size_t)n : 0);
    mem_free(&c->peer->env, buf);
    return r;
}

static int answer_wants(channel *c)
{
    unsigned i;
    int r = 0;
    for (i = 0; i < c->due.count && r == 0; i++) {
        if (out_pending(c->peer) >= DATSYNC_MAX_OUTPUT)
            break;
        r = out_bitfield(c, c->due.wants[i][0], c->due.wants[i][1]);
    }
    memmove(c->due.wants, c->due.wants + i, (c->due.count - i) * sizeof c->due.wants[0]);
    c->due.count -= i;
    return r;
}

/* ------------------------------------------------ answers */

/* The block is not here, whatever was said: say so. */
static int answer_unhave(channel *c, uint64_t index)
{
    if (!c->remote_wants || out_pending(c->peer) >= DATSYNC_MAX_OUTPUT)
        return 0;
    return out_range(c, DATSYNC_UNHAVE, index, 1);
}

static int answer_request(datsync_peer *p, request *q)
{
    channel *c = q->channel;
    datsync_feed *f = c->feed;
    uint8_t *gap = NULL;
    int r;
    if ((r = feed_make_durable(f)) < 0)
        return r;
    uint64_t inside;
    if (q->bytes) {
        if (datsync_feed_seek(f, q->bytes, &q->index, &inside) == 0) {
            if (c->last_bytes == q->bytes)
                return 0;
            c->last_bytes = q->bytes;
            q->nodes = 0;
        }
    }
    if (!q->hash && !datsync_feed_has(f, q->index))
        return answer_unhave(c, q->index);
    datsync_proof proof;
    r = datsync_feed_proof(f, q->index, q->nodes, q->hash, &proof);
    if (r == DATSYNC_E_NOT_FOUND || r == DATSYNC_E_NO_SIGNATURE || r == DATSYNC_E_CORRUPT)
        return answer_unhave(c, q->index);
    int64_t size = r < 0 ? r : datsync_feed_block_size(f, q->index);
    if (size < 0)
        return (int)size;
    datsync_message m;
    message_init(&m, DATSYNC_DATA, c, DATSYNC_DATA_INDEX);
    m.u.data.index = q->index;
    m.u.data.nodes = proof.nodes;
    m.u.data.node_count = proof.node_count;
    if (!q->hash) {
        m.has |= DATSYNC_DATA_VALUE;
        m.u.data.value.len = (size_t)size;
    }
    if (proof.has_signature) {
        m.has |= DATSYNC_DATA_SIGNATURE;
        m.u.data.signature.data = proof.signature;
        m.u.data.signature.len = SIGNATURE_BYTES;
    }
    if ((r = out_message(p, &m, &gap)) < 0)
        return r == DATSYNC_E_TOO_BIG ? answer_unhave(c, q->index) : r;
    size_t before = p->out.end;
    if (!q->hash && (r = block_read_out(f, q->index, gap, (size_t)size)) < 0) {
        p->out.end = before - (size_t)datsync_encode(&m, NULL, 0, NULL);
        env_log(&p->env, DATSYNC_LOG_ERROR, "a block that is claimed could not be read");
        return block_lost(f, q->index, r);
    }
    if (!q->hash)
        peer_event(p, DATSYNC_PEER_UPLOAD, c, q->index, (uint64_t)size, 0);
    return 0;
}

static int answer_requests(datsync_peer *p)
{
    int r = 0;
    while (p->queue.count && out_pending(p) < OUTPUT_BYTES && r == 0) {
        request q = p->queue.ring[p->queue.head];
        p->queue.head = (p->queue.head + 1) & (p->queue.cap - 1);
        p->queue.count--;
        if (q.channel)
            r = answer_request(p, &q);
    }
    return r;
}

/* ================================================================ peer: flights ================================== */

/* Requests that were sent and not answered. A request tells by its digest which nodes the remote need not send: those
 * that are held, and those that answers on their way were promised to bring. An answer that comes before the nodes it
 * needs is parked until they are here. How many are in flight follows the measured rate and delay. */

/* ------------------------------------------------ promises */

static size_t promise_slot(const promises *s, uint64_t index)
{
    return (size_t)((index * 0x9e3779b97f4a7c15u) >> 32) & (s->cap - 1);
}

static int promise_get(const promises *s, uint64_t index)
{
    if (!s->count)
        return 0;
    for (size_t i = promise_slot(s, index); s->slots[i]; i = (i + 1) & (s->cap - 1))
        if (s->slots[i] == index + 1)
            return 1;
    return 0;
}

static void promise_insert(promises *s, uint64_t index)
{
    size_t i;
    for (i = promise_slot(s, index); s->slots[i]; i = (i + 1) & (s->cap - 1))
        if (s->slots[i] == index + 1)
            return;
    s->slots[i] = index + 1;
    s->count++;
}

static int promise_add(const datsync_env *env, promises *s, uint64_t index)
{
    if (2 * (s->count + 1) > s->cap) {
        promises bigger = {NULL, s->cap ? 2 * s->cap : 64, 0};
        bigger.slots = mem_zeroed(env, bigger.cap * sizeof *bigger.slots);
        if (!bigger.slots)
            return DATSYNC_E_NOMEM;
        for (size_t i = 0; i < s->cap; i++)
            if (s->slots[i])
                promise_insert(&bigger, s->slots[i] - 1);
        mem_free(env, s->slots);
        *s = bigger;
    }
    promise_insert(s, index);
    return 0;
}

static void promise_remove(promises *s, uint64_t index)
{
    if (!s->count)
        return;
    size_t i;
    for (i = promise_slot(s, index); s->slots[i] != index + 1; i = (i + 1) & (s->cap - 1))
        if (!s->slots[i])
            return;
    s->count--;
    for (size_t j = (i + 1) & (s->cap - 1); s->slots[j]; j = (j + 1) & (s->cap - 1)) { /* close the gap */
        size_t home = promise_slot(s, s->slots[j] - 1);
        if (((j - home) & (s->cap - 1)) >= ((j - i) & (s->cap - 1))) {
            s->slots[i] = s->slots[j];
            i = j;
        }
    }
    s->slots[i] = 0;
}

/* Held, or on its way here on this channel. */
static int node_coming(const channel *c, uint64_t index)
{
    return datsync_feed_has_node(c->feed, index) || promise_get(&c->promised, index);
}

/* The digest of a block, counting what is promised; and note what its answer promises in turn. That is certain only
 * where the remote holds every block below the parent (it then holds the parent, and its proof passes it), inside a
 * length that is verified here. */
static int digest_ahead(channel *c, uint64_t index, flight *fl, uint64_t *digest)
{
    uint64_t length = datsync_feed_length(c->feed), next = 2 * index, bit = 2;
    int r = 0, certain = index < length && feed_trusts(c->feed);
    fl->top = next;
    if (!certain) {
        *digest = datsync_feed_digest(c->feed, index);
        return 0;
    }
    *digest = 0;
    if (node_coming(c, next)) {
        *digest = 1;
        return 0;
    }
    uint64_t parent;
    for (; datsync_flat_right_span(parent = datsync_flat_parent(next)) < 2 * length; next = parent, bit *= 2) {
        uint64_t left = datsync_flat_left_span(parent) / 2, right = datsync_flat_right_span(parent) / 2 + 1;
        int parent_coming = node_coming(c, parent);
        uint64_t sibling = datsync_flat_sibling(next);
        if (node_coming(c, sibling))
            *digest |= bit;
        certain = certain && bits_next(&c->offered, left, right, 0) == right;
        if (certain) {
            if ((r = promise_add(&c->peer->env, &c->promised, next)) < 0 ||
                (r = promise_add(&c->peer->env, &c->promised, sibling)) < 0)
                return r;
            fl->top = parent;
        }
        if (parent_coming) {
            *digest |= 2 * bit | 1;
            if (*digest + 1 == 4 * bit)
                *digest = 1;
            return 0;
        }
    }
    return 0;
}

static void promises_withdraw(channel *c, const flight *fl)
{
    for (uint64_t next = 2 * fl->index; next != fl->top; next = datsync_flat_parent(next)) {
        promise_remove(&c->promised, next);
        promise_remove(&c->promised, datsync_flat_sibling(next));
    }
}

/* ------------------------------------------------ requests in flight */

static size_t flights_open(const channel *c)
{
    return c->flights.open;
}

/* The oldest request that is still open, or NULL. The first of the ring is never one that was answered. */
static flight *flight_oldest(const channel *c)
{
    return c->flights.open ? &c->flights.ring[c->flights.head] : NULL;
}

/* Is there room for one more? */
static int flights_have_room(const channel *c)
{
    return c->peer->in_flight < DATSYNC_MAX_REQUESTS && c->flights.count < DATSYNC_MAX_REQUESTS;
}

/* A request goes out: its block is asked of nobody else, and *digest tells the remote which nodes it need not send. */
static int flight_begin(channel *c, uint64_t index, uint64_t *digest)
{
    datsync_peer *p = c->peer;
    if (!c->flights.ring) {
        c->flights.ring = mem_resize(&p->env, NULL, DATSYNC_MAX_REQUESTS * sizeof *c->flights.ring);
        if (!c->flights.ring)
            return DATSYNC_E_NOMEM;
    }
    flight *fl = &c->flights.ring[(c->flights.head + c->flights.count) % DATSYNC_MAX_REQUESTS];
    fl->index = index;
    fl->sent = p->now;
    int r;
    if ((r = digest_ahead(c, index, fl, digest)) < 0 || (r = feed_reserve(c->feed, index)) < 0)
        return r;
    if (c->flights.open == 0)
        c->progress = p->now;
    c->flights.count++;
    c->flights.open++;
    p->in_flight++;
    return 0;
}

/* It ends: its block may be asked for again. */
static void flight_end(channel *c, flight *fl)
{
    promises_withdraw(c, fl);
    feed_release(c->feed, fl->index);
    fl->index = NONE;
    c->flights.open--;
    c->peer->in_flight--;
    while (c->flights.count && c->flights.ring[c->flights.head].index == NONE) {
        c->flights.head = (c->flights.head + 1) % DATSYNC_MAX_REQUESTS;
        c->flights.count--;
    }
}

static flight *flight_find(channel *c, uint64_t index)
{
    for (size_t i = 0; i < c->flights.count && index < DATSYNC_MAX_BLOCKS; i++) {
        flight *fl = &c->flights.ring[(c->flights.head + i) % DATSYNC_MAX_REQUESTS];
        if (fl->index == index)
            return fl;
    }
    return NULL;
}

/* The remote has these blocks no more. */
static void flights_end_range(channel *c, uint64_t start, uint64_t end)
{
    size_t n = c->flights.count, head = c->flights.head;
    for (size_t i = 0; i < n; i++) {
        flight *fl = &c->flights.ring[(head + i) % DATSYNC_MAX_REQUESTS];
        if (fl->index != NONE && fl->index >= start && fl->index < end)
            flight_end(c, fl);
    }
}

/* The remote does not answer: its blocks may be asked for elsewhere, and a late answer is still welcome. What it
 * said to have beyond the verified length is not believed until that is there. */
static int flights_give_up(channel *c)
{
    datsync_peer *p = c->peer;
    size_t n = c->flights.count, head = c->flights.head;
    for (size_t i = 0; i < n; i++) {
        flight *fl = &c->flights.ring[(head + i) % DATSYNC_MAX_REQUESTS];
        if (fl->index == NONE)
            continue;
        if (bits_set(&p->env, &c->late, fl->index, 1) < 0 ||
            (fl->index >= datsync_feed_length(c->feed) && bits_set(&p->env, &c->offered, fl->index, 0) < 0))
            return DATSYNC_E_NOMEM;
        flight_end(c, fl);
    }
    return 0;
}

/* The connection has ended. */
static void flights_free(channel *c)
{
    const flight *oldest = flight_oldest(c);
    if (oldest)
        feed_shun(c->feed, oldest->index);
    flights_end_range(c, 0, DATSYNC_MAX_BLOCKS);
    mem_free(&c->peer->env, c->flights.ring);
    mem_free(&c->peer->env, c->promised.slots);
}

/* ------------------------------------------------ how many */

/* An answer came, with a block of this size, after this time. */
static void rate_learn(channel *c, uint64_t size, uint64_t delay)
{
    uint64_t now = c->peer->now;
    c->rate.delay = c->rate.delay ? MIN(c->rate.delay, delay) : delay;
    c->rate.block_bytes = c->rate.block_bytes ? (c->rate.block_bytes * 15 + size + 15) / 16 : MAX(1, size);
    c->progress = now;
    c->rate.bytes += size;
    if (now - c->rate.since >= 100) {
        uint64_t rate = c->rate.bytes * 1000 / (now - c->rate.since);
        c->rate.per_second = c->rate.per_second ? (c->rate.per_second + rate) / 2 : rate;
        c->rate.since = now;
        c->rate.bytes = 0;
    }
}

/* How many requests may be in flight: what the measured rate brings in a tenth of a second more than the delay; and
 * with a remote that answers out of order, no more than could be parked. */
static size_t flight_depth(const channel *c)
{
    uint64_t bytes = 1048576 + c->rate.per_second * (c->rate.delay + 100) / 1000;
    uint64_t depth = (c->parked.reorders ? MIN(bytes, PARKED_BYTES / 2) : bytes) /
                     (c->rate.block_bytes ? c->rate.block_bytes : 65536);
    return (size_t)MIN(MAX(depth, 16), DATSYNC_MAX_REQUESTS);
}

/* ------------------------------------------------ parked answers */

/* Keep an answer whose nodes are not here yet; its promises and its reservation pass to what is parked. 0: there is
 * no room. */
static int park(channel *c, flight *fl, const datsync_message *m)
{
    size_t len = m->body.len;
    uint64_t index = fl->index;
    if (c->parked.bytes + len > PARKED_BYTES || c->parked.count == PARKED_BLOCKS)
        return 0;
    parked *k = mem_resize(&c->peer->env, NULL, sizeof *k + len);
    if (!k)
        return DATSYNC_E_NOMEM;
    c->parked.reorders = 1;
    k->next = c->parked.first;
    k->flight = *fl;
    k->stuck = feed_stuck(c->feed);
    k->len = len;
    memcpy(k + 1, m->body.data, len);
    c->parked.first = k;
    c->parked.bytes += len;
    c->parked.count++;
    fl->top = 2 * index; /* nothing to withdraw */
    flight_end(c, fl);
    return feed_reserve(c->feed, index) < 0 ? DATSYNC_E_NOMEM : 1;
}

static void parked_end(channel *c, parked **at)
{
    parked *k = *at;
    promises_withdraw(c, &k->flight);
    feed_release(c->feed, k->flight.index);
    *at = k->next;
    c->parked.bytes -= k->len;
    c->parked.count--;
    mem_free(&c->peer->env, k);
}

static void parked_drop(channel *c)
{
    while (c->parked.first)
        parked_end(c, &c->parked.first);
}

/* May another answer come that has to be parked? */
static int parked_have_room(const channel *c)
{
    return c->parked.bytes < PARKED_BYTES / 8 && c->parked.count < PARKED_BLOCKS / 8;
}

/* ================================================================ peer: asking ================================== */

/* Which block is asked of this remote next: runs of blocks in ascending order, apart from the runs of other
 * connections; blocks at which a connection ended come last. A block behind the verified length is asked for alone,
 * for its answer brings the roots that others need. And the ending (PROTOCOL 15): each side says when it wants
 * nothing more. */

/* Up to where what the remote offers is believed. A hypercore of before 6.22.1 that opened a bitfield of 3584-byte
 * pages takes the index for blocks: it offers what is none, and closes when asked for it. */
static uint64_t offered_end(const channel *c)
{
    uint64_t end = MIN(c->remote_length, DATSYNC_MAX_BLOCKS);
    uint64_t length = datsync_feed_length(c->feed);
    int believed = c->peer->now >= c->peer->wary_until || !length || !feed_wants_all(c->feed);
    return believed ? end : MIN(end, MAX(length, c->heard_end));
}

/* The connections that ask for a feed's blocks: the first from this watcher on. A watcher that downloads is a
 * channel's. */
static const channel *next_downloader(const watcher *w)
{
    while (w && !w->downloads)
        w = w->next;
    return (const channel *)w;
}

/* The run of blocks that is asked of this peer ends: the next choice begins anew. */
static void run_drop(channel *c)
{
    c->run.at = c->run.end = 0;
}

static int choose_ascending(channel *c, uint64_t *index)
{
    datsync_feed *f = c->feed;
    uint64_t length = datsync_feed_length(f), end = offered_end(c), spare = NONE, run = RUN_BLOCKS;
    unsigned others = 0;
    if (c->run.at < c->run.end) {
        uint64_t i = next_candidate(f, &c->offered, c->run.at, MIN(c->run.end, end));
        c->run.at = i + 1;
        if (i < MIN(c->run.end, end)) {
            *index = i;
            return 1;
        }
        run_drop(c);
    }
    const channel *o;
    for (o = next_downloader(feed_watchers(f)); o; o = next_downloader(o->watch.next))
        others += o != c;
    if (others && length)
        run = MAX(16, MIN(RUN_BLOCKS, (length - datsync_feed_count(f, 0, length)) / (4 * ((uint64_t)others + 1))));
    /* a new run, outside of those of the others if there is such a place */
    for (uint64_t i = next_candidate(f, &c->offered, 0, end); i < end; i = next_candidate(f, &c->offered, i, end)) {
        uint64_t stop = i + run;
        for (o = next_downloader(feed_watchers(f)); o; o = next_downloader(o->watch.next)) {
            if (o == c || o->run.at >= o->run.end)
                continue;
            if (i >= o->run.at && i < o->run.end)
                break;
            if (o->run.at > i)
                stop = MIN(stop, o->run.at);
        }
        if (!o) {
            c->run.at = i + 1;
            c->run.end = stop;
            *index = i;
            return 1;
        }
        spare = i;
        i = o->run.end;
    }
    if (spare == NONE || !others)
        return 0;
    *index = spare;
    return 1;
}

static int choose(channel *c, uint64_t *index)
{
    const datsync_peer_options *o = &c->peer->opt;
    int found = o->next_block ? o->next_block(o->ctx, c->peer, c->feed, index) : choose_ascending(c, index);
    return found && *index < offered_end(c) && datsync_peer_wants(c->peer, c->feed, *index);
}

/* The shunned blocks last, and one by one. */
static int choose_wary(channel *c, uint64_t *index)
{
    unsigned kept = shunned_reserve(c->feed);
    int found = choose(c, index);
    for (unsigned i = 0; kept >> i; i++)
        if (kept >> i & 1) {
            shunned_release(c->feed, i);
            found = found || (!flights_open(c) && choose(c, index));
        }
    return found;
}

/* What a peer of 2017 or 2018 must have heard before a Request (PROTOCOL 21.5): one of before 6.10.3 any Have, or it
 * crashes; one of before 6.18.2 sends a block once on a channel, and again only where that was denied. */
static int ask_old(channel *c, uint64_t index)
{
    int r = c->news.told ? 0 : out_have_bitfield(c, 0, 0, (const uint8_t *)"", 0);
    if (r == 0 && (bits_get(&c->asked, index) || c->asked.owned >= DATSYNC_MAX_REMOTE_KIB))
        return out_range(c, DATSYNC_UNHAVE, index, 1);
    return r < 0 ? r : bits_set(&c->peer->env, &c->asked, index, 1) < 0 ? DATSYNC_E_NOMEM : 0;
}

static int ask_block(channel *c, uint64_t index)
{
    uint64_t digest;
    int r = c->wants.whole ? ask_old(c, index) : 0;
    if (r < 0 || (r = flight_begin(c, index, &digest)) < 0)
        return r;
    datsync_message m;
    message_init(&m, DATSYNC_REQUEST, c,
                 digest ? DATSYNC_REQUEST_INDEX | DATSYNC_REQUEST_NODES : DATSYNC_REQUEST_INDEX);
    m.u.request.index = index;
    m.u.request.nodes = digest;
    return out_message(c->peer, &m, NULL);
}

/* Ask for blocks until enough are in flight. A block beyond the verified length is asked for alone: only its answer
 * gives the roots that the others' proofs end in. */
static int ask_blocks(channel *c)
{
    datsync_peer *p = c->peer;
    size_t depth = flight_depth(c);
    uint64_t index = 0;
    int r = 0;
    if (p->now < c->ask_after)
        return 0;
    while (r == 0 && flights_open(c) < depth && flights_have_room(c) && parked_have_room(c) &&
           out_pending(p) < DATSYNC_MAX_OUTPUT) {
        uint64_t at = c->run.at, end = c->run.end;
        if (!choose_wary(c, &index))
            break;
        if (index >= datsync_feed_length(c->feed) && flights_open(c)) {
            c->run.at = at; /* not yet */
            c->run.end = end;
            break;
        }
        r = ask_block(c, index);
    }
    return r;
}

/* Wants: the first range always, then those up to the remote's length that anything is wanted of. Who tells its
 * whole bitfield has told of the later ones too, and sends every Have from then on. */
static int ask_ranges(channel *c)
{
    uint64_t count = MAX(1, (c->remote_length + DATSYNC_WANT_RANGE - 1) / DATSYNC_WANT_RANGE);
    int r = 0;
    if (c->wants.whole)
        count = 1;
    for (uint64_t range = bits_next(&c->wants.sent, 0, count, 0);
         range < count && r == 0 && c->wants.out < DATSYNC_MAX_WANTS;
         range = bits_next(&c->wants.sent, range + 1, count, 0)) {
        uint64_t start = range * DATSYNC_WANT_RANGE;
        if (range && next_wanted(c->feed, start, start + DATSYNC_WANT_RANGE) == start + DATSYNC_WANT_RANGE)
            continue;
        if (bits_set(&c->peer->env, &c->wants.sent, range, 1) < 0)
            return DATSYNC_E_NOMEM;
        c->wants.starts[c->wants.out++] = start;
        r = out_range(c, DATSYNC_WANT, start, DATSYNC_WANT_RANGE);
    }
    return r;
}

/* Is anything left that this remote offers and that is wanted, also if another peer was asked for it? */
static int channel_idle(const channel *c)
{
    uint64_t end = offered_end(c), i = 0;
    if (flights_open(c) || c->parked.first)
        return 0;
    for (;;) {
        i = next_missing(c->feed, i, end);
        uint64_t j = bits_next(&c->offered, i, end, 1);
        if (j >= end)
            return 1;
        if (j == i)
            return 0;
        i = j;
    }
}

static int channel_complete(const channel *c)
{
    return c->peer->handshaken && c->remote >= 0 && c->wants.answered && c->wants.out == 0 && channel_idle(c);
}

/* The ending (PROTOCOL 15.1). */
static int channel_end(channel *c)
{
    int r = 0, downloads = (c->mode & DATSYNC_DOWNLOAD) != 0;
    if (c->peer->opt.live || c->ending.finished || feed_held_back(c->feed))
        return 0;
    if (downloads && !c->ending.told && channel_complete(c)) {
        if ((r = datsync_feed_flush(c->feed)) < 0)
            return r;
        c->ending.told = 1;
        r = out_info(c, 1, 0);
    }
    if (r < 0 || c->remote_downloading || (downloads && !c->ending.told))
        return r;
    if (!downloads)
        r = out_info(c, 0, 0);
    c->ending.finished = 1;
    peer_event(c->peer, DATSYNC_PEER_FINISHED, c, 0, 0, 0);
    return r;
}

/* Everything that there may be to do on the open channels. */
static int peer_work(datsync_peer *p)
{
    size_t open = 0, finished = 0;
    int r = 0;
    for (size_t i = 0; i < p->channel_count && r == 0; i++) {
        channel *c = p->channels[i];
        if (!c->feed)
            continue;
        if (c->parked.first && !flights_open(c)) { /* what they lack was promised and did not come */
            feed_distrust(c->feed);
            parked_drop(c); /* they are asked for again, and everything that they lack with them */
            run_drop(c);
        }
        if (p->handshaken && (c->mode & DATSYNC_DOWNLOAD) && !c->ending.told) {
            r = ask_ranges(c);
            if (r == 0)
                r = ask_blocks(c);
        }
        if (r == 0 && p->handshaken)
            r = channel_end(c);
        const channel *other = feed_companion(c->feed) ? channel_by_feed(p, feed_companion(c->feed)) : c;
        open += c->remote >= 0 || c->local == 0;
        finished += c->ending.finished && other && other->ending.finished;
    }
    return r < 0 ? r : open && open == finished ? DATSYNC_E_DONE : 0;
}

/* A remote that is there, but does not answer, is asked again only after as long a pause. */
static int flights_expire(channel *c)
{
    int r = flights_give_up(c);
    run_drop(c);
    c->wants.hint = HINT_OVER;
    c->ask_after = later(c->peer->now, (uint64_t)peer_timeout(c->peer) * 3 / 2);
    return r;
}

int datsync_peer_wants(const datsync_peer *p, const datsync_feed *feed, uint64_t index)
{
    const channel *c = channel_by_feed(p, feed);
    return c && index < DATSYNC_MAX_BLOCKS && bits_get(&c->offered, index) && feed_asks_for(feed, index);
}

/* ================================================================ peer: messages ================================ */

/* What each message does (PROTOCOL 4 to 6, 10 and 11). A function here returns 0, or the error that ends the
 * connection. Nothing here allocates by a number that the remote chose: what it says to have is kept in a sparse set
 * with a limit. */

/* Try an answer. 1: stored, or of no use any more; 0: its nodes are not here yet; or an error that ends the
 * connection. */
static int data_put(channel *c, const datsync_message *m)
{
    datsync_peer *p = c->peer;
    datsync_proof proof;
    uint64_t index = m->u.data.index, old = datsync_feed_length(c->feed);
    size_t at = 0;
    proof.node_count = 0;
    proof.has_signature = (m->has & DATSYNC_DATA_SIGNATURE) != 0;
    int r = proof.has_signature && m->u.data.signature.len != SIGNATURE_BYTES ? DATSYNC_E_SIGNATURE : 0;
    if (r == 0 && proof.has_signature)
        memcpy(proof.signature, m->u.data.signature.data, SIGNATURE_BYTES);
    while (r == 0) {
        datsync_node node;
        int more = datsync_next_node(m, &at, &node);
        if (more <= 0)
            break;
        if (proof.node_count == DATSYNC_MAX_PROOF)
            r = DATSYNC_E_TOO_BIG; /* nothing that is still to come makes it smaller */
        else
            proof.nodes[proof.node_count++] = node;
    }
    if (r == 0)
        r = datsync_feed_put(c->feed, index, m->u.data.value, &proof);
    if (r == DATSYNC_E_PROOF || r == DATSYNC_E_NO_SIGNATURE) /* perhaps what it hangs from is still to come */
        return 0;
    if (r < 0) {
        peer_event(p, DATSYNC_PEER_REJECT, c, index, m->u.data.value.len, r);
        return is_fatal(r) || r == DATSYNC_E_READ_ONLY ? r : DATSYNC_E_BAD_DATA;
    }
    if (r == 1) {
        if (out_ack_later(c, index) < 0)
            return DATSYNC_E_NOMEM;
        peer_event(p, DATSYNC_PEER_BLOCK, c, index, m->u.data.value.len, 0);
    }
    uint64_t length;
    if ((length = datsync_feed_length(c->feed)) > old) {
        for (old = bits_next(&c->late, old, length, 1); old < length; old = bits_next(&c->late, old + 1, length, 1))
            if (bits_set(&p->env, &c->offered, old, 1) < 0) /* so it was true */
                return DATSYNC_E_NOMEM;
        peer_event(p, DATSYNC_PEER_HAVE, c, 0, 0, 0);
    }
    return 1;
}

/* Something was stored: perhaps what is parked can be verified now. */
static int parked_retry(channel *c)
{
    parked **at = &c->parked.first;
    int r = 0;
    while (*at && r >= 0) {
        parked *k = *at;
        if (!datsync_feed_has_node(c->feed, k->stuck) &&
            !datsync_feed_has_node(c->feed, datsync_flat_sibling(k->stuck))) {
            at = &k->next; /* what it lacks is still not here */
            continue;
        }
        datsync_message m;
        memset(&m, 0, sizeof m);
        m.type = DATSYNC_DATA;
        m.body.data = (const uint8_t *)(k + 1);
        m.body.len = k->len;
        if (fields_decode(fields_data, 4, m.body, &m, &m.has) < 0)
            return DATSYNC_E_MESSAGE;
        r = data_put(c, &m);
        if (r == 0) {
            k->stuck = feed_stuck(c->feed);
            at = &k->next;
            continue;
        }
        parked_end(c, at);
        at = &c->parked.first; /* from the front: one may free another */
    }
    return r < 0 ? r : 0;
}

/* What a Data message is to this side. */
enum data_kind {
    DATA_OF_NO_USE,   /* nothing is in it, or nothing may be written here */
    DATA_NOT_ASKED,   /* a block that was never asked for */
    DATA_LATE,        /* one that was, and was given up; or nodes alone */
    DATA_IS_AN_ANSWER /* to a request that is open */
};

static enum data_kind data_kind(const channel *c, const datsync_message *m, const flight *fl)
{
    int has_value = m->u.data.value.data != NULL, has_nodes = m->u.data.node_count || m->has & DATSYNC_DATA_NODES;
    if (m->u.data.index >= DATSYNC_MAX_BLOCKS)
        return DATA_OF_NO_USE;
    if (has_value && !fl && !bits_get(&c->late, m->u.data.index))
        return DATA_NOT_ASKED;
    if ((!has_value && !has_nodes) || feed_read_only(c->feed))
        return DATA_OF_NO_USE;
    return fl ? DATA_IS_AN_ANSWER : DATA_LATE;
}

/* An answer that lacks nodes. While others are on their way, these may bring them. Else it was let off what it was
 * to bring: it is asked for again, and nothing is counted on; after that it is a false one. */
static int on_data_lacking(channel *c, const datsync_message *m, flight *fl)
{
    int r;
    if (flights_open(c) > 1) {
        if ((r = park(c, fl, m)) == 0)
            flight_end(c, fl);
        return MIN(r, 0);
    }
    if (!feed_trusts(c->feed)) {
        peer_event(c->peer, DATSYNC_PEER_REJECT, c, m->u.data.index, m->u.data.value.len, DATSYNC_E_PROOF);
        return DATSYNC_E_PROOF;
    }
    feed_distrust(c->feed);
    run_drop(c);
    flight_end(c, fl);
    return 0;
}

static int on_data(channel *c, const datsync_message *m)
{
    datsync_peer *p = c->peer;
    uint64_t index = m->u.data.index;
    flight *fl = flight_find(c, index);

    switch (data_kind(c, m, fl)) {
    case DATA_OF_NO_USE:
        return 0;
    case DATA_NOT_ASKED:
        return datsync_feed_has(c->feed, index) ? 0 : answer_unhave(c, index);
    case DATA_LATE:
        if (m->u.data.value.data)
            (void)bits_set(&p->env, &c->late, index, 0);
        break;
    case DATA_IS_AN_ANSWER:
        rate_learn(c, m->u.data.value.len, p->now - fl->sent);
        if (!m->u.data.value.data && bits_set(&p->env, &c->offered, index, 0) < 0)
            return DATSYNC_E_NOMEM;
        break;
    }

    int r = data_put(c, m);
    if (r == 0 && fl)
        return on_data_lacking(c, m, fl);
    if (r <= 0)
        return r;
    if (fl)
        flight_end(c, fl);
    return c->parked.first ? parked_retry(c) : 0;
}

/* What the remote has. Beyond the bound on memory nothing more is believed, and what it withdraws goes by whole
 * pages, which frees memory instead of taking it. */
static int offered_fill(channel *c, uint64_t start, uint64_t end, int value)
{
    if (c->offered.owned >= DATSYNC_MAX_REMOTE_KIB && start < end) {
        if (value)
            return 0;
        start -= start % TABLE_BITS;
        end = MIN((end + TABLE_BITS - 1) / TABLE_BITS * TABLE_BITS, DATSYNC_MAX_BLOCKS);
    }
    return bits_fill(&c->peer->env, &c->offered, start, end, value);
}

/* A bitfield leaves off the zeros at its end. One that answers a Want tells of all below `least`; another only of
 * what is in it. */
static int offered_bitfield(channel *c, uint64_t start, datsync_bytes code, uint64_t least)
{
    const datsync_env *env = &c->peer->env;
    uint64_t at = start;
    size_t pos = 0;
    if (start & 7 || start >= DATSYNC_MAX_BLOCKS)
        return 0; /* it fits nowhere */
    rle_run run;
    while (pos < code.len && at < DATSYNC_MAX_BLOCKS) {
        if (rle_next(code.data, code.len, &pos, &run) < 0)
            return 0; /* cut short: what was said so far counts */
        if (!run.literal) {
            uint64_t end =
                run.len > DATSYNC_MAX_BLOCKS / 8 ? DATSYNC_MAX_BLOCKS : MIN(at + 8 * run.len, DATSYNC_MAX_BLOCKS);
            if (offered_fill(c, at, end, run.fill != 0) < 0)
                return DATSYNC_E_NOMEM;
            at = run.len > DATSYNC_MAX_BLOCKS / 8 ? DATSYNC_MAX_BLOCKS : at + 8 * run.len;
            continue;
        }
        for (size_t k = 0; k < run.len && at < DATSYNC_MAX_BLOCKS; k++, at += 8)
            if (c->offered.owned < DATSYNC_MAX_REMOTE_KIB && bits_write(env, &c->offered, at, 255, run.literal[k]) < 0)
                return DATSYNC_E_NOMEM;
    }
    uint64_t pad = ((at - start + 31) & ~(uint64_t)31) + start; /* decoded bitfields are padded to 4 bytes */
    if (offered_fill(c, at, MIN(pad, DATSYNC_MAX_BLOCKS), 0) < 0)
        return DATSYNC_E_NOMEM;
    if (c->offered.owned >=
        DATSYNC_MAX_REMOTE_KIB) /* then it is forgotten by whole pages: not by that which was just filled */
        pad = (pad + TABLE_BITS - 1) / TABLE_BITS * TABLE_BITS;
    return offered_fill(c, pad, least, 0);
}

/* Which of the open Wants does a Have answer? One with a Want's length that of its own start. A bitfield without a
 * length (it reads as 0 or 1) is the whole one, from its start on: so every Want was answered to version 6.22.0
 * (PROTOCOL 21.1). Returns how many were counted off. */
static unsigned wants_count_off(channel *c, uint64_t start, int whole)
{
    unsigned open = 0;
    for (unsigned i = 0; i < c->wants.out; i++)
        if (whole ? c->wants.starts[i] < start : c->wants.starts[i] != start)
            c->wants.starts[open++] = c->wants.starts[i];
    unsigned answered = c->wants.out - open;
    c->wants.out = open;
    if (answered)
        c->wants.answered = 1;
    if (answered && whole && !start)
        c->wants.whole = 1;
    return answered;
}

/* The deployed versions 6.22.1 to 6.25.1 tell of their last block before they answer the first Want, also if they
 * lack it, and close when asked for it. So a lone block waits for the answer, or for anything that tells more, but
 * not for ever. */
static void hint_judge(channel *c, int lone)
{
    if (lone && c->wants.hint == HINT_NONE) {
        c->wants.hint = HINT_FRESH;
        c->ask_after = later(c->peer->now, WANT_PATIENCE_MS);
    } else if (!lone) {
        if (c->wants.hint == HINT_FRESH)
            c->ask_after = 0;
        c->wants.hint = HINT_OVER;
    }
}

static int on_have(channel *c, const datsync_message *m)
{
    uint64_t start = m->u.have.start, length = m->u.have.length;
    int r = 0, whole = (m->has & DATSYNC_HAVE_BITFIELD) && length <= 1 && !(start & 7);
    unsigned answered = whole || length == DATSYNC_WANT_RANGE ? wants_count_off(c, start, whole) : 0;
    if (m->has & DATSYNC_HAVE_BITFIELD) {
        uint64_t least = !answered ? 0 : whole ? DATSYNC_MAX_BLOCKS : start + length;
        r = offered_bitfield(c, start, m->u.have.bitfield, least);
        c->remote_length = MAX(c->remote_length, bits_length(&c->offered));
    } else if (start < DATSYNC_MAX_BLOCKS) {
        uint64_t end = start + MIN(MAX(length, 1), DATSYNC_MAX_BLOCKS - start);
        r = offered_fill(c, start, end, 1);
        c->remote_length = MAX(c->remote_length, end);
        if (c->wants.answered)
            c->heard_end = MAX(c->heard_end, end);
    }
    hint_judge(c, !(m->has & DATSYNC_HAVE_BITFIELD) && length <= 1 && !c->wants.answered);
    peer_event(c->peer, DATSYNC_PEER_HAVE, c, start, length, 0);
    return r;
}

static int on_unhave(channel *c, const datsync_message *m)
{
    uint64_t start = m->u.have.start;
    if (start >= DATSYNC_MAX_BLOCKS)
        return 0;
    uint64_t end;
    end = start + MIN(MAX(m->u.have.length, 1), DATSYNC_MAX_BLOCKS - start);
    if (start == 0 && end >= c->remote_length)
        c->remote_length = 0;
    flights_end_range(c, start, end);
    return offered_fill(c, start, end, 0);
}

static int on_want(channel *c, const datsync_message *m)
{
    datsync_feed *f = c->feed;
    uint64_t length = datsync_feed_length(f);
    int r = 0;
    if ((m->u.have.start | m->u.have.length) & (PAGE_BITS - 1))
        return 0;
    /* The last block goes ahead of a range's bits. Not where all is asked for without a length, as older versions
     * do: the answer tells it anyway, and 6.12.7, told of one block first, never asks for a range in order that
     * doesn't begin with it. */
    if (!c->remote_wants && (c->mode & DATSYNC_UPLOAD) && (m->u.have.start || m->u.have.length)) {
        r = feed_make_durable(f);
        if (r == 0 && length && datsync_feed_has(f, length - 1))
            r = out_range(c, DATSYNC_HAVE, length - 1, 1);
    }
    if (c->mode & DATSYNC_UPLOAD)
        c->remote_wants = 1;
    if (r == 0 && c->due.count < DATSYNC_MAX_WANTS) { /* more than anybody asks: not answered */
        c->due.wants[c->due.count][0] = m->u.have.start;
        c->due.wants[c->due.count++][1] = m->u.have.length;
        r = answer_wants(c);
    }
    return r;
}

static int on_request(channel *c, const datsync_message *m)
{
    datsync_peer *p = c->peer;
    if (!(c->mode & DATSYNC_UPLOAD))
        return 0;
    if (p->queue.count == p->queue.cap) {
        size_t cap = p->queue.cap ? 2 * p->queue.cap : 16;
        request *bigger = mem_resize(&p->env, NULL, cap * sizeof *bigger);
        if (!bigger)
            return DATSYNC_E_NOMEM;
        for (size_t i = 0; i < p->queue.count; i++)
            bigger[i] = p->queue.ring[(p->queue.head + i) & (p->queue.cap - 1)];
        mem_free(&p->env, p->queue.ring);
        p->queue.ring = bigger;
        p->queue.cap = cap;
        p->queue.head = 0;
    }
    request *q = &p->queue.ring[(p->queue.head + p->queue.count++) & (p->queue.cap - 1)];
    q->channel = c;
    q->index = m->u.request.index;
    q->bytes = m->u.request.bytes;
    q->nodes = m->u.request.nodes;
    q->hash = m->u.request.hash != 0;
    return 0;
}

static int on_cancel(channel *c, const datsync_message *m)
{
    datsync_peer *p = c->peer;
    for (size_t i = 0; i < p->queue.count; i++) {
        request *q = &p->queue.ring[(p->queue.head + i) & (p->queue.cap - 1)];
        if (q->channel == c && q->index == m->u.request.index && q->bytes == m->u.request.bytes &&
            q->hash == (m->u.request.hash != 0))
            q->channel = NULL;
    }
    return 0;
}

static int on_handshake(datsync_peer *p, const datsync_message *m)
{
    size_t at = 0;
    if (p->handshaken)
        return 0; /* only the first counts */
    p->handshaken = 1;
    p->env.random(p->env.ctx, p->remote_id, 32);
    if (m->u.handshake.id.len == 32)
        memcpy(p->remote_id, m->u.handshake.id.data, 32);
    p->remote_live = m->u.handshake.live != 0;
    p->remote_ack = m->u.handshake.ack != 0;
    datsync_bytes name;
    while (p->extensions.remote_count < DATSYNC_MAX_EXTENSIONS && datsync_next_extension(m, &at, &name) == 1) {
        int found = -1;
        for (size_t i = 0; i < p->extensions.count; i++)
            if (strlen(p->extensions.names[i]) == name.len && memcmp(p->extensions.names[i], name.data, name.len) == 0)
                found = (int)i;
        p->extensions.remote[p->extensions.remote_count++] = found;
    }
    if (memcmp(p->remote_id, p->id, 32) == 0)
        return DATSYNC_E_SELF;
    peer_event(p, DATSYNC_PEER_HANDSHAKE, NULL, 0, 0, 0);
    return p->error;
}

static int on_extension(channel *c, const datsync_message *m)
{
    datsync_peer *p = c->peer;
    if (m->u.extension.id >= p->extensions.remote_count || p->extensions.remote[m->u.extension.id] < 0 ||
        !p->opt.on_event)
        return 0;
    datsync_peer_event e;
    memset(&e, 0, sizeof e);
    e.type = DATSYNC_PEER_EXTENSION;
    e.feed = c->feed;
    e.discovery_key = c->discovery_key;
    e.name = p->extensions.names[p->extensions.remote[m->u.extension.id]];
    e.payload = m->u.extension.payload;
    p->opt.on_event(p->opt.ctx, p, &e);
    return 0;
}

static channel *channel_new(datsync_peer *p, const uint8_t discovery_key[32])
{
    if (mem_grow(&p->env, &p->channels, &p->channel_cap, p->channel_count + 1, sizeof *p->channels) < 0)
        return NULL;
    channel *c = mem_zeroed(&p->env, sizeof *c);
    if (!c)
        return NULL;
    c->peer = p;
    c->local = c->remote = -1;
    c->remote_downloading = 1;
    c->rate.since = p->now;
    c->watch.added = on_added;
    c->watch.cleared = on_cleared;
    c->watch.committed = on_committed;
    memcpy(c->discovery_key, discovery_key, 32);
    p->channels[p->channel_count++] = c;
    return c;
}

/* Both sides' first feeds are known: from the byte after the remote's first frame on, its stream is encrypted. */
static int peer_meet(datsync_peer *p)
{
    if (!p->cipher.has_nonce || p->cipher.in_ready)
        return 0;
    for (size_t i = 0; i < p->channel_count; i++) {
        const channel *c = p->channels[i];
        if (c->local != 0)
            continue;
        if (c != p->by_number[0] && c->remote < 0)
            return DATSYNC_E_FIRST_FEED;
        datsync_cipher_init(&p->cipher.in, datsync_feed_key(c->feed), p->cipher.nonce);
        p->cipher.in_ready = 1;
        return 0;
    }
    return 0;
}

static int on_feed(datsync_peer *p, const datsync_message *m)
{
    if (m->channel >= DATSYNC_MAX_CHANNELS || m->u.feed.discovery_key.len != 32 || p->by_number[m->channel])
        return DATSYNC_E_PROTOCOL;
    if ((m->has & DATSYNC_FEED_NONCE) && m->u.feed.nonce.len != 24)
        return DATSYNC_E_PROTOCOL;
    if (!p->cipher.has_nonce) {
        if (!(m->has & DATSYNC_FEED_NONCE))
            return DATSYNC_E_PROTOCOL;
        memcpy(p->cipher.nonce, m->u.feed.nonce.data, 24);
        p->cipher.has_nonce = 1;
        channel *c = channel_by_key(p, m->u.feed.discovery_key.data);
        if (p->local_count && (!c || c->local != 0))
            return DATSYNC_E_FIRST_FEED;
    }
    channel *c = channel_by_key(p, m->u.feed.discovery_key.data);
    if (c && c->remote >= 0)
        return DATSYNC_E_PROTOCOL;
    if (!c && !(c = channel_new(p, m->u.feed.discovery_key.data)))
        return DATSYNC_E_NOMEM;
    c->remote = (int)m->channel;
    p->by_number[m->channel] = c;
    if (c->local < 0)
        peer_event(p, DATSYNC_PEER_FEED, c, 0, 0, 0);
    return p->error ? p->error : peer_meet(p);
}

static int on_channel_message(channel *c, const datsync_message *m)
{
    switch (m->type) {
    case DATSYNC_INFO:
        c->remote_downloading = m->u.info.downloading != 0;
        return 0;
    case DATSYNC_HAVE:
        return on_have(c, m);
    case DATSYNC_UNHAVE:
        return on_unhave(c, m);
    case DATSYNC_WANT:
        return on_want(c, m);
    case DATSYNC_UNWANT:
        if (m->u.have.start == 0 &&
            (!(m->has & DATSYNC_HAVE_LENGTH) || m->u.have.length >= datsync_feed_length(c->feed)))
            c->remote_wants = 0;
        return 0;
    case DATSYNC_REQUEST:
        return on_request(c, m);
    case DATSYNC_CANCEL:
        return on_cancel(c, m);
    case DATSYNC_DATA:
        return on_data(c, m);
    case DATSYNC_EXTENSION:
        return on_extension(c, m);
    default:
        return 0;
    }
}

/* A message on a feed that is not open here yet is kept for a while. */
static int channel_keep_early(channel *c, const uint8_t *frame, size_t len)
{
    datsync_peer *p = c->peer;
    if (c->early.count == DATSYNC_MAX_EARLY || c->early.len + len > DATSYNC_MAX_EARLY_BYTES ||
        p->early_total + len > DATSYNC_MAX_EARLY_TOTAL)
        return DATSYNC_E_EARLY;
    if (mem_grow(&p->env, &c->early.bytes, &c->early.cap, c->early.len + len, 1) < 0)
        return DATSYNC_E_NOMEM;
    memcpy(c->early.bytes + c->early.len, frame, len);
    c->early.len += len;
    c->early.count++;
    p->early_total += len;
    return 0;
}

static int on_frame(datsync_peer *p, const uint8_t *frame, size_t len)
{
    datsync_message m;
    size_t skip = 0;
    int64_t r = datsync_decode(&m, frame, len, &skip);
    if (m.type == DATSYNC_KEEP_ALIVE)
        return 0;
    if (r < 0) {
        if (m.type < 0 && len > 2)
            return DATSYNC_E_PROTOCOL; /* no header */
        if (m.channel >= DATSYNC_MAX_CHANNELS || (m.type == DATSYNC_FEED && m.body.data))
            return DATSYNC_E_PROTOCOL;
        return 0; /* a body that does not decode, or a type that does not exist, is passed over */
    }
    if (m.channel >= DATSYNC_MAX_CHANNELS)
        return DATSYNC_E_PROTOCOL;
    if (m.type == DATSYNC_FEED)
        return on_feed(p, &m);
    channel *c = p->by_number[m.channel];
    if (!c)
        return DATSYNC_E_PROTOCOL;
    if (m.type == DATSYNC_HANDSHAKE)
        return on_handshake(p, &m);
    if (c->feed)
        return on_channel_message(c, &m);
    return m.type == DATSYNC_EXTENSION ? 0 : channel_keep_early(c, frame, len);
}

/* ================================================================ peer: session ================================= */

/* The peer as a program meets it: bytes in and out, time, deadlines; extensions; what the synchronizer asks besides.
 * The first frame of each side is in the clear and names a feed; all behind it is encrypted with that feed's key
 * (PROTOCOL 3). A frame larger than the usual buffer takes its place from a pool that all connections share. This
 * room begins and ends peers and their channels. */

static int name_compare(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* What the options point to and the handshake will need. */
static int peer_copy_options(datsync_peer *p, const datsync_peer_options *o)
{
    if (o->user_data.data) {
        if (o->user_data.len > DATSYNC_MAX_USER_DATA)
            return DATSYNC_E_TOO_BIG;
        p->user_data = mem_resize(&p->env, NULL, o->user_data.len + 1);
        if (!p->user_data)
            return DATSYNC_E_NOMEM;
        memcpy(p->user_data, o->user_data.data, o->user_data.len);
        p->opt.user_data.data = p->user_data;
    }
    if (o->extension_count > DATSYNC_MAX_EXTENSIONS)
        return DATSYNC_E_TOO_BIG;
    if (!o->extension_count)
        return 0;
    p->extensions.names = mem_zeroed(&p->env, o->extension_count * sizeof *p->extensions.names);
    if (!p->extensions.names)
        return DATSYNC_E_NOMEM;
    for (size_t i = 0; i < o->extension_count; i++) {
        size_t n = strlen(o->extensions[i]) + 1;
        if (n > DATSYNC_MAX_EXTENSION_NAME)
            return DATSYNC_E_TOO_BIG;
        p->extensions.names[i] = mem_resize(&p->env, NULL, n);
        if (!p->extensions.names[i])
            return DATSYNC_E_NOMEM;
        memcpy(p->extensions.names[i], o->extensions[i], n);
        p->extensions.count++;
    }
    /* the deployed implementation matches the two lists in one pass over both, so they must be sorted */
    qsort(p->extensions.names, p->extensions.count, sizeof *p->extensions.names, name_compare);
    return 0;
}

int datsync_peer_new(datsync_peer **out, const datsync_peer_options *o, uint64_t now)
{
    *out = NULL;
    if (sodium_init() < 0)
        return DATSYNC_E_RANDOM;
    datsync_env env;
    env_init(&env, o->env);
    datsync_peer *p = mem_zeroed(&env, sizeof *p);
    if (!p)
        return DATSYNC_E_NOMEM;
    p->env = env;
    p->opt = *o;
    p->now = p->last_in = p->last_out = now;
    memcpy(p->id, o->id, 32);
    if (all_zero(p->id, 32))
        env.random(env.ctx, p->id, 32);
    int r;
    if ((r = peer_copy_options(p, o)) < 0) {
        datsync_peer_free(p);
        return r;
    }
    *out = p;
    return 0;
}

/* The connection has ended: was that the answer to a Request for a block behind a verified length? One that is cut
 * in the midst of a block, or after a while, says nothing of it. */
static OPTIONAL int peer_refused_beyond(const datsync_peer *p, uint64_t now)
{
    for (size_t i = 0; i < p->channel_count && p->in.start == p->in.end; i++) {
        const channel *c = p->channels[i];
        const flight *fl = flight_oldest(c);
        uint64_t length = fl ? datsync_feed_length(c->feed) : 0;
        if (length && fl->index >= length && now - fl->sent < REFUSAL_MS)
            return 1;
    }
    return 0;
}

static void channel_free(channel *c)
{
    datsync_env *env = &c->peer->env;
    if (c->feed) {
        parked_drop(c);
        flights_free(c);
        feed_unwatch(c->feed, &c->watch);
    }
    mem_free(env, c->early.bytes);
    bits_free(env, &c->offered);
    bits_free(env, &c->wants.sent);
    bits_free(env, &c->late);
    bits_free(env, &c->asked);
    bits_free(env, &c->news.acks);
    mem_free(env, c);
}

static void pool_release(datsync_peer *p)
{
    if (p->opt.pool && p->in.cap > INPUT_BYTES)
        p->opt.pool->used -= p->in.cap - INPUT_BYTES;
    if (p->opt.pool && p->opt.pool->owner == p)
        p->opt.pool->owner = NULL;
}

void datsync_peer_free(datsync_peer *p)
{
    if (!p)
        return;
    datsync_env env = p->env;
    for (size_t i = 0; i < p->channel_count; i++)
        channel_free(p->channels[i]);
    pool_release(p);
    for (size_t i = 0; i < p->extensions.count; i++)
        mem_free(&env, p->extensions.names[i]);
    mem_free(&env, p->extensions.names);
    mem_free(&env, p->user_data);
    mem_free(&env, p->channels);
    mem_free(&env, p->queue.ring);
    mem_free(&env, p->in.buf);
    mem_free(&env, p->out.buf);
    sodium_memzero(p, sizeof *p);
    mem_free(&env, p);
}

static int out_handshake(channel *c)
{
    datsync_peer *p = c->peer;
    datsync_message m;
    message_init(&m, DATSYNC_HANDSHAKE, c, DATSYNC_HANDSHAKE_ID | DATSYNC_HANDSHAKE_LIVE | DATSYNC_HANDSHAKE_ACK);
    if (p->opt.user_data.data)
        m.has |= DATSYNC_HANDSHAKE_USER_DATA;
    m.u.handshake.id.data = p->id;
    m.u.handshake.id.len = 32;
    m.u.handshake.live = p->opt.live != 0;
    m.u.handshake.ack = p->opt.ack != 0;
    m.u.handshake.user_data = p->opt.user_data;
    datsync_bytes names[DATSYNC_MAX_EXTENSIONS];
    for (size_t i = 0; i < p->extensions.count; i++) {
        names[i].data = (const uint8_t *)p->extensions.names[i];
        names[i].len = strlen(p->extensions.names[i]);
    }
    m.u.handshake.extensions = names;
    m.u.handshake.extension_count = p->extensions.count;
    return out_message(p, &m, NULL);
}

static int channel_announce(channel *c)
{
    datsync_peer *p = c->peer;
    datsync_message m;
    message_init(&m, DATSYNC_FEED, c, DATSYNC_FEED_DISCOVERY_KEY);
    m.u.feed.discovery_key.data = c->discovery_key;
    m.u.feed.discovery_key.len = 32;
    if (c->local > 0)
        return out_message(p, &m, NULL);
    uint8_t nonce[24];
    p->env.random(p->env.ctx, nonce, sizeof nonce);
    m.has |= DATSYNC_FEED_NONCE;
    m.u.feed.nonce.data = nonce;
    m.u.feed.nonce.len = sizeof nonce;
    int r;
    if ((r = out_message(p, &m, NULL)) < 0)
        return r;
    p->out.crypt = p->out.end; /* the one frame in the clear */
    datsync_cipher_init(&p->cipher.out, datsync_feed_key(c->feed), nonce);
    return out_handshake(c);
}

static int early_replay(channel *c)
{
    size_t at = 0;
    int r = 0;
    while (at < c->early.len && r == 0) {
        int64_t n = datsync_frame_size(c->early.bytes + at, c->early.len - at);
        r = on_frame(c->peer, c->early.bytes + at, (size_t)n);
        at += (size_t)n;
    }
    c->peer->early_total -= c->early.len;
    mem_free(&c->peer->env, c->early.bytes);
    c->early.bytes = NULL;
    c->early.len = c->early.cap = 0;
    return r;
}

int datsync_peer_open(datsync_peer *p, datsync_feed *feed, unsigned mode)
{
    const uint8_t *discovery_key = datsync_feed_discovery_key(feed);
    channel *c = channel_by_key(p, discovery_key);
    if (p->error)
        return p->error;
    if (!feed_has_key(feed) || (c && c->feed))
        return DATSYNC_E_STATE;
    if (p->local_count == DATSYNC_MAX_CHANNELS)
        return DATSYNC_E_TOO_BIG;
    if (!c && p->cipher.has_nonce && p->local_count == 0)
        return DATSYNC_E_FIRST_FEED;
    if (!c && !(c = channel_new(p, discovery_key)))
        return DATSYNC_E_NOMEM;
    if (datsync_feed_secret_key(feed) || feed_read_only(feed))
        mode &= ~(unsigned)DATSYNC_DOWNLOAD;
    p->wake = 1;
    c->feed = feed;
    c->mode = mode;
    c->local = (int)p->local_count++;
    c->watch.downloads = (mode & DATSYNC_DOWNLOAD) != 0;
    feed_watch(feed, &c->watch);
    int r = channel_announce(c);
    if (r == 0)
        r = peer_meet(p);
    if (r == 0 && c->early.len)
        r = early_replay(c);
    if (r == 0)
        r = peer_work(p);
    if (r < 0 && !p->error)
        p->error = r;
    return r == DATSYNC_E_DONE ? 0 : r;
}

/* Work through what is in the input. Pauses where the queue of requests is full. */
static int peer_parse(datsync_peer *p)
{
    int r = 0;
    while (r == 0) {
        if (p->cipher.has_nonce && !p->cipher.in_ready)
            return 0; /* the rest is encrypted with a key that we don't have yet */
        if (p->cipher.in_ready && p->in.clear < p->in.end) {
            datsync_cipher_xor(&p->cipher.in, p->in.buf + p->in.clear, p->in.end - p->in.clear);
            p->in.clear = p->in.end;
        }
        int64_t size = datsync_frame_size(bytes_at(p->in.buf, p->in.start), p->in.end - p->in.start);
        if (size == DATSYNC_E_MORE)
            break;
        if (size < 0)
            return (int)size;
        if ((uint64_t)size > p->in.end - p->in.start)
            break;
        if (p->queue.count >= DATSYNC_MAX_REQUESTS) {
            p->in.paused = 1;
            return 0;
        }
        p->in.start += (size_t)size;
        if (!p->cipher.in_ready)
            p->in.clear = p->in.start;
        r = on_frame(p, p->in.buf + p->in.start - size, (size_t)size);
    }
    return r;
}

static int peer_step(datsync_peer *p)
{
    if (p->error)
        return p->error;
    int r = peer_parse(p);
    if (r == 0)
        r = peer_work(p);
    if (r < 0 && !p->error)
        p->error = r;
    return p->error;
}

/* The buffer may grow beyond INPUT_BYTES only for a frame that needs it, and only out of the pool. */
static int in_grow(datsync_peer *p)
{
    struct datsync_pool *pool = p->opt.pool;
    int64_t size = datsync_frame_size(bytes_at(p->in.buf, p->in.start), p->in.end - p->in.start);
    size_t want = p->in.cap ? 2 * p->in.cap : INPUT_FIRST;
    if (p->in.cap >= INPUT_BYTES) {
        if (size <= (int64_t)p->in.cap)
            return 0;
        want = MIN(want, (size_t)size);
        size_t more = want - p->in.cap;
        if (pool && pool->used + more > pool->limit && pool->owner && pool->owner != p) {
            p->in.starved = 1; /* another one's frame comes first */
            return 0;
        }
        if (pool && pool->used + more > pool->limit)
            pool->owner = p;
        if (pool)
            pool->used += more;
    }
    uint8_t *in = mem_resize(&p->env, p->in.buf, want);
    if (!in) {
        if (pool && p->in.cap >= INPUT_BYTES)
            pool->used -= want - p->in.cap;
        return DATSYNC_E_NOMEM;
    }
    p->in.buf = in;
    p->in.cap = want;
    p->in.starved = 0;
    return 0;
}

/* Give the memory of a large frame, or of an idle connection, back. */
static void in_shrink(datsync_peer *p, size_t to)
{
    if (p->in.start != p->in.end || p->in.cap <= to)
        return;
    pool_release(p);
    p->in.start = p->in.clear = p->in.end = 0;
    uint8_t *in = mem_resize(&p->env, p->in.buf, to);
    if (!in && to)
        in = p->in.buf; /* could not shrink: it is still there */
    p->in.buf = in;
    p->in.cap = to;
}

size_t datsync_peer_space(datsync_peer *p, uint8_t **place)
{
    if (!datsync_peer_want_read(p))
        return 0;
    if (p->in.start == p->in.end)
        p->in.start = p->in.clear = p->in.end = 0;
    if (p->in.cap > INPUT_BYTES)
        in_shrink(p, INPUT_BYTES);
    if (p->in.start && (p->in.cap - p->in.end < 65536 || p->in.start > p->in.end - p->in.start)) {
        memmove(p->in.buf, p->in.buf + p->in.start, p->in.end - p->in.start);
        p->in.end -= p->in.start;
        p->in.clear -= p->in.start;
        p->in.start = 0;
    }
    if ((p->in.end == p->in.cap || (p->in.was_full && p->in.cap < INPUT_BYTES)) && in_grow(p) < 0)
        p->error = DATSYNC_E_NOMEM;
    p->in.was_full = 0;
    *place = bytes_at(p->in.buf, p->in.end);
    return p->error ? 0 : p->in.cap - p->in.end;
}

int datsync_peer_received(datsync_peer *p, size_t len, uint64_t now)
{
    if (len > p->in.cap - p->in.end)
        return DATSYNC_E_INVALID;
    p->in.end += len;
    p->in.was_full = p->in.end == p->in.cap;
    p->bytes_in += len;
    p->now = MAX(p->now, now);
    if (len)
        p->last_in = p->now;
    return peer_step(p);
}

int64_t datsync_peer_input(datsync_peer *p, const uint8_t *buf, size_t len, uint64_t now)
{
    size_t done = 0;
    while (done < len) {
        uint8_t *place = NULL;
        size_t room = datsync_peer_space(p, &place), n = MIN(room, len - done);
        if (!n)
            break;
        memcpy(place, buf + done, n);
        int r = datsync_peer_received(p, n, now);
        if (r < 0)
            return r;
        done += n;
    }
    return p->error ? p->error : (int64_t)done;
}

size_t datsync_peer_output(datsync_peer *p, const uint8_t **buf, uint64_t now)
{
    int r = 0;
    p->now = MAX(p->now, now);
    for (size_t i = 0; i < p->channel_count && r == 0 && !p->error; i++) {
        channel *c = p->channels[i];
        if (!c->feed)
            continue;
        if (c->due.count)
            r = answer_wants(c);
        if (r == 0 && c->news.start < c->news.end)
            r = out_added(c);
        if (r == 0 && c->news.acks_end)
            r = out_acks(c);
    }
    while (r == 0 && !p->error && p->queue.count && out_pending(p) < OUTPUT_BYTES) {
        r = answer_requests(p);
        if (r == 0 && p->in.paused && p->queue.count < DATSYNC_MAX_REQUESTS / 2) {
            p->in.paused = 0;
            p->last_in = p->now; /* we did not read: that was not the remote's silence */
            (void)peer_step(p);
        }
    }
    if (r < 0 && !p->error)
        p->error = r;
    if (p->out.crypt < p->out.end && p->local_count) {
        datsync_cipher_xor(&p->cipher.out, p->out.buf + p->out.crypt, p->out.end - p->out.crypt);
        p->out.crypt = p->out.end;
    }
    *buf = bytes_at(p->out.buf, p->out.start);
    return out_pending(p);
}

void datsync_peer_sent(datsync_peer *p, size_t len, uint64_t now)
{
    p->now = MAX(p->now, now);
    p->out.start += MIN(len, out_pending(p));
    p->bytes_out += len;
    if (len)
        p->last_out = p->now;
}

int datsync_peer_want_read(const datsync_peer *p)
{
    if (p->error || p->in.paused || (p->in.starved && p->opt.pool->owner && p->opt.pool->owner != p))
        return 0;
    return !(p->cipher.has_nonce && !p->cipher.in_ready && p->in.end - p->in.start >= INPUT_FIRST);
}

int datsync_peer_want_write(const datsync_peer *p)
{
    if (out_pending(p) || p->queue.count)
        return 1;
    for (size_t i = 0; i < p->channel_count; i++) {
        const channel *c = p->channels[i];
        if (c->feed && (c->due.count || c->news.start < feed_durable_end(c->feed, c->news.end) || c->news.acks_end))
            return 1;
    }
    return 0;
}

uint64_t datsync_peer_deadline(const datsync_peer *p)
{
    uint32_t t = peer_timeout(p);
    uint64_t at = NONE;
    if (p->wake)
        return p->now;
    for (size_t i = 0; i < p->channel_count; i++) {
        const channel *c = p->channels[i];
        if (flights_open(c) && t != UINT32_MAX)
            at = MIN(at, later(c->progress, (uint64_t)t * 3 / 2));
        else if (!flights_open(c) && c->ask_after > p->now)
            at = MIN(at, c->ask_after);
    }
    if (t == UINT32_MAX)
        return at;
    if (p->local_count)
        at = MIN(at, later(p->last_out, (uint64_t)t * 3 / 4));
    return MIN(at, later(p->last_in, (uint64_t)t * 3 / 2));
}

static int peer_keep_alive(datsync_peer *p)
{
    datsync_message m;
    memset(&m, 0, sizeof m);
    m.type = DATSYNC_KEEP_ALIVE;
    p->last_out = p->now;
    return out_message(p, &m, NULL);
}

int datsync_peer_tick(datsync_peer *p, uint64_t now)
{
    uint32_t t = peer_timeout(p);
    int r = 0;
    p->now = MAX(p->now, now);
    p->wake = 0;
    if (p->error)
        return p->error;
    if (!datsync_peer_want_read(p))
        p->last_in = p->now;
    if (t != UINT32_MAX) {
        if (p->now - p->last_in >= (uint64_t)t * 3 / 2)
            return p->error = DATSYNC_E_TIMEOUT;
        if (p->local_count && p->now - p->last_out >= (uint64_t)t * 3 / 4)
            r = peer_keep_alive(p);
        for (size_t i = 0; i < p->channel_count && r == 0; i++) {
            channel *c = p->channels[i];
            if (p->in.end - p->in.start > 1024) /* a large frame is on its way */
                c->progress = MAX(c->progress, p->last_in);
            if (flights_open(c) && p->now - c->progress >= (uint64_t)t * 3 / 2)
                r = flights_expire(c);
        }
        if (r == 0 && p->now - p->last_in > t / 4 && p->in.start == p->in.end) { /* idle: keep little */
            in_shrink(p, INPUT_FIRST);
            if (!out_pending(p)) {
                mem_free(&p->env, p->out.buf);
                p->out.buf = NULL;
                p->out.cap = p->out.start = p->out.crypt = p->out.end = 0;
            }
        }
    }
    if (r < 0)
        return p->error = r;
    return peer_step(p);
}

int datsync_peer_remote_has(const datsync_peer *p, const datsync_feed *feed, uint64_t index)
{
    const channel *c = channel_by_feed(p, feed);
    return c && index < DATSYNC_MAX_BLOCKS && bits_get(&c->offered, index);
}

uint64_t datsync_peer_remote_length(const datsync_peer *p, const datsync_feed *feed)
{
    const channel *c = channel_by_feed(p, feed);
    return c ? c->remote_length : 0;
}

int datsync_peer_complete(const datsync_peer *p, const datsync_feed *feed)
{
    const channel *c = channel_by_feed(p, feed);
    return c && channel_complete(c);
}

/* What the synchronizer asks besides. Has the remote answered every Want that it was sent? */
static OPTIONAL int peer_has_answered(const datsync_peer *p, const datsync_feed *feed)
{
    const channel *c = channel_by_feed(p, feed);
    return c && c->wants.answered && c->wants.out == 0;
}

/* Does it offer anything that is still wanted, or is anything on its way? */
static OPTIONAL int peer_offers(const datsync_peer *p, const datsync_feed *feed)
{
    const channel *c = channel_by_feed(p, feed);
    return c && !channel_idle(c);
}

/* And is it one that gives it, so far as is known? */
static OPTIONAL int peer_gives(const datsync_peer *p, const datsync_feed *feed, uint64_t now)
{
    const channel *c = channel_by_feed(p, feed);
    return c && p->handshaken && c->remote >= 0 && now >= c->ask_after && !channel_idle(c);
}

static OPTIONAL int peer_is_open(const datsync_peer *p, const datsync_feed *feed)
{
    return channel_by_feed(p, feed) != NULL;
}

static OPTIONAL int peer_opened_any(const datsync_peer *p)
{
    return p->local_count > 0;
}

/* What ended it; 0: nothing yet. */
static OPTIONAL int peer_error(const datsync_peer *p)
{
    return p->error;
}

/* Until then no bitfield is believed about blocks behind the verified length. */
static OPTIONAL void peer_be_wary(datsync_peer *p, uint64_t until)
{
    p->wary_until = until;
}

/* Before it is closed from here: nothing more is wanted, nothing more is given. */
static OPTIONAL void peer_say_goodbye(datsync_peer *p)
{
    p->queue.count = 0;
    for (size_t i = 0; i < p->channel_count && p->handshaken; i++)
        if (p->channels[i]->feed)
            (void)out_info(p->channels[i], 0, 0);
}

const uint8_t *datsync_peer_remote_id(const datsync_peer *p)
{
    return p->handshaken ? p->remote_id : NULL;
}

int datsync_peer_remote_live(const datsync_peer *p)
{
    return p->remote_live;
}

int datsync_peer_extension(datsync_peer *p, datsync_feed *feed, const char *name, datsync_bytes payload)
{
    channel *c = channel_by_feed(p, feed);
    if (!c || p->error)
        return DATSYNC_E_STATE;
    size_t i;
    for (i = 0; i < p->extensions.count && strcmp(p->extensions.names[i], name) != 0; i++)
        continue;
    size_t k;
    for (k = 0; k < p->extensions.remote_count && (i == p->extensions.count || p->extensions.remote[k] != (int)i); k++)
        continue;
    if (k == p->extensions.remote_count)
        return DATSYNC_E_UNSUPPORTED;
    datsync_message m;
    message_init(&m, DATSYNC_EXTENSION, c, 0);
    m.u.extension.id = i;
    m.u.extension.payload = payload;
    return out_message(p, &m, NULL);
}

int datsync_peer_send(datsync_peer *p, const datsync_message *m)
{
    if (p->error || (m->type != DATSYNC_KEEP_ALIVE && m->channel >= p->local_count))
        return DATSYNC_E_STATE;
    return out_message(p, m, NULL);
}

uint64_t datsync_peer_bytes_in(const datsync_peer *p)
{
    return p->bytes_in;
}

uint64_t datsync_peer_bytes_out(const datsync_peer *p)
{
    return p->bytes_out;
}

/* ================================================================ addresses as text ============================= */

/* Internet addresses in numbers, as people write them: IPv4 as four decimals, IPv6 as RFC 5952 has it (lower case, no
 * leading zeros, the longest run of two or more zeros as `::`), which is how the system's own functions write it. */

/* A decimal of at most so much, without a sign, from *at on, which goes behind it: 0, or -1. */
static int ip_decimal(const char **at, uint32_t most, uint32_t *value)
{
    const char *from = *at;
    *value = 0;
    for (; **at >= '0' && **at <= '9'; (*at)++) {
        *value = *value * 10 + (uint32_t)(**at - '0');
        if (*value > most || *at - from == 10)
            return -1;
    }
    return *at == from ? -1 : 0;
}

static int ip_parse_4(const char **at, uint8_t bytes[4])
{
    uint32_t value;
    for (int i = 0; i < 4; i++) {
        const char *from = *at + (i > 0);
        if ((i > 0 && **at != '.') || (from[0] == '0' && from[1] >= '0' && from[1] <= '9')) /* octal, says inet_aton */
            return -1;
        *at = from;
        if (ip_decimal(at, 255, &value) < 0)
            return -1;
        bytes[i] = (uint8_t)value;
    }
    return 0;
}

/* Up to four hexadecimal digits: 0, or -1. */
static int ip_group(const char **at, uint8_t out[2])
{
    unsigned value = 0;
    int digits = 0;
    for (; digits < 4; digits++, (*at)++) {
        char c = **at;
        if (c >= '0' && c <= '9')
            value = value << 4 | (unsigned)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            value = value << 4 | (unsigned)((c | 32) - 'a' + 10);
        else
            break;
    }
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
    return digits ? 0 : -1;
}

/* Groups before the `::`, if there is one, then those behind it. The last two may be an IPv4 address. */
static int ip_parse_6(const char **at, uint8_t bytes[16])
{
    size_t n = 0, gap = 17;
    memset(bytes, 0, 16);
    if ((*at)[0] == ':' && (*at)[1] == ':') {
        gap = 0;
        *at += 2;
    }
    while (n < 16 && **at != ']' && **at != '%') {
        const char *from = *at;
        if (ip_group(at, bytes + n) < 0)
            return -1;
        if (**at == '.') {
            *at = from;
            if (n > 12 || ip_parse_4(at, bytes + n) < 0)
                return -1;
            n += 4;
            break;
        }
        n += 2;
        if (**at != ':')
            break;
        ++*at;
        if (**at == ':' && gap == 17) {
            gap = n;
            ++*at;
        } else if (**at == ']' || **at == '%' || n == 16) {
            return -1;
        }
    }
    if (gap == 17)
        return n == 16 ? 0 : -1;
    if (n == 16)
        return -1;
    memmove(bytes + 16 - (n - gap), bytes + gap, n - gap);
    memset(bytes + gap, 0, 16 - n);
    return 0;
}

int datsync_ip_parse(datsync_ip *ip, const char *text)
{
    datsync_ip got;
    uint32_t port;
    memset(&got, 0, sizeof got);
    got.size = *text == '[' ? 16 : 4;
    text += *text == '[';
    if ((got.size == 16 ? ip_parse_6(&text, got.bytes) : ip_parse_4(&text, got.bytes)) < 0)
        return DATSYNC_E_ADDRESS;
    if (got.size == 16 && *text == '%' && (++text, ip_decimal(&text, UINT32_MAX / 16, &got.via)) < 0)
        return DATSYNC_E_ADDRESS;
    if (got.size == 16 && *text++ != ']')
        return DATSYNC_E_ADDRESS;
    if (*text++ != ':' || ip_decimal(&text, 65535, &port) < 0 || *text)
        return DATSYNC_E_ADDRESS;
    got.port = (uint16_t)port;
    *ip = got;
    return 0;
}

static void ip_text_6(const datsync_ip *ip, char out[48])
{
    int begin = 8, run = 1, n = 0;
    for (int i = 0, k; i < 8; i = k + 1) {
        for (k = i; k < 8 && !ip->bytes[2 * k] && !ip->bytes[2 * k + 1]; k++)
            ;
        if (k - i > run) {
            begin = i;
            run = k - i;
        }
    }
    out[0] = 0;
    for (int i = 0; i < 8; i++) {
        if (i == begin) {
            n += snprintf(out + n, (size_t)(48 - n), "::");
            i += run - 1;
        } else {
            n += snprintf(out + n, (size_t)(48 - n), "%s%x", i > 0 && i != begin + run ? ":" : "",
                          (unsigned)(ip->bytes[2 * i] << 8 | ip->bytes[2 * i + 1]));
        }
    }
}

void datsync_ip_text(const datsync_ip *ip, char text[DATSYNC_IP_TEXT])
{
    const uint8_t *b = ip->bytes;
    char six[48], via[16] = "";
    if (ip->size == 4) {
        (void)snprintf(text, DATSYNC_IP_TEXT, "%u.%u.%u.%u:%u", b[0], b[1], b[2], b[3], ip->port);
        return;
    }
    ip_text_6(ip, six);
    if (ip->via && b[0] == 0xfe && (b[1] & 0xc0) == 0x80) /* local to the link: it means nothing without */
        (void)snprintf(via, sizeof via, "%%%u", (unsigned)ip->via);
    (void)snprintf(text, DATSYNC_IP_TEXT, "[%.39s%.11s]:%u", six, via, ip->port);
}

#ifndef DATSYNC_NO_SYNCHRONIZER

/* ================================================================ networks in memory ============================ */

/* A datsync_net without an operating system: pairs of pipes with names, for tests and for embedders. A step never
 * blocks. */

#define MEMORY_PIPE 262144u /* bytes on their way in one direction */

typedef struct memory_end {
    char name[128]; /* of a listener */
    int listens, closed, taken;
    struct memory_end *other; /* of a stream; NULL once that is closed */
    struct memory_end *next;  /* waiting to be accepted */
    uint8_t *buf;             /* what the other end has sent: a ring */
    size_t start, len;
} memory_end;

struct datsync_memory_net {
    datsync_env env;
    memory_end **ends; /* handle - 1 */
    size_t count, cap;
};

static memory_end *memory_end_of(datsync_memory_net *n, intptr_t handle)
{
    return handle > 0 && (size_t)handle <= n->count ? n->ends[handle - 1] : NULL;
}

static memory_end *memory_end_new(datsync_memory_net *n, intptr_t *handle)
{
    size_t i;
    for (i = 0; i < n->count && n->ends[i]; i++)
        continue;
    if (i == n->count && mem_grow(&n->env, &n->ends, &n->cap, n->count + 1, sizeof *n->ends) < 0)
        return NULL;
    memory_end *e = mem_zeroed(&n->env, sizeof *e);
    if (!e)
        return NULL;
    n->ends[i] = e;
    n->count = MAX(n->count, i + 1);
    *handle = (intptr_t)i + 1;
    return e;
}

static void memory_end_drop(datsync_memory_net *n, memory_end *e)
{
    for (size_t i = 0; i < n->count; i++)
        if (n->ends[i] == e)
            n->ends[i] = NULL;
    mem_free(&n->env, e->buf);
    mem_free(&n->env, e);
}

static void memory_net_close(void *ctx, intptr_t handle)
{
    datsync_memory_net *n = ctx;
    memory_end *e = memory_end_of(n, handle);
    if (!e)
        return;
    memory_end *next;
    for (memory_end *w = e->listens ? e->next : NULL; w; w = next) { /* nobody will take these */
        next = w->next;
        if (w->other)
            w->other->other = NULL;
        memory_end_drop(n, w);
    }
    if (e->other)
        e->other->other = NULL;
    memory_end_drop(n, e);
}

static memory_end *memory_listener(datsync_memory_net *n, const char *name)
{
    for (size_t i = 0; i < n->count; i++)
        if (n->ends[i] && n->ends[i]->listens && strcmp(n->ends[i]->name, name) == 0)
            return n->ends[i];
    return NULL;
}

static int memory_net_listen(void *ctx, const char *address, intptr_t *listener, char *bound, size_t cap)
{
    datsync_memory_net *n = ctx;
    memory_end *e;
    if (strlen(address) >= sizeof e->name)
        return DATSYNC_E_ADDRESS;
    if (memory_listener(n, address))
        return DATSYNC_E_IN_USE;
    e = memory_end_new(n, listener);
    if (!e)
        return DATSYNC_E_NOMEM;
    e->listens = 1;
    memcpy(e->name, address, strlen(address) + 1);
    (void)snprintf(bound, cap, "%s", address);
    return 0;
}

static int memory_net_connect(void *ctx, const char *address, intptr_t *stream)
{
    datsync_memory_net *n = ctx;
    memory_end *listener = memory_listener(n, address);
    if (!listener)
        return DATSYNC_E_REFUSED;
    memory_end *a = memory_end_new(n, stream);
    intptr_t other;
    memory_end *b = a ? memory_end_new(n, &other) : NULL;
    if (b) {
        a->buf = mem_resize(&n->env, NULL, MEMORY_PIPE);
        b->buf = mem_resize(&n->env, NULL, MEMORY_PIPE);
    }
    if (!b || !a->buf || !b->buf) {
        if (a)
            memory_end_drop(n, a);
        if (b)
            memory_end_drop(n, b);
        return DATSYNC_E_NOMEM;
    }
    a->other = b;
    b->other = a;
    memory_end **last;
    for (last = &listener->next; *last; last = &(*last)->next)
        continue;
    *last = b;
    return 0;
}

static int memory_net_accept(void *ctx, intptr_t listener, intptr_t *stream, char *from, size_t cap)
{
    datsync_memory_net *n = ctx;
    memory_end *l = memory_end_of(n, listener), *e = l ? l->next : NULL;
    if (!e)
        return DATSYNC_E_AGAIN;
    l->next = e->next;
    e->next = NULL;
    size_t i;
    for (i = 0; n->ends[i] != e; i++)
        continue;
    *stream = (intptr_t)i + 1;
    (void)snprintf(from, cap, "memory:%ld", (long)*stream);
    return 0;
}

static int memory_net_connected(void *ctx, intptr_t stream)
{
    return memory_end_of(ctx, stream) ? 0 : DATSYNC_E_IO;
}

static int64_t memory_net_recv(void *ctx, intptr_t stream, void *buf, size_t len)
{
    memory_end *e = memory_end_of(ctx, stream);
    if (!e || (!e->len && !e->other))
        return DATSYNC_E_CLOSED;
    size_t n;
    n = MIN(MIN(len, e->len), MEMORY_PIPE - e->start);
    if (!n)
        return DATSYNC_E_AGAIN;
    memcpy(buf, e->buf + e->start, n);
    e->start = (e->start + n) % MEMORY_PIPE;
    e->len -= n;
    return (int64_t)n;
}

static int64_t memory_net_send(void *ctx, intptr_t stream, const void *buf, size_t len)
{
    memory_end *e = memory_end_of(ctx, stream), *o = e ? e->other : NULL;
    if (!o)
        return DATSYNC_E_CLOSED;
    size_t at = (o->start + o->len) % MEMORY_PIPE;
    size_t n;
    n = MIN(MIN(len, MEMORY_PIPE - o->len), MEMORY_PIPE - at);
    if (!n)
        return DATSYNC_E_AGAIN;
    memcpy(o->buf + at, buf, n);
    o->len += n;
    return (int64_t)n;
}

static int memory_net_poll(void *ctx, datsync_pollfd *fds, size_t count, int timeout_ms)
{
    int ready = 0;
    (void)timeout_ms; /* nobody else can run meanwhile */
    for (size_t i = 0; i < count; i++) {
        const memory_end *e = memory_end_of(ctx, fds[i].handle);
        fds[i].revents = 0;
        if (!e)
            fds[i].revents = DATSYNC_POLL_ERROR;
        else if ((fds[i].events & DATSYNC_POLL_READ) && (e->listens ? e->next != NULL : e->len || !e->other))
            fds[i].revents = DATSYNC_POLL_READ;
        if (e && (fds[i].events & DATSYNC_POLL_WRITE) && (!e->other || e->other->len < MEMORY_PIPE))
            fds[i].revents |= DATSYNC_POLL_WRITE;
        ready += fds[i].revents != 0;
    }
    return ready;
}

int datsync_memory_net_new(datsync_memory_net **out, const datsync_env *env, datsync_net *net)
{
    datsync_env e;
    env_init(&e, env);
    *out = mem_zeroed(&e, sizeof **out);
    if (!*out)
        return DATSYNC_E_NOMEM;
    (*out)->env = e;
    *net = (datsync_net){
        .ctx = *out,
        .listen = memory_net_listen,
        .accept = memory_net_accept,
        .connect = memory_net_connect,
        .connected = memory_net_connected,
        .recv = memory_net_recv,
        .send = memory_net_send,
        .close = memory_net_close,
        .poll = memory_net_poll,
    };
    return 0;
}

void datsync_memory_net_free(datsync_memory_net *n)
{
    if (!n)
        return;
    datsync_env env = n->env;
    for (size_t i = 0; i < n->count; i++)
        if (n->ends[i])
            memory_end_drop(n, n->ends[i]);
    mem_free(&env, n->ends);
    mem_free(&env, n);
}

#endif /* DATSYNC_NO_SYNCHRONIZER */
#ifndef DATSYNC_NO_DRIVE

/* ================================================================ drive: state ================================== */

/* The record of a drive, and what its rooms keep in it. What a few rooms touch is in a struct of its own; room
 * `opening` frees all of it, or asks who does. */

#define MODE_TYPE 0170000u
#define MODE_FILE 0100000u
#define MODE_FOLDER 0040000u
#define MODE_RIGHTS 0777u

/* What the writer keeps of a folder: its children's newest entries, and a keyed hash of each child's name. */
typedef struct named_entry {
    uint64_t seq, name;
} named_entry;

typedef struct level {
    named_entry *v;
    size_t count, cap;
} level;

/* The newest entry of each name, by its keyed hash: open addressing, seq 0 is an empty slot. */
typedef struct name_table {
    named_entry *v;
    size_t count, cap;
} name_table;

/* What all entries up to a version tell, one after the other. */
typedef struct drive_history {
    uint64_t version, deletions; /* NONE: not read yet */
    int whole;                   /* every entry was here */
    int broken;                  /* one does not decode: who knows what it says */
    int differs;                 /* the index says something else; the history is right */
    name_table newest;
    bits live;            /* the newest entry of each name, if it is not a deletion */
    bits agrees;          /* versions of which the index says the same */
    uint64_t lost, shown; /* living files that the index loses, and deleted ones that it shows */
} drive_history;

/* Where the bytes of a live file begin in the content. */
typedef struct drive_place {
    uint64_t at, size, seq;
} drive_place;

/* A file beneath the root that is kept open. */
typedef struct drive_file {
    uint64_t seq, used;
    int aside, open;
    intptr_t handle;
} drive_file;

/* A file that is being downloaded. */
typedef struct target {
    uint64_t seq, offset, blocks, missing, saved; /* saved: how many were missing when its bitmap was written */
    uint64_t at, size;                            /* bytes */
    uint64_t mtime, was_size, was_mtime;          /* was: what stood in its place when we began */
    uint32_t mode;
    int error, was_there, has_bits;
    int copy;     /* its blocks are in the content store: copy them when they are all there */
    int given_up; /* and what was laid aside of it is gone */
} target;

typedef struct bits_env {
    const datsync_env *env;
    bits *b;
} bits_env;

typedef void drive_event_fn(void *ctx, int type, const char *path, uint64_t index, uint64_t size, int error);

struct datsync_drive {
    watcher watch; /* first: the content feed calls with it */
    datsync_env env;
    datsync_store metadata_store, content_store;
    datsync_files files;
    datsync_secrets secrets;
    unsigned flags;
    int has_files, archive;
    int secret_saved;
    datsync_feed *metadata, *content;
    uint8_t hash_key[crypto_shorthash_KEYBYTES];
    drive_history history;
    datsync_layout layout;
    name_table verdicts; /* on files that were read, by entry, size and time */
    int unsynced;        /* something beneath the root was written */

    struct {
        uint8_t *buf; /* the metadata block that was read last */
        size_t cap;
        char path[DATSYNC_MAX_PATH + 2]; /* of its entry */
        uint64_t needed;                 /* the one that was not here */
    } entry;

    struct {
        uint8_t *bytes; /* a content block: `index`, if that is not NONE */
        size_t cap;
        uint64_t index;
    } block;

    struct {
        level *levels; /* [i]: the folder of the first i names of level_path */
        size_t level_count, level_cap;
        char level_path[DATSYNC_MAX_PATH + 2];
        uint8_t *batch; /* content blocks that wait for one signature */
        size_t batch_used, batch_sizes[DRIVE_BATCH_BLOCKS], batch_count;
        uint8_t *nodes; /* metadata blocks that do */
        size_t nodes_used, nodes_cap, node_ends[DRIVE_BATCH_BLOCKS], node_count;
    } writer;

    struct {
        drive_place place; /* the file that is being put: its first blocks are out before its entry is. size 0: none */
        const char *path;
    } putting;

    struct {
        uint64_t version; /* the one that `live` is of, NONE: not yet */
        bits live;
        int partial; /* entries were missing */
        bits older;  /* entries of other versions whose bytes are claimed; `places` has those of both */
        drive_place *places;
        size_t place_count, place_cap;
        uint64_t refused; /* entries */
    } survey;

    struct {
        drive_file open[DRIVE_FILES];
        uint64_t clock;
    } handles;

    struct {
        bits files, lost; /* to be read before they are served; blocks that were asked for, and were not as recorded */
        int import_reads; /* the import reads them anyway */
    } doubts;

    struct {
        bits away;               /* files that are not as recorded */
        uint64_t looked_at;      /* when they were looked at */
        uint64_t seq, block, at; /* the file that is being read, and how far */
        int bad;
        int error; /* it could not be opened or, if it is bad, not all of it could be read */
        datsync_file_info info;
    } serving;

    struct {
        int on, told;
        int held_back; /* more may be wanted than is asked for by now */
        int all;       /* the whole history is wanted, not only what is laid out */
    } download;

    struct {
        target *v;              /* in the order of their blocks */
        size_t count, ended;    /* ended: whole, or failed */
        uint64_t wanted;        /* blocks */
        uint64_t now, progress; /* when one came last */
    } targets;

    struct {
        uint64_t bytes, since; /* laid aside since the last commit, and since when */
        int found;             /* something was laid aside before this plan */
    } aside;

    struct {
        int made;
        uint64_t version, cursor;
        uint64_t ahead;   /* blocks wanted beyond DRIVE_AHEAD, since those are not to be had */
        named_entry *old; /* the path's hash and number of each entry that is live no more */
        size_t old_count, old_cap;
        int has_old;
        char folder[DATSYNC_MAX_PATH + 2]; /* that was made last */
    } plan;

    struct {
        drive_event_fn *fn;
        void *ctx;
    } event;
};

static void drive_tell(const datsync_drive *d, int type, const char *path, uint64_t index, uint64_t size, int error)
{
    if (d->event.fn)
        d->event.fn(d->event.ctx, type, path, index, size, error);
}

/* ================================================================ drive: entries ================================ */

/* A drive as hyperdrive 9 writes it (PROTOCOL 18). Block 0 of the metadata is the header. Each other block is an entry:
 * a name, a Stat (without one it is a deletion), and `paths`. For each folder on the way to the name, `paths` lists the
 * newest entry of every child. */

#define DRIVE_TYPE "hyperdrive"

typedef struct drive_header {
    datsync_bytes type, content;
} drive_header;

static const field fields_header[] = {
    {1, F_BYTES, 1, offsetof(drive_header, type)},
    {2, F_BYTES, 0, offsetof(drive_header, content)},
};

/* A metadata block, decoded; it borrows from the drive's buffer. */
typedef struct drive_node {
    uint64_t seq;
    datsync_bytes name, value, paths; /* name: without the slashes at both ends */
} drive_node;

static const field fields_entry[] = {
    {1, F_BYTES, 1, offsetof(drive_node, name)},
    {2, F_BYTES, 0, offsetof(drive_node, value)},
    {3, F_BYTES, 0, offsetof(drive_node, paths)},
};

typedef struct raw_stat {
    uint64_t mode, uid, gid, size, blocks, offset, byte_offset, mtime, ctime;
} raw_stat;

static const field fields_stat[] = {
    {1, F_UINT, 1, offsetof(raw_stat, mode)},        {2, F_UINT, 0, offsetof(raw_stat, uid)},
    {3, F_UINT, 0, offsetof(raw_stat, gid)},         {4, F_UINT, 0, offsetof(raw_stat, size)},
    {5, F_UINT, 0, offsetof(raw_stat, blocks)},      {6, F_UINT, 0, offsetof(raw_stat, offset)},
    {7, F_UINT, 0, offsetof(raw_stat, byte_offset)}, {8, F_UINT, 0, offsetof(raw_stat, mtime)},
    {9, F_UINT, 0, offsetof(raw_stat, ctime)},
};
#define STAT_FIELDS 9u

/* Entries' numbers, ascending. */
typedef struct seqs {
    uint64_t *v;
    size_t count, cap;
} seqs;

/* ------------------------------------------------ names: `a/b/c`, slashes at both ends left away */

static datsync_bytes name_trim(datsync_bytes b)
{
    if (b.len && b.data[0] == '/') {
        b.data++;
        b.len--;
    }
    if (b.len && b.data[b.len - 1] == '/')
        b.len--;
    return b;
}

static datsync_bytes path_name(const char *path)
{
    datsync_bytes b;
    b.data = (const uint8_t *)path;
    b.len = strlen(path);
    return name_trim(b);
}

static size_t name_depth(datsync_bytes name)
{
    size_t n = name.len > 0;
    for (size_t i = 0; i < name.len; i++)
        n += name.data[i] == '/';
    return n;
}

/* Bytes of the first `depth` names. */
static size_t name_prefix(datsync_bytes name, size_t depth)
{
    if (depth == 0)
        return 0;
    for (size_t i = 0; i < name.len; i++)
        if (name.data[i] == '/' && --depth == 0)
            return i;
    return name.len;
}

/* The name at this depth; len 0 and data NULL if there is none. */
static datsync_bytes name_part(datsync_bytes name, size_t depth)
{
    size_t from = name_prefix(name, depth), to = name_prefix(name, depth + 1);
    datsync_bytes part;
    memset(&part, 0, sizeof part);
    if (depth >= name_depth(name))
        return part;
    from += depth > 0;
    part.data = name.data + from;
    part.len = to - from;
    return part;
}

static int bytes_equal(datsync_bytes a, datsync_bytes b)
{
    return a.len == b.len && (a.data != NULL) == (b.data != NULL) && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* How many names two paths have in common. */
static size_t name_common(datsync_bytes a, datsync_bytes b)
{
    size_t i, n = MIN(a.len, b.len), depth = 0;
    for (i = 0; i < n && a.data[i] == b.data[i]; i++)
        depth += a.data[i] == '/';
    if (i == n && i > 0 && (a.len == b.len || (a.len > n && a.data[n] == '/') || (b.len > n && b.data[n] == '/')))
        depth++;
    return depth;
}

static uint64_t name_hash(const datsync_drive *d, datsync_bytes name)
{
    uint8_t out[crypto_shorthash_BYTES];
    (void)crypto_shorthash(out, name.data ? name.data : (const uint8_t *)"", name.len, d->hash_key);
    return get_u64(out);
}

/* May a drive have an entry of this name? */
static int name_check(const datsync_drive *d, datsync_bytes name)
{
    size_t depth = name_depth(name), at = 0;
    if (name.len == 0 || name.len >= DATSYNC_MAX_PATH || memchr(name.data, 0, name.len) ||
        !utf8_valid(name.data, name.len))
        return DATSYNC_E_PATH;
    for (size_t i = 0; i < depth; i++) {
        const uint8_t *part = name.data + at;
        const uint8_t *slash = memchr(part, '/', name.len - at);
        size_t len = slash ? (size_t)(slash - part) : name.len - at;
        if (len == 0 || (len == 1 && part[0] == '.') || (len == 2 && part[0] == '.' && part[1] == '.'))
            return DATSYNC_E_PATH;
        if (i == 0 && len == 4 && part[0] == '.' && (part[1] == 'd' || (d->files.case_folds && part[1] == 'D')) &&
            (part[2] == 'a' || (d->files.case_folds && part[2] == 'A')) &&
            (part[3] == 't' || (d->files.case_folds && part[3] == 'T')))
            return DATSYNC_E_PATH;
        at += len + 1;
    }
    return 0;
}

/* ------------------------------------------------ reading the metadata */

static int header_decode(datsync_bytes block, const uint8_t metadata_key[32], uint8_t content_key[32])
{
    drive_header h;
    memset(&h, 0, sizeof h);
    uint32_t has;
    if (fields_decode(fields_header, 2, block, &h, &has) < 0 || h.type.len != sizeof DRIVE_TYPE - 1 ||
        memcmp(h.type.data, DRIVE_TYPE, h.type.len) != 0 || h.content.len != 32)
        return DATSYNC_E_HEADER;
    if (memcmp(h.content.data, metadata_key, 32) == 0)
        return DATSYNC_E_KEY;
    memcpy(content_key, h.content.data, 32);
    return 0;
}

static int metadata_block(datsync_drive *d, uint64_t seq, datsync_bytes *out)
{
    if (!datsync_feed_has(d->metadata, seq)) {
        d->entry.needed = seq;
        return DATSYNC_E_MORE;
    }
    int64_t size = datsync_feed_block_size(d->metadata, seq);
    if (size < 0)
        return (int)size;
    int r;
    if ((r = mem_grow(&d->env, &d->entry.buf, &d->entry.cap, (size_t)size + 1, 1)) < 0)
        return r;
    size = datsync_feed_get(d->metadata, seq, d->entry.buf, d->entry.cap);
    out->data = d->entry.buf;
    out->len = size > 0 ? (size_t)size : 0;
    return size < 0 ? (int)size : 0;
}

/* What it says is valid until the next node is loaded. */
static int node_load(datsync_drive *d, uint64_t seq, drive_node *n)
{
    if (seq == 0 || seq >= DATSYNC_MAX_BLOCKS)
        return DATSYNC_E_INDEX;
    datsync_bytes block;
    int r;
    if ((r = metadata_block(d, seq, &block)) < 0)
        return r;
    memset(n, 0, sizeof *n);
    n->seq = seq;
    uint32_t has;
    if (fields_decode(fields_entry, 3, block, n, &has) < 0)
        return DATSYNC_E_ENTRY;
    n->name = name_trim(n->name);
    return 0;
}

static int seqs_add(datsync_drive *d, seqs *s, uint64_t seq)
{
    int r = mem_grow(&d->env, &s->v, &s->cap, s->count + 1, sizeof *s->v);
    if (r == 0)
        s->v[s->count++] = seq;
    return r;
}

/* The list of one level of a node's index: 1, 0 if it has no such level, DATSYNC_E_INDEX if it points forward or is
 * cut. */
static int node_level(datsync_drive *d, const drive_node *n, size_t want, seqs *out)
{
    size_t at = 0;
    uint64_t header = 0;
    int k = datsync_varint_decode(n->paths.data, n->paths.len, &header);
    out->count = 0;
    if (k < 0)
        return DATSYNC_E_INDEX;
    at = (size_t)k;
    size_t i;
    uint64_t count, delta, seq;
    int r;
    for (uint64_t depth = 0; at < n->paths.len; depth++) {
        if ((k = datsync_varint_decode(n->paths.data + at, n->paths.len - at, &count)) < 0)
            return DATSYNC_E_INDEX;
        at += (size_t)k;
        if (count > n->paths.len - at)
            return DATSYNC_E_INDEX;
        for (seq = 0, i = 0; i < count; i++) {
            if ((k = datsync_varint_decode(n->paths.data + at, n->paths.len - at, &delta)) < 0)
                return DATSYNC_E_INDEX;
            at += (size_t)k;
            if (delta > n->seq - seq || (i && !delta))
                return DATSYNC_E_INDEX; /* forward, or the same one twice: a walk would never end */
            seq += delta;
            if (depth == want && (r = seqs_add(d, out, seq)) < 0)
                return r;
        }
        if ((header & 1) && count && seq == n->seq)
            return DATSYNC_E_INDEX;
        if (depth == want)
            return (header & 1) && (r = seqs_add(d, out, n->seq)) < 0 ? r : 1;
    }
    return 0;
}

static int stat_decode(datsync_bytes value, datsync_stat *out)
{
    raw_stat raw;
    memset(&raw, 0, sizeof raw);
    uint32_t has;
    if (fields_decode(fields_stat, STAT_FIELDS, value, &raw, &has) < 0)
        return DATSYNC_E_ENTRY;
    out->mode = (uint32_t)raw.mode;
    out->uid = (uint32_t)raw.uid;
    out->gid = (uint32_t)raw.gid;
    out->size = raw.size;
    out->blocks = raw.blocks;
    out->offset = raw.offset;
    out->byte_offset = raw.byte_offset;
    out->mtime = raw.mtime;
    out->ctime = raw.ctime;
    if (raw.mode >> 32 || raw.uid >> 32 || raw.gid >> 32)
        return DATSYNC_E_ENTRY;
    uint64_t type = raw.mode & MODE_TYPE;
    if (type == MODE_FOLDER)
        return 0;
    if (type != 0 && type != MODE_FILE)
        return DATSYNC_E_ENTRY;
    if (raw.offset > DATSYNC_MAX_BLOCKS || raw.blocks > DATSYNC_MAX_BLOCKS - raw.offset ||
        raw.byte_offset > (uint64_t)INT64_MAX / 2 || raw.size > (uint64_t)INT64_MAX / 2 ||
        raw.size > raw.blocks * DATSYNC_MAX_FRAME)
        return DATSYNC_E_RANGE;
    return 0;
}

static int is_folder(const datsync_entry *e)
{
    return (e->stat.mode & MODE_TYPE) == MODE_FOLDER;
}

/* A node as callers see it. */
static void entry_fill(datsync_drive *d, const drive_node *n, datsync_entry *out)
{
    size_t len = MIN(n->name.len, (size_t)DATSYNC_MAX_PATH);
    memset(out, 0, sizeof *out);
    d->entry.path[0] = '/';
    for (size_t i = 0; i < len; i++)
        d->entry.path[i + 1] = (char)(n->name.data[i] ? n->name.data[i] : '?');
    d->entry.path[len + 1] = 0;
    out->path = d->entry.path;
    out->version = n->seq;
    out->deleted = n->value.data == NULL;
    out->error = name_check(d, n->name);
    if (!out->deleted && out->error == 0)
        out->error = stat_decode(n->value, &out->stat);
}

static int entry_load(datsync_drive *d, uint64_t seq, datsync_entry *out)
{
    drive_node n;
    int r = node_load(d, seq, &n);
    if (r == 0)
        entry_fill(d, &n, out);
    return r;
}

static int drive_needed(const datsync_drive *d, int r, uint64_t *needed)
{
    if (r == DATSYNC_E_MORE && needed)
        *needed = d->entry.needed;
    return r;
}

/* The entry in a list whose name at `depth` is this: its number, 0 if there is none, or an error. */
static int64_t list_find(datsync_drive *d, const seqs *list, uint64_t below, size_t depth, datsync_bytes part)
{
    size_t i = list->count;
    drive_node n;
    int r;
    while (i-- > 0) {
        if (list->v[i] >= below)
            continue;
        if ((r = node_load(d, list->v[i], &n)) < 0)
            return r;
        if (bytes_equal(name_part(n.name, depth), part))
            return (int64_t)list->v[i];
    }
    return 0;
}

/* From the head of a version to the newest entry at or beneath a path; *list is what its index says of the level at
 * which the two paths part. Returns how many names they have in common, or an error. */
static int64_t index_descend(datsync_drive *d, uint64_t seq, datsync_bytes name, drive_node *n, seqs *list)
{
    size_t depth = name_depth(name);
    int r;
    for (;;) {
        if ((r = node_load(d, seq, n)) < 0)
            return r;
        size_t common = name_common(n->name, name);
        if ((r = node_level(d, n, common, list)) < 0)
            return r;
        if (common == depth)
            return (int64_t)common;
        int64_t next = r ? list_find(d, list, seq, common, name_part(name, common)) : 0;
        if (next <= 0)
            return next < 0 ? next : DATSYNC_E_NOT_FOUND;
        seq = (uint64_t)next;
    }
}

static int index_find(datsync_drive *d, uint64_t version, const char *path, datsync_entry *out)
{
    datsync_bytes name = path_name(path);
    seqs list;
    int64_t r = 0;
    memset(&list, 0, sizeof list);
    datsync_bytes none;
    memset(&none, 0, sizeof none);
    drive_node n;
    while (r == 0) {
        r = index_descend(d, version, name, &n, &list);
        if (r < 0)
            break;
        if (n.name.len == name.len) {
            entry_fill(d, &n, out);
            r = out->deleted ? DATSYNC_E_NOT_FOUND : 1;
            break;
        }
        r = list_find(d, &list, n.seq, (size_t)r, none); /* the path is a folder on the way; is it an entry, too? */
        version = (uint64_t)r;
        r = r < 0 ? r : r == 0 ? DATSYNC_E_NOT_FOUND : 0;
    }
    mem_free(&d->env, list.v);
    return r > 0 ? 0 : (int)r;
}

/* ------------------------------------------------ listing */

typedef struct walk {
    datsync_drive *d;
    bits seen;
    datsync_entry_fn *fn;
    void *ctx;
    int deep, told, stopped;          /* stopped: what fn returned last */
    size_t len, top;                  /* top: the depth of the folder that was asked for */
    uint8_t folder[DATSYNC_MAX_PATH]; /* the folder that is being listed, without slashes at its ends */
    uint8_t part[DATSYNC_MAX_PATH];
} walk;

static int walk_tell(walk *w, datsync_entry *e)
{
    w->told = 1;
    w->stopped = w->fn(w->ctx, e);
    return w->stopped;
}

static int walk_tell_folder(walk *w, datsync_bytes part)
{
    datsync_entry e;
    char *path = w->d->entry.path;
    size_t len = w->len;
    memset(&e, 0, sizeof e);
    path[0] = '/';
    memcpy(path + 1, w->folder, len);
    if (len)
        path[++len] = '/';
    memcpy(path + 1 + len, part.data, part.len);
    path[1 + len + part.len] = 0;
    e.path = path;
    e.stat.mode = MODE_FOLDER | 0755u;
    e.error = name_check(w->d, path_name(path));
    return walk_tell(w, &e);
}

static int walk_list(walk *w, uint64_t owner, const seqs *list, size_t depth);

/* A folder's own entry, where something in it is newer, is found among its children: 1 if it has one. */
static int walk_own_entry(walk *w, const seqs *below, uint64_t owner, size_t depth, datsync_entry *e)
{
    datsync_bytes none;
    int r = 0;
    memset(&none, 0, sizeof none);
    int64_t found = list_find(w->d, below, owner, depth, none);
    drive_node n;
    if (found > 0 && (r = node_load(w->d, (uint64_t)found, &n)) == 0 && n.value.data) {
        entry_fill(w->d, &n, e);
        r = walk_tell(w, e);
    }
    return found < 0 ? (int)found : r != 0 ? r : found > 0;
}

/* One child of the folder: tell it, and what is beneath it. */
static int walk_child(walk *w, const drive_node *n, uint64_t owner, size_t depth, seqs *below)
{
    size_t len = w->len, names = name_depth(n->name);
    int exact = names == depth + 1;
    if (len && (n->name.len < len || memcmp(n->name.data, w->folder, len) != 0 ||
                (n->name.len > len && n->name.data[len] != '/')))
        return DATSYNC_E_INDEX; /* it lies in another folder */
    if (names <= depth && (names < depth || depth == w->top || n->seq == owner || !n->value.data))
        return 0;
    datsync_entry e;
    if (names == depth || n->name.len >= DATSYNC_MAX_PATH) {
        entry_fill(w->d, n, &e);
        return walk_tell(w, &e);
    }
    int r;
    if ((r = node_level(w->d, n, depth + 1, below)) < 0)
        return r;
    int more = below->count > (size_t)(exact && below->count && below->v[below->count - 1] == n->seq);
    datsync_bytes part = name_part(n->name, depth);
    r = 0;
    memset(&e, 0, sizeof e);
    if (exact && n->value.data) {
        entry_fill(w->d, n, &e);
        r = walk_tell(w, &e);
    }
    if (r == 0 && more && !w->deep) {
        memcpy(w->part, part.data, part.len); /* the node is gone when the next one is loaded */
        part.data = w->part;
        if (!exact && (r = walk_own_entry(w, below, n->seq, depth + 1, &e)) == 1) {
            more = below->count > 1; /* there is more than that */
            r = w->stopped;
        }
        if (r == 0 && more && !is_folder(&e))
            r = walk_tell_folder(w, part);
    }
    if (r == 0 && more && w->deep) { /* the folder's path is kept, for the node is gone when the next one is loaded */
        w->len = (size_t)(part.data - n->name.data) + part.len;
        memcpy(w->folder, n->name.data, w->len);
        r = walk_list(w, n->seq, below, depth + 1);
        w->len = len;
    }
    return r;
}

/* Each entry stands for one child, and no entry for two: so the work is bounded by what the index holds. */
static int walk_list(walk *w, uint64_t owner, const seqs *list, size_t depth)
{
    seqs below;
    int r = 0;
    memset(&below, 0, sizeof below);
    drive_node n;
    for (size_t i = 0; i < list->count && r == 0; i++) {
        if (list->v[i] != owner) {
            r = bits_set(&w->d->env, &w->seen, list->v[i], 1);
            r = r == 0 ? DATSYNC_E_INDEX : r < 0 ? r : 0;
        }
        if (r == 0)
            r = node_load(w->d, list->v[i], &n);
        if (r == 0)
            r = walk_child(w, &n, owner, depth, &below);
    }
    mem_free(&w->d->env, below.v);
    return r;
}

static int index_list(datsync_drive *d, uint64_t version, const char *path, int deep, datsync_entry_fn *fn, void *ctx)
{
    datsync_bytes name = path_name(path);
    walk w;
    memset(&w, 0, sizeof w);
    seqs list;
    memset(&list, 0, sizeof list);
    w.d = d;
    w.fn = fn;
    w.ctx = ctx;
    w.deep = deep;
    w.len = name.len;
    w.top = name_depth(name);
    memcpy(w.folder, name.data, name.len);
    drive_node n;
    int64_t r = index_descend(d, version, name, &n, &list);
    if (r >= 0)
        r = bits_set(&d->env, &w.seen, n.seq, 1) < 0 ? DATSYNC_E_NOMEM : walk_list(&w, n.seq, &list, name_depth(name));
    if (r == 0 && !w.told && name.len)
        r = DATSYNC_E_NOT_FOUND;
    bits_free(&d->env, &w.seen);
    mem_free(&d->env, list.v);
    return (int)r;
}

datsync_feed *datsync_drive_metadata(const datsync_drive *d)
{
    return d->metadata;
}

datsync_feed *datsync_drive_content(const datsync_drive *d)
{
    return d->content;
}

int datsync_drive_archive(const datsync_drive *d)
{
    return d->archive;
}

int datsync_drive_writable(const datsync_drive *d)
{
    return datsync_feed_writable(d->metadata) && d->content && datsync_feed_writable(d->content);
}

uint64_t datsync_drive_version(const datsync_drive *d)
{
    uint64_t length = datsync_feed_length(d->metadata) + d->writer.node_count;
    return length ? length - 1 : 0;
}

/* Is this where the drive is written? Also when it is open for reading only. */
static int drive_is_owner(const datsync_drive *d)
{
    return datsync_feed_secret_key(d->metadata) && d->content && datsync_feed_secret_key(d->content);
}

/* ================================================================ drive: history ================================ */

/* The history decides: the newest entry of a name counts, and if it is a deletion, nothing is there. Each entry has
 * an index that should say the same, but some versions wrote it wrong where something was deleted (PROTOCOL 18.7).
 * So where all entries are here and something was ever deleted, the two are compared. Where they differ, or the
 * index leads nowhere, the history is right. Where entries are missing, the index leads to those that are needed,
 * and the history of those that are here tells the rest. */

static named_entry *names_slot(const name_table *t, uint64_t name)
{
    size_t i = (size_t)name & (t->cap - 1);
    while (t->v[i].seq && t->v[i].name != name)
        i = (i + 1) & (t->cap - 1);
    return &t->v[i];
}

/* A name's newest entry is this one: the number of the one before, 0 if there is none. */
static int64_t names_set(const datsync_env *env, name_table *t, uint64_t name, uint64_t seq)
{
    if (2 * (t->count + 1) > t->cap) {
        name_table bigger = {NULL, t->count, t->cap ? 2 * t->cap : 64};
        bigger.v = mem_zeroed(env, bigger.cap * sizeof *bigger.v);
        if (!bigger.v)
            return DATSYNC_E_NOMEM;
        for (size_t i = 0; i < t->cap; i++)
            if (t->v[i].seq)
                *names_slot(&bigger, t->v[i].name) = t->v[i];
        mem_free(env, t->v);
        *t = bigger;
    }
    named_entry *slot = names_slot(t, name);
    uint64_t before = slot->seq;
    t->count += before == 0;
    slot->name = name;
    slot->seq = seq;
    return (int64_t)before;
}

static void history_clear(datsync_drive *d)
{
    bits agrees = d->history.agrees;
    mem_free(&d->env, d->history.newest.v);
    bits_free(&d->env, &d->history.live);
    memset(&d->history, 0, sizeof d->history);
    d->history.agrees = agrees;
    d->history.version = NONE;
}

static int history_add(datsync_drive *d, uint64_t seq)
{
    drive_history *h = &d->history;
    drive_node n;
    int r = node_load(d, seq, &n);
    h->whole = h->whole && r != DATSYNC_E_MORE;
    h->broken = h->broken || r == DATSYNC_E_ENTRY;
    if (r == DATSYNC_E_MORE || r == DATSYNC_E_ENTRY)
        return 0;
    int64_t before;
    if (r < 0 || (before = names_set(&d->env, &h->newest, name_hash(d, n.name), seq)) < 0)
        return r < 0 ? r : DATSYNC_E_NOMEM;
    if ((before && bits_set(&d->env, &h->live, (uint64_t)before, 0) < 0) ||
        (n.value.data && bits_set(&d->env, &h->live, seq, 1) < 0))
        return DATSYNC_E_NOMEM;
    h->deletions += n.value.data == NULL;
    return 0;
}

static int history_mark(void *ctx, const datsync_entry *e)
{
    bits_env *b = ctx;
    return e->version ? bits_put(b->env, b->b, e->version, 1) : 0;
}

/* Members of one set that another one has not. */
static uint64_t bits_without(const bits *a, const bits *b)
{
    uint64_t n = 0, end = bits_length(a);
    for (uint64_t i = bits_next(a, 0, end, 1); i < end; i = bits_next(a, i + 1, end, 1))
        n += !bits_get(b, i);
    return n;
}

/* Does the index of this version say the same? */
static int history_compare(datsync_drive *d)
{
    drive_history *h = &d->history;
    bits told;
    memset(&told, 0, sizeof told);
    bits_env marks;
    marks.env = &d->env;
    marks.b = &told;
    int r = index_list(d, h->version, "/", 1, history_mark, &marks);
    h->lost = bits_without(&h->live, &told);
    h->shown = bits_without(&told, &h->live);
    h->differs = r == DATSYNC_E_INDEX || h->lost || h->shown;
    bits_free(&d->env, &told);
    return r == DATSYNC_E_INDEX || r == DATSYNC_E_ENTRY ? 0 : r;
}

/* Read the history up to a version, as far as it is here. What was read before is only added to. */
static int history_read(datsync_drive *d, uint64_t version)
{
    drive_history *h = &d->history;
    int r = 0, compared = h->version != NONE && h->deletions;
    if (h->version == version && h->whole)
        return 0;
    if (h->version == NONE || !h->whole || h->version > version) {
        history_clear(d);
        h->version = 0;
        h->whole = 1;
        compared = 0;
    }
    for (uint64_t seq = h->version + 1; seq <= version && r == 0; seq++)
        r = history_add(d, seq);
    h->version = version;
    if (r == 0 && h->whole && h->deletions && !h->broken && !bits_get(&h->agrees, version) &&
        !(compared && datsync_drive_writable(d))) /* one's own writing changes nothing of it */
        r = history_compare(d);
    if (r == 0 && h->whole && !h->differs)
        r = bits_put(&d->env, &h->agrees, version, 1);
    if (r < 0)
        history_clear(d);
    return r;
}

/* Is every entry up to this version here? */
static int history_is_here(const datsync_drive *d, uint64_t version)
{
    return datsync_feed_count(d->metadata, 1, version + 1) == version;
}

/* 1 if the history is to go by, 0 if the index is. */
static int history_decides(datsync_drive *d, uint64_t version)
{
    int r = bits_get(&d->history.agrees, version) ? 0 : history_read(d, version);
    return r < 0 ? r : d->history.version == version && d->history.differs;
}

/* A folder that is only known by what lies in it. */
static int history_tell_folder(datsync_drive *d, datsync_bytes name, name_table *told, datsync_entry_fn *fn, void *ctx)
{
    uint64_t hash = name_hash(d, name);
    const named_entry *own = names_slot(&d->history.newest, hash);
    int64_t r = names_set(&d->env, told, hash, 1);
    size_t len = name.len;
    if (r != 0)
        return r < 0 ? (int)r : 0;
    memmove(d->entry.path + 1, name.data, len);
    d->entry.path[0] = '/';
    d->entry.path[1 + len] = 0;
    datsync_entry e;
    memset(&e, 0, sizeof e);
    e.error = name_check(d, path_name(d->entry.path));
    if (own->seq && bits_get(&d->history.live, own->seq)) {
        datsync_entry itself = {NULL, 0, 0, {0, 0, 0, 0, 0, 0, 0, 0, 0}, 0};
        int k = entry_load(d, own->seq, &itself);
        if (k < 0 || is_folder(&itself))
            return k; /* it tells of itself */
    }
    e.path = d->entry.path;
    e.stat.mode = MODE_FOLDER | 0755u;
    return fn(ctx, &e);
}

static int history_list(datsync_drive *d, const char *path, int deep, datsync_entry_fn *fn, void *ctx)
{
    datsync_bytes folder = path_name(path);
    size_t depth = name_depth(folder);
    name_table told;
    uint64_t end = bits_length(&d->history.live);
    int r = 0, any = folder.len == 0;
    memset(&told, 0, sizeof told);
    char copy[DATSYNC_MAX_PATH + 2];
    datsync_entry e;
    for (uint64_t seq = 0; r == 0 && (seq = bits_next(&d->history.live, seq, end, 1)) < end; seq++) {
        if ((r = entry_load(d, seq, &e)) < 0)
            break;
        datsync_bytes name = path_name(e.path);
        size_t common = name_common(name, folder);
        if (common < depth || name_depth(name) <= depth)
            continue;
        any = 1;
        if (deep || name_depth(name) == depth + 1) {
            r = fn(ctx, &e);
            continue;
        }
        memcpy(copy, name.data, name.len);
        name.data = (const uint8_t *)copy;
        name.len = name_prefix(name, depth + 1);
        r = history_tell_folder(d, name, &told, fn, ctx);
    }
    mem_free(&d->env, told.v);
    return r != 0 || any ? r : DATSYNC_E_NOT_FOUND;
}

static int history_find(datsync_drive *d, const char *path, datsync_entry *out)
{
    const drive_history *h = &d->history;
    const named_entry *slot = h->newest.count ? names_slot(&h->newest, name_hash(d, path_name(path))) : NULL;
    if (!slot || !slot->seq || !bits_get(&h->live, slot->seq))
        return DATSYNC_E_NOT_FOUND;
    return entry_load(d, slot->seq, out);
}

int datsync_drive_entry(datsync_drive *d, uint64_t number, datsync_entry *out, uint64_t *needed)
{
    if (number == 0 || number > datsync_drive_version(d))
        return DATSYNC_E_NOT_FOUND;
    return drive_needed(d, entry_load(d, number, out), needed);
}

int datsync_drive_find(datsync_drive *d, uint64_t version, const char *path, datsync_entry *out, uint64_t *needed)
{
    if (version > datsync_drive_version(d))
        return DATSYNC_E_INVALID;
    if (version == 0)
        return DATSYNC_E_NOT_FOUND;
    if (history_is_here(d, version)) {
        int r = history_decides(d, version);
        return r < 0 ? r : r ? history_find(d, path, out) : index_find(d, version, path, out);
    }
    int r = index_find(d, version, path, out);
    if (r != DATSYNC_E_MORE || needed)
        return drive_needed(d, r, needed);
    memset(out, 0, sizeof *out);
    if ((r = history_read(d, version)) == 0)
        r = history_find(d, path, out);
    return r == 0 || r == DATSYNC_E_NOT_FOUND ? DATSYNC_E_MORE : r;
}

int datsync_drive_list(datsync_drive *d, uint64_t version, const char *path, int deep, datsync_entry_fn *fn, void *ctx,
                       uint64_t *needed)
{
    size_t len = path_name(path).len;
    int here = history_is_here(d, version);
    if (version > datsync_drive_version(d) || len >= DATSYNC_MAX_PATH)
        return DATSYNC_E_INVALID;
    if (version == 0)
        return len ? DATSYNC_E_NOT_FOUND : 0;
    int r = here ? history_decides(d, version) : needed ? 0 : history_read(d, version);
    if (r < 0)
        return r;
    if (r == 0 && (here || needed))
        return drive_needed(d, index_list(d, version, path, deep, fn, ctx), needed);
    r = history_list(d, path, deep, fn, ctx);
    if (here)
        return r;
    return r == 0 || r == DATSYNC_E_NOT_FOUND ? DATSYNC_E_MORE : r;
}

/* ================================================================ drive: files ================================== */

/* What is open beneath the root, and the targets: files that are on their way. A target knows the range of its blocks
 * and how many of them are missing; blocks that come and go are counted here as the content feed tells of them.
 * `metadata.latest` is read and written here. */

static uint64_t time_apart(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* Times are compared to the millisecond; some write them rounded, some cut. */
static int looks_same(const datsync_file_info *info, const datsync_stat *stat)
{
    return (info->mode & MODE_TYPE) == MODE_FILE && info->size == stat->size &&
           time_apart(info->mtime, stat->mtime) <= 1;
}

static int files_sync(datsync_drive *d)
{
    int r = 0;
    if (d->unsynced && !(d->flags & (DATSYNC_NO_SYNC | DATSYNC_READ_ONLY)))
        r = d->files.sync(d->files.ctx);
    if (r == 0)
        d->unsynced = 0;
    return r;
}

static void aside_name(char out[48], uint64_t seq, const char *suffix)
{
    (void)snprintf(out, 48, ".dat/partial/%llu%s", (unsigned long long)seq, suffix);
}

static void file_close(datsync_drive *d, uint64_t seq)
{
    for (size_t i = 0; i < DRIVE_FILES; i++)
        if (d->handles.open[i].open && (seq == NONE || d->handles.open[i].seq == seq)) {
            d->files.close_file(d->files.ctx, d->handles.open[i].handle);
            d->handles.open[i].open = 0;
        }
}

/* The file of an entry, in its place or aside, opened or still open. */
static int file_open(datsync_drive *d, uint64_t seq, int aside, const char *path, intptr_t *handle)
{
    drive_file *f = &d->handles.open[0];
    for (size_t i = 0; i < DRIVE_FILES; i++) {
        if (d->handles.open[i].open && d->handles.open[i].seq == seq && d->handles.open[i].aside == aside) {
            d->handles.open[i].used = ++d->handles.clock;
            *handle = d->handles.open[i].handle;
            return 0;
        }
        if (!d->handles.open[i].open || (f->open && d->handles.open[i].used < f->used))
            f = &d->handles.open[i];
    }
    if (f->open)
        d->files.close_file(d->files.ctx, f->handle);
    f->open = 0;
    char name[48];
    aside_name(name, seq, "");
    int r = d->files.open_file(d->files.ctx, aside ? name : path, aside, &f->handle);
    if (r == DATSYNC_E_NO_ENTRY && aside && (r = d->files.mkdir(d->files.ctx, ".dat/partial")) == 0)
        r = d->files.open_file(d->files.ctx, name, 1, &f->handle);
    if (r < 0)
        return r;
    f->open = 1;
    f->seq = seq;
    f->aside = aside;
    f->used = ++d->handles.clock;
    *handle = f->handle;
    return 0;
}

static uint64_t target_end(const target *t)
{
    return t->offset + t->blocks;
}

/* The first target that ends behind this block. */
static size_t target_at(const datsync_drive *d, uint64_t index)
{
    size_t lo = 0, hi = d->targets.count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (d->targets.v[mid].offset + d->targets.v[mid].blocks <= index)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static target *target_of_block(const datsync_drive *d, uint64_t index)
{
    size_t i = target_at(d, index);
    return i < d->targets.count && d->targets.v[i].offset <= index ? &d->targets.v[i] : NULL;
}

static target *target_of_byte(const datsync_drive *d, uint64_t at)
{
    size_t lo = 0, hi = target_at(d, DATSYNC_MAX_BLOCKS); /* files without blocks come last, in no order of bytes */
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (d->targets.v[mid].at + d->targets.v[mid].size <= at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < d->targets.count && d->targets.v[lo].at <= at && !d->targets.v[lo].copy ? &d->targets.v[lo] : NULL;
}

/* Is any file on its way? */
static int drive_is_laying_out(const datsync_drive *d)
{
    return d->targets.count > 0;
}

static void target_fail(datsync_drive *d, target *t, int error)
{
    if (!t->error && t->missing)
        d->targets.ended++;
    if (!t->error)
        t->error = error;
    if (!d->download.all) /* nobody is to be asked for more of it */
        (void)feed_want_range(d->content, t->offset, target_end(t), 0);
}

static void content_added(watcher *w, uint64_t start, uint64_t end)
{
    datsync_drive *d = (datsync_drive *)w;
    d->targets.progress = d->targets.now;
    for (size_t i = target_at(d, start); i < d->targets.count && d->targets.v[i].offset < end; i++) {
        target *t = &d->targets.v[i];
        uint64_t n = MIN(end, target_end(t)) - MAX(start, t->offset);
        t->missing -= MIN(n, t->missing);
        d->targets.wanted -= MIN(n, d->targets.wanted);
        if (n && !t->missing && !t->error)
            d->targets.ended++;
    }
}

static void content_cleared(watcher *w, uint64_t start, uint64_t end)
{
    datsync_drive *d = (datsync_drive *)w;
    d->block.index = NONE;
    for (size_t i = target_at(d, start); i < d->targets.count && d->targets.v[i].offset < end; i++) {
        target *t = &d->targets.v[i];
        uint64_t missing = t->blocks - datsync_feed_count(d->content, t->offset, target_end(t));
        if (missing && !t->missing && !t->error)
            d->targets.ended--;
        d->targets.wanted += missing > t->missing ? missing - t->missing : 0;
        t->missing = missing;
    }
}

static void content_committed(watcher *w)
{
    (void)w;
}

/* `metadata.latest`: NONE if there is no such file. */
static int latest_load(datsync_drive *d, uint64_t *version)
{
    intptr_t handle;
    int r = d->has_files ? d->files.open_file(d->files.ctx, ".dat/metadata.latest", 0, &handle) : DATSYNC_E_NO_ENTRY;
    *version = NONE;
    if (r < 0)
        return r == DATSYNC_E_NO_ENTRY ? 0 : r;
    uint8_t buf[8];
    int64_t n = d->files.read(d->files.ctx, handle, 0, buf, 8);
    d->files.close_file(d->files.ctx, handle);
    if (n == 8)
        *version = get_u64(buf);
    return n < 0 ? (int)n : 0;
}

static uint64_t latest_read(datsync_drive *d)
{
    uint64_t version;
    (void)latest_load(d, &version);
    return version;
}

static int latest_write(datsync_drive *d, uint64_t version)
{
    intptr_t handle;
    int r = d->files.open_file(d->files.ctx, ".dat/metadata.latest", 1, &handle);
    if (r < 0)
        return r;
    uint8_t buf[8];
    put_u64(buf, version);
    r = d->files.write(d->files.ctx, handle, 0, buf, 8);
    d->files.close_file(d->files.ctx, handle);
    d->unsynced = 1;
    return r;
}

/* ================================================================ drive: where the bytes are ==================== */

/* The survey: which version is here, which of its entries live, and which place in the content's bytes is whose. From
 * it follow both questions: whose is this block, and where does its file lie. It is made when it is first needed,
 * kept while the owner writes, and dropped when it is no longer true. */

static int place_compare(const void *a, const void *b)
{
    const drive_place *x = a, *y = b;
    return x->at != y->at ? (x->at < y->at ? -1 : 1) : x->seq < y->seq ? -1 : x->seq > y->seq;
}

static void drive_refuse(datsync_drive *d, uint64_t seq, const char *path, int error)
{
    d->survey.refused++;
    drive_tell(d, DATSYNC_EV_REFUSED, path, seq, 0, error);
}

/* The last of the places that begin at or before this byte. */
static const drive_place *place_find(const datsync_drive *d, uint64_t at)
{
    size_t lo = 0, hi = d->survey.place_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (d->survey.places[mid].at <= at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo && at - d->survey.places[lo - 1].at < d->survey.places[lo - 1].size ? &d->survey.places[lo - 1] : NULL;
}

/* ------------------------------------------------ which version is here */

/* Living files of one version and not of the other which the folder seems to hold. */
static int64_t version_votes(datsync_drive *d, const bits *of, const bits *without, int timed)
{
    uint64_t end = bits_length(of);
    int64_t n = 0;
    datsync_entry e;
    datsync_file_info info;
    int r = 0;
    for (uint64_t seq = 0; r == 0 && (seq = bits_next(of, seq, end, 1)) < end; seq++) {
        if (bits_get(without, seq) || (r = entry_load(d, seq, &e)) < 0)
            continue;
        if (!e.error && !is_folder(&e) && e.stat.size && d->files.stat(d->files.ctx, e.path + 1, &info) == 0)
            n += timed ? looks_same(&info, &e.stat) : info.size == e.stat.size;
    }
    return r < 0 ? r : n;
}

/* The version whose files are to be found here: `metadata.latest` says so, if the files don't say that it is the
 * newest. */
static int version_here(datsync_drive *d, uint64_t *version)
{
    uint64_t newest = datsync_drive_version(d), latest = drive_is_owner(d) || !d->has_files ? NONE : latest_read(d);
    int timed = 1;
    *version = MIN(latest, newest);
    if (latest >= newest)
        return 0;
    bits live;
    memset(&live, 0, sizeof live);
    int r = history_read(d, latest);
    live = d->history.live;
    memset(&d->history.live, 0, sizeof live);
    history_clear(d);
    if (r == 0)
        r = history_read(d, newest);
    int64_t for_latest, for_newest;
    for (for_latest = for_newest = 0; r == 0 && for_latest == for_newest && timed >= 0; timed--) {
        for_latest = version_votes(d, &live, &d->history.live, timed);
        for_newest = version_votes(d, &d->history.live, &live, timed);
        r = for_latest < 0 ? (int)for_latest : for_newest < 0 ? (int)for_newest : 0;
    }
    if (r == 0 && for_newest > for_latest)
        *version = newest;
    bits_free(&d->env, &live);
    return r;
}

uint64_t datsync_drive_laid_out(datsync_drive *d)
{
    if (latest_read(d) == NONE && d->has_files && !drive_is_owner(d))
        return 0;
    uint64_t version;
    (void)version_here(d, &version);
    return version;
}

/* ------------------------------------------------ where the bytes are */

/* In folders, blocks that are no live file's are nowhere. */
static int survey_retract(datsync_drive *d, const bits *alive)
{
    datsync_feed *c = d->content;
    uint64_t i = 0, end = DATSYNC_MAX_BLOCKS;
    int r = 0;
    while (r == 0 && (i = MIN(feed_next_held(c, i, end), feed_next_claimed(c, i, end))) < end) {
        i = bits_next(alive, i, end, 0);
        uint64_t j = bits_next(alive, i, end, 1);
        if (i < end)
            r = feed_retract(c, i, j);
        i = j;
    }
    return r;
}

static int survey_place(datsync_drive *d, uint64_t seq, const datsync_stat *stat, bits *alive)
{
    int r =
        mem_grow(&d->env, &d->survey.places, &d->survey.place_cap, d->survey.place_count + 1, sizeof *d->survey.places);
    if (r < 0)
        return r;
    drive_place *p = &d->survey.places[d->survey.place_count++];
    p->at = stat->byte_offset;
    p->size = stat->size;
    p->seq = seq;
    return bits_fill(&d->env, alive, stat->offset, stat->offset + stat->blocks, 1);
}

typedef struct survey_marks {
    datsync_drive *d;
    bits bad;
} survey_marks;

static int survey_mark(void *ctx, const datsync_entry *e)
{
    survey_marks *m = ctx;
    return e->version ? bits_put(&m->d->env, e->error ? &m->bad : &m->d->survey.live, e->version, 1) : 0;
}

/* Tell of the live entries that must not be laid out. */
static int survey_refuse(datsync_drive *d, const bits *bad)
{
    char path[DATSYNC_MAX_PATH + 2];
    datsync_entry e;
    uint64_t end = bits_length(bad);
    int r = 0;
    for (uint64_t seq = 0; r == 0 && (seq = bits_next(bad, seq, end, 1)) < end; seq++)
        if ((r = entry_load(d, seq, &e)) == 0) {
            strcpy(path, e.path);
            drive_refuse(d, seq, path, e.error);
        }
    return r;
}

/* The entries that are live in a version, as far as it is known. */
static int survey_live(datsync_drive *d, uint64_t version, int planning, bits *alive)
{
    survey_marks marks;
    memset(&marks, 0, sizeof marks);
    marks.d = d;
    int r = datsync_drive_list(d, version, "/", 1, survey_mark, &marks, NULL);
    d->survey.partial = r == DATSYNC_E_MORE;
    if (r == DATSYNC_E_MORE && !planning)
        r = 0;
    if (r == 0 && planning)
        r = survey_refuse(d, &marks.bad);
    bits_free(&d->env, &marks.bad);
    datsync_entry e;
    for (uint64_t seq = 0; r == 0 && (seq = bits_next(&d->survey.live, seq, version + 1, 1)) <= version; seq++)
        if ((r = entry_load(d, seq, &e)) == 0 && !is_folder(&e) && e.stat.size)
            r = survey_place(d, seq, &e.stat, alive);
    return r;
}

/* Entries of other versions whose bytes are claimed: of a folder whose files are older than its metadata, or newer than
 * `metadata.latest` says. */
static int survey_older(datsync_drive *d, bits *alive)
{
    const bits *claimed = feed_claims(d->content);
    uint64_t newest = datsync_drive_version(d);
    int r = 0;
    if (!bits_without(claimed, alive))
        return 0;
    datsync_entry e;
    for (uint64_t seq = 1; seq <= newest && r >= 0; seq++) {
        if (bits_get(&d->survey.live, seq) || !datsync_feed_has(d->metadata, seq))
            continue;
        r = entry_load(d, seq, &e);
        if (r == DATSYNC_E_ENTRY)
            r = 0;
        else if (r == 0 && !e.deleted && !e.error && !is_folder(&e)) {
            uint64_t end = e.stat.offset + e.stat.blocks;
            if (bits_next(claimed, e.stat.offset, end, 1) < end &&
                (r = bits_set(&d->env, &d->survey.older, seq, 1)) >= 0)
                r = survey_place(d, seq, &e.stat, alive);
        }
    }
    return r < 0 ? r : 0;
}

/* Find out which entries are live in a version, and where the bytes of each are. When a version is planned, what is
 * not live in it is going to be nowhere. */
static int drive_survey(datsync_drive *d, uint64_t version, int planning)
{
    bits alive;
    memset(&alive, 0, sizeof alive);
    bits_free(&d->env, &d->survey.live);
    bits_free(&d->env, &d->survey.older);
    d->survey.place_count = 0;
    d->survey.version = NONE;
    d->survey.refused = 0;
    int r = survey_live(d, version, planning, &alive);
    if (r == 0 && !d->archive && d->content)
        r = planning ? survey_retract(d, &alive) : survey_older(d, &alive);
    if (r == 0) {
        if (d->survey.place_count)
            qsort(d->survey.places, d->survey.place_count, sizeof *d->survey.places, place_compare);
        d->survey.version = version;
    }
    bits_free(&d->env, &alive);
    return r;
}

/* The same of what the folder holds. */
static int survey_here(datsync_drive *d)
{
    uint64_t version;
    int r = version_here(d, &version);
    return r < 0 ? r : drive_survey(d, version, 0);
}

/* ------------------------------------------------ what was found */

static int survey_is_done(const datsync_drive *d)
{
    return d->survey.version != NONE;
}

/* It is to be found anew. */
static void survey_drop(datsync_drive *d)
{
    d->survey.version = NONE;
}

static uint64_t survey_version(const datsync_drive *d)
{
    return d->survey.version;
}

/* Were there entries that are not known yet? */
static int survey_is_partial(const datsync_drive *d)
{
    return d->survey.partial;
}

static uint64_t survey_refused(const datsync_drive *d)
{
    return d->survey.refused;
}

static int survey_is_live(const datsync_drive *d, uint64_t seq)
{
    return bits_get(&d->survey.live, seq);
}

/* The first live entry in [seq, end), or end. */
static uint64_t survey_next_live(const datsync_drive *d, uint64_t seq, uint64_t end)
{
    return bits_next(&d->survey.live, seq, end, 1);
}

/* The same of all whose bytes may be here: live, or of another version. */
static uint64_t survey_next(const datsync_drive *d, uint64_t seq, uint64_t end)
{
    return MIN(bits_next(&d->survey.live, seq, end, 1), bits_next(&d->survey.older, seq, end, 1));
}

static int survey_has(const datsync_drive *d, uint64_t seq)
{
    return bits_get(&d->survey.live, seq) || bits_get(&d->survey.older, seq);
}

static uint64_t survey_end(const datsync_drive *d)
{
    return MAX(bits_length(&d->survey.live), bits_length(&d->survey.older));
}

/* An entry was written: it is live, and its bytes lie behind all others. */
static int survey_add(datsync_drive *d, uint64_t seq, const datsync_stat *stat)
{
    if (bits_set(&d->env, &d->survey.live, seq, 1) < 0)
        return DATSYNC_E_NOMEM;
    if (d->survey.version == NONE)
        return 0;
    d->survey.version = MAX(d->survey.version, seq);
    if (!stat->size || (stat->mode & MODE_TYPE) == MODE_FOLDER)
        return 0;
    if (mem_grow(&d->env, &d->survey.places, &d->survey.place_cap, d->survey.place_count + 1,
                 sizeof *d->survey.places) < 0)
        return DATSYNC_E_NOMEM;
    d->survey.places[d->survey.place_count].at = stat->byte_offset;
    d->survey.places[d->survey.place_count].size = stat->size;
    d->survey.places[d->survey.place_count++].seq = seq;
    return 0;
}

/* An entry is live no more. */
static void survey_remove(datsync_drive *d, uint64_t seq, uint64_t at)
{
    (void)bits_set(&d->env, &d->survey.live, seq, 0);
    drive_place key;
    key.at = at;
    key.seq = seq;
    drive_place *p = d->survey.place_count
                         ? bsearch(&key, d->survey.places, d->survey.place_count, sizeof key, place_compare)
                         : NULL;
    if (p) {
        size_t i = (size_t)(p - d->survey.places);
        memmove(p, p + 1, (d->survey.place_count - i - 1) * sizeof *p);
        d->survey.place_count--;
    }
}

/* ================================================================ drive: stores ================================= */

/* The stores of the two feeds. The metadata's is the caller's. The content's bytes lie in the files themselves
 * (PROTOCOL 20): read from where the survey says, and blocks that come are laid aside in .dat/partial until their
 * file is whole. */

/* The content's bytes out of the files. What is read is checked against the tree before it is used, so a file that
 * was changed does no harm. Stops early where a file is not all there; what keeps the first from being read is an
 * error. */
static int64_t content_files_read(datsync_drive *d, uint64_t at, uint8_t *buf, size_t len)
{
    size_t done = 0;
    int r = !survey_is_done(d) ? survey_here(d) : 0;
    if (r < 0)
        return r;
    while (done < len) {
        const target *t = target_of_byte(d, at + done);
        const drive_place *p = t                                                           ? NULL
                               : d->putting.place.size && at + done >= d->putting.place.at ? &d->putting.place
                                                                                           : place_find(d, at + done);
        uint64_t begin = t ? t->at : p ? p->at : 0, size = t ? t->size : p ? p->size : 0, inside = at + done - begin;
        size_t n = (size_t)MIN((uint64_t)(len - done), size > inside ? size - inside : 0);
        if (!t && !p)
            break;
        char path[DATSYNC_MAX_PATH + 2];
        path[0] = 0;
        if (inside >= size)
            break;
        datsync_entry e;
        if (p == &d->putting.place)
            strcpy(path, d->putting.path + 1);
        else if (p && (r = entry_load(d, p->seq, &e)) == 0)
            memcpy(path, e.path + 1, strlen(e.path));
        intptr_t handle;
        if (r < 0 || (r = file_open(d, t ? t->seq : p->seq, t != NULL, path, &handle)) < 0)
            break;
        int64_t got = d->files.read(d->files.ctx, handle, inside, buf + done, n);
        if (got > 0)
            done += (size_t)got;
        r = got < 0 ? (int)got : 0;
        if (got < (int64_t)n)
            break;
    }
    return !done && is_fatal(r) && r != DATSYNC_E_NO_ENTRY ? r : (int64_t)done;
}

/* A block that came is laid aside. It belongs to the file that has its number, whatever entries claim of bytes. What
 * can't be written is the matter of its file alone. */
static int content_keep(void *ctx, uint64_t index, uint64_t at, datsync_bytes block)
{
    datsync_drive *d = ctx;
    target *t = target_of_block(d, index);
    if (!d->download.on)
        return 1; /* an owner's bytes lie in his files already */
    if (!t || t->error)
        return 0;
    intptr_t handle;
    int r = at < t->at || at - t->at > t->size || block.len > t->size - (at - t->at)
                ? DATSYNC_E_RANGE
                : file_open(d, t->seq, 1, "", &handle);
    if (r == 0)
        r = d->files.write(d->files.ctx, handle, at - t->at, block.data, block.len);
    if (r < 0)
        target_fail(d, t, r);
    d->unsynced = 1;
    d->aside.bytes += block.len;
    return r == 0;
}

/* ------------------------------------------------ the two feeds' stores */

/* The given ones, but for the content's bytes, which lie in the files, and the secret keys, which don't lie in the
 * folder. */

static int in_files(const datsync_drive *d, int part)
{
    return part == DATSYNC_PART_DATA && !d->archive;
}

static int64_t content_read(void *ctx, int part, uint64_t offset, void *buf, size_t len)
{
    datsync_drive *d = ctx;
    if (part == DATSYNC_PART_SECRET_KEY)
        return 0;
    return in_files(d, part) ? content_files_read(d, offset, buf, len)
                             : d->content_store.read(d->content_store.ctx, part, offset, buf, len);
}

static int content_write(void *ctx, int part, uint64_t offset, const void *buf, size_t len)
{
    datsync_drive *d = ctx;
    if (part == DATSYNC_PART_SECRET_KEY || in_files(d, part))
        return 0; /* it is derived; the bytes of a block are kept by content_keep */
    return d->content_store.write(d->content_store.ctx, part, offset, buf, len);
}

/* A block was asked for, and was not as it was: serving finds out whose it is. */
static int content_lost(void *ctx, uint64_t index)
{
    datsync_drive *d = ctx;
    return bits_put(&d->env, &d->doubts.lost, index, 1);
}

static int drive_held_back(void *ctx)
{
    const datsync_drive *d = ctx;
    return d->download.held_back;
}

/* Files that are on their way are given up where there is no room for all of them. */
static int drive_makes_room(void *ctx)
{
    return drive_is_laying_out(ctx);
}

static int64_t content_size(void *ctx, int part)
{
    datsync_drive *d = ctx;
    if (part == DATSYNC_PART_SECRET_KEY)
        return DATSYNC_E_NO_ENTRY;
    return in_files(d, part) ? INT64_MAX : d->content_store.size(d->content_store.ctx, part);
}

static int content_truncate(void *ctx, int part, uint64_t size)
{
    datsync_drive *d = ctx;
    return in_files(d, part) ? 0 : d->content_store.truncate(d->content_store.ctx, part, size);
}

static int content_sync(void *ctx, int part)
{
    datsync_drive *d = ctx;
    if (part == DATSYNC_PART_SECRET_KEY)
        return 0;
    return in_files(d, part) ? files_sync(d) : d->content_store.sync(d->content_store.ctx, part);
}

static int content_punch(void *ctx, int part, uint64_t offset, uint64_t len)
{
    datsync_drive *d = ctx;
    return in_files(d, part) || !d->content_store.punch
               ? 0
               : d->content_store.punch(d->content_store.ctx, part, offset, len);
}

static int content_lock(void *ctx)
{
    datsync_drive *d = ctx;
    return d->content_store.lock ? d->content_store.lock(d->content_store.ctx) : 0;
}

static int64_t metadata_read(void *ctx, int part, uint64_t offset, void *buf, size_t len)
{
    datsync_drive *d = ctx;
    if (part == DATSYNC_PART_SECRET_KEY && d->secrets.load)
        return 0;
    return d->metadata_store.read(d->metadata_store.ctx, part, offset, buf, len);
}

/* The mark of an owner's folder, without which the deployed implementation looks for no secret key. */
static int owner_mark(datsync_drive *d)
{
    intptr_t handle;
    int r = d->has_files ? d->files.open_file(d->files.ctx, ".dat/metadata.ogd", 1, &handle) : DATSYNC_E_UNSUPPORTED;
    if (!d->has_files)
        return 0;
    if (r < 0)
        return r;
    r = d->files.write(d->files.ctx, handle, 0, "", 1);
    d->files.close_file(d->files.ctx, handle);
    d->unsynced = 1;
    return r < 0 ? r : files_sync(d);
}

static int metadata_write(void *ctx, int part, uint64_t offset, const void *buf, size_t len)
{
    datsync_drive *d = ctx;
    if (part != DATSYNC_PART_SECRET_KEY || !d->secrets.load)
        return d->metadata_store.write(d->metadata_store.ctx, part, offset, buf, len);
    uint8_t discovery_key[32];
    datsync_discovery_key(discovery_key, (const uint8_t *)buf + 32);
    int r;
    if ((r = d->secrets.save(d->secrets.ctx, discovery_key, buf)) < 0 || (r = owner_mark(d)) < 0)
        return r;
    d->secret_saved = 1;
    return 0;
}

static int64_t metadata_size(void *ctx, int part)
{
    datsync_drive *d = ctx;
    if (part == DATSYNC_PART_SECRET_KEY && d->secrets.load)
        return d->secret_saved ? 64 : DATSYNC_E_NO_ENTRY;
    return d->metadata_store.size(d->metadata_store.ctx, part);
}

static int metadata_truncate(void *ctx, int part, uint64_t size)
{
    datsync_drive *d = ctx;
    return d->metadata_store.truncate(d->metadata_store.ctx, part, size);
}

static int metadata_sync(void *ctx, int part)
{
    datsync_drive *d = ctx;
    if (part == DATSYNC_PART_SECRET_KEY && d->secrets.load)
        return 0;
    return d->metadata_store.sync(d->metadata_store.ctx, part);
}

static int metadata_lock(void *ctx)
{
    datsync_drive *d = ctx;
    return d->metadata_store.lock ? d->metadata_store.lock(d->metadata_store.ctx) : 0;
}

/* Both feeds, the content first, and the files, whatever went wrong before (`r`): the first error. */
static int stores_flush(datsync_drive *d, int r)
{
    int k = d->content ? datsync_feed_flush(d->content) : 0;
    r = r < 0 ? r : k;
    k = datsync_feed_flush(d->metadata);
    r = r < 0 ? r : k;
    k = d->has_files ? files_sync(d) : 0;
    return r < 0 ? r : k;
}

/* ================================================================ drive: opening ================================ */

/* Keys, header, and which kind of drive this is: its content lies in files, or in a store (an archive, or a drive
 * without files). The content's key follows from the metadata's secret key as hyperdrive derives it (PROTOCOL 18).
 * This room begins and ends every part of a drive. */

static void derive_content_key(uint8_t public_key[32], uint8_t secret_key[64], const uint8_t metadata_secret_key[64])
{
    uint8_t seed[crypto_sign_SEEDBYTES];
    (void)crypto_kdf_derive_from_key(seed, sizeof seed, 1, "hyperdri", metadata_secret_key);
    (void)crypto_sign_seed_keypair(public_key, secret_key, seed);
    sodium_memzero(seed, sizeof seed);
}

/* Closes whatever is open: the first error. What is gathered and not appended is lost. */
static int drive_free(datsync_drive *d)
{
    datsync_env env = d->env;
    file_close(d, NONE);
    int r = datsync_feed_close(d->metadata);
    if (d->content)
        feed_unwatch(d->content, &d->watch);
    int k = datsync_feed_close(d->content);
    if (d->metadata_store.close)
        d->metadata_store.close(d->metadata_store.ctx);
    if (d->content_store.close)
        d->content_store.close(d->content_store.ctx);
    if (d->files.close)
        d->files.close(d->files.ctx);
    if (d->secrets.close)
        d->secrets.close(d->secrets.ctx);
    for (size_t i = 0; i < d->writer.level_cap; i++)
        mem_free(&env, d->writer.levels[i].v);
    mem_free(&env, d->writer.levels);
    mem_free(&env, d->entry.buf);
    mem_free(&env, d->block.bytes);
    mem_free(&env, d->writer.batch);
    mem_free(&env, d->writer.nodes);
    mem_free(&env, d->survey.places);
    mem_free(&env, d->plan.old);
    mem_free(&env, d->targets.v);
    mem_free(&env, d->verdicts.v);
    bits_free(&env, &d->survey.live);
    bits_free(&env, &d->survey.older);
    bits_free(&env, &d->doubts.files);
    bits_free(&env, &d->serving.away);
    bits_free(&env, &d->doubts.lost);
    history_clear(d);
    bits_free(&env, &d->history.agrees);
    mem_free(&env, d);
    return r < 0 ? r : k;
}

/* What the feeds ask of the drive. */
static void drive_keeps(datsync_drive *d)
{
    feed_keeper k;
    memset(&k, 0, sizeof k);
    k.ctx = d;
    k.held_back = drive_held_back;
    k.makes_room = drive_makes_room;
    k.companion = d->content;
    feed_set_keeper(d->metadata, &k);
    if (!d->content)
        return;
    k.companion = NULL;
    if (!d->archive) {
        k.keep = content_keep;
        k.lost = content_lost;
    }
    feed_set_keeper(d->content, &k);
}

/* The header is known, or is this owner's to write: open the content. */
static int drive_open_content(datsync_drive *d)
{
    datsync_feed_options o;
    const uint8_t *own = datsync_feed_secret_key(d->metadata);
    memset(&o, 0, sizeof o);
    uint8_t key[32], secret[64];
    if (own)
        derive_content_key(key, secret, own);
    datsync_bytes block;
    int r;
    if (datsync_feed_has(d->metadata, 0)) {
        if ((r = metadata_block(d, 0, &block)) < 0 ||
            (r = header_decode(block, datsync_feed_key(d->metadata), key)) < 0)
            return r;
        if (own && memcmp(key, secret + 32, 32) != 0)
            own = NULL; /* another key than the derived one: it can be read, and not be written */
    } else if (!own && d->content_store.read(d->content_store.ctx, DATSYNC_PART_KEY, 0, key, 32) != 32) {
        return 0; /* the folder does not know it either */
    } else if (own && datsync_feed_length(d->metadata)) {
        return 0;
    }
    o.env = &d->env;
    o.key = key;
    o.secret_key = own ? secret : NULL;
    o.flags = (d->flags & (DATSYNC_READ_ONLY | DATSYNC_NO_SYNC | DATSYNC_SALVAGE)) |
              (d->flags & DATSYNC_READ_ONLY ? 0 : DATSYNC_CREATE);
    o.store.ctx = d;
    o.store.read = content_read;
    o.store.write = content_write;
    o.store.size = content_size;
    o.store.truncate = content_truncate;
    o.store.sync = content_sync;
    o.store.punch = content_punch;
    o.store.lock = content_lock;
    r = datsync_feed_open(&d->content, &o);
    sodium_memzero(secret, sizeof secret);
    if (r < 0)
        return r == DATSYNC_E_NOT_FOUND && (d->flags & DATSYNC_READ_ONLY) ? 0 : r;
    if (!d->archive)
        r = claims_set_apart(d->content);
    drive_keeps(d);
    d->watch.added = content_added;
    d->watch.cleared = content_cleared;
    d->watch.committed = content_committed;
    feed_watch(d->content, &d->watch);
    if (r >= 0 && d->archive && !(d->flags & DATSYNC_READ_ONLY)) /* that it is an archive is to be seen */
        r = content_write(d, DATSYNC_PART_DATA, 0, "", 0);
    return r < 0 ? r : 0;
}

static int drive_write_header(datsync_drive *d)
{
    datsync_bytes b;
    b.data = (const uint8_t *)DRIVE_TYPE;
    b.len = sizeof DRIVE_TYPE - 1;
    uint8_t buf[64];
    uint8_t *p = bytes_encode(buf, BYTES_KEY(1), b);
    b.data = datsync_feed_key(d->content);
    b.len = 32;
    p = bytes_encode(p, BYTES_KEY(2), b);
    b.data = buf;
    b.len = (size_t)(p - buf);
    int64_t r = datsync_feed_append(d->metadata, &b, 1);
    return r < 0 ? (int)r : datsync_feed_flush(d->metadata);
}

static int drive_open(datsync_drive *d, const datsync_drive_options *given)
{
    int r;
    if (!d->metadata_store.read && (r = datsync_memory_store(&d->env, &d->metadata_store)) < 0)
        return r;
    if (!d->content_store.read && (r = datsync_memory_store(&d->env, &d->content_store)) < 0)
        return r;
    uint8_t key[32];
    int64_t n = d->metadata_store.read(d->metadata_store.ctx, DATSYNC_PART_KEY, 0, key, 32);
    if (n < 0 && n != DATSYNC_E_NO_ENTRY)
        return (int)n;
    int exists = n == 32;
    int64_t size = d->content_store.size(d->content_store.ctx, DATSYNC_PART_DATA);
    if (size < 0 && size != DATSYNC_E_NO_ENTRY)
        return (int)size;
    d->archive = !d->has_files || (!exists && (d->flags & DATSYNC_ARCHIVE)) || size >= 0;
    datsync_feed_options o;
    memset(&o, 0, sizeof o);
    o.env = &d->env;
    o.key = given->key;
    o.secret_key = given->secret_key;
    o.flags = d->flags & (DATSYNC_CREATE | DATSYNC_READ_ONLY | DATSYNC_NO_SYNC | DATSYNC_SALVAGE);
    datsync_file_info info;
    memset(&info, 0, sizeof info);
    r = d->has_files ? d->files.stat(d->files.ctx, ".dat/metadata.ogd", &info) : 0;
    if (r < 0 && r != DATSYNC_E_NO_ENTRY)
        return r;
    uint8_t secret[64], discovery_key[32];
    if (r == 0 && (info.size || !d->has_files) && exists && !o.secret_key && d->secrets.load) {
        datsync_discovery_key(discovery_key, key);
        r = d->secrets.load(d->secrets.ctx, discovery_key, secret);
        if (r < 0 && r != DATSYNC_E_NOT_FOUND)
            return r;
        o.secret_key = r == 0 ? secret : NULL;
        d->secret_saved = r == 0;
    }
    o.store.ctx = d;
    o.store.read = metadata_read;
    o.store.write = metadata_write;
    o.store.size = metadata_size;
    o.store.truncate = metadata_truncate;
    o.store.sync = metadata_sync;
    o.store.lock = metadata_lock;
    r = datsync_feed_open(&d->metadata, &o);
    sodium_memzero(secret, sizeof secret);
    if (r == 0) {
        drive_keeps(d);
        r = drive_open_content(d);
    }
    if (r == 0 && datsync_feed_writable(d->metadata) && datsync_feed_length(d->metadata) == 0)
        r = drive_write_header(d);
    return r;
}

int datsync_drive_open(datsync_drive **out, const datsync_drive_options *o)
{
    *out = NULL;
    if (sodium_init() < 0)
        return DATSYNC_E_RANDOM;
    datsync_env env;
    env_init(&env, o->env);
    datsync_drive *d = mem_zeroed(&env, sizeof *d);
    if (!d) {
        if (o->metadata.close)
            o->metadata.close(o->metadata.ctx);
        if (o->content.close)
            o->content.close(o->content.ctx);
        if (o->files.close)
            o->files.close(o->files.ctx);
        if (o->secrets.close)
            o->secrets.close(o->secrets.ctx);
        return DATSYNC_E_NOMEM;
    }
    d->env = env;
    d->metadata_store = o->metadata;
    d->content_store = o->content;
    d->files = o->files;
    d->has_files = o->files.open_file != NULL;
    d->secrets = o->secrets;
    d->flags = o->flags;
    d->survey.version = d->block.index = d->aside.since = d->history.version = NONE;
    env.random(env.ctx, d->hash_key, sizeof d->hash_key);
    int r = drive_open(d, o);
    if (r < 0) {
        (void)drive_free(d);
        return r;
    }
    *out = d;
    return 0;
}

/* ================================================================ drive: what is here =========================== */

/* Does a file hold what its entry says? Size and time tell in most cases, its bytes in the others; a verdict is
 * remembered by entry, size and time, so that no file is read twice for it. Reading a file out of the content is
 * here, too. Looking changes nothing on the disk. */

/* A content block, checked against the tree, into the drive's buffer: its size. */
static int64_t content_block(datsync_drive *d, uint64_t index)
{
    int64_t size = datsync_feed_block_size(d->content, index);
    if (size < 0 || d->block.index == index)
        return size;
    d->block.index = NONE;
    int r;
    if ((r = mem_grow(&d->env, &d->block.bytes, &d->block.cap, (size_t)size + 1, 1)) < 0 ||
        (r = block_read_checked(d->content, index, d->block.bytes, (size_t)size)) < 0)
        return r == DATSYNC_E_CORRUPT ? DATSYNC_E_HASH : r;
    d->block.index = index;
    return size;
}

/* One block of an entry, read from the file in its place (whatever else is known of it), against the tree: 1, 0 or
 * an error. */
static int file_block_good(datsync_drive *d, intptr_t handle, uint64_t index, uint64_t *at)
{
    datsync_node want;
    int r;
    if ((r = tree_get(d->content, 2 * index, &want)) < 0 || want.size > DATSYNC_MAX_FRAME)
        return is_fatal(r) ? r : 0;
    d->block.index = NONE;
    if ((r = mem_grow(&d->env, &d->block.bytes, &d->block.cap, (size_t)want.size + 1, 1)) < 0)
        return r;
    int64_t n = d->files.read(d->files.ctx, handle, *at, d->block.bytes, (size_t)want.size);
    *at += want.size;
    if (n < (int64_t)want.size)
        return n < 0 ? (int)n : 0;
    datsync_bytes block;
    block.data = d->block.bytes;
    block.len = (size_t)want.size;
    datsync_node got;
    datsync_leaf_hashes(&got, &block, 1);
    return memcmp(got.hash, want.hash, 32) == 0;
}

/* Is every byte of the file at this path what the entry says? 1, 0 (also if the tree does not tell), or why it can't
 * be read. `turn` (may be NULL) is called with the bytes that were read, between blocks; an error of its ends it. */
static int file_compare(datsync_drive *d, const char *path, const datsync_stat *stat,
                        int (*turn)(void *ctx, uint64_t done), void *ctx)
{
    datsync_file_info info;
    uint64_t at = 0;
    int r = d->files.stat(d->files.ctx, path, &info);
    if (r < 0)
        return r == DATSYNC_E_NO_ENTRY || r == DATSYNC_E_NOT_FOLDER ? 0 : r;
    if ((info.mode & MODE_TYPE) != MODE_FILE || info.size != stat->size)
        return 0;
    if (!stat->blocks)
        return 1;
    if (!d->content)
        return 0;
    intptr_t handle;
    if ((r = d->files.open_file(d->files.ctx, path, 0, &handle)) < 0)
        return r;
    uint64_t i;
    for (i = 0, r = 1; i < stat->blocks && r > 0; i++) {
        int told = turn ? turn(ctx, at) : 0;
        r = told < 0 ? told : file_block_good(d, handle, stat->offset + i, &at);
    }
    d->files.close_file(d->files.ctx, handle);
    return r > 0 && at != stat->size ? 0 : r;
}

static int file_matches(datsync_drive *d, const char *path, const datsync_stat *stat)
{
    return file_compare(d, path, stat, NULL, NULL);
}

/* ------------------------------------------------ what reading a file told */

/* Until its size or time changes it need not be read again. */

enum { VERDICT_BAD = 1, VERDICT_GOOD = 2, VERDICTS_SPARE = 1024 };

static uint64_t verdict_name(const datsync_drive *d, uint64_t seq, const datsync_file_info *info)
{
    uint8_t words[24];
    put_u64(words, seq);
    put_u64(words + 8, info->size);
    put_u64(words + 16, (uint64_t)info->mtime);
    datsync_bytes name;
    name.data = words;
    name.len = sizeof words;
    return name_hash(d, name);
}

/* Is the file as the entry says? 1, 0, or DATSYNC_E_NOT_FOUND: it was not read. */
static int verdict_find(const datsync_drive *d, uint64_t seq, const datsync_file_info *info)
{
    const named_entry *known = d->verdicts.cap ? names_slot(&d->verdicts, verdict_name(d, seq, info)) : NULL;
    return known && known->seq ? known->seq == VERDICT_GOOD : DATSYNC_E_NOT_FOUND;
}

static void verdicts_forget(datsync_drive *d)
{
    mem_free(&d->env, d->verdicts.v);
    memset(&d->verdicts, 0, sizeof d->verdicts);
}

static int verdict_note(datsync_drive *d, uint64_t seq, const datsync_file_info *info, int good)
{
    if (d->verdicts.count > 2 * datsync_drive_version(d) + VERDICTS_SPARE) /* most are of times that have passed */
        verdicts_forget(d);
    return names_set(&d->env, &d->verdicts, verdict_name(d, seq, info), good ? VERDICT_GOOD : VERDICT_BAD) < 0
               ? DATSYNC_E_NOMEM
               : 0;
}

/* ------------------------------------------------ is a file as recorded? */

static int entry_claimed(const datsync_drive *d, const datsync_stat *stat, int whole)
{
    uint64_t end = stat->offset + stat->blocks;
    if (!d->content || !stat->blocks)
        return 0;
    return whole ? bits_next(feed_claims(d->content), stat->offset, end, 0) >= end
                 : bits_next(feed_claims(d->content), stat->offset, end, 1) < end;
}

/* The file that is in its place is what the entry says, also if it was never claimed, or not all of it. */
static int entry_claim(datsync_drive *d, const datsync_stat *stat)
{
    uint64_t end = stat->offset + stat->blocks;
    int r = 0;
    for (uint64_t i = stat->offset; i < end && r >= 0; i++)
        if ((r = block_claim(d->content, i, 1)) > 0)
            tell_added(d->content, i, i + 1);
    if (r >= 0 && feed_is_kept(d->content))
        r = claims_add(d->content, stat->offset, end);
    return r < 0 ? r : 0;
}

/* What a look at an entry's place tells: 0 if all is as recorded, DATSYNC_E_AGAIN if only the bytes can tell, else
 * what is wrong. DATSYNC_E_PARTIAL: it was never here whole. */
static int entry_look(const datsync_drive *d, const datsync_entry *e, datsync_file_info *info)
{
    int r = d->files.stat(d->files.ctx, e->path + 1, info), type = (int)(info->mode & MODE_TYPE);
    int whole = entry_claimed(d, &e->stat, 1);
    if (r == DATSYNC_E_NO_ENTRY && e->stat.blocks && !whole)
        return DATSYNC_E_PARTIAL;
    if (r < 0)
        return r;
    if (is_folder(e))
        return type == (int)MODE_FOLDER ? 0 : DATSYNC_E_NOT_FOLDER;
    if (type != (int)MODE_FILE)
        return type == (int)MODE_FOLDER ? DATSYNC_E_IS_FOLDER : DATSYNC_E_LINK;
    if (info->size != e->stat.size && (whole || !entry_claimed(d, &e->stat, 0)))
        return DATSYNC_E_CHANGED;
    return (whole || !e->stat.blocks) && looks_same(info, &e->stat) ? 0 : DATSYNC_E_AGAIN;
}

static int entry_show(datsync_drive *d, const datsync_stat *stat)
{
    return feed_show(d->content, stat->offset, stat->offset + stat->blocks);
}

static int entry_hide(datsync_drive *d, const datsync_stat *stat)
{
    return feed_hide(d->content, stat->offset, stat->offset + stat->blocks);
}

/* A file of which the deployed implementation has written a part: DATSYNC_E_PARTIAL if the blocks that are claimed
 * are good. */
static int entry_part(datsync_drive *d, const datsync_entry *e)
{
    datsync_feed *c = d->content;
    uint64_t end = e->stat.offset + e->stat.blocks, at = 0;
    intptr_t handle;
    int r = d->files.open_file(d->files.ctx, e->path + 1, 0, &handle), good = 1;
    if (r < 0)
        return r;
    uint64_t offset;
    for (uint64_t i = e->stat.offset; r >= 0 && (i = bits_next(feed_claims(c), i, end, 1)) < end; i++) {
        if ((r = block_offset(c, i, &offset)) == 0 && offset >= e->stat.byte_offset) {
            at = offset - e->stat.byte_offset;
            r = file_block_good(d, handle, i, &at);
        }
        good = good && r > 0;
        if (r >= 0)
            r = r ? feed_show(c, i, i + 1) : feed_hide(c, i, i + 1);
    }
    d->files.close_file(d->files.ctx, handle);
    return r < 0 ? r : good ? DATSYNC_E_PARTIAL : DATSYNC_E_CHANGED;
}

/* Of a drive that lays nothing out: are an entry's bytes in the store, with `deep` every one as it was signed? */
static int entry_stored(datsync_drive *d, const datsync_entry *e, int deep)
{
    uint64_t i = e->stat.offset, end = e->stat.offset + e->stat.blocks, sum = 0;
    int64_t n = 0;
    if (is_folder(e) || !e->stat.blocks)
        return 0;
    if (!entry_claimed(d, &e->stat, 1))
        return DATSYNC_E_PARTIAL;
    for (; deep && n >= 0 && i < end; i++, sum += (uint64_t)n) {
        d->block.index = NONE; /* it is read anew */
        n = content_block(d, i);
    }
    return n < 0 ? (int)n : deep && sum != e->stat.size ? DATSYNC_E_RANGE : 0;
}

/* Is what stands in an entry's place what the entry says: by size and time, and by its bytes where these don't tell,
 * or with `deep`? 0, or what is wrong. */
static int entry_judge(datsync_drive *d, const datsync_entry *e, int deep)
{
    datsync_file_info info;
    int r = entry_look(d, e, &info);
    if (is_folder(e) || !(r == DATSYNC_E_AGAIN || (r == 0 && deep)))
        return r;
    r = file_matches(d, e->path + 1, &e->stat);
    return r < 0 ? r : r ? 0 : DATSYNC_E_CHANGED;
}

/* The same, and offer it or not. */
static int entry_check(datsync_drive *d, const datsync_entry *e, int deep)
{
    if (!d->has_files || !d->content)
        return entry_stored(d, e, deep);
    int wrong = entry_judge(d, e, deep);
    if (is_folder(e))
        return wrong;
    if (wrong == DATSYNC_E_CHANGED && entry_claimed(d, &e->stat, 0) && !entry_claimed(d, &e->stat, 1))
        return entry_part(d, e);
    if (d->archive)
        return wrong;
    int r = wrong ? entry_hide(d, &e->stat) : entry_show(d, &e->stat);
    return r < 0 ? r : wrong;
}

/* Files that lack nothing of theirs when they are not there: the deployed implementation makes no empty ones. */
static int is_empty_file(const datsync_entry *e)
{
    return !is_folder(e) && !e->stat.size;
}

/* All live files and folders that are selected, and are not on their way. */
static int64_t drive_check(datsync_drive *d, const datsync_drive_check *how)
{
    char path[DATSYNC_MAX_PATH + 2];
    uint64_t good = 0;
    datsync_entry e;
    int r = 0;
    for (uint64_t seq = 0; r >= 0 && (seq = survey_next_live(d, seq, survey_version(d) + 1)) <= survey_version(d);
         seq++) {
        if ((r = entry_load(d, seq, &e)) < 0)
            break;
        strcpy(path, e.path);
        e.path = path;
        if (target_of_block(d, e.stat.offset) || (d->layout.select && !d->layout.select(d->layout.ctx, path)))
            continue;
        r = entry_check(d, &e, how->deep);
        if (r == DATSYNC_E_NOMEM)
            break;
        if (r == DATSYNC_E_NO_ENTRY && is_empty_file(&e))
            r = 0;
        good += r == 0;
        if (r < 0 && how->fault)
            how->fault(how->ctx, &e, r);
        r = 0;
    }
    return r < 0 ? r : (int64_t)good;
}

/* ------------------------------------------------ what is here of it all */

/* Add one file to the sums. Whether its bytes are right, only reading would tell. */
static int state_add(datsync_drive *d, const datsync_entry *e, datsync_drive_state *s)
{
    datsync_file_info info;
    uint64_t end = e->stat.offset + e->stat.blocks;
    int r = d->has_files && d->content ? entry_look(d, e, &info) : entry_check(d, e, 0);
    if (is_folder(e))
        return r;
    int whole = entry_claimed(d, &e->stat, 1) || !e->stat.blocks;
    if (r == DATSYNC_E_AGAIN)
        r = whole || (info.size == e->stat.size && !entry_claimed(d, &e->stat, 0)) ? 0 : DATSYNC_E_PARTIAL;
    s->files++;
    s->bytes += e->stat.size;
    s->blocks += e->stat.blocks;
    s->whole += r == 0 || (r == DATSYNC_E_NO_ENTRY && is_empty_file(e));
    if (r == 0)
        s->held += e->stat.blocks;
    else if (r == DATSYNC_E_PARTIAL && d->content)
        s->held += bits_count(feed_claims(d->content), e->stat.offset, end);
    return r;
}

/* Returns how many entries are not as recorded. */
static int64_t state_of(datsync_drive *d, uint64_t version, datsync_drive_state *s, const datsync_drive_check *how)
{
    int64_t faults = 0;
    int r = drive_survey(d, version, 0);
    s->files = s->bytes = s->blocks = s->whole = s->held = 0;
    char path[DATSYNC_MAX_PATH + 2];
    datsync_entry e;
    for (uint64_t seq = 0; r == 0 && (seq = survey_next_live(d, seq, version + 1)) <= version; seq++) {
        if ((r = entry_load(d, seq, &e)) < 0)
            break;
        strcpy(path, e.path);
        e.path = path;
        if (d->layout.select && !d->layout.select(d->layout.ctx, path))
            continue;
        int fault = state_add(d, &e, s);
        if (fault == DATSYNC_E_NOMEM)
            return fault;
        if (fault == 0 || (fault == DATSYNC_E_NO_ENTRY && is_empty_file(&e)))
            continue;
        faults++;
        if (how && how->fault)
            how->fault(how->ctx, &e, fault);
    }
    return r < 0 ? r : faults;
}

int datsync_drive_look(datsync_drive *d, datsync_drive_state *out, const datsync_drive_check *check)
{
    uint64_t here, newest = datsync_drive_version(d);
    int64_t of_older = 1;
    int r = version_here(d, &here);
    memset(out, 0, sizeof *out);
    if (r < 0)
        return r;
    uint64_t version = d->layout.version && d->layout.version <= newest ? d->layout.version : newest;
    if (here != version && (of_older = state_of(d, here, out, NULL)) < 0)
        return (int)of_older;
    int64_t faults;
    if ((faults = state_of(d, version, out, check)) < 0)
        return (int)faults;
    out->version = newest;
    out->has_header = datsync_feed_has(d->metadata, 0);
    out->missing = newest - datsync_feed_count(d->metadata, 1, newest + 1);
    int whole = here == version && faults == 0 && out->has_header && !out->missing;
    out->complete = whole && version == newest;
    out->laid_out = whole ? version : of_older == 0 ? here : 0;
    out->lost = d->history.lost;
    out->shown = d->history.shown;
    return 0;
}

int64_t datsync_drive_verify(datsync_drive *d, const datsync_drive_check *check)
{
    int r = survey_here(d);
    return r < 0 ? r : drive_check(d, check);
}

int64_t datsync_drive_read(datsync_drive *d, const datsync_entry *e, uint64_t offset, void *buf, size_t len)
{
    uint64_t index = 0, inside = 0;
    size_t done = 0;
    if (e->deleted || e->error || is_folder(e))
        return e->error ? e->error : DATSYNC_E_INVALID;
    if (offset >= e->stat.size)
        return 0;
    if (!d->content)
        return DATSYNC_E_NOT_FOUND;
    len = (size_t)MIN((uint64_t)len, e->stat.size - offset);
    uint64_t at = e->stat.byte_offset + offset;
    int r;
    if ((r = datsync_feed_seek(d->content, at, &index, &inside)) < 0)
        return r;
    for (; done < len; index++, inside = 0) {
        int64_t size = datsync_feed_has(d->content, index) || feed_is_kept(d->content) ? content_block(d, index)
                                                                                       : DATSYNC_E_NOT_FOUND;
        if (size == DATSYNC_E_HASH && !datsync_feed_has(d->content, index))
            size = DATSYNC_E_NOT_FOUND; /* it was not said to be here */
        if (size < 0)
            return size;
        if (index < e->stat.offset || index - e->stat.offset >= e->stat.blocks || (uint64_t)size < inside)
            return DATSYNC_E_RANGE;
        size_t n;
        n = (size_t)MIN((uint64_t)(len - done), (uint64_t)size - inside);
        memcpy((uint8_t *)buf + done, d->block.bytes + inside, n);
        done += n;
    }
    return (int64_t)done;
}

/* ================================================================ drive: writing ================================ */

/* New entries, as append-tree 2 writes them: each entry lists, for each folder on its way, the newest entry of each
 * child (PROTOCOL 18). So the writer keeps one level for each folder of the last path. Content blocks and entries are
 * gathered into batches with one signature each; the content is committed before the metadata that speaks of it. */

static int batch_flush(datsync_drive *d)
{
    datsync_bytes blocks[DRIVE_BATCH_BLOCKS];
    size_t i, at;
    int64_t r = 0;
    for (i = 0, at = 0; i < d->writer.batch_count; at += d->writer.batch_sizes[i++]) {
        blocks[i].data = d->writer.batch + at;
        blocks[i].len = d->writer.batch_sizes[i];
    }
    if (d->writer.batch_count)
        r = datsync_feed_append(d->content, blocks, d->writer.batch_count);
    if (r >= 0) {
        d->writer.batch_count = d->writer.batch_used = 0;
        for (i = 0, at = 0; i < d->writer.node_count; at = d->writer.node_ends[i++]) {
            blocks[i].data = d->writer.nodes + at;
            blocks[i].len = d->writer.node_ends[i] - at;
        }
        if (d->writer.node_count)
            r = datsync_feed_append(d->metadata, blocks, d->writer.node_count);
    }
    if (r < 0) { /* as if the batch had not been */
        d->writer.batch_count = d->writer.batch_used = 0;
        d->writer.level_count = 0;
        survey_drop(d); /* which entries are live, and where, is found anew */
    }
    d->writer.node_count = d->writer.nodes_used = 0;
    return r < 0 ? (int)r : 0;
}

static uint64_t batch_end(const datsync_drive *d)
{
    return datsync_feed_length(d->content) + d->writer.batch_count;
}

static uint64_t batch_byte_end(const datsync_drive *d)
{
    return datsync_feed_byte_length(d->content) + d->writer.batch_used;
}

/* Room for the next block of a file. */
static int batch_room(datsync_drive *d)
{
    if (!d->writer.batch && !(d->writer.batch = mem_resize(&d->env, NULL, DRIVE_BATCH_BYTES)))
        return DATSYNC_E_NOMEM;
    return d->writer.batch_count == DRIVE_BATCH_BLOCKS || d->writer.batch_used + DATSYNC_FILE_BLOCK > DRIVE_BATCH_BYTES
               ? batch_flush(d)
               : 0;
}

static level *level_at(datsync_drive *d, size_t i)
{
    size_t had = d->writer.level_cap;
    if (mem_grow(&d->env, &d->writer.levels, &d->writer.level_cap, i + 1, sizeof *d->writer.levels) < 0)
        return NULL;
    if (d->writer.level_cap > had)
        memset(d->writer.levels + had, 0, (d->writer.level_cap - had) * sizeof *d->writer.levels);
    return &d->writer.levels[i];
}

static int level_add(datsync_drive *d, level *l, uint64_t seq, uint64_t name)
{
    if (mem_grow(&d->env, &l->v, &l->cap, l->count + 1, sizeof *l->v) < 0)
        return DATSYNC_E_NOMEM;
    l->v[l->count].seq = seq;
    l->v[l->count++].name = name;
    return 0;
}

/* The newest entry of a child, 0 if the folder has no such child. */
static uint64_t level_find(const level *l, uint64_t name)
{
    size_t i = l->count;
    while (i-- > 0)
        if (l->v[i].name == name)
            return l->v[i].seq;
    return 0;
}

static void level_remove(level *l, uint64_t name)
{
    size_t n = 0;
    for (size_t i = 0; i < l->count; i++)
        if (l->v[i].name != name)
            l->v[n++] = l->v[i];
    l->count = n;
}

/* The children of the folder of the first `depth` names, out of the index of the newest entry beneath it. */
static int level_load(datsync_drive *d, level *l, uint64_t seq, size_t depth)
{
    seqs list;
    memset(&list, 0, sizeof list);
    l->count = 0;
    drive_node n;
    int r = node_load(d, seq, &n);
    if (r == 0)
        r = node_level(d, &n, depth, &list);
    for (size_t i = 0; i < list.count && r >= 0; i++) {
        r = node_load(d, list.v[i], &n);
        if (r == 0) /* the folder may have an entry of its own: a child without a name */
            r = level_add(d, l, list.v[i], name_hash(d, name_part(n.name, depth)));
    }
    mem_free(&d->env, list.v);
    return r < 0 ? r : 0;
}

/* Have the folders on the way to a name at hand; those that it shares with the name before are. */
static int levels_seek(datsync_drive *d, datsync_bytes name)
{
    size_t depth = name_depth(name), common = name_common(path_name(d->writer.level_path), name);
    int r = 0;
    if (d->writer.level_count > common + 1)
        d->writer.level_count = common + 1;
    for (size_t i = d->writer.level_count; i <= depth && r == 0; i++) {
        level *l = level_at(d, i);
        if (!l)
            return DATSYNC_E_NOMEM;
        l->count = 0;
        uint64_t seq =
            i ? level_find(&d->writer.levels[i - 1], name_hash(d, name_part(name, i - 1))) : datsync_drive_version(d);
        if (seq && d->writer.node_count)
            r = batch_flush(d); /* what is looked up must be in the feed */
        if (seq && r == 0)
            r = level_load(d, l, seq, i);
        if (r == 0)
            d->writer.level_count = i + 1;
    }
    memcpy(d->writer.level_path, name.data, name.len);
    d->writer.level_path[name.len] = 0;
    if (r < 0)
        d->writer.level_count = 0;
    return r;
}

static size_t list_encode(uint8_t *out, const level *l, uint64_t without, uint64_t self)
{
    uint64_t prev = 0, count = self != 0;
    uint8_t *p = out;
    for (size_t i = 0; i < l->count; i++)
        count += l->v[i].name != without;
    p += datsync_varint_encode(p, count);
    for (size_t i = 0; i < l->count; i++)
        if (l->v[i].name != without) {
            p += datsync_varint_encode(p, l->v[i].seq - prev);
            prev = l->v[i].seq;
        }
    if (self)
        p += datsync_varint_encode(p, self - prev);
    return (size_t)(p - out);
}

/* `paths` of an entry (PROTOCOL 18.6). A put lists all levels, and each list ends with its own number, which is left
 * out. A deletion lists them down to the deepest folder that has another child, and is itself in all but the last. */
static size_t paths_encode(datsync_drive *d, datsync_bytes name, int deleted, size_t levels, uint64_t seq, uint8_t *out)
{
    size_t at = 1;
    out[0] = !deleted;
    for (size_t i = 0; i < levels; i++) {
        uint64_t own = name_hash(d, name_part(name, i));
        at += list_encode(out + at, &d->writer.levels[i], own, deleted && i + 1 < levels ? seq : 0);
    }
    return at;
}

static size_t stat_encode(uint8_t *out, const datsync_stat *s)
{
    int folder = (s->mode & MODE_TYPE) == MODE_FOLDER;
    const uint64_t v[STAT_FIELDS] = {s->mode,   s->uid,         s->gid,   s->size, s->blocks,
                                     s->offset, s->byte_offset, s->mtime, s->ctime};
    uint8_t *p = out;
    for (size_t i = 0; i < STAT_FIELDS; i++) {
        if (folder && i >= 1 && i <= 4 && !v[i]) /* the deployed mkdir writes none of these */
            continue;
        *p++ = (uint8_t)((i + 1) << 3);
        p += datsync_varint_encode(p, v[i]);
    }
    return (size_t)(p - out);
}

/* How many levels an entry lists. */
static size_t levels_listed(datsync_drive *d, datsync_bytes name, int deleted)
{
    size_t i = name_depth(name) + 1;
    if (!deleted)
        return i;
    while (i-- > 0)
        if (d->writer.levels[i].count > (level_find(&d->writer.levels[i], name_hash(d, name_part(name, i))) != 0))
            return i + 1;
    return 1;
}

/* Append an entry to the batch, and bring the levels up to it: its number. */
static int64_t entry_append(datsync_drive *d, datsync_bytes name, const datsync_stat *stat)
{
    size_t need = 64 + name.len;
    int r;
    if ((r = levels_seek(d, name)) < 0)
        return r;
    if ((d->writer.node_count == DRIVE_BATCH_BLOCKS || d->writer.nodes_used > DRIVE_BATCH_BYTES) &&
        (r = batch_flush(d)) < 0)
        return r;
    uint64_t seq = datsync_drive_version(d) + 1;
    size_t levels = levels_listed(d, name, stat == NULL);
    for (size_t i = 0; i < levels; i++)
        need += 11 * (d->writer.levels[i].count + 2);
    uint8_t *paths = mem_resize(&d->env, NULL, need);
    uint8_t value[STAT_FIELDS * 11];
    if (!paths || mem_grow(&d->env, &d->writer.nodes, &d->writer.nodes_cap,
                           d->writer.nodes_used + 2 * need + sizeof value, 1) < 0) {
        mem_free(&d->env, paths);
        return DATSYNC_E_NOMEM;
    }
    size_t n = paths_encode(d, name, stat == NULL, levels, seq, paths);
    char full[DATSYNC_MAX_PATH + 2];
    full[0] = '/';
    memcpy(full + 1, name.data, name.len);
    datsync_bytes b;
    b.data = (const uint8_t *)full;
    b.len = name.len + 1;
    uint8_t *p = bytes_encode(d->writer.nodes + d->writer.nodes_used, BYTES_KEY(1), b);
    if (stat) {
        b.data = value;
        b.len = stat_encode(value, stat);
        p = bytes_encode(p, BYTES_KEY(2), b);
    }
    b.data = paths;
    b.len = n;
    p = bytes_encode(p, BYTES_KEY(3), b);
    mem_free(&d->env, paths);
    if ((size_t)(p - d->writer.nodes) - d->writer.nodes_used > DATSYNC_MAX_BLOCK)
        return DATSYNC_E_TOO_BIG;
    d->writer.nodes_used = (size_t)(p - d->writer.nodes);
    d->writer.node_ends[d->writer.node_count++] = d->writer.nodes_used;
    for (size_t i = 0; i < levels; i++) {
        uint64_t child_name = name_hash(d, name_part(name, i));
        level_remove(&d->writer.levels[i], child_name);
        if ((stat || i + 1 < levels) && (r = level_add(d, &d->writer.levels[i], seq, child_name)) < 0)
            d->writer.level_count = 0;
    }
    if (!stat && d->writer.level_count > levels)
        d->writer.level_count = levels;
    return (int64_t)seq;
}

/* The bytes of what was at a path before are the owner's no more. */
static int entry_forget(datsync_drive *d, uint64_t seq, const datsync_stat *stat)
{
    if (!seq)
        return 0;
    survey_remove(d, seq, stat->byte_offset);
    (void)bits_set(&d->env, &d->doubts.files, seq, 0);
    file_close(d, seq);
    return d->archive ? 0 : feed_retract(d->content, stat->offset, stat->offset + stat->blocks);
}

/* The next bytes of a file, as blocks of the batch. `more` is asked between blocks; non-zero ends it. */
static int content_put_blocks(datsync_drive *d, datsync_read_fn *read, void *ctx, datsync_stat *stat)
{
    int64_t n = 1;
    stat->offset = batch_end(d);
    stat->byte_offset = batch_byte_end(d);
    stat->size = stat->blocks = 0;
    int r;
    while (read && n > 0) {
        size_t got = 0;
        if ((r = batch_room(d)) < 0)
            return r;
        while (got < DATSYNC_FILE_BLOCK &&
               (n = read(ctx, d->writer.batch + d->writer.batch_used + got, DATSYNC_FILE_BLOCK - got)) > 0)
            got += (size_t)n;
        if (got) {
            d->writer.batch_sizes[d->writer.batch_count++] = got;
            d->writer.batch_used += got;
            stat->size += got;
            stat->blocks++;
        }
    }
    if (n >= 0)
        return 0;
    r = batch_flush(d); /* these blocks are nobody's */
    if (r == 0)
        r = feed_retract(d->content, stat->offset, datsync_feed_length(d->content));
    return r < 0 ? r : (int)n;
}

static int content_put(datsync_drive *d, const char *path, datsync_read_fn *read, void *ctx, datsync_stat *stat)
{
    d->putting.path = path;
    d->putting.place.at = batch_byte_end(d);
    d->putting.place.size = read ? (uint64_t)INT64_MAX : 0;
    d->putting.place.seq = NONE - 1;
    int r = content_put_blocks(d, read, ctx, stat);
    d->putting.place.size = 0;
    file_close(d, NONE - 1);
    return r;
}

static int drive_can_write(datsync_drive *d, const char *path)
{
    if (!datsync_drive_writable(d))
        return DATSYNC_E_READ_ONLY;
    return path[0] == '/' ? name_check(d, path_name(path)) : DATSYNC_E_PATH;
}

static int64_t put_entry(datsync_drive *d, const char *path, const datsync_stat *given, datsync_read_fn *read,
                         void *ctx, uint64_t old_seq, const datsync_stat *old)
{
    datsync_stat stat = *given;
    int r = content_put(d, path, (stat.mode & MODE_TYPE) == MODE_FOLDER ? NULL : read, ctx, &stat);
    if (r < 0)
        return r;
    if (!(stat.mode & MODE_TYPE))
        stat.mode |= MODE_FILE;
    int64_t seq = entry_append(d, path_name(path), &stat);
    if (seq < 0)
        return seq;
    if ((r = entry_forget(d, old_seq, old)) < 0 || (r = survey_add(d, (uint64_t)seq, &stat)) < 0)
        return r;
    return seq;
}

int64_t datsync_drive_put(datsync_drive *d, const char *path, const datsync_stat *stat, datsync_read_fn *read,
                          void *ctx)
{
    int r = drive_can_write(d, path);
    if (r < 0)
        return r;
    datsync_entry old;
    r = datsync_drive_find(d, datsync_drive_version(d), path, &old, NULL);
    if (r < 0 && r != DATSYNC_E_NOT_FOUND)
        return r;
    int64_t seq = put_entry(d, path, stat, read, ctx, r == 0 ? old.version : 0, &old.stat);
    r = batch_flush(d);
    return r < 0 ? r : seq;
}

int64_t datsync_drive_remove(datsync_drive *d, const char *path)
{
    datsync_entry old;
    int r = drive_can_write(d, path);
    if (r == 0)
        r = datsync_drive_find(d, datsync_drive_version(d), path, &old, NULL);
    if (r < 0)
        return r;
    int64_t seq = entry_append(d, path_name(path), NULL);
    if (seq >= 0 && (r = entry_forget(d, old.version, &old.stat)) < 0)
        return r;
    r = batch_flush(d);
    return r < 0 ? r : seq;
}

/* ================================================================ drive: importing ============================== */

/* The folder against the drive, name by name in order: what is new or changed is put, what is gone is removed. Size
 * and time tell what is unchanged; where only the time differs, the bytes do. A file that changes while it is read is
 * read again. */

/* Names of a folder, on disk or in the drive, ordered. */
typedef struct listed {
    size_t name;             /* offset in the text */
    int is_entry, is_parent; /* in the drive: it has an entry of its own, files beneath it */
    uint64_t seq;
    datsync_stat stat;
} listed;

typedef struct listing {
    datsync_drive *d;
    char *text;
    size_t used, text_cap;
    listed *v;
    size_t count, cap;
    const char *base; /* while sorting */
    size_t skip;      /* bytes of the folder's path, which are left out */
} listing;

typedef struct importing {
    datsync_drive *d;
    const datsync_import_options *o;
    int64_t changes;
    uint64_t version; /* what the drive held at the beginning */
    int stopped;
    char path[DATSYNC_MAX_PATH + 2]; /* of what is being imported, with a slash before */
    size_t len;
    /* the file that is being read */
    intptr_t handle;
    int change;
    uint64_t done, size;
} importing;

static int listing_add(listing *l, const char *name, const datsync_entry *e)
{
    size_t n = strlen(name) + 1;
    if (mem_grow(&l->d->env, &l->text, &l->text_cap, l->used + n, 1) < 0 ||
        mem_grow(&l->d->env, &l->v, &l->cap, l->count + 1, sizeof *l->v) < 0)
        return DATSYNC_E_NOMEM;
    listed *one = &l->v[l->count++];
    memset(one, 0, sizeof *one);
    one->name = l->used;
    memcpy(l->text + l->used, name, n);
    l->used += n;
    if (e) {
        one->is_entry = e->version != 0;
        one->is_parent = e->version == 0;
        one->seq = e->version;
        one->stat = e->stat;
    }
    return 0;
}

static int listing_disk(void *arg, const char *name)
{
    return listing_add(arg, name, NULL);
}

static int listing_drive(void *arg, const datsync_entry *e)
{
    listing *l = arg;
    return e->error ? 0 : listing_add(l, e->path + l->skip, e);
}

static void listing_free(listing *l)
{
    mem_free(&l->d->env, l->text);
    mem_free(&l->d->env, l->v);
}

static int listed_less(const listing *l, size_t a, size_t b)
{
    int k = strcmp(l->text + l->v[a].name, l->text + l->v[b].name);
    return k != 0 ? k < 0 : l->v[a].name < l->v[b].name;
}

static void listed_sift(listing *l, size_t i, size_t end)
{
    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= end)
            return;
        if (k + 1 < end && listed_less(l, k, k + 1))
            k++;
        if (!listed_less(l, i, k))
            return;
        listed swap = l->v[i];
        l->v[i] = l->v[k];
        l->v[k] = swap;
        i = k;
    }
}

/* Heapsort, for qsort gives its comparison no context; a name that comes twice (an entry and the folder of the same
 * name) is made one. */
static void listing_sort(listing *l)
{
    size_t n = 0;
    for (size_t i = l->count / 2; i-- > 0;)
        listed_sift(l, i, l->count);
    for (size_t i = l->count; i-- > 1;) {
        listed swap = l->v[0];
        l->v[0] = l->v[i];
        l->v[i] = swap;
        listed_sift(l, 0, i);
    }
    for (size_t i = 0; i < l->count; i++) {
        if (n && strcmp(l->text + l->v[n - 1].name, l->text + l->v[i].name) == 0) {
            l->v[n - 1].is_parent |= l->v[i].is_parent;
            if (l->v[i].is_entry) {
                l->v[n - 1].is_entry = 1;
                l->v[n - 1].seq = l->v[i].seq;
                l->v[n - 1].stat = l->v[i].stat;
            }
        } else {
            l->v[n++] = l->v[i];
        }
    }
    l->count = n;
}

static int import_tell(importing *im, int change, const char *path, uint64_t size, uint64_t done, int error)
{
    if (!im->o->on_event)
        return 0;
    datsync_import_event e;
    e.change = change;
    e.path = path;
    e.size = size;
    e.done = done;
    e.error = error;
    if (im->o->on_event(im->o->ctx, &e))
        im->stopped = 1;
    return 0;
}

static int64_t import_read(void *ctx, void *buf, size_t len)
{
    importing *im = ctx;
    int64_t n = im->d->files.read(im->d->files.ctx, im->handle, im->done, buf, len);
    if (n > 0)
        im->done += (uint64_t)n;
    if (im->done > im->size)
        return DATSYNC_E_BUSY;
    if (n > 0 && im->done < im->size && im->done % DRIVE_BATCH_BYTES < len)
        (void)import_tell(im, im->change, im->path, im->size, im->done, 0);
    return im->stopped ? DATSYNC_E_AGAIN : n;
}

static int is_file_fault(int error) /* of one file, and not of the drive */
{
    return error == DATSYNC_E_BUSY || error == DATSYNC_E_NO_ENTRY || error == DATSYNC_E_ACCESS ||
           error == DATSYNC_E_LINK || error == DATSYNC_E_NOT_FOLDER || error == DATSYNC_E_IS_FOLDER ||
           error == DATSYNC_E_NAME || error == DATSYNC_E_PATH;
}

static int import_refuse(importing *im, int error)
{
    return import_tell(im, DATSYNC_REFUSED, im->path, 0, 0, error);
}

static void stat_of_info(datsync_stat *stat, const datsync_file_info *info)
{
    memset(stat, 0, sizeof *stat);
    stat->mode = (info->mode & MODE_RIGHTS) | (info->mode & MODE_TYPE);
    stat->mtime = stat->ctime = info->mtime;
}

/* Put one file. If it changes meanwhile, once more. */
static int import_put(importing *im, const datsync_file_info *first, const listed *old)
{
    datsync_drive *d = im->d;
    datsync_file_info info = *first;
    int64_t seq = DATSYNC_E_BUSY;
    im->change = old && old->is_entry ? DATSYNC_UPDATED : DATSYNC_ADDED;
    im->changes++;
    if (im->o->dry_run)
        return import_tell(im, im->change, im->path, info.size, info.size, 0);
    datsync_file_info after;
    datsync_stat stat;
    int r;
    for (int tries = 0; tries < 3 && seq == DATSYNC_E_BUSY; tries++) {
        if ((r = d->files.open_file(d->files.ctx, im->path + 1, 0, &im->handle)) < 0) {
            seq = r;
            break;
        }
        im->done = 0;
        im->size = info.size;
        stat_of_info(&stat, &info);
        if ((r = content_put(d, im->path, import_read, im, &stat)) == 0 &&
            ((r = d->files.stat(d->files.ctx, im->path + 1, &after)) < 0 || after.size != stat.size ||
             after.mtime != info.mtime)) {
            uint64_t end = batch_end(d);
            r = batch_flush(d); /* what was read is neither the old nor the new file */
            r = r < 0 ? r : feed_retract(d->content, stat.offset, end);
            r = r < 0 ? r : DATSYNC_E_BUSY;
        }
        d->files.close_file(d->files.ctx, im->handle);
        seq = r;
        if (r == DATSYNC_E_BUSY && (r = d->files.stat(d->files.ctx, im->path + 1, &info)) < 0)
            seq = r;
    }
    if (seq == 0)
        seq = entry_append(d, path_name(im->path), &stat);
    if (seq < 0) {
        im->changes--;
        return is_file_fault((int)seq) ? import_refuse(im, (int)seq) : (int)seq;
    }
    if (old && old->is_entry && (r = entry_forget(d, old->seq, &old->stat)) < 0)
        return r;
    if ((r = survey_add(d, (uint64_t)seq, &stat)) < 0)
        return r;
    return import_tell(im, im->change, im->path, stat.size, stat.size, 0);
}

/* Claim an entry's blocks that were retracted while the file was another. */
static int import_reclaim(importing *im, const datsync_stat *stat)
{
    datsync_feed *c = im->d->content;
    uint64_t end = stat->offset + stat->blocks;
    int r = 0;
    if (im->o->dry_run || end > datsync_feed_length(c))
        return 0;
    for (uint64_t i = feed_next_lacked(c, stat->offset, end); i < end && r >= 0; i = feed_next_lacked(c, i, end))
        if (datsync_feed_has_node(c, 2 * i) && (r = block_claim(c, i, 1)) > 0)
            tell_added(c, i, i + 1);
        else if (r >= 0)
            break;
    return r < 0 ? r : 0;
}

static int import_ready(importing *im, const datsync_file_info *info, int maybe_same)
{
    return !im->o->ready || im->o->ready(im->o->ctx, im->path, info, maybe_same);
}

static int import_turn(void *ctx, uint64_t done)
{
    importing *im = ctx;
    if (done - im->done >= DRIVE_BATCH_BYTES && done < im->size) {
        im->done = done;
        (void)import_tell(im, DATSYNC_UNCHANGED, im->path, im->size, done, 0);
    }
    return im->stopped ? DATSYNC_E_AGAIN : 0;
}

/* A file of the recorded size and another time: are its bytes the same? As file_matches. */
static int import_compare(importing *im, const datsync_file_info *info, const listed *old)
{
    datsync_drive *d = im->d;
    int r = verdict_find(d, old->seq, info);
    if (r != DATSYNC_E_NOT_FOUND)
        return r;
    im->done = 0;
    im->size = info->size;
    r = file_compare(d, im->path + 1, &old->stat, import_turn, im);
    datsync_file_info after;
    if (r >= 0 && d->files.stat(d->files.ctx, im->path + 1, &after) == 0 && after.size == info->size &&
        after.mtime == info->mtime && verdict_note(d, old->seq, info, r) < 0)
        return DATSYNC_E_NOMEM;
    return r;
}

static int import_file(importing *im, const datsync_file_info *info, const listed *old)
{
    if (old && old->is_entry && (old->stat.mode & MODE_TYPE) != MODE_FOLDER &&
        (old->stat.mode & MODE_RIGHTS) == (info->mode & MODE_RIGHTS) && old->stat.size == info->size) {
        uint64_t end = old->stat.offset + old->stat.blocks;
        int whole = feed_holds_all(im->d->content, old->stat.offset, end), same = looks_same(info, &old->stat) && whole;
        if (!same && !import_ready(im, info, 1))
            return 0;
        int r = same ? 1 : import_compare(im, info, old);
        if (r > 0 && !whole) /* an archive has lost the bytes: they are put anew */
            r = im->d->archive ? 0 : import_reclaim(im, &old->stat) < 0 ? DATSYNC_E_NOMEM : 1;
        if (r < 0)
            return is_file_fault(r) ? import_refuse(im, r) : r;
        if (r > 0)
            return import_tell(im, DATSYNC_UNCHANGED, im->path, info->size, info->size, 0);
    } else if (!import_ready(im, info, 0)) {
        return 0;
    }
    return import_put(im, info, old);
}

static int may_have_beneath(const listed *one)
{
    return one->is_parent || (one->is_entry && (one->stat.mode & MODE_TYPE) == MODE_FOLDER);
}

static int removal_list(void *arg, const datsync_entry *e)
{
    listing *l = arg;
    return e->error ? 0 : listing_add(l, e->path, e);
}

static int import_remove_one(importing *im, const char *path, uint64_t seq, const datsync_stat *stat)
{
    int64_t r = 0;
    im->changes++;
    if (!im->o->dry_run) {
        r = entry_append(im->d, path_name(path), NULL);
        if (r >= 0)
            r = entry_forget(im->d, seq, stat);
    }
    return r < 0 ? (int)r : import_tell(im, DATSYNC_REMOVED, path, 0, 0, 0);
}

/* What the drive has at im->path and the disk has not (or not as this kind): the entry, all that is beneath it, or
 * both. */
static int import_remove(importing *im, const listed *old, int entry, int beneath)
{
    int r = 0;
    if (im->o->keep)
        return 0;
    listing l;
    if (beneath && may_have_beneath(old)) {
        memset(&l, 0, sizeof l);
        l.d = im->d;
        r = datsync_drive_list(im->d, im->version, im->path, 1, removal_list, &l, NULL);
        r = r == DATSYNC_E_NOT_FOUND ? 0 : r;
        for (size_t i = l.count;
             i-- > 0 && r == 0;) /* a folder's entry last: without it, deployed clones can't follow */
            r = import_remove_one(im, l.text + l.v[i].name, l.v[i].seq, &l.v[i].stat);
        listing_free(&l);
    }
    if (r == 0 && entry && old->is_entry)
        r = import_remove_one(im, im->path, old->seq, &old->stat);
    return r;
}

static int import_folder(importing *im, const datsync_file_info *info, const listed *self);

/* What a name is on the disk, for the import. */
enum import_kind {
    IMPORT_NOTHING, /* it is not there, cannot be in a drive, or is to be left out */
    IMPORT_FILE,
    IMPORT_FOLDER,
    IMPORT_UNKNOWN /* it is there, and cannot be looked at: what the drive has of it stays */
};

/* One of these, or an error that ends the import. What is refused is told. */
static int import_kind(importing *im, datsync_file_info *info)
{
    int r = name_check(im->d, path_name(im->path));
    if (r < 0) {
        if (strcmp(im->path, "/.dat") != 0)
            (void)import_refuse(im, r);
        return IMPORT_NOTHING;
    }
    r = im->d->files.stat(im->d->files.ctx, im->path + 1, info);
    if (r == DATSYNC_E_NO_ENTRY)
        return IMPORT_NOTHING;
    if (r < 0) {
        (void)import_refuse(im, r);
        return r == DATSYNC_E_NOMEM ? r : IMPORT_UNKNOWN;
    }
    int folder = (info->mode & MODE_TYPE) == MODE_FOLDER;
    if (im->o->ignore && im->o->ignore(im->o->ctx, im->path, folder))
        return IMPORT_NOTHING;
    if (!folder && (info->mode & MODE_TYPE) != MODE_FILE) {
        (void)import_refuse(im, DATSYNC_E_LINK);
        return IMPORT_NOTHING;
    }
    return folder ? IMPORT_FOLDER : IMPORT_FILE;
}

/* The drive becomes what the disk is. */
static int import_as(importing *im, int kind, const datsync_file_info *info, const listed *old)
{
    int was_folder = old && old->is_entry && (old->stat.mode & MODE_TYPE) == MODE_FOLDER;
    int was_file = old && old->is_entry && !was_folder, r = 0;
    switch (kind) {
    case IMPORT_NOTHING:
        return old ? import_remove(im, old, 1, 1) : 0;
    case IMPORT_FILE:
        if (old)
            r = import_remove(im, old, was_folder, 1);
        return r == 0 ? import_file(im, info, was_file ? old : NULL) : r;
    case IMPORT_FOLDER:
        if (was_file)
            r = import_remove(im, old, 1, 0);
        return r == 0 ? import_folder(im, info, old) : r;
    default:
        return 0;
    }
}

/* One name that the disk has, or the drive, or both. */
static int import_one(importing *im, const char *name, int on_disk, const listed *old)
{
    size_t len = im->len, n = strlen(name);
    if (len + 1 + n > DATSYNC_MAX_PATH) {
        im->path[len + 1] = 0;
        return import_refuse(im, DATSYNC_E_NAME);
    }
    im->path[len] = '/';
    memcpy(im->path + len + 1, name, n + 1);
    im->len = len + 1 + n;

    datsync_file_info info;
    int kind = on_disk ? import_kind(im, &info) : IMPORT_NOTHING;
    int r = kind < 0 ? kind : import_as(im, kind, &info, old);

    im->len = len;
    im->path[len] = 0;
    return r;
}

/* An empty folder has an entry of its own. */
static int import_empty(importing *im, const datsync_file_info *info, const listed *self)
{
    if (im->len == 0 || (self && self->is_entry && (self->stat.mode & MODE_TYPE) == MODE_FOLDER))
        return 0;
    im->changes++;
    datsync_stat stat;
    if (!im->o->dry_run) {
        stat_of_info(&stat, info);
        stat.offset = batch_end(im->d);
        stat.byte_offset = batch_byte_end(im->d);
        int64_t seq = entry_append(im->d, path_name(im->path), &stat);
        if (seq < 0)
            return (int)seq;
        if (survey_add(im->d, (uint64_t)seq, &stat) < 0)
            return DATSYNC_E_NOMEM;
    }
    return import_tell(im, DATSYNC_ADDED, im->path, 0, 0, 0);
}

static int import_merge(importing *im, const listing *disk, const listing *drive, size_t *entered)
{
    size_t i = 0, k = 0;
    int r = 0;
    while (r == 0 && !im->stopped && (i < disk->count || k < drive->count)) {
        const char *a = i < disk->count ? disk->text + disk->v[i].name : NULL;
        const char *b = k < drive->count ? drive->text + drive->v[k].name : NULL;
        int order = !a ? 1 : !b ? -1 : strcmp(a, b);
        r = import_one(im, order <= 0 ? a : b, order <= 0, order >= 0 ? &drive->v[k] : NULL);
        *entered += order <= 0;
        i += order <= 0;
        k += order >= 0;
    }
    return r;
}

static int import_folder(importing *im, const datsync_file_info *info, const listed *self)
{
    datsync_drive *d = im->d;
    listing disk;
    size_t names = 0;
    memset(&disk, 0, sizeof disk);
    listing drive;
    memset(&drive, 0, sizeof drive);
    disk.d = drive.d = d;
    drive.skip = im->len + 1;
    int r = d->files.list(d->files.ctx, im->len ? im->path + 1 : "", listing_disk, &disk);
    if (is_file_fault(r)) { /* it can't be read: what is in it stays as it was */
        listing_free(&disk);
        return import_refuse(im, r);
    }
    if (r == 0 && im->version && (!self || may_have_beneath(self)))
        r = datsync_drive_list(d, im->version, im->len ? im->path : "/", 0, listing_drive, &drive, NULL);
    if (r == DATSYNC_E_NOT_FOUND)
        r = 0;
    if (r == 0) {
        listing_sort(&disk);
        listing_sort(&drive);
        r = import_merge(im, &disk, &drive, &names);
    }
    if (r == 0 && !im->stopped && names == 0)
        r = import_empty(im, info, self);
    listing_free(&disk);
    listing_free(&drive);
    return r;
}

int64_t datsync_drive_import(datsync_drive *d, const datsync_import_options *o)
{
    static const datsync_import_options plain = {NULL, NULL, NULL, NULL, 0, 0};
    int r = 0;
    if (!d->has_files)
        return DATSYNC_E_UNSUPPORTED;
    if (!datsync_drive_writable(d) && !(drive_is_owner(d) && o && o->dry_run))
        return DATSYNC_E_READ_ONLY;
    if (!survey_is_done(d) && (r = drive_survey(d, datsync_drive_version(d), 0)) < 0)
        return r;
    importing *im = mem_zeroed(&d->env, sizeof *im);
    if (!im)
        return DATSYNC_E_NOMEM;
    im->d = d;
    im->o = o ? o : &plain;
    im->version = datsync_drive_version(d);
    d->doubts.import_reads = 1;
    r = import_folder(im, NULL, NULL);
    d->doubts.import_reads = 0;
    int64_t changes = im->changes;
    if (r == 0 && im->stopped)
        r = DATSYNC_E_AGAIN;
    mem_free(&d->env, im);
    int k = stores_flush(d, batch_flush(d));
    return r < 0 ? r : k < 0 ? k : changes;
}

/* ================================================================ drive: serving ================================ */

/* What the bitfield claims was once here; what is offered must be here now. Size and time as recorded are enough to
 * offer a file, for each block is checked against the tree before it goes out. Where only the time differs (copies,
 * version control, another disk) the bytes decide: such files are read a little at a time while the rest is served,
 * and offered block by block. A file that is away or changed is not offered, and looked at again each minute. What
 * is away stays claimed: so nothing is forgotten. */

static int serve_away(datsync_drive *d, const datsync_entry *e, int error)
{
    if (!entry_claimed(d, &e->stat, 0))
        return 0; /* it never was here */
    int r = bits_set(&d->env, &d->serving.away, e->version, 1);
    if (r > 0)
        drive_tell(d, DATSYNC_EV_AWAY, e->path, e->version, 0, error);
    return r < 0 ? r : 0;
}

static void serve_back(datsync_drive *d, uint64_t seq, const char *path)
{
    if (bits_get(&d->serving.away, seq)) {
        (void)bits_set(&d->env, &d->serving.away, seq, 0);
        drive_tell(d, DATSYNC_EV_BACK, path, seq, 0, 0);
    }
}

/* May this entry's file be offered? */
static int serve_look(datsync_drive *d, uint64_t seq)
{
    datsync_entry e;
    int r = entry_load(d, seq, &e);
    if (r < 0 || is_folder(&e) || !e.stat.blocks)
        return r;
    char path[DATSYNC_MAX_PATH + 2];
    strcpy(path, e.path);
    e.path = path;
    datsync_file_info info;
    int look = entry_look(d, &e, &info);
    if (look == DATSYNC_E_NOMEM)
        return look;
    if (look == 0) {
        serve_back(d, seq, path);
        return entry_show(d, &e.stat);
    }
    if (look == DATSYNC_E_AGAIN && verdict_find(d, seq, &info) == 0)
        look = DATSYNC_E_CHANGED;
    r = entry_hide(d, &e.stat);
    if (r < 0 || (d->download.on && !d->download.told))
        return r; /* whether it is fetched again, laying out decides */
    if (look == DATSYNC_E_AGAIN)
        return bits_put(&d->env, &d->doubts.files, seq, 1);
    return serve_away(d, &e, look);
}

/* Before anything is announced. */
static int serve_begin(datsync_drive *d)
{
    uint64_t end = survey_end(d);
    int r = 0;
    bits_free(&d->env, &d->doubts.files);
    bits_free(&d->env, &d->serving.away);
    d->serving.seq = 0;
    d->serving.looked_at = NONE;
    for (uint64_t seq = 0; r == 0; seq++) {
        seq = survey_next(d, seq, end);
        if (seq >= end)
            break;
        r = serve_look(d, seq);
    }
    return r;
}

/* ------------------------------------------------ files whose bytes must tell */

static int doubt_end(datsync_drive *d, const datsync_entry *e, int good)
{
    datsync_file_info info;
    uint64_t seq = d->serving.seq;
    int r = d->serving.error && !d->serving.bad ? d->serving.error : d->files.stat(d->files.ctx, e->path + 1, &info);
    d->serving.seq = 0;
    if (bits_set(&d->env, &d->doubts.files, seq, 0) < 0)
        return DATSYNC_E_NOMEM;
    if (r == 0 && (info.size != d->serving.info.size || info.mtime != d->serving.info.mtime))
        r = DATSYNC_E_BUSY; /* it changed while it was read */
    if (r < 0) {            /* nothing is known of it: it is read when it is looked at again */
        int hidden = entry_hide(d, &e->stat);
        if (hidden < 0 || r == DATSYNC_E_NOMEM)
            return hidden < 0 ? hidden : r;
        return serve_away(d, e, r);
    }
    if ((r = verdict_note(d, seq, &info, good)) < 0)
        return r;
    if (!good)
        return serve_away(d, e, d->serving.error ? d->serving.error : DATSYNC_E_CHANGED);
    if ((r = entry_show(d, &e->stat)) < 0 || (!entry_claimed(d, &e->stat, 1) && (r = entry_claim(d, &e->stat)) < 0))
        return r;
    if (!looks_same(&info, &e->stat) && !(d->flags & DATSYNC_READ_ONLY) && !drive_is_owner(d))
        (void)d->files.set(d->files.ctx, e->path + 1, info.mode, e->stat.mtime); /* the next look is quick */
    serve_back(d, seq, e->path);
    return 0;
}

/* The next blocks of the file that is being read. Returns 1 when it is done with, as far as it could be read. */
static int doubt_read(datsync_drive *d, const datsync_entry *e, uint64_t *budget)
{
    datsync_feed *c = d->content;
    intptr_t handle;
    int r = d->files.open_file(d->files.ctx, e->path + 1, 0, &handle);
    if (r < 0) {
        d->serving.error = r;
        return 1;
    }
    while (r >= 0 && d->serving.block < e->stat.blocks && *budget) {
        uint64_t i = e->stat.offset + d->serving.block++, before = d->serving.at;
        int good = datsync_feed_has_node(c, 2 * i) ? file_block_good(d, handle, i, &d->serving.at) : 0;
        *budget -= MIN(*budget, d->serving.at - before + 64);
        if (good == DATSYNC_E_NOMEM) {
            r = good;
            break;
        }
        if (good < 0)
            d->serving.error = good;
        good = good > 0; /* what can't be read is not there */
        r = good ? feed_show(c, i, i + 1) : feed_hide(c, i, i + 1);
        d->serving.bad |= !good;
        if (!datsync_feed_has_node(c, 2 * i))
            d->serving.block = e->stat.blocks; /* where the rest lies is not known */
    }
    d->files.close_file(d->files.ctx, handle);
    return r < 0 ? r : d->serving.block == e->stat.blocks;
}

/* Read some of what must be read. 1: there is more. */
static int doubts_step(datsync_drive *d)
{
    char path[DATSYNC_MAX_PATH + 2];
    uint64_t budget = DOUBT_BYTES;
    datsync_entry e;
    int r = 0;
    while (budget && r >= 0) {
        int known = DATSYNC_E_NOT_FOUND;
        uint64_t end = bits_length(&d->doubts.files);
        if (!bits_get(&d->doubts.files, d->serving.seq))
            d->serving.seq = 0; /* the entry is live no more */
        uint64_t seq = d->serving.seq ? d->serving.seq : bits_next(&d->doubts.files, 0, end, 1);
        if (seq >= end)
            return 0;
        if ((r = entry_load(d, seq, &e)) < 0)
            return r;
        strcpy(path, e.path);
        e.path = path;
        budget -= MIN(budget, 4096);
        if (!d->serving.seq) {
            d->serving.seq = seq;
            d->serving.block = d->serving.at = 0;
            d->serving.bad = 0;
            d->serving.error = d->files.stat(d->files.ctx, path + 1, &d->serving.info);
            if (d->serving.error == 0)
                known = verdict_find(d, seq, &d->serving.info);
        }
        if (known >= 0 || d->serving.error)
            r = doubt_end(d, &e, known > 0);
        else if ((r = doubt_read(d, &e, &budget)) > 0)
            r = doubt_end(d, &e, !d->serving.bad && d->serving.at == e.stat.size);
    }
    return r < 0 ? r : 1;
}

/* Blocks that were asked for were not as they were: whose are they? */
static int serve_lost(datsync_drive *d)
{
    datsync_feed *c = d->content;
    uint64_t at, end = bits_length(&d->doubts.lost);
    int r = 0;
    for (uint64_t i = bits_next(&d->doubts.lost, 0, end, 1); i < end && r >= 0;
         i = bits_next(&d->doubts.lost, i + 1, end, 1)) {
        const drive_place *p = block_offset(c, i, &at) == 0 ? place_find(d, at) : NULL;
        verdicts_forget(d); /* size and time have not told this time */
        if (p)
            r = bits_set(&d->env, &d->doubts.files, p->seq, 1);
    }
    bits_free(&d->env, &d->doubts.lost);
    return r < 0 ? r : 0;
}

/* What a share has to do now and then. 1: there is more. */
static OPTIONAL int serve_step(datsync_drive *d, uint64_t now)
{
    uint64_t end = bits_length(&d->serving.away);
    if (!d->has_files || d->archive || !d->content || !survey_is_done(d) || (d->download.on && !d->download.told))
        return 0;
    int r;
    if ((r = serve_lost(d)) < 0)
        return r;
    if (d->serving.looked_at == NONE)
        d->serving.looked_at = now;
    if (now - d->serving.looked_at >= LOOK_MS && survey_is_partial(d)) { /* more may be known by now */
        if ((r = survey_here(d)) < 0 || (r = serve_begin(d)) < 0)
            return r;
    } else if (now - d->serving.looked_at >= LOOK_MS) {
        d->serving.looked_at = now;
        for (uint64_t seq = bits_next(&d->serving.away, 0, end, 1); seq < end && r >= 0;
             seq = bits_next(&d->serving.away, seq + 1, end, 1))
            r = survey_has(d, seq) ? serve_look(d, seq) : bits_set(&d->env, &d->serving.away, seq, 0);
    }
    return r < 0 ? r : d->doubts.import_reads ? 0 : doubts_step(d);
}

/* ================================================================ drive: laying out ============================= */

/* A version becomes files. Plan: what no longer lives is unclaimed, then deleted. Fill: several files are begun at
 * once, each in .dat/partial. Commit: whole files are synced, renamed into place, and only then claimed. Then the
 * version is reported. A file that the user changed is replaced only if the user says so. What the synchronizer asks
 * of a drive, flushing and closing are here, too. */

static void aside_remove(datsync_drive *d, uint64_t seq)
{
    file_close(d, seq);
    char name[48];
    aside_name(name, seq, ".bits");
    (void)d->files.unlink(d->files.ctx, name);
    aside_name(name, seq, "");
    (void)d->files.unlink(d->files.ctx, name);
    d->unsynced = 1;
}

static void target_drop(datsync_drive *d, size_t i)
{
    target *t = &d->targets.v[i];
    d->targets.wanted -= MIN(t->missing, d->targets.wanted);
    d->targets.ended -= t->error || !t->missing;
    memmove(t, t + 1, (d->targets.count - i - 1) * sizeof *t);
    d->targets.count--;
}

/* What came of it is nobody's. */
static int target_discard(datsync_drive *d, size_t i)
{
    target t = d->targets.v[i];
    target_drop(d, i);
    if (d->download.all)
        return 0;
    int r = feed_want_range(d->content, t.offset, target_end(&t), 0);
    if (d->has_files && !d->archive && r >= 0) {
        r = feed_retract(d->content, t.offset, target_end(&t));
        aside_remove(d, t.seq);
    }
    return r < 0 ? r : 0;
}

/* Make the folders on the way to a path. `again`: the last one that was made may be gone. */
static int folders_make(datsync_drive *d, const char *path, int again)
{
    const char *slash = strrchr(path, '/');
    size_t len = slash ? (size_t)(slash - path) : 0;
    int r = 0;
    if (!again && len == strlen(d->plan.folder) && memcmp(path, d->plan.folder, len) == 0)
        return 0;
    memcpy(d->plan.folder, path, len);
    d->plan.folder[len] = 0;
    slash = path;
    char part[DATSYNC_MAX_PATH + 2];
    while (r == 0 && (slash = strchr(slash, '/')) != NULL) {
        memcpy(part, path, (size_t)(slash - path));
        part[slash - path] = 0;
        r = d->files.mkdir(d->files.ctx, part);
        slash++;
    }
    if (r < 0)
        d->plan.folder[0] = 0;
    return r;
}

static uint32_t mode_of(uint32_t mode, uint32_t fallback)
{
    mode &= MODE_RIGHTS; /* neither setuid nor sticky */
    return (mode ? mode : fallback) | 0400u;
}

/* ------------------------------------------------ what was at a path in other versions */

static int child_compare(const void *a, const void *b)
{
    const named_entry *x = a, *y = b;
    return x->name != y->name ? (x->name < y->name ? -1 : 1) : x->seq < y->seq ? -1 : x->seq > y->seq;
}

static int old_add(datsync_drive *d, uint64_t seq, const char *path)
{
    if (mem_grow(&d->env, &d->plan.old, &d->plan.old_cap, d->plan.old_count + 1, sizeof *d->plan.old) < 0)
        return DATSYNC_E_NOMEM;
    d->plan.old[d->plan.old_count].name = name_hash(d, path_name(path));
    d->plan.old[d->plan.old_count++].seq = seq;
    return 0;
}

/* What was at each path in other versions. */
static int old_build(datsync_drive *d)
{
    datsync_entry e;
    int r = 0;
    for (uint64_t seq = 1; seq <= datsync_drive_version(d) && r == 0;
         seq++) { /* later ones, too, if an older version is laid out */
        if (survey_is_live(d, seq) || !datsync_feed_has(d->metadata, seq))
            continue;
        r = entry_load(d, seq, &e);
        if (r == DATSYNC_E_ENTRY)
            r = 0; /* it was never laid out */
        else if (r == 0 && !e.deleted && !e.error && !is_folder(&e))
            r = old_add(d, seq, e.path);
    }
    if (r < 0)
        d->plan.old_count = 0; /* a part of them would make changes of what are none */
    if (d->plan.old_count)
        qsort(d->plan.old, d->plan.old_count, sizeof *d->plan.old, child_compare);
    d->plan.has_old = r == 0;
    return r;
}

static int is_old_version(datsync_drive *d, const char *path, const datsync_file_info *info)
{
    uint64_t name = name_hash(d, path_name(path));
    size_t lo = 0;
    int r = 0;
    if (!d->plan.has_old && (r = old_build(d)) < 0)
        return r;
    for (size_t hi = d->plan.old_count; lo < hi;) {
        size_t mid = lo + (hi - lo) / 2;
        if (d->plan.old[mid].name < name)
            lo = mid + 1;
        else
            hi = mid;
    }
    datsync_entry e;
    for (; lo < d->plan.old_count && d->plan.old[lo].name == name && r == 0; lo++)
        if ((r = entry_load(d, d->plan.old[lo].seq, &e)) == 0 && e.stat.size == info->size)
            r = file_matches(d, path + 1, &e.stat); /* size and time don't tell: an edit may have kept both */
    return r;
}

/* ------------------------------------------------ planning */

static int mark_live(void *ctx, const datsync_entry *e)
{
    bits_env *b = ctx;
    return e->error ? 0 : bits_put(b->env, b->b, e->version, 1);
}

/* The folders on the way to what was at this path, where they are empty now. */
static void folders_remove(datsync_drive *d, char *path)
{
    char *slash;
    while ((slash = strrchr(path, '/')) != path) {
        *slash = 0;
        if (d->files.rmdir(d->files.ctx, path + 1) < 0)
            break;
    }
    d->plan.folder[0] = 0;
    d->unsynced = 1;
}

/* A file that was deleted upstream goes, if it is as it was written. 1: it could not be deleted, and is to be tried
 * again. */
static int plan_delete_one(datsync_drive *d, const datsync_entry *e)
{
    char path[DATSYNC_MAX_PATH + 2];
    uint64_t seq = e->version;
    strcpy(path, e->path);
    if (is_folder(e)) {
        if (d->files.rmdir(d->files.ctx, path + 1) == 0)
            folders_remove(d, path);
        return 0;
    }
    datsync_file_info info;
    int r = d->files.stat(d->files.ctx, path + 1, &info);
    if (r == DATSYNC_E_NO_ENTRY)
        folders_remove(d, path);
    if (r == DATSYNC_E_NO_ENTRY || r == DATSYNC_E_NOT_FOLDER)
        return 0;
    if (r == 0 && (info.mode & MODE_TYPE) != MODE_FILE)
        r = (info.mode & MODE_TYPE) == MODE_FOLDER ? DATSYNC_E_IS_FOLDER : DATSYNC_E_LINK;
    if (r == 0 && !d->layout.force) {
        r = file_matches(d, path + 1, &e->stat);
        if (r == 0) /* the next version came before this one was here */
            r = is_old_version(d, path, &info);
        r = r < 0 ? r : r ? 0 : DATSYNC_E_CHANGED;
    }
    if (r == 0)
        r = d->files.unlink(d->files.ctx, path + 1);
    if (r < 0) {
        drive_refuse(d, seq, path, r);
        return r != DATSYNC_E_CHANGED && r != DATSYNC_E_IS_FOLDER && r != DATSYNC_E_LINK;
    }
    d->unsynced = 1;
    drive_tell(d, DATSYNC_EV_REMOVED, path, seq, 0, 0);
    folders_remove(d, path);
    return 0;
}

static int plan_delete(datsync_drive *d, const bits *before)
{
    named_entry *live = NULL;
    size_t count = 0, cap = 0;
    int again = 0;
    uint64_t end = bits_length(before);
    datsync_entry e;
    int r = 0;
    for (uint64_t seq = 0; r == 0 && (seq = survey_next_live(d, seq, survey_version(d) + 1)) <= survey_version(d);
         seq++) {
        if ((r = mem_grow(&d->env, &live, &cap, count + 1, sizeof *live)) < 0 || (r = entry_load(d, seq, &e)) < 0)
            break;
        live[count].name = name_hash(d, path_name(e.path));
        live[count++].seq = 0;
    }
    if (count)
        qsort(live, count, sizeof *live, child_compare);
    named_entry key;
    for (uint64_t seq = 0; r == 0 && (seq = bits_next(before, seq, end, 1)) < end; seq++) {
        if (survey_is_live(d, seq))
            continue;
        if ((r = entry_load(d, seq, &e)) < 0)
            break;
        key.name = name_hash(d, path_name(e.path));
        key.seq = 0;
        named_entry *found = count ? bsearch(&key, live, count, sizeof key, child_compare) : NULL;
        if (!found)
            again |= plan_delete_one(d, &e);
    }
    mem_free(&d->env, live);
    return r < 0 ? r : again;
}

static int plan_clean_one(void *arg, const char *name)
{
    datsync_drive *d = arg;
    uint64_t seq = 0;
    const char *p = name;
    while (*p >= '0' && *p <= '9' && p - name < 12)
        seq = 10 * seq + (uint64_t)(*p++ - '0');
    if (p != name && (*p == 0 || strcmp(p, ".bits") == 0) && !survey_is_live(d, seq))
        aside_remove(d, seq);
    d->aside.found |= name[0] != '.';
    return 0;
}

static uint64_t plan_bytes(datsync_drive *d)
{
    uint64_t total = 0;
    datsync_entry e;
    for (uint64_t seq = 0; (seq = survey_next_live(d, seq, survey_version(d) + 1)) <= survey_version(d); seq++)
        if (entry_load(d, seq, &e) == 0 && !is_folder(&e) && e.stat.blocks &&
            (!d->layout.select || d->layout.select(d->layout.ctx, e.path))) {
            uint64_t held = datsync_feed_count(d->content, e.stat.offset, e.stat.offset + e.stat.blocks);
            total += held == 0 ? e.stat.size : e.stat.size / e.stat.blocks * (e.stat.blocks - held);
        }
    return total;
}

/* A version is going to be laid out. What is live no more is first unclaimed, then deleted; `metadata.latest` tells
 * of the version before the first file is replaced, as the deployed implementation has it. */
static int drive_plan(datsync_drive *d, uint64_t version)
{
    bits before;
    uint64_t laid;
    int r = latest_load(d, &laid);
    memset(&before, 0, sizeof before);
    bits_env marks;
    marks.env = &d->env;
    marks.b = &before;
    d->plan.made = 0;
    if (r == 0 && laid != NONE && laid != version && laid <= datsync_drive_version(d))
        r = datsync_drive_list(d, laid, "/", 1, mark_live, &marks, NULL);
    if (r == DATSYNC_E_MORE)
        r = 0;
    if (r == 0)
        r = drive_survey(d, version, 1);
    for (size_t i = d->targets.count; i-- > 0 && r == 0;)
        if (!survey_is_live(d, d->targets.v[i].seq))
            r = target_discard(d, i);
    if (r == 0 && d->content)
        r = datsync_feed_flush(d->content);
    d->plan.has_old = 0;
    d->plan.old_count = 0;
    if (r == 0 && d->has_files) {
        if (bits_length(&before))
            r = plan_delete(d, &before);
        int again = r > 0;
        r = r < 0 ? r : files_sync(d);
        if (r == 0 && laid != version && !again)
            r = latest_write(d, version);
        d->aside.found = d->targets.count > 0;
        if (r == 0)
            (void)d->files.list(d->files.ctx, ".dat/partial", plan_clean_one, d);
        if (r == 0)
            r = files_sync(d);
    }
    bits_free(&d->env, &before);
    if (r < 0)
        return r;
    d->plan.version = version;
    d->plan.ahead = 0;
    d->plan.cursor = 1;
    d->plan.made = 1;
    d->download.told = 0;
    drive_tell(d, DATSYNC_EV_PLAN, NULL, version, plan_bytes(d), 0);
    return 0;
}

/* ------------------------------------------------ may a file be replaced? */

/* Zeros only, or behind the end? */
static int file_blank(datsync_drive *d, intptr_t handle, uint64_t from, uint64_t to)
{
    uint8_t buf[4096];
    while (from < to) {
        int64_t n = d->files.read(d->files.ctx, handle, from, buf, (size_t)MIN(to - from, (uint64_t)sizeof buf));
        if (n < 0 || !all_zero(buf, (size_t)n))
            return 0;
        if (n == 0)
            return 1;
        from += (uint64_t)n;
    }
    return 1;
}

/* The deployed implementation writes into the files themselves: does this one hold what is claimed of it, and
 * nothing else? */
static int is_half_download(datsync_drive *d, const char *path, const datsync_stat *stat, const datsync_file_info *info)
{
    uint64_t end = stat->offset + stat->blocks, begin = stat->byte_offset, at = 0;
    intptr_t handle;
    int good = 1;
    if (info->size > stat->size || feed_next_claimed(d->content, stat->offset, end) >= end ||
        d->files.open_file(d->files.ctx, path, 0, &handle) < 0)
        return 0;
    uint64_t offset;
    for (uint64_t i = stat->offset; good && (i = feed_next_claimed(d->content, i, end)) < end; i++) {
        good = block_offset(d->content, i, &offset) == 0 && offset >= begin && offset - begin >= at &&
               file_blank(d, handle, at, offset - begin);
        at = good ? offset - begin : 0;
        good = good && file_block_good(d, handle, i, &at) > 0;
    }
    good = good && file_blank(d, handle, at, info->size);
    d->files.close_file(d->files.ctx, handle);
    return good;
}

/* ------------------------------------------------ files that are on their way */

/* Blocks that were laid aside before; each is checked against the tree, for who knows what became of the file. */
static int aside_load(datsync_drive *d, const target *t)
{
    size_t len = (size_t)((t->blocks + 7) / 8);
    int64_t n = 0;
    int r = 0;
    if (!d->aside.found || target_end(t) > datsync_feed_length(d->content))
        return 0;
    char name[48];
    aside_name(name, t->seq, ".bits");
    intptr_t handle;
    if (d->files.open_file(d->files.ctx, name, 0, &handle) < 0)
        return 0;
    uint8_t *buf = mem_resize(&d->env, NULL, len + 1);
    n = buf ? d->files.read(d->files.ctx, handle, 0, buf, len) : DATSYNC_E_NOMEM;
    d->files.close_file(d->files.ctx, handle);
    aside_name(name, t->seq, "");
    if (n != (int64_t)len || d->files.open_file(d->files.ctx, name, 0, &handle) < 0) {
        mem_free(&d->env, buf);
        return buf ? 0 : DATSYNC_E_NOMEM;
    }
    uint64_t at;
    for (uint64_t i = t->offset; i < target_end(t) && r >= 0; i++) {
        if (!(buf[(i - t->offset) / 8] & 0x80 >> ((i - t->offset) & 7)) || datsync_feed_has(d->content, i) ||
            !datsync_feed_has_node(d->content, 2 * i) || block_offset(d->content, i, &at) < 0 || at < t->at)
            continue;
        at -= t->at;
        if ((r = file_block_good(d, handle, i, &at)) > 0 && (r = block_claim(d->content, i, 1)) > 0)
            tell_added(d->content, i, i + 1);
    }
    d->files.close_file(d->files.ctx, handle);
    mem_free(&d->env, buf);
    return r < 0 ? r : 0;
}

static int aside_save(datsync_drive *d, target *t)
{
    size_t len = (size_t)((t->blocks + 7) / 8);
    if (target_end(t) > datsync_feed_length(d->content))
        return 0; /* who knows how long it really is */
    uint8_t *buf = mem_zeroed(&d->env, len + 1);
    if (!buf)
        return DATSYNC_E_NOMEM;
    for (uint64_t i = t->offset; (i = feed_next_held(d->content, i, target_end(t))) < target_end(t); i++)
        buf[(i - t->offset) / 8] |= (uint8_t)(0x80 >> ((i - t->offset) & 7));
    char name[48];
    aside_name(name, t->seq, ".bits");
    intptr_t handle;
    int r = d->files.open_file(d->files.ctx, name, 1, &handle);
    if (r == 0) {
        r = d->files.write(d->files.ctx, handle, 0, buf, len);
        d->files.close_file(d->files.ctx, handle);
    }
    mem_free(&d->env, buf);
    t->saved = t->missing;
    d->unsynced = 1;
    return r;
}

/* Bring a block that is held elsewhere aside; n is what content_block returned of it. */
static int aside_copy(datsync_drive *d, const target *t, uint64_t index, int64_t n)
{
    uint64_t offset;
    int r = n < 0 ? (int)n : block_offset(d->content, index, &offset);
    if (r == 0 && (offset < t->at || offset - t->at + (uint64_t)n > t->size))
        r = DATSYNC_E_RANGE;
    intptr_t handle;
    if (r == 0)
        r = file_open(d, t->seq, 1, "", &handle);
    if (r == 0 && n)
        r = d->files.write(d->files.ctx, handle, offset - t->at, d->block.bytes, (size_t)n);
    d->unsynced = 1;
    return r;
}

/* What the file in its place holds of it, or another one that shares the bytes. */
static int aside_gather(datsync_drive *d, const target *t)
{
    int r = 0;
    for (uint64_t i = t->offset; r == 0 && (i = feed_next_held(d->content, i, target_end(t))) < target_end(t); i++) {
        int64_t n = datsync_feed_block_size(d->content, i);
        if (n >= 0 && (n = content_block(d, i)) < 0 && n != DATSYNC_E_NOMEM)
            n = DATSYNC_E_HASH; /* what can't be read out of the file comes anew */
        r = aside_copy(d, t, i, n);
        if (r < 0 && !is_fatal(r))
            r = feed_retract(d->content, i, i + 1);
    }
    return r;
}

/* The file in its place is the right one: all that was missing are the claims. */
static int target_adopt(datsync_drive *d, uint64_t seq, const char *path, const datsync_stat *stat)
{
    int r = entry_claim(d, stat);
    (void)d->files.set(d->files.ctx, path + 1, mode_of(stat->mode, 0644), stat->mtime);
    aside_remove(d, seq);
    if (r >= 0)
        drive_tell(d, DATSYNC_EV_ENTRY, path, seq, stat->size, 0);
    return r < 0 ? r : 0;
}

static int begin_folder(datsync_drive *d, uint64_t seq, const char *path, const datsync_stat *stat)
{
    datsync_file_info info;
    if (!d->has_files || (d->files.stat(d->files.ctx, path + 1, &info) == 0 && (info.mode & MODE_TYPE) == MODE_FOLDER))
        return 0;
    int r = folders_make(d, path + 1, 1);
    if (r == 0)
        r = d->files.mkdir(d->files.ctx, path + 1);
    if (r == 0)
        r = d->files.set(d->files.ctx, path + 1, mode_of(stat->mode, 0755) | 0700u, stat->mtime);
    d->unsynced = 1;
    if (r < 0)
        drive_refuse(d, seq, path, r);
    else
        drive_tell(d, DATSYNC_EV_ENTRY, path, seq, 0, 0);
    return r == DATSYNC_E_NOMEM ? r : 0;
}

/* A file stands where a folder on the way must be. If it is an old version of what was there, it goes. */
static int begin_way(datsync_drive *d, uint64_t seq, const char *path)
{
    char part[DATSYNC_MAX_PATH + 2];
    datsync_file_info info;
    const char *slash = path;
    int r = 0;
    while (r == 0 && (slash = strchr(slash + 1, '/')) != NULL) {
        memcpy(part, path, (size_t)(slash - path));
        part[slash - path] = 0;
        r = d->files.stat(d->files.ctx, part + 1, &info);
        if (r < 0 || (info.mode & MODE_TYPE) == MODE_FOLDER)
            continue;
        r = (info.mode & MODE_TYPE) != MODE_FILE ? 0 : d->layout.force ? 1 : is_old_version(d, part, &info);
        if (r <= 0)
            return r < 0 ? r : DATSYNC_E_NOT_FOLDER;
        if ((r = d->files.unlink(d->files.ctx, part + 1)) == 0)
            drive_tell(d, DATSYNC_EV_REMOVED, part, seq, 0, 0);
        return r < 0 ? r : DATSYNC_E_NO_ENTRY;
    }
    return r < 0 ? r : DATSYNC_E_NOT_FOLDER;
}

/* What stands in the entry's place? 1: the file itself, or nothing that may be touched; 0: it is to be laid out. */
static int begin_place(datsync_drive *d, uint64_t seq, const char *path, const datsync_stat *stat, target *t)
{
    datsync_file_info info;
    int r = d->files.stat(d->files.ctx, path + 1, &info);
    if (r == DATSYNC_E_NOT_FOLDER)
        r = begin_way(d, seq, path);
    if (r == 0 && (info.mode & MODE_TYPE) == MODE_FOLDER) {
        if (d->files.rmdir(d->files.ctx, path + 1) < 0)
            r = DATSYNC_E_IS_FOLDER;
        else
            r = DATSYNC_E_NO_ENTRY;
    }
    if (r == 0 && (info.mode & MODE_TYPE) != MODE_FILE)
        r = DATSYNC_E_LINK;
    if (r == DATSYNC_E_NO_ENTRY)
        return 0;
    if (r == 0) {
        t->was_there = 1;
        t->was_size = info.size;
        t->was_mtime = info.mtime;
        if (!d->layout.force && looks_same(&info, stat) && (d->archive || !stat->blocks || entry_claimed(d, stat, 1)))
            return d->archive || (r = entry_show(d, stat)) == 0 ? 1 : r;
        r = file_matches(d, path + 1, stat);
        if (r > 0 && d->archive) /* the bytes must be in the store */
            r = feed_holds_all(d->content, stat->offset, stat->offset + stat->blocks);
        if (r > 0)
            return (r = target_adopt(d, seq, path, stat)) < 0 ? r : 1;
        if (r == 0 && !d->archive && is_half_download(d, path + 1, stat, &info)) {
            r = entry_show(d, stat);
        } else if (r == 0 && !d->layout.force) {
            r = is_old_version(d, path, &info);
            r = r < 0 ? r : r ? 0 : DATSYNC_E_CHANGED;
        }
    }
    if (r == 0 || r == DATSYNC_E_NOMEM)
        return r;
    drive_refuse(d, seq, path, r);
    r = d->archive ? 0 : feed_retract(d->content, stat->offset, stat->offset + stat->blocks);
    return r < 0 ? r : 1;
}

/* Begin with the next file. 1: not now, another one that shares its blocks is on its way. */
static int target_begin(datsync_drive *d, uint64_t seq)
{
    datsync_entry e;
    int r = entry_load(d, seq, &e);
    if (r < 0)
        return r;
    char path[DATSYNC_MAX_PATH + 2];
    strcpy(path, e.path);
    datsync_stat stat = e.stat;
    if (d->layout.select && !d->layout.select(d->layout.ctx, path))
        return 0;
    if (is_folder(&e))
        return begin_folder(d, seq, path, &stat);
    target t;
    memset(&t, 0, sizeof t);
    t.seq = seq;
    t.offset = stat.offset;
    t.blocks = stat.blocks;
    t.at = stat.byte_offset;
    t.size = stat.size;
    t.mode = stat.mode;
    t.mtime = stat.mtime;
    t.copy = d->archive;
    if (!t.blocks)
        t.offset = DATSYNC_MAX_BLOCKS + seq; /* behind all that have some */
    size_t i = target_at(d, t.offset);
    if (i < d->targets.count && d->targets.v[i].offset < target_end(&t) && t.blocks)
        return 1;
    if (d->has_files && (r = begin_place(d, seq, path, &stat, &t)) != 0)
        return r < 0 ? r : 0;
    if (d->has_files && !d->archive && ((r = aside_gather(d, &t)) < 0 || (r = aside_load(d, &t)) < 0)) {
        if (is_fatal(r) && r != DATSYNC_E_NO_SPACE && r != DATSYNC_E_ACCESS)
            return r;
        drive_refuse(d, seq, path, r);
        return 0;
    }
    if (!d->targets.v && !(d->targets.v = mem_resize(&d->env, NULL, DRIVE_TARGETS * sizeof *d->targets.v)))
        return DATSYNC_E_NOMEM;
    t.missing = t.saved = t.blocks - datsync_feed_count(d->content, t.offset, target_end(&t));
    i = target_at(d, t.offset);
    memmove(&d->targets.v[i + 1], &d->targets.v[i], (d->targets.count - i) * sizeof t);
    d->targets.v[i] = t;
    d->targets.count++;
    d->targets.wanted += t.missing;
    d->targets.ended += !t.missing;
    return t.missing && !d->download.all ? datsync_feed_want(d->content, t.offset, target_end(&t)) : 0;
}

/* ------------------------------------------------ files that are whole */

/* Everything is aside: is it what the entry says? */
static int finish_check(datsync_drive *d, target *t)
{
    uint64_t begin = t->at, end = t->at;
    int r = 0;
    if (t->blocks && ((r = block_offset(d->content, t->offset, &begin)) < 0 ||
                      (r = block_offset(d->content, target_end(t), &end)) < 0))
        return r == DATSYNC_E_NOT_FOUND ? DATSYNC_E_RANGE : r;
    if ((t->blocks && begin != t->at) || end - begin != t->size)
        return DATSYNC_E_RANGE;
    if (t->copy)
        for (uint64_t i = t->offset; i < target_end(t) && r == 0; i++)
            r = aside_copy(d, t, i, content_block(d, i));
    intptr_t handle;
    if (r == 0 && !t->size)
        r = file_open(d, t->seq, 1, "", &handle);
    return r;
}

/* Put it into its place. */
static int finish_rename(datsync_drive *d, const target *t, const char *path)
{
    datsync_file_info info;
    int r = d->files.stat(d->files.ctx, path, &info);
    if (r < 0 && r != DATSYNC_E_NO_ENTRY)
        return r;
    if (r == 0 && !d->layout.force && (!t->was_there || info.size != t->was_size || info.mtime != t->was_mtime))
        return DATSYNC_E_CHANGED; /* since we began */
    file_close(d, t->seq);
    char name[48];
    aside_name(name, t->seq, "");
    if ((r = d->files.set(d->files.ctx, name, mode_of(t->mode, 0644), t->mtime)) < 0 ||
        (r = folders_make(d, path, 0)) < 0)
        return r;
    d->unsynced = 1;
    r = d->files.rename(d->files.ctx, name, path);
    if (r == DATSYNC_E_NO_ENTRY && (r = folders_make(d, path, 1)) == 0)
        r = d->files.rename(d->files.ctx, name, path);
    return r;
}

static int finish_tell(datsync_drive *d, size_t i)
{
    target t = d->targets.v[i];
    datsync_entry e;
    int r = entry_load(d, t.seq, &e);
    if (r < 0)
        return r;
    char path[DATSYNC_MAX_PATH + 2];
    strcpy(path, e.path);
    if (t.error) {
        r = target_discard(d, i);
        drive_refuse(d, t.seq, path, t.error);
        return r;
    }
    target_drop(d, i);
    if (t.has_bits || (d->aside.found && d->has_files)) {
        char name[48];
        aside_name(name, t.seq, ".bits");
        (void)d->files.unlink(d->files.ctx, name);
        d->unsynced = 1;
    }
    if (!d->download.all && (r = feed_want_range(d->content, t.offset, target_end(&t), 0)) < 0)
        return r;
    drive_tell(d, DATSYNC_EV_ENTRY, path, t.seq, t.size, 0);
    return 0;
}

static int targets_rename(datsync_drive *d)
{
    datsync_entry e;
    int r = 0, k;
    for (size_t i = 0; i < d->targets.count && r == 0; i++) {
        target *t = &d->targets.v[i];
        if (t->missing || t->error)
            continue;
        if ((r = entry_load(d, t->seq, &e)) < 0)
            break;
        if ((k = finish_rename(d, t, e.path + 1)) < 0)
            target_fail(d, t, k);
    }
    if (r == 0)
        r = files_sync(d);
    for (size_t i = 0; i < d->targets.count && r == 0 && feed_is_kept(d->content); i++)
        if (!d->targets.v[i].missing && !d->targets.v[i].error && d->targets.v[i].blocks)
            r = claims_add(d->content, d->targets.v[i].offset, target_end(&d->targets.v[i]));
    return r;
}

/* The disk is full. The last of the files that are not whole goes, so that those that are can be kept: 0 if there is
 * none. */
static int targets_make_room(datsync_drive *d)
{
    for (size_t i = d->targets.count; i-- > 0;) {
        target *t = &d->targets.v[i];
        if (!t->missing || t->given_up || !d->has_files || d->archive)
            continue;
        target_fail(d, t, DATSYNC_E_NO_SPACE);
        t->given_up = 1;
        aside_remove(d, t->seq);
        return feed_retract(d->content, t->offset, target_end(t)) == 0;
    }
    return 0;
}

static int content_commit(datsync_drive *d)
{
    int r;
    while ((r = datsync_feed_flush(d->content)) == DATSYNC_E_NO_SPACE && targets_make_room(d))
        continue;
    return r;
}

/* Sync what was laid aside and note it; put what is whole into its place, sync that, and only then claim it in the
 * bitfield. So nobody meets half a file, and a crash costs at most the last group. */
static int targets_commit(datsync_drive *d)
{
    int r = content_commit(d);
    d->aside.bytes = 0;
    d->aside.since = NONE;
    int k;
    for (size_t i = 0; i < d->targets.count && r == 0 && d->has_files; i++) {
        target *t = &d->targets.v[i];
        if (t->error)
            continue;
        if (!t->missing) {
            if ((k = finish_check(d, t)) < 0)
                target_fail(d, t, k);
        } else if (!d->archive && t->missing != t->saved) {
            t->has_bits = 1;
            if ((k = aside_save(d, t)) < 0)
                target_fail(d, t, k);
        }
    }
    if (r == 0 && d->has_files)
        r = files_sync(d);
    if (r == 0 && d->has_files && d->targets.ended)
        r = targets_rename(d);
    if (r == 0)
        r = content_commit(d);
    for (size_t i = d->targets.count; i-- > 0 && r == 0;)
        if (d->targets.v[i].error || !d->targets.v[i].missing)
            r = finish_tell(d, i);
    return r;
}

int datsync_drive_flush(datsync_drive *d)
{
    int r = d->content ? batch_flush(d) : 0;
    if (r == 0 && d->content && d->targets.count)
        r = targets_commit(d);
    return stores_flush(d, r);
}

int datsync_drive_close(datsync_drive *d)
{
    if (!d)
        return 0;
    int r = d->content ? datsync_drive_flush(d) : 0;
    int k = drive_free(d);
    return r < 0 ? r : k;
}

void datsync_drive_layout(datsync_drive *d, const datsync_layout *layout)
{
    d->layout = *layout;
    d->plan.made = 0;
}

/* ------------------------------------------------ the synchronizer's side */

/* What was on its way in an earlier session is noted, and begun anew. */
static int targets_leave(datsync_drive *d)
{
    int r = d->targets.count ? datsync_drive_flush(d) : 0;
    while (r >= 0 && d->targets.count) {
        target t = d->targets.v[d->targets.count - 1];
        target_drop(d, d->targets.count - 1);
        r = d->archive ? 0 : feed_retract(d->content, t.offset, target_end(&t));
    }
    d->plan.made = d->download.told = 0;
    d->plan.ahead = 0;
    d->aside.since = NONE;
    return r < 0 ? r : 0;
}

/* Before anything is announced: is what is claimed still there? */
static OPTIONAL int drive_ready(datsync_drive *d, unsigned mode)
{
    int r = targets_leave(d);
    if (r < 0)
        return r;
    d->download.on = (mode & DATSYNC_DOWNLOAD) && !datsync_drive_writable(d) && !(d->flags & DATSYNC_READ_ONLY);
    d->download.held_back = d->download.on;
    if (!d->content)
        return 0;
    d->download.all = d->archive && d->has_files && !d->layout.select && !d->layout.version;
    if (d->download.on && !d->download.all)
        datsync_feed_unwant(d->content);
    if (!d->has_files || d->archive)
        return 0;
    r = survey_here(d);
    if (r == 0)
        r = serve_begin(d);
    return r < 0 ? r : datsync_feed_flush(d->content);
}

/* Begin with as many files as fit: 1 if there are more that could be begun at once. */
static int drive_fill(datsync_drive *d)
{
    for (unsigned turns = 0; d->plan.cursor <= d->plan.version && d->targets.count < DRIVE_TARGETS &&
                             d->targets.wanted < DRIVE_AHEAD + d->plan.ahead;
         turns++) {
        uint64_t seq = survey_next_live(d, d->plan.cursor, d->plan.version + 1);
        if (turns == 256)
            return 1;
        d->plan.cursor = seq;
        if (seq > d->plan.version)
            break;
        size_t i;
        for (i = 0; i < d->targets.count && d->targets.v[i].seq != seq; i++)
            continue;
        int r = i < d->targets.count ? 0 : target_begin(d, seq);
        if (r < 0)
            return r;
        if (r > 0)
            break;
        d->plan.cursor = seq + 1;
    }
    return 0;
}

/* Blocks from `end` on are nobody's: files that would need them are none. */
static OPTIONAL void drive_beyond(datsync_drive *d, uint64_t end)
{
    for (size_t i = d->targets.count; i-- > 0 && target_end(&d->targets.v[i]) > end;)
        if (d->targets.v[i].missing)
            target_fail(d, &d->targets.v[i], DATSYNC_E_RANGE);
}

/* The content was perhaps opened by what the folder said; here is what the owner says. */
static int header_check(datsync_drive *d)
{
    datsync_bytes block;
    uint8_t key[32];
    int r = metadata_block(d, 0, &block);
    if (r == 0)
        r = header_decode(block, datsync_feed_key(d->metadata), key);
    return r < 0 ? r : memcmp(key, datsync_feed_key(d->content), 32) == 0 ? 0 : DATSYNC_E_OTHER_FEED;
}

/* What a download has to do next. */
enum drive_task {
    DRIVE_WAITS, /* for the header, or for the metadata */
    DRIVE_PLANS, /* all of the metadata is here, and tells of another version than the one that is laid out */
    DRIVE_FILLS  /* files are begun, committed when they are whole, and told at the end */
};

static enum drive_task drive_task(const datsync_drive *d, uint64_t version, int complete)
{
    if (!d->download.on || !d->content || !datsync_feed_has(d->metadata, 0))
        return DRIVE_WAITS; /* without its header it is nothing that could be complete */
    if (complete && (!d->plan.made || d->plan.version != version))
        return DRIVE_PLANS;
    return d->plan.made ? DRIVE_FILLS : DRIVE_WAITS;
}

/* Nobody gives the blocks that are wanted: after a second, others are wanted besides. */
static void targets_widen(datsync_drive *d, uint64_t now)
{
    d->targets.now = now;
    if (d->targets.count == d->targets.ended)
        d->targets.progress = now;
    if (now - d->targets.progress < 1000)
        return;
    d->plan.ahead = MIN(d->targets.wanted + DRIVE_AHEAD, DATSYNC_MAX_BLOCKS);
    d->targets.progress = now;
}

/* Is it time to commit: all are whole, or many, or much was laid aside, or a while ago? */
static int targets_are_due(datsync_drive *d, uint64_t now, int more)
{
    if (d->aside.since == NONE && (d->targets.ended || d->aside.bytes))
        d->aside.since = now;
    return d->aside.since != NONE &&
           ((d->targets.ended == d->targets.count && !more) || d->targets.ended >= DRIVE_TARGETS / 2 ||
            d->aside.bytes >= DATSYNC_GROUP_BYTES || now - d->aside.since >= DATSYNC_GROUP_MS);
}

/* All files are in their places, and if all of the history is wanted, it is here. */
static int plan_is_done(const datsync_drive *d, int more, int history)
{
    return !more && d->plan.cursor > d->plan.version && !d->targets.count && (history || !d->download.all);
}

static int drive_finish(datsync_drive *d)
{
    int r = datsync_drive_flush(d);
    if (r < 0)
        return r;
    d->download.told = 1;
    d->download.held_back = 0;
    drive_tell(d, DATSYNC_EV_VERSION, NULL, d->plan.version, survey_refused(d), 0);
    return 0;
}

/* One step of the download; `complete`: all of the metadata that is offered is here, `history`: so is the content.
 * Returns 1 if there is more to do at once; *changed: the peers are to look again, for it wants other blocks, or no
 * more. */
static OPTIONAL int drive_step(datsync_drive *d, uint64_t now, int complete, int history, int *changed)
{
    uint64_t newest = datsync_drive_version(d), version = d->layout.version ? d->layout.version : newest,
             wanted = d->targets.wanted;
    enum drive_task task = drive_task(d, version, complete);
    if (task == DRIVE_WAITS)
        return 0;
    int r;
    if (task == DRIVE_PLANS) {
        if (version > newest)
            return DATSYNC_E_NOT_FOUND;
        if ((r = header_check(d)) < 0 || (r = drive_plan(d, version)) < 0)
            return r;
    }

    targets_widen(d, now);
    int more = drive_fill(d);
    if (more < 0)
        return more;
    if (targets_are_due(d, now, more) && (r = targets_commit(d)) < 0)
        return r;

    if (!d->download.told && plan_is_done(d, more, history)) {
        if ((r = drive_finish(d)) < 0)
            return r;
        *changed = 1;
    }
    if (d->targets.wanted != wanted)
        *changed = 1;
    return more || (d->plan.cursor <= d->plan.version && !d->targets.count);
}

/* Who is told what happens; until drive_detach. */
static OPTIONAL void drive_attach(datsync_drive *d, drive_event_fn *fn, void *ctx)
{
    d->event.fn = fn;
    d->event.ctx = ctx;
}

static OPTIONAL void drive_detach(datsync_drive *d)
{
    d->event.fn = NULL;
    d->download.held_back = 0;
}

/* Does it want all of the content, and not only what its files consist of? */
static OPTIONAL int drive_wants_all(const datsync_drive *d)
{
    return d->download.all;
}

/* When drive_step has something to do if nothing happens. */
static OPTIONAL uint64_t drive_deadline(const datsync_drive *d)
{
    return d->plan.made && d->aside.since != NONE ? d->aside.since + DATSYNC_GROUP_MS : NONE;
}

#endif /* DATSYNC_NO_DRIVE */
#ifndef DATSYNC_NO_SYNCHRONIZER

/* ================================================================ synchronizer: state ============================ */

/* What the synchronizer knows: shared feeds, connections, the book of addresses, and when it has to do something
 * next. */

enum contact_state { CONTACT_WAITS, CONTACT_IN_USE, CONTACT_BARRED, CONTACT_DROPPED };

/* An address in the book. */
typedef struct contact {
    struct contact *next;  /* in the order in which they came */
    struct contact *chain; /* of the same hash */
    unsigned source;       /* CHOSEN, or one that was given to datsync_found; ACCEPTED */
    unsigned informant;    /* who told the source of it, by hash */
    enum contact_state state;
    uint64_t at; /* when it is dialled; barred, not before that */
    unsigned failures;
    uint64_t failed_at;
    int worked;          /* a block went one way or the other */
    int tried;           /* a connection to it has ended, or could not begin */
    unsigned beyond;     /* connections that ended at a block behind the end */
    uint64_t wary_until; /* what a new connection is told of it */
    char text[1];        /* as long as it is */
} contact;

enum link_state { LINK_RESOLVING, LINK_WAITING, LINK_CONNECTING, LINK_OPEN, LINK_CLOSING, LINK_SHUT };

/* One connection, or an attempt at one. A host's name has several addresses: they are tried side by side, as links of
 * one contact, until one is open. */
typedef struct link {
    struct link *next;
    datsync *ds;
    datsync_peer *peer;
    contact *dialled; /* NULL: accepted, or beaten */
    int beaten;       /* another address of the same contact is open */
    datsync_ip ip;    /* of the contact's name; size 0: its text is what is dialled */
    intptr_t handle;  /* -1: none */
    short told;       /* events of this handle that a guest was told to wait for */
    enum link_state state;
    int error;               /* why it is to be closed */
    int useful;              /* a block has gone one way or the other */
    int introduced;          /* DATSYNC_EV_PEER was told */
    uint64_t since, sent_at; /* of this state, waiting: until when; when the remote last took bytes */
    uint64_t met_at;         /* when its handshake came */
    size_t unsent;
    char address[ADDRESS_BYTES];
} link;

typedef struct shared_feed {
    datsync_feed *feed;
    unsigned mode;
    uint64_t told_length, complete_length; /* + 1; 0: not complete */
    int failed;
    int quiet;        /* part of a drive, which tells itself when it is complete */
    int satisfied;    /* a peer had answered, and all that it offered was here; it may have left since */
    uint64_t done_at; /* NONE, or since when only found addresses may know of more */
} shared_feed;

struct datsync {
    datsync_env env;
    datsync_options opt;
    datsync_net net;
    int has_net;
    uint8_t id[32];
    struct datsync_pool pool;
    const char **extensions; /* copies */
    uint64_t now, tick_at;
    enum { GOES_ON, STOP_ASKED, STOP_TOLD } stop;
    int kick; /* a peer has gone; its blocks are to be asked of others */
    shared_feed *feeds;
    size_t feed_count, feed_cap;
    struct shared_drive *drives;
    link *links;

    struct {
        intptr_t *v;
        size_t count, cap;
        uint64_t rest_until; /* accepting failed */
        short told;          /* events that a guest was told to wait for, on each */
    } listeners;

    struct {
        datsync_source v[DATSYNC_MAX_SOURCES];
        size_t count;
        uint64_t met_at; /* the first handshake of all; NONE: there was none */
    } sources;

    struct {
        datsync_pollfd *v; /* of datsync_poll */
        size_t cap;
    } fds;

    struct {
        contact *first;
        contact **slots;                        /* by hash */
        uint8_t key[crypto_shorthash_KEYBYTES]; /* of the hashes: nobody can choose what collides */
        size_t count, of_source[ACCEPTED + 1];
        size_t waiting;                     /* those that may be dialled without a word from anybody */
        size_t untried, untried_chosen;     /* of these, those that were never tried */
        uint64_t next_at;                   /* no address is due before */
        unsigned turn;                      /* the source that was dialled last */
        uint64_t turns, served[INFORMANTS]; /* when an informant's address was dialled last, by hash */
    } book;
};

static void ds_tell(datsync *ds, const datsync_event *event)
{
    if (ds->opt.on_event)
        ds->opt.on_event(ds->opt.ctx, ds, event);
}

static void ds_event(datsync *ds, int type, datsync_feed *feed, uint64_t index, int error)
{
    ds_tell(ds, &(datsync_event){.type = type, .feed = feed, .index = index, .error = error});
}

/* What happened on one connection. */
static void link_event(const link *l, int type, datsync_feed *feed, uint64_t index, uint64_t size, int error)
{
    ds_tell(l->ds, &(datsync_event){.type = type,
                                    .feed = feed,
                                    .address = l->address,
                                    .source = l->dialled ? l->dialled->source : ACCEPTED,
                                    .index = index,
                                    .size = size,
                                    .error = error});
}

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value ? value : fallback;
}

static unsigned max_peers(const datsync *ds)
{
    return ds->opt.max_peers ? ds->opt.max_peers : 64;
}

static unsigned link_count(const datsync *ds)
{
    unsigned n = 0;
    for (const link *l = ds->links; l; l = l->next)
        n++;
    return n;
}

static void link_fail(link *l, int error)
{
    if (!l->error)
        l->error = error;
}

/* Has the handshake come? */
static int link_has_met(const link *l)
{
    return l->peer && datsync_peer_remote_id(l->peer);
}

static void shared_feed_fail(datsync *ds, datsync_feed *feed, int error)
{
    for (size_t i = 0; i < ds->feed_count; i++)
        if (ds->feeds[i].feed == feed && !ds->feeds[i].failed) {
            ds->feeds[i].failed = 1;
            ds_event(ds, DATSYNC_EV_FAILED, feed, 0, error);
        }
}

/* ================================================================ synchronizer: addresses ======================== */

/* The book of addresses: where each comes from, how often it failed, when it is dialled. Who may tell of addresses
 * may also tell of false ones, by thousands. So each source may have DATSYNC_MAX_ADDRESSES, and all together
 * ADDRESSES; when the book is full, the largest source gives up a place. The address that goes is one of the
 * informant who told of the most: given-up ones first, barred ones last. What was chosen by hand stays until it is
 * given up. Chosen addresses are dialled first, then those that have worked. After that, sources take turns, and
 * within a source its informants. */

static size_t contact_hash(const datsync *ds, const char *text, size_t slots)
{
    uint8_t hash[crypto_shorthash_BYTES];
    (void)crypto_shorthash(hash, (const uint8_t *)text, strlen(text), ds->book.key);
    return (size_t)(get_u64(hash) & (slots - 1));
}

/* An address that was accepted from is another than one that is dialled: it has no port. */
static contact *contact_find(const datsync *ds, const char *text, int accepted)
{
    contact *a = ds->book.slots ? ds->book.slots[contact_hash(ds, text, ADDRESS_SLOTS)] : NULL;
    while (a && ((a->source == ACCEPTED) != accepted || strcmp(a->text, text) != 0))
        a = a->chain;
    return a;
}

static void tally(size_t *n, int more)
{
    *n = more ? *n + 1 : *n - 1;
}

/* Take a contact into what is counted, or out of it: around each change, so that what is counted stays true. */
static void contact_count(datsync *ds, const contact *a, int more)
{
    if (a->state != CONTACT_WAITS)
        return;
    tally(&ds->book.waiting, more);
    if (!a->tried)
        tally(&ds->book.untried, more);
    if (!a->tried && a->source == CHOSEN)
        tally(&ds->book.untried_chosen, more);
}

static void contact_set(datsync *ds, contact *a, enum contact_state state, uint64_t at)
{
    contact_count(ds, a, 0);
    a->state = state;
    a->at = at;
    contact_count(ds, a, 1);
    ds->book.next_at = MIN(ds->book.next_at, at);
}

static void contact_remove(datsync *ds, contact *a)
{
    contact **at = &ds->book.first;
    contact_count(ds, a, 0);
    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    for (at = &ds->book.slots[contact_hash(ds, a->text, ADDRESS_SLOTS)]; *at != a; at = &(*at)->chain)
        ;
    *at = a->chain;
    ds->book.count--;
    ds->book.of_source[a->source]--;
    mem_free(&ds->env, a);
}

/* One of INFORMANTS: who knows none of the others' can't take their turn, or their places. */
static unsigned informant_slot(const datsync *ds, unsigned source, uint64_t informant)
{
    uint8_t hash[crypto_shorthash_BYTES], who[16];
    put_u64(who, source);
    put_u64(who + 8, informant);
    (void)crypto_shorthash(hash, who, sizeof who, ds->book.key);
    return (unsigned)(get_u64(hash) % INFORMANTS);
}

/* What goes first where there is no room: what was given up, then what failed, then what was not tried, then what has
 * worked. The bars go last, or whoever tells of many could have one forgotten. */
static unsigned contact_worth(const contact *a)
{
    return a->state == CONTACT_BARRED ? 4 : a->worked ? 3 : a->state == CONTACT_DROPPED ? 0 : a->failures ? 1 : 2;
}

static int contact_is_worse(const contact *a, const contact *b)
{
    unsigned x = contact_worth(a), y = contact_worth(b);
    return x != y ? x < y : a->failed_at < b->failed_at;
}

/* Room for one more of a source: one of whoever told of the most goes. Of what was chosen, only what was given up does.
 * 0: there is none. */
static int contact_make_room(datsync *ds, unsigned source)
{
    unsigned told[INFORMANTS] = {0}, most = 0;
    contact *worst = NULL;
    for (contact *a = ds->book.first; a; a = a->next)
        if (a->source == source && a->state != CONTACT_IN_USE && ++told[a->informant] > told[most])
            most = a->informant;
    for (contact *a = ds->book.first; a; a = a->next)
        if (a->source == source && a->state != CONTACT_IN_USE && a->informant == most &&
            (source != CHOSEN || a->state == CONTACT_DROPPED) && (!worst || contact_is_worse(a, worst)))
            worst = a;
    if (!worst)
        return 0;
    contact_remove(ds, worst);
    return 1;
}

/* The source that has to give way to one more of this one: itself, if it has all that it may have, or the one that
 * has most. */
static unsigned contact_yields(const datsync *ds, unsigned source)
{
    unsigned most = source;
    if (ds->book.of_source[source] >= DATSYNC_MAX_ADDRESSES)
        return source;
    for (unsigned i = CHOSEN + 1; i <= ACCEPTED; i++)
        if (most == CHOSEN || ds->book.of_source[i] > ds->book.of_source[most])
            most = i;
    return most;
}

/* A new address, which nobody dials yet; NULL and an error if there is no place for it. */
static contact *contact_add(datsync *ds, const char *text, unsigned source, uint64_t informant, int *error)
{
    size_t len = strlen(text);
    contact **last = &ds->book.first;
    *error = DATSYNC_E_NOMEM;
    if (!ds->book.slots && !(ds->book.slots = mem_zeroed(&ds->env, ADDRESS_SLOTS * sizeof *ds->book.slots)))
        return NULL;
    if ((ds->book.of_source[source] >= DATSYNC_MAX_ADDRESSES || ds->book.count >= ADDRESSES) &&
        !contact_make_room(ds, contact_yields(ds, source))) {
        *error = DATSYNC_E_TOO_BIG;
        return NULL;
    }
    contact *a = mem_zeroed(&ds->env, sizeof *a + len);
    if (!a)
        return NULL;
    memcpy(a->text, text, len + 1);
    a->source = source;
    a->informant = informant_slot(ds, source, informant);
    a->state = CONTACT_DROPPED;
    contact **slot = &ds->book.slots[contact_hash(ds, text, ADDRESS_SLOTS)];
    a->chain = *slot;
    *slot = a;
    while (*last)
        last = &(*last)->next;
    *last = a;
    ds->book.count++;
    ds->book.of_source[source]++;
    return a;
}

/* Somebody chooses what was found. */
static int contact_choose(datsync *ds, contact *a)
{
    if (ds->book.of_source[CHOSEN] >= DATSYNC_MAX_ADDRESSES && !contact_make_room(ds, CHOSEN))
        return DATSYNC_E_TOO_BIG;
    contact_count(ds, a, 0);
    ds->book.of_source[a->source]--;
    ds->book.of_source[CHOSEN]++;
    a->source = CHOSEN;
    a->informant = informant_slot(ds, CHOSEN, 0);
    contact_count(ds, a, 1);
    return 0;
}

/* An address is heard of: it is new, or was given up and begins anew. */
static int contact_hear(datsync *ds, const char *text, unsigned source, uint64_t informant, uint64_t now)
{
    contact *a = contact_find(ds, text, 0);
    int r = 0;
    if (!ds->has_net)
        return DATSYNC_E_UNSUPPORTED;
    if (strlen(text) >= ADDRESS_BYTES)
        return DATSYNC_E_ADDRESS;
    if (!a && !(a = contact_add(ds, text, source, informant, &r)))
        return r;
    if (source == CHOSEN && a->source != CHOSEN && (r = contact_choose(ds, a)) < 0)
        return r;
    if (a->state == CONTACT_DROPPED) {
        a->failures = 0;
        contact_set(ds, a, CONTACT_WAITS, source == CHOSEN || !a->tried ? now : MAX(now, a->failed_at + AGAIN_MS));
    }
    return 0;
}

int datsync_connect(datsync *ds, const char *text, uint64_t now)
{
    return contact_hear(ds, text, CHOSEN, 0, now);
}

int datsync_found(datsync *ds, const char *text, unsigned source, uint64_t informant, uint64_t now)
{
    if (source == CHOSEN || source >= DATSYNC_MAX_SOURCES)
        return DATSYNC_E_INVALID;
    return contact_hear(ds, text, source, informant, now);
}

/* Is a to be dialled before b? Both are due. */
static int contact_is_first(const datsync *ds, const contact *a, const contact *b)
{
    unsigned turn_a = (a->source + DATSYNC_MAX_SOURCES - ds->book.turn - 1) % DATSYNC_MAX_SOURCES;
    unsigned turn_b = (b->source + DATSYNC_MAX_SOURCES - ds->book.turn - 1) % DATSYNC_MAX_SOURCES;
    if ((a->source == CHOSEN) != (b->source == CHOSEN))
        return a->source == CHOSEN;
    if (a->worked != b->worked)
        return a->worked;
    if (turn_a != turn_b)
        return turn_a < turn_b;
    return ds->book.served[a->informant] < ds->book.served[b->informant];
}

/* The address that is to be dialled now, which is in use from now on; NULL: none is due. */
static contact *contact_next(datsync *ds)
{
    contact *best = NULL;
    uint64_t next_at = NONE;
    if (ds->now < ds->book.next_at)
        return NULL;
    for (contact *a = ds->book.first; a; a = a->next) {
        contact *later = a;
        if (a->state != CONTACT_WAITS && a->state != CONTACT_BARRED)
            continue;
        if (a->at <= ds->now && (!best || contact_is_first(ds, a, best))) {
            later = best;
            best = a;
        }
        if (later)
            next_at = MIN(next_at, later->at);
    }
    ds->book.next_at = next_at;
    if (!best)
        return NULL;
    if (best->source != CHOSEN)
        ds->book.turn = best->source;
    ds->book.served[best->informant] = ++ds->book.turns;
    contact_set(ds, best, CONTACT_IN_USE, NONE);
    return best;
}

/* What it was that ended a connection, for the book. */
enum contact_end { ENDED, ENDED_FOR_GOOD, WAS_ONESELF, HANDSHAKE_FAILED, LIED };

static enum contact_end contact_judge(int error, int met)
{
    switch (error) {
    case DATSYNC_E_DONE:
    case DATSYNC_E_DUPLICATE:
    case DATSYNC_E_ADDRESS:
        return ENDED_FOR_GOOD;
    case DATSYNC_E_SELF:
        return WAS_ONESELF;
    case DATSYNC_E_BAD_DATA:
        return LIED;
    case DATSYNC_E_FIRST_FEED:
        return HANDSHAKE_FAILED;
    case DATSYNC_E_TIMEOUT:
    case DATSYNC_E_FRAME:
    case DATSYNC_E_MESSAGE:
    case DATSYNC_E_PROTOCOL:
        return met ? ENDED : HANDSHAKE_FAILED;
    default:
        return ENDED;
    }
}

/* Dialling failed, or the connection ended; `connected`, `met`: it had come so far. When is it dialled again? */
static void contact_ended(datsync *ds, contact *a, int error, int connected, int met, int useful)
{
    static const unsigned delays[] = {1000, 1000, 5000, 15000}; /* as discovery-swarm 5.1 */
    enum contact_end end = contact_judge(error, met || !connected);
    if (useful) {
        a->failures = 0;
        a->worked = 1;
    }
    a->tried = 1; /* in use, it is not counted */
    a->failed_at = ds->now;
    if (end == ENDED_FOR_GOOD || (end == ENDED && a->failures == sizeof delays / sizeof *delays))
        contact_set(ds, a, CONTACT_DROPPED, NONE);
    else if (end == ENDED)
        contact_set(ds, a, CONTACT_WAITS, ds->now + delays[a->failures++]);
    else
        contact_set(ds, a, CONTACT_BARRED, end == WAS_ONESELF ? NONE : ds->now + (end == LIED ? LIAR_MS : STRANGER_MS));
}

/* Who was accepted is known by its address without the port. */
static contact *contact_of_accepted(const datsync *ds, const char *from, char host[ADDRESS_BYTES])
{
    const char *colon = strrchr(from, ':');
    size_t len = colon ? (size_t)(colon - from) : strlen(from);
    len = MIN(len, ADDRESS_BYTES - 1);
    memcpy(host, from, len);
    host[len] = 0;
    return contact_find(ds, host, 1);
}

/* Until when is a new connection told to be wary? */
static uint64_t contact_wary_until(const datsync *ds, const contact *dialled, const char *from)
{
    char host[ADDRESS_BYTES];
    const contact *a = dialled ? dialled : contact_of_accepted(ds, from, host);
    return a ? a->wary_until : 0;
}

/* It closed when it was asked for a block behind the end. */
static void contact_refused_beyond(datsync *ds, contact *a, const char *from)
{
    char host[ADDRESS_BYTES];
    int error;
    if (!a && !(a = contact_of_accepted(ds, from, host)) && !(a = contact_add(ds, host, ACCEPTED, 0, &error)))
        return;
    if (++a->beyond >= WARY_ENDS)
        a->wary_until = ds->now + WARY_MS;
}

/* Is there an address that was chosen, or with `found` any, which was not dialled yet, and may know of more? */
static int addresses_untried(const datsync *ds, int found)
{
    return (found ? ds->book.untried : ds->book.untried_chosen) > 0;
}

static void addresses_free(datsync *ds)
{
    while (ds->book.first)
        contact_remove(ds, ds->book.first);
    mem_free(&ds->env, ds->book.slots);
}

/* ================================================================ synchronizer: sources ========================== */

/* What finds peers. The loop knows nothing of how: it waits for a source's handles and deadline, gives it its turns,
 * and asks whether more may come. */

int datsync_add_source(datsync *ds, const datsync_source *source)
{
    if (ds->stop)
        return DATSYNC_E_STATE;
    if (ds->sources.count == DATSYNC_MAX_SOURCES)
        return DATSYNC_E_TOO_BIG;
    ds->sources.v[ds->sources.count++] = *source;
    return 0;
}

void datsync_interest(datsync *ds, intptr_t handle, short events)
{
    if (ds->opt.on_interest)
        ds->opt.on_interest(ds->opt.ctx, ds, handle, events);
}

static void sources_step(datsync *ds, const datsync_pollfd *fds, size_t count)
{
    for (size_t i = 0; i < ds->sources.count; i++)
        ds->sources.v[i].step(ds->sources.v[i].ctx, ds, fds, count, ds->now);
}

/* There was a handshake. */
static void sources_met(datsync *ds)
{
    ds->sources.met_at = MIN(ds->sources.met_at, ds->now);
}

static uint64_t sources_patience(const datsync *ds)
{
    return ds->sources.met_at == NONE ? NONE : ds->sources.met_at + ASK_MS;
}

/* Is there a way that may still give its first answer? */
static int sources_ask(const datsync *ds)
{
    if (ds->now >= sources_patience(ds))
        return 0;
    for (size_t i = 0; i < ds->sources.count; i++)
        if (ds->sources.v[i].asks && ds->sources.v[i].asks(ds->sources.v[i].ctx))
            return 1;
    return 0;
}

static uint64_t sources_deadline(const datsync *ds)
{
    uint64_t at = sources_ask(ds) ? sources_patience(ds) : NONE;
    for (size_t i = 0; i < ds->sources.count; i++)
        at = MIN(at, ds->sources.v[i].deadline(ds->sources.v[i].ctx));
    return at;
}

static size_t sources_pollfds(const datsync *ds, datsync_pollfd *fds, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < ds->sources.count; i++)
        n += ds->sources.v[i].pollfds(ds->sources.v[i].ctx, n < cap ? fds + n : NULL, n < cap ? cap - n : 0);
    return n;
}

static void sources_stop(datsync *ds)
{
    while (ds->sources.count) {
        const datsync_source *s = &ds->sources.v[--ds->sources.count];
        if (s->stop)
            s->stop(s->ctx, ds, ds->now);
    }
}

/* May there be more to hear of than the peers that are here? Of addresses, one that was chosen; with `found`, any that
 * was not dialled yet. */
static int more_may_come(const datsync *ds, int found)
{
    return sources_ask(ds) || addresses_untried(ds, found);
}

/* ================================================================ synchronizer: connections ====================== */

/* Dialling and accepting, one peer for each, its bytes to the network and back. A link ends in one place, link_close,
 * whatever the reason was. */

/* Its handle is another from now on; -1: it has none. The one before is closed, and a guest forgets it first. */
static void link_set_handle(link *l, intptr_t handle)
{
    if (l->told)
        datsync_interest(l->ds, l->handle, 0);
    l->told = 0;
    if (l->handle != -1)
        l->ds->net.close(l->ds->net.ctx, l->handle);
    l->handle = handle;
}

static void link_open_feed(link *l, const uint8_t *discovery_key)
{
    datsync *ds = l->ds;
    for (size_t i = 0; i < ds->feed_count; i++) {
        shared_feed *s = &ds->feeds[i];
        if (s->failed || memcmp(datsync_feed_discovery_key(s->feed), discovery_key, 32) != 0)
            continue;
        int r = datsync_peer_open(l->peer, s->feed, s->mode);
        if (r < 0)
            link_fail(l, r);
        return;
    }
    if (!peer_opened_any(l->peer))
        link_fail(l, DATSYNC_E_UNKNOWN_FEED);
}

/* Two connections to one peer: the one that was dialled by the smaller id stays (as discovery-swarm 5.1 has it), of
 * two in the same direction the older. */
static void link_check_duplicate(link *l)
{
    datsync *ds = l->ds;
    const uint8_t *id = datsync_peer_remote_id(l->peer);
    int ours_smaller = memcmp(ds->id, id, 32) < 0;
    for (link *o = ds->links; o; o = o->next) {
        if (o == l || o->error || !link_has_met(o) || memcmp(datsync_peer_remote_id(o->peer), id, 32) != 0)
            continue;
        int keep_new = (l->dialled != NULL) != (o->dialled != NULL) && (l->dialled != NULL) == ours_smaller;
        link_fail(keep_new ? o : l, DATSYNC_E_DUPLICATE);
        ds->kick = 1;
        return;
    }
}

static void link_open_rest(link *l)
{
    datsync *ds = l->ds;
    for (size_t i = 0; i < ds->feed_count; i++)
        if (!ds->feeds[i].failed && !peer_is_open(l->peer, ds->feeds[i].feed))
            link_open_feed(l, datsync_feed_discovery_key(ds->feeds[i].feed));
}

static void on_peer_event(void *ctx, datsync_peer *peer, const datsync_peer_event *e)
{
    link *l = ctx;
    datsync *ds = l->ds;
    (void)peer;
    switch (e->type) {
    case DATSYNC_PEER_FEED:
        link_open_feed(l, e->discovery_key);
        break;
    case DATSYNC_PEER_HANDSHAKE:
        l->met_at = ds->now;
        link_check_duplicate(l);
        if (!l->error) {
            sources_met(ds);
            l->introduced = 1;
            link_event(l, DATSYNC_EV_PEER, NULL, 0, 0, 0);
            link_open_rest(l);
        }
        break;
    case DATSYNC_PEER_BLOCK:
        l->useful = 1;
        link_event(l, DATSYNC_EV_BLOCK, e->feed, e->index, e->size, 0);
        break;
    case DATSYNC_PEER_UPLOAD:
        l->useful = 1;
        link_event(l, DATSYNC_EV_UPLOAD, e->feed, e->index, e->size, 0);
        break;
    case DATSYNC_PEER_REJECT:
        if (is_fatal(e->error)) /* our own disk, not the peer */
            shared_feed_fail(ds, e->feed, e->error);
        else
            link_event(l, DATSYNC_EV_REJECT, e->feed, e->index, e->size, e->error);
        break;
    default:
        break;
    }
}

/* It is open: the other addresses of its name need not be tried. */
static void link_beat_others(const link *l)
{
    for (link *o = l->ds->links; o && l->dialled; o = o->next)
        if (o != l && o->dialled == l->dialled) {
            o->dialled = NULL;
            o->beaten = 1;
            link_fail(o, DATSYNC_E_DUPLICATE);
        }
}

static int link_start_peer(link *l)
{
    datsync *ds = l->ds;
    datsync_peer_options o;
    memset(&o, 0, sizeof o);
    o.env = &ds->env;
    memcpy(o.id, ds->id, 32);
    o.live = ds->opt.live;
    o.ack = ds->opt.ack;
    o.extensions = ds->extensions;
    o.extension_count = ds->opt.extension_count;
    o.timeout_ms = ds->opt.timeout_ms;
    o.pool = &ds->pool;
    o.ctx = l;
    o.on_event = on_peer_event;
    int r;
    if ((r = datsync_peer_new(&l->peer, &o, ds->now)) < 0)
        return r;
    link_beat_others(l);
    peer_be_wary(l->peer, contact_wary_until(ds, l->dialled, l->address));
    l->state = LINK_OPEN;
    l->since = l->sent_at = ds->now;
    link_event(l, DATSYNC_EV_CONNECTED, NULL, 0, 0, 0);
    return l->dialled && ds->feed_count ? datsync_peer_open(l->peer, ds->feeds[0].feed, ds->feeds[0].mode) : 0;
}

/* A new one is connecting. */
static link *link_new(datsync *ds, intptr_t handle, contact *a, const char *text)
{
    link *l = mem_zeroed(&ds->env, sizeof *l), **last = &ds->links;
    if (!l)
        return NULL;
    l->ds = ds;
    l->handle = handle;
    l->dialled = a;
    l->state = LINK_CONNECTING;
    l->since = ds->now;
    (void)snprintf(l->address, sizeof l->address, "%s", text);
    while (*last)
        last = &(*last)->next;
    *last = l;
    return l;
}

/* An attempt has failed: is there another address of the same name? The next one need not wait for its time. */
static int link_hasten_next(const link *l)
{
    int others = 0;
    for (link *o = l->ds->links; o; o = o->next) {
        if (o == l || !o->dialled || o->dialled != l->dialled)
            continue;
        others++;
        if (o->state == LINK_WAITING) {
            o->since = l->ds->now;
            break;
        }
    }
    return others > 0;
}

static void link_close(datsync *ds, link *l)
{
    link **at = &ds->links;
    int connected = l->peer != NULL, met = link_has_met(l);
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    if (l->peer) {
        ds->kick = 1;
        if (l->error == DATSYNC_E_CLOSED && peer_refused_beyond(l->peer, ds->now))
            contact_refused_beyond(ds, l->dialled, l->address);
        datsync_peer_free(l->peer);
    }
    link_set_handle(l, -1);
    if (!l->beaten && !link_hasten_next(l)) {
        if (l->dialled)
            contact_ended(ds, l->dialled, l->error, connected, met, l->useful);
        if (connected)
            link_event(l, DATSYNC_EV_DISCONNECTED, NULL, (uint64_t)l->introduced, 0, l->error);
        else
            link_event(l, DATSYNC_EV_UNREACHABLE, NULL, l->dialled && l->dialled->state == CONTACT_DROPPED, 0,
                       l->error);
    }
    mem_free(&ds->env, l);
}

/* Begin to connect to the address that it has. */
static int link_dial(link *l)
{
    const datsync_net *net = &l->ds->net;
    char numbers[DATSYNC_IP_TEXT];
    intptr_t handle = -1;
    if (l->ip.size)
        datsync_ip_text(&l->ip, numbers);
    int r = net->connect(net->ctx, l->ip.size ? numbers : l->dialled->text, &handle);
    if (r < 0)
        return r;
    link_set_handle(l, handle);
    l->state = LINK_CONNECTING;
    l->since = l->ds->now;
    return 0;
}

/* Is it `NAME:PORT`, for a resolver? Then this is the name, and the port. */
static int has_name(const char *text, char name[ADDRESS_BYTES], uint16_t *port)
{
    const char *colon = strchr(text, ':'), *end = colon;
    datsync_ip numbers;
    uint32_t value;
    if (!colon || colon == text || *text == '[' || datsync_ip_parse(&numbers, text) == 0)
        return 0;
    if (colon - text == 4 && memcmp(text, "unix", 4) == 0)
        return 0;
    if (++end, ip_decimal(&end, 65535, &value) < 0 || *end)
        return 0; /* nonsense, which connect names */
    memcpy(name, text, (size_t)(colon - text));
    name[colon - text] = 0;
    *port = (uint16_t)value;
    return 1;
}

static int link_resolve(link *l, const char *name)
{
    const datsync_net *net = &l->ds->net;
    intptr_t handle = -1;
    int r = net->resolve(net->ctx, name, &handle);
    if (r == DATSYNC_E_AGAIN) { /* others are being looked up */
        l->state = LINK_WAITING;
        l->since = l->ds->now + NEXT_ADDRESS_MS;
        return 0;
    }
    if (r < 0)
        return r;
    link_set_handle(l, handle);
    l->state = LINK_RESOLVING;
    l->since = l->ds->now;
    return 0;
}

/* Its first step, or the next one when it has waited. */
static int link_begin(link *l)
{
    char name[ADDRESS_BYTES];
    uint16_t port;
    if (!l->ip.size && l->ds->net.resolve && has_name(l->dialled->text, name, &port))
        return link_resolve(l, name);
    return link_dial(l);
}

/* What a name stands for is known: its first address is dialled on this link, the others wait a little each, and are
 * hastened by a failure (RFC 8305). */
static int link_resolved(link *l)
{
    datsync *ds = l->ds;
    datsync_ip list[NAME_ADDRESSES];
    char name[ADDRESS_BYTES];
    uint16_t port;
    int n = ds->net.resolved(ds->net.ctx, l->handle, list, NAME_ADDRESSES);
    if (n <= 0 || !has_name(l->dialled->text, name, &port))
        return n < 0 ? n : DATSYNC_E_ADDRESS;
    link_set_handle(l, -1);
    for (int i = 0; i < n && i < (int)NAME_ADDRESSES; i++) {
        link *o = i ? link_new(ds, -1, l->dialled, l->address) : l;
        if (!o)
            break; /* no memory: the others are tried */
        o->ip = list[i];
        o->ip.port = port;
        o->state = LINK_WAITING;
        o->since = ds->now + (uint64_t)i * NEXT_ADDRESS_MS;
    }
    return link_begin(l);
}

static void dial(datsync *ds, contact *a)
{
    link *l = link_new(ds, -1, a, a->text);
    int r = l ? link_begin(l) : DATSYNC_E_NOMEM;
    if (r < 0 && l) {
        link_fail(l, r);
        link_close(ds, l);
    } else if (r < 0) {
        contact_ended(ds, a, r, 0, 0, 0);
    }
}

/* Dial what is due, as far as there is room for connections. */
static void dial_all(datsync *ds)
{
    unsigned room = max_peers(ds) - MIN(link_count(ds), max_peers(ds));
    contact *a;
    for (; room && (a = contact_next(ds)) != NULL; room--)
        dial(ds, a);
}

/* An address that was found may be false, and there may be thousands of them; somebody who comes is there. So where all
 * connections are taken, of those that were dialled because of such addresses the one that has waited longest for
 * its remote's first word gives way. 0: there is none. */
static int link_gives_way(datsync *ds)
{
    link *oldest = NULL;
    for (link *l = ds->links; l; l = l->next)
        if (l->dialled && l->dialled->source != CHOSEN && l->state <= LINK_OPEN && !l->error && !link_has_met(l) &&
            (!oldest || l->since < oldest->since))
            oldest = l;
    if (!oldest)
        return 0;
    link_fail(oldest, DATSYNC_E_UNREACHABLE);
    link_close(ds, oldest);
    return 1;
}

static void accept_all(datsync *ds, intptr_t listener)
{
    char from[ADDRESS_BYTES];
    intptr_t handle;
    int r = 0;
    for (int i = 0; i < 16 && (r = ds->net.accept(ds->net.ctx, listener, &handle, from, sizeof from)) == 0; i++) {
        if (link_count(ds) >= max_peers(ds) && !link_gives_way(ds)) {
            ds->net.close(ds->net.ctx, handle);
            env_log(&ds->env, DATSYNC_LOG_WARNING, "a connection was refused: the cap on connections is reached");
        } else if (!link_new(ds, handle, NULL, from)) {
            ds->net.close(ds->net.ctx, handle);
        }
    }
    if (r < 0 && r != DATSYNC_E_AGAIN) { /* out of descriptors, say: it would be ready again at once */
        env_log(&ds->env, DATSYNC_LOG_WARNING, "a connection could not be accepted");
        ds->listeners.rest_until = ds->now + 1000;
    }
}

int datsync_listen(datsync *ds, const char *address)
{
    if (!ds->has_net || ds->stop)
        return ds->stop ? DATSYNC_E_STATE : DATSYNC_E_UNSUPPORTED;
    if (mem_grow(&ds->env, &ds->listeners.v, &ds->listeners.cap, ds->listeners.count + 1, sizeof *ds->listeners.v) < 0)
        return DATSYNC_E_NOMEM;
    char bound[160];
    intptr_t handle;
    int r;
    if ((r = ds->net.listen(ds->net.ctx, address, &handle, bound, sizeof bound)) < 0)
        return r;
    ds->listeners.v[ds->listeners.count++] = handle;
    if (ds->listeners.told)
        datsync_interest(ds, handle, ds->listeners.told);
    ds_tell(ds, &(datsync_event){.type = DATSYNC_EV_LISTENING, .address = bound});
    return 0;
}

static void listeners_close(datsync *ds)
{
    while (ds->listeners.count) {
        intptr_t handle = ds->listeners.v[--ds->listeners.count];
        if (ds->listeners.told)
            datsync_interest(ds, handle, 0);
        ds->net.close(ds->net.ctx, handle);
    }
}

/* ------------------------------------------------ reading and writing one connection */

static void link_read(link *l)
{
    datsync *ds = l->ds;
    for (int turns = 0; turns < 8 && !l->error; turns++) { /* then others have their turn */
        uint8_t *place = NULL;
        size_t room = datsync_peer_space(l->peer, &place);
        if (!room)
            return;
        int64_t n = ds->net.recv(ds->net.ctx, l->handle, place, room);
        if (n == DATSYNC_E_AGAIN)
            return;
        if (n < 0) {
            link_fail(l, (int)n);
            return;
        }
        int r = datsync_peer_received(l->peer, (size_t)n, ds->now);
        if (r < 0)
            link_fail(l, r);
        if ((size_t)n < room)
            return;
    }
}

static void link_write(link *l)
{
    datsync *ds = l->ds;
    l->unsent = 0;
    for (int turns = 0; turns < 8; turns++) {
        const uint8_t *buf = NULL;
        size_t len = datsync_peer_output(l->peer, &buf, ds->now);
        l->unsent = len;
        if (!len)
            break;
        int64_t n = ds->net.send(ds->net.ctx, l->handle, buf, len);
        if (n == DATSYNC_E_AGAIN)
            return;
        if (n < 0) {
            link_fail(l, (int)n);
            return;
        }
        datsync_peer_sent(l->peer, (size_t)n, ds->now);
        l->sent_at = ds->now;
        l->unsent -= (size_t)n;
    }
    if (!l->unsent)
        l->sent_at = ds->now;
    if (peer_error(l->peer))
        link_fail(l, peer_error(l->peer));
}

static uint64_t link_closed_at(const link *l)
{
    return l->since + (l->state == LINK_SHUT || l->unsent ? 2000 : l->ds->stop && l->ds->net.shutdown ? 0 : 500);
}

/* The end was good. Send what is left, then wait for the remote to close, for it knows the end too. If it has not
 * within half a second, shut our half and go on reading: if we closed while it still spoke, it would see a reset. */
static void link_closing(link *l)
{
    datsync *ds = l->ds;
    int turns = 0;
    if (l->state == LINK_OPEN) {
        l->state = LINK_CLOSING;
        l->since = ds->now;
    }
    if (l->state == LINK_CLOSING)
        link_write(l);
    uint8_t waste[4096];
    int64_t n;
    do
        n = ds->net.recv(ds->net.ctx, l->handle, waste, sizeof waste);
    while (n > 0 && turns++ < 16);
    if (l->state == LINK_CLOSING && !l->unsent && ds->now >= link_closed_at(l) && ds->net.shutdown &&
        ds->net.shutdown(ds->net.ctx, l->handle) == 0)
        l->state = LINK_SHUT;
    if ((n < 0 && n != DATSYNC_E_AGAIN) || ds->now >= link_closed_at(l))
        link_close(ds, l);
}

/* The end comes from here. */
static void link_leave(link *l)
{
    if (l->state == LINK_OPEN && !l->error) {
        peer_say_goodbye(l->peer);
        link_write(l);
        link_fail(l, DATSYNC_E_DONE);
    }
    if (l->state < LINK_OPEN)
        link_fail(l, DATSYNC_E_DONE);
}

static uint64_t link_patience(const link *l)
{
    return l->state == LINK_RESOLVING ? RESOLVE_MS : or_default(l->ds->opt.connect_timeout_ms, 3000);
}

/* On the way to a connection. */
static int link_step_before(link *l, int ready)
{
    datsync *ds = l->ds;
    int r = DATSYNC_E_AGAIN;
    if (l->state == LINK_WAITING)
        return ds->now >= l->since ? link_begin(l) : 0;
    if (l->state == LINK_RESOLVING && ready)
        r = link_resolved(l);
    if (l->state == LINK_CONNECTING && (ready || ds->now == l->since)) {
        r = ds->net.connected(ds->net.ctx, l->handle);
        if (r == 0)
            return link_start_peer(l);
    }
    if (r == DATSYNC_E_AGAIN)
        return ds->now - l->since >= link_patience(l) ? DATSYNC_E_UNREACHABLE : 0;
    return r;
}

static void link_step(link *l, int ready)
{
    datsync *ds = l->ds;
    if (l->state < LINK_OPEN && !l->error) {
        int r = link_step_before(l, ready);
        if (r < 0)
            link_fail(l, r);
    }
    if (l->state == LINK_OPEN && !l->error) {
        if (ready & (DATSYNC_POLL_READ | DATSYNC_POLL_ERROR))
            link_read(l);
        if (!l->error && (ds->kick || ds->now >= datsync_peer_deadline(l->peer))) {
            int r = datsync_peer_tick(l->peer, ds->now);
            if (r < 0)
                link_fail(l, r);
        }
        if (!l->error && datsync_peer_want_write(l->peer))
            link_write(l);
        if (l->unsent && ds->now - l->sent_at >= or_default(ds->opt.write_timeout_ms, 15000))
            link_fail(l, DATSYNC_E_SLOW);
        if (!link_has_met(l) && ds->now - l->since >= or_default(ds->opt.handshake_timeout_ms, 5000))
            link_fail(l, DATSYNC_E_TIMEOUT);
    }
    if (l->error == DATSYNC_E_DONE && l->peer)
        link_closing(l);
    else if (l->error)
        link_close(ds, l);
}

static uint64_t link_deadline(const link *l)
{
    if (l->state == LINK_WAITING && !l->error)
        return l->since;
    if (l->state < LINK_OPEN)
        return l->error ? l->ds->now : l->since + link_patience(l);
    if (l->state == LINK_CLOSING || l->state == LINK_SHUT)
        return link_closed_at(l);
    return l->error ? l->ds->now : datsync_peer_deadline(l->peer);
}

static short link_events(const link *l)
{
    short e = 0;
    if (l->state < LINK_OPEN)
        return l->state == LINK_CONNECTING ? DATSYNC_POLL_WRITE : DATSYNC_POLL_READ;
    if (l->state == LINK_CLOSING || l->state == LINK_SHUT)
        return (short)(DATSYNC_POLL_READ | (l->unsent ? DATSYNC_POLL_WRITE : 0));
    if (datsync_peer_want_read(l->peer))
        e |= DATSYNC_POLL_READ;
    if (datsync_peer_want_write(l->peer))
        e |= DATSYNC_POLL_WRITE;
    return e;
}

/* ================================================================ synchronizer: feeds ============================ */

/* Which feeds are shared, and when one is complete: everything that is wanted is here, and everybody who may know of
 * more has answered, or had the time to. */

int datsync_add(datsync *ds, datsync_feed *feed, unsigned mode)
{
    if (!feed_has_key(feed))
        return DATSYNC_E_STATE;
    for (size_t i = 0; i < ds->feed_count; i++)
        if (memcmp(datsync_feed_key(ds->feeds[i].feed), datsync_feed_key(feed), 32) == 0)
            return DATSYNC_E_STATE;
    if (ds->feed_count == DATSYNC_MAX_CHANNELS)
        return DATSYNC_E_TOO_BIG;
    if (mem_grow(&ds->env, &ds->feeds, &ds->feed_cap, ds->feed_count + 1, sizeof *ds->feeds) < 0)
        return DATSYNC_E_NOMEM;
    memset(&ds->feeds[ds->feed_count], 0, sizeof *ds->feeds);
    ds->feeds[ds->feed_count].feed = feed;
    ds->feeds[ds->feed_count].done_at = NONE;
    ds->feeds[ds->feed_count].told_length = datsync_feed_length(feed);
    ds->feeds[ds->feed_count++].mode = datsync_feed_writable(feed) ? mode & ~(unsigned)DATSYNC_DOWNLOAD : mode;
    return 0;
}

int datsync_complete(const datsync *ds, const datsync_feed *feed)
{
    for (size_t i = 0; i < ds->feed_count; i++)
        if (ds->feeds[i].feed == feed)
            return ds->feeds[i].complete_length == datsync_feed_length(feed) + 1;
    return 0;
}

uint64_t datsync_offered(const datsync *ds, const datsync_feed *feed)
{
    uint64_t n = 0;
    for (const link *l = ds->links; l; l = l->next)
        if (l->peer && !l->error)
            n = MAX(n, datsync_peer_remote_length(l->peer, feed));
    return n;
}

/* Was it dialled because somebody told of it? */
static int link_is_found(const link *l)
{
    return l->dialled && l->dialled->source != CHOSEN;
}

/* Has this connection said what it offers, or had the time to? Until then it may know of a longer feed. */
static int link_settled(const link *l, const datsync_feed *feed)
{
    const datsync *ds = l->ds;
    if (l->error)
        return 1;
    if (link_has_met(l))
        return peer_has_answered(l->peer, feed) || ds->now - l->met_at >= SETTLE_MS;
    if (l->dialled)
        return l->dialled->tried || (l->state >= LINK_OPEN && ds->now - l->since >= TRY_MS);
    return ds->now - l->since >= SETTLE_MS;
}

/* Have all answered, or had the time to, who may know more of a feed; without `found`, all but those that were only
 * found? */
static int all_settled(const datsync *ds, const datsync_feed *feed, int found)
{
    if (more_may_come(ds, found))
        return 0;
    for (const link *l = ds->links; l; l = l->next)
        if ((found || !link_is_found(l)) && !link_settled(l, feed))
            return 0;
    return 1;
}

/* The peer that had everything may be gone when the last one has had its time: what it had said counts, until
 * somebody offers more. Found addresses are waited for SETTLE_MS, for there may be no end of them. */
static int shared_feed_is_complete(const datsync *ds, shared_feed *s)
{
    for (const link *l = ds->links; l; l = l->next) {
        if (!l->peer || (l->error && l->error != DATSYNC_E_DONE))
            continue;
        if (datsync_peer_complete(l->peer, s->feed)) {
            s->satisfied = 1;
        } else if (peer_gives(l->peer, s->feed, ds->now)) {
            s->satisfied = 0;
            break;
        }
    }
    if (!s->satisfied || datsync_feed_missing(s->feed) || !all_settled(ds, s->feed, 0)) {
        s->done_at = NONE;
        return 0;
    }
    s->done_at = MIN(s->done_at, ds->now);
    return ds->now - s->done_at >= SETTLE_MS || all_settled(ds, s->feed, 1);
}

static void feeds_step(datsync *ds)
{
    for (size_t i = 0; i < ds->feed_count; i++) {
        shared_feed *s = &ds->feeds[i];
        if (s->failed)
            continue;
        int r = datsync_feed_tick(s->feed, ds->now);
        if (r == DATSYNC_E_NO_SPACE && feed_makes_room(s->feed))
            r = 0;
        uint64_t length = datsync_feed_length(s->feed);
        if (r >= 0 && length > s->told_length) {
            s->told_length = length;
            ds_event(ds, DATSYNC_EV_LENGTH, s->feed, s->told_length, 0);
        }
        if (r >= 0 && (s->mode & DATSYNC_DOWNLOAD) && s->complete_length != length + 1 &&
            shared_feed_is_complete(ds, s)) {
            r = feed_is_uncommitted(s->feed) ? datsync_feed_flush(s->feed) : 0;
            s->complete_length = length + 1;
            if (r >= 0 && !s->quiet)
                ds_event(ds, DATSYNC_EV_COMPLETE, s->feed, length, 0);
        }
        if (r < 0)
            shared_feed_fail(ds, s->feed, r);
    }
}

/* ================================================================ synchronizer: drives =========================== */

/* Drives that are shared: their content joins when its key is known, their download takes its steps, their files are
 * served. */

#ifdef DATSYNC_NO_DRIVE

static void drives_step(datsync *ds)
{
    (void)ds;
}

static uint64_t drives_deadline(const datsync *ds)
{
    (void)ds;
    return NONE;
}

static void drives_rest(datsync *ds)
{
    (void)ds;
}

static int drives_free(datsync *ds)
{
    (void)ds;
    return 0;
}

#else

typedef struct shared_drive {
    struct shared_drive *next;
    datsync *ds;
    datsync_drive *drive;
    unsigned mode;
    int opened, failed, busy; /* busy: there is more to do at once */
    uint64_t opened_at;
} shared_drive;

static void on_drive_event(void *ctx, int type, const char *path, uint64_t index, uint64_t size, int error)
{
    const shared_drive *s = ctx;
    ds_tell(s->ds, &(datsync_event){.type = type,
                                    .drive = s->drive,
                                    .feed = type == DATSYNC_EV_CONTENT ? datsync_drive_content(s->drive) : NULL,
                                    .path = path,
                                    .index = index,
                                    .size = size,
                                    .error = error});
}

/* The content is known: share it, on the connections that are there, too. */
static int shared_drive_add_content(shared_drive *s)
{
    datsync *ds = s->ds;
    int r = drive_ready(s->drive, s->mode);
    if (r < 0 || (r = datsync_add(ds, datsync_drive_content(s->drive), s->mode)) < 0)
        return r;
    ds->feeds[ds->feed_count - 1].quiet = 1;
    s->opened = 1;
    s->opened_at = ds->now;
    on_drive_event(s, DATSYNC_EV_CONTENT, NULL, 0, 0, 0);
    for (link *l = ds->links; l; l = l->next)
        if (!l->error && link_has_met(l))
            link_open_rest(l);
    ds->kick = 1;
    return 0;
}

/* What no connection offers, after each has said what it has, is not to be had. Found addresses that say nothing are
 * waited for SETTLE_MS after the content is known. */
static void shared_drive_bound(const shared_drive *s)
{
    const datsync *ds = s->ds;
    const datsync_feed *content = datsync_drive_content(s->drive);
    uint64_t end = datsync_feed_length(content);
    int peers = 0, patient = ds->now - s->opened_at < SETTLE_MS;
    if (ds->opt.live || !end || more_may_come(ds, patient))
        return;
    for (const link *l = ds->links; l; l = l->next) {
        int answered = l->peer && peer_has_answered(l->peer, content) && ds->now - l->met_at >= SETTLE_MS;
        if (!answered && l->dialled && l->dialled->tried && !link_has_met(l))
            continue; /* it failed before */
        if (!answered && link_is_found(l) && !patient)
            continue;
        if (!answered)
            return;
        peers++;
        end = MAX(end, datsync_peer_remote_length(l->peer, content));
    }
    if (peers)
        drive_beyond(s->drive, end);
}

/* Is everything here that is offered? A dat that is not an archive has no history to offer. */
static int shared_drive_has_history(const shared_drive *s)
{
    const datsync *ds = s->ds;
    const datsync_feed *content = datsync_drive_content(s->drive);
    int patient = ds->now - s->opened_at < SETTLE_MS;
    for (const link *l = ds->links; l; l = l->next)
        if (!l->error && ((!link_settled(l, content) && (patient || !link_is_found(l))) ||
                          (l->peer && peer_offers(l->peer, content))))
            return 0;
    return 1;
}

static void drives_step(datsync *ds)
{
    for (shared_drive *s = ds->drives; s; s = s->next) {
        datsync_drive *d = s->drive;
        datsync_feed *metadata = datsync_drive_metadata(d);
        int r = 0, changed = 0;
        if (s->failed)
            continue;
        if (!datsync_drive_content(d) && datsync_feed_has(metadata, 0))
            r = drive_open_content(d);
        if (r >= 0 && datsync_drive_content(d) && !s->opened)
            r = shared_drive_add_content(s);
        if (r >= 0 && datsync_drive_content(d) && drive_is_laying_out(d))
            shared_drive_bound(s);
        if (r >= 0)
            r = drive_step(d, ds->now, datsync_complete(ds, metadata),
                           !drive_wants_all(d) || shared_drive_has_history(s), &changed);
        if (r >= 0) {
            int more = serve_step(d, ds->now);
            r = more < 0 ? more : MAX(r, more);
        }
        s->busy = r > 0;
        if (changed)
            ds->kick = 1;
        if (r < 0) {
            s->failed = 1;
            shared_feed_fail(ds, metadata, r);
        }
    }
}

int datsync_add_drive(datsync *ds, datsync_drive *d, unsigned mode)
{
    shared_drive **last = &ds->drives;
    for (shared_drive *s = ds->drives; s; s = s->next)
        if (s->drive == d)
            return DATSYNC_E_STATE;
    shared_drive *s = mem_zeroed(&ds->env, sizeof *s);
    if (!s)
        return DATSYNC_E_NOMEM;
    s->ds = ds;
    s->drive = d;
    s->mode = mode;
    drive_attach(d, on_drive_event, s);
    int r = datsync_add(ds, datsync_drive_metadata(d), mode);
    if (r == 0) {
        ds->feeds[ds->feed_count - 1].quiet = 1;
        r = datsync_drive_content(d) ? shared_drive_add_content(s) : drive_ready(d, mode);
        if (r < 0) /* as if it had not been tried */
            ds->feed_count--;
    }
    if (r < 0) {
        drive_detach(d);
        mem_free(&ds->env, s);
        return r;
    }
    while (*last)
        last = &(*last)->next;
    *last = s;
    return 0;
}

static uint64_t drives_deadline(const datsync *ds)
{
    uint64_t at = NONE;
    for (const shared_drive *s = ds->drives; s; s = s->next)
        if (!s->failed)
            at = MIN(at, s->busy ? ds->now : drive_deadline(s->drive));
    return at;
}

/* No file is kept open for long: others may want to replace it. */
static void drives_rest(datsync *ds)
{
    for (shared_drive *s = ds->drives; s; s = s->next)
        file_close(s->drive, NONE);
}

/* Lets go of them; what is there of them is committed. Returns the first error. */
static int drives_free(datsync *ds)
{
    int r = 0, k;
    while (ds->drives) {
        shared_drive *s = ds->drives;
        ds->drives = s->next;
        drive_detach(s->drive);
        if (!s->failed && (k = datsync_drive_flush(s->drive)) < 0 && r == 0)
            r = k;
        mem_free(&ds->env, s);
    }
    return r;
}

#endif

/* ================================================================ synchronizer: the loop ========================= */

/* One turn: accept, dial, let each connection read and write, then feeds and drives. datsync_run owns the loop;
 * datsync_pollfds, datsync_deadline and datsync_step make it a guest in another one. */

unsigned datsync_peers(const datsync *ds)
{
    unsigned n = 0;
    for (const link *l = ds->links; l; l = l->next)
        n += !l->error && link_has_met(l);
    return n;
}

unsigned datsync_candidates(const datsync *ds)
{
    return link_count(ds) + (ds->stop ? 0 : (unsigned)ds->book.waiting);
}

size_t datsync_pollfds(const datsync *ds, datsync_pollfd *fds, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < ds->listeners.count; i++, n++)
        if (n < cap) {
            fds[n].handle = ds->listeners.v[i];
            fds[n].events = ds->now < ds->listeners.rest_until ? 0 : DATSYNC_POLL_READ;
            fds[n].revents = 0;
        }
    for (const link *l = ds->links; l; l = l->next) {
        if (l->handle == -1)
            continue;
        if (n < cap) {
            fds[n].handle = l->handle;
            fds[n].events = link_events(l);
            fds[n].revents = 0;
        }
        n++;
    }
    return n + sources_pollfds(ds, n < cap ? fds + n : NULL, n < cap ? cap - n : 0);
}

uint64_t datsync_deadline(const datsync *ds)
{
    uint64_t at = ds->stop == STOP_ASKED || (ds->kick && !ds->stop) ? ds->now : NONE;
    for (const link *l = ds->links; l; l = l->next)
        at = MIN(at, link_deadline(l));
    if (ds->stop)
        return at;
    at = MIN(at, MIN(ds->tick_at, MIN(drives_deadline(ds), sources_deadline(ds))));
    if (link_count(ds) < max_peers(ds))
        at = MIN(at, ds->book.next_at);
    for (size_t i = 0; i < ds->feed_count; i++)
        if (feed_is_uncommitted(ds->feeds[i].feed))
            at = MIN(at, ds->now + DATSYNC_GROUP_MS / 4);
    return at;
}

/* Take no more part: each remote is told, and the rest is to close the connections. */
static void leave(datsync *ds)
{
    ds->stop = STOP_TOLD;
    ds->opt.on_event = NULL;
    sources_stop(ds);
    listeners_close(ds);
    for (link *l = ds->links; l; l = l->next)
        link_leave(l);
    for (size_t i = 0; i < ds->feed_count; i++)
        if (!ds->feeds[i].failed)
            (void)datsync_feed_flush(ds->feeds[i].feed); /* datsync_free tries again, and tells */
}

static void links_step(datsync *ds, const datsync_pollfd *fds, size_t count)
{
    size_t i = ds->listeners.count; /* they come first in fds */
    link *next;
    for (link *l = ds->links; l; l = next) {
        int ready = 0;
        next = l->next;
        for (size_t k = 0; k < count && !ready && l->handle != -1;
             k++) /* in nearly all turns, the first look finds it */
            if (fds[(i + k) % count].handle == l->handle) {
                ready = fds[(i + k) % count].revents;
                break;
            }
        i += l->handle != -1;
        link_step(l, ready);
    }
}

/* A guest that asked for it hears what to wait for, as far as that has changed. */
static void tell_interest(datsync *ds)
{
    for (link *l = ds->links; l && ds->opt.on_interest; l = l->next) {
        short events = l->handle == -1 ? 0 : link_events(l);
        if (events != l->told)
            datsync_interest(ds, l->handle, events);
        l->told = events;
    }
    short listening = ds->now < ds->listeners.rest_until ? 0 : DATSYNC_POLL_READ;
    for (size_t i = 0; i < ds->listeners.count && listening != ds->listeners.told; i++)
        datsync_interest(ds, ds->listeners.v[i], listening);
    ds->listeners.told = listening;
}

int datsync_step(datsync *ds, const datsync_pollfd *fds, size_t count, uint64_t now)
{
    ds->now = MAX(ds->now, now);
    if (ds->stop) {
        if (ds->stop == STOP_ASKED)
            leave(ds);
        links_step(ds, fds, count);
        tell_interest(ds);
        return 0;
    }
    sources_step(ds, fds, count);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < ds->listeners.count; k++)
            if (fds[i].handle == ds->listeners.v[k] && fds[i].revents)
                accept_all(ds, ds->listeners.v[k]);
    dial_all(ds);

    links_step(ds, fds, count);
    if (ds->kick) { /* what a peer that has gone was asked for is asked of the others */
        ds->kick = 0;
        for (link *l = ds->links; l; l = l->next)
            if (l->state == LINK_OPEN && !l->error) {
                int r = datsync_peer_tick(l->peer, ds->now);
                if (r < 0)
                    link_fail(l, r);
            }
    }

    feeds_step(ds);
    drives_step(ds);

    if (ds->now >= ds->tick_at) {
        ds->tick_at = ds->now + 1000;
        for (link *l = ds->links; l; l = l->next)
            if (l->state == LINK_OPEN && !l->error && datsync_peer_tick(l->peer, ds->now) < 0)
                link_fail(l, peer_error(l->peer));
        drives_rest(ds);
        ds_event(ds, DATSYNC_EV_TICK, NULL, 0, 0);
    }
    tell_interest(ds);
    return 0;
}

int datsync_poll(datsync *ds, unsigned timeout_ms)
{
    uint64_t at = datsync_deadline(ds);
    size_t n = datsync_pollfds(ds, NULL, 0);
    if (!ds->env.clock || !ds->has_net)
        return DATSYNC_E_UNSUPPORTED;
    int r;
    if ((r = mem_grow(&ds->env, &ds->fds.v, &ds->fds.cap, n + 1, sizeof *ds->fds.v)) < 0)
        return r;
    uint64_t now = ds->env.clock(ds->env.ctx);
    (void)datsync_pollfds(ds, ds->fds.v, n);
    r = ds->net.poll(ds->net.ctx, ds->fds.v, n, at <= now ? 0 : (int)MIN(at - now, timeout_ms));
    return r < 0 ? r : datsync_step(ds, ds->fds.v, n, ds->env.clock(ds->env.ctx));
}

int datsync_run(datsync *ds)
{
    int r = 0;
    if (!ds->env.clock || !ds->has_net)
        return DATSYNC_E_UNSUPPORTED;
    while (r >= 0 && !(ds->opt.stopped && ds->opt.stopped(ds->opt.ctx))) {
        if (!datsync_candidates(ds) && (ds->stop || (!ds->listeners.count && !ds->sources.count && !ds->opt.live)))
            break; /* nothing is left to do */
        r = datsync_poll(ds, 60000);
    }
    return r < 0 ? r : 0;
}

void datsync_stop(datsync *ds)
{
    if (!ds->stop)
        ds->stop = STOP_ASKED;
}

/* The names of extensions become its own, all in one piece. */
static int ds_copy_extensions(datsync *ds)
{
    size_t size = ds->opt.extension_count * sizeof *ds->extensions;
    if (!ds->opt.extension_count)
        return 0;
    for (size_t i = 0; i < ds->opt.extension_count; i++)
        size += strlen(ds->opt.extensions[i]) + 1;
    ds->extensions = mem_resize(&ds->env, NULL, size);
    if (!ds->extensions)
        return DATSYNC_E_NOMEM;
    char *to = (char *)(ds->extensions + ds->opt.extension_count);
    for (size_t i = 0; i < ds->opt.extension_count; i++) {
        size = strlen(ds->opt.extensions[i]) + 1;
        memcpy(to, ds->opt.extensions[i], size);
        ds->extensions[i] = to;
        to += size;
    }
    return 0;
}

int datsync_new(datsync **out, const datsync_options *o, uint64_t now)
{
    *out = NULL;
    if (sodium_init() < 0)
        return DATSYNC_E_RANDOM;
    datsync_env env;
    env_init(&env, o->env);
    datsync *ds = mem_zeroed(&env, sizeof *ds);
    if (!ds)
        return DATSYNC_E_NOMEM;
    ds->env = env;
    ds->opt = *o;
    if (o->net) {
        ds->net = *o->net;
        ds->has_net = 1;
    }
    ds->pool.limit = o->frame_pool ? o->frame_pool : 32u << 20;
    ds->now = now;
    ds->tick_at = now + 1000;
    ds->book.next_at = NONE;
    ds->sources.met_at = NONE;
    env.random(env.ctx, ds->id, 32);
    env.random(env.ctx, ds->book.key, sizeof ds->book.key);
    if (ds_copy_extensions(ds) < 0) {
        mem_free(&env, ds);
        return DATSYNC_E_NOMEM;
    }
    *out = ds;
    return 0;
}

int datsync_free(datsync *ds)
{
    int r = 0;
    if (!ds)
        return 0;
    datsync_env env = ds->env;
    ds->opt.on_event = NULL;
    sources_stop(ds);
    while (ds->links) {
        link *l = ds->links;
        link_leave(l);
        link_close(ds, l);
    }
    addresses_free(ds);
    listeners_close(ds);
    int k;
    for (size_t i = 0; i < ds->feed_count; i++)
        if (!ds->feeds[i].failed && (k = datsync_feed_flush(ds->feeds[i].feed)) < 0 && r == 0)
            r = k;
    if ((k = drives_free(ds)) < 0 && r == 0)
        r = k;
    mem_free(&env, ds->fds.v);
    mem_free(&env, ds->listeners.v);
    mem_free(&env, ds->feeds);
    mem_free(&env, (void *)ds->extensions);
    mem_free(&env, ds);
    return r;
}

#endif /* DATSYNC_NO_SYNCHRONIZER */

/* ================================================================ errors ======================================== */

/* The sentence for each error, for people. */

const char *datsync_strerror(int error)
{
    static const struct {
        int error;
        const char *text;
    } list[] = {
        {DATSYNC_OK, "no error"},
        {DATSYNC_E_NOMEM, "out of memory"},
        {DATSYNC_E_INVALID, "an argument is out of its range"},
        {DATSYNC_E_STATE, "not possible in this state"},
        {DATSYNC_E_TOO_BIG, "over a limit of the protocol or of this program"},
        {DATSYNC_E_UNSUPPORTED, "something that this needs was not given, or is not spoken by the remote"},
        {DATSYNC_E_RANDOM, "libsodium could not be initialised"},
        {DATSYNC_E_MORE, "not all that this needs is here yet"},
        {DATSYNC_E_FRAME, "a frame is longer than the protocol allows"},
        {DATSYNC_E_MESSAGE, "a message does not decode"},
        {DATSYNC_E_SPACE, "the buffer is too small"},
        {DATSYNC_E_RLE, "a run-length encoded bitfield is malformed"},
        {DATSYNC_E_NOT_FOUND, "not found"},
        {DATSYNC_E_HASH, "a hash does not match"},
        {DATSYNC_E_SIGNATURE, "a signature does not verify"},
        {DATSYNC_E_NO_SIGNATURE, "a signature is missing"},
        {DATSYNC_E_PROOF, "a proof lacks nodes"},
        {DATSYNC_E_OTHER_FEED, "another feed is stored here"},
        {DATSYNC_E_LOCKED, "another process has this feed open"},
        {DATSYNC_E_READ_ONLY, "this feed cannot be written here: no secret key, or opened for reading"},
        {DATSYNC_E_CORRUPT, "the stored files contradict each other"},
        {DATSYNC_E_KEY, "a key is malformed, or the keys do not belong together"},
        {DATSYNC_E_OVERWRITTEN, "the bitfield's header is zeroed; verify tells what is here without it"},
        {DATSYNC_E_CLOSED, "the connection ended"},
        {DATSYNC_E_PROTOCOL, "the remote broke the protocol"},
        {DATSYNC_E_TIMEOUT, "the remote was silent for too long"},
        {DATSYNC_E_FIRST_FEED, "the remote shares another feed"},
        {DATSYNC_E_SELF, "connected to oneself"},
        {DATSYNC_E_DUPLICATE, "connected to this peer already"},
        {DATSYNC_E_EARLY, "the remote sent too much on a feed that is not open"},
        {DATSYNC_E_DONE, "both sides are done"},
        {DATSYNC_E_UNKNOWN_FEED, "the remote asked for a feed that is not here"},
        {DATSYNC_E_SLOW, "the remote did not take our bytes in time"},
        {DATSYNC_E_BAD_DATA, "the remote sent a block that does not verify"},
        {DATSYNC_E_IO, "input/output error"},
        {DATSYNC_E_NO_SPACE, "no space left"},
        {DATSYNC_E_ACCESS, "permission denied"},
        {DATSYNC_E_NO_ENTRY, "no such file or directory"},
        {DATSYNC_E_IN_USE, "the address is in use"},
        {DATSYNC_E_REFUSED, "the connection was refused"},
        {DATSYNC_E_AGAIN, "nothing to do yet"},
        {DATSYNC_E_ADDRESS, "the address cannot be resolved"},
        {DATSYNC_E_UNREACHABLE, "the address cannot be reached"},
        {DATSYNC_E_HEADER, "this is not a drive: its first block is no header of one"},
        {DATSYNC_E_INDEX, "an entry's index points forward, in a circle or at another folder"},
        {DATSYNC_E_ENTRY, "an entry is malformed, or neither a file nor a folder"},
        {DATSYNC_E_PATH, "not a path that a drive may have"},
        {DATSYNC_E_RANGE, "its offset or size is not that of bytes in the content"},
        {DATSYNC_E_NAME, "the file system cannot hold this name"},
        {DATSYNC_E_LINK, "a symbolic link or special file is in the way"},
        {DATSYNC_E_NOT_FOLDER, "a file is where a folder must be"},
        {DATSYNC_E_IS_FOLDER, "a folder is where a file must be"},
        {DATSYNC_E_CHANGED, "it was changed here and is kept"},
        {DATSYNC_E_BUSY, "it changes while it is read, or another program holds it"},
        {DATSYNC_E_PARTIAL, "not all of it was downloaded"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i].error == error)
            return list[i].text;
    return "unknown error";
}
