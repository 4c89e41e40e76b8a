"""Bursts that end at any of their stores, and what the next process makes of it.

NUMBA_DISABLE_JIT=1 python -m tests.drivers.vhost_user.crashes SCENARIO     prints how many stores there were

A scenario is FORMAT-DIRECTION-SURVIVOR: `row` survives where only the data plane is killed; with `buffer`
the daemon is gone, and there is the in-flight buffer; `both`: the data plane was killed, and there is one.
"""

import sys

import numpy as np

from dpu_runtime.drivers.vhost_user import inflight_log, packed, recovery, split
from dpu_runtime.drivers.vhost_user.inflight import queue_bytes
from dpu_runtime.drivers.vhost_user.layout import RING_DTYPE
from tests.drivers.vhost_user.ring_bursts import Bench, lay
from tests.kernels.batches import Batch

SCENARIOS = [
    f"{kind}-{way}-{survivor}"
    for kind in ("split", "packed")
    for way in ("transmitq", "receiveq")
    for survivor in ("row", "buffer", "both")
]
STORES = {
    split: ("store_u64", "store_release_u16"),
    packed: ("store_release_u64",),
    inflight_log: ("store_u8", "store_u16", "store_u64"),
}
SIZE = 7  # descriptors of a packed ring: batches pass its end; 8 of a split one
FRAMES = (60, 61, 150)


class KilledError(Exception):
    """The process ends here."""


class Watch:
    """Counts stores to rings, rows and buffer; ends the process in front of store `last`."""

    def __init__(self):
        self.count = 0
        self.last = None
        for module, names in STORES.items():
            for name in names:
                setattr(module, name, self._watched(getattr(module, name)))

    def step(self):
        """A store is about to be made."""
        if self.count == self.last:
            raise KilledError
        self.count += 1

    def _watched(self, store):
        def watched(*args):
            self.step()
            store(*args)

        return watched


class WatchedRow:
    """A ring's row whose every store is watched."""

    def __init__(self, row, watch):
        self.row, self.watch = row, watch

    def __getitem__(self, name):
        return self.row[name]

    def __setitem__(self, name, value):
        self.watch.step()
        self.row[name] = value


class Rings:
    """`rings[port, number]` as watched rows."""

    def __init__(self, rows, watch):
        self.rows, self.watch = rows, watch
        self.ctypes = rows.ctypes

    def __getitem__(self, at):
        return WatchedRow(self.rows[at], self.watch)


class Run:
    """One ring with three frames' chains in it, `begin` positions from its start."""

    def __init__(self, scenario, begin, watch):
        self.kind, self.way, self.survivor = scenario.split("-")
        self.bench = Bench()
        self.writable = self.way == "receiveq"
        self.number = 0 if self.writable else 1
        size = 8 if self.kind == "split" else SIZE
        base = 0xFFFB + begin & 0xFFFF if self.kind == "split" else 0x8000 + begin
        watch.last = None
        self.driver = self.bench.ring(self.kind, self.number, size, base=base)
        self.row = self.bench.rings[0, self.number]
        self.bench.io = self.bench.io._replace(rings=Rings(self.bench.rings, watch))
        self.region = np.zeros(queue_bytes(size, self.kind == "packed"), np.uint8)
        if self.survivor != "row":
            self.row["inflight"] = self.region.ctypes.data
        self.recover(resumed=False)
        self.offered = []

    def recover(self, resumed):
        """What backend.py does when it sets the ring up."""
        recovery.recover(self.row, self.kind == "packed", resumed, self.writable)

    def offer(self):
        """Three chains, of 1, 2 and 1 descriptors."""
        for size, lengths in zip(FRAMES, ([100], [30, 90], [200]), strict=True):
            octets = b"" if self.writable else bytes(12) + bytes([size]) * size
            lengths = lengths if self.writable else [12 + size] if len(lengths) == 1 else [20, size - 8]  # noqa: PLW2901
            self.offered.append(
                self.driver.offer(lay(self.bench.memories[0], octets, lengths, self.writable))
            )

    def work(self):
        """One burst; returns the sizes of the frames that were in it."""
        if self.writable:
            self.bench.transmit(Batch([bytes([size]) * size for size in FRAMES]))
            return list(FRAMES)
        count, _ = self.bench.receive()
        sizes = [len(self.bench.frame(i)) for i in range(count)]
        self.bench.done()
        return sizes

    def restart(self):
        """The next process: with the row, or with nothing but what the guest and the front-end hold."""
        if self.survivor == "buffer":
            kept = {name: self.row[name].item() for name in ("desc", "driver", "device", "inflight", "size")}
            features, log = self.row["features"].item(), self.row["log"].item()
            for name in RING_DTYPE.names:
                self.row[name] = 0
            for name, value in {**kept, "features": features, "log": log}.items():
                self.row[name] = value
            self.row["call_fd"] = -1
            # the front-end's guess of the base, which the ring and the buffer know better
            self.row["next"] = self.row["pending"] = 0x8000 if self.kind == "packed" else 0
        self.recover(resumed=self.survivor != "buffer")
        self.row["configured"] = self.row["started"] = self.row["enabled"] = 1
        self.row["fault"] = self.row["lock"] = 0
        self.bench.io.taken[0] = 0

    def check(self):
        """Every chain goes back once, in order; the ring goes on."""
        used = self.driver.collect()
        if len(used) < len(self.offered):
            self.work()
            used += self.driver.collect()
        assert [number for number, _ in used] == self.offered, (used, self.offered)
        if self.writable:
            # whole frames: as long as they are, or as the buffer is where that was not known any more
            for (_, length), size, room in zip(used, FRAMES, (100, 120, 200), strict=True):
                assert length in (12 + size, room), used
        else:
            assert all(length == 0 for _, length in used), used
        self.offered = []
        self.offer()
        self.work()
        assert [number for number, _ in self.driver.collect()] == self.offered
        self.check_buffer()

    def check_buffer(self):
        """Nothing is in flight, and the buffer knows where the ring is."""
        if self.survivor == "row":
            return
        header, entry = (16, 16) if self.kind == "split" else (32, 32)
        assert not self.region[header::entry].any(), "something is in flight"
        words = self.region[:24].view("u2")
        if self.kind == "split":
            assert words[7] == self.row["next"] == self.driver.used_head[1]
        else:
            position = int(self.row["next"])
            assert (words[8], words[9]) == (position & 0x7FFF,) * 2
            assert (self.region[20], self.region[21]) == (position >> 15,) * 2


def in_flight(run):
    """Entries of the buffer that are marked."""
    header, entry = (16, 16) if run.kind == "split" else (32, 32)
    return int((run.region[header::entry] == 1).sum())


def main(scenario):
    """Kill a burst at each of its stores, at every position of the ring."""
    watch = Watch()
    places = 0
    for begin in range(SIZE):
        last, seen = 0, 0
        while True:
            run = Run(scenario, begin, watch)
            run.offer()
            watch.count, watch.last = 0, last
            try:
                run.work()
                killed = False
            except KilledError:
                killed = True
            watch.last = None
            seen = max(seen, in_flight(run))
            run.restart()
            run.check()
            if not killed:
                break
            places += 1
            last += 1
        assert run.survivor == "row" or seen == len(FRAMES), "chains are marked as in flight"
    print(places, "stores")


if __name__ == "__main__":
    main(sys.argv[1])
