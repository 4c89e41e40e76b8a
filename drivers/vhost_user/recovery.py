"""Where a ring goes on, when a process before this one may have died at any instruction.

Spec: vhost-user "Inflight I/O tracking" ("When reconnecting"); virtio 1.2 2.7.8, 2.8.
In:   the ring's row, which outlives the process; the ring; the in-flight buffer, which outlives the daemon.
Out:  the cursor; chains that were about to be given back are; the buffer says that nothing is in flight.
Not:  a driver that lies meanwhile: it gets what it asked for, inside its own ring.

Chains go back in order, so those that were in flight are the ones behind the cursor: they are taken again.
"""

import ctypes

from dpu_runtime.drivers.vhost_user import inflight_log as log
from dpu_runtime.drivers.vhost_user.chain import DESC_BYTES, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE
from dpu_runtime.drivers.vhost_user.features import VIRTIO_F_INDIRECT_DESC
from dpu_runtime.drivers.vhost_user.packed import DESC_F_AVAIL, DESC_F_USED, EVENT_FLAGS_DISABLE, WRAP_BIT
from dpu_runtime.drivers.vhost_user.position import find_position

INDEX_OFFSET = 2  # octets, of the available and the used ring


def recover(row, packed, resumed, writable):
    """Put the cursor of a ring, which no worker looks at, where the last process left off.

    row       RING_DTYPE record with `next` and `pending`: as that process left them (`resumed`), or the base
    writable  whether its chains are the driver's receive buffers

    Returns whether a back-end before this one asked the driver not to kick: then the ring runs at once.
    """
    if packed:
        return _recover_packed(row, resumed, writable)
    return _recover_split(row)


def forget(row):
    """The driver knows where a ring stopped and may start it anywhere: what the buffer says is void."""
    if row["inflight"]:
        _u16(int(row["inflight"]) + log.REGION_VERSION).value = 0


def _u8(addr):
    return ctypes.c_uint8.from_address(addr)


def _u16(addr):
    return ctypes.c_uint16.from_address(addr)


def _u64(addr):
    return ctypes.c_uint64.from_address(addr)


def _recover_split(row):
    """A split ring's used index is what the driver believes, so it is the truth."""
    used = _u16(int(row["device"]) + INDEX_OFFSET).value
    row["next"] = row["pending"] = used
    region, size = int(row["inflight"]), int(row["size"])
    if region:
        if not _is_ours(region, size):
            _begin_region(region, size, log.SPLIT_STATE_BYTES * size + log.SPLIT_DESC)
        else:
            _finish_batch(region, size, used)
        _u16(region + log.SPLIT_USED_IDX).value = used
    return used not in (0, _u16(int(row["driver"]) + INDEX_OFFSET).value)


def _finish_batch(region, size, used):
    """Clear what the driver got and the buffer still calls in flight; it may say anything."""
    head = _u16(region + log.SPLIT_LAST_BATCH_HEAD).value
    count = (used - _u16(region + log.SPLIT_USED_IDX).value) & 0xFFFF
    for _ in range(min(count, size)):
        if head >= size:
            return
        state = region + log.SPLIT_DESC + head * log.SPLIT_STATE_BYTES
        _u8(state + log.STATE_INFLIGHT).value = 0
        head = _u16(state + log.SPLIT_NEXT).value


def _recover_packed(row, resumed, writable):
    """Give back what was about to be, and take the cursor behind it."""
    region, size = int(row["inflight"]), int(row["size"])
    if region and not resumed and _is_ours(region, size):
        row["next"], row["pending"] = _packed_cursors(region, size, int(row["next"]))
    elif not resumed and row["next"] == WRAP_BIT:  # the first position; or the driver cannot say
        indirect = bool(int(row["features"]) >> VIRTIO_F_INDIRECT_DESC & 1)
        row["next"] = row["pending"] = find_position(int(row["desc"]), size, indirect)
    if row["pending"] != row["next"]:
        _finish_packed(row, writable)
    if region:
        _begin_region(region, size, log.PACKED_STATE_BYTES * size + log.PACKED_DESC)
        for entry in range(size - 1):
            _u16(region + log.PACKED_DESC + entry * log.PACKED_STATE_BYTES + log.PACKED_NEXT).value = (
                entry + 1
            )
        position, wrap = int(row["next"]) % WRAP_BIT, int(row["next"]) // WRAP_BIT
        for index, counter in (
            (log.PACKED_USED_IDX, log.PACKED_USED_WRAP),
            (log.PACKED_OLD_USED_IDX, log.PACKED_OLD_USED_WRAP),
        ):
            _u16(region + index).value, _u8(region + counter).value = position, wrap
    # The driver will not kick a back-end that it believes to poll.
    return _u16(int(row["device"]) + 2).value == EVENT_FLAGS_DISABLE


def _packed_cursors(region, size, base):
    """What the buffer says of the cursor and of the end of a batch; `base` when it makes no sense."""
    old, new = _u16(region + log.PACKED_OLD_USED_IDX).value, _u16(region + log.PACKED_USED_IDX).value
    old_wrap, new_wrap = (
        _u8(region + at).value & 1 for at in (log.PACKED_OLD_USED_WRAP, log.PACKED_USED_WRAP)
    )
    if old >= size or new >= size:
        return base, base
    cursor = old | old_wrap * WRAP_BIT
    if (old, old_wrap) == (new, new_wrap):
        return cursor, cursor
    # Index and wrap counter are two stores, so the one tells what the other must be.
    return cursor, new | (old_wrap ^ (new <= old)) * WRAP_BIT


def _finish_packed(row, writable):
    """Give back the chains from `next` up to the first that was given back, the last of them first."""
    desc, size = int(row["desc"]), int(row["size"])
    cursor, end = int(row["next"]), int(row["pending"])
    left = (end % WRAP_BIT - cursor % WRAP_BIT) % size or size
    chains = []
    while left > 0 and _is_available(desc, cursor):
        word, count, octets = _walk(desc, size, cursor, left)
        chains.append((cursor, word >> 32 & 0xFFFF, octets if writable else 0))
        left -= count
        cursor = _after(size, cursor, count)
    for cursor, chain, written in reversed(chains):
        flags = (DESC_F_AVAIL | DESC_F_USED) * (cursor // WRAP_BIT) | DESC_F_WRITE * (written > 0)
        _u64(desc + DESC_BYTES * (cursor % WRAP_BIT) + 8).value = written | chain << 32 | flags << 48
    row["next"] = end


def _is_available(desc, cursor):
    flags = _u16(desc + DESC_BYTES * (cursor % WRAP_BIT) + 14).value
    return flags & (DESC_F_AVAIL | DESC_F_USED) == (DESC_F_AVAIL if cursor // WRAP_BIT else DESC_F_USED)


def _after(size, cursor, count):
    position, wrap = cursor % WRAP_BIT + count, cursor & WRAP_BIT
    return (position - size) | (wrap ^ WRAP_BIT) if position >= size else position | wrap


def _walk(desc, size, cursor, limit):
    """(last descriptor's second word, descriptors, octets) of the chain at `cursor`.

    What was written to a receive buffer is not known any more; the frame in it is whole, so all of it counts.
    """
    count = octets = 0
    while True:
        word = _u64(desc + DESC_BYTES * (cursor % WRAP_BIT) + 8).value
        flags = word >> 48
        count += 1
        octets += 0 if flags & DESC_F_INDIRECT else word & 0xFFFF_FFFF
        if not flags & DESC_F_NEXT or count >= limit:
            return word, count, min(octets, 0xFFFF_FFFF)
        cursor = _after(size, cursor, 1)


def _is_ours(region, size):
    """Whether a back-end has set the buffer up for a ring of this size."""
    version = _u16(region + log.REGION_VERSION).value
    return version == log.VERSION and _u16(region + log.REGION_DESC_NUM).value == size


def _begin_region(region, size, octets):
    ctypes.memset(region, 0, octets)
    _u16(region + log.REGION_VERSION).value = log.VERSION
    _u16(region + log.REGION_DESC_NUM).value = size
