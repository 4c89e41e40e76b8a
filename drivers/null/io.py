"""What a worker keeps for null ports."""

from collections import namedtuple

NullIo = namedtuple("NullIo", ["counters"])  # of drivers/io.py


def make_state(io, _shared):
    """Allocate it; `io` is the worker's PortIo."""
    return NullIo(counters=io.counters)
