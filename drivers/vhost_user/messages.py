"""vhost-user messages on the wire: header, requests, payloads.

Spec: vhost-user, "Message Specification", "Front-end message types". Numbers are in the machine's order.
Not:  what a request does; `handlers.py`. Requests that we do not offer have a number here and no form.
"""

import enum
import os
import struct
from typing import NamedTuple

from dpu_runtime.drivers.vhost_user.errors import FramingError, MessageError
from dpu_runtime.drivers.vhost_user.memory_table import Region

VERSION = 1
VERSION_MASK = 0x3
REPLY = 0x4  # flags
NEED_REPLY = 0x8
FLAGS_KNOWN = VERSION_MASK | REPLY | NEED_REPLY

HEADER = struct.Struct("=III")  # request, flags, octets of payload
PAYLOAD_BYTES_MAX = 4096  # the largest form there is takes 264
TABLE_REGIONS_MAX = 8  # of SET_MEM_TABLE, "Memory regions description"
FDS_MAX = 16  # taken with one message, to be counted; the largest form there is has 8

RING_MASK = 0xFF  # SET_VRING_KICK and its like: bits 0-7
NO_FD = 0x100  # and bit 8
VRING_F_LOG = 0x1  # SET_VRING_ADDR: writes to the used ring are logged
ADDR_FLAGS_KNOWN = VRING_F_LOG


class Request(enum.IntEnum):
    """VHOST_USER_*, what a front-end asks."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43
    GET_SHMEM_CONFIG = 44


class VringState(NamedTuple):
    """A vring state description."""

    ring: int
    num: int


class VringAddr(NamedTuple):
    """A vring address description; ring addresses are user addresses."""

    ring: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int  # guest address


class VringFd(NamedTuple):
    """Payload of SET_VRING_KICK, _CALL, _ERR."""

    ring: int
    has_fd: bool


class LogArea(NamedTuple):
    """Log description."""

    size: int  # octets
    offset: int


class InflightArea(NamedTuple):
    """Inflight description. `octets` is what it took: C front-ends send padding after it."""

    size: int  # octets
    offset: int
    queues: int
    queue_size: int
    octets: int


class Message:
    """One message as it came; owns its descriptors until they are taken."""

    def __init__(self, request, flags, payload, fds):
        self.request = request
        self.flags = flags
        self.payload = payload
        self.fds = fds

    @property
    def name(self):
        """Its name in the specification, for people."""
        try:
            return Request(self.request).name
        except ValueError:
            return f"request {self.request}"

    def take_fds(self):
        """The descriptors, now the caller's."""
        taken, self.fds = self.fds, []
        return taken

    def close(self):
        """Close the descriptors that nobody took."""
        for fd in self.take_fds():
            os.close(fd)


def parse_header(data):
    """(request, flags, octets of payload) of a request's header. Raises FramingError."""
    request, flags, size = HEADER.unpack(data)
    if flags & VERSION_MASK != VERSION:
        raise FramingError(f"request {request}: version {flags & VERSION_MASK}, expected {VERSION}")
    if flags & REPLY:
        raise FramingError(f"request {request}: has the reply flag, and nothing was asked")
    if flags & ~FLAGS_KNOWN:
        raise FramingError(f"request {request}: flags {flags:#x}, known are {FLAGS_KNOWN:#x}")
    if size > PAYLOAD_BYTES_MAX:
        raise FramingError(f"request {request}: payload of {size} octets, at most {PAYLOAD_BYTES_MAX}")
    return request, flags, size


def pack(request, payload, flags=VERSION | REPLY):
    """Octets of a message, a reply unless `flags` says otherwise."""
    return HEADER.pack(request, flags, len(payload)) + payload


_U64 = struct.Struct("=Q")
_STATE = struct.Struct("=II")
_ADDR = struct.Struct("=IIQQQQ")
_LOG = struct.Struct("=QQ")
_INFLIGHT = struct.Struct("=QQHH")
_INFLIGHT_PADDED = struct.Struct("=QQHH4x")  # sizeof(VhostUserInflight) of a C compiler
_TABLE = struct.Struct("=I4x")
_REGION = struct.Struct("=QQQQ")
_SINGLE_REGION = struct.Struct("=8xQQQQ")


def pack_u64(value):
    """Payload of one integer."""
    return _U64.pack(value)


def pack_state(ring, num):
    """Payload: a vring state description."""
    return _STATE.pack(ring, num)


def pack_inflight(area):
    """Payload: an inflight description, as long as the one that asked."""
    form = _INFLIGHT if area.octets == _INFLIGHT.size else _INFLIGHT_PADDED
    return form.pack(*area[:4])


def _unpack(form, payload):
    if len(payload) != form.size:
        raise MessageError(f"payload of {len(payload)} octets, expected {form.size}")
    return form.unpack(payload)


def _nothing(payload):
    if payload:
        raise MessageError(f"payload of {len(payload)} octets, expected none")
    return None, 0


def _u64(payload):
    return _unpack(_U64, payload)[0], 0


def _state(payload):
    return VringState(*_unpack(_STATE, payload)), 0


def _addr(payload):
    return VringAddr(*_unpack(_ADDR, payload)), 0


def _vring_fd(payload):
    value = _unpack(_U64, payload)[0]
    if value & ~(RING_MASK | NO_FD):
        raise MessageError(f"value {value:#x}, only bits 0-8 have a meaning")
    has_fd = not value & NO_FD
    return VringFd(value & RING_MASK, has_fd), int(has_fd)


def _log(payload):
    return LogArea(*_unpack(_LOG, payload)), 1


def _log_fd(payload):
    return _nothing(payload)[0], 1


def _inflight(payload):
    form = _INFLIGHT if len(payload) == _INFLIGHT.size else _INFLIGHT_PADDED
    return InflightArea(*_unpack(form, payload), len(payload))


def _table(payload):
    if len(payload) < _TABLE.size:
        raise MessageError(f"payload of {len(payload)} octets, expected at least {_TABLE.size}")
    (count,) = _TABLE.unpack_from(payload)
    if count > TABLE_REGIONS_MAX:
        raise MessageError(f"{count} regions, at most {TABLE_REGIONS_MAX} in one message")
    size = _TABLE.size + count * _REGION.size
    if len(payload) != size:
        raise MessageError(f"payload of {len(payload)} octets, expected {size} for {count} regions")
    regions = [Region(*numbers, token=None) for numbers in _REGION.iter_unpack(payload[_TABLE.size :])]
    return regions, count


def _region(payload):
    return Region(*_unpack(_SINGLE_REGION, payload), token=None)


# What a request's payload means: octets -> (value, descriptors that come with it)
_FORMS = {
    Request.GET_FEATURES: _nothing,
    Request.SET_FEATURES: _u64,
    Request.SET_OWNER: _nothing,
    Request.RESET_OWNER: _nothing,
    Request.SET_MEM_TABLE: _table,
    Request.SET_LOG_BASE: _log,
    Request.SET_LOG_FD: _log_fd,
    Request.SET_VRING_NUM: _state,
    Request.SET_VRING_ADDR: _addr,
    Request.SET_VRING_BASE: _state,
    Request.GET_VRING_BASE: _state,
    Request.SET_VRING_KICK: _vring_fd,
    Request.SET_VRING_CALL: _vring_fd,
    Request.SET_VRING_ERR: _vring_fd,
    Request.GET_PROTOCOL_FEATURES: _nothing,
    Request.SET_PROTOCOL_FEATURES: _u64,
    Request.GET_QUEUE_NUM: _nothing,
    Request.SET_VRING_ENABLE: _state,
    Request.NET_SET_MTU: _u64,
    Request.GET_INFLIGHT_FD: lambda payload: (_inflight(payload), 0),
    Request.SET_INFLIGHT_FD: lambda payload: (_inflight(payload), 1),
    Request.RESET_DEVICE: _nothing,
    Request.GET_MAX_MEM_SLOTS: _nothing,
    Request.ADD_MEM_REG: lambda payload: (_region(payload), 1),
    Request.REM_MEM_REG: lambda payload: (_region(payload), 0),
    Request.SET_STATUS: _u64,
    Request.GET_STATUS: _nothing,
}


def decode(message):
    """Value of a message's payload. Raises MessageError: not offered, wrong size, wrong descriptors."""
    form = _FORMS.get(message.request)
    if form is None:
        raise MessageError("not offered")
    value, fds = form(message.payload)
    got = len(message.fds)
    # REM_MEM_REG: "the back-end MAY accept messages with one file descriptor", which it closes
    if got != fds and not (message.request == Request.REM_MEM_REG and got == 1):
        raise MessageError(f"came with {got} descriptors, expected {fds}")
    return value
