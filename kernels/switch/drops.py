"""Why the switch drops packets: places in its drops.

Not: anything of numba; the declaration names them in this order.
"""

NAMES = ("mac_spoof", "vlan_denied", "hairpin", "no_egress", "mtu_exceeded", "link_local")
MAC_SPOOF, VLAN_DENIED, HAIRPIN, NO_EGRESS, MTU_EXCEEDED, LINK_LOCAL = range(len(NAMES))
