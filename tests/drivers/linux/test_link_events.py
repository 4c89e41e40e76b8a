"""drivers/linux/link_events.py: messages read octet by octet, and a real namespace that changes."""

import select
import struct
import subprocess

import pytest

from dpu_runtime.drivers.linux.link import find_link
from dpu_runtime.drivers.linux.link_events import (
    RTM_DELLINK,
    RTM_NEWLINK,
    LinkEvents,
    namespace_now,
    namespace_of,
    parse,
)
from dpu_runtime.drivers.linux.netns import socket_netns
from dpu_runtime.drivers.port import PortError

WAIT_S = 5.0


def message(kind, index, name, other=b""):
    """A link message as the kernel writes it; `other` is an attribute in front of the name."""
    text = name.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(text), 3) + text
    body = struct.pack("=BxHiII", 0, 1, index, 0x1003, 0) + other + attribute + bytes(-len(attribute) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_two_messages_in_one_read():
    address = struct.pack("=HH6s2x", 10, 1, bytes(6))
    data = message(RTM_NEWLINK, 7, "veth0", address) + message(RTM_DELLINK, 9, "a")
    assert list(parse(data)) == [(7, "veth0"), (9, "a")]


def test_other_messages_are_not_about_interfaces():
    assert list(parse(message(20, 7, "veth0"))) == []


def test_every_truncation_ends():
    data = message(RTM_NEWLINK, 7, "veth0")
    for length in range(len(data)):
        assert [index for index, _ in parse(data[:length])] in ([], [7])
    assert list(parse(bytes(64))) == []
    assert list(parse(b"\xa5" * 64)) == []


def changed(events):
    assert select.select([events], [], [], WAIT_S)[0]
    return events.read()


@pytest.mark.root
@pytest.mark.package("iproute2")
def test_interfaces_come_and_go(netns, run_in):
    name = netns(ipv6=False)
    events = LinkEvents(name)
    try:
        run_in(name, ["ip", "link", "add", "x", "type", "veth", "peer", "name", "y"])
        index = find_link(name, "x").index
        indices, names = changed(events)
        assert index in indices
        assert {"x", "y"} <= names
        run_in(name, ["ip", "link", "set", "x", "name", "z"])
        assert changed(events) == ({index}, {"z"})
        run_in(name, ["ip", "link", "del", "z"])
        assert "z" in changed(events)[1]
        assert events.read() == (set(), set())
    finally:
        events.close()


@pytest.mark.root
@pytest.mark.package("iproute2")
def test_more_than_the_socket_holds_may_be_anything(netns, run_in):
    name = netns(ipv6=False)
    events = LinkEvents(name)
    try:
        script = (
            "ip link add x type veth peer name y; for i in $(seq 400); do ip link set x mtu $((1000+i)); done"
        )
        run_in(name, ["sh", "-c", script])
        assert events.read() is None
    finally:
        events.close()


@pytest.mark.root
@pytest.mark.package("iproute2")
def test_a_namespace_outlives_its_name_and_is_not_the_next_of_it(netns, run_in):
    name = netns(ipv6=False)
    events = LinkEvents(name)
    try:
        assert namespace_of(events.fileno()) == namespace_now(name) == events.namespace
        assert events.is_current()
        run_in(name, ["ip", "netns", "del", name])
        assert not events.is_current()
        subprocess.run(["ip", "netns", "add", name], check=True)
        assert not events.is_current()
        with socket_netns(events.fileno()) as path:
            assert find_link(path, "lo").index == 1
    finally:
        events.close()


def test_no_namespace():
    assert namespace_now("dputest-none") is None
    with pytest.raises(PortError):
        LinkEvents("dputest-none")
