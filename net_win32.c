/* datsync on Windows: streams, poll, folders, clock, Ctrl-C, terminal. The only file that knows this OS; it is
 * handed to datsync.c by name (see the end of datsync.h).
 *
 * SPDX-License-Identifier: MIT
 *
 * Windows Vista and later. Link ws2_32, iphlpapi, ntdll and shell32. All names are UTF-8 outside and UTF-16 inside; no
 * path is limited to MAX_PATH. There are no Unix sockets here.
 *
 * What differs from POSIX: permissions are not kept (a file is 0644, a folder 0755); every reparse point counts as a
 * symbolic link; names that Windows takes for others (`a.`, `con`, `a:b`, `LONGNA~1`) are refused; a folder cannot be
 * synced, names are as durable as the journal of NTFS makes them.
 */
#if !defined(_WIN32_WINNT)
#define _WIN32_WINNT 0x0600
#endif
#define WIN32_LEAN_AND_MEAN

#include <winsock2.h>
#include <ws2tcpip.h>

#include <windows.h>
#include <iphlpapi.h>
#include <mswsock.h>
#include <winioctl.h>
#include <winternl.h>

#include <fcntl.h>
#include <io.h>
#include <shellapi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "datsync.h"

/* Descriptors that poll takes without an allocation. */
#define OS_POLL_FEW 128
/* Connections that wait for accept. */
#define OS_BACKLOG 128
/* How long connect looks at one of a host's addresses before it tries the next one beside it (RFC 8305). */
#define OS_NEXT_ADDRESS_MS 250
/* How often connections that have begun are looked at: before Windows 10 2004, WSAPoll never tells that one failed. */
#define OS_CONNECT_LOOK_MS 100
/* Names are looked up in so many threads at once: most of them only wait. So many more names wait for one of these,
 * more than a program has of servers. Of what a name's owner says, so many addresses count. */
#define OS_LOOKUP_THREADS 4
#define OS_LOOKUPS_WAITING 256
#define OS_LOOKUP_ADDRESSES 16
/* Bytes for all that is told of the interfaces, at first and at most. */
#define OS_INTERFACES_ROOM 16384u
#define OS_INTERFACES_MOST 1048576u
/* Bytes of a host name in an address, and of a prefix of file names. */
#define OS_MAX_HOST 256
#define OS_MAX_PREFIX 200
/* UTF-16 units of a name in a folder, as NTFS has it. */
#define OS_MAX_NAME 255
/* One ReadFile or WriteFile takes no more. */
#define OS_MAX_PIECE 0x40000000u

/* ---------------------------------------------------------------- errors --------------------------------------- */

static const struct {
    DWORD number;
    int error;
} os_errors[] = {
    {WSAEADDRINUSE, DATSYNC_E_IN_USE},
    {WSAEACCES, DATSYNC_E_IN_USE}, /* bind: another has the port for itself */
    {WSAECONNREFUSED, DATSYNC_E_REFUSED},
    {WSAECONNRESET, DATSYNC_E_CLOSED},
    {WSAECONNABORTED, DATSYNC_E_CLOSED},
    {WSAENETRESET, DATSYNC_E_CLOSED},
    {WSAESHUTDOWN, DATSYNC_E_CLOSED},
    {WSAENOTCONN, DATSYNC_E_CLOSED},
    {WSAEDISCON, DATSYNC_E_CLOSED},
    {WSAENETUNREACH, DATSYNC_E_UNREACHABLE},
    {WSAEHOSTUNREACH, DATSYNC_E_UNREACHABLE},
    {WSAENETDOWN, DATSYNC_E_UNREACHABLE},
    {WSAETIMEDOUT, DATSYNC_E_UNREACHABLE},
    {WSAEADDRNOTAVAIL, DATSYNC_E_ADDRESS},
    {WSAEAFNOSUPPORT, DATSYNC_E_ADDRESS},
    {WSAEWOULDBLOCK, DATSYNC_E_AGAIN},
    {WSAENOBUFS, DATSYNC_E_NOMEM},
    {WSAEMSGSIZE, DATSYNC_E_TOO_BIG},
    {ERROR_NOT_ENOUGH_MEMORY, DATSYNC_E_NOMEM},
    {ERROR_OUTOFMEMORY, DATSYNC_E_NOMEM},
    {ERROR_NO_SYSTEM_RESOURCES, DATSYNC_E_NOMEM},
    {ERROR_DISK_FULL, DATSYNC_E_NO_SPACE},
    {ERROR_HANDLE_DISK_FULL, DATSYNC_E_NO_SPACE},
    {1295, DATSYNC_E_NO_SPACE}, /* ERROR_DISK_QUOTA_EXCEEDED, not in all headers */
    {ERROR_FILE_TOO_LARGE, DATSYNC_E_NO_SPACE},
    {ERROR_ACCESS_DENIED, DATSYNC_E_ACCESS},
    {ERROR_WRITE_PROTECT, DATSYNC_E_ACCESS},
    {ERROR_PRIVILEGE_NOT_HELD, DATSYNC_E_ACCESS},
    {ERROR_FILE_NOT_FOUND, DATSYNC_E_NO_ENTRY},
    {ERROR_PATH_NOT_FOUND, DATSYNC_E_NO_ENTRY},
    {ERROR_BAD_PATHNAME, DATSYNC_E_NAME},
    {ERROR_INVALID_NAME, DATSYNC_E_NAME},
    {ERROR_FILENAME_EXCED_RANGE, DATSYNC_E_NAME},
    {ERROR_NO_UNICODE_TRANSLATION, DATSYNC_E_NAME},
    {ERROR_DIRECTORY, DATSYNC_E_NOT_FOLDER},
    {ERROR_DIR_NOT_EMPTY, DATSYNC_E_STATE},
    {ERROR_ALREADY_EXISTS, DATSYNC_E_STATE},
    {ERROR_FILE_EXISTS, DATSYNC_E_STATE},
    {ERROR_SHARING_VIOLATION, DATSYNC_E_BUSY},
    {ERROR_USER_MAPPED_FILE, DATSYNC_E_BUSY},
    {ERROR_LOCK_VIOLATION, DATSYNC_E_LOCKED},
    {ERROR_CANT_ACCESS_FILE, DATSYNC_E_LINK},
    {681, DATSYNC_E_LINK}, /* ERROR_STOPPED_ON_SYMLINK */
};

/* Everything that isn't in the table is DATSYNC_E_IO; GetLastError keeps the number. */
static int os_error(DWORD number)
{
    for (size_t i = 0; i < sizeof os_errors / sizeof os_errors[0]; i++)
        if (os_errors[i].number == number)
            return os_errors[i].error;
    return DATSYNC_E_IO;
}

static int os_last_error(void)
{
    return os_error(GetLastError());
}

static int os_socket_error(void)
{
    return os_error((DWORD)WSAGetLastError());
}

/* ---------------------------------------------------------------- Ctrl-C --------------------------------------- */

/* The handler runs in a thread of its own, and has no other way to reach the program than a static object; the only
 * other one has the names that wait for a thread. WSAPoll waits for sockets only, so what wakes it is one: it is
 * connected to itself. */
static struct {
    volatile LONG number;
    volatile LONG reading; /* datsync_os_input waits */
    int hooked;
    HANDLE reader; /* the thread that called datsync_os_signals */
    SOCKET wake;
} os_signal;

static BOOL WINAPI os_on_event(DWORD event)
{
    int ends = event != CTRL_C_EVENT && event != CTRL_BREAK_EVENT;

    InterlockedExchange(&os_signal.number, ends ? SIGTERM : SIGINT);
    send(os_signal.wake, "", 1, 0);
    while (InterlockedCompareExchange(&os_signal.reading, 0, 0) != 0) {
        CancelSynchronousIo(os_signal.reader); /* it may be about to read */
        Sleep(10);
    }
    if (ends)
        Sleep(INFINITE); /* Windows ends the process when this returns, or soon: until then it may end by itself */
    return TRUE;
}

static void net_start(void)
{
    WSADATA data;

    WSAStartup(MAKEWORD(2, 2), &data); /* counted; given back at the process' end */
}

/* Non-blocking and closed in programs that this one starts. */
static int net_prepare(SOCKET socket)
{
    u_long on = 1;

    SetHandleInformation((HANDLE)socket, HANDLE_FLAG_INHERIT, 0);
    return ioctlsocket(socket, (long)FIONBIO, &on) != 0 ? os_socket_error() : 0;
}

int datsync_os_signals(void)
{
    struct sockaddr_in own;
    int len = sizeof own;

    if (os_signal.hooked)
        return DATSYNC_E_STATE;
    net_start();
    memset(&own, 0, sizeof own);
    own.sin_family = AF_INET;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    SOCKET wake = socket(AF_INET, SOCK_DGRAM, 0);
    if (wake == INVALID_SOCKET)
        return os_socket_error();
    int error = net_prepare(wake);
    if (error == 0 && (bind(wake, (const struct sockaddr *)&own, sizeof own) != 0 ||
                       getsockname(wake, (struct sockaddr *)&own, &len) != 0 ||
                       connect(wake, (const struct sockaddr *)&own, sizeof own) != 0))
        error = os_socket_error();
    os_signal.wake = wake;
    if (error == 0 && (!DuplicateHandle(GetCurrentProcess(), GetCurrentThread(), GetCurrentProcess(), &os_signal.reader,
                                        0, FALSE, DUPLICATE_SAME_ACCESS) ||
                       !SetConsoleCtrlHandler(os_on_event, TRUE)))
        error = os_last_error();
    if (error != 0) {
        closesocket(wake);
        return error;
    }
    os_signal.hooked = 1;
    return 0;
}

int datsync_os_stopped(void *ctx)
{
    (void)ctx;
    return (int)os_signal.number;
}

int64_t datsync_os_input(void *buf, size_t len)
{
    HANDLE in = GetStdHandle(STD_INPUT_HANDLE);
    DWORD got = 0, why = 0;

    InterlockedExchange(&os_signal.reading, 1);
    BOOL done = os_signal.number == 0 && ReadFile(in, buf, len > OS_MAX_PIECE ? OS_MAX_PIECE : (DWORD)len, &got, NULL);
    why = done ? 0 : GetLastError();
    InterlockedExchange(&os_signal.reading, 0);
    if (done && got == 0 && GetFileType(in) == FILE_TYPE_CHAR)
        Sleep(50); /* Ctrl-C ends a console's read as its end does, and the handler's thread begins just now */
    if (os_signal.number != 0)
        return DATSYNC_E_AGAIN;
    if (done)
        return (int64_t)got;
    return why == ERROR_BROKEN_PIPE || why == ERROR_HANDLE_EOF ? 0 : os_error(why);
}

/* ---------------------------------------------------------------- clock, terminal, words ----------------------- */

uint64_t datsync_os_clock(void *ctx)
{
    LARGE_INTEGER count, each;

    (void)ctx;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&each);
    uint64_t n = (uint64_t)count.QuadPart, f = (uint64_t)each.QuadPart;
    return n / f * 1000u + n % f * 1000u / f;
}

int datsync_os_terminal(void)
{
    HANDLE err = GetStdHandle(STD_ERROR_HANDLE);
    CONSOLE_SCREEN_BUFFER_INFO info;
    DWORD mode;

    if (!GetConsoleMode(err, &mode) || !GetConsoleScreenBufferInfo(err, &info))
        return 0;
    /* 4: ENABLE_VIRTUAL_TERMINAL_PROCESSING. Before Windows 10 there is none, and a status line would be noise. */
    return SetConsoleMode(err, mode | 4u) ? info.srWindow.Right - info.srWindow.Left + 1 : 0;
}

/* The same in UTF-16, from malloc; NULL: it is no UTF-8, or no memory (GetLastError tells). `more`: units that are left
 * free behind it. */
static wchar_t *os_wide(const char *text, size_t more)
{
    int units = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, NULL, 0);
    if (units <= 0)
        return NULL;
    wchar_t *out = malloc(((size_t)units + more) * sizeof *out);
    if (out == NULL) {
        SetLastError(ERROR_NOT_ENOUGH_MEMORY);
        return NULL;
    }
    MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, out, units);
    return out;
}

static char *os_utf8(const wchar_t *text)
{
    int bytes = WideCharToMultiByte(CP_UTF8, 0, text, -1, NULL, 0, NULL, NULL);
    char *out = bytes > 0 ? malloc((size_t)bytes) : NULL;
    if (out != NULL)
        WideCharToMultiByte(CP_UTF8, 0, text, -1, out, bytes, NULL, NULL);
    return out;
}

int datsync_os_main(int *argc, char ***argv)
{
    int count;

    _setmode(0, _O_BINARY);
    _setmode(1, _O_BINARY);
    _setmode(2, _O_BINARY);
    SetConsoleOutputCP(CP_UTF8);
    wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), &count);
    char **words = wide != NULL ? calloc((size_t)count + 1, sizeof *words) : NULL;
    if (words == NULL)
        return DATSYNC_E_NOMEM;
    for (int i = 0; i < count; i++) {
        words[i] = os_utf8(wide[i]);
        if (words[i] == NULL)
            return DATSYNC_E_NOMEM;
    }
    LocalFree(wide);
    *argc = count;
    *argv = words;
    return 0;
}

void *datsync_os_fopen(const char *path)
{
    wchar_t *wide = os_wide(path, 0);
    FILE *file = wide != NULL ? _wfopen(wide, L"rb") : NULL;

    free(wide);
    return file;
}

/* ---------------------------------------------------------------- addresses ------------------------------------ */

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
    return got == 0 ? 0 : DATSYNC_E_ADDRESS;
}

/* The caller ends *list with freeaddrinfo. Host names wait for the resolver. */
static int net_resolve(const char *address, int passive, struct addrinfo **list)
{
    char host[OS_MAX_HOST], port[6];
    struct addrinfo hints;

    if (strncmp(address, "unix:", 5) == 0)
        return DATSYNC_E_UNSUPPORTED;
    int error = net_split(address, host, port);
    if (error != 0)
        return error;
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = passive ? AI_PASSIVE : 0;
    return net_resolve_error(getaddrinfo(host[0] != 0 ? host : NULL, port, &hints, list));
}

/* As text that listen and connect take. IPv4 seen through an IPv6 socket is told as IPv4. */
static void net_text(const struct sockaddr_storage *from, int len, char *out, size_t cap)
{
    struct sockaddr_storage plain = *from;
    char host[OS_MAX_HOST], port[16];

    if (cap == 0)
        return;
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

/* ---------------------------------------------------------------- streams -------------------------------------- */

/* A new socket as everything here wants it. */
static int net_socket(int family, SOCKET *out)
{
    int on = 1;

    *out = socket(family, SOCK_STREAM, IPPROTO_TCP);
    if (*out == INVALID_SOCKET)
        return os_socket_error();
    int error = net_prepare(*out);
    if (error != 0) {
        closesocket(*out);
        return error;
    }
    setsockopt(*out, IPPROTO_TCP, TCP_NODELAY, (const char *)&on, sizeof on);
    return 0;
}

/* SO_REUSEADDR would let others take the port from us; a port whose last listener is gone can be had without it. */
static int net_listen_one(const struct addrinfo *at, int all, SOCKET *out)
{
    int on = 1, off = 0;

    int error = net_socket(at->ai_family, out);
    if (error != 0)
        return error;
    setsockopt(*out, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, (const char *)&on, sizeof on);
    if (at->ai_family == AF_INET6)
        setsockopt(*out, IPPROTO_IPV6, IPV6_V6ONLY, (const char *)(all ? &off : &on), sizeof on);
    if (bind(*out, at->ai_addr, (int)at->ai_addrlen) != 0 || listen(*out, OS_BACKLOG) != 0) {
        error = os_socket_error();
        closesocket(*out);
    }
    return error;
}

/* For `:PORT` the IPv6 wildcard comes first, and takes IPv4 as well; hosts without IPv6 get the IPv4 one. A port that
 * is taken is never papered over by the other family. */
static int net_listen(void *ctx, const char *address, intptr_t *listener, char *bound, size_t cap)
{
    struct addrinfo *list = NULL;
    struct sockaddr_storage own;
    int len = sizeof own, all = address[0] == ':';
    SOCKET got = INVALID_SOCKET;

    (void)ctx;
    int error = net_resolve(address, 1, &list);
    if (error != 0)
        return error;
    error = DATSYNC_E_ADDRESS;
    for (int pass = 0; pass < (all ? 2 : 1); pass++) {
        for (struct addrinfo *at = list; at != NULL && error != 0 && error != DATSYNC_E_IN_USE; at = at->ai_next)
            if (!all || (at->ai_family == AF_INET6) == (pass == 0))
                error = net_listen_one(at, all, &got);
    }
    freeaddrinfo(list);
    if (error != 0)
        return error;
    memset(&own, 0, sizeof own);
    if (getsockname(got, (struct sockaddr *)&own, &len) == 0)
        net_text(&own, len, bound, cap);
    else if (cap > 0)
        bound[0] = 0;
    *listener = (intptr_t)got;
    return 0;
}

static int net_accept(void *ctx, intptr_t listener, intptr_t *stream, char *from, size_t cap)
{
    struct sockaddr_storage remote;
    int len = sizeof remote, on = 1;

    (void)ctx;
    memset(&remote, 0, sizeof remote);
    SOCKET got = accept((SOCKET)listener, (struct sockaddr *)&remote, &len);
    if (got == INVALID_SOCKET) {
        /* Those that ended while they waited are no error of the listener's; wine says of them that they are not
         * connected. */
        int why = WSAGetLastError(), gone = why == WSAECONNRESET || why == WSAECONNABORTED || why == WSAENOTCONN;
        return gone ? DATSYNC_E_AGAIN : os_error((DWORD)why);
    }
    int error = net_prepare(got);
    if (error != 0) {
        closesocket(got);
        return error;
    }
    setsockopt(got, IPPROTO_TCP, TCP_NODELAY, (const char *)&on, sizeof on);
    net_text(&remote, len, from, cap);
    *stream = (intptr_t)got;
    return 0;
}

/* Begin to connect; sets *pending if it isn't over yet. */
static int net_dial(const struct addrinfo *to, SOCKET *out, int *pending)
{
    int error = net_socket(to->ai_family, out);
    if (error != 0) /* a family that this system has not makes no bad address */
        return error == DATSYNC_E_ADDRESS ? DATSYNC_E_UNREACHABLE : error;
    *pending = 0;
    if (connect(*out, to->ai_addr, (int)to->ai_addrlen) != 0) {
        int why = WSAGetLastError();
        if (why != WSAEWOULDBLOCK && why != WSAEINPROGRESS) {
            closesocket(*out);
            return why == WSAEADDRNOTAVAIL ? DATSYNC_E_UNREACHABLE : os_error((DWORD)why);
        }
        *pending = 1;
    }
    return 0;
}

static int net_connected(void *ctx, intptr_t stream)
{
    struct sockaddr_storage remote;
    int len = sizeof remote, number = 0, size = sizeof number;

    (void)ctx;
    if (getsockopt((SOCKET)stream, SOL_SOCKET, SO_ERROR, (char *)&number, &size) != 0)
        return os_socket_error();
    if (number != 0)
        return os_error((DWORD)number);
    if (getpeername((SOCKET)stream, (struct sockaddr *)&remote, &len) == 0)
        return 0;
    return WSAGetLastError() == WSAENOTCONN ? DATSYNC_E_AGAIN : os_socket_error();
}

/* WSAPoll, with two of its faults mended: it refuses to wait for nothing, and older ones never tell of a connection
 * that failed; select does, and keeps the error for net_connected. */
static int net_wait(WSAPOLLFD *set, size_t count, int timeout_ms)
{
    uint64_t begin = datsync_os_clock(NULL);

    for (;;) {
        uint64_t spent = datsync_os_clock(NULL) - begin;
        int slice = timeout_ms < 0 ? -1 : spent < (uint64_t)timeout_ms ? timeout_ms - (int)spent : 0;
        int last = slice == 0, got = 0, connecting = 0;
        for (size_t i = 0; i < count; i++) {
            struct sockaddr_storage remote;
            int len = sizeof remote;
            connecting |= (set[i].events & POLLWRNORM) && getpeername(set[i].fd, (struct sockaddr *)&remote, &len) != 0;
        }
        if (connecting && (slice < 0 || slice > OS_CONNECT_LOOK_MS))
            slice = OS_CONNECT_LOOK_MS;
        if (count == 0)
            Sleep(slice < 0 ? INFINITE : (DWORD)slice);
        else
            got = WSAPoll(set, (ULONG)count, slice);
        for (size_t i = 0; connecting && got >= 0 && i < count; i++) {
            struct timeval now = {0, 0};
            fd_set failed;
            FD_ZERO(&failed);
            failed.fd_count = 1;
            failed.fd_array[0] = set[i].fd;
            if ((set[i].events & POLLWRNORM) && set[i].revents == 0 && select(0, NULL, NULL, &failed, &now) == 1) {
                set[i].revents = POLLERR;
                got++;
            }
        }
        if (got != 0 || last || (count == 0 && slice >= 0))
            return got;
    }
}

/* Look at a connection that has begun, for a moment: 0, DATSYNC_E_AGAIN or why it failed. */
static int net_glance(SOCKET socket, int timeout_ms)
{
    WSAPOLLFD one = {socket, POLLWRNORM, 0};

    return net_wait(&one, 1, timeout_ms) <= 0 ? DATSYNC_E_AGAIN : net_connected(NULL, (intptr_t)socket);
}

/* A host has several addresses, one of which may lead nowhere (localhost is ::1 and 127.0.0.1, and a listener may be on
 * either): the first that answers wins; if none did yet, the first that still may. */
static int net_connect(void *ctx, const char *address, intptr_t *stream)
{
    struct addrinfo *list = NULL;
    SOCKET best = INVALID_SOCKET, next;
    int pending = 0;

    (void)ctx;
    int error = net_resolve(address, 0, &list);
    if (error != 0)
        return error;
    error = DATSYNC_E_ADDRESS;
    for (struct addrinfo *at = list; at != NULL; at = at->ai_next) {
        int state = net_dial(at, &next, &pending);
        if (state != 0) {
            error = state;
            continue;
        }
        if (pending) {
            state =
                at->ai_next != NULL || best != INVALID_SOCKET ? net_glance(next, OS_NEXT_ADDRESS_MS) : DATSYNC_E_AGAIN;
        }
        if (state == 0 || (state == DATSYNC_E_AGAIN && best == INVALID_SOCKET)) {
            if (best != INVALID_SOCKET)
                closesocket(best);
            best = next;
            if (state == 0)
                break;
        } else {
            closesocket(next);
            error = state == DATSYNC_E_AGAIN ? error : state;
        }
    }
    freeaddrinfo(list);
    if (best == INVALID_SOCKET)
        return error;
    *stream = (intptr_t)best;
    return 0;
}

static int64_t net_recv(void *ctx, intptr_t stream, void *buf, size_t len)
{
    (void)ctx;
    int got = recv((SOCKET)stream, buf, len > OS_MAX_PIECE ? (int)OS_MAX_PIECE : (int)len, 0);
    return got > 0 ? got : got == 0 ? DATSYNC_E_CLOSED : os_socket_error();
}

static int64_t net_send(void *ctx, intptr_t stream, const void *buf, size_t len)
{
    (void)ctx;
    int got = send((SOCKET)stream, buf, len > OS_MAX_PIECE ? (int)OS_MAX_PIECE : (int)len, 0);
    if (got < 0)
        return WSAGetLastError() == WSAENOBUFS ? DATSYNC_E_AGAIN : os_socket_error();
    return got > 0 ? got : DATSYNC_E_AGAIN;
}

static int net_shutdown(void *ctx, intptr_t stream)
{
    (void)ctx;
    return shutdown((SOCKET)stream, SD_SEND) != 0 ? os_socket_error() : 0;
}

static void net_close(void *ctx, intptr_t handle)
{
    (void)ctx;
    closesocket((SOCKET)handle);
}

static short net_ready(short asked, short got)
{
    int ready = 0;

    ready |= got & (POLLRDNORM | POLLRDBAND) ? DATSYNC_POLL_READ : 0;
    ready |= got & POLLWRNORM ? DATSYNC_POLL_WRITE : 0;
    if (got & (POLLERR | POLLHUP | POLLNVAL)) {
        /* recv and send tell what it is, after the bytes that still are there. */
        ready |= asked;
        if (asked == 0 || (got & (POLLERR | POLLNVAL)))
            ready |= DATSYNC_POLL_ERROR;
    }
    return (short)ready;
}

static int net_poll_set(WSAPOLLFD *set, datsync_pollfd *fds, size_t count, int timeout_ms)
{
    char drain[64];
    size_t all = count;
    int ready = 0;

    for (size_t i = 0; i < count; i++) {
        int events = (fds[i].events & DATSYNC_POLL_READ ? POLLRDNORM : 0) |
                     (fds[i].events & DATSYNC_POLL_WRITE ? POLLWRNORM : 0);
        set[i].fd = (SOCKET)fds[i].handle;
        set[i].events = (short)events;
        set[i].revents = 0;
        fds[i].revents = 0;
    }
    if (os_signal.hooked) {
        set[all].fd = os_signal.wake;
        set[all].events = POLLRDNORM;
        set[all].revents = 0;
        all++;
    }
    if (net_wait(set, all, timeout_ms) < 0)
        return os_socket_error();
    for (size_t i = 0; i < count; i++) {
        fds[i].revents = net_ready(fds[i].events, set[i].revents);
        ready += fds[i].revents != 0;
    }
    if (all > count && set[count].revents != 0) {
        while (recv(os_signal.wake, drain, sizeof drain, 0) > 0) {
        }
    }
    return ready;
}

static int net_poll(void *ctx, datsync_pollfd *fds, size_t count, int timeout_ms)
{
    WSAPOLLFD few[OS_POLL_FEW];

    (void)ctx;
    if (count < OS_POLL_FEW)
        return net_poll_set(few, fds, count, timeout_ms);
    WSAPOLLFD *set = malloc((count + 1) * sizeof *set);
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
static int ip_to_system(const datsync_ip *ip, struct sockaddr_storage *out)
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

/* From malloc; NULL: GetLastError tells why. */
static IP_ADAPTER_ADDRESSES *net_adapters(void)
{
    ULONG flags = GAA_FLAG_SKIP_ANYCAST | GAA_FLAG_SKIP_MULTICAST | GAA_FLAG_SKIP_DNS_SERVER;
    ULONG size = OS_INTERFACES_ROOM, got = ERROR_BUFFER_OVERFLOW;
    IP_ADAPTER_ADDRESSES *list = NULL;

    while (got == ERROR_BUFFER_OVERFLOW && size <= OS_INTERFACES_MOST) {
        free(list);
        list = malloc(size);
        if (list == NULL) {
            SetLastError(ERROR_NOT_ENOUGH_MEMORY);
            return NULL;
        }
        got = GetAdaptersAddresses(AF_UNSPEC, flags, NULL, list, &size);
    }
    if (got == NO_ERROR)
        return list;
    free(list);
    SetLastError(got);
    return NULL;
}

/* 0, or -1: it has an address of another kind. */
static int net_interface(const IP_ADAPTER_ADDRESSES *of, const IP_ADAPTER_UNICAST_ADDRESS *at, datsync_interface *out)
{
    memset(out, 0, sizeof *out);
    if (ip_from_system(at->Address.lpSockaddr, &out->ip) < 0)
        return -1;
    out->ip.port = 0;
    out->ip.via = out->ip.size == 4 || of->Ipv6IfIndex == 0 ? of->IfIndex : of->Ipv6IfIndex;
    out->prefix = at->OnLinkPrefixLength;
    out->loopback = of->IfType == IF_TYPE_SOFTWARE_LOOPBACK;
    out->multicast = (of->Flags & IP_ADAPTER_NO_MULTICAST) == 0;
    char *name = os_utf8(of->FriendlyName);
    if (name != NULL)
        snprintf(out->name, sizeof out->name, "%s", name);
    free(name);
    return 0;
}

static int net_interfaces(void *ctx, datsync_interface *list, size_t cap)
{
    IP_ADAPTER_ADDRESSES *first = net_adapters();
    datsync_interface one;
    int count = 0;

    (void)ctx;
    if (first == NULL)
        return GetLastError() == ERROR_NO_DATA ? 0 : os_last_error();
    for (const IP_ADAPTER_ADDRESSES *of = first; of != NULL; of = of->Next) {
        if (of->OperStatus != IfOperStatusUp)
            continue;
        for (const IP_ADAPTER_UNICAST_ADDRESS *at = of->FirstUnicastAddress; at != NULL; at = at->Next) {
            if (net_interface(of, at, &one) < 0)
                continue;
            if ((size_t)count < cap)
                list[count] = one;
            count++;
        }
    }
    free(first);
    return count;
}

/* An IPv4 address of an interface, by which older ways name it. */
static int net_address_of(uint32_t via, struct in_addr *own)
{
    datsync_interface one;
    int error = DATSYNC_E_ADDRESS;

    own->s_addr = htonl(INADDR_ANY);
    if (via == 0)
        return 0;
    IP_ADAPTER_ADDRESSES *first = net_adapters();
    if (first == NULL)
        return GetLastError() == ERROR_NO_DATA ? error : os_last_error();
    for (const IP_ADAPTER_ADDRESSES *of = first; of != NULL; of = of->Next) {
        for (const IP_ADAPTER_UNICAST_ADDRESS *at = of->FirstUnicastAddress; at != NULL && error != 0; at = at->Next) {
            if (of->IfIndex == via && net_interface(of, at, &one) == 0 && one.ip.size == 4) {
                memcpy(own, one.ip.bytes, 4);
                error = 0;
            }
        }
    }
    free(first);
    return error;
}

/* ---------------------------------------------------------------- datagrams ------------------------------------ */

/* UDP, for discovery. An interface goes by its number: it comes beside a datagram (WSARecvMsg), and is chosen by an
 * option before one goes out. A group is joined and sent to on each interface by itself, for where a system would send
 * it by default is only one of them. */

/* What comes beside a datagram, aligned. */
typedef union net_beside {
    WSACMSGHDR head;
    char room[256];
} net_beside;

static int net_option(SOCKET socket, int level, int name, DWORD value)
{
    return setsockopt(socket, level, name, (const char *)&value, sizeof value);
}

/* What is open here alone is kept from others, who could take it otherwise. */
static void net_tune_datagrams(SOCKET socket, int family, int shared)
{
    net_option(socket, SOL_SOCKET, shared ? SO_REUSEADDR : SO_EXCLUSIVEADDRUSE, 1);
    if (family == AF_INET6) {
        net_option(socket, IPPROTO_IPV6, IPV6_V6ONLY, 1);
        net_option(socket, IPPROTO_IPV6, IPV6_PKTINFO, 1);
        net_option(socket, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 255);
        net_option(socket, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 1);
    } else {
        net_option(socket, IPPROTO_IP, IP_PKTINFO, 1);
        net_option(socket, IPPROTO_IP, IP_MULTICAST_TTL, 255);
        net_option(socket, IPPROTO_IP, IP_MULTICAST_LOOP, 1);
    }
}

static int net_datagrams(void *ctx, datsync_ip *at, int shared, intptr_t *out)
{
    struct sockaddr_storage own;
    datsync_ip got;

    (void)ctx;
    int len = ip_to_system(at, &own);
    if (len == 0)
        return DATSYNC_E_ADDRESS;
    SOCKET made = socket(own.ss_family, SOCK_DGRAM, IPPROTO_UDP);
    if (made == INVALID_SOCKET)
        return os_socket_error();
    int error = net_prepare(made);
    net_tune_datagrams(made, own.ss_family, shared);
    if (error == 0 &&
        (bind(made, (const struct sockaddr *)&own, len) != 0 || getsockname(made, (struct sockaddr *)&own, &len) != 0))
        error = os_socket_error();
    if (error != 0) {
        closesocket(made);
        return error;
    }
    ip_from_system((const struct sockaddr *)&own, &got);
    at->port = got.port;
    *out = (intptr_t)made;
    return 0;
}

/* The number of the interface; 0: it is not told. Nothing else was asked for, so nothing else comes beside. */
static uint32_t net_get_via(const WSAMSG *m)
{
    const WSACMSGHDR *c = WSA_CMSG_FIRSTHDR(m);

    if (c != NULL && c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
        IN6_PKTINFO six;
        memcpy(&six, WSA_CMSG_DATA(c), sizeof six);
        return six.ipi6_ifindex;
    }
    if (c != NULL && c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
        IN_PKTINFO four;
        memcpy(&four, WSA_CMSG_DATA(c), sizeof four);
        return four.ipi_ifindex;
    }
    return 0;
}

/* Of this datagram or of one before. That nobody listened there is told as a connection's reset. */
static int net_datagram_error(void)
{
    int why = WSAGetLastError();

    return why == WSAECONNRESET || why == WSAENETRESET ? DATSYNC_E_REFUSED : os_error((DWORD)why);
}

static int64_t net_receive_from(void *ctx, intptr_t socket, void *buf, size_t cap, datsync_ip *from)
{
    GUID guid = WSAID_WSARECVMSG;
    LPFN_WSARECVMSG receive;
    struct sockaddr_storage remote;
    net_beside beside;
    WSAMSG m;
    DWORD got = 0;
    WSABUF piece = {cap > OS_MAX_PIECE ? OS_MAX_PIECE : (ULONG)cap, buf};

    (void)ctx;
    memset(from, 0, sizeof *from);
    if (WSAIoctl((SOCKET)socket, SIO_GET_EXTENSION_FUNCTION_POINTER, &guid, sizeof guid, &receive, sizeof receive, &got,
                 NULL, NULL) != 0)
        return os_socket_error();
    memset(&remote, 0, sizeof remote);
    memset(&m, 0, sizeof m);
    m.name = (struct sockaddr *)&remote;
    m.namelen = sizeof remote;
    m.lpBuffers = &piece;
    m.dwBufferCount = 1;
    m.Control.buf = beside.room;
    m.Control.len = sizeof beside;
    got = 0;
    if (receive((SOCKET)socket, &m, &got, NULL, NULL) != 0) {
        if (WSAGetLastError() != WSAEMSGSIZE)
            return net_datagram_error();
        got = piece.len; /* it was longer */
    }
    if (ip_from_system((const struct sockaddr *)&remote, from) < 0)
        return DATSYNC_E_ADDRESS;
    uint32_t via = net_get_via(&m);
    from->via = via != 0 ? via : from->via;
    return got;
}

/* By which interface what goes to a group goes. */
static int net_put_via(SOCKET socket, const datsync_ip *to)
{
    struct in_addr own;

    if (to->size == 16)
        return net_option(socket, IPPROTO_IPV6, IPV6_MULTICAST_IF, to->via) != 0 ? os_socket_error() : 0;
    int error = net_address_of(to->via, &own);
    if (error == 0 && setsockopt(socket, IPPROTO_IP, IP_MULTICAST_IF, (const char *)&own, sizeof own) != 0)
        error = os_socket_error();
    return error;
}

static int net_send_to(void *ctx, intptr_t socket, const void *buf, size_t len, const datsync_ip *to)
{
    struct sockaddr_storage remote;

    (void)ctx;
    int size = ip_to_system(to, &remote);
    if (size == 0)
        return DATSYNC_E_ADDRESS;
    if (len > OS_MAX_PIECE)
        return DATSYNC_E_TOO_BIG;
    if (to->via != 0 && ip_is_multicast(to)) {
        int error = net_put_via((SOCKET)socket, to);
        if (error != 0)
            return error;
    }
    if (sendto((SOCKET)socket, buf, (int)len, 0, (const struct sockaddr *)&remote, size) >= 0)
        return 0;
    if (WSAGetLastError() == WSAENOBUFS)
        return 0; /* the interface's queue is full: it is lost as others are, and poll would not wait */
    return net_datagram_error();
}

static int net_group(SOCKET socket, const datsync_ip *group, int join)
{
    int got;

    if ((group->size != 4 && group->size != 16) || !ip_is_multicast(group))
        return DATSYNC_E_ADDRESS;
    if (group->size == 16) {
        struct ipv6_mreq six;
        memcpy(&six.ipv6mr_multiaddr, group->bytes, 16);
        six.ipv6mr_interface = group->via;
        got =
            setsockopt(socket, IPPROTO_IPV6, join ? IPV6_JOIN_GROUP : IPV6_LEAVE_GROUP, (const char *)&six, sizeof six);
    } else {
        struct ip_mreq four;
        int error = net_address_of(group->via, &four.imr_interface);
        if (error != 0)
            return error;
        memcpy(&four.imr_multiaddr, group->bytes, 4);
        got = setsockopt(socket, IPPROTO_IP, join ? IP_ADD_MEMBERSHIP : IP_DROP_MEMBERSHIP, (const char *)&four,
                         sizeof four);
    }
    if (got == 0)
        return 0;
    int why = WSAGetLastError();
    if (join && (why == WSAEINVAL || why == WSAEADDRINUSE))
        return 0; /* it is in this group already */
    return why == WSAEINVAL ? DATSYNC_E_ADDRESS : os_error((DWORD)why);
}

static int net_join(void *ctx, intptr_t socket, const datsync_ip *group)
{
    (void)ctx;
    return net_group((SOCKET)socket, group, 1);
}

static int net_leave(void *ctx, intptr_t socket, const datsync_ip *group)
{
    (void)ctx;
    return net_group((SOCKET)socket, group, 0);
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
    SOCKET to; /* where the answer goes */
    char host[OS_MAX_HOST];
} net_lookup;

static struct {
    SRWLOCK lock;
    net_lookup *first, *last; /* what waits */
    int waiting, threads;
} net_lookups = {SRWLOCK_INIT, NULL, NULL, 0, 0};

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
static void net_answer(SOCKET to, const net_found *found)
{
    send(to, (const char *)found, sizeof *found, 0);
    closesocket(to);
}

static DWORD WINAPI net_lookup_thread(void *arg)
{
    net_found found;

    (void)arg;
    for (;;) {
        AcquireSRWLockExclusive(&net_lookups.lock);
        net_lookup *l = net_lookups.first;
        if (l == NULL)
            break;
        net_lookups.first = l->next;
        net_lookups.waiting--;
        ReleaseSRWLockExclusive(&net_lookups.lock);
        net_find(l->host, 0, &found);
        net_answer(l->to, &found);
        free(l);
    }
    net_lookups.threads--;
    ReleaseSRWLockExclusive(&net_lookups.lock);
    return 0;
}

static int net_lookup_begin(void)
{
    HANDLE thread = CreateThread(NULL, 0, net_lookup_thread, NULL, 0, NULL);

    if (thread == NULL)
        return os_last_error();
    CloseHandle(thread); /* it goes on */
    return 0;
}

/* Takes the lookup, unless it returns an error. A thread that can't be had is no matter while there is another. */
static int net_lookup_add(net_lookup *l)
{
    int error = 0;

    AcquireSRWLockExclusive(&net_lookups.lock);
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
    ReleaseSRWLockExclusive(&net_lookups.lock);
    return error;
}

/* What is written in numbers needs no thread. */
static int net_lookup_of(const char *host, SOCKET to)
{
    net_found found;

    net_find(host, AI_NUMERICHOST, &found);
    if (found.result >= 0) {
        net_answer(to, &found);
        return 0;
    }
    net_lookup *l = malloc(sizeof *l);
    if (l == NULL)
        return DATSYNC_E_NOMEM;
    l->next = NULL;
    l->to = to;
    strcpy(l->host, host);
    int error = net_lookup_add(l);
    if (error != 0)
        free(l);
    return error;
}

/* A datagram socket at loopback, and its address. */
static int net_loopback(SOCKET *out, struct sockaddr_in *own)
{
    int len = sizeof *own;

    memset(own, 0, sizeof *own);
    own->sin_family = AF_INET;
    own->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *out = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    if (*out == INVALID_SOCKET)
        return os_socket_error();
    int error = net_prepare(*out);
    if (error == 0 && (bind(*out, (const struct sockaddr *)own, sizeof *own) != 0 ||
                       getsockname(*out, (struct sockaddr *)own, &len) != 0))
        error = os_socket_error();
    return error;
}

/* WSAPoll waits for sockets only. These two hear each other and nobody else. */
static int net_pair(SOCKET pair[2])
{
    struct sockaddr_in own[2];

    pair[1] = INVALID_SOCKET;
    int error = net_loopback(&pair[0], &own[0]);
    if (error == 0)
        error = net_loopback(&pair[1], &own[1]);
    for (int i = 0; i < 2 && error == 0; i++)
        if (connect(pair[i], (const struct sockaddr *)&own[1 - i], sizeof own[1 - i]) != 0)
            error = os_socket_error();
    for (int i = 0; i < 2 && error != 0; i++)
        if (pair[i] != INVALID_SOCKET)
            closesocket(pair[i]);
    return error;
}

static int net_resolve_name(void *ctx, const char *host, intptr_t *handle)
{
    SOCKET pair[2];

    (void)ctx;
    if (*host == 0 || strlen(host) >= OS_MAX_HOST)
        return DATSYNC_E_ADDRESS;
    int error = net_pair(pair);
    if (error != 0)
        return error;
    error = net_lookup_of(host, pair[1]);
    if (error != 0) {
        closesocket(pair[0]);
        closesocket(pair[1]);
        return error;
    }
    *handle = (intptr_t)pair[0];
    return 0;
}

/* It is only looked at, so that it can be asked for again. */
static int net_resolved(void *ctx, intptr_t handle, datsync_ip *list, size_t cap)
{
    net_found found;

    (void)ctx;
    int got = recv((SOCKET)handle, (char *)&found, sizeof found, MSG_PEEK);
    if (got != (int)sizeof found)
        return got < 0 ? os_socket_error() : DATSYNC_E_IO;
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
    net_start();
    return &net;
}

/* ---------------------------------------------------------------- files ---------------------------------------- */

/* Others may read, write, rename and remove what is open here, as on other systems. */
#define FILE_SHARE_ALL (FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)

/* Offsets are signed for the OS. */
static int file_range(uint64_t offset, uint64_t len)
{
    return offset > (uint64_t)INT64_MAX || len > (uint64_t)INT64_MAX - offset ? DATSYNC_E_TOO_BIG : 0;
}

static OVERLAPPED file_at(uint64_t offset)
{
    OVERLAPPED at;

    memset(&at, 0, sizeof at);
    at.Offset = (DWORD)(offset & 0xffffffffu);
    at.OffsetHigh = (DWORD)(offset >> 32);
    return at;
}

static int64_t file_read(HANDLE file, uint64_t offset, void *buf, size_t len)
{
    size_t done = 0;

    int error = file_range(offset, len);
    if (error != 0)
        return error;
    while (done < len) {
        DWORD got = 0, piece = len - done > OS_MAX_PIECE ? OS_MAX_PIECE : (DWORD)(len - done);
        OVERLAPPED at = file_at(offset + done);
        if (!ReadFile(file, (char *)buf + done, piece, &got, &at) && GetLastError() != ERROR_HANDLE_EOF)
            return os_last_error();
        if (got == 0)
            break;
        done += got;
    }
    return (int64_t)done;
}

static int file_write(HANDLE file, uint64_t offset, const void *buf, size_t len)
{
    size_t done = 0;

    int error = file_range(offset, len);
    while (error == 0 && done < len) {
        DWORD got = 0, piece = len - done > OS_MAX_PIECE ? OS_MAX_PIECE : (DWORD)(len - done);
        OVERLAPPED at = file_at(offset + done);
        if (!WriteFile(file, (const char *)buf + done, piece, &got, &at))
            error = os_last_error();
        else if (got == 0)
            error = DATSYNC_E_NO_SPACE;
        done += got;
    }
    return error;
}

static int file_truncate(HANDLE file, uint64_t size)
{
    FILE_END_OF_FILE_INFO end;

    int error = file_range(size, 0);
    end.EndOfFile.QuadPart = (LONGLONG)size;
    if (error == 0 && !SetFileInformationByHandle(file, FileEndOfFileInfo, &end, sizeof end))
        error = os_last_error();
    return error;
}

/* To the medium. What was opened for reading has nothing of ours to write, and Windows would not. */
static int file_sync(HANDLE file)
{
    return FlushFileBuffers(file) || GetLastError() == ERROR_ACCESS_DENIED ? 0 : os_last_error();
}

/* An absolute path that may be of any length, from malloc, with `more` units free behind it. */
static int file_path(const char *path, size_t more, wchar_t **out)
{
    wchar_t *wide = os_wide(path, 0);
    DWORD units = wide != NULL ? GetFullPathNameW(wide, 0, NULL, NULL) : 0;
    wchar_t *full = units > 0 ? malloc((units + more + 8) * sizeof *full) : NULL;

    *out = full;
    if (full == NULL) {
        int error = wide != NULL && units > 0 ? DATSYNC_E_NOMEM : os_last_error();
        free(wide);
        return error;
    }
    /* `\\?\` turns off the limit, `\\?\UNC\` stands for the two backslashes of a share. */
    GetFullPathNameW(wide, units, full + 8, NULL);
    free(wide);
    const wchar_t *prefix = L"\\\\?\\", *from = full + 8;
    if (wcsncmp(from, L"\\\\?\\", 4) == 0 || wcsncmp(from, L"\\\\.\\", 4) == 0) {
        prefix = L"";
    } else if (from[0] == L'\\' && from[1] == L'\\') {
        prefix = L"\\\\?\\UNC\\";
        from += 2;
    }
    size_t len = wcslen(from);
    memmove(full + wcslen(prefix), from, (len + 1) * sizeof *full);
    memcpy(full, prefix, wcslen(prefix) * sizeof *full);
    len = wcslen(full);
    if (len > 0 && full[len - 1] == L'\\' && len > 7) /* a drive's root keeps its backslash */
        full[len - 1] = 0;
    return 0;
}

static int file_open(const wchar_t *path, int writing, DWORD how, HANDLE *out)
{
    *out = CreateFileW(path, GENERIC_READ | (writing ? GENERIC_WRITE : 0u), FILE_SHARE_ALL, NULL, how, 0, NULL);
    return *out == INVALID_HANDLE_VALUE ? os_last_error() : 0;
}

static int file_make_folder(const wchar_t *path, unsigned flags)
{
    if ((flags & DATSYNC_CREATE) && !(flags & DATSYNC_READ_ONLY) && !CreateDirectoryW(path, NULL)) {
        DWORD why = GetLastError();
        if (why != ERROR_ALREADY_EXISTS) {
            /* A drive's root says other things. */
            DWORD is = GetFileAttributesW(path);
            return is != INVALID_FILE_ATTRIBUTES && (is & FILE_ATTRIBUTE_DIRECTORY) ? 0 : os_error(why);
        }
    }
    return 0;
}

/* ---------------------------------------------------------------- folders -------------------------------------- */

/* What SLEEP files begin with. */
#define FOLDER_FIRST_BYTE 0x05

typedef struct folder {
    unsigned flags; /* enum datsync_feed_flags */
    HANDLE file[DATSYNC_PARTS];
    int writable[DATSYNC_PARTS];
    wchar_t *path; /* absolute: it stays when the program moves to another folder */
    size_t len;    /* of the folder's path and the prefix of the names */
} folder;

static const wchar_t *const folder_parts[DATSYNC_PARTS] = {
    [DATSYNC_PART_KEY] = L"key",           [DATSYNC_PART_SECRET_KEY] = L"secret_key",
    [DATSYNC_PART_TREE] = L"tree",         [DATSYNC_PART_SIGNATURES] = L"signatures",
    [DATSYNC_PART_BITFIELD] = L"bitfield", [DATSYNC_PART_DATA] = L"data",
};

static int folder_try(folder *f, int part, int writing, DWORD how)
{
    DWORD given;

    wcscpy(f->path + f->len, folder_parts[part]);
    int error = file_open(f->path, writing, how, &f->file[part]);
    if (error == 0) {
        f->writable[part] = writing;
        if (writing) /* holes take no room, and are not filled with zeros; where there are none, they are */
            DeviceIoControl(f->file[part], FSCTL_SET_SPARSE, NULL, 0, NULL, 0, &given, NULL);
    }
    return error;
}

/* The part is open when this returns 0; for writing, it is created. */
static int folder_open(folder *f, int part, int writing)
{
    int may_write = (f->flags & DATSYNC_READ_ONLY) == 0, error;

    if (f->file[part] == INVALID_HANDLE_VALUE) {
        error = folder_try(f, part, may_write, OPEN_EXISTING);
        if (error == DATSYNC_E_ACCESS && may_write)
            error = folder_try(f, part, 0, OPEN_EXISTING);
        if (error != 0 && (error != DATSYNC_E_NO_ENTRY || !writing))
            return error;
    }
    if (!writing || f->writable[part])
        return 0;
    if (!may_write)
        return DATSYNC_E_READ_ONLY;
    if (f->file[part] != INVALID_HANDLE_VALUE)
        return DATSYNC_E_ACCESS; /* it opens for reading only */
    return folder_try(f, part, 1, OPEN_ALWAYS);
}

static int64_t folder_read(void *ctx, int part, uint64_t offset, void *buf, size_t len)
{
    folder *f = ctx;

    int error = file_range(offset, len);
    if (error == 0)
        error = folder_open(f, part, 0);
    if (error != 0)
        return error == DATSYNC_E_NO_ENTRY ? 0 : error;
    int64_t got = file_read(f->file[part], offset, buf, len);
    if (got == DATSYNC_E_LOCKED && part == DATSYNC_PART_BITFIELD && offset == 0 && (f->flags & DATSYNC_READ_ONLY)) {
        /* Whoever has the feed open keeps all others from the byte that it locks, which is the same in all of them. */
        got = len > 1 ? file_read(f->file[part], 1, (char *)buf + 1, len - 1) : 0;
        if (got >= 0) {
            *(uint8_t *)buf = FOLDER_FIRST_BYTE;
            got++;
        }
    }
    return got;
}

static int folder_write(void *ctx, int part, uint64_t offset, const void *buf, size_t len)
{
    folder *f = ctx;

    int error = file_range(offset, len);
    if (error == 0)
        error = folder_open(f, part, 1);
    return error != 0 ? error : file_write(f->file[part], offset, buf, len);
}

static int64_t folder_size(void *ctx, int part)
{
    folder *f = ctx;
    LARGE_INTEGER size;

    int error = folder_open(f, part, 0);
    if (error != 0)
        return error;
    return GetFileSizeEx(f->file[part], &size) ? (int64_t)size.QuadPart : os_last_error();
}

static int folder_truncate(void *ctx, int part, uint64_t size)
{
    folder *f = ctx;

    int error = file_range(size, 0);
    if (error == 0)
        error = folder_open(f, part, 1);
    return error != 0 ? error : file_truncate(f->file[part], size);
}

static int folder_sync(void *ctx, int part)
{
    folder *f = ctx;

    int error = folder_open(f, part, 0);
    return error == DATSYNC_E_NO_ENTRY ? 0 : error != 0 ? error : file_sync(f->file[part]);
}

static int folder_punch(void *ctx, int part, uint64_t offset, uint64_t len)
{
    folder *f = ctx;
    FILE_ZERO_DATA_INFORMATION hole;
    DWORD given;

    int error = file_range(offset, len);
    if (error != 0 || len == 0 || folder_open(f, part, 0) != 0 || !f->writable[part])
        return error;
    hole.FileOffset.QuadPart = (LONGLONG)offset;
    hole.BeyondFinalZero.QuadPart = (LONGLONG)(offset + len);
    DeviceIoControl(f->file[part], FSCTL_SET_ZERO_DATA, &hole, sizeof hole, NULL, 0, &given, NULL);
    return 0;
}

/* The first byte of the bitfield, as the deployed implementation's fd-lock does here. */
static int folder_lock(void *ctx)
{
    folder *f = ctx;

    if ((f->flags & DATSYNC_CREATE) == 0 && folder_open(f, DATSYNC_PART_BITFIELD, 0) == DATSYNC_E_NO_ENTRY &&
        folder_open(f, DATSYNC_PART_KEY, 0) == DATSYNC_E_NO_ENTRY)
        return DATSYNC_E_NOT_FOUND;
    int error = folder_open(f, DATSYNC_PART_BITFIELD, 1);
    if (error != 0)
        return error;
    OVERLAPPED at = file_at(0);
    if (LockFileEx(f->file[DATSYNC_PART_BITFIELD], LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at))
        return 0;
    DWORD why = GetLastError();
    if (why == ERROR_NOT_SUPPORTED || why == ERROR_INVALID_FUNCTION)
        return 0; /* a file system without locks */
    return why == ERROR_IO_PENDING ? DATSYNC_E_LOCKED : os_error(why);
}

static void folder_close(void *ctx)
{
    folder *f = ctx;

    for (int part = 0; part < DATSYNC_PARTS; part++)
        if (f->file[part] != INVALID_HANDLE_VALUE)
            CloseHandle(f->file[part]);
    free(f->path);
    free(f);
}

int datsync_os_store(datsync_store *out, const char *dir, const char *prefix, unsigned flags)
{
    wchar_t *path;

    if (prefix == NULL)
        prefix = "";
    if (strlen(prefix) > OS_MAX_PREFIX)
        return DATSYNC_E_INVALID;
    wchar_t *before = os_wide(prefix, 0);
    if (before == NULL)
        return os_last_error();
    int error = file_path(dir, OS_MAX_PREFIX + 16, &path);
    if (error == 0) {
        error = file_make_folder(path, flags);
        DWORD is = error == 0 ? GetFileAttributesW(path) : 0;
        if (error == 0 && is == INVALID_FILE_ATTRIBUTES)
            error = os_last_error();
        else if (error == 0 && !(is & FILE_ATTRIBUTE_DIRECTORY))
            error = DATSYNC_E_IO; /* as elsewhere: a file is in the folder's place */
    }
    folder *f = error == 0 ? malloc(sizeof *f) : NULL;
    if (f == NULL) {
        free(path);
        free(before);
        return error != 0 ? error : DATSYNC_E_NOMEM;
    }
    memset(f, 0, sizeof *f);
    wcscat(path, L"\\");
    wcscat(path, before);
    free(before);
    f->flags = flags;
    f->path = path;
    f->len = wcslen(path);
    for (int part = 0; part < DATSYNC_PARTS; part++)
        f->file[part] = INVALID_HANDLE_VALUE;
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

/* Each folder on the way is opened by its name in the one above, which the wide calls cannot do and NtCreateFile
 * can, and no open goes through a reparse point: whatever others do to the folders meanwhile, all that is reached
 * was a folder or file beneath the root, by names alone. */

#define TREE_FOLDER 1u          /* FILE_DIRECTORY_FILE */
#define TREE_FILE 0x40u         /* FILE_NON_DIRECTORY_FILE */
#define TREE_AS_IT_IS 0x200000u /* FILE_OPEN_REPARSE_POINT */
#define TREE_BACKUP 0x4000u     /* FILE_OPEN_FOR_BACKUP_INTENT: folders too */
#define TREE_WAIT 0x20u         /* FILE_SYNCHRONOUS_IO_NONALERT */

NTSTATUS NTAPI NtSetInformationFile(HANDLE, PIO_STATUS_BLOCK, PVOID, ULONG, FILE_INFORMATION_CLASS);

typedef struct open_file {
    HANDLE handle;
    int writing;
    struct open_file *next;
} open_file;

typedef struct files {
    HANDLE root;
    unsigned flags;  /* enum datsync_feed_flags */
    open_file *open; /* Windows syncs files one by one: when they are closed, and those that are open at files_sync */
    int failed;      /* the first of these syncs that failed: whether the bytes got there will never be known */
} files;

/* Names that Windows would take for others: devices, streams of a file, and what it strips off the end; and what looks
 * like the short name that it gives to a long one (`DAT~1` is `.dat`). */
static int files_name_is_other(const wchar_t *name, size_t len)
{
    static const wchar_t *const devices[] = {L"con", L"prn", L"aux", L"nul", L"conin$", L"conout$", L"clock$"};
    size_t base = 0, tail;

    for (size_t i = 0; i < len; i++)
        if (name[i] < 32 || wcschr(L"<>:\"/\\|?*", name[i]) != NULL)
            return 1;
    if (len == 0 || name[len - 1] == L'.' || name[len - 1] == L' ')
        return 1;
    while (base < len && name[base] != L'.')
        base++;
    for (tail = base; tail > 0 && name[tail - 1] >= L'0' && name[tail - 1] <= L'9'; tail--) {
    }
    if (base <= 8 && len - base <= 4 && tail < base && tail > 0 && name[tail - 1] == L'~')
        return 1;
    while (base > 0 && name[base - 1] == L' ')
        base--; /* `con .txt` is the console as well */
    for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++)
        if (wcslen(devices[i]) == base && _wcsnicmp(name, devices[i], base) == 0)
            return 1;
    return base == 4 && (_wcsnicmp(name, L"com", 3) == 0 || _wcsnicmp(name, L"lpt", 3) == 0) &&
           wcschr(L"123456789\u00b9\u00b2\u00b3", name[3]) != NULL;
}

/* path[0..len), one name, in UTF-16. */
static int files_wide(const char *path, size_t len, wchar_t out[OS_MAX_NAME + 1])
{
    int units = len <= 4 * OS_MAX_NAME
                    ? MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, (int)len, out, OS_MAX_NAME)
                    : 0;
    if (units <= 0)
        return DATSYNC_E_NAME;
    out[units] = 0;
    return files_name_is_other(out, (size_t)units) ? DATSYNC_E_NAME : 0;
}

/* What a handle is, as in Stat. */
static int files_info(HANDLE handle, datsync_file_info *out)
{
    BY_HANDLE_FILE_INFORMATION info;

    if (!GetFileInformationByHandle(handle, &info))
        return os_last_error();
    memset(out, 0, sizeof *out);
    uint64_t when = (uint64_t)info.ftLastWriteTime.dwHighDateTime << 32 | info.ftLastWriteTime.dwLowDateTime;
    out->mtime = when > 116444736000000000u ? (when - 116444736000000000u) / 10000 : 0;
    if (info.dwFileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) {
        out->mode = 0120777;
    } else if (info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) {
        out->mode = 0040755;
    } else {
        out->mode = 0100644;
        out->size = (uint64_t)info.nFileSizeHigh << 32 | info.nFileSizeLow;
    }
    return 0;
}

static int files_want(uint32_t mode, uint32_t type)
{
    if ((mode & 0170000) == type)
        return 0;
    return (mode & 0170000) == 0040000   ? DATSYNC_E_IS_FOLDER
           : (mode & 0170000) == 0100000 ? DATSYNC_E_NOT_FOLDER
                                         : DATSYNC_E_LINK;
}

/* Open the name in a folder, whatever it is. how: 1 what is there, 2 a new one, 3 either. */
static int files_openat(HANDLE dir, const wchar_t *name, ACCESS_MASK access, ULONG how, ULONG options, HANDLE *out)
{
    UNICODE_STRING text;
    OBJECT_ATTRIBUTES which;
    IO_STATUS_BLOCK status;

    memset(&which, 0, sizeof which);
    memset(&status, 0, sizeof status);
    text.Buffer = (wchar_t *)(uintptr_t)name;
    text.Length = (USHORT)(wcslen(name) * sizeof *name);
    text.MaximumLength = text.Length;
    which.Length = sizeof which;
    which.RootDirectory = dir;
    which.ObjectName = &text;
    which.Attributes = 0x40; /* OBJ_CASE_INSENSITIVE */
    NTSTATUS got = NtCreateFile(out, access | SYNCHRONIZE, &which, &status, NULL, FILE_ATTRIBUTE_NORMAL, FILE_SHARE_ALL,
                                how, options | TREE_AS_IT_IS | TREE_WAIT, NULL, 0);
    if (got >= 0)
        return 0;
    *out = INVALID_HANDLE_VALUE;
    DWORD why = RtlNtStatusToDosError(got);
    SetLastError(why);
    if ((ULONG)got == 0xc0000103u) /* STATUS_NOT_A_DIRECTORY */
        return DATSYNC_E_NOT_FOLDER;
    if ((ULONG)got == 0xc00000bau) /* STATUS_FILE_IS_A_DIRECTORY */
        return DATSYNC_E_IS_FOLDER;
    if ((ULONG)got == 0xc0000056u) /* STATUS_DELETE_PENDING */
        return DATSYNC_E_BUSY;
    return os_error(why);
}

/* The folder that path is in, and its last name. A folder other than the root is the caller's to close
 * (files_leave). */
static int files_enter(const files *t, const char *path, int writing, HANDLE *dir, wchar_t name[OS_MAX_NAME + 1])
{
    const char *at = path;

    *dir = t->root;
    if (writing && (t->flags & DATSYNC_READ_ONLY))
        return DATSYNC_E_READ_ONLY;
    if (strlen(path) > DATSYNC_MAX_PATH)
        return DATSYNC_E_NAME;
    for (;;) {
        size_t len = strcspn(at, "/");
        int error = DATSYNC_E_INVALID;
        if (len > 0 && !(at[0] == '.' && (len == 1 || (len == 2 && at[1] == '.'))))
            error = files_wide(at, len, name);
        if (error == 0 && at[len] == 0)
            return 0;
        HANDLE next = INVALID_HANDLE_VALUE;
        datsync_file_info info;
        if (error == 0)
            error = files_openat(*dir, name, FILE_TRAVERSE | FILE_READ_ATTRIBUTES, 1, TREE_BACKUP, &next);
        if (error == 0) {
            error = files_info(next, &info);
            error = error == 0 ? files_want(info.mode, 0040000) : error;
        }
        if (*dir != t->root)
            CloseHandle(*dir);
        *dir = next;
        if (error != 0) {
            if (next != INVALID_HANDLE_VALUE)
                CloseHandle(next);
            *dir = t->root;
            return error;
        }
        at += len + 1;
    }
}

static void files_leave(const files *t, HANDLE dir)
{
    if (dir != t->root)
        CloseHandle(dir);
}

/* Open what is at a path: of this type, 0 for any. */
static int files_get(const files *t, const char *path, int writing, uint32_t type, ACCESS_MASK access, ULONG how,
                     HANDLE *out)
{
    wchar_t name[OS_MAX_NAME + 1];
    datsync_file_info info;
    HANDLE dir;

    int error = files_enter(t, path, writing, &dir, name);
    if (error != 0)
        return error;
    error = files_openat(dir, name, access | FILE_READ_ATTRIBUTES, how,
                         how == 1          ? TREE_BACKUP
                         : type == 0040000 ? TREE_FOLDER
                                           : TREE_FILE,
                         out);
    files_leave(t, dir);
    if (error == 0 && type != 0) {
        error = files_info(*out, &info);
        error = error == 0 ? files_want(info.mode, type) : error;
        if (error != 0)
            CloseHandle(*out);
    }
    return error;
}

static void files_synced(files *t, HANDLE handle)
{
    int error = t->flags & DATSYNC_NO_SYNC ? 0 : file_sync(handle);
    t->failed = t->failed != 0 ? t->failed : error;
}

static int files_open_file(void *ctx, const char *path, int writing, intptr_t *file)
{
    files *t = ctx;
    HANDLE handle;

    int error =
        files_get(t, path, writing, 0100000, GENERIC_READ | (writing ? GENERIC_WRITE : 0u), writing ? 3 : 1, &handle);
    if (error != 0)
        return error;
    open_file *f = malloc(sizeof *f);
    if (f == NULL) {
        CloseHandle(handle);
        return DATSYNC_E_NOMEM;
    }
    f->handle = handle;
    f->writing = writing;
    f->next = t->open;
    t->open = f;
    *file = (intptr_t)f;
    return 0;
}

static int64_t files_read(void *ctx, intptr_t file, uint64_t offset, void *buf, size_t len)
{
    (void)ctx;
    return file_read(((open_file *)file)->handle, offset, buf, len);
}

static int files_write(void *ctx, intptr_t file, uint64_t offset, const void *buf, size_t len)
{
    files *t = ctx;

    return t->flags & DATSYNC_READ_ONLY ? DATSYNC_E_READ_ONLY
                                        : file_write(((open_file *)file)->handle, offset, buf, len);
}

static int files_truncate(void *ctx, intptr_t file, uint64_t size)
{
    files *t = ctx;

    return t->flags & DATSYNC_READ_ONLY ? DATSYNC_E_READ_ONLY : file_truncate(((open_file *)file)->handle, size);
}

static void files_close_file(void *ctx, intptr_t file)
{
    files *t = ctx;
    open_file *f = (open_file *)file, **at = &t->open;

    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    if (f->writing)
        files_synced(t, f->handle);
    CloseHandle(f->handle);
    free(f);
}

static int files_stat(void *ctx, const char *path, datsync_file_info *out)
{
    files *t = ctx;
    HANDLE handle;

    if (*path == 0)
        return files_info(t->root, out);
    int error = files_get(t, path, 0, 0, 0, 1, &handle);
    if (error == 0) {
        error = files_info(handle, out);
        CloseHandle(handle);
    }
    return error;
}

/* One name of a listing. */
static int files_tell(const FILE_ID_BOTH_DIR_INFO *entry, int (*fn)(void *arg, const char *name), void *arg)
{
    char name[3 * OS_MAX_NAME + 1];
    int units = (int)(entry->FileNameLength / sizeof(wchar_t));

    int len = WideCharToMultiByte(CP_UTF8, 0, entry->FileName, units, name, (int)sizeof name - 1, NULL, NULL);
    if (len <= 0)
        return DATSYNC_E_NAME;
    name[len] = 0;
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ? 0 : fn(arg, name);
}

static int files_list(void *ctx, const char *path, int (*fn)(void *arg, const char *name), void *arg)
{
    files *t = ctx;
    HANDLE dir;
    union {
        FILE_ID_BOTH_DIR_INFO first;
        char room[16384];
    } some;
    int got;

    if (*path == 0) {
        dir = ReOpenFile(t->root, FILE_LIST_DIRECTORY, FILE_SHARE_ALL, FILE_FLAG_BACKUP_SEMANTICS);
        got = dir == INVALID_HANDLE_VALUE ? os_last_error() : 0;
    } else {
        got = files_get(t, path, 0, 0040000, FILE_LIST_DIRECTORY, 1, &dir);
    }
    if (got != 0)
        return got;
    while (got == 0) {
        if (!GetFileInformationByHandleEx(dir, FileIdBothDirectoryInfo, &some, sizeof some)) {
            got = GetLastError() == ERROR_NO_MORE_FILES ? 0 : os_last_error();
            break;
        }
        for (size_t at = 0;;) {
            const FILE_ID_BOTH_DIR_INFO *entry = (const void *)(some.room + at);
            got = files_tell(entry, fn, arg);
            if (got != 0 || entry->NextEntryOffset == 0)
                break;
            at += entry->NextEntryOffset;
        }
    }
    CloseHandle(dir);
    return got;
}

static int files_mkdir(void *ctx, const char *path)
{
    files *t = ctx;
    datsync_file_info info;
    HANDLE handle;

    int error = files_get(t, path, 1, 0040000, FILE_LIST_DIRECTORY, 2, &handle);
    if (error == 0) {
        CloseHandle(handle);
        return 0;
    }
    return files_stat(ctx, path, &info) == 0 ? files_want(info.mode, 0040000) : error;
}

/* The two information classes for a change: from Windows 10 on the one with flags, under which what is replaced or
 * removed may be open elsewhere, as on other systems. */
static int files_change(HANDLE handle, void *what, ULONG size, int flagged, int plain, ULONG flags)
{
    IO_STATUS_BLOCK status;

    memset(&status, 0, sizeof status);
    memcpy(what, &flags, sizeof flags);
    NTSTATUS got = NtSetInformationFile(handle, &status, what, size, (FILE_INFORMATION_CLASS)flagged);
    if (got < 0) {
        flags = 1;
        memcpy(what, &flags, sizeof flags); /* a boolean at the same place */
        got = NtSetInformationFile(handle, &status, what, size, (FILE_INFORMATION_CLASS)plain);
    }
    if (got >= 0)
        return 0;
    DWORD why = RtlNtStatusToDosError(got);
    SetLastError(why);
    return os_error(why);
}

/* A file gives way to what is renamed, a link is left where it is, as a folder is. */
static int files_rename(void *ctx, const char *from, const char *to)
{
    files *t = ctx;
    datsync_file_info info;
    wchar_t name[OS_MAX_NAME + 1];
    HANDLE dir, handle;
    struct {
        ULONG flags;
        HANDLE dir;
        ULONG len;
        wchar_t name[OS_MAX_NAME + 1];
    } what;

    int error = files_stat(ctx, to, &info);
    error = error == DATSYNC_E_NO_ENTRY ? 0 : error == 0 ? files_want(info.mode, 0100000) : error;
    if (error == 0)
        error = files_enter(t, to, 1, &dir, name);
    if (error != 0)
        return error;
    error = files_get(t, from, 1, 0, DELETE, 1, &handle);
    if (error == 0) {
        memset(&what, 0, sizeof what);
        what.dir = dir;
        what.len = (ULONG)(wcslen(name) * sizeof *name);
        wcscpy(what.name, name);
        /* FileRenameInformationEx, FileRenameInformation; replace, POSIX semantics */
        error = files_change(handle, &what, sizeof what, 65, 10, 1 | 2);
        CloseHandle(handle);
    }
    files_leave(t, dir);
    return error;
}

static int files_remove(files *t, const char *path, uint32_t type)
{
    ULONG what = 0;
    HANDLE handle;

    int error = files_get(t, path, 1, type, DELETE, 1, &handle);
    if (error == 0) {
        /* FileDispositionInformationEx, FileDispositionInformation; delete, POSIX semantics, also what is read-only */
        error = files_change(handle, &what, sizeof what, 64, 13, 1 | 2 | 16);
        CloseHandle(handle);
    }
    return error;
}

static int files_unlink(void *ctx, const char *path)
{
    return files_remove(ctx, path, 0100000);
}

static int files_rmdir(void *ctx, const char *path)
{
    return files_remove(ctx, path, 0040000);
}

/* The time only: there are no permissions like these here. */
static int files_set(void *ctx, const char *path, uint32_t mode, uint64_t mtime)
{
    files *t = ctx;
    datsync_file_info info;
    FILETIME when;
    HANDLE handle;

    (void)mode;
    if (t->flags & DATSYNC_READ_ONLY)
        return DATSYNC_E_READ_ONLY;
    uint64_t most = ((uint64_t)INT64_MAX - 116444736000000000u) / 10000; /* what FILETIME can hold */
    uint64_t ticks = (mtime < most ? mtime : most) * 10000 + 116444736000000000u;
    when.dwLowDateTime = (DWORD)(ticks & 0xffffffffu);
    when.dwHighDateTime = (DWORD)(ticks >> 32);
    int error = files_get(t, path, 0, 0, FILE_WRITE_ATTRIBUTES, 1, &handle);
    if (error != 0)
        return error;
    error = files_info(handle, &info);
    if (error == 0 && (info.mode & 0170000) == 0120000)
        error = DATSYNC_E_LINK;
    if (error == 0 && !SetFileTime(handle, NULL, NULL, &when))
        error = os_last_error();
    CloseHandle(handle);
    return error;
}

static int files_sync(void *ctx)
{
    files *t = ctx;

    for (open_file *f = t->open; f != NULL; f = f->next)
        if (f->writing)
            files_synced(t, f->handle);
    return t->failed;
}

static void files_free(void *ctx)
{
    files *t = ctx;

    CloseHandle(t->root);
    free(t);
}

int datsync_os_files(datsync_files *out, const char *dir, unsigned flags)
{
    datsync_file_info info;
    wchar_t *path;

    memset(out, 0, sizeof *out);
    int error = file_path(dir, 2, &path);
    if (error != 0)
        return error;
    HANDLE root = INVALID_HANDLE_VALUE;
    error = file_make_folder(path, flags);
    if (error == 0) {
        wcscat(path, L"\\"); /* of a link to a folder, the folder */
        root = CreateFileW(path, FILE_LIST_DIRECTORY | FILE_TRAVERSE | FILE_READ_ATTRIBUTES, FILE_SHARE_ALL, NULL,
                           OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
        error = root == INVALID_HANDLE_VALUE ? os_last_error() : 0;
        if (error == DATSYNC_E_NAME)
            error = DATSYNC_E_NOT_FOLDER; /* so it is said of a file with a backslash behind it */
    }
    free(path);
    if (error == 0 && (error = files_info(root, &info)) == 0 && (info.mode & 0170000) != 0040000)
        error = DATSYNC_E_NOT_FOLDER;
    files *t = error == 0 ? malloc(sizeof *t) : NULL;
    if (t == NULL) {
        if (root != INVALID_HANDLE_VALUE)
            CloseHandle(root);
        return error != 0 ? error : DATSYNC_E_NOMEM;
    }
    memset(t, 0, sizeof *t);
    t->root = root;
    t->flags = flags;
    out->case_folds = 1;
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
/* A backslash, 2 digits, a backslash, 62 digits; `.new` behind it while it is written. */
#define SECRET_NAME (1 + 2 + 1 + 62)

typedef struct secrets {
    size_t len;    /* of the folder's name */
    wchar_t *path; /* with room for SECRET_NAME, `.new` and a NUL */
} secrets;

/* DIR\<2 digits>\<62 digits>; where `\<62 digits>` begins is returned. */
static wchar_t *secrets_path(secrets *s, const uint8_t key[32])
{
    static const char digits[] = "0123456789abcdef";
    wchar_t *at = s->path + s->len;

    *at++ = L'\\';
    for (size_t i = 0; i < 32; i++) {
        *at++ = (wchar_t)digits[key[i] >> 4];
        *at++ = (wchar_t)digits[key[i] & 15];
        if (i == 0)
            *at++ = L'\\';
    }
    *at = 0;
    return s->path + s->len + 3;
}

static int secrets_load(void *ctx, const uint8_t discovery_key[32], uint8_t secret_key[64])
{
    secrets *s = ctx;
    LARGE_INTEGER size;
    HANDLE file;

    secrets_path(s, discovery_key);
    int error = file_open(s->path, 0, OPEN_EXISTING, &file);
    if (error != 0)
        return error == DATSYNC_E_NO_ENTRY ? DATSYNC_E_NOT_FOUND : error;
    int64_t got = GetFileSizeEx(file, &size) ? 0 : os_last_error();
    if (got == 0 && size.QuadPart == SECRET_SIZE)
        got = file_read(file, 0, secret_key, SECRET_SIZE);
    CloseHandle(file);
    if (got == 0 && size.QuadPart == 0) {
        /* Old versions of the deployed implementation made files before they had what goes into them. */
        return DATSYNC_E_NOT_FOUND;
    }
    if (got != SECRET_SIZE) {
        memset(secret_key, 0, SECRET_SIZE);
        return got < 0 ? (int)got : DATSYNC_E_KEY;
    }
    return 0;
}

/* Make a folder, and those above it that are not there. */
static int secrets_mkdir(wchar_t *path)
{
    wchar_t *slash = wcsrchr(path, L'\\');

    if (CreateDirectoryW(path, NULL) || GetLastError() == ERROR_ALREADY_EXISTS)
        return 0;
    if (GetLastError() != ERROR_PATH_NOT_FOUND || slash == NULL || slash - path < 7)
        return os_last_error();
    *slash = 0;
    int error = secrets_mkdir(path);
    *slash = L'\\';
    return error != 0                                                               ? error
           : CreateDirectoryW(path, NULL) || GetLastError() == ERROR_ALREADY_EXISTS ? 0
                                                                                    : os_last_error();
}

/* The user's own folder is closed to others, and what is made in it is too. */
static int secrets_save(void *ctx, const uint8_t discovery_key[32], const uint8_t secret_key[64])
{
    secrets *s = ctx;
    HANDLE file;

    wchar_t *name = secrets_path(s, discovery_key);
    *name = 0;
    int error = secrets_mkdir(s->path);
    *name = L'\\';
    if (error != 0)
        return error;
    wchar_t *end = s->path + s->len + SECRET_NAME;
    wchar_t *final = malloc((s->len + SECRET_NAME + 1) * sizeof *final);
    if (final == NULL)
        return DATSYNC_E_NOMEM;
    wcscpy(final, s->path);
    wcscpy(end, L".new");
    error = file_open(s->path, 1, CREATE_ALWAYS, &file);
    if (error == 0) {
        error = file_write(file, 0, secret_key, SECRET_SIZE);
        error = error == 0 ? file_sync(file) : error;
        CloseHandle(file);
        if (error == 0 && !MoveFileExW(s->path, final, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH))
            error = os_last_error();
        if (error != 0)
            DeleteFileW(s->path);
    }
    *end = 0;
    free(final);
    return error;
}

static void secrets_close(void *ctx)
{
    secrets *s = ctx;

    free(s->path);
    free(s);
}

int datsync_os_home(char *out, size_t cap)
{
    wchar_t home[4096];
    DWORD len = GetEnvironmentVariableW(L"USERPROFILE", home, 4096);

    if (len == 0 || len >= 4096)
        return DATSYNC_E_NO_ENTRY;
    char *text = os_utf8(home);
    if (text == NULL)
        return DATSYNC_E_NOMEM;
    int fits = strlen(text) < cap;
    if (fits)
        strcpy(out, text);
    free(text);
    return fits ? 0 : DATSYNC_E_SPACE;
}

int datsync_os_secrets(datsync_secrets *out, const char *dir)
{
    static const char beneath_home[] = "\\.dat\\secret_keys";
    char home[DATSYNC_MAX_PATH + sizeof beneath_home];

    memset(out, 0, sizeof *out);
    if (dir == NULL) {
        int error = datsync_os_home(home, DATSYNC_MAX_PATH);
        if (error < 0)
            return error;
        strcat(home, beneath_home);
        dir = home;
    }
    secrets *s = malloc(sizeof *s);
    int error = s == NULL   ? DATSYNC_E_NOMEM
                : *dir == 0 ? DATSYNC_E_NO_ENTRY
                            : file_path(dir, SECRET_NAME + 8, &s->path);
    if (error != 0) {
        free(s);
        return error;
    }
    s->len = wcslen(s->path);
    out->ctx = s;
    out->load = secrets_load;
    out->save = secrets_save;
    out->close = secrets_close;
    return 0;
}
