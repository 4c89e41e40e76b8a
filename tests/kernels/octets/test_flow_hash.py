"""Flow hash: symmetric, equal to the model, spread well."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dpu_runtime.kernels.compile.jit import PYTHON_MODE
from dpu_runtime.kernels.octets.flow_hash import flow_hash
from tests.kernels.parse.model import MAPPED, hash_model

ADDRESS = st.one_of(
    st.integers(0, 2**128 - 1),
    st.integers(0, 2**32 - 1).map(lambda address: MAPPED | address),
    st.sampled_from([0, MAPPED]),
)
PORT = st.integers(0, 65535)
EXAMPLES = 100 if PYTHON_MODE else 500


def hashed(src, dst, proto, sport, dport):
    words = [np.uint64(half) for a in (src, dst) for half in (a >> 64, a & (2**64 - 1))]
    return int(flow_hash(*words, np.uint32(proto), np.uint32(sport), np.uint32(dport)))


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(ADDRESS, ADDRESS, st.integers(0, 255), PORT, PORT)
def test_equals_the_model_and_both_directions_agree(src, dst, proto, sport, dport):
    forward = hashed(src, dst, proto, sport, dport)
    assert forward == hash_model(src, dst, proto, sport, dport)
    assert forward == hashed(dst, src, proto, dport, sport)


def test_ports_belong_to_their_address():
    a, b = MAPPED | 0x0A000001, MAPPED | 0x0A000002
    assert hashed(a, b, 6, 1000, 80) != hashed(a, b, 6, 80, 1000)
    assert hashed(a, b, 6, 1000, 80) != hashed(a, b, 17, 1000, 80)
    assert hashed(a, a, 6, 80, 80) != hashed(b, b, 6, 80, 80)


def test_endpoint_sums_do_not_collide():
    a, b = MAPPED | 0x0A000001, MAPPED | 0x0A000002
    assert len({hashed(a + i, b + 100 - i, 6, 1000 + i, 2000 - i) for i in range(100)}) == 100


def test_consecutive_flows_fill_buckets_evenly():
    """Chi-square over 64 buckets, low and high bits: flows that differ in one port, then in one address."""
    flows, buckets = 2048, 64
    base = MAPPED | 0x0A000000
    by_port = [hashed(base + 1, base + 2, 6, 1024 + i, 80) for i in range(flows)]
    by_address = [hashed(base + i, base + 0x10000, 17, 53, 53) for i in range(flows)]
    by_prefix = [hashed(i << 64, 1 << 127, 6, 1, 2) for i in range(flows)]
    for hashes in (by_port, by_address, by_prefix):
        for shift in (0, 26):
            counts = np.bincount([(h >> shift) % buckets for h in hashes], minlength=buckets)
            chi_square = float(((counts - flows / buckets) ** 2).sum() / (flows / buckets))
            assert chi_square < 110, (shift, chi_square)  # p = 0.0002 for 63 degrees of freedom


def test_every_input_bit_reaches_every_output_bit():
    """Avalanche: each output bit flips for 30 to 70 % of the flips of any one input bit."""
    rng = np.random.default_rng(1)
    samples = 200 if PYTHON_MODE else 400
    for field, bits in (("src", 128), ("sport", 16)):
        for bit in (0, bits // 2 - 1, bits // 2, bits - 1):
            flipped = np.zeros(32)
            for _ in range(samples):
                halves = [int(word) for word in rng.integers(0, 2**63, 4)]
                flow = {"src": halves[0] << 64 | halves[1], "dst": halves[2] << 64 | halves[3]}
                flow |= {"proto": 6, "sport": halves[0] & 0xFFFF, "dport": halves[2] & 0xFFFF}
                changed = flow | {field: flow[field] ^ (1 << bit)}
                difference = hashed(**flow) ^ hashed(**changed)
                flipped += [(difference >> i) & 1 for i in range(32)]
            share = flipped / samples
            assert share.min() > 0.3 and share.max() < 0.7, (field, bit, share)
