/* The commands of bare feeds, but for `feed verify`. Each returns the exit code.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_FEED_H
#define CLI_FEED_H

#include "cli.h"

/* feed create: make a feed, and print its link. */
int feed_create(cli *c);

/* feed append: append files or standard input, and print the new length. */
int feed_append(cli *c);

/* feed cat: write blocks to standard output. */
int feed_cat(cli *c);

/* feed info: tell what the folder holds. */
int feed_info(cli *c);

/* feed share: serve until interrupted. */
int feed_share(cli *c);

/* feed clone: download. */
int feed_clone(cli *c);

#endif
