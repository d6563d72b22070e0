"""Bounds of the JSON that anybody may send: how deep, how wide, how long. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

# A text, closed or not (one that never ends must not be looked for again from each quote in it), or a bracket or comma.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+\\?"?|[\[{]|[\]}]|,', re.DOTALL)
_OPENING, _CLOSING = b"[{", b"]}"
# What is said of a place.
LONGEST_FIELD = 200
_LONE_HALF = re.compile("[\ud800-\udfff]")

# Where a value is: the place of what holds it, and its name or number there.
_Place = tuple[Any, str | int] | None


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


def check(value: Any, bounds: JsonBounds, *, storable: bool = False) -> None:
    """Refuse a parsed value that is beyond its bounds. Raises BeyondBounds.

    `storable`: also texts that no database takes, with NUL or half of a surrogate pair in them.
    """
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
                _check_name(name, place, bounds, storable)
                _check_one(inner, depth, (place, name), bounds, storable, waiting)
        else:
            for index, inner in enumerate(holder):
                # The outermost list is ours.
                at = None if depth == 0 else (place, index)
                _check_one(inner, depth, at, bounds, storable, waiting)


def _check_one(
    value: Any, depth: int, place: _Place, bounds: JsonBounds, storable: bool, waiting: list[tuple[Any, int, _Place]]
) -> None:
    if isinstance(value, str):
        if len(value) > bounds.characters:
            raise BeyondBounds(_path(place), f"may have at most {bounds.characters:,} characters.")
        if storable and not _is_storable(value):
            raise BeyondBounds(_path(place), "may not have NUL or half a surrogate pair in it.")
    elif isinstance(value, dict | list):
        waiting.append((value, depth + 1, place))


def _check_name(name: str, place: _Place, bounds: JsonBounds, storable: bool) -> None:
    if len(name) > bounds.name_characters:
        message = f"may have no field whose name has more than {bounds.name_characters:,} characters."
        raise BeyondBounds(_path(place), message)
    if storable and not _is_storable(name):
        raise BeyondBounds(_path(place), "may have no field with NUL or half a surrogate pair in its name.")


def _is_storable(text: str) -> bool:
    return "\x00" not in text and (text.isascii() or _LONE_HALF.search(text) is None)


def _too_many_values(bounds: JsonBounds) -> str:
    return f"holds too much: the body may have at most {bounds.values:,} values."


def _path(place: _Place) -> str:
    parts: list[str] = []
    while place is not None:
        place, name = place
        parts.append(str(name))
    return ".".join(reversed(parts))
