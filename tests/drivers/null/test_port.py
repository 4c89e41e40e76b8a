"""Null ports: descriptors that stay quiet, packets that are counted and gone."""

import errno
import os
import select
from types import SimpleNamespace

import pytest

from dpu_runtime.drivers.null.port import NullPort
from dpu_runtime.drivers.port import Kind, PortCounter, PortError
from dpu_runtime.kernels import layout
from tests.drivers.bursts import Bursts, counters_of
from tests.kernels.batches import Batch

OFFLOADS = layout.PORT_TX_CSUM | layout.PORT_TX_TSO4 | layout.PORT_TX_TSO6 | layout.PORT_TX_USO


def test_each_queue_is_a_descriptor_that_never_becomes_readable():
    port = NullPort("sink", queues=2)
    fds = port.open()
    assert len(fds) == 2 and port.capabilities.queues == 2
    assert select.select(fds, [], [], 0) == ([], [], [])
    assert not any(os.get_inheritable(fd) for fd in fds)
    port.close()
    port.close()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_it_takes_all_offloads_or_none_and_says_so():
    with_offload, without = NullPort("a"), NullPort("b", offload=False)
    for port in (with_offload, without):
        port.open()
        port.close()
    assert with_offload.capabilities.flags() & OFFLOADS == OFFLOADS
    assert without.capabilities.flags() & OFFLOADS == 0
    assert without.capabilities.notes == ["offloads are off: the configuration says offload = false"]


def test_descriptors_of_a_running_port_are_adopted():
    first = NullPort("sink")
    second = NullPort("sink", offload=False)
    second.adopt(first.open(), {})
    assert second.fds == first.fds and second.capabilities.notes
    second.close()


def test_no_descriptor_left_is_an_error_with_nothing_left(monkeypatch):
    made = []

    def eventfd(*_):
        if made:
            raise OSError(errno.EMFILE, "no more")
        made.append(os.dup(0))
        return made[0]

    monkeypatch.setattr(os, "eventfd", eventfd)
    with pytest.raises(PortError, match="port 'sink': eventfd: Too many open files"):
        NullPort("sink", queues=2).open()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(made[0])


def test_packets_are_counted_and_none_comes():
    bursts = Bursts(Kind.NULL, SimpleNamespace(port_counters=counters_of(1)))
    batch = Batch([b"\0" * 60, b"\0" * 100, b"\0" * 1514])
    records = batch.meta.copy()
    bursts.transmit(batch, [2, 0])
    assert bursts.receive() == (0, errno.EAGAIN)
    assert bursts.counted(PortCounter.TX_PACKETS, PortCounter.TX_BYTES, PortCounter.TX_DROPPED) == [
        2,
        1574,
        0,
    ]
    assert (batch.meta == records).all()


def test_the_kind_is_configured_without_an_interface():
    from dpu_runtime.config.file import parse_config
    from dpu_runtime.device.live_port import make_driver, makes_interface

    text = '[[port]]\nname = "sink"\nkind = "null"\noffload = false\nqueues = 1\n'
    (config,) = parse_config("[runtime]\nworkers = [0]\n" + text).port
    driver = make_driver(config, 4, None)
    assert isinstance(driver, NullPort) and driver.kind == Kind.NULL
    assert (driver.queues, driver.offload, makes_interface(config)) == (1, False, False)
