"""Packets a second from one veth pair to another through ports of each socket kind, alternating.

    near eth0 ---- port0 [what is measured] port1 ---- eth0 far

Beside:  DPDK's testpmd with net_af_packet and net_af_xdp, Open vSwitch's user-space datapath with packet
         sockets and with afxdp, a Linux bridge; and no switch at all, which is what the sender can do.
CPUs:    the sender on CPU 0, with the interrupt of port0 that it causes: receiving, up to the ring or through
         the bridge. What is measured on CPU 1, with the interrupt of far's eth0.
Size:    ms a measurement, after a warm-up. As much is sent as goes, which nobody forwards whole, so the rate
         that arrives is what counts; then little by the clock, of which nothing should be lost.
Checks:  what arrives has the octets and the order it was sent with, and the counters agree (wire_load.c).
"""

import contextlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from bench import results
from bench.peers import ovs_kernel, testpmd, wire_load, wires, wires_dpu
from bench.peers.cpu_time import raise_priority, undisturbed, waited_seconds
from bench.peers.hosts import stop_on_signals
from bench.peers.hugepages import hugepages

PACKAGES = {testpmd.PROGRAM: "dpdk-dev", ovs_kernel.SWITCH: "openvswitch-switch-dpdk", "ethtool": "ethtool"}
SENDER_CPU, SWITCH_CPU = 0, 1
FRAME_OCTETS = (64, 1500)
BITS_PER_GBIT, PACKETS_PER_MPACKET = 1e9, 1e6
EASY_RATE, EASY_OCTETS, EASY_REPEATS = 50_000, 64, 3  # packets a second
QUICK_MS, QUICK_REPEATS = 300, 2
AF_PACKET, AF_XDP = "af_packet", "af_xdp"
# Those of one driver compete, the best counts.
TESTPMD = {
    "testpmd net_af_packet": (AF_PACKET, "net_af_packet", ",qdisc_bypass=1"),
    "testpmd net_af_packet, long rings": (
        AF_PACKET,
        "net_af_packet",
        ",blocksz=4096,framesz=2048,framecnt=4096,qdisc_bypass=1",
    ),
    "testpmd net_af_xdp": (AF_XDP, "net_af_xdp", ",busy_budget=0"),
    "testpmd net_af_xdp, busy poll": (AF_XDP, "net_af_xdp", ",busy_budget=256"),
}
HUGEPAGES_MB = len(TESTPMD) * testpmd.MEMORY_MB + 64


@dataclass(frozen=True)
class Contender:
    """Something that joins wires (bench/peers/wires.py).

    kind   of its sockets; None: it has none
    group  whose figures are the best of its members
    """

    name: str
    switch: Any
    kind: str | None = None
    group: str = ""


@dataclass(frozen=True)
class Sample:
    """One measurement: a wire_load.Count, and how much of the CPU of what is measured others had."""

    count: wire_load.Count
    stolen_percent: float

    @property
    def arrived(self):
        """Whether a packet arrived."""
        return self.count.frames > 0


def check(name, count, octets):
    """Fail unless what arrived is what was sent."""
    assert count.frames > 0, f"{name}: no packet of {octets} octets arrived"
    assert count.checked > 0 or count.total_frames < 10_000, f"{name}: no packet could be compared"
    assert count.damaged == 0, f"{name}: {count.damaged} of {count.checked} packets arrived with other octets"
    assert count.repeated == 0, f"{name}: {count.repeated} packets arrived twice"
    assert count.reordered == 0, f"{name}: {count.reordered} packets came after later ones"
    assert count.total_frames <= count.total_sent, f"{name}: more packets arrived than were sent: {count}"
    assert count.total_octets == count.total_frames * octets, f"{name}: of another length: {count}"


def measure(program, contender, octets, seconds, rate=None):
    """One Sample of frames of `octets`."""
    switch = contender.switch
    switch.begin()
    try:
        before, began = waited_seconds(switch.pids), time.monotonic()
        count = wire_load.load(program, switch.wires, SENDER_CPU, octets, seconds, rate)
        stolen = (waited_seconds(switch.pids) - before) / (time.monotonic() - began)
    finally:
        switch.rest()
    if count.frames:
        check(contender.name, count, octets)
    return Sample(count, 100 * stolen)


def measure_undisturbed(program, contender, octets, seconds):
    """The first Sample with the switch's core to itself, else the best. AssertionError: nothing arrived."""
    sample = undisturbed(lambda: measure(program, contender, octets, seconds))
    assert sample.arrived, f"{contender.name}: no packet of {octets} octets arrived"
    return sample


def run(size, repeats=results.REPEATS, quick=False, peers_only=False, priority=False):
    """Measure all of it, `size` ms each time; returns rates, losses and ratios.

    quick     shorter and less often
    priority  before all others on both CPUs, where the machine is shared
    """
    results.require(PACKAGES)
    seconds, repeats = (QUICK_MS / 1e3, QUICK_REPEATS) if quick else (size / 1e3, repeats)
    made, stolen = [], []
    with hugepages(HUGEPAGES_MB), wire_load.built() as program, contextlib.ExitStack() as stack:
        contenders = list(_contenders(stack, peers_only))
        if priority:
            raise_priority({os.getpid(), *(pid for one in contenders for pid in one.switch.pids)})
        for octets in FRAME_OCTETS:
            made += _compare(program, contenders, octets, seconds, repeats, stolen)
        made += _easy(program, contenders, seconds)
    return [*made, results.result("time of CPU 1 that others had", "%", stolen)]


def _contenders(stack, peers_only):
    """All that can join two wires, each on wires of its own, at rest."""

    def make(switch, *args, **options):
        made = stack.enter_context(switch(*args, **options))
        made.rest()
        return made

    def joined(switch, *args, folder=False, **options):
        where = stack.enter_context(wires.Wires(SWITCH_CPU, gro=True))
        folders = [stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))] if folder else []
        return make(switch, where, SWITCH_CPU, *folders, *args, **options)

    yield Contender("no switch", make(wires.Direct, SWITCH_CPU, gro=True))
    yield Contender("bridge", make(wires.KernelBridge, SWITCH_CPU, gro=True), group="bridge")
    for name, (kind, driver, options) in TESTPMD.items():
        yield Contender(name, joined(testpmd.KernelPorts, driver, options), kind, "testpmd")
    for name, kind in (("OVS, packet sockets", AF_PACKET), ("OVS, afxdp", AF_XDP)):
        ovs = joined(ovs_kernel.OvsKernel, folder=True, afxdp=kind == AF_XDP)
        yield Contender(name, ovs, kind, "OVS")
    for kind in () if peers_only else (AF_PACKET, AF_XDP):
        dpu = joined(wires_dpu.WiresDpu, kind, folder=True)
        print(f"DPU, {kind}: {'; '.join(dpu.notes()) or 'everything that was asked for'}")
        yield Contender(f"DPU, {kind}", dpu, kind, "DPU")


def _compare(program, contenders, octets, seconds, repeats, stolen):
    """Results of one frame size: rates, losses, and the DPU's ratios to each group of peers."""

    def sample(one):
        return measure_undisturbed(program, one, octets, seconds)

    taken = results.alternate({one.name: lambda one=one: sample(one) for one in contenders}, repeats)
    rates = {name: [sample.count.rate for sample in samples] for name, samples in taken.items()}
    for name, samples in taken.items():
        stolen.extend(sample.stolen_percent for sample in samples)
        title = f"{octets} B: {name}"
        yield results.result(title, "Mpps", [rate / PACKETS_PER_MPACKET for rate in rates[name]])
        if octets == max(FRAME_OCTETS):
            bits = [rate * octets * 8 / BITS_PER_GBIT for rate in rates[name]]
            yield results.result(f"{title}, octets", "Gbit/s", bits)
        sent = [sample.count.sent_rate / PACKETS_PER_MPACKET for sample in samples]
        yield results.result(f"{title}, sent", "Mpps", sent)
        yield results.result(f"{title}, lost", "% of sent", [s.count.lost_percent for s in samples])
    for ours in (one for one in contenders if one.group == "DPU"):
        for group in ("testpmd", "OVS", "bridge"):
            peers = [one for one in contenders if one.group == group and one.kind in (ours.kind, None)]
            best = [max(pair) for pair in zip(*(rates[one.name] for one in peers), strict=True)]
            mpps = [[rate / PACKETS_PER_MPACKET for rate in side] for side in (rates[ours.name], best)]
            yield results.ratio(f"{octets} B: {ours.name} / {group}", *mpps, "Mpps")


def _easy(program, contenders, seconds):
    """Results of what is lost at a rate that all of them can forward."""
    taken = results.alternate(
        {
            one.name: lambda one=one: measure(program, one, EASY_OCTETS, seconds, EASY_RATE).count
            for one in contenders
        },
        EASY_REPEATS,
    )
    for name, counts in taken.items():
        assert all(count.frames for count in counts), f"{name}: no packet of {EASY_OCTETS} octets arrived"
        lost = [count.total_sent - count.total_frames for count in counts]
        yield results.result(f"{EASY_OCTETS} B, {EASY_RATE // 1000} kpps: {name}, lost", "packets", lost)


if __name__ == "__main__":
    stop_on_signals()
    try:
        results.main(
            "kernel_ports",
            run,
            800,
            __doc__,
            repeats={"type": int, "default": results.REPEATS, "help": "rounds of measurements"},
            quick={"action": "store_true", "help": f"{QUICK_REPEATS} rounds of {QUICK_MS} ms"},
            priority={"action": "store_true", "help": "run before all else, on a machine with other work"},
            peers_only={"action": "store_true", "help": "without the DPU"},
        )
    except RuntimeError as error:
        sys.exit(f"bench/kernel_ports.py: {error}")
