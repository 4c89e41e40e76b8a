import json
from dataclasses import asdict

import pytest

from bench import report
from bench.results import ROOT, ratio, result


def test_documents_say_what_was_measured():
    for path, text in report.documents(report.load_figures()).items():
        assert path.read_text() == text, f"{path.name} is stale: run python -m bench.report"


def test_figures_and_headlines_are_of_scripts():
    figures = report.load_figures()
    named = {*report.HEADLINES, *report.HEADLINE_RATIOS, *report.PICTURES, *figures}
    assert all((ROOT / "bench" / f"{name}.py").exists() for name in named)
    assert all(data["results"] for data in figures.values())


def test_every_headline_is_of_something_measured():
    figures = report.load_figures()
    for script, names in (report.HEADLINES | report.HEADLINE_RATIOS).items():
        rows = figures[script]["results"]
        assert any(names.fullmatch(row["name"]) for row in rows), script


def test_of_many_figures_the_readme_shows_some():
    names = ["64 B: xconnect, polling", "64 B: xconnect, polling, lost"]
    shown = [name for name in names if report.HEADLINES["host_programs"].fullmatch(name)]
    assert shown == names[:1]
    ratios = measured(
        ratio("port to port, 64 B: DPU, bare / testpmd io", [10, 12], [5, 5], "Mpps"),
        ratio("port to port, 512 B: DPU, bare / testpmd io", [10, 12], [5, 5], "Mpps"),
    )
    text = report.compared_figures({"vhost_user": ratios}, report.HEADLINE_RATIOS)
    assert "64 B: DPU" in text
    assert "512 B: DPU" not in text


def test_the_pictures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FIGURES", tmp_path)
    ratios = measured(
        ratio("NDR: DPU af_packet / bridge", [10, 12], [5, 5], "Mpps"),
        ratio("NDR: DPU af_xdp / bridge", [10, 12], [50, 50], "Mpps"),
        ratio("latency: not shown", [10, 12], [5, 5], "us", lower_is_better=True),
    )
    report.draw_pictures({"ndr": ratios})
    text = (tmp_path / report.OVERVIEW).read_text()
    assert text.count("ndr: NDR: DPU") == 2
    assert "not shown" not in text


def test_a_script_that_was_not_measured_has_no_section():
    figures = report.load_figures()
    measured = figures.pop("start")
    assert "bench/start.py" not in report.block(figures, report.HEADLINES)
    assert "bench/start.py" in report.block(figures | {"start": measured}, report.HEADLINES)


def test_a_changed_figure_makes_a_document_stale():
    figures = report.load_figures()
    changed = json.loads(json.dumps(figures))
    changed["tcp_containers"]["results"][0]["median"] += 1
    assert report.documents(changed) != report.documents(figures)


def measured(*rows, machine="M"):
    """Data of a script that measured `rows`."""
    return {"machine": machine, "cpus": 2, "kernel": "6.18", "results": [asdict(row) for row in rows]}


def test_ratios_are_beside_what_is_possible_on_the_same_machine():
    ratios = measured(
        ratio("port to port, 64 B: DPU, bare / testpmd io", [10, 12], [5, 5], "Mpps"),
        ratio("port to port, 64 B: DPU, bare / OVS-DPDK, bare", [10, 12], [12, 12], "Mpps"),
        result("port to port, 64 B: DPU, bare", "Mpps", [10, 12]),
    )
    figures = {"limits": measured(result("bare ring, 64 B", "Mpps", [20])), "vhost_user": ratios}
    text = report.compared_figures(figures)
    assert text.count("\n| vhost_user |") == 2
    unit = "11.00 | 5.00 | 20.00 [1] | Mpps | 2.20 | 2.00 | 2.40 | ahead |"
    assert f"| vhost_user | port to port, 64 B: DPU, bare / testpmd io | {unit}" in text
    assert "| 20.00 [1] | Mpps | 0.917 | 0.833 | 1.00 | tie |" in text
    assert text.endswith('[1] "bare ring, 64 B".  ')

    figures["limits"]["machine"] = "another"
    assert "| 11.00 | 5.00 | - | Mpps |" in report.compared_figures(figures)
    assert report.compared_figures({"kernels": measured(result("parse", "ns", [1]))}) == ""


def test_a_document_without_markers_is_an_error():
    with pytest.raises(ValueError, match="figures: begin"):
        report.with_block("no markers", "text")
