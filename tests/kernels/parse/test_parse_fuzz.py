"""The parser against the model on random and mutated frames: never a crash, always the same fields."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.layout import HEADER_BYTES
from tests.kernels.parse.check import check
from tests.kernels.parse.frames import FRAMES, chain_frame, chains

SEEDS = list(FRAMES.values()) + [bytes(chain_frame(order)) for order in list(chains())[::7]]
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
ETHERTYPES = [IPV4, IPV6, b"\x08\x06", b"\x81\x00", b"\x88\xa8"]
SETTINGS = settings(max_examples=250 if PYTHON_MODE else 800, deadline=None, derandomize=True)


@st.composite
def mutated(draw):
    """A valid frame with up to six octets changed, its end cut or grown."""
    frame = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        frame[draw(st.integers(0, len(frame) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.one_of(st.just(len(frame)), st.integers(0, len(frame))))
    return bytes(frame[:cut]) + bytes(draw(st.integers(0, 2)) * 97)


@st.composite
def plausible(draw):
    """Random octets behind a MAC pair and an ethertype that is parsed; an IP header's version, length
    and protocol fit."""
    ethertype, body = draw(st.sampled_from(ETHERTYPES)), bytearray(draw(st.binary(max_size=300)))
    proto = draw(st.sampled_from([0, 1, 6, 17, 43, 44, 47, 51, 58, 60, 132]))
    if ethertype == IPV4 and len(body) >= 20:
        body[0], body[6:8], body[9] = 0x45, b"\0\0", proto
        struct.pack_into("!H", body, 2, len(body))
    if ethertype == IPV6 and len(body) >= 40:
        body[0], body[6] = 0x60, proto
        struct.pack_into("!H", body, 4, len(body) - 40)
    return bytes.fromhex("020000000002020000000001") + ethertype + bytes(body)


@SETTINGS
@given(st.lists(st.binary(max_size=320), min_size=1, max_size=4), st.integers(0, 1))
def test_random_octets(frames, gso_type):
    check(frames, gso_type=gso_type)


@SETTINGS
@given(st.lists(plausible(), min_size=1, max_size=4), st.integers(0, 1))
def test_random_octets_behind_an_ethertype(frames, gso_type):
    check(frames, gso_type=gso_type)


@SETTINGS
@given(
    st.lists(st.tuples(mutated(), st.integers(0, HEADER_BYTES * 2)), min_size=1, max_size=4),
    st.integers(0, 1),
)
def test_mutated_frames(cases, gso_type):
    """Headers may also end where the row does, in front of the frame's end."""
    frames, visible = zip(*cases, strict=True)
    check(
        list(frames),
        visible=[min(v, len(f)) for f, v in zip(frames, visible, strict=True)],
        gso_type=gso_type,
    )
