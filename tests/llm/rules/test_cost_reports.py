"""Providers' reports of their costs: read to the nanodollar, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from llm.rules import cost_reports
from llm.rules.cost_reports import OtherCurrency, ReportPage, ReportUnreadable

DAY = date(2026, 3, 9)
START = int(datetime(2026, 3, 9, tzinfo=UTC).timestamp())


def openai(*values: str, start: str = str(START), end: str = str(START + 86_400), currency: str = '"usd"') -> bytes:
    """`values` are JSON."""
    results = ", ".join(f'{{"amount": {{"value": {value}, "currency": {currency}}}}}' for value in values)
    bucket = f'{{"start_time": {start}, "end_time": {end}, "results": [{results}]}}'
    return f'{{"data": [{bucket}], "has_more": false, "next_page": null}}'.encode()


def anthropic(*values: str, start: str = '"2026-03-09T00:00:00Z"', end: str = '"2026-03-10T00:00:00Z"') -> bytes:
    results = ", ".join(f'{{"amount": {value}, "currency": "USD"}}' for value in values)
    bucket = f'{{"starting_at": {start}, "ending_at": {end}, "results": [{results}]}}'
    return f'{{"data": [{bucket}], "has_more": false, "next_page": null}}'.encode()


def openrouter(*rows: Any) -> bytes:
    return json.dumps({"data": rows}).encode()


@pytest.mark.parametrize(
    ("values", "nanos"),
    [
        ((), 0),
        (("0.06",), 60_000_000),
        (('"0.06"',), 60_000_000),
        (("12",), 12_000_000_000),
        (("1e-7", "2E-7"), 300),
        (('"0E-6176"', "0"), 0),
        (("-0.0",), 0),
        # Rounded once, half up: two halves are one nanodollar.
        (("0.0000000005",), 1),
        (("0.0000000005", "0.0000000005"), 1),
        (("0.00000000049999999999999",), 0),
        # However many digits both ends of it have.
        (("1000000", "0.00000000049999999999999999999999"), 10**15),
        (("999999999.999999999", "0.000000001"), 10**18),
        (("1e-999999",), 0),
    ],
)
def test_openai_s_dollars_are_nanodollars_exactly(values: tuple[str, ...], nanos: int) -> None:
    assert cost_reports.openai_page(openai(*values)) == ReportPage({DAY: nanos}, "")


@pytest.mark.parametrize(
    ("values", "nanos"), [((), 0), (('"123.45"',), 1_234_500_000), (("100", '"0.0000001"'), 1_000_000_001)]
)
def test_anthropic_s_amounts_are_cents(values: tuple[str, ...], nanos: int) -> None:
    assert cost_reports.anthropic_page(anthropic(*values)) == ReportPage({DAY: nanos}, "")


def test_a_page_names_the_next_one() -> None:
    body = b'{"data": [], "has_more": true, "next_page": "page_2"}'
    assert cost_reports.openai_page(body) == ReportPage({}, "page_2")


@pytest.mark.parametrize(
    "value",
    [
        "-0.01",
        '"-1"',
        "1000000001e2",
        "1e999999",
        '"1e999999"',
        "1e9999999999",
        "NaN",
        '"NaN"',
        "Infinity",
        '"inf"',
        '"0x10"',
        '"1,000"',
        '"1_000"',
        '" 1 "',
        '""',
        '"٣"',
        "null",
        "true",
        "[]",
        "{}",
        "9" * 101,
        '"' + "9" * 101 + '"',
    ],
)
@pytest.mark.parametrize(
    ("body", "read"), [(openai, cost_reports.openai_page), (anthropic, cost_reports.anthropic_page)]
)
def test_an_amount_that_cannot_be_makes_a_report_unreadable(
    body: Callable[..., bytes], read: Callable[[bytes], ReportPage], value: str
) -> None:
    with pytest.raises(ReportUnreadable):
        read(body("0.01", value))


def test_many_amounts_are_no_more_than_a_day_may_cost() -> None:
    with pytest.raises(ReportUnreadable, match="cannot be"):
        cost_reports.openai_page(openai("600000000", "600000000"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"{}",
        b'{"data": {}, "has_more": false}',
        b'{"data": [], "data": [], "has_more": false}',
        b'{"data": [1], "has_more": false}',
        b'{"data": [{"results": {}}], "has_more": false}',
        b'{"data": [{"results": [1]}], "has_more": false}',
        b'{"data": [], "has_more": "no"}',
        b'{"data": []}',
        b'{"data": [], "has_more": true}',
        b'{"data": [], "has_more": true, "next_page": ""}',
        b'{"data": [], "has_more": true, "next_page": 2}',
        b'{"data": [], "has_more": true, "next_page": "' + b"x" * 1001 + b'"}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_page_is_unreadable(body: bytes) -> None:
    for read in (cost_reports.openai_page, cost_reports.anthropic_page):
        with pytest.raises(ReportUnreadable):
            read(body)


@pytest.mark.parametrize(
    "times",
    [
        {"start": str(START + 3600), "end": str(START + 3600 + 86_400)},
        {"end": str(START + 3600)},
        {"start": "-86400", "end": "0"},
        {"start": "0.5"},
        {"start": "1e40"},
        {"start": '"2026-03-09"'},
        {"start": "null"},
    ],
)
def test_a_bucket_of_openai_s_that_is_no_day_is_unreadable(times: dict[str, str]) -> None:
    with pytest.raises(ReportUnreadable):
        cost_reports.openai_page(openai("1", **times))


@pytest.mark.parametrize(
    "times",
    [
        {"start": '"2026-03-09T01:00:00Z"'},
        {"start": '"2026-03-09T00:00:00+01:00"'},
        {"start": '"2026-03-09T00:00:00"'},
        {"end": '"2026-03-11T00:00:00Z"'},
        {"start": '"yesterday"'},
        {"start": "1"},
    ],
)
def test_a_bucket_of_anthropic_s_that_is_no_day_is_unreadable(times: dict[str, str]) -> None:
    with pytest.raises(ReportUnreadable):
        cost_reports.anthropic_page(anthropic('"1"', **times))


def test_another_currency_is_said_to_be_one() -> None:
    with pytest.raises(OtherCurrency):
        cost_reports.openai_page(openai("0.01", currency='"eur"'))
    with pytest.raises(ReportUnreadable, match="not said"):
        cost_reports.openai_page(openai("0.01", currency="null"))


def test_a_day_that_is_told_twice_is_unreadable() -> None:
    with pytest.raises(ReportUnreadable, match="twice"):
        cost_reports.merged({DAY: 1}, {DAY: 1})
    once = openai("1").decode().removeprefix('{"data": [').partition('], "has_more"')[0]
    with pytest.raises(ReportUnreadable, match="twice"):
        cost_reports.openai_page(f'{{"data": [{once}, {once}], "has_more": false}}'.encode())


def test_openrouter_s_rows_are_summed_by_day_with_what_own_keys_paid() -> None:
    found = cost_reports.openrouter_days(
        openrouter(
            {"date": "2026-03-09", "usage": 0.015, "byok_usage_inference": 0.012},
            {"date": "2026-03-09 00:00:00", "usage": "0.5"},
            {"date": "2025-01-01", "usage": 1},
        ),
        today=DAY + timedelta(days=1),
    )
    assert found[DAY] == 527_000_000
    # A day of the last thirty that nobody called on cost nothing; of an older one nothing is known.
    assert found[DAY - timedelta(days=29)] == 0
    assert DAY - timedelta(days=30) not in found
    assert DAY + timedelta(days=1) not in found


@pytest.mark.parametrize(
    "row",
    [
        1,
        {},
        {"date": "2026-03-09"},
        {"date": "2026-02-30", "usage": 1},
        {"date": 20260309, "usage": 1},
        {"date": "2026-03-09", "usage": -1},
        {"date": "2026-03-09", "usage": 1, "byok_usage_inference": "much"},
    ],
)
def test_an_odd_row_of_openrouter_s_makes_all_unreadable(row: Any) -> None:
    with pytest.raises(ReportUnreadable):
        cost_reports.openrouter_days(openrouter({"date": "2026-03-09", "usage": 1}, row), today=DAY)
