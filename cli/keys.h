/* The command for a drive's keys.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_KEYS_H
#define CLI_KEYS_H

#include "cli.h"

/* keys: print the link, print the secret key, or take it in. Returns the exit code. */
int run_keys(cli *c);

#endif
