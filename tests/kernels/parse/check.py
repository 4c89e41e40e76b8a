"""Runs the parser over frames and compares every field with the model."""

import numpy as np

from dpu_runtime.kernels.drops import DROP_REASON_COUNT
from dpu_runtime.kernels.layout import HEADROOM_BYTES, META_DTYPE, VERDICT_PASS
from dpu_runtime.kernels.parse.parse import parse
from tests.kernels.batches import FILL, Batch
from tests.kernels.parse.model import FIELDS, model

UNTOUCHED = [name for name in META_DTYPE.names if name not in FIELDS and name != "repeats"]
PLACED = ("frame_len", "l2_offset", "header_end", "in_port", "gso_type")


def run(frames, visible=None, gso_type=0, fill=FILL, stale=0xFF):
    """Parse `frames`; returns (meta, drops).

    visible  octets of each frame that lie in the header row; all that fit by default
    fill     what the row holds outside of that
    stale    octet that every output field is filled with beforehand
    """
    batch = Batch(frames)
    for i, frame in enumerate(frames):
        rec = batch.meta[i]
        if visible is not None and visible[i] < len(frame):
            rec["header_end"] = HEADROOM_BYTES + min(visible[i], 256)
            rec["payload_len"] = len(frame) - min(visible[i], 256)
        batch.headers[i, : rec["l2_offset"]] = fill
        batch.headers[i, rec["header_end"] :] = fill
        rec["gso_type"] = gso_type
        for name in (*FIELDS, "repeats"):
            rec[name] = np.frombuffer(bytes([stale] * 8), META_DTYPE[name])[0]
    before, rows = batch.meta.copy(), batch.headers.copy()
    drops = np.zeros(DROP_REASON_COUNT, np.uint64)
    passed = parse(batch.headers, batch.meta, len(frames), drops)
    assert passed == np.count_nonzero(batch.meta["verdict"] == VERDICT_PASS)
    assert passed + drops.sum() == len(frames)
    assert np.array_equal(batch.headers, rows)
    for name in UNTOUCHED:
        assert np.array_equal(batch.meta[name], before[name]), name
    return batch.meta, drops


def check(frames, visible=None, gso_type=0):
    """Parse `frames` and compare with the model; returns meta.

    A second run over another fill and other stale fields must give the same: nothing was read
    beyond the header row's end, and every field was written.
    """
    meta, drops = run(frames, visible, gso_type)
    again, _ = run(frames, visible, gso_type, fill=FILL ^ 0xFF, stale=0)
    counted = [0] * DROP_REASON_COUNT
    for i, frame in enumerate(frames):
        seen = len(frame) if visible is None else visible[i]
        expected = model(frame, seen, gso_type)
        got = {name: int(meta[i][name]) for name in FIELDS}
        assert got == expected, f"frame {i}, {seen} octets visible: {frame.hex()}"
        assert got == {name: int(again[i][name]) for name in FIELDS}, f"frame {i}: {frame.hex()}"
        counted[expected["drop_reason"]] += 1
    assert np.array_equal(meta["repeats"], again["repeats"])
    for i in np.flatnonzero(meta["repeats"]):
        assert meta["repeats"][i] == 1 and i > 0
        assert all(meta[name][i] == meta[name][i - 1] for name in (*PLACED, *FIELDS)), f"frame {i}"
    counted[0] = 0
    assert drops.tolist() == counted
    return meta
