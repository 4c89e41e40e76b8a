"""What a handler of a message works with, and what it may answer."""

from typing import NamedTuple

from dpu_runtime.drivers.vhost_user.descriptors import Descriptors
from dpu_runtime.drivers.vhost_user.errors import MessageError
from dpu_runtime.drivers.vhost_user.messages import Message
from dpu_runtime.drivers.vhost_user.state import State


class Offer(NamedTuple):
    """What a port has to give."""

    features: int
    protocol_features: int
    queues: int  # pairs
    mtu: int


class Reply(NamedTuple):
    """A reply body, with descriptors by token."""

    payload: bytes
    tokens: tuple[int, ...] = ()


class Context(NamedTuple):
    """What a handler works with; descriptors it takes from `message` get a token."""

    offer: Offer
    state: State
    message: Message
    descriptors: Descriptors

    def ring(self, number):
        """Ring by number. Raises MessageError."""
        if number >= len(self.state.rings):
            raise MessageError(f"ring {number}: there are {len(self.state.rings)}, 0 and up")
        return self.state.rings[number]

    def stopped_ring(self, number):
        """The same, not live. Raises MessageError."""
        ring = self.ring(number)
        if ring.live:
            raise MessageError(f"ring {number} is live; GET_VRING_BASE stops it")
        return ring

    def need_no_live(self):
        """Refuse while a ring is live."""
        for ring in self.state.rings:
            if ring.live:
                raise MessageError(f"ring {ring.ring} is live; GET_VRING_BASE stops it")

    def take_tokens(self):
        """Tokens of the message's descriptors, in order."""
        return [self.descriptors.add(fd) for fd in self.message.take_fds()]
