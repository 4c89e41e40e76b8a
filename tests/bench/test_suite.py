"""`make bench`: every script is in it, what fails is said, every picture is drawn."""

import importlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from bench import scripts
from bench.__main__ import few_pairs, plan
from bench.plots import draw
from bench.report import FIGURES
from bench.results import PAIRS_MIN, REPEATS, ROOT, ratio
from bench.suite import SUITE, Bench, chosen

pytestmark = pytest.mark.in_memory


def test_every_script_that_measures_is_in_the_suite():
    scripts = {path.stem for path in (ROOT / "bench").glob("*.py") if "results.main(" in path.read_text()}
    assert {bench.name for bench in SUITE} == scripts | {"kernels"}


def test_benches_are_chosen_by_name():
    assert [bench.name for bench in chosen(["idle", "kernels"])] == ["idle", "kernels"]
    assert chosen([]) == list(SUITE)
    with pytest.raises(ValueError, match="no bench is called ports, x; there are kernels, tcp_containers"):
        chosen(["ports", "idle", "x"])


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_an_unknown_name_is_refused_with_those_there_are():
    done = run("ports")
    assert done.returncode == 2 and "no bench is called ports; there are kernels" in done.stderr


@pytest.mark.parametrize("bench", SUITE, ids=lambda bench: bench.name)
def test_what_a_script_asks_for_is_what_it_needs(bench):
    module = importlib.import_module(f"bench.{bench.name}")
    asked = {*getattr(module, "PACKAGES", {}).values()}
    assert asked <= set(bench.needs) <= set(scripts.debian_packages())


def test_what_a_script_lacks_is_named(monkeypatch):
    monkeypatch.setattr(scripts.os, "geteuid", lambda: 1000)
    assert scripts.lacks(Bench("x", root=False)) == ""
    assert scripts.lacks(Bench("x")) == "needs root"
    monkeypatch.setenv("PATH", "")
    assert scripts.lacks(Bench("x", needs=("wrk", "gcc"))) == "apt-get install gcc wrk"


def test_a_run_says_how_long_it_takes(tmp_path, capsys):
    (tmp_path / "kernels.json").write_text('{"arguments": "--size 60", "took_seconds": 280.0}')
    planned = plan([Bench("kernels", quick="--size 60"), Bench("new", quick="")], True, tmp_path)
    assert planned == {"kernels": ("--size 60", 280.0, True), "new": ("", 20, False)}
    assert capsys.readouterr().out == "2 scripts, about 5.0 min of 5\n"
    assert scripts.took_seconds("kernels", "--size 61", tmp_path) is None


def test_a_script_that_fails_is_run_and_its_words_are_kept(tmp_path):
    assert scripts.run_script("suite", "", tmp_path) == 0
    assert scripts.run_script("none", "--size 1", tmp_path) == 1
    assert "No module named bench.none" in (tmp_path / "none.log").read_text()


def test_a_full_run_has_five_pairs():
    assert REPEATS >= PAIRS_MIN >= 5
    enough, few = ratio("a", [1] * 5, [1] * 5), ratio("b", [1] * 4, [1] * 4)
    assert few_pairs({"x": ([enough, few], {})}) == ["FAILED: x: b: 4 pairs, at least 5 are needed"]


@pytest.mark.parametrize("name", [path.stem for path in sorted(FIGURES.glob("*.json"))])
def test_each_measured_script_has_a_picture(name, tmp_path):
    data = json.loads((FIGURES / f"{name}.json").read_text())
    svg, png = draw(name, data, tmp_path)
    text = "".join(ET.parse(svg).getroot().itertext())
    assert png.read_bytes().startswith(b"\x89PNG")
    assert f"bench/{name}.py" in text and data["commit"] in text
    assert all(row["name"] in text for row in data["results"] if row["unit"] == "x")
