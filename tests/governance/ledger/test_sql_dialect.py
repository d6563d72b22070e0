"""Rows by name, in both directions, and times as UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine

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


FIVE = datetime(2028, 2, 29, 5, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
@pytest.mark.parametrize("kept", [FIVE, FIVE.replace(tzinfo=None), "2028-02-29 05:00:00"])
def test_a_time_is_read_as_utc_whatever_the_machines_zone(kept: datetime | str, zone: str) -> None:
    with time_machine.travel(datetime(2028, 3, 1, tzinfo=ZoneInfo(zone)), tick=False):
        assert sql_dialect.moment(kept) == FIVE


@pytest.mark.parametrize(("severity", "refused"), [("ERROR", True), ("FATAL", False), ("PANIC", False), (None, False)])
def test_what_ends_the_session_says_nothing_of_a_commit(severity: str | None, refused: bool) -> None:
    error = Exception("from the server, or of the connection")
    assert not sql_dialect.is_refusal(error)
    error.diag = SimpleNamespace(severity_nonlocalized=severity)  # type: ignore[attr-defined]
    assert sql_dialect.is_refusal(error) is refused
