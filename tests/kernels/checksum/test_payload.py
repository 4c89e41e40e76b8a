"""checksum/payload.py: octets out of row and pieces, and lists of pieces that name them, against slices."""

import random

import numpy as np
import pytest

from dpu_runtime.kernels.checksum.payload import NO_ROOM, copy_octets, name_octets, piece_count
from dpu_runtime.kernels.layout import HEADER_BYTES, HEADROOM_BYTES, META_DTYPE, PAYLOAD_PIECES_MAX
from tests.kernels.batches import FILL, Batch
from tests.kernels.pieces import payload_of, pieces_of, random_lengths, scatter

IOV_FILL = np.uint64(0xA5A5A5A5A5A5A5A5)


def batch_in_pieces(frame, lengths):
    """A Batch of one frame whose payload lies in pieces of these lengths."""
    batch = Batch([frame])
    m = batch.meta[0]
    m["payload_iov"], batch.kept = scatter(frame[HEADER_BYTES:], lengths, random.Random(len(lengths)))
    m["payload_addr"] = 8  # not used
    assert m["payload_len"] == sum(lengths)
    return batch


def frame_and_lengths(seed):
    rng = random.Random(seed)
    size = rng.randint(1, 700)
    return rng.randbytes(HEADER_BYTES + size), random_lengths(size, rng)


def copied(batch, start, size):
    """What copy_octets copies; nothing is written around it."""
    room = np.full(size + 16, FILL, np.uint8)
    copy_octets(batch.headers, batch.meta, 0, start, size, np.uint64(room.ctypes.data + 8))
    assert (room[:8] == FILL).all()
    assert (room[size + 8 :] == FILL).all()
    return room[8 : size + 8].tobytes()


def test_random_lengths_are_of_every_kind():
    rng = random.Random(1)
    for size in (1, 2, 3, PAYLOAD_PIECES_MAX, 65000):
        drawn = [random_lengths(size, rng) for _ in range(200)]
        assert all(sum(lengths) == size and min(lengths) > 0 for lengths in drawn)
        assert {min(size, PAYLOAD_PIECES_MAX), 1} <= {len(lengths) for lengths in drawn}


@pytest.mark.parametrize("seed", range(30))
def test_copies_are_slices_of_the_frame(seed):
    frame, lengths = frame_and_lengths(seed)
    batch = batch_in_pieces(frame, lengths)
    rng = random.Random(seed)
    spans = [(0, len(frame)), (HEADER_BYTES, len(frame)), (len(frame) - 1, len(frame)), (len(frame),) * 2]
    spans += [sorted(rng.choices(range(len(frame) + 1), k=2)) for _ in range(20)]
    for first, last in spans:
        got = copied(batch, HEADROOM_BYTES + first, last - first)
        assert got == frame[first:last], (first, last)


@pytest.mark.parametrize("lengths", [[1], [9], [1, 1], [1, 2, 3], [1] * PAYLOAD_PIECES_MAX, [5000, 1]])
def test_pieces_are_counted(lengths):
    batch = batch_in_pieces(bytes(HEADER_BYTES + sum(lengths)), lengths)
    assert piece_count(batch.meta[0]) == len(lengths)
    batch.meta[0]["payload_len"] = 0
    assert piece_count(batch.meta[0]) == 0
    assert piece_count(Batch([bytes(500)]).meta[0]) == 0


def named(m, offset, size, entries, used=0):
    """(what name_octets returns, the record it wrote, its entries); nothing is written elsewhere."""
    memory = np.full((entries + 1, 2), IOV_FILL, np.uint64)
    target = np.zeros(1, META_DTYPE)
    end = name_octets(m, offset, size, target[0], memory[:entries], used)
    assert (memory[:used] == IOV_FILL).all()
    assert (memory[max(end, used) if end != NO_ROOM else entries :] == IOV_FILL).all()
    return end, target[0], memory


@pytest.mark.parametrize("seed", range(30))
def test_named_octets_are_slices_of_the_payload(seed):
    frame, lengths = frame_and_lengths(seed)
    kept = batch_in_pieces(frame, lengths)
    m = kept.meta[0]
    payload = frame[HEADER_BYTES:]
    rng = random.Random(seed)
    for _ in range(20):
        first, last = sorted(rng.choices(range(len(payload) + 1), k=2))
        used = rng.randrange(5)
        end, target, memory = named(m, first, last - first, used + len(lengths) + 1, used)
        assert payload_of(target) == payload[first:last]
        edges = np.cumsum(lengths)
        crossed = sum(first < edge < last for edge in edges)
        if crossed == 0:
            assert (end, target["payload_iov"]) == (used, 0)
            continue
        assert end == used + 1 + crossed + 1
        assert target["payload_iov"] == memory.ctypes.data + 16 * (used + 1)
        assert (memory[used] == IOV_FILL).all()  # the entry in front is free
        for addr, size in pieces_of(target):
            assert any(a <= addr and addr + size <= a + most for a, most in pieces_of(m))


def test_list_without_room_is_refused():
    lengths = [3, 4, 5]
    kept = batch_in_pieces(bytes(HEADER_BYTES + 12), lengths)
    m = kept.meta[0]
    for entries in range(8):
        for used in range(entries + 1):
            end, target, _ = named(m, 0, 12, entries, used)
            if entries - used >= len(lengths) + 1:
                assert end == used + len(lengths) + 1
                assert payload_of(target) == bytes(12)
            else:
                assert end == NO_ROOM
                assert target == np.zeros(1, META_DTYPE)[0]


def test_one_piece_and_no_octets_need_no_room():
    kept = batch_in_pieces(bytes(HEADER_BYTES + 12), [3, 4, 5])
    for offset, size in ((0, 3), (4, 2), (7, 5), (12, 0), (0, 0)):
        end, target, _ = named(kept.meta[0], offset, size, 0)
        assert (end, int(target["payload_iov"]), int(target["payload_len"])) == (0, 0, size)
