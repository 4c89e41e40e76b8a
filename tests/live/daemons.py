"""Daemons for tests: on a device in memory, in a thread of this process or in a process of its own.

python -m tests.live.daemons STATE_DIR [CONFIG] [adopted]     the process
"""

import asyncio
import contextlib
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

from dpu_runtime.api.client import Client, NoDaemonError
from dpu_runtime.config.errors import ApplyError, DaemonError
from dpu_runtime.config.file import digest, load_config, read_text
from dpu_runtime.config.models import Config
from dpu_runtime.control.daemon import Daemon
from tests.dpu_runtime.control.memory_device import MemoryDevice

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 20.0


def wait_for(socket):
    """Return a client of the daemon on `socket`, as soon as it answers."""
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return Client(socket)
        except NoDaemonError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


@contextlib.contextmanager
def in_thread(folder, config=None, device=None, path=None):
    """Serve on `folder`/dpu.sock from a thread; `path` is the file to read again. Yields the device."""
    device = device or MemoryDevice()
    paths = {"socket": f"{folder}/dpu.sock", "state_dir": f"{folder}/state"}
    config = config or Config()
    runtime = config.runtime.model_copy(update=paths)
    daemon = Daemon(lambda _runtime: device, config.model_copy(update={"runtime": runtime}), path=path)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(daemon.run(),))
    thread.start()
    try:
        wait_for(paths["socket"]).close()
        yield device
    finally:
        loop.call_soon_threadsafe(daemon.stop)
        thread.join(START_TIMEOUT_S)
        loop.close()


def start_process(folder, *arguments, env=None):
    """Start the daemon of `main` below."""
    command = [sys.executable, "-m", "tests.live.daemons", str(folder), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=env)


def main(folder, config_path="", adopted=""):
    """Run a daemon with its socket and state below `folder`."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    config = load_config(config_path) if config_path else None
    given = config or Config()
    paths = {"socket": f"{folder}/dpu.sock", "state_dir": f"{folder}/state"}
    runtime = type(given.runtime)(**{**given.runtime.model_dump(exclude_unset=True), **paths})
    given = given.model_copy(update={"runtime": runtime})

    def make_device(_runtime):
        device = MemoryDevice(adopted=bool(adopted))
        if adopted:
            device.preset(load_config(adopted))
        return device

    async def serve():
        file = digest(read_text(config_path)) if config_path else None
        daemon = Daemon(make_device, given, path=config_path or None, file=file)
        daemon._named_config = config is not None
        await daemon.run()

    try:
        asyncio.run(serve())
    except (DaemonError, ApplyError) as error:
        print(f"dpu: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
