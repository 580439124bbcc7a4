/* The laboratory: a swarm in one process, on virtual time. A number makes a scene (hosts, ways between them, what
 * happens when); the scene is run, and properties are held against it; what comes of it is one hash of all that was
 * told. The same number gives the same hash everywhere. Only datsync.h is used: what is wrong here is wrong for all.
 *
 *     lab NUMBER ...               run these; a line for each: number, hash, what failed
 *     lab --from N --count N       run these numbers; the same for each that fails, and a last line with all counts
 *     lab --story NUMBER           shrink a number that fails, and tell what is left, one event a line
 *     lab --network                hold the network itself to what lab.h says
 *     lab --finding WAY N LOST     200 peers find each other by mdns, server or dht; LOST of 1,000 datagrams are lost
 *
 * SPDX-License-Identifier: MIT
 */
#include "lab.h"

#include <sodium.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "base.h"
#include "world.h"

#define MAX_EVENTS 24
#define MAX_DIALS 3
#define MAX_BLOCKS 4096
#define PORT 3282

/* ================================================================ scenes ======================================== */

enum host_kind {
    OWNER,
    READER,
    /* from here on hostile, or no help */
    FALSE_BLOCKS, /* has everything, with false bytes */
    BRAGGART,     /* offers everything, and gives nothing */
    SILENT,       /* takes connections, and never says a word */
    NOISE,        /* speaks, but not this protocol */
    CLOSER,       /* closes as soon as somebody comes */
    FLOODER,      /* asks, offers and wants without end, and reads nothing */
    WITNESS,      /* wants nothing; looks whether what it is offered is there */
    CRAWLER,      /* an honest copy behind a line of 20 bytes a second */
    /* held back: only in numbers from HELD_BACK on */
    DRIBBLER, /* offers everything, and begins a block of a megabyte, of which a byte comes each second */
    MIMIC     /* a braggart who says that he is the owner: an id is no secret */
};

static const char *const kind_names[] = {"owner",  "reader",  "false-blocks", "braggart", "silent",   "noise",
                                         "closer", "flooder", "witness",      "crawler",  "dribbler", "mimic"};

#define HOSTILE FALSE_BLOCKS
#define KINDS (MIMIC + 1)

/* What datsync doesn't withstand yet is tried from this number on. */
#define HELD_BACK 1000000u

enum event_kind {
    GROWS,   /* the owner appends `n` blocks, or changes files and imports them */
    CLEARS,  /* a reader drops a part of what it has */
    CRASHES, /* power is lost, for `n` ms */
    KILLED,  /* the process ends without a word; nothing that was written is lost */
    PARTS,   /* from host `n`, for `ms` */
    RESETS,  /* all its connections */
    JUMPS,   /* its clock, by `n` ms */
    ROTS     /* bytes of what a reader holds change on its disk; from now on it is no longer held to anything */
};

static const char *const event_names[] = {"grows",          "clears",   "crashes", "is killed",
                                          "is parted from", "is reset", "jumps",   "rots"};

typedef struct scene_host {
    enum host_kind kind;
    int there;
    unsigned dials[MAX_DIALS], dial_count;
    uint32_t begins; /* ms */
} scene_host;

typedef struct scene_event {
    enum event_kind kind;
    int there;
    uint32_t at, n, ms;
    unsigned host;
} scene_event;

typedef struct scene {
    uint64_t number;
    int drive, live;
    uint32_t blocks, size; /* of a feed: blocks at the start, and the largest; of a drive: files, and the largest */
    int wide;              /* ways with delays, small pieces, limits; else none has any */
    unsigned host_count, event_count;
    scene_host hosts[LAB_HOSTS];
    scene_event events[MAX_EVENTS];
} scene;

static uint64_t below(uint64_t *luck, uint64_t n)
{
    return n ? chance(luck) % n : 0;
}

static uint64_t between(uint64_t *luck, uint64_t least, uint64_t most)
{
    return least + below(luck, most - least + 1);
}

static void scene_event_make(scene *s, scene_event *e, uint64_t *luck)
{
    e->there = 1;
    e->kind = (enum event_kind)below(luck, ROTS + 1);
    if (e > s->events && below(luck, 3) == 0) /* one thing leads to another */
        e->at = e[-1].at + (uint32_t)below(luck, 1500);
    else
        e->at = (uint32_t)between(luck, 0, 20000);
    e->host = below(luck, 3) ? (unsigned)below(luck, s->host_count) : 0;
    e->n = (uint32_t)between(luck, 1, 40);
    e->ms = (uint32_t)between(luck, 10, 30000);
    if (e->kind == GROWS)
        e->host = 0;
    if (e->kind == CLEARS || e->kind == ROTS)
        e->host = (unsigned)between(luck, 1, s->host_count - 1);
    if (e->kind == PARTS)
        e->n = (uint32_t)((e->host + 1 + below(luck, s->host_count - 1)) % s->host_count);
    if (e->kind == JUMPS)
        e->n = (uint32_t)between(luck, 1, 4000000);
    if (s->hosts[e->host].kind >= HOSTILE && e->kind != PARTS && e->kind != RESETS)
        e->kind = RESETS; /* the others are about who does its work */
}

static void scene_make(scene *s, uint64_t number)
{
    uint64_t luck = number * 0x2545f4914f6cdd1du + 1;
    memset(s, 0, sizeof *s);
    s->number = number;
    int crowd = below(&luck, 50) == 0;
    s->host_count = crowd ? 200 : (unsigned)between(&luck, 2, 12);
    s->drive = !crowd && below(&luck, 2);
    s->live = below(&luck, 4) != 0;
    s->wide = below(&luck, 3) != 0;
    s->blocks = (uint32_t)(s->drive ? between(&luck, 0, 8) : between(&luck, 0, crowd ? 20 : 150));
    s->size = (uint32_t)(s->drive ? between(&luck, 0, 150000) : between(&luck, 0, 3000));
    int hostile = !crowd && below(&luck, 2);
    for (unsigned i = 0; i < s->host_count; i++) {
        scene_host *h = &s->hosts[i];
        h->there = 1;
        h->kind = i == 0 ? OWNER : READER;
        if (i > 1 && hostile && below(&luck, 3) == 0)
            h->kind = (enum host_kind)between(&luck, HOSTILE, number < HELD_BACK ? CRAWLER : KINDS - 1);
        h->begins = (uint32_t)(below(&luck, 3) || i == 0 ? 0 : below(&luck, 10000));
        h->dial_count = i == 0 ? 0 : (unsigned)between(&luck, 1, MAX_DIALS);
        for (unsigned k = 0; k < h->dial_count; k++)
            h->dials[k] = k == 0 && below(&luck, 2) ? 0 : (unsigned)below(&luck, i);
    }
    s->event_count = s->live && !crowd ? (unsigned)below(&luck, 9) : 0;
    for (unsigned i = 0; i < s->event_count; i++)
        scene_event_make(s, &s->events[i], &luck);
}

static void scene_way(const scene *s, unsigned a, unsigned b, lab_way *w)
{
    uint64_t luck = s->number ^ ((uint64_t)(a < b ? a : b) << 32 | (a < b ? b : a) << 8 | 0x77u);
    memset(w, 0, sizeof *w);
    if (s->hosts[a].kind == CRAWLER || s->hosts[b].kind == CRAWLER)
        w->rate = 20;
    if (!s->wide)
        return;
    w->delay = (uint32_t)below(&luck, 3) ? (uint32_t)below(&luck, 200) : 0;
    w->jitter = (uint32_t)below(&luck, 2) ? (uint32_t)below(&luck, 50) : 0;
    w->pieces = below(&luck, 3) ? (uint32_t)between(&luck, 1, 3000) : 0;
    w->window = below(&luck, 3) ? 0 : (uint32_t)between(&luck, 500, 100000);
    w->lives = below(&luck, 6) ? 0 : (uint32_t)between(&luck, 300000, 2000000);
    if (!w->rate && below(&luck, 2))
        w->rate = (uint32_t)between(&luck, 4000, 200000);
}

/* ================================================================ a run ========================================= */

enum property {
    HOLDS,    /* nothing failed */
    EQUAL,    /* all copies are equal in the end */
    VERIFIED, /* what is held, given or laid out is what the owner signed */
    NO_FORK,  /* no owner says two things about one block */
    COMPLETE, /* complete is said when all is there, and not before */
    BOUNDED,  /* memory, connections and turns have a limit */
    IN_TIME   /* with hostile ones it takes no more than three times as long, and a minute */
};

static const char *const property_names[] = {"holds", "equal", "verified", "no-fork", "complete", "bounded", "in-time"};

#define MEMORY_LIMIT (64u << 20)
#define TURNS_LIMIT 300u   /* of a host, while no time passes and no byte moves */
#define PATIENCE 900000u   /* ms after the last event */
#define FOUND_EVERY 20000u /* addresses are found so often, by whatever way */

typedef struct truth {
    uint8_t hash[32];
    int known, seen; /* the owner has it; somebody else has had it */
} truth;

/* A connection of one that does not keep to the rules. */
typedef struct stranger {
    struct stranger *next;
    intptr_t stream;
    datsync_peer *peer; /* NULL: bytes alone */
    int dialled, open;
    unsigned to; /* dialled */
    unsigned sent;
    uint64_t next_at; /* of a dribbler: when the next byte goes out */
} stranger;

struct run;

typedef struct host {
    struct run *run;
    unsigned number;
    enum host_kind kind;
    int up;
    uint64_t up_at; /* when it begins, or is there again */
    world *w;
    datsync_env env;
    datsync_net net;
    datsync *ds;
    datsync_feed *feed; /* of a drive its metadata */
    datsync_drive *drive;
    uint64_t luck, ahead; /* its clock goes so much ahead */
    size_t memory;
    uint64_t stepped_at, moved, found_at;
    unsigned turns;
    uint64_t complete; /* of which length or version it was told, + 1 */
    int done;          /* not live: it has left */
    int rotten;
    uint8_t ever[MAX_BLOCKS]; /* blocks that it had since it began */
    intptr_t listener;
    stranger *strangers;
} host;

typedef struct run {
    const scene *s;
    lab_net *net;
    host *hosts;
    int story;
    uint8_t key[32], secret[64];
    uint8_t id[LAB_HOSTS][32];
    truth *truths[2]; /* of the feed, or of metadata; of content */
    size_t truth_count[2];
    uint8_t (*files)[32]; /* hashes of path and content of all that the owner ever imported */
    size_t file_count;
    crypto_generichash_state trace;
    enum property failed;
    char why[240];
} run;

static void tell(const run *r, const char *format, ...)
{
    if (!r->story)
        return;
    va_list args;
    va_start(args, format);
    printf("%9.3f  ", (double)lab_now(r->net) / 1000);
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

static void fail(run *r, enum property p, const char *format, ...)
{
    if (r->failed)
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(r->why, sizeof r->why, format, args);
    va_end(args);
    r->failed = p;
    tell(r, "FAILS (%s): %s", property_names[p], r->why);
}

static void trace(run *r, const host *h, int type, uint64_t index, uint64_t size, int error)
{
    const uint64_t v[] = {lab_now(r->net), h->number, (uint64_t)type, index, size, (uint64_t) - (int64_t)error};
    uint8_t bytes[sizeof v];
    for (size_t i = 0; i < sizeof v; i++)
        bytes[i] = (uint8_t)(v[i / 8] >> 8 * (i % 8));
    (void)crypto_generichash_update(&r->trace, bytes, sizeof bytes);
}

/* ------------------------------------------------ memory and chance of a host */

static void *host_resize(void *ctx, void *ptr, size_t size)
{
    host *h = ctx;
    ptr = counted_resize(ptr, size, &h->memory);
    if (h->memory > MEMORY_LIMIT)
        fail(h->run, BOUNDED, "host %u holds more than %u bytes of memory", h->number, MEMORY_LIMIT);
    return ptr;
}

static void host_random(void *ctx, void *buf, size_t len)
{
    host *h = ctx;
    for (uint8_t *to = buf; len--;)
        *to++ = (uint8_t)chance(&h->luck);
}

static uint64_t host_now(const host *h)
{
    return lab_now(h->run->net) + h->ahead;
}

/* ------------------------------------------------ what the owner says */

static datsync_feed *feed_of(const host *h, int which)
{
    return !which ? h->feed : h->drive ? datsync_drive_content(h->drive) : NULL;
}

static int hash_block(datsync_feed *f, uint64_t index, uint8_t hash[32])
{
    int64_t size = datsync_feed_block_size(f, index);
    if (size < 0)
        return (int)size;
    uint8_t *buf = must(malloc((size_t)size + 1));
    size = datsync_feed_get(f, index, buf, (size_t)size);
    if (size >= 0)
        (void)crypto_generichash(hash, 32, buf, (size_t)size, NULL, 0);
    free(buf);
    return size < 0 ? (int)size : 0;
}

static truth *truth_of(run *r, int which, uint64_t index)
{
    if (index >= MAX_BLOCKS)
        die("more blocks than the laboratory makes");
    if (!r->truths[which])
        r->truths[which] = must(calloc(MAX_BLOCKS, sizeof(truth)));
    return &r->truths[which][index];
}

/* The owner has new blocks, or is there again: what it says of each is noted, and held against what others have. */
static void note_owner(run *r)
{
    host *h = &r->hosts[0];
    for (int which = 0; which < 2; which++) {
        datsync_feed *f = feed_of(h, which);
        uint64_t length = f ? datsync_feed_length(f) : 0;
        for (uint64_t i = 0; i < length; i++) {
            truth *t = truth_of(r, which, i);
            uint8_t hash[32];
            if (hash_block(f, i, hash) < 0)
                continue; /* content whose file has been changed since */
            if (t->seen && memcmp(t->hash, hash, 32) != 0)
                fail(r, NO_FORK, "the owner says another block %u than others have", (unsigned)i);
            memcpy(t->hash, hash, 32);
            t->known = 1;
        }
        for (uint64_t i = length; f && i < r->truth_count[which]; i++)
            if (r->truths[which][i].seen)
                fail(r, NO_FORK, "the owner has lost block %u, which others have", (unsigned)i);
        if (r->truth_count[which] < length)
            r->truth_count[which] = (size_t)length;
    }
}

/* Somebody has a block, or gives it. */
static void check_block(run *r, const host *h, datsync_feed *f, uint64_t index, const char *what)
{
    if (h->rotten)
        return;
    int which = f != h->feed;
    truth *t = truth_of(r, which, index);
    uint8_t hash[32];
    int e = hash_block(f, index, hash);
    if (e < 0) {
        fail(r, VERIFIED, "host %u %s block %u, which it can't read: %s", h->number, what, (unsigned)index,
             datsync_strerror(e));
        return;
    }
    if (!t->known || memcmp(t->hash, hash, 32) != 0)
        fail(r, VERIFIED, "host %u %s block %u, which is not the owner's", h->number, what, (unsigned)index);
    if (h->kind != OWNER)
        t->seen = 1;
}

static void hash_file(uint8_t hash[32], const char *path, const fs_node *node)
{
    crypto_generichash_state st;
    (void)crypto_generichash_init(&st, NULL, 0, 32);
    (void)crypto_generichash_update(&st, (const uint8_t *)path, strlen(path) + 1);
    if (node->len)
        (void)crypto_generichash_update(&st, node->data, node->len);
    (void)crypto_generichash_final(&st, hash, 32);
}

static void check_file(run *r, const host *h, const char *path)
{
    const fs_node *node = world_find(h->w, path);
    uint8_t hash[32];
    if (!node || node->mode & 0040000u || h->rotten)
        return;
    hash_file(hash, path, node);
    for (size_t i = 0; i < r->file_count; i++)
        if (memcmp(r->files[i], hash, 32) == 0)
            return;
    fail(r, VERIFIED, "host %u laid out %s, which the owner never had so", h->number, path);
}

static int same_files(const world *a, const world *b)
{
    for (size_t i = 0; i < a->count; i++) {
        const fs_node *x = a->names[i].node, *y;
        if (strncmp(a->names[i].path, ".dat", 4) == 0 || x->mode & 0040000u)
            continue;
        y = world_find(b, a->names[i].path);
        if (!y || x->len != y->len || (x->len && memcmp(x->data, y->data, x->len) != 0))
            return 0;
    }
    return 1;
}

/* ------------------------------------------------ events of synchronizers */

static void check_complete(run *r, host *h, const datsync_event *e)
{
    h->complete = (h->drive ? e->index : datsync_feed_length(h->feed)) + 1;
    const host *owner = &r->hosts[0];
    if (h->drive) {
        if (!h->rotten && owner->up && datsync_drive_version(owner->drive) == e->index &&
            !(same_files(owner->w, h->w) && same_files(h->w, owner->w)))
            fail(r, COMPLETE, "host %u says complete, and its files are not those of the owner", h->number);
        return;
    }
    if (datsync_feed_missing(h->feed))
        fail(r, COMPLETE, "host %u says complete, and lacks %u of %u blocks", h->number,
             (unsigned)datsync_feed_missing(h->feed), (unsigned)datsync_feed_length(h->feed));
}

static void on_event(void *ctx, datsync *ds, const datsync_event *e)
{
    host *h = ctx;
    run *r = h->run;
    if (e->type == DATSYNC_EV_TICK)
        return;
    trace(r, h, e->type, e->index, e->type == DATSYNC_EV_FAILED ? 0 : e->size, e->error);
    switch (e->type) {
    case DATSYNC_EV_BLOCK:
        tell(r, "%u has block %u of %s", h->number, (unsigned)e->index, e->address);
        check_block(r, h, e->feed, e->index, "has");
        if (e->feed == h->feed)
            h->ever[e->index] = 1;
        break;
    case DATSYNC_EV_UPLOAD:
        if (h->kind != FALSE_BLOCKS && !h->rotten)
            check_block(r, h, e->feed, e->index, "gives");
        break;
    case DATSYNC_EV_COMPLETE:
    case DATSYNC_EV_VERSION:
        tell(r, "%u is complete", h->number);
        check_complete(r, h, e);
        if (!r->s->live && h->kind == READER)
            datsync_stop(ds);
        break;
    case DATSYNC_EV_ENTRY:
        tell(r, "%u has %s of version %u", h->number, e->path, (unsigned)e->index);
        check_file(r, h, e->path + 1);
        break;
    case DATSYNC_EV_REMOVED:
        tell(r, "%u removes %s", h->number, e->path);
        break;
    case DATSYNC_EV_PLAN:
        tell(r, "%u lays out version %u", h->number, (unsigned)e->index);
        break;
    case DATSYNC_EV_REFUSED:
        tell(r, "%u refuses %s: %s", h->number, e->path, datsync_strerror(e->error));
        break;
    case DATSYNC_EV_FAILED:
        if (!h->rotten)
            fail(r, EQUAL, "host %u fails: %s", h->number, datsync_strerror(e->error));
        break;
    case DATSYNC_EV_PEER:
        tell(r, "%u meets %s", h->number, e->address);
        break;
    case DATSYNC_EV_REJECT:
        tell(r, "%u rejects block %u of %s", h->number, (unsigned)e->index, e->address);
        break;
    case DATSYNC_EV_DISCONNECTED:
    case DATSYNC_EV_UNREACHABLE:
        tell(r, "%u loses %s: %s", h->number, e->address, datsync_strerror(e->error));
        break;
    default:
        break;
    }
}

/* ================================================================ hosts ========================================= */

static void address_of(char out[24], unsigned number)
{
    (void)snprintf(out, 24, "h%u:%u", number, (unsigned)PORT);
}

/* Any bytes, the same for the same numbers. */
static void fill(uint8_t *to, size_t len, uint64_t a, uint64_t b)
{
    uint64_t luck = a * 0x9e3779b97f4a7c15u ^ b * 0xc2b2ae3d27d4eb4fu;
    for (size_t i = 0; i < len; i += 8) {
        uint64_t v = chance(&luck);
        for (size_t k = i; k < len && k < i + 8; k++)
            to[k] = (uint8_t)(v >> 8 * (k - i));
    }
}

/* The owner's file changes: it is there with new bytes, or it goes. */
static void change_file(run *r, host *h, uint64_t which)
{
    static const char *const paths[] = {"a", "b", "folder/a", "folder/b", "folder/in/c", "z"};
    static const datsync_bytes none = {NULL, 0};
    const char *path = paths[which % (sizeof paths / sizeof *paths)];
    const fs_node *old = world_find(h->w, path);
    if (old && below(&h->luck, 4) == 0) {
        world_delete(h->w, path);
        tell(r, "  /%s goes", path);
        return;
    }
    if (strncmp(path, "folder", 6) == 0 && !world_find(h->w, "folder"))
        world_put(h->w, "folder", 0040755, 0, none);
    if (strncmp(path, "folder/in", 9) == 0 && !world_find(h->w, "folder/in"))
        world_put(h->w, "folder/in", 0040755, 0, none);
    datsync_bytes b;
    b.len = (size_t)below(&h->luck, (uint64_t)r->s->size + 1);
    uint8_t *bytes = must(malloc(b.len + 1));
    fill(bytes, b.len, r->s->number, chance(&h->luck));
    b.data = bytes;
    world_put(h->w, path, 0100644, 0, b);
    free(bytes);
    tell(r, "  /%s: %u bytes", path, (unsigned)b.len);
    r->files = must(realloc(r->files, (r->file_count + 1) * sizeof *r->files));
    hash_file(r->files[r->file_count++], path, world_find(h->w, path));
}

static void owner_grows(run *r, host *h, unsigned count)
{
    tell(r, "%u %s %u", h->number, r->s->drive ? "changes files:" : "appends blocks:", count);
    if (r->s->drive) {
        static const datsync_import_options options;
        for (unsigned i = 0; i < count && i < 8; i++)
            change_file(r, h, chance(&h->luck));
        int64_t n = datsync_drive_import(h->drive, &options);
        if (n < 0)
            fail(r, EQUAL, "the owner can't import: %s", datsync_strerror((int)n));
    }
    for (unsigned i = 0; i < count && !r->s->drive && datsync_feed_length(h->feed) < MAX_BLOCKS; i++) {
        datsync_bytes b;
        b.len = (size_t)below(&h->luck, (uint64_t)r->s->size + 1);
        uint8_t *bytes = must(malloc(b.len + 1));
        fill(bytes, b.len, r->s->number, chance(&h->luck));
        b.data = bytes;
        int64_t n = datsync_feed_append(h->feed, &b, 1);
        free(bytes);
        if (n < 0)
            fail(r, EQUAL, "the owner can't append: %s", datsync_strerror((int)n));
    }
    note_owner(r);
}

/* An own copy of all that the owner has of the feed; with false bytes. */
static void copy_of_owner(run *r, host *h, int falsely)
{
    const host *owner = &r->hosts[0];
    uint64_t length = owner->feed ? datsync_feed_length(owner->feed) : 0;
    for (uint64_t i = 0; i < length; i++) {
        datsync_proof proof;
        int64_t size = datsync_feed_block_size(owner->feed, i);
        uint8_t *buf = must(malloc((size_t)size + 1));
        datsync_bytes b = {buf, (size_t)size};
        if (datsync_feed_get(owner->feed, i, buf, b.len) < 0 || datsync_feed_proof(owner->feed, i, 0, 0, &proof) < 0 ||
            datsync_feed_put(h->feed, i, b, &proof) < 0)
            die("no copy of the owner's");
        free(buf);
    }
    if (datsync_feed_flush(h->feed) < 0)
        die("no copy of the owner's");
    fs_node *data = world_find(h->w, ".dat/metadata.data");
    for (size_t i = 0; falsely && data && i < data->len; i += 50)
        data->data[i] ^= 1;
}

static int is_stranger(enum host_kind kind)
{
    return kind >= BRAGGART && kind != CRAWLER;
}

static void open_stores(run *r, host *h)
{
    int with_drive = r->s->drive && h->kind <= READER, e;
    datsync_drive_options d;
    datsync_feed_options f;
    memset(&d, 0, sizeof d);
    memset(&f, 0, sizeof f);
    d.env = f.env = &h->env;
    d.flags = f.flags = DATSYNC_CREATE;
    d.key = f.key = r->key;
    if (h->kind == OWNER)
        d.secret_key = f.secret_key = r->secret;
    if (with_drive) {
        d.metadata = world_store(h->w, 0);
        d.content = world_store(h->w, 1);
        d.files = world_files(h->w);
        d.secrets = world_secrets(h->w);
        e = datsync_drive_open(&h->drive, &d);
        h->feed = e == 0 ? datsync_drive_metadata(h->drive) : NULL;
    } else {
        if (!is_stranger(h->kind))
            f.store = world_store(h->w, 0);
        e = datsync_feed_open(&h->feed, &f);
    }
    if (e < 0)
        fail(r, EQUAL, "host %u can't open what it has: %s", h->number, datsync_strerror(e));
}

static void close_stores(host *h)
{
    if (h->drive)
        (void)datsync_drive_close(h->drive);
    else if (h->feed)
        (void)datsync_feed_close(h->feed);
    h->drive = NULL;
    h->feed = NULL;
}

static void dial_all(run *r, host *h)
{
    const scene_host *plan = &r->s->hosts[h->number];
    char to[24];
    unsigned dialled = 0;
    for (unsigned i = 0; i < plan->dial_count; i++)
        if (r->s->hosts[plan->dials[i]].there) {
            address_of(to, plan->dials[i]);
            (void)datsync_connect(h->ds, to, host_now(h));
            dialled++;
        }
    if (!dialled && h->kind != OWNER) {
        address_of(to, 0);
        (void)datsync_connect(h->ds, to, host_now(h));
    }
}

static void begin_synchronizer(run *r, host *h)
{
    datsync_options o;
    memset(&o, 0, sizeof o);
    o.env = &h->env;
    o.net = &h->net;
    o.live = r->s->live;
    o.ctx = h;
    o.on_event = on_event;
    char own[24];
    address_of(own, h->number);
    uint64_t luck = h->luck;
    host_random(h, r->id[h->number], 32); /* the first that it draws is its id */
    h->luck = luck;
    int e = datsync_new(&h->ds, &o, host_now(h));
    unsigned mode = DATSYNC_UPLOAD | (h->kind == READER ? DATSYNC_DOWNLOAD : 0);
    if (e == 0)
        e = h->drive ? datsync_add_drive(h->ds, h->drive, mode) : datsync_add(h->ds, h->feed, mode);
    if (e == 0)
        e = datsync_listen(h->ds, own);
    if (e < 0)
        die("no synchronizer");
    dial_all(r, h);
}

static void stranger_dials(host *h, unsigned to)
{
    char text[24];
    address_of(text, to);
    stranger *s = must(calloc(1, sizeof *s));
    s->dialled = 1;
    s->to = to;
    if (h->net.connect(h->net.ctx, text, &s->stream) < 0)
        die("no dial");
    s->next = h->strangers;
    h->strangers = s;
}

static void host_begin(run *r, host *h)
{
    static const datsync_bytes none = {NULL, 0};
    int first = !h->w;
    tell(r, "%u begins: %s", h->number, kind_names[h->kind]);
    h->up = 1;
    h->found_at = lab_now(r->net) + FOUND_EVERY;
    lab_up(r->net, h->number);
    if (first) {
        h->w = must(calloc(1, sizeof *h->w));
        world_init(h->w, 0);
        world_put(h->w, ".dat", 0040755, 0, none);
    }
    open_stores(r, h);
    if (r->failed)
        return;
    if (is_stranger(h->kind)) {
        char own[24], bound[24];
        address_of(own, h->number);
        if (h->net.listen(h->net.ctx, own, &h->listener, bound, sizeof bound) < 0)
            die("no listener");
        if (datsync_feed_want(h->feed, 0, 0) < 0) /* a witness downloads nothing */
            die("no want");
        h->found_at = 0;
        return;
    }
    if (h->kind == OWNER && first && r->s->blocks) {
        owner_grows(r, h, r->s->blocks);
        if (h->drive ? datsync_drive_flush(h->drive) : datsync_feed_flush(h->feed))
            die("the owner can't flush");
    } else if (h->kind == OWNER) {
        note_owner(r);
    } else if (first && (h->kind == FALSE_BLOCKS || h->kind == CRAWLER)) {
        copy_of_owner(r, h, h->kind == FALSE_BLOCKS);
    }
    h->complete = 0;
    memset(h->ever, 0, sizeof h->ever);
    for (uint64_t i = 0; h->feed && i < datsync_feed_length(h->feed); i++)
        h->ever[i] = (uint8_t)datsync_feed_has(h->feed, i);
    begin_synchronizer(r, h);
}

/* ------------------------------------------------ those that do not keep to the rules */

static void stranger_end(host *h, stranger *s)
{
    stranger **at = &h->strangers;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    datsync_peer_free(s->peer);
    h->net.close(h->net.ctx, s->stream);
    free(s);
}

static unsigned stranger_mode(const host *h)
{
    return h->kind == WITNESS ? DATSYNC_DOWNLOAD : DATSYNC_UPLOAD;
}

static void stranger_hears(void *ctx, datsync_peer *peer, const datsync_peer_event *e)
{
    const host *h = ctx;
    if (e->type == DATSYNC_PEER_FEED)
        (void)datsync_peer_open(peer, h->feed, stranger_mode(h));
}

/* It is connected. */
static void stranger_begins(const run *r, host *h, stranger *s)
{
    s->open = 1;
    if (h->kind == SILENT || h->kind == NOISE || h->kind == CLOSER)
        return;
    datsync_peer_options o;
    memset(&o, 0, sizeof o);
    o.env = &h->env;
    o.live = 1;
    o.ctx = h;
    o.on_event = stranger_hears;
    if (h->kind == MIMIC)
        memcpy(o.id, r->id[0], 32);
    if (datsync_peer_new(&s->peer, &o, host_now(h)) < 0 ||
        (s->dialled && datsync_peer_open(s->peer, h->feed, stranger_mode(h)) < 0))
        die("no peer");
}

static int offers_all(enum host_kind kind)
{
    return kind == BRAGGART || kind == DRIBBLER || kind == MIMIC;
}

static void stranger_says(const host *h, stranger *s)
{
    static const uint8_t twenty_full[] = {20 << 2 | 3}; /* run-length code of as many bytes, all ones */
    static const uint8_t zeros[1000000];
    datsync_message m;
    memset(&m, 0, sizeof m);
    if (h->kind == DRIBBLER && s->sent == 1) {
        s->sent++;
        m.type = DATSYNC_DATA;
        m.u.data.value = (datsync_bytes){zeros, sizeof zeros};
        (void)datsync_peer_send(s->peer, &m);
    }
    if (offers_all(h->kind) && !s->sent) {
        s->sent++;
        m.type = DATSYNC_HAVE;
        m.has = DATSYNC_HAVE_START | DATSYNC_HAVE_LENGTH | DATSYNC_HAVE_BITFIELD;
        m.u.have.length = DATSYNC_WANT_RANGE;
        m.u.have.bitfield = (datsync_bytes){twenty_full, sizeof twenty_full};
        (void)datsync_peer_send(s->peer, &m);
    }
    for (unsigned i = 0; h->kind == FLOODER && i < 50 && s->sent < 3000; i++, s->sent++) {
        m.type = i % 3 == 0 ? DATSYNC_REQUEST : i % 3 == 1 ? DATSYNC_WANT : DATSYNC_HAVE;
        if (m.type == DATSYNC_REQUEST)
            m.u.request.index = s->sent;
        else
            m.u.have.start = (uint64_t)s->sent << 13;
        (void)datsync_peer_send(s->peer, &m);
    }
}

/* Whom it dialled is held to what it offers. */
static void witness_looks(run *r, const host *h, const stranger *s)
{
    const host *other = &r->hosts[s->to];
    for (uint64_t i = 0; i < r->truth_count[0] && s->dialled && other->kind == READER && other->up; i++)
        if (datsync_peer_remote_has(s->peer, h->feed, i) && !other->ever[i])
            fail(r, VERIFIED, "host %u offers block %u, which it never had", s->to, (unsigned)i);
}

/* 0, or it has ended. */
static int stranger_turn(run *r, host *h, stranger *s)
{
    uint8_t bytes[512];
    const uint8_t *out;
    int64_t n;
    size_t len;
    if (h->kind == CLOSER)
        return -1;
    if (h->kind == NOISE) {
        fill(bytes, sizeof bytes, r->s->number, s->sent);
        if (s->sent++ < 20 && (n = h->net.send(h->net.ctx, s->stream, bytes, sizeof bytes)) < 0 && n != DATSYNC_E_AGAIN)
            return -1;
    }
    while (!(h->kind == FLOODER && s->sent) &&
           (n = h->net.recv(h->net.ctx, s->stream, bytes, sizeof bytes)) != DATSYNC_E_AGAIN) {
        if (n < 0)
            return -1;
        if (!s->peer || s->sent)
            continue; /* it does not listen any more */
        if (datsync_peer_input(s->peer, bytes, (size_t)n, host_now(h)) < 0)
            return -1;
    }
    if (!s->peer)
        return 0;
    if (datsync_peer_remote_id(s->peer))
        stranger_says(h, s);
    if (h->kind == WITNESS)
        witness_looks(r, h, s);
    if (datsync_peer_tick(s->peer, host_now(h)) < 0 && !s->sent)
        return -1;
    while ((len = datsync_peer_output(s->peer, &out, host_now(h))) > 0) {
        if (h->kind == DRIBBLER && s->sent == 2) {
            if (host_now(h) < s->next_at)
                break;
            s->next_at = host_now(h) + 1000;
            len = 1;
        }
        n = h->net.send(h->net.ctx, s->stream, out, len);
        if (n == DATSYNC_E_AGAIN)
            break;
        if (n < 0)
            return -1;
        datsync_peer_sent(s->peer, (size_t)n, host_now(h));
    }
    return 0;
}

static void strangers_step(run *r, host *h)
{
    char from[32];
    stranger *next;
    intptr_t stream;
    while (h->net.accept(h->net.ctx, h->listener, &stream, from, sizeof from) == 0) {
        stranger *s = must(calloc(1, sizeof *s));
        s->stream = stream;
        s->next = h->strangers;
        h->strangers = s;
        stranger_begins(r, h, s);
    }
    for (stranger *s = h->strangers; s; s = next) {
        next = s->next;
        int e = s->open ? 0 : h->net.connected(h->net.ctx, s->stream);
        if (e == DATSYNC_E_AGAIN)
            continue;
        if (e == 0 && !s->open)
            stranger_begins(r, h, s);
        if (e < 0 || stranger_turn(r, h, s) < 0)
            stranger_end(h, s);
    }
}

static int is_dialled(const host *h, unsigned to)
{
    for (const stranger *s = h->strangers; s; s = s->next)
        if (s->dialled && s->to == to)
            return 1;
    return 0;
}

/* Who is not welcome comes again. */
static void strangers_dial(const run *r, host *h)
{
    const scene_host *plan = &r->s->hosts[h->number];
    for (unsigned i = 0; i < plan->dial_count; i++)
        if (r->s->hosts[plan->dials[i]].there && !is_dialled(h, plan->dials[i]))
            stranger_dials(h, plan->dials[i]);
    h->found_at = lab_now(r->net) + FOUND_EVERY;
}

static uint64_t strangers_deadline(const host *h)
{
    uint64_t at = h->strangers ? h->stepped_at + 1000 : LAB_NEVER;
    return (at < h->found_at ? at : h->found_at) + h->ahead;
}

/* ------------------------------------------------ one turn, and the end of it */

/* Whatever finds addresses tells of three hosts now and then, who are there. */
static void host_finds(run *r, host *h)
{
    char text[24];
    int count = r->s->host_count <= 12 ? 3 : h->complete <= 1; /* in a crowd all would come to know each other */
    for (int i = 0; i < count; i++) {
        unsigned k = (unsigned)below(&h->luck, r->s->host_count), tries = 0;
        while (tries++ < r->s->host_count && (k == h->number || !r->hosts[k].up || r->hosts[k].done))
            k = (k + 1) % r->s->host_count;
        if (tries > r->s->host_count)
            break;
        address_of(text, k);
        (void)datsync_found(h->ds, text, 1 + k % 3, k, host_now(h));
    }
    h->found_at = lab_now(r->net) + FOUND_EVERY;
}

static void host_leaves(host *h)
{
    while (h->strangers)
        stranger_end(h, h->strangers);
    if (h->ds)
        (void)datsync_free(h->ds);
    h->ds = NULL;
}

static uint64_t host_deadline(const host *h)
{
    if (!h->up)
        return h->up_at;
    if (h->done)
        return LAB_NEVER;
    uint64_t at = h->ds ? datsync_deadline(h->ds) : strangers_deadline(h);
    if (at != LAB_NEVER)
        at = at > h->ahead ? at - h->ahead : 0;
    return h->ds && h->found_at < at ? h->found_at : at;
}

static void host_step(run *r, host *h)
{
    datsync_pollfd fds[512];
    uint64_t moved = lab_moved(r->net, h->number);
    h->turns = h->stepped_at == lab_now(r->net) && h->moved == moved ? h->turns + 1 : 0;
    h->stepped_at = lab_now(r->net);
    h->moved = moved;
    if (h->turns > TURNS_LIMIT)
        fail(r, BOUNDED, "host %u takes %u turns in one moment, and moves no byte", h->number, h->turns);
    if (!h->ds) {
        if (h->found_at <= lab_now(r->net))
            strangers_dial(r, h);
        strangers_step(r, h);
        return;
    }
    if (h->found_at <= lab_now(r->net))
        host_finds(r, h);
    size_t count = datsync_pollfds(h->ds, fds, 512);
    if (count > 512 || lab_open_streams(r->net, h->number) > 64) {
        fail(r, BOUNDED, "host %u has %u connections", h->number, (unsigned)count);
        return;
    }
    (void)h->net.poll(h->net.ctx, fds, count, 0);
    int e = datsync_step(h->ds, fds, count, host_now(h));
    if (e < 0)
        fail(r, EQUAL, "host %u: %s", h->number, datsync_strerror(e));
    if (!r->s->live && h->kind == READER && h->complete && !datsync_candidates(h->ds)) {
        tell(r, "%u leaves", h->number);
        host_leaves(h);
        h->done = 1;
    }
}

/* The end of a host as it comes: of what was not synced, some is lost with the power. */
static void host_dies(run *r, host *h, int power, int silent, uint32_t ms)
{
    world *rest = must(calloc(1, sizeof *rest));
    world_init(rest, 0);
    world_cut(h->w, rest, h->w->op_count, power ? 2 + chance(&h->luck) % 1000000 : 0);
    lab_down(r->net, h->number, silent);
    host_leaves(h);
    close_stores(h);
    world_free(h->w);
    free(h->w);
    h->w = rest;
    h->up = 0;
    h->up_at = lab_now(r->net) + ms;
}

static void event_happens(run *r, const scene_event *e)
{
    host *h = &r->hosts[e->host];
    if (!e->there || !r->s->hosts[e->host].there || (e->kind == PARTS && !r->s->hosts[e->n].there))
        return;
    if (!h->up && e->kind != PARTS)
        return;
    tell(r, "%u %s %u (%u ms)", e->host, event_names[e->kind], e->n, e->ms);
    switch (e->kind) {
    case GROWS:
        owner_grows(r, h, e->n);
        break;
    case CLEARS: {
        uint64_t length = datsync_feed_length(h->feed);
        if (!r->s->drive && datsync_feed_clear(h->feed, length * (e->n % 8) / 8, length * (e->n % 8 + 1) / 8) < 0)
            fail(r, EQUAL, "host %u can't clear", h->number);
        break;
    }
    case CRASHES:
    case KILLED:
        host_dies(r, h, e->kind == CRASHES, e->n % 2, e->ms);
        break;
    case PARTS:
        lab_part(r->net, e->host, e->n, 1);
        break;
    case RESETS:
        lab_reset(r->net, e->host);
        break;
    case JUMPS:
        h->ahead += e->n;
        break;
    case ROTS:
        h->rotten = 1;
        for (size_t i = 0; i < h->w->count; i++) {
            fs_node *node = h->w->names[i].node;
            const char *path = h->w->names[i].path;
            if (strncmp(path, ".dat", 4) != 0 || strcmp(path, ".dat/metadata.data") == 0)
                for (size_t k = e->n; k < node->len; k += 1000)
                    node->data[k] ^= 1;
        }
        break;
    }
}

/* ------------------------------------------------ from begin to end */

/* Has this reader all that the owner has, and was it told so? */
static int is_equal(const run *r, const host *h)
{
    const host *owner = &r->hosts[0];
    if (!h->up)
        return 0;
    if (h->drive)
        return h->complete == datsync_drive_version(owner->drive) + 1 && same_files(owner->w, h->w) &&
               same_files(h->w, owner->w);
    uint64_t length = datsync_feed_length(owner->feed);
    return datsync_feed_length(h->feed) == length && datsync_feed_count(h->feed, 0, length) == length &&
           h->complete == length + 1;
}

static int is_held_to_it(const run *r, unsigned i)
{
    return r->s->hosts[i].there && r->hosts[i].kind == READER && !r->hosts[i].rotten;
}

static int is_settled(const run *r)
{
    if (!r->hosts[0].up)
        return 0;
    for (unsigned i = 1; i < r->s->host_count; i++)
        if (is_held_to_it(r, i) && !(r->s->live ? is_equal(r, &r->hosts[i]) : r->hosts[i].done))
            return 0;
    return 1;
}

static int knows_owner(const scene_host *plan)
{
    int knows = 0;
    for (unsigned i = 0; i < plan->dial_count; i++)
        knows |= plan->dials[i] == 0;
    return knows;
}

static void check_end(run *r, int settled)
{
    for (unsigned i = 1; i < r->s->host_count && !r->failed; i++) {
        host *h = &r->hosts[i];
        if (!is_held_to_it(r, i))
            continue;
        if (!settled && !(r->s->live ? is_equal(r, h) : h->done)) {
            fail(r, EQUAL, "host %u has %u of %u blocks in the end, and was told of %d", i,
                 h->feed ? (unsigned)datsync_feed_count(h->feed, 0, datsync_feed_length(h->feed)) : 0,
                 (unsigned)datsync_feed_length(r->hosts[0].feed), (int)h->complete - 1);
        }
        if (!is_equal(r, h) && knows_owner(&r->s->hosts[i]) && r->s->event_count == 0 && r->s->host_count < 64 &&
            !r->failed)
            fail(r, COMPLETE, "host %u was complete, and has not all that the owner has", i);
        for (int which = 0; which < 2 && h->feed; which++) {
            datsync_feed *f = feed_of(h, which);
            for (uint64_t k = 0; f && k < datsync_feed_length(f); k++)
                if (datsync_feed_has(f, k))
                    check_block(r, h, f, k, "holds");
        }
    }
}

static void run_begin(run *r, const scene *s, int story, int calm)
{
    uint8_t seed[32];
    memset(r, 0, sizeof *r);
    r->s = s;
    r->story = story;
    r->net = lab_net_new(s->number, s->host_count);
    r->hosts = must(calloc(s->host_count, sizeof *r->hosts));
    fill(seed, sizeof seed, s->number, 1);
    (void)crypto_sign_seed_keypair(r->key, r->secret, seed);
    (void)crypto_generichash_init(&r->trace, NULL, 0, 32);
    for (unsigned i = 0; i < s->host_count; i++) {
        host *h = &r->hosts[i];
        h->run = r;
        h->number = i;
        h->kind = s->hosts[i].kind;
        h->up_at = !s->hosts[i].there || (calm && h->kind >= HOSTILE) ? LAB_NEVER : s->hosts[i].begins;
        h->luck = s->number << 8 ^ i * 0x632be59bd9b4e019u;
        h->env = (datsync_env){.ctx = h, .resize = host_resize, .random = host_random};
        h->net = lab_streams(r->net, i);
        for (unsigned k = 0; k < i; k++) {
            lab_way w;
            scene_way(s, k, i, &w);
            lab_way_set(r->net, k, i, &w);
        }
    }
}

static void run_end(run *r)
{
    for (unsigned i = 0; i < r->s->host_count; i++) {
        host *h = &r->hosts[i];
        host_leaves(h);
        close_stores(h);
        if (h->memory && !r->failed)
            fail(r, BOUNDED, "host %u keeps %u bytes", i, (unsigned)h->memory);
        if (h->w)
            world_free(h->w);
        free(h->w);
    }
    free(r->truths[0]);
    free(r->truths[1]);
    free(r->files);
    free(r->hosts);
    lab_net_free(r->net);
}

/* What is due at this moment, until nothing is left. */
static void moment(run *r)
{
    int more = 1;
    while (more && !r->failed) {
        more = 0;
        for (unsigned i = 0; i < r->s->host_count && !r->failed; i++) {
            host *h = &r->hosts[i];
            int due = host_deadline(h) <= lab_now(r->net), stirred = lab_stirs(r->net, i);
            if (!due && !(stirred && h->up && !h->done))
                continue;
            more = 1;
            if (h->up)
                host_step(r, h);
            else
                host_begin(r, h);
        }
    }
}

/* The events and the mending of partings, in the order of time. Returns when the next one is. */
static uint64_t events_step(run *r, uint64_t from, uint64_t to)
{
    uint64_t next = LAB_NEVER;
    for (unsigned i = 0; i < r->s->event_count; i++) {
        const scene_event *e = &r->s->events[i];
        uint64_t mends = (uint64_t)e->at + e->ms;
        if (e->at >= from && e->at < to)
            event_happens(r, e);
        else if (e->at >= to && e->at < next)
            next = e->at;
        if (e->kind != PARTS || !e->there)
            continue;
        if (mends >= from && mends < to) {
            tell(r, "%u meets %u again", e->host, e->n);
            lab_part(r->net, e->host, e->n, 0);
        } else if (mends >= to && mends < next) {
            next = mends;
        }
    }
    return next;
}

typedef struct outcome {
    enum property failed;
    uint8_t hash[32];
    char why[240];
    uint64_t ended;
} outcome;

/* calm: the hostile ones stay away. */
static void run_scene(const scene *s, int story, int calm, outcome *o)
{
    run r;
    uint64_t events_to = 0, last = 0;
    int settled = 0;
    run_begin(&r, s, story, calm);
    for (unsigned i = 0; i < s->event_count; i++)
        if (s->events[i].at + s->events[i].ms > last)
            last = s->events[i].at + s->events[i].ms;
    for (;;) {
        uint64_t now = lab_now(r.net), next;
        uint64_t event = events_step(&r, events_to, now + 1);
        events_to = now + 1;
        moment(&r);
        settled = now >= last && event == LAB_NEVER && is_settled(&r);
        if (settled || r.failed)
            break;
        next = lab_next(r.net);
        next = event < next ? event : next;
        for (unsigned i = 0; i < s->host_count; i++) {
            uint64_t at = host_deadline(&r.hosts[i]);
            next = at < next ? at : next;
        }
        if (next == LAB_NEVER || next > last + PATIENCE)
            break;
        lab_go(r.net, next > now ? next : now);
    }
    check_end(&r, settled);
    o->ended = lab_now(r.net);
    (void)crypto_generichash_final(&r.trace, o->hash, 32);
    run_end(&r);
    memcpy(o->why, r.why, sizeof r.why);
    o->failed = r.failed;
}

static int is_hostile(const scene *s)
{
    for (unsigned i = 0; i < s->host_count; i++)
        if (s->hosts[i].there && s->hosts[i].kind >= HOSTILE)
            return 1;
    return 0;
}

static void judge(const scene *s, int story, outcome *o)
{
    outcome calm;
    run_scene(s, story, 0, o);
    if ((o->failed && o->failed != EQUAL) || !is_hostile(s))
        return;
    run_scene(s, 0, 1, &calm);
    if (calm.failed) {
        *o = calm; /* not the hostile ones' doing */
        return;
    }
    if (o->ended <= 3 * calm.ended + 60000)
        return;
    o->failed = IN_TIME;
    (void)snprintf(o->why, sizeof o->why, "it took %u ms, and %u without the hostile ones", (unsigned)o->ended,
                   (unsigned)calm.ended);
}

/* ================================================================ shrinking ===================================== */

static int becomes(int *what, int value)
{
    int differs = *what != value;
    *what = value;
    return differs;
}

static int halves(uint32_t *what, uint32_t least)
{
    if (*what <= least)
        return 0;
    *what /= 2;
    return 1;
}

/* Simplification number `step`: 1 if it made the scene simpler, 0 if it doesn't apply here, -1: there are no more. */
static int simpler(scene *s, unsigned step)
{
    unsigned hosts = s->host_count - 1;
    if (step < hosts)
        return becomes(&s->hosts[hosts - step].there, 0);
    step -= hosts;
    if (step < s->event_count)
        return becomes(&s->events[step].there, 0);
    step -= s->event_count;
    if (step < hosts) {
        scene_host *h = &s->hosts[step + 1];
        if (!h->there || h->kind < HOSTILE)
            return 0;
        h->kind = READER;
        return 1;
    }
    step -= hosts;
    if (step < s->host_count) {
        scene_host *h = &s->hosts[step];
        if (!h->there || !h->begins)
            return 0;
        h->begins = 0;
        return 1;
    }
    step -= s->host_count;
    switch (step) {
    case 0:
        return becomes(&s->wide, 0);
    case 1:
        return halves(&s->blocks, 0);
    case 2:
        return halves(&s->size, 1);
    default:
        return -1;
    }
}

static void shrink(scene *s, enum property failed)
{
    int progress = 1;
    while (progress) {
        progress = 0;
        for (unsigned step = 0;; step++) {
            scene smaller = *s;
            outcome o;
            int can = simpler(&smaller, step);
            if (can < 0)
                break;
            if (!can)
                continue;
            judge(&smaller, 0, &o);
            if (o.failed == failed) {
                *s = smaller;
                progress = 1;
            }
        }
    }
}

static unsigned peers_of(const scene *s)
{
    unsigned n = 0;
    for (unsigned i = 0; i < s->host_count; i++)
        n += s->hosts[i].there != 0;
    return n;
}

/* ================================================================ numbers ======================================= */

static int run_number(uint64_t number, int quiet)
{
    static scene s;
    outcome o;
    scene_make(&s, number);
    judge(&s, 0, &o);
    if (!quiet || o.failed) {
        char hex[65];
        printf("%llu %s", (unsigned long long)number, sodium_bin2hex(hex, sizeof hex, o.hash, 32));
        printf(o.failed ? " FAILS %s: %s\n" : "\n", property_names[o.failed], o.why);
        (void)fflush(stdout);
    }
    return o.failed != HOLDS;
}

static int story(uint64_t number)
{
    static scene s;
    outcome o;
    scene_make(&s, number);
    judge(&s, 0, &o);
    if (o.failed)
        shrink(&s, o.failed);
    printf("%llu: %u peers, %s, %s, %u %s of at most %u bytes, ways %s\n", (unsigned long long)number, peers_of(&s),
           s.drive ? "a drive" : "a feed", s.live ? "live" : "not live", s.blocks, s.drive ? "files" : "blocks", s.size,
           s.wide ? "with delays and limits" : "without delay");
    judge(&s, 1, &o);
    printf(o.failed ? "%llu FAILS %s: %s\n" : "%llu holds%s%s\n", (unsigned long long)number,
           o.failed ? property_names[o.failed] : "", o.why);
    return o.failed != HOLDS;
}

/* ================================================================ the network itself ============================ */

#define HOLD(what) ((what) ? (void)0 : die("the network: " #what))

static unsigned datagrams_there(lab_net *net, intptr_t socket)
{
    char buf[8];
    unsigned from, port, n = 0;
    while (lab_receive_from(net, socket, buf, sizeof buf, &from, &port) == 5) {
        HOLD(memcmp(buf, "hello", 5) == 0 && from == 0 && port == 7);
        n++;
    }
    return n;
}

static void check_datagrams(void)
{
    lab_net *net = lab_net_new(1, 3);
    lab_way late = {.delay = 10}, lossy = {.delay = 10, .loss = 300},
            doubled = {.delay = 10, .jitter = 5, .doubling = 300};
    intptr_t s[3];
    for (unsigned i = 0; i < 3; i++)
        HOLD(lab_datagrams(net, i, 7, &s[i]) == 0);
    lab_way_set(net, 0, 1, &late);
    HOLD(lab_send_to(net, s[0], 1, 7, "hello", 5) == 0 && lab_send_to(net, s[0], 1, 8, "hello", 5) == 0);
    lab_go(net, 9);
    HOLD(datagrams_there(net, s[1]) == 0 && lab_next(net) == 10 && !lab_stirs(net, 1));
    lab_go(net, 10);
    HOLD(lab_stirs(net, 1) && datagrams_there(net, s[1]) == 1 && lab_next(net) == LAB_NEVER);
    lab_join(net, s[1], 5);
    lab_join(net, s[2], 5);
    (void)lab_send_to(net, s[0], LAB_GROUP + 5, 7, "hello", 5);
    lab_leave(net, s[2], 5);
    (void)lab_send_to(net, s[0], LAB_GROUP + 5, 7, "hello", 5);
    lab_go(net, 20);
    HOLD(datagrams_there(net, s[1]) == 2 && datagrams_there(net, s[2]) == 1);
    lab_part(net, 0, 1, 1);
    (void)lab_send_to(net, s[0], 1, 7, "hello", 5);
    lab_part(net, 0, 1, 0);
    lab_go(net, 30);
    HOLD(datagrams_there(net, s[1]) == 0); /* nobody sends it again */
    lab_way_set(net, 0, 1, &lossy);
    lab_way_set(net, 0, 2, &doubled);
    for (int i = 0; i < 1000; i++)
        (void)lab_send_to(net, s[0], (unsigned)(1 + i % 2), 7, "hello", 5);
    lab_go(net, 60);
    unsigned lost = 500 - datagrams_there(net, s[1]), more = datagrams_there(net, s[2]) - 500;
    HOLD(lost > 100 && lost < 200 && more > 100 && more < 200);
    lab_datagrams_close(net, s[2]);
    lab_net_free(net);
}

/* Two ends of a stream from host 0 to host 1. */
static lab_net *connected(const lab_way *way, datsync_net n[2], intptr_t s[2])
{
    char text[24];
    intptr_t listener;
    lab_net *net = lab_net_new(1, 2);
    lab_way_set(net, 0, 1, way);
    n[0] = lab_streams(net, 0);
    n[1] = lab_streams(net, 1);
    HOLD(n[1].listen(n[1].ctx, "h1:1", &listener, text, sizeof text) == 0);
    HOLD(n[0].connect(n[0].ctx, "h1:1", &s[0]) == 0 && n[0].connected(n[0].ctx, s[0]) == DATSYNC_E_AGAIN);
    lab_go(net, 2 * (uint64_t)way->delay);
    HOLD(n[0].connected(n[0].ctx, s[0]) == 0 && n[1].accept(n[1].ctx, listener, &s[1], text, sizeof text) == 0);
    HOLD(n[1].accept(n[1].ctx, listener, &listener, text, sizeof text) == DATSYNC_E_AGAIN);
    return net;
}

static void check_streams(void)
{
    static const lab_way way = {.delay = 10, .rate = 1000, .window = 100, .pieces = 7};
    static const lab_way plain = {.delay = 10};
    uint8_t out[400], in[400];
    datsync_net n[2];
    intptr_t s[2];
    int64_t k;
    size_t sent = 0, came = 0;
    lab_net *net = connected(&way, n, s);
    for (size_t i = 0; i < sizeof out; i++)
        out[i] = (uint8_t)i;
    for (uint64_t at = lab_now(net); came < sizeof out;
         at++) { /* a byte each ms, in pieces, never more than the window */
        lab_go(net, at);
        while (sent < sizeof out && (k = n[0].send(n[0].ctx, s[0], out + sent, sizeof out - sent)) > 0)
            sent += (size_t)k;
        while (came < sent && (k = n[1].recv(n[1].ctx, s[1], in + came, sizeof in - came)) > 0) {
            came += (size_t)k;
            HOLD(k <= 7);
        }
        HOLD(sent - came <= 100 && at < 2000);
    }
    HOLD(memcmp(in, out, sizeof in) == 0 && lab_now(net) >= 20 + 400 && lab_moved(net, 1) == 400);
    HOLD(n[0].shutdown(n[0].ctx, s[0]) == 0 && n[0].send(n[0].ctx, s[0], out, 1) == DATSYNC_E_CLOSED);
    lab_go(net, lab_now(net) + 10);
    HOLD(n[1].recv(n[1].ctx, s[1], in, 1) == DATSYNC_E_CLOSED && n[1].send(n[1].ctx, s[1], out, 1) == 1);
    lab_go(net, lab_now(net) + 12);
    HOLD(n[0].recv(n[0].ctx, s[0], in, 9) == 1); /* the other half goes on */
    lab_net_free(net);

    net = connected(&plain, n, s); /* who closes before all is read resets */
    HOLD(n[0].send(n[0].ctx, s[0], out, 9) == 9);
    lab_part(net, 0, 1, 1);
    lab_go(net, 100);
    HOLD(n[1].recv(n[1].ctx, s[1], in, 9) == DATSYNC_E_AGAIN && lab_next(net) == LAB_NEVER);
    lab_part(net, 0, 1, 0);
    lab_go(net, 110);
    HOLD(n[1].recv(n[1].ctx, s[1], in, 4) == 4);
    HOLD(n[1].send(n[1].ctx, s[1], out, 9) == 9);
    n[1].close(n[1].ctx, s[1]);
    lab_go(net, 120);
    HOLD(n[0].recv(n[0].ctx, s[0], in, 9) == DATSYNC_E_CLOSED);
    lab_net_free(net);

    net = connected(&plain, n, s); /* who is silently gone answers nothing; once it is back, with a reset */
    lab_down(net, 1, 1);
    HOLD(n[0].send(n[0].ctx, s[0], out, 9) == 9);
    lab_go(net, 100);
    HOLD(n[0].recv(n[0].ctx, s[0], in, 9) == DATSYNC_E_AGAIN);
    lab_up(net, 1);
    HOLD(n[0].send(n[0].ctx, s[0], out, 9) == 9);
    lab_go(net, 200);
    HOLD(n[0].recv(n[0].ctx, s[0], in, 9) == DATSYNC_E_CLOSED && lab_open_streams(net, 0) == 1);
    lab_net_free(net);
}

int main(int argc, char **argv)
{
    uint64_t from = 1, count = 0, told = 0;
    int failed = 0;
    if (sodium_init() < 0)
        die("no libsodium");
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--from") == 0 && i + 1 < argc) {
            from = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc) {
            count = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--story") == 0 && i + 1 < argc) {
            failed |= story(strtoull(argv[++i], NULL, 10));
            told++;
        } else if (strcmp(argv[i], "--finding") == 0 && i + 3 < argc) {
            failed |=
                lab_finding(argv[i + 1], strtoull(argv[i + 2], NULL, 10), (unsigned)strtoul(argv[i + 3], NULL, 10));
            i += 3;
            told++;
        } else if (strcmp(argv[i], "--network") == 0) {
            check_datagrams();
            check_streams();
            printf("the network holds\n");
            told++;
        } else if (argv[i][0] >= '0' && argv[i][0] <= '9') {
            failed |= run_number(strtoull(argv[i], NULL, 10), 0);
            told++;
        } else {
            die("usage: the head of lab.c");
        }
    }
    if (!count && !told)
        die("usage: the head of lab.c");
    uint64_t bad = 0;
    for (uint64_t i = 0; i < count; i++)
        bad += (uint64_t)run_number(from + i, 1);
    if (count)
        printf("%llu numbers, %llu failed, %.2f s each\n", (unsigned long long)count, (unsigned long long)bad,
               (double)clock() / CLOCKS_PER_SEC / (double)count);
    return failed || bad;
}
