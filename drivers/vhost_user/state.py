"""What one connection has agreed on, as plain data: copied for each message, compared, written down.

Spec: vhost-user "Ring states"; README.md "The snapshot".
"""

from dataclasses import asdict, dataclass, field, replace

from dpu_runtime.drivers.vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED
from dpu_runtime.drivers.vhost_user.memory_table import Region


@dataclass
class Ring:
    """One ring. Addresses are user addresses, None: not said yet. kick, call, err are tokens."""

    ring: int
    size: int = 0  # descriptors, 0: not said yet
    desc: int | None = None
    driver: int | None = None  # available ring, or driver event suppression
    device: int | None = None  # used ring, or device event suppression
    log: int | None = None  # guest address of `device`, None: its writes are not logged
    base: int | None = None  # None: the initial one
    kick_said: bool = False  # SET_VRING_KICK came; without it `kick: None` means nothing
    kick: int | None = None
    call: int | None = None
    err: int | None = None
    enabled: bool = False
    live: bool = False
    serial: int = 0

    @property
    def complete(self):
        """Whether all was said that a ring needs to go live."""
        return self.kick_said and self.size != 0 and self.desc is not None

    def stop(self):
        """Stopped; it goes live with the next SET_VRING_KICK."""
        self.live = False
        self.kick_said = False
        self.kick = None

    def reset(self):
        """As it was at first. call and err stay: front-ends do not send them again."""
        kept = {"call": self.call, "err": self.err, "serial": self.serial}
        self.__dict__.update(Ring(self.ring, **kept).__dict__)


@dataclass
class State:
    """A connection. Tokens name descriptors; log, inflight: lists as in the snapshot."""

    rings: list[Ring]
    features: int | None = None  # None: not said yet
    protocol_features: int = 0
    regions: list[Region] = field(default_factory=list)
    log: list[int] | None = None  # token, offset, size
    log_fd: int | None = None
    inflight: list[int] | None = None  # token, offset, size, queues, queue size
    status: int = 0  # virtio 1.2 2.1
    mtu: int | None = None  # NET_SET_MTU
    socket: int | None = None
    listener: int | None = None

    @classmethod
    def disconnected(cls, queues, listener=None, before=None):
        """Nothing agreed on. The rings' serials go on from `before`, an earlier connection's state."""
        serials = [ring.serial for ring in before.rings] if before else [0] * (2 * queues)
        rings = [Ring(number, serial=serial) for number, serial in enumerate(serials)]
        return cls(rings=rings, listener=listener)

    def copy(self):
        """One to change; values other than rings are replaced, never changed in place."""
        return replace(self, rings=[replace(ring) for ring in self.rings])

    @property
    def packed(self):
        """Whether rings are packed ones."""
        return self.has(VIRTIO_F_RING_PACKED)

    def has(self, bit):
        """Whether a feature is negotiated."""
        return bool((self.features or 0) >> bit & 1)

    def has_protocol(self, bit):
        """Whether a protocol feature is negotiated."""
        return bool(self.protocol_features >> bit & 1)

    def enabled(self, ring):
        """Whether a ring is enabled: without protocol features it always is, "Ring states"."""
        return ring.enabled or not self.has(VHOST_USER_F_PROTOCOL_FEATURES)

    def any_live(self):
        """Whether a ring is live."""
        return any(ring.live for ring in self.rings)

    def reset_device(self):
        """RESET_DEVICE: rings and what the driver negotiated; the connection itself stays."""
        for ring in self.rings:
            ring.reset()
        self.features = None
        self.status = 0

    def tokens(self):
        """Every descriptor there is, by token, in a steady order."""
        found = [self.listener, self.socket, self.log_fd]
        found += [region.token for region in self.regions]
        found += [area[0] for area in (self.log, self.inflight) if area]
        for ring in self.rings:
            found += [ring.kick, ring.call, ring.err]
        return list(dict.fromkeys(token for token in found if token is not None))

    def snapshot(self):
        """The connection as the data plane is told, README.md "The snapshot"."""
        return {
            "features": self.features or 0,
            "regions": [list(region) for region in self.regions],
            "log": self.log,
            "log_fd": self.log_fd,
            "inflight": self.inflight,
            "rings": [self._ring(ring) for ring in self.rings if ring != Ring(ring.ring, serial=ring.serial)],
            "socket": self.socket,
            "listener": self.listener,
            "fds": self.tokens(),
        }

    def _ring(self, ring):
        names = ("ring", "live", "serial", "size", "log", "kick", "call", "err")
        told = {name: getattr(ring, name) for name in names}
        for name in ("desc", "driver", "device"):
            told[name] = getattr(ring, name) or 0
        return {**told, "enabled": self.enabled(ring), "base": ring.base or 0}

    def notes(self):
        """All of it as JSON, for `from_notes`."""
        rings = [
            {name: value for name, value in asdict(ring).items() if value != getattr(Ring, name, None)}
            for ring in self.rings
        ]
        return {**self.__dict__, "regions": [list(region) for region in self.regions], "rings": rings}

    @classmethod
    def from_notes(cls, notes):
        """The state that `notes()` was taken of."""
        regions = [Region(*region) for region in notes["regions"]]
        rings = [Ring(**ring) for ring in notes["rings"]]
        return cls(**{**notes, "regions": regions, "rings": rings})
