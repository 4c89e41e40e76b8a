"""Fuzz the rings of vhost_user ports: `python -m tests.fuzz.vhost_rings --rounds 20000 --seed 1`.

Two guests between pages that fault write what they like into their rings, in every other campaign also while
the compiled code reads it, in checked mode (every index is checked). An access outside the guests' memory, or
outside an array, ends the child. After each burst what was counted must add up; cursors lie in their rings.
Exit status: 0 nothing found, 1 something found.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CAMPAIGN_ROUNDS = 25  # on the same rings
BURSTS = 4  # a round, of each port
REPORT_S = 10


class FoundError(Exception):
    """The rings did what they must not."""


class Campaign:
    """Two ports of two queue pairs, their guests, and what was counted."""

    def __init__(self, rng):
        from tests.drivers.vhost_user.ring_bursts import Bench
        from tests.fuzz.vhost_memory import HostileRing, hostile_memory

        self.rng = rng
        self.bench = Bench(hostile_memory(), hostile_memory())
        self.rings = []
        for port in range(2):
            memory = self.bench.memories[port]
            for number in range(4):
                self.rings.append(HostileRing(rng, memory, self.bench.rings[port, number], number))
            self.bench.devices[port]["pairs"] = 2
            for region in memory.regions[1:]:
                region.octets[:] = rng.choice((0, 0xA5))  # plain frames, which cross, or others
        self.log = np.zeros(1 << 8, np.uint8)
        for device in self.bench.devices[:2]:
            if rng.random() < 0.3:
                device["log_addr"], device["log_bytes"] = self.log.ctypes.data, len(self.log)
        self.bench.devices[1]["xconnect"] = rng.integers(3)
        self.rows = np.zeros(2, np.int64)
        self.crossed = 0
        self.sent = 0

    def round(self):
        """Hostile memory, then a few bursts."""
        for ring in self.rings:
            if ring.row["fault"]:
                ring.start()
            ring.offer()
            ring.damage()
            if self.rng.random() < 0.05:
                self.recover(ring)
        for _ in range(BURSTS):
            for port in range(2):
                self.burst(port)
            for ring in self.rings:
                if ring.writable and ring.row["fault"] == 0:
                    ring.offer()
        self.check()

    def recover(self, ring):
        """What the next process does first."""
        from dpu_runtime.drivers.vhost_user import recovery

        if ring.packed and self.rng.random() < 0.5:
            ring.row["pending"] = int(self.rng.integers(ring.size)) | int(self.rng.integers(2)) << 15
        recovery.recover(ring.row, ring.packed, bool(self.rng.integers(2)), ring.writable)

    def burst(self, port):
        """Receive, read every octet, send to the other port, give back."""
        bench = self.bench
        count, _ = bench.receive(port)
        self.rows[port] += count
        self.crossed += int(bench.io.crossed[0])
        self.sent += int(bench.io.crossed[0])
        for i in range(count):
            self.check_row(i)
        if count:
            bench.transmit(bench, range(count), 1 - port)
            self.sent += count
        bench.done(port)
        if self.rng.random() < 0.2:
            bench.ask_kicks(port)

    def check_row(self, i):
        """A packet that kernels may work on; its payload is read."""
        from dpu_runtime.kernels.layout import FRAME_BYTES_MAX, HEADROOM_BYTES, ROW_BYTES

        m = self.bench.meta[i]
        if not 1 <= m["frame_len"] <= FRAME_BYTES_MAX:
            raise FoundError(f"a frame of {m['frame_len']} octets")
        if not HEADROOM_BYTES == m["l2_offset"] < m["header_end"] <= ROW_BYTES:
            raise FoundError(f"a row from {m['l2_offset']} to {m['header_end']}")
        if int(m["header_end"]) - HEADROOM_BYTES + int(m["payload_len"]) != m["frame_len"]:
            raise FoundError("a frame that is not as long as its row and its payload")
        if len(self.bench.frame(i)) != m["frame_len"]:
            raise FoundError("pieces that do not add up")

    def check(self):
        """What was counted adds up; cursors lie in their rings."""
        from dpu_runtime.drivers.port import PortCounter as Count

        counters = self.bench.counters[:2].astype(np.int64).sum(axis=0)
        received, dropped = counters[Count.RX_PACKETS], counters[Count.RX_DROPPED]
        if received != self.rows.sum() + self.crossed + dropped:
            raise FoundError(
                f"{received} received, {self.rows.sum()} rows, {self.crossed} crossed, {dropped} dropped"
            )
        sent, lost = counters[Count.TX_PACKETS], counters[Count.TX_DROPPED]
        if self.sent != sent + lost:
            raise FoundError(f"{self.sent} to send, {sent} sent, {lost} dropped")
        if int(self.bench.drops.sum()) != dropped + lost or self.bench.drops[0]:
            raise FoundError("drops by reason are not those of the ports")
        for ring in self.rings:
            row = ring.row
            if ring.packed and row["next"] & 0x7FFF >= row["size"]:
                raise FoundError(f"cursor {row['next']:#x} in a ring of {row['size']}")
            if row["lock"] or row["fault"] > 4 or row["size"] != ring.size:
                raise FoundError("a ring's row has changed")


def fuzz(rounds, seed, concurrent=True):
    """Run; returns totals. Raises FoundError."""
    from dpu_runtime.drivers.port import PortCounter as Count
    from dpu_runtime.kernels.drops import Drop
    from tests.fuzz import vhost_memory as hostile

    totals = dict.fromkeys(("rounds", "chains", "rows", "crossed", "sent", "faults"), 0)
    drops = 0
    words = np.array([0, 0, 16, seed * 2 + 1], np.uint64)
    reported = time.monotonic()
    while totals["rounds"] < rounds:
        rng = np.random.default_rng((seed, totals["rounds"]))
        campaign = Campaign(rng)
        words[hostile.STOP] = 0
        words[hostile.ADDRESS] = campaign.bench.memories[0].regions[0].local
        words[hostile.SIZE] = campaign.bench.memories[0].regions[0].size
        thread = threading.Thread(target=hostile.scribble, args=(words,))
        if concurrent and totals["rounds"] // CAMPAIGN_ROUNDS % 2:
            thread.start()
        try:
            for _ in range(min(CAMPAIGN_ROUNDS, rounds - totals["rounds"])):
                campaign.round()
                totals["rounds"] += 1
                totals["faults"] += sum(int(ring.row["fault"] != 0) for ring in campaign.rings)
        finally:
            words[hostile.STOP] = 1
            if thread.ident:
                thread.join()
        drops = drops + campaign.bench.drops
        totals["chains"] += int(campaign.bench.counters[:2, Count.RX_PACKETS].sum())
        totals["sent"] += int(campaign.bench.counters[:2, Count.TX_PACKETS].sum())
        totals["rows"] += int(campaign.rows.sum())
        totals["crossed"] += campaign.crossed
        if time.monotonic() - reported > REPORT_S:
            reported = time.monotonic()
            print(f"{totals['rounds']:,} rounds", flush=True)
    print(", ".join(f"{name} {value:,}" for name, value in totals.items()))
    print("drops:", ", ".join(f"{Drop(n).name} {int(count):,}" for n, count in enumerate(drops) if count))
    return totals


def main():
    """Run a child and say how it ended."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.vhost_rings", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=5000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        fuzz(args.rounds, args.seed)
        return 0
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.vhost_rings", "--child"]
    command += ["--rounds", str(args.rounds), "--seed", str(args.seed)]
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1"}
    environment.pop("NUMBA_DISABLE_JIT", None)
    began = time.monotonic()
    run = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if run.returncode:
        how = f"signal {-run.returncode}" if run.returncode < 0 else f"exit status {run.returncode}"
        print(f"FOUND: {how}, seed {args.seed}")
        return 1
    seconds = time.monotonic() - began
    print(f"nothing found: {args.rounds:,} rounds, seed {args.seed}, {seconds:.0f} s with set-up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
