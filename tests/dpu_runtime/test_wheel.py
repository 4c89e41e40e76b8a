"""The wheel puts one name at the top of site-packages, and so fits beside others."""

import subprocess
import sys
import zipfile

import pytest

from tests.conventions import ROOT

pytestmark = pytest.mark.in_memory

FLOORS = ("dpu_runtime", "dpu_runtime/kernels", "dpu_runtime/drivers")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    argv = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        source,
    ]
    subprocess.run(argv, check=True)
    return next(folder.glob("*.whl"))


def test_only_dpu_runtime_lands_at_the_top(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"dpu_runtime"}
    for floor in FLOORS:
        here = ROOT / floor.removeprefix("dpu_runtime/")
        expected = {
            f"{floor}/{path.relative_to(here)}"
            for pattern in ("*.py", "cli.json", "frame.json")
            for path in here.rglob(pattern)
        }
        assert expected <= set(names), expected - set(names)


def test_it_is_imported_beside_another_package_called_kernels(wheel, tmp_path):
    """PyPI's `kernels` is somebody else's; `drivers` is anybody's."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site]
    subprocess.run([*pip, wheel, "kernels==0.11.0"], check=True)
    (site / "drivers.py").write_text("WHOSE = 'somebody else'\n")
    program = (
        "import drivers, importlib.util, dpu_runtime.kernels.layout as ours, dpu_runtime.drivers.port\n"
        "theirs = importlib.util.find_spec('kernels').origin\n"
        "print(drivers.WHOSE, theirs, ours.__file__, sep='|')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    whose, theirs, ours = done.stdout.strip().split("|")
    assert whose == "somebody else"
    assert theirs == str(site / "kernels" / "__init__.py")
    assert ours == str(site / "dpu_runtime" / "kernels" / "layout.py")
