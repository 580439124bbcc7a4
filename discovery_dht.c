/* Discovery by the distributed hash table of BitTorrent (BEP 5, IPv4).
 *
 * SPDX-License-Identifier: MIT
 *
 * Rooms, bottom up, each calling only those above it: bencode and messages (which decide nothing), the table of nodes,
 * the peers that others announced, look-ups, the engine.
 */
#include "discovery.h"

#include <sodium.h>
#include <string.h>
