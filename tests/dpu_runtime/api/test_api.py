"""The API's methods, on a device in memory; results are checked against the published shapes."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from dpu_runtime.api.methods import METHODS, Api, schema
from dpu_runtime.api.rpc import INVALID_PARAMS, METHOD_NOT_FOUND, REFUSED
from dpu_runtime.config.errors import RpcError
from dpu_runtime.config.file import parse_config
from dpu_runtime.config.models import RuntimeConfig
from dpu_runtime.control.control import Control
from tests.dpu_runtime.config.test_config import VALUES
from tests.dpu_runtime.control.memory_device import MemoryDevice
from tests.dpu_runtime.control.test_plan import NoState

WEB = {"name": "web", "kind": "tap", "netns": "web", "ifname": "eth0", "address": ["10.0.0.2/24"]}
RULE = {"name": "no-telnet", "priority": 100, "proto": "tcp", "dport": "23", "action": "drop"}


@pytest.fixture
def api():
    return Api(Control(MemoryDevice(), NoState(), RuntimeConfig()))


def call(api, method, **params):
    """Call a method as a client does; the result must have the published shape."""
    result = asyncio.run(api.call(method, json.loads(json.dumps(params))))
    TypeAdapter(METHODS[method].result).validate_python(json.loads(json.dumps(result)))
    return result


def refused(api, method, **params):
    with pytest.raises(RpcError) as caught:
        call(api, method, **params)
    return caught.value


def test_a_port_that_is_going_is_not_shown(api):
    call(api, "port.add", **WEB)
    del api.control.device.ports["web"]  # the first step of taking it down
    assert call(api, "port.show") == []
    assert refused(api, "port.show", name="web").message == "no port 'web'"


def test_ports_and_rules_come_and_go(api):
    assert call(api, "port.add", **WEB) == {"name": "web"}
    assert call(api, "rule.add", **RULE) == {"name": "no-telnet"}
    assert call(api, "rule.add", priority=200, action="allow", stage="egress") == {"name": "rule-1"}
    assert call(api, "rule.add", priority=200, action="allow", in_port="web") == {"name": "rule-2"}
    (port,) = call(api, "port.show")
    assert port["config"]["mac"] == "02:27:2d:17:d9:3e"
    assert port["info"] == {"up": True, "queues": 1, "notes": []}
    rules = call(api, "rule.show", stats=True)
    assert [rule["config"]["name"] for rule in rules] == ["rule-2", "no-telnet", "rule-1"]
    assert [(rule["packets"], rule["bytes"]) for rule in rules] == [(2, 128), (0, 0), (1, 64)]
    assert "packets" not in call(api, "rule.show")[0]
    (one,) = call(api, "rule.show", name="rule-1", stats=True)
    assert (one["config"]["priority"], one["packets"]) == (200, 1)
    status = call(api, "status")
    assert (status["ports"], status["rules"], status["data_plane"]["adopted"]) == (1, 3, False)
    assert parse_config(call(api, "config.get")["toml"]) == api.control.running
    error = refused(api, "port.del", name="web")
    assert (error.code, error.message) == (REFUSED, "port 'web' is named by rule rule-2")
    assert call(api, "rule.del", name="rule-2") == {"name": "rule-2"}
    assert call(api, "port.del", name="web") == {"name": "web"}
    assert api.control.device.ports == {}
    assert call(api, "stats")["drops"] == {"ACL_INGRESS": 7, "RUNT": 0}


def test_detach_takes_what_names_the_port_along(api):
    for name, owner in (("a", "engine"), ("b", "engine"), ("c", "attach")):
        call(api, "port.add", **WEB | {"name": name, "ifname": name, "owner": owner})
    call(api, "port.add", name="v", kind="vhost_user", socket="/run/v")
    call(api, "port.add", name="w", kind="vhost_user", socket="/run/w", xconnect="v")
    call(api, "rule.add", **RULE, in_port="a")
    call(api, "rule.add", name="both", priority=1, stage="egress", in_port="c", out_port="b", action="drop")
    call(api, "rule.add", name="stays", priority=1, in_port="c", action="drop")
    assert call(api, "port.detach", name="v") == {"names": ["v"]}
    assert api.control.device.ports["w"].xconnect is None
    assert call(api, "port.detach", owner="engine") == {"names": ["a", "b"]}
    assert list(api.control.device.ports) == ["c", "w"]
    assert [rule.name for rule in api.control.device.rules] == ["stays"]
    assert call(api, "port.detach", owner="engine") == {"names": []}
    assert call(api, "port.detach", name="a") == {"names": []}


def test_detach_that_fails_changes_nothing(api):
    call(api, "port.add", **WEB)
    call(api, "rule.add", **RULE, in_port="web")
    api.control.device.fail["del web"] = 1
    assert refused(api, "port.detach", name="web").code == REFUSED
    assert list(api.control.device.ports) == ["web"]
    assert [rule.name for rule in api.control.device.rules] == ["no-telnet"]


def test_relocate_changes_the_place_and_nothing_else(api):
    call(api, "port.add", **WEB, mtu=1400, mac="02:00:00:00:00:09")
    before = api.control.device.ports["web"]
    api.control.device.calls.clear()
    assert call(api, "port.relocate", name="web", netns="/run/docker/netns/1", ifname="eth1") == {
        "name": "web"
    }
    assert api.control.device.calls == ["relocate web"]
    place = {"netns": "/run/docker/netns/1", "ifname": "eth1"}
    assert api.control.running.port == [before.model_copy(update=place)]
    route = [{"to": "default", "via": "10.0.1.1"}]
    call(api, "port.relocate", name="web", ifname="eth0", address=["10.0.1.2/24"], route=route)
    (port,) = call(api, "port.show")
    assert port["config"]["address"] == ["10.0.1.2/24"]
    assert port["config"]["route"] == route
    assert "netns" not in port["config"]
    api.control.device.fail["relocate web"] = 1
    error = refused(api, "port.relocate", name="web", ifname="eth9")
    assert error.message == "port 'web': relocate: Device or resource busy; nothing was changed"
    assert call(api, "port.show") == [port]


WRONG = [
    ("nope", {}, METHOD_NOT_FOUND, "no method 'nope'"),
    ("status", {"x": 1}, INVALID_PARAMS, "x = 1: unknown key"),
    ("port.add", {}, INVALID_PARAMS, "kind: missing; allowed: tap, null, vhost_user, af_packet, af_xdp"),
    ("port.add", {**WEB, "name": "b", "mtu": 1}, INVALID_PARAMS, "mtu = 1: allowed: 68..65535 octets"),
    ("port.add", WEB, INVALID_PARAMS, 'name = "web": another port has this name'),
    ("port.del", {"name": "b"}, REFUSED, "no port 'b', there are: web"),
    ("port.show", {"name": "b"}, REFUSED, "no port 'b'"),
    ("port.show", {"name": 3}, INVALID_PARAMS, "name = 3: allowed: 1 to 32 of A-Z a-z 0-9 _ . -"),
    ("port.detach", {}, INVALID_PARAMS, "name = null: either `name` or `owner` must be given"),
    ("port.detach", {"name": "a", "owner": "b"}, INVALID_PARAMS, 'name = "a": either `name` or `owner`'),
    ("port.relocate", {"name": "b", "ifname": "eth0"}, REFUSED, "no port 'b', there are: web"),
    ("port.relocate", {"name": "web"}, INVALID_PARAMS, "ifname: missing"),
    (
        "port.relocate",
        {"name": "web", "ifname": "a", "route": [{"to": "default", "via": "10.9.0.1"}]},
        INVALID_PARAMS,
        'route[0].via = "10.9.0.1": in no network of the port\'s addresses',
    ),
    ("rule.del", {"name": "b"}, REFUSED, "no rule 'b', there are: none"),
    ("rule.add", {**RULE, "dport": "x"}, INVALID_PARAMS, 'dport = "x": not a port or a range of ports'),
    (
        "rule.add",
        {**RULE, "proto": "udp", "tcp_flags": "syn"},
        INVALID_PARAMS,
        'tcp_flags = "syn": needs proto = tcp',
    ),
    ("rule.add", {**RULE, "in_port": "b"}, INVALID_PARAMS, 'in_port = "b": no such port, there are: web'),
    ("rule.show", {"name": "b"}, REFUSED, "no rule 'b', there are: none"),
    ("rule.show", {"stats": 1}, INVALID_PARAMS, "stats = 1: allowed: true, false"),
    ("profile", {"seconds": 0}, INVALID_PARAMS, "seconds = 0: allowed: 0.1..60 seconds"),
    ("profile", {"seconds": 60.5}, INVALID_PARAMS, "seconds = 60.5: allowed: 0.1..60 seconds"),
    ("profile", {"seconds": "1"}, INVALID_PARAMS, 'seconds = "1": allowed: 0.1..60 seconds'),
    ("profile", {"seconds": None}, INVALID_PARAMS, "seconds = null: allowed: 0.1..60 seconds"),
    ("profile", {"thread": 1}, INVALID_PARAMS, "thread = 1: unknown key"),
    ("config.apply", {}, INVALID_PARAMS, "toml: missing"),
    ("config.apply", {"toml": "a", "source": "f"}, INVALID_PARAMS, "f:1: not TOML"),
    ("config.apply", {"toml": "[[rule]]", "source": "f"}, INVALID_PARAMS, "f:1: rule[0].priority: missing"),
]


@pytest.mark.parametrize(("method", "params", "code", "text"), WRONG, ids=range(len(WRONG)))
def test_wrong_params_name_key_value_and_allowed(api, method, params, code, text):
    call(api, "port.add", **WEB)
    with pytest.raises(RpcError) as caught:
        asyncio.run(api.call(method, params))
    assert caught.value.code == code
    assert caught.value.message.startswith(text)
    if code == INVALID_PARAMS:
        (problem, *_) = caught.value.data["problems"]
        assert {"key", "value", "allowed"} <= set(problem)
    assert list(api.control.device.ports) == ["web"]
    assert api.control.device.rules == []


def test_positional_params_are_refused(api):
    with pytest.raises(RpcError, match="must be an object"):
        asyncio.run(api.call("status", []))


def test_device_refusal_has_its_text(api):
    api.control.device.fail["add web"] = 1
    error = refused(api, "port.add", **WEB)
    assert error.code == REFUSED
    assert error.message == "port 'web': add: Device or resource busy; nothing was changed"
    assert error.data == {"rolled_back": True}


def test_a_profile_has_the_published_shape(api):
    assert call(api, "profile")["seconds"] == 1
    assert call(api, "profile", seconds=0.1)["workers"][0]["stages"]["parse"]["share"] == 0.25


def test_apply_and_dry_run(api):
    toml = '[[port]]\nname = "web"\nkind = "tap"\nifname = "eth0"\n'
    expected = ["+ port web: kind tap, ifname eth0"]
    assert call(api, "config.apply", toml=toml, dry_run=True) == {"changes": expected, "dry_run": True}
    assert api.control.device.ports == {}
    assert call(api, "config.apply", toml=toml)["changes"] == expected
    assert call(api, "config.apply", toml=toml)["changes"] == []


def test_ten_thousand_rules_are_applied(api):
    toml = "".join(
        f'[[rule]]\npriority = {i % 65536}\nsrc = "10.{i >> 8 & 255}.{i & 255}.0/24"\naction = "drop"\n'
        for i in range(10_000)
    )
    assert len(call(api, "config.apply", toml=toml)["changes"]) == 10_000
    assert len(api.control.device.rules) == 10_000


def test_schema_describes_every_method(api):
    published = call(api, "schema")
    assert published == json.loads(json.dumps(schema()))
    assert sorted(published["methods"]) == sorted(METHODS)
    assert all(entry["description"] for entry in published["methods"].values())
    tap = published["$defs"]["TapPort"]
    assert tap["additionalProperties"] is False
    assert tap["required"] == ["name", "kind", "ifname"]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([*METHODS, "x"]),
    st.dictionaries(
        st.sampled_from(["name", "kind", "toml", "ifname", "priority", "action", "stats", "x"]), VALUES
    ),
)
def test_any_params_give_a_result_or_an_rpc_error(method, params):
    api = Api(Control(MemoryDevice(), NoState(), RuntimeConfig()))
    try:
        asyncio.run(api.call(method, params))
    except RpcError as error:
        assert error.message
        json.dumps(error.data, default=str)
