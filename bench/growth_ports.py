"""Of bench/growth.py what needs ports: more of them, larger packets, more workers, rules beside nftables."""

import contextlib
import os
import tempfile
import time
from functools import partial

import numpy as np

from bench import attach, growth_loops, host_programs, kernel_ports, results, tcp_containers
from bench.peers import dpu, pairs, testpmd, vhost_dpu
from bench.peers.containers import Containers
from bench.peers.host_pair import HostPair, built
from bench.peers.hugepages import hugepages
from bench.peers.nftables import LIST, Nftables
from dpu_runtime.plane.worker_thread import tsc_hz

SENDER_CPU, SWITCH_CPU = 0, 1
PORTS = (2, 10, 100, 500)
OCTETS = (64, 256, 1024, 1500, 9000, 65_214)  # of a frame without FCS
UNCUT_OCTETS_MAX = 1514  # larger ones are TCP segments to be cut, with their checksum owed
SEGMENT_OCTETS = 1448
RING_ENTRIES = 256
RULES = (1, 100, 10_000)
WORKERS = {1: (1,), 2: (0, 1)}  # CPUs
WORKER_REPEATS_MAX = 3  # no peer is compared, and a measurement takes a second
STREAMS = ("-P", "4")
WARM_UP_SECONDS = 0.05
QUIET_SECONDS = 0.05  # without a packet: nothing is under way
HUGEPAGES_MB = testpmd.MEMORY_MB + 64
MPACKETS = 1e6


def ports(ms, repeats, counts=PORTS):
    """Results of packets between one pair of TAP ports and between all pairs, with more and more ports."""
    made = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))
        daemon = stack.enter_context(dpu.Dpu(folder, SWITCH_CPU))
        containers, wires = [], []
        for count in counts:
            while len(containers) < count:
                containers.append(stack.enter_context(attach.Container(len(containers))))
                attach.attach(daemon, containers[-1])
                wires.append(stack.enter_context(containers[-1].open_wire()))
                known = containers[0].mac if wires[1:] else attach.BROADCAST
                wires[-1].send(containers[-1].frame(known))  # so that the switch learns where it is
            samples = {
                f"ports, {count}: DPU, {which}": partial(spray, daemon, containers[:used], wires, ms / 1e3)
                for which, used in (("one pair talks", 2), ("all pairs talk", count))
            }
            for name, taken in results.alternate(samples, repeats).items():
                made.append(results.result(name, "Mpps", [mpps for mpps, _ in taken]))
                made.append(results.result(f"{name}, lost", "% of sent", [lost for _, lost in taken]))
    return made


def spray(daemon, containers, wires, seconds):
    """(Mpps that were forwarded, % of what was sent that was not) from each even container to the next."""
    senders = range(0, len(containers), 2)
    fds = np.array([wires[n].fileno() for n in senders], np.int32)
    frames = [np.frombuffer(containers[n].frame(containers[n + 1].mac), np.uint8) for n in senders]
    before, began = daemon.call("stats")["balance"], time.monotonic()
    os.sched_setaffinity(0, {SENDER_CPU})
    try:
        ticks = np.uint64(seconds * tsc_hz())
        sent, refused = growth_loops.spray_loop(fds, np.array(frames), ticks)
    finally:
        os.sched_setaffinity(0, range(os.cpu_count()))
    after, ended = daemon.call("stats")["balance"], time.monotonic()
    forwarded = after["transmitted"] - before["transmitted"]
    assert forwarded > 0, f"nothing was forwarded among {len(containers)} ports"
    arrived = settle(daemon)["transmitted"] - before["transmitted"]
    return forwarded / (ended - began) / MPACKETS, 100 * (1 - arrived / (sent + refused))


def settle(daemon):
    """The balance once nothing comes any more."""
    received = -1
    while (balance := daemon.stats()["balance"])["received"] != received:
        received = balance["received"]
        time.sleep(QUIET_SECONDS)
    return balance


def sizes(ms, repeats, octets=OCTETS):
    """Results of larger and larger packets through two vhost-user ports, beside testpmd."""
    made = []
    with hugepages(HUGEPAGES_MB), built() as program, contextlib.ExitStack() as stack:

        def sockets():
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))
            return folder, [f"{folder}/vhost{number}.sock" for number in range(2)]

        folder, paths = sockets()
        ours = stack.enter_context(vhost_dpu.VhostDpu(paths, SWITCH_CPU, folder, vhost_dpu.SWITCHED))
        _, paths = sockets()
        peer = stack.enter_context(testpmd.BackEnd(paths, SWITCH_CPU, options=testpmd.TSO))
        peer.rest()
        for size in octets:
            samples = {
                "DPU": partial(carry, program, ours, vhost_dpu.SWITCHED, size, ms / 1e3),
                "testpmd io": partial(carry, program, peer, "io", size, ms / 1e3),
            }
            taken = results.alternate(samples, repeats)
            rates = {name: [gbit for gbit, _ in values] for name, values in taken.items()}
            for name, values in taken.items():
                title = f"packet size, {size}: {name}"
                made.append(results.result(title, "Gbit/s", rates[name]))
                made.append(results.result(f"{title}, lost", "packets", [lost for _, lost in values]))
            title = f"packet size, {size}: DPU / testpmd io"
            made.append(results.ratio(title, rates["DPU"], rates["testpmd io"], "Gbit/s"))
    return made


def carry(program, switch, variant, octets, seconds):
    """(Gbit/s of whole frames that arrived, packets lost)."""
    options = ["-t", seconds, "-u", WARM_UP_SECONDS, "-s", octets, "-q", RING_ENTRIES]
    options += ["-m", SEGMENT_OCTETS] if octets > UNCUT_OCTETS_MAX else []
    switch.begin(variant)
    try:
        with HostPair(program, switch.sockets, SENDER_CPU, *options) as pair:
            pair.wait_ready()
            counted, total, _ = pair.finish(seconds)
    finally:
        switch.rest()
    host_programs.check(counted, total)
    return counted.whole * octets * 8 / counted.seconds / kernel_ports.BITS_PER_GBIT, total.lost


def workers(seconds, repeats):
    """Results of four TCP streams between two containers, with one worker and with two."""
    with contextlib.ExitStack() as stack:
        samples = {}
        for count, cpus in WORKERS.items():
            pair = stack.enter_context(Containers(pairs.APART, workers=cpus))
            pair.wait_for_standby()
            tcp_containers.serve(pair)
            samples[count] = partial(tcp_containers.gbit_per_second, pair, seconds, STREAMS)
        rates = results.alternate(samples, min(repeats, WORKER_REPEATS_MAX))
    return [
        results.result(f"workers of TAP ports, {count}: DPU, TCP, 4 streams", "Gbit/s", values)
        for count, values in rates.items()
    ]


def rules(seconds, repeats, counts=RULES):
    """Results of a TCP stream between two containers with more and more rules, beside nftables."""
    made = []
    with Containers(pairs.APART) as ours:
        ours.wait_for_standby()
        tcp_containers.serve(ours)
        for count in counts:
            ours.set_rules(count)
            with Nftables(pairs.APART, count, LIST) as theirs:
                tcp_containers.serve(theirs)
                samples = {
                    name: partial(tcp_containers.gbit_per_second, pair, seconds)
                    for name, pair in (("DPU", ours), (theirs.name, theirs))
                }
                rates = results.alternate(samples, repeats)
            for name, values in rates.items():
                made.append(results.result(f"rules, {count}: {name}", "Gbit/s", values))
            made.append(results.ratio(f"rules, {count}: DPU / {theirs.name}", *rates.values(), "Gbit/s"))
    return made
