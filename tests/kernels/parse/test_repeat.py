"""Runs of one flow: parsed once, and nothing taken for the same that the parser would tell apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP, IPOption_NOP
from scapy.layers.l2 import Dot1Q

from dpu_runtime.kernels.drops import DROP_REASON_COUNT
from dpu_runtime.kernels.parse.parse import parse
from dpu_runtime.kernels.parse.repeat import RUN_TRIES
from tests.kernels.batches import Batch
from tests.kernels.parse.check import check
from tests.kernels.parse.frames import ETH, IP4, IP6, LAYER4, TCP0, UDP0

PLAIN = {
    "tcp": bytes(ETH / IP4() / TCP0 / (b"payload" * 5)),
    "tcp_options": bytes(ETH / IP4() / TCP(sport=1, dport=2, options=[("MSS", 1460)]) / b"x"),
    "udp": bytes(ETH / IP4() / UDP0 / (b"payload" * 5)),
    "udp_padded": bytes(ETH / IP4() / UDP0 / b"x") + bytes(17),
}
# Octets of a frame that the parser reads of neither, of TCP only, of UDP only: these may differ.
IDENTIFICATION, TTL, CHECKSUM = {18, 19}, {22}, {24, 25}
TCP_LATER = set(range(38, 46)) | set(range(48, 54))  # sequence and acknowledgment; window, checksum, urgent
UDP_CHECKSUM = {40, 41}
HEADER_OCTETS = {"tcp": 54, "udp": 42}


CHANGES = st.lists(st.tuples(st.integers(12, 60), st.integers(0, 255)), max_size=2)


def may_differ(name, at):
    """Whether two plain frames that differ in octet `at` are alike."""
    layer4 = TCP_LATER if name.startswith("tcp") else UDP_CHECKSUM
    return at in IDENTIFICATION | TTL | CHECKSUM | layer4 or at >= HEADER_OCTETS[name[:3]]


@pytest.mark.parametrize("name", PLAIN)
def test_a_run_is_parsed_once(name):
    meta = check([PLAIN[name]] * 5)
    assert meta["repeats"][:5].tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_octet_counts_that_the_parser_reads(name, flip):
    """Each octet changed, between two frames that are as they were."""
    frame = PLAIN[name]
    for at in range(len(frame)):
        other = bytearray(frame)
        other[at] ^= flip
        meta = check([frame, bytes(other), frame, frame])
        alike = int(may_differ(name, at))
        assert meta["repeats"][1] == alike, f"octet {at}"
        assert meta["repeats"][2] == alike or not alike
        assert meta["repeats"][3] == 1


def test_frames_of_other_lengths_are_parsed():
    frame = PLAIN["udp"]
    assert check([frame, frame + b"\0", frame])["repeats"][:3].tolist() == [0, 0, 0]
    seen = [len(frame), len(frame) - 1, len(frame)]
    assert check([frame] * 3, visible=seen)["repeats"][:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "frame",
    [
        ETH / Dot1Q(vlan=5) / IP4() / UDP0,
        ETH / IP6() / TCP0,
        ETH / IP4(options=[IPOption_NOP()] * 4) / TCP0,
        ETH / IP4(flags="MF") / UDP0,
        ETH / IP4(frag=3) / b"later",
        ETH / IP4() / LAYER4["vxlan"],
        ETH / IP4() / UDP(sport=1, dport=4789) / bytes(20),
        ETH / IP4() / LAYER4["geneve"],
        ETH / IP4() / LAYER4["gtpu"],
        ETH / IP4() / LAYER4["gre"],
        ETH / IP4() / LAYER4["sctp"],
        ETH.__class__(src=ETH.src, dst="ff:ff:ff:ff:ff:ff") / IP4() / UDP0,
    ],
    ids=lambda packet: packet.summary()[:40],
)
def test_what_is_not_plain_is_parsed_each_time(frame):
    assert not check([bytes(frame)] * 3)["repeats"][:3].any()


def test_a_dropped_packet_is_not_repeated():
    short = PLAIN["udp"][:30]
    meta = check([PLAIN["udp"], short, short, PLAIN["udp"]])
    assert not meta["repeats"][:4].any()


@pytest.mark.parametrize("field", ["in_port", "l2_offset", "gso_type", "gso_size", "csum_start", "offload"])
def test_placement_and_offload_count(field):
    batch = Batch([PLAIN["udp"]] * 2)
    batch.meta[1][field] += 1
    if field == "l2_offset":
        batch.headers[1] = np.roll(batch.headers[1], 1)
        batch.meta[1]["header_end"] += 1
    parse(batch.headers, batch.meta, 2, np.zeros(DROP_REASON_COUNT, np.uint64))
    assert batch.meta["repeats"][:2].tolist() == [0, 0]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(PLAIN)),
    st.lists(
        st.lists(st.tuples(st.integers(12, 60), st.integers(0, 255)), max_size=2), min_size=2, max_size=8
    ),
)
def test_any_batch_is_parsed_as_the_model_parses_it(name, changes):
    frames = []
    for change in changes:
        frame = bytearray(PLAIN[name])
        for at, octet in change:
            if at < len(frame):
                frame[at] = octet
        frames.append(bytes(frame))
    check(frames)


def test_interleaved_flows_are_not_compared_for_long():
    one, other = PLAIN["udp"], PLAIN["tcp"]
    meta = check([one, other] * RUN_TRIES + [one, one])
    assert not meta["repeats"][: 2 * RUN_TRIES + 2].any()
    assert check([one, one])["repeats"][1] == 1
