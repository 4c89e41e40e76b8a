"""ARP for IPv4 over Ethernet.

Spec: RFC 826.
In:   the packet at l3.   Out: src_hi, src_lo, dst_hi, dst_lo (sender and target protocol address).
Not:  the operation is not judged; other hardware or protocol types are malformed here.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.octets.wire import be32, be48
from dpu_runtime.kernels.parse.ipv4 import mapped_ipv4

ARP_BYTES = np.uint64(28)  # octets, for 6-octet hardware and 4-octet protocol addresses
ARP_IPV4_ETHERNET = np.uint64(0x0001_0800_0604)  # htype, ptype, hlen, plen
ARP_SPA_OFFSET = np.uint64(14)  # octets, sender protocol address
ARP_TPA_OFFSET = np.uint64(24)  # octets, target protocol address

_DROP_ARP_MALFORMED = int(Drop.ARP_MALFORMED)


@helper
def parse_arp(row, rec, l3, end):
    """Check an ARP packet and take its addresses; returns a drop code."""
    if l3 + ARP_BYTES > end or be48(row, l3) != ARP_IPV4_ETHERNET:
        return _DROP_ARP_MALFORMED
    rec["src_lo"] = mapped_ipv4(be32(row, l3 + ARP_SPA_OFFSET))
    rec["dst_lo"] = mapped_ipv4(be32(row, l3 + ARP_TPA_OFFSET))
    return 0
