"""dpu_runtime/observe/counters.py: what the frame and the functions count, by their names."""

from types import SimpleNamespace

import pytest

from dpu_runtime.drivers.port import PortCounter
from dpu_runtime.kernels.drops import Drop
from dpu_runtime.kernels.switch import drops
from dpu_runtime.kernels.switch.mac_table import COUNTER_FLOODED, SWITCH_COUNTERS
from dpu_runtime.observe.counters import drop_counters, read_stats, stage_counters
from dpu_runtime.plane.shared import SharedState
from dpu_runtime.plane.words import FrameStage
from dpu_runtime.registry import functions, order

OF_FUNCTIONS = [stage.name for stages in order(functions()).values() for stage in stages]
STAGES = ["rx", "parse", "verify", *OF_FUNCTIONS, "offload", "tx", "xconnect"]


@pytest.fixture
def shared():
    return SharedState.create(2)


def test_stages_are_in_the_order_of_the_pipeline(shared):
    shared.kernel_counters[0, FrameStage.RX] = 5, 50
    shared.kernel_counters[1, FrameStage.RX] = 1, 10
    shared.of("acl").stages[0, 1] = 3, 30
    counted = stage_counters(shared, 2)
    assert list(counted) == STAGES
    ours = [name for name in counted if name.split("_")[0] in ("acl", "switch", "meter")]
    assert ours == [
        "switch_admit",
        "meter_rx",
        "acl_ingress",
        "switch",
        "acl_egress",
        "switch_tags",
        "meter_tx",
    ]
    assert (counted["rx"], counted["acl_egress"], counted["tx"]) == ((6, 60), (3, 30), (0, 0))


def test_drop_reasons_are_those_of_the_frame_and_of_functions(shared):
    shared.drops[0, Drop.RUNT] = 2
    shared.of("meter").drops[1, 1] = 3
    counted = drop_counters(shared, 2)
    declared = {name for function in functions() for name in function.drops}
    assert declared < set(counted)
    assert "none" not in counted
    assert {name: n for name, n in counted.items() if n} == {"runt": 2, "meter_tx": 3}


def test_stats_have_the_published_form(shared):
    shared.port_counters[0, 7, PortCounter.RX_PACKETS] = 9
    shared.of("switch").switch[0, COUNTER_FLOODED] = 4
    shared.of("switch").drops[0, drops.LINK_LOCAL] = 1
    live_ports = {"p": SimpleNamespace(index=7, base=[2] + [0] * (len(PortCounter) - 1))}
    stats = read_stats(shared, live_ports, [0, 1])
    assert list(stats) == ["ports", "drops", "kernels", "switch", "balance", "workers", "tsc_hz"]
    assert stats["ports"]["p"]["rx_packets"] == 7
    assert stats["drops"] == {"link_local": 1}
    assert stats["kernels"]["rx"] == {"packets": 0, "cycles": 0}
    assert stats["switch"] == {name: 4 if name == "flooded" else 0 for name in SWITCH_COUNTERS}
