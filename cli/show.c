/* The commands that show what is in a drive: log, ls, cat.
 *
 * SPDX-License-Identifier: MIT
 *
 * They call open, transfer, for a link, and what is below.
 */
#include "show.h"
#include "folder.h"
#include "open.h"
#include "output.h"
#include "selection.h"
#include "text.h"
#include "transfer.h"
#include "words.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---------------------------------------------------------------- log --------------------------------------------- */

static int is_folder_entry(const datsync_entry *entry)
{
    return (entry->stat.mode & 0170000) == 0040000;
}

static int number_width(uint64_t number)
{
    int width = 1;

    for (; number >= 10; number /= 10)
        width++;
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
        if (entry->error < 0)
            json_reason(entry->error);
        json_end();
        return;
    }
    printf("%*llu [%s] ", width, (unsigned long long)entry->version, entry->deleted ? "del" : "put");
    put_safe(stdout, entry->path);
    if (!entry->deleted)
        printf("%s %llu B", is_folder_entry(entry) ? "/" : "", (unsigned long long)entry->stat.size);
    printf("%s%s\n", entry->error < 0 ? "  bad: " : "", entry->error < 0 ? datsync_strerror(entry->error) : "");
}

int run_log(cli *c)
{
    const char *dir = folder_word(c, 0);
    datsync_drive *drive = NULL;
    datsync_entry entry;
    uint64_t bytes = 0, missing = 0;

    int code = look_into(c, dir, &drive);
    if (code != DONE)
        return code;
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
        code = fail(c, FAILED, "%s: %llu %s not here", dir, (unsigned long long)missing,
                    missing == 1 ? "entry is" : "entries are");
    }
    return close_drive(c, dir, drive, code);
}

/* ---------------------------------------------------------------- ls, cat ----------------------------------------- */

/* A path as the drive has it: one slash before it, none behind. NULL if it is too long. */
static const char *drive_path(char out[DATSYNC_MAX_PATH + 2], const char *path)
{
    size_t len = strlen(path);

    while (len > 0 && *path == '/') {
        path++;
        len--;
    }
    while (len > 0 && path[len - 1] == '/')
        len--;
    if (len > DATSYNC_MAX_PATH)
        return NULL;
    out[0] = '/';
    memcpy(out + 1, path, len);
    out[len + 1] = 0;
    return out;
}

/* The version to look at. */
static int chosen_version(cli *c, const char *dir, const datsync_drive *drive, uint64_t *version)
{
    uint64_t newest = datsync_drive_version(drive);

    if (datsync_feed_length(datsync_drive_metadata(drive)) == 0)
        return fail(c, FAILED, "%s: nothing of this drive is here", dir);
    *version = c->checkout > 0 ? c->checkout : newest;
    if (*version > newest)
        return fail(c, FAILED, "%s: the newest version known is %llu", dir, (unsigned long long)newest);
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

    if (parts == NULL || strftime(out, 32, "%Y-%m-%d %H:%M", parts) == 0)
        snprintf(out, 32, "%16s", "?");
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
    if (strncmp(name, l->path, len) == 0 && name[len] == '/')
        name += len + 1;
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
    if (code != DONE || version == 0)
        return code;
    int error = root ? DATSYNC_E_NOT_FOUND : datsync_drive_find(drive, version, path, &entry, NULL);
    int known = error == 0 || (error == DATSYNC_E_MORE && entry.path != NULL);
    if (known && !entry.deleted && !is_folder_entry(&entry)) {
        l.path = "/";
        on_listed(&l, &entry);
    } else if (known || error == DATSYNC_E_NOT_FOUND || error == DATSYNC_E_MORE) {
        int found = error == 0;
        error = datsync_drive_list(drive, version, path, c->recursive, on_listed, &l, NULL);
        if (error == 0 && l.count == 0 && !root && !found)
            error = DATSYNC_E_NOT_FOUND;
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

    if (strcmp(entry->path, l->path) == 0)
        l->error = error;
}

static int fail_read(cli *c, const char *dir, datsync_drive *drive, const char *path, int error)
{
    datsync_drive_state state;
    looking l = {path, 0};
    datsync_drive_check check = {&l, on_looked, 0};

    lay_out(c, drive);
    if (datsync_drive_look(drive, &state, &check) == 0 && l.error < 0)
        error = l.error;
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
    if (code != DONE)
        return code;
    int error = version == 0 ? DATSYNC_E_NOT_FOUND : datsync_drive_find(drive, version, path, &entry, NULL);
    int partly = error == DATSYNC_E_MORE && entry.path != NULL; /* the newest of the entries that are here */
    if (error == 0 && entry.deleted)
        error = DATSYNC_E_NOT_FOUND;
    else if (error == 0 || partly)
        error = is_folder_entry(&entry) ? DATSYNC_E_IS_FOLDER : entry.error;
    if (error == DATSYNC_E_NOT_FOUND)
        return fail(c, FAILED, "%s: %s: no such file in this version", dir, path);
    if (error < 0)
        return fail_path(c, dir, path, error);
    strcpy(own, path);
    entry.path = own; /* the drive's lasts only until the next call */
    for (uint64_t at = 0; at < entry.stat.size && !ferror(stdout);) {
        int64_t got = datsync_drive_read(drive, &entry, at, piece, sizeof piece);
        if (got <= 0)
            return fail_read(c, dir, drive, path, (int)got);
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
    if (code != DONE)
        return code;
    datsync_os_signals();
    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.key = key;
    options.flags = DATSYNC_CREATE;
    int error = datsync_drive_open(&drive, &options);
    if (error < 0)
        return fail_drive(c, c->words[0], error);
    memset(&layout, 0, sizeof layout);
    layout.ctx = path;
    layout.version = c->checkout;
    layout.select = c->command->bit == LS ? is_no_path : is_this_path;
    datsync_drive_layout(drive, &layout);
    transfer_of_drive(&t, c, c->words[0], drive);
    code = run_transfer(&t, DATSYNC_DOWNLOAD | DATSYNC_UPLOAD);
    if (code == DONE)
        code = c->command->bit == LS ? list_out(c, c->words[0], drive, path) : write_out(c, c->words[0], drive, path);
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

int show_path(cli *c)
{
    const char *from = folder_word(c, 0);
    datsync_drive *drive = NULL;
    char place[DATSYNC_MAX_PATH + 2];
    uint8_t key[32], there[32];
    int link = c->word_count > 0 && is_link(from) && find_layout(from, there) == NULL;

    int code = link ? read_link(c, from, key) : DONE;
    if (code != DONE)
        return code;
    if (shown_path(c, place) == NULL)
        return has_failed() ? USAGE : fail_path(c, from, c->words[c->word_count - 1], DATSYNC_E_TOO_BIG);
    if (link)
        return show_link(c, key, place);
    code = look_into(c, from, &drive);
    if (code != DONE)
        return code;
    code = c->command->bit == LS ? list_out(c, from, drive, place) : write_out(c, from, drive, place);
    return close_drive(c, from, drive, code);
}
