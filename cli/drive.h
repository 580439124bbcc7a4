/* The commands that make a drive or bring it over the network. Each returns the exit code.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_DRIVE_H
#define CLI_DRIVE_H

#include "cli.h"

/* create: make a drive of a folder, and import its files. */
int run_create(cli *c);

/* share: import, then serve until interrupted. */
int run_share(cli *c);

/* clone: download into a folder. */
int run_clone(cli *c);

/* pull: bring a clone up to date. */
int run_pull(cli *c);

/* sync: the owner imports and serves, a clone downloads and serves. */
int run_sync(cli *c);

#endif
