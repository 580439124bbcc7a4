/* discovery: how a link alone finds its peers. A second drop-in beside datsync.c.
 *
 * SPDX-License-Identifier: MIT
 *
 * Copy discovery.c, discovery_dht.c and discovery.h beside datsync.c and datsync.h. Each way of finding peers is an
 * engine without sockets, clock or names: datagrams and the time go in; datagrams, peers and the next deadline come
 * out. The conventions of datsync.h hold.
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

/* Whether an address that somebody told may be dialled: no group, no address of nobody, and none that is nearer than
 * who told it: of the public network none that is private, of the local one none of this machine. */
int datsync_ip_believable(const datsync_ip *peer, const datsync_ip *informant);

/* ================================================================ packets of DNS ================================ */

/* What multicast DNS and discovery servers say to each other (dns-discovery 6; docs/PROTOCOL.md, part VI). Names
 * are case-sensitive. Nothing here decides anything or allocates. */

enum datsync_dns_part {
    DATSYNC_DNS_QUESTION,
    DATSYNC_DNS_ANSWER,
    DATSYNC_DNS_AUTHORITY, /* nobody writes one */
    DATSYNC_DNS_ADDITIONAL
};

enum datsync_dns_type { DATSYNC_DNS_A = 1, DATSYNC_DNS_TXT = 16, DATSYNC_DNS_SRV = 33 };

/* What the name of a question or record is. */
enum datsync_dns_about {
    DATSYNC_DNS_ELSEWHERE, /* in another domain, or of another class than the internet's */
    DATSYNC_DNS_DOMAIN,    /* `dat.local` itself: a probe */
    DATSYNC_DNS_BELOW,     /* something in dat.local that is no name of a feed */
    DATSYNC_DNS_NAME       /* 40 lower-case hex digits in dat.local */
};

/* The flags that a message has: of a query to a server, or a push; of an answer to one; of an answer to the group. Each
 * answer has the highest bit, and no query has. */
#define DATSYNC_DNS_FLAGS_QUERY 0x0100u
#define DATSYNC_DNS_FLAGS_ANSWER 0x8000u
#define DATSYNC_DNS_FLAGS_GROUP 0x8400u

/* The bits of `has`: the strings of a TXT record. */
#define DATSYNC_DNS_SUBSCRIBE (1u << 0)
#define DATSYNC_DNS_TOKEN (1u << 1)
#define DATSYNC_DNS_HOST (1u << 2)
#define DATSYNC_DNS_PORT (1u << 3)
#define DATSYNC_DNS_PEERS (1u << 4)
#define DATSYNC_DNS_ANNOUNCE (1u << 5)
#define DATSYNC_DNS_UNANNOUNCE (1u << 6)

/* Peers in one TXT record: a string has at most 255 bytes. */
#define DATSYNC_DNS_MAX_PEERS 31u
/* Bytes of a token that is kept, and given back; the deployed ones have 44. */
#define DATSYNC_DNS_MAX_TOKEN 128u

/* A message that was parsed. It borrows its bytes. */
typedef struct datsync_dns {
    uint16_t id, flags;
    uint16_t counts[4]; /* of each enum datsync_dns_part */
    const uint8_t *bytes;
    size_t len;
} datsync_dns;

/* Where datsync_dns_next is; zero it to begin. */
typedef struct datsync_dns_cursor {
    size_t at;
    uint32_t index;
} datsync_dns_cursor;

/* One question or record. Strings borrow from the message. */
typedef struct datsync_dns_item {
    int part, about; /* the two enums */
    uint16_t type;   /* enum datsync_dns_type, or another: such a record's data is passed over */
    uint16_t cls;    /* the class; writing: 0 is the internet's */
    uint32_t ttl;
    uint8_t name[DATSYNC_NAME_BYTES]; /* of DATSYNC_DNS_NAME */
    /* The name as on the wire, without compression. Writing: only what is ELSEWHERE or BELOW needs it. */
    uint8_t domain[255];
    size_t domain_len;
    /* TXT, of what is in dat.local */
    uint32_t has;
    datsync_bytes token, host;
    uint16_t port, announce, unannounce;
    datsync_bytes peers;    /* base64: datsync_dns_peer reads them */
    const datsync_ip *list; /* writing: the peers, IPv4, none with port 0 */
    size_t list_count;
    datsync_ip target; /* SRV with an IPv4 address as its target, A (without a port); size 0: none */
} datsync_dns_item;

/* 0, or DATSYNC_E_MESSAGE: not one whole message to its last byte (each question and record is looked at). */
int datsync_dns_parse(datsync_dns *m, const void *bytes, size_t len);
/* The next question or record of a message that was parsed: 1, or 0 behind the last. */
int datsync_dns_next(const datsync_dns *m, datsync_dns_cursor *cursor, datsync_dns_item *item);
/* The peer number `index` of an item that was read, of TXT or SRV: 1, or 0 behind the last. Its port can be 0. */
int datsync_dns_peer(const datsync_dns_item *item, size_t index, datsync_ip *peer);
/* Bytes of the message, which has `count` items, sorted by part. DATSYNC_E_SPACE: over cap; DATSYNC_E_INVALID: not
 * sorted, a type that is not written here, or a peer that must not be; DATSYNC_E_TOO_BIG: a string over 255 bytes. */
int datsync_dns_write(void *out, size_t cap, uint16_t id, uint16_t flags, const datsync_dns_item *items, size_t count);

/* ================================================================ multicast DNS ================================= */

/* The way of the local network, which needs no server: questions and answers to a group, on each interface, over IPv4
 * as the deployed peers do, and between datsyncs over IPv6 too. The caller has a shared socket for each family at port
 * DATSYNC_MDNS_PORT, joins the group on each interface, and sends with TTL 255. An answer goes to all who listen. */
typedef struct datsync_mdns datsync_mdns;

#define DATSYNC_MDNS_PORT 5353u

/* The group of a family (4 or 16) on an interface. */
void datsync_mdns_group(datsync_ip *group, int size, uint32_t via);

int datsync_mdns_new(datsync_mdns **out, const datsync_env *env, const datsync_way *way);
void datsync_mdns_free(datsync_mdns *m);
/* Look for a name from now on; port > 0: and announce that this host serves it there. Once more with another port: that
 * port. DATSYNC_E_TOO_BIG: over DATSYNC_MAX_NAMES. */
int datsync_mdns_add(datsync_mdns *m, const uint8_t name[DATSYNC_NAME_BYTES], uint16_t port, uint64_t now);
/* DATSYNC_E_NOT_FOUND: it is not there. Nobody can be told. */
int datsync_mdns_remove(datsync_mdns *m, const uint8_t name[DATSYNC_NAME_BYTES]);
/* All interfaces that there are now, as datsync_net gives them: one that was not there before hears of all names.
 * Loopback ones are used where there is nothing else. */
void datsync_mdns_interfaces(datsync_mdns *m, const datsync_interface *list, size_t count, uint64_t now);
/* One came, from->via telling the interface. 0, or DATSYNC_E_MESSAGE. */
int datsync_mdns_datagram(datsync_mdns *m, const void *bytes, size_t len, const datsync_ip *from, uint64_t now);
/* When datsync_mdns_step wants to be called; UINT64_MAX: no need. */
uint64_t datsync_mdns_deadline(const datsync_mdns *m);
void datsync_mdns_step(datsync_mdns *m, uint64_t now);
/* 1: a peer answered, or none did in the first second; 0: not yet; DATSYNC_E_NOT_FOUND: no such name. */
int datsync_mdns_answered(const datsync_mdns *m, const uint8_t name[DATSYNC_NAME_BYTES], uint64_t now);

/* ================================================================ discovery servers ============================= */

/* The client of discovery servers: it asks each for a token, looks up and announces the names, again each minute, and
 * is told between of who comes. It sends from one UDP socket, which should be that port of this host to which others
 * can send; servers see it. */
typedef struct datsync_dns_client datsync_dns_client;

/* The ports of a server: the first, and the one for where only that is let through. */
#define DATSYNC_DNS_SERVER_PORT 5300u
#define DATSYNC_DNS_OTHER_PORT 53u
/* Servers that one client asks, and addresses of each. */
#define DATSYNC_MAX_DNS_SERVERS 8u
#define DATSYNC_MAX_DNS_ADDRESSES 8u

enum datsync_dns_state {
    DATSYNC_DNS_ASKED,   /* no answer yet */
    DATSYNC_DNS_ANSWERS, /* it gave a token */
    DATSYNC_DNS_SILENT   /* none of its addresses and ports did; it is asked again, after ever longer times */
};

typedef struct datsync_dns_status {
    int state;       /* enum datsync_dns_state */
    datsync_ip at;   /* the address and port that is asked now, or answers */
    datsync_ip seen; /* how it sees this socket; size 0: it has not said */
    int error;       /* why the last question failed: DATSYNC_E_TIMEOUT, or DATSYNC_E_MESSAGE for an answer that says
                        nothing; 0: it did not */
    uint64_t peers;  /* that it told, as often as it did */
} datsync_dns_status;

int datsync_dns_client_new(datsync_dns_client **out, const datsync_env *env, const datsync_way *way);
void datsync_dns_client_free(datsync_dns_client *c);
/* A server, by the addresses of its host, which are tried in turn; with port 0: first all at 5300, then all at 53. What
 * answered once is asked first ever after. The server's number, from 0; DATSYNC_E_TOO_BIG: no room for one more, or for
 * so many addresses; DATSYNC_E_INVALID: without one. */
int datsync_dns_client_server(datsync_dns_client *c, const datsync_ip *addresses, size_t count, uint64_t now);
/* As datsync_mdns_add. What was announced with another port is not taken back: servers forget it. */
int datsync_dns_client_add(datsync_dns_client *c, const uint8_t name[DATSYNC_NAME_BYTES], uint16_t port, uint64_t now);
/* The servers that know of it are told that it is not served here any more. DATSYNC_E_NOT_FOUND: it is not there. */
int datsync_dns_client_remove(datsync_dns_client *c, const uint8_t name[DATSYNC_NAME_BYTES], uint64_t now);
/* Remove all names. Whoever wants the servers to know goes on, for a second or so, until it is idle: no server has
 * still to be told. */
void datsync_dns_client_stop(datsync_dns_client *c, uint64_t now);
int datsync_dns_client_idle(const datsync_dns_client *c);
/* 1: it was for the client, whatever it did with it; 0: it is not from one of its servers, or is a question, which a
 * server on the same socket may answer. */
int datsync_dns_client_datagram(datsync_dns_client *c, const void *bytes, size_t len, const datsync_ip *from,
                                uint64_t now);
uint64_t datsync_dns_client_deadline(const datsync_dns_client *c); /* UINT64_MAX: no need */
void datsync_dns_client_step(datsync_dns_client *c, uint64_t now);
/* 1: each server answered for this name, or was asked in vain; 0: not yet; DATSYNC_E_NOT_FOUND: no such name. */
int datsync_dns_client_answered(const datsync_dns_client *c, const uint8_t name[DATSYNC_NAME_BYTES]);
/* DATSYNC_E_NOT_FOUND: no server with this number. */
int datsync_dns_client_status(const datsync_dns_client *c, int server, datsync_dns_status *out);

/* ================================================================ a discovery server ============================ */

/* A server for others, on one UDP socket. It keeps who serves which name, and who wants to be told, in tables that do
 * not grow: what is too much goes out of what the busiest address brought. IPv4 addresses alone are kept, for the
 * protocol's records hold no others: who asks over IPv6 is answered, and is not announced and not told of others. */
typedef struct datsync_dns_server datsync_dns_server;

/* What is kept, for each of announcements and subscriptions (80 bytes each), and at most of one name, and of one name
 * by one address: behind one may be a few peers, and a name with more has enough. */
#define DATSYNC_DNS_MAX_ENTRIES 262144u
#define DATSYNC_DNS_MAX_OF_NAME 128u
#define DATSYNC_DNS_MAX_OF_PEER 16u
/* Milliseconds for which an announcement and a subscription are kept. They are made anew after 60 to 70 s: the deployed
 * server keeps a subscription for 60, and tells nothing in between. */
#define DATSYNC_DNS_ENTRY_MS 180000u
#define DATSYNC_DNS_SUBSCRIPTION_MS 80000u
/* A secret makes tokens for so long, which are good for as long again. */
#define DATSYNC_DNS_SECRET_MS 300000u

typedef struct datsync_dns_counts {
    uint64_t names, peers, subscriptions; /* that are kept now */
    uint64_t questions, answers, pushes;  /* that came, and were sent, since the beginning */
    uint64_t limited, malformed, evicted; /* questions over the rate; what did not parse; what had no room */
} datsync_dns_counts;

/* way->found is not called. */
int datsync_dns_server_new(datsync_dns_server **out, const datsync_env *env, const datsync_way *way, uint64_t now);
void datsync_dns_server_free(datsync_dns_server *s);
/* 0, also where nothing is answered; or DATSYNC_E_MESSAGE. */
int datsync_dns_server_datagram(datsync_dns_server *s, const void *bytes, size_t len, const datsync_ip *from,
                                uint64_t now);
uint64_t datsync_dns_server_deadline(const datsync_dns_server *s);
void datsync_dns_server_step(datsync_dns_server *s, uint64_t now);
void datsync_dns_server_counts(const datsync_dns_server *s, datsync_dns_counts *out);

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

typedef struct datsync_dht_state {
    unsigned nodes, good;  /* nodes in the table; of them, those that answered in the last 15 minutes */
    unsigned in_flight;    /* queries that wait for their answer */
    unsigned names, peers; /* names that are looked for; peers that others announced here */
    uint64_t looked_up;    /* look-ups that have ended */
    uint64_t answered;     /* answers that came to our queries */
    datsync_ip seen;       /* our own address as the last node told that told it; size 0: none did */
} datsync_dht_state;

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
/* 1: the first answer is there (a look-up of this name has ended, or a peer was told), or nobody is known who could be
 * asked. 0: not yet. Or DATSYNC_E_NOT_FOUND. */
int datsync_dht_answered(const datsync_dht *dht, const uint8_t name[DATSYNC_NAME_BYTES]);

/* A datagram came. 1: it is one of the DHT's; DATSYNC_E_MESSAGE: it begins as such, and is broken; 0: it is none (DNS
 * and uTP can share the socket: none of theirs begins so), and nothing was done. */
int datsync_dht_datagram(datsync_dht *dht, const void *bytes, size_t len, const datsync_ip *from, uint64_t now);
/* When datsync_dht_step wants to be called, though nothing came; a time that has passed: at once. Each call of another
 * function may change it. */
uint64_t datsync_dht_deadline(const datsync_dht *dht);
void datsync_dht_step(datsync_dht *dht, uint64_t now);

/* The own id and the nodes that ever answered, for the next start. The length, or DATSYNC_E_SPACE. */
int64_t datsync_dht_save(const datsync_dht *dht, void *buf, size_t cap);
void datsync_dht_status(const datsync_dht *dht, datsync_dht_state *status, uint64_t now);

/* ================================================================ all ways together ============================= */

/* The ways in one: it has the sockets, resolves the names of servers, and hands what it finds to a synchronizer, whose
 * source it is. */
typedef struct datsync_discovery datsync_discovery;

/* The ways, as `source` in datsync_found and in events. */
enum datsync_discovery_way { DATSYNC_BY_MDNS = 1, DATSYNC_BY_SERVER, DATSYNC_BY_DHT };

/* Where the deployed peers look: HOST, or HOST:PORT. Each list ends with NULL. */
const char *const *datsync_discovery_servers(void);
const char *const *datsync_discovery_bootstraps(void);

typedef struct datsync_discovery_options {
    const datsync_env *env;
    const datsync_net *net; /* copied. It has datagrams; names need `resolve` */
    unsigned ways;          /* 1 << DATSYNC_BY_MDNS | ...; 0: all */
    unsigned silent;        /* of these, those that look and announce nothing */
    uint16_t port;          /* of the UDP socket for servers and the DHT; 0, or if it is taken: any */
    /* HOST or HOST:PORT, copied; NULL: those above. At most DATSYNC_MAX_DNS_SERVERS and DATSYNC_MAX_BOOTSTRAPS. */
    const char *const *servers;
    size_t server_count;
    const char *const *bootstraps;
    size_t bootstrap_count;
    const void *saved; /* of datsync_discovery_save; used by the call alone. NULL: nothing */
    size_t saved_len;
} datsync_discovery_options;

/* DATSYNC_E_UNSUPPORTED: the network has no datagrams. DATSYNC_E_ADDRESS, DATSYNC_E_TOO_BIG: of a server or bootstrap,
 * which is none or too many. A way whose socket can't be opened says so in its report, and the others go on. */
int datsync_discovery_new(datsync_discovery **out, const datsync_discovery_options *options, uint64_t now);
/* After the synchronizer. */
void datsync_discovery_free(datsync_discovery *d);
/* What datsync_add_source takes; d must outlive the synchronizer. */
datsync_source datsync_discovery_source(datsync_discovery *d);

/* Look for peers of a feed, by its discovery key (of a drive: its metadata's); with a port, announce also that it is
 * served there, over TCP. Once more with another port: that one. */
int datsync_discovery_add(datsync_discovery *d, const uint8_t discovery_key[32], uint16_t port, uint64_t now);
/* DATSYNC_E_NOT_FOUND: it is not there. */
int datsync_discovery_remove(datsync_discovery *d, const uint8_t discovery_key[32], uint64_t now);
/* What the DHT knows, for the next start: the length, or DATSYNC_E_SPACE. DATSYNC_DHT_SAVED_BYTES are enough. */
int64_t datsync_discovery_save(const datsync_discovery *d, void *buf, size_t cap);

/* What one way, server or bootstrap has answered so far. */
typedef struct datsync_discovery_report {
    int way;
    const char *host; /* as it was given; NULL: of a way as a whole. Lives as long as d */
    int error;        /* 0: it answers; DATSYNC_E_AGAIN: not yet; else why it does not */
    uint64_t peers;   /* that it told of, one counted as often as it was told */
    datsync_ip at;    /* where it is asked; size 0: not known yet */
    datsync_ip seen;  /* how it sees our socket; size 0: it has not said */
} datsync_discovery_report;

/* The report number `index`, from 0: 1, or 0 behind the last. */
int datsync_discovery_look(const datsync_discovery *d, size_t index, datsync_discovery_report *out, uint64_t now);

#ifdef __cplusplus
}
#endif

#endif
