/* Importing: an owner's folder into its drive.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_IMPORT_H
#define CLI_IMPORT_H

#include "cli.h"
#include "output.h"
#include "rules.h"

/* One folder's imports, from the first to the last. After importing_begin the caller sets only_count, shares and
 * watches. It sets ds while the folder is on the network. It reads files, later and counts. */
typedef struct importing {
    cli *c;
    const char *dir;
    datsync_drive *drive;
    datsync_files folder; /* a second look at the folder, for what is the command's own there */
    datsync *ds;          /* once it is shared: the network goes on meanwhile */
    int only_count;       /* tell nothing */
    int shares, watches;  /* it is imported to be shared; and goes on being imported */
    int network;          /* its error, which ended the import */
    ignoring rules;
    told told;
    struct waiting *waits; /* those that wait, by the hash of their path */
    size_t wait_count, wait_cap;
    uint64_t scan;
    uint64_t first_bytes, later;          /* bytes that were read before it is shared; files that are read later */
    uint64_t counts[DATSYNC_REFUSED + 1]; /* of this import, by enum datsync_change */
    uint64_t files, bytes, ended_bytes;   /* that are done of it */
    uint64_t began, turned_at, shown_at, shown_bytes;
    meter meter;
    int columns;
} importing;

/* Prepares to import the folder of an open drive. The drive must stay open until importing_end, which the caller
 * calls even after an error. Returns an exit code. */
int importing_begin(importing *im, cli *c, const char *dir, datsync_drive *drive);

/* Frees what it holds, and not the drive. */
void importing_end(importing *im);

/* Brings the drive up to its folder: an exit code. What is refused is told and counted; it is no error here. */
int import_folder(importing *im);

/* The last line when files were left behind; returns FAILED. */
int fail_refused(const cli *c, const char *dir, uint64_t count, const char *what);

#endif
