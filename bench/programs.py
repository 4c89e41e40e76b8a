"""What it costs to have stages on, and to switch them on and off while packets go.

Stages: in memory, the ingress program of a port over a full burst: with ten stages that do nothing, with the
        same ten installed and off, and without them. In a daemon they would do something besides.
Switch: the host programs of bench/host_programs.py send 64 B packets through two vhost-user ports; meanwhile
        `mirror` is switched on for the sender's port, to a null port, and off again, `size` times.
CPUs:   sender and receiver on CPU 0, the worker on CPU 1. The commands take from both, so that less is
        sent than --rate; no more packets are under way than half a ring has room for.
Checks: each time copies were made; nothing is dropped but copies; what arrives is what was sent.
Not:    a stage that nobody compiled yet: a process beside the one that runs does that first.
"""

import contextlib
import time
from functools import partial

from bench import results
from bench.host_programs import FRAME_OCTETS, PROGRAM_CPU, SWITCH_CPU, check
from bench.in_memory import InMemory
from bench.peers import vhost_dpu
from bench.peers.dpu import settled_stats
from bench.peers.host_pair import HostPair, built
from bench.peers.hosts import stop_on_signals
from bench.program_loops import idle_functions, program_loop
from dpu_runtime.kernels.layout import BATCH_SIZE
from dpu_runtime.plane.worker_thread import tsc_hz

TIMES = 100
RATE = 1_300_000  # packets a second that are to be sent: above a million are
RING_ENTRIES = 4096
MORE_STAGES = 10
BURSTS = 20_000  # a sample of the stages
COPIES_SECONDS_MAX = 10.0
MS_PER_S = 1e3


def burst_ns(device, bursts, ns):
    """Nanoseconds of a burst in the ingress program of port 0."""
    left, spent = program_loop(device.worker, device.burst, bursts)
    assert left == BATCH_SIZE, f"{BATCH_SIZE - left} packets were taken by stages that do nothing"
    return spent * ns / bursts


def devices():
    """Devices in memory: without more stages, with them installed, and with them on."""
    more = idle_functions(MORE_STAGES)
    names = [stage.name for function in more for stage in function.stages]
    return {
        "without": InMemory(on=()),
        "off": InMemory(on=(), more=more),
        "on": InMemory(on=names, more=more),
    }


def stages(repeats, bursts=BURSTS):
    """What ten more stages cost a burst, on and off."""
    ns = 1e9 / tsc_hz()
    taken = results.alternate(
        {name: partial(burst_ns, device, bursts, ns) for name, device in devices().items()}, repeats
    )
    for name in ("on", "off"):
        extra = [
            with_them - without for with_them, without in zip(taken[name], taken["without"], strict=True)
        ]
        yield results.result(f"{MORE_STAGES} more stages, {name}", "ns a burst", extra)


def switch(dpu, times):
    """Switch `mirror` on and off; returns (ms of each command that did, ms of each that undid it)."""
    on, off = [], []
    for _ in range(times):
        began = time.monotonic()
        dpu.call("mirror.add", name="copies", port="host0", to="sink")
        on.append((time.monotonic() - began) * MS_PER_S)
        _wait_for_copies(dpu)
        began = time.monotonic()
        dpu.call("mirror.del", name="copies")
        off.append((time.monotonic() - began) * MS_PER_S)
    return on, off


def _wait_for_copies(dpu):
    end = time.monotonic() + COPIES_SECONDS_MAX
    while not dpu.call("mirror.show", stats=True)[0]["packets"]:
        assert time.monotonic() < end, "no copy was made"


def run(size, rate=RATE, repeats=results.REPEATS, bursts=BURSTS):
    """Switch `size` times at `rate`; `repeats` measurements of `bursts` bursts of the stages."""
    made = list(stages(repeats, bursts))
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(built())
        dpu = stack.enter_context(vhost_dpu.switch_of_two(SWITCH_CPU))
        dpu.call("port.add", name="sink", kind="null")
        options = ("-n", "-b", "-u", 0, "-s", FRAME_OCTETS, "-r", rate, "-q", RING_ENTRIES)
        pair = stack.enter_context(HostPair(program, dpu.sockets, PROGRAM_CPU, *options))
        pair.wait_ready()
        on, off = switch(dpu, size)
        counted, total, _ = pair.stop()
        check(counted, total)
        drops = settled_stats(dpu.call)["drops"]
    assert set(drops) <= {"mirror_no_room"}, f"packets were dropped: {drops}"
    return [
        *made,
        results.result(f"mirror: packets lost in {size} times on and off", "packets", [total.lost]),
        results.result("mirror: packets sent", "Mpps", [counted.frames / counted.seconds / 1e6]),
        results.result("mirror: command to switch on", "ms", on),
        results.result("mirror: command to switch off", "ms", off),
    ]


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "programs",
        run,
        TIMES,
        __doc__,
        rate={"type": int, "default": RATE, "help": f"packets a second; default: {RATE}"},
        repeats={"type": int, "default": results.REPEATS, "help": "measurements of the stages"},
    )
