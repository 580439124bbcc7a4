/* discovery: how a link alone finds its peers. A second drop-in beside datsync.c.
 *
 * SPDX-License-Identifier: MIT
 *
 * Copy discovery.c, discovery_dht.c and discovery.h beside datsync.c and datsync.h. Each way of finding peers is an
 * engine without sockets, clock or names: datagrams and the time go in; datagrams, peers and the next deadline come out.
 * The conventions of datsync.h hold.
 *
 * What is looked for, and announced, is a name: the first 20 bytes of a feed's discovery key; of a drive, of its
 * metadata's.
 */
#ifndef DISCOVERY_H
#define DISCOVERY_H

#include "datsync.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DATSYNC_NAME_BYTES 20u
/* Names that one engine looks for or announces. */
#define DATSYNC_MAX_NAMES 256u
/* Bytes of a datagram that is sent: what passes everywhere in one piece. */
#define DATSYNC_MAX_DATAGRAM 1200u

/* What an engine calls, from inside the call that caused it. None may call the engine. */
typedef struct datsync_way {
    void *ctx;
    /* One datagram goes out. It may be lost. */
    void (*send)(void *ctx, const datsync_ip *to, const void *bytes, size_t len);
    /* A peer that serves a name; `informant` told of it. */
    void (*found)(void *ctx, const uint8_t name[DATSYNC_NAME_BYTES], const datsync_ip *peer,
                  const datsync_ip *informant);
} datsync_way;

/* ================================================================ packets of DNS ================================ */

/* ================================================================ multicast DNS ================================= */

/* ================================================================ discovery servers ============================= */

/* ================================================================ a discovery server ============================ */

/* ================================================================ the DHT ======================================= */

/* The distributed hash table of BitTorrent (BEP 5) over IPv4: nodes keep, for the names near to their own id, who
 * announced them. The engine is such a node: it looks up and announces names, and answers what others ask.
 *
 * Its messages first, bytes <-> fields, which decide nothing and keep nothing. */

#define DATSYNC_NODE_BYTES 20u
/* Dictionaries and lists of a message within each other: the deepest known message has 3. */
#define DATSYNC_MAX_DHT_DEPTH 16u

enum datsync_dht_kind {
    DATSYNC_DHT_PING = 1,
    DATSYNC_DHT_FIND_NODE,
    DATSYNC_DHT_GET_PEERS,
    DATSYNC_DHT_ANNOUNCE_PEER,
    DATSYNC_DHT_OTHER_QUERY,
    DATSYNC_DHT_ANSWER,
    DATSYNC_DHT_ERROR
};

/* What is absent has data NULL; numbers are then -1. What is read points into the message that was read. */
typedef struct datsync_dht_message {
    int kind;
    datsync_bytes transaction; /* `t`, which an answer repeats; always there */
    datsync_bytes id;          /* of the node that sends: DATSYNC_NODE_BYTES */
    datsync_bytes target;      /* find_node: DATSYNC_NODE_BYTES */
    datsync_bytes name;        /* get_peers and announce_peer: DATSYNC_NAME_BYTES */
    datsync_bytes token;       /* from an answer to get_peers, into an announce_peer to the same node */
    datsync_bytes nodes;       /* 26 bytes each: datsync_dht_next_node reads them */
    datsync_bytes peers;       /* `values`, the inside of the list: datsync_dht_next_peer reads them */
    datsync_bytes seen;        /* `ip`: the address and port from which the query came, 6 bytes */
    datsync_bytes text;        /* a query: its name, which only DATSYNC_DHT_OTHER_QUERY needs; an error: its words */
    int64_t port, implied_port, code;
    int64_t read_only; /* `ro`: 1, the sender answers no queries (BEP 43) */
} datsync_dht_message;

/* Read one. 0, or DATSYNC_E_MESSAGE. As deployed nodes do, it takes keys in any order, of equal ones the last, and
 * passes over what it does not know, what has another type or length than it should, and what follows the end. */
int datsync_dht_parse(datsync_dht_message *message, const void *bytes, size_t len);
/* Write one, its keys in order. The length, DATSYNC_E_SPACE, or DATSYNC_E_INVALID: it lacks `kind` or `transaction`. */
int64_t datsync_dht_write(void *buf, size_t cap, const datsync_dht_message *message);
/* Takes the first node off `nodes`, the first peer off `peers`: 1, or 0 if none is left. */
int datsync_dht_next_node(datsync_bytes *nodes, uint8_t id[DATSYNC_NODE_BYTES], datsync_ip *ip);
int datsync_dht_next_peer(datsync_bytes *peers, datsync_ip *ip);

/* Addresses at which an engine asks first. */
#define DATSYNC_MAX_BOOTSTRAPS 16u
/* A look-up asks so many nodes at most, whatever they tell (BitTorrent's needs about 60), and gives so many peers of
 * each to `found`: no one node uses up the others' share. */
#define DATSYNC_DHT_QUERIES 128u
#define DATSYNC_DHT_FOUND_EACH 16u
/* Queries that are answered in a second, of all and of one address, and how many may come at once (BitTorrent's nodes
 * send 1 to 10 in a second, a look-up 16 at once). An answer is at most 3 times as long as its query. */
#define DATSYNC_DHT_ANSWERS 256u
#define DATSYNC_DHT_ANSWERS_EACH 16u
#define DATSYNC_DHT_ANSWERS_BURST 64u
/* Peers that are kept for others, in all, of one name and of one address; for how long. */
#define DATSYNC_DHT_PEERS 8192u
#define DATSYNC_DHT_PEERS_OF_NAME 64u
#define DATSYNC_DHT_PEERS_OF_ADDRESS 256u
#define DATSYNC_DHT_PEER_MS 1800000u
/* The most bytes that datsync_dht_save writes: 256 nodes of 26 bytes, the own id, a version and a checksum. */
#define DATSYNC_DHT_SAVED_BYTES 6700u

typedef struct datsync_dht datsync_dht;

typedef struct datsync_dht_status {
    unsigned nodes, good;  /* nodes in the table; of them, those that answered in the last 15 minutes */
    unsigned in_flight;    /* queries that wait for their answer */
    unsigned names, peers; /* names that are looked for; peers that others announced here */
    uint64_t looked_up;    /* look-ups that have ended */
    uint64_t answered;     /* answers that came to our queries */
    datsync_ip seen;       /* our own address as the last node told that told it; size 0: none did */
} datsync_dht_status;

/* A node. `saved` is what datsync_dht_save wrote (NULL: nothing): its id and nodes; if it is broken the node begins
 * anew, as if it were NULL. Two nodes that run at the same time must not begin with the same bytes. `env` (may be NULL)
 * and `way` are copied. 0, DATSYNC_E_NOMEM, DATSYNC_E_RANDOM, or DATSYNC_E_INVALID if `way` lacks a function. */
int datsync_dht_new(datsync_dht **out, const datsync_env *env, const datsync_way *way, const void *saved,
                    size_t saved_len, uint64_t now);
/* NULL is allowed. Nothing is sent: the DHT has no good-bye. */
void datsync_dht_free(datsync_dht *dht);

/* A node that is asked while others are not known. 0, DATSYNC_E_ADDRESS if it is none of IPv4 with a port, or
 * DATSYNC_E_TOO_BIG. */
int datsync_dht_bootstrap(datsync_dht *dht, const datsync_ip *ip, uint64_t now);

/* Look for a name from now on, and announce it with this TCP port; with port 0, look only. A look-up begins at once
 * and again every 10 to 15 minutes, sooner while nobody answers or nobody is found. A name that is there already
 * gets the new port. 0, DATSYNC_E_TOO_BIG over DATSYNC_MAX_NAMES, or DATSYNC_E_NOMEM. */
int datsync_dht_add(datsync_dht *dht, const uint8_t name[DATSYNC_NAME_BYTES], uint16_t port, uint64_t now);
/* No longer. What was announced lasts at the others until they forget it. 0 or DATSYNC_E_NOT_FOUND. */
int datsync_dht_remove(datsync_dht *dht, const uint8_t name[DATSYNC_NAME_BYTES]);
/* 1: the first answer is there (a look-up of this name has ended, or a peer was told). 0: not yet. Or
 * DATSYNC_E_NOT_FOUND. */
int datsync_dht_answered(const datsync_dht *dht, const uint8_t name[DATSYNC_NAME_BYTES]);

/* A datagram came. 1: it is one of the DHT's; DATSYNC_E_MESSAGE: it begins as such, and is broken; 0: it is none (DNS
 * and uTP can share the socket: none of theirs begins so), and nothing was done. */
int datsync_dht_received(datsync_dht *dht, const void *bytes, size_t len, const datsync_ip *from, uint64_t now);
/* When datsync_dht_step wants to be called, though nothing came; a time that has passed: at once. Each call of another
 * function may change it. */
uint64_t datsync_dht_deadline(const datsync_dht *dht);
void datsync_dht_step(datsync_dht *dht, uint64_t now);

/* The own id and the nodes that ever answered, for the next start. The length, or DATSYNC_E_SPACE. */
int64_t datsync_dht_save(const datsync_dht *dht, void *buf, size_t cap);
void datsync_dht_get_status(const datsync_dht *dht, datsync_dht_status *status, uint64_t now);

/* ================================================================ all ways together ============================= */

#ifdef __cplusplus
}
#endif

#endif
