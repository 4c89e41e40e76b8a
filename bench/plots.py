"""Pictures of measured figures: what each script compared, as bars with the spread of their repeats.

Colours: the DPU's bars stand out, a peer's are grey; the line at 1 of a ratio is as fast as the peer.
"""

import re
from functools import partial

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.results import Result, times_better

mpl.rcParams["svg.fonttype"] = "none"  # text stays text
mpl.rcParams["svg.hashsalt"] = "dpu"  # the same figures, the same file

OURS, PEER, LINE = "#1f6f8b", "#b8bfc6", "#c0392b"
VERDICTS = {"ahead": OURS, "tie": PEER, "behind": LINE}
ROW_INCHES, WIDTH_INCHES, HEAD_INCHES, LINES_INCHES = 0.28, 9.0, 1.1, 3.2
LINE_ROW = re.compile(r"(?P<group>[^:]+), (?P<x>[\d,]+): (?P<series>.+)")
STACK_COLORS = mpl.colormaps["tab20"].colors
SIMULATED = "simulated"  # in the name of what a model says
FORMATS = ("svg", "png")
# Ends of names that only the table has.
LEFT_OUT = (", sent", ", lost", ", retransmitted", ", round trips", ", stream beside", "that others had")


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


def _bar_panels(results, _plot):
    """A panel a unit, ratios first."""
    for unit, rows in _by_unit(results).items():
        yield HEAD_INCHES + ROW_INCHES * len(rows), partial(_bars, unit=unit, rows=rows)


def _lines(axes, group, series, axis):
    """One line a series over a logarithmic axis, with the spread of the repeats; dashed: not measured."""
    for number, (name, rows) in enumerate(series.items()):
        places, medians, low, high = zip(*((x, r.median, r.low, r.high) for x, r in rows), strict=True)
        style = "--" if SIMULATED in name else "-"
        color = OURS if name.startswith("DPU") else PEER
        axes.plot(places, medians, style, color=color, marker="os^Dv"[number % 5], ms=4, lw=1.2, label=name)
        axes.fill_between(places, low, high, color=color, alpha=0.2, lw=0)
    axes.set_xscale("log")
    ticks = sorted({x for rows in series.values() for x, _ in rows})
    axes.set_xticks(ticks, [f"{x:,}" for x in ticks], fontsize=7)
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.set_title(group, fontsize=8)
    axes.set_xlabel(axis, fontsize=8)
    axes.set_ylabel(next(iter(series.values()))[0][1].unit, fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)


def _line_panels(results, plot):
    """A panel a group of rows `group, x: series`, then ratios as bars; plot["x"]: what a group grows by."""
    groups = {}
    for row in results:
        if row.unit != "x" and not row.name.endswith(LEFT_OUT) and (match := LINE_ROW.fullmatch(row.name)):
            series = groups.setdefault(match["group"], {}).setdefault(match["series"], [])
            series.append((int(match["x"].replace(",", "")), row))
    for group, series in groups.items():
        yield LINES_INCHES, partial(_lines, group=group, series=series, axis=plot["x"].get(group, ""))
    yield from _bar_panels([row for row in results if row.unit == "x"], plot)


def _stack(axes, unit, bars, colors):
    """One bar a name, its parts beside each other in the order of `colors`; behind it how long it is."""
    places, ends = range(len(bars), 0, -1), [0.0] * len(bars)
    for part, color in colors.items():
        if not any(part in rows for rows in bars.values()):
            continue
        widths = [rows[part].median if part in rows else 0.0 for rows in bars.values()]
        axes.barh(places, widths, left=ends, color=color, height=0.7, label=part)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for place, end in zip(places, ends, strict=True):
        axes.text(end, place, f" {end:,.0f}", va="center", fontsize=7)
    axes.set_yticks(places, list(bars), fontsize=7)
    axes.set_ylim(0.3, len(bars) + 0.7)
    axes.set_xlim(right=1.08 * max(ends))
    axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1))


def _stacked_panels(results, plot):
    """A panel a group of rows `group, ...: part` of one unit; plot["whole"]: the part that is all of it."""
    groups, parts = {}, {}
    for row in results:
        bar, _, part = row.name.rpartition(": ")
        if row.unit != "x" and bar and part != plot.get("whole"):
            bars = groups.setdefault((bar.partition(",")[0], row.unit), {})
            bars.setdefault(bar, {})[part] = row
            parts.setdefault(part, STACK_COLORS[len(parts) % len(STACK_COLORS)])
    for (_, unit), bars in groups.items():
        yield HEAD_INCHES + ROW_INCHES * len(bars), partial(_stack, unit=unit, bars=bars, colors=parts)
    yield from _bar_panels([row for row in results if row.unit == "x"], plot)


# By `plot["kind"]` of a JSON file: a function of (results, plot) that yields (inches, function of axes).
PANELS = {"bars": _bar_panels, "lines": _line_panels, "stacked": _stacked_panels}


def draw(name, data, folder, formats=FORMATS):
    """Draw what a script measured, `data` of its JSON file, to `folder`; returns the paths written."""
    plot = data.get("plot", {"kind": "bars"})
    panels = list(PANELS[plot["kind"]]([Result(**row) for row in data["results"]], plot))
    heights = [inches for inches, _ in panels]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
    for one, (_, panel) in zip(axes[:, 0], panels, strict=True):
        panel(one)
    where = f"{data['machine']}, {data['cpus']} CPUs, Linux {data['kernel']}, commit {data['commit']}"
    figure.suptitle(f"bench/{name}.py\n{where}", fontsize=9)
    paths = [folder / f"{name}.{ending}" for ending in formats]
    for path in paths:
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def draw_ratios(named, path, inches=0.2, points=6):
    """Draw [(text, Result)] that are ratios to `path`: how many times better than the peer."""
    figure = Figure(figsize=(WIDTH_INCHES, HEAD_INCHES + inches * len(named)), layout="constrained")
    axes = figure.subplots()
    places = range(len(named), 0, -1)
    for place, (_, row) in zip(places, named, strict=True):
        better, *ends = times_better(row)
        axes.barh(place, better - 1, left=1, color=VERDICTS[row.verdict], height=0.7)
        axes.plot(ends, [place, place], color="black", lw=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_yticks(places, [name for name, _ in named], fontsize=points)
    axes.set_ylim(0.3, len(named) + 0.7)
    axes.set_xlabel("times better than the peer; red: behind, grey: tie", fontsize=8)
    axes.tick_params(axis="x", labelsize=7, top=True, labeltop=True)
    axes.axvline(1, color="black", lw=0.8)
    axes.spines[["right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
