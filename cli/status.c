/* The command that tells what a drive is and holds.
 *
 * SPDX-License-Identifier: MIT
 *
 * It calls open, import, to count what is not imported yet, and what is below.
 */
#include "status.h"
#include "about.h"
#include "folder.h"
#include "import.h"
#include "open.h"
#include "output.h"
#include "selection.h"
#include "text.h"
#include "words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    if (c->json)
        json_number(name, value);
    else
        printf("%s: %llu\n", name, (unsigned long long)value);
}

static void say_bool(const cli *c, const char *name, int value)
{
    if (c->json)
        json_bool(name, value);
    else
        printf("%s: %s\n", name, value ? "yes" : "no");
}

/* A small file of the newest version, whole, out of the drive itself: 0, or an error. */
static int read_stored(datsync_drive *drive, const char *path, growing *out)
{
    char piece[16384];
    datsync_entry entry;
    int64_t got = 1;

    memset(out, 0, sizeof *out);
    int error = datsync_drive_find(drive, datsync_drive_version(drive), path, &entry, NULL);
    if (error < 0 || entry.stat.size > CLI_MAX_FILE)
        return error < 0 ? error : DATSYNC_E_TOO_BIG;
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

static void say_about(const cli *c, datsync_drive *drive, const datsync_files *files)
{
    growing text;
    about found;

    int error = has_files(c) ? read_whole(files, "dat.json", &text) : read_stored(drive, "/dat.json", &text);
    if (error < 0)
        return;
    scan_about(text.text, &found);
    free(text.text);
    for (int i = 0; i < ABOUT; i++)
        if (found.text[i][0] != 0)
            say_text(c, about_names[i], found.text[i]);
}

/* Keeps the paths of the files that are not whole, each with its NUL. */
static void on_unfinished(void *ctx, const datsync_entry *entry, int error)
{
    (void)error;
    put_buffer(ctx, entry->path, strlen(entry->path) + 1);
}

static void say_unfinished(const cli *c, const growing *paths)
{
    if (c->json && paths->len > 0)
        fputs(",\"not_whole\":[", stdout);
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
    if (c->json && paths->len > 0)
        putchar(']');
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
    if (state->missing > 0 || !state->has_header)
        say_number(c, "missing_entries", state->missing + !state->has_header);
    if (state->lost + state->shown > 0) {
        say_number(c, "lost_by_index", state->lost);
        say_number(c, "deleted_in_index", state->shown);
    }
    say_bool(c, "writable", is_owner(drive));
    say_bool(c, "archive", datsync_drive_archive(drive));
    if (c->json)
        json_string("layout", c->layout->name);
    else
        printf("layout: %s (%s*, %s*)\n", c->layout->name, c->layout->metadata, c->layout->content);
}

static void say_selection(const cli *c)
{
    if (c->json)
        json_selection(c);
    for (size_t i = 0; i < c->select_count && !c->json; i++)
        say_text(c, "selection", c->selects[i]);
}

/* Where old versions of the deployed implementation kept the secret key; later ones don't read it there. */
#define LOOSE_KEY ".dat/metadata.secret_key"

/* A secret key that isn't where it is looked for, though this is the owner's folder, or one lies in it. */
static void say_key(const cli *c, const datsync_drive *drive, const char *dir, const datsync_files *files)
{
    const uint8_t *key = datsync_feed_key(datsync_drive_metadata(drive));
    growing text;

    if (is_owner(drive))
        return;
    if (lacks_key(drive, dir))
        say_bool(c, c->json ? "key_missing" : "key missing", 1);
    if (read_whole(files, LOOSE_KEY, &text) < 0)
        return;
    int fits = text.len == 64 && same_key((const uint8_t *)text.text + 32, key);
    if (text.len > 0 && c->json) {
        json_bool("loose_key", fits);
    } else if (text.len > 0) {
        printf("loose key: " LOOSE_KEY ", where it isn't looked for%s\n",
               fits ? "; datsync keys import < " LOOSE_KEY : "; it is not this drive's");
    }
    if (text.text != NULL)
        memset(text.text, 0, text.len);
    free(text.text);
}

int run_status(cli *c)
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
    if (code != DONE)
        return code;
    int selection = is_owner(drive) ? DONE : look_at_selection(c, dir);
    code = importing_begin(&im, c, dir, drive);
    im.only_count = 1;
    int importing_it = is_owner(drive) && has_files(c);
    if (code == DONE && importing_it)
        code = import_folder(&im);
    lay_out(c, drive); /* only what is selected is looked for */
    int error = datsync_drive_look(drive, &state, &check);
    if (code == DONE && (error < 0 || paths.failed))
        code = fail_drive(c, dir, error < 0 ? error : DATSYNC_E_NOMEM);
    if (code == DONE) {
        hex(key, datsync_feed_key(datsync_drive_metadata(drive)));
        if (c->json)
            json_begin("status");
        say_text(c, "key", key);
        say_about(c, drive, &im.folder);
        say_drive(c, drive, &state);
        say_selection(c);
        say_key(c, drive, dir, &im.folder);
        if (importing_it) {
            say_number(c, "added", im.counts[DATSYNC_ADDED]);
            say_number(c, "updated", im.counts[DATSYNC_UPDATED]);
            say_number(c, "removed", im.counts[DATSYNC_REMOVED]);
        }
        say_unfinished(c, &paths);
        if (c->json)
            json_end();
    }
    free(paths.text);
    importing_end(&im);
    return close_drive(c, dir, drive, code == DONE ? selection : code);
}
