/* UDP from one host to another: what was sent, what arrived, and whether it is what was sent.
 *
 *   udp_flow receive ADDRESS PORT FLOW OCTETS                       until SIGTERM
 *   udp_flow send ADDRESS PORT FLOW OCTETS SECONDS RATE SEGMENTS    RATE in datagrams a second, 0: as many as go
 *
 * Datagrams have OCTETS, each with its number and a pattern, and every one that arrives is compared; one of
 * another FLOW (0 to 65535), that was still on its way, does not count. With
 * SEGMENTS of more than 1 the kernel is handed as many at once (UDP_SEGMENT, and UDP_GRO at the other end), else
 * BATCH of them by sendmmsg(2). At a RATE, as many as are handed over at once go at once.
 * Standard output gets "ready\n" from the receiver, and what was counted from both, as NAME=NUMBER.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

enum { BATCH = 32, OCTETS_MAX = 65507, BUFFER_OCTETS = 8 << 20, WAIT_MS = 50, FLOW_SHIFT = 48 };

static volatile sig_atomic_t stop;
static char memory[BATCH][OCTETS_MAX + 1], pattern[OCTETS_MAX];

static void on_term(int number)
{
    (void)number;
    stop = 1;
}

static int open_socket(char **argv, struct sockaddr_in *where)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    memset(where, 0, sizeof *where);
    where->sin_family = AF_INET;
    where->sin_port = htons((uint16_t)atoi(argv[1]));
    if (fd < 0 || inet_pton(AF_INET, argv[0], &where->sin_addr) != 1)
        fail(argv[0]);
    return fd;
}

static size_t octets_of(const char *text)
{
    size_t octets = (size_t)atoi(text);
    if (octets < sizeof(uint64_t) || octets > OCTETS_MAX) {
        fprintf(stderr, "a datagram has 8 to %d octets, not %s\n", OCTETS_MAX, text);
        exit(2);
    }
    for (size_t i = 0; i < octets; i++)
        pattern[i] = (char)(i * 7 + 1);
    return octets;
}

struct counts {
    uint64_t frames, damaged, late, highest, first_ns, last_ns, now_ns;
};

/* What came in one piece: `size` octets a datagram, the last one may be shorter. */
static void count(struct counts *c, uint64_t flow, const char *data, size_t length, size_t size, size_t octets)
{
    for (size_t at = 0; at < length; at += size) {
        size_t have = length - at < size ? length - at : size;
        uint64_t number = 0;
        memcpy(&number, data + at, have < sizeof number ? have : sizeof number);
        if (number >> FLOW_SHIFT != flow)
            continue;
        c->frames++;
        c->last_ns = c->now_ns;
        if (!c->first_ns)
            c->first_ns = c->now_ns;
        if (have != octets || memcmp(data + at + sizeof number, pattern + sizeof number, octets - sizeof number)) {
            c->damaged++;
            continue;
        }
        if (number <= c->highest)
            c->late++;
        else
            c->highest = number;
    }
}

static size_t segment_octets(struct msghdr *header, size_t length)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c))
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            int octets;
            memcpy(&octets, CMSG_DATA(c), sizeof octets);
            return (size_t)octets;
        }
    return length;
}

static int receive(char **argv)
{
    static char control[BATCH][CMSG_SPACE(sizeof(int))];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    struct sockaddr_in where;
    struct timeval patience = { .tv_usec = WAIT_MS * 1000 };
    struct counts c = { 0 };
    size_t octets = octets_of(argv[3]);
    uint64_t flow = (uint64_t)atoi(argv[2]);
    int fd = open_socket(argv, &where), one = 1, room = BUFFER_OCTETS;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&where, sizeof where))
        fail("bind");
    signal(SIGTERM, on_term);
    puts("ready");
    fflush(stdout);
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){ memory[i], sizeof memory[i] };
            messages[i].msg_hdr = (struct msghdr){
                .msg_iov = &parts[i], .msg_iovlen = 1, .msg_control = control[i], .msg_controllen = sizeof control[i],
            };
        }
        int got = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        if (got <= 0) {
            if (stop && errno != EINTR) /* and nothing came for WAIT_MS */
                break;
            continue;
        }
        c.now_ns = now_ns();
        for (int i = 0; i < got; i++) {
            size_t length = messages[i].msg_len;
            count(&c, flow, memory[i], length, segment_octets(&messages[i].msg_hdr, length), octets);
        }
    }
    printf("frames=%lu damaged=%lu late=%lu frames_ns=%lu\n", c.frames, c.damaged, c.late, c.last_ns - c.first_ns);
    return fflush(stdout);
}

static int send_all(char **argv)
{
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    struct sockaddr_in where;
    size_t octets = octets_of(argv[3]);
    uint64_t flow = (uint64_t)atoi(argv[2]) << FLOW_SHIFT, length_ns = (uint64_t)(atof(argv[4]) * 1e9), number = 0, refused = 0, began, now;
    double rate = atof(argv[5]);
    int segments = atoi(argv[6]), fd = open_socket(argv, &where), size = (int)octets;
    int pieces = segments > 1 ? 1 : BATCH, each = segments > 1 ? segments : 1;
    if (octets * (size_t)each > OCTETS_MAX || (segments > 1 && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size)))
        fail("segments");
    if (connect(fd, (struct sockaddr *)&where, sizeof where))
        fail("connect");
    for (int i = 0; i < pieces; i++) {
        parts[i] = (struct iovec){ memory[i], octets * (size_t)each };
        messages[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
        for (int k = 0; k < each; k++)
            memcpy(memory[i] + (size_t)k * octets, pattern, octets);
    }
    began = now_ns();
    while ((now = now_ns()) - began < length_ns) {
        if (rate > 0 && (double)number / rate * 1e9 > (double)(now - began))
            continue;
        uint64_t first = number;
        for (int i = 0; i < pieces; i++)
            for (int k = 0; k < each; k++) {
                uint64_t named = flow | ++number;
                memcpy(memory[i] + (size_t)k * octets, &named, sizeof named);
            }
        int done = sendmmsg(fd, messages, (unsigned)pieces, 0);
        if (done < 0) {
            if (errno != ENOBUFS && errno != ECONNREFUSED)
                fail("sendmmsg");
            refused++;
            done = 0;
        }
        number = first + (uint64_t)(done * each);
    }
    printf("sent=%lu refused=%lu sent_ns=%lu\n", number, refused, now - began);
    return fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc == 6 && !strcmp(argv[1], "receive"))
        return receive(argv + 2);
    if (argc == 9 && !strcmp(argv[1], "send"))
        return send_all(argv + 2);
    fprintf(stderr, "usage: see the head of udp_flow.c\n");
    return 2;
}
