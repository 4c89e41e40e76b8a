"""The words all kernels share: sizes, the packet record, verdicts, port flags.

Spec: virtio 1.2 section 5.1.6 (`virtio_net_hdr`) for the offload fields.
Not:  anything of numba. The control process imports this file and must start fast.

A batch is two arrays. `headers` holds the front of every packet in private memory, one row a
packet; `meta` says the rest: where the payload lies, what was parsed, what was decided.

    row   |<-- HEADROOM_BYTES -->|<----------- HEADER_BYTES ----------->|
          |  free  | 12 B vnet   | frame: Ethernet, IP, TCP, ...        |  -> payload_addr, payload_len
          0                      l2_offset     l3_offset   l4_offset

All `*_offset` and `csum_start` fields count octets from the start of the *row*, so that pushing
a header moves `l2_offset` only. Rows are in network order, `meta` in host order.
"""

import numpy as np

BATCH_SIZE = 64  # packets
BURST_BYTES_MAX = 256 * 1024  # octets, a burst ends at the packet that reaches this
HEADROOM_BYTES = 128  # octets in front of a received frame, for tags, tunnels and the vnet header
HEADER_BYTES = 256  # octets of a frame that kernels can read and write
ROW_BYTES = HEADROOM_BYTES + HEADER_BYTES
PAYLOAD_PIECES_MAX = 256  # struct iovecs of one payload
FRAME_BYTES_MAX = 65535 + 14 + 8  # octets: the largest IP packet behind Ethernet and two tags
PORTS_MAX = 1024
WORKERS_MAX = 64
ARENA_BYTES = (
    BURST_BYTES_MAX + BATCH_SIZE * 64 + 2 * FRAME_BYTES_MAX
)  # octets, payloads of a burst that are copied
PORT_NONE = 0xFFFF
PER_WORKER = -1  # a dimension of an array in shared memory: as long as workers run

META_DTYPE = np.dtype(
    [
        # where the packet lies
        ("payload_addr", "u8"),  # address of the octets behind the row
        ("payload_len", "u4"),  # octets behind the row
        ("frame_len", "u4"),  # octets from l2_offset to the end, payload included
        ("l2_offset", "u2"),
        ("header_end", "u2"),  # first octet of the row that is not the packet's
        ("in_port", "u2"),
        # offload metadata, virtio 1.2 5.1.6
        ("gso_size", "u2"),
        ("csum_start", "u2"),  # from the start of the row
        ("csum_offset", "u2"),  # from csum_start
        ("gso_hdr_len", "u2"),
        ("offload", "u1"),  # VIRTIO_NET_HDR_F_*
        ("gso_type", "u1"),  # VIRTIO_NET_HDR_GSO_*
        # parsed
        ("ethertype", "u2"),  # of the layer at l3_offset
        ("vlan_tci", "u2"),  # outermost tag's TCI, 0 without one
        ("inner_tci", "u2"),  # second tag's TCI
        ("vlan", "u2"),  # VLAN the packet belongs to (VLAN ID, or the port's for an untagged one)
        ("l3_offset", "u2"),
        ("l4_offset", "u2"),  # 0: no layer 4 (not IP, a later fragment, or an unknown header)
        ("l5_offset", "u2"),  # behind the layer 4 header
        ("l3_len", "u2"),  # octets from l3_offset that the IP header claims, without Ethernet padding
        ("src_port", "u2"),
        ("dst_port", "u2"),
        ("parsed", "u2"),  # PARSED_*
        ("ip_proto", "u1"),
        ("tcp_flags", "u1"),
        ("tunnel", "u1"),  # TUNNEL_*
        # decided
        ("verdict", "u1"),
        ("drop_reason", "u1"),
        ("tags", "u1"),  # 802.1Q/802.1ad tags in front of l3_offset, 0..2
        ("tunnel_id", "u4"),  # VNI, TEID or GRE key
        ("flow_hash", "u4"),  # the same for both directions
        ("repeats", "u4"),  # 1: placed and parsed as the packet before it, kernels/parse/repeat.py
        # addresses, host order; IPv4 is ::ffff:a.b.c.d (RFC 4291 2.5.5.2)
        ("src_hi", "u8"),
        ("src_lo", "u8"),
        ("dst_hi", "u8"),
        ("dst_lo", "u8"),
        ("src_mac", "u8"),  # 48 bits
        ("dst_mac", "u8"),
        # 0: the payload lies at payload_addr in one piece; else the address of a struct iovec[] of 1 to
        # PAYLOAD_PIECES_MAX pieces of 1 octet or more, whose lengths add up to payload_len, and
        # payload_addr is not used. The 16 octets in front of the list are writable, for the row's iovec
        ("payload_iov", "u8"),
    ],
    align=True,
)
assert META_DTYPE.itemsize == 128, META_DTYPE.itemsize

# verdict
VERDICT_PASS = 0
VERDICT_DROP = 1
VERDICT_MERGED = 2  # GRO put this packet into an earlier one

# parsed
PARSED_IPV4 = 1
PARSED_IPV6 = 2
PARSED_FRAGMENT = 4  # any fragment, the first one too
PARSED_LATER_FRAGMENT = 8  # offset above zero: no layer 4 header
PARSED_PORTS = 16  # src_port and dst_port are valid
PARSED_MULTICAST = 32  # group bit of the destination MAC, broadcast included
PARSED_IP_OPTIONS = 64  # IPv4 options or IPv6 extension headers
PARSED_ARP = 128
PARSED_AUTH = 256  # an AH header was passed
# not of the parser, which clears them: what `retag` did to the outer tag
PARSED_TAG_PUSHED = 0x2000  # it was pushed here
PARSED_TAG_POPPED = 0x4000  # it came with the packet and is off; vlan_tci still holds it
PARSED_TAG_SERVICE = 0x8000  # the popped one was an S-tag, 0x88A8

TUNNEL_NONE = 0
TUNNEL_GRE = 1
TUNNEL_VXLAN = 2
TUNNEL_GENEVE = 3
TUNNEL_GTPU = 4

# offload, virtio 1.2 5.1.6
VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
VIRTIO_NET_HDR_F_DATA_VALID = 2
# gso_type
VIRTIO_NET_HDR_GSO_NONE = 0
VIRTIO_NET_HDR_GSO_TCPV4 = 1
VIRTIO_NET_HDR_GSO_UDP = 3
VIRTIO_NET_HDR_GSO_TCPV6 = 4
VIRTIO_NET_HDR_GSO_UDP_L4 = 5
VIRTIO_NET_HDR_GSO_ECN = 0x80

# A port as the kernels see it; written by the control process.
PORT_DTYPE = np.dtype(
    [
        ("mac", "u8"),  # the attached side's MAC, for the spoof check; 0: unknown
        ("flags", "u4"),  # PORT_*
        ("mtu", "u4"),  # octets of layer 3
        ("generation", "u4"),  # grows when the index gets a new port; ages out learned MACs
        ("vlan", "u2"),  # VLAN of untagged frames, 0: none
        ("kind", "u1"),  # drivers' KIND_*, 0: no port here
        ("pad", "u1"),
    ],
    align=True,
)
PORT_UP = 1
PORT_TX_CSUM = 2  # takes packets with an owed checksum
PORT_TX_TSO4 = 4  # takes TCP/IPv4 packets larger than its MTU
PORT_TX_TSO6 = 8
PORT_TX_USO = 16
PORT_TX_ECN = 32  # takes GSO packets with CWR set
PORT_RX_VERIFY = 64  # verify checksums of packets that come in here
PORT_SPOOF_CHECK = 128  # the source MAC must be `mac`
PORT_RX_GRO = 256  # comes without GRO of its own: merge
PORT_TRUNK = 512  # takes only the tags of its row in vlan_allowed
PORT_RX_OWED = 1024  # hands over owed checksums without a mark: find them

VLAN_WORDS = 4096 // 64  # vlan_allowed: uint64[PORTS_MAX, VLAN_WORDS], one bit a VLAN ID
