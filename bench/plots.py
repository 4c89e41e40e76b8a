"""Pictures of measured figures: what each script compared, as bars with the spread of their repeats.

Colours: the DPU's bars stand out, a peer's are grey; the line at 1 of a ratio is as fast as the peer.
"""

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.results import Result

mpl.rcParams["svg.fonttype"] = "none"  # text stays text
mpl.rcParams["svg.hashsalt"] = "dpu"  # the same figures, the same file

OURS, PEER, LINE = "#1f6f8b", "#b8bfc6", "#c0392b"
ROW_INCHES, WIDTH_INCHES, HEAD_INCHES = 0.28, 9.0, 1.1
FORMATS = ("svg", "png")
LEFT_OUT = (", sent", ", lost", ", retransmitted", "that others had")  # ends of names that only the table has


def _by_unit(results):
    """Results by unit, ratios first, without those that are LEFT_OUT."""
    shown = [row for row in results if not row.name.endswith(LEFT_OUT)]
    units = dict.fromkeys(sorted((row.unit for row in shown), key=lambda unit: unit != "x"))
    return {unit: [row for row in shown if row.unit == unit] for unit in units}


def _bars(axes, unit, rows):
    """One bar a result, its whisker from the lowest to the highest repeat."""
    places = range(len(rows), 0, -1)
    medians = [row.median for row in rows]
    spread = [
        [max(0.0, row.median - row.low) for row in rows],
        [max(0.0, row.high - row.median) for row in rows],
    ]
    colors = [OURS if "DPU" in row.name or unit == "x" else PEER for row in rows]
    axes.barh(places, medians, xerr=spread, color=colors, height=0.7, error_kw={"lw": 0.8, "capsize": 2})
    axes.set_yticks(places, [row.name for row in rows], fontsize=7)
    axes.set_ylim(0.3, len(rows) + 0.7)
    axes.set_xlabel("ours / theirs" if unit == "x" else unit, fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if unit == "x":
        axes.axvline(1, color=LINE, lw=1)


def draw(name, data, folder):
    """Draw what a script measured, `data` of its JSON file, to `folder`; returns the paths written."""
    groups = _by_unit([Result(**row) for row in data["results"]])
    heights = [HEAD_INCHES + ROW_INCHES * len(rows) for rows in groups.values()]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), layout="constrained")
    axes = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False)
    for one, (unit, rows) in zip(axes[:, 0], groups.items(), strict=True):
        _bars(one, unit, rows)
    where = f"{data['machine']}, {data['cpus']} CPUs, Linux {data['kernel']}, commit {data['commit']}"
    figure.suptitle(f"bench/{name}.py\n{where}", fontsize=9)
    paths = [folder / f"{name}.{ending}" for ending in FORMATS]
    for path in paths:
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths
