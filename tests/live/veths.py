"""Containers behind ports over interfaces that exist already: a veth pair each."""

from tests.live.daemon import Container


def plug(dpu, namespaces, name, kind, mtu=1500, ipv6=False, **keys):
    """Make a container whose `eth0` is one end of a veth pair, and a port `name` of `kind` over the other.

    dpu  the fixture, or a LiveDaemon

    The port's end is called `name` too; `container.links` is the namespace it is in.
    """
    count = len(dpu.call("port.show"))
    container = Container(dpu, namespaces, name, count + 1, ipv6)
    container.links = namespaces.create(ipv6=False)
    peer = ["peer", "name", container.ifname, "netns", container.netns]
    add = ["ip", "link", "add", "name", name, "mtu", mtu, "type", "veth", *peer]
    namespaces.run(container.links, add)
    namespaces.run(container.links, ["ip", "link", "set", "dev", name, "up"])
    container.run("ip", "link", "set", container.ifname, "mtu", mtu, "up")
    for address in container.addresses:
        container.run("ip", "addr", "add", address, "dev", container.ifname)
    dpu.call("port.add", name=name, kind=kind, netns=container.links, ifname=name, **keys)
    return container
