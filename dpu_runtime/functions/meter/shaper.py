"""The shaper of an interface that the device makes: senders wait for their turn, and nothing is lost.

Source: rtnetlink(7) by pyroute2; tc-tbf(8).
"""

from pyroute2.netlink.rtnl import TC_H_ROOT

from dpu_runtime.functions.meter.limits import OCTET_BITS, shaper_burst, shaper_queue

SHAPER_HANDLE = 1 << 16  # "1:", as tc writes it


def wire(wire, port, before):
    """Shape what the interface sends as `port` says; `before` is what it was, None: the interface is new.

    wire  dpu_runtime/device/wiring.py, Wire
    """
    if port.rx_rate is not None:
        depth = shaper_burst(port.rx_rate, port.rx_burst)
        wire.ask(
            f"shape to {port.rx_rate} bits a second",
            wire.ipr.tc,
            "replace",
            "tbf",
            index=wire.index,
            parent=TC_H_ROOT,
            handle=SHAPER_HANDLE,
            rate=port.rx_rate // OCTET_BITS,
            burst=depth,
            limit=shaper_queue(port.rx_rate, depth),
        )
    elif before is not None and before.rx_rate is not None:
        wire.ask("end the shaper", wire.ipr.tc, "del", index=wire.index, parent=TC_H_ROOT)
