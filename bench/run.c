/* usage: run CORE STATS COMMAND...     run ballast MIB
 *
 * Runs a command on one core ("-": on any) and writes what it took to the file STATS: wall, user and system seconds,
 * peak resident memory (KiB), exit status. The peak is the kernel's own, not sampled; started from a larger process it
 * would be that one's instead, hence this small one between. SIGINT and SIGTERM are passed on.
 *
 * `ballast` touches memory and gives it back: on a virtual machine the first touch of a page costs many times a later
 * one, and a run would pay for it or not as the machine's history has it.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile pid_t child;

static void pass_on(int number)
{
    if (child > 0)
        kill(child, number);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static int ballast(size_t mib)
{
    size_t size = mib << 20;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (p == MAP_FAILED) {
        perror("ballast");
        return 1;
    }
    munmap(p, size);
    return 0;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = pass_on};
    int status = 0;

    if (argc == 3 && strcmp(argv[1], "ballast") == 0)
        return ballast(strtoul(argv[2], NULL, 10));
    if (argc < 4) {
        fprintf(stderr, "usage: run CORE STATS COMMAND...\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    double start = now();
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (strcmp(argv[1], "-") != 0) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET((size_t)atoi(argv[1]), &set);
            if (sched_setaffinity(0, sizeof set, &set) != 0) {
                perror("sched_setaffinity");
                _exit(126);
            }
        }
        execvp(argv[3], argv + 3);
        perror(argv[3]);
        _exit(127);
    }
    if (child < 0) {
        perror("fork");
        return 1;
    }
    struct rusage used;
    while (wait4(child, &status, 0, &used) < 0) {
        if (errno != EINTR) {
            perror("wait4");
            return 1;
        }
    }
    double wall = now() - start;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    FILE *out = fopen(argv[2], "w");
    if (out == NULL) {
        perror(argv[2]);
        return 1;
    }
    fprintf(out, "{\"wall\": %.6f, \"user\": %.6f, \"sys\": %.6f, \"rss_kb\": %ld, \"status\": %d}\n", wall,
            seconds(used.ru_utime), seconds(used.ru_stime), used.ru_maxrss, code);
    return fclose(out) == 0 ? code : 1;
}
