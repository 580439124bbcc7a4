/* The laboratory's network (lab.h). What is on its way lies at the end that it goes to, in pieces with the time of
 * their arrival; what was due when time went on is told to the host. Chance is drawn for each stream from a number of
 * its own, so that a host more or less changes nothing for the others.
 *
 * SPDX-License-Identifier: MIT
 */
#include "lab.h"

#include <string.h>

#include "base.h"

#define WINDOW 65536u
#define GONE (-1)

enum piece_kind { PIECE_BYTES, PIECE_END, PIECE_RESET };

typedef struct piece {
    struct piece *next;
    enum piece_kind kind;
    uint64_t at; /* LAB_NEVER: a parting holds it up */
    size_t len, pos;
    unsigned from_host, from_port; /* of a datagram */
    uint8_t bytes[];
} piece;

enum end_state { END_FREE, END_LISTENS, END_DIALS, END_OPEN, END_DATAGRAMS };

/* An end of a stream, a listener, or a socket for datagrams. */
typedef struct end {
    enum end_state state;
    unsigned host, port;
    unsigned to_host, to_port;
    int other;          /* GONE: closed */
    int queued;         /* not accepted yet, at the listener with this port */
    uint64_t answer_at; /* dialling */
    int error;          /* what is told from now on */
    int dead;           /* its host went down: nobody hears what it does */
    int shut;           /* nothing more is sent */
    int blocked;        /* was told that there is no room */
    piece *first, *last;
    piece *untold; /* the first that its host was not told of */
    size_t coming; /* bytes of these */
    uint64_t busy; /* the line to this end is, until then */
    uint64_t luck; /* of what comes here */
    uint64_t carried, lives;
    uint64_t groups; /* bits */
} end;

struct lab_net {
    uint64_t now, seed;
    unsigned hosts;
    end *ends;
    int end_count;
    lab_way *ways; /* of each pair, in both orders */
    uint8_t *parted;
    uint32_t *met; /* how many streams there were */
    struct lab_host {
        lab_net *net;
        unsigned number;
        int down; /* 1: resets, 2: silent */
        int stirred;
        uint64_t moved;
        unsigned streams, queued; /* that it has, or dials; that wait to be accepted */
    } host[LAB_HOSTS];
};

static size_t pair(const lab_net *net, unsigned a, unsigned b)
{
    return (size_t)a * net->hosts + b;
}

lab_net *lab_net_new(uint64_t seed, unsigned hosts)
{
    size_t pairs = (size_t)hosts * hosts;
    lab_net *net = must(calloc(1, sizeof *net));
    if (hosts > LAB_HOSTS)
        die("too many hosts");
    net->seed = seed;
    net->hosts = hosts;
    net->ways = must(calloc(pairs, sizeof *net->ways));
    net->parted = must(calloc(pairs, 1));
    net->met = must(calloc(pairs, sizeof *net->met));
    for (unsigned i = 0; i < hosts; i++) {
        net->host[i].net = net;
        net->host[i].number = i;
    }
    return net;
}

static void pieces_drop(end *e)
{
    for (piece *p = e->first, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    e->first = e->last = e->untold = NULL;
    e->coming = 0;
}

void lab_net_free(lab_net *net)
{
    for (int i = 0; i < net->end_count; i++)
        pieces_drop(&net->ends[i]);
    free(net->ends);
    free(net->ways);
    free(net->parted);
    free(net->met);
    free(net);
}

static void stir(lab_net *net, unsigned host)
{
    net->host[host].stirred = 1;
}

int lab_stirs(lab_net *net, unsigned host)
{
    int was = net->host[host].stirred;
    net->host[host].stirred = 0;
    return was;
}

uint64_t lab_now(const lab_net *net)
{
    return net->now;
}

/* The lowest that is free: which one must not depend on what the C library does. Ends move: nobody keeps a pointer. */
static int end_new(lab_net *net, enum end_state state, unsigned host)
{
    int i = 0;
    while (i < net->end_count && net->ends[i].state != END_FREE)
        i++;
    if (i == net->end_count)
        net->ends = must(realloc(net->ends, (size_t)++net->end_count * sizeof *net->ends));
    end *e = &net->ends[i];
    memset(e, 0, sizeof *e);
    e->state = state;
    e->host = host;
    e->other = GONE;
    return i;
}

static end *end_of(const lab_net *net, unsigned host, intptr_t handle)
{
    if (handle < 1 || handle > net->end_count)
        die("a handle that is none");
    end *e = &net->ends[handle - 1];
    if (e->state == END_FREE || e->host != host)
        die("a handle that is closed, or another host's");
    return e;
}

/* In the order of arrival. Those of a stream never overtake each other. */
static piece *piece_add(end *to, enum piece_kind kind, uint64_t at, const void *bytes, size_t len)
{
    piece *p = must(malloc(sizeof *p + len)), *before = to->last;
    memset(p, 0, sizeof *p);
    p->kind = kind;
    p->at = before && before->at > at && to->state != END_DATAGRAMS ? before->at : at;
    p->len = len;
    if (len)
        memcpy(p->bytes, bytes, len);
    if (before && before->at > p->at) { /* a datagram */
        before = NULL;
        for (piece *q = to->first; q->at <= p->at; q = q->next)
            before = q;
    }
    p->next = before ? before->next : to->first;
    *(before ? &before->next : &to->first) = p;
    if (!p->next)
        to->last = p;
    if (to->untold == p->next)
        to->untold = p;
    to->coming += len;
    return p;
}

static void piece_take(end *e)
{
    piece *p = e->first;
    e->first = p->next;
    if (e->untold == p)
        e->untold = p->next;
    if (!e->first)
        e->last = NULL;
    free(p);
}

/* When does what is sent now arrive at this end? `len` bytes take their time on the line. */
static uint64_t arrival(const lab_net *net, end *to, size_t len)
{
    const lab_way *w = &net->ways[pair(net, to->to_host, to->host)];
    if (to->busy < net->now)
        to->busy = net->now;
    if (w->rate)
        to->busy += ((uint64_t)len * 1000 + w->rate - 1) / w->rate;
    if (net->parted[pair(net, to->to_host, to->host)])
        return LAB_NEVER;
    return to->busy + w->delay + (w->jitter ? chance(&to->luck) % (w->jitter + 1) : 0);
}

/* Its other end hears nothing more but a reset. */
static void end_reset(lab_net *net, end *to)
{
    if (to->state == END_OPEN)
        (void)piece_add(to, PIECE_RESET, arrival(net, to, 0), NULL, 0);
}

static void end_free(lab_net *net, end *e)
{
    if (e->queued)
        net->host[e->host].queued--;
    else if (e->state == END_DIALS || e->state == END_OPEN)
        net->host[e->host].streams--;
    pieces_drop(e);
    e->state = END_FREE;
}

/* A reset comes: what was not read is lost. */
static void end_break(end *e)
{
    pieces_drop(e);
    e->error = DATSYNC_E_CLOSED;
}

/* ------------------------------------------------ time */

static int listener_of(const lab_net *net, unsigned host, unsigned port)
{
    for (int i = 0; i < net->end_count; i++)
        if (net->ends[i].state == END_LISTENS && !net->ends[i].dead && net->ends[i].host == host &&
            net->ends[i].port == port)
            return i;
    return GONE;
}

static uint64_t lives_of(const lab_way *w, uint64_t *luck)
{
    return w->lives ? 1 + chance(luck) % w->lives : LAB_NEVER;
}

/* A dial is answered, unless nothing gets through. */
static void dial_answer(lab_net *net, int i)
{
    end *e = &net->ends[i];
    const struct lab_host *to = &net->host[e->to_host];
    if (net->parted[pair(net, e->host, e->to_host)] || to->down == 2) {
        e->answer_at = LAB_NEVER;
        return;
    }
    stir(net, e->host);
    e->state = END_OPEN;
    if (to->down || listener_of(net, e->to_host, e->to_port) == GONE) {
        e->error = DATSYNC_E_REFUSED;
        return;
    }
    const lab_way *w = &net->ways[pair(net, e->host, e->to_host)];
    size_t both = pair(net, e->host, e->to_host);
    uint64_t luck = net->seed ^ ((uint64_t)both << 16 | net->met[both]++) << 20;
    uint64_t lives = lives_of(w, &luck);
    int k = end_new(net, END_OPEN, e->to_host);
    end *o = &net->ends[k];
    e = &net->ends[i];
    o->to_host = e->host;
    o->queued = 1;
    net->host[o->host].queued++;
    o->port = e->to_port;
    o->other = i;
    e->other = k;
    e->luck = chance(&luck);
    o->luck = chance(&luck);
    e->lives = o->lives = lives;
    stir(net, o->host);
}

void lab_go(lab_net *net, uint64_t at)
{
    if (at < net->now)
        die("time does not go back");
    net->now = at;
    for (int i = 0; i < net->end_count; i++) {
        if (net->ends[i].state == END_DIALS && net->ends[i].answer_at <= at)
            dial_answer(net, i);
        end *e = &net->ends[i];
        if (e->state == END_FREE)
            continue;
        while (e->untold && e->untold->at <= at) {
            stir(net, e->host);
            if (e->untold->kind == PIECE_RESET)
                end_break(e);
            else
                e->untold = e->untold->next;
        }
    }
}

uint64_t lab_next(const lab_net *net)
{
    uint64_t next = LAB_NEVER;
    for (int i = 0; i < net->end_count; i++) {
        const end *e = &net->ends[i];
        if (e->state == END_DIALS && e->answer_at < next)
            next = e->answer_at;
        if (e->state != END_FREE && e->untold && e->untold->at < next)
            next = e->untold->at;
    }
    return next;
}

/* ------------------------------------------------ streams */

static unsigned lab_host_of(const datsync_ip *ip)
{
    return ip->bytes[0] == 10 && ip->bytes[1] == 0 ? (unsigned)(ip->bytes[2] << 8 | ip->bytes[3]) : LAB_HOSTS;
}

static int parse(const lab_net *net, const char *text, unsigned *host, unsigned *port)
{
    char *rest;
    datsync_ip ip;
    if (datsync_ip_parse(&ip, text) == 0) {
        *host = lab_host_of(&ip);
        *port = ip.port;
        return ip.size == 4 && *host < net->hosts ? 0 : DATSYNC_E_ADDRESS;
    }
    if (*text != 'h')
        return DATSYNC_E_ADDRESS;
    *host = (unsigned)strtoul(text + 1, &rest, 10);
    if (rest == text + 1 || *rest != ':' || *host >= net->hosts)
        return DATSYNC_E_ADDRESS;
    *port = (unsigned)strtoul(rest + 1, NULL, 10);
    return 0;
}

static int streams_listen(void *ctx, const char *address, intptr_t *listener, char *bound, size_t cap)
{
    const struct lab_host *h = ctx;
    unsigned host, port;
    int r = parse(h->net, address, &host, &port);
    if (r < 0 || host != h->number)
        return DATSYNC_E_ADDRESS;
    if (listener_of(h->net, host, port) != GONE)
        return DATSYNC_E_IN_USE;
    int i = end_new(h->net, END_LISTENS, host);
    h->net->ends[i].port = port;
    (void)snprintf(bound, cap, "%s", address);
    *listener = i + 1;
    return 0;
}

static int streams_accept(void *ctx, intptr_t listener, intptr_t *stream, char *from, size_t cap)
{
    const struct lab_host *h = ctx;
    unsigned port = end_of(h->net, h->number, listener)->port;
    for (int i = 0; i < h->net->end_count && h->queued; i++) {
        end *e = &h->net->ends[i];
        if (e->state == END_OPEN && e->queued && e->host == h->number && e->port == port) {
            e->queued = 0;
            h->net->host[h->number].queued--;
            h->net->host[h->number].streams++;
            stir(h->net, h->number);
            (void)snprintf(from, cap, "h%u:%u", e->to_host, 50000u + (unsigned)i);
            *stream = i + 1;
            return 0;
        }
    }
    return DATSYNC_E_AGAIN;
}

static int streams_connect(void *ctx, const char *address, intptr_t *stream)
{
    const struct lab_host *h = ctx;
    unsigned host, port;
    int r = parse(h->net, address, &host, &port);
    if (r < 0)
        return r;
    int i = end_new(h->net, END_DIALS, h->number);
    h->net->host[h->number].streams++;
    end *e = &h->net->ends[i];
    e->to_host = host;
    e->to_port = port;
    e->answer_at = h->net->now + 2 * (uint64_t)h->net->ways[pair(h->net, h->number, host)].delay;
    *stream = i + 1;
    return 0;
}

static int streams_connected(void *ctx, intptr_t stream)
{
    const struct lab_host *h = ctx;
    const end *e = end_of(h->net, h->number, stream);
    return e->state == END_DIALS ? DATSYNC_E_AGAIN : e->error;
}

static int is_due(const lab_net *net, const piece *p)
{
    return p && p->at <= net->now;
}

static int64_t streams_recv(void *ctx, intptr_t stream, void *buf, size_t len)
{
    const struct lab_host *h = ctx;
    lab_net *net = h->net;
    end *e = end_of(net, h->number, stream);
    piece *p = e->first;
    if (e->error)
        return e->error;
    if (!is_due(net, p) || p->kind == PIECE_RESET)
        return DATSYNC_E_AGAIN;
    if (p->kind == PIECE_END)
        return DATSYNC_E_CLOSED;
    const lab_way *w = &net->ways[pair(net, e->to_host, e->host)];
    size_t n = p->len - p->pos < len ? p->len - p->pos : len;
    if (w->pieces && n > 1)
        n = 1 + (size_t)(chance(&e->luck) % (n < w->pieces ? n : w->pieces));
    memcpy(buf, p->bytes + p->pos, n);
    p->pos += n;
    e->coming -= n;
    net->host[e->host].moved += n;
    if (p->pos == p->len)
        piece_take(e);
    if (is_due(net, e->first))
        stir(net, e->host); /* there is more: a poll would tell so again */
    if (e->other != GONE && net->ends[e->other].blocked) {
        net->ends[e->other].blocked = 0;
        stir(net, e->to_host);
    }
    return (int64_t)n;
}

static size_t room(const lab_net *net, const end *e)
{
    size_t window = net->ways[pair(net, e->host, e->to_host)].window, taken = net->ends[e->other].coming;
    window = window ? window : WINDOW;
    return taken < window ? window - taken : 0;
}

static int64_t streams_send(void *ctx, intptr_t stream, const void *buf, size_t len)
{
    const struct lab_host *h = ctx;
    lab_net *net = h->net;
    end *e = end_of(net, h->number, stream);
    if (e->error || e->shut)
        return e->error ? e->error : DATSYNC_E_CLOSED;
    if (e->state == END_DIALS)
        return DATSYNC_E_AGAIN;
    if (e->other == GONE && e->state == END_OPEN) { /* who is silent never answers; else a reset comes back */
        if (net->host[e->to_host].down != 2 && !(e->last && e->last->kind == PIECE_RESET))
            end_reset(net, e);
        return (int64_t)len;
    }
    size_t n = room(net, e);
    n = n < len ? n : len;
    if (!n) {
        e->blocked = 1;
        return DATSYNC_E_AGAIN;
    }
    uint32_t rate = net->ways[pair(net, e->host, e->to_host)].rate;
    if (rate && n > 1 + rate / 8) /* a slow line gives by and by */
        n = 1 + rate / 8;
    end *o = &net->ends[e->other];
    (void)piece_add(o, PIECE_BYTES, arrival(net, o, n), buf, n);
    net->host[e->host].moved += n;
    if ((e->carried += n) >= e->lives) {
        end_reset(net, o);
        end_reset(net, e);
    }
    return (int64_t)n;
}

static int streams_shutdown(void *ctx, intptr_t stream)
{
    const struct lab_host *h = ctx;
    end *e = end_of(h->net, h->number, stream);
    if (!e->shut && !e->error && e->other != GONE)
        (void)piece_add(&h->net->ends[e->other], PIECE_END, arrival(h->net, &h->net->ends[e->other], 0), NULL, 0);
    e->shut = 1;
    return 0;
}

static void listener_close(lab_net *net, const end *l)
{
    for (int i = 0; i < net->end_count; i++) {
        end *e = &net->ends[i];
        if (e->state == END_OPEN && e->queued && e->host == l->host && e->port == l->port) {
            if (e->other != GONE) {
                net->ends[e->other].other = GONE;
                end_reset(net, &net->ends[e->other]);
            }
            end_free(net, e);
        }
    }
}

static void streams_close(void *ctx, intptr_t handle)
{
    const struct lab_host *h = ctx;
    lab_net *net = h->net;
    end *e = end_of(net, h->number, handle);
    if (e->state == END_LISTENS && !e->dead)
        listener_close(net, e);
    if (e->state == END_OPEN && e->other != GONE) {
        end *o = &net->ends[e->other];
        o->other = GONE;
        if (e->coming) /* unread, or still to come: it is lost, and the remote is told so */
            end_reset(net, o);
        else if (!e->shut)
            (void)piece_add(o, PIECE_END, arrival(net, o, 0), NULL, 0);
    }
    end_free(net, e);
}

static int streams_poll(void *ctx, datsync_pollfd *fds, size_t count, int timeout_ms)
{
    const struct lab_host *h = ctx;
    int ready = 0;
    (void)timeout_ms;
    for (size_t i = 0; i < count; i++) {
        end *e = end_of(h->net, h->number, fds[i].handle);
        int can = 0;
        if (e->state == END_LISTENS) {
            for (int k = 0; k < h->net->end_count && h->queued && !can; k++) {
                const end *q = &h->net->ends[k];
                if (q->state == END_OPEN && q->queued && q->host == e->host && q->port == e->port)
                    can = DATSYNC_POLL_READ;
            }
        } else if (e->state == END_DATAGRAMS) {
            can = is_due(h->net, e->first) ? DATSYNC_POLL_READ : 0;
        } else if (e->state == END_OPEN) {
            if (e->error || is_due(h->net, e->first))
                can |= DATSYNC_POLL_READ;
            if (e->error || e->other == GONE || room(h->net, e))
                can |= DATSYNC_POLL_WRITE;
            else if (fds[i].events & DATSYNC_POLL_WRITE)
                e->blocked = 1;
        }
        fds[i].revents = (short)(can & fds[i].events);
        ready += fds[i].revents != 0;
    }
    return ready;
}

datsync_net lab_streams(lab_net *net, unsigned host)
{
    return (datsync_net){.ctx = &net->host[host],
                         .listen = streams_listen,
                         .accept = streams_accept,
                         .connect = streams_connect,
                         .connected = streams_connected,
                         .recv = streams_recv,
                         .send = streams_send,
                         .close = streams_close,
                         .poll = streams_poll,
                         .shutdown = streams_shutdown};
}

/* ------------------------------------------------ what happens to them */

void lab_way_set(lab_net *net, unsigned a, unsigned b, const lab_way *way)
{
    net->ways[pair(net, a, b)] = net->ways[pair(net, b, a)] = *way;
}

/* What was held up between the two goes on; or what is on its way is held up. */
static void hold(lab_net *net, end *e, int parted)
{
    uint64_t at = net->now + net->ways[pair(net, e->host, e->to_host)].delay;
    for (piece *p = e->first; p; p = p->next)
        if (parted && p->at > net->now)
            p->at = LAB_NEVER;
        else if (!parted && p->at == LAB_NEVER)
            p->at = at;
    if (e->state == END_DIALS && !parted && e->answer_at == LAB_NEVER)
        e->answer_at = net->now;
}

void lab_part(lab_net *net, unsigned a, unsigned b, int parted)
{
    net->parted[pair(net, a, b)] = net->parted[pair(net, b, a)] = (uint8_t)parted;
    for (int i = 0; i < net->end_count; i++) {
        end *e = &net->ends[i];
        if (e->state != END_FREE && e->state != END_DATAGRAMS &&
            ((e->host == a && e->to_host == b) || (e->host == b && e->to_host == a)))
            hold(net, e, parted);
    }
}

void lab_down(lab_net *net, unsigned host, int silent)
{
    net->host[host].down = silent ? 2 : 1;
    for (int i = 0; i < net->end_count; i++) {
        end *e = &net->ends[i];
        if (e->state == END_FREE || e->host != host)
            continue;
        if (e->state == END_OPEN && e->other != GONE) {
            net->ends[e->other].other = GONE;
            if (!silent)
                end_reset(net, &net->ends[e->other]);
        }
        if (e->queued) {
            end_free(net, e); /* nobody has it to close it */
            continue;
        }
        end_break(e);
        e->other = GONE;
        e->dead = 1;
        if (e->state == END_DIALS)
            e->state = END_OPEN;
    }
}

void lab_up(lab_net *net, unsigned host)
{
    net->host[host].down = 0;
    for (int i = 0; i < net->end_count; i++)
        if (net->ends[i].state == END_DIALS && net->ends[i].to_host == host && net->ends[i].answer_at == LAB_NEVER)
            net->ends[i].answer_at = net->now;
}

void lab_reset(lab_net *net, unsigned host)
{
    for (int i = 0; i < net->end_count; i++) {
        end *e = &net->ends[i];
        if (e->state == END_OPEN && e->host == host && e->other != GONE) {
            end_break(e);
            end_break(&net->ends[e->other]);
            stir(net, e->host);
            stir(net, e->to_host);
        }
    }
}

uint64_t lab_moved(const lab_net *net, unsigned host)
{
    return net->host[host].moved;
}

size_t lab_open_streams(const lab_net *net, unsigned host)
{
    return net->host[host].streams;
}

/* ------------------------------------------------ datagrams */

int lab_datagrams(lab_net *net, unsigned host, unsigned port, intptr_t *socket)
{
    int i = end_new(net, END_DATAGRAMS, host);
    net->ends[i].port = port;
    net->ends[i].luck = net->seed ^ ((uint64_t)host << 40 | (uint64_t)port << 8 | 0xdau);
    *socket = i + 1;
    return 0;
}

void lab_join(lab_net *net, intptr_t socket, unsigned group)
{
    net->ends[socket - 1].groups |= (uint64_t)1 << (group & 63);
}

void lab_leave(lab_net *net, intptr_t socket, unsigned group)
{
    net->ends[socket - 1].groups &= ~((uint64_t)1 << (group & 63));
}

static void datagram_add(lab_net *net, const end *from, end *to, const void *buf, size_t len)
{
    const lab_way *w = &net->ways[pair(net, from->host, to->host)];
    int copies = 1 + (w->doubling && chance(&to->luck) % 1000 < w->doubling);
    if (net->host[to->host].down || net->parted[pair(net, from->host, to->host)])
        return;
    while (copies--) {
        if (w->loss && chance(&to->luck) % 1000 < w->loss)
            continue;
        uint64_t at = net->now + w->delay + (w->jitter ? chance(&to->luck) % (w->jitter + 1) : 0);
        piece *p = piece_add(to, PIECE_BYTES, at, buf, len);
        p->from_host = from->host;
        p->from_port = from->port;
    }
}

int lab_send_to(lab_net *net, intptr_t socket, unsigned to_host, unsigned to_port, const void *buf, size_t len)
{
    const end *from = &net->ends[socket - 1];
    for (int i = 0; i < net->end_count; i++) {
        end *to = &net->ends[i];
        if (to->state == END_DATAGRAMS && to->port == to_port &&
            (to_host >= LAB_GROUP ? to->groups >> ((to_host - LAB_GROUP) & 63) & 1 : to->host == to_host))
            datagram_add(net, from, to, buf, len);
    }
    return 0;
}

int64_t lab_receive_from(lab_net *net, intptr_t socket, void *buf, size_t cap, unsigned *from_host, unsigned *from_port)
{
    end *e = &net->ends[socket - 1];
    piece *p = e->first;
    if (!is_due(net, p))
        return DATSYNC_E_AGAIN;
    size_t n = p->len < cap ? p->len : cap;
    memcpy(buf, p->bytes, n);
    *from_host = p->from_host;
    *from_port = p->from_port;
    e->coming -= p->len;
    piece_take(e);
    return (int64_t)n;
}

void lab_datagrams_close(lab_net *net, intptr_t socket)
{
    end_free(net, &net->ends[socket - 1]);
}

/* ------------------------------------------------ datagrams as datsync_net has them */

/* All groups are one. */
#define THE_GROUP 63u

datsync_ip lab_ip(unsigned host, unsigned port)
{
    return (datsync_ip){
        .bytes = {10, 0, (uint8_t)(host >> 8), (uint8_t)host}, .size = 4, .port = (uint16_t)port, .via = 1};
}

static int net_datagrams(void *ctx, datsync_ip *at, int shared, intptr_t *socket)
{
    const struct lab_host *h = ctx;
    unsigned port = at->port ? at->port : 40000u + (unsigned)h->net->end_count;
    if (at->size != 4)
        return DATSYNC_E_ADDRESS;
    for (int i = 0; i < h->net->end_count && !shared; i++) {
        const end *e = &h->net->ends[i];
        if (e->state == END_DATAGRAMS && e->host == h->number && e->port == port)
            return DATSYNC_E_IN_USE;
    }
    at->port = (uint16_t)port;
    return lab_datagrams(h->net, h->number, port, socket);
}

static int64_t net_receive_from(void *ctx, intptr_t socket, void *buf, size_t cap, datsync_ip *from)
{
    const struct lab_host *h = ctx;
    unsigned host, port;
    int64_t n = lab_receive_from(h->net, socket, buf, cap, &host, &port);
    if (n >= 0)
        *from = lab_ip(host, port);
    return n;
}

static int net_send_to(void *ctx, intptr_t socket, const void *buf, size_t len, const datsync_ip *to)
{
    const struct lab_host *h = ctx;
    return lab_send_to(h->net, socket, to->bytes[0] == 224 ? LAB_GROUP + THE_GROUP : lab_host_of(to), to->port, buf,
                       len);
}

static int net_join(void *ctx, intptr_t socket, const datsync_ip *group)
{
    const struct lab_host *h = ctx;
    (void)group;
    lab_join(h->net, socket, THE_GROUP);
    return 0;
}

static int net_leave(void *ctx, intptr_t socket, const datsync_ip *group)
{
    const struct lab_host *h = ctx;
    (void)group;
    lab_leave(h->net, socket, THE_GROUP);
    return 0;
}

static int net_interfaces(void *ctx, datsync_interface *list, size_t cap)
{
    const struct lab_host *h = ctx;
    if (cap)
        list[0] = (datsync_interface){.ip = lab_ip(h->number, 0), .prefix = 16, .multicast = 1, .name = "lab"};
    return 1;
}

datsync_net lab_net_of(lab_net *net, unsigned host)
{
    datsync_net n = lab_streams(net, host);
    n.datagrams = net_datagrams;
    n.receive_from = net_receive_from;
    n.send_to = net_send_to;
    n.join = net_join;
    n.leave = net_leave;
    n.interfaces = net_interfaces;
    return n;
}
