"""Rows by name, in both directions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from governance.ledger import sql_dialect
from governance.ledger.sql_dialect import Columns, Shape, split

ONE = Columns("a", "id window")
TWO = Columns("b", "id rules", as_text=["rules"])


def test_a_select_and_what_is_read_of_its_rows_name_the_same_columns() -> None:
    assert f"{ONE}, {TWO}" == 'a."id", a."window", b."id", CAST(b."rules" AS text)'
    [(one, two)] = split([(1, "day", 2, "[]")], ONE, TWO)
    assert (one.id, one.window, two.id, two.rules) == (1, "day", 2, "[]")


@pytest.mark.django_db
def test_what_goes_in_by_attribute_comes_out_by_name() -> None:
    shape = Shape("id bigint, agent=caller.agent text, at=seen text")
    caller = SimpleNamespace(agent="invoices")
    rows = shape.rows([SimpleNamespace(id=7, caller=caller)], at="noon")
    read = Columns("v", "at agent id")
    [row] = map(read.make, sql_dialect.select(f"SELECT {read} FROM {shape}", [shape.pack(rows)]))
    assert row._asdict() == {"at": "noon", "agent": "invoices", "id": 7}


@pytest.mark.parametrize("given", [{"agent": ""}, {"at": "", "agent": ""}, {"when": ""}])
def test_only_the_last_columns_can_be_given_for_all(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the last columns are"):
        Shape("id bigint, agent text, at text").rows([], **given)
