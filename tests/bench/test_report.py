import json

import pytest

from bench import report
from bench.results import ROOT


def test_documents_say_what_was_measured():
    for path, text in report.documents(report.load_figures()).items():
        assert path.read_text() == text, f"{path.name} is stale: run python -m bench.report"


def test_every_headline_was_measured():
    figures = report.load_figures()
    assert set(report.HEADLINES) <= set(figures)
    for name, data in figures.items():
        assert (ROOT / "bench" / f"{name}.py").exists()
        assert data["results"]


def test_a_changed_figure_makes_a_document_stale():
    figures = report.load_figures()
    changed = json.loads(json.dumps(figures))
    changed["tcp_containers"]["results"][0]["median"] += 1
    assert report.documents(changed) != report.documents(figures)


def test_a_document_without_markers_is_an_error():
    with pytest.raises(ValueError, match="figures: begin"):
        report.with_block("no markers", "text")
