"""Files that a crash leaves whole: one that is replaced, and one that changes are added to.

A change is an object {kind: {key: value}}, with null for a key that goes. One after another they make
tables, of the same form, in which keys have the order in which they came.
"""

import json
import os
from pathlib import Path

from dpu_runtime.config.errors import DaemonError

CHANGES_MIN = 1000  # added to a journal before it is written anew; more if it has more entries


def replay(changes):
    """Return the tables that `changes` make."""
    tables = {}
    for change in changes:
        for kind, entries in change.items():
            table = tables.setdefault(kind, {})
            for key, value in entries.items():
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value
    return tables


class Journal:
    """Tables in the file at `path`: a line with the version, then one a change, all JSON.

    So a change costs what it is, not what is there; now and then the file is written anew, a line an entry.
    A line that a crash cut short has no end, and does not count.
    """

    def __init__(self, path, version):
        self.path = Path(path)
        self._version = version
        self._tables = None  # what the file has, as JSON texts; None: not known
        self._added = 0

    def load(self):
        """Return the tables, {} if there is no file. Raises DaemonError."""
        try:
            first, *lines = self.path.read_bytes().split(b"\n")
            version = json.loads(first)["version"]
            if version != self._version:
                raise DaemonError(f"{self.path}: version {version}, not {self._version}")
            return replay(map(json.loads, lines[:-1]))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DaemonError(f"{self.path} cannot be read: {error!r}") from None

    def write(self, tables):
        """Have the file hold `tables`, {kind: {key: JSON text}}; on disk when this returns. Or OSError."""
        before, self._tables = self._tables, None
        change = _change(before, tables)
        if change is None or (change and not self._add(change, sum(map(len, tables.values())))):
            lines = [b'{"version": %d}\n' % self._version]
            for kind, table in tables.items():
                lines += [_line({kind: {key: text}}) for key, text in table.items()]
            write_atomically(self.path, b"".join(lines))
            self._added = 0
        self._tables = tables

    def _add(self, change, entries):
        """Add a line; False when the file has many, or may end with a part of this one."""
        if self._added >= max(CHANGES_MIN, entries):
            return False
        try:
            with self.path.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(_line(change))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            return False
        self._added += 1
        return True


def _change(before, after):
    """Return the change from one to the other, None if no change makes the same order."""
    if before is None:
        return None
    change = {}
    for kind, table in after.items():
        old = before[kind]
        entries = {key: "null" for key in old if key not in table}
        stay = [key for key in old if key in table]
        entries |= {key: text for key, text in table.items() if old.get(key) != text}
        if list(table) != stay + [key for key in table if key not in old]:
            return None
        if entries:
            change[kind] = entries
    return change


def _line(change):
    """A change of JSON texts as a line."""
    kinds = (
        f"{json.dumps(kind)}: {{{', '.join(f'{json.dumps(key)}: {text}' for key, text in entries.items())}}}"
        for kind, entries in change.items()
    )
    return f"{{{', '.join(kinds)}}}\n".encode()


def write_atomically(path, data, mode=0o640):
    """Replace the file at `path`; after a crash it holds the old octets or the new ones.

    Raises OSError with `path`, which a full disk does not say by itself.
    """
    path = Path(path)
    try:
        _replace(path, data, mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(path, data, mode):
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
