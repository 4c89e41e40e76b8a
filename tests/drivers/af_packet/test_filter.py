"""The filter for rings of slots, run by the kernel on packets that are made up."""

import ctypes
import os
import struct

import pytest

from dpu_runtime.drivers.af_packet.filter import GSO_BY_FRAGS, SKB_GSO_SIZE, load_slot_filter
from dpu_runtime.drivers.linux.bpf import attributes, bpf

pytestmark = pytest.mark.root

BPF_PROG_TEST_RUN = 10  # linux/bpf.h
SK_BUFF_BYTES = 192  # sizeof(struct __sk_buff)
WHOLE = 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("gso_size", "keeps"), [(0, WHOLE), (1448, WHOLE), (65000, WHOLE), (GSO_BY_FRAGS, 0)]
)
def test_what_no_virtio_net_header_can_name_is_kept_out(gso_size, keeps):
    program = load_slot_filter()
    try:
        skb = bytearray(SK_BUFF_BYTES)
        struct.pack_into("<I", skb, SKB_GSO_SIZE, gso_size)
        context = ctypes.create_string_buffer(bytes(skb), len(skb))
        data = ctypes.create_string_buffer(bytes(12) + b"\x08\x00" + bytes(86), 100)
        words = program, 0, len(data), 0, ctypes.addressof(data), 0, 1, 0
        words += len(context), 0, ctypes.addressof(context), 0
        attr = attributes("=4I2Q4I2Q", *words)
        bpf(BPF_PROG_TEST_RUN, attr)
        assert struct.unpack_from("<I", attr, 4)[0] == keeps
    finally:
        os.close(program)
