"""A device in memory: what the control surface is tested with.

It keeps ports and items in plain dictionaries, refuses what a real one would refuse for wrong order (an item
that names a missing port or item, a port that items still name), and fails where a test tells it to.
"""

import errno
import time

from dpu_runtime.config.references import missing, names_one_of
from dpu_runtime.drivers.port import PortError

IN_PLACE = ("mtu", "vlan", "trunk", "spoof_check", "owner")


class MemoryDevice:
    """Has the interface of `dpu_runtime.control.interface.Device`."""

    def __init__(self, runtime=None, adopted=False, in_place=IN_PLACE):
        self.runtime = runtime
        self.adopted = adopted
        self.in_place = set(in_place)
        self.ports = {}
        self.items = {}  # section -> models
        self.settings = {}  # function -> Function.settings
        self.open = set()
        self.lost = set()  # names of ports whose interface somebody took away
        self.calls = []
        self.fail = {}  # call text -> times it still fails
        self.running = False
        self.is_healthy = True
        self.packets = 0

    def preset(self, config):
        """Have what `config` says already: a data plane that is adopted."""
        self.ports = {port.name: port for port in config.port}
        self.open = set(self.ports)
        for function in config.FUNCTIONS:
            self.items |= config.items(function)
            self.settings[function.name] = config.settings(function)

    @property
    def rules(self):
        """The items of one section."""
        return self.items.get("rule", [])

    def _called(self, text, name=""):
        self.calls.append(text)
        if self.fail.get(text, 0):
            self.fail[text] -= 1
            raise PortError(name or "none", text.split()[0], errno.EBUSY)

    async def runs_already(self):
        return 1 if self.adopted else None

    async def start(self, config):
        self._called("start")
        self.running = True

    async def take_over(self):
        self._called("take over")

    def give_up(self):
        pass

    async def stop(self):
        self.calls.append("stop")
        self.running = False

    async def add_port(self, port):
        self._called(f"add {port.name}", port.name)
        assert port.name not in self.ports
        for other in self.ports.values():
            if self._place(other) == self._place(port):
                raise PortError(port.name, "open", errno.EBUSY)
        self.ports[port.name] = port

    def _place(self, port):
        """What only one port can have: an interface, a socket."""
        return (port.netns, port.ifname) if port.kind == "tap" else getattr(port, "socket", port.name)

    def open_ports(self):
        self.open = set(self.ports)

    def close_port(self, name):
        self.open.discard(name)

    async def del_port(self, name):
        self._called(f"del {name}", name)
        assert name not in self.open
        for items in self.items.values():
            assert not any(names_one_of(item, {"port": {name}}) for item in items)
        del self.ports[name]

    async def update_port(self, old, new):
        self._called(f"update {new.name}", new.name)
        assert self.ports[old.name] == old
        changed = {key for key in type(new).model_fields if getattr(old, key) != getattr(new, key)}
        if not changed <= self.in_place:
            return False
        self.ports[new.name] = new
        return True

    def lost_ports(self):
        return [name for name in self.ports if name in self.lost]

    async def relocate_port(self, old, new):
        self._called(f"relocate {new.name}", new.name)
        assert self.ports[old.name] == old
        self.ports[new.name] = new

    async def set_section(self, function, items, settings):
        self._called(f"set {function}")
        after = self.items | items
        there = {"port": set(self.ports)} | {key: {item.name for item in own} for key, own in after.items()}
        for key, own in (items if self.adopted else after).items():
            for item in own:
                assert not missing(item, there), (key, item)
        self.items = after
        self.settings[function] = settings

    def port_configs(self):
        return list(self.ports.values())

    def port_info(self, name):
        return {"up": True, "queues": 1, "notes": []}

    def stats(self):
        self.packets += 100
        counters = {"rx_packets": self.packets, "rx_bytes": self.packets * 64, "rx_dropped": 0}
        counters |= {"tx_packets": 0, "tx_bytes": 0, "tx_dropped": 0}
        return {
            "ports": {name: dict(counters) for name in self.ports},
            "drops": {"ACL_INGRESS": 7, "RUNT": 0},
            "kernels": {"parse": {"packets": self.packets, "cycles": self.packets * 50}},
            "workers": [{"cpu": 1, "bursts": 3}],
        }

    async def profile(self, seconds):
        self._called("profile")
        stage = {"share": 0.25, "packets": 100, "cycles_per_packet": 50.0, "cycles_per_received": 50.0}
        worker = {
            "number": 0,
            "cpu": 1,
            "thread": 7,
            "packets": 100,
            "bursts": 10,
            "stages": {"parse": stage},
        }
        worker |= {"polling": 0.05, "sleeping": 0.7, "waiting_for_cpu": 0.0, "notes": []}
        worker["syscalls"] = {"epoll_wait": {"share": 0.7, "per_second": 3.0, "us_mean": None}}
        return {"seconds": seconds, "notes": ["a note"], "workers": [worker]}

    def item_counters(self, function):
        return {
            section: {item.name: (i, i * 64) for i, item in enumerate(items)}
            for section, items in self.items.items()
        }

    def status(self):
        return {"pid": 1, "workers": [1], "started": time.time(), "adopted": self.adopted}

    async def healthy(self):
        return self.is_healthy
