/* The command that is a discovery server.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_SERVER_H
#define CLI_SERVER_H

#include "cli.h"

int run_discover(cli *c);

#endif
