"""The clients by themselves: testpmd's own vhost device in the place of a port, and a guest on it."""

import fcntl
import time
from pathlib import Path

import pytest

from bench.peers import hugepages as pages
from tests.clients.guest import Guest, GuestError
from tests.clients.testpmd import BURST, Testpmd, TestpmdError, vhost, virtio_user

pytestmark = [pytest.mark.root, pytest.mark.compiled]

uses_testpmd = pytest.mark.package("dpdk-dev")
uses_guest = pytest.mark.package("qemu-system-x86", "busybox-static", "cpio", "kmod", "iperf3", "ethtool")
VIRTIO_F_RING_PACKED = 1 << 34  # virtio 1.2 section 6


@pytest.fixture
def device(socket_dir):
    """testpmd's vhost device with one queue pair; forwards when it is told to."""
    with Testpmd(vhost(socket_dir / "port"), cpu=0) as device:
        device.path = socket_dir / "port"
        yield device.ready()


@uses_testpmd
@pytest.mark.parametrize("packed", [False, True])
def test_testpmd_sends_what_its_peer_returns(device, packed):
    device.forward("io")
    device.start()
    with Testpmd(virtio_user(device.path, mac="02:00:00:00:00:01", packed=packed), cpu=1) as driver:
        assert driver.is_up()
        assert driver.info()["MAC address"] == "02:00:00:00:00:01"
        assert [bool(word & VIRTIO_F_RING_PACKED) for word in driver.features()] == [packed]
        driver.forward("rxonly")
        driver.start_tx_first(2)
        end = time.monotonic() + 5
        while driver.stats()["rx_packets"] < 2 * BURST and time.monotonic() < end:
            time.sleep(0.02)
        stats = driver.stats()
        assert stats["tx_packets"] == stats["rx_packets"] == 2 * BURST
        assert stats["rx_bytes"] == stats["tx_bytes"] == 2 * BURST * 64
        driver.clear()
        assert driver.stats()["rx_packets"] == 0
        device.stop()  # a forwarding vhost device of DPDK 22.11 may not let its driver go


@uses_testpmd
def test_testpmd_that_cannot_start_says_why(socket_dir):
    with pytest.raises(TestpmdError, match=r"exit [1-9](.|\n)*failed"):
        Testpmd(virtio_user(socket_dir / "nobody"), cpu=1).ready()


@uses_testpmd
def test_huge_pages_are_given_back():
    def number():
        return pages.read("nr_hugepages")

    def in_use():
        """Whether somebody else has pages too: then the number is not ours to put back."""
        with pages.USERS.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    before = number()
    shared = in_use()
    with pages.hugepages(16):
        with pages.hugepages(16):
            assert pages.read("free_hugepages") >= 16, "each has its own"
        assert pages.read("free_hugepages") >= 8
    assert shared or number() == before


class _Lossy:
    """A serial port that loses the first octets of what is sent next."""

    def __init__(self, shell, octets):
        self._shell, self._octets = shell, octets

    def sendall(self, line):
        self._shell.sendall(line[self._octets :])
        self._octets = 0

    def __getattr__(self, name):
        return getattr(self._shell, name)


@uses_testpmd
@uses_guest
def test_guest_takes_commands_and_pings_its_peer(device, socket_dir):
    device.forward("icmpecho")
    device.start()
    with Guest(device.path, socket_dir) as guest:
        guest.ready().set_up("10.9.0.1/24")
        assert guest.sysfs("address") == guest.mac
        assert "2 packets received" in guest.run("ping -c 2 -i 0.2 10.9.0.2")
        assert guest.run("printf 'no newline'") == "no newline"
        assert guest.status("exit 3") == ("", 3)
        for octets in (3, 8):
            guest._shell = _Lossy(guest._shell, octets)
            assert guest.run("echo whole") == "whole\n"
        with pytest.raises(GuestError, match="exit 143"):
            guest.run("sleep 10", timeout_s=1)
        guest.start("sleep 1; echo later")
        assert guest.run("sleep 1.5; cat /tmp/started.log") == "later\n"
        pid = guest.process.pid
    assert not Path(f"/proc/{pid}").exists()
