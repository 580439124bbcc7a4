/* Patterns of paths, and .datignore, which is made of them.
 *
 * SPDX-License-Identifier: MIT
 *
 * It calls text for the characters of names, and folder to read the file.
 */
#include "rules.h"
#include "folder.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- globs ------------------------------------------- */

/* [a-z], [!a]: p is behind the bracket. Returns the place behind the closing one, NULL if there is none. */
static const char *match_set(const char *p, uint32_t ch, int *hit)
{
    int negate = *p == '!' || *p == '^', found = 0;

    p += negate;
    for (int first = 1; first || *p != ']'; first = 0) {
        if (*p == 0 || *p == '/' || (*p == '\\' && (p[1] == 0 || p[1] == '/')))
            return NULL;
        p += *p == '\\';
        uint32_t low = next_char(&p), high = low;
        if (*p == '-' && p[1] != ']' && p[1] != 0 && p[1] != '/') {
            p++;
            p += *p == '\\' && p[1] != 0 && p[1] != '/';
            high = next_char(&p);
        }
        found |= ch >= low && ch <= high;
    }
    *hit = found != negate;
    return p + 1;
}

/* One character of a name against what stands at *p, which is moved over it if they match. */
static int match_one(const char **p, const char *p_end, const char **s)
{
    const char *at = *p, *name = *s;
    int hit = 0;

    if (at >= p_end)
        return 0;
    uint32_t ch = next_char(&name);
    if (*at == '?') {
        hit = 1;
        at++;
    } else if (*at == '[') {
        at = match_set(at + 1, ch, &hit);
    } else {
        at += *at == '\\';
        hit = next_char(&at) == ch;
    }
    if (hit) {
        *p = at;
        *s = name;
    }
    return hit;
}

/* One name against one segment of a pattern. Only the last star need ever be tried again. */
static int match_name(const char *p, const char *p_end, const char *s, const char *s_end)
{
    const char *star = NULL, *mark = NULL;

    while (s < s_end) {
        if (p < p_end && *p == '*') {
            star = ++p;
            mark = s;
        } else if (!match_one(&p, p_end, &s)) {
            if (star == NULL)
                return 0;
            next_char(&mark);
            s = mark;
            p = star;
        }
    }
    while (p < p_end && *p == '*')
        p++;
    return p == p_end;
}

int match_path(const char *p, const char *s)
{
    const char *star = NULL, *mark = NULL;

    while (*s != 0) {
        const char *p_end = p + strcspn(p, "/"), *s_end = s + strcspn(s, "/");
        if (p_end - p == 2 && p[0] == '*' && p[1] == '*') {
            if (*p_end == 0)
                return 1;
            star = p = p_end + 1;
            mark = s;
        } else if (*p != 0 && match_name(p, p_end, s, s_end)) {
            p = p_end + (*p_end != 0);
            s = s_end + (*s_end != 0);
        } else if (star != NULL) {
            mark += strcspn(mark, "/");
            mark += *mark != 0;
            s = mark;
            p = star;
        } else {
            return 0;
        }
    }
    return *p == 0;
}

const char *glob_fault(const char *p)
{
    int hit;

    if (*p == 0)
        return "an empty pattern";
    while (*p != 0) {
        if (*p == '\\' && (p[1] == 0 || p[1] == '/'))
            return "a backslash with nothing behind it";
        if (*p == '[') {
            p = match_set(p + 1, 0, &hit);
            if (p == NULL)
                return "a [ without its ]";
        } else {
            p += 1 + (*p == '\\');
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- .datignore -------------------------------------- */

typedef struct rule {
    const char *pattern;
    int negate, folder, anchored;
} rule;

void ignoring_free(ignoring *ig)
{
    free(ig->text);
    free(ig->rules);
    memset(ig, 0, sizeof *ig);
}

/* One line, which is cut as needed: NULL if it is a rule or nothing, else what is wrong with it. */
static const char *read_rule(char *line, size_t len, rule *out)
{
    memset(out, 0, sizeof *out);
    if (memchr(line, 0, len) != NULL)
        return "a NUL byte";
    line[len] = 0;
    while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == ' ') && !(len > 1 && line[len - 2] == '\\'))
        line[--len] = 0;
    if (len == 0 || line[0] == '#')
        return NULL;
    out->negate = line[0] == '!';
    line += out->negate;
    len -= (size_t)out->negate;
    if (len > 1 && line[len - 1] == '/') {
        out->folder = 1;
        line[--len] = 0;
    }
    out->anchored = strchr(line, '/') != NULL;
    out->pattern = line + (line[0] == '/');
    return glob_fault(out->pattern);
}

int read_ignore(ignoring *ig, const datsync_files *files, void (*bad)(void *ctx, size_t line, const char *why),
                void *ctx)
{
    growing text;
    size_t lines = 1;

    int error = read_whole(files, ".datignore", &text);
    if (error < 0)
        return error == DATSYNC_E_NO_ENTRY ? 0 : error;
    for (size_t i = 0; i < text.len; i++)
        lines += text.text[i] == '\n';
    ig->text = text.text;
    ig->rules = calloc(lines, sizeof *ig->rules);
    if (ig->rules == NULL)
        return DATSYNC_E_NOMEM;
    size_t at = text.len >= 3 && memcmp(text.text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    for (size_t line = 1; line <= lines; line++) {
        char *end = memchr(text.text + at, '\n', text.len - at);
        size_t len = end != NULL ? (size_t)(end - text.text) - at : text.len - at;
        const char *why = read_rule(text.text + at, len, &ig->rules[ig->count]);
        if (why != NULL)
            bad(ctx, line, why);
        else if (ig->rules[ig->count].pattern != NULL)
            ig->count++;
        at += len + 1;
    }
    return 0;
}

/* What is left out without being asked: hidden files but .well-known/dat, and what the Finder leaves everywhere. */
static int is_hidden(const ignoring *ig, const char *path, const char *name, int is_folder)
{
    static const char known[] = ".well-known";
    size_t len = sizeof known - 1;

    if (strcmp(name, ".DS_Store") == 0)
        return 1;
    if (ig->with_hidden)
        return 0;
    if (strncmp(path, known, len) == 0 && path[len] == '/' && name == path + len + 1)
        return strcmp(name, "dat") != 0;
    return name[0] == '.' && !(is_folder && strcmp(path, known) == 0);
}

/* One path by itself: the last rule that fits decides. */
static int is_ruled_out(const ignoring *ig, const char *path, int is_folder)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    int out = is_hidden(ig, path, name, is_folder);

    for (size_t i = 0; i < ig->count; i++) {
        const rule *r = &ig->rules[i];
        if (r->negate == out && (is_folder || !r->folder) && match_path(r->pattern, r->anchored ? path : name))
            out = !r->negate;
    }
    return out;
}

int is_ignored(const ignoring *ig, const char *path, int is_folder)
{
    char part[DATSYNC_MAX_PATH + 1];

    path += *path == '/';
    size_t len = strlen(path);
    if (len >= sizeof part)
        return 0; /* the drive refuses it */
    for (size_t at = 1; at < len; at++) {
        if (path[at] == '/') {
            memcpy(part, path, at);
            part[at] = 0;
            if (is_ruled_out(ig, part, 1))
                return 1;
        }
    }
    return is_ruled_out(ig, path, is_folder);
}
