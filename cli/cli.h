/* One run of the command: what was asked for, and how it ends.
 *
 * SPDX-License-Identifier: MIT
 *
 * Types alone, for every file of cli/; what is done by them is in the others.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "datsync.h"

/* How a run ends. A function that returns an `int code` returns one of these, and has told what went wrong. */
enum { DONE = 0, FAILED = 1, USAGE = 2, NO_PEER = 3, INTERRUPTED = 130 };

/* Bytes of a block, and of what is read at once. */
#define CLI_BLOCK_SIZE 65536u
/* Where a share listens. */
#define CLI_PORT "3282"
/* --peer, --range and --select, each so often. */
#define CLI_MAX_PEERS 64u
/* --discovery-server and --dht-bootstrap, as discovery.h has it. */
#define CLI_MAX_SERVERS 8u
#define CLI_MAX_BOOTSTRAPS 16u
#define CLI_MAX_RANGES 64u
#define CLI_MAX_SELECTS 64u

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

/* Blocks, from start to end - 1. */
typedef struct range {
    uint64_t start, end;
} range;

/* What was asked for, which main.c reads, and what open.c has opened. */
typedef struct cli {
    const struct command *command;
    const char *words[3]; /* what stands beside the options; `append` has more of them in files */
    int word_count;
    char **files;
    int file_count;
    /* options, as they were read */
    int help, json, quiet, no_sync, lines, live, no_listen;
    int watch, archive, force, with_hidden, long_form, recursive, all;
    const char *listen, *secret_key, *secret_dir;
    const char *title, *description, *author, *license;
    char only_port[8]; /* what `listen` points to for a bare PORT */
    const char *peers[CLI_MAX_PEERS];
    size_t peer_count;
    int no_discovery, lan, no_mdns, no_server, no_dht, wait;
    const char *discovery_servers[CLI_MAX_SERVERS], *dht_bootstraps[CLI_MAX_BOOTSTRAPS];
    size_t discovery_server_count, dht_bootstrap_count;
    range ranges[CLI_MAX_RANGES];
    size_t range_count;
    char *selects[CLI_MAX_SELECTS]; /* the patterns of --select, or those that the folder keeps */
    size_t select_count;
    uint64_t block_size, timeout, max_peers, checkout;
    char link_path[DATSYNC_MAX_PATH + 1]; /* of LINK: begins with `/`, empty if it has none */
    /* of what open.c has opened */
    const struct placing *layout; /* of the drive's folder, once it is opened */
    int overwritten;              /* the header of a bitfield file is zeroed: verify goes on without it */
    datsync_env env;
} cli;

/* A row of the table of commands. */
typedef struct command {
    int feed; /* `datsync feed NAME` */
    const char *name;
    const char *usage;
    const char *about;
    int min, max; /* words beside the options; max -1: any number */
    uint32_t bit; /* in the options table */
    int (*run)(cli *c);
} command;

/* What command it is, in `command.bit`; which ones an option is for. */
enum {
    FEED_CREATE = 1,
    FEED_APPEND = 1 << 1,
    FEED_CAT = 1 << 2,
    FEED_INFO = 1 << 3,
    FEED_VERIFY = 1 << 4,
    FEED_SHARE = 1 << 5,
    FEED_CLONE = 1 << 6,
    CREATE = 1 << 7,
    SHARE = 1 << 8,
    CLONE = 1 << 9,
    PULL = 1 << 10,
    SYNC = 1 << 11,
    LOG = 1 << 12,
    STATUS = 1 << 13,
    KEYS = 1 << 14,
    VERIFY = 1 << 15,
    LS = 1 << 16,
    CAT = 1 << 17,
    DISCOVER = 1 << 18,
    DOCTOR = 1 << 19,
    ALL_DRIVE = DISCOVER - CREATE,
    ALL = (1 << 20) - 1
};

#endif
