"""Emergency stops, rate limits and allowances in the console."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from governance import ledger
from governance.actions import allowances, rate_limits, stops
from governance.audit import Actor
from governance.models import Allowance, AuditEntry, Budget, EmergencyStop, LedgerCheck, RateLimit
from tests import factories
from tests.governance.console.clients import signed_in

pytestmark = pytest.mark.django_db
STOP = "/admin/governance/emergencystop/add/"
CONFIRMED = {"_confirmed": "yes", "reason": "because"}


@pytest.fixture
def operator() -> Client:
    return signed_in("olga", is_superuser=True)


@pytest.fixture
def viewer() -> Client:
    return signed_in("vera", "viewer")


@pytest.fixture
def budget() -> Budget:
    """A dollar a day for acme's invoices, spent."""
    made = factories.budget("1", scope_type="agent", scope_key="invoices")
    ledger.record(factories.reporting("1", by=factories.caller(agent="invoices")), now=timezone.now())
    return made


def stop(**fields: Any) -> EmergencyStop:
    return stops.stop(**fields, reason="a <b>loop</b>", by=Actor("max"), now=timezone.now())


def raised(budget: Budget) -> Allowance:
    now = timezone.now()
    return allowances.raise_limit(
        budget=budget,
        amount_nanos=factories.nanos("3"),
        starts_at=now,
        ends_at=now + timedelta(days=1),
        reason="the fair",
        by=Actor("max"),
        now=now,
    )


def test_the_overview_leads_an_operator_to_the_stop_and_a_viewer_not(operator: Client, viewer: Client) -> None:
    assert STOP in operator.get("/admin/").content.decode()
    assert STOP not in viewer.get("/admin/").content.decode()
    assert viewer.get(STOP).status_code == 403
    assert viewer.post(STOP, {"reason": "x"}).status_code == 403
    assert not EmergencyStop.objects.exists()


@pytest.mark.parametrize("whose", ["everything", "tenant", "agent"])
def test_the_stop_page_stops_what_it_is_told_and_says_so_on_the_overview(operator: Client, whose: str) -> None:
    agent = factories.agent()
    chosen = {"everything": {}, "tenant": {"tenant": agent.tenant.pk}, "agent": {"agent": agent.pk}}[whose]
    response = operator.post(STOP, {**chosen, "reason": "a loop"})
    assert (response.status_code, response["Location"]) == (302, "/admin/")
    made = EmergencyStop.objects.get()
    assert (made.tenant, made.agent, made.actor) == (
        None if whose == "everything" else agent.tenant,
        agent if whose == "agent" else None,
        "olga",
    )
    again = operator.post(STOP, {**chosen, "reason": "a loop"})
    assert "stopped already, by olga" in again.content.decode()
    assert EmergencyStop.objects.count() == 1


def test_a_stop_without_a_reason_is_asked_again(operator: Client) -> None:
    response = operator.post(STOP, {"reason": " "})
    assert "reason" in response.context["form"].errors
    assert not EmergencyStop.objects.exists()


def test_the_banner_says_who_why_since_and_leads_operators_to_the_lift(operator: Client, viewer: Client) -> None:
    made = stop(agent=factories.agent())
    lift = reverse("admin:governance_emergencystop_lift_one", args=[made.pk])
    for page in (reverse("admin:index"), reverse("admin:overview-live")):
        html = operator.get(page).content.decode()
        for words in (
            "Agent acme/invoices is stopped",
            "a &lt;b&gt;loop&lt;/b&gt;",
            "by max",
            "0\xa0minutes ago",
            lift,
        ):
            assert words in html, page
        seen = viewer.get(page).content.decode()
        assert "Agent acme/invoices is stopped" in seen
        assert lift not in seen
    assert viewer.post(lift, CONFIRMED).status_code == 403

    assert operator.post(lift, CONFIRMED).status_code == 302
    assert "sg-banner" not in operator.get("/admin/").content.decode()
    made.refresh_from_db()
    assert made.lifted_by == "olga"
    assert AuditEntry.objects.latest("id").reason == "because"
    told = operator.post(lift, CONFIRMED, follow=True)
    assert "lifted already" in told.content.decode()


def test_once_everything_is_stopped_there_is_no_button_left(operator: Client) -> None:
    stop()
    html = operator.get("/admin/").content.decode()
    assert "Everything is stopped: no call goes through" in html
    assert STOP not in html


@pytest.mark.parametrize("model", ["tenant", "agent"])
def test_tenants_and_agents_are_stopped_from_the_list_and_from_their_page(operator: Client, model: str) -> None:
    agent = factories.agent()
    row = agent if model == "agent" else agent.tenant
    page = reverse(f"admin:governance_{model}_stop_one", args=[row.pk])
    assert "A pause is for planned quiet" in operator.get(page).content.decode()
    assert not EmergencyStop.objects.exists()
    assert operator.post(page, CONFIRMED).status_code == 302
    stops.lift(stop=EmergencyStop.objects.get(), by=Actor("max"), now=timezone.now())
    selected = {"action": "stop_selected", "_selected_action": [row.pk]}
    operator.post(f"/admin/governance/{model}/", selected | CONFIRMED)
    assert [getattr(found, model) for found in stops.active()] == [row]


RATE = {"scope_type": "agent", "scope_key": "invoices", "dollars_per_minute": "0.5", "requests_per_minute": "60"}


def test_a_rate_limit_is_made_changed_and_deleted_in_dollars_with_audit_rows(operator: Client) -> None:
    form = RATE | {"tenant": factories.tenant().pk, "enabled": "on", "tokens_per_minute": ""}
    response = operator.post("/admin/governance/ratelimit/add/", form)
    assert response.status_code == 302, response.context["errors"]
    limit = RateLimit.objects.get()
    assert (limit.scope, limit.nanos_per_minute) == ("acme agent:invoices", factories.nanos("0.5"))
    page = reverse("admin:governance_ratelimit_change", args=[limit.pk])
    assert 'value="0.5"' in operator.get(page).content.decode()
    assert operator.post(page, form | {"dollars_per_minute": ""}).status_code == 302
    limit.refresh_from_db()
    assert limit.nanos_per_minute is None
    operator.post(reverse("admin:governance_ratelimit_delete_one", args=[limit.pk]), CONFIRMED)
    assert not RateLimit.objects.exists()
    assert list(AuditEntry.objects.order_by("id").values_list("action", "actor", "reason")) == [
        ("rate_limit.create", "olga", ""),
        ("rate_limit.change", "olga", ""),
        ("rate_limit.delete", "olga", "because"),
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dollars_per_minute": "0"}, "dollars_per_minute"),
        ({"dollars_per_minute": "99999999999"}, "dollars_per_minute"),
        ({"dollars_per_minute": "", "requests_per_minute": ""}, "dollars_per_minute"),
        ({"requests_per_minute": "-1"}, "requests_per_minute"),
        ({"scope_key": ""}, "scope_key"),
        ({"tenant": ""}, "tenant"),
    ],
)
def test_a_wrong_rate_limit_is_shown_at_its_field(operator: Client, change: dict[str, str], field: str) -> None:
    form = {"tenant": factories.tenant().pk, **RATE, **change}
    response = operator.post("/admin/governance/ratelimit/add/", form)
    assert response.status_code == 200
    assert field in response.context["adminform"].form.errors
    assert not RateLimit.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_second_rate_limit_for_the_scope_is_refused_with_a_sentence(operator: Client) -> None:
    rate_limits.create(scope_type="platform", requests_per_minute=1, by=Actor("max"), now=timezone.now())
    form = RATE | {"scope_type": "platform", "scope_key": ""}
    html = operator.post("/admin/governance/ratelimit/add/", form).content.decode()
    assert "There is a rate limit for platform already" in html


def test_a_budget_is_raised_until_a_time_and_shows_it_on_its_page(operator: Client, budget: Budget) -> None:
    page = reverse("admin:governance_budget_allow_one", args=[budget.pk])
    until = timezone.now() + timedelta(days=1)
    form = {"amount": "3", "until_0": f"{until:%Y-%m-%d}", "until_1": f"{until:%H:%M}", "reason": "the fair"}
    assert operator.post(page, form).status_code == 302
    made = Allowance.objects.get()
    assert made.ends_at is not None
    assert (made.amount_nanos, made.actor, made.window) == (factories.nanos("3"), "olga", None)
    assert budget.windows.get().state == "active"
    html = operator.get(reverse("admin:governance_budget_change", args=[budget.pk])).content.decode()
    assert "the fair · olga" in html
    assert "running" in html


def test_without_a_time_the_current_window_is_topped_up(operator: Client, budget: Budget) -> None:
    page = reverse("admin:governance_budget_allow_one", args=[budget.pk])
    assert operator.post(page, {"amount": "0.25", "reason": "one more"}).status_code == 302
    assert Allowance.objects.get().window == budget.windows.get()
    assert budget.windows.get().extra_nanos == factories.nanos("0.25")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount": "0"}, "amount"),
        ({"amount": "x"}, "amount"),
        ({"amount": "99999999999"}, "amount"),
        ({"reason": ""}, "reason"),
        ({"until_0": "2020-01-01", "until_1": "00:00"}, "until"),
        ({"until_0": "soon", "until_1": "00:00"}, "until"),
    ],
)
def test_a_wrong_allowance_is_shown_at_its_field(
    operator: Client, budget: Budget, change: dict[str, str], field: str
) -> None:
    page = reverse("admin:governance_budget_allow_one", args=[budget.pk])
    response = operator.post(page, {"amount": "1", "reason": "why", **change})
    assert response.status_code == 200
    assert field in response.context["form"].errors
    assert not Allowance.objects.exists()


def test_of_a_budget_for_each_one_the_page_asks_whose_window(operator: Client) -> None:
    each = factories.budget("1", scope_type="agent", scope_key="*")
    for agent in ("one", "two"):
        ledger.record(factories.reporting("0.5", by=factories.caller(agent=agent)), now=timezone.now())
    page = reverse("admin:governance_budget_allow_one", args=[each.pk])
    unsaid = operator.post(page, {"amount": "1", "reason": "why"})
    assert "subject" in unsaid.context["form"].errors
    assert operator.post(page, {"amount": "1", "reason": "why", "subject": "two"}).status_code == 302
    window = Allowance.objects.get().window
    assert window is not None
    assert window.subject == "two"


def test_an_allowance_is_ended_after_a_question_and_once(operator: Client, viewer: Client, budget: Budget) -> None:
    end = reverse("admin:governance_allowance_end_one", args=[raised(budget).pk])
    assert viewer.post(end, CONFIRMED).status_code == 403
    assert operator.post(end, CONFIRMED).status_code == 302
    assert budget.windows.get().state == "stopped"
    assert AuditEntry.objects.latest("id").reason == "because"
    assert "it has ended already" in operator.post(end, CONFIRMED, follow=True).content.decode()


def test_a_viewer_sees_them_all_and_changes_none(viewer: Client, budget: Budget) -> None:
    made = [
        ("emergencystop", stop().pk),
        ("allowance", raised(budget).pk),
        (
            "ratelimit",
            rate_limits.create(scope_type="platform", nanos_per_minute=5, by=Actor("x"), now=timezone.now()).pk,
        ),
        ("budget", budget.pk),
    ]
    for model, pk in made:
        assert viewer.get(f"/admin/governance/{model}/").status_code == 200
        assert viewer.get(f"/admin/governance/{model}/{pk}/change/").status_code == 200
        assert viewer.post(f"/admin/governance/{model}/{pk}/change/", {}).status_code == 403
    allow = reverse("admin:governance_budget_allow_one", args=[budget.pk])
    assert viewer.post(allow, {"amount": "1", "reason": "x"}).status_code == 403
    assert Allowance.objects.count() == 1


def test_the_overview_tells_when_the_ledger_was_checked_and_what_drifted(operator: Client) -> None:
    assert "The ledger was not proved yet" in operator.get("/admin/").content.decode()
    LedgerCheck.objects.create(checked_at=timezone.now() - timedelta(minutes=20), took_ms=5, drifts=1)
    html = operator.get("/admin/").content.decode()
    assert "The ledger has drifted, as was seen 20\xa0minutes ago: run manage.py reconcile_ledger" in html
    assert "Calls go through, and something is wrong" in html
