/* What a run says: JSON and results on standard output, words and the bar on standard error.
 *
 * SPDX-License-Identifier: MIT
 *
 * Whether there is a bar in the terminal's last line, and whether an error was told, is known here alone.
 */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include "cli.h"

/* Milliseconds between two pictures of the bar, and between two plain lines. */
#define CLI_BAR_MS 100u
#define CLI_LINE_MS 10000u

/* One object of --json: its event, then its members, then its end. A name is not escaped. */
void json_begin(const char *event);
void json_string(const char *name, const char *value);
void json_number(const char *name, uint64_t value);
void json_bool(const char *name, int value);
/* An error of the library's: its number and its sentence. */
void json_reason(int error);
void json_end(void);

/* The one line of what went wrong, and the event `error`; returns the exit code. Only the first one of a run is
 * told. */
int fail(const cli *c, int code, const char *format, ...);

/* The same for a file of the user's: what the C library says of it, `number` being its errno or 0. Returns FAILED. */
int fail_file(const cli *c, const char *file, int number);

/* Was one of these told? */
int has_failed(void);

/* One of many that went wrong: a line for it, while the rest goes on. */
void complain(const cli *c, const char *what, const char *why);

/* A line for people: what happened, where. None with --json and --quiet. */
void note(const cli *c, const char *format, ...);

/* What was told already, as hashes: a folder that is watched has the same faults at each look. Zeroed at first. */
typedef struct told {
    uint64_t *slots;
    size_t count, cap;
} told;

/* 1 the first time for this text with this number, else 0. Also 1 where there is no memory. */
int told_first(told *t, const char *text, int64_t number);

/* Frees what it holds; it is as new. */
void told_free(told *t);

/* Rates, over half a second or more, smoothed. */
typedef struct meter {
    uint64_t at, blocks, bytes;
    double block_rate, byte_rate; /* a second */
} meter;

/* Tells the meter the totals so far. `now` is in milliseconds. */
void measure(meter *m, uint64_t now, uint64_t blocks, uint64_t bytes);

/* The columns of the terminal in which a bar can be drawn; 0: none is to be. */
int terminal(const cli *c);

/* A bar for held of total (none if total is 0), and the text, in the terminal's last line. */
void draw_bar(int columns, uint64_t held, uint64_t total, const char *text);

/* Takes the bar away, if one is there: before anything else is written to the terminal. */
void bar_clear(void);

#endif
