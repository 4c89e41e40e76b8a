"""Plans and their execution: order, roll-back, and that a plan always ends where it should."""

import asyncio
import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpu_runtime.config.errors import ApplyError, ConfigError
from dpu_runtime.config.models import Config, RuntimeConfig
from dpu_runtime.control.control import Control, plan
from dpu_runtime.control.origin import Kept
from dpu_runtime.drivers.port import PortError
from tests.dpu_runtime.config.configs import configs
from tests.dpu_runtime.control.memory_device import MemoryDevice


class NoState:
    """A state directory that keeps the last configuration in memory."""

    saved = kept = None

    def save(self, config, applied=None):
        self.saved = config

    def keep(self, kept):
        self.kept = kept

    def clear(self):
        self.saved = None


def make(*ports, rules=(), **runtime):
    return Config.model_validate(
        {
            "port": [{"kind": "tap", "ifname": port.get("name"), **port} for port in ports],
            "rule": [{"priority": 1, "action": "drop", **rule} for rule in rules],
            "runtime": runtime,
        }
    )


def control_with(config, **device):
    control = Control(MemoryDevice(**device), NoState(), RuntimeConfig())
    asyncio.run(control.apply(config))
    control.device.calls.clear()
    return control


def matches(control):
    """Whether the device has what `control` says runs."""
    device, running = control.device, control.running
    if {port.name: port for port in running.port} != device.ports:
        return False
    for function in running.FUNCTIONS:
        items, settings = running.items(function), running.settings(function)
        if items != {section: device.items.get(section, []) for section in items}:
            return False
        if device.settings.get(function.name, settings) != settings:
            return False
    return True


WEB = {"name": "web"}
DB = {"name": "db"}


def test_same_configuration_is_no_step():
    assert plan.diff(make(WEB, rules=[{}]), make(WEB, rules=[{}])) == []


def test_order_of_steps():
    old = make(WEB, DB, rules=[{"name": "a", "in_port": "db"}, {"name": "b"}])
    new = make({**WEB, "mtu": 9000}, {"name": "new"}, rules=[{"name": "b"}, {"name": "c", "in_port": "new"}])
    assert [str(step) for step in plan.diff(old, new)] == [
        "set acl",
        "del port db",
        "update port web",
        "add port new",
        "set acl",
    ]


def test_summary_says_what_changes():
    old = make(WEB, DB, rules=[{"name": "a"}, {"name": "b", "priority": 7}])
    new = make(
        {**WEB, "mtu": 9000, "address": ["10.0.0.2/24"]},
        {"name": "new", "netns": "n"},
        rules=[{"name": "b", "priority": 8}, {"name": "c", "proto": "tcp", "dport": 80}],
        default_egress="drop",
    )
    assert plan.summary(old, new) == [
        "~ runtime.default_egress: allow -> drop",
        "- port db",
        "~ port web: mtu 1500 -> 9000, address [] -> [10.0.0.2/24]",
        "+ port new: kind tap, netns n, ifname new",
        "- rule a",
        "~ rule b: priority 7 -> 8",
        "+ rule c: priority 1, proto tcp, dport 80, action drop",
    ]
    assert plan.summary(
        make(rules=[{"name": "a"}, {"name": "b"}]), make(rules=[{"name": "b"}, {"name": "a"}])
    ) == ["~ rule order"]


def test_update_in_place_and_by_replacement():
    control = control_with(make(WEB, rules=[{"in_port": "web"}]))
    asyncio.run(control.apply(make({**WEB, "mtu": 9000}, rules=[{"in_port": "web"}])))
    assert control.device.calls == ["update web"]
    control.device.calls.clear()
    asyncio.run(control.apply(make({**WEB, "queues": 1}, rules=[{"in_port": "web"}])))
    assert control.device.calls == ["update web", "set acl", "del web", "add web", "set acl"]
    assert matches(control)


def test_interface_name_moves_between_ports():
    control = control_with(make(WEB, DB))
    asyncio.run(control.apply(make({"name": "new", "ifname": "web"}, DB)))
    assert control.device.calls == ["del web", "add new"]


@pytest.mark.parametrize("failing", ["add new", "del db", "update web", "set acl"])
def test_failure_rolls_everything_back(failing):
    old = make(WEB, DB, rules=[{"name": "a", "in_port": "db"}])
    control = control_with(old)
    before = dict(control.device.ports), list(control.device.rules)
    control.device.fail[failing] = 1
    new = make({**WEB, "mtu": 9000}, {"name": "new"}, rules=[{"name": "c", "in_port": "new"}])
    with pytest.raises(ApplyError, match="nothing was changed") as caught:
        asyncio.run(control.apply(new))
    assert caught.value.rolled_back
    assert (control.device.ports, control.device.rules) == before
    assert control.running == old
    assert control._state.saved == old


def test_failed_roll_back_is_said_and_what_runs_is_known():
    control = control_with(make(WEB, DB, rules=[{"name": "a", "in_port": "db"}, {"name": "b"}]))
    control.device.fail = {"add new": 1, "add db": 1}
    with pytest.raises(ApplyError, match="rolling back failed too") as caught:
        asyncio.run(control.apply(make(WEB, {"name": "new"})))
    assert not caught.value.rolled_back
    assert matches(control)
    assert [port.name for port in control.running.port] == ["web"]
    assert control._state.saved == control.running


def test_a_bug_in_the_device_is_rolled_back_too():
    control = control_with(make(WEB))

    add_port = control.device.add_port

    async def broken(port):
        if port.name == "db":
            raise ZeroDivisionError("oops")
        await add_port(port)

    control.device.add_port = broken
    with pytest.raises(ApplyError, match=r"internal error: ZeroDivisionError.*nothing was changed"):
        asyncio.run(control.apply(make(DB)))
    assert control.running.port[0].name == "web"
    assert matches(control)


def test_dry_run_changes_nothing():
    control = control_with(make(WEB))
    lines = asyncio.run(control.apply(make(DB), dry_run=True))
    assert lines == ["- port web", "+ port db: kind tap, ifname db"]
    assert control.device.calls == []


def test_fixed_keys_are_refused_unless_unsaid():
    control = control_with(make(WEB))
    with pytest.raises(ConfigError) as caught:
        asyncio.run(control.apply(make(WEB, mac_ageing_s=7)))
    assert (
        str(caught.value) == "runtime.mac_ageing_s = 7: only a restart changes it, the daemon runs with 300"
    )
    asyncio.run(control.apply(make(WEB, mac_ageing_s=300, default_ingress="drop")))
    settings = control.device.settings["acl"]
    assert (settings.default_ingress, settings.default_egress) == ("drop", "allow")


def test_del_port_that_a_rule_names():
    control = control_with(make(WEB, rules=[{"name": "a", "in_port": "web"}]))
    with pytest.raises(ApplyError, match="port 'web' is named by rule a"):
        asyncio.run(control.del_port("web"))
    with pytest.raises(ApplyError, match="no port 'nope', there are: web"):
        asyncio.run(control.del_port("nope"))
    asyncio.run(control.del_item("rule", "a"))
    asyncio.run(control.del_port("web"))
    assert control.device.ports == {}


def test_stopping_waits_for_a_change_and_refuses_the_next():
    control = control_with(make())

    async def scenario():
        gate = asyncio.Event()
        add_port = control.device.add_port

        async def slow(port):
            await gate.wait()
            await add_port(port)

        control.device.add_port = slow
        change = asyncio.create_task(control.apply(make(WEB)))
        await asyncio.sleep(0)
        stop = asyncio.create_task(control.stop())
        late = asyncio.create_task(control.apply(make(DB)))
        await asyncio.sleep(0)
        assert not stop.done()
        gate.set()
        assert await change == ["+ port web: kind tap, ifname web"]
        await stop
        with pytest.raises(ApplyError, match="stopping"):
            await late

    asyncio.run(scenario())
    assert control.device.calls == ["add web", "stop"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_change_of_several_steps_is_given_up_by_a_stop(fails):
    """Whether it was on its way there or back, nothing of it is to be remembered."""
    control = control_with(make())
    before, add_port = control.running, control.device.add_port

    async def scenario():
        async def last(port):
            await add_port(port)
            stopping.append(asyncio.create_task(control.stop()))
            await asyncio.sleep(0)
            if fails:
                raise PortError(port.name, "add", errno.EBUSY)

        stopping, control.device.add_port = [], last
        with pytest.raises(ApplyError, match=r"(is stopping|Device or resource busy); nothing was changed"):
            await control.apply(make(WEB, DB))
        assert control.running is before
        await stopping[0]

    asyncio.run(scenario())
    assert control.device.calls == ["add web", "stop"]


@settings(max_examples=60, deadline=None)
@given(configs(), configs(), st.sampled_from([(), ("mtu",), ("mtu", "vlan", "trunk", "address", "route")]))
def test_any_configuration_follows_any_other(first, second, in_place):
    runtime = {"runtime": RuntimeConfig()}
    first, second = first.model_copy(update=runtime), second.model_copy(update=runtime)
    control = control_with(first, in_place=in_place)
    assert matches(control)
    asyncio.run(control.apply(second))
    assert matches(control)
    assert control.running == second
    assert asyncio.run(control.apply(second)) == []


@settings(max_examples=60, deadline=None)
@given(configs(), configs(), st.integers(0, 5))
def test_any_failure_leaves_the_first_configuration(first, second, fails_at):
    runtime = {"runtime": RuntimeConfig()}
    first, second = first.model_copy(update=runtime), second.model_copy(update=runtime)
    steps = [str(step) for step in plan.diff(first, second)]
    control = control_with(first)
    if not steps:
        return
    step = steps[fails_at % len(steps)]
    control.device.fail[step.replace(" port", "")] = 1
    with pytest.raises(ApplyError):
        asyncio.run(control.apply(second))
    assert matches(control)
    assert control.running == first


RINGS = {"kind": "vhost_user"}


def test_ports_that_name_each_other_come_and_go_together():
    a, b = ({**RINGS, "name": name, "socket": f"/{name}", "xconnect": other} for name, other in ("ab", "ba"))
    control = control_with(Config.model_validate({"port": [a, b]}))
    for name, other in ("ab", "ba"):
        with pytest.raises(ApplyError, match=f"port '{name}' is named by xconnect of port {other}"):
            asyncio.run(control.del_port(name))
    assert matches(control)
    asyncio.run(control.apply(Config()))
    assert control.device.ports == {}


def test_a_port_may_name_itself_and_go():
    port = {**RINGS, "name": "a", "socket": "/a", "xconnect": "a"}
    control = control_with(Config.model_validate({"port": [port]}))
    asyncio.run(control.del_port("a"))
    assert control.device.ports == {}


@pytest.mark.parametrize("in_place", [(), ("xconnect",)])
def test_adopted_ports_forget_a_port_that_is_gone(in_place):
    """The last control process was killed between the steps that took both away."""
    a, b = ({**RINGS, "name": name, "socket": f"/{name}", "xconnect": other} for name, other in ("ab", "ba"))
    saved = Config.model_validate({"port": [a, b]})
    device = MemoryDevice(adopted=True, in_place=in_place)
    device.preset(saved)
    device.close_port("b")
    asyncio.run(device.del_port("b"))
    control = Control(device, NoState(), RuntimeConfig())
    asyncio.run(control.adopt(saved, Kept()))
    assert matches(control)
    assert [(port.name, port.xconnect) for port in control.running.port] == [("a", None)]
    assert device.open == {"a"}
    asyncio.run(control.del_port("a"))
