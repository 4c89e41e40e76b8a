"""AF_PACKET port, what the data-plane process maps: the rings of each queue, and where they were left.

In:   the sockets of port.py and their geometry.   Out: rows of `packet_queues`, drivers/af_packet/layout.py.
"""

import ctypes
import mmap
import os
import socket

from dpu_runtime.drivers.af_packet.if_packet import SO_COOKIE, TPACKET_V3
from dpu_runtime.drivers.af_packet.recovery import (
    CURSOR_SHIFT,
    forget_read_packets,
    give_finished_blocks,
    give_finished_slots,
    withdraw_unsent,
)

_SEQUENCE_FIRST = 1


class PacketRings:
    """The mapped queues of a port, in the data-plane process."""

    def __init__(self, index, shared, fds, layout):
        self.fds = list(fds)
        self.layout = layout
        self.queue_fds = self.fds[: layout["queues"]]
        self._rows = shared.packet_queues[index]
        self._maps = []
        try:
            senders = self.fds[layout["queues"] :]
            for row, fd, tx_fd in zip(self._rows, self.queue_fds, senders, strict=False):
                self._map_queue(row, fd, tx_fd)
        except BaseException:
            self.close()
            raise

    def _map_queue(self, row, fd, tx_fd):
        layout = self.layout
        cookie = _cookie(fd)
        if int(row["cookie"]) != cookie:
            first = _SEQUENCE_FIRST if layout["rx_version"] == TPACKET_V3 else 0
            row["rx_given"] = first
            row["rx_cursor"] = first << _shift(layout)
            row["tx_head"] = 0
            row["cookie"] = cookie
        for key in ("rx_version", "rx_units", "rx_unit_bytes", "tx_slots", "tx_slot_bytes"):
            row[key] = layout[key]
        row["rx_addr"] = self._map(fd, layout["rx_units"] * layout["rx_unit_bytes"])
        row["tx_addr"] = self._map(tx_fd, layout["tx_slots"] * layout["tx_slot_bytes"])
        row["tx_fd"] = tx_fd
        row["tx_lock"] = 0  # whoever had it is dead
        if layout["rx_version"] == TPACKET_V3:
            give_finished_blocks(row)
        else:
            give_finished_slots(row)
            forget_read_packets(row, fd)
        withdraw_unsent(row)

    def _map(self, fd, size):
        memory = mmap.mmap(fd, size)
        self._maps.append(memory)
        return ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def close(self):
        """Unmap the rings and close every descriptor; no worker uses the port any more."""
        for memory in self._maps:
            memory.close()
        for fd in self.fds:
            os.close(fd)
        self._maps = []
        self.fds = self.queue_fds = []


def _cookie(fd):
    """What tells this socket from any other of this boot."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


def _shift(layout):
    return CURSOR_SHIFT if layout["rx_version"] == TPACKET_V3 else 0
