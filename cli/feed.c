/* The commands of bare feeds, but for `feed verify`.
 *
 * SPDX-License-Identifier: MIT
 *
 * They call open, transfer, and what is below.
 */
#include "feed.h"
#include "open.h"
#include "folder.h"
#include "output.h"
#include "text.h"
#include "transfer.h"
#include "words.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- create ------------------------------------------ */

static int read_secret_key(cli *c, uint8_t secret[64])
{
    int in = strcmp(c->secret_key, "-") == 0;
    FILE *file = in ? stdin : datsync_os_fopen(c->secret_key);
    uint8_t more;

    if (file == NULL)
        return fail_file(c, c->secret_key, errno);
    size_t got = fread(secret, 1, 64, file);
    size_t rest = got == 64 ? fread(&more, 1, 1, file) : 0;
    if (!in)
        fclose(file);
    return got == 64 && rest == 0 ? DONE : fail(c, FAILED, "%s: a secret key has 64 bytes", c->secret_key);
}

int feed_create(cli *c)
{
    uint8_t secret[64];
    char key[65];
    datsync_feed *feed = NULL;
    opening how = {c->words[0], NULL, NULL, DATSYNC_CREATE, 1};

    if (c->secret_key != NULL) {
        int code = read_secret_key(c, secret);
        if (code != DONE)
            return code;
        how.secret_key = secret;
        how.key = secret + 32;
    }
    int code = open_feed(c, &how, &feed);
    if (code != DONE)
        return code;
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

/* ---------------------------------------------------------------- append ------------------------------------------ */

/* One signed batch of `append`: so many blocks or bytes. */
#define CLI_BATCH_BLOCKS 1024u
#define CLI_BATCH_BYTES 8388608u

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

    if (b->count == 0)
        return DONE;
    for (size_t i = 0; i < b->count; i++) {
        blocks[i].data = b->bytes + at;
        blocks[i].len = b->sizes[i];
        at += b->sizes[i];
    }
    int64_t length = datsync_feed_append(b->feed, blocks, b->count);
    if (length < 0)
        return fail_feed(b->c, b->c->words[0], (int)length);
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
        if (ferror(file))
            *code = fail_file(b->c, name, errno);
    }
    while (file == stdin && got < size) {
        int64_t n = datsync_os_input(to + got, size - got);
        if (n < 0 && n != DATSYNC_E_AGAIN)
            *code = fail_file(b->c, name, errno);
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    if (*code == DONE && datsync_os_stopped(NULL))
        *code = INTERRUPTED;
    return got;
}

static int append_blocks(batch *b, FILE *file, const char *name)
{
    size_t size = (size_t)b->c->block_size;
    size_t got = size;

    while (got == size) {
        int code = batch_room(b, size);
        if (code != DONE)
            return code;
        got = read_input(b, file, name, b->bytes + b->used, size, &code);
        if (code == FAILED)
            return code;
        b->open = got;
        if (got > 0)
            batch_end_block(b);
        if (code != DONE)
            return code;
    }
    return DONE;
}

/* Adds len bytes to the growing line. */
static int append_piece(batch *b, const char *name, const uint8_t *piece, size_t len)
{
    if (len > DATSYNC_MAX_BLOCK - b->open)
        return fail(b->c, FAILED, "%s: a line is longer than a block may be (%u bytes)", name, DATSYNC_MAX_BLOCK);
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
        if (ended == FAILED)
            return ended;
        for (size_t at = 0; at < got && code == DONE;) {
            const uint8_t *end = memchr(buffer + at, '\n', got - at);
            size_t len = end != NULL ? (size_t)(end - (buffer + at)) : got - at;
            code = append_piece(b, name, buffer + at, len);
            if (code == DONE && end != NULL)
                batch_end_block(b);
            at += len + (end != NULL);
        }
        if (ended != DONE && code == DONE) {
            b->open = 0; /* half a line */
            return ended;
        }
    }
    if (code == DONE && b->open > 0) {
        code = batch_room(b, b->open);
        if (code == DONE)
            batch_end_block(b);
    }
    return code;
}

static int append_file(batch *b, const char *name)
{
    int in = strcmp(name, "-") == 0;
    FILE *file = in ? stdin : datsync_os_fopen(name);

    if (file == NULL)
        return fail_file(b->c, name, errno);
    const char *shown = in ? "standard input" : name;
    int code = b->c->lines ? append_lines(b, file, shown) : append_blocks(b, file, shown);
    if (!in)
        fclose(file);
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
        if (c->file_count == 0)
            code = append_file(b, "-");
        for (int i = 0; i < c->file_count && code == DONE; i++)
            code = append_file(b, c->files[i]);
        if (code == DONE || code == INTERRUPTED) {
            int last = batch_sign(b);
            code = last != DONE ? last : code;
        }
    }
    free(bytes);
    free(b);
    return code;
}

int feed_append(cli *c)
{
    datsync_feed *feed = NULL;
    opening how = {c->words[0], NULL, NULL, 0, 0};

    datsync_os_signals();
    int code = open_feed(c, &how, &feed);
    if (code != DONE)
        return code;
    uint64_t before = datsync_feed_length(feed);
    if (!datsync_feed_writable(feed))
        code = fail(c, FAILED, "%s: only the holder of its secret key can append to this feed", how.dir);
    else
        code = append_all(c, feed);
    uint64_t length = datsync_feed_length(feed), bytes = datsync_feed_byte_length(feed);
    int error = datsync_feed_close(feed);
    if (error != 0)
        return fail_feed(c, how.dir, error); /* what is on disk shows when it is opened again */
    if (code == FAILED && length == before)
        return code;
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

/* ---------------------------------------------------------------- cat, info --------------------------------------- */

static int cat_block(cli *c, datsync_feed *feed, uint64_t index, uint8_t **buffer, size_t *cap)
{
    int64_t size = datsync_feed_has(feed, index) ? datsync_feed_block_size(feed, index) : DATSYNC_E_NOT_FOUND;

    if (size >= 0 && (uint64_t)size > *cap) {
        size_t want = (size_t)size > CLI_BLOCK_SIZE ? (size_t)size : CLI_BLOCK_SIZE;
        uint8_t *grown = realloc(*buffer, want);
        if (grown == NULL)
            return fail_feed(c, c->words[0], DATSYNC_E_NOMEM);
        *buffer = grown;
        *cap = want;
    }
    if (size > 0)
        size = datsync_feed_get(feed, index, *buffer, *cap);
    if (size < 0) {
        return fail(c, FAILED, "%s: block %llu: %s", c->words[0], (unsigned long long)index,
                    size == DATSYNC_E_NOT_FOUND ? "is not here" : datsync_strerror((int)size));
    }
    if (size > 0)
        fwrite(*buffer, 1, (size_t)size, stdout);
    if (c->lines)
        putchar('\n');
    return ferror(stdout) ? FAILED : DONE;
}

int feed_cat(cli *c)
{
    datsync_feed *feed = NULL;
    uint8_t *buffer = NULL;
    size_t cap = 0;
    opening how = {c->words[0], NULL, NULL, DATSYNC_READ_ONLY, 0};

    int code = open_feed(c, &how, &feed);
    if (code != DONE)
        return code;
    uint64_t length = datsync_feed_length(feed);
    if (c->range_count == 0) {
        c->ranges[0].end = length;
        c->range_count = 1;
    }
    for (size_t i = 0; i < c->range_count && code == DONE; i++) {
        range r = c->ranges[i];
        if (r.end == UINT64_MAX)
            r.end = length;
        if (r.start > length || r.end > length)
            code = fail(c, FAILED, "%s: the feed has %llu blocks", how.dir, (unsigned long long)length);
        for (uint64_t index = r.start; index < r.end && code == DONE; index++)
            code = cat_block(c, feed, index, &buffer, &cap);
    }
    free(buffer);
    return close_feed(c, how.dir, feed, code);
}

int feed_info(cli *c)
{
    datsync_feed *feed = NULL;
    char key[65], discovery[65];
    opening how = {c->words[0], NULL, NULL, DATSYNC_READ_ONLY, 0};

    int code = open_feed(c, &how, &feed);
    if (code != DONE)
        return code;
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

/* ---------------------------------------------------------------- share, clone ------------------------------------ */

/* A bare feed has neither versions nor paths. */
static int read_feed_link(cli *c, const char *link, uint8_t key[32])
{
    int code = read_link(c, link, key);

    if (code == DONE && c->link_path[0] != 0) {
        code = fail(c, USAGE, "%s: a feed has no paths; a drive is fetched with datsync clone", link);
    } else if (code == DONE && c->checkout > 0) {
        code = fail(c, USAGE, "%s: a feed has no versions; --range 0:%llu fetches so many blocks", link,
                    (unsigned long long)c->checkout);
    }
    return code;
}

int feed_share(cli *c)
{
    datsync_feed *feed = NULL;
    transfer t;
    opening how = {c->words[0], NULL, NULL, 0, 0};

    int code = need_peer_to_share(c);
    if (code != DONE)
        return code;
    datsync_os_signals();
    code = open_feed(c, &how, &feed);
    if (code != DONE)
        return code;
    transfer_of_feed(&t, c, how.dir, feed);
    code = run_transfer(&t, DATSYNC_UPLOAD);
    return close_feed(c, how.dir, feed, code);
}

int feed_clone(cli *c)
{
    uint8_t key[32];
    datsync_feed *feed = NULL;
    transfer t;
    opening how = {c->words[1], key, NULL, DATSYNC_CREATE, 0};

    int code = read_feed_link(c, c->words[0], key);
    if (code == DONE)
        code = need_peer_to_clone(c);
    if (code != DONE)
        return code;
    datsync_os_signals();
    code = open_feed(c, &how, &feed);
    if (code != DONE)
        return code;
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
        transfer_of_feed(&t, c, how.dir, feed);
        code = run_transfer(&t, DATSYNC_DOWNLOAD | DATSYNC_UPLOAD);
    }
    return close_feed(c, how.dir, feed, code);
}
