/* Transfer: an opened feed or drive on the network, until it is complete or interrupted.
 *
 * SPDX-License-Identifier: MIT
 *
 * The synchronizer's events become lines, JSON and a bar; in the end there is one exit code. It calls finding, import,
 * for an owner who goes on importing meanwhile, selection, folder and output.
 */
#include "transfer.h"
#include "folder.h"
#include "selection.h"
#include "text.h"

#include <stdio.h>
#include <string.h>

/* Milliseconds between two scans of a folder, and how many times longer than a scan takes. */
#define CLI_SCAN_MS 1000u
#define CLI_SCAN_TIMES 20u

/* ---------------------------------------------------------------- progress ---------------------------------------- */

static uint64_t changed(const transfer *t)
{
    return t->blocks + t->sent_blocks + t->entries;
}

/* What is wanted and what of it is here: of a feed in blocks, as far as its length is known; of a drive the bytes of
 * the version that is being laid out, once it is known what there is. */
static void counts(const transfer *t, uint64_t *held, uint64_t *total)
{
    uint64_t length = datsync_feed_length(t->feed);
    uint64_t offered = t->ended ? t->offered : datsync_offered(t->ds, t->feed);
    range all = {0, UINT64_MAX};
    const range *ranges = t->c->range_count > 0 ? t->c->ranges : &all;
    size_t count = t->c->range_count > 0 ? t->c->range_count : 1;

    *held = t->plan_done < t->plan_bytes ? t->plan_done : t->plan_bytes;
    *total = t->plan_bytes;
    if (t->drive != NULL)
        return;
    /* What a peer offers is only its word; a wild one would make the bar useless. */
    if (offered > length && offered <= DATSYNC_MAX_BLOCKS)
        length = offered;
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

    if (t->drive != NULL)
        snprintf(out, 96, "%s of %s", amount(left, (double)held), amount(right, (double)total));
    else
        snprintf(out, 96, "%llu of %llu blocks", (unsigned long long)held, (unsigned long long)total);
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
            if (!t->sharing)
                counts(t, &held, &total);
            draw_bar(t->columns, held, total, text);
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
    if (!t->ended)
        t->offered = datsync_offered(t->ds, t->feed); /* soon nobody is left to offer anything */
    t->ended = 1;
    datsync_stop(t->ds);
}

/* ---------------------------------------------------------------- the selection ----------------------------------- */

typedef struct matching {
    const cli *c;
    int hit[CLI_MAX_SELECTS];
} matching;

static int on_candidate(void *ctx, const datsync_entry *entry)
{
    matching *m = ctx;

    for (size_t i = 0; i < m->c->select_count; i++)
        m->hit[i] = m->hit[i] || selects(m->c->selects[i], entry->path);
    return 0;
}

/* A pattern that nothing in the version fits is a mistake, or has become one: each is named, once for each version. */
static void check_selection(transfer *t)
{
    cli *c = t->c;
    matching m = {c, {0}};

    if (!t->complete || c->select_count == 0 || (t->checked && t->checked_version == t->version))
        return;
    t->checked = 1;
    t->checked_version = t->version;
    t->unmatched = 0;
    if (t->version > 0 && datsync_drive_list(t->drive, t->version, "/", 1, on_candidate, &m, NULL) < 0)
        return;
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

/* ---------------------------------------------------------------- events ------------------------------------------ */

static void on_tick(transfer *t)
{
    uint64_t now = datsync_os_clock(NULL);

    if (t->blocks + t->entries != t->fresh_count) {
        t->fresh_count = t->blocks + t->entries;
        t->fresh_at = now;
    }
    check_selection(t);
    tell_finding(&t->finding);
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
        if (t->drive != NULL && event->feed != t->feed)
            t->plan_done += event->size;
        if (t->drive == NULL && event->index == 0 && is_drive_header(t->feed))
            note(t->c, "this feed is a drive's: datsync clone dat://%s fetches its files", t->key);
    }
    if (t->columns > 0 && (changed(t) & 15) == 0)
        show(t, datsync_os_clock(NULL), 0);
}

void tell_link(transfer *t)
{
    if (t->link_told || t->c->command->bit == LS)
        return;
    t->link_told = 1;
    if (t->c->json) {
        json_begin(t->drive != NULL ? "drive" : "feed");
        json_string("key", t->key);
        if (t->drive != NULL) {
            json_number("version", datsync_drive_version(t->drive));
            json_number("laid_out", datsync_drive_laid_out(t->drive));
            json_bool("writable", datsync_drive_writable(t->drive));
            if (t->no_key)
                json_bool("key_missing", 1);
        } else {
            json_number("length", datsync_feed_length(t->feed));
            json_number("held", datsync_feed_count(t->feed, 0, datsync_feed_length(t->feed)));
        }
        json_end();
    } else if (t->c->command->bit & (FEED_SHARE | SHARE | SYNC | DOCTOR)) {
        printf("dat://%s\n", t->key);
        fflush(stdout);
    }
}

/* The port at which others can be told to connect; none at a socket file, and where only this machine can. */
static void note_port(transfer *t, const char *address)
{
    static const uint8_t itself[16] = {[15] = 1};
    datsync_ip ip;

    if (datsync_ip_parse(&ip, address) < 0 || (ip.size == 4 ? ip.bytes[0] == 127 : memcmp(ip.bytes, itself, 16) == 0))
        return;
    t->port = ip.port;
    t->six = ip.size == 16 && t->c->listen != NULL && t->c->listen[0] != ':'; /* `:PORT` is every address of both */
}

static void on_listening(transfer *t, const char *address)
{
    note_port(t, address);
    tell_link(t);
    if (t->c->json) {
        json_begin("listening");
        json_string("address", address);
        json_end();
    } else if (t->c->command->bit & (LS | CAT)) {
        note(t->c, "listening on %s", address); /* standard output is for what was asked */
    } else {
        bar_clear();
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
        json_string("source", source_name(event->source));
        json_end();
    } else {
        note(t->c, "%s: connected (%s)", event->address, source_in_words(event->source));
    }
}

/* The block was good; it could not be stored. */
static int is_own_fault(int error)
{
    return error == DATSYNC_E_IO || error == DATSYNC_E_NO_SPACE || error == DATSYNC_E_ACCESS ||
           error == DATSYNC_E_NOMEM;
}

static int is_twice(int error)
{
    return error == DATSYNC_E_DUPLICATE || error == DATSYNC_E_SELF;
}

/* Who finds peers meets some twice, himself, and many that are gone: nobody needs to read that. */
static int is_usual(const datsync_event *event)
{
    int found = event->source > 0 && event->source < DATSYNC_MAX_SOURCES;
    int met = event->type == DATSYNC_EV_DISCONNECTED && event->index == 1;

    return is_twice(event->error) || (found && !met);
}

/* Ended, not reached, or refused: the words for people, the same for --json, and kept for the last line. */
static void on_trouble(transfer *t, const datsync_event *event)
{
    if (event->type == DATSYNC_EV_REJECT && is_own_fault(event->error))
        t->failed = event->error;
    if (t->failed != 0 && !t->c->json)
        return; /* the last line tells it */
    const char *why = datsync_strerror(event->error);
    int dropped = event->type == DATSYNC_EV_UNREACHABLE && event->index == 1;
    char before[sizeof t->trouble];

    strcpy(before, t->trouble);

    if (event->error < 0 && event->error != DATSYNC_E_DONE && !is_twice(event->error)) {
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
        if (event->type == DATSYNC_EV_REJECT)
            json_number("index", event->index);
        json_reason(event->error);
        if (event->type == DATSYNC_EV_UNREACHABLE)
            json_bool("again", !dropped);
        json_end();
    } else if (event->type == DATSYNC_EV_REJECT) {
        note(t->c, "%s", t->trouble);
    } else if (is_usual(event)) {
        return;
    } else if (event->type == DATSYNC_EV_UNREACHABLE && !dropped && strcmp(before, t->trouble) == 0) {
        return; /* the same as before: people have read it */
    } else if (event->type == DATSYNC_EV_UNREACHABLE) {
        note(t->c, "%s: %s; %s", event->address, why, dropped ? "given up" : "trying again");
    } else {
        note(t->c, "%s: %s", event->address, why);
    }
}

/* The feed, or a version of the drive, is here. */
static void on_complete(transfer *t, const datsync_event *event)
{
    uint64_t length = datsync_feed_length(t->feed);

    if (t->sharing || (t->drive != NULL) != (event->type == DATSYNC_EV_VERSION))
        return;
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
    if (!t->live)
        stop(t);
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
        if (c->command->bit & (LS | CAT))
            break; /* nothing is laid out */
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

/* ---------------------------------------------------------------- starting ---------------------------------------- */

int need_peer_to_share(const cli *c)
{
    if (c->no_listen && c->peer_count == 0 && !is_finding(c))
        return fail(c, USAGE, "with --no-listen and no discovery, name a peer to dial with --peer HOST:PORT");
    return check_finding(c);
}

int need_peer_to_clone(const cli *c)
{
    if (c->peer_count == 0 && (c->listen == NULL || c->no_listen) && !is_finding(c)) {
        return fail(c, USAGE,
                    "without discovery, name a peer with --peer HOST:PORT, or let one come with --listen [HOST:]PORT");
    }
    return check_finding(c);
}

/* A share that wasn't told where listens on the usual port, or another if that is taken. */
static int is_listening(const cli *c)
{
    return !c->no_listen && (c->listen != NULL || (c->command->bit & (FEED_SHARE | SHARE | SYNC | DOCTOR)));
}

static int start_listening(transfer *t)
{
    cli *c = t->c;
    int usual = c->listen == NULL;

    if (!is_listening(c))
        return DONE;
    const char *address = usual ? ":" CLI_PORT : c->listen;
    int error = datsync_listen(t->ds, address);
    if (usual && error == DATSYNC_E_IN_USE) {
        note(c, "port " CLI_PORT " is taken: listening on another one");
        error = datsync_listen(t->ds, ":0");
    }
    return error < 0 ? fail(c, FAILED, "listening on %s: %s", address, datsync_strerror(error)) : DONE;
}

static int start_dialling(transfer *t)
{
    cli *c = t->c;

    for (size_t i = 0; i < c->peer_count; i++) {
        int error = datsync_connect(t->ds, c->peers[i], datsync_os_clock(NULL));
        if (error < 0)
            return fail(c, FAILED, "%s: %s", c->peers[i], datsync_strerror(error));
    }
    return DONE;
}

static int fail_store(const transfer *t, int error)
{
    uint64_t newest = t->drive != NULL ? datsync_drive_version(t->drive) : 0;

    if (t->drive != NULL && error == DATSYNC_E_NOT_FOUND && t->c->checkout > newest)
        return fail(t->c, FAILED, "%s: the newest version known is %llu", t->dir, (unsigned long long)newest);
    return t->drive != NULL ? fail_drive(t->c, t->dir, error) : fail_feed(t->c, t->dir, error);
}

/* ---------------------------------------------------------------- what became of it ------------------------------- */

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

    if (t->drive != NULL)
        (void)datsync_drive_look(t->drive, &state, &check);
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
        return c->command->bit == SYNC && is_all_here(t)
                   ? DONE
                   : fail(c, INTERRUPTED, "%s: interrupted; %s are kept", t->dir, kept);
    }
    int nothing = t->drive != NULL && t->blocks == 0 && !datsync_feed_has(t->feed, 0);
    if (t->peers_seen == 0)
        tell_found_nobody(&t->finding);
    if (t->peers_seen == 0 || nothing)
        return fail(c, NO_PEER, "dat://%s: no peer served this %s%s%s", t->key, what, colon, t->trouble);
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

    if (t->failed != 0 || error < 0)
        return fail_store(t, t->failed != 0 ? t->failed : error);
    if (t->broken)
        return FAILED;
    check_selection(t);
    if (t->complete && t->refused > 0)
        return fail_refused(c, t->dir, t->refused, "not laid out");
    if (t->complete && t->unmatched > 0) {
        return fail(c, FAILED,
                    "%s: %llu of %llu patterns, named above, matched nothing; the folder keeps them (--select "
                    "replaces them, --all drops them)",
                    t->dir, (unsigned long long)t->unmatched, (unsigned long long)c->select_count);
    }
    if (!t->sharing)
        return t->complete ? DONE : outcome_of_download(t);
    if (datsync_os_stopped(NULL) || t->peers_seen > 0)
        return DONE;
    return fail(c, NO_PEER, "dat://%s: no peer%s%s", t->key, colon, t->trouble);
}

static void tell_end(transfer *t, int code)
{
    char size[32], rate[32], time[32], version[64] = "";
    double seconds = (double)(datsync_os_clock(NULL) - t->began + 1) / 1000.0;
    uint64_t bytes = t->sharing ? t->sent_bytes : t->bytes;

    if (code != DONE)
        return;
    elapsed(time, seconds);
    amount(size, (double)bytes);
    if (t->drive != NULL)
        snprintf(version, sizeof version, "%sversion %llu, ", selection_of(t->c), (unsigned long long)t->version);
    if (t->sharing)
        note(t->c, "sent %s in %s", size, time);
    else if (t->complete)
        note(t->c, "complete: %s%s in %s, %s/s", version, size, time, amount(rate, (double)bytes / seconds));
}

/* ---------------------------------------------------------------- from begin to end ------------------------------- */

/* The loop of an owner who goes on importing: the network, and a look at the folder now and then, or once for what
 * was left for later. */
static int run_importing(transfer *t)
{
    cli *c = t->c;
    uint64_t due = datsync_os_clock(NULL) + (t->watch->later > 0 ? 0 : CLI_SCAN_MS), took = 0;
    int code = DONE;

    t->watch->ds = t->ds;
    while (code == DONE && !t->ended && !datsync_os_stopped(NULL) &&
           (is_listening(c) || is_finding(c) || datsync_candidates(t->ds) > 0)) {
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
        if (n[DATSYNC_ADDED] + n[DATSYNC_UPDATED] == 0)
            took = then - now; /* looking, not importing */
        due = then + (took * CLI_SCAN_TIMES > CLI_SCAN_MS ? took * CLI_SCAN_TIMES : CLI_SCAN_MS);
        if (code == DONE && !t->watch->watches) {
            t->watch->ds = NULL;
            return datsync_run(t->ds);
        }
    }
    t->watch->ds = NULL;
    t->broken = code == FAILED;
    return t->ended ? datsync_run(t->ds) : 0;
}

static int start_transfer(transfer *t, unsigned mode)
{
    int error = t->drive != NULL ? datsync_add_drive(t->ds, t->drive, mode) : datsync_add(t->ds, t->feed, mode);

    if (error < 0)
        return fail_store(t, error);
    int code = start_listening(t);
    if (code == DONE) {
        tell_link(t);
        code = start_dialling(t);
    }
    if (code == DONE)
        code = find_peers(&t->finding, t->c, t->ds, datsync_feed_discovery_key(t->feed), t->port, t->six);
    return code;
}

int run_transfer(transfer *t, unsigned mode)
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
    if (error < 0)
        return fail(c, FAILED, "%s", datsync_strerror(error));
    int code = start_transfer(t, mode);
    if (code == DONE) {
        error = t->watch != NULL ? run_importing(t) : datsync_run(t->ds);
        bar_clear();
        code = outcome(t, error);
    }
    error = datsync_free(t->ds);
    finding_end(&t->finding);
    if (error < 0 && code != FAILED)
        code = fail_store(t, error);
    bar_clear();
    tell_end(t, code);
    return code;
}

void transfer_of_feed(transfer *t, cli *c, const char *dir, datsync_feed *feed)
{
    memset(t, 0, sizeof *t);
    t->c = c;
    t->dir = dir;
    t->feed = feed;
    t->live = c->live;
    hex(t->key, datsync_feed_key(feed));
}

void transfer_of_drive(transfer *t, cli *c, const char *dir, datsync_drive *drive)
{
    transfer_of_feed(t, c, dir, datsync_drive_metadata(drive));
    t->drive = drive;
}
