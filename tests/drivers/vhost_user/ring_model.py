"""A driver's side of virtqueues in plain Python: the oracle for the compiled device side.

Spec: virtio 1.2 2.7 (split, driver side), 2.8 (packed, driver side).
A chain is a list of (guest physical address, octets, writable).
"""

from collections import deque

import numpy as np

from dpu_runtime.drivers.vhost_user import features as f

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
DESC_DTYPE = np.dtype([("addr", "u8"), ("len", "u4"), ("flags", "u2"), ("next", "u2")])
PACKED_DTYPE = np.dtype([("addr", "u8"), ("len", "u4"), ("id", "u2"), ("flags", "u2")])
USED_DTYPE = np.dtype([("id", "u4"), ("len", "u4")])
EVENT_IDX = 1 << f.VIRTIO_F_EVENT_IDX


def need_event(event, new, old):
    """virtio 1.2 2.7.10.1: whether an index moved past `event`."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


class SplitDriver:
    """A split virtqueue; `base` is where its running indices begin."""

    packed = False

    def __init__(self, memory, size, features=0, base=0):
        self.memory, self.size, self.features = memory, size, features
        self.desc_at = memory.allocate(16 * size, 16)
        self.driver_at = memory.allocate(6 + 2 * size, 2)
        self.device_at = memory.allocate(6 + 8 * size, 4)
        self.desc = memory.view(self.desc_at, 16 * size).view(DESC_DTYPE)
        self.avail = memory.view(self.driver_at, 6 + 2 * size).view("u2")
        device = memory.view(self.device_at, 6 + 8 * size)
        self.used_head, self.avail_event = device[:4].view("u2"), device[-2:].view("u2")
        self.used = device[4:-2].view(USED_DTYPE)
        self.avail[:], self.used_head[:], self.avail_event[:] = 0, 0, 0
        self.avail[1] = self.used_head[1] = self.avail[-1] = base
        self.free = deque(range(size))
        self.chains = {}  # head -> descriptors
        self.seen = self.made = base

    def offer(self, chain, indirect=False, publish=True):
        """Make a chain available; returns its ID."""
        entries = self._tabled(chain) if indirect else [(a, n, WRITE * w) for a, n, w in chain]
        taken = [self.free.popleft() for _ in entries]
        for k, (at, (addr, length, flags)) in enumerate(zip(taken, entries, strict=True)):
            more = k + 1 < len(taken)
            self.desc[at] = addr, length, flags | NEXT * more, taken[k + 1] if more else 0xA5A5
        self.chains[taken[0]] = taken
        return self.offer_head(taken[0], publish)

    def _tabled(self, chain):
        table = self.memory.allocate(16 * len(chain), 16)
        rows = self.memory.view(table, 16 * len(chain)).view(DESC_DTYPE)
        for k, (addr, length, writable) in enumerate(chain):
            more = k + 1 < len(chain)
            rows[k] = addr, length, WRITE * writable | NEXT * more, (k + 1) * more
        return [(table, 16 * len(chain), INDIRECT)]

    def offer_head(self, head, publish=True):
        """Put any number into the available ring."""
        self.avail[2 + self.made % self.size] = head
        self.made = (self.made + 1) & 0xFFFF
        if publish:
            self.publish()
        return head

    def publish(self):
        """Let the device see what was offered."""
        self.avail[1] = self.made

    def collect(self):
        """Used elements since the last call: [(ID, octets)]; their descriptors are free again."""
        found = []
        while self.seen != self.used_head[1]:
            number, length = self.used[self.seen % self.size].tolist()
            self.free.extend(self.chains.pop(number, ()))
            found.append((number, length))
            self.seen = (self.seen + 1) & 0xFFFF
        return found

    def want_calls(self, wanted, event=None):
        """Ask for calls: with EVENT_IDX when used index `event` is passed."""
        if event is not None:
            self.avail[-1] = event
        self.avail[0] = not wanted

    def wants_call(self, old, new):
        """Whether a device that moved from `old` to `new` must call; 2.7.7.2."""
        if self.features & EVENT_IDX:
            return need_event(int(self.avail[-1]), new, old)
        return not self.avail[0]

    def would_kick(self, old, new):
        """Whether a driver that made `old`..`new` available kicks; 2.7.10.2."""
        if self.features & EVENT_IDX:
            return need_event(int(self.avail_event[0]), new, old)
        return not self.used_head[0] & 1


class PackedDriver:
    """A packed virtqueue; `base` is position and wrap counter, as in SET_VRING_BASE."""

    packed = True

    def __init__(self, memory, size, features=0, base=0x8000):
        self.memory, self.size = memory, size
        self.features = features | 1 << f.VIRTIO_F_RING_PACKED
        self.desc_at = memory.allocate(16 * size, 16)
        self.driver_at = memory.allocate(4, 4)
        self.device_at = memory.allocate(4, 4)
        self.desc = memory.view(self.desc_at, 16 * size).view(PACKED_DTYPE)
        self.driver_event = memory.view(self.driver_at, 4).view("u2")
        self.device_event = memory.view(self.device_at, 4).view("u2")
        self.driver_event[:] = self.device_event[:] = 0
        self.made, self.wrap = base & 0x7FFF, base >> 15
        self.seen, self.seen_wrap = self.made, self.wrap
        # as if all was used: on this lap up to the base, on the lap before behind it
        self.desc["flags"] = (AVAIL | USED) * (1 - self.wrap)
        self.desc["flags"][: self.made] = (AVAIL | USED) * self.wrap
        self.free = size
        self.ids = deque(range(size))
        self.chains = {}  # ID -> descriptors in the ring

    def offer(self, chain, indirect=False, publish=True):
        """Make a chain available, at once; returns its ID."""
        assert publish
        entries = self._tabled(chain) if indirect else [(a, n, WRITE * w) for a, n, w in chain]
        assert len(entries) <= self.free, "the test's ring is full"
        number = self.ids.popleft()
        self.chains[number] = len(entries)
        self.free -= len(entries)
        self.offer_raw(
            [(a, n, flags | NEXT * (k + 1 < len(entries))) for k, (a, n, flags) in enumerate(entries)], number
        )
        return number

    def offer_raw(self, entries, number):
        """Descriptors with any flags; the first one's are written last."""
        first = self.made
        marks = []
        for addr, length, flags in entries:
            marks.append(flags | (AVAIL if self.wrap else USED))
            row = self.desc[self.made]
            row["addr"], row["len"], row["id"] = addr, length, number
            if len(marks) > 1:
                row["flags"] = marks[-1]
            self.made += 1
            if self.made == self.size:
                self.made, self.wrap = 0, 1 - self.wrap
        self.desc[first]["flags"] = marks[0]

    def _tabled(self, chain):
        table = self.memory.allocate(16 * len(chain), 16)
        rows = self.memory.view(table, 16 * len(chain)).view(PACKED_DTYPE)
        for k, (addr, length, writable) in enumerate(chain):
            rows[k] = addr, length, 0, WRITE * writable
        return [(table, 16 * len(chain), INDIRECT)]

    def collect(self):
        """Used elements since the last call: [(ID, octets)]."""
        found = []
        while True:
            _, length, number, flags = self.desc[self.seen].tolist()
            if flags & (AVAIL | USED) != (AVAIL | USED) * self.seen_wrap or number not in self.chains:
                return found
            count = self.chains.pop(number)
            self.ids.append(number)
            self.free += count
            found.append((number, length if flags & WRITE else 0))
            self.seen += count
            if self.seen >= self.size:
                self.seen, self.seen_wrap = self.seen - self.size, 1 - self.seen_wrap

    def want_calls(self, wanted, event=None):
        """Ask for calls: with EVENT_IDX when position `event` (and its wrap counter) is passed."""
        self.driver_event[0] = 0 if event is None else event
        self.driver_event[1] = 1 if not wanted else 0 if event is None else 2

    def wants_call(self, old, new):
        """Whether a device that moved from running position `old` to `new` must call; 2.8.10.

        Positions run on over the laps, which begin with wrap counter 1: position 0 is 0.
        """
        if self.driver_event[1] != 2:
            return self.driver_event[1] == 0
        event = int(self.driver_event[0])
        return any(
            at % self.size == event & 0x7FFF and 1 - at // self.size % 2 == event >> 15
            for at in range(old, new)
        )

    def would_kick(self, old, new):
        """The same for a driver that made running positions `old`..`new` available."""
        if self.device_event[1] != 2:
            return self.device_event[1] == 0
        event = int(self.device_event[0])
        return any(
            at % self.size == event & 0x7FFF and 1 - at // self.size % 2 == event >> 15
            for at in range(old, new)
        )
