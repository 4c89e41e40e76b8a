"""A wire between two virtio rings and nothing else: what moving descriptors and octets costs on a machine.

Spec: virtio 1.2 2.7 (split virtqueues). One descriptor a frame, used in order.
Not:  anything is checked, nobody is notified.

    driver, one CPU      hands each frame that it received over again; half a ring of them goes round
    device, another CPU  copies each from the transmit ring into a buffer of the receive ring

Both wait for a batch, a quarter of a ring, which of half a ring one of them always has: else the CPUs would
pass the lines of the rings to and fro for each frame.
"""

import mmap
import os
import threading
from typing import NamedTuple

import numpy as np

from dpu_runtime.kernels.compile.jit import helper, kernel
from dpu_runtime.kernels.octets.atomic import (
    load_acquire_u16,
    load_once_u32,
    pause,
    store_release_u16,
    store_release_u32,
)
from dpu_runtime.kernels.octets.memory import (
    address_of,
    copy_short,
    cycles,
    load_u16,
    load_u32,
    load_u64,
    prefetch,
    prefetch_write,
    store_u16,
    store_u32,
    store_u64,
)
from dpu_runtime.kernels.offload.virtio_net import VNET_HDR_BYTES
from dpu_runtime.plane.worker_thread import tsc_hz

PAGE = 4096
TOGETHER_SECONDS_MAX = 5.0  # of waiting for the other thread
_0, _1, _2, _4, _8, _16 = map(np.uint64, (0, 1, 2, 4, 8, 16))
_32, _LINE = np.uint64(32), np.uint64(64)
_LOW16 = np.uint64(0xFFFF)
_VNET = np.uint64(VNET_HDR_BYTES)
_WRITE = np.uint64(2 << 32)  # VIRTQ_DESC_F_WRITE, in a descriptor's second word
# words of `rings`: where the parts of both rings are, and the word that ends both loops
TX_DESC, TX_AVAIL, TX_USED, RX_DESC, RX_AVAIL, RX_USED, STOP, RING_WORDS = range(8)


class Rate(NamedTuple):
    """What went through: frames in seconds."""

    frames: int
    seconds: float

    @property
    def per_second(self):
        """Frames a second."""
        return self.frames / self.seconds


@helper
def _index(ring):
    """Index of an available or used ring, which the other side writes."""
    return np.uint64(load_acquire_u16(ring + _2))


@kernel
def drive(rings, size, batch, ticks):
    """Hand over again what was received, until STOP is set or for `ticks` of the cycle counter.

    rings  uint64[RING_WORDS]
    """
    mask = np.uint64(size - 1)
    seen, next_tx = _0, np.uint64(size // 2)
    end = cycles() + ticks
    while load_once_u32(rings[STOP]) == 0 and cycles() < end:
        free = np.uint64(size) - ((next_tx - _index(rings[TX_USED])) & _LOW16)
        if min((_index(rings[RX_USED]) - seen) & _LOW16, free) < batch:
            pause()
            continue
        for k in range(batch):
            element = rings[RX_USED] + _4 + ((seen + k) & mask) * _8
            got = rings[RX_DESC] + np.uint64(load_u32(element)) * _16
            slot = (next_tx + k) & mask
            sent = rings[TX_DESC] + slot * _16
            frame, empty = load_u64(got), load_u64(sent)
            store_u64(frame, _0)  # its virtio-net header
            store_u32(frame + _8, _0)
            store_u64(sent, frame)
            store_u64(sent + _8, np.uint64(load_u32(element + _4)))
            store_u64(got, empty)
            store_u16(rings[TX_AVAIL] + _4 + slot * _2, slot)
        seen = (seen + batch) & _LOW16
        next_tx = (next_tx + batch) & _LOW16
        store_release_u16(rings[RX_AVAIL] + _2, (seen + np.uint64(size)) & _LOW16)
        store_release_u16(rings[TX_AVAIL] + _2, next_tx)


@kernel
def forward(rings, size, batch, ticks, addresses):
    """Copy frames from the transmit to the receive ring for `ticks`, then set STOP; returns frames.

    addresses  uint64[batch, 3]  scratch: from, to, octets with the virtio-net header
    """
    mask = np.uint64(size - 1)
    at, frames = _0, np.int64(0)  # both rings are at the same place
    end = cycles() + ticks
    while cycles() < end:
        waiting = (_index(rings[TX_AVAIL]) - at) & _LOW16
        if min(waiting, (_index(rings[RX_AVAIL]) - at) & _LOW16) < batch:
            pause()
            continue
        for k in range(batch):
            slot = ((at + k) & mask) * _2 + _4
            source = rings[TX_DESC] + np.uint64(load_u16(rings[TX_AVAIL] + slot)) * _16
            target = rings[RX_DESC] + np.uint64(load_u16(rings[RX_AVAIL] + slot)) * _16
            addresses[k, 0] = load_u64(source)
            addresses[k, 1] = load_u64(target)
            addresses[k, 2] = np.uint64(load_u32(source + _8))
            prefetch(addresses[k, 0])
            prefetch(addresses[k, 0] + _LINE)
            prefetch_write(addresses[k, 1])
            prefetch_write(addresses[k, 1] + _LINE)
        for k in range(batch):
            slot = (at + k) & mask
            octets = addresses[k, 2]
            store_u64(addresses[k, 1], _0)
            store_u32(addresses[k, 1] + _8, _1 << _16)  # num_buffers
            copy_short(addresses[k, 1] + _VNET, addresses[k, 0] + _VNET, octets - _VNET)
            store_u64(rings[TX_USED] + _4 + slot * _8, slot)
            store_u64(rings[RX_USED] + _4 + slot * _8, slot | (octets << _32))
        at = (at + batch) & _LOW16
        frames += np.int64(batch)
        store_release_u16(rings[RX_USED] + _2, at)
        store_release_u16(rings[TX_USED] + _2, at)
    store_release_u32(rings[STOP], _1)
    return frames


@kernel
def _address(array):
    return address_of(array)


def make_rings(size, octets):
    """(uint64[RING_WORDS], what keeps their memory): half a ring of frames of `octets` waits, all 0xA5."""
    assert size >= 4 and size & (size - 1) == 0, f"a ring of {size} entries"
    parts = [16 * size, 4 + 2 * size, 4 + 8 * size] * 2 + [PAGE]
    parts = [-(-part // PAGE) * PAGE for part in parts]
    room = -(-(octets + VNET_HDR_BYTES) // 64) * 64
    mapped = mmap.mmap(-1, sum(parts) + 2 * size * room)
    mapped.madvise(mmap.MADV_HUGEPAGE)  # DPDK's memory has large pages
    memory = np.frombuffer(mapped, np.uint8)
    memory[sum(parts) :] = 0xA5
    ends = np.cumsum([0, *parts])
    base = int(_address(memory))
    rings = (ends[:-1] + base).astype(np.uint64)
    for first, desc, avail in ((0, TX_DESC, TX_AVAIL), (size, RX_DESC, RX_AVAIL)):
        table = memory[int(rings[desc]) - base :][: 16 * size].view(np.uint64).reshape(size, 2)
        table[:, 0] = base + ends[-1] + (first + np.arange(size)) * room
        table[:, 1] = octets + VNET_HDR_BYTES + (0 if first == 0 else int(_WRITE))
        words = memory[int(rings[avail]) - base :][: 4 + 2 * size].view(np.uint16)
        words[1] = size // 2 if first == 0 else size
        words[2:] = np.arange(size)
    return rings, memory


def measure(size, octets, seconds, cpus):
    """Rate of frames of `octets` between rings of `size` entries; `cpus`: of the driver and of the device."""
    rings, memory = make_rings(size, octets)
    ticks = np.uint64(seconds * tsc_hz())
    done, batch = {}, np.uint64(size // 4)

    def on(cpu, function, *args):
        def body():
            os.sched_setaffinity(0, {cpu})  # of this thread
            done[function] = function(rings, size, batch, *args)

        thread = threading.Thread(target=body)
        thread.start()
        return thread

    longest = np.uint64((seconds + TOGETHER_SECONDS_MAX) * tsc_hz())
    threads = [on(cpus[0], drive, longest), on(cpus[1], forward, ticks, np.zeros((batch, 3), np.uint64))]
    for thread in threads:
        thread.join()
    del memory  # was needed until here
    assert done[forward], "no frame went through the rings"
    return Rate(done[forward], seconds)
