"""Figures beside the committed ones, in one table."""

from dataclasses import dataclass

from bench.results import aligned, figure


@dataclass(frozen=True)
class Row:
    """A figure of now beside the committed one.

    now    None: it was not measured
    word   of one that is good enough begins with "ok"
    """

    name: str
    committed: float
    now: float | None
    word: str

    @property
    def failed(self):
        """Whether it is reason to fail."""
        return not self.word.startswith("ok")


def table(rows_by_script):
    """Text with one line a Row."""
    lines = [("script", "figure", "committed", "now", "now/committed", "")]
    for script, rows in rows_by_script.items():
        for row in rows:
            now = ("-", "-") if row.now is None else (figure(row.now), f"{row.now / row.committed:.2f}")
            lines.append((script, row.name, figure(row.committed), *now, row.word))
    return aligned(lines, words=(0, 1, 5))
