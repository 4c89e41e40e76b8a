"""Addresses of an attachment: from the IPAM plugin, or from the configuration itself.

Spec: CNI 1.1.0 section 4; CONVENTIONS.md, capability `ips`.
Out:  a result without interfaces. Not: setting them; the daemon does.
"""

import ipaddress

from dpu_runtime.config.errors import Problem
from dpu_runtime.engines.cni import result
from dpu_runtime.engines.cni.delegate import Delegate
from dpu_runtime.engines.cni.errors import INVALID_CONFIG, UNSUPPORTED_FIELD, CniError


class Ipam:
    """The network's IPAM; without an `ipam.type` it hands out what the configuration says."""

    def __init__(self, conf, env):
        self._conf = conf
        self._plugin = Delegate(conf.ipam_type, env, "ipam.type") if conf.ipam_type else None

    def add(self):
        """Take addresses; the plugin frees them by `delete`, also when this fails."""
        if self._plugin is None:
            return _own_addresses(self._conf)
        answer = self._plugin.run("ADD", self._conf.raw, self._conf.version)
        given = result.checked(answer, f"what {self._plugin.name} answered")
        self._check_wishes(given)
        return given

    def delete(self):
        """Give the addresses back; twice is allowed."""
        if self._plugin is not None:
            self._plugin.run("DEL", self._conf.raw, self._conf.version)

    def check(self):
        """Have the plugin look whether it still knows the addresses."""
        if self._plugin is not None:
            self._plugin.run("CHECK", self._conf.raw, self._conf.version)

    def ask(self, command):
        """STATUS or GC, of a plugin that is new enough for it."""
        if self._plugin is not None and self._plugin.knows(command):
            self._plugin.run(command, self._conf.raw, self._conf.version)

    def _check_wishes(self, given):
        """A plugin that does not know capability `ips` would give any other address without a word."""
        got = {ipaddress.ip_interface(ip["address"]).ip for ip in given["ips"]}
        for wish in self._conf.runtime.get("ips", []):
            if _wished(wish).ip not in got:
                text = f"{self._plugin.name} gave {', '.join(map(str, got)) or 'none'} instead"
                raise CniError(UNSUPPORTED_FIELD, str(Problem("runtimeConfig.ips", text, value=wish)))


def _wished(text):
    try:
        return ipaddress.ip_interface(text)
    except ValueError as error:
        problem = Problem("runtimeConfig.ips", str(error), "addresses with prefix length", text)
        raise CniError(INVALID_CONFIG, str(problem)) from None


def _own_addresses(conf):
    """What capability `ips` asks for, else `addresses`; with `gateway` and `routes`."""
    wishes = conf.runtime.get("ips", [])
    ips = [{"address": str(_wished(wish))} for wish in wishes] or [dict(item) for item in conf.addresses]
    for ip in ips:
        interface = ipaddress.ip_interface(ip["address"])
        gateway = conf.gateway and ipaddress.ip_address(conf.gateway)
        if gateway and gateway in interface.network:
            ip.setdefault("gateway", str(gateway))
    return {"interfaces": [], "ips": ips, "routes": [dict(route) for route in conf.routes], "dns": {}}
