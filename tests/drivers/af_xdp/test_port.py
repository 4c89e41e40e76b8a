"""AF_XDP ports on real veths: what is opened, said and refused, and packets through both halves."""

import contextlib
import errno
import os
from types import SimpleNamespace

import pytest

from dpu_runtime.drivers.af_xdp import bpf
from dpu_runtime.drivers.af_xdp.layout import BURST_FRAMES, FILL_FRAMES, QUEUE_FRAMES
from dpu_runtime.drivers.af_xdp.mapping import XdpRings
from dpu_runtime.drivers.af_xdp.port import AfXdpPort
from dpu_runtime.drivers.af_xdp.socket import XDP_COPY, bind, open_socket
from dpu_runtime.drivers.af_xdp.umem import Umem
from dpu_runtime.drivers.linux.bpf import BpfError
from dpu_runtime.drivers.linux.libc import EAGAIN, ENODEV
from dpu_runtime.drivers.linux.link import find_link
from dpu_runtime.drivers.linux.netns import run_in_netns
from dpu_runtime.drivers.port import PortError
from tests.drivers.af_xdp.xdp_bench import PORTS, XdpBench, shared_tables
from tests.wires import next_frame, open_wire

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2")]

FRAMES = 2 * QUEUE_FRAMES + BURST_FRAMES
ETHERTYPE = bytes.fromhex("88b5")  # IEEE 802 local experimental


def packet(size):
    return bytes.fromhex("02aa00000002 02aa00000001") + ETHERTYPE + os.urandom(size - 14)


def is_ours(frame):
    return frame[12:14] == ETHERTYPE


class Veth:
    """A veth: `ifname` in `netns` for the port, `far` in `far_netns`."""

    def __init__(self, netns, run_in, number, mtu, queues):
        self.netns, self.far_netns = netns(ipv6=False), netns(ipv6=False)
        self.ifname, self.far = f"near{number}", f"far{number}"
        more = ["numrxqueues", queues, "numtxqueues", queues]
        peer = ["peer", "name", self.far, "mtu", mtu, *more, "netns", self.far_netns]
        run_in(self.netns, ["ip", "link", "add", self.ifname, "mtu", mtu, *more, "type", "veth", *peer])
        run_in(self.netns, ["ip", "link", "set", self.ifname, "up"])
        run_in(self.far_netns, ["ip", "link", "set", self.far, "up"])
        self.run = lambda *argv: run_in(self.netns, argv).stdout

    def has_program(self):
        return (
            "xdp"
            in self.run("ip", "-o", "link", "show", self.ifname).split("mtu")[0]
            + self.run("ip", "-d", "link", "show", self.ifname).partition("prog/xdp")[1]
        )


@pytest.fixture
def veth(netns, run_in):
    made = []

    def make(mtu=1500, queues=1):
        made.append(Veth(netns, run_in, len(made), mtu, queues))
        return made[-1]

    return make


@pytest.fixture
def umem():
    return Umem(FRAMES, 1)


@pytest.fixture
def port(umem):
    """An AF_XDP port of an interface, not open."""
    made = []

    def make(veth, queues=1, **keys):
        config = {
            "name": f"p{len(made)}",
            "netns": veth.netns,
            "ifname": veth.ifname,
            "mtu": None,
            "offload": True,
            "promiscuous": False,
            "accept_default_route": None,
            "xdp_mode": "auto",
            "busy_poll": False,
        }
        made.append(AfXdpPort(SimpleNamespace(**(config | keys)), queues, umem))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def plane():
    """Both halves: map ports as a data plane does, and serve them."""
    shared = shared_tables(FRAMES)
    bench = XdpBench(shared)
    mapped = {}

    def add(driver):
        index = min(set(range(PORTS)) - set(mapped))
        rings = mapped[index] = XdpRings(index, shared, [os.dup(fd) for fd in driver.fds], driver.layout)
        bench.io.fds[index] = rings.queue_fds[0]
        return index

    def drop(index):
        mapped.pop(index).close()

    bench.add, bench.drop = add, drop
    yield bench
    for index in list(mapped):
        drop(index)


# control half


def test_a_port_comes_and_goes(veth, port, umem):
    wire = veth()
    one = port(wire)
    fds = one.open()
    assert one.layout["queues"] == 1
    assert all(not os.get_inheritable(fd) for fd in fds)
    assert wire.has_program()
    got = one.capabilities
    assert (got.copy, got.queues, got.rx_owed) == ("copy", 1, True)
    assert got.notes == [
        "zerocopy mode is refused: Operation not supported",
        "the native program turns TSO off at the peer of veth 'near0'",
    ]
    one.close()
    one.close()
    assert not wire.has_program()
    assert umem.fd == -1


def test_the_program_stays_while_somebody_holds_the_link(veth, port):
    wire = veth()
    one = port(wire)
    copies = [os.dup(fd) for fd in one.open()]
    one.close()
    assert wire.has_program()
    for fd in copies:
        os.close(fd)
    assert not wire.has_program()


def test_adoption(veth, port, umem):
    wire = veth()
    one, two = port(wire), port(wire)
    copies = [os.dup(fd) for fd in one.open()]
    one.close()
    two.adopt(copies, one.layout)
    assert two.capabilities == one.capabilities
    assert umem.frames == FRAMES
    assert wire.has_program()
    two.renew()
    two.close()
    assert not wire.has_program()
    assert umem.fd == -1


def test_sockets_are_made_anew_under_the_program(veth, port):
    wire = veth()
    one = port(wire)
    before = one.open()
    for _ in range(3):
        one.renew()
        after = one.fds
        assert wire.has_program()
    assert len(after) == len(before)
    assert after[1:] == before[1:]


def test_a_larger_mtu_wants_other_queues(veth, port):
    wire = veth()
    one = port(wire)
    one.open()
    assert one.fits(one.link)
    wire.run("ip", "link", "set", wire.ifname, "mtu", 1770)
    assert one.fits(find_link(wire.netns, wire.ifname))
    wire.run("ip", "link", "set", wire.ifname, "mtu", 1771)
    assert not one.fits(find_link(wire.netns, wire.ifname))


def test_the_interface_is_free_again_at_once(veth, port):
    wire = veth()
    one = port(wire)
    for _ in range(3):
        one.open()
        one.close()


@pytest.mark.parametrize(
    ("mode", "text"),
    [("generic", "generic mode: packets that the sender's TSO left whole"), ("copy", "turns TSO off")],
)
def test_a_mode_that_is_asked_for(veth, port, mode, text):
    wire = veth()
    one = port(wire, xdp_mode=mode)
    one.open()
    assert one.capabilities.copy == mode
    assert any(text in note for note in one.capabilities.notes)
    assert ("xdpgeneric" in wire.run("ip", "link")) == (mode == "generic")


def test_a_mode_that_cannot_be_had_is_refused(veth, port, umem):
    wire = veth()
    with pytest.raises(PortError, match="'near0': zerocopy mode is refused: Operation not supported"):
        port(wire, xdp_mode="zerocopy").open()
    assert not wire.has_program()
    assert umem.fd == -1


def test_queues_beyond_the_workers_are_the_kernel_s(veth, port):
    wire = veth(queues=3)
    one = port(wire, queues=2)
    one.open()
    assert one.capabilities.queues == 2
    assert one.capabilities.notes[-1].startswith("2 of the interface's 3 receive queues come here")


def test_workers_beyond_the_queues_only_send(veth, port):
    one = port(veth(), queues=3)
    one.open()
    assert "1 receive queue(s): the other workers only send here" in one.capabilities.notes


def test_promiscuous(veth, port):
    wire = veth()
    one = port(wire, promiscuous=True)
    one.open()
    assert "promiscuity 1" in wire.run("ip", "-d", "link", "show", wire.ifname)
    one.close()
    assert "promiscuity 0" in wire.run("ip", "-d", "link", "show", wire.ifname)


@pytest.mark.parametrize(
    ("prepare", "keys", "text"),
    [
        (
            ("ip", "link", "set", "near0", "down"),
            {},
            "interface 'near0' is down: AF_XDP binds to one that is up",
        ),
        ((), {"ifname": "none"}, "no interface 'none'"),
        (
            ("ip", "link", "set", "near0", "mtu", "40000"),
            {},
            "mtu 40000 of interface 'near0': AF_XDP takes 32746",
        ),
        (("ip", "route", "add", "default", "dev", "near0"), {}, "accept_default_route = 'near0'"),
    ],
)
def test_what_is_refused(veth, port, umem, prepare, keys, text):
    wire = veth()
    if prepare:
        wire.run(*prepare)
    with pytest.raises(PortError, match=text):
        port(wire, **keys).open()
    assert not wire.has_program()
    assert umem.fd == -1


def test_somebody_else_s_program(veth, port):
    wire = veth()
    port(wire).open()
    with pytest.raises(PortError, match="somebody else's XDP program is attached to interface 'near0'"):
        port(wire).open()
    assert wire.has_program()


def test_somebody_else_s_socket(veth, port, umem):
    wire = veth()
    memory = umem.take("other", 1)
    sock = run_in_netns(wire.netns, lambda: open_socket(memory))
    bind(sock, find_link(wire.netns, wire.ifname).index, 0, XDP_COPY)
    with sock, pytest.raises(PortError, match="another AF_XDP socket has queue 0 of 'near0'"):
        port(wire).open()
    os.close(memory)


def test_frames_run_out(veth, port):
    port(veth()).open()
    port(veth()).open()
    with pytest.raises(PortError, match=r"room for 0 more; .* xdp_frames") as caught:
        port(veth()).open()
    assert caught.value.errno_ == errno.ENOMEM


def test_the_verifier_is_quoted(monkeypatch):
    monkeypatch.setattr(bpf, "_program", lambda *_: bytes.fromhex("9500000000000000"))
    with pytest.raises(BpfError, match="R0 !read_ok"):
        bpf.load_program(0, bpf.XDP_PASS, False)


# both halves


def receive(plane, port, wanted=is_ours):
    """The first wanted packet of the next bursts: its number in the burst, which is still at hand."""
    for _ in range(1000):
        count, _ = plane.receive(port)
        for i in range(count):
            if wanted(plane.frame(i)):
                return i
        plane.done(port)
    raise AssertionError("no packet came")


@pytest.mark.parametrize("mode", ["copy", "generic"])
@pytest.mark.parametrize("size", [60, 256, 1000, 1514])
def test_a_packet_crosses_two_namespaces_in_its_frame(veth, port, plane, mode, size):
    wires = veth(), veth()
    for wire in wires:
        one = port(wire, xdp_mode=mode)
        one.open()
        plane.add(one)
    sent = packet(size)
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(open_wire(w.far_netns, w.far)) for w in wires)
        first.send(sent)
        i = receive(plane, 0)
        assert plane.frame(i) == sent
        plane.transmit(plane, [i], port=1)
        plane.done()
        assert next_frame(second, is_ours) == sent
    assert plane.dropped() == {}
    assert plane.held(0)[0] + plane.held(1)[0] + len(plane.free()) == FRAMES


def test_a_large_packet_crosses_in_its_frames(veth, port, plane):
    wires = veth(mtu=9000), veth(mtu=9000)
    for wire in wires:
        one = port(wire)
        one.open()
        assert one.layout["pieces"]
        plane.add(one)
    sent = packet(9014)
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(open_wire(w.far_netns, w.far)) for w in wires)
        first.send(sent)
        i = receive(plane, 0)
        assert plane.frame(i) == sent
        assert plane.meta[i]["payload_iov"] != 0
        plane.transmit(plane, [i], port=1)
        plane.done()
        assert next_frame(second, is_ours) == sent


def test_an_interface_that_vanishes_is_said_to(veth, port, plane):
    wire = veth()
    one = port(wire)
    one.open()
    plane.add(one)
    assert [tuple(plane.receive()) for _ in range(3)] == [(0, EAGAIN)] * 3
    wire.run("ip", "link", "del", wire.ifname)
    assert tuple(plane.receive()) == (0, ENODEV)


def test_frames_of_a_port_that_went_serve_the_next(veth, port, plane):
    """Their memory stays, for another port; what a queue had comes back, three times what there is."""
    stays = port(veth())
    stays.open()
    plane.add(stays)
    for _ in range(3):
        one = port(veth())
        one.open()
        index = plane.add(one)
        assert plane.held(index) == (FILL_FRAMES, FILL_FRAMES)
        assert len(plane.free()) == FRAMES - 2 * FILL_FRAMES
        plane.drop(index)
        one.close()
