"""What traffic on vhost-user ports notices when the whole daemon is killed and started again.

Size:    times control process and data plane are killed (SIGKILL) under traffic from one port to the other.
Clients: two host programs on libdpu, taking turns on CPU 0, at --rate packets a second; then DPDK's testpmd,
         whose virtio-user ports listen and wait for the daemon (`client = true`), sending what it can.
Figures: from the daemon's READY=1 to the first packet, less than 0 when that came sooner, and from the kill;
         packets handed over again by libdpu, and lost. libdpu looks for the daemon after 10 ms, 20 ms and
         so on up to --pause ms, which is in these figures; the receiver does so first, as what is sent to a
         port that is still down is lost by right. For testpmd the DPU's counters say when it has delivered
         something to both ports.
Checks:  the rings go on each time. Each of libdpu's buffers is in a pool or in a ring each time, and it has
         as many files open as at first. testpmd receives packets after each restart.
"""

import contextlib
import sys
import time
from dataclasses import dataclass

from bench import results
from bench.peers import testpmd, vhost_dpu
from bench.peers.host_pair import HostPair, built
from bench.peers.hosts import stop_on_signals
from bench.peers.hugepages import hugepages
from bench.vhost_user import PACKAGES

CLIENT_CPU, SWITCH_CPU = 0, 1
FRAME_OCTETS = 64  # without FCS
RATE = 100_000  # packets a second
PAUSE_MS = 1000  # libdpu's default
TRAFFIC_SECONDS = 0.3  # before each kill
AGAIN_SECONDS_MAX = 20.0
HUGEPAGES_MB = 2 * testpmd.MEMORY_MB
MS_PER_S, NS_PER_S = 1e3, 1e9


@dataclass(frozen=True)
class Round:
    """One restart: times in s on CLOCK_MONOTONIC, packets handed over again, buffers and files astray."""

    killed: float
    ready: float
    first: float
    resent: int = 0
    bufs_missing: int = 0
    files_more: int = 0


def restart(dpu):
    """Kill the daemon and start it; returns (killed, ready), in s."""
    time.sleep(TRAFFIC_SECONDS)
    killed = time.monotonic()
    dpu.kill()
    dpu.start_daemon()
    return killed, time.monotonic()


def libdpu_rounds(program, dpu, size, rate, pause_ms):
    """(`size` Rounds of the host programs, the Line of all of it)."""
    options = ["-n", "-s", FRAME_OCTETS, "-r", rate, "-k", pause_ms]
    rounds, resent = [], 0
    with HostPair(program, dpu.sockets, CLIENT_CPU, *options) as pair:
        pair.wait_ready()
        files = pair.open_files()
        for number in range(size):
            killed, ready = restart(dpu)
            line = pair.again(AGAIN_SECONDS_MAX)
            assert line.reconnects == number + 1, (
                f"{line.reconnects} reconnections after {number + 1} restarts"
            )
            more = pair.open_files() - files
            first = line.time_ns / NS_PER_S
            rounds.append(Round(killed, ready, first, line.resent - resent, line.bufs_missing, more))
            resent = line.resent
        time.sleep(TRAFFIC_SECONDS)
        _, total, _ = pair.stop()
    assert total.damaged == total.errors == 0, f"packets were changed: {total}"
    return rounds, total


def testpmd_rounds(client, dpu, size):
    """`size` Rounds of a testpmd."""
    client.command(f"set txpkts {FRAME_OCTETS}")
    client.start("flowgen")
    rounds = []
    for _ in range(size):
        killed, ready = restart(dpu)
        rounds.append(Round(killed, ready, first_after(dpu, ready)))
        time.sleep(TRAFFIC_SECONDS)
        client.skip_messages()  # of links that went down and up
        assert client.rate(TRAFFIC_SECONDS).received > 0, "testpmd: nothing arrives after the restart"
    client.stop()
    return rounds


def first_after(dpu, since):
    """When a fresh DPU has delivered a packet to each port, in s. AssertionError: it has not."""
    while (at := time.monotonic()) < since + AGAIN_SECONDS_MAX:
        if all(port["tx_packets"] for port in dpu.call("stats")["ports"].values()):
            return at
    raise AssertionError("the DPU delivers nothing after the restart")


def run(size, rounds=5, rate=RATE, pause=PAUSE_MS):
    """Kill the daemon `size` times under libdpu, then `rounds` times under testpmd."""
    if rounds:
        results.require(PACKAGES)
    with built() as program, vhost_dpu.switch_of_two(SWITCH_CPU) as dpu:
        taken, total = libdpu_rounds(program, dpu, size, rate, pause)
    made = [*_libdpu_results(taken, total)]
    if rounds:
        with hugepages(HUGEPAGES_MB), contextlib.ExitStack() as stack:
            dpu = stack.enter_context(vhost_dpu.switch_of_two(SWITCH_CPU, client=True))
            client = stack.enter_context(testpmd.client(dpu.sockets, CLIENT_CPU, listens=True))
            made += _times("testpmd, server=1", testpmd_rounds(client, dpu, rounds))
    return made


def _times(name, rounds):
    yield results.result(f"{name}: restarts", "", [len(rounds)])
    yield results.result(
        f"{name}: from ready to the first packet",
        "ms",
        [(one.first - one.ready) * MS_PER_S for one in rounds],
    )
    yield results.result(
        f"{name}: from the kill to the first packet",
        "ms",
        [(one.first - one.killed) * MS_PER_S for one in rounds],
    )


def _libdpu_results(rounds, total):
    missing = [one.bufs_missing for one in rounds]
    files = [one.files_more for one in rounds]
    assert not any(missing + files), f"leaked: buffers {missing}, files {files}"
    yield from _times("libdpu", rounds)
    yield results.result("libdpu: handed over again", "packets", [one.resent for one in rounds])
    yield results.result("libdpu: lost, mean", "packets a restart", [total.lost / len(rounds)])
    yield results.result("libdpu: arrived twice, mean", "packets a restart", [total.repeated / len(rounds)])
    yield results.result("libdpu: buffers leaked", "", missing)
    yield results.result("libdpu: files left open", "", files)


if __name__ == "__main__":
    stop_on_signals()
    try:
        results.main(
            "vhost_reconnect",
            run,
            20,
            __doc__,
            rounds={"type": int, "default": 5, "help": "restarts under testpmd, 0: without it; default: 5"},
            rate={"type": int, "default": RATE, "help": f"packets a second; default: {RATE}"},
            pause={"type": int, "default": PAUSE_MS, "help": f"of libdpu, in ms; default: {PAUSE_MS}"},
        )
    except RuntimeError as error:
        sys.exit(f"bench/vhost_reconnect.py: {error}")
