"""What a port is to the switch, its VLANs and its address; and how long the switch remembers."""

import numpy as np

from dpu_runtime.functions.book import Book
from dpu_runtime.kernels.layout import PORT_SPOOF_CHECK, PORT_TRUNK, VLAN_WORDS
from dpu_runtime.kernels.switch import mac_table


def active(_items, _settings):
    """Every packet has a VLAN and is forwarded by the switch."""
    return lambda _stage, _port: True


class SwitchBook(Book):
    """`vlan_allowed`, `settings`, and the MAC table when a data plane died."""

    def __init__(self, function, tables, ports, workers, notes=None):
        super().__init__(function, tables, ports, workers, notes)
        self._own_vlan = set()  # indices of ports that have one

    def publish(self, _items, settings, _numbers):
        """Put the ageing time in force."""
        self.tables.settings[mac_table.AGEING_TICKS] = mac_table.ageing_ticks(settings.mac_ageing_s)

    def port(self, index, config, row):
        """Write the VLANs of a port; a worker that reads meanwhile finds old or new ones, by 64."""
        self._own_vlan.discard(index)
        vlans = np.zeros(VLAN_WORDS, np.uint64)
        if config is not None:
            for vlan in [*(config.trunk or []), *([config.vlan] if config.vlan else [])]:
                vlans[vlan // 64] |= np.uint64(1 << (vlan % 64))
            row["vlan"] = config.vlan or 0
            row["flags"] |= PORT_SPOOF_CHECK if config.spoof_check else 0
            row["flags"] |= PORT_TRUNK if config.trunk is not None else 0
            if config.vlan:
                self._own_vlan.add(index)
        self.tables.vlan_allowed[index] = vlans
        self.tables.settings[mac_table.PORTS_WITH_VLAN] = len(self._own_vlan)

    def repair(self):
        """Free what a dead data plane owned in the MAC table."""
        mac_table.repair(self.tables.mac)
