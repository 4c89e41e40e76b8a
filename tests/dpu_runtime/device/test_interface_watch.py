"""dpu_runtime/device/interface_watch.py over real interfaces, with a device that keeps no data plane."""

import asyncio
import contextlib
import logging
import socket
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from dpu_runtime.config.models import AfPacketPort
from dpu_runtime.device.interface_watch import InterfaceWatch
from dpu_runtime.device.live_port import LivePort
from dpu_runtime.drivers.interface import InterfaceDriver
from dpu_runtime.drivers.linux.link_events import namespace_now
from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.drivers.port import PortError
from dpu_runtime.kernels.layout import PORT_DTYPE

pytestmark = [pytest.mark.root, pytest.mark.package("iproute2")]

WAIT_S = 5.0
ENETDOWN = 100  # errno(3)


class Sockets(InterfaceDriver):
    """A driver with one packet socket; `mtu_max` is what its queue can do with, `refusals` are to come."""

    mtu_max = 9000
    refusals = 0

    def _open_queues(self):
        if self.refusals:
            self.refusals -= 1
            raise PortError(self.name, "bind", text="not today")

        def inside():
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
                sock.bind((self.config.ifname, 0))
                return sock.detach()

        self.fds = [run_in_netns(self.config.netns, inside)]

    def fits(self, link):
        return link.mtu <= self.mtu_max


class Device:
    """What the watch needs of a device, of its queues and its rows, and a list of what it asked for."""

    def __init__(self):
        self.ports = {}
        self.shared = SimpleNamespace(ports=np.zeros(4, PORT_DTYPE), port_errors=np.zeros(4, np.uint64))
        self.changing = asyncio.Lock()
        self.asked = []
        self.rows = self
        self.watch = InterfaceWatch(self, self)

    def add(self, name, netns, ifname="x", **keys):
        config = AfPacketPort(name=name, kind="af_packet", netns=netns, ifname=ifname, **keys)
        driver = Sockets(config, 1)
        driver.open()
        live = self.ports[name] = LivePort(len(self.ports), config, driver, [])
        self.rewrite(live)
        self.watch.look_at(name)
        return live

    async def take_out(self, live):
        self.asked.append(("take_out", live.config.name))
        live.lost = True
        live.driver.close()

    async def bring_back(self, live):
        self.asked.append(("bring_back", live.config.name))
        live.driver.open()
        self.shared.port_errors[live.index] = 0
        live.lost = False
        self.rewrite(live)

    def rewrite(self, live):
        self.shared.ports[live.index]["mtu"] = live.config.mtu or live.driver.link.mtu

    def mtu(self, live):
        return int(self.shared.ports[live.index]["mtu"])


async def until(condition, timeout_s=WAIT_S):
    end = asyncio.get_running_loop().time() + timeout_s
    while not condition() and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.02)
    assert condition()


@contextlib.asynccontextmanager
async def watching():
    device = Device()
    device.watch.start()
    try:
        yield device
    finally:
        await device.watch.stop()
        for live in device.ports.values():
            live.driver.close()


@pytest.fixture
def place(netns, run_in):
    """A namespace with interface `x`; `ip(...)` runs there."""
    name = netns(ipv6=False)

    def ip(*words):
        run_in(name, ["ip", *words])

    def plug(ifname="x"):
        ip("link", "add", ifname, "type", "veth", "peer", "name", f"{ifname}-peer")
        for one in (ifname, f"{ifname}-peer"):
            ip("link", "set", one, "up")

    plug()
    return SimpleNamespace(netns=name, ip=ip, plug=plug)


def test_down_and_up(place):
    async def main():
        async with watching() as device:
            live = device.add("p", place.netns)
            place.ip("link", "set", "x", "down")
            await until(lambda: live.state == "down: interface 'x' is administratively down")
            device.shared.port_errors[live.index] = ENETDOWN  # as the data plane says meanwhile
            await asyncio.sleep(0.6)
            assert device.asked == []
            place.ip("link", "set", "x", "up")
            await until(lambda: live.state == "up")
            assert device.asked == [("take_out", "p"), ("bring_back", "p")]
            place.ip("link", "set", "x-peer", "down")
            await until(lambda: live.state == "down: interface 'x' has no carrier")

    asyncio.run(main())


def test_another_mtu(place):
    async def main():
        async with watching() as device:
            follows = device.add("follows", place.netns)
            place.plug("y")
            keeps = device.add("keeps", place.netns, "y", mtu=1500)
            await until(lambda: keeps.state == "up")
            for ifname in "xy":
                place.ip("link", "set", ifname, "mtu", "1400")
            await until(lambda: device.mtu(follows) == 1400 and keeps.notes)
            assert device.mtu(keeps) == 1500
            assert keeps.notes == ["interface 'y' has an MTU of 1400; the port's own is 1500"]
            assert not follows.notes
            assert device.asked == []
            place.ip("link", "set", "y", "mtu", "1500")
            await until(lambda: not keeps.notes)

    asyncio.run(main())


def test_an_mtu_that_queues_do_not_fit_opens_others(place, caplog):
    async def main():
        async with watching() as device:
            live = device.add("p", place.netns)
            live.driver.mtu_max = 2000

            def open_larger():
                live.driver.mtu_max = 9000
                return InterfaceDriver.open(live.driver)

            live.driver.open = open_larger
            place.ip("link", "set", "x", "mtu", "4000")
            await until(lambda: len(device.asked) == 2 and live.state == "up")
            assert device.mtu(live) == 4000

    asyncio.run(main())
    assert "port p: lost: its queues do not fit the MTU of 4000" in caplog.text


def test_another_name(place):
    async def main():
        async with watching() as device:
            live = device.add("p", place.netns)
            place.ip("link", "set", "x", "name", "z")
            await until(lambda: live.state == "up: interface 'x' is called 'z' now")
            assert live.notes == ["interface 'x' was renamed to 'z'; the port goes on with it"]
            place.plug("x2")
            place.ip("link", "set", "x2", "name", "x")  # not its interface
            place.ip("link", "set", "z", "mtu", "1300")
            await until(lambda: device.mtu(live) == 1300)
            assert device.asked == []
            place.ip("link", "del", "z")
            await until(lambda: live.state == "up" and device.asked)  # now it is
            assert not live.notes

    asyncio.run(main())


def test_gone_and_there_again(place, caplog):
    caplog.set_level(logging.INFO)

    async def main():
        async with watching() as device:
            live, other = device.add("p", place.netns), None
            place.plug("y")
            other = device.add("other", place.netns, "y")
            place.ip("link", "del", "x")
            await until(lambda: live.state == "lost: interface 'x' is gone")
            assert live.lost
            assert other.state == "up"
            place.plug("x")
            await until(lambda: live.state == "up")
            assert not live.lost
            assert device.asked == [("take_out", "p"), ("bring_back", "p")]

    asyncio.run(main())
    lines = [record.message for record in caplog.records if record.message.startswith("port p: ")]
    assert lines[0] == "port p: lost: interface 'x' is gone"
    assert lines[-1] == "port p: up"


def test_many_changes_at_once_end_in_the_last(place, run_in):
    async def main():
        async with watching() as device:
            live = device.add("p", place.netns)
            again = "ip link del x; ip link add x type veth peer name xp; ip link set x up; ip link set xp up"
            script = f"for i in 1 2 3 4 5 6; do {again}; done; ip link set x mtu 1234"
            await asyncio.to_thread(run_in, place.netns, ["sh", "-ec", script])
            await until(lambda: live.state == "up" and device.mtu(live) == 1234)
            assert live.driver.fds

    asyncio.run(main())


def test_the_end_of_a_namespace_ends_it(place, netns, run_in):
    """Its interfaces go, which they would not while a socket is in it: the other end of the cable says so."""
    outside = netns(ipv6=False)
    place.ip("link", "add", "cable", "type", "veth", "peer", "name", "end", "netns", outside)
    run_in(outside, ["ip", "link", "show", "end"])

    async def main():
        async with watching() as device:
            live = device.add("p", place.netns)
            await until(lambda: not device.watch._due)
            subprocess.run(["ip", "netns", "del", place.netns], check=True)
            await until(lambda: live.state == f"lost: network namespace {place.netns!r} is gone")
            shown = ["ip", "link", "show", "end"]
            await until(lambda: run_in(outside, shown, check=False).returncode != 0)
            subprocess.run(["ip", "netns", "add", place.netns], check=True)
            await until(lambda: live.state == "lost: interface 'x' is gone")
            place.plug("x")
            await until(lambda: live.state == "up")

    asyncio.run(main())


def test_a_namespace_replaced_by_one_of_its_name(place):
    async def main():
        async with watching() as device:
            live = device.add("p", place.netns)
            before = namespace_now(place.netns)
            subprocess.run(["ip", "netns", "del", place.netns], check=True)
            subprocess.run(["ip", "netns", "add", place.netns], check=True)
            assert namespace_now(place.netns) != before
            place.plug("x")
            await until(lambda: device.asked == [("take_out", "p"), ("bring_back", "p")])
            await until(lambda: live.state == "up")

    asyncio.run(main())


def test_a_process_that_ended_is_not_waited_for(place, popen_in):
    process = popen_in(place.netns, ["sleep", "60"])

    async def main():
        async with watching() as device:
            await until(lambda: namespace_now(f"pid:{process.pid}") == namespace_now(place.netns))
            live = device.add("p", f"pid:{process.pid}")
            process.kill()
            process.wait()
            await until(lambda: live.state == f"lost: network namespace 'pid:{process.pid}' is gone")
            assert live in device.watch._ended

    asyncio.run(main())


def test_a_port_that_does_not_open_is_tried_again(place, monkeypatch):
    monkeypatch.setattr("dpu_runtime.device.interface_watch.RETRY_S", 0.1)

    async def main():
        async with watching() as device:
            live = device.add("p", place.netns)
            live.driver.refusals = 2
            place.ip("link", "del", "x")
            await until(lambda: live.lost)
            place.plug("x")
            await until(lambda: live.state == "lost: not today")
            await until(lambda: live.state == "up")

    asyncio.run(main())


def test_a_queue_that_was_given_up_is_opened_anew(place, caplog):
    async def main():
        async with watching() as device:
            live = device.add("p", place.netns)
            await until(lambda: not device.watch._due)
            device.shared.port_errors[live.index] = ENETDOWN
            await until(lambda: device.asked == [("take_out", "p"), ("bring_back", "p")])
            await until(lambda: live.state == "up")

    asyncio.run(main())
    assert "port p: lost: Network is down" in caplog.text


def test_ports_that_are_deleted_are_watched_no_more(place):
    async def main():
        async with watching() as device:
            live = device.add("p", place.netns)
            await until(lambda: place.netns in device.watch._events)
            live.driver.close()
            del device.ports["p"]
            await until(lambda: not device.watch._events)

    asyncio.run(main())
