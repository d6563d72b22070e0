"""The demo's customers at the simulated Stripe: what each of them shows once its webhooks have come."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from billing.inbox import envelope, handlers, store
from billing.models import BillingAccount, Invoice, StripeEvent
from billing.queries import margin
from billing.sandbox import SimulatedStripe
from config import demo, demo_stripe, story
from config.management.commands import serve
from governance.audit import Actor
from governance.models import Alert, BudgetWindow
from governance.queries.spend import TimeRange
from tests import factories
from tests.billing.events import API_VERSION
from tests.billing.sandbox.conftest import Shop
from tests.fakes.simulated_stripe import answering

URL, SECRET = "http://127.0.0.1:9/api/webhooks/stripe", "whsec_demo_of_tests"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> Path:
    """Sixteen days are enough to show both of acme's billing periods."""
    monkeypatch.setattr(demo, "DAYS", 16)
    settings.VAR_DIR = tmp_path
    return tmp_path


@pytest.fixture
def account(db: None, short: Path, settings: Any) -> SimulatedStripe:
    """The demo with its customers, and all that Stripe sent handled."""
    call_command("seed_demo", "--json", stdout=io.StringIO())
    now = timezone.now()
    path = short / "stripe.json"
    settings.STRIPE_TOPUP_PRICE = demo_stripe.prepare(
        path, url=URL, secret=SECRET, events=sorted(handlers.asked_for()), now=now
    )
    settings.STRIPE_SECRET_KEY, settings.STRIPE_WEBHOOK_SECRETS = "sk_test_1", [SECRET]
    found = SimulatedStripe(path=path)
    with answering(found):
        for _, event, _ in found.take_outgoing(now.timestamp()):
            store.store(envelope.parse(json.dumps(event)), now=now)
        store.handle_all(list(StripeEvent.objects.order_by("id").values_list("event_id", flat=True)), now=now)
    return found


def test_its_customers_pay_fail_to_pay_and_cost_more_than_they_pay(account: SimulatedStripe) -> None:
    assert not StripeEvent.objects.exclude(error="").exists()
    assert set(StripeEvent.objects.values_list("api_version", flat=True)) == {API_VERSION}
    paid = {str(one.tenant): one for one in BillingAccount.objects.filter(tenant__isnull=False)}
    assert {slug: one.state for slug, one in paid.items()} == {
        "acme": "active",
        "globex": "active",
        "hooli": "provisional",
    }
    assert paid["acme"].plan == "Standard"
    assert Invoice.objects.filter(account=paid["acme"], status="paid").count() == 2
    # One names a tenant with budgets of its own, and waits for an operator.
    waiting = BillingAccount.objects.get(tenant=None)
    assert waiting.claimed_tenant == "initech"
    assert Alert.objects.filter(kind="tenant_has_budgets").exists()
    margins = {row.tenant: row.margin_nanos for row in margin.every(period=TimeRange(None, timezone.now()))}
    assert (margins["globex"] or 0) < 0 < (margins["acme"] or 0)


def test_the_demos_periods_are_the_paid_ones(account: SimulatedStripe) -> None:
    """What is shown as spent in the running period is not begun anew by the first webhook."""
    for slug in ("acme", "globex"):
        window = BudgetWindow.objects.get(budget__tenant__slug=slug, budget__window="billing_cycle", closed_at=None)
        assert window.settled_nanos > 0
        assert window.source_id == demo.customer_of(slug)
    assert BudgetWindow.objects.filter(budget__window="billing_cycle", budget__tenant__slug="acme").count() == 2


def test_a_second_start_goes_on_with_the_same_account(account: SimulatedStripe, short: Path) -> None:
    now = timezone.now() + timedelta(hours=1)
    before = account.call("GET", "/v1/customers", {"limit": 100})["data"]
    price = demo_stripe.prepare(short / "stripe.json", url=URL, secret=SECRET, events=["invoice.paid"], now=now)
    again = SimulatedStripe(path=short / "stripe.json")
    assert again.call("GET", "/v1/customers", {"limit": 100})["data"] == before
    assert again.call("GET", f"/v1/prices/{price}")["lookup_key"] == demo_stripe.TOPUP
    (short / "stripe.json").write_text("no state at all")
    assert demo_stripe.prepare(short / "stripe.json", url=URL, secret=SECRET, events=["invoice.paid"], now=now)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEBUG", False),
        ("STRIPE_SECRET_KEY", "sk_test_mine"),
        ("STRIPE_SECRET_KEY", "sk_live_mine"),
        ("STRIPE_WEBHOOK_SECRETS", ["whsec_mine"]),
        ("STRIPE_API_BASE", "http://127.0.0.1:1"),
    ],
)
def test_nothing_stands_in_for_a_stripe_that_is_configured(settings: Any, name: str, value: Any) -> None:
    settings.DEBUG, settings.STRIPE_SECRET_KEY, settings.STRIPE_WEBHOOK_SECRETS = True, "", []
    settings.STRIPE_API_BASE = serve.STRIPES_OWN
    assert serve.stripe_address() is not None
    setattr(settings, name, value)
    assert serve.stripe_address() is None


def test_what_the_children_are_told_of_it(settings: Any) -> None:
    stripe = serve.StripeStandIn("127.0.0.1", 9320, "sk_test_1", URL, SECRET, "price_1")
    told = serve.environment(None, stripe)
    assert told["STRIPE_API_BASE"] == told["STRIPE_SANDBOX_URL"] == "http://127.0.0.1:9320"
    assert (told["STRIPE_SECRET_KEY"], told["STRIPE_WEBHOOK_SECRET"]) == ("sk_test_1", SECRET)
    assert told["STRIPE_TOPUP_PRICE"] == "price_1"
    settings.STRIPE_TOPUP_PRICE = "price_mine"
    assert serve.environment(None, stripe).get("STRIPE_TOPUP_PRICE") != "price_1"
    assert serve.webhook_url("0.0.0.0", 8000) == "http://127.0.0.1:8000/api/webhooks/stripe"
    assert serve.webhook_url("::1", 8000) == "http://[::1]:8000/api/webhooks/stripe"


def test_the_story_goes_on_after_weeks_in_which_nobody_ran_it(db: None, settings: Any) -> None:
    """Its customer's clock is moved a few intervals at a time, as Stripe wants it."""
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    now = timezone.now()
    shop = Shop(SimulatedStripe(now=int((now - timedelta(days=40)).timestamp())))
    clock = shop.post("test_helpers/test_clocks", frozen_time=shop.account.now)["id"]
    customer = shop.customer(test_clock=clock)
    sub = shop.subscribe(customer, shop.price(500, "week"))["id"]
    tenant = factories.tenant(story.TENANT)
    BillingAccount.objects.create(tenant=tenant, stripe_customer_id=customer, subscription_id=sub)
    with answering(shop.account):
        assert "a new week begins" in story.renew(by=Actor("tests"), now=now)
    assert shop.get(f"test_helpers/test_clocks/{clock}")["frozen_time"] > now.timestamp()
    assert {one["status"] for one in shop.invoices(customer)} == {"paid"}
    assert shop.sub(sub)["items"]["data"][0]["current_period_end"] > now.timestamp()
