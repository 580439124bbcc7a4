/* What a clone is to hold: the patterns of --select, or a link's path, which the folder keeps.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_SELECTION_H
#define CLI_SELECTION_H

#include "cli.h"

/* One more pattern, which is copied: what is wrong with it, or NULL. */
const char *add_select(cli *c, const char *text);

/* Adds a path. Its characters have no special meaning. */
const char *add_select_path(cli *c, const char *path);

/* Does this pattern name this path, or a folder that it lies in? */
int selects(const char *pattern, const char *path);

/* Is this path what the user asked for? Without a selection, everything is. ctx is the cli. */
int is_selected(void *ctx, const char *path);

/* Reads the selection that the folder keeps, if it does, for commands that only look at it: an exit code. */
int look_at_selection(cli *c, const char *dir);

/* At the start of a download: stores the selection that was given. If none was given, uses the stored one. Returns
 * an exit code. */
int settle_selection(cli *c, const char *dir);

/* Tells an opened drive what of it is meant: version, selection, --force. c must outlive its use. */
void lay_out(cli *c, datsync_drive *drive);

/* `the selection of `, or nothing where the whole version is meant. */
const char *selection_of(const cli *c);

/* The member `selection` of a JSON object, if there is one. */
void json_selection(const cli *c);

#endif
