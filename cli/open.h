/* Opening and closing the feed or the drive in a folder.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_OPEN_H
#define CLI_OPEN_H

#include "cli.h"

typedef struct opening {
    const char *dir;
    const uint8_t *key, *secret_key; /* NULL: what the folder has */
    unsigned flags;                  /* DATSYNC_CREATE, DATSYNC_READ_ONLY */
    int fresh;                       /* the folder must not hold a feed yet */
} opening;

/* Opens the feed in a folder: an exit code. The feed is the caller's, for close_feed. */
int open_feed(cli *c, const opening *how, datsync_feed **feed);

/* Commits, and closes in any case. Returns code; an error of the commit is the command's. */
int close_feed(const cli *c, const char *dir, datsync_feed *feed, int code);

/* Opens the drive in a folder, whose layout is left in c: an exit code. The drive is the caller's, for close_drive. */
int open_drive(cli *c, const opening *how, datsync_drive **drive);

/* Commits, and closes in any case. Returns code; an error of the commit is the command's. */
int close_drive(const cli *c, const char *dir, datsync_drive *drive, int code);

/* open_drive for a command that only looks at it. */
int look_into(cli *c, const char *dir, datsync_drive **drive);

/* Is it the owner's? The secret key may be here while the drive is open for reading only. */
int is_owner(const datsync_drive *drive);

/* An owner's folder (it has the mark) whose secret key is elsewhere: what changes in it is imported by nobody. */
int lacks_key(const datsync_drive *drive, const char *dir);

/* Do the two halves of a secret key belong together? */
int is_secret_key(const uint8_t secret[64]);

#endif
