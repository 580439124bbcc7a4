/* The test driver: commands on standard input, one a line, one line of answer each. It takes in datsync.c whole, to
 * reach what is static there. Words are separated by one space; bytes are hex, `-` for none of them. An answer is
 * `ok WORD ...` or `error NUMBER SENTENCE | WORD ...`. Every command is told beside its function. All numbered
 * things are freed at the end of the input, so that a leak is a leak of the library.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../datsync.c"

#include <stdarg.h>

#include "base.h"
#include "world.h"

#define THINGS 64

/* ================================================================ words in and out ============================== */

typedef struct text {
    char *at;
    size_t len, cap;
} text;

static text answer;

static void text_need(text *t, size_t more)
{
    if (t->len + more + 1 > t->cap) {
        t->cap = 2 * (t->len + more + 1);
        t->at = must(realloc(t->at, t->cap));
    }
}

static void text_say(text *t, const char *format, ...)
{
    text_need(t, 1024);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->at + t->len, 1024, format, args);
    va_end(args);
    if (n < 0 || n >= 1024)
        die("an answer's word is too long");
    t->len += (size_t)n;
}

static void text_hex(text *t, const uint8_t *bytes, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    text_need(t, 2 * len + 1);
    if (!len)
        t->at[t->len++] = '-';
    for (size_t i = 0; i < len; i++) {
        t->at[t->len++] = digits[bytes[i] >> 4];
        t->at[t->len++] = digits[bytes[i] & 15];
    }
    t->at[t->len] = 0;
}

static void say_number(uint64_t n)
{
    text_say(&answer, " %llu", (unsigned long long)n);
}

static void say_signed(int64_t n)
{
    text_say(&answer, " %lld", (long long)n);
}

static void say_bytes(const uint8_t *bytes, size_t len)
{
    text_say(&answer, " ");
    text_hex(&answer, bytes, len);
}

static uint64_t number(const char *word)
{
    char *end;
    uint64_t n = strtoull(word, &end, 10);
    if (*end || end == word)
        die("not a number");
    return n;
}

/* A number of things in memory: `all` stays all where a size has 32 bits. */
static size_t amount(const char *word)
{
    uint64_t n = number(word);
    return n < SIZE_MAX ? (size_t)n : SIZE_MAX;
}

/* What a command's arguments were decoded to, freed after it. */
static void **temps;
static size_t temp_count, temp_cap;

static void *temp(size_t len)
{
    if (temp_count == temp_cap) {
        temp_cap = temp_cap ? 2 * temp_cap : 64;
        temps = must(realloc(temps, temp_cap * sizeof *temps));
    }
    return temps[temp_count++] = must(malloc(len ? len : 1));
}

static unsigned digit(char c)
{
    if (c >= '0' && c <= '9')
        return (unsigned)(c - '0');
    if (c >= 'a' && c <= 'f')
        return (unsigned)(c - 'a' + 10);
    die("not a hexadecimal digit");
    return 0;
}

/* A buffer of exactly these bytes, so that the sanitizer sees a read beyond them. */
static datsync_bytes bytes_n(const char *word, size_t chars)
{
    datsync_bytes b;
    b.len = chars == 1 && *word == '-' ? 0 : chars / 2;
    uint8_t *to = temp(b.len);
    for (size_t i = 0; i < b.len; i++)
        to[i] = (uint8_t)(digit(word[2 * i]) << 4 | digit(word[2 * i + 1]));
    b.data = to;
    return b;
}

static datsync_bytes bytes(const char *word)
{
    return bytes_n(word, strlen(word));
}

static const uint8_t *bytes_of(const char *word, size_t len)
{
    datsync_bytes b = bytes(word);
    if (b.len != len)
        die("bytes of another size are needed");
    return b.data;
}

/* INDEX:HASH:SIZE */
static datsync_node node_of(const char *word)
{
    const char *a = strchr(word, ':'), *b = a ? strchr(a + 1, ':') : NULL;
    if (!b || b - a != 65)
        die("not a node");
    datsync_node n;
    n.index = strtoull(word, NULL, 10);
    memcpy(n.hash, bytes_n(a + 1, 64).data, 32);
    n.size = number(b + 1);
    return n;
}

static void say_node(const datsync_node *n)
{
    text_say(&answer, " %llu:", (unsigned long long)n->index);
    text_hex(&answer, n->hash, 32);
    text_say(&answer, ":%llu", (unsigned long long)n->size);
}

static size_t thing(const char *word)
{
    uint64_t n = number(word);
    if (n >= THINGS)
        die("there are not so many");
    return (size_t)n;
}

static uint64_t chance_state;

/* ================================================================ plugs ========================================= */

static size_t mem_live, mem_peak;
static uint64_t mem_calls, mem_fail; /* which call from now fails; 0: none */

static void *plug_resize(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    if (size) {
        mem_calls++;
        if (mem_fail && --mem_fail == 0)
            return NULL;
    }
    ptr = counted_resize(ptr, size, &mem_live);
    mem_peak = MAX(mem_peak, mem_live);
    return ptr;
}

static uint8_t random_bytes[4096];
static size_t random_at, random_len;

static void plug_random(void *ctx, void *buf, size_t len)
{
    uint8_t *to = buf;
    (void)ctx;
    while (len--)
        *to++ = random_at < random_len ? random_bytes[random_at++] : (uint8_t)chance(&chance_state);
}

static datsync_env plugs;

/* seed N: of chance from now on.  random HEX: the next bytes that the library asks for */
static int cmd_seed(int n, char **w)
{
    (void)n;
    chance_state = number(w[0]);
    return 0;
}

static int cmd_random(int n, char **w)
{
    datsync_bytes b = bytes(w[0]);
    (void)n;
    if (b.len > sizeof random_bytes)
        die("too many bytes");
    memcpy(random_bytes, b.data, b.len);
    random_at = 0;
    random_len = b.len;
    return 0;
}

/* memory -> bytes now, most since the last call, calls since then.  memory-fail N: the Nth call from now fails */
static int cmd_memory(int n, char **w)
{
    (void)n;
    (void)w;
    say_number(mem_live);
    say_number(mem_peak);
    say_number(mem_calls);
    mem_peak = mem_live;
    mem_calls = 0;
    return 0;
}

static int cmd_memory_fail(int n, char **w)
{
    (void)n;
    say_number(mem_fail); /* 0: the one that was to fail has failed */
    mem_fail = number(w[0]);
    return 0;
}

/* ------------------------------------------------ a disk that can fail, and lose what was not synced */

enum { OP_READ, OP_WRITE, OP_SYNC, OP_TRUNCATE, OP_KINDS };

typedef struct op {
    int kind, part;
    uint64_t offset;
    size_t len;
    uint8_t *data;
} op;

typedef struct disk {
    int used, locked;
    datsync_store inner;
    op *ops; /* all that changed it */
    size_t op_count, op_cap;
    uint64_t calls[OP_KINDS], fail_at; /* which call of fail_kind from now fails; 0: none */
    int fail_kind, fail_error;
} disk;

static disk disks[THINGS];

static int disk_fails(disk *d, int kind)
{
    d->calls[kind]++;
    if (d->fail_at && (d->fail_kind == kind || d->fail_kind == OP_KINDS) && --d->fail_at == 0)
        return d->fail_error;
    return 0;
}

static void disk_note(disk *d, int kind, int part, uint64_t offset, const void *data, size_t len)
{
    if (d->op_count == d->op_cap) {
        d->op_cap = d->op_cap ? 2 * d->op_cap : 64;
        d->ops = must(realloc(d->ops, d->op_cap * sizeof *d->ops));
    }
    op *o = &d->ops[d->op_count++];
    o->kind = kind;
    o->part = part;
    o->offset = offset;
    o->len = len;
    o->data = NULL;
    if (len) {
        o->data = must(malloc(len));
        memcpy(o->data, data, len);
    }
}

static int64_t disk_read(void *ctx, int part, uint64_t offset, void *buf, size_t len)
{
    disk *d = ctx;
    int r = disk_fails(d, OP_READ);
    return r < 0 ? r : d->inner.read(d->inner.ctx, part, offset, buf, len);
}

static int disk_write(void *ctx, int part, uint64_t offset, const void *buf, size_t len)
{
    disk *d = ctx;
    int r = disk_fails(d, OP_WRITE);
    if (r < 0)
        len /= 2; /* as a full disk does, it takes a part */
    if (len || r == 0) {
        disk_note(d, OP_WRITE, part, offset, buf, len);
        if (d->inner.write(d->inner.ctx, part, offset, buf, len) < 0)
            die("the disk is out of memory");
    }
    return r;
}

static int64_t disk_size(void *ctx, int part)
{
    disk *d = ctx;
    return d->inner.size(d->inner.ctx, part);
}

static int disk_truncate(void *ctx, int part, uint64_t size)
{
    disk *d = ctx;
    int r = disk_fails(d, OP_TRUNCATE);
    if (r < 0)
        return r;
    disk_note(d, OP_TRUNCATE, part, size, NULL, 0);
    return d->inner.truncate(d->inner.ctx, part, size);
}

static int disk_sync(void *ctx, int part)
{
    disk *d = ctx;
    int r = disk_fails(d, OP_SYNC);
    if (r < 0)
        return r;
    disk_note(d, OP_SYNC, part, 0, NULL, 0);
    return 0;
}

static int disk_lock(void *ctx)
{
    disk *d = ctx;
    if (d->locked)
        return DATSYNC_E_LOCKED;
    d->locked = 1;
    return 0;
}

static void disk_close(void *ctx)
{
    disk *d = ctx;
    d->locked = 0;
}

static void disk_free(disk *d)
{
    if (!d->used)
        return;
    for (size_t i = 0; i < d->op_count; i++)
        free(d->ops[i].data);
    free(d->ops);
    d->inner.close(d->inner.ctx);
    memset(d, 0, sizeof *d);
}

static disk *disk_new(size_t number_of)
{
    disk *d = &disks[number_of];
    if (d->used && d->locked)
        die("this disk is open");
    disk_free(d);
    d->used = 1;
    if (datsync_memory_store(NULL, &d->inner) < 0)
        die("out of memory");
    return d;
}

static disk *disk_of(const char *word)
{
    disk *d = &disks[thing(word)];
    if (!d->used)
        die("no such disk");
    return d;
}

static datsync_store disk_store(disk *d)
{
    datsync_store s;
    memset(&s, 0, sizeof s);
    s.ctx = d;
    s.read = disk_read;
    s.write = disk_write;
    s.size = disk_size;
    s.truncate = disk_truncate;
    s.sync = disk_sync;
    s.lock = disk_lock;
    s.close = disk_close;
    return s;
}

/* disk D: a new one, empty */
static int cmd_disk(int n, char **w)
{
    (void)n;
    (void)disk_new(thing(w[0]));
    return 0;
}

/* disk-set D PART HEX: replace a part */
static int cmd_disk_set(int n, char **w)
{
    disk *d = disk_of(w[0]);
    datsync_bytes b = bytes(w[2]);
    int part = (int)number(w[1]), r = d->inner.truncate(d->inner.ctx, part, 0);
    (void)n;
    return r < 0 ? r : d->inner.write(d->inner.ctx, part, 0, b.data, b.len);
}

/* disk-get D PART -> its bytes; error if it is not there */
static int cmd_disk_get(int n, char **w)
{
    disk *d = disk_of(w[0]);
    int part = (int)number(w[1]);
    int64_t size = d->inner.size(d->inner.ctx, part);
    (void)n;
    if (size < 0)
        return (int)size;
    uint8_t *buf = temp((size_t)size);
    (void)d->inner.read(d->inner.ctx, part, 0, buf, (size_t)size);
    say_bytes(buf, (size_t)size);
    return 0;
}

/* disk-flip D PART OFFSET MASK */
static int cmd_disk_flip(int n, char **w)
{
    disk *d = disk_of(w[0]);
    uint8_t byte = 0;
    uint64_t offset = number(w[2]);
    (void)n;
    if (d->inner.read(d->inner.ctx, (int)number(w[1]), offset, &byte, 1) != 1)
        return DATSYNC_E_INVALID;
    byte ^= (uint8_t)number(w[3]);
    return d->inner.write(d->inner.ctx, (int)number(w[1]), offset, &byte, 1);
}

/* disk-fail D KIND N ERROR: the Nth read, write, sync, truncate or any fails; 0 ends it. Tells what is left of N. */
static int cmd_disk_fail(int n, char **w)
{
    static const char *const kinds[] = {"read", "write", "sync", "truncate", "any"};
    disk *d = disk_of(w[0]);
    (void)n;
    say_number(d->fail_at);
    for (int i = 0; i <= OP_KINDS; i++)
        if (strcmp(kinds[i], w[1]) == 0)
            d->fail_kind = i;
    d->fail_at = number(w[2]);
    d->fail_error = -(int)number(w[3]);
    return 0;
}

/* disk-calls D -> reads, writes, syncs, truncates since the last time; operations noted in all */
static int cmd_disk_calls(int n, char **w)
{
    disk *d = disk_of(w[0]);
    (void)n;
    for (int i = 0; i < OP_KINDS; i++) {
        say_number(d->calls[i]);
        d->calls[i] = 0;
    }
    say_number(d->op_count);
    return 0;
}

/* disk-cut D COPY N SEED: COPY becomes what D may be after power was lost behind its first N operations: each that was
 * not synced is there, or not, or up to one of its sectors. SEED 0: everything is there (the process was killed); 1:
 * nothing is. */
static int cmd_disk_cut(int n, char **w)
{
    disk *d = disk_of(w[0]), *to = disk_new(thing(w[1]));
    size_t count = amount(w[2]), synced[DATSYNC_PARTS] = {0};
    uint64_t seed = number(w[3]), state = seed * 1000003 + count;
    (void)n;
    count = MIN(count, d->op_count);
    for (size_t i = 0; i < count; i++)
        if (d->ops[i].kind == OP_SYNC)
            synced[d->ops[i].part] = i;
    for (size_t i = 0; i < count; i++) {
        const op *o = &d->ops[i];
        size_t len = o->len;
        if (i >= synced[o->part] && seed) {
            uint64_t what = seed == 1 ? 0 : chance(&state) % 3;
            if (what == 0)
                continue;
            if (what == 1) {
                size_t first = (size_t)(512 - o->offset % 512), sectors = len > first ? (len - first) / 512 + 1 : 0;
                len = sectors ? first + 512 * (size_t)(chance(&state) % sectors) : 0;
            }
        }
        if (o->kind == OP_TRUNCATE)
            (void)to->inner.truncate(to->inner.ctx, o->part, o->offset);
        else if (o->kind == OP_WRITE)
            (void)to->inner.write(to->inner.ctx, o->part, o->offset, o->data, len);
    }
    return 0;
}

/* ================================================================ level 1 ======================================= */

static void say_field(const field *f, const datsync_message *m)
{
    const char *from = (const char *)m + f->at;
    datsync_bytes b;
    datsync_node node;
    uint64_t v;
    size_t at = 0;
    if (f->kind == F_NAMES) {
        while (datsync_next_extension(m, &at, &b) == 1) {
            text_say(&answer, " %u=", f->number);
            text_hex(&answer, b.data, b.len);
        }
    } else if (f->kind == F_NODES) {
        while (datsync_next_node(m, &at, &node) == 1) {
            text_say(&answer, " %u=%llu:", f->number, (unsigned long long)node.index);
            text_hex(&answer, node.hash, 32);
            text_say(&answer, ":%llu", (unsigned long long)node.size);
        }
    } else if (f->kind == F_BYTES) {
        memcpy(&b, from, sizeof b);
        text_say(&answer, " %u=", f->number);
        text_hex(&answer, b.data, b.len);
    } else {
        memcpy(&v, from, sizeof v);
        text_say(&answer, " %u=%llu", f->number, (unsigned long long)v);
    }
}

static void say_message(const datsync_message *m)
{
    if (m->type == DATSYNC_EXTENSION) {
        text_say(&answer, " id=%llu payload=", (unsigned long long)m->u.extension.id);
        text_hex(&answer, m->u.extension.payload.data, m->u.extension.payload.len);
    } else if (m->type >= 0 && m->type <= DATSYNC_DATA) {
        for (size_t i = 0; i < shapes[m->type].count; i++)
            if (m->has >> shapes[m->type].fields[i].number & 1)
                say_field(&shapes[m->type].fields[i], m);
    }
}

/* decode HEX -> bytes taken, type, channel, FIELD=VALUE ... with the field's number.
 * An error is followed by type, channel and the bytes to skip. */
static int cmd_decode(int n, char **w)
{
    datsync_message m;
    datsync_bytes b = bytes(w[0]);
    size_t skip = 0;
    int64_t r = datsync_decode(&m, b.data, b.len, &skip);
    (void)n;
    if (r >= 0)
        say_signed(r);
    text_say(&answer, " %d %u", m.type, m.channel);
    if (r < 0)
        say_number(skip);
    else
        say_message(&m);
    return r < 0 ? (int)r : 0;
}

/* TYPE CHANNEL FIELD=VALUE ... of which what it points to is kept until the command ends */
static void message_of(datsync_message *m, int n, char **w)
{
    size_t most = (size_t)n;
    datsync_node *nodes = temp(most * sizeof *nodes);
    datsync_bytes *names = temp(most * sizeof *names);
    memset(m, 0, sizeof *m);
    m->type = (int)number(w[0]);
    m->channel = (unsigned)number(w[1]);
    for (int i = 2; i < n; i++) {
        char *value = strchr(w[i], '=');
        if (!value)
            die("FIELD=VALUE");
        *value++ = 0;
        if (m->type == DATSYNC_EXTENSION) {
            if (strcmp(w[i], "id") == 0)
                m->u.extension.id = number(value);
            else
                m->u.extension.payload = bytes(value);
            continue;
        }
        const field *f = field_find(shapes[m->type].fields, shapes[m->type].count, number(w[i]));
        if (!f)
            die("no such field");
        m->has |= 1u << f->number;
        if (f->kind == F_NODES) {
            nodes[m->u.data.node_count++] = node_of(value);
        } else if (f->kind == F_NAMES) {
            names[m->u.handshake.extension_count++] = bytes(value);
        } else if (f->kind == F_BYTES) {
            datsync_bytes b = bytes(value);
            memcpy((char *)m + f->at, &b, sizeof b);
        } else {
            uint64_t v = number(value);
            memcpy((char *)m + f->at, &v, sizeof v);
        }
    }
    if (m->type == DATSYNC_DATA)
        m->u.data.nodes = nodes;
    if (m->type == DATSYNC_HANDSHAKE)
        m->u.handshake.extensions = names;
}

static int encode_say(const datsync_message *m)
{
    int64_t size = datsync_encode(m, NULL, 0, NULL);
    size_t gap = 0;
    if (size < 0)
        return (int)size;
    uint8_t *buf = temp((size_t)size);
    int64_t r = datsync_encode(m, buf, (size_t)size, &gap);
    if (r != size || (size > 1 && datsync_encode(m, buf, (size_t)size - 1, &gap) != DATSYNC_E_SPACE))
        die("the encoder contradicts itself about a size");
    r = datsync_encode(m, buf, (size_t)size, &gap);
    say_bytes(buf, (size_t)r);
    return 0;
}

/* encode TYPE CHANNEL FIELD=VALUE ... -> the frame */
static int cmd_encode(int n, char **w)
{
    datsync_message m;
    message_of(&m, n, w);
    return encode_say(&m);
}

/* recode HEX: decode and encode again */
static int cmd_recode(int n, char **w)
{
    datsync_message m;
    datsync_bytes b = bytes(w[0]), *names = temp((b.len + 1) * sizeof *names);
    datsync_node *nodes = temp((b.len / 36 + 1) * sizeof *nodes);
    size_t at = 0, count = 0;
    int64_t r = datsync_decode(&m, b.data, b.len, NULL);
    (void)n;
    if (r < 0)
        return (int)r;
    if (m.type == DATSYNC_HANDSHAKE) {
        while (datsync_next_extension(&m, &at, &names[count]) == 1)
            count++;
        m.u.handshake.extensions = names;
        m.u.handshake.extension_count = count;
    } else if (m.type == DATSYNC_DATA) {
        while (datsync_next_node(&m, &at, &nodes[count]) == 1)
            count++;
        m.u.data.nodes = nodes;
        m.u.data.node_count = count;
    }
    return encode_say(&m);
}

/* What a reader of frames would do with these bytes; every byte string is read to its end. */
static unsigned touch(const uint8_t *buf, size_t len)
{
    datsync_message m;
    size_t skip = 0, at = 0;
    unsigned sum = 0;
    int64_t r = datsync_decode(&m, buf, len, &skip);
    if (r > (int64_t)len || skip > len)
        die("a frame reaches beyond its bytes");
    if (r < 0)
        return 0;
    datsync_bytes name;
    datsync_node node;
    if (m.type == DATSYNC_HANDSHAKE) {
        while (datsync_next_extension(&m, &at, &name) == 1)
            while (name.len)
                sum += name.data[--name.len];
    } else if (m.type == DATSYNC_DATA) {
        while (datsync_next_node(&m, &at, &node) == 1)
            sum += node.hash[31];
        while (m.u.data.value.len)
            sum += m.u.data.value.data[--m.u.data.value.len];
    } else if (m.type == DATSYNC_HAVE && m.u.have.bitfield.data) {
        (void)datsync_rle_size(m.u.have.bitfield.data, m.u.have.bitfield.len, 1 << 20);
    }
    return (sum & 1) + 1;
}

typedef unsigned damage_fn(const uint8_t *buf, size_t len);

/* Every truncation and every flip of one bit, each in a buffer of exactly its size. Returns how many there were. */
static uint64_t damage(datsync_bytes b, damage_fn *fn, uint64_t *accepted)
{
    uint64_t tried = 0;
    for (size_t len = 0; len < b.len; len++, tried++) {
        uint8_t *copy = must(malloc(len ? len : 1));
        memcpy(copy, b.data, len);
        *accepted += fn(copy, len) != 0;
        free(copy);
    }
    for (size_t bit = 0; bit < 8 * b.len; bit++, tried++) {
        uint8_t *copy = must(malloc(b.len));
        memcpy(copy, b.data, b.len);
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
        *accepted += fn(copy, b.len) != 0;
        free(copy);
    }
    return tried;
}

/* damage HEX -> how many damaged forms of a frame were decoded, how many were still messages */
static int cmd_damage(int n, char **w)
{
    uint64_t accepted = 0;
    (void)n;
    say_number(damage(bytes(w[0]), touch, &accepted));
    say_number(accepted);
    return 0;
}

static unsigned touch_rle(const uint8_t *buf, size_t len)
{
    static uint8_t out[65536];
    int64_t size = datsync_rle_size(buf, len, sizeof out);
    if (size < 0)
        return 0;
    if (datsync_rle_decode(buf, len, out, (size_t)size) != size)
        die("the size of a bitfield is not what it decodes to");
    return 1;
}

/* damage-rle HEX: the same for a bitfield's code */
static int cmd_damage_rle(int n, char **w)
{
    uint64_t accepted = 0;
    (void)n;
    say_number(damage(bytes(w[0]), touch_rle, &accepted));
    say_number(accepted);
    return 0;
}

/* frame-size HEX; varint HEX -> taken, value; varint-encode N -> bytes */
static int cmd_frame_size(int n, char **w)
{
    datsync_bytes b = bytes(w[0]);
    int64_t r = datsync_frame_size(b.data, b.len);
    (void)n;
    if (r >= 0)
        say_signed(r);
    return r < 0 ? (int)r : 0;
}

static int cmd_varint(int n, char **w)
{
    datsync_bytes b = bytes(w[0]);
    uint64_t value = 0;
    int r = datsync_varint_decode(b.data, b.len, &value);
    (void)n;
    if (r >= 0) {
        say_signed(r);
        say_number(value);
    }
    return r < 0 ? r : 0;
}

static int cmd_varint_encode(int n, char **w)
{
    uint8_t *out = temp(10);
    (void)n;
    say_bytes(out, (size_t)datsync_varint_encode(out, number(w[0])));
    return 0;
}

/* rle-decode HEX LIMIT -> bits; rle-encode HEX -> code */
static int cmd_rle_decode(int n, char **w)
{
    datsync_bytes b = bytes(w[0]);
    int64_t size = datsync_rle_size(b.data, b.len, amount(w[1]));
    (void)n;
    if (size < 0)
        return (int)size;
    uint8_t *out = temp((size_t)size);
    int64_t r = datsync_rle_decode(b.data, b.len, out, (size_t)size);
    if (r != size || (size && datsync_rle_decode(b.data, b.len, out, (size_t)size - 1) != DATSYNC_E_SPACE))
        die("the size of a bitfield is not what it decodes to");
    say_bytes(out, (size_t)size);
    return 0;
}

static int cmd_rle_encode(int n, char **w)
{
    datsync_bytes b = bytes(w[0]);
    size_t cap = b.len + b.len / 64 + 16;
    uint8_t *out = temp(cap);
    int64_t r = datsync_rle_encode(b.data, b.len, out, cap);
    (void)n;
    if (r >= 0)
        say_bytes(out, (size_t)r);
    return r < 0 ? (int)r : 0;
}

/* cipher KEY NONCE OFFSET PIECE HEX: in pieces of so many bytes (0: at once) */
static int cmd_cipher(int n, char **w)
{
    size_t piece = amount(w[3]), at = 0;
    datsync_bytes b = bytes(w[4]);
    uint8_t *buf = temp(b.len);
    (void)n;
    memcpy(buf, b.data, b.len);
    datsync_cipher c;
    datsync_cipher_init(&c, bytes_of(w[0], 32), bytes_of(w[1], 24));
    c.at = number(w[2]);
    while (at < b.len) {
        size_t k = piece ? MIN(piece, b.len - at) : b.len;
        datsync_cipher_xor(&c, buf + at, k);
        at += k;
    }
    say_bytes(buf, b.len);
    return 0;
}

/* discovery KEY; link HEX (of the text) -> key; leaf HEX; parent NODE NODE; root NODE ... */
static int cmd_discovery(int n, char **w)
{
    (void)n;
    uint8_t out[32];
    datsync_discovery_key(out, bytes_of(w[0], 32));
    say_bytes(out, 32);
    return 0;
}

static int cmd_link(int n, char **w)
{
    datsync_bytes b = bytes(w[0]);
    char *link_text = temp(b.len + 1);
    (void)n;
    memcpy(link_text, b.data, b.len);
    link_text[b.len] = 0;
    uint8_t key[32];
    int r = datsync_parse_link(key, link_text);
    if (r == 0)
        say_bytes(key, 32);
    return r;
}

/* key, version, path */
static int cmd_link_parts(int n, char **w)
{
    datsync_bytes b = bytes(w[0]);
    char *link_text = temp(b.len + 1), *path = temp(b.len + 1);
    (void)n;
    memcpy(link_text, b.data, b.len);
    link_text[b.len] = 0;
    uint64_t version;
    uint8_t key[32];
    int r = datsync_link_parse(link_text, key, &version, path, b.len + 1);
    if (r == 0) {
        say_bytes(key, 32);
        say_number(version);
        say_bytes((const uint8_t *)path, strlen(path));
    }
    return r;
}

static int cmd_leaf(int n, char **w)
{
    datsync_bytes b = bytes(w[0]);
    (void)n;
    datsync_node node;
    datsync_leaf_hashes(&node, &b, 1);
    say_bytes(node.hash, 32);
    return 0;
}

static int cmd_parent(int n, char **w)
{
    datsync_node left = node_of(w[0]), right = node_of(w[1]);
    (void)n;
    datsync_node out;
    datsync_parent_hash(&out, &left, &right);
    say_node(&out);
    return 0;
}

static int cmd_root(int n, char **w)
{
    datsync_node *nodes = temp((size_t)n * sizeof *nodes);
    for (int i = 0; i < n; i++)
        nodes[i] = node_of(w[i]);
    uint8_t out[32];
    datsync_root_hash(out, nodes, (size_t)n);
    say_bytes(out, 32);
    return 0;
}

/* flat INDEX -> depth, parent, sibling, left span, right span; roots BLOCKS -> full roots */
static int cmd_flat(int n, char **w)
{
    uint64_t i = number(w[0]);
    (void)n;
    say_number(datsync_flat_depth(i));
    say_number(datsync_flat_parent(i));
    say_number(datsync_flat_sibling(i));
    say_number(datsync_flat_left_span(i));
    say_number(datsync_flat_right_span(i));
    return 0;
}

static int cmd_roots(int n, char **w)
{
    uint64_t out[64];
    size_t count = datsync_flat_full_roots(out, number(w[0]));
    (void)n;
    for (size_t i = 0; i < count; i++)
        say_number(out[i]);
    return 0;
}

/* ================================================================ feeds ========================================= */

static datsync_feed *feed_at[THINGS];

static datsync_feed *feed_of(const char *word)
{
    datsync_feed *f = feed_at[thing(word)];
    if (!f)
        die("no such feed");
    return f;
}

/* open F WHERE FLAGS KEY SECRET: WHERE is memory, disk:D or dir:PATH; keys `-` for none */
static int cmd_open(int n, char **w)
{
    size_t f = thing(w[0]);
    (void)n;
    if (feed_at[f])
        die("this feed is open");
    datsync_feed_options o;
    memset(&o, 0, sizeof o);
    o.env = &plugs;
    o.flags = (unsigned)number(w[2]);
    if (strncmp(w[1], "disk:", 5) == 0) {
        o.store = disk_store(disk_of(w[1] + 5));
    } else if (strncmp(w[1], "dir:", 4) == 0) {
        int r = datsync_os_store(&o.store, w[1] + 4, NULL, o.flags);
        if (r < 0)
            return r;
    }
    if (strcmp(w[3], "-") != 0)
        o.key = bytes_of(w[3], 32);
    if (strcmp(w[4], "-") != 0)
        o.secret_key = bytes_of(w[4], 64);
    return datsync_feed_open(&feed_at[f], &o);
}

static int cmd_close(int n, char **w)
{
    datsync_feed *f = feed_of(w[0]);
    (void)n;
    feed_at[thing(w[0])] = NULL;
    return datsync_feed_close(f);
}

/* info F -> length, bytes, committed length, writable, static, key, discovery key */
static int cmd_info(int n, char **w)
{
    datsync_feed *f = feed_of(w[0]);
    (void)n;
    say_number(datsync_feed_length(f));
    say_number(datsync_feed_byte_length(f));
    say_number(f->group.durable_length);
    say_signed(datsync_feed_writable(f));
    say_signed(f->is_static);
    say_bytes(datsync_feed_key(f), 32);
    say_bytes(datsync_feed_discovery_key(f), 32);
    return 0;
}

/* append F HEX ... -> length: one batch */
static int cmd_append(int n, char **w)
{
    datsync_bytes *blocks = temp((size_t)n * sizeof *blocks);
    for (int i = 1; i < n; i++)
        blocks[i - 1] = bytes(w[i]);
    int64_t r = datsync_feed_append(feed_of(w[0]), blocks, (size_t)n - 1);
    if (r >= 0)
        say_signed(r);
    return r < 0 ? (int)r : 0;
}

static void keystream(uint8_t *out, size_t len, uint64_t seed, uint64_t index, unsigned purpose)
{
    uint8_t key[32] = {0}, nonce[12] = {0};
    for (int i = 0; i < 8; i++) {
        key[i] = (uint8_t)(seed >> 8 * i);
        nonce[i] = (uint8_t)(index >> 8 * i);
    }
    nonce[8] = (uint8_t)purpose;
    (void)crypto_stream_chacha20_ietf(out, len, nonce, key);
}

/* A block of the vectors' content: see vectors/README.md. */
static datsync_bytes content(uint64_t seed, uint64_t index, uint64_t min, uint64_t max)
{
    uint8_t r[4];
    keystream(r, 4, seed, index, 1);
    datsync_bytes b;
    b.len = (size_t)min;
    if (max > min)
        b.len += (size_t)(((uint32_t)r[3] << 24 | (uint32_t)r[2] << 16 | (uint32_t)r[1] << 8 | r[0]) % (max - min + 1));
    b.data = temp(b.len);
    if (b.len)
        keystream((uint8_t *)(uintptr_t)b.data, b.len, seed, index, 0);
    return b;
}

static int append_content(datsync_feed *f, uint64_t seed, uint64_t count, uint64_t min, uint64_t max, uint64_t batch)
{
    datsync_bytes *blocks = temp((size_t)batch * sizeof *blocks);
    uint64_t done = 0;
    size_t mark = temp_count;
    while (done < count) {
        uint64_t n = MIN(batch, count - done);
        for (uint64_t i = 0; i < n; i++)
            blocks[i] = content(seed, f->length + i, min, max);
        int64_t r = datsync_feed_append(f, blocks, (size_t)n);
        while (temp_count > mark)
            free(temps[--temp_count]);
        if (r < 0)
            return (int)r;
        done += n;
    }
    return 0;
}

/* grow F SEED COUNT MIN MAX BATCH: append content of the vectors */
static int cmd_grow(int n, char **w)
{
    datsync_feed *f = feed_of(w[0]);
    int r = append_content(f, number(w[1]), number(w[2]), number(w[3]), number(w[4]), number(w[5]));
    (void)n;
    if (r == 0)
        say_number(f->length);
    return r;
}

/* keys SEED -> secret key of the vectors' feed */
static int cmd_keys(int n, char **w)
{
    (void)n;
    uint8_t seed[32];
    keystream(seed, 32, number(w[0]), 0, 2);
    uint8_t pk[32], sk[64];
    (void)crypto_sign_seed_keypair(pk, sk, seed);
    say_bytes(sk, 64);
    return 0;
}

static int cmd_finalize(int n, char **w)
{
    (void)n;
    return datsync_feed_finalize(feed_of(w[0]));
}

/* get F INDEX -> bytes, into a buffer of the block's size */
static int cmd_get(int n, char **w)
{
    datsync_feed *f = feed_of(w[0]);
    int64_t size = datsync_feed_block_size(f, number(w[1]));
    uint8_t *buf = temp(size > 0 ? (size_t)size : 0);
    (void)n;
    int64_t r = datsync_feed_get(f, number(w[1]), buf, size > 0 ? (size_t)size : 0);
    if (r >= 0)
        say_bytes(buf, (size_t)r);
    return r < 0 ? (int)r : 0;
}

/* check F SEED MIN MAX -> how many blocks are claimed, and how many of them read as their content */
static int cmd_check(int n, char **w)
{
    datsync_feed *f = feed_of(w[0]);
    uint64_t held = 0, good = 0;
    size_t mark = temp_count;
    (void)n;
    for (uint64_t i = 0; i < bits_length(&f->have); i++) {
        if (!datsync_feed_has(f, i))
            continue;
        datsync_bytes b = content(number(w[1]), i, number(w[2]), number(w[3]));
        uint8_t *buf = temp(b.len);
        held++;
        good += datsync_feed_get(f, i, buf, b.len) == (int64_t)b.len && (!b.len || memcmp(buf, b.data, b.len) == 0);
        while (temp_count > mark)
            free(temps[--temp_count]);
    }
    say_number(held);
    say_number(good);
    return 0;
}

/* held F -> claimed blocks; nodes F -> claimed nodes: START-END ... half open */
static void say_ranges(const bits *b)
{
    uint64_t end = bits_length(b), i = bits_next(b, 0, end, 1);
    while (i < end) {
        uint64_t stop = bits_next(b, i, end, 0);
        text_say(&answer, " %llu-%llu", (unsigned long long)i, (unsigned long long)stop);
        i = bits_next(b, stop, end, 1);
    }
}

static int cmd_held(int n, char **w)
{
    (void)n;
    say_ranges(&feed_of(w[0])->have);
    return 0;
}

static int cmd_nodes(int n, char **w)
{
    (void)n;
    say_ranges(&feed_of(w[0])->nodes);
    return 0;
}

/* node F INDEX -> its node */
static int cmd_node(int n, char **w)
{
    datsync_node node;
    int r = tree_get(feed_of(w[0]), number(w[1]), &node);
    (void)n;
    if (r == 0)
        say_node(&node);
    return r;
}

/* count F START END; missing F; want F START END; unwant F; clear F START END; flush F; tick-feed F NOW */
static int cmd_count(int n, char **w)
{
    (void)n;
    say_number(datsync_feed_count(feed_of(w[0]), number(w[1]), number(w[2])));
    return 0;
}

static int cmd_missing(int n, char **w)
{
    (void)n;
    say_number(datsync_feed_missing(feed_of(w[0])));
    return 0;
}

static int cmd_want(int n, char **w)
{
    (void)n;
    return datsync_feed_want(feed_of(w[0]), number(w[1]), number(w[2]));
}

static int cmd_unwant(int n, char **w)
{
    (void)n;
    datsync_feed_unwant(feed_of(w[0]));
    return 0;
}

static int cmd_clear(int n, char **w)
{
    (void)n;
    return datsync_feed_clear(feed_of(w[0]), number(w[1]), number(w[2]));
}

static int cmd_flush(int n, char **w)
{
    (void)n;
    return datsync_feed_flush(feed_of(w[0]));
}

static int cmd_tick_feed(int n, char **w)
{
    int r = datsync_feed_tick(feed_of(w[0]), number(w[1]));
    (void)n;
    say_signed(r);
    return r < 0 ? r : 0;
}

/* seek F OFFSET -> block, offset inside */
static int cmd_seek(int n, char **w)
{
    uint64_t index = 0, inside = 0;
    int r = datsync_feed_seek(feed_of(w[0]), number(w[1]), &index, &inside);
    (void)n;
    if (r == 0) {
        say_number(index);
        say_number(inside);
    }
    return r;
}

/* digests F START END */
static int cmd_digests(int n, char **w)
{
    datsync_feed *f = feed_of(w[0]);
    (void)n;
    for (uint64_t i = number(w[1]); i < number(w[2]); i++)
        say_number(datsync_feed_digest(f, i));
    return 0;
}

/* proof F INDEX DIGEST HASH -> length, signature, nodes */
static int cmd_proof(int n, char **w)
{
    datsync_proof p;
    int r = datsync_feed_proof(feed_of(w[0]), number(w[1]), number(w[2]), (int)number(w[3]), &p);
    (void)n;
    if (r < 0)
        return r;
    say_number(p.length);
    say_bytes(p.signature, p.has_signature ? 64 : 0);
    for (size_t i = 0; i < p.node_count; i++)
        say_node(&p.nodes[i]);
    return 0;
}

/* put F INDEX VALUE|none SIGNATURE|- NODE ... -> 1 if it is new */
static int cmd_put(int n, char **w)
{
    datsync_proof p;
    datsync_bytes value = {NULL, 0};
    memset(&p, 0, sizeof p);
    if (strcmp(w[2], "none") != 0)
        value = bytes(w[2]);
    if (strcmp(w[3], "-") != 0) {
        p.has_signature = 1;
        memcpy(p.signature, bytes_of(w[3], 64), 64);
    }
    for (int i = 4; i < n; i++)
        p.nodes[p.node_count++] = node_of(w[i]);
    int r = datsync_feed_put(feed_of(w[0]), number(w[1]), value, &p);
    if (r >= 0)
        say_signed(r);
    return r < 0 ? r : 0;
}

static int give(datsync_feed *to, datsync_feed *from, uint64_t index, int hash)
{
    datsync_proof p;
    datsync_bytes value = {NULL, 0};
    int r = datsync_feed_proof(from, index, datsync_feed_digest(to, index), hash, &p);
    if (r < 0)
        return r;
    if (!hash) {
        int64_t size = datsync_feed_block_size(from, index);
        uint8_t *buf = temp((size_t)MAX(size, 0));
        if (size >= 0)
            size = datsync_feed_get(from, index, buf, (size_t)size);
        if (size < 0)
            return (int)size;
        value.data = buf;
        value.len = (size_t)size;
    }
    return datsync_feed_put(to, index, value, &p);
}

/* give F G HASH INDEX ...: blocks (or hashes) from G to F, each with F's digest; ends at the first error */
static int cmd_give(int n, char **w)
{
    int i, r = 0;
    for (i = 3; i < n && r >= 0; i++)
        r = give(feed_of(w[0]), feed_of(w[1]), number(w[i]), (int)number(w[2]));
    say_signed(i - 3);
    return r < 0 ? r : 0;
}

static void note_fault(void *ctx, uint64_t index, int part)
{
    (void)ctx;
    text_say(&answer, " %llu:%d", (unsigned long long)index, part);
}

/* audit F -> INDEX:PART of each fault, then how many blocks are good */
static int cmd_audit(int n, char **w)
{
    int64_t r = datsync_feed_verify(feed_of(w[0]), note_fault, NULL);
    (void)n;
    if (r >= 0)
        say_signed(r);
    return r < 0 ? (int)r : 0;
}

/* claim F START END VALUE: as if these blocks had come, with their leaves.  entry F SIZE: of the bitfield's pages.
 * page F PAGE -> a page of the bitfield.  blocks F -> the length that the nodes stand for. */
static int cmd_claim(int n, char **w)
{
    datsync_feed *f = feed_of(w[0]);
    int value = (int)number(w[3]), r = 0;
    (void)n;
    for (uint64_t i = number(w[1]); i < number(w[2]) && r >= 0; i++) {
        r = block_claim(f, i, value);
        if (r >= 0 && value)
            r = tree_claim(f, 2 * i);
    }
    return r < 0 ? r : 0;
}

static int cmd_claim_node(int n, char **w)
{
    datsync_feed *f = feed_of(w[0]);
    int r = 0;
    (void)n;
    for (uint64_t i = number(w[1]); i < number(w[2]) && r >= 0; i++)
        r = tree_claim(f, i);
    return r;
}

static int cmd_entry(int n, char **w)
{
    (void)n;
    feed_of(w[0])->bitfield.entry = amount(w[1]);
    return 0;
}

static int cmd_page(int n, char **w)
{
    datsync_feed *f = feed_of(w[0]);
    uint8_t *buf = temp(f->bitfield.entry);
    (void)n;
    bitfield_page(f, number(w[1]), buf);
    say_bytes(buf, f->bitfield.entry);
    return 0;
}

static int cmd_blocks(int n, char **w)
{
    (void)n;
    say_number(tree_blocks(feed_of(w[0])));
    return 0;
}

/* unclaim F: forget all claims, so that the feed holds nothing in memory (digest vectors start from here) */
static int cmd_unclaim(int n, char **w)
{
    datsync_feed *f = feed_of(w[0]);
    (void)n;
    bits_free(&f->env, &f->have);
    bits_free(&f->env, &f->nodes);
    bits_free(&f->env, &f->bitfield.dirty);
    return 0;
}

/* ================================================================ peers ========================================= */

typedef struct peer_slot {
    datsync_peer *peer;
    text events;
    uint64_t *script; /* blocks to be asked for, in this order */
    size_t script_count;
    int scripted;
} peer_slot;

static peer_slot peer_at[THINGS];
static struct datsync_pool the_pool;

static peer_slot *peer_of(const char *word)
{
    peer_slot *s = &peer_at[thing(word)];
    if (!s->peer)
        die("no such peer");
    return s;
}

static void note_peer_event(void *ctx, datsync_peer *peer, const datsync_peer_event *e)
{
    static const char *const names[] = {"feed",   "handshake", "have",      "block",
                                        "upload", "reject",    "extension", "finished"};
    text *t = &((peer_slot *)ctx)->events;
    (void)peer;
    if (t->len > 1000000)
        return;
    text_say(t, " %s", names[e->type]);
    if (e->type == DATSYNC_PEER_FEED) {
        text_say(t, ":");
        text_hex(t, e->discovery_key, 32);
    } else if (e->type == DATSYNC_PEER_EXTENSION) {
        text_say(t, ":%s:", e->name);
        text_hex(t, e->payload.data, e->payload.len);
    } else if (e->type != DATSYNC_PEER_HANDSHAKE && e->type != DATSYNC_PEER_FINISHED) {
        text_say(t, ":%llu:%llu", (unsigned long long)e->index, (unsigned long long)e->size);
        if (e->type == DATSYNC_PEER_REJECT)
            text_say(t, ":%d", e->error);
    }
}

static int scripted_block(void *ctx, datsync_peer *peer, datsync_feed *feed, uint64_t *index)
{
    peer_slot *s = ctx;
    for (size_t i = 0; i < s->script_count; i++)
        if (datsync_peer_wants(peer, feed, s->script[i])) {
            *index = s->script[i];
            return 1;
        }
    return 0;
}

static void peer_slot_free(peer_slot *s)
{
    datsync_peer_free(s->peer);
    free(s->events.at);
    free(s->script);
    memset(s, 0, sizeof *s);
}

/* peer P NOW LIVE ACK TIMEOUT ID SCRIPTED [EXTENSION ...]: ID is 32 bytes or `-` */
static int cmd_peer(int n, char **w)
{
    peer_slot *s = &peer_at[thing(w[0])];
    if (s->peer)
        die("this peer is there");
    peer_slot_free(s);
    datsync_peer_options o;
    memset(&o, 0, sizeof o);
    o.env = &plugs;
    o.live = (int)number(w[2]);
    o.ack = (int)number(w[3]);
    o.timeout_ms = (uint32_t)number(w[4]);
    if (strcmp(w[5], "-") != 0)
        memcpy(o.id, bytes_of(w[5], 32), 32);
    o.extensions = (const char *const *)(w + 7);
    o.extension_count = (size_t)n - 7;
    o.pool = &the_pool;
    o.ctx = s;
    o.on_event = note_peer_event;
    s->scripted = (int)number(w[6]);
    if (s->scripted)
        o.next_block = scripted_block;
    return datsync_peer_new(&s->peer, &o, number(w[1]));
}

/* peer-script P INDEX ...: what a scripted peer asks for */
static int cmd_peer_script(int n, char **w)
{
    peer_slot *s = peer_of(w[0]);
    s->script = must(realloc(s->script, (size_t)n * sizeof *s->script));
    s->script_count = 0;
    for (int i = 1; i < n; i++)
        s->script[s->script_count++] = number(w[i]);
    return 0;
}

/* peer-expect P F INDEX ...: as if these had been asked for once, and given up: their answers are still welcome */
static int cmd_peer_expect(int n, char **w)
{
    channel *c = channel_by_feed(peer_of(w[0])->peer, feed_of(w[1]));
    if (!c)
        return DATSYNC_E_STATE;
    for (int i = 2; i < n; i++)
        if (bits_set(&plugs, &c->late, number(w[i]), 1) < 0)
            return DATSYNC_E_NOMEM;
    return 0;
}

/* peer-open P F MODE */
static int cmd_peer_open(int n, char **w)
{
    (void)n;
    return datsync_peer_open(peer_of(w[0])->peer, feed_of(w[1]), (unsigned)number(w[2]));
}

/* peer-in P NOW PIECE HEX -> bytes taken; in pieces of so many bytes (0: at once), the peer's output left where it
 * is */
static int cmd_peer_in(int n, char **w)
{
    datsync_peer *p = peer_of(w[0])->peer;
    size_t piece = amount(w[2]), at = 0;
    datsync_bytes b = bytes(w[3]);
    int64_t r = 0;
    (void)n;
    while (at < b.len && r >= 0) {
        size_t k = piece ? MIN(piece, b.len - at) : b.len;
        r = datsync_peer_input(p, b.data + at, k, number(w[1]));
        if (r == 0)
            break;
        at += (size_t)MAX(r, 0);
    }
    say_number(at);
    return r < 0 ? (int)r : 0;
}

/* peer-out P NOW MOST -> output, up to so many bytes, taken as sent */
static int cmd_peer_out(int n, char **w)
{
    datsync_peer *p = peer_of(w[0])->peer;
    uint64_t now = number(w[1]), most = number(w[2]), done = 0;
    const uint8_t *buf = NULL;
    (void)n;
    text_say(&answer, " ");
    size_t len;
    while (done < most && (len = datsync_peer_output(p, &buf, now)) > 0) {
        len = (size_t)MIN(len, most - done);
        text_hex(&answer, buf, len);
        datsync_peer_sent(p, len, now);
        done += len;
    }
    if (!done)
        text_say(&answer, "-");
    return 0;
}

/* peer-tick P NOW; peer-info P -> error, deadline, wants to read, wants to write, blocks in flight, queued requests,
 * bytes of output waiting */
static int cmd_peer_tick(int n, char **w)
{
    (void)n;
    return datsync_peer_tick(peer_of(w[0])->peer, number(w[1]));
}

static int cmd_peer_info(int n, char **w)
{
    const datsync_peer *p = peer_of(w[0])->peer;
    (void)n;
    say_signed(p->error);
    say_number(datsync_peer_deadline(p));
    say_signed(datsync_peer_want_read(p));
    say_signed(datsync_peer_want_write(p));
    say_number(p->in_flight);
    say_number(p->queue.count);
    say_number(out_pending(p));
    return 0;
}

/* peer-feed P F [INDEX] -> the remote's length, complete, and whether it has that block */
static int cmd_peer_feed(int n, char **w)
{
    const datsync_peer *p = peer_of(w[0])->peer;
    say_number(datsync_peer_remote_length(p, feed_of(w[1])));
    say_signed(datsync_peer_complete(p, feed_of(w[1])));
    if (n > 2)
        say_signed(datsync_peer_remote_has(p, feed_of(w[1]), number(w[2])));
    return 0;
}

/* peer-events P -> what happened since the last time */
static int cmd_peer_events(int n, char **w)
{
    text *t = &peer_of(w[0])->events;
    (void)n;
    text_need(&answer, t->len);
    if (t->len)
        memcpy(answer.at + answer.len, t->at, t->len);
    answer.len += t->len;
    t->len = 0;
    return 0;
}

/* peer-extension P F NAME HEX; peer-send P TYPE CHANNEL FIELD=VALUE ...; peer-free P */
static int cmd_peer_extension(int n, char **w)
{
    (void)n;
    return datsync_peer_extension(peer_of(w[0])->peer, feed_of(w[1]), w[2], bytes(w[3]));
}

static int cmd_peer_send(int n, char **w)
{
    datsync_message m;
    message_of(&m, n - 1, w + 1);
    return datsync_peer_send(peer_of(w[0])->peer, &m);
}

static int cmd_peer_free(int n, char **w)
{
    (void)n;
    peer_slot_free(peer_of(w[0]));
    return 0;
}

static datsync_feed *damage_feed;
static datsync_bytes damage_opening;

/* A peer that has just shaken hands meets these bytes as the rest of the stream, then 2 s pass. */
static unsigned touch_peer(const uint8_t *buf, size_t len)
{
    static const uint8_t nonce[24];
    datsync_peer_options o;
    uint8_t *stream = must(malloc(damage_opening.len + len));
    const uint8_t *out = NULL;
    memset(&o, 0, sizeof o);
    o.env = &plugs;
    o.live = 1;
    datsync_peer *p;
    if (datsync_peer_new(&p, &o, 0) < 0 || datsync_peer_open(p, damage_feed, DATSYNC_DOWNLOAD | DATSYNC_UPLOAD) < 0)
        die("no peer");
    memcpy(stream, damage_opening.data, damage_opening.len);
    memcpy(stream + damage_opening.len, buf, len);
    datsync_cipher c;
    datsync_cipher_init(&c, damage_feed->key, nonce);
    datsync_cipher_xor(&c, stream + 62, damage_opening.len + len - 62);
    int64_t r = datsync_peer_input(p, stream, damage_opening.len + len, 1);
    free(stream);
    size_t n;
    while ((n = datsync_peer_output(p, &out, 2)) > 0)
        datsync_peer_sent(p, n, 2);
    (void)datsync_peer_tick(p, 2000);
    datsync_peer_free(p);
    return r >= 0;
}

/* damage-peer F OPENING HEX -> damaged forms of the frame given to peers, those who went on; OPENING: Feed with a
 * nonce of zeros and Handshake, in the clear */
static int cmd_damage_peer(int n, char **w)
{
    uint64_t accepted = 0;
    (void)n;
    damage_feed = feed_of(w[0]);
    damage_opening = bytes(w[1]);
    say_number(damage(bytes(w[2]), touch_peer, &accepted));
    say_number(accepted);
    return 0;
}

#ifndef DATSYNC_NO_SYNCHRONIZER

/* ================================================================ swarms ======================================== */

#define SWARM 24

typedef struct member {
    datsync *ds;
    datsync_feed *feed;
    uint64_t blocks, rejects, uploads;
    int complete, early, gone; /* early: told complete while blocks below its length were missing */
} member;

static crypto_generichash_state swarm_log; /* of all events, so that two runs can be compared */

static void note_event(void *ctx, datsync *ds, const datsync_event *e)
{
    member *m = ctx;
    (void)ds;
    uint64_t line[4];
    line[0] = (uint64_t)e->type;
    line[1] = e->type == DATSYNC_EV_TICK ? 0 : e->index;
    line[2] = e->type == DATSYNC_EV_BLOCK || e->type == DATSYNC_EV_UPLOAD ? e->size : 0;
    line[3] = (uint64_t)-e->error;
    (void)crypto_generichash_update(&swarm_log, (const uint8_t *)line, sizeof line);
    m->blocks += e->type == DATSYNC_EV_BLOCK;
    m->uploads += e->type == DATSYNC_EV_UPLOAD;
    m->rejects += e->type == DATSYNC_EV_REJECT;
    if (e->type == DATSYNC_EV_COMPLETE) {
        m->complete = 1;
        m->early |= datsync_feed_missing(e->feed) > 0;
    }
}

static void swarm_step(member *m, datsync_net *net, uint64_t now)
{
    datsync_pollfd fds[2 * SWARM + 8];
    size_t n = MIN(datsync_pollfds(m->ds, fds, sizeof fds / sizeof *fds), sizeof fds / sizeof *fds);
    (void)net->poll(net->ctx, fds, n, 0);
    (void)datsync_step(m->ds, fds, n, now);
}

static void swarm_leave(member *m)
{
    if (m->ds && datsync_free(m->ds) < 0)
        die("a member of the swarm could not commit");
    m->ds = NULL;
    m->gone = 1;
}

/* Is every block held by somebody who stays? */
static int swarm_covers(const member *all, size_t count, size_t from, uint64_t blocks)
{
    size_t k;
    for (uint64_t i = 0; i < blocks; i++) {
        for (k = from; k < count && (all[k].gone || !datsync_feed_has(all[k].feed, i)); k++)
            continue;
        if (k == count)
            return 0;
    }
    return 1;
}

/* swarm SEED MEMBERS BLOCKS SIZE HOW MOST: member 0 makes the feed, each further one dials up to three earlier ones and
 * downloads live. HOW: plain; vanish (the maker leaves when the others have every block between them); tamper (member 1
 * holds everything, with every block's bytes damaged). At most MOST virtual milliseconds. -> milliseconds, members
 * that have all and were told so, of whom the content is right, their blocks, rejected blocks, uploads of the maker,
 * members that were told complete too early, hash of all events */
static int cmd_swarm(int n, char **w)
{
    uint64_t seed = number(w[0]), blocks = number(w[2]), size = number(w[3]), most = number(w[5]);
    size_t count = amount(w[1]);
    int vanish = strcmp(w[4], "vanish") == 0, tamper = strcmp(w[4], "tamper") == 0, done = 0;
    uint64_t complete = 0, good = 0, got = 0, rejects = 0, early = 0;
    (void)n;
    if (count > SWARM || count < 2)
        die("a swarm of another size");
    chance_state = seed;
    member all[SWARM];
    memset(all, 0, sizeof all);
    (void)crypto_generichash_init(&swarm_log, NULL, 0, 32);
    datsync_memory_net *net_memory;
    datsync_net net;
    if (datsync_memory_net_new(&net_memory, &plugs, &net) < 0)
        die("no network");
    uint8_t fseed[32];
    keystream(fseed, 32, seed, 0, 2);
    uint8_t sk[64], pk[32];
    (void)crypto_sign_seed_keypair(pk, sk, fseed);
    size_t k;
    datsync_feed_options fo;
    datsync_options o;
    for (k = 0; k < count; k++) {
        memset(&fo, 0, sizeof fo);
        fo.env = &plugs;
        fo.flags = DATSYNC_CREATE;
        fo.key = pk;
        if (k == 0)
            fo.secret_key = sk;
        if (datsync_feed_open(&all[k].feed, &fo) < 0)
            die("no feed");
        if (k == 0 && append_content(all[0].feed, seed, blocks, size, size, 1000) < 0)
            die("no content");
        if (k == 1 && tamper) {
            for (uint64_t i = 0; i < blocks; i++)
                if (give(all[1].feed, all[0].feed, i, 0) < 0)
                    die("no content");
            if (datsync_feed_flush(all[1].feed) < 0)
                die("no content");
            memory_store *s = all[1].feed->store.ctx;
            for (uint64_t i = 0; i < blocks; i++)
                s->part[DATSYNC_PART_DATA].bytes[i * size] ^= 1;
        }
        memset(&o, 0, sizeof o);
        o.env = &plugs;
        o.net = &net;
        o.live = 1;
        o.ctx = &all[k];
        o.on_event = note_event;
        char name[16];
        (void)snprintf(name, sizeof name, "m%u", (unsigned)k);
        if (datsync_new(&all[k].ds, &o, 0) < 0 ||
            datsync_add(all[k].ds, all[k].feed, DATSYNC_DOWNLOAD | DATSYNC_UPLOAD) < 0 ||
            datsync_listen(all[k].ds, name) < 0)
            die("no member");
        char to[16];
        for (size_t j = 0; j < MIN(k, 3); j++) {
            size_t other = k <= 3 ? j : (size_t)(chance(&chance_state) % k);
            (void)snprintf(to, sizeof to, "m%u", (unsigned)other);
            (void)datsync_connect(all[k].ds, to, 0);
        }
    }
    uint64_t now;
    for (now = 0; now < most && !done; now += 5) {
        for (k = 0; k < count; k++)
            if (!all[k].gone)
                swarm_step(&all[k], &net, now);
        if (vanish && !all[0].gone && now % 50 == 0 && swarm_covers(all, count, 1, blocks))
            swarm_leave(&all[0]);
        for (done = 1, k = 1; k < count; k++)
            if (!(tamper && k == 1) && (!all[k].complete || datsync_feed_count(all[k].feed, 0, blocks) < blocks))
                done = 0;
    }
    for (k = 1; k < count; k++) {
        size_t mark = temp_count;
        uint64_t right = 0;
        if (tamper && k == 1)
            continue;
        for (uint64_t i = 0; i < blocks; i++) {
            datsync_bytes b = content(seed, i, size, size);
            uint8_t *buf = temp(b.len);
            right += datsync_feed_get(all[k].feed, i, buf, b.len) == (int64_t)b.len && memcmp(buf, b.data, b.len) == 0;
            while (temp_count > mark)
                free(temps[--temp_count]);
        }
        complete += all[k].complete && datsync_feed_count(all[k].feed, 0, blocks) == blocks;
        early += all[k].early != 0;
        good += right == blocks;
        got += all[k].blocks;
        rejects += all[k].rejects;
    }
    uint8_t hash[32];
    (void)crypto_generichash_final(&swarm_log, hash, 32);
    say_number(now);
    say_number(complete);
    say_number(good);
    say_number(got);
    say_number(rejects);
    say_number(all[0].uploads);
    say_number(early);
    say_bytes(hash, 32);
    for (k = 0; k < count; k++)
        if (!all[k].gone)
            swarm_leave(&all[k]);
    for (k = 0; k < count; k++)
        if (datsync_feed_close(all[k].feed) < 0)
            die("a feed could not be closed");
    datsync_memory_net_free(net_memory);
    return 0;
}

#endif

/* ================================================================ files beneath a folder, and secret keys ======= */

/* Trees and open files are numbered. PATH, DIR, FROM and TO are hex: any bytes but NUL. */
static datsync_files files_at[THINGS];
static struct {
    datsync_files *of;
    intptr_t file;
} file_at[THINGS];
static datsync_secrets secrets_at[THINGS];

static const char *name_of(const char *word)
{
    datsync_bytes b = bytes(word);
    char *to = temp(b.len + 1);
    if (b.len)
        memcpy(to, b.data, b.len);
    to[b.len] = 0;
    return to;
}

static datsync_files *files_of(const char *word)
{
    datsync_files *t = &files_at[thing(word)];
    if (!t->open_file)
        die("no such files");
    return t;
}

/* files.new T DIR FLAGS -> case_folds.  files.free T */
static int cmd_files_new(int n, char **w)
{
    datsync_files *t = &files_at[thing(w[0])];
    (void)n;
    if (t->open_file)
        die("these files are there");
    int r = datsync_os_files(t, name_of(w[1]), (unsigned)number(w[2]));
    if (r == 0)
        say_signed(t->case_folds);
    return r;
}

static int cmd_files_free(int n, char **w)
{
    datsync_files *t = files_of(w[0]);
    (void)n;
    if (t->close)
        t->close(t->ctx);
    memset(t, 0, sizeof *t);
    return 0;
}

/* files.open T F PATH WRITE: file F.  files.close F */
static int cmd_files_open(int n, char **w)
{
    size_t f = thing(w[1]);
    datsync_files *t = files_of(w[0]);
    (void)n;
    if (file_at[f].of)
        die("this file is open");
    int r = t->open_file(t->ctx, name_of(w[2]), (int)number(w[3]), &file_at[f].file);
    if (r == 0)
        file_at[f].of = t;
    return r;
}

static datsync_files *file_of(const char *word)
{
    datsync_files *t = file_at[thing(word)].of;
    if (!t)
        die("no such file is open");
    return t;
}

static int cmd_files_close(int n, char **w)
{
    datsync_files *t = file_of(w[0]);
    (void)n;
    t->close_file(t->ctx, file_at[thing(w[0])].file);
    file_at[thing(w[0])].of = NULL;
    return 0;
}

/* files.read F OFFSET LEN -> bytes.  files.write F OFFSET HEX.  files.truncate F SIZE */
static int cmd_files_read(int n, char **w)
{
    datsync_files *t = file_of(w[0]);
    size_t len = amount(w[2]);
    uint8_t *buf = temp(len);
    int64_t got = t->read(t->ctx, file_at[thing(w[0])].file, number(w[1]), buf, len);
    (void)n;
    if (got < 0)
        return (int)got;
    say_bytes(buf, (size_t)got);
    return 0;
}

static int cmd_files_write(int n, char **w)
{
    datsync_files *t = file_of(w[0]);
    datsync_bytes b = bytes(w[2]);
    (void)n;
    return t->write(t->ctx, file_at[thing(w[0])].file, number(w[1]), b.data, b.len);
}

static int cmd_files_truncate(int n, char **w)
{
    datsync_files *t = file_of(w[0]);
    (void)n;
    return t->truncate(t->ctx, file_at[thing(w[0])].file, number(w[1]));
}

/* files.stat T PATH -> mode, size, mtime */
static int cmd_files_stat(int n, char **w)
{
    datsync_files *t = files_of(w[0]);
    datsync_file_info info;
    int r = t->stat(t->ctx, name_of(w[1]), &info);
    (void)n;
    if (r < 0)
        return r;
    say_number(info.mode);
    say_number(info.size);
    say_number(info.mtime);
    return 0;
}

typedef struct lister {
    datsync_files *of;
    const char *folder;
    size_t left; /* names until it ends the list; 0: none */
} lister;

static int list_name(void *arg, const char *name)
{
    lister *l = arg;
    char *path = temp(strlen(l->folder) + strlen(name) + 2);
    (void)sprintf(path, "%s%s%s", l->folder, *l->folder ? "/" : "", name);
    say_bytes((const uint8_t *)name, strlen(name));
    datsync_file_info info;
    text_say(&answer, ":%d", l->of->stat(l->of->ctx, path, &info));
    return l->left && --l->left == 0 ? 77 : 0;
}

/* files.list T PATH MOST -> NAME:RESULT ..., the result of its stat from inside the list; then what list returned. MOST
 * is 0 or after how many names 77 is returned */
static int cmd_files_list(int n, char **w)
{
    (void)n;
    lister l;
    l.of = files_of(w[0]);
    l.folder = name_of(w[1]);
    l.left = amount(w[2]);
    int r = l.of->list(l.of->ctx, l.folder, list_name, &l);
    if (r >= 0)
        say_signed(r);
    return r;
}

/* files.mkdir T PATH.  files.rename T FROM TO.  files.unlink T PATH.  files.rmdir T PATH */
static int cmd_files_mkdir(int n, char **w)
{
    datsync_files *t = files_of(w[0]);
    (void)n;
    return t->mkdir(t->ctx, name_of(w[1]));
}

static int cmd_files_rename(int n, char **w)
{
    datsync_files *t = files_of(w[0]);
    (void)n;
    return t->rename(t->ctx, name_of(w[1]), name_of(w[2]));
}

static int cmd_files_unlink(int n, char **w)
{
    datsync_files *t = files_of(w[0]);
    (void)n;
    return t->unlink(t->ctx, name_of(w[1]));
}

static int cmd_files_rmdir(int n, char **w)
{
    datsync_files *t = files_of(w[0]);
    (void)n;
    return t->rmdir(t->ctx, name_of(w[1]));
}

/* files.set T PATH MODE MTIME.  files.sync T */
static int cmd_files_set(int n, char **w)
{
    datsync_files *t = files_of(w[0]);
    (void)n;
    return t->set(t->ctx, name_of(w[1]), (uint32_t)number(w[2]), number(w[3]));
}

static int cmd_files_sync(int n, char **w)
{
    datsync_files *t = files_of(w[0]);
    (void)n;
    return t->sync(t->ctx);
}

/* files.fill T PATH COUNT: so many files of one byte, PATH/0, PATH/1, ... */
static int cmd_files_fill(int n, char **w)
{
    datsync_files *t = files_of(w[0]);
    const char *folder = name_of(w[1]);
    uint64_t count = number(w[2]);
    char *path = temp(strlen(folder) + 24);
    (void)n;
    for (uint64_t i = 0; i < count; i++) {
        (void)sprintf(path, "%s/%llu", folder, (unsigned long long)i);
        intptr_t file;
        int r = t->open_file(t->ctx, path, 1, &file);
        if (r < 0)
            return r;
        r = t->write(t->ctx, file, 0, "x", 1);
        t->close_file(t->ctx, file);
        if (r < 0)
            return r;
    }
    return 0;
}

/* secrets.new S DIR: `-` is none.  secrets.save S DISCOVERY SECRET.  secrets.load S DISCOVERY -> secret.
 * secrets.free S */
static int cmd_secrets_new(int n, char **w)
{
    datsync_secrets *s = &secrets_at[thing(w[0])];
    (void)n;
    if (s->load)
        die("these secrets are there");
    return datsync_os_secrets(s, strcmp(w[1], "-") == 0 ? NULL : name_of(w[1]));
}

static datsync_secrets *secrets_of(const char *word)
{
    datsync_secrets *s = &secrets_at[thing(word)];
    if (!s->load)
        die("no such secrets");
    return s;
}

static int cmd_secrets_save(int n, char **w)
{
    datsync_secrets *s = secrets_of(w[0]);
    (void)n;
    return s->save(s->ctx, bytes_of(w[1], 32), bytes_of(w[2], 64));
}

static int cmd_secrets_load(int n, char **w)
{
    datsync_secrets *s = secrets_of(w[0]);
    uint8_t *secret = temp(64);
    int r = s->load(s->ctx, bytes_of(w[1], 32), secret);
    (void)n;
    if (r == 0)
        say_bytes(secret, 64);
    return r;
}

static int cmd_secrets_free(int n, char **w)
{
    datsync_secrets *s = secrets_of(w[0]);
    (void)n;
    if (s->close)
        s->close(s->ctx);
    memset(s, 0, sizeof *s);
    return 0;
}

static void files_end(void)
{
    for (size_t i = 0; i < THINGS; i++)
        if (file_at[i].of)
            file_at[i].of->close_file(file_at[i].of->ctx, file_at[i].file);
    for (size_t i = 0; i < THINGS; i++)
        if (files_at[i].close)
            files_at[i].close(files_at[i].ctx);
    for (size_t i = 0; i < THINGS; i++)
        if (secrets_at[i].close)
            secrets_at[i].close(secrets_at[i].ctx);
}

#ifndef DATSYNC_NO_SYNCHRONIZER

/* ================================================================ the system's network ========================== */

/* Its handles are numbered, whatever they are. An address is three words, or one with colons where it is told: its
 * bytes in hex, a port, the number of an interface. */
static struct {
    intptr_t handle;
    int open;
} net_at[THINGS];

static intptr_t handle_of(const char *word)
{
    size_t n = thing(word);
    if (!net_at[n].open)
        die("no such handle");
    return net_at[n].handle;
}

static datsync_ip ip_of(char **w)
{
    datsync_ip ip;
    datsync_bytes b = bytes(w[0]);
    memset(&ip, 0, sizeof ip);
    if (b.len > sizeof ip.bytes)
        die("an address is not so long");
    if (b.len)
        memcpy(ip.bytes, b.data, b.len);
    ip.size = (uint8_t)b.len;
    ip.port = (uint16_t)number(w[1]);
    ip.via = (uint32_t)number(w[2]);
    return ip;
}

static void say_ip(const datsync_ip *ip)
{
    text_say(&answer, " ");
    text_hex(&answer, ip->bytes, ip->size);
    text_say(&answer, ":%u:%lu", ip->port, (unsigned long)ip->via);
}

/* ip.parse TEXT, in hex -> address.  ip.text ADDRESS -> text, in hex */
static int cmd_ip_parse(int n, char **w)
{
    datsync_ip ip;
    (void)n;
    memset(&ip, 0xff, sizeof ip);
    int r = datsync_ip_parse(&ip, name_of(w[0]));
    if (r == 0)
        say_ip(&ip);
    return r;
}

static int cmd_ip_text(int n, char **w)
{
    datsync_ip ip = ip_of(w);
    char *to = temp(DATSYNC_IP_TEXT);
    (void)n;
    datsync_ip_text(&ip, to);
    say_bytes((const uint8_t *)to, strlen(to));
    return 0;
}

/* net.open N ADDRESS SHARED -> port.  net.close N */
static int cmd_net_open(int n, char **w)
{
    const datsync_net *net = datsync_os_net();
    datsync_ip at = ip_of(w + 1);
    size_t i = thing(w[0]);
    (void)n;
    if (net_at[i].open)
        die("this handle is open");
    int r = net->datagrams(net->ctx, &at, (int)number(w[4]), &net_at[i].handle);
    net_at[i].open = r == 0;
    if (r == 0)
        say_number(at.port);
    return r;
}

static int cmd_net_close(int n, char **w)
{
    const datsync_net *net = datsync_os_net();
    (void)n;
    net->close(net->ctx, handle_of(w[0]));
    net_at[thing(w[0])].open = 0;
    return 0;
}

/* net.wait N EVENTS MS -> what there is of them */
static int cmd_net_wait(int n, char **w)
{
    const datsync_net *net = datsync_os_net();
    datsync_pollfd one;
    (void)n;
    one.handle = handle_of(w[0]);
    one.events = (short)number(w[1]);
    one.revents = 0;
    int r = net->poll(net->ctx, &one, 1, (int)number(w[2]));
    say_signed(one.revents);
    return r < 0 ? r : 0;
}

/* net.receive N CAP -> from, bytes.  net.send N ADDRESS BYTES */
static int cmd_net_receive(int n, char **w)
{
    const datsync_net *net = datsync_os_net();
    size_t cap = amount(w[1]);
    uint8_t *buf = temp(cap);
    datsync_ip from;
    (void)n;
    int64_t got = net->receive_from(net->ctx, handle_of(w[0]), buf, cap, &from);
    if (got < 0)
        return (int)got;
    say_ip(&from);
    say_bytes(buf, (size_t)got);
    return 0;
}

static int cmd_net_send(int n, char **w)
{
    const datsync_net *net = datsync_os_net();
    datsync_ip to = ip_of(w + 1);
    datsync_bytes b = bytes(w[4]);
    (void)n;
    return net->send_to(net->ctx, handle_of(w[0]), b.data, b.len, &to);
}

/* net.join N ADDRESS.  net.leave N ADDRESS */
static int cmd_net_join(int n, char **w)
{
    const datsync_net *net = datsync_os_net();
    datsync_ip group = ip_of(w + 1);
    (void)n;
    return net->join(net->ctx, handle_of(w[0]), &group);
}

static int cmd_net_leave(int n, char **w)
{
    const datsync_net *net = datsync_os_net();
    datsync_ip group = ip_of(w + 1);
    (void)n;
    return net->leave(net->ctx, handle_of(w[0]), &group);
}

/* net.interfaces CAP -> how many, and of each that there was room for its address, prefix, whether it is a loopback and
 * takes multicast, and its name in hex */
static int cmd_net_interfaces(int n, char **w)
{
    const datsync_net *net = datsync_os_net();
    size_t cap = amount(w[0]);
    datsync_interface *list = temp(cap * sizeof *list);
    (void)n;
    int count = net->interfaces(net->ctx, list, cap);
    if (count < 0)
        return count;
    say_signed(count);
    for (size_t i = 0; i < cap && i < (size_t)count; i++) {
        say_ip(&list[i].ip);
        text_say(&answer, ":%u:%u:%u:", list[i].prefix, list[i].loopback, list[i].multicast);
        text_hex(&answer, (const uint8_t *)list[i].name, strlen(list[i].name));
    }
    return 0;
}

/* net.resolve N HOST, in hex.  net.resolved N CAP -> how many, and those that there was room for */
static int cmd_net_resolve(int n, char **w)
{
    const datsync_net *net = datsync_os_net();
    size_t i = thing(w[0]);
    (void)n;
    if (net_at[i].open)
        die("this handle is open");
    int r = net->resolve(net->ctx, name_of(w[1]), &net_at[i].handle);
    net_at[i].open = r == 0;
    return r;
}

static int cmd_net_resolved(int n, char **w)
{
    const datsync_net *net = datsync_os_net();
    size_t cap = amount(w[1]);
    datsync_ip *list = temp(cap * sizeof *list);
    (void)n;
    int count = net->resolved(net->ctx, handle_of(w[0]), list, cap);
    if (count < 0)
        return count;
    say_signed(count);
    for (size_t i = 0; i < cap && i < (size_t)count; i++)
        say_ip(&list[i]);
    return 0;
}

static void net_end(void)
{
    const datsync_net *net = datsync_os_net();
    for (size_t i = 0; i < THINGS; i++)
        if (net_at[i].open)
            net->close(net->ctx, net_at[i].handle);
}

#endif

#ifndef DATSYNC_NO_DRIVE

/* ================================================================ drives ======================================== */

/* Worlds (world.h). PATHs are hex. */

static struct {
    int used;
    world w;
} world_at[THINGS];

static world *world_new(size_t k, int folds)
{
    world *w = &world_at[k].w;
    if (w->open)
        die("this world is open");
    world_free(w);
    world_at[k].used = 1;
    world_init(w, folds);
    return w;
}

static world *world_of(const char *word)
{
    size_t k = thing(word);
    if (!world_at[k].used)
        die("no such world");
    return &world_at[k].w;
}

/* drive.world W FOLDS: an empty one, but for `.dat`; FOLDS 1: it takes A and a for one name */
static int cmd_drive_world(int n, char **w)
{
    static const datsync_bytes none = {NULL, 0};
    (void)n;
    world_put(world_new(thing(w[0]), (int)number(w[1])), ".dat", MODE_FOLDER | 0755u, 0, none);
    return 0;
}

/* drive.write W PATH MODE MTIME BYTES: as the user does; MODE is that of any type, MTIME 0 is now */
static int cmd_drive_write(int n, char **words)
{
    (void)n;
    world_put(world_of(words[0]), name_of(words[1]), (uint32_t)number(words[2]), number(words[3]), bytes(words[4]));
    return 0;
}

/* drive.delete W PATH: as the user does, with everything beneath */
static int cmd_drive_delete(int n, char **words)
{
    (void)n;
    world_delete(world_of(words[0]), name_of(words[1]));
    return 0;
}

/* drive.dump W -> PATH:MODE:MTIME:BYTES of everything */
static int cmd_drive_dump(int n, char **words)
{
    const world *w = world_of(words[0]);
    (void)n;
    for (size_t i = 0; i < w->count; i++) {
        const fs_node *node = w->names[i].node;
        say_bytes((const uint8_t *)w->names[i].path, strlen(w->names[i].path));
        text_say(&answer, ":%u:%llu:", (unsigned)node->mode, (unsigned long long)node->mtime);
        text_hex(&answer, node->data, node->len);
    }
    return 0;
}

/* drive.fail W KIND N ERROR ON: the Nth call of a kind (`any`) fails, with ON all that follow, too; 0 ends it. Tells
 * what is left of N */
static int cmd_drive_fail(int n, char **words)
{
    world *w = world_of(words[0]);
    (void)n;
    say_number(w->fail_at);
    int i;
    for (i = 0; i < FS_KINDS && strcmp(fs_kinds[i], words[1]) != 0; i++)
        continue;
    w->fail_kind = i;
    w->fail_at = number(words[2]);
    w->fail_error = -(int)number(words[3]);
    w->fail_on = (int)number(words[4]);
    return 0;
}

/* drive.calls W -> operations noted in all; KIND=CALLS since the last time */
static int cmd_drive_calls(int n, char **words)
{
    world *w = world_of(words[0]);
    (void)n;
    say_number(w->op_count);
    for (int i = 0; i < FS_KINDS; i++) {
        text_say(&answer, " %s=%llu", fs_kinds[i], (unsigned long long)w->calls[i]);
        w->calls[i] = 0;
    }
    return 0;
}

/* drive.cut W COPY N SEED: COPY becomes what W may be after power was lost behind its first N operations (world_cut) */
static int cmd_drive_cut(int n, char **words)
{
    const world *w = world_of(words[0]);
    world *to = world_new(thing(words[1]), w->folds);
    (void)n;
    if (w == to)
        die("a copy of itself");
    world_cut(w, to, amount(words[2]), number(words[3]));
    return 0;
}

/* ------------------------------------------------ drives */

typedef struct sharing {
    datsync_drive *drive;
    datsync *ds;
    text events;
    uint64_t blocks, uploads, versions, failed;
    char select[64];
    int lent;
} sharing;

static sharing drive_at[THINGS];
static datsync_memory_net *drive_net_memory;
static datsync_net drive_net;
static uint64_t drive_now;
static datsync_env drive_plain; /* not counted, and never failing */

static datsync_drive *drive_of(const char *word)
{
    datsync_drive *d = drive_at[thing(word)].drive;
    if (!d)
        die("no such drive");
    return d;
}

/* drive.open D WHERE FLAGS KEY SECRET ENV: WHERE is memory (without files), world:W or dir:PATH:SECRETS. ENV 1:
 * memory-fail and memory are about this one */
static int cmd_drive_open(int n, char **w)
{
    size_t k = thing(w[0]);
    int r = 0;
    (void)n;
    if (drive_at[k].drive)
        die("this drive is open");
    memset(&drive_at[k], 0, sizeof drive_at[k]);
    datsync_drive_options o;
    memset(&o, 0, sizeof o);
    drive_plain.random = plug_random;
    o.env = number(w[5]) ? &plugs : &drive_plain;
    o.flags = (unsigned)number(w[2]);
    if (strcmp(w[3], "-") != 0)
        o.key = bytes_of(w[3], 32);
    if (strcmp(w[4], "-") != 0)
        o.secret_key = bytes_of(w[4], 64);
    if (strncmp(w[1], "world:", 6) == 0) {
        world *of = world_of(w[1] + 6);
        o.metadata = world_store(of, 0);
        o.content = world_store(of, 1);
        o.files = world_files(of);
        o.secrets = world_secrets(of);
    } else if (strncmp(w[1], "dir:", 4) == 0) {
        char *dir = w[1] + 4, *secrets = strchr(dir, ':');
        if (!secrets)
            die("where are the secrets?");
        *secrets++ = 0;
        const char *folder = name_of(dir);
        char *inside = temp(strlen(folder) + 8);
        (void)sprintf(inside, "%s/.dat", folder);
        r = datsync_os_files(&o.files, folder, o.flags);
        r = r < 0 ? r : datsync_os_store(&o.metadata, inside, "metadata.", o.flags);
        r = r < 0 ? r : datsync_os_store(&o.content, inside, "content.", o.flags);
        r = r < 0 ? r : datsync_os_secrets(&o.secrets, name_of(secrets));
        if (r < 0)
            die("the folder can't be opened");
    }
    return datsync_drive_open(&drive_at[k].drive, &o);
}

static int drive_end(sharing *s)
{
    datsync_drive *d = s->drive;
    int r = s->ds ? datsync_free(s->ds) : 0;
    for (size_t i = 0; i < THINGS && d && s->lent; i++)
        if (feed_at[i] && (feed_at[i] == d->metadata || feed_at[i] == d->content))
            feed_at[i] = NULL;
    int k = datsync_drive_close(d);
    free(s->events.at);
    memset(s, 0, sizeof *s);
    return r < 0 ? r : k;
}

/* drive.close D */
static int cmd_drive_close(int n, char **w)
{
    (void)n;
    (void)drive_of(w[0]);
    return drive_end(&drive_at[thing(w[0])]);
}

/* drive.flush D */
static int cmd_drive_flush(int n, char **w)
{
    (void)n;
    return datsync_drive_flush(drive_of(w[0]));
}

/* drive.feeds D F [G]: the metadata as feed F, the content as feed G, until the drive is closed */
static int cmd_drive_feeds(int n, char **w)
{
    datsync_drive *d = drive_of(w[0]);
    drive_at[thing(w[0])].lent = 1;
    feed_at[thing(w[1])] = datsync_drive_metadata(d);
    if (n > 2)
        feed_at[thing(w[2])] = datsync_drive_content(d);
    return 0;
}

/* drive.info D -> version, laid out, writable, archive, key, content key */
static int cmd_drive_info(int n, char **w)
{
    datsync_drive *d = drive_of(w[0]);
    datsync_feed *content_feed = datsync_drive_content(d);
    (void)n;
    say_number(datsync_drive_version(d));
    say_number(datsync_drive_laid_out(d));
    say_signed(datsync_drive_writable(d));
    say_signed(datsync_drive_archive(d));
    say_bytes(datsync_feed_key(datsync_drive_metadata(d)), 32);
    say_bytes(content_feed ? datsync_feed_key(content_feed) : NULL, content_feed ? 32 : 0);
    return 0;
}

static void say_entry(const datsync_entry *e)
{
    const datsync_stat *s = &e->stat;
    const uint64_t v[] = {e->version, (uint64_t)e->deleted, s->mode,  s->uid,  s->gid, s->size, s->blocks,
                          s->offset,  s->byte_offset,       s->mtime, s->ctime};
    text_say(&answer, " ");
    text_hex(&answer, (const uint8_t *)e->path, strlen(e->path));
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        text_say(&answer, ":%llu", (unsigned long long)v[i]);
    text_say(&answer, ":%d", e->error);
}

/* drive.entry D NUMBER and drive.find D VERSION PATH [HERE] -> PATH:VERSION:DELETED:(the Stat's nine):ERROR; error
 * -20 tells the block that is needed, or with HERE 1 the newest entry that is here, if there is one */
static int cmd_drive_entry(int n, char **w)
{
    datsync_entry e;
    uint64_t needed = 0;
    int r = datsync_drive_entry(drive_of(w[0]), number(w[1]), &e, &needed);
    (void)n;
    if (r == 0)
        say_entry(&e);
    else if (r == DATSYNC_E_MORE)
        say_number(needed);
    return r;
}

static int cmd_drive_find(int n, char **w)
{
    datsync_entry e;
    uint64_t needed = 0;
    int here = n > 3 && number(w[3]);
    memset(&e, 0xee, sizeof e);
    int r = datsync_drive_find(drive_of(w[0]), number(w[1]), name_of(w[2]), &e, here ? NULL : &needed);
    if (r == 0 || (r == DATSYNC_E_MORE && here && e.path))
        say_entry(&e);
    else if (r == DATSYNC_E_MORE)
        say_number(needed);
    return r;
}

static int drive_listed(void *ctx, const datsync_entry *e)
{
    uint64_t *stop = ctx;
    say_entry(e);
    return *stop && --*stop == 0 ? 77 : 0;
}

/* drive.list D VERSION PATH DEEP [STOP [HERE]] -> what it returned or the block that is needed, last; before it each
 * entry as find tells it. STOP: after how many of them 77 is returned. HERE 1: what is here will do, nothing is
 * needed */
static int cmd_drive_list(int n, char **w)
{
    uint64_t needed = 0, stop = n > 4 ? number(w[4]) : 0;
    int r = datsync_drive_list(drive_of(w[0]), number(w[1]), name_of(w[2]), (int)number(w[3]), drive_listed, &stop,
                               n > 5 && number(w[5]) ? NULL : &needed);
    if (r == DATSYNC_E_MORE)
        say_number(needed);
    else if (r >= 0)
        say_signed(r);
    return r;
}

/* drive.read D VERSION PATH OFFSET LEN -> bytes */
static int cmd_drive_read(int n, char **w)
{
    datsync_drive *d = drive_of(w[0]);
    datsync_entry e;
    size_t len = amount(w[4]);
    uint8_t *buf = temp(len);
    int64_t got = datsync_drive_find(d, number(w[1]), name_of(w[2]), &e, NULL);
    (void)n;
    if (got == 0)
        got = datsync_drive_read(d, &e, number(w[3]), buf, len);
    if (got < 0)
        return (int)got;
    say_bytes(buf, (size_t)got);
    return 0;
}

typedef struct giving {
    datsync_bytes left;
    size_t step;
    int error; /* in place of the end */
} giving;

static int64_t give_bytes(void *ctx, void *buf, size_t len)
{
    giving *g = ctx;
    size_t k = MIN(MIN(len, g->left.len), g->step);
    if (!k && g->error)
        return g->error;
    if (k)
        memcpy(buf, g->left.data, k);
    g->left.data += k;
    g->left.len -= k;
    return (int64_t)k;
}

/* drive.put D PATH MODE UID GID MTIME CTIME BYTES STEP ERROR -> version. BYTES are given STEP at a time (0: no
 * reader), with ERROR at their end */
static int cmd_drive_put(int n, char **w)
{
    (void)n;
    datsync_stat s;
    memset(&s, 0, sizeof s);
    s.mode = (uint32_t)number(w[2]);
    s.uid = (uint32_t)number(w[3]);
    s.gid = (uint32_t)number(w[4]);
    s.mtime = number(w[5]);
    s.ctime = number(w[6]);
    s.size = s.blocks = s.offset = s.byte_offset = 99; /* these don't count */
    giving g;
    g.left = bytes(w[7]);
    g.step = amount(w[8]);
    g.error = -(int)number(w[9]);
    int64_t r = datsync_drive_put(drive_of(w[0]), name_of(w[1]), &s, g.step ? give_bytes : NULL, &g);
    if (r >= 0)
        say_signed(r);
    return r < 0 ? (int)r : 0;
}

/* drive.remove D PATH -> version */
static int cmd_drive_remove(int n, char **w)
{
    int64_t r = datsync_drive_remove(drive_of(w[0]), name_of(w[1]));
    (void)n;
    if (r >= 0)
        say_signed(r);
    return r < 0 ? (int)r : 0;
}

typedef struct import_probe {
    uint64_t stop;
    int count;
    char **ignore;
} import_probe;

static int import_noted(void *ctx, const datsync_import_event *e)
{
    import_probe *p = ctx;
    text_say(&answer, " %d:%llu:%llu:%d:", e->change, (unsigned long long)e->size, (unsigned long long)e->done,
             e->error);
    text_hex(&answer, (const uint8_t *)e->path, strlen(e->path));
    return p->stop && --p->stop == 0;
}

static int import_ignored(void *ctx, const char *path, int folder)
{
    import_probe *p = ctx;
    (void)folder;
    for (int i = 0; i < p->count; i++)
        if (strcmp(name_of(p->ignore[i]), path) == 0)
            return 1;
    return 0;
}

static int import_is_ready(void *ctx, const char *path, const datsync_file_info *info, int maybe_same)
{
    (void)maybe_same;
    return (info->mode & 0170000) == 0100000 && !import_ignored(ctx, path, 0);
}

/* drive.import D DRY KEEP STOP [IGNORE ...] -> CHANGE:SIZE:DONE:ERROR:PATH ..., and at the end the changes. STOP:
 * after how many events it is ended. IGNORE: paths; with 2 added to KEEP they are not ready instead */
static int cmd_drive_import(int n, char **w)
{
    datsync_import_options o;
    memset(&o, 0, sizeof o);
    import_probe p;
    p.stop = number(w[3]);
    p.count = n - 4;
    p.ignore = w + 4;
    o.ctx = &p;
    o.dry_run = (int)number(w[1]);
    o.keep = (int)number(w[2]) & 1;
    o.on_event = import_noted;
    o.ignore = number(w[2]) & 2 ? NULL : import_ignored;
    o.ready = number(w[2]) & 2 ? import_is_ready : NULL;
    int64_t r = datsync_drive_import(drive_of(w[0]), &o);
    if (r >= 0)
        say_signed(r);
    return r < 0 ? (int)r : 0;
}

static void drive_fault(void *ctx, const datsync_entry *e, int error)
{
    (void)ctx;
    text_say(&answer, " %d:", error);
    text_hex(&answer, (const uint8_t *)e->path, strlen(e->path));
}

/* drive.verify D DEEP -> ERROR:PATH ..., and at the end how many are good */
static int cmd_drive_verify(int n, char **w)
{
    (void)n;
    datsync_drive_check check;
    memset(&check, 0, sizeof check);
    check.deep = (int)number(w[1]);
    check.fault = drive_fault;
    int64_t r = datsync_drive_verify(drive_of(w[0]), &check);
    if (r >= 0)
        say_signed(r);
    return r < 0 ? (int)r : 0;
}

/* ------------------------------------------------ drives that are shared */

static void drive_event(void *ctx, datsync *ds, const datsync_event *e)
{
    sharing *s = ctx;
    (void)ds;
    s->blocks += e->type == DATSYNC_EV_BLOCK;
    s->uploads += e->type == DATSYNC_EV_UPLOAD;
    s->versions += e->type == DATSYNC_EV_VERSION;
    s->failed += e->type == DATSYNC_EV_FAILED;
    if (e->type == DATSYNC_EV_TICK || e->type == DATSYNC_EV_BLOCK || e->type == DATSYNC_EV_UPLOAD)
        return;
    text_say(&s->events, " %d:%llu:%llu:%d:", e->type, (unsigned long long)e->index, (unsigned long long)e->size,
             e->error);
    text_hex(&s->events, (const uint8_t *)e->path, e->path ? strlen(e->path) : 0);
}

/* drive.share D MODE LIVE ENV [OTHER ...]: on the network in memory, dialling these other drives */
static int cmd_drive_share(int n, char **w)
{
    sharing *s = &drive_at[thing(w[0])];
    datsync_drive *d = drive_of(w[0]);
    if (s->ds)
        die("this drive is shared");
    if (!drive_net_memory && datsync_memory_net_new(&drive_net_memory, &drive_plain, &drive_net) < 0)
        die("no network");
    datsync_options o;
    memset(&o, 0, sizeof o);
    drive_plain.random = plug_random;
    o.env = number(w[3]) ? &plugs : &drive_plain;
    o.net = &drive_net;
    o.live = (int)number(w[2]);
    o.ctx = s;
    o.on_event = drive_event;
    int r;
    if ((r = datsync_new(&s->ds, &o, drive_now)) < 0)
        return r;
    char name[24];
    (void)snprintf(name, sizeof name, "d%s", w[0]);
    r = datsync_add_drive(s->ds, d, (unsigned)number(w[1]));
    if (r == 0)
        r = datsync_listen(s->ds, name);
    for (int i = 4; i < n && r == 0; i++) {
        (void)snprintf(name, sizeof name, "d%s", w[i]);
        r = datsync_connect(s->ds, name, drive_now);
    }
    if (r < 0) {
        (void)datsync_free(s->ds);
        s->ds = NULL;
    }
    return r;
}

/* drive.unshare D */
static int cmd_drive_unshare(int n, char **w)
{
    sharing *s = &drive_at[thing(w[0])];
    int r = s->ds ? datsync_free(s->ds) : 0;
    (void)n;
    s->ds = NULL;
    return r;
}

/* drive.run MOST D VERSIONS: at most so many virtual milliseconds, until D has told that so many versions are laid
 * out, or that it failed -> milliseconds; what D's synchronizer returned last; whether it came to an end */
static int cmd_drive_run(int n, char **w)
{
    sharing *s = &drive_at[thing(w[1])];
    uint64_t end = drive_now + number(w[0]), versions = number(w[2]), began = drive_now;
    int r = 0;
    (void)n;
    while (drive_now < end && s->versions < versions && !s->failed && r >= 0) {
        drive_now += 5;
        for (size_t i = 0; i < THINGS; i++)
            if (drive_at[i].ds) {
                datsync_pollfd fds[64];
                size_t count = MIN(datsync_pollfds(drive_at[i].ds, fds, 64), 64);
                (void)drive_net.poll(drive_net.ctx, fds, count, 0);
                int k = datsync_step(drive_at[i].ds, fds, count, drive_now);
                if (&drive_at[i] == s)
                    r = k;
            }
    }
    say_number(drive_now - began);
    say_signed(r);
    say_signed(s->versions >= versions);
    return 0;
}

/* drive.events D -> blocks that came, blocks that went, TYPE:INDEX:SIZE:ERROR:PATH ... since the last time */
static int cmd_drive_events(int n, char **w)
{
    sharing *s = &drive_at[thing(w[0])];
    (void)n;
    say_number(s->blocks);
    say_number(s->uploads);
    if (s->events.len) {
        text_need(&answer, s->events.len + 1);
        memcpy(answer.at + answer.len, s->events.at, s->events.len);
        answer.len += s->events.len;
    }
    s->blocks = s->uploads = s->versions = s->failed = 0;
    s->events.len = 0;
    return 0;
}

static int drive_select(void *ctx, const char *path)
{
    const char *prefix = ctx;
    return strncmp(path, prefix, strlen(prefix)) == 0;
}

/* drive.layout D VERSION FORCE [SELECT]: only what begins so */
static int cmd_drive_layout(int n, char **w)
{
    sharing *s = &drive_at[thing(w[0])];
    datsync_layout l;
    memset(&l, 0, sizeof l);
    l.version = number(w[1]);
    l.force = (int)number(w[2]);
    if (n > 3) {
        (void)snprintf(s->select, sizeof s->select, "%s", name_of(w[3]));
        l.ctx = s->select;
        l.select = drive_select;
    }
    datsync_drive_layout(drive_of(w[0]), &l);
    return 0;
}

static void drives_end(void)
{
    for (size_t i = 0; i < THINGS; i++)
        if (drive_at[i].drive)
            (void)drive_end(&drive_at[i]);
    datsync_memory_net_free(drive_net_memory);
    for (size_t i = 0; i < THINGS; i++)
        world_free(&world_at[i].w);
}

#endif

/* ================================================================ models ======================================== */

#define MODEL_BITS ((size_t)(3 * TABLE_BITS))

/* The memory that a bit set says it owns. */
static size_t bits_kib(const bits *b)
{
    size_t kib = 0;
    for (size_t t = 0; t < b->table_count; t++) {
        if (!b->tables[t] || b->tables[t] == table_of_ones())
            continue;
        kib += TABLE_KIB;
        for (size_t p = 0; p < TABLE_PAGES; p++)
            kib += b->tables[t]->pages[p].bytes != NULL;
    }
    return kib;
}

/* Is this range of the bit set that of the model, by each reader? */
static int model_agrees(const bits *b, const uint8_t *model, size_t start, size_t end)
{
    size_t n = 0, first[2] = {end, end}, from = (start + 7) / 8 * 8;
    for (size_t i = end; i-- > start;) {
        n += model[i];
        first[model[i]] = i;
    }
    if (bits_count(b, start, end) != n || bits_next(b, start, end, 0) != first[0] ||
        bits_next(b, start, end, 1) != first[1])
        return 0;
    for (size_t i = start; i < end; i += 1 + (end - start) / 1000)
        if (bits_get(b, i) != model[i])
            return 0;
    uint8_t packed[4096];
    if (from + 8 * sizeof packed > MODEL_BITS)
        return 1;
    bits_read(b, from, packed, sizeof packed);
    for (size_t i = 0; i < 8 * sizeof packed; i++)
        if ((packed[i / 8] >> (7 - i % 8) & 1) != model[from + i])
            return 0;
    return 1;
}

static size_t model_length(const uint8_t *model)
{
    size_t n = MODEL_BITS;
    while (n > 0 && !model[n - 1])
        n--;
    return n;
}

/* model-bits SEED STEPS: a bit set against an array of bytes, in steps of chance -> how many steps agree, KiB owned
 * at the end, bytes that are not freed */
static int cmd_model_bits(int n, char **w)
{
    static const size_t units[] = {1, 8, 100, PAGE_BITS, 5 * PAGE_BITS, TABLE_BITS};
    uint64_t state = number(w[0]), steps = number(w[1]);
    uint8_t *model = must(calloc(MODEL_BITS, 1));
    size_t before = mem_live;
    (void)n;
    bits b;
    memset(&b, 0, sizeof b);
    uint64_t done;
    for (done = 0; done < steps; done++) {
        size_t unit = units[chance(&state) % 6], at = (size_t)chance(&state) % MODEL_BITS;
        int value = (int)(chance(&state) & 1), changed = 0;
        at -= chance(&state) % 3 ? at % unit : 0; /* often whole pages and tables, so that they are taken back */
        size_t len = unit * (1 + (size_t)(chance(&state) % 3));
        len = MIN(len, MODEL_BITS - at);
        int r;
        if (done % 3 == 2) { /* one bit */
            changed = model[at] != value;
            model[at] = (uint8_t)value;
            r = bits_set(&plugs, &b, at, value) - changed;
        } else {
            for (size_t i = at; i < at + len; i++)
                model[i] = (uint8_t)value;
            r = bits_fill(&plugs, &b, at, at + len, value);
        }
        if (r != 0 || b.owned != bits_kib(&b) ||
            !model_agrees(&b, model, at > 99 ? at - 99 : 0, MIN(at + len + 99, MODEL_BITS)))
            break;
    }
    if (!model_agrees(&b, model, 0, MODEL_BITS) || bits_length(&b) != model_length(model))
        done = 0;
    say_number(done);
    say_number(b.owned);
    bits_free(&plugs, &b);
    say_number(mem_live - before);
    free(model);
    return 0;
}

/* model-promises SEED STEPS: the set of promised nodes against an array, which also makes it grow -> how many steps
 * agree */
static int cmd_model_promises(int n, char **w)
{
    enum { MOST = 600 };
    uint64_t state = number(w[0]), steps = number(w[1]);
    (void)n;
    promises s;
    memset(&s, 0, sizeof s);
    uint8_t model[MOST];
    memset(model, 0, sizeof model);
    uint64_t done;
    for (done = 0; done < steps; done++) {
        uint64_t at = chance(&state) % MOST;
        size_t count = 0;
        if (done / 1000 % 2 ? chance(&state) % 4 == 0 : chance(&state) % 4 != 0) { /* it grows, and shrinks */
            if (promise_add(&plugs, &s, 7 * at) < 0)
                die("out of memory");
            model[at] = 1;
        } else {
            promise_remove(&s, 7 * at);
            model[at] = 0;
        }
        for (uint64_t i = 0; i < MOST; i++)
            count += model[i];
        for (uint64_t i = done % 10 ? at : 0; i < (done % 10 ? at + 1 : MOST); i++)
            if (promise_get(&s, 7 * i) != model[i])
                count = SIZE_MAX;
        if (count != s.count)
            break;
    }
    say_number(done);
    mem_free(&plugs, s.slots);
    return 0;
}

/* ================================================================ the loop ====================================== */

static const struct command {
    const char *name;
    int words;
    int (*run)(int n, char **w);
} commands[] = {
    {"seed", 1, cmd_seed},
    {"random", 1, cmd_random},
    {"memory", 0, cmd_memory},
    {"memory-fail", 1, cmd_memory_fail},
    {"disk", 1, cmd_disk},
    {"disk-set", 3, cmd_disk_set},
    {"disk-get", 2, cmd_disk_get},
    {"disk-flip", 4, cmd_disk_flip},
    {"disk-fail", 4, cmd_disk_fail},
    {"disk-calls", 1, cmd_disk_calls},
    {"disk-cut", 4, cmd_disk_cut},
    {"decode", 1, cmd_decode},
    {"encode", 2, cmd_encode},
    {"recode", 1, cmd_recode},
    {"damage", 1, cmd_damage},
    {"damage-rle", 1, cmd_damage_rle},
    {"damage-peer", 3, cmd_damage_peer},
    {"frame-size", 1, cmd_frame_size},
    {"varint", 1, cmd_varint},
    {"varint-encode", 1, cmd_varint_encode},
    {"model-bits", 2, cmd_model_bits},
    {"model-promises", 2, cmd_model_promises},
    {"rle-decode", 2, cmd_rle_decode},
    {"rle-encode", 1, cmd_rle_encode},
    {"cipher", 5, cmd_cipher},
    {"discovery", 1, cmd_discovery},
    {"link", 1, cmd_link},
    {"link-parts", 1, cmd_link_parts},
    {"leaf", 1, cmd_leaf},
    {"parent", 2, cmd_parent},
    {"root", 1, cmd_root},
    {"flat", 1, cmd_flat},
    {"roots", 1, cmd_roots},
    {"open", 5, cmd_open},
    {"close", 1, cmd_close},
    {"info", 1, cmd_info},
    {"append", 1, cmd_append},
    {"grow", 6, cmd_grow},
    {"keys", 1, cmd_keys},
    {"finalize", 1, cmd_finalize},
    {"get", 2, cmd_get},
    {"check", 4, cmd_check},
    {"held", 1, cmd_held},
    {"nodes", 1, cmd_nodes},
    {"node", 2, cmd_node},
    {"count", 3, cmd_count},
    {"missing", 1, cmd_missing},
    {"want", 3, cmd_want},
    {"unwant", 1, cmd_unwant},
    {"clear", 3, cmd_clear},
    {"flush", 1, cmd_flush},
    {"tick-feed", 2, cmd_tick_feed},
    {"seek", 2, cmd_seek},
    {"digests", 3, cmd_digests},
    {"proof", 4, cmd_proof},
    {"put", 4, cmd_put},
    {"give", 3, cmd_give},
    {"audit", 1, cmd_audit},
    {"claim", 4, cmd_claim},
    {"claim-node", 3, cmd_claim_node},
    {"unclaim", 1, cmd_unclaim},
    {"entry", 2, cmd_entry},
    {"page", 2, cmd_page},
    {"blocks", 1, cmd_blocks},
    {"peer", 7, cmd_peer},
    {"peer-script", 1, cmd_peer_script},
    {"peer-expect", 2, cmd_peer_expect},
    {"peer-open", 3, cmd_peer_open},
    {"peer-in", 4, cmd_peer_in},
    {"peer-out", 3, cmd_peer_out},
    {"peer-tick", 2, cmd_peer_tick},
    {"peer-info", 1, cmd_peer_info},
    {"peer-feed", 2, cmd_peer_feed},
    {"peer-events", 1, cmd_peer_events},
    {"peer-extension", 4, cmd_peer_extension},
    {"peer-send", 3, cmd_peer_send},
    {"peer-free", 1, cmd_peer_free},
#ifndef DATSYNC_NO_SYNCHRONIZER
    {"swarm", 6, cmd_swarm},
#endif
    {"files.new", 3, cmd_files_new},
    {"files.free", 1, cmd_files_free},
    {"files.open", 4, cmd_files_open},
    {"files.close", 1, cmd_files_close},
    {"files.read", 3, cmd_files_read},
    {"files.write", 3, cmd_files_write},
    {"files.truncate", 2, cmd_files_truncate},
    {"files.stat", 2, cmd_files_stat},
    {"files.list", 3, cmd_files_list},
    {"files.mkdir", 2, cmd_files_mkdir},
    {"files.rename", 3, cmd_files_rename},
    {"files.unlink", 2, cmd_files_unlink},
    {"files.rmdir", 2, cmd_files_rmdir},
    {"files.set", 4, cmd_files_set},
    {"files.sync", 1, cmd_files_sync},
    {"files.fill", 3, cmd_files_fill},
    {"secrets.new", 2, cmd_secrets_new},
    {"secrets.save", 3, cmd_secrets_save},
    {"secrets.load", 2, cmd_secrets_load},
    {"secrets.free", 1, cmd_secrets_free},
#ifndef DATSYNC_NO_SYNCHRONIZER
    {"ip.parse", 1, cmd_ip_parse},
    {"ip.text", 3, cmd_ip_text},
    {"net.open", 5, cmd_net_open},
    {"net.close", 1, cmd_net_close},
    {"net.wait", 3, cmd_net_wait},
    {"net.receive", 2, cmd_net_receive},
    {"net.send", 5, cmd_net_send},
    {"net.join", 4, cmd_net_join},
    {"net.leave", 4, cmd_net_leave},
    {"net.interfaces", 1, cmd_net_interfaces},
    {"net.resolve", 2, cmd_net_resolve},
    {"net.resolved", 2, cmd_net_resolved},
#endif
#ifndef DATSYNC_NO_DRIVE
    {"drive.world", 2, cmd_drive_world},
    {"drive.write", 5, cmd_drive_write},
    {"drive.delete", 2, cmd_drive_delete},
    {"drive.dump", 1, cmd_drive_dump},
    {"drive.fail", 5, cmd_drive_fail},
    {"drive.calls", 1, cmd_drive_calls},
    {"drive.cut", 4, cmd_drive_cut},
    {"drive.open", 6, cmd_drive_open},
    {"drive.close", 1, cmd_drive_close},
    {"drive.flush", 1, cmd_drive_flush},
    {"drive.feeds", 2, cmd_drive_feeds},
    {"drive.info", 1, cmd_drive_info},
    {"drive.entry", 2, cmd_drive_entry},
    {"drive.find", 3, cmd_drive_find},
    {"drive.list", 4, cmd_drive_list},
    {"drive.read", 5, cmd_drive_read},
    {"drive.put", 10, cmd_drive_put},
    {"drive.remove", 2, cmd_drive_remove},
    {"drive.import", 4, cmd_drive_import},
    {"drive.verify", 2, cmd_drive_verify},
    {"drive.share", 4, cmd_drive_share},
    {"drive.unshare", 1, cmd_drive_unshare},
    {"drive.run", 3, cmd_drive_run},
    {"drive.events", 1, cmd_drive_events},
    {"drive.layout", 3, cmd_drive_layout},
#endif
};

static int run(char *line)
{
    static char **words;
    static size_t cap;
    size_t count = 0;
    char *at = line;
    while (line && at) {
        char *space = strchr(at, ' ');
        if (count + 1 >= cap) {
            cap = cap ? 2 * cap : 64;
            words = must(realloc(words, cap * sizeof *words));
        }
        words[count++] = at;
        if (space)
            *space++ = 0;
        at = space;
    }
    if (!line) {
        free(words);
        return 0;
    }
    words[count] = NULL;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(words[0], commands[i].name) == 0) {
            if (count - 1 < (size_t)commands[i].words)
                die("too few words");
            return commands[i].run((int)count - 1, words + 1);
        }
    die("no such command");
    return 0;
}

/* The next line without its end; 0 at the end of the input. */
static int read_line(text *t)
{
    t->len = 0;
    for (;;) {
        text_need(t, 65536);
        if (!fgets(t->at + t->len, 65536, stdin))
            return 0;
        t->len += strlen(t->at + t->len);
        if (t->at[t->len - 1] == '\n') {
            t->at[t->len - 1] = 0;
            return 1;
        }
    }
}

int main(int argc, char **argv)
{
    text line = {NULL, 0, 0};
    if (sodium_init() < 0 || datsync_os_main(&argc, &argv) < 0)
        die("libsodium does not start");
    plugs.resize = plug_resize;
    plugs.random = plug_random;
    the_pool.limit = 32u << 20;
    while (read_line(&line)) {
        answer.len = 0;
        text_need(&answer, 0);
        answer.at[0] = 0;
        int r = run(line.at);
        answer.at[answer.len] = 0;
        if (r < 0)
            printf("error %d %s |%s\n", r, datsync_strerror(r), answer.at);
        else
            printf("ok%s\n", answer.at);
        fflush(stdout);
        while (temp_count)
            free(temps[--temp_count]);
    }
    for (size_t i = 0; i < THINGS; i++)
        peer_slot_free(&peer_at[i]);
#ifndef DATSYNC_NO_DRIVE
    drives_end();
#endif
    for (size_t i = 0; i < THINGS; i++)
        (void)datsync_feed_close(feed_at[i]);
    for (size_t i = 0; i < THINGS; i++)
        disk_free(&disks[i]);
    files_end();
#ifndef DATSYNC_NO_SYNCHRONIZER
    net_end();
#endif
    (void)run(NULL);
    free(temps);
    free(answer.at);
    free(line.at);
    if (mem_live) {
        fprintf(stderr, "probe: %lu bytes were never freed\n", (unsigned long)mem_live);
        return 3;
    }
    return 0;
}
