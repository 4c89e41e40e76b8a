"""bench/limits.py, small: every figure is there and positive; the bare ring moves what it should."""

import contextlib

import numpy as np
import pytest

pytestmark = pytest.mark.compiled


def test_the_bare_ring_copies_each_frame_once():
    from bench import bare_ring

    batch, size, octets = 16, 64, 100
    rings, memory = bare_ring.make_rings(size, octets)
    base = int(bare_ring._address(memory))

    def at(address, count, dtype):
        start = int(address) - base
        return memory[start : start + count * np.dtype(dtype).itemsize].view(dtype)

    tables = [
        at(rings[ring], 2 * size, "u8").reshape(size, 2) for ring in (bare_ring.TX_DESC, bare_ring.RX_DESC)
    ]
    frames = np.arange(2 * batch) + 1
    for slot, fill in enumerate(frames):
        at(tables[0][slot, 0] + 12, octets, "u1")[:] = fill
    scratch = np.zeros((batch, 3), np.uint64)
    assert bare_ring.forward(rings, size, np.uint64(batch), np.uint64(10_000_000), scratch) == len(frames)
    for slot, fill in enumerate(frames):
        target = at(tables[1][slot, 0], 12 + octets + 1, "u1")
        assert target[:12].tolist() == [0] * 10 + [1, 0]
        assert (target[12:-1] == fill).all() and target[-1] == 0xA5
    used = at(rings[bare_ring.RX_USED], 1 + 2 * len(frames), "u4")
    assert used[0] >> 16 == len(frames)
    assert used[1:].reshape(-1, 2).tolist() == [[slot, 12 + octets] for slot in range(len(frames))]
    assert at(rings[bare_ring.STOP], 1, "u4")[0] == 1


def test_the_best_of_the_repeats_is_what_a_machine_can_do():
    from bench import results

    rows = [results.result("TAP", "us", [3, 2, 9]), results.result("ring", "Mpps", [3, 2, 9])]
    assert results.best(rows) == {"TAP": 2, "ring": 9}


@pytest.mark.root
@pytest.mark.package("gcc", "libc6-dev", "ethtool", "iproute2", "iputils-ping")
def test_a_small_run_has_every_figure(monkeypatch):
    from bench import limits, results

    monkeypatch.setattr(results, "ROUNDS_DROPPED", 1)  # it compiles; what was cheap must come out cheap
    monkeypatch.setattr(limits, "tcp", lambda *_: {})  # a second each, below
    made = {row.name: row for row in limits.run(10, repeats=1)}
    assert all(0 < row.low <= row.median <= row.high for row in made.values())
    assert {row.unit for row in made.values()} == {"GB/s", "ns", "us", "Mpps", "Gbit/s"}
    assert made["memcpy in the cache, 16 KB"].median < 10_000
    assert made["TAP, 64 B, read and write"].median < made["TAP, 64 KB, read and write"].median
    assert made["system call, getppid"].median / 1e3 < made["wake-up there and back, one CPU"].median


@pytest.mark.root
@pytest.mark.package("iproute2", "iperf3", "ethtool")
def test_tcp_is_measured_with_the_tools_of_the_other_scripts():
    from bench import limits

    with contextlib.ExitStack() as stack:
        samples = limits.tcp(stack, 10)
        assert len(samples) == 2 * len(limits.STREAMS) + 1
        assert samples["TCP over a veth pair, no offloads", "Gbit/s"]() > 0
