"""The wire format against the specification's own numbers."""

import os
import struct

import pytest

from dpu_runtime.drivers.vhost_user import messages as m
from dpu_runtime.drivers.vhost_user.errors import FramingError, MessageError
from dpu_runtime.drivers.vhost_user.memory_table import Region
from tests.drivers.vhost_user.raw_frontend import addr, inflight, open_fds, single, state, table, u64

R = m.Request


def decode(request, payload=b"", fds=0):
    """Value of a message with that many descriptors, none of which stays open."""
    message = m.Message(request, m.VERSION, payload, [os.dup(0) for _ in range(fds)])
    try:
        return m.decode(message)
    finally:
        message.close()


def test_requests_have_the_numbers_of_the_specification():
    assert [request.value for request in R] == list(range(1, 45))
    for name, number in (("SET_MEM_TABLE", 5), ("GET_VRING_BASE", 11), ("SET_VRING_ENABLE", 18)):
        assert R[name] == number
    assert (R.GET_INFLIGHT_FD, R.ADD_MEM_REG, R.GET_STATUS) == (31, 37, 40)


def test_a_header_is_three_words():
    assert m.parse_header(struct.pack("=III", 5, 1, 264)) == (5, 1, 264)
    assert m.parse_header(struct.pack("=III", 5, 9, m.PAYLOAD_BYTES_MAX)) == (5, 9, m.PAYLOAD_BYTES_MAX)


@pytest.mark.parametrize(
    ("flags", "size", "text"),
    [
        (0, 0, "version 0, expected 1"),
        (2, 0, "version 2, expected 1"),
        (3, 0, "version 3, expected 1"),
        (5, 0, "reply flag"),
        (0x11, 0, "flags 0x11, known are 0xf"),
        (1, m.PAYLOAD_BYTES_MAX + 1, "payload of 4097 octets, at most 4096"),
        (1, 0xFFFF_FFFF, "payload of 4294967295 octets, at most 4096"),
    ],
)
def test_a_wrong_header_ends_the_stream(flags, size, text):
    with pytest.raises(FramingError, match=text):
        m.parse_header(struct.pack("=III", 5, flags, size))


def test_replies_have_the_reply_flag():
    assert m.pack(R.GET_FEATURES, m.pack_u64(7)) == struct.pack("=IIIQ", 1, 5, 8, 7)


FORMS = [
    (R.GET_FEATURES, b"", 0, None),
    (R.SET_FEATURES, u64(1 << 40), 0, 1 << 40),
    (R.SET_MEM_TABLE, table(), 0, []),
    (
        R.SET_MEM_TABLE,
        table((1, 2, 3, 4), (5, 6, 7, 8)),
        2,
        [Region(1, 2, 3, 4, None), Region(5, 6, 7, 8, None)],
    ),
    (R.SET_MEM_TABLE, table(*[(1, 2, 3, 4)] * 8), 8, [Region(1, 2, 3, 4, None)] * 8),
    (R.ADD_MEM_REG, single(1, 2, 3, 4), 1, Region(1, 2, 3, 4, None)),
    (R.REM_MEM_REG, single(1, 2, 3, 4), 0, Region(1, 2, 3, 4, None)),
    (R.REM_MEM_REG, single(1, 2, 3, 4), 1, Region(1, 2, 3, 4, None)),
    (R.SET_LOG_BASE, struct.pack("=QQ", 9, 8), 1, m.LogArea(9, 8)),
    (R.SET_LOG_FD, b"", 1, None),
    (R.SET_VRING_NUM, state(3, 256), 0, m.VringState(3, 256)),
    (
        R.SET_VRING_ADDR,
        addr(1, 2, 3, 4, 1, 5),
        0,
        m.VringAddr(ring=1, flags=1, desc=2, used=4, avail=3, log=5),
    ),
    (R.SET_VRING_KICK, u64(2), 1, m.VringFd(2, True)),
    (R.SET_VRING_CALL, u64(2 | 0x100), 0, m.VringFd(2, False)),
    (R.SET_VRING_ERR, u64(0xFF), 1, m.VringFd(0xFF, True)),
    (R.GET_INFLIGHT_FD, inflight(1, 2, 3, 4), 0, m.InflightArea(1, 2, 3, 4, 24)),
    (R.SET_INFLIGHT_FD, inflight(1, 2, 3, 4)[:20], 1, m.InflightArea(1, 2, 3, 4, 20)),
]


@pytest.mark.parametrize(("request_", "payload", "fds", "value"), FORMS)
def test_a_payload_is_decoded(request_, payload, fds, value):
    assert decode(request_, payload, fds) == value


@pytest.mark.parametrize(("request_", "payload", "fds", "value"), FORMS)
def test_any_other_length_is_refused(request_, payload, fds, value):
    for size in range(len(payload) + 9):
        if size != len(payload) and not ("INFLIGHT" in request_.name and size in (20, 24)):
            with pytest.raises(MessageError, match=f"payload of {size} octets"):
                decode(request_, payload.ljust(size, b"\0")[:size], fds)


@pytest.mark.parametrize(("request_", "payload", "fds", "value"), FORMS)
def test_missing_and_surplus_descriptors_are_refused_and_closed(request_, payload, fds, value):
    before = open_fds()
    for count in range(10):
        if count != fds and request_ != R.REM_MEM_REG:
            with pytest.raises(MessageError, match=f"came with {count} descriptors, expected {fds}"):
                decode(request_, payload, count)
    assert open_fds() == before


def test_at_most_one_descriptor_comes_with_rem_mem_reg():
    with pytest.raises(MessageError, match="came with 2 descriptors, expected 0"):
        decode(R.REM_MEM_REG, single(), 2)


@pytest.mark.parametrize(
    ("request_", "payload", "text"),
    [
        (R.SET_MEM_TABLE, struct.pack("=I4x", 9) + bytes(9 * 32), "9 regions, at most 8 in one message"),
        (R.SET_MEM_TABLE, struct.pack("=I4x", 0xFFFF_FFFF), "4294967295 regions, at most 8"),
        (R.SET_VRING_KICK, u64(0x200), "value 0x200, only bits 0-8"),
        (R.SET_VRING_CALL, u64(1 << 63), "only bits 0-8"),
        (R.GET_CONFIG, bytes(12), "not offered"),
        (R.SEND_RARP, u64(0), "not offered"),
        (R.IOTLB_MSG, bytes(32), "not offered"),
        (0, b"", "not offered"),
        (99, b"", "not offered"),
    ],
)
def test_nonsense_is_refused(request_, payload, text):
    with pytest.raises(MessageError, match=text):
        decode(request_, payload)


def test_a_message_has_a_name():
    assert m.Message(5, 1, b"", []).name == "SET_MEM_TABLE"
    assert m.Message(77, 1, b"", []).name == "request 77"


def test_an_inflight_description_is_as_long_as_the_one_that_asked():
    assert m.pack_inflight(m.InflightArea(1, 2, 3, 4, 24)) == inflight(1, 2, 3, 4)
    assert m.pack_inflight(m.InflightArea(1, 2, 3, 4, 20)) == inflight(1, 2, 3, 4)[:20]
