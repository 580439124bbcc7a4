/* datsync on POSIX: streams, poll, folders, clock, signals, terminal. The only file that knows the OS; it is handed to
 * datsync.c by name (see the end of datsync.h).
 *
 * SPDX-License-Identifier: MIT
 *
 * POSIX.1-2008, and beyond it only what is guarded: flock, fallocate, F_FULLFSYNC, F_PUNCHHOLE.
 */
#if defined(__linux__)
#define _GNU_SOURCE /* fallocate; implies POSIX.1-2008 */
#elif defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__sun)
#define _POSIX_C_SOURCE 200809L
#define __EXTENSIONS__
#endif /* the BSDs show all of it when nothing is asked for, and hide flock otherwise */
#define _FILE_OFFSET_BITS 64

#include "datsync.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Descriptors that poll takes without an allocation: the default cap on peers, listeners and a few. */
#define OS_POLL_FEW 128
/* Connections that wait for accept. */
#define OS_BACKLOG 128
/* How long connect looks at one of a host's addresses before it tries the next one beside it (RFC 8305). */
#define OS_NEXT_ADDRESS_MS 250
/* Bytes of a host name in an address, and of a prefix of file names. */
#define OS_MAX_HOST 256
#define OS_MAX_PREFIX 200

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* SO_NOSIGPIPE does it there */
#endif

/* ---------------------------------------------------------------- errors --------------------------------------- */

static const struct {
    int number, error;
} os_errors[] = {
    {ENOMEM, DATSYNC_E_NOMEM},         {EADDRINUSE, DATSYNC_E_IN_USE},       {ECONNREFUSED, DATSYNC_E_REFUSED},
    {ECONNRESET, DATSYNC_E_CLOSED},    {ECONNABORTED, DATSYNC_E_CLOSED},     {EPIPE, DATSYNC_E_CLOSED},
    {ENOTCONN, DATSYNC_E_CLOSED},      {ENETUNREACH, DATSYNC_E_UNREACHABLE}, {EHOSTUNREACH, DATSYNC_E_UNREACHABLE},
    {ENETDOWN, DATSYNC_E_UNREACHABLE}, {ETIMEDOUT, DATSYNC_E_UNREACHABLE},   {EADDRNOTAVAIL, DATSYNC_E_ADDRESS},
    {EAFNOSUPPORT, DATSYNC_E_ADDRESS}, {ENOSPC, DATSYNC_E_NO_SPACE},         {EDQUOT, DATSYNC_E_NO_SPACE},
    {EFBIG, DATSYNC_E_NO_SPACE},       {EACCES, DATSYNC_E_ACCESS},           {EPERM, DATSYNC_E_ACCESS},
    {EROFS, DATSYNC_E_ACCESS},         {ENOENT, DATSYNC_E_NO_ENTRY},         {EAGAIN, DATSYNC_E_AGAIN},
    {EWOULDBLOCK, DATSYNC_E_AGAIN},
};

/* Everything that isn't in the table (EIO, EMFILE, ENOTDIR, ...) is DATSYNC_E_IO; errno keeps the number. */
static int os_error(int number)
{
    for (size_t i = 0; i < sizeof os_errors / sizeof os_errors[0]; i++) {
        if (os_errors[i].number == number) {
            return os_errors[i].error;
        }
    }
    return DATSYNC_E_IO;
}

/* ---------------------------------------------------------------- signals -------------------------------------- */

/* A signal handler has no other way to reach the program: the one static object of datsync. The pipe is in the set of
 * every poll, so a signal that comes just before poll ends it as well. */
static struct {
    volatile sig_atomic_t number;
    int hooked;
    int pipe[2];
} os_signal;

static void os_on_signal(int number)
{
    int saved = errno;
    os_signal.number = number;
    /* A full pipe wakes poll just as well. */
    if (write(os_signal.pipe[1], "", 1) < 0) {
        errno = saved;
    }
    errno = saved;
}

/* Non-blocking and closed in programs that this one starts. */
static int os_prepare(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        return os_error(errno);
    }
    return 0;
}

int datsync_os_signals(void)
{
    struct sigaction action;

    if (os_signal.hooked) {
        return DATSYNC_E_STATE;
    }
    if (pipe(os_signal.pipe) < 0) {
        return os_error(errno);
    }
    int error = os_prepare(os_signal.pipe[0]);
    if (error == 0) {
        error = os_prepare(os_signal.pipe[1]);
    }
    if (error != 0) {
        close(os_signal.pipe[0]);
        close(os_signal.pipe[1]);
        return error;
    }
    os_signal.hooked = 1;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = os_on_signal; /* no SA_RESTART: a read from a terminal or pipe ends too */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
#ifdef SIGXFSZ
    sigaction(SIGXFSZ, &action, NULL); /* write then says EFBIG */
#endif
    return 0;
}

int datsync_os_stopped(void *ctx)
{
    (void)ctx;
    return (int)os_signal.number;
}

int64_t datsync_os_input(void *buf, size_t len)
{
    struct pollfd set[2] = {{STDIN_FILENO, POLLIN, 0}, {os_signal.hooked ? os_signal.pipe[0] : -1, POLLIN, 0}};

    for (;;) {
        if (os_signal.number != 0) {
            return DATSYNC_E_AGAIN;
        }
        if (poll(set, 2, -1) >= 0 && set[0].revents != 0 && os_signal.number == 0) {
            ssize_t got = read(STDIN_FILENO, buf, len);
            if (got >= 0 || (errno != EINTR && errno != EAGAIN)) {
                return got >= 0 ? (int64_t)got : os_error(errno);
            }
        }
    }
}

/* ---------------------------------------------------------------- clock, terminal ------------------------------ */

uint64_t datsync_os_clock(void *ctx)
{
    struct timespec now = {0, 0};

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

int datsync_os_terminal(void)
{
    const char *term = getenv("TERM");

    if (!isatty(STDERR_FILENO) || (term != NULL && strcmp(term, "dumb") == 0)) {
        return 0;
    }
#ifdef TIOCGWINSZ
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        return size.ws_col;
    }
#endif
    return 80;
}

/* ---------------------------------------------------------------- addresses ------------------------------------ */

static int net_is_unix(const char *address)
{
    return strncmp(address, "unix:", 5) == 0;
}

/* `HOST:PORT`, `[V6]:PORT` or `:PORT` taken apart. */
static int net_split(const char *address, char host[OS_MAX_HOST], char port[6])
{
    const char *colon = strrchr(address, ':');
    const char *begin = address;
    const char *end = colon;

    if (colon == NULL || colon[1] == 0 || strlen(colon + 1) > 5 ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1) || strtoul(colon + 1, NULL, 10) > 65535) {
        return DATSYNC_E_ADDRESS;
    }
    if (*begin == '[') {
        if (end[-1] != ']' || end - begin < 3) {
            return DATSYNC_E_ADDRESS;
        }
        begin++;
        end--;
    } else if (memchr(begin, ':', (size_t)(end - begin)) != NULL) {
        return DATSYNC_E_ADDRESS; /* a bare IPv6 address: where its port begins is anyone's guess */
    }
    if (end - begin >= OS_MAX_HOST) {
        return DATSYNC_E_ADDRESS;
    }
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = 0;
    strcpy(port, colon + 1);
    return 0;
}

/* The caller ends *list with freeaddrinfo. Host names wait for the resolver. */
static int net_resolve(const char *address, int passive, struct addrinfo **list)
{
    char host[OS_MAX_HOST], port[6];
    struct addrinfo hints;

    int error = net_split(address, host, port);
    if (error != 0) {
        return error;
    }
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
    int got = getaddrinfo(host[0] != 0 ? host : NULL, port, &hints, list);
    if (got == EAI_MEMORY) {
        return DATSYNC_E_NOMEM;
    }
    if (got == EAI_AGAIN) {
        return DATSYNC_E_UNREACHABLE; /* the resolver, for now */
    }
    if (got == EAI_SYSTEM) {
        return os_error(errno);
    }
    return got == 0 ? 0 : DATSYNC_E_ADDRESS;
}

static int net_unix_address(const char *address, struct sockaddr_un *out)
{
    const char *path = address + 5;

    memset(out, 0, sizeof *out);
    out->sun_family = AF_UNIX;
    if (*path == 0 || strlen(path) >= sizeof out->sun_path) {
        return DATSYNC_E_ADDRESS;
    }
    strcpy(out->sun_path, path);
    return 0;
}

/* As text that listen and connect take. IPv4 seen through an IPv6 socket is told as IPv4. */
static void net_text(const struct sockaddr_storage *from, socklen_t len, char *out, size_t cap)
{
    struct sockaddr_storage plain = *from;
    char host[OS_MAX_HOST], port[16];

    if (cap == 0) {
        return;
    }
    if (from->ss_family == AF_UNIX) {
        struct sockaddr_un un;
        memset(&un, 0, sizeof un);
        memcpy(&un, from, len < sizeof un ? len : sizeof un);
        snprintf(out, cap, "unix:%.*s", (int)sizeof un.sun_path - 1, un.sun_path);
        return;
    }
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;
        if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
            struct sockaddr_in four;
            memset(&four, 0, sizeof four);
            four.sin_family = AF_INET;
            four.sin_port = six->sin6_port;
            memcpy(&four.sin_addr, six->sin6_addr.s6_addr + 12, 4);
            memset(&plain, 0, sizeof plain);
            memcpy(&plain, &four, sizeof four);
            len = sizeof four;
        }
    }
    if (getnameinfo((const struct sockaddr *)&plain, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        snprintf(out, cap, "?");
        return;
    }
    snprintf(out, cap, plain.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static void net_own_text(int fd, char *out, size_t cap)
{
    struct sockaddr_storage own;
    socklen_t len = sizeof own;

    memset(&own, 0, sizeof own);
    if (getsockname(fd, (struct sockaddr *)&own, &len) == 0) {
        net_text(&own, len, out, cap);
    } else if (cap > 0) {
        out[0] = 0;
    }
}

/* ---------------------------------------------------------------- streams -------------------------------------- */

/* A new socket as everything here wants it; a negative datsync error on failure. */
static int net_socket(int family)
{
    int fd = socket(family, SOCK_STREAM, 0);
    if (fd < 0) {
        return os_error(errno);
    }
    int error = os_prepare(fd);
    if (error != 0) {
        close(fd);
        return error;
    }
    return fd;
}

static void net_tune(int fd)
{
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* fails on Unix sockets, which need it not */
#ifdef SO_NOSIGPIPE
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
}

/* Nobody answers on this socket file: its owner died without removing it. */
static int net_is_stale(const struct sockaddr_un *address)
{
    struct stat status;

    if (lstat(address->sun_path, &status) < 0 || !S_ISSOCK(status.st_mode)) {
        return 0;
    }
    int fd = net_socket(AF_UNIX);
    if (fd < 0) {
        return 0;
    }
    int stale = connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static int net_listen_unix(const char *address)
{
    struct sockaddr_un un;

    int fd = net_unix_address(address, &un);
    if (fd < 0 || (fd = net_socket(AF_UNIX)) < 0) {
        return fd;
    }
    int got = bind(fd, (const struct sockaddr *)&un, sizeof un);
    if (got < 0 && errno == EADDRINUSE && net_is_stale(&un)) {
        unlink(un.sun_path);
        got = bind(fd, (const struct sockaddr *)&un, sizeof un);
    }
    if (got < 0) {
        int error = os_error(errno);
        close(fd);
        return error;
    }
    if (listen(fd, OS_BACKLOG) < 0) {
        int error = os_error(errno);
        close(fd);
        unlink(un.sun_path);
        return error;
    }
    return fd;
}

static int net_listen_one(const struct addrinfo *at, int all)
{
    int on = 1, off = 0;

    int fd = net_socket(at->ai_family);
    if (fd < 0) {
        return fd;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
#ifdef IPV6_V6ONLY
    if (at->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, all ? &off : &on, sizeof on);
    }
#endif
    if (bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, OS_BACKLOG) < 0) {
        int error = os_error(errno);
        close(fd);
        return error;
    }
    return fd;
}

/* For `:PORT` the IPv6 wildcard comes first, and takes IPv4 as well; hosts without IPv6 get the IPv4 one. A port that
 * is taken is never papered over by the other family. */
static int net_listen_tcp(const char *address)
{
    struct addrinfo *list = NULL;
    int all = address[0] == ':';

    int fd = net_resolve(address, 1, &list);
    if (fd < 0) {
        return fd;
    }
    fd = DATSYNC_E_ADDRESS;
    for (int pass = 0; pass < 2 && fd < 0 && fd != DATSYNC_E_IN_USE; pass++) {
        for (struct addrinfo *at = list; at != NULL && fd < 0 && fd != DATSYNC_E_IN_USE; at = at->ai_next) {
            if (!all || (at->ai_family == AF_INET6) == (pass == 0)) {
                fd = net_listen_one(at, all);
            }
        }
        if (!all) {
            break;
        }
    }
    freeaddrinfo(list);
    return fd;
}

static int net_listen(void *ctx, const char *address, intptr_t *listener, char *bound, size_t cap)
{
    (void)ctx;
    int fd = net_is_unix(address) ? net_listen_unix(address) : net_listen_tcp(address);
    if (fd < 0) {
        return fd;
    }
    net_own_text(fd, bound, cap);
    *listener = fd;
    return 0;
}

static int net_accept(void *ctx, intptr_t listener, intptr_t *stream, char *from, size_t cap)
{
    struct sockaddr_storage remote;
    socklen_t len = sizeof remote;

    (void)ctx;
    memset(&remote, 0, sizeof remote);
    int fd = accept((int)listener, (struct sockaddr *)&remote, &len);
    if (fd < 0) {
        /* Those that ended while they waited are no error of the listener's. */
        int gone = errno == EINTR || errno == ECONNABORTED || errno == EPROTO || errno == EPERM;
        return gone ? DATSYNC_E_AGAIN : os_error(errno);
    }
    int error = os_prepare(fd);
    if (error != 0) {
        close(fd);
        return error;
    }
    net_tune(fd);
    if (remote.ss_family == AF_UNIX || len < (socklen_t)sizeof(struct sockaddr_in)) {
        net_own_text(fd, from, cap); /* the other end of a Unix socket has no name */
    } else {
        net_text(&remote, len, from, cap);
    }
    *stream = fd;
    return 0;
}

/* Begin to connect; sets *pending if it isn't over yet. A descriptor or an error. */
static int net_dial(int family, const struct sockaddr *to, socklen_t len, int *pending)
{
    int fd = net_socket(family);
    if (fd < 0) {
        return fd;
    }
    net_tune(fd);
    *pending = 0;
    if (connect(fd, to, len) < 0) {
        if (errno != EINPROGRESS && errno != EINTR) {
            int error = os_error(errno);
            if (errno == EAGAIN) {
                error = DATSYNC_E_REFUSED; /* a Unix listener whose queue is full */
            } else if (errno == EADDRNOTAVAIL) {
                error = DATSYNC_E_UNREACHABLE; /* out of local ports, or nothing of that family here */
            }
            close(fd);
            return error;
        }
        *pending = 1;
    }
    return fd;
}

static int net_connected(void *ctx, intptr_t stream)
{
    struct sockaddr_storage remote;
    socklen_t len = sizeof remote;
    int number = 0;
    socklen_t size = sizeof number;

    (void)ctx;
    if (getsockopt((int)stream, SOL_SOCKET, SO_ERROR, &number, &size) < 0) {
        number = errno;
    }
    if (number != 0) {
        return os_error(number);
    }
    if (getpeername((int)stream, (struct sockaddr *)&remote, &len) == 0) {
        return 0;
    }
    return errno == ENOTCONN ? DATSYNC_E_AGAIN : os_error(errno);
}

/* Look at a connection that has begun, for a moment: 0, DATSYNC_E_AGAIN or why it failed. */
static int net_glance(int fd, int timeout_ms)
{
    struct pollfd one = {fd, POLLOUT, 0};

    if (poll(&one, 1, timeout_ms) <= 0) {
        return DATSYNC_E_AGAIN;
    }
    return net_connected(NULL, fd);
}

/* A host has several addresses, one of which may lead nowhere (localhost is ::1 and 127.0.0.1, and a listener may be on
 * either): the first that answers wins; if none did yet, the first that still may. */
static int net_connect_tcp(const char *address)
{
    struct addrinfo *list = NULL;
    int best = -1, fd = -1, pending = 0;

    int error = net_resolve(address, 0, &list);
    if (error != 0) {
        return error;
    }
    error = DATSYNC_E_ADDRESS;
    for (struct addrinfo *at = list; at != NULL; at = at->ai_next) {
        fd = net_dial(at->ai_family, at->ai_addr, at->ai_addrlen, &pending);
        if (fd < 0) {
            error = fd;
            continue;
        }
        int state = pending ? DATSYNC_E_AGAIN : 0;
        if (pending && (at->ai_next != NULL || best >= 0)) {
            state = net_glance(fd, OS_NEXT_ADDRESS_MS);
        }
        if (state == 0 || (state == DATSYNC_E_AGAIN && best < 0)) {
            if (best >= 0) {
                close(best);
            }
            best = fd;
            if (state == 0) {
                break;
            }
        } else {
            close(fd);
            error = state == DATSYNC_E_AGAIN ? error : state;
        }
    }
    freeaddrinfo(list);
    return best >= 0 ? best : error;
}

static int net_connect(void *ctx, const char *address, intptr_t *stream)
{
    int fd, pending;

    (void)ctx;
    if (net_is_unix(address)) {
        struct sockaddr_un un;
        fd = net_unix_address(address, &un);
        if (fd == 0) {
            fd = net_dial(AF_UNIX, (const struct sockaddr *)&un, sizeof un, &pending);
        }
    } else {
        fd = net_connect_tcp(address);
    }
    if (fd < 0) {
        return fd;
    }
    *stream = fd;
    return 0;
}

static int64_t net_recv(void *ctx, intptr_t stream, void *buf, size_t len)
{
    (void)ctx;
    for (;;) {
        ssize_t got = recv((int)stream, buf, len, 0);
        if (got > 0) {
            return got;
        }
        if (got == 0) {
            return DATSYNC_E_CLOSED;
        }
        if (errno != EINTR) {
            return os_error(errno);
        }
    }
}

static int64_t net_send(void *ctx, intptr_t stream, const void *buf, size_t len)
{
    (void)ctx;
    for (;;) {
        ssize_t got = send((int)stream, buf, len, MSG_NOSIGNAL);
        if (got > 0) {
            return got;
        }
        if (got == 0) {
            return DATSYNC_E_AGAIN;
        }
        if (errno == ENOBUFS) {
            return DATSYNC_E_AGAIN; /* macOS: the kernel is short of buffers for now */
        }
        if (errno != EINTR) {
            return os_error(errno);
        }
    }
}

static void net_close(void *ctx, intptr_t handle)
{
    int fd = (int)handle, listening = 0;
    socklen_t size = sizeof listening;
    struct sockaddr_storage own;
    socklen_t len = sizeof own;

    (void)ctx;
    memset(&own, 0, sizeof own);
    /* The socket file goes with its listener; the kernel remembers both, so nothing has to be kept here. */
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening &&
        getsockname(fd, (struct sockaddr *)&own, &len) == 0 && own.ss_family == AF_UNIX) {
        struct sockaddr_un un;
        memset(&un, 0, sizeof un);
        memcpy(&un, &own, len < sizeof un ? len : sizeof un - 1);
        if (un.sun_path[0] != 0) {
            unlink(un.sun_path);
        }
    }
    close(fd);
}

static short net_ready(short asked, short got)
{
    int ready = 0;

    ready |= got & POLLIN ? DATSYNC_POLL_READ : 0;
    ready |= got & POLLOUT ? DATSYNC_POLL_WRITE : 0;
    if (got & (POLLERR | POLLHUP | POLLNVAL)) {
        /* recv and send tell what it is, after the bytes that still are there. */
        ready |= asked;
        if (asked == 0 || (got & (POLLERR | POLLNVAL))) {
            ready |= DATSYNC_POLL_ERROR;
        }
    }
    return (short)ready;
}

static int net_poll_set(struct pollfd *set, datsync_pollfd *fds, size_t count, int timeout_ms)
{
    char drain[64];
    size_t all = count;
    int ready = 0;

    for (size_t i = 0; i < count; i++) {
        int events =
            (fds[i].events & DATSYNC_POLL_READ ? POLLIN : 0) | (fds[i].events & DATSYNC_POLL_WRITE ? POLLOUT : 0);
        set[i].fd = (int)fds[i].handle;
        set[i].events = (short)events;
        set[i].revents = 0;
        fds[i].revents = 0;
    }
    if (os_signal.hooked) {
        set[all].fd = os_signal.pipe[0];
        set[all].events = POLLIN;
        set[all].revents = 0;
        all++;
    }
    int got = poll(set, (nfds_t)all, timeout_ms);
    if (got < 0) {
        return errno == EINTR || errno == EAGAIN ? 0 : os_error(errno);
    }
    for (size_t i = 0; i < count; i++) {
        fds[i].revents = net_ready(fds[i].events, set[i].revents);
        ready += fds[i].revents != 0;
    }
    if (all > count && set[count].revents != 0) {
        while (read(os_signal.pipe[0], drain, sizeof drain) == (ssize_t)sizeof drain) {
        }
    }
    return ready;
}

static int net_poll(void *ctx, datsync_pollfd *fds, size_t count, int timeout_ms)
{
    struct pollfd few[OS_POLL_FEW];

    (void)ctx;
    if (count < OS_POLL_FEW) {
        return net_poll_set(few, fds, count, timeout_ms);
    }
    struct pollfd *set = malloc((count + 1) * sizeof *set);
    if (set == NULL) {
        return DATSYNC_E_NOMEM;
    }
    int ready = net_poll_set(set, fds, count, timeout_ms);
    free(set);
    return ready;
}

const datsync_net *datsync_os_net(void)
{
    static const datsync_net net = {
        .listen = net_listen,
        .accept = net_accept,
        .connect = net_connect,
        .connected = net_connected,
        .recv = net_recv,
        .send = net_send,
        .close = net_close,
        .poll = net_poll,
    };
    return &net;
}

/* ---------------------------------------------------------------- folders -------------------------------------- */

typedef struct folder {
    int dir;        /* the folder itself: files are opened below it, wherever the program moves to */
    unsigned flags; /* enum datsync_feed_flags */
    int made;       /* the folder is new: its parent is to be synced */
    int grown;      /* a file in it is new: the folder is to be synced */
    int fd[DATSYNC_PARTS];
    int writable[DATSYNC_PARTS];
    char prefix[OS_MAX_PREFIX + 1];
} folder;

static const char *const folder_parts[DATSYNC_PARTS] = {
    [DATSYNC_PART_KEY] = "key",           [DATSYNC_PART_SECRET_KEY] = "secret_key",
    [DATSYNC_PART_TREE] = "tree",         [DATSYNC_PART_SIGNATURES] = "signatures",
    [DATSYNC_PART_BITFIELD] = "bitfield", [DATSYNC_PART_DATA] = "data",
};

static int folder_openat(const folder *f, int part, int flags)
{
    char name[OS_MAX_PREFIX + 16];
    int fd;

    snprintf(name, sizeof name, "%s%s", f->prefix, folder_parts[part]);
    do {
        fd = openat(f->dir, name, flags | O_CLOEXEC | O_NOCTTY, part == DATSYNC_PART_SECRET_KEY ? 0600 : 0644);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* Open what is there, for writing if that is allowed (it will be written later) and else for reading. */
static int folder_open_old(folder *f, int part)
{
    int writable = (f->flags & DATSYNC_READ_ONLY) == 0;
    int fd = -1;

    if (writable) {
        fd = folder_openat(f, part, O_RDWR);
    }
    if (!writable || (fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS))) {
        writable = 0;
        fd = folder_openat(f, part, O_RDONLY);
    }
    if (fd < 0) {
        return os_error(errno);
    }
    f->fd[part] = fd;
    f->writable[part] = writable;
    return 0;
}

/* The part is open when this returns 0; for writing, it is created. */
static int folder_open(folder *f, int part, int writing)
{
    if (f->fd[part] < 0) {
        int error = folder_open_old(f, part);
        if (error != 0 && (error != DATSYNC_E_NO_ENTRY || !writing)) {
            return error;
        }
    }
    if (!writing || f->writable[part]) {
        return 0;
    }
    if (f->flags & DATSYNC_READ_ONLY) {
        return DATSYNC_E_READ_ONLY;
    }
    if (f->fd[part] >= 0) {
        return DATSYNC_E_ACCESS; /* it opens for reading only */
    }
    int fd = folder_openat(f, part, O_RDWR | O_CREAT);
    if (fd < 0) {
        return os_error(errno);
    }
    f->fd[part] = fd;
    f->writable[part] = 1;
    f->grown = 1;
    return 0;
}

/* Offsets are signed for the OS. */
static int folder_range(uint64_t offset, uint64_t len)
{
    return offset > (uint64_t)INT64_MAX || len > (uint64_t)INT64_MAX - offset ? DATSYNC_E_TOO_BIG : 0;
}

static int64_t folder_read(void *ctx, int part, uint64_t offset, void *buf, size_t len)
{
    folder *f = ctx;
    size_t done = 0;

    int error = folder_range(offset, len);
    if (error == 0) {
        error = folder_open(f, part, 0);
    }
    if (error != 0) {
        return error == DATSYNC_E_NO_ENTRY ? 0 : error;
    }
    while (done < len) {
        ssize_t got = pread(f->fd[part], (char *)buf + done, len - done, (off_t)(offset + done));
        if (got == 0) {
            break;
        }
        if (got > 0) {
            done += (size_t)got;
        } else if (errno != EINTR) {
            return os_error(errno);
        }
    }
    return (int64_t)done;
}

static int folder_write(void *ctx, int part, uint64_t offset, const void *buf, size_t len)
{
    folder *f = ctx;
    size_t done = 0;

    int error = folder_range(offset, len);
    if (error == 0) {
        error = folder_open(f, part, 1);
    }
    while (error == 0 && done < len) {
        ssize_t got = pwrite(f->fd[part], (const char *)buf + done, len - done, (off_t)(offset + done));
        if (got > 0) {
            done += (size_t)got;
        } else if (got == 0) {
            error = DATSYNC_E_NO_SPACE;
        } else if (errno != EINTR) {
            error = os_error(errno);
        }
    }
    return error;
}

static int64_t folder_size(void *ctx, int part)
{
    folder *f = ctx;
    struct stat status;

    int error = folder_open(f, part, 0);
    if (error != 0) {
        return error;
    }
    if (fstat(f->fd[part], &status) < 0) {
        return os_error(errno);
    }
    return (int64_t)status.st_size;
}

static int folder_truncate(void *ctx, int part, uint64_t size)
{
    folder *f = ctx;

    int error = folder_range(size, 0);
    if (error == 0) {
        error = folder_open(f, part, 1);
    }
    while (error == 0 && ftruncate(f->fd[part], (off_t)size) < 0) {
        if (errno != EINTR) {
            error = os_error(errno);
        }
    }
    return error;
}

/* To the medium. What can't be synced (some file systems' folders) says EINVAL: there is nothing to wait for. */
static int folder_sync_fd(int fd, int whole)
{
    int got;

    do {
#if defined(F_FULLFSYNC)
        (void)whole;
        got = fcntl(fd, F_FULLFSYNC);
        if (got < 0 && errno != EINTR) {
            got = fsync(fd);
        }
#elif defined(_POSIX_SYNCHRONIZED_IO) && _POSIX_SYNCHRONIZED_IO > 0
        got = whole ? fsync(fd) : fdatasync(fd);
#else
        (void)whole;
        got = fsync(fd);
#endif
    } while (got < 0 && errno == EINTR);
    return got < 0 && errno != EINVAL ? os_error(errno) : 0;
}

/* A file's name is on disk only when its folder is, and the folder's when its parent is. */
static int folder_sync_names(folder *f)
{
    int error = 0;

    if (f->grown) {
        error = folder_sync_fd(f->dir, 1);
        f->grown = error != 0;
    }
    if (error == 0 && f->made) {
        int parent = openat(f->dir, "..", O_RDONLY | O_CLOEXEC);
        if (parent >= 0) { /* it may be forbidden to read; then there is no way */
            error = folder_sync_fd(parent, 1);
            close(parent);
        }
        f->made = error != 0;
    }
    return error;
}

static int folder_sync(void *ctx, int part)
{
    folder *f = ctx;

    /* Also what another process has written: recovery asks for that. */
    int error = folder_open(f, part, 0);
    if (error == DATSYNC_E_NO_ENTRY) {
        return 0;
    }
    if (error == 0) {
        error = folder_sync_fd(f->fd[part], 0);
    }
    return error != 0 ? error : folder_sync_names(f);
}

static int folder_punch(void *ctx, int part, uint64_t offset, uint64_t len)
{
    folder *f = ctx;

    int error = folder_range(offset, len);
    if (error != 0 || len == 0 || folder_open(f, part, 0) != 0 || !f->writable[part]) {
        return error;
    }
#if defined(__linux__) && defined(FALLOC_FL_PUNCH_HOLE)
    while (fallocate(f->fd[part], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) < 0) {
        if (errno != EINTR) {
            return errno == EOPNOTSUPP || errno == ENOSYS ? 0 : os_error(errno);
        }
    }
#elif defined(F_PUNCHHOLE)
    struct stat status;
    if (fstat(f->fd[part], &status) == 0 && status.st_blksize > 0) {
        uint64_t unit = (uint64_t)status.st_blksize; /* whole blocks of the file system only */
        uint64_t begin = (offset + unit - 1) / unit * unit, end = (offset + len) / unit * unit;
        if (begin < end) {
            struct fpunchhole hole = {0, 0, (off_t)begin, (off_t)(end - begin)};
            (void)fcntl(f->fd[part], F_PUNCHHOLE, &hole);
        }
    }
#endif
    return 0;
}

/* As the deployed implementation's fd-lock: flock on the bitfield. Where nothing was asked to be created and there is
 * no feed, no file is left behind. */
static int folder_lock(void *ctx)
{
    folder *f = ctx;

    if ((f->flags & DATSYNC_CREATE) == 0 && folder_open(f, DATSYNC_PART_BITFIELD, 0) == DATSYNC_E_NO_ENTRY &&
        folder_open(f, DATSYNC_PART_KEY, 0) == DATSYNC_E_NO_ENTRY) {
        return DATSYNC_E_NOT_FOUND;
    }
    int error = folder_open(f, DATSYNC_PART_BITFIELD, 1);
    if (error != 0) {
        return error;
    }
#ifdef LOCK_EX
    while (flock(f->fd[DATSYNC_PART_BITFIELD], LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK) {
            return DATSYNC_E_LOCKED;
        }
        if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) {
            break; /* a file system without locks */
        }
        if (errno != EINTR) {
            return os_error(errno);
        }
    }
#endif
    return 0;
}

static void folder_close(void *ctx)
{
    folder *f = ctx;

    for (int part = 0; part < DATSYNC_PARTS; part++) {
        if (f->fd[part] >= 0) {
            close(f->fd[part]);
        }
    }
    close(f->dir);
    free(f);
}

int datsync_os_store(datsync_store *out, const char *dir, const char *prefix, unsigned flags)
{
    int made = 0;

    if (prefix == NULL) {
        prefix = "";
    }
    if (strlen(prefix) > OS_MAX_PREFIX) {
        return DATSYNC_E_INVALID;
    }
    if ((flags & DATSYNC_CREATE) && !(flags & DATSYNC_READ_ONLY)) {
        if (mkdir(dir, 0777) == 0) {
            made = 1;
        } else if (errno != EEXIST) {
            return os_error(errno);
        }
    }
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return os_error(errno);
    }
    folder *f = malloc(sizeof *f);
    if (f == NULL) {
        close(fd);
        return DATSYNC_E_NOMEM;
    }
    memset(f, 0, sizeof *f);
    f->dir = fd;
    f->flags = flags;
    f->made = made;
    strcpy(f->prefix, prefix);
    for (int part = 0; part < DATSYNC_PARTS; part++) {
        f->fd[part] = -1;
    }
    memset(out, 0, sizeof *out);
    out->ctx = f;
    out->read = folder_read;
    out->write = folder_write;
    out->size = folder_size;
    out->truncate = folder_truncate;
    out->sync = folder_sync;
    out->punch = folder_punch;
    out->lock = folder_lock;
    out->close = folder_close;
    return 0;
}
