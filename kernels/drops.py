"""Drop reasons of the frame: parser, offloads, ports. A function declares its own, dpu_runtime/function.py.

The number is the index into `drops: uint64[DROP_REASON_COUNT]`; the name is what `dpu stats` prints.
Append only: the numbers live in shared memory that outlives a process.
"""

import enum


class Drop(enum.IntEnum):
    """Why a packet was dropped."""

    NONE = 0
    # parse
    RUNT = 1  # shorter than an Ethernet header
    OVERSIZE = 2  # longer than FRAME_BYTES_MAX
    VLAN_TRUNCATED = 3
    ARP_MALFORMED = 4
    IPV4_TRUNCATED = 5
    IPV4_HEADER = 6  # version, header length or options are wrong
    IPV4_LENGTH = 7  # total length beyond the frame or below the header
    IPV4_CHECKSUM = 8
    IPV4_FRAGMENT = 9  # fragment past 65535 octets
    IPV6_TRUNCATED = 10
    IPV6_HEADER = 11
    IPV6_LENGTH = 12
    IPV6_EXTENSION = 13  # truncated, out of the header row, or illegal order
    IPV6_EXTENSION_COUNT = 14
    TCP_TRUNCATED = 15
    TCP_HEADER = 16
    UDP_TRUNCATED = 17
    UDP_LENGTH = 18
    SCTP_TRUNCATED = 19
    ICMP_TRUNCATED = 20
    GRE_TRUNCATED = 21
    TUNNEL_TRUNCATED = 22
    SOURCE_MULTICAST = 23  # group bit in the source MAC
    # offload metadata from the other side
    VNET_FLAGS = 24
    VNET_CSUM_START = 25
    VNET_CSUM_OFFSET = 26
    VNET_GSO_TYPE = 27
    VNET_GSO_SIZE = 28
    VNET_HDR_LEN = 29
    # checksum
    L4_CHECKSUM = 30
    PORT_DOWN = 37
    # transmit
    TX_FULL = 39  # the peer's queue is full
    TX_ERROR = 40
    GSO_UNSUPPORTED = 41  # cannot be segmented for this egress port
    RX_TRUNCATED = 42  # the driver got more than a frame's buffer holds
    RESTART = 43  # in the hands of a data plane that died
    CHECKSUM_UNSUPPORTED = 44  # owed checksum that cannot be finished
    RX_ERROR = 45
    IPV6_FRAGMENT = 46  # fragment past 65535 octets
    # vhost-user rings
    RING_CHAIN = 48  # descriptor chain too long, looped, out of bounds or of the wrong direction
    RING_ADDRESS = 49  # buffer outside the guest's memory
    RING_DISABLED = 50  # the driver has switched the queue off
    RING_BUFFER = 51  # larger than the driver's receive buffer
    EARLIER = 54  # for a reason that only an earlier version of the data plane had


DROP_REASON_COUNT = 64  # room to grow without a new layout; meta's drop_reason from here on is a function's
assert max(Drop) < DROP_REASON_COUNT
