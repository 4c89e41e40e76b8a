"""Figures beside the committed ones, in one table."""

from dataclasses import dataclass

from bench.results import aligned, figure

NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Row:
    """A figure of now beside the committed one.

    committed  None: nothing that it can be compared with
    now        None: it was not measured
    word       of one that is good enough begins with "ok", of one that cannot be judged with NOT_COMPARED
    """

    name: str
    committed: float | None
    now: float | None
    word: str

    @property
    def failed(self):
        """Whether it is reason to fail."""
        return not self.word.startswith(("ok", NOT_COMPARED))

    @property
    def left(self):
        """Whether it could not be judged."""
        return self.word.startswith(NOT_COMPARED)


def table(rows_by_script):
    """Text with one line a Row."""
    lines = [("script", "figure", "committed", "now", "now/committed", "")]
    for script, rows in rows_by_script.items():
        for row in rows:
            both = row.now is not None and row.committed is not None
            share = f"{row.now / row.committed:.2f}" if both else "-"
            sides = ("-" if value is None else figure(value) for value in (row.committed, row.now))
            lines.append((script, row.name, *sides, share, row.word))
    return aligned(lines, words=(0, 1, 5))
