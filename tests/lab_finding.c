/* Peers of the laboratory that find each other by discovery, as a whole: synchronizers with their source, its engines
 * and their datagrams, on virtual time. Host 0 is what they all know: a discovery server, or a node of the DHT.
 *
 * SPDX-License-Identifier: MIT
 */
#include "lab.h"

#include <string.h>

#include <sodium.h>

#include "base.h"
#include "discovery.h"

#define PEERS 200u
#define FEEDS 20u
#define BLOCKS 3u
#define PORT 3282u
#define SERVER_PORT 5300u
#define NODE_PORT 6881u
/* All must be there by then. */
#define LIMIT_MS 900000u

typedef struct seeker {
    datsync_env env;
    uint64_t luck;
    datsync_net net;
    datsync_feed *feed;
    datsync *ds;
    datsync_discovery *discovery;
    int complete;
} seeker;

typedef struct center {
    datsync_env env;
    uint64_t luck;
    datsync_net net;
    intptr_t socket;
    datsync_dns_server *server;
    datsync_dht *node;
} center;

static void draw(void *ctx, void *buf, size_t len)
{
    uint8_t *to = buf;
    for (size_t i = 0; i < len; i++)
        to[i] = (uint8_t)chance(ctx);
}

/* ------------------------------------------------ what all know */

static void center_send(void *ctx, const datsync_ip *to, const void *bytes, size_t len)
{
    const center *c = ctx;
    (void)c->net.send_to(c->net.ctx, c->socket, bytes, len, to);
}

static void center_found(void *ctx, const uint8_t name[DATSYNC_NAME_BYTES], const datsync_ip *peer,
                         const datsync_ip *informant)
{
    (void)ctx;
    (void)name;
    (void)peer;
    (void)informant;
}

static void center_begin(center *c, lab_net *net, const char *way, uint64_t seed)
{
    datsync_way calls = {c, center_send, center_found};
    datsync_ip at = lab_ip(0, strcmp(way, "dht") == 0 ? NODE_PORT : SERVER_PORT);
    memset(c, 0, sizeof *c);
    c->luck = seed;
    c->env.ctx = &c->luck;
    c->env.random = draw;
    c->net = lab_net_of(net, 0);
    if (c->net.datagrams(c->net.ctx, &at, 0, &c->socket) < 0 ||
        (strcmp(way, "server") == 0 && datsync_dns_server_new(&c->server, &c->env, &calls, 0) < 0) ||
        (strcmp(way, "dht") == 0 && datsync_dht_new(&c->node, &c->env, &calls, NULL, 0, 0) < 0))
        die("the center does not begin");
}

static uint64_t center_turn(center *c, uint64_t now)
{
    uint8_t bytes[2048];
    datsync_ip from;
    int64_t n;
    uint64_t at = LAB_NEVER;
    while ((n = c->net.receive_from(c->net.ctx, c->socket, bytes, sizeof bytes, &from)) >= 0) {
        if (c->server)
            (void)datsync_dns_server_datagram(c->server, bytes, (size_t)n, &from, now);
        if (c->node)
            (void)datsync_dht_datagram(c->node, bytes, (size_t)n, &from, now);
    }
    if (c->server) {
        datsync_dns_server_step(c->server, now);
        at = datsync_dns_server_deadline(c->server);
    }
    if (c->node) {
        datsync_dht_step(c->node, now);
        at = datsync_dht_deadline(c->node);
    }
    return at;
}

static void center_end(center *c)
{
    datsync_dns_server_free(c->server);
    datsync_dht_free(c->node);
    c->net.close(c->net.ctx, c->socket);
}

/* ------------------------------------------------ who seeks */

static void on_seeker_event(void *ctx, datsync *ds, const datsync_event *event)
{
    seeker *s = ctx;
    (void)ds;
    if (event->type == DATSYNC_EV_COMPLETE && event->index == BLOCKS)
        s->complete = 1;
}

/* The first of each feed has it, the others want it. */
static void seeker_feed(seeker *all, unsigned i)
{
    seeker *s = &all[i];
    datsync_feed_options o = {.env = &s->env};
    uint8_t block[32] = {(uint8_t)i};
    datsync_bytes blocks[BLOCKS] = {{block, 32}, {block, 20}, {block, 10}};
    uint8_t key[32], secret[64], seed[32];
    if (i < FEEDS) {
        draw(&s->luck, seed, sizeof seed);
        (void)crypto_sign_seed_keypair(key, secret, seed);
        o.key = key;
        o.secret_key = secret;
        o.flags = DATSYNC_CREATE;
    } else {
        o.key = datsync_feed_key(all[i % FEEDS].feed);
        o.flags = DATSYNC_CREATE;
    }
    if (datsync_feed_open(&s->feed, &o) < 0 ||
        (i < FEEDS && datsync_feed_append(s->feed, blocks, BLOCKS) != (int64_t)BLOCKS))
        die("a feed does not open");
    s->complete = i < FEEDS;
}

static void seeker_begin(seeker *all, unsigned i, lab_net *net, const char *way)
{
    static const char *const servers[] = {"10.0.0.0:5300"}, *const nodes[] = {"10.0.0.0:6881"};
    seeker *s = &all[i];
    char at[24];
    s->net = lab_net_of(net, i + 1);
    datsync_options o = {.env = &s->env, .net = &s->net, .live = 1, .ctx = s, .on_event = on_seeker_event};
    datsync_discovery_options d = {.env = &s->env,
                                   .net = &s->net,
                                   .port = PORT,
                                   .servers = servers,
                                   .server_count = 1,
                                   .bootstraps = nodes,
                                   .bootstrap_count = 1};
    d.ways = 1u << (strcmp(way, "mdns") == 0     ? DATSYNC_BY_MDNS
                    : strcmp(way, "server") == 0 ? DATSYNC_BY_SERVER
                                                 : DATSYNC_BY_DHT);
    (void)snprintf(at, sizeof at, "h%u:%u", i + 1, PORT);
    if (datsync_new(&s->ds, &o, 0) < 0 || datsync_add(s->ds, s->feed, DATSYNC_UPLOAD | DATSYNC_DOWNLOAD) < 0 ||
        datsync_listen(s->ds, at) < 0 || datsync_discovery_new(&s->discovery, &d, 0) < 0 ||
        datsync_discovery_add(s->discovery, datsync_feed_discovery_key(s->feed), PORT, 0) < 0)
        die("a seeker does not begin");
    datsync_source source = datsync_discovery_source(s->discovery);
    if (datsync_add_source(s->ds, &source) < 0)
        die("a source is not taken");
}

static uint64_t seeker_turn(seeker *s, uint64_t now)
{
    static datsync_pollfd fds[PEERS + 16];
    size_t n = datsync_pollfds(s->ds, fds, sizeof fds / sizeof *fds);
    if (n > sizeof fds / sizeof *fds)
        die("a seeker has more handles than there are peers");
    (void)s->net.poll(s->net.ctx, fds, n, 0);
    if (datsync_step(s->ds, fds, n, now) < 0)
        die("a step failed");
    return datsync_deadline(s->ds);
}

/* ------------------------------------------------ all of them */

static unsigned complete_of(const seeker *all)
{
    unsigned n = 0;
    for (unsigned i = 0; i < PEERS; i++)
        n += (unsigned)all[i].complete;
    return n;
}

/* Turns of whoever has something to do, until all are complete or the time is up. Returns when that was. */
static uint64_t run_all(lab_net *net, seeker *all, center *c)
{
    static uint64_t due[PEERS];
    uint64_t center_due = 0;
    memset(due, 0, sizeof due);
    while (lab_now(net) < LIMIT_MS && complete_of(all) < PEERS) {
        uint64_t now = lab_now(net), next = LAB_NEVER;
        unsigned turns = 0;
        for (int busy = 1; busy && turns < 100000;) {
            busy = 0;
            if (lab_stirs(net, 0) || center_due <= now) {
                center_due = center_turn(c, now);
                busy = 1;
            }
            for (unsigned i = 0; i < PEERS; i++)
                if (lab_stirs(net, i + 1) || due[i] <= now) {
                    due[i] = seeker_turn(&all[i], now);
                    busy = 1;
                    turns++;
                }
        }
        if (turns >= 100000)
            die("somebody spins");
        for (unsigned i = 0; i < PEERS; i++)
            next = due[i] < next ? due[i] : next;
        next = center_due < next ? center_due : next;
        next = lab_next(net) < next ? lab_next(net) : next;
        lab_go(net, next < LIMIT_MS ? next : LIMIT_MS);
    }
    return lab_now(net);
}

int lab_finding(const char *way, uint64_t seed, unsigned loss)
{
    static seeker all[PEERS];
    center c;
    lab_way line = {.delay = 10, .jitter = 20, .loss = loss, .doubling = loss / 3};
    if (strcmp(way, "mdns") == 0)
        line.jitter = 0; /* of one Ethernet; and the many that are sent to all stay in order, which is quicker */
    lab_net *net = lab_net_new(seed, PEERS + 1);
    memset(all, 0, sizeof all);
    for (unsigned a = 0; a <= PEERS; a++)
        for (unsigned b = a + 1; b <= PEERS; b++)
            lab_way_set(net, a, b, &line);
    center_begin(&c, net, way, seed);
    for (unsigned i = 0; i < PEERS; i++) {
        all[i].luck = seed ^ (uint64_t)(i + 1) << 20;
        all[i].env.ctx = &all[i].luck;
        all[i].env.random = draw;
        seeker_feed(all, i);
    }
    for (unsigned i = 0; i < PEERS; i++)
        seeker_begin(all, i, net, way);
    uint64_t at = run_all(net, all, &c);
    unsigned n = complete_of(all);
    printf("%s, %u of 1000 lost: %u of %u found each other in %llu ms\n", way, loss, n, PEERS, (unsigned long long)at);
    for (unsigned i = 0; i < PEERS; i++) {
        (void)datsync_free(all[i].ds);
        datsync_discovery_free(all[i].discovery);
    }
    for (unsigned i = PEERS; i > 0; i--)
        (void)datsync_feed_close(all[i - 1].feed);
    center_end(&c);
    lab_net_free(net);
    return n < PEERS;
}
