"""Payload in pieces, as a driver may hand it over: a struct iovec[] over octets scattered in memory."""

import ctypes
import random

import numpy as np

from dpu_runtime.kernels.layout import PAYLOAD_PIECES_MAX

FILL = 0xA5
GAP_BYTES = 9  # octets at most between two pieces, so that they begin anywhere in a word


def random_lengths(size, rng, pieces_max=PAYLOAD_PIECES_MAX):
    """Lengths of 1..pieces_max pieces of 1 octet or more that add up to `size`, which is above 0."""
    most = min(size, pieces_max)
    count = min(most, rng.choice([1, 2, 3, 17, most]))
    if rng.random() < 0.5:
        edges = sorted(rng.sample(range(1, size), count - 1))
    else:  # single octets, then all that is left; or the other way round
        edges = list(range(1, count))
        if rng.random() < 0.5:
            edges = [size - edge for edge in reversed(edges)]
    return [b - a for a, b in zip([0, *edges], [*edges, size], strict=True)]


def scatter(octets, lengths, rng):
    """Lay `octets` in pieces of these lengths, in any order; returns (iovec address, what to keep alive).

    The entry in front of the list is free, as layout.py promises; the one behind it leads nowhere.
    """
    room = np.full(len(octets) + (len(lengths) + 1) * GAP_BYTES, FILL, np.uint8)
    table = np.full((len(lengths) + 2, 2), 0xA5A5A5A5A5A5A5A5, np.uint64)
    starts = np.cumsum([0, *lengths])
    order = list(range(len(lengths)))
    rng.shuffle(order)
    at = 0
    for k in order:
        at += rng.randint(0, GAP_BYTES)
        room[at : at + lengths[k]] = np.frombuffer(octets[starts[k] : starts[k + 1]], np.uint8)
        table[1 + k] = room.ctypes.data + at, lengths[k]
        at += lengths[k]
    return table.ctypes.data + 16, (room, table)


def lay_in_pieces(m, octets, pieces_max=PAYLOAD_PIECES_MAX):
    """Make `octets` the payload of record `m`, in pieces; returns what to keep alive."""
    m["payload_len"], m["payload_iov"] = len(octets), 0
    m["payload_addr"] = 8  # not used: reading it ends the process
    if not octets:
        return ()
    rng = random.Random(len(octets) * 1000 + octets[0])
    m["payload_iov"], kept = scatter(octets, random_lengths(len(octets), rng, pieces_max), rng)
    return kept


def pieces_of(m):
    """(address, octets) of the pieces of a record's payload; a contiguous one is a single piece."""
    left = int(m["payload_len"])
    if left and not m["payload_iov"]:
        return [(int(m["payload_addr"]), left)]
    pieces = []
    entry = int(m["payload_iov"])
    while left > 0:
        addr, size = (ctypes.c_uint64 * 2).from_address(entry)
        pieces.append((addr, size))
        left -= size
        entry += 16
    assert left == 0, "the pieces are longer than the payload"
    return pieces


def payload_of(m):
    """Octets of a record's payload."""
    return b"".join(ctypes.string_at(addr, size) for addr, size in pieces_of(m))
