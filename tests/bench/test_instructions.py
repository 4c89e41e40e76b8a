"""Instructions by callgrind. CI counts all of them besides (`python -m bench.instructions`)."""

import numpy as np
import pytest

from bench import callgrind, instruction_cases

pytestmark = [pytest.mark.in_memory, pytest.mark.compiled]


def test_a_mark_does_nothing_outside_valgrind():
    assert callgrind.ask(np.uint64(callgrind.DUMP_STATS)) == 0


def test_the_totals_of_a_file_are_read():
    assert instruction_cases.totals_of("events: Ir\nfn=(1)\n0 42\n\ntotals: 4211\n") == 4211
    assert instruction_cases.totals_of("events: Ir\n") == 0
