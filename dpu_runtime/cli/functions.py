"""The functions there are, as the command line needs them: from files, without importing one.

Each has a cli.json beside its declaration (describe.py makes it). A function without one is imported, which
is slow. Functions of other packages are found by the entry points that installers leave in site-packages.

Not: importlib.metadata, which alone would take longer than all of `dpu status`.
"""

import functools
import json
import os
import sys

FOLDER = os.path.join(os.path.dirname(os.path.dirname(__file__)), "functions")
GROUP = "dpu_runtime.functions"
FILE = "cli.json"
DISTRIBUTIONS = (".dist-info", ".egg-info")


@functools.cache
def known():
    """Data of every function: this package's by name, then those of other packages.

    One that cannot be loaded is named on stderr, and left out.
    """
    own = {name: f"dpu_runtime.functions.{name}:FUNCTION" for name in sorted(os.listdir(FOLDER))}
    own = {name: value for name, value in own.items() if os.path.exists(f"{FOLDER}/{name}/__init__.py")}
    found = [_data(name, value, [f"{FOLDER}/{name}"]) for name, value in own.items()]
    for name, value in entry_points().items():
        if name not in own:
            found.append(_data(name, value, _folders(value)))
    return tuple(filter(None, found))


def entry_points():
    """{name: "module:attribute"} of the functions of other packages; the first on sys.path counts."""
    found = {}
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue  # no folder, or a zip file
        for name in names:
            if name.endswith(DISTRIBUTIONS):
                for entry, value in _entries(f"{folder or '.'}/{name}/entry_points.txt"):
                    found.setdefault(entry, value)
    return dict(sorted(found.items()))


def _entries(path):
    """(name, value) of our group in an entry_points.txt."""
    try:
        with open(path, "rb") as file:
            octets = file.read()
    except OSError:
        return
    if GROUP.encode() not in octets:
        return
    section = ""
    for line in map(str.strip, octets.decode("utf-8", "replace").splitlines()):
        name, equals, value = line.partition("=")
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == GROUP and equals and not line.startswith("#"):
            yield name.strip(), value.partition("[")[0].strip()


def _folders(value):
    """Where the declaration "module:attribute" may lie: a package's folder, or that of a module's file."""
    parts = value.partition(":")[0].split(".")
    for folder in sys.path:
        path = os.path.join(folder or ".", *parts)
        if os.path.isdir(path):
            yield path
        elif os.path.isfile(f"{path}.py"):
            yield os.path.dirname(path)


def _data(name, value, folders):
    for folder in folders:
        try:
            with open(f"{folder}/{FILE}", encoding="utf-8") as file:
                data = json.load(file)
            if data["name"] == name:
                return data
        except (OSError, ValueError, KeyError, TypeError):
            continue  # none there, or not ours: the declaration has it all
    return _imported(name, value)


def _imported(name, value):
    import logging  # noqa: PLC0415  (heavy, like what comes below)

    said = logging.StreamHandler()
    said.setFormatter(logging.Formatter("dpu: %(message)s"))
    logging.getLogger("dpu.registry").addHandler(said)
    try:
        from dpu_runtime.cli import describe  # noqa: PLC0415
        from dpu_runtime.registry import functions  # noqa: PLC0415

        module, _, attribute = value.partition(":")
        function = getattr(sys.modules.get(module), attribute, None)
        # What the registry leaves out it has said, and why.
        return describe.function_data(function) if function in functions() else None
    except Exception as error:  # an option that cannot be said: its commands are missing, no others
        why = str(error) or repr(error)
        print(f"dpu: function {name} ({value}) is left out: {why}", file=sys.stderr)
        return None
