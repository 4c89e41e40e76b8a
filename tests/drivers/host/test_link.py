"""libdpu's connection: errors that name their cause, a DPU that vanishes, comes back, or is slow."""

import os
import random
import threading
import time

import numpy as np
import pytest

from dpu_runtime.drivers.vhost_user import features as f
from tests.drivers.host import model
from tests.drivers.host.model import Backend

FRAME = bytes(60)


def refused(libdpu, path, **options):
    with pytest.raises(libdpu.DpuError) as caught:
        libdpu.open(path, **options)
    return caught.value


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"queues": 0}, "queues = 0: must be 1 to 128"),
        ({"ring_size": 100}, "ring_size = 100: must be a power of two"),
        ({"buf_size": 64}, "buf_size = 64: must be 256 to 65600"),
        ({"buf_count": 5}, "buf_count = 5: must be"),
        ({"offloads": 64}, "offloads = 64"),
    ],
)
def test_an_option_out_of_range_is_named(libdpu, socket_path, options, text):
    error = refused(libdpu, socket_path, **options)
    assert error.code == libdpu.Error.EINVAL
    assert text in error.text


def test_an_unknown_option_is_an_error(libdpu, socket_path):
    with pytest.raises(TypeError, match=r"'colour' is no option of a port; these are: .*buf_size"):
        libdpu.open(socket_path, colour=1)


def test_nobody_listens(libdpu, socket_path):
    error = refused(libdpu, socket_path)
    assert error.code == libdpu.Error.ECONNECT
    assert error.text == f"connect to {socket_path}: No such file or directory"
    assert refused(libdpu, "/" + 120 * "x").code == libdpu.Error.EINVAL


def test_huge_pages_that_are_required_and_not_there(libdpu, socket_path):
    error = refused(libdpu, socket_path, huge_pages=2, buf_count=1 << 24)  # 34 GB
    assert error.code == libdpu.Error.ENOMEM
    assert "2 MB pages" in error.text


@pytest.mark.parametrize(
    ("offer", "options", "code", "text"),
    [
        (
            {"features": f.mask(f.VHOST_USER_F_PROTOCOL_FEATURES)},
            {},
            "EFEATURE",
            "the DPU does not offer VIRTIO_F_VERSION_1",
        ),
        ({"queue_pairs": 1}, {"queues": 2}, "EFEATURE", "2 queues are asked for, the DPU's port has 1"),
        ({"refuse": model.SET_MEM_TABLE}, {}, "EREFUSED", "SET_MEM_TABLE: refused"),
        ({"refuse": model.SET_VRING_ADDR}, {}, "EREFUSED", "SET_VRING_ADDR: refused"),
        ({"silent": model.SET_FEATURES}, {"timeout_ms": 50}, "ETIMEOUT", "SET_FEATURES: no answer in 50 ms"),
    ],
)
def test_what_the_other_side_did_is_named(libdpu, socket_path, offer, options, code, text):
    with Backend(socket_path, **offer):
        error = refused(libdpu, socket_path, **options)
    assert (error.code, error.text) == (libdpu.Error[code], text)


def test_a_dpu_that_starts_later_is_waited_for(open_port, socket_path):
    made = []
    timer = threading.Timer(0.1, lambda: made.append(Backend(socket_path)))
    timer.start()
    try:
        assert open_port(connect_ms=10000).link
    finally:
        timer.join()
        made[0].close()


def test_server_mode_lets_the_dpu_connect(open_port, socket_path):
    with Backend(socket_path, connect=True) as backend:
        port = open_port(server=1, connect_ms=10000)
        port.send(FRAME)
        assert backend.sent()[2] == FRAME


def test_a_vanished_dpu_wakes_a_program_that_waits(libdpu, port, backend):
    timer = threading.Timer(0.1, backend.close)
    timer.start()
    start = time.monotonic()
    with pytest.raises(libdpu.DpuError) as caught:
        port.wait(30)
    assert time.monotonic() - start < 10
    assert caught.value.code == libdpu.Error.ELINK
    assert caught.value.text == "the DPU closed the connection"
    assert not port.link
    timer.join()


@pytest.mark.parametrize("call", ["rx_burst", "tx_burst"])
def test_a_vanished_dpu_is_noticed_by_a_program_that_polls(libdpu, port, backend, call):
    packets = port.alloc(64)
    for packet in packets:
        packet.fill(FRAME)
    assert port.tx_burst(packets) == 64  # the ring is full
    (more,) = port.alloc(1)
    more.fill(FRAME)
    backend.close()
    with pytest.raises(libdpu.DpuError) as caught:
        for _ in range(1000):
            port.rx_burst() if call == "rx_burst" else port.tx_burst([more])
    assert caught.value.code == libdpu.Error.ELINK


def test_what_had_arrived_is_received_although_the_dpu_is_gone(libdpu, port, backend):
    for number in range(10):
        backend.deliver(bytes([number]) * 60)
    backend.close()
    assert not port.link
    assert [packet.octets()[0] for packet in port.rx_burst()] == list(range(10))
    with pytest.raises(libdpu.DpuError):
        port.rx_burst()


def test_a_wait_goes_on_when_the_dpu_is_back_in_time(port, backend, socket_path):
    backend.close()
    assert not port.link
    after = []

    def restart():
        after.append(Backend(socket_path))
        after[0].wait_for(lambda: after[0].rings[0].kick).deliver(FRAME)
        after[0].rings[0].signal()

    timer = threading.Timer(0.2, restart)
    timer.start()
    try:
        assert port.wait(10)
        assert port.recv(0) == FRAME
    finally:
        timer.join()
        after[0].close()


def test_shutdown_ends_the_wait_of_another_thread(libdpu, port):
    timer = threading.Timer(0.1, port.close)
    timer.start()
    with pytest.raises(libdpu.DpuError) as caught:
        port.wait(30)
    assert caught.value.code == libdpu.Error.ECLOSED
    timer.join()


def test_arrays_outlive_the_port(open_port, backend):
    port = open_port()
    memory, bufs = port.memory, port.bufs
    (packet,) = port.alloc()
    packet.fill(b"\x55" * 60)
    data = packet.data
    port.close()
    assert data.sum() == 60 * 0x55
    assert (len(memory), len(bufs)) == (len(memory.tobytes()), bufs["index"][-1] + 1)


def reconnected(libdpu, port):
    """Wait for the link, by bursts as a polling program does; returns what was received meanwhile."""
    end, got = time.monotonic() + 10, []
    while time.monotonic() < end:
        try:
            got += port.rx_burst()
        except libdpu.DpuError as error:
            assert error.code == libdpu.Error.ELINK
            time.sleep(0.001)
            continue
        if port.link:
            return got
    raise AssertionError("the link did not come back")


@pytest.mark.parametrize("seed", range(4))
def test_rings_go_on_after_each_of_20_restarts(libdpu, open_port, socket_path, seed):
    """Traffic both ways; a DPU that dies with packets in its hands, some given back out of order."""
    dice = random.Random(seed)
    backend = Backend(socket_path)
    port = open_port(ring_size=64)
    sent = arrived = delivered = received = 0
    for _ in range(20):
        for _ in range(dice.randrange(80)):
            sent += port.send(sent.to_bytes(4, "big") + FRAME, timeout=0)
        ring, held = backend.rings[1], []
        for _ in range(dice.randrange(ring.available + 1)):
            head, _, frame = backend.sent()
            held.append((head, int.from_bytes(frame[:4], "big")))
        dice.shuffle(held)
        done = held[: dice.randrange(len(held) + 1)]
        for head, _ in done:
            ring.put(head)
        lost = {number for _, number in held} - {number for _, number in done}
        for _ in range(dice.randrange(60)):
            size = dice.choice([60, 1500, 9000])
            if backend.rings[0].available > 5:
                backend.deliver(delivered.to_bytes(4, "big") + bytes(size))
                delivered += 1
        used = [int(ring.used_head[1]) for ring in backend.rings[:2]]
        backend.close()
        assert not port.link
        backend = Backend(socket_path)
        packets = reconnected(libdpu, port) + port.rx_burst(256)
        for packet in packets:
            assert int.from_bytes(packet.octets()[:4], "big") == received
            received += 1
        port.free(packets)
        assert [ring.base for ring in backend.rings[:2]] == used
        assert backend.rings[0].available == 64
        # What was not given back comes again, in the order it was sent.
        numbers = []
        while backend.rings[1].available:
            head, _, frame = backend.sent()
            numbers.append(int.from_bytes(frame[:4], "big"))
            backend.rings[1].put(head)
        assert numbers == sorted(numbers)
        assert lost <= set(numbers)
        arrived += len(numbers)
        stats = port.stats()
        assert stats["bufs_app"] == 0
        assert stats["bufs_pool"] + stats["bufs_rings"] == stats["bufs_total"]
    assert received == delivered
    assert port.stats()["reconnects"] == port.stats()["link_losses"] == 20
    assert port.stats()["tx_packets"] == sent > 0 < arrived
    backend.close()


def test_a_kick_that_nobody_saw_does_not_start_a_ring_too_early(libdpu, port, backend, socket_path):
    """vhost-user, "Ring states": what a ring that runs and is not enabled has is discarded."""
    backend.wait_for(lambda: backend.rings[1].enabled)
    os.eventfd_write(backend.rings[1].kick, 1)
    backend.close()
    with Backend(socket_path) as fresh:
        reconnected(libdpu, port)
        fresh.wait_for(lambda: fresh.rings[1].enabled)
        assert [ring.kicked_early for ring in fresh.rings[:2]] == [False, False]
        fresh.wait_for(fresh.rings[1].was_kicked)


def test_attempts_to_reconnect_become_rarer(libdpu, open_port, socket_path):
    backend = Backend(socket_path)
    port = open_port(reconnect_ms=400)
    backend.close()
    backend = Backend(socket_path, refuse=model.SET_FEATURES)
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        with pytest.raises(libdpu.DpuError):
            port.wait(0.05)
    attempts = [request for request, _ in backend.requests].count(model.SET_FEATURES)
    backend.close()
    assert 3 <= attempts <= 8  # after 0, 10, 30, 70, 150, 310, 630, 1030 ms


def test_queues_are_of_one_thread_each_and_buffers_of_all(open_port, backend):
    port = open_port(queues=2, ring_size=64)
    assert backend.acked & f.mask(f.VIRTIO_NET_F_MQ)
    failed, stop = [], threading.Event()

    def serve():
        while not stop.is_set():
            if not backend.echo(0, 16) + backend.echo(1, 16):
                time.sleep(0.0005)

    def exchange(queue):
        handles, back, count = np.empty(16, np.uint64), np.empty(16, np.uint64), 0
        while count < 500:
            n = port.alloc_batch(handles, queue)
            rows = port.rows(handles[:n])
            port.bufs["len"][rows] = 60
            port.memory[port.offsets(rows)] = queue
            taken = port.tx_batch(handles[:n], queue)
            port.free_batch(handles[taken:n], queue)
            got = port.rx_batch(back, queue)
            if got and not (port.memory[port.offsets(port.rows(back[:got]))] == queue).all():
                failed.append(queue)
            port.free_batch(back[:got], queue)
            count += got

    server = threading.Thread(target=serve)
    threads = [threading.Thread(target=exchange, args=(queue,)) for queue in (0, 1)]
    for thread in [server, *threads]:
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    server.join()
    assert not failed
    assert all(port.stats(queue)["rx_packets"] >= 500 for queue in (0, 1))
    assert port.stats()["bufs_app"] == 0


def test_a_buffer_may_come_from_one_queue_and_go_by_another(open_port, backend):
    port = open_port(queues=2, ring_size=64)
    for _ in range(200):
        backend.deliver(FRAME, pair=0)
        assert port.tx_burst(port.rx_burst(queue=0), queue=1) == 1
        backend.rings[3].put(backend.sent(pair=1)[0])
    assert port.stats()["bufs_app"] == 0
