/* Text: UTF-8, what may be shown to people, keys and sizes in words, bytes that grow.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_TEXT_H
#define CLI_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The length of the UTF-8 sequence at s, 0 if it is none. */
size_t utf8_length(const unsigned char *s);

/* The code point at *s, which is moved behind it; a byte that is no UTF-8 stands for itself, beyond all code points. */
uint32_t next_char(const char **s);

/* The UTF-8 of a code point, without a NUL; returns its length. */
size_t put_utf8(char out[4], uint32_t ch);

/* Writes text that may be anybody's; unsafe bytes as \xNN. */
void put_safe(FILE *out, const char *text);

/* Where text goes: `to` is what this one takes, a FILE or a growing. */
typedef void put_fn(void *to, const char *text, size_t len);

/* To a FILE. */
void put_file(void *to, const char *text, size_t len);

/* Bytes that grow, with a NUL behind them. `text` is the owner's to free; NULL while nothing was put there. */
typedef struct growing {
    char *text;
    size_t len, cap;
    int failed; /* there was no memory: something is missing */
} growing;

/* To a growing. */
void put_buffer(void *to, const char *text, size_t len);

/* A JSON string, with its quotes. */
void json_escape(put_fn *put, void *to, const char *text);

/* A hash of both (FNV-1a); never 0. */
uint64_t hash_of(const char *text, int64_t number);

/* A key's 64 digits, with a NUL. */
void hex(char out[65], const uint8_t key[32]);

/* `12.3 MB`; returns out. */
const char *amount(char out[32], double bytes);

/* `1:02:03` or `2:03`; returns out. */
const char *duration(char out[32], double seconds);

/* `0.25 s` or `2:03`; returns out. */
const char *elapsed(char out[32], double seconds);

#endif
