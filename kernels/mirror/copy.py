"""Mirror: copies of packets to another port.

In:   the packets at hand; marks["rule"].   Out: packets made, kernels/stage.py.
Not:  copies of copies: what functions made does not pass here, Stage.made.
"""

import numpy as np

from dpu_runtime.kernels.burst import EGRESS, Word
from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.mirror.layout import IN, NO_RULE, OUT
from dpu_runtime.kernels.octets.memory import load_acquire
from dpu_runtime.kernels.stage import emit_copy

NO_ROOM = 0  # place in the function's drops
_0 = np.uint64(0)
_1 = np.uint64(1)


@kernel
def copy_port(burst, state, port, count):
    """Copy the packets at hand to the ports that mirror `port`; all of them stay.

    burst  Burst                 in packets; out packets made
    state  State, MIRROR_LAYOUT  in tables; in/out counters.copied, uint64[MIRRORS_MAX, 2], packets and octets
    """
    half = load_acquire(state.tables.version, 0) & _1
    way = OUT if burst.words[Word.HOOK] == EGRESS else IN
    mirrors = state.tables.of_port[np.int64(half), port, way]
    for k in range(count):
        packet = np.int64(burst.packets[k])
        number = np.int64(0)
        left = mirrors
        while left != _0:
            if left & _1 != _0:
                copy_packet(burst, state, half, packet, number)
            left >>= _1
            number += 1
    return count


@kernel
def copy_rule(burst, state, port, count):
    """Copy the packets on which a mirrored rule decided, those that it dropped too.

    The arguments are copy_port's, but for the marks of the packets, which are read.
    """
    half = load_acquire(state.tables.version, 0) & _1
    for k in range(count):
        _copy_marked(burst, state, half, np.int64(burst.packets[k]))
    for k in range(np.int64(burst.words[Word.GONE])):
        _copy_marked(burst, state, half, np.int64(burst.gone[k]))
    return count


@helper
def _copy_marked(burst, state, half, packet):
    rule = burst.marks[packet]["rule"]
    if rule == NO_RULE:
        return
    mirrors = state.tables.mirrors[np.int64(half)]
    for number in range(np.int64(state.tables.count[np.int64(half)])):
        if mirrors[number]["rule"] == rule:
            copy_packet(burst, state, half, packet, number)


@helper
def copy_packet(burst, state, half, packet, number):
    """Make the copy of mirror `number`; count it if it will leave."""
    mirror = state.tables.mirrors[np.int64(half), number]
    octets = np.int64(mirror["octets"])
    if emit_copy(burst, state, packet, np.int64(mirror["to"]), octets, NO_ROOM):
        size = np.int64(burst.meta[packet]["frame_len"])
        state.counters.copied[number, 0] += _1
        state.counters.copied[number, 1] += np.uint64(min(size, octets) if octets != 0 else size)
