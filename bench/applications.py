"""HTTP and Redis between two containers through the DPU, beside a Linux bridge, alternating.

Beside: a bridge; a veth pair without a switch, the limit of both.
Cases:  nginx, one worker, and wrk: bodies of 1 KB over connections that stay, of 1 MB, and a connection for
        each request. redis-server without a disk and redis-benchmark with 50 clients: SET and GET, one
        command at a time and 16.
Size:   seconds of HTTP a measurement; of Redis, --requests of each command, four times that with 16 at once.
CPUs:   wrk and redis-benchmark on CPU 0, the servers on 1, unless --cpus says otherwise; the DPU's worker on
        CPU 1, as configured by default.
Checks: no request fails, by the client's count and by Redis' own; a body is octet by octet what is served,
        and none is short; the DPU's counters add up and it dropped nothing.
"""

import contextlib
from functools import partial

from bench import beside, results
from bench.peers import pairs, redis, web
from bench.peers.hosts import stop_on_signals
from bench.peers.pairs import BRIDGE, DPU, VETH

PACKAGES = {
    "ip": "iproute2",
    "nginx": "nginx-light",
    "wrk": "wrk",
    "curl": "curl",
    "redis-server": "redis-server",
    "redis-benchmark": "redis-tools",
}
PEERS = (VETH, BRIDGE, DPU)
REQUESTS = 25_000
CONNECTIONS, LARGE_CONNECTIONS = 50, 4
CLIENTS = 50
PIPELINES = {1: 1, 16: 4}  # commands at once -> times as many requests
CLOSE = ("-H", "Connection: close")
UNITS = {
    "requests": "requests/s",
    "connections": "connections/s",
    "bodies": "Gbit/s",
    **dict.fromkeys(redis.COMMANDS, "requests/s"),
}


def run(size, repeats=results.REPEATS, requests=REQUESTS, cpus=pairs.APART, quick=False):
    """Measure HTTP for `size` seconds each time, and `requests` of Redis; quick: without the veth pair."""
    results.require(PACKAGES)
    made = []
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(pairs.made(PEERS[1:] if quick else PEERS, cpus))
        folder = stack.enter_context(web.files())
        for pair in there.values():
            web.serve(pair, folder)
            stack.enter_context(redis.serving(pair))
        before = there[DPU].stats()
        for title, sample in (*http(folder, size), *commands(requests)):
            made += beside.measure(title, there, repeats, sample, UNITS)
        pairs.check_dropped(there[DPU], before, "applications")
    return made


def http(folder, seconds):
    """Samples of HTTP, (title, function of a pair)."""

    def small(pair):
        answers = web.ask(pair, folder, web.SMALL, CONNECTIONS, seconds)
        return {"requests": answers.rate, "p50": answers.p50, "p99": answers.p99}

    def large(pair):
        return {"bodies": web.ask(pair, folder, web.LARGE, LARGE_CONNECTIONS, seconds).gbit}

    def short(pair):
        answers = web.ask(pair, folder, web.SMALL, CONNECTIONS, seconds, CLOSE)
        return {"connections": answers.rate, "p50": answers.p50, "p99": answers.p99}

    return ("HTTP, 1 KB", small), ("HTTP, 1 MB", large), ("HTTP, 1 KB, one each", short)


def commands(requests):
    """Samples of Redis, (title, function of a pair)."""

    def sample(pipeline, times, pair):
        answers = redis.ask(pair, requests * times, CLIENTS, pipeline)
        return {
            f"{command}{figure}": value
            for command, of_one in answers.items()
            for figure, value in (("", of_one.rate), (", p50", of_one.p50), (", p99", of_one.p99))
        }

    for pipeline, times in PIPELINES.items():
        yield f"Redis, {pipeline} at once", partial(sample, pipeline, times)


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "applications",
        run,
        1,
        __doc__,
        repeats={"type": int, "default": results.REPEATS, "help": "rounds of measurements"},
        requests={"type": int, "default": REQUESTS, "help": f"of each command; default: {REQUESTS}"},
        quick={"action": "store_true", "help": "without the veth pair"},
        cpus={**pairs.CPUS_OPTION, "help": "CPUs for the clients and the servers; default: 0 1"},
    )
