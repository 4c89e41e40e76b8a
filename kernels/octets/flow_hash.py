"""Flow hash: one 32-bit number for both directions of a flow.

Spec: the finaliser is fmix64 of MurmurHash3 (public domain, Austin Appleby).
In:   addresses, protocol and ports as `meta` holds them.   Out: the hash, nothing is written.
Not:  keyed. Who can choose addresses and ports can make flows collide; tables bound their chains.

Each endpoint becomes one 64-bit word: the port lies over the upper 16 bits of the low half of the
address, which are zero for IPv4-mapped addresses, and the high half is multiplied in. Putting the
smaller word first makes the hash the same for both directions; two different odd multipliers keep
(a, b) and (a + 1, b - 1) apart; fmix64 then lets every input bit reach every output bit.
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper

_PREFIX_MUL = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
_LOWER_MUL = np.uint64(0xBF58476D1CE4E5B9)  # the two multipliers of splitmix64
_UPPER_MUL = np.uint64(0x94D049BB133111EB)
_FMIX_MUL_1 = np.uint64(0xFF51AFD7ED558CCD)
_FMIX_MUL_2 = np.uint64(0xC4CEB9FE1A85EC53)
_FMIX_SHIFT = np.uint64(33)
_PORT_SHIFT = np.uint64(48)
_LOW_32 = np.uint64(0xFFFFFFFF)


@helper
def flow_hash(src_hi, src_lo, dst_hi, dst_lo, proto, src_port, dst_port):
    """Hash of a flow, uint32; swapping source and destination does not change it.

    src_hi, src_lo, dst_hi, dst_lo  uint64   address halves
    proto, src_port, dst_port       unsigned, 0 where there is none
    """
    src = src_lo ^ (np.uint64(src_port) << _PORT_SHIFT) ^ (src_hi * _PREFIX_MUL)
    dst = dst_lo ^ (np.uint64(dst_port) << _PORT_SHIFT) ^ (dst_hi * _PREFIX_MUL)
    lower = min(src, dst)
    upper = max(src, dst)
    h = (lower * _LOWER_MUL + upper * _UPPER_MUL) ^ np.uint64(proto)
    h = (h ^ (h >> _FMIX_SHIFT)) * _FMIX_MUL_1
    h = (h ^ (h >> _FMIX_SHIFT)) * _FMIX_MUL_2
    return np.uint32((h ^ (h >> _FMIX_SHIFT)) & _LOW_32)
