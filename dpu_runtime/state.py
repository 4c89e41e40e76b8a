"""The state directory: one daemon's lock, and what it last had running.

dpu.lock      held while the daemon lives; holds its process number
running.json  the running configuration, for the daemon that adopts a running data plane
"""

import fcntl
import json
import os
from pathlib import Path

from pydantic import ValidationError

from dpu_runtime.config import Config
from dpu_runtime.errors import DaemonError

RUNNING_VERSION = 1  # of running.json; another version is refused, not guessed at


class StateDir:
    """A locked state directory."""

    def __init__(self, path):
        self.path = Path(path)
        self.running_path = self.path / "running.json"
        self._lock = None

    def lock(self):
        """Make the directory and take its lock. Raises DaemonError naming the daemon that has it."""
        lock_path = self.path / "dpu.lock"
        try:
            self.path.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise DaemonError(f"runtime.state_dir: {error.filename}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            self.close()
            raise DaemonError(f"another daemon (process {pid}) uses state directory {self.path}") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def save(self, config):
        """Write the running configuration: the old file or the new one is there, never a part."""
        data = {"version": RUNNING_VERSION, "config": config.model_dump(mode="json", exclude_none=True)}
        write_atomically(self.running_path, json.dumps(data, indent=1).encode())

    def load(self):
        """Return the last running configuration, or None if there is none. Raises DaemonError."""
        try:
            data = json.loads(self.running_path.read_bytes())
            if data["version"] != RUNNING_VERSION:
                raise DaemonError(f"{self.running_path}: version {data['version']}, not {RUNNING_VERSION}")
            return Config.model_validate(data["config"])
        except FileNotFoundError:
            return None
        except (OSError, ValidationError, ValueError, KeyError, TypeError) as error:
            raise DaemonError(f"{self.running_path} cannot be read: {error}") from None

    def clear(self):
        """Forget the running configuration: nothing runs any more."""
        self.running_path.unlink(missing_ok=True)

    def close(self):
        """Give the lock back; twice is allowed."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def write_atomically(path, data, mode=0o640):
    """Replace the file at `path`; after a crash it holds the old octets or the new ones."""
    path = Path(path)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
