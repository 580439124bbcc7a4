/* dat.json: what a drive says of itself.
 *
 * SPDX-License-Identifier: MIT
 *
 * A file of strangers': what is no JSON ends the reading, and whatever came before counts. It calls text.
 */
#include "about.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const about_names[ABOUT] = {"title", "description", "url", "author", "license"};

static const char *json_space(const char *s)
{
    return s + strspn(s, " \t\r\n");
}

static uint32_t json_hex(const char *s)
{
    char digits[5] = {0};

    if (strspn(s, "0123456789abcdefABCDEF") < 4)
        return 0xfffd;
    memcpy(digits, s, 4);
    return (uint32_t)strtoul(digits, NULL, 16);
}

/* What follows a backslash at *s, which is moved over it. */
static uint32_t json_escaped(const char **s)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *found = **s != 0 ? strchr(from, **s) : NULL;
    uint32_t ch = (unsigned char)**s;

    if (ch != 'u') {
        *s += **s != 0;
        return found != NULL ? (uint32_t)to[found - from] : ch;
    }
    ch = json_hex(*s + 1);
    *s += 1 + (strspn(*s + 1, "0123456789abcdefABCDEF") >= 4 ? 4 : 0);
    if (ch >= 0xd800 && ch < 0xdc00 && (*s)[0] == '\\' && (*s)[1] == 'u') {
        uint32_t low = json_hex(*s + 2);
        if (low >= 0xdc00 && low < 0xe000) {
            *s += 6;
            return 0x10000 + ((ch - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    return ch == 0 || (ch >= 0xd800 && ch < 0xe000) ? 0xfffd : ch;
}

/* The string whose quote s stands at, cut to cap: the place behind it, NULL if it does not end. */
static const char *json_read(const char *s, char *out, size_t cap)
{
    size_t len = 0;
    char piece[4];

    for (s++; *s != '"';) {
        size_t count = 1;
        if (*s == 0)
            return NULL;
        if (*s != '\\') {
            piece[0] = *s++;
        } else {
            s++;
            count = put_utf8(piece, json_escaped(&s));
        }
        if (len + count < cap) {
            memcpy(out + len, piece, count);
            len += count;
        }
    }
    out[len] = 0;
    return s + 1;
}

/* Over any value: NULL if it does not end. */
static const char *json_skip(const char *s)
{
    char none[1];
    size_t depth = 0;

    for (;;) {
        s = json_space(s);
        if (*s == 0 || (depth == 0 && (*s == ',' || *s == '}')))
            return *s == 0 ? NULL : s;
        if (*s == '"') {
            s = json_read(s, none, sizeof none);
            if (s == NULL)
                return NULL;
            continue;
        }
        depth += *s == '{' || *s == '[';
        depth -= (*s == '}' || *s == ']') && depth > 0;
        s++;
    }
}

void scan_about(const char *s, about *out)
{
    char name[64];

    memset(out, 0, sizeof *out);
    s = json_space(s);
    for (char before = '{'; *s == before; before = ',') {
        s = json_space(s + 1);
        s = *s == '"' ? json_read(s, name, sizeof name) : NULL;
        s = s != NULL ? json_space(s) : NULL;
        if (s == NULL || *s != ':')
            return;
        s = json_space(s + 1);
        for (int i = 0; i < ABOUT && *s == '"'; i++)
            if (strcmp(name, about_names[i]) == 0)
                json_read(s, out->text[i], ABOUT_MAX);
        s = json_skip(s);
        if (s == NULL)
            return;
    }
}

int write_about(const cli *c, const datsync_files *files, const char *key)
{
    const char *values[ABOUT] = {c->title, c->description, "", c->author, c->license};
    datsync_file_info info;
    growing text = {0};
    char url[80];
    intptr_t file;

    int error = files->stat(files->ctx, "dat.json", &info);
    if (error != DATSYNC_E_NO_ENTRY)
        return error < 0 ? error : 1;
    snprintf(url, sizeof url, "dat://%s/", key);
    values[ABOUT_URL] = url;
    for (int i = 0, count = 0; i < ABOUT; i++) {
        if (values[i] != NULL) {
            put_buffer(&text, count++ == 0 ? "{\n  " : ",\n  ", 4);
            json_escape(put_buffer, &text, about_names[i]);
            put_buffer(&text, ": ", 2);
            json_escape(put_buffer, &text, values[i]);
        }
    }
    put_buffer(&text, "\n}\n", 3);
    error = text.failed ? DATSYNC_E_NOMEM : files->open_file(files->ctx, "dat.json", 1, &file);
    if (error == 0) {
        error = files->write(files->ctx, file, 0, text.text, text.len);
        files->close_file(files->ctx, file);
    }
    free(text.text);
    return error == 0 ? files->sync(files->ctx) : error;
}
