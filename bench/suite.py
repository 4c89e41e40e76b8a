"""All benches, and with which arguments `make bench` and `make bench-quick` run them.

A script with `quick` of None is not of the quick run. Both runs have an end in sight: 30 and 5 minutes.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bench:
    """A script of this folder.

    full, quick  arguments as a line of words; quick None: it takes too long
    """

    name: str
    full: str = ""
    quick: str | None = None


SUITE = (
    Bench("kernels", quick="--size 60"),
    Bench("tcp_containers", full="--size 1", quick="--size 1 --repeats 1"),
    Bench("latency", quick="--size 3000 --repeats 3 --seconds 1"),
    Bench("vhost_user", quick="--quick"),
    Bench("vhost_tso", quick="--size 200 --repeats 2"),
    Bench("host_programs"),
    Bench("kernel_ports", quick="--quick"),
    Bench("kernel_ports_tcp", quick="--quick"),
    Bench("attach", quick="--size 50 --repeats 3 --pairs 100"),
    Bench("soak_attach"),
    Bench("recovery"),
    Bench("vhost_reconnect"),
    Bench("idle"),
    Bench("start"),
)


def chosen(names):
    """The benches of these names, all without one. Raises ValueError that says what there is."""
    known = {bench.name: bench for bench in SUITE}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no bench is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(SUITE)
