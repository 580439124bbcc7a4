/* Importing: an owner's folder into its drive.
 *
 * SPDX-License-Identifier: MIT
 *
 * The library compares and reads; this says what is left out, what is waited for, and what happened. While the
 * folder is shared, it gives the network its turn. It calls rules, folder, open and output.
 */
#include "import.h"
#include "folder.h"
#include "open.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Milliseconds for which an import leaves the network alone. */
#define CLI_TURN_MS 20u

/* While a folder is watched: milliseconds for which a file's size and time must have rested before it is imported;
 * after how many it is imported though they don't rest; and how many files are waited for at once. */
#define CLI_REST_MS 2000u
#define CLI_RESTLESS_MS 60000u
#define CLI_MAX_WAITING 65536u

/* Bytes of files that may be the same, read before they are shared. */
#define CLI_FIRST_BYTES 67108864u

void importing_end(importing *im)
{
    ignoring_free(&im->rules);
    told_free(&im->told);
    free(im->waits);
    close_files(&im->folder);
}

int importing_begin(importing *im, cli *c, const char *dir, datsync_drive *drive)
{
    memset(im, 0, sizeof *im);
    im->c = c;
    im->dir = dir;
    im->drive = drive;
    im->columns = terminal(c);
    int error = datsync_os_files(&im->folder, dir, DATSYNC_READ_ONLY);
    return error < 0 ? fail_drive(c, dir, error) : DONE;
}

/* ---------------------------------------------------------------- what is left out -------------------------------- */

static void on_bad_rule(void *ctx, size_t line, const char *why)
{
    importing *im = ctx;
    char what[64];

    snprintf(what, sizeof what, ".datignore, line %llu", (unsigned long long)line);
    if (!im->only_count && told_first(&im->told, why, -(int64_t)line))
        complain(im->c, what, why);
}

/* Is this the name of one? `secret_key`, `metadata.secret_key`, or the digits under which the folder of secret keys
 * has it: `ab/cdef...` */
static int names_secret_key(const char *path)
{
    static const char known[] = "secret_key";
    size_t len = strlen(path), digits = strspn(path + (len > 62 ? len - 62 : 0), "0123456789abcdef");

    if (len > 65 && digits == 62)
        return path[len - 63] == '/' && path[len - 66] == '/' && strspn(path + len - 65, "0123456789abcdef") == 2;
    return len >= sizeof known && strcmp(path + len - (sizeof known - 1), known) == 0 &&
           strchr("/.", path[len - sizeof known]) != NULL;
}

/* A feed's or a drive's, wherever it lies. */
static int is_secret_file(const datsync_files *files, const char *path)
{
    growing text;
    int found = 0;

    if (names_secret_key(path) && read_whole(files, path + 1, &text) == 0) {
        found = text.len == 64 && is_secret_key((const uint8_t *)text.text);
        free(text.text);
    }
    return found;
}

/* A secret key is left out whatever the rules say: who has it writes in the owner's name, and what is published once
 * can't be taken back. */
static int on_ignore(void *ctx, const char *path, int is_folder)
{
    importing *im = ctx;

    if (is_ignored(&im->rules, path, is_folder))
        return 1;
    if (is_folder || !is_secret_file(&im->folder, path))
        return 0;
    if (!im->only_count && told_first(&im->told, path, 0))
        complain(im->c, path, "not imported: it is a secret key");
    return 1;
}

/* ---------------------------------------------------------------- what is waited for ------------------------------ */

/* A file that changed and is waited for. */
typedef struct waiting {
    uint64_t name; /* hash of its path */
    uint64_t size, mtime;
    uint64_t since, rests; /* when it was first seen to change, and when its size and time were last seen to */
    uint64_t scan;         /* the last one that asked for it */
} waiting;

static waiting *waits_slot(waiting *table, size_t cap, uint64_t name)
{
    size_t at = (size_t)name & (cap - 1);

    while (table[at].name != 0 && table[at].name != name)
        at = (at + 1) & (cap - 1);
    return &table[at];
}

/* A table of this size, with those that the scan from this one on has asked for: 0 if there is no memory. */
static int waits_move(importing *im, size_t cap, uint64_t scan)
{
    waiting *table = calloc(cap, sizeof *table);
    size_t count = 0;

    if (table == NULL)
        return 0;
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
        if (cap > 2 * CLI_MAX_WAITING || !waits_move(im, cap, 0))
            return NULL;
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

    if (w == NULL)
        return 1;
    if (w->scan == 0)
        w->since = now;
    if (w->scan == 0 || w->size != info->size || w->mtime != info->mtime) {
        w->rests = now;
        w->size = info->size;
        w->mtime = info->mtime;
    }
    w->scan = im->scan;
    if (now - w->rests < CLI_REST_MS && now - w->since < CLI_RESTLESS_MS)
        return 0;
    w->since = now;
    return 1;
}

/* Before the folder is shared only so much is read of files that may be the same: the rest can wait, and be read
 * while what is clear is served. */
static int on_first(void *ctx, const char *path, const datsync_file_info *info, int maybe_same)
{
    importing *im = ctx;

    (void)path;
    im->first_bytes += maybe_same ? info->size : 0;
    if (!maybe_same || im->first_bytes <= CLI_FIRST_BYTES)
        return 1;
    im->later++;
    return 0;
}

/* Those that this scan didn't ask for are gone, or as they were. */
static void forget_waiting(importing *im)
{
    if (im->wait_count > 0)
        (void)waits_move(im, im->wait_cap, im->scan);
}

/* ---------------------------------------------------------------- what happens ------------------------------------ */

static void show_import(importing *im, uint64_t now)
{
    char text[160], size[32], rate[32];
    uint64_t pause = im->columns > 0 ? CLI_BAR_MS : CLI_LINE_MS;

    if (im->c->json || im->c->quiet || im->ds != NULL || now - im->shown_at < pause || im->bytes == im->shown_bytes)
        return;
    measure(&im->meter, now, im->files, im->bytes);
    im->shown_at = now;
    im->shown_bytes = im->bytes;
    snprintf(text, sizeof text, "importing  %llu file%s  %s  %s/s", (unsigned long long)im->files,
             im->files == 1 ? "" : "s", amount(size, (double)im->bytes), amount(rate, im->meter.byte_rate));
    if (im->columns > 0)
        draw_bar(im->columns, 0, 0, text);
    else
        note(im->c, "%s", text);
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
        if (event->change != DATSYNC_UNCHANGED && !im->only_count)
            tell_import(im, event);
    }
    if (!im->only_count)
        show_import(im, now);
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

    if (im->ds != NULL && !changed)
        return;
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
    bar_clear();
}

int import_folder(importing *im)
{
    datsync_import_options options;

    ignoring_free(&im->rules);
    memset(im->counts, 0, sizeof im->counts);
    im->files = im->bytes = im->ended_bytes = im->shown_bytes = 0;
    im->rules.with_hidden = im->c->with_hidden;
    im->began = im->shown_at = im->meter.at = datsync_os_clock(NULL);
    int error = read_ignore(&im->rules, &im->folder, on_bad_rule, im);
    if (error < 0)
        return fail(im->c, FAILED, "%s/.datignore: %s", im->dir, datsync_strerror(error));
    memset(&options, 0, sizeof options);
    options.ctx = im;
    options.ignore = on_ignore;
    options.on_event = on_import;
    options.dry_run = im->only_count;
    if (im->ds != NULL && im->watches)
        options.ready = on_ready;
    else if (im->ds == NULL && im->shares)
        options.ready = on_first;
    im->scan++;
    int64_t changes = datsync_drive_import(im->drive, &options);
    forget_waiting(im);
    error = im->network < 0 ? im->network : changes < 0 ? (int)changes : 0;
    if (error == 0 && !im->only_count)
        error = datsync_drive_flush(im->drive);
    if (error == DATSYNC_E_AGAIN && datsync_os_stopped(NULL)) {
        bar_clear();
        return (im->c->command->bit & (SHARE | SYNC))
                   ? INTERRUPTED
                   : fail(im->c, INTERRUPTED, "%s: interrupted; what was imported is kept", im->dir);
    }
    if (error < 0)
        return fail_drive(im->c, im->dir, error);
    if (!im->only_count)
        tell_imported(im);
    return DONE;
}

int fail_refused(const cli *c, const char *dir, uint64_t count, const char *what)
{
    return fail(c, FAILED, "%s: %llu %s, named above, %s %s", dir, (unsigned long long)count,
                count == 1 ? "entry" : "entries", count == 1 ? "was" : "were", what);
}
