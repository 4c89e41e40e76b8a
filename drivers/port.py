"""What every port driver is made of: its kind, capabilities, counters, errors.

Not:  anything of numba; the control process imports this file. The compiled half of a driver is
      called from the worker loop by kind number.
"""

import concurrent.futures
import enum
import os
from dataclasses import dataclass, field
from typing import Protocol

from dpu_runtime.kernels import layout


class Kind(enum.IntEnum):
    """Port kinds; the number is `ports[i]["kind"]`, 0: no port."""

    NONE = 0
    TAP = 1
    NULL = 2
    VHOST_USER = 3
    AF_PACKET = 4
    AF_XDP = 5


class PortCounter(enum.IntEnum):
    """Columns of `port_counters: uint64[workers, PORTS_MAX, PORT_COUNTER_COUNT]`."""

    RX_PACKETS = 0
    RX_BYTES = 1  # octets of frames, without FCS
    TX_PACKETS = 2
    TX_BYTES = 3
    RX_DROPPED = 4  # received here and dropped before an egress port was chosen
    TX_DROPPED = 5  # copies for this port that were dropped
    RX_CALLS = 6  # receive bursts
    TX_CALLS = 7
    GSO_SEGMENTS = 8  # segments made for this port beyond the packets they came from
    GRO_MERGED = 9  # packets that left inside another one
    TX_CHECKSUMS = 10  # owed checksums finished for this port
    RX_MISSED = 11  # lost in front of the port, which had no room; in no other counter


CLOSING_THREADS = 64
PORT_COUNTER_COUNT = 16  # room to grow without a new layout; two cache lines


class PortError(Exception):
    """A device refused: names the port (if it is about one), the call and the errno."""

    def __init__(self, port, call, errno_=0, text=""):
        self.port = port
        self.call = call
        self.errno_ = errno_
        self.text = text or (os.strerror(errno_) if errno_ else "failed")
        super().__init__(f"port {port!r}: {call}: {self.text}" if port else f"{call}: {self.text}")


def close_all(ports):
    """Close ports, many at a time: Linux takes some 20 ms for an interface that goes, and as long for many.

    ports  with `close()`; the first error is raised when all were tried
    """
    ports = list(ports)
    if not ports:
        return
    with concurrent.futures.ThreadPoolExecutor(min(len(ports), CLOSING_THREADS), "close") as threads:
        closing = [threads.submit(port.close) for port in ports]
    for one in closing:
        one.result()


@dataclass
class Capabilities:
    """What a port got. `notes` says in words where that is less than was asked for, and why."""

    tx_csum: bool = False  # takes packets whose checksum is owed
    tso4: bool = False
    tso6: bool = False
    ecn: bool = False
    uso: bool = False
    gro: bool = False  # its packets come already merged
    rx_owed: bool = False  # hands over owed checksums without a mark
    queues: int = 1
    copy: str = "copy"
    notes: list[str] = field(default_factory=list)

    def flags(self):
        """PORT_* bits for the kernels."""
        flags = 0
        for present, bit in (
            (self.tx_csum, layout.PORT_TX_CSUM),
            (self.tso4, layout.PORT_TX_TSO4),
            (self.tso6, layout.PORT_TX_TSO6),
            (self.ecn, layout.PORT_TX_ECN),
            (self.uso, layout.PORT_TX_USO),
            (not self.gro, layout.PORT_RX_GRO),
            (self.rx_owed, layout.PORT_RX_OWED),
        ):
            if present:
                flags |= bit
        return flags


class Port(Protocol):
    """Control half of a driver."""

    name: str
    kind: Kind
    capabilities: Capabilities
    fds: list[int]  # what the data plane gets: one descriptor a queue, then whatever else the kind needs
    layout: dict  # JSON, what it must know besides, for drivers/mapping.py

    def open(self) -> list[int]:
        """Make the device; returns `fds`. Raises PortError, nothing left."""
        ...

    def adopt(self, fds: list[int], layout: dict) -> None:
        """Take over what an earlier control process opened."""
        ...

    def close(self) -> None:
        """Give the device up; twice is allowed."""
        ...
