/* Packet generator: sends UDP over IPv4 in bursts, and counts what comes back.
 *
 *     generator SOCKET [-p PACKETS] [-t SECONDS] [-s OCTETS] [-b BURST] [-w]
 *
 * -s is the length of a frame with its FCS, as testers count: 64 sends 60 octets. -w waits for the end of what was sent.
 * Prints one line: packets sent, received, seconds, Mpps of both.
 */
#include <arpa/inet.h>
#include <dpu.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BURST_MAX 256
#define ETHERNET_BYTES 14
#define IPV4_BYTES 20
#define UDP_BYTES 8

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static uint16_t ipv4_checksum(const uint8_t *header) {
    uint32_t sum = 0;
    for (int i = 0; i < IPV4_BYTES; i += 2)
        sum += (uint32_t)(header[i] << 8 | header[i + 1]);
    sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~((sum & 0xffff) + (sum >> 16)));
}

/* 10.0.0.1:1000 to 10.0.0.2:9, between two locally administered addresses; no UDP checksum. */
static void make_frame(uint8_t *frame, uint32_t len) {
    static const uint8_t ethernet[ETHERNET_BYTES] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0};
    uint8_t *ip = frame + ETHERNET_BYTES, *udp = ip + IPV4_BYTES;
    uint16_t total = htons((uint16_t)(len - ETHERNET_BYTES)), payload = htons((uint16_t)(len - ETHERNET_BYTES - IPV4_BYTES));
    memset(frame, 0, len);
    memcpy(frame, ethernet, sizeof ethernet);
    memcpy(ip, (uint8_t[]){0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, IPV4_BYTES);
    memcpy(ip + 2, &total, 2);
    uint16_t checksum = ipv4_checksum(ip);
    memcpy(ip + 10, &checksum, 2);
    memcpy(udp, (uint8_t[]){1000 >> 8, 1000 & 255, 0, 9, 0, 0, 0, 0}, UDP_BYTES);
    memcpy(udp + 4, &payload, 2);
}

/* Give what was received back; returns packets, or a code. */
static int drain(struct dpu_port *port, int burst) {
    struct dpu_buf *bufs[BURST_MAX];
    int got = dpu_rx_burst(port, 0, bufs, burst);
    if (got > 0)
        dpu_buf_free(port, 0, bufs, got);
    return got;
}

/* Packets that are written and not taken yet. */
struct batch {
    struct dpu_buf *bufs[BURST_MAX];
    int count;
};

/* Fill the batch up to `burst` packets and send what the ring takes; returns packets, or a code. */
static int send_some(struct dpu_port *port, struct batch *batch, const uint8_t *frame, uint32_t len, int burst) {
    int fresh = dpu_buf_alloc(port, 0, batch->bufs + batch->count, burst - batch->count);
    for (int i = 0; i < fresh; i++) {
        struct dpu_buf *buf = batch->bufs[batch->count++];
        memcpy(buf->data, frame, len);
        buf->len = len;
    }
    int sent = dpu_tx_burst(port, 0, batch->bufs, batch->count);
    if (sent > 0) {
        batch->count -= sent;
        memmove(batch->bufs, batch->bufs + sent, (size_t)batch->count * sizeof *batch->bufs);
    }
    return sent;
}

static int usage(void) {
    fprintf(stderr, "usage: generator SOCKET [-p PACKETS] [-t SECONDS] [-s OCTETS] [-b BURST] [-w]\n");
    return 2;
}

int main(int argc, char **argv) {
    unsigned long long packets = ~0ULL, sent = 0, received = 0;
    double seconds = 5;
    int size = 64, burst = 32, wait = 0, option;
    while ((option = getopt(argc, argv, "p:t:s:b:w")) != -1) {
        if (option == 'p') packets = strtoull(optarg, NULL, 10);
        else if (option == 't') seconds = atof(optarg);
        else if (option == 's') size = atoi(optarg);
        else if (option == 'b') burst = atoi(optarg);
        else if (option == 'w') wait = 1;
        else return usage();
    }
    if (optind != argc - 1 || size < 64 || size > 2048 || burst < 1 || burst > BURST_MAX)
        return usage();
    struct dpu_port *port;
    struct dpu_options options;
    dpu_options_init(&options);
    options.connect_ms = 5000;
    int code = dpu_open(argv[optind], &options, &port);
    if (code) {
        fprintf(stderr, "%s: %s\n", dpu_strerror(code), dpu_error_text(NULL));
        return 1;
    }
    uint32_t len = (uint32_t)size - 4;
    uint8_t frame[2048];
    make_frame(frame, len);
    struct batch batch = {.count = 0};
    double start = now(), elapsed = 0;
    for (unsigned round = 0; sent < packets; round++) {
        int count = packets - sent < (unsigned)burst ? (int)(packets - sent) : burst;
        int took = send_some(port, &batch, frame, len, count), got = drain(port, burst);
        if (took < 0 || got < 0) {
            code = took < 0 ? took : got;
            break;
        }
        sent += (unsigned)took;
        received += (unsigned)got;
        if (round % 256 == 0 && (elapsed = now() - start) >= seconds)
            break;
    }
    while (!code && wait && received < sent && dpu_wait(port, 0, 500000) == 1)
        received += (unsigned)drain(port, burst);
    elapsed = now() - start;
    printf("sent %llu received %llu seconds %.3f tx_mpps %.3f rx_mpps %.3f\n", sent, received, elapsed,
           (double)sent / elapsed * 1e-6, (double)received / elapsed * 1e-6);
    if (code)
        fprintf(stderr, "%s: %s\n", dpu_strerror(code), dpu_error_text(port));
    dpu_close(port);
    return code ? 1 : 0;
}
