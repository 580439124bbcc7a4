/* datsync as a peer under test: the adapter that the conformance suite runs (conformance/README.md has the contract).
 *
 *     adapter serve|clone --key HEX [--key HEX ...] --store DIR (--port N | --listen | --discovery-server N) [--live]
 *         [--drive]
 *     adapter codec
 *
 * Serving and cloning go through datsync.h alone, with the library's own limits and timeouts. It takes in datsync.c
 * whole, as the test driver does, for two ops of `codec`: digest and proof are asked about sets of held nodes that
 * no feed would get into, and the API rightly has no way to claim them.
 *
 *     cc -std=c99 -I. -o adapter conformance/adapters/datsync.c discovery.c discovery_dht.c net_posix.c -lsodium
 *
 * SPDX-License-Identifier: MIT
 */
#include "../../datsync.c"

#include "discovery.h"

#include <sodium.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#include <windows.h>
#endif

enum { DONE = 0, FAILED = 1, NOT_IMPLEMENTED = 89 };

/* How long a clone that has all waits for its peers to agree that the conversation is over. */
#define LEAVE_MS 2000u

static void say(const char *format, ...)
{
    va_list args;

    fputs("adapter: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static int fail(const char *what, int error)
{
    say("%s: %s", what, datsync_strerror(error));
    return FAILED;
}

static void *must(void *p)
{
    if (p == NULL) {
        say("out of memory");
        exit(FAILED);
    }
    return p;
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *found = c != 0 ? strchr(digits, c) : NULL;

    return found != NULL ? (int)(found - digits) % 16 : -1;
}

/* Hex in text[0..len) to out, which has room for half of it. 0, or -1 where it is no hex. */
static int from_hex(uint8_t *out, const char *text, size_t len)
{
    if (len % 2 != 0)
        return -1;
    for (size_t i = 0; i < len; i += 2) {
        int high = hex_digit(text[i]), low = hex_digit(text[i + 1]);
        if (high < 0 || low < 0)
            return -1;
        out[i / 2] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

static void to_hex(char *out, const uint8_t *bytes, size_t len)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < len; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    *out = 0;
}

/* ---------------------------------------------------------------- serve, clone ----------------------------------- */

typedef struct part {
    uint8_t key[32];
    datsync_feed *feed;
    uint64_t offered;  /* the longest length that anybody has offered */
    uint64_t complete; /* the length at which the library called it complete, and one more; 0: not yet */
} part;

typedef struct session {
    int cloning, live, listening, as_drive;
    unsigned listens_at;
    const char *store, *port, *server;
    part *parts;
    size_t count;
    datsync_env env;
    datsync_drive *drive;
    datsync *ds;
    datsync_discovery *discovery;
    int lost;          /* a connection has ended, or could not be made */
    uint64_t leave_at; /* all is here: connections have until then to come to their agreed end. 0: not yet */
    int outcome;       /* the exit code then */
    int ended, code;
    char *line; /* of standard input, as far as it has come */
    size_t line_len, line_cap;
} session;

static void end(session *s, int code)
{
    if (!s->ended) {
        s->ended = 1;
        s->code = code;
    }
}

/* A clone is done. It leaves when its connections have ended. */
static void done(session *s, int code)
{
    if (s->cloning && !s->live && s->leave_at == 0) {
        s->leave_at = datsync_os_clock(NULL) + LEAVE_MS;
        s->outcome = code;
    }
}

/* All that was offered is here. A remote may close right behind its last block. */
static int all_here(session *s)
{
    for (size_t i = 0; i < s->count; i++) {
        const part *p = &s->parts[i];
        uint64_t length = datsync_feed_length(p->feed);
        if (p->complete != length + 1 && (length == 0 || length < p->offered || datsync_feed_missing(p->feed) > 0))
            return 0;
    }
    return 1;
}

static void on_complete(session *s, const datsync_event *event)
{
    int all = 1;

    for (size_t i = 0; i < s->count; i++) {
        part *p = &s->parts[i];
        if (p->feed == event->feed)
            p->complete = event->index + 1;
        all = all && p->complete == datsync_feed_length(p->feed) + 1;
    }
    if (all)
        done(s, DONE);
}

/* Find peers by the discovery server alone, and announce the port, if there is one. */
static int look(session *s, unsigned port)
{
    char server[32];
    const char *const servers[] = {server};
    datsync_discovery_options options = {.env = &s->env,
                                         .net = datsync_os_net(),
                                         .ways = 1u << DATSYNC_BY_SERVER,
                                         .servers = servers,
                                         .server_count = 1};
    uint64_t now = datsync_os_clock(NULL);
    uint8_t key[32];

    snprintf(server, sizeof server, "127.0.0.1:%s", s->server);
    int error = datsync_discovery_new(&s->discovery, &options, now);
    if (error < 0)
        return error;
    datsync_discovery_key(key, s->parts[0].key);
    error = datsync_discovery_add(s->discovery, key, (uint16_t)port, now);
    if (error < 0)
        return error;
    datsync_source source = datsync_discovery_source(s->discovery);
    return datsync_add_source(s->ds, &source);
}

static void on_event(void *ctx, datsync *ds, const datsync_event *event)
{
    session *s = ctx;

    (void)ds;
    switch (event->type) {
    case DATSYNC_EV_LISTENING:
        s->listens_at = (unsigned)strtoul(strrchr(event->address, ':') + 1, NULL, 10);
        printf("PORT %u\n", s->listens_at);
        fflush(stdout);
        break;
    case DATSYNC_EV_DISCONNECTED:
    case DATSYNC_EV_UNREACHABLE:
        if (event->error != DATSYNC_E_DONE)
            say("%s: %s", event->address, datsync_strerror(event->error));
        s->lost = 1;
        if (event->type == DATSYNC_EV_UNREACHABLE && !s->live)
            end(s, s->leave_at > 0 ? s->outcome : FAILED);
        break;
    case DATSYNC_EV_REJECT:
        say("block %llu: %s", (unsigned long long)event->index, datsync_strerror(event->error));
        break;
    case DATSYNC_EV_COMPLETE:
        if (!s->as_drive)
            on_complete(s, event);
        break;
    case DATSYNC_EV_REFUSED:
        say("%s: %s", event->path, datsync_strerror(event->error));
        break;
    case DATSYNC_EV_VERSION: /* a version with files that could not be laid out is not a clone of it */
        done(s, event->size > 0 ? FAILED : DONE);
        break;
    case DATSYNC_EV_FAILED:
        end(s, fail(s->store, event->error));
        break;
    default:
        break;
    }
}

/* Standard input comes in pieces of at most so many bytes. */
#define PIECE 4096u

#ifdef _WIN32
/* Nothing tells beforehand whether a pipe has something: a thread waits for it, and with each piece until that is
 * taken. */
static struct {
    volatile LONG there;
    DWORD len; /* 0: the end */
    char bytes[PIECE];
} piece;

static DWORD WINAPI read_pieces(void *unused)
{
    (void)unused;
    do {
        if (!ReadFile(GetStdHandle(STD_INPUT_HANDLE), piece.bytes, PIECE, &piece.len, NULL))
            piece.len = 0;
        InterlockedExchange(&piece.there, 1);
        while (InterlockedCompareExchange(&piece.there, 0, 0) != 0)
            Sleep(1);
    } while (piece.len > 0);
    return 0;
}
#endif

/* One line of standard input. */
static void obey(session *s, const char *line, size_t len)
{
    static const char append[] = "append";
    size_t word = sizeof append - 1;

    if (len == 4 && memcmp(line, "stop", 4) == 0) {
        end(s, DONE);
        return;
    }
    if (len < word || memcmp(line, append, word) != 0 || s->as_drive) {
        if (len > 0) {
            say("standard input: neither append nor stop");
            end(s, FAILED);
        }
        return;
    }
    while (word < len && line[word] == ' ')
        word++;
    uint8_t *block = must(malloc(len));
    datsync_bytes bytes = {block, (len - word) / 2};
    int64_t error = from_hex(block, line + word, len - word) == 0 ? 0 : DATSYNC_E_INVALID;
    if (error == 0)
        error = datsync_feed_append(s->parts[0].feed, &bytes, 1);
    if (error > 0)
        error = datsync_feed_flush(s->parts[0].feed); /* what is committed is told to the peers */
    free(block);
    if (error < 0)
        end(s, fail("append", (int)error));
}

/* Poll these, which have room for one more; *input: take_input has something to say. */
static int wait_for(datsync_pollfd *fds, size_t n, int ms, int *input)
{
    const datsync_net *net = datsync_os_net();
#ifdef _WIN32
    int error = net->poll(net->ctx, fds, n, ms < 10 ? ms : 10); /* it knows sockets alone */

    *input = InterlockedCompareExchange(&piece.there, 0, 0) != 0;
#else
    fds[n].handle = 0;
    fds[n].events = DATSYNC_POLL_READ;
    fds[n].revents = 0;
    int error = net->poll(net->ctx, fds, n + 1, ms);

    *input = fds[n].revents != 0;
#endif
    *input |= datsync_os_stopped(NULL) != 0;
    return error;
}

static int64_t take_input(char *to, size_t room)
{
#ifdef _WIN32
    int64_t got = InterlockedCompareExchange(&piece.there, 0, 0) != 0 ? piece.len : 0;

    (void)room; /* there is enough for any */
    memcpy(to, piece.bytes, (size_t)got);
    InterlockedExchange(&piece.there, 0);
    return got;
#else
    return datsync_os_input(to, room);
#endif
}

static void read_input(session *s)
{
    if (s->line_cap - s->line_len < PIECE) {
        s->line_cap = 2 * s->line_cap + PIECE;
        s->line = must(realloc(s->line, s->line_cap));
    }
    int64_t got = take_input(s->line + s->line_len, s->line_cap - s->line_len);
    size_t from = 0, at = s->line_len;

    if (got > 0)
        s->line_len += (size_t)got;
    for (; at < s->line_len && !s->ended; at++) {
        if (s->line[at] == '\n') {
            obey(s, s->line + from, at - from);
            from = at + 1;
        }
    }
    memmove(s->line, s->line + from, s->line_len - from);
    s->line_len -= from;
    if (got <= 0) { /* the end of input, or a signal */
        if (!s->ended)
            obey(s, s->line, s->line_len);
        end(s, DONE);
    }
}

/* After each turn: what the connections that have ended mean. */
static void judge(session *s)
{
    for (size_t i = 0; i < s->count; i++) {
        uint64_t offered = datsync_offered(s->ds, s->parts[i].feed);
        if (offered > s->parts[i].offered)
            s->parts[i].offered = offered;
    }
    if (s->leave_at > 0 &&
        (datsync_candidates(s->ds) == 0 || (s->lost && !s->listening) || datsync_os_clock(NULL) >= s->leave_at))
        end(s, s->outcome);
    if (!s->lost || s->live)
        return;
    s->lost = 0;
    if (!s->cloning || (!s->as_drive && all_here(s))) {
        end(s, DONE);
    } else if (!s->listening) {
        say("the connection ended early");
        end(s, FAILED);
    }
}

static int loop(session *s)
{
    datsync_pollfd *fds = NULL;
    size_t cap = 0;
    int error = 0, input = 0;

    while (!s->ended && error >= 0) {
        size_t n = datsync_pollfds(s->ds, NULL, 0);
        if (n + 1 > cap) {
            cap = 2 * n + 8;
            fds = must(realloc(fds, cap * sizeof *fds));
        }
        (void)datsync_pollfds(s->ds, fds, n);
        uint64_t now = datsync_os_clock(NULL), deadline = datsync_deadline(s->ds);
        int wait = deadline <= now ? 0 : deadline - now > 1000 ? 1000 : (int)(deadline - now);
        error = wait_for(fds, n, wait, &input);
        if (error >= 0 && input)
            read_input(s);
        if (error >= 0) {
            error = datsync_step(s->ds, fds, n, datsync_os_clock(NULL));
            judge(s);
        }
    }
    free(fds);
    return error;
}

static int open_drive(session *s)
{
    datsync_drive_options options = {.env = &s->env, .key = s->parts[0].key};
    unsigned flags = s->cloning ? DATSYNC_CREATE : 0;
    size_t size = strlen(s->store) + sizeof "/.dat";
    char *inside = must(malloc(size));

    snprintf(inside, size, "%s/.dat", s->store);
    options.flags = flags;
    int error = datsync_os_files(&options.files, s->store, flags);
    if (error == 0)
        error = datsync_os_store(&options.metadata, inside, "metadata.", flags);
    if (error == 0)
        error = datsync_os_store(&options.content, inside, "content.", flags);
    free(inside);
    if (error < 0)
        return error; /* the process ends: what was opened goes with it */
    error = datsync_drive_open(&s->drive, &options);
    if (error == 0)
        s->parts[0].feed = datsync_drive_metadata(s->drive);
    return error;
}

/* The first key's files are in the folder itself, those of each further key in a folder of that name beneath it. */
static int open_feed(session *s, size_t i)
{
    part *p = &s->parts[i];
    datsync_feed_options options = {.env = &s->env, .key = p->key};
    size_t size = strlen(s->store) + 66;
    char *dir = must(malloc(size)), name[65];

    to_hex(name, p->key, 32);
    snprintf(dir, size, "%s%s%s", s->store, i > 0 ? "/" : "", i > 0 ? name : "");
    options.flags = s->cloning ? DATSYNC_CREATE : 0;
    int error = datsync_os_store(&options.store, dir, NULL, options.flags);
    free(dir);
    return error < 0 ? error : datsync_feed_open(&p->feed, &options);
}

static int start(session *s)
{
    datsync_options options = {
        .env = &s->env, .net = datsync_os_net(), .live = s->live, .ctx = s, .on_event = on_event};
    unsigned mode = s->cloning ? DATSYNC_DOWNLOAD | DATSYNC_UPLOAD : DATSYNC_UPLOAD;
    char address[32];
    int error = 0;

    for (size_t i = 0; i < s->count && error == 0; i++)
        error = s->as_drive ? open_drive(s) : open_feed(s, i);
    if (error == 0)
        error = datsync_new(&s->ds, &options, datsync_os_clock(NULL));
    if (error == 0 && s->as_drive)
        error = datsync_add_drive(s->ds, s->drive, mode);
    for (size_t i = 0; i < s->count && error == 0 && !s->as_drive; i++)
        error = datsync_add(s->ds, s->parts[i].feed, mode);
    if (error < 0)
        return fail(s->store, error);
    snprintf(address, sizeof address, "127.0.0.1:%s", s->port == NULL ? "0" : s->port);
    if (s->listening)
        error = datsync_listen(s->ds, address);
    else if (s->port != NULL)
        error = datsync_connect(s->ds, address, datsync_os_clock(NULL));
    if (error == 0 && s->server != NULL)
        error = look(s, s->listens_at);
    return error < 0 ? fail(s->port != NULL || s->listening ? address : s->server, error) : DONE;
}

static int run(session *s)
{
    (void)datsync_os_signals();
#ifdef _WIN32
    CreateThread(NULL, 0, read_pieces, NULL, 0, NULL);
#endif
    int code = start(s);
    if (code == DONE) {
        int error = loop(s);
        code = error < 0 ? fail("network", error) : s->code;
    }
    int error = s->ds != NULL ? datsync_free(s->ds) : 0, closed;
    datsync_discovery_free(s->discovery);
    if (s->drive != NULL) {
        closed = datsync_drive_close(s->drive);
        error = error < 0 ? error : closed;
    }
    for (size_t i = 0; i < s->count && !s->as_drive; i++) {
        closed = s->parts[i].feed != NULL ? datsync_feed_close(s->parts[i].feed) : 0;
        error = error < 0 ? error : closed;
    }
    return error < 0 ? fail(s->store, error) : code;
}

static int replicate(int argc, char **argv)
{
    session s;
    int code = DONE;

    memset(&s, 0, sizeof s);
    s.cloning = strcmp(argv[1], "clone") == 0;
    s.env.clock = datsync_os_clock;
    s.parts = must(calloc((size_t)argc, sizeof *s.parts));
    for (int i = 2; i < argc && code == DONE; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        int has_value = strcmp(name, "--key") == 0 || strcmp(name, "--store") == 0 || strcmp(name, "--port") == 0 ||
                        strcmp(name, "--discovery-server") == 0;
        if (strcmp(name, "--listen") == 0) {
            s.listening = 1;
        } else if (strcmp(name, "--live") == 0) {
            s.live = 1;
        } else if (strcmp(name, "--drive") == 0) {
            s.as_drive = 1;
        } else if (!has_value) {
            say("no option %s", name);
            code = NOT_IMPLEMENTED;
        } else if (value == NULL) {
            say("no value for %s", name);
            code = FAILED;
        } else if (strcmp(name, "--store") == 0) {
            s.store = value;
        } else if (strcmp(name, "--port") == 0) {
            s.port = value;
        } else if (strcmp(name, "--discovery-server") == 0) {
            s.server = value;
        } else if (strlen(value) != 64 || from_hex(s.parts[s.count++].key, value, 64) < 0) {
            say("a key is 64 hexadecimal digits");
            code = FAILED;
        }
        i += has_value;
    }
    int by_server = s.cloning && s.server != NULL && !s.listening;
    if (code == DONE && (s.count == 0 || s.store == NULL || s.listening + (s.port != NULL) + by_server != 1)) {
        say("--key, --store, and one of --port, --listen and, to clone, --discovery-server");
        code = FAILED;
    }
    if (code == DONE && s.as_drive && s.count > 1) {
        say("one drive at a time");
        code = NOT_IMPLEMENTED;
    }
    if (code == DONE)
        code = run(&s);
    free(s.line);
    free(s.parts);
    return code;
}

/* ---------------------------------------------------------------- codec: JSON ------------------------------------ */

/* One line is one value. All that a line needs is freed with it. */
enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

typedef struct json {
    enum json_kind kind;
    int truth;
    char *text; /* a string, or a number as it was written */
    size_t len;
    char *name;                /* of a member */
    struct json *first, *next; /* members, items */
} json;

/* Memory of the line, and what went wrong on it. */
typedef struct memory {
    struct memory *next;
    uint64_t align;
} memory;

static memory *line_memory;
static const char *line_error;

static void *take(size_t size)
{
    memory *m = must(calloc(1, sizeof *m + size + 1));

    m->next = line_memory;
    line_memory = m;
    return m + 1;
}

static void forget(void)
{
    while (line_memory != NULL) {
        memory *m = line_memory;
        line_memory = m->next;
        free(m);
    }
}

/* The first complaint counts. */
static void wrong(const char *why)
{
    if (line_error == NULL)
        line_error = why;
}

static const char *json_space(const char *at)
{
    return at + strspn(at, " \t\r\n");
}

static size_t utf8(char *out, unsigned long code)
{
    static const unsigned char first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t size = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

    for (size_t i = size - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 63));
    out[0] = (char)(first[size == 1 ? 0 : size] | code);
    return size;
}

/* XXXX of \uXXXX; what is not that reads as more than it can say. */
static unsigned long json_code(const char *at)
{
    unsigned long code = 0;

    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(at[i]);
        if (digit < 0)
            return 0x110000;
        code = code << 4 | (unsigned)digit;
    }
    return code;
}

/* What stands behind a backslash. */
static const char *json_escape(const char *at, char **out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *known = *at != 0 ? strchr(from, *at) : NULL;
    unsigned long code, low;

    if (known != NULL) {
        *(*out)++ = to[known - from];
        return at + 1;
    }
    code = *at == 'u' ? json_code(at + 1) : 0x110000;
    if (code > 0xffff) {
        wrong("a string's escape");
        return at;
    }
    at += 5;
    if (code >> 10 == 0xd800 >> 10 && at[0] == '\\' && at[1] == 'u') { /* a pair of surrogates is one letter */
        low = json_code(at + 2);
        if (low >> 10 == 0xdc00 >> 10) {
            code = 0x10000 + ((code & 0x3ff) << 10 | (low & 0x3ff));
            at += 6;
        }
    }
    *out += utf8(*out, code);
    return at;
}

/* Behind the opening quote. */
static const char *json_text(const char *at, char **out, size_t *len)
{
    size_t most = 0;

    while (at[most] != '"' && at[most] != 0)
        most += at[most] == '\\' && at[most + 1] != 0 ? 2 : 1;
    char *end_of_text = *out = take(most);

    while (*at != '"' && *at != 0 && line_error == NULL)
        if (*at == '\\')
            at = json_escape(at + 1, &end_of_text);
        else
            *end_of_text++ = *at++;
    if (*at != '"') {
        wrong("a string without an end");
        return at;
    }
    *len = (size_t)(end_of_text - *out);
    return at + 1;
}

static const char *json_value(const char *at, json *out, int depth);

static const char *json_members(const char *at, json *out, int depth)
{
    char close = out->kind == JSON_OBJECT ? '}' : ']';
    json **last = &out->first;
    size_t len;

    at = json_space(at);
    while (*at != close && line_error == NULL) {
        json *each = take(sizeof *each);
        if (out->kind == JSON_OBJECT) {
            if (*at != '"') {
                wrong("a member without a name");
                return at;
            }
            at = json_space(json_text(at + 1, &each->name, &len));
            if (*at++ != ':') {
                wrong("a member without a value");
                return at - 1;
            }
        }
        char *name = each->name;
        at = json_space(json_value(at, each, depth + 1));
        each->name = name;
        *last = each;
        last = &each->next;
        if (*at == ',')
            at = json_space(at + 1);
        else if (*at != close)
            wrong("an object or array without an end");
    }
    return *at == close ? at + 1 : at;
}

static const char *json_value(const char *at, json *out, int depth)
{
    at = json_space(at);
    memset(out, 0, sizeof *out);
    if (depth > 16) {
        wrong("too deep");
    } else if (*at == '{' || *at == '[') {
        out->kind = *at == '{' ? JSON_OBJECT : JSON_ARRAY;
        return json_members(at + 1, out, depth);
    } else if (*at == '"') {
        out->kind = JSON_STRING;
        return json_text(at + 1, &out->text, &out->len);
    } else if (strncmp(at, "true", 4) == 0 || strncmp(at, "false", 5) == 0) {
        out->kind = JSON_BOOL;
        out->truth = *at == 't';
        return at + (out->truth ? 4 : 5);
    } else if (strncmp(at, "null", 4) == 0) {
        return at + 4;
    } else if ((out->len = strspn(at, "0123456789")) > 0) {
        out->kind = JSON_NUMBER;
        out->text = take(out->len);
        memcpy(out->text, at, out->len);
        return at + out->len;
    } else {
        wrong("this is no JSON");
    }
    return at;
}

static const json *member(const json *object, const char *name)
{
    const json *found = object->first;

    while (found != NULL && (object->kind != JSON_OBJECT || strcmp(found->name, name) != 0))
        found = found->next;
    return found != NULL && found->kind == JSON_NULL ? NULL : found;
}

static const json *need(const json *object, const char *name)
{
    static const json nothing = {.kind = JSON_NULL};
    const json *found = member(object, name);

    if (found == NULL)
        wrong("something is missing");
    return found != NULL ? found : &nothing;
}

/* A uint, as text or as a number. */
static uint64_t as_number(const json *value)
{
    uint64_t number = 0;

    if ((value->kind != JSON_STRING && value->kind != JSON_NUMBER) || value->len == 0) {
        wrong("not a number");
        return 0;
    }
    for (size_t i = 0; i < value->len; i++) {
        unsigned digit = (unsigned)value->text[i] - '0';
        if (digit > 9 || number > (UINT64_MAX - digit) / 10) {
            wrong("not a number of 64 bits");
            return 0;
        }
        number = number * 10 + digit;
    }
    return number;
}

static datsync_bytes as_bytes(const json *value)
{
    datsync_bytes bytes = {NULL, 0};

    if (value->kind != JSON_STRING) {
        wrong("not hex");
        return bytes;
    }
    uint8_t *data = take(value->len / 2);
    if (from_hex(data, value->text, value->len) < 0) {
        wrong("not hex");
        return bytes;
    }
    bytes.data = data;
    bytes.len = value->len / 2;
    return bytes;
}

/* Bytes of one size; zeros where they are of another. */
static const uint8_t *as_exactly(const json *value, size_t size)
{
    datsync_bytes bytes = as_bytes(value);

    if (bytes.len != size) {
        wrong("bytes of the wrong size");
        return take(size);
    }
    return bytes.data;
}

static int as_truth(const json *value)
{
    if (value->kind != JSON_BOOL)
        wrong("neither true nor false");
    return value->truth;
}

static datsync_node as_node(const json *value)
{
    datsync_node node;

    memset(&node, 0, sizeof node);
    if (member(value, "index") != NULL)
        node.index = as_number(member(value, "index"));
    node.size = as_number(need(value, "size"));
    memcpy(node.hash, as_exactly(need(value, "hash"), 32), 32);
    return node;
}

/* An array's items as nodes. */
static datsync_node *as_nodes(const json *value, size_t *count)
{
    datsync_node *nodes;
    const json *each;

    *count = 0;
    if (value->kind != JSON_ARRAY)
        wrong("not an array");
    for (each = value->first; each != NULL; each = each->next)
        ++*count;
    nodes = take(*count * sizeof *nodes);
    *count = 0;
    for (each = value->first; each != NULL; each = each->next)
        nodes[(*count)++] = as_node(each);
    return nodes;
}

/* ---------------------------------------------------------------- codec: the answer ------------------------------ */

/* It is gathered, as an error may come late. */
static char *told;
static size_t told_len, told_cap;

static void tell(const char *text, size_t len)
{
    if (told_len + len + 1 > told_cap) {
        told_cap = 2 * (told_len + len + 1);
        told = must(realloc(told, told_cap));
    }
    memcpy(told + told_len, text, len);
    told_len += len;
    told[told_len] = 0;
}

static void tell_text(const char *text)
{
    tell(text, strlen(text));
}

/* The comma is left out behind an opening bracket. */
static void tell_name(const char *name)
{
    if (told_len > 0 && strchr("{[", told[told_len - 1]) == NULL)
        tell_text(",");
    if (name != NULL) {
        tell_text("\"");
        tell_text(name);
        tell_text("\":");
    }
}

static void tell_number(const char *name, uint64_t number)
{
    char text[32];

    tell_name(name);
    snprintf(text, sizeof text, "\"%llu\"", (unsigned long long)number);
    tell_text(text);
}

static void tell_truth(const char *name, int truth)
{
    tell_name(name);
    tell_text(truth ? "true" : "false");
}

static void tell_hex(const char *name, const uint8_t *bytes, size_t len)
{
    char *text = take(2 * len);

    tell_name(name);
    to_hex(text, bytes, len);
    tell_text("\"");
    tell(text, 2 * len);
    tell_text("\"");
}

/* Text of a remote: what is no ASCII that can be shown is told by its number. */
static void tell_string(const char *name, const char *text, size_t len)
{
    char escape[8];

    tell_name(name);
    tell_text("\"");
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == '"' || c == '\\' || c == 0x7f) {
            snprintf(escape, sizeof escape, "\\u%04x", c);
            tell_text(escape);
        } else {
            tell(text + i, 1);
        }
    }
    tell_text("\"");
}

static void tell_node(const datsync_node *node)
{
    tell_name(NULL);
    tell_text("{");
    tell_number("index", node->index);
    tell_hex("hash", node->hash, 32);
    tell_number("size", node->size);
    tell_text("}");
}

/* ---------------------------------------------------------------- codec: messages -------------------------------- */

typedef struct column {
    int type;
    unsigned tag; /* 0: no protobuf */
    const char *name;
    char kind; /* u a number, b a bool, x bytes, s names, n nodes */
    size_t at;
} column;

#define COLUMN(type, tag, name, kind, member)                                                                          \
    {                                                                                                                  \
        type, tag, name, kind, offsetof(datsync_message, u.member)                                                     \
    }

static const char *const type_names[] = {"Feed", "Handshake", "Info",    "Have",   "Unhave",
                                         "Want", "Unwant",    "Request", "Cancel", "Data"};

static const column columns[] = {
    COLUMN(DATSYNC_FEED, 1, "discoveryKey", 'x', feed.discovery_key),
    COLUMN(DATSYNC_FEED, 2, "nonce", 'x', feed.nonce),
    COLUMN(DATSYNC_HANDSHAKE, 1, "id", 'x', handshake.id),
    COLUMN(DATSYNC_HANDSHAKE, 2, "live", 'b', handshake.live),
    COLUMN(DATSYNC_HANDSHAKE, 3, "userData", 'x', handshake.user_data),
    COLUMN(DATSYNC_HANDSHAKE, 4, "extensions", 's', handshake.extensions),
    COLUMN(DATSYNC_HANDSHAKE, 5, "ack", 'b', handshake.ack),
    COLUMN(DATSYNC_INFO, 1, "uploading", 'b', info.uploading),
    COLUMN(DATSYNC_INFO, 2, "downloading", 'b', info.downloading),
    COLUMN(DATSYNC_HAVE, 1, "start", 'u', have.start),
    COLUMN(DATSYNC_HAVE, 2, "length", 'u', have.length),
    COLUMN(DATSYNC_HAVE, 3, "bitfield", 'x', have.bitfield),
    COLUMN(DATSYNC_HAVE, 4, "ack", 'b', have.ack),
    COLUMN(DATSYNC_UNHAVE, 1, "start", 'u', have.start),
    COLUMN(DATSYNC_UNHAVE, 2, "length", 'u', have.length),
    COLUMN(DATSYNC_WANT, 1, "start", 'u', have.start),
    COLUMN(DATSYNC_WANT, 2, "length", 'u', have.length),
    COLUMN(DATSYNC_UNWANT, 1, "start", 'u', have.start),
    COLUMN(DATSYNC_UNWANT, 2, "length", 'u', have.length),
    COLUMN(DATSYNC_REQUEST, 1, "index", 'u', request.index),
    COLUMN(DATSYNC_REQUEST, 2, "bytes", 'u', request.bytes),
    COLUMN(DATSYNC_REQUEST, 3, "hash", 'b', request.hash),
    COLUMN(DATSYNC_REQUEST, 4, "nodes", 'u', request.nodes),
    COLUMN(DATSYNC_CANCEL, 1, "index", 'u', request.index),
    COLUMN(DATSYNC_CANCEL, 2, "bytes", 'u', request.bytes),
    COLUMN(DATSYNC_CANCEL, 3, "hash", 'b', request.hash),
    COLUMN(DATSYNC_DATA, 1, "index", 'u', data.index),
    COLUMN(DATSYNC_DATA, 2, "value", 'x', data.value),
    COLUMN(DATSYNC_DATA, 3, "nodes", 'n', data.nodes),
    COLUMN(DATSYNC_DATA, 4, "signature", 'x', data.signature),
    COLUMN(DATSYNC_EXTENSION, 0, "id", 'u', extension.id),
    COLUMN(DATSYNC_EXTENSION, 0, "payload", 'x', extension.payload),
};

static void tell_repeated(const column *f, const datsync_message *m)
{
    datsync_bytes name;
    datsync_node node;
    size_t at = 0, count = 0;

    if (f->kind == 's') {
        for (; datsync_next_extension(m, &at, &name) == 1; count++) {
            if (count == 0) {
                tell_name(f->name);
                tell_text("[");
            }
            tell_string(NULL, (const char *)name.data, name.len);
        }
    } else {
        for (; datsync_next_node(m, &at, &node) == 1; count++) {
            if (count == 0) {
                tell_name(f->name);
                tell_text("[");
            }
            tell_node(&node);
        }
    }
    if (count > 0)
        tell_text("]");
}

static void tell_field(const column *f, const datsync_message *m)
{
    const char *place = (const char *)m + f->at;
    uint64_t number;
    datsync_bytes bytes;

    if (f->kind == 's' || f->kind == 'n') {
        tell_repeated(f, m);
        return;
    }
    if (f->tag > 0 && (m->has >> f->tag & 1) == 0)
        return;
    if (f->kind == 'x') {
        memcpy(&bytes, place, sizeof bytes);
        tell_hex(f->name, bytes.data, bytes.len);
        return;
    }
    memcpy(&number, place, sizeof number);
    if (f->kind == 'b')
        tell_truth(f->name, number != 0);
    else
        tell_number(f->name, number);
}

static void op_decode(const json *q)
{
    datsync_bytes frame = as_bytes(need(q, "frame"));
    uint8_t *framed = take(frame.len + 10);
    datsync_message m;

    if (line_error != NULL)
        return;
    int prefix = datsync_varint_encode(framed, frame.len);
    if (frame.len > 0)
        memcpy(framed + prefix, frame.data, frame.len);
    memset(&m, 0, sizeof m);
    int64_t taken = datsync_decode(&m, framed, (size_t)prefix + frame.len, NULL);
    if (frame.len < 2 || (m.type > DATSYNC_DATA && m.type < DATSYNC_EXTENSION)) {
        tell_truth("ignored", 1);
        return;
    }
    if (taken < 0 || m.channel >= DATSYNC_MAX_CHANNELS) {
        wrong(datsync_strerror(taken < 0 ? (int)taken : DATSYNC_E_PROTOCOL));
        return;
    }
    tell_number("channel", m.channel);
    tell_number("type", (uint64_t)m.type);
    tell_name("message");
    tell_text("\"");
    tell_text(m.type == DATSYNC_EXTENSION ? "Extension" : type_names[m.type]);
    tell_text("\"");
    tell_name("fields");
    tell_text("{");
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        if (columns[i].type == m.type)
            tell_field(&columns[i], &m);
    tell_text("}");
}

/* A type by its number or its name. */
static int as_type(const json *value)
{
    for (int i = 0; i <= DATSYNC_DATA && value->kind == JSON_STRING; i++)
        if (strcmp(value->text, type_names[i]) == 0)
            return i;
    if (value->kind == JSON_STRING && strcmp(value->text, "Extension") == 0)
        return DATSYNC_EXTENSION;
    uint64_t number = as_number(value);
    if (number > DATSYNC_DATA && number != DATSYNC_EXTENSION)
        wrong("no message of this type");
    return line_error != NULL ? 0 : (int)number;
}

static void put_repeated(datsync_message *m, const column *f, const json *value)
{
    if (f->kind == 'n') {
        m->u.data.nodes = as_nodes(value, &m->u.data.node_count);
        return;
    }
    size_t count = 0;
    datsync_bytes *names;
    const json *each;
    for (each = value->first; each != NULL; each = each->next)
        count++;
    names = take(count * sizeof *names);
    m->u.handshake.extensions = names;
    m->u.handshake.extension_count = count;
    for (each = value->first; each != NULL; each = each->next, names++) {
        names->data = (const uint8_t *)(each->text != NULL ? each->text : "");
        names->len = each->len;
    }
}

static void put_field(datsync_message *m, const json *value)
{
    const column *f = NULL;

    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        if (columns[i].type == m->type && strcmp(columns[i].name, value->name) == 0)
            f = &columns[i];
    if (f == NULL) {
        wrong("no such field");
        return;
    }
    char *place = (char *)m + f->at;
    m->has |= f->tag > 0 ? 1u << f->tag : 0;
    if (f->kind == 's' || f->kind == 'n') {
        put_repeated(m, f, value);
    } else if (f->kind == 'x') {
        datsync_bytes bytes = as_bytes(value);
        memcpy(place, &bytes, sizeof bytes);
    } else {
        uint64_t number = f->kind == 'b' ? (uint64_t)as_truth(value) : as_number(value);
        memcpy(place, &number, sizeof number);
    }
}

static void op_encode(const json *q)
{
    const json *type = member(q, "message"), *on = member(q, "channel"), *values = member(q, "fields");
    datsync_message m;
    size_t gap, skip = 0;

    memset(&m, 0, sizeof m);
    m.type = as_type(type != NULL ? type : need(q, "type"));
    uint64_t number = on != NULL ? as_number(on) : 0;
    if (number >= DATSYNC_MAX_CHANNELS)
        wrong("no such channel");
    m.channel = (unsigned)number;
    for (const json *v = values != NULL ? values->first : NULL; v != NULL && line_error == NULL; v = v->next)
        if (v->name == NULL)
            wrong("fields are no object");
        else
            put_field(&m, v);
    if (line_error != NULL)
        return;
    int64_t size = datsync_encode(&m, NULL, 0, &gap);
    uint8_t *frame = take(size > 0 ? (size_t)size : 0);
    if (size > 0)
        size = datsync_encode(&m, frame, (size_t)size, &gap);
    if (size < 0) {
        wrong(datsync_strerror((int)size));
        return;
    }
    while (frame[skip++] & 0x80) {
    }
    tell_hex("frame", frame + skip, (size_t)size - skip);
}

/* ---------------------------------------------------------------- codec: the rest -------------------------------- */

static void op_rle_decode(const json *q)
{
    const json *limit = member(q, "limit");
    datsync_bytes code = as_bytes(need(q, "bytes"));
    uint64_t most = limit != NULL ? as_number(limit) : DATSYNC_WANT_RANGE;
    int64_t size = datsync_rle_size(code.data, code.len, most < DATSYNC_MAX_FRAME ? (size_t)most : DATSYNC_MAX_FRAME);

    if (line_error == NULL && size >= 0) {
        uint8_t *plain = take((size_t)size);
        size = datsync_rle_decode(code.data, code.len, plain, (size_t)size);
        if (size >= 0)
            tell_hex("bits", plain, (size_t)size);
    }
    if (size < 0)
        wrong(datsync_strerror((int)size));
}

static void op_rle_encode(const json *q)
{
    datsync_bytes plain = as_bytes(need(q, "bits"));
    size_t cap = plain.len + plain.len / 64 + 16;
    uint8_t *code = take(cap);
    int64_t size = datsync_rle_encode(plain.data, plain.len, code, cap);

    if (size < 0)
        wrong(datsync_strerror((int)size));
    else
        tell_hex("bytes", code, (size_t)size);
}

static void op_discovery_key(const json *q)
{
    uint8_t out[32];

    datsync_discovery_key(out, as_exactly(need(q, "key"), 32));
    tell_hex("discoveryKey", out, 32);
}

static void op_leaf(const json *q)
{
    datsync_bytes data = as_bytes(need(q, "data"));
    datsync_node out;

    datsync_leaf_hashes(&out, &data, 1);
    tell_hex("hash", out.hash, 32);
}

static void op_parent(const json *q)
{
    datsync_node left = as_node(need(q, "left")), right = as_node(need(q, "right")), out;

    left.index = 0;
    right.index = 2;
    if (left.size > UINT64_MAX - right.size) {
        wrong("sizes add up to more than 64 bits");
        return;
    }
    datsync_parent_hash(&out, &left, &right);
    tell_hex("hash", out.hash, 32);
    tell_number("size", out.size);
}

static void op_root(const json *q)
{
    size_t count;
    datsync_node *roots = as_nodes(need(q, "roots"), &count);
    uint8_t out[32];

    datsync_root_hash(out, roots, count);
    tell_hex("hash", out, 32);
}

/* Signatures are libsodium's; the library has none of its own. */
static void op_sign(const json *q)
{
    datsync_bytes message = as_bytes(need(q, "message"));
    uint8_t out[64];

    crypto_sign_detached(out, NULL, message.data, message.len, as_exactly(need(q, "secretKey"), 64));
    tell_hex("signature", out, 64);
}

static void op_verify(const json *q)
{
    datsync_bytes message = as_bytes(need(q, "message")), signature = as_bytes(need(q, "signature"));
    const uint8_t *key = as_exactly(need(q, "key"), 32);

    tell_truth("valid",
               signature.len == 64 && crypto_sign_verify_detached(signature.data, message.data, message.len, key) == 0);
}

static void op_keystream(const json *q)
{
    uint64_t length = as_number(need(q, "length"));
    datsync_cipher cipher;

    if (length > DATSYNC_MAX_FRAME) {
        wrong("too long");
        return;
    }
    uint8_t *bytes = take((size_t)length);
    datsync_cipher_init(&cipher, as_exactly(need(q, "key"), 32), as_exactly(need(q, "nonce"), 24));
    cipher.at = as_number(need(q, "offset"));
    datsync_cipher_xor(&cipher, bytes, (size_t)length);
    tell_hex("bytes", bytes, (size_t)length);
}

/* The node at `index` of a feed whose blocks are all the same made-up one: all nodes of a depth are alike, and prove
 * each other. */
static datsync_node alike(uint64_t index)
{
    datsync_node node = {0, 1, {1}}, sibling, parent;
    unsigned depth = datsync_flat_depth(index);

    while (datsync_flat_depth(node.index) < depth) {
        sibling = node;
        sibling.index = datsync_flat_sibling(node.index);
        datsync_parent_hash(&parent, &node, &sibling);
        node = parent;
    }
    node.index = index;
    return node;
}

/* Somebody who holds every block below `length`, and the tree indexes of the ranges in `held`. What is static needs no
 * signatures. */
static datsync_feed *holder(const json *q)
{
    enum { MOST = 1 << 20 };
    const json *length = member(q, "length"), *held = member(q, "held");
    datsync_feed_options options = {.flags = DATSYNC_CREATE};
    datsync_feed *feed = NULL;
    datsync_node node;
    uint64_t end, blocks = length != NULL ? as_number(length) : 0;

    if (blocks > MOST / 2)
        wrong("too long");
    if (line_error != NULL || datsync_feed_open(&feed, &options) < 0) {
        wrong("no feed");
        return NULL;
    }
    feed->is_static = 1;
    for (uint64_t i = 0; i < blocks; i++)
        (void)tree_claim(feed, 2 * i);
    for (const json *range = held != NULL ? held->first : NULL; range != NULL; range = range->next) {
        if (range->kind != JSON_ARRAY || range->first == NULL || range->first->next == NULL) {
            wrong("a range is an array of two");
            break;
        }
        end = as_number(range->first->next);
        for (uint64_t i = as_number(range->first); i < end && i < MOST; i++)
            (void)tree_claim(feed, i);
    }
    end = bits_length(&feed->nodes);
    for (uint64_t i = 0; i < end; i++) {
        if (bits_get(&feed->nodes, i)) {
            node = alike(i);
            (void)tree_put(feed, &node);
        }
    }
    return feed;
}

static void op_digest(const json *q)
{
    uint64_t index = as_number(need(q, "index"));
    datsync_feed *feed = holder(q);

    if (feed != NULL) {
        tell_number("digest", datsync_feed_digest(feed, index));
        (void)datsync_feed_close(feed);
    }
}

static void op_proof(const json *q)
{
    uint64_t index = as_number(need(q, "index"));
    const json *digest = member(q, "digest"), *hash = member(q, "hash");
    uint64_t said = digest != NULL ? as_number(digest) : 0;
    int with_hash = hash != NULL && as_truth(hash);
    datsync_feed *feed = holder(q);
    datsync_proof proof;

    if (feed == NULL)
        return;
    int result = datsync_feed_proof(feed, index, said, with_hash, &proof);
    (void)datsync_feed_close(feed);
    tell_name("nodes");
    if (result == DATSYNC_E_NOT_FOUND) {
        tell_text("null");
        tell_number("verifiedBy", 0);
        return;
    }
    if (result < 0) {
        wrong(datsync_strerror(result));
        return;
    }
    tell_text("[");
    for (size_t i = 0; i < proof.node_count; i++)
        tell_number(NULL, proof.nodes[i].index);
    tell_text("]");
    tell_number("verifiedBy", 2 * proof.length);
}

/* ---------------------------------------------------------------- codec: discovery ------------------------------- */

/* Questions and records of one packet that is written here, and peers or nodes of one list. */
enum { MOST_ITEMS = 64, MOST_PEERS = 256 };

static const char *const part_names[] = {"question", "answer", "authority", "additional"};

/* A number of at most `most`, or of none if it is not there. */
static uint64_t as_number_up_to(const json *value, uint64_t most)
{
    uint64_t number = as_number(value);

    if (number > most)
        wrong("too high a number");
    return number <= most ? number : 0;
}

/* Whether there is one more of a list, and room for it. */
static int room(const json *each, int is_room)
{
    if (each != NULL && !is_room)
        wrong("too many");
    return each != NULL && is_room;
}

static int has_member(const json *object, const char *name, const json **value)
{
    *value = member(object, name);
    return *value != NULL;
}

/* HOST:PORT of IPv4; of an A record, which has no port, HOST. */
static datsync_ip as_ip(const json *value, int with_port)
{
    char text[DATSYNC_IP_TEXT] = "";
    datsync_ip ip;

    memset(&ip, 0, sizeof ip);
    if (value->kind == JSON_STRING)
        snprintf(text, sizeof text, "%s%s", value->text, with_port ? "" : ":0");
    if (datsync_ip_parse(&ip, text) < 0 || ip.size != 4)
        wrong("not an address");
    return ip;
}

static void tell_ip(const char *name, const datsync_ip *ip, int with_port)
{
    char text[DATSYNC_IP_TEXT];

    datsync_ip_text(ip, text);
    tell_string(name, text, with_port ? strlen(text) : strcspn(text, ":"));
}

/* Labels with dots between them. */
static void tell_domain(const char *name, const uint8_t *domain, size_t len)
{
    char *text = take(len);
    size_t at = 0;

    while (at < len && domain[at] > 0) {
        memcpy(text + at, domain + at + 1, domain[at]);
        at += domain[at] + 1u;
        text[at - 1] = '.';
    }
    tell_string(name, text, at > 0 ? at - 1 : 0);
}

static void tell_said(const datsync_dns_item *record)
{
    datsync_ip peer;

    if (record->has & DATSYNC_DNS_SUBSCRIBE)
        tell_truth("subscribe", 1);
    if (record->has & DATSYNC_DNS_TOKEN)
        tell_hex("token", record->token.data, record->token.len);
    if (record->has & DATSYNC_DNS_HOST)
        tell_hex("host", record->host.data, record->host.len);
    if (record->has & DATSYNC_DNS_PORT)
        tell_number("port", record->port);
    if (record->has & DATSYNC_DNS_PEERS) {
        tell_name("peers");
        tell_text("[");
        for (size_t i = 0; datsync_dns_peer(record, i, &peer); i++)
            tell_ip(NULL, &peer, 1);
        tell_text("]");
    }
    if (record->has & DATSYNC_DNS_ANNOUNCE)
        tell_number("announce", record->announce);
    if (record->has & DATSYNC_DNS_UNANNOUNCE)
        tell_number("unannounce", record->unannounce);
    if (record->target.size > 0)
        tell_ip("target", &record->target, record->type == DATSYNC_DNS_SRV);
}

static void tell_record(const datsync_dns_item *record)
{
    tell_name(NULL);
    tell_text("{");
    tell_string("part", part_names[record->part], strlen(part_names[record->part]));
    tell_domain("name", record->domain, record->domain_len);
    tell_number("type", record->type);
    tell_number("class", record->cls);
    if (record->about == DATSYNC_DNS_NAME)
        tell_hex("feed", record->name, DATSYNC_NAME_BYTES);
    if (record->part != DATSYNC_DNS_QUESTION) {
        tell_number("ttl", record->ttl);
        tell_said(record);
    }
    tell_text("}");
}

static void op_dns_decode(const json *q)
{
    datsync_bytes bytes = as_bytes(need(q, "bytes"));
    datsync_dns_cursor cursor = {0, 0};
    datsync_dns_item record;
    datsync_dns m;

    if (line_error != NULL)
        return;
    int error = datsync_dns_parse(&m, bytes.data, bytes.len);
    if (error < 0) {
        wrong(datsync_strerror(error));
        return;
    }
    tell_number("id", m.id);
    tell_number("flags", m.flags);
    tell_name("items");
    tell_text("[");
    while (datsync_dns_next(&m, &cursor, &record))
        tell_record(&record);
    tell_text("]");
}

/* A name with dots, as labels. */
static void put_domain(datsync_dns_item *record, const json *name)
{
    const char *at = name->kind == JSON_STRING ? name->text : "",
               *end = at + (name->kind == JSON_STRING ? name->len : 0);

    while (at < end) {
        const char *dot = memchr(at, '.', (size_t)(end - at));
        size_t len = (size_t)((dot != NULL ? dot : end) - at);
        if (len == 0 || len > 63 || record->domain_len + len + 2 > sizeof record->domain) {
            wrong("not a name");
            return;
        }
        record->domain[record->domain_len++] = (uint8_t)len;
        memcpy(record->domain + record->domain_len, at, len);
        record->domain_len += len;
        at += len + (dot != NULL);
    }
    record->domain[record->domain_len++] = 0;
}

static void put_list(datsync_dns_item *record, const json *peers)
{
    datsync_ip *list = take(MOST_PEERS * sizeof *list);

    record->list = list;
    for (const json *each = peers->first; room(each, record->list_count < MOST_PEERS); each = each->next)
        list[record->list_count++] = as_ip(each, 1);
}

static void put_record(datsync_dns_item *record, const json *given)
{
    static const struct {
        const char *name;
        uint32_t has;
        size_t at;
    } ports[] = {{"port", DATSYNC_DNS_PORT, offsetof(datsync_dns_item, port)},
                 {"announce", DATSYNC_DNS_ANNOUNCE, offsetof(datsync_dns_item, announce)},
                 {"unannounce", DATSYNC_DNS_UNANNOUNCE, offsetof(datsync_dns_item, unannounce)}};
    const json *where = need(given, "part"), *value;

    while (record->part < 4 && (where->kind != JSON_STRING || strcmp(where->text, part_names[record->part]) != 0))
        record->part++;
    put_domain(record, need(given, "name"));
    record->type = (uint16_t)as_number_up_to(need(given, "type"), 65535);
    record->cls = has_member(given, "class", &value) ? (uint16_t)as_number_up_to(value, 65535) : 0;
    record->ttl = has_member(given, "ttl", &value) ? (uint32_t)as_number_up_to(value, UINT32_MAX) : 0;
    if (has_member(given, "subscribe", &value))
        record->has |= DATSYNC_DNS_SUBSCRIBE;
    if (has_member(given, "token", &value)) {
        record->has |= DATSYNC_DNS_TOKEN;
        record->token = as_bytes(value);
    }
    if (has_member(given, "host", &value)) {
        record->has |= DATSYNC_DNS_HOST;
        record->host = as_bytes(value);
    }
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++) {
        if (has_member(given, ports[i].name, &value)) {
            uint16_t port = (uint16_t)as_number_up_to(value, 65535);
            record->has |= ports[i].has;
            memcpy((char *)record + ports[i].at, &port, sizeof port);
        }
    }
    if (has_member(given, "peers", &value))
        put_list(record, value);
    if (has_member(given, "target", &value))
        record->target = as_ip(value, record->type == DATSYNC_DNS_SRV);
}

static void op_dns_encode(const json *q)
{
    const json *items = need(q, "items");
    uint16_t id = (uint16_t)as_number_up_to(need(q, "id"), 65535);
    uint16_t flags = (uint16_t)as_number_up_to(need(q, "flags"), 65535);
    datsync_dns_item *all = take(MOST_ITEMS * sizeof *all);
    uint8_t *out = take(65535);
    size_t count = 0;

    for (const json *each = items->first; room(each, count < MOST_ITEMS); each = each->next)
        put_record(&all[count++], each);
    if (line_error != NULL)
        return;
    int len = datsync_dns_write(out, 65535, id, flags, all, count);
    if (len < 0)
        wrong(datsync_strerror(len));
    else
        tell_hex("bytes", out, (size_t)len);
}

typedef struct dht_column {
    const char *name;
    char kind; /* x bytes, u a number, t text */
    size_t at;
} dht_column;

static const dht_column dht_columns[] = {
    {"transaction", 'x', offsetof(datsync_dht_message, transaction)},
    {"id", 'x', offsetof(datsync_dht_message, id)},
    {"target", 'x', offsetof(datsync_dht_message, target)},
    {"feed", 'x', offsetof(datsync_dht_message, name)},
    {"token", 'x', offsetof(datsync_dht_message, token)},
    {"port", 'u', offsetof(datsync_dht_message, port)},
    {"impliedPort", 'u', offsetof(datsync_dht_message, implied_port)},
    {"code", 'u', offsetof(datsync_dht_message, code)},
};
enum { DHT_COLUMNS = sizeof dht_columns / sizeof *dht_columns };

static void tell_dht_field(const dht_column *f, const datsync_dht_message *m)
{
    const char *place = (const char *)m + f->at;
    datsync_bytes bytes;
    int64_t number;

    if (f->kind == 'x') {
        memcpy(&bytes, place, sizeof bytes);
        if (bytes.data != NULL)
            tell_hex(f->name, bytes.data, bytes.len);
        return;
    }
    memcpy(&number, place, sizeof number);
    if (number >= 0)
        tell_number(f->name, (uint64_t)number);
}

static void tell_nodes(datsync_bytes nodes, datsync_bytes peers)
{
    uint8_t id[DATSYNC_NODE_BYTES];
    datsync_ip ip;

    if (nodes.data != NULL) {
        tell_name("nodes");
        tell_text("[");
        while (datsync_dht_next_node(&nodes, id, &ip)) {
            tell_name(NULL);
            tell_text("{");
            tell_hex("id", id, sizeof id);
            tell_ip("address", &ip, 1);
            tell_text("}");
        }
        tell_text("]");
    }
    if (peers.data != NULL) {
        tell_name("peers");
        tell_text("[");
        while (datsync_dht_next_peer(&peers, &ip))
            tell_ip(NULL, &ip, 1);
        tell_text("]");
    }
}

static void op_dht_decode(const json *q)
{
    datsync_bytes bytes = as_bytes(need(q, "bytes"));
    datsync_dht_message m;

    if (line_error != NULL)
        return;
    int error = datsync_dht_parse(&m, bytes.data, bytes.len);
    if (error < 0) {
        wrong(datsync_strerror(error));
        return;
    }
    const char *kind = m.kind == DATSYNC_DHT_ANSWER ? "answer" : m.kind == DATSYNC_DHT_ERROR ? "error" : "query";
    tell_string("kind", kind, strlen(kind));
    if (m.text.data != NULL)
        tell_string(m.kind == DATSYNC_DHT_ERROR ? "text" : "query", (const char *)m.text.data, m.text.len);
    for (size_t i = 0; i < DHT_COLUMNS; i++)
        tell_dht_field(&dht_columns[i], &m);
    tell_nodes(m.nodes, m.peers);
}

static datsync_bytes as_nodes_of_dht(const json *nodes)
{
    uint8_t *out = take(26 * MOST_PEERS);
    datsync_bytes bytes = {out, 0};

    for (const json *each = nodes->first; room(each, bytes.len < 26 * MOST_PEERS); each = each->next) {
        datsync_ip ip = as_ip(need(each, "address"), 1);
        memcpy(out + bytes.len, as_exactly(need(each, "id"), DATSYNC_NODE_BYTES), DATSYNC_NODE_BYTES);
        memcpy(out + bytes.len + 20, ip.bytes, 4);
        out[bytes.len + 24] = (uint8_t)(ip.port >> 8);
        out[bytes.len + 25] = (uint8_t)ip.port;
        bytes.len += 26;
    }
    return bytes;
}

static datsync_bytes as_values(const json *peers)
{
    uint8_t *out = take(8 * MOST_PEERS);
    datsync_bytes bytes = {out, 0};

    for (const json *each = peers->first; room(each, bytes.len < 8 * MOST_PEERS); each = each->next) {
        datsync_ip ip = as_ip(each, 1);
        memcpy(out + bytes.len, "6:", 2);
        memcpy(out + bytes.len + 2, ip.bytes, 4);
        out[bytes.len + 6] = (uint8_t)(ip.port >> 8);
        out[bytes.len + 7] = (uint8_t)ip.port;
        bytes.len += 8;
    }
    return bytes;
}

/* The kind of a message by what it is called here; of a query, by that query's name. */
static int as_dht_kind(const json *q, datsync_bytes *text)
{
    static const char *const queries[] = {"ping", "find_node", "get_peers", "announce_peer"};
    const json *kind = need(q, "kind"), *said;
    int i = 0;

    if (has_member(q, "text", &said) || has_member(q, "query", &said))
        *text = (datsync_bytes){(const uint8_t *)said->text, said->len};
    if (kind->kind != JSON_STRING)
        return 0;
    if (strcmp(kind->text, "answer") == 0)
        return DATSYNC_DHT_ANSWER;
    if (strcmp(kind->text, "error") == 0)
        return DATSYNC_DHT_ERROR;
    while (i < 4 && (text->data == NULL || strcmp((const char *)text->data, queries[i]) != 0))
        i++;
    return DATSYNC_DHT_PING + i;
}

static void op_dht_encode(const json *q)
{
    datsync_dht_message m;
    const json *value;

    memset(&m, 0, sizeof m);
    m.port = m.implied_port = m.code = m.read_only = -1;
    m.kind = as_dht_kind(q, &m.text);
    for (size_t i = 0; i < DHT_COLUMNS; i++) {
        char *place = (char *)&m + dht_columns[i].at;
        if (!has_member(q, dht_columns[i].name, &value))
            continue;
        if (dht_columns[i].kind == 'x') {
            datsync_bytes bytes = as_bytes(value);
            memcpy(place, &bytes, sizeof bytes);
        } else {
            int64_t number = (int64_t)as_number_up_to(value, INT64_MAX);
            memcpy(place, &number, sizeof number);
        }
    }
    if (has_member(q, "nodes", &value))
        m.nodes = as_nodes_of_dht(value);
    if (has_member(q, "peers", &value))
        m.peers = as_values(value);
    if (line_error != NULL)
        return;
    uint8_t *out = take(65535);
    int64_t len = datsync_dht_write(out, 65535, &m);
    if (len < 0)
        wrong(datsync_strerror((int)len));
    else
        tell_hex("bytes", out, (size_t)len);
}

static int answer(const char *line)
{
    static const struct {
        const char *name;
        void (*run)(const json *q);
    } ops[] = {
        {"decode", op_decode},
        {"encode", op_encode},
        {"rle.decode", op_rle_decode},
        {"rle.encode", op_rle_encode},
        {"leaf", op_leaf},
        {"parent", op_parent},
        {"root", op_root},
        {"sign", op_sign},
        {"verify", op_verify},
        {"keystream", op_keystream},
        {"digest", op_digest},
        {"discovery-key", op_discovery_key},
        {"proof", op_proof},
        {"dns.decode", op_dns_decode},
        {"dns.encode", op_dns_encode},
        {"dht.decode", op_dht_decode},
        {"dht.encode", op_dht_encode},
    };
    json q;
    const char *rest = json_value(line, &q, 0);

    if (line_error == NULL && *json_space(rest) != 0)
        wrong("more than one value");
    const json *op = line_error == NULL ? need(&q, "op") : NULL;
    void (*act)(const json *q) = NULL;
    for (size_t i = 0; i < sizeof ops / sizeof *ops && op != NULL && op->kind == JSON_STRING; i++)
        if (strcmp(op->text, ops[i].name) == 0)
            act = ops[i].run;
    /* what earlier Requests of a channel said is not remembered here: a question about that has no answer */
    const json *earlier = line_error == NULL ? member(&q, "earlier") : NULL;
    if (line_error == NULL && (act == NULL || (earlier != NULL && earlier->first != NULL)))
        return 0;
    if (line_error == NULL)
        act(&q);
    return 1;
}

static int codec(void)
{
    char *line = NULL;
    size_t len = 0, cap = 0;
    int c;

    if (sodium_init() < 0)
        return FAILED;
    do {
        c = getchar();
        if (len + 1 >= cap) {
            cap = 2 * cap + 256;
            line = must(realloc(line, cap));
        }
        if (c != EOF && c != '\n') {
            line[len++] = (char)c;
            continue;
        }
        line[len] = 0;
        if (*json_space(line) != 0) {
            line_error = NULL;
            told_len = 0;
            tell_text("{");
            if (!answer(line))
                tell_text("\"unsupported\":true");
            if (line_error != NULL)
                printf("{\"error\":\"%s\"}\n", line_error);
            else
                printf("%s}\n", told);
            fflush(stdout);
            forget();
        }
        len = 0;
    } while (c != EOF);
    free(line);
    free(told);
    return DONE;
}

int main(int argc, char **argv)
{
    if (datsync_os_main(&argc, &argv) == 0 && argc > 1 &&
        (strcmp(argv[1], "serve") == 0 || strcmp(argv[1], "clone") == 0))
        return replicate(argc, argv);
    if (argc == 2 && strcmp(argv[1], "codec") == 0)
        return codec();
    say("serve, clone or codec");
    return NOT_IMPLEMENTED;
}
