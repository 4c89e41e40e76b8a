"""Containers on ports that are attached at run time: where their interface is, and how they end."""

import collections
import contextlib
import itertools
import json
import os
import random
from pathlib import Path

import pytest

from dpu_runtime.config.errors import RpcError
from tests.live.daemon import wait_until

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

CYCLES = 60
LOOKS = 50  # 20 ms apart
THREADS_MAX = 12  # asyncio has as many as CPUs and four more


def names(daemon):
    return [view["config"]["name"] for view in daemon.call("port.show")]


def test_attach_and_detach_by_process(dpu, processes):
    a = dpu.container("a")
    pid = processes.start()
    options = ("--address", "10.7.0.9/24", "--route", "default", "10.7.0.1", "--mtu", 1400, "--spoof-check")
    done = dpu.cli("attach", "--pid", pid, *options)
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    a.ping("10.7.0.9")
    config = dpu.call("port.show", name=name)[0]["config"]
    assert (config["netns"], config["ifname"], config["owner"]) == (f"pid:{pid}", "eth0", "attach")
    assert (config["mtu"], config["spoof_check"]) == (1400, True)
    for again in (("--pid", pid), ("--netns", f"/proc/{pid}/ns/net"), ("--pid", pid, "--name", "other")):
        refused = dpu.cli("attach", *again)
        assert refused.returncode == 1
        assert refused.stderr == f"dpu: eth0 in netns 'pid:{pid}' is attached already, as port {name}\n"
    second = dpu.cli("-j", "attach", "--pid", pid, "--ifname", "eth1")
    assert json.loads(second.stdout)["name"] in names(dpu)
    assert dpu.cli("detach", "--pid", pid, "--ifname", "eth0").stdout == f"{name}\n"
    assert json.loads(dpu.cli("-j", "detach", "--pid", pid).stdout) == json.loads(
        second.stdout.replace('"name": ', '"names": [').replace("\n}", "]}")
    )
    assert dpu.cli("detach", "--pid", pid).stdout == "nothing was attached\n"
    assert dpu.cli("detach", name).stdout == "nothing was attached\n"
    assert names(dpu) == ["a"]


def test_attach_by_namespace_path(dpu, namespaces):
    netns = namespaces.create(ipv6=False)
    name = dpu.cli("attach", "--netns", f"/var/run/netns/{netns}", "--name", "mine").stdout.strip()
    assert name == "mine"
    refused = dpu.cli("attach", "--netns", netns)
    assert refused.stderr == f"dpu: eth0 in netns '{netns}' is attached already, as port mine\n"
    assert dpu.cli("detach", "--netns", f"/run/netns/{netns}").stdout == "mine\n"
    again = dpu.cli("attach", "--netns", netns).stdout
    assert again.startswith(f"{netns[:21]}-")
    assert dpu.cli("detach", "--netns", netns).stdout == again


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("--netns", "nowhere"),
            "network namespace 'nowhere': /run/netns/nowhere: No such file",
        ),
        (
            ("--netns", "/run/none/x"),
            "network namespace '/run/none/x': /run/none/x: No such file",
        ),
        (("--pid", 4194305), "network namespace 'pid:4194305': /proc/4194305/ns/net: No such file"),
        (("--pid", os.getpid()), f"network namespace 'pid:{os.getpid()}' is the host's own; `dpu port add`"),
    ],
)
def test_attach_to_what_is_no_container(dpu, words, text):
    done = dpu.cli("attach", *words)
    assert done.returncode == 1
    assert done.stderr.startswith(f"dpu: {text}")
    assert names(dpu) == []


def test_a_killed_container_leaves_nothing(dpu, processes):
    a, pid = dpu.container("a"), processes.start()
    name = dpu.cli("attach", "--pid", pid, "--address", "10.7.0.9/24").stdout.strip()
    a.ping("10.7.0.9")
    dpu.rule(name="with-it", out_port=name, stage="egress", proto="udp")
    processes.kill(pid)
    assert wait_until(lambda: names(dpu) == ["a"])
    assert dpu.call("rule.show") == []
    line = f"port {name} of attach is detached: its interface is gone; with rules with-it"
    assert dpu.log().count(line) == 1


def test_a_port_without_owner_stays_when_its_container_is_killed(dpu, processes):
    pid = processes.start()
    dpu.call("port.add", name="lost", kind="tap", netns=f"pid:{pid}", ifname="eth0")
    dpu.call("port.add", name="owned", kind="tap", netns=f"pid:{pid}", ifname="eth1", owner="me")
    processes.kill(pid)
    assert wait_until(lambda: names(dpu) == ["lost"])
    assert dpu.call("port.show", name="lost")[0]["info"]["state"].startswith("lost:")


def used(pid):
    """(descriptors, references to network namespaces) of a process."""
    targets = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(fd))
    return len(targets), sum(target.startswith("net:") for target in targets)


def settled(look):
    """What `look()` returns once it is the same LOOKS times in a row: what lives briefly is closed then."""
    seen = collections.deque(maxlen=LOOKS)

    def same():
        seen.append(look())
        return len(seen) == LOOKS and len(set(seen)) == 1

    assert wait_until(same), f"it does not settle: {list(seen)}"
    return seen[-1]


def no_more(used_after, used_before):
    """Whether each number is at most what it was."""
    pairs = zip(itertools.chain(*used_after), itertools.chain(*used_before), strict=True)
    return all(after <= before for after, before in pairs)


def threads(pid):
    """How many threads a process has; asyncio adds some of its own up to a limit, as it gets busier."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def rows(daemon):
    """What is in the tables: ports, rules, learned addresses."""
    status = daemon.call("status")
    return status["ports"], status["rules"]


def test_cycles_of_attach_detach_and_kill_leave_nothing(dpu, processes):
    a, b = dpu.container("a"), dpu.container("b")
    ping = a.popen("ping", "-n", "-q", "-i", 0.01, "-c", 500, b.ipv4, stdout=-1, text=True)
    random_, live = random.Random(4), {}

    def cycle(number):
        pid = processes.start()
        live[pid] = f"c{number}"
        keys = {
            "kind": "tap",
            "netns": f"pid:{pid}",
            "ifname": "eth0",
            "address": [f"10.7.1.{number + 1}/24"],
        }
        dpu.call("port.add", name=live[pid], owner=f"o{number}", **keys)
        if random_.random() < 0.5:
            dpu.rule(out_port=live[pid], stage="egress", proto="udp")
        if len(live) > 4:
            pid = random_.choice(list(live))
            name = live.pop(pid)
            if random_.random() < 0.5:
                assert dpu.call("port.detach", name=name) == {"names": [name]}
            processes.kill(pid)

    def end():
        for pid in list(live):
            processes.kill(pid)
        live.clear()
        assert wait_until(lambda: names(dpu) == ["a", "b"])

    for number in range(10):  # what is made once is made by now
        cycle(number)
    end()
    pids = dpu.process.pid, dpu.data_plane()
    rows_before, before = rows(dpu), settled(lambda: tuple(map(used, pids)))
    for number in range(CYCLES):
        cycle(number)
    end()
    assert rows(dpu) == rows_before
    after = settled(lambda: tuple(map(used, pids)))
    assert no_more(after, before), f"descriptors and namespaces: {before} before, {after} after"
    assert max(map(threads, pids)) <= THREADS_MAX
    assert " 0% packet loss" in ping.communicate(timeout=60)[0]


def test_relocate_follows_an_interface_that_was_moved(dpu, namespaces):
    a, b = dpu.container("a"), dpu.container("b")
    there = namespaces.create(ipv6=False)
    place = {"name": "b", "netns": there, "ifname": "eth5"}
    with pytest.raises(
        RpcError, match="port 'b': relocate: its interface is 'eth0', not 'eth5'; nothing was"
    ):
        dpu.call("port.relocate", **place)
    b.run("ip", "link", "set", "eth0", "netns", there, "name", "eth5")
    with pytest.raises(RpcError, match=f"'eth5' is not in netns '{b.netns}'"):
        dpu.call("port.relocate", **place | {"netns": b.netns})
    with pytest.raises(RpcError, match="network namespace 'nowhere': No such file"):
        dpu.call("port.relocate", **place | {"netns": "nowhere"})
    dpu.call("port.relocate", **place, address=["10.7.0.9/24"])
    assert dpu.call("port.show", name="b")[0]["config"]["netns"] == there
    namespaces.run(there, ["sh", "-ec", "ip addr add 10.7.0.9/24 dev eth5; ip link set eth5 up"])
    a.ping("10.7.0.9")
    namespaces.run(there, ["ip", "link", "del", "eth5"])
    with pytest.raises(RpcError, match="TUNGETIFF: interface 'eth5': File descriptor in bad state"):
        dpu.call("port.relocate", **place)
    assert dpu.call("port.detach", name="b") == {"names": ["b"]}
