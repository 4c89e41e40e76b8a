"""Two workers: a queue pair each on every port, tables written by both."""

import os
import signal
import threading

import pytest

from dpu_runtime.config.frame import machine_cpus
from tests.live.daemon import Container, wait_until
from tests.live.test_traffic import transfer

pytestmark = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]

STREAMS = 8
STREAM_BYTES = 8 << 20


def transfers(a, b, ports):
    """Streams from `a` to `b` at once; True when every octet of each arrives."""
    results = []
    threads = [
        threading.Thread(target=lambda port=port: results.append(transfer(a, b, STREAM_BYTES, port=port)))
        for port in ports
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results == [True] * STREAMS


def test_two_workers_share_the_flows_and_lose_nothing(new_daemon, namespaces):
    cpus = machine_cpus()[:2]
    daemon = new_daemon().start(workers=cpus)
    a, b = (Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate("ab", 1))
    views = daemon.call("port.show")
    assert [view["info"]["queues"] for view in views] == [len(cpus)] * 2
    a.ping(b.ipv4)
    assert transfers(a, b, range(5001, 5001 + STREAMS))
    assert daemon.settled()
    workers = daemon.stats()["workers"]
    assert [worker["cpu"] for worker in workers] == cpus
    assert all(worker["packets"] for worker in workers), workers
    assert daemon.stats()["drops"] == {}

    # both take new rules, and both are replaced
    name = daemon.call("rule.add", priority=1, proto="tcp", action="allow")["name"]
    daemon.wait_for_standby()
    os.kill(daemon.data_plane(), signal.SIGKILL)
    assert wait_until(lambda: daemon.status()["restarts"] == 1)
    assert transfers(a, b, range(6001, 6001 + STREAMS))
    assert daemon.settled()
    view = next(v for v in daemon.call("rule.show", stats=True) if v["config"]["name"] == name)
    assert view["packets"] > 0
    assert all(worker["packets"] for worker in daemon.stats()["workers"])
    assert daemon.stop() == 0
