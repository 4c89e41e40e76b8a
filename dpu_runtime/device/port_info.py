"""What a port got, and why not more: `dpu port show`."""

import os


def port_info(slot, shared):
    """State, offloads, queues and notes of a port, and what its rings' driver negotiated."""
    got = slot.driver.capabilities
    state = slot.state
    error = int(shared.port_errors[slot.index])
    if error and state == "up":
        state = f"lost: {os.strerror(error)}"
    if slot.plane and not shared.devices[slot.index]["connected"]:
        state = "not connected"
    offloads = {key: getattr(got, key) for key in ("tx_csum", "tso4", "tso6", "ecn", "uso", "gro")}
    return {
        "index": slot.index,
        "state": state,
        "queues": got.queues,
        "offloads": offloads,
        "copy": got.copy,
        "notes": [*got.notes, *slot.notes],
        **({"vhost_user": _ring_info(slot, shared)} if slot.plane else {}),
    }


def _ring_info(slot, shared):
    info = slot.driver.info()
    rows = shared.rings[slot.index]
    counted = ("kicks", "calls", "bad_chains", "dropped")
    info["rings"] = {
        number: {key: int(rows[number][key]) for key in counted} for number in info["rings_live"]
    }
    info["faults"] = slot.plane.faults()
    return info
