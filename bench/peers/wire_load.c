/* Load for whatever joins two interfaces: numbered packets go out at one, those that come in at the other are counted.
 *
 *     wire_load [options] NEAR FAR FAR_NETNS          NEAR is in the namespace of the program
 *
 *     -t S    seconds that are counted, after -u S of warm-up
 *     -s N    octets of a frame, without FCS
 *     -r N    packets a second, by the clock; default: as many as go
 *
 * As many as go: the kernel runs an XDP program that numbers a frame and redirects it to NEAR, over and over, and hands them
 * to NEAR's other end in bursts, as a network card does (BPF_F_TEST_XDP_LIVE_FRAMES, Linux, Documentation/bpf/bpf_prog_run.rst).
 * A packet socket takes longer to send a packet than what is measured takes to forward it. NEAR's other end needs NAPI for it:
 * `ethtool -K ... gro on`, or an XDP program. By the clock: a packet socket.
 *
 * Received is what FAR's counters say, at no cost. Of every SAMPLE_EVERY packets one is kept by a packet socket and compared
 * at the end, number and octets. FAR has another MAC address than the packets, so nobody else looks at them there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "host_frame.h"

#define NS 1000000000ULL
#define FRAME_MAX 2048
#define NUMBER_OFFSET (ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES) /* of the packet's number, eight octets */
#define BURST 64                      /* frames that the kernel hands over at once */
#define BURST_BY_THE_CLOCK_MAX 32
#define SAMPLE_EVERY 256
#define NUMBERS_MAX (1ULL << 32)
#define RECEIVE_BUFFER_BYTES (256 << 20)
#define DRAIN_NS 50000000             /* nothing came for so long: nothing is under way */
#define DRAIN_NS_MAX (2 * NS)

struct snapshot {
    uint64_t time, sent, frames, octets;
};

struct run {
    /* options */
    double seconds, warm_up;
    uint64_t rate;
    uint32_t len;
    const char *near, *far, *far_netns;
    /* state */
    uint8_t frame[FRAME_MAX];
    int sender, receiver, far_counters, program;
    volatile uint64_t *sent; /* next packet's number, which the XDP program counts up */
    pthread_t main;
    struct snapshot begin, from, to, end;
    uint64_t checked, damaged, repeated, reordered, missed;
};

static volatile sig_atomic_t ended;

static void end(int signal) {
    (void)signal;
    ended = 1;
}

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NS + (uint64_t)time.tv_nsec;
}

static void pause_ns(uint64_t ns) {
    struct timespec time = {(time_t)(ns / NS), (long)(ns % NS)};
    nanosleep(&time, NULL);
}

/* Packets and octets that FAR received: proc_net(5). */
static struct snapshot snapshot(const struct run *run) {
    char text[8192], name[IFNAMSIZ + 2];
    struct snapshot taken = {.time = now(), .sent = *run->sent};
    ssize_t size = pread(run->far_counters, text, sizeof text - 1, 0);
    text[size < 0 ? 0 : size] = 0;
    snprintf(name, sizeof name, "%s:", run->far);
    char *line = strstr(text, name);
    if (!line || sscanf(line + strlen(name), "%" SCNu64 " %" SCNu64, &taken.octets, &taken.frames) != 2)
        fail("counters");
    return taken;
}

/* Beside the sender: take the counters after the warm-up and at the end, then end the sender. */
static void *watch(void *argument) {
    struct run *run = argument;
    pause_ns((uint64_t)(run->warm_up * NS));
    run->from = snapshot(run);
    pause_ns((uint64_t)(run->seconds * NS));
    run->to = snapshot(run);
    while (!ended) {
        pthread_kill(run->main, SIGUSR1);
        pause_ns(NS / 1000);
    }
    return NULL;
}

static int bpf(enum bpf_cmd command, union bpf_attr *attributes) {
    return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

/* What the XDP program counts in: shared with this process. */
static void make_counter(struct run *run, int *map) {
    union bpf_attr attributes = {
        .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1, .map_flags = BPF_F_MMAPABLE};
    *map = bpf(BPF_MAP_CREATE, &attributes);
    if (*map < 0)
        fail("BPF_MAP_CREATE");
    run->sent = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED, *map, 0);
    if (run->sent == MAP_FAILED)
        fail("mmap");
}

/* XDP: write the next number into the packet and redirect it to NEAR. Linux, Documentation/bpf/standardization/instruction-set.rst */
static void load_program(struct run *run, int map) {
    struct bpf_insn code[] = {
        {BPF_LD | BPF_DW | BPF_IMM, 7, BPF_PSEUDO_MAP_VALUE, 0, map}, {0}, /* r7 = &counter */
        {BPF_LDX | BPF_MEM | BPF_DW, 3, 7, 0, 0},                          /* r3 = counter */
        {BPF_ALU64 | BPF_MOV | BPF_X, 4, 3, 0, 0},
        {BPF_ALU64 | BPF_ADD | BPF_K, 4, 0, 0, 1},
        {BPF_STX | BPF_MEM | BPF_DW, 7, 4, 0, 0},                          /* counter = r3 + 1 */
        {BPF_LDX | BPF_MEM | BPF_W, 2, 1, offsetof(struct xdp_md, data_end), 0},
        {BPF_LDX | BPF_MEM | BPF_W, 1, 1, offsetof(struct xdp_md, data), 0},
        {BPF_ALU64 | BPF_MOV | BPF_X, 4, 1, 0, 0},
        {BPF_ALU64 | BPF_ADD | BPF_K, 4, 0, 0, NUMBER_OFFSET + 8},
        {BPF_JMP | BPF_JGT | BPF_X, 4, 2, 5, 0},                           /* too short: drop */
        {BPF_STX | BPF_MEM | BPF_DW, 1, 3, NUMBER_OFFSET, 0},
        {BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, (int)if_nametoindex(run->near)},
        {BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 0},
        {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_redirect},
        {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
        {BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, XDP_DROP},
        {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
    };
    union bpf_attr attributes = {
        .prog_type = BPF_PROG_TYPE_XDP, .insns = (uintptr_t)code, .insn_cnt = sizeof code / sizeof *code, .license = (uintptr_t) "MIT"};
    run->program = bpf(BPF_PROG_LOAD, &attributes);
    if (run->program < 0)
        fail("BPF_PROG_LOAD");
}

static int packet_socket(const char *interface) {
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(interface)};
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    if (fd < 0 || !address.sll_ifindex || bind(fd, (struct sockaddr *)&address, sizeof address))
        fail(interface);
    return fd;
}

/* In FAR's namespace: its counters, and a socket that keeps the samples. */
static void open_far(struct run *run) {
    int here = open("/proc/self/ns/net", O_RDONLY), there = open(run->far_netns, O_RDONLY), size = RECEIVE_BUFFER_BYTES;
    if (there < 0 || setns(there, CLONE_NEWNET))
        fail(run->far_netns);
    run->far_counters = open("/proc/thread-self/net/dev", O_RDONLY);
    run->receiver = packet_socket(run->far);
    struct sock_filter filter[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, 2}, /* the last four octets of the packets' destination */
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 3, 0x00000302},
        {BPF_LD | BPF_B | BPF_ABS, 0, 0, NUMBER_OFFSET}, /* lowest octet of the number: hosts here are little-endian */
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0},
        {BPF_RET | BPF_K, 0, 0, FRAME_MAX},
        {BPF_RET | BPF_K, 0, 0, 0},
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    int kinds = htons(0x0003); /* ETH_P_ALL */
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = (uint16_t)kinds, .sll_ifindex = (int)if_nametoindex(run->far)};
    if (setsockopt(run->receiver, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) ||
        setsockopt(run->receiver, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) ||
        bind(run->receiver, (struct sockaddr *)&address, sizeof address))
        fail("receiver");
    if (setns(here, CLONE_NEWNET))
        fail("setns");
}

/* Where the packets go, for a switch to learn. */
static void announce(const struct run *run) {
    uint8_t frame[ANNOUNCEMENT_BYTES];
    make_announcement(frame);
    if (send(run->receiver, frame, sizeof frame, 0) < 0)
        fail("announcement");
    pause_ns(DRAIN_NS);
}

static void send_all(struct run *run) {
    while (!ended) {
        union bpf_attr attributes = {.test = {.prog_fd = (uint32_t)run->program,
                                              .data_in = (uintptr_t)run->frame,
                                              .data_size_in = run->len,
                                              .repeat = INT32_MAX,
                                              .flags = BPF_F_TEST_XDP_LIVE_FRAMES,
                                              .batch_size = BURST}};
        if (bpf(BPF_PROG_TEST_RUN, &attributes) < 0 && errno != EINTR)
            fail("BPF_PROG_TEST_RUN");
    }
}

/* Slots that were missed by more than a burst are not made up. */
static void send_by_the_clock(struct run *run) {
    uint64_t interval = NS / run->rate, next = now();
    while (!ended) {
        uint64_t time = now();
        if (time > next + BURST_BY_THE_CLOCK_MAX * interval)
            next = time;
        for (; !ended && next <= time; next += interval) {
            uint64_t number = *run->sent;
            memcpy(run->frame + NUMBER_OFFSET, &number, 8);
            if (send(run->sender, run->frame, run->len, 0) < 0 && errno != ENOBUFS && errno != EINTR)
                fail("send");
            *run->sent = number + 1;
        }
    }
}

/* Wait until nothing comes any more. */
static void drain(struct run *run) {
    uint64_t began = now();
    run->end = snapshot(run);
    for (uint64_t frames = run->end.frames + 1; frames != run->end.frames && now() - began < DRAIN_NS_MAX;) {
        frames = run->end.frames;
        pause_ns(DRAIN_NS);
        run->end = snapshot(run);
    }
}

/* Compare the samples with what was sent. */
static void check(struct run *run) {
    uint8_t *seen = calloc(NUMBERS_MAX / SAMPLE_EVERY / 8, 1), data[FRAME_MAX];
    uint64_t last = 0, number;
    ssize_t size;
    while ((size = recv(run->receiver, data, sizeof data, MSG_DONTWAIT)) >= 0) {
        run->checked++;
        memcpy(&number, data + NUMBER_OFFSET, 8);
        memcpy(run->frame + NUMBER_OFFSET, &number, 8);
        if (size != (ssize_t)run->len || number >= run->end.sent || memcmp(data, run->frame, run->len)) {
            run->damaged++;
            continue;
        }
        uint64_t slot = number % NUMBERS_MAX / SAMPLE_EVERY;
        run->repeated += seen[slot / 8] >> slot % 8 & 1;
        seen[slot / 8] |= (uint8_t)(1 << slot % 8);
        run->reordered += number < last;
        last = number;
    }
    struct tpacket_stats stats;
    socklen_t length = sizeof stats;
    if (getsockopt(run->receiver, SOL_PACKET, PACKET_STATISTICS, &stats, &length))
        fail("PACKET_STATISTICS");
    run->missed = stats.tp_drops;
    free(seen);
}

static void print(const struct run *run) {
    printf("seconds=%.6f sent=%" PRIu64 " frames=%" PRIu64 " total_sent=%" PRIu64 " total_frames=%" PRIu64 " total_octets=%" PRIu64
           " checked=%" PRIu64 " damaged=%" PRIu64 " repeated=%" PRIu64 " reordered=%" PRIu64 " missed=%" PRIu64 "\n",
           (double)(run->to.time - run->from.time) / NS, run->to.sent - run->from.sent, run->to.frames - run->from.frames,
           run->end.sent, run->end.frames - run->begin.frames, run->end.octets - run->begin.octets, run->checked, run->damaged,
           run->repeated, run->reordered, run->missed);
}

static void take_options(struct run *run, int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "t:u:s:r:")) != -1) {
        if (option == 't') run->seconds = atof(optarg);
        else if (option == 'u') run->warm_up = atof(optarg);
        else if (option == 's') run->len = (uint32_t)atoi(optarg);
        else if (option == 'r') run->rate = strtoull(optarg, NULL, 10);
        else exit(2);
    }
    if (argc - optind != 3 || run->len < NUMBER_OFFSET + 8 || run->len > FRAME_MAX) {
        fprintf(stderr, "usage: wire_load [options] NEAR FAR FAR_NETNS\n");
        exit(2);
    }
    run->near = argv[optind], run->far = argv[optind + 1], run->far_netns = argv[optind + 2];
}

int main(int argc, char **argv) {
    static struct run run = {.seconds = 1, .warm_up = 0.2, .len = 64};
    struct sigaction action = {.sa_handler = end};
    pthread_t watcher;
    int map;
    take_options(&run, argc, argv);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigaction(SIGUSR1, &action, NULL);
    make_frame(run.frame, run.len, 0);
    make_counter(&run, &map);
    load_program(&run, map);
    run.sender = packet_socket(run.near);
    open_far(&run);
    announce(&run);
    run.main = pthread_self();
    run.begin = snapshot(&run);
    if (pthread_create(&watcher, NULL, watch, &run))
        fail("pthread_create");
    if (run.rate)
        send_by_the_clock(&run);
    else
        send_all(&run);
    pthread_join(watcher, NULL);
    drain(&run);
    check(&run);
    print(&run);
    return 0;
}
