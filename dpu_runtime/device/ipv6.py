"""IPv6 on one interface of a namespace in which it is off by default, as dockerd's sandboxes are.

Source: Linux Documentation/networking/ip-sysctl.rst, conf/interface/disable_ipv6.
Not:    anything but the standard library; `dpu-cni` imports this for each container.
"""

import contextlib


def enable_ipv6(ifname):
    """Let an interface of the calling thread's namespace have IPv6 addresses.

    Where that may not be changed, it is the address that will be refused.
    """
    switch = f"/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6"
    with contextlib.suppress(OSError), open(switch, "r+", encoding="ascii") as file:
        if int(file.read()):
            file.seek(0)
            file.write("0")
