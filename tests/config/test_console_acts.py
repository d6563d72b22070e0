"""Every act of the console, pressed twice: what comes second is never a failure, and does nothing more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib import admin
from django.db.models import Model as Row
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing.models import BillingAccount, StripeEvent
from governance import alerts, ledger, sealing
from governance.actions import allowances, rate_limits, report_subscriptions, reviews, stops
from governance.alerts.channels import webhook
from governance.audit import Actor
from governance.console.presses import DONE_ALREADY
from governance.models import (
    Alert,
    AlertChannel,
    AlertDelivery,
    Anomaly,
    AnomalyRule,
    AuditEntry,
    PendingReport,
    SpendEntry,
)
from llm.models import Model, Price, ProviderEndpoint
from tests import confirmed, factories

pytestmark = pytest.mark.django_db
BY = Actor("ann")
# What any of the forms asks for.
FIELDS = {
    "_confirmed": "yes",
    "reason": "somebody asked",
    "amount": "5",
    "until_0": "2099-01-01",
    "until_1": "12:00",
    "cost": "0.5",
    "usd_per_million": "7",
    "days": "30",
}


# A row of each model whose page has acts.
ROWS: dict[str, Callable[[], Row]] = {
    "auth.User": lambda: factories.person("olga", "operator"),
    # A goal's, as only these can be closed.
    "governance.Budget": lambda: factories.budget("1", scope_type="task", scope_key="report", window="lifetime"),
    "governance.Allowance": lambda: allowances.raise_limit(
        budget=factories.budget("1"),
        amount_nanos=factories.nanos("5"),
        ends_at=timezone.now() + timedelta(days=1),
        reason="x",
        by=BY,
        now=timezone.now(),
    ),
    "governance.RaiseRequest": lambda: factories.raise_request(now=timezone.now()),
    "governance.RateLimit": lambda: rate_limits.create(
        scope_type="tenant",
        scope_key="acme",
        tenant=factories.tenant(),
        by=BY,
        now=timezone.now(),
        requests_per_minute=5,
    ),
    "governance.EmergencyStop": lambda: stops.stop(tenant=factories.tenant(), reason="x", by=BY, now=timezone.now()),
    "governance.SpendEntry": lambda: _entry(),
    "governance.PendingReport": lambda: _report(),
    "governance.Alert": lambda: _alert(),
    "governance.AlertChannel": lambda: _channel(),
    "governance.AlertDelivery": lambda: _delivery(),
    "governance.Anomaly": lambda: _anomaly(),
    "governance.AnomalyRule": lambda: AnomalyRule.objects.create(tenant=factories.tenant(), agent="*", act="pause"),
    "governance.ReportSubscription": lambda: report_subscriptions.subscribe(
        tenant=None, address="ann@example.com", cadence="weekly", by=BY, now=timezone.now()
    ),
    "governance.Tenant": factories.tenant,
    "governance.PageLink": lambda: factories.page_link(now=timezone.now())[1],
    "governance.Agent": factories.agent,
    "governance.ApiKey": lambda: factories.key()[1],
    "llm.Model": lambda: Model.objects.create(name="new", provider="groq", kinds=["chat"], status="preview"),
    "llm.Price": lambda: Price.objects.order_by("pk").first() or pytest.fail("the catalogue has prices"),
    "llm.ProviderEndpoint": lambda: ProviderEndpoint.objects.create(
        name="mine", kind="openai", base_url="http://127.0.0.1:9/v1", enabled=False, updated_at=timezone.now()
    ),
    "billing.BillingAccount": lambda: BillingAccount.objects.create(
        stripe_customer_id="cus_1", claimed_tenant=factories.tenant().slug
    ),
    "billing.StripeEvent": lambda: StripeEvent.objects.create(
        event_id="evt_1", type="customer.created", created=1, payload={}, received_at=timezone.now()
    ),
}
ACTS = [(model._meta.label, act) for model, page in admin.site._registry.items() for act in page.actions_detail]
# They change nothing of these rows, so they leave nothing in the audit trail, and may be done as often as pressed.
QUIET = {"sync_one", "try_one", "resume_one", "serve_one", "clear_overruns"}


def _entry() -> Row:
    ledger.record(factories.reporting("0.10", certainty="estimated"), now=timezone.now())
    return SpendEntry.objects.latest("pk")


def _alert() -> Row:
    alerts.report(kind="lagging", subject="x", message="x", severity="critical", now=timezone.now())
    return Alert.objects.latest("pk")


def _channel() -> AlertChannel:
    """A webhook, as only these have all acts; nobody listens there, so a test of it is over at once."""
    sealed = sealing.seal(webhook.new_secret())
    return AlertChannel.objects.create(name="pager", kind="webhook", target="http://127.0.0.1:9/", sealed=sealed)


def _delivery() -> AlertDelivery:
    """One that was given up."""
    now = timezone.now()
    notice = alerts.tell(kind="lagging", incident="x", title="x", message="x", now=now)
    return AlertDelivery.objects.create(notice=notice, channel=_channel(), state="dead", created_at=now)


def _report() -> Row:
    factories.budget("1")
    trust = reviews.trust_in(tenant_id=factories.caller().tenant_id, agent_is_fixed=False)
    row = reviews.report(report=factories.reporting("50", trust=trust), now=timezone.now())
    assert isinstance(row, PendingReport)
    return row


def _anomaly() -> Anomaly:
    """One that paused its agent by itself, and is not over."""
    agent, now = factories.agent(), timezone.now()
    known = {"hour": now, "started_at": now, "last_at": now, "acted_at": now, "act": "pause"}
    whom = {"subject_type": "agent", "subject": str(agent), "tenant": agent.tenant, "agent": agent.slug}
    return Anomaly.objects.create(**whom, **known, metric="cost", observed=9, expected=1, bound=3)


@pytest.fixture
def owner(client: Client) -> Client:
    client.force_login(factories.person("ann", is_superuser=True))
    return client


@pytest.mark.parametrize(("label", "act"), ACTS)
def test_an_act_that_is_posted_twice_is_done_once(owner: Client, label: str, act: str) -> None:
    row = ROWS[label]()
    path = reverse(f"admin:{label.replace('.', '_').lower()}_{act}", args=[row.pk])
    form = FIELDS | confirmed.read(owner, path)
    before = AuditEntry.objects.count()
    assert owner.post(path, form).status_code in (200, 302)
    made = AuditEntry.objects.count()
    again = owner.post(path, form)
    assert AuditEntry.objects.count() == made
    if not type(row)._default_manager.filter(pk=row.pk).exists():
        # What was deleted has no page any more.
        assert again.status_code in (302, 404)
        return
    assert again.status_code == 302
    said = [str(message) for message in owner.get(again["location"], follow=True).context["messages"]]
    assert (made > before, any(DONE_ALREADY in each for each in said)) == ((act not in QUIET,) * 2)


def test_a_press_that_no_page_gave_is_one_all_the_same(owner: Client) -> None:
    """Also of what is no form of a page: whatever raises DoneBefore leads on."""
    row = ROWS["billing.BillingAccount"]()
    path = reverse("admin:billing_billingaccount_accept_one", args=[row.pk])
    form = confirmed.read(owner, path) | {"_press": "mine"}
    first, second = owner.post(path, form), owner.post(path, form)
    assert first["location"] == reverse("admin:unbound")
    assert second["location"] == reverse("admin:billing_billingaccount_change", args=[row.pk])
