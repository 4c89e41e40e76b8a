"""Run the daemon from Python, and know when it forwards.

Spec: sd_notify(3). The daemon says READY=1 to its service manager, which here is the caller.
"""

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

DPU = Path(sys.executable).parent / "dpu"
STOP_SECONDS_MAX = 15.0  # from SIGTERM to SIGKILL
LOG_LINES_SHOWN = 10

_numbers = itertools.count()


class DaemonError(Exception):
    """The daemon did not start or did not end well; says what it logged last."""


class DpuDaemon:
    """`dpu run -c CONFIG`, ready when this is made; its lines go to the file `log`.

    waiting  called about once a second with the seconds it has been starting
    env      environment variables beside the inherited ones

    The daemon gets a SIGTERM when the thread that made it is gone.
    """

    def __init__(self, config, log, waiting=None, env=None):
        self.log = Path(log)
        address = f"@dpu-daemon-{os.getpid()}-{next(_numbers)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, self.log.open("ab") as log_file:
            manager.bind(address.replace("@", "\0"))
            manager.settimeout(1.0)
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", DPU, "run", "-c", config],
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,  # Ctrl-C is for the caller
                env={**os.environ, **(env or {}), "NOTIFY_SOCKET": address},
            )
            try:
                self._wait_until_ready(manager, waiting)
            except BaseException:
                self.process.kill()  # nothing is attached yet, and a compiler takes its time to stop
                self.process.wait()
                raise

    def _wait_until_ready(self, manager, waiting):
        began = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in manager.recv(4096).splitlines():
                    return
            if self.process.poll() is not None:
                raise self._error(f"the daemon ended, exit status {self.process.returncode}")
            if waiting:
                waiting(time.monotonic() - began)

    def stop(self):
        """Stop in order: the ports and their interfaces go. Twice is allowed. Raises DaemonError."""
        if self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise self._error("the daemon does not stop") from None
        if self.process.returncode != 0:
            raise self._error(f"the daemon stopped with exit status {self.process.returncode}")

    def _error(self, text):
        last = self.log.read_text().splitlines()[-LOG_LINES_SHOWN:]
        return DaemonError("\n".join([text, *last]))
