/* usage: files [--sync] FROM TO
 *
 * The floor of what lays files out: copies a tree of folders, each file read, written under another name, and renamed.
 * --sync: with one syncfs at the end. Prints the seconds that it took.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void copy_file(int from, int to, const char *name)
{
    int in = openat(from, name, O_RDONLY | O_CLOEXEC);
    int out = openat(to, "files-part", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (in < 0 || out < 0)
        fail(name);
    ssize_t n;
    while ((n = read(in, buffer, sizeof buffer)) > 0)
        if (write(out, buffer, (size_t)n) != n)
            fail(name);
    if (n < 0 || close(out) != 0 || renameat(to, "files-part", to, name) != 0)
        fail(name);
    close(in);
}

static void copy_folder(int from, int to)
{
    DIR *dir = fdopendir(from);

    if (dir == NULL)
        fail("fdopendir");
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        const char *name = entry->d_name;

        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, ".dat") == 0)
            continue;
        struct stat st;
        if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            fail(name);
        if (S_ISREG(st.st_mode)) {
            copy_file(from, to, name);
        } else if (S_ISDIR(st.st_mode)) {
            if (mkdirat(to, name, 0755) != 0)
                fail(name);
            int a = openat(from, name, O_RDONLY | O_DIRECTORY), b = openat(to, name, O_RDONLY | O_DIRECTORY);
            if (a < 0 || b < 0)
                fail(name);
            copy_folder(a, b);
            close(b);
        }
    }
    closedir(dir);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    int sync = argc == 4 && strcmp(argv[1], "--sync") == 0;

    if (argc != 3 + sync) {
        fprintf(stderr, "usage: files [--sync] FROM TO\n");
        return 2;
    }
    double start = now();
    int from = open(argv[1 + sync], O_RDONLY | O_DIRECTORY);
    if (mkdir(argv[2 + sync], 0755) != 0 && errno != EEXIST)
        fail(argv[2 + sync]);
    int to = open(argv[2 + sync], O_RDONLY | O_DIRECTORY);
    if (from < 0 || to < 0)
        fail("open");
    copy_folder(from, to);
    if (sync && syncfs(to) != 0)
        fail("syncfs");
    printf("%.6f\n", now() - start);
    return 0;
}
