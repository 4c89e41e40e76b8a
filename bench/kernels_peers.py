"""Kernels in memory beside what a C user has (DPDK, ISA-L) and what a Python user has (scapy, dpkt, zlib).

    python -m bench.kernels_peers [--size MS] [--repeats N] [--only parsing,sums]

Everything runs in this process on one CPU, the peers' C compiled when it starts (bench/peers/memory), on the
same inputs, which lie in the caches. First their answers are compared with ours, and it fails when they
differ. A sample lasts about MS milliseconds. Figures are amounts a second; of a ratio, above 1 is faster than
the peer.
"""

import contextlib
import os

from bench import results
from bench.peers.memory import lookups, offloads, parsing, sums

SAMPLE_MS = 20
TOPICS = {"parsing": parsing, "sums": sums, "lookups": lookups, "offloads": offloads}


@contextlib.contextmanager
def one_cpu():
    """Keep this thread on the first CPU it may use."""
    may = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(may)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, may)


def measured(comparison, repeats):
    """Results of one Compared: ours, each peer's, and the ratios."""
    comparison.check()
    values = results.alternate({"DPU": comparison.ours, **comparison.peers}, repeats)
    found = [
        results.result(f"{comparison.name}: {who}", comparison.unit, figures)
        for who, figures in values.items()
    ]
    ours = values.pop("DPU")
    return found + [
        results.ratio(f"{comparison.name}: ours / {who}", ours, figures, comparison.unit)
        for who, figures in values.items()
    ]


def run(size, repeats=results.REPEATS, only=None):
    """Results of samples of `size` milliseconds; `only` names topics, with commas between."""
    found = []
    names = only.split(",") if only else TOPICS
    if unknown := [name for name in names if name not in TOPICS]:
        raise SystemExit(f"no topic is called {', '.join(unknown)}; there are {', '.join(TOPICS)}")
    with one_cpu():
        for name in names:
            with TOPICS[name].compared(size) as comparisons:
                for comparison in comparisons:
                    found += measured(comparison, repeats)
    return found


if __name__ == "__main__":
    results.main(
        "kernels_peers",
        run,
        SAMPLE_MS,
        __doc__,
        repeats={"type": int, "default": results.REPEATS, "help": "pairs"},
        only={"metavar": "TOPICS", "help": f"some of {', '.join(TOPICS)}, with commas between"},
    )
