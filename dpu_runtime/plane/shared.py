"""The shared memory of the two processes: every table, counter and worker state, laid out here.

One memfd, made by the control process and mapped by the data plane. It outlives either: a new
process maps it and goes on. `LAYOUT` is the whole truth; its hash is in the header, so that a
process of another version refuses instead of misreading.
Not:  anything of numba.
"""

import enum
import hashlib
import json
import mmap
import os

import numpy as np

from dpu_runtime.control.durable import replay
from dpu_runtime.drivers.af_packet.layout import AF_PACKET_LAYOUT
from dpu_runtime.drivers.af_xdp.layout import AF_XDP_LAYOUT
from dpu_runtime.drivers.port import PORT_COUNTER_COUNT, PortCounter
from dpu_runtime.drivers.vhost_user.layout import VHOST_LAYOUT
from dpu_runtime.kernels.acl import layout as acl_layout
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import PORT_DTYPE, PORTS_MAX, VLAN_WORDS, WORKERS_MAX
from dpu_runtime.kernels.meter.table import METER_LAYOUT
from dpu_runtime.kernels.switch import mac_table

MAGIC = 0x4450_5552_544D_0002  # "DPURTM", layout family 2
PAGE_BYTES = 4096
STAGES = ("ingress", "egress")


class Control(enum.IntEnum):
    """Words of `control`, written by the control side, read by every worker each round."""

    STOP = 0  # 1: workers return
    EPOCH = 1  # grows with every change; a worker copies it to SEEN_EPOCH between bursts
    IDLE_SPIN_US = 2  # how long a worker polls before it sleeps
    MAC_AGEING_TICKS = 3  # kernels/switch/mac_table.py
    TSC_HZ = 5  # rate of the cycle counters; measured by the data plane
    NOTES_VERSION = 4  # its lowest bit names the half of `notes` in force


class WorkerWord(enum.IntEnum):
    """Words of a row of `worker_state`, written by that worker."""

    SEEN_EPOCH = 0
    ROUNDS = 1
    BURSTS = 2
    PACKETS = 3
    BUSY_CYCLES = 4
    SLEEPS = 5
    THREAD_ID = 6
    CPU = 7


WORKER_WORDS = 16
NOTES_BYTES = 16 << 20  # octets, one of two versions
NOTES_ADDED_MAX = 1 << 20  # octets of changes before notes are written anew


class Stage(enum.IntEnum):
    """Rows of `kernel_counters`: the stages of the pipeline in their order."""

    RX = 0
    PARSE = 1
    VERIFY = 2
    ACL_INGRESS = 3
    SWITCH = 4
    ACL_EGRESS = 5
    OFFLOAD = 6
    TX = 7
    XCONNECT = 8  # instead of all the others


STAGE_COUNT = 16  # room to grow

LAYOUT = {
    "control": ("u8", (16,)),
    "worker_state": ("u8", (WORKERS_MAX, WORKER_WORDS)),
    "ports": (PORT_DTYPE, (PORTS_MAX,)),
    "port_errors": ("u8", (PORTS_MAX,)),  # errno of a queue that was lost, 0: none
    "active_ports": ("u2", (1 + PORTS_MAX,)),  # how many, then the ports that floods visit
    "vlan_allowed": ("u8", (PORTS_MAX, VLAN_WORDS)),
    **METER_LAYOUT,
    "port_counters": ("u8", (WORKERS_MAX, PORTS_MAX, PORT_COUNTER_COUNT)),
    "drops": ("u8", (WORKERS_MAX, DROP_REASON_COUNT)),
    "kernel_counters": ("u8", (WORKERS_MAX, STAGE_COUNT, 2)),  # packets, cycles
    "switch_counters": ("u8", (WORKERS_MAX, len(mac_table.SWITCH_COUNTERS))),
    "rule_hits": ("u8", (WORKERS_MAX, acl_layout.HIT_SLOTS, 2)),  # packets, octets
    **VHOST_LAYOUT,
    **AF_PACKET_LAYOUT,
    **AF_XDP_LAYOUT,
    "mac": ("u8", (mac_table.MAC_WORDS,)),
    "notes": ("u1", (2, NOTES_BYTES)),  # the control process's memory, lines of JSON, see write_notes
    **{
        f"{stage}_{name}": (dtype, shape)
        for stage in STAGES
        for name, (dtype, shape) in acl_layout.ACL_LAYOUT.items()
    },
}


def _place(layout):
    """Offset of each array, page by page, and the size of it all."""
    offsets, end = {}, PAGE_BYTES
    for name, (dtype, shape) in layout.items():
        offsets[name] = end
        size = np.dtype(dtype).itemsize * int(np.prod(shape))
        end += -(-size // PAGE_BYTES) * PAGE_BYTES
    return offsets, end


OFFSETS, TOTAL_BYTES = _place(LAYOUT)


def layout_hash():
    """64 bits that change whenever the layout does."""
    text = repr([(name, np.dtype(dtype).descr, shape) for name, (dtype, shape) in LAYOUT.items()])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class SharedState:
    """The arrays of LAYOUT as attributes, over one mapped memfd."""

    def __init__(self, fd):
        self.fd = fd
        size = os.fstat(fd).st_size
        if size != TOTAL_BYTES:
            raise ValueError(f"shared memory has {size} octets, this version's layout {TOTAL_BYTES}")
        self._map = mmap.mmap(fd, TOTAL_BYTES)
        self._header = np.frombuffer(self._map, "u8", 2)
        self._notes_end = (
            0  # octets up to which changes are added to the notes; 0: they are another process's
        )
        for name, (dtype, shape) in LAYOUT.items():
            count = int(np.prod(shape))
            array = np.frombuffer(self._map, dtype, count, OFFSETS[name]).reshape(shape)
            setattr(self, name, array)

    @classmethod
    def create(cls):
        """Make and map a new memfd; untouched pages take no memory."""
        fd = os.memfd_create("dpu-shared", os.MFD_CLOEXEC)
        os.ftruncate(fd, TOTAL_BYTES)
        state = cls(fd)
        state._header[:] = MAGIC, layout_hash()
        return state

    @classmethod
    def attach(cls, fd):
        """Map a memfd made by another process; ValueError when its layout is another version's."""
        state = cls(fd)
        if tuple(state._header.tolist()) != (MAGIC, layout_hash()):
            raise ValueError("shared memory was laid out by another version of dpu-runtime")
        return state

    def write_notes(self, notes):
        """Keep `notes`, {kind: {key: value}}, for the next control process.

        A crash leaves the old notes or the new ones, here and in `change_notes`.
        """
        data = json.dumps(notes).encode() + b"\n"
        if len(data) + 8 > NOTES_BYTES:
            raise ValueError(f"notes of {len(data)} octets, at most {NOTES_BYTES - 8} fit")
        version = int(self.control[Control.NOTES_VERSION]) + 1
        self._put_notes(version, 0, data)
        self.control[Control.NOTES_VERSION] = version
        self._notes_end = min(NOTES_BYTES - 8, 2 * len(data) + NOTES_ADDED_MAX)

    def change_notes(self, change):
        """Add a change, as of control/durable.py; False when they have to be written whole instead."""
        data = json.dumps(change).encode() + b"\n"
        version = int(self.control[Control.NOTES_VERSION])
        length = int(self.notes[version & 1][:8].view("u8")[0])
        if length + len(data) > self._notes_end:
            return False
        self._put_notes(version, length, data)
        return True

    def _put_notes(self, version, start, data):
        half = self.notes[version & 1]
        half[8 + start : 8 + start + len(data)] = np.frombuffer(data, np.uint8)
        half[:8].view("u8")[0] = start + len(data)  # last: what is behind the end does not count

    def read_notes(self):
        """Return what `write_notes` kept last with the changes since, {} if nothing."""
        version = int(self.control[Control.NOTES_VERSION])
        if version == 0:
            return {}
        half = self.notes[version & 1]
        lines = half[8 : 8 + int(half[:8].view("u8")[0])].tobytes().splitlines()
        return replay(map(json.loads, lines))

    def balance(self, workers):
        """Packets received, made, sent, dropped and merged away, summed over `workers`.

        received + copies + segments = transmitted + dropped + merged + in hand
        """
        per_port = self.port_counters[:workers].sum(axis=(0, 1))
        switch = self.switch_counters[:workers].sum(axis=0)
        return {
            "received": int(per_port[PortCounter.RX_PACKETS]),
            "copies": int(switch[mac_table.COUNTER_COPIES]),
            "segments": int(per_port[PortCounter.GSO_SEGMENTS]),
            "transmitted": int(per_port[PortCounter.TX_PACKETS]),
            "dropped": int(self.drops[:workers].sum()),
            "merged": int(per_port[PortCounter.GRO_MERGED]),
        }

    def book_lost_packets(self, workers):
        """Count packets that were in the hands of a dead data plane as dropped; returns how many.

        Call it while no worker runs. A packet sent but not yet booked makes the balance negative:
        then nothing is booked.
        """
        b = self.balance(workers)
        lost = b["received"] + b["copies"] + b["segments"] - b["transmitted"] - b["dropped"] - b["merged"]
        if lost > 0:
            self.drops[0, Drop.RESTART] += np.uint64(lost)
        return max(lost, 0)
