/* datsync on POSIX: streams, poll, folders, clock, signals, terminal. The only file that knows the OS; it is handed to
 * datsync.c by name (see the end of datsync.h).
 *
 * SPDX-License-Identifier: MIT
 *
 * POSIX.1-2008, and beyond it getifaddrs and multicast, which all these systems have, and what is guarded: flock,
 * fallocate, syncfs, O_PATH, F_FULLFSYNC, F_PUNCHHOLE, _PC_CASE_SENSITIVE, IP_PKTINFO, ip_mreqn. Names are looked up in
 * threads: link with -pthread where the C library has none of its own (glibc before 2.34, the BSDs).
 */
#if defined(__linux__)
#define _GNU_SOURCE /* fallocate, syncfs, O_PATH; implies POSIX.1-2008 */
#elif defined(__APPLE__)
#define _DARWIN_C_SOURCE
#define __APPLE_USE_RFC_3542 /* IPV6_RECVPKTINFO */
#elif defined(__sun)
#define _POSIX_C_SOURCE 200809L
#define __EXTENSIONS__
#endif /* the BSDs show all of it when nothing is asked for, and hide flock otherwise */
#define _FILE_OFFSET_BITS 64
#define _TIME_BITS 64 /* after 2038, also where time_t began with 32 bits */

#include "datsync.h"

#include <sys/socket.h> /* before net/if.h, which needs it on the BSDs */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#if !defined(IP_PKTINFO) && defined(IP_RECVIF)
#include <net/if_dl.h>
#endif

/* Descriptors that poll takes without an allocation: the default cap on peers, listeners and a few. */
#define OS_POLL_FEW 128
/* Connections that wait for accept. */
#define OS_BACKLOG 128
/* How long connect looks at one of a host's addresses before it tries the next one beside it (RFC 8305). */
#define OS_NEXT_ADDRESS_MS 250
/* Names are looked up in so many threads at once: most of them only wait. So many more names wait for one of these,
 * more than a program has of servers. Of what a name's owner says, so many addresses count. */
#define OS_LOOKUP_THREADS 4
#define OS_LOOKUPS_WAITING 256
#define OS_LOOKUP_ADDRESSES 16
/* Bytes of a host name in an address, and of a prefix of file names. */
#define OS_MAX_HOST 256
#define OS_MAX_PREFIX 200
/* Folders this deep are kept open between two calls; to see whether a deeper one is still at its path would cost more
 * than to open it again. */
#define OS_KEEP_DEPTH 16
/* So many of them: a file goes from one to another, and its neighbours do the same. */
#define OS_KEEP 4
/* Whether others have moved it meanwhile is looked at after so many milliseconds. Until then, what was beneath the
 * root is what is reached, wherever it is now: it is the folder itself that is open, not its path. */
#define OS_KEEP_MS 5
/* Bytes for getpwuid_r: a line of the passwd file. */
#define OS_MAX_PASSWD 4096

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* SO_NOSIGPIPE does it there */
#endif

/* A folder on the way is only passed through, which takes no permission to read it. */
#if defined(__linux__) && defined(O_PATH)
#define OS_WALK O_PATH
#else
#define OS_WALK O_RDONLY
#endif

/* Who has ip_mreqn names an interface by its number for IPv4 too. */
#if defined(__linux__) || defined(__FreeBSD__) || defined(__APPLE__)
#define OS_MREQN
#endif

#if defined(__APPLE__)
#define OS_MTIME st_mtimespec
#else
#define OS_MTIME st_mtim
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
    {EWOULDBLOCK, DATSYNC_E_AGAIN},    {EMSGSIZE, DATSYNC_E_TOO_BIG},
};

/* Everything that isn't in the table (EIO, EMFILE, ENOTDIR, ...) is DATSYNC_E_IO; errno keeps the number. */
static int os_error(int number)
{
    for (size_t i = 0; i < sizeof os_errors / sizeof os_errors[0]; i++)
        if (os_errors[i].number == number)
            return os_errors[i].error;
    return DATSYNC_E_IO;
}

/* ---------------------------------------------------------------- signals -------------------------------------- */

/* A signal handler has no other way to reach the program than a static object; the only other one has the names that
 * wait for a thread. The pipe is in the set of every poll, so a signal that comes just before poll ends it as well. */
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
    if (write(os_signal.pipe[1], "", 1) < 0)
        errno = saved;
    errno = saved;
}

/* Non-blocking and closed in programs that this one starts. */
static int os_prepare(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return os_error(errno);
    return 0;
}

int datsync_os_signals(void)
{
    struct sigaction action;

    if (os_signal.hooked)
        return DATSYNC_E_STATE;
    if (pipe(os_signal.pipe) < 0)
        return os_error(errno);
    int error = os_prepare(os_signal.pipe[0]);
    if (error == 0)
        error = os_prepare(os_signal.pipe[1]);
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
        if (os_signal.number != 0)
            return DATSYNC_E_AGAIN;
        if (poll(set, 2, -1) >= 0 && set[0].revents != 0 && os_signal.number == 0) {
            ssize_t got = read(STDIN_FILENO, buf, len);
            if (got >= 0 || (errno != EINTR && errno != EAGAIN))
                return got >= 0 ? (int64_t)got : os_error(errno);
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

    if (!isatty(STDERR_FILENO) || (term != NULL && strcmp(term, "dumb") == 0))
        return 0;
#ifdef TIOCGWINSZ
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
#endif
    return 80;
}

int datsync_os_main(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

void *datsync_os_fopen(const char *path)
{
    return fopen(path, "rb");
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
        strspn(colon + 1, "0123456789") != strlen(colon + 1) || strtoul(colon + 1, NULL, 10) > 65535)
        return DATSYNC_E_ADDRESS;
    if (*begin == '[') {
        if (end[-1] != ']' || end - begin < 3)
            return DATSYNC_E_ADDRESS;
        begin++;
        end--;
    } else if (memchr(begin, ':', (size_t)(end - begin)) != NULL) {
        return DATSYNC_E_ADDRESS; /* a bare IPv6 address: where its port begins is anyone's guess */
    }
    if (end - begin >= OS_MAX_HOST)
        return DATSYNC_E_ADDRESS;
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = 0;
    strcpy(port, colon + 1);
    return 0;
}

/* What getaddrinfo said, as an error of this library's. */
static int net_resolve_error(int got)
{
    if (got == EAI_MEMORY)
        return DATSYNC_E_NOMEM;
    if (got == EAI_AGAIN)
        return DATSYNC_E_UNREACHABLE; /* the resolver, for now */
    if (got == EAI_SYSTEM)            /* never DATSYNC_E_AGAIN: nothing more comes */
        return errno == EAGAIN ? DATSYNC_E_UNREACHABLE : os_error(errno);
    return got == 0 ? 0 : DATSYNC_E_ADDRESS;
}

/* The caller ends *list with freeaddrinfo. Host names wait for the resolver. */
static int net_resolve(const char *address, int passive, struct addrinfo **list)
{
    char host[OS_MAX_HOST], port[6];
    struct addrinfo hints;

    int error = net_split(address, host, port);
    if (error != 0)
        return error;
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
    return net_resolve_error(getaddrinfo(host[0] != 0 ? host : NULL, port, &hints, list));
}

static int net_unix_address(const char *address, struct sockaddr_un *out)
{
    const char *path = address + 5;

    memset(out, 0, sizeof *out);
    out->sun_family = AF_UNIX;
    if (*path == 0 || strlen(path) >= sizeof out->sun_path)
        return DATSYNC_E_ADDRESS;
    strcpy(out->sun_path, path);
    return 0;
}

/* As text that listen and connect take. IPv4 seen through an IPv6 socket is told as IPv4. */
static void net_text(const struct sockaddr_storage *from, socklen_t len, char *out, size_t cap)
{
    struct sockaddr_storage plain = *from;
    char host[OS_MAX_HOST], port[16];

    if (cap == 0)
        return;
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
    if (getsockname(fd, (struct sockaddr *)&own, &len) == 0)
        net_text(&own, len, out, cap);
    else if (cap > 0)
        out[0] = 0;
}

/* ---------------------------------------------------------------- streams -------------------------------------- */

/* A new socket as everything here wants it; a negative datsync error on failure. */
static int net_socket(int family, int type)
{
    int fd = socket(family, type, 0);
    if (fd < 0)
        return os_error(errno);
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

    if (lstat(address->sun_path, &status) < 0 || !S_ISSOCK(status.st_mode))
        return 0;
    int fd = net_socket(AF_UNIX, SOCK_STREAM);
    if (fd < 0)
        return 0;
    int stale = connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static int net_listen_unix(const char *address)
{
    struct sockaddr_un un;

    int fd = net_unix_address(address, &un);
    if (fd < 0 || (fd = net_socket(AF_UNIX, SOCK_STREAM)) < 0)
        return fd;
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

    int fd = net_socket(at->ai_family, SOCK_STREAM);
    if (fd < 0)
        return fd;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
#ifdef IPV6_V6ONLY
    if (at->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, all ? &off : &on, sizeof on);
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
    if (fd < 0)
        return fd;
    fd = DATSYNC_E_ADDRESS;
    for (int pass = 0; pass < 2 && fd < 0 && fd != DATSYNC_E_IN_USE; pass++) {
        for (struct addrinfo *at = list; at != NULL && fd < 0 && fd != DATSYNC_E_IN_USE; at = at->ai_next)
            if (!all || (at->ai_family == AF_INET6) == (pass == 0))
                fd = net_listen_one(at, all);
        if (!all)
            break;
    }
    freeaddrinfo(list);
    return fd;
}

static int net_listen(void *ctx, const char *address, intptr_t *listener, char *bound, size_t cap)
{
    (void)ctx;
    int fd = net_is_unix(address) ? net_listen_unix(address) : net_listen_tcp(address);
    if (fd < 0)
        return fd;
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
    if (remote.ss_family == AF_UNIX || len < (socklen_t)sizeof(struct sockaddr_in))
        net_own_text(fd, from, cap); /* the other end of a Unix socket has no name */
    else
        net_text(&remote, len, from, cap);
    *stream = fd;
    return 0;
}

/* Begin to connect; sets *pending if it isn't over yet. A descriptor or an error. */
static int net_dial(int family, const struct sockaddr *to, socklen_t len, int *pending)
{
    int fd = net_socket(family, SOCK_STREAM);
    if (fd < 0) /* a family that this system has not makes no bad address */
        return fd == DATSYNC_E_ADDRESS ? DATSYNC_E_UNREACHABLE : fd;
    net_tune(fd);
    *pending = 0;
    if (connect(fd, to, len) < 0) {
        if (errno != EINPROGRESS && errno != EINTR) {
            int error = os_error(errno);
            if (errno == EAGAIN)
                error = DATSYNC_E_REFUSED; /* a Unix listener whose queue is full */
            else if (errno == EADDRNOTAVAIL)
                error = DATSYNC_E_UNREACHABLE; /* out of local ports, or nothing of that family here */
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
    if (getsockopt((int)stream, SOL_SOCKET, SO_ERROR, &number, &size) < 0)
        number = errno;
    if (number != 0)
        return os_error(number);
    if (getpeername((int)stream, (struct sockaddr *)&remote, &len) == 0)
        return 0;
    return errno == ENOTCONN ? DATSYNC_E_AGAIN : os_error(errno);
}

/* Look at a connection that has begun, for a moment: 0, DATSYNC_E_AGAIN or why it failed. */
static int net_glance(int fd, int timeout_ms)
{
    struct pollfd one = {fd, POLLOUT, 0};

    if (poll(&one, 1, timeout_ms) <= 0)
        return DATSYNC_E_AGAIN;
    return net_connected(NULL, fd);
}

/* A host has several addresses, one of which may lead nowhere (localhost is ::1 and 127.0.0.1, and a listener may be on
 * either): the first that answers wins; if none did yet, the first that still may. */
static int net_connect_tcp(const char *address)
{
    struct addrinfo *list = NULL;
    int best = -1, fd = -1, pending = 0;

    int error = net_resolve(address, 0, &list);
    if (error != 0)
        return error;
    error = DATSYNC_E_ADDRESS;
    for (struct addrinfo *at = list; at != NULL; at = at->ai_next) {
        fd = net_dial(at->ai_family, at->ai_addr, at->ai_addrlen, &pending);
        if (fd < 0) {
            error = fd;
            continue;
        }
        int state = pending ? DATSYNC_E_AGAIN : 0;
        if (pending && (at->ai_next != NULL || best >= 0))
            state = net_glance(fd, OS_NEXT_ADDRESS_MS);
        if (state == 0 || (state == DATSYNC_E_AGAIN && best < 0)) {
            if (best >= 0)
                close(best);
            best = fd;
            if (state == 0)
                break;
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
        if (fd == 0)
            fd = net_dial(AF_UNIX, (const struct sockaddr *)&un, sizeof un, &pending);
    } else {
        fd = net_connect_tcp(address);
    }
    if (fd < 0)
        return fd;
    *stream = fd;
    return 0;
}

static int64_t net_recv(void *ctx, intptr_t stream, void *buf, size_t len)
{
    (void)ctx;
    for (;;) {
        ssize_t got = recv((int)stream, buf, len, 0);
        if (got > 0)
            return got;
        if (got == 0)
            return DATSYNC_E_CLOSED;
        if (errno != EINTR)
            return os_error(errno);
    }
}

static int64_t net_send(void *ctx, intptr_t stream, const void *buf, size_t len)
{
    (void)ctx;
    for (;;) {
        ssize_t got = send((int)stream, buf, len, MSG_NOSIGNAL);
        if (got > 0)
            return got;
        if (got == 0)
            return DATSYNC_E_AGAIN;
        if (errno == ENOBUFS)
            return DATSYNC_E_AGAIN; /* macOS: the kernel is short of buffers for now */
        if (errno != EINTR)
            return os_error(errno);
    }
}

static int net_shutdown(void *ctx, intptr_t stream)
{
    (void)ctx;
    return shutdown((int)stream, SHUT_WR) < 0 ? os_error(errno) : 0;
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
        if (un.sun_path[0] != 0)
            unlink(un.sun_path);
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
        if (asked == 0 || (got & (POLLERR | POLLNVAL)))
            ready |= DATSYNC_POLL_ERROR;
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
    if (got < 0)
        return errno == EINTR || errno == EAGAIN ? 0 : os_error(errno);
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
    if (count < OS_POLL_FEW)
        return net_poll_set(few, fds, count, timeout_ms);
    struct pollfd *set = malloc((count + 1) * sizeof *set);
    if (set == NULL)
        return DATSYNC_E_NOMEM;
    int ready = net_poll_set(set, fds, count, timeout_ms);
    free(set);
    return ready;
}

/* ---------------------------------------------------------------- addresses in bytes --------------------------- */

static int ip_is_multicast(const datsync_ip *ip)
{
    return ip->size == 4 ? (ip->bytes[0] & 0xf0) == 0xe0 : ip->bytes[0] == 0xff;
}

/* It means something on its link only. */
static int ip_is_link_local(const datsync_ip *ip)
{
    const uint8_t *b = ip->bytes;

    if (ip->size == 4)
        return b[0] == 169 && b[1] == 254;
    return (b[0] == 0xfe && (b[1] & 0xc0) == 0x80) || (b[0] == 0xff && ((b[1] & 15) == 1 || (b[1] & 15) == 2));
}

/* How long it is there; 0: it is neither IPv4 nor IPv6. */
static socklen_t ip_to_system(const datsync_ip *ip, struct sockaddr_storage *out)
{
    struct sockaddr_in four;
    struct sockaddr_in6 six;

    memset(out, 0, sizeof *out);
    if (ip->size == 4) {
        memset(&four, 0, sizeof four);
        four.sin_family = AF_INET;
        four.sin_port = htons(ip->port);
        memcpy(&four.sin_addr, ip->bytes, 4);
        memcpy(out, &four, sizeof four);
        return sizeof four;
    }
    if (ip->size != 16)
        return 0;
    memset(&six, 0, sizeof six);
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(ip->port);
    six.sin6_scope_id = ip_is_link_local(ip) ? ip->via : 0;
    memcpy(&six.sin6_addr, ip->bytes, 16);
    memcpy(out, &six, sizeof six);
    return sizeof six;
}

/* 0, or -1: it is neither IPv4 nor IPv6. */
static int ip_from_system(const struct sockaddr *from, datsync_ip *out)
{
    struct sockaddr_in four;
    struct sockaddr_in6 six;

    memset(out, 0, sizeof *out);
    if (from->sa_family == AF_INET) {
        memcpy(&four, from, sizeof four);
        out->size = 4;
        out->port = ntohs(four.sin_port);
        memcpy(out->bytes, &four.sin_addr, 4);
        return 0;
    }
    if (from->sa_family != AF_INET6)
        return -1;
    memcpy(&six, from, sizeof six);
    out->size = 16;
    out->port = ntohs(six.sin6_port);
    out->via = six.sin6_scope_id;
    memcpy(out->bytes, &six.sin6_addr, 16);
    return 0;
}

/* ---------------------------------------------------------------- interfaces ----------------------------------- */

static uint8_t net_prefix(const datsync_ip *mask)
{
    uint8_t bits = 0;

    while (bits < 8 * mask->size && (mask->bytes[bits / 8] & (0x80 >> bits % 8)))
        bits++;
    return bits;
}

/* 0, or -1: it is down, or has an address of another kind. */
static int net_interface(const struct ifaddrs *at, datsync_interface *out)
{
    datsync_ip mask;

    memset(out, 0, sizeof *out);
    if (!(at->ifa_flags & IFF_UP) || at->ifa_addr == NULL || ip_from_system(at->ifa_addr, &out->ip) < 0)
        return -1;
    out->ip.port = 0;
    out->ip.via = if_nametoindex(at->ifa_name);
    if (out->ip.size == 16 && ip_is_link_local(&out->ip))
        memset(out->ip.bytes + 2, 0, 2); /* where the BSDs keep the interface's number */
    if (at->ifa_netmask != NULL) {
        struct sockaddr_storage plain;
        memset(&plain, 0, sizeof plain);
        memcpy(&plain, at->ifa_netmask, out->ip.size == 4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
        plain.ss_family = at->ifa_addr->sa_family; /* not all say it of a mask */
        ip_from_system((const struct sockaddr *)&plain, &mask);
        out->prefix = net_prefix(&mask);
    }
    out->loopback = (at->ifa_flags & IFF_LOOPBACK) != 0;
    out->multicast = (at->ifa_flags & IFF_MULTICAST) != 0;
    snprintf(out->name, sizeof out->name, "%s", at->ifa_name);
    return 0;
}

static int net_interfaces(void *ctx, datsync_interface *list, size_t cap)
{
    struct ifaddrs *first = NULL;
    datsync_interface one;
    int count = 0;

    (void)ctx;
    if (getifaddrs(&first) < 0)
        return os_error(errno);
    for (const struct ifaddrs *at = first; at != NULL; at = at->ifa_next) {
        if (net_interface(at, &one) < 0)
            continue;
        if ((size_t)count < cap)
            list[count] = one;
        count++;
    }
    freeifaddrs(first);
    return count;
}

#if !defined(OS_MREQN) || !defined(IP_PKTINFO)
/* An IPv4 address of an interface, by which older ways name it. */
static int net_address_of(uint32_t via, struct in_addr *own)
{
    struct ifaddrs *first = NULL;
    datsync_interface one;
    int error = DATSYNC_E_ADDRESS;

    own->s_addr = htonl(INADDR_ANY);
    if (via == 0)
        return 0;
    if (getifaddrs(&first) < 0)
        return os_error(errno);
    for (const struct ifaddrs *at = first; at != NULL && error != 0; at = at->ifa_next) {
        if (net_interface(at, &one) == 0 && one.ip.size == 4 && one.ip.via == via) {
            memcpy(own, one.ip.bytes, 4);
            error = 0;
        }
    }
    freeifaddrs(first);
    return error;
}
#endif

/* ---------------------------------------------------------------- datagrams ------------------------------------ */

/* UDP, for discovery. An interface goes by its number: it comes beside a datagram and goes out beside one (RFC 3542,
 * and what systems have like it for IPv4). A group is joined and sent to on each interface by itself, for where a
 * system would send it by default is only one of them. */

/* What comes or goes beside a datagram, aligned. */
typedef union net_beside {
    struct cmsghdr head;
    char room[256];
} net_beside;

/* An interface that is not here is an address that is not. */
static int net_group_error(int number)
{
    return number == ENODEV || number == ENXIO ? DATSYNC_E_ADDRESS : os_error(number);
}

static int net_group(int fd, const datsync_ip *group, int join)
{
    int got;

    if ((group->size != 4 && group->size != 16) || !ip_is_multicast(group))
        return DATSYNC_E_ADDRESS;
    if (group->size == 16) {
        struct ipv6_mreq six;
        memset(&six, 0, sizeof six);
        memcpy(&six.ipv6mr_multiaddr, group->bytes, 16);
        six.ipv6mr_interface = group->via;
        got = setsockopt(fd, IPPROTO_IPV6, join ? IPV6_JOIN_GROUP : IPV6_LEAVE_GROUP, &six, sizeof six);
    } else {
#if defined(OS_MREQN)
        struct ip_mreqn four;
        memset(&four, 0, sizeof four);
        four.imr_ifindex = (int)group->via;
#else
        struct ip_mreq four;
        int error = net_address_of(group->via, &four.imr_interface);
        if (error != 0)
            return error;
#endif
        memcpy(&four.imr_multiaddr, group->bytes, 4);
        got = setsockopt(fd, IPPROTO_IP, join ? IP_ADD_MEMBERSHIP : IP_DROP_MEMBERSHIP, &four, sizeof four);
    }
    if (got < 0 && join && errno == EADDRINUSE)
        return 0; /* it is in this group already */
    return got < 0 ? net_group_error(errno) : 0;
}

static int net_join(void *ctx, intptr_t socket, const datsync_ip *group)
{
    (void)ctx;
    return net_group((int)socket, group, 1);
}

static int net_leave(void *ctx, intptr_t socket, const datsync_ip *group)
{
    (void)ctx;
    return net_group((int)socket, group, 0);
}

/* Each of these options that a system has not leaves it as it would be without. Two processes of one machine hear each
 * other; what was sent to a group that only others joined is not for this socket, though Linux would give it. */
static void net_tune_datagrams(int fd, int family, int shared)
{
    int on = 1, off = 0, hops = 255;
    unsigned char all = 255, loop = 1;

    if (shared) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
#ifdef SO_REUSEPORT
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
#endif
    }
    if (family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
        setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, &hops, sizeof hops);
        setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, &on, sizeof on);
#ifdef IPV6_MULTICAST_ALL
        setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_ALL, &off, sizeof off);
#endif
    } else {
#if defined(IP_RECVPKTINFO)
        setsockopt(fd, IPPROTO_IP, IP_RECVPKTINFO, &on, sizeof on);
#elif defined(IP_PKTINFO)
        setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
#elif defined(IP_RECVIF)
        setsockopt(fd, IPPROTO_IP, IP_RECVIF, &on, sizeof on);
#endif
        setsockopt(fd, IPPROTO_IP, IP_MULTICAST_TTL, &all, sizeof all);
        setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &loop, sizeof loop);
#ifdef IP_MULTICAST_ALL
        setsockopt(fd, IPPROTO_IP, IP_MULTICAST_ALL, &off, sizeof off);
#endif
    }
    (void)off;
}

static int net_datagrams(void *ctx, datsync_ip *at, int shared, intptr_t *out)
{
    struct sockaddr_storage own;
    datsync_ip got;

    (void)ctx;
    socklen_t len = ip_to_system(at, &own);
    if (len == 0)
        return DATSYNC_E_ADDRESS;
    int fd = net_socket(own.ss_family, SOCK_DGRAM);
    if (fd < 0)
        return fd;
    net_tune_datagrams(fd, own.ss_family, shared);
    if (bind(fd, (const struct sockaddr *)&own, len) < 0 || getsockname(fd, (struct sockaddr *)&own, &len) < 0) {
        int error = os_error(errno);
        close(fd);
        return error;
    }
    ip_from_system((const struct sockaddr *)&own, &got);
    at->port = got.port;
    *out = fd;
    return 0;
}

/* The number of the interface; 0: it is not told. Nothing else was asked for, so nothing else comes beside. */
static uint32_t net_get_via(struct msghdr *m)
{
    const struct cmsghdr *c = CMSG_FIRSTHDR(m);

    if (c == NULL)
        return 0;
    if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
        struct in6_pktinfo six;
        memcpy(&six, CMSG_DATA(c), sizeof six);
        return (uint32_t)six.ipi6_ifindex;
    }
#if defined(IP_PKTINFO)
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
        struct in_pktinfo four;
        memcpy(&four, CMSG_DATA(c), sizeof four);
        return (uint32_t)four.ipi_ifindex;
    }
#elif defined(IP_RECVIF)
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVIF) {
        struct sockaddr_dl four;
        memset(&four, 0, sizeof four);
        memcpy(&four, CMSG_DATA(c), offsetof(struct sockaddr_dl, sdl_data));
        return four.sdl_index;
    }
#endif
    return 0;
}

static int64_t net_receive_from(void *ctx, intptr_t socket, void *buf, size_t cap, datsync_ip *from)
{
    struct sockaddr_storage remote;
    struct iovec piece;
    struct msghdr m;
    net_beside beside;
    ssize_t got;

    (void)ctx;
    memset(from, 0, sizeof *from);
    do {
        memset(&remote, 0, sizeof remote);
        memset(&m, 0, sizeof m);
        piece.iov_base = buf;
        piece.iov_len = cap;
        m.msg_name = &remote;
        m.msg_namelen = sizeof remote;
        m.msg_iov = &piece;
        m.msg_iovlen = 1;
        m.msg_control = &beside;
        m.msg_controllen = sizeof beside;
        got = recvmsg((int)socket, &m, 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return os_error(errno);
    if (ip_from_system((const struct sockaddr *)&remote, from) < 0)
        return DATSYNC_E_ADDRESS;
    uint32_t via = net_get_via(&m);
    from->via = via != 0 ? via : from->via;
    return got;
}

static void net_put_beside(struct msghdr *m, net_beside *beside, int level, int type, const void *what, size_t size)
{
    memset(beside, 0, sizeof *beside);
    m->msg_control = beside;
    m->msg_controllen = sizeof *beside;
    struct cmsghdr *c = CMSG_FIRSTHDR(m);
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = (unsigned)CMSG_LEN(size); /* as wide as the system has them */
    memcpy(CMSG_DATA(c), what, size);
    m->msg_controllen = (unsigned)CMSG_SPACE(size);
}

/* By which interface it goes. */
static int net_put_via(int fd, struct msghdr *m, net_beside *beside, const datsync_ip *to)
{
    (void)fd;
    if (to->size == 16) {
        struct in6_pktinfo six;
        memset(&six, 0, sizeof six);
        six.ipi6_ifindex = to->via;
        net_put_beside(m, beside, IPPROTO_IPV6, IPV6_PKTINFO, &six, sizeof six);
        return 0;
    }
#if defined(IP_PKTINFO)
    struct in_pktinfo four;
    memset(&four, 0, sizeof four);
    memcpy(&four.ipi_ifindex, &to->via, sizeof to->via); /* an int here, an unsigned there */
    net_put_beside(m, beside, IPPROTO_IP, IP_PKTINFO, &four, sizeof four);
    return 0;
#else
    struct in_addr own;
    int error = ip_is_multicast(to) ? net_address_of(to->via, &own) : 0;
    if (error == 0 && ip_is_multicast(to) && setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &own, sizeof own) < 0)
        error = net_group_error(errno);
    return error;
#endif
}

static int net_send_to(void *ctx, intptr_t socket, const void *buf, size_t len, const datsync_ip *to)
{
    struct sockaddr_storage remote;
    struct iovec piece;
    struct msghdr m;
    net_beside beside;

    (void)ctx;
    memset(&m, 0, sizeof m);
    m.msg_name = &remote;
    m.msg_namelen = ip_to_system(to, &remote);
    if (m.msg_namelen == 0)
        return DATSYNC_E_ADDRESS;
    memcpy(&piece.iov_base, &buf, sizeof buf); /* it is only read */
    piece.iov_len = len;
    m.msg_iov = &piece;
    m.msg_iovlen = 1;
    if (to->via != 0 && (ip_is_multicast(to) || ip_is_link_local(to))) {
        int error = net_put_via((int)socket, &m, &beside, to);
        if (error != 0)
            return error;
    }
    while (sendmsg((int)socket, &m, MSG_NOSIGNAL) < 0) {
        if (errno == ENOBUFS)
            return 0; /* the interface's queue is full: it is lost as others are, and poll would not wait */
        if (errno != EINTR)
            return net_group_error(errno);
    }
    return 0;
}

/* ---------------------------------------------------------------- names ---------------------------------------- */

/* The resolver waits, so it is asked in threads, a few at most, which end when no name is left. A lookup and its thread
 * share nothing with who asked but a pair of sockets: the answer goes through it, and each closes its end when it is
 * done with it. So a handle may be closed at any time, and a process may end. */

typedef struct net_found {
    int32_t result; /* how many, or an error */
    datsync_ip list[OS_LOOKUP_ADDRESSES];
} net_found;

typedef struct net_lookup {
    struct net_lookup *next;
    int fd; /* where the answer goes */
    char host[OS_MAX_HOST];
} net_lookup;

static struct {
    pthread_mutex_t lock;
    net_lookup *first, *last; /* what waits */
    int waiting, threads;
} net_lookups = {PTHREAD_MUTEX_INITIALIZER, NULL, NULL, 0, 0};

/* Each address once, in the resolver's order. */
static void net_find(const char *host, int flags, net_found *found)
{
    struct addrinfo hints, *list = NULL;
    datsync_ip one;
    int count = 0;

    memset(found, 0, sizeof *found); /* what is between the members too: it is sent */
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_DGRAM;
    hints.ai_flags = flags;
    int error = net_resolve_error(getaddrinfo(host, NULL, &hints, &list));
    if (error != 0) {
        found->result = error;
        return;
    }
    for (const struct addrinfo *at = list; at != NULL && count < OS_LOOKUP_ADDRESSES; at = at->ai_next) {
        int known = ip_from_system(at->ai_addr, &one) < 0;
        for (int i = 0; i < count && !known; i++)
            known = memcmp(&found->list[i], &one, sizeof one) == 0;
        if (!known)
            memcpy(&found->list[count++], &one, sizeof one);
    }
    freeaddrinfo(list);
    found->result = count > 0 ? count : DATSYNC_E_ADDRESS;
}

/* Nobody may be there to read it any more. */
static void net_answer(int fd, const net_found *found)
{
    while (send(fd, found, sizeof *found, MSG_NOSIGNAL) < 0 && errno == EINTR) {
    }
    close(fd);
}

static void *net_lookup_thread(void *arg)
{
    net_found found;

    (void)arg;
    for (;;) {
        pthread_mutex_lock(&net_lookups.lock);
        net_lookup *l = net_lookups.first;
        if (l == NULL)
            break;
        net_lookups.first = l->next;
        net_lookups.waiting--;
        pthread_mutex_unlock(&net_lookups.lock);
        net_find(l->host, 0, &found);
        net_answer(l->fd, &found);
        free(l);
    }
    net_lookups.threads--;
    pthread_mutex_unlock(&net_lookups.lock);
    return NULL;
}

/* With all signals kept from it: they are for those who know of them. */
static int net_lookup_begin(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;

    if (pthread_attr_init(&attributes) != 0)
        return DATSYNC_E_NOMEM;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int got = pthread_create(&thread, &attributes, net_lookup_thread, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return got == 0 ? 0 : DATSYNC_E_NOMEM;
}

/* Takes the lookup, unless it returns an error. A thread that can't be had is no matter while there is another. */
static int net_lookup_add(net_lookup *l)
{
    int error = 0;

    pthread_mutex_lock(&net_lookups.lock);
    if (net_lookups.waiting >= OS_LOOKUPS_WAITING) {
        error = DATSYNC_E_AGAIN;
    } else if (net_lookups.threads < OS_LOOKUP_THREADS) {
        error = net_lookup_begin();
        net_lookups.threads += error == 0;
        error = net_lookups.threads > 0 ? 0 : error;
    }
    if (error == 0) {
        if (net_lookups.first == NULL)
            net_lookups.first = l;
        else
            net_lookups.last->next = l;
        net_lookups.last = l;
        net_lookups.waiting++;
    }
    pthread_mutex_unlock(&net_lookups.lock);
    return error;
}

/* What is written in numbers needs no thread. */
static int net_lookup_of(const char *host, int fd)
{
    net_found found;

    net_find(host, AI_NUMERICHOST, &found);
    if (found.result >= 0) {
        net_answer(fd, &found);
        return 0;
    }
    net_lookup *l = malloc(sizeof *l);
    if (l == NULL)
        return DATSYNC_E_NOMEM;
    l->next = NULL;
    l->fd = fd;
    strcpy(l->host, host);
    int error = net_lookup_add(l);
    if (error != 0)
        free(l);
    return error;
}

static int net_resolve_name(void *ctx, const char *host, intptr_t *handle)
{
    int pair[2];

    (void)ctx;
    if (*host == 0 || strlen(host) >= OS_MAX_HOST)
        return DATSYNC_E_ADDRESS;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        return os_error(errno);
    int error = os_prepare(pair[0]);
    if (error == 0)
        error = os_prepare(pair[1]);
    if (error == 0)
        error = net_lookup_of(host, pair[1]);
    if (error != 0) {
        close(pair[0]);
        close(pair[1]);
        return error;
    }
    *handle = pair[0];
    return 0;
}

/* It is only looked at, so that it can be asked for again. */
static int net_resolved(void *ctx, intptr_t handle, datsync_ip *list, size_t cap)
{
    net_found found;
    ssize_t got;

    (void)ctx;
    do {
        got = recv((int)handle, &found, sizeof found, MSG_PEEK);
    } while (got < 0 && errno == EINTR);
    if (got <= 0)
        return got < 0 ? os_error(errno) : DATSYNC_E_IO;
    if (got < (ssize_t)sizeof found)
        return DATSYNC_E_AGAIN;
    for (int i = 0; i < found.result && (size_t)i < cap; i++)
        list[i] = found.list[i];
    return found.result;
}

/* ---------------------------------------------------------------- the network ---------------------------------- */

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
        .shutdown = net_shutdown,
        .datagrams = net_datagrams,
        .receive_from = net_receive_from,
        .send_to = net_send_to,
        .join = net_join,
        .leave = net_leave,
        .interfaces = net_interfaces,
        .resolve = net_resolve_name,
        .resolved = net_resolved,
    };
    return &net;
}

/* ---------------------------------------------------------------- files ---------------------------------------- */

/* Offsets are signed for the OS. */
static int file_range(uint64_t offset, uint64_t len)
{
    return offset > (uint64_t)INT64_MAX || len > (uint64_t)INT64_MAX - offset ? DATSYNC_E_TOO_BIG : 0;
}

static int64_t file_read(int fd, uint64_t offset, void *buf, size_t len)
{
    size_t done = 0;

    int error = file_range(offset, len);
    if (error != 0)
        return error;
    while (done < len) {
        ssize_t got = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));
        if (got == 0)
            break;
        if (got > 0)
            done += (size_t)got;
        else if (errno != EINTR)
            return os_error(errno);
    }
    return (int64_t)done;
}

static int file_write(int fd, uint64_t offset, const void *buf, size_t len)
{
    size_t done = 0;

    int error = file_range(offset, len);
    while (error == 0 && done < len) {
        ssize_t got = pwrite(fd, (const char *)buf + done, len - done, (off_t)(offset + done));
        if (got > 0)
            done += (size_t)got;
        else if (got == 0)
            error = DATSYNC_E_NO_SPACE;
        else if (errno != EINTR)
            error = os_error(errno);
    }
    return error;
}

static int file_truncate(int fd, uint64_t size)
{
    int error = file_range(size, 0);
    while (error == 0 && ftruncate(fd, (off_t)size) < 0)
        if (errno != EINTR)
            error = os_error(errno);
    return error;
}

/* To the medium. What can't be synced (some file systems' folders) says EINVAL: there is nothing to wait for. */
static int file_sync(int fd, int whole)
{
    int got;

    do {
#if defined(F_FULLFSYNC)
        (void)whole;
        got = fcntl(fd, F_FULLFSYNC);
        if (got < 0 && errno != EINTR)
            got = fsync(fd);
#elif defined(_POSIX_SYNCHRONIZED_IO) && _POSIX_SYNCHRONIZED_IO > 0
        got = whole ? fsync(fd) : fdatasync(fd);
#else
        (void)whole;
        got = fsync(fd);
#endif
    } while (got < 0 && errno == EINTR);
    return got < 0 && errno != EINVAL ? os_error(errno) : 0;
}

/* To the device, which may still hold it in a cache of its own; the next file_sync of another file empties that. */
static int file_flush(int fd)
{
    int got;

    do {
        got = fsync(fd);
    } while (got < 0 && errno == EINTR);
    return got < 0 && errno != EINVAL ? os_error(errno) : 0;
}

/* The folder above an open one, so that the name of a new one is on disk. It may be forbidden to read; then there is no
 * way. */
static int file_sync_above(int dir)
{
    int error = 0;

    int above = openat(dir, "..", O_RDONLY | O_CLOEXEC);
    if (above >= 0) {
        error = file_sync(above, 1);
        close(above);
    }
    return error;
}

/* Open a folder, whose name may be a link's. DATSYNC_CREATE makes it, which sets *made. A descriptor or an error. */
static int file_open_folder(const char *dir, unsigned flags, int *made)
{
    *made = 0;
    if ((flags & DATSYNC_CREATE) && !(flags & DATSYNC_READ_ONLY)) {
        if (mkdir(dir, 0777) == 0)
            *made = 1;
        else if (errno != EEXIST)
            return os_error(errno);
    }
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? os_error(errno) : fd;
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

    if (writable)
        fd = folder_openat(f, part, O_RDWR);
    if (!writable || (fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS))) {
        writable = 0;
        fd = folder_openat(f, part, O_RDONLY);
    }
    if (fd < 0)
        return os_error(errno);
    f->fd[part] = fd;
    f->writable[part] = writable;
    return 0;
}

/* The part is open when this returns 0; for writing, it is created. */
static int folder_open(folder *f, int part, int writing)
{
    if (f->fd[part] < 0) {
        int error = folder_open_old(f, part);
        if (error != 0 && (error != DATSYNC_E_NO_ENTRY || !writing))
            return error;
    }
    if (!writing || f->writable[part])
        return 0;
    if (f->flags & DATSYNC_READ_ONLY)
        return DATSYNC_E_READ_ONLY;
    if (f->fd[part] >= 0)
        return DATSYNC_E_ACCESS; /* it opens for reading only */
    int fd = folder_openat(f, part, O_RDWR | O_CREAT);
    if (fd < 0)
        return os_error(errno);
    f->fd[part] = fd;
    f->writable[part] = 1;
    f->grown = 1;
    return 0;
}

static int64_t folder_read(void *ctx, int part, uint64_t offset, void *buf, size_t len)
{
    folder *f = ctx;

    int error = file_range(offset, len);
    if (error == 0)
        error = folder_open(f, part, 0);
    if (error != 0)
        return error == DATSYNC_E_NO_ENTRY ? 0 : error;
    return file_read(f->fd[part], offset, buf, len);
}

static int folder_write(void *ctx, int part, uint64_t offset, const void *buf, size_t len)
{
    folder *f = ctx;

    int error = file_range(offset, len);
    if (error == 0)
        error = folder_open(f, part, 1);
    return error != 0 ? error : file_write(f->fd[part], offset, buf, len);
}

static int64_t folder_size(void *ctx, int part)
{
    folder *f = ctx;
    struct stat status;

    int error = folder_open(f, part, 0);
    if (error != 0)
        return error;
    if (fstat(f->fd[part], &status) < 0)
        return os_error(errno);
    return (int64_t)status.st_size;
}

static int folder_truncate(void *ctx, int part, uint64_t size)
{
    folder *f = ctx;

    int error = file_range(size, 0);
    if (error == 0)
        error = folder_open(f, part, 1);
    return error != 0 ? error : file_truncate(f->fd[part], size);
}

/* A file's name is on disk only when its folder is, and the folder's when its parent is. */
static int folder_sync_names(folder *f)
{
    int error = 0;

    if (f->grown) {
        error = file_sync(f->dir, 1);
        f->grown = error != 0;
    }
    if (error == 0 && f->made) {
        error = file_sync_above(f->dir);
        f->made = error != 0;
    }
    return error;
}

static int folder_sync(void *ctx, int part)
{
    folder *f = ctx;

    /* Also what another process has written: recovery asks for that. */
    int error = folder_open(f, part, 0);
    if (error == DATSYNC_E_NO_ENTRY)
        return 0;
    if (error == 0)
        error = file_sync(f->fd[part], 0);
    return error != 0 ? error : folder_sync_names(f);
}

static int folder_punch(void *ctx, int part, uint64_t offset, uint64_t len)
{
    folder *f = ctx;

    int error = file_range(offset, len);
    if (error != 0 || len == 0 || folder_open(f, part, 0) != 0 || !f->writable[part])
        return error;
#if defined(__linux__) && defined(FALLOC_FL_PUNCH_HOLE)
    while (fallocate(f->fd[part], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) < 0)
        if (errno != EINTR)
            return errno == EOPNOTSUPP || errno == ENOSYS ? 0 : os_error(errno);
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
        folder_open(f, DATSYNC_PART_KEY, 0) == DATSYNC_E_NO_ENTRY)
        return DATSYNC_E_NOT_FOUND;
    int error = folder_open(f, DATSYNC_PART_BITFIELD, 1);
    if (error != 0)
        return error;
#ifdef LOCK_EX
    while (flock(f->fd[DATSYNC_PART_BITFIELD], LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK)
            return DATSYNC_E_LOCKED;
        if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL)
            break; /* a file system without locks */
        if (errno != EINTR)
            return os_error(errno);
    }
#endif
    return 0;
}

static void folder_close(void *ctx)
{
    folder *f = ctx;

    for (int part = 0; part < DATSYNC_PARTS; part++)
        if (f->fd[part] >= 0)
            close(f->fd[part]);
    close(f->dir);
    free(f);
}

int datsync_os_store(datsync_store *out, const char *dir, const char *prefix, unsigned flags)
{
    int made;

    if (prefix == NULL)
        prefix = "";
    if (strlen(prefix) > OS_MAX_PREFIX)
        return DATSYNC_E_INVALID;
    int fd = file_open_folder(dir, flags, &made);
    if (fd < 0)
        return fd;
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
    for (int part = 0; part < DATSYNC_PARTS; part++)
        f->fd[part] = -1;
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

/* ---------------------------------------------------------------- trees ---------------------------------------- */

/* Each folder on the way is opened by its name in the one above, and no open follows a link: whatever others do to the
 * folders meanwhile, all that is reached was a folder or file beneath the root, by names alone. */
/* A folder that is kept open. */
typedef struct kept {
    int fd; /* -1: none */
    dev_t device;
    ino_t inode;
    int changed;         /* a name in it is new or gone */
    uint64_t used, seen; /* seen: when it was last found at its path, in ms */
    size_t len;
    char path[DATSYNC_MAX_PATH + 1];
} kept;

typedef struct files {
    int root;
    unsigned flags; /* enum datsync_feed_flags */
    int made;       /* the root is new: its parent is to be synced */
    dev_t device;   /* the root's */
    kept kept[OS_KEEP];
    uint64_t clock;
    /* Nothing syncs all of it at once: a file is synced when it is closed, a folder when it is no longer kept. */
    int each;
    int failed;    /* the first of these syncs that failed: whether the bytes got there will never be known */
    int *writable; /* the files that are open for writing */
    size_t writable_count, writable_cap;
} files;

static const struct {
    int number, error;
} files_errors[] = {
    {ENAMETOOLONG, DATSYNC_E_NAME}, {EILSEQ, DATSYNC_E_NAME},        {EINVAL, DATSYNC_E_NAME},
    {ELOOP, DATSYNC_E_LINK},        {ENOTDIR, DATSYNC_E_NOT_FOLDER}, {EISDIR, DATSYNC_E_IS_FOLDER},
    {ENOTEMPTY, DATSYNC_E_STATE},   {EEXIST, DATSYNC_E_STATE},       {EBUSY, DATSYNC_E_BUSY},
    {ETXTBSY, DATSYNC_E_BUSY},      {EAGAIN, DATSYNC_E_BUSY},
};

/* For the calls that take a name. */
static int files_error(int number)
{
    for (size_t i = 0; i < sizeof files_errors / sizeof files_errors[0]; i++)
        if (files_errors[i].number == number)
            return files_errors[i].error;
    return os_error(number);
}

/* 0 if this is a thing of that type, S_IFREG or S_IFDIR. */
static int files_want(mode_t mode, mode_t type)
{
    if ((mode & S_IFMT) == type)
        return 0;
    return S_ISDIR(mode) ? DATSYNC_E_IS_FOLDER : S_ISREG(mode) ? DATSYNC_E_NOT_FOLDER : DATSYNC_E_LINK;
}

static int files_look(int dir, const char *name, struct stat *out)
{
    return fstatat(dir, name, out, AT_SYMLINK_NOFOLLOW) < 0 ? files_error(errno) : 0;
}

/* Why a call failed that needs a thing of that type: systems differ much in what they say of links and devices. */
static int files_why(int dir, const char *name, mode_t type, int number)
{
    struct stat status;

    int error = files_look(dir, name, &status) == 0 ? files_want(status.st_mode, type) : 0;
    return error != 0 ? error : files_error(number);
}

/* Never waits: not for the other end of a pipe, nor for a device. */
static int files_openat(int dir, const char *name, int flags)
{
    int fd;

    do {
        fd = openat(dir, name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0666);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* Where the folder's part of a path ends, and the last name. What could lead out of the root is refused here too. */
static int files_split(const char *path, size_t *folder_len, const char **name)
{
    const char *at = path;

    if (strlen(path) > DATSYNC_MAX_PATH)
        return DATSYNC_E_NAME;
    for (;;) {
        size_t len = strcspn(at, "/");
        if (len == 0 || (at[0] == '.' && (len == 1 || (len == 2 && at[1] == '.'))))
            return DATSYNC_E_INVALID;
        if (at[len] == 0)
            break;
        at += len + 1;
    }
    *folder_len = at == path ? 0 : (size_t)(at - path) - 1;
    *name = at;
    return 0;
}

/* Open the folder path[0..len), which is not the root. A descriptor or an error. */
static int files_walk(const files *t, const char *path, size_t len)
{
    char name[DATSYNC_MAX_PATH + 1];
    int fd = t->root;

    for (size_t at = 0; at < len;) {
        size_t end = at;
        while (end < len && path[end] != '/')
            end++;
        memcpy(name, path + at, end - at);
        name[end - at] = 0;
        int next = files_openat(fd, name, OS_WALK | O_DIRECTORY);
        int error = next < 0 ? files_why(fd, name, S_IFDIR, errno) : 0;
        if (fd != t->root)
            close(fd);
        if (error != 0)
            return error;
        fd = next;
        at = end + 1;
    }
    return fd;
}

static void files_synced(files *t, int error)
{
    t->failed = t->failed != 0 ? t->failed : error;
}

static void files_sync_folder(files *t, int dir)
{
    int fd = openat(dir, ".", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) { /* else it is forbidden to read, and there is no way */
        files_synced(t, file_flush(fd));
        close(fd);
    }
}

/* Let go of a folder. */
static void files_leave(files *t, kept *k)
{
    if (k->fd >= 0) {
        if (t->each && k->changed)
            files_sync_folder(t, k->fd);
        close(k->fd);
    }
    k->fd = -1;
    k->changed = 0;
}

/* The kept folder is path[0..len), still: with nothing but folders on the way there, and itself at its end. (Its
 * inode's number can't have been given to another: the open folder has it.) */
static int files_is_kept(const files *t, kept *k, const char *path, size_t len)
{
    struct stat status;
    unsigned depth = 0;

    if (k->fd < 0 || len != k->len || memcmp(path, k->path, len) != 0)
        return 0;
    uint64_t now = datsync_os_clock(NULL);
    if (k->seen != 0 && now - k->seen < OS_KEEP_MS)
        return 1;
    for (size_t at = 0; at <= len; at++) {
        if (at == len || path[at] == '/') {
            k->path[at] = 0;
            int error = ++depth > OS_KEEP_DEPTH ? DATSYNC_E_TOO_BIG : files_look(t->root, k->path, &status);
            k->path[at] = path[at];
            if (error != 0 || !S_ISDIR(status.st_mode))
                return 0;
        }
    }
    k->seen = status.st_dev == k->device && status.st_ino == k->inode ? now : 0;
    return k->seen != 0;
}

/* What is at this path, or beneath it, is moved or removed: look at it again. */
static void files_doubt(files *t, const char *path)
{
    size_t len = strlen(path);

    for (int i = 0; i < OS_KEEP; i++) {
        kept *k = &t->kept[i];
        if (k->fd >= 0 && k->len >= len && memcmp(k->path, path, len) == 0 && (k->len == len || k->path[len] == '/'))
            k->seen = 0;
    }
}

/* Open the folder path[0..len) and keep it in the place of k. */
static int files_keep(files *t, kept *k, const char *path, size_t len)
{
    struct stat status;

    files_leave(t, k);
    int fd = files_walk(t, path, len);
    if (fd < 0)
        return fd;
    if (fstat(fd, &status) < 0) {
        int error = os_error(errno);
        close(fd);
        return error;
    }
    if (status.st_dev != t->device)
        t->each = 1; /* another file system is mounted there */
    k->fd = fd;
    k->device = status.st_dev;
    k->inode = status.st_ino;
    k->seen = 0;
    k->len = len;
    memcpy(k->path, path, len);
    return 0;
}

/* The folder that path is in, which stays open until OS_KEEP others were entered, and its last name. `writing`:
 * names in it are going to change. A descriptor or an error. */
static int files_enter(files *t, const char *path, int writing, const char **name)
{
    kept *k = &t->kept[0], *found = NULL;
    size_t len;

    if (writing && (t->flags & DATSYNC_READ_ONLY))
        return DATSYNC_E_READ_ONLY;
    int error = files_split(path, &len, name);
    if (error != 0 || len == 0)
        return error != 0 ? error : t->root;
    for (int i = 0; i < OS_KEEP && found == NULL; i++) {
        found = files_is_kept(t, &t->kept[i], path, len) ? &t->kept[i] : NULL;
        k = t->kept[i].used < k->used ? &t->kept[i] : k;
    }
    if (found == NULL) {
        error = files_keep(t, k, path, len);
        if (error != 0)
            return error;
        found = k;
    }
    found->used = ++t->clock;
    found->changed |= writing;
    return found->fd;
}

static int files_open_file(void *ctx, const char *path, int writing, intptr_t *file)
{
    files *t = ctx;
    struct stat status;
    const char *name;

    int dir = files_enter(t, path, writing, &name);
    if (dir < 0)
        return dir;
    if (writing && t->each && t->writable_count == t->writable_cap) {
        size_t cap = 2 * t->writable_cap + 8;
        int *more = realloc(t->writable, cap * sizeof *more);
        if (more == NULL)
            return DATSYNC_E_NOMEM;
        t->writable = more;
        t->writable_cap = cap;
    }
    int fd = files_openat(dir, name, writing ? O_RDWR | O_CREAT : O_RDONLY);
    if (fd < 0)
        return files_why(dir, name, S_IFREG, errno);
    int error = fstat(fd, &status) < 0 ? os_error(errno) : files_want(status.st_mode, S_IFREG);
    if (error != 0) {
        close(fd);
        return error;
    }
    if (writing && t->each)
        t->writable[t->writable_count++] = fd;
    *file = fd;
    return 0;
}

static int64_t files_read(void *ctx, intptr_t file, uint64_t offset, void *buf, size_t len)
{
    (void)ctx;
    return file_read((int)file, offset, buf, len);
}

static int files_write(void *ctx, intptr_t file, uint64_t offset, const void *buf, size_t len)
{
    files *t = ctx;

    return t->flags & DATSYNC_READ_ONLY ? DATSYNC_E_READ_ONLY : file_write((int)file, offset, buf, len);
}

static int files_truncate(void *ctx, intptr_t file, uint64_t size)
{
    files *t = ctx;

    return t->flags & DATSYNC_READ_ONLY ? DATSYNC_E_READ_ONLY : file_truncate((int)file, size);
}

static void files_close_file(void *ctx, intptr_t file)
{
    files *t = ctx;

    for (size_t i = 0; i < t->writable_count; i++) {
        if (t->writable[i] == (int)file) {
            files_synced(t, file_flush((int)file));
            t->writable[i] = t->writable[--t->writable_count];
            break;
        }
    }
    close((int)file);
}

static int files_stat(void *ctx, const char *path, datsync_file_info *out)
{
    files *t = ctx;
    struct stat status;
    const char *name;

    if (*path == 0) {
        if (fstat(t->root, &status) < 0)
            return os_error(errno);
    } else {
        int dir = files_enter(t, path, 0, &name);
        int error = dir < 0 ? dir : files_look(dir, name, &status);
        if (error != 0)
            return error;
    }
    memset(out, 0, sizeof *out);
    out->mode = S_ISREG(status.st_mode) ? 0100000 : S_ISDIR(status.st_mode) ? 0040000 : 0;
    if (S_ISLNK(status.st_mode))
        out->mode = 0120000;
    out->mode |= (uint32_t)(status.st_mode & 07777);
    out->size = S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0;
    if (status.OS_MTIME.tv_sec >= 0) {
        uint64_t seconds = (uint64_t)status.OS_MTIME.tv_sec;
        out->mtime =
            seconds > UINT64_MAX / 1000 - 1 ? UINT64_MAX : seconds * 1000 + (uint64_t)status.OS_MTIME.tv_nsec / 1000000;
    }
    return 0;
}

static int files_list(void *ctx, const char *path, int (*fn)(void *arg, const char *name), void *arg)
{
    files *t = ctx;
    const char *name = ".";
    struct dirent *entry;
    int got = 0;

    int dir = *path == 0 ? t->root : files_enter(t, path, 0, &name);
    if (dir < 0)
        return dir;
    int fd = files_openat(dir, name, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return files_why(dir, name, S_IFDIR, errno);
    DIR *list = fdopendir(fd);
    if (list == NULL) {
        got = os_error(errno);
        close(fd);
        return got;
    }
    while (got == 0) {
        errno = 0;
        entry = readdir(list);
        if (entry == NULL) {
            got = errno != 0 ? os_error(errno) : 0;
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            got = fn(arg, entry->d_name);
    }
    closedir(list);
    return got;
}

static int files_mkdir(void *ctx, const char *path)
{
    files *t = ctx;
    struct stat status;
    const char *name;

    int dir = files_enter(t, path, 1, &name);
    if (dir < 0)
        return dir;
    if (mkdirat(dir, name, 0777) == 0)
        return 0;
    int error = files_error(errno);
    return files_look(dir, name, &status) == 0 ? files_want(status.st_mode, S_IFDIR) : error;
}

/* A file gives way to what is renamed, a link is left where it is, as a folder is. */
static int files_rename(void *ctx, const char *from, const char *to)
{
    files *t = ctx;
    struct stat status;
    const char *name, *new_name;

    int dir = files_enter(t, to, 1, &new_name);
    if (dir < 0)
        return dir;
    int error = files_look(dir, new_name, &status);
    if (error == 0)
        error = files_want(status.st_mode, S_IFREG);
    else if (error == DATSYNC_E_NO_ENTRY)
        error = 0;
    if (error != 0)
        return error;
    int old = files_enter(t, from, 1, &name);
    if (old < 0)
        return old;
    files_doubt(t, from);
    return renameat(old, name, dir, new_name) < 0 ? files_error(errno) : 0;
}

static int files_remove(files *t, const char *path, mode_t type)
{
    struct stat status;
    const char *name;

    int dir = files_enter(t, path, 1, &name);
    int error = dir < 0 ? dir : files_look(dir, name, &status);
    if (error == 0)
        error = files_want(status.st_mode, type);
    files_doubt(t, path);
    if (error == 0 && unlinkat(dir, name, type == S_IFDIR ? AT_REMOVEDIR : 0) < 0)
        error = files_why(dir, name, type, errno);
    return error;
}

static int files_unlink(void *ctx, const char *path)
{
    return files_remove(ctx, path, S_IFREG);
}

static int files_rmdir(void *ctx, const char *path)
{
    return files_remove(ctx, path, S_IFDIR);
}

/* By the name, where the thing may not be opened. */
static int files_set_closed(int dir, const char *name, mode_t mode, const struct timespec times[2])
{
    if (fchmodat(dir, name, mode, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL ? DATSYNC_E_ACCESS : files_error(errno);
    return utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) < 0 ? files_error(errno) : 0;
}

/* Of a folder, the bits above the lowest 9 stay: they say what is made in it. */
static int files_set(void *ctx, const char *path, uint32_t mode, uint64_t mtime)
{
    files *t = ctx;
    struct timespec times[2];
    struct stat status;
    const char *name;

    if (t->flags & DATSYNC_READ_ONLY)
        return DATSYNC_E_READ_ONLY;
    memset(times, 0, sizeof times);
    times[0].tv_nsec = UTIME_OMIT;
    times[1].tv_sec = (time_t)(mtime / 1000);
    times[1].tv_nsec = (long)(mtime % 1000 * 1000000);
    if (times[1].tv_sec < 0 || (uint64_t)times[1].tv_sec != mtime / 1000)
        times[1].tv_sec = INT32_MAX; /* as file systems do with a time that they can't hold */
    int dir = files_enter(t, path, 0, &name);
    int error = dir < 0 ? dir : files_look(dir, name, &status);
    if (error != 0)
        return error;
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode))
        return DATSYNC_E_LINK;
    mode_t type = status.st_mode & S_IFMT;
    mode_t bits = (mode_t)((mode & 0777) | (S_ISDIR(status.st_mode) ? status.st_mode & 07000 : 0));
    int fd = files_openat(dir, name, O_RDONLY);
    if (fd < 0)
        return errno == EACCES ? files_set_closed(dir, name, bits, times) : files_why(dir, name, type, errno);
    error = fstat(fd, &status) < 0 ? os_error(errno) : files_want(status.st_mode, type);
    if (error == 0 && (fchmod(fd, bits) < 0 || futimens(fd, times) < 0))
        error = os_error(errno);
    if (error == 0 && t->each)
        files_synced(t, file_flush(fd));
    close(fd);
    return error;
}

static int files_sync(void *ctx)
{
    files *t = ctx;

    if (t->flags & DATSYNC_READ_ONLY)
        return 0;
#if defined(__linux__)
    while (syncfs(t->root) < 0)
        if (errno != EINTR)
            return os_error(errno);
#endif
    if (!t->each)
        return 0;
    for (size_t i = 0; i < t->writable_count; i++)
        files_synced(t, file_flush(t->writable[i]));
    for (int i = 0; i < OS_KEEP; i++) {
        if (t->kept[i].fd >= 0 && t->kept[i].changed) {
            files_sync_folder(t, t->kept[i].fd);
            t->kept[i].changed = 0;
        }
    }
    if (t->made) {
        files_synced(t, file_sync_above(t->root));
        t->made = 0;
    }
    files_synced(t, file_sync(t->root, 1)); /* this one as far as the medium, and with it all before */
    return t->failed;
}

static void files_free(void *ctx)
{
    files *t = ctx;

    for (int i = 0; i < OS_KEEP; i++)
        files_leave(t, &t->kept[i]);
    close(t->root);
    free(t->writable);
    free(t);
}

int datsync_os_files(datsync_files *out, const char *dir, unsigned flags)
{
    struct stat status;
    int made;

    memset(out, 0, sizeof *out);
    int fd = file_open_folder(dir, flags, &made);
    if (fd < 0)
        return errno == ENOTDIR ? DATSYNC_E_NOT_FOLDER : fd;
    int error = fstat(fd, &status) < 0 ? os_error(errno) : 0;
    files *t = error == 0 ? malloc(sizeof *t) : NULL;
    if (t == NULL) {
        close(fd);
        return error != 0 ? error : DATSYNC_E_NOMEM;
    }
    memset(t, 0, sizeof *t);
    t->root = fd;
    t->flags = flags;
    t->made = made;
    t->device = status.st_dev;
    for (int i = 0; i < OS_KEEP; i++)
        t->kept[i].fd = -1;
#if !defined(__linux__)
    t->each = 1;
#endif
#if defined(_PC_CASE_SENSITIVE)
    out->case_folds = fpathconf(fd, _PC_CASE_SENSITIVE) == 0;
#endif
    out->ctx = t;
    out->open_file = files_open_file;
    out->read = files_read;
    out->write = files_write;
    out->truncate = files_truncate;
    out->close_file = files_close_file;
    out->stat = files_stat;
    out->list = files_list;
    out->mkdir = files_mkdir;
    out->rename = files_rename;
    out->unlink = files_unlink;
    out->rmdir = files_rmdir;
    out->set = files_set;
    out->sync = files_sync;
    out->close = files_free;
    return 0;
}

/* ---------------------------------------------------------------- secret keys ---------------------------------- */

#define SECRET_SIZE 64
/* `/`, 2 digits, `/`, 62 digits and what mkstemp replaces. */
#define SECRET_NAME (1 + 2 + 1 + 62 + 7)

typedef struct secrets {
    size_t len;  /* of the folder's name */
    char path[]; /* twice with room for SECRET_NAME and a NUL: the file's name, and a temporary one */
} secrets;

/* DIR/<2 digits>/<62 digits>; where `/<62 digits>` begins is returned. */
static char *secrets_path(secrets *s, const uint8_t key[32])
{
    static const char digits[] = "0123456789abcdef";
    char *at = s->path + s->len;

    *at++ = '/';
    for (size_t i = 0; i < 32; i++) {
        *at++ = digits[key[i] >> 4];
        *at++ = digits[key[i] & 15];
        if (i == 0)
            *at++ = '/';
    }
    *at = 0;
    return s->path + s->len + 3;
}

/* A link on the way is the user's own. */
static int secrets_load(void *ctx, const uint8_t discovery_key[32], uint8_t secret_key[64])
{
    secrets *s = ctx;
    struct stat status;

    secrets_path(s, discovery_key);
    int fd = open(s->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return errno == ENOENT ? DATSYNC_E_NOT_FOUND : os_error(errno);
    int64_t got = fstat(fd, &status) < 0 ? os_error(errno) : 0;
    if (got == 0)
        got = S_ISREG(status.st_mode) && status.st_size == SECRET_SIZE ? file_read(fd, 0, secret_key, SECRET_SIZE) : 0;
    close(fd);
    if (got == 0 && S_ISREG(status.st_mode) && status.st_size == 0) {
        /* Old versions of the deployed implementation made files before they had what goes into them. */
        return DATSYNC_E_NOT_FOUND;
    }
    if (got != SECRET_SIZE) {
        memset(secret_key, 0, SECRET_SIZE);
        return got < 0 ? (int)got : DATSYNC_E_KEY;
    }
    return 0;
}

/* Sync a folder, or the one above it. */
static int secrets_sync(const char *path, int above)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return os_error(errno);
    int error = above ? file_sync_above(fd) : file_sync(fd, 1);
    close(fd);
    return error;
}

/* Make a folder, and those above it that are not there. */
static int secrets_mkdir(char *path)
{
    char *slash = strrchr(path, '/');

    int got = mkdir(path, 0700);
    if (got < 0 && errno == ENOENT && slash != NULL && slash != path) {
        *slash = 0;
        int error = secrets_mkdir(path);
        *slash = '/';
        if (error != 0)
            return error;
        got = mkdir(path, 0700);
    }
    if (got < 0)
        return errno == EEXIST ? 0 : os_error(errno);
    return secrets_sync(path, 1);
}

static int secrets_save(void *ctx, const uint8_t discovery_key[32], const uint8_t secret_key[64])
{
    secrets *s = ctx;
    char *name = secrets_path(s, discovery_key);
    char *other = s->path + s->len + SECRET_NAME + 1;

    *name = 0;
    int error = secrets_mkdir(s->path);
    *name = '/';
    if (error != 0)
        return error;
    strcpy(other, s->path);
    strcat(other, ".XXXXXX");
    int fd = mkstemp(other);
    if (fd < 0)
        return os_error(errno);
    error = fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fchmod(fd, 0600) < 0 ? os_error(errno) : 0;
    if (error == 0)
        error = file_write(fd, 0, secret_key, SECRET_SIZE);
    if (error == 0)
        error = file_sync(fd, 1);
    if (close(fd) < 0 && error == 0)
        error = os_error(errno);
    if (error == 0 && rename(other, s->path) < 0)
        error = os_error(errno);
    if (error != 0) {
        unlink(other);
        return error;
    }
    *name = 0;
    return secrets_sync(s->path, 0);
}

static void secrets_close(void *ctx)
{
    free(ctx);
}

int datsync_os_home(char *out, size_t cap)
{
    const char *home = getenv("HOME");
    char line[OS_MAX_PASSWD];
    struct passwd entry, *found = NULL;

    if ((home == NULL || *home == 0) && getpwuid_r(getuid(), &entry, line, sizeof line, &found) == 0 && found != NULL)
        home = found->pw_dir;
    if (home == NULL || *home == 0)
        return DATSYNC_E_NO_ENTRY;
    if (strlen(home) >= cap)
        return DATSYNC_E_SPACE;
    strcpy(out, home);
    return 0;
}

int datsync_os_secrets(datsync_secrets *out, const char *dir)
{
    char home[DATSYNC_MAX_PATH];
    const char *tail = "";

    memset(out, 0, sizeof *out);
    if (dir == NULL) {
        int error = datsync_os_home(home, sizeof home);
        if (error < 0)
            return error;
        dir = home;
        tail = "/.dat/secret_keys";
    }
    if (*dir == 0)
        return DATSYNC_E_NO_ENTRY;
    size_t len = strlen(dir) + strlen(tail);
    secrets *s = malloc(sizeof *s + 2 * (len + SECRET_NAME + 1));
    if (s == NULL)
        return DATSYNC_E_NOMEM;
    s->len = len;
    strcpy(s->path, dir);
    strcat(s->path, tail);
    out->ctx = s;
    out->load = secrets_load;
    out->save = secrets_save;
    out->close = secrets_close;
    return 0;
}
