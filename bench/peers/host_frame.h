/* The frame that host_pair sends, and the one that makes its receiver known. */
#ifndef HOST_FRAME_H
#define HOST_FRAME_H

#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>

#define ETHERNET_BYTES 14
#define IPV4_BYTES 20
#define UDP_BYTES 8
#define TCP_BYTES 20
#define TCP_CHECKSUM_OFFSET 16
#define ANNOUNCEMENT_BYTES 60

static uint32_t sum_words(const uint8_t *octets, int size) {
    uint32_t sum = 0;
    for (int i = 0; i < size; i += 2)
        sum += (uint32_t)(octets[i] << 8 | octets[i + 1]);
    return sum;
}

static void put_sum(uint8_t *place, uint32_t sum, int complement) {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    uint16_t folded = htons((uint16_t)(complement ? ~sum : sum));
    memcpy(place, &folded, 2);
}

/* Between two locally administered addresses, 10.0.0.1 to 10.0.0.2; UDP without checksum (RFC 768), or one TCP segment
 * with the pseudo-header's sum in its checksum's place (virtio 1.2 5.1.6.2). */
static void make_frame(uint8_t *frame, uint32_t len, int tcp) {
    static const uint8_t ethernet[ETHERNET_BYTES] = {2, 0, 0, 0, 3, 2, 2, 0, 0, 0, 3, 1, 8, 0};
    uint8_t *ip = frame + ETHERNET_BYTES, *l4 = ip + IPV4_BYTES;
    uint16_t total = htons((uint16_t)(len - ETHERNET_BYTES));
    uint32_t l4_len = len - ETHERNET_BYTES - IPV4_BYTES;
    for (uint32_t i = 0; i < len; i++)
        frame[i] = (uint8_t)(i * 7 + i / 251);
    memcpy(frame, ethernet, sizeof ethernet);
    memcpy(ip, (uint8_t[]){0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, tcp ? 6 : 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, IPV4_BYTES);
    memcpy(ip + 2, &total, 2);
    put_sum(ip + 10, sum_words(ip, IPV4_BYTES), 1);
    if (tcp) {
        memcpy(l4, (uint8_t[]){3, 232, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 255, 255, 0, 0, 0, 0}, TCP_BYTES);
        put_sum(l4 + 16, sum_words(ip + 12, 8) + 6 + l4_len, 0);
    } else {
        uint16_t length = htons((uint16_t)l4_len);
        memcpy(l4, (uint8_t[]){3, 232, 0, 9, 0, 0, 0, 0}, UDP_BYTES);
        memcpy(l4 + 4, &length, 2);
    }
}

/* What lets a switch learn where the receiver is: to the sender, of an EtherType for experiments (IEEE 802, 9.2.4). */
static void make_announcement(uint8_t *frame) {
    static const uint8_t ethernet[ETHERNET_BYTES] = {2, 0, 0, 0, 3, 1, 2, 0, 0, 0, 3, 2, 0x88, 0xb5};
    memset(frame, 0, ANNOUNCEMENT_BYTES);
    memcpy(frame, ethernet, sizeof ethernet);
}

#endif
