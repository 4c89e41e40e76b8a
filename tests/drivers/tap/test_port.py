"""TAP ports: the control half on real interfaces, the compiled half on them and on socket pairs.

A socket pair of datagrams takes and gives one packet a call, as tun does, and is full when it is told to be.
"""

import contextlib
import errno
import os
import random
import socket
import time

import numpy as np
import pytest

from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.drivers.port import PortCounter, PortError
from dpu_runtime.drivers.tap import MTU_MAX
from dpu_runtime.drivers.tap.port import TapPort
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import (
    BATCH_SIZE,
    BURST_BYTES_MAX,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    HEADROOM_BYTES,
    PAYLOAD_PIECES_MAX,
)
from tests.drivers.tap.bursts import IN_PORT, Queue
from tests.kernels.batches import Batch
from tests.kernels.offload.merging import merged_stream
from tests.kernels.pieces import scatter
from tests.wires import next_frame, open_wire

VNET = bytes(12)
RX = (PortCounter.RX_PACKETS, PortCounter.RX_BYTES, PortCounter.RX_DROPPED)
TX = (PortCounter.TX_PACKETS, PortCounter.TX_BYTES, PortCounter.TX_DROPPED)
GONE_TIMEOUT_S = 10.0  # the kernel takes a namespace down in the background

root = pytest.mark.root
compiled = pytest.mark.compiled


def frame(size, seed=0):
    """A frame of `size` octets that no host answers."""
    body = random.Random(size * 1000 + seed).randbytes(max(0, size - 14))
    return bytes.fromhex("ffffffffffff 02aa00000001 88b5") + body


@pytest.fixture
def tap(netns, run_in):
    """A TAP port in a namespace of its own, up, and its queue."""
    made = []

    def make(mtu=1500, **keys):
        where = netns(ipv6=False)
        port = TapPort("p", "eth0", where, **keys)
        made.append(port)
        port.open()
        run_in(where, ["ip", "link", "set", "eth0", "mtu", mtu, "up"])
        return port

    yield make
    for port in made:
        port.close()


@pytest.fixture
def pair():
    """The queue of a driver and the other end of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    with ours, theirs:
        yield Queue(ours.fileno()), theirs


# control half


@root
def test_interface_comes_and_goes(netns, run_in):
    where = netns()
    port = TapPort("p", "eth0", where)
    (fd,) = port.open()
    assert not os.get_blocking(fd)
    assert not os.get_inheritable(fd)
    assert "eth0" in run_in(where, ["ip", "-o", "link"]).stdout
    assert "eth0" in run_in_netns(where, lambda: [name for _, name in socket.if_nameindex()])
    port.close()
    port.close()
    assert "eth0" not in run_in(where, ["ip", "-o", "link"]).stdout


@root
def test_interface_of_the_caller_s_own_namespace():
    name = f"dput{os.getpid()}"[:15]
    port = TapPort("p", name, None)
    port.open()
    try:
        assert name in (n for _, n in socket.if_nameindex())
    finally:
        port.close()
    assert name not in (n for _, n in socket.if_nameindex())


@root
def test_capabilities(netns):
    port = TapPort("p", "eth0", netns())
    port.open()
    got = port.capabilities
    assert (got.tx_csum, got.tso4, got.tso6, got.ecn, got.gro, got.queues) == (
        True,
        True,
        True,
        True,
        True,
        1,
    )
    assert got.uso or "no USO" in got.notes[0]
    port.close()


@root
def test_offloads_that_are_off_are_noted(netns):
    port = TapPort("p", "eth0", netns(), offload=False)
    port.open()
    got = port.capabilities
    assert not any((got.tx_csum, got.tso4, got.tso6, got.ecn, got.uso, got.gro))
    assert got.notes == ["offloads are off: the configuration says offload = false"]
    port.close()


@root
def test_many_queues(netns, run_in):
    where = netns()
    port = TapPort("p", "eth0", where, queues=4)
    assert len(set(port.open())) == 4
    assert port.capabilities.queues == 4
    assert " numtxqueues " in run_in(where, ["ip", "-d", "link", "show", "eth0"]).stdout
    assert run_in(where, ["ip", "-d", "-o", "link", "show", "eth0"]).stdout.count("multi_queue") == 1
    port.close()


@root
def test_adoption_outlives_the_first_owner(netns, run_in):
    where = netns()
    first = TapPort("p", "eth0", where, queues=2)
    copies = [os.dup(fd) for fd in first.open()]
    second = TapPort("p", "eth0", where, queues=2)
    second.adopt(copies, {})
    second.adopt(second.fds, {})
    assert second.capabilities == first.capabilities
    first.close()
    assert "eth0" in run_in(where, ["ip", "-o", "link"]).stdout
    second.close()
    assert "eth0" not in run_in(where, ["ip", "-o", "link"]).stdout


@root
def test_taken_name(tap):
    port = tap()
    with pytest.raises(PortError, match="interface 'eth0' exists already in netns") as caught:
        TapPort("q", "eth0", port.netns).open()
    assert (caught.value.port, caught.value.errno_) == ("q", errno.EEXIST)


@root
@pytest.mark.parametrize("where", ["no-such", "/run/netns/no-such", "pid:4194304"])
def test_missing_namespace(where):
    open_before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(PortError, match="No such file or directory"):
        TapPort("p", "eth0", where).open()
    assert len(os.listdir("/proc/self/fd")) == open_before


@root
def test_failure_leaves_no_descriptor_and_no_interface(netns, run_in, monkeypatch):
    where = netns()
    monkeypatch.setattr("dpu_runtime.drivers.tap.port.TUNSETVNETHDRSZ", 0x400454FF)
    open_before = len(os.listdir("/proc/self/fd"))
    port = TapPort("p", "eth0", where)
    with pytest.raises(PortError, match="TUNSETVNETHDRSZ: interface 'eth0'"):
        port.open()
    assert port.fds == []
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert "eth0" not in run_in(where, ["ip", "-o", "link"]).stdout


def test_no_tun_device(monkeypatch):
    monkeypatch.setattr("dpu_runtime.drivers.tap.port.TUN_DEVICE", "/no/such/tun")
    with pytest.raises(PortError, match="No such file or directory; a tap port needs /no/such/tun"):
        TapPort("p", "dput0").open()


@root
def test_namespace_may_go_before_the_port(netns, run_in):
    where = netns()
    port = TapPort("p", "eth0", where)
    (fd,) = port.open()
    run_in(where, ["ip", "netns", "del", where])
    end = time.monotonic() + GONE_TIMEOUT_S
    with pytest.raises(OSError, match="File descriptor in bad state"):
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 100)
            time.sleep(0.01)
    port.close()


# compiled half


@root
@compiled
@pytest.mark.parametrize("size", [14, 15, 60, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, 1514])
def test_received_frame_lies_where_the_record_says(tap, size):
    port = tap()
    queue = Queue(port.fds[0])
    with open_wire(port.netns, "eth0") as wire:
        wire.send(frame(size))
    assert queue.receive() == (1, errno.EAGAIN)
    assert queue.frame(0) == frame(size)
    assert queue.vnet(0) == VNET
    m = queue.meta[0]
    assert int(m["frame_len"]) == size
    assert int(m["payload_len"]) == max(0, size - HEADER_BYTES)
    assert int(m["l2_offset"]) == HEADROOM_BYTES
    assert int(m["header_end"]) == HEADROOM_BYTES + min(size, HEADER_BYTES)
    assert int(m["payload_iov"]) == 0
    assert int(m["in_port"]) == IN_PORT
    assert queue.counted(*RX) == [1, size, 0]
    assert queue.receive() == (0, errno.EAGAIN)


@root
@compiled
def test_burst_ends_with_the_batch(tap):
    port = tap()
    queue = Queue(port.fds[0])
    with open_wire(port.netns, "eth0") as wire:
        for number in range(BATCH_SIZE + 10):
            wire.send(frame(100 + number))
    assert queue.receive() == (BATCH_SIZE, 0)
    assert [queue.frame(i) for i in range(BATCH_SIZE)] == [frame(100 + i) for i in range(BATCH_SIZE)]
    assert queue.receive() == (10, errno.EAGAIN)
    assert queue.counted(PortCounter.RX_PACKETS, PortCounter.RX_CALLS) == [BATCH_SIZE + 10, 2]


@root
@compiled
def test_burst_ends_with_its_octets(tap):
    port = tap(mtu=MTU_MAX)
    queue = Queue(port.fds[0])
    size = 14 + MTU_MAX
    with open_wire(port.netns, "eth0") as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        for number in range(7):
            wire.send(frame(size, number))
    fit = -(-BURST_BYTES_MAX // size)
    assert queue.receive() == (fit, 0)
    assert [queue.frame(i) for i in range(fit)] == [frame(size, i) for i in range(fit)]
    assert queue.receive() == (7 - fit, errno.EAGAIN)


@root
@compiled
def test_sent_frames_arrive_in_their_order(tap):
    port = tap(mtu=9000)
    queue = Queue(port.fds[0])
    sizes = [60, 255, 256, 257, 1514, 9014]
    batch = Batch([frame(size) for size in sizes])
    with open_wire(port.netns, "eth0") as wire:
        queue.transmit(batch, [5, 0, 1, 2, 3, 4])
        got = [next_frame(wire) for _ in sizes]
    assert got == [frame(sizes[i]) for i in (5, 0, 1, 2, 3, 4)]
    assert queue.counted(*TX) == [len(sizes), sum(sizes), 0]
    assert queue.dropped() == {}


@root
@compiled
def test_sent_payloads_in_pieces_arrive_whole(tap):
    port = tap(mtu=9000)
    queue = Queue(port.fds[0])
    cuts = [[1], [1, 1], [3, 5, 7], [1] * PAYLOAD_PIECES_MAX, [1] * 255 + [8000], [4096, 1, 4096], [0]]
    frames = [frame(HEADER_BYTES + sum(lengths)) for lengths in cuts]
    batch = Batch(frames)
    lists = []
    for m, whole, lengths in zip(batch.meta, frames, cuts, strict=True):
        lists.append(scatter(whole[HEADER_BYTES:], lengths, random.Random(1)))
        m["payload_iov"], m["payload_addr"] = lists[-1][0] if any(lengths) else 0, 8
    with open_wire(port.netns, "eth0") as wire:
        queue.transmit(batch, range(len(cuts)))
        queue.transmit(batch, [4])  # a copy that is flooded uses the list once more
        got = [next_frame(wire) for _ in range(len(cuts) + 1)]
    assert got == [*frames, frames[4]]
    assert queue.counted(*TX) == [len(got), sum(map(len, got)), 0]
    for _, (_, table) in lists:
        assert (table[-1] == 0xA5A5A5A5A5A5A5A5).all()
    for size in (20, 202, 900):  # pieces of merged packets lie in rows too
        merge, whole = merged_stream(size)
        with open_wire(port.netns, "eth0") as wire:
            queue.transmit(merge.batch, merge.order)
            assert next_frame(wire) == whole


@root
@compiled
def test_interface_that_is_down(tap, run_in):
    port = tap()
    queue = Queue(port.fds[0])
    run_in(port.netns, ["ip", "link", "set", "eth0", "down"])
    queue.transmit(Batch([frame(60)] * 3), [0, 1, 2])
    assert queue.dropped() == {"PORT_DOWN": 3}
    assert queue.counted(*TX) == [0, 0, 3]
    assert queue.receive() == (0, errno.EAGAIN)
    run_in(port.netns, ["ip", "link", "set", "eth0", "up"])
    queue.transmit(Batch([frame(60)]), [0])
    assert queue.counted(*TX) == [1, 60, 3]


@root
@compiled
def test_interface_that_is_gone(tap, run_in):
    port = tap()
    queue = Queue(port.fds[0])
    run_in(port.netns, ["ip", "link", "del", "eth0"])
    assert queue.receive() == (0, errno.EBADFD)
    queue.transmit(Batch([frame(60)]), [0])
    assert queue.dropped() == {"TX_ERROR": 1}


@compiled
def test_closed_descriptor():
    queue = Queue(-1)
    assert queue.receive() == (0, errno.EBADF)
    queue.transmit(Batch([frame(60)]), [0])
    assert queue.dropped() == {"TX_ERROR": 1}


@compiled
def test_frame_that_no_buffer_holds_is_dropped_alone(pair):
    queue, peer = pair
    good = frame(FRAME_BYTES_MAX)
    for data in (VNET + frame(FRAME_BYTES_MAX + 1), VNET + good, VNET + frame(FRAME_BYTES_MAX + 500)):
        peer.send(data)
    assert queue.receive() == (1, errno.EAGAIN)
    assert queue.frame(0) == good
    assert queue.dropped() == {"RX_TRUNCATED": 2}
    assert queue.counted(*RX) == [3, FRAME_BYTES_MAX, 2]


@compiled
def test_message_without_a_frame_is_dropped(pair):
    queue, peer = pair
    for data in (b"", b"\1", VNET[:-1], VNET, VNET + b"\7"):
        peer.send(data)
    assert queue.receive() == (1, errno.EAGAIN)
    assert queue.frame(0) == b"\7"
    assert queue.dropped() == {"RX_TRUNCATED": 4}
    assert queue.counted(*RX) == [5, 1, 4]


@compiled
def test_header_goes_and_comes_in_front_of_the_frame(pair):
    queue, peer = pair
    header = bytes.fromhex("01 01 4200 a805 2200 1000 0000")
    peer.send(header + frame(3000))
    assert queue.receive() == (1, errno.EAGAIN)
    assert queue.vnet(0) == header
    m = queue.meta[0]
    m["offload"], m["gso_type"], m["gso_size"] = 1, 1, 1448
    m["csum_start"], m["csum_offset"], m["l5_offset"] = HEADROOM_BYTES + 34, 16, HEADROOM_BYTES + 66
    queue.transmit(queue, [0])
    assert peer.recv(1 << 17) == header + frame(3000)


@compiled
def test_full_queue_is_a_counted_drop_and_no_wait(pair):
    queue, peer = pair
    batch = Batch([frame(1000)] * BATCH_SIZE)
    while queue.drops[Drop.TX_FULL] == 0:
        queue.transmit(batch, np.arange(BATCH_SIZE))
    sent, octets, dropped = queue.counted(*TX)
    assert queue.dropped() == {"TX_FULL": dropped}
    assert octets == sent * 1000
    assert (sent + dropped) % BATCH_SIZE == 0
    assert peer.recv(1 << 17)[12:] == frame(1000)


@compiled
def test_peer_that_is_gone(pair):
    queue, peer = pair
    peer.close()
    queue.transmit(Batch([frame(60)] * 2), [0, 1])
    assert queue.dropped() == {"TX_ERROR": 2}
