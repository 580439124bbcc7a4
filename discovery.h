/* discovery: how a link alone finds its peers. A second drop-in beside datsync.c.
 *
 * SPDX-License-Identifier: MIT
 *
 * Copy discovery.c, discovery_dht.c and discovery.h beside datsync.c and datsync.h. Each way of finding peers is an
 * engine without sockets, clock or names: datagrams and the time go in; datagrams, peers and the next deadline come
 * out.
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

/* ================================================================ all ways together ============================= */

#ifdef __cplusplus
}
#endif

#endif
