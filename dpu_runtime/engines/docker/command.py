"""The command `dpu-docker`: the plugin process, beside the daemon and in the same network namespace.

Exit codes: 0 told to end, 1 cannot start (the reason is on stderr), 2 usage.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

from dpu_runtime.api.client import DEFAULT_SOCKET
from dpu_runtime.api.rpc import listening_socket
from dpu_runtime.config.errors import DaemonError
from dpu_runtime.control.notify import sd_notify
from dpu_runtime.control.state import StateDir
from dpu_runtime.engines.docker.detaching import Detacher
from dpu_runtime.engines.docker.endpoints import Endpoints
from dpu_runtime.engines.docker.networks import Networks
from dpu_runtime.engines.docker.placement import Placement
from dpu_runtime.engines.docker.records import Store, log
from dpu_runtime.engines.docker.server import make_app

PLUGIN_SOCKET = "/run/docker/plugins/dpu.sock"  # the file's name is the driver's
STATE_DIR = "/var/lib/dpu-docker"
END_TIMEOUT_S = 5.0  # for requests under way


def main(argv=None):
    """Run the plugin; returns its exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run(Path(args.plugin_socket).absolute(), os.path.abspath(args.socket), args.state_dir))
    except DaemonError as error:
        print(f"dpu-docker: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser():
    """Build what may be typed."""
    text = "Docker network driver: containers on ports of the DPU daemon"
    parser = argparse.ArgumentParser(prog="dpu-docker", description=text)
    parser.add_argument(
        "--plugin-socket",
        metavar="PATH",
        default=PLUGIN_SOCKET,
        help="where dockerd finds the driver, by the file's name (default: %(default)s)",
    )
    parser.add_argument(
        "--socket",
        metavar="DAEMON",
        default=os.environ.get("DPU_SOCKET") or DEFAULT_SOCKET,
        help="socket of the daemon, for networks that name no other (default: $DPU_SOCKET or %(default)s)",
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", default=STATE_DIR, help="networks and endpoints (default: %(default)s)"
    )
    return parser


async def run(plugin_socket, daemon_socket, state_dir):
    """Serve dockerd until SIGTERM or SIGINT. Raises DaemonError when it cannot start."""
    state = StateDir(state_dir)
    state.lock()
    with contextlib.closing(state):
        store = Store(state_dir)
        detacher, placement = Detacher(store), Placement(store)
        endpoints = Endpoints(store, detacher, placement)
        app = make_app(Networks(store, daemon_socket, detacher, placement), endpoints)
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        async with _served(app, plugin_socket):
            endpoints.resume()
            background = asyncio.gather(detacher.run(), endpoints.watch())
            background.add_done_callback(lambda _: ended.set())
            sd_notify("READY=1")
            log.info("ready on %s, %d networks, daemon %s", plugin_socket, len(store.networks), daemon_socket)
            await ended.wait()
            sd_notify("STOPPING=1")
        placement.close()
        background.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await background


@contextlib.asynccontextmanager
async def _served(app, path):
    """Have `app` answer on the Unix socket at `path`, in place of one that nobody answers on."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=END_TIMEOUT_S)
    await runner.setup()
    sock = listening_socket(path)
    inode = path.stat().st_ino
    try:
        await web.SockSite(runner, sock).start()
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == inode:
                path.unlink()
        await runner.cleanup()


if __name__ == "__main__":
    sys.exit(main())
