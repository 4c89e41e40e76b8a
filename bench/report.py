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

from bench.possible import derived
from bench.results import OUT, ROOT, Result, compared, figure

FIGURES = ROOT / "bench" / "figures"
BEGIN, END = "<!-- figures: begin, generated -->", "<!-- figures: end -->"
# README.md shows a newcomer these, bench/README.md everything.
HEADLINES = (
    "tcp_containers",
    "latency",
    "recovery",
    "start",
    "idle",
    "vhost_user",
    "vhost_tso",
    "host_programs",
    "vhost_reconnect",
    "kernel_ports",
    "kernel_ports_tcp",
    "attach",
    "soak_attach",
)
# Of those with many cases, README.md shows the figures whose names match.
HEADLINE_ROWS = {
    "vhost_user": re.compile(r".*, 64 B: (?!.*lost).*|.*, 1500 B: DPU.* / .*"),
    "vhost_tso": re.compile(r"port to port, .*: ([^/]*(bare|io|rules)|DPU.* / .*)"),
    "host_programs": re.compile(r"64 B: .*(polling|dpu_wait)|.*polling, p(50|99)"),
    "vhost_reconnect": re.compile(r".*(restarts|to the first packet|lost, mean|leaked)"),
    "kernel_ports": re.compile(r"(64 B: (?!.*, (sent|lost))|1500 B: .*octets|1500 B: DPU.* / ).*"),
    "soak_attach": re.compile(r"cycles|a cycle|.*memory"),
}
DETAIL_UNITS = ("cycles a packet", "octets")  # not for README.md


def load_figures(folder=FIGURES):
    """Data of every script that was taken, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _where(data):
    load = f"load {data['load'][0]} at the start"
    return f"{data['machine']}, {data['cpus']} CPUs, Linux {data['kernel']}, commit {data['commit']}, {load}"


def section(name, data, hidden_units=(), shown=None):
    """Markdown of one script's figures, but for those in `hidden_units`; `shown`: names that match it."""
    rows = [Result(**fields) for fields in data["results"] if fields["unit"] not in hidden_units]
    rows = [row for row in rows if shown is None or shown.fullmatch(row.name)]
    lines = [f"`bench/{name}.py` ({_where(data)}):", ""]
    lines += ["| figure | median | lowest | highest | unit |", "| --- | ---: | ---: | ---: | --- |"]
    lines += [
        f"| {r.name} | {figure(r.median)} | {figure(r.low)} | {figure(r.high)} | {r.unit} |" for r in rows
    ]
    return "\n".join(lines)


def block(figures, names, hidden_units=(), shown=None):
    """Markdown between the markers, of the scripts `names` that were measured; `shown`: pattern by script."""
    shown = shown or {}
    return "\n\n".join(
        section(name, figures[name], hidden_units, shown.get(name)) for name in names if name in figures
    )


def compared_figures(figures):
    """Markdown of every ratio: ours, the peer's, what is possible, and how that is derived; "" without any.

    Possible is what bench/limits.py measured on the same machine; on others it says nothing.
    """
    results = {name: [Result(**row) for row in data["results"]] for name, data in figures.items()}
    limits = figures.get("limits")
    lines, ways = [], {}
    for name, made in results.items():
        here = {name: made}
        if limits and _machine(limits) == _machine(figures[name]):
            here["limits"] = results["limits"]
        for row in compared(here):
            way = derived(name, row[1]) if row[4] != "-" else ""
            mark = f"[{ways.setdefault(way, len(ways) + 1)}]" if way else ""
            lines.append("| " + " | ".join((*row[:4], f"{row[4]} {mark}".strip(), *row[5:])) + " |")
    if not lines:
        return ""
    head = [
        "Every ratio. *Possible* is a floor of the machine, made of what `bench/limits.py` measured on it:",
        "",
    ]
    head += ["| script | figure | ours | peer | possible | unit | ratio | lowest | highest | |"]
    head += ["| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | --- |"]
    return "\n".join([*head, *lines, "", *(f"[{number}] {way}.  " for way, number in ways.items())])


def _machine(data):
    return data["machine"], data["cpus"], data["kernel"]


def with_block(text, generated):
    """`text` with what stands between its markers replaced. Raises ValueError without markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{generated}\n{END}{after}"


def documents(figures):
    """What each generated document should say: path -> text."""
    blocks = {
        ROOT / "README.md": block(figures, HEADLINES, DETAIL_UNITS, HEADLINE_ROWS),
        ROOT / "bench" / "README.md": "\n\n".join(
            filter(None, (compared_figures(figures), block(figures, figures)))
        ),
    }
    return {path: with_block(path.read_text(), text) for path, text in blocks.items()}


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
