"""The kernels beside DPDK, ISA-L, scapy, dpkt and zlib: all give the same answers, and figures come of it."""

import pytest

from bench import kernels_peers
from bench.kernels_peers import TOPICS, measured, one_cpu

pytestmark = [
    pytest.mark.in_memory,
    pytest.mark.compiled,
    pytest.mark.package("gcc", "pkg-config", "libdpdk-dev", "libisal-dev"),
]
MS = 0.01


@pytest.mark.parametrize("topic", TOPICS)
def test_every_peer_gives_the_answers_of_ours(topic):
    fewer = {"rule_counts": (10, 1000)} if topic == "lookups" else {}
    with one_cpu(), TOPICS[topic].compared(MS, **fewer) as comparisons:
        for comparison in comparisons:
            comparison.check()
        assert len({comparison.name for comparison in comparisons}) == len(comparisons) > 2


def test_a_wrong_answer_is_noticed():
    from bench.peers.memory import offloads

    with offloads.compared(MS) as comparisons:
        cut = comparisons[0]
        cut.kept.data[0] ^= 1  # DPDK was given another one
        with pytest.raises(AssertionError, match="segment 0"):
            cut.check()


def test_figures_of_each_and_a_ratio_for_each_peer():
    with TOPICS["sums"].compared(MS) as comparisons:
        found = measured(comparisons[1], repeats=2)
    ours, *peers = [one for one in found if one.unit == "GB/s"]
    ratios = [one for one in found if one.unit == "x"]
    assert ours.name == "CRC32c, 64 B: DPU" and all(one.median > 0 for one in found)
    assert [one.theirs for one in ratios] == [one.median for one in peers] and len(peers) == 4


def test_an_unknown_topic_is_refused_with_those_there_are():
    with pytest.raises(SystemExit, match="no topic is called x; there are parsing, sums, lookups, offloads"):
        kernels_peers.run(1, only="sums,x")
