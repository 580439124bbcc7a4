/* The smallest embedder: clone a feed from an address.
 *
 *     cc embed.c datsync.c net_posix.c -lsodium -o embed
 *     ./embed dat://KEY 127.0.0.1:3282 folder
 *
 * SPDX-License-Identifier: MIT
 */
#include "datsync.h"

#include <stdio.h>

static void on_event(void *ctx, datsync *ds, const datsync_event *event)
{
    int *complete = ctx;

    if (event->type == DATSYNC_EV_COMPLETE) {
        *complete = 1;
        datsync_stop(ds);
    }
}

int main(int argc, char **argv)
{
    uint8_t key[32];
    int complete = 0;
    datsync *ds = NULL;
    datsync_feed *feed = NULL;
    datsync_env env = {.clock = datsync_os_clock};
    datsync_feed_options folder = {.env = &env, .key = key, .flags = DATSYNC_CREATE};
    datsync_options options = {.env = &env, .net = datsync_os_net(), .ctx = &complete, .on_event = on_event};

    if (argc != 4 || datsync_parse_link(key, argv[1]) != 0) {
        fprintf(stderr, "usage: embed dat://KEY HOST:PORT FOLDER\n");
        return 2;
    }
    int error;
    if ((error = datsync_os_store(&folder.store, argv[3], NULL, DATSYNC_CREATE)) == 0 &&
        (error = datsync_feed_open(&feed, &folder)) == 0 &&
        (error = datsync_new(&ds, &options, datsync_os_clock(NULL))) == 0 &&
        (error = datsync_add(ds, feed, DATSYNC_DOWNLOAD)) == 0 &&
        (error = datsync_connect(ds, argv[2], datsync_os_clock(NULL))) == 0)
        error = datsync_run(ds); /* until complete, or until there is nobody left to ask */
    if (ds != NULL)
        datsync_free(ds);
    if (feed != NULL && error >= 0) {
        printf("%s: %llu blocks\n", complete ? "complete" : "not complete",
               (unsigned long long)datsync_feed_length(feed));
    }
    if (feed != NULL && datsync_feed_close(feed) < 0)
        complete = 0;
    if (error < 0)
        fprintf(stderr, "embed: %s\n", datsync_strerror(error));
    return complete ? 0 : 1;
}
