/* What a run says: JSON and results on standard output, words and the bar on standard error.
 *
 * SPDX-License-Identifier: MIT
 *
 * It calls text, to have nothing unsafe reach a terminal.
 */
#include "output.h"
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of this run. */
static int said;      /* an error has been told */
static int bar_drawn; /* the last line of standard error is a bar */

/* ---------------------------------------------------------------- JSON -------------------------------------------- */

void json_begin(const char *event)
{
    fputs("{\"event\":", stdout);
    json_escape(put_file, stdout, event);
}

void json_string(const char *name, const char *value)
{
    printf(",\"%s\":", name);
    json_escape(put_file, stdout, value);
}

void json_number(const char *name, uint64_t value)
{
    printf(",\"%s\":%llu", name, (unsigned long long)value);
}

void json_bool(const char *name, int value)
{
    printf(",\"%s\":%s", name, value ? "true" : "false");
}

void json_reason(int error)
{
    printf(",\"code\":%d", error);
    json_string("reason", datsync_strerror(error));
}

void json_end(void)
{
    fputs("}\n", stdout);
    fflush(stdout);
}

/* ---------------------------------------------------------------- words ------------------------------------------- */

void bar_clear(void)
{
    if (bar_drawn) {
        fputs("\r\033[K", stderr);
        bar_drawn = 0;
    }
}

/* datsync: feed clone: */
static void put_name(const cli *c)
{
    fputs("datsync: ", stderr);
    if (c->command != NULL)
        fprintf(stderr, "%s%s: ", c->command->feed ? "feed " : "", c->command->name);
}

int fail(const cli *c, int code, const char *format, ...)
{
    char line[DATSYNC_MAX_PATH + 1024];
    va_list args;

    if (said)
        return code;
    said = 1;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    bar_clear();
    put_name(c);
    put_safe(stderr, line);
    fputc('\n', stderr);
    if (c->json) {
        json_begin("error");
        json_number("code", (uint64_t)code);
        json_string("message", line);
        json_end();
    }
    return code;
}

int fail_file(const cli *c, const char *file, int number)
{
    return fail(c, FAILED, "%s: %s", file, number != 0 ? strerror(number) : "cannot be read");
}

int has_failed(void)
{
    return said;
}

void complain(const cli *c, const char *what, const char *why)
{
    bar_clear();
    put_name(c);
    put_safe(stderr, what);
    fputs(": ", stderr);
    put_safe(stderr, why);
    fputc('\n', stderr);
}

void note(const cli *c, const char *format, ...)
{
    char line[DATSYNC_MAX_PATH + 1024];
    va_list args;

    if (c->quiet || c->json)
        return;
    bar_clear();
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    put_safe(stderr, line);
    fputc('\n', stderr);
}

/* ---------------------------------------------------------------- what was told ----------------------------------- */

static size_t told_slot(const told *t, uint64_t hash)
{
    size_t at = (size_t)hash & (t->cap - 1);

    while (t->slots[at] != 0 && t->slots[at] != hash)
        at = (at + 1) & (t->cap - 1);
    return at;
}

int told_first(told *t, const char *text, int64_t number)
{
    uint64_t hash = hash_of(text, number);

    if (2 * t->count >= t->cap) {
        told grown = {calloc(t->cap > 0 ? 2 * t->cap : 64, sizeof *t->slots), t->count, t->cap > 0 ? 2 * t->cap : 64};
        if (grown.slots == NULL)
            return 1;
        for (size_t i = 0; i < t->cap; i++)
            if (t->slots[i] != 0)
                grown.slots[told_slot(&grown, t->slots[i])] = t->slots[i];
        free(t->slots);
        *t = grown;
    }
    size_t at = told_slot(t, hash);
    int first = t->slots[at] == 0;
    t->slots[at] = hash;
    t->count += (size_t)first;
    return first;
}

void told_free(told *t)
{
    free(t->slots);
    memset(t, 0, sizeof *t);
}

/* ---------------------------------------------------------------- progress ---------------------------------------- */

void measure(meter *m, uint64_t now, uint64_t blocks, uint64_t bytes)
{
    double seconds = (double)(now - m->at) / 1000.0;

    if (seconds < 0.5)
        return;
    double weight = m->byte_rate > 0 ? 0.3 : 1.0;
    m->block_rate += weight * ((double)(blocks - m->blocks) / seconds - m->block_rate);
    m->byte_rate += weight * ((double)(bytes - m->bytes) / seconds - m->byte_rate);
    m->at = now;
    m->blocks = blocks;
    m->bytes = bytes;
}

int terminal(const cli *c)
{
    return c->quiet || c->json ? 0 : datsync_os_terminal();
}

void draw_bar(int columns, uint64_t held, uint64_t total, const char *text)
{
    int room = columns - (int)strlen(text) - 5;

    fputs("\r\033[K", stderr);
    room = room > 40 ? 40 : room;
    if (total > 0 && room >= 8) {
        int filled = (int)((double)held / (double)total * room);
        fputc('[', stderr);
        for (int i = 0; i < room; i++)
            fputc(i < filled ? '=' : i == filled ? '>' : ' ', stderr);
        fputs("] ", stderr);
    }
    fprintf(stderr, "%.*s", columns > 1 ? columns - 1 : 0, text);
    fflush(stderr);
    bar_drawn = 1;
}
