"""kernels/octets/wide_compare.py: a bit for each octet that differs, wherever the two lie."""

import random

import numpy as np

from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.octets.memory import address_of
from dpu_runtime.kernels.octets.wide_compare import COMPARED_BYTES, differing_octets


@kernel
def compare(a, b):
    return differing_octets(address_of(a), address_of(b))


def places(at_a, at_b):
    """Two arrays of the same octets that begin anywhere in a word."""
    data = np.frombuffer(random.Random(at_a).randbytes(COMPARED_BYTES), np.uint8)
    found = []
    for at in (at_a, at_b):
        memory = np.full(COMPARED_BYTES + 16, 0xA5 ^ at, np.uint8)
        memory[at : at + COMPARED_BYTES] = data
        found.append(memory[at : at + COMPARED_BYTES])
    return found


def test_each_octet_has_its_bit():
    for k in range(COMPARED_BYTES):
        a, b = places(k % 9, k % 5)
        assert compare(a, b) == 0
        for bit in range(8):
            a[k] ^= 1 << bit
            assert compare(a, b) == compare(b, a) == 1 << k
            a[k] ^= 1 << bit


def test_any_of_them():
    rng = random.Random(1)
    for _ in range(200):
        a, b = places(rng.randrange(9), rng.randrange(9))
        which = rng.sample(range(COMPARED_BYTES), rng.randrange(COMPARED_BYTES + 1))
        for k in which:
            a[k] ^= rng.randrange(1, 256)
        assert compare(a, b) == sum(1 << k for k in which)
