"""libdpu's split rings against the model back-end: layout, octets, offload fields, notifications."""

import os
import threading
import time

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from dpu_runtime.drivers.vhost_user import features as f
from tests.drivers.host import model
from tests.drivers.host.model import Backend

FRAME = bytes(range(60))
BIG = bytes(i * 7 & 0xFF for i in range(65550))


def test_a_port_negotiates_and_starts_each_ring_by_one_kick(port, backend):
    assert port.link
    assert backend.acked & f.mask(f.VIRTIO_F_VERSION_1, f.VIRTIO_NET_F_MRG_RXBUF, f.VIRTIO_F_EVENT_IDX)
    assert backend.acked & f.OFFLOAD_FEATURES == f.OFFLOAD_FEATURES
    assert not backend.acked & f.mask(f.VIRTIO_NET_F_MQ, f.VHOST_F_LOG_ALL, f.VIRTIO_F_RING_PACKED)
    assert port.features == backend.acked
    rx, tx = backend.rings[:2]
    assert (rx.size, rx.base, rx.enabled, tx.size, tx.base, tx.enabled) == (64, 0, 1, 64, 0, 1)
    assert rx.was_kicked() and tx.was_kicked()
    assert (rx.available, tx.available) == (64, 0)


def test_offloads_that_are_not_wanted_are_not_negotiated(open_port, backend, libdpu):
    open_port(offloads=libdpu.Offload.TX_CSUM | libdpu.Offload.TX_TSO)
    tso = (f.VIRTIO_NET_F_HOST_TSO4, f.VIRTIO_NET_F_HOST_TSO6, f.VIRTIO_NET_F_HOST_ECN)
    assert backend.acked & f.OFFLOAD_FEATURES == f.mask(f.VIRTIO_NET_F_CSUM, *tso)


def test_a_frame_is_sent_in_one_descriptor_with_its_header(port, backend):
    assert port.send(FRAME)
    assert backend.rings[1].available == 1
    head, header, frame = backend.sent()
    assert (header, frame) == ((0,) * 7, FRAME)
    assert not backend.rings[1].desc[head]["flags"]


def test_the_memory_is_sealed_and_holds_what_is_sent_without_a_copy(port, backend):
    (packet,) = port.alloc()
    packet.fill(FRAME)
    at = int(port.offsets(packet.buf["index"]))
    assert port.tx_burst([packet]) == 1
    _, chain = backend.rings[1].take()
    assert chain == [(at - 12, len(FRAME) + 12, 0)]
    with pytest.raises(ValueError, match="sent or freed"):
        packet.resize(60)
    with pytest.raises(PermissionError):
        os.ftruncate(backend.fds[0], 4096)


def test_a_64_kb_segment_is_a_chain_with_its_checksum_owed(port, backend):
    assert port.send(BIG, csum_start=34, csum_offset=16, gso_type=1, gso_size=1448, hdr_len=54)
    _, header, frame = backend.sent()
    assert header == (1, 1, 54, 1448, 34, 16, 0)
    assert frame == BIG


@pytest.mark.parametrize("buf_size", [2048, 65550])
def test_a_64_kb_segment_is_received_in_as_many_pieces_as_it_needs(open_port, backend, buf_size):
    port = open_port(ring_size=64, buf_size=buf_size)
    backend.deliver(BIG, (1, 4, 74, 1428, 54, 16))
    (packet,) = port.rx_burst()
    assert len(packet.pieces) == (1 if buf_size == 65550 else 32)
    assert (len(packet), packet.octets()) == (len(BIG), BIG)
    buf = packet.buf
    assert (buf["flags"], buf["gso_type"], buf["gso_size"], buf["hdr_len"]) == (1, 4, 1428, 74)
    assert (buf["csum_start"], buf["csum_offset"]) == (54, 16)
    assert port.stats()["bufs_app"] == len(packet.pieces)
    port.free([packet])
    assert port.stats()["bufs_app"] == 0


def test_packets_come_in_order_and_the_ring_is_filled_again(port, backend):
    for number in range(1000):
        backend.deliver(number.to_bytes(4, "big") + FRAME)
        assert port.recv(0)[:4] == number.to_bytes(4, "big")
    stats = port.stats()
    assert (stats["rx_packets"], stats["rx_bytes"]) == (1000, 64 * 1000)
    assert backend.rings[0].available > 64 - 32


def test_what_comes_back_out_of_order_is_used_again(port, backend):
    ring, held = backend.rings[1], []
    for _ in range(50):
        for _ in range(8):
            assert port.send(FRAME, timeout=0)
        held += [backend.sent()[0] for _ in range(8)]
        while len(held) > 5:
            ring.put(held.pop(3))
    assert port.stats()["tx_packets"] == 400


def test_a_full_ring_takes_no_more_and_wait_tx_says_when_it_does(port, backend):
    packets = port.alloc(70)
    for packet in packets:
        packet.fill(FRAME)
    assert port.tx_burst(packets) == 64
    assert port.tx_burst(packets[64:]) == 0
    assert port.stats()["tx_full"] == 12
    assert not port.wait_tx(0.01)
    for _ in range(31):
        backend.rings[1].put(backend.sent()[0])
    assert not port.wait_tx(0.01)
    backend.rings[1].put(backend.sent()[0])
    assert port.wait_tx(0)
    assert port.tx_burst(packets[64:]) == 6


def test_a_packet_that_cannot_be_sent_is_dropped_and_counted(open_port, socket_path):
    with Backend(socket_path, features=model.ALL & ~f.mask(f.VIRTIO_NET_F_HOST_TSO4)):
        port = open_port(ring_size=64)
        port.send(b"")
        port.send(FRAME[:13])
        port.send(BIG + b"x")
        port.send(BIG, csum_start=34, csum_offset=16, gso_type=1, gso_size=1448)  # was not negotiated
        port.send(FRAME, csum_start=50, csum_offset=9)  # outside of the frame
        stats = port.stats()
    assert (stats["tx_errors"], stats["tx_packets"], stats["bufs_app"]) == (5, 0, 0)


@pytest.mark.parametrize("layer", [UDP(sport=1, dport=2), TCP(sport=1, dport=2)], ids=["UDP", "TCP"])
@pytest.mark.parametrize("payload", [0, 1, 1400, 2001, 9000, 60001])
def test_a_checksum_that_the_dpu_does_not_finish_is_finished_here(open_port, socket_path, layer, payload):
    with Backend(socket_path, features=model.ALL & ~f.mask(f.VIRTIO_NET_F_CSUM)) as backend:
        port = open_port(ring_size=64)
        octets = (bytes(range(1, 252)) * 240)[:payload]
        packet = Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / layer / Raw(octets)
        right = bytes(packet)
        offset = 16 if TCP in packet else 6
        length = len(right) - 34
        pseudo = sum(b"\x0a\x00\x00\x01"[i] << 8 * (1 - i % 2) for i in range(4))
        pseudo += sum(b"\x0a\x00\x00\x02"[i] << 8 * (1 - i % 2) for i in range(4)) + packet[IP].proto + length
        pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
        owed = bytearray(right)
        owed[34 + offset : 36 + offset] = pseudo.to_bytes(2, "big")
        port.send(bytes(owed), csum_start=34, csum_offset=offset)
        _, header, frame = backend.sent()
        assert header == (0,) * 7
        assert frame == right
        assert port.stats()["tx_checksums"] == 1


# -- notifications ---------------------------------------------------------------------------------


def test_a_back_end_that_polls_is_not_kicked(port, backend):
    ring = backend.rings[1]
    ring.was_kicked()
    kicks = port.stats()["kicks"]
    ring.avail_event[0] = 0x8000  # far ahead
    for _ in range(20):
        port.send(FRAME)
    assert not ring.was_kicked()
    ring.avail_event[0] = 20  # when the twenty-first is there
    port.send(FRAME)
    assert ring.was_kicked()
    assert port.stats()["kicks"] == kicks + 1


def test_without_event_idx_the_flags_say_it(open_port, socket_path):
    with Backend(socket_path, features=model.ALL & ~f.mask(f.VIRTIO_F_EVENT_IDX)) as backend:
        port = open_port(ring_size=64)
        ring = backend.rings[1]
        ring.was_kicked()
        ring.used_head[0] = 1
        port.send(FRAME)
        assert not ring.was_kicked()
        ring.used_head[0] = 0
        port.send(FRAME)
        assert ring.was_kicked()
        assert backend.rings[0].avail[0] == 1  # a program that polls wants no calls
        assert _woken(port, backend, lambda: backend.rings[0].avail[0] == 0)
        assert backend.rings[0].avail[0] == 1


def _woken(port, backend, asked):
    """Deliver a packet once the sleeping program has asked for a call; whether that woke it."""

    def deliver():
        backend.wait_for(asked)
        backend.deliver(FRAME)
        backend.rings[0].signal()

    thread = threading.Thread(target=deliver)
    thread.start()
    woken = port.wait(10)
    thread.join()
    return woken and port.stats()["wakeups"] == 1


def test_wait_asks_for_a_call_and_is_woken_by_it(port, backend):
    rx = backend.rings[0]
    assert rx.used_event == 0xFFFF
    assert _woken(port, backend, lambda: rx.used_event == 0)
    assert port.recv(0) == FRAME


def test_wait_sees_what_came_before_it_slept(port, backend):
    backend.deliver(FRAME)
    assert port.wait(10)
    assert port.stats()["wakeups"] == 0


def test_wait_ends_when_its_time_is_over(port, backend):
    start = time.monotonic()
    assert not port.wait(0.05)
    assert 0.05 <= time.monotonic() - start < 5


def test_indices_wrap_around(port, backend):
    for number in range(0x10000 // 32 + 3):
        for _ in range(32):
            assert port.send(FRAME, timeout=0)
        assert backend.echo() == 32, number
        packets = port.rx_burst(32)
        assert len(packets) == 32
        port.free(packets)
    assert backend.rings[1].used_head[1] < 200
