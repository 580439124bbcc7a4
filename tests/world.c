/* Worlds (world.h). A name leads to a node, as in any file system: a file that is open stays when its name goes.
 *
 * SPDX-License-Identifier: MIT
 */
#include "world.h"

#include <string.h>

#include "base.h"

#define MODE_TYPE 0170000u
#define MODE_FILE 0100000u
#define MODE_FOLDER 0040000u

const char *const fs_kinds[FS_KINDS] = {"open",       "read",        "write",      "truncate",      "stat", "list",
                                        "mkdir",      "rename",      "unlink",     "rmdir",         "set",  "sync",
                                        "store-read", "store-write", "store-sync", "store-truncate"};

static int fs_fails(world *w, int kind)
{
    w->calls[kind]++;
    if (w->fail_at && (w->fail_kind == kind || w->fail_kind == FS_KINDS) && --w->fail_at == 0) {
        w->fail_at = w->fail_on != 0; /* from now on, or once */
        return w->fail_error;
    }
    return 0;
}

static fs_op *fs_note(world *w, int kind, int who, const char *from, const char *to)
{
    if (w->op_count == w->op_cap) {
        w->op_cap = w->op_cap ? 2 * w->op_cap : 64;
        w->ops = must(realloc(w->ops, w->op_cap * sizeof *w->ops));
    }
    fs_op *o = &w->ops[w->op_count++];
    memset(o, 0, sizeof *o);
    o->kind = kind;
    o->who = who;
    if (from)
        o->from = strcpy(must(malloc(strlen(from) + 1)), from);
    if (to)
        o->to = strcpy(must(malloc(strlen(to) + 1)), to);
    return o;
}

static int letters_differ(const world *w, char a, char b)
{
    if (w->folds) {
        a = (char)(a >= 'A' && a <= 'Z' ? a + 32 : a);
        b = (char)(b >= 'A' && b <= 'Z' ? b + 32 : b);
    }
    return a != b;
}

static int paths_same(const world *w, const char *a, const char *b, size_t len)
{
    size_t i;
    for (i = 0; i < len && a[i] && !letters_differ(w, a[i], b[i]); i++)
        continue;
    return i == len;
}

static fs_name *fs_find(const world *w, const char *path)
{
    size_t len = strlen(path);
    for (size_t i = 0; i < w->count; i++)
        if (strlen(w->names[i].path) == len && paths_same(w, w->names[i].path, path, len))
            return &w->names[i];
    return NULL;
}

static void node_drop(fs_node *n)
{
    if (n && --n->refs == 0) {
        free(n->data);
        free(n);
    }
}

static void fs_name_remove(world *w, fs_name *n)
{
    free(n->path);
    node_drop(n->node);
    *n = w->names[--w->count];
}

static fs_node *fs_name_add(world *w, const char *path, uint64_t id, uint32_t mode)
{
    if (w->count == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 64;
        w->names = must(realloc(w->names, w->cap * sizeof *w->names));
    }
    fs_name *n = &w->names[w->count++];
    n->path = strcpy(must(malloc(strlen(path) + 1)), path);
    n->node = must(calloc(1, sizeof *n->node));
    n->node->id = id;
    n->node->refs = 1;
    n->node->mode = mode;
    n->node->mtime = w->clock;
    return n->node;
}

static fs_node *fs_make(world *w, int who, const char *path, uint32_t mode)
{
    fs_op *o = fs_note(w, FS_OPEN, who, path, NULL);
    o->id = ++w->ids;
    o->mode = mode;
    o->mtime = w->clock += 10;
    return fs_name_add(w, path, w->ids, mode);
}

static void node_write(fs_node *n, uint64_t offset, const void *data, size_t len)
{
    if (offset > (1u << 30))
        die("a file that large was never asked for");
    if (offset + len > n->len) {
        n->data = must(realloc(n->data, (size_t)offset + len + 1));
        memset(n->data + n->len, 0, (size_t)offset + len - n->len);
        n->len = (size_t)offset + len;
    }
    if (len)
        memcpy(n->data + offset, data, len);
}

static void node_truncate(fs_node *n, uint64_t size)
{
    if (size > n->len)
        node_write(n, size, "", 0);
    n->len = (size_t)size;
}

static void fs_write_node(world *w, int who, fs_node *n, uint64_t offset, const void *data, size_t len)
{
    fs_op *o = fs_note(w, FS_WRITE, who, NULL, NULL);
    o->id = n->id;
    o->offset = offset;
    o->len = len;
    o->mtime = n->mtime = w->clock += 10;
    o->data = must(malloc(len + 1));
    if (len)
        memcpy(o->data, data, len);
    node_write(n, offset, data, len);
}

static void fs_truncate_node(world *w, int who, fs_node *n, uint64_t size)
{
    fs_op *o = fs_note(w, FS_TRUNCATE, who, NULL, NULL);
    o->id = n->id;
    o->offset = size;
    o->mtime = n->mtime = w->clock += 10;
    node_truncate(n, size);
}

static uint32_t type_at(const world *w, const char *path)
{
    const fs_name *n = *path ? fs_find(w, path) : NULL;
    return !*path ? MODE_FOLDER : n ? n->node->mode & MODE_TYPE : 0;
}

/* What a path must be, and that its folder is there. */
static int fs_way(const world *w, const char *path)
{
    const char *at = path;
    if (strlen(path) > DATSYNC_MAX_PATH + 1)
        die("a path that is too long reached the files");
    char part[DATSYNC_MAX_PATH + 8];
    for (;;) {
        const char *slash = strchr(at, '/');
        size_t len = slash ? (size_t)(slash - at) : strlen(at);
        if (len == 0 || (len == 1 && at[0] == '.') || (len == 2 && at[0] == '.' && at[1] == '.'))
            die("a path that was not checked reached the files");
        if (len > 255)
            return DATSYNC_E_NAME;
        if (!slash)
            return 0;
        memcpy(part, path, (size_t)(slash - path));
        part[slash - path] = 0;
        switch (type_at(w, part)) {
        case 0:
            return DATSYNC_E_NO_ENTRY;
        case MODE_FOLDER:
            break;
        case MODE_FILE:
            return DATSYNC_E_NOT_FOLDER;
        default:
            return DATSYNC_E_LINK;
        }
        at = slash + 1;
    }
}

static int fs_enter(world *w, int kind, const char *path)
{
    int r = fs_fails(w, kind);
    return r < 0 ? r : *path ? fs_way(w, path) : 0;
}

static int fs_open(void *ctx, const char *path, int write, intptr_t *file)
{
    world *w = ctx;
    int r = fs_enter(w, FS_OPEN, path);
    fs_name *n = fs_find(w, path);
    fs_node *node = n ? n->node : NULL;
    if (r < 0)
        return r;
    if (!*path)
        return DATSYNC_E_IS_FOLDER;
    if (!node && !write)
        return DATSYNC_E_NO_ENTRY;
    if (node && (node->mode & MODE_TYPE) != MODE_FILE)
        return (node->mode & MODE_TYPE) == MODE_FOLDER ? DATSYNC_E_IS_FOLDER : DATSYNC_E_LINK;
    if (node && (!(node->mode & 0400u) || (write && !(node->mode & 0200u))))
        return DATSYNC_E_ACCESS;
    size_t i;
    for (i = 0; i < FS_FILES && w->files[i]; i++)
        continue;
    if (i == FS_FILES)
        die("too many files are open");
    if (!node)
        node = fs_make(w, FS_TREE, path, MODE_FILE | 0644u);
    node->refs++;
    w->files[i] = node;
    *file = (intptr_t)i;
    return 0;
}

static fs_node *fs_file(world *w, intptr_t file)
{
    if (file < 0 || file >= FS_FILES || !w->files[file])
        die("a file that is not open was used");
    return w->files[file];
}

static int64_t fs_read(void *ctx, intptr_t file, uint64_t offset, void *buf, size_t len)
{
    world *w = ctx;
    const fs_node *n = fs_file(w, file);
    int r = fs_fails(w, FS_READ);
    if (r < 0)
        return r;
    if (offset >= n->len)
        return 0;
    len = len < n->len - (size_t)offset ? len : n->len - (size_t)offset;
    memcpy(buf, n->data + offset, len);
    return (int64_t)len;
}

static int fs_write(void *ctx, intptr_t file, uint64_t offset, const void *buf, size_t len)
{
    world *w = ctx;
    fs_node *n = fs_file(w, file);
    int r = fs_fails(w, FS_WRITE);
    if (r < 0)
        len /= 2; /* as a full disk does, it takes a part */
    if (len || r == 0)
        fs_write_node(w, FS_TREE, n, offset, buf, len);
    return r;
}

static int fs_truncate(void *ctx, intptr_t file, uint64_t size)
{
    world *w = ctx;
    int r = fs_fails(w, FS_TRUNCATE);
    if (r == 0)
        fs_truncate_node(w, FS_TREE, fs_file(w, file), size);
    return r;
}

static void fs_close_file(void *ctx, intptr_t file)
{
    world *w = ctx;
    node_drop(fs_file(w, file));
    w->files[file] = NULL;
}

static int fs_stat(void *ctx, const char *path, datsync_file_info *out)
{
    world *w = ctx;
    int r = fs_enter(w, FS_STAT, path);
    const fs_name *n = fs_find(w, path);
    if (r < 0)
        return r;
    if (*path && !n)
        return DATSYNC_E_NO_ENTRY;
    out->mode = n ? n->node->mode : MODE_FOLDER | 0755u;
    out->size = n ? n->node->len : 0;
    out->mtime = n ? n->node->mtime : w->clock;
    return 0;
}

static int fs_list(void *ctx, const char *path, int (*fn)(void *arg, const char *name), void *arg)
{
    world *w = ctx;
    int r = fs_enter(w, FS_LIST, path);
    size_t len = strlen(path), found = 0;
    if (r < 0)
        return r;
    if (type_at(w, path) != MODE_FOLDER)
        return type_at(w, path) == MODE_FILE ? DATSYNC_E_NOT_FOLDER
               : type_at(w, path)            ? DATSYNC_E_LINK
                                             : DATSYNC_E_NO_ENTRY;
    char **names = must(malloc((w->count + 1) * sizeof *names)); /* fn may change the folder */
    for (size_t i = 0; i < w->count; i++) {
        const char *p = w->names[i].path;
        if (len && (!paths_same(w, p, path, len) || p[len] != '/'))
            continue;
        p += len ? len + 1 : 0;
        if (*p && !strchr(p, '/'))
            names[found++] = strcpy(must(malloc(strlen(p) + 1)), p);
    }
    for (size_t i = 0; i < found; i++) {
        if (r == 0)
            r = fn(arg, names[i]);
        free(names[i]);
    }
    free(names);
    return r;
}

static int fs_mkdir(void *ctx, const char *path)
{
    world *w = ctx;
    int r = fs_enter(w, FS_MKDIR, path);
    uint32_t type = type_at(w, path);
    if (r < 0)
        return r;
    if (type)
        return type == MODE_FOLDER ? 0 : type == MODE_FILE ? DATSYNC_E_NOT_FOLDER : DATSYNC_E_LINK;
    (void)fs_make(w, FS_TREE, path, MODE_FOLDER | 0755u);
    return 0;
}

static int is_empty(const world *w, const char *path)
{
    size_t len = strlen(path);
    for (size_t i = 0; i < w->count; i++)
        if (paths_same(w, w->names[i].path, path, len) && w->names[i].path[len] == '/')
            return 0;
    return 1;
}

static void fs_rename_do(world *w, const char *from, const char *to)
{
    fs_name *n = fs_find(w, to);
    if (n && n != fs_find(w, from))
        fs_name_remove(w, n);
    n = fs_find(w, from);
    free(n->path);
    n->path = strcpy(must(malloc(strlen(to) + 1)), to);
}

static int fs_rename(void *ctx, const char *from, const char *to)
{
    world *w = ctx;
    int r = fs_enter(w, FS_RENAME, from);
    r = r < 0 ? r : fs_way(w, to);
    if (r < 0)
        return r;
    if (!fs_find(w, from))
        return DATSYNC_E_NO_ENTRY;
    if (type_at(w, to) == MODE_FOLDER)
        return DATSYNC_E_IS_FOLDER;
    (void)fs_note(w, FS_RENAME, FS_TREE, from, to);
    fs_rename_do(w, from, to);
    return 0;
}

static int fs_unlink(void *ctx, const char *path)
{
    world *w = ctx;
    int r = fs_enter(w, FS_UNLINK, path);
    fs_name *n = fs_find(w, path);
    if (r < 0)
        return r;
    if (!n)
        return DATSYNC_E_NO_ENTRY;
    if ((n->node->mode & MODE_TYPE) == MODE_FOLDER)
        return DATSYNC_E_IS_FOLDER;
    (void)fs_note(w, FS_UNLINK, FS_TREE, path, NULL);
    fs_name_remove(w, n);
    return 0;
}

static int fs_rmdir(void *ctx, const char *path)
{
    world *w = ctx;
    int r = fs_enter(w, FS_RMDIR, path);
    fs_name *n = fs_find(w, path);
    if (r < 0)
        return r;
    if (!*path)
        die("the root itself was to be removed");
    if (!n)
        return DATSYNC_E_NO_ENTRY;
    if ((n->node->mode & MODE_TYPE) != MODE_FOLDER)
        return DATSYNC_E_NOT_FOLDER;
    if (!is_empty(w, path))
        return DATSYNC_E_STATE;
    (void)fs_note(w, FS_UNLINK, FS_TREE, path, NULL);
    fs_name_remove(w, n);
    return 0;
}

static void fs_set_do(world *w, int who, fs_node *n, uint32_t mode, uint64_t mtime)
{
    fs_op *o = fs_note(w, FS_SET, who, NULL, NULL);
    o->id = n->id;
    o->mode = n->mode = (n->mode & ~07777u) | mode;
    o->mtime = n->mtime = mtime;
}

static int fs_set(void *ctx, const char *path, uint32_t mode, uint64_t mtime)
{
    world *w = ctx;
    int r = fs_enter(w, FS_SET, path);
    fs_name *n = fs_find(w, path);
    if (r < 0)
        return r;
    if (!n)
        return DATSYNC_E_NO_ENTRY;
    if ((n->node->mode & MODE_TYPE) != MODE_FILE && (n->node->mode & MODE_TYPE) != MODE_FOLDER)
        return DATSYNC_E_LINK;
    fs_set_do(w, FS_TREE, n->node, mode & 0777u, mtime);
    return 0;
}

static int fs_sync(void *ctx)
{
    world *w = ctx;
    int r = fs_fails(w, FS_SYNC);
    if (r == 0)
        (void)fs_note(w, FS_SYNC, FS_TREE, NULL, NULL);
    return r;
}

static void fs_close(void *ctx)
{
    world *w = ctx;
    for (size_t i = 0; i < FS_FILES; i++)
        if (w->files[i])
            die("a file was left open");
    w->open--;
}

/* ------------------------------------------------ the stores of a world, and its secrets */

static const char *store_path(const world_part *s, int part, char out[48])
{
    static const char *const parts[] = {"key", "secret_key", "tree", "signatures", "bitfield", "data"};
    (void)sprintf(out, ".dat/%s.%s", s->content ? "content" : "metadata", parts[part]);
    return out;
}

static int store_who(const world_part *s, int part)
{
    return part + (s->content ? DATSYNC_PARTS : 0);
}

static int64_t world_read(void *ctx, int part, uint64_t offset, void *buf, size_t len)
{
    const world_part *s = ctx;
    char path[48];
    const fs_name *n = fs_find(s->w, store_path(s, part, path));
    int r = fs_fails(s->w, FS_STORE_READ);
    if (r < 0 || !n || offset >= n->node->len)
        return r;
    len = len < n->node->len - (size_t)offset ? len : n->node->len - (size_t)offset;
    memcpy(buf, n->node->data + offset, len);
    return (int64_t)len;
}

static fs_node *store_node(const world_part *s, int part)
{
    char path[48];
    const fs_name *n = fs_find(s->w, store_path(s, part, path));
    return n ? n->node : fs_make(s->w, store_who(s, part), path, MODE_FILE | 0644u);
}

static int world_write(void *ctx, int part, uint64_t offset, const void *buf, size_t len)
{
    const world_part *s = ctx;
    int r = fs_fails(s->w, FS_STORE_WRITE);
    if (r < 0)
        len /= 2;
    if (len || r == 0)
        fs_write_node(s->w, store_who(s, part), store_node(s, part), offset, buf, len);
    return r;
}

static int64_t world_size(void *ctx, int part)
{
    const world_part *s = ctx;
    char path[48];
    const fs_name *n = fs_find(s->w, store_path(s, part, path));
    return n ? (int64_t)n->node->len : DATSYNC_E_NO_ENTRY;
}

static int world_truncate(void *ctx, int part, uint64_t size)
{
    const world_part *s = ctx;
    int r = fs_fails(s->w, FS_STORE_TRUNCATE);
    if (r == 0)
        fs_truncate_node(s->w, store_who(s, part), store_node(s, part), size);
    return r;
}

static int world_sync(void *ctx, int part)
{
    const world_part *s = ctx;
    int r = fs_fails(s->w, FS_STORE_SYNC);
    if (r == 0)
        (void)fs_note(s->w, FS_SYNC, store_who(s, part), NULL, NULL);
    return r;
}

static int world_lock(void *ctx)
{
    const world_part *s = ctx;
    if (s->w->locked[s->content])
        return DATSYNC_E_LOCKED;
    s->w->locked[s->content] = 1;
    return 0;
}

static void world_close(void *ctx)
{
    const world_part *s = ctx;
    s->w->locked[s->content] = 0;
}

static int world_load_secret(void *ctx, const uint8_t discovery_key[32], uint8_t secret_key[64])
{
    world *w = ctx;
    for (size_t i = 0; i < w->pair_count; i++)
        if (memcmp(w->pairs[i], discovery_key, 32) == 0) {
            memcpy(secret_key, w->pairs[i] + 32, 64);
            return 0;
        }
    return DATSYNC_E_NOT_FOUND;
}

static int world_save_secret(void *ctx, const uint8_t discovery_key[32], const uint8_t secret_key[64])
{
    world *w = ctx;
    if (w->pair_count == 8)
        die("too many secrets");
    memcpy(w->pairs[w->pair_count], discovery_key, 32);
    memcpy(w->pairs[w->pair_count++] + 32, secret_key, 64);
    return 0;
}

/* ------------------------------------------------ worlds as a whole */

void world_init(world *w, int folds)
{
    w->folds = folds;
    w->clock = 1600000000000u;
    for (int i = 0; i < 2; i++) {
        w->parts[i].w = w;
        w->parts[i].content = i;
    }
}

void world_free(world *w)
{
    for (size_t i = 0; i < w->op_count; i++) {
        free(w->ops[i].from);
        free(w->ops[i].to);
        free(w->ops[i].data);
    }
    while (w->count)
        fs_name_remove(w, &w->names[0]);
    free(w->names);
    free(w->ops);
    memset(w, 0, sizeof *w);
}

datsync_files world_files(world *w)
{
    datsync_files t = {.ctx = w,
                       .case_folds = w->folds,
                       .open_file = fs_open,
                       .read = fs_read,
                       .write = fs_write,
                       .truncate = fs_truncate,
                       .close_file = fs_close_file,
                       .stat = fs_stat,
                       .list = fs_list,
                       .mkdir = fs_mkdir,
                       .rename = fs_rename,
                       .unlink = fs_unlink,
                       .rmdir = fs_rmdir,
                       .set = fs_set,
                       .sync = fs_sync,
                       .close = fs_close};
    w->open++;
    return t;
}

datsync_store world_store(world *w, int content)
{
    datsync_store s = {.ctx = &w->parts[content],
                       .read = world_read,
                       .write = world_write,
                       .size = world_size,
                       .truncate = world_truncate,
                       .sync = world_sync,
                       .lock = world_lock,
                       .close = world_close};
    return s;
}

datsync_secrets world_secrets(world *w)
{
    datsync_secrets s = {.ctx = w, .load = world_load_secret, .save = world_save_secret};
    return s;
}

void world_put(world *w, const char *path, uint32_t mode, uint64_t mtime, datsync_bytes content)
{
    fs_name *found = fs_find(w, path);
    if (fs_way(w, path) < 0)
        die("there is no such folder");
    if (found && (found->node->mode & MODE_TYPE) != (mode & MODE_TYPE))
        die("another thing is there");
    fs_node *node = found ? found->node : fs_make(w, FS_USER, path, mode);
    if ((mode & MODE_TYPE) == MODE_FILE) {
        fs_truncate_node(w, FS_USER, node, 0);
        fs_write_node(w, FS_USER, node, 0, content.data, content.len);
    }
    fs_set_do(w, FS_USER, node, mode & 07777u, mtime ? mtime : (w->clock += 5000));
}

void world_delete(world *w, const char *path)
{
    size_t len = strlen(path);
    for (size_t i = w->count; i-- > 0;)
        if (paths_same(w, w->names[i].path, path, len) && (w->names[i].path[len] == '/' || !w->names[i].path[len])) {
            (void)fs_note(w, FS_UNLINK, FS_USER, w->names[i].path, NULL);
            fs_name_remove(w, &w->names[i]);
            i = w->count;
        }
}

fs_node *world_find(const world *w, const char *path)
{
    const fs_name *n = fs_find(w, path);
    return n ? n->node : NULL;
}

static fs_node *node_by_id(const world *w, uint64_t id)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->names[i].node->id == id)
            return w->names[i].node;
    return NULL;
}

/* What a world becomes when an operation is done again; those whose object is not there are lost with it. */
static void world_redo(world *to, const fs_op *o, size_t len)
{
    fs_name *name = o->from ? fs_find(to, o->from) : NULL;
    fs_node *node = o->from ? NULL : node_by_id(to, o->id);
    if (o->kind == FS_OPEN && !name && fs_way(to, o->from) == 0)
        fs_name_add(to, o->from, o->id, o->mode)->mtime = o->mtime;
    else if (o->kind == FS_RENAME && name && fs_way(to, o->to) == 0)
        fs_rename_do(to, o->from, o->to);
    else if (o->kind == FS_UNLINK && name && is_empty(to, o->from))
        fs_name_remove(to, name);
    else if (o->kind == FS_WRITE && node)
        node_write(node, o->offset, o->data, len);
    else if (o->kind == FS_TRUNCATE && node)
        node_truncate(node, o->offset);
    else if (o->kind == FS_SET && node)
        node->mode = o->mode;
    if (node)
        node->mtime = o->mtime;
}

static size_t path_depth(const char *path)
{
    size_t depth = 1;
    for (; *path; path++)
        depth += *path == '/';
    return depth;
}

void world_cut(const world *w, world *to, size_t count, uint64_t seed)
{
    count = count < w->op_count ? count : w->op_count;
    size_t synced[2 * DATSYNC_PARTS + 1] = {0}, names = 0, i;
    uint64_t state = seed * 1000003 + count;
    for (i = 0; i < count; i++)
        if (w->ops[i].kind == FS_SYNC)
            synced[w->ops[i].who + 1] = i;
    if (seed != 1) /* up to which operation the names are there */
        names = seed == 0 || seed == 2 ? count : synced[0] + (size_t)(chance(&state) % (count - synced[0] + 1));
    for (i = 0; i < count; i++) {
        const fs_op *o = &w->ops[i];
        size_t len = o->len;
        if (o->kind == FS_SYNC)
            continue;
        if (o->who != FS_USER && i >= synced[o->who + 1] && seed) {
            int is_name = o->kind == FS_OPEN || o->kind == FS_RENAME || o->kind == FS_UNLINK;
            uint64_t what = seed == 1 ? 0 : seed == 2 ? (is_name ? 2 : 0) : chance(&state) % 3;
            if (is_name && o->who == FS_TREE)
                what = i < names ? 2 : 0;
            if (what == 0)
                continue;
            if (what == 1 && o->kind == FS_WRITE) {
                size_t first = (size_t)(512 - o->offset % 512), sectors = len > first ? (len - first) / 512 + 1 : 0;
                len = sectors ? first + 512 * (size_t)(chance(&state) % sectors) : 0;
            }
        }
        world_redo(to, o, len);
    }
    to->clock = w->clock + 60000;
    to->ids = w->ids;
    memcpy(to->pairs, w->pairs, sizeof to->pairs);
    to->pair_count = w->pair_count;
    for (names = 0; count; names++) /* what the copy has is durable; folders come before what is in them */
        for (count = 0, i = 0; i < to->count; i++) {
            const fs_node *node = to->names[i].node;
            size_t depth = path_depth(to->names[i].path);
            count += depth > names;
            if (depth != names)
                continue;
            fs_op *o = fs_note(to, FS_OPEN, FS_USER, to->names[i].path, NULL);
            o->id = node->id;
            o->mode = node->mode;
            o->mtime = node->mtime;
            o = fs_note(to, FS_WRITE, FS_USER, NULL, NULL);
            o->id = node->id;
            o->mtime = node->mtime;
            o->len = node->len;
            o->data = must(malloc(node->len + 1));
            if (node->len)
                memcpy(o->data, node->data, node->len);
        }
}
