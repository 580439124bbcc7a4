/* Checkup: what the network at hand lets through, of all that finding peers needs.
 *
 * SPDX-License-Identifier: MIT
 *
 * It looks at what there is, asks everybody at once, and then tells in order what works, and of each fault what to do
 * about it. It calls asking, finding, output and text.
 */
#include "checkup.h"
#include "asking.h"
#include "finding.h"
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct checkup {
    const cli *c;
    asking asking;
    unsigned ways, works; /* a bit for each way: that the options leave; that answers */
    int listens, alone;   /* it can listen; there is no network */
    uint16_t port;        /* at which others are to connect; 0: any */
    datsync_interface interfaces[ASKING_INTERFACES];
    size_t interface_count;
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

    int error = k->asking.net->listen(k->asking.net->ctx, address, &listener, bound, sizeof bound);
    if (error == 0)
        k->asking.net->close(k->asking.net->ctx, listener);
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
    char text[16];

    if (!(k->ways & ~(1u << DATSYNC_BY_MDNS)))
        return;
    int error = asking_open(&k->asking, k->port);
    snprintf(text, sizeof text, ":%u", (unsigned)k->port);
    tell_listen(
        k, "UDP", text, error,
        error == DATSYNC_E_IN_USE
            ? "another program has it: discovery then takes any other port, which is as good, unless a firewall "
              "lets through this one alone"
            : NULL);
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
    int count = k->asking.net->interfaces(k->asking.net->ctx, k->interfaces, ASKING_INTERFACES);

    k->interface_count = count < 0 ? 0 : (size_t)count < ASKING_INTERFACES ? (size_t)count : ASKING_INTERFACES;
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

static const char *advice_of_echo(const checkup *k, const question *q)
{
    if (q->error == 0)
        return NULL;
    if (k->asking.errors[q->to.size == 4 ? ECHO_4 : ECHO_6] == DATSYNC_E_IN_USE) {
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

/* ---------------------------------------------------------------- what they answered ------------------------------ */

/* Of the addresses of a host the first that answers at a port, else the last one asked. */
static const question *best(const checkup *k, const host *h, uint16_t port)
{
    const question *found = NULL;

    for (size_t i = 0; i < k->asking.question_count; i++) {
        const question *q = &k->asking.questions[i];
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

    for (size_t i = 0; i < k->asking.question_count; i++) {
        const question *q = &k->asking.questions[i];
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
    const char *let = k->c->no_listen ? NULL : open, *let_through = k->c->no_listen ? NULL : forward;
    sights s = compare_sights(k, 1);

    if (!(k->ways & ~(1u << DATSYNC_BY_MDNS)))
        return;
    if (s.first == NULL)
        s = compare_sights(k, 0);
    if (k->port == 0)
        snprintf(open, sizeof open, "choose a port with --listen PORT, and let TCP at it through any firewall");
    else
        snprintf(open, sizeof open, "let TCP port %u through, where there is a firewall", (unsigned)k->port);
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
        tell_nat(k, "none", &s.first->seen, "an address of this machine: no NAT is between", let);
    } else if (!s.hosts) {
        tell_nat(k, "unknown", &s.first->seen, "but only one tells: a NAT is between, of which kind can't be said",
                 let_through);
    } else {
        tell_nat(k, "keeps", &s.first->seen, "and all who answered agree: a NAT is between, which keeps ports",
                 let_through);
    }
}

/* ---------------------------------------------------------------- from begin to end ------------------------------- */

/* Where there is no network, the usual hosts need no asking. */
static void check_hosts(checkup *k, int way, const char *const *named, size_t count, const char *const *usual)
{
    const char *const *list = count > 0 ? named : usual;

    if (count == 0 && !k->alone)
        while (list[count] != NULL)
            count++;
    if (k->ways & 1u << way)
        ask_hosts(&k->asking, way, list, count);
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
        ask_group(&k->asking, &k->interfaces[i]);
    check_hosts(k, DATSYNC_BY_SERVER, k->c->discovery_servers, k->c->discovery_server_count,
                datsync_discovery_servers());
    check_hosts(k, DATSYNC_BY_DHT, k->c->dht_bootstraps, k->c->dht_bootstrap_count, datsync_discovery_bootstraps());
    if (k->ways != 0)
        note(k->c, "asking, for 10 seconds at most");
    int code = ask_all(&k->asking);
    if (code != DONE)
        return code;
    for (size_t i = 0; i < k->asking.question_count; i++)
        if (k->asking.questions[i].of == NULL)
            tell_echo(k, &k->asking.questions[i]);
    for (size_t i = 0; i < k->asking.host_count; i++)
        tell_answers(k, &k->asking.hosts[i]);
    check_nat(k);
    return conclude(k);
}

int check_network(const cli *c)
{
    const char *colon = c->listen != NULL ? strrchr(c->listen, ':') : ":" CLI_PORT;
    checkup *k = calloc(1, sizeof *k);

    if (k == NULL)
        return fail(c, FAILED, "%s", datsync_strerror(DATSYNC_E_NOMEM));
    k->c = c;
    k->ways = finding_ways(c);
    if (!c->no_listen && (c->listen == NULL || strncmp(c->listen, "unix:", 5) != 0))
        k->port = (uint16_t)strtoul(colon + 1, NULL, 10);
    int code = asking_begin(&k->asking, c);
    if (code == DONE)
        code = check_all(k);
    asking_end(&k->asking);
    told_free(&k->advised);
    free(k);
    return code;
}
