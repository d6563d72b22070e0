"""Tables as spreadsheets read them."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from governance.rules import csv_tables

SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20\u2212"


def written(value: Any) -> str:
    header, line = csv_tables.lines_of([{"name": value, "next": "end"}], ["name", "next"])
    assert header == "name,next\r\n"
    return line


def cells(value: Any, separator: str) -> list[str]:
    """Of all that a spreadsheet reads out of the line where these are between its cells."""
    return [cell for row in csv.reader(written(value).splitlines(), delimiter=separator) for cell in row]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(
    "hidden", ["{}1+1", " {}1+1", "x;{}1+1", 'x"; {}1+1', "x\t{}1+1", "x\n{}1+1", "x;;\u00a0{}1+1", ";{}1"]
)
def test_no_part_of_a_cell_begins_a_formula(separator: str, sign: str, hidden: str) -> None:
    for value in (hidden.format(sign), [hidden.format(sign)]):
        for cell in cells(value, separator):
            assert not cell.strip(' \u00a0"').startswith(tuple(SIGNS)), cell


@pytest.mark.parametrize(
    "value", ["-12.5", -3, "a-b", "a = b", "Zoë; and more", "x@example.com", "2026-01-01T00:00:00Z", "'"]
)
def test_everything_else_stays_as_it_is(value: Any) -> None:
    assert cells(value, ",") == [str(value), "end"]


def test_nothing_is_an_empty_cell() -> None:
    assert cells(None, ",") == ["", "end"]
