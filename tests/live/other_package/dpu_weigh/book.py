"""Scales into rows, and what is said of heavy packets."""

import logging

from dpu_runtime.functions.book import Book
from dpu_weigh.tables import SCALES_MAX

log = logging.getLogger("dpu.weigh")


async def say(packet):
    """A heavy packet, as the daemon gets it."""
    log.warning("heavy: %d octets, from port %d", packet.tag, packet.in_port)


def active(items, _settings):
    """At ports that have a scale."""
    ports = {scale.port for scale in items["scale"]}
    return lambda _stage, port: port.name in ports


class ScaleBook(Book):
    """A row a scale, in the order of the configuration; a scale's counters are its row's."""

    def __init__(self, function, tables, ports, workers, notes=None):
        super().__init__(function, tables, ports, workers, notes)
        self._rows = dict(notes or {})

    def publish(self, items, _settings, numbers):
        """One scale a port."""
        scales = items["scale"]
        if len(scales) > SCALES_MAX:
            raise ValueError(f"{len(scales)} scales, at most {SCALES_MAX}")
        for row, scale in enumerate(scales):
            port = numbers["port"][scale.port]
            self.tables.heavy[port], self.tables.scale[port] = scale.heavy, row
            self.tables.report[port] = scale.report
        self._rows = {scale.name: row for row, scale in enumerate(scales)}

    def counters(self):
        """Packets and octets by scale."""
        weighed = self.tables.weighed[: self.workers].sum(axis=0).tolist()
        return {"scale": {name: tuple(weighed[row]) for name, row in self._rows.items()}}

    def notes(self):
        """Rows by name."""
        return self._rows
