"""The console: open to staff, closed to strangers, and every act through the domain with its audit row."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django.utils.html import strip_tags

from governance import alerts, ledger
from governance.models import Agent, Alert, ApiKey, AuditEntry, Budget, BudgetEvent, Tenant
from governance.models.tenancy import digest_of
from tests import factories

pytestmark = pytest.mark.django_db

MODELS = sorted(model._meta.model_name or "" for model in admin.site._registry if model._meta.app_label == "governance")
READ_ONLY = ("budgetwindow", "reservation", "spendentry", "spendrollup", "budgetevent", "auditentry")
FORM = {
    "scope_type": "agent",
    "scope_key": "invoices",
    "window": "day",
    "limit": "12.50",
    "soft_cap": "80",
    "hard_cap": "100%",
    "warn_at": "",
    "alert_thresholds": "50, 90%",
    "downgrade_rules": "* -> ministral-3b-latest at 95\n"
    "mistral-large-latest, mistral-medium-latest -> mistral-small-latest",
    "disabled_tools": "web_search",
    "clamp": "on",
    "clamp_min_tokens": "256",
    "enabled": "on",
}


def signed_in(name: str, **fields: Any) -> Client:
    client = Client()
    client.force_login(User.objects.create_user(name, **fields))
    return client


@pytest.fixture
def operator() -> Client:
    return signed_in("olga", is_staff=True, is_superuser=True)


@pytest.fixture
def viewer() -> Client:
    client = Client()
    client.force_login(factories.person("vera", "viewer"))
    return client


@pytest.fixture
def history(db: None) -> Budget:
    """A budget with a settled call, a running one, and events."""
    budget = factories.budget("1", scope_type="agent", scope_key="invoices")
    by = factories.caller(agent="invoices")
    ledger.record(factories.reporting("0.85", by=by), now=timezone.now())
    ledger.reserve(factories.reserving("0.05", by=by), now=timezone.now())
    factories.key()
    return budget


def pages() -> list[str]:
    """Every list, every row's page, and every form of the governance app."""
    found = [reverse(f"admin:{name}") for name in ("index", "overview-live", "overview-happened")]
    for model, model_admin in admin.site._registry.items():
        if model._meta.app_label != "governance":
            continue
        name = f"admin:governance_{model._meta.model_name}"
        found.append(reverse(f"{name}_changelist"))
        found += [reverse(f"{name}_change", args=[row.pk]) for row in model._default_manager.all()[:1]]
        if model_admin.opts.model_name in ("budget", "tenant", "agent", "apikey"):
            found.append(reverse(f"{name}_add"))
    return found


def test_every_model_of_governance_is_in_the_console_and_among_the_tabs_of_its_section(operator: Client) -> None:
    assert {"budget", "tenant", "agent", "apikey", *READ_ONLY} <= set(MODELS)
    for model in MODELS:
        changelist = reverse(f"admin:governance_{model}_changelist")
        tabs = operator.get(changelist).content.decode().partition('id="tabs-items"')[2].partition("</nav>")[0]
        assert changelist in tabs or model == "apikey"


def test_every_page_opens_for_an_operator(operator: Client, history: Budget) -> None:
    for page in pages():
        assert operator.get(page).status_code == 200, page


def test_pages_say_reserved_and_spent_and_dollars(operator: Client, history: Budget) -> None:
    for page in pages():
        text = strip_tags(operator.get(page).content.decode())
        assert re.findall(r"(?i)\b(?:held|nanos)\b", text) == [], page


def test_a_viewer_sees_everything_and_may_add_or_change_nothing(viewer: Client, history: Budget) -> None:
    for page in pages():
        assert viewer.get(page).status_code == (403 if page.endswith("/add/") else 200), page
    change = reverse("admin:governance_budget_change", args=[history.pk])
    assert viewer.post(change, FORM).status_code == 403
    reset = reverse("admin:governance_budget_reset_one", args=[history.pk])
    assert viewer.post(reset, {"reason": "x", "_confirmed": "yes"}).status_code == 403
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize("stranger", [None, {"is_staff": False}])
def test_the_console_is_closed_to_strangers(stranger: dict[str, Any] | None, history: Budget) -> None:
    client = Client() if stranger is None else signed_in("sam", **stranger)
    for page in pages():
        response = client.get(page)
        assert (response.status_code, response["Location"].split("?")[0]) == (302, "/admin/login/"), page


@pytest.mark.parametrize("model", READ_ONLY)
def test_the_tables_of_the_ledger_cannot_be_written_from_the_console(
    operator: Client, history: Budget, model: str
) -> None:
    rows = next(kind for kind in admin.site._registry if kind._meta.model_name == model)._default_manager
    count = rows.count()
    assert operator.get(f"/admin/governance/{model}/add/").status_code == 403
    for row in rows.all()[:1]:
        assert operator.post(f"/admin/governance/{model}/{row.pk}/change/", {}).status_code == 403
        assert operator.post(f"/admin/governance/{model}/{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert rows.count() == count


@pytest.mark.parametrize("model", MODELS)
def test_a_list_asks_the_same_number_of_queries_for_few_rows_and_for_many(operator: Client, model: str) -> None:
    def grow(number: int) -> None:
        owner = factories.tenant(f"t{number}")
        factories.budget("1", tenant=owner, scope_type="agent", scope_key="a")
        by = factories.caller(owner, agent="a")
        ledger.record(factories.reporting("0.90", by=by), now=timezone.now())
        ledger.reserve(factories.reserving("0.01", by=by), now=timezone.now())
        factories.key(of=owner, agent_slug="a")
        AuditEntry.objects.create(
            occurred_at=timezone.now(), actor="x", action="y", target="z", user=User.objects.get()
        )

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert operator.get(f"/admin/governance/{model}/").status_code == 200
        return len(captured)

    grow(0)
    few = queries()
    for number in range(1, 9):
        grow(number)
    assert queries() == few


def test_the_overview_asks_a_bounded_number_of_queries(operator: Client, history: Budget) -> None:
    for page, most in (("index", 40), ("overview-live", 14), ("overview-happened", 18)):
        with CaptureQueriesContext(connection) as captured:
            operator.get(reverse(f"admin:{page}"))
        assert len(captured) <= most, page


def test_the_overview_shows_what_was_spent_and_what_is_near_its_cap(operator: Client, history: Budget) -> None:
    html = operator.get("/admin/").content.decode()
    assert "$0.85" in html
    assert "acme agent:invoices" in html
    assert "$0.85 spent and $0.05 reserved of $1.00" in html
    assert "hx-trigger" in html


def test_the_overview_of_an_empty_product_says_so(operator: Client) -> None:
    html = operator.get("/admin/").content.decode()
    assert "Nothing was spent yet" in html
    assert "Add a budget" in html


def test_a_budget_is_made_and_changed_in_dollars_with_an_audit_row(operator: Client) -> None:
    owner = factories.tenant()
    response = operator.post("/admin/governance/budget/add/", FORM | {"tenant": owner.pk})
    assert response.status_code == 302, response.context["errors"]
    budget = Budget.objects.get()
    assert budget.limit_nanos == factories.nanos("12.50")
    assert budget.downgrade_rules == [
        {"from": ["*"], "to": "ministral-3b-latest", "at": "0.95"},
        {"from": ["mistral-large-latest", "mistral-medium-latest"], "to": "mistral-small-latest"},
    ]
    assert (budget.alert_thresholds, budget.disabled_tools) == (["0.5", "0.9"], ["web_search"])

    change = reverse("admin:governance_budget_change", args=[budget.pk])
    html = operator.get(change).content.decode()
    assert 'value="12.5"' in html
    assert 'name="downgrade_rules-at" value="95"' in html
    assert operator.post(change, FORM | {"limit": "20"}).status_code == 302
    budget.refresh_from_db()
    assert budget.limit_nanos == factories.nanos("20")
    assert list(AuditEntry.objects.order_by("id").values_list("action", "actor")) == [
        ("budget.create", "olga"),
        ("budget.change", "olga"),
    ]


def test_a_lower_limit_stops_the_open_window_at_once(operator: Client, history: Budget) -> None:
    change = reverse("admin:governance_budget_change", args=[history.pk])
    assert operator.post(change, FORM | {"limit": "0.50"}).status_code == 302
    assert history.windows.get().state == "stopped"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"limit": "99999999999"}, "limit"),
        ({"soft_cap": "100"}, "soft_cap"),
        ({"soft_cap": "0.8"}, "soft_cap"),
        ({"hard_cap": "200"}, "hard_cap"),
        ({"warn_at": "90"}, "warn_at"),
        ({"alert_thresholds": "often"}, "alert_thresholds"),
        ({"alert_thresholds": "0.5"}, "alert_thresholds"),
        ({"downgrade_rules": "large -> small at 0.9"}, "downgrade_rules"),
        ({"downgrade_rules": "large to small"}, "downgrade_rules"),
        ({"scope_key": ""}, "scope_key"),
        ({"tenant": ""}, "tenant"),
        ({"clamp_min_tokens": "-1"}, "clamp_min_tokens"),
    ],
)
def test_a_wrong_value_is_shown_at_its_field_and_nothing_is_kept(
    operator: Client, change: dict[str, str], field: str
) -> None:
    owner = factories.tenant()
    response = operator.post("/admin/governance/budget/add/", {"tenant": owner.pk, **FORM, **change})
    assert response.status_code == 200
    assert field in response.context["adminform"].form.errors
    assert not Budget.objects.exists()
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize("model", ["budget", "ratelimit"])
def test_a_form_is_validated_without_writing_what_it_says(operator: Client, model: str) -> None:
    form = {"tenant": factories.tenant().pk, **FORM, "requests_per_minute": "60"}
    with CaptureQueriesContext(connection) as captured:
        assert operator.post(f"/admin/governance/{model}/add/", form).status_code == 302
    written = [query["sql"] for query in captured if query["sql"].startswith(f'INSERT INTO "governance_{model}"')]
    assert len(written) == 1


def test_a_second_budget_for_the_same_scope_is_refused_with_a_sentence(operator: Client, history: Budget) -> None:
    response = operator.post("/admin/governance/budget/add/", FORM | {"tenant": history.tenant_id})
    assert "There is a budget acme agent:invoices per day already" in response.content.decode()


def test_a_reset_asks_for_a_reason_on_its_own_page(operator: Client, history: Budget) -> None:
    page = reverse("admin:governance_budget_reset_one", args=[history.pk])
    assert b'name="reason"' in operator.get(page).content
    assert operator.post(page, {"_confirmed": "yes", "reason": " "}).status_code == 200
    assert history.windows.count() == 1
    assert operator.post(page, {"_confirmed": "yes", "reason": "a new project"}).status_code == 302
    assert history.windows.filter(closed_at=None).get().settled_nanos == 0
    assert BudgetEvent.objects.get(kind="budget-reset").reason == "a new project"
    assert AuditEntry.objects.get().actor == "olga"


def test_selected_budgets_are_reset_after_the_same_question(operator: Client, history: Budget) -> None:
    selected = {"action": "reset_selected", "_selected_action": [history.pk]}
    asked = operator.post("/admin/governance/budget/", selected)
    assert b'name="reason"' in asked.content
    assert not BudgetEvent.objects.filter(kind="budget-reset").exists()
    done = operator.post("/admin/governance/budget/", selected | {"_confirmed": "yes", "reason": "month end"})
    assert done.status_code == 302
    assert BudgetEvent.objects.filter(kind="budget-reset").count() == 1


@pytest.mark.parametrize("model", ["tenant", "agent"])
def test_pause_and_resume_from_the_list_and_from_the_page(operator: Client, history: Budget, model: str) -> None:
    rows: Any = Tenant.objects if model == "tenant" else Agent.objects
    confirmed = {"_confirmed": "yes", "reason": "because"}
    selected = {"action": "pause_selected", "_selected_action": [rows.get().pk]}
    operator.post(f"/admin/governance/{model}/", selected | confirmed)
    assert rows.get().status == "paused"
    operator.post(reverse(f"admin:governance_{model}_resume_one", args=[rows.get().pk]), confirmed)
    assert rows.get().status == "active"
    assert list(AuditEntry.objects.values_list("reason", flat=True)) == ["because", "because"]


def test_a_tenant_is_made_and_changed_with_audit_rows(operator: Client) -> None:
    form = {"slug": "acme", "name": "Acme", "time_zone": "Europe/Paris", "default_max_tokens": "1000"}
    assert operator.post("/admin/governance/tenant/add/", form).status_code == 302
    page = reverse("admin:governance_tenant_change", args=[Tenant.objects.get().pk])
    assert operator.post(page, form | {"name": "Acme Ltd"}).status_code == 302
    assert Tenant.objects.get().name == "Acme Ltd"
    bad = operator.post("/admin/governance/tenant/add/", form | {"slug": "b", "time_zone": "Mars"})
    assert "time_zone" in bad.context["adminform"].form.errors
    assert list(AuditEntry.objects.order_by("id").values_list("action", flat=True)) == [
        "tenant.create",
        "tenant.change",
    ]


def test_an_issued_key_is_shown_once_and_can_be_rotated_and_revoked(operator: Client) -> None:
    agent = factories.agent()
    shown = operator.post("/admin/governance/apikey/add/", {"role": "agent", "agent": agent.pk, "name": "demo"})
    text = re.findall(r"sg_[\w-]{20,}", shown.content.decode())[0]
    key = ApiKey.objects.get()
    assert (key.digest, key.tenant) == (digest_of(text), agent.tenant)
    assert "no-store" in shown["Cache-Control"]
    page = reverse("admin:governance_apikey_change", args=[key.pk])
    assert text not in operator.get(page).content.decode()

    rotate = reverse("admin:governance_apikey_rotate_one", args=[key.pk])
    assert ApiKey.objects.count() == 1
    assert operator.get(rotate).status_code == 200
    assert ApiKey.objects.count() == 1
    assert b"This field is required" in operator.post(rotate, {"_confirmed": "yes"}).content
    assert b"sg_" in operator.post(rotate, {"_confirmed": "yes", "reason": "a year old"}).content
    assert ApiKey.objects.count() == 2
    assert AuditEntry.objects.get(action="key.rotate").reason == "a year old"

    revoke = reverse("admin:governance_apikey_revoke_one", args=[key.pk])
    operator.post(revoke, {"_confirmed": "yes", "reason": "leaked"})
    key.refresh_from_db()
    assert key.revoked_at is not None
    wrong = operator.post("/admin/governance/apikey/add/", {"role": "agent"})
    assert "tenant" in wrong.context["form"].errors


def test_alerts_are_the_gravest_open_ones_first_and_say_what_to_do(operator: Client) -> None:
    now = timezone.now()
    for kind, severity in (("raise_asked", "info"), ("anomaly", "critical"), ("unheard_of", "warning")):
        alerts.report(kind=kind, subject="acme", message="look", severity=severity, now=now)
    Alert.objects.filter(kind="anomaly").update(last_at=now - timedelta(hours=1), first_at=now - timedelta(hours=1))
    alerts.report(kind="over", subject="acme", message="look", severity="critical", now=now)
    alerts.clear(kind="over", subject="acme", now=now)
    shown = operator.get(reverse("admin:governance_alert_changelist")).context["cl"].result_list
    assert [row.kind for row in shown] == ["anomaly", "unheard_of", "raise_asked", "over"]

    def told(kind: str) -> str:
        row = Alert.objects.get(kind=kind)
        return operator.get(reverse("admin:governance_alert_change", args=[row.pk])).content.decode()

    assert "Approve or decline it; whoever asked sees what you said." in told("raise_asked")
    assert f'href="{reverse("admin:governance_raiserequest_changelist")}">Decide</a>' in told("raise_asked")
    assert "Acknowledge it when it is seen to." in told("unheard_of")


def test_an_event_says_what_happened_in_percent(operator: Client, history: Budget) -> None:
    text = strip_tags(operator.get(reverse("admin:governance_budgetevent_changelist")).content.decode())
    assert "reached 75% of its limit" in text
    assert "threshold breach" in text


def test_an_empty_table_says_whether_it_is_empty_or_filtered(operator: Client, viewer: Client) -> None:
    table = reverse("admin:governance_ratelimit_changelist")
    assert "Nothing here yet" in operator.get(table).content.decode()
    assert "Add rate limit" in operator.get(table).content.decode()
    assert "Add rate limit" not in viewer.get(table).content.decode()
    assert "Nothing found" in operator.get(f"{table}?q=nobody").content.decode()
