"""The shared memory of the two processes: every table, counter and worker state, laid out here.

One memfd, made by the control process and mapped by the data plane. It outlives either: a new process
maps it and goes on. It is cut into regions (regions.py): the frame's own, one for each driver that has rows,
one for each function, made from its declaration. A process of another version keeps the regions whose layout
is its own (succession.py).
Not:  anything of numba.
"""

import functools
import json
import os

import numpy as np

from dpu_runtime.control.durable import replay
from dpu_runtime.drivers.af_packet.layout import AF_PACKET_LAYOUT
from dpu_runtime.drivers.af_xdp.layout import AF_XDP_LAYOUT
from dpu_runtime.drivers.port import PORT_COUNTER_COUNT, PortCounter
from dpu_runtime.drivers.vhost_user.layout import VHOST_LAYOUT
from dpu_runtime.kernels.burst import PUNT_LAYOUT, SERVICE_WORDS, Service
from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
from dpu_runtime.kernels.layout import PER_WORKER, PORT_DTYPE, PORTS_MAX
from dpu_runtime.plane.regions import Memory, Region
from dpu_runtime.plane.succession import Succession, told
from dpu_runtime.plane.words import Control
from dpu_runtime.registry import functions

WORKER_WORDS = 16
NOTES_BYTES = 16 << 20  # octets, one of two versions
NOTES_ADDED_MAX = 1 << 20  # octets of changes before notes are written anew


FRAME_STAGES_MAX = 16  # room to grow
BALANCE_IN = ("received", "copies", "segments", "made")  # of `balance`; all else is where packets went

FRAME = Region(
    "frame",
    {
        "control": ("u8", (16,)),
        "worker_state": ("u8", (PER_WORKER, WORKER_WORDS)),
        "ports": (PORT_DTYPE, (PORTS_MAX,)),
        "port_errors": ("u8", (PORTS_MAX,)),  # errno of a queue that was lost, 0: none
        "active_ports": ("u2", (1 + PORTS_MAX,)),  # how many, then the ports that floods visit
        "port_counters": ("u8", (PER_WORKER, PORTS_MAX, PORT_COUNTER_COUNT)),
        "drops": ("u8", (PER_WORKER, DROP_REASON_COUNT)),
        "kernel_counters": ("u8", (PER_WORKER, FRAME_STAGES_MAX, 2)),  # packets, cycles
        "services": ("u8", (PER_WORKER, SERVICE_WORDS)),
        **PUNT_LAYOUT,
        "notes": ("u1", (2, NOTES_BYTES)),  # the control process's memory, lines of JSON, see write_notes
    },
)
DRIVERS = (
    Region("vhost_user", VHOST_LAYOUT),  # each is called like the kind of port
    Region("af_packet", AF_PACKET_LAYOUT),
    Region("af_xdp", AF_XDP_LAYOUT),
)


def function_region(function):
    """The region of a Function: its tables, its counters, `drops` and `stages` by their names."""
    tables = function.tables
    layout = {}
    if tables is not None:
        for prefix in [f"{hook}_" for hook in tables.each] or [""]:
            layout |= {f"{prefix}{name}": array for name, array in tables.layout.items()}
    layout |= {name: (dtype, (PER_WORKER, *shape)) for name, (dtype, shape) in function.counters.items()}
    stages = tuple(stage.name for stage in function.stages)
    layout["drops"] = ("u8", (PER_WORKER, max(1, len(function.drops))))
    layout["stages"] = ("u8", (PER_WORKER, max(1, len(stages)), 2))  # packets, cycles
    columns = {"drops": function.drops, "stages": stages}
    return Region(function.name, layout, tuple(function.counters), columns)


@functools.cache
def regions():
    """Every region that this version has. ValueError: two of them have one name."""
    return regions_of(functions())


def regions_of(declared):
    """The regions of the frame, the drivers and the functions `declared`."""
    found = (FRAME, *DRIVERS, *map(function_region, declared))
    names = [region.name for region in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two regions of the shared memory are called {name!r}: a function's has its name"
            )
    return found


class SharedState:
    """The arrays of the frame and the drivers as attributes, and those of functions by `of`.

    workers     how many run: the length of PER_WORKER dimensions
    succession  succession.py, of a memory that a data plane ran on before this process came
    """

    def __init__(self, memory, wanted, entries, arrays, succession=None):
        self.fd = memory.fd
        self.workers = memory.workers
        self.succession = succession
        self._memory = memory
        self._regions = wanted
        self._entries = entries
        self._arrays = arrays
        self._notes_end = 0  # octets up to which changes are added; 0: the notes are another process's
        for region in (FRAME, *DRIVERS):
            vars(self).update(vars(arrays[region.name]))

    def of(self, name):
        """The arrays of the region `name`, a function's, as attributes."""
        return self._arrays[name]

    @classmethod
    def create(cls, workers=1, wanted=None):
        """Make and map a new memfd; untouched pages take no memory. Raises RegionError."""
        wanted = wanted or regions()
        memory = Memory.create(workers)
        try:
            made = {region.name: memory.make(region) for region in wanted}
        except BaseException:
            os.close(memory.fd)
            raise
        entries, arrays = ({name: pair[part] for name, pair in made.items()} for part in (0, 1))
        return cls(memory, wanted, entries, arrays)

    @classmethod
    def attach(cls, fd, wanted=None):
        """Map a memfd made by another process of this version. Raises ValueError, RegionError."""
        wanted = wanted or regions()
        memory = Memory(fd)
        entries, arrays = {}, {}
        for region in wanted:
            entry = memory.find(region)
            if entry is None:
                raise ValueError(f"the shared memory has no region {region.name!r} of this version's layout")
            entries[region.name], arrays[region.name] = entry, memory.map(region, entry)
        return cls(memory, wanted, entries, arrays)

    @classmethod
    def adopt(cls, fd, before, wanted=None):
        """Go on with the memory that a data plane of any version runs on; `before` is its `told()`.

        Raises ValueError when the frame's own region is of another layout, RegionError when one that is
        missing cannot be made; then nothing has changed.
        """
        wanted = wanted or regions()
        memory = Memory(fd)
        try:
            succession = Succession(memory, wanted, before, firm={FRAME.name})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"what the data plane tells of its memory cannot be read: {error!r}") from None
        return cls(memory, wanted, succession.entries, succession.arrays, succession)

    def told(self):
        """What this process has mapped, for `adopt` by another: {region: JSON}."""
        return {
            region.name: told(region, self._entries[region.name], self.workers) for region in self._regions
        }

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

    def balance(self, workers=None):
        """Packets received, made, sent, dropped, merged away and kept, by the first `workers`, or all.

        received + copies + segments + made = transmitted + dropped + merged + held + punted + in hand
        """
        per_port = self.port_counters[:workers].sum(axis=(0, 1))
        services = self.services[:workers].sum(axis=0, dtype=np.uint64)
        drops = [arrays.drops for arrays in self._arrays.values() if hasattr(arrays, "drops")]
        return {
            "received": int(per_port[PortCounter.RX_PACKETS]),
            "copies": int(services[Service.COPIES]),
            "segments": int(per_port[PortCounter.GSO_SEGMENTS]),
            "made": int(services[Service.MADE]),
            "transmitted": int(per_port[PortCounter.TX_PACKETS]),
            "dropped": sum(int(rows[:workers].sum()) for rows in drops),
            "merged": int(per_port[PortCounter.GRO_MERGED]),
            "held": int(services[Service.HELD]),
            "punted": int(services[Service.PUNTED]),
        }

    def book_lost_packets(self):
        """Count packets that a dead data plane had in its hands, or held, as dropped; returns how many.

        Call it while no worker runs. A packet sent but not yet booked makes the balance negative:
        then nothing is booked.
        """
        self.services[:, Service.HELD] = 0  # they were in its private memory
        balance = self.balance()
        came = sum(balance[key] for key in BALANCE_IN)
        lost = came - sum(packets for key, packets in balance.items() if key not in BALANCE_IN)
        if lost > 0:
            self.drops[0, Drop.RESTART] += np.uint64(lost)
        return max(lost, 0)
