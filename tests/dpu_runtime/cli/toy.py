"""A function of another package, from a folder outside the checkout, as an installer would leave it."""

import os
import subprocess
import sys

from tests.conventions import ROOT

CODE = '''
from typing import Annotated, Literal

from pydantic import Field

from dpu_runtime.config import types
from dpu_runtime.config.model import Keys, Model
from dpu_runtime.config.types import Cli
from dpu_runtime.function import FORWARD, Function, Noun, Rest, Stage


class Weight(Model):
    of: str = Field(description="what is weighed")
    grams: Annotated[str, Field(description="how much")]


class ToyConfig(Model):
    """`[[toy]]`: a thing to play with. It squeaks."""

    name: Annotated[types.RuleName, Cli("WHAT", positional=True)] = Field(description="name of the toy")
    to: types.PortName = Field(description="port it goes to")
    colour: Literal["red", "blue"] = Field("red", description="what it is painted with, 50 % of it")
    octets: int | None = Field(None, description="what it weighs; default: nothing")
    tag: list[int] = Field(default_factory=list, description="price tags")
    weight: Weight | None = Field(None, description="its weight")
    loud: bool = Field(True, description="squeak")
    soft: bool = Field(False, description="give way")
    safe: bool | None = Field(None, description="hurt nobody")


class ToySettings(Keys):
    toy_box: str = Field("box", description="where toys lie at night")


class ToyKeys(Keys):
    toy_rate: Annotated[int, Cli("RATE")] | None = Field(None, description="how fast toys may come in")


FUNCTION = Function(
    name="toy",
    summary="play with packets",
    sections={"toy": ToyConfig},
    settings=ToySettings,
    port=ToyKeys,
    drops=("toy_broken",),
    stages=(Stage("toy_play", FORWARD, "toy.play:play", after=("switch",)),),
    nouns={"toy": Noun("toy", columns=("name", "to", Rest("what")), stats=("squeaks",))},
)
'''


def install(folder, cli_json=False, code=CODE):
    """Put the package toy into `folder`, with the entry point that names it; returns the package's folder."""
    package, distribution = folder / "toy", folder / "dpu_toy-1.0.dist-info"
    package.mkdir(parents=True)
    distribution.mkdir()
    (package / "__init__.py").write_text(code)
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: dpu-toy\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text(
        "[console_scripts]\ntoy = toy:main\n\n[dpu_runtime.functions]\ntoy = toy:FUNCTION\n"
    )
    if cli_json:
        done = python(folder, "-m", "dpu_runtime.cli.describe", "toy:FUNCTION", check=True)
        (package / "cli.json").write_text(done.stdout)
    return package


def python(folder, *words, check=False):
    """Run Python with `folder` beside the checkout, and nothing compiled left in it."""
    env = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "DPU_SOCKET": f"{folder}/none", "COLUMNS": "200"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=check)
