"""What a front-end must not say. It is told so, with nothing changed; one that did not ask is hung up on."""

import os
import struct

import pytest

from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.drivers.vhost_user.messages import PAYLOAD_BYTES_MAX, Request
from dpu_runtime.drivers.vhost_user.session import REFUSALS_MAX
from tests.drivers.vhost_user.raw_frontend import (
    FEATURES,
    GUEST,
    MEMORY_BYTES,
    USER,
    addr,
    inflight,
    open_fds,
    single,
    state,
    table,
    u64,
)

R = Request
LIVE = "ring 0 is live; GET_VRING_BASE stops it"
ONE = (GUEST, MEMORY_BYTES, USER, 0)
TOP = 1 << 64


def memory(frontend):
    return frontend.memory()


def eventfd(frontend):
    return frontend.eventfd()


def read_only(frontend):
    fd = frontend.memory()
    frontend.made.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY))
    return frontend.made[-1]


def pipe(frontend):
    frontend.made += os.pipe()
    return frontend.made[-1]


# (request, payload, descriptors, words of the reason), said to a connection that has 4 rings, 0 and 1 live
CASES = {
    "features not offered": (R.SET_FEATURES, u64(FEATURES | 1 << 33), [], "bits 33 are not offered"),
    "features of a legacy device": (R.SET_FEATURES, u64(1 << 15), [], "without VIRTIO_F_VERSION_1"),
    "other features, live": (R.SET_FEATURES, u64(FEATURES | 1 << 34), [], LIVE),
    "protocol features not offered": (R.SET_PROTOCOL_FEATURES, u64(1 << 5), [], "bits 5 are not offered"),
    "region of no size": (R.SET_MEM_TABLE, table((GUEST, 0, USER, 0)), [memory], "its size is 0"),
    "region past its file": (
        R.SET_MEM_TABLE,
        table((GUEST, MEMORY_BYTES, USER, 1)),
        [memory],
        "ends at 0x100001 of a file of 0x100000 octets",
    ),
    "region past any file": (
        R.SET_MEM_TABLE,
        table((GUEST, 4096, USER, TOP - 1)),
        [memory],
        "end of any file",
    ),
    "region past guest addresses": (R.ADD_MEM_REG, single(TOP - 1, 4096, 0), [memory], "address space"),
    "region past user addresses": (R.ADD_MEM_REG, single(0, 4096, TOP - 4095), [memory], "address space"),
    "regions overlap in guest addresses": (
        R.SET_MEM_TABLE,
        table(ONE, (GUEST + MEMORY_BYTES - 1, 4096, 0, 0)),
        [memory, memory],
        "overlaps region guest 0x40000000 user 0x7f0000000000 size 0x100000 in guest addresses",
    ),
    "regions overlap in user addresses": (
        R.ADD_MEM_REG,
        single(0, 4096, USER - 4095),
        [memory],
        "in user addresses",
    ),
    "region again": (R.ADD_MEM_REG, single(), [memory], "in guest addresses"),
    "region of no file": (R.ADD_MEM_REG, single(0, 4096, 0), [pipe], "no file of memory"),
    "region read-only": (R.ADD_MEM_REG, single(0, 4096, 0), [read_only], "not open for reading and writing"),
    "region that is not there": (R.REM_MEM_REG, single(0, 4096, 0), [], "there is no such region"),
    "region that a ring is in": (R.REM_MEM_REG, single(), [], "ring 0 is live and needs memory"),
    "table without the ring's region": (
        R.SET_MEM_TABLE,
        table((0, 4096, 0, 0)),
        [memory],
        "ring 0: descriptor table at user 0x7f0000000000, 4096 octets: not inside one memory region",
    ),
    "empty table": (R.SET_MEM_TABLE, table(), [], "ring 0 is live and needs memory"),
    "9 regions": (R.SET_MEM_TABLE, table(*[ONE] * 9), [memory] * 9, "9 regions, at most 8"),
    "missing descriptor": (R.SET_MEM_TABLE, table(ONE), [], "came with 0 descriptors, expected 1"),
    "surplus descriptor": (R.SET_MEM_TABLE, table(ONE), [memory] * 2, "came with 2 descriptors, expected 1"),
    "descriptors with nothing to carry": (R.SET_OWNER, b"", [memory] * 16, "came with 16 descriptors"),
    "short payload": (R.SET_FEATURES, bytes(7), [], "payload of 7 octets, expected 8"),
    "ring that is not there": (R.SET_VRING_NUM, state(4, 256), [], "ring 4: there are 4, 0 and up"),
    "kick of a ring that is not there": (R.SET_VRING_KICK, u64(255), [eventfd], "ring 255: there are 4"),
    "size 0": (R.SET_VRING_NUM, state(2, 0), [], "ring 2: size 0, allowed is 1 to 32768"),
    "size too large": (R.SET_VRING_NUM, state(2, 32769), [], "size 32769, allowed is 1 to 32768"),
    "size no power of two": (
        R.SET_VRING_NUM,
        state(2, 100),
        [],
        "size 100, a split ring's is a power of two",
    ),
    "size, live": (R.SET_VRING_NUM, state(0, 128), [], LIVE),
    "base, live": (R.SET_VRING_BASE, state(0, 0), [], LIVE),
    "base too large": (R.SET_VRING_BASE, state(2, 0x10000), [], "base 0x10000, at most 0xffff"),
    "addresses, live": (R.SET_VRING_ADDR, addr(0, used=USER + 0x8000), [], LIVE),
    "address flags": (R.SET_VRING_ADDR, addr(0, flags=2), [], "flags 0x2, known are 0x1"),
    "descriptor table out of line": (R.SET_VRING_ADDR, addr(2, desc=USER + 8), [], "not aligned to 16"),
    "available ring out of line": (R.SET_VRING_ADDR, addr(2, avail=USER + 1), [], "not aligned to 2"),
    "used ring out of line": (R.SET_VRING_ADDR, addr(2, used=USER + 2), [], "not aligned to 4"),
    "address outside memory": (R.SET_VRING_ADDR, addr(2, desc=0), [], "not inside one memory region"),
    "address at memory's end": (R.SET_VRING_ADDR, addr(2, used=USER + MEMORY_BYTES), [], "not inside one"),
    "address past the end of all": (R.SET_VRING_ADDR, addr(2, avail=TOP - 2), [], "end of the address space"),
    "kick is no eventfd": (R.SET_VRING_KICK, u64(2), [pipe], "its descriptor is no eventfd (pipe:"),
    "call is no eventfd": (R.SET_VRING_CALL, u64(0), [memory], "its descriptor is no eventfd (/memfd:"),
    "err is no eventfd": (R.SET_VRING_ERR, u64(0), [pipe], "its descriptor is no eventfd"),
    "log_fd is no eventfd": (R.SET_LOG_FD, b"", [pipe], "its descriptor is no eventfd"),
    "kick with and without": (R.SET_VRING_KICK, u64(0x100), [eventfd], "came with 1 descriptors, expected 0"),
    "kick bits": (R.SET_VRING_KICK, u64(0x1000), [eventfd], "value 0x1000, only bits 0-8"),
    "enabled twice over": (R.SET_VRING_ENABLE, state(0, 2), [], "ring 0: 2, allowed is 0 or 1"),
    "log past its file": (R.SET_LOG_BASE, struct.pack("=QQ", MEMORY_BYTES, 1), [memory], "log: ends at"),
    "log of no size": (R.SET_LOG_BASE, struct.pack("=QQ", 0, 0), [memory], "log: its size is 0"),
    "log past any file": (R.SET_LOG_BASE, struct.pack("=QQ", TOP - 1, 1), [memory], "end of any file"),
    "MTU": (R.NET_SET_MTU, u64(9000), [], "MTU 9000, allowed is 68 to the port's own 1500"),
    "status": (R.SET_STATUS, u64(0x100), [], "status 0x100, at most 0xff"),
    "in-flight buffer, live": (R.SET_INFLIGHT_FD, inflight(MEMORY_BYTES), [memory], LIVE),
    "not offered": (R.SET_BACKEND_REQ_FD, b"", [eventfd], "SET_BACKEND_REQ_FD: not offered"),
    "unknown": (1000, b"", [], "request 1000: not offered"),
}


@pytest.fixture
def started(frontend):
    return frontend.start()


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_changes_nothing(served, started, caplog, name):
    request, payload, make, text = CASES[name]
    before, _ = served.port.snapshot()
    sent = [one(started) for one in make]
    held = open_fds()
    assert started.ack(request, payload, sent) == 1
    assert text in caplog.text
    assert served.port.snapshot()[0] | {"notes": 0} == before | {"notes": 0}
    started.ok(R.SET_OWNER)  # the connection goes on
    assert open_fds() == held


@pytest.mark.parametrize("name", CASES)
def test_one_that_asked_for_no_reply_is_hung_up_on(served, started, caplog, name):
    request, payload, make, text = CASES[name]
    started.send(request, payload, [one(started) for one in make])
    assert started.closed()
    served.gone()
    assert f"port vm: connection closed: {getattr(request, 'name', 'request 1000')}: " in caplog.text
    assert text in caplog.text


@pytest.mark.parametrize(
    ("request_", "payload", "make", "text"),
    [
        (R.SET_INFLIGHT_FD, inflight(100), [memory], "in-flight buffer of 100 octets, needed are 8320"),
        (R.SET_INFLIGHT_FD, inflight(0), [memory], "in-flight buffer: its size is 0"),
        (R.SET_INFLIGHT_FD, inflight(MEMORY_BYTES, 1), [memory], "in-flight buffer: ends at"),
        (R.SET_INFLIGHT_FD, inflight(MEMORY_BYTES, queues=0), [memory], "for 0 rings, allowed is 1 to 4"),
        (R.SET_INFLIGHT_FD, inflight(MEMORY_BYTES, queues=5), [memory], "for 5 rings, allowed is 1 to 4"),
        (R.SET_INFLIGHT_FD, inflight(4096, queue_size=0), [memory], "rings of 0, allowed is 1 to 32768"),
        (R.SET_INFLIGHT_FD, inflight(4096, queue_size=65535), [memory], "rings of 65535"),
        (R.SET_MEM_TABLE, table(ONE, ONE), [memory] * 2, "overlaps"),
    ],
)
def test_a_refusal_before_anything_is_live(frontend, caplog, request_, payload, make, text):
    frontend.negotiate()
    assert frontend.ack(request_, payload, [one(frontend) for one in make]) == 1
    assert text in caplog.text


GATED = [
    (R.SET_LOG_BASE, bytes(16), [memory], "LOG_SHMFD"),
    (R.NET_SET_MTU, u64(1500), [], "NET_MTU"),
    (R.SET_INFLIGHT_FD, inflight(), [memory], "INFLIGHT_SHMFD"),
    (R.RESET_DEVICE, b"", [], "RESET_DEVICE"),
    (R.ADD_MEM_REG, single(), [memory], "CONFIGURE_MEM_SLOTS"),
    (R.REM_MEM_REG, single(), [], "CONFIGURE_MEM_SLOTS"),
    (R.SET_STATUS, u64(1), [], "STATUS"),
]


@pytest.mark.parametrize(("request_", "payload", "make", "feature"), GATED)
def test_what_needs_a_protocol_feature(frontend, caplog, request_, payload, make, feature):
    frontend.negotiate(protocol=f.mask(f.VHOST_USER_PROTOCOL_F_REPLY_ACK))
    assert frontend.ack(request_, payload, [one(frontend) for one in make]) == 1
    assert f"{request_.name}: VHOST_USER_PROTOCOL_F_{feature} was not negotiated" in caplog.text


@pytest.mark.parametrize(
    "request_", [R.GET_MAX_MEM_SLOTS, R.GET_STATUS, R.GET_SHARED_OBJECT, R.POSTCOPY_ADVISE]
)
def test_a_request_with_a_reply_of_its_own_can_only_be_hung_up_on(served, frontend, request_):
    frontend.negotiate(protocol=f.mask(f.VHOST_USER_PROTOCOL_F_REPLY_ACK))
    frontend.send(request_, flags=9)
    assert frontend.closed()
    served.gone()


def test_get_config_is_answered_with_nothing(frontend):
    frontend.negotiate()
    assert frontend.ask(R.GET_CONFIG, bytes(12 + 8)) == b""
    frontend.ask(R.GET_FEATURES)


def test_a_ring_that_cannot_go_live_says_so_at_its_last_message(served, frontend, caplog):
    frontend.negotiate()
    frontend.send(R.SET_VRING_NUM, state(0, 256))
    frontend.send(R.SET_VRING_ADDR, addr(0, desc=0x1000))  # no memory yet, so it may be right
    frontend.share()
    assert frontend.ack(R.SET_VRING_KICK, u64(0), [frontend.eventfd()]) == 1
    assert "ring 0: descriptor table at user 0x1000, 4096 octets: not inside one memory region" in caplog.text
    assert not served.plane.ring(0)["live"]


def test_a_ring_needs_version_1(frontend, caplog):
    frontend.negotiate(features=f.mask(f.VHOST_USER_F_PROTOCOL_FEATURES))
    frontend.share()
    frontend.send(R.SET_VRING_NUM, state(0, 256))
    frontend.send(R.SET_VRING_ADDR, addr(0))
    assert frontend.ack(R.SET_VRING_KICK, u64(0), [frontend.eventfd()]) == 1
    assert "ring 0: VIRTIO_F_VERSION_1 was not negotiated" in caplog.text


def test_a_packed_ring_has_other_rules(served, frontend, caplog):
    frontend.negotiate(features=FEATURES | f.mask(f.VIRTIO_F_RING_PACKED))
    frontend.share()
    frontend.ok(R.SET_VRING_NUM, state(0, 100))
    assert frontend.ack(R.SET_VRING_BASE, state(0, 0x8000_8064)) == 1
    assert "base 0x80008064 has index 100, size is 100" in caplog.text
    assert frontend.ack(R.SET_VRING_BASE, state(0, 0x8064_8000)) == 1
    assert frontend.ack(R.SET_VRING_ADDR, addr(0, avail=USER + 2)) == 1
    assert "driver event suppression at user 0x7f0000000002: not aligned to 4" in caplog.text
    assert frontend.ack(R.SET_VRING_ADDR, addr(0, used=USER + MEMORY_BYTES - 2)) == 1
    frontend.ok(R.SET_VRING_ADDR, addr(0, avail=USER + MEMORY_BYTES - 4))


def test_ring_parts_may_end_with_their_region_and_not_an_octet_later(frontend):
    frontend.negotiate()  # without EVENT_IDX: 4 + 2n and 4 + 8n octets
    frontend.share()
    frontend.ok(R.SET_VRING_NUM, state(0, 256))
    end = USER + MEMORY_BYTES
    frontend.ok(R.SET_VRING_ADDR, addr(0, desc=end - 4096, avail=end - 516, used=end - 2052))
    assert frontend.ack(R.SET_VRING_ADDR, addr(0, desc=end - 4096 + 16)) == 1
    assert frontend.ack(R.SET_VRING_ADDR, addr(0, avail=end - 514)) == 1
    assert frontend.ack(R.SET_VRING_ADDR, addr(0, used=end - 2048)) == 1
    frontend.ok(R.SET_FEATURES, u64(FEATURES | f.mask(f.VIRTIO_F_EVENT_IDX)))
    assert frontend.ack(R.SET_VRING_ADDR, addr(0, avail=end - 516)) == 1  # and 2 more
    frontend.ok(R.SET_VRING_ADDR, addr(0, avail=end - 518))


def test_a_log_address_past_the_log(started, caplog):
    started.ask(R.SET_LOG_BASE, struct.pack("=QQ", 1, 0), [started.memory()])  # 8 pages
    inside = 8 * 4096 - (4 + 8 * 256)
    started.ok(R.SET_VRING_ADDR, addr(0, flags=1, log=inside))
    assert started.ack(R.SET_VRING_ADDR, addr(0, flags=1, log=inside + 1)) == 1
    assert "is past a log of 8 pages" in caplog.text


def test_a_ring_beyond_the_inflight_buffer(frontend, caplog):
    frontend.negotiate()
    frontend.share()
    frontend.send(R.GET_INFLIGHT_FD, inflight(queues=1, queue_size=128))
    frontend.receive()
    for ring, size in ((0, 256), (1, 128)):
        frontend.send(R.SET_VRING_NUM, state(ring, size))
        frontend.send(R.SET_VRING_ADDR, addr(ring))
        assert frontend.ack(R.SET_VRING_KICK, u64(ring), [frontend.eventfd()]) == 1
        assert f"ring {ring} of {size}: the in-flight buffer is for 1 rings of 128" in caplog.text


def test_there_are_32_memory_slots(served, frontend, caplog):
    frontend.negotiate()
    for slot in range(32):
        frontend.ok(R.ADD_MEM_REG, single(slot << 20, 4096, slot << 20), [frontend.memory(4096)])
    assert frontend.ack(R.ADD_MEM_REG, single(32 << 20, 4096, 32 << 20), [frontend.memory(4096)]) == 1
    assert "there are 32 already" in caplog.text
    assert served.port.info()["memory_regions"] == 32


@pytest.mark.parametrize(
    ("data", "fds", "text"),
    [
        (struct.pack("=III", R.GET_FEATURES, 2, 0), 0, "version 2, expected 1"),
        (struct.pack("=III", R.GET_FEATURES, 5, 0), 0, "has the reply flag"),
        (struct.pack("=III", R.GET_FEATURES, 0xFFFF_FFF1, 0), 0, "flags 0xfffffff1"),
        (struct.pack("=III", R.SET_FEATURES, 1, PAYLOAD_BYTES_MAX + 1), 3, "payload of 4097 octets"),
        (struct.pack("=III", R.GET_FEATURES, 1, 0), 17, "more than 16 descriptors"),
        (struct.pack("=III", R.GET_FEATURES, 1, 0), 200, "more than 16 descriptors"),
    ],
)
def test_a_broken_stream_is_closed(served, started, caplog, data, fds, text):
    started.send_raw(data, [started.made[0]] * fds)
    assert started.closed()
    served.gone()
    assert f"port vm: connection closed: {text}" in caplog.text.replace("request 1: ", "").replace(
        "request 2: ", ""
    )


def test_descriptors_do_not_pile_up_over_half_a_message(served, started, caplog):
    started.send_raw(struct.pack("=III", R.SET_FEATURES, 1, 4096), [started.made[0]] * 10)
    started.send_raw(b"x", [started.made[0]] * 10)
    assert started.closed()
    assert "more than 16 descriptors with one message" in caplog.text
    served.gone()


def test_a_front_end_that_errs_for_ever_is_hung_up_on(served, frontend):
    frontend.negotiate()
    for _ in range(REFUSALS_MAX):
        assert frontend.ack(R.SEND_RARP, u64(0)) == 1
    frontend.send(R.SEND_RARP, u64(0), flags=9)
    assert frontend.closed()
    served.gone()
