/* What lies in a folder of the user's: small files, the key of a feed, the layout of a drive.
 *
 * SPDX-License-Identifier: MIT
 *
 * It reads and never writes. It calls the system's folder of files, text and output.
 */
#include "folder.h"
#include "output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- small files ------------------------------------- */

int read_whole(const datsync_files *files, const char *path, growing *out)
{
    char piece[16384];
    intptr_t file;
    int64_t got = 1;

    memset(out, 0, sizeof *out);
    int error = files->open_file(files->ctx, path, 0, &file);
    if (error < 0)
        return error;
    while (got > 0 && out->len <= CLI_MAX_FILE && !out->failed) {
        got = files->read(files->ctx, file, out->len, piece, sizeof piece);
        put_buffer(out, piece, got > 0 ? (size_t)got : 0);
    }
    files->close_file(files->ctx, file);
    error = got < 0 ? (int)got : out->failed ? DATSYNC_E_NOMEM : out->len > CLI_MAX_FILE ? DATSYNC_E_TOO_BIG : 0;
    if (error < 0) {
        free(out->text);
        memset(out, 0, sizeof *out);
    }
    return error;
}

void close_files(datsync_files *files)
{
    if (files->close != NULL)
        files->close(files->ctx);
    memset(files, 0, sizeof *files);
}

/* The key that a folder keeps in the file of this name: 1 if there is one. */
static int folder_key(const char *dir, const char *name, uint8_t key[32])
{
    datsync_files files;
    growing text;
    int there = 0;

    memset(&files, 0, sizeof files);
    if (datsync_os_files(&files, dir, DATSYNC_READ_ONLY) < 0)
        return 0;
    if (read_whole(&files, name, &text) == 0) {
        there = text.len == 32;
        memcpy(key, text.text, there ? 32 : 0);
        free(text.text);
    }
    close_files(&files);
    return there;
}

int same_key(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, 32) == 0;
}

char *join(const char *dir, const char *name)
{
    size_t size = strlen(dir) + strlen(name) + 2;
    char *path = malloc(size);

    if (path != NULL)
        snprintf(path, size, "%s/%s", dir, name);
    return path;
}

/* ---------------------------------------------------------------- layouts ----------------------------------------- */

/* Of Beaker's drives in one folder, so many are named. */
#define CLI_MAX_NAMED 100u

/* The first is what is made here, and has the content in the files themselves. In the others it is in content's data
 * part, nothing is laid out, and an owner's secret key is a part of the metadata. Beaker's is told from hyperdrive's
 * by where the folder lies. */
static const placing layouts[] = {
    {"dat", ".dat/metadata.", ".dat/content."}, {"dat-node 3.0", ".dat/metadata/", ".dat/content/"},
    {"hyperdrive", "metadata/", "content/"},    {"flat", "metadata.", "content."},
    {"beaker", "metadata/", "content/"},
};

#define HYPERDRIVE (&layouts[2])
#define BEAKER (&layouts[4])

/* Beaker's folder of a drive, beneath its profile, where an old version keeps it: of the key's digits. */
#define BEAKER_PLACE "Archives/Meta"

const placing *own_layout(void)
{
    return &layouts[0];
}

int has_files(const cli *c)
{
    return c->layout == &layouts[0];
}

/* The folder above/xx/yy..., xx and yy... being the key's digits, has this key. */
static int is_beakers(const char *dir, const char *above, const uint8_t key[32])
{
    char digits[65], inner[128];
    uint8_t there[32];

    hex(digits, key);
    snprintf(inner, sizeof inner, "%s%.2s/%s", above, digits, digits + 2);
    char *place = join(dir, inner);
    int same = place != NULL && folder_key(place, "metadata/key", there) && memcmp(there, key, 32) == 0;
    free(place);
    return same;
}

const placing *find_layout(const char *dir, uint8_t key[32])
{
    char name[64];
    const placing *found = NULL;

    for (size_t i = 0; i < COUNT(layouts) && found == NULL; i++) {
        snprintf(name, sizeof name, "%skey", layouts[i].metadata);
        found = folder_key(dir, name, key) ? &layouts[i] : NULL;
    }
    return found == HYPERDRIVE && is_beakers(dir, "../../../../" BEAKER_PLACE "/", key) ? BEAKER : found;
}

/* ---------------------------------------------------------------- Beaker's folders -------------------------------- */

/* Where Beaker's drives may lie beneath a folder: it is the profile, or what is in it. */
static const char *const beaker_roots[] = {BEAKER_PLACE "/", "Meta/", ""};

char *clone_folder(const char *dir, const uint8_t key[32])
{
    char digits[65], inner[128];
    uint8_t there[32];

    hex(digits, key);
    for (size_t i = 0; i < COUNT(beaker_roots) && find_layout(dir, there) == NULL; i++) {
        if (is_beakers(dir, beaker_roots[i], key)) {
            snprintf(inner, sizeof inner, "%s%.2s/%s", beaker_roots[i], digits, digits + 2);
            return join(dir, inner);
        }
    }
    char *same = malloc(strlen(dir) + 1);
    return same != NULL ? strcpy(same, dir) : NULL;
}

/* Beaker's drives beneath a folder. */
typedef struct shelf {
    const cli *c;
    const char *dir;
    const datsync_files *files;
    char inner[128], first[128]; /* the path that is looked at; the first drive's */
    uint64_t count;
} shelf;

static int is_digits(const char *name, size_t len)
{
    return strlen(name) == len && strspn(name, "0123456789abcdef") == len;
}

static int on_beaker_drive(void *arg, const char *name)
{
    shelf *s = arg;
    size_t len = strlen(s->inner);
    datsync_file_info info;

    if (!is_digits(name, 62))
        return 0;
    snprintf(s->inner + len, sizeof s->inner - len, "/%s/metadata/key", name);
    int there = s->files->stat(s->files->ctx, s->inner, &info) == 0 && info.size == 32;
    s->inner[len + 63] = 0;
    if (there && s->count++ < CLI_MAX_NAMED) {
        char *place = join(s->dir, s->inner);
        char link[80];
        snprintf(link, sizeof link, "dat://%.2s%s", s->inner + len - 2, name);
        complain(s->c, place != NULL ? place : s->inner, link);
        if (s->count == 1)
            strcpy(s->first, s->inner);
        free(place);
    }
    s->inner[len] = 0;
    return 0;
}

static int on_beaker_folder(void *arg, const char *name)
{
    shelf *s = arg;
    size_t len = strlen(s->inner);

    if (is_digits(name, 2)) {
        snprintf(s->inner + len, sizeof s->inner - len, "%s", name);
        (void)s->files->list(s->files->ctx, s->inner, on_beaker_drive, s);
        s->inner[len] = 0;
    }
    return 0;
}

int check_beaker(const cli *c, const char *dir)
{
    datsync_files files;
    char root[32];
    shelf s;

    memset(&s, 0, sizeof s);
    memset(&files, 0, sizeof files);
    if (datsync_os_files(&files, dir, DATSYNC_READ_ONLY) < 0)
        return DONE;
    s.c = c;
    s.dir = dir;
    s.files = &files;
    for (size_t i = 0; i < COUNT(beaker_roots) && s.count == 0; i++) {
        strcpy(s.inner, beaker_roots[i]);
        strcpy(root, beaker_roots[i]);
        root[strlen(root) > 0 ? strlen(root) - 1 : 0] = 0; /* without its slash */
        (void)files.list(files.ctx, root, on_beaker_folder, &s);
    }
    close_files(&files);
    return s.count == 0
               ? DONE
               : fail(c, FAILED,
                      "%s: is Beaker's, and holds %llu %s, each with a folder of its own: name that, as in %s/%s", dir,
                      (unsigned long long)s.count, s.count == 1 ? "drive" : "drives", dir, s.first);
}

int check_indexed(const cli *c, const char *dir, const placing *how)
{
    static const char *const parts[] = {"data", "signatures", "tree", "bitfield"};
    datsync_files files;
    datsync_file_info info;
    char name[64];
    int found = 0;

    memset(&files, 0, sizeof files);
    if (datsync_os_files(&files, dir, DATSYNC_READ_ONLY) < 0)
        return DONE; /* opening the drive tells it */
    for (size_t i = 0; i < 2 * COUNT(parts) && !found; i++) {
        snprintf(name, sizeof name, "%s%s.index", i % 2 ? how->metadata : how->content, parts[i / 2]);
        found = files.stat(files.ctx, name, &info) == 0;
    }
    close_files(&files);
    name[strlen(name) - sizeof ".index" + 1] = 0;
    return found ? fail(c, FAILED,
                        "%s/%s: is an indexed file (a .index lies beside it), as Beaker kept them on file systems "
                        "without holes: datsync can't read those, clone the drive anew",
                        dir, name)
                 : DONE;
}

/* ---------------------------------------------------------------- nothing is here --------------------------------- */

int fail_feed(const cli *c, const char *dir, int error)
{
    uint8_t key[32];

    if (error == DATSYNC_E_NOT_FOUND && find_layout(dir, key) != NULL) {
        return fail(c, FAILED, "%s: no feed is here, but a drive: use datsync without `feed`, as in datsync clone",
                    dir);
    }
    if (error == DATSYNC_E_NOT_FOUND)
        return fail(c, FAILED, "%s: no feed is here", dir);
    return fail(c, FAILED, "%s: %s", dir, datsync_strerror(error));
}

int fail_drive(const cli *c, const char *dir, int error)
{
    uint8_t key[32];

    if (error == DATSYNC_E_NOT_FOUND && folder_key(dir, "key", key))
        return fail(c, FAILED, "%s: no drive is here, but a feed: use datsync feed, as in datsync feed clone", dir);
    if (error == DATSYNC_E_NOT_FOUND)
        return fail(c, FAILED, "%s: no drive is here", dir);
    if (error == DATSYNC_E_HEADER)
        return fail(c, FAILED, "%s: this is no drive; a bare feed is fetched with datsync feed clone", dir);
    return fail(c, FAILED, "%s: %s", dir, datsync_strerror(error));
}
