/* The command that tells what a drive is and holds.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_STATUS_H
#define CLI_STATUS_H

#include "cli.h"

/* status: returns the exit code. */
int run_status(cli *c);

#endif
