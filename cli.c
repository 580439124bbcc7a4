/* datsync: the command line.
 *
 * SPDX-License-Identifier: MIT
 *
 * C99 and datsync.h only; all that the OS gives comes through the datsync_os_... functions. Results go to standard
 * output, all else to standard error; with --json standard output has one object a line and nothing else.
 */
#include "datsync.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DONE = 0, FAILED = 1, USAGE = 2, NO_PEER = 3, INTERRUPTED = 130 };

/* One signed batch of `append`: so many blocks or bytes. */
#define CLI_BATCH_BLOCKS 1024u
#define CLI_BATCH_BYTES 8388608u
#define CLI_BLOCK_SIZE 65536u
#define CLI_TIMEOUT_S 30u
/* --peer and --range, each so often. */
#define CLI_MAX_PEERS 64u
#define CLI_MAX_RANGES 64u
/* Milliseconds between two pictures of the bar, and between two plain lines. */
#define CLI_BAR_MS 100u
#define CLI_LINE_MS 10000u
#define CLI_PORT "3282"

typedef struct range {
    uint64_t start, end;
} range;

typedef struct cli {
    const struct command *command;
    const char *words[2]; /* what stands beside the options; `append` has more of them in files */
    int word_count;
    char **files;
    int file_count;
    /* options */
    int help, json, quiet, no_sync, lines, live, no_listen;
    const char *listen, *secret_key;
    char only_port[8]; /* what `listen` points to for a bare PORT */
    const char *peers[CLI_MAX_PEERS];
    size_t peer_count;
    range ranges[CLI_MAX_RANGES];
    size_t range_count;
    uint64_t block_size, timeout, max_peers;
    /* state */
    int said; /* an error has been told */
    datsync_env env;
} cli;

typedef struct command {
    const char *name;
    const char *usage;
    const char *about;
    int min, max; /* words beside the options; max -1: any number */
    unsigned bit; /* in the options table */
    int (*run)(cli *c);
} command;

enum { CREATE = 1, APPEND = 2, CAT = 4, INFO = 8, VERIFY = 16, SHARE = 32, CLONE = 64 };

/* ---------------------------------------------------------------- JSON ------------------------------------------ */

/* The length of the UTF-8 sequence at s, 0 if it is none. */
static size_t utf8_length(const unsigned char *s)
{
    size_t len = 0;

    if (s[0] < 0x80) {
        return 1;
    } else if (s[0] >= 0xc2 && s[0] < 0xe0) {
        len = 2;
    } else if (s[0] >= 0xe0 && s[0] < 0xf0) {
        len = 3;
    } else if (s[0] >= 0xf0 && s[0] < 0xf5) {
        len = 4;
    }
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f)) {
        return 0;
    }
    return len;
}

static void json_text(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;

    putchar('"');
    while (*s != 0) {
        size_t len = utf8_length(s);
        if (len == 0) {
            fputs("\\ufffd", stdout);
            len = 1;
        } else if (*s == '"' || *s == '\\') {
            printf("\\%c", *s);
        } else if (*s < 0x20 || *s == 0x7f) {
            printf("\\u%04x", *s);
        } else {
            fwrite(s, 1, len, stdout);
        }
        s += len;
    }
    putchar('"');
}

static void json_begin(const char *event)
{
    fputs("{\"event\":", stdout);
    json_text(event);
}

static void json_string(const char *name, const char *value)
{
    printf(",\"%s\":", name);
    json_text(value);
}

static void json_number(const char *name, uint64_t value)
{
    printf(",\"%s\":%llu", name, (unsigned long long)value);
}

static void json_bool(const char *name, int value)
{
    printf(",\"%s\":%s", name, value ? "true" : "false");
}

static void json_end(void)
{
    fputs("}\n", stdout);
    fflush(stdout);
}

/* ---------------------------------------------------------------- words ----------------------------------------- */

/* The one line of what went wrong; returns the exit code. Only the first one of a run is told. */
static int fail(cli *c, int code, const char *format, ...)
{
    char line[1024];
    va_list args;

    if (c->said) {
        return code;
    }
    c->said = 1;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    for (char *at = line; *at != 0; at++) {
        if (*at == '\n' || *at == '\r') {
            *at = ' ';
        }
    }
    fprintf(stderr, "datsync: %s%s%s\n", c->command != NULL ? c->command->name : "", c->command != NULL ? ": " : "",
            line);
    if (c->json) {
        json_begin("error");
        json_number("code", (uint64_t)code);
        json_string("message", line);
        json_end();
    }
    return code;
}

/* A file of the user's: what the C library says of it. */
static int fail_file(cli *c, const char *file, int number)
{
    return fail(c, FAILED, "%s: %s", file, number != 0 ? strerror(number) : "cannot be read");
}

static int fail_feed(cli *c, const char *dir, int error)
{
    if (error == DATSYNC_E_NOT_FOUND) {
        return fail(c, FAILED, "%s: no feed is here", dir);
    }
    return fail(c, FAILED, "%s: %s", dir, datsync_strerror(error));
}

static void hex(char out[65], const uint8_t key[32])
{
    for (int i = 0; i < 32; i++) {
        snprintf(out + 2 * i, 3, "%02x", key[i]);
    }
}

/* 12.3 MB */
static const char *amount(char out[32], double bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;

    while (bytes >= 999.5 && unit + 1 < sizeof units / sizeof units[0]) {
        bytes /= 1000.0;
        unit++;
    }
    snprintf(out, 32, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return out;
}

/* 1:02:03, 2:03 */
static const char *duration(char out[32], double seconds)
{
    uint64_t s = seconds < 0 || seconds > 1e9 ? 999999999u : (uint64_t)(seconds + 0.5);

    if (s >= 3600) {
        snprintf(out, 32, "%llu:%02u:%02u", (unsigned long long)(s / 3600), (unsigned)(s / 60 % 60),
                 (unsigned)(s % 60));
    } else {
        snprintf(out, 32, "%u:%02u", (unsigned)(s / 60), (unsigned)(s % 60));
    }
    return out;
}

/* ---------------------------------------------------------------- opening --------------------------------------- */

static int same_key(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, 32) == 0;
}

typedef struct opening {
    const char *dir;
    const uint8_t *key, *secret_key;
    unsigned flags;
    int fresh; /* the folder must not hold a feed yet */
} opening;

/* What the folder holds already, told in words before the feed itself is opened. */
static int check_store(cli *c, const opening *how, const datsync_store *store)
{
    uint8_t key[32];
    char text[65];

    int64_t got = store->read(store->ctx, DATSYNC_PART_KEY, 0, key, sizeof key);
    if (got < 0) {
        return fail_feed(c, how->dir, (int)got);
    }
    if (got != (int64_t)sizeof key) {
        return DONE;
    }
    hex(text, key);
    if (how->fresh) {
        return fail(c, FAILED, "%s: holds a feed already, dat://%s", how->dir, text);
    }
    if (how->key != NULL && !same_key(key, how->key)) {
        return fail(c, FAILED, "%s: holds another feed, dat://%s", how->dir, text);
    }
    return DONE;
}

/* Opens the feed in a folder: an exit code. */
static int open_feed(cli *c, const opening *how, datsync_feed **feed)
{
    datsync_feed_options options;

    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.key = how->key;
    options.secret_key = how->secret_key;
    options.flags = how->flags | (c->no_sync ? DATSYNC_NO_SYNC : 0u);
    errno = 0;
    int error = datsync_os_store(&options.store, how->dir, NULL, how->flags);
    if (error == DATSYNC_E_IO && errno != 0) {
        return fail_file(c, how->dir, errno);
    }
    if (error != 0) {
        return fail_feed(c, how->dir, error);
    }
    int code = check_store(c, how, &options.store);
    if (code != DONE) {
        options.store.close(options.store.ctx);
        return code;
    }
    error = datsync_feed_open(feed, &options);
    if (error == DATSYNC_E_ACCESS && (how->flags & DATSYNC_CREATE) == 0 && (c->command->bit & (SHARE | VERIFY))) {
        opening again = *how; /* it can still be read: what can't be written can't be changed by others either */
        again.flags = DATSYNC_READ_ONLY;
        return (how->flags & DATSYNC_READ_ONLY) ? fail_feed(c, how->dir, error) : open_feed(c, &again, feed);
    }
    return error != 0 ? fail_feed(c, how->dir, error) : DONE;
}

/* Commits; an error of that is the command's. */
static int close_feed(cli *c, const char *dir, datsync_feed *feed, int code)
{
    int error = datsync_feed_close(feed);

    if (error != 0 && !c->said) {
        return fail_feed(c, dir, error);
    }
    return error != 0 && code == DONE ? FAILED : code;
}

/* ---------------------------------------------------------------- create ---------------------------------------- */

static int read_secret_key(cli *c, uint8_t secret[64])
{
    int in = strcmp(c->secret_key, "-") == 0;
    FILE *file = in ? stdin : fopen(c->secret_key, "rb");
    uint8_t more;

    if (file == NULL) {
        return fail_file(c, c->secret_key, errno);
    }
    size_t got = fread(secret, 1, 64, file);
    size_t rest = got == 64 ? fread(&more, 1, 1, file) : 0;
    if (!in) {
        fclose(file);
    }
    return got == 64 && rest == 0 ? DONE : fail(c, FAILED, "%s: a secret key has 64 bytes", c->secret_key);
}

static int run_create(cli *c)
{
    uint8_t secret[64];
    char key[65];
    datsync_feed *feed = NULL;
    opening how = {c->words[0], NULL, NULL, DATSYNC_CREATE, 1};

    if (c->secret_key != NULL) {
        int code = read_secret_key(c, secret);
        if (code != DONE) {
            return code;
        }
        how.secret_key = secret;
        how.key = secret + 32;
    }
    int code = open_feed(c, &how, &feed);
    if (code != DONE) {
        return code;
    }
    hex(key, datsync_feed_key(feed));
    code = close_feed(c, how.dir, feed, DONE);
    if (code == DONE && c->json) {
        json_begin("created");
        json_string("key", key);
        json_end();
    } else if (code == DONE) {
        printf("dat://%s\n", key);
    }
    return code;
}

/* ---------------------------------------------------------------- append ---------------------------------------- */

/* Blocks that wait for one signature. They lie in `bytes` one behind the other; the last one is still growing. */
typedef struct batch {
    cli *c;
    datsync_feed *feed;
    uint8_t *bytes;
    size_t used; /* bytes of whole blocks */
    size_t open; /* bytes of the block that is growing */
    size_t sizes[CLI_BATCH_BLOCKS];
    size_t count;
} batch;

static int batch_sign(batch *b)
{
    datsync_bytes blocks[CLI_BATCH_BLOCKS];
    size_t at = 0;

    if (b->count == 0) {
        return DONE;
    }
    for (size_t i = 0; i < b->count; i++) {
        blocks[i].data = b->bytes + at;
        blocks[i].len = b->sizes[i];
        at += b->sizes[i];
    }
    int64_t length = datsync_feed_append(b->feed, blocks, b->count);
    if (length < 0) {
        return fail_feed(b->c, b->c->words[0], (int)length);
    }
    memmove(b->bytes, b->bytes + b->used, b->open);
    b->used = 0;
    b->count = 0;
    return DONE;
}

/* Room behind the growing block, for as much as it may grow to. */
static int batch_room(batch *b, size_t block)
{
    return b->used + block > CLI_BATCH_BYTES || b->count == CLI_BATCH_BLOCKS ? batch_sign(b) : DONE;
}

static void batch_end_block(batch *b)
{
    b->sizes[b->count++] = b->open;
    b->used += b->open;
    b->open = 0;
}

/* Reads until the buffer is full, the input ends, or a signal comes; *code says if it was an error or the signal. */
static size_t read_input(batch *b, FILE *file, const char *name, uint8_t *to, size_t size, int *code)
{
    size_t got = 0;

    *code = DONE;
    errno = 0;
    if (file != stdin) {
        got = fread(to, 1, size, file);
        if (ferror(file)) {
            *code = fail_file(b->c, name, errno);
        }
    }
    while (file == stdin && got < size) {
        int64_t n = datsync_os_input(to + got, size - got);
        if (n < 0 && n != DATSYNC_E_AGAIN) {
            *code = fail_file(b->c, name, errno);
        }
        if (n <= 0) {
            break;
        }
        got += (size_t)n;
    }
    if (*code == DONE && datsync_os_stopped(NULL)) {
        *code = INTERRUPTED;
    }
    return got;
}

static int append_blocks(batch *b, FILE *file, const char *name)
{
    size_t size = (size_t)b->c->block_size;
    size_t got = size;

    while (got == size) {
        int code = batch_room(b, size);
        if (code != DONE) {
            return code;
        }
        got = read_input(b, file, name, b->bytes + b->used, size, &code);
        if (code == FAILED) {
            return code;
        }
        b->open = got;
        if (got > 0) {
            batch_end_block(b);
        }
        if (code != DONE) {
            return code;
        }
    }
    return DONE;
}

/* Adds len bytes to the growing line. */
static int append_piece(batch *b, const char *name, const uint8_t *piece, size_t len)
{
    if (len > DATSYNC_MAX_BLOCK - b->open) {
        return fail(b->c, FAILED, "%s: a line is longer than a block may be (%u bytes)", name, DATSYNC_MAX_BLOCK);
    }
    int code = batch_room(b, b->open + len);
    if (code == DONE && len > 0) {
        memcpy(b->bytes + b->used + b->open, piece, len);
        b->open += len;
    }
    return code;
}

static int append_lines(batch *b, FILE *file, const char *name)
{
    static const size_t size = CLI_BLOCK_SIZE;
    uint8_t buffer[CLI_BLOCK_SIZE];
    size_t got = size;
    int code = DONE;

    while (got == size && code == DONE) {
        int ended = DONE;
        got = read_input(b, file, name, buffer, size, &ended);
        if (ended == FAILED) {
            return ended;
        }
        for (size_t at = 0; at < got && code == DONE;) {
            const uint8_t *end = memchr(buffer + at, '\n', got - at);
            size_t len = end != NULL ? (size_t)(end - (buffer + at)) : got - at;
            code = append_piece(b, name, buffer + at, len);
            if (code == DONE && end != NULL) {
                batch_end_block(b);
            }
            at += len + (end != NULL);
        }
        if (ended != DONE && code == DONE) {
            b->open = 0; /* half a line */
            return ended;
        }
    }
    if (code == DONE && b->open > 0) {
        code = batch_room(b, b->open);
        if (code == DONE) {
            batch_end_block(b);
        }
    }
    return code;
}

static int append_file(batch *b, const char *name)
{
    int in = strcmp(name, "-") == 0;
    FILE *file = in ? stdin : fopen(name, "rb");

    if (file == NULL) {
        return fail_file(b->c, name, errno);
    }
    const char *told = in ? "standard input" : name;
    int code = b->c->lines ? append_lines(b, file, told) : append_blocks(b, file, told);
    if (!in) {
        fclose(file);
    }
    return code;
}

static int append_all(cli *c, datsync_feed *feed)
{
    batch *b = calloc(1, sizeof *b);
    uint8_t *bytes = malloc(CLI_BATCH_BYTES);
    int code = DONE;

    if (b == NULL || bytes == NULL) {
        code = fail(c, FAILED, "%s", datsync_strerror(DATSYNC_E_NOMEM));
    } else {
        b->c = c;
        b->feed = feed;
        b->bytes = bytes;
        if (c->file_count == 0) {
            code = append_file(b, "-");
        }
        for (int i = 0; i < c->file_count && code == DONE; i++) {
            code = append_file(b, c->files[i]);
        }
        if (code == DONE || code == INTERRUPTED) {
            int last = batch_sign(b);
            code = last != DONE ? last : code;
        }
    }
    free(bytes);
    free(b);
    return code;
}

static int run_append(cli *c)
{
    datsync_feed *feed = NULL;
    opening how = {c->words[0], NULL, NULL, 0, 0};

    datsync_os_signals();
    int code = open_feed(c, &how, &feed);
    if (code != DONE) {
        return code;
    }
    uint64_t before = datsync_feed_length(feed);
    if (!datsync_feed_writable(feed)) {
        code = fail(c, FAILED, "%s: only the holder of its secret key can append to this feed", how.dir);
    } else {
        code = append_all(c, feed);
    }
    uint64_t length = datsync_feed_length(feed), bytes = datsync_feed_byte_length(feed);
    int error = datsync_feed_close(feed);
    if (error != 0) {
        return fail_feed(c, how.dir, error); /* what is on disk shows when it is opened again */
    }
    if (code == FAILED && length == before) {
        return code;
    }
    /* Also after an error: what was appended before it is there. */
    if (c->json) {
        json_begin("appended");
        json_number("blocks", length - before);
        json_number("length", length);
        json_number("bytes", bytes);
        json_end();
    } else {
        printf("%llu\n", (unsigned long long)length);
    }
    return code;
}

/* ---------------------------------------------------------------- cat, info, verify ----------------------------- */

static int cat_block(cli *c, datsync_feed *feed, uint64_t index, uint8_t **buffer, size_t *cap)
{
    int64_t size = datsync_feed_has(feed, index) ? datsync_feed_block_size(feed, index) : DATSYNC_E_NOT_FOUND;

    if (size >= 0 && (uint64_t)size > *cap) {
        size_t want = (size_t)size > CLI_BLOCK_SIZE ? (size_t)size : CLI_BLOCK_SIZE;
        uint8_t *grown = realloc(*buffer, want);
        if (grown == NULL) {
            return fail_feed(c, c->words[0], DATSYNC_E_NOMEM);
        }
        *buffer = grown;
        *cap = want;
    }
    if (size > 0) {
        size = datsync_feed_get(feed, index, *buffer, *cap);
    }
    if (size < 0) {
        return fail(c, FAILED, "%s: block %llu: %s", c->words[0], (unsigned long long)index,
                    size == DATSYNC_E_NOT_FOUND ? "is not here" : datsync_strerror((int)size));
    }
    if (size > 0) {
        fwrite(*buffer, 1, (size_t)size, stdout);
    }
    if (c->lines) {
        putchar('\n');
    }
    return ferror(stdout) ? FAILED : DONE;
}

static int run_cat(cli *c)
{
    datsync_feed *feed = NULL;
    uint8_t *buffer = NULL;
    size_t cap = 0;
    opening how = {c->words[0], NULL, NULL, DATSYNC_READ_ONLY, 0};

    int code = open_feed(c, &how, &feed);
    if (code != DONE) {
        return code;
    }
    uint64_t length = datsync_feed_length(feed);
    if (c->range_count == 0) {
        c->ranges[0].end = length;
        c->range_count = 1;
    }
    for (size_t i = 0; i < c->range_count && code == DONE; i++) {
        range r = c->ranges[i];
        if (r.end == UINT64_MAX) {
            r.end = length;
        }
        if (r.start > length || r.end > length) {
            code = fail(c, FAILED, "%s: the feed has %llu blocks", how.dir, (unsigned long long)length);
        }
        for (uint64_t index = r.start; index < r.end && code == DONE; index++) {
            code = cat_block(c, feed, index, &buffer, &cap);
        }
    }
    free(buffer);
    return close_feed(c, how.dir, feed, code);
}

static int run_info(cli *c)
{
    datsync_feed *feed = NULL;
    char key[65], discovery[65];
    opening how = {c->words[0], NULL, NULL, DATSYNC_READ_ONLY, 0};

    int code = open_feed(c, &how, &feed);
    if (code != DONE) {
        return code;
    }
    uint64_t length = datsync_feed_length(feed), bytes = datsync_feed_byte_length(feed);
    uint64_t held = datsync_feed_count(feed, 0, length);
    int writable = datsync_feed_writable(feed) || datsync_feed_secret_key(feed) != NULL;
    hex(key, datsync_feed_key(feed));
    hex(discovery, datsync_feed_discovery_key(feed));
    if (c->json) {
        json_begin("info");
        json_string("key", key);
        json_string("discovery_key", discovery);
        json_number("length", length);
        json_number("bytes", bytes);
        json_number("held", held);
        json_bool("writable", writable);
        json_end();
    } else {
        printf("link: dat://%s\nkey: %s\ndiscovery key: %s\n", key, key, discovery);
        printf("length: %llu\nbytes: %llu\nblocks held: %llu\nwritable: %s\n", (unsigned long long)length,
               (unsigned long long)bytes, (unsigned long long)held, writable ? "yes" : "no");
    }
    return close_feed(c, how.dir, feed, DONE);
}

typedef struct verifying {
    cli *c;
    uint64_t bad;
} verifying;

static const char *const part_names[DATSYNC_PARTS] = {"key", "secret_key", "tree", "signatures", "bitfield", "data"};

static void on_fault(void *ctx, uint64_t index, int part)
{
    verifying *v = ctx;
    const char *name = part >= 0 && part < DATSYNC_PARTS ? part_names[part] : "?";

    v->bad++;
    if (v->c->json) {
        json_begin("bad");
        json_number("index", index);
        json_string("file", name);
        json_end();
    } else {
        printf("bad %llu %s\n", (unsigned long long)index, name);
    }
}

static int run_verify(cli *c)
{
    datsync_feed *feed = NULL;
    verifying v = {c, 0};
    opening how = {c->words[0], NULL, NULL, 0, 0};

    int code = open_feed(c, &how, &feed);
    if (code != DONE) {
        return code;
    }
    int64_t good = datsync_feed_audit(feed, on_fault, &v);
    if (good < 0) {
        code = fail_feed(c, how.dir, (int)good);
    } else if (c->json) {
        json_begin("verified");
        json_number("ok", (uint64_t)good);
        json_number("bad", v.bad);
        json_end();
    } else if (v.bad == 0) {
        printf("ok %llu\n", (unsigned long long)good);
    }
    if (code == DONE && v.bad > 0) {
        code = fail(c, FAILED, "%s: faults: %llu; good blocks: %llu", how.dir, (unsigned long long)v.bad,
                    (unsigned long long)good);
    }
    return close_feed(c, how.dir, feed, code);
}

/* ---------------------------------------------------------------- share, clone ---------------------------------- */

typedef struct transfer {
    cli *c;
    const char *dir;
    datsync *ds;
    datsync_feed *feed;
    char key[65];
    int sharing, complete, timed_out;
    int failed;          /* a store's error */
    uint64_t peers_seen; /* connections that spoke this feed's key */
    uint64_t began;
    uint64_t fresh_at, fresh_blocks;                 /* when the last verified byte was seen */
    uint64_t blocks, bytes, sent_blocks, sent_bytes; /* of this run */
    uint64_t shown_at, shown_change;
    uint64_t rate_at, rate_blocks, rate_bytes; /* since the last tick */
    double block_rate, byte_rate;              /* a second, smoothed */
    int columns, link_told, bar_drawn;
    char trouble[512]; /* the last thing that went wrong with a peer, for the last line */
} transfer;

static uint64_t changed(const transfer *t)
{
    return t->blocks + t->sent_blocks;
}

/* What is wanted and what of it is here, in blocks, as far as the feed's length is known. */
static void counts(const transfer *t, uint64_t *held, uint64_t *total)
{
    uint64_t length = datsync_feed_length(t->feed), offered = datsync_offered(t->ds, t->feed);
    range all = {0, UINT64_MAX};
    const range *ranges = t->c->range_count > 0 ? t->c->ranges : &all;
    size_t count = t->c->range_count > 0 ? t->c->range_count : 1;

    *held = 0;
    *total = 0;
    /* What a peer offers is only its word; a wild one would make the bar useless. */
    if (offered > length && offered <= DATSYNC_MAX_BLOCKS) {
        length = offered;
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t end = ranges[i].end < length ? ranges[i].end : length;
        if (ranges[i].start < end) {
            *total += end - ranges[i].start;
            *held += datsync_feed_count(t->feed, ranges[i].start, end);
        }
    }
}

static void bar_clear(transfer *t)
{
    if (t->bar_drawn) {
        fputs("\r\033[K", stderr);
        t->bar_drawn = 0;
    }
}

/* A line for people: what happened, where. */
static void note(transfer *t, const char *format, ...)
{
    va_list args;

    if (t->c->quiet || t->c->json) {
        return;
    }
    bar_clear(t);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static void describe(const transfer *t, char *out, size_t cap)
{
    char size[32], rate[32], left[32];
    uint64_t held, total;
    unsigned peers = datsync_peers(t->ds);
    const char *plural = peers == 1 ? "" : "s";

    if (t->sharing) {
        snprintf(out, cap, "%s sent  %s/s  %u peer%s", amount(size, (double)t->sent_bytes), amount(rate, t->byte_rate),
                 peers, plural);
        return;
    }
    counts(t, &held, &total);
    if (total == 0) {
        snprintf(out, cap, peers > 0 ? "asking %u peer%s" : "no peer yet", peers, plural);
        return;
    }
    snprintf(out, cap, "%3u%%  %llu of %llu blocks  %s  %s/s  %s left  %u peer%s", (unsigned)(held * 100 / total),
             (unsigned long long)held, (unsigned long long)total, amount(size, (double)t->bytes),
             amount(rate, t->byte_rate),
             t->block_rate > 0 ? duration(left, (double)(total - held) / t->block_rate) : "?", peers, plural);
}

static void draw_bar(transfer *t)
{
    char text[256];
    uint64_t held, total;
    int room, filled;

    describe(t, text, sizeof text);
    counts(t, &held, &total);
    fputs("\r\033[K", stderr);
    room = t->columns - (int)strlen(text) - 5;
    room = room > 40 ? 40 : room;
    if (!t->sharing && total > 0 && room >= 8) {
        filled = (int)((double)held / (double)total * room);
        fputc('[', stderr);
        for (int i = 0; i < room; i++) {
            fputc(i < filled ? '=' : i == filled ? '>' : ' ', stderr);
        }
        fputs("] ", stderr);
    }
    fprintf(stderr, "%.*s", t->columns > 1 ? t->columns - 1 : 0, text);
    fflush(stderr);
    t->bar_drawn = 1;
}

static void tell_json_progress(const transfer *t)
{
    uint64_t held, total;

    counts(t, &held, &total);
    json_begin("progress");
    json_number("held", held);
    json_number("total", total);
    json_number("bytes", t->bytes);
    json_number("sent", t->sent_bytes);
    json_number("rate", (uint64_t)t->byte_rate);
    json_number("peers", datsync_peers(t->ds));
    json_end();
}

/* The rates, over half a second or more. */
static void measure(transfer *t, uint64_t now)
{
    double seconds = (double)(now - t->rate_at) / 1000.0;
    uint64_t blocks = changed(t), bytes = t->bytes + t->sent_bytes;

    if (seconds < 0.5) {
        return;
    }
    double weight = t->byte_rate > 0 ? 0.3 : 1.0;
    t->block_rate += weight * ((double)(blocks - t->rate_blocks) / seconds - t->block_rate);
    t->byte_rate += weight * ((double)(bytes - t->rate_bytes) / seconds - t->byte_rate);
    t->rate_at = now;
    t->rate_blocks = blocks;
    t->rate_bytes = bytes;
}

/* Of a terminal: a bar, ten times a second; else a line now and then. JSON: once a second, when something moved. */
static void show(transfer *t, uint64_t now, int tick)
{
    cli *c = t->c;

    if (c->json) {
        if (tick && changed(t) != t->shown_change) {
            t->shown_change = changed(t);
            tell_json_progress(t);
        }
    } else if (c->quiet) {
        return;
    } else if (t->columns > 0) {
        if (tick || now - t->shown_at >= CLI_BAR_MS) {
            t->shown_at = now;
            measure(t, now);
            draw_bar(t);
        }
    } else if (tick && now - t->shown_at >= CLI_LINE_MS && changed(t) != t->shown_change) {
        char text[256];
        t->shown_at = now;
        t->shown_change = changed(t);
        describe(t, text, sizeof text);
        note(t, "%s", text);
    }
}

static void on_tick(transfer *t)
{
    uint64_t now = datsync_os_clock(NULL);

    if (t->blocks != t->fresh_blocks) {
        t->fresh_blocks = t->blocks;
        t->fresh_at = now;
    }
    measure(t, now);
    show(t, now, 1);
    if (!t->sharing && !t->complete && t->c->timeout > 0 && now - t->fresh_at >= t->c->timeout * 1000u) {
        t->timed_out = 1;
        datsync_stop(t->ds);
    }
}

static void on_block(transfer *t, const datsync_event *event, int sent)
{
    if (sent) {
        t->sent_blocks++;
        t->sent_bytes += event->size;
    } else {
        t->blocks++;
        t->bytes += event->size;
    }
    if (t->columns > 0 && (changed(t) & 15) == 0) {
        show(t, datsync_os_clock(NULL), 0);
    }
}

static void tell_link(transfer *t)
{
    if (t->link_told) {
        return;
    }
    t->link_told = 1;
    if (t->c->json) {
        json_begin("feed");
        json_string("key", t->key);
        json_number("length", datsync_feed_length(t->feed));
        json_number("held", datsync_feed_count(t->feed, 0, datsync_feed_length(t->feed)));
        json_end();
    } else if (t->sharing) {
        printf("dat://%s\n", t->key);
        fflush(stdout);
    }
}

static void on_listening(transfer *t, const char *address)
{
    tell_link(t);
    if (t->c->json) {
        json_begin("listening");
        json_string("address", address);
        json_end();
    } else {
        bar_clear(t);
        printf("listening on %s\n", address);
        fflush(stdout);
    }
}

static void on_peer(transfer *t, const datsync_event *event)
{
    t->peers_seen++;
    if (t->c->json) {
        json_begin("peer");
        json_string("address", event->address);
        json_end();
    } else {
        note(t, "%s: connected", event->address);
    }
}

/* The block was good; it could not be stored. */
static int is_own_fault(int error)
{
    return error == DATSYNC_E_IO || error == DATSYNC_E_NO_SPACE || error == DATSYNC_E_ACCESS ||
           error == DATSYNC_E_NOMEM;
}

/* Ended, not reached, or refused: the words for people, the same for --json, and kept for the last line. */
static void on_trouble(transfer *t, const datsync_event *event)
{
    if (event->type == DATSYNC_EV_REJECT && is_own_fault(event->error)) {
        t->failed = event->error;
    }
    if (t->failed != 0 && !t->c->json) {
        return; /* the last line tells it */
    }
    const char *why = datsync_strerror(event->error);
    int dropped = event->type == DATSYNC_EV_UNREACHABLE && event->index == 1;
    char before[sizeof t->trouble];

    strcpy(before, t->trouble);

    if (event->error < 0 && event->error != DATSYNC_E_DONE) {
        if (event->type == DATSYNC_EV_REJECT) {
            snprintf(t->trouble, sizeof t->trouble, "%s: block %llu: %s", event->address,
                     (unsigned long long)event->index, why);
        } else if (t->trouble[0] == 0 || strstr(t->trouble, ": block ") == NULL) {
            snprintf(t->trouble, sizeof t->trouble, "%s: %s", event->address, why);
        }
    }
    if (t->c->json) {
        json_begin(event->type == DATSYNC_EV_REJECT         ? "reject"
                   : event->type == DATSYNC_EV_DISCONNECTED ? "disconnected"
                                                            : "unreachable");
        json_string("address", event->address);
        if (event->type == DATSYNC_EV_REJECT) {
            json_number("index", event->index);
        }
        printf(",\"code\":%d", event->error);
        json_string("reason", why);
        if (event->type == DATSYNC_EV_UNREACHABLE) {
            json_bool("again", !dropped);
        }
        json_end();
    } else if (event->type == DATSYNC_EV_REJECT) {
        note(t, "%s", t->trouble);
    } else if (event->type == DATSYNC_EV_UNREACHABLE && !dropped && strcmp(before, t->trouble) == 0) {
        return; /* the same as before: people have read it */
    } else if (event->type == DATSYNC_EV_UNREACHABLE) {
        note(t, "%s: %s; %s", event->address, why, dropped ? "given up" : "trying again");
    } else {
        note(t, "%s: %s", event->address, why);
    }
}

static void on_complete(transfer *t)
{
    uint64_t length = datsync_feed_length(t->feed);

    if (t->sharing) {
        return;
    }
    t->complete = 1;
    if (t->c->json) {
        if (t->blocks > 0) {
            measure(t, datsync_os_clock(NULL));
            tell_json_progress(t);
        }
        json_begin("complete");
        json_number("length", length);
        json_number("held", datsync_feed_count(t->feed, 0, length));
        json_number("bytes", t->bytes);
        json_end();
    } else if (t->c->live) {
        note(t, "complete: %llu blocks", (unsigned long long)length);
    }
    if (!t->c->live) {
        datsync_stop(t->ds);
    }
}

static void on_event(void *ctx, datsync *ds, const datsync_event *event)
{
    transfer *t = ctx;

    t->ds = ds;
    switch (event->type) {
    case DATSYNC_EV_LISTENING:
        on_listening(t, event->address);
        break;
    case DATSYNC_EV_PEER:
        on_peer(t, event);
        break;
    case DATSYNC_EV_DISCONNECTED:
    case DATSYNC_EV_UNREACHABLE:
    case DATSYNC_EV_REJECT:
        on_trouble(t, event);
        break;
    case DATSYNC_EV_BLOCK:
        on_block(t, event, 0);
        break;
    case DATSYNC_EV_UPLOAD:
        on_block(t, event, 1);
        break;
    case DATSYNC_EV_COMPLETE:
        on_complete(t);
        break;
    case DATSYNC_EV_FAILED:
        t->failed = event->error;
        datsync_stop(ds);
        break;
    case DATSYNC_EV_TICK:
        on_tick(t);
        break;
    default:
        break;
    }
}

/* A share that wasn't told where listens on the usual port, or another if that is taken. */
static int start_listening(transfer *t)
{
    cli *c = t->c;
    int usual = c->listen == NULL;

    if (c->no_listen || (usual && !t->sharing)) {
        return DONE;
    }
    const char *address = usual ? ":" CLI_PORT : c->listen;
    int error = datsync_listen(t->ds, address);
    if (usual && error == DATSYNC_E_IN_USE) {
        error = datsync_listen(t->ds, ":0");
    }
    return error < 0 ? fail(c, FAILED, "listening on %s: %s", address, datsync_strerror(error)) : DONE;
}

static int start_dialling(transfer *t)
{
    cli *c = t->c;

    for (size_t i = 0; i < c->peer_count; i++) {
        int error = datsync_connect(t->ds, c->peers[i], datsync_os_clock(NULL));
        if (error < 0) {
            return fail(c, FAILED, "%s: %s", c->peers[i], datsync_strerror(error));
        }
    }
    return DONE;
}

/* What became of it, in the order of what matters. */
static int outcome(transfer *t, int error)
{
    cli *c = t->c;
    const char *colon = t->trouble[0] != 0 ? ": " : "";
    uint64_t held, total;

    if (t->failed != 0 || error < 0) {
        return fail_feed(c, t->dir, t->failed != 0 ? t->failed : error);
    }
    if (t->sharing) {
        if (datsync_os_stopped(NULL) || t->peers_seen > 0) {
            return DONE;
        }
        return fail(c, NO_PEER, "dat://%s: no peer%s%s", t->key, colon, t->trouble);
    }
    if (t->complete) {
        return DONE;
    }
    counts(t, &held, &total);
    if (datsync_os_stopped(NULL)) {
        return fail(c, INTERRUPTED, "%s: interrupted; %llu blocks are kept", t->dir, (unsigned long long)held);
    }
    if (t->peers_seen == 0) {
        return fail(c, NO_PEER, "dat://%s: no peer served this feed%s%s", t->key, colon, t->trouble);
    }
    if (t->timed_out) {
        return fail(c, FAILED, "%s: nothing came for %llu s; %llu of %llu blocks are kept%s%s", t->dir,
                    (unsigned long long)c->timeout, (unsigned long long)held, (unsigned long long)total, colon,
                    t->trouble);
    }
    return fail(c, FAILED, "%s: not complete, no peer is left; %llu of %llu blocks are kept%s%s", t->dir,
                (unsigned long long)held, (unsigned long long)total, colon, t->trouble);
}

static void tell_end(transfer *t, int code)
{
    char size[32], rate[32], time[32];
    double seconds = (double)(datsync_os_clock(NULL) - t->began + 1) / 1000.0;
    uint64_t bytes = t->sharing ? t->sent_bytes : t->bytes;

    if (code != DONE) {
        return;
    }
    if (seconds < 60) {
        snprintf(time, sizeof time, "%.2f s", seconds);
    } else {
        duration(time, seconds);
    }
    if (t->sharing) {
        note(t, "sent %s in %s", amount(size, (double)bytes), time);
    } else {
        note(t, "complete: %s in %s, %s/s", amount(size, (double)bytes), time, amount(rate, (double)bytes / seconds));
    }
}

/* Share and clone, from the opened feed to the exit code. */
static int run_transfer(cli *c, const char *dir, datsync_feed *feed, unsigned mode)
{
    transfer t;
    datsync_options options;

    memset(&t, 0, sizeof t);
    t.c = c;
    t.dir = dir;
    t.feed = feed;
    t.sharing = c->command->bit == SHARE;
    t.columns = c->quiet || c->json ? 0 : datsync_os_terminal();
    t.began = t.fresh_at = t.shown_at = t.rate_at = datsync_os_clock(NULL);
    hex(t.key, datsync_feed_key(feed));

    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.net = datsync_os_net();
    options.max_peers = (unsigned)c->max_peers;
    options.live = c->live;
    options.ctx = &t;
    options.on_event = on_event;
    options.stopped = datsync_os_stopped;
    int error = datsync_new(&t.ds, &options, t.began);
    if (error < 0) {
        return fail(c, FAILED, "%s", datsync_strerror(error));
    }
    int code = DONE;
    error = datsync_add(t.ds, feed, mode);
    if (error < 0) {
        code = fail_feed(c, dir, error);
    }
    if (code == DONE) {
        code = start_listening(&t);
    }
    if (code == DONE) {
        tell_link(&t);
        code = start_dialling(&t);
    }
    if (code == DONE) {
        error = datsync_run(t.ds);
        bar_clear(&t);
        code = outcome(&t, error);
    }
    error = datsync_free(t.ds);
    if (error < 0 && code != FAILED) {
        code = fail_feed(c, dir, error);
    }
    bar_clear(&t);
    tell_end(&t, code);
    return code;
}

static int run_share(cli *c)
{
    datsync_feed *feed = NULL;
    opening how = {c->words[0], NULL, NULL, 0, 0};

    if (c->no_listen && c->peer_count == 0) {
        return fail(c, USAGE, "with --no-listen, name a peer to dial with --peer HOST:PORT");
    }
    datsync_os_signals();
    int code = open_feed(c, &how, &feed);
    if (code != DONE) {
        return code;
    }
    code = run_transfer(c, how.dir, feed, DATSYNC_UPLOAD);
    return close_feed(c, how.dir, feed, code);
}

static int run_clone(cli *c)
{
    uint8_t key[32];
    datsync_feed *feed = NULL;
    opening how = {c->words[1], key, NULL, DATSYNC_CREATE, 0};

    if (datsync_parse_link(key, c->words[0]) != 0) {
        return fail(c, USAGE, "%s: a link has 64 hexadecimal digits, with or without dat:// before them", c->words[0]);
    }
    if (c->peer_count == 0 && (c->listen == NULL || c->no_listen)) {
        return fail(c, USAGE,
                    "there is no discovery yet: name a peer with --peer HOST:PORT, or let one come with "
                    "--listen [HOST:]PORT");
    }
    datsync_os_signals();
    int code = open_feed(c, &how, &feed);
    if (code != DONE) {
        return code;
    }
    if (datsync_feed_writable(feed)) {
        code = fail(c, FAILED, "%s: is where this feed is written (it holds the secret key); nothing can be newer",
                    how.dir);
    }
    for (size_t i = 0; i < c->range_count && code == DONE; i++) {
        uint64_t end = c->ranges[i].end < DATSYNC_MAX_BLOCKS ? c->ranges[i].end : DATSYNC_MAX_BLOCKS;
        int error = datsync_feed_want(feed, c->ranges[i].start, end);
        code = error < 0 ? fail_feed(c, how.dir, error) : DONE;
    }
    if (code == DONE) {
        code = run_transfer(c, how.dir, feed, DATSYNC_DOWNLOAD | DATSYNC_UPLOAD);
    }
    return close_feed(c, how.dir, feed, code);
}

/* ---------------------------------------------------------------- tables ---------------------------------------- */

static const command commands[] = {
    {"create", "DIR", "Make a feed with new keys in the folder DIR and print its link.", 1, 1, CREATE, run_create},
    {"append", "DIR [FILE...]", "Append the files, or standard input, and print the new length.", 1, -1, APPEND,
     run_append},
    {"cat", "DIR", "Write the blocks to standard output.", 1, 1, CAT, run_cat},
    {"info", "DIR", "Tell what the folder holds.", 1, 1, INFO, run_info},
    {"verify", "DIR", "Read everything and check it: `ok N`, or a line `bad INDEX FILE` for each fault.", 1, 1, VERIFY,
     run_verify},
    {"share", "DIR", "Serve what the folder holds until interrupted.", 1, 1, SHARE, run_share},
    {"clone", "LINK DIR", "Download into the folder DIR, or go on with it; end when it is complete.", 2, 2, CLONE,
     run_clone},
};

enum { NONE, TEXT, NUMBER, PEER, LISTEN, RANGE };

typedef struct option_spec {
    const char *name;
    int kind;
    const char *value; /* its name in the help */
    const char *about;
    unsigned commands;
    size_t at; /* offset in struct cli */
    uint64_t min, max;
} option_spec;

#define AT(member) offsetof(cli, member)
#define NETWORKED (SHARE | CLONE)

static const option_spec option_specs[] = {
    {"--secret-key", TEXT, "FILE", "use this secret key (64 bytes; - is standard input)", CREATE, AT(secret_key), 0, 0},
    {"--block-size", NUMBER, "N", "bytes of a block (65536)", APPEND, AT(block_size), 1, DATSYNC_MAX_BLOCK},
    {"--lines", NONE, NULL, "a block is a line, without its line feed", APPEND | CAT, AT(lines), 0, 0},
    {"--range", RANGE, "A:B", "only the blocks A to B - 1; repeatable", CAT | CLONE, 0, 0, 0},
    {"--listen", LISTEN, "[HOST:]PORT", "take connections here (0: any port; unix:PATH: a socket file)", NETWORKED,
     AT(listen), 0, 0},
    {"--no-listen", NONE, NULL, "take no connections", NETWORKED, AT(no_listen), 0, 0},
    {"--peer", PEER, "HOST:PORT", "dial this peer; repeatable", NETWORKED, 0, 0, 0},
    {"--max-peers", NUMBER, "N", "connections at once (64)", NETWORKED, AT(max_peers), 1, 65535},
    {"--no-discovery", NONE, NULL, "look for no peers (there is no discovery yet)", NETWORKED, 0, 0, 0},
    {"--timeout", NUMBER, "S", "give up after S seconds without a new byte (30; 0: never)", CLONE, AT(timeout), 0,
     1000000000},
    {"--live", NONE, NULL, "stay when complete: fetch what is appended, and serve", CLONE, AT(live), 0, 0},
    {"--no-sync", NONE, NULL, "don't wait for the disk: a power cut may lose claimed blocks or fork one's own feed",
     CREATE | APPEND | CLONE, AT(no_sync), 0, 0},
    {"--json", NONE, NULL, "standard output: one JSON object a line", ~(unsigned)CAT, AT(json), 0, 0},
    {"--quiet", NONE, NULL, "results and errors only", ~0u, AT(quiet), 0, 0},
    {"--help", NONE, NULL, "this text (also -h)", ~0u, AT(help), 0, 0},
};

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

static void usage(FILE *out)
{
    fputs("usage: datsync feed COMMAND [OPTIONS] ...\n\n", out);
    for (size_t i = 0; i < COUNT(commands); i++) {
        fprintf(out, "  datsync feed %-8s%-15s%s\n", commands[i].name, commands[i].usage, commands[i].about);
    }
    fputs("\nLINK is 64 hexadecimal digits, with or without dat:// before them.\n"
          "Each command has -h. datsync --version prints the version.\n\n"
          "exit: 0 done, 1 failed, 2 wrong usage, 3 no peer served the feed, 130 interrupted\n",
          out);
}

static void usage_of(const command *cmd)
{
    char head[64];

    printf("usage: datsync feed %s [OPTIONS] %s\n\n%s\n\n", cmd->name, cmd->usage, cmd->about);
    for (size_t i = 0; i < COUNT(option_specs); i++) {
        const option_spec *spec = &option_specs[i];
        if (spec->commands & cmd->bit) {
            snprintf(head, sizeof head, "%s%s%s", spec->name, spec->value != NULL ? " " : "",
                     spec->value != NULL ? spec->value : "");
            printf("  %-23s%s\n", head, spec->about);
        }
    }
}

/* ---------------------------------------------------------------- reading the command line ---------------------- */

static int parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    if (*text == 0 || strlen(text) > 19 || strspn(text, "0123456789") != strlen(text)) {
        return 0;
    }
    *out = strtoull(text, NULL, 10);
    return *out >= min && *out <= max;
}

/* A:B, A: or :B */
static int parse_range(const char *text, range *out)
{
    char first[24];
    const char *colon = strchr(text, ':');

    if (colon == NULL || (size_t)(colon - text) >= sizeof first) {
        return 0;
    }
    memcpy(first, text, (size_t)(colon - text));
    first[colon - text] = 0;
    out->start = 0;
    out->end = UINT64_MAX;
    return (first[0] == 0 || parse_number(first, 0, DATSYNC_MAX_BLOCKS, &out->start)) &&
           (colon[1] == 0 || parse_number(colon + 1, 0, DATSYNC_MAX_BLOCKS, &out->end)) && out->start <= out->end;
}

/* HOST:PORT or unix:PATH; whether the host is one shows when it is dialled. */
static int is_address(const char *text, uint64_t least_port)
{
    const char *colon = strrchr(text, ':');
    uint64_t port;

    if (strncmp(text, "unix:", 5) == 0) {
        return text[5] != 0;
    }
    return colon != NULL && parse_number(colon + 1, least_port, 65535, &port);
}

static int parse_listen(cli *c, const char *text)
{
    uint64_t port;

    if (parse_number(text, 0, 65535, &port)) {
        snprintf(c->only_port, sizeof c->only_port, ":%u", (unsigned)port);
        text = c->only_port;
    }
    c->listen = text;
    return is_address(text, 0);
}

/* An option that is known, with its value (NULL for those without one): 1 if the value is good. */
static int set_option(cli *c, const option_spec *spec, const char *value)
{
    char *place = (char *)c + spec->at;

    switch (spec->kind) {
    case TEXT:
        memcpy(place, &value, sizeof value);
        return 1;
    case NUMBER: {
        uint64_t number;
        int good = parse_number(value, spec->min, spec->max, &number);
        memcpy(place, &number, good ? sizeof number : 0);
        return good;
    }
    case PEER:
        if (c->peer_count == CLI_MAX_PEERS || !is_address(value, 1)) {
            return 0;
        }
        c->peers[c->peer_count++] = value;
        return 1;
    case LISTEN:
        return parse_listen(c, value);
    case RANGE:
        return c->range_count < CLI_MAX_RANGES && parse_range(value, &c->ranges[c->range_count++]);
    default:
        if (spec->at != 0) {
            memcpy(place, &(int){1}, sizeof(int));
        }
        return 1;
    }
}

/* One argument that begins with a minus; *at is moved over a value that is an argument of its own. */
static int read_option(cli *c, int argc, char **argv, int *at)
{
    const char *arg = strcmp(argv[*at], "-h") == 0 ? "--help" : argv[*at];
    const char *equals = strchr(arg, '=');
    size_t len = equals != NULL ? (size_t)(equals - arg) : strlen(arg);
    const option_spec *spec = NULL;
    const char *value = NULL;

    for (size_t i = 0; i < COUNT(option_specs); i++) {
        const option_spec *one = &option_specs[i];
        if (strlen(one->name) == len && strncmp(one->name, arg, len) == 0 && (one->commands & c->command->bit)) {
            spec = one;
        }
    }
    if (spec == NULL) {
        return fail(c, USAGE, "%.*s: no such option; see datsync feed %s -h", (int)len, arg, c->command->name);
    }
    if (spec->kind != NONE && equals == NULL && *at + 1 >= argc) {
        return fail(c, USAGE, "%s: needs %s", spec->name, spec->value);
    }
    if (spec->kind == NONE && equals != NULL) {
        return fail(c, USAGE, "%s: takes no value", spec->name);
    }
    if (spec->kind != NONE) {
        value = equals != NULL ? equals + 1 : argv[++*at];
    }
    if (set_option(c, spec, value)) {
        return DONE;
    }
    if (spec->kind == NUMBER) {
        return fail(c, USAGE, "%s %s: not a number from %llu to %llu", spec->name, value, (unsigned long long)spec->min,
                    (unsigned long long)spec->max);
    }
    return fail(c, USAGE, "%s %s: not a valid %s", spec->name, value, spec->value);
}

static int read_arguments(cli *c, int argc, char **argv)
{
    int only_words = 0, words = 0;

    c->files = argv; /* words are gathered at the front: there are never more of them than were read */
    for (int at = 0; at < argc; at++) {
        if (!only_words && strcmp(argv[at], "--") == 0) {
            only_words = 1;
        } else if (!only_words && argv[at][0] == '-' && argv[at][1] != 0) {
            int code = read_option(c, argc, argv, &at);
            if (code != DONE) {
                return code;
            }
        } else {
            argv[words++] = argv[at];
        }
    }
    if (c->help) {
        return DONE;
    }
    if (words < c->command->min || (c->command->max >= 0 && words > c->command->max)) {
        return fail(c, USAGE, "usage: datsync feed %s [OPTIONS] %s", c->command->name, c->command->usage);
    }
    c->word_count = words < 2 ? words : 2;
    for (int i = 0; i < c->word_count; i++) {
        c->words[i] = argv[i];
    }
    c->files = argv + 1;
    c->file_count = words - 1;
    return DONE;
}

static int compare_ranges(const void *a, const void *b)
{
    const range *left = a, *right = b;

    return left->start < right->start ? -1 : left->start > right->start;
}

/* Those of a clone in order and disjoint, so that the bar counts no block twice. */
static void merge_ranges(cli *c)
{
    size_t count = 0;

    qsort(c->ranges, c->range_count, sizeof c->ranges[0], compare_ranges);
    for (size_t i = 0; i < c->range_count; i++) {
        if (count > 0 && c->ranges[i].start <= c->ranges[count - 1].end) {
            if (c->ranges[i].end > c->ranges[count - 1].end) {
                c->ranges[count - 1].end = c->ranges[i].end;
            }
        } else {
            c->ranges[count++] = c->ranges[i];
        }
    }
    c->range_count = count;
}

static int run_command(cli *c, int argc, char **argv)
{
    int code = read_arguments(c, argc, argv);

    if (code != DONE) {
        return code;
    }
    if (c->help) {
        usage_of(c->command);
        return DONE;
    }
    if (c->command->bit == CLONE) {
        merge_ranges(c);
    }
    return c->command->run(c);
}

static int run(cli *c, int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("datsync " DATSYNC_VERSION);
        return DONE;
    }
    if (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0) {
        usage(stdout);
        return DONE;
    }
    if (strcmp(argv[1], "feed") != 0) {
        return fail(c, USAGE, "%s: no such command; for bare feeds: datsync feed COMMAND, see datsync -h", argv[1]);
    }
    if (argc < 3) {
        usage(stderr);
        return USAGE;
    }
    if (strcmp(argv[2], "-h") == 0 || strcmp(argv[2], "--help") == 0) {
        usage(stdout);
        return DONE;
    }
    for (size_t i = 0; i < COUNT(commands); i++) {
        if (strcmp(commands[i].name, argv[2]) == 0) {
            c->command = &commands[i];
            return run_command(c, argc - 3, argv + 3);
        }
    }
    return fail(c, USAGE, "feed %s: no such command; see datsync -h", argv[2]);
}

int main(int argc, char **argv)
{
    static cli c; /* zeroed, and off the stack */

    c.block_size = CLI_BLOCK_SIZE;
    c.timeout = CLI_TIMEOUT_S;
    c.env.clock = datsync_os_clock;
    int code = run(&c, argc, argv);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        int number = errno;
        if (code == DONE || !c.said) {
            c.json = 0;
            return fail(&c, FAILED, "standard output: %s", number != 0 ? strerror(number) : "cannot be written");
        }
    }
    return code;
}
