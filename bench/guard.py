"""Hold ratios of ours to peers' against the committed ones: python -m bench.guard [NAME ...].

A ratio, turned so that more is better, fails below FLOOR of that in bench/baseline.json; so does one that is
missing. As the machine is shared, a script with one that fails is measured again, up to RETRIES times, and
the best of each counts. Ratios, because times belong to one machine; both sides are measured in one run.

A ratio that depends on how far apart the CPUs are (bench/cpu_distance.py) is compared with the one that is
committed for the same distance. Without one the script is measured again too, as soon as the CPUs are at a
distance that has one. If they never are, the ratio is not compared: the table says so, and nothing fails.

    --update          measure until each ratio of a script was taken --runs times at one distance, commit the
                      lowest of each for that distance; those of bench/figures/ are among them, which may be
                      of another machine
    --update --lower  the same on one more kind of machine: never above what is committed
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass

from bench import cpu_distance
from bench.committed import NOT_COMPARED, Row, table
from bench.cpu_distance import FAR, NEAR, UNKNOWN
from bench.peers.hosts import stop_on_signals
from bench.results import OUT, ROOT, environment
from bench.scripts import FIGURES, lacks, measured, run_script
from bench.suite import SUITE, chosen

BASELINE = ROOT / "bench" / "baseline.json"
FOLDER = OUT / "guard"
ANY = "any"  # distance of ratios that do not depend on it
FLOOR = 0.8
RETRIES = 2
PATIENCE_SECONDS = 150  # after the begin nothing is measured again because of the CPUs' distance
PROBE_SECONDS = 1  # between looks
RUNS = 5
UPDATE_TAKES = 3  # of a script at most, times --runs
LOG_LINES_MAX = 30  # of a script that failed


@dataclass(frozen=True)
class Sample:
    """A ratio, turned so that more is better, and how far apart the CPUs were meanwhile; None: unknown."""

    value: float
    low_ns: float | None = None
    high_ns: float | None = None

    @property
    def distance(self):
        """NEAR, FAR, MIXED or UNKNOWN."""
        return cpu_distance.distance(self.low_ns, self.high_ns)

    @property
    def place(self):
        """Where the CPUs were, in words."""
        if self.distance in (NEAR, FAR):
            return f"CPUs {'far apart' if self.distance == FAR else NEAR} ({self.high_ns:.0f} ns)"
        return f"CPUs moved ({self.low_ns:.0f} to {self.high_ns:.0f} ns)"


def oriented(results):
    """Samples of the ratios among Results, by name."""
    ratios = (row for row in results if row.unit == "x")
    return {
        row.name: Sample(
            1 / row.median if row.lower_is_better else row.median, row.apart_low_ns, row.apart_high_ns
        )
        for row in ratios
    }


def judge(committed, takes):
    """Rows of the ratios that are `committed`, {distance: {name: ratio}}, from all Samples of the `takes`."""
    names = dict.fromkeys(name for ratios in committed.values() for name in ratios)
    again = f", best of {len(takes)}" if len(takes) > 1 else ""
    return [
        judged(
            name,
            {distance: ratios[name] for distance, ratios in committed.items() if name in ratios},
            [taken[name] for taken in takes if name in taken],
            again,
        )
        for name in names
    ]


def judged(name, floors, samples, again):
    """Row of one ratio: the best of `samples`, each beside that of `floors`, {distance: ratio}, for it."""
    pairs = [
        (sample.value, floors[distance], "" if distance == ANY else f", {distance}")
        for sample in samples
        for distance in (ANY, sample.distance)
        if distance in floors
    ]
    if pairs:
        value, floor, where = max(pairs, key=lambda pair: pair[0] / pair[1])
        return Row(name, floor, value, ("ok" if value >= FLOOR * floor else f"below {FLOOR}") + where + again)
    floor = next(iter(floors.values()))
    if not samples:
        return Row(name, floor, None, f"missing{again}")
    last = samples[-1]
    if last.distance == UNKNOWN:
        return Row(name, floor, last.value, f"CPUs' distance unknown{again}")
    return Row(name, None, last.value, f"{NOT_COMPARED}: {last.place}")


class Patience:
    """How long the guard waits, from now, for CPUs at a distance that is committed."""

    def __init__(self, seconds):
        self.until = time.monotonic() + seconds

    def wait(self, committed):
        """Whether they are there, and there is time to measure again."""
        if not (there := _are_at(committed)) and self._is_left():
            print(f"waiting for CPUs that are {' or '.join(committed)} ...", flush=True)
        while not there and self._is_left():
            time.sleep(PROBE_SECONDS)
            there = _are_at(committed)
        return there and self._is_left()

    def _is_left(self):
        return time.monotonic() < self.until


def _are_at(committed):
    """Whether the CPUs are at a distance that is committed."""
    now_ns = None if ANY in committed else cpu_distance.measure()
    return ANY in committed or cpu_distance.distance(now_ns, now_ns) in committed


def guarded(committed, measure, wait):
    """Rows of one script, measured again while one fails or cannot be compared.

    measure  returns Samples by name
    wait     of a Patience
    """
    wait(committed)
    takes = []
    for retries_left in reversed(range(RETRIES + 1)):
        takes.append(measure())
        rows = judge(committed, takes)
        failed = any(row.failed for row in rows)
        if not retries_left or not (failed or any(row.left for row in rows)):
            break
        if not wait(committed) and not failed:
            break
    return rows


def take(bench):
    """Samples by name of one run of a script with its guard's arguments; none when it failed."""
    print(f"{bench.name} {bench.guard} ...", end=" ", flush=True)
    began = time.monotonic()
    status = run_script(bench.name, bench.guard, FOLDER)
    print(f"{time.monotonic() - began:.0f} s{', FAILED:' if status else ''}", flush=True)
    if status:
        log = (FOLDER / f"{bench.name}.log").read_text().splitlines()
        print(*log[-LOG_LINES_MAX:], sep="\n", flush=True)
        return {}
    return oriented(measured(bench.name, FOLDER)[0])


def machine(data, runs):
    """Where ratios are from, as a line."""
    return f"{data['machine']}, Linux {data['kernel']}, commit {data['commit']}, {runs}"


def collected(bench, runs):
    """Ratios of takes of a script, {distance: {name: [ratio]}}, where it has `runs` of each; {}: nowhere.

    Raises ValueError when it did not measure the same each time.
    """
    values, names = {}, None
    for _ in range(UPDATE_TAKES * runs):
        taken = take(bench)
        if not taken or names not in (None, list(taken)):
            raise ValueError(f"{bench.name} did not measure the same each time")
        names = list(taken)
        for name, sample in taken.items():
            distance = sample.distance if bench.by_distance else ANY
            values.setdefault(distance, {}).setdefault(name, []).append(sample.value)
        full = {
            distance: by_name
            for distance, by_name in values.items()
            if distance in (ANY, NEAR, FAR) and all(len(by_name.get(name, ())) >= runs for name in names)
        }
        if full:
            break
    return full


def update(benches, runs, lower):
    """Measure and write the baseline of these benches; returns the exit status."""
    committed = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"machines": {}, "ratios": {}}
    where = environment()
    for bench in benches:
        try:
            full = collected(bench, runs)
        except ValueError as error:
            print(f"nothing is written: {error}")
            return 1
        if not full:
            print(f"nothing is written: the CPUs moved, {bench.name} has not {runs} runs at one distance")
            return 1
        rows, data = [], {}
        if (FIGURES / f"{bench.name}.json").exists():
            rows, data = measured(bench.name, FIGURES)
        ratios, machines = (committed[tree].setdefault(bench.name, {}) for tree in ("ratios", "machines"))
        for distance, values in full.items():
            figures = {
                name: sample.value
                for name, sample in oriented(rows).items()
                if distance in (ANY, sample.distance) and name in values
            }
            before = ratios.get(distance, {}) if lower else {}
            for name, value in (*figures.items(), *before.items()):
                values.get(name, []).append(value)
            ratios[distance] = {name: round(min(taken), 3) for name, taken in values.items()}
            lines = [machine(where, f"{runs} runs")]
            lines += [machine(data, "bench/figures")] if figures else []
            lines += machines.get(distance, []) if lower else []
            machines[distance] = list(dict.fromkeys(lines))
    BASELINE.write_text(json.dumps(committed, indent=1) + "\n")
    print(f"written: {BASELINE}")
    return 0


def main():
    """Measure and compare, or update; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a script; default: all")
    parser.add_argument("--update", action="store_true", help="write bench/baseline.json")
    parser.add_argument("--lower", action="store_true", help="with --update: never above what is committed")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"with --update; default: {RUNS}")
    given = parser.parse_args()
    try:
        named = chosen(given.names)
    except ValueError as error:
        parser.error(str(error))
    benches = [bench for bench in named if bench.guard is not None]
    if given.names and len(benches) < len(named):
        parser.error(f"not all have a guard; those that do: {', '.join(b.name for b in SUITE if b.guard)}")
    if reasons := {bench.name: lacks(bench) for bench in benches if lacks(bench)}:
        parser.error(f"cannot measure {', '.join(f'{name}: {why}' for name, why in reasons.items())}")
    if given.update:
        return update(benches, given.runs, given.lower)
    baseline = json.loads(BASELINE.read_text())["ratios"]
    if unknown := [bench.name for bench in benches if not baseline.get(bench.name)]:
        parser.error(f"{BASELINE} has nothing of {', '.join(unknown)}: --update writes it")
    wait = Patience(PATIENCE_SECONDS).wait
    rows = {bench.name: guarded(baseline[bench.name], lambda b=bench: take(b), wait) for bench in benches}
    print(f"\nratios of ours to a peer's, more is better; {FLOOR} of what is committed is enough")
    print(table(rows))
    every = [row for made in rows.values() for row in made]
    failed, left = sum(row.failed for row in every), sum(row.left for row in every)
    said = f"{failed} of {len(every)} failed" if failed else "nothing got slower"
    print(f"\n{said}{f'; {left} of {len(every)} {NOT_COMPARED}' if left else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main())
