"""Run the benches one after the other: `python -m bench [--quick] [NAME ...]`.

First what cannot be measured here and why, and how long the rest takes. In the end one table with every
ratio of ours to a peer's, a picture a script, and the JSON files, in bench/out/, of a quick run in
bench/out/quick/. What a script prints goes to NAME.log beside them. Exit status 1 when one of them failed or
could not be measured.
"""

import argparse
import sys
import time

from bench.peers.hosts import stop_on_signals
from bench.plots import draw
from bench.results import OUT, PAIRS_MIN, comparison
from bench.scripts import lacks, measured, run_script, took_seconds
from bench.suite import chosen

MINUTES_MAX, QUICK_MINUTES_MAX = 30, 5  # for all of them
SECONDS_MEANT, QUICK_SECONDS_MEANT = 120, 20  # a script that was not measured yet


def plan(benches, quick, folder):
    """(arguments, seconds expected, whether it took as long before) by name; prints how long it will take."""
    made = {}
    for bench in benches:
        arguments = bench.quick if quick else bench.full
        before = took_seconds(bench.name, arguments, folder)
        seconds = before or (QUICK_SECONDS_MEANT if quick else SECONDS_MEANT)
        made[bench.name] = arguments, seconds, before is not None
    minutes = sum(seconds for _, seconds, _ in made.values()) / 60
    print(f"{len(made)} scripts, about {minutes:.1f} min of {QUICK_MINUTES_MAX if quick else MINUTES_MAX}")
    return made


def run_all(planned, folder):
    """Run the planned scripts and say how far it is; returns the names of those that did not fail."""
    began, done = time.monotonic(), []
    for number, (name, (arguments, expected, known)) in enumerate(planned.items(), 1):
        about = f"about {expected:.0f} s" if known else f"new, {expected:.0f} s meant"
        print(f"[{number}/{len(planned)}] {name} ({about}) ...", end=" ", flush=True)
        started = time.monotonic()
        status = run_script(name, arguments, folder)
        print("done" if status == 0 else f"FAILED, see {folder / name}.log", end=", ")
        print(f"{time.monotonic() - started:.0f} s; {time.monotonic() - began:.0f} s in all", flush=True)
        done += [] if status else [name]
    return done


def few_pairs(figures):
    """What to say of ratios that are of fewer than PAIRS_MIN pairs; `figures`: (Results, data) by script."""
    return [
        f"FAILED: {name}: {row.name}: {row.pairs} pairs, at least {PAIRS_MIN} are needed"
        for name, (results, _) in figures.items()
        for row in results
        if row.ours is not None and row.pairs < PAIRS_MIN
    ]


def main():
    """Run, compare, draw; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a script; default: all")
    parser.add_argument("--quick", action="store_true", help="small: within five minutes")
    given = parser.parse_args()
    try:
        benches = [b for b in chosen(given.names) if not given.quick or b.quick is not None]
    except ValueError as error:
        parser.error(str(error))
    without = {bench.name: lacks(bench) for bench in benches}
    for name, reason in without.items():
        if reason:
            print(f"not measured: {name}: {reason}")
    folder = OUT / "quick" if given.quick else OUT
    planned = plan([bench for bench in benches if not without[bench.name]], given.quick, folder)
    done = run_all(planned, folder)
    figures = {name: measured(name, folder) for name in done}
    print()
    print(comparison({name: results for name, (results, _) in figures.items()}))
    few = [] if given.quick else few_pairs(figures)
    print(*few, sep="\n", end="\n" if few else "")
    for name, (_, data) in figures.items():
        print(*(f"drawn: {path}" for path in draw(name, data, folder)), sep="\n")
    return 0 if len(done) == len(benches) and not few else 1


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main())
