"""What bench/instructions.py counts: run under callgrind, prints instructions a packet by name, as JSON.

The loops and packets of bench/kernels.py, after a warm-up that fills MAC table and verdict cache.
"""

import json
import pickle
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench import callgrind, packets
from bench.kernels import KERNEL_RULES, Bench
from dpu_runtime.kernels.layout import PORT_RX_GRO, PORT_RX_VERIFY

WARM_UP_BURSTS, BURSTS = 8, 2
STAGES = ("", "parse", "check_vnet", "admit", "verify_checksums", "acl", "switch")  # plain_loop's


@dataclass(frozen=True)
class Case:
    """A loop, and `names` of what lies between its marks; "" is the filling, which is not wanted."""

    names: tuple
    loop: str
    bench: Bench
    pool: packets.Pool
    args: tuple = ()
    warm_up_bursts: int = WARM_UP_BURSTS


def make_pools():
    """Packets by what they are for; slow under callgrind, so made outside."""
    return {
        "small": packets.plain_pool(packets.FRAME_64),
        "full": packets.plain_pool(packets.FRAME_1500),
        "owed": packets.owed_pool(packets.FRAME_1500),
        "large": packets.large_pool(1448),
        "stream": packets.stream_pool(1448),
    }


def load_pools(path):
    """The pools that an earlier process left at `path`, else new ones that are left there."""
    if not path.exists():
        path.write_bytes(pickle.dumps(make_pools()))
    return pickle.loads(path.read_bytes())


def cases(pools):
    """Yield each Case; one at a time, as its tables are large."""
    plain = Bench(KERNEL_RULES, in_flags=PORT_RX_VERIFY)
    for title, pool in (("64 B", "small"), ("1500 B", "full")):
        yield Case(tuple(stage and f"{stage}, {title}" for stage in STAGES), "plain_loop", plain, pools[pool])
    of_a_flow = {stage: f"{stage}, one flow" for stage in ("parse", "acl")}
    yield Case(tuple(of_a_flow.get(stage, "") for stage in STAGES), "plain_loop", plain, pools["stream"])
    yield Case(("", "complete_checksums, 1500 B"), "complete_loop", Bench(), pools["owed"])
    yield Case(("", "gso_segment, 1448 B a segment"), "segment_loop", Bench(), pools["large"])
    merging = Bench(in_flags=PORT_RX_GRO)
    yield Case(("", "gro_merge, 1448 B payload"), "merge_loop", merging, pools["stream"])
    for rules in (0, KERNEL_RULES):
        title = f"pipeline, 64 B, {rules:,} rules"
        yield Case(("", title), "pipeline_loop", Bench(rules), pools["small"], (0,))
    cold = f"{title}, new flows"
    yield Case(("", cold), "pipeline_loop", Bench(rules), pools["small"], (0,), warm_up_bursts=0)


def totals_of(text):
    """Instructions that one file of callgrind's totals; 0 when nothing ran."""
    found = re.search(r"^totals: (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _parts(folder):
    """Callgrind's files in the order they were written."""
    return sorted(folder.glob("part.*"), key=lambda path: int(path.suffix[1:]))


def count(folder, names=()):
    """Instructions a packet by name, of `names` or of all; callgrind writes to `folder`/part."""
    found = {}
    for case in cases(load_pools(folder / "pools")):
        if names and not names.intersection(case.names):
            continue
        run = partial(case.bench.run, case.loop, case.pool)
        run(case.warm_up_bursts, *case.args)
        callgrind.ask(np.uint64(callgrind.START_INSTRUMENTATION))
        for path in _parts(folder):
            path.unlink()
        done, _ = run(BURSTS, *case.args)
        callgrind.ask(np.uint64(callgrind.STOP_INSTRUMENTATION))
        done = done if isinstance(done, int) else done[0]
        totals = [totals_of(path.read_text()) for path in _parts(folder)][: BURSTS * len(case.names)]
        for number, name in enumerate(case.names):
            if name:
                found[name] = round(sum(totals[number :: len(case.names)]) / done, 2)
    return found


if __name__ == "__main__":
    print(json.dumps(count(Path(sys.argv[1]), set(sys.argv[2:]))))
