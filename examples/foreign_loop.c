/* The peer level inside somebody else's loop: here a plain poll(), there libuv, epoll or an RTOS. The peer has no
 * socket and no clock: bytes and the time go in; bytes, events and the next deadline come out.
 *
 *     cc foreign_loop.c datsync.c net_posix.c -lsodium -o foreign_loop
 *     ./foreign_loop dat://KEY 127.0.0.1:3282 folder
 *
 * SPDX-License-Identifier: MIT
 */
#define _POSIX_C_SOURCE 200809L

#include "datsync.h"

#include <poll.h>
#include <stdio.h>

static void on_event(void *ctx, datsync_peer *peer, const datsync_peer_event *event)
{
    (void)ctx;
    (void)peer;
    if (event->type == DATSYNC_PEER_REJECT)
        fprintf(stderr, "block %llu: %s\n", (unsigned long long)event->index, datsync_strerror(event->error));
}

/* All that is to be sent, as far as the socket takes it. */
static int push(const datsync_net *net, intptr_t socket, datsync_peer *peer)
{
    const uint8_t *bytes;
    size_t len;

    while ((len = datsync_peer_output(peer, &bytes, datsync_os_clock(NULL))) > 0) {
        int64_t sent = net->send(net->ctx, socket, bytes, len);
        if (sent < 0)
            return sent == DATSYNC_E_AGAIN ? 0 : (int)sent;
        datsync_peer_sent(peer, (size_t)sent, datsync_os_clock(NULL));
    }
    return 0;
}

/* What came, straight into the peer's buffer. */
static int pull(const datsync_net *net, intptr_t socket, datsync_peer *peer)
{
    uint8_t *place;
    size_t room;
    int result = 0;

    while (result == 0 && (room = datsync_peer_space(peer, &place)) > 0) {
        int64_t got = net->recv(net->ctx, socket, place, room);
        if (got < 0)
            return got == DATSYNC_E_AGAIN ? 0 : (int)got;
        result = datsync_peer_received(peer, (size_t)got, datsync_os_clock(NULL));
        if ((size_t)got < room)
            break;
    }
    return result;
}

/* One connection, until the feed is complete (DATSYNC_E_DONE) or an error. */
static int loop(const datsync_net *net, intptr_t socket, datsync_peer *peer, const datsync_feed *feed)
{
    int connected = 0, result = 0;

    while (result == 0) {
        uint64_t now = datsync_os_clock(NULL), deadline = datsync_peer_deadline(peer);
        struct pollfd one = {(int)socket, 0, 0};

        one.events = (short)((datsync_peer_want_read(peer) ? POLLIN : 0) |
                             (!connected || datsync_peer_want_write(peer) ? POLLOUT : 0));
        /* This is where the other things that the program waits for would be, too. */
        int wait = deadline <= now ? 0 : deadline - now > 1000 ? 1000 : (int)(deadline - now);
        if (poll(&one, 1, wait) < 0)
            return DATSYNC_E_IO;
        if (!connected) {
            result = one.revents == 0 ? 0 : net->connected(net->ctx, socket);
            connected = one.revents != 0 && result == 0;
            result = result == DATSYNC_E_AGAIN ? 0 : result;
        } else if (one.revents & (POLLIN | POLLERR | POLLHUP)) {
            result = pull(net, socket, peer);
        }
        if (result == 0)
            result = datsync_peer_tick(peer, datsync_os_clock(NULL));
        if (connected && (result == 0 || result == DATSYNC_E_DONE)) {
            int sent = push(net, socket, peer);
            result = sent < 0 && result == 0 ? sent : result;
        }
        if (result == 0 && datsync_peer_complete(peer, feed))
            result = DATSYNC_E_DONE;
    }
    return result;
}

static int clone(datsync_feed *feed, const datsync_env *env, const char *address)
{
    const datsync_net *net = datsync_os_net();
    datsync_peer_options options = {.env = env, .on_event = on_event};
    datsync_peer *peer = NULL;
    intptr_t socket;

    int error = net->connect(net->ctx, address, &socket);
    if (error < 0)
        return error;
    error = datsync_peer_new(&peer, &options, datsync_os_clock(NULL));
    if (error == 0) {
        error = datsync_peer_open(peer, feed, DATSYNC_DOWNLOAD);
        if (error == 0)
            error = loop(net, socket, peer, feed);
        datsync_peer_free(peer);
    }
    net->close(net->ctx, socket);
    return error;
}

int main(int argc, char **argv)
{
    uint8_t key[32];
    datsync_feed *feed = NULL;
    datsync_env env = {.clock = datsync_os_clock};
    datsync_feed_options folder = {.env = &env, .key = key, .flags = DATSYNC_CREATE};

    if (argc != 4 || datsync_parse_link(key, argv[1]) != 0) {
        fprintf(stderr, "usage: foreign_loop dat://KEY HOST:PORT FOLDER\n");
        return 2;
    }
    int error = datsync_os_store(&folder.store, argv[3], NULL, DATSYNC_CREATE);
    if (error == 0)
        error = datsync_feed_open(&feed, &folder);
    if (error == 0) {
        error = clone(feed, &env, argv[2]);
        printf("%llu blocks\n", (unsigned long long)datsync_feed_length(feed));
        int closed = datsync_feed_close(feed); /* commits */
        error = closed < 0 ? closed : error;
    }
    if (error != DATSYNC_E_DONE) {
        fprintf(stderr, "foreign_loop: %s\n", datsync_strerror(error));
        return 1;
    }
    return 0;
}
