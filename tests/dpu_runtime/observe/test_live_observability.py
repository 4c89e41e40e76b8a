"""What tcpdump, ethtool and ip see of a port, inside the container."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import threading
from collections import Counter

import pytest

from tests.live.daemon import Container, wait_until
from tests.live.test_interfaces import Cable
from tests.live.test_traffic import checksum_errors, transfer

pytestmark = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.package("iproute2", "iputils-ping", "ethtool", "tcpdump"),
]

TRANSFER_BYTES = 4 << 20
DATAGRAMS = 10


@contextlib.contextmanager
def tcpdump(container, ifname="eth0"):
    """Run `tcpdump -vv` on what comes in; afterwards `seen` counts checksums by what it says of them.

    It is ended when it has shown the datagrams of `exchange`, which come last.
    """
    argv = ("tcpdump", "-i", ifname, "-vv", "-n", "-l", "-Q", "in", "--immediate-mode", "tcp or udp")
    process = container.popen(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "listening on" in process.stderr.readline()
    seen, lines = Counter(), []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reader.start()
    yield seen
    wait_until(lambda: sum("UDP, length 100" in line for line in lines) >= DATAGRAMS)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    reader.join(10)
    text = "".join(lines)
    seen["good"] = len(re.findall(r"\(correct\)|\[udp sum ok\]", text))
    seen["bad"] = len(re.findall(r"\(incorrect|\[bad udp cksum", text))


def exchange(sender, receiver):
    """TCP and UDP from one container to another."""
    assert transfer(sender, receiver, TRANSFER_BYTES)
    with sender.socket(socket.SOCK_DGRAM) as out:
        for _ in range(DATAGRAMS):
            out.sendto(bytes(100), (receiver.ipv4, 7))
    assert wait_until(lambda: receiver.snmp("Udp", "NoPorts") >= DATAGRAMS)
    assert checksum_errors(receiver) == checksum_errors(sender) == 0


def test_tcpdump_shows_checksums_that_are_owed_as_bad(dpu):
    """As over the kernel's own veth: tcpdump is not told that no one computed them, and nobody needs them."""
    a, b = dpu.container("a"), dpu.container("b")
    with tcpdump(b) as seen:
        exchange(a, b)
    assert seen["bad"] > 10
    assert dpu.port("b")["tx_checksums"] == 0


def test_tcpdump_over_veth_shows_the_same(dpu, namespaces):
    a, b = (Container(dpu.daemon, namespaces, name, number, False) for number, name in ((1, "a"), (2, "b")))
    a.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b.netns)
    for container in (a, b):
        container.run("ip", "addr", "add", f"{container.ipv4}/24", "dev", "eth0")
        container.run("ip", "link", "set", "eth0", "up")
    with tcpdump(b) as seen:
        exchange(a, b)
    assert seen["bad"] > 10


@pytest.mark.parametrize("way", ["offload = false", "ethtool -K"])
def test_tcpdump_shows_good_checksums_where_none_is_owed(dpu, way):
    a, b = dpu.container("a"), dpu.container("b", offload=way != "offload = false")
    if way == "ethtool -K":
        a.run("ethtool", "-K", "eth0", "tx", "off")  # takes TSO along
    with tcpdump(b) as seen:
        exchange(a, b)
    assert seen["bad"] == 0
    assert seen["good"] > 20


@pytest.mark.parametrize("offload", [True, False])
def test_tcpdump_behind_an_af_packet_port(dpu, namespaces, offload):
    a = dpu.container("a")
    inner = Cable(dpu, namespaces, "af_packet").attach(offload=offload).inner
    with tcpdump(inner) as seen:
        exchange(a, inner)
    assert seen["good"] + seen["bad"] > 20
    assert bool(seen["bad"]) == offload


def features(container):
    """`ethtool -k` as a dictionary."""
    lines = container.run("ethtool", "-k", "eth0").stdout.splitlines()[1:]
    return {key.strip(): value.split()[0] for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("offload", [True, False])
def test_ethtool_shows_what_is_offloaded(dpu, offload):
    a = dpu.container("a", offload=offload)
    shown = features(a)
    for feature in (
        "tx-checksumming",
        "tcp-segmentation-offload",
        "tx-tcp6-segmentation",
        "tx-udp-segmentation",
    ):
        assert shown[feature] == ("on" if offload else "off"), feature
    assert shown["generic-receive-offload"] == "on"
    driver = a.run("ethtool", "-i", "eth0").stdout
    assert "driver: tun" in driver
    assert "supports-statistics: no" in driver


def test_a_tap_interface_has_no_statistics_of_its_driver(dpu):
    """What there is instead: the interface's own, which agree with the port's."""
    a, b = dpu.container("a"), dpu.container("b")
    statistics = a.run("ethtool", "-S", "eth0", check=False)
    assert (statistics.returncode, statistics.stdout.strip()) == (94, "no stats available")
    exchange(a, b)
    a.ping(b.ipv4, 20, "-i", 0.002, "-s", 3000)
    assert dpu.settled()
    for container in (a, b):
        port = dpu.port(container.name)
        assert wait_until(lambda c=container, p=port: interface_counters(c) == p_counters(p)), (
            interface_counters(container),
            port,
        )


def interface_counters(container):
    """`ip -s link`, as the port sees it: what the interface sends, the port receives."""
    (link,) = json.loads(container.run("ip", "-s", "-j", "link", "show", "eth0").stdout)
    rx, tx = link["stats64"]["rx"], link["stats64"]["tx"]
    assert (rx["errors"], rx["dropped"], tx["errors"], tx["dropped"]) == (0, 0, 0, 0)
    return tx["packets"], tx["bytes"], rx["packets"], rx["bytes"]


def p_counters(port):
    """The same of `dpu stats`."""
    return tuple(port[key] for key in ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes"))
