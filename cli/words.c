/* The words beside the options: links and folders.
 *
 * SPDX-License-Identifier: MIT
 *
 * It looks at the words and at no folder. It calls output.
 */
#include "words.h"
#include "output.h"

#include <string.h>

const char *folder_word(const cli *c, int first)
{
    return c->word_count > first ? c->words[first] : ".";
}

/* Does it begin with this (in lower case), in whatever case? */
static int begins(const char *text, const char *with)
{
    for (; *with != 0; text++, with++)
        if ((*text >= 'A' && *text <= 'Z' ? *text - 'A' + 'a' : *text) != *with)
            return 0;
    return 1;
}

int is_link(const char *word)
{
    static const char *const schemes[] = {"dat:", "hyper:", "http://", "https://"};
    char path[DATSYNC_MAX_PATH + 1];
    uint64_t version;
    uint8_t key[32];

    for (size_t i = 0; i < COUNT(schemes); i++)
        if (begins(word, schemes[i]))
            return 1;
    int error = datsync_link_parse(word, key, &version, path, sizeof path);
    return error != DATSYNC_E_KEY && error != DATSYNC_E_UNSUPPORTED;
}

static int fail_link(cli *c, const char *link, int error)
{
    const char *at = link + strspn(link, " \t\r\n");

    if (begins(at, "hyper:"))
        return fail(c, USAGE, "%s: this link is for Dat's successor, whose protocol is another", link);
    if (error == DATSYNC_E_UNSUPPORTED)
        return fail(c, USAGE, "%s: names can't be resolved here: a link needs the key, 64 hexadecimal digits", link);
    if (error == DATSYNC_E_INVALID) {
        return fail(c, USAGE, "%s: behind the + a link has a version, 1 to %llu", link,
                    (unsigned long long)DATSYNC_MAX_BLOCKS);
    }
    if (error == DATSYNC_E_PATH || error == DATSYNC_E_TOO_BIG) {
        return fail(c, USAGE, "%s: %s", link,
                    error == DATSYNC_E_PATH ? "the path in this link is none (%XX, UTF-8, no ..)"
                                            : "the path in this link is too long");
    }
    return fail(c, USAGE, "%s: a link has 64 hexadecimal digits, with or without dat:// before them", link);
}

int read_link(cli *c, const char *link, uint8_t key[32])
{
    uint64_t version;

    int error = datsync_link_parse(link, key, &version, c->link_path, sizeof c->link_path);
    if (error < 0)
        return fail_link(c, link, error);
    if (version > 0 && c->checkout > 0 && version != c->checkout)
        return fail(c, USAGE, "%s: --checkout names another version, %llu", link, (unsigned long long)c->checkout);
    c->checkout = version > 0 ? version : c->checkout;
    return DONE;
}
