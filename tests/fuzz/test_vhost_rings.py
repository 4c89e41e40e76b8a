"""A short run of the fuzzer of rings, and proof that it sees what it is there to see."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conventions import ROOT

pytestmark = [pytest.mark.in_memory, pytest.mark.compiled]


def run(*words, **variables):
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.slow
def test_rings_survive_hostile_guests():
    done = run("-m", "tests.fuzz.vhost_rings", "--rounds", "1500", "--seed", "1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    *_, totals, drops, verdict = done.stdout.splitlines()
    assert verdict.startswith("nothing found: 1,500"), verdict
    # it gets everywhere: frames come, cross and go, rings stop, chains are bad in every way
    assert " 0" not in totals, totals
    for reason in (
        "RUNT",
        "OVERSIZE",
        "TX_FULL",
        "RING_CHAIN",
        "RING_ADDRESS",
        "RING_DISABLED",
        "RING_BUFFER",
    ):
        assert reason in drops, drops


LOOSE_END = """
def loose(regions, count, guest, size):
    for k in range(count):
        offset = guest - regions[k, 0]
        if offset < regions[k, 1]:
            return regions[k, 2] + offset
    return np.uint64(0)
chain.translate = loose
"""
WRAPPING_END = """
def loose(regions, count, guest, size):
    for k in range(count):
        if guest >= regions[k, 0] and guest + size <= regions[k, 0] + regions[k, 1]:
            return regions[k, 2] + (guest - regions[k, 0])
        if guest + size < guest:  # passed the top of the address space
            return regions[k, 2] + (guest - regions[k, 0])
    return np.uint64(0)
chain.translate = loose
"""
ENDLESS_CHAIN = "from dpu_runtime.drivers.vhost_user import split; split.CHAIN_MAX = 1 << 16"
NO_LAP = """
from dpu_runtime.drivers.vhost_user import packed
packed._after = lambda ring, cursor, count: cursor + count
"""
NO_BALANCE = """
from dpu_runtime.drivers.vhost_user import queue
take = queue.take_burst
queue.take_burst = lambda *args: (*take(*args)[:2], np.uint64(0))
"""
KEPT_LOCK = """
from dpu_runtime.drivers.vhost_user import cross
from dpu_runtime.drivers.vhost_user import exchange
from dpu_runtime.drivers.vhost_user import queue
for module in (cross, exchange, queue):
    module.store_release_u32 = lambda *args: None
    module.try_lock = lambda addr: store_u32(addr, 1) or True
from dpu_runtime.kernels.octets.memory import store_u32
"""
LONG_FRAME = "from dpu_runtime.drivers.vhost_user import frames; frames.FRAME_BYTES_MAX = 1 << 40"
PLANTED = {
    "a region's end is not looked at": (LOOSE_END, -signal.SIGSEGV, ""),
    "an address that wraps around": (WRAPPING_END, -signal.SIGSEGV, ""),
    "a chain without an end": (ENDLESS_CHAIN, 1, "IndexError"),
    "cursors without a lap": (NO_LAP, None, ""),
    "bad chains that nobody counts": (NO_BALANCE, 1, "FoundError"),
    "a lock that stays": (KEPT_LOCK, 1, "FoundError: a ring's row has changed"),
    "frames of any length": (LONG_FRAME, 1, "FoundError: a frame of"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name):
    """With the compiler off a planted fault needs no compilation; the memory between guards is the same."""
    text, status, message = PLANTED[name]
    program = f"import numpy as np\nfrom dpu_runtime.drivers.vhost_user import chain\n{text}\n"
    program += "from tests.fuzz.vhost_rings import fuzz\nfuzz(400, 3, concurrent=False)\n"
    done = run("-c", program, NUMBA_DISABLE_JIT="1")
    assert done.returncode == status if status is not None else done.returncode != 0, (
        done.stdout + done.stderr
    )
    assert message in done.stderr


def test_without_one_nothing_is_found():
    program = "from tests.fuzz.vhost_rings import fuzz\nfuzz(50, 3, concurrent=False)\n"
    first, again = (run("-c", program, NUMBA_DISABLE_JIT="1") for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == again.stdout, "a run is a function of its seed"
