"""A received frame: its front into a row of the batch, the rest named where it lies.

Out: the row, with a virtio-net header in front; placement fields of meta.

A tag that the kernel took off is put back.
"""

import numpy as np

from dpu_runtime.drivers.af_packet.if_packet import (
    TP_STATUS_VLAN_TPID_VALID,
    TP_STATUS_VLAN_VALID,
    VNET_BYTES,
)
from dpu_runtime.kernels.checksum.payload import TAG_BYTES
from dpu_runtime.kernels.compile.jit import helper
from dpu_runtime.kernels.layout import HEADER_BYTES, HEADROOM_BYTES, VIRTIO_NET_HDR_F_NEEDS_CSUM
from dpu_runtime.kernels.octets.memory import (
    copy_short,
    load_u16,
    load_u32,
    load_u64,
    store_u16,
    store_u32,
    store_u64,
)
from dpu_runtime.kernels.offload.virtio_net import (
    CSUM_START_SHIFT,
    GSO_TYPE_SHIFT,
    HDR_LEN_SHIFT,
    VNET_HDR_BYTES,
)

ETHERTYPE_VLAN = 0x8100  # IEEE 802.1Q 9.4

_2 = np.uint64(2)
_4 = np.uint64(4)
_8 = np.uint64(8)
_LOW8 = np.uint64(0xFF)
_HEADROOM = np.uint64(HEADROOM_BYTES)
_TAG = np.uint64(TAG_BYTES)
_VNET = np.uint64(VNET_BYTES)
_MAC_ADDRESSES = np.uint64(12)
_NEEDS_CSUM = np.uint64(VIRTIO_NET_HDR_F_NEEDS_CSUM)


@helper
def frame_into_row(frame, size, row, m, port):
    """Copy the front of the frame of `size` octets at `frame` into `row`; the rest stays where it is."""
    in_row = min(size, np.uint64(HEADER_BYTES))
    copy_short(row + _HEADROOM, frame, in_row)
    m["payload_addr"] = frame + in_row
    m["payload_len"] = size - in_row
    m["payload_iov"] = 0
    m["header_end"] = _HEADROOM + in_row
    m["in_port"] = port


@helper
def finish_row(vnet_at, size, status, tci, tpid, row, m):
    """Put the virtio-net header at `vnet_at` in front of the frame in `row`, and a tag where one was.

    size       octets of the frame as it lies
    status     TP_STATUS_*; tci and tpid are looked at when it says that they are valid
    """
    vnet = load_u64(vnet_at)
    tail = np.uint64(load_u16(vnet_at + _8))
    l2 = _HEADROOM
    if status & np.uint64(TP_STATUS_VLAN_VALID):
        l2 -= _TAG
        if not status & np.uint64(TP_STATUS_VLAN_TPID_VALID):
            tpid = np.uint64(ETHERTYPE_VLAN)
        _put_tag_back(tci, tpid, row + l2)
        vnet = _shifted(vnet)
    at = row + l2 - np.uint64(VNET_HDR_BYTES)
    store_u64(at, vnet)
    store_u32(at + _8, tail)  # csum_offset; no num_buffers
    m["frame_len"] = size + _HEADROOM - l2
    m["l2_offset"] = l2


@helper
def _put_tag_back(tci, tpid, l2):
    """Move the MAC addresses four octets forward, to `l2`, and put the tag behind them."""
    store_u64(l2, load_u64(l2 + _TAG))
    store_u32(l2 + _8, np.uint64(load_u32(l2 + _TAG + _8)))
    _store_big_endian(l2 + _MAC_ADDRESSES, tpid)
    _store_big_endian(l2 + _MAC_ADDRESSES + _2, tci)


@helper
def _store_big_endian(addr, value):
    store_u16(addr, value >> _8 | (value & _LOW8) << _8)


@helper
def _shifted(vnet):
    """The first octets of a virtio-net header whose frame has become longer by a tag."""
    if vnet & _NEEDS_CSUM:
        vnet += _TAG << CSUM_START_SHIFT
    if (vnet >> GSO_TYPE_SHIFT) & _LOW8:
        vnet += _TAG << HDR_LEN_SHIFT
    return vnet
