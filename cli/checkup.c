/* Checkup: what the network at hand lets through, of all that finding peers needs.
 *
 * SPDX-License-Identifier: MIT
 *
 * Everything is asked at once: a question to the group of multicast DNS on each interface, which must come back, and
 * one to each discovery server, at both its ports, and each bootstrap of the DHT. One loop waits for all of them; each
 * question is sent three times and then given up, and so are names that don't resolve. Then it is told in order. It
 * calls finding, output and text.
 */
#include "checkup.h"
#include "finding.h"
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Milliseconds for names to resolve, from the beginning; for an answer, from the first question on; for multicast. */
#define CHECKUP_NAME_MS 6000u
#define CHECKUP_ANSWER_MS 3000u
#define CHECKUP_ECHO_MS 2000u
/* All places where names are looked up may be taken: then they are tried again so often. */
#define CHECKUP_AGAIN_MS 100u
/* Addresses of interfaces, and of one host, that are looked at. */
#define CHECKUP_INTERFACES 64u
#define CHECKUP_ADDRESSES 4u
#define CHECKUP_HOSTS (CLI_MAX_SERVERS + CLI_MAX_BOOTSTRAPS)
#define CHECKUP_QUESTIONS                                                                                              \
    (CHECKUP_INTERFACES + CHECKUP_ADDRESSES * (2u * CLI_MAX_SERVERS + (unsigned)CLI_MAX_BOOTSTRAPS))
/* Bytes of a datagram that is read, and datagrams of one socket in a turn. */
#define CHECKUP_BYTES 2048u
#define CHECKUP_DATAGRAMS 64u
#define CHECKUP_HOST_TEXT 264u

/* A discovery server or a bootstrap. */
typedef struct host {
    int way;
    const char *text; /* as it was given */
    uint16_t port;    /* 0: a server's usual ones */
    enum { HOST_WAITS, HOST_LOOKS, HOST_OVER } state;
    intptr_t handle; /* while it is looked up */
    int error;       /* why its addresses are not known */
} host;

/* What is sent, and is to be answered or to come back. */
typedef struct question {
    const host *of;              /* NULL: it goes to the group */
    const datsync_interface *by; /* of such a one */
    datsync_ip to;
    uint16_t id;
    unsigned sent;   /* so many times */
    uint64_t began;  /* when it was sent first */
    uint64_t due;    /* when it is sent again or given up */
    int error;       /* 0: it was answered; DATSYNC_E_AGAIN: not yet; else why not */
    int trouble;     /* the last error in sending it */
    uint64_t took;   /* milliseconds */
    datsync_ip seen; /* how who answered sees us; size 0: it has not said */
} question;

enum { ECHO_4, ECHO_6, PLAIN, SOCKETS };

typedef struct checkup {
    const cli *c;
    const datsync_net *net;
    unsigned ways, works; /* a bit for each way: that the options leave; that answers */
    int listens, alone;   /* it can listen; there is no network */
    uint64_t began, now;
    uint8_t random[32];
    uint16_t port; /* at which others are to connect; 0: any */
    intptr_t sockets[SOCKETS];
    int errors[SOCKETS];
    datsync_interface interfaces[CHECKUP_INTERFACES];
    size_t interface_count;
    host hosts[CHECKUP_HOSTS];
    size_t host_count;
    question questions[CHECKUP_QUESTIONS];
    size_t question_count;
    told advised;
} checkup;

/* ---------------------------------------------------------------- telling ----------------------------------------- */

void tell_result(told *advised, const char *advice, const char *format, ...)
{
    char line[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    put_safe(stdout, line);
    fputc('\n', stdout);
    if (advice != NULL && told_first(advised, advice, 0)) {
        fputs("  -> ", stdout);
        put_safe(stdout, advice);
        fputc('\n', stdout);
    }
    fflush(stdout);
}

void json_end_advised(const char *advice)
{
    if (advice != NULL)
        json_string("advice", advice);
    json_end();
}

/* An address without a port. */
static const char *bare(const datsync_ip *ip, char text[DATSYNC_IP_TEXT])
{
    datsync_ip_text(ip, text);
    *strrchr(text, ':') = 0;
    if (text[0] == '[') {
        memmove(text, text + 1, strlen(text));
        text[strcspn(text, "%]")] = 0;
    }
    return text;
}

static int same_host(const datsync_ip *a, const datsync_ip *b)
{
    return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

static void json_question(const question *q)
{
    char text[DATSYNC_IP_TEXT];

    json_bool("ok", q->error == 0);
    if (q->error == 0)
        json_number("ms", q->took);
    if (q->seen.size != 0) {
        datsync_ip_text(&q->seen, text);
        json_string("seen_as", text);
    }
    if (q->error < 0)
        json_reason(q->error);
}

/* ---------------------------------------------------------------- listening --------------------------------------- */

static void tell_listen(checkup *k, const char *protocol, const char *where, int error, const char *advice)
{
    if (k->c->json) {
        json_begin("listen");
        json_string("protocol", protocol);
        json_string("address", where);
        json_bool("ok", error >= 0);
        if (error < 0)
            json_reason(error);
        json_end_advised(advice);
    } else if (error < 0) {
        tell_result(&k->advised, advice, "%s at %s: no, %s", protocol, where, datsync_strerror(error));
    } else {
        tell_result(&k->advised, NULL, "%s at %s: free to listen on", protocol, where);
    }
}

static int try_listening(const checkup *k, const char *address)
{
    intptr_t listener;
    char bound[512];

    int error = k->net->listen(k->net->ctx, address, &listener, bound, sizeof bound);
    if (error == 0)
        k->net->close(k->net->ctx, listener);
    return error;
}

static void check_tcp(checkup *k)
{
    const char *address = k->c->listen != NULL ? k->c->listen : ":" CLI_PORT, *advice = NULL;

    if (k->c->no_listen)
        return;
    int error = try_listening(k, address);
    k->listens = error == 0;
    if (error == DATSYNC_E_IN_USE && k->c->listen == NULL) {
        k->listens = try_listening(k, ":0") == 0;
        k->port = 0;
        advice = "another program listens there, maybe another datsync: share and sync then take any other port, of "
                 "which no "
                 "firewall or router knows; end that program, or choose a free port with --listen PORT";
    } else if (error == DATSYNC_E_IN_USE) {
        advice = "another program listens there: end it, or choose another port with --listen";
    } else if (error == DATSYNC_E_ADDRESS) {
        advice = "this machine has no such address: leave the host out (--listen PORT), or name an address from below";
    } else if (error < 0) {
        advice = "choose another port, from 1024 on, with --listen PORT";
    }
    tell_listen(k, "TCP", address, error, advice);
}

/* The socket from which servers and nodes are asked: like that of a transfer, at the port of TCP if that is free. */
static void check_udp(checkup *k)
{
    datsync_ip at;
    char text[DATSYNC_IP_TEXT];

    if (!(k->ways & ~(1u << DATSYNC_BY_MDNS)))
        return;
    memset(&at, 0, sizeof at);
    at.size = 4;
    at.port = k->port;
    datsync_ip_text(&at, text);
    int error = k->net->datagrams(k->net->ctx, &at, 0, &k->sockets[PLAIN]);
    tell_listen(
        k, "UDP", text + strcspn(text, ":"), error,
        error == DATSYNC_E_IN_USE
            ? "another program has it: discovery then takes any other port, which is as good, unless a firewall "
              "lets through this one alone"
            : NULL);
    k->errors[PLAIN] = error;
    at.port = 0;
    if (error < 0)
        k->errors[PLAIN] = k->net->datagrams(k->net->ctx, &at, 0, &k->sockets[PLAIN]);
    if (k->errors[PLAIN] < 0)
        k->sockets[PLAIN] = -1;
}

/* ---------------------------------------------------------------- interfaces and multicast ------------------------ */

static void tell_interface(checkup *k, const datsync_interface *one)
{
    char text[DATSYNC_IP_TEXT];

    if (k->c->json) {
        json_begin("interface");
        json_string("name", one->name);
        json_string("address", bare(&one->ip, text));
        json_number("prefix", one->prefix);
        json_bool("loopback", one->loopback);
        json_bool("multicast", one->multicast);
        json_end();
    } else {
        tell_result(&k->advised, NULL, "interface %s: %s/%u%s", one->name, bare(&one->ip, text), (unsigned)one->prefix,
                    one->loopback    ? ", this machine alone"
                    : one->multicast ? ""
                                     : ", no multicast");
    }
}

static void check_interfaces(checkup *k)
{
    int count = k->net->interfaces(k->net->ctx, k->interfaces, CHECKUP_INTERFACES);

    k->interface_count = count < 0 ? 0 : (size_t)count < CHECKUP_INTERFACES ? (size_t)count : CHECKUP_INTERFACES;
    k->alone = 1;
    for (size_t i = 0; i < k->interface_count; i++) {
        tell_interface(k, &k->interfaces[i]);
        k->alone = k->alone && k->interfaces[i].loopback;
    }
    if (k->alone && !k->c->json) {
        tell_result(&k->advised, "connect this machine to a network: it reaches nobody but itself",
                    "there is no network here");
    }
}

static question *add_question(checkup *k, const datsync_ip *to)
{
    question *q = &k->questions[k->question_count];

    if (k->question_count == CHECKUP_QUESTIONS)
        return NULL;
    q->to = *to;
    /* Never an id that begins as a message of the DHT does. */
    q->id = (uint16_t)(0x8000u | ((k->random[30] * 256u + k->random[31] + k->question_count) & 0x7fffu));
    q->error = DATSYNC_E_AGAIN;
    k->question_count++;
    return q;
}

static int is_asked(const checkup *k, const datsync_ip *group)
{
    for (size_t i = 0; i < k->question_count; i++)
        if (k->questions[i].to.size == group->size && k->questions[i].to.via == group->via)
            return 1;
    return 0;
}

/* Each interface once for each family, however many addresses it has. */
static void begin_echo(checkup *k, const datsync_interface *one)
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

static const char *advice_of_echo(const checkup *k, const question *q)
{
    if (q->error == 0)
        return NULL;
    if (k->errors[q->to.size == 4 ? ECHO_4 : ECHO_6] == DATSYNC_E_IN_USE) {
        return "another program holds UDP port 5353 and does not share it: end it, or set it to share the port; until "
               "then "
               "peers in the local network are found by other ways, or by --peer HOST:PORT";
    }
    return "a firewall on this machine, or the interface, stops multicast DNS: let UDP port 5353 through, or name "
           "peers in "
           "the local network with --peer HOST:PORT";
}

static void tell_echo(checkup *k, const question *q)
{
    const char *advice = advice_of_echo(k, q);

    if (q->error == 0)
        k->works |= 1u << DATSYNC_BY_MDNS;
    if (k->c->json) {
        json_begin("multicast");
        json_string("interface", q->by->name);
        json_number("family", q->to.size == 4 ? 4 : 6);
        json_question(q);
        json_end_advised(advice);
    } else {
        tell_result(&k->advised, advice, "multicast on %s, IPv%d: %s%s", q->by->name, q->to.size == 4 ? 4 : 6,
                    q->error == 0 ? "comes back" : "does not come back, ",
                    q->error == 0                   ? ""
                    : q->error == DATSYNC_E_TIMEOUT ? "nothing was heard of it"
                                                    : datsync_strerror(q->error));
    }
}

/* ---------------------------------------------------------------- servers and bootstraps -------------------------- */

/* Where there is no network, the usual ones need no asking. */
static void add_hosts(checkup *k, int way, const char *const *named, size_t count, const char *const *usual)
{
    const char *const *list = count > 0 ? named : usual;

    if (count == 0 && !k->alone)
        while (list[count] != NULL)
            count++;
    for (size_t i = 0; i < count && k->ways & 1u << way && k->host_count < CHECKUP_HOSTS; i++) {
        host *h = &k->hosts[k->host_count++];
        const char *colon = strrchr(list[i], ':');
        h->way = way;
        h->text = list[i];
        h->port = colon != NULL ? (uint16_t)strtoul(colon + 1, NULL, 10) : 0;
        h->handle = -1;
    }
}

static void ask_host(checkup *k, const host *h, datsync_ip at, uint16_t port)
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

static void host_resolved(checkup *k, host *h)
{
    datsync_ip list[16];
    unsigned asked = 0;

    int count = k->net->resolved(k->net->ctx, h->handle, list, COUNT(list));
    if (count == DATSYNC_E_AGAIN)
        return;
    k->net->close(k->net->ctx, h->handle);
    h->handle = -1;
    for (int i = 0; i < count && i < (int)COUNT(list) && asked < CHECKUP_ADDRESSES; i++) {
        if (list[i].size != 4)
            continue;
        asked++;
        ask_host(k, h, list[i], h->port != 0 ? h->port : DATSYNC_DNS_SERVER_PORT);
        if (h->port == 0)
            ask_host(k, h, list[i], DATSYNC_DNS_OTHER_PORT);
    }
    host_over(h, count < 0 ? count : asked == 0 ? DATSYNC_E_ADDRESS : 0);
}

static void look_up(checkup *k, host *h)
{
    char name[CHECKUP_HOST_TEXT];
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

static void step_hosts(checkup *k)
{
    for (size_t i = 0; i < k->host_count; i++) {
        host *h = &k->hosts[i];
        if (h->state == HOST_WAITS)
            look_up(k, h);
        if (h->state == HOST_LOOKS)
            host_resolved(k, h);
        if (h->state == HOST_OVER || k->now - k->began < CHECKUP_NAME_MS)
            continue;
        if (h->handle != -1)
            k->net->close(k->net->ctx, h->handle);
        h->handle = -1;
        host_over(h, DATSYNC_E_TIMEOUT);
    }
}

/* ---------------------------------------------------------------- questions --------------------------------------- */

static int64_t write_question(const checkup *k, const question *q, uint8_t *out, size_t cap)
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
static void ask(const checkup *k, question *q)
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
    q->due = q->began + (q->sent == 1    ? 500
                         : q->sent == 2  ? 1500
                         : q->of != NULL ? CHECKUP_ANSWER_MS
                                         : CHECKUP_ECHO_MS);
    if (error == DATSYNC_E_UNREACHABLE)
        q->error = error; /* there is no way out: no need to wait */
}

static void answered(const checkup *k, question *q)
{
    if (q->error != 0)
        q->took = k->now - q->began;
    q->error = 0;
}

/* It came back by the interface by which it went out. */
static void take_echo(checkup *k, const uint8_t *bytes, size_t len, const datsync_ip *from)
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

static void take_server(const checkup *k, question *q, const uint8_t *bytes, size_t len)
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

static void take_node(const checkup *k, question *q, const uint8_t *bytes, size_t len)
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

static void take(checkup *k, int socket, const uint8_t *bytes, size_t len, const datsync_ip *from)
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

static void receive(checkup *k, int socket)
{
    uint8_t bytes[CHECKUP_BYTES];
    datsync_ip from;

    for (unsigned i = 0; i < CHECKUP_DATAGRAMS; i++) {
        int64_t got = k->net->receive_from(k->net->ctx, k->sockets[socket], bytes, sizeof bytes, &from);
        if (got == DATSYNC_E_AGAIN)
            return;
        if (got >= 0) /* an error is of one that was sent before */
            take(k, socket, bytes, (size_t)got, &from);
    }
}

/* ---------------------------------------------------------------- the loop ---------------------------------------- */

/* Sends what is due. When there is something to do again; UINT64_MAX: all is over. */
static uint64_t step(checkup *k)
{
    uint64_t due = UINT64_MAX;

    step_hosts(k);
    for (size_t i = 0; i < k->host_count; i++) {
        uint64_t end = k->began + CHECKUP_NAME_MS, again = k->now + CHECKUP_AGAIN_MS;
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

static size_t handles(const checkup *k, datsync_pollfd *fds)
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

static int ask_all(checkup *k)
{
    datsync_pollfd fds[SOCKETS + CHECKUP_HOSTS];

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

/* ---------------------------------------------------------------- what they answered ------------------------------ */

/* Of the addresses of a host the first that answers at a port, else the last one asked. */
static const question *best(const checkup *k, const host *h, uint16_t port)
{
    const question *found = NULL;

    for (size_t i = 0; i < k->question_count; i++) {
        const question *q = &k->questions[i];
        if (q->of == h && q->to.port == port && (found == NULL || found->error != 0))
            found = q;
    }
    return found;
}

static const char *advice_of_name(const host *h, int named)
{
    if (h->error == DATSYNC_E_UNREACHABLE || h->error == DATSYNC_E_TIMEOUT)
        return "no name server answers: check this machine's network and its DNS, or name hosts by their numbers";
    if (named)
        return "it has no address of IPv4: check how it is spelt";
    return "this public one is gone: name another with --discovery-server HOST or --dht-bootstrap HOST:PORT, or peers "
           "with "
           "--peer HOST:PORT";
}

static const char *advice_of_silent(int way, int named)
{
    if (way == DATSYNC_BY_SERVER && named) {
        return "see whether datsync discover runs there, and whether both networks let through UDP to its port (5300, "
               "or 53, "
               "or the one that you named)";
    }
    if (way == DATSYNC_BY_SERVER) {
        return "it is down, or this network stops UDP: name a server of your own (datsync discover, --discovery-server "
               "HOST), "
               "or peers with --peer HOST:PORT";
    }
    return named ? "see whether a node of the DHT runs there, and whether this network lets through UDP to its port"
                 : "it is down, or this network stops UDP: where all are silent, use --lan, a server of your own, or "
                   "--peer "
                   "HOST:PORT";
}

static const char *why_unnamed(int error)
{
    return error == DATSYNC_E_TIMEOUT       ? "its name was not looked up in time"
           : error == DATSYNC_E_UNREACHABLE ? "its name can't be looked up"
           : error == DATSYNC_E_ADDRESS     ? "there is no such name"
                                            : datsync_strerror(error);
}

static const char *why_silent(int error)
{
    return error == DATSYNC_E_TIMEOUT   ? "no answer"
           : error == DATSYNC_E_MESSAGE ? "what answers there is something else"
                                        : datsync_strerror(error);
}

/* One port of a host; q NULL: its name was not resolved. */
static void tell_host(checkup *k, const host *h, const question *q, const char *advice)
{
    const char *what = h->way == DATSYNC_BY_SERVER ? "discovery server" : "DHT node";
    int error = q != NULL ? q->error : h->error;
    char text[DATSYNC_IP_TEXT], port[32] = "", seen[DATSYNC_IP_TEXT + 32] = "";

    if (q != NULL && h->port == 0)
        snprintf(port, sizeof port, ", port %u", (unsigned)q->to.port);
    if (k->c->json) {
        json_begin(h->way == DATSYNC_BY_SERVER ? "server" : "bootstrap");
        json_string("host", h->text);
        if (q != NULL) {
            datsync_ip_text(&q->to, text);
            json_string("address", text);
            json_question(q);
        } else {
            json_bool("ok", 0);
            json_reason(error);
        }
        json_end_advised(advice);
        return;
    }
    if (q != NULL && q->seen.size != 0) {
        datsync_ip_text(&q->seen, text);
        snprintf(seen, sizeof seen, ", sees this machine as %s", text);
    }
    if (error == 0) {
        tell_result(&k->advised, advice, "%s %s%s: answers in %llu ms%s", what, h->text, port,
                    (unsigned long long)q->took, seen);
    } else {
        tell_result(&k->advised, advice, "%s %s%s: %s", what, h->text, port,
                    q == NULL ? why_unnamed(error) : why_silent(error));
    }
}

static void tell_answers(checkup *k, const host *h)
{
    int named = (h->way == DATSYNC_BY_SERVER ? k->c->discovery_server_count : k->c->dht_bootstrap_count) > 0;
    const question *first = best(k, h, h->port != 0 ? h->port : DATSYNC_DNS_SERVER_PORT);
    const question *other = h->port == 0 ? best(k, h, DATSYNC_DNS_OTHER_PORT) : NULL;

    if (first == NULL) {
        tell_host(k, h, NULL, advice_of_name(h, named));
        return;
    }
    int one = first->error == 0 || (other != NULL && other->error == 0);
    k->works |= one ? 1u << h->way : 0;
    const char *advice = one ? NULL : advice_of_silent(h->way, named);
    if (other == NULL || other->error == 0)
        tell_host(k, h, first,
                  first->error == 0 || !one ? advice : "nothing needs to be done: port 53 is used instead");
    else
        tell_host(k, h, first, advice);
    if (other != NULL)
        tell_host(k, h, other, advice);
}

/* ---------------------------------------------------------------- the NAT ----------------------------------------- */

/* What is public is told apart from what only the local network sees, by one who is public. */
static int is_public(const datsync_ip *ip)
{
    static const datsync_ip somebody = {{9, 9, 9, 9}, 4, 53, 0};

    return datsync_ip_believable(ip, &somebody);
}

static int is_own(const checkup *k, const datsync_ip *ip)
{
    for (size_t i = 0; i < k->interface_count; i++)
        if (same_host(&k->interfaces[i].ip, ip))
            return 1;
    return 0;
}

typedef struct sights {
    const question *first;
    int hosts;  /* two different ones at least */
    int differ; /* they see different ports or addresses */
} sights;

/* Those who see a public address count; where nobody does, all. */
static sights compare_sights(const checkup *k, int only_public)
{
    sights s = {NULL, 0, 0};

    for (size_t i = 0; i < k->question_count; i++) {
        const question *q = &k->questions[i];
        if (q->of == NULL || q->error != 0 || q->seen.size == 0 || (only_public && !is_public(&q->seen)))
            continue;
        if (s.first == NULL)
            s.first = q;
        s.hosts |= !same_host(&s.first->to, &q->to);
        s.differ |= !same_host(&s.first->seen, &q->seen) || s.first->seen.port != q->seen.port;
    }
    return s;
}

static void tell_nat(checkup *k, const char *kind, const datsync_ip *seen, const char *words, const char *advice)
{
    char text[DATSYNC_IP_TEXT] = "";

    if (seen != NULL)
        datsync_ip_text(seen, text);
    if (k->c->json) {
        json_begin("nat");
        json_string("kind", kind);
        if (seen != NULL)
            json_string("seen_as", text);
        json_end_advised(advice);
    } else {
        tell_result(&k->advised, advice, "from outside: %s%s%s", text, seen != NULL ? ", " : "", words);
    }
}

static void check_nat(checkup *k)
{
    char open[96], forward[256];
    sights s = compare_sights(k, 1);

    if (!(k->ways & ~(1u << DATSYNC_BY_MDNS)))
        return;
    if (s.first == NULL)
        s = compare_sights(k, 0);
    if (k->port == 0)
        snprintf(open, sizeof open, "choose a port with --listen PORT, and let TCP at it through the firewall");
    else
        snprintf(open, sizeof open, "let TCP port %u through the firewall", (unsigned)k->port);
    snprintf(forward, sizeof forward,
             "%s, and have the router forward it to this machine: else others can't connect here", open);
    if (s.first == NULL) {
        tell_nat(k, "unknown", NULL, "nobody told how this machine is seen", NULL);
    } else if (s.differ) {
        tell_nat(
            k, "changes", &s.first->seen,
            "but another one sees another port or address: a NAT that changes them is between",
            "others can't connect here, and no trick helps: connect outward from here to peers with an open port, or "
            "have the router forward the TCP port, or use another network");
    } else if (is_own(k, &s.first->seen)) {
        tell_nat(k, "none", &s.first->seen, "an address of this machine: no NAT is between", open);
    } else if (!s.hosts) {
        tell_nat(k, "unknown", &s.first->seen, "but only one tells: a NAT is between, of which kind can't be said",
                 forward);
    } else {
        tell_nat(k, "keeps", &s.first->seen, "and all who answered agree: a NAT is between, which keeps ports",
                 forward);
    }
}

/* ---------------------------------------------------------------- from begin to end ------------------------------- */

/* A new key is as random as anything. */
static int begin(checkup *k, const cli *c)
{
    datsync_feed_options options;
    datsync_feed *feed;
    const char *colon = c->listen != NULL ? strrchr(c->listen, ':') : ":" CLI_PORT;

    memset(k, 0, sizeof *k);
    k->c = c;
    k->net = datsync_os_net();
    k->ways = finding_ways(c);
    for (int i = 0; i < SOCKETS; i++)
        k->sockets[i] = -1;
    if (!c->no_listen && (c->listen == NULL || strncmp(c->listen, "unix:", 5) != 0))
        k->port = (uint16_t)strtoul(colon + 1, NULL, 10);
    memset(&options, 0, sizeof options);
    options.env = &c->env;
    options.flags = DATSYNC_CREATE;
    int error = datsync_feed_open(&feed, &options);
    if (error == 0) {
        memcpy(k->random, datsync_feed_key(feed), sizeof k->random);
        error = datsync_feed_close(feed);
    }
    return error < 0 ? fail(c, FAILED, "%s", datsync_strerror(error)) : DONE;
}

static int conclude(checkup *k)
{
    static const struct {
        int way;
        const char *words;
    } ways[] = {{DATSYNC_BY_MDNS, ", in the local network"},
                {DATSYNC_BY_SERVER, ", by discovery servers"},
                {DATSYNC_BY_DHT, ", by the DHT"}};
    char where[96] = "";
    int can = (k->c->no_listen || k->listens) && (k->works != 0 || (k->ways == 0 && !k->alone));

    for (size_t i = 0; i < COUNT(ways); i++)
        if (k->works & 1u << ways[i].way)
            strcat(where, ways[i].words);
    if (k->ways == 0)
        strcat(where, ", by --peer alone: options or the environment leave out all discovery");
    if (k->c->json) {
        json_begin("checked");
        json_bool("ok", can);
        json_bool("listen", k->listens);
        json_bool("mdns", (k->works & 1u << DATSYNC_BY_MDNS) != 0);
        json_bool("server", (k->works & 1u << DATSYNC_BY_SERVER) != 0);
        json_bool("dht", (k->works & 1u << DATSYNC_BY_DHT) != 0);
        json_end();
    } else if (can) {
        tell_result(&k->advised, NULL, "peers can be met%s", where + 1);
    }
    if (can)
        return DONE;
    return fail(k->c, FAILED, "peers can't be met: %s",
                k->alone                        ? "there is no network here"
                : k->works == 0 && k->ways != 0 ? "no way of finding them answers"
                                                : "this machine can't listen");
}

static int check_all(checkup *k)
{
    check_tcp(k);
    check_udp(k);
    check_interfaces(k);
    for (size_t i = 0; i < k->interface_count && k->ways & 1u << DATSYNC_BY_MDNS; i++)
        begin_echo(k, &k->interfaces[i]);
    add_hosts(k, DATSYNC_BY_SERVER, k->c->discovery_servers, k->c->discovery_server_count, datsync_discovery_servers());
    add_hosts(k, DATSYNC_BY_DHT, k->c->dht_bootstraps, k->c->dht_bootstrap_count, datsync_discovery_bootstraps());
    if (k->ways != 0)
        note(k->c, "asking, for 10 seconds at most");
    k->began = datsync_os_clock(NULL);
    int code = ask_all(k);
    if (code != DONE)
        return code;
    for (size_t i = 0; i < k->question_count; i++)
        if (k->questions[i].of == NULL)
            tell_echo(k, &k->questions[i]);
    for (size_t i = 0; i < k->host_count; i++)
        tell_answers(k, &k->hosts[i]);
    check_nat(k);
    return conclude(k);
}

int check_network(const cli *c)
{
    checkup *k = malloc(sizeof *k);

    if (k == NULL)
        return fail(c, FAILED, "%s", datsync_strerror(DATSYNC_E_NOMEM));
    int code = begin(k, c);
    if (code == DONE)
        code = check_all(k);
    for (int i = 0; i < SOCKETS; i++)
        if (k->sockets[i] != -1)
            k->net->close(k->net->ctx, k->sockets[i]);
    for (size_t i = 0; i < k->host_count; i++)
        if (k->hosts[i].handle != -1)
            k->net->close(k->net->ctx, k->hosts[i].handle);
    told_free(&k->advised);
    free(k);
    return code;
}
