"""The redirect program and its map, by bpf(2) itself: no library, no compiler.

Spec: linux/bpf.h, RFC 9669 (instruction set), Documentation/networking/af_xdp.rst (XSKMAP).
Not:  who polls the sockets that the map names.

    r2 = *(u32 *)(r1 + 16)          xdp_md.rx_queue_index
    r1 = the map
    r3 = what becomes of a packet whose queue has no socket
    call bpf_redirect_map
    exit
"""

import ctypes
import os
import struct

from dpu_runtime.drivers.linux.bpf import attributes, bpf

BPF_MAP_CREATE, BPF_MAP_UPDATE_ELEM, BPF_PROG_LOAD, BPF_LINK_CREATE = 0, 2, 5, 28  # enum bpf_cmd
BPF_MAP_TYPE_XSKMAP = 17
BPF_PROG_TYPE_XDP = 6
BPF_XDP = 37  # enum bpf_attach_type
BPF_F_XDP_HAS_FRAGS = 1 << 5
BPF_PSEUDO_MAP_FD = 1
BPF_FUNC_REDIRECT_MAP = 51
XDP_DROP, XDP_PASS = 1, 2  # enum xdp_action
XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE = 1 << 1, 1 << 2  # linux/if_link.h

_LOG_BYTES = 64 << 10
_RX_QUEUE_INDEX_OFFSET = 16  # octets, struct xdp_md


def _bpf(command, *fields, log=None):
    return bpf(command, attributes(*fields), log)


def make_map(entries):
    """Make an XSKMAP of `entries` queues; returns its descriptor."""
    fd = _bpf(BPF_MAP_CREATE, "=IIIII", BPF_MAP_TYPE_XSKMAP, 4, 4, entries, 0)
    os.set_inheritable(fd, False)
    return fd


def put_socket(map_fd, queue, socket_fd):
    """Have the packets of a receive queue go to an AF_XDP socket; its entry goes with the socket."""
    key = ctypes.c_uint32(queue)
    value = ctypes.c_uint32(socket_fd)
    _bpf(BPF_MAP_UPDATE_ELEM, "=I4xQQQ", map_fd, ctypes.addressof(key), ctypes.addressof(value), 0)


def load_program(map_fd, otherwise, frags):
    """Load the redirect program; returns its descriptor.

    otherwise  XDP_PASS or XDP_DROP, for packets of queues without a socket
    frags      whether it takes packets that lie in several buffers
    """
    code = _program(map_fd, otherwise)
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
    log = ctypes.create_string_buffer(_LOG_BYTES)
    fd = _bpf(
        BPF_PROG_LOAD,
        "=IIQQIIQII16sII",
        BPF_PROG_TYPE_XDP,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        1,  # log_level
        _LOG_BYTES,
        ctypes.addressof(log),
        0,  # kern_version
        BPF_F_XDP_HAS_FRAGS if frags else 0,
        b"dpu_redirect",
        0,  # prog_ifindex
        BPF_XDP,
        log=log,
    )
    os.set_inheritable(fd, False)
    return fd


def _program(map_fd, otherwise):
    """Machine code: opcode, destination and source register, offset, immediate."""
    return b"".join(
        struct.pack("=BBhi", opcode, source << 4 | target, offset, immediate)
        for opcode, target, source, offset, immediate in (
            (0x61, 2, 1, _RX_QUEUE_INDEX_OFFSET, 0),  # r2 = *(u32 *)(r1 + 16)
            (0x18, 1, BPF_PSEUDO_MAP_FD, 0, map_fd),  # r1 = map, first half
            (0x00, 0, 0, 0, 0),  # and the second
            (0xB7, 3, 0, 0, otherwise),  # r3 = otherwise
            (0x85, 0, 0, 0, BPF_FUNC_REDIRECT_MAP),  # call
            (0x95, 0, 0, 0, 0),  # exit
        )
    )


def attach(program_fd, ifindex, flags):
    """Attach a program to an interface of the caller's namespace; returns the link's descriptor.

    The program stays attached as long as somebody holds the descriptor, and no longer.
    """
    fd = _bpf(BPF_LINK_CREATE, "=IIII", program_fd, ifindex, BPF_XDP, flags)
    os.set_inheritable(fd, False)
    return fd
