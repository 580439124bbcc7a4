/* Asking: questions to the group of multicast DNS, to discovery servers and to nodes of the DHT, all at once.
 *
 * SPDX-License-Identifier: MIT
 *
 * One loop waits for everything. A question is sent three times and then given up, and so are names that don't resolve:
 * it ends by itself, in 9 s. It calls output, for what goes wrong.
 */
#include "asking.h"
#include "output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Milliseconds for names to resolve, from the beginning; for an answer, from the first question on; for multicast. */
#define ASKING_NAME_MS 6000u
#define ASKING_ANSWER_MS 3000u
#define ASKING_ECHO_MS 2000u
/* All places where names are looked up may be taken: then they are tried again so often. */
#define ASKING_AGAIN_MS 100u
/* Bytes of a datagram that is read, and datagrams of one socket in a turn. */
#define ASKING_BYTES 2048u
#define ASKING_DATAGRAMS 64u
#define ASKING_HOST_TEXT 264u

/* ---------------------------------------------------------------- what is to be asked ----------------------------- */

int same_host(const datsync_ip *a, const datsync_ip *b)
{
    return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

static question *add_question(asking *k, const datsync_ip *to)
{
    question *q = &k->questions[k->question_count];

    if (k->question_count == ASKING_QUESTIONS)
        return NULL;
    q->to = *to;
    /* Never an id that begins as a message of the DHT does. */
    q->id = (uint16_t)(0x8000u | ((k->random[30] * 256u + k->random[31] + k->question_count) & 0x7fffu));
    q->error = DATSYNC_E_AGAIN;
    k->question_count++;
    return q;
}

static int is_asked(const asking *k, const datsync_ip *group)
{
    for (size_t i = 0; i < k->question_count; i++)
        if (k->questions[i].to.size == group->size && k->questions[i].to.via == group->via)
            return 1;
    return 0;
}

void ask_group(asking *k, const datsync_interface *one)
{
    int socket = one->ip.size == 4 ? ECHO_4 : ECHO_6;
    datsync_ip at, group;

    datsync_mdns_group(&group, one->ip.size, one->ip.via);
    if (one->loopback || !one->multicast || is_asked(k, &group))
        return;
    if (k->sockets[socket] == -1 && k->errors[socket] == 0) {
        memset(&at, 0, sizeof at);
        at.size = one->ip.size;
        at.port = DATSYNC_MDNS_PORT;
        k->errors[socket] = k->net->datagrams(k->net->ctx, &at, 1, &k->sockets[socket]);
        if (k->errors[socket] < 0)
            k->sockets[socket] = -1;
    }
    question *q = add_question(k, &group);
    if (q == NULL)
        return;
    q->by = one;
    int error = k->errors[socket];
    if (error == 0)
        error = k->net->join(k->net->ctx, k->sockets[socket], &group);
    if (error < 0)
        q->error = error;
}

int asking_open(asking *k, uint16_t port)
{
    datsync_ip at;

    memset(&at, 0, sizeof at);
    at.size = 4;
    at.port = port;
    int first = k->net->datagrams(k->net->ctx, &at, 0, &k->sockets[PLAIN]);
    k->errors[PLAIN] = first;
    at.port = 0;
    if (first < 0)
        k->errors[PLAIN] = k->net->datagrams(k->net->ctx, &at, 0, &k->sockets[PLAIN]);
    if (k->errors[PLAIN] < 0)
        k->sockets[PLAIN] = -1;
    return first;
}

void ask_hosts(asking *k, int way, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count && k->host_count < ASKING_HOSTS; i++) {
        host *h = &k->hosts[k->host_count++];
        const char *colon = strrchr(list[i], ':');
        h->way = way;
        h->text = list[i];
        h->port = colon != NULL ? (uint16_t)strtoul(colon + 1, NULL, 10) : 0;
        h->handle = -1;
    }
}

/* ---------------------------------------------------------------- names ------------------------------------------- */

static void ask_host(asking *k, const host *h, datsync_ip at, uint16_t port)
{
    at.port = port;
    question *q = add_question(k, &at);
    if (q == NULL)
        return;
    q->of = h;
    if (k->sockets[PLAIN] == -1)
        q->error = k->errors[PLAIN];
}

static void host_over(host *h, int error)
{
    h->state = HOST_OVER;
    h->error = error;
}

static void host_resolved(asking *k, host *h)
{
    datsync_ip list[16];
    unsigned asked = 0;

    int count = k->net->resolved(k->net->ctx, h->handle, list, COUNT(list));
    if (count == DATSYNC_E_AGAIN)
        return;
    k->net->close(k->net->ctx, h->handle);
    h->handle = -1;
    for (int i = 0; i < count && i < (int)COUNT(list) && asked < ASKING_ADDRESSES; i++) {
        if (list[i].size != 4)
            continue;
        asked++;
        ask_host(k, h, list[i], h->port != 0 ? h->port : DATSYNC_DNS_SERVER_PORT);
        if (h->port == 0)
            ask_host(k, h, list[i], DATSYNC_DNS_OTHER_PORT);
    }
    host_over(h, count < 0 ? count : asked == 0 ? DATSYNC_E_ADDRESS : 0);
}

static void look_up(asking *k, host *h)
{
    char name[ASKING_HOST_TEXT];
    const char *colon = strrchr(h->text, ':');
    size_t len = colon != NULL ? (size_t)(colon - h->text) : strlen(h->text);

    if (len >= sizeof name || k->net->resolve == NULL) {
        host_over(h, len >= sizeof name ? DATSYNC_E_ADDRESS : DATSYNC_E_UNSUPPORTED);
        return;
    }
    memcpy(name, h->text, len);
    name[len] = 0;
    int error = k->net->resolve(k->net->ctx, name, &h->handle);
    if (error == 0)
        h->state = HOST_LOOKS;
    else if (error != DATSYNC_E_AGAIN)
        host_over(h, error);
    if (error < 0)
        h->handle = -1;
}

static void step_hosts(asking *k)
{
    for (size_t i = 0; i < k->host_count; i++) {
        host *h = &k->hosts[i];
        if (h->state == HOST_WAITS)
            look_up(k, h);
        if (h->state == HOST_LOOKS)
            host_resolved(k, h);
        if (h->state == HOST_OVER || k->now - k->began < ASKING_NAME_MS)
            continue;
        if (h->handle != -1)
            k->net->close(k->net->ctx, h->handle);
        h->handle = -1;
        host_over(h, DATSYNC_E_TIMEOUT);
    }
}

/* ---------------------------------------------------------------- questions --------------------------------------- */

static int64_t write_question(const asking *k, const question *q, uint8_t *out, size_t cap)
{
    datsync_dns_item item;
    datsync_dht_message ping;
    uint8_t transaction[2] = {(uint8_t)(q->id >> 8), (uint8_t)q->id};

    if (q->of != NULL && q->of->way == DATSYNC_BY_DHT) {
        memset(&ping, 0, sizeof ping);
        ping.kind = DATSYNC_DHT_PING;
        ping.transaction = (datsync_bytes){transaction, sizeof transaction};
        ping.id = (datsync_bytes){k->random, DATSYNC_NODE_BYTES};
        ping.port = ping.implied_port = ping.code = -1;
        ping.read_only = 1;
        return datsync_dht_write(out, cap, &ping);
    }
    memset(&item, 0, sizeof item);
    item.part = DATSYNC_DNS_QUESTION;
    item.type = DATSYNC_DNS_TXT;
    item.about = q->of != NULL ? DATSYNC_DNS_DOMAIN : DATSYNC_DNS_NAME;
    memcpy(item.name, k->random, sizeof item.name);
    return datsync_dns_write(out, cap, q->of != NULL ? q->id : 0, q->of != NULL ? DATSYNC_DNS_FLAGS_QUERY : 0, &item,
                             1);
}

static int socket_of(const question *q)
{
    return q->of != NULL ? PLAIN : q->to.size == 4 ? ECHO_4 : ECHO_6;
}

/* At 0, 0.5 and 1.5 s; then it is given up. */
static void ask(const asking *k, question *q)
{
    uint8_t bytes[DATSYNC_MAX_DATAGRAM];

    if (q->sent == 3) {
        q->error = q->trouble != 0 ? q->trouble : DATSYNC_E_TIMEOUT;
        return;
    }
    int64_t len = write_question(k, q, bytes, sizeof bytes);
    int error = len < 0 ? (int)len : k->net->send_to(k->net->ctx, k->sockets[socket_of(q)], bytes, (size_t)len, &q->to);
    q->began = q->sent == 0 ? k->now : q->began;
    q->sent++;
    q->trouble = error == DATSYNC_E_AGAIN ? 0 : error;
    q->due = q->began + (q->sent == 1 ? 500 : q->sent == 2 ? 1500 : q->of != NULL ? ASKING_ANSWER_MS : ASKING_ECHO_MS);
    if (error == DATSYNC_E_UNREACHABLE)
        q->error = error; /* there is no way out: no need to wait */
}

static void answered(const asking *k, question *q)
{
    if (q->error != 0)
        q->took = k->now - q->began;
    q->error = 0;
}

/* It came back by the interface by which it went out. */
static void take_echo(asking *k, const uint8_t *bytes, size_t len, const datsync_ip *from)
{
    datsync_dns m;
    datsync_dns_cursor cursor = {0, 0};
    datsync_dns_item item;

    if (datsync_dns_parse(&m, bytes, len) < 0 || datsync_dns_next(&m, &cursor, &item) != 1 ||
        item.part != DATSYNC_DNS_QUESTION || item.about != DATSYNC_DNS_NAME ||
        memcmp(item.name, k->random, sizeof item.name) != 0)
        return;
    for (size_t i = 0; i < k->question_count; i++) {
        question *q = &k->questions[i];
        if (q->of == NULL && q->to.size == from->size && q->to.via == from->via && q->sent > 0)
            answered(k, q);
    }
}

static void take_server(const asking *k, question *q, const uint8_t *bytes, size_t len)
{
    char text[DATSYNC_IP_TEXT];
    datsync_dns m;
    datsync_dns_cursor cursor = {0, 0};
    datsync_dns_item item;

    if (datsync_dns_parse(&m, bytes, len) < 0 || m.id != q->id || !(m.flags & DATSYNC_DNS_FLAGS_ANSWER))
        return;
    while (datsync_dns_next(&m, &cursor, &item) == 1) {
        if (item.part != DATSYNC_DNS_ANSWER || item.about != DATSYNC_DNS_DOMAIN || !(item.has & DATSYNC_DNS_TOKEN))
            continue;
        answered(k, q);
        if (!(item.has & DATSYNC_DNS_HOST) || !(item.has & DATSYNC_DNS_PORT) || item.host.len > 15)
            return;
        snprintf(text, sizeof text, "%.*s:%u", (int)item.host.len, (const char *)item.host.data, (unsigned)item.port);
        if (datsync_ip_parse(&q->seen, text) < 0 || q->seen.size != 4)
            memset(&q->seen, 0, sizeof q->seen);
        return;
    }
    q->trouble = DATSYNC_E_MESSAGE; /* a server of something else */
}

static void take_node(const asking *k, question *q, const uint8_t *bytes, size_t len)
{
    datsync_dht_message m;
    const uint8_t id[2] = {(uint8_t)(q->id >> 8), (uint8_t)q->id};

    if (datsync_dht_parse(&m, bytes, len) < 0 || m.kind < DATSYNC_DHT_ANSWER || m.transaction.len != sizeof id ||
        memcmp(m.transaction.data, id, sizeof id) != 0)
        return;
    answered(k, q);
    if (m.seen.data == NULL || m.seen.len != 6)
        return;
    memset(&q->seen, 0, sizeof q->seen);
    q->seen.size = 4;
    memcpy(q->seen.bytes, m.seen.data, 4);
    q->seen.port = (uint16_t)(m.seen.data[4] << 8 | m.seen.data[5]);
}

static void take(asking *k, int socket, const uint8_t *bytes, size_t len, const datsync_ip *from)
{
    if (socket != PLAIN) {
        take_echo(k, bytes, len, from);
        return;
    }
    for (size_t i = 0; i < k->question_count; i++) {
        question *q = &k->questions[i];
        if (q->of == NULL || q->sent == 0 || q->to.port != from->port || !same_host(&q->to, from))
            continue;
        if (q->of->way == DATSYNC_BY_DHT)
            take_node(k, q, bytes, len);
        else
            take_server(k, q, bytes, len);
    }
}

static void receive(asking *k, int socket)
{
    uint8_t bytes[ASKING_BYTES];
    datsync_ip from;

    for (unsigned i = 0; i < ASKING_DATAGRAMS; i++) {
        int64_t got = k->net->receive_from(k->net->ctx, k->sockets[socket], bytes, sizeof bytes, &from);
        if (got == DATSYNC_E_AGAIN)
            return;
        if (got >= 0) /* an error is of one that was sent before */
            take(k, socket, bytes, (size_t)got, &from);
    }
}

/* ---------------------------------------------------------------- the loop ---------------------------------------- */

/* Sends what is due. When there is something to do again; UINT64_MAX: all is over. */
static uint64_t step(asking *k)
{
    uint64_t due = UINT64_MAX;

    step_hosts(k);
    for (size_t i = 0; i < k->host_count; i++) {
        uint64_t end = k->began + ASKING_NAME_MS, again = k->now + ASKING_AGAIN_MS;
        if (k->hosts[i].state == HOST_WAITS && again < end)
            end = again;
        if (k->hosts[i].state != HOST_OVER && end < due)
            due = end;
    }
    for (size_t i = 0; i < k->question_count; i++) {
        question *q = &k->questions[i];
        if (q->error == DATSYNC_E_AGAIN && q->due <= k->now)
            ask(k, q);
        if (q->error == DATSYNC_E_AGAIN && q->due < due)
            due = q->due;
    }
    return due;
}

static size_t handles(const asking *k, datsync_pollfd *fds)
{
    size_t count = 0;

    for (int i = 0; i < SOCKETS; i++)
        if (k->sockets[i] != -1)
            fds[count++] = (datsync_pollfd){k->sockets[i], DATSYNC_POLL_READ, 0};
    for (size_t i = 0; i < k->host_count; i++)
        if (k->hosts[i].handle != -1)
            fds[count++] = (datsync_pollfd){k->hosts[i].handle, DATSYNC_POLL_READ, 0};
    return count;
}

int ask_all(asking *k)
{
    datsync_pollfd fds[SOCKETS + ASKING_HOSTS];

    k->began = datsync_os_clock(NULL);
    while (!datsync_os_stopped(NULL)) {
        k->now = datsync_os_clock(NULL);
        uint64_t due = step(k);
        if (due == UINT64_MAX)
            return DONE;
        int error = k->net->poll(k->net->ctx, fds, handles(k, fds), due <= k->now ? 0 : (int)(due - k->now));
        if (error < 0)
            return fail(k->c, FAILED, "%s", datsync_strerror(error));
        k->now = datsync_os_clock(NULL);
        for (int i = 0; i < SOCKETS; i++)
            if (k->sockets[i] != -1)
                receive(k, i);
    }
    return fail(k->c, INTERRUPTED, "interrupted");
}

/* ---------------------------------------------------------------- begin and end ----------------------------------- */

int asking_begin(asking *k, const cli *c)
{
    datsync_feed_options options;
    datsync_feed *feed;

    memset(k, 0, sizeof *k);
    k->c = c;
    k->net = datsync_os_net();
    for (int i = 0; i < SOCKETS; i++)
        k->sockets[i] = -1;
    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.flags = DATSYNC_CREATE;
    int error = datsync_feed_open(&feed, &options); /* its key is as random as anything */
    if (error == 0) {
        memcpy(k->random, datsync_feed_key(feed), sizeof k->random);
        error = datsync_feed_close(feed);
    }
    return error < 0 ? fail(c, FAILED, "%s", datsync_strerror(error)) : DONE;
}

void asking_end(asking *k)
{
    for (int i = 0; i < SOCKETS; i++)
        if (k->sockets[i] != -1)
            k->net->close(k->net->ctx, k->sockets[i]);
    for (size_t i = 0; i < k->host_count; i++)
        if (k->hosts[i].handle != -1)
            k->net->close(k->net->ctx, k->hosts[i].handle);
}
