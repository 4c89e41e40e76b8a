"""Packets like the one before: what was parsed of that one is true of them too.

Packets of one flow come in runs. A few words that are equal cost less than to parse the same header again.

In:   the row of a packet, and of one that was parsed; the records' placement and offload fields.
Out:  the parser's fields; `repeats`, which other kernels take for the same flow as the packet right before.
      Whoever changes parsed fields of some packets of a run clears `repeats` of these and of the next ones.
Not:  tags, IPv6, IPv4 options, fragments, groups, ports that announce a tunnel: each of these is parsed.

Two plain headers are alike when they differ in nothing the parser reads: in no octet but those of the
identification, the TTL and the header checksum (RFC 791 3.1), of UDP's checksum (RFC 768), of TCP's
sequence and acknowledgment numbers and what follows the flags (RFC 9293 3.1).
"""

import numpy as np

from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.layout import META_DTYPE, PARSED_IPV4, PARSED_PORTS
from dpu_runtime.kernels.octets.memory import copy_memory, load_u64
from dpu_runtime.kernels.parse.ethernet import ETHERNET_HEADER_BYTES, ETHERTYPE_IPV4
from dpu_runtime.kernels.parse.transport import PROTO_TCP, PROTO_UDP
from dpu_runtime.kernels.parse.tunnel import announces_tunnel

RUN_TRIES = 4  # comparisons in vain, then the rest of a batch is parsed: its flows are interleaved
_PLAIN = np.uint32(PARSED_IPV4 | PARSED_PORTS)
_RECORD_BYTES = np.uint64(META_DTYPE.itemsize)
_PLACE_AT = np.uint64(META_DTYPE.fields["l2_offset"][1])  # header_end, in_port and gso_size too
_OFFLOAD_AT = np.uint64(META_DTYPE.fields["csum_start"][1])  # csum_offset to gso_type too
PARSED_BEGIN = META_DTYPE.fields["ethertype"][1]  # octets; all that the parser writes, and the verdict
PARSED_END = META_DTYPE.fields["payload_iov"][1]
_PARSED_AT = np.uint64(PARSED_BEGIN)
_PARSED_BYTES = np.uint64(PARSED_END - PARSED_BEGIN)
assert META_DTYPE.fields["in_port"][1] < int(_PLACE_AT) + 8
assert META_DTYPE.fields["gso_type"][1] < int(_OFFLOAD_AT) + 8
assert PARSED_BEGIN % 8 == 0 and PARSED_END % 8 == 0

# Octets of a frame, in words as they are loaded: the first octet is the lowest.
_WORD_2_AT, _WORD_3_AT, _WORD_4_AT, _WORD_5_AT = np.uint64(16), np.uint64(24), np.uint64(32), np.uint64(40)
_8 = np.uint64(8)
WORD_2_MASK = np.uint64(0xFF00_FFFF_0000_FFFF)  # total length, flags and offset, protocol
WORD_3_MASK = np.uint64(0xFFFF_FFFF_FFFF_0000)  # the source and half of the destination
WORD_4_UDP = np.uint64(0xFFFF_FFFF_FFFF_FFFF)  # the other half, ports, length
WORD_4_TCP = np.uint64(0x0000_FFFF_FFFF_FFFF)  # and not the sequence number
WORD_5_UDP = np.uint64(0)
WORD_5_TCP = np.uint64(0xFFFF_0000_0000_0000)  # data offset and flags


@helper
def may_repeat(rec):
    """Whether a packet that was parsed and passes is plain enough to compare others with."""
    proto = np.uint32(rec["ip_proto"])
    return (
        np.uint32(rec["parsed"]) == _PLAIN
        and np.uint64(rec["l3_offset"]) == np.uint64(rec["l2_offset"]) + ETHERNET_HEADER_BYTES
        and np.uint32(rec["ethertype"]) == ETHERTYPE_IPV4
        and (proto == PROTO_TCP or (proto == PROTO_UDP and not announces_tunnel(np.uint32(rec["dst_port"]))))
    )


@helper
def repeats(rows, row_bytes, records, meta, packet, before):
    """Whether packet `packet` is parsed as the plain packet `before` was.

    rows, records  addresses of headers and meta
    """
    rec, plain = meta[packet], meta[before]
    a = records + np.uint64(packet) * _RECORD_BYTES
    b = records + np.uint64(before) * _RECORD_BYTES
    differing = load_u64(a + _PLACE_AT) ^ load_u64(b + _PLACE_AT)
    differing |= load_u64(a + _OFFLOAD_AT) ^ load_u64(b + _OFFLOAD_AT)
    differing |= np.uint64(rec["frame_len"] ^ plain["frame_len"])
    if differing != 0:  # the place of the row's octets among it
        return False
    tcp = np.uint32(plain["ip_proto"]) == PROTO_TCP
    l2 = np.uint64(plain["l2_offset"])
    a = rows + np.uint64(packet) * row_bytes + l2
    b = rows + np.uint64(before) * row_bytes + l2
    differing = load_u64(a) ^ load_u64(b)
    differing |= load_u64(a + _8) ^ load_u64(b + _8)
    differing |= (load_u64(a + _WORD_2_AT) ^ load_u64(b + _WORD_2_AT)) & WORD_2_MASK
    differing |= (load_u64(a + _WORD_3_AT) ^ load_u64(b + _WORD_3_AT)) & WORD_3_MASK
    mask_4, mask_5 = (WORD_4_TCP, WORD_5_TCP) if tcp else (WORD_4_UDP, WORD_5_UDP)
    differing |= (load_u64(a + _WORD_4_AT) ^ load_u64(b + _WORD_4_AT)) & mask_4
    differing |= (load_u64(a + _WORD_5_AT) ^ load_u64(b + _WORD_5_AT)) & mask_5
    return differing == 0


@helper
def copy_parsed(records, packet, before):
    """Give packet `packet` what was parsed of packet `before`."""
    target = records + np.uint64(packet) * _RECORD_BYTES + _PARSED_AT
    copy_memory(target, records + np.uint64(before) * _RECORD_BYTES + _PARSED_AT, _PARSED_BYTES)
