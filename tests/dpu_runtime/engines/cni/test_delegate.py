"""Other plugins, here small scripts: found, run in a version they know, their errors passed on."""

import os

import pytest

from dpu_runtime.engines.cni.config import parse
from dpu_runtime.engines.cni.delegate import Delegate
from dpu_runtime.engines.cni.environment import Environment
from dpu_runtime.engines.cni.errors import CniError
from dpu_runtime.engines.cni.ipam import Ipam
from tests.dpu_runtime.engines.cni.runtime import write_program

CONF = {"cniVersion": "1.1.0", "name": "net", "type": "dpu-cni"}
OLD = """case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}';;
*) read conf; case $conf in
   *'"cniVersion": "1.0.0"'*) echo '{"ips": [{"address": "10.0.0.2/24"}]}';;
   *) echo '{"code": 1, "msg": "incompatible CNI versions"}'; exit 1;;
   esac;;
esac"""


@pytest.fixture
def plugin(tmp_path):
    """Make a plugin of a shell script; returns it as a delegate."""

    def make(script, name="ipam"):
        write_program(tmp_path / name, f"#!/bin/sh\necho $CNI_COMMAND >> {tmp_path}/calls\n{script}\n")
        return Delegate(name, environment(tmp_path))

    return make


def environment(*path, **variables):
    variables = {"CNI_PATH": ":".join(map(str, path)), "PATH": os.environ["PATH"]} | variables
    return Environment(variables | {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"})


def calls(folder):
    return (folder / "calls").read_text().split()


def test_the_configuration_goes_in_and_the_answer_comes_back(plugin):
    big = CONF | {"args": {"text": "x" * 200_000}}
    assert plugin("cat").run("ADD", big, "1.1.0") == big
    assert plugin("true").run("DEL", CONF, "1.1.0") is None


def test_the_environment_is_that_of_the_runtime(plugin):
    script = 'printf \'{"all": "%s %s %s"}\' $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME'
    assert plugin(script).run("CHECK", CONF, "1.1.0") == {"all": "CHECK c1 eth0"}


def test_a_plugin_of_an_older_version_is_called_in_that(plugin, tmp_path):
    assert plugin(OLD).run("ADD", CONF, "1.1.0") == {"ips": [{"address": "10.0.0.2/24"}]}
    assert calls(tmp_path) == ["ADD", "VERSION", "ADD"]


def test_a_plugin_that_knows_the_version_is_called_once(plugin, tmp_path):
    plugin("true").run("ADD", CONF, "1.1.0")
    assert calls(tmp_path) == ["ADD"]


def test_an_older_plugin_is_not_asked_for_newer_commands(plugin, tmp_path):
    assert not plugin(OLD).knows("STATUS")
    assert plugin(OLD).knows("CHECK")


def test_its_error_is_ours(plugin):
    script = """echo '{"code": 110, "msg": "no address left", "details": "all 253"}'; exit 1"""
    with pytest.raises(CniError, match="ipam ADD: no address left") as caught:
        plugin(script).run("ADD", CONF, "1.1.0")
    assert (caught.value.code, caught.value.details) == (110, "all 253")


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo panic; exit 2", "ipam ADD: exit 2, and no JSON"),
        ("echo panic", "ipam ADD: exit 0, and no JSON"),
        ("exit 3", "exit 3 without an error in JSON"),
        ("kill -9 $$", "exit -9 without an error in JSON"),
        ("echo '{\"msg\": 1}'; exit 1", "exit 1 without an error in JSON"),
    ],
)
def test_a_plugin_that_does_not_speak_cni(plugin, script, text):
    with pytest.raises(CniError, match=text) as caught:
        plugin(script).run("ADD", CONF, "1.1.0")
    assert caught.value.code == 102


def test_a_plugin_that_is_not_there(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no program")
    for name in ("nowhere", "folder", "text"):
        with pytest.raises(
            CniError, match=f'ipam.type = "{name}": no such plugin; allowed: a program in CNI_PATH'
        ):
            Delegate(name, environment(tmp_path), "ipam.type")


def test_descriptors_are_not_lost(plugin):
    found = plugin("true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        found.run("DEL", CONF, "1.1.0")
    assert len(os.listdir("/proc/self/fd")) == before


def test_ips_that_ipam_does_not_know_are_refused(plugin, tmp_path):
    plugin("""echo '{"ips": [{"address": "10.0.0.7/24"}]}'""")
    keys = {"ipam": {"type": "ipam"}, "runtimeConfig": {"ips": ["10.0.0.9/24"]}}
    ipam = Ipam(parse(CONF | keys, "1.1.0"), environment(tmp_path))
    with pytest.raises(
        CniError, match=r"runtimeConfig.ips = .10.0.0.9/24.: ipam gave 10.0.0.7 instead"
    ) as caught:
        ipam.add()
    assert caught.value.code == 2


def own(**keys):
    return Ipam(parse(CONF | keys, "1.1.0"), environment()).add()


def test_without_ipam_there_may_be_no_address():
    assert own() == {"interfaces": [], "ips": [], "routes": [], "dns": {}}


def test_without_ipam_the_configuration_has_the_addresses():
    addresses = [{"address": "10.0.0.2/24"}, {"address": "fd00::2/64"}]
    given = own(addresses=addresses, gateway="10.0.0.1", routes=[{"dst": "0.0.0.0/0"}])
    assert given["ips"] == [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}, {"address": "fd00::2/64"}]
    assert given["routes"] == [{"dst": "0.0.0.0/0"}]


def test_without_ipam_the_runtime_has_the_last_word():
    given = own(addresses=[{"address": "10.0.0.2/24"}], runtimeConfig={"ips": ["10.0.0.9/24"]})
    assert given["ips"] == [{"address": "10.0.0.9/24"}]
    with pytest.raises(CniError, match=r"runtimeConfig\.ips"):
        own(runtimeConfig={"ips": ["10.0.0.300"]})
