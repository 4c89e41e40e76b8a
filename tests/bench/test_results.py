"""The bench scripts' form: medians, alternation, the table, the JSON file."""

import json

import pytest

from bench import cpu_distance, results
from bench.results import Result, alternate, comparison, environment, ratio, result, table, write_json

pytestmark = pytest.mark.in_memory


def test_a_result_has_median_low_and_high():
    assert result("parse", "ns", [3, 1, 9], 7) == Result("parse", 3, "ns", 1, 9, 7)


def test_samples_alternate_and_the_first_round_is_dropped(monkeypatch):
    monkeypatch.setattr(results, "ROUNDS_DROPPED", 1)
    calls = []

    def sample(name):
        calls.append(name)
        return len(calls)

    values = alternate({"a": lambda: sample("a"), "b": lambda: sample("b")}, repeats=2)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert values == {"a": [3, 5], "b": [4, 6]}


def test_a_result_says_how_far_apart_the_cpus_were_around_what_counts(monkeypatch):
    monkeypatch.setattr(results, "ROUNDS_DROPPED", 1)
    probes = iter([300.0, 120.0, 110.0, None])
    monkeypatch.setattr(cpu_distance, "measure", lambda: next(probes))
    values = alternate({"a": lambda: 1}, repeats=3)
    made = ratio("x", values["a"], [1, 1, 1])
    assert (made.apart_low_ns, made.apart_high_ns) == (110, 300) and next(probes, 0) == 0
    monkeypatch.setattr(cpu_distance, "measure", lambda: None)
    alternate({"a": lambda: 1}, repeats=2)
    assert result("x", "ns", [1]).apart_high_ns is None


def test_a_ratio_is_taken_pair_by_pair():
    made = ratio("ours / theirs", [1, 4, 9], [1, 2, 3], "Mpps")
    assert made == Result("ours / theirs", 2, "x", 1, 3, ours=4, theirs=2, of_unit="Mpps", pairs=3)
    with pytest.raises(ValueError, match="shorter"):
        ratio("x", [1, 2], [1])


@pytest.mark.parametrize(
    "ours, lower_is_better, verdict",
    [
        ([3, 4], False, "ahead"),
        ([3, 4], True, "behind"),
        ([1, 1], False, "behind"),
        ([1, 1], True, "ahead"),
        ([1, 3], False, "tie"),
        ([2, 3], True, "tie"),
    ],
)
def test_a_ratio_within_the_noise_is_a_tie(ours, lower_is_better, verdict):
    assert ratio("x", ours, [2, 2], lower_is_better=lower_is_better).verdict == verdict
    assert result("x", "Mpps", ours).verdict == ""


def test_the_comparison_has_both_sides_of_every_ratio():
    made = [result("DPU", "Mpps", [4, 5]), ratio("DPU / bridge", [4, 5], [2, 2], "Mpps")]
    assert comparison({"ports": made, "none": []}).splitlines() == [
        "script  figure        ours  peer  possible  unit  ratio   low  high",
        "ports   DPU / bridge  4.50  2.00         -  Mpps   2.25  2.00  2.50  ahead",
    ]


def test_what_a_veth_pair_did_in_the_same_run_is_possible():
    made = [result("UDP: veth", "Gbit/s", [8, 9]), ratio("UDP: DPU / OVS", [4, 5], [2, 2], "Gbit/s")]
    assert list(results.compared({"udp_containers": made})) == [
        (
            "udp_containers",
            "UDP: DPU / OVS",
            "4.50",
            "2.00",
            "9.00",
            "Gbit/s",
            "2.25",
            "2.00",
            "2.50",
            "ahead",
        )
    ]


def test_the_table_aligns_its_columns():
    text = table([Result("parse 64 B", 12.345, "ns", 0.5, 1234567.8), Result("x", 0, "GB/s", 0, 0)])
    assert text.splitlines() == [
        "name        median  low       high  unit",
        "parse 64 B   12.35  0.5  1,234,568  ns",
        "x                0    0          0  GB/s",
    ]


def test_the_json_names_the_machine_and_the_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "OUT", tmp_path)
    path = write_json("kernels", [Result("parse", 2, "ns", 1, 3, 4)], environment(), peer="bridge")
    data = json.loads(path.read_text())
    assert [Result(**row) for row in data["results"]] == [Result("parse", 2, "ns", 1, 3, 4)]
    assert data["bench"] == "kernels" and data["peer"] == "bridge"
    assert "spectre_v2" not in data["mitigations"] or data["mitigations"]["spectre_v2"] != "Not affected"
    assert data["peers"].keys() >= {"dpdk-dev", "openvswitch-switch-dpdk", "iperf3", "nftables"}
    assert data["machine"] and data["kernel"] and data["commit"] and data["packages"]["numba"]
