"""Host programs survive the daemon's processes, and the daemon survives host programs."""

import os
import signal
import threading
import time

import pytest

from dpu_runtime.host import DpuError
from tests.live.daemon import START_TIMEOUT_S, alive, wait_until
from tests.live.host_ports import HostPort, connect, udp
from tests.live.raw_guest import BUFFERS_OFFSET, GUEST, MEMORY_BYTES, RawGuest

pytestmark = [pytest.mark.root, pytest.mark.compiled]


class Stream(threading.Thread):
    """Numbered frames from one host program to another until `stop`; what arrived is in `numbers`."""

    def __init__(self, source, target, pause_s=0.0005):
        super().__init__(daemon=True)
        self.source, self.target, self.pause_s = source, target, pause_s
        self.numbers = []
        self.sent = 0
        self.errors = []
        self._stopping = threading.Event()
        self._read_all = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)

    def run(self):
        self._reader.start()
        while not self._stopping.is_set():
            try:
                payload = self.sent.to_bytes(8, "big")
                if self.source.port.send(udp(self.source.number, self.target.number, payload), timeout=0.1):
                    self.sent += 1
            except DpuError as error:  # the link is down: it comes back
                self.errors.append(error)
                time.sleep(0.01)
            time.sleep(self.pause_s)

    def _read(self):
        while not self._read_all.is_set():
            try:
                self.numbers += [int.from_bytes(got[0][42:50], "big") for got in self.target.receive(1, 0.1)]
            except DpuError as error:
                self.errors.append(error)
                time.sleep(0.01)

    def flows(self, count=50, timeout_s=10.0):
        """Whether `count` more frames arrive in time."""
        before = len(self.numbers)
        return wait_until(lambda: len(self.numbers) >= before + count, timeout_s)

    def stop(self):
        """End both threads, when what is under way has arrived."""
        self._stopping.set()
        self.join(10)
        while self.flows(1, timeout_s=0.3):
            pass
        self._read_all.set()
        self._reader.join(10)


@pytest.fixture
def pair_on(new_daemon):
    """Start a daemon with two vhost_user ports and host programs that stream; ends them all."""
    made = []

    def start(**runtime):
        daemon = new_daemon()
        text = "".join(
            f'[[port]]\nname = "{name}"\nkind = "vhost_user"\nsocket = "{daemon.folder}/{name}.sock"\n'
            for name in "ab"
        )
        config = daemon.config_file(text, **runtime)
        daemon.start(config)
        a, b = (HostPort(daemon, name, number, add=False) for number, name in enumerate("ab", 1))
        made.extend((a, b))
        connect(a, b)
        stream = Stream(a, b)
        stream.start()
        made.insert(0, stream)
        assert stream.flows()
        return daemon, config, a, b, stream

    yield start
    for thing in made:
        thing.stop() if isinstance(thing, Stream) else thing.close()


def test_data_plane_killed_under_traffic(pair_on):
    daemon, _, a, b, stream = pair_on()
    for _ in range(3):
        daemon.wait_for_standby()
        os.kill(daemon.data_plane(), signal.SIGKILL)
        assert stream.flows(200)
    assert stream.errors == []  # the connection was the control process's, and stayed
    stream.stop()
    assert a.port.stats()["reconnects"] == b.port.stats()["reconnects"] == 0
    assert stream.sent - len(set(stream.numbers)) < 100  # those in hand
    assert "no data plane" not in daemon.log()  # each standby took over at once
    assert a.buffers_are_all_there() and b.buffers_are_all_there()


def test_control_process_killed_under_traffic(pair_on):
    daemon, config, a, _, stream = pair_on(standby=False)
    plane = daemon.data_plane()
    daemon.kill_control()
    assert stream.flows(200)
    daemon.start(config)
    assert daemon.data_plane() == plane
    assert stream.flows(200)
    assert a.info()["vhost_user"]["connected"]
    assert a.port.stats()["reconnects"] == 0
    stream.stop()
    assert stream.errors == []
    a.close()
    assert wait_until(lambda: not a.info()["vhost_user"]["connected"])


def test_daemon_killed_and_started_under_traffic(pair_on):
    daemon, config, a, b, stream = pair_on(standby=False)
    for round_ in range(1, 4):
        plane = daemon.data_plane()
        daemon.kill_control()
        os.kill(plane, signal.SIGKILL)
        assert wait_until(lambda plane=plane: not alive(plane))
        daemon.start(config)
        assert stream.flows(100, START_TIMEOUT_S), daemon.log()
        assert wait_until(lambda round_=round_: a.port.stats()["reconnects"] >= round_)
    stream.stop()
    assert a.buffers_are_all_there() and b.buffers_are_all_there()
    assert b.port.stats()["bufs_rings"] > 0


def test_memory_taken_away_under_traffic(dpu):
    """A guest that shrinks its memory loses its connection; the others do not notice."""
    a, b = (HostPort(dpu, name, number) for number, name in enumerate("ab", 1))
    connect(a, b)
    stream = Stream(a, b)
    stream.start()
    plane = dpu.data_plane()
    path = dpu.folder / "evil.sock"
    dpu.call("port.add", name="evil", kind="vhost_user", socket=str(path))
    try:
        for _ in range(3):
            with RawGuest(path) as guest:
                guest.set_up()
                guest.send_frames(8)
                assert wait_until(lambda guest=guest: guest.used() >= 8)
                guest.shrink()
                guest.kick()
                assert guest.hung_up(timeout_s=5)
        assert stream.flows(100)
    finally:
        stream.stop()
        a.close()
        b.close()
    assert stream.errors == []
    assert dpu.data_plane() == plane
    assert "took away memory" in dpu.log()


LIES = {
    "outside": {"guest_addr": GUEST + MEMORY_BYTES},
    "across the end": {"guest_addr": GUEST + MEMORY_BYTES - 30},
    "wraps": {"guest_addr": (1 << 64) - 8},
    "huge": {"length": 0xFFFF_FFFF},
    "empty": {"length": 0},
    "loop": {"flags": 1, "following": 0},
    "beyond the table": {"flags": 1, "following": 9999},
    "for writing": {"flags": 2},
    "indirect, odd length": {"flags": 4},
    "indirect outside": {"flags": 4, "guest_addr": 0, "length": 64},
    "indirect of garbage": {"flags": 4, "guest_addr": GUEST + BUFFERS_OFFSET, "length": 64},
}


@pytest.mark.parametrize("lie", LIES)
def test_descriptors_that_lie(dpu, lie):
    """Each goes back unused, counted; the ring goes on."""
    path = dpu.folder / "evil.sock"
    dpu.call("port.add", name="evil", kind="vhost_user", socket=str(path))
    with RawGuest(path) as guest:
        guest.set_up()
        before = sum(dpu.stats()["drops"].values())
        guest.send_frames(4, **LIES[lie])
        guest.send_frames(1)
        assert wait_until(lambda: guest.used() == 5)
        assert wait_until(lambda: sum(dpu.stats()["drops"].values()) == before + 5)  # the last: nobody else
        assert dpu.drops("no_egress") > 0
        assert dpu.port("evil")["rx_packets"] == 5


def test_ring_that_makes_no_sense_stops_alone(dpu):
    """More available than the ring holds: that ring is over, and `port show` says why."""
    path = dpu.folder / "evil.sock"
    dpu.call("port.add", name="evil", kind="vhost_user", socket=str(path))
    with RawGuest(path) as guest:
        guest.set_up()
        guest.send_frames(1)
        assert wait_until(lambda: guest.used() == 1)
        guest.sent += 1000
        guest.send_frames(1)
        faults = wait_until(lambda: dpu.call("port.show", name="evil")[0]["info"]["vhost_user"]["faults"])
        assert list(faults.values()) == ["the driver offers more buffers than the ring holds"]
        assert wait_until(lambda: guest.errors() == 1)
    with RawGuest(path) as guest:  # a fresh connection is a fresh start
        guest.set_up()
        guest.send_frames(1)
        assert wait_until(lambda: guest.used() == 1)


def test_call_eventfd_that_blocks(dpu):
    """A driver that fills its eventfd makes a worker wait for a moment, and loses its connection."""
    a, b = (HostPort(dpu, name, number) for number, name in enumerate("ab", 1))
    connect(a, b)
    path = dpu.folder / "evil.sock"
    dpu.call("port.add", name="evil", kind="vhost_user", socket=str(path))
    stream = Stream(a, b)
    stream.start()
    try:
        with RawGuest(path) as guest:
            guest.set_up()
            guest.send_frames(1)
            assert wait_until(lambda: guest.used() == 1)
            os.set_blocking(guest.call_fd[1], True)
            guest.fill_call()
            guest.send_frames(1)
            assert guest.hung_up(timeout_s=5)
        assert stream.flows(100)
    finally:
        stream.stop()
        a.close()
        b.close()
    assert "made a worker wait" in dpu.log()
