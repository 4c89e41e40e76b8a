"""The guard: below 0.8 of the committed ratio fails, missing fails, the best of three counts."""

import json
from dataclasses import asdict

import pytest

from bench import guard, instructions
from bench.committed import Row, table
from bench.results import environment, ratio, result
from bench.suite import SUITE


def test_ratios_are_turned_so_that_more_is_better():
    made = [
        ratio("rate", [4, 4], [2, 2], "Mpps"),
        ratio("time", [4, 4], [2, 2], "us", lower_is_better=True),
        result("no ratio", "Mpps", [1]),
    ]
    assert guard.oriented(made) == {"rate": 2, "time": 0.5}


def test_below_the_floor_and_missing_fail():
    rows = guard.judge({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 0.8, "b": 0.79, "new": 5.0})
    assert [(row.word, row.failed) for row in rows] == [
        ("ok", False),
        ("below 0.8", True),
        ("missing", True),
    ]


@pytest.mark.parametrize(
    "taken, words",
    [
        ([{"a": 1, "b": 1}], ["ok", "ok"]),
        ([{"a": 0.1, "b": 1}, {"a": 1, "b": 0.1}], ["ok, best of 2", "ok, best of 2"]),
        ([{}, {"a": 1}, {"b": 1}], ["ok, best of 3", "ok, best of 3"]),
        ([{"a": 1}, {"a": 1, "b": 0.7}, {"a": 0.1}], ["ok, best of 3", "below 0.8, best of 3"]),
        ([{"a": 1}] * 3, ["ok, best of 3", "missing, best of 3"]),
    ],
)
def test_what_fails_is_measured_again_and_the_best_counts(taken, words):
    left = iter(taken)
    rows = guard.guarded({"a": 1.0, "b": 1.0}, lambda: next(left))
    assert [row.word for row in rows] == words
    assert next(left, None) is None, "measured as often as needed, not less"


def test_the_baseline_is_the_lowest_of_all_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "FIGURES", tmp_path)
    monkeypatch.setattr(guard, "BASELINE", tmp_path / "baseline.json")
    runs = iter([{"a": 3.0}, {"a": 2.0}, {"a": 4.0}, {"a": 1.0}, {"a": 5.0}, {"a": 6.0}])
    monkeypatch.setattr(guard, "take", lambda bench: next(runs))
    bench = SUITE[0]

    def ratios():
        return json.loads(guard.BASELINE.read_text())["ratios"][bench.name]

    assert guard.update([bench], 2, lower=False) == 0 and ratios() == {"a": 2}
    assert guard.update([bench], 1, lower=True) == 0 and ratios() == {"a": 2}
    assert guard.update([bench], 1, lower=True) == 0 and ratios() == {"a": 1}
    assert guard.update([bench], 1, lower=False) == 0 and ratios() == {"a": 5}
    figures = {**environment(), "results": [asdict(ratio("a", [4], [1])), asdict(ratio("b", [1], [1]))]}
    (tmp_path / f"{bench.name}.json").write_text(json.dumps(figures))
    assert guard.update([bench], 1, lower=False) == 0 and ratios() == {"a": 4}
    assert len(json.loads(guard.BASELINE.read_text())["machines"][bench.name]) == 2


def test_every_guarded_script_has_committed_ratios():
    committed = json.loads(guard.BASELINE.read_text())
    guarded = [bench.name for bench in SUITE if bench.guard is not None]
    assert guarded and sorted(guarded) == sorted(committed["ratios"]) == sorted(committed["machines"])
    assert all(value > 0 for ratios in committed["ratios"].values() for value in ratios.values())


def test_counts_may_fall_but_not_rise():
    committed = dict.fromkeys(("same", "noise", "more", "fewer", "gone"), 100.0)
    now = {"same": 100.0, "noise": 101.9, "more": 102.1, "fewer": 90.0, "new": 1.0}
    rows = instructions.judge(committed, now)
    assert [row.word for row in rows] == ["ok", "ok", "more", "ok, fewer: --update", "missing"]
    assert [row.failed for row in rows] == [False, False, True, False, True]


def test_the_table_has_committed_now_and_both_in_relation():
    rows = [Row("DPU / bridge", 2.0, 1.0, "below 0.8"), Row("x", 1, None, "missing")]
    assert table({"ports": rows}).splitlines() == [
        "script  figure        committed   now  now/committed",
        "ports   DPU / bridge       2.00  1.00           0.50  below 0.8",
        "ports   x                  1.00     -              -  missing",
    ]
