/* usage: floor [--sync] FEED FOLDER BLOCK COUNT
 *
 * The floor under any program that moves a feed: what the protocol's cryptography, a loopback socket and the page cache
 * cost, and nothing else. Two processes, the sender on core 0 and the receiver on core 1:
 *
 *   sender    reads FEED/data with large reads, frames each block as a Data message (an even block with its sibling's
 *             hash, as a peer asked in ascending order sends it), enciphers with XSalsa20, sends 256 KiB at a time
 *   receiver  deciphers in place, hashes each leaf and each parent (BLAKE2b-256), writes FOLDER/data and FOLDER/tree,
 *             checks one Ed25519 signature of the roots at the end
 *
 * There are no requests, no handshake, one order, one peer; the sender has the feed's tree in memory before the clock
 * starts. --sync: the receiver calls fdatasync on data, then tree, when 64 MiB were written or 1 s has passed since it
 * last did, and at the end. Prints one line of JSON: wall seconds from before the first fork to the end of both, and of
 * each side user and system seconds and peak memory (KiB).
 *
 * build: cc -O3 -o floor floor.c -lsodium
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <sodium.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 262144u
#define NODE 40u
#define SLEEP_HEADER 32
#define FRAME_EXTRA 128u /* more than all of a frame beside its block */
#define SYNC_BYTES (64u << 20)

typedef struct node {
    uint8_t hash[32];
    uint64_t size;
    int level;
} node;

typedef struct roots {
    node at[64];
    int count;
} roots;

typedef struct cipher {
    uint64_t counter;
    size_t left; /* of pad */
    uint8_t pad[64];
} cipher;

typedef struct job {
    const char *feed, *folder;
    size_t block;
    uint64_t count;
    int sync;
    uint8_t *tree; /* nodes as on disk, without the header */
    uint8_t want[32], signature[64], public_key[32];
    uint8_t subkey[32], nonce[8];
} job;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void fail(const char *what)
{
    fprintf(stderr, "floor: %s\n", what);
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void pin(size_t core)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        perror("sched_setaffinity");
}

static int open_in(const char *folder, const char *name, int flags)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, flags, 0600);
    if (fd < 0)
        die(path);
    return fd;
}

static void read_all(int fd, uint8_t *to, size_t len, uint64_t at)
{
    while (len > 0) {
        ssize_t n = pread(fd, to, len, (off_t)at);
        if (n <= 0)
            die("read");
        to += n, at += (uint64_t)n, len -= (size_t)n;
    }
}

static void write_all(int fd, const uint8_t *from, size_t len, uint64_t at)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, from, len, (off_t)at);
        if (n <= 0)
            die("write");
        from += n, at += (uint64_t)n, len -= (size_t)n;
    }
}

static void send_all(int fd, const uint8_t *from, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, from, len, MSG_NOSIGNAL);
        if (n <= 0)
            die("send");
        from += n, len -= (size_t)n;
    }
}

/* ---- the protocol's pieces ---- */

static void put_be64(uint8_t *to, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        to[i] = (uint8_t)value;
}

static uint64_t get_be64(const uint8_t *from)
{
    uint64_t value = 0;

    for (int i = 0; i < 8; i++)
        value = value << 8 | from[i];
    return value;
}

static size_t put_varint(uint8_t *to, uint64_t value)
{
    size_t n = 0;

    while (value > 127) {
        to[n++] = (uint8_t)(value | 128);
        value >>= 7;
    }
    to[n++] = (uint8_t)value;
    return n;
}

/* 0 if it isn't all there. */
static size_t get_varint(const uint8_t *from, size_t len, uint64_t *value)
{
    *value = 0;
    for (size_t i = 0; i < len && i < 10; i++) {
        *value |= (uint64_t)(from[i] & 127) << (7 * i);
        if (from[i] < 128)
            return i + 1;
    }
    return 0;
}

/* XSalsa20 with its subkey kept, going on where the last call ended. */
static void encipher(cipher *c, const job *j, uint8_t *p, size_t len)
{
    for (; c->left > 0 && len > 0; len--)
        *p++ ^= c->pad[64 - c->left--];
    size_t whole = len & ~(size_t)63;
    if (whole > 0) {
        crypto_stream_salsa20_xor_ic(p, p, whole, j->nonce, c->counter, j->subkey);
        c->counter += whole / 64;
        p += whole, len -= whole;
    }
    if (len > 0) {
        memset(c->pad, 0, sizeof c->pad);
        crypto_stream_salsa20_xor_ic(c->pad, c->pad, sizeof c->pad, j->nonce, c->counter++, j->subkey);
        for (size_t i = 0; i < len; i++)
            p[i] ^= c->pad[i];
        c->left = 64 - len;
    }
}

static void hash_leaf(uint8_t out[32], const uint8_t *block, size_t len)
{
    uint8_t head[9 + 512] = {0};

    put_be64(head + 1, len);
    if (len <= 512) {
        memcpy(head + 9, block, len);
        crypto_generichash(out, 32, head, 9 + len, NULL, 0);
    } else {
        crypto_generichash_state state;
        crypto_generichash_init(&state, NULL, 0, 32);
        crypto_generichash_update(&state, head, 9);
        crypto_generichash_update(&state, block, len);
        crypto_generichash_final(&state, out, 32);
    }
}

static void hash_parent(node *left, const node *right)
{
    uint8_t in[73] = {1};

    left->size += right->size;
    put_be64(in + 1, left->size);
    memcpy(in + 9, left->hash, 32);
    memcpy(in + 41, right->hash, 32);
    crypto_generichash(left->hash, 32, in, sizeof in, NULL, 0);
    left->level++;
}

/* index: in-order number of the node at this level and offset */
static uint64_t flat(int level, uint64_t offset)
{
    return (offset << (level + 1)) + ((1ull << level) - 1);
}

static void put_node(uint8_t *tree, uint64_t index, const node *n)
{
    memcpy(tree + NODE * index, n->hash, 32);
    put_be64(tree + NODE * index + 32, n->size);
}

/* The next leaf, and all the parents that it completes, into the tree. */
static void push(roots *r, uint64_t block, const uint8_t *data, size_t len, uint8_t *tree)
{
    node *top = &r->at[r->count++];
    uint64_t offset = block;

    hash_leaf(top->hash, data, len);
    top->size = len;
    top->level = 0;
    put_node(tree, 2 * block, top);
    while (r->count > 1 && top->level == top[-1].level) {
        hash_parent(top - 1, top);
        r->count--;
        top--;
        offset >>= 1;
        put_node(tree, flat(top->level, offset), top);
    }
}

static void hash_roots(uint8_t out[32], const roots *r)
{
    crypto_generichash_state state;
    uint8_t type = 2, numbers[16];
    uint64_t offset = 0;

    crypto_generichash_init(&state, NULL, 0, 32);
    crypto_generichash_update(&state, &type, 1);
    for (int i = 0; i < r->count; i++) {
        put_be64(numbers, flat(r->at[i].level, offset >> r->at[i].level));
        put_be64(numbers + 8, r->at[i].size);
        crypto_generichash_update(&state, r->at[i].hash, 32);
        crypto_generichash_update(&state, numbers, 16);
        offset += 1ull << r->at[i].level;
    }
    crypto_generichash_final(&state, out, 32);
}

/* ---- the two sides ---- */

static size_t put_message(uint8_t *to, const job *j, uint64_t block, const uint8_t *data)
{
    uint8_t head[32], proof[64];
    size_t n = 0, p = 0, at;

    head[n++] = 9; /* channel 0, Data */
    head[n++] = 0x08;
    n += put_varint(head + n, block);
    head[n++] = 0x12;
    n += put_varint(head + n, j->block);
    if (block % 2 == 0 && block + 1 < j->count) {
        proof[p++] = 0x1a;
        p++; /* its length */
        proof[p++] = 0x08;
        p += put_varint(proof + p, 2 * block + 2);
        proof[p++] = 0x12;
        proof[p++] = 32;
        memcpy(proof + p, j->tree + NODE * (2 * block + 2), 32);
        p += 32;
        proof[p++] = 0x18;
        p += put_varint(proof + p, j->block);
        proof[1] = (uint8_t)(p - 2);
    }
    at = put_varint(to, n + j->block + p);
    memcpy(to + at, head, n);
    memcpy(to + at + n, data, j->block);
    memcpy(to + at + n + j->block, proof, p);
    return at + n + j->block + p;
}

static void sender(const job *j, int fd)
{
    int in = open_in(j->feed, "data", O_RDONLY);
    uint64_t batch = j->block < CHUNK ? CHUNK / j->block : 1;
    uint8_t *blocks = malloc(batch * j->block), *out = malloc(batch * (j->block + FRAME_EXTRA));
    cipher c = {0};

    for (uint64_t i = 0; i < j->count;) {
        uint64_t n = j->count - i < batch ? j->count - i : batch;
        size_t len = 0;
        read_all(in, blocks, n * j->block, i * j->block);
        for (uint64_t k = 0; k < n; k++, i++)
            len += put_message(out + len, j, i, blocks + k * j->block);
        encipher(&c, j, out, len);
        send_all(fd, out, len);
    }
    shutdown(fd, SHUT_WR);
}

typedef struct disk {
    const job *j;
    int data, tree_file;
    uint8_t *buffer; /* small blocks gather here */
    size_t fill;
    uint64_t written; /* bytes of data */
    uint64_t nodes;   /* of the tree written, in order */
    uint64_t unsynced;
    double synced;
} disk;

static void sync_disk(disk *d)
{
    if (fdatasync(d->data) != 0 || fdatasync(d->tree_file) != 0)
        die("fdatasync");
    d->unsynced = 0;
    d->synced = now();
}

static void write_tree(disk *d, const uint8_t *tree, uint64_t nodes)
{
    write_all(d->tree_file, tree + NODE * d->nodes, NODE * (nodes - d->nodes), SLEEP_HEADER + NODE * d->nodes);
    d->unsynced += NODE * (nodes - d->nodes);
    d->nodes = nodes;
}

static void write_data(disk *d, const uint8_t *from, size_t len)
{
    write_all(d->data, from, len, d->written);
    d->written += len;
    d->unsynced += len;
    if (d->j->sync && (d->unsynced >= SYNC_BYTES || now() - d->synced >= 1))
        sync_disk(d);
}

static void store(disk *d, const uint8_t *block)
{
    if (d->j->block >= 65536) {
        write_data(d, block, d->j->block);
        return;
    }
    memcpy(d->buffer + d->fill, block, d->j->block);
    d->fill += d->j->block;
    if (d->fill >= CHUNK) {
        write_data(d, d->buffer, d->fill);
        d->fill = 0;
    }
}

/* One message: its block, checked to be the one that is next. */
static const uint8_t *get_message(const job *j, const uint8_t *p, size_t len, uint64_t block)
{
    uint64_t index = 0, size = 0;
    const uint8_t *end = p + len;

    if (len < 4 || p[0] != 9 || p[1] != 0x08)
        fail("not a message");
    p += 2;
    p += get_varint(p, (size_t)(end - p), &index);
    p++;
    p += get_varint(p, (size_t)(end - p), &size);
    if (index != block || size != j->block || (size_t)(end - p) < size)
        fail("not the next block");
    return p;
}

static void receiver(const job *j, int fd)
{
    uint64_t nodes = 2 * j->count - 1, step = 4096;
    uint8_t *tree = mmap(NULL, NODE * nodes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t cap = CHUNK + j->block + FRAME_EXTRA, have = 0;
    uint8_t *in = malloc(cap), hash[32];
    disk d = {.j = j, .buffer = malloc(CHUNK + j->block), .synced = now()};
    cipher c = {0};
    roots r = {.count = 0};
    uint64_t block = 0;

    d.data = open_in(j->folder, "data", O_RDWR | O_CREAT | O_TRUNC);
    d.tree_file = open_in(j->folder, "tree", O_RDWR | O_CREAT | O_TRUNC);
    for (;;) {
        ssize_t n = recv(fd, in + have, cap - have, 0);
        size_t at = 0;
        if (n < 0)
            die("recv");
        else if (n == 0)
            break;
        encipher(&c, j, in + have, (size_t)n);
        have += (size_t)n;
        for (;;) {
            uint64_t len;
            size_t head = get_varint(in + at, have - at, &len);
            if (head == 0 || have - at - head < len)
                break;
            const uint8_t *data = get_message(j, in + at + head, len, block);
            at += head + len;
            push(&r, block, data, j->block, tree);
            store(&d, data);
            if (++block % step == 0)
                write_tree(&d, tree, 2 * block < nodes ? 2 * block : nodes);
        }
        memmove(in, in + at, have - at);
        have -= at;
    }
    if (d.fill > 0)
        write_data(&d, d.buffer, d.fill);
    if (d.nodes < nodes)
        write_tree(&d, tree, nodes);
    /* Parents of more than `step` blocks were computed after their part was written. */
    for (uint64_t i = 2 * step - 1; i < nodes; i += 2 * step)
        write_all(d.tree_file, tree + NODE * i, NODE, SLEEP_HEADER + NODE * i);
    hash_roots(hash, &r);
    if (block != j->count || memcmp(hash, j->want, 32) != 0 ||
        crypto_sign_verify_detached(j->signature, hash, 32, j->public_key) != 0)
        fail("what arrived is not what was sent");
    if (j->sync)
        sync_disk(&d);
}

/* ---- the frame around ---- */

/* The feed's tree, its roots signed with a key of this run. */
static void prepare(job *j)
{
    uint8_t secret[64], key[32], nonce[24], hash[32];
    int fd = open_in(j->feed, "tree", O_RDONLY);
    size_t size = NODE * (2 * j->count - 1);
    roots r = {.count = 0};
    uint64_t offset = 0;

    j->tree = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    read_all(fd, j->tree, size, SLEEP_HEADER);
    close(fd);
    for (int level = 62; level >= 0; level--) {
        if (j->count >> level & 1) {
            node *n = &r.at[r.count++];
            const uint8_t *from = j->tree + NODE * flat(level, offset >> level);
            memcpy(n->hash, from, 32);
            n->size = get_be64(from + 32);
            n->level = level;
            offset += 1ull << level;
        }
    }
    hash_roots(hash, &r);
    crypto_sign_keypair(j->public_key, secret);
    crypto_sign_detached(j->signature, NULL, hash, 32, secret);
    memcpy(j->want, hash, 32);
    randombytes_buf(key, sizeof key);
    randombytes_buf(nonce, sizeof nonce);
    crypto_core_hsalsa20(j->subkey, nonce, key, NULL);
    memcpy(j->nonce, nonce + 16, 8);
}

static void side(const char *name, const struct rusage *used)
{
    printf(", \"%s\": {\"user\": %.6f, \"sys\": %.6f, \"rss_kb\": %ld}", name,
           (double)used->ru_utime.tv_sec + (double)used->ru_utime.tv_usec / 1e6,
           (double)used->ru_stime.tv_sec + (double)used->ru_stime.tv_usec / 1e6, used->ru_maxrss);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof address;
    struct rusage used[2];
    int status[2];
    job j = {.sync = 0};

    if (argc > 1 && strcmp(argv[1], "--sync") == 0) {
        j.sync = 1;
        argc--, argv++;
    }
    if (argc != 5 || sodium_init() < 0) {
        fprintf(stderr, "usage: floor [--sync] FEED FOLDER BLOCK COUNT\n");
        return 2;
    }
    j.feed = argv[1];
    j.folder = argv[2];
    j.block = strtoul(argv[3], NULL, 10);
    j.count = strtoull(argv[4], NULL, 10);
    if (j.block < 1 || j.block > 8000000 || j.count < 1)
        return 2;
    prepare(&j);
    int listening = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) != 0 || listen(listening, 1) != 0 ||
        getsockname(listening, (struct sockaddr *)&address, &len) != 0)
        die("listen");
    double start = now();
    pid_t tx = fork();
    if (tx == 0) {
        pin(0);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
            die("connect");
        sender(&j, fd);
        _exit(0);
    }
    pid_t rx = fork();
    if (rx == 0) {
        pin(1);
        receiver(&j, accept(listening, NULL, NULL));
        _exit(0);
    }
    if (tx < 0 || rx < 0 || wait4(tx, &status[0], 0, &used[0]) < 0 || wait4(rx, &status[1], 0, &used[1]) < 0)
        die("fork");
    double wall = now() - start;
    if (status[0] != 0 || status[1] != 0)
        fail("failed");
    printf("{\"wall\": %.6f", wall);
    side("sender", &used[0]);
    side("receiver", &used[1]);
    printf("}\n");
    return 0;
}
