"""What the commands of `dpu` do: ask the daemon, print the answer.

In:   the parsed arguments. Out: text or JSON on stdout, or an exception that main.py turns into an exit code.
Not:  anything heavy at import; `run` and `check` load the rest when they are used.
"""

import contextlib
import json
import os
import signal
import sys
import time

from dpu_runtime.api.client import Client, NoDaemonError
from dpu_runtime.cli import options, show
from dpu_runtime.config.errors import ConfigError, DaemonError, Problem, RpcError
from dpu_runtime.config.places import DEFAULT_STATE_DIR


def run(args):
    """Run the daemon until it is told to stop."""
    from dpu_runtime.plane.child import Child  # noqa: PLC0415

    children = []
    _end_on_signals(children)
    child = Child()  # it loads the compiler while this process reads its configuration
    children.append(child)
    try:
        _run(args, child)
    finally:
        child.end()


def _end_on_signals(children):
    """Until the daemon sees to them: SIGTERM and SIGINT end this process in order, SIGHUP does nothing.

    An exception would not do: one that comes up in a callback of an import is lost.
    """

    def end(*_):
        for child in children:
            child.end()
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _run(args, child):
    from dpu_runtime.config.errors import ApplyError  # noqa: PLC0415
    from dpu_runtime.config.file import digest, parse_config, read_text  # noqa: PLC0415
    from dpu_runtime.control import daemon  # noqa: PLC0415  (heavy)

    config = file = None
    if args.config:
        text = read_text(args.config)
        config, file = parse_config(text, str(args.config)), digest(text)
    socket = args.given_socket and args.daemon_socket
    try:
        daemon.run(config, socket, args.perf_map, child, path=args.config, file=file, fresh=args.fresh)
    except ApplyError as error:
        raise DaemonError(str(error)) from None


def check(args):
    """Validate a file."""
    from dpu_runtime.api.nouns import counted  # noqa: PLC0415  (heavy)
    from dpu_runtime.config.file import load_config  # noqa: PLC0415

    counts = counted(load_config(args.file))
    text = ", ".join(f"{count} {many}" for many, count in counts.items())
    _print(args, {"file": args.file, **counts}, lambda data: f"{data['file']}: good, {text}")


def apply(args):
    """Send a file to the daemon."""
    source = "stdin" if args.file == "-" else args.file
    try:
        with contextlib.ExitStack() as stack:
            file = sys.stdin.buffer if args.file == "-" else stack.enter_context(open(args.file, "rb"))
            text = file.read().decode("utf-8")
    except OSError as error:
        raise ConfigError([Problem("", error.strerror, file=source, has_value=False)]) from None
    except UnicodeDecodeError as error:
        problem = f"octet {error.start} is not UTF-8"
        raise ConfigError([Problem("", problem, file=source, has_value=False)]) from None
    result = _call(args, "config.apply", toml=text, source=source, dry_run=args.dry_run)
    _print(args, result, _changes)


def reload(args):
    """Have the daemon read its file again."""
    _print(args, _call(args, "config.reload", dry_run=args.dry_run), _changes)


def _changes(data):
    return "\n".join(data["changes"] or ["nothing to change"])


def save(args):
    """Write the running configuration."""
    text = _call(args, "config.get")["toml"]
    if args.file == "-":
        sys.stdout.write(text)
        return
    new = f"{args.file}.{os.getpid()}.new"
    try:
        with open(new, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, args.file)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise DaemonError(f"{args.file}: {error.strerror}") from None
    if args.json:
        print(json.dumps({"file": args.file}, indent=2))


def status(args):
    """Show how the daemon is, or what there is without one."""
    try:
        data = _call(args, "status")
    except NoDaemonError as error:
        raise _without_daemon(args, error) from None
    _print(args, data, show.status)


def stop(args):
    """End the daemon, or a data plane that is alone."""
    from dpu_runtime.programs import stop  # noqa: PLC0415  (only this command uses it)

    try:
        client = Client(args.daemon_socket)
    except NoDaemonError as error:
        which, pid = "data_plane", stop.end_data_plane(args.state_dir)
        if pid is None:
            raise NoDaemonError(f"{error}, and no data plane in state directory {args.state_dir}") from None
    else:
        with client:
            which, pid = "daemon", stop.end_daemon(client.sock)
    _print(args, {which: {"pid": pid}}, lambda _: f"{which.replace('_', ' ')} {pid} ended")


def _without_daemon(args, error):
    """`error` with what uses the state directory."""
    from dpu_runtime.programs import left_behind  # noqa: PLC0415  (only where nobody answers)

    where = args.state_dir
    if pid := left_behind.daemon(where):
        text = f"a daemon (process {pid}) uses state directory {where}, on another socket"
        return NoDaemonError(f"{error}\n{text}", {"daemon": {"pid": pid, "state_dir": where}})
    pid = left_behind.data_plane(where)
    if pid is None:
        return error
    end = "dpu stop" if where == DEFAULT_STATE_DIR else f"dpu stop --state-dir {where}"
    text = f"data plane {pid or '(of another user)'} still forwards for state directory {where}:"
    text += f" `dpu run` goes on with it, `{end}` ends it"
    return NoDaemonError(f"{error}\n{text}", {"data_plane": {"pid": pid or None, "state_dir": where}})


def stats(args):
    """Show counters, or how fast they change."""
    with _connected(args) as client:
        before, began = client.call("stats"), time.monotonic()
        if not args.rate:
            _print(args, before, show.stats)
            return
        shown = 0
        while args.count == 0 or shown < args.count:
            time.sleep(args.interval)
            after, now = client.call("stats"), time.monotonic()
            rates = show.rates(before, after, now - began)
            print(json.dumps(rates) if args.json else show.rate_table(rates), flush=True)
            before, began, shown = after, now, shown + 1


def profile(args):
    """Show where the workers' time goes."""
    _call(args, "status")  # waits, and says so, for a daemon that starts; the profile takes its time anyway
    seconds = {} if args.seconds is None else {"seconds": args.seconds}
    with Client(args.daemon_socket) as client:
        _print(args, client.call("profile", **seconds), show.profile)


def port_add(args, taken):
    """Add a port; `taken` are the options it may have."""
    _print(args, _call(args, "port.add", **options.typed(args, taken)))


def port_del(args):
    """Delete a port."""
    _print(args, _call(args, "port.del", name=args.name))


def port_show(args):
    """Show ports."""
    if args.name:
        _print(args, _call(args, "port.show", name=args.name), show.port)
    else:
        _print(args, _call(args, "port.show"), show.ports)


def attach_container(args, taken):
    """Plug a container's namespace into a port; prints the port's name."""
    from dpu_runtime.programs import attach  # noqa: PLC0415  (only these two commands use it)

    netns, label = attach.find(args.netns, args.pid, args.container)
    name = attach.port_name(netns, args.ifname, label) if args.name is None else args.name
    keys = {"name": name, "kind": "tap", "owner": attach.OWNER, "netns": netns, "ifname": args.ifname}
    keys |= options.typed(args, taken)
    with _connected(args) as client:
        try:
            added = _told(client.call("port.add", **keys))
        except RpcError as error:
            for name in _attached(client, netns, args.ifname, any_owner=True):
                text = f"{args.ifname} in netns {netns!r} is attached already, as port {name}"
                raise RpcError(error.code, text, error.data) from None
            raise
    _print(args, added, "{name}".format_map)


def detach_container(args):
    """Take the ports of a container away; prints their names."""
    from dpu_runtime.programs import attach  # noqa: PLC0415

    with _connected(args) as client:
        names = [args.name]
        if args.name is None:
            netns, _ = attach.find(args.netns, args.pid, args.container)
            names = _attached(client, netns, args.ifname)
        answers = [client.call("port.detach", name=name) for name in names]
    data = {
        **_told(answers[-1] if answers else {}),
        "names": [gone for one in answers for gone in one["names"]],
    }
    _print(args, data, lambda data: "\n".join(data["names"] or ["nothing was attached"]))


def _attached(client, netns, ifname=None, any_owner=False):
    """Names of the ports in a namespace, by default of those that `dpu attach` made."""
    from dpu_runtime.programs import attach  # noqa: PLC0415

    configs = [view["config"] for view in client.call("port.show")]
    return [
        config["name"]
        for config in configs
        if config.get("netns") == netns
        if ifname in (None, config["ifname"])
        if any_owner or config.get("owner") == attach.OWNER
    ]


def vhost_user(args, taken):
    """Be a port's front door, as QEMU and libvirt want it, until told to end."""
    from dpu_runtime.programs import vhost_program  # noqa: PLC0415  (only this command uses it)

    if args.print_capabilities:
        print(json.dumps(vhost_program.CAPABILITIES, indent=2))
        return
    name = f"vhost-user-{os.getpid()}" if args.name is None else args.name
    keys = {"name": name, "kind": "vhost_user", "owner": vhost_program.OWNER, **options.typed(args, taken)}
    frontend = None if args.fd is None else vhost_program.frontend_socket(args.fd)
    path = args.socket_path and os.path.abspath(args.socket_path)
    with _connected(args) as client:
        client.call("status")  # waits for one that starts; a signal in the meantime has nothing to undo
    text = "port {name} on {socket}" if frontend is None else "port {name}"
    vhost_program.run(
        args.daemon_socket, keys, path, frontend, lambda added: _print(args, added, text.format_map)
    )


def item_add(args, noun):
    """Add an item of a function; prints its name if that was made up."""
    result = _call(args, f"{noun['name']}.add", **options.typed(args, noun["options"]))
    _print(args, result, None if args.name else "{name}".format_map)


def item_del(args, noun):
    """Delete an item."""
    _print(args, _call(args, f"{noun['name']}.del", name=args.name))


def item_show(args, noun):
    """Show items."""
    which = {} if args.name is None else {"name": args.name}
    views = _call(args, f"{noun['name']}.show", stats=bool(noun["stats"]) and args.stats, **which)
    _print(args, views, lambda views: show.items(noun, views))


def _call(args, method, **params):
    with _connected(args) as client:
        return _told(client.call(method, **params))


def _told(result):
    """The result of a call; a warning if it is of a change that the daemon could not write down."""
    if isinstance(result, dict) and result.get("not_kept"):
        text = f"dpu: in force, but not kept, so a restart undoes it: {result['not_kept']}"
        print(text, file=sys.stderr, flush=True)
    return result


def _connected(args):
    return Client(args.daemon_socket, waiting=lambda text: print(f"dpu: {text}", file=sys.stderr, flush=True))


def _print(args, data, text=None):
    """Print data as JSON, or what `text` makes of it: without it, success is silent."""
    if args.json:
        print(json.dumps(data, indent=2), flush=True)
    elif text:
        print(text(data), flush=True)
