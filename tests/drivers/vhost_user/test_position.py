"""A packed ring's position, found in the ring, against a driver and a device that know theirs."""

import random
from collections import deque

import numpy as np
import pytest

from dpu_runtime.drivers.vhost_user.packed import DESC_F_AVAIL, DESC_F_USED, WRAP_BIT
from dpu_runtime.drivers.vhost_user.position import find_position

NEXT = 1


class Ring:
    """A packed ring, its driver and its device, which give chains back in order."""

    def __init__(self, size):
        self.size = size
        self.octets = np.zeros(16 * size, np.uint8)
        self.words = self.octets.view(np.uint16).reshape(size, 8)
        self.driver = self.device = (0, 1)
        self.free = size
        self.ids = list(range(size))
        self.waiting = deque()

    def _on(self, cursor, count):
        position, wrap = cursor[0] + count, cursor[1]
        return (position - self.size, 1 - wrap) if position >= self.size else (position, wrap)

    def offer(self, count, rng):
        """The driver makes a chain of `count` descriptors available, if there is room."""
        if count > self.free:
            return
        chain = self.ids.pop(rng.randrange(len(self.ids)))
        self.waiting.append((self.driver, chain, count))
        for k in range(count):
            position, wrap = self.driver
            flags = (DESC_F_AVAIL if wrap else DESC_F_USED) | (NEXT if k < count - 1 else 0)
            self.words[position, 6:] = chain, flags
            self.driver = self._on(self.driver, 1)
        self.free -= count

    def give_back(self):
        """The device gives the oldest chain back, if there is one."""
        if not self.waiting:
            return
        (position, wrap), chain, count = self.waiting.popleft()
        self.words[position, 6:] = chain, (DESC_F_AVAIL | DESC_F_USED) if wrap else 0
        self.device = self._on(self.device, count)
        self.free += count
        self.ids.append(chain)

    def found(self, indirect):
        """What `find_position` says, as (position, wrap counter)."""
        cursor = find_position(self.octets.ctypes.data, self.size, indirect)
        return cursor % WRAP_BIT, cursor // WRAP_BIT


def at_random(size, chain_max, rng):
    """A ring after a random history."""
    ring = Ring(size)
    for _ in range(rng.randrange(6 * size)):
        if rng.random() < 0.55:
            ring.offer(rng.randint(1, chain_max), rng)
        else:
            ring.give_back()
    return ring


@pytest.mark.parametrize("size", [1, 2, 3, 8, 100, 256])
def test_one_descriptor_a_chain(size):
    rng = random.Random(size)
    for _ in range(100):
        ring = at_random(size, 1, rng)
        assert ring.found(indirect=True) == ring.device


def test_chains_that_lie_in_the_ring():
    """Buffer IDs tell the members of a chain; in a ring that is not full, whose heads are still there."""
    rng = random.Random(1)
    rings = [ring for ring in (at_random(256, 4, rng) for _ in range(600)) if ring.free > 32]
    assert len(rings) > 200
    wrong = sum(ring.found(indirect=False) != ring.device for ring in rings)
    assert wrong <= 2  # a driver that takes the same buffer ID for the chain behind it


def test_fresh_ring():
    assert Ring(64).found(indirect=True) == (0, 1)
