"""Sockets, front-ends that come and go, and a control process that is not the first."""

import array
import itertools
import json
import os
import socket
import stat
import time

import pytest

from dpu_runtime.drivers.port import Kind, PortError
from dpu_runtime.drivers.vhost_user import features as f
from dpu_runtime.drivers.vhost_user.messages import HEADER, Request
from dpu_runtime.drivers.vhost_user.port import HANGUP_GRACE_S, VhostUserPort
from tests.conventions import imports_of
from tests.drivers.vhost_user.raw_frontend import (
    Frontend,
    HoldingPlane,
    Served,
    listen,
    open_fds,
    single,
    state,
    u64,
    wait_for,
)

R = Request


def refused(path, **kwargs):
    """The PortError of opening a port there; nothing is left."""
    port = VhostUserPort("vm", path, **kwargs)
    with pytest.raises(PortError) as error:
        port.open()
    port.close()
    return str(error.value)


# the socket


def test_the_socket_is_its_owners_alone_and_goes_with_the_port(path):
    port = VhostUserPort("vm", path)
    assert (port.open(), port.kind, port.name) == ([], Kind.VHOST_USER, "vm")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    port.close()
    assert not os.path.exists(path)
    port.close()


def test_the_socket_has_the_mode_and_the_group_it_is_given(path):
    group = str(os.getgid())
    port = VhostUserPort("vm", path, access=(0o660, group))
    before = os.umask(0o077)
    try:
        port.open()
    finally:
        os.umask(before)
    found = os.stat(path)
    port.close()
    assert (stat.S_IMODE(found.st_mode), str(found.st_gid)) == (0o660, group)


def test_a_group_that_is_not_there_is_refused(path):
    text = refused(path, access=(0o660, "no-such-group"))
    assert text == "port 'vm': socket_group: this machine has no group 'no-such-group'"
    assert not os.path.exists(path)


def test_a_stale_socket_makes_room(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
        left.listen()
    port = VhostUserPort("vm", path)
    port.open()
    port.close()


def test_a_socket_in_use_is_left_alone(path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        assert refused(path) == f"port 'vm': bind {path}: somebody listens on it"
        other.accept()[0].close()
        assert os.path.exists(path)


def test_another_file_is_left_alone(path):
    with open(path, "w") as file:
        file.write("mine")
    assert refused(path) == f"port 'vm': bind {path}: it exists, and is no socket"
    with open(path) as file:
        assert file.read() == "mine"


def test_no_such_folder(path):
    assert "No such file or directory" in refused(f"{path}.d/vm.sock")


@pytest.mark.parametrize("client", [False, True])
@pytest.mark.parametrize(("bad", "size"), [("/" + "x" * 107, 108), ("", 0)])
def test_a_path_that_is_none(bad, size, client):
    assert f"socket path of {size} octets, allowed are 1 to 107" in refused(bad, client=client)


def test_a_file_that_took_its_place_is_left_alone(path):
    port = VhostUserPort("vm", path)
    port.open()
    os.unlink(path)
    with open(path, "w"):
        port.close()
    assert os.path.exists(path)


def test_the_control_half_needs_no_numba():
    assert "numba" not in imports_of("dpu_runtime.drivers.vhost_user.port")


# front-ends that come and go


def test_one_front_end_at_a_time(served, caplog):
    with served.connect() as first, served.connect() as second:
        first.start()
        began = time.monotonic()
        assert second.closed()
        assert time.monotonic() - began < HANGUP_GRACE_S + 1
        assert "port vm: a second front-end is turned away" in caplog.text
        first.ok(R.SET_OWNER)
        assert served.plane.connections == [True]
    served.gone()


def test_a_front_end_may_come_back_at_once(served):
    held = None
    for number in range(20):
        with served.connect() as frontend:
            frontend.start()
            assert served.plane.ring(0)["serial"] == number + 1  # it grows from one connection to the next
            held = held or open_fds()
            assert open_fds() == held
    served.gone()
    assert served.port.info()["reconnects"] == 19


def test_a_stalled_front_end_holds_up_nobody(served, socket_dir):
    other = Served(VhostUserPort("other", str(socket_dir / "other.sock")))
    other.share_loop(served)
    with other, served.connect() as stalled, served.connect() as waiting, other.connect() as frontend:
        stalled.send_raw(HEADER.pack(R.SET_FEATURES, 1, 8) + b"123")
        frontend.start()
        stalled.send_raw(b"45678" + HEADER.pack(R.GET_FEATURES, 1, 0)[:1])
        assert stalled.closed()  # 0x38373635... is not offered
        assert waiting.ask_u64(R.GET_QUEUE_NUM) == 2
        flood = HEADER.pack(R.GET_FEATURES, 1, 0) * 1000
        waiting.sock.settimeout(0.2)  # and it reads no reply
        with pytest.raises(TimeoutError):
            while True:
                waiting.send_raw(flood)
        began = time.monotonic()
        for _ in range(100):
            frontend.ok(R.SET_OWNER)
        assert time.monotonic() - began < 2


def test_one_that_is_never_silent_holds_up_nobody(served, socket_dir):
    """Its messages are all there before the first is read."""
    with served.connect() as frontend:
        frontend.negotiate()
        for _ in range(20):
            frontend.send_raw(HEADER.pack(R.SET_OWNER, 1, 0) * 500)
        began = time.monotonic()
        served.settle()
        assert time.monotonic() - began < 0.5
        frontend.ask(R.GET_FEATURES)
    served.gone()


def test_a_plane_that_fails_costs_the_connection(served, caplog):
    served.plane.ring_base = lambda ring: 1 // 0
    with served.connect() as frontend:
        frontend.start()
        frontend.send(R.GET_VRING_BASE, state(0))
        assert frontend.closed()
    served.gone()
    assert "ZeroDivisionError" in caplog.text
    with served.connect() as frontend:
        frontend.start()
    served.gone()


def test_hanging_up_needs_no_data_plane(path):
    """Copies of the connection elsewhere do not keep it open."""
    plane = HoldingPlane()
    with Served(VhostUserPort("vm", path), plane) as served, served.connect() as frontend:
        frontend.start()
        frontend.send(R.SEND_RARP, u64(0))
        plane.refuses = "gone"
        assert frontend.closed()
    plane.close()


# client mode


def test_a_client_waits_for_its_front_end_and_comes_back(path, caplog):
    caplog.set_level("INFO", "dpu.vhost_user")
    with Served(VhostUserPort("vm", path, client=True)) as served:
        wait_for(lambda: f"connect {path}: No such file or directory; trying again" in caplog.text)
        with listen(path) as listener:
            for number in range(3):
                with Frontend(sock=listener.accept()[0]) as frontend:
                    frontend.start()
                    assert served.port.info()["peer_pid"] == os.getpid()
                    assert served.port.info()["reconnects"] == number
        os.unlink(path)
        wait_for(lambda: caplog.text.count("trying again") == 2)
        with listen(path) as listener, Frontend(sock=listener.accept()[0]) as frontend:
            frontend.start()
        os.unlink(path)


def test_a_client_backs_off(path, monkeypatch):
    waited = []
    monkeypatch.setattr("dpu_runtime.drivers.vhost_user.port.RECONNECT_S_MIN", 0.001)
    monkeypatch.setattr("dpu_runtime.drivers.vhost_user.port.RECONNECT_S_MAX", 0.016)

    def no_jitter(_low, _high):
        waited.append(time.monotonic())
        return 1.0

    monkeypatch.setattr("dpu_runtime.drivers.vhost_user.port.random.uniform", no_jitter)
    with Served(VhostUserPort("vm", path, client=True)):
        wait_for(lambda: len(waited) > 8)
    gaps = [after - before for before, after in itertools.pairwise(waited)]
    for gap, least in zip(gaps, (0.001, 0.002, 0.004, 0.008, 0.016, 0.016), strict=False):
        assert gap >= least * 0.9, gaps


def test_a_full_backlog_is_not_waited_for(path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with Served(VhostUserPort("vm", path, client=True)) as served:
            served.settle()
            assert not served.plane.connections
            listener.accept()[0].close()
            wait_for(lambda: served.plane.connections == [True])
            listener.accept()[0].close()
            wait_for(lambda: served.plane.connections[:2] == [True, False])
    os.unlink(path)


# what there is to see


def test_capabilities_follow_the_driver(served):
    port = served.port
    assert port.capabilities.notes == [f"not connected: waiting on {port.path}"]
    assert port.capabilities.queues == 2
    with served.connect() as frontend:
        frontend.ask(R.GET_FEATURES)
        assert port.capabilities.notes == ["connected, but its driver has negotiated nothing yet"]
        everything = f.RING_FEATURES | f.OFFLOAD_FEATURES
        frontend.negotiate(features=everything)
        frontend.ask(R.GET_FEATURES)
        got = port.capabilities
        assert got.tx_csum and got.tso4 and got.tso6 and got.ecn and got.uso and got.gro
        assert got.notes == ["packed ring"]
        without = everything & ~f.mask(
            f.VIRTIO_NET_F_GUEST_TSO4, f.VIRTIO_F_RING_PACKED, f.VIRTIO_NET_F_MRG_RXBUF
        )
        frontend.ok(R.SET_FEATURES, u64(without))
        got = port.capabilities
        assert not got.tso4 and got.tso6 and got.ecn
        assert got.notes == [
            "the driver did not negotiate GUEST_TSO4: large TCP over IPv4 is cut in software",
            "split ring",
            "without MRG_RXBUF: a packet must fit one buffer chain of the driver's",
        ]
        frontend.ok(R.SET_FEATURES, u64(everything & ~f.mask(f.VIRTIO_NET_F_GUEST_CSUM)))
        got = port.capabilities
        assert not (got.tx_csum or got.tso4 or got.tso6 or got.ecn or got.uso)  # virtio 1.2 5.1.3.1
    served.gone()


def test_offload_false_offers_none(path):
    with Served(VhostUserPort("vm", path, offload=False)) as served:
        with served.connect() as frontend:
            assert frontend.ask_u64(R.GET_FEATURES) == f.RING_FEATURES
            frontend.start()
            got = served.port.capabilities
            assert "offloads are off: the configuration says offload = false" in got.notes
            assert not got.tx_csum and not got.gro
        served.gone()


def test_info(served):
    with served.connect() as frontend:
        frontend.start(rings=3)
        assert served.port.info() == {
            "socket": served.port.path,
            "mode": "server",
            "connected": True,
            "peer_pid": os.getpid(),
            "connections": 1,
            "reconnects": 0,
            "features": ["MRG_RXBUF", "PROTOCOL_FEATURES", "VERSION_1"],
            "protocol_features": [
                "MQ",
                "LOG_SHMFD",
                "REPLY_ACK",
                "NET_MTU",
                "INFLIGHT_SHMFD",
                "RESET_DEVICE",
                "CONFIGURE_MEM_SLOTS",
                "STATUS",
            ],
            "ring_format": "split",
            "queue_pairs_live": 1,
            "rings_live": [0, 1, 2],
            "memory_regions": 1,
            "memory_bytes": 1 << 20,
            "driver_mtu": None,
        }
    served.gone()
    assert served.port.info()["ring_format"] is None


def test_stop_and_close_with_a_front_end_there(served):
    frontend = served.connect()
    frontend.start()
    frontend.send_raw(b"\x01", [frontend.made[0]])
    served.settle()
    served.leave()
    assert frontend.closed()
    frontend.__exit__()
    assert served.plane.connections == [True]


def test_a_snapshot_of_everything_fits_one_message_of_the_channel(path):
    from dpu_runtime.plane import channel

    with Served(VhostUserPort("vm", path)) as served:
        with served.connect() as frontend:
            frontend.negotiate(features=f.RING_FEATURES)
            for slot in range(32):
                base = (1 << 63) + (slot << 32)
                frontend.ok(R.ADD_MEM_REG, single(base, 1 << 20, base), [frontend.memory()])
            for ring in range(32):
                place = (1 << 63) + ring * 0x4000
                frontend.send(R.SET_VRING_NUM, state(ring, 256))
                addresses = array.array("Q", [place, place + 0x2000, place + 0x3000, 1 << 62])
                frontend.send(R.SET_VRING_ADDR, state(ring, 1) + addresses.tobytes())
                for request in (R.SET_VRING_CALL, R.SET_VRING_ERR, R.SET_VRING_KICK):
                    frontend.ok(request, u64(ring), [frontend.eventfd()])
            snapshot, fds = served.port.snapshot()
            assert all(ring["live"] for ring in snapshot["rings"]) and len(snapshot["rings"]) == 32
            assert len(json.dumps(snapshot)) < channel.MESSAGE_BYTES_MAX / 2
            assert len(fds) == 2 + 32 + 96 < channel.FDS_MAX
        served.gone()
