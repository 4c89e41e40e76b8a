"""AF_PACKET port, what the data-plane process maps: the rings of each queue, and where they were left.

In:   the sockets of port.py and their geometry.   Out: rows of `packet_queues`, drivers/af_packet/layout.py.
"""

import ctypes
import mmap
import os
import socket

from drivers.af_packet.if_packet import (
    BLOCK_SEQUENCE,
    BLOCK_STATUS,
    PACKET_STATUS,
    SO_COOKIE,
    TP_STATUS_AVAILABLE,
    TP_STATUS_KERNEL,
    TP_STATUS_SEND_REQUEST,
    TP_STATUS_USER,
    TP_STATUS_WRONG_FORMAT,
)

CURSOR_SHIFT = 32  # of a block's sequence number in rx_cursor
SEQUENCE_FIRST = 1
_SEQUENCE_MASK = 0xFFFF_FFFF


class PacketRings:
    """The mapped queues of a port, in the data-plane process."""

    def __init__(self, index, shared, fds, layout):
        self.fds = list(fds)
        self.layout = layout
        self.queue_fds = self.fds[: layout["queues"]]
        self._rows = shared.packet_queues[index]
        self._maps = []
        try:
            plain_fds = self.fds[layout["queues"] :]
            for row, fd, plain_fd in zip(self._rows, self.queue_fds, plain_fds, strict=False):
                self._map(row, fd, plain_fd)
        except BaseException:
            self.close()
            raise

    def _map(self, row, fd, plain_fd):
        layout = self.layout
        rx_bytes = layout["block_bytes"] * layout["blocks"]
        rings = mmap.mmap(fd, rx_bytes + layout["slot_bytes"] * layout["slots"])
        self._maps.append(rings)
        address = ctypes.addressof(ctypes.c_char.from_buffer(rings))
        cookie = _cookie(fd)
        if int(row["cookie"]) != cookie:
            row["rx_cursor"] = SEQUENCE_FIRST << CURSOR_SHIFT
            row["rx_given"] = SEQUENCE_FIRST
            row["tx_head"] = 0
            row["cookie"] = cookie
        row["rx_addr"], row["tx_addr"] = address, address + rx_bytes
        row["rx_blocks"], row["rx_block_bytes"] = layout["blocks"], layout["block_bytes"]
        row["tx_slots"], row["tx_slot_bytes"] = layout["slots"], layout["slot_bytes"]
        row["plain_fd"] = plain_fd
        row["tx_lock"] = 0  # whoever had it is dead
        give_finished(row)
        withdraw_unsent(row)

    def close(self):
        """Unmap the rings and close every descriptor; no worker uses the port any more."""
        for rings in self._maps:
            rings.close()
        for fd in self.fds:
            os.close(fd)
        self._maps = []
        self.fds = self.queue_fds = []


def _cookie(fd):
    """What tells this socket from any other of this boot."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


def give_finished(row):
    """Give the blocks back that a dead process was done with.

    It may have died between giving one back and noting it: the kernel can have filled that again, with a
    later sequence number.
    """
    blocks, first = int(row["rx_blocks"]), int(row["rx_addr"])
    here = int(row["rx_cursor"]) >> CURSOR_SHIFT
    sequence = int(row["rx_given"])
    while sequence != here:
        block = first + (sequence - 1) % blocks * int(row["rx_block_bytes"])
        status = ctypes.c_uint32.from_address(block + BLOCK_STATUS)
        found = ctypes.c_uint64.from_address(block + BLOCK_SEQUENCE).value & _SEQUENCE_MASK
        if status.value & TP_STATUS_USER and found == sequence:
            status.value = TP_STATUS_KERNEL
        sequence = sequence + 1 & _SEQUENCE_MASK
    row["rx_given"] = here


def withdraw_unsent(row):
    """Empty the slots that a dead process filled and did not send, wherever it was with that."""
    slots, size, first = int(row["tx_slots"]), int(row["tx_slot_bytes"]), int(row["tx_addr"])
    waiting = []
    for slot in range(slots):
        status = ctypes.c_uint32.from_address(first + slot * size + PACKET_STATUS)
        waiting.append(status.value in (TP_STATUS_SEND_REQUEST, TP_STATUS_WRONG_FORMAT))
        if waiting[slot]:
            status.value = TP_STATUS_AVAILABLE
    head = int(row["tx_head"])
    while waiting[(head - 1) % slots]:
        head = (head - 1) % slots
        waiting[head] = False
    row["tx_head"] = head
