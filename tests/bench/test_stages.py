"""bench/stages.py: what a stage costs from counters; each kind of port, small; the stacked plot."""

import contextlib
import xml.etree.ElementTree as ET
from dataclasses import asdict

import pytest

from bench import stages
from bench.peers import wire_load
from bench.plots import draw
from bench.results import result

WHERE = {"machine": "M", "cpus": 2, "kernel": "6.18", "commit": "abc"}
NS = 1_000_000_000


def stats(received, **kernels):
    counters = {name: {"packets": 0, "cycles": 0} for name in ("rx", "parse", "tx", "xconnect")}
    counters |= {name: {"packets": packets, "cycles": cycles} for name, (packets, cycles) in kernels.items()}
    return {"balance": {"received": received}, "kernels": counters, "tsc_hz": 2 * NS}


def test_a_stage_costs_its_cycles_by_the_packets_that_came():
    before = stats(10, rx=(10, 100), parse=(10, 0))
    after = stats(20, rx=(20, 300), parse=(20, 60), tx=(40, 500))
    assert stages.spent("it", before, after) == {"rx": 10, "parse": 3, "tx": 25, stages.WHOLE: 38}


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (stats(10, rx=(10, 0)), "it: no packet arrived"),
        (stats(20, rx=(19, 0)), "it: the ports received 10 packets, the stages 9"),
    ],
)
def test_what_cannot_be_fails(after, text):
    with pytest.raises(AssertionError, match=text):
        stages.spent("it", stats(10, rx=(10, 0)), after)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr("bench.results.shutil.which", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match="apt-get install dpdk-dev ethtool gcc"):
        stages.run(1)


def test_the_parts_of_a_bar_lie_beside_each_other(tmp_path):
    samples = [{"rx": 30.0, "tx": 50.0, stages.WHOLE: 80.0}]
    rows = [*stages._rows("tap, 64 B, no rules", samples), *stages._rows("tap, 1500 B, no rules", samples)]
    rows += stages._rows("vhost_user, 64 B, xconnect", [{"xconnect": 1234.0, stages.WHOLE: 1234.0}])
    assert rows[0] == result("tap, 64 B, no rules: rx", "ns a packet", [30.0])
    plot = {"kind": "stacked", "whole": stages.WHOLE}
    svg, png = draw("stages", {**WHERE, "plot": plot, "results": [asdict(row) for row in rows]}, tmp_path)
    text = [words.strip() for words in ET.parse(svg).getroot().itertext()]
    assert text.count("tap, 64 B, no rules") == text.count("vhost_user, 64 B, xconnect") == 1
    assert text.count("80") >= 2 and "1,234" in text  # how long a bar is, all of its parts together
    assert stages.WHOLE not in text and {"rx", "tx", "xconnect"} <= set(text)
    assert png.stat().st_size > 1000


def marked(test):
    """`test` with the marks of those that start a daemon."""
    for mark in (
        pytest.mark.root,
        pytest.mark.slow,
        pytest.mark.package("iproute2", "ethtool", "gcc", "libc6-dev"),
    ):
        test = mark(test)
    return test


@marked
def test_each_kind_of_port_is_measured():
    """With rules and without; then the ports' counters and the stages' agree."""
    with wire_load.built() as program, contextlib.ExitStack() as stack:
        for name, dpu, load, _ in stages._kernel_ports(stack, program):
            for rules in (0, 20):
                made = stages.measure(stages.Case(name, dpu, load, 64, rules), 0.1)
                assert {"rx", "parse", "switch", "tx"} <= set(made)
                assert ("acl_ingress" in made) == (rules > 0), "what is off is not on the path"
                assert sum(made.values()) == pytest.approx(2 * made[stages.WHOLE])
                assert len(dpu.call("rule.show")) == rules


@marked
@pytest.mark.package("dpdk-dev")
def test_vhost_user_ports_are_measured_past_the_pipeline_too():
    from bench.peers.hugepages import hugepages

    with hugepages(stages.HUGEPAGES_MB), contextlib.ExitStack() as stack:
        switch, bare = stages._vhost_ports(stack)
        for (name, dpu, load, _), seen in ((switch, "switch"), (bare, "xconnect")):
            made = stages.measure(stages.Case(name, dpu, load, 64, 0), 0.1)
            assert made[seen] > 0 and ("rx" in made) == (seen == "switch")
