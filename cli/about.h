/* dat.json: what a drive says of itself.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_ABOUT_H
#define CLI_ABOUT_H

#include "cli.h"

enum { ABOUT = 5, ABOUT_URL = 2, ABOUT_MAX = 1024 };

/* The members that are known; ABOUT_URL is the index of `url`. */
extern const char *const about_names[ABOUT];

/* What dat.json says of a drive, by about_names; empty where it says nothing. */
typedef struct about {
    char text[ABOUT][ABOUT_MAX];
} about;

/* Reads the members that are strings, as far as it is JSON; longer ones are cut. */
void scan_about(const char *s, about *out);

/* Makes dat.json of --title and its kin where there is none; key is in digits. An error, or 1 if one was there. */
int write_about(const cli *c, const datsync_files *files, const char *key);

#endif
