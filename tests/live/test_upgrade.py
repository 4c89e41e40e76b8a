"""A daemon of another version comes while traffic runs: what fits is kept, the rest is made anew.

The other version is this checkout with a line changed, in a folder of its own.
"""

import os
import random
import re
import shutil
import signal
import time

import pytest

from dpu_runtime.kernels.compile.cache import cache_base
from dpu_runtime.plane.shared import regions
from dpu_runtime.registry import NAMES
from tests.live.daemon import ROOT, Container, alive, wait_until
from tests.live.raw_guest import RawGuest
from tests.live.streams import Stream, longest_gap, ping_series
from tests.live.test_af_xdp import Wired
from tests.live.veths import plug

pytestmark = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.slow,  # another version is compiled
    pytest.mark.timeout(900),
    pytest.mark.package("iproute2", "iputils-ping"),
]

GAP_S_MAX = 0.5  # without a packet
HAND_OVER_MS_MAX = 100.0
ACL = ("kernels/acl/layout.py", '"active": (np.dtype("u8"), (8,))', '"active": (np.dtype("u8"), (16,))')
DRIVERS = [
    (f"drivers/{kind}/layout.py", f"{array}_LAYOUT = {{", f'{array}_LAYOUT = {{"{kind}_more": ("u8", (8,)), ')
    for kind, array in (("vhost_user", "VHOST"), ("af_packet", "AF_PACKET"), ("af_xdp", "AF_XDP"))
]
BROKEN = ("dpu_runtime/plane/worker_thread.py", "import contextlib\n", "raise ImportError('broken')\n")
TAKEOVER = "dpu_runtime/device/takeover.py"
KEPT = ", ".join(region.name for region in regions() if region.name != "acl")
ANEW = f"regions kept: {KEPT}; made anew, of another layout: acl"


def other_version(folder, *changes):
    """A copy of this checkout with pieces of its files replaced: (path, old, new)."""
    for floor in ("dpu_runtime", "kernels", "drivers"):
        shutil.copytree(ROOT / floor, folder / floor, ignore=shutil.ignore_patterns("__pycache__"))
    for path, old, new in changes:
        text, written = (folder / path).read_text(), (folder / path).stat()
        assert text.count(old) == 1, path
        (folder / path).write_text(text.replace(old, new))
        os.utime(folder / path, ns=(written.st_atime_ns, written.st_mtime_ns))
    return folder


@pytest.fixture(scope="module")
def newer():
    """A version whose ACL has another layout."""
    return lasting("acl", ACL)


def lasting(name, *changes):
    """Another version that is always in one place, so that its machine code lasts."""
    folder = cache_base() / f"version-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    return other_version(folder, *changes)


@pytest.fixture
def pair(new_daemon, namespaces):
    """A daemon with containers `a` and `b`."""
    daemon = new_daemon().start()
    return daemon, *(Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate("ab", 1))


def upgrade(daemon, root, **how):
    """Kill the control process, and start one of the version in `root` beside the data plane."""
    saved = daemon.saved()
    daemon.kill_control()
    daemon.root = root
    return daemon.start(saved, **how)


def links(*containers):
    return [container.run("ip", "-o", "link", "show", "eth0").stdout for container in containers]


def rules(daemon):
    """Packets by rule."""
    return {view["config"]["name"]: view["packets"] for view in daemon.call("rule.show", stats=True)}


def made_way(daemon):
    """Milliseconds of each hand-over so far."""
    return [float(ms) for ms in re.findall(r"made way within ([\d.]+) ms", daemon.log())]


def test_under_traffic_one_function_is_of_another_layout(pair, newer):
    daemon, a, b = pair
    for name, keys in (("count", {"action": "allow"}), ("stop", {"action": "drop", "dport": 7777})):
        proto = {"proto": "icmp"} if name == "count" else {"proto": "udp"}
        daemon.call("rule.add", name=name, priority=1, **proto, **keys)
    before, interfaces = daemon.data_plane(), links(a, b)
    stream, ping = Stream(a, b), ping_series(a, b, 60)
    assert stream.goes_on()
    hits = rules(daemon)["count"]
    upgrade(daemon, newer)
    assert daemon.status()["adopted"] is True
    assert daemon.data_plane() != before
    assert stream.goes_on()
    assert ANEW in daemon.log()
    ping.send_signal(signal.SIGINT)
    gap_s, lost = longest_gap(ping)
    (hand_over_ms,) = made_way(daemon)
    print(f"hand-over {hand_over_ms} ms; longest gap between pings {gap_s * 1e3:.1f} ms, {lost} lost")
    assert (lost, links(a, b)) == (0, interfaces)
    assert gap_s < GAP_S_MAX
    assert hand_over_ms < HAND_OVER_MS_MAX
    assert rules(daemon)["count"] > hits > 0, "hits go on"
    assert "were in the hands" not in daemon.log()
    assert daemon.drops("restart") == 0
    sock = a.socket(2)
    sock.sendto(b"x", (b.ipv4, 7777))
    sock.close()
    assert wait_until(lambda: rules(daemon)["stop"] == 1), "rules are in force"
    assert not alive(before)
    # back again, and a death, which is no upgrade
    upgrade(daemon, ROOT)
    assert daemon.log().count(ANEW) == 2
    assert stream.goes_on()
    standby = daemon.wait_for_standby()
    os.kill(daemon.data_plane(), signal.SIGKILL)
    assert wait_until(lambda: daemon.data_plane() == standby)
    assert stream.goes_on()
    assert stream.finish()
    assert daemon.settled(), daemon.stats()["balance"]
    assert daemon.stop() == 0
    assert wait_until(lambda: not daemon.processes(), 30), daemon.log()


class EveryKind:
    """A port of each kind, with a container or a guest behind it."""

    def __init__(self, daemon, namespaces):
        self.daemon = daemon
        self.tap = Container(daemon, namespaces, "t", 1, False).attach()
        self.packet = plug(daemon, namespaces, "p", "af_packet")
        self.xdp = Wired(daemon, namespaces, "x", 3).attach()
        path = str(daemon.folder / "vm")
        daemon.call("port.add", name="vm", kind="vhost_user", socket=path)
        self.guest = RawGuest(path)
        self.guest.set_up()

    def all_pass(self):
        """Whether packets pass between all of them."""
        for one, other in ((self.tap, self.packet), (self.tap, self.xdp), (self.packet, self.xdp)):
            one.ping(other.ipv4)
        return self.guest_sends()

    def guest_sends(self):
        """Whether the device takes frames of the guest, on the connection that it had from the start."""
        self.guest.send_frames(7)
        return wait_until(lambda: self.guest.used() == self.guest.sent)

    def all_up(self):
        """Whether every port is up, and the guest did not have to connect again."""
        info = {view["config"]["name"]: view["info"] for view in self.daemon.call("port.show")}
        states = {name: one["state"] for name, one in info.items()}
        return states == dict.fromkeys(["t", "p", "x", "vm"], "up") and (
            info["vm"]["vhost_user"]["connections"] == 1
        )


def test_ports_of_every_kind_are_handed_over(new_daemon, namespaces, newer):
    daemon = new_daemon().start(standby=False)
    ports = EveryKind(daemon, namespaces)
    with ports.guest:
        assert ports.all_pass()
        upgrade(daemon, newer, standby=False)
        assert ANEW in daemon.log()
        assert ports.all_pass()
        assert ports.all_up()
    assert daemon.settled(), daemon.stats()["balance"]


@pytest.mark.parametrize(
    ("step", "end"),
    [
        ("the old one has paused", "__import__('os')._exit(9)"),
        ("no packet is for a port that is not there yet", "__import__('os')._exit(9)"),
        ("no packet is for a port that is not there yet", "raise RuntimeError('planted')"),
    ],
)
def test_a_hand_over_that_comes_to_nothing(new_daemon, namespaces, newer, step, end):
    """The data plane that had paused goes on, whatever the fresh one had made of rings and rows."""
    daemon = new_daemon().start(standby=False)
    ports = EveryKind(daemon, namespaces)
    plane, saved = daemon.data_plane(), daemon.saved()
    text = (ROOT / TAKEOVER).read_text()
    (line,) = (line for line in text.splitlines() if step in line)
    ends = (TAKEOVER, line, f"{line}\n        {end}")
    with ports.guest:
        assert ports.all_pass()
        daemon.kill_control()
        try:
            daemon.root = lasting("acl", ACL, ends)
            assert daemon.spawn(saved).wait(120) == (1 if "raise" in end else 9)
        finally:
            lasting("acl", ACL)
        said = f"data plane {plane} is not taken over, and goes on as it is: planted"
        assert (said in daemon.log()) == ("raise" in end)
        assert ports.guest_sends()
        ports.tap.ping(ports.packet.ipv4)
        daemon.root = ROOT
        daemon.start(saved)
        assert daemon.data_plane() == plane
        back = wait_until(lambda: ports.tap.ping(ports.xdp.ipv4, check=False).returncode == 0, 10)
        assert back, "the sockets of an af_xdp port are made anew"
        assert ports.all_pass()
        assert ports.all_up()
        upgrade(daemon, newer, standby=False)
        assert ports.all_pass()
        assert ports.all_up()
    assert daemon.settled(), daemon.stats()["balance"]


def test_ports_of_a_kind_of_another_layout_go_and_come_again(new_daemon, namespaces):
    """The queues of tap ports go on; the others are opened anew, and a guest connects again."""
    daemon = new_daemon().start(standby=False)
    a, b = (Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate("ab", 1))
    packet = plug(daemon, namespaces, "p", "af_packet")
    xdp = Wired(daemon, namespaces, "x", 4).attach()
    path = str(daemon.folder / "vm")
    daemon.call("port.add", name="vm", kind="vhost_user", socket=path)
    stream, plane = Stream(a, b), daemon.data_plane()
    with RawGuest(path) as guest:
        guest.set_up()
        guest.send_frames(5)
        assert wait_until(lambda: guest.used() == 5)
        upgrade(daemon, lasting("drivers", *DRIVERS), standby=False)
        kept = ", ".join(["frame", *NAMES])
        anew = f"kept: {kept}; made anew, of another layout: vhost_user, af_packet"
        assert f"data plane {plane} is of another version; regions {anew}, af_xdp" in daemon.log()
        assert stream.goes_on()
        assert guest.hung_up(5)
    for one, other in ((a, packet), (a, xdp), (packet, xdp)):
        assert wait_until(lambda one=one, other=other: one.ping(other.ipv4, check=False).returncode == 0)
    with RawGuest(path) as guest:
        guest.set_up()
        guest.send_frames(7)
        assert wait_until(lambda: guest.used() == 7)
        info = {view["config"]["name"]: view["info"]["state"] for view in daemon.call("port.show")}
        assert info == dict.fromkeys(["a", "b", "p", "x", "vm"], "up")
    assert stream.finish()
    assert daemon.settled(), daemon.stats()["balance"]


def refused(daemon, saved, root, *wrap):
    """Start another version that must fail; returns what it said."""
    log = daemon.log()
    daemon.root = root
    assert daemon.spawn(saved, wrap).wait(120) == 1
    daemon.root = ROOT
    return daemon.log().removeprefix(log)


def test_one_that_fails_leaves_everything_as_it_runs(pair, newer, tmp_path):
    daemon, a, b = pair
    plane, interfaces, stream = daemon.data_plane(), links(a, b), Stream(a, b)
    saved = daemon.saved()
    daemon.kill_control()
    left = os.stat(f"/proc/{plane}/fd/{memory_of(plane)}").st_size
    said = refused(daemon, saved, newer, "prlimit", f"--fsize={left}")
    why = r"shared memory: region 'acl' of \d+ octets: no room: File too large"
    assert re.search(f"data plane {plane} is not taken over, and goes on as it is: {why}", said), said
    assert stream.goes_on()
    said = refused(daemon, saved, other_version(tmp_path / "broken", ACL, BROKEN))
    assert f"data plane {plane} is not taken over, and goes on as it is: data plane did not start" in said
    assert stream.goes_on()
    daemon.start(saved)
    assert (daemon.data_plane(), links(a, b)) == (plane, interfaces)
    assert stream.finish()
    assert daemon.settled(), daemon.stats()["balance"]


def memory_of(pid):
    """Descriptor of the shared memory in a process."""
    fds = os.listdir(f"/proc/{pid}/fd")
    return next(fd for fd in fds if "dpu-shared" in os.readlink(f"/proc/{pid}/fd/{fd}"))


def test_killed_at_any_moment_of_an_upgrade(pair, newer):
    """The control process dies; either data plane may be the one that runs then, and one does."""
    daemon, a, b = pair
    upgrade(daemon, newer)
    stream, versions, seed = Stream(a, b), [ROOT, newer], random.Random(1)
    saved = daemon.saved()
    seconds = time.monotonic()
    upgrade(daemon, ROOT)
    seconds = time.monotonic() - seconds  # with machine code on disk
    for turn in range(8):
        daemon.kill_control()
        daemon.root = versions[turn % 2 - 1]
        process = daemon.spawn(saved)
        time.sleep(seconds * seed.uniform(0.3, 1.1))
        process.kill()
        process.wait()
        assert stream.goes_on(20), daemon.log()
        daemon.root = seed.choice(versions)
        daemon.start(saved)
        assert daemon.status()["adopted"] is True
        assert stream.goes_on()
    assert stream.finish()
    assert daemon.settled(), daemon.stats()["balance"]
    assert daemon.stop() == 0
