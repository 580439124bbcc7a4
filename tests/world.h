/* Worlds: small file systems in memory, beneath which a drive's folder lies, with its two stores in `.dat`. Every call
 * can be made to fail, and everything that changes a world is noted, so that it can be taken back to what a power cut
 * leaves. A fault of the caller (a path that was not checked, a file left open) ends the program.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef DATSYNC_TESTS_WORLD_H
#define DATSYNC_TESTS_WORLD_H

#include "datsync.h"

enum {
    FS_OPEN,
    FS_READ,
    FS_WRITE,
    FS_TRUNCATE,
    FS_STAT,
    FS_LIST,
    FS_MKDIR,
    FS_RENAME,
    FS_UNLINK,
    FS_RMDIR,
    FS_SET,
    FS_SYNC,
    FS_STORE_READ,
    FS_STORE_WRITE,
    FS_STORE_SYNC,
    FS_STORE_TRUNCATE,
    FS_KINDS
};

extern const char *const fs_kinds[FS_KINDS];

#define FS_USER (-2) /* done by the user: durable at once */
#define FS_TREE (-1) /* else a part of the two stores: 0 to 11 */
#define FS_FILES 64

typedef struct fs_node {
    uint64_t id, mtime;
    uint32_t mode;
    unsigned refs;
    uint8_t *data;
    size_t len;
} fs_node;

typedef struct fs_name {
    char *path;
    fs_node *node;
} fs_name;

typedef struct fs_op {
    int kind, who; /* FS_OPEN: made */
    uint64_t id, offset, mtime;
    uint32_t mode;
    char *from, *to;
    uint8_t *data;
    size_t len;
} fs_op;

typedef struct world world;

/* One of the two stores in `.dat`. */
typedef struct world_part {
    world *w;
    int content;
} world_part;

struct world {
    int folds; /* A and a are one name */
    int open;  /* drives that have it open */
    world_part parts[2];
    fs_name *names;
    size_t count, cap;
    fs_op *ops; /* all that changed it */
    size_t op_count, op_cap;
    uint64_t clock; /* of the user's: each change takes a moment */
    uint64_t ids;
    uint64_t calls[FS_KINDS];
    uint64_t fail_at; /* which call of fail_kind (FS_KINDS: any) from now fails; 0: none */
    int fail_kind, fail_error;
    int fail_on; /* and all that follow */
    int locked[2];
    fs_node *files[FS_FILES];
    uint8_t pairs[8][96]; /* discovery keys and secret keys */
    size_t pair_count;
};

/* Empty, and all zero before. */
void world_init(world *w, int folds);
void world_free(world *w);

/* The plugs of a drive, or of a feed; each holds until it is closed. */
datsync_files world_files(world *w);
datsync_store world_store(world *w, int content);
datsync_secrets world_secrets(world *w);

/* What the user does: it is durable at once. mode: of any type; mtime 0: now. */
void world_put(world *w, const char *path, uint32_t mode, uint64_t mtime, datsync_bytes content);
void world_delete(world *w, const char *path);         /* with everything beneath */
fs_node *world_find(const world *w, const char *path); /* NULL: nothing is there */

/* `to`, which is empty, becomes what `w` may be after power was lost behind its first `count` operations. Of what was
 * not synced: names (made, renamed, removed) are there up to some point, in the stores each by itself; bytes are there,
 * or not, or up to one of their sectors. seed 0: everything is there (the process was killed); 1: nothing is; 2: all
 * names are, and no bytes. What the copy has is durable. */
void world_cut(const world *w, world *to, size_t count, uint64_t seed);

#endif
