"""What this machine can do at most: the floor under the figures of the other scripts.

Size:    ms a measurement.
Cases:   memcpy, in the cache and beyond; a system call; two threads that wake each other, or hand each other
         a cache line; TCP over loop-back and over a veth pair; packets and round trips over a veth pair with
         nothing between; what the kernel takes for a frame through a TAP, a packet socket's ring and an
         AF_XDP socket's; two virtio rings and a copy from one to the other (bench/bare_ring.py).
CPUs:    compiled loops on CPU 1, a second thread, whoever sends packets, and both ends of a ping on
         CPU 0; iperf3 as in the scripts that it is the floor of: over a veth pair one end on each CPU.
Checks:  every call succeeds, every packet arrives.
bench/possible.py says which figure has which floor.
"""

import contextlib
import os
import time
from functools import partial
from types import SimpleNamespace

import numpy as np

from bench import bare_ring, cpu_distance, latency, limit_loops, results, tcp_containers, vhost_tso
from bench.kernel_ports import BITS_PER_GBIT, PACKETS_PER_MPACKET, check
from bench.limit_ports import PacketRing, Tap, XdpRing
from bench.peers import pairs, ping_pong, wire_load
from bench.peers.hosts import Host, stop_on_signals
from bench.peers.veth import Veth
from bench.peers.wires import Direct
from bench.pinned import in_threads, pinned

CPUS = (0, 1)
SIZE_MS = 250
RING_ENTRIES = {64: 1024, 512: 1024, 1500: 256}  # octets -> entries: few enough for the caches
LARGE_RING_ENTRIES = 16
PINGS_PER_MS = 5
NS = 1e9
CACHED_OCTETS, CACHED_MEMORY_OCTETS = 16 << 10, 256 << 10
FAR_OCTETS, FAR_MEMORY_OCTETS = 1 << 20, 64 << 20
CALLS_PER_MS = 500  # the quickest of them takes more than 100 ns
WAKE_UPS_PER_MS = 30
STREAMS = {"one stream": [], "4 streams": ["-P", "4"]}


def _timed(loop, *args):
    """(what a loop returned, seconds it took)."""
    began = time.perf_counter()
    done = loop(*args)
    return done, time.perf_counter() - began


def on_cpu(function, *args):
    """Call a function on CPU 1."""
    return in_threads(partial(pinned, CPUS[1], function, *args))[0]


def copy_rate(octets, memory_octets, ms):
    """GB/s copied by calls of `octets` within `memory_octets`."""
    source, target = (np.full(memory_octets, fill, np.uint8) for fill in (1, 2))
    count = max(int(ms * 1e6 / octets), 2)  # at 1 GB/s it would take the time; it takes less
    _, seconds = on_cpu(_timed, limit_loops.copy_loop, target, source, np.uint64(octets), count)
    assert target[:octets].all() and target[0] == 1, "nothing was copied"
    return count * octets / seconds / 1e9


def system_call_ns(ms):
    """Time of getppid(2)."""
    count = ms * CALLS_PER_MS
    done, seconds = on_cpu(_timed, limit_loops.getppid_loop, count)
    assert done == count
    return seconds * NS / count


def wake_up_us(cpus, ms):
    """Time that two threads on `cpus` take to wake each other once, there and back."""
    count = ms * WAKE_UPS_PER_MS
    fds = [os.eventfd(0), os.eventfd(0)]
    try:
        bounce = limit_loops.bounce_loop
        there, back = in_threads(
            partial(pinned, cpus[0], _timed, bounce, *fds, np.zeros(1, np.uint64), True, count),
            partial(pinned, cpus[1], _timed, bounce, *fds[::-1], np.zeros(1, np.uint64), False, count),
        )
    finally:
        for fd in fds:
            os.close(fd)
    assert there[0] == back[0] == 2 * count
    return there[1] * 1e6 / count


def memory_and_threads(ms):
    """Samples of what needs no network, by name and unit."""
    return {
        ("memcpy in the cache, 16 KB", "GB/s"): lambda: copy_rate(CACHED_OCTETS, CACHED_MEMORY_OCTETS, ms),
        ("memcpy beyond the caches, 64 MB", "GB/s"): lambda: copy_rate(FAR_OCTETS, FAR_MEMORY_OCTETS, ms),
        ("system call, getppid", "ns"): lambda: system_call_ns(ms),
        ("wake-up there and back, one CPU", "us"): lambda: wake_up_us((1, 1), ms),
        ("wake-up there and back, two CPUs", "us"): lambda: wake_up_us(CPUS, ms),
        ("cache line there and back, two CPUs", "ns"): cpu_distance.measure,
    }


def bare_rings(ms):
    """Samples of bench/bare_ring.py, each with the entries that are best for its octets."""

    def frames(octets, entries):
        return bare_ring.measure(entries, octets, ms / 1e3, CPUS).per_second

    payload_bits = (vhost_tso.FRAME_OCTETS - vhost_tso.HEADER_OCTETS) * 8 / BITS_PER_GBIT
    return {
        **{
            (f"bare ring, {octets} B", "Mpps"): lambda octets=octets, entries=entries: (
                frames(octets, entries) / PACKETS_PER_MPACKET
            )
            for octets, entries in RING_ENTRIES.items()
        },
        ("bare ring, 64 KB", "Gbit/s"): lambda: (
            payload_bits * frames(vhost_tso.FRAME_OCTETS, LARGE_RING_ENTRIES)
        ),
    }


def tcp(stack, ms):
    """Samples of iperf3 over loop-back, and over a veth pair."""
    host = stack.enter_context(Host())
    loop = SimpleNamespace(client=host, server=host, address="127.0.0.1")
    veth = stack.enter_context(Veth(pairs.APART))
    cut = stack.enter_context(Direct(CPUS[1])).wires.without_offloads()
    samples, seconds = {}, max(1, round(ms / 1e3))
    for where, pair, streams in (
        ("loop-back", loop, STREAMS),
        ("a veth pair", veth, STREAMS),
        ("a veth pair", cut, {"no offloads": []}),
    ):
        tcp_containers.serve(pair)
        for title, words in streams.items():
            sample = partial(tcp_containers.gbit_per_second, pair, seconds, words)
            samples[f"TCP over {where}, {title}", "Gbit/s"] = sample
    return samples


def packets(stack, ms):
    """Samples of packets a second over a veth pair that nothing joins to another."""
    program = stack.enter_context(wire_load.built())
    direct = stack.enter_context(Direct(CPUS[1], gro=True))

    def rate(octets):
        count = wire_load.load(program, direct.wires, CPUS[0], octets, ms / 1e3)
        check("a veth pair", count, octets)
        return count.rate / PACKETS_PER_MPACKET

    return {(f"veth pair, {octets} B", "Mpps"): partial(rate, octets) for octets in (64, 1500)}


def round_trips(stack, ms):
    """Samples of round trips over a veth pair, all on CPU 0: there is no idle one that must wake first.

    Each gives {figure: us}.
    """
    program = stack.enter_context(ping_pong.built())
    veth = stack.enter_context(Veth((str(CPUS[0]),) * 2))
    ping_pong.serve(program, veth)
    requests = ms * PINGS_PER_MS

    def ask(protocol):
        times = ping_pong.ask(program, veth, protocol, latency.MESSAGE_OCTETS, ms / 1e3)
        return {f"p{percent}": times.us(percent) for percent in latency.PING_PONG_PERCENTILES}

    def ping():
        names = [f"p{percent}" for percent in latency.PERCENTILES]
        return dict(zip(names, latency.ping_us(veth, requests), strict=True))

    return {
        "ping -f": lambda: {"mean": latency.flood_us(veth, requests)},
        "ping -A": ping,
        "TCP ping-pong": lambda: ask(ping_pong.TCP),
        "UDP ping-pong": lambda: ask(ping_pong.UDP),
    }


def ports(stack, ms):
    """Samples of what a frame costs in the kernel, by the kind of port."""
    tap = stack.enter_context(Tap())
    wires = stack.enter_context(Direct(CPUS[1])).wires
    packet, xdp = (stack.enter_context(kind(wires.near.pid)) for kind in (PacketRing, XdpRing))
    return {
        ("TAP, 64 B, read and write", "us"): lambda: on_cpu(tap.frame_us, 64, ms),
        ("TAP, 64 KB, read and write", "us"): lambda: on_cpu(tap.frame_us, vhost_tso.FRAME_OCTETS, ms),
        ("af_packet socket, 64 B, transmit", "us"): lambda: on_cpu(packet.frame_us, 64, ms),
        ("af_packet socket, 1500 B, transmit", "us"): lambda: on_cpu(packet.frame_us, 1500, ms),
        ("af_xdp socket, 64 B, transmit", "us"): lambda: on_cpu(xdp.frame_us, 64, ms),
        ("af_xdp socket, 1500 B, transmit", "us"): lambda: on_cpu(xdp.frame_us, 1500, ms),
    }


def run(size, repeats=results.REPEATS):
    """Measure all of it, `size` ms each time; returns the figures of this machine."""
    with contextlib.ExitStack() as stack:
        samples = {
            **memory_and_threads(size),
            **bare_rings(size),
            **ports(stack, size),
            **packets(stack, size),
            **tcp(stack, size),
        }
        taken = results.alternate(samples, repeats)
        made = [results.result(name, unit, values) for (name, unit), values in taken.items()]
        trips = results.alternate(round_trips(stack, size), repeats)
    for title, times in trips.items():
        for figure in times[0]:
            values = [sample[figure] for sample in times]
            made.append(results.result(f"{title}, {figure}, over a veth pair", "us", values))
    return made


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "limits",
        run,
        SIZE_MS,
        __doc__,
        repeats={"type": int, "default": results.REPEATS, "help": "rounds of measurements"},
    )
