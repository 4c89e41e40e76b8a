"""A port's row in the tables that workers read: what it is, and whether packets pass.

Out: `ports`, `vlan_allowed`, `meters`, `active_ports` and the `xconnect` column of `devices`, in shared
     memory.
Not: the port's queues; the data-plane process adds and deletes those.
"""

import numpy as np

from dpu_runtime.device.live_port import makes_interface
from dpu_runtime.functions.meter.limits import burst_behind_shaper, meter_burst
from dpu_runtime.kernels import layout
from dpu_runtime.kernels.meter.table import RX, TX, clear_meters, write_meter
from dpu_runtime.kernels.switch import mac_table

NOT_UP = np.uint32(~layout.PORT_UP & 0xFFFFFFFF)


class PortRows:
    """The rows of all ports; `slots` are always {name: Slot}, dpu_runtime/device/live_port.py."""

    def __init__(self, shared):
        self.shared = shared

    def write(self, index, port, driver, up=0):
        """Write the row of a port; without `up` no packet passes yet."""
        vlans = self.shared.of("switch").vlan_allowed[index]
        vlans[:] = 0
        for vlan in [*(port.trunk or []), *([port.vlan] if port.vlan else [])]:
            vlans[vlan // 64] |= 1 << (vlan % 64)
        flags = driver.capabilities.flags() | up
        for wanted, bit in (
            (port.spoof_check, layout.PORT_SPOOF_CHECK),
            (port.verify_checksum, layout.PORT_RX_VERIFY),
            (port.trunk is not None, layout.PORT_TRUNK),
            (port.rx_rate is not None, layout.PORT_RX_METER),
            (port.tx_rate is not None, layout.PORT_TX_METER),
        ):
            flags |= bit if wanted else 0
        if not port.gro:
            flags &= ~layout.PORT_RX_GRO
        self._write_meters(index, port)
        row = self.shared.ports[index]
        row["mac"] = int((port.mac or "0").replace(":", ""), 16)
        row["mtu"] = port.mtu or driver.link.mtu
        row["vlan"] = port.vlan or 0
        row["kind"] = driver.kind
        row["flags"] = flags

    def _write_meters(self, index, port):
        meters = self.shared.of("meter").meters[index]
        if port.rx_rate is not None:
            burst = burst_behind_shaper if makes_interface(port) else meter_burst
            write_meter(meters[RX], port.rx_rate, burst(port.rx_rate, port.rx_burst))
        if port.tx_rate is not None:
            write_meter(meters[TX], port.tx_rate, meter_burst(port.tx_rate, port.tx_burst))

    def rewrite(self, slot):
        """Write the row of a port that changed; packets pass or do not as before."""
        up = int(self.shared.ports[slot.index]["flags"]) & layout.PORT_UP
        self.write(slot.index, slot.config, slot.driver, up)

    def clear(self, index):
        """Free a row; what was learned of its port is not believed any more."""
        self.shared.devices[index]["xconnect"] = 0
        clear_meters(self.shared.of("meter").meters[index])
        row = self.shared.ports[index]
        row["kind"] = row["flags"] = 0
        row["generation"] += 1

    def open(self, slots):
        """Let packets through to all ports."""
        closed = [slot for slot in slots.values() if not slot.open]
        for slot in closed:
            slot.open = True
        if closed:
            self.list(slots)

    def close(self, slots, name):
        """Let no packet through to a port any more."""
        if slots[name].open:
            slots[name].open = False
            self.list(slots)

    def list(self, slots):
        """Say which ports are up, for floods too; cross-connect those that ask for it while both are."""
        up = {slot.index for slot in slots.values() if slot.open and not slot.lost}
        flags = self.shared.ports["flags"]
        flags[sorted(up)] |= np.uint32(layout.PORT_UP)
        flags[[slot.index for slot in slots.values() if slot.index not in up]] &= NOT_UP
        for slot in slots.values():
            if not slot.plane:
                continue  # only ports with rings can be connected
            other = slots.get(slot.config.xconnect)
            both = other is not None and slot.index in up and other.index in up
            self.shared.devices[slot.index]["xconnect"] = other.index + 1 if both else 0
        mac_table.write_active_ports(self.shared.active_ports, sorted(up))
