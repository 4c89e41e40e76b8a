"""Options that files say (describe.py): into a parser, and what was typed out of it again.

Not: which files there are (functions.py).
"""

import json
import os

from dpu_runtime.cli import functions

FRAME = os.path.join(os.path.dirname(__file__), "frame.json")
TYPES = {"int": int, "float": float}


def port_options(declared=None):
    """(options of every port, {key: option} of some kinds); of every port are also those of functions.

    declared  data of the functions; default: of all there are
    """
    with open(FRAME, encoding="utf-8") as file:
        frame = json.load(file)
    declared = functions.known() if declared is None else declared
    theirs = [option for function in declared for option in function["port"]]
    return [*frame["every"], *theirs], {option["key"]: option for option in frame["some"]}


def of_kinds(option):
    """`option` with its help saying which kinds of port have it."""
    return {**option, "help": f"{', '.join(option['kinds'])}: {option['help']}"}


def add(parser, options):
    """Have `parser` take `options`."""
    for option in options:
        words = {name: option[name] for name in ("metavar", "choices") if name in option}
        words["help"] = option["help"].replace("%", "%%")
        required, repeats = option.get("required", False), option.get("repeat", False)
        if "value" in option:
            words |= {"action": "store_const", "const": option["value"]}
        if "type" in option:
            words["type"] = TYPES[option["type"]]
        if "fields" in option:
            words |= {"nargs": len(option["fields"]), "metavar": tuple(option["metavar"])}
        if "flag" in option:
            words |= {"action": "append"} if repeats else {}
            parser.add_argument(option["flag"], dest=option["key"], required=required, **words)
        else:
            words["nargs"] = ("+" if required else "*") if repeats else (None if required else "?")
            parser.add_argument(option["key"], **words)


def typed(args, options):
    """What of `options` was typed, as the daemon takes it: {key: value}."""
    found = {}
    for option in options:
        value = getattr(args, option["key"])
        if value is None or value == []:
            continue
        fields = option.get("fields")
        if fields and option.get("repeat"):
            value = [dict(zip(fields, words, strict=True)) for words in value]
        elif fields:
            value = dict(zip(fields, value, strict=True))
        found[option["key"]] = value
    return found
