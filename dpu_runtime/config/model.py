"""What all models of a configuration share, and how keys of functions join those of the frame.

Not: the values (types.py) and the frame's keys (frame.py).
"""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

Action = Literal["allow", "drop"]


class Model(BaseModel):
    """What all parts of a configuration share: no unknown keys, no silent conversions, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Keys(Model):
    """Keys that stand in one table with those of others.

    BEFORE  the frame's key that a function's stand in front of; of the frame's own table: that those of
            functions stand in front of which do not say; "": at the end
    """

    BEFORE: ClassVar[str] = ""


def joined(name, frame, others):
    """Model with the keys of `frame` and those that functions join to them, each in its place.

    Validators are those of all of them. What functions join is in `others`, models.
    """
    places = {}
    for keys in others:
        places.setdefault(getattr(keys, "BEFORE", "") or frame.BEFORE, []).extend(keys.model_fields)
    order = [key for own in frame.model_fields for key in (*places.pop(own, ()), own)]
    order += [key for rest in places.values() for key in rest]
    # The eldest base decides where a key stands, the youngest what it is.
    places = type("Places", (Model,), {"__annotations__": dict.fromkeys(order, Any), "__module__": __name__})
    body = {"__doc__": frame.__doc__, "__module__": frame.__module__}
    return type(name, (*others, frame, places), body)


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
