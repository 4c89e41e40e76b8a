/* Headers to offsets and fields: rte_net_get_ptype finds the layers, the fields are read as an
 * application would, the flow's hash is rte_hash_crc over addresses, ports and protocol. Lengths are not
 * checked, except by what rte_net_get_ptype does. */
#include <string.h>
#include <rte_hash_crc.h>
#include <rte_net.h>
#include "frames.h"

static inline void addresses(const uint8_t *ip, struct parsed *out)
{
    uint64_t w[4];

    memcpy(w, ip + 8, sizeof(w));
    out->src_hi = rte_be_to_cpu_64(w[0]);
    out->src_lo = rte_be_to_cpu_64(w[1]);
    out->dst_hi = rte_be_to_cpu_64(w[2]);
    out->dst_lo = rte_be_to_cpu_64(w[3]);
}

static inline void parse_one(const struct rte_mbuf *m, struct parsed *out)
{
    struct rte_net_hdr_lens lens;
    uint32_t ptype = rte_net_get_ptype(m, &lens, RTE_PTYPE_L2_MASK | RTE_PTYPE_L3_MASK | RTE_PTYPE_L4_MASK);
    const uint8_t *frame = rte_pktmbuf_mtod(m, const uint8_t *);
    const uint8_t *ip = frame + lens.l2_len, *l4 = ip + lens.l3_len;
    uint32_t hash;

    memset(out, 0, sizeof(*out));
    if ((ptype & RTE_PTYPE_L2_MASK) != RTE_PTYPE_L2_ETHER)
        out->vlan_tci = frame[14] << 8 | frame[15];
    out->ethertype = ip[-2] << 8 | ip[-1];
    out->l3_offset = lens.l2_len;
    if (RTE_ETH_IS_IPV4_HDR(ptype)) {
        const struct rte_ipv4_hdr *h = (const void *)ip;
        out->src_lo = 0xffff00000000 | rte_be_to_cpu_32(h->src_addr);
        out->dst_lo = 0xffff00000000 | rte_be_to_cpu_32(h->dst_addr);
        out->ip_proto = h->next_proto_id;
    } else if (RTE_ETH_IS_IPV6_HDR(ptype)) {
        addresses(ip, out);
        out->ip_proto = (ptype & RTE_PTYPE_L4_MASK) == RTE_PTYPE_L4_TCP ? IPPROTO_TCP : ip[6];
    }
    if (ptype & RTE_PTYPE_L4_MASK) {
        out->l4_offset = lens.l2_len + lens.l3_len;
        out->l5_offset = out->l4_offset + lens.l4_len;
        out->src_port = l4[0] << 8 | l4[1];
        out->dst_port = l4[2] << 8 | l4[3];
        if ((ptype & RTE_PTYPE_L4_MASK) == RTE_PTYPE_L4_TCP)
            out->tcp_flags = l4[13];
    }
    hash = rte_hash_crc_8byte(out->src_lo, 0);
    hash = rte_hash_crc_8byte(out->dst_lo, hash);
    if (RTE_ETH_IS_IPV6_HDR(ptype)) {
        hash = rte_hash_crc_8byte(out->src_hi, hash);
        hash = rte_hash_crc_8byte(out->dst_hi, hash);
    }
    out->flow_hash = rte_hash_crc_8byte(
        (uint64_t)out->src_port << 48 | (uint64_t)out->dst_port << 32 | out->ip_proto, hash);
}

void parse_loop(void *frames, struct parsed *out, unsigned rounds)
{
    struct frames *f = frames;

    for (unsigned r = 0; r < rounds; r++)
        for (unsigned i = 0; i < f->count; i++)
            parse_one(f->mbufs[i], out + i);
}
