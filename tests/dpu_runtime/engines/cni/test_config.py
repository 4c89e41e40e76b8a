"""Keys of a network configuration: what is taken, and what an error says."""

import pytest

from dpu_runtime.engines.cni import config
from dpu_runtime.engines.cni.errors import INVALID_CONFIG, UNSUPPORTED_FIELD, CniError

CONF = {"cniVersion": "1.0.0", "name": "net", "type": "dpu-cni"}
VHOST = {"kind": "vhost_user", "socketDir": "/run/dpu/cni"}


def parsed(**keys):
    return config.parse(CONF | keys, "1.0.0")


def refusal(**keys):
    with pytest.raises(CniError) as caught:
        parsed(**keys)
    return caught.value


def test_what_is_not_said_has_a_default():
    conf = parsed()
    assert (conf.name, conf.kind, conf.socket) == ("net", "tap", "/run/dpu/dpu.sock")
    assert conf.data_dir == "/var/lib/cni/dpu"  # not /tmp: it outlives a reboot
    assert (conf.mtu, conf.vlan, conf.spoof_check, conf.ipam_type) == (None, None, False, None)


def test_every_key_is_taken():
    conf = parsed(
        socket="/run/x.sock",
        dataDir="/var/lib/x",
        mtu=9000,
        vlan=5,
        spoofCheck=True,
        isGateway=True,
        isDefaultGateway=True,
        gateway="10.0.0.1",
        addresses=[{"address": "10.0.0.2/24"}, {"address": "fd00::2/64", "gateway": "fd00::1"}],
        routes=[{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.0.0.9"}],
        dns={"nameservers": ["10.0.0.1"]},
        ipMasq=False,
        args={"cni": {"anything": 1}},
        capabilities={"mac": True},
    )
    assert (conf.mtu, conf.vlan, conf.spoof_check, conf.is_gateway) == (9000, 5, True, True)
    assert conf.addresses[1] == {"address": "fd00::2/64", "gateway": "fd00::1"}
    conf = parsed(**VHOST, socketMode="0660", socketGroup="kvm")
    assert (conf.socket_dir, conf.socket_mode, conf.socket_group) == ("/run/dpu/cni", "0660", "kvm")


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("name", "a:b", "letters, digits"),
        ("name", 1, "letters, digits"),
        ("socket", "dpu.sock", "absolute path"),
        ("socket", "/" + "x" * 107, "at most 107 octets"),
        ("dataDir", "", "absolute path"),
        ("kind", "bridge", "tap, vhost_user, veth"),
        ("kind", [], "tap, vhost_user, veth"),
        ("mtu", 67, "68..65535"),
        ("mtu", "1500", "68..65535"),
        ("mtu", True, "68..65535"),
        ("mtu", 1500.0, "68..65535"),
        ("vlan", 4095, "1..4094"),
        ("spoofCheck", 1, "true, false"),
        ("isGateway", "yes", "true, false"),
        ("gateway", "10.0.0.0/24", "an IPv4 or IPv6 address"),
        ("ipMasq", True, "the host's own rules"),
        ("ipam", {"subnet": "10.0.0.0/24"}, "a table with `type`"),
        ("ipam", {"type": "../host-local"}, "file name of a plugin"),
        ("ipam", "host-local", "a table with `type`"),
        ("dns", [], "a table"),
        ("addresses", [{"address": "10.0.0.2"}], "`address`"),
        ("addresses", [{"gateway": "10.0.0.1"}], "`address`"),
        ("addresses", ["10.0.0.2/24"], "`address`"),
        ("routes", [{"dst": "default"}], "`dst`"),
        ("routes", [{"dst": "10.0.0.0/8", "mtu": 9}], "`dst`"),
        ("runtimeConfig", [], "a table"),
        ("socketDir", "/run/dpu/cni", 'only with kind = "vhost_user"'),
        ("driver", "af_xdp", 'only with kind = "veth"'),
    ],
)
def test_a_wrong_value_is_named(key, value, allowed):
    refused = refusal(**{key: value})
    assert refused.code == INVALID_CONFIG
    assert str(refused).startswith(key)
    assert allowed in str(refused)


@pytest.mark.parametrize(
    ("capability", "value", "text"),
    [
        ("mac", "02:00:00:00:00", "not a MAC address"),
        ("mac", 2, "a MAC address"),
        ("ips", "10.0.0.2/24", "a list of addresses"),
        ("bandwidth", {"ingressRate": -1}, "0..2^63-1 bits"),
        ("bandwidth", {"ingressRate": 8000}, "ingressRate and ingressBurst go together"),
        ("bandwidth", {"rate": 8000}, "unknown key rate"),
        ("portMappings", {"hostPort": 80}, "a list of tables"),
    ],
)
def test_a_wrong_capability_is_named(capability, value, text):
    refused = refusal(runtimeConfig={capability: value})
    assert refused.code == INVALID_CONFIG
    assert str(refused).startswith(f"runtimeConfig.{capability}")
    assert text in str(refused)


def test_an_unknown_key_is_unsupported():
    refused = refusal(brigde="cni0")
    assert refused.code == UNSUPPORTED_FIELD
    assert 'brigde = "cni0": unknown key; allowed: name, socket' in str(refused)


def test_a_missing_name():
    with pytest.raises(CniError, match="name: missing; allowed: letters") as caught:
        config.parse({"cniVersion": "1.0.0"}, "1.0.0")
    assert caught.value.code == INVALID_CONFIG


def test_addresses_beside_ipam_are_refused():
    refused = refusal(ipam={"type": "static"}, addresses=[{"address": "10.0.0.2/24"}])
    assert "only without `ipam`" in str(refused)


def test_a_socket_folder_is_needed_for_vhost_user():
    assert str(refusal(kind="vhost_user")).startswith("socketDir: missing")


def test_what_cleaning_does_not_need_is_not_checked():
    """A container must be removable after a mistake in the configuration."""
    conf = config.parse(CONF | {"mtu": "big", "brigde": 1, "runtimeConfig": 5}, "1.0.0", cleaning=True)
    assert conf.name == "net"
    with pytest.raises(CniError, match="ipam"):
        config.parse(CONF | {"ipam": 3}, "1.0.0", cleaning=True)


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_valid_attachments(key):
    listed = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "eth1"}]
    conf = config.parse(CONF | {key: listed}, "1.1.0", cleaning=True)
    assert conf.valid_attachments == {("a", "eth0"), ("b", "eth1")}
    assert config.parse(CONF | {key: []}, "1.1.0", cleaning=True).valid_attachments == set()
    assert config.parse(CONF, "1.1.0", cleaning=True).valid_attachments is None
    with pytest.raises(CniError, match="containerID and ifname"):
        config.parse(CONF | {key: [{"containerID": "a"}]}, "1.1.0", cleaning=True)
