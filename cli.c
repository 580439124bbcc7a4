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
#include <time.h>

enum { DONE = 0, FAILED = 1, USAGE = 2, NO_PEER = 3, INTERRUPTED = 130 };

/* One signed batch of `append`: so many blocks or bytes. */
#define CLI_BATCH_BLOCKS 1024u
#define CLI_BATCH_BYTES 8388608u
#define CLI_BLOCK_SIZE 65536u
#define CLI_TIMEOUT_S 30u
/* --peer, --range and --select, each so often. */
#define CLI_MAX_PEERS 64u
#define CLI_MAX_RANGES 64u
#define CLI_MAX_SELECTS 64u
/* Of Beaker's drives in one folder, so many are named. */
#define CLI_MAX_NAMED 100u
/* Bytes of a .datignore and of a dat.json. */
#define CLI_MAX_FILE 1048576u
/* Milliseconds between two pictures of the bar, and between two plain lines. */
#define CLI_BAR_MS 100u
#define CLI_LINE_MS 10000u
/* Milliseconds for which an import leaves the network alone; between two scans of a folder, and how many times longer than a
 * scan takes. */
#define CLI_TURN_MS 20u
#define CLI_SCAN_MS 1000u
#define CLI_SCAN_TIMES 20u
/* While a folder is watched: milliseconds for which a file's size and time must have rested before it is imported; after how many
 * it is imported though they don't rest; and how many files are waited for at once. */
#define CLI_REST_MS 2000u
#define CLI_RESTLESS_MS 60000u
#define CLI_MAX_WAITING 65536u
/* Bytes of files that may be the same, read before they are shared. */
#define CLI_FIRST_BYTES 67108864u
#define CLI_PORT "3282"

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

typedef struct range {
    uint64_t start, end;
} range;

typedef struct cli {
    const struct command *command;
    const char *words[3]; /* what stands beside the options; `append` has more of them in files */
    int word_count;
    char **files;
    int file_count;
    /* options */
    int overwritten; /* the header of a bitfield file is zeroed: verify goes on without it */
    int help, json, quiet, no_sync, lines, live, no_listen;
    int watch, archive, force, with_hidden, long_form, recursive, all;
    const char *listen, *secret_key, *secret_dir;
    const char *title, *description, *author, *license;
    char only_port[8]; /* what `listen` points to for a bare PORT */
    const char *peers[CLI_MAX_PEERS];
    size_t peer_count;
    range ranges[CLI_MAX_RANGES];
    size_t range_count;
    char *selects[CLI_MAX_SELECTS]; /* the patterns of --select, or those that the folder keeps */
    size_t select_count;
    uint64_t block_size, timeout, max_peers, checkout;
    char link_path[DATSYNC_MAX_PATH + 1]; /* of LINK: begins with `/`, empty if it has none */
    /* state */
    int said;                     /* an error has been told */
    int bar_drawn;                /* the last line of standard error is a bar */
    const struct placing *layout; /* of the drive's folder, once it is opened */
    datsync_env env;
} cli;

typedef struct command {
    int feed; /* `datsync feed NAME` */
    const char *name;
    const char *usage;
    const char *about;
    int min, max; /* words beside the options; max -1: any number */
    uint32_t bit; /* in the options table */
    int (*run)(cli *c);
} command;

enum {
    FEED_CREATE = 1,
    FEED_APPEND = 1 << 1,
    FEED_CAT = 1 << 2,
    FEED_INFO = 1 << 3,
    FEED_VERIFY = 1 << 4,
    FEED_SHARE = 1 << 5,
    FEED_CLONE = 1 << 6,
    CREATE = 1 << 7,
    SHARE = 1 << 8,
    CLONE = 1 << 9,
    PULL = 1 << 10,
    SYNC = 1 << 11,
    LOG = 1 << 12,
    STATUS = 1 << 13,
    KEYS = 1 << 14,
    VERIFY = 1 << 15,
    LS = 1 << 16,
    CAT = 1 << 17,
    ALL_DRIVE = (1 << 18) - 128,
    ALL = (1 << 18) - 1
};

/* ---------------------------------------------------------------- text ------------------------------------------ */

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

/* The code point at *s, which is moved behind it; a byte that is no UTF-8 stands for itself, beyond all code points. */
static uint32_t next_char(const char **s)
{
    const unsigned char *at = (const unsigned char *)*s;
    size_t len = utf8_length(at);
    uint32_t ch = at[0];

    if (len == 0) {
        *s += 1;
        return 0x110000u + ch;
    }
    if (len > 1) {
        ch &= 0x7fu >> len;
        for (size_t i = 1; i < len; i++) {
            ch = ch << 6 | (at[i] & 0x3fu);
        }
    }
    *s += len;
    return ch;
}

/* What no terminal should get from strangers: controls, what turns the writing around, what is no UTF-8. */
static int is_unsafe(uint32_t ch)
{
    return ch < 0x20 || (ch >= 0x7f && ch < 0xa0) || ch == 0x200e || ch == 0x200f || (ch >= 0x2028 && ch <= 0x202e) ||
           (ch >= 0x2066 && ch <= 0x2069) || ch >= 0x110000u;
}

/* Text that may be anybody's; unsafe bytes as \xNN. */
static void put_safe(FILE *out, const char *text)
{
    while (*text != 0) {
        const char *from = text;
        uint32_t ch = next_char(&text);
        if (!is_unsafe(ch)) {
            fwrite(from, 1, (size_t)(text - from), out);
            continue;
        }
        while (from < text) {
            fprintf(out, "\\x%02x", (unsigned char)*from++);
        }
    }
}

typedef void put_fn(void *to, const char *text, size_t len);

static void put_file(void *to, const char *text, size_t len)
{
    fwrite(text, 1, len, to);
}

/* A JSON string, with its quotes. */
static void json_escape(put_fn *put, void *to, const char *text)
{
    char escape[16];

    put(to, "\"", 1);
    while (*text != 0) {
        const char *from = text;
        uint32_t ch = next_char(&text);
        if (ch == '"' || ch == '\\') {
            snprintf(escape, sizeof escape, "\\%c", (int)ch);
        } else if (is_unsafe(ch)) {
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(ch >= 0x110000u ? 0xfffdu : ch));
        } else {
            put(to, from, (size_t)(text - from));
            continue;
        }
        put(to, escape, strlen(escape));
    }
    put(to, "\"", 1);
}

static void json_begin(const char *event)
{
    fputs("{\"event\":", stdout);
    json_escape(put_file, stdout, event);
}

static void json_string(const char *name, const char *value)
{
    printf(",\"%s\":", name);
    json_escape(put_file, stdout, value);
}

static void json_number(const char *name, uint64_t value)
{
    printf(",\"%s\":%llu", name, (unsigned long long)value);
}

static void json_bool(const char *name, int value)
{
    printf(",\"%s\":%s", name, value ? "true" : "false");
}

/* An error of the library's: its number and its sentence. */
static void json_reason(int error)
{
    printf(",\"code\":%d", error);
    json_string("reason", datsync_strerror(error));
}

static void json_end(void)
{
    fputs("}\n", stdout);
    fflush(stdout);
}

/* ---------------------------------------------------------------- words ----------------------------------------- */

static void bar_clear(cli *c)
{
    if (c->bar_drawn) {
        fputs("\r\033[K", stderr);
        c->bar_drawn = 0;
    }
}

/* datsync: feed clone: */
static void put_name(const cli *c)
{
    fputs("datsync: ", stderr);
    if (c->command != NULL) {
        fprintf(stderr, "%s%s: ", c->command->feed ? "feed " : "", c->command->name);
    }
}

/* The one line of what went wrong; returns the exit code. Only the first one of a run is told. */
static int fail(cli *c, int code, const char *format, ...)
{
    char line[DATSYNC_MAX_PATH + 1024];
    va_list args;

    if (c->said) {
        return code;
    }
    c->said = 1;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    bar_clear(c);
    put_name(c);
    put_safe(stderr, line);
    fputc('\n', stderr);
    if (c->json) {
        json_begin("error");
        json_number("code", (uint64_t)code);
        json_string("message", line);
        json_end();
    }
    return code;
}

/* One of many that went wrong: a line for it, while the rest goes on. */
static void complain(cli *c, const char *what, const char *why)
{
    bar_clear(c);
    put_name(c);
    put_safe(stderr, what);
    fputs(": ", stderr);
    put_safe(stderr, why);
    fputc('\n', stderr);
}

/* A line for people: what happened, where. */
static void note(cli *c, const char *format, ...)
{
    char line[DATSYNC_MAX_PATH + 1024];
    va_list args;

    if (c->quiet || c->json) {
        return;
    }
    bar_clear(c);
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    put_safe(stderr, line);
    fputc('\n', stderr);
}

/* A file of the user's: what the C library says of it. */
static int fail_file(cli *c, const char *file, int number)
{
    return fail(c, FAILED, "%s: %s", file, number != 0 ? strerror(number) : "cannot be read");
}

static int folder_key(const char *dir, const char *name, uint8_t key[32]);
static const struct placing *find_layout(const char *dir, uint8_t key[32]);

/* The other kind's commands may be what is meant. */
static int fail_feed(cli *c, const char *dir, int error)
{
    uint8_t key[32];

    if (error == DATSYNC_E_NOT_FOUND && find_layout(dir, key) != NULL) {
        return fail(c, FAILED, "%s: no feed is here, but a drive: use datsync without `feed`, as in datsync clone",
                    dir);
    }
    if (error == DATSYNC_E_NOT_FOUND) {
        return fail(c, FAILED, "%s: no feed is here", dir);
    }
    return fail(c, FAILED, "%s: %s", dir, datsync_strerror(error));
}

static int fail_drive(cli *c, const char *dir, int error)
{
    uint8_t key[32];

    if (error == DATSYNC_E_NOT_FOUND && folder_key(dir, "key", key)) {
        return fail(c, FAILED, "%s: no drive is here, but a feed: use datsync feed, as in datsync feed clone", dir);
    }
    if (error == DATSYNC_E_NOT_FOUND) {
        return fail(c, FAILED, "%s: no drive is here", dir);
    }
    if (error == DATSYNC_E_HEADER) {
        return fail(c, FAILED, "%s: this is no drive; a bare feed is fetched with datsync feed clone", dir);
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

/* 0.25 s, 2:03 */
static const char *elapsed(char out[32], double seconds)
{
    if (seconds >= 60) {
        return duration(out, seconds);
    }
    snprintf(out, 32, "%.2f s", seconds);
    return out;
}

/* ---------------------------------------------------------------- the user's files ------------------------------- */

/* Bytes that grow, with a NUL behind them. */
typedef struct growing {
    char *text;
    size_t len, cap;
    int failed;
} growing;

static void put_buffer(void *to, const char *text, size_t len)
{
    growing *b = to;

    if (b->len + len + 1 > b->cap) {
        size_t cap = 2 * (b->len + len) + 256;
        char *grown = realloc(b->text, cap);
        if (grown == NULL) {
            b->failed = 1;
            return;
        }
        b->text = grown;
        b->cap = cap;
    }
    memcpy(b->text + b->len, text, len);
    b->len += len;
    b->text[b->len] = 0;
}

/* A small file beneath a folder, whole: 0, or an error (DATSYNC_E_NO_ENTRY; DATSYNC_E_TOO_BIG). Links are not followed. */
static int read_whole(const datsync_tree *tree, const char *path, growing *out)
{
    char piece[16384];
    intptr_t file;
    int64_t got = 1;

    memset(out, 0, sizeof *out);
    int error = tree->open(tree->ctx, path, 0, &file);
    if (error < 0) {
        return error;
    }
    while (got > 0 && out->len <= CLI_MAX_FILE && !out->failed) {
        got = tree->read(tree->ctx, file, out->len, piece, sizeof piece);
        put_buffer(out, piece, got > 0 ? (size_t)got : 0);
    }
    tree->close(tree->ctx, file);
    error = got < 0 ? (int)got : out->failed ? DATSYNC_E_NOMEM : out->len > CLI_MAX_FILE ? DATSYNC_E_TOO_BIG : 0;
    if (error < 0) {
        free(out->text);
        memset(out, 0, sizeof *out);
    }
    return error;
}

static void close_tree(datsync_tree *tree)
{
    if (tree->close_tree != NULL) {
        tree->close_tree(tree->ctx);
    }
    memset(tree, 0, sizeof *tree);
}

/* The key that a folder keeps in the file of this name: 1 if there is one. */
static int folder_key(const char *dir, const char *name, uint8_t key[32])
{
    datsync_tree tree;
    growing text;
    int there = 0;

    memset(&tree, 0, sizeof tree);
    if (datsync_os_tree(&tree, dir, DATSYNC_READ_ONLY) < 0) {
        return 0;
    }
    if (read_whole(&tree, name, &text) == 0) {
        there = text.len == 32;
        memcpy(key, text.text, there ? 32 : 0);
        free(text.text);
    }
    close_tree(&tree);
    return there;
}

/* ---------------------------------------------------------------- layouts --------------------------------------- */

/* Where a drive's two feeds lie beneath its folder: what stands before the names of their parts. */
typedef struct placing {
    const char *name;
    const char *metadata, *content;
} placing;

/* The first is what is made here, and has the content in the files themselves. In the others it is in content's data part, nothing is
 * laid out, and an owner's secret key is a part of the metadata. Beaker's is told from hyperdrive's by where the folder lies. */
static const placing layouts[] = {
    {"dat", ".dat/metadata.", ".dat/content."}, {"dat-node 3.0", ".dat/metadata/", ".dat/content/"},
    {"hyperdrive", "metadata/", "content/"},    {"flat", "metadata.", "content."},
    {"beaker", "metadata/", "content/"},
};

#define HYPERDRIVE (&layouts[2])
#define BEAKER (&layouts[4])

/* Beaker's folder of a drive, beneath its profile, where an old version keeps it: of the key's digits. */
#define BEAKER_PLACE "Archives/Meta"

/* Does the drive lay its files out here? */
static int has_files(const cli *c)
{
    return c->layout == &layouts[0];
}

/* DIR/NAME, to be freed. */
static char *join(const char *dir, const char *name)
{
    size_t size = strlen(dir) + strlen(name) + 2;
    char *path = malloc(size);

    if (path != NULL) {
        snprintf(path, size, "%s/%s", dir, name);
    }
    return path;
}

/* The folder above/xx/yy..., xx and yy... being the key's digits, has this key. */
static int is_beakers(const char *dir, const char *above, const uint8_t key[32])
{
    char digits[65], inner[128];
    uint8_t there[32];

    hex(digits, key);
    snprintf(inner, sizeof inner, "%s%.2s/%s", above, digits, digits + 2);
    char *place = join(dir, inner);
    int same = place != NULL && folder_key(place, "metadata/key", there) && memcmp(there, key, 32) == 0;
    free(place);
    return same;
}

/* The layout of the drive in a folder, and its key; NULL: no drive is here. */
static const placing *find_layout(const char *dir, uint8_t key[32])
{
    char name[64];
    const placing *found = NULL;

    for (size_t i = 0; i < COUNT(layouts) && found == NULL; i++) {
        snprintf(name, sizeof name, "%skey", layouts[i].metadata);
        found = folder_key(dir, name, key) ? &layouts[i] : NULL;
    }
    return found == HYPERDRIVE && is_beakers(dir, "../../../../" BEAKER_PLACE "/", key) ? BEAKER : found;
}

/* Where Beaker's drives may lie beneath a folder: it is the profile, or what is in it. */
static const char *const beaker_roots[] = {BEAKER_PLACE "/", "Meta/", ""};

/* The folder that is meant by a link and a folder, to be freed: the drive's own, where Beaker's profile was given. NULL: no memory. */
static char *clone_folder(const char *dir, const uint8_t key[32])
{
    char digits[65], inner[128];
    uint8_t there[32];

    hex(digits, key);
    for (size_t i = 0; i < COUNT(beaker_roots) && find_layout(dir, there) == NULL; i++) {
        if (is_beakers(dir, beaker_roots[i], key)) {
            snprintf(inner, sizeof inner, "%s%.2s/%s", beaker_roots[i], digits, digits + 2);
            return join(dir, inner);
        }
    }
    char *same = malloc(strlen(dir) + 1);
    return same != NULL ? strcpy(same, dir) : NULL;
}

/* Beaker's drives beneath a folder. */
typedef struct shelf {
    cli *c;
    const char *dir;
    const datsync_tree *tree;
    char inner[128], first[128]; /* the path that is looked at; the first drive's */
    uint64_t count;
} shelf;

static int is_digits(const char *name, size_t len)
{
    return strlen(name) == len && strspn(name, "0123456789abcdef") == len;
}

static int on_beaker_drive(void *arg, const char *name)
{
    shelf *s = arg;
    size_t len = strlen(s->inner);
    datsync_file_info info;

    if (!is_digits(name, 62)) {
        return 0;
    }
    snprintf(s->inner + len, sizeof s->inner - len, "/%s/metadata/key", name);
    int there = s->tree->stat(s->tree->ctx, s->inner, &info) == 0 && info.size == 32;
    s->inner[len + 63] = 0;
    if (there && s->count++ < CLI_MAX_NAMED) {
        char *place = join(s->dir, s->inner);
        char link[80];
        snprintf(link, sizeof link, "dat://%.2s%s", s->inner + len - 2, name);
        complain(s->c, place != NULL ? place : s->inner, link);
        if (s->count == 1) {
            strcpy(s->first, s->inner);
        }
        free(place);
    }
    s->inner[len] = 0;
    return 0;
}

static int on_beaker_folder(void *arg, const char *name)
{
    shelf *s = arg;
    size_t len = strlen(s->inner);

    if (is_digits(name, 2)) {
        snprintf(s->inner + len, sizeof s->inner - len, "%s", name);
        (void)s->tree->list(s->tree->ctx, s->inner, on_beaker_drive, s);
        s->inner[len] = 0;
    }
    return 0;
}

/* No drive is here, but if it is a folder of Beaker's, drives are beneath it: they are named. DONE: it is none. */
static int check_beaker(cli *c, const char *dir)
{
    datsync_tree tree;
    char root[32];
    shelf s;

    memset(&s, 0, sizeof s);
    memset(&tree, 0, sizeof tree);
    if (datsync_os_tree(&tree, dir, DATSYNC_READ_ONLY) < 0) {
        return DONE;
    }
    s.c = c;
    s.dir = dir;
    s.tree = &tree;
    for (size_t i = 0; i < COUNT(beaker_roots) && s.count == 0; i++) {
        strcpy(s.inner, beaker_roots[i]);
        strcpy(root, beaker_roots[i]);
        root[strlen(root) > 0 ? strlen(root) - 1 : 0] = 0; /* without its slash */
        (void)tree.list(tree.ctx, root, on_beaker_folder, &s);
    }
    close_tree(&tree);
    return s.count == 0
               ? DONE
               : fail(c, FAILED,
                      "%s: is Beaker's, and holds %llu %s, each with a folder of its own: name that, as in %s/%s", dir,
                      (unsigned long long)s.count, s.count == 1 ? "drive" : "drives", dir, s.first);
}

/* Beaker kept files with large holes in a form of its own where the file system has none. */
static int check_indexed(cli *c, const char *dir, const placing *how)
{
    static const char *const parts[] = {"data", "signatures", "tree", "bitfield"};
    datsync_tree tree;
    datsync_file_info info;
    char name[64];
    int found = 0;

    memset(&tree, 0, sizeof tree);
    if (datsync_os_tree(&tree, dir, DATSYNC_READ_ONLY) < 0) {
        return DONE; /* opening the drive tells it */
    }
    for (size_t i = 0; i < 2 * COUNT(parts) && !found; i++) {
        snprintf(name, sizeof name, "%s%s.index", i % 2 ? how->metadata : how->content, parts[i / 2]);
        found = tree.stat(tree.ctx, name, &info) == 0;
    }
    close_tree(&tree);
    name[strlen(name) - sizeof ".index" + 1] = 0;
    return found ? fail(c, FAILED,
                        "%s/%s: is an indexed file (a .index lies beside it), as Beaker kept them on file systems "
                        "without holes: datsync can't read those, clone the drive anew",
                        dir, name)
                 : DONE;
}

/* ---------------------------------------------------------------- globs ----------------------------------------- */

/* [a-z], [!a]: p is behind the bracket. Returns the place behind the closing one, NULL if there is none. */
static const char *match_set(const char *p, uint32_t ch, int *hit)
{
    int negate = *p == '!' || *p == '^', found = 0;

    p += negate;
    for (int first = 1; first || *p != ']'; first = 0) {
        if (*p == 0 || *p == '/' || (*p == '\\' && (p[1] == 0 || p[1] == '/'))) {
            return NULL;
        }
        p += *p == '\\';
        uint32_t low = next_char(&p), high = low;
        if (*p == '-' && p[1] != ']' && p[1] != 0 && p[1] != '/') {
            p++;
            p += *p == '\\' && p[1] != 0 && p[1] != '/';
            high = next_char(&p);
        }
        found |= ch >= low && ch <= high;
    }
    *hit = found != negate;
    return p + 1;
}

/* One character of a name against what stands at *p, which is moved over it if they match. */
static int match_one(const char **p, const char *p_end, const char **s)
{
    const char *at = *p, *name = *s;
    int hit = 0;

    if (at >= p_end) {
        return 0;
    }
    uint32_t ch = next_char(&name);
    if (*at == '?') {
        hit = 1;
        at++;
    } else if (*at == '[') {
        at = match_set(at + 1, ch, &hit);
    } else {
        at += *at == '\\';
        hit = next_char(&at) == ch;
    }
    if (hit) {
        *p = at;
        *s = name;
    }
    return hit;
}

/* One name against one segment of a pattern. Only the last star need ever be tried again. */
static int match_name(const char *p, const char *p_end, const char *s, const char *s_end)
{
    const char *star = NULL, *mark = NULL;

    while (s < s_end) {
        if (p < p_end && *p == '*') {
            star = ++p;
            mark = s;
        } else if (!match_one(&p, p_end, &s)) {
            if (star == NULL) {
                return 0;
            }
            next_char(&mark);
            s = mark;
            p = star;
        }
    }
    while (p < p_end && *p == '*') {
        p++;
    }
    return p == p_end;
}

/* A whole path, without a slash before it: `**` stands for any number of folders, at the end for all that is beneath. */
static int match_path(const char *p, const char *s)
{
    const char *star = NULL, *mark = NULL;

    while (*s != 0) {
        const char *p_end = p + strcspn(p, "/"), *s_end = s + strcspn(s, "/");
        if (p_end - p == 2 && p[0] == '*' && p[1] == '*') {
            if (*p_end == 0) {
                return 1;
            }
            star = p = p_end + 1;
            mark = s;
        } else if (*p != 0 && match_name(p, p_end, s, s_end)) {
            p = p_end + (*p_end != 0);
            s = s_end + (*s_end != 0);
        } else if (star != NULL) {
            mark += strcspn(mark, "/");
            mark += *mark != 0;
            s = mark;
            p = star;
        } else {
            return 0;
        }
    }
    return *p == 0;
}

static const char *glob_fault(const char *p)
{
    int hit;

    if (*p == 0) {
        return "an empty pattern";
    }
    while (*p != 0) {
        if (*p == '\\' && (p[1] == 0 || p[1] == '/')) {
            return "a backslash with nothing behind it";
        }
        if (*p == '[') {
            p = match_set(p + 1, 0, &hit);
            if (p == NULL) {
                return "a [ without its ]";
            }
        } else {
            p += 1 + (*p == '\\');
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- selections ------------------------------------ */

/* What a clone is to hold: the patterns of --select, or a link's path, which the folder keeps from then on, one a line. */
#define SELECTION ".dat/selection"

/* Takes out of a pattern what stays where it is: `./`, empty names, slashes at both ends. What is wrong with it, or NULL. */
static const char *tidy_pattern(char *pattern)
{
    const char *from = pattern;
    char *to = pattern;

    if (*pattern == 0) {
        return "an empty pattern";
    }
    while (*from != 0) {
        size_t len = strcspn(from, "/");
        if (len == 2 && memcmp(from, "..", 2) == 0) {
            return "a .. in it";
        }
        if (len > 0 && !(len == 1 && *from == '.')) {
            if (to > pattern) {
                *to++ = '/';
            }
            memmove(to, from, len);
            to += len;
        }
        from += len;
        from += *from != 0;
    }
    *to = 0;
    return NULL;
}

/* One more pattern: what is wrong with it, or NULL. */
static const char *add_select(cli *c, const char *text)
{
    size_t len = strlen(text);

    if (c->select_count == CLI_MAX_SELECTS) {
        return "more patterns than 64";
    }
    if (text[strcspn(text, "\r\n")] != 0) {
        return "a line end in it";
    }
    char *pattern = malloc(len + 3);
    if (pattern == NULL) {
        return datsync_strerror(DATSYNC_E_NOMEM);
    }
    memcpy(pattern, text, len + 1);
    const char *fault = tidy_pattern(pattern);
    if (fault == NULL && *pattern == 0) {
        strcpy(pattern, "**"); /* the folder itself: everything */
    }
    fault = fault != NULL ? fault : glob_fault(pattern);
    if (fault != NULL) {
        free(pattern);
        return fault;
    }
    c->selects[c->select_count++] = pattern;
    return NULL;
}

/* A path that means itself, whatever a pattern takes its characters for. */
static const char *add_select_path(cli *c, const char *path)
{
    char pattern[2 * DATSYNC_MAX_PATH + 2];
    size_t len = 0;

    for (; *path != 0 && len + 2 < sizeof pattern; path++) {
        int end = *path == '\r' || *path == '\n'; /* which a line can't hold */
        if (strchr("*?[]\\", *path) != NULL) {
            pattern[len++] = '\\';
        }
        pattern[len++] = (char)(end ? '?' : *path);
    }
    pattern[len] = 0;
    return add_select(c, pattern);
}

/* Does this pattern name this path, or a folder that it lies in? */
static int selects(const char *pattern, const char *path)
{
    char part[DATSYNC_MAX_PATH + 1];

    path += *path == '/';
    size_t len = strlen(path);
    if (len >= sizeof part) {
        return 0;
    }
    for (size_t at = 1; at <= len; at++) {
        if (path[at] != '/' && path[at] != 0) {
            continue;
        }
        memcpy(part, path, at);
        part[at] = 0;
        if (match_path(pattern, part)) {
            return 1;
        }
    }
    return 0;
}

/* Is this path what the user asked for? Without a selection, everything is. */
static int is_selected(void *ctx, const char *path)
{
    const cli *c = ctx;

    for (size_t i = 0; i < c->select_count; i++) {
        if (selects(c->selects[i], path)) {
            return 1;
        }
    }
    return c->select_count == 0;
}

/* One line of the kept selection: what is wrong with it, or NULL. */
static const char *read_selected(cli *c, char *line, size_t len)
{
    if (memchr(line, 0, len) != NULL) {
        return "a NUL byte";
    }
    line[len] = 0;
    if (len > 0 && line[len - 1] == '\r') {
        line[--len] = 0;
    }
    for (const unsigned char *at = (const unsigned char *)line; *at != 0; at += utf8_length(at)) {
        if (utf8_length(at) == 0) {
            return "no UTF-8";
        }
    }
    return add_select(c, line);
}

/* The selection that the folder keeps, if it does: an exit code. */
static int read_selection(cli *c, const char *dir, const datsync_tree *tree)
{
    growing text;
    const char *fault = NULL;
    size_t line = 0;

    int error = read_whole(tree, SELECTION, &text);
    if (error == DATSYNC_E_NO_ENTRY || error == DATSYNC_E_NOT_FOLDER) {
        return DONE;
    }
    if (error < 0) {
        return fail(c, FAILED, "%s/" SELECTION ": %s", dir, datsync_strerror(error));
    }
    for (size_t at = 0; at < text.len && fault == NULL;) {
        char *end = memchr(text.text + at, '\n', text.len - at);
        size_t len = end != NULL ? (size_t)(end - text.text) - at : text.len - at;
        line++;
        fault = read_selected(c, text.text + at, len);
        at += len + 1;
    }
    fault = line == 0 ? "no pattern in it" : fault;
    free(text.text);
    return fault == NULL ? DONE
                         : fail(c, FAILED, "%s/" SELECTION ", line %llu: %s (--select or --all replaces it)", dir,
                                (unsigned long long)line, fault);
}

/* The same, for commands that only look at the folder. */
static int look_at_selection(cli *c, const char *dir)
{
    datsync_tree tree;

    memset(&tree, 0, sizeof tree);
    if (datsync_os_tree(&tree, dir, DATSYNC_READ_ONLY) < 0) {
        return DONE; /* opening the drive tells it */
    }
    int code = read_selection(c, dir, &tree);
    close_tree(&tree);
    return code;
}

/* Aside, then renamed: there is a whole one at any moment. */
static int write_selection(const cli *c, const datsync_tree *tree)
{
    growing text = {0};
    intptr_t file;

    for (size_t i = 0; i < c->select_count; i++) {
        put_buffer(&text, c->selects[i], strlen(c->selects[i]));
        put_buffer(&text, "\n", 1);
    }
    int error = text.failed ? DATSYNC_E_NOMEM : tree->mkdir(tree->ctx, ".dat"); /* which other layouts have not */
    error = error == 0 ? tree->open(tree->ctx, SELECTION ".new", 1, &file) : error;
    if (error == 0) {
        error = tree->truncate(tree->ctx, file, 0);
        error = error == 0 ? tree->write(tree->ctx, file, 0, text.text, text.len) : error;
        tree->close(tree->ctx, file);
    }
    free(text.text);
    error = error == 0 ? tree->rename(tree->ctx, SELECTION ".new", SELECTION) : error;
    return error == 0 ? tree->sync(tree->ctx) : error;
}

static int drop_selection(const datsync_tree *tree)
{
    int error = tree->unlink(tree->ctx, SELECTION);

    return error == DATSYNC_E_NO_ENTRY ? 0 : error == 0 ? tree->sync(tree->ctx) : error;
}

/* A download begins: what was asked for is kept; what is kept counts where nothing was asked for. */
static int settle_selection(cli *c, const char *dir)
{
    datsync_tree tree;

    memset(&tree, 0, sizeof tree);
    int code = DONE, error = datsync_os_tree(&tree, dir, 0);
    if (error == 0 && c->all) {
        error = drop_selection(&tree);
    } else if (error == 0 && c->select_count > 0) {
        error = write_selection(c, &tree);
    } else if (error == 0) {
        code = read_selection(c, dir, &tree);
    }
    close_tree(&tree);
    return error < 0 ? fail(c, FAILED, "%s/" SELECTION ": %s", dir, datsync_strerror(error)) : code;
}

/* ---------------------------------------------------------------- .datignore ------------------------------------ */

typedef struct rule {
    const char *pattern;
    int negate, folder, anchored;
} rule;

typedef struct ignoring {
    char *text; /* the file, cut into patterns */
    rule *rules;
    size_t count;
    int with_hidden;
} ignoring;

static void ignoring_free(ignoring *ig)
{
    free(ig->text);
    free(ig->rules);
    memset(ig, 0, sizeof *ig);
}

/* One line, which is cut as needed: NULL if it is a rule or nothing, else what is wrong with it. */
static const char *read_rule(char *line, size_t len, rule *out)
{
    memset(out, 0, sizeof *out);
    if (memchr(line, 0, len) != NULL) {
        return "a NUL byte";
    }
    line[len] = 0;
    while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == ' ') && !(len > 1 && line[len - 2] == '\\')) {
        line[--len] = 0;
    }
    if (len == 0 || line[0] == '#') {
        return NULL;
    }
    out->negate = line[0] == '!';
    line += out->negate;
    len -= (size_t)out->negate;
    if (len > 1 && line[len - 1] == '/') {
        out->folder = 1;
        line[--len] = 0;
    }
    out->anchored = strchr(line, '/') != NULL;
    out->pattern = line + (line[0] == '/');
    return glob_fault(out->pattern);
}

/* Reads the folder's .datignore, which need not be there. `bad` is called for each line that is no pattern. */
static int read_ignore(ignoring *ig, const datsync_tree *tree, void (*bad)(void *ctx, size_t line, const char *why),
                       void *ctx)
{
    growing text;
    size_t lines = 1;

    int error = read_whole(tree, ".datignore", &text);
    if (error < 0) {
        return error == DATSYNC_E_NO_ENTRY ? 0 : error;
    }
    for (size_t i = 0; i < text.len; i++) {
        lines += text.text[i] == '\n';
    }
    ig->text = text.text;
    ig->rules = calloc(lines, sizeof *ig->rules);
    if (ig->rules == NULL) {
        return DATSYNC_E_NOMEM;
    }
    size_t at = text.len >= 3 && memcmp(text.text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    for (size_t line = 1; line <= lines; line++) {
        char *end = memchr(text.text + at, '\n', text.len - at);
        size_t len = end != NULL ? (size_t)(end - text.text) - at : text.len - at;
        const char *why = read_rule(text.text + at, len, &ig->rules[ig->count]);
        if (why != NULL) {
            bad(ctx, line, why);
        } else if (ig->rules[ig->count].pattern != NULL) {
            ig->count++;
        }
        at += len + 1;
    }
    return 0;
}

/* What is left out without being asked: hidden files but .well-known/dat, and what the Finder leaves everywhere. */
static int is_hidden(const ignoring *ig, const char *path, const char *name, int is_folder)
{
    static const char known[] = ".well-known";
    size_t len = sizeof known - 1;

    if (strcmp(name, ".DS_Store") == 0) {
        return 1;
    }
    if (ig->with_hidden) {
        return 0;
    }
    if (strncmp(path, known, len) == 0 && path[len] == '/' && name == path + len + 1) {
        return strcmp(name, "dat") != 0;
    }
    return name[0] == '.' && !(is_folder && strcmp(path, known) == 0);
}

/* One path by itself: the last rule that fits decides. */
static int is_ruled_out(const ignoring *ig, const char *path, int is_folder)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    int out = is_hidden(ig, path, name, is_folder);

    for (size_t i = 0; i < ig->count; i++) {
        const rule *r = &ig->rules[i];
        if (r->negate == out && (is_folder || !r->folder) && match_path(r->pattern, r->anchored ? path : name)) {
            out = !r->negate;
        }
    }
    return out;
}

/* A path is left out if it is, or any folder that it lies in. */
static int is_ignored(const ignoring *ig, const char *path, int is_folder)
{
    char part[DATSYNC_MAX_PATH + 1];

    path += *path == '/';
    size_t len = strlen(path);
    if (len >= sizeof part) {
        return 0; /* the drive refuses it */
    }
    for (size_t at = 1; at < len; at++) {
        if (path[at] == '/') {
            memcpy(part, path, at);
            part[at] = 0;
            if (is_ruled_out(ig, part, 1)) {
                return 1;
            }
        }
    }
    return is_ruled_out(ig, path, is_folder);
}

/* ---------------------------------------------------------------- dat.json -------------------------------------- */

static const char *const about_names[] = {"title", "description", "url", "author", "license"};

enum { ABOUT = 5, ABOUT_URL = 2, ABOUT_MAX = 1024 };

/* What dat.json says of a drive; empty where it says nothing. */
typedef struct about {
    char text[ABOUT][ABOUT_MAX];
} about;

static const char *json_space(const char *s)
{
    return s + strspn(s, " \t\r\n");
}

static uint32_t json_hex(const char *s)
{
    char digits[5] = {0};

    if (strspn(s, "0123456789abcdefABCDEF") < 4) {
        return 0xfffd;
    }
    memcpy(digits, s, 4);
    return (uint32_t)strtoul(digits, NULL, 16);
}

/* The UTF-8 of a code point; returns its length. */
static size_t put_utf8(char out[4], uint32_t ch)
{
    static const unsigned char first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t len = ch < 0x80 ? 1 : ch < 0x800 ? 2 : ch < 0x10000 ? 3 : 4;

    for (size_t i = len; i-- > 1;) {
        out[i] = (char)(0x80 | (ch & 0x3f));
        ch >>= 6;
    }
    out[0] = (char)(len == 1 ? ch : first[len] | ch);
    return len;
}

/* What follows a backslash at *s, which is moved over it. */
static uint32_t json_escaped(const char **s)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *found = **s != 0 ? strchr(from, **s) : NULL;
    uint32_t ch = (unsigned char)**s;

    if (ch != 'u') {
        *s += **s != 0;
        return found != NULL ? (uint32_t)to[found - from] : ch;
    }
    ch = json_hex(*s + 1);
    *s += 1 + (strspn(*s + 1, "0123456789abcdefABCDEF") >= 4 ? 4 : 0);
    if (ch >= 0xd800 && ch < 0xdc00 && (*s)[0] == '\\' && (*s)[1] == 'u') {
        uint32_t low = json_hex(*s + 2);
        if (low >= 0xdc00 && low < 0xe000) {
            *s += 6;
            return 0x10000 + ((ch - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    return ch == 0 || (ch >= 0xd800 && ch < 0xe000) ? 0xfffd : ch;
}

/* The string whose quote s stands at, cut to cap: the place behind it, NULL if it does not end. */
static const char *json_read(const char *s, char *out, size_t cap)
{
    size_t len = 0;
    char piece[4];

    for (s++; *s != '"';) {
        size_t count = 1;
        if (*s == 0) {
            return NULL;
        }
        if (*s != '\\') {
            piece[0] = *s++;
        } else {
            s++;
            count = put_utf8(piece, json_escaped(&s));
        }
        if (len + count < cap) {
            memcpy(out + len, piece, count);
            len += count;
        }
    }
    out[len] = 0;
    return s + 1;
}

/* Over any value: NULL if it does not end. */
static const char *json_skip(const char *s)
{
    char none[1];
    size_t depth = 0;

    for (;;) {
        s = json_space(s);
        if (*s == 0 || (depth == 0 && (*s == ',' || *s == '}'))) {
            return *s == 0 ? NULL : s;
        }
        if (*s == '"') {
            s = json_read(s, none, sizeof none);
            if (s == NULL) {
                return NULL;
            }
            continue;
        }
        depth += *s == '{' || *s == '[';
        depth -= (*s == '}' || *s == ']') && depth > 0;
        s++;
    }
}

/* The members that are strings, as far as it is JSON. */
static void scan_about(const char *s, about *out)
{
    char name[64];

    memset(out, 0, sizeof *out);
    s = json_space(s);
    for (char before = '{'; *s == before; before = ',') {
        s = json_space(s + 1);
        s = *s == '"' ? json_read(s, name, sizeof name) : NULL;
        s = s != NULL ? json_space(s) : NULL;
        if (s == NULL || *s != ':') {
            return;
        }
        s = json_space(s + 1);
        for (int i = 0; i < ABOUT && *s == '"'; i++) {
            if (strcmp(name, about_names[i]) == 0) {
                json_read(s, out->text[i], ABOUT_MAX);
            }
        }
        s = json_skip(s);
        if (s == NULL) {
            return;
        }
    }
}

/* Makes dat.json where there is none. An error, or 1 if one was there. */
static int write_about(const cli *c, const datsync_tree *tree, const char *key)
{
    const char *values[ABOUT] = {c->title, c->description, "", c->author, c->license};
    datsync_file_info info;
    growing text = {0};
    char url[80];
    intptr_t file;

    int error = tree->stat(tree->ctx, "dat.json", &info);
    if (error != DATSYNC_E_NO_ENTRY) {
        return error < 0 ? error : 1;
    }
    snprintf(url, sizeof url, "dat://%s/", key);
    values[ABOUT_URL] = url;
    for (int i = 0, count = 0; i < ABOUT; i++) {
        if (values[i] != NULL) {
            put_buffer(&text, count++ == 0 ? "{\n  " : ",\n  ", 4);
            json_escape(put_buffer, &text, about_names[i]);
            put_buffer(&text, ": ", 2);
            json_escape(put_buffer, &text, values[i]);
        }
    }
    put_buffer(&text, "\n}\n", 3);
    error = text.failed ? DATSYNC_E_NOMEM : tree->open(tree->ctx, "dat.json", 1, &file);
    if (error == 0) {
        error = tree->write(tree->ctx, file, 0, text.text, text.len);
        tree->close(tree->ctx, file);
    }
    free(text.text);
    return error == 0 ? tree->sync(tree->ctx) : error;
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
    if (error == DATSYNC_E_ACCESS && (how->flags & DATSYNC_CREATE) == 0 &&
        (c->command->bit & (FEED_SHARE | FEED_VERIFY))) {
        opening again = *how; /* it can still be read: what can't be written can't be changed by others either */
        again.flags = DATSYNC_READ_ONLY;
        return (how->flags & DATSYNC_READ_ONLY) ? fail_feed(c, how->dir, error) : open_feed(c, &again, feed);
    }
    if (error == DATSYNC_E_OVERWRITTEN && c->command->bit == FEED_VERIFY && !c->overwritten) {
        opening again = *how;
        again.flags = DATSYNC_READ_ONLY | DATSYNC_SALVAGE;
        c->overwritten = 1;
        return open_feed(c, &again, feed);
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

/* The store of one of a drive's feeds. */
static int open_store(datsync_store *store, const char *dir, const char *parts, unsigned flags)
{
    char *place = join(dir, parts);

    if (place == NULL) {
        return DATSYNC_E_NOMEM;
    }
    char *slash = strrchr(place, '/');
    *slash = 0;
    int error = datsync_os_store(store, place, slash + 1, flags);
    free(place);
    return error;
}

/* The content of a drive whose header never came may have no folder yet. */
static int open_content(const cli *c, const opening *how, datsync_drive_options *options)
{
    unsigned flags = how->flags;

    if (!has_files(c) && (flags & DATSYNC_READ_ONLY) == 0) {
        flags |= DATSYNC_CREATE;
    }
    int error = open_store(&options->content, how->dir, c->layout->content, flags);
    return error == DATSYNC_E_NO_ENTRY && !has_files(c) ? 0 : error;
}

/* What becomes of a drive's folder while it is opened. */
static int open_drive_plugs(const cli *c, const opening *how, datsync_drive_options *options)
{
    /* share never makes a folder: a name that isn't there is a mistake */
    unsigned flags = c->command->bit == SHARE ? how->flags & ~(unsigned)DATSYNC_CREATE : how->flags;
    int error = has_files(c) ? datsync_os_tree(&options->tree, how->dir, flags) : 0;

    if (error == 0) {
        error = open_store(&options->metadata, how->dir, c->layout->metadata, how->flags);
    }
    if (error == 0) {
        error = open_content(c, how, options);
    }
    if (error == 0 && has_files(c)) {
        error = datsync_os_secrets(&options->secrets, c->secret_dir);
        if (error < 0 && c->secret_dir == NULL && !how->fresh && how->secret_key == NULL) {
            error = 0; /* there is no home folder, and nothing to put there */
        }
    }
    return error;
}

static void close_drive_plugs(datsync_drive_options *options)
{
    if (options->metadata.close != NULL) {
        options->metadata.close(options->metadata.ctx);
    }
    if (options->content.close != NULL) {
        options->content.close(options->content.ctx);
    }
    if (options->secrets.close != NULL) {
        options->secrets.close(options->secrets.ctx);
    }
    close_tree(&options->tree);
}

/* What the folder holds already, told in words before the drive itself is opened. */
static int check_folder(cli *c, const opening *how)
{
    uint8_t key[32];
    char text[65];

    c->layout = find_layout(how->dir, key);
    if (c->layout == NULL) {
        int create = (how->flags & DATSYNC_CREATE) != 0,
            code = create && !how->fresh ? DONE : check_beaker(c, how->dir);
        c->layout = &layouts[0];
        return code != DONE || create ? code : fail_drive(c, how->dir, DATSYNC_E_NOT_FOUND);
    }
    hex(text, key);
    if (how->fresh) {
        return fail(c, FAILED, "%s: is a drive already, dat://%s", how->dir, text);
    }
    if (how->key != NULL && !same_key(key, how->key)) {
        return fail(c, FAILED, "%s: holds another drive, dat://%s", how->dir, text);
    }
    return check_indexed(c, how->dir, c->layout);
}

/* The keys don't fit: if it is the file with the secret key that is wrong, it is named. */
static int fail_secret_file(cli *c, const char *dir, int error)
{
    datsync_secrets secrets;
    uint8_t key[32], discovery[32], secret[64];
    char name[65];

    if (!has_files(c)) {
        return fail(c, FAILED, "%s/%ssecret_key: this is not the secret key of the drive that is here", dir,
                    c->layout->metadata);
    }
    memset(&secrets, 0, sizeof secrets);
    if (find_layout(dir, key) == NULL || datsync_os_secrets(&secrets, c->secret_dir) < 0) {
        return fail_drive(c, dir, error);
    }
    datsync_discovery_key(discovery, key);
    int loaded = secrets.load(secrets.ctx, discovery, secret);
    secrets.close(secrets.ctx);
    int fits = loaded == 0 && same_key(secret + 32, key);
    memset(secret, 0, sizeof secret);
    if (fits || (loaded < 0 && loaded != DATSYNC_E_KEY)) {
        return fail_drive(c, dir, error);
    }
    hex(name, discovery);
    return fail(c, FAILED, "%s/%.2s/%s: %s", c->secret_dir != NULL ? c->secret_dir : "~/.dat/secret_keys", name,
                name + 2,
                loaded < 0 ? "a secret key has 64 bytes" : "this is not the secret key of the drive that is here");
}

/* Opens the drive in a folder: an exit code. */
static int open_drive(cli *c, const opening *how, datsync_drive **drive)
{
    datsync_drive_options options;

    int code = check_folder(c, how);
    if (code != DONE) {
        return code;
    }
    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.key = how->key;
    options.secret_key = how->secret_key;
    options.flags = how->flags | (c->no_sync ? DATSYNC_NO_SYNC : 0u) | (c->archive ? DATSYNC_ARCHIVE : 0u);
    errno = 0;
    int error = open_drive_plugs(c, how, &options);
    int number = error == DATSYNC_E_IO ? errno : 0;
    if (error == 0) {
        error = datsync_drive_open(drive, &options);
    } else {
        close_drive_plugs(&options);
    }
    if (number != 0) {
        return fail_file(c, how->dir, number);
    }
    if (error == DATSYNC_E_KEY && how->secret_key == NULL) {
        return fail_secret_file(c, how->dir, error);
    }
    if (error == DATSYNC_E_ACCESS && how->flags == 0 && (c->command->bit & (SHARE | VERIFY))) {
        opening again = *how; /* it can still be read: what can't be written can't be changed by others either */
        again.flags = DATSYNC_READ_ONLY;
        return open_drive(c, &again, drive);
    }
    if (error == DATSYNC_E_OVERWRITTEN && c->command->bit == VERIFY && !c->overwritten) {
        opening again = *how;
        again.flags = DATSYNC_READ_ONLY | DATSYNC_SALVAGE;
        c->overwritten = 1;
        return open_drive(c, &again, drive);
    }
    return error != 0 ? fail_drive(c, how->dir, error) : DONE;
}

/* Commits; an error of that is the command's. */
static int close_drive(cli *c, const char *dir, datsync_drive *drive, int code)
{
    int error = datsync_drive_close(drive);

    if (error != 0 && !c->said) {
        return fail_drive(c, dir, error);
    }
    return error != 0 && code == DONE ? FAILED : code;
}

/* The secret key may be here while the drive is open for reading only. */
static int is_owner(const datsync_drive *drive)
{
    return datsync_drive_writable(drive) || datsync_feed_secret_key(datsync_drive_metadata(drive)) != NULL;
}

/* The drive in the first word's folder, for a command that only looks at it. */
static int look_into(cli *c, const char *dir, datsync_drive **drive)
{
    opening how = {dir, NULL, NULL, DATSYNC_READ_ONLY, 0};

    return open_drive(c, &how, drive);
}

/* The words from `first` on: a folder, by default this one. */
static const char *folder_word(const cli *c, int first)
{
    return c->word_count > first ? c->words[first] : ".";
}

/* ---------------------------------------------------------------- feed create ------------------------------------- */

static int read_secret_key(cli *c, uint8_t secret[64])
{
    int in = strcmp(c->secret_key, "-") == 0;
    FILE *file = in ? stdin : datsync_os_fopen(c->secret_key);
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

static int feed_create(cli *c)
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

/* ---------------------------------------------------------------- feed append ------------------------------------- */

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
    FILE *file = in ? stdin : datsync_os_fopen(name);

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

static int feed_append(cli *c)
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

/* ---------------------------------------------------------------- feed cat, info, verify -------------------------- */

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

static int feed_cat(cli *c)
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

static int feed_info(cli *c)
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
    const char *prefix; /* of the files' names */
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
        printf(",\"file\":\"%s%s\"", v->prefix, name);
        json_end();
    } else {
        printf("bad %llu %s%s\n", (unsigned long long)index, v->prefix, name);
    }
}

static int tell_verified(const verifying *v, const char *dir, uint64_t good, const char *what)
{
    if (v->c->json) {
        json_begin("verified");
        json_number("ok", good);
        json_number("bad", v->bad);
        json_end();
    } else if (v->bad == 0 && !v->c->overwritten) {
        printf("ok %llu\n", (unsigned long long)good);
    }
    if (v->c->overwritten) { /* whatever is good, nothing else opens it */
        return fail(v->c, FAILED,
                    "%s: the bitfield's header is zeroed, as hypercore's `overwrite` leaves it; without it, by tree, "
                    "signatures and data, good %s: %llu; nothing was changed",
                    dir, what, (unsigned long long)good);
    }
    return v->bad == 0 ? DONE
                       : fail(v->c, FAILED, "%s: faults: %llu; good %s: %llu", dir, (unsigned long long)v->bad, what,
                              (unsigned long long)good);
}

static int feed_verify(cli *c)
{
    datsync_feed *feed = NULL;
    verifying v = {c, 0, ""};
    opening how = {c->words[0], NULL, NULL, 0, 0};

    int code = open_feed(c, &how, &feed);
    if (code != DONE) {
        return code;
    }
    int64_t good = datsync_feed_audit(feed, on_fault, &v);
    code = good < 0 ? fail_feed(c, how.dir, (int)good) : tell_verified(&v, how.dir, (uint64_t)good, "blocks");
    return close_feed(c, how.dir, feed, code);
}

/* ---------------------------------------------------------------- progress -------------------------------------- */

/* Rates, over half a second or more, smoothed. */
typedef struct meter {
    uint64_t at, blocks, bytes;
    double block_rate, byte_rate; /* a second */
} meter;

static void measure(meter *m, uint64_t now, uint64_t blocks, uint64_t bytes)
{
    double seconds = (double)(now - m->at) / 1000.0;

    if (seconds < 0.5) {
        return;
    }
    double weight = m->byte_rate > 0 ? 0.3 : 1.0;
    m->block_rate += weight * ((double)(blocks - m->blocks) / seconds - m->block_rate);
    m->byte_rate += weight * ((double)(bytes - m->bytes) / seconds - m->byte_rate);
    m->at = now;
    m->blocks = blocks;
    m->bytes = bytes;
}

/* A bar for held of total (none if total is 0), and the text, in the terminal's last line. */
static void draw_bar(cli *c, int columns, uint64_t held, uint64_t total, const char *text)
{
    int room = columns - (int)strlen(text) - 5;

    fputs("\r\033[K", stderr);
    room = room > 40 ? 40 : room;
    if (total > 0 && room >= 8) {
        int filled = (int)((double)held / (double)total * room);
        fputc('[', stderr);
        for (int i = 0; i < room; i++) {
            fputc(i < filled ? '=' : i == filled ? '>' : ' ', stderr);
        }
        fputs("] ", stderr);
    }
    fprintf(stderr, "%.*s", columns > 1 ? columns - 1 : 0, text);
    fflush(stderr);
    c->bar_drawn = 1;
}

static int terminal(const cli *c)
{
    return c->quiet || c->json ? 0 : datsync_os_terminal();
}

/* ---------------------------------------------------------------- importing ------------------------------------- */

/* What was told already, as hashes: a folder that is watched has the same faults at each look. */
typedef struct told {
    uint64_t *slots;
    size_t count, cap;
} told;

static size_t told_slot(const told *t, uint64_t hash)
{
    size_t at = (size_t)hash & (t->cap - 1);

    while (t->slots[at] != 0 && t->slots[at] != hash) {
        at = (at + 1) & (t->cap - 1);
    }
    return at;
}

/* FNV-1a; never 0. */
static uint64_t hash_of(const char *text, int64_t number)
{
    uint64_t hash = 14695981039346656037u ^ (uint64_t)number;

    for (; *text != 0; text++) {
        hash = (hash ^ (unsigned char)*text) * 1099511628211u;
    }
    return hash | (hash == 0);
}

/* 1 the first time. */
static int told_first(told *t, const char *text, int64_t number)
{
    uint64_t hash = hash_of(text, number);

    if (2 * t->count >= t->cap) {
        told grown = {calloc(t->cap > 0 ? 2 * t->cap : 64, sizeof *t->slots), t->count, t->cap > 0 ? 2 * t->cap : 64};
        if (grown.slots == NULL) {
            return 1;
        }
        for (size_t i = 0; i < t->cap; i++) {
            if (t->slots[i] != 0) {
                grown.slots[told_slot(&grown, t->slots[i])] = t->slots[i];
            }
        }
        free(t->slots);
        *t = grown;
    }
    size_t at = told_slot(t, hash);
    int first = t->slots[at] == 0;
    t->slots[at] = hash;
    t->count += (size_t)first;
    return first;
}

/* A file that changed and is waited for. */
typedef struct waiting {
    uint64_t name; /* hash of its path */
    uint64_t size, mtime;
    uint64_t since, rests; /* when it was first seen to change, and when its size and time were last seen to */
    uint64_t scan;         /* the last one that asked for it */
} waiting;

typedef struct importing {
    cli *c;
    const char *dir;
    datsync_drive *drive;
    datsync_tree tree; /* a second look at the folder, for what is the command's own there */
    datsync *ds;       /* once it is shared: the network goes on meanwhile */
    int only_count;    /* tell nothing */
    int shares, watches; /* it is imported to be shared; and goes on being imported */
    int network;       /* its error, which ended the import */
    ignoring rules;
    told told;
    waiting *waits; /* those that wait, by the hash of their path */
    size_t wait_count, wait_cap;
    uint64_t scan;
    uint64_t first_bytes, later; /* bytes that were read before it is shared; files that are read later */
    uint64_t counts[DATSYNC_REFUSED + 1]; /* of this import, by enum datsync_change */
    uint64_t files, bytes, ended_bytes;   /* that are done of it */
    uint64_t began, turned_at, shown_at, shown_bytes;
    meter meter;
    int columns;
} importing;

static void importing_end(importing *im)
{
    ignoring_free(&im->rules);
    free(im->told.slots);
    free(im->waits);
    close_tree(&im->tree);
}

static int importing_begin(importing *im, cli *c, const char *dir, datsync_drive *drive)
{
    memset(im, 0, sizeof *im);
    im->c = c;
    im->dir = dir;
    im->drive = drive;
    im->columns = terminal(c);
    int error = datsync_os_tree(&im->tree, dir, DATSYNC_READ_ONLY);
    return error < 0 ? fail_drive(c, dir, error) : DONE;
}

static void on_bad_rule(void *ctx, size_t line, const char *why)
{
    importing *im = ctx;
    char what[64];

    snprintf(what, sizeof what, ".datignore, line %llu", (unsigned long long)line);
    if (!im->only_count && told_first(&im->told, why, -(int64_t)line)) {
        complain(im->c, what, why);
    }
}

/* Do the two halves of a secret key belong together? */
static int is_secret_key(const uint8_t secret[64])
{
    datsync_feed_options options;
    datsync_feed *feed;

    memset(&options, 0, sizeof options);
    options.secret_key = secret;
    options.key = secret + 32;
    options.flags = DATSYNC_CREATE;
    return datsync_feed_open(&feed, &options) == 0 && datsync_feed_close(feed) == 0;
}

/* Is this the name of one? `secret_key`, `metadata.secret_key`, or the digits under which the folder of secret keys has it: `ab/cdef...` */
static int names_secret_key(const char *path)
{
    static const char known[] = "secret_key";
    size_t len = strlen(path), digits = strspn(path + (len > 62 ? len - 62 : 0), "0123456789abcdef");

    if (len > 65 && digits == 62) {
        return path[len - 63] == '/' && path[len - 66] == '/' && strspn(path + len - 65, "0123456789abcdef") == 2;
    }
    return len >= sizeof known && strcmp(path + len - (sizeof known - 1), known) == 0 && strchr("/.", path[len - sizeof known]) != NULL;
}

/* A feed's or a drive's, wherever it lies. */
static int is_secret_file(const datsync_tree *tree, const char *path)
{
    growing text;
    int found = 0;

    if (names_secret_key(path) && read_whole(tree, path + 1, &text) == 0) {
        found = text.len == 64 && is_secret_key((const uint8_t *)text.text);
        free(text.text);
    }
    return found;
}

/* A secret key is left out whatever the rules say: who has it writes in the owner's name, and what is published once can't be taken
 * back. */
static int on_ignore(void *ctx, const char *path, int is_folder)
{
    importing *im = ctx;

    if (is_ignored(&im->rules, path, is_folder)) {
        return 1;
    }
    if (is_folder || !is_secret_file(&im->tree, path)) {
        return 0;
    }
    if (!im->only_count && told_first(&im->told, path, 0)) {
        complain(im->c, path, "not imported: it is a secret key");
    }
    return 1;
}

static waiting *waits_slot(waiting *table, size_t cap, uint64_t name)
{
    size_t at = (size_t)name & (cap - 1);

    while (table[at].name != 0 && table[at].name != name) {
        at = (at + 1) & (cap - 1);
    }
    return &table[at];
}

/* A table of this size, with those that the scan from this one on has asked for: 0 if there is no memory. */
static int waits_move(importing *im, size_t cap, uint64_t scan)
{
    waiting *table = calloc(cap, sizeof *table);
    size_t count = 0;

    if (table == NULL) {
        return 0;
    }
    for (size_t i = 0; i < im->wait_cap; i++) {
        if (im->waits[i].name != 0 && im->waits[i].scan >= scan) {
            *waits_slot(table, cap, im->waits[i].name) = im->waits[i];
            count++;
        }
    }
    free(im->waits);
    im->waits = table;
    im->wait_cap = cap;
    im->wait_count = count;
    return 1;
}

/* The file that waits under this name, with scan 0 if it is new; NULL if no more can wait. */
static waiting *waits_for(importing *im, uint64_t name)
{
    if (2 * im->wait_count >= im->wait_cap) {
        size_t cap = im->wait_cap > 0 ? 2 * im->wait_cap : 64;
        if (cap > 2 * CLI_MAX_WAITING || !waits_move(im, cap, 0)) {
            return NULL;
        }
    }
    waiting *w = waits_slot(im->waits, im->wait_cap, name);
    im->wait_count += w->name == 0;
    w->name = name;
    return w;
}

/* A file that is still being written is not taken before it rests, or once a minute where it never does. */
static int on_ready(void *ctx, const char *path, const datsync_file_info *info, int maybe_same)
{
    importing *im = ctx;
    (void)maybe_same;
    uint64_t now = datsync_os_clock(NULL);
    waiting *w = waits_for(im, hash_of(path, 0));

    if (w == NULL) {
        return 1;
    }
    if (w->scan == 0) {
        w->since = now;
    }
    if (w->scan == 0 || w->size != info->size || w->mtime != info->mtime) {
        w->rests = now;
        w->size = info->size;
        w->mtime = info->mtime;
    }
    w->scan = im->scan;
    if (now - w->rests < CLI_REST_MS && now - w->since < CLI_RESTLESS_MS) {
        return 0;
    }
    w->since = now;
    return 1;
}

/* Before the folder is shared only so much is read of files that may be the same: the rest can wait, and be read while what is clear
 * is served. */
static int on_first(void *ctx, const char *path, const datsync_file_info *info, int maybe_same)
{
    importing *im = ctx;

    (void)path;
    im->first_bytes += maybe_same ? info->size : 0;
    if (!maybe_same || im->first_bytes <= CLI_FIRST_BYTES) {
        return 1;
    }
    im->later++;
    return 0;
}

/* Those that this scan didn't ask for are gone, or as they were. */
static void forget_waiting(importing *im)
{
    if (im->wait_count > 0) {
        (void)waits_move(im, im->wait_cap, im->scan);
    }
}

static void show_import(importing *im, uint64_t now)
{
    char text[160], size[32], rate[32];
    uint64_t pause = im->columns > 0 ? CLI_BAR_MS : CLI_LINE_MS;

    if (im->c->json || im->c->quiet || im->ds != NULL || now - im->shown_at < pause || im->bytes == im->shown_bytes) {
        return;
    }
    measure(&im->meter, now, im->files, im->bytes);
    im->shown_at = now;
    im->shown_bytes = im->bytes;
    snprintf(text, sizeof text, "importing  %llu file%s  %s  %s/s", (unsigned long long)im->files,
             im->files == 1 ? "" : "s", amount(size, (double)im->bytes), amount(rate, im->meter.byte_rate));
    if (im->columns > 0) {
        draw_bar(im->c, im->columns, 0, 0, text);
    } else {
        note(im->c, "%s", text);
    }
}

static void tell_import(importing *im, const datsync_import_event *event)
{
    static const char *const names[] = {"added", "updated", "removed"};

    if (event->change == DATSYNC_REFUSED) {
        if (told_first(&im->told, event->path, event->error)) {
            complain(im->c, event->path, datsync_strerror(event->error));
            if (im->c->json) {
                json_begin("refused");
                json_string("path", event->path);
                json_reason(event->error);
                json_end();
            }
        }
    } else if (im->c->json) {
        json_begin("import");
        json_string("change", names[event->change]);
        json_string("path", event->path);
        json_number("size", event->size);
        json_end();
    } else if (im->ds != NULL) {
        note(im->c, "%s %s", names[event->change], event->path);
    }
}

static int on_import(void *ctx, const datsync_import_event *event)
{
    importing *im = ctx;
    uint64_t now = datsync_os_clock(NULL);
    int brings = event->change == DATSYNC_ADDED || event->change == DATSYNC_UPDATED;

    im->bytes = im->ended_bytes + (brings ? event->done : 0);
    if (event->done == event->size || im->only_count) {
        im->ended_bytes = im->bytes;
        im->files += (uint64_t)brings;
        im->counts[event->change]++;
        if (event->change != DATSYNC_UNCHANGED && !im->only_count) {
            tell_import(im, event);
        }
    }
    if (!im->only_count) {
        show_import(im, now);
    }
    if (im->ds != NULL && now - im->turned_at >= CLI_TURN_MS) {
        int error = datsync_poll(im->ds, 0);
        im->turned_at = datsync_os_clock(NULL);
        im->network = error < 0 ? error : im->network;
    }
    return im->network < 0 || datsync_os_stopped(NULL) != 0;
}

static void tell_imported(importing *im)
{
    const uint64_t *n = im->counts;
    char size[32], time[32];
    int changed = n[DATSYNC_ADDED] + n[DATSYNC_UPDATED] + n[DATSYNC_REMOVED] > 0;

    if (im->ds != NULL && !changed) {
        return;
    }
    if (im->c->json) {
        json_begin("imported");
        json_number("added", n[DATSYNC_ADDED]);
        json_number("updated", n[DATSYNC_UPDATED]);
        json_number("removed", n[DATSYNC_REMOVED]);
        json_number("refused", n[DATSYNC_REFUSED]);
        json_number("version", datsync_drive_version(im->drive));
        json_end();
    } else if (im->ds == NULL && changed) {
        note(im->c, "imported: %llu added, %llu updated, %llu removed; %s in %s", (unsigned long long)n[DATSYNC_ADDED],
             (unsigned long long)n[DATSYNC_UPDATED], (unsigned long long)n[DATSYNC_REMOVED],
             amount(size, (double)im->bytes), elapsed(time, (double)(datsync_os_clock(NULL) - im->began + 1) / 1000.0));
    }
    bar_clear(im->c);
}

/* Brings the drive up to its folder: an exit code. What is refused is told and counted; it is no error here. */
static int import_folder(importing *im)
{
    datsync_import_options options;

    ignoring_free(&im->rules);
    memset(im->counts, 0, sizeof im->counts);
    im->files = im->bytes = im->ended_bytes = im->shown_bytes = 0;
    im->rules.with_hidden = im->c->with_hidden;
    im->began = im->shown_at = im->meter.at = datsync_os_clock(NULL);
    int error = read_ignore(&im->rules, &im->tree, on_bad_rule, im);
    if (error < 0) {
        return fail(im->c, FAILED, "%s/.datignore: %s", im->dir, datsync_strerror(error));
    }
    memset(&options, 0, sizeof options);
    options.ctx = im;
    options.ignore = on_ignore;
    options.on_event = on_import;
    options.dry_run = im->only_count;
    if (im->ds != NULL && im->watches) {
        options.ready = on_ready;
    } else if (im->ds == NULL && im->shares) {
        options.ready = on_first;
    }
    im->scan++;
    int64_t changes = datsync_drive_import(im->drive, &options);
    forget_waiting(im);
    error = im->network < 0 ? im->network : changes < 0 ? (int)changes : 0;
    if (error == 0 && !im->only_count) {
        error = datsync_drive_flush(im->drive);
    }
    if (error == DATSYNC_E_AGAIN && datsync_os_stopped(NULL)) {
        bar_clear(im->c);
        return (im->c->command->bit & (SHARE | SYNC))
                   ? INTERRUPTED
                   : fail(im->c, INTERRUPTED, "%s: interrupted; what was imported is kept", im->dir);
    }
    if (error < 0) {
        return fail_drive(im->c, im->dir, error);
    }
    if (!im->only_count) {
        tell_imported(im);
    }
    return DONE;
}

/* The last line when files were left behind. */
static int fail_refused(cli *c, const char *dir, uint64_t count, const char *what)
{
    return fail(c, FAILED, "%s: %llu %s, named above, %s %s", dir, (unsigned long long)count,
                count == 1 ? "entry" : "entries", count == 1 ? "was" : "were", what);
}

/* ---------------------------------------------------------------- transfer -------------------------------------- */

/* A feed or a drive on the network. */
typedef struct transfer {
    cli *c;
    const char *dir;
    datsync *ds;
    datsync_feed *feed;   /* a drive's is its metadata */
    datsync_drive *drive; /* NULL for a bare feed */
    importing *watch;     /* the owner's folder, where it is imported while it is shared */
    char key[65];
    int sharing, live, complete, timed_out, ended;
    int broken;                              /* importing failed, and has said why */
    int failed;                              /* a store's error */
    uint64_t version, plan_bytes, plan_done; /* what is being laid out, and the bytes of content to download for it */
    uint64_t entries, refused;               /* laid out in this run; not laid out of the last version */
    uint64_t unmatched, checked_version;     /* patterns of the selection that match nothing; in which version */
    int checked;
    int no_key;          /* the owner's folder, without the secret key */
    uint64_t peers_seen; /* connections that spoke this feed's key */
    uint64_t began;
    uint64_t fresh_at, fresh_count;                  /* when the last verified byte was seen */
    uint64_t blocks, bytes, sent_blocks, sent_bytes; /* of this run */
    uint64_t shown_at, shown_change;
    meter meter;
    int columns, link_told;
    char trouble[512]; /* the last thing that went wrong with a peer, for the last line */
} transfer;

static uint64_t changed(const transfer *t)
{
    return t->blocks + t->sent_blocks + t->entries;
}

/* What is wanted and what of it is here: of a feed in blocks, as far as its length is known; of a drive the bytes of the
 * version that is being laid out, once it is known what there is. */
static void counts(const transfer *t, uint64_t *held, uint64_t *total)
{
    uint64_t length = datsync_feed_length(t->feed), offered = datsync_offered(t->ds, t->feed);
    range all = {0, UINT64_MAX};
    const range *ranges = t->c->range_count > 0 ? t->c->ranges : &all;
    size_t count = t->c->range_count > 0 ? t->c->range_count : 1;

    *held = t->plan_done < t->plan_bytes ? t->plan_done : t->plan_bytes;
    *total = t->plan_bytes;
    if (t->drive != NULL) {
        return;
    }
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

/* 3 of 4 blocks; 1.2 MB of 3.4 MB */
static const char *portion(const transfer *t, char out[96], uint64_t held, uint64_t total)
{
    char left[32], right[32];

    if (t->drive != NULL) {
        snprintf(out, 96, "%s of %s", amount(left, (double)held), amount(right, (double)total));
    } else {
        snprintf(out, 96, "%llu of %llu blocks", (unsigned long long)held, (unsigned long long)total);
    }
    return out;
}

static void describe(const transfer *t, char *out, size_t cap)
{
    char size[32], rate[32], left[32], part[96];
    uint64_t held, total;
    unsigned peers = datsync_peers(t->ds);
    const char *plural = peers == 1 ? "" : "s";
    double speed = t->drive != NULL ? t->meter.byte_rate : t->meter.block_rate;

    if (t->sharing) {
        snprintf(out, cap, "%s sent  %s/s  %u peer%s", amount(size, (double)t->sent_bytes),
                 amount(rate, t->meter.byte_rate), peers, plural);
        return;
    }
    counts(t, &held, &total);
    if (total == 0 && t->blocks > 0) {
        snprintf(out, cap, "%llu entries known  %u peer%s", (unsigned long long)datsync_feed_length(t->feed), peers,
                 plural);
    } else if (total == 0) {
        snprintf(out, cap, peers > 0 ? "asking %u peer%s" : "no peer yet", peers, plural);
    } else {
        snprintf(out, cap, "%3u%%  %s  %s  %s/s  %s left  %u peer%s", (unsigned)((double)held * 100 / (double)total),
                 portion(t, part, held, total), amount(size, (double)t->bytes), amount(rate, t->meter.byte_rate),
                 speed > 0 ? duration(left, (double)(total - held) / speed) : "?", peers, plural);
    }
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
    json_number("rate", (uint64_t)t->meter.byte_rate);
    json_number("peers", datsync_peers(t->ds));
    json_end();
}

static void measure_transfer(transfer *t, uint64_t now)
{
    measure(&t->meter, now, t->blocks + t->sent_blocks, t->bytes + t->sent_bytes);
}

/* Of a terminal: a bar, ten times a second; else a line now and then. JSON: once a second, when something moved. */
static void show(transfer *t, uint64_t now, int tick)
{
    cli *c = t->c;
    char text[256];
    uint64_t held = 0, total = 0;

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
            measure_transfer(t, now);
            describe(t, text, sizeof text);
            if (!t->sharing) {
                counts(t, &held, &total);
            }
            draw_bar(c, t->columns, held, total, text);
        }
    } else if (tick && now - t->shown_at >= CLI_LINE_MS && changed(t) != t->shown_change) {
        t->shown_at = now;
        t->shown_change = changed(t);
        describe(t, text, sizeof text);
        note(c, "%s", text);
    }
}

static void stop(transfer *t)
{
    t->ended = 1;
    datsync_stop(t->ds);
}

typedef struct matching {
    const cli *c;
    int hit[CLI_MAX_SELECTS];
} matching;

static int on_candidate(void *ctx, const datsync_entry *entry)
{
    matching *m = ctx;

    for (size_t i = 0; i < m->c->select_count; i++) {
        m->hit[i] = m->hit[i] || selects(m->c->selects[i], entry->path);
    }
    return 0;
}

/* A pattern that nothing in the version fits is a mistake, or has become one: each is named, once for each version. */
static void check_selection(transfer *t)
{
    cli *c = t->c;
    matching m = {c, {0}};

    if (!t->complete || c->select_count == 0 || (t->checked && t->checked_version == t->version)) {
        return;
    }
    t->checked = 1;
    t->checked_version = t->version;
    t->unmatched = 0;
    if (t->version > 0 && datsync_drive_list(t->drive, t->version, "/", 1, on_candidate, &m, NULL) < 0) {
        return;
    }
    for (size_t i = 0; i < c->select_count; i++) {
        if (!m.hit[i]) {
            t->unmatched++;
            complain(c, c->selects[i],
                     strchr(c->selects[i], ',') != NULL
                         ? "nothing in this version matches this pattern (of several, each needs its own --select)"
                         : "nothing in this version matches this pattern");
        }
    }
}

static void on_tick(transfer *t)
{
    uint64_t now = datsync_os_clock(NULL);

    if (t->blocks + t->entries != t->fresh_count) {
        t->fresh_count = t->blocks + t->entries;
        t->fresh_at = now;
    }
    check_selection(t);
    measure_transfer(t, now);
    show(t, now, 1);
    if (!t->sharing && !t->complete && t->c->timeout > 0 && now - t->fresh_at >= t->c->timeout * 1000u) {
        t->timed_out = 1;
        stop(t);
    }
}

/* A feed's first block may say that it is a drive's metadata. */
static int is_drive_header(datsync_feed *feed)
{
    static const char header[] = "\n\nhyperdrive";
    char block[128];
    int64_t size = datsync_feed_has(feed, 0) ? datsync_feed_get(feed, 0, block, sizeof block) : 0;

    return size >= (int64_t)sizeof header - 1 && memcmp(block, header, sizeof header - 1) == 0;
}

static void on_block(transfer *t, const datsync_event *event, int sent)
{
    if (sent) {
        t->sent_blocks++;
        t->sent_bytes += event->size;
    } else {
        t->blocks++;
        t->bytes += event->size;
        if (t->drive != NULL && event->feed != t->feed) {
            t->plan_done += event->size;
        }
        if (t->drive == NULL && event->index == 0 && is_drive_header(t->feed)) {
            note(t->c, "this feed is a drive's: datsync clone dat://%s fetches its files", t->key);
        }
    }
    if (t->columns > 0 && (changed(t) & 15) == 0) {
        show(t, datsync_os_clock(NULL), 0);
    }
}

static void tell_link(transfer *t)
{
    if (t->link_told || t->c->command->bit == LS) {
        return;
    }
    t->link_told = 1;
    if (t->c->json) {
        json_begin(t->drive != NULL ? "drive" : "feed");
        json_string("key", t->key);
        if (t->drive != NULL) {
            json_number("version", datsync_drive_version(t->drive));
            json_number("laid_out", datsync_drive_laid_out(t->drive));
            json_bool("writable", datsync_drive_writable(t->drive));
            if (t->no_key) {
                json_bool("key_missing", 1);
            }
        } else {
            json_number("length", datsync_feed_length(t->feed));
            json_number("held", datsync_feed_count(t->feed, 0, datsync_feed_length(t->feed)));
        }
        json_end();
    } else if (t->c->command->bit & (FEED_SHARE | SHARE | SYNC)) {
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
    } else if (t->c->command->bit & (LS | CAT)) {
        note(t->c, "listening on %s", address); /* standard output is for what was asked */
    } else {
        bar_clear(t->c);
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
        note(t->c, "%s: connected", event->address);
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
        json_reason(event->error);
        if (event->type == DATSYNC_EV_UNREACHABLE) {
            json_bool("again", !dropped);
        }
        json_end();
    } else if (event->type == DATSYNC_EV_REJECT) {
        note(t->c, "%s", t->trouble);
    } else if (event->type == DATSYNC_EV_UNREACHABLE && !dropped && strcmp(before, t->trouble) == 0) {
        return; /* the same as before: people have read it */
    } else if (event->type == DATSYNC_EV_UNREACHABLE) {
        note(t->c, "%s: %s; %s", event->address, why, dropped ? "given up" : "trying again");
    } else {
        note(t->c, "%s: %s", event->address, why);
    }
}

/* Not the whole version, where there is a selection. */
static const char *selection_of(const cli *c)
{
    return c->select_count > 0 ? "the selection of " : "";
}

static void json_selection(const cli *c)
{
    if (c->select_count == 0) {
        return;
    }
    fputs(",\"selection\":[", stdout);
    for (size_t i = 0; i < c->select_count; i++) {
        fputs(i > 0 ? "," : "", stdout);
        json_escape(put_file, stdout, c->selects[i]);
    }
    putchar(']');
}

/* The feed, or a version of the drive, is here. */
static void on_complete(transfer *t, const datsync_event *event)
{
    uint64_t length = datsync_feed_length(t->feed);

    if (t->sharing || (t->drive != NULL) != (event->type == DATSYNC_EV_VERSION)) {
        return;
    }
    t->complete = 1;
    t->version = event->index;
    t->refused = t->drive != NULL && !(t->c->command->bit & (LS | CAT)) ? event->size : 0;
    if (t->c->json && t->c->command->bit != LS) {
        if (t->blocks > 0) {
            measure_transfer(t, datsync_os_clock(NULL));
            tell_json_progress(t);
        }
        json_begin("complete");
        if (t->drive != NULL) {
            json_number("version", t->version);
            json_number("refused", t->refused);
            json_selection(t->c);
        } else {
            json_number("length", length);
            json_number("held", datsync_feed_count(t->feed, 0, length));
        }
        json_number("bytes", t->bytes);
        json_end();
    } else if (t->live && t->drive != NULL) {
        note(t->c, "complete: %sversion %llu", selection_of(t->c), (unsigned long long)t->version);
    } else if (t->live) {
        note(t->c, "complete: %llu blocks", (unsigned long long)length);
    }
    if (!t->live) {
        stop(t);
    }
}

static void complain_unserved(cli *c, const char *path, int error)
{
    char why[160];

    snprintf(why, sizeof why, "not served: %s",
             error == DATSYNC_E_CHANGED ? "it is not as it was recorded" : datsync_strerror(error));
    complain(c, path, why);
}

/* What a drive's laying out and serving tell. */
static void on_drive(transfer *t, const datsync_event *event)
{
    cli *c = t->c;

    switch (event->type) {
    case DATSYNC_EV_PLAN:
        t->plan_bytes = event->size;
        t->plan_done = 0;
        break;
    case DATSYNC_EV_ENTRY:
        t->entries++;
        if (c->json) {
            json_begin("entry");
            json_string("path", event->path);
            json_number("version", event->index);
            json_number("size", event->size);
            json_end();
        }
        break;
    case DATSYNC_EV_REMOVED:
        t->entries++;
        if (c->json) {
            json_begin("removed");
            json_string("path", event->path);
            json_end();
        }
        break;
    case DATSYNC_EV_AWAY:
        complain_unserved(c, event->path, event->error);
        if (c->json) {
            json_begin("away");
            json_string("path", event->path);
            json_reason(event->error);
            json_end();
        }
        break;
    case DATSYNC_EV_BACK:
        note(c, "%s: served again", event->path);
        if (c->json) {
            json_begin("back");
            json_string("path", event->path);
            json_end();
        }
        break;
    default:
        if (c->command->bit & (LS | CAT)) {
            break; /* nothing is laid out */
        }
        complain(c, event->path, datsync_strerror(event->error));
        if (c->json) {
            json_begin("refused");
            json_string("path", event->path);
            json_reason(event->error);
            json_end();
        }
        break;
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
    case DATSYNC_EV_VERSION:
        on_complete(t, event);
        break;
    case DATSYNC_EV_FAILED:
        t->failed = event->error;
        stop(t);
        break;
    case DATSYNC_EV_TICK:
        on_tick(t);
        break;
    case DATSYNC_EV_PLAN:
    case DATSYNC_EV_ENTRY:
    case DATSYNC_EV_REMOVED:
    case DATSYNC_EV_REFUSED:
    case DATSYNC_EV_AWAY:
    case DATSYNC_EV_BACK:
        on_drive(t, event);
        break;
    default:
        break;
    }
}

/* A share that wasn't told where listens on the usual port, or another if that is taken. */
static int is_listening(const cli *c)
{
    return !c->no_listen && (c->listen != NULL || (c->command->bit & (FEED_SHARE | SHARE | SYNC)));
}

static int start_listening(transfer *t)
{
    cli *c = t->c;
    int usual = c->listen == NULL;

    if (!is_listening(c)) {
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

static int fail_store(const transfer *t, int error)
{
    uint64_t newest = t->drive != NULL ? datsync_drive_version(t->drive) : 0;

    if (t->drive != NULL && error == DATSYNC_E_NOT_FOUND && t->c->checkout > newest) {
        return fail(t->c, FAILED, "%s: the newest version known is %llu", t->dir, (unsigned long long)newest);
    }
    return t->drive != NULL ? fail_drive(t->c, t->dir, error) : fail_feed(t->c, t->dir, error);
}

static void on_missing(void *ctx, const datsync_entry *entry, int error)
{
    cli *c = ctx;

    complain(c, entry->path, datsync_strerror(error));
    if (c->json) {
        json_begin("missing");
        json_string("path", entry->path);
        json_reason(error);
        json_end();
    }
}

/* The files that are not whole, by name. */
static void tell_unfinished(const transfer *t)
{
    datsync_drive_state state;
    datsync_drive_check check = {t->c, on_missing, 0};

    if (t->drive != NULL) {
        (void)datsync_drive_look(t->drive, &state, &check);
    }
}

/* Whether anybody knows more or not: a sync that is interrupted then has done what it could. */
static int is_all_here(const transfer *t)
{
    datsync_drive_state state;

    return t->drive != NULL && datsync_drive_look(t->drive, &state, NULL) == 0 && state.complete;
}

/* What became of a download that is not complete. */
static int outcome_of_download(transfer *t)
{
    cli *c = t->c;
    const char *colon = t->trouble[0] != 0 ? ": " : "", *what = t->drive != NULL ? "drive" : "feed";
    char part[96], kept[96], *end;
    uint64_t held, total;

    counts(t, &held, &total);
    portion(t, part, held, total);
    strcpy(kept, part);
    end = strstr(kept, " of ");
    strcpy(end != NULL ? end : kept, t->drive != NULL ? "" : " blocks");
    if (datsync_os_stopped(NULL)) {
        return c->command->bit == SYNC && is_all_here(t) ? DONE : fail(c, INTERRUPTED, "%s: interrupted; %s are kept", t->dir, kept);
    }
    int nothing = t->drive != NULL && t->blocks == 0 && !datsync_feed_has(t->feed, 0);
    if (t->peers_seen == 0 || nothing) {
        return fail(c, NO_PEER, "dat://%s: no peer served this %s%s%s", t->key, what, colon, t->trouble);
    }
    tell_unfinished(t);
    if (t->timed_out) {
        return fail(c, FAILED, "%s: nothing came for %llu s; %s are kept%s%s", t->dir, (unsigned long long)c->timeout,
                    part, colon, t->trouble);
    }
    return fail(c, FAILED, "%s: not complete, no peer is left; %s are kept%s%s", t->dir, part, colon, t->trouble);
}

/* What became of it, in the order of what matters. */
static int outcome(transfer *t, int error)
{
    cli *c = t->c;
    const char *colon = t->trouble[0] != 0 ? ": " : "";

    if (t->failed != 0 || error < 0) {
        return fail_store(t, t->failed != 0 ? t->failed : error);
    }
    if (t->broken) {
        return FAILED;
    }
    check_selection(t);
    if (t->complete && t->refused > 0) {
        return fail_refused(c, t->dir, t->refused, "not laid out");
    }
    if (t->complete && t->unmatched > 0) {
        return fail(c, FAILED, "%s: %llu of %llu patterns, named above, matched nothing; the folder keeps them (--select "
                    "replaces them, --all drops them)", t->dir, (unsigned long long)t->unmatched, (unsigned long long)c->select_count);
    }
    if (!t->sharing) {
        return t->complete ? DONE : outcome_of_download(t);
    }
    if (datsync_os_stopped(NULL) || t->peers_seen > 0) {
        return DONE;
    }
    return fail(c, NO_PEER, "dat://%s: no peer%s%s", t->key, colon, t->trouble);
}

static void tell_end(transfer *t, int code)
{
    char size[32], rate[32], time[32], version[64] = "";
    double seconds = (double)(datsync_os_clock(NULL) - t->began + 1) / 1000.0;
    uint64_t bytes = t->sharing ? t->sent_bytes : t->bytes;

    if (code != DONE) {
        return;
    }
    elapsed(time, seconds);
    amount(size, (double)bytes);
    if (t->drive != NULL) {
        snprintf(version, sizeof version, "%sversion %llu, ", selection_of(t->c), (unsigned long long)t->version);
    }
    if (t->sharing) {
        note(t->c, "sent %s in %s", size, time);
    } else if (t->complete) {
        note(t->c, "complete: %s%s in %s, %s/s", version, size, time, amount(rate, (double)bytes / seconds));
    }
}

/* The loop of an owner who goes on importing: the network, and a look at the folder now and then, or once for what was left for
 * later. */
static int run_importing(transfer *t)
{
    cli *c = t->c;
    uint64_t due = datsync_os_clock(NULL) + (t->watch->later > 0 ? 0 : CLI_SCAN_MS), took = 0;
    int code = DONE;

    t->watch->ds = t->ds;
    while (code == DONE && !t->ended && !datsync_os_stopped(NULL) &&
           (is_listening(c) || datsync_candidates(t->ds) > 0)) {
        uint64_t now = datsync_os_clock(NULL);
        if (now < due) {
            int error = datsync_poll(t->ds, (unsigned)(due - now));
            if (error < 0) {
                t->watch->ds = NULL;
                return error;
            }
            continue;
        }
        code = import_folder(t->watch);
        const uint64_t *n = t->watch->counts;
        uint64_t then = datsync_os_clock(NULL);
        if (n[DATSYNC_ADDED] + n[DATSYNC_UPDATED] == 0) {
            took = then - now; /* looking, not importing */
        }
        due = then + (took * CLI_SCAN_TIMES > CLI_SCAN_MS ? took * CLI_SCAN_TIMES : CLI_SCAN_MS);
        if (code == DONE && !t->watch->watches) {
            t->watch->ds = NULL;
            return datsync_run(t->ds);
        }
    }
    t->watch->ds = NULL;
    t->broken = code == FAILED;
    return 0;
}

static int start_transfer(transfer *t, unsigned mode)
{
    int error = t->drive != NULL ? datsync_add_drive(t->ds, t->drive, mode) : datsync_add(t->ds, t->feed, mode);

    if (error < 0) {
        return fail_store(t, error);
    }
    int code = start_listening(t);
    if (code == DONE) {
        tell_link(t);
        code = start_dialling(t);
    }
    return code;
}

/* From the opened feed or drive to the exit code. */
static int run_transfer(transfer *t, unsigned mode)
{
    cli *c = t->c;
    datsync_options options;

    t->sharing = (mode & DATSYNC_DOWNLOAD) == 0;
    t->columns = terminal(c);
    t->began = t->fresh_at = t->shown_at = t->meter.at = datsync_os_clock(NULL);
    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.net = datsync_os_net();
    options.max_peers = (unsigned)c->max_peers;
    options.live = t->live;
    options.ctx = t;
    options.on_event = on_event;
    options.stopped = datsync_os_stopped;
    int error = datsync_new(&t->ds, &options, t->began);
    if (error < 0) {
        return fail(c, FAILED, "%s", datsync_strerror(error));
    }
    int code = start_transfer(t, mode);
    if (code == DONE) {
        error = t->watch != NULL ? run_importing(t) : datsync_run(t->ds);
        bar_clear(c);
        code = outcome(t, error);
    }
    error = datsync_free(t->ds);
    if (error < 0 && code != FAILED) {
        code = fail_store(t, error);
    }
    bar_clear(c);
    tell_end(t, code);
    return code;
}

static void transfer_of_feed(transfer *t, cli *c, const char *dir, datsync_feed *feed)
{
    memset(t, 0, sizeof *t);
    t->c = c;
    t->dir = dir;
    t->feed = feed;
    t->live = c->live;
    hex(t->key, datsync_feed_key(feed));
}

static void transfer_of_drive(transfer *t, cli *c, const char *dir, datsync_drive *drive)
{
    transfer_of_feed(t, c, dir, datsync_drive_metadata(drive));
    t->drive = drive;
}

static int need_peer_to_share(cli *c)
{
    if (c->no_listen && c->peer_count == 0) {
        return fail(c, USAGE, "with --no-listen, name a peer to dial with --peer HOST:PORT");
    }
    return DONE;
}

static int need_peer_to_clone(cli *c)
{
    if (c->peer_count == 0 && (c->listen == NULL || c->no_listen)) {
        return fail(c, USAGE,
                    "there is no discovery yet: name a peer with --peer HOST:PORT, or let one come with "
                    "--listen [HOST:]PORT");
    }
    return DONE;
}

/* Does it begin with this (in lower case), in whatever case? */
static int begins(const char *text, const char *with)
{
    for (; *with != 0; text++, with++) {
        if ((*text >= 'A' && *text <= 'Z' ? *text - 'A' + 'a' : *text) != *with) {
            return 0;
        }
    }
    return 1;
}

/* Is this word meant for a link, though it may be a bad one? */
static int is_link(const char *word)
{
    static const char *const schemes[] = {"dat:", "hyper:", "http://", "https://"};
    char path[DATSYNC_MAX_PATH + 1];
    uint64_t version;
    uint8_t key[32];

    for (size_t i = 0; i < COUNT(schemes); i++) {
        if (begins(word, schemes[i])) {
            return 1;
        }
    }
    int error = datsync_link_parse(word, key, &version, path, sizeof path);
    return error != DATSYNC_E_KEY && error != DATSYNC_E_UNSUPPORTED;
}

static int fail_link(cli *c, const char *link, int error)
{
    const char *at = link + strspn(link, " \t\r\n");

    if (begins(at, "hyper:")) {
        return fail(c, USAGE, "%s: this link is for Dat's successor, whose protocol is another", link);
    }
    if (error == DATSYNC_E_UNSUPPORTED) {
        return fail(c, USAGE, "%s: names can't be resolved here: a link needs the key, 64 hexadecimal digits", link);
    }
    if (error == DATSYNC_E_INVALID) {
        return fail(c, USAGE, "%s: behind the + a link has a version, 1 to %llu", link,
                    (unsigned long long)DATSYNC_MAX_BLOCKS);
    }
    if (error == DATSYNC_E_PATH || error == DATSYNC_E_TOO_BIG) {
        return fail(c, USAGE, "%s: %s", link,
                    error == DATSYNC_E_PATH ? "the path in this link is none (%XX, UTF-8, no ..)"
                                            : "the path in this link is too long");
    }
    return fail(c, USAGE, "%s: a link has 64 hexadecimal digits, with or without dat:// before them", link);
}

/* The key of a drive's link; its version counts as --checkout, its path is left in c. */
static int read_link(cli *c, const char *link, uint8_t key[32])
{
    uint64_t version;

    int error = datsync_link_parse(link, key, &version, c->link_path, sizeof c->link_path);
    if (error < 0) {
        return fail_link(c, link, error);
    }
    if (version > 0 && c->checkout > 0 && version != c->checkout) {
        return fail(c, USAGE, "%s: --checkout names another version, %llu", link, (unsigned long long)c->checkout);
    }
    c->checkout = version > 0 ? version : c->checkout;
    return DONE;
}

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

static int feed_share(cli *c)
{
    datsync_feed *feed = NULL;
    transfer t;
    opening how = {c->words[0], NULL, NULL, 0, 0};

    int code = need_peer_to_share(c);
    if (code != DONE) {
        return code;
    }
    datsync_os_signals();
    code = open_feed(c, &how, &feed);
    if (code != DONE) {
        return code;
    }
    transfer_of_feed(&t, c, how.dir, feed);
    code = run_transfer(&t, DATSYNC_UPLOAD);
    return close_feed(c, how.dir, feed, code);
}

static int feed_clone(cli *c)
{
    uint8_t key[32];
    datsync_feed *feed = NULL;
    transfer t;
    opening how = {c->words[1], key, NULL, DATSYNC_CREATE, 0};

    int code = read_feed_link(c, c->words[0], key);
    if (code == DONE) {
        code = need_peer_to_clone(c);
    }
    if (code != DONE) {
        return code;
    }
    datsync_os_signals();
    code = open_feed(c, &how, &feed);
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
        transfer_of_feed(&t, c, how.dir, feed);
        code = run_transfer(&t, DATSYNC_DOWNLOAD | DATSYNC_UPLOAD);
    }
    return close_feed(c, how.dir, feed, code);
}

/* ---------------------------------------------------------------- create, share --------------------------------- */

/* A folder that came without its .dat: the people who look for the old drive won't find this one. */
static void tell_other_about(cli *c, const char *dir, const datsync_tree *tree, const char *key)
{
    char why[ABOUT_MAX + 80];
    growing text;
    about found;

    if (read_whole(tree, "dat.json", &text) < 0) {
        return;
    }
    scan_about(text.text, &found);
    free(text.text);
    if (found.text[ABOUT_URL][0] != 0 && strstr(found.text[ABOUT_URL], key) == NULL) {
        snprintf(why, sizeof why, "its dat.json names another drive, %s; this is a new one", found.text[ABOUT_URL]);
        complain(c, dir, why);
    }
}

/* Makes the drive of a folder and its dat.json; imports nothing yet. */
static int make_drive(cli *c, const char *dir, datsync_drive **drive)
{
    datsync_tree tree;
    char key[65];
    opening how = {dir, NULL, NULL, DATSYNC_CREATE, 1};

    int code = open_drive(c, &how, drive);
    if (code != DONE) {
        return code;
    }
    hex(key, datsync_feed_key(datsync_drive_metadata(*drive)));
    memset(&tree, 0, sizeof tree);
    int error = datsync_drive_flush(*drive);
    if (error == 0) {
        error = datsync_os_tree(&tree, dir, 0);
    }
    if (error == 0) {
        error = write_about(c, &tree, key);
        if (error == 1) {
            tell_other_about(c, dir, &tree, key);
        }
        close_tree(&tree);
    }
    if (error == 1 && (c->title != NULL || c->description != NULL || c->author != NULL || c->license != NULL)) {
        note(c, "%s: its dat.json is kept as it is", dir);
    }
    if (error < 0) {
        fail(c, FAILED, "%s: dat.json: %s", dir, datsync_strerror(error));
        return close_drive(c, dir, *drive, FAILED);
    }
    if (c->json) {
        json_begin("created");
        json_string("key", key);
        json_end();
    }
    return DONE;
}

static int run_create(cli *c)
{
    const char *dir = folder_word(c, 0);
    datsync_drive *drive = NULL;
    importing im;
    char key[65];

    datsync_os_signals();
    int code = make_drive(c, dir, &drive);
    if (code != DONE) {
        return code;
    }
    if (!c->json) {
        hex(key, datsync_feed_key(datsync_drive_metadata(drive)));
        printf("dat://%s\n", key);
        fflush(stdout);
    }
    code = importing_begin(&im, c, dir, drive);
    if (code == DONE) {
        code = import_folder(&im);
    }
    if (code == DONE && im.counts[DATSYNC_REFUSED] > 0) {
        code = fail_refused(c, dir, im.counts[DATSYNC_REFUSED], "not imported");
    }
    importing_end(&im);
    return close_drive(c, dir, drive, code);
}

static void tell_later(const importing *im)
{
    if (im->later > 0 && im->c->json) {
        json_begin("later");
        json_number("files", im->later);
        json_end();
    } else if (im->later > 0) {
        note(im->c, "%llu file%s another time than was recorded: read while the rest is served", (unsigned long long)im->later,
             im->later == 1 ? " has" : "s have");
    }
}

/* The owner: import, then serve, and go on importing if it is watched. */
static int share_as_owner(cli *c, transfer *t, int watch)
{
    importing im;

    int code = importing_begin(&im, c, t->dir, t->drive);
    if (code == DONE) {
        im.shares = 1;
        im.watches = watch;
        tell_link(t);
        code = import_folder(&im);
    }
    if (code == DONE) {
        tell_later(&im);
        t->watch = watch || im.later > 0 ? &im : NULL;
        t->live = watch;
        code = run_transfer(t, DATSYNC_UPLOAD);
    } else if (code == INTERRUPTED) {
        code = DONE; /* as when it serves */
    }
    if (code == DONE && im.counts[DATSYNC_REFUSED] > 0) {
        code = fail_refused(c, t->dir, im.counts[DATSYNC_REFUSED], "not imported");
    }
    importing_end(&im);
    return code;
}

/* An owner's folder (it has the mark) whose secret key is elsewhere: what changes in it is imported by nobody. */
static int lacks_key(const datsync_drive *drive, const char *dir)
{
    datsync_tree tree;
    datsync_file_info info;

    memset(&info, 0, sizeof info);
    memset(&tree, 0, sizeof tree);
    if (!is_owner(drive) && datsync_os_tree(&tree, dir, DATSYNC_READ_ONLY) == 0) {
        int error = tree.stat(tree.ctx, ".dat/metadata.ogd", &info);
        info.size = error < 0 ? 0 : info.size;
        close_tree(&tree);
    }
    return info.size > 0;
}

static int tell_no_key(transfer *t)
{
    t->no_key = lacks_key(t->drive, t->dir);
    if (t->no_key) {
        complain(t->c, t->dir,
                 "its secret key is not here: it is served as it is, and nothing is imported (see keys import)");
    }
    return t->no_key;
}

/* An owner's drive whose files are not laid out here has nothing to import. */
static int tell_no_files(const transfer *t)
{
    char why[160];

    if (has_files(t->c) || !is_owner(t->drive)) {
        return 0;
    }
    snprintf(why, sizeof why,
             "its files are not laid out here (layout: %s): it is served as it is, and nothing is imported",
             t->c->layout->name);
    complain(t->c, t->dir, why);
    return 1;
}

/* What is shared must be there. */
static int need_folder(cli *c, const char *dir)
{
    datsync_tree tree;

    memset(&tree, 0, sizeof tree);
    int error = datsync_os_tree(&tree, dir, DATSYNC_READ_ONLY);
    close_tree(&tree);
    return dir[0] == 0 || error == DATSYNC_E_NO_ENTRY ? fail(c, USAGE, "%s: there is no such folder", dir) : DONE;
}

static int run_share(cli *c)
{
    const char *dir = folder_word(c, 0);
    datsync_drive *drive = NULL;
    uint8_t key[32];
    transfer t;
    opening how = {dir, NULL, NULL, 0, 0};

    int code = need_peer_to_share(c);
    if (code == DONE) {
        code = need_folder(c, dir);
    }
    if (code != DONE) {
        return code;
    }
    datsync_os_signals();
    code = find_layout(dir, key) != NULL ? open_drive(c, &how, &drive) : make_drive(c, dir, &drive);
    if (code != DONE) {
        return code;
    }
    transfer_of_drive(&t, c, dir, drive);
    if (tell_no_files(&t)) {
        code = run_transfer(&t, DATSYNC_UPLOAD);
    } else if (datsync_drive_writable(drive)) {
        code = share_as_owner(c, &t, c->watch);
    } else {
        tell_no_key(&t);
        code = run_transfer(&t, DATSYNC_UPLOAD);
    }
    return close_drive(c, dir, drive, code);
}

/* ---------------------------------------------------------------- clone, pull, sync ----------------------------- */

static int stop_list(void *arg, const char *name)
{
    (void)name;
    *(int *)arg = 1;
    return 1;
}

/* A folder that has files, and no drive, is not ours to write to. */
static int check_clone_folder(cli *c, const char *dir)
{
    datsync_tree tree;
    datsync_file_info info;
    uint8_t key[32];
    int used = 0;

    memset(&tree, 0, sizeof tree);
    int error = datsync_os_tree(&tree, dir, DATSYNC_READ_ONLY);
    if (error == 0) {
        if (tree.stat(tree.ctx, ".dat", &info) == DATSYNC_E_NO_ENTRY && find_layout(dir, key) == NULL) {
            error = tree.list(tree.ctx, "", stop_list, &used);
        }
        close_tree(&tree);
    }
    if (error < 0 && error != DATSYNC_E_NO_ENTRY) {
        return fail_drive(c, dir, error);
    }
    if (used && !c->force) {
        return fail(c, FAILED, "%s: is not empty, and no drive is here (--force clones into it all the same)", dir);
    }
    return DONE;
}

static void lay_out(cli *c, datsync_drive *drive)
{
    datsync_layout layout;

    memset(&layout, 0, sizeof layout);
    layout.ctx = c;
    layout.version = c->checkout;
    layout.force = c->force;
    layout.select = c->select_count > 0 ? is_selected : NULL;
    datsync_drive_layout(drive, &layout);
}

/* Downloads into an opened drive, and closes it. */
static int download(cli *c, const char *dir, datsync_drive *drive, int live)
{
    transfer t;
    int code = DONE;

    if (datsync_drive_writable(drive)) {
        code =
            fail(c, FAILED, "%s: is where this drive is written (its secret key is here); nothing can be newer", dir);
    } else {
        code = settle_selection(c, dir);
    }
    if (code == DONE) {
        lay_out(c, drive);
        transfer_of_drive(&t, c, dir, drive);
        t.live = live;
        code = run_transfer(&t, DATSYNC_DOWNLOAD | DATSYNC_UPLOAD);
    }
    return close_drive(c, dir, drive, code);
}

/* --all drops a selection: it can't make one. */
static int check_all(cli *c)
{
    return c->all && c->select_count > 0 ? fail(c, USAGE, "--all and --select contradict each other") : DONE;
}

/* The path of a link to clone is a selection too. */
static int select_link_path(cli *c)
{
    if (c->link_path[0] == 0) {
        return DONE;
    }
    if (c->all) {
        return fail(c, USAGE, "%s: --all and the path in this link contradict each other", c->words[0]);
    }
    const char *fault = add_select_path(c, c->link_path);
    return fault != NULL ? fail(c, USAGE, "%s: %s", c->words[0], fault) : DONE;
}

static int run_clone(cli *c)
{
    uint8_t key[32];
    char name[65];
    datsync_drive *drive = NULL;

    int code = check_all(c);
    if (code == DONE) {
        code = read_link(c, c->words[0], key);
    }
    if (code == DONE) {
        code = select_link_path(c);
    }
    if (code == DONE) {
        code = need_peer_to_clone(c);
    }
    if (code != DONE) {
        return code;
    }
    hex(name, key);
    char *dir = clone_folder(c->word_count > 1 ? c->words[1] : name, key);
    if (dir == NULL) {
        return fail_drive(c, name, DATSYNC_E_NOMEM);
    }
    opening how = {dir, key, NULL, DATSYNC_CREATE, 0};
    datsync_os_signals();
    code = check_clone_folder(c, dir);
    if (code == DONE) {
        code = open_drive(c, &how, &drive);
    }
    if (code == DONE) {
        code = download(c, dir, drive, c->live);
    }
    free(dir);
    return code;
}

static int run_pull(cli *c)
{
    datsync_drive *drive = NULL;
    opening how = {folder_word(c, 0), NULL, NULL, 0, 0};

    int code = check_all(c);
    if (code == DONE) {
        code = need_peer_to_clone(c);
    }
    if (code != DONE) {
        return code;
    }
    datsync_os_signals();
    code = open_drive(c, &how, &drive);
    return code == DONE ? download(c, how.dir, drive, 0) : code;
}

static int run_sync(cli *c)
{
    datsync_drive *drive = NULL;
    transfer t;
    opening how = {folder_word(c, 0), NULL, NULL, 0, 0};

    int code = check_all(c);
    if (code == DONE) {
        code = need_peer_to_share(c);
    }
    if (code == DONE) {
        code = need_folder(c, how.dir);
    }
    if (code != DONE) {
        return code;
    }
    datsync_os_signals();
    c->timeout = 0;
    code = open_drive(c, &how, &drive);
    if (code != DONE) {
        return code;
    }
    transfer_of_drive(&t, c, how.dir, drive);
    if (!tell_no_files(&t) && datsync_drive_writable(drive)) {
        code = share_as_owner(c, &t, 1);
    } else if (is_owner(drive) || tell_no_key(&t)) {
        code = run_transfer(&t, DATSYNC_UPLOAD);
    } else {
        return download(c, how.dir, drive, 1);
    }
    return close_drive(c, how.dir, drive, code);
}

/* ---------------------------------------------------------------- log, status, keys ------------------------------ */

static int is_folder_entry(const datsync_entry *entry)
{
    return (entry->stat.mode & 0170000) == 0040000;
}

static int number_width(uint64_t number)
{
    int width = 1;

    for (; number >= 10; number /= 10) {
        width++;
    }
    return width;
}

static void log_entry(const cli *c, const datsync_entry *entry, int width)
{
    if (c->json) {
        json_begin("log");
        json_number("version", entry->version);
        json_string("change", entry->deleted ? "del" : "put");
        json_string("path", entry->path);
        json_number("size", entry->stat.size);
        json_number("mode", entry->stat.mode);
        json_number("mtime", entry->stat.mtime);
        if (entry->error < 0) {
            json_reason(entry->error);
        }
        json_end();
        return;
    }
    printf("%*llu [%s] ", width, (unsigned long long)entry->version, entry->deleted ? "del" : "put");
    put_safe(stdout, entry->path);
    if (!entry->deleted) {
        printf("%s %llu B", is_folder_entry(entry) ? "/" : "", (unsigned long long)entry->stat.size);
    }
    printf("%s%s\n", entry->error < 0 ? "  bad: " : "", entry->error < 0 ? datsync_strerror(entry->error) : "");
}

static int run_log(cli *c)
{
    const char *dir = folder_word(c, 0);
    datsync_drive *drive = NULL;
    datsync_entry entry;
    uint64_t bytes = 0, missing = 0;

    int code = look_into(c, dir, &drive);
    if (code != DONE) {
        return code;
    }
    uint64_t version = datsync_drive_version(drive);
    for (uint64_t at = 1; at <= version && code == DONE && !ferror(stdout); at++) {
        int error = datsync_drive_entry(drive, at, &entry, NULL);
        if (error == DATSYNC_E_MORE || error == DATSYNC_E_NOT_FOUND) {
            missing++;
        } else if (error < 0) {
            code = fail(c, FAILED, "%s: entry %llu: %s", dir, (unsigned long long)at, datsync_strerror(error));
        } else {
            bytes += entry.stat.size;
            log_entry(c, &entry, number_width(version));
        }
    }
    if (code == DONE && !c->json) {
        printf("%llu %s, %llu B\n", (unsigned long long)(version - missing),
               version - missing == 1 ? "entry" : "entries", (unsigned long long)bytes);
    }
    if (code == DONE && datsync_feed_length(datsync_drive_metadata(drive)) == 0) {
        code = fail(c, FAILED, "%s: nothing of this drive is here", dir);
    } else if (code == DONE && missing > 0) {
        code = fail(c, FAILED, "%s: %llu %s not here", dir, (unsigned long long)missing, missing == 1 ? "entry is" : "entries are");
    }
    return close_drive(c, dir, drive, code);
}

static void say_text(const cli *c, const char *name, const char *value)
{
    if (c->json) {
        json_string(name, value);
    } else {
        printf("%s: ", name);
        put_safe(stdout, value);
        putchar('\n');
    }
}

static void say_number(const cli *c, const char *name, uint64_t value)
{
    if (c->json) {
        json_number(name, value);
    } else {
        printf("%s: %llu\n", name, (unsigned long long)value);
    }
}

static void say_bool(const cli *c, const char *name, int value)
{
    if (c->json) {
        json_bool(name, value);
    } else {
        printf("%s: %s\n", name, value ? "yes" : "no");
    }
}

/* A small file of the newest version, whole, out of the drive itself: 0, or an error. */
static int read_stored(datsync_drive *drive, const char *path, growing *out)
{
    char piece[16384];
    datsync_entry entry;
    int64_t got = 1;

    memset(out, 0, sizeof *out);
    int error = datsync_drive_find(drive, datsync_drive_version(drive), path, &entry, NULL);
    if (error < 0 || entry.stat.size > CLI_MAX_FILE) {
        return error < 0 ? error : DATSYNC_E_TOO_BIG;
    }
    while (got > 0 && !out->failed) {
        got = datsync_drive_read(drive, &entry, out->len, piece, sizeof piece);
        put_buffer(out, piece, got > 0 ? (size_t)got : 0);
    }
    error = got < 0 ? (int)got : out->failed ? DATSYNC_E_NOMEM : 0;
    if (error < 0) {
        free(out->text);
        memset(out, 0, sizeof *out);
    }
    return error;
}

static void say_about(const cli *c, datsync_drive *drive, const datsync_tree *tree)
{
    growing text;
    about found;

    int error = has_files(c) ? read_whole(tree, "dat.json", &text) : read_stored(drive, "/dat.json", &text);
    if (error < 0) {
        return;
    }
    scan_about(text.text, &found);
    free(text.text);
    for (int i = 0; i < ABOUT; i++) {
        if (found.text[i][0] != 0) {
            say_text(c, about_names[i], found.text[i]);
        }
    }
}

/* Keeps the paths of the files that are not whole, each with its NUL. */
static void on_unfinished(void *ctx, const datsync_entry *entry, int error)
{
    (void)error;
    put_buffer(ctx, entry->path, strlen(entry->path) + 1);
}

static void say_unfinished(const cli *c, const growing *paths)
{
    if (c->json && paths->len > 0) {
        fputs(",\"not_whole\":[", stdout);
    }
    for (size_t at = 0; at < paths->len; at += strlen(paths->text + at) + 1) {
        if (c->json) {
            fputs(at > 0 ? "," : "", stdout);
            json_escape(put_file, stdout, paths->text + at);
        } else {
            fputs("not whole: ", stdout);
            put_safe(stdout, paths->text + at);
            putchar('\n');
        }
    }
    if (c->json && paths->len > 0) {
        putchar(']');
    }
}

static void say_drive(const cli *c, datsync_drive *drive, const datsync_drive_state *state)
{
    say_number(c, "version", state->version);
    say_number(c, "laid_out", state->laid_out);
    say_bool(c, "complete", state->complete);
    say_number(c, "files", state->files);
    say_number(c, "whole", state->whole);
    say_number(c, "bytes", state->bytes);
    if (c->json) {
        json_number("held", state->held);
        json_number("blocks", state->blocks);
    } else {
        printf("held: %llu of %llu blocks\n", (unsigned long long)state->held, (unsigned long long)state->blocks);
    }
    if (state->missing > 0 || !state->has_header) {
        say_number(c, "missing_entries", state->missing + !state->has_header);
    }
    if (state->lost + state->shown > 0) {
        say_number(c, "lost_by_index", state->lost);
        say_number(c, "deleted_in_index", state->shown);
    }
    say_bool(c, "writable", is_owner(drive));
    say_bool(c, "archive", datsync_drive_archive(drive));
    if (c->json) {
        json_string("layout", c->layout->name);
    } else {
        printf("layout: %s (%s*, %s*)\n", c->layout->name, c->layout->metadata, c->layout->content);
    }
}

/* Where old versions of the deployed implementation kept the secret key; later ones don't read it there. */
#define LOOSE_KEY ".dat/metadata.secret_key"

static void say_selection(const cli *c)
{
    if (c->json) {
        json_selection(c);
    }
    for (size_t i = 0; i < c->select_count && !c->json; i++) {
        say_text(c, "selection", c->selects[i]);
    }
}

/* A secret key that isn't where it is looked for, though this is the owner's folder, or one lies in it. */
static void say_key(const cli *c, const datsync_drive *drive, const char *dir, const datsync_tree *tree)
{
    const uint8_t *key = datsync_feed_key(datsync_drive_metadata(drive));
    growing text;

    if (is_owner(drive)) {
        return;
    }
    if (lacks_key(drive, dir)) {
        say_bool(c, c->json ? "key_missing" : "key missing", 1);
    }
    if (read_whole(tree, LOOSE_KEY, &text) < 0) {
        return;
    }
    int fits = text.len == 64 && same_key((const uint8_t *)text.text + 32, key);
    if (text.len > 0 && c->json) {
        json_bool("loose_key", fits);
    } else if (text.len > 0) {
        printf("loose key: " LOOSE_KEY ", where it isn't looked for%s\n",
               fits ? "; datsync keys import < " LOOSE_KEY : "; it is not this drive's");
    }
    if (text.text != NULL) {
        memset(text.text, 0, text.len);
    }
    free(text.text);
}

static int run_status(cli *c)
{
    const char *dir = folder_word(c, 0);
    datsync_drive *drive = NULL;
    importing im;
    char key[65];
    datsync_drive_state state;
    growing paths = {0};
    datsync_drive_check check = {&paths, on_unfinished, 0};

    datsync_os_signals();
    int code = look_into(c, dir, &drive);
    if (code != DONE) {
        return code;
    }
    int selection = is_owner(drive) ? DONE : look_at_selection(c, dir);
    code = importing_begin(&im, c, dir, drive);
    im.only_count = 1;
    int importing_it = is_owner(drive) && has_files(c);
    if (code == DONE && importing_it) {
        code = import_folder(&im);
    }
    lay_out(c, drive); /* only what is selected is looked for */
    int error = datsync_drive_look(drive, &state, &check);
    if (code == DONE && (error < 0 || paths.failed)) {
        code = fail_drive(c, dir, error < 0 ? error : DATSYNC_E_NOMEM);
    }
    if (code == DONE) {
        hex(key, datsync_feed_key(datsync_drive_metadata(drive)));
        if (c->json) {
            json_begin("status");
        }
        say_text(c, "key", key);
        say_about(c, drive, &im.tree);
        say_drive(c, drive, &state);
        say_selection(c);
        say_key(c, drive, dir, &im.tree);
        if (importing_it) {
            say_number(c, "added", im.counts[DATSYNC_ADDED]);
            say_number(c, "updated", im.counts[DATSYNC_UPDATED]);
            say_number(c, "removed", im.counts[DATSYNC_REMOVED]);
        }
        say_unfinished(c, &paths);
        if (c->json) {
            json_end();
        }
    }
    free(paths.text);
    importing_end(&im);
    return close_drive(c, dir, drive, code == DONE ? selection : code);
}

static void put_secret(const uint8_t secret[64])
{
    char left[65], right[65];

    hex(left, secret);
    hex(right, secret + 32);
    printf("%s%s", left, right);
    memset(left, 0, sizeof left);
    memset(right, 0, sizeof right);
}

static int tell_keys(cli *c, const char *dir, datsync_drive *drive, int exporting)
{
    datsync_feed *feed = datsync_drive_metadata(drive);
    const uint8_t *secret = exporting ? datsync_feed_secret_key(feed) : NULL;
    char key[65], discovery[65];

    if (exporting && secret == NULL) {
        return fail(c, FAILED, "%s: the secret key of this drive is not here", dir);
    }
    hex(key, datsync_feed_key(feed));
    hex(discovery, datsync_feed_discovery_key(feed));
    if (c->json) {
        json_begin("keys");
        json_string("key", key);
        json_string("discovery_key", discovery);
        json_bool("writable", is_owner(drive));
        if (secret != NULL) {
            fputs(",\"secret_key\":\"", stdout);
            put_secret(secret);
            putchar('"');
        }
        json_end();
    } else if (secret != NULL) {
        put_secret(secret);
        putchar('\n');
    } else {
        printf("dat://%s\ndiscovery key: %s\n", key, discovery);
    }
    return DONE;
}

/* What was read where a secret key should be: 128 hexadecimal digits, however they are broken into lines, or 64 bytes. */
static int secret_of_text(const char *text, size_t len, uint8_t secret[64])
{
    char digits[129];
    size_t count = 0;

    for (size_t i = 0; i < len && count <= 128; i++) {
        if (strchr(" \t\r\n", text[i]) == NULL || text[i] == 0) {
            digits[count < 128 ? count : 128] = text[i];
            count++;
        }
    }
    digits[count <= 128 ? count : 128] = 0;
    int hex_digits = count == 128 && strspn(digits, "0123456789abcdefABCDEF") == 128;
    for (int i = 0; i < 64 && hex_digits; i++) {
        char two[3] = {digits[2 * i], digits[2 * i + 1], 0};
        secret[i] = (uint8_t)strtoul(two, NULL, 16);
    }
    int raw = len == 64 && strspn(text, "0123456789abcdefABCDEF") < 64; /* so many digits are a public key */
    if (raw) {
        memcpy(secret, text, 64);
    }
    memset(digits, 0, sizeof digits);
    return hex_digits || raw;
}

/* It is not what it should be: what is it? */
static int fail_secret(cli *c, const char *dir, const char *text, size_t len, const uint8_t drive[32])
{
    static const char wanted[] = "a secret key has 128 hexadecimal digits, or 64 bytes";
    char path[DATSYNC_MAX_PATH + 1];
    uint64_t version;
    uint8_t key[32];

    size_t digits = strspn(text, "0123456789abcdefABCDEF \t\r\n");
    if (len == 0) {
        return fail(c, FAILED, "standard input is empty; %s", wanted);
    }
    if (datsync_link_parse(text, key, &version, path, sizeof path) == 0) {
        return fail(c, FAILED, "standard input: this is a link, the public key%s; %s",
                    same_key(key, drive) ? " of the drive that is here" : "", wanted);
    }
    if (len == 32 && memcmp(text, drive, 32) == 0) {
        return fail(c, FAILED, "standard input: this is the public key of the drive in %s; %s", dir, wanted);
    }
    return fail(c, FAILED, "standard input: this is no secret key (%llu %s); %s", (unsigned long long)len,
                digits == len ? "digits and blanks" : "bytes", wanted);
}

/* The secret key on standard input, which must be that of the drive that is here. */
static int read_secret(cli *c, const char *dir, const uint8_t drive[32], uint8_t secret[64])
{
    char text[4096] = {0}, other[65];
    int code = DONE;

    size_t len = fread(text, 1, sizeof text - 1, stdin);
    if (len == sizeof text - 1) {
        code = fail(c, FAILED, "standard input: this is no secret key: it is too long");
    } else if (!secret_of_text(text, len, secret)) {
        code = fail_secret(c, dir, text, len, drive);
    } else if (!is_secret_key(secret)) {
        code = fail(c, FAILED, "standard input: this is no secret key: its halves do not belong together");
    } else if (!same_key(secret + 32, drive)) {
        hex(other, secret + 32);
        code = fail(c, FAILED, "%s: this is not the secret key of the drive that is here, but of dat://%s", dir, other);
    }
    memset(text, 0, sizeof text);
    return code;
}

/* What an owner's next share would take for deleted or changed. */
typedef struct lacking {
    cli *c;
    uint64_t count;
    told told;
} lacking;

static void tell_lacking(lacking *l, const char *path, int error)
{
    if (!told_first(&l->told, path, 0)) {
        return;
    }
    l->count++;
    complain(l->c, path,
             error == DATSYNC_E_NO_ENTRY  ? "is missing"
             : error == DATSYNC_E_CHANGED ? "is not as it was published"
                                          : datsync_strerror(error));
    if (l->c->json) {
        json_begin("bad");
        json_string("path", path);
        json_reason(error);
        json_end();
    }
}

static void on_lacking(void *ctx, const datsync_entry *entry, int error)
{
    tell_lacking(ctx, entry->path, error);
}

static int on_removal(void *ctx, const datsync_import_event *event)
{
    if (event->change == DATSYNC_REMOVED) {
        tell_lacking(ctx, event->path, DATSYNC_E_NO_ENTRY);
    }
    return 0;
}

/* Every file of the newest version must be here, and be the recorded one, whatever its time: what the folder says of itself does
 * not count, for it may have come from another machine. */
static int check_files(cli *c, const char *dir, datsync_drive *drive)
{
    const datsync_feed *feed = datsync_drive_metadata(drive);
    lacking l = {c, 0, {0}};
    datsync_drive_check check = {&l, on_lacking, 1};
    datsync_import_options options;

    if (datsync_drive_content(drive) == NULL ||
        datsync_feed_count(feed, 0, datsync_feed_length(feed)) < datsync_feed_length(feed)) {
        return fail(c, FAILED, "%s: is no complete clone, not all of its metadata is here: pull first", dir);
    }
    memset(&options, 0, sizeof options);
    options.ctx = &l;
    options.on_event = on_removal;
    options.dry_run = 1;
    int64_t done = has_files(c) ? datsync_drive_import(drive, &options) : 0;
    done = done < 0 ? done : datsync_drive_verify(drive, &check);
    free(l.told.slots);
    if (done < 0) {
        return fail_drive(c, dir, (int)done);
    }
    return l.count == 0
               ? DONE
               : fail(c, FAILED, "%s: is no complete clone (%llu %s, named above)%s: pull first, or use --force", dir,
                      (unsigned long long)l.count, l.count == 1 ? "entry" : "entries",
                      has_files(c) ? "; to share it would remove from the drive what is missing, and publish what was changed"
                                   : "");
}

/* An owner's next share imports what his folder holds: what a clone lacks would be removed from the drive. So it is looked at as the
 * owner would, and nothing is written yet. */
static int check_whole(cli *c, const char *dir, const uint8_t secret[64])
{
    datsync_drive *drive = NULL;
    opening how = {dir, NULL, secret, DATSYNC_READ_ONLY, 0};

    int code = open_drive(c, &how, &drive);
    if (code != DONE) {
        return code;
    }
    code = check_files(c, dir, drive);
    return close_drive(c, dir, drive, code);
}

static int import_key(cli *c, const char *dir)
{
    uint8_t secret[64], key[32];
    datsync_drive *drive = NULL;
    opening how = {dir, NULL, secret, 0, 0};

    if (find_layout(dir, key) == NULL) {
        return fail_drive(c, dir, DATSYNC_E_NOT_FOUND);
    }
    int code = read_secret(c, dir, key, secret);
    if (code == DONE && !c->force) {
        code = check_whole(c, dir, secret);
    }
    if (code == DONE) {
        code = open_drive(c, &how, &drive);
    }
    memset(secret, 0, sizeof secret);
    if (code != DONE) {
        return code;
    }
    if (c->json) {
        code = tell_keys(c, dir, drive, 0);
    } else {
        note(c, "%s: is now the owner's folder; share no other one of this drive as its owner, or it forks", dir);
    }
    return close_drive(c, dir, drive, code);
}

static int run_keys(cli *c)
{
    const char *what = c->word_count > 0 ? c->words[0] : "";
    int exporting = strcmp(what, "export") == 0, importing_it = strcmp(what, "import") == 0;
    const char *dir = folder_word(c, exporting || importing_it);
    datsync_drive *drive = NULL;

    if (c->word_count > 1 && !exporting && !importing_it) {
        return fail(c, USAGE, "%s: not one of export, import", what);
    }
    if (importing_it) {
        return import_key(c, dir);
    }
    int code = look_into(c, dir, &drive);
    if (code != DONE) {
        return code;
    }
    code = tell_keys(c, dir, drive, exporting);
    return close_drive(c, dir, drive, code);
}

/* ---------------------------------------------------------------- verify ---------------------------------------- */

static void on_entry_fault(void *ctx, const datsync_entry *entry, int error)
{
    verifying *v = ctx;

    if (!is_selected(v->c, entry->path)) {
        return; /* what was here before the selection may be old: nothing is said of it */
    }
    v->bad++;
    if (v->c->json) {
        json_begin("bad");
        json_string("path", entry->path);
        json_reason(error);
        json_end();
    } else {
        fputs("bad ", stdout);
        put_safe(stdout, entry->path);
        printf(": %s\n", datsync_strerror(error));
    }
}

/* Entries that are not here: what they would tell of the files, nobody can say. */
static void tell_missing(verifying *v, const datsync_feed *feed)
{
    uint64_t length = datsync_feed_length(feed), end;

    length = length > 0 ? length : 1; /* there is a header, or it is no drive */
    for (uint64_t at = 0; at < length; at = end) {
        int here = datsync_feed_has(feed, at);
        for (end = at + 1; end < length && datsync_feed_has(feed, end) == here; end++) {
        }
        if (here) {
            continue;
        }
        v->bad++;
        if (v->c->json) {
            json_begin("missing");
            json_number("start", at);
            json_number("end", end);
            json_end();
        } else {
            printf("missing %llu:%llu metadata\n", (unsigned long long)at, (unsigned long long)end);
        }
    }
}

static int run_verify(cli *c)
{
    const char *dir = folder_word(c, 0);
    datsync_drive *drive = NULL;
    verifying v = {c, 0, "metadata."};
    datsync_drive_check check = {&v, on_entry_fault, 1};

    int code = look_into(c, dir, &drive);
    if (code != DONE) {
        return code;
    }
    code = is_owner(drive) ? DONE : look_at_selection(c, dir);
    if (code != DONE) {
        return close_drive(c, dir, drive, code);
    }
    tell_missing(&v, datsync_drive_metadata(drive));
    lay_out(c, drive); /* only what is selected is looked for */
    int64_t good = datsync_feed_audit(datsync_drive_metadata(drive), on_fault, &v);
    if (good >= 0 && datsync_drive_archive(drive) && datsync_drive_content(drive) != NULL) {
        v.prefix = "content.";
        good = datsync_feed_audit(datsync_drive_content(drive), on_fault, &v);
    }
    if (good >= 0) {
        good = datsync_drive_verify(drive, &check);
    }
    code = good < 0 ? fail_drive(c, dir, (int)good) : tell_verified(&v, dir, (uint64_t)good, "entries");
    return close_drive(c, dir, drive, code);
}

/* ---------------------------------------------------------------- ls, cat --------------------------------------- */

/* A path as the drive has it: one slash before it, none behind. NULL if it is too long. */
static const char *drive_path(char out[DATSYNC_MAX_PATH + 2], const char *path)
{
    size_t len = strlen(path);

    while (len > 0 && *path == '/') {
        path++;
        len--;
    }
    while (len > 0 && path[len - 1] == '/') {
        len--;
    }
    if (len > DATSYNC_MAX_PATH) {
        return NULL;
    }
    out[0] = '/';
    memcpy(out + 1, path, len);
    out[len + 1] = 0;
    return out;
}

/* The version to look at. */
static int chosen_version(cli *c, const char *dir, const datsync_drive *drive, uint64_t *version)
{
    uint64_t newest = datsync_drive_version(drive);

    if (datsync_feed_length(datsync_drive_metadata(drive)) == 0) {
        return fail(c, FAILED, "%s: nothing of this drive is here", dir);
    }
    *version = c->checkout > 0 ? c->checkout : newest;
    if (*version > newest) {
        return fail(c, FAILED, "%s: the newest version known is %llu", dir, (unsigned long long)newest);
    }
    return DONE;
}

static int fail_path(cli *c, const char *dir, const char *path, int error)
{
    const char *why = error == DATSYNC_E_NOT_FOUND ? "no such file or folder in this version"
                      : error == DATSYNC_E_MORE    ? "not all entries are here; what the others change is not known"
                                                   : datsync_strerror(error);

    return fail(c, FAILED, "%s: %s: %s", dir, path, why);
}

/* 2019-02-28 12:34, in UTC. */
static const char *moment(char out[32], uint64_t ms)
{
    uint64_t seconds = ms / 1000;
    time_t when = (time_t)seconds;
    struct tm *parts = seconds < 253402300800u ? gmtime(&when) : NULL; /* up to the year 9999 */

    if (parts == NULL || strftime(out, 32, "%Y-%m-%d %H:%M", parts) == 0) {
        snprintf(out, 32, "%16s", "?");
    }
    return out;
}

typedef struct listing {
    cli *c;
    const char *path; /* that was asked for; told relative to it */
    uint64_t count;
} listing;

static int on_listed(void *ctx, const datsync_entry *entry)
{
    listing *l = ctx;
    size_t len = strcmp(l->path, "/") == 0 ? 0 : strlen(l->path);
    const char *name = entry->path;
    int folder = is_folder_entry(entry);
    char time[32];

    l->count++;
    if (strncmp(name, l->path, len) == 0 && name[len] == '/') {
        name += len + 1;
    }
    if (l->c->json) {
        json_begin("ls");
        json_string("path", entry->path);
        json_bool("folder", folder);
        json_number("mode", entry->stat.mode);
        json_number("size", entry->stat.size);
        json_number("mtime", entry->stat.mtime);
        json_number("version", entry->version);
        json_end();
        return ferror(stdout);
    }
    if (l->c->long_form) {
        printf("%c%03o %12llu %s ", folder ? 'd' : '-', (unsigned)(entry->stat.mode & 0777),
               (unsigned long long)entry->stat.size,
               folder && entry->version == 0 ? "               -" : moment(time, entry->stat.mtime));
    }
    put_safe(stdout, name);
    puts(folder ? "/" : "");
    return ferror(stdout);
}

/* Lists an opened drive. */
static int list_out(cli *c, const char *dir, datsync_drive *drive, const char *path)
{
    datsync_entry entry;
    uint64_t version = 0;
    listing l = {c, path, 0};
    int root = strcmp(path, "/") == 0;

    int code = chosen_version(c, dir, drive, &version);
    if (code != DONE || version == 0) {
        return code;
    }
    int error = root ? DATSYNC_E_NOT_FOUND : datsync_drive_find(drive, version, path, &entry, NULL);
    int known = error == 0 || (error == DATSYNC_E_MORE && entry.path != NULL);
    if (known && !entry.deleted && !is_folder_entry(&entry)) {
        l.path = "/";
        on_listed(&l, &entry);
    } else if (known || error == DATSYNC_E_NOT_FOUND || error == DATSYNC_E_MORE) {
        int found = error == 0;
        error = datsync_drive_list(drive, version, path, c->recursive, on_listed, &l, NULL);
        if (error == 0 && l.count == 0 && !root && !found) {
            error = DATSYNC_E_NOT_FOUND;
        }
    }
    return error < 0 ? fail_path(c, dir, path, error) : DONE;
}

/* Why a file can't be read out of the folder: what a look at it tells says more than the read that failed. */
typedef struct looking {
    const char *path;
    int error;
} looking;

static void on_looked(void *ctx, const datsync_entry *entry, int error)
{
    looking *l = ctx;

    if (strcmp(entry->path, l->path) == 0) {
        l->error = error;
    }
}

static int fail_read(cli *c, const char *dir, datsync_drive *drive, const char *path, int error)
{
    datsync_drive_state state;
    looking l = {path, 0};
    datsync_drive_check check = {&l, on_looked, 0};

    lay_out(c, drive);
    if (datsync_drive_look(drive, &state, &check) == 0 && l.error < 0) {
        error = l.error;
    }
    return error == DATSYNC_E_NOT_FOUND || error == DATSYNC_E_PARTIAL || error >= 0
               ? fail(c, FAILED, "%s: %s: its bytes are not all here", dir, path)
           : error == DATSYNC_E_HASH || error == DATSYNC_E_INVALID || error == DATSYNC_E_CORRUPT
               ? fail_path(c, dir, path, DATSYNC_E_CHANGED)
               : fail_path(c, dir, path, error);
}

/* Writes one file of an opened drive to standard output. */
static int write_out(cli *c, const char *dir, datsync_drive *drive, const char *path)
{
    static uint8_t piece[CLI_BLOCK_SIZE];
    char own[DATSYNC_MAX_PATH + 2];
    datsync_entry entry;
    uint64_t version;

    int code = chosen_version(c, dir, drive, &version);
    if (code != DONE) {
        return code;
    }
    int error = version == 0 ? DATSYNC_E_NOT_FOUND : datsync_drive_find(drive, version, path, &entry, NULL);
    int partly = error == DATSYNC_E_MORE && entry.path != NULL; /* the newest of the entries that are here */
    if (error == 0 && entry.deleted) {
        error = DATSYNC_E_NOT_FOUND;
    } else if (error == 0 || partly) {
        error = is_folder_entry(&entry) ? DATSYNC_E_IS_FOLDER : entry.error;
    }
    if (error == DATSYNC_E_NOT_FOUND) {
        return fail(c, FAILED, "%s: %s: no such file in this version", dir, path);
    }
    if (error < 0) {
        return fail_path(c, dir, path, error);
    }
    strcpy(own, path);
    entry.path = own; /* the drive's lasts only until the next call */
    for (uint64_t at = 0; at < entry.stat.size && !ferror(stdout);) {
        int64_t got = datsync_drive_read(drive, &entry, at, piece, sizeof piece);
        if (got <= 0) {
            return fail_read(c, dir, drive, path, (int)got);
        }
        fwrite(piece, 1, (size_t)got, stdout);
        at += (uint64_t)got;
    }
    return ferror(stdout) ? FAILED : partly ? fail_path(c, dir, path, DATSYNC_E_MORE) : DONE;
}

/* The one file of `cat LINK`: patterns don't count here. */
static int is_this_path(void *ctx, const char *path)
{
    const char *wanted = ctx;

    return strcmp(path + (*path == '/'), wanted + 1) == 0;
}

/* `ls LINK` needs no file at all. */
static int is_no_path(void *ctx, const char *path)
{
    (void)ctx;
    (void)path;
    return 0;
}

/* The first word is a link: what it names is fetched into memory, and shown. */
static int show_link(cli *c, const uint8_t key[32], char *path)
{
    datsync_drive_options options;
    datsync_drive *drive = NULL;
    datsync_layout layout;
    transfer t;

    int code = need_peer_to_clone(c);
    if (code != DONE) {
        return code;
    }
    datsync_os_signals();
    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.key = key;
    options.flags = DATSYNC_CREATE;
    int error = datsync_drive_open(&drive, &options);
    if (error < 0) {
        return fail_drive(c, c->words[0], error);
    }
    memset(&layout, 0, sizeof layout);
    layout.ctx = path;
    layout.version = c->checkout;
    layout.select = c->command->bit == LS ? is_no_path : is_this_path;
    datsync_drive_layout(drive, &layout);
    transfer_of_drive(&t, c, c->words[0], drive);
    code = run_transfer(&t, DATSYNC_DOWNLOAD | DATSYNC_UPLOAD);
    if (code == DONE) {
        code = c->command->bit == LS ? list_out(c, c->words[0], drive, path) : write_out(c, c->words[0], drive, path);
    }
    return close_drive(c, c->words[0], drive, code);
}

/* The path that is meant: the second word, or the link's own. NULL: none, or an error that has been told. */
static const char *shown_path(cli *c, char place[DATSYNC_MAX_PATH + 2])
{
    const char *word = c->word_count > 1 ? c->words[1] : c->link_path[0] != 0 ? c->link_path : NULL;

    if (c->word_count > 1 && c->link_path[0] != 0) {
        fail(c, USAGE, "%s: names a path already; %s is another", c->words[0], word);
        return NULL;
    }
    if (word == NULL && c->command->bit == CAT) {
        fail(c, USAGE, "%s: which file? datsync cat [OPTIONS] %s", c->words[0], c->command->usage);
        return NULL;
    }
    return drive_path(place, word != NULL ? word : "/");
}

/* `ls` and `cat`, of a folder or a link; a clone's folder may have the key's name. */
static int show_path(cli *c)
{
    const char *from = folder_word(c, 0);
    datsync_drive *drive = NULL;
    char place[DATSYNC_MAX_PATH + 2];
    uint8_t key[32], there[32];
    int link = c->word_count > 0 && is_link(from) && find_layout(from, there) == NULL;

    int code = link ? read_link(c, from, key) : DONE;
    if (code != DONE) {
        return code;
    }
    if (shown_path(c, place) == NULL) {
        return c->said ? USAGE : fail_path(c, from, c->words[c->word_count - 1], DATSYNC_E_TOO_BIG);
    }
    if (link) {
        return show_link(c, key, place);
    }
    code = look_into(c, from, &drive);
    if (code != DONE) {
        return code;
    }
    code = c->command->bit == LS ? list_out(c, from, drive, place) : write_out(c, from, drive, place);
    return close_drive(c, from, drive, code);
}

/* ---------------------------------------------------------------- tables ---------------------------------------- */

static const command commands[] = {
    {0, "create", "[DIR]", "Make a drive of DIR's files and print its link.", 0, 1, CREATE, run_create},
    {0, "share", "[DIR]", "Import what changed, then serve until interrupted; first make a drive, if DIR is none.", 0,
     1, SHARE, run_share},
    {0, "clone", "LINK [DIR]", "Download a drive into the folder DIR, or go on with it; end when it is complete.", 1, 2,
     CLONE, run_clone},
    {0, "pull", "[DIR]", "Bring a clone up to date; end when it is complete.", 0, 1, PULL, run_pull},
    {0, "sync", "[DIR]", "Until interrupted: the owner imports and serves, a clone downloads and serves.", 0, 1, SYNC,
     run_sync},
    {0, "log", "[DIR]", "Tell every change, the oldest first.", 0, 1, LOG, run_log},
    {0, "status", "[DIR]", "Tell what the drive is and holds, and what isn't imported yet.", 0, 1, STATUS, run_status},
    {0, "keys", "[export|import] [DIR]",
     "Print the link and the discovery key; export: print the secret key; import: read it.", 0, 2, KEYS, run_keys},
    {0, "verify", "[DIR]", "Read everything and check it: `ok N`, or a line `bad ...` for each fault.", 0, 1, VERIFY,
     run_verify},
    {0, "ls", "[LINK|DIR] [PATH]", "List the files and folders of the newest version.", 0, 2, LS, show_path},
    {0, "cat", "LINK|DIR [PATH]", "Write one file to standard output.", 1, 2, CAT, show_path},
    {1, "create", "DIR", "Make a feed with new keys in the folder DIR and print its link.", 1, 1, FEED_CREATE,
     feed_create},
    {1, "append", "DIR [FILE...]", "Append the files, or standard input, and print the new length.", 1, -1, FEED_APPEND,
     feed_append},
    {1, "cat", "DIR", "Write the blocks to standard output.", 1, 1, FEED_CAT, feed_cat},
    {1, "info", "DIR", "Tell what the folder holds.", 1, 1, FEED_INFO, feed_info},
    {1, "verify", "DIR", "Read everything and check it: `ok N`, or a line `bad INDEX FILE` for each fault.", 1, 1,
     FEED_VERIFY, feed_verify},
    {1, "share", "DIR", "Serve what the folder holds until interrupted.", 1, 1, FEED_SHARE, feed_share},
    {1, "clone", "LINK DIR", "Download into the folder DIR, or go on with it; end when it is complete.", 2, 2,
     FEED_CLONE, feed_clone},
};

enum { NONE, TEXT, NUMBER, PEER, LISTEN, RANGE, GLOB };

typedef struct option_spec {
    const char *name;
    int kind;
    const char *value; /* its name in the help */
    const char *about;
    uint32_t commands;
    size_t at; /* offset in struct cli */
    uint64_t min, max;
} option_spec;

#define AT(member) offsetof(cli, member)
#define NETWORKED (FEED_SHARE | FEED_CLONE | SHARE | CLONE | PULL | SYNC | LS | CAT)
#define IMPORTING (CREATE | SHARE | SYNC)

static const option_spec option_specs[] = {
    {"--title", TEXT, "TEXT", "for dat.json, if there is none yet", CREATE | SHARE, AT(title), 0, 0},
    {"--description", TEXT, "TEXT", "the same", CREATE | SHARE, AT(description), 0, 0},
    {"--author", TEXT, "TEXT", "the same", CREATE | SHARE, AT(author), 0, 0},
    {"--license", TEXT, "TEXT", "the same", CREATE | SHARE, AT(license), 0, 0},
    {"--watch", NONE, NULL, "go on importing what changes", SHARE, AT(watch), 0, 0},
    {"--ignore-hidden", NONE, NULL, "leave out names that begin with a dot (as without it)", IMPORTING | STATUS, 0, 0,
     0},
    {"--no-ignore-hidden", NONE, NULL, "take in names that begin with a dot", IMPORTING | STATUS, AT(with_hidden), 0,
     0},
    {"--select", GLOB, "GLOB", "only these files and folders (* ** ? [a-z]); repeatable; kept for pull",
     CLONE | PULL | SYNC, 0, 0, 0},
    {"--all", NONE, NULL, "drop the selection that the folder keeps: everything again", CLONE | PULL | SYNC, AT(all), 0,
     0},
    {"--checkout", NUMBER, "VERSION", "this version, not the newest", CLONE | PULL | LS | CAT, AT(checkout), 1,
     DATSYNC_MAX_BLOCKS},
    {"--archive", NONE, NULL, "keep the content of all versions, in .dat", CREATE | SHARE | CLONE, AT(archive), 0, 0},
    {"--force", NONE, NULL, "overwrite and delete what was changed here; keys import: take the folder as it is",
     CLONE | PULL | SYNC | KEYS, AT(force), 0, 0},
    {"--long", NONE, NULL, "mode, size and time too (also -l)", LS, AT(long_form), 0, 0},
    {"--recursive", NONE, NULL, "everything beneath", LS, AT(recursive), 0, 0},
    {"--secret-key", TEXT, "FILE", "use this secret key (64 bytes; - is standard input)", FEED_CREATE, AT(secret_key),
     0, 0},
    {"--block-size", NUMBER, "N", "bytes of a block (65536)", FEED_APPEND, AT(block_size), 1, DATSYNC_MAX_BLOCK},
    {"--lines", NONE, NULL, "a block is a line, without its line feed", FEED_APPEND | FEED_CAT, AT(lines), 0, 0},
    {"--range", RANGE, "A:B", "only the blocks A to B - 1; repeatable", FEED_CAT | FEED_CLONE, 0, 0, 0},
    {"--listen", LISTEN, "[HOST:]PORT", "take connections here (0: any port; unix:PATH: a socket file)", NETWORKED,
     AT(listen), 0, 0},
    {"--no-listen", NONE, NULL, "take no connections", NETWORKED, AT(no_listen), 0, 0},
    {"--peer", PEER, "HOST:PORT", "dial this peer; repeatable", NETWORKED, 0, 0, 0},
    {"--max-peers", NUMBER, "N", "connections at once (64)", NETWORKED, AT(max_peers), 1, 65535},
    {"--no-discovery", NONE, NULL, "look for no peers (there is no discovery yet)", NETWORKED, 0, 0, 0},
    {"--timeout", NUMBER, "S", "give up after S seconds without a new byte (30; 0: never)",
     FEED_CLONE | CLONE | PULL | LS | CAT, AT(timeout), 0, 1000000000},
    {"--live", NONE, NULL, "stay when complete: fetch what is added, and serve", FEED_CLONE | CLONE, AT(live), 0, 0},
    {"--secret-dir", TEXT, "DIR", "where secret keys are kept (.dat/secret_keys in the home folder)", ALL_DRIVE,
     AT(secret_dir), 0, 0},
    {"--no-sync", NONE, NULL, "don't wait for the disk: a power cut may lose claimed blocks or fork one's own feed",
     FEED_CREATE | FEED_APPEND | FEED_CLONE | IMPORTING | CLONE | PULL, AT(no_sync), 0, 0},
    {"--json", NONE, NULL, "standard output: one JSON object a line", ALL & ~(FEED_CAT | CAT), AT(json), 0, 0},
    {"--quiet", NONE, NULL, "results and errors only", ALL, AT(quiet), 0, 0},
    {"--help", NONE, NULL, "this text (also -h)", ALL, AT(help), 0, 0},
};

static const char *group(const command *cmd)
{
    return cmd->feed ? "feed " : "";
}

static void usage(FILE *out)
{
    char head[64];

    fputs("usage: datsync COMMAND [OPTIONS] ...\n       datsync feed COMMAND [OPTIONS] ...\n", out);
    for (size_t i = 0; i < COUNT(commands); i++) {
        const command *cmd = &commands[i];
        if (i == 0 || cmd->feed != commands[i - 1].feed) {
            fputs(cmd->feed ? "\nBare feeds:\n" : "\nDrives, folders of files (DIR is this one if it is left out):\n",
                  out);
        }
        snprintf(head, sizeof head, "datsync %s%s %s", group(cmd), cmd->name, cmd->usage);
        fprintf(out, "  %-34s %s\n", head, cmd->about);
    }
    fputs(
        "\nLINK is 64 hexadecimal digits, with or without dat:// or https://HOST/ before them; +VERSION and /PATH may\n"
        "follow: the one counts as --checkout, the other is the file or folder that is meant.\n"
        "Each command has -h. datsync --version prints the version.\n\n"
        "exit: 0 done, 1 failed, 2 wrong usage, 3 no peer served this key, 130 interrupted\n",
        out);
}

static void usage_of(const command *cmd)
{
    char head[64];

    printf("usage: datsync %s%s [OPTIONS] %s\n\n%s\n\n", group(cmd), cmd->name, cmd->usage, cmd->about);
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
    case GLOB:
        return add_select(c, value) == NULL;
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
    const char *arg = strcmp(argv[*at], "-h") == 0 ? "--help" : strcmp(argv[*at], "-l") == 0 ? "--long" : argv[*at];
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
        return fail(c, USAGE, "%.*s: no such option; see datsync %s%s -h", (int)len, arg, group(c->command),
                    c->command->name);
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
        return fail(c, USAGE, "usage: datsync %s%s [OPTIONS] %s", group(c->command), c->command->name,
                    c->command->usage);
    }
    c->word_count = words < (int)COUNT(c->words) ? words : (int)COUNT(c->words);
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
    if (c->command->bit == FEED_CLONE) {
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
    int feed = strcmp(argv[1], "feed") == 0;
    const char *name = argv[1 + (feed && argc > 2)];
    if (feed && argc < 3) {
        usage(stderr);
        return USAGE;
    }
    if (strcmp(name, "-h") == 0 || strcmp(name, "--help") == 0) {
        usage(stdout);
        return DONE;
    }
    for (size_t i = 0; i < COUNT(commands); i++) {
        if (commands[i].feed == feed && strcmp(commands[i].name, name) == 0) {
            c->command = &commands[i];
            return run_command(c, argc - 2 - feed, argv + 2 + feed);
        }
    }
    return fail(c, USAGE, "%s%s: no such command; see datsync -h", feed ? "feed " : "", name);
}

int main(int argc, char **argv)
{
    static cli c; /* zeroed, and off the stack */

    c.block_size = CLI_BLOCK_SIZE;
    c.timeout = CLI_TIMEOUT_S;
    c.env.clock = datsync_os_clock;
    int error = datsync_os_main(&argc, &argv);
    int code = error == 0 ? run(&c, argc, argv) : fail(&c, FAILED, "%s", datsync_strerror(error));
    if (fflush(stdout) != 0 || ferror(stdout)) {
        int number = errno;
        if (code == DONE || !c.said) {
            c.json = 0;
            return fail(&c, FAILED, "standard output: %s", number != 0 ? strerror(number) : "cannot be written");
        }
    }
    return code;
}
