/* Checkup: what the network at hand lets through, of all that finding peers needs.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_CHECKUP_H
#define CLI_CHECKUP_H

#include "cli.h"
#include "output.h"

/* A result for people: a line, and beneath it what to do, unless that was told before. `advice` may be NULL. */
void tell_result(told *advised, const char *advice, const char *format, ...);

/* The end of an event of --json: its `advice`, if there is one. */
void json_end_advised(const char *advice);

/* Tries all that the options leave, and tells what works and what to do, in 10 s at most. DONE if peers can be met in
 * at least one way, else FAILED; or INTERRUPTED. */
int check_network(const cli *c);

#endif
