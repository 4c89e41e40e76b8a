"""Configuration files: TOML to models with errors that name file, line, key, value and what is allowed.

Spec: TOML 1.0.
Out:  `parse_config` and `load_config` give a `Config` or raise `ConfigError`; `config_toml` gives text that
      parses to an equal `Config`, but for ports with an owner, which no file has.
"""

import hashlib
import json
import re
import tomllib
import typing
from pathlib import Path

import tomlkit
from pydantic import BaseModel, ValidationError

from dpu_runtime.config.errors import ConfigError, Problem
from dpu_runtime.config.models import KINDS, Config, PortConfig, RuntimeConfig
from dpu_runtime.config.references import cleared, standing
from dpu_runtime.config.types import Allowed

_TABLE = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+|\"[^\"]*\")\s*[=.]")
_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def load_config(path):
    """Read, parse and check the file at `path`."""
    return parse_config(read_text(path), str(path))


def read_text(path):
    """Text of the file at `path`. Raises ConfigError."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError([Problem("", error.strerror, file=str(path), has_value=False)]) from None
    except UnicodeDecodeError as error:
        problem = f"octet {error.start} is not UTF-8"
        raise ConfigError([Problem("", problem, file=str(path), has_value=False)]) from None


def digest(text):
    """SHA-256 of what `text`, a good configuration, says that `dpu apply` can make run.

    Comments do not count, nor keys of [runtime] that only a restart changes, nor the defaults of a version.
    """
    data = tomllib.loads(text)
    runtime = {key: value for key, value in data.pop("runtime", {}).items() if key in RuntimeConfig.CHANGING}
    said_in_it = json.dumps(
        [runtime, {key: own for key, own in data.items() if own}], sort_keys=True, default=str
    )
    return hashlib.sha256(said_in_it.encode()).hexdigest()


def parse_config(text, file=""):
    """Parse and check a configuration; `file` is its name in errors."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(str(error), text, file)]) from None
    except RecursionError:
        raise ConfigError([Problem("", "nested too deep", file=file, has_value=False)]) from None
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(problems(error, Config, file, text)) from None
    owned = [i for i, port in enumerate(config.port) if port.owner]
    if owned:
        why = "only port.add gives an owner; what a file names is the file's"
        keys = [["port", i, "owner"] for i in owned]
        raise ConfigError(
            Problem(_key_text(key), why, "", config.port[key[1]].owner, True, file, _line_of(text, key))
            for key in keys
        )
    return config


def config_toml(config):
    """TOML text of a `Config`: what differs from the defaults, one table a port and an item.

    Without the ports that have an owner and the items that name one: to apply the text leaves those alone.
    """
    parts = {"port": [port for port in config.port if not port.owner]}
    there = {"port": {port.name for port in parts["port"]}}
    for function in config.FUNCTIONS:
        parts |= standing(config.items(function), there)
    parts = {key: [cleared(item, there) for item in items] for key, items in parts.items()}
    document = tomlkit.document()
    runtime = said(config.runtime)
    if runtime:
        document["runtime"] = runtime
    for key, items in parts.items():
        if items:
            tables = tomlkit.aot()
            for item in items:
                table = tomlkit.table()
                table.update(said(item))
                tables.append(table)
            document[key] = tables
    return tomlkit.dumps(document)


def problems(error, model, file="", text=""):
    """Turn pydantic's error about `model` into a list of `Problem`."""
    found = []
    for item in error.errors(include_url=False):
        if item["type"] == "default_factory_not_called":
            continue  # follows from another error
        keys, owner, allowed = _locate(model, item["loc"])
        kind = item["type"]
        has_value, value, why = True, item["input"], ""
        if kind == "extra_forbidden":
            why, allowed = "unknown key", ", ".join(owner.model_fields)
        elif kind == "missing":
            why, has_value, value = "missing", False, None
        elif kind in ("union_tag_invalid", "union_tag_not_found"):
            keys, allowed = [*keys, "kind"], ", ".join(KINDS)
            has_value = kind == "union_tag_invalid"
            why, value = "" if has_value else "missing", item["ctx"].get("tag")
        elif kind in ("misfit", "value_error"):
            why = str(item["ctx"].get("text") or item["ctx"]["error"])
            allowed = "" if kind == "misfit" else allowed
        elif kind in ("model_type", "model_attributes_type"):
            why, allowed = "", "a table"
        elif not allowed:
            why = item["msg"]
        line = _line_of(text, keys) if text else 0
        found.append(Problem(_key_text(keys), why, allowed, value, has_value, file, line))
    return found


def allowed_text(field):
    """What a field takes, in words."""
    return _allowed_in(field.metadata) or _allowed_in([field.annotation])


def _allowed_in(annotations):
    for annotation in annotations:
        if isinstance(annotation, Allowed):
            return annotation.text
        if annotation is bool:
            return "true, false"
        if typing.get_origin(annotation) is typing.Literal:
            return ", ".join(typing.get_args(annotation))
        inner = [*getattr(annotation, "__metadata__", ()), *typing.get_args(annotation)]
        text = _allowed_in(inner)
        if text:
            return text
    return ""


def _nested_model(annotation):
    """Model inside an annotation such as list[RouteConfig]; the common one for a union of port kinds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return PortConfig if issubclass(annotation, PortConfig) else annotation
    nested = (_nested_model(part) for part in typing.get_args(annotation))
    return next((model for model in nested if model), None)


def _locate(model, location):
    """Keys as the user wrote them, the model that owns the last one, and what it takes."""
    keys, owner, allowed = [], model, ""
    for part in location:
        if isinstance(part, str) and model is PortConfig and part in KINDS:
            model = owner = KINDS[part]  # pydantic names the variant of the union here
            continue
        keys.append(part)
        if isinstance(part, str):
            owner = model
            field = model.model_fields.get(part) if model else None
            allowed = allowed_text(field) if field else ""
            model = _nested_model(field.annotation) if field else None
    return keys, owner, allowed


def _key_text(keys):
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


def _syntax_problem(message, text, file):
    match = _POSITION.search(message)
    line = int(match[1]) if match and match[1] else len(text.splitlines()) if match else 0
    return Problem("", "not TOML: " + _POSITION.sub("", message), file=file, line=line, has_value=False)


def _line_of(text, keys):
    """Line of a key in TOML text, of its table if the key is not there, or 0.

    Looks at headers and first keys of lines only: enough for tables written the usual way.
    """
    table, found, counts = [], 0, {}
    for number, line in enumerate(text.splitlines(), 1):
        header = _TABLE.match(line)
        if header:
            name = header[2].replace('"', "").replace(" ", "")
            table = name.split(".")
            if header[1] == "[[":
                counts[name] = counts.get(name, -1) + 1
                for deeper in [other for other in counts if other.startswith(name + ".")]:
                    del counts[deeper]
            table = _indexed(table, counts)
            if keys[: len(table)] == table:
                found = number
        else:
            key = _KEY.match(line)
            if key and keys[: len(table) + 1] == [*table, key[1].strip('"')]:
                return number
    return found


def _indexed(names, counts):
    """["port", "route"] with the counts of its arrays: ["port", 0, "route", 1]."""
    keys = []
    for depth, name in enumerate(names, 1):
        keys.append(name)
        count = counts.get(".".join(names[:depth]))
        if count is not None:
            keys.append(count)
    return keys


def said(model):
    """What of a model must be written so that reading it gives an equal one."""
    data = model.model_dump(mode="json")
    saying = {}
    for name, field in type(model).model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data=data)
        if data[name] is not None and (field.is_required() or getattr(model, name) != default):
            saying[name] = data[name]
    return saying
