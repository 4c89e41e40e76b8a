"""The kernel that kernels/README.md shows does what it says."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from dpu_runtime.kernels.drops import DROP_REASON_COUNT
from dpu_runtime.kernels.layout import VERDICT_DROP
from dpu_runtime.kernels.parse.parse import parse
from tests.kernels.batches import Batch

README = Path(__file__).resolve().parents[2] / "kernels" / "README.md"


@pytest.fixture
def example(request):
    """The code block of the README as a module; at a fixed place, so that its machine code is found again."""
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    path = request.config.cache.mkdir("readme") / "mark_dscp.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("mark_dscp", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_marks_ipv4_and_nothing_else(example):
    frames = [bytes(Ether() / IP(tos=0b01, ttl=n, id=n) / TCP()) for n in range(1, 200, 7)]
    frames.append(bytes(Ether() / IPv6() / TCP()))
    frames.append(bytes(Ether() / IP() / TCP()))
    batch = Batch(frames)
    parse(batch.headers, batch.meta, len(frames), np.zeros(DROP_REASON_COUNT, np.uint64))
    batch.meta[-1]["verdict"] = VERDICT_DROP

    assert example.mark_dscp(batch.headers, batch.meta, len(frames), 46) == len(frames) - 2

    for i, frame in enumerate(frames[:-2]):
        expected = Ether(frame)
        expected[IP].tos = (46 << 2) | 0b01
        del expected[IP].chksum
        assert batch.frame(i) == bytes(expected)
    assert [batch.frame(i) for i in (-2, -1)] == frames[-2:]
