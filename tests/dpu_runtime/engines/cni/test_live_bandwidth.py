"""What the capability `bandwidth` lets through, measured by iperf3 at the end that receives."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.live.daemon import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.compiled,
    pytest.mark.package("containernetworking-plugins", "iproute2", "iperf3"),
]

RATE = 50_000_000  # bits a second
BURST = 400_000  # bits; the policed direction gets 250 ms of the rate instead
LEAST, MOST = 0.9, 1.05
PAYLOAD_BYTES = {"TCP": 1448, "UDP": 1400}
HEADER_BYTES = {"TCP": 14 + 20 + 32, "UDP": 14 + 20 + 8}  # a limit counts them, iperf3 does not
# A policer's bucket may be full at one end of the interval and empty at the other: 4 % of six seconds.
TCP_S, UDP_S = 6, 3
ATTEMPTS = 3
WAYS = {  # protocol, options of iperf3 in the container without limits
    "TCP in": ("TCP", "-t", TCP_S),
    "TCP out": ("TCP", "-t", TCP_S, "-R"),
    "UDP in": ("UDP", "-t", UDP_S, "-u", "-b", RATE * 3 // 2, "-l", PAYLOAD_BYTES["UDP"]),
    "UDP out": ("UDP", "-t", UDP_S, "-u", "-b", RATE * 3 // 2, "-l", PAYLOAD_BYTES["UDP"], "-R"),
}


def serve(cni, container):
    """Start iperf3 in a container, and wait until it listens."""
    cni.namespaces.popen(container.name, ["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    assert wait_until(lambda: ":5201" in cni.run(container, "ss", "-Hltn").stdout)


def received(report, protocol):
    """Bits a second that arrived, in whole frames."""
    bits = report["end"]["sum_received"]["bits_per_second"]
    return bits * (PAYLOAD_BYTES[protocol] + HEADER_BYTES[protocol]) / PAYLOAD_BYTES[protocol]


def test_the_rate_gets_through_and_no_more(cni):
    """Four containers at once, each with one direction under load."""
    network = cni.network()
    limits = {"ingressRate": RATE, "ingressBurst": BURST, "egressRate": RATE, "egressBurst": BURST}
    free, *limited = (cni.container() for _ in range(1 + len(WAYS)))
    network.add(free)
    results = {one.name: network.add(one, bandwidth=limits) for one in limited}
    addresses = {name: result["ips"][0]["address"].partition("/")[0] for name, result in results.items()}

    def measure(address, way):
        protocol, *options = WAYS[way]
        done = cni.run(free, "iperf3", "-c", address, "-O", 1, "-J", *options)
        return received(json.loads(done.stdout), protocol) / RATE

    left = dict(zip(WAYS, limited, strict=True))
    for _ in range(ATTEMPTS):  # iperf3 may have had too little of the CPU to send as much
        for one in left.values():
            serve(cni, one)
        with ThreadPoolExecutor(len(left)) as pool:
            shares = pool.map(measure, [addresses[one.name] for one in left.values()], left)
        found = dict(zip(left, shares, strict=True))
        assert all(share <= MOST for share in found.values()), found
        left = {way: one for way, one in left.items() if found[way] < LEAST}
        if not left:
            break
    assert not left, found
    for one in (free, *limited):
        network.delete(one)
