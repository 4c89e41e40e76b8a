"""Instructions by callgrind: exact, so what is counted now is what is committed."""

import json

import numpy as np
import pytest

from bench import callgrind, instruction_cases, instructions

pytestmark = pytest.mark.compiled
ALONE = "check_vnet, 64 B"  # calls no library, whose copies may be others


def test_a_mark_does_nothing_outside_valgrind():
    assert callgrind.ask(np.uint64(callgrind.DUMP_STATS)) == 0


def test_the_totals_of_a_file_are_read():
    assert instruction_cases.totals_of("events: Ir\nfn=(1)\n0 42\n\ntotals: 4211\n") == 4211
    assert instruction_cases.totals_of("events: Ir\n") == 0


@pytest.mark.slow
@pytest.mark.package("valgrind")
def test_another_process_counts_what_is_committed():
    committed = json.loads(instructions.COMMITTED.read_text())["instructions"]
    now = instructions.measure([ALONE])
    assert now[ALONE] == committed[ALONE] > 1
    assert len(now) == len(instruction_cases.STAGES) - 1
    rows = instructions.judge({name: committed[name] for name in now}, now)
    assert not any(row.failed for row in rows), rows
