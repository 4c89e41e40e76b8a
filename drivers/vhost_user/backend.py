"""The data plane's side of a snapshot: map guest memory, set rings up and stop them.

Spec: vhost-user "Ring states", "Memory access"; README.md "The snapshot".
In:   snapshots with descriptors, one at a time. Out: rows of the shared memory (layout.py).
Not:  packets; the workers go on while a snapshot is applied.

Memory and descriptors that a snapshot names no more are given up only when every worker has passed.
"""

import contextlib
import os

from dpu_runtime.drivers.vhost_user import recovery
from dpu_runtime.drivers.vhost_user.features import VIRTIO_F_RING_PACKED
from dpu_runtime.drivers.vhost_user.inflight import queue_bytes
from dpu_runtime.drivers.vhost_user.layout import (
    NO_LOG,
    REGION_GUEST,
    REGION_LOCAL,
    REGION_SIZE,
    RINGS_MAX,
)

NOTHING_SET_UP = {"features": 0, "regions": [], "log": None, "inflight": None, "rings": [], "fds": []}


class Backend:
    """The rings and the memory of one port.

    index        the port's
    shared       SharedState, or whatever has rings, regions and devices
    guard        MemoryGuard, which maps
    add_kick     (ring, fd): have a worker wait for kicks;   del_kick (ring, fd): no longer
    pass_epoch   returns when every worker has seen what was written before
    """

    def __init__(self, index, shared, guard, add_kick, del_kick, pass_epoch):
        self.index = index
        self.snapshot = NOTHING_SET_UP
        self._rings = shared.rings[index]
        self._regions = shared.regions[index]
        self._device = shared.devices[index : index + 1]
        self._guard = guard
        self._add_kick = add_kick
        self._del_kick = del_kick
        self._pass_epoch = pass_epoch
        self._fds = {}  # token -> descriptor
        self._mapped = {}  # (token, offset, size) -> address
        self._kicks = {}  # ring -> descriptor in a worker's epoll set
        self._running = {}  # ring -> what it was set up from
        self._named = None  # regions and log as the device's row has them
        for row in self._rings:  # of the process before
            row["configured"] = 0
            row["lock"] = 0

    @property
    def fds(self):
        """Descriptors of the snapshot in force, in its order: for the next control process."""
        return [self._fds[token] for token in self.snapshot["fds"]]

    def calls_on(self, fd):
        """Whether a ring's driver is called by this descriptor."""
        return any(row["call_fd"] == fd for row in self._rings if row["configured"])

    def apply(self, snapshot, fds):
        """Make the port so; `fds` are ours from now on. Raises ValueError or OSError: nothing has changed."""
        before = self.snapshot
        added = self._take(snapshot["fds"], fds)
        mapped = {}
        try:
            _check_tokens(snapshot)
            for area in _areas(snapshot):
                if area not in self._mapped:
                    mapped[area] = self._guard.map(self._fds[area[0]], area[1], area[2], self.index)
            addresses = {**self._mapped, **mapped}
            wanted = {
                ring["ring"]: _RingPlan(ring, snapshot, addresses)
                for ring in snapshot["rings"]
                if ring["live"]
            }
        except BaseException:
            for address in mapped.values():
                self._guard.unmap(address)
            self._drop_fds(added)
            raise
        self._mapped = addresses
        stopped = [n for n, plan in self._running.items() if plan != wanted.get(n)]
        self._stop(stopped)
        for ring in snapshot["rings"]:
            if ring["ring"] in stopped and not ring["live"]:
                recovery.forget(self._rings[ring["ring"]])
        self.snapshot = snapshot
        self._write_device(snapshot)
        for number, plan in wanted.items():
            self._start(number, plan)
        self._device["pairs"] = max((n // 2 + 1 for n in wanted), default=0)
        self._release(before)

    def close(self):
        """Stop every ring and give memory and descriptors back."""
        self.apply(NOTHING_SET_UP, [])

    def stopped(self):
        """Give memory and descriptors back; the workers have ended."""
        self._pass_epoch = self._del_kick = lambda *_: None
        self.close()

    def _take(self, tokens, fds):
        """Keep descriptors by token, close second copies; returns the tokens that are new."""
        if len(tokens) != len(fds):
            for fd in fds:
                os.close(fd)
            raise ValueError(f"{len(fds)} descriptors came with {len(tokens)} tokens")
        added = []
        for token, fd in zip(tokens, fds, strict=True):
            if token in self._fds:
                os.close(fd)
            else:
                self._fds[token] = fd
                added.append(token)
        return added

    def _drop_fds(self, tokens):
        for token in tokens:
            os.close(self._fds.pop(token))

    def _write_device(self, snapshot):
        """Name the regions and the log, unless they are the same: rings that run look at them."""
        places = [(*row[:2], self._mapped[row[4], row[3], row[1]]) for row in snapshot["regions"]]
        log = snapshot["log"]
        log = (self._mapped[tuple(log)], log[2]) if log else (0, 0)
        if (places, log) == self._named:
            return
        self._named = places, log
        self._device["regions"] = 0
        for row, (guest, size, address) in zip(self._regions, places, strict=False):
            row[REGION_SIZE] = 0
            row[REGION_GUEST] = guest
            row[REGION_LOCAL] = address
            row[REGION_SIZE] = size
        self._device["regions"] = len(places)
        self._device["fault"] = 0
        self._device["log_addr"] = 0
        self._device["log_bytes"] = log[1]
        self._device["log_addr"] = log[0]

    def _stop(self, numbers):
        """Stop rings; returns when no worker works on them."""
        for number in numbers:
            self._rings[number]["configured"] = 0
            del self._running[number]
            kick = self._kicks.pop(number, None)
            if kick is not None:
                self._del_kick(number, kick)
        if numbers:
            self._pass_epoch()

    def _start(self, number, plan):
        """Set up a ring, or change of one that runs what may change."""
        row = self._rings[number]
        ring = plan.ring
        for name in ("call", "err", "kick"):
            row[f"{name}_fd"] = self._fds[ring[name]] if ring[name] is not None else -1
        row["log"] = NO_LOG if ring["log"] is None else ring["log"]
        row["enabled"] = ring["enabled"]
        if number in self._running:
            return
        row["desc"], row["driver"], row["device"], row["inflight"] = plan.addresses
        row["size"] = ring["size"]
        row["features"] = plan.features
        resumed = row["serial"] == ring["serial"]
        if not resumed:
            row["serial"] = ring["serial"]
            row["next"] = row["pending"] = ring["base"] & 0xFFFF
            row["started"] = 0
        row["lock"] = row["fault"] = row["quiet"] = row["signalled_valid"] = 0
        asked_for_silence = recovery.recover(row, plan.packed, resumed, number % 2 == 0)
        if asked_for_silence or ring["kick"] is None:
            row["started"] = 1
        self._running[number] = plan
        row["configured"] = 1
        if resumed and row["call_fd"] >= 0:
            _call(row)  # the process before may have died between giving chains back and saying so
        if ring["kick"] is not None:
            kick = self._kicks[number] = self._fds[ring["kick"]]
            self._add_kick(number, kick)

    def _release(self, before):
        """Give up what the snapshot names no more."""
        areas = set(_areas(self.snapshot))
        unused = [area for area in self._mapped if area not in areas]
        tokens = [token for token in self._fds if token not in set(self.snapshot["fds"])]
        if (unused or tokens) and before["rings"]:
            self._pass_epoch()
        for area in unused:
            self._guard.unmap(self._mapped.pop(area))
        self._drop_fds(tokens)


def _call(row):
    with contextlib.suppress(BlockingIOError):
        os.eventfd_write(int(row["call_fd"]), 1)
    row["calls"] += 1


def _areas(snapshot):
    """Pieces of files to map: (token, offset, size)."""
    found = [(token, offset, size) for _, size, _, offset, token in snapshot["regions"]]
    found += [tuple(snapshot["log"])] if snapshot["log"] else []
    found += [tuple(snapshot["inflight"][:3])] if snapshot["inflight"] else []
    return found


def _check_tokens(snapshot):
    """Raises ValueError: something names a descriptor that did not come."""
    named = {area[0] for area in _areas(snapshot)}
    named |= {ring[name] for ring in snapshot["rings"] for name in ("kick", "call", "err")} - {None}
    missing = sorted(named.difference(snapshot["fds"]))
    if missing:
        raise ValueError(f"no descriptors came for the tokens {missing}")


class _RingPlan:
    """What a ring is set up from; two that are equal need no new start."""

    def __init__(self, ring, snapshot, mapped):
        self.ring = ring
        self.features = snapshot["features"]
        self.packed = bool(self.features >> VIRTIO_F_RING_PACKED & 1)
        if not 0 <= ring["ring"] < RINGS_MAX:
            raise ValueError(f"ring {ring['ring']}, there are {RINGS_MAX}")
        self.addresses = tuple(_local(snapshot, mapped, ring[part]) for part in ("desc", "driver", "device"))
        inflight = snapshot["inflight"]
        place = 0
        if inflight:
            place = mapped[tuple(inflight[:3])] + ring["ring"] * queue_bytes(inflight[4], self.packed)
        self.addresses += (place,)
        regions = tuple((row[0], row[1], mapped[row[4], row[3], row[1]]) for row in snapshot["regions"])
        log = snapshot["log"] and mapped[tuple(snapshot["log"])]
        self._identity = (
            ring["serial"],
            ring["size"],
            ring["kick"],
            self.addresses,
            self.features,
            regions,
            log,
        )

    def __eq__(self, other):
        return other is not None and self._identity == other._identity

    __hash__ = None


def _local(snapshot, mapped, user):
    """Our address of a user address that the control half has checked to lie in one region."""
    for _, size, first, offset, token in snapshot["regions"]:
        if first <= user < first + size:
            return mapped[token, offset, size] + (user - first)
    raise ValueError(f"user address {user:#x} lies in no region")
