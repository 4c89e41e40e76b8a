"""What is lost when a process is killed while `mirror` is switched on or off under traffic.

Size:    commands, `mirror add` and `mirror del` in turns. At a random moment of each a process gets SIGKILL:
         data plane or control process, by chance. The moment may be before the command, or behind it.
Traffic: the host programs of bench/host_programs.py, 64 B at --rate through two vhost-user ports.
Figures: commands that were answered, refused and cut off; packets that never arrived, and those that the
         daemon counts as dropped because a data plane died with them.
Checks:  each time: what was answered is in force, and what was cut off is in force whole or not at all;
         copies are made if and only if `mirror` is on; packets arrive. In the end the counters add up, and
         no more packets are lost than the daemon knows of.
"""

import contextlib
import random
import threading
import time

from bench import results
from bench.host_programs import FRAME_OCTETS, PROGRAM_CPU, SWITCH_CPU
from bench.peers import vhost_dpu
from bench.peers.dpu import settled_stats
from bench.peers.host_pair import HostPair, built
from bench.peers.hosts import stop_on_signals
from dpu_runtime.api.client import NoDaemonError
from dpu_runtime.config.errors import RpcError

KILLS = 200
RATE = 100_000  # packets a second
MOMENTS_S = (-0.0005, 0.004)  # of a kill, from when the command is sent; most take less than 4 ms
PROGRESS_KILLS = 20
WAIT_SECONDS_MAX = 60.0
ANSWERED, REFUSED, CUT_OFF = "answered", "refused", "cut off"


class Command(threading.Thread):
    """`mirror add` or `mirror del` over the API; `outcome` when it has ended."""

    def __init__(self, dpu, on):
        super().__init__(daemon=True)
        self._dpu, self._on = dpu, on
        self.outcome = None

    def run(self):
        """Send it and wait for the answer."""
        try:
            if self._on:
                self._dpu.call("mirror.add", name="copies", port="host0", to="sink")
            else:
                self._dpu.call("mirror.del", name="copies")
            self.outcome = ANSWERED
        except RpcError:
            self.outcome = REFUSED
        except (NoDaemonError, OSError):
            self.outcome = CUT_OFF


def wait_for(condition, what):
    """Wait until `condition()`; AssertionError when it does not come."""
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def is_on(dpu):
    """Whether `mirror` is configured."""
    return bool(dpu.call("mirror.show"))


def strike(dpu, on, of_control, moment):
    """Give the command, kill a process `moment` s from then; returns the command's outcome."""
    dpu.know_data_plane()
    command, kill = Command(dpu, on), dpu.kill_control if of_control else dpu.kill_data_plane
    if moment < 0:
        kill()
        time.sleep(-moment)
    command.start()
    if moment >= 0:
        time.sleep(moment)
        kill()
    command.join(WAIT_SECONDS_MAX)
    assert command.outcome, "the command is not answered"
    if of_control:
        dpu.start_daemon()
        assert dpu.call("status")["data_plane"]["adopted"], "the data plane was not adopted"
    return command.outcome


def look(dpu, before, on, outcome):
    """Check that the device is what the outcome says; returns whether `mirror` is on."""
    now = is_on(dpu)
    if outcome == CUT_OFF:
        assert now in (before, on)
    else:
        assert now == (on if outcome == ANSWERED else before), f"{outcome}, and `mirror` is {now}"
    wait_for(lambda: dpu.call("status")["data_plane"]["standby_pid"], "no standby")
    copies, received = _counted(dpu)
    wait_for(lambda: _counted(dpu)[1] > received + RATE // 100, "no packet arrives")
    more = _counted(dpu)[0] - copies
    assert bool(more) == now, f"`mirror` is {now}, and {more} copies were made"
    return now


def _counted(dpu):
    """(packets that `mirror` saw, packets delivered) so far."""
    stats = dpu.call("stats")
    return stats["kernels"]["mirror_in"]["packets"], stats["ports"]["host1"]["tx_packets"]


def run(size, rate=RATE, seed=12):
    """Kill `size` times; returns Results."""
    chance = random.Random(seed)
    outcomes = dict.fromkeys((ANSWERED, REFUSED, CUT_OFF), 0)
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(built())
        dpu = stack.enter_context(vhost_dpu.switch_of_two(SWITCH_CPU, standby=True))
        dpu.call("port.add", name="sink", kind="null")
        pair = stack.enter_context(
            HostPair(program, dpu.sockets, PROGRAM_CPU, "-n", "-s", FRAME_OCTETS, "-r", rate)
        )
        pair.wait_ready()
        on = False
        for number in range(1, size + 1):
            outcome = strike(dpu, not on, chance.random() < 0.5, chance.uniform(*MOMENTS_S))
            outcomes[outcome] += 1
            on = look(dpu, on, not on, outcome)
            if number % PROGRESS_KILLS == 0:
                print(f"{number} of {size} kills", flush=True)
        _, total, _ = pair.stop()
        drops = settled_stats(dpu.call)["drops"]
    assert total.damaged == total.errors == total.bufs_missing == 0, f"packets were changed: {total}"
    known = sum(packets for reason, packets in drops.items() if reason != "mirror_no_room")
    assert total.lost <= known, f"{total.lost} packets are lost, {known} are known of: {drops}"
    return [
        *(results.result(f"commands {outcome}", "", [count]) for outcome, count in outcomes.items()),
        results.result(f"packets lost in {size} kills", "packets", [total.lost]),
        results.result(f"packets dropped in {size} kills, by the counters", "packets", [known]),
        results.result("packets sent", "", [total.sent]),
    ]


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "switch_kills",
        run,
        KILLS,
        __doc__,
        rate={"type": int, "default": RATE, "help": f"packets a second; default: {RATE}"},
        seed={"type": int, "default": 12, "help": "of the moments and of which process is killed"},
    )
