/* Text: UTF-8, what may be shown to people, keys and sizes in words, bytes that grow.
 *
 * SPDX-License-Identifier: MIT
 *
 * It calls the C library alone, and knows nothing of a run.
 */
#include "text.h"

#include <stdlib.h>
#include <string.h>

size_t utf8_length(const unsigned char *s)
{
    size_t len = 0;

    if (s[0] < 0x80)
        return 1;
    else if (s[0] >= 0xc2 && s[0] < 0xe0)
        len = 2;
    else if (s[0] >= 0xe0 && s[0] < 0xf0)
        len = 3;
    else if (s[0] >= 0xf0 && s[0] < 0xf5)
        len = 4;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return len;
}

uint32_t next_char(const char **s)
{
    const unsigned char *at = (const unsigned char *)*s;
    size_t len = utf8_length(at);
    uint32_t ch = at[0];

    if (len == 0) {
        *s += 1;
        return 0x110000u + ch;
    }
    if (len > 1) {
        ch &= 0x7fu >> len;
        for (size_t i = 1; i < len; i++)
            ch = ch << 6 | (at[i] & 0x3fu);
    }
    *s += len;
    return ch;
}

size_t put_utf8(char out[4], uint32_t ch)
{
    static const unsigned char first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t len = ch < 0x80 ? 1 : ch < 0x800 ? 2 : ch < 0x10000 ? 3 : 4;

    for (size_t i = len; i-- > 1;) {
        out[i] = (char)(0x80 | (ch & 0x3f));
        ch >>= 6;
    }
    out[0] = (char)(len == 1 ? ch : first[len] | ch);
    return len;
}

/* What no terminal should get from strangers: controls, what turns the writing around, what is no UTF-8. */
static int is_unsafe(uint32_t ch)
{
    return ch < 0x20 || (ch >= 0x7f && ch < 0xa0) || ch == 0x200e || ch == 0x200f || (ch >= 0x2028 && ch <= 0x202e) ||
           (ch >= 0x2066 && ch <= 0x2069) || ch >= 0x110000u;
}

void put_safe(FILE *out, const char *text)
{
    while (*text != 0) {
        const char *from = text;
        uint32_t ch = next_char(&text);
        if (!is_unsafe(ch)) {
            fwrite(from, 1, (size_t)(text - from), out);
            continue;
        }
        while (from < text)
            fprintf(out, "\\x%02x", (unsigned char)*from++);
    }
}

void put_file(void *to, const char *text, size_t len)
{
    fwrite(text, 1, len, to);
}

void put_buffer(void *to, const char *text, size_t len)
{
    growing *b = to;

    if (b->len + len + 1 > b->cap) {
        size_t cap = 2 * (b->len + len) + 256;
        char *grown = realloc(b->text, cap);
        if (grown == NULL) {
            b->failed = 1;
            return;
        }
        b->text = grown;
        b->cap = cap;
    }
    memcpy(b->text + b->len, text, len);
    b->len += len;
    b->text[b->len] = 0;
}

void json_escape(put_fn *put, void *to, const char *text)
{
    char escape[16];

    put(to, "\"", 1);
    while (*text != 0) {
        const char *from = text;
        uint32_t ch = next_char(&text);
        if (ch == '"' || ch == '\\') {
            snprintf(escape, sizeof escape, "\\%c", (int)ch);
        } else if (is_unsafe(ch)) {
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(ch >= 0x110000u ? 0xfffdu : ch));
        } else {
            put(to, from, (size_t)(text - from));
            continue;
        }
        put(to, escape, strlen(escape));
    }
    put(to, "\"", 1);
}

uint64_t hash_of(const char *text, int64_t number)
{
    uint64_t hash = 14695981039346656037u ^ (uint64_t)number;

    for (; *text != 0; text++)
        hash = (hash ^ (unsigned char)*text) * 1099511628211u;
    return hash | (hash == 0);
}

void hex(char out[65], const uint8_t key[32])
{
    for (int i = 0; i < 32; i++)
        snprintf(out + 2 * i, 3, "%02x", key[i]);
}

const char *amount(char out[32], double bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;

    while (bytes >= 999.5 && unit + 1 < sizeof units / sizeof units[0]) {
        bytes /= 1000.0;
        unit++;
    }
    snprintf(out, 32, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return out;
}

const char *duration(char out[32], double seconds)
{
    uint64_t s = seconds < 0 || seconds > 1e9 ? 999999999u : (uint64_t)(seconds + 0.5);

    if (s >= 3600) {
        snprintf(out, 32, "%llu:%02u:%02u", (unsigned long long)(s / 3600), (unsigned)(s / 60 % 60),
                 (unsigned)(s % 60));
    } else {
        snprintf(out, 32, "%u:%02u", (unsigned)(s / 60), (unsigned)(s % 60));
    }
    return out;
}

const char *elapsed(char out[32], double seconds)
{
    if (seconds >= 60)
        return duration(out, seconds);
    snprintf(out, 32, "%.2f s", seconds);
    return out;
}
