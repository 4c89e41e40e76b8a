"""The state directory: one daemon's lock, and what it last had running.

dpu.lock      held while the daemon lives; holds its process number
running.json  what runs of the configuration file, for the daemon that adopts a running data plane
runtime.json  ports and rules made at run time, for every later daemon; nothing is in both files
"""

import fcntl
import itertools
import json
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dpu_runtime.config import AnyPort, Config, PortConfig, RuleConfig
from dpu_runtime.config_file import problems
from dpu_runtime.errors import ConfigError, DaemonError
from dpu_runtime.json_texts import JsonTexts
from dpu_runtime.origin import Kept

RUNNING_VERSION = 1  # of running.json; another version is refused, not guessed at
RUNTIME_VERSION = 1  # of runtime.json, likewise

_any_port = TypeAdapter(AnyPort)
_rule = TypeAdapter(RuleConfig)


class StateDir:
    """A locked state directory."""

    def __init__(self, path):
        self.path = Path(path)
        self.running_path = self.path / "running.json"
        self.runtime_path = self.path / "runtime.json"
        self._written = {}  # path -> its octets, so that an unchanged file is left alone
        self._texts = {key: JsonTexts() for key in ("port", "rule", "kept port", "kept rule")}
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
        """Write what runs of the configuration file: the old file or the new one is there, never a part."""
        parts = (
            f'"runtime": {config.runtime.model_dump_json(exclude_none=True)}',
            f'"port": {self._array("port", config.port)}',
            f'"rule": {self._array("rule", config.rule)}',
        )
        self._write(self.running_path, RUNNING_VERSION, f'"config": {{{", ".join(parts)}}}')

    def keep(self, kept):
        """Write what was made at run time, a line each; on disk before anybody is told that it is there."""
        ports, rules = self._array("kept port", kept.ports), self._array("kept rule", kept.rules)
        parts = f'"ports": {ports}, "rules": {rules}, "processes": {json.dumps(kept.processes)}'
        self._write(self.runtime_path, RUNTIME_VERSION, parts)

    def _array(self, kind, models):
        return "[" + ",\n".join(self._texts[kind].of(models)) + "]"

    def _write(self, path, version, parts):
        data = f'{{"version": {version}, {parts}}}\n'.encode()
        if self._written.get(path) != data:
            write_atomically(path, data)
            self._written[path] = data

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

    def load_kept(self):
        """Return what was made at run time; `refused` says what of it is not valid. Raises DaemonError."""
        try:
            data = json.loads(self.runtime_path.read_bytes())
            if data["version"] != RUNTIME_VERSION:
                raise DaemonError(f"{self.runtime_path}: version {data['version']}, not {RUNTIME_VERSION}")
            kept = Kept(processes=dict(data["processes"]))
            for noun, adapter, model in (("port", _any_port, PortConfig), ("rule", _rule, RuleConfig)):
                for item in data[f"{noun}s"]:
                    try:
                        getattr(kept, f"{noun}s").append(adapter.validate_python(item))
                    except ValidationError as error:
                        kept.refused.append(f"{noun} {item['name']}: {ConfigError(problems(error, model))}")
            return kept
        except FileNotFoundError:
            return Kept()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DaemonError(f"{self.runtime_path} cannot be read: {error!r}") from None

    def set_aside(self):
        """Rename runtime.json so that no later one replaces it; returns its new path."""
        names = (self.path / f"runtime.json.refused-{number}" for number in itertools.count(1))
        aside = next(path for path in names if not path.exists())
        return self.runtime_path.rename(aside)

    def clear(self):
        """Forget what ran of the file: nothing runs any more."""
        self.running_path.unlink(missing_ok=True)
        self._written.pop(self.running_path, None)

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
