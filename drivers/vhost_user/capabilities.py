"""What a connection's features make of a port: offloads, and words for what is missing.

Spec: virtio 1.2 5.1.3 (feature bits), 5.1.3.1 (which needs which).
"""

from dpu_runtime.drivers.port import Capabilities
from dpu_runtime.drivers.vhost_user import features as f

_PROTOCOL = "VHOST_USER_PROTOCOL_F_"
_PROTOCOL_NAMES = {bit: name.removeprefix(_PROTOCOL) for name, bit in vars(f).items() if _PROTOCOL in name}
_NAMES = {
    bit: name.partition("_F_")[2]
    for name, bit in vars(f).items()
    if "_F_" in name and not name.startswith(_PROTOCOL)
}
_OFFLOADS = (
    (f.VIRTIO_NET_F_GUEST_CSUM, "checksums are finished in software"),
    (f.VIRTIO_NET_F_GUEST_TSO4, "large TCP over IPv4 is cut in software"),
    (f.VIRTIO_NET_F_GUEST_TSO6, "large TCP over IPv6 is cut in software"),
    (f.VIRTIO_NET_F_GUEST_USO4, "large UDP is cut in software"),
    (f.VIRTIO_NET_F_GUEST_USO6, "large UDP is cut in software"),
    (f.VIRTIO_NET_F_HOST_TSO4, "its packets come small, and are merged in software where that is on"),
)


def feature_names(features):
    """Names of feature bits, lowest first; `bit N` for one without a name here."""
    return [_NAMES.get(bit, f"bit {bit}") for bit in range(64) if features >> bit & 1]


def protocol_feature_names(features):
    """Names of protocol feature bits, lowest first."""
    return [_PROTOCOL_NAMES.get(bit, f"bit {bit}") for bit in range(64) if features >> bit & 1]


def offer(offload):
    """Features that a port offers."""
    return f.RING_FEATURES | (f.OFFLOAD_FEATURES if offload else 0)


def describe(state, queues, offload, waiting):
    """Capabilities of a port in this state.

    queues    pairs that the port may have
    waiting   words for a port that nobody is connected to
    """
    got = Capabilities(queues=queues)
    if state.socket is None:
        got.notes.append(f"not connected: {waiting}")
        return got
    if state.features is None:
        got.notes.append("connected, but its driver has negotiated nothing yet")
        return got
    got.tx_csum = state.has(f.VIRTIO_NET_F_GUEST_CSUM)
    got.tso4 = got.tx_csum and state.has(f.VIRTIO_NET_F_GUEST_TSO4)
    got.tso6 = got.tx_csum and state.has(f.VIRTIO_NET_F_GUEST_TSO6)
    got.ecn = (got.tso4 or got.tso6) and state.has(f.VIRTIO_NET_F_GUEST_ECN)
    uso = (f.VIRTIO_NET_F_GUEST_USO4, f.VIRTIO_NET_F_GUEST_USO6)
    got.uso = got.tx_csum and all(state.has(bit) for bit in uso)
    got.gro = state.has(f.VIRTIO_NET_F_HOST_TSO4)
    if not offload:
        got.notes.append("offloads are off: the configuration says offload = false")
    else:
        got.notes += [
            f"the driver did not negotiate {_NAMES[bit]}: {meaning}"
            for bit, meaning in _OFFLOADS
            if not state.has(bit)
        ]
    got.notes.append("packed ring" if state.packed else "split ring")
    if not state.has(f.VIRTIO_NET_F_MRG_RXBUF):
        got.notes.append("without MRG_RXBUF: a packet must fit one buffer chain of the driver's")
    return got
