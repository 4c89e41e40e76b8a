"""Debian guests in QEMU on vhost_user ports: their own driver, its offloads, what restarts do to them.

One daemon and two guests for all tests, which come in the order in which they disturb more:

    split    split rings, one queue pair; QEMU listens, the daemon connects
    packed   packed rings, two queue pairs; the daemon listens, QEMU connects
    web      a container on a TAP port
"""

import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dpu_runtime.drivers.vhost_user import features
from tests import netns
from tests.clients.guest import Guest
from tests.conftest import root_lacks
from tests.live.daemon import Container, LiveDaemon, wait_until
from tests.live.pings import Pings
from tests.live.test_traffic import checksum_errors, mean_bytes

pytestmark = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.package("iproute2", "iputils-ping", "iperf3", "ethtool", "curl"),
    pytest.mark.package("qemu-system-x86", "busybox-static", "cpio", "kmod"),
]

GUESTS = ("split", "packed")
ADDRESSES = {"split": "10.7.0.11", "packed": "10.7.0.12"}
MACS = {"split": "02:00:00:00:00:11", "packed": "02:00:00:00:00:12"}
OFFLOADS = features.mask(
    features.VIRTIO_NET_F_CSUM,
    features.VIRTIO_NET_F_GUEST_CSUM,
    features.VIRTIO_NET_F_HOST_TSO4,
    features.VIRTIO_NET_F_HOST_TSO6,
    features.VIRTIO_NET_F_HOST_ECN,
    features.VIRTIO_NET_F_GUEST_TSO4,
    features.VIRTIO_NET_F_GUEST_TSO6,
    features.VIRTIO_NET_F_GUEST_ECN,
    features.VIRTIO_NET_F_MRG_RXBUF,
    features.VIRTIO_F_VERSION_1,
    features.VIRTIO_F_EVENT_IDX,
    features.VIRTIO_F_INDIRECT_DESC,
)
MTU_FRAME_BYTES = 1514
FILE_BYTES = 8 << 20
IPERF_TRIES_MAX = 5
GAP_S_MAX = 2.0  # between two answers, of guests that share two CPUs with everything else
LOST_MAX = 50  # of the pings
RECONNECT_S_MAX = 15.0  # QEMU tries once a second, the daemon backs off


@pytest.fixture(scope="module")
def site():
    """The daemon, the container and the two guests, booted side by side."""
    if root_lacks():
        pytest.skip(root_lacks())
    namespaces = netns.Namespaces()
    guests = {}
    with tempfile.TemporaryDirectory(prefix="dpu-") as name:
        folder = Path(name)
        daemon = LiveDaemon(folder)
        try:
            daemon.start()
            for guest in GUESTS:
                (folder / guest).mkdir()
                path = folder / guest / "port"
                keys = {"socket": str(path), "client": guest == "split", "mac": MACS[guest]}
                daemon.call("port.add", name=guest, kind="vhost_user", **keys)
                how = {"server": True} if guest == "split" else {"packed": True, "queues": 2}
                guests[guest] = Guest(path, folder / guest, MACS[guest], **how)
            web = Container(daemon, namespaces, "web", 1, False).attach()
            for guest, running in guests.items():
                running.ready().set_up(f"{ADDRESSES[guest]}/24")
                running.run("iperf3 -s -D")
            yield SimpleNamespace(daemon=daemon, web=web, guests=guests, folder=folder)
        finally:
            for running in guests.values():
                running.close()
            namespaces.close()
            daemon.close()


@pytest.fixture(autouse=True)
def balanced(site):
    """Every packet is accounted for after each test."""
    yield
    assert site.daemon.settled(), site.daemon.stats()["balance"]


def info(site, guest):
    """What the port of a guest says about its connection."""
    return site.daemon.call("port.show", name=guest)[0]["info"]["vhost_user"]


def iperf(site, guest, *options, seconds=1.5):
    """TCP from the container to a guest; bits per second that arrived.

    The server takes one test at a time, and an emulated guest is slow to end the one before.
    """
    words = ("iperf3", "-c", ADDRESSES[guest], "-t", seconds, "-J", *options)
    for _ in range(IPERF_TRIES_MAX):
        done = json.loads(site.web.run(*words, check=False).stdout)
        if "sum_received" in done["end"]:
            return done["end"]["sum_received"]["bits_per_second"]
        time.sleep(1)
    raise AssertionError(done.get("error", done["end"]))


def answers(site, guest, timeout_s=RECONNECT_S_MAX):
    """Whether a guest answers the container within `timeout_s`."""
    ping = ("ping", "-n", "-c", 1, "-W", 1, ADDRESSES[guest])
    return wait_until(lambda: site.web.run(*ping, check=False).returncode == 0, timeout_s)


@pytest.mark.parametrize("guest", GUESTS)
def test_link_and_what_was_agreed(site, guest):
    running = site.guests[guest]
    assert running.sysfs("carrier") == "1"
    assert running.sysfs("address") == MACS[guest]
    assert running.run("readlink /sys/class/net/eth0/device/driver").strip().endswith("/virtio_net")
    word = running.features()
    assert word & OFFLOADS == OFFLOADS, f"missing: {OFFLOADS & ~word:#x}"
    assert bool(word >> features.VIRTIO_F_RING_PACKED & 1) == (guest == "packed")
    assert bool(word >> features.VIRTIO_NET_F_MQ & 1) == (guest == "packed")
    offloads = running.offloads()
    for name in ("rx-checksumming", "tx-checksumming", "scatter-gather", "tcp-segmentation-offload"):
        assert offloads[name], name
    port = info(site, guest)
    assert (port["ring_format"], port["queue_pairs_live"]) == (
        ("packed", 2) if guest == "packed" else ("split", 1)
    )


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("size", [0, 56, 1472, 9000, 65507])
def test_ping(site, guest, size):
    site.web.ping(ADDRESSES[guest], 3, "-s", size)


def test_ping_from_guest_to_guest(site):
    for one, other in (GUESTS, GUESTS[::-1]):
        site.guests[one].run(f"ping -c 5 -i 0.2 -W 5 {ADDRESSES[other]}")  # addresses are resolved
        out = site.guests[one].run(f"ping -c 3 -i 0.1 -s 4000 {ADDRESSES[other]}")
        assert " 0% packet loss" in out, out


@pytest.mark.parametrize("guest", GUESTS)
def test_large_tcp_packets_cross_in_one_piece(site, guest):
    for direction, options in (("tx", ()), ("rx", ("-R",))):
        before = site.daemon.stats()["ports"]
        assert iperf(site, guest, *options) > 10e6
        assert site.daemon.settled()
        after = site.daemon.stats()["ports"]
        moved = {key: after[guest][key] - before[guest][key] for key in after[guest]}
        assert mean_bytes(moved, direction) > 2 * MTU_FRAME_BYTES, moved
        assert moved["gso_segments"] == moved["tx_checksums"] == 0
        assert after["web"]["gso_segments"] == after["web"]["tx_checksums"] == 0
    assert checksum_errors(site.web) == 0
    assert info(site, guest)["faults"] == {}


def test_tcp_from_guest_to_guest(site):
    before = site.daemon.port("packed")
    out = site.guests["split"].run(f"iperf3 -c {ADDRESSES['packed']} -t 1.5 -J")
    assert json.loads(out)["end"]["sum_received"]["bits_per_second"] > 10e6
    assert site.daemon.settled()
    after = site.daemon.port("packed")
    assert mean_bytes({key: after[key] - before[key] for key in after}, "tx") > 2 * MTU_FRAME_BYTES


@pytest.mark.parametrize("guest", GUESTS)
def test_guest_that_leaves_nothing_undone(site, guest):
    running = site.guests[guest]
    running.run("ethtool -K eth0 tx off tso off gso off")
    try:
        before = site.daemon.port(guest)
        assert iperf(site, guest, "-R") > 10e6
        after = site.daemon.port(guest)
    finally:
        running.run("ethtool -K eth0 tx on tso on gso on")
    assert after["rx_packets"] > before["rx_packets"] + 100
    assert mean_bytes({key: after[key] - before[key] for key in after}, "rx") <= MTU_FRAME_BYTES
    assert checksum_errors(site.web) == 0


@pytest.mark.parametrize("guest", GUESTS)
def test_download_from_a_guest(site, guest):
    running = site.guests[guest]
    running.run(
        f"dd if=/dev/urandom of=/tmp/file bs=64k count={FILE_BYTES >> 16} 2>/dev/null; httpd -p 80 -h /tmp"
    )
    expected = running.run("sha256sum /tmp/file").split()[0]
    out = site.folder / "file"
    site.web.run("curl", "-s", "-m", 20, "-o", out, f"http://{ADDRESSES[guest]}/file")
    assert hashlib.sha256(out.read_bytes()).hexdigest() == expected
    assert out.stat().st_size == FILE_BYTES


@pytest.mark.parametrize("guest", GUESTS)
def test_download_to_a_guest(site, guest):
    data = os.urandom(FILE_BYTES)
    (site.folder / "www").mkdir(exist_ok=True)
    (site.folder / "www" / "file").write_bytes(data)
    words = (sys.executable, "-m", "http.server", "-d", site.folder / "www", "8000")
    server = site.web.popen(*words, stdout=-3, stderr=-3)
    try:
        get = "printf 'GET /file HTTP/1.0\\r\\n\\r\\n'"  # wget of a static busybox cannot resolve
        command = f"{get} | nc {site.web.ipv4} 8000 | tail -c {FILE_BYTES} | sha256sum"
        assert wait_until(
            lambda: site.web.run("curl", "-s", site.web.ipv4 + ":8000", check=False).returncode == 0
        )
        assert site.guests[guest].run(command).split()[0] == hashlib.sha256(data).hexdigest()
    finally:
        server.terminate()
        server.wait(10)


@pytest.mark.parametrize("guest", GUESTS)
def test_killed_data_plane_is_replaced_under_traffic(site, guest):
    daemon = site.daemon
    daemon.wait_for_standby()
    before = daemon.data_plane()
    stream = site.web.popen("iperf3", "-c", ADDRESSES[guest], "-t", 3, "-J", stdout=-1, text=True)
    ping = Pings(site.web, ADDRESSES[guest])
    moved = daemon.port(guest)["tx_bytes"]
    assert wait_until(lambda: daemon.port(guest)["tx_bytes"] > moved + (4 << 20))
    os.kill(before, signal.SIGKILL)
    assert wait_until(lambda: daemon.data_plane() not in (None, before))
    ping.end()
    result = json.loads(stream.communicate(timeout=30)[0])
    assert "error" not in result, result
    assert result["intervals"][-1]["sum"]["bytes"] > 0
    assert ping.gap_s < GAP_S_MAX and len(ping.lost) < LOST_MAX, (ping.gap_s, ping.lost)
    assert info(site, guest)["faults"] == {}


def test_killed_control_process_is_not_missed(site):
    daemon = site.daemon
    plane, saved = daemon.data_plane(), daemon.saved()
    pings = [Pings(site.web, ADDRESSES[guest]) for guest in GUESTS]
    daemon.kill_control()
    daemon.start(saved)
    status = daemon.status()
    assert (status["adopted"], status["data_plane_pid"]) == (True, plane)
    assert [ping.lost for ping in pings] == [[], []]
    for guest in GUESTS:
        assert info(site, guest)["connected"], guest
        assert iperf(site, guest) > 10e6


def test_restarted_daemon_finds_its_guests_again(site):
    """Also what the guests still say to each other: their TCP connection outlives the daemon."""
    daemon = site.daemon
    saved = daemon.saved()
    site.guests["split"].start(f"iperf3 -c {ADDRESSES['packed']} -t 12 -J")
    moved = daemon.port("packed")["tx_bytes"]
    assert wait_until(lambda: daemon.port("packed")["tx_bytes"] > moved + (4 << 20))
    assert daemon.stop() == 0
    assert wait_until(lambda: site.guests["split"].sysfs("carrier") == "0")
    daemon.start(saved)
    for guest in GUESTS:
        assert answers(site, guest), (info(site, guest), daemon.log()[-3000:])
        assert site.guests[guest].sysfs("carrier") == "1"
    site.guests["split"].run("while pidof iperf3 | grep -q ' '; do sleep 0.2; done")
    result = json.loads(site.guests["split"].run("cat /tmp/started.log"))
    assert "error" not in result, result
    assert result["intervals"][-1]["sum"]["bytes"] > 0
    for guest in GUESTS:
        assert iperf(site, guest) > 10e6
        assert iperf(site, guest, "-R") > 10e6


def test_guests_that_go_leave_the_rest_alone(site):
    ping = Pings(site.web, ADDRESSES["packed"])
    site.guests["split"].close()
    assert wait_until(lambda: not info(site, "split")["connected"])
    assert ping.lost == []
