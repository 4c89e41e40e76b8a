"""Open vSwitch with DPDK: one bridge of the user-space datapath, its ports of the type dpdkvhostuserclient.

Spec: Open vSwitch 3.1, "DPDK vHost User Ports", ovs-vswitchd.conf.db(5), ovs-ofctl(8).
Not:  nothing of a system's own Open vSwitch: database, sockets and logs are in the folder that is given.
"""

import os
import signal
import time
from pathlib import Path

from bench.peers.hosts import Host

SWITCH = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
BRIDGE = "br0"
MEMORY_MB = 768  # huge pages; a pool of buffers takes most of it
READY_SECONDS_MAX = 15.0
# The flows of a variant; {n} counts from 1, as OpenFlow's port numbers do.
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


class OvsDpdk:
    """A switch with a port for each of `sockets`, where the clients listen; its poll-mode thread on `cpu`.

    rules  flows beside the NORMAL action of the variant SWITCHED
    tso    take TCP segments of up to 64 KB
    """

    client_listens = True

    def __init__(self, sockets, cpu, folder, rules=0, tso=False):
        self.sockets = sockets
        self._folder = Path(folder)
        self._rules = rules
        self._tso = tso
        self._variant = None
        self._host = Host(str(cpu))
        try:
            self._start(1 << cpu)
        except BaseException:
            self.close()
            raise

    def _start(self, cpu_mask):
        folder = self._folder
        self._run("ovsdb-tool", "create", folder / "conf.db", SCHEMA)
        database = f"--remote=punix:{folder}/db.sock"
        # In a namespace of its own: the bridge has an interface of the kernel, which goes with it.
        self._launch("ovsdb-server", folder / "conf.db", database, f"--unixctl={folder}/db.ctl")
        self._wait_for("db.sock")
        self._vsctl("--no-wait", "init")
        other = {
            "dpdk-init": "true",
            "dpdk-extra": f'"-m {MEMORY_MB} --no-pci --no-telemetry --in-memory"',
            "pmd-cpu-mask": hex(cpu_mask),
            "dpdk-lcore-mask": hex(cpu_mask),
            "userspace-tso-enable": str(self._tso).lower(),
        }
        self._vsctl(
            "--no-wait", "set", "Open_vSwitch", ".", *(f"other_config:{k}={v}" for k, v in other.items())
        )
        log = f"--log-file={folder}/switch.log"
        self._switch = self._launch(SWITCH, f"unix:{folder}/db.sock", f"--unixctl={folder}/switch.ctl", log)
        self._vsctl(
            "add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev", "fail-mode=secure"
        )
        for number, path in enumerate(self.sockets):
            kind = ["type=dpdkvhostuserclient", f"options:vhost-server-path={path}"]
            number_wanted = f"ofport_request={number + 1}"
            self._vsctl(
                "add-port",
                BRIDGE,
                f"vhost{number}",
                "--",
                "set",
                "Interface",
                f"vhost{number}",
                *kind,
                number_wanted,
            )
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
        self._run("ovs-vsctl", "--timeout=15", f"--db=unix:{self._folder}/db.sock", *words)

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
