"""YAML of people becomes what JSON could say, exactly, and where each value stands. Pure.

YAML says more than anybody means: 010 is 8, `no` is false, 1:30 is 90, a number with a point is a float, a name may
come twice and an alias may stand for millions of values. Here a plain number, true, false and null are what they are in
JSON, numbers with a point are Decimals, and everything else is text; the rest is refused.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MOST_CHARACTERS = 1_000_000
MOST_DEPTH = 20

# Where a value stands: names and numbers from the outermost on, ("budgets", 2, "limit").
Place = tuple[str | int, ...]

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}
_KINDS = {
    ScalarNode: "tag:yaml.org,2002:str",
    SequenceNode: "tag:yaml.org,2002:seq",
    MappingNode: "tag:yaml.org,2002:map",
}


class YamlError(ValueError):
    """The text cannot be read; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _PlainLoader(yaml.SafeLoader):
    """Composes nodes whose scalars are texts; refuses aliases, and nests no deeper than MOST_DEPTH."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # as in the stubs
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise YamlError(line, f"*{event.anchor} stands for another value: write it out")
        if self.depth == MOST_DEPTH:
            raise YamlError(line, f"is nested deeper than {MOST_DEPTH} levels")
        self.depth += 1
        node: Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse(text: str) -> tuple[Any, dict[Place, int]]:
    """The value of a text, and by its place the line of each value in it. Raises YamlError."""
    if len(text) > MOST_CHARACTERS:
        raise YamlError(1, f"has more than {MOST_CHARACTERS:,} characters")
    try:
        root = yaml.compose(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, f"is no YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(line, f"is no YAML: the character U+{error.character:04X} may not be in it") from error
    lines: dict[Place, int] = {}
    return None if root is None else _value(root, (), lines), lines


def _value(node: Node, place: Place, lines: dict[Place, int]) -> Any:
    line = lines[place] = node.start_mark.line + 1
    if node.tag != _KINDS[type(node)]:
        raise YamlError(line, f"{node.tag} is a tag of YAML: leave it out")
    if isinstance(node, ScalarNode):
        return _scalar(node.value, is_plain=node.style is None)
    if isinstance(node, SequenceNode):
        return [_value(inner, (*place, index), lines) for index, inner in enumerate(node.value)]
    return _mapping(node, place, lines)


def _mapping(node: Node, place: Place, lines: dict[Place, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode):
            raise YamlError(line, "a name must be text")
        if key.value in found:
            raise YamlError(line, f"{key.value!r} is there twice: say it once")
        found[key.value] = _value(inner, (*place, key.value), lines)
    return found


def _scalar(text: str, *, is_plain: bool) -> Any:
    if not is_plain:
        return text
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.fullmatch(text)
    # Longer ones are no numbers that anything here counts, and Python reads no more than a few thousand digits.
    if number is None or len(text) > 100:
        return text
    return Decimal(text) if number[1] else int(text)
