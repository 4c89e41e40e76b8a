"""The ACL's words: packet key, sizes, and the arrays a stage has in shared memory.

In:   nothing. Not: anything of numba; the control process imports this file.

A packet is matched as a *key* of KEY_WORDS uint64 words:

    word  63                                              0
    0     tcp_flags:8 | proto:8 | flags:4 | 0:12 | dport:16 | sport:16    flags: KEY_*
    1, 2  source address, high and low half (IPv4 in the low 32 bits of word 2)
    3, 4  destination address
    5     source MAC:48
    6     destination MAC:48
    7     vlan:12 | out_port:16 | in_port:16 | ethertype:16   out_port: PORT_NONE in the ingress stage

The fields of a packet's record (layout.py) are in the same order, and most of a key is one load of
its second line.

A rule is a value and a mask over those words. Where word L4 has the ports, the value is the first
of a range and the spans say how many follow. Rules lie in at most TABLES_MAX hash tables. A table
hashes the key under its own mask; a bucket names a run of rule rows in rank order (rank 0 is the
rule of highest priority). `prune` and `prune_class` say, for one slice of the key, which tables can
match at all, one bit a table: their AND leaves few tables to look into. A field of `prune` that
leaves out no table, whatever its value, is not asked.

Every array but `active` has two halves. `active[0]` is the version in force and `version & 1` its
half, so the control process writes the other half and then moves the version.
"""

from collections import namedtuple

import numpy as np

KEY_WORDS = 8
L4, SRC_HI, SRC_LO, DST_HI, DST_LO, SRC_MAC, DST_MAC, L2 = range(KEY_WORDS)
SPORT_SHIFT, DPORT_SHIFT, FLAGS_SHIFT, PROTO_SHIFT, TCP_FLAGS_SHIFT = 0, 16, 44, 48, 56  # word L4
ETHERTYPE_SHIFT, IN_PORT_SHIFT, OUT_PORT_SHIFT, VLAN_SHIFT = 0, 16, 32, 48  # word L2

# flags of word L4
KEY_IP = 8  # IPv4 or IPv6
KEY_IPV4 = 4
KEY_PORTS = 2  # sport and dport are valid
KEY_TCP = 1  # tcp_flags is valid

ACTION_ALLOW = 0
ACTION_DROP = 1

RULES_MAX = 65536  # a stage
TABLES_MAX = 64  # one bit each in a uint64
BUCKETS_MAX = 4 * RULES_MAX + 2 * TABLES_MAX  # a table of n rules has 2n..4n buckets, and at least 2
HITS_MAX = 2 * RULES_MAX + 64  # both stages of a worker

# prune[half, PRUNE_*, 16 bits of the key]: tables that can match
PRUNE_SRC, PRUNE_DST, PRUNE_SPORT, PRUNE_DPORT = range(4)
PRUNE_FIELDS = 4
PRUNE_ADDRESS_SHIFT = 16  # bits 16..31 of the low word for IPv4, of the high word otherwise
PRUNE_CLASSES = 1 << 12  # proto:8 | flags:4, as they lie in word L4

# A rule's row: value words, then mask words; two cache lines. The ports' bits are all in the mask.
ROW_WORDS = 2 * KEY_WORDS
# Its extra words: spans of the port ranges, last less first, where word L4 has the ports; then
# rank:32 | verdict:32. A verdict is action:1 | hit:31.
EXTRA_WORDS = 2
EXTRA_SPANS, EXTRA_DECISION = range(EXTRA_WORDS)
VERDICT_ACTION_SHIFT = 31

# Odd constants of the multiply-shift hash (Dietzfelbinger 1997) of a masked key: its top bits are
# the bucket. Digits of pi.
MULTIPLIERS = np.array(
    [
        0x243F6A8885A308D3,
        0x13198A2E03707345,
        0xA4093822299F31D1,
        0x082EFA98EC4E6C89,
        0x452821E638D01377,
        0xBE5466CF34E90C6D,
        0xC0AC29B7C97C50DD,
        0x3F84D5B5B5470917,
    ],
    np.uint64,
)

HEAD_DTYPE = np.dtype(
    [
        ("rule_count", "u4"),
        ("table_count", "u4"),
        ("default_verdict", "u4"),
        ("prune_fields", "u4"),  # bit PRUNE_*: some value of the field leaves a table out
    ],
    align=True,
)
TABLE_DTYPE = np.dtype(
    [
        ("first_bucket", "u4"),
        ("best_rank", "u4"),  # of all its rules; tables are in ascending order of it
        ("shift", "u4"),  # hash >> shift is the bucket
        ("rule_count", "u4"),
    ],
    align=True,
)
BUCKET_DTYPE = np.dtype([("first_row", "u4"), ("row_count", "u4")], align=True)

CACHE_LINE_BYTES = 64

# name -> (dtype, shape): a stage in shared memory, each array at a multiple of CACHE_LINE_BYTES.
# Sparse: pages no rule uses are never touched.
ACL_LAYOUT = {
    "active": (np.dtype("u8"), (8,)),  # [0]: version; the rest of the cache line is free
    "head": (HEAD_DTYPE, (2, 1)),
    "used": (np.dtype("u8"), (2, KEY_WORDS)),  # bits of the key that any rule looks at
    "table_masks": (np.dtype("u8"), (2, TABLES_MAX, KEY_WORDS)),
    "tables": (TABLE_DTYPE, (2, TABLES_MAX)),
    "prune": (np.dtype("u8"), (2, PRUNE_FIELDS, 1 << 16)),
    "prune_class": (np.dtype("u8"), (2, PRUNE_CLASSES)),
    "buckets": (BUCKET_DTYPE, (2, BUCKETS_MAX)),
    "rows": (np.dtype("u8"), (2, RULES_MAX, ROW_WORDS)),
    "extras": (np.dtype("u8"), (2, RULES_MAX, EXTRA_WORDS)),
}

Acl = namedtuple("Acl", ACL_LAYOUT)


def aligned_zeros(shape, dtype):
    """Zeroed array that starts at a cache line; rows of whole lines then touch no more than they need."""
    dtype = np.dtype(dtype)
    octets = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(octets + CACHE_LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE_BYTES
    return memory[start : start + octets].view(dtype).reshape(shape)


def new_acl():
    """Empty stage in private memory: no rules, everything allowed."""
    return Acl(*(aligned_zeros(shape, dtype) for dtype, shape in ACL_LAYOUT.values()))
