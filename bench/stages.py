"""What a packet costs in each stage of the pipeline, by kind of port, from one port to another.

Cases:  64 and 1500 octets; no rules, and --rules of which none matches; vhost-user also past the pipeline
        (xconnect), which is one stage.
Load:   af_packet, af_xdp: bench/peers/wire_load.c on veth pairs, as many as go; tap: the same program by the
        clock, faster than can be; vhost-user: testpmd, whose packets go round.
CPUs:   the worker on CPU 1, the load on CPU 0.
Size:   ms a measurement, of which each case has its turn.
Checks: the stages saw what the ports counted; what arrives has the octets it was sent with (wire_load.c).
Not:    polling, sleep, and the kernel's time on other CPUs. The system calls are part of rx and tx.
"""

import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from bench import results
from bench.kernel_ports import check
from bench.peers import testpmd, vhost_dpu, wire_load, wires, wires_dpu
from bench.peers.containers import RULE
from bench.peers.dpu import Dpu, settled_stats
from bench.peers.hosts import Host, stop_on_signals
from bench.peers.hugepages import hugepages

PACKAGES = {testpmd.PROGRAM: "dpdk-dev", "ethtool": "ethtool", "gcc": "gcc"}
LOAD_CPU, SWITCH_CPU = 0, 1
FRAME_OCTETS = (64, 1500)
RULES = 1000
TAP_RATE = 3_000_000  # packets a second, more than a packet socket can send
WARM_UP_SECONDS = 0.1
WHOLE = "all stages"
UNIT = "ns a packet"
HUGEPAGES_MB = 2 * testpmd.MEMORY_MB + 64
_TAP = """
[[port]]
name = "{name}"
kind = "tap"
netns = "pid:{pid}"
ifname = "eth0"
"""


class TapDpu(Dpu):
    """A daemon with a TAP port in each of two hosts, `near` and `far`; they are its `wires` for the load."""

    def __init__(self, cpu, folder):
        with contextlib.ExitStack() as made:
            self.near, self.far = (made.enter_context(Host()) for _ in range(2))
            ports = {"near": self.near, "far": self.far}
            text = "".join(_TAP.format(name=name, pid=host.pid) for name, host in ports.items())
            super().__init__(folder, cpu, text)
            self._hosts = made.pop_all()
        self.wires = self

    def close(self):
        """End it, and the hosts; twice is allowed."""
        super().close()
        self._hosts.close()


@dataclass(frozen=True)
class Case:
    """A daemon with two ports, what sends, and whether rules are in force.

    load  function of (octets, seconds) that sends packets through it
    """

    name: str
    dpu: Any
    load: Any
    octets: int
    rules: int


def measure(case, seconds):
    """{stage: ns a received packet} of one case, WHOLE too."""
    set_rules(case.dpu, case.rules)
    before = settled_stats(case.dpu.call)
    case.load(case.octets, seconds)
    return spent(case.name, before, settled_stats(case.dpu.call))


def spent(name, before, after):
    """{stage: ns a received packet} between two answers of `stats`, WHOLE too."""
    packets = after["balance"]["received"] - before["balance"]["received"]
    assert packets > 0, f"{name}: no packet arrived"
    stages = {
        stage: (counters["packets"] - old["packets"], counters["cycles"] - old["cycles"])
        for (stage, counters), old in zip(after["kernels"].items(), before["kernels"].values(), strict=True)
    }
    seen = stages["rx"][0] + stages["xconnect"][0]
    assert seen == packets, f"{name}: the ports received {packets} packets, the stages {seen}"
    ns = {stage: cycles * 1e9 / after["tsc_hz"] / packets for stage, (_, cycles) in stages.items() if cycles}
    return {**ns, WHOLE: sum(ns.values())}


def set_rules(dpu, count):
    """Have `count` rules in force, none of which matches a packet that is measured; the ports stay."""
    text, *_ = dpu.call("config.get")["toml"].partition("[[rule]]")  # rules are its end
    rules = (RULE.format(priority=n + 1, octet=n % 256, port=1024 + n) for n in range(count))
    dpu.call("config.apply", toml=text + "".join(rules))


def run(size, repeats=results.REPEATS, rules=RULES, quick=False):
    """Measure all cases, `size` ms each time; `quick`: of the smaller packets only. Returns ns by stage."""
    results.require(PACKAGES)
    with hugepages(HUGEPAGES_MB), wire_load.built() as program, contextlib.ExitStack() as stack:
        ports = [*_kernel_ports(stack, program), *_vhost_ports(stack)]
        cases = [
            Case(f"{name}, {octets} B, {variant}", dpu, load, octets, count)
            for octets in FRAME_OCTETS[: 1 if quick else None]
            for name, dpu, load, bare in ports
            for variant, count in (
                {"xconnect": 0} if bare else {"no rules": 0, f"{rules} rules": rules}
            ).items()
        ]
        taken = results.alternate(
            {case.name: lambda case=case: measure(case, size / 1e3) for case in cases}, repeats
        )
    return [row for name, samples in taken.items() for row in _rows(name, samples)]


def _folder(stack):
    return stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))


def _kernel_ports(stack, program):
    """(name, daemon, load, past the pipeline) of ports over interfaces of the kernel."""

    def loaded(name, dpu, rate=None):
        def load(octets, seconds):
            count = wire_load.load(program, dpu.wires, LOAD_CPU, octets, seconds, rate, WARM_UP_SECONDS)
            check(name, count, octets)

        return name, stack.enter_context(dpu), load, False

    yield loaded("tap", TapDpu(SWITCH_CPU, _folder(stack)), TAP_RATE)
    for kind in ("af_packet", "af_xdp"):
        where = stack.enter_context(wires.Wires(SWITCH_CPU, gro=True))
        yield loaded(kind, wires_dpu.WiresDpu(where, SWITCH_CPU, _folder(stack), kind))


def _vhost_ports(stack):
    """The same of vhost-user ports, as a switch and past the pipeline."""
    for variant in (vhost_dpu.SWITCHED, vhost_dpu.JOINED):
        folder = _folder(stack)
        sockets = [f"{folder}/vhost{number}.sock" for number in range(2)]
        dpu = stack.enter_context(vhost_dpu.VhostDpu(sockets, SWITCH_CPU, folder, variant))
        client = stack.enter_context(testpmd.client(sockets, LOAD_CPU))

        def load(octets, seconds, client=client):
            client.command(f"set txpkts {octets}")
            client.start("io", testpmd.FIRST_BURSTS)
            time.sleep(WARM_UP_SECONDS + seconds)
            client.stop()

        yield "vhost_user", dpu, load, variant == vhost_dpu.JOINED


def _rows(name, samples):
    """Results of one case: every stage that a sample has, in the pipeline's order."""
    for stage in dict.fromkeys(stage for sample in samples for stage in sample):
        yield results.result(f"{name}: {stage}", UNIT, [sample.get(stage, 0.0) for sample in samples])


if __name__ == "__main__":
    stop_on_signals()
    try:
        results.main(
            "stages",
            run,
            300,
            __doc__,
            plot={"kind": "stacked", "whole": WHOLE},
            repeats={"type": int, "default": results.REPEATS, "help": "measurements of each case"},
            rules={"type": int, "default": RULES, "help": f"rules in force; default: {RULES}"},
            quick={"action": "store_true", "help": f"packets of {FRAME_OCTETS[0]} octets only"},
        )
    except RuntimeError as error:
        sys.exit(f"bench/stages.py: {error}")
