"""UDP between two containers through the DPU, beside what a user would pick, alternating.

Beside:  a Linux bridge; Open vSwitch's user-space datapath; a veth pair without a switch, the limit of all.
Figures: what arrives when the sender sends as fast as it can, and of that what is lost; and the highest rate
         at which no more than 1 % is lost, found by bisection.
Cases:   1472 B, one datagram after the other and 44 at once (UDP_SEGMENT; it crosses in one piece where the
         switch can); 64 B, one after the other.
Size:    ms of a rate that is tried.
CPUs:    sender on CPU 0, receiver on 1, unless --cpus says otherwise; the DPU's worker on CPU 1, as it is by
         default, and Open vSwitch there too. The kernel forwards on the sender's CPU, and so slows it down.
Checks:  counted is what arrives, and each datagram is compared; the DPU's counters add up.
"""

from bench import beside, results
from bench.peers import pairs, udp_flow
from bench.peers.hosts import stop_on_signals
from bench.peers.pairs import BRIDGE, DPU, OVS, VETH

PACKAGES = {**pairs.PACKAGES, "gcc": "gcc"}
PEERS = (VETH, BRIDGE, OVS, DPU)
LOST_PERCENT_MAX = 1
FULL, SMALL = 1472, 64  # octets: an MTU's worth
SEGMENTS = udp_flow.OCTETS_MAX // FULL
FLOOD, MOST, LOST = "flood", f"{LOST_PERCENT_MAX} % lost", "lost"
# title -> octets, datagrams at once, unit
CASES = {
    f"UDP, {FULL} B": (FULL, 1, "Gbit/s"),
    f"UDP, {FULL} B, {SEGMENTS} at once": (FULL, SEGMENTS, "Gbit/s"),
    f"UDP, {SMALL} B": (SMALL, 1, "kpps"),
}


def run(size, repeats=results.REPEATS, cpus=pairs.APART):
    """Measure all cases, `size` ms each rate; returns rates, losses and ratios."""
    results.require(PACKAGES)
    made = []
    with pairs.made(PEERS, cpus) as there, udp_flow.built() as program:
        for title, (octets, segments, unit) in CASES.items():

            def sample(pair, octets=octets, segments=segments, unit=unit):
                counts = udp_flow.search(program, pair, octets, size / 1e3, LOST_PERCENT_MAX, segments)
                flood, most = (count.gbit if unit == "Gbit/s" else count.rate / 1e3 for count in counts)
                return {FLOOD: flood, MOST: most, LOST: counts[0].lost_percent}

            units = {FLOOD: unit, MOST: unit, LOST: "% of the flood"}
            made += beside.measure(title, there, repeats, sample, units)
        there[DPU].stats()
    return made


if __name__ == "__main__":
    stop_on_signals()
    results.main(
        "udp_containers",
        run,
        150,
        __doc__,
        repeats={"type": int, "default": results.REPEATS, "help": "rounds of measurements"},
        cpus={**pairs.CPUS_OPTION, "help": "CPUs for sender and receiver; default: 0 1"},
    )
