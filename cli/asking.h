/* Asking: questions to the group of multicast DNS, to discovery servers and to nodes of the DHT, all at once.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLI_ASKING_H
#define CLI_ASKING_H

#include "cli.h"
#include "discovery.h"

/* Addresses of interfaces, and of one host, that are looked at. */
#define ASKING_INTERFACES 64u
#define ASKING_ADDRESSES 4u
#define ASKING_HOSTS (CLI_MAX_SERVERS + CLI_MAX_BOOTSTRAPS)
#define ASKING_QUESTIONS (ASKING_INTERFACES + ASKING_ADDRESSES * (2u * CLI_MAX_SERVERS + (unsigned)CLI_MAX_BOOTSTRAPS))

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

typedef struct asking {
    const cli *c;
    const datsync_net *net;
    uint64_t began, now;
    uint8_t random[32];
    intptr_t sockets[SOCKETS]; /* -1: none */
    int errors[SOCKETS];
    host hosts[ASKING_HOSTS];
    size_t host_count;
    question questions[ASKING_QUESTIONS]; /* those to the group, then those to hosts */
    size_t question_count;
} asking;

/* An exit code. In any case the caller ends it. */
int asking_begin(asking *k, const cli *c);
void asking_end(asking *k);

/* A question to the group on an interface, which must last: once for each family, however many addresses it has. It
 * leaves out loopback, and what has no multicast. */
void ask_group(asking *k, const datsync_interface *one);

/* The socket from which hosts are asked, at this port, or any if that fails: the error then, or 0. */
int asking_open(asking *k, uint16_t port);

/* Questions to hosts, HOST or HOST:PORT, at all their addresses of IPv4. */
void ask_hosts(asking *k, int way, const char *const *list, size_t count);

/* Until each question is answered or given up: DONE, INTERRUPTED or FAILED. */
int ask_all(asking *k);

int same_host(const datsync_ip *a, const datsync_ip *b);

#endif
