"""bench/applications.py: small, with the real programs; what its checks catch."""

import pytest

from bench import applications
from bench.peers import redis, web
from bench.peers.veth import Veth
from tests import leaks

PROGRAMS = ("iproute2", "nginx-light", "wrk", "curl", "redis-server", "redis-tools")


def answers(**changed):
    return web.Answers(
        **{"requests": 10, "octets": 20_000, "us": 1000, "errors": 0, "p50": 1, "p99": 2} | changed
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"errors": 3}, "bridge: 3 of 10 requests failed"),
        ({"octets": 10_000}, "bridge: answers are too short"),
        ({"requests": 0, "octets": 0}, "bridge: no answer came"),
    ],
)
def test_what_is_wrong_with_answers_is_said(changed, message):
    assert web.checked(answers(), 1024, "bridge").rate == 10_000
    with pytest.raises(AssertionError, match=message):
        web.checked(answers(**changed), 1024, "bridge")


def test_what_redis_benchmark_prints_is_read():
    printed = """WARNING: something
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET","50000.00","0.1","0.1","0.200","0.3","0.400","1"
"""
    assert redis.parse(printed) == {"SET": redis.Answers(50_000, 200, 400)}


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.package(*PROGRAMS)
def test_a_request_that_fails_is_caught():
    with Veth() as pair, web.files() as folder, redis.serving(pair):
        web.serve(pair, folder)
        (folder / web.SMALL).unlink()
        with pytest.raises(AssertionError, match=r"veth: (\d+) of \1 requests failed"):
            web.ask(pair, folder, web.SMALL, 2, 1)
        assert redis.counted(pair) == {"SET": (0, 0), "GET": (0, 0)}
        pair.client.run("redis-cli", "-h", pair.address, "-p", redis.PORT, "set", "key", "value", "no option")
        assert redis.counted(pair) == {"SET": (1, 1), "GET": (0, 0)}


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.package(*PROGRAMS)
def test_all_of_it_is_measured_and_nothing_is_left(monkeypatch):
    monkeypatch.setattr(applications, "PEERS", (applications.BRIDGE, applications.DPU))
    monkeypatch.setattr(applications, "http", lambda *args, every=applications.http: every(*args)[1:2])
    before = set(leaks.processes())
    made = {one.name: one for one in applications.run(1, repeats=1, requests=500)}
    assert set(leaks.processes()) - before == set()
    figures = [f"Redis, {n} at once, {command}" for n in (1, 16) for command in redis.COMMANDS]
    for figure in ("HTTP, 1 MB, bodies", *figures, *(f"{figure}, p99" for figure in figures)):
        dpu, bridge, ratio = (made[f"{figure}: {name}"] for name in ("DPU", "bridge", "DPU / bridge"))
        assert ratio.median == pytest.approx(dpu.median / bridge.median)
        assert ratio.lower_is_better == figure.endswith("p99")
