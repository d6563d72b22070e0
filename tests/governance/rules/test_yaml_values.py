"""YAML as people mean it: JSON's values exactly, each with its line, and nothing that surprises."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from governance.rules import yaml_values
from governance.rules.yaml_values import MOST_CHARACTERS, MOST_DEPTH, YamlError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("12.50", Decimal("12.50")),
        ("0.1", Decimal("0.1")),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ('""', ""),
        # YAML's own readings of these: 8, 10, false, 90, infinity, a date, a dictionary's merge.
        ("010", "010"),
        ("1_0", "1_0"),
        ("no", "no"),
        ("1:30", "1:30"),
        (".inf", ".inf"),
        ("2026-01-01", "2026-01-01"),
        ("1e3", "1e3"),
        ("<<", "<<"),
        ('"12"', "12"),
        ("'true'", "true"),
        ("9" * 101, "9" * 101),
        ("Zoë", "Zoë"),
    ],
)
def test_a_scalar_is_what_it_is_in_json_or_text(text: str, value: Any) -> None:
    (found,) = yaml_values.parse(f"[{text}]")[0]
    assert (type(found), found) == (type(value), value)


def test_lists_and_mappings_know_their_lines() -> None:
    value, lines = yaml_values.parse("budgets:\n  - window: day\n    limit:\n  - [1, 2]\n")
    assert value == {"budgets": [{"window": "day", "limit": None}, [1, 2]]}
    assert lines[()] == 1
    assert lines["budgets", 0, "limit"] == 3
    assert lines["budgets", 1, 1] == 4


def test_a_file_of_nothing_is_nothing() -> None:
    assert yaml_values.parse("# to be written\n") == (None, {})


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: &b [1]\nc: *b", 3, "*b stands for another value: write it out"),
        ("&a [*a]", 1, "*a stands for another value"),
        ("a: 1\na: 2", 2, "'a' is there twice: say it once"),
        ("a:\n  ? [1]\n  : 2", 2, "a name must be text"),
        ("a: !!python/object/apply:os.system [ls]", 1, "tag:yaml.org,2002:python/object/apply:os.system is a tag"),
        ("a: !!binary aGk=", 1, "is a tag of YAML: leave it out"),
        ("a: {b: [1, 2}", 1, "is no YAML: "),
        ("a: 1\n---\nb: 2", 2, "is no YAML: "),
        ("a: 'b", 1, "is no YAML: "),
        ("a: 1\nb: \x00", 2, "is no YAML: the character U+0000 may not be in it"),
        ("\n" + "[" * (MOST_DEPTH + 1), 2, f"is nested deeper than {MOST_DEPTH} levels"),
        ("[" * 500_000, 1, "is nested deeper than"),
        ("- " * 400_000, 1, "is nested deeper than"),
        ("a" * (MOST_CHARACTERS + 1), 1, "has more than 1,000,000 characters"),
    ],
)
def test_what_says_more_than_anybody_means_is_refused_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(YamlError) as refused:
        yaml_values.parse(text)
    assert says in str(refused.value)
    assert refused.value.line == line
