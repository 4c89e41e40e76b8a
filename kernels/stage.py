"""What a stage does with packets of a burst, and how it is called.

A stage is a kernel `entry(burst, state, port, count) -> count`. It looks at the rows `burst.packets[:count]`:
at ingress they came from `port`, at egress they leave by it. It returns how many are left, in their order.

    burst  Burst, kernels/burst.py      state  State of its function and hook

What is dropped leaves the list. At ingress and in `forward` it gets a verdict too; at egress it gets none,
as another copy of the packet may pass.
"""

from collections import namedtuple

import numpy as np

from dpu_runtime.kernels.burst import EGRESS, SPARE_ROWS, WANTS_RULE, Service, Word
from dpu_runtime.kernels.compile.entry import python_object
from dpu_runtime.kernels.compile.jit import PYTHON_MODE, helper, primitive
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import BATCH_SIZE, PORT_UP, ROW_BYTES, VERDICT_DROP, VIRTIO_NET_HDR_GSO_NONE
from dpu_runtime.kernels.octets.memory import address_of, copy_memory, load_u64

if not PYTHON_MODE:
    from numba import types

    from dpu_runtime.kernels.compile.entry import call_entry

State = namedtuple(
    "State",
    [
        "tables",  # the function's arrays in shared memory, a namedtuple
        "private",  # this worker's own, what Function.private makes, or ()
        "counters",  # this worker's rows of Function.counters, a namedtuple
        "drops",  # uint64[n], this worker's, in the order of Function.drops
        "first_drop",  # int, what meta.drop_reason says for the first of them
        "number",  # int, of the function, for punt
    ],
)

_0 = np.uint64(0)
_1 = np.uint64(1)
_WANTS_RULE = np.uint64(WANTS_RULE)
_PORT_UP = np.uint32(PORT_UP)
_ROW_BYTES = np.uint64(ROW_BYTES)
NO_ROW = -1


@helper
def drop(burst, state, packet, reason):
    """Drop `packet`, a row, for a reason of the function: a place in Function.drops."""
    state.drops[reason] += _1
    if burst.words[Word.HOOK] != EGRESS:
        burst.meta[packet]["verdict"] = VERDICT_DROP
        burst.meta[packet]["drop_reason"] = state.first_drop + reason
    if burst.words[Word.WANTED] & _WANTS_RULE != _0:
        burst.gone[burst.words[Word.GONE]] = packet
        burst.words[Word.GONE] += _1


@helper
def spare_row(burst):
    """A row that no packet uses, NO_ROW when all are in use."""
    used = np.int64(burst.words[Word.SPARE])
    if used >= SPARE_ROWS:
        return np.int64(NO_ROW)
    burst.words[Word.SPARE] = np.uint64(used + 1)
    return np.int64(BATCH_SIZE + used)


@helper
def copy_row(burst, source, target):
    """Copy the front of a packet into another row; its payload stays where it is, for both."""
    burst.meta[target] = burst.meta[source]
    copy_memory(address_of(burst.headers[target]), address_of(burst.headers[source]), _ROW_BYTES)
    burst.meta[target]["repeats"] = 0


@helper
def own_row(burst, place):
    """A row of its own for `packets[place]`, before it is rewritten while other copies share its row.

    Returns the row, which is in the list instead then, or NO_ROW when none is free.
    """
    packet = np.int64(burst.packets[place])
    if burst.copies[packet] <= 1 or burst.words[Word.HOOK] != EGRESS:
        return packet
    row = spare_row(burst)
    if row != NO_ROW:
        copy_row(burst, packet, row)
        burst.copies[packet] -= np.uint16(1)
        burst.copies[row] = 1
        burst.packets[place] = row
    return row


@helper
def emit(burst, state, row, port, no_room):
    """Have `row`, a spare one that the function filled, leave by `port`.

    It passes the stages of egress that say so (Stage.made): limits and tags, no rules.

    row      NO_ROW counts a packet that found no room, under the drop reason `no_room` of the function

    Returns whether it will leave.
    """
    burst.services[Service.MADE] += _1
    if row == NO_ROW:
        state.drops[no_room] += _1
        return False
    if not np.uint32(burst.ports[port]["flags"]) & _PORT_UP:
        burst.drops[Drop.PORT_DOWN] += _1
        return False
    send_later(burst, row, port)
    return True


@helper
def send_later(burst, row, port):
    """Put `row`, a spare one, on the list of packets that leave behind the burst."""
    made = np.int64(burst.words[Word.MADE])
    burst.made_packet[made] = row
    burst.made_port[made] = port
    burst.words[Word.MADE] = np.uint64(made + 1)


@helper
def emit_copy(burst, state, packet, port, octets, no_room):
    """Have a copy of `packet` leave by `port`, its first `octets` only if that is not 0.

    The copy shares the payload, so the packet is not merged and its frame not handed on. A copy that is cut
    owes no checksum and is not segmented. Returns whether it will leave; else it is counted, emit().
    """
    row = spare_row(burst)
    if row != NO_ROW:
        copy_row(burst, packet, row)
        burst.copies[packet] += np.uint16(1)
        m = burst.meta[row]
        m["vlan"] = 0  # tags stay as they are
        if octets != 0 and octets < np.int64(m["frame_len"]):
            cut(m, octets)
    return emit(burst, state, row, port, no_room)


@helper
def cut(m, octets):
    """Shorten the packet of meta `m` to its first `octets`, 14 or more."""
    in_row = np.int64(m["header_end"]) - np.int64(m["l2_offset"])
    m["frame_len"] = octets
    if octets <= in_row:
        m["header_end"] = np.int64(m["l2_offset"]) + octets
        m["payload_len"] = 0
        m["payload_iov"] = 0
    elif m["payload_iov"] == 0:
        m["payload_len"] = octets - in_row
    else:  # of pieces the first one at most: their list is the packet's
        first = np.uint64(m["payload_iov"])
        behind = min(np.int64(load_u64(first + np.uint64(8))), octets - in_row)
        m["frame_len"] = in_row + behind
        m["payload_addr"] = load_u64(first)
        m["payload_len"] = behind
        m["payload_iov"] = 0
    m["offload"] = 0
    m["gso_type"] = VIRTIO_NET_HDR_GSO_NONE
    m["gso_size"] = 0


def stage_form(burst, state):
    """Types of a stage's arguments for a burst and a state, numba's types, and of what it returns."""
    return (burst, state, types.int64, types.int64), types.int64


def _py_call_stage(entry, burst, state, port, count):
    return np.int64(python_object(entry)(burst, python_object(state), port, count))


@primitive(_py_call_stage)
def call_stage(typingctx, entry, burst, state, port, count):
    """Call a stage by addresses, uint64: of its machine code, and of its state. Returns packets left."""
    passed, returned = stage_form(burst, types.uint64)
    return call_entry("stage", returned, passed, burst)
