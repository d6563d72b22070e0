"""How customers and agents stand: against rows that the ledger made, reckoned by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from governance import ledger
from governance.actions import stops, tenancy
from governance.audit import Actor
from governance.models import Agent, RateLimit, Tenant
from governance.queries import customers, key_use
from governance.queries.customers import CallerStanding
from governance.rules.calls import Caller
from tests import factories
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db
BY = Actor("olga")
MONTH = NOON.replace(day=1, hour=0)


def spend(cost: str, owner: Tenant | None = None, **who: Any) -> None:
    ledger.record(factories.reporting(cost, by=factories.caller(owner, **who), occurred_at=NOON), now=NOON)


def standings() -> dict[str, CallerStanding]:
    slugs = dict(Tenant.objects.values_list("pk", "slug"))
    found = customers.of_tenants(Tenant.objects.all(), since=MONTH, now=NOON)
    return {slugs[one.pk]: one for one in found}


def state_of(agent: Agent) -> str:
    return customers.of_agents([agent], since=MONTH, now=NOON)[agent.pk].state


def test_the_worst_customer_comes_first_whatever_makes_it_so() -> None:
    made = {slug: factories.tenant(slug) for slug in ("calm", "warned", "used-up", "paused", "agents", "suspended")}
    for slug in ("calm", "warned", "used-up", "agents"):
        factories.budget("1", tenant=made[slug], window="month")
    factories.budget("0.10", tenant=made["agents"], scope_type="agent", scope_key="bot")
    for slug, cost in (("calm", "0.10"), ("warned", "0.85"), ("used-up", "1"), ("agents", "0.10")):
        spend(cost, made[slug], agent="bot")
    factories.agent("bot", of=made["used-up"])
    tenancy.pause_tenant(tenant=made["paused"], reason="quiet", by=BY, now=NOON)
    Tenant.objects.filter(slug="suspended").update(status="suspended")

    found = standings()

    assert list(found) == ["used-up", "suspended", "paused", "warned", "agents", "calm"]
    assert [one.state for one in found.values()] == ["stopped", "suspended", "paused", "warned", "active", "active"]
    assert found["agents"].troubles == (("stopped", 1),)
    assert (found["warned"].share, found["calm"].share, found["paused"].share) == (0.85, 0.10, None)
    assert (found["used-up"].spent_nanos, found["used-up"].agents) == (nanos("1"), 1)


def test_an_emergency_stop_is_the_state_of_whom_it_covers() -> None:
    acme, globex = factories.tenant("acme"), factories.tenant("globex")
    bot, other, far = (factories.agent(slug, of=of) for slug, of in (("bot", acme), ("other", acme), ("bot", globex)))
    stop = stops.stop(agent=bot, reason="a loop", by=BY, now=NOON)
    assert [state_of(one) for one in (bot, other, far)] == ["stopped", "active", "active"]
    assert (standings()["acme"].state, standings()["acme"].troubles) == ("active", (("stopped", 1),))

    stops.lift(stop=stop, by=BY, now=NOON)
    stop = stops.stop(tenant=acme, reason="all of it", by=BY, now=NOON)
    assert [state_of(one) for one in (bot, other, far)] == ["stopped", "stopped", "active"]
    assert standings()["acme"].state == "stopped"

    stops.lift(stop=stop, by=BY, now=NOON)
    stops.stop(reason="everything", by=BY, now=NOON)
    assert {state_of(one) for one in (bot, other, far)} == {"stopped"}


def test_an_agent_is_as_its_own_and_its_customers_budgets_and_pauses_are() -> None:
    acme = factories.tenant("acme")
    bot, other = factories.agent("bot", of=acme), factories.agent("other", of=acme)
    factories.budget("1", window="month")
    factories.budget("0.50", scope_type="agent", scope_key="*", tenant=None)
    spend("0.45", acme, agent="bot")
    assert (state_of(bot), state_of(other)) == ("warned", "active")
    assert customers.of_agents([bot], since=MONTH, now=NOON)[bot.pk].spent_nanos == nanos("0.45")

    spend("0.55", acme, agent="third")
    assert (state_of(bot), state_of(other)) == ("stopped", "stopped")

    quiet = factories.agent("quiet", of=factories.tenant("globex"))
    tenancy.pause_agent(agent=quiet, reason="quiet", by=BY, now=NOON)
    assert state_of(quiet) == "paused"
    assert standings()["globex"].troubles == (("paused", 1),)


def test_agents_of_one_name_of_two_customers_are_two() -> None:
    acme, globex = factories.tenant("acme"), factories.tenant("globex")
    bots = [factories.agent("bot", of=acme), factories.agent("bot", of=globex)]
    spend("0.10", acme, agent="bot")
    spend("0.30", globex, agent="bot")
    found = customers.of_agents(bots, since=MONTH, now=NOON)
    assert [found[bot.pk].spent_nanos for bot in bots] == [nanos("0.10"), nanos("0.30")]


def test_what_was_spent_before_the_month_is_not_of_it() -> None:
    old = factories.reporting("5", by=factories.caller(), occurred_at=MONTH - timedelta(hours=1))
    ledger.record(old, now=NOON)
    spend("0.10")
    assert standings()["acme"].spent_nanos == nanos("0.10")


def test_the_budgets_that_govern_an_agent_are_those_that_the_ledger_asks() -> None:
    acme = factories.tenant("acme")
    bot = factories.agent("bot", of=acme)
    own = factories.budget("1", scope_type="agent", scope_key="bot")
    whole = factories.budget("9", window="month")
    every = factories.budget("100", scope_type="platform", window="month")
    # Neither another agent's, nor one for each where there is its own, nor a user's, nor one that is off.
    factories.budget("1", scope_type="agent", scope_key="other")
    factories.budget("1", scope_type="agent", scope_key="*")
    factories.budget("1", scope_type="user", scope_key="*")
    factories.budget("1", window="week", enabled=False)
    spend("0.25", acme, agent="bot")

    found = customers.governing(bot, now=NOON)

    assert [one.budget for one in found] == [own, whole, every]
    assert {one.status.settled_nanos for one in found} == {nanos("0.25")}
    unused = customers.governing(factories.agent("new", of=acme), now=NOON)
    assert [(one.subject, one.status.settled_nanos) for one in unused] == [
        ("new", 0),
        ("acme", nanos("0.25")),
        ("", nanos("0.25")),
    ]


def test_a_rate_limit_is_as_full_as_it_is_now() -> None:
    acme = factories.tenant("acme")
    bot = factories.agent("bot", of=acme)
    RateLimit.objects.create(tenant=acme, scope_type="agent", scope_key="*", requests_per_minute=60)
    RateLimit.objects.create(tenant=None, scope_type="platform", scope_key="", nanos_per_minute=nanos("60"))
    assert [(use.limit.scope_type, use.parts) for use in customers.rate_use(bot, now=NOON)] == [
        ("agent", [("requests", 0, 60)]),
        ("platform", [("dollars", 0, nanos("60"))]),
    ]

    by = Caller(acme.pk, acme.slug, agent="bot")
    for _ in range(30):
        ledger.reserve(factories.reserving("0.10", by=by), now=NOON)

    def uses(seconds: int) -> list[Any]:
        return [use.parts for use in customers.rate_use(bot, now=NOON + timedelta(seconds=seconds))]

    assert uses(0) == [[("requests", 30, 60)], [("dollars", nanos("3"), nanos("60"))]]
    # A minute's worth flows off in a minute.
    assert uses(20) == [[("requests", 10, 60)], [("dollars", 0, nanos("60"))]]


def test_a_key_was_used_last_when_it_last_called(monkeypatch: pytest.MonkeyPatch) -> None:
    _, used = factories.key()
    _, unused = factories.key()
    for minutes in (9, 3, 5):
        at = NOON - timedelta(minutes=minutes)
        by = factories.caller(agent="invoices", key_id=used.pk, key_prefix=used.prefix)
        ledger.record(factories.reporting("0.01", by=by, occurred_at=at), now=NOON)
    assert key_use.last_used() == {used.pk: NOON - timedelta(minutes=3)}
    assert key_use.last_used(only=unused) == {}
    monkeypatch.setattr(key_use, "NEWEST", 1)
    assert key_use.last_used() == {used.pk: NOON - timedelta(minutes=5)}
