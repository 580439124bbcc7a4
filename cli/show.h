/* The commands that show what is in a drive. Each returns the exit code.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_SHOW_H
#define CLI_SHOW_H

#include "cli.h"

/* log: every change, the oldest first. */
int run_log(cli *c);

/* ls and cat, of a folder or a link. */
int show_path(cli *c);

#endif
