"""Billing in the console: every page renders, and operators' acts go through the domain."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from billing import dispatch
from billing.inbox import envelope, store
from billing.models import BillingAccount, Plan, StripeEvent
from governance.models import AuditEntry, Tenant
from governance.rules import policy
from tests import factories
from tests.billing.conftest import Deliver, window_of
from tests.billing.events import START, checkout_completed, invoice_paid, subscription_created

pytestmark = pytest.mark.django_db
APPLY = "/admin/billing/plan/apply/"


@pytest.fixture
def console(client: Client, tenant: Tenant, deliver: Deliver) -> Client:
    deliver(checkout_completed(), subscription_created(), invoice_paid())
    client.force_login(User.objects.create_superuser("ann"))
    return client


@pytest.mark.parametrize("model", ["plan", "billingaccount", "subscription", "invoice", "catalogentry", "stripeevent"])
def test_lists_and_forms_render(console: Client, model: str) -> None:
    assert console.get(f"/admin/billing/{model}/").status_code == 200
    if model != "catalogentry":
        from django.apps import apps

        row = apps.get_model("billing", model)._default_manager.first()
        assert row is not None
        assert console.get(f"/admin/billing/{model}/{row.pk}/change/").status_code == 200


def plan_form(**changes: Any) -> dict[str, Any]:
    return {
        "name": "Huge",
        "limit": "12.5",
        "soft_cap": "80",
        "hard_cap": "100",
        "warn_at": "50",
        "alert_thresholds": "50, 90%",
        "clamp_min_tokens": "64",
        "downgrade_rules": "mistral-large-latest -> mistral-small-latest at 95",
        "disabled_tools": "",
        "price_ids": "",
        "lookup_keys": "huge, huge-2",
        "product_ids": "",
        "monthly": "on",
        **changes,
    }


def test_plans_are_edited_in_dollars(console: Client) -> None:
    response = console.post("/admin/billing/plan/add/", plan_form())
    assert response.status_code == 302, response.content
    plan = Plan.objects.get(name="Huge")
    assert (plan.limit_nanos, plan.lookup_keys) == (12_500_000_000, ["huge", "huge-2"])
    assert (plan.alert_thresholds, plan.clamp, plan.clamp_min_tokens) == (["0.5", "0.9"], False, 64)
    assert plan.downgrade_rules == [{"from": ["mistral-large-latest"], "to": "mistral-small-latest", "at": "0.95"}]
    assert (plan.soft_cap, plan.warn_at, plan.trial_percent) == (Decimal("0.8"), Decimal("0.5"), None)
    assert AuditEntry.objects.get(action="plan.create").actor == "ann"


@pytest.mark.parametrize("names", ["a\0b", "k" * 256, ", ".join(map(str, range(101)))], ids=["nul", "long", "many"])
def test_a_plan_is_matched_by_no_names_that_cannot_be(console: Client, names: str) -> None:
    response = console.post("/admin/billing/plan/add/", plan_form(lookup_keys=names))
    assert response.status_code == 200
    assert response.context["adminform"].form.errors["lookup_keys"]


@pytest.mark.parametrize(
    "change",
    [
        {"limit": "0"},
        {"limit": ""},
        {"limit": "99999999999999999999"},
        {"limit": "0.0000000001"},
        {"soft_cap": "0.8"},
        {"soft_cap": "100"},
        {"lookup_keys": "premium"},
        {"trial_percent": "101"},
        {"upgrade": "maybe"},
        {"downgrade_rules": "a ->"},
    ],
)
def test_plans_that_cannot_be_are_shown_again_with_the_reason(console: Client, change: dict[str, Any]) -> None:
    response = console.post("/admin/billing/plan/add/", plan_form(**change))
    assert response.status_code == 200
    assert b"Nothing was saved" in response.content
    assert b'class="sg-error" role="alert"' in response.content
    assert not Plan.objects.filter(name="Huge").exists()


def test_what_nobody_touches_of_a_plan_stays_and_what_it_says_is_told(console: Client) -> None:
    """A name may have a comma in it, and a default be any."""
    plan = Plan.objects.get(name="Standard")
    Plan.objects.filter(pk=plan.pk).update(lookup_keys=["standard", "small, medium"], trial_percent=20)
    path = f"/admin/billing/plan/{plan.pk}/change/"
    form = console.get(path).context["adminform"].form
    posted = {name: value for name in form.fields if (value := form[name].value()) not in (None, False, True)}
    posted |= {"downgrade_rules": policy.to_text("downgrade_rules", plan.downgrade_rules), "clamp": "on"}
    posted |= {"monthly": "on", "is_default": "on", "_continue": "save"}
    assert console.post(path, posted).status_code == 302
    assert not AuditEntry.objects.filter(action="plan.change").exists()
    page = console.get(path).content.decode()
    for words in ("$50.00 a month", "$10.00", "$5.00 for 7 days", "acme", "cus_acme", "10, as everywhere"):
        assert words in page, words


def test_a_viewer_reads_a_plan_and_who_has_it(console: Client) -> None:
    plan = Plan.objects.get(name="Standard")
    viewer = Client()
    viewer.force_login(factories.person("vera", "viewer"))
    listed = viewer.get("/admin/billing/plan/").content.decode()
    assert "$50.00 a month" in listed
    assert "on_plan=Standard" in listed
    page = viewer.get(f"/admin/billing/plan/{plan.pk}/change/").content.decode()
    assert "mistral-small-latest" in page
    assert 'name="limit"' not in page
    assert viewer.get(APPLY).status_code == 403


def test_operator_overrides_a_limit_and_binds_a_customer(
    console: Client, django_capture_on_commit_callbacks: Any
) -> None:
    account = BillingAccount.objects.get()
    path = f"/admin/billing/billingaccount/{account.pk}/change/"
    with django_capture_on_commit_callbacks(execute=True):
        console.post(path, {"tenant": account.tenant_id, "limit_override": "75"})
    assert window_of().limit_nanos == factories.nanos("75")
    other = factories.tenant("other")
    with django_capture_on_commit_callbacks(execute=True):
        console.post(path, {"tenant": other.pk, "limit_override": "75"})
    assert window_of("other").limit_nanos == factories.nanos("75")
    assert AuditEntry.objects.filter(action="billing.bind", actor="ann").count() == 1
    page = console.get(path).content.decode()
    for words in (
        "An operator set the limit.",
        "limit set to $75.00",
        "bound to other",
        "customer.subscription.created",
    ):
        assert words in page, words


def test_events_are_processed_again(console: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(dispatch, "soon", sent.append)
    row = StripeEvent.objects.latest("id")
    console.post("/admin/billing/stripeevent/", {"action": "process_again", "_selected_action": [row.pk]})
    row.refresh_from_db()
    assert (row.processed_at, sent) == (None, [row.event_id])


def test_plans_can_be_applied_to_current_windows(console: Client) -> None:
    plan = Plan.objects.get(name="Standard")
    Plan.objects.filter(pk=plan.pk).update(limit_nanos=factories.nanos("60"))
    asked = console.get(APPLY)
    assert "the current windows of 1 customer" in asked.content.decode()
    assert window_of().limit_nanos == factories.nanos("50")
    console.post(APPLY, {"_confirmed": "yes", "reason": "a sale"})
    assert window_of().limit_nanos == factories.nanos("60")
    assert AuditEntry.objects.get(action="plan.apply_now").reason == "a sale"


def test_pages_of_what_stripe_says_and_sells_open(console: Client) -> None:
    for page in ("payment", "topup", "billingperiod", "billingaccount"):
        assert console.get(f"/admin/billing/{page}/").status_code == 200
    unbound = console.get("/admin/billing/billingaccount/?tenant__isempty=1")
    assert (unbound.status_code, b"cus_acme" in unbound.content) == (200, False)


def test_command_handles_what_waits(tenant: Tenant, capsys: Any) -> None:
    for event in (checkout_completed(), invoice_paid()):
        store.store(envelope.parse(json.dumps(event)), now=START)
    call_command("process_inbox", "--dry-run", "--json")
    assert json.loads(capsys.readouterr().out)["waiting"] == 2
    call_command("process_inbox", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert (figures["handled"], figures["waiting"], figures["put_aside"]) == (2, 0, 0)
