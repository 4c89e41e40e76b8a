"""A stage under test: a burst of packets and a state, as a worker makes them, without the frame around."""

from collections import namedtuple
from types import SimpleNamespace

import numpy as np

from dpu_runtime.kernels.burst import EGRESS, INGRESS, PUNT_LAYOUT, SERVICE_WORDS, Word, make_burst
from dpu_runtime.kernels.compile.reference import Lent
from dpu_runtime.kernels.drops import DROP_REASON_COUNT
from dpu_runtime.kernels.layout import PORT_DTYPE, PORTS_MAX
from dpu_runtime.kernels.stage import State

FIRST_DROP = 100  # number of a function's first drop reason
NUMBER = 3  # of the function
HOOK_OF = {"ingress": INGRESS, "egress": EGRESS}


def burst_of(meta, hook=INGRESS, ports=None, active_ports=None, packets=None, **words):
    """A burst of the packets of `meta`; at hand are all of them, or the rows `packets`. `words` by name."""
    shared = SimpleNamespace(
        ports=np.zeros(PORTS_MAX, PORT_DTYPE) if ports is None else ports,
        active_ports=np.zeros(1 + PORTS_MAX, np.uint16) if active_ports is None else active_ports,
        services=np.zeros((1, SERVICE_WORDS), np.uint64),
        drops=np.zeros((1, DROP_REASON_COUNT), np.uint64),
        **{name: np.zeros((1, *shape[1:]), dtype) for name, (dtype, shape) in PUNT_LAYOUT.items()},
    )
    burst = make_burst(0, shared)
    rows = max(len(meta), len(burst.meta))
    packets = np.arange(len(meta)) if packets is None else np.array(packets)
    listed = np.zeros(max(rows, len(packets)), np.uint16)
    listed[: len(packets)] = packets
    burst = burst._replace(
        headers=np.full((rows, burst.headers.shape[1]), 0xA5, np.uint8),
        meta=np.concatenate([meta, np.zeros(rows - len(meta), meta.dtype)]),
        marks=np.zeros(rows, burst.marks.dtype),
        packets=listed,
        copies=np.ones(rows, np.uint16),
    )
    burst.words[Word.HOOK] = hook
    burst.words[Word.RECEIVED] = len(meta)
    for name, value in words.items():
        burst.words[Word[name.upper()]] = value
    return burst


def state_of(tables, drops, private=(), **counters):
    """A State, lent. tables, counters: {name: array}; `drops`: how many reasons, or their counters."""
    named = namedtuple("Counters", counters)(**counters) if counters else ()
    drops = np.zeros(drops, np.uint64) if isinstance(drops, int) else drops
    if isinstance(tables, dict):
        tables = namedtuple("Tables", tables)(**tables)
    return Lent(State(tables, private, named, drops, FIRST_DROP, NUMBER))


def run(stage, burst, state, port=0, count=None):
    """Call a stage; returns the rows that are left, in their order."""
    count = int(burst.words[Word.RECEIVED]) if count is None else count
    left = stage(Lent(burst), state, port, count)
    return burst.packets[:left].tolist()
