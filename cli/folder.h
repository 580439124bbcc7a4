/* What lies in a folder of the user's: small files, the key of a feed, the layout of a drive.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_FOLDER_H
#define CLI_FOLDER_H

#include "cli.h"
#include "text.h"

/* Bytes of a small file: .datignore, dat.json, .dat/selection. */
#define CLI_MAX_FILE 1048576u

/* A small file beneath a folder, whole: 0, or an error (DATSYNC_E_NO_ENTRY; DATSYNC_E_TOO_BIG). Links are not
 * followed. The text is the caller's to free, and NULL after an error. */
int read_whole(const datsync_files *files, const char *path, growing *out);

/* Closes `files`. If they were never opened, `files` must be zeroed. */
void close_files(datsync_files *files);

/* Are these 32 bytes the same? */
int same_key(const uint8_t *a, const uint8_t *b);

/* DIR/NAME, to be freed. NULL: no memory. */
char *join(const char *dir, const char *name);

/* Where a drive's two feeds lie beneath its folder: what stands before the names of their parts. */
typedef struct placing {
    const char *name;
    const char *metadata, *content;
} placing;

/* The layout of what is made here; it lives as long as the program, as all of them. */
const placing *own_layout(void);

/* The layout of the drive in a folder, and its key; NULL: no drive is here. */
const placing *find_layout(const char *dir, uint8_t key[32]);

/* Does the drive that c has opened lay its files out? */
int has_files(const cli *c);

/* The folder that is meant by a link and a folder, to be freed: the drive's own, where Beaker's profile was given.
 * NULL: no memory. */
char *clone_folder(const char *dir, const uint8_t key[32]);

/* For a folder that is no drive. If it is a profile of Beaker's, says how many drives are in it, names one, and
 * returns FAILED. Else DONE. */
int check_beaker(const cli *c, const char *dir);

/* Beaker kept files with large holes in a form of its own where the file system has none: FAILED if they are here. */
int check_indexed(const cli *c, const char *dir, const placing *how);

/* Reports an error of the feed in a folder, and returns FAILED. If the folder holds a drive, points to the commands
 * for drives. */
int fail_feed(const cli *c, const char *dir, int error);

/* The same for a drive. */
int fail_drive(const cli *c, const char *dir, int error);

#endif
