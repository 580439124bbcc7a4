/* The laboratory's network and clock: streams, datagrams and groups between hosts of one process, on virtual time. What
 * happens follows from the numbers that were given, and from nothing else.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef DATSYNC_TESTS_LAB_H
#define DATSYNC_TESTS_LAB_H

#include "datsync.h"

#define LAB_NEVER UINT64_MAX
#define LAB_HOSTS 256

/* One way between two hosts, the same in both directions. All zero: no delay, no limit, nothing is lost. */
typedef struct lab_way {
    uint32_t delay;          /* ms */
    uint32_t jitter;         /* ms, at most, added to it */
    uint32_t rate;           /* bytes a second in each direction of a stream; 0: no limit */
    uint32_t window;         /* bytes that are on the way and unread, at most; 0: 65536 */
    uint32_t pieces;         /* bytes that one read gives, at most, by chance from 1 on; 0: as many as there are */
    uint32_t lives;          /* a stream is reset at the latest after so many bytes, by chance from 1 on; 0: never */
    uint32_t loss, doubling; /* of 1,000 datagrams */
} lab_way;

typedef struct lab_net lab_net;

/* At most LAB_HOSTS hosts, numbered from 0. */
lab_net *lab_net_new(uint64_t seed, unsigned hosts);
void lab_net_free(lab_net *net);

uint64_t lab_now(const lab_net *net);
/* Time goes on to `at` ms, and no further back. */
void lab_go(lab_net *net, uint64_t at);
/* When the next thing arrives of which its host was not told yet; LAB_NEVER: nothing will. */
uint64_t lab_next(const lab_net *net);
/* Is there something for this host that it was not told of yet? Asking makes it told. */
int lab_stirs(lab_net *net, unsigned host);

/* The streams of a host, for its synchronizer; its addresses are hN:PORT. Its poll never waits. */
datsync_net lab_streams(lab_net *net, unsigned host);
void lab_way_set(lab_net *net, unsigned a, unsigned b, const lab_way *way);
/* Nothing passes between them, until it is mended; then what was sent in between goes on, as TCP sends it again. */
void lab_part(lab_net *net, unsigned a, unsigned b, int parted);
/* The host is gone with all its sockets: `silent`, nobody is told until it is up again; else all see a reset. */
void lab_down(lab_net *net, unsigned host, int silent);
void lab_up(lab_net *net, unsigned host);
/* All streams of a host are reset, as by a router that forgets them. */
void lab_reset(lab_net *net, unsigned host);
/* Bytes that it sent and received so far. */
uint64_t lab_moved(const lab_net *net, unsigned host);
size_t lab_open_streams(const lab_net *net, unsigned host);

/* Datagrams, on sockets bound to a port of a host. `to_host` is a host, or LAB_GROUP + G: all members of the group G, 0
 * to 63, but those behind a parting. 0 or an error. */
#define LAB_GROUP 1000u
int lab_datagrams(lab_net *net, unsigned host, unsigned port, intptr_t *socket);
void lab_join(lab_net *net, intptr_t socket, unsigned group);
void lab_leave(lab_net *net, intptr_t socket, unsigned group);
int lab_send_to(lab_net *net, intptr_t socket, unsigned to_host, unsigned to_port, const void *buf, size_t len);
/* Bytes of the next datagram, DATSYNC_E_AGAIN if none is there. A longer one than `cap` is cut. */
int64_t lab_receive_from(lab_net *net, intptr_t socket, void *buf, size_t cap, unsigned *from_host,
                         unsigned *from_port);
void lab_datagrams_close(lab_net *net, intptr_t socket);

/* Streams and datagrams of a host, as a datsync_net; its address on one Ethernet with all the others. */
datsync_net lab_net_of(lab_net *net, unsigned host);
datsync_ip lab_ip(unsigned host, unsigned port);

/* Peers that find each other, `loss` of 1,000 datagrams lost (lab_finding.c): 0 when all did. */
int lab_finding(const char *way, uint64_t seed, unsigned loss);

#endif
