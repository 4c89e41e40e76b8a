"""DPDK's testpmd as the driver of vhost_user ports: each form of ring, both sides' counters, real traffic."""

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from dpu_runtime.drivers.vhost_user import features
from tests.clients.testpmd import BURST, Testpmd, virtio_user
from tests.live.daemon import wait_until
from tests.live.test_traffic import checksum_errors, transfer
from tests.wires import next_frame

pytestmark = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.package("iproute2", "iputils-ping", "dpdk-dev"),
]

MACS = ("02:00:00:00:01:00", "02:00:00:00:01:01")
RING_ENTRIES = 256  # of `virtio_user`
FRAME_BYTES = 64  # testpmd's own choice
TX_OFFLOAD_MULTI_SEGS = 1 << 15  # rte_ethdev.h
TX_OFFLOAD_MULTI_SEGS = 1 << 15  # rte_ethdev.h
PONG = "10.7.0.99"  # any address: testpmd's icmpecho answers for all


@pytest.fixture
def plug(dpu, socket_dir):
    """Add ports p0, p1, ... and start a testpmd on them: `plug(2, packed=True)`; waits until they are up."""
    started = []

    def start(count, queues=1, server=False, options=(), port=None, **ring):
        paths = [socket_dir / f"p{number}" for number in range(count)]
        for number, path in enumerate(paths):
            keys = {"client": server, "mac": MACS[number]} | (port or {})
            dpu.call("port.add", name=f"p{number}", kind="vhost_user", socket=str(path), **keys)
        ring |= {"queues": queues, "server": server}
        devices = [virtio_user(path, mac, **ring) for path, mac in zip(paths, MACS, strict=False)]
        pmd = Testpmd(*devices, queues=queues, options=options)
        started.append(pmd)
        pmd.ready()
        assert all(pmd.is_up(number) for number in range(count))
        assert wait_until(lambda: all(live(dpu, f"p{number}") == queues for number in range(count)))
        return pmd

    yield start
    for pmd in started:
        pmd.close()


def info(dpu, port):
    """What a port says about its connection."""
    return dpu.call("port.show", name=port)[0]["info"]["vhost_user"]


def live(dpu, port):
    """Queue pairs of a port that run."""
    return info(dpu, port)["queue_pairs_live"]


def counted(dpu, pmd):
    """Wait until all is delivered; counters of testpmd's ports 0 and 1, and of the DPU's."""

    def same(ours, theirs):
        return wait_until(
            lambda: all(
                dpu.port(f"p{n}")[f"{ours}_packets"] == pmd.stats(n)[f"{theirs}_packets"] for n in (0, 1)
            )
        )

    assert same("rx", "tx") and dpu.settled() and same("tx", "rx")
    return [pmd.stats(number) for number in (0, 1)], [dpu.port(f"p{number}") for number in (0, 1)]


@pytest.mark.parametrize("queues", [1, 2])
@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("mrg_rxbuf", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_port_to_port(dpu, plug, packed, mrg_rxbuf, in_order, queues):
    pmd = plug(2, queues, packed=packed, mrg_rxbuf=mrg_rxbuf, in_order=in_order)
    agreed = {
        features.VIRTIO_F_VERSION_1: True,
        features.VIRTIO_F_RING_PACKED: packed,
        features.VIRTIO_NET_F_MRG_RXBUF: mrg_rxbuf,
        features.VIRTIO_F_IN_ORDER: in_order,
        features.VIRTIO_NET_F_MQ: queues > 1,
    }
    for word in pmd.features():
        assert {bit: bool(word >> bit & 1) for bit in agreed} == agreed
    assert info(dpu, "p0")["ring_format"] == ("packed" if packed else "split")
    pmd.send_to(0, MACS[1])
    pmd.send_to(1, MACS[0])
    pmd.forward("rxonly")
    started = pmd.start_tx_first(4)
    packets = 4 * BURST * queues
    wait_until(lambda: all(dpu.port(port)["rx_packets"] == packets for port in ("p0", "p1")))
    theirs, ours = counted(dpu, pmd)
    for port in theirs + ours:
        assert port["rx_packets"] == port["tx_packets"] == packets, (theirs, ours, started)
        assert port["rx_bytes"] == port["tx_bytes"] == packets * FRAME_BYTES
    assert info(dpu, "p0")["faults"] == info(dpu, "p1")["faults"] == {}


@pytest.mark.parametrize("packed", [False, True])
def test_more_than_the_rings_hold(dpu, plug, packed):
    """A testpmd that only sends takes nothing: what does not fit its rings is dropped and counted."""
    pmd = plug(2, packed=packed)
    pmd.send_to(0, MACS[1])
    pmd.send_to(1, MACS[0])
    pmd.forward("txonly")
    pmd.start()
    assert wait_until(lambda: min(dpu.port(f"p{n}")["tx_dropped"] for n in (0, 1)) > 10_000)
    pmd.stop()
    for number in (0, 1):
        sent = pmd.stats(number)["tx_packets"]  # the last of them may lie in the ring for a moment yet
        assert wait_until(lambda n=number, sent=sent: dpu.port(f"p{n}")["rx_packets"] == sent, 0.5)
    assert dpu.settled()
    for number in (0, 1):
        port = dpu.port(f"p{number}")
        assert port["tx_packets"] == RING_ENTRIES
        assert port["tx_packets"] + port["tx_dropped"] == dpu.port(f"p{1 - number}")["rx_packets"]
    pmd.forward("rxonly")
    pmd.start()
    counted(dpu, pmd)


@pytest.mark.parametrize("packed", [False, True])
def test_load_that_goes_round(dpu, plug, packed):
    """Two ports that send everything back, for a while: testpmd and the DPU count the same."""
    pmd = plug(2, packed=packed, queue_size=1024)
    pmd.send_to(0, MACS[1])
    pmd.send_to(1, MACS[0])
    pmd.forward("mac")  # what comes in at 0 goes out at 1, to the address set for it
    pmd.start_tx_first(8)
    assert wait_until(lambda: dpu.port("p0")["tx_packets"] > 100_000, 20)
    pmd.stop()
    assert dpu.settled()
    pmd.forward("rxonly")  # takes what was under way
    pmd.start()
    counted(dpu, pmd)
    assert info(dpu, "p0")["faults"] == info(dpu, "p1")["faults"] == {}


@pytest.mark.parametrize("mrg_rxbuf", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_ping_from_a_container(dpu, plug, packed, mrg_rxbuf):
    pmd = plug(1, packed=packed, mrg_rxbuf=mrg_rxbuf)
    pmd.forward("icmpecho")
    pmd.start()
    a = dpu.container("a")
    for size in (16, 56, 213, 214, 215, 1000, 1472):  # 214: a frame of the 256 octets that kernels see
        # with -w it waits for all answers; without, for the last one no longer than two round trips
        answer = a.ping(PONG, 5, "-i", 0.002, "-w", 5, "-s", size).stdout
        assert " 0% packet loss" in answer and "wrong data byte" not in answer, answer
    assert dpu.settled()
    assert pmd.stats()["rx_packets"] == dpu.port("p0")["tx_packets"] >= 36
    assert pmd.stats()["tx_packets"] == dpu.port("p0")["rx_packets"] >= 36


@pytest.mark.parametrize("packed", [False, True])
def test_jumbo_frames_in_several_buffers(dpu, plug, packed):
    """A frame of 9014 octets takes five receive buffers of 2 KB, and its answer as many descriptors."""
    options = ["--max-pkt-len=9018", "--enable-scatter", f"--tx-offloads={TX_OFFLOAD_MULTI_SEGS:#x}"]
    pmd = plug(1, packed=packed, options=options, port={"mtu": 9000})
    pmd.forward("icmpecho")
    pmd.start()
    a = dpu.container("a", mtu=9000)
    answer = a.ping(PONG, 20, "-i", 0.002, "-w", 5, "-M", "do", "-s", 8972).stdout
    assert " 0% packet loss" in answer and "wrong data byte" not in answer, answer
    assert dpu.port("p0")["rx_bytes"] > 20 * 9000


def test_frames_arrive_as_testpmd_made_them(dpu, plug):
    options = ["--tx-ip=10.1.2.3,10.7.0.1", "--tx-udp=1000,2000", "--txpkts=300"]
    pmd = plug(1, options=options)
    a = dpu.container("a")
    pmd.send_to(0, a.mac())
    with a.wire() as wire:
        pmd.forward("rxonly")
        pmd.start_tx_first(1)
        frames = [next_frame(wire, lambda frame: len(frame) == 300) for _ in range(BURST)]
    head = Ether(src=MACS[0], dst=a.mac()) / IP(src="10.1.2.3", dst="10.7.0.1", ttl=64, id=0, len=286)
    head = head / UDP(sport=1000, dport=2000, len=266, chksum=0)
    assert {frame[:42] for frame in frames} == {bytes(head)}


@pytest.mark.parametrize("packed", [False, True])
def test_testpmd_as_a_wire_between_two_networks(dpu, plug, packed):
    """TCP between containers of two VLANs: testpmd, which joins them, takes neither TSO nor owed sums."""
    for number, vlan in enumerate((10, 20)):
        dpu.container("ab"[number], vlan=vlan)
    a, b = dpu.containers
    pmd = plug(2, packed=packed, queue_size=1024)
    pmd.stop()
    toml = dpu.call("config.get")["toml"]
    for number, vlan in enumerate((10, 20)):
        toml = toml.replace(f'name = "p{number}"\n', f'name = "p{number}"\nvlan = {vlan}\n')
    dpu.call("config.apply", toml=toml)
    pmd.forward("io")
    pmd.start()
    a.ping(b.ipv4)
    assert transfer(a, b, 8 << 20)
    assert transfer(b, a, 8 << 20)
    pmd.stop()
    assert dpu.settled()
    assert dpu.port("p0")["gso_segments"] > 1000
    assert dpu.port("p0")["tx_checksums"] > 0
    assert checksum_errors(a) == checksum_errors(b) == 0


@pytest.mark.parametrize("packed", [False, True])
def test_testpmd_that_listens_is_found_again(dpu, plug, packed):
    pmd = plug(1, server=True, packed=packed)
    pmd.forward("icmpecho")
    pmd.start()
    a = dpu.container("a")
    a.ping(PONG)
    keys = dpu.call("port.show", name="p0")[0]["config"]
    dpu.call("port.del", name="p0")
    dpu.call("port.add", **keys)
    assert wait_until(lambda: live(dpu, "p0") == 1)
    assert wait_until(lambda: a.ping(PONG, check=False).returncode == 0)


@pytest.mark.parametrize("packed", [False, True])
def test_killed_testpmd_harms_nobody(dpu, plug, packed):
    a, b = dpu.container("a"), dpu.container("b")
    pmd = plug(2, packed=packed)
    pmd.send_to(0, MACS[1])
    pmd.send_to(1, MACS[0])
    pmd.forward("mac")
    ping = a.popen("ping", "-n", "-q", "-i", 0.01, "-c", 100, b.ipv4, stdout=-1, text=True)
    pmd.start_tx_first(8)
    assert wait_until(lambda: dpu.port("p0")["tx_packets"] > 1000)
    pmd.kill()
    assert wait_until(lambda: not info(dpu, "p0")["connected"])
    assert " 0% packet loss" in ping.communicate(timeout=30)[0]
    assert dpu.settled()
    with Testpmd(virtio_user(info(dpu, "p0")["socket"], MACS[0], packed=not packed)) as again:
        again.forward("icmpecho")
        again.start()
        a.ping(PONG, 3)
