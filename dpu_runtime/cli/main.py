"""The command `dpu`: what may be typed, and exit codes.

Not: what the commands do (cli_commands.py) and print (show.py); docs/cli.md is generated from this parser.
     Nothing heavy: `dpu status` starts in under 100 ms.

Exit codes: 0 done, 1 refused (the reason is on stderr), 2 usage, 3 no daemon.
"""

import argparse
import json
import os
import sys

import dpu_runtime
from dpu_runtime.api.client import DEFAULT_SOCKET, NoDaemonError
from dpu_runtime.cli import commands
from dpu_runtime.config.errors import ConfigError, DaemonError, RpcError

IFNAME = "eth0"  # what `dpu attach` calls an interface, as the engines do
EXIT_DONE = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3


def main(argv=None):
    """Run one command line; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args(_alone_if_asked(sys.argv[1:] if argv is None else list(argv)))
    args.json = getattr(args, "json", False)
    args.given_socket = getattr(args, "daemon_socket", None) or os.environ.get("DPU_SOCKET")
    args.daemon_socket = os.path.abspath(args.given_socket or DEFAULT_SOCKET)
    try:
        args.command(args)
        sys.stdout.flush()
    except NoDaemonError as error:
        return _fail(args, str(error), EXIT_NO_DAEMON)
    except RpcError as error:
        return _fail(args, error.message, EXIT_REFUSED, error.data)
    except ConfigError as error:
        data = {"problems": [problem.as_dict() for problem in error.problems]}
        return _fail(args, str(error), EXIT_REFUSED, data)
    except DaemonError as error:
        return _fail(args, str(error), EXIT_REFUSED)
    except BrokenPipeError:
        # Without this the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells count
    return EXIT_DONE


def vhost_user_main():
    """`dpu-vhost-user` is `dpu vhost-user`: QEMU and libvirt run a back-end program by one name."""
    return main(["vhost-user", *sys.argv[1:]])


def _alone_if_asked(words):
    """The command line; with `vhost-user --print-capabilities` "other options should be ignored"."""
    asked = "vhost-user" in words and "--print-capabilities" in words[words.index("vhost-user") :]
    return ["vhost-user", "--print-capabilities"] if asked else words


def _fail(args, text, code, data=None):
    for line in text.splitlines():
        print(f"dpu: {line}", file=sys.stderr)
    if args.json:
        print(json.dumps({"error": {"text": text, **(data or {})}}, indent=2))
    return code


def build_parser():
    """Make the parser of all commands."""
    json_option = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    json_option.add_argument("-j", "--json", action="store_true", help="print JSON")
    common = argparse.ArgumentParser(
        add_help=False, argument_default=argparse.SUPPRESS, parents=[json_option]
    )
    common.add_argument(
        "--socket",
        dest="daemon_socket",
        metavar="PATH",
        help=f"the daemon's socket; default: $DPU_SOCKET, else {DEFAULT_SOCKET};"
        " it goes in front of `port add`, whose own --socket is the port's",
    )
    parser = argparse.ArgumentParser(
        prog="dpu", description="A DPU in software: run it, and steer one that runs.", parents=[common]
    )
    parser.add_argument("--version", action="version", version=f"dpu {dpu_runtime.__version__}")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(where, name, command, text, options=common):
        sub = where.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[options]
        )
        sub.set_defaults(command=command)
        return sub

    run = add(verbs, "run", commands.run, "run the daemon in the foreground")
    run.add_argument("-c", "--config", metavar="FILE", help="configuration to start with; default: none")
    run.add_argument("--perf-map", action="store_true", help="as perf_map = true: names for perf")
    check = add(verbs, "check", commands.check, "validate a configuration without touching the system")
    check.add_argument("file", metavar="FILE")
    apply = add(verbs, "apply", commands.apply, "make a configuration run, all of it or nothing")
    apply.add_argument("--dry-run", action="store_true", help="only print what would change")
    apply.add_argument("file", metavar="FILE", help="- is standard input")
    save = add(verbs, "save", commands.save, "write the running configuration to a file")
    save.add_argument("file", metavar="FILE", help="- is standard output")
    add(verbs, "status", commands.status, "show how the daemon is")
    stats = add(verbs, "stats", commands.stats, "show counters of ports, drop reasons, kernels and workers")
    stats.add_argument("--rate", action="store_true", help="show changes per second instead")
    stats.add_argument(
        "--interval",
        type=_positive,
        default=1.0,
        metavar="S",
        help="seconds a rate is taken over; default: 1",
    )
    stats.add_argument(
        "--count", type=int, default=1, metavar="N", help="rates to show, 0: no end; default: 1"
    )
    profile = add(
        verbs, "profile", commands.profile, "show where the workers' time goes: stages, calls, idle"
    )
    profile.add_argument(
        "--seconds", type=_positive, metavar="S", help="how long to look, 0.1 to 60; default: 1"
    )
    _add_port_commands(verbs, add, json_option)
    _add_attach_commands(verbs, add)
    _add_rule_commands(verbs, add)
    _add_vhost_user_command(verbs, add)
    return parser


def _add_port_commands(verbs, add, json_option):
    noun = verbs.add_parser("port", help="add, delete and show ports").add_subparsers(
        metavar="VERB", required=True
    )
    port = add(noun, "add", commands.port_add, "add a port", json_option)
    port.add_argument("name", metavar="NAME")
    port.add_argument(
        "--kind", required=True, metavar="KIND", help="tap, af_packet, af_xdp, vhost_user or null"
    )
    port.add_argument("--netns", metavar="NS", help="network namespace: a name, a path, or pid:N")
    port.add_argument("--ifname", metavar="IF", help="name of the interface in the namespace")
    _add_address_options(port)
    on = {"action": "store_const", "const": True}
    port.add_argument("--socket", metavar="PATH", help="Unix socket of a vhost_user port")
    port.add_argument("--socket-mode", metavar="MODE", help="octal mode of that socket; default: 0600")
    port.add_argument("--socket-group", metavar="G", help="group of that socket")
    port.add_argument("--client", **on, help="connect to that socket instead of listening on it")
    _add_xconnect_option(port)
    _add_interface_options(port)
    _add_port_options(port)
    port.add_argument("--owner", metavar="O", help="who makes the port; it goes with its container")
    add(noun, "del", commands.port_del, "delete a port").add_argument("name", metavar="NAME")
    show = add(noun, "show", commands.port_show, "show ports")
    show.add_argument("name", metavar="NAME", nargs="?", help="one port; default: all")


def _add_attach_commands(verbs, add):
    text = "plug the namespace of a container into a port, which goes when the container does"
    attach = add(verbs, "attach", commands.attach_container, text)
    _add_container_options(attach.add_mutually_exclusive_group(required=True))
    attach.add_argument("--name", metavar="PORT", help="name of the port; default: made up, and printed")
    attach.add_argument(
        "--ifname", metavar="IF", default=IFNAME, help=f"interface in the namespace; default: {IFNAME}"
    )
    _add_address_options(attach)
    _add_port_options(attach)
    text = "take what was attached away, with the rules that name it; nothing to take is no error"
    detach = add(verbs, "detach", commands.detach_container, text)
    which = detach.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", help="name of the port")
    _add_container_options(which)
    detach.add_argument("--ifname", metavar="IF", help="only this interface there; default: all")


def _add_container_options(group):
    """Options that say whose namespace is meant."""
    group.add_argument("--netns", metavar="NS", help="network namespace: a name, a path, or pid:N")
    group.add_argument("--pid", type=_positive_int, metavar="N", help="the namespace of this process")
    group.add_argument("--container", metavar="C", help="name or ID of a container; asks podman or docker")


def _add_address_options(port):
    """Options of interfaces that the daemon makes."""
    port.add_argument(
        "--address", action="append", metavar="CIDR", help="address of the interface; may repeat"
    )
    port.add_argument(
        "--route",
        action="append",
        nargs=2,
        metavar=("TO", "VIA"),
        help="route, TO may be default; may repeat",
    )


def _add_xconnect_option(port):
    port.add_argument(
        "--xconnect", metavar="PORT", help="vhost_user port that all packets go to, past rules and switch"
    )


def _add_interface_options(port):
    """Options of ports over an interface that exists already."""
    on = {"action": "store_const", "const": True}
    off = {"action": "store_const", "const": False}
    port.add_argument("--promiscuous", **on, help="take packets for any MAC address")
    port.add_argument(
        "--accept-default-route", metavar="IF", help="the interface again, if a default route leaves by it"
    )
    port.add_argument("--qdisc", **on, help="af_packet: send through the interface's queueing discipline")
    port.add_argument(
        "--blocks", **on, help="af_packet: receive in blocks, fewer wake-ups, packets some milliseconds late"
    )
    port.add_argument("--xdp-mode", metavar="MODE", help="af_xdp: auto, zerocopy, copy or generic")
    port.add_argument("--no-busy-poll", dest="busy_poll", **off, help="af_xdp: leave polling to the kernel")


def _add_port_options(port):
    """Options of ports of every kind."""
    on = {"action": "store_const", "const": True}
    off = {"action": "store_const", "const": False}
    port.add_argument("--mac", metavar="M", help="MAC address of the attached side")
    port.add_argument("--mtu", type=int, metavar="N", help="largest layer 3 packet in octets")
    port.add_argument("--queues", type=int, metavar="N", help="queue pairs")
    port.add_argument("--vlan", type=int, metavar="N", help="VLAN of untagged packets")
    port.add_argument(
        "--trunk", type=int, action="append", metavar="N", help="VLAN whose tag is taken; may repeat"
    )
    port.add_argument("--spoof-check", **on, help="drop packets from other MAC addresses")
    port.add_argument("--verify-checksum", **on, help="verify checksums of packets that come in")
    port.add_argument("--no-offload", dest="offload", **off, help="no checksum and segmentation offload")
    port.add_argument("--no-gro", dest="gro", **off, help="do not merge TCP segments")
    rate = "most that may %s, in bits of frames a second, or such as 20mbit"
    port.add_argument("--rx-rate", metavar="RATE", help=rate % "come in")
    port.add_argument("--rx-burst", metavar="N", type=int, help="octets that may come in at once")
    port.add_argument("--tx-rate", metavar="RATE", help=rate % "go out")
    port.add_argument("--tx-burst", metavar="N", type=int, help="octets that may go out at once")


def _add_rule_commands(verbs, add):
    noun = verbs.add_parser("rule", help="add, delete and show rules").add_subparsers(
        metavar="VERB", required=True
    )
    rule = add(noun, "add", commands.rule_add, "add a rule; what is not said matches anything")
    rule.add_argument("--name", metavar="R", help="name of the rule; default: rule-N")
    rule.add_argument(
        "--priority", type=int, required=True, metavar="N", help="0..65535, the highest applies first"
    )
    rule.add_argument("--stage", choices=("ingress", "egress"), help="default: ingress")
    rule.add_argument("--in-port", metavar="P", help="port the packet came from")
    rule.add_argument("--out-port", metavar="P", help="port the packet goes to, in stage egress")
    rule.add_argument("--src-mac", metavar="M[/MASK]", help="source MAC address")
    rule.add_argument("--dst-mac", metavar="M[/MASK]", help="destination MAC address")
    rule.add_argument("--vlan", type=int, metavar="N", help="VLAN the packet belongs to, 0: none")
    rule.add_argument("--ethertype", metavar="T", help="EtherType, a name or a number")
    rule.add_argument("--src", metavar="CIDR", help="source addresses")
    rule.add_argument("--dst", metavar="CIDR", help="destination addresses")
    rule.add_argument("--proto", metavar="P", help="IP protocol, a name or a number")
    rule.add_argument("--sport", metavar="A[-B]", help="source port, of tcp, udp or sctp")
    rule.add_argument("--dport", metavar="A[-B]", help="destination port, of tcp, udp or sctp")
    rule.add_argument("--tcp-flags", metavar="SPEC", help='such as "syn,!ack"')
    rule.add_argument("--action", required=True, choices=("allow", "drop"))
    add(noun, "del", commands.rule_del, "delete a rule").add_argument("name", metavar="NAME")
    show = add(noun, "show", commands.rule_show, "show rules in the order in which they apply")
    show.add_argument("--stats", action="store_true", help="with packets and octets that matched")


def _add_vhost_user_command(verbs, add):
    text = "give the running daemon a vhost_user port for as long as this program runs"
    program = add(verbs, "vhost-user", commands.vhost_user, text)
    where = program.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket-path", metavar="PATH", help="listen on this Unix socket for a front-end")
    where.add_argument(
        "--fd",
        type=int,
        metavar="FDNUM",
        help="the front-end's socket, connected or listening, is this descriptor",
    )
    where.add_argument(
        "--print-capabilities", action="store_true", help="print them as JSON and ignore all else"
    )
    program.add_argument("--port", dest="name", metavar="NAME", help="name of the port; default: made up")
    _add_port_options(program)
    _add_xconnect_option(program)


def _positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("N >= 1")
    return value


def _positive(text):
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("0 < S <= 3600")
    return value
