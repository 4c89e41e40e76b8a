/* rte_gso with the checksums it leaves to others, rte_gro with and without them, rte_meter. */
#include <stdlib.h>
#include <string.h>
#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_gro.h>
#include <rte_gso.h>
#include <rte_meter.h>
#include <rte_net.h>
#include "frames.h"

#define SEGMENTS_MAX 2048
#define HEADERS 54 /* Ethernet, IPv4, TCP without options */
#define GRO_FLOWS 8 /* dpu_runtime.kernels.offload.gro.GRO_FLOWS_MAX */

static void layers(struct rte_mbuf *m)
{
    m->l2_len = sizeof(struct rte_ether_hdr);
    m->l3_len = sizeof(struct rte_ipv4_hdr);
    m->l4_len = sizeof(struct rte_tcp_hdr);
    m->packet_type = RTE_PTYPE_L2_ETHER | RTE_PTYPE_L3_IPV4 | RTE_PTYPE_L4_TCP;
}

static void finish_checksums(struct rte_mbuf *m)
{
    struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod_offset(m, struct rte_ipv4_hdr *, sizeof(struct rte_ether_hdr));
    struct rte_tcp_hdr *tcp = (struct rte_tcp_hdr *)(ip + 1);

    ip->hdr_checksum = 0;
    ip->hdr_checksum = rte_ipv4_cksum(ip);
    tcp->cksum = 0;
    tcp->cksum = rte_ipv4_udptcp_cksum_mbuf(m, ip, sizeof(struct rte_ether_hdr) + sizeof(*ip));
}

/* Cuts frame after frame; with `out` the segments of each are written there one behind the other. Returns
 * segments of all, or less than 0. */
int gso_loop(void *frames, unsigned size, unsigned rounds, uint8_t *out, uint32_t *out_sizes)
{
    static struct rte_mempool *direct, *indirect;
    struct rte_mbuf *segments[SEGMENTS_MAX];
    struct frames *f = frames;
    int total = 0;

    if (direct == NULL) {
        direct = rte_pktmbuf_pool_create("direct", 4095, 128, 0, 256, SOCKET_ID_ANY);
        indirect = rte_pktmbuf_pool_create("indirect", 4095, 128, 0, 0, SOCKET_ID_ANY);
    }
    struct rte_gso_ctx ctx = {.direct_pool = direct, .indirect_pool = indirect,
                              .gso_types = RTE_ETH_TX_OFFLOAD_TCP_TSO, .gso_size = size + HEADERS};
    for (unsigned r = 0; r < rounds; r++) {
        struct rte_mbuf *m = f->mbufs[r % f->count];
        layers(m);
        m->ol_flags = RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_IPV4;
        int made = rte_gso_segment(m, &ctx, segments, SEGMENTS_MAX);
        if (made <= 0)
            return made - 1;
        for (int i = 0; i < made; i++)
            finish_checksums(segments[i]);
        for (int i = 0; out != NULL && i < made; i++) {
            out_sizes[total + i] = segments[i]->pkt_len;
            for (struct rte_mbuf *part = segments[i]; part != NULL; out += part->data_len, part = part->next)
                memcpy(out, rte_pktmbuf_mtod(part, void *), part->data_len);
        }
        rte_pktmbuf_free_bulk(segments, made);
        total += made;
    }
    return total;
}

static int checksums_good(struct rte_mbuf *m)
{
    struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod_offset(m, struct rte_ipv4_hdr *, sizeof(struct rte_ether_hdr));

    return rte_raw_cksum(ip, sizeof(*ip)) == 0xffff &&
           rte_ipv4_udptcp_cksum_mbuf_verify(m, ip, sizeof(struct rte_ether_hdr) + sizeof(*ip)) == 0;
}

/* Merges bursts; before each, the frames are put as they were. With `verify` their checksums are looked at, as
 * rte_gro does not. Returns packets left of all, sizes of the last burst's in out_sizes; or -1. */
int gro_loop(void *frames, unsigned rounds, int verify, uint64_t *cycles, uint32_t *out_sizes)
{
    const struct rte_gro_param param = {
        .gro_types = RTE_GRO_TCP_IPV4, .max_flow_num = GRO_FLOWS, .max_item_per_flow = BURST};
    struct frames *f = frames;
    uint8_t (*fronts)[HEADERS] = malloc(f->count * sizeof(*fronts));
    uint32_t *sizes = malloc(f->count * sizeof(*sizes));
    struct rte_mbuf *burst[BURST];
    int total = 0;

    for (unsigned i = 0; i < f->count; i++) {
        memcpy(fronts[i], rte_pktmbuf_mtod(f->mbufs[i], void *), HEADERS);
        sizes[i] = f->mbufs[i]->pkt_len;
    }
    for (unsigned r = 0; r < rounds; r++) {
        unsigned first = r * BURST % f->count, good = 0;
        memcpy(burst, f->mbufs + first, sizeof(burst));
        uint64_t began = rte_rdtsc();
        for (unsigned i = 0; verify && i < BURST; i++)
            good += checksums_good(burst[i]);
        unsigned left = verify && good != BURST ? 0 : rte_gro_reassemble_burst(burst, BURST, &param);
        *cycles += rte_rdtsc() - began;
        total = left == 0 ? -1 : total + (int)left;
        for (unsigned i = 0; i < left; i++)
            out_sizes[i] = burst[i]->pkt_len;
        for (unsigned i = 0; i < BURST; i++) {
            struct rte_mbuf *m = f->mbufs[first + i];
            rte_pktmbuf_reset(m);
            m->data_len = m->pkt_len = sizes[first + i];
            memcpy(rte_pktmbuf_mtod(m, void *), fronts[first + i], HEADERS);
            layers(m);
        }
        if (total < 0)
            break;
    }
    free(fronts);
    free(sizes);
    return total;
}

/* srTCM over bursts of packets of `sizes`, `step` cycles apart, the clock read once a burst as ours is.
 * Returns packets that were green. */
int meter_loop(const uint32_t *sizes, unsigned count, uint64_t rate, uint64_t burst, uint64_t step,
               unsigned rounds)
{
    struct rte_meter_srtcm_params params = {.cir = rate / 8, .cbs = burst, .ebs = 0};
    struct rte_meter_srtcm_profile profile;
    struct rte_meter_srtcm meter;
    int green = 0;

    if (rte_meter_srtcm_profile_config(&profile, &params) != 0 || rte_meter_srtcm_config(&meter, &profile) != 0)
        return -1;
    uint64_t now = rte_get_tsc_cycles();
    for (unsigned r = 0; r < rounds; r++)
        for (unsigned first = 0; first + BURST <= count; first += BURST) {
            now += step;
            for (unsigned i = 0; i < BURST; i++)
                green += rte_meter_srtcm_color_blind_check(&meter, &profile, now, sizes[first + i]) ==
                         RTE_COLOR_GREEN;
        }
    return green;
}
