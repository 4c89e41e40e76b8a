"""Packet generator: sends frames made by scapy in bursts, and counts what comes back.

    python -m examples.host.generator SOCKET [--packets N] [--size OCTETS] [--seconds N]

Buffers are filled as arrays, straight in the shared memory. `--size` is a frame's length without FCS; more
than 1514 makes a TCP segment that the DPU cuts, with its checksum owed.
"""

import argparse
import time

import numpy as np
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from dpu_runtime import host

BURST = 64
MSS = 1448  # octets


def template(size):
    """A frame of `size` octets, uint8[size], and the offload fields that go with it."""
    layer = TCP(sport=1000, dport=9, flags="A") if size > 1514 else UDP(sport=1000, dport=9)
    head = (
        Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / IP(src="10.0.0.1", dst="10.0.0.2") / layer
    )
    frame = bytearray(bytes(head / Raw(bytes(size - len(head)))))
    if size <= 1514:
        return np.frombuffer(frame, np.uint8), {}
    words = np.frombuffer(bytes(frame[26:34]), ">u2").sum(dtype=np.uint32) + 6 + (size - 34)
    pseudo = (int(words) & 0xFFFF) + (int(words) >> 16)
    frame[50:52] = pseudo.to_bytes(2, "big")
    offload = {"flags": host.NEEDS_CSUM, "csum_start": 34, "csum_offset": 16}
    return np.frombuffer(frame, np.uint8), offload | {"gso_type": 1, "gso_size": MSS, "hdr_len": 54}


def send_burst(port, handles, frame, offload):
    """Fill and send as many packets as there are handles; returns how many were taken."""
    count = port.alloc_batch(handles)
    rows = port.rows(handles[:count])
    port.memory[port.offsets(rows)[:, None] + np.arange(len(frame))] = frame
    port.bufs["len"][rows] = len(frame)
    for name, value in offload.items():
        port.bufs[name][rows] = value
    taken = port.tx_batch(handles[:count])
    port.free_batch(handles[taken:count])
    return taken


def drain(port, handles):
    """Give what was received back; returns packets."""
    count = port.rx_batch(handles)
    port.free_batch(handles[:count])
    return count


def generate(port, frame, offload, packets, seconds):
    """Send until `packets` are sent or `seconds` are over; returns (sent, received)."""
    handles, sent, received = np.empty(BURST, np.uint64), 0, 0
    end = time.monotonic() + seconds
    while sent < packets and time.monotonic() < end:
        sent += send_burst(port, handles[: min(BURST, packets - sent)], frame, offload)
        received += drain(port, handles)
    while received < sent and port.wait(0.5):
        received += drain(port, handles)
    return sent, received


def main():
    """Send, and print packets and rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("socket")
    parser.add_argument("--packets", type=int, default=1 << 62)
    parser.add_argument("--size", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    frame, offload = template(arguments.size)
    buf_size = max(2048, arguments.size)
    with host.open(arguments.socket, connect_ms=5000, buf_size=buf_size) as port:
        start = time.monotonic()
        sent, received = generate(port, frame, offload, arguments.packets, arguments.seconds)
        seconds = time.monotonic() - start
    print(f"sent {sent} received {received} seconds {seconds:.3f} tx_mpps {sent / seconds * 1e-6:.3f}")


if __name__ == "__main__":
    main()
