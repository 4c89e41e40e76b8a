"""bench/plots.py: lines over what grows; what a model says is told apart from what was measured."""

import xml.etree.ElementTree as ET
from dataclasses import asdict

import pytest

from bench.plots import draw
from bench.results import ratio, result

pytestmark = pytest.mark.in_memory

WHERE = {"machine": "M", "cpus": 2, "kernel": "6.18", "commit": "abc"}


def test_what_grows_is_drawn_as_lines_and_ratios_as_bars(tmp_path):
    rows = [
        *(
            result(f"rules, {x}: DPU, one flow", "Mpps", [9 - n, 10 - n])
            for n, x in enumerate((1, 100, 10_000))
        ),
        *(result(f"workers, {x}: DPU, simulated", "Mpps", [x]) for x in (4, 8)),
        result("workers, 1: DPU", "Mpps", [1]),
        result("not of a group", "Mpps", [1]),
        ratio("rules, 100: DPU / bridge", [2], [1], "Mpps"),
    ]
    plot = {"kind": "lines", "x": {"rules": "rules in force"}}
    data = {**WHERE, "plot": plot, "results": [asdict(row) for row in rows]}
    svg, png = draw("growth", data, tmp_path)
    tree = ET.parse(svg)
    text = "".join(tree.getroot().itertext())
    for words in ("rules in force", "10,000", "DPU, one flow", "DPU, simulated", "rules, 100: DPU / bridge"):
        assert words in text
    assert "not of a group" not in text
    assert "stroke-dasharray" in svg.read_text()
    assert png.stat().st_size > 1000
