/* Finding: the ways by which one run looks for peers and announces itself, and what they answer.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_FINDING_H
#define CLI_FINDING_H

#include "cli.h"
#include "discovery.h"

/* Zeroed at first. */
typedef struct finding {
    const cli *c;
    datsync_discovery *discovery; /* NULL: nobody is looked for */
    datsync_store kept;           /* the nodes of the DHT, for the next run */
    int keeps;                    /* `kept` is open, and no other run's */
    uint64_t keep_at;
    int told[DATSYNC_MAX_DNS_SERVERS + DATSYNC_MAX_BOOTSTRAPS + 2]; /* of each report, the error that was told last */
} finding;

/* DONE, or USAGE: options that contradict each other. */
int check_finding(const cli *c);

/* The ways that the options leave, a bit for each: 1 << DATSYNC_BY_... */
unsigned finding_ways(const cli *c);

/* Does any way look for peers? */
int is_finding(const cli *c);

/* Begins to look for peers, as a source of ds. `port` is where others can be told to connect, 0: nowhere, nothing is
 * announced; with `six` that is over IPv6 alone, which only the local network is told. The caller ends it with
 * finding_end when ds is freed. An exit code. */
int find_peers(finding *f, const cli *c, datsync *ds, const uint8_t discovery_key[32], uint16_t port, int six);

/* Tells what has changed in what the ways answer: once a second is often enough. */
void tell_finding(finding *f);

/* Tells what each way has answered, where nobody was found. */
void tell_found_nobody(const finding *f);

/* How a peer was found, from the source of an event: `found by multicast DNS`; a word of --json: `mdns`. */
const char *source_in_words(unsigned source);
const char *source_name(unsigned source);

void finding_end(finding *f);

#endif
