"""What a device goes on with: data planes of this version and of others, some refuse, some die."""

import asyncio
import json
import os
from dataclasses import replace

import pytest

from dpu_runtime.config.errors import DataPlaneError, DataPlaneGoneError, NotAdoptedError
from dpu_runtime.config.models import NullPort, RuntimeConfig
from dpu_runtime.device import device as device_module
from dpu_runtime.device import takeover as module
from dpu_runtime.device.device import DpuDevice
from dpu_runtime.drivers.port import Kind
from dpu_runtime.functions.acl.config import AclSettings, RuleConfig
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.layout import PORT_UP
from dpu_runtime.plane import shared as shared_module
from dpu_runtime.plane.regions import ENTRIES_MAX, Memory
from dpu_runtime.plane.shared import SharedState, regions

WORKERS = 2


def another(name, **keys):
    """The regions of a version in which one has other arrays too, or which lacks it."""
    more = {f"{name}_more": ("u8", (4,))}
    return tuple(replace(r, layout=r.layout | more, **keys) if r.name == name else r for r in regions())


class Running:
    """A data plane that runs, with null ports `n0` and `n1`; `fail` says what it does at a request."""

    pid = 4711
    entries = frozenset({"acl_ingress"})

    def __init__(self, wanted=None):
        self.shared = SharedState.create(WORKERS, wanted)
        self.asked = []
        self.fail = {}  # request -> error
        notes = {}
        for index in range(2):
            port = NullPort(name=f"n{index}", kind="null")
            notes[port.name] = (index, port.model_dump_json(exclude_defaults=True), [0] * 16)
            self.shared.ports[index]["kind"] = Kind.NULL
            self.shared.ports[index]["flags"] = PORT_UP
        rules = {"hits": {"r": 9}, "base": {"9": [1, 100]}}
        self.shared.write_notes({"ports": notes, "functions": {"acl": rules}})
        told = json.loads(json.dumps(self.shared.told()))
        self.hello = {"pid": self.pid, "ports": [0, 1], "cpus": [0, 1], "regions": told}
        self.hello_fds = [os.dup(self.shared.fd), os.eventfd(0), os.eventfd(0)]

    async def request(self, message, fds=()):
        self.asked.append(message["do"])
        if message["do"] in self.fail:
            raise self.fail[message["do"]]
        return {"ok": True, "layout": {}}, [os.eventfd(0)]

    async def exited(self):
        self.asked.append("exited")

    def close(self):
        pass


class Fresh(Running):
    """A process that was prepared."""

    pid = 4712

    def __init__(self):
        self.asked = []
        self.fail = {}

    async def end(self):
        self.asked.append("end")


class Watching:
    """What a Supervisor is to a device that takes over."""

    def __init__(self, _restore, standby, child):
        self.fresh = Fresh()
        self.expected = frozenset()
        self.active = self.standby = None
        self.adopted = False

    def adopt(self, process, standby=None):
        self.active, self.standby, self.adopted = process, standby, True

    async def spawn(self):
        if "spawn" in self.fresh.fail:
            raise self.fresh.fail["spawn"]
        return self.fresh

    async def have(self, entries):
        pass

    async def request(self, message, fds=()):
        return await self.active.request(message, fds)

    async def hand_over(self, old, prepare, finish):
        assert self.active is old
        await prepare(self.standby)
        await old.request({"do": "pause"})
        await finish(self.standby)
        self.active = self.standby
        return 1.5


@pytest.fixture
def device(monkeypatch):
    """A device without processes; `device.fresh` is what is spawned."""
    monkeypatch.setattr(device_module, "Supervisor", Watching)
    made = DpuDevice(RuntimeConfig(workers=[0, 1]))
    made.fresh = made._supervisor.fresh
    made.interfaces_started = []
    monkeypatch.setattr(made._interfaces, "start", lambda: made.interfaces_started.append(True))

    async def ask(*_):
        pass

    monkeypatch.setattr(module.perf_map, "ask", ask)
    return made


@pytest.fixture
def of_this_version(monkeypatch):
    """Have this version's regions be others: `of_this_version(another("acl"))`."""

    def have(wanted):
        monkeypatch.setattr(shared_module, "regions", lambda: wanted)

    return have


def hit_counters(device):
    return device.functions.books.notes()["acl"]["hits"]


def names(process):
    return [entry.name for entry in Memory(process.shared.fd).entries()]


def adopt(device, process):
    return asyncio.run(device._adopt(process))


def test_one_of_this_version_is_gone_on_with(device):
    process = Running()
    assert adopt(device, process)
    assert not device.upgrading
    assert process.asked == ["get_port", "get_port"]
    assert list(device.ports) == ["n0", "n1"]
    assert hit_counters(device) == {"r": 9}
    assert device._supervisor.standby is None
    asyncio.run(device.take_over())
    assert device._supervisor.active is process


def test_an_upgrade_waits_for_the_tables_and_then_is_handed_over(device, of_this_version, caplog):
    caplog.set_level("INFO")
    process = Running()
    process.shared.of("acl").hits[0, 9] = 4, 400
    of_this_version(another("acl"))

    async def work():
        assert await device._adopt(process)
        assert device.upgrading
        assert process.asked == ["get_port", "get_port"], "it goes on as it is"
        assert device.shared.of("acl") is not process.shared.of("acl")
        assert device.shared.ports[0]["flags"] & PORT_UP
        assert hit_counters(device) == {"r": 9}
        rule = RuleConfig(name="r", priority=1, action="drop")
        await device.set_section("acl", {"rule": [rule]}, AclSettings())
        assert process.asked[-1] == "pass_epoch"
        assert not process.shared.of("acl").ingress_active.any(), "nor do its tables change"
        process.shared.of("acl").hits[0, 9] = 5, 500  # it still counts
        await device.take_over()

    asyncio.run(work())
    assert device.fresh.asked == ["map", "add_port", "add_port", "start"]
    assert process.asked[-1] == "pause"
    assert device._supervisor.active is device.fresh
    assert device.shared.of("acl").ingress_active[0] == 1
    assert device.item_counters("acl")["rule"]["r"] == (4, 400), "hits go on, from where the rule came"
    assert names(process).count("acl") == 1
    assert device.interfaces_started
    kept = ", ".join(region.name for region in regions() if region.name != "acl")
    assert (
        f"data plane 4711 is of another version; regions kept: {kept}; made anew, of another layout: acl"
        in caplog.text
    )
    assert "data plane 4711 made way within 1.5 ms" in caplog.text


def test_the_frame_of_another_layout_ends_what_runs_and_says_why(device, of_this_version, caplog):
    process = Running()
    of_this_version(another("frame"))
    assert not adopt(device, process)
    assert process.asked == ["stop", "exited"]
    assert (
        "data plane 4711 is ended, not adopted; all is made anew: region 'frame' of the shared memory is of"
        " another layout"
    ) in caplog.text


@pytest.mark.parametrize("size", [0, 4096, 1 << 20])
def test_a_memory_that_is_none_ends_what_runs_and_says_why(device, caplog, size):
    process = Running()
    process.hello_fds[0] = os.memfd_create("foreign")
    os.ftruncate(process.hello_fds[0], size)
    assert not adopt(device, process)
    assert process.asked == ["stop", "exited"]
    assert "all is made anew: shared memory" in caplog.text


def test_a_region_that_cannot_be_made_leaves_what_runs_alone(device, of_this_version):
    process = Running()
    spare = replace(next(r for r in regions() if r.name == "meter"), name="spare")
    memory = Memory(process.shared.fd)
    for number in range(ENTRIES_MAX - len(regions())):
        entry, _ = memory.make(spare)
        process.hello["regions"][f"spare{number}"] = {
            "offset": entry.offset,
            "octets": entry.octets,
            "counted": {},
            "columns": {},
        }
    of_this_version(another("acl"))
    text = (
        r"data plane 4711 is not taken over, and goes on as it is: shared memory: region 'acl' of \d+ octets"
    )
    with pytest.raises(NotAdoptedError, match=text):
        adopt(device, process)
    assert process.asked == []


def test_what_is_ended_takes_its_memory_along(device, of_this_version):
    process = Running()
    process.fail = {"stop": DataPlaneGoneError("data plane 4711 is gone")}
    of_this_version(another("frame"))
    assert not adopt(device, process)
    for fd in process.hello_fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_daemon_that_is_stopped_meanwhile_leaves_what_runs_alone(device, of_this_version):
    process = Running()
    before = names(process)
    of_this_version(another("acl"))
    device.fresh.fail = {"spawn": asyncio.CancelledError()}
    with pytest.raises(NotAdoptedError, match="goes on as it is: stopped while starting"):
        adopt(device, process)
    assert names(process) == before


@pytest.mark.parametrize("where", ["spawn", "get_port"])
def test_what_refuses_on_the_way_leaves_what_runs_alone(device, of_this_version, where):
    process = Running()
    before = names(process)
    of_this_version(another("acl"))
    (device.fresh if where == "spawn" else process).fail = {where: DataPlaneError("exit code 1")}
    with pytest.raises(
        NotAdoptedError, match="data plane 4711 is not taken over, and goes on as it is: exit code 1"
    ):
        adopt(device, process)
    assert names(process) == before
    assert "stop" not in process.asked
    assert device.ports == {}


def test_one_that_dies_while_it_is_taken_over_is_not_there(device, of_this_version):
    process = Running()
    process.fail = {"get_port": DataPlaneGoneError("data plane 4711 is gone")}
    of_this_version(another("acl"))
    assert not adopt(device, process)
    assert not device.upgrading
    assert device.ports == {}
    assert device.fresh.asked == ["end"]


@pytest.mark.parametrize("step", ["map", "add_port", "start"])
def test_a_hand_over_that_fails_leaves_what_runs_alone(device, of_this_version, step):
    process = Running()
    before = names(process)
    of_this_version(another("acl"))
    assert adopt(device, process)
    device.fresh.fail = {step: DataPlaneError("no memory")}
    with pytest.raises(NotAdoptedError, match="goes on as it is: no memory"):
        asyncio.run(device.take_over())
    assert names(process) == before
    assert device.ports == {}


def test_a_death_before_the_tables_are_set_lets_no_packet_through(device, of_this_version):
    """The regions made anew are empty: an ACL without rules would let everything pass."""
    process = Running()
    process.shared.of("acl").drops[1, 0] = 3
    of_this_version(another("acl"))
    assert adopt(device, process)
    asyncio.run(device._restore(device.fresh))
    assert device.fresh.asked == ["map", "own", "add_port", "add_port", "start"]
    assert not (device.shared.ports["flags"] & PORT_UP).any()
    assert device.shared.of("acl").drops[1, 0] == 3
    device.open_ports()  # the tables are set
    assert (device.shared.ports["flags"][:2] & PORT_UP).all()


def test_a_death_without_an_upgrade_leaves_ports_as_they_are(device):
    assert adopt(device, Running())
    asyncio.run(device._restore(device.fresh))
    assert (device.shared.ports["flags"][:2] & PORT_UP).all()


def test_drops_of_a_function_that_is_no_more_stay_in_the_balance(device, of_this_version):
    process = Running()
    process.shared.of("meter").drops[0, 1] = 7
    process.shared.port_counters[0, 0, 0] = 7  # received
    of_this_version(tuple(r for r in regions() if r.name != "meter"))
    device.shared = SharedState.adopt(process.shared.fd, process.hello["regions"])
    device._settle()
    assert device.shared.drops[0, Drop.EARLIER] == 7
    assert device.shared.drops[0, Drop.RESTART] == 0


def test_nothing_but_the_data_plane_increments_the_epoch(device):
    process = Running()
    assert adopt(device, process)
    asyncio.run(device.set_section("acl", {"rule": []}, AclSettings()))
    assert process.asked[-1] == "pass_epoch"
    assert device.shared.control[shared_module.Control.EPOCH] == 0
    process.fail = {
        "pass_epoch": DataPlaneError("TimeoutError: worker 1 does not take the new tables (epoch 1)")
    }
    with pytest.raises(DataPlaneError, match="worker 1 does not take the new tables"):
        asyncio.run(device.set_section("acl", {"rule": []}, AclSettings()))
