"""The kernel's words for packet sockets: options, flags, and where the fields of its rings are.

Source: linux/if_packet.h, Documentation/networking/packet_mmap.rst.
Not:    anything of numba; the control process imports this file.
"""

import enum

ETH_P_ALL = 0x0003  # linux/if_ether.h
SOL_PACKET = 263  # linux/socket.h
SO_COOKIE = 57  # asm-generic/socket.h
TPACKET_V2 = 1
TPACKET_V3 = 2
PACKET_MR_PROMISC = 1
PACKET_FANOUT_HASH = 0
PACKET_FANOUT_FLAG_UNIQUEID = 0x2000
PACKET_FANOUT_FLAG_IGNORE_OUTGOING = 0x4000


class SocketOption(enum.IntEnum):
    """Socket options of level SOL_SOCKET that Python has no name for; asm-generic/socket.h."""

    SO_ATTACH_FILTER = 26
    SO_DETACH_FILTER = 27
    SO_SNDBUFFORCE = 32
    SO_RCVBUFFORCE = 33
    SO_ATTACH_BPF = 50


class PacketOption(enum.IntEnum):
    """Socket options of level SOL_PACKET."""

    PACKET_ADD_MEMBERSHIP = 1
    PACKET_RX_RING = 5
    PACKET_STATISTICS = 6
    PACKET_COPY_THRESH = 7
    PACKET_VERSION = 10
    PACKET_TX_RING = 13
    PACKET_VNET_HDR = 15
    PACKET_FANOUT = 18
    PACKET_QDISC_BYPASS = 20
    PACKET_IGNORE_OUTGOING = 23


# a virtio-net header without num_buffers, in front of each frame; 12 octets would need Linux 6.4
VNET_BYTES = 10

# of a block or frame
TP_STATUS_KERNEL = 0
TP_STATUS_USER = 1
TP_STATUS_COPY = 1 << 1  # the whole packet is in the socket's queue
TP_STATUS_LOSING = 1 << 2  # packets were lost since the last PACKET_STATISTICS
TP_STATUS_CSUMNOTREADY = 1 << 3
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6
# of a slot to send from
TP_STATUS_AVAILABLE = 0
TP_STATUS_SEND_REQUEST = 1
TP_STATUS_SENDING = 2
TP_STATUS_WRONG_FORMAT = 4

# struct tpacket_block_desc with struct tpacket_hdr_v1, octets
BLOCK_STATUS = 8
BLOCK_PACKETS = 12
BLOCK_FIRST = 16  # where its first packet begins
BLOCK_SEQUENCE = 24  # 64 bits; the ring's first block is 1, and they are filled in their order
BLOCK_HEADER_BYTES = 48

# struct tpacket2_hdr, octets, of a slot
SLOT_STATUS = 0
SLOT_LEN = 4
SLOT_SNAPLEN = 8
SLOT_MAC = 12  # 16 bits
SLOT_SECONDS = 16  # 32 bits, then 32 bits of nanoseconds: when it was filled
SLOT_TCI = 24
SLOT_TPID = 26

# struct tpacket3_hdr, octets
PACKET_NEXT = 0  # octets to the next packet of the block, 0: the last one
PACKET_SNAPLEN = 12  # octets that are in the ring
PACKET_LEN = 16  # octets that the frame had; of a slot to send from: octets to send
PACKET_STATUS = 20
PACKET_MAC = 24  # 16 bits, where the frame begins
PACKET_TCI = 32
PACKET_TPID = 36
PACKET_HEADER_BYTES = 48  # TPACKET_ALIGN(sizeof(struct tpacket3_hdr)): a frame to send follows at once

# struct tpacket_stats_v3, octets
STATISTICS_DROPS = 4
STATISTICS_BYTES = 12
