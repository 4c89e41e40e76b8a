"""`make bench`: every script is in it, what fails is said, every picture is drawn."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from bench.plots import draw
from bench.report import FIGURES
from bench.results import ROOT
from bench.suite import SUITE, chosen


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


@pytest.mark.parametrize("name", [path.stem for path in sorted(FIGURES.glob("*.json"))])
def test_each_measured_script_has_a_picture(name, tmp_path):
    data = json.loads((FIGURES / f"{name}.json").read_text())
    svg, png = draw(name, data, tmp_path)
    text = "".join(ET.parse(svg).getroot().itertext())
    assert png.read_bytes().startswith(b"\x89PNG")
    assert f"bench/{name}.py" in text and data["commit"] in text
    assert all(row["name"] in text for row in data["results"] if row["unit"] == "x")
