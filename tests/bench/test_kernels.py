"""The bench of the kernels, small: every figure is there, and what was computed is the same each time."""

import pytest

from dpu_runtime.kernels.layout import BATCH_SIZE

pytestmark = [pytest.mark.in_memory, pytest.mark.compiled]


@pytest.mark.slow
def test_a_small_run_measures_all_and_repeats_itself():
    from bench import kernels

    first, second = (kernels.run(4, repeats=1) for _ in range(2))
    names = [figure.name for figure in first]
    assert len(set(names)) == len(names)
    for part in ("parse", "check_vnet", "admit + switch", "filter_ingress", "verify_checksums", "complete"):
        assert sum(name.startswith(part) for name in names) == 3, part
    for part in ("gso_segment", "gro_merge", "10 rules", "10,000 rules", "ones_sum", "numpy copy"):
        assert any(part in name for name in names), part
    assert all(figure.median > 0 for figure in first)
    checksums = [figure.checksum_of_output for figure in first]
    assert checksums == [figure.checksum_of_output for figure in second]
    assert len(set(checksums)) > 10


def test_what_is_measured_passes_and_does_its_work():
    from bench import kernels, packets

    bench = kernels.Bench(rules=10)
    done, spent = bench.run("pipeline_loop", packets.plain_pool(packets.IMIX), 3, 100_000)
    assert done == 3 * BATCH_SIZE and spent[0] > 0
    balance = bench.device.shared.balance()
    assert balance["dropped"] == 0 and balance["copies"] == 0
    assert balance["transmitted"] == balance["received"] == done
    assert bench.device.shared.of("acl").hits[0, :, 0].sum() > 0

    segments, _ = kernels.Bench().run("segment_loop", packets.large_pool(1448), 2)
    assert segments == 2 * -(-64_000 // 1448)
    merging = kernels.Bench(in_flags=kernels.PORT_RX_GRO)
    (done, left), _ = merging.run("merge_loop", packets.stream_pool(1448, flows=8), 1)
    assert (done, left) == (BATCH_SIZE, 8)


def test_the_checksum_loop_sums_what_it_is_given():
    import numpy as np

    from bench import kernel_loops

    memory = np.arange(3000, dtype=np.uint32).astype(">u2").view(np.uint8)
    words = memory.view(">u2").astype(int)
    expected = 0
    for place in (0, 1480, 2960, 4440, 0):
        total = int(words[place // 2 : (place + 1480) // 2].sum())
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        expected += total
    assert kernel_loops.checksum_loop(memory, 1480, 1480, 5) == expected
