"""TCP segments of 64 KB through vhost-user ports: the DPU beside DPDK's testpmd and OVS-DPDK, alternating.

Client:  a sender and a receiver on libdpu, in turns on CPU 0, what is measured on CPU 1; who has not its turn
         sleeps. A packet is handed over with its checksum owed, to be cut to 1448 octets; half a ring of
         QEMU's size is under way. Only headers are written and looked at: the payload is touched by nobody
         but what is measured. To Open vSwitch, which connects, the client listens.
Cases:   loop-back and port to port, bare and with --rules rules; testpmd in its mode io with `tso=1` and
         `legacy-ol-flags=1`, without which the offload fields do not reach the other side; Open vSwitch with
         `userspace-tso-enable`.
Figures: Gbit/s of payload; octets of payload a packet at the receiver, and how many are still owed there;
         what was lost from the connection on, warm-up included.
Size:    ms a measurement, after a warm-up.
Checks:  a part of what arrives is compared octet by octet; no buffer is missing. A measurement in which
         others had the CPUs is taken again (bench/peers/cpu_time.py).
"""

import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial

from bench import results
from bench.host_programs import check
from bench.peers import ovs_dpdk, testpmd, vhost_dpu
from bench.peers.cpu_time import raise_priority, undisturbed, waited_seconds
from bench.peers.host_pair import HostPair, Line, built
from bench.peers.hosts import stop_on_signals
from bench.peers.hugepages import hugepages
from bench.peers.ovs import JOINED, LOOPED, SWITCHED
from bench.vhost_user import PACKAGES

PROGRAM_CPU, SWITCH_CPU = 0, 1
HEADER_OCTETS = 14 + 20 + 20  # Ethernet, IPv4, TCP
SEGMENT_OCTETS = 1448
FRAME_OCTETS = HEADER_OCTETS + 45 * SEGMENT_OCTETS  # as near to 64 KB as whole segments come
RING_ENTRIES = 256  # QEMU's default
WARM_UP_SECONDS = 0.3
RULES = 1000
HUGEPAGES_MB = 2 * testpmd.MEMORY_MB + 2 * ovs_dpdk.MEMORY_MB
PROGRAM_OPTIONS = ["-s", FRAME_OCTETS, "-m", SEGMENT_OCTETS, "-q", RING_ENTRIES, "-u", WARM_UP_SECONDS]


@dataclass(frozen=True)
class Contender:
    """Something between the ports of the client, in one of its variants."""

    name: str
    switch: object
    variant: str


@dataclass(frozen=True)
class Sample:
    """One measurement: counted and total of `HostPair.finish`, and what others had of both CPUs."""

    counted: Line
    total: Line
    stolen_percent: float

    @property
    def arrived(self):
        """Whether a packet arrived."""
        return self.counted.frames > 0

    @property
    def gbit(self):
        """Gbit/s of payload."""
        return self.counted.octets * 8 / self.counted.seconds / 1e9

    @property
    def packet_octets(self):
        """Octets of payload of a received packet, mean."""
        return self.counted.octets / self.counted.frames

    @property
    def owed_percent(self):
        """Received packets that say how to cut them and whose checksum is owed."""
        return 100 * self.counted.owed / self.counted.frames


def measure(program, one, seconds, priority=False):
    """One Sample of a Contender."""
    switch = one.switch
    options = [*PROGRAM_OPTIONS, "-t", seconds, *(["-L"] if switch.client_listens else [])]
    switch.begin(one.variant)
    try:
        with HostPair(program, switch.sockets, PROGRAM_CPU, *options) as pair:
            pair.wait_ready()
            if priority:
                raise_priority({*pair.pids, *switch.pids})
            began, before = time.monotonic(), waited_seconds(switch.pids)
            counted, total, _ = pair.finish(seconds)
            stolen = (waited_seconds(switch.pids) - before) / (time.monotonic() - began)
    finally:
        switch.rest()
    check(counted, total)
    stolen += counted.waited_ns / 1e9 / counted.seconds
    return Sample(counted, total, 100 * stolen / 2)


def run(size, repeats=results.REPEATS, rules=RULES, priority=False):
    """Measure all of it, `size` ms each time; `priority`: before all others on both CPUs."""
    results.require(PACKAGES)
    made, stolen = [], []
    with hugepages(HUGEPAGES_MB), built() as program:
        take = partial(measure, program, seconds=size / 1e3, priority=priority)
        for title, ports in (("loop-back", 1), ("port to port", 2)):
            with contextlib.ExitStack() as stack:
                made += _compare(title, list(contenders(stack, ports, rules)), take, repeats, stolen)
    return [*made, results.result("time of both CPUs that others had", "%", stolen)]


def contenders(stack, ports, rules):
    """All that can stand between `ports` ports of the client, at rest."""
    variants = {"bare": LOOPED}
    if ports == 2:
        variants = {"bare": JOINED, f"{rules} rules": SWITCHED}

    def attach(make, **options):
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))
        if make is not testpmd.BackEnd:
            options["folder"] = folder
        sockets = [f"{folder}/vhost{number}.sock" for number in range(ports)]
        switch = stack.enter_context(make(sockets, SWITCH_CPU, **options))
        switch.rest()
        return switch

    yield Contender("testpmd io", attach(testpmd.BackEnd, options=testpmd.TSO), "io")
    ovs = attach(ovs_dpdk.OvsDpdk, rules=rules, tso=True)
    for name, variant in variants.items():
        yield Contender(f"OVS-DPDK, {name}", ovs, variant)
    for name, variant in variants.items():
        dpu = attach(vhost_dpu.VhostDpu, variant=variant, rules=rules)
        yield Contender(f"DPU, {name}", dpu, variant)


def _compare(title, made, take, repeats, stolen):
    """Results of each contender, and the DPU's ratios to what does the same work."""
    samples = {one.name: partial(undisturbed, partial(take, one)) for one in made}
    taken = results.alternate(samples, repeats)
    rates = {name: [one.gbit for one in case] for name, case in taken.items()}
    title = f"{title}, 64 KB"
    for name, case in taken.items():
        stolen.extend(one.stolen_percent for one in case)
        yield results.result(f"{title}: {name}", "Gbit/s", rates[name])
        yield results.result(f"{title}: {name}, a packet", "octets", [one.packet_octets for one in case])
        yield results.result(
            f"{title}: {name}, still owed", "% of received", [one.owed_percent for one in case]
        )
        yield results.result(f"{title}: {name}, lost", "packets", [one.total.lost for one in case])
    for ours in (name for name in rates if name.startswith("DPU")):
        for theirs in ("testpmd io", ours.replace("DPU", "OVS-DPDK")):
            yield results.ratio(f"{title}: {ours} / {theirs}", rates[ours], rates[theirs], "Gbit/s")


if __name__ == "__main__":
    stop_on_signals()
    try:
        results.main(
            "vhost_tso",
            run,
            800,
            __doc__,
            repeats={"type": int, "default": results.REPEATS, "help": "rounds of measurements"},
            rules={"type": int, "default": RULES, "help": f"rules of the full pipeline; default: {RULES}"},
            priority={"action": "store_true", "help": "run before all else, on a machine with other work"},
        )
    except RuntimeError as error:
        sys.exit(f"bench/vhost_tso.py: {error}")
