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
from governance.models import SpendRollup, Tenant
from governance.queries import breakdown
from governance.queries.breakdown import MoreThanRead, Question, TooManyGroups
from governance.queries.spend import EVERYTHING, Reader, TimeRange
from governance.rules import money
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
    found = breakdown.every(asked(), ("tenant", "agent"))
    assert found == {
        ("acme", "support"): SpendSums(factories.nanos("1.25"), 2, 200, 80, 40),
        ("globex", "support"): SpendSums(factories.nanos("2"), 1, 100, 40, 20),
    }
    assert breakdown.costs_until(asked(), ("tenant",)) == {
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
    users = breakdown.every(asked(), ("tenant", "user"))
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
    assert breakdown.every(today, ("day",)) == breakdown.costs(today, ("day",)) == {}
    [(day, sums)] = breakdown.every(yesterday, ("day",)).items()
    assert (day, sums.calls, sums.refused) == ((date(2026, 3, 9),), 4, 2)
    assert sums.estimated_nanos == factories.nanos("2")


def test_what_was_charged_at_an_estimate_is_part_of_the_cost() -> None:
    spent("1")
    spent("0.25", certainty="estimated")
    [sums] = breakdown.every(asked(), ("tenant", "model")).values()
    assert sums.estimated_nanos == factories.nanos("0.25")
    assert dollars(breakdown.costs(asked(), ("tenant",))) == {("acme",): "1.25"}


def test_refused_calls_are_counted_with_those_that_have_no_row(settings: Any) -> None:
    settings.REFUSALS_A_MINUTE = 2
    refused(5, agent="support", user="zoe")
    refused(1, model="small", agent="support", at=NOON + timedelta(minutes=5))
    assert breakdown.every(asked(), ("tenant", "agent")) == {("acme", "support"): SpendSums(refused=6)}
    assert breakdown.every(asked(), ("model",)) == {
        ("large",): SpendSums(refused=5),
        ("small",): SpendSums(refused=1),
    }
    assert breakdown.every(asked(model="small"), ("tenant",)) == {("acme",): SpendSums(refused=1)}
    assert breakdown.every(asked(), ("provider",)) == {}
    assert not breakdown.knows_refusals(asked(), ("provider",))
    assert not breakdown.knows_refusals(asked(provider="mistral"), ("tenant",))
    assert breakdown.knows_refusals(asked(), ("tenant", "user"))


def test_a_reader_sees_its_own_in_every_figure() -> None:
    globex = factories.tenant("globex")
    for owner in (factories.tenant(), globex):
        spent("1", owner=owner, certainty="estimated", user="zoe")
        refused(1, owner=owner, agent="support", model=owner.slug)
    mine = asked(reader=Reader(globex))
    [(key, sums)] = breakdown.every(mine, ("tenant",)).items()
    assert (key, sums.calls, sums.refused, sums.estimated_nanos) == (("globex",), 1, 1, factories.nanos("1"))
    assert list(breakdown.costs(mine, ("tenant", "user"))) == [("globex", "zoe")]
    assert breakdown.costs(asked(reader=Reader(globex), tenant="acme"), ("tenant",)) == {}


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
    with pytest.raises(TooManyGroups, match="more than 2 lines"):
        breakdown.every(asked(), ("tenant", "agent"))


def test_the_first_are_the_dearest_then_those_with_most_refusals_beside_what_all_come_to() -> None:
    globex = factories.tenant("globex")
    for agent, cost in (("a", "1"), ("b", "3"), ("c", "2")):
        spent(cost, agent=agent)
        spent(cost, agent=agent, owner=globex, certainty="estimated")
    refused(3, agent="noisy", model="small")
    refused(1, agent="b")
    every = breakdown.every(asked(), ("tenant", "agent"))
    found = breakdown.first(asked(), ("tenant", "agent"), most=4)
    assert list(found.found) == [("acme", "b"), ("globex", "b"), ("acme", "c"), ("globex", "c")]
    assert found.found.items() <= every.items()
    assert (found.count, found.total) == (7, sum(every.values(), SpendSums()))
    assert found.total == SpendSums(factories.nanos("12"), 6, 600, 240, 120, factories.nanos("6"), 4)
    assert list(breakdown.first(asked(), ("tenant", "agent"), most=7).found)[-1] == ("acme", "noisy")
    within = breakdown.within(asked(), ("tenant", "agent"), 1, of={("acme",)}, most=2)
    assert list(within) == [("acme",)]
    assert (list(within["acme",].found), within["acme",].count) == ([("acme", "b"), ("acme", "c")], 4)
    assert breakdown.within(asked(), ("tenant", "agent"), 1, of={("nobody",)}, most=2) == {}
    assert breakdown.within(asked(), ("tenant", "agent"), 1, of=set(), most=2) == {}
    assert breakdown.first(asked(agent="nobody"), ("tenant",), most=2) == breakdown.Lines({}, 0)


def test_the_first_of_times_are_the_latest_and_within_one_as_well() -> None:
    for hours, agent in ((0, "a"), (1, "a"), (1, "b"), (2, "c")):
        spent(f"{9 - hours}", agent=agent, at=NOON + timedelta(hours=hours))
    found = breakdown.first(asked(), ("hour",), most=2)
    assert [key[0] - NOON for key in found.found] == [timedelta(hours=2), timedelta(hours=1)]
    assert (found.count, found.total.calls) == (3, 4)
    agents = breakdown.within(asked(), ("hour", "tenant", "agent"), 1, of=found.found, most=1)
    assert {key[0] - NOON: (next(iter(lines.found))[2], lines.count) for key, lines in agents.items()} == {
        timedelta(hours=2): ("c", 1),
        timedelta(hours=1): ("a", 2),
    }
    hours = breakdown.within(asked(), ("tenant", "hour"), 1, of={("acme",)}, most=2)["acme",]
    assert [key[1] - NOON for key in hours.found] == [timedelta(hours=2), timedelta(hours=1)]
    days = breakdown.first(asked(zone=ZoneInfo("Asia/Tokyo")), ("day",), most=5)
    assert list(days.found) == [(date(2026, 3, 10),)]
    models = breakdown.within(asked(zone=ZoneInfo("Asia/Tokyo")), ("day", "model"), 1, of=days.found, most=5)
    assert [lines.count for lines in models.values()] == [1]


def test_a_total_beyond_64_bits_is_a_sum_like_another() -> None:
    tenant = factories.tenant()
    more = {"provider": "mistral", "model": "large", "hour": NOON, "cost_nanos": money.MAX_SUM}
    SpendRollup.objects.bulk_create(SpendRollup(tenant=tenant, agent=f"a{number}", **more) for number in range(3))
    assert breakdown.first(asked(), ("tenant", "agent"), most=1).total.cost_nanos == 3 * money.MAX_SUM
    # Of one group SQLite's is right to 15 digits.
    [one] = breakdown.first(asked(), ("tenant",), most=1).found.values()
    assert one.cost_nanos == pytest.approx(3 * money.MAX_SUM, rel=1e-15)
    SpendRollup.objects.all().delete()


def test_an_hour_that_is_not_over_is_read_from_its_entries() -> None:
    for minutes in (0, 29, 30, 59, 61):
        spent("1", agent="a", user="zoe", at=NOON + timedelta(minutes=minutes))
    until = asked(period=TimeRange(NOON, NOON + timedelta(minutes=30)))
    assert breakdown.costs_until(until, ("agent",)) == {("a",): factories.nanos("2")}
    assert breakdown.costs_until(until, ("tenant", "user")) == {("acme", "zoe"): factories.nanos("2")}
    assert breakdown.costs_until(until, ("agent",), only=[("b",)]) == {}
    assert breakdown.costs_until(until, ("agent",), only=[]) == {}
    assert breakdown.total_until(until, ("tenant",)) == factories.nanos("2")
    assert breakdown.total_until(until, ("tenant", "user")) == factories.nanos("2")
    longer = replace(until, period=TimeRange(NOON, NOON + timedelta(minutes=61)))
    assert breakdown.total_until(longer, ("tenant",)) == factories.nanos("4")
    whole = replace(until, period=TimeRange(NOON, NOON + timedelta(hours=1)))
    assert breakdown.costs_until(whole, ("day",)) == {(date(2026, 3, 10),): factories.nanos("4")}
    assert breakdown.total_until(replace(until, period=TimeRange(NOON, NOON)), ("tenant",)) is None
    with pytest.raises(ValueError, match="without an end"):
        breakdown.total_until(replace(until, period=TimeRange(NOON)), ("tenant",))
