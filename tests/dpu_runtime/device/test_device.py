"""dpu_runtime/device/device.py: what is handed to a fresh data plane while ports come and go."""

import asyncio
from types import SimpleNamespace

import pytest

from dpu_runtime.config.models import RuntimeConfig
from dpu_runtime.device.device import DpuDevice
from dpu_runtime.device.live_port import Slot
from dpu_runtime.drivers.port import Kind
from dpu_runtime.plane.shared import SharedState


class FreshProcess:
    """A data-plane process that takes requests; with each, `meanwhile` happens on the control side."""

    def __init__(self, meanwhile):
        self.asked = []
        self._meanwhile = meanwhile

    async def request(self, message, fds=()):
        self.asked.append((message["do"], message.get("index"), list(fds)))
        self._meanwhile()


@pytest.fixture
def device():
    """A device with three tap ports, without processes."""
    made = DpuDevice(RuntimeConfig(workers=[0]))
    made.shared = SharedState.create()
    for index in range(3):
        driver = SimpleNamespace(kind=Kind.TAP, layout={}, fds=[100 + index])
        made.ports[f"p{index}"] = Slot(index, None, driver, [])
    return made


def test_a_port_that_is_deleted_during_a_take_over_does_not_end_it(device):
    process = FreshProcess(lambda: device.ports.pop("p2", None))
    asyncio.run(device._restore(process))
    assert [asked for asked in process.asked if asked[0] == "add_port"] == [
        ("add_port", index, [100 + index]) for index in range(3) if index != 2
    ]


def test_queues_of_a_port_that_goes_later_are_handed_over_still(device):
    """`del_port` waits until the process is there, then deletes the port there too."""

    def meanwhile():
        if process.asked[-1][0] == "add_port":
            device.ports.pop("p2", None)

    process = FreshProcess(meanwhile)
    asyncio.run(device._restore(process))
    assert [index for what, index, _ in process.asked if what == "add_port"] == [0, 1, 2]
