/* The commands that make a drive or bring it over the network: create, share, clone, pull, sync.
 *
 * SPDX-License-Identifier: MIT
 *
 * They call open, import and transfer, and what is below.
 */
#include "drive.h"
#include "about.h"
#include "folder.h"
#include "import.h"
#include "open.h"
#include "output.h"
#include "selection.h"
#include "text.h"
#include "transfer.h"
#include "words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- create, share ----------------------------------- */

/* A folder that came without its .dat: the people who look for the old drive won't find this one. */
static void tell_other_about(cli *c, const char *dir, const datsync_files *files, const char *key)
{
    char why[ABOUT_MAX + 80];
    growing text;
    about found;

    if (read_whole(files, "dat.json", &text) < 0)
        return;
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
    datsync_files files;
    char key[65];
    opening how = {dir, NULL, NULL, DATSYNC_CREATE, 1};

    int code = open_drive(c, &how, drive);
    if (code != DONE)
        return code;
    hex(key, datsync_feed_key(datsync_drive_metadata(*drive)));
    memset(&files, 0, sizeof files);
    int error = datsync_drive_flush(*drive);
    if (error == 0)
        error = datsync_os_files(&files, dir, 0);
    if (error == 0) {
        error = write_about(c, &files, key);
        if (error == 1)
            tell_other_about(c, dir, &files, key);
        close_files(&files);
    }
    if (error == 1 && (c->title != NULL || c->description != NULL || c->author != NULL || c->license != NULL))
        note(c, "%s: its dat.json is kept as it is", dir);
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

int run_create(cli *c)
{
    const char *dir = folder_word(c, 0);
    datsync_drive *drive = NULL;
    importing im;
    char key[65];

    datsync_os_signals();
    int code = make_drive(c, dir, &drive);
    if (code != DONE)
        return code;
    if (!c->json) {
        hex(key, datsync_feed_key(datsync_drive_metadata(drive)));
        printf("dat://%s\n", key);
        fflush(stdout);
    }
    code = importing_begin(&im, c, dir, drive);
    if (code == DONE)
        code = import_folder(&im);
    if (code == DONE && im.counts[DATSYNC_REFUSED] > 0)
        code = fail_refused(c, dir, im.counts[DATSYNC_REFUSED], "not imported");
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
        note(im->c, "%llu file%s another time than was recorded: read while the rest is served",
             (unsigned long long)im->later, im->later == 1 ? " has" : "s have");
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
    if (code == DONE && im.counts[DATSYNC_REFUSED] > 0)
        code = fail_refused(c, t->dir, im.counts[DATSYNC_REFUSED], "not imported");
    importing_end(&im);
    return code;
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

    if (has_files(t->c) || !is_owner(t->drive))
        return 0;
    snprintf(why, sizeof why,
             "its files are not laid out here (layout: %s): it is served as it is, and nothing is imported",
             t->c->layout->name);
    complain(t->c, t->dir, why);
    return 1;
}

/* What is shared must be there. */
static int need_folder(cli *c, const char *dir)
{
    datsync_files files;

    memset(&files, 0, sizeof files);
    int error = datsync_os_files(&files, dir, DATSYNC_READ_ONLY);
    close_files(&files);
    return dir[0] == 0 || error == DATSYNC_E_NO_ENTRY ? fail(c, USAGE, "%s: there is no such folder", dir) : DONE;
}

int run_share(cli *c)
{
    const char *dir = folder_word(c, 0);
    datsync_drive *drive = NULL;
    uint8_t key[32];
    transfer t;
    opening how = {dir, NULL, NULL, 0, 0};

    int code = need_peer_to_share(c);
    if (code == DONE)
        code = need_folder(c, dir);
    if (code != DONE)
        return code;
    datsync_os_signals();
    code = find_layout(dir, key) != NULL ? open_drive(c, &how, &drive) : make_drive(c, dir, &drive);
    if (code != DONE)
        return code;
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

/* ---------------------------------------------------------------- clone, pull, sync ------------------------------- */

static int stop_list(void *arg, const char *name)
{
    (void)name;
    *(int *)arg = 1;
    return 1;
}

/* A folder that has files, and no drive, is not ours to write to. */
static int check_clone_folder(cli *c, const char *dir)
{
    datsync_files files;
    datsync_file_info info;
    uint8_t key[32];
    int used = 0;

    memset(&files, 0, sizeof files);
    int error = datsync_os_files(&files, dir, DATSYNC_READ_ONLY);
    if (error == 0) {
        if (files.stat(files.ctx, ".dat", &info) == DATSYNC_E_NO_ENTRY && find_layout(dir, key) == NULL)
            error = files.list(files.ctx, "", stop_list, &used);
        close_files(&files);
    }
    if (error < 0 && error != DATSYNC_E_NO_ENTRY)
        return fail_drive(c, dir, error);
    if (used && !c->force)
        return fail(c, FAILED, "%s: is not empty, and no drive is here (--force clones into it all the same)", dir);
    return DONE;
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
    if (c->link_path[0] == 0)
        return DONE;
    if (c->all)
        return fail(c, USAGE, "%s: --all and the path in this link contradict each other", c->words[0]);
    const char *fault = add_select_path(c, c->link_path);
    return fault != NULL ? fail(c, USAGE, "%s: %s", c->words[0], fault) : DONE;
}

int run_clone(cli *c)
{
    uint8_t key[32];
    char name[65];
    datsync_drive *drive = NULL;

    int code = check_all(c);
    if (code == DONE)
        code = read_link(c, c->words[0], key);
    if (code == DONE)
        code = select_link_path(c);
    if (code == DONE)
        code = need_peer_to_clone(c);
    if (code != DONE)
        return code;
    hex(name, key);
    char *dir = clone_folder(c->word_count > 1 ? c->words[1] : name, key);
    if (dir == NULL)
        return fail_drive(c, name, DATSYNC_E_NOMEM);
    opening how = {dir, key, NULL, DATSYNC_CREATE, 0};
    datsync_os_signals();
    code = check_clone_folder(c, dir);
    if (code == DONE)
        code = open_drive(c, &how, &drive);
    if (code == DONE)
        code = download(c, dir, drive, c->live);
    free(dir);
    return code;
}

int run_pull(cli *c)
{
    datsync_drive *drive = NULL;
    opening how = {folder_word(c, 0), NULL, NULL, 0, 0};

    int code = check_all(c);
    if (code == DONE)
        code = need_peer_to_clone(c);
    if (code != DONE)
        return code;
    datsync_os_signals();
    code = open_drive(c, &how, &drive);
    return code == DONE ? download(c, how.dir, drive, 0) : code;
}

int run_sync(cli *c)
{
    datsync_drive *drive = NULL;
    transfer t;
    opening how = {folder_word(c, 0), NULL, NULL, 0, 0};

    int code = check_all(c);
    if (code == DONE)
        code = need_peer_to_share(c);
    if (code == DONE)
        code = need_folder(c, how.dir);
    if (code != DONE)
        return code;
    datsync_os_signals();
    c->timeout = 0;
    code = open_drive(c, &how, &drive);
    if (code != DONE)
        return code;
    transfer_of_drive(&t, c, how.dir, drive);
    if (!tell_no_files(&t) && datsync_drive_writable(drive))
        code = share_as_owner(c, &t, 1);
    else if (is_owner(drive) || tell_no_key(&t))
        code = run_transfer(&t, DATSYNC_UPLOAD);
    else
        return download(c, how.dir, drive, 1);
    return close_drive(c, how.dir, drive, code);
}
