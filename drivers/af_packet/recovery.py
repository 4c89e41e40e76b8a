"""AF_PACKET rings that a dead data-plane process left: what it was done with goes back to the kernel.

In/out: rows of `packet_queues`, drivers/af_packet/layout.py, and the rings they name.
Not:    mapping the rings (mapping.py).
"""

import ctypes
import socket

from dpu_runtime.drivers.af_packet.if_packet import (
    BLOCK_SEQUENCE,
    BLOCK_STATUS,
    PACKET_STATUS,
    SLOT_MAC,
    SLOT_SECONDS,
    SLOT_SNAPLEN,
    SLOT_STATUS,
    TP_STATUS_AVAILABLE,
    TP_STATUS_COPY,
    TP_STATUS_KERNEL,
    TP_STATUS_SEND_REQUEST,
    TP_STATUS_USER,
    TP_STATUS_WRONG_FORMAT,
    VNET_BYTES,
)

CURSOR_SHIFT = 32  # of a block's sequence number in rx_cursor, blocks.py
_MASK = 0xFFFF_FFFF


def give_finished_blocks(row):
    """Give the blocks back that a dead process was done with.

    It may have died between giving one back and noting it: the kernel can have filled that again, with a
    later sequence number.
    """
    blocks, first = int(row["rx_units"]), int(row["rx_addr"])
    here = int(row["rx_cursor"]) >> CURSOR_SHIFT
    sequence = int(row["rx_given"])
    while sequence != here:
        block = first + (sequence - 1) % blocks * int(row["rx_unit_bytes"])
        status = ctypes.c_uint32.from_address(block + BLOCK_STATUS)
        found = ctypes.c_uint64.from_address(block + BLOCK_SEQUENCE).value & _MASK
        if status.value & TP_STATUS_USER and found == sequence:
            status.value = TP_STATUS_KERNEL
        sequence = sequence + 1 & _MASK
    row["rx_given"] = here


def give_finished_slots(row):
    """Give the slots back that a dead process took.

    It may have died between giving one back and noting it: the kernel can have filled that again, if it went
    all around the ring; then it is younger than the next one.
    """
    given, here = int(row["rx_given"]), int(row["rx_cursor"])
    following = _slot(row, given + 1)
    taken = given != here and _u32(following + SLOT_STATUS).value & TP_STATUS_USER
    if taken and _filled_at(_slot(row, given)) > _filled_at(following):
        given = given + 1 & _MASK
    while given != here:
        _u32(_slot(row, given) + SLOT_STATUS).value = TP_STATUS_KERNEL
        given = given + 1 & _MASK
    row["rx_given"] = here


def forget_read_packets(row, fd):
    """Keep slots and the socket's queue in step.

    A dead process may have read packets from the queue whose slots it had not noted as taken. They are lost:
    without their TP_STATUS_COPY these slots count as truncated.
    """
    kept = []  # slots whose packet was in the queue
    number = int(row["rx_cursor"])
    while len(kept) < int(row["rx_units"]) and _u32(_slot(row, number) + SLOT_STATUS).value & TP_STATUS_USER:
        kept.append(_slot(row, number))
        number = number + 1 & _MASK
    kept = [slot for slot in kept if _u32(slot + SLOT_STATUS).value & TP_STATUS_COPY]
    first = _peek(fd, int(row["rx_unit_bytes"])) if kept else b""
    for slot in kept:
        if first.startswith(_front(slot)):
            break
        _u32(slot + SLOT_STATUS).value &= ~TP_STATUS_COPY


def _peek(fd, octets):
    """The front of the first packet in a socket's queue, which stays there; empty if there is none."""
    with socket.socket(fileno=fd) as sock:
        try:
            return sock.recv(VNET_BYTES + octets, socket.MSG_PEEK | socket.MSG_DONTWAIT)[VNET_BYTES:]
        except OSError:
            return b""
        finally:
            sock.detach()


def _slot(row, number):
    """Address of a slot of the receive ring, counted round and round."""
    return int(row["rx_addr"]) + number % int(row["rx_units"]) * int(row["rx_unit_bytes"])


def _u32(addr):
    return ctypes.c_uint32.from_address(addr)


def _filled_at(slot):
    return _u32(slot + SLOT_SECONDS).value, _u32(slot + SLOT_SECONDS + 4).value


def _front(slot):
    """The octets of a packet that its slot holds."""
    frame = slot + ctypes.c_uint16.from_address(slot + SLOT_MAC).value
    return ctypes.string_at(frame, _u32(slot + SLOT_SNAPLEN).value)


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
