"""The command `dpu`: what may be typed, and exit codes.

Options of ports and the commands of functions are data (options.py, functions.py, nouns.py).
Not: what the commands do (commands.py) and print (show.py); docs/cli.md is generated from this parser.
     Nothing heavy: `dpu status` starts in under 100 ms.

Exit codes: 0 done, 1 refused (the reason is on stderr), 2 usage, 3 no daemon.
"""

import argparse
import json
import os
import sys

import dpu_runtime
from dpu_runtime.api.client import DEFAULT_SOCKET, NoDaemonError
from dpu_runtime.cli import commands, functions, nouns, options
from dpu_runtime.cli.parser import Parser
from dpu_runtime.config.errors import ConfigError, DaemonError, RpcError
from dpu_runtime.config.places import DEFAULT_STATE_DIR

IFNAME = "eth0"  # what `dpu attach` calls an interface, as the engines do
EXIT_DONE = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3


def main(argv=None):
    """Run one command line; returns its exit code."""
    words = _alone_if_asked(sys.argv[1:] if argv is None else list(argv))
    args = build_parser(words).parse_args(words)
    args.json = getattr(args, "json", False)
    args.given_socket = getattr(args, "daemon_socket", None) or os.environ.get("DPU_SOCKET")
    args.daemon_socket = os.path.abspath(args.given_socket or DEFAULT_SOCKET)
    try:
        args.command(args)
        sys.stdout.flush()
    except NoDaemonError as error:
        return _fail(args, str(error), EXIT_NO_DAEMON, error.data)
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


def build_parser(words=None, declared=None):
    """Make the parser of all commands.

    words     that it is to parse: if they are for a command of the frame, no function's is made
    declared  data of the functions (functions.py); default: of all there are
    """
    json_option = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    json_option.add_argument("-j", "--json", action="store_true", help="print JSON")
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS, parents=[json_option])
    common.add_argument(
        "--socket",
        dest="daemon_socket",
        metavar="PATH",
        help=f"the daemon's socket; default: $DPU_SOCKET, else {DEFAULT_SOCKET};"
        " it goes in front of `port add`, whose own --socket is the port's",
    )
    parser = Parser(
        prog="dpu",
        description="A DPU in software: run it, and steer one that runs.",
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dpu {dpu_runtime.__version__}")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(where, name, text, command, fill=None, parent=common):
        """A command: `fill` adds its options once it is used; what that returns goes to `command` too."""
        return where.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            parents=[parent],
            run=command,
            fill=fill,
        )

    _add_daemon_commands(verbs, add)
    _add_port_commands(verbs, add, json_option, declared)
    _add_attach_commands(verbs, add, declared)
    if words is None or _command(words) not in verbs.choices:
        found = functions.known() if declared is None else declared
        nouns.add(verbs, add, json_option, found)
        parser.epilog = nouns.summaries(found)
    return parser


def _command(words):
    """The first word that is no option of `dpu` itself, None if there is none."""
    words = iter(words)
    for word in words:
        if not word.startswith("-"):
            return word
        if len(word) > 2 and "--socket".startswith(word):
            next(words, None)
    return None


def _add_daemon_commands(verbs, add):
    add(verbs, "run", "run the daemon in the foreground", commands.run, _run_options)
    text = "validate a configuration without touching the system"
    add(verbs, "check", text, commands.check, _check_options)
    add(verbs, "apply", "make a configuration run, all of it or nothing", commands.apply, _apply_options)
    text = "have the daemon read the file of `dpu run -c` again, all of it or nothing; SIGHUP does too"
    add(verbs, "reload", text, commands.reload, _reload_options)
    add(verbs, "save", "write the running configuration to a file", commands.save, _save_options)
    add(verbs, "status", "show how the daemon is", commands.status, _state_dir_option)
    text = "end the daemon in order and wait for it, or the data plane that a killed one left"
    add(verbs, "stop", text, commands.stop, _state_dir_option)
    text = "show counters of ports, drop reasons, kernels and workers"
    add(verbs, "stats", text, commands.stats, _stats_options)
    text = "show where the workers' time goes: stages, calls, idle"
    add(verbs, "profile", text, commands.profile, _profile_options)


def _run_options(run):
    run.add_argument("-c", "--config", metavar="FILE", help="configuration to start with; default: none")
    run.add_argument(
        "--fresh",
        action="store_true",
        help="forget what was applied and what was made at run time, and say it",
    )
    run.add_argument("--perf-map", action="store_true", help="as perf_map = true: names for perf")


def _check_options(check):
    check.add_argument("file", metavar="FILE")


def _apply_options(apply):
    apply.add_argument("--dry-run", action="store_true", help="only print what would change")
    apply.add_argument("file", metavar="FILE", help="- is standard input")


def _reload_options(reload):
    reload.add_argument("--dry-run", action="store_true", help="only print what would change")


def _save_options(save):
    save.add_argument("file", metavar="FILE", help="- is standard output")


def _state_dir_option(parser):
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        type=os.path.abspath,
        default=DEFAULT_STATE_DIR,
        help=f"where to look for a data plane that is alone; default: {DEFAULT_STATE_DIR}",
    )


def _stats_options(stats):
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


def _profile_options(profile):
    profile.add_argument(
        "--seconds", type=_positive, metavar="S", help="how long to look, 0.1 to 60; default: 1"
    )


def _add_port_commands(verbs, add, json_option, declared):
    def add_options(parser):
        every, some = options.port_options(declared)
        taken = [*every, *map(options.of_kinds, some.values())]
        options.add(parser, taken)
        return taken

    noun = verbs.add_parser("port", help="add, delete and show ports").add_subparsers(
        metavar="VERB", required=True
    )
    add(noun, "add", "add a port", commands.port_add, add_options, json_option)
    add(noun, "del", "delete a port", commands.port_del, nouns.name_option)
    add(noun, "show", "show ports", commands.port_show, nouns.filter_option)


def _add_attach_commands(verbs, add, declared):
    def every_port(parser, *keys):
        every, some = options.port_options(declared)
        taken = [option for option in every if option["key"] not in ("name", "kind", "owner")]
        taken += [some[key] for key in keys]
        options.add(parser, taken)
        return taken

    def attach(parser):
        _add_container_options(parser.add_mutually_exclusive_group(required=True))
        parser.add_argument("--name", metavar="PORT", help="name of the port; default: made up, and printed")
        parser.add_argument(
            "--ifname", metavar="IF", default=IFNAME, help=f"interface in the namespace; default: {IFNAME}"
        )
        return every_port(parser, "address", "route")

    def vhost_user(parser):
        _add_front_end_options(parser.add_mutually_exclusive_group(required=True))
        parser.add_argument("--port", dest="name", metavar="NAME", help="name of the port; default: made up")
        return every_port(parser, "xconnect")

    text = "plug the namespace of a container into a port, which goes when the container does"
    add(verbs, "attach", text, commands.attach_container, attach)
    text = "take what was attached away, with all that names it; nothing to take is no error"
    add(verbs, "detach", text, commands.detach_container, _detach_options)
    text = "give the running daemon a vhost_user port for as long as this program runs"
    add(verbs, "vhost-user", text, commands.vhost_user, vhost_user)


def _detach_options(detach):
    which = detach.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", help="name of the port")
    _add_container_options(which)
    detach.add_argument("--ifname", metavar="IF", help="only this interface there; default: all")


def _add_container_options(group):
    """Options that say whose namespace is meant."""
    group.add_argument("--netns", metavar="NS", help="network namespace: a name, a path, or pid:N")
    group.add_argument("--pid", type=_positive_int, metavar="N", help="the namespace of this process")
    group.add_argument("--container", metavar="C", help="name or ID of a container; asks podman or docker")


def _add_front_end_options(where):
    """Options that say where the front-end of a vhost_user port is."""
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
