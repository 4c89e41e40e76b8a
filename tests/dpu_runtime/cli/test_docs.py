"""Reference pages, examples and the unit file say what the code does."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dpu_runtime.config.file import load_config

ROOT = Path(__file__).resolve().parents[3]
SPEC = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)


PAGES = generate.pages()


@pytest.mark.parametrize("name", PAGES)
def test_page_is_what_the_generator_writes(name):
    assert (ROOT / name).read_text() == PAGES[name](), "run: python docs/generate.py"


def test_pages_of_functions_that_are_gone_are_gone():
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "functions").iterdir()}
    there |= {str(path.relative_to(ROOT)) for path in (ROOT / "dpu_runtime" / "functions").glob("*/cli.json")}
    assert there == {name for name in PAGES if "/functions/" in name}


def test_links_of_the_pages_lead_somewhere():
    for name in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text()):
            assert (ROOT / name).parent.joinpath(link).exists(), f"{name}: {link}"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_example_is_valid(path):
    assert load_config(path).port


def test_demo_is_two_containers():
    web, client = load_config(ROOT / "examples" / "demo.toml").port
    assert [(p.name, p.netns, p.ifname, p.address) for p in (web, client)] == [
        ("web", "web", "eth0", ["10.0.0.2/24"]),
        ("client", "client", "eth0", ["10.0.0.3/24"]),
    ]


def test_unit_file_leaves_room_for_compiled_code_and_adoption():
    lines = (ROOT / "packaging" / "dpu.service").read_text().splitlines()
    assert {
        "Type=notify",
        "WatchdogSec=30s",
        "ExecReload=/usr/local/bin/dpu reload",  # waits for the end of it, and says why not
        "KillMode=process",  # the data plane outlives the control process
        "MemoryDenyWriteExecute=no",  # machine code is written and run
        "RestrictNamespaces=net",  # setns(2) into containers
        "DeviceAllow=/dev/net/tun rw",
        "CacheDirectory=dpu-runtime",
    } <= set(lines)


def test_unit_file_of_the_docker_driver_sees_containers_that_come_later():
    lines = (ROOT / "packaging" / "dpu-docker.service").read_text().splitlines()
    assert {"Type=notify", "Before=docker.service", "MountFlags=slave", "StateDirectory=dpu-docker"} <= set(
        lines
    )


@pytest.mark.parametrize("name", ["dpu", "dpu-docker"])
def test_unit_file_is_what_systemd_takes(tmp_path, name):
    """Compare with systemd's own judgement, on machines that have it."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return  # a container without systemd; the test above still holds
    unit = tmp_path / f"{name}.service"
    text = (ROOT / "packaging" / f"{name}.service").read_text()
    unit.write_text(text.replace(f"/usr/local/bin/{name}", shutil.which("true")))
    run = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
