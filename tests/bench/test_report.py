import json
from dataclasses import asdict, replace

import pytest

from bench import headlines, report
from bench.headlines import HEADLINES, ROWS_MAX, Headline
from bench.results import ROOT, ratio, result

pytestmark = pytest.mark.in_memory


def measured(*rows, machine="M"):
    """Data of a script that measured `rows`."""
    where = {"machine": machine, "cpus": 2, "kernel": "6.18", "commit": "abc", "load": [0.1]}
    return where | {"results": [asdict(row) for row in rows]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of figures."""
    monkeypatch.setattr(report, "FIGURES", tmp_path)
    return tmp_path


def test_documents_say_what_was_measured():
    stale = report.stale_documents(report.documents(report.load_figures()))
    assert stale == [], "run python -m bench.report"


def test_a_page_that_is_not_there_or_not_needed_is_stale(folder):
    texts = {folder / "start.md": "text"}
    assert report.stale_documents(texts) == [folder / "start.md"]
    (folder / "start.md").write_text("text")
    (folder / "gone.md").write_text("of figures that were removed")
    assert report.stale_documents(texts) == [folder / "gone.md"]


def test_figures_and_pictures_are_of_scripts():
    figures = report.load_figures()
    named = {*report.OVERVIEW, *report.PICTURES, *(one.script for one in HEADLINES), *figures}
    assert all((ROOT / "bench" / f"{name}.py").exists() for name in named)
    assert all(data["results"] for data in figures.values())


def test_every_ratio_of_the_overview_is_of_something_measured():
    figures = report.load_figures()
    for script, names in report.OVERVIEW.items():
        assert any(names.fullmatch(row["name"]) for row in figures[script]["results"]), script


def test_the_readme_shows_few_headlines_each_measured():
    figures = report.load_figures()
    assert 0 < len(HEADLINES) <= ROWS_MAX == 12
    lines = headlines.table(figures).splitlines()[2:]
    assert len(lines) == len(HEADLINES)
    assert len({one.what for one in HEADLINES}) == len(HEADLINES)


def test_the_picture_is_of_the_headlines():
    text = (report.FIGURES / report.HEADLINES_PICTURE).read_text()
    assert [name for name, _ in headlines.named_ratios(report.load_figures()) if name not in text] == []


def test_every_script_that_was_measured_has_a_page_that_is_linked():
    figures = report.load_figures()
    texts = report.documents(figures)
    for name in figures:
        assert (report.FIGURES / f"{name}.md") in texts
        assert f"(figures/{name}.md)" in texts[ROOT / "bench" / "README.md"]
    assert "(bench/README.md)" in texts[ROOT / "README.md"]


def test_a_page_has_every_figure_once():
    figures = report.load_figures()
    for name, data in figures.items():
        rows = [line.split(" | ")[0] for line in report.page(name, figures).splitlines()]
        for row in data["results"]:
            assert rows.count(f"| {row['name']}") == 1, (name, row["name"])


def test_a_headline_is_ours_beside_its_peers():
    figures = {
        "latency": measured(
            ratio("p50: DPU / bridge", [10, 20], [20, 40], "us", lower_is_better=True),
            ratio("p50: DPU / Open vSwitch", [10, 12], [5, 24], "us", lower_is_better=True),
        ),
        "idle": measured(result("idle: all", "%", [0.1])),
    }
    chosen = (
        Headline("round trip", "latency", "p50: DPU", {"bridge": "bridge", "OVS": "Open vSwitch"}),
        Headline("idle", "idle", "idle: all"),
        Headline("not measured", "start", "start, warm"),
    )
    *_, first, second = headlines.table(figures, chosen).splitlines()
    assert first == "| round trip | 15.00 us | bridge: 2.00 (ahead), OVS: 0.8 (tie) |"
    assert second == "| idle | 0.1 % | |"
    named = headlines.named_ratios(figures, chosen)
    assert [text for text, _ in named] == ["round trip / bridge", "round trip / OVS"]


def test_a_headline_of_a_peer_that_was_not_measured_is_an_error():
    missing = replace(HEADLINES[0], peers={"nobody": "nobody"})
    with pytest.raises(KeyError, match="nobody"):
        headlines.table(report.load_figures(), (missing,))


def test_the_pictures_are_drawn(folder):
    ratios = measured(
        ratio("NDR: DPU af_packet / bridge", [10, 12], [5, 5], "Mpps"),
        ratio("NDR: DPU af_xdp / bridge", [10, 12], [50, 50], "Mpps"),
        ratio("latency: not shown", [10, 12], [5, 5], "us", lower_is_better=True),
    )
    figures = report.load_figures(ROOT / "bench" / "figures")
    report.draw_pictures({"ndr": ratios, "start": figures["start"], "latency": figures["latency"]})
    text = (folder / report.OVERVIEW_PICTURE).read_text()
    assert text.count("ndr: NDR: DPU") == 2
    assert "not shown" not in text
    text = (folder / report.HEADLINES_PICTURE).read_text()
    assert "TCP round trip between containers, p50 / bridge" in text
    assert "1 stream" not in text


def test_a_changed_figure_makes_documents_stale():
    figures = report.load_figures()
    changed = json.loads(json.dumps(figures))
    rows = {row["name"]: row for row in changed["tcp_containers"]["results"]}
    rows["one stream: DPU / bridge"]["ours"] += 1
    before, after = report.documents(figures), report.documents(changed)
    stale = {path.relative_to(ROOT).as_posix() for path, text in after.items() if before[path] != text}
    assert stale == {"README.md", "bench/figures/tcp_containers.md"}


def test_ratios_are_beside_what_is_possible_on_the_same_machine():
    ratios = measured(
        ratio("port to port, 64 B: DPU, bare / testpmd io", [10, 12], [5, 5], "Mpps"),
        ratio("port to port, 64 B: DPU, bare / OVS-DPDK, bare", [10, 12], [12, 12], "Mpps"),
        result("port to port, 64 B: DPU, bare", "Mpps", [10, 12]),
    )
    figures = {"limits": measured(result("bare ring, 64 B", "Mpps", [20])), "vhost_user": ratios}
    text = report.ratio_table("vhost_user", figures)
    assert text.count("\n| port to port") == 2
    unit = "11.00 | 5.00 | 20.00 [1] | Mpps | 2.20 | 2.00 | 2.40 | ahead |"
    assert f"| port to port, 64 B: DPU, bare / testpmd io | {unit}" in text
    assert "| 20.00 [1] | Mpps | 0.917 | 0.833 | 1.00 | tie |" in text
    assert text.endswith('[1] "bare ring, 64 B".  ')

    figures["limits"]["machine"] = "another"
    text = report.ratio_table("vhost_user", figures)
    assert "| 11.00 | 5.00 | - | Mpps |" in text and "Possible" not in text
    assert report.ratio_table("kernels", {"kernels": measured(result("parse", "ns", [1]))}) == ""


def test_a_document_without_markers_is_an_error():
    with pytest.raises(ValueError, match="figures: begin"):
        report.with_block("no markers", "text")
