"""Errors of the control surface, each with what a user needs to mend it.

Not: bad packets (a counted drop reason) and devices (`PortError` of drivers/port.py); `dataclasses`, which
     would be a fifth of the time `dpu status` takes to start.
"""

import json

VALUE_CHARS_MAX = 80  # of a wrong value shown in a message


class Problem:
    """One wrong value of a configuration or a request.

    key        such as port[1].address[0]
    text       what is wrong, empty when `allowed` says it all
    value      the wrong value, unless `has_value` is false: the key is missing
    line       of the file, 0: unknown
    """

    def __init__(self, key, text="", allowed="", value=None, has_value=True, file="", line=0):
        self.key = key
        self.text = text
        self.allowed = allowed
        self.value = value
        self.has_value = has_value
        self.file = file
        self.line = line

    def __str__(self):
        """FILE:LINE: KEY = VALUE: TEXT; allowed: ALLOWED."""
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        what = self.key
        if self.has_value:
            what += f" = {_shortened(self.value)}" if what else _shortened(self.value)
        why = [part for part in (self.text, self.allowed and f"allowed: {self.allowed}") if part]
        return where + ": ".join(part for part in (what, "; ".join(why)) if part)

    def as_dict(self):
        """The problem as JSON-RPC error data."""
        return {name: value for name, value in vars(self).items() if name != "has_value"}


class ConfigError(Exception):
    """A configuration that is refused: every problem of it, one a line."""

    def __init__(self, problems):
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ApplyError(Exception):
    """A valid configuration that this machine refused; `rolled_back` says whether nothing changed."""

    def __init__(self, text, rolled_back=True):
        self.rolled_back = rolled_back
        super().__init__(text)


class DaemonError(Exception):
    """The daemon cannot start: another one runs, or a path is not usable."""


class DataPlaneError(Exception):
    """The data plane refused a request or is gone."""


class DataPlaneGoneError(DataPlaneError):
    """The data plane died before it answered."""


class NotAdoptedError(DataPlaneError):
    """A data plane that runs could not be taken over; it goes on as it was."""


class RpcError(Exception):
    """The error object of a JSON-RPC 2.0 response."""

    def __init__(self, code, message, data=None):
        self.code = code
        self.message = message
        self.data = data
        super().__init__(message)


def _shortened(value):
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 3] + "..."
