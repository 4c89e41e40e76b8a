"""TCP and round trips from one veth pair to another through ports of each socket kind, alternating.

    client eth0 ---- port0 [what is measured] port1 ---- eth0 server

Cases:   with offloads, the hosts leave checksums and segmentation to whoever sends last, and packets of 64 KB
         cross in one piece; without, packets have the MTU and their checksum. Open vSwitch takes no more.
CPUs:    what is measured on CPU 1; iperf3 and ping where the scheduler puts them.
Size:    seconds of TCP a measurement; round trips of --requests echo requests, each after the last answer.
Checks:  no echo request is lost.
"""

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from bench import latency, results, tcp_containers
from bench.peers import ovs_kernel, wires, wires_dpu
from bench.peers.hosts import stop_on_signals

PACKAGES = {ovs_kernel.SWITCH: "openvswitch-switch-dpdk", "ethtool": "ethtool", "iperf3": "iperf3"}
SWITCH_CPU = 1
REQUESTS = 2000
QUICK_SECONDS, QUICK_REPEATS = 1, 2
OFFLOAD, WITHOUT = "DPU, af_packet", "DPU, af_packet, no offload"
BRIDGE, BRIDGE_WITHOUT = "bridge", "bridge, no offload"
DPU_XDP = "DPU, af_xdp"
OVS = {"OVS, packet sockets": False, "OVS, afxdp": True}
# Ratios that are shown: of TCP, ours to theirs; of round trips the same.
TCP_RATIOS = ((OFFLOAD, WITHOUT), (OFFLOAD, BRIDGE), (WITHOUT, BRIDGE_WITHOUT), (DPU_XDP, BRIDGE_WITHOUT))


@dataclass(frozen=True)
class Contender:
    """Something that joins wires (bench/peers/wires.py)."""

    name: str
    switch: Any


def _contenders(stack, peers_only):
    """All that can join two wires, each on wires of its own, at rest."""

    def make(switch, offloads, *args, folder=False, **options):
        where = stack.enter_context(wires.Wires(SWITCH_CPU))
        if not offloads:
            where.without_offloads()
        folders = [stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))] if folder else []
        made = stack.enter_context(switch(where, SWITCH_CPU, *folders, *args, **options))
        made.rest()
        return made

    yield Contender(BRIDGE, stack.enter_context(wires.KernelBridge(SWITCH_CPU)))
    yield Contender(BRIDGE_WITHOUT, stack.enter_context(wires.KernelBridge(SWITCH_CPU, offloads=False)))
    for name, afxdp in OVS.items():
        yield Contender(name, make(ovs_kernel.OvsKernel, False, folder=True, afxdp=afxdp))
    if not peers_only:
        yield Contender(OFFLOAD, make(wires_dpu.WiresDpu, True, "af_packet", folder=True))
        keys = "offload = false"
        yield Contender(WITHOUT, make(wires_dpu.WiresDpu, False, "af_packet", keys, folder=True))
        yield Contender(DPU_XDP, make(wires_dpu.WiresDpu, True, "af_xdp", folder=True))


def _at_work(one, measure):
    """What `measure` returns of the wires of a contender that forwards."""
    one.switch.begin()
    try:
        return measure(one.switch.wires)
    finally:
        one.switch.rest()


def run(size, repeats=results.REPEATS, requests=REQUESTS, quick=False, peers_only=False):
    """Measure TCP for `size` seconds each time, and round trips; quick: shorter and less often."""
    results.require(PACKAGES)
    if quick:
        size, repeats = QUICK_SECONDS, QUICK_REPEATS
    with contextlib.ExitStack() as stack:
        contenders = list(_contenders(stack, peers_only))
        for one in contenders:
            tcp_containers.serve(one.switch.wires)
        return [*_tcp(contenders, size, repeats), *_round_trips(contenders, requests, repeats)]


def _tcp(contenders, seconds, repeats):
    """Results of one TCP stream, and the DPU's ratios."""

    def sample(one):
        return _at_work(one, lambda pair: tcp_containers.gbit_per_second(pair, seconds))

    rates = results.alternate({one.name: lambda one=one: sample(one) for one in contenders}, repeats)
    for name, values in rates.items():
        yield results.result(f"TCP: {name}", "Gbit/s", values)
    if OFFLOAD in rates:
        for ours, theirs in TCP_RATIOS:
            yield results.ratio(f"TCP: {ours} / {theirs}", rates[ours], rates[theirs], "Gbit/s")
        best_ovs = [max(pair) for pair in zip(*(rates[name] for name in OVS), strict=True)]
        for ours in (OFFLOAD, WITHOUT, DPU_XDP):
            yield results.ratio(f"TCP: {ours} / best OVS", rates[ours], best_ovs, "Gbit/s")


def _round_trips(contenders, requests, repeats):
    """Results of percentiles of round trips, and the DPU's ratios to the bridge."""

    def sample(one):
        return _at_work(one, lambda pair: latency.ping_us(pair, requests))

    taken = results.alternate({one.name: lambda one=one: sample(one) for one in contenders}, repeats)
    for column, percent in enumerate(latency.PERCENTILES):
        times = {name: [figures[column] for figures in samples] for name, samples in taken.items()}
        for name, values in times.items():
            yield results.result(f"ping -A, p{percent}: {name}", "us", values)
        for ours in (OFFLOAD, DPU_XDP) if OFFLOAD in times else ():
            title = f"ping -A, p{percent}: {ours} / {BRIDGE}"
            yield results.ratio(title, times[ours], times[BRIDGE], "us", lower_is_better=True)


if __name__ == "__main__":
    stop_on_signals()
    try:
        results.main(
            "kernel_ports_tcp",
            run,
            2,
            __doc__,
            repeats={"type": int, "default": results.REPEATS, "help": "rounds of measurements"},
            requests={"type": int, "default": REQUESTS, "help": f"echo requests; default: {REQUESTS}"},
            quick={"action": "store_true", "help": f"{QUICK_REPEATS} rounds of {QUICK_SECONDS} s"},
            peers_only={"action": "store_true", "help": "without the DPU"},
        )
    except RuntimeError as error:
        sys.exit(f"bench/kernel_ports_tcp.py: {error}")
