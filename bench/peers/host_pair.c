/* Two host programs in one: what goes out at one port comes in at the other, or at the same one.
 *
 *     host_pair [options] SOCKET [SOCKET]
 *
 * Sends numbered packets at the first port and receives at the last, in one loop, so that sender and receiver need one CPU.
 * Without -r it keeps WINDOW packets under way; with -r it sends by the clock, and slots it missed are not made up.
 *
 *     -t S    seconds that are counted, after -u S of warm-up     -s N    octets of a frame, without FCS
 *     -r N    packets a second                                    -m N    TCP segments to be cut to N octets of payload
 *     -w      sleep in dpu_wait when there is nothing to do       -l FILE latencies, uint32[] in ns: a time in the packet
 *     -q N    descriptors of a ring                               -k MS   longest pause between two reconnections
 *     -L      listen, for a switch that connects                  -n      end on SIGTERM, not after -t
 *     -b      with -r too never more than WINDOW under way, so that no ring of ours is ever full
 *
 * Prints "ready" with the first packet, "again ..." with the first one after the link was down, and what it counted.
 */
#include <dpu.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "host_frame.h"

#define BURST 32
#define NS 1000000000ULL
#define STAMP_BYTES 16              /* of payload: number, time of sending in ns */
#define SEQUENCES_MAX (1ULL << 28)  /* one bit each */
#define LATENCIES_MAX (1ULL << 24)
#define STALL_NS (200 * 1000000ULL) /* what has not arrived by then is lost; longer than a scheduler takes a CPU away */
#define READY_NS_MAX (5 * NS)       /* for the first packet */
#define EMPTY_POLLS_MIN 1000        /* and so many in which nothing came, since it may be here that was asleep */
#define CONNECT_MS 10000
#define CHECK_EVERY 512             /* packets, one of which is compared octet by octet */

struct counts {
    uint64_t sent, frames, octets, whole, owed, repeated, damaged, waited_ns;
};

struct run {
    /* options */
    double seconds, warm_up;
    uint64_t rate;
    uint32_t len, mss;
    int sleeps, endless, bounded;
    const char *latency_file;
    /* ports; the same one twice in loop-back */
    struct dpu_port *source, *target;
    /* what is sent */
    uint8_t frame[DPU_FRAME_MAX];
    uint32_t headers;  /* octets in front of the payload */
    uint32_t window;
    uint8_t **filled;  /* by index of the buffer: where the frame's payload lies already */
    /* state */
    uint64_t interval, time, next, last_arrival, empty_polls, given_up, latencies;
    enum { STARTING, UP, DOWN, BACK } link;
    struct counts all;
    uint8_t *seen;
    uint32_t *latency;
};

static volatile sig_atomic_t ended;

static void end(int signal) {
    (void)signal;
    ended = 1;
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NS + (uint64_t)time.tv_nsec;
}

static void announce(struct run *run) {
    struct dpu_buf *buf;
    if (dpu_buf_alloc(run->target, 0, &buf, 1) != 1)
        return;
    make_announcement(buf->data);
    buf->len = ANNOUNCEMENT_BYTES;
    run->filled[buf->index] = NULL;
    if (dpu_tx_burst(run->target, 0, &buf, 1) != 1)
        dpu_buf_free(run->target, 0, &buf, 1);
}

/* A packet in a fresh buffer; its payload is written only where it is not yet. */
static void write_packet(struct run *run, struct dpu_buf *buf, uint64_t number) {
    if (run->filled[buf->index] == buf->data)
        memcpy(buf->data, run->frame, run->headers);
    else
        memcpy(buf->data, run->frame, run->len);
    run->filled[buf->index] = buf->data;
    memcpy(buf->data + run->headers, &number, 8);
    buf->len = run->len;
    if (run->mss) {
        buf->flags = DPU_BUF_NEEDS_CSUM;
        buf->csum_start = ETHERNET_BYTES + IPV4_BYTES;
        buf->csum_offset = TCP_CHECKSUM_OFFSET;
        buf->gso_type = DPU_GSO_TCPV4;
        buf->gso_size = (uint16_t)run->mss;
        buf->hdr_len = (uint16_t)run->headers;
    }
}

/* Whether nothing comes any more. */
static int stalled(const struct run *run) {
    return run->time - run->last_arrival > STALL_NS && (run->sleeps || run->empty_polls > EMPTY_POLLS_MIN);
}

/* How many packets may be sent now, BURST at most, without more than WINDOW under way. */
static int room(struct run *run) {
    uint64_t missing = run->all.sent - run->all.octets / (run->len - run->headers);
    if (missing - run->given_up >= run->window && stalled(run))
        run->given_up = missing;
    uint64_t under_way = missing - run->given_up;
    return under_way >= run->window ? 0 : run->window - under_way < BURST ? (int)(run->window - under_way) : BURST;
}

/* How many packets are to be sent now. */
static int due(struct run *run) {
    if (!run->rate)
        return room(run);
    if (run->time < run->next || (run->bounded && room(run) < BURST))
        return 0;
    uint64_t slots = (run->time - run->next) / run->interval + 1;
    if (slots > BURST) {
        run->next = run->time;
        slots = 1;
    }
    return (int)slots;
}

/* Send what is due; returns a count or a code. What the ring does not take is given back at once. */
static int send_due(struct run *run) {
    struct dpu_buf *bufs[BURST];
    int count = due(run);
    if (!count || run->all.sent + BURST > SEQUENCES_MAX)
        return 0;
    count = dpu_buf_alloc(run->source, 0, bufs, count);
    if (count <= 0)
        return count;
    for (int i = 0; i < count; i++)
        write_packet(run, bufs[i], run->all.sent + (unsigned)i);
    if (run->latency) {
        uint64_t stamp = now();
        for (int i = 0; i < count; i++)
            memcpy(bufs[i]->data + run->headers + 8, &stamp, 8);
    }
    int taken = dpu_tx_burst(run->source, 0, bufs, count), left = taken < 0 ? 0 : taken;
    dpu_buf_free(run->source, 0, bufs + left, count - left);
    run->all.sent += (unsigned)left;
    run->next += (unsigned)count * run->interval;
    return taken;
}

static void take_whole(struct run *run, const uint8_t *data, uint64_t arrival) {
    uint64_t stamp[2];
    memcpy(stamp, data + run->headers, sizeof stamp);
    run->all.whole++;
    uint64_t number = stamp[0] % SEQUENCES_MAX;
    uint8_t bit = (uint8_t)(1u << number % 8);
    run->all.repeated += (run->seen[number / 8] & bit) != 0;
    run->seen[number / 8] |= bit;
    if (run->latency && run->latencies < LATENCIES_MAX)
        run->latency[run->latencies++] = (uint32_t)(arrival - stamp[1]);
    if (number % CHECK_EVERY == 0 && memcmp(data + run->headers + STAMP_BYTES, run->frame + run->headers + STAMP_BYTES,
                                            run->len - run->headers - STAMP_BYTES))
        run->all.damaged++;
}

/* Receive one burst and give it back; returns a count or a code. */
static int receive(struct run *run) {
    struct dpu_buf *bufs[BURST];
    int got = dpu_rx_burst(run->target, 0, bufs, BURST);
    if (got <= 0)
        return got;
    uint64_t arrival = run->latency ? now() : 0;
    for (int i = 0; i < got; i++) {
        struct dpu_buf *buf = bufs[i];
        uint32_t len = dpu_buf_length(buf);
        int ours = len > run->headers && !memcmp(buf->data, run->frame, ETHERNET_BYTES);
        run->all.frames += (unsigned)ours;
        run->all.octets += ours ? len - run->headers : 0;
        run->all.owed += ours && buf->gso_type && (buf->flags & DPU_BUF_NEEDS_CSUM);
        int whole = ours && len == run->len && !buf->next;
        if (whole)
            take_whole(run, buf->data, arrival);
        if (run->source == run->target)
            run->filled[buf->index] = whole ? buf->data : NULL;
    }
    dpu_buf_free(run->target, 0, bufs, got);
    return got;
}

/* Give back what arrives at the sender: announcements. */
static void drain_source(struct run *run) {
    struct dpu_buf *bufs[BURST];
    int got = run->source == run->target ? 0 : dpu_rx_burst(run->source, 0, bufs, BURST);
    for (int i = 0; i < got; i++)
        run->filled[bufs[i]->index] = NULL;
    if (got > 0)
        dpu_buf_free(run->source, 0, bufs, got);
}

/* Time in which this thread was ready but had no CPU: second number of schedstat, proc(5). */
static uint64_t waited_ns(void) {
    unsigned long long ran = 0, waited = 0;
    FILE *file = fopen("/proc/thread-self/schedstat", "r");
    if (file) {
        if (fscanf(file, "%llu %llu", &ran, &waited) != 2)
            waited = 0;
        fclose(file);
    }
    return waited;
}

static void print_counts(struct run *run, const char *what, const struct counts *c, double seconds) {
    struct dpu_stats s, t;
    dpu_get_stats(run->source, DPU_ALL_QUEUES, &s);
    dpu_get_stats(run->target, DPU_ALL_QUEUES, &t);
    uint64_t missing = s.bufs_total - s.bufs_pool - s.bufs_rings + (t.bufs_total - t.bufs_pool - t.bufs_rings);
    printf("%s time_ns=%" PRIu64 " seconds=%.6f sent=%" PRIu64 " frames=%" PRIu64 " octets=%" PRIu64 " whole=%" PRIu64
           " owed=%" PRIu64 " repeated=%" PRIu64 " damaged=%" PRIu64 " resent=%" PRIu64 " reconnects=%" PRIu64
           " bufs_missing=%" PRIu64 " errors=%" PRIu64 " waited_ns=%" PRIu64 "\n",
           what, now(), seconds, c->sent, c->frames, c->octets, c->whole, c->owed, c->repeated, c->damaged,
           s.tx_resent, t.reconnects, missing, s.tx_errors + s.rx_errors + t.rx_errors, c->waited_ns);
    fflush(stdout);
}

/* Take note of what the last calls returned; returns 0 to go on, or a code. */
static int note_link(struct run *run, int sent, int got) {
    int lost = sent == DPU_ELINK || got == DPU_ELINK;
    if (!lost && (sent < 0 || got < 0))
        return sent < 0 ? sent : got;
    if (lost) {
        run->link = DOWN;
        run->next = now();
    } else if (run->link == DOWN && dpu_link_state(run->source) && dpu_link_state(run->target)) {
        run->link = BACK;
        announce(run);
    }
    if (got > 0 && run->link == STARTING) {
        puts("ready");
        fflush(stdout);
        run->link = UP;
    } else if (got > 0 && run->link == BACK) {
        print_counts(run, "again", &run->all, 0);
        run->link = UP;
    }
    return 0;
}

static void sleep_until(struct run *run, uint64_t until) {
    uint64_t next = run->rate ? run->next : run->time + STALL_NS;
    next = next < until ? next : until;
    if (next > run->time)
        dpu_wait(run->target, 0, (int64_t)((next - run->time) / 1000));
}

/* Send and receive until `until`, or until something arrives, or only receive as long as it does; returns a code. */
static int go(struct run *run, uint64_t until, int sending, int until_ready) {
    run->time = run->last_arrival = run->next = now();
    for (unsigned round = 0; !ended; round++) {
        if (run->rate || run->sleeps || round % 16 == 0)
            run->time = now();
        if (run->time >= until || (!sending && stalled(run)) || (until_ready && run->link != STARTING))
            break;
        /* After a restart the receiver comes first: what is sent to a port that is down yet is lost by right. */
        int held = run->link == DOWN && !dpu_link_state(run->target);
        int got = receive(run), sent = sending && !held ? send_due(run) : 0;
        run->empty_polls = got > 0 ? 0 : run->empty_polls + 1;
        if (got > 0)
            run->last_arrival = run->time;
        int code = note_link(run, sent, got);
        if (code)
            return code;
        if (round % 256 == 0)
            drain_source(run);
        if (run->sleeps && got <= 0)
            sleep_until(run, until);
    }
    return 0;
}

static void keep_latencies(const struct run *run) {
    FILE *file = fopen(run->latency_file, "wb");
    if (!file || fwrite(run->latency, sizeof *run->latency, run->latencies, file) != run->latencies || fclose(file)) {
        perror(run->latency_file);
        exit(1);
    }
}

/* Wait for the first packet, warm up, count, wait for what is under way; returns a code. */
static int measure(struct run *run) {
    int code = go(run, now() + READY_NS_MAX, 1, 1);
    if (!code)
        code = go(run, now() + (uint64_t)(run->warm_up * NS), 1, 0);
    struct counts before = run->all;
    uint64_t began = now(), waited = waited_ns();
    run->latencies = 0;
    if (!code)
        code = go(run, run->endless ? UINT64_MAX : began + (uint64_t)(run->seconds * NS), 1, 0);
    struct counts c = run->all;
    double seconds = (double)(now() - began) / NS;
    c.sent -= before.sent, c.frames -= before.frames, c.octets -= before.octets, c.whole -= before.whole;
    c.owed -= before.owed, c.repeated -= before.repeated, c.damaged -= before.damaged;
    c.waited_ns = waited_ns() - waited;
    ended = 0;
    if (!code)
        code = go(run, now() + NS, 0, 0);
    print_counts(run, "counted", &c, seconds);
    print_counts(run, "total", &run->all, 0);
    return code;
}

static int open_ports(struct run *run, char **paths, int count, struct dpu_options *options) {
    struct dpu_port *ports[2];
    for (int i = 0; i < count; i++) {
        int code = dpu_open(paths[i], options, ports + i);
        if (code) {
            fprintf(stderr, "%s: %s: %s\n", paths[i], dpu_strerror(code), dpu_error_text(NULL));
            return 1;
        }
    }
    run->source = ports[0];
    run->target = ports[count - 1];
    return 0;
}

static void take_options(struct run *run, struct dpu_options *options, int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "t:u:s:r:m:q:k:l:wLnb")) != -1) {
        if (option == 't') run->seconds = atof(optarg);
        else if (option == 'u') run->warm_up = atof(optarg);
        else if (option == 's') run->len = (uint32_t)atoi(optarg);
        else if (option == 'r') run->rate = strtoull(optarg, NULL, 10);
        else if (option == 'm') run->mss = (uint32_t)atoi(optarg);
        else if (option == 'q') options->ring_size = (uint32_t)atoi(optarg);
        else if (option == 'k') options->reconnect_ms = (uint32_t)atoi(optarg);
        else if (option == 'l') run->latency_file = optarg;
        else if (option == 'w') run->sleeps = 1;
        else if (option == 'L') options->server = 1;
        else if (option == 'n') run->endless = 1;
        else if (option == 'b') run->bounded = 1;
        else exit(2);
    }
    run->headers = ETHERNET_BYTES + IPV4_BYTES + (run->mss ? TCP_BYTES : UDP_BYTES);
    int left = argc - optind;
    if (left < 1 || left > 2 || run->len < run->headers + STAMP_BYTES || run->len > (run->mss ? DPU_FRAME_MAX : 2048)) {
        fprintf(stderr, "usage: host_pair [options] SOCKET [SOCKET]\n");
        exit(2);
    }
}

int main(int argc, char **argv) {
    static struct run run = {.seconds = 1, .warm_up = 0.2, .len = 64};
    struct dpu_options options;
    dpu_options_init(&options);
    options.connect_ms = CONNECT_MS;
    options.ring_size = 1024;
    take_options(&run, &options, argc, argv);
    if (run.mss)
        options.buf_size = DPU_FRAME_MAX;
    run.interval = run.rate ? NS / run.rate : 0;
    run.window = options.ring_size / 2;
    run.seen = calloc(SEQUENCES_MAX / 8, 1);
    run.latency = run.latency_file ? malloc(LATENCIES_MAX * sizeof *run.latency) : NULL;
    if (run.latency)
        memset(run.latency, 0, LATENCIES_MAX * sizeof *run.latency); /* so that no page faults are measured */
    make_frame(run.frame, run.len, run.mss != 0);
    prctl(PR_SET_TIMERSLACK, 1);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = end}, NULL);
    if (open_ports(&run, argv + optind, argc - optind, &options))
        return 1;
    struct dpu_info info;
    dpu_get_info(run.source, &info);
    run.filled = calloc(info.buf_count, sizeof *run.filled);
    announce(&run);
    int code = measure(&run);
    if (code)
        fprintf(stderr, "%s: %s\n", dpu_strerror(code), dpu_error_text(run.target));
    else if (run.latency)
        keep_latencies(&run);
    dpu_close(run.source);
    if (run.target != run.source)
        dpu_close(run.target);
    return code ? 1 : 0;
}
