"""The worker: one compiled loop a CPU, from receive to transmit.

A round: ask epoll which queues have packets, take one burst from each, run the pipeline, send, and
note the epoch between bursts. A queue whose burst was cut short stays on the list without asking epoll
again; a port with rings in memory, or a busy one (watch.py), is looked at every round. With nothing to
do the worker polls for IDLE_SPIN_US and lets others have the CPU in between; then it asks the rings'
drivers for a kick, and sleeps in epoll on all queues and its wake-up descriptor.

Nothing here allocates, locks or waits on another worker. It returns only when told to stop. What a burst
meets between front.py and back.py is in the programs of its ports; this file knows no function.
"""

from collections import namedtuple

import numpy as np

from dpu_runtime.drivers.burst import ask_kicks, ring_kicked, rx_burst, rx_done
from dpu_runtime.drivers.linux.libc import (
    CLOCK_MONOTONIC_COARSE,
    EAGAIN,
    EPOLL_CTL_DEL,
    EPOLL_EVENT_BYTES,
    clock_gettime,
    epoll_ctl,
    epoll_wait,
    read,
    sched_yield,
)
from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.burst import EGRESS, FORWARD, INGRESS, Word
from dpu_runtime.kernels.compile.jit import glue, helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import VERDICT_DROP
from dpu_runtime.kernels.octets.atomic import pause
from dpu_runtime.kernels.octets.memory import address_of, cycles, load_acquire, load_u64, store_release
from dpu_runtime.kernels.stage import call_stage
from dpu_runtime.kernels.verdict import drop_packet
from dpu_runtime.plane.account import begin_burst, charge
from dpu_runtime.plane.egress import (
    NONE,
    NS_PER_SECOND,
    egress,
    has_made,
    run_program,
    run_tasks,
    send_made,
    task_wait_ms,
)
from dpu_runtime.plane.frame import FRONT, FRONT_STATE
from dpu_runtime.plane.watch import note_burst, note_look, unasked_port
from dpu_runtime.plane.words import Control, FrameStage, WorkerWord

EVENTS_MAX = 64  # epoll events a call
EPOLL_PERIOD = 8  # rounds between looks at quiet queues while others are busy
SLEEP_MS = 1000  # a sleeping worker shows it lives this often
KICK_EVENT = 0xFFFF  # epoll data of the wake-up descriptor; else the port's index
RING_EVENT_SHIFT = 16  # and above it, for a ring's kick, the ring's number + 1
NO_FD = -1  # in `fds`: the port is not here
RINGS_FD = -2  # it has no descriptor but rings

# What one worker owns, and what of the shared memory it reads beside that. Arrays are private memory.
Worker = namedtuple(
    "Worker",
    [
        "epoll_fd",  # int
        "kick_fd",  # int, eventfd
        "io",  # drivers/io.py, what it lends the drivers
        "frame",  # plane/frame.py
        "polled",  # uint16[2, 1 + PORTS_MAX], ports with rings: how many, then which
        "polled_version",  # uint64[1], its lowest bit names the half of `polled` in force
        "active",  # uint16[PORTS_MAX], ports whose queue may hold packets
        "is_active",  # uint8[PORTS_MAX]
        "unasked",  # uint16[1 + PORTS_MAX], ports that epoll does not watch: how many, then which; watch.py
        "looks",  # uint16[PORTS_MAX], looks in a row that found nothing, of such a port
        "events",  # uint8[EVENTS_MAX * EPOLL_EVENT_BYTES]
        "words",  # uint64[4], timespec and eventfd value
        "busy",  # uint64[1], bursts in a row without an idle round between them
        # shared memory
        "control",  # uint64[], plane/shared.py
        "state",  # uint64[WORKER_WORDS], this worker's row
        "port_errors",  # uint64[PORTS_MAX]
    ],
)


@helper
def coarse_ns(w):
    """Time of this round in ns, some milliseconds coarse."""
    clock_gettime(np.int32(CLOCK_MONOTONIC_COARSE), address_of(w.words))
    return w.words[0] * np.uint64(NS_PER_SECOND) + w.words[1]


@helper
def _mark_active(w, port, n_active):
    if w.is_active[port] == 0 and w.io.fds[port] != NO_FD:
        w.is_active[port] = 1
        w.active[n_active] = port
        return n_active + 1
    return n_active


@helper
def _mark_polled(w, n_active):
    """Put the ports that are looked at unasked on the list; returns its length."""
    half = np.int64(load_acquire(w.polled_version, 0) & np.uint64(1))
    for k in range(np.int64(w.polled[half, 0])):
        n_active = _mark_active(w, np.int64(w.polled[half, 1 + k]), n_active)
    place = np.int64(w.unasked[0])
    while place > 0:  # from the end: what leaves the list is replaced by the last
        port = unasked_port(w, place)
        if port >= 0:
            n_active = _mark_active(w, port, n_active)
        place -= 1
    return n_active


@helper
def _poll(w, n_active, timeout_ms):
    """Ask epoll; returns the number of active ports, with those it named."""
    events = address_of(w.events)
    ready = epoll_wait(np.int32(w.epoll_fd), events, np.int32(EVENTS_MAX), np.int32(timeout_ms))
    for k in range(ready):
        data = np.int64(load_u64(events + np.uint64(k * EPOLL_EVENT_BYTES + 4)))
        if data == KICK_EVENT:
            read(np.int32(w.kick_fd), address_of(w.words), np.uint64(8))
        elif data >> RING_EVENT_SHIFT:
            # a driver's first kick starts its ring; the later ones end a sleep
            ring_kicked(w.io, data & KICK_EVENT, (data >> RING_EVENT_SHIFT) - 1)
        else:
            n_active = _mark_active(w, data, n_active)
    return n_active


@helper
def _lose_queue(w, port, error):
    """A queue's device is gone: stop polling it and tell the control process."""
    epoll_ctl(np.int32(w.epoll_fd), np.int32(EPOLL_CTL_DEL), w.io.fds[port], address_of(w.events))
    w.io.fds[port] = NO_FD
    w.port_errors[port] = error


@helper
def _to_port(burst, count, out):
    """Send every packet of a burst that was not dropped to one port; returns how many."""
    for k in range(count):
        burst.out_packet[k] = burst.packets[k]
        burst.out_port[k] = out
    return np.int64(count)


@helper
def _keep_rest(burst, frame, count):
    """Put `packets[:count]` aside while others are sent."""
    for k in range(count):
        frame.rest[k] = burst.packets[k]


@helper
def _take_rest(burst, frame, count):
    """Have them at hand again."""
    for k in range(count):
        burst.packets[k] = frame.rest[k]


@helper
def _nowhere(burst, count):
    """Drop the packets at hand: no stage forwards what comes from their port."""
    for k in range(count):
        drop_packet(burst.meta[np.int64(burst.packets[k])], Drop.PORT_DOWN, burst.drops)


@glue
def _forward(w, burst, frame, port, count):
    """Have the `forward` program decide where the packets at hand go, and send them."""
    left = np.int64(count)
    while left > 0:
        before = left
        burst.words[Word.OUT] = np.uint64(0)
        left = run_program(burst, frame, FORWARD, port, before)
        out = np.int64(burst.words[Word.OUT])
        if left == before and out == 0:
            _nowhere(burst, left)
            left = np.int64(0)
        _keep_rest(burst, frame, left)
        egress(w, burst, frame, out, EGRESS)
        _take_rest(burst, frame, left)


@helper
def _count_rx_drops(burst, frame, port):
    dropped = np.uint64(0)
    for i in range(np.int64(burst.words[Word.RECEIVED])):
        dropped += np.uint64(burst.meta[i]["verdict"] == VERDICT_DROP)
    frame.port_counters[port, PortCounter.RX_DROPPED] += dropped


@glue
def pipeline(w, burst, port, count):
    """Parse, judge, forward and send a burst of `count` packets received at `port`.

    Packets of a port with a cross-connect are only parsed, and go to that port as they are.
    """
    frame = w.frame
    burst.words[Word.RECEIVED] = np.uint64(count)
    burst.words[Word.HALF] = load_acquire(frame.programs_version, 0) & np.uint64(1)
    left = call_stage(frame.entries[FRONT], burst, frame.entries[FRONT_STATE], port, np.int64(count))
    straight = np.int64(w.io.devices[port]["xconnect"]) - 1
    if straight >= 0:
        egress(w, burst, frame, _to_port(burst, left, straight), NONE)
    else:
        left = run_program(burst, frame, INGRESS, port, left)
        if has_made(burst):
            _keep_rest(burst, frame, left)
            send_made(w, burst, frame)
            _take_rest(burst, frame, left)
        _forward(w, burst, frame, port, left)
        if has_made(burst):
            send_made(w, burst, frame)
    _count_rx_drops(burst, frame, port)


@glue
def _serve_queue(w, burst, port):
    """One burst from one port; returns (packets, whether the queue may hold more)."""
    kind = burst.ports[port]["kind"]
    started = begin_burst(burst, np.int64(w.busy[0]))
    w.io.rx_queue[0] = burst.number
    w.io.crossed[0] = 0
    count, error = rx_burst(kind, burst, w.io, port)
    crossed = np.int64(w.io.crossed[0])
    received = count + crossed
    if received > 0:
        charge(
            burst, w.frame.kernel_counters, FrameStage.XCONNECT if crossed > 0 else FrameStage.RX, received
        )
        if count > 0:
            pipeline(w, burst, port, count)
        w.busy[0] += np.uint64(1)
        w.state[WorkerWord.BURSTS] += np.uint64(1)
        w.state[WorkerWord.PACKETS] += np.uint64(received)
        w.state[WorkerWord.BUSY_CYCLES] += cycles() - started
    rx_done(kind, w.io, port)
    if error not in (0, EAGAIN):
        _lose_queue(w, port, error)
    return received, error == 0


@helper
def _note_epoch(w):
    """Say that nothing is in use that went before this epoch: between two bursts that is so."""
    store_release(w.state, WorkerWord.SEEN_EPOCH, load_acquire(w.control, Control.EPOCH))


@glue
def _round(w, burst, n_active):
    """One burst from each active port; returns (packets, ports still active)."""
    burst.words[Word.COARSE_NS] = coarse_ns(w)
    packets = np.int64(0)
    kept = np.int64(0)
    for k in range(n_active):
        port = np.int64(w.active[k])
        more = False
        if w.io.fds[port] != NO_FD:
            count, more = _serve_queue(w, burst, port)
            packets += count
            note_burst(w, burst.ports, port, count)
            note_look(w, port, count)
            _note_epoch(w)  # a round of floods to many ports is long to wait for
        if more:
            w.active[kept] = port
            kept += 1
        else:
            w.is_active[port] = 0
    return packets, kept


@helper
def _spin_cycles(control):
    return control[Control.IDLE_SPIN_US] * control[Control.TSC_HZ] // np.uint64(1_000_000)


@helper
def _ask_kicks(w):
    """Have every ring's driver kick; returns whether one has a packet waiting already."""
    half = np.int64(load_acquire(w.polled_version, 0) & np.uint64(1))
    waits = False
    for k in range(np.int64(w.polled[half, 0])):
        if ask_kicks(w.io, np.int64(w.polled[half, 1 + k])):
            waits = True
    return waits


@kernel
def run_worker(w, burst):
    """Forward packets until `control[STOP]`; returns the number of rounds."""
    control = w.control
    state = w.state
    rounds = np.uint64(0)
    n_active = np.int64(0)
    packets = np.int64(0)
    idle_since = cycles()
    while load_acquire(control, Control.STOP) == np.uint64(0):
        _note_epoch(w)
        rounds += np.uint64(1)
        state[WorkerWord.ROUNDS] += np.uint64(1)
        if (n_active == 0 and packets == 0) or rounds % np.uint64(EPOLL_PERIOD) == np.uint64(0):
            n_active = _poll(w, n_active, 0)
        packets, n_active = _round(w, burst, _mark_polled(w, n_active))
        if w.frame.tasks_due[0] != np.uint64(0):
            run_tasks(w, burst, w.frame)
        if packets > 0:
            idle_since = cycles()
            continue
        w.busy[0] = np.uint64(0)
        pause()  # a ring's index that is read all the time is slow to write for its driver
        quiet = n_active == 0 and w.unasked[0] == 0
        if quiet and cycles() - idle_since >= _spin_cycles(control):
            if not _ask_kicks(w):
                state[WorkerWord.SLEEPS] += np.uint64(1)
                n_active = _poll(w, n_active, task_wait_ms(burst, w.frame, SLEEP_MS))
            idle_since = cycles()
        elif quiet:
            sched_yield()  # whom the last packet woke may be waiting for this CPU
    return rounds
