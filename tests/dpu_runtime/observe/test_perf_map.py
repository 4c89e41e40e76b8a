"""Names of the data plane's machine code for perf: what is in the map, when it is there, what perf says."""

import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dpu_runtime.cli.main import build_parser
from dpu_runtime.config.file import parse_config
from dpu_runtime.control.daemon import Daemon
from dpu_runtime.kernels.compile import jit
from dpu_runtime.observe import perf_map
from dpu_runtime.observe.machine_code import loaded, plain_name, symbols
from tests.live.daemon import alive, wait_until

live = [pytest.mark.root, pytest.mark.compiled, pytest.mark.package("iproute2", "iputils-ping")]
LOOP = "dpu_runtime.plane.worker.run_worker"
GONE = 4_194_304  # above any process's number, linux/threads.h PID_MAX_LIMIT


def marked(test):
    for mark in live:
        test = mark(test)
    return test


def entries(pid):
    """{name: [(begin, end)]} of a process's map."""
    found = {}
    for line in perf_map.path_of(pid).read_text().splitlines():
        begin, size, name = line.split(" ", 2)
        found.setdefault(name, []).append((int(begin, 16), int(begin, 16) + int(size, 16)))
    return found


def executable(pid):
    """[(begin, end)] of what a process may execute."""
    lines = (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    return [tuple(int(end, 16) for end in words[0].split("-")) for words in lines if "x" in words[1]]


@pytest.mark.parametrize(
    ("mangled", "plain"),
    [
        ("_ZN7kernels5parse5parseB3v24B4abcdE5ArrayIhLi2E", "kernels.parse.parse"),
        ("_ZN7cpython7kernels5parse5parseB3v24E", "cpython.kernels.parse.parse"),
        ("cfunc._ZN7kernels5parse5parseB3v24E", "cfunc.kernels.parse.parse"),
        ("memcpy", "memcpy"),
    ],
)
def test_names_are_pythons(mangled, plain):
    assert plain_name(mangled) == plain


@pytest.mark.compiled
def test_what_was_compiled_just_now_and_what_the_cache_had_are_found():
    """Of both the code at the address is that of the object file: its first octets are no zeros."""
    from dpu_runtime.plane.worker_thread import tsc_hz

    tsc_hz()
    (function,) = [one for one in loaded() if one.name == "dpu_runtime.plane.worker_thread._read_cycles"]
    assert any(b <= function.address and function.address + function.size <= e for b, e in executable("self"))
    kernel = next(one for one in jit.KERNELS if getattr(one, "__name__", "") == "_read_cycles")
    (made,) = kernel.overloads.values()
    assert made.library.get_pointer_to_function(made.fndesc.llvm_func_name) == function.address


def test_an_object_file_without_functions_has_no_symbols():
    header = np.zeros(64, np.uint8)
    assert symbols(header.tobytes()) == []


def test_maps_of_dead_processes_go_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(perf_map, "FOLDER", tmp_path)
    ours, others = "1000 10 a\n2000 10 " + LOOP + "\n", "1000 10 a\n"
    texts = {f"perf-{GONE}.map": ours, f"perf-{os.getpid()}.map": ours, f"perf-{GONE + 1}.map": others}
    texts |= {"perf-x.map": ours, f"perf-{GONE + 2}.map.old": ours}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / f"perf-{GONE + 3}.map").symlink_to(tmp_path / "perf-x.map")
    os.mkfifo(tmp_path / f"perf-{GONE + 4}.map")
    with subprocess.Popen(["true"]) as zombie:
        assert wait_until(lambda: not alive(zombie.pid))
        (tmp_path / f"perf-{zombie.pid}.map").write_text(ours)
        perf_map.remove_stale()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*texts, f"perf-{GONE + 3}.map", f"perf-{GONE + 4}.map"} - {f"perf-{GONE}.map"}


@pytest.mark.compiled
def test_a_link_that_somebody_laid_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(perf_map, "FOLDER", tmp_path)
    (tmp_path / "precious").write_text("precious")
    perf_map.path_of(os.getpid()).symlink_to(tmp_path / "precious")
    perf_map.write()
    assert (tmp_path / "precious").read_text() == "precious"
    assert perf_map.path_of(os.getpid()).is_file() and not perf_map.path_of(os.getpid()).is_symlink()
    perf_map.remove(os.getpid())
    perf_map.remove(os.getpid())
    assert not perf_map.path_of(os.getpid()).exists()


@marked
def test_without_the_key_there_is_no_map(dpu):
    assert not perf_map.path_of(dpu.data_plane()).exists()


@marked
@pytest.mark.slow
@pytest.mark.package("linux-perf")
def test_perf_knows_the_machine_code_by_name(new_daemon, namespaces, tmp_path):
    """While the daemon runs, after `kill -9` of the data plane and of both, and not after the end."""
    from tests.live.daemon import Container

    daemon = new_daemon().start(perf_map=True, standby=False)
    pid = daemon.data_plane()
    found = entries(pid)
    code = executable(pid)
    assert {
        LOOP,
        "dpu_runtime.drivers.tap.queue.tap_rx",
        "dpu_runtime.drivers.vhost_user.queue.vhost_tx",
        "dpu_runtime.kernels.parse.parse.parse",
    } <= set(found)
    for spans in found.values():
        assert all(any(a <= begin < end <= b for a, b in code) for begin, end in spans)

    a, b = (Container(daemon, namespaces, name, n, False).attach() for n, name in enumerate(("a", "b"), 1))
    pings = a.popen("ping", "-f", "-q", "-w", "4", b.ipv4)
    data = tmp_path / "perf.data"
    record = [
        "perf",
        "record",
        "-e",
        "cpu-clock",
        "-F",
        "4999",
        "-o",
        data,
        "-p",
        str(pid),
        "--",
        "sleep",
        "1",
    ]
    subprocess.run(record, check=True, capture_output=True)
    report = ["perf", "report", "--stdio", "-i", data, "--sort", "symbol"]
    text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    pings.kill()
    pings.wait()
    named = set(re.findall(r"^ +\d+\.\d+% +\[\.\] (\S+)", text, re.MULTILINE))
    drivers = "dpu_runtime.drivers.tap.queue.tap_"
    assert LOOP in named and any(name.startswith(drivers) for name in named), text

    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: daemon.data_plane() not in (None, pid), 60)
    second = daemon.data_plane()
    assert wait_until(perf_map.path_of(second).exists)
    assert not perf_map.path_of(pid).exists()
    daemon.kill_control()
    os.kill(second, signal.SIGKILL)
    assert wait_until(lambda: not alive(second))
    assert perf_map.path_of(second).exists()  # nobody was left to remove it
    daemon.start(perf_map=True, standby=False)
    assert not perf_map.path_of(second).exists()
    third = daemon.data_plane()
    assert LOOP in entries(third)
    assert daemon.stop() == 0
    assert not perf_map.path_of(third).exists()


@pytest.mark.parametrize("asked", [False, True])
def test_the_option_is_as_the_key(asked):
    args = build_parser().parse_args(["run", *(["--perf-map"] if asked else [])])
    assert Daemon(None, None, None, args.perf_map).runtime.perf_map is asked
    assert Daemon(None, parse_config("[runtime]\nperf_map = true"), "/run/x", args.perf_map).runtime.perf_map
