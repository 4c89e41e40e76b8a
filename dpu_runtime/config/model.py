"""What all models of a configuration share.

Not: the values (config_types.py) and the keys (config.py, config_rule.py).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

Action = Literal["allow", "drop"]


class Model(BaseModel):
    """What all parts of a configuration share: no unknown keys, no silent conversions, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def refuse(model, problems):
    """Raise the error of [(location, text, value)], if there is one, under its own keys."""
    if problems:
        raise ValidationError.from_exception_data(
            type(model).__name__,
            [
                InitErrorDetails(
                    type=PydanticCustomError("misfit", "{text}", {"text": text}), loc=loc, input=value
                )
                for loc, text, value in problems
            ],
        )
