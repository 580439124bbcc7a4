/* datsync as a peer under test: the adapter that the conformance suite runs (conformance/README.md has the contract).
 *
 *     adapter serve|clone --key HEX [--key HEX ...] --store DIR (--port N | --listen) [--live] [--drive]
 *     adapter codec
 *
 * Serving and cloning go through datsync.h alone, with the library's own limits and timeouts. It takes in datsync.c whole,
 * as the test driver does, for two ops of `codec`: digest and proof are asked about sets of held nodes that no feed would
 * get into, and the API rightly has no way to claim them.
 *
 *     cc -std=c99 -I. -o adapter conformance/adapters/datsync.c net_posix.c -lsodium
 *
 * SPDX-License-Identifier: MIT
 */
#include "../../datsync.c"

#include <stdarg.h>
#include <stdio.h>

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
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Hex in text[0..len) to out, which has room for half of it. 0, or -1 where it is no hex. */
static int from_hex(uint8_t *out, const char *text, size_t len)
{
    if (len % 2 != 0) {
        return -1;
    }
    for (size_t i = 0; i < len; i += 2) {
        int high = hex_digit(text[i]), low = hex_digit(text[i + 1]);
        if (high < 0 || low < 0) {
            return -1;
        }
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
    uint64_t offered; /* the longest length that anybody has offered */
    uint64_t complete; /* the length at which the library called it complete, and one more; 0: not yet */
} part;

typedef struct session {
    int cloning, live, listening, as_drive;
    const char *store, *port;
    part *parts;
    size_t count;
    datsync_env env;
    datsync_drive *drive;
    datsync *ds;
    int lost; /* a connection has ended, or could not be made */
    uint64_t leave_at; /* all is here: connections have until then to come to their agreed end. 0: not yet */
    int outcome; /* the exit code then */
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
        if (p->complete != length + 1 &&
            (length == 0 || length < p->offered || datsync_feed_missing(p->feed) > 0)) {
            return 0;
        }
    }
    return 1;
}

static void on_complete(session *s, const datsync_event *event)
{
    int all = 1;

    for (size_t i = 0; i < s->count; i++) {
        part *p = &s->parts[i];
        if (p->feed == event->feed) {
            p->complete = event->index + 1;
        }
        all = all && p->complete == datsync_feed_length(p->feed) + 1;
    }
    if (all) {
        done(s, DONE);
    }
}

static void on_event(void *ctx, datsync *ds, const datsync_event *event)
{
    session *s = ctx;

    (void)ds;
    switch (event->type) {
    case DATSYNC_EV_LISTENING:
        printf("PORT %s\n", strrchr(event->address, ':') + 1);
        fflush(stdout);
        break;
    case DATSYNC_EV_DISCONNECTED:
    case DATSYNC_EV_UNREACHABLE:
        if (event->error != DATSYNC_E_DONE) {
            say("%s: %s", event->address, datsync_strerror(event->error));
        }
        s->lost = 1;
        if (event->type == DATSYNC_EV_UNREACHABLE && !s->live) {
            end(s, s->leave_at > 0 ? s->outcome : FAILED);
        }
        break;
    case DATSYNC_EV_REJECT:
        say("block %llu: %s", (unsigned long long)event->index, datsync_strerror(event->error));
        break;
    case DATSYNC_EV_COMPLETE:
        if (!s->as_drive) {
            on_complete(s, event);
        }
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
    while (word < len && line[word] == ' ') {
        word++;
    }
    uint8_t *block = must(malloc(len));
    datsync_bytes bytes = {block, (len - word) / 2};
    int64_t error = from_hex(block, line + word, len - word) == 0 ? 0 : DATSYNC_E_INVALID;
    if (error == 0) {
        error = datsync_feed_append(s->parts[0].feed, &bytes, 1);
    }
    if (error > 0) {
        error = datsync_feed_flush(s->parts[0].feed); /* what is committed is told to the peers */
    }
    free(block);
    if (error < 0) {
        end(s, fail("append", (int)error));
    }
}

static void read_input(session *s)
{
    if (s->line_cap - s->line_len < 4096) {
        s->line_cap = 2 * s->line_cap + 4096;
        s->line = must(realloc(s->line, s->line_cap));
    }
    int64_t got = datsync_os_input(s->line + s->line_len, s->line_cap - s->line_len);
    size_t from = 0, at = s->line_len;

    if (got > 0) {
        s->line_len += (size_t)got;
    }
    for (; at < s->line_len && !s->ended; at++) {
        if (s->line[at] == '\n') {
            obey(s, s->line + from, at - from);
            from = at + 1;
        }
    }
    memmove(s->line, s->line + from, s->line_len - from);
    s->line_len -= from;
    if (got <= 0) { /* the end of input, or a signal */
        if (!s->ended) {
            obey(s, s->line, s->line_len);
        }
        end(s, DONE);
    }
}

/* After each turn: what the connections that have ended mean. */
static void judge(session *s)
{
    for (size_t i = 0; i < s->count; i++) {
        uint64_t offered = datsync_offered(s->ds, s->parts[i].feed);
        if (offered > s->parts[i].offered) {
            s->parts[i].offered = offered;
        }
    }
    if (s->leave_at > 0 && (datsync_candidates(s->ds) == 0 || (s->lost && !s->listening) ||
                            datsync_os_clock(NULL) >= s->leave_at)) {
        end(s, s->outcome);
    }
    if (!s->lost || s->live) {
        return;
    }
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
    const datsync_net *net = datsync_os_net();
    datsync_pollfd *fds = NULL;
    size_t cap = 0;
    int error = 0;

    while (!s->ended && error >= 0) {
        size_t n = datsync_pollfds(s->ds, NULL, 0);
        if (n + 1 > cap) {
            cap = 2 * n + 8;
            fds = must(realloc(fds, cap * sizeof *fds));
        }
        (void)datsync_pollfds(s->ds, fds, n);
        fds[n].handle = 0; /* standard input */
        fds[n].events = DATSYNC_POLL_READ;
        fds[n].revents = 0;
        uint64_t now = datsync_os_clock(NULL), deadline = datsync_deadline(s->ds);
        int wait = deadline <= now ? 0 : deadline - now > 1000 ? 1000 : (int)(deadline - now);
        error = net->poll(net->ctx, fds, n + 1, wait);
        if (error >= 0 && (fds[n].revents != 0 || datsync_os_stopped(NULL))) {
            read_input(s);
        }
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
    int error = datsync_os_tree(&options.tree, s->store, flags);
    if (error == 0) {
        error = datsync_os_store(&options.metadata, inside, "metadata.", flags);
    }
    if (error == 0) {
        error = datsync_os_store(&options.content, inside, "content.", flags);
    }
    free(inside);
    if (error < 0) {
        return error; /* the process ends: what was opened goes with it */
    }
    error = datsync_drive_open(&s->drive, &options);
    if (error == 0) {
        s->parts[0].feed = datsync_drive_metadata(s->drive);
    }
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
    datsync_options options = {.env = &s->env, .net = datsync_os_net(), .live = s->live, .ctx = s, .on_event = on_event};
    unsigned mode = s->cloning ? DATSYNC_DOWNLOAD | DATSYNC_UPLOAD : DATSYNC_UPLOAD;
    char address[32];
    int error = 0;

    for (size_t i = 0; i < s->count && error == 0; i++) {
        error = s->as_drive ? open_drive(s) : open_feed(s, i);
    }
    if (error == 0) {
        error = datsync_new(&s->ds, &options, datsync_os_clock(NULL));
    }
    if (error == 0 && s->as_drive) {
        error = datsync_add_drive(s->ds, s->drive, mode);
    }
    for (size_t i = 0; i < s->count && error == 0 && !s->as_drive; i++) {
        error = datsync_add(s->ds, s->parts[i].feed, mode);
    }
    if (error < 0) {
        return fail(s->store, error);
    }
    snprintf(address, sizeof address, "127.0.0.1:%s", s->listening ? "0" : s->port);
    error = s->listening ? datsync_listen(s->ds, address) : datsync_connect(s->ds, address, datsync_os_clock(NULL));
    return error < 0 ? fail(address, error) : DONE;
}

static int run(session *s)
{
    (void)datsync_os_signals();
    int code = start(s);
    if (code == DONE) {
        int error = loop(s);
        code = error < 0 ? fail("network", error) : s->code;
    }
    int error = s->ds != NULL ? datsync_free(s->ds) : 0, closed;
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
        int has_value = strcmp(name, "--key") == 0 || strcmp(name, "--store") == 0 || strcmp(name, "--port") == 0;
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
        } else if (strlen(value) != 64 || from_hex(s.parts[s.count++].key, value, 64) < 0) {
            say("a key is 64 hexadecimal digits");
            code = FAILED;
        }
        i += has_value;
    }
    if (code == DONE && (s.count == 0 || s.store == NULL || s.listening != (s.port == NULL))) {
        say("--key, --store, and one of --port and --listen");
        code = FAILED;
    }
    if (code == DONE && s.as_drive && s.count > 1) {
        say("one drive at a time");
        code = NOT_IMPLEMENTED;
    }
    if (code == DONE) {
        code = run(&s);
    }
    free(s.line);
    free(s.parts);
    return code;
}

int main(int argc, char **argv)
{
    if (argc > 1 && (strcmp(argv[1], "serve") == 0 || strcmp(argv[1], "clone") == 0)) {
        return replicate(argc, argv);
    }
    say("serve, clone or codec");
    return NOT_IMPLEMENTED;
}
