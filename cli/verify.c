/* The commands that read everything and check it.
 *
 * SPDX-License-Identifier: MIT
 *
 * The library checks; this tells. It calls open, selection, and what is below.
 */
#include "verify.h"
#include "folder.h"
#include "open.h"
#include "output.h"
#include "selection.h"
#include "text.h"
#include "words.h"

#include <stdio.h>

/* ---------------------------------------------------------------- feeds ------------------------------------------- */

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
                    "%s: the bitfield's header is zeroed, as hypercore's `overwrite` leaves it; without it, by files, "
                    "signatures and data, good %s: %llu; nothing was changed",
                    dir, what, (unsigned long long)good);
    }
    return v->bad == 0 ? DONE
                       : fail(v->c, FAILED, "%s: faults: %llu; good %s: %llu", dir, (unsigned long long)v->bad, what,
                              (unsigned long long)good);
}

int feed_verify(cli *c)
{
    datsync_feed *feed = NULL;
    verifying v = {c, 0, ""};
    opening how = {c->words[0], NULL, NULL, 0, 0};

    int code = open_feed(c, &how, &feed);
    if (code != DONE)
        return code;
    int64_t good = datsync_feed_verify(feed, on_fault, &v);
    code = good < 0 ? fail_feed(c, how.dir, (int)good) : tell_verified(&v, how.dir, (uint64_t)good, "blocks");
    return close_feed(c, how.dir, feed, code);
}

/* ---------------------------------------------------------------- drives ------------------------------------------ */

static void on_entry_fault(void *ctx, const datsync_entry *entry, int error)
{
    verifying *v = ctx;

    if (!is_selected(v->c, entry->path))
        return; /* what was here before the selection may be old: nothing is said of it */
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
        if (here)
            continue;
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

int run_verify(cli *c)
{
    const char *dir = folder_word(c, 0);
    datsync_drive *drive = NULL;
    verifying v = {c, 0, "metadata."};
    datsync_drive_check check = {&v, on_entry_fault, 1};

    int code = look_into(c, dir, &drive);
    if (code != DONE)
        return code;
    code = is_owner(drive) ? DONE : look_at_selection(c, dir);
    if (code != DONE)
        return close_drive(c, dir, drive, code);
    tell_missing(&v, datsync_drive_metadata(drive));
    lay_out(c, drive); /* only what is selected is looked for */
    int64_t good = datsync_feed_verify(datsync_drive_metadata(drive), on_fault, &v);
    if (good >= 0 && datsync_drive_archive(drive) && datsync_drive_content(drive) != NULL) {
        v.prefix = "content.";
        good = datsync_feed_verify(datsync_drive_content(drive), on_fault, &v);
    }
    if (good >= 0)
        good = datsync_drive_verify(drive, &check);
    code = good < 0 ? fail_drive(c, dir, (int)good) : tell_verified(&v, dir, (uint64_t)good, "entries");
    return close_drive(c, dir, drive, code);
}
