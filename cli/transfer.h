/* Transfer: an opened feed or drive on the network, until it is complete or interrupted.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_TRANSFER_H
#define CLI_TRANSFER_H

#include "cli.h"
#include "finding.h"
#include "import.h"
#include "output.h"

/* A feed or a drive on the network. After transfer_of_... the caller may set watch, live and no_key; what else
 * changes is run_transfer's. */
typedef struct transfer {
    cli *c;
    const char *dir;
    datsync *ds;
    datsync_feed *feed;   /* a drive's is its metadata */
    datsync_drive *drive; /* NULL for a bare feed */
    importing *watch;     /* the owner's folder, where it is imported while it is shared */
    char key[65];
    int sharing, live, complete, timed_out, ended;
    int broken;                              /* importing failed, and has said why */
    int failed;                              /* a store's error */
    uint64_t version, plan_bytes, plan_done; /* what is being laid out, and the bytes of content to download for it */
    uint64_t entries, refused;               /* laid out in this run; not laid out of the last version */
    uint64_t unmatched, checked_version;     /* patterns of the selection that match nothing; in which version */
    int checked;
    int no_key;          /* the owner's folder, without the secret key */
    uint64_t peers_seen; /* connections that spoke this feed's key */
    uint64_t offered;    /* when it ended */
    uint64_t began;
    uint64_t fresh_at, fresh_count;                  /* when the last verified byte was seen */
    uint64_t blocks, bytes, sent_blocks, sent_bytes; /* of this run */
    uint64_t shown_at, shown_change;
    meter meter;
    finding finding;
    uint16_t port; /* where others can connect by TCP, 0: nowhere */
    int six;       /* over IPv6 alone */
    int columns, link_told;
    char trouble[512]; /* the last thing that went wrong with a peer, for the last line */
} transfer;

/* USAGE if the options leave no way to meet a peer, for a share; else DONE. */
int need_peer_to_share(const cli *c);

/* The same for a clone. */
int need_peer_to_clone(const cli *c);

/* Prepares a transfer of an open feed. The caller still owns the feed. Nothing needs to be freed. */
void transfer_of_feed(transfer *t, cli *c, const char *dir, datsync_feed *feed);

/* The same for an open drive. */
void transfer_of_drive(transfer *t, cli *c, const char *dir, datsync_drive *drive);

/* Tells the link, once: run_transfer does, an owner who imports first does it before. */
void tell_link(transfer *t);

/* From the opened feed or drive to the exit code; mode as for datsync_add. */
int run_transfer(transfer *t, unsigned mode);

#endif
