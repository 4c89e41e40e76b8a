"""AF_PACKET ports, the control half: sockets opened on a veth pair, refusals, what was got."""

import errno
import os
import socket

import pytest

from dpu_runtime.drivers.af_packet import port as packet_port
from dpu_runtime.drivers.af_packet.if_packet import TPACKET_V3
from dpu_runtime.drivers.af_packet.port import AfPacketPort
from dpu_runtime.drivers.linux.bpf import BpfError
from dpu_runtime.drivers.linux.link import need_link
from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.drivers.port import PortError
from tests.drivers.af_packet.conftest import port_config

pytestmark = pytest.mark.root


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_a_port_says_what_it_got(veth):
    pair = veth()
    pair.open()
    got = pair.port.capabilities
    assert (got.tx_csum, got.tso4, got.tso6, got.ecn, got.gro) == (True,) * 5
    assert (got.queues, got.copy) == (1, "copy")
    assert got.notes[0].startswith(
        "each packet comes at once, in a slot (TPACKET_V2); one of more than 1972 "
    )


def test_blocks_are_had_by_asking(veth):
    pair = veth()
    pair.open(blocks=True)
    note = pair.port.capabilities.notes[0]
    assert note.startswith("packets come in blocks (TPACKET_V3), some milliseconds late")
    assert "slots need" not in note


def test_blocks_are_had_where_the_filter_is_refused(veth, monkeypatch):
    def refuse(*_args):
        raise BpfError(errno.EPERM)

    monkeypatch.setattr(packet_port, "load_slot_filter", refuse)
    pair = veth()
    worker = pair.open()
    assert int(worker.row["rx_version"]) == TPACKET_V3
    note = pair.port.capabilities.notes[0]
    assert note.endswith("; slots need a filter, and bpf says: Operation not permitted")


@pytest.mark.parametrize(("release", "uso"), [("6.1.0-31-amd64", False), ("6.2.0", True), ("10.0-rc1", True)])
def test_uso_needs_a_kernel_that_has_it(veth, monkeypatch, release, uso):
    packet_port._knows_uso.cache_clear()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "h", release, "v", "x86_64")))
    pair = veth()
    pair.open()
    packet_port._knows_uso.cache_clear()
    assert pair.port.capabilities.uso is uso
    assert ("slots need Linux 6.2" in pair.port.capabilities.notes[0]) is not uso
    assert any("no USO: this kernel is older" in note for note in pair.port.capabilities.notes) is not uso


def test_offloads_that_are_off_are_noted(veth):
    pair = veth()
    pair.open(offload=False)
    got = pair.port.capabilities
    assert not any((got.tx_csum, got.tso4, got.tso6, got.ecn, got.uso, got.gro))
    assert "offloads are off: the configuration says offload = false" in got.notes[1]


def test_adoption_and_the_second_close(veth):
    pair = veth()
    pair.open(queues=2)
    second = AfPacketPort(pair.port.config, 2)
    second.adopt([os.dup(fd) for fd in pair.port.fds], pair.port.layout)
    assert second.capabilities == pair.port.capabilities
    assert second.link == pair.port.link
    second.close()
    second.close()
    assert second.fds == []


def test_a_port_may_be_opened_again(veth):
    pair = veth()
    pair.open(queues=2)
    before = descriptors()
    for _ in range(2):
        pair.port.close()
        assert len(pair.port.open()) == 4
    assert descriptors() == before


@pytest.mark.parametrize("wanted", [False, True])
def test_promiscuous_mode_is_as_asked_and_ends_with_the_port(veth, wanted):
    pair = veth()

    def promiscuous():
        return "promiscuity 1 " in pair.near("-d", "link", "show", "dpu0").stdout

    pair.open(promiscuous=wanted)
    assert promiscuous() is wanted
    pair.close()
    assert not promiscuous()


def test_no_such_interface(netns):
    before = descriptors()
    with pytest.raises(PortError, match="no interface 'nope' in netns") as caught:
        AfPacketPort(port_config(netns(), "nope"), 1).open()
    assert (caught.value.port, caught.value.errno_) == ("p", errno.ENODEV)
    assert descriptors() == before


def test_the_interface_of_the_default_route_is_taken_only_by_name(veth):
    pair = veth()
    pair.near("addr", "add", "10.1.0.2/24", "dev", "dpu0")
    pair.near("route", "add", "default", "via", "10.1.0.1")
    with pytest.raises(PortError, match="the default route of its namespace leaves by interface 'dpu0'"):
        pair.open()
    pair.open(accept_default_route="dpu0")
    assert len(pair.port.fds) == 2


@pytest.mark.parametrize("call", ["PACKET_VNET_HDR", "PACKET_TX_RING", "PACKET_FANOUT"])
def test_a_refused_call_is_named_and_leaves_nothing(veth, monkeypatch, call):
    pair = veth()
    before = descriptors()

    class Refuses(socket.socket):
        def setsockopt(self, level, option, value):
            if level == packet_port.SOL_PACKET and getattr(option, "name", "") == call:
                raise OSError(errno.EPERM, "no")
            super().setsockopt(level, option, value)

    monkeypatch.setattr(packet_port.socket, "socket", Refuses)
    with pytest.raises(PortError, match=f"{call}: interface 'dpu0': Operation not permitted"):
        pair.open(queues=2)
    assert pair.port.fds == []
    assert descriptors() == before


def test_no_right_to_open_a_packet_socket(veth, monkeypatch):
    pair = veth()

    def refuse(*_args, **_keys):
        raise PermissionError(errno.EPERM, "no")

    link = need_link(pair.netns, "dpu0")
    # need_link opens sockets too
    monkeypatch.setattr("dpu_runtime.drivers.interface.need_link", lambda *_args, **_keys: link)
    monkeypatch.setattr(packet_port.socket, "socket", refuse)
    with pytest.raises(PortError, match=r"Operation not permitted; an af_packet port needs CAP_NET_RAW"):
        pair.open()


def test_the_interface_belongs_to_its_namespace(veth):
    pair = veth()
    with pytest.raises(PortError, match="no interface 'dpu0'"):
        AfPacketPort(port_config(pair.far, "dpu0"), 1).open()
    assert run_in_netns(pair.netns, lambda: socket.if_nametoindex("dpu0"))
