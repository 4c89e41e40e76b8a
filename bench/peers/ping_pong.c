/* Round trips of a message: over UDP or TCP between two hosts, or of a wake-up alone.
 *
 *   ping_pong serve ADDRESS PORT                        answer on both protocols until killed
 *   ping_pong udp|tcp ADDRESS PORT OCTETS SECONDS       ask
 *   ping_pong wake CPU OTHER_CPU SECONDS                two processes pass an eventfd(2) to and fro
 *
 * Both ends block in recv(2) or read(2), as most programs do. A message has its number and a pattern; the answer must
 * be the same. An answer that does not come within LOST_MS is counted as lost, and the next message is sent.
 * Without a single round trip it goes on for MORE_NS.
 * After a warm-up of a fifth of the time, standard output gets "lost=N damaged=N\n", then each round trip as
 * uint32 in ns, in the machine's order.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

enum { OCTETS_MAX = 65507, LOST_MS = 100, TAKEN_MAX = 4 << 20, WARM_UP_PART = 5, MORE_NS = 1000000000 };

static uint32_t taken[TAKEN_MAX];
static unsigned long count, lost, damaged;

static void keep(uint64_t began, uint64_t sent, uint64_t came, uint64_t length_ns)
{
    if (sent - began >= length_ns / WARM_UP_PART && count < TAKEN_MAX)
        taken[count++] = (uint32_t)(came - sent);
}

static int goes_on(uint64_t elapsed_ns, uint64_t length_ns)
{
    return elapsed_ns < length_ns || (count == 0 && elapsed_ns < length_ns + MORE_NS);
}

static int print(void)
{
    printf("lost=%lu damaged=%lu\n", lost, damaged);
    return fwrite(taken, sizeof *taken, count, stdout) != count || fflush(stdout);
}

static int open_socket(int kind, const char *address, const char *port, struct sockaddr_in *where)
{
    int fd = socket(AF_INET, kind, 0), one = 1;
    memset(where, 0, sizeof *where);
    where->sin_family = AF_INET;
    where->sin_port = htons((uint16_t)atoi(port));
    if (fd < 0 || inet_pton(AF_INET, address, &where->sin_addr) != 1)
        fail(address);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (kind == SOCK_STREAM)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static int bound(int kind, const char *address, const char *port)
{
    struct sockaddr_in where;
    int fd = open_socket(kind, address, port, &where);
    if (bind(fd, (struct sockaddr *)&where, sizeof where) || (kind == SOCK_STREAM && listen(fd, 8)))
        fail("bind");
    return fd;
}

/* One process a protocol: each blocks in one call only. */
static int serve(const char *address, const char *port)
{
    static char message[OCTETS_MAX];
    int udp = bound(SOCK_DGRAM, address, port), tcp = bound(SOCK_STREAM, address, port), fd;
    struct sockaddr_in from;
    ssize_t octets;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            socklen_t length = sizeof from;
            octets = recvfrom(udp, message, sizeof message, 0, (struct sockaddr *)&from, &length);
            if (octets >= 0)
                sendto(udp, message, (size_t)octets, 0, (struct sockaddr *)&from, length);
        }
    }
    while ((fd = accept(tcp, NULL, NULL)) >= 0) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        while ((octets = recv(fd, message, sizeof message, 0)) > 0)
            send(fd, message, (size_t)octets, MSG_NOSIGNAL);
        close(fd);
    }
    fail("accept");
    return 1;
}

/* The answer to message `number`; 0: it did not come. Answers to those given up are passed over. */
static int answered(int fd, char *answer, size_t octets, uint64_t number)
{
    uint64_t which;
    do {
        size_t have = 0;
        while (have < octets) {
            ssize_t more = recv(fd, answer + have, octets - have, 0);
            if (more <= 0)
                return 0;
            have += (size_t)more;
        }
        memcpy(&which, answer, sizeof which);
    } while (which < number);
    return 1;
}

static int ask(int kind, char **argv)
{
    static char message[OCTETS_MAX], answer[OCTETS_MAX];
    struct sockaddr_in where;
    struct timeval patience = { .tv_usec = LOST_MS * 1000 };
    size_t octets = (size_t)atoi(argv[2]);
    uint64_t length_ns = (uint64_t)(atof(argv[3]) * 1e9), began, sent;
    int fd = open_socket(kind, argv[0], argv[1], &where);
    if (octets < sizeof(uint64_t) || octets > OCTETS_MAX || connect(fd, (struct sockaddr *)&where, sizeof where))
        fail("connect");
    if (kind == SOCK_DGRAM) /* TCP repeats by itself */
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (size_t i = 0; i < octets; i++)
        message[i] = (char)(i * 7 + 1);
    began = now_ns();
    for (uint64_t number = 1; goes_on((sent = now_ns()) - began, length_ns); number++) {
        memcpy(message, &number, sizeof number);
        if (send(fd, message, octets, 0) != (ssize_t)octets)
            fail("send");
        if (!answered(fd, answer, octets, number)) {
            if (kind == SOCK_STREAM)
                fail("recv");
            lost++;
            continue;
        }
        keep(began, sent, now_ns(), length_ns);
        damaged += memcmp(message, answer, octets) != 0;
    }
    return print();
}

static void pin(const char *cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(atoi(cpu), &set);
    if (sched_setaffinity(0, sizeof set, &set))
        fail("sched_setaffinity");
}

static int wake(char **argv)
{
    int there = eventfd(0, 0), back = eventfd(0, 0);
    uint64_t one = 1, got, length_ns = (uint64_t)(atof(argv[2]) * 1e9), began, sent;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(argv[1]);
        while (read(there, &got, sizeof got) == sizeof got)
            if (write(back, &one, sizeof one) != sizeof one)
                break;
        _exit(1);
    }
    pin(argv[0]);
    began = now_ns();
    while ((sent = now_ns()) - began < length_ns) {
        if (write(there, &one, sizeof one) != sizeof one || read(back, &got, sizeof got) != sizeof got)
            fail("eventfd");
        keep(began, sent, now_ns(), length_ns);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return print();
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "serve"))
        return serve(argv[2], argv[3]);
    if (argc == 5 && !strcmp(argv[1], "wake"))
        return wake(argv + 2);
    if (argc == 6 && (!strcmp(argv[1], "udp") || !strcmp(argv[1], "tcp")))
        return ask(argv[1][0] == 'u' ? SOCK_DGRAM : SOCK_STREAM, argv + 2);
    fprintf(stderr, "usage: see the head of ping_pong.c\n");
    return 2;
}
