"""Throughput as a device grows: rules, MAC table, ports, size of packets, workers.

Cases:   in memory the pipeline alone, 64 B: rules with 64 flows and with more than the verdict cache holds,
         learned addresses with packets to random ones of them, workers. Through ports: a TCP stream between
         two containers with rules, beside a Linux bridge whose nftables has them in a list; packets of 64 B
         between TAP ports, of one pair with the others idle and of all pairs; larger and larger packets from
         one vhost-user port to another, beside testpmd; four TCP streams with one worker and with two.
CPUs:    the DPU's worker on CPU 1, two of them on both; who sends on CPU 0, as in the other scripts.
Size:    bursts a sample in memory; ms through ports are --ms, TCP takes a second.
Checks:  no packet is flooded whose address was learned, counters add up; what is lost is a figure.
Not:     more workers than the machine has CPUs: those figures are simulated, and say so.
"""

from bench import growth_memory, growth_ports, results
from bench.peers.hosts import stop_on_signals

BURSTS = 300
MS = 100
REPEATS = 5
TCP_SECONDS = 1
PORTS_MAX = max(growth_ports.PORTS)
PLOT = {
    "kind": "lines",
    "x": {
        "rules in memory": "rules in force",
        "rules": "rules in force",
        "MAC table in memory": "learned addresses",
        "ports": "TAP ports",
        "packet size": "octets of a frame, without FCS; above 1514 TCP segments that are cut later",
        "workers in memory": "workers; more than 2 are simulated",
        "workers of TAP ports": "workers, on 2 CPUs with the senders",
    },
}


def run(size, repeats=REPEATS, ms=MS, ports_max=PORTS_MAX):
    """Measure all of it; returns rates, losses and ratios."""
    counts = [count for count in growth_ports.PORTS if count <= ports_max]
    return [
        *growth_memory.rules(size, repeats),
        *growth_memory.addresses(size, repeats),
        *growth_memory.workers(size, repeats),
        *growth_ports.ports(ms, repeats, counts),
        *growth_ports.sizes(ms, repeats),
        *growth_ports.rules(TCP_SECONDS, repeats),
        *growth_ports.workers(TCP_SECONDS, repeats),
    ]


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "growth",
        run,
        BURSTS,
        __doc__,
        plot=PLOT,
        repeats={"type": int, "default": REPEATS, "help": f"rounds of measurements; default: {REPEATS}"},
        ms={"type": int, "default": MS, "help": f"ms of a measurement through ports; default: {MS}"},
        ports_max={"type": int, "default": PORTS_MAX, "help": f"the most ports; default: {PORTS_MAX}"},
    )
