"""What was spent, taken apart: each figure beside rows that the ledger made."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from governance import ledger
from governance.actions.refusal_log import NotedRefusal, RefusalLog
from governance.models import Tenant
from governance.queries import breakdown
from governance.queries.breakdown import MoreThanRead, Question, TooManyGroups
from governance.queries.spend import EVERYTHING, Reader, TimeRange
from governance.rules.calls import Usage
from governance.rules.spend_sums import SpendSums
from tests import factories
from tests.factories import NOON

pytestmark = pytest.mark.usefixtures("ledger_holds")
UTC_DAYS = ZoneInfo("UTC")
DAY = TimeRange(NOON - timedelta(hours=12), NOON + timedelta(hours=12))


def spent(cost: str, *, at: datetime = NOON, owner: Tenant | None = None, **more: Any) -> None:
    usage = more.pop("usage", Usage("mistral", "large", 100, 40, 20))
    certainty = more.pop("certainty", "confirmed")
    made = factories.reporting(cost, by=factories.caller(owner, **more), occurred_at=at)
    ledger.record(replace(made, usage=usage, certainty=certainty), now=max(at, NOON))


def refused(
    count: int, *, at: datetime = NOON, owner: Tenant | None = None, model: str = "large", **named: str
) -> None:
    log = RefusalLog()
    for number in range(count):
        caller = factories.caller(owner, **named)
        log.note(NotedRefusal(f"r-{model}-{number}", caller, model, (), "stopped", 403, at, sentence="Stopped."))
    log.flush()


def asked(*, period: TimeRange = DAY, zone: ZoneInfo = UTC_DAYS, reader: Reader = EVERYTHING, **where: str) -> Question:
    return Question(reader=reader, period=period, zone=zone, where={name: (text,) for name, text in where.items()})


def dollars(found: dict[Any, SpendSums]) -> dict[Any, str]:
    return {key: f"{sums.cost_nanos / 10**9:.2f}" for key, sums in found.items()}


def test_agents_of_one_name_are_two_where_they_are_two_customers() -> None:
    spent("1", agent="support")
    spent("0.25", agent="support")
    spent("2", agent="support", owner=factories.tenant("globex"))
    found = breakdown.costs(asked(), ("tenant", "agent"))
    assert found == {
        ("acme", "support"): SpendSums(factories.nanos("1.25"), 2, 200, 80, 40),
        ("globex", "support"): SpendSums(factories.nanos("2"), 1, 100, 40, 20),
    }
    assert breakdown.costs_alone(asked(), ("tenant",)) == {
        ("acme",): factories.nanos("1.25"),
        ("globex",): factories.nanos("2"),
    }


def test_models_and_providers_are_those_that_served() -> None:
    spent("1")
    spent("2", usage=Usage("openai", "large", 1, 0, 1))
    assert dollars(breakdown.costs(asked(), ("model",))) == {("large",): "3.00"}
    assert dollars(breakdown.costs(asked(), ("provider",))) == {("mistral",): "1.00", ("openai",): "2.00"}
    assert dollars(breakdown.costs(asked(provider="openai"), ("model",))) == {("large",): "2.00"}


def test_users_tasks_and_keys_are_read_from_the_entries_and_add_up_to_the_rollups() -> None:
    _, key = factories.key()
    spent("1", user="zoe", task="t-1", key_id=key.pk, key_prefix=key.prefix)
    spent("0.50", user="zoe")
    spent("2", user="zoe", owner=factories.tenant("globex"))
    users = breakdown.costs(asked(), ("tenant", "user"))
    assert users == {
        ("acme", "zoe"): SpendSums(factories.nanos("1.50"), 2, 200, 80, 40),
        ("globex", "zoe"): SpendSums(factories.nanos("2"), 1, 100, 40, 20),
    }
    assert dollars(breakdown.costs(asked(), ("task",))) == {("t-1",): "1.00", ("",): "2.50"}
    assert dollars(breakdown.costs(asked(), ("key",))) == {(key.prefix,): "1.00", ("",): "2.50"}
    # By a user the rollups cannot be filtered either.
    assert dollars(breakdown.costs(asked(user="zoe", tenant="acme"), ("model",))) == {("large",): "1.50"}


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 7, 1), 24)])
def test_a_customers_day_has_the_hours_that_its_clocks_give_it(day: date, hours: int) -> None:
    paris = ZoneInfo("Europe/Paris")
    midnight = datetime(day.year, day.month, day.day, tzinfo=paris)
    begin = midnight.astimezone(UTC)
    for hour in range(-1, hours + 1):
        spent("1", at=begin + timedelta(hours=hour, minutes=30))
    period = TimeRange(midnight - timedelta(days=1), midnight + timedelta(days=2))
    found = breakdown.costs(asked(period=period, zone=paris), ("day",))
    assert dollars(found) == {
        (day - timedelta(days=1),): "1.00",
        (day,): f"{hours}.00",
        (day + timedelta(days=1),): "1.00",
    }
    alone = breakdown.costs(asked(period=TimeRange(midnight, midnight + timedelta(days=1)), zone=paris), ("hour",))
    assert len(alone) == hours


def test_days_and_hours_of_utc_are_added_up_by_the_database() -> None:
    spent("1", at=NOON - timedelta(hours=12))
    spent("2", at=NOON + timedelta(minutes=59))
    period = TimeRange(NOON - timedelta(days=1), NOON + timedelta(days=1))
    with CaptureQueriesContext(
        connection,
    ) as queries:
        found = breakdown.costs(asked(period=period), ("day",))
    assert dollars(found) == {(date(2026, 3, 10),): "3.00"}
    assert dollars(breakdown.costs(asked(period=period), ("hour",))) == {
        (datetime(2026, 3, 10, tzinfo=UTC),): "1.00",
        (NOON,): "2.00",
    }
    # Django's functions of dates are calls of Python for each row there.
    assert "django_" not in queries[0]["sql"]


def test_an_hour_that_midnight_falls_into_is_of_the_day_that_it_begins_in() -> None:
    kolkata = ZoneInfo("Asia/Kolkata")
    midnight = datetime(2026, 3, 10, tzinfo=kolkata)
    # A quarter before and after midnight, both in the hour that begins at 23:30 there.
    for minutes in (-15, 15):
        spent("1", at=midnight + timedelta(minutes=minutes))
        spent("1", at=midnight + timedelta(minutes=minutes), certainty="estimated")
        refused(1, at=midnight + timedelta(minutes=minutes), model=f"m{minutes}")
    today = asked(period=TimeRange(midnight, midnight + timedelta(days=1)), zone=kolkata)
    yesterday = asked(period=TimeRange(midnight - timedelta(days=1), midnight), zone=kolkata)
    for read in (breakdown.costs, breakdown.estimates, breakdown.refusals):
        assert read(today, ("day",)) == {}
        assert list(read(yesterday, ("day",))) == [(date(2026, 3, 9),)]


def test_what_was_charged_at_an_estimate_is_part_of_the_cost() -> None:
    spent("1")
    spent("0.25", certainty="estimated")
    assert breakdown.estimates(asked(), ("tenant", "model")) == {
        ("acme", "large"): SpendSums(estimated_nanos=factories.nanos("0.25"))
    }
    assert dollars(breakdown.costs(asked(), ("tenant",))) == {("acme",): "1.25"}


def test_refused_calls_are_counted_with_those_that_have_no_row(settings: Any) -> None:
    settings.REFUSALS_A_MINUTE = 2
    refused(5, agent="support", user="zoe")
    refused(1, model="small", agent="support", at=NOON + timedelta(minutes=5))
    found = breakdown.refusals(asked(), ("tenant", "agent"))
    assert found == {("acme", "support"): SpendSums(refused=6)}
    assert breakdown.refusals(asked(), ("model",)) == {
        ("large",): SpendSums(refused=5),
        ("small",): SpendSums(refused=1),
    }
    assert breakdown.refusals(asked(model="small"), ("tenant",)) == {("acme",): SpendSums(refused=1)}
    assert not breakdown.knows_refusals(asked(), ("provider",))
    assert not breakdown.knows_refusals(asked(provider="mistral"), ("tenant",))
    assert breakdown.knows_refusals(asked(), ("tenant", "user"))


def test_a_reader_sees_its_own_in_every_figure() -> None:
    globex = factories.tenant("globex")
    for owner in (factories.tenant(), globex):
        spent("1", owner=owner, certainty="estimated", user="zoe")
        refused(1, owner=owner, agent="support", model=owner.slug)
    mine = asked(reader=Reader(globex))
    for read in (breakdown.costs, breakdown.estimates, breakdown.refusals):
        assert list(read(mine, ("tenant",))) == [("globex",)]
    assert list(breakdown.costs(mine, ("tenant", "user"))) == [("globex", "zoe")]
    assert breakdown.costs(asked(reader=Reader(globex), tenant="acme"), ("tenant",)) == {}


def test_figures_are_put_together_and_added_up_for_wider_groups() -> None:
    one, two = {("a", NOON): SpendSums(1)}, {("a", NOON): SpendSums(refused=1), ("b", NOON): SpendSums(refused=2)}
    both = breakdown.added(one, two)
    assert both == {("a", NOON): SpendSums(1, refused=1), ("b", NOON): SpendSums(refused=2)}
    zone = ZoneInfo("Pacific/Auckland")
    assert breakdown.by_parts(both, ("agent", "hour"), ("day",), zone) == {
        (date(2026, 3, 11),): SpendSums(1, refused=3)
    }
    assert breakdown.by_parts(both, ("agent", "hour"), ("hour", "agent"), zone) == {
        (NOON, "a"): SpendSums(1, refused=1),
        (NOON, "b"): SpendSums(refused=2),
    }


def test_only_some_groups_are_read_where_only_those_are_asked_for() -> None:
    for agent in ("a", "b", "c"):
        spent("1", agent=agent)
    found = breakdown.costs(asked(), ("hour",), of=("tenant", "agent"), only=[("acme", "a"), ("acme", "c")])
    assert dollars(found) == {(NOON,): "2.00"}
    assert breakdown.costs(asked(), ("hour",), of=("tenant", "agent"), only=[]) == {}


def test_too_many_entries_or_groups_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for agent in ("a", "b", "c"):
        spent("1", agent=agent, user=agent)
    monkeypatch.setattr(breakdown, "MOST_ENTRIES", 2)
    with pytest.raises(MoreThanRead, match="choose less time, or a customer"):
        breakdown.costs(asked(), ("tenant", "user"))
    with pytest.raises(MoreThanRead, match=r"choose less time\.$"):
        breakdown.costs(asked(tenant="acme"), ("tenant", "user"))
    # Another customer's are not counted against this one.
    assert breakdown.costs(asked(reader=Reader(factories.tenant("globex"))), ("tenant", "user")) == {}
    monkeypatch.setattr(breakdown, "MOST_GROUPS", 2)
    with pytest.raises(TooManyGroups, match="more than 2 lines"):
        breakdown.costs(asked(), ("tenant", "agent"))
