"""Parts that reference pages share: tables, keys of a model, a command with its options."""

import json

from dpu_runtime.config.file import allowed_text

EVERYWHERE = ("json", "daemon_socket")  # options that every command has


def table(heads, rows):
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def model_table(model, skip=()):
    """Table of a model's keys."""
    fields = {key: field for key, field in model.model_fields.items() if key not in skip}
    return table(
        ("key", "takes", "default", "meaning"),
        [
            (f"`{key}`", allowed_text(field), _default(field), field.description)
            for key, field in fields.items()
        ],
    )


def command_parts(words, parser, level="##"):
    """A command's heading, usage and options."""
    actions = [a for a in parser._actions if a.dest not in (*EVERYWHERE, "help")]
    options = [a for a in actions if a.option_strings]
    places = [a for a in actions if not a.option_strings]
    usage = " ".join([*words, *map(_bracketed, places), *map(_bracketed, options)])
    parts = [f"{level} `{' '.join(words)}`\n\n{parser.description}\n\n    {usage}\n"]
    helped = [a for a in [*places, *options] if a.help]
    return [*parts, option_list(helped)] if helped else parts


def option_list(actions):
    """A line an option."""
    return "".join(f"- `{_usage(action)}`: {action.help.replace('%%', '%')}\n" for action in actions)


def _cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def _default(field):
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default is None:
        return ""  # the description says it
    return f"`{json.dumps(field.default)}`"


def _metavar(action):
    name = action.metavar or (action.choices and "|".join(action.choices)) or action.dest.upper()
    return " ".join(name) if isinstance(name, tuple) else name


def _usage(action):
    takes = "" if action.nargs == 0 else " " + _metavar(action)
    return "|".join(action.option_strings) + takes if action.option_strings else _metavar(action)


def _bracketed(action):
    return _usage(action) if action.required and action.nargs != "?" else f"[{_usage(action)}]"
