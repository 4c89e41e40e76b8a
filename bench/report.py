"""Write the measured figures into README.md and bench/README.md, from the JSON that the scripts left.

    python -m bench.report            take bench/out/*.json into bench/figures/, write both documents
    python -m bench.report --check    exit 1 when a document does not say what bench/figures/ says

No figure in a document is typed: what stands between the markers comes from here.
"""

import argparse
import json
import re
import shutil
import sys

from bench.plots import draw, draw_ratios
from bench.possible import derived
from bench.results import OUT, ROOT, Result, compared, figure

FIGURES = ROOT / "bench" / "figures"
ANY = re.compile(".*")
BEGIN, END = "<!-- figures: begin, generated -->", "<!-- figures: end -->"
# README.md shows a newcomer some ratios, and some figures that have no peer; bench/README.md everything.
HEADLINE_RATIOS = {
    "tcp_containers": re.compile(r".*: DPU / (?!veth).*"),
    "udp_containers": re.compile(r".*: DPU / (bridge|OVS)"),
    "latency": re.compile(r"(ping -A|.*ping-pong|TCP.*beside.*), p(50|99): DPU / (bridge|OVS)"),
    "applications": re.compile(r".*(?<!p99): DPU / bridge"),
    "vhost_user": re.compile(r".*, (64|1500) B: DPU.* / .*(io|OVS.*)"),
    "vhost_tso": re.compile(r"port to port, .*: DPU.* / .*"),
    "kernel_ports": re.compile(r".*: DPU.* / .*"),
    "kernel_ports_tcp": re.compile(r"TCP: DPU, .* / .*"),
    "ndr": re.compile(r"NDR: DPU.* / .*"),
    "kernels_peers": re.compile(r".*: ours / (DPDK|ISA-L crc32_iscsi|memcpy).*|parse, IMIX: ours / .*"),
}
HEADLINES = {
    "recovery": ANY,
    "start": ANY,
    "idle": ANY,
    "host_programs": re.compile(r"64 B: .*(polling|dpu_wait)|.*polling, p(50|99)"),
    "vhost_reconnect": re.compile(r".*(restarts|to the first packet|lost, mean|leaked)"),
    "attach": ANY,
    "soak_attach": re.compile(r"cycles|a cycle|.*memory"),
}
OVERVIEW = "ratios.svg"  # of the first, for README.md
PICTURES = ("growth", "stages")  # drawn beside the figures, for bench/README.md


def load_figures(folder=FIGURES):
    """Data of every script that was taken, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _where(data):
    load = f"load {data['load'][0]} at the start"
    return f"{data['machine']}, {data['cpus']} CPUs, Linux {data['kernel']}, commit {data['commit']}, {load}"


def section(name, data, shown=ANY):
    """Markdown of one script's figures, those whose names match `shown`."""
    rows = [Result(**fields) for fields in data["results"]]
    lines = [f"`bench/{name}.py` ({_where(data)}):", ""]
    if name in PICTURES:
        lines += [f"![{name}](figures/{name}.svg)", ""]
    lines += ["| figure | median | lowest | highest | unit |", "| --- | ---: | ---: | ---: | --- |"]
    lines += [
        f"| {r.name} | {figure(r.median)} | {figure(r.low)} | {figure(r.high)} | {r.unit} |"
        for r in rows
        if shown.fullmatch(r.name)
    ]
    return "\n".join(lines)


def block(figures, shown):
    """Markdown of the scripts of `shown`, {script: pattern of names}, that were measured."""
    return "\n\n".join(
        section(name, figures[name], names) for name, names in shown.items() if name in figures
    )


def ratios(figures, shown=None):
    """(data, Results) of the ratios of each script that was measured, by name.

    shown  {script: pattern of names}; None: all
    """
    shown = dict.fromkeys(figures, ANY) if shown is None else shown
    for name in (name for name in shown if name in figures):
        rows = [Result(**row) for row in figures[name]["results"]]
        yield name, [row for row in rows if row.ours is None or shown[name].fullmatch(row.name)]


def compared_figures(figures, shown=None):
    """Markdown of ratios: ours, the peer's, what is possible, and how that is derived; "" without any.

    shown  {script: pattern of names}; None: all

    Possible is what bench/limits.py measured on the same machine; on others it says nothing.
    """
    limits = figures.get("limits")
    lines, ways = [], {}
    for name, made in ratios(figures, shown):
        here = {name: made}
        if limits and _machine(limits) == _machine(figures[name]):
            here["limits"] = [Result(**row) for row in limits["results"]]
        for row in compared(here):
            way = derived(name, row[1]) if row[4] != "-" else ""
            mark = f"[{ways.setdefault(way, len(ways) + 1)}]" if way else ""
            lines.append("| " + " | ".join((*row[:4], f"{row[4]} {mark}".strip(), *row[5:])) + " |")
    if not lines:
        return ""
    head = [
        "*Possible* is a floor of the machine, made of what `bench/limits.py` measured on it:",
        "",
    ]
    head += ["| script | figure | ours | peer | possible | unit | ratio | lowest | highest | |"]
    head += ["| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | --- |"]
    return "\n".join([*head, *lines, "", *(f"[{number}] {way}.  " for way, number in ways.items())])


def _machine(data):
    return data["machine"], data["cpus"], data["kernel"]


def _machines(figures, shown):
    """Where the scripts of `shown` were measured, a line a machine."""
    machines = {}
    for name in (name for name in shown if name in figures):
        data = figures[name]
        machine = f"{data['machine']}, {data['cpus']} CPUs, Linux {data['kernel']}"
        machines.setdefault(machine, []).append(f"`{name}`")
    return "  \n".join(f"Measured on {machine}: {', '.join(names)}." for machine, names in machines.items())


def with_block(text, generated):
    """`text` with what stands between its markers replaced. Raises ValueError without markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{generated}\n{END}{after}"


def documents(figures):
    """What each generated document should say: path -> text."""
    readme = (
        f"![Ratios to peers](bench/figures/{OVERVIEW})",
        compared_figures(figures, HEADLINE_RATIOS),
        _machines(figures, HEADLINE_RATIOS),
        block(figures, HEADLINES),
    )
    everything = compared_figures(figures), block(figures, dict.fromkeys(figures, ANY))
    blocks = {
        ROOT / "README.md": "\n\n".join(filter(None, readme)),
        ROOT / "bench" / "README.md": "\n\n".join(filter(None, everything)),
    }
    return {path: with_block(path.read_text(), text) for path, text in blocks.items()}


def draw_pictures(figures):
    """Draw those of both documents, beside the figures."""
    for name in PICTURES:
        if name in figures:
            draw(name, figures[name], FIGURES, ("svg",))
    shown = ratios(figures, HEADLINE_RATIOS)
    rows = {name: [row for row in made if row.ours is not None] for name, made in shown}
    draw_ratios(rows, FIGURES / OVERVIEW)


def main():
    """Take new figures and write the documents, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing, exit 1 when a document is stale"
    )
    check = parser.parse_args().check
    if not check:
        for path in OUT.glob("*.json"):
            shutil.copy(path, FIGURES / path.name)
        draw_pictures(load_figures())
    stale = 0
    for path, text in documents(load_figures()).items():
        if path.read_text() == text:
            continue
        stale += 1
        if check:
            print(f"{path.relative_to(ROOT)} is stale: run python -m bench.report", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"written: {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
