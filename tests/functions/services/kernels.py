"""Stages that use the services of the frame, each for all packets it sees."""

import numpy as np

from dpu_runtime.kernels.burst import Word
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.hold import NO_PLACE, give_up, hold, release
from dpu_runtime.kernels.punt import punt, punt_copy
from dpu_runtime.kernels.stage import NO_ROW, copy_row, drop, emit, emit_copy, own_row, spare_row

NO_ROOM, HOLD_FULL, GIVEN_UP, PUNT_FULL = range(4)  # places in the function's drops
# words of `settings`
PORT, OCTETS, HELD_FIRST, HELD_END, HOLD_NS = range(5)


@kernel
def reply(burst, state, port, count):
    """Emit: an answer of its own to every packet, addresses swapped, out of the port it came by."""
    for k in range(count):
        packet = np.int64(burst.packets[k])
        row = spare_row(burst)
        if row != NO_ROW:
            copy_row(burst, packet, row)
            at = np.int64(burst.meta[row]["l2_offset"])
            for octet in range(6):
                first = burst.headers[row, at + octet]
                burst.headers[row, at + octet] = burst.headers[row, at + 6 + octet]
                burst.headers[row, at + 6 + octet] = first
        emit(burst, state, row, port, NO_ROOM)
    return count


@kernel
def copy(burst, state, port, count):
    """Emit: a copy of every packet, cut to OCTETS, to PORT."""
    for k in range(count):
        packet = np.int64(burst.packets[k])
        to, octets = np.int64(state.tables.settings[PORT]), np.int64(state.tables.settings[OCTETS])
        emit_copy(burst, state, packet, to, octets, NO_ROOM)
    return count


@kernel
def delay(burst, state, port, count):
    """Hold: keep packets on their way out until the task lets them go; the oldest first."""
    settings = state.tables.settings
    for k in range(count):
        packet = np.int64(burst.packets[k])
        place = hold(burst, packet)
        if place == NO_PLACE:
            drop(burst, state, packet, HOLD_FULL)
            continue
        at = np.int64(settings[HELD_END]) % len(state.private.places)
        state.private.places[at] = place
        state.private.ports[at] = port
        state.private.due[at] = burst.words[Word.NOW_NS] + settings[HOLD_NS]
        settings[HELD_END] += np.uint64(1)
    return np.int64(0)


@kernel
def let_go(burst, state, port, count):
    """Task: release what is due; a packet to an even port is given up instead."""
    settings = state.tables.settings
    while settings[HELD_FIRST] < settings[HELD_END]:
        at = np.int64(settings[HELD_FIRST]) % len(state.private.places)
        if state.private.due[at] > burst.words[Word.NOW_NS]:
            break
        place, to = np.int64(state.private.places[at]), np.int64(state.private.ports[at])
        if to % 2 == 0:
            give_up(burst, state, place, GIVEN_UP)
        elif not release(burst, place, to):
            break
        settings[HELD_FIRST] += np.uint64(1)
    return np.int64(0)


@kernel
def tell(burst, state, port, count):
    """Punt: packets of IPv4 go to the control process, of the others a copy does."""
    kept = np.int64(0)
    for k in range(count):
        packet = np.int64(burst.packets[k])
        if burst.meta[packet]["ethertype"] == 0x0800:
            punt(burst, state, packet, 4, PUNT_FULL)
            continue
        punt_copy(burst, state, packet, 6, PUNT_FULL)
        burst.packets[kept] = packet
        kept += 1
    return kept


@kernel
def stamp(burst, state, port, count):
    """A row of its own: write the port it leaves by into the last octet of the destination address."""
    kept = np.int64(0)
    for k in range(count):
        row = own_row(burst, k)
        if row == NO_ROW:
            drop(burst, state, np.int64(burst.packets[k]), NO_ROOM)
            continue
        burst.headers[row, np.int64(burst.meta[row]["l2_offset"]) + 5] = port
        burst.packets[kept] = row
        kept += 1
    return kept
