"""The worker: one compiled loop a CPU, from receive to transmit.

A round: ask epoll which queues have packets, take one burst from each, run the pipeline, send, and
note the epoch between bursts. A queue whose burst was cut short stays on the list without asking epoll
again; a port with rings in memory, or a busy one (watch.py), is looked at every round. With nothing to
do the worker polls for IDLE_SPIN_US and lets others have the CPU in between; then it asks the rings'
drivers for a kick, and sleeps in epoll on all queues and its wake-up descriptor.

Nothing here allocates, locks or waits on another worker. It returns only when told to stop.
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
from dpu_runtime.kernels.acl.filter import filter_ingress
from dpu_runtime.kernels.checksum.owed import mark_owed
from dpu_runtime.kernels.checksum.verify import verify_checksums
from dpu_runtime.kernels.compile.jit import glue, helper, kernel
from dpu_runtime.kernels.layout import PORT_RX_METER, VERDICT_DROP
from dpu_runtime.kernels.meter.bucket import meter_rx
from dpu_runtime.kernels.meter.table import RX as METER_RX_ROW
from dpu_runtime.kernels.octets.atomic import pause
from dpu_runtime.kernels.octets.memory import address_of, cycles, load_acquire, load_u64, store_release
from dpu_runtime.kernels.offload.virtio_net import check_vnet, decode_vnet
from dpu_runtime.kernels.parse.parse import parse
from dpu_runtime.kernels.switch.forward import admit, switch
from dpu_runtime.kernels.switch.mac_table import TICK_NS, TICKS_PER_SECOND
from dpu_runtime.plane.egress import charge, clock_ns, egress
from dpu_runtime.plane.shared import Control, Stage, WorkerWord
from dpu_runtime.plane.watch import note_burst, note_look, unasked_port

EVENTS_MAX = 64  # epoll events a call
EPOLL_PERIOD = 8  # rounds between looks at quiet queues while others are busy
SLEEP_MS = 1000  # a sleeping worker shows it lives this often
KICK_EVENT = 0xFFFF  # epoll data of the wake-up descriptor; else the port's index
RING_EVENT_SHIFT = 16  # and above it, for a ring's kick, the ring's number + 1
NO_FD = -1  # in `fds`: the port is not here
RINGS_FD = -2  # it has no descriptor but rings

# What one worker owns. Arrays are private memory.
Worker = namedtuple(
    "Worker",
    [
        "number",  # int, row of the per-worker arrays
        "epoll_fd",  # int
        "kick_fd",  # int, eventfd
        "io",  # drivers/io.py, what it lends the drivers
        "polled",  # uint16[2, 1 + PORTS_MAX], ports with rings: how many, then which
        "polled_version",  # uint64[1], its lowest bit names the half of `polled` in force
        "active",  # uint16[PORTS_MAX], ports whose queue may hold packets
        "is_active",  # uint8[PORTS_MAX]
        "unasked",  # uint16[1 + PORTS_MAX], ports that epoll does not watch: how many, then which; watch.py
        "looks",  # uint16[PORTS_MAX], looks in a row that found nothing, of such a port
        "events",  # uint8[EVENTS_MAX * EPOLL_EVENT_BYTES]
        "words",  # uint64[4], timespec and eventfd value
        "cache_ingress",  # verdict caches of kernels/filter
        "cache_egress",
    ],
)

# What the workers and the control process share, see dpu_runtime/plane/shared.py.
SharedTables = namedtuple(
    "SharedTables",
    [
        "control",
        "worker_state",
        "ports",
        "port_errors",
        "active_ports",
        "vlan_allowed",
        "meters",
        "port_counters",
        "drops",
        "kernel_counters",
        "switch_counters",
        "rule_hits",
        "mac",
        "acl_ingress",
        "acl_egress",
    ],
)


@helper
def clock_ticks(w):
    """Time of the MAC table's stamps, in ticks of TICK_NS; a few ms coarse."""
    clock_gettime(np.int32(CLOCK_MONOTONIC_COARSE), address_of(w.words))
    ticks_per_s = np.uint64(TICKS_PER_SECOND)
    return w.words[0] * ticks_per_s + w.words[1] // np.uint64(TICK_NS)


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
def _lose_queue(w, shared, port, error):
    """A queue's device is gone: stop polling it and tell the control process."""
    epoll_ctl(np.int32(w.epoll_fd), np.int32(EPOLL_CTL_DEL), w.io.fds[port], address_of(w.events))
    w.io.fds[port] = NO_FD
    shared.port_errors[port] = error


@helper
def _count_rx_drops(w, shared, meta, count):
    for i in range(count):
        if meta[i]["verdict"] == VERDICT_DROP:
            port = np.int64(meta[i]["in_port"])
            shared.port_counters[w.number, port, PortCounter.RX_DROPPED] += np.uint64(1)


@helper
def _to_port(batch, count, out):
    """Send every packet of a burst that was not dropped to one port; returns how many."""
    n_out = 0
    for i in range(count):
        if batch.meta[i]["verdict"] != VERDICT_DROP:
            batch.out_packet[n_out] = i
            batch.out_port[n_out] = out
            n_out += 1
    return np.int64(n_out)


@glue
def pipeline(w, shared, batch, count, now_ticks, now):
    """Parse, filter, switch and send a burst of `count` received packets; returns the time.

    Packets of a port with a cross-connect are only parsed and judged, and go to that port.
    """
    number = w.number
    drops = shared.drops[number]
    kernel_counters = shared.kernel_counters[number]
    decode_vnet(batch.headers, batch.meta, count)
    parse(batch.headers, batch.meta, count, drops)
    mark_owed(batch.headers, batch.meta, count, shared.ports)
    check_vnet(batch.headers, batch.meta, count, drops)
    in_port = np.int64(batch.meta[0]["in_port"])
    if shared.ports[in_port]["flags"] & PORT_RX_METER:
        meter_rx(batch.meta, count, shared.meters[in_port, METER_RX_ROW], clock_ns(w), drops)
    now = charge(kernel_counters, Stage.PARSE, count, now)
    out = np.int64(w.io.devices[in_port]["xconnect"]) - 1
    if out < 0:
        admit(batch.meta, count, shared.ports, shared.vlan_allowed, shared.mac, drops)
        verify_checksums(batch.headers, batch.meta, count, shared.ports, drops)
        now = charge(kernel_counters, Stage.VERIFY, count, now)
        filter_ingress(
            batch.headers,
            batch.meta,
            count,
            shared.acl_ingress,
            w.cache_ingress,
            shared.rule_hits[number],
            drops,
        )
        now = charge(kernel_counters, Stage.ACL_INGRESS, count, now)
    start = np.int64(0)
    while start < count:
        if out >= 0:
            n_out = _to_port(batch, count, out)
            start = count
        else:
            start, n_out = switch(
                batch.headers,
                batch.meta,
                count,
                start,
                shared.ports,
                shared.vlan_allowed,
                shared.active_ports,
                shared.mac,
                now_ticks,
                shared.control[Control.MAC_AGEING_TICKS],
                batch.out_packet,
                batch.out_port,
                shared.switch_counters[number],
                drops,
            )
        now = charge(kernel_counters, Stage.SWITCH, n_out, now)
        now = egress(w, shared, batch, n_out, out >= 0, now)
    _count_rx_drops(w, shared, batch.meta, count)
    return now


@glue
def _serve_queue(w, shared, batch, port, now_ticks):
    """One burst from one port; returns (packets, whether the queue may hold more)."""
    number = w.number
    kernel_counters = shared.kernel_counters[number]
    started = cycles()
    w.io.rx_queue[0] = number
    w.io.crossed[0] = 0
    count, error = rx_burst(
        shared.ports[port]["kind"],
        w.io,
        port,
        batch.headers,
        batch.meta,
        shared.port_counters[number, port],
        shared.drops[number],
    )
    crossed = np.int64(w.io.crossed[0])
    received = count + crossed
    if received > 0:
        now = charge(kernel_counters, Stage.XCONNECT if crossed > 0 else Stage.RX, received, started)
        if count > 0:
            now = pipeline(w, shared, batch, count, now_ticks, now)
        state = shared.worker_state[number]
        state[WorkerWord.BURSTS] += np.uint64(1)
        state[WorkerWord.PACKETS] += np.uint64(received)
        state[WorkerWord.BUSY_CYCLES] += now - started
    rx_done(shared.ports[port]["kind"], w.io, port)
    if error not in (0, EAGAIN):
        _lose_queue(w, shared, port, error)
    return received, error == 0


@helper
def _note_epoch(w, shared):
    """Say that nothing is in use that went before this epoch: between two bursts that is so."""
    state = shared.worker_state[w.number]
    store_release(state, WorkerWord.SEEN_EPOCH, load_acquire(shared.control, Control.EPOCH))


@glue
def _round(w, shared, batch, n_active):
    """One burst from each active port; returns (packets, ports still active)."""
    now_ticks = clock_ticks(w)
    packets = np.int64(0)
    kept = np.int64(0)
    for k in range(n_active):
        port = np.int64(w.active[k])
        more = False
        if w.io.fds[port] != NO_FD:
            count, more = _serve_queue(w, shared, batch, port, now_ticks)
            packets += count
            note_burst(w, shared, port, count)
            note_look(w, port, count)
            _note_epoch(w, shared)  # a round of floods to many ports is long to wait for
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
def run_worker(w, shared, batch):
    """Forward packets until `control[STOP]`; returns the number of rounds."""
    control = shared.control
    state = shared.worker_state[w.number]
    rounds = np.uint64(0)
    n_active = np.int64(0)
    packets = np.int64(0)
    idle_since = cycles()
    while load_acquire(control, Control.STOP) == np.uint64(0):
        _note_epoch(w, shared)
        rounds += np.uint64(1)
        state[WorkerWord.ROUNDS] += np.uint64(1)
        if (n_active == 0 and packets == 0) or rounds % np.uint64(EPOLL_PERIOD) == np.uint64(0):
            n_active = _poll(w, n_active, 0)
        packets, n_active = _round(w, shared, batch, _mark_polled(w, n_active))
        if packets > 0:
            idle_since = cycles()
            continue
        pause()  # a ring's index that is read all the time is slow to write for its driver
        quiet = n_active == 0 and w.unasked[0] == 0
        if quiet and cycles() - idle_since >= _spin_cycles(control):
            if not _ask_kicks(w):
                state[WorkerWord.SLEEPS] += np.uint64(1)
                n_active = _poll(w, n_active, SLEEP_MS)
            idle_since = cycles()
        elif quiet:
            sched_yield()  # whom the last packet woke may be waiting for this CPU
    return rounds
