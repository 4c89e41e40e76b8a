"""Where the device stands in a packed ring, found in the ring itself.

Spec: virtio 1.2 2.8.1 (wrap counters), 2.8.6 (buffer IDs).
In:   a ring whose driver goes on after its back-end was lost, and cannot say where: QEMU knows the position
      of a packed ring only from GET_VRING_BASE, and gives the one it had before.
Not:  rings that a process of this daemon left: their rows say it.

The driver's position shows: it writes in order, so the marks of its lap end there. The descriptors in front
of it that are not marked as used wait for us; all before were given back. Only the first descriptor of
a chain is marked when it goes back, so what follows it with its buffer ID belongs to it. That leaves a doubt
in a ring without indirect descriptors that is nearly full of longer chains.
"""

import ctypes

from dpu_runtime.drivers.vhost_user.chain import DESC_BYTES
from dpu_runtime.drivers.vhost_user.packed import DESC_F_AVAIL, DESC_F_USED, WRAP_BIT

_ID_OFFSET = 12  # octets into a descriptor
_FLAGS_OFFSET = 14


def find_position(desc, size, indirect):
    """Cursor of the device in the ring of `size` descriptors at address `desc`.

    indirect  whether INDIRECT_DESC was negotiated: then drivers put one descriptor a chain into the ring
    """
    words = [_word(desc + DESC_BYTES * k) for k in range(size)]
    lap = words[0][1]
    end = next((k for k in range(size) if words[k][1] != lap), size)
    # Positions 0 .. end - 1 are of the driver's lap, the others of the one before; from `end` on it goes on.
    back = 0
    while back < size and _pending(words[(end - 1 - back) % size]):
        back += 1
    if not indirect:
        back -= _tail(words, end, back)
    start = end - back
    wrap = lap if start >= 0 and start < size else 1 - lap
    return start % size | wrap * WRAP_BIT


def _tail(words, end, back):
    """How many of the `back` descriptors before `end` belong to the chain that was given back before them."""
    size = len(words)
    if back in (0, size):
        return 0
    chain = words[(end - back - 1) % size][0]
    count = 0
    while count < back and words[(end - back + count) % size][0] == chain:
        count += 1
    return count


def _pending(word):
    return word[1] != word[2]


def _word(addr):
    """(buffer ID, mark of availability, mark of use) of the descriptor at `addr`."""
    flags = ctypes.c_uint16.from_address(addr + _FLAGS_OFFSET).value
    chain = ctypes.c_uint16.from_address(addr + _ID_OFFSET).value
    return chain, int(flags & DESC_F_AVAIL != 0), int(flags & DESC_F_USED != 0)
