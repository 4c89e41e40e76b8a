"""The parameters of a call, which come in the environment.

Spec: CNI 1.1.0 section 2, "Parameters".
"""

import errno
import os
import re

from dpu_runtime.config.errors import Problem
from dpu_runtime.engines.cni.errors import INVALID_ENVIRONMENT, UNKNOWN_CONTAINER, CniError

IFNAME_BYTES_MAX = 15  # octets, IFNAMSIZ without its NUL, netdevice(7)
IDENTIFIER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")  # of containers, and of networks
IDENTIFIER_TEXT = "letters, digits, _ . -, beginning with a letter or digit"
NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "STATUS": (),
    "GC": (),
    "VERSION": (),
}
ARGS = ("MAC", "IP", "GATEWAY", "IgnoreUnknown")  # of CNI_ARGS; IP and GATEWAY are for IPAM
ARGS_PREFIX = "K8S_"
_TRUE = ("1", "true", "yes", "on")


class Environment:
    """What CNI_* say; with `containerid` and `ifname` of another attachment, for GC.

    args   CNI_ARGS, key -> value
    path   folders with plugins
    """

    def __init__(self, variables):
        self.variables = variables
        self.command = variables.get("CNI_COMMAND", "")
        self.containerid = variables.get("CNI_CONTAINERID", "")
        self.netns = variables.get("CNI_NETNS", "")
        self.ifname = variables.get("CNI_IFNAME", "")
        self.path = [folder for folder in variables.get("CNI_PATH", "").split(":") if folder]
        self.args = {}

    def checked(self):
        """Return itself. Raises CniError 4, or 3 when the container to attach is gone already."""
        if self.command not in NEEDED:
            _refuse("CNI_COMMAND", self.command or None, "", ", ".join(NEEDED))
        for name in NEEDED[self.command]:  # libcni fills in the others with "dummy"
            value = self.variables.get(name)
            if not value:
                _refuse(name, value, f"{self.command} needs it", "")
            fits, allowed = _CHECKS[name]
            if not fits(value):
                _refuse(name, value, "", allowed)
        if self.command == "ADD":
            self._check_netns()
            self.args = _parsed_args(self.variables.get("CNI_ARGS", ""))
        return self

    def _check_netns(self):
        """The namespace is there, and not the one this program runs in."""
        try:
            there, own = os.stat(self.netns), os.stat("/proc/self/ns/net")
        except OSError as error:
            gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)
            problem = Problem("CNI_NETNS", error.strerror, value=self.netns)
            raise CniError(UNKNOWN_CONTAINER if gone else INVALID_ENVIRONMENT, str(problem)) from None
        if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino):
            _refuse("CNI_NETNS", self.netns, "the host's own namespace", "the one of a container")

    def of(self, containerid, ifname):
        """The same for the DEL of another attachment, of which the namespace is not known."""
        names = {"CNI_CONTAINERID": containerid, "CNI_IFNAME": ifname, "CNI_NETNS": "", "CNI_ARGS": ""}
        return Environment({**self.variables, **names, "CNI_COMMAND": "DEL"})


def _refuse(key, value, text, allowed):
    problem = Problem(key, text, allowed, value, has_value=value is not None)
    if value is None and not text:
        problem.text = "missing"
    raise CniError(INVALID_ENVIRONMENT, str(problem))


def _is_ifname(text):
    fits = len(text.encode(errors="surrogateescape")) <= IFNAME_BYTES_MAX
    return fits and text not in (".", "..") and not re.search(r"[/:%\s\x00-\x1f\x7f]", text)


_CHECKS = {  # variable -> check, what is allowed
    "CNI_CONTAINERID": (IDENTIFIER.fullmatch, IDENTIFIER_TEXT),
    "CNI_IFNAME": (_is_ifname, "1 to 15 octets without / : % and white space"),
    "CNI_NETNS": (lambda value: value.startswith("/"), "an absolute path"),
}


def _parsed_args(text):
    """Key -> value of "K=V;K=V"; an unknown key is an error unless IgnoreUnknown is set."""
    args = {}
    for part in filter(None, text.split(";")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            _refuse("CNI_ARGS", part, "", "KEY=VALUE pairs, separated by semicolons")
        args[key] = value
    unknown = [key for key in args if key not in ARGS and not key.startswith(ARGS_PREFIX)]
    if unknown and args.get("IgnoreUnknown", "").lower() not in _TRUE:
        allowed = ", ".join((*ARGS, f"{ARGS_PREFIX}*")) + "; any other with IgnoreUnknown=1"
        _refuse(f"CNI_ARGS {unknown[0]}", args[unknown[0]], "", allowed)
    return args
