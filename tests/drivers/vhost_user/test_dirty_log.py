"""Dirty log against the specification's own lines, and under threads that share its octets."""

import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpu_runtime.drivers.vhost_user.dirty_log import log_write
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.octets.memory import load_acquire, store_release

pytestmark = pytest.mark.three_modes
PAGE = 0x1000  # octets, vhost-user "Migration"
LOG_BYTES = 6
COVERED = 8 * LOG_BYTES * PAGE  # octets of guest memory that the log has bits for
MARGIN = 8  # octets in front of the log and behind it
ADDRESS_MAX = 2**64 - 1
DELAYS = 128  # loads
SPINS_MAX = 2000  # then the other thread has lost its CPU, and is not waited for


@kernel
def log_one(log_addr, log_bytes, guest_addr, length):
    log_write(log_addr, log_bytes, guest_addr, length)


@kernel
def log_in_step(log_addr, log_bytes, worker, gate):
    """Mark every second page, beside a thread that marks the others, an octet of the log at a time."""
    for octet in range(np.int64(log_bytes)):
        store_release(gate, worker, octet)
        spins = 0
        while load_acquire(gate, 1 - worker) < octet and spins < SPINS_MAX:
            spins += 1
        # Whoever came first hears of the other late: this way and that way, so that they meet.
        for _ in range(octet * (1 + 6 * worker) % DELAYS):
            load_acquire(gate, worker)
        for page in range(8 * octet + worker, 8 * octet + 8, 2):
            log_write(log_addr, log_bytes, np.uint64(page * PAGE), np.uint64(1))


def model(guest_addr, length):
    """Octets of the log after one write, page by page as the specification says."""
    log = bytearray(LOG_BYTES)
    if length:
        last = min(guest_addr + length - 1, ADDRESS_MAX)
        for page in range(guest_addr // PAGE, min(last // PAGE, 8 * LOG_BYTES - 1) + 1):
            log[page // 8] |= 1 << page % 8
    return bytes(log)


def logged(guest_addr, length, log_bytes=LOG_BYTES, before=0):
    """Octets of the log after `log_write`, which leaves what is around it alone."""
    memory = np.full(MARGIN + LOG_BYTES + MARGIN, 0xA5, np.uint8)
    log = memory[MARGIN : MARGIN + LOG_BYTES]
    log[:] = before
    log_one(np.uint64(log.ctypes.data), np.uint64(log_bytes), np.uint64(guest_addr), np.uint64(length))
    assert (memory[:MARGIN] == 0xA5).all()
    assert (memory[-MARGIN:] == 0xA5).all()
    return log.tobytes()


EDGES = sorted(
    {
        base + delta
        for base in (PAGE, 7 * PAGE, 8 * PAGE, 9 * PAGE, 16 * PAGE, COVERED - 8 * PAGE, COVERED)
        for delta in (-PAGE, -1, 0, 1, PAGE)
    }
)


@pytest.mark.parametrize("first", EDGES)
def test_from_every_edge_to_every_edge(first):
    for end in (edge for edge in EDGES if edge >= first):
        assert logged(first, end - first) == model(first, end - first), (first, end)


@pytest.mark.parametrize("first", [COVERED, 2 * COVERED, 2**44, 2**63, ADDRESS_MAX - PAGE + 1, ADDRESS_MAX])
@pytest.mark.parametrize("length", [1, PAGE, 2**63, ADDRESS_MAX])
def test_what_lies_beyond_the_log_is_not_marked(first, length):
    assert logged(first, length) == bytes(LOG_BYTES)


@pytest.mark.parametrize("first", [0, 1, 5 * PAGE, COVERED - 1])
def test_the_longest_length_marks_all_that_follows(first):
    assert logged(first, ADDRESS_MAX) == model(first, ADDRESS_MAX)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, COVERED + 2 * PAGE) | st.integers(0, ADDRESS_MAX),
    st.integers(0, 70000) | st.integers(0, ADDRESS_MAX),
)
@example(0, 0)
@example(ADDRESS_MAX, 2)
def test_any_write(guest_addr, length):
    assert logged(guest_addr, length) == model(guest_addr, length)


def test_bits_that_are_set_stay_set():
    assert logged(9 * PAGE, PAGE, before=0x81) == bytes([0x81, 0x83, 0x81, 0x81, 0x81, 0x81])


@pytest.mark.parametrize("log_bytes", range(LOG_BYTES))
def test_a_shorter_log_ends_where_it_says(log_bytes):
    assert logged(0, COVERED, log_bytes) == b"\xff" * log_bytes + bytes(LOG_BYTES - log_bytes)


def test_without_a_log_nothing_is_written():
    for length in (1, ADDRESS_MAX):
        log_one(np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(length))
        log_one(np.uint64(0), np.uint64(LOG_BYTES), np.uint64(0), np.uint64(length))


@pytest.mark.compiled
def test_threads_that_share_octets_lose_no_bit():
    for _ in range(10):
        log = np.zeros(1 << 16, np.uint8)
        gate = np.full(2, -1, np.int64)
        args = np.uint64(log.ctypes.data), np.uint64(len(log))
        threads = [threading.Thread(target=log_in_step, args=(*args, worker, gate)) for worker in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (log == 0xFF).all()
