"""The state directory: one daemon's lock, and what it last had running.

dpu.lock      held while the daemon lives; holds its process number
running.json  what runs of the configuration file, for the daemon that adopts a running data plane; if that
              file was applied, for every later daemon
applied.toml  what was applied before another configuration file won, for the user to apply again
runtime.json  ports and items made at run time, for every later daemon, as the changes to them, durable.py

Nothing is in both running.json and runtime.json.
"""

import contextlib
import fcntl
import itertools
import json
import os
from collections import defaultdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dpu_runtime.config.errors import ConfigError, DaemonError
from dpu_runtime.config.file import problems
from dpu_runtime.config.models import AnyPort, Config, PortConfig, RuntimeConfig
from dpu_runtime.config.places import LOCK, RUNNING
from dpu_runtime.control.durable import Journal, write_atomically
from dpu_runtime.control.json_texts import JsonTexts
from dpu_runtime.control.origin import Applied, Kept

RUNNING_VERSION = 1  # of running.json; another version is refused, not guessed at
RUNTIME_VERSION = 2  # of runtime.json, likewise


class StateDir:
    """A locked state directory."""

    def __init__(self, path):
        self.path = Path(path)
        self.running_path = self.path / RUNNING
        self._runtime = Journal(self.path / "runtime.json", RUNTIME_VERSION)
        self._written = None  # octets of running.json, so that an unchanged file is left alone
        self._lasts = True  # what running.json has, until this process has written it
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
        with contextlib.suppress(OSError):  # a full disk: the number is for that message only
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def save(self, config, applied=None):
        """Write what runs of the configuration file: the old file or the new one is there, never a part.

        applied  the `Applied` if that file was applied, not started with
        """
        parts = [f'"runtime": {config.runtime.model_dump_json(exclude_none=True)}']
        parts += [f'"{key}": {self._array(key, getattr(config, key))}' for key in _keys()]
        mark = "" if applied is None else f', "applied": {{"file": {json.dumps(applied.file)}}}'
        data = f'{{"version": {RUNNING_VERSION}, "config": {{{", ".join(parts)}}}{mark}}}\n'.encode()
        if self._written != data:
            write_atomically(self.running_path, data)
            self._written, self._lasts = data, applied is not None

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
        data = self._running()
        try:
            return None if data is None else Config.model_validate(data["config"])
        except ValidationError as error:
            raise DaemonError(f"{self.running_path} cannot be read: {error}") from None

    def load_applied(self):
        """Return what was applied and lasts, None if nothing; `kept.refused` has what is not valid.

        Raises DaemonError.
        """
        data = self._running()
        if data is None or data.get("applied") is None:
            return None
        config, kept, settings = data["config"], Kept(), {}
        for key in RuntimeConfig.CHANGING:
            if key in config.get("runtime", {}):
                value = config["runtime"][key]
                try:
                    settings[key] = getattr(RuntimeConfig(**{key: value}), key)
                except ValidationError as error:
                    kept.refused.append(f"runtime: {ConfigError(problems(error, RuntimeConfig))}")
        lists = {key: items for key, items in config.items() if key != "runtime"}
        _read(kept, {key: {item.get("name"): item for item in items} for key, items in lists.items()})
        return Applied(data["applied"].get("file"), kept, settings)

    def _running(self):
        """What running.json has, None without one. Raises DaemonError."""
        try:
            data = json.loads(self.running_path.read_bytes())
            if data["version"] != RUNNING_VERSION:
                raise DaemonError(f"{self.running_path}: version {data['version']}, not {RUNNING_VERSION}")
            if not (_is_table(data["config"]) and isinstance(data.get("applied", {}), dict)):
                raise TypeError("not a configuration")
            return data
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DaemonError(f"{self.running_path} cannot be read: {error}") from None

    def load_kept(self):
        """Return what was made at run time; `refused` says what of it is not valid. Raises DaemonError."""
        tables = self._runtime.load()
        kept = Kept(processes=tables.pop("process", {}))
        _read(kept, tables)
        return kept

    def set_aside(self):
        """Rename runtime.json so that no later one replaces it; returns its new path."""
        return self._runtime.path.rename(_aside(self._runtime.path))

    def set_aside_running(self):
        """Give running.json a second name, so that what replaces it does not end it; returns that path."""
        aside = _aside(self.running_path)
        os.link(self.running_path, aside)
        return aside

    def put_by(self, text):
        """Write applied.toml; returns its path. Raises OSError."""
        path = self.path / "applied.toml"
        write_atomically(path, text.encode())
        return path

    def clear(self):
        """Forget what ran of the file, as nothing runs any more; what was applied lasts."""
        if not self._lasts:
            self.running_path.unlink(missing_ok=True)
        self._written, self._lasts = None, True

    def forget(self):
        """Forget what was applied and what was made at run time."""
        self.running_path.unlink(missing_ok=True)
        self._runtime.path.unlink(missing_ok=True)

    def close(self):
        """Give the lock back; twice is allowed."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _read(kept, tables):
    """Add what is in `tables`, {section: {name: data}}, to `kept`, and what is not valid to its `refused`."""
    models = {section.key: section.model for section in Config.SECTIONS}
    for key in _keys():
        adapter = TypeAdapter(models.get(key, AnyPort))
        for name, item in tables.get(key, {}).items():
            try:
                kept.add(key, adapter.validate_python(item))
            except ValidationError as error:
                kept.refused.append(
                    f"{key} {name}: {ConfigError(problems(error, models.get(key, PortConfig)))}"
                )
    for key in [key for key in tables if key not in _keys()]:
        kept.refused += [f"{key} {name}: no function that is installed has a {key}" for name in tables[key]]


def _aside(path):
    """A path beside `path` that is not there."""
    names = (path.with_name(f"{path.name}.refused-{number}") for number in itertools.count(1))
    return next(aside for aside in names if not aside.exists())


def _is_table(config):
    """Whether `config` has lists of tables, and nothing else but perhaps [runtime]."""
    if not isinstance(config, dict):
        return False
    lists = [items for key, items in config.items() if key != "runtime"]
    return isinstance(config.get("runtime", {}), dict) and all(
        isinstance(items, list) and all(isinstance(item, dict) for item in items) for items in lists
    )


def _keys():
    """Lists of a configuration, in the order in which they are written."""
    return ("port", *(section.key for section in Config.SECTIONS))
