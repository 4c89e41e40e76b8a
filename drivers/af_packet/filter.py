"""Socket filters of an af_packet port: one lets nothing in, one what a ring of slots can stand.

Source: bpf(2), linux/filter.h, linux/bpf.h; net/packet/af_packet.c (tpacket_rcv).
Not:    anything of numba.

A packet to be segmented in a way that no virtio-net header names is dropped by the kernel, which then leaves
its slot of a TPACKET_V2 ring marked as in use, and no other packet comes any more. That is SCTP, known by its
segment size, and before Linux 6.2 UDP.
"""

import ctypes
import os
import struct

from dpu_runtime.drivers.linux.bpf import attributes, bpf

BPF_PROG_LOAD = 5
BPF_PROG_TYPE_SOCKET_FILTER = 1
SKB_GSO_SIZE = 176  # octets, of gso_size in struct __sk_buff
GSO_BY_FRAGS = 0xFFFF  # linux/skbuff.h: segments as they are, SCTP only
RET = 0x06  # classic: return a constant, how much of a packet to keep
# struct bpf_insn: code, registers (source above destination), offset, constant
SLOT_FILTER = (
    (0x61, 0x10, SKB_GSO_SIZE, 0),  # r0 = *(u32 *)(r1 + gso_size)
    (0x15, 0x00, 2, GSO_BY_FRAGS),  # if r0 == GSO_BY_FRAGS goto +2
    (0xB4, 0x00, 0, -1),  # w0 = -1, the whole packet
    (0x95, 0x00, 0, 0),  # exit
    (0xB4, 0x00, 0, 0),  # w0 = 0
    (0x95, 0x00, 0, 0),
)


class NothingFilter:
    """A classic filter that keeps every packet out; `program` is what SO_ATTACH_FILTER takes."""

    def __init__(self):
        self._instruction = ctypes.create_string_buffer(struct.pack("HBBI", RET, 0, 0, 0))
        self.program = struct.pack("HP", 1, ctypes.addressof(self._instruction))  # struct sock_fprog


def load_slot_filter():
    """Load the filter for rings of slots; returns its descriptor. Raises BpfError."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=BBhi", *one) for one in SLOT_FILTER))
    licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
    where = ctypes.addressof(code), ctypes.addressof(licence)
    fd = bpf(BPF_PROG_LOAD, attributes("=IIQQ", BPF_PROG_TYPE_SOCKET_FILTER, len(SLOT_FILTER), *where))
    os.set_inheritable(fd, False)
    return fd
