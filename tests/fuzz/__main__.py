"""Fuzz the whole pipeline: `python -m tests.fuzz --packets 10000000 --seed 1`.

The packets run in a process of their own, in checked mode (every index is checked), over memory that
faults behind its end. So a read too far ends that process, and this one says at which packet.
Exit status: 0 nothing found, 1 something found.
"""

import argparse
import mmap
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from dpu_runtime.plane.shared import BALANCE_IN

ROOT = Path(__file__).resolve().parents[2]
OF_SERVICES = ("made", "held", "punted")  # of the balance: no function here makes or keeps packets
CHUNK_PACKETS = 100_000  # between changes of the rules and looks at the balance
STATE_WORDS = 2  # of loop.py, which only the child may import
STATE_PACKETS = 1


def state_of(fd):
    """The fuzzer's state words in shared memory, which outlive the child."""
    return np.frombuffer(mmap.mmap(fd, 8 * STATE_WORDS), np.uint64)


class FoundError(Exception):
    """The pipeline did what it must not."""


def check(device, violations):
    """Look at what a chunk left behind."""
    found = [text for text, count in zip(violations, device.judge.violations, strict=True) if count]
    if found:
        raise FoundError("; ".join(found))
    drops = device.shared.drops[0]
    if drops[0]:
        raise FoundError("packets counted under Drop.NONE")
    b = device.shared.balance()
    came = sum(b[key] for key in BALANCE_IN)
    went = sum(packets for key, packets in b.items() if key not in BALANCE_IN)
    if came != went:
        raise FoundError(f"{came} packets in, {went} out: {b}")


def child(state_fd, packets, seed):
    """Run the packets; raises what it finds."""
    from tests.fuzz import corpus, device, judge, loop

    state = state_of(state_fd)
    state[loop.STATE_RANDOM] = np.uint64((seed * 0x9E3779B97F4A7C15 + 1) % (1 << 64) or 1)
    rng = random.Random(seed)
    fuzzed = device.FuzzDevice()
    frames = corpus.build()
    ports = len(device.PORTS)
    started = time.monotonic()
    while state[STATE_PACKETS] < packets:
        fuzzed.change(rng)
        chunk = min(CHUNK_PACKETS, packets - int(state[STATE_PACKETS]))
        loop.fuzz(fuzzed.worker, fuzzed.burst, fuzzed.judge, frames, fuzzed.ends, state, ports, chunk)
        check(fuzzed, judge.VIOLATIONS)
        if time.monotonic() - started > 10:
            started = time.monotonic()
            print(f"{int(state[STATE_PACKETS]):,} packets", flush=True)
    report(fuzzed)


def report(device):
    """Print where the packets went: a fuzzer that reaches nothing finds nothing."""
    from dpu_runtime.observe.counters import read_stats

    stats = read_stats(device.shared, {}, [0])
    balance = {key: packets for key, packets in stats["balance"].items() if key not in OF_SERVICES}
    print("balance:", ", ".join(f"{key} {packets:,}" for key, packets in balance.items()))
    print("drops:", ", ".join(f"{key} {value:,}" for key, value in stats["drops"].items()))


def main():
    """Run a child and say how it ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--packets", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--child", type=int, metavar="FD", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(args.child, args.packets, args.seed)
        return 0
    fd = os.memfd_create("fuzz-state")
    os.ftruncate(fd, 8 * STATE_WORDS)
    state = state_of(fd)
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz", "--child", str(fd)]
    command += ["--packets", str(args.packets), "--seed", str(args.seed)]
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1"}
    environment.pop("NUMBA_DISABLE_JIT", None)
    began = time.monotonic()
    run = subprocess.run(command, cwd=ROOT, env=environment, pass_fds=[fd], check=False)
    done = int(state[STATE_PACKETS])
    if run.returncode:
        how = f"signal {-run.returncode}" if run.returncode < 0 else f"exit status {run.returncode}"
        print(f"FOUND: {how}, seed {args.seed}, in the burst that ends with packet {done}")
        return 1
    print(f"nothing found: {done:,} packets, seed {args.seed}, {time.monotonic() - began:.0f} s with set-up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
