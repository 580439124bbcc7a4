/* No operating system: datsync.c and libsodium alone. Feeds in memory, two peers, and a transport of one's own,
 * which here is a loop that carries bytes from one to the other; there it would be a serial line, a radio, a pair of
 * queues. Time is whatever the program says that it is.
 *
 *     cc bare.c datsync.c -lsodium -o bare
 *     ./bare
 *
 * SPDX-License-Identifier: MIT
 */
#include "datsync.h"

#include <stdio.h>
#include <string.h>

/* What the transport takes at once. */
#define PIECE 100u

/* All that `from` has to say now, in pieces, to `to`. Returns 0, or the error that ends the connection. */
static int carry(datsync_peer *from, datsync_peer *to, uint64_t now)
{
    const uint8_t *bytes;
    size_t len;

    while ((len = datsync_peer_output(from, &bytes, now)) > 0) {
        int64_t taken = datsync_peer_input(to, bytes, len < PIECE ? len : PIECE, now);
        if (taken <= 0)
            return (int)taken; /* 0: it does not want to read now */
        datsync_peer_sent(from, (size_t)taken, now);
    }
    return 0;
}

/* One connection between two feeds, until the reader has everything. */
static int converse(datsync_feed *source, datsync_feed *copy)
{
    datsync_peer_options options = {0};
    datsync_peer *server = NULL, *client = NULL;
    uint64_t now = 0;

    int error = datsync_peer_new(&server, &options, now);
    if (error == 0)
        error = datsync_peer_new(&client, &options, now);
    if (error == 0)
        error = datsync_peer_open(server, source, DATSYNC_UPLOAD);
    if (error == 0)
        error = datsync_peer_open(client, copy, DATSYNC_DOWNLOAD);
    while (error == 0 && !(datsync_peer_complete(client, copy) && datsync_feed_length(copy) > 0)) {
        error = carry(client, server, now);
        if (error == 0)
            error = carry(server, client, now);
        now += 10; /* a board would sleep until datsync_peer_deadline, or until bytes come */
        if (error == 0)
            error = datsync_peer_tick(client, now);
        if (error == 0)
            error = datsync_peer_tick(server, now);
    }
    datsync_peer_free(client); /* NULL is fine */
    datsync_peer_free(server);
    return error == DATSYNC_E_DONE ? 0 : error;
}

int main(void)
{
    static const char *const lines[] = {"no files", "no sockets", "no clock"};
    datsync_feed *source = NULL, *copy = NULL;
    datsync_feed_options make = {.flags = DATSYNC_CREATE}; /* new keys, a memory store */
    datsync_feed_options read = {.flags = DATSYNC_CREATE};

    int error = datsync_feed_open(&source, &make);
    for (size_t i = 0; error == 0 && i < sizeof lines / sizeof *lines; i++) {
        datsync_bytes block = {(const uint8_t *)lines[i], strlen(lines[i])};
        int64_t length = datsync_feed_append(source, &block, 1);
        error = length < 0 ? (int)length : 0;
    }
    if (error == 0)
        error = datsync_feed_flush(source);
    if (error == 0) {
        read.key = datsync_feed_key(source);
        error = datsync_feed_open(&copy, &read);
    }
    if (error == 0)
        error = converse(source, copy);
    for (uint64_t i = 0; error == 0 && i < datsync_feed_length(copy); i++) {
        char line[64];
        int64_t size = datsync_feed_get(copy, i, line, sizeof line);
        error = size < 0 ? (int)size : 0;
        printf("%.*s\n", error ? 0 : (int)size, line);
    }
    if (copy)
        datsync_feed_close(copy);
    if (source)
        datsync_feed_close(source);
    if (error < 0) {
        fprintf(stderr, "bare: %s\n", datsync_strerror(error));
        return 1;
    }
    return 0;
}
