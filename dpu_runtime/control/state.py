"""The state directory: one daemon's lock, and what it last had running.

dpu.lock      held while the daemon lives; holds its process number
running.json  what runs of the configuration file, for the daemon that adopts a running data plane
runtime.json  ports and items made at run time, for every later daemon, as the changes to them, durable.py

Nothing is in both files.
"""

import fcntl
import itertools
import json
import os
from collections import defaultdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dpu_runtime.config.errors import ConfigError, DaemonError
from dpu_runtime.config.file import problems
from dpu_runtime.config.models import AnyPort, Config, PortConfig
from dpu_runtime.config.places import LOCK, RUNNING
from dpu_runtime.control.durable import Journal, write_atomically
from dpu_runtime.control.json_texts import JsonTexts
from dpu_runtime.control.origin import Kept

RUNNING_VERSION = 1  # of running.json; another version is refused, not guessed at
RUNTIME_VERSION = 2  # of runtime.json, likewise


class StateDir:
    """A locked state directory."""

    def __init__(self, path):
        self.path = Path(path)
        self.running_path = self.path / RUNNING
        self._runtime = Journal(self.path / "runtime.json", RUNTIME_VERSION)
        self._written = None  # octets of running.json, so that an unchanged file is left alone
        self._texts = defaultdict(JsonTexts)
        self._lock = None

    def lock(self):
        """Make the directory and take its lock. Raises DaemonError naming the daemon that has it."""
        lock_path = self.path / LOCK
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
        parts = [f'"runtime": {config.runtime.model_dump_json(exclude_none=True)}']
        parts += [f'"{key}": {self._array(key, getattr(config, key))}' for key in _keys()]
        data = f'{{"version": {RUNNING_VERSION}, "config": {{{", ".join(parts)}}}}}\n'.encode()
        if self._written != data:
            write_atomically(self.running_path, data)
            self._written = data

    def keep(self, kept):
        """Write what was made at run time; on disk before anybody is told that it is there."""
        self._runtime.write(
            {
                **{key: self._table(key, kept.of(key)) for key in _keys()},
                "process": {name: json.dumps(identity) for name, identity in kept.processes.items()},
            }
        )

    def _array(self, kind, models):
        return "[" + ",\n".join(self._texts[kind].of(models)) + "]"

    def _table(self, kind, models):
        texts = self._texts[f"kept {kind}"].of(models)
        return {model.name: text for model, text in zip(models, texts, strict=True)}

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
        tables = self._runtime.load()
        kept = Kept(processes=tables.pop("process", {}))
        models = {section.key: section.model for section in Config.SECTIONS}
        for key in _keys():
            adapter = TypeAdapter(models.get(key, AnyPort))
            for name, item in tables.pop(key, {}).items():
                try:
                    kept.add(key, adapter.validate_python(item))
                except ValidationError as error:
                    why = ConfigError(problems(error, models.get(key, PortConfig)))
                    kept.refused.append(f"{key} {name}: {why}")
        for key, table in tables.items():
            kept.refused += [f"{key} {name}: no function that is installed has a {key}" for name in table]
        return kept

    def set_aside(self):
        """Rename runtime.json so that no later one replaces it; returns its new path."""
        names = (self.path / f"runtime.json.refused-{number}" for number in itertools.count(1))
        aside = next(path for path in names if not path.exists())
        return self._runtime.path.rename(aside)

    def clear(self):
        """Forget what ran of the file: nothing runs any more."""
        self.running_path.unlink(missing_ok=True)
        self._written = None

    def close(self):
        """Give the lock back; twice is allowed."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _keys():
    """Lists of a configuration, in the order in which they are written."""
    return ("port", *(section.key for section in Config.SECTIONS))
