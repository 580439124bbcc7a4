/* The command that tells what stands between this machine and its peers.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_DOCTOR_H
#define CLI_DOCTOR_H

#include "cli.h"

int run_doctor(cli *c);

#endif
