"""Open vSwitch's user-space datapath: one bridge, its database, sockets and logs in a folder of its own.

Spec: Open vSwitch 3.1, ovs-vswitchd.conf.db(5), ovs-ofctl(8).
Not:  nothing of a system's own Open vSwitch.
"""

import os
import signal
import time
from pathlib import Path

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
BRIDGE = "br0"
READY_SECONDS_MAX = 15.0
# The flows of a variant; OpenFlow's port numbers count from 1.
LOOPED, JOINED, SWITCHED = "looped", "joined", "switched"
_FLOWS = {
    LOOPED: ["actions=in_port"],
    JOINED: ["in_port=1,actions=output:2", "in_port=2,actions=output:1"],
    SWITCHED: ["priority=0,actions=NORMAL"],
}


def acl_flows(rules):
    """Flows that drop what no measurement sends: addresses of RFC 5737."""
    return [
        f"priority={n + 1},tcp,nw_dst=198.51.100.{n % 256},tp_dst={1024 + n},actions=drop"
        for n in range(rules)
    ]


class OpenVSwitch:
    """A switch on `host` (bench/peers/hosts.py) that runs `program`, an ovs-vswitchd.

    folder        for its files
    other_config  of the table Open_vSwitch
    ports         name -> columns of the table Interface, such as `type=afxdp`
    rules         flows beside the NORMAL action of the variant SWITCHED
    """

    def __init__(self, host, program, folder, other_config, ports, rules=0):
        self._host = host
        self._folder = Path(folder)
        self._rules = rules
        self._variant = None
        try:
            self._start(program, other_config, ports)
        except BaseException:
            self.close()
            raise

    def _start(self, program, other_config, ports):
        folder = self._folder
        self._run("ovsdb-tool", "create", folder / "conf.db", SCHEMA)
        database = f"--remote=punix:{folder}/db.sock"
        self._launch("ovsdb-server", folder / "conf.db", database, f"--unixctl={folder}/db.ctl")
        self._wait_for("db.sock")
        self._vsctl("--no-wait", "init")
        settings = [f"other_config:{key}={value}" for key, value in other_config.items()]
        self._vsctl("--no-wait", "set", "Open_vSwitch", ".", *settings)
        log = f"--log-file={folder}/switch.log"
        self._switch = self._launch(program, f"unix:{folder}/db.sock", f"--unixctl={folder}/switch.ctl", log)
        kind = ["datapath_type=netdev", "fail-mode=secure"]
        self._vsctl("add-br", BRIDGE, "--", "set", "bridge", BRIDGE, *kind)
        for number, (name, columns) in enumerate(ports.items(), 1):
            interface = ["set", "Interface", name, *columns, f"ofport_request={number}"]
            self._vsctl("add-port", BRIDGE, name, "--", *interface)
        self._wait_for(f"{BRIDGE}.mgmt")

    @property
    def pids(self):
        """Processes whose threads forward."""
        return [self._switch.pid]

    def begin(self, variant):
        """Forward as `variant` says: LOOPED, JOINED or SWITCHED."""
        self._switch.send_signal(signal.SIGCONT)
        if variant != self._variant:
            self._set_flows([*_FLOWS[variant], *(acl_flows(self._rules) if variant == SWITCHED else ())])
            self._variant = variant

    def _set_flows(self, flows):
        where = ["-O", "OpenFlow13"]
        bridge = f"unix:{self._folder}/{BRIDGE}.mgmt"
        self._run("ovs-ofctl", *where, "del-flows", bridge)
        self._run("ovs-ofctl", *where, "add-flows", bridge, "-", input="\n".join(flows))

    def flow_count(self):
        """Flows in force."""
        printed = self._run("ovs-ofctl", "dump-aggregate", f"unix:{self._folder}/{BRIDGE}.mgmt")
        return int(printed.split("flow_count=")[1].split()[0])

    def rest(self):
        """Take no CPU time until `begin`: its poll-mode thread never sleeps by itself."""
        self._switch.send_signal(signal.SIGSTOP)

    def _environment(self):
        folder = str(self._folder)
        return {
            **os.environ,
            **dict.fromkeys(("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"), folder),
        }

    def _run(self, *argv, **options):
        return self._host.run(*argv, env=self._environment(), **options)

    def _launch(self, *argv):
        return self._host.start(*argv, env=self._environment())

    def _vsctl(self, *words):
        return self._run("ovs-vsctl", "--timeout=15", f"--db=unix:{self._folder}/db.sock", *words)

    def _wait_for(self, name):
        end = time.monotonic() + READY_SECONDS_MAX
        while not (self._folder / name).exists():
            if time.monotonic() > end:
                raise RuntimeError(f"Open vSwitch did not make {name}:\n{self._log()}")
            time.sleep(0.02)

    def _log(self):
        log = self._folder / "switch.log"
        return "\n".join(log.read_text().splitlines()[-10:]) if log.exists() else "no log"

    def close(self):
        """End it; twice is allowed."""
        if getattr(self, "_switch", None) and self._switch.poll() is None:
            self._switch.send_signal(signal.SIGCONT)  # a stopped process does not see SIGTERM
        self._host.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
