"""The migration that brings names of before into the form that calls are matched by."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.apps import apps
from django.utils import timezone

from governance.models import (
    Agent,
    Alert,
    ApiKey,
    AuditEntry,
    Budget,
    BudgetWindow,
    EmergencyStop,
    Reservation,
    SpendEntry,
)
from governance.upkeep import reconcile
from tests import factories as make

pytestmark = pytest.mark.django_db


def migrate() -> None:
    import_module("governance.migrations.0014_names_in_one_form").bring_into_form(apps, None)


def agent(slug: str, **fields: object) -> Agent:
    return Agent.objects.create(tenant=make.tenant(), slug=slug, **fields)


def budget(key: str, limit: str = "1.00", **fields: object) -> Budget:
    """As one could be made before: with a key in any spelling."""
    made = make.budget(limit, **{"scope_type": "user", "scope_key": "x"} | fields)
    Budget.objects.filter(pk=made.pk).update(scope_key=key)
    made.refresh_from_db()
    return made


def window(of: Budget, subject: str, *, settled: int = 5) -> BudgetWindow:
    made = BudgetWindow(
        budget=of,
        tenant=of.tenant,
        subject=subject,
        starts_at=timezone.now(),
        opened_at=timezone.now(),
        limit_nanos=of.limit_nanos,
        settled_nanos=settled,
    )
    BudgetWindow.objects.bulk_create([made])
    return made


def subjects() -> list[tuple[str, int]]:
    return list(BudgetWindow.objects.order_by("pk").values_list("subject", "settled_nanos"))


def test_agents_that_are_one_now_become_one_with_the_keys_and_stops_of_all() -> None:
    kept, other, spaced = agent("bot"), agent("Bot", status="paused"), agent("bot ")
    apart = agent("robot")
    for of in (kept, other, spaced):
        EmergencyStop.objects.create(tenant=of.tenant, agent=of, reason="r", actor="a", started_at=timezone.now())
        ApiKey.objects.create(role="agent", tenant=of.tenant, agent=of, prefix="p", digest=of.slug)
    migrate()
    assert list(Agent.objects.order_by("pk").values_list("pk", "slug", "status")) == [
        (kept.pk, "bot", "paused"),
        (apart.pk, "robot", "active"),
    ]
    assert ApiKey.objects.filter(agent=kept).count() == 3
    assert EmergencyStop.objects.filter(agent=kept, lifted_at=None).count() == 1
    assert EmergencyStop.objects.filter(agent=kept).count() == 3
    assert AuditEntry.objects.get(action="agent.merge").old == {"agents": ["bot", "Bot", "bot "]}


def test_a_budgets_key_and_its_windows_get_the_name_that_calls_have_now() -> None:
    row = budget("Zoe\u0308")
    window(row, "Zoe\u0308")
    each = budget("*", scope_type="agent")
    window(each, "Bot", settled=7)
    migrate()
    row.refresh_from_db()
    assert row.scope_key == "Zoë"
    assert subjects() == [("Zoë", 5), ("bot", 7)]
    assert not Alert.objects.exists()


def test_a_platforms_subject_keeps_its_tenant() -> None:
    each = budget("*", scope_type="agent")
    Budget.objects.filter(pk=each.pk).update(tenant=None)
    window(each, "Acme_1/My/Bot")
    migrate()
    assert subjects() == [("Acme_1/my/bot", 5)]


def test_two_budgets_of_one_scope_stay_two_and_operators_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    right = budget("bot", "1.00", scope_type="agent")
    wrong = budget("Bot", "5.00", scope_type="agent")
    other = budget("BOT", "3.00", scope_type="agent", window="month")
    migrate()
    keys = dict(Budget.objects.values_list("pk", "scope_key"))
    assert keys == {right.pk: "bot", wrong.pk: "Bot", other.pk: "bot"}
    assert set(Budget.objects.values_list("limit_nanos", "enabled")) == {
        (10**9, True),
        (5 * 10**9, True),
        (3 * 10**9, True),
    }
    told = Alert.objects.get(kind="names_not_merged")
    assert f"({wrong.pk}) governs no call any more, 'bot' ({right.pk}) governs" in told.message
    assert "Check the limit" in capsys.readouterr().out


def test_of_two_spellings_the_strictest_budget_gets_the_name() -> None:
    loose, strict = budget("Bot", "5.00", scope_type="agent"), budget("BOT", "1.00", scope_type="agent")
    migrate()
    assert dict(Budget.objects.values_list("pk", "scope_key")) == {loose.pk: "Bot", strict.pk: "bot"}


def test_two_windows_that_run_for_one_subject_keep_their_figures() -> None:
    each = budget("*", scope_type="agent")
    window(each, "bot", settled=3)
    window(each, "Bot", settled=4)
    migrate()
    assert subjects() == [("bot", 3), ("Bot", 4)]
    assert "keeps its figures" in Alert.objects.get().message


def test_what_is_held_is_charged_to_the_name_of_now_and_the_ledger_is_as_it_was() -> None:
    tenant = make.tenant()
    now = timezone.now()
    common = {
        "tenant": tenant,
        "agent": "Bot",
        "user": "Zoe\u0308",
        "session": "S",
        "reserved_at": now,
        "expires_at": now,
    }
    Reservation.objects.create(amount_nanos=0, **common)
    entry = SpendEntry.objects.create(
        tenant=tenant, agent="Bot", request_id="r", cost_nanos=0, occurred_at=now, recorded_at=now
    )
    migrate()
    row = Reservation.objects.get()
    assert (row.agent, row.user, row.session) == ("bot", "Zoë", "S")
    assert SpendEntry.objects.get(pk=entry.pk).agent == "Bot"


def test_a_ledger_in_form_stays_as_it_is() -> None:
    agent("bot")
    budget("Zoë", scope_type="user")
    migrate()
    assert reconcile.check() == []
    assert not AuditEntry.objects.filter(actor="migration").exists()
