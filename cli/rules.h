/* Patterns of paths, and .datignore, which is made of them.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_RULES_H
#define CLI_RULES_H

#include "datsync.h"

/* Does the pattern p fit the whole path s, without a slash before it? `**` stands for any number of folders, at the
 * end for all that is beneath. */
int match_path(const char *p, const char *s);

/* What is wrong with a pattern, or NULL. */
const char *glob_fault(const char *p);

/* What a folder leaves out. Zeroed at first; `with_hidden` is the caller's to set, after each ignoring_free. */
typedef struct ignoring {
    char *text; /* the file, cut into patterns */
    struct rule *rules;
    size_t count;
    int with_hidden; /* names that begin with a dot are taken in */
} ignoring;

/* Reads the folder's .datignore, which need not be there: 0, or an error. `bad` is called for each line that is no
 * pattern. */
int read_ignore(ignoring *ig, const datsync_files *files, void (*bad)(void *ctx, size_t line, const char *why),
                void *ctx);

/* Is this path left out, or any folder above it? */
int is_ignored(const ignoring *ig, const char *path, int is_folder);

/* Frees what it holds; it is as new. */
void ignoring_free(ignoring *ig);

#endif
