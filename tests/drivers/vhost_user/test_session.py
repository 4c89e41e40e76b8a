"""A connection's life: what is agreed on, and what the data plane is told of it."""

import os
import struct

import pytest

from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.drivers.vhost_user import inflight as buffers
from dpu_runtime.drivers.vhost_user.messages import Request
from tests.drivers.vhost_user.raw_frontend import (
    FEATURES,
    GUEST,
    MEMORY_BYTES,
    USER,
    addr,
    inflight,
    single,
    state,
    table,
    u64,
    wait_for,
)

R = Request
PACKED = FEATURES | f.mask(f.VIRTIO_F_RING_PACKED)
NO_ACK = f.PROTOCOL_FEATURES & ~f.mask(f.VHOST_USER_PROTOCOL_F_REPLY_ACK)


def same_file(a, b):
    return os.fstat(a).st_ino == os.fstat(b).st_ino


def test_what_is_offered(frontend):
    assert frontend.ask_u64(R.GET_FEATURES) == f.RING_FEATURES | f.OFFLOAD_FEATURES
    assert frontend.ask_u64(R.GET_PROTOCOL_FEATURES) == f.PROTOCOL_FEATURES
    assert frontend.ask_u64(R.GET_QUEUE_NUM) == 2
    frontend.negotiate()
    assert frontend.ask_u64(R.GET_MAX_MEM_SLOTS) == 32


def test_a_ring_goes_live_with_its_kick(served, frontend):
    frontend.negotiate()
    frontend.share()
    frontend.send(R.SET_VRING_NUM, state(0, 256))
    frontend.send(R.SET_VRING_BASE, state(0, 5))
    frontend.ok(R.SET_VRING_ADDR, addr(0))
    assert not served.plane.ring(0)["live"]
    kick = frontend.eventfd()
    frontend.ok(R.SET_VRING_KICK, u64(0), [kick])
    ring = served.plane.ring(0)
    place = {"desc": USER, "driver": USER + 0x2000, "device": USER + 0x3000, "size": 256, "base": 5}
    assert ring | place | {"live": True, "serial": 1, "enabled": False, "log": None, "call": None} == ring
    frontend.ok(R.SET_VRING_ENABLE, state(0, 1))
    assert served.plane.ring(0)["enabled"]
    assert served.plane.last["regions"] == [
        [GUEST, MEMORY_BYTES, USER, 0, served.plane.last["regions"][0][4]]
    ]
    assert served.plane.last["features"] == FEATURES
    assert served.plane.features == [FEATURES]


def test_the_descriptors_are_those_that_were_sent(served, frontend):
    frontend.start(rings=1)
    snapshot, fds = served.port.snapshot()
    by_token = dict(zip(snapshot["fds"], fds, strict=True))
    ring = snapshot["rings"][0]
    memory, call, kick = frontend.made[:3]
    assert same_file(by_token[snapshot["regions"][0][4]], memory)
    os.eventfd_write(by_token[ring["call"]], 3)
    os.eventfd_write(by_token[ring["kick"]], 5)
    assert (os.eventfd_read(call), os.eventfd_read(kick)) == (3, 5)
    assert {ring["call"], ring["kick"], snapshot["socket"], snapshot["listener"]} < set(snapshot["fds"])


def test_messages_may_come_in_another_order(served, frontend):
    frontend.negotiate()
    frontend.send(R.SET_VRING_KICK, u64(0), [frontend.eventfd()])
    frontend.send(R.SET_VRING_ADDR, addr(0))
    frontend.ok(R.SET_VRING_NUM, state(0, 256))
    assert not served.plane.ring(0)["live"]  # there is no memory yet
    frontend.ok(R.SET_MEM_TABLE, table((GUEST, MEMORY_BYTES, USER, 0)), [frontend.memory()])
    assert served.plane.ring(0)["live"]


def test_without_protocol_features_rings_are_enabled(served, frontend):
    frontend.send(R.SET_FEATURES, u64(f.mask(f.VIRTIO_F_VERSION_1)))
    frontend.share()
    frontend.set_ring(0)
    frontend.ask(R.GET_FEATURES)  # all before is done
    assert served.plane.ring(0)["live"] and served.plane.ring(0)["enabled"]
    frontend.send(R.SET_VRING_ENABLE, state(0, 0))
    assert frontend.closed()


def test_rings_are_enabled_before_features_are_set(served, frontend):
    """QEMU does so."""
    frontend.send(R.SET_PROTOCOL_FEATURES, u64(f.PROTOCOL_FEATURES))
    frontend.ok(R.SET_VRING_ENABLE, state(0, 1))
    frontend.send(R.SET_FEATURES, u64(FEATURES))
    frontend.share()
    frontend.set_ring(0)
    frontend.ask(R.GET_FEATURES)
    assert served.plane.ring(0)["enabled"]


def test_a_ring_that_is_not_kicked(served, frontend):
    frontend.negotiate()
    frontend.share()
    frontend.set_ring(0)
    frontend.ok(R.SET_VRING_KICK, u64(0x100))
    frontend.ok(R.SET_VRING_CALL, u64(0x100))
    ring = served.plane.ring(0)
    assert (ring["live"], ring["kick"], ring["call"], ring["serial"]) == (True, None, None, 1)


def test_get_vring_base_stops_a_ring(served, frontend):
    frontend.start()
    served.plane.bases[1] = 1234
    assert frontend.ask(R.GET_VRING_BASE, state(1)) == state(1, 1234)
    assert not served.plane.ring(1)["live"] and served.plane.ring(0)["live"]
    assert served.plane.ring(1)["kick"] is None
    assert frontend.ask(R.GET_VRING_BASE, state(1)) == state(1, 1234)  # and says the same again
    frontend.set_ring(1, base=99)
    frontend.ask(R.GET_FEATURES)
    ring = served.plane.ring(1)
    assert (ring["live"], ring["serial"], ring["base"]) == (True, 2, 99)
    assert served.plane.ring(0)["serial"] == 1


def test_a_stopped_ring_goes_on_where_it_was(served, frontend):
    frontend.start()
    served.plane.bases[1] = 1234
    frontend.ask(R.GET_VRING_BASE, state(1))
    frontend.ok(R.SET_VRING_KICK, u64(1), [frontend.eventfd()])
    assert served.plane.ring(1)["base"] == 1234 and served.plane.ring(1)["serial"] == 2


@pytest.mark.parametrize(
    ("said", "begins"),
    [(None, 0x8000_8000), (0x8000, 0x8000_8000), (0x8005_8007, 0x8005_8007), (0x0003, 0x0003_0003)],
)
def test_packed_rings_begin_at_two_positions(served, frontend, said, begins):
    """DPDK names the available one only."""
    frontend.negotiate(features=PACKED)
    frontend.share()
    frontend.send(R.SET_VRING_NUM, state(0, 100))
    if said is not None:
        frontend.send(R.SET_VRING_BASE, state(0, said))
    frontend.send(R.SET_VRING_ADDR, addr(0))
    assert frontend.ask(R.GET_VRING_BASE, state(0)) == state(0, begins)
    frontend.ok(R.SET_VRING_KICK, u64(0), [frontend.eventfd()])
    assert served.plane.ring(0)["base"] == begins and served.plane.ring(0)["live"]


def test_the_log_comes_and_goes_under_a_live_ring(served, frontend):
    frontend.start()
    log = frontend.memory(4096)
    assert frontend.ask(R.SET_LOG_BASE, struct.pack("=QQ", 2048, 1024), [log]) == u64(0)
    frontend.ok(R.SET_FEATURES, u64(FEATURES | f.mask(f.VHOST_F_LOG_ALL)))
    frontend.ok(R.SET_VRING_ADDR, addr(0, flags=1, log=GUEST // 4096 % 1000))
    frontend.ok(R.SET_LOG_FD, b"", [frontend.eventfd()])
    ring = served.plane.ring(0)
    assert (ring["log"], ring["serial"], ring["live"]) == (GUEST // 4096 % 1000, 1, True)
    assert served.plane.last["log"][1:] == [1024, 2048]
    assert served.plane.last["log_fd"] in served.plane.last["fds"]
    frontend.ok(R.SET_VRING_ADDR, addr(0))
    frontend.ok(R.SET_FEATURES, u64(FEATURES))
    assert served.plane.ring(0)["log"] is None and served.plane.ring(0)["serial"] == 1


def test_memory_comes_and_goes(served, frontend):
    frontend.start()
    more = single(guest=0, user=0x1000, size=4096)
    frontend.ok(R.ADD_MEM_REG, more, [frontend.memory()])
    assert len(served.plane.last["regions"]) == 2
    assert served.port.info()["memory_bytes"] == MEMORY_BYTES + 4096
    frontend.ok(R.REM_MEM_REG, more, [frontend.eventfd()])  # a descriptor that is not used
    assert len(served.plane.last["regions"]) == 1
    before = served.plane.last["regions"][0]
    frontend.ok(R.SET_MEM_TABLE, table((GUEST, MEMORY_BYTES, USER, 0)), [frontend.memory()])
    (after,) = served.plane.last["regions"]
    assert before[:4] == after[:4] and before[4] != after[4]
    assert before[4] not in served.plane.last["fds"]
    assert served.plane.ring(0)["serial"] == 1


def test_reset_device_keeps_the_connection(served, frontend):
    frontend.start()
    calls = served.plane.ring(0)["call"]
    frontend.ok(R.SET_STATUS, u64(0xF))
    assert frontend.ask_u64(R.GET_STATUS) == 0xF
    frontend.ok(R.RESET_DEVICE)
    ring = served.plane.ring(0)
    assert (ring["live"], ring["size"], ring["kick"], ring["call"]) == (False, 0, None, calls)
    assert served.plane.last["features"] == 0 and len(served.plane.last["regions"]) == 1
    assert served.plane.features == [FEATURES, 0]
    assert frontend.ask_u64(R.GET_STATUS) == 0
    frontend.send(R.SET_FEATURES, u64(PACKED))
    frontend.set_ring(0, size=100, base=0x8000)
    frontend.ask(R.GET_FEATURES)
    assert served.plane.ring(0)["serial"] == 2


def test_status_0_leaves_rings_to_get_vring_base(served, frontend):
    """QEMU sends it first."""
    frontend.start()
    served.plane.bases[0] = 8
    frontend.ok(R.SET_STATUS, u64(0))
    assert frontend.ask(R.GET_VRING_BASE, state(0)) == state(0, 8)


def test_reset_owner_disables_rings(served, frontend):
    frontend.start()
    frontend.ok(R.RESET_OWNER)
    assert [ring["enabled"] for ring in served.plane.last["rings"]] == [False, False]
    assert served.plane.ring(0)["live"]


def test_the_mtu_is_held_against_the_ports(served, frontend):
    frontend.negotiate()
    frontend.ok(R.NET_SET_MTU, u64(1500))
    assert served.port.info()["driver_mtu"] == 1500
    assert frontend.ack(R.NET_SET_MTU, u64(1501)) == 1
    served.port.mtu = 9000
    frontend.ok(R.NET_SET_MTU, u64(9000))
    assert frontend.ack(R.NET_SET_MTU, u64(67)) == 1


@pytest.mark.parametrize(
    ("features", "size"), [(FEATURES, 2 * (16 + 300 * 16 + 48)), (PACKED, 2 * (32 + 300 * 32 + 32))]
)
def test_the_inflight_buffer_survives_the_connection(served, frontend, features, size):
    frontend.negotiate(features=features)
    frontend.send(R.GET_INFLIGHT_FD, inflight(queues=2, queue_size=300))
    _, _, payload, (fd,) = frontend.receive()
    assert payload == inflight(size, 0, 2, 300)
    assert os.fstat(fd).st_size == size == 2 * buffers.queue_bytes(300, features == PACKED)
    with pytest.raises(PermissionError):  # it cannot shrink under its users
        os.ftruncate(fd, 0)
    os.pwrite(fd, b"kept", 100)
    assert served.plane.last["inflight"][1:] == [0, size, 2, 300]
    frontend.ok(R.SET_INFLIGHT_FD, payload, [fd])
    snapshot, fds = served.port.snapshot()
    there = dict(zip(snapshot["fds"], fds, strict=True))[snapshot["inflight"][0]]
    assert os.pread(there, 4, 100) == b"kept"


def test_before_features_an_inflight_buffer_has_room_for_either_format(frontend):
    frontend.send(R.SET_PROTOCOL_FEATURES, u64(f.PROTOCOL_FEATURES))
    frontend.send(R.GET_INFLIGHT_FD, inflight(queues=1, queue_size=64)[:20])
    _, _, payload, _ = frontend.receive()
    assert payload == inflight(buffers.queue_bytes(64, True), 0, 1, 64)[:20]


def test_an_inflight_buffer_that_cannot_be_is_of_size_0(frontend):
    frontend.negotiate()
    assert frontend.ask(R.GET_INFLIGHT_FD, inflight(queues=99)) == bytes(24)
    frontend.ask(R.GET_FEATURES)


def test_acknowledgements_only_if_negotiated(frontend):
    frontend.send(R.SET_OWNER, flags=9)  # REPLY_ACK is not negotiated: the flag means nothing
    frontend.ask(R.GET_FEATURES)
    frontend.negotiate()
    frontend.ok(R.SET_OWNER)
    frontend.send(R.SET_OWNER)  # did not ask
    frontend.send(R.GET_FEATURES, flags=9)  # has a reply of its own, and only that
    assert frontend.receive()[0] == R.GET_FEATURES
    assert frontend.ask_u64(R.GET_QUEUE_NUM) == 2
    frontend.send(R.SET_PROTOCOL_FEATURES, u64(NO_ACK))
    frontend.send(R.SET_OWNER, flags=9)
    frontend.ask(R.GET_FEATURES)


def test_a_message_that_negotiates_acknowledgements_may_ask_for_one(frontend):
    """rust-vmm does."""
    frontend.ok(R.SET_PROTOCOL_FEATURES, u64(f.PROTOCOL_FEATURES))


def test_what_the_data_plane_refuses_is_not_kept(served, frontend, caplog):
    frontend.start()
    before = served.plane.last
    served.plane.refuses = "no memory"
    more = single(guest=0, user=0x1000, size=4096)
    assert frontend.ack(R.ADD_MEM_REG, more, [frontend.memory()]) == 1
    assert "ADD_MEM_REG: the data plane refuses: no memory" in caplog.text
    snapshot, _ = served.port.snapshot()
    assert [snapshot[key] for key in ("regions", "fds")] == [before[key] for key in ("regions", "fds")]
    frontend.ok(R.SET_OWNER)  # changes nothing, but the data plane may not be sure what is
    assert served.plane.last["regions"] == before["regions"]
    frontend.ok(R.ADD_MEM_REG, more, [frontend.memory()])


def test_a_message_that_changes_nothing_is_not_handed_over(served, frontend):
    frontend.start()
    count = len(served.plane.snapshots)
    frontend.ok(R.SET_OWNER)
    frontend.ok(R.SET_FEATURES, u64(FEATURES))
    frontend.ok(R.SET_VRING_ENABLE, state(0, 1))
    frontend.ok(R.SET_VRING_NUM, state(0, 256))
    assert len(served.plane.snapshots) == count


def test_octets_may_come_one_at_a_time(served, frontend):
    from dpu_runtime.drivers.vhost_user.messages import HEADER

    frontend.negotiate()
    payload = table((GUEST, MEMORY_BYTES, USER, 0))
    message = HEADER.pack(R.SET_MEM_TABLE, 9, len(payload)) + payload
    for number in range(len(message)):
        fds = [frontend.memory()] if number == 20 else []  # descriptors anywhere in it are its own
        frontend.send_raw(message[number : number + 1], fds)
    assert frontend.receive()[2] == u64(0)
    assert len(served.plane.last["regions"]) == 1


def test_many_messages_in_one_piece(served, frontend):
    from dpu_runtime.drivers.vhost_user.messages import HEADER

    data = b"".join(HEADER.pack(R.GET_FEATURES, 1, 0) for _ in range(200))
    frontend.send_raw(data)
    assert [frontend.receive()[0] for _ in range(200)] == [R.GET_FEATURES] * 200


def test_a_front_end_that_goes_leaves_nothing(served, frontend):
    frontend.start()
    frontend.send_raw(b"\x05\0\0", [frontend.memory()])  # in the middle of a message
    served.settle()
    frontend.__exit__()
    served.gone()
    wait_for(lambda: served.plane.last["socket"] is None)
    assert (served.plane.last["rings"], served.plane.last["regions"]) == ([], [])
    assert len(served.plane.last["fds"]) == 1
    assert served.plane.features[-1] == 0
