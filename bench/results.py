"""What the bench scripts share: a result, repeats that alternate, a table, a JSON file.

A script has `run(size) -> list[Result]`, which the test suite calls with a small size, and when run
alone `main` prints the table and writes bench/out/NAME.json with the machine and the commit.
The first repeat (compilation, cold caches) is dropped; figures are medians with lowest and highest.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.possible import possible

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(os.environ.get("DPU_BENCH_OUT", ROOT / "bench" / "out"))
CPU_SYSTEM = Path("/sys/devices/system/cpu")
REPEATS = 7  # rounds of measurements that count, at least
ROUNDS_DROPPED = 1  # before them: they compile and fill caches
PAIRS_MIN = 5  # of a ratio, but for quick runs
TIMES = ("ns", "us", "ms", "s")
PACKAGES = ("numba", "numpy", "llvmlite")
PEERS = (  # Debian packages
    "dpdk-dev",
    "openvswitch-switch-dpdk",
    "qemu-system-x86",
    "iproute2",
    "iptables",
    "nftables",
    "iperf3",
    "nginx-light",
    "wrk",
    "redis-server",
    "valgrind",
)

_apart_ns = []  # by the last call of `alternate`


@dataclass(frozen=True)
class Result:
    """One figure: median, lowest and highest of its repeats.

    checksum_of_output  what the measured code made, the same for the same size; 0: nothing to compare
    ours, theirs        of a ratio: the medians it is of, in `of_unit`
    lower_is_better     of a ratio: of times, say
    pairs               of a ratio: measurements of either side
    apart_*_ns          how far apart the CPUs were in the last `alternate` before (bench/cpu_distance.py)
    """

    name: str
    median: float
    unit: str
    low: float
    high: float
    checksum_of_output: int = 0
    ours: float | None = None
    theirs: float | None = None
    of_unit: str = ""
    lower_is_better: bool = False
    pairs: int = 0
    apart_low_ns: float | None = None
    apart_high_ns: float | None = None

    @property
    def verdict(self):
        """Of a ratio: "ahead", "behind", or "tie" when both came first in some pair; else nothing."""
        if self.ours is None:
            return ""
        if self.low <= 1 <= self.high:
            return "tie"
        return "ahead" if (self.low > 1) != self.lower_is_better else "behind"


def times_better(row):
    """(median, one end, the other) of a ratio as times better than the peer: more is better."""
    values = row.median, *sorted((row.low, row.high))
    return tuple(1 / value if row.lower_is_better else value for value in values)


def missing_packages(packages):
    """Debian packages of {program or file: package} that are not there, sorted."""
    return sorted(
        package for program, package in packages.items() if shutil.which(program, mode=os.F_OK) is None
    )


def require(packages):
    """Raise RuntimeError that says what to install when a program of {program: package} is not there."""
    if missing := missing_packages(packages):
        raise RuntimeError(f"missing: apt-get install {' '.join(missing)}")


def result(name, unit, values, checksum_of_output=0):
    """Result of the figures of all repeats."""
    values = list(values)
    made = Result(name, statistics.median(values), unit, min(values), max(values), int(checksum_of_output))
    return replace(made, apart_low_ns=min(_apart_ns), apart_high_ns=max(_apart_ns)) if _apart_ns else made


def alternate(samples, repeats=REPEATS):
    """Call each of `samples` in turn, `repeats` times after the dropped rounds.

    samples  name -> function without arguments that returns one figure

    Returns name -> [figures]: A B A B, so that the machine's drift meets all of them alike. How far apart the
    CPUs are is measured around each figure; every `result` until the next call carries it.
    """
    from bench import cpu_distance  # noqa: PLC0415  (numba: who reads results does without)

    values = {name: [] for name in samples}
    probes = []
    for round_ in range(ROUNDS_DROPPED + repeats):
        if round_ == ROUNDS_DROPPED:
            probes = [cpu_distance.measure()]
        for name, sample in samples.items():
            figure = sample()
            if round_ >= ROUNDS_DROPPED:
                values[name].append(figure)
                probes.append(cpu_distance.measure())
    _apart_ns[:] = [ns for ns in probes if ns is not None]
    return values


def ratio(name, ours, theirs, unit="", lower_is_better=False):
    """Result of the ratios of two lists of figures that were measured in alternation, pair by pair.

    unit  of the figures
    """
    made = result(name, "x", [a / b for a, b in zip(ours, theirs, strict=True)])
    sides = {"ours": statistics.median(ours), "theirs": statistics.median(theirs), "pairs": len(ours)}
    return replace(made, **sides, of_unit=unit, lower_is_better=lower_is_better)


def table(results):
    """Text with one line a result, columns aligned."""
    rows = [(r.name, figure(r.median), figure(r.low), figure(r.high), r.unit) for r in results]
    return aligned([("name", "median", "low", "high", "unit"), *rows], words=(0, 4))


def compared(results):
    """Rows of texts, one a ratio: ours, the peer's, what is possible, how they compare; `results` by script.

    With those of bench/limits.py among them, of the same machine, it says what is possible.
    """
    limits = best(results.get("limits", ()))
    for script, made in results.items():
        measured = limits | best(made)
        for r in made:
            if r.ours is not None:
                floor = possible(script, r.name, measured)
                sides = figure(r.ours), figure(r.theirs), "-" if floor is None else figure(floor), r.of_unit
                ratios = (figure(value) for value in (r.median, r.low, r.high))
                yield script, r.name, *sides, *ratios, r.verdict


def best(results):
    """{name: best of the repeats}: of what a machine can do, the others say what kept it from that."""
    return {r.name: r.low if r.unit in TIMES else r.high for r in results}


def comparison(results):
    """Text of `compared`, aligned."""
    heads = ("script", "figure", "ours", "peer", "possible", "unit", "ratio", "low", "high", "")
    return aligned([heads, *compared(results)], words=(0, 1, 5, 9))


def aligned(rows, words):
    """Text, a line for each of `rows` of texts; columns `words` begin, the others end below each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def cell(column, text):
        return text.ljust(widths[column]) if column in words else text.rjust(widths[column])

    lines = ("  ".join(cell(column, text) for column, text in enumerate(row)).rstrip() for row in rows)
    return "\n".join(lines)


def figure(value):
    """Three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def environment():
    """Where and of what the figures are: machine, kernel, versions, commit, load."""
    return {
        "machine": _cpu_model(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "smt": _system("smt/control"),
        "governor": _system("cpu0/cpufreq/scaling_governor"),
        "mitigations": _mitigations(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "peers": {name: _debian_version(name) for name in PEERS},
        "commit": _git("rev-parse", "--short=12", "HEAD") + ("+" if _git("status", "--porcelain") else ""),
        "load": [round(load, 2) for load in os.getloadavg()],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu_model():
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == "model name"), platform.machine())


def _system(name):
    """What a file of CPU_SYSTEM says, None where it is not: a virtual machine has no governor."""
    path = CPU_SYSTEM / name
    return path.read_text().strip() if path.is_file() else None


def _mitigations():
    """What the kernel does about the CPU's vulnerabilities, of those that it has."""
    found = {path.name: path.read_text().strip() for path in CPU_SYSTEM.glob("vulnerabilities/*")}
    return {name: text for name, text in sorted(found.items()) if text != "Not affected"}


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _debian_version(package):
    """Version of an installed Debian package, or None."""
    if shutil.which("dpkg-query") is None:
        return None
    words = ["dpkg-query", "--show", "--showformat=${Version}", package]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _git(*args):
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def write_json(name, results, where, **more):
    """Write bench/out/NAME.json; returns its path.

    where  `environment()` as it was before the measurement, first among equal keys; `more` is kept beside it
    """
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.json"
    data = {"bench": name, **more, **where, "results": [asdict(r) for r in results]}
    path.write_text(json.dumps(data, indent=2) + "\n")
    return path


def main(name, run, size, description, plot=None, **options):
    """Measure and report: the command line of a bench script. `size` is the default of --size.

    plot     how it is drawn, for bench/plots.py; None: bars
    options  further arguments, name -> keywords of argparse; `run` gets their values by keyword
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--size", type=int, default=size, help=f"how much to measure; default: {size}")
    for option, keywords in options.items():
        parser.add_argument(f"--{option.replace('_', '-')}", **keywords)
    given = vars(parser.parse_args())
    where = environment()
    print(f"{where['machine']}, {where['cpus']} CPUs, Linux {where['kernel']}, commit {where['commit']}")
    print(f"load at the start: {where['load'][0]}")
    began = time.monotonic()
    results = run(**given)
    print(table(results))
    took = {"arguments": " ".join(sys.argv[1:]), "took_seconds": round(time.monotonic() - began, 1)}
    drawn = {"plot": plot} if plot else {}
    print(f"written: {write_json(name, results, where, **drawn, **took, **given)}")
