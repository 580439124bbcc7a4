/* Opening and closing the feed or the drive in a folder.
 *
 * SPDX-License-Identifier: MIT
 *
 * Whatever prevents it is told here, in words. It calls folder, which says what is there, and output.
 */
#include "open.h"
#include "folder.h"
#include "output.h"
#include "text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- feeds ------------------------------------------- */

/* What the folder holds already, told in words before the feed itself is opened. */
static int check_store(cli *c, const opening *how, const datsync_store *store)
{
    uint8_t key[32];
    char text[65];

    int64_t got = store->read(store->ctx, DATSYNC_PART_KEY, 0, key, sizeof key);
    if (got < 0)
        return fail_feed(c, how->dir, (int)got);
    if (got != (int64_t)sizeof key)
        return DONE;
    hex(text, key);
    if (how->fresh)
        return fail(c, FAILED, "%s: holds a feed already, dat://%s", how->dir, text);
    if (how->key != NULL && !same_key(key, how->key))
        return fail(c, FAILED, "%s: holds another feed, dat://%s", how->dir, text);
    return DONE;
}

int open_feed(cli *c, const opening *how, datsync_feed **feed)
{
    datsync_feed_options options;

    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.key = how->key;
    options.secret_key = how->secret_key;
    options.flags = how->flags | (c->no_sync ? DATSYNC_NO_SYNC : 0u);
    errno = 0;
    int error = datsync_os_store(&options.store, how->dir, NULL, how->flags);
    if (error == DATSYNC_E_IO && errno != 0)
        return fail_file(c, how->dir, errno);
    if (error != 0)
        return fail_feed(c, how->dir, error);
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

int close_feed(const cli *c, const char *dir, datsync_feed *feed, int code)
{
    int error = datsync_feed_close(feed);

    if (error != 0 && !has_failed())
        return fail_feed(c, dir, error);
    return error != 0 && code == DONE ? FAILED : code;
}

/* ---------------------------------------------------------------- drives ------------------------------------------ */

/* The store of one of a drive's feeds. */
static int open_store(datsync_store *store, const char *dir, const char *parts, unsigned flags)
{
    char *place = join(dir, parts);

    if (place == NULL)
        return DATSYNC_E_NOMEM;
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

    if (!has_files(c) && (flags & DATSYNC_READ_ONLY) == 0)
        flags |= DATSYNC_CREATE;
    int error = open_store(&options->content, how->dir, c->layout->content, flags);
    return error == DATSYNC_E_NO_ENTRY && !has_files(c) ? 0 : error;
}

/* What becomes of a drive's folder while it is opened. */
static int open_drive_plugs(const cli *c, const opening *how, datsync_drive_options *options)
{
    /* share never makes a folder: a name that isn't there is a mistake */
    unsigned flags = c->command->bit == SHARE ? how->flags & ~(unsigned)DATSYNC_CREATE : how->flags;
    int error = has_files(c) ? datsync_os_files(&options->files, how->dir, flags) : 0;

    if (error == 0)
        error = open_store(&options->metadata, how->dir, c->layout->metadata, how->flags);
    if (error == 0)
        error = open_content(c, how, options);
    if (error == 0 && has_files(c)) {
        error = datsync_os_secrets(&options->secrets, c->secret_dir);
        if (error < 0 && c->secret_dir == NULL && !how->fresh && how->secret_key == NULL)
            error = 0; /* there is no home folder, and nothing to put there */
    }
    return error;
}

static void close_drive_plugs(datsync_drive_options *options)
{
    if (options->metadata.close != NULL)
        options->metadata.close(options->metadata.ctx);
    if (options->content.close != NULL)
        options->content.close(options->content.ctx);
    if (options->secrets.close != NULL)
        options->secrets.close(options->secrets.ctx);
    close_files(&options->files);
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
        c->layout = own_layout();
        return code != DONE || create ? code : fail_drive(c, how->dir, DATSYNC_E_NOT_FOUND);
    }
    hex(text, key);
    if (how->fresh)
        return fail(c, FAILED, "%s: is a drive already, dat://%s", how->dir, text);
    if (how->key != NULL && !same_key(key, how->key))
        return fail(c, FAILED, "%s: holds another drive, dat://%s", how->dir, text);
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
    if (find_layout(dir, key) == NULL || datsync_os_secrets(&secrets, c->secret_dir) < 0)
        return fail_drive(c, dir, error);
    datsync_discovery_key(discovery, key);
    int loaded = secrets.load(secrets.ctx, discovery, secret);
    secrets.close(secrets.ctx);
    int fits = loaded == 0 && same_key(secret + 32, key);
    memset(secret, 0, sizeof secret);
    if (fits || (loaded < 0 && loaded != DATSYNC_E_KEY))
        return fail_drive(c, dir, error);
    hex(name, discovery);
    return fail(c, FAILED, "%s/%.2s/%s: %s", c->secret_dir != NULL ? c->secret_dir : "~/.dat/secret_keys", name,
                name + 2,
                loaded < 0 ? "a secret key has 64 bytes" : "this is not the secret key of the drive that is here");
}

int open_drive(cli *c, const opening *how, datsync_drive **drive)
{
    datsync_drive_options options;

    int code = check_folder(c, how);
    if (code != DONE)
        return code;
    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.key = how->key;
    options.secret_key = how->secret_key;
    options.flags = how->flags | (c->no_sync ? DATSYNC_NO_SYNC : 0u) | (c->archive ? DATSYNC_ARCHIVE : 0u);
    errno = 0;
    int error = open_drive_plugs(c, how, &options);
    int number = error == DATSYNC_E_IO ? errno : 0;
    if (error == 0)
        error = datsync_drive_open(drive, &options);
    else
        close_drive_plugs(&options);
    if (number != 0)
        return fail_file(c, how->dir, number);
    if (error == DATSYNC_E_KEY && how->secret_key == NULL)
        return fail_secret_file(c, how->dir, error);
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

int close_drive(const cli *c, const char *dir, datsync_drive *drive, int code)
{
    int error = datsync_drive_close(drive);

    if (error != 0 && !has_failed())
        return fail_drive(c, dir, error);
    return error != 0 && code == DONE ? FAILED : code;
}

int look_into(cli *c, const char *dir, datsync_drive **drive)
{
    opening how = {dir, NULL, NULL, DATSYNC_READ_ONLY, 0};

    return open_drive(c, &how, drive);
}

/* ---------------------------------------------------------------- the owner's keys -------------------------------- */

int is_owner(const datsync_drive *drive)
{
    return datsync_drive_writable(drive) || datsync_feed_secret_key(datsync_drive_metadata(drive)) != NULL;
}

int lacks_key(const datsync_drive *drive, const char *dir)
{
    datsync_files files;
    datsync_file_info info;

    memset(&info, 0, sizeof info);
    memset(&files, 0, sizeof files);
    if (!is_owner(drive) && datsync_os_files(&files, dir, DATSYNC_READ_ONLY) == 0) {
        int error = files.stat(files.ctx, ".dat/metadata.ogd", &info);
        info.size = error < 0 ? 0 : info.size;
        close_files(&files);
    }
    return info.size > 0;
}

int is_secret_key(const uint8_t secret[64])
{
    datsync_feed_options options;
    datsync_feed *feed;

    memset(&options, 0, sizeof options);
    options.secret_key = secret;
    options.key = secret + 32;
    options.flags = DATSYNC_CREATE;
    return datsync_feed_open(&feed, &options) == 0 && datsync_feed_close(feed) == 0;
}
