/* What a clone is to hold: the patterns of --select, or a link's path, which the folder keeps.
 *
 * SPDX-License-Identifier: MIT
 *
 * The patterns are in the cli, where the options are. It calls rules to match them, and folder to read the kept ones.
 */
#include "selection.h"
#include "folder.h"
#include "output.h"
#include "rules.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where a folder keeps them, one a line. */
#define SELECTION ".dat/selection"

/* Takes out of a pattern what stays where it is: `./`, empty names, slashes at both ends. What is wrong with it, or
 * NULL. */
static const char *tidy_pattern(char *pattern)
{
    const char *from = pattern;
    char *to = pattern;

    if (*pattern == 0)
        return "an empty pattern";
    while (*from != 0) {
        size_t len = strcspn(from, "/");
        if (len == 2 && memcmp(from, "..", 2) == 0)
            return "a .. in it";
        if (len > 0 && !(len == 1 && *from == '.')) {
            if (to > pattern)
                *to++ = '/';
            memmove(to, from, len);
            to += len;
        }
        from += len;
        from += *from != 0;
    }
    *to = 0;
    return NULL;
}

const char *add_select(cli *c, const char *text)
{
    size_t len = strlen(text);

    if (c->select_count == CLI_MAX_SELECTS)
        return "more patterns than 64";
    if (text[strcspn(text, "\r\n")] != 0)
        return "a line end in it";
    char *pattern = malloc(len + 3);
    if (pattern == NULL)
        return datsync_strerror(DATSYNC_E_NOMEM);
    memcpy(pattern, text, len + 1);
    const char *fault = tidy_pattern(pattern);
    if (fault == NULL && *pattern == 0)
        strcpy(pattern, "**"); /* the folder itself: everything */
    fault = fault != NULL ? fault : glob_fault(pattern);
    if (fault != NULL) {
        free(pattern);
        return fault;
    }
    c->selects[c->select_count++] = pattern;
    return NULL;
}

const char *add_select_path(cli *c, const char *path)
{
    char pattern[2 * DATSYNC_MAX_PATH + 2];
    size_t len = 0;

    for (; *path != 0 && len + 2 < sizeof pattern; path++) {
        int end = *path == '\r' || *path == '\n'; /* which a line can't hold */
        if (strchr("*?[]\\", *path) != NULL)
            pattern[len++] = '\\';
        pattern[len++] = (char)(end ? '?' : *path);
    }
    pattern[len] = 0;
    return add_select(c, pattern);
}

int selects(const char *pattern, const char *path)
{
    char part[DATSYNC_MAX_PATH + 1];

    path += *path == '/';
    size_t len = strlen(path);
    if (len >= sizeof part)
        return 0;
    for (size_t at = 1; at <= len; at++) {
        if (path[at] != '/' && path[at] != 0)
            continue;
        memcpy(part, path, at);
        part[at] = 0;
        if (match_path(pattern, part))
            return 1;
    }
    return 0;
}

int is_selected(void *ctx, const char *path)
{
    const cli *c = ctx;

    for (size_t i = 0; i < c->select_count; i++)
        if (selects(c->selects[i], path))
            return 1;
    return c->select_count == 0;
}

/* One line of the kept selection: what is wrong with it, or NULL. */
static const char *read_selected(cli *c, char *line, size_t len)
{
    if (memchr(line, 0, len) != NULL)
        return "a NUL byte";
    line[len] = 0;
    if (len > 0 && line[len - 1] == '\r')
        line[--len] = 0;
    for (const unsigned char *at = (const unsigned char *)line; *at != 0; at += utf8_length(at))
        if (utf8_length(at) == 0)
            return "no UTF-8";
    return add_select(c, line);
}

/* The selection that the folder keeps, if it does: an exit code. */
static int read_selection(cli *c, const char *dir, const datsync_files *files)
{
    growing text;
    const char *fault = NULL;
    size_t line = 0;

    int error = read_whole(files, SELECTION, &text);
    if (error == DATSYNC_E_NO_ENTRY || error == DATSYNC_E_NOT_FOLDER)
        return DONE;
    if (error < 0)
        return fail(c, FAILED, "%s/" SELECTION ": %s", dir, datsync_strerror(error));
    for (size_t at = 0; at < text.len && fault == NULL;) {
        char *end = memchr(text.text + at, '\n', text.len - at);
        size_t len = end != NULL ? (size_t)(end - text.text) - at : text.len - at;
        line++;
        fault = read_selected(c, text.text + at, len);
        at += len + 1;
    }
    fault = line == 0 ? "no pattern in it" : fault;
    free(text.text);
    return fault == NULL ? DONE
                         : fail(c, FAILED, "%s/" SELECTION ", line %llu: %s (--select or --all replaces it)", dir,
                                (unsigned long long)line, fault);
}

int look_at_selection(cli *c, const char *dir)
{
    datsync_files files;

    memset(&files, 0, sizeof files);
    if (datsync_os_files(&files, dir, DATSYNC_READ_ONLY) < 0)
        return DONE; /* opening the drive tells it */
    int code = read_selection(c, dir, &files);
    close_files(&files);
    return code;
}

/* Aside, then renamed: there is a whole one at any moment. */
static int write_selection(const cli *c, const datsync_files *files)
{
    growing text = {0};
    intptr_t file;

    for (size_t i = 0; i < c->select_count; i++) {
        put_buffer(&text, c->selects[i], strlen(c->selects[i]));
        put_buffer(&text, "\n", 1);
    }
    int error = text.failed ? DATSYNC_E_NOMEM : files->mkdir(files->ctx, ".dat"); /* which other layouts have not */
    error = error == 0 ? files->open_file(files->ctx, SELECTION ".new", 1, &file) : error;
    if (error == 0) {
        error = files->truncate(files->ctx, file, 0);
        error = error == 0 ? files->write(files->ctx, file, 0, text.text, text.len) : error;
        files->close_file(files->ctx, file);
    }
    free(text.text);
    error = error == 0 ? files->rename(files->ctx, SELECTION ".new", SELECTION) : error;
    return error == 0 ? files->sync(files->ctx) : error;
}

static int drop_selection(const datsync_files *files)
{
    int error = files->unlink(files->ctx, SELECTION);

    return error == DATSYNC_E_NO_ENTRY ? 0 : error == 0 ? files->sync(files->ctx) : error;
}

int settle_selection(cli *c, const char *dir)
{
    datsync_files files;

    memset(&files, 0, sizeof files);
    int code = DONE, error = datsync_os_files(&files, dir, 0);
    if (error == 0 && c->all)
        error = drop_selection(&files);
    else if (error == 0 && c->select_count > 0)
        error = write_selection(c, &files);
    else if (error == 0)
        code = read_selection(c, dir, &files);
    close_files(&files);
    return error < 0 ? fail(c, FAILED, "%s/" SELECTION ": %s", dir, datsync_strerror(error)) : code;
}

void lay_out(cli *c, datsync_drive *drive)
{
    datsync_layout layout;

    memset(&layout, 0, sizeof layout);
    layout.ctx = c;
    layout.version = c->checkout;
    layout.force = c->force;
    layout.select = c->select_count > 0 ? is_selected : NULL;
    datsync_drive_layout(drive, &layout);
}

const char *selection_of(const cli *c)
{
    return c->select_count > 0 ? "the selection of " : "";
}

void json_selection(const cli *c)
{
    if (c->select_count == 0)
        return;
    fputs(",\"selection\":[", stdout);
    for (size_t i = 0; i < c->select_count; i++) {
        fputs(i > 0 ? "," : "", stdout);
        json_escape(put_file, stdout, c->selects[i]);
    }
    putchar(']');
}
