"""Answers of the daemon as text: aligned columns, no colours, no frames.

Not: JSON (commands.py prints that as it comes).
"""

PORT_COLUMNS = ("rx_packets", "rx_bytes", "rx_dropped", "tx_packets", "tx_bytes", "tx_dropped")
RING_COLUMNS = ("kicks", "calls", "bad_chains", "dropped")
BITS_PER_OCTET = 8
IDLE_KEYS = ("polling", "sleeping", "polling_or_sleeping")
NUMBER_CHARS = 13  # of a column whose values are not all numbers
BAR_CHARS = 40  # of a bar that is all of it
LINE_CHARS = 110  # a longer value goes on below itself


def table(headers, rows):
    """Columns under `headers`; numbers to the right, text to the left."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    right = [rows and all(isinstance(row[i], int | float) for row in rows) for i in range(len(headers))]
    lines = []
    for row in (headers, *cells):
        parts = (
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, right, strict=True)
        )
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def pairs(data):
    """`key  value` lines; sentences in a list have one each."""
    width = max(map(len, data), default=0)
    lines = []
    for key, value in data.items():
        sentences = isinstance(value, list) and any(" " in str(item) for item in value)
        texts = [_cell(item) for item in value] if sentences else [_cell(value)]
        first, *more = [line for text in texts for line in _folded(text, LINE_CHARS - width - 2)]
        lines.append(f"{key.ljust(width)}  {first}".rstrip())
        lines += [" " * (width + 2) + line for line in more]
    return "\n".join(lines)


def _folded(text, chars):
    """Lines of at most `chars`, cut between words where that can be; at least one."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > chars:
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines


def status(data):
    """How the daemon is."""
    data = dict(data)
    plane = data.pop("data_plane")
    return pairs({**data, **{f"data_plane.{key}": value for key, value in plane.items()}})


def ports(views):
    """One line a port."""
    rows = []
    for view in views:
        config = view["config"]
        at = config.get("ifname") or config.get("socket")
        row = [config["name"], config["kind"], config.get("netns"), at, config["mac"], config["mtu"]]
        rows.append([*row, " ".join(config.get("address", []))])
    return table(("PORT", "KIND", "NETNS", "INTERFACE OR SOCKET", "MAC", "MTU", "ADDRESS"), rows)


def port(views):
    """All of one port; of a vhost_user port also its connection and a line a ring."""
    (view,) = views
    info = dict(view["info"])
    connection = dict(info.pop("vhost_user", {}))
    rings, faults = connection.pop("rings", {}), connection.pop("faults", {})
    lines = {**view["config"], **_prefixed("got", info), **_prefixed("vhost_user", connection)}
    return "\n\n".join([pairs(lines), *([_ring_table(rings, faults)] if rings or faults else [])])


def _ring_table(rings, faults):
    headers = ("RING", *(key.upper().replace("_", "-") for key in RING_COLUMNS), "FAULT")
    rows = [
        [int(number), *(rings.get(number, {}).get(key) for key in RING_COLUMNS), faults.get(number)]
        for number in sorted({**rings, **faults}, key=int)
    ]
    return table(headers, rows)


def _prefixed(prefix, data):
    return {f"{prefix}.{key}": value for key, value in data.items()}


def items(noun, views):
    """One line an item of a function, in the order the daemon has them."""
    columns = noun["columns"]
    keys = {column["key"] for column in columns if "key" in column}
    stats = [stat for stat in noun["stats"] if views and stat in views[0]]
    rows = []
    for view in views:
        config = view["config"]
        rest = " ".join(f"{key} {_cell(value)}" for key, value in config.items() if key not in keys)
        row = [
            config.get(column["key"]) if "key" in column else rest or column["empty"] for column in columns
        ]
        rows.append(row + [view[stat] for stat in stats])
    heads = [*(column["head"] for column in columns), *(stat.upper().replace("_", "-") for stat in stats)]
    return table(heads, rows)


def stats(data):
    """All counters that are not zero; ports always."""
    return "\n\n".join(
        [
            _port_table(data["ports"]),
            _drop_table(data["drops"], "PACKETS"),
            _kernel_table(data["kernels"], "PACKETS"),
            _worker_table(data.get("workers", [])),
        ]
    ).strip()


def rates(before, after, seconds):
    """Changes per second between two answers of `stats`; a counter that began anew counts from zero."""
    changed = {"interval_s": round(seconds, 3)}
    for group in ("ports", "drops", "kernels"):
        changed[group] = _rate(before.get(group, {}), after.get(group, {}), seconds)
    return changed


def rate_table(data):
    """Rates: packets and bits per second of the ports, the rest per second."""
    rows = [
        [name, *(_bits(key, counters.get(key, 0.0)) for key in PORT_COLUMNS)]
        for name, counters in data["ports"].items()
    ]
    headers = [key.replace("bytes", "bits").upper().replace("_", "-") + "/S" for key in PORT_COLUMNS]
    return "\n\n".join(
        part
        for part in (
            table(("PORT", *headers), rows),
            _drop_table(data["drops"], "PACKETS/S"),
            _kernel_table(data["kernels"], "PACKETS/S"),
        )
        if part
    )


def profile(data):
    """Where each worker's time went: a table of all of it with bars, one of its system calls."""
    parts = [f"{data['seconds']:.2f} s", *data["notes"]]
    for worker in data["workers"]:
        title = "worker {number} on CPU {cpu}, thread {thread}: {packets} packets in {bursts} bursts"
        parts.append("\n".join([title.format_map(worker), *worker["notes"], _time_table(worker)]))
        if worker.get("syscalls"):
            parts.append(_call_table(worker["syscalls"]))
        elif "syscalls" in worker:
            parts.append("it made no system call")
    return "\n\n".join(parts)


def _time_table(worker):
    headers = _right("PACKETS", "CYCLES/PACKET")
    rows = [
        [name, _percent(stage), *_right(stage["packets"], stage["cycles_per_packet"]), _bar(stage)]
        for name, stage in worker["stages"].items()
    ]
    idle = {key.replace("_", " "): {"share": worker[key]} for key in IDLE_KEYS if worker.get(key) is not None}
    rows += [[name, _percent(one), *_right("", ""), _bar(one)] for name, one in idle.items()]
    text = table(("TIME IN", "%", *headers, ""), rows)
    waited = worker.get("waiting_for_cpu")
    return text if waited is None else f"{text}\nwithin all of it, others had the CPU: {100 * waited:.1f} %"


def _call_table(calls):
    headers = _right("CALLS/S", "US EACH")
    rows = [
        [name, _percent(call), *_right(call["per_second"], call["us_mean"]), _bar(call)]
        for name, call in calls.items()
    ]
    return table(("OF IT, IN", "%", *headers, ""), rows)


def _percent(part):
    return round(100 * part["share"], 1)


def _bar(part):
    return "#" * round(part["share"] * BAR_CHARS)


def _right(*values):
    """Values of columns that end below each other, also where some are no numbers."""
    return [_cell(value).rjust(NUMBER_CHARS) for value in values]


def _port_table(counters):
    headers = ("PORT", *(key.upper().replace("_", "-") for key in PORT_COLUMNS))
    return table(
        headers, [[name, *(port.get(key, 0) for key in PORT_COLUMNS)] for name, port in counters.items()]
    )


def _drop_table(drops, unit):
    rows = [[reason, packets] for reason, packets in drops.items() if packets]
    return table(("DROP REASON", unit), rows) if rows else ""


def _kernel_table(kernels, unit):
    rows = [
        [name, kernel["packets"], round(kernel["cycles"] / kernel["packets"], 1)]
        for name, kernel in kernels.items()
        if kernel.get("packets")
    ]
    return table(("KERNEL", unit, "CYCLES/PACKET"), rows) if rows else ""


def _worker_table(workers):
    if not workers:
        return ""
    keys = list(workers[0])
    headers = tuple(key.upper().replace("_", "-") for key in keys)
    return table(headers, [[worker.get(key) for key in keys] for worker in workers])


def _rate(before, after, seconds):
    if isinstance(after, dict):
        before = before or {}
        return {key: _rate(before.get(key), value, seconds) for key, value in after.items()}
    if not isinstance(after, int | float):
        return after
    before = before or 0
    change = after - before if after >= before else after
    return round(change / seconds, 1)


def _bits(key, rate):
    return rate * BITS_PER_OCTET if key.endswith("bytes") else rate


def _cell(value):
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(_cell(item) for item in value) or "-"
    if isinstance(value, dict):
        return ",".join(f"{key}={_cell(item)}" for key, item in value.items())
    return str(value)
