"""One connection: messages in order, each done whole or not at all.

A message works on a copy of the state. If the data plane takes the outcome, the copy becomes the state; if
anything refuses, it is thrown away with the descriptors that came. Then the front-end gets its reply.
Spec: vhost-user "Communication", "REPLY_ACK".
"""

import asyncio
import logging
from typing import Protocol

from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.drivers.vhost_user.context import Context, Reply
from dpu_runtime.drivers.vhost_user.errors import FramingError, MessageError, PeerGoneError
from dpu_runtime.drivers.vhost_user.handlers import handle
from dpu_runtime.drivers.vhost_user.messages import (
    NEED_REPLY,
    InflightArea,
    Request,
    decode,
    pack,
    pack_inflight,
    pack_state,
    pack_u64,
)
from dpu_runtime.drivers.vhost_user.ring_check import first_base

log = logging.getLogger("dpu.vhost_user")

REFUSALS_MAX = 64  # error replies on one connection; then it is closed
ACK_DONE = 0
ACK_FAILED = 1
# Requests whose reply is not an acknowledgement; these there is no way to refuse but to hang up.
OWN_REPLY = {
    Request.GET_FEATURES,
    Request.GET_PROTOCOL_FEATURES,
    Request.GET_QUEUE_NUM,
    Request.GET_VRING_BASE,
    Request.GET_MAX_MEM_SLOTS,
    Request.GET_STATUS,
    Request.GET_SHARED_OBJECT,
    Request.GET_SHMEM_CONFIG,
    Request.POSTCOPY_ADVISE,
    Request.CREATE_CRYPTO_SESSION,
    Request.SET_DEVICE_STATE_FD,
    Request.CHECK_DEVICE_STATE,
}


class Plane(Protocol):
    """What a port's session tells its surroundings."""

    async def apply(self, snapshot: dict, fds: list[int]) -> None:
        """Make the data plane so; `fds` are those of snapshot["fds"]. Raises what it refuses with."""
        ...

    def ring_base(self, ring: int) -> int:
        """Where a ring stopped, as GET_VRING_BASE gives it; called after an `apply` with live = False."""
        ...

    def negotiated(self, features: int) -> None:
        """The driver's features are these now."""
        ...

    def connected(self, connected: bool) -> None:
        """A front-end came or went."""
        ...


class Session:
    """A front-end's connection over `stream`, which the caller closes.

    offer      () -> Offer
    describe   state -> (snapshot, descriptors), for `plane.apply`
    """

    def __init__(self, name, stream, state, descriptors, offer, plane, describe):
        self.name = name
        self.state = state
        self._stream = stream
        self._descriptors = descriptors
        self._offer = offer
        self._plane = plane
        self._describe = describe
        self._stale = True  # the data plane may hold something else than the state
        self._refusals = 0

    async def run(self):
        """Answer messages until the front-end is gone or has to go; returns why, None if it left in order."""
        try:
            while True:
                message = await self._stream.receive()
                try:
                    await self._serve(message)
                finally:
                    message.close()
                await asyncio.sleep(0)  # one that is never silent does not hold up the others
        except PeerGoneError as gone:
            log.info("port %s: the front-end closed the connection, %s", self.name, gone)
            return None if str(gone) == "between messages" else str(gone)
        except MessageError as error:
            log.warning("port %s: connection closed: %s", self.name, error)
            return str(error)
        except Exception:  # a bug, or a plane's: costs this connection, not the port
            log.exception("port %s: connection closed", self.name)
            return "internal error"
        finally:
            self._stream.close()

    async def _serve(self, message):
        before = self.state
        state = before.copy()
        try:
            value = decode(message)
            reply = handle(Context(self._offer(), state, message, self._descriptors), value)
            await self._commit(state)
        except MessageError as error:
            await self._refuse(message, MessageError(f"{message.name}: {error}"))
            return
        finally:
            self._descriptors.keep(self.state.tokens())
        if message.request == Request.GET_VRING_BASE:
            reply = self._stopped(value.ring, before.rings[value.ring].live)
        if reply is None and self._acknowledges(message):
            reply = Reply(pack_u64(ACK_DONE))
        if reply is not None:
            await self._send(message, reply)

    async def _commit(self, state):
        if state != self.state or self._stale:
            self._stale = True
            try:
                await self._plane.apply(*self._describe(state))
            except Exception as error:
                raise MessageError(f"the data plane refuses: {error}") from error
            self._stale = False
        changed = state.features != self.state.features
        self.state = state
        if changed:
            self._plane.negotiated(state.features or 0)

    def _stopped(self, number, was_live):
        ring = self.state.rings[number]
        if was_live:
            ring.base = self._plane.ring_base(number)
        return Reply(pack_state(number, first_base(self.state, ring.base)))

    def _acknowledges(self, message):
        return bool(message.flags & NEED_REPLY) and self.state.has_protocol(f.VHOST_USER_PROTOCOL_F_REPLY_ACK)

    async def _refuse(self, message, error):
        """Say so to a front-end that asked; else hang up, "Communication"."""
        reply = self._refusal(message)
        self._refusals += 1
        if reply is None or isinstance(error, FramingError) or self._refusals > REFUSALS_MAX:
            raise error
        log.warning("port %s: %s", self.name, error)
        await self._send(message, reply)

    def _refusal(self, message):
        if message.request == Request.GET_CONFIG:  # "zero length of payload to indicate an error"
            return Reply(b"")
        if message.request == Request.GET_INFLIGHT_FD:  # QEMU and DPDK take a size of 0 for "none"
            return Reply(pack_inflight(InflightArea(0, 0, 0, 0, len(message.payload))))
        if message.request in OWN_REPLY or not self._acknowledges(message):
            return None
        return Reply(pack_u64(ACK_FAILED))

    async def _send(self, message, reply):
        fds = [self._descriptors.fd(token) for token in reply.tokens]
        await self._stream.send(pack(message.request, reply.payload), fds)
