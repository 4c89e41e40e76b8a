"""When a ring may go live, and where its parts may lie.

Spec: virtio 1.2 2.7 (split), 2.8 (packed), 2.7.10.1 and 2.8.10.1 (sizes); vhost-user "Ring states".
"""

from dpu_runtime.drivers.vhost_user import inflight
from dpu_runtime.drivers.vhost_user.errors import MessageError
from dpu_runtime.drivers.vhost_user.features import VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1
from dpu_runtime.drivers.vhost_user.layout import LOG_PAGE_BYTES, RING_SIZE_MAX
from dpu_runtime.drivers.vhost_user.memory_table import ADDRESS_END, check_user_area

SPLIT_BASE_MAX = 0xFFFF
PACKED_BASE_FIRST = 0x8000_8000  # both wrap counters are 1 at first, virtio 1.2 2.8.1
PACKED_INDEX_MASK = 0x7FFF  # 15 bits of index, one of wrap counter


def areas(state, ring):
    """(name, address, octets, alignment) of a ring's three parts; virtio 1.2 2.7, 2.8.10."""
    if state.packed:
        return (
            ("descriptor ring", ring.desc, 16 * ring.size, 16),
            ("driver event suppression", ring.driver, 4, 4),
            ("device event suppression", ring.device, 4, 4),
        )
    event = 2 if state.has(VIRTIO_F_EVENT_IDX) else 0
    return (
        ("descriptor table", ring.desc, 16 * ring.size, 16),
        ("available ring", ring.driver, 4 + 2 * ring.size + event, 2),
        ("used ring", ring.device, 4 + 8 * ring.size + event, 4),
    )


def check_size(state, ring, size):
    """Refuse a queue size that no ring has. Raises MessageError."""
    if not 1 <= size <= RING_SIZE_MAX:
        raise MessageError(f"ring {ring.ring}: size {size}, allowed is 1 to {RING_SIZE_MAX}")
    if state.features is not None and not state.packed and size & (size - 1):
        raise MessageError(f"ring {ring.ring}: size {size}, a split ring's is a power of two")


def check_areas(state, ring):
    """Refuse ring addresses that are out of line, or outside memory as far as it is known."""
    for name, address, octets, alignment in areas(state, ring):
        what = f"ring {ring.ring}: {name}"
        if address % alignment:
            raise MessageError(f"{what} at user {address:#x}: not aligned to {alignment}")
        if address + octets > ADDRESS_END:
            raise MessageError(f"{what} at user {address:#x}: passes the end of the address space")
        if state.regions:
            check_user_area(state.regions, address, octets, what)
    if ring.log is not None and state.log is not None:
        octets = areas(state, ring)[2][2]
        bits = 8 * state.log[2]
        if (ring.log + octets - 1) // LOG_PAGE_BYTES >= bits:
            raise MessageError(f"ring {ring.ring}: log address {ring.log:#x} is past a log of {bits} pages")


def check_base(state, ring, base):
    """Refuse a base that is no position in a ring of this format. Raises MessageError."""
    if not state.packed:
        if base > SPLIT_BASE_MAX:
            raise MessageError(
                f"ring {ring.ring}: base {base:#x}, at most {SPLIT_BASE_MAX:#x} in a split ring"
            )
        return
    for index in (base & PACKED_INDEX_MASK, base >> 16 & PACKED_INDEX_MASK):
        if ring.size and index >= ring.size:
            raise MessageError(f"ring {ring.ring}: base {base:#x} has index {index}, size is {ring.size}")


def first_base(state, base):
    """Cursors that a ring starts from, given SET_VRING_BASE's value (None: it did not come).

    DPDK names a packed ring's available position only: then the used one is the same.
    """
    if base is None:
        return PACKED_BASE_FIRST if state.packed else 0
    if state.packed and base >> 16 == 0:
        return base | base << 16
    return base


def _check_inflight(state, ring):
    """Refuse a ring that has no room in the in-flight buffer."""
    if state.inflight is None:
        return
    _, _, size, queues, queue_size = state.inflight
    if ring.ring >= queues or ring.size > queue_size:
        raise MessageError(
            f"ring {ring.ring} of {ring.size}: the in-flight buffer is for {queues} rings of {queue_size}"
        )
    needed = queues * inflight.queue_bytes(queue_size, state.packed)
    if size < needed:
        raise MessageError(f"ring {ring.ring}: the in-flight buffer has {size} octets of {needed}")


def settle(state):
    """Let every ring go live that can; refuse a state in which a live ring has no place.

    A ring waits until there is memory at all. Raises MessageError.
    """
    for ring in state.rings:
        if not ring.complete or not (ring.live or state.regions):
            continue
        if not state.regions:
            raise MessageError(f"ring {ring.ring} is live and needs memory; GET_VRING_BASE stops it")
        if not state.has(VIRTIO_F_VERSION_1):
            raise MessageError(f"ring {ring.ring}: VIRTIO_F_VERSION_1 was not negotiated")
        check_size(state, ring, ring.size)
        check_areas(state, ring)
        if not ring.live:
            check_base(state, ring, ring.base or 0)
            _check_inflight(state, ring)
            ring.base = first_base(state, ring.base)
            ring.serial += 1
            ring.live = True
