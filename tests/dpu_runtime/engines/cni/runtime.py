"""A container runtime's side of CNI, as libcni has it: chains, cached results, every command.

Spec: CNI 1.1.0 section 3, "Execution of Network Configurations".
In:   network configurations as tables. Out: what the plugins answered; CallError with their error.
Not:  containers: a network namespace stands for one.

The plugins run in the namespace `host`, which stands for the host: what they make there is not seen outside.
"""

import contextlib
import copy
import io
import json
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from unittest import mock

from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.engines.cni.install import install
from dpu_runtime.engines.cni.main import main

REFERENCE_PLUGINS = "/usr/lib/cni"
TIMEOUT_S = 60


class CallError(Exception):
    """A plugin's error: its code, its text, and all that it printed."""

    def __init__(self, answer, stderr):
        self.answer = answer
        self.code = answer["code"]
        self.stderr = stderr
        super().__init__(answer["msg"])


def write_program(path, text):
    """Make a program of a text; returns its path."""
    path.write_text(text)
    path.chmod(0o755)
    return path


class Container:
    """A container of the runtime: an ID, and a namespace."""

    def __init__(self, name):
        self.id = uuid.uuid4().hex * 2  # 64 digits, as engines make them
        self.name = name
        self.netns = f"/run/netns/{name}"

    def socket(self, kind=socket.SOCK_STREAM, family=socket.AF_INET, timeout_s=20.0):
        """A socket that belongs to the namespace."""
        sock = run_in_netns(self.netns, lambda: socket.socket(family, kind))
        sock.settimeout(timeout_s)
        return sock


class Runtime:
    """Runs plugins. `host` is the namespace they run in, None: the test's own."""

    def __init__(self, folder, host=None):
        self.folder = Path(folder)
        self.bin = self.folder / "bin"
        install(self.bin)
        self.host = host
        self.path = [str(self.bin), REFERENCE_PLUGINS]

    def environment(self, command, container=None, ifname="eth0"):
        """The variables of a call."""
        env = {"PATH": os.environ["PATH"], "CNI_COMMAND": command, "CNI_PATH": ":".join(self.path)}
        if container is not None:
            env |= {"CNI_CONTAINERID": container.id, "CNI_NETNS": container.netns, "CNI_IFNAME": ifname}
        return env

    def spawn(self, command, conf, container=None, ifname="eth0", **variables):
        """Run one command of one plugin; returns the finished process. `conf` is a table, or octets."""
        env = self.environment(command, container, ifname) | variables
        plugin = conf["type"] if isinstance(conf, dict) and conf.get("type") else "dpu-cni"
        folder = next((f for f in self.path if (Path(f) / plugin).exists()), None)
        assert folder, f"no plugin {plugin} in {self.path}"
        inside = ["nsenter", f"--net=/run/netns/{self.host}"] if self.host else []
        return subprocess.run(
            [*inside, f"{folder}/{plugin}"],
            input=conf if isinstance(conf, bytes) else json.dumps(conf).encode(),
            env={key: value for key, value in env.items() if value is not None},
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def call(self, command, conf, container=None, ifname="eth0", **variables):
        """Run one command of one plugin; returns its decoded answer. Raises CallError."""
        done = self.spawn(command, conf, container, ifname, **variables)
        stderr = done.stderr.decode()
        assert "Traceback" not in stderr, stderr
        answer = json.loads(done.stdout) if done.stdout else None
        if done.returncode:
            raise CallError(answer, stderr)
        return answer


class Called(Runtime):
    """The same within this process, where it takes a hundredth of the time."""

    def spawn(self, command, conf, container=None, ifname="eth0", **variables):
        """Call `dpu-cni`; returns what the finished process would be."""
        env = self.environment(command, container, ifname) | variables
        env = {key: value for key, value in env.items() if value is not None}
        text = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
        output, errors = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, env, clear=True),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(text))),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            code = main()
        return subprocess.CompletedProcess([], code, output.getvalue(), errors.getvalue().encode())


class Network:
    """A conflist and the results that were cached for it."""

    def __init__(self, runtime, name, plugins, version="1.0.0"):
        self.runtime = runtime
        self.name = name
        self.version = version
        self.plugins = plugins
        self.cache = {}

    def conf(self, plugin, result=None, capabilities=None):
        """The configuration that one plugin of the chain gets."""
        conf = copy.deepcopy(plugin) | {"cniVersion": self.version, "name": self.name}
        wanted = {k: v for k, v in (capabilities or {}).items() if conf.get("capabilities", {}).get(k)}
        if wanted:
            conf["runtimeConfig"] = wanted
        return conf | ({"prevResult": result} if result is not None else {})

    def add(self, container, ifname="eth0", args="", **capabilities):
        """ADD of the whole chain. When it fails, the runtime calls DEL and raises the error."""
        result = None
        self.cache[container.id, ifname] = (None, args, capabilities)
        try:
            for plugin in self.plugins:
                conf = self.conf(plugin, result, capabilities)
                result = self.runtime.call("ADD", conf, container, ifname, CNI_ARGS=args)
        except CallError:
            self.delete(container, ifname)
            raise
        self.cache[container.id, ifname] = (result, args, capabilities)
        return result

    def check(self, container, ifname="eth0"):
        """CHECK of the whole chain."""
        result, args, capabilities = self.cache[container.id, ifname]
        for plugin in self.plugins:
            conf = self.conf(plugin, result, capabilities)
            assert self.runtime.call("CHECK", conf, container, ifname, CNI_ARGS=args) is None

    def delete(self, container, ifname="eth0", netns=True):
        """DEL of the whole chain, backwards; without the namespace when that is gone already."""
        result, args, capabilities = self.cache.get((container.id, ifname), (None, "", {}))
        variables = {"CNI_ARGS": args} | ({} if netns else {"CNI_NETNS": ""})
        for plugin in reversed(self.plugins):
            conf = self.conf(plugin, result, capabilities)
            assert self.runtime.call("DEL", conf, container, ifname, **variables) is None
        self.cache.pop((container.id, ifname), None)

    def status(self):
        """STATUS of the whole chain."""
        for plugin in self.plugins:
            assert self.runtime.call("STATUS", self.conf(plugin)) is None

    def collect(self, key="cni.dev/valid-attachments"):
        """GC of the whole chain: what is cached is valid."""
        valid = [{"containerID": containerid, "ifname": ifname} for containerid, ifname in self.cache]
        for plugin in self.plugins:
            assert self.runtime.call("GC", self.conf(plugin) | {key: valid}) is None
