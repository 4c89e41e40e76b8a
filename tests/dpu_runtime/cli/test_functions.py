"""Functions on the command line: this package's, another's, and declarations that cannot be said."""

import json
import re
import shutil

import pytest
from pydantic import BaseModel, Field

from dpu_runtime.cli import describe, functions, options, show
from dpu_runtime.cli import main as cli
from dpu_runtime.function import Function, Noun, Rest
from dpu_runtime.registry import NAMES
from tests.conventions import ROOT
from tests.dpu_runtime.cli import toy

HEAVY = {"numpy", "pydantic", "dataclasses", "typing", "toy"}
DPU = ("-m", "dpu_runtime")


@pytest.fixture(scope="module", params=[False, True], ids=["imported", "cli.json"])
def folder(request, tmp_path_factory):
    """A folder with the package toy, without and with its cli.json."""
    folder = tmp_path_factory.mktemp("toy")
    toy.install(folder, cli_json=request.param)
    return folder


def test_every_function_has_its_data():
    """The command line goes by folders, the daemon by the registry."""
    own = [
        data["name"] for data in functions.known() if (ROOT / "dpu_runtime/functions" / data["name"]).is_dir()
    ]
    assert own == sorted(NAMES)


def test_a_function_of_another_package_is_on_the_command_line(folder):
    done = toy.python(folder, *DPU, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^    toy +add, delete and show toys$", done.stdout, re.MULTILINE)
    assert re.search(r"^  toy +play with packets$", done.stdout, re.MULTILINE)
    text = toy.python(folder, *DPU, "toy", "add", "--help").stdout
    assert text.splitlines()[0] == (
        "usage: dpu toy add [-h] [-j] [--socket PATH] --to P [--colour {red,blue}] [--octets N] [--tag N]"
        " [--weight OF GRAMS] [--no-loud] [--soft] [--safe] [--no-safe] WHAT"
    )
    lines = [re.sub(" +", " ", line.strip()) for line in text.splitlines()]
    assert {
        "Add a toy: a thing to play with. It squeaks.",
        "WHAT name of the toy (1 to 64 of A-Z a-z 0-9 _ . -)",
        "--to P port it goes to (1 to 32 of A-Z a-z 0-9 _ . -)",
        "--colour {red,blue} what it is painted with, 50 % of it; default: red",
        "--octets N what it weighs; default: nothing",
        "--tag N price tags; may repeat",
        "--weight OF GRAMS its weight: OF what is weighed, GRAMS how much",
        "--no-loud do not squeak",
        "--safe hurt nobody",
        "--no-safe do not hurt nobody",
    } <= set(lines)
    for words in (["port", "add"], ["attach"], ["vhost-user"]):
        assert "--toy-rate RATE" in toy.python(folder, *DPU, *words, "--help").stdout, words
    assert "--stats" in toy.python(folder, *DPU, "toy", "show", "--help").stdout
    assert toy.python(folder, *DPU, "toy", "del", "a").returncode == 3


def test_a_function_with_cli_json_is_not_imported(folder):
    code = "import sys; from dpu_runtime.cli import main; print(main.main(['toy', 'show']), *sys.modules)"
    done = toy.python(folder, "-c", code, check=True)
    assert bool(HEAVY & set(done.stdout.split())) == (not (folder / "toy" / "cli.json").exists())
    assert done.stdout.startswith("3 ")


def test_cli_json_of_somebody_else_is_not_taken(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for text in ("", "[]", '{"name": "acl", "summary": "", "nouns": [], "port": []}'):
        (tmp_path / "toy" / "cli.json").write_text(text)
        assert "add, delete and show toys" in toy.python(tmp_path, *DPU, "--help").stdout


@pytest.mark.parametrize("code", ["import nothing_of_this_name", "FUNCTION = None", "1 / 0", "assert False"])
def test_a_function_that_cannot_be_loaded_takes_no_command_along(tmp_path, code):
    toy.install(tmp_path, code=code)
    done = toy.python(tmp_path, *DPU, "rule", "show")
    assert done.returncode == 3
    left_out, no_daemon = done.stderr.splitlines()
    assert left_out.startswith("dpu: function toy of distribution dpu-toy 1.0 is left out: ")
    assert no_daemon.startswith("dpu: no daemon on ")
    assert toy.python(tmp_path, *DPU, "status").stderr.splitlines() == [no_daemon]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "toy_broken",
            "acl_egress",
            "of distribution dpu-toy 1.0 is left out: drop reason 'acl_egress' is of",
        ),
        ("list[int]", "list[list[int]]", "(toy:FUNCTION) is left out: function toy: toy.tag: no option can"),
    ],
)
def test_a_function_that_does_not_fit_has_no_commands(tmp_path, old, new, text):
    toy.install(tmp_path, code=toy.CODE.replace(old, new))
    done = toy.python(tmp_path, *DPU, "toy", "show")
    assert done.returncode == 2
    assert done.stderr.startswith(f"dpu: function toy {text}")
    assert done.stderr.count("left out") == 1


def test_a_function_of_another_package_is_in_the_schema(folder):
    code = "import json; from dpu_runtime.api import methods; print(json.dumps(methods.schema()))"
    schema = json.loads(toy.python(folder, "-c", code, check=True).stdout)
    methods = schema["methods"]
    assert {"toy.add", "toy.del", "toy.show", "rule.add"} <= set(methods)
    assert methods["toy.add"]["params"] == {"$ref": "#/$defs/ToyConfig"}
    assert methods["toy.del"]["params"] == {"$ref": "#/$defs/ToyRef"}
    assert set(schema["$defs"]["ToyFilter"]["properties"]) == {"name", "stats"}
    assert set(schema["$defs"]["ToyView"]["properties"]) == {"config", "squeaks"}
    assert "toys" not in schema["$defs"]["Status"]["properties"], "only what is declared so is counted there"


def test_a_function_of_another_package_has_pages_and_changes_no_others(folder):
    out = folder / "out"
    toy.python(folder, ROOT / "docs" / "generate.py", "toy:FUNCTION", out, check=True)
    assert sorted(path.name for path in out.iterdir()) == ["cli.json", "toy.json", "toy.md"]
    page = (out / "toy.md").read_text()
    for text in (
        "Play with packets.\n",
        "| `toy_box` | ",
        "| `toy_rate` | ",
        "### `[[toy]]`\n\nA thing to play with. It squeaks.\n",
        "    dpu toy add WHAT --to P [--colour red|blue] [--octets N] ",
        "    dpu toy show [NAME] [--stats]\n",
        "- `--toy-rate RATE`: how fast",
        "| `toy.show` | Show toys: one, or all. |",
        "`toy_broken`",
        "| `toy_play` | forward | `switch` |  |",
        "`dpu toy show --stats`: squeaks of each of the toys.",
    ):
        assert text in page, text
    schema = json.loads((out / "toy.json").read_text())
    assert set(schema["methods"]) == {"toy.add", "toy.del", "toy.show"}
    assert {"ToyConfig", "ToySettings", "ToyKeys"} <= set(schema["$defs"])
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); import generate\n"
        "texts = {path: page() for path, page in generate.pages().items()}\n"
        "print([path for path in texts if texts[path] != (generate.ROOT / path).read_text()])"
    )
    assert toy.python(folder, "-c", code, check=True).stdout == "[]\n"


def test_pages_of_a_function_that_is_not_installed_are_refused(tmp_path):
    toy.install(tmp_path)
    (tmp_path / "dpu_toy-1.0.dist-info" / "entry_points.txt").unlink()
    done = toy.python(tmp_path, ROOT / "docs" / "generate.py", "toy:FUNCTION", tmp_path / "out")
    assert (done.returncode, done.stderr) == (
        1,
        "toy:FUNCTION is no function here: its package must be installed\n",
    )


def declared(model, **noun):
    """Data of a function with a section of this model."""
    return describe.function_data(Function("x", sections={"x": model}, nouns={"x": Noun("x", **noun)}))


class Item(BaseModel):
    """What options of all forms take."""

    name: str = Field(description="name")
    colour: str | None = Field(None, description="100 % of it")
    tag: list[int] = Field(default_factory=list, description="tags")
    loud: bool = Field(True, description="be loud")
    quiet: bool = Field(False, description="be quiet")
    socket: str = Field("", description="a socket of its own")


def test_what_is_typed_is_what_the_daemon_takes():
    data = declared(Item)
    parser = cli.build_parser(declared=(data,))
    taken = data["nouns"][0]["options"]

    def typed(*words):
        return options.typed(parser.parse_args(["x", "add", "--name", "a", *words]), taken)

    assert typed() == {"name": "a"}
    assert typed("--tag", "1", "--tag", "2", "--no-loud", "--quiet") == {
        "name": "a",
        "tag": [1, 2],
        "loud": False,
        "quiet": True,
    }
    assert typed("--socket", "/run/x", "--colour", "") == {"name": "a", "socket": "/run/x", "colour": ""}


def test_words_of_several_fields_become_tables():
    taken = [{"key": "way", "flag": "--way", "fields": ["to", "via"], "metavar": ["TO", "VIA"], "help": ""}]
    for repeat, expected in ((False, {"to": "a", "via": "b"}), (True, [{"to": "a", "via": "b"}])):
        some = [{**taken[0], "repeat": repeat}]
        parser = cli.Parser()
        options.add(parser, some)
        assert options.typed(parser.parse_args(["--way", "a", "b"]), some) == {"way": expected}


class Deep(BaseModel):
    """A table in a table in a list, which nobody types."""

    name: str
    rows: list[list[int]]


class Taken(BaseModel):
    """A key that the parser has for itself."""

    name: str
    json_: str = Field("", alias="json")
    command: str = ""


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: declared(Deep), "function x: x.rows: no option can say a value of this kind"),
        (
            lambda: declared(Item, columns=("name", "size")),
            "function x: x: column 'size' is no key",
        ),
        (
            lambda: describe.options(Taken, "function x: x"),
            "function x: x.command: the command line has this word for itself",
        ),
        (
            lambda: describe.function_data(
                Function("x", port=type("P", (BaseModel,), {"__annotations__": {"pid": int}}))
            ),
            "function x: port.pid: the command line has this word for itself",
        ),
    ],
)
def test_a_declaration_that_cannot_be_said_is_refused(make, text):
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value) == text


def test_items_are_a_table_of_the_columns_declared():
    (noun,) = declared(Item, columns=("name", "colour", Rest("how"), "loud"), stats=("hits", "in_air"))[
        "nouns"
    ]
    views = [
        {"config": {"name": "a", "loud": True, "tag": [1, 2], "quiet": False}, "hits": 1, "in_air": 20},
        {"config": {"name": "bb", "colour": "red", "loud": False}, "hits": 22, "in_air": 3},
    ]
    assert show.items(noun, views).splitlines() == [
        "X   COLOUR  HOW               LOUD  HITS  IN-AIR",
        "a   -       tag 1 2 quiet no   yes     1      20",
        "bb  red     -                   no    22       3",
    ]
    del views[0]["hits"], views[0]["in_air"]
    assert show.items(noun, views[:1]).splitlines()[0] == "X  COLOUR  HOW               LOUD"
    assert show.items(noun, []) == "X  COLOUR  HOW  LOUD"
