/* The words beside the options: links and folders.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_WORDS_H
#define CLI_WORDS_H

#include "cli.h"

/* The word at `first`, as a folder. If it is missing, the current folder. */
const char *folder_word(const cli *c, int first);

/* Is this word meant for a link, though it may be a bad one? */
int is_link(const char *word);

/* The key of a drive's link: an exit code. Its version counts as --checkout, its path is left in c. */
int read_link(cli *c, const char *link, uint8_t key[32]);

#endif
