/* The commands that read everything and check it. Each returns the exit code.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_VERIFY_H
#define CLI_VERIFY_H

#include "cli.h"

/* feed verify: each block of a feed. */
int feed_verify(cli *c);

/* verify: the metadata of a drive, and each file. */
int run_verify(cli *c);

#endif
