"""Run a script of bench/suite.py: what it needs, how long it takes, what it left."""

import json
import os
import subprocess
import sys

from bench.results import OUT, ROOT, Result, missing_packages

SECONDS_MAX = 1800  # a script
FIGURES = ROOT / "bench" / "figures"


def debian_packages():
    """Debian package -> a command or file of it, those that `make setup` installs."""
    lines = (ROOT / "scripts" / "debian-packages").read_text().splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


def lacks(bench):
    """Why a bench cannot be run here: "" when it can."""
    programs = debian_packages()
    if missing := missing_packages({programs[package]: package for package in bench.needs}):
        return f"apt-get install {' '.join(missing)}"
    return "needs root" if bench.root and os.geteuid() else ""


def run_script(name, arguments, folder=OUT):
    """Run a script that writes to `folder`; returns its exit status. One that does not end is told to go."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", f"bench.{name}", *arguments.split()]
    with open(folder / f"{name}.log", "w") as log:
        script = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=os.environ | {"DPU_BENCH_OUT": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            return script.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            log.write(f"not done after {SECONDS_MAX} s\n")
            return 1
        finally:
            script.terminate()
            script.wait()


def measured(name, folder=OUT):
    """What a script left in `folder`: (Results, all of its JSON file)."""
    data = json.loads((folder / f"{name}.json").read_text())
    return [Result(**row) for row in data["results"]], data


def took_seconds(name, arguments, folder=OUT):
    """How long a script took with these arguments, last here or for the figures; None: unknown."""
    for where in (folder, FIGURES):
        path = where / f"{name}.json"
        data = json.loads(path.read_text()) if path.exists() else {}
        if data.get("arguments") == arguments:
            return data["took_seconds"]
    return None
