"""Hold ratios of ours to peers' against the committed ones: python -m bench.guard [NAME ...].

A ratio, turned so that more is better, fails below FLOOR of that in bench/baseline.json; so does one that is
missing. As the machine is shared, a script with one that fails is measured again, up to RETRIES times, and
the best of each counts. Ratios, because times belong to one machine; both sides are measured in one run.

    --update          measure --runs times, commit the lowest of each ratio; those of bench/figures/ are among
                      them, which may be of another machine
    --update --lower  the same on one more kind of machine: never above what is committed
"""

import argparse
import json
import sys
import time

from bench.committed import Row, table
from bench.peers.hosts import stop_on_signals
from bench.results import OUT, ROOT, environment
from bench.scripts import FIGURES, lacks, measured, run_script
from bench.suite import SUITE, chosen

BASELINE = ROOT / "bench" / "baseline.json"
FOLDER = OUT / "guard"
FLOOR = 0.8
RETRIES = 2
RUNS = 5
LOG_LINES_MAX = 30  # of a script that failed


def oriented(results):
    """Ratios of Results by name, turned so that more is better."""
    ratios = (row for row in results if row.unit == "x")
    return {row.name: 1 / row.median if row.lower_is_better else row.median for row in ratios}


def judge(committed, now, tries=1):
    """Rows of the ratios that are `committed`, after so many `tries`."""
    again = f", best of {tries}" if tries > 1 else ""
    rows = []
    for name, floor in committed.items():
        value = now.get(name)
        word = "missing" if value is None else "ok" if value >= FLOOR * floor else f"below {FLOOR}"
        rows.append(Row(name, floor, value, word + again))
    return rows


def guarded(committed, measure):
    """Rows of one script, measured again while one fails; `measure` returns ratios by name."""
    best = {}
    for tries in range(1, RETRIES + 2):
        for name, value in measure().items():
            best[name] = max(value, best.get(name, value))
        rows = judge(committed, best, tries)
        if not any(row.failed for row in rows):
            break
    return rows


def take(bench):
    """Ratios by name of one run of a script with its guard's arguments; none when it failed."""
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


def update(benches, runs, lower):
    """Measure and write the baseline of these benches; returns the exit status."""
    committed = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"machines": {}, "ratios": {}}
    where = environment()
    for bench in benches:
        taken, machines = [take(bench) for _ in range(runs)], [machine(where, f"{runs} runs")]
        names = list(taken[0])
        if not names or not all(list(one) == names for one in taken):
            print(f"nothing is written: {bench.name} did not measure the same each time")
            return 1
        if (FIGURES / f"{bench.name}.json").exists():
            rows, data = measured(bench.name, FIGURES)
            taken.append(oriented(rows))
            machines.append(machine(data, "bench/figures"))
        if lower:
            taken.append(committed["ratios"].get(bench.name, {}))
            machines += committed["machines"].get(bench.name, [])
        lowest = {name: min(one[name] for one in taken if name in one) for name in names}
        committed["ratios"][bench.name] = {name: round(value, 3) for name, value in lowest.items()}
        committed["machines"][bench.name] = list(dict.fromkeys(machines))
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
    rows = {bench.name: guarded(baseline[bench.name], lambda b=bench: take(b)) for bench in benches}
    print(f"\nratios of ours to a peer's, more is better; {FLOOR} of what is committed is enough")
    print(table(rows))
    failed = [row for made in rows.values() for row in made if row.failed]
    print(f"\n{len(failed)} of {sum(map(len, rows.values()))} failed" if failed else "\nnothing got slower")
    return 1 if failed else 0


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main())
