/* Discovery by the local network and by discovery servers, whose packets are DNS messages.
 *
 * SPDX-License-Identifier: MIT
 *
 * Rooms, bottom up, each calling only those above it: packets (bytes <-> messages, which decides nothing), multicast
 * DNS, the servers' clients, a server.
 */
#include "discovery.h"

#include <sodium.h>
#include <string.h>
