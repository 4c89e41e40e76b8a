"""Packets a second through vhost-user ports: the DPU beside DPDK's testpmd and OVS-DPDK, alternating.

Client: testpmd's virtio-user ports on CPU 0, what is measured on CPU 1; who has not its turn sleeps.
        Its packets go round: each port sends 512 and then returns what it receives.
Cases:  loop-back, one port, each packet goes back to where it came from; port to port, two of them, bare
        (joined by a fixed rule) and as a switch that has learned both addresses and has --rules rules.
Size:   ms a measurement, after a warm-up.
Checks: packets arrive. A measurement in which others had the CPUs is taken again (bench/peers/cpu_time.py);
        how much they had in those that count is a figure of its own.
Not:    64 KB TSO: testpmd makes no TCP; that is vhost_tso.py.
"""

import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from bench import results
from bench.peers import ovs_dpdk, testpmd, vhost_dpu
from bench.peers.cpu_time import raise_priority, undisturbed, waited_seconds
from bench.peers.hosts import stop_on_signals
from bench.peers.hugepages import hugepages
from bench.peers.ovs import JOINED, LOOPED, SWITCHED

PACKAGES = {testpmd.PROGRAM: "dpdk-dev", ovs_dpdk.SWITCH: "openvswitch-switch-dpdk"}
CLIENT_CPU, SWITCH_CPU = 0, 1
FRAME_OCTETS = (64, 512, 1500)
RULES = 1000
WARM_UP_SECONDS = 0.2
QUICK_MS, QUICK_REPEATS = 300, 2
PACKETS_PER_MPACKET = 1e6
# Two testpmds and their clients, Open vSwitch: what they take in huge pages, with some more for rounding.
HUGEPAGES_MB = 4 * testpmd.MEMORY_MB + ovs_dpdk.MEMORY_MB + 128


@dataclass(frozen=True)
class Contender:
    """Something between the ports of a client, in one of its variants.

    full  it takes each packet through a switch and rules
    """

    name: str
    client: Any
    switch: Any
    variant: str
    full: bool = False


@dataclass(frozen=True)
class Sample:
    """One measurement: testpmd's Rate at the client, and how much of both CPUs others had."""

    rate: testpmd.Rate
    stolen_percent: float

    @property
    def arrived(self):
        """Whether the client received a packet."""
        return self.rate.received > 0


def measure(contender, octets, seconds):
    """One Sample of frames of `octets`."""
    client, switch = contender.client, contender.switch
    switch.begin(contender.variant)
    try:
        client.command(f"set txpkts {octets}")
        client.start("io", testpmd.FIRST_BURSTS)
        time.sleep(WARM_UP_SECONDS)
        pids = [*client.pids, *switch.pids]
        before, began = waited_seconds(pids), time.monotonic()
        rate = client.rate(seconds)
        stolen = (waited_seconds(pids) - before) / (time.monotonic() - began)
        client.stop()
    finally:
        switch.rest()
    return Sample(rate, 100 * stolen / 2)


def measure_undisturbed(contender, octets, seconds):
    """The first Sample with both cores to itself, else the best of some. AssertionError: nothing arrived."""
    sample = undisturbed(lambda: measure(contender, octets, seconds))
    assert sample.arrived, f"{contender.name}: no packet of {octets} octets arrived"
    return sample


def run(
    size,
    repeats=results.REPEATS,
    rules=RULES,
    octets=FRAME_OCTETS,
    quick=False,
    peers_only=False,
    priority=False,
):
    """Measure all of it, `size` ms each time; returns rates, losses and ratios.

    octets    frames of these sizes
    quick     shorter and less often
    priority  before all others on both CPUs, where the machine is shared
    """
    results.require(PACKAGES)
    seconds, repeats = (QUICK_MS / 1e3, QUICK_REPEATS) if quick else (size / 1e3, repeats)
    made, stolen = [], []
    with hugepages(HUGEPAGES_MB):
        for title, ports in (("loop-back", 1), ("port to port", 2)):
            with contextlib.ExitStack() as stack:
                contenders = list(_contenders(stack, ports, rules, peers_only))
                if priority:
                    raise_priority(
                        {pid for one in contenders for pid in (*one.client.pids, *one.switch.pids)}
                    )
                for frame in octets:
                    made += _compare(f"{title}, {frame} B", contenders, frame, seconds, repeats, stolen)
    return [*made, results.result("time of both CPUs that others had", "%", stolen)]


def _contenders(stack, ports, rules, peers_only):
    """All that can stand between the ports of a client, each with a client of its own, at rest."""

    def attach(make, **options):
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))
        sockets = [f"{folder}/vhost{number}.sock" for number in range(ports)]
        if make is not testpmd.BackEnd:
            options["folder"] = folder
        switch = stack.enter_context(make(sockets, SWITCH_CPU, **options))
        client = stack.enter_context(testpmd.client(sockets, CLIENT_CPU, switch.client_listens))
        switch.rest()
        return client, switch

    back_end = attach(testpmd.BackEnd)
    for mode in ("io", "macswap"):
        yield Contender(f"testpmd {mode}", *back_end, mode)
    variants = {"bare": LOOPED}
    if ports == 2:
        variants = {"bare": JOINED, f"{rules} rules": SWITCHED}
    ovs = attach(ovs_dpdk.OvsDpdk, rules=rules)
    for name, variant in variants.items():
        yield Contender(f"OVS-DPDK, {name}", *ovs, variant, full=variant == SWITCHED)
    for name, variant in () if peers_only else variants.items():
        dpu = attach(vhost_dpu.VhostDpu, variant=variant, rules=rules)
        yield Contender(f"DPU, {name}", *dpu, variant, full=variant == SWITCHED)


def _compare(title, contenders, octets, seconds, repeats, stolen):
    """Results of one frame size: rates, losses, and the DPU's ratios to what does the same work."""
    taken = results.alternate(
        {one.name: lambda one=one: measure_undisturbed(one, octets, seconds) for one in contenders}, repeats
    )
    rates = {
        name: [sample.rate.received / PACKETS_PER_MPACKET for sample in samples]
        for name, samples in taken.items()
    }
    for name, samples in taken.items():
        stolen.extend(sample.stolen_percent for sample in samples)
        yield results.result(f"{title}: {name}", "Mpps", rates[name])
        lost = [sample.rate.lost_percent for sample in samples]
        yield results.result(f"{title}: {name}, lost", "% of sent", lost)
    for ours in (one for one in contenders if one.name.startswith("DPU")):
        for theirs in contenders:
            if not theirs.name.startswith("DPU") and (
                theirs.full == ours.full or theirs.name == "testpmd io"
            ):
                sides = rates[ours.name], rates[theirs.name]
                yield results.ratio(f"{title}: {ours.name} / {theirs.name}", *sides, "Mpps")


if __name__ == "__main__":
    stop_on_signals()
    try:
        results.main(
            "vhost_user",
            run,
            800,
            __doc__,
            repeats={"type": int, "default": results.REPEATS, "help": "rounds of measurements"},
            rules={"type": int, "default": RULES, "help": f"rules of the full pipeline; default: {RULES}"},
            octets={"type": int, "nargs": "+", "default": FRAME_OCTETS, "help": "sizes of frames"},
            quick={"action": "store_true", "help": f"{QUICK_REPEATS} rounds of {QUICK_MS} ms"},
            priority={"action": "store_true", "help": "run before all else, on a machine with other work"},
            peers_only={"action": "store_true", "help": "without the DPU"},
        )
    except RuntimeError as error:
        sys.exit(f"bench/vhost_user.py: {error}")
