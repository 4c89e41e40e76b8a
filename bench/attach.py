"""Containers on and off the DPU: milliseconds for one, and for many in a row, memory of a port, and traffic.

Size:   containers in a row, in network namespaces that were made before.
Cases:  one, by the API, `dpu attach` and `dpu-cni`, with no other port there; then many in a row by the API,
        those with the fewest others there beside those with the most: what containers cost each other.
Checks: with all of them there, random pairs send each other numbered packets: each arrives once, where it
        belongs, and the counters of every port are exactly what was sent. In the end no row is used.
"""

import contextlib
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench import results
from bench.peers import dpu
from bench.peers.hosts import run as run_here
from bench.peers.hosts import stop_on_signals
from dpu_runtime.drivers.linux.netns import open_netns, run_in_netns, run_in_new_netns
from dpu_runtime.engines.cni.install import install

WORKER_CPU = 1
CONTAINERS, PAIRS = 500, 1000
ENDS = 50  # containers: the first and the last of those in a row
FRAMES = 20  # packets of a pair
ETHERTYPE = 0x88B5  # for experiments, IEEE 802, 9.2.4
FRAME_OCTETS = 64
RECEIVE_BYTES = 1 << 20
ARRIVAL_SECONDS_MAX = 5.0
IFNAME = "eth0"
MS_PER_SECOND = 1e3
CLI = Path(sys.executable).with_name("dpu")
BROADCAST = b"\xff" * 6
SEED = 4


def _quiet_netns():
    """Descriptor of the calling thread's namespace, which sends nothing of its own accord: no IPv6."""
    for which in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6").write_text("1")
    return open_netns(None)


class Container:
    """A network namespace without a process, open as long as this is."""

    def __init__(self, number):
        self.number = number
        self.name = f"c{number}"
        self.mac = bytes((2, 0, 0, 8, number // 256, number % 256))
        self._fd = run_in_new_netns(_quiet_netns)
        self.netns = f"/proc/{os.getpid()}/fd/{self._fd}"
        self.port = {
            "name": self.name,
            "kind": "tap",
            "netns": self.netns,
            "ifname": IFNAME,
            "mac": self.mac.hex(":"),
            "address": [f"10.8.{number // 250}.{number % 250 + 2}/16"],
        }

    def open_wire(self):
        """A packet socket on the interface, for frames of ETHERTYPE."""

        def inside():
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            wire.bind((IFNAME, ETHERTYPE))
            return wire

        return run_in_netns(self.netns, inside)

    def frame(self, destination, number=0):
        """A frame to a MAC address, with this container's number and its own."""
        head = destination + self.mac + ETHERTYPE.to_bytes(2, "big")
        return (head + self.number.to_bytes(4, "big") + number.to_bytes(8, "big")).ljust(
            FRAME_OCTETS, b"\xa5"
        )

    def close(self):
        """Let the namespace go."""
        os.close(self._fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def timed_ms(function, *args, **keys):
    """Milliseconds that a call takes."""
    began = time.perf_counter()
    function(*args, **keys)
    return (time.perf_counter() - began) * MS_PER_SECOND


def attach(daemon, container):
    """Have a port in the container, by the API."""
    daemon.call("port.add", **container.port)


def detach(daemon, container):
    """Have the port no more, by the API."""
    assert daemon.call("port.detach", name=container.name)["names"] == [container.name]


def _by_command(daemon, container):
    """Milliseconds of `dpu attach` and of `dpu detach`."""
    port = container.port
    words = ["--netns", port["netns"], "--mac", port["mac"], "--address", *port["address"]]
    begin = [CLI, "--socket", daemon.socket]
    on = timed_ms(run_here, [*begin, "attach", "--name", port["name"], *words])
    return on, timed_ms(run_here, [*begin, "detach", port["name"]])


def _by_cni(daemon, container):
    """Milliseconds of ADD and of DEL of `dpu-cni`, without a plugin for addresses."""
    conf = {"cniVersion": "1.0.0", "name": "bench", "type": "dpu-cni", "socket": daemon.socket}
    conf |= {"dataDir": str(daemon.folder / "cni"), "addresses": [{"address": container.port["address"][0]}]}
    where = {"CNI_CONTAINERID": container.name, "CNI_NETNS": container.netns, "CNI_IFNAME": IFNAME}
    program = install(daemon.folder / "bin")

    def call(command):
        env = {**os.environ, **where, "CNI_COMMAND": command, "CNI_PATH": "/"}
        run_here([program], env=env, input=json.dumps(conf))

    return timed_ms(call, "ADD"), timed_ms(call, "DEL")


def run(size, repeats=results.REPEATS, pairs=PAIRS, env=None):
    """Measure one container, then `size` of them in a row, and have `pairs` of them talk."""
    with contextlib.ExitStack() as stack:
        containers = [stack.enter_context(Container(number)) for number in range(size)]
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dpu-bench-"))
        daemon = stack.enter_context(dpu.Dpu(folder, WORKER_CPU, env=env))
        made = [*_one(daemon, containers[0], repeats), *_in_a_row(daemon, containers, pairs)]
        rows = daemon.table_rows()
        assert not any(rows.values()), f"rows still in use: {rows}"
    return made


def _one(daemon, container, repeats):
    """Results of one container on a daemon without ports, after a first round that does not count."""
    calls = {
        "API": lambda: (timed_ms(attach, daemon, container), timed_ms(detach, daemon, container)),
        "dpu attach, detach": lambda: _by_command(daemon, container),
        "dpu-cni ADD, DEL": lambda: _by_cni(daemon, container),
    }
    for name, times in results.alternate(calls, repeats).items():
        for what, values in zip(("attach", "detach"), zip(*times, strict=True), strict=True):
            yield results.result(f"one container, {what}: {name}", "ms", values)


def _in_a_row(daemon, containers, pairs):
    """Results of all containers on, talking, and off again."""
    pids = {"control process": daemon.control_pid, "data plane": daemon.data_plane_pid}
    before, kernel_before = {name: dpu.resident_kb(pid) for name, pid in pids.items()}, dpu.kernel_kb()
    attached = [timed_ms(attach, daemon, container) for container in containers]
    count = len(containers)
    yield from _growth("attach", attached)
    yield results.result(f"{count} containers: all attached after", "s", [sum(attached) / MS_PER_SECOND])
    for name, pid in pids.items():
        kb = (dpu.resident_kb(pid) - before[name]) / count
        yield results.result(f"{count} containers: memory a port, {name}", "KB", [kb])
    kernel = (dpu.kernel_kb() - kernel_before) / count
    yield results.result(f"{count} containers: memory a port, kernel", "KB", [kernel])
    lost = talk(daemon, containers, pairs)
    yield results.result(f"{count} containers: {pairs} random pairs talk, lost", "packets", [lost])
    detached = [timed_ms(detach, daemon, container) for container in containers]
    yield from _growth("detach", detached[::-1])


def _growth(what, times):
    """Results of those in a row with the fewest others beside them and the most, and what these take more.

    times  ms, of the one without others first
    """
    count, ends = len(times), min(ENDS, len(times) // 2)
    few, many = sorted(times[:ends]), sorted(times[-ends:])
    yield results.result(f"{count} containers, {what}: {ends} with the fewest others", "ms", few)
    yield results.result(f"{count} containers, {what}: {ends} with the most others", "ms", many)
    middle = ends // 2
    yield results.result(f"{count} containers, {what}: most / fewest", "x", [many[middle] / few[middle]])


def talk(daemon, containers, pairs, frames=FRAMES, seed=SEED):
    """Have random pairs send each other `frames` each; returns how many did not arrive, which should be 0.

    Fails when a frame arrives twice or at the wrong container, or when a counter is not what was sent.
    """
    chosen = random.Random(seed)
    pair_list = [tuple(chosen.sample(range(len(containers)), 2)) for _ in range(pairs)]
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(container.open_wire()) for container in containers]
        before = daemon.stats()
        _announce(daemon, containers, wires)
        sent, number = {}, 0  # (receiver, sender) -> numbers
        for source, target in pair_list:
            for _ in range(frames):
                wires[source].send(containers[source].frame(containers[target].mac, number))
                sent.setdefault((target, source), []).append(number)
                number += 1
        after = _arrived(daemon, before, len(containers) + number)
        lost = 0
        for target, wire in enumerate(wires):
            got = _received(wire)
            for source in {source for source, _ in got} | {source for to, source in sent if to == target}:
                numbers = [number for origin, number in got if origin == source]
                wanted = sent.get((target, source), [])
                assert len(numbers) == len(set(numbers)), f"container {target}: a frame arrived twice"
                assert set(numbers) <= set(wanted), f"container {target}: frames of {source} to somebody else"
                lost += len(wanted) - len(numbers)
    _check_counters(containers, before["ports"], after["ports"], Counter(pair_list), frames)
    return lost


def _arrived(daemon, before, count):
    """Counters when `count` more packets than `before` were received, or no more come."""
    end = time.monotonic() + ARRIVAL_SECONDS_MAX
    while daemon.call("stats")["balance"]["received"] < before["balance"]["received"] + count:
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    return daemon.stats()


def _announce(daemon, containers, wires):
    """Have the switch learn where all are: the first tells everybody, then everybody tells the first."""
    before = daemon.stats()
    wires[0].send(containers[0].frame(BROADCAST))
    _arrived(daemon, before, 1)
    for container, wire in zip(containers[1:], wires[1:], strict=True):
        wire.send(container.frame(containers[0].mac))
    _arrived(daemon, before, len(containers))
    for wire in wires:
        _received(wire)


def _received(wire):
    """What waits at a wire: [(number of the sender, number of the frame)]."""
    got = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frame = wire.recv(2 * FRAME_OCTETS)
            assert len(frame) == FRAME_OCTETS and frame[26:] == b"\xa5" * (FRAME_OCTETS - 26), frame.hex()
            got.append((int.from_bytes(frame[14:18], "big"), int.from_bytes(frame[18:26], "big")))
    return got


def _check_counters(containers, before, after, pair_counts, frames):
    """Fail unless every port counted what its container and those that talk to it sent, and no drop."""
    for number, container in enumerate(containers):
        others = len(containers) - 1
        received = 1 + frames * sum(n for (source, _), n in pair_counts.items() if source == number)
        sent = frames * sum(n for (_, target), n in pair_counts.items() if target == number)
        wanted = {
            "rx_packets": received,
            "rx_bytes": received * FRAME_OCTETS,
            "tx_packets": sent + (1 if number else others),
            "rx_dropped": 0,
            "tx_dropped": 0,
        }
        name = container.name
        counted = {key: after[name][key] - before[name][key] for key in wanted}
        assert counted == wanted, f"port {name} counted {counted}, its container and its peers {wanted}"


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "attach",
        run,
        CONTAINERS,
        __doc__,
        repeats={"type": int, "default": results.REPEATS, "help": "times that one container comes and goes"},
        pairs={"type": int, "default": PAIRS, "help": f"random pairs that talk; default: {PAIRS}"},
    )
