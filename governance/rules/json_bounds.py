"""Bounds of the JSON that anybody may send: how deep, how wide, how long. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

# A text, closed or not (one that never ends must not be looked for again from each quote in it), or a bracket or comma.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+\\?"?|[\[{]|[\]}]|,', re.DOTALL)
_OPENING, _CLOSING = b"[{", b"]}"
# What is said of a place.
LONGEST_FIELD = 200
_LONE_HALF = re.compile("[\ud800-\udfff]")

# Where a value is: the place of what holds it, and its name or number there.
_Place = tuple[Any, str | int] | None
# What is wrong with a name or a value that holds no others, in a few words.
_Flaw = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class JsonBounds:
    """`values` in all, `fields` of one object, `characters` of one text, `name_characters` of a field's name."""

    depth: int = 64
    values: int = 200_000
    fields: int = 1_000
    characters: int = 32 * 1024 * 1024
    name_characters: int = 500


class BeyondBounds(ValueError):
    """`field` names what is too much, as `messages.3.content`, empty for the whole; the message names the bound."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field[:LONGEST_FIELD]

    @property
    def sentence(self) -> str:
        return f"`{self.field}` {self}" if self.field else f"The body {self}"


def check_text(data: bytes, bounds: JsonBounds) -> None:
    """Refuse JSON with too many values before it is parsed, at a small part of that price. Raises BeyondBounds."""
    if data.count(b",") <= bounds.values and data.count(b"{") + data.count(b"[") <= bounds.values:
        return
    depth = commas = opened = 0
    field = b""
    for found in _TOKEN.finditer(data):
        token = found[0]
        if token[:1] == b'"':
            if depth == 1:
                field = token
        elif token == b",":
            commas += 1
        elif token in _OPENING:
            opened += 1
            depth += 1
        else:
            depth -= 1
        if commas > bounds.values or opened > bounds.values + 1:
            name = field[1:-1][: bounds.name_characters].decode(errors="replace")
            raise BeyondBounds(name, _too_many_values(bounds))


def check(
    value: Any, bounds: JsonBounds, *, storable: bool = False, writable: bool = False, any_field: bool = True
) -> None:
    """Refuse a parsed value that is beyond its bounds. Raises BeyondBounds.

    `storable`: also texts that no database takes, with NUL or half of a surrogate pair in them. `writable`: also what
    cannot be written as JSON for everybody, such halves, whole numbers beyond 64 bits and larger ones than a double.
    `any_field` False: of the outermost object known fields alone are taken, and who takes them names any other.
    """
    flaw = _unstorable if storable else _unwritable if writable else _none
    waiting: list[tuple[Any, int, _Place]] = [([value], 0, None)]
    left = bounds.values + 1
    while waiting:
        holder, depth, place = waiting.pop()
        left -= len(holder)
        if left < 0:
            raise BeyondBounds(_path(place), _too_many_values(bounds))
        if depth > bounds.depth:
            raise BeyondBounds(_path(place), f"is nested deeper than {bounds.depth} levels.")
        if isinstance(holder, dict):
            if len(holder) > bounds.fields:
                raise BeyondBounds(_path(place), f"may have at most {bounds.fields:,} fields.")
            for name, inner in holder.items():
                _check_name(name, place, bounds, flaw if any_field or depth > 1 else _none)
                _check_one(inner, depth, (place, name), bounds, flaw, waiting)
        else:
            for index, inner in enumerate(holder):
                # The outermost list is ours.
                at = None if depth == 0 else (place, index)
                _check_one(inner, depth, at, bounds, flaw, waiting)


def _check_one(
    value: Any, depth: int, place: _Place, bounds: JsonBounds, flaw: _Flaw, waiting: list[tuple[Any, int, _Place]]
) -> None:
    if isinstance(value, dict | list):
        waiting.append((value, depth + 1, place))
    elif isinstance(value, str) and len(value) > bounds.characters:
        raise BeyondBounds(_path(place), f"may have at most {bounds.characters:,} characters.")
    elif found := flaw(value):
        raise BeyondBounds(_path(place), f"may not have {found} in it.")


def _check_name(name: str, place: _Place, bounds: JsonBounds, flaw: _Flaw) -> None:
    if len(name) > bounds.name_characters:
        message = f"may have no field whose name has more than {bounds.name_characters:,} characters."
        raise BeyondBounds(_path(place), message)
    if found := flaw(name):
        raise BeyondBounds(_path(place), f"may have no field with {found} in its name.")


def _none(_: Any) -> str:
    return ""


def _unstorable(value: Any) -> str:
    whole = not isinstance(value, str) or ("\x00" not in value and not _unwritable(value))
    return "" if whole else "NUL or half a surrogate pair"


def _unwritable(value: Any) -> str:
    if isinstance(value, str):
        return "" if value.isascii() or _LONE_HALF.search(value) is None else "half a surrogate pair"
    # Of so many digits that reading one leaves it a Decimal, whole numbers too.
    is_whole = isinstance(value, int) or (isinstance(value, Decimal) and value.as_tuple().exponent == 0)
    if is_whole and not -(2**63) <= value < 2**64:
        return "a whole number beyond 64 bits"
    too_large = isinstance(value, Decimal) and math.isinf(float(value))
    return "a number that is too large" if too_large else ""


def _too_many_values(bounds: JsonBounds) -> str:
    return f"holds too much: the body may have at most {bounds.values:,} values."


def _path(place: _Place) -> str:
    parts: list[str] = []
    while place is not None:
        place, name = place
        parts.append(str(name))
    return ".".join(reversed(parts))
