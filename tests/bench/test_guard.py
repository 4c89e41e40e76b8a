"""The guard: below 0.8 of the committed ratio fails, missing fails, the best of three counts."""

import json
from dataclasses import asdict

import pytest

from bench import cpu_distance, guard, instructions
from bench.committed import NOT_COMPARED, Row, table
from bench.results import environment, ratio, result
from bench.suite import SUITE, Bench

NEAR, FAR, MIXED, UNKNOWN = (100, 140), (350, 390), (100, 390), (None, None)  # ns


def samples(apart, **values):
    """Samples of these ratios, all measured with the CPUs `apart`."""
    return {name: guard.Sample(value, *apart) for name, value in values.items()}


def never(committed):
    """The CPUs come to no distance that is committed."""
    return False


def soon(committed):
    """They do."""
    return True


def test_ratios_are_turned_so_that_more_is_better():
    made = [
        ratio("rate", [4, 4], [2, 2], "Mpps"),
        ratio("time", [4, 4], [2, 2], "us", lower_is_better=True),
        result("no ratio", "Mpps", [1]),
    ]
    assert guard.oriented(made) == {"rate": guard.Sample(2), "time": guard.Sample(0.5)}


def test_below_the_floor_and_missing_fail():
    rows = guard.judge({"any": {"a": 1.0, "b": 1.0, "c": 1.0}}, [samples(UNKNOWN, a=0.8, b=0.79, new=5.0)])
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
@pytest.mark.parametrize("wait", [never, soon])
def test_what_fails_is_measured_again_and_the_best_counts(taken, words, wait):
    left = iter(taken)
    rows = guard.guarded({"any": {"a": 1.0, "b": 1.0}}, lambda: samples(MIXED, **next(left)), wait)
    assert [row.word for row in rows] == words
    assert next(left, None) is None, "measured as often as needed, not less"


@pytest.mark.parametrize(
    "taken, wait, word, failed",
    [
        ([(NEAR, 1.0)], soon, "ok, near", False),
        ([(NEAR, 0.7)] * 3, soon, "below 0.8, near, best of 3", True),
        ([(FAR, 0.7), (NEAR, 0.7), (MIXED, 2.0)], soon, "below 0.8, near, best of 3", True),
        ([(NEAR, 0.7)] * 3, never, "below 0.8, near, best of 3", True),
        ([(FAR, 0.1), (MIXED, 0.1), (NEAR, 0.9)], soon, "ok, near, best of 3", False),
        ([(FAR, 0.7)], never, "not compared: CPUs far apart (390 ns)", False),
        ([(FAR, 9.0)] * 3, soon, "not compared: CPUs far apart (390 ns)", False),
        ([(MIXED, 0.7)] * 3, soon, "not compared: CPUs moved (100 to 390 ns)", False),
        ([(UNKNOWN, 1.0)] * 3, soon, "CPUs' distance unknown, best of 3", True),
    ],
)
def test_near_is_held_against_near_only_and_a_slow_down_there_fails(taken, wait, word, failed):
    left = iter(taken)

    def measure():
        apart, value = next(left)
        return samples(apart, a=value)

    rows = guard.guarded({"near": {"a": 1.0}}, measure, wait)
    assert [(row.word, row.failed) for row in rows] == [(word, failed)]
    assert next(left, None) is None, "measured as often as needed, not less"


def test_far_is_held_against_far_where_that_is_committed():
    committed = {"near": {"a": 1.0, "b": 1.0}, "far": {"a": 0.5, "b": 0.5}}
    rows = guard.judge(committed, [samples(FAR, a=0.6, b=0.3)])
    assert [(row.committed, row.word) for row in rows] == [(0.5, "ok, far"), (0.5, "below 0.8, far")]


def test_patience_ends(monkeypatch):
    monkeypatch.setattr(guard, "PROBE_SECONDS", 0)
    places = iter([350, 350, 120])
    monkeypatch.setattr(cpu_distance, "measure", lambda: next(places))
    assert guard.Patience(60).wait({"near": {}}) and next(places, None) is None
    monkeypatch.setattr(cpu_distance, "measure", lambda: 350)
    assert guard.Patience(60).wait({"far": {}}) and guard.Patience(60).wait({"any": {}})
    assert not guard.Patience(0).wait({"near": {}}) and not guard.Patience(0).wait({"far": {}})


def test_the_baseline_is_the_lowest_of_all_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "FIGURES", tmp_path)
    monkeypatch.setattr(guard, "BASELINE", tmp_path / "baseline.json")
    runs = iter([3.0, 2.0, 4.0, 1.0, 5.0, 6.0])
    monkeypatch.setattr(guard, "take", lambda bench: samples(MIXED, a=next(runs)))
    bench = Bench("latency")

    def ratios():
        return json.loads(guard.BASELINE.read_text())["ratios"][bench.name]["any"]

    assert guard.update([bench], 2, lower=False) == 0 and ratios() == {"a": 2}
    assert guard.update([bench], 1, lower=True) == 0 and ratios() == {"a": 2}
    assert guard.update([bench], 1, lower=True) == 0 and ratios() == {"a": 1}
    assert guard.update([bench], 1, lower=False) == 0 and ratios() == {"a": 5}
    figures = {**environment(), "results": [asdict(ratio("a", [4], [1])), asdict(ratio("b", [1], [1]))]}
    (tmp_path / f"{bench.name}.json").write_text(json.dumps(figures))
    assert guard.update([bench], 1, lower=False) == 0 and ratios() == {"a": 4}
    assert len(json.loads(guard.BASELINE.read_text())["machines"][bench.name]["any"]) == 2


def test_the_baseline_is_of_the_distance_it_was_measured_at(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "FIGURES", tmp_path)
    monkeypatch.setattr(guard, "BASELINE", tmp_path / "baseline.json")
    figures = {**environment(), "results": [asdict(ratio("a", [1], [9]))]}  # who knows at which distance
    (tmp_path / "latency.json").write_text(json.dumps(figures))
    bench = Bench("latency", by_distance=True)

    def update(runs, lower, *taken):
        left = iter([samples(apart, a=value) for apart, value in taken])
        monkeypatch.setattr(guard, "take", lambda bench: next(left))
        assert guard.update([bench], runs, lower) == 0 and next(left, None) is None
        data = json.loads(guard.BASELINE.read_text())
        assert data["machines"][bench.name].keys() == data["ratios"][bench.name].keys()
        return data["ratios"][bench.name]

    assert update(2, False, (NEAR, 1.2), (FAR, 0.4), (MIXED, 0.1), (NEAR, 1.1)) == {"near": {"a": 1.1}}
    assert update(1, False, (FAR, 0.6)) == {"near": {"a": 1.1}, "far": {"a": 0.6}}
    assert update(1, True, (NEAR, 1.3)) == {"near": {"a": 1.1}, "far": {"a": 0.6}}
    assert update(1, True, (FAR, 0.5)) == {"near": {"a": 1.1}, "far": {"a": 0.5}}
    assert update(1, False, (NEAR, 1.3)) == {"near": {"a": 1.3}, "far": {"a": 0.5}}
    before = guard.BASELINE.read_text()
    monkeypatch.setattr(guard, "take", lambda bench: samples(MIXED, a=1.0))
    assert guard.update([bench], 1, lower=False) == 1 and guard.BASELINE.read_text() == before


def test_every_guarded_script_has_committed_ratios():
    committed = json.loads(guard.BASELINE.read_text())
    guarded = [bench.name for bench in SUITE if bench.guard is not None]
    assert guarded and sorted(guarded) == sorted(committed["ratios"]) == sorted(committed["machines"])
    for bench in (bench for bench in SUITE if bench.guard is not None):
        by_distance = committed["ratios"][bench.name]
        assert by_distance.keys() == committed["machines"][bench.name].keys()
        assert by_distance.keys() <= ({"near", "far"} if bench.by_distance else {"any"})
        assert all(value > 0 for ratios in by_distance.values() for value in ratios.values())


def test_counts_may_fall_but_not_rise():
    committed = dict.fromkeys(("same", "noise", "more", "fewer", "gone"), 100.0)
    now = {"same": 100.0, "noise": 101.9, "more": 102.1, "fewer": 90.0, "new": 1.0}
    rows = instructions.judge(committed, now)
    assert [row.word for row in rows] == ["ok", "ok", "more", "ok, fewer: --update", "missing"]
    assert [row.failed for row in rows] == [False, False, True, False, True]


def test_the_table_has_committed_now_and_both_in_relation():
    left = Row("y", None, 1, f"{NOT_COMPARED}: CPUs far apart (390 ns)")
    rows = [Row("DPU / bridge", 2.0, 1.0, "below 0.8"), Row("x", 1, None, "missing"), left]
    assert table({"ports": rows}).splitlines() == [
        "script  figure        committed   now  now/committed",
        "ports   DPU / bridge       2.00  1.00           0.50  below 0.8",
        "ports   x                  1.00     -              -  missing",
        "ports   y                     -  1.00              -  not compared: CPUs far apart (390 ns)",
    ]
