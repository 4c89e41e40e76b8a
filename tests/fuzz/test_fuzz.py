"""A short run of the fuzzer, and proof that it sees what it is there to see."""

import random
import signal
import subprocess
import sys

import numpy as np
import pytest

from dpu_runtime.kernels.layout import BATCH_SIZE, FRAME_BYTES_MAX, META_DTYPE, PORT_UP, ROW_BYTES
from tests.conventions import ROOT
from tests.kernels.pieces import scatter

pytestmark = [pytest.mark.in_memory, pytest.mark.compiled]


def run(*words):
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.slow
def test_the_pipeline_survives_mutated_packets():
    done = run("-m", "tests.fuzz", "--packets", "300000", "--seed", "1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    *_, balance, drops, verdict = done.stdout.splitlines()
    assert verdict.startswith("nothing found: 300,"), verdict
    # it gets everywhere: packets are merged, cut, flooded and dropped for most of the reasons
    assert " 0" not in balance, balance
    assert drops.count(",") > 35, drops


def test_reading_past_guarded_memory_ends_the_process():
    program = "from tests.fuzz.guarded import guarded_array; import ctypes; a = guarded_array(100);"
    assert run("-c", program + "ctypes.string_at(a.ctypes.data, 100)").returncode == 0
    assert run("-c", program + "ctypes.string_at(a.ctypes.data, 101)").returncode == -signal.SIGSEGV


def test_packets_are_a_function_of_the_seed():
    from tests.fuzz import corpus, loop
    from tests.fuzz.device import payload_slots

    frames = corpus.build()
    slots, ends = payload_slots()

    def bursts(seed):
        headers, meta = np.zeros((BATCH_SIZE, ROW_BYTES), np.uint8), np.zeros(BATCH_SIZE, META_DTYPE)
        state = np.array([seed, 0], np.uint64)
        for _ in range(20):
            loop.make_burst(state, frames, ends, headers, meta, 5, 13)
        assert slots and (meta["frame_len"] <= FRAME_BYTES_MAX).all() and state[loop.STATE_PACKETS] > 20
        return headers.tobytes(), meta.tobytes(), int(state[0])

    assert bursts(5) == bursts(5)
    assert bursts(5) != bursts(6)


GOOD = {"l2_offset": 128, "header_end": 384, "payload_len": 0, "frame_len": 256, "in_port": 1}
OWED = {"offload": 1, "csum_start": 162, "csum_offset": 16, "l5_offset": 182, "l3_offset": 142}
PLANTED = {
    "BAD_BEGIN": {"l2_offset": 11, "frame_len": 373},
    "BAD_END": {"header_end": ROW_BYTES + 1, "frame_len": 257},
    "BAD_EMPTY": {"header_end": 128, "frame_len": 0},
    "BAD_LENGTH": {"frame_len": 255},
    "BAD_OWED": OWED,
    "BAD_CSUM_PLACE": {**OWED, "csum_offset": 221},
    "BAD_GSO": {**OWED, "gso_type": 1, "gso_size": 9},
    "BAD_GSO_SIZE": {"gso_type": 1, "l5_offset": 200, "gso_size": 9},
    "BAD_MTU": {"payload_len": 10, "frame_len": 266},
    "BAD_HAIRPIN": {"in_port": 0},
}


@pytest.fixture(scope="module")
def judge():
    from dpu_runtime.drivers.port import PORT_COUNTER_COUNT
    from dpu_runtime.kernels.burst import make_burst
    from dpu_runtime.kernels.compile.reference import Lent
    from dpu_runtime.plane.shared import SharedState
    from tests.fuzz import judge

    shared = SharedState.create()
    shared.ports[0]["flags"], shared.ports[0]["mtu"] = PORT_UP, 256 - 14
    burst = make_burst(0, shared)

    def found(fields, count=1):
        payload = np.zeros(64, np.uint8)
        burst.meta[0] = np.zeros((), META_DTYPE)
        for name, value in {**GOOD, "payload_addr": payload.ctypes.data, **fields}.items():
            burst.meta[0][name] = value
        bad = np.zeros(len(judge.VIOLATIONS), np.uint64)
        counters = np.zeros((1, PORT_COUNTER_COUNT), np.uint64)
        io = judge.Judge(counters, np.zeros(256, np.uint8), bad, np.zeros(1, np.uint64))
        judge.checked_tx(Lent(burst), Lent(io), 0, 0, count)
        return [name for name in dir(judge) if name.startswith("BAD_") and bad[getattr(judge, name)]]

    return found


def test_a_good_frame_passes(judge):
    assert judge({}) == []


@pytest.mark.parametrize(
    "lengths, found", [([4, 6], []), ([10], []), ([4, 7], ["BAD_LENGTH"]), ([4, 0], ["BAD_LENGTH"])]
)
def test_pieces_add_up_to_the_payload(judge, lengths, found):
    address, kept = scatter(bytes(11), lengths, random.Random(1))
    assert judge({"header_end": 374, "payload_len": 10, "payload_addr": 0, "payload_iov": address}) == found
    assert kept[1][0, 0] == 0  # written in front of the list


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_seen(judge, name):
    assert name in judge(PLANTED[name])


def test_a_burst_that_is_too_long_is_seen(judge):
    assert judge({}, BATCH_SIZE) == []
    assert judge({}, BATCH_SIZE + 1) == ["BAD_COUNT"]


def test_a_reason_is_the_frames_or_a_functions():
    from dpu_runtime.kernels.drops import DROP_REASON_COUNT, Drop
    from tests.fuzz.device import reasons

    given = set(np.flatnonzero(reasons()).tolist())
    assert given & set(range(DROP_REASON_COUNT)) == set(Drop) - {Drop.NONE}
    assert DROP_REASON_COUNT in given and max(given) < 255
