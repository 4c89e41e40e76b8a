"""bench/peers: the pairs reach each other, and the kernel takes all of it away with the script."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.peers.bridge import Bridge
from bench.peers.containers import Containers
from bench.peers.hosts import Host
from bench.peers.nftables import LIST, SET, Nftables
from bench.peers.ovs_pair import OvsPair
from bench.peers.veth import Veth
from tests import leaks

ROOT = Path(__file__).resolve().parents[2]
ENDED_SECONDS_MAX = 10.0
SCRIPT = """
import time
from bench.peers.bridge import Bridge
from bench.peers.containers import Containers
from bench.peers.hosts import stop_on_signals
stop_on_signals()
with Bridge(), Containers() as dpu:
    dpu.wait_for_standby()
    print("there", flush=True)
    time.sleep(60)
"""

pytestmark = [
    pytest.mark.root,
    pytest.mark.package("iproute2", "iputils-ping", "ethtool", "nftables", "openvswitch-switch-dpdk"),
]


@pytest.mark.parametrize("peer", [Veth, Bridge, OvsPair, Nftables, Containers])
def test_a_pair_reaches_each_other(peer):
    with peer() as pair:
        assert "3 received" in pair.client.run("ping", "-c", "3", "-i", "0.05", "-W", "2", pair.address)


def test_the_counters_of_the_containers_add_up():
    with Containers() as dpu:
        dpu.set_rules(300)
        assert dpu.call("status")["rules"] == 300
        dpu.client.run("ping", "-c", "3", "-i", "0.05", "-W", "2", dpu.address)
        balance = dpu.stats()["balance"]
        assert balance["received"] >= 8  # three requests, three answers, ARP both ways
        assert balance["dropped"] == 0


@pytest.mark.parametrize("form", [LIST, SET])
def test_nftables_drops_what_its_last_rule_names(form):
    with Nftables(rules=20, form=form) as pair:
        host = pair.server.run("cat", "/sys/class/net/eth0/address").strip()
        pair.client.run("ip", "route", "add", "198.51.100.0/24", "dev", "eth0")
        pair.client.run("ip", "neighbour", "add", "198.51.100.19", "lladdr", host, "dev", "eth0")
        connect = f"exec 3<>/dev/tcp/198.51.100.19/{1024 + 19}"
        pair.client.start("timeout", "0.2", "bash", "-c", connect).wait()
        assert "counter packets 1 bytes 60" in pair.listed()
        assert pair.listed().count("drop") == (20 if form == LIST else 1)


def test_a_failing_command_shows_what_it_printed():
    with Host() as host, pytest.raises(RuntimeError, match="exit status 3\nno"):
        host.run("sh", "-c", "echo no; exit 3")


def test_a_host_ends_with_its_processes():
    with Host() as host:
        process = host.start("sleep", "60")
    assert process.returncode is not None
    assert not Path(f"/proc/{host.pid}").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["KILL", "TERM", "INT"])
def test_a_script_that_is_ended_leaves_nothing(sign, socket_dir):
    before = set(leaks.processes())
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(socket_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert script.stdout.readline() == b"there\n"
    finally:
        subprocess.run(["kill", f"-{sign}", str(script.pid)], check=True)
        script.wait(ENDED_SECONDS_MAX)
        script.stdout.close()
    end = time.monotonic() + ENDED_SECONDS_MAX
    while set(leaks.processes()) - before and time.monotonic() < end:
        time.sleep(0.05)
    assert set(leaks.processes()) - before == set()
    if sign != "KILL":
        assert list(socket_dir.iterdir()) == []
