/* What the test programs share: how they give up, and where chance comes from.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef DATSYNC_TESTS_BASE_H
#define DATSYNC_TESTS_BASE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void die(const char *why)
{
    fprintf(stderr, "test program: %s\n", why);
    exit(2);
}

static inline void *must(void *p)
{
    if (!p)
        die("out of memory");
    return p;
}

/* datsync_env's resize, with the size before each allocation, so that *live is what is allocated in all. */
static inline void *counted_resize(void *ptr, size_t size, size_t *live)
{
    enum { GUARD = 16 };
    size_t old = 0;
    char *p = ptr ? (char *)ptr - GUARD : NULL;
    if (p)
        memcpy(&old, p, sizeof old);
    *live = *live - old + size;
    if (!size) {
        free(p);
        return NULL;
    }
    p = must(realloc(p, size + GUARD));
    memcpy(p, &size, sizeof size);
    return p + GUARD;
}

/* splitmix64: the only source of chance */
static inline uint64_t chance(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

#endif
