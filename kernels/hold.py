"""Holding a packet: a function keeps it beyond its burst, and lets it go later.

A shaper does, a reassembly, a queue for a neighbour's address. The payload is copied out of the driver's
memory. A worker holds HOLD_MAX packets at most; they are lost with it, and counted like those in its hands.

    place = hold(burst, packet)           the packet leaves the list; NO_PLACE: drop it
    release(burst, place, port)           it leaves by `port` behind this burst; False: no row is free yet
    give_up(burst, state, place, reason)  it is dropped

A released packet passes those stages of its port's egress that packets pass which functions made.
"""

import numpy as np

from dpu_runtime.kernels.burst import Service, Word
from dpu_runtime.kernels.checksum.payload import copy_octets
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.layout import ROW_BYTES
from dpu_runtime.kernels.octets.memory import address_of, copy_memory
from dpu_runtime.kernels.stage import NO_ROW, send_later, spare_row

NO_PLACE = -1
_1 = np.uint64(1)
_ROW_BYTES = np.uint64(ROW_BYTES)


@helper
def hold(burst, packet):
    """Keep a copy of `packet`, a row, which the stage takes out of its list.

    Returns its place, or NO_PLACE.
    """
    pool = burst.pool
    free = np.int64(pool.free[0])
    if free == 0:
        return np.int64(NO_PLACE)
    place = np.int64(pool.free[free])
    pool.free[0] = free - 1
    copy_memory(address_of(pool.headers[place]), address_of(burst.headers[packet]), _ROW_BYTES)
    pool.meta[place] = burst.meta[packet]
    m = pool.meta[place]
    payload = address_of(pool.payloads[place])
    size = np.uint64(m["payload_len"])
    copy_octets(burst.headers, burst.meta, packet, np.uint64(m["header_end"]), size, payload)
    m["payload_addr"] = payload
    m["payload_iov"] = 0
    m["repeats"] = 0
    burst.services[Service.HELD] += _1
    burst.words[Word.TAKEN] += _1
    return place


@helper
def release(burst, place, port):
    """Have the packet at `place` leave by `port`; returns False, and keeps it, when no row is free."""
    row = spare_row(burst)
    if row == NO_ROW:
        return False
    copy_memory(address_of(burst.headers[row]), address_of(burst.pool.headers[place]), _ROW_BYTES)
    burst.meta[row] = burst.pool.meta[place]
    send_later(burst, row, port)
    _leave(burst, place)
    return True


@helper
def give_up(burst, state, place, reason):
    """Drop the packet at `place` for a reason of the function, a place in Function.drops."""
    state.drops[reason] += _1
    _leave(burst, place)


@helper
def _leave(burst, place):
    """The place is free once the burst is sent: until then its payload may be on the way out."""
    freed = np.int64(burst.words[Word.FREED])
    burst.pool.freed[freed] = place
    burst.words[Word.FREED] = np.uint64(freed + 1)
    burst.services[Service.HELD] -= _1


@helper
def free_places(burst):
    """Have the places of packets that were sent or dropped free again."""
    pool = burst.pool
    free = np.int64(pool.free[0])
    for k in range(np.int64(burst.words[Word.FREED])):
        free += 1
        pool.free[free] = pool.freed[k]
    pool.free[0] = free
    burst.words[Word.FREED] = np.uint64(0)
