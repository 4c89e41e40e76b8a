"""The words that generator and receiver share: the stamp of a packet, a template, what is counted.

Not:  anything of numba.
"""

import enum

import numpy as np

from dpu_runtime.kernels.layout import BATCH_SIZE, HEADER_BYTES, HEADROOM_BYTES

FCS_BYTES = 4  # octets, IEEE 802.3 3.2.9; sizes of the command line have it, frames in memory have not
FRAME_BYTES_MIN = 64 - FCS_BYTES  # octets, IEEE 802.3 4A.4.2
FRAME_BYTES_MAX = 1518 - FCS_BYTES
BURST = BATCH_SIZE  # packets sent or received at once, at most

# In the payload of every packet, right behind the UDP or TCP header, little-endian. 18 octets is what a frame
# of 64 with its FCS has room for behind Ethernet, IPv4 and UDP.
STAMP_DTYPE = np.dtype(
    [
        ("hash", "<u4"),  # CRC32c of the payload behind the stamp, then of the stamp's fields below
        ("sequence", "<u8"),  # 0, 1, 2, ... of this stream
        ("ticks", "<u4"),  # when its burst was handed over: TSC >> TICK_SHIFT, modulo 2**32
        ("magic", "u1"),  # MAGIC
        ("stream", "u1"),  # of the trial: what is left of an earlier one is not counted
    ]
)
STAMP_BYTES = STAMP_DTYPE.itemsize
assert STAMP_BYTES == FRAME_BYTES_MIN - 14 - 20 - 8
MAGIC = 0xD9
TICK_SHIFT = 4  # cycles a tick: a latency may be 27 s at 2.5 GHz

# A packet to send: its front in a row of `rows`, the rest at `payload_addr`, and what the stamp needs.
TEMPLATE_DTYPE = np.dtype(
    [
        ("payload_addr", "u8"),  # address of the octets behind the row
        ("payload_len", "u4"),
        ("frame_len", "u4"),
        ("header_end", "u2"),  # first octet of the row that is not the packet's
        ("stamp_at", "u2"),  # octets from the start of the frame
        ("checksum_at", "u2"),  # of UDP or TCP, octets from the start of the frame
        ("pad", "u2"),
        ("sum", "u4"),  # of its 16-bit words as they lie, pseudo-header too, checksum and stamp as zero
        ("crc", "u4"),  # CRC32c register behind the octets that follow the stamp
    ],
    align=True,
)
ROW_FRAME_BYTES = HEADER_BYTES  # octets of a frame that lie in its row
FRAME_AT = HEADROOM_BYTES  # where the frame begins in its row


class Count(enum.IntEnum):
    """Columns of `counts: uint64[len(Count)]`, of one trial."""

    SENT = 0  # packets that the port took; the next sequence number
    SENT_OCTETS = 1  # of frames, without FCS
    UNSENT = 2  # packets that the port had no room for: sent later, under the same number
    SLIPPED = 3  # cycles that the schedule was put off by, since more than a burst was due
    CYCLE = 4  # place in the pool's cycle
    RECEIVED = 5  # whole packets of this stream, the repeated ones too
    RECEIVED_OCTETS = 6
    NEXT = 7  # one more than the highest sequence number received
    DUPLICATED = 8  # RFC 5560: came before
    REORDERED = 9  # RFC 4737: came after one with a higher number
    STALE = 10  # WINDOW or more behind: duplicated or reordered, nobody knows
    CORRUPTED = 11  # with the magic, but another hash, or a number that was not sent yet
    FOREIGN = 12  # no packet of ours, or of an earlier stream
    LAST = 13  # cycles, when the last packet of this stream came


WINDOW = 1 << 20  # sequence numbers of which it is known whether they came
