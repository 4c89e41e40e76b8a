"""dpu_runtime/device/device.py without processes: ports, functions, and what a fresh data plane is handed."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from dpu_runtime.config.errors import DataPlaneError
from dpu_runtime.config.models import NullPort, RuntimeConfig, TapPort
from dpu_runtime.device.device import DpuDevice
from dpu_runtime.device.live_port import LivePort
from dpu_runtime.drivers.port import Kind, PortError
from dpu_runtime.functions.acl.config import AclSettings, RuleConfig
from dpu_runtime.functions.switch.config import SwitchSettings
from dpu_runtime.kernels.layout import PORT_TRUNK, PORT_UP
from dpu_runtime.kernels.switch.mac_table import AGEING_TICKS, TICKS_PER_SECOND
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
    made._map(SharedState.create(), {})
    for index in range(3):
        driver = SimpleNamespace(kind=Kind.TAP, layout={}, fds=[100 + index])
        made.ports[f"p{index}"] = LivePort(index, None, driver, [])
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


class Made(DpuDevice):
    """A device whose data plane notes what it is asked, and says no when it is told to."""

    def __init__(self, **runtime):
        super().__init__(RuntimeConfig(workers=[0], **runtime))
        self.asked = []
        self.refuse = ()
        self._supervisor.request = self.functions.programs._request = self.request
        self.functions.programs._have = self.have
        self._map(SharedState.create(), {})
        self.functions.begin()

    async def have(self, names):
        """All machine code is there."""

    async def request(self, message, fds=()):
        self.asked.append(message["do"])
        if message["do"] in self.refuse:
            raise DataPlaneError("not today")
        return {"ok": True}, ()

    async def _pass_epoch(self):
        self.asked.append("pass_epoch")

    def tables(self, function):
        return self.functions.books._books[function].tables

    def row(self, name):
        return self.shared.ports[self.ports[name].index]


@pytest.fixture
def made():
    return Made()


def run(coroutine):
    return asyncio.run(coroutine)


def null(name="p", **keys):
    return NullPort(name=name, kind="null", **keys)


def rules(*names, **keys):
    return {"rule": [RuleConfig(name=name, priority=1, action="drop", **keys) for name in names]}


def test_settings_are_in_force_from_the_start():
    """Also those that a configuration file without an item has: the default actions, the ageing time."""
    made = Made(default_ingress="drop", mac_ageing_s=60)
    acl = made.tables("acl")
    assert acl.ingress_head[int(acl.ingress_active[0]) & 1, 0]["default_verdict"] >> 31 == 1
    assert made.tables("switch").settings[AGEING_TICKS] == 60 * TICKS_PER_SECOND


def test_a_port_has_what_functions_make_of_it(made):
    run(made.add_port(null(trunk=[5], rx_rate="1mbit")))
    row = made.row("p")
    assert int(row["flags"]) & (PORT_TRUNK | PORT_UP) == PORT_TRUNK
    assert made.tables("switch").vlan_allowed[0, 0] == 1 << 5
    made.open_ports()
    assert run(made.update_port(null(trunk=[5], rx_rate="1mbit"), null(vlan=9))) is True
    assert int(row["vlan"]) == 9
    assert int(row["flags"]) & (PORT_TRUNK | PORT_UP) == PORT_UP
    assert made.shared.active_ports[:2].tolist() == [1, 0]
    generation = int(row["generation"])
    run(made.del_port("p"))
    row = made.shared.ports[0]
    assert (int(row["flags"]), int(row["kind"]), int(row["generation"])) == (0, 0, generation + 1)
    assert made.shared.active_ports[0] == 0


def test_items_are_put_in_force_and_noted(made):
    run(made.add_port(null()))
    made.asked.clear()
    run(made.set_section("acl", rules("r", in_port="p"), AclSettings()))
    assert made.asked == ["pass_epoch", "set_programs"], "tables first, what reads them second"
    hit = made.shared.read_notes()["functions"]["acl"]["hits"]["r"]
    made.tables("acl").hits[0, hit] = 3, 180
    assert made.item_counters("acl") == {"rule": {"r": (3, 180)}}
    run(made.set_section("switch", {}, SwitchSettings(mac_ageing_s=10)))
    later = DpuDevice(RuntimeConfig(workers=[0]))
    later._map(made.shared, made.shared.read_notes()["functions"])
    assert later.item_counters("acl") == {"rule": {"r": (3, 180)}}


def test_notes_are_written_whole_with_what_all_functions_have(made):
    run(made.set_section("acl", rules("r"), AclSettings()))
    notes = json.loads(json.dumps(made.shared.read_notes()))
    assert set(notes) == {"ports", "functions", "daemon"}
    assert set(notes["functions"]) == set(made.functions.books.notes())
    assert "acl" in notes["functions"]


def test_items_that_do_not_fit_are_refused(made):
    run(made.set_section("acl", rules("r"), AclSettings()))
    many = {"rule": rules("r")["rule"] * 65537}
    with pytest.raises(PortError, match="rules: 65537 rules in one stage, at most 65536 are possible"):
        run(made.set_section("acl", many, AclSettings()))
    assert made.item_counters("acl") == {"rule": {"r": (0, 0)}}


@pytest.mark.parametrize("refused", ["add_port", "set_programs"])
def test_a_port_that_the_data_plane_refuses_leaves_nothing(made, refused):
    made.refuse = (refused,)
    with pytest.raises(DataPlaneError, match="not today"):
        run(made.add_port(null(trunk=[5], tx_rate="1mbit")))
    assert made.ports == {}
    assert int(made.shared.ports[0]["flags"]) == 0
    assert made.tables("switch").vlan_allowed[0].any() == 0
    made.refuse = ()
    run(made.add_port(null()))


def test_a_program_is_there_before_packets_come_in(made):
    run(made.add_port(null()))
    assert made.asked == ["set_programs", "add_port"]


@pytest.fixture
def wired(made, monkeypatch):
    """A device with a tap port whose interface is a list of what was done there."""
    done = []
    monkeypatch.setattr("dpu_runtime.device.device.change_mtu", lambda port: done.append(("mtu", port.mtu)))
    monkeypatch.setattr(
        "dpu_runtime.device.device.rewire",
        lambda port, before, hooks: done.append((port.rx_rate, before and before.rx_rate, len(hooks))),
    )
    got = SimpleNamespace(flags=lambda: 0)
    driver = SimpleNamespace(kind=Kind.TAP, capabilities=got, relocate=lambda *_: None)
    port = TapPort(name="p", kind="tap", ifname="p")
    made.ports["p"] = LivePort(0, port, driver, [])
    made._rows.write(0, port, driver)
    made.done = done
    return made


def changed(port, **keys):
    return type(port).model_validate({**port.model_dump(exclude_unset=True), **keys})


def test_keys_of_functions_change_the_interface_too(wired):
    old = wired.ports["p"].config
    new = changed(old, mtu=1400, rx_rate=1_000_000)
    assert run(wired.update_port(old, new)) is True
    assert wired.done == [("mtu", 1400), (1_000_000, None, 1)]
    wired.done.clear()
    assert run(wired.update_port(new, changed(new, vlan=3))) is True
    assert wired.done == []
    assert run(wired.update_port(wired.ports["p"].config, changed(new, ifname="q"))) is False
    moved = changed(wired.ports["p"].config, ifname="q")
    run(wired.relocate_port(wired.ports["p"].config, moved))
    assert wired.done == [(1_000_000, None, 1)], "another place: what was done is gone"
    assert wired.ports["p"].config is moved


def test_a_change_that_a_function_refuses_is_taken_back_everywhere(wired):
    old = wired.ports["p"].config

    def refuse(_index, config, _row):
        if config.rx_rate is not None:
            raise ValueError("not that fast")

    wired.functions.books._books["meter"].port = refuse
    with pytest.raises(PortError, match="port 'p': meter: not that fast"):
        run(wired.update_port(old, changed(old, vlan=3, mtu=1400, rx_rate=1_000_000)))
    assert wired.done == [("mtu", 1400), (1_000_000, None, 1), ("mtu", 1500), (None, 1_000_000, 1)]
    assert wired.ports["p"].config is old
    assert int(wired.row("p")["vlan"]) == 0
    assert not wired.tables("switch").vlan_allowed[0].any()
