"""Rate limits: a packet passes while its port's token bucket holds anything, else it is dropped.

Spec: RFC 2697 with one bucket and two colours; written as the virtual scheduling algorithm of ITU-T
      I.371 annex A, which is the same bucket with one word of state: the time at which everything that
      passed so far is paid for at the rate. It is never further back than the burst takes (a full bucket);
      when it lies in the future, the bucket is empty.
In:   verdict, frame_len, gso_type, gso_size, l2_offset, l5_offset; the time.
Out:  verdict and drop_reason, or a shorter `order`.
Not:  queues: what exceeds the rate is lost, not late. Colours that come with a packet.

Counted are the octets of frames from the Ethernet header on, without FCS, as Linux tc counts them; a GSO
packet counts as the segments it will be cut into, headers and all (Linux qdisc_pkt_len_init). The last
packet may take more than the bucket holds, and leaves it in debt. So the rate holds in the long run for large
packets as for small ones, and a GSO packet larger than the bucket is not refused for ever: in a time T at
most rate * T + burst + one packet pass.

Workers share a row without a lock. Each judges its burst by the time it read and adds what passed with a
compare-and-exchange. Two that judge at once may both find the same tokens; both are charged, so the
next packets pay.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import VERDICT_PASS, VIRTIO_NET_HDR_GSO_NONE
from dpu_runtime.kernels.meter.table import COST_SHIFT, TIME_SHIFT, WORD_COST, WORD_DEPTH, WORD_PAID
from dpu_runtime.kernels.octets.memory import compare_exchange, load_acquire
from dpu_runtime.kernels.verdict import drop_packet

CHARGE_TRIES = 64  # each failure is another worker's success

_OVER_RX = int(Drop.METER_RX)
_OVER_TX = int(Drop.METER_TX)
_0 = np.uint64(0)
_1 = np.uint64(1)
_TIME_SHIFT = np.uint64(TIME_SHIFT)
_COST_SHIFT = np.uint64(COST_SHIFT)


@helper
def metered_bytes(record):
    """Octets that packet of meta `record` counts."""
    frame_len = np.uint64(record["frame_len"])
    size = np.uint64(record["gso_size"])
    header_bytes = np.uint64(record["l5_offset"]) - np.uint64(record["l2_offset"])
    if record["gso_type"] == VIRTIO_NET_HDR_GSO_NONE or size == _0 or header_bytes >= frame_len:
        return frame_len
    segments = (frame_len - header_bytes + size - _1) // size
    return frame_len + (segments - _1) * header_bytes


@helper
def paid_time(words, now):
    """Time up to which the row's octets are paid, at `now`: no earlier than a full bucket says."""
    full = now - min(now, words[WORD_DEPTH])
    return max(load_acquire(words, WORD_PAID), full)


@helper
def duration(words, octets):
    """Time that `octets` take at the row's rate."""
    return (octets * words[WORD_COST]) >> _COST_SHIFT


@helper
def charge_meter(words, now, octets):
    """Book `octets` that passed."""
    for _ in range(CHARGE_TRIES):
        seen = load_acquire(words, WORD_PAID)
        full = now - min(now, words[WORD_DEPTH])
        if compare_exchange(words, WORD_PAID, seen, max(seen, full) + duration(words, octets)):
            return


@kernel
def meter_rx(meta, count, words, now_ns, drops):
    """Drop those of a burst's first `count` packets that exceed the limit of the port they came from.

    meta    META_DTYPE[n]              in/out, verdict, drop_reason
    count   int, 0 <= count <= n       packets in the batch, all of one port
    words   uint64[METER_WORDS]        in/out, the port's row
    now_ns  uint64                     a clock that does not go back
    drops   uint64[DROP_REASON_COUNT]  in/out, packets, added to

    Returns packets passed.
    """
    now = np.uint64(now_ns) << _TIME_SHIFT
    paid = paid_time(words, now)
    octets = _0
    passed = 0
    for i in range(count):
        if meta[i]["verdict"] != VERDICT_PASS:
            continue
        if paid + duration(words, octets) < now:
            octets += metered_bytes(meta[i])
            passed += 1
        else:
            drop_packet(meta[i], _OVER_RX, drops)
    if octets:
        charge_meter(words, now, octets)
    return passed


@kernel
def meter_tx(meta, order, count, words, now_ns, drops):
    """Take out of `order[:count]` what exceeds the limit of the port the packets go to.

    meta    META_DTYPE[n]              in
    order   uint16[n]                  in/out, packets of the batch in the order they leave
    words   uint64[METER_WORDS]        in/out, the port's row
    now_ns  uint64                     a clock that does not go back
    drops   uint64[DROP_REASON_COUNT]  in/out, packets, added to

    A packet may leave by other ports too, so its verdict stays. Returns packets left in `order`.
    """
    now = np.uint64(now_ns) << _TIME_SHIFT
    paid = paid_time(words, now)
    octets = _0
    kept = 0
    for k in range(count):
        if paid + duration(words, octets) < now:
            octets += metered_bytes(meta[np.int64(order[k])])
            order[kept] = order[k]
            kept += 1
    drops[_OVER_TX] += np.uint64(count - kept)
    if octets:
        charge_meter(words, now, octets)
    return kept
