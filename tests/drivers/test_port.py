"""What all drivers share: capabilities as flags, errors as text, numbers that live in shared memory."""

import errno
import threading

import pytest

from dpu_runtime.drivers.port import (
    PORT_COUNTER_COUNT,
    Capabilities,
    Kind,
    PortCounter,
    PortError,
    close_all,
)
from dpu_runtime.kernels import layout


def test_capabilities_become_flags():
    assert Capabilities(gro=True).flags() == 0
    assert Capabilities().flags() == layout.PORT_RX_GRO
    assert Capabilities(gro=True, rx_owed=True).flags() == layout.PORT_RX_OWED
    every = Capabilities(tx_csum=True, tso4=True, tso6=True, ecn=True, uso=True, gro=True)
    wanted = (
        layout.PORT_TX_CSUM
        | layout.PORT_TX_TSO4
        | layout.PORT_TX_TSO6
        | layout.PORT_TX_ECN
        | layout.PORT_TX_USO
    )
    assert every.flags() == wanted


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PortError("web", "TUNSETIFF", errno.EPERM), "port 'web': TUNSETIFF: Operation not permitted"),
        (PortError("web", "add", text="all in use"), "port 'web': add: all in use"),
        (PortError("", "rules", text="too many"), "rules: too many"),
        (PortError("web", "open"), "port 'web': open: failed"),
    ],
)
def test_errors_name_port_call_and_reason(error, text):
    assert str(error) == text


def test_numbers_that_outlive_a_process():
    assert list(PortCounter) == list(range(len(PortCounter)))
    assert len(PortCounter) <= PORT_COUNTER_COUNT
    assert (Kind.NONE, Kind.TAP) == (0, 1)
    assert max(Kind) <= 0xFF


class Meeting:
    """A port that is closed only once all others are being closed too."""

    def __init__(self, barrier, fails=False):
        self.barrier = barrier
        self.fails = fails
        self.closed = False

    def close(self):
        self.barrier.wait(10)
        self.closed = True
        if self.fails:
            raise OSError(errno.EIO, "no")


def test_many_ports_are_closed_at_the_same_time():
    barrier = threading.Barrier(40)
    ports = [Meeting(barrier) for _ in range(40)]
    close_all(ports)
    assert all(port.closed for port in ports)
    close_all([])


def test_one_that_fails_to_close_leaves_no_other_open():
    barrier = threading.Barrier(3)
    ports = [Meeting(barrier, fails=n == 0) for n in range(3)]
    with pytest.raises(OSError, match="no"):
        close_all(ports)
    assert all(port.closed for port in ports)
