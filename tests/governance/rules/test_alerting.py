"""Who is told of what, and when."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from governance.rules import alert_kinds, alerting
from governance.rules.alerting import ChannelRule, Told

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
PARIS = ZoneInfo("Europe/Paris")


def at(hour: int, minute: int = 0, day: int = 10) -> datetime:
    return datetime(2026, 3, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("rule", "notice", "told"),
    [
        ({}, {}, True),
        ({"min_severity": "critical"}, {}, False),
        ({"min_severity": "critical"}, {"severity": "critical"}, True),
        ({}, {"severity": "info"}, False),
        ({"areas": ["billing"]}, {}, False),
        ({"areas": ["budgets", "billing"]}, {}, True),
        ({"tenants": ["acme"]}, {}, False),
        ({"tenants": ["acme"]}, {"tenant": "acme"}, True),
        # A customer's own.
        ({"owner": "acme"}, {"tenant": "acme"}, False),
        ({"owner": "acme"}, {"tenant": "acme", "is_for_tenant": True}, True),
        ({"owner": "acme"}, {"tenant": "other", "is_for_tenant": True}, False),
        ({"owner": "acme"}, {}, False),
    ],
)
def test_a_channel_is_told_of_what_its_rule_says(rule: dict[str, Any], notice: dict[str, Any], told: bool) -> None:
    made = Told(**{"severity": "warning", "area": "budgets", **notice})
    assert alerting.is_told(ChannelRule(**rule), made) is told


@pytest.mark.parametrize(
    ("rule", "now", "due"),
    [
        ({}, NOON, NOON),
        ({"pace": "hourly"}, at(12, 20), at(13)),
        ({"pace": "daily"}, at(7, 59), at(8)),
        ({"pace": "daily"}, at(8), at(8, day=11)),
        ({"pace": "daily", "zone": PARIS}, at(6, 59), at(7)),
        # Quiet from nine to five, and through midnight.
        ({"quiet_from": time(9), "quiet_until": time(17)}, NOON, at(17)),
        ({"quiet_from": time(9), "quiet_until": time(17)}, at(17), at(17)),
        ({"quiet_from": time(9), "quiet_until": time(17)}, at(8, 59), at(8, 59)),
        ({"quiet_from": time(22), "quiet_until": time(7)}, at(23), at(7, day=11)),
        ({"quiet_from": time(22), "quiet_until": time(7)}, at(6, 59), at(7)),
        ({"quiet_from": time(22), "quiet_until": time(7)}, at(7), at(7)),
        ({"quiet_from": time(22), "quiet_until": time(7), "zone": PARIS}, at(21, 30), at(6, day=11)),
        ({"quiet_from": time(7), "quiet_until": time(7)}, at(7), at(7)),
        ({"quiet_from": time(7)}, at(7), at(7)),
        # A digest that would come in quiet hours comes after them.
        ({"pace": "hourly", "quiet_from": time(12), "quiet_until": time(17)}, NOON, at(17)),
    ],
)
def test_what_can_wait_waits_for_its_hour_and_what_is_critical_does_not(
    rule: dict[str, Any], now: datetime, due: datetime
) -> None:
    made = ChannelRule(**rule)
    assert alerting.due_at(made, "warning", now) == due
    assert alerting.due_at(made, "critical", now) == now


def test_quiet_hours_end_by_the_clock_on_the_wall_where_clocks_change() -> None:
    # In the night to 29 March 2026 Paris skips an hour.
    rule = ChannelRule(quiet_from=time(22), quiet_until=time(7), zone=PARIS)
    night = datetime(2026, 3, 28, 22, 0, tzinfo=UTC)
    assert alerting.due_at(rule, "info", night) == datetime(2026, 3, 29, 5, 0, tzinfo=UTC)


def test_tries_come_further_apart_and_end_after_a_day() -> None:
    waits = [alerting.delay(tries) for tries in range(1, alerting.MOST_TRIES)]
    assert waits == sorted(waits)
    assert waits[0] == alerting.delay(0) == timedelta(seconds=30)
    assert timedelta(hours=20) < sum(waits, timedelta()) < timedelta(hours=26)
    assert not alerting.is_given_up(alerting.MOST_TRIES - 1)
    assert alerting.is_given_up(alerting.MOST_TRIES)


def test_words_from_outside_are_one_line_and_ring_nobody() -> None:
    assert alerting.one_line("a\r\nBcc: b\x00\u202e  c", 50) == "a Bcc: b c"
    assert alerting.one_line("x" * 20, 10) == "x" * 9 + "…"
    assert "@everyone" not in alerting.calls_nobody("@everyone <!channel>")
    assert "<!channel" not in alerting.calls_nobody("@everyone <!channel>")
    # What a chat would show as a link that says something other than where it leads.
    for link in (
        "[Approve](https://evil.example)",
        "<https://evil.example|Approve>",
        '<a href="https://evil.example">',
    ):
        told = alerting.calls_nobody(link)
        assert "](" not in told
        assert "<h" not in told
        assert "<a" not in told


def test_severities_and_kinds() -> None:
    assert alerting.gravest({"info", "critical", "warning"}) == "critical"
    assert alerting.graver_than("info") == ("warning", "critical")
    assert alerting.graver_than("critical") == ()
    assert alert_kinds.named("ledger_drift", alert_kinds.OWN).title == "The ledger has drifted"
    assert alert_kinds.named("nobody_knows", alert_kinds.OWN).title == "Nobody knows"
