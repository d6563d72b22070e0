"""How the domain says no to what somebody asked for. Pure.

Interfaces map these alone, whatever the act: a wrong field, something that stands in the way, something unknown.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


def own_of(error: E) -> E:
    """The same error for one of several who are told of it, without where it came from.

    One instance for all would know the frames of each, and who is done with it may empty those of others that still
    run.
    """
    # By no initializer: an error may take something else than what it says.
    own = type(error).__new__(type(error), *error.args)
    own.__dict__.update(error.__dict__)
    return own


def quoted(value: Any) -> str:
    """A value that is refused, as whoever sent it wrote it: text in quotes, a number plain, the rest as JSON."""
    if isinstance(value, str):
        return repr(value)
    return str(value) if isinstance(value, Decimal) else json.dumps(value, default=str)


class FieldError(ValueError):
    """A value that cannot be as asked: which field, and what would be right. An empty field is the whole."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message


class OverBound(FieldError):
    """More than is ever kept of such a thing; the message names the bound."""


class Conflict(FieldError):
    """What is there already stands in the way; `existing` is it, where there is one row to show."""

    def __init__(self, field: str, message: str, *, existing: object = None) -> None:
        super().__init__(field, message)
        self.existing = existing


class NotAllowed(FieldError):
    """More than whoever asks may give."""


class Unknown(FieldError):
    """There is nothing of this name."""


class Gone(FieldError):
    """What is to be changed was deleted by somebody else in the meantime."""

    def __init__(self, message: str) -> None:
        super().__init__("", message)


class NotOpen(FieldError):
    """It is over already: ended, revoked, lifted, or decided by somebody else."""
