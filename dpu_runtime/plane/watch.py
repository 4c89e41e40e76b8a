"""Which ports epoll watches, and which the worker looks at unasked.

The kernel tells whoever watches a socket of each packet that comes, and of each that has left: on the
sender's time, and on the worker's own. A busy port is therefore not watched but looked at every round,
until LOOKS_MAX of these have found nothing.
"""

import numpy as np

from dpu_runtime.drivers.linux.libc import EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN, epoll_ctl
from dpu_runtime.drivers.port import Kind
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.octets.memory import address_of, store_u32, store_u64

BUSY_PACKETS = 8  # a burst of so many, in or out, makes a port busy
LOOKS_MAX = 256  # looks in a row that found nothing, and it is busy no more

_EVENT_DATA = np.uint64(4)  # linux/eventpoll.h, struct epoll_event, packed


@helper
def note_burst(w, ports, port, packets):
    """A burst of `packets` came from a port or went to it: it may be busy from now on."""
    if packets < BUSY_PACKETS or w.io.watched[port] == 0:
        return
    kind = ports[port]["kind"]
    if kind in (Kind.AF_PACKET, Kind.AF_XDP):  # to look at one is to read a word of its ring
        epoll_ctl(np.int32(w.epoll_fd), np.int32(EPOLL_CTL_DEL), w.io.fds[port], address_of(w.events))
        w.io.watched[port] = 0
        w.looks[port] = 0
        w.unasked[0] += 1
        w.unasked[w.unasked[0]] = port


@helper
def note_look(w, port, packets):
    """A look at a port found `packets`."""
    w.looks[port] = 0 if packets > 0 else w.looks[port] + 1


@helper
def unasked_port(w, place):
    """Port at a place of the list of those to look at unasked; -1: it was there, and left the list."""
    port = np.int64(w.unasked[place])
    if w.looks[port] < LOOKS_MAX and w.io.fds[port] >= 0:
        return port
    w.unasked[place] = w.unasked[w.unasked[0]]
    w.unasked[0] -= 1
    if w.io.fds[port] >= 0:
        _watch(w, port)
    return np.int64(-1)


@helper
def _watch(w, port):
    """Have epoll watch a port again; what came meanwhile it says at once."""
    event = address_of(w.events)
    store_u32(event, np.uint64(EPOLLIN))
    store_u64(event + _EVENT_DATA, np.uint64(port))
    w.io.watched[port] = 1
    epoll_ctl(np.int32(w.epoll_fd), np.int32(EPOLL_CTL_ADD), w.io.fds[port], event)
