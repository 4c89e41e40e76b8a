"""Results, in the version they were asked in.

Spec: CNI 1.1.0 section 5, "Result types"; 0.4.0 "Result" (`version` of addresses).
In:   results as tables, in the newest form or what another plugin printed. Out: plain data to be printed.
"""

import ipaddress

from dpu_runtime.engines.cni.errors import DELEGATE_FAILED, CniError

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]
SINCE = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}
_SINCE_1_1 = {
    "interfaces": ("mtu", "socketPath", "pciID"),
    "routes": ("mtu", "advmss", "priority", "table", "scope"),
}


def at_least(version, other):
    """Whether a version of VERSIONS is `other` or newer."""
    return VERSIONS.index(version) >= VERSIONS.index(other)


def convert(result, version):
    """The same result in the form of `version`."""
    result = {**result, "cniVersion": version}
    if not at_least(version, "1.1.0"):
        for part, keys in _SINCE_1_1.items():
            result[part] = [
                {key: value for key, value in item.items() if key not in keys}
                for item in result.get(part, [])
            ]
    ips = [{key: value for key, value in ip.items() if key != "version"} for ip in result.get("ips", [])]
    if not at_least(version, "1.0.0"):
        ips = [{"version": str(_family(ip["address"])), **ip} for ip in ips]
    result["ips"] = ips
    return {key: value for key, value in result.items() if value not in ([], {})}


def checked(result, source):
    """A result that came from outside, None being an empty one. Raises CniError 102 when it is none."""
    result = {} if result is None else result
    try:
        for part in ("interfaces", "ips", "routes"):
            if not all(isinstance(item, dict) for item in result.get(part) or []):
                raise ValueError(f"{part} is no list of tables")
        for ip in result.get("ips") or []:
            ipaddress.ip_interface(_text(ip, "address"))
            if ip.get("gateway"):
                ipaddress.ip_address(_text(ip, "gateway"))
        for route in result.get("routes") or []:
            ipaddress.ip_network(_text(route, "dst"), strict=False)
        if not isinstance(result.get("dns") or {}, dict):
            raise ValueError("dns is no table")
    except (ValueError, AttributeError, TypeError) as error:
        raise CniError(DELEGATE_FAILED, f"{source} is no CNI result: {error}") from None
    lists = {part: list(result.get(part) or []) for part in ("interfaces", "ips", "routes")}
    return {**lists, "dns": result.get("dns") or {}}


def joined(before, ours):
    """What a chain has made before us, and ours behind it."""
    shift = len(before["interfaces"])
    ips = [{**ip, "interface": ip["interface"] + shift} if "interface" in ip else ip for ip in ours["ips"]]
    return {
        "interfaces": before["interfaces"] + ours["interfaces"],
        "ips": before["ips"] + ips,
        "routes": before["routes"] + ours["routes"],
        "dns": ours["dns"] or before["dns"],
    }


def _text(table, key):
    value = table.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}")
    return value


def _family(address):
    return ipaddress.ip_interface(address).version
