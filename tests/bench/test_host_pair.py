"""bench/peers/host_pair: both ends of a port, and what it counts."""

from types import SimpleNamespace

import pytest

from bench.peers import cpu_time, vhost_dpu
from bench.peers.cpu_time import undisturbed
from bench.peers.host_pair import HostPair, Line, built, parse

SECONDS = 0.1


def line(**fields):
    """A Line with these fields, the others 0."""
    return Line("total", **(dict.fromkeys(list(Line.__dataclass_fields__)[1:], 0) | fields))


def test_a_line_is_parsed():
    words = " ".join(f"{name}={n}" for n, name in enumerate(list(Line.__dataclass_fields__)[1:]))
    parsed = parse(f"again {words.replace('seconds=1', 'seconds=1.5')}")
    assert (parsed.what, parsed.seconds, parsed.waited_ns) == (
        "again",
        1.5,
        len(Line.__dataclass_fields__) - 2,
    )


def test_what_arrived_twice_is_not_taken_for_what_was_lost():
    assert line(sent=10, whole=10, repeated=1).lost == 1
    assert line(sent=10, whole=10).lost == 0


def test_the_best_sample_counts(monkeypatch):
    monkeypatch.setattr(cpu_time, "TRIES_MAX", 3)
    stolen = iter([50.0, 20.0, 30.0, 50.0, 1.0, 0.5])

    def take():
        return SimpleNamespace(stolen_percent=next(stolen), arrived=True)

    assert undisturbed(take).stolen_percent == 20
    assert undisturbed(take).stolen_percent == 1


def test_a_sample_that_got_no_cpu_does_not_count(monkeypatch):
    monkeypatch.setattr(cpu_time, "TRIES_MAX", 1)
    monkeypatch.setattr(cpu_time, "STARVED_MAX", 2)

    def taken(*samples):
        made = iter(SimpleNamespace(stolen_percent=stolen, arrived=arrived) for stolen, arrived in samples)
        return undisturbed(lambda: next(made))

    assert taken((90.0, False), (80.0, False), (70.0, True)).arrived
    assert not taken((90.0, False), (80.0, False), (70.0, False)).arrived, "for ever it is not tried"
    assert not taken((1.0, False)).arrived, "it had its CPU"


@pytest.fixture(scope="module")
def program():
    with built() as path:
        yield path


@pytest.fixture
def dpu(request, socket_dir):
    """A DPU with one port or two, by the fixture's parameter: (variant, ports)."""
    variant, ports = request.param
    sockets = [str(socket_dir / f"{number}.sock") for number in range(ports)]
    with vhost_dpu.VhostDpu(sockets, 1, socket_dir, variant, rules=10) as made:
        yield made


every_dpu = pytest.mark.parametrize(
    "dpu",
    [(vhost_dpu.LOOPED, 1), (vhost_dpu.JOINED, 2), (vhost_dpu.SWITCHED, 2)],
    indirect=True,
    ids=lambda case: case[0],
)
needs_daemon = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.package("gcc", "libc6-dev"),
]


def marked(test):
    """`test` with the marks of those that start a daemon."""
    for mark in needs_daemon:
        test = mark(test)
    return test


@marked
@every_dpu
def test_what_is_sent_arrives_once_and_whole(program, dpu):
    for options in (["-s", 64], ["-s", 64, "-w"], ["-s", 1514], ["-s", 65214, "-m", 1448, "-q", 256]):
        with HostPair(program, dpu.sockets, 0, "-t", SECONDS, *options) as pair:
            pair.wait_ready()
            counted, total, _ = pair.finish(SECONDS)
        headers = 54 if "-m" in options else 42
        assert total.sent == total.whole == total.frames > counted.frames > 100
        assert total.octets == total.frames * (options[1] - headers)
        assert total.owed == (total.frames if "-m" in options else 0)
        assert total.lost == total.repeated == total.damaged == total.errors == total.bufs_missing == 0


@marked
@pytest.mark.parametrize("dpu", [(vhost_dpu.SWITCHED, 2)], indirect=True)
def test_packets_leave_by_the_clock_and_carry_their_time(program, dpu):
    options = ["-t", 0.2, "-r", 5000, "-w"]
    with HostPair(program, dpu.sockets, 0, *options, latencies=True) as pair:
        counted, total, latencies = pair.finish(1)
    assert 200 < counted.sent <= 1001
    assert total.lost == 0
    assert abs(len(latencies) - counted.frames) <= 32  # what was under way in the end
    assert 0 < latencies.min() < 10_000_000


@pytest.mark.root
@pytest.mark.package("gcc", "libc6-dev")
def test_a_program_that_fails_says_why(program):
    for options, text in ((["-s", 10], "usage: host_pair"), (["-s", 64, "-q", 3], "ring_size")):
        with (
            HostPair(program, ["/nowhere/a.sock"], 0, *options) as pair,
            pytest.raises(RuntimeError, match=text),
        ):
            pair.finish()
