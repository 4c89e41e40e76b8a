"""Bad input on a real system: one clear error, the right exit code, and nothing is changed."""

import socket
import subprocess
import sys

import pytest

from tests.live.daemon import ROOT, dpu_command, environment

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2")]

NOBODY = 65534
TAKEN = '[[port]]\nname = "taken"\nkind = "tap"\nifname = "lo"\n'
MISSING = '[[port]]\nname = "x"\nkind = "tap"\nnetns = "no-such"\nifname = "eth0"\n'


def everything(dpu, container):
    """What must not change: the configuration and the interfaces, here and in a container.

    One that was taken away and made again has another index.
    """
    return (
        dpu.call("config.get")["toml"],
        socket.if_nameindex(),
        [name for _, name in container.inside(socket.if_nameindex)],
        dpu.call("port.show"),
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("x", "--netns", "no-such"),
            "port 'x': open /run/netns/no-such: network namespace 'no-such': No such file",
        ),
        (("x", "--netns", "/etc/passwd"), "network namespace '/etc/passwd': Invalid argument"),
        (("x", "--netns", "pid:4194304"), "network namespace 'pid:4194304': No such file or directory"),
        (("x", "--netns", "{netns}"), "port a has an interface of this name in the same namespace"),
        (("a", "--netns", "{netns}"), "another port has this name"),
        (("x", "--netns", "{netns}", "--ifname", "lo"), "interface 'lo' exists already in netns"),
        (("x", "--ifname", "sixteen-letters-"), "1 to 15 octets"),
        (("x", "--ifname", "a/b"), "ifname"),
        (("x", "--address", "10.0.0.2"), "address"),
        (("x", "--address", "10.0.0.2/33"), "address[0]"),
        (("x", "--address", "10.0.0.300/24"), "IPv4 or IPv6 host addresses with a prefix length"),
        (("x", "--mtu", "67"), "68..65535 octets"),
        (("x", "--mtu", "65536"), "68..65535 octets"),
        (("x", "--mac", "01:00:5e:00:00:01"), "a unicast MAC address"),
        (("x", "--mac", "rubbish"), "a unicast MAC address"),
        (("x", "--vlan", "4095"), "1..4094"),
        (("x", "--queues", "65"), "queues"),
        (("x", "--kind", "vfio"), "kind"),
        (("a b",), "name"),
        (("x", "--route", "default", "10.9.9.9"), "in no network of the port's addresses"),
    ],
)
def test_port_add_is_refused(dpu, words, text):
    a = dpu.container("a")
    before = everything(dpu, a)
    fill = {"netns": a.netns}
    words = [word.format(**fill) for word in words]
    for key, default in (("--kind", "tap"), ("--ifname", "eth0")):
        words += [] if key in words else [key, default]
    done = dpu.cli("port", "add", *words)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("dpu: ")
    assert text.format(**fill) in done.stderr
    assert "Traceback" not in done.stderr
    assert everything(dpu, a) == before


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--priority", "1", "--in-port", "nobody"), "no such port, there are: a"),
        (("--priority", "65536"), "0..65535"),
        (("--priority", "1", "--dport", "80"), "needs proto = tcp or udp or sctp"),
        (("--priority", "1", "--proto", "tcp", "--dport", "90-80"), "the range ends before it begins"),
        (("--priority", "1", "--src", "10.0.0.1/24"), "src"),
        (("--priority", "1", "--out-port", "a"), 'needs stage = "egress"'),
    ],
)
def test_rule_add_is_refused(dpu, words, text):
    a = dpu.container("a")
    before = everything(dpu, a)
    done = dpu.cli("rule", "add", *words, "--action", "drop")
    assert done.returncode == 1, done.stderr
    assert text in done.stderr
    assert everything(dpu, a) == before


@pytest.mark.parametrize(
    ("bad", "text"), [(TAKEN, "'lo' exists already"), (MISSING, "'no-such': No such file")]
)
def test_apply_does_all_or_nothing(dpu, bad, text):
    a = dpu.container("a")
    before = everything(dpu, a)
    good = f'[[port]]\nname = "good"\nkind = "tap"\nnetns = "{a.netns}"\nifname = "eth9"\n'
    done = dpu.cli("apply", "-", input=good + bad)
    assert done.returncode == 1
    assert text in done.stderr
    assert "nothing was changed" in done.stderr
    assert everything(dpu, a) == before


def test_nobody_there(dpu):
    assert dpu.cli("port", "del", "nobody").returncode == 1
    assert dpu.cli("rule", "del", "nobody").returncode == 1
    assert "no port 'nobody'" in dpu.cli("port", "show", "nobody").stderr


def run_daemon(daemon, text="", wrap=()):
    """`dpu run` that must end on its own; returns (exit code, what it said)."""
    daemon.folder.chmod(0o777)
    process = daemon.spawn(daemon.config_file(text), wrap=wrap)
    code = process.wait(30)
    assert daemon.processes() == []
    assert not daemon.socket.exists()
    return code, daemon.log()


@pytest.mark.parametrize(
    ("bad", "text"), [(TAKEN, "'lo' exists already"), (MISSING, "'no-such': No such file")]
)
def test_run_on_a_file_that_the_system_refuses(new_daemon, bad, text):
    before = socket.if_nameindex()
    code, said = run_daemon(new_daemon(), bad)
    assert code == 1
    assert text in said
    assert "Traceback" not in said
    assert socket.if_nameindex() == before


def test_run_as_somebody_else(new_daemon):
    wrap = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    look = "import os, sys; os.stat(sys.executable), os.stat('dpu_runtime/cli/main.py')"
    reachable = subprocess.run([*wrap, sys.executable, "-c", look], cwd=ROOT, check=False).returncode == 0
    if not reachable:  # an interpreter or a checkout that only root can read: then without root's powers
        wrap = ("setpriv", "--bounding-set=-all")
    code, said = run_daemon(new_daemon(), TAKEN.replace('"lo"', '"dputest0"'), wrap)
    assert code == 1
    assert "root" in said
    assert "Traceback" not in said


def test_run_without_the_right_to_make_interfaces(new_daemon):
    code, said = run_daemon(
        new_daemon(), TAKEN.replace('"lo"', '"dputest0"'), ("setpriv", "--bounding-set=-all")
    )
    assert code == 1
    assert (
        "interface 'dputest0': Operation not permitted; a tap port needs CAP_NET_ADMIN (run as root)" in said
    )


def test_run_without_the_tun_device(new_daemon, tmp_path):
    wrap = ("unshare", "--mount", "sh", "-ec", f'mount --bind {tmp_path} /dev/net; exec "$@"', "sh")
    code, said = run_daemon(new_daemon(), wrap=wrap)
    assert code == 1
    assert (
        "dpu: open /dev/net/tun: No such file or directory; the daemon needs the kernel's tun device" in said
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[port]]\nname = 'a'", "port[0].kind: missing; allowed: tap"),
        ("[[prot]]\nname = 'a'", "prot"),
        ("[[port]]\nname = 'a'\nkind = 'tap'\nifname = 'e'\nmtu = 'big'", "68..65535 octets"),
        ("[runtime]\nworkers = [4096]", "no CPU 4096"),
        ("[runtime]\nsocket = 'here'", "an absolute path of at most 107 octets"),
        ("nonsense", ":1: not TOML"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
@pytest.mark.parametrize("verb", [("check",), ("run", "-c")], ids=["check", "run"])
def test_bad_files(tmp_path, verb, text, said):
    path = tmp_path / "bad.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = subprocess.run(
        dpu_command(*verb, path), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_cannot_be_read(tmp_path):
    for path, said in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        for verb in (("check",), ("run", "-c")):
            done = subprocess.run(
                dpu_command(*verb, path),
                cwd=ROOT,
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 1
            assert f"dpu: {path}: {said}" in done.stderr


def test_usage(tmp_path):
    for words in ((), ("fly",), ("port", "add", "x"), ("rule", "add", "--action", "jump", "--priority", "1")):
        done = subprocess.run(
            dpu_command(*words), cwd=ROOT, env=environment(), capture_output=True, check=False
        )
        assert done.returncode == 2
    done = subprocess.run(
        dpu_command("status", "--socket", tmp_path / "none"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        3,
        f"dpu: no daemon on {tmp_path}/none: No such file or directory\n",
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--socket", "vm.sock"), 'dpu: socket = "vm.sock": not an absolute path'),
        (("--socket", f"/{'x' * 107}"), "has 108 octets; allowed: an absolute path of at most 107 octets"),
        (("--socket", "{folder}/file"), "dpu: port 'x': bind {folder}/file: it exists, and is no socket"),
        (("--socket", "{folder}"), "dpu: port 'x': bind {folder}: it exists, and is no socket"),
        (("--socket", "{folder}/live"), "dpu: port 'x': bind {folder}/live: somebody listens on it"),
        (("--socket", "{folder}/none/s"), "dpu: port 'x': bind {folder}/none/s: No such file or directory"),
        (("--socket", "{folder}/file/s"), "dpu: port 'x': stat {folder}/file/s: Not a directory"),
        (("--socket", "{folder}/vm"), "port vm has it"),
        (("--socket", "{folder}/vm", "--client"), "port vm has it"),
        (("--socket", "{daemon}"), "is the daemon's own"),
        (("--client",), "dpu: socket: missing; allowed: an absolute path of at most 107 octets"),
        (("--socket", "{folder}/s", "--client", "--ifname", "eth0"), 'dpu: ifname = "eth0": unknown key'),
        (("--socket", "{folder}/s", "--queues", "0"), "dpu: queues = 0: allowed: 1 to 16"),
        (("--socket", "{folder}/s", "--queues", "17"), "dpu: queues = 17: allowed: 1 to 16"),
        (("--socket", "{folder}/s", "--xconnect", "a"), "no such vhost_user port, there are: vm, x"),
    ],
)
def test_vhost_user_port_add_is_refused(dpu, socket_dir, words, text):
    a = dpu.container("a")
    dpu.call("port.add", name="vm", kind="vhost_user", socket=f"{socket_dir}/vm")
    (socket_dir / "file").touch()
    fill = {"folder": socket_dir, "daemon": dpu.socket}
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(f"{socket_dir}/live")
        live.listen()
        before = everything(dpu, a), sorted(socket_dir.iterdir())
        words = [word.format(**fill) for word in words]
        done = dpu.cli("port", "add", "x", "--kind", "vhost_user", *words)
        assert done.returncode == 1, done.stderr
        assert text.format(**fill) in done.stderr
        assert "Traceback" not in done.stderr
        assert (everything(dpu, a), sorted(socket_dir.iterdir())) == before


def test_a_port_that_another_names_stays(dpu, socket_dir):
    for name in ("vm", "other"):
        words = ("--kind", "vhost_user", "--socket", f"{socket_dir}/{name}", "--xconnect", "vm")
        assert dpu.cli("port", "add", name, *words).returncode == 0
    done = dpu.cli("port", "del", "vm")
    assert (done.returncode, done.stderr) == (1, "dpu: port 'vm' is named by xconnect of port other\n")
    assert len(dpu.call("port.show")) == 2
