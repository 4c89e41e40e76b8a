"""From declarations to what the command line needs to know of them: plain data, kept in files.

In:   the models of a function (dpu_runtime/function.py) and of ports (config/models.py).
Out:  dpu_runtime/functions/NAME/cli.json and dpu_runtime/cli/frame.json, which docs/generate.py writes.
Not:  reading them (functions.py, options.py). This file imports pydantic, so `dpu` does not import it.

`python -m dpu_runtime.cli.describe MODULE:NAME` prints the cli.json of a function of another package.
"""

import importlib
import json
import re
import sys
import typing

from dpu_runtime.config.file import allowed_text
from dpu_runtime.config.models import PORT_KINDS, PortConfig
from dpu_runtime.config.types import Cli
from dpu_runtime.function import Rest
from dpu_runtime.registry import functions

TAKEN = ("command", "daemon_socket", "given_socket", "help", "json")  # what the parser itself keeps
# and what `dpu attach` and `dpu vhost-user` have beside the options of ports
PORT_TAKEN = (*TAKEN, "container", "fd", "pid", "port", "print_capabilities", "socket_path")
TYPES = {"integer": "int", "number": "float"}  # all else is text, which the daemon judges


def function_data(function):
    """What the command line needs of a function."""
    return {
        "name": function.name,
        "summary": function.summary,
        "nouns": [
            _noun(noun, function.sections[section], f"function {function.name}: {section}")
            for section, noun in function.nouns.items()
        ],
        "port": options(function.port, f"function {function.name}: port", PORT_TAKEN)
        if function.port
        else [],
    }


def frame_data():
    """Options of ports that no function has: those of every kind, and those of some kinds."""
    theirs = {key for function in functions() if function.port for key in function.port.model_fields}
    every = [option for option in options(PortConfig, "port") if option["key"] not in theirs]
    for option in every:
        if option["key"] == "kind":
            option["help"] = ", ".join(allowed_text(kind.model_fields["kind"]) for kind in PORT_KINDS)
    some = {}
    for kind in PORT_KINDS:
        for option in options(kind, "port"):
            if option["key"] not in PortConfig.model_fields and option["key"] not in theirs:
                option.pop("required", None)  # by a kind, which the daemon judges
                kinds = some.setdefault(option["key"], {**option, "kinds": []})["kinds"]
                kinds.append(allowed_text(kind.model_fields["kind"]))
    return {"every": every, "some": list(some.values())}


def json_text(data):
    """`data` as the files have it."""
    return json.dumps(data, indent=1) + "\n"


def options(model, where, taken=TAKEN):
    """An option for every key of a model; TypeError names one that cannot be an option."""
    schema = model.model_json_schema(by_alias=False)
    definitions = schema.get("$defs", {})
    found = []
    for key, field in model.model_fields.items():
        if key in taken:
            raise TypeError(f"{where}.{key}: the command line has this word for itself")
        shape = _form(schema["properties"][key], definitions)
        if shape is None:
            raise TypeError(f"{where}.{key}: no option can say a value of this kind")
        found += _spelled(key, field, shape)
    return found


def about(model):
    """Sentences of a model's docstring, without the key it may begin with."""
    text = " ".join((model.__doc__ or "").split())
    return re.sub(r"^`[^`]*`: ", "", text)


def _form(schema, definitions):
    """{bool, type, choices, fields, repeat} of a value, where they apply; None: it cannot be typed."""
    if "anyOf" in schema:
        schemas = [one for one in schema["anyOf"] if one.get("type") != "null"]
        if len(schemas) != 1:
            return {} if all(one.get("type") in ("string", "integer", "number") for one in schemas) else None
        return _form(schemas[0], definitions)
    if "$ref" in schema:
        return _form(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    kind = schema.get("type")
    if kind == "array":
        item = _form(schema.get("items", {}), definitions)
        return None if item is None or item.get("repeat") or item.get("bool") else {**item, "repeat": True}
    if kind == "object":
        fields = {name: schema["properties"][name].get("description") for name in schema.get("required", [])}
        return {"fields": fields} if fields else None
    form = {"bool": True} if kind == "boolean" else {}
    if isinstance(kind, str) and kind in TYPES:
        form["type"] = TYPES[kind]
    if "enum" in schema:
        form["choices"] = schema["enum"]
    return form


def _spelled(key, field, form):
    """The options of a key: one, or two of a boolean that has no default."""
    said = _cli(field.annotation, field.metadata)
    text = _help(field, form, said)
    word = key.replace("_", "-")
    if form.get("bool"):
        values = [not field.default] if isinstance(field.default, bool) else [True, False]
        negative = text if any(one.help for one in said) else f"do not {text}"
        spelled = {True: (f"--{word}", text), False: (f"--no-{word}", negative)}
        return [
            {"key": key, "flag": spelled[value][0], "value": value, "help": spelled[value][1]}
            for value in values
        ]
    option = {"key": key}
    if not any(one.positional for one in said):
        option["flag"] = f"--{word}"
    if field.is_required():
        option["required"] = True
    if form.get("repeat"):
        option["repeat"] = True
    metavar = next((one.metavar for one in said if one.metavar), "")
    if "fields" in form:
        option |= {"fields": list(form["fields"]), "metavar": [name.upper() for name in form["fields"]]}
    elif "choices" in form and not metavar:
        option["choices"] = form["choices"]
    else:
        option["metavar"] = metavar or ("N" if "type" in form else key.upper())
    if "type" in form:
        option["type"] = form["type"]
    return [{**option, "help": text}]


def _help(field, form, said):
    """What the key means, what it takes, whether it may repeat, its default."""
    if text := next((one.help for one in said if one.help), ""):
        return text
    text, _, default = (field.description or "").partition("; default: ")
    if "fields" in form:
        text += ": " + ", ".join(f"{name.upper()} {about}" for name, about in form["fields"].items())
    elif not form.get("bool") and "choices" not in form and (takes := allowed_text(field)):
        text += f"; takes {takes}" if ":" in text or ";" in text else f" ({takes})"
    if form.get("repeat"):
        text += "; may repeat"
    if not default and isinstance(field.default, str | int | float) and not isinstance(field.default, bool):
        default = str(field.default)
    return (f"{text}; default: {default}" if default else text).replace("`", "")


def _cli(annotation, metadata):
    """The `Cli` annotations of a key, outermost first."""
    found = [item for item in reversed(metadata) if isinstance(item, Cli)]
    for part in typing.get_args(annotation):
        found += _cli(part, getattr(part, "__metadata__", ()))
    return found


def _noun(noun, model, where):
    columns = []
    for column in noun.columns:
        if isinstance(column, Rest):
            columns.append({"head": column.head.upper(), "empty": column.empty})
            continue
        if column not in model.model_fields:
            raise TypeError(f"{where}: column {column!r} is no key")
        head = noun.name if column == "name" else column
        columns.append({"head": head.upper().replace("_", "-"), "key": column})
    return {
        "name": noun.name,
        "many": noun.many,
        "about": about(model),
        "options": options(model, where),
        "columns": columns,
        "stats": list(noun.stats),
    }


def main(declaration):
    """Print the cli.json of "module:name"."""
    module, _, name = declaration.partition(":")
    sys.stdout.write(json_text(function_data(getattr(importlib.import_module(module), name))))


if __name__ == "__main__":
    main(*sys.argv[1:])
