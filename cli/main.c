/* datsync: the command line.
 *
 * SPDX-License-Identifier: MIT
 *
 * C99 and datsync.h only; all that the OS gives comes through the datsync_os_... functions. Results go to standard
 * output, all else to standard error; with --json standard output has one object a line and nothing else.
 *
 * The files of cli/, bottom up. Each includes the headers of those before it in this list, and of no others:
 *
 *   cli.h      one run: what was asked for, exit codes
 *   text       UTF-8, what may be shown, bytes that grow
 *   output     JSON, messages, the bar
 *   folder     small files in a folder; where a drive's feeds lie there
 *   rules      patterns, .datignore
 *   selection  --select, and what of it the folder keeps
 *   about      dat.json
 *   words      links and folders beside the options
 *   open       opening and closing feeds and drives
 *   import     a folder into its drive
 *   finding    the ways by which peers are found
 *   asking     questions to servers, nodes and the local network
 *   checkup    what the network at hand lets through
 *   transfer   a feed or a drive on the network
 *   feed       the commands feed create, append, cat, info, share, clone
 *   verify     feed verify, verify
 *   drive      create, share, clone, pull, sync
 *   status     status
 *   show       log, ls, cat
 *   keys       keys
 *   server     discover
 *   doctor     doctor
 *   main       the tables of commands and options, reading the command line
 *
 * A file of commands includes none of the others with commands.
 */
#include "cli.h"
#include "doctor.h"
#include "drive.h"
#include "feed.h"
#include "keys.h"
#include "output.h"
#include "selection.h"
#include "server.h"
#include "show.h"
#include "status.h"
#include "verify.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLI_TIMEOUT_S 30u

/* ---------------------------------------------------------------- tables ------------------------------------------ */

static const command commands[] = {
    {0, "create", "[DIR]", "Make a drive of DIR's files and print its link.", 0, 1, CREATE, run_create},
    {0, "share", "[DIR]", "Import what changed, then serve until interrupted; first make a drive, if DIR is none.", 0,
     1, SHARE, run_share},
    {0, "clone", "LINK [DIR]", "Download a drive into the folder DIR, or go on with it; end when it is complete.", 1, 2,
     CLONE, run_clone},
    {0, "pull", "[DIR]", "Bring a clone up to date; end when it is complete.", 0, 1, PULL, run_pull},
    {0, "sync", "[DIR]", "Until interrupted: the owner imports and serves, a clone downloads and serves.", 0, 1, SYNC,
     run_sync},
    {0, "log", "[DIR]", "Tell every change, the oldest first.", 0, 1, LOG, run_log},
    {0, "status", "[DIR]", "Tell what the drive is and holds, and what isn't imported yet.", 0, 1, STATUS, run_status},
    {0, "keys", "[export|import] [DIR]",
     "Print the link and the discovery key; export: print the secret key; import: read it.", 0, 2, KEYS, run_keys},
    {0, "verify", "[DIR]", "Read everything and check it: `ok N`, or a line `bad ...` for each fault.", 0, 1, VERIFY,
     run_verify},
    {0, "ls", "[LINK|DIR] [PATH]", "List the files and folders of the newest version.", 0, 2, LS, show_path},
    {0, "cat", "LINK|DIR [PATH]", "Write one file to standard output.", 1, 2, CAT, show_path},
    {1, "create", "DIR", "Make a feed with new keys in the folder DIR and print its link.", 1, 1, FEED_CREATE,
     feed_create},
    {1, "append", "DIR [FILE...]", "Append the files, or standard input, and print the new length.", 1, -1, FEED_APPEND,
     feed_append},
    {1, "cat", "DIR", "Write the blocks to standard output.", 1, 1, FEED_CAT, feed_cat},
    {1, "info", "DIR", "Tell what the folder holds.", 1, 1, FEED_INFO, feed_info},
    {1, "verify", "DIR", "Read everything and check it: `ok N`, or a line `bad INDEX FILE` for each fault.", 1, 1,
     FEED_VERIFY, feed_verify},
    {1, "share", "DIR", "Serve what the folder holds until interrupted.", 1, 1, FEED_SHARE, feed_share},
    {1, "clone", "LINK DIR", "Download into the folder DIR, or go on with it; end when it is complete.", 2, 2,
     FEED_CLONE, feed_clone},
    {0, "discover", "", "Be a discovery server, which tells peers of each other, until interrupted.", 0, 0, DISCOVER,
     run_discover},
    {0, "doctor", "[LINK]",
     "Tell what stands between this machine and its peers; with LINK, fetch from it by each way.", 0, 1, DOCTOR,
     run_doctor},
};

enum { NONE, TEXT, NUMBER, PEER, SERVER, BOOTSTRAP, LISTEN, RANGE, GLOB };

typedef struct option_spec {
    const char *name;
    int kind;
    const char *value; /* its name in the help */
    const char *about;
    uint32_t commands;
    size_t at; /* offset in struct cli */
    uint64_t min, max;
} option_spec;

#define AT(member) offsetof(cli, member)
#define NETWORKED (FEED_SHARE | FEED_CLONE | SHARE | CLONE | PULL | SYNC | LS | CAT)
#define FINDING (NETWORKED | DOCTOR)
#define IMPORTING (CREATE | SHARE | SYNC)

static const option_spec option_specs[] = {
    {"--title", TEXT, "TEXT", "for dat.json, if there is none yet", CREATE | SHARE, AT(title), 0, 0},
    {"--description", TEXT, "TEXT", "the same", CREATE | SHARE, AT(description), 0, 0},
    {"--author", TEXT, "TEXT", "the same", CREATE | SHARE, AT(author), 0, 0},
    {"--license", TEXT, "TEXT", "the same", CREATE | SHARE, AT(license), 0, 0},
    {"--watch", NONE, NULL, "go on importing what changes", SHARE, AT(watch), 0, 0},
    {"--ignore-hidden", NONE, NULL, "leave out names that begin with a dot (as without it)", IMPORTING | STATUS, 0, 0,
     0},
    {"--no-ignore-hidden", NONE, NULL, "take in names that begin with a dot", IMPORTING | STATUS, AT(with_hidden), 0,
     0},
    {"--select", GLOB, "GLOB", "only these files and folders (* ** ? [a-z]); repeatable; kept for pull",
     CLONE | PULL | SYNC, 0, 0, 0},
    {"--all", NONE, NULL, "drop the selection that the folder keeps: everything again", CLONE | PULL | SYNC, AT(all), 0,
     0},
    {"--checkout", NUMBER, "VERSION", "this version, not the newest", CLONE | PULL | LS | CAT, AT(checkout), 1,
     DATSYNC_MAX_BLOCKS},
    {"--archive", NONE, NULL, "keep the content of all versions, in .dat", CREATE | SHARE | CLONE, AT(archive), 0, 0},
    {"--force", NONE, NULL, "overwrite and delete what was changed here; keys import: take the folder as it is",
     CLONE | PULL | SYNC | KEYS, AT(force), 0, 0},
    {"--long", NONE, NULL, "mode, size and time too (also -l)", LS, AT(long_form), 0, 0},
    {"--recursive", NONE, NULL, "everything beneath", LS, AT(recursive), 0, 0},
    {"--secret-key", TEXT, "FILE", "use this secret key (64 bytes; - is standard input)", FEED_CREATE, AT(secret_key),
     0, 0},
    {"--block-size", NUMBER, "N", "bytes of a block (65536)", FEED_APPEND, AT(block_size), 1, DATSYNC_MAX_BLOCK},
    {"--lines", NONE, NULL, "a block is a line, without its line feed", FEED_APPEND | FEED_CAT, AT(lines), 0, 0},
    {"--range", RANGE, "A:B", "only the blocks A to B - 1; repeatable", FEED_CAT | FEED_CLONE, 0, 0, 0},
    {"--listen", LISTEN, "[HOST:]PORT",
     "take connections here (0: any port; unix:PATH: a socket file); discover: questions (5300)", FINDING | DISCOVER,
     AT(listen), 0, 0},
    {"--no-listen", NONE, NULL, "take no connections", FINDING, AT(no_listen), 0, 0},
    {"--peer", PEER, "HOST:PORT", "dial this peer; repeatable", NETWORKED, 0, 0, 0},
    {"--max-peers", NUMBER, "N", "connections at once (64)", NETWORKED, AT(max_peers), 1, 65535},
    {"--no-discovery", NONE, NULL, "look for no peers, and tell nobody", FINDING, AT(no_discovery), 0, 0},
    {"--lan", NONE, NULL, "look for peers in the local network alone", FINDING, AT(lan), 0, 0},
    {"--no-mdns", NONE, NULL, "look for none there", FINDING, AT(no_mdns), 0, 0},
    {"--no-server", NONE, NULL, "ask no discovery servers", FINDING, AT(no_server), 0, 0},
    {"--no-dht", NONE, NULL, "ask no DHT", FINDING, AT(no_dht), 0, 0},
    {"--discovery-server", SERVER, "HOST[:PORT]", "this one, not the public ones; repeatable", FINDING, 0, 0, 0},
    {"--dht-bootstrap", BOOTSTRAP, "HOST:PORT", "begin at this node, not at the public ones; repeatable", FINDING, 0, 0,
     0},
    {"--wait", NONE, NULL, "be who is found: print a link for another machine's doctor, and serve it", DOCTOR, AT(wait),
     0, 0},
    {"--timeout", NUMBER, "S", "give up after S seconds without a new byte (30; 0: never)",
     FEED_CLONE | CLONE | PULL | LS | CAT, AT(timeout), 0, 1000000000},
    {"--live", NONE, NULL, "stay when complete: fetch what is added, and serve", FEED_CLONE | CLONE, AT(live), 0, 0},
    {"--secret-dir", TEXT, "DIR", "where secret keys are kept (.dat/secret_keys in the home folder)", ALL_DRIVE,
     AT(secret_dir), 0, 0},
    {"--no-sync", NONE, NULL, "don't wait for the disk: a power cut may lose claimed blocks or fork one's own feed",
     FEED_CREATE | FEED_APPEND | FEED_CLONE | IMPORTING | CLONE | PULL, AT(no_sync), 0, 0},
    {"--json", NONE, NULL, "standard output: one JSON object a line", ALL & ~(FEED_CAT | CAT), AT(json), 0, 0},
    {"--quiet", NONE, NULL, "results and errors only", ALL, AT(quiet), 0, 0},
    {"--help", NONE, NULL, "this text (also -h)", ALL, AT(help), 0, 0},
};

static const char *group(const command *cmd)
{
    return cmd->feed ? "feed " : "";
}

static void usage(FILE *out)
{
    char head[64];

    fputs("usage: datsync COMMAND [OPTIONS] ...\n       datsync feed COMMAND [OPTIONS] ...\n", out);
    for (size_t i = 0; i < COUNT(commands); i++) {
        const command *cmd = &commands[i];
        if (i == 0)
            fputs("\nDrives, folders of files (DIR is this one if it is left out):\n", out);
        else if (cmd->feed != commands[i - 1].feed)
            fputs(cmd->feed ? "\nBare feeds:\n" : "\nPeers:\n", out);
        snprintf(head, sizeof head, "datsync %s%s %s", group(cmd), cmd->name, cmd->usage);
        fprintf(out, "  %-34s %s\n", head, cmd->about);
    }
    fputs(
        "\nLINK is 64 hexadecimal digits, with or without dat:// or https://HOST/ before them; +VERSION and /PATH may\n"
        "follow: the one counts as --checkout, the other is the file or folder that is meant.\n"
        "Each command has -h. datsync --version prints the version.\n\n"
        "exit: 0 done, 1 failed, 2 wrong usage, 3 no peer served this key, 130 interrupted\n",
        out);
}

static void usage_of(const command *cmd)
{
    char head[64];

    printf("usage: datsync %s%s [OPTIONS] %s\n\n%s\n\n", group(cmd), cmd->name, cmd->usage, cmd->about);
    for (size_t i = 0; i < COUNT(option_specs); i++) {
        const option_spec *spec = &option_specs[i];
        if (spec->commands & cmd->bit) {
            snprintf(head, sizeof head, "%s%s%s", spec->name, spec->value != NULL ? " " : "",
                     spec->value != NULL ? spec->value : "");
            printf("  %-31s%s\n", head, spec->about);
        }
    }
}

/* ---------------------------------------------------------------- reading the command line ------------------------ */

static int parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    if (*text == 0 || strlen(text) > 19 || strspn(text, "0123456789") != strlen(text))
        return 0;
    *out = strtoull(text, NULL, 10);
    return *out >= min && *out <= max;
}

/* A:B, A: or :B */
static int parse_range(const char *text, range *out)
{
    char first[24];
    const char *colon = strchr(text, ':');

    if (colon == NULL || (size_t)(colon - text) >= sizeof first)
        return 0;
    memcpy(first, text, (size_t)(colon - text));
    first[colon - text] = 0;
    out->start = 0;
    out->end = UINT64_MAX;
    return (first[0] == 0 || parse_number(first, 0, DATSYNC_MAX_BLOCKS, &out->start)) &&
           (colon[1] == 0 || parse_number(colon + 1, 0, DATSYNC_MAX_BLOCKS, &out->end)) && out->start <= out->end;
}

/* HOST:PORT or unix:PATH; whether the host is one shows when it is dialled. */
static int is_address(const char *text, uint64_t least_port)
{
    const char *colon = strrchr(text, ':');
    uint64_t port;

    if (strncmp(text, "unix:", 5) == 0)
        return text[5] != 0;
    return colon != NULL && parse_number(colon + 1, least_port, 65535, &port);
}

static int parse_listen(cli *c, const char *text)
{
    uint64_t port;

    if (parse_number(text, 0, 65535, &port)) {
        snprintf(c->only_port, sizeof c->only_port, ":%u", (unsigned)port);
        text = c->only_port;
    }
    c->listen = text;
    return is_address(text, 0);
}

/* HOST, or HOST:PORT. */
static int add_host(const char **hosts, size_t *count, size_t most, const char *text)
{
    const char *colon = strrchr(text, ':');
    uint64_t port;

    if (*count == most || *text == 0 || text == colon || (colon != NULL && !parse_number(colon + 1, 1, 65535, &port)))
        return 0;
    hosts[(*count)++] = text;
    return 1;
}

/* An option that is known, with its value (NULL for those without one): 1 if the value is good. */
static int set_option(cli *c, const option_spec *spec, const char *value)
{
    char *place = (char *)c + spec->at;

    switch (spec->kind) {
    case TEXT:
        memcpy(place, &value, sizeof value);
        return 1;
    case NUMBER: {
        uint64_t number;
        int good = parse_number(value, spec->min, spec->max, &number);
        memcpy(place, &number, good ? sizeof number : 0);
        return good;
    }
    case PEER:
        if (c->peer_count == CLI_MAX_PEERS || !is_address(value, 1))
            return 0;
        c->peers[c->peer_count++] = value;
        return 1;
    case SERVER:
        return add_host(c->discovery_servers, &c->discovery_server_count, CLI_MAX_SERVERS, value);
    case BOOTSTRAP:
        return is_address(value, 1) && add_host(c->dht_bootstraps, &c->dht_bootstrap_count, CLI_MAX_BOOTSTRAPS, value);
    case LISTEN:
        return parse_listen(c, value);
    case GLOB:
        return add_select(c, value) == NULL;
    case RANGE:
        return c->range_count < CLI_MAX_RANGES && parse_range(value, &c->ranges[c->range_count++]);
    default:
        if (spec->at != 0)
            memcpy(place, &(int){1}, sizeof(int));
        return 1;
    }
}

/* One argument that begins with a minus; *at is moved over a value that is an argument of its own. */
static int read_option(cli *c, int argc, char **argv, int *at)
{
    const char *arg = strcmp(argv[*at], "-h") == 0 ? "--help" : strcmp(argv[*at], "-l") == 0 ? "--long" : argv[*at];
    const char *equals = strchr(arg, '=');
    size_t len = equals != NULL ? (size_t)(equals - arg) : strlen(arg);
    const option_spec *spec = NULL;
    const char *value = NULL;

    for (size_t i = 0; i < COUNT(option_specs); i++) {
        const option_spec *one = &option_specs[i];
        if (strlen(one->name) == len && strncmp(one->name, arg, len) == 0 && (one->commands & c->command->bit))
            spec = one;
    }
    if (spec == NULL) {
        return fail(c, USAGE, "%.*s: no such option; see datsync %s%s -h", (int)len, arg, group(c->command),
                    c->command->name);
    }
    if (spec->kind != NONE && equals == NULL && *at + 1 >= argc)
        return fail(c, USAGE, "%s: needs %s", spec->name, spec->value);
    if (spec->kind == NONE && equals != NULL)
        return fail(c, USAGE, "%s: takes no value", spec->name);
    if (spec->kind != NONE)
        value = equals != NULL ? equals + 1 : argv[++*at];
    if (set_option(c, spec, value))
        return DONE;
    if (spec->kind == NUMBER) {
        return fail(c, USAGE, "%s %s: not a number from %llu to %llu", spec->name, value, (unsigned long long)spec->min,
                    (unsigned long long)spec->max);
    }
    return fail(c, USAGE, "%s %s: not a valid %s", spec->name, value, spec->value);
}

static int read_arguments(cli *c, int argc, char **argv)
{
    int only_words = 0, words = 0;

    c->files = argv; /* words are gathered at the front: there are never more of them than were read */
    for (int at = 0; at < argc; at++) {
        if (!only_words && strcmp(argv[at], "--") == 0) {
            only_words = 1;
        } else if (!only_words && argv[at][0] == '-' && argv[at][1] != 0) {
            int code = read_option(c, argc, argv, &at);
            if (code != DONE)
                return code;
        } else {
            argv[words++] = argv[at];
        }
    }
    if (c->help)
        return DONE;
    if (words < c->command->min || (c->command->max >= 0 && words > c->command->max)) {
        return fail(c, USAGE, "usage: datsync %s%s [OPTIONS] %s", group(c->command), c->command->name,
                    c->command->usage);
    }
    c->word_count = words < (int)COUNT(c->words) ? words : (int)COUNT(c->words);
    for (int i = 0; i < c->word_count; i++)
        c->words[i] = argv[i];
    c->files = argv + 1;
    c->file_count = words - 1;
    return DONE;
}

static int compare_ranges(const void *a, const void *b)
{
    const range *left = a, *right = b;

    return left->start < right->start ? -1 : left->start > right->start;
}

/* Those of a clone in order and disjoint, so that the bar counts no block twice. */
static void merge_ranges(cli *c)
{
    size_t count = 0;

    qsort(c->ranges, c->range_count, sizeof c->ranges[0], compare_ranges);
    for (size_t i = 0; i < c->range_count; i++) {
        if (count > 0 && c->ranges[i].start <= c->ranges[count - 1].end) {
            if (c->ranges[i].end > c->ranges[count - 1].end)
                c->ranges[count - 1].end = c->ranges[i].end;
        } else {
            c->ranges[count++] = c->ranges[i];
        }
    }
    c->range_count = count;
}

static int run_command(cli *c, int argc, char **argv)
{
    int code = read_arguments(c, argc, argv);

    if (code != DONE)
        return code;
    if (c->help) {
        usage_of(c->command);
        return DONE;
    }
    if (c->command->bit == FEED_CLONE)
        merge_ranges(c);
    return c->command->run(c);
}

static int run(cli *c, int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("datsync " DATSYNC_VERSION);
        return DONE;
    }
    int feed = strcmp(argv[1], "feed") == 0;
    const char *name = argv[1 + (feed && argc > 2)];
    if (feed && argc < 3) {
        usage(stderr);
        return USAGE;
    }
    if (strcmp(name, "-h") == 0 || strcmp(name, "--help") == 0) {
        usage(stdout);
        return DONE;
    }
    for (size_t i = 0; i < COUNT(commands); i++) {
        if (commands[i].feed == feed && strcmp(commands[i].name, name) == 0) {
            c->command = &commands[i];
            return run_command(c, argc - 2 - feed, argv + 2 + feed);
        }
    }
    return fail(c, USAGE, "%s%s: no such command; see datsync -h", feed ? "feed " : "", name);
}

int main(int argc, char **argv)
{
    static cli c; /* zeroed, and off the stack */

    c.block_size = CLI_BLOCK_SIZE;
    c.timeout = CLI_TIMEOUT_S;
    c.env.clock = datsync_os_clock;
    int error = datsync_os_main(&argc, &argv);
    int code = error == 0 ? run(&c, argc, argv) : fail(&c, FAILED, "%s", datsync_strerror(error));
    if (fflush(stdout) != 0 || ferror(stdout)) {
        int number = errno;
        if (code == DONE || !has_failed()) {
            c.json = 0;
            return fail(&c, FAILED, "standard output: %s", number != 0 ? strerror(number) : "cannot be written");
        }
    }
    return code;
}
