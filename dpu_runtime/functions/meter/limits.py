"""Rate limits of a port: how deep the buckets are, and which of the two ways is used.

A limit is kept by kernels/meter/bucket.py, which drops what exceeds it. For what comes from a tap port's
interface there is a better place: a tbf queueing discipline on that interface, which makes senders wait
and loses nothing. A container without CAP_NET_ADMIN cannot change it; for one that has it, the meter stays
behind it, with enough room that shaped traffic never meets it.
"""

from dpu_runtime.kernels.meter.table import BURST_MAX, BURST_MIN

OCTET_BITS = 8
# A TCP sender with a round trip of microseconds fills any bucket at once and then loses whole windows, which
# it notices by a timeout of 200 ms (Linux TCP_RTO_MIN). The bucket holds what it may send meanwhile.
METER_DEPTH_MS = 250
SHAPER_DEPTH_MS = 10  # a queue needs to bridge timers only
SHAPER_QUEUE_MS = 50
BURST_DEFAULT_MIN = 2 * BURST_MIN  # two of the largest packets
SHAPER_DEPTH_MAX_MS = 200_000  # what the 32 bits of tbf's buffer hold


def _octets(rate, time_ms):
    return rate * time_ms // (OCTET_BITS * 1000)


def _at_least(octets):
    return min(max(octets, BURST_DEFAULT_MIN), BURST_MAX)


def meter_burst(rate, burst):
    """Octets of the meter's bucket for `rate` bits a second; `burst` is what was asked for, or None."""
    return burst or _at_least(_octets(rate, METER_DEPTH_MS))


def shaper_burst(rate, burst):
    """The same for a shaper."""
    most = max(_octets(rate, SHAPER_DEPTH_MAX_MS), 1)
    return min(burst or _at_least(_octets(rate, SHAPER_DEPTH_MS)), most)


def shaper_queue(rate, burst):
    """Octets that may wait in a shaper with this burst."""
    return burst + _at_least(_octets(rate, SHAPER_QUEUE_MS))


def burst_behind_shaper(rate, burst):
    """Octets of the meter's bucket behind a shaper: its burst, and what a late worker finds at once."""
    return min(shaper_burst(rate, burst) + _at_least(_octets(rate, METER_DEPTH_MS)), BURST_MAX)
