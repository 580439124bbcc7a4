/* datsync: the Dat synchronizer (hypercore 6, hyperdrive 9; DEP-0002, DEP-0010) in one C file.
 *
 * SPDX-License-Identifier: MIT
 *
 * Copy datsync.c and datsync.h (and net_posix.c or net_win32.c, if you want sockets and files) into your
 * project and link libsodium. This header is the manual.
 *
 * Three levels, each usable alone:
 *
 *   1. wire          bytes <-> messages. No allocation, no I/O, no state but the caller's.
 *   2. feed, drive,  a feed is a verified log in a store, a drive is a folder of files in two feeds; a peer is one
 *      peer          connection's session without sockets or clock: bytes and the time go in, bytes, events and the
 *                    next deadline come out.
 *   3. synchronizer  a poll() loop over a pluggable network, with many feeds and many peers.
 *
 * What is not needed can be left out of datsync.c by the compiler's options: drives (-DDATSYNC_NO_DRIVE), and level
 * 3 with the networks in memory (-DDATSYNC_NO_SYNCHRONIZER). What is declared here for them is then not defined. A
 * drive is laid out and served by the synchronizer: without it, it can be read, written and imported.
 *
 * Conventions, for every function here:
 *
 *   Results      >= 0 is success; a negative number is one of enum datsync_error, and datsync_strerror() has a
 *                sentence for it.
 *   Time         milliseconds of any monotonic clock, always passed in. Nothing here reads a clock or sleeps, but
 *                datsync_run() and datsync_poll(), which use the clock that they were given.
 *   Ownership    what a function returns through an `out` argument belongs to the caller, who ends it with the
 *                matching _free or _close. Buffers and structs passed in are only used during the call, unless the
 *                text says otherwise. A struct of functions (datsync_store, datsync_net, datsync_env) is copied;
 *                what its `ctx` points to must outlive the object.
 *   Threads      no global state. One object must not be used by two threads at once; different feeds and
 *                synchronizers may be.
 *   Callbacks    are called from inside the call that caused them. They may call any function that only reads,
 *                and those that their text names; they must not free the object that calls them.
 *   Keys         a feed's public key is 32 bytes and is the capability to read it; secret keys are libsodium's
 *                Ed25519 form, 64 bytes.
 *
 * libsodium must have been initialised (sodium_init) before the first use of levels 2 and 3; datsync_feed_open and
 * datsync_new do it themselves.
 */
#ifndef DATSYNC_H
#define DATSYNC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DATSYNC_VERSION "0.1.0"

/* ---------------------------------------------------------------- limits --------------------------------------- */

/* The largest frame, length prefix not counted (hypercore-protocol closes the connection above it). */
#define DATSYNC_MAX_FRAME 8388608u
/* The largest block that fits in a Data frame with its longest proof: a larger one could never be sent. */
#define DATSYNC_MAX_BLOCK (DATSYNC_MAX_FRAME - 8192u)
/* Channels on one connection, each direction (hypercore-protocol's maxFeeds). */
#define DATSYNC_MAX_CHANNELS 256u
/* Ways by which addresses are found, and addresses that are remembered of each. */
#define DATSYNC_MAX_SOURCES 8u
#define DATSYNC_MAX_ADDRESSES 1024u
/* Blocks in one feed. The page directories are flat arrays; this bounds each of them to 4 MiB. */
#define DATSYNC_MAX_BLOCKS ((uint64_t)1 << 32)
/* Nodes in one proof: at most one uncle a level and one root a level, of a tree of DATSYNC_MAX_BLOCKS. */
#define DATSYNC_MAX_PROOF 80u
/* Requests of a peer that are queued, and our own in flight at one peer: reading pauses when it is full. */
#define DATSYNC_MAX_REQUESTS 1024u
/* Answers are built only while a peer's output holds less than this. */
#define DATSYNC_MAX_OUTPUT 1048576u
/* The range of one Want (fixed by the deployed implementation) and how many may be unanswered. */
#define DATSYNC_WANT_RANGE 1048576u
#define DATSYNC_MAX_WANTS 16u
/* Messages and bytes kept for a channel that is not open yet on this side, and bytes for the whole connection. */
#define DATSYNC_MAX_EARLY 17u
#define DATSYNC_MAX_EARLY_BYTES 65536u
#define DATSYNC_MAX_EARLY_TOTAL 262144u
/* Memory for what a remote says that it has, in KiB a channel (a page of 8192 blocks that is neither empty nor full
 * takes one). Haves beyond are not believed. */
#define DATSYNC_MAX_REMOTE_KIB 4096u
/* Extensions in one handshake, and bytes of a name. */
#define DATSYNC_MAX_EXTENSIONS 64u
#define DATSYNC_MAX_EXTENSION_NAME 256u
/* Bytes of user data in our own handshake. */
#define DATSYNC_MAX_USER_DATA 65536u
/* A feed's writes are committed (synced, then claimed in the bitfield) in groups of so many bytes or milliseconds. */
#define DATSYNC_GROUP_BYTES 67108864u
#define DATSYNC_GROUP_MS 1000u
/* A path in a drive, its slashes included (PATH_MAX of the systems that people have). */
#define DATSYNC_MAX_PATH 4096u
/* Blocks into which a drive's files are cut when they are imported, as `dat` does. */
#define DATSYNC_FILE_BLOCK 65536u
/* The connection timeout (hypercore-protocol's default): a keep-alive goes out after 3/4 of it without sending, the
 * connection dies after 3/2 of it without receiving. */
#define DATSYNC_TIMEOUT_MS 5000u

/* ---------------------------------------------------------------- errors --------------------------------------- */

/* Grouped by layer. Values are part of the ABI and do not change. */
enum datsync_error {
    DATSYNC_OK = 0,
    /* general */
    DATSYNC_E_NOMEM = -1,       /* the allocator returned NULL */
    DATSYNC_E_INVALID = -2,     /* an argument is out of its range */
    DATSYNC_E_STATE = -3,       /* not possible in this state (the call came too early, too late or twice) */
    DATSYNC_E_TOO_BIG = -4,     /* over one of the limits above */
    DATSYNC_E_UNSUPPORTED = -5, /* a plug that this needs is not there */
    DATSYNC_E_RANDOM = -6,      /* libsodium could not be initialised */
    /* wire */
    DATSYNC_E_MORE = -20,    /* the bytes end before the frame does: come again with more */
    DATSYNC_E_FRAME = -21,   /* the frame's length is over DATSYNC_MAX_FRAME or over 4 bytes long */
    DATSYNC_E_MESSAGE = -22, /* the frame's body does not decode */
    DATSYNC_E_SPACE = -23,   /* the output buffer is too small */
    DATSYNC_E_RLE = -24,     /* a run-length encoded bitfield is cut short or too long */
    /* feed */
    DATSYNC_E_NOT_FOUND = -40,    /* no such block, node or feed here */
    DATSYNC_E_HASH = -41,         /* a block or node does not have the hash that the tree says */
    DATSYNC_E_SIGNATURE = -42,    /* the signature does not verify */
    DATSYNC_E_NO_SIGNATURE = -43, /* a proof came without the signature that it needs */
    DATSYNC_E_PROOF = -44,        /* nodes are missing from a proof: it cannot be verified yet */
    DATSYNC_E_OTHER_FEED = -45,   /* the store holds another feed */
    DATSYNC_E_LOCKED = -46,       /* another process has this feed open */
    DATSYNC_E_READ_ONLY = -47,    /* no secret key here, or the feed was opened for reading only */
    DATSYNC_E_CORRUPT = -48,      /* the store's files contradict each other */
    DATSYNC_E_KEY = -49,          /* key and secret key do not belong together, or a key is malformed */
    DATSYNC_E_OVERWRITTEN = -50,  /* the bitfield file's header is zeroed: the feed would open as an empty one */
    /* peer */
    DATSYNC_E_CLOSED = -60,       /* the connection ended */
    DATSYNC_E_PROTOCOL = -61,     /* the remote broke the protocol */
    DATSYNC_E_TIMEOUT = -62,      /* the remote was silent for too long */
    DATSYNC_E_FIRST_FEED = -63,   /* the two sides' first feeds differ */
    DATSYNC_E_SELF = -64,         /* connected to oneself */
    DATSYNC_E_DUPLICATE = -65,    /* connected to this peer already */
    DATSYNC_E_EARLY = -66,        /* too many messages on a channel that is not open here */
    DATSYNC_E_DONE = -67,         /* both sides have all that they wanted: the good end */
    DATSYNC_E_UNKNOWN_FEED = -68, /* the remote opened with a feed that is not served here */
    DATSYNC_E_SLOW = -69,         /* the remote did not take our bytes in time */
    DATSYNC_E_BAD_DATA = -70,     /* the remote sent a block or proof that is false */
    /* I/O */
    DATSYNC_E_IO = -80,          /* the operating system failed to read, write or connect */
    DATSYNC_E_NO_SPACE = -81,    /* no space left on the device, or quota, or file size limit */
    DATSYNC_E_ACCESS = -82,      /* permission denied, or a read-only file system */
    DATSYNC_E_NO_ENTRY = -83,    /* no such file or directory */
    DATSYNC_E_IN_USE = -84,      /* the address is taken */
    DATSYNC_E_REFUSED = -85,     /* the connection was refused */
    DATSYNC_E_AGAIN = -86,       /* nothing to do now: wait for poll */
    DATSYNC_E_ADDRESS = -87,     /* the address does not parse, resolve or belong to this machine */
    DATSYNC_E_UNREACHABLE = -88, /* no route, or the dial timed out */
    /* drive */
    DATSYNC_E_HEADER = -100,     /* the first block of the metadata is not the header of a drive */
    DATSYNC_E_INDEX = -101,      /* an entry's index points forward, in a circle or elsewhere, or does not decode */
    DATSYNC_E_ENTRY = -102,      /* an entry does not decode, or is neither a file nor a folder */
    DATSYNC_E_PATH = -103,       /* an entry's path is one that a drive must not have: `..`, an empty segment, `.dat` */
    DATSYNC_E_RANGE = -104,      /* an entry's offset or size lies outside the content, or is not that of its blocks */
    DATSYNC_E_NAME = -105,       /* the file system at hand can't hold this name */
    DATSYNC_E_LINK = -106,       /* a symbolic link, or what is neither file nor folder, is in the way */
    DATSYNC_E_NOT_FOLDER = -107, /* a file is where a folder must be */
    DATSYNC_E_IS_FOLDER = -108,  /* a folder is where a file must be */
    DATSYNC_E_CHANGED = -109,    /* the file was changed here: it is kept */
    DATSYNC_E_BUSY = -110,       /* the file changes while it is being read, or another program holds it */
    DATSYNC_E_PARTIAL = -111     /* not all blocks of the file were downloaded */
};

/* A short English sentence without a final period; never NULL, also for numbers that are not in the list. */
const char *datsync_strerror(int error);

/* ---------------------------------------------------------------- plugs ---------------------------------------- */

typedef struct datsync_bytes {
    const uint8_t *data; /* NULL: absent */
    size_t len;
} datsync_bytes;

enum datsync_log_level { DATSYNC_LOG_ERROR, DATSYNC_LOG_WARNING, DATSYNC_LOG_INFO, DATSYNC_LOG_DEBUG };

/* What a process gives to all the objects that it makes. Every member may be zero; NULL in place of the whole struct
 * is the same as a zeroed one. The defaults need no OS. */
typedef struct datsync_env {
    void *ctx;
    /* As realloc: size 0 frees and returns NULL, ptr NULL allocates. Default: the C library's. */
    void *(*resize)(void *ctx, void *ptr, size_t size);
    /* Default: libsodium's randombytes_buf. */
    void (*random)(void *ctx, void *buf, size_t len);
    /* One line without a line feed. Default: none. */
    void (*log)(void *ctx, int level, const char *line);
    /* Monotonic milliseconds. Only datsync_run() and datsync_poll() ask for it. Default: none. */
    uint64_t (*clock)(void *ctx);
} datsync_env;

/* ================================================================ 1. wire ====================================== */

/* Message types (DEP-0010). 10 to 14 do not exist and are ignored by all implementations. */
enum datsync_type {
    DATSYNC_FEED = 0,
    DATSYNC_HANDSHAKE = 1,
    DATSYNC_INFO = 2,
    DATSYNC_HAVE = 3,
    DATSYNC_UNHAVE = 4,
    DATSYNC_WANT = 5,
    DATSYNC_UNWANT = 6,
    DATSYNC_REQUEST = 7,
    DATSYNC_CANCEL = 8,
    DATSYNC_DATA = 9,
    DATSYNC_EXTENSION = 15,
    DATSYNC_KEEP_ALIVE = 16 /* not a type on the wire: a frame of length 0 */
};

/* A node of the hash tree, by its flat-tree index. */
typedef struct datsync_node {
    uint64_t index;
    uint64_t size; /* bytes of all blocks below it */
    uint8_t hash[32];
} datsync_node;

/* The bits of `has`, for each type of message: 1 << the number of the protobuf field. Unhave, Want and Unwant are as
 * Have, Cancel is as Request. */
#define DATSYNC_FEED_DISCOVERY_KEY (1u << 1)
#define DATSYNC_FEED_NONCE (1u << 2)
#define DATSYNC_HANDSHAKE_ID (1u << 1)
#define DATSYNC_HANDSHAKE_LIVE (1u << 2)
#define DATSYNC_HANDSHAKE_USER_DATA (1u << 3)
#define DATSYNC_HANDSHAKE_EXTENSIONS (1u << 4)
#define DATSYNC_HANDSHAKE_ACK (1u << 5)
#define DATSYNC_INFO_UPLOADING (1u << 1)
#define DATSYNC_INFO_DOWNLOADING (1u << 2)
#define DATSYNC_HAVE_START (1u << 1)
#define DATSYNC_HAVE_LENGTH (1u << 2)
#define DATSYNC_HAVE_BITFIELD (1u << 3)
#define DATSYNC_HAVE_ACK (1u << 4)
#define DATSYNC_REQUEST_INDEX (1u << 1)
#define DATSYNC_REQUEST_BYTES (1u << 2)
#define DATSYNC_REQUEST_HASH (1u << 3)
#define DATSYNC_REQUEST_NODES (1u << 4)
#define DATSYNC_DATA_INDEX (1u << 1)
#define DATSYNC_DATA_VALUE (1u << 2)
#define DATSYNC_DATA_NODES (1u << 3)
#define DATSYNC_DATA_SIGNATURE (1u << 4)

/* One message. `has` has bit N set for each protobuf field N that was present (decoding) or is to be written
 * (encoding); members of absent fields read as 0 / NULL. Booleans are 0 or 1. Byte strings borrow from the frame. */
typedef struct datsync_message {
    int type; /* enum datsync_type */
    unsigned channel;
    uint32_t has;
    union {
        struct { /* 1, 2 */
            datsync_bytes discovery_key, nonce;
        } feed;
        struct { /* 1, 2, 3, 4, 5 */
            datsync_bytes id;
            uint64_t live;
            datsync_bytes user_data;
            const datsync_bytes *extensions; /* encoding: array of extension_count names; decoding: NULL */
            size_t extension_count;
            uint64_t ack;
        } handshake;
        struct { /* 1, 2 */
            uint64_t uploading, downloading;
        } info;
        struct { /* Have 1, 2, 3, 4; Unhave, Want and Unwant 1, 2 */
            uint64_t start, length;
            datsync_bytes bitfield;
            uint64_t ack;
        } have;
        struct { /* Request 1, 2, 3, 4; Cancel 1, 2, 3 */
            uint64_t index, bytes, hash, nodes;
        } request;
        struct { /* 1, 2, 3, 4 */
            uint64_t index;
            datsync_bytes value;       /* encoding with has bit 2 and data NULL: `len` bytes are left free, see below */
            const datsync_node *nodes; /* encoding: array of node_count; decoding: NULL */
            size_t node_count;
            datsync_bytes signature;
        } data;
        struct { /* no protobuf: an index into the sender's handshake list, then bytes */
            uint64_t id;
            datsync_bytes payload;
        } extension;
    } u;
    datsync_bytes body; /* decoding: the protobuf, for the iterators */
} datsync_message;

/* Decode the frame at the start of buf[0..len). Returns the bytes that the frame takes, its length prefix included;
 * DATSYNC_E_MORE when it is not whole yet; DATSYNC_E_FRAME when it can never be; DATSYNC_E_MESSAGE when the frame is
 * whole but its body is bad: then *skip (if not NULL) is set to its bytes, so that it can be passed over, and
 * out->type and out->channel are set if the header could be read (type -1 if not). A frame of 1 byte (a header
 * without a body) is such a message for the deployed implementation; so it is here. */
int64_t datsync_decode(datsync_message *out, const uint8_t *buf, size_t len, size_t *skip);

/* The frame's whole size as far as the first bytes tell: > 0, DATSYNC_E_MORE or DATSYNC_E_FRAME. */
int64_t datsync_frame_size(const uint8_t *buf, size_t len);

/* Walk a repeated field of a decoded message. `*at` starts as 0. Returns 1 with the next item, 0 at the end, or
 * DATSYNC_E_MESSAGE. (datsync_decode has already checked that every item decodes.) */
int datsync_next_extension(const datsync_message *m, size_t *at, datsync_bytes *name);
int datsync_next_node(const datsync_message *m, size_t *at, datsync_node *node);

/* Encode with length prefix into buf[0..cap). Returns the bytes written, DATSYNC_E_SPACE, DATSYNC_E_TOO_BIG for a
 * frame over the limit or DATSYNC_E_INVALID for a message that datsync_decode would refuse: without a field that its
 * type requires, or without any (an Info or a Handshake needs one), of no such type or channel. With buf NULL,
 * returns the size that it would take. For Data whose value has data == NULL and len > 0, the value's place is left
 * unwritten and its offset is stored in *gap (may be NULL otherwise), so that a block can be read straight into the
 * output. */
int64_t datsync_encode(const datsync_message *m, uint8_t *buf, size_t cap, size_t *gap);

/* Protobuf's unsigned varint. decode: bytes taken (1 to 10), DATSYNC_E_MORE or DATSYNC_E_MESSAGE.
 * encode: bytes written; out must have 10. */
int datsync_varint_decode(const uint8_t *buf, size_t len, uint64_t *value);
int datsync_varint_encode(uint8_t *out, uint64_t value);

/* The stream cipher: XSalsa20 under the first feed's key, one state for each direction. */
typedef struct datsync_cipher {
    uint8_t subkey[32];
    uint8_t nonce[8];
    uint64_t at; /* bytes done; set it to start anywhere in the stream */
} datsync_cipher;

void datsync_cipher_init(datsync_cipher *c, const uint8_t key[32], const uint8_t nonce[24]);
/* Encrypt or decrypt the next len bytes in place. */
void datsync_cipher_xor(datsync_cipher *c, uint8_t *buf, size_t len);

/* The bitfields of Have are run-length encoded (bitfield-rle), most significant bit first. */
/* Returns the decoded size in bytes, without decoding; DATSYNC_E_RLE if cut short or over `limit` bytes. */
int64_t datsync_rle_size(const uint8_t *buf, size_t len, size_t limit);
/* Returns the bytes written to out[0..cap); DATSYNC_E_RLE, DATSYNC_E_SPACE. */
int64_t datsync_rle_decode(const uint8_t *buf, size_t len, uint8_t *out, size_t cap);
/* Returns the bytes written; out must have room for len + len / 64 + 16 bytes. Trailing zero bytes are dropped, as
 * the deployed encoder does; all zero encodes to nothing. */
int64_t datsync_rle_encode(const uint8_t *bits, size_t len, uint8_t *out, size_t cap);

/* BLAKE2b-256 of `hypercore` (lower case), keyed with the public key: what may be told to strangers. */
void datsync_discovery_key(uint8_t out[32], const uint8_t key[32]);
/* A link as people have it: KEY, 64 hexadecimal digits, with or without `dat://` or `dat:` before (in any case) or
 * `https://HOST/`, as the old web pages had it (`http` too); behind it maybe `+VERSION`, and `/PATH`, whose escapes
 * (%20) are decoded; blanks around. A query and a fragment are passed over. *version: 1 to DATSYNC_MAX_BLOCKS, 0 if
 * it names none. path[0..cap): one slash before each name and none behind, `""` if it names none (a lone `/` is
 * none). Where version or path is NULL, a link that has one is DATSYNC_E_INVALID. DATSYNC_E_KEY: there is no key in
 * it; DATSYNC_E_UNSUPPORTED: what stands in the key's place is a name, which would have to be looked up;
 * DATSYNC_E_INVALID: no such version can be; DATSYNC_E_PATH: an escape that is none, no UTF-8, `..`;
 * DATSYNC_E_TOO_BIG: cap is too small (strlen(link) + 1 is enough). What it writes to is undefined then. */
int datsync_link_parse(const char *link, uint8_t key[32], uint64_t *version, char *path, size_t cap);
/* The same where only the key is wanted. Returns 0 or DATSYNC_E_KEY, also for a link to a version or a path. */
int datsync_parse_link(uint8_t key[32], const char *link);

/* Hashes of the tree (DEP-0002): BLAKE2b-256 of 0 | size | data, of 1 | size | left | right. */
void datsync_leaf_hashes(datsync_node *out, const datsync_bytes *blocks, size_t count); /* sets hash and size only */
void datsync_parent_hash(datsync_node *out, const datsync_node *left, const datsync_node *right); /* all members */
void datsync_root_hash(uint8_t out[32], const datsync_node *roots, size_t count);

/* Flat-tree arithmetic (the in-order numbering of DEP-0002: block i is node 2i). Indexes are below 2^62. */
unsigned datsync_flat_depth(uint64_t index);
uint64_t datsync_flat_parent(uint64_t index);
uint64_t datsync_flat_sibling(uint64_t index);
uint64_t datsync_flat_left_span(uint64_t index);
uint64_t datsync_flat_right_span(uint64_t index);
/* The roots of a tree of `blocks` blocks, left to right; out must have 64. Returns how many. */
size_t datsync_flat_full_roots(uint64_t out[64], uint64_t blocks);

/* ================================================================ 2. feed ====================================== */

/* The six parts of a feed (SLEEP, DEP-0009). */
enum datsync_part {
    DATSYNC_PART_KEY,
    DATSYNC_PART_SECRET_KEY,
    DATSYNC_PART_TREE,
    DATSYNC_PART_SIGNATURES,
    DATSYNC_PART_BITFIELD,
    DATSYNC_PART_DATA,
    DATSYNC_PARTS
};

/* Where a feed's bytes are. All functions but punch, lock and close are required. */
typedef struct datsync_store {
    void *ctx;
    /* Bytes read; fewer than len only at the end of the part (0 if it is not there); or an error. */
    int64_t (*read)(void *ctx, int part, uint64_t offset, void *buf, size_t len);
    /* Write all of it, growing the part (with zeros before offset if needed): 0 or an error. */
    int (*write)(void *ctx, int part, uint64_t offset, const void *buf, size_t len);
    /* The part's size; DATSYNC_E_NO_ENTRY if it is not there. */
    int64_t (*size)(void *ctx, int part);
    int (*truncate)(void *ctx, int part, uint64_t size);
    /* Everything written to the part before is durable when this returns 0. */
    int (*sync)(void *ctx, int part);
    /* Give the bytes back to the file system; they read as zeros or as before. May be NULL: nothing is freed. */
    int (*punch)(void *ctx, int part, uint64_t offset, uint64_t len);
    /* Exclusive, until close: 0, DATSYNC_E_LOCKED, DATSYNC_E_NOT_FOUND (nothing is there), or an I/O error. May be
     * NULL. */
    int (*lock)(void *ctx);
    /* Release everything, ctx too. May be NULL. */
    void (*close)(void *ctx);
} datsync_store;

/* A store in memory. It is freed when the feed is closed. */
int datsync_memory_store(const datsync_env *env, datsync_store *out);

typedef struct datsync_feed datsync_feed;

enum datsync_feed_flags {
    DATSYNC_CREATE = 1,    /* make the feed if the store is empty; without a key, with a new pair of keys */
    DATSYNC_READ_ONLY = 2, /* write nothing, take no lock */
    /* Never wait for the disk. What is given up: after a power cut or a crash of the system, blocks may be claimed
     * that are not there, and an owner may append differently what others already have (a fork, which ends the
     * feed). A crash of the process alone loses nothing. For caches and benchmarks. */
    DATSYNC_NO_SYNC = 4,
    DATSYNC_STATIC = 8, /* with CREATE and no key: a static feed, whose key is made by datsync_feed_finalize */
    /* With READ_ONLY: a bitfield file whose header is zeroed is no error, but is not read. What the tree has a leaf of
     * counts as held; datsync_feed_verify tells which blocks really are. */
    DATSYNC_SALVAGE = 32
};

typedef struct datsync_feed_options {
    const datsync_env *env;    /* may be NULL; copied */
    datsync_store store;       /* with no `read`: a memory store */
    const uint8_t *key;        /* 32 bytes, or NULL: what the store holds */
    const uint8_t *secret_key; /* 64 bytes, or NULL: what the store holds */
    unsigned flags;
} datsync_feed_options;

/* Open what the store holds. The store belongs to the feed from this call on, also if it fails: it is closed.
 * Recovery happens here: the length is that of the longest signature that verifies; a block without its tree leaf is
 * dropped; an owner's blocks that were written but not yet claimed are verified and claimed again. Errors:
 * DATSYNC_E_NOT_FOUND (empty, and no CREATE), DATSYNC_E_OTHER_FEED, DATSYNC_E_LOCKED, DATSYNC_E_KEY,
 * DATSYNC_E_CORRUPT (more is claimed than the signatures stand for: an owner would fork the feed, a reader could
 * prove nothing; no file is changed), DATSYNC_E_OVERWRITTEN (the same, for a bitfield file whose header is zeroed:
 * DATSYNC_SALVAGE tells more), I/O. An empty secret key part is none. A bitfield file whose header states another of
 * the two deployed page sizes than it has is read by that which it has, and unless opened for reading only its
 * header is put right. */
int datsync_feed_open(datsync_feed **out, const datsync_feed_options *options);
/* Commit and close; peers must have been freed before. Returns the commit's result; the feed is gone in any case. */
int datsync_feed_close(datsync_feed *feed);

const uint8_t *datsync_feed_key(const datsync_feed *feed); /* 32 bytes; zeros for a static feed not finalized */
const uint8_t *datsync_feed_discovery_key(const datsync_feed *feed);
const uint8_t *datsync_feed_secret_key(const datsync_feed *feed); /* 64 bytes, or NULL */
int datsync_feed_writable(const datsync_feed *feed);
uint64_t datsync_feed_length(const datsync_feed *feed);      /* blocks, of the longest signed tree known */
uint64_t datsync_feed_byte_length(const datsync_feed *feed); /* bytes of all of them, held or not */
int datsync_feed_has(const datsync_feed *feed, uint64_t index);
uint64_t datsync_feed_count(const datsync_feed *feed, uint64_t start, uint64_t end); /* blocks held in start..end */
int datsync_feed_has_node(const datsync_feed *feed, uint64_t node);

/* Append count blocks, signed once. Returns the new length. A block over DATSYNC_MAX_BLOCK is refused
 * (DATSYNC_E_TOO_BIG) and nothing is appended; so it is after an I/O error. The blocks are durable, and told to
 * peers, after the next commit (datsync_feed_flush, and by itself as DATSYNC_GROUP_BYTES and _MS say). */
int64_t datsync_feed_append(datsync_feed *feed, const datsync_bytes *blocks, size_t count);
/* Give a static feed its key, the hash of its tree; it cannot grow afterwards. */
int datsync_feed_finalize(datsync_feed *feed);

/* The size of a block (its leaf must be held, not the block); DATSYNC_E_NOT_FOUND. */
int64_t datsync_feed_block_size(datsync_feed *feed, uint64_t index);
/* Read a block into buf[0..cap). Returns its size; DATSYNC_E_NOT_FOUND, DATSYNC_E_SPACE. The bytes were verified when
 * they were stored; datsync_feed_verify verifies them anew. */
int64_t datsync_feed_get(datsync_feed *feed, uint64_t index, void *buf, size_t cap);
/* Drop blocks; their hashes stay. The bitfield is committed first, then the bytes go. */
int datsync_feed_clear(datsync_feed *feed, uint64_t start, uint64_t end);
/* The block that holds byte `offset`, and the offset inside it. DATSYNC_E_NOT_FOUND when the nodes on the way are not
 * held, DATSYNC_E_INVALID beyond the end. */
int datsync_feed_seek(datsync_feed *feed, uint64_t offset, uint64_t *index, uint64_t *inside);

/* What a Request for this block tells of what is held (DEP-0010, Request.nodes). */
uint64_t datsync_feed_digest(const datsync_feed *feed, uint64_t index);

typedef struct datsync_proof {
    datsync_node nodes[DATSYNC_MAX_PROOF];
    size_t node_count;
    uint8_t signature[64];
    int has_signature;
    uint64_t length; /* of the tree that the signature is for; 0 without one */
} datsync_proof;

/* The proof of a block for somebody whose digest is `nodes`; with `hash`, the leaf comes first. DATSYNC_E_NOT_FOUND if
 * the leaf is not held, DATSYNC_E_NO_SIGNATURE if the one that is needed is not there. */
int datsync_feed_proof(datsync_feed *feed, uint64_t index, uint64_t nodes, int hash, datsync_proof *out);
/* Verify a block (value->data NULL: its hash alone, which is then the proof's first node) and store it. In any
 * order. Returns 1 if it is new, 0 if it was held already; DATSYNC_E_HASH, DATSYNC_E_SIGNATURE,
 * DATSYNC_E_NO_SIGNATURE, DATSYNC_E_PROOF, DATSYNC_E_INVALID (an index that no feed has, or no key here),
 * DATSYNC_E_TOO_BIG, DATSYNC_E_READ_ONLY; nothing is stored then. A hash alone binds only the sum of its and its
 * sibling's sizes; the first of the two blocks to come settles them. */
int datsync_feed_put(datsync_feed *feed, uint64_t index, datsync_bytes value, const datsync_proof *proof);

/* Called for each fault found: the block, and enum datsync_part of the file that is wrong. */
typedef void datsync_fault_fn(void *ctx, uint64_t index, int part);
/* Read everything: each block checked against its leaf, each leaf up to the roots, the roots against the signature.
 * Returns how many blocks are good; faults, and claims that opening has already dropped, are reported through fn and,
 * unless the feed is read-only, their blocks are no longer claimed. */
int64_t datsync_feed_verify(datsync_feed *feed, datsync_fault_fn *fn, void *ctx);

/* Commit: write what is buffered, sync it, then claim it in the bitfield and sync that. */
int datsync_feed_flush(datsync_feed *feed);
/* Commit if the group is due (the synchronizer calls this). Returns 1 if it committed. */
int datsync_feed_tick(datsync_feed *feed, uint64_t now);

/* Which blocks are downloaded, [start, end): all, until the first call; each call adds a range, which may be empty. */
int datsync_feed_want(datsync_feed *feed, uint64_t start, uint64_t end);
void datsync_feed_unwant(datsync_feed *feed); /* none */
/* Blocks of the wanted ranges below the length that are not held. */
uint64_t datsync_feed_missing(const datsync_feed *feed);

/* ================================================================ 2. drive ===================================== */

/* A folder of files in two feeds (hyperdrive 9): `metadata`, one entry for each change, and `content`, the bytes of
 * all files one behind the other. */

/* One file or folder beneath a root, as the operating system tells it. */
typedef struct datsync_file_info {
    uint32_t mode;  /* as in Stat: 0100000 file, 0040000 folder, 0120000 symbolic link; and permissions */
    uint64_t size;  /* bytes */
    uint64_t mtime; /* ms since 1970 */
} datsync_file_info;

/* Files beneath a root. Paths are relative to it, UTF-8, with `/` between names, and have been checked: no empty,
 * `.` or `..` name, no NUL. No function may follow a symbolic link, also not in the folders on the way
 * (DATSYNC_E_LINK). `""` is the root itself, for list and stat. Errors beside those of I/O: DATSYNC_E_NO_ENTRY,
 * DATSYNC_E_NAME, DATSYNC_E_NOT_FOLDER, DATSYNC_E_IS_FOLDER. */
typedef struct datsync_files {
    void *ctx;
    int case_folds; /* the file system takes `A` and `a` for one name */
    /* Open a file for reading, or with `write` for both, making it if it is not there. Its folder must be there. */
    int (*open_file)(void *ctx, const char *path, int write, intptr_t *file);
    int64_t (*read)(void *ctx, intptr_t file, uint64_t offset, void *buf, size_t len); /* fewer bytes only at the end */
    int (*write)(void *ctx, intptr_t file, uint64_t offset, const void *buf, size_t len);
    int (*truncate)(void *ctx, intptr_t file, uint64_t size);
    void (*close_file)(void *ctx, intptr_t file);
    /* What is at this path (the link itself, where it is one). */
    int (*stat)(void *ctx, const char *path, datsync_file_info *out);
    /* Call fn for each name in a folder, in any order, until it returns non-zero, which is returned. The names are
     * not checked; stat each as needed. */
    int (*list)(void *ctx, const char *path, int (*fn)(void *arg, const char *name), void *arg);
    int (*mkdir)(void *ctx, const char *path);                  /* 0 also if it is a folder already */
    int (*rename)(void *ctx, const char *from, const char *to); /* replaces a file */
    int (*unlink)(void *ctx, const char *path);
    int (*rmdir)(void *ctx, const char *path); /* DATSYNC_E_STATE if it is not empty */
    /* Set the permissions (the lowest 9 bits of mode) and the time of change. */
    int (*set)(void *ctx, const char *path, uint32_t mode, uint64_t mtime);
    /* Everything that was written, made, renamed or removed beneath the root is durable when this returns 0. */
    int (*sync)(void *ctx);
    void (*close)(void *ctx); /* release everything, ctx too. May be NULL */
} datsync_files;

/* Where an owner's secret keys are; never in the folder that is shared. */
typedef struct datsync_secrets {
    void *ctx;
    /* DATSYNC_E_NOT_FOUND: it has none; DATSYNC_E_KEY: what it has is no key. */
    int (*load)(void *ctx, const uint8_t discovery_key[32], uint8_t secret_key[64]);
    int (*save)(void *ctx, const uint8_t discovery_key[32], const uint8_t secret_key[64]); /* synced, mode 0600 */
    void (*close)(void *ctx);                                                              /* may be NULL */
} datsync_secrets;

/* An entry's Stat. Times in ms since 1970. */
typedef struct datsync_stat {
    uint32_t mode; /* 0100644: a file; 0040755: a folder */
    uint32_t uid, gid;
    uint64_t size, blocks;        /* bytes and content blocks */
    uint64_t offset, byte_offset; /* where they begin: content block, byte of all content */
    uint64_t mtime, ctime;
} datsync_stat;

/* One entry of the metadata. `path` begins with `/`, is NUL-terminated, and is valid until the next call on the
 * drive. It is what the feed says, unchecked: `error` is 0, or DATSYNC_E_PATH or DATSYNC_E_ENTRY for one that must
 * not be laid out. */
typedef struct datsync_entry {
    const char *path;
    uint64_t version; /* its number in the metadata */
    int deleted;      /* what was at the path is removed; then stat is all zero */
    datsync_stat stat;
    int error;
} datsync_entry;

typedef struct datsync_drive datsync_drive;

enum datsync_drive_flags {
    /* With CREATE: keep the whole history of the content in the content store's data part, and lay files out as
     * copies. Without it, the content is in the files themselves, as `dat` keeps it, and only the latest version of
     * each is there. What the store holds decides when it exists already. Without files, always. */
    DATSYNC_ARCHIVE = 16
};

typedef struct datsync_drive_options {
    const datsync_env *env; /* may be NULL; copied */
    /* With no `read`: memory stores. A folder's are datsync_os_store(DIR/.dat, "metadata.") and "content.";
     * hyperdrive's own (DIR/metadata, "") and (DIR/content, ""), without files. */
    datsync_store metadata, content;
    datsync_files files;       /* with no `open_file`: none; nothing is laid out */
    datsync_secrets secrets;   /* with no `load`: as the metadata store holds it */
    const uint8_t *key;        /* 32 bytes, or NULL: what the store holds */
    const uint8_t *secret_key; /* 64 bytes, or NULL: what `secrets` has, if the folder says that it is the owner's */
    unsigned flags;            /* DATSYNC_CREATE (without a key: a new drive), READ_ONLY, NO_SYNC, ARCHIVE, SALVAGE */
} datsync_drive_options;

/* Open the drive that stores and files hold. All plugs belong to the drive from this call on, also if it fails.
 * Errors: as datsync_feed_open; DATSYNC_E_HEADER; DATSYNC_E_KEY (a content key that is the metadata's). */
int datsync_drive_open(datsync_drive **out, const datsync_drive_options *options);
/* Commit and close; synchronizers must have been freed before. */
int datsync_drive_close(datsync_drive *drive);
int datsync_drive_flush(datsync_drive *drive);

datsync_feed *datsync_drive_metadata(const datsync_drive *drive); /* the drive's; its key is that of the drive */
datsync_feed *datsync_drive_content(const datsync_drive *drive);  /* the drive's; NULL until the header is known */
int datsync_drive_writable(const datsync_drive *drive);
int datsync_drive_archive(const datsync_drive *drive);
/* The newest version known: the number of the last entry, 0 if there is none. */
uint64_t datsync_drive_version(const datsync_drive *drive);
/* The version whose files are in the folder, whole or on their way: that of `metadata.latest`, if the files don't
 * say that it is the newest; an owner's is the newest. datsync_drive_look tells whether it is there whole. */
uint64_t datsync_drive_laid_out(datsync_drive *drive);

/* Reading entries. Each may return DATSYNC_E_NOT_FOUND, DATSYNC_E_INDEX, DATSYNC_E_ENTRY, an I/O error, or
 * DATSYNC_E_MORE when a metadata block is needed that is not here: *needed is its number; want it, and come again.
 * With `needed` NULL, find and list tell what is known without it, the newest of the entries that are here for each
 * name, and then return DATSYNC_E_MORE (find: with out->path NULL if there is none). Versions: 0 is the empty drive. */
/* The entry with this number, 1 to datsync_drive_version(). */
int datsync_drive_entry(datsync_drive *drive, uint64_t number, datsync_entry *out, uint64_t *needed);
/* What was at `path` in a version, by the index: the entries of one folder for each level of the path, no other
 * history. With an error, but as is said above, *out tells nothing. */
int datsync_drive_find(datsync_drive *drive, uint64_t version, const char *path, datsync_entry *out, uint64_t *needed);
/* fn is called for each file and folder entry of a version beneath `path` (`/`: all), in the order of the index;
 * with `deep` 0 only for those in the folder itself, and for a folder with files beneath it that has no entry of its
 * own (or one of a file: both can be there) an entry with the mode of a folder and version 0. It may not call the
 * drive. Until it returns non-zero, which is returned. */
typedef int datsync_entry_fn(void *ctx, const datsync_entry *entry);
int datsync_drive_list(datsync_drive *drive, uint64_t version, const char *path, int deep, datsync_entry_fn *fn,
                       void *ctx, uint64_t *needed);
/* Bytes of an entry's file, each block checked against the tree. Returns how many; fewer than len only at the file's
 * end. DATSYNC_E_NOT_FOUND when a block is not held, DATSYNC_E_HASH when the file was changed. */
int64_t datsync_drive_read(datsync_drive *drive, const datsync_entry *entry, uint64_t offset, void *buf, size_t len);

/* Writing, as the owner. A change is durable, and told to peers, after the next commit. */
/* Give the next bytes: > 0, 0 at the end, or an error, which put returns. */
typedef int64_t datsync_read_fn(void *ctx, void *buf, size_t len);
/* Put a file (bytes from read, which may be NULL for none) or, with the mode of a folder, a folder. Of `stat`, mode,
 * uid, gid, mtime and ctime count. Where the content is in the files, the bytes must be those of the file at this
 * path. Returns the new version. */
int64_t datsync_drive_put(datsync_drive *drive, const char *path, const datsync_stat *stat, datsync_read_fn *read,
                          void *ctx);
/* DATSYNC_E_NOT_FOUND if there is no such entry. Returns the new version. */
int64_t datsync_drive_remove(datsync_drive *drive, const char *path);

enum datsync_change { DATSYNC_ADDED, DATSYNC_UPDATED, DATSYNC_REMOVED, DATSYNC_UNCHANGED, DATSYNC_REFUSED };

/* What import tells. */
typedef struct datsync_import_event {
    int change;       /* enum datsync_change */
    const char *path; /* begins with `/` */
    uint64_t size;    /* bytes of the file */
    uint64_t done;    /* of them read. Large files are told of several times; done == size ends it */
    int error;        /* REFUSED: why */
} datsync_import_event;

typedef struct datsync_import_options {
    void *ctx;
    /* Leave this path out (for a folder, everything beneath it). NULL: none. `.dat` is left out in any case, and
     * symbolic links are REFUSED. What is left out and was imported before is removed from the drive. */
    int (*ignore)(void *ctx, const char *path, int is_folder);
    /* Also called between the blocks of a large file; it may call datsync_poll. Non-zero ends the import in order:
     * DATSYNC_E_AGAIN. */
    int (*on_event)(void *ctx, const datsync_import_event *event);
    /* Is this file, which is new or not as it was recorded, to be taken now? 0: it stays as it is in the drive,
     * until the next import; it may be in the making. `maybe_same`: its size is as recorded, so it would be read to
     * see whether its bytes are. NULL: all are. */
    int (*ready)(void *ctx, const char *path, const datsync_file_info *info, int maybe_same);
    int dry_run; /* only tell what would be done */
    int keep;    /* remove nothing */
} datsync_import_options;

/* Bring the drive up to its folder: new and changed files are put, those that are gone are removed. A file counts as
 * unchanged if size and mtime are those of its entry, or if every byte is (while the drive is open it is read again
 * only where these have changed). Empty folders become entries. Returns how many changes were made. */
int64_t datsync_drive_import(datsync_drive *drive, const datsync_import_options *options);

/* How what is downloaded is laid out, from the next version that is laid out on. */
typedef struct datsync_layout {
    void *ctx;
    /* 0: the newest. One that does not exist, once all metadata is here: DATSYNC_EV_FAILED, DATSYNC_E_NOT_FOUND. */
    uint64_t version;
    int force; /* overwrite and delete also files that were changed here; folders and links in the way stay */
    /* Non-zero: download this file or folder. NULL: all. Must outlive the drive. */
    int (*select)(void *ctx, const char *path);
} datsync_layout;
void datsync_drive_layout(datsync_drive *drive, const datsync_layout *layout);

/* What is here of a drive. Files count as selected by the layout, if it selects. */
typedef struct datsync_drive_state {
    uint64_t version;  /* the newest known */
    uint64_t laid_out; /* the version all of whose files and folders are here, 0: none */
    uint64_t missing;  /* entries of the metadata that are not here: what they change is not known */
    int has_header;
    uint64_t files, bytes, blocks; /* of the newest version, or of the layout's: files, their bytes, blocks */
    uint64_t whole, held;          /* files and blocks of these that are here */
    int complete; /* the newest version is here, whole. Says nothing of what peers may know beyond it */
    /* Living files that the index loses and deleted ones that it shows, as deletions by old versions of append-tree
     * leave it: every function here goes by the history instead. */
    uint64_t lost, shown;
} datsync_drive_state;

/* How files are checked against their entries. `fault` (may be NULL) is told each entry that is not here whole, and
 * why: DATSYNC_E_PARTIAL (not all of it was downloaded), DATSYNC_E_NO_ENTRY (it was here), DATSYNC_E_CHANGED, ... An
 * empty file that is not there is none: the deployed implementation makes none. */
typedef struct datsync_drive_check {
    void *ctx;
    void (*fault)(void *ctx, const datsync_entry *entry, int error);
    int deep; /* read every byte; else only files whose size is as recorded and whose time is not */
} datsync_drive_check;

/* A quick look, by names, sizes and what is claimed; it reads no file. Writes nothing. */
int datsync_drive_look(datsync_drive *drive, datsync_drive_state *out, const datsync_drive_check *check);
/* Check all files of the version that is here against the tree. Returns how many entries are good. Writes nothing:
 * what is not as recorded is only not offered while the drive is open. (The synchronizer looks before it announces
 * anything, reads by and by what must be read, and looks again each minute at what was not as recorded.) */
int64_t datsync_drive_verify(datsync_drive *drive, const datsync_drive_check *check);

/* ================================================================ 2. peer ====================================== */

typedef struct datsync_peer datsync_peer;

enum datsync_peer_event_type {
    DATSYNC_PEER_FEED,      /* the remote opened a feed (discovery_key) that is not open here; datsync_peer_open may
                               be called */
    DATSYNC_PEER_HANDSHAKE, /* remote id and flags are known */
    DATSYNC_PEER_HAVE,      /* what the remote has of `feed` changed */
    DATSYNC_PEER_BLOCK,     /* block `index` of `feed` was verified and stored, `size` bytes */
    DATSYNC_PEER_UPLOAD,    /* block `index` of `feed` was sent, `size` bytes */
    DATSYNC_PEER_REJECT,    /* block `index` of `feed` was not accepted, `error` says why; a false one ends the
                               connection */
    DATSYNC_PEER_EXTENSION, /* `name`, `payload` */
    DATSYNC_PEER_FINISHED   /* this channel is done on both sides */
};

typedef struct datsync_peer_event {
    int type;
    datsync_feed *feed; /* NULL if not open here */
    const uint8_t *discovery_key;
    uint64_t index, size;
    int error;
    const char *name;
    datsync_bytes payload;
} datsync_peer_event;

enum { DATSYNC_DOWNLOAD = 1, DATSYNC_UPLOAD = 2 };

typedef struct datsync_peer_options {
    const datsync_env *env;
    uint8_t id[32];          /* zeros: random. The same for all connections of one program: it is how a connection to
                           oneself is noticed */
    int live;                /* stay after everything is there */
    int ack;                 /* ask for acknowledgements */
    datsync_bytes user_data; /* sent in the handshake; copied */
    const char *const *extensions; /* names this side speaks, any order; copied */
    size_t extension_count;
    uint32_t timeout_ms;       /* 0: DATSYNC_TIMEOUT_MS; UINT32_MAX: none */
    struct datsync_pool *pool; /* bound on memory for large frames, shared by several peers; NULL: none */
    void *ctx;
    void (*on_event)(void *ctx, datsync_peer *peer, const datsync_peer_event *event); /* may be NULL */
    /* Which block to ask this peer for next: 1 and *index, or 0 for none now. datsync_peer_wants() tells which may be
     * chosen. NULL: ascending, disjoint between the peers of one feed. */
    int (*next_block)(void *ctx, datsync_peer *peer, datsync_feed *feed, uint64_t *index);
} datsync_peer_options;

/* Frame buffers above 512 KiB of all peers that share this are held to `limit` bytes together; one frame can
 * always be finished. Zero it and set limit. Must outlive the peers. */
typedef struct datsync_pool {
    size_t limit, used;
    const void *owner;
} datsync_pool;

int datsync_peer_new(datsync_peer **out, const datsync_peer_options *options, uint64_t now);
/* The peer's feeds are detached; their blocks in flight can be asked from others. */
void datsync_peer_free(datsync_peer *peer);

/* Open a feed on this connection. The first one opened must be the first that the remote opens; its key is the
 * connection's cipher key. mode: DATSYNC_DOWNLOAD | DATSYNC_UPLOAD; a feed that one can append to downloads nothing.
 * The feed must outlive the peer. */
int datsync_peer_open(datsync_peer *peer, datsync_feed *feed, unsigned mode);

/* Bytes in, without a copy: ask for a place, receive into it, say how many came. datsync_peer_space returns 0 when
 * the peer doesn't want to read now (want_read). */
size_t datsync_peer_space(datsync_peer *peer, uint8_t **place);
/* 0, or an error, after which the connection must be closed (DATSYNC_E_DONE: the good end; what
 * datsync_peer_output has is to be sent before closing). */
int datsync_peer_received(datsync_peer *peer, size_t len, uint64_t now);
/* The same with a copy, any amount that the peer has room for; returns the bytes taken or an error. */
int64_t datsync_peer_input(datsync_peer *peer, const uint8_t *buf, size_t len, uint64_t now);
/* Bytes out, encrypted; valid until the next call on this peer. Answers to requests are read from the store and built
 * here, as room allows. 0: nothing to send now. */
size_t datsync_peer_output(datsync_peer *peer, const uint8_t **buf, uint64_t now);
void datsync_peer_sent(datsync_peer *peer, size_t len, uint64_t now);

int datsync_peer_want_read(const datsync_peer *peer);
int datsync_peer_want_write(const datsync_peer *peer);
/* When datsync_peer_tick must be called at the latest; UINT64_MAX: never. */
uint64_t datsync_peer_deadline(const datsync_peer *peer);
/* Keep-alive, timeouts, asking for blocks after something changed elsewhere. 0 or an error as datsync_peer_received. */
int datsync_peer_tick(datsync_peer *peer, uint64_t now);

/* May this block be asked from this peer: wanted, not held, offered by it, not in flight anywhere. */
int datsync_peer_wants(const datsync_peer *peer, const datsync_feed *feed, uint64_t index);
/* The length of the feed as this peer offers it (not verified), 0 if nothing is known. */
uint64_t datsync_peer_remote_length(const datsync_peer *peer, const datsync_feed *feed);
int datsync_peer_remote_has(const datsync_peer *peer, const datsync_feed *feed, uint64_t index);
/* Everything that this peer offers and that is wanted is held, and it has answered all that it was asked. */
int datsync_peer_complete(const datsync_peer *peer, const datsync_feed *feed);
const uint8_t *datsync_peer_remote_id(const datsync_peer *peer); /* 32 bytes, NULL before its handshake */
int datsync_peer_remote_live(const datsync_peer *peer);
/* DATSYNC_E_UNSUPPORTED if the remote does not speak it. */
int datsync_peer_extension(datsync_peer *peer, datsync_feed *feed, const char *name, datsync_bytes payload);
/* Send any message as it is (tests, extensions of the protocol); its channel must be one opened here. */
int datsync_peer_send(datsync_peer *peer, const datsync_message *m);
uint64_t datsync_peer_bytes_in(const datsync_peer *peer);
uint64_t datsync_peer_bytes_out(const datsync_peer *peer);

/* ================================================================ 3. synchronizer ============================== */

enum { DATSYNC_POLL_READ = 1, DATSYNC_POLL_WRITE = 2, DATSYNC_POLL_ERROR = 4 };

typedef struct datsync_pollfd {
    intptr_t handle;
    short events;  /* DATSYNC_POLL_READ | DATSYNC_POLL_WRITE */
    short revents; /* filled by poll */
} datsync_pollfd;

/* An address of the internet and a port. */
typedef struct datsync_ip {
    uint8_t bytes[16]; /* in network order; of IPv4 the first 4 */
    uint8_t size;      /* 4 or 16 */
    uint16_t port;
    uint32_t via; /* the number of the interface by which a datagram came, or is to go; 0: the system chooses */
} datsync_ip;

/* Room for an address as text, with its NUL. */
#define DATSYNC_IP_TEXT 64u

/* One address of an interface that is up; an interface with several comes several times. */
typedef struct datsync_interface {
    datsync_ip ip;  /* with `via`, without a port */
    uint8_t prefix; /* bits of the address that the network has in common */
    uint8_t loopback, multicast;
    char name[32];
} datsync_interface;

/* A network. A handle is any number but -1. Nothing here ever waits but poll. Zero it before you fill it: more members
 * that may be NULL can come at its end. */
typedef struct datsync_net {
    void *ctx;
    /* Start listening; bound gets the real address (with the port that was chosen for port 0) as text. */
    int (*listen)(void *ctx, const char *address, intptr_t *listener, char *bound, size_t cap);
    /* Take one connection; from gets the remote's address. DATSYNC_E_AGAIN: none waits. */
    int (*accept)(void *ctx, intptr_t listener, intptr_t *stream, char *from, size_t cap);
    /* Begin to connect. The stream polls writable when it is over; connected() tells how. */
    int (*connect)(void *ctx, const char *address, intptr_t *stream);
    /* 0: connected; DATSYNC_E_AGAIN: not yet; any other error: it failed. */
    int (*connected)(void *ctx, intptr_t stream);
    /* > 0: so many bytes; DATSYNC_E_AGAIN: none now; DATSYNC_E_CLOSED: the remote ended; else an error. Never 0. */
    int64_t (*recv)(void *ctx, intptr_t stream, void *buf, size_t len);
    /* > 0: so many were taken; DATSYNC_E_AGAIN: none now; else an error. Never 0. */
    int64_t (*send)(void *ctx, intptr_t stream, const void *buf, size_t len);
    void (*close)(void *ctx, intptr_t handle);
    /* Wait until one of them is ready, or for so many milliseconds (-1: without end). Returns how many are ready; 0 on
     * timeout or when a signal came. */
    int (*poll)(void *ctx, datsync_pollfd *fds, size_t count, int timeout_ms);
    /* Nothing more will be sent: the remote reads the end behind what was, and may go on sending. 0 or an error. May be
     * NULL; then a remote that still speaks at the end may see a reset. */
    int (*shutdown)(void *ctx, intptr_t stream);
    /* Datagrams, for discovery: these six are there together, or NULL. Open a socket at an address of this system (all
     * zero: any of that family) and a port (0: the system chooses); `at` gets the port. Who opens it `shared` has it
     * together with other programs that do. */
    int (*datagrams)(void *ctx, datsync_ip *at, int shared, intptr_t *socket);
    /* >= 0: bytes of the next datagram, which is lost as far as it is longer than cap; DATSYNC_E_AGAIN: none now; else
     * an error, of this datagram or one that was sent before: go on. `from` gets who sent it, and the interface by
     * which it came. */
    int64_t (*receive_from)(void *ctx, intptr_t socket, void *buf, size_t cap, datsync_ip *from);
    /* 0: it is on its way, which not all survive; DATSYNC_E_AGAIN: there is no room now; DATSYNC_E_TOO_BIG: for one
     * datagram; else an error. to->via counts for groups, and for addresses of IPv6 that are local to a link. */
    int (*send_to)(void *ctx, intptr_t socket, const void *buf, size_t len, const datsync_ip *to);
    /* From now on the socket receives what is sent to this group on group->via (0: an interface that the system
     * chooses); or no more. To join twice is to join once. DATSYNC_E_ADDRESS: it is no group, there is no such
     * interface, or it was not joined. A system may give a socket also what another one joined for: from->via tells. */
    int (*join)(void *ctx, intptr_t socket, const datsync_ip *group);
    int (*leave)(void *ctx, intptr_t socket, const datsync_ip *group);
    /* The addresses of all interfaces that are up: fills list (up to cap) and returns how many there are. */
    int (*interfaces)(void *ctx, datsync_interface *list, size_t cap);
    /* Both, or NULL, and then `connect` gets names: find the addresses of a host's name without waiting. The handle
     * polls readable when they are known; then `resolved` tells how many there are and fills list (up to cap; their
     * ports are 0). DATSYNC_E_AGAIN from `resolve`: as many as can be looked up at once are; from `resolved`: not yet.
     * The handle is closed as any. */
    int (*resolve)(void *ctx, const char *host, intptr_t *handle);
    int (*resolved)(void *ctx, intptr_t handle, datsync_ip *list, size_t cap);
} datsync_net;

/* `192.0.2.1:3282`, `[2001:db8::1]:3282`, `[fe80::1%2]:3282`. */
void datsync_ip_text(const datsync_ip *ip, char text[DATSYNC_IP_TEXT]);
/* The reverse. DATSYNC_E_ADDRESS: it is none in numbers. */
int datsync_ip_parse(datsync_ip *ip, const char *text);

/* A network inside the process: any name can be listened on, and streams are pairs of buffers. Its poll never waits.
 * For tests and for embedders who connect two synchronizers. Free it after the synchronizers. */
typedef struct datsync_memory_net datsync_memory_net;
int datsync_memory_net_new(datsync_memory_net **out, const datsync_env *env, datsync_net *net);
void datsync_memory_net_free(datsync_memory_net *net);

typedef struct datsync datsync;

enum datsync_event_type {
    DATSYNC_EV_LISTENING,    /* address */
    DATSYNC_EV_CONNECTED,    /* address; the transport is up */
    DATSYNC_EV_PEER,         /* address; handshake done */
    DATSYNC_EV_DISCONNECTED, /* address, error: why; index 1 if DATSYNC_EV_PEER was told before */
    DATSYNC_EV_UNREACHABLE,  /* address, error: dialling failed; it is tried again later, index 1 if it is not */
    DATSYNC_EV_LENGTH,       /* feed: index is its new length */
    DATSYNC_EV_BLOCK,        /* feed, index, size: verified and stored */
    DATSYNC_EV_UPLOAD,       /* feed, index, size: sent */
    DATSYNC_EV_REJECT,       /* feed, index, address, error */
    DATSYNC_EV_COMPLETE,     /* feed: everything that was asked for and offered is stored and synced */
    DATSYNC_EV_FAILED,       /* feed, error: the store failed, or a drive's header is none; it takes no more part */
    DATSYNC_EV_TICK,         /* once a second, for status lines */
    DATSYNC_EV_CONTENT,      /* drive, feed: its content feed is open */
    DATSYNC_EV_PLAN,         /* drive: version `index` is going to be laid out; size: bytes to download for it */
    DATSYNC_EV_ENTRY,        /* drive, path, index: its version, size: laid out, or held if there are no files */
    DATSYNC_EV_REMOVED,      /* drive, path: deleted upstream, removed here */
    DATSYNC_EV_REFUSED,      /* drive, path, error: not laid out, or kept as it is here (DATSYNC_E_CHANGED) */
    DATSYNC_EV_VERSION,      /* drive: version `index` is laid out and synced; size: how many entries were refused */
    DATSYNC_EV_AWAY,         /* drive, path, index: its version, error: why a file that was here is not served. It is
                        looked at again each minute */
    DATSYNC_EV_BACK          /* drive, path, index: it is served again */
};

typedef struct datsync_event {
    int type;
    datsync_feed *feed;
    const char *address;
    uint64_t index, size;
    int error;
    datsync_drive *drive;
    const char *path; /* begins with `/` */
    unsigned source;  /* of an address: 0 if somebody chose it, DATSYNC_MAX_SOURCES if it came by itself, else as it was
                        given to datsync_found */
} datsync_event;

typedef struct datsync_options {
    const datsync_env *env;
    const datsync_net *net;        /* copied; NULL: no network, which only makes sense in tests */
    unsigned max_peers;            /* 0: 64 */
    uint32_t timeout_ms;           /* as in datsync_peer_options */
    uint32_t write_timeout_ms;     /* a remote that takes no byte of ours for so long is dropped. 0: 15000 */
    uint32_t connect_timeout_ms;   /* 0: 3000 */
    uint32_t handshake_timeout_ms; /* 0: 5000 */
    int live;                      /* connections stay after everything is there */
    int ack;
    const char *const *extensions; /* names this side speaks, any order; copied */
    size_t extension_count;
    size_t frame_pool; /* bytes for large frames, all peers together. 0: 32 MiB */
    void *ctx;
    /* May call datsync_connect, datsync_found, datsync_stop and the readers. */
    void (*on_event)(void *ctx, datsync *ds, const datsync_event *event);
    /* Asked on each turn of datsync_run; non-zero ends it in order (see datsync_os_signals). */
    int (*stopped)(void *ctx);
    /* For a guest in epoll, kqueue or the like: from now on wait for these events on this handle; 0: no more, and it
     * may be closed at once. May be NULL. */
    void (*on_interest)(void *ctx, datsync *ds, intptr_t handle, short events);
} datsync_options;

int datsync_new(datsync **out, const datsync_options *options, uint64_t now);
/* Closes all connections and commits all feeds, which stay open and belong to the caller. Returns the first commit's
 * error. */
int datsync_free(datsync *ds);

/* Share and download this feed with every peer that knows it. Must outlive ds. At most DATSYNC_MAX_CHANNELS; a
 * connection's first feed is the first that the remote asks for, or, when dialling, the first added. */
int datsync_add(datsync *ds, datsync_feed *feed, unsigned mode);
/* Share and download a drive: its metadata and, as soon as its header is known, its content, on the same
 * connections. What is downloaded is laid out as datsync_drive_layout says. Must outlive ds. Before anything is
 * announced, files that were changed here are found by size and mtime, and their blocks are not offered. */
int datsync_add_drive(datsync *ds, datsync_drive *drive, unsigned mode);
int datsync_listen(datsync *ds, const char *address);
/* Dial an address that somebody chose, and dial it again after 1, 1, 5, 15 s when it fails or ends badly (a good
 * connection resets that); then it is given up. Its handshake failed: not again for 10 minutes; it sent what does
 * not verify: not for an hour; it is oneself: never. An address that is known already is not added twice; one that
 * was given up begins anew. DATSYNC_E_TOO_BIG: DATSYNC_MAX_ADDRESSES are known, and none of them was given up;
 * DATSYNC_E_ADDRESS: longer than an address can be. */
int datsync_connect(datsync *ds, const char *address, uint64_t now);
/* The same of one that was found. `source` says by which way, 1 to DATSYNC_MAX_SOURCES - 1 as the caller numbers them;
 * `informant` who said so (any number that tells them apart). Dialled are first the chosen ones, then those that have
 * worked before, then one of each source in turn, and of a source one of each informant in turn. Where
 * DATSYNC_MAX_ADDRESSES of a source are known, or four times as many in all, one of the informant who told of the most
 * goes, failures first; what was chosen stays. One that was given up and is found again waits for a minute. Found
 * addresses that have said nothing yet delay the end of a transfer by no more than 2 s. */
int datsync_found(datsync *ds, const char *address, unsigned source, uint64_t informant, uint64_t now);

/* What finds peers: discovery, or a way of one's own. The synchronizer serves it in its loop; what it finds it tells by
 * datsync_found. */
typedef struct datsync_source {
    void *ctx;
    /* As datsync_pollfds, datsync_deadline and datsync_step: what it waits for, and its turn, which looks for its own
     * handles in fds. Where there is on_interest, it tells of each change by datsync_interest, too. */
    size_t (*pollfds)(void *ctx, datsync_pollfd *fds, size_t cap);
    uint64_t (*deadline)(void *ctx);
    void (*step)(void *ctx, datsync *ds, const datsync_pollfd *fds, size_t count, uint64_t now);
    /* Non-zero until all its ways had the time to give their first answer. Before that nothing is complete, for another
     * peer may have more; but for no longer than 3 s after the first handshake. May be NULL. */
    int (*asks)(void *ctx);
    /* The synchronizer takes no more part: what was announced is to be taken back. The last call. May be NULL. */
    void (*stop)(void *ctx, datsync *ds, uint64_t now);
} datsync_source;

/* Serve a source until datsync_stop or datsync_free. At most DATSYNC_MAX_SOURCES. While there is one, datsync_run goes
 * on. */
int datsync_add_source(datsync *ds, const datsync_source *source);
void datsync_interest(datsync *ds, intptr_t handle, short events);

/* As a guest in another loop: fill fds (up to cap) and return how many there are in all; wait for them, no longer than
 * until datsync_deadline; then datsync_step with what poll said. */
size_t datsync_pollfds(const datsync *ds, datsync_pollfd *fds, size_t cap);
uint64_t datsync_deadline(const datsync *ds);
int datsync_step(datsync *ds, const datsync_pollfd *fds, size_t count, uint64_t now);

/* Own the loop until datsync_stop was called and all are told, `stopped` said so, or (when not live, and nothing
 * listens or looks for peers) nothing is left to do. Needs a clock. */
int datsync_run(datsync *ds);
/* Take no more part, for good. The next turns listen to and dial nobody, tell each remote the end and wait until it
 * closes, for two seconds at most; no event comes. All are gone when datsync_candidates is 0. Without it, datsync_free
 * closes at once: a remote that is still speaking sees a reset. */
void datsync_stop(datsync *ds);
/* One turn of datsync_run, which waits no longer than so many milliseconds (0: not at all): 0 or an error. For
 * programs that have other work to do in between. */
int datsync_poll(datsync *ds, unsigned timeout_ms);

int datsync_complete(const datsync *ds, const datsync_feed *feed);
unsigned datsync_peers(const datsync *ds);      /* connections with a handshake */
unsigned datsync_candidates(const datsync *ds); /* connections and addresses that may still lead to one */
/* The longest length that a connected peer offers, not verified. */
uint64_t datsync_offered(const datsync *ds, const datsync_feed *feed);

/* ================================================================ the operating system ========================= */

/* In net_posix.c and net_win32.c. */

/* TCP on IPv4 and IPv6, and on POSIX Unix sockets. Addresses: `HOST:PORT`, `[V6]:PORT`, `:PORT` (all interfaces when
 * listening, loopback when connecting), `unix:PATH`. `connect` resolves host names, too, and then it waits.
 *
 * Datagrams are UDP, of one family a socket. What is sent to a group goes as far as it may (255 hops), and sockets on
 * this machine that joined it hear it, too.
 *
 * `resolve` looks up names in threads, at most four in a process, which get no signals and end by themselves; numbers
 * need none. Up to 16 addresses of a name are told, each once, in the order of the system's resolver.
 * DATSYNC_E_ADDRESS: there is no such name; DATSYNC_E_UNREACHABLE: nobody who would know answers. `resolved` may be
 * asked again. The handle may be closed, and the process may end, while the answer is not there. A child of fork must
 * not look up names. */
const datsync_net *datsync_os_net(void);
/* A folder with the six files, each named prefix + part (`key`, `secret_key`, `tree`, ...); prefix may be NULL. flags:
 * DATSYNC_CREATE makes the folder, DATSYNC_READ_ONLY opens for reading. Files are made when first written; the secret
 * key with mode 0600. */
int datsync_os_store(datsync_store *out, const char *dir, const char *prefix, unsigned flags);
/* The files beneath a folder. DATSYNC_CREATE makes the folder (not those above it). */
int datsync_os_files(datsync_files *out, const char *dir, unsigned flags);
/* Secret keys as `dat` keeps them: DIR/<2 hex digits>/<62 hex digits> of the discovery key, 64 bytes, mode 0600. dir
 * NULL: `.dat/secret_keys` in the home folder. An empty file counts as none. Folders are made when a key is saved. */
int datsync_os_secrets(datsync_secrets *out, const char *dir);
/* The user's home folder. DATSYNC_E_NO_ENTRY: there is none; DATSYNC_E_SPACE: its path needs more than cap bytes. */
int datsync_os_home(char *out, size_t cap);
/* Monotonic milliseconds; fits datsync_env.clock. */
uint64_t datsync_os_clock(void *ctx);
/* From now on SIGINT and SIGTERM (Ctrl-C, close on Windows) are only noted, and end a poll of datsync_os_net. SIGPIPE
 * is ignored. One hook in a process: DATSYNC_E_STATE if there is one. */
int datsync_os_signals(void);
/* The number of the signal that came, 0 if none; fits datsync_options.stopped. */
int datsync_os_stopped(void *ctx);
/* Read standard input: > 0 bytes, 0 at its end, DATSYNC_E_AGAIN once a signal has come (which also ends the
 * waiting), or an I/O error. */
int64_t datsync_os_input(void *buf, size_t len);
/* Columns of the terminal on standard error, 0 if it is none. */
int datsync_os_terminal(void);
/* To be called by main first: the words become UTF-8 and the standard streams binary, which only Windows needs. What
 * *argv points to lives as long as the process. */
int datsync_os_main(int *argc, char ***argv);
/* As fopen(path, "rb"), with a path in UTF-8: a FILE *, NULL with errno set. */
void *datsync_os_fopen(const char *path);

#ifdef __cplusplus
}
#endif

#endif
