"""All benches, and with which arguments `make bench`, `make bench-quick` and `make bench-guard` run them.

A script with `quick` of None is not of the quick run, with `guard` of None not of the guard's. All three have
an end in sight: 30 minutes, 5, and 2.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bench:
    """A script of this folder.

    full, quick, guard  arguments as a line of words; None: it takes too long
    needs               Debian packages of scripts/debian-packages
    root                it makes network namespaces
    by_distance         its ratios depend on how far apart the CPUs are (bench/cpu_distance.py)
    """

    name: str
    full: str = ""
    quick: str | None = None
    guard: str | None = None
    needs: tuple = ()
    root: bool = True
    by_distance: bool = False


_TCP = ("iproute2", "iperf3", "ethtool")
_PEERS = ("iproute2", "ethtool", "dpdk-dev", "openvswitch-switch-dpdk")
_C = ("gcc", "libc6-dev")

SUITE = (
    Bench("kernels", quick="--size 20", root=False),
    Bench(
        "tcp_containers",
        full="--size 1 --repeats 5",
        quick="--quick --size 1 --repeats 1",
        guard="--size 1 --repeats 2 --peers bridge",
        needs=(*_TCP, *_PEERS, "nftables", "ethtool"),
    ),
    Bench(
        "latency",
        full="--repeats 5 --seconds 0.8",
        quick="--size 1000 --repeats 1 --seconds 0.2",
        needs=(*_TCP, *_PEERS, *_C, "nftables", "ethtool", "iputils-ping"),
    ),
    Bench(
        "vhost_user",
        full="--size 300 --repeats 5",
        quick="--quick --octets 64",
        guard="--quick --octets 64",
        needs=_PEERS,
        by_distance=True,
    ),
    Bench("vhost_tso", full="--size 300 --repeats 5", quick="--size 100 --repeats 1", needs=(*_PEERS, *_C)),
    Bench("host_programs", full="--size 400 --repeats 5", needs=("iproute2", *_C)),
    Bench(
        "kernel_ports",
        full="--size 300 --repeats 5",
        quick="--size 150 --repeats 1",
        needs=(*_PEERS, *_C),
    ),
    Bench(
        "kernel_ports_tcp",
        full="--size 1 --repeats 5",
        quick="--size 1 --repeats 1",
        needs=(*_PEERS, "iperf3", "iputils-ping"),
    ),
    Bench("ndr", full="--repeats 5", needs=("iproute2", "dpdk-dev", "ethtool")),
    Bench(
        "stages",
        full="--size 200 --repeats 5",
        needs=("iproute2", "dpdk-dev", "ethtool", *_C),
    ),
    Bench("attach", quick="--size 50 --repeats 3 --pairs 100", needs=("iproute2",)),
    Bench("soak_attach", needs=("iproute2",)),
    Bench("programs", full="--repeats 5", needs=("iproute2", *_C)),
    Bench("switch_kills", needs=("iproute2", *_C)),
    Bench("recovery", needs=(*_TCP, "iputils-ping")),
    Bench("vhost_reconnect", full="--size 10", needs=(*_PEERS, *_C)),
    Bench("idle", needs=("iproute2",)),
    Bench("start", full="--size 5 --cold 1", needs=("iproute2",)),
    Bench(
        "udp_containers",
        full="--repeats 5",
        quick="--size 50 --repeats 1",
        needs=(*_PEERS, *_C, "nftables", "ethtool"),
    ),
    Bench(
        "applications",
        full="--repeats 5",
        quick="--quick --requests 5000 --repeats 1",
        needs=("iproute2", "nginx-light", "wrk", "curl", "redis-server", "redis-tools"),
    ),
    Bench(
        "limits",
        quick="--size 60 --repeats 1",
        needs=(*_TCP, *_C, "iputils-ping"),
    ),
    Bench("growth", needs=(*_TCP, *_C, "dpdk-dev", "nftables")),
    Bench(
        "kernels_peers",
        quick="--size 2 --repeats 5",
        needs=("libdpdk-dev", "libisal-dev", "pkg-config", *_C),
        root=False,
    ),
)


def chosen(names):
    """The benches of these names, all without one. Raises ValueError that says what there is."""
    known = {bench.name: bench for bench in SUITE}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no bench is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(SUITE)
