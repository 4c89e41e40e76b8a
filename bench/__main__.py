"""Run the benches one after the other: `python -m bench [--quick] [NAME ...]`.

In the end one table with every ratio of ours to a peer's, a picture a script, and the JSON files in
bench/out/. What a script prints goes to bench/out/NAME.log. Exit status 1 when one of them failed.
"""

import argparse
import json
import subprocess
import sys
import time

from bench.plots import draw
from bench.results import OUT, ROOT, Result, comparison
from bench.suite import chosen

SECONDS_MAX = 1800  # a script


def run_one(bench, quick):
    """Run a script; returns its exit status. One that does not come to an end is told to clean up and go."""
    words = (bench.quick if quick else bench.full).split()
    argv = [sys.executable, "-m", f"bench.{bench.name}", *words]
    with open(OUT / f"{bench.name}.log", "w") as log:
        script = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            return script.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            log.write(f"not done after {SECONDS_MAX} s\n")
            return 1
        finally:
            script.terminate()
            script.wait()


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
    OUT.mkdir(exist_ok=True)
    began, measured, failed = time.monotonic(), [], []
    for number, bench in enumerate(benches, 1):
        print(f"[{number}/{len(benches)}] {bench.name} ...", end=" ", flush=True)
        started = time.monotonic()
        status = run_one(bench, given.quick)
        print(f"{'done' if status == 0 else f'FAILED, see bench/out/{bench.name}.log'}", end=", ")
        print(f"{time.monotonic() - started:.0f} s; {time.monotonic() - began:.0f} s in all")
        (failed if status else measured).append(bench.name)
    figures = {name: json.loads((OUT / f"{name}.json").read_text()) for name in measured}
    print()
    print(comparison({name: [Result(**row) for row in data["results"]] for name, data in figures.items()}))
    for name, data in figures.items():
        print(*(f"drawn: {path.relative_to(ROOT)}" for path in draw(name, data, OUT)), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
