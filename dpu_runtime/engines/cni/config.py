"""The network configuration: what a `.conflist` may say, and what the runtime adds to it.

Spec: CNI 1.1.0 section 1, "Network configuration format"; CONVENTIONS.md (capabilities).
In:   the JSON of standard input. Out: `NetConf`, with every key checked; docs/containers.md explains them.
Not:  `ipam` but for its type, `args`: they are for other plugins.

What DEL and GC do not need is not checked for them: a container must be removable after a mistake.
"""

import ipaddress
import os
import re

from dpu_runtime.api.client import DEFAULT_SOCKET
from dpu_runtime.config.errors import Problem
from dpu_runtime.engines.cni.environment import IDENTIFIER, IDENTIFIER_TEXT
from dpu_runtime.engines.cni.errors import INVALID_CONFIG, UNSUPPORTED_FIELD, CniError

SOCKET_PATH_BYTES_MAX = 107  # octets, sockaddr_un.sun_path without its NUL, unix(7)
DATA_DIR = "/var/lib/cni/dpu"  # beside host-local's; survives a reboot
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")
_FOR_OTHERS = (  # keys of the specification, and of libcni
    *("cniVersion", "cniVersions", "type", "args", "capabilities", "prevResult"),
    *("disableCheck", "disableGC", "loadOnlyInlinedPlugins"),
)


class NetConf:
    """A checked configuration. `raw` is all of it, as other plugins get it; the rest is in KEYS."""

    def __init__(self, raw, version, values):
        self.raw = raw
        self.version = version
        for key in KEYS.values():
            setattr(self, key.attribute, values.get(key.attribute, key.default))

    @property
    def ipam_type(self):
        """Name of the IPAM plugin, None if there is none."""
        return self.ipam.get("type")


class Key:
    """One key: where its value goes, how it is checked, what is allowed in words.

    cleaning   DEL and GC need it too
    """

    def __init__(self, attribute, check, allowed, default=None, cleaning=False):
        self.attribute = attribute
        self.check = check
        self.allowed = allowed
        self.default = default
        self.cleaning = cleaning


def parse(raw, version, cleaning=False):
    """NetConf of decoded JSON. Raises CniError 7, or 2 for a key that is not known."""
    values = {}
    for name, key in KEYS.items():
        if cleaning and not key.cleaning:
            continue
        if name in raw:
            values[key.attribute] = _checked(name, raw[name], key)
    if "name" not in raw:
        _refuse("name", None, KEYS["name"].allowed)
    if not cleaning:
        _check_unknown(raw)
    conf = NetConf(raw, version, values)
    if not cleaning:
        _check_together(conf)
    return conf


def _check_unknown(raw):
    for name, value in raw.items():
        if name not in KEYS and name not in _FOR_OTHERS and not name.startswith("cni.dev/"):
            problem = Problem(name, "unknown key", ", ".join(KEYS), value)
            raise CniError(UNSUPPORTED_FIELD, str(problem))


def _check_together(conf):
    if conf.kind == "vhost_user" and conf.socket_dir is None:
        _refuse("socketDir", None, 'an absolute path; kind = "vhost_user" needs it')
    if conf.kind != "vhost_user":
        for name in ("socketDir", "socketMode", "socketGroup"):
            if name in conf.raw:
                _refuse(name, conf.raw[name], 'only with kind = "vhost_user"')
    if conf.kind != "veth" and "driver" in conf.raw:
        _refuse("driver", conf.raw["driver"], 'only with kind = "veth"')
    if conf.ipam_type and conf.addresses:
        _refuse("addresses", conf.raw["addresses"], "only without `ipam`")


def _refuse(name, value, allowed, text=""):
    problem = Problem(name, text or ("missing" if value is None else ""), allowed, value, value is not None)
    raise CniError(INVALID_CONFIG, str(problem))


def _checked(name, value, key):
    try:
        return key.check(value)
    except (ValueError, TypeError) as error:
        _refuse(name, value, key.allowed, str(error))


# checks: the value in the form that is used, or ValueError


def _need(condition, text=""):
    if not condition:
        raise ValueError(text)


def _text(value):
    _need(isinstance(value, str))
    return value


def _flag(value):
    _need(isinstance(value, bool))
    return value


def _table(value):
    _need(isinstance(value, dict))
    return value


def _number(low, high):
    def check(value):
        _need(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high)
        return value

    return check


def _one_of(*words):
    def check(value):
        _need(value in words)
        return value

    return check


def _path(value):
    _need(_text(value).startswith("/") and "\0" not in value)
    return value


def _socket_path(value):
    size = len(os.fsencode(_path(value)))
    _need(size <= SOCKET_PATH_BYTES_MAX, f"has {size} octets")
    return value


def _identifier(value):
    _need(IDENTIFIER.fullmatch(_text(value)))
    return value


def _mode(value):
    _need(re.fullmatch(r"0?[0-7]{3}", _text(value)))
    return value


def _plugin_name(value):
    """A file name, never a path: plugins are looked for in CNI_PATH."""
    _need(_text(value) not in ("", ".", "..") and "/" not in value)
    return value


def _ipam(value):
    if _table(value):
        _need("type" in value, "has no `type`")
        _plugin_name(value["type"])
    return value


def _mac(value):
    _need(_MAC.fullmatch(_text(value)), "not a MAC address")
    return value.lower()


def _interface(value):
    _need("/" in _text(value), "has no prefix length")
    return str(ipaddress.ip_interface(value))


def _address(value):
    return str(ipaddress.ip_address(_text(value)))


def _list_of(check):
    def check_all(value):
        _need(isinstance(value, list))
        return [check(item) for item in value]

    return check_all


def _table_of(required, **checks):
    def check(value):
        unknown = sorted(set(_table(value)) - set(checks))
        _need(not unknown, f"unknown key {', '.join(unknown)}")
        missing = [name for name in required if name not in value]
        _need(not missing, f"has no {', '.join(missing)}")
        return {name: checks[name](item) for name, item in value.items()}

    return check


_RATE = _number(0, 2**63 - 1)
_bandwidth_table = _table_of((), ingressRate=_RATE, ingressBurst=_RATE, egressRate=_RATE, egressBurst=_RATE)


def _bandwidth(value):
    table = _bandwidth_table(value)
    for way in ("ingress", "egress"):
        rate, burst = table.get(f"{way}Rate", 0), table.get(f"{way}Burst", 0)
        _need(bool(rate) == bool(burst), f"{way}Rate and {way}Burst go together")
    return table


_CAPABILITIES = {  # of runtimeConfig: check, what is allowed
    "mac": (_mac, "a MAC address"),
    "ips": (_list_of(_text), "a list of addresses with prefix length"),
    "bandwidth": (
        _bandwidth,
        "ingressRate, ingressBurst, egressRate, egressBurst: 0..2^63-1 bits (a second)",
    ),
    "portMappings": (_list_of(_table), "a list of tables, as the plugin portmap takes them"),
}


def _runtime_config(value):
    """The capabilities that are ours; any other is for IPAM."""
    checked = {}
    for name, item in _table(value).items():
        if name in _CAPABILITIES and item is not None:
            check, allowed = _CAPABILITIES[name]
            checked[name] = _checked(f"runtimeConfig.{name}", item, Key(name, check, allowed))
    return checked


def _valid_attachments(value):
    """Set of (container ID, interface name)."""
    items = _list_of(_table)(value or [])
    _need(all(isinstance(item.get(key), str) for item in items for key in ("containerID", "ifname")))
    return {(item["containerID"], item["ifname"]) for item in items}


_ATTACHMENTS = Key(
    "valid_attachments", _valid_attachments, "a list of tables with containerID and ifname", None, True
)

KEYS = {
    "name": Key("name", _identifier, IDENTIFIER_TEXT, None, cleaning=True),
    "socket": Key(
        "socket", _socket_path, "an absolute path of at most 107 octets", DEFAULT_SOCKET, cleaning=True
    ),
    "dataDir": Key("data_dir", _path, "an absolute path", DATA_DIR, cleaning=True),
    "ipam": Key("ipam", _ipam, "a table with `type`, the file name of a plugin", {}, cleaning=True),
    "runtimeConfig": Key("runtime", _runtime_config, "a table", {}),
    "dns": Key("dns", _table, "a table", {}),
    "kind": Key("kind", _one_of("tap", "vhost_user", "veth"), "tap, vhost_user, veth", "tap", cleaning=True),
    "driver": Key("driver", _one_of("af_packet", "af_xdp"), "af_packet, af_xdp", "af_packet"),
    "mtu": Key("mtu", _number(68, 65535), "68..65535 octets"),
    "vlan": Key("vlan", _number(1, 4094), "1..4094"),
    "spoofCheck": Key("spoof_check", _flag, "true, false", False),
    "isGateway": Key("is_gateway", _flag, "true, false", False),
    "isDefaultGateway": Key("is_default_gateway", _flag, "true, false", False),
    "gateway": Key("gateway", _address, "an IPv4 or IPv6 address"),
    "addresses": Key(
        "addresses",
        _list_of(_table_of(["address"], address=_interface, gateway=_address)),
        'a list of tables with `address`, such as "10.0.0.2/24", and `gateway`',
        (),
    ),
    "routes": Key(
        "routes",
        _list_of(_table_of(["dst"], dst=lambda text: str(ipaddress.ip_network(text)), gw=_address)),
        "a list of tables with `dst`, a prefix, and `gw`",
        (),
    ),
    "ipMasq": Key("ip_masq", _one_of(False), "false: translate addresses with the host's own rules", False),
    "socketDir": Key("socket_dir", _path, "an absolute path", cleaning=True),
    "socketMode": Key("socket_mode", _mode, 'an octal mode such as "0660"'),
    "socketGroup": Key("socket_group", _text, "name or number of a group"),
    "cni.dev/valid-attachments": _ATTACHMENTS,
    "cni.dev/attachments": _ATTACHMENTS,  # its name in the first print of 1.1.0
}
