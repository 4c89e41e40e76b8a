"""Packet sockets in a namespace: whole frames out of an interface and in, tags where they were."""

import ctypes
import socket
import time

from dpu_runtime.drivers.linux.netns import run_in_netns

ETH_P_ALL = 0x0003  # linux/if_ether.h
SOL_PACKET, PACKET_AUXDATA = 263, 8  # packet(7)
PACKET_OUTGOING = 4
TP_STATUS_VLAN_VALID = 1 << 4
RECEIVE_BYTES = 4 << 20  # octets of socket buffer


class _Auxdata(ctypes.Structure):  # struct tpacket_auxdata, linux/if_packet.h
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("status", "len", "snaplen")),
        *((name, ctypes.c_uint16) for name in ("mac", "net", "vlan_tci", "vlan_tpid")),
    )


def open_wire(netns, ifname, timeout_s=2.0):
    """A packet socket on an interface of namespace `netns`."""

    def inside():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sock.bind((ifname, ETH_P_ALL))
        return sock

    sock = run_in_netns(netns, inside)
    sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    sock.settimeout(timeout_s)
    return sock


def next_frame(wire, wanted=lambda frame: True):
    """The next frame that came in and is `wanted`, its tag put back; None when there is none in time."""
    end = time.monotonic() + wire.gettimeout()
    while time.monotonic() < end:
        try:
            data, ancillary, _, address = wire.recvmsg(1 << 17, 256)
        except TimeoutError:
            return None
        if address[2] == PACKET_OUTGOING:
            continue
        for level, kind, value in ancillary:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                aux = _Auxdata.from_buffer_copy(value)
                if aux.status & TP_STATUS_VLAN_VALID:  # the kernel took it off the frame
                    tag = aux.vlan_tpid.to_bytes(2, "big") + aux.vlan_tci.to_bytes(2, "big")
                    data = data[:12] + tag + data[12:]
        if wanted(data):
            return data
    return None
