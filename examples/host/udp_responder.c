/* User-space UDP responder: a host of its own on a DPU port. Answers ARP for its address, echo requests, and every
 * UDP datagram by its payload, to where it came from.
 *
 *     udp_responder SOCKET IPV4-ADDRESS [-t SECONDS]
 *
 * Answers are made in the buffer that the question came in. The UDP checksum is left to the DPU (DPU_BUF_NEEDS_CSUM);
 * a port that was not given that offload has it finished by the library. IPv4 without options, no fragments.
 * A DPU that is restarted is waited for.
 */
#include <arpa/inet.h>
#include <dpu.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BURST 32
#define ETHERNET_BYTES 14
#define ARP_BYTES 28
#define IPV4_BYTES 20
#define ICMP_BYTES 8
#define UDP_BYTES 8

static const uint8_t our_mac[6] = {2, 0, 0, 0, 0, 0x99};
static uint8_t our_ip[4];
static volatile sig_atomic_t ended;

static void end(int signal) {
    (void)signal;
    ended = 1;
}

static uint16_t word(const uint8_t *octets) {
    return (uint16_t)(octets[0] << 8 | octets[1]);
}

static void put_word(uint8_t *octets, uint32_t value) {
    octets[0] = (uint8_t)(value >> 8);
    octets[1] = (uint8_t)value;
}

static void swap(uint8_t *a, uint8_t *b, size_t size) {
    uint8_t kept[6];
    memcpy(kept, a, size);
    memcpy(a, b, size);
    memcpy(b, kept, size);
}

static uint32_t add_words(const uint8_t *octets, int size) {
    uint32_t sum = 0;
    for (int i = 0; i < size; i += 2)
        sum += word(octets + i);
    return sum;
}

static uint16_t fold(uint32_t sum) {
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

/* RFC 826: a request for our address becomes the reply. */
static int answer_arp(uint8_t *frame, uint32_t len) {
    static const uint8_t request[8] = {0, 1, 8, 0, 6, 4, 0, 1};
    uint8_t *arp = frame + ETHERNET_BYTES;
    if (len < ETHERNET_BYTES + ARP_BYTES || memcmp(arp, request, sizeof request) || memcmp(arp + 24, our_ip, 4))
        return 0;
    arp[7] = 2;
    memcpy(arp + 18, arp + 8, 10);
    memcpy(arp + 8, our_mac, 6);
    memcpy(arp + 14, our_ip, 4);
    memcpy(frame, arp + 18, 6);
    memcpy(frame + 6, our_mac, 6);
    return 1;
}

/* RFC 792: only the type changes, and the checksum by as much (RFC 1624). */
static int answer_echo(uint8_t *icmp, uint32_t len) {
    if (len < ICMP_BYTES || icmp[0] != 8 || icmp[1] != 0)
        return 0;
    icmp[0] = 0;
    put_word(icmp + 2, (uint16_t)~fold((uint16_t)~word(icmp + 2) + (uint32_t)0xf7ff));
    return 1;
}

/* RFC 768; the checksum's place gets the sum of the pseudo-header, the DPU adds the rest (virtio 1.2 5.1.6.2). */
static int answer_udp(struct dpu_buf *buf, uint8_t *ip, uint8_t *udp, uint32_t len) {
    if (len < UDP_BYTES || word(udp + 4) != len || !word(udp))
        return 0;
    swap(udp, udp + 2, 2);
    put_word(udp + 6, fold(add_words(ip + 12, 8) + 17 + len));
    buf->flags = DPU_BUF_NEEDS_CSUM;
    buf->csum_start = ETHERNET_BYTES + IPV4_BYTES;
    buf->csum_offset = 6;
    return 1;
}

static int answer_ipv4(struct dpu_buf *buf) {
    uint8_t *ip = buf->data + ETHERNET_BYTES;
    if (buf->len < ETHERNET_BYTES + IPV4_BYTES || ip[0] != 0x45 || memcmp(ip + 16, our_ip, 4))
        return 0;
    uint32_t total = word(ip + 2);
    if (total < IPV4_BYTES || total > buf->len - ETHERNET_BYTES || word(ip + 6) & 0x3fff)
        return 0;
    buf->len = ETHERNET_BYTES + total; /* without padding */
    swap(ip + 12, ip + 16, 4);         /* which leaves the header's checksum as it was */
    swap(buf->data, buf->data + 6, 6);
    buf->flags = 0;
    if (ip[9] == IPPROTO_ICMP)
        return answer_echo(ip + IPV4_BYTES, total - IPV4_BYTES);
    return ip[9] == IPPROTO_UDP && answer_udp(buf, ip, ip + IPV4_BYTES, total - IPV4_BYTES);
}

/* Turn a packet into its answer; 0: there is none. */
static int answer(struct dpu_buf *buf) {
    if (buf->next || buf->gso_type || buf->len < ETHERNET_BYTES)
        return 0;
    uint16_t type = word(buf->data + 12);
    return type == 0x0806 ? answer_arp(buf->data, buf->len) : type == 0x0800 && answer_ipv4(buf);
}

/* Answer one burst; returns packets received, or a code. */
static int respond(struct dpu_port *port, unsigned long long *answered) {
    struct dpu_buf *bufs[BURST];
    int got = dpu_rx_burst(port, 0, bufs, BURST), answers = 0, others = 0;
    for (int i = 0; i < got; i++) {
        struct dpu_buf *buf = bufs[i];
        if (answer(buf)) {
            bufs[answers++] = buf;
        } else {
            dpu_buf_free(port, 0, &buf, 1);
            others++;
        }
    }
    int sent = answers ? dpu_tx_burst(port, 0, bufs, answers) : 0;
    int taken = sent > 0 ? sent : 0;
    dpu_buf_free(port, 0, bufs + taken, answers - taken);
    *answered += (unsigned)taken;
    return sent < 0 ? sent : got;
}

int main(int argc, char **argv) {
    int option;
    long seconds = 1L << 30;
    while ((option = getopt(argc, argv, "t:")) == 't')
        seconds = atol(optarg);
    if (option != -1 || optind != argc - 2 || inet_pton(AF_INET, argv[optind + 1], our_ip) != 1) {
        fprintf(stderr, "usage: udp_responder [-t SECONDS] SOCKET IPV4-ADDRESS\n");
        return 2;
    }
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    struct dpu_options options;
    struct dpu_port *port;
    dpu_options_init(&options);
    options.connect_ms = 5000;
    options.offloads = DPU_OFFLOAD_TX_CSUM | DPU_OFFLOAD_RX_CSUM; /* no packet larger than the MTU */
    int code = dpu_open(argv[optind], &options, &port);
    if (code) {
        fprintf(stderr, "%s: %s\n", dpu_strerror(code), dpu_error_text(NULL));
        return 1;
    }
    puts("ready");
    fflush(stdout);
    unsigned long long answered = 0;
    time_t last = time(NULL) + seconds;
    while (!ended && time(NULL) < last) {
        int got = respond(port, &answered);
        if (got <= 0)
            dpu_wait(port, 0, 100000);
    }
    printf("answered %llu\n", answered);
    dpu_close(port);
    return 0;
}
