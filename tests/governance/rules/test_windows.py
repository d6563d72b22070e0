"""Windows: half open, in the tenant's time zone, without gap or overlap."""

import ast
import time
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from governance.rules.windows import ENDING_BY_ACT, Span, WindowKind, add_months, anchored_month, span_at

AUCKLAND = ZoneInfo("Pacific/Auckland")
LOS_ANGELES = ZoneInfo("America/Los_Angeles")
CALENDAR = [WindowKind.HOUR, WindowKind.DAY, WindowKind.WEEK, WindowKind.MONTH]
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
# Also zones of half and quarter hours, a change at midnight (Santiago, Beirut), a half-hour change (Lord Howe) and
# a day that never was (Apia, 30 December 2011).
ZONES = [
    ZoneInfo(name)
    for name in (
        "UTC",
        "Pacific/Auckland",
        "America/Los_Angeles",
        "Asia/Kathmandu",
        "Asia/Kolkata",
        "America/Santiago",
        "Asia/Beirut",
        "Australia/Lord_Howe",
        "Pacific/Apia",
    )
]
TILING = [(kind, tz) for kind in CALENDAR for tz in ZONES]
# Hypothesis wants naive bounds.
FROM, UNTIL = datetime(2005, 1, 1), datetime(2050, 1, 1)  # noqa: DTZ001
INSTANTS = st.datetimes(min_value=FROM, max_value=UNTIL, timezones=st.just(UTC))


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc]


@given(st.sampled_from(TILING), INSTANTS)
@example((WindowKind.DAY, ZoneInfo("Pacific/Apia")), utc(2011, 12, 30, 9, 59))
@example((WindowKind.DAY, ZoneInfo("Pacific/Apia")), utc(2011, 12, 30, 10))
@example((WindowKind.DAY, ZoneInfo("America/Santiago")), utc(2026, 9, 6, 4))
@example((WindowKind.DAY, LORD_HOWE), utc(2026, 4, 4, 15, 10))
@example((WindowKind.HOUR, LORD_HOWE), utc(2026, 4, 4, 15, 10))
@example((WindowKind.HOUR, LORD_HOWE), utc(2026, 10, 3, 15, 40))
def test_the_span_holds_its_instant_and_the_next_one_starts_where_it_ends(kind_and_zone, at):
    kind, tz = kind_and_zone
    span = span_at(kind, at, tz)
    assert span.ends_at is not None
    assert at in span
    assert span_at(kind, span.starts_at, tz) == span
    assert span_at(kind, span.ends_at - timedelta(microseconds=1), tz) == span
    following = span_at(kind, span.ends_at, tz)
    assert following.starts_at == span.ends_at
    assert span.starts_at.utcoffset() == span.ends_at.utcoffset() == timedelta(0)


ENDLESS = [WindowKind.LIFETIME, *(kind for kind in WindowKind if kind.ends_by_act)]


@given(st.sampled_from(ENDLESS), INSTANTS, st.sampled_from(ZONES))
def test_a_window_without_a_calendar_starts_now_and_never_ends_by_time(kind, at, tz):
    span = span_at(kind, at, tz)
    assert (span.starts_at, span.ends_at) == (at, None)
    assert at in span
    assert at + timedelta(days=10_000) in span


def test_a_span_is_half_open():
    span = Span(utc(2026, 1, 1), utc(2026, 1, 2))
    assert utc(2026, 1, 1) in span
    assert utc(2026, 1, 2) not in span
    assert utc(2025, 12, 31, 23, 59, 59) not in span


@pytest.mark.parametrize(
    ("at", "tz", "starts_at", "hours"),
    [
        # Auckland leaves daylight-saving time on 5 April 2026 and enters it on 27 September.
        (utc(2026, 4, 4, 20), AUCKLAND, utc(2026, 4, 4, 11), 25),
        (utc(2026, 9, 26, 20), AUCKLAND, utc(2026, 9, 26, 12), 23),
        (utc(2026, 7, 1, 0), AUCKLAND, utc(2026, 6, 30, 12), 24),
        # Los Angeles enters it on 8 March 2026 and leaves it on 1 November.
        (utc(2026, 3, 8, 20), LOS_ANGELES, utc(2026, 3, 8, 8), 23),
        (utc(2026, 11, 1, 20), LOS_ANGELES, utc(2026, 11, 1, 7), 25),
        (utc(2026, 7, 1, 0), LOS_ANGELES, utc(2026, 6, 30, 7), 24),
    ],
)
def test_a_day_has_23_or_25_hours_when_the_clocks_change(at, tz, starts_at, hours):
    assert span_at(WindowKind.DAY, at, tz) == Span(starts_at, starts_at + timedelta(hours=hours))


def test_the_repeated_hour_of_autumn_is_two_windows():
    first, second = (
        span_at(WindowKind.HOUR, at, LOS_ANGELES) for at in (utc(2026, 11, 1, 8, 30), utc(2026, 11, 1, 9, 30))
    )
    assert first == Span(utc(2026, 11, 1, 8), utc(2026, 11, 1, 9))
    assert second == Span(utc(2026, 11, 1, 9), utc(2026, 11, 1, 10))


def test_where_the_clocks_move_by_half_an_hour_the_last_one_of_the_day_is_half_as_long():
    last = span_at(WindowKind.HOUR, utc(2026, 4, 5, 13, 10), LORD_HOWE)
    assert last == Span(utc(2026, 4, 5, 13), utc(2026, 4, 5, 13, 30))
    assert span_at(WindowKind.HOUR, utc(2026, 4, 5, 13, 40), LORD_HOWE).starts_at == utc(2026, 4, 5, 13, 30)


def test_an_hour_follows_the_wall_clock_of_a_zone_off_by_45_minutes():
    span = span_at(WindowKind.HOUR, utc(2026, 5, 1, 10, 20), ZoneInfo("Asia/Kathmandu"))
    assert span == Span(utc(2026, 5, 1, 10, 15), utc(2026, 5, 1, 11, 15))


@pytest.mark.parametrize(
    ("at", "tz", "monday"),
    [
        (utc(2026, 3, 8, 23, 59), ZoneInfo("UTC"), utc(2026, 3, 2)),
        (utc(2026, 3, 9), ZoneInfo("UTC"), utc(2026, 3, 9)),
        # Monday in Auckland while it is Sunday in UTC.
        (utc(2026, 7, 5, 13), AUCKLAND, utc(2026, 7, 5, 12)),
        (utc(2026, 1, 1), ZoneInfo("UTC"), utc(2025, 12, 29)),
    ],
)
def test_a_week_starts_on_monday(at, tz, monday):
    assert span_at(WindowKind.WEEK, at, tz).starts_at == monday


@pytest.mark.parametrize(
    ("at", "tz", "span"),
    [
        (utc(2028, 2, 29, 12), ZoneInfo("UTC"), Span(utc(2028, 2, 1), utc(2028, 3, 1))),
        (utc(2026, 12, 31, 23), ZoneInfo("UTC"), Span(utc(2026, 12, 1), utc(2027, 1, 1))),
        # A month with a change of the clocks: 743 hours instead of 744.
        (utc(2026, 3, 15), LOS_ANGELES, Span(utc(2026, 3, 1, 8), utc(2026, 4, 1, 7))),
        # Already April in Auckland.
        (utc(2026, 3, 31, 12), AUCKLAND, Span(utc(2026, 3, 31, 11), utc(2026, 4, 30, 12))),
    ],
)
def test_a_month_is_the_tenants_calendar_month(at, tz, span):
    assert span_at(WindowKind.MONTH, at, tz) == span


@pytest.mark.parametrize(
    ("anchor", "months", "expected"),
    [
        (date(2026, 1, 31), 1, date(2026, 2, 28)),
        (date(2026, 1, 31), 2, date(2026, 3, 31)),
        (date(2026, 1, 31), 3, date(2026, 4, 30)),
        (date(2028, 1, 31), 1, date(2028, 2, 29)),
        (date(2028, 2, 29), 12, date(2029, 2, 28)),
        (date(2028, 2, 29), 48, date(2032, 2, 29)),
        (date(2026, 11, 30), 3, date(2027, 2, 28)),
        (date(2026, 3, 31), -1, date(2026, 2, 28)),
        (date(2026, 1, 15), -1, date(2025, 12, 15)),
    ],
)
def test_months_are_counted_from_the_anchor(anchor, months, expected):
    assert add_months(anchor, months) == expected


def test_a_cycle_anchored_on_the_31st_renews_on_the_last_day_of_shorter_months():
    anchor = utc(2026, 1, 31, 10)
    starts, at = [], anchor
    for _ in range(5):
        span = anchored_month(anchor, at)
        starts.append((span.starts_at.month, span.starts_at.day, span.starts_at.hour))
        at = span.ends_at
    assert starts == [(1, 31, 10), (2, 28, 10), (3, 31, 10), (4, 30, 10), (5, 31, 10)]


@given(INSTANTS, st.timedeltas(timedelta(0), timedelta(days=4000)))
@example(utc(2028, 2, 29, 23, 59), timedelta(days=366))
@example(utc(2026, 1, 31, 10), timedelta(days=28, hours=-1))
def test_anchored_months_tile_time_from_the_anchor_on(anchor, later):
    at = anchor + later
    span = anchored_month(anchor, at)
    assert at in span
    assert anchored_month(anchor, span.starts_at) == span
    assert anchored_month(anchor, span.ends_at).starts_at == span.ends_at
    assert timedelta(days=28) <= span.ends_at - span.starts_at <= timedelta(days=31)


def test_stripes_cycle_is_named_in_one_place() -> None:
    """So that what ends by an act, or follows Stripe, is asked of the kind and not of a word."""
    root = Path(__file__).parents[3]
    named = [
        f"{path.relative_to(root)}:{node.lineno}"
        for package in ("governance", "billing", "llm", "config")
        for path in (root / package).rglob("*.py")
        if "migrations" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value == WindowKind.BILLING_CYCLE.value
    ]
    assert [place.partition(":")[0] for place in named] == ["governance/rules/windows.py"], named


def test_windows_are_utc_whatever_the_zone_of_the_process(monkeypatch) -> None:
    at, new_york = datetime(2026, 3, 10, 21, 5, tzinfo=timezone(timedelta(hours=-5))), ZoneInfo("America/New_York")
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        spans = [span_at(kind, at, new_york) for kind in WindowKind] + [anchored_month(at, at)]
        moments = [moment for span in spans for moment in (span.starts_at, span.ends_at) if moment]
        assert {moment.utcoffset() for moment in moments} == {timedelta(0)}
        # The months of a cycle are counted in UTC: in Auckland this anchor's is a day later.
        assert anchored_month(utc(2026, 1, 31, 23), utc(2026, 2, 28, 23)).starts_at == utc(2026, 2, 28, 23)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_billing_cycle_alone_ends_by_an_act() -> None:
    assert ENDING_BY_ACT == (WindowKind.BILLING_CYCLE,)
    assert [kind for kind in WindowKind if kind.ends_by_act] == [WindowKind.BILLING_CYCLE]
