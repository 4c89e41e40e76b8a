"""The compiled loops of bench/limits.py: bare system calls and copies, as often as told.

Addresses and sizes as in kernels/octets/memory.py; each returns how many went well.
"""

import numpy as np
from numba import types

from dpu_runtime.drivers.linux.libc import MSG_DONTWAIT, read, send, write
from dpu_runtime.kernels.compile.jit import kernel
from dpu_runtime.kernels.octets.atomic import load_acquire_u32, store_release_u32, store_release_u64
from dpu_runtime.kernels.octets.memory import (
    address_of,
    copy_memory,
    cycles,
    load_acquire_u64,
    store_u32,
    store_u64,
)

getppid = types.ExternalFunction("getppid", types.int32())

TX_STATUS_AVAILABLE, TX_STATUS_SEND_REQUEST = np.uint32(0), np.uint64(1)  # linux/if_packet.h
SLOT_LEN_OFFSET = np.uint64(4)  # of struct tpacket2_hdr
TRIES_MAX = 1000  # of calls until what was sent is given back
_0, _1, _8, _16 = map(np.uint64, (0, 1, 8, 16))
LINE_PAIR = np.uint64(128)  # octets: CPUs fetch lines in pairs
SPINS = 1024  # between looks at the clock, which takes longer than a look at the line


@kernel
def getppid_loop(count):
    """getppid(2), which does nothing but enter the kernel."""
    done = np.int64(0)
    for _ in range(count):
        done += getppid() >= 0
    return done


@kernel
def copy_loop(target, source, size, count):
    """memcpy of `size` octets, from the arrays' begin to their end and round again."""
    places = np.uint64(len(source)) // size
    place = _0
    for _ in range(count):
        offset = place * size
        copy_memory(address_of(target) + offset, address_of(source) + offset, size)
        place = place + _1 if place + _1 < places else _0
    return count


@kernel
def bounce_loop(wait_fd, wake_fd, word, first, count):
    """Two threads wake each other by eventfd(2): wait and wake, or with `first` the other way round.

    word  uint64[1]  scratch
    """
    at = address_of(word)
    done = np.int64(0)
    for _ in range(count):
        if not first:
            done += read(wait_fd, at, _8) == 8
        word[0] = 1
        done += write(wake_fd, at, _8) == 8
        if first:
            done += read(wait_fd, at, _8) == 8
    return done


@kernel
def line_loop(memory, odd, ticks, times, trips):
    """Two threads hand a word to and fro: wait until it is even, or with `odd` odd, and add 1.

    memory  uint64[32]  zeros, of both threads: an aligned pair of lines is within
    ticks   of the cycle counter, at most
    times   uint64[n]   out, cycles of `trips` there and back each

    Returns how many of `times` were filled.
    """
    at = (address_of(memory) + LINE_PAIR - _1) & ~(LINE_PAIR - _1)
    end = cycles() + ticks
    for k in range(len(times)):
        began = cycles()
        for _ in range(trips):
            word, spins = load_acquire_u64(at), np.int64(0)
            while word & _1 != odd:
                spins += 1
                if spins % SPINS == 0 and cycles() > end:
                    return k
                word = load_acquire_u64(at)
            store_release_u64(at, word + _1)
        times[k] = cycles() - began
    return len(times)


@kernel
def read_write_loop(fd, memory, count):
    """Read a frame from a TAP and write it to it again, a call each."""
    at, size = address_of(memory), np.uint64(len(memory))
    done = np.int64(0)
    for _ in range(count):
        got = read(fd, at, size)
        done += got > 0 and write(fd, at, np.uint64(got)) == got
    return done


@kernel
def packet_ring_loop(fd, ring, slots, slot_bytes, octets, bursts):
    """Send `bursts` times all slots of a TPACKET_V2 ring by one call each; returns frames given back."""
    done = np.int64(0)
    for _ in range(bursts):
        for k in range(slots):
            slot = ring + np.uint64(k) * slot_bytes
            store_u32(slot + SLOT_LEN_OFFSET, octets)
            store_release_u32(slot, TX_STATUS_SEND_REQUEST)
        for _ in range(TRIES_MAX):
            send(fd, _0, _0, np.int32(MSG_DONTWAIT))
            if load_acquire_u32(slot) == TX_STATUS_AVAILABLE:
                done += slots
                break
    return done


@kernel
def xdp_ring_loop(fd, ring, frames, frame_bytes, octets, bursts):
    """Send `bursts` times `frames` frames of a UMEM by one call each and wait until it gives them back.

    ring  uint64[6]  where are producer and entries of the transmit ring, producer, consumer and entries of
                     the completion ring; the ring's size - 1
    """
    producer, entries, back, consumer, _, mask = ring
    done = np.int64(0)
    at = np.uint64(load_acquire_u32(producer))
    for _ in range(bursts):
        for k in range(np.uint64(frames)):
            entry = entries + ((at + k) & mask) * _16
            store_u64(entry, k * frame_bytes)
            store_u64(entry + _8, octets)
        at = (at + np.uint64(frames)) & np.uint64(0xFFFF_FFFF)
        store_release_u32(producer, at)
        for _ in range(TRIES_MAX):
            send(fd, _0, _0, np.int32(MSG_DONTWAIT))
            if np.uint64(load_acquire_u32(back)) == at:
                done += frames
                break
        store_release_u32(consumer, at)
    return done


@kernel
def put(address, octets):
    """Copy an array to an address."""
    copy_memory(address, address_of(octets), np.uint64(len(octets)))
