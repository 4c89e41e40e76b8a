"""What a port got, and why not more: `dpu port show`."""

import os


def port_info(live, shared):
    """State, offloads, queues and notes of a port, and what its rings' driver negotiated."""
    got = live.driver.capabilities
    state = live.state
    error = int(shared.port_errors[live.index])
    if error and state == "up":
        state = f"lost: {os.strerror(error)}"
    if live.plane and not shared.devices[live.index]["connected"]:
        state = "not connected"
    offloads = {key: getattr(got, key) for key in ("tx_csum", "tso4", "tso6", "ecn", "uso", "gro")}
    return {
        "index": live.index,
        "state": state,
        "queues": got.queues,
        "offloads": offloads,
        "copy": got.copy,
        "notes": [*got.notes, *live.notes],
        **({"vhost_user": _ring_info(live, shared)} if live.plane else {}),
    }


def _ring_info(live, shared):
    info = live.driver.info()
    rows = shared.rings[live.index]
    counted = ("kicks", "calls", "bad_chains", "dropped")
    info["rings"] = {
        number: {key: int(rows[number][key]) for key in counted} for number in info["rings_live"]
    }
    info["faults"] = live.plane.faults()
    return info
