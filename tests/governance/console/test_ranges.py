"""The range of time that a page's address names."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.http import QueryDict

from governance.console import ranges
from governance.console.ranges import Chosen

PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)


def chosen(address: str, *, now: datetime = NOON, zone: ZoneInfo = PARIS) -> Chosen:
    return ranges.chosen(QueryDict(address), now=now, zone=zone)


def test_seven_days_are_the_usual_range_and_end_with_today() -> None:
    found = chosen("")
    assert (found.name, found.first, found.last) == ("7d", date(2026, 11, 22), date(2026, 11, 28))
    assert found.starts_at == datetime(2026, 11, 22, tzinfo=PARIS)
    assert found.ends_at == datetime(2026, 11, 29, tzinfo=PARIS)


def test_twenty_four_hours_are_full_hours_and_drawn_as_hours() -> None:
    found = chosen("range=24h")
    assert (found.starts_at, found.ends_at) == (
        datetime(2026, 11, 27, 13, tzinfo=UTC),
        datetime(2026, 11, 28, 13, tzinfo=UTC),
    )
    assert found.is_of_hours
    assert not chosen("range=7d").is_of_hours
    assert found.before.starts_at == found.starts_at - timedelta(hours=24)


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_a_day_is_the_zones_own_also_where_clocks_are_changed(day: str, hours: int) -> None:
    found = chosen(f"from={day}&to={day}")
    assert found.ends_at.astimezone(UTC) - found.starts_at.astimezone(UTC) == timedelta(hours=hours)
    assert found.is_of_hours


def test_before_it_are_as_many_days_whatever_their_hours() -> None:
    found = chosen("from=2026-03-30&to=2026-03-31")
    assert found.before.starts_at == datetime(2026, 3, 28, tzinfo=PARIS)
    assert found.before.ends_at == found.starts_at


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("range=year", 'range: is one of 24h, 7d, 30d, custom, not "year".'),
        ("range=custom", 'from: is a day such as 2026-03-29, not "".'),
        ("from=2026-02-30&to=2026-03-01", 'from: is a day such as 2026-03-29, not "2026-02-30".'),
        ("from=2026-03-02&to=2026-03-01", "from: is after the last day."),
        ("from=2020-03-02&to=2026-03-01", "from: at most 400 days are shown at once."),
        ("from=0001-01-01&to=0001-01-02", "from: is between the years 2000 and 9000."),
        ("from=2026-03-01&to=9999-12-31", "to: is between the years 2000 and 9000."),
    ],
)
def test_what_is_no_range_is_the_usual_one_with_a_sentence(address: str, said: str) -> None:
    found = chosen(address)
    assert (found.name, found.error) == ("7d", said)


@pytest.mark.parametrize("address", ["range=24h", "range=30d", "from=2026-03-01&to=2026-03-04"])
def test_its_query_means_the_same_range(address: str) -> None:
    found = chosen(address)
    query: Any = found.query()
    assert chosen("&".join(f"{name}={value}" for name, value in query.items())) == found


def test_the_switch_keeps_what_else_the_address_says() -> None:
    links = ranges.choices(chosen("range=30d"), {"by": "agent"})
    assert links == [
        ("?by=agent&range=24h", "24 hours", False),
        ("?by=agent&range=7d", "7 days", False),
        ("?by=agent&range=30d", "30 days", True),
    ]
