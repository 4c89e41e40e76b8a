"""What a call of the plugin takes besides the daemon's work and IPAM: modules, CPU time."""

import json
import resource
import subprocess
import sys

import pytest

from tests.live.daemon import wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("containernetworking-plugins")]

# What an ADD may load: the standard library, this plugin, and no more of either than it has now.
OURS = {"dpu_runtime.api.client", "dpu_runtime.config.errors", "dpu_runtime.device.ipv6"}
OURS |= {"dpu_runtime", "dpu_runtime.engines", *(name.rpartition(".")[0] for name in OURS)}  # empty packages
SLOW = {
    "subprocess",
    "ctypes",
    "dataclasses",
    "asyncio",
    "argparse",
    "inspect",
    "hashlib",
    "tempfile",
    "logging",
}
MODULES_MAX = 90
START_TIMES_MAX = 6  # CPU time of an ADD: it has that of three to four starts of Python


def imported(cni, command, conf, container):
    """Modules that a call of the installed program loads, from the interpreter's start to its end."""
    log = cni.folder / "imports"
    program = cni.runtime.bin / "dpu-cni"
    with log.open("wb") as stderr:
        subprocess.run(
            ["nsenter", f"--net=/run/netns/{cni.host}", sys.executable, "-IS", "-X", "importtime", program],
            input=json.dumps(conf).encode(),
            env=cni.runtime.environment(command, container),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            timeout=60,
            check=True,
        )
    lines = [line for line in log.read_text().splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


@pytest.mark.parametrize("kind", ["tap", "vhost_user"])
def test_an_add_loads_the_standard_library_only_and_little_of_it(cni, kind):
    network = cni.network(kind=kind, socketDir=str(cni.folder) if kind == "vhost_user" else None)
    container = cni.container()
    conf = network.conf(network.plugins[0])
    found = {}
    for command in ("ADD", "DEL"):
        found[command] = imported(cni, command, conf, container)
    assert "dpu_runtime.engines.cni.attachment" in found["ADD"]
    for modules in found.values():
        ours = {name for name in modules if name in OURS or name.startswith("dpu_runtime.engines.cni")}
        roots = {name.partition(".")[0] for name in modules - ours}
        assert roots <= sys.stdlib_module_names, roots - sys.stdlib_module_names
        assert not SLOW & roots
        assert len(modules) <= MODULES_MAX


def cpu_time_of_children():
    """Seconds that processes this one has waited for used; not the daemon."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_an_add_takes_no_longer_than_is_said(cni):
    network = cni.network(ipam=None, addresses=[{"address": "10.88.0.2/24"}])
    container = cni.container()
    bare, times = [], []
    for _ in range(5):
        start = cpu_time_of_children()
        subprocess.run([sys.executable, "-IS", "-c", "pass"], check=True)
        bare.append(cpu_time_of_children() - start)
        start = cpu_time_of_children()
        network.add(container)
        times.append(cpu_time_of_children() - start)
        network.delete(container)
    assert min(times) < START_TIMES_MAX * min(bare)
    assert wait_until(cni.is_clean)
