/* The command that is a discovery server.
 *
 * SPDX-License-Identifier: MIT
 *
 * A socket, the engine of discovery.h, and a line now and then. It calls output.
 */
#include "server.h"
#include "discovery.h"
#include "output.h"

#include <stdio.h>
#include <string.h>

/* Bytes of a question that is read, and questions that are read before the signals are looked at. */
#define CLI_QUESTION 2048u
#define CLI_QUESTIONS 256u

typedef struct serving {
    const cli *c;
    const datsync_net *net;
    intptr_t socket;
    datsync_dns_server *server;
    datsync_dns_counts told;
    uint64_t told_at;
} serving;

static void send_answer(void *ctx, const datsync_ip *to, const void *bytes, size_t len)
{
    const serving *s = ctx;

    (void)s->net->send_to(s->net->ctx, s->socket, bytes, len, to); /* the network may lose it just as well */
}

/* `:PORT` is every address of IPv4; a host is meant in numbers. */
static int where(const cli *c, datsync_ip *at)
{
    char text[DATSYNC_IP_TEXT];
    const char *given = c->listen != NULL ? c->listen : ":5300";

    snprintf(text, sizeof text, "%s%s", given[0] == ':' ? "0.0.0.0" : "", given);
    return strlen(given) < sizeof text - 8 ? datsync_ip_parse(at, text) : DATSYNC_E_ADDRESS;
}

static void tell_counts(serving *s, uint64_t now)
{
    datsync_dns_counts n;

    datsync_dns_server_counts(s->server, &n);
    if (now - s->told_at < CLI_LINE_MS || memcmp(&n, &s->told, sizeof n) == 0)
        return;
    s->told = n;
    s->told_at = now;
    if (s->c->json) {
        json_begin("serving");
        json_number("names", n.names);
        json_number("peers", n.peers);
        json_number("subscriptions", n.subscriptions);
        json_number("questions", n.questions);
        json_number("answers", n.answers);
        json_number("pushes", n.pushes);
        json_number("limited", n.limited);
        json_number("malformed", n.malformed);
        json_number("evicted", n.evicted);
        json_end();
    } else {
        note(s->c, "%llu names  %llu peers  %llu questions  %llu answers  %llu refused", (unsigned long long)n.names,
             (unsigned long long)n.peers, (unsigned long long)n.questions, (unsigned long long)n.answers,
             (unsigned long long)(n.limited + n.malformed));
    }
}

static void take_questions(const serving *s, uint64_t now)
{
    uint8_t bytes[CLI_QUESTION];
    datsync_ip from;

    for (unsigned i = 0; i < CLI_QUESTIONS; i++) {
        int64_t got = s->net->receive_from(s->net->ctx, s->socket, bytes, sizeof bytes, &from);
        if (got == DATSYNC_E_AGAIN)
            return;
        if (got >= 0) /* an error is of an answer that was sent before */
            (void)datsync_dns_server_datagram(s->server, bytes, (size_t)got, &from, now);
    }
}

static int serve_questions(serving *s)
{
    int error = 0;

    while (error >= 0 && !datsync_os_stopped(NULL)) {
        uint64_t now = datsync_os_clock(NULL), at = datsync_dns_server_deadline(s->server);
        datsync_pollfd fd = {s->socket, DATSYNC_POLL_READ, 0};
        uint64_t wait = at <= now ? 0 : at - now < CLI_LINE_MS ? at - now : CLI_LINE_MS;
        error = s->net->poll(s->net->ctx, &fd, 1, (int)wait);
        now = datsync_os_clock(NULL);
        if (fd.revents != 0)
            take_questions(s, now);
        if (datsync_dns_server_deadline(s->server) <= now)
            datsync_dns_server_step(s->server, now);
        tell_counts(s, now);
    }
    return error < 0 ? fail(s->c, FAILED, "%s", datsync_strerror(error)) : DONE;
}

static void tell_where(const cli *c, const datsync_ip *at)
{
    char text[DATSYNC_IP_TEXT];

    datsync_ip_text(at, text);
    if (c->json) {
        json_begin("listening");
        json_string("address", text);
        json_end();
    } else {
        printf("listening on %s\n", text);
        fflush(stdout);
    }
}

int run_discover(cli *c)
{
    serving s = {.c = c, .net = datsync_os_net(), .told_at = datsync_os_clock(NULL)};
    datsync_way way = {&s, send_answer, NULL};
    datsync_ip at;

    int error = where(c, &at);
    if (error == 0)
        error = s.net->datagrams(s.net->ctx, &at, 0, &s.socket);
    if (error < 0)
        return fail(c, FAILED, "listening on %s: %s", c->listen != NULL ? c->listen : ":5300", datsync_strerror(error));
    error = datsync_dns_server_new(&s.server, &c->env, &way, datsync_os_clock(NULL));
    if (error == 0)
        error = datsync_os_signals();
    int code = DONE;
    if (error < 0) {
        code = fail(c, FAILED, "%s", datsync_strerror(error));
    } else {
        tell_where(c, &at);
        code = serve_questions(&s);
    }
    datsync_dns_server_free(s.server);
    s.net->close(s.net->ctx, s.socket);
    return code;
}
