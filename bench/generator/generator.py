"""A trial: packets of a pool at a rate for some seconds, and what became of them.

In:   ports (ports.py, host_ports.py), a Pool.   Out: Report.
"""

import functools
import time
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

from bench.generator import histogram
from bench.generator.layout import FRAME_BYTES_MIN, TICK_SHIFT, Count
from bench.generator.loop import SCHEDULE_RATE, SCHEDULE_START, make_traffic, read_cycles
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.plane.worker_thread import tsc_hz

SLICE_S = 0.1  # in the loop, between two looks at progress and signals
DRAIN_SLICE_S = 0.005
QUIET_S = 0.05  # nothing came for so long: nothing is under way
DRAIN_S_MAX = 2.0
ETHERTYPE_EXPERIMENTAL = 0x88B5  # IEEE 802 9.2.4, local experiments
US_PER_S = 1e6
REFUSED = (Drop.TX_ERROR, Drop.OVERSIZE, Drop.PORT_DOWN)

cycles_hz = functools.cache(tsc_hz)


class GeneratorError(RuntimeError):
    """The interface takes none of the packets."""


@dataclass(frozen=True)
class Report:
    """What became of a trial.

    seconds     from the first packet on, as long as packets were sent
    sent        packets that the port took, `octets` in them, without FCS
    unsent      times a packet was put off, as the port had no room
    slipped_s   time by which the schedule was put off, as more than a burst was due: the rate was lower
    received    packets that came whole, duplicates once; the rest of `sent` is lost, corrupted ones too
    stale       came so late that nobody knows whether for the first time; lost as well
    foreign     packets of somebody else, or of an earlier trial
    missed      that the receiving socket had no room for: the generator's own loss
    only_sends  there is no receiving end: nothing is known about what was lost
    """

    seconds: float
    sent: int
    octets: int
    unsent: int
    slipped_s: float
    received: int
    duplicated: int
    reordered: int
    stale: int
    corrupted: int
    foreign: int
    missed: int
    latencies: HdrHistogram
    only_sends: bool = False

    @property
    def lost(self):
        """Packets that were sent and did not come whole."""
        return self.sent - self.received

    @property
    def loss_ratio(self):
        """Lost of sent."""
        return self.lost / self.sent if self.sent else 0.0

    @property
    def rate(self):
        """Packets sent a second."""
        return self.sent / self.seconds

    @property
    def gbits(self):
        """Gbit/s sent, of frames without FCS."""
        return self.octets * 8e-9 / self.seconds

    def latency_us(self, percent):
        """Percentile of the latencies in us; 100: the highest; 0.0 without any."""
        ticks = self.latencies.get_value_at_percentile(percent) if self.latencies.total_count else 0
        return (ticks << TICK_SHIFT) / cycles_hz() * US_PER_S


class Generator:
    """A pool of packets on ports; `trial` sends them. Both ends are in the calling thread.

    announce  MAC addresses (source, destination) of the packets: the receiving end says first where it is
    """

    def __init__(self, ports, pool, announce=None):
        self.ports = ports
        self.pool = pool
        self._stream = 0
        self._announcement = None
        if announce:
            source, destination = (bytes.fromhex(mac.replace(":", "")) for mac in announce)
            front = source + destination + ETHERTYPE_EXPERIMENTAL.to_bytes(2, "big")
            self._announcement = front.ljust(FRAME_BYTES_MIN, b"\0")
        self._arrays = make_traffic(pool)
        self._traffic = Lent(self._arrays)
        self.ports.exchange(self._traffic, 0, 0, 0, False)  # compiles, or loads

    def trial(self, rate, seconds, progress=None):
        """Send for `seconds`, then wait for the last packet; returns a Report.

        rate      packets a second, 0: as many as go
        progress  called with (seconds so far, packets sent, packets received) now and then
        Raises GeneratorError when the interface refuses packets.
        """
        hz = cycles_hz()
        self._begin(rate / hz)
        if self._announcement:
            self.ports.announce(self._announcement, self._traffic)
        epoch = int(read_cycles())
        end = epoch + int(seconds * hz)
        now = epoch
        while now < end:
            self._slice(epoch, min(now + int(SLICE_S * hz), end), True)
            now = int(read_cycles())
            self._raise_refused()
            if progress:
                progress((now - epoch) / hz, *self._so_far())
        self._drain(epoch, hz)
        return self._report((now - epoch) / hz, hz)

    def _begin(self, packets_a_cycle):
        self._stream = (self._stream + 1) % 256
        for name in ("counts", "seen", "latencies", "drops"):
            getattr(self._arrays, name)[:] = 0
        self._arrays.schedule[SCHEDULE_START] = 0.0
        self._arrays.schedule[SCHEDULE_RATE] = packets_a_cycle
        self.ports.begin()

    def _slice(self, epoch, until, sending):
        self.ports.exchange(self._traffic, self._stream, epoch, until, sending)

    def _raise_refused(self):
        """Raise GeneratorError when packets cannot be sent, but for want of room."""
        found = {why.name: int(self._arrays.drops[why]) for why in REFUSED if self._arrays.drops[why]}
        if found:
            text = ", ".join(f"{count} {name}" for name, count in found.items())
            raise GeneratorError(f"{self.ports.name} refuses packets: {text}")

    def _so_far(self):
        counts = self._arrays.counts
        once = counts[Count.RECEIVED] - counts[Count.DUPLICATED] - counts[Count.STALE]
        return int(counts[Count.SENT]), int(once)

    def _drain(self, epoch, hz):
        """Receive until all of it came, or nothing comes any more."""
        began = time.monotonic()
        quiet_since, before = began, None
        while time.monotonic() - began < DRAIN_S_MAX:
            sent, received = self._so_far()
            if self.ports.only_sends or received == sent:
                return
            if received != before:
                quiet_since, before = time.monotonic(), received
            elif time.monotonic() - quiet_since > QUIET_S:
                return
            self._slice(epoch, int(read_cycles()) + int(DRAIN_SLICE_S * hz), False)

    def _report(self, seconds, hz):
        counts = {count: int(self._arrays.counts[count]) for count in Count}
        return Report(
            seconds=seconds,
            sent=counts[Count.SENT],
            octets=counts[Count.SENT_OCTETS],
            unsent=counts[Count.UNSENT],
            slipped_s=counts[Count.SLIPPED] / hz,
            received=self._so_far()[1],
            duplicated=counts[Count.DUPLICATED],
            reordered=counts[Count.REORDERED],
            stale=counts[Count.STALE],
            corrupted=counts[Count.CORRUPTED],
            foreign=counts[Count.FOREIGN],
            missed=self.ports.missed(),
            latencies=histogram.histogram(self._arrays.latencies),
            only_sends=self.ports.only_sends,
        )

    def close(self):
        """Close the ports. Twice is allowed."""
        self.ports.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
