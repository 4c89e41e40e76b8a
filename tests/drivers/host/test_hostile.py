"""A DPU that writes nonsense into the rings: it is dropped or the connection ends; no buffer is lost."""

import random

import pytest

from tests.drivers.host.model import PLAIN, VNET_HDR, Backend
from tests.drivers.host.test_link import reconnected

FRAME = bytes(60)
CSUM = (1, 0, 0, 0, 34, 16, 1)


def publish(ring, *elements):
    """Write used elements, whatever they say."""
    index = int(ring.used_head[1])
    for number, element in enumerate(elements):
        ring.used[(index + number) & (ring.size - 1)] = element
    ring.used_head[1] = (index + len(elements)) & 0xFFFF


def jump_ahead(ring):
    ring.used_head[1] = (int(ring.used_head[1]) + 65) & 0xFFFF


def jump_back(ring):
    ring.used_head[1] = (int(ring.used_head[1]) - 1) & 0xFFFF


def id_out_of_range(ring):
    publish(ring, (64, 72))


def id_far_out_of_range(ring):
    publish(ring, (0xFFFF_FFFF, 72))


def id_twice(ring):
    publish(ring, (ring.take()[0], 72), (int(ring.avail[2 + (ring.base & 63)]), 72))


RING_ATTACKS = [jump_ahead, jump_back, id_out_of_range, id_far_out_of_range, id_twice]


@pytest.mark.parametrize("attack", RING_ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("number", [0, 1], ids=["receiveq", "transmitq"])
def test_a_ring_that_makes_no_sense_ends_the_connection(libdpu, port, backend, socket_path, attack, number):
    packets = port.alloc(64)
    for packet in packets:
        packet.fill(FRAME)
    port.tx_burst(packets)
    attack(backend.rings[number])
    with pytest.raises(libdpu.DpuError) as caught:
        for _ in range(3):
            port.free(port.rx_burst())
            port.free([p for p in port.alloc() if not (p.fill(FRAME), port.tx_burst([p]))[1]])
    assert caught.value.code == libdpu.Error.EPROTO
    assert caught.value.text.startswith("a used element of a ")
    backend.close()
    with Backend(socket_path) as fresh:
        port.free(reconnected(libdpu, port))
        while fresh.rings[1].available:
            fresh.rings[1].put(fresh.sent()[0])
        assert port.send(FRAME, timeout=1)
        fresh.deliver(FRAME)
        assert port.recv(1) == FRAME


@pytest.mark.parametrize(
    ("header", "used_len"),
    [
        (PLAIN, 0),
        (PLAIN, 11),
        (PLAIN, 12),
        (PLAIN, 25),
        (PLAIN, 12 + 2049),
        (PLAIN, 0xFFFF_FFFF),
        ((0, 0, 0, 0, 0, 0, 0), 72),  # no buffer at all
        ((0, 0, 0, 0, 0, 0, 2), 72),  # one more than was used
        ((0, 0, 0, 0, 0, 0, 0xFFFF), 72),
        ((1, 0, 0, 0, 59, 0, 1), 72),  # the checksum's second octet is behind the end
        ((1, 0, 0, 0, 0xFFFF, 0xFFFF, 1), 72),
        ((1, 1, 54, 0, 34, 16, 1), 72),  # segments of nothing
        ((1, 2, 54, 1448, 34, 16, 1), 72),
        ((1, 3, 54, 1448, 34, 16, 1), 72),
        ((1, 0x7F, 54, 1448, 34, 16, 1), 72),
    ],
)
def test_a_packet_that_cannot_be_is_dropped_and_counted(port, backend, header, used_len):
    ring = backend.rings[0]
    head, chain = ring.take()
    at = chain[0][0]
    backend.memory[at : at + 12] = list(VNET_HDR.pack(*header))
    publish(ring, (head, used_len))
    assert port.rx_burst() == []
    stats = port.stats()
    assert (stats["rx_errors"], stats["rx_packets"], stats["bufs_app"]) == (1, 0, 0)
    backend.deliver(FRAME, CSUM)
    assert port.recv(0) == FRAME


def test_merged_buffers_that_cannot_be_are_dropped_with_their_packet(port, backend):
    ring = backend.rings[0]
    for lengths in ((2060, 0), (2060, 2061), (2060,) * 33):
        heads = [ring.take() for _ in lengths]
        at = heads[0][1][0][0]
        backend.memory[at : at + 12] = list(VNET_HDR.pack(0, 0, 0, 0, 0, 0, len(lengths)))
        publish(ring, *((head[0], size) for head, size in zip(heads, lengths, strict=True)))
        assert port.rx_burst() == []
    assert port.stats()["rx_errors"] == 3
    assert port.stats()["bufs_app"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_rings_full_of_noise(libdpu, port, backend, socket_path, seed):
    """Whatever is in shared memory, calls return and no buffer gets lost."""
    dice = random.Random(seed)
    for _ in range(30):
        if not backend.peer:
            backend.close()
            backend = Backend(socket_path)
        try:
            packets = port.alloc(8)
            for packet in packets:
                packet.fill(FRAME)
            port.free(packets[port.tx_burst(packets) :])
        except libdpu.DpuError:
            port.free(packets)
            port.free(reconnected(libdpu, port))
        for ring in backend.rings[:2]:
            noise = [
                (dice.randrange(70), dice.choice([72, 2060, dice.randrange(1 << 32)])) for _ in range(64)
            ]
            ring.used[:] = noise
            ring.desc["addr"] = dice.randrange(1 << 64)
            ring.avail[2:] = dice.randrange(1 << 16)
            ring.used_head[1] = (int(ring.used_head[1]) + dice.randrange(12)) & 0xFFFF
        try:
            port.free(port.rx_burst(64))
        except libdpu.DpuError as error:
            assert error.code in (libdpu.Error.EPROTO, libdpu.Error.ELINK)
            port.free(reconnected(libdpu, port))
        stats = port.stats()
        assert stats["bufs_app"] == 0
        assert stats["bufs_pool"] + stats["bufs_rings"] == stats["bufs_total"]
    backend.close()
