/* Finding: the ways by which one run looks for peers and announces itself, and what they answer.
 *
 * SPDX-License-Identifier: MIT
 *
 * It calls output.
 */
#include "finding.h"
#include "output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Milliseconds between two times that the DHT's nodes are kept. */
#define CLI_KEEP_MS 600000u

static const struct {
    const char *name, *words;
} sources[] = {
    {"chosen", "as asked"},
    {"mdns", "found by multicast DNS"},
    {"server", "found by a discovery server"},
    {"dht", "found by the DHT"},
};

const char *source_in_words(unsigned source)
{
    return source < COUNT(sources) ? sources[source].words : "it came by itself";
}

const char *source_name(unsigned source)
{
    return source < COUNT(sources) ? sources[source].name : "incoming";
}

/* Where nothing may be sent to anybody, the environment says so for each command: only the ways that options name are
 * left. */
static unsigned ways_outside(const cli *c)
{
    const char *off = getenv("DATSYNC_NO_DISCOVERY");

    if (off == NULL || *off == 0)
        return ~0u;
    return (c->lan ? 1u << DATSYNC_BY_MDNS : 0) | (c->discovery_server_count > 0 ? 1u << DATSYNC_BY_SERVER : 0) |
           (c->dht_bootstrap_count > 0 ? 1u << DATSYNC_BY_DHT : 0);
}

unsigned finding_ways(const cli *c)
{
    unsigned left = ways_outside(c);

    if (c->no_discovery)
        return 0;
    if (c->lan)
        return 1u << DATSYNC_BY_MDNS;
    return left & ((c->no_mdns ? 0 : 1u << DATSYNC_BY_MDNS) | (c->no_server ? 0 : 1u << DATSYNC_BY_SERVER) |
                   (c->no_dht ? 0 : 1u << DATSYNC_BY_DHT));
}

int is_finding(const cli *c)
{
    return finding_ways(c) != 0;
}

int check_finding(const cli *c)
{
    if (c->lan && (c->no_discovery || c->no_mdns))
        return fail(c, USAGE, "--lan is multicast DNS, which %s leaves out",
                    c->no_mdns ? "--no-mdns" : "--no-discovery");
    if (c->discovery_server_count > 0 && !(finding_ways(c) & 1u << DATSYNC_BY_SERVER))
        return fail(c, USAGE, "--discovery-server: other options leave all servers out");
    if (c->dht_bootstrap_count > 0 && !(finding_ways(c) & 1u << DATSYNC_BY_DHT))
        return fail(c, USAGE, "--dht-bootstrap: other options leave the DHT out");
    return DONE;
}

/* The one line that says to whom a name becomes known. */
static void tell_announced(const cli *c, unsigned by)
{
    char where[160] = "";

    if (by & 1u << DATSYNC_BY_MDNS)
        strcat(where, ", in the local network");
    if (by & 1u << DATSYNC_BY_SERVER)
        strcat(where, c->discovery_server_count > 0 ? ", at the discovery servers that were named"
                                                    : ", at the public discovery servers");
    if (by & 1u << DATSYNC_BY_DHT)
        strcat(where, ", in the DHT");
    note(c, "announced%s: who has the link finds this host (--lan, --no-discovery)", where + 1);
}

/* The nodes that a run knew in the end need not be found again by the next one: they are kept in .dat/dht.data of the
 * home folder. Two runs at once must not be the same node, so only one has the lock; the other begins anew. Nodes of a
 * DHT of one's own don't belong there. Returns how many bytes were kept. */
static size_t take_kept(finding *f, uint8_t saved[DATSYNC_DHT_SAVED_BYTES])
{
    char dir[DATSYNC_MAX_PATH + 8];

    if (!(finding_ways(f->c) & 1u << DATSYNC_BY_DHT) || f->c->dht_bootstrap_count > 0 ||
        datsync_os_home(dir, DATSYNC_MAX_PATH) < 0)
        return 0;
    strcat(dir, "/.dat");
    if (datsync_os_store(&f->kept, dir, "dht.", DATSYNC_CREATE) < 0)
        return 0;
    f->keeps = f->kept.lock(f->kept.ctx) == 0;
    int64_t size = f->keeps ? f->kept.size(f->kept.ctx, DATSYNC_PART_DATA) : 0;
    if (size <= 0 || size > DATSYNC_DHT_SAVED_BYTES)
        return 0;
    int64_t got = f->kept.read(f->kept.ctx, DATSYNC_PART_DATA, 0, saved, (size_t)size);
    return got == size ? (size_t)size : 0; /* what is broken there is found out by the DHT */
}

/* Nothing is lost where this fails: the next run begins anew. */
static void keep(finding *f)
{
    uint8_t saved[DATSYNC_DHT_SAVED_BYTES];
    int64_t size = f->keeps ? datsync_discovery_save(f->discovery, saved, sizeof saved) : 0;

    f->keep_at = datsync_os_clock(NULL) + CLI_KEEP_MS;
    if (size > 0 && f->kept.write(f->kept.ctx, DATSYNC_PART_DATA, 0, saved, (size_t)size) >= 0)
        (void)f->kept.truncate(f->kept.ctx, DATSYNC_PART_DATA, (uint64_t)size);
}

int find_peers(finding *f, const cli *c, datsync *ds, const uint8_t discovery_key[32], uint16_t port, int six)
{
    datsync_discovery_options options;
    uint8_t saved[DATSYNC_DHT_SAVED_BYTES];
    uint64_t now = datsync_os_clock(NULL);

    memset(f, 0, sizeof *f);
    f->c = c;
    if (!is_finding(c))
        return DONE;
    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.net = datsync_os_net();
    options.ways = finding_ways(c);
    options.silent = six ? 1u << DATSYNC_BY_SERVER | 1u << DATSYNC_BY_DHT : 0; /* which know IPv4 alone */
    options.port = port;
    options.saved = saved;
    options.saved_len = take_kept(f, saved);
    f->keep_at = now + CLI_KEEP_MS;
    if (c->discovery_server_count > 0) {
        options.servers = c->discovery_servers;
        options.server_count = c->discovery_server_count;
    }
    if (c->dht_bootstrap_count > 0) {
        options.bootstraps = c->dht_bootstraps;
        options.bootstrap_count = c->dht_bootstrap_count;
    }
    int error = datsync_discovery_new(&f->discovery, &options, now);
    if (error == 0)
        error = datsync_discovery_add(f->discovery, discovery_key, port, now);
    if (error < 0)
        return fail(c, FAILED, "discovery: %s", datsync_strerror(error));
    datsync_source source = datsync_discovery_source(f->discovery);
    error = datsync_add_source(ds, &source);
    if (error < 0)
        return fail(c, FAILED, "discovery: %s", datsync_strerror(error));
    for (size_t i = 0; i < COUNT(f->told); i++)
        f->told[i] = DATSYNC_E_AGAIN;
    if (port != 0 && (options.ways & ~options.silent) != 0)
        tell_announced(c, options.ways & ~options.silent);
    return DONE;
}

/* `multicast DNS`, `the DHT`, `discovery server HOST`, `DHT node HOST` */
static const char *way_in_words(char out[320], const datsync_discovery_report *report)
{
    if (report->host == NULL)
        return report->way == DATSYNC_BY_MDNS ? "multicast DNS" : "the DHT";
    snprintf(out, 320, "%s %s", report->way == DATSYNC_BY_SERVER ? "discovery server" : "DHT node", report->host);
    return out;
}

static void tell_json_report(const datsync_discovery_report *report)
{
    char text[DATSYNC_IP_TEXT];

    json_begin("discovery");
    json_string("way", source_name((unsigned)report->way));
    if (report->host != NULL)
        json_string("host", report->host);
    if (report->seen.size != 0) {
        datsync_ip_text(&report->seen, text);
        json_string("seen_as", text);
    }
    json_number("peers", report->peers);
    if (report->error < 0)
        json_reason(report->error);
    json_end();
}

void tell_finding(finding *f)
{
    datsync_discovery_report report;
    uint64_t now = datsync_os_clock(NULL);
    char way[320];

    if (f->discovery != NULL && now >= f->keep_at)
        keep(f);
    for (size_t i = 0; f->discovery != NULL && i < COUNT(f->told); i++) {
        if (!datsync_discovery_look(f->discovery, i, &report, now))
            return;
        if (report.error == f->told[i] || report.error == DATSYNC_E_AGAIN)
            continue;
        f->told[i] = report.error;
        if (f->c->json)
            tell_json_report(&report);
        else if (report.error < 0)
            note(f->c, "%s: %s", way_in_words(way, &report), datsync_strerror(report.error));
        else
            note(f->c, "%s: answers", way_in_words(way, &report));
    }
}

void tell_found_nobody(const finding *f)
{
    datsync_discovery_report report;
    uint64_t now = datsync_os_clock(NULL);
    char way[320], why[160];

    for (size_t i = 0; f->discovery != NULL && datsync_discovery_look(f->discovery, i, &report, now); i++) {
        if (report.error < 0 && report.error != DATSYNC_E_AGAIN)
            snprintf(why, sizeof why, "%s", datsync_strerror(report.error));
        else if (report.error < 0 && report.peers == 0)
            snprintf(why, sizeof why, "no answer");
        else
            snprintf(why, sizeof why, "%llu peers told", (unsigned long long)report.peers);
        complain(f->c, way_in_words(way, &report), why);
    }
}

void finding_end(finding *f)
{
    if (f->discovery != NULL)
        keep(f);
    if (f->kept.close != NULL)
        f->kept.close(f->kept.ctx);
    memset(&f->kept, 0, sizeof f->kept);
    datsync_discovery_free(f->discovery);
    f->discovery = NULL;
}
