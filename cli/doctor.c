/* The command that tells what stands between this machine and its peers.
 *
 * SPDX-License-Identifier: MIT
 *
 * Without a link it looks at the network at hand. With one it meets peers in earnest, by each way alone: it finds them,
 * dials them and fetches one block, which it forgets. With --wait it is the peer that another doctor is to meet. It
 * calls checkup, finding, transfer, words, output and text.
 */
#include "doctor.h"
#include "checkup.h"
#include "finding.h"
#include "output.h"
#include "text.h"
#include "transfer.h"
#include "words.h"

#include <stdio.h>
#include <string.h>

/* Milliseconds for each way, of them for a dial; and for the good-bye. */
#define DOCTOR_WAY_MS 4000u
#define DOCTOR_DIAL_MS 2500u
#define DOCTOR_BYE_MS 500u

/* ---------------------------------------------------------------- to be found ------------------------------------- */

/* What the other one has to type, so that it looks where this one is announced. */
static void tell_what_to_type(const cli *c, const datsync_feed *feed)
{
    char key[65];

    if (c->json)
        return;
    fputs("on the other machine: datsync doctor", stdout);
    fputs(c->lan ? " --lan" : "", stdout);
    fputs(c->no_mdns ? " --no-mdns" : "", stdout);
    fputs(c->no_server ? " --no-server" : "", stdout);
    fputs(c->no_dht ? " --no-dht" : "", stdout);
    for (size_t i = 0; i < c->discovery_server_count; i++) {
        fputs(" --discovery-server ", stdout);
        put_safe(stdout, c->discovery_servers[i]);
    }
    for (size_t i = 0; i < c->dht_bootstrap_count; i++) {
        fputs(" --dht-bootstrap ", stdout);
        put_safe(stdout, c->dht_bootstraps[i]);
    }
    hex(key, datsync_feed_key(feed));
    printf(" dat://%s\n", key);
    fflush(stdout);
}

static int wait_for_peers(cli *c)
{
    static const char text[] = "datsync doctor\n";
    datsync_bytes block = {(const uint8_t *)text, sizeof text - 1};
    datsync_feed_options options;
    datsync_feed *feed;
    transfer t;

    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.flags = DATSYNC_CREATE;
    int error = datsync_feed_open(&feed, &options);
    if (error < 0)
        return fail(c, FAILED, "%s", datsync_strerror(error));
    int64_t length = datsync_feed_append(feed, &block, 1);
    error = length < 0 ? (int)length : datsync_feed_flush(feed);
    int code = DONE;
    if (error < 0) {
        code = fail(c, FAILED, "%s", datsync_strerror(error));
    } else {
        tell_what_to_type(c, feed);
        transfer_of_feed(&t, c, "doctor", feed);
        code = run_transfer(&t, DATSYNC_UPLOAD);
    }
    (void)datsync_feed_close(feed); /* it was in memory alone */
    return code;
}

/* ---------------------------------------------------------------- to find ----------------------------------------- */

/* One way, tried alone. */
typedef struct trial {
    const cli *c; /* its options leave that way alone */
    int way;
    told *told;
    finding finding;
    uint64_t began, took, peers;
    int fetched, connected; /* a block; a handshake at least */
    int met;                /* an address was dialled, and this is what became of it, in `error` and `address` */
    int error;
    char address[128]; /* which was met last */
} trial;

static const struct {
    int way;
    const char *name, *words, *nobody;
} ways[] = {
    {DATSYNC_BY_MDNS, "mdns", "multicast DNS",
     "see whether datsync runs on the other machine, in the same network, and datsync doctor on both: multicast must "
     "come back"},
    {DATSYNC_BY_SERVER, "server", "discovery servers",
     "see whether it is announced at the same servers (--discovery-server on both sides), and whether they answer "
     "(datsync doctor)"},
    {DATSYNC_BY_DHT, "dht", "the DHT",
     "see whether it is announced in the same DHT (--dht-bootstrap on both sides), and whether its nodes answer "
     "(datsync "
     "doctor); an announcement takes up to a minute"},
};

/* Each address that was found and not reached, once. */
static void tell_unreachable(const trial *t, const datsync_event *event)
{
    if (!told_first(t->told, event->address, t->way))
        return;
    if (t->c->json) {
        json_begin("unreachable");
        json_string("address", event->address);
        json_reason(event->error);
        json_bool("again", event->index != 1);
        json_end();
    } else {
        note(t->c, "%s (%s): %s", event->address, source_in_words(event->source), datsync_strerror(event->error));
    }
}

static void on_event(void *ctx, datsync *ds, const datsync_event *event)
{
    trial *t = ctx;

    (void)ds;
    switch (event->type) {
    case DATSYNC_EV_PEER:
        t->connected = 1;
        t->error = 0;
        snprintf(t->address, sizeof t->address, "%s", event->address);
        break;
    case DATSYNC_EV_BLOCK:
        if (!t->fetched)
            t->took = datsync_os_clock(NULL) - t->began;
        t->fetched = 1;
        break;
    case DATSYNC_EV_DISCONNECTED:
    case DATSYNC_EV_UNREACHABLE:
        if (t->connected || event->error == DATSYNC_E_SELF || event->error == DATSYNC_E_DUPLICATE)
            break;
        if (event->type == DATSYNC_EV_UNREACHABLE)
            tell_unreachable(t, event);
        t->met = 1;
        t->error = event->error;
        snprintf(t->address, sizeof t->address, "%s", event->address);
        break;
    case DATSYNC_EV_TICK:
        tell_finding(&t->finding);
        break;
    default:
        break;
    }
}

/* What went wrong after somebody was found, and what to do about it. */
static const char *advice_of_trial(const trial *t, size_t at)
{
    if (t->fetched)
        return NULL;
    if (t->connected)
        return "it has nothing of this link yet: let it finish its own download, or ask its owner to share";
    if (t->peers == 0 && !t->met)
        return ways[at].nobody;
    if (t->error == DATSYNC_E_REFUSED)
        return "who was found there is gone, or listens elsewhere: start it again, and see that its router forwards "
               "the port";
    if (t->error == 0 || t->error == DATSYNC_E_UNREACHABLE || t->error == DATSYNC_E_TIMEOUT)
        return "a firewall or a NAT before it stops connections: let its TCP port through there, or forward it in its "
               "router "
               "(datsync doctor there tells which)";
    return "who was found there is no peer of this link: maybe another has that address now";
}

static const char *trouble_of(const trial *t)
{
    return t->connected ? "connected, but no block came" : t->met ? "not reached, " : "not reached, the time was up";
}

static void tell_trial(const trial *t, size_t at)
{
    const char *advice = advice_of_trial(t, at);
    int nobody = t->peers == 0 && !t->met && !t->connected;

    if (t->c->json) {
        json_begin("tried");
        json_string("way", ways[at].name);
        json_bool("ok", t->fetched);
        json_number("peers", t->peers);
        if (t->address[0] != 0)
            json_string("address", t->address);
        if (t->fetched)
            json_number("ms", t->took);
        else
            json_reason(nobody ? DATSYNC_E_NOT_FOUND : t->error < 0 ? t->error : DATSYNC_E_TIMEOUT);
        json_end_advised(advice);
    } else if (t->fetched) {
        tell_result(t->told, NULL, "%s: found %s, and fetched a block in %llu ms", ways[at].words, t->address,
                    (unsigned long long)t->took);
    } else if (nobody) {
        tell_result(t->told, advice, "%s: nobody was found", ways[at].words);
    } else {
        tell_result(t->told, advice, "%s: found %s: %s%s", ways[at].words, t->address[0] != 0 ? t->address : "somebody",
                    trouble_of(t), t->met && !t->connected ? datsync_strerror(t->error) : "");
    }
}

/* How many this way told of. */
static uint64_t peers_told(const trial *t)
{
    datsync_discovery_report report;
    uint64_t count = 0;

    for (size_t i = 0; datsync_discovery_look(t->finding.discovery, i, &report, datsync_os_clock(NULL)); i++)
        if (report.peers > count)
            count = report.peers;
    return count;
}

/* The others are told the end, so that they see no reset. */
static void say_good_bye(datsync *ds)
{
    uint64_t until = datsync_os_clock(NULL) + DOCTOR_BYE_MS, now;

    datsync_stop(ds);
    while (datsync_candidates(ds) > 0 && (now = datsync_os_clock(NULL)) < until)
        if (datsync_poll(ds, (unsigned)(until - now)) < 0)
            return;
}

static int meet(trial *t, datsync *ds, datsync_feed *feed)
{
    int error = datsync_feed_want(feed, 0, 1);

    if (error == 0)
        error = datsync_add(ds, feed, DATSYNC_DOWNLOAD);
    if (error < 0)
        return fail(t->c, FAILED, "%s", datsync_strerror(error));
    int code = find_peers(&t->finding, t->c, ds, datsync_feed_discovery_key(feed), 0, 0);
    uint64_t until = t->began + DOCTOR_WAY_MS, now;
    while (code == DONE && !t->fetched && !datsync_os_stopped(NULL) && (now = datsync_os_clock(NULL)) < until) {
        error = datsync_poll(ds, (unsigned)(until - now));
        if (error < 0)
            code = fail(t->c, FAILED, "%s", datsync_strerror(error));
    }
    if (code != DONE)
        return code;
    t->peers = peers_told(t);
    tell_finding(&t->finding);
    say_good_bye(ds);
    return DONE;
}

static int run_trial(trial *t, const uint8_t key[32])
{
    datsync_feed_options feed_options;
    datsync_options options;
    datsync_feed *feed;
    datsync *ds;

    t->began = datsync_os_clock(NULL);
    memset(&feed_options, 0, sizeof feed_options);
    feed_options.env = &t->c->env;
    feed_options.key = key;
    feed_options.flags = DATSYNC_CREATE;
    int error = datsync_feed_open(&feed, &feed_options);
    if (error < 0)
        return fail(t->c, FAILED, "%s", datsync_strerror(error));
    memset(&options, 0, sizeof options);
    options.env = &t->c->env;
    options.net = datsync_os_net();
    options.connect_timeout_ms = DOCTOR_DIAL_MS;
    options.live = 1; /* it ends when it has what it came for */
    options.ctx = t;
    options.on_event = on_event;
    options.stopped = datsync_os_stopped;
    error = datsync_new(&ds, &options, t->began);
    int code = error < 0 ? fail(t->c, FAILED, "%s", datsync_strerror(error)) : DONE;
    if (code == DONE) {
        code = meet(t, ds, feed);
        (void)datsync_free(ds); /* the feed is in memory */
        finding_end(&t->finding);
    }
    (void)datsync_feed_close(feed);
    return code;
}

/* The same run with one way alone. */
static void only(cli *one, const cli *c, int way)
{
    *one = *c;
    one->lan = way == DATSYNC_BY_MDNS;
    one->no_mdns = way != DATSYNC_BY_MDNS;
    one->no_server = way != DATSYNC_BY_SERVER;
    one->no_dht = way != DATSYNC_BY_DHT;
}

static int visit(cli *c)
{
    uint8_t key[32];
    told told_before = {NULL, 0, 0};
    int fetched = 0, found = 0;

    int code = read_link(c, c->words[0], key);
    for (size_t i = 0; i < COUNT(ways) && code == DONE; i++) {
        cli one;
        trial t = {.c = &one, .way = ways[i].way, .told = &told_before};
        if (!(finding_ways(c) & 1u << ways[i].way))
            continue;
        only(&one, c, ways[i].way);
        code = run_trial(&t, key);
        if (code == DONE && datsync_os_stopped(NULL))
            code = fail(c, INTERRUPTED, "interrupted");
        if (code == DONE)
            tell_trial(&t, i);
        fetched |= t.fetched;
        found |= t.met || t.connected || t.peers > 0;
    }
    told_free(&told_before);
    if (code != DONE || fetched)
        return code;
    return found ? fail(c, FAILED, "peers were found, and none gave a block")
                 : fail(c, NO_PEER, "nobody was found by any way");
}

/* ---------------------------------------------------------------- the command ------------------------------------- */

int run_doctor(cli *c)
{
    int code = check_finding(c);

    if (code == DONE && c->wait && c->word_count > 0)
        code = fail(c, USAGE, "--wait makes a link of its own: give that to doctor on another machine");
    if (code == DONE && c->wait && c->no_listen)
        code = fail(c, USAGE, "--wait listens, which --no-listen leaves out");
    if (code == DONE && (c->wait || c->word_count > 0) && !is_finding(c))
        code =
            fail(c, USAGE, "--no-discovery, or DATSYNC_NO_DISCOVERY in the environment, leaves no way to find anybody");
    if (code != DONE)
        return code;
    datsync_os_signals();
    return c->wait ? wait_for_peers(c) : c->word_count > 0 ? visit(c) : check_network(c);
}
