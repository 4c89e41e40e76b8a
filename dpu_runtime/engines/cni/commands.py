"""The commands ADD, DEL, CHECK, STATUS and GC.

Spec: CNI 1.1.0 section 2, "CNI operations".

An ADD that fails is taken back by what DEL does: each step of it can be repeated, and is done also when
another one failed. What could not be taken back has a record (records.py), by which DEL and GC find it.
"""

from dpu_runtime.engines.cni import gateway, result, verify
from dpu_runtime.engines.cni.attachment import Attachment, attachment_of
from dpu_runtime.engines.cni.daemon import Daemon
from dpu_runtime.engines.cni.delegate import Delegate
from dpu_runtime.engines.cni.errors import (
    ATTACHED_ALREADY,
    INVALID_CONFIG,
    NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    CniError,
    log,
)
from dpu_runtime.engines.cni.ipam import Ipam
from dpu_runtime.engines.cni.records import Records

PORT_MAPPER = "portmap"  # of the reference plugins


def add(env, conf):
    """Attach a container; returns the result."""
    attachment = Attachment(conf, env.containerid, env.ifname)
    mappings = conf.runtime.get("portMappings", [])
    ipam = Ipam(conf, env)
    mapper = Delegate(PORT_MAPPER, env, "runtimeConfig.portMappings") if mappings else None
    records = Records(conf.data_dir, conf.name)
    with Daemon(conf) as daemon:
        if daemon.port(attachment.port):
            text = (
                f"container {env.containerid} has {env.ifname} in network {conf.name} already: DEL it first"
            )
            raise CniError(ATTACHED_ALREADY, text)
        if records.port_mappings(env.containerid, env.ifname) is not None:
            log(f"{attachment.owner}: taking away what an earlier life of it left")
            _raise_first(take_down(env, conf, attachment))
        records.write(env.containerid, env.ifname, mappings)
        try:
            made = _attach(daemon, env, conf, attachment, ipam, records)
            if mapper:
                mapper.run("ADD", _mapper_conf(conf, mappings, made), conf.version)
        except BaseException:
            for problem in take_down(env, conf, attachment):
                log(f"{attachment.owner}: taking back a failed ADD: {problem}")
            raise
    return made


def _attach(daemon, env, conf, attachment, ipam, records):
    """Addresses, gateway, interface; returns the result."""
    given = ipam.add()
    gateway.complete(conf, given)
    mac = conf.runtime.get("mac") or env.args.get("MAC")
    before = result.checked(conf.raw.get("prevResult"), "prevResult")
    hosts = []
    if conf.is_gateway:
        with records.lock():
            hosts = [gateway.ensure(daemon, conf, given)]
    own, *ends = attachment.add(daemon, env.netns, mac, given)
    interfaces = [*hosts, *ends, own]
    ips = [{**ip, "interface": len(interfaces) - 1} for ip in given["ips"]]
    ours = {"interfaces": interfaces, "ips": ips, "routes": given["routes"], "dns": conf.dns or given["dns"]}
    return result.convert(result.joined(before, ours), conf.version)


def delete(env, conf):
    """Detach a container, also one that was never attached."""
    _raise_first(take_down(env, conf, Attachment(conf, env.containerid, env.ifname)))


def take_down(env, conf, attachment):
    """Take everything of an attachment away; returns the CniErrors of what could not be.

    Port mappings and addresses are given back even if no daemon answers. The record stays then, and the
    error is 11: the runtime tries again, or GC finds it.
    """
    problems = []
    records = Records(conf.data_dir, conf.name)
    mappings = records.port_mappings(attachment.containerid, attachment.ifname)
    mappings = mappings or _asked_mappings(conf)

    def attempt(step):
        try:
            step()
        except CniError as problem:
            problems.append(problem)

    def unmap():
        if mappings:
            mapper = Delegate(PORT_MAPPER, env, "runtimeConfig.portMappings")
            mapper.run("DEL", _mapper_conf(conf, mappings, conf.raw.get("prevResult")), conf.version)

    def detach():
        with Daemon(conf) as daemon:
            attachment.remove(daemon)

    def forget():
        with records.lock():
            if records.attachments() <= {(attachment.containerid, attachment.ifname)}:
                with Daemon(conf) as daemon:
                    gateway.remove(daemon, conf.name)
            records.remove(attachment.containerid, attachment.ifname)

    for step in (unmap, detach, attachment.remove_veth, lambda: Ipam(conf, env).delete()):
        attempt(step)
    if not problems:
        attempt(forget)
    return problems


def check(env, conf):
    """Compare what there is with the result of the ADD.

    Port mappings are not: `portmap` 1.1 looks for its rules of IPv4 in the tables of IPv6 too, in vain.
    """
    if not isinstance(conf.raw.get("prevResult"), dict):
        raise CniError(INVALID_CONFIG, "prevResult: missing: CHECK compares with it")
    expected = result.checked(conf.raw["prevResult"], "prevResult")
    attachment = Attachment(conf, env.containerid, env.ifname)
    with Daemon(conf) as daemon:
        verify.check_port(daemon.port(attachment.port), attachment, env, conf)
    verify.check_interface(expected, attachment, env, conf)
    Ipam(conf, env).check()


def status(env, conf):
    """Say whether an ADD would find a daemon and IPAM; CniError 50 if not."""
    try:
        with Daemon(conf) as daemon:
            daemon.call("status")
    except CniError as error:
        code = NOT_AVAILABLE if error.code == TRY_AGAIN_LATER else error.code
        raise CniError(code, str(error)) from None
    Ipam(conf, env).ask("STATUS")


def collect_garbage(env, conf):
    """Take down every attachment of the network that the runtime does not list."""
    if conf.valid_attachments is None:
        raise CniError(INVALID_CONFIG, "cni.dev/valid-attachments: missing: GC keeps those, and no others")
    records = Records(conf.data_dir, conf.name)
    with Daemon(conf) as daemon:
        owners = [view["config"].get("owner") for view in daemon.call("port.show")]
    there = {attachment_of(owner, conf.name) for owner in owners} - {None}
    problems = []
    for containerid, ifname in sorted((there | records.attachments()) - conf.valid_attachments):
        log(f"GC: container {containerid}, {ifname}: not listed, so it is taken away")
        problems += take_down(env.of(containerid, ifname), conf, Attachment(conf, containerid, ifname))
    Ipam(conf, env).ask("GC")
    _raise_first(problems)


def _asked_mappings(conf):
    """Port mappings in a configuration that is not checked."""
    asked = conf.raw.get("runtimeConfig")
    mappings = asked.get("portMappings") if isinstance(asked, dict) else None
    return mappings if isinstance(mappings, list) else []


def _mapper_conf(conf, mappings, made):
    raw = {"name": conf.name, "type": PORT_MAPPER, "snat": True, "runtimeConfig": {"portMappings": mappings}}
    return raw | ({"prevResult": made} if isinstance(made, dict) else {})


def _raise_first(problems):
    for problem in problems[1:]:
        log(str(problem))
    if problems:
        raise problems[0]


COMMANDS = {"ADD": add, "DEL": delete, "CHECK": check, "STATUS": status, "GC": collect_garbage}
CLEANING = ("DEL", "GC")
