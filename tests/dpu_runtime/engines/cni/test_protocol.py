"""What a runtime may send and what it gets: environment, standard input, versions, errors."""

import json
import random
import subprocess
import sys

import pytest

from dpu_runtime.engines.cni.main import INPUT_BYTES_MAX
from dpu_runtime.engines.cni.result import VERSIONS
from tests.conventions import ROOT
from tests.dpu_runtime.engines.cni.runtime import CallError, Container, Runtime

ANOTHER = "/proc/self/ns/uts"  # no network namespace, but one that is not our own either
CONF = {"cniVersion": "1.1.0", "name": "net", "type": "dpu-cni", "socket": "/nowhere/dpu.sock"}
ATTACHMENT = {"CNI_CONTAINERID": "c1", "CNI_NETNS": ANOTHER, "CNI_IFNAME": "eth0"}


@pytest.fixture
def error(runtime):
    """The error that a call ends with: `error("ADD", conf, CNI_NETNS=None)`."""

    def call(command, conf=CONF, **variables):
        with pytest.raises(CallError) as caught:
            runtime.call(command, conf, **ATTACHMENT | variables)
        assert set(caught.value.answer) <= {"cniVersion", "code", "msg", "details"}
        return caught.value

    return call


def test_the_program_prints_its_answer_and_nothing_else(tmp_path):
    program = Runtime(tmp_path)
    done = program.spawn("VERSION", b"")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["cniVersion"] == "1.1.0"
    done = program.spawn("DEL", CONF | {"dataDir": str(tmp_path)}, **ATTACHMENT)
    assert (done.returncode, done.stderr) == (1, b"")
    assert json.loads(done.stdout)["code"] == 11


@pytest.mark.parametrize("text", [b"", b"{}", b'{"cniVersion": "0.4.0"}', b'{"cniVersion": "9.9.9"}'])
def test_version(runtime, text):
    answer = runtime.call("VERSION", text)
    asked = json.loads(text or "{}").get("cniVersion")
    assert answer["cniVersion"] == (asked if asked in VERSIONS else "1.1.0")
    assert answer["supportedVersions"] == list(VERSIONS)


def test_version_needs_nothing_else(runtime):
    """libcni fills in the parameters with a word that is none, and podman drops networks that mind."""
    dummies = dict.fromkeys(("CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS"), "dummy")
    assert runtime.call("VERSION", b'{"cniVersion": "1.0.0"}', **dummies)["cniVersion"] == "1.0.0"


@pytest.mark.parametrize("command", ["", "add", "DELETE", "ADD ", None])
def test_a_command_that_is_not_known(error, command):
    refused = error(command)
    assert refused.code == 4
    assert "CNI_COMMAND" in str(refused)
    assert "ADD, DEL, CHECK, STATUS, GC, VERSION" in str(refused)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *((c, n) for c in ("ADD", "CHECK") for n in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")),
        *(("DEL", n) for n in ("CNI_CONTAINERID", "CNI_IFNAME")),
    ],
)
@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_missing(error, command, name, value):
    refused = error(command, **{name: value})
    assert refused.code == 4
    assert f"{name}" in str(refused)
    assert f"{command} needs it" in str(refused)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_CONTAINERID", "../x"),
        ("CNI_CONTAINERID", "-x"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_CONTAINERID", "a:b"),
        ("CNI_CONTAINERID", "x" * 250),
        ("CNI_IFNAME", "x" * 16),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_NETNS", "net"),
        ("CNI_NETNS", "/proc/self/ns/net"),
        ("CNI_ARGS", "MAC"),
        ("CNI_ARGS", "=x"),
        ("CNI_ARGS", "COLOUR=red"),
    ],
)
def test_a_variable_that_is_wrong(error, name, value):
    refused = error("ADD", **{name: value})
    assert refused.code == 4
    assert name in str(refused)
    assert value.partition("=")[0][:20] in str(refused)


def test_args_that_may_be_unknown(error):
    args = "IgnoreUnknown=1;COLOUR=red;K8S_POD_NAME=web"
    assert error("ADD", CNI_ARGS=args, CNI_NETNS="/nowhere").code == 3
    assert error("ADD", CNI_ARGS="K8S_POD_NAME=web", CNI_NETNS="/nowhere").code == 3


def test_a_container_that_is_gone(error):
    for path in ("/run/netns/is-not-there", "/proc/999999999/ns/net", "/dev/null/x"):
        refused = error("ADD", CNI_NETNS=path)
        assert refused.code == 3
        assert path in str(refused)


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "STATUS", "GC"])
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" \n",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{}",
        b'{"cniVersion": NaN}',
        b"[" * 100_000,
        json.dumps(CONF).encode()[:-1],
    ],
)
def test_input_that_is_no_configuration(error, command, text):
    assert error(command, text, CNI_NETNS=ANOTHER).code == 6


def test_input_without_an_end_is_not_read_to_its_end(error):
    refused = error("DEL", json.dumps(CONF).encode() + b" " * (2 * INPUT_BYTES_MAX))
    assert refused.code == 6
    assert str(INPUT_BYTES_MAX) in str(refused)


@pytest.mark.parametrize("version", ["0.2.0", "2.0.0", "1.0", 1, None, {}, "", "\n"])
@pytest.mark.parametrize("command", ["ADD", "DEL", "STATUS"])
def test_a_version_that_is_not_known(error, command, version):
    refused = error(command, CONF | {"cniVersion": version})
    assert refused.code == 1
    assert "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0" in str(refused)


def test_no_version_means_the_first_one(error):
    conf = {key: value for key, value in CONF.items() if key != "cniVersion"}
    assert '"0.1.0"' in str(error("ADD", conf))


@pytest.mark.parametrize(("command", "version"), [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")])
def test_a_command_that_is_newer_than_the_version(error, command, version):
    refused = error(command, CONF | {"cniVersion": version})
    assert refused.code == 1
    assert command in str(refused)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_error_has_the_version_it_was_asked_in(error, version):
    assert error("DEL", CONF | {"cniVersion": version, "socket": 1}).answer["cniVersion"] == version


def test_commands_out_of_order(error):
    assert error("CHECK").code == 7  # without a prevResult
    assert "valid-attachments" in str(error("GC"))
    assert error("GC").code == 7


def test_without_a_daemon(error, runtime, tmp_path):
    conf = CONF | {"dataDir": str(tmp_path / "data")}
    assert error("STATUS", conf).code == 50
    for command in ("ADD", "DEL"):
        refused = error(command, conf)
        assert refused.code == 11
        assert "/nowhere/dpu.sock" in str(refused)
    assert not (tmp_path / "data").exists()


def test_input_of_any_kind_gets_an_error_in_json(runtime, tmp_path):
    """Values of wrong types, shuffled keys, cut and changed octets: always an answer, never a trace."""
    chosen = random.Random(1)
    values = [None, True, -1, 1e300, "", "x" * 500, "\0", [], [[]], {}, {"type": "../x"}, [None], [{"a": 1}]]
    keys = ["name", "socket", "ipam", "runtimeConfig", "mtu", "kind", "vlan", "dns", "addresses", "routes"]
    keys += ["cniVersion", "prevResult", "dataDir", "socketDir", "cni.dev/valid-attachments", "args"]
    for _ in range(500):
        conf = CONF | {"dataDir": str(tmp_path / "data")}
        conf |= {key: chosen.choice(values) for key in chosen.sample(keys, 2)}
        text = bytearray(json.dumps(conf).encode())
        if chosen.random() < 0.3:
            text[chosen.randrange(len(text))] = chosen.randrange(256)
        container = Container("is-not-there")
        done = runtime.spawn(
            chosen.choice(["ADD", "DEL", "CHECK", "GC"]), bytes(text), container, CNI_NETNS=ANOTHER
        )
        stderr = done.stderr.decode()
        assert (done.returncode, "Traceback" in stderr) == (1, False), (text, done.stdout, stderr)
        assert json.loads(done.stdout)["code"] in (1, 2, 3, 4, 5, 6, 7, 11, 102), (text, done.stdout)


def test_the_entry_point_is_there():
    assert 'dpu-cni = "dpu_runtime.engines.cni.main:program"' in (ROOT / "pyproject.toml").read_text()


def test_what_is_installed_replaces_a_link_and_needs_nothing_around_it(tmp_path):
    program = tmp_path / "bin" / "dpu-cni"
    program.parent.mkdir()
    program.symlink_to("/nowhere/dpu-cni")
    command = [sys.executable, "-m", "dpu_runtime.engines.cni.install", program.parent]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{program}\n"
    assert [path.name for path in program.parent.iterdir()] == ["dpu-cni"]
    done = subprocess.run(
        [program],
        env={"CNI_COMMAND": "VERSION", "PYTHONHOME": "/x"},
        cwd="/",
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["supportedVersions"] == list(VERSIONS)
