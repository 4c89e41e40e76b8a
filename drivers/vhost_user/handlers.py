"""What each request does to the state of a connection.

Spec: vhost-user "Front-end message types".
In:   a copy of the state, which is thrown away if the request is refused.
Not:  GET_VRING_BASE's answer and acknowledgements; `session.py`.
"""

import fcntl
import os

from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.drivers.vhost_user import inflight, ring_check
from dpu_runtime.drivers.vhost_user.context import Reply
from dpu_runtime.drivers.vhost_user.errors import MessageError
from dpu_runtime.drivers.vhost_user.layout import REGIONS_MAX, RING_SIZE_MAX
from dpu_runtime.drivers.vhost_user.memory_table import add_region, check_file, remove_region
from dpu_runtime.drivers.vhost_user.messages import (
    ADDR_FLAGS_KNOWN,
    VRING_F_LOG,
    InflightArea,
    Request,
    pack_inflight,
    pack_u64,
)

MTU_MIN = 68  # octets, virtio 1.2 5.1.4.1
STATUS_MAX = 0xFF
EVENTFD = "anon_inode:[eventfd]"
# Without VERSION_1 the device is a legacy one, with another header (virtio 1.2 5.1.6.1) that we do not have.
NEEDS_NO_VERSION_1 = f.mask(f.VHOST_USER_F_PROTOCOL_FEATURES, f.VHOST_F_LOG_ALL)


def _beyond(value, offered, what):
    extra = value & ~offered
    if extra:
        bits = ", ".join(str(bit) for bit in range(64) if extra >> bit & 1)
        raise MessageError(f"{what} {value:#x}: bits {bits} are not offered, {offered:#x} is")


def get_features(c, _):
    """GET_FEATURES."""
    return Reply(pack_u64(c.offer.features))


def set_features(c, value):
    """SET_FEATURES; while a ring is live only the log may come and go."""
    _beyond(value, c.offer.features, "features")
    if value & ~NEEDS_NO_VERSION_1 and not value >> f.VIRTIO_F_VERSION_1 & 1:
        raise MessageError(f"features {value:#x}: without VIRTIO_F_VERSION_1, and we are no legacy device")
    changed = (c.state.features or 0) ^ value
    if changed & ~f.mask(f.VHOST_F_LOG_ALL):
        c.need_no_live()
    c.state.features = value


def get_protocol_features(c, _):
    """GET_PROTOCOL_FEATURES."""
    return Reply(pack_u64(c.offer.protocol_features))


def set_protocol_features(c, value):
    """SET_PROTOCOL_FEATURES."""
    _beyond(value, c.offer.protocol_features, "protocol features")
    c.state.protocol_features = value


def nothing(_c, _):
    """SET_OWNER: a connection has one owner anyway."""


def reset_owner(c, _):
    """RESET_OWNER, deprecated: disables all rings."""
    for ring in c.state.rings:
        ring.enabled = False


def get_queue_num(c, _):
    """GET_QUEUE_NUM: of a network device, queue pairs."""
    return Reply(pack_u64(c.offer.queues))


def set_mem_table(c, regions):
    """SET_MEM_TABLE: these regions instead of those there were."""
    c.state.regions = []
    for region, token in zip(regions, c.take_tokens(), strict=True):
        _add(c, region, token)


def get_max_mem_slots(_c, _):
    """GET_MAX_MEM_SLOTS."""
    return Reply(pack_u64(REGIONS_MAX))


def add_mem_reg(c, region):
    """ADD_MEM_REG; QEMU 7.2 says it again for each queue pair, and the same again changes nothing."""
    token = c.take_tokens()[0]
    fd = c.descriptors.fd(token)
    if not any(
        known[:4] == region[:4] and os.path.sameopenfile(c.descriptors.fd(known.token), fd)
        for known in c.state.regions
    ):
        _add(c, region, token)


def _add(c, region, token):
    c.state.regions = add_region(c.state.regions, region._replace(token=token), c.descriptors.fd(token))


def rem_mem_reg(c, region):
    """REM_MEM_REG."""
    c.state.regions = remove_region(c.state.regions, region)


def set_log_base(c, area):
    """SET_LOG_BASE; the answer is a u64 of 0 (front-ends want one and do not look at it)."""
    token = c.take_tokens()[0]
    check_file(c.descriptors.fd(token), area.offset, area.size, "log")
    c.state.log = [token, area.offset, area.size]
    return Reply(pack_u64(0))


def set_log_fd(c, _):
    """SET_LOG_FD."""
    c.state.log_fd = _take_eventfd(c)


def set_vring_num(c, said):
    """SET_VRING_NUM."""
    ring = c.ring(said.ring)
    if said.num != ring.size:
        ring = c.stopped_ring(said.ring)
    ring_check.check_size(c.state, ring, said.num)
    ring.size = said.num


def set_vring_addr(c, said):
    """SET_VRING_ADDR; on a live ring it may only change the log."""
    ring = c.ring(said.ring)
    if said.flags & ~ADDR_FLAGS_KNOWN:
        raise MessageError(f"ring {said.ring}: flags {said.flags:#x}, known are {ADDR_FLAGS_KNOWN:#x}")
    if (said.desc, said.avail, said.used) != (ring.desc, ring.driver, ring.device):
        ring = c.stopped_ring(said.ring)
    ring.desc, ring.driver, ring.device = said.desc, said.avail, said.used
    ring.log = said.log if said.flags & VRING_F_LOG else None
    if c.state.features is not None:
        ring_check.check_areas(c.state, ring)


def set_vring_base(c, said):
    """SET_VRING_BASE."""
    ring = c.stopped_ring(said.ring)
    if c.state.features is not None:
        ring_check.check_base(c.state, ring, said.num)
    ring.base = said.num


def get_vring_base(c, said):
    """GET_VRING_BASE: stops the ring."""
    c.ring(said.ring).stop()


def set_vring_kick(c, said):
    """SET_VRING_KICK: the last thing a ring needs."""
    ring = c.ring(said.ring)
    ring.kick = _take_eventfd(c) if said.has_fd else None
    ring.kick_said = True


def set_vring_call(c, said):
    """SET_VRING_CALL."""
    ring = c.ring(said.ring)
    ring.call = _take_eventfd(c) if said.has_fd else None


def set_vring_err(c, said):
    """SET_VRING_ERR."""
    ring = c.ring(said.ring)
    ring.err = _take_eventfd(c) if said.has_fd else None


def _take_eventfd(c):
    """Token of the eventfd that came. Anything else could make a worker wait that reads or writes it."""
    token = c.take_tokens()[0]
    fd = c.descriptors.fd(token)
    found = os.readlink(f"/proc/self/fd/{fd}")
    if found != EVENTFD:
        raise MessageError(f"its descriptor is no eventfd ({found})")
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
    return token


def set_vring_enable(c, said):
    """SET_VRING_ENABLE. QEMU sends it before SET_FEATURES."""
    ring = c.ring(said.ring)
    if c.state.features is not None and not c.state.has(f.VHOST_USER_F_PROTOCOL_FEATURES):
        raise MessageError("VHOST_USER_F_PROTOCOL_FEATURES was not negotiated: rings are always enabled")
    if said.num not in (0, 1):
        raise MessageError(f"ring {said.ring}: {said.num}, allowed is 0 or 1")
    ring.enabled = bool(said.num)


def net_set_mtu(c, mtu):
    """NET_SET_MTU: what the front-end tells its driver must pass through the port."""
    if not MTU_MIN <= mtu <= c.offer.mtu:
        raise MessageError(f"MTU {mtu}, allowed is {MTU_MIN} to the port's own {c.offer.mtu}")
    c.state.mtu = mtu


def _check_inflight(c, area):
    c.need_no_live()
    rings_max = len(c.state.rings)
    if not 1 <= area.queues <= rings_max:
        raise MessageError(f"in-flight buffer for {area.queues} rings, allowed is 1 to {rings_max}")
    if not 1 <= area.queue_size <= RING_SIZE_MAX:
        raise MessageError(
            f"in-flight buffer for rings of {area.queue_size}, allowed is 1 to {RING_SIZE_MAX}"
        )


def get_inflight_fd(c, area):
    """GET_INFLIGHT_FD: a new buffer. Before SET_FEATURES it has room for either ring format."""
    _check_inflight(c, area)
    packed = c.state.features is None or c.state.packed
    size = area.queues * inflight.queue_bytes(area.queue_size, packed)
    token = c.descriptors.add(inflight.create(size))
    c.state.inflight = [token, 0, size, area.queues, area.queue_size]
    made = InflightArea(size, 0, area.queues, area.queue_size, area.octets)
    return Reply(pack_inflight(made), (token,))


def set_inflight_fd(c, area):
    """SET_INFLIGHT_FD: the buffer of an earlier connection."""
    _check_inflight(c, area)
    token = c.take_tokens()[0]
    check_file(c.descriptors.fd(token), area.offset, area.size, "in-flight buffer")
    needed = area.queues * inflight.queue_bytes(area.queue_size, c.state.packed)
    if area.size < needed:
        raise MessageError(f"in-flight buffer of {area.size} octets, needed are {needed}")
    c.state.inflight = [token, area.offset, area.size, area.queues, area.queue_size]


def reset_device(c, _):
    """RESET_DEVICE."""
    c.state.reset_device()


def set_status(c, status):
    """SET_STATUS. 0 stops no ring: QEMU sends it, and then asks GET_VRING_BASE where the ring was."""
    if status > STATUS_MAX:
        raise MessageError(f"status {status:#x}, at most {STATUS_MAX:#x}")
    c.state.status = status


def get_status(c, _):
    """GET_STATUS."""
    return Reply(pack_u64(c.state.status))


HANDLERS = {
    Request.GET_FEATURES: get_features,
    Request.SET_FEATURES: set_features,
    Request.SET_OWNER: nothing,
    Request.RESET_OWNER: reset_owner,
    Request.SET_MEM_TABLE: set_mem_table,
    Request.SET_LOG_BASE: set_log_base,
    Request.SET_LOG_FD: set_log_fd,
    Request.SET_VRING_NUM: set_vring_num,
    Request.SET_VRING_ADDR: set_vring_addr,
    Request.SET_VRING_BASE: set_vring_base,
    Request.GET_VRING_BASE: get_vring_base,
    Request.SET_VRING_KICK: set_vring_kick,
    Request.SET_VRING_CALL: set_vring_call,
    Request.SET_VRING_ERR: set_vring_err,
    Request.GET_PROTOCOL_FEATURES: get_protocol_features,
    Request.SET_PROTOCOL_FEATURES: set_protocol_features,
    Request.GET_QUEUE_NUM: get_queue_num,
    Request.SET_VRING_ENABLE: set_vring_enable,
    Request.NET_SET_MTU: net_set_mtu,
    Request.GET_INFLIGHT_FD: get_inflight_fd,
    Request.SET_INFLIGHT_FD: set_inflight_fd,
    Request.RESET_DEVICE: reset_device,
    Request.GET_MAX_MEM_SLOTS: get_max_mem_slots,
    Request.ADD_MEM_REG: add_mem_reg,
    Request.REM_MEM_REG: rem_mem_reg,
    Request.SET_STATUS: set_status,
    Request.GET_STATUS: get_status,
}
# Requests that only a protocol feature makes legal. GET_QUEUE_NUM is not among them: its feature must be
# offered, not negotiated.
NEEDS = {
    Request.SET_LOG_BASE: "LOG_SHMFD",
    Request.NET_SET_MTU: "NET_MTU",
    Request.GET_INFLIGHT_FD: "INFLIGHT_SHMFD",
    Request.SET_INFLIGHT_FD: "INFLIGHT_SHMFD",
    Request.RESET_DEVICE: "RESET_DEVICE",
    Request.GET_MAX_MEM_SLOTS: "CONFIGURE_MEM_SLOTS",
    Request.ADD_MEM_REG: "CONFIGURE_MEM_SLOTS",
    Request.REM_MEM_REG: "CONFIGURE_MEM_SLOTS",
    Request.SET_STATUS: "STATUS",
    Request.GET_STATUS: "STATUS",
}


def handle(context, value):
    """Do what a decoded message asks; returns its Reply if it has one of its own. Raises MessageError."""
    request = Request(context.message.request)
    feature = NEEDS.get(request)
    if feature and not context.state.has_protocol(getattr(f, f"VHOST_USER_PROTOCOL_F_{feature}")):
        raise MessageError(f"VHOST_USER_PROTOCOL_F_{feature} was not negotiated")
    reply = HANDLERS[request](context, value)
    ring_check.settle(context.state)
    return reply
