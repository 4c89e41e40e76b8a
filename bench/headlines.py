"""The figures that README.md shows: at most ROWS_MAX, the most telling.

In:   the JSON files of bench/figures/, by script.
Out:  a row each of README's table, and the ratios of its picture.
Not:  all figures (bench/report.py has a page a script).
"""

from dataclasses import dataclass, field

from bench.results import Result, figure, times_better

ROWS_MAX = 12


@dataclass(frozen=True)
class Headline:
    """One row.

    what    in the reader's words
    script  that measured it
    ours    name of our figure there
    peers   {peer in the reader's words: name of the peer there}; the ratio is called `OURS / PEER`
    """

    what: str
    script: str
    ours: str
    peers: dict = field(default_factory=dict)

    def ratios(self, figures):
        """[(peer, Result)] of the ratios to each peer, as measured."""
        rows = {row["name"]: row for row in figures[self.script]["results"]}
        return [(peer, Result(**rows[f"{self.ours} / {name}"])) for peer, name in self.peers.items()]

    def cells(self, figures):
        """(what, our figure, how many times better than each peer) as texts."""
        ratios = self.ratios(figures)
        if ratios:
            ours = f"{figure(ratios[0][1].ours)} {ratios[0][1].of_unit}"
        else:
            (row,) = (row for row in figures[self.script]["results"] if row["name"] == self.ours)
            ours = f"{figure(row['median'])} {row['unit']}"
        beside = (f"{peer}: {figure(times_better(row)[0])} ({row.verdict})" for peer, row in ratios)
        return self.what, ours, ", ".join(beside)


LINUX = {"bridge": "bridge", "OVS": "OVS"}
HEADLINES = (
    Headline("TCP between containers, 1 stream", "tcp_containers", "one stream: DPU", LINUX),
    Headline("TCP between containers, 4 streams", "tcp_containers", "4 streams: DPU", LINUX),
    Headline("TCP between containers, 16 streams", "tcp_containers", "16 streams: DPU", LINUX),
    Headline("UDP between containers, 64 B, 1 % lost", "udp_containers", "UDP, 64 B, 1 % lost: DPU", LINUX),
    Headline("TCP round trip between containers, p50", "latency", "TCP ping-pong, p50: DPU", LINUX),
    Headline(
        "vhost-user port to port, 64 B, 1,000 rules",
        "vhost_user",
        "port to port, 64 B: DPU, 1000 rules",
        {"OVS-DPDK": "OVS-DPDK, 1000 rules"},
    ),
    Headline(
        "vhost-user port to port, 64 B, cross-connect",
        "vhost_user",
        "port to port, 64 B: DPU, bare",
        {"testpmd": "testpmd io", "OVS-DPDK": "OVS-DPDK, bare"},
    ),
    Headline(
        "ACL in memory, 1,000 rules, 100,000 flows",
        "kernels_peers",
        "ACL, 1,000 rules, 100,000 flows: ours",
        {"`rte_acl`": "DPDK rte_acl"},
    ),
    Headline("start, first ever", "start", "start, cold: to the first forwarded packet"),
    Headline("start, later", "start", "start, warm: to the first forwarded packet"),
    Headline("idle, all processes", "idle", "idle: all of them"),
    Headline(
        "gap when the data plane is killed",
        "recovery",
        "data plane killed: longest gap between answers to ping",
    ),
)


def table(figures, headlines=HEADLINES):
    """Markdown of the rows whose scripts were measured."""
    lines = ["| | DPU | times better than |", "| --- | ---: | --- |"]
    for headline in headlines:
        if headline.script in figures:
            lines.append(f"| {' | '.join(headline.cells(figures))} |".replace("|  |", "| |"))
    return "\n".join(lines)


def named_ratios(figures, headlines=HEADLINES):
    """[(text, Result)] of the ratios in them, for the picture."""
    return [
        (f"{headline.what} / {peer}".replace("`", ""), row)
        for headline in headlines
        if headline.script in figures
        for peer, row in headline.ratios(figures)
    ]
