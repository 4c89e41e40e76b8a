"""bench/vhost_tso.py: small; its figures, and that every contender carries whole segments."""

import pytest

from bench import vhost_tso
from tests.bench.test_host_pair import line, marked

RULES = 20


def test_figures_of_a_sample():
    counted = line(seconds=2.0, frames=4, octets=4_000_000_000, owed=3)
    sample = vhost_tso.Sample(counted, counted, 0.0)
    assert (sample.gbit, sample.packet_octets, sample.owed_percent) == (16, 1e9, 75)


def test_a_frame_is_whole_segments():
    payload = vhost_tso.FRAME_OCTETS - vhost_tso.HEADER_OCTETS
    assert payload % vhost_tso.SEGMENT_OCTETS == 0
    assert payload + vhost_tso.SEGMENT_OCTETS + 40 > 65535 >= payload + 40  # octets of an IPv4 packet


@marked
@pytest.mark.slow
@pytest.mark.package("dpdk-dev", "openvswitch-switch-dpdk")
def test_all_of_them_carry_whole_segments():
    made = {one.name: one for one in vhost_tso.run(100, repeats=1, rules=RULES)}
    bare = ["testpmd io", "OVS-DPDK, bare", "DPU, bare"]
    full = [f"OVS-DPDK, {RULES} rules", f"DPU, {RULES} rules"]
    named = [f"loop-back, 64 KB: {one}" for one in bare]
    named += [f"port to port, 64 KB: {one}" for one in bare + full]
    assert {name for name, one in made.items() if one.unit == "Gbit/s"} == set(named)
    whole = vhost_tso.FRAME_OCTETS - vhost_tso.HEADER_OCTETS
    assert {made[f"{name}, a packet"].median for name in named} == {whole}
    assert {made[f"{name}, still owed"].median for name in named} == {100}
    assert "port to port, 64 KB: DPU, 20 rules / OVS-DPDK, 20 rules" in made
