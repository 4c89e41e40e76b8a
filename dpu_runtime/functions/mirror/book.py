"""Mirrors on their way into the tables."""

import numpy as np

from dpu_runtime.functions.book import Book
from dpu_runtime.kernels.mirror.layout import IN, MIRRORS_MAX, NO_RULE, OUT

WAYS = {"in": (IN,), "out": (OUT,), "both": (IN, OUT)}
WAY_OF = {"mirror_in": IN, "mirror_out": OUT}


def active(items, _settings):
    """Which stages are on at a port: the copies of what is mirrored there, those of rules everywhere."""
    mirrors = items["mirror"]
    of_ports = {(mirror.port, way) for mirror in mirrors for way in WAYS[mirror.direction]}
    of_rules = any(mirror.rule is not None for mirror in mirrors)

    def is_on(stage, port):
        return (port.name, WAY_OF[stage]) in of_ports if stage in WAY_OF else of_rules

    return is_on


class MirrorBook(Book):
    """The mirrors in force, and which row each of them has; rows are kept by name, so counters go on."""

    def __init__(self, function, tables, ports, workers, notes=None):
        super().__init__(function, tables, ports, workers, notes)
        notes = notes or {}
        self._rows = dict(notes.get("rows", {}))
        self._before = {int(row): tuple(counts) for row, counts in notes.get("before", {}).items()}

    def notes(self):
        """JSON data for the next control process: rows by name, and what their counters said before."""
        return {"rows": self._rows, "before": self._before}

    def publish(self, items, _settings, numbers):
        """Put the mirrors in force. Raises ValueError, with nothing changed, when there are too many."""
        mirrors = items["mirror"]
        if len(mirrors) > MIRRORS_MAX:
            raise ValueError(f"{len(mirrors)} mirrors, at most {MIRRORS_MAX}")
        rows, before = self._assign([mirror.name for mirror in mirrors])
        half = (int(self.tables.version[0]) + 1) & 1
        table, of_port = self.tables.mirrors[half], self.tables.of_port[half]
        table[:], of_port[:] = 0, 0
        for mirror in mirrors:
            row = rows[mirror.name]
            rule = NO_RULE if mirror.rule is None else numbers["rule"][mirror.rule] + 1
            table[row] = numbers["port"][mirror.to], mirror.octets or 0, rule, 0
            if mirror.port is not None:
                of_port[numbers["port"][mirror.port], WAYS[mirror.direction]] |= np.uint64(1 << row)
        self.tables.count[half] = max(rows.values(), default=-1) + 1
        self.tables.version[0] += np.uint64(1)
        self._rows, self._before = rows, before

    def counters(self):
        """{"mirror": {name: (packets, octets)}}, since the mirror was made."""
        counted = self._counted()
        return {
            "mirror": {
                name: tuple(int(n) - was for n, was in zip(counted[row], self._before[row], strict=True))
                for name, row in self._rows.items()
            }
        }

    def _assign(self, names):
        """Rows by name: a name keeps its own, new ones get free ones, counted from now on."""
        rows = {name: self._rows[name] for name in names if name in self._rows}
        free = iter(sorted(set(range(MIRRORS_MAX)) - set(rows.values())))
        before = {row: self._before[row] for row in rows.values()}
        counted = self._counted()
        for name in names:
            if name not in rows:
                rows[name] = next(free)
                before[rows[name]] = tuple(counted[rows[name]])
        return rows, before

    def _counted(self):
        return self.tables.copied.sum(axis=0).tolist()
