/* The command for a drive's keys.
 *
 * SPDX-License-Identifier: MIT
 *
 * Secret keys are overwritten in memory when they are done with. It calls open, and what is below.
 */
#include "keys.h"
#include "folder.h"
#include "open.h"
#include "output.h"
#include "text.h"
#include "words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

    if (exporting && secret == NULL)
        return fail(c, FAILED, "%s: the secret key of this drive is not here", dir);
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

/* ---------------------------------------------------------------- keys import ------------------------------------- */

/* What was read where a secret key should be: 128 hexadecimal digits, however they are broken into lines, or 64
 * bytes. */
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
    if (raw)
        memcpy(secret, text, 64);
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
    if (len == 0)
        return fail(c, FAILED, "standard input is empty; %s", wanted);
    if (datsync_link_parse(text, key, &version, path, sizeof path) == 0) {
        return fail(c, FAILED, "standard input: this is a link, the public key%s; %s",
                    same_key(key, drive) ? " of the drive that is here" : "", wanted);
    }
    if (len == 32 && memcmp(text, drive, 32) == 0)
        return fail(c, FAILED, "standard input: this is the public key of the drive in %s; %s", dir, wanted);
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
    if (!told_first(&l->told, path, 0))
        return;
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
    if (event->change == DATSYNC_REMOVED)
        tell_lacking(ctx, event->path, DATSYNC_E_NO_ENTRY);
    return 0;
}

/* Every file of the newest version must be here, and be the recorded one, whatever its time: what the folder says of
 * itself does not count, for it may have come from another machine. */
static int check_files(cli *c, const char *dir, datsync_drive *drive)
{
    const datsync_feed *feed = datsync_drive_metadata(drive);
    lacking l = {c, 0, {0}};
    datsync_drive_check check = {&l, on_lacking, 1};
    datsync_import_options options;

    if (datsync_drive_content(drive) == NULL ||
        datsync_feed_count(feed, 0, datsync_feed_length(feed)) < datsync_feed_length(feed))
        return fail(c, FAILED, "%s: is no complete clone, not all of its metadata is here: pull first", dir);
    memset(&options, 0, sizeof options);
    options.ctx = &l;
    options.on_event = on_removal;
    options.dry_run = 1;
    int64_t done = has_files(c) ? datsync_drive_import(drive, &options) : 0;
    done = done < 0 ? done : datsync_drive_verify(drive, &check);
    told_free(&l.told);
    if (done < 0)
        return fail_drive(c, dir, (int)done);
    return l.count == 0
               ? DONE
               : fail(c, FAILED, "%s: is no complete clone (%llu %s, named above)%s: pull first, or use --force", dir,
                      (unsigned long long)l.count, l.count == 1 ? "entry" : "entries",
                      has_files(c)
                          ? "; to share it would remove from the drive what is missing, and publish what was changed"
                          : "");
}

/* An owner's next share imports what his folder holds: what a clone lacks would be removed from the drive. So it is
 * looked at as the owner would, and nothing is written yet. */
static int check_whole(cli *c, const char *dir, const uint8_t secret[64])
{
    datsync_drive *drive = NULL;
    opening how = {dir, NULL, secret, DATSYNC_READ_ONLY, 0};

    int code = open_drive(c, &how, &drive);
    if (code != DONE)
        return code;
    code = check_files(c, dir, drive);
    return close_drive(c, dir, drive, code);
}

static int import_key(cli *c, const char *dir)
{
    uint8_t secret[64], key[32];
    datsync_drive *drive = NULL;
    opening how = {dir, NULL, secret, 0, 0};

    if (find_layout(dir, key) == NULL)
        return fail_drive(c, dir, DATSYNC_E_NOT_FOUND);
    int code = read_secret(c, dir, key, secret);
    if (code == DONE && !c->force)
        code = check_whole(c, dir, secret);
    if (code == DONE)
        code = open_drive(c, &how, &drive);
    memset(secret, 0, sizeof secret);
    if (code != DONE)
        return code;
    if (c->json)
        code = tell_keys(c, dir, drive, 0);
    else
        note(c, "%s: is now the owner's folder; share no other one of this drive as its owner, or it forks", dir);
    return close_drive(c, dir, drive, code);
}

int run_keys(cli *c)
{
    const char *what = c->word_count > 0 ? c->words[0] : "";
    int exporting = strcmp(what, "export") == 0, importing_it = strcmp(what, "import") == 0;
    const char *dir = folder_word(c, exporting || importing_it);
    datsync_drive *drive = NULL;

    if (c->word_count > 1 && !exporting && !importing_it)
        return fail(c, USAGE, "%s: not one of export, import", what);
    if (importing_it)
        return import_key(c, dir);
    int code = look_into(c, dir, &drive);
    if (code != DONE)
        return code;
    code = tell_keys(c, dir, drive, exporting);
    return close_drive(c, dir, drive, code);
}
