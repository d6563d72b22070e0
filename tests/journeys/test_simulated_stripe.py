"""Whole stories at the simulated Stripe, which posts its signed webhooks to the running product.

The simulated account's clock stands where the machine's does; customers whose months pass live on test clocks that
were set back, as one does with the real one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from django.test import Client
from django.utils import timezone

from billing.inbox import catch_up, handlers, store
from billing.models import BillingAccount, MeterEvent, StripeEvent
from billing.sandbox import Postman, SimulatedStripe
from billing.usage import outbox
from config import demo_stripe, story
from governance import ledger
from governance.models import BudgetWindow, Tenant
from tests import factories as make
from tests.billing import events, signing
from tests.product import Product, eventually
from tests.servers import served

DAY_S = 86_400
PRICES = {
    "standard": {"unit_amount": 5000, "recurring": {"interval": "month"}, "lookup_key": "standard"},
    "premium": {"unit_amount": 20_000, "recurring": {"interval": "month"}, "lookup_key": "premium"},
    "top-up": {"unit_amount": 2000, "metadata": {"llm_topup_usd": "20"}, "lookup_key": "topup_20"},
    "weekly": {
        "unit_amount": 600,
        "recurring": {"interval": "week"},
        "lookup_key": story.PRICE,
        "metadata": demo_stripe.A_WEEK,
    },
}


@dataclass
class Business:
    """Who sells: what it asks of Stripe, and what has become of it in the product."""

    account: SimulatedStripe
    product: Product
    prices: dict[str, str]

    def post(self, path: str, **params: Any) -> dict[str, Any]:
        return self.account.call("POST", f"/v1/{path}", params)

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        return self.account.call("GET", f"/v1/{path}", params)

    def customer(self, *, days_ago: int = 0, card: str = "pm_card_visa") -> str:
        """A customer that names the tenant acme; on a test clock where it has been one for a while."""
        more = {}
        if days_ago:
            frozen = self.account.now - days_ago * DAY_S
            more["test_clock"] = self.post("test_helpers/test_clocks", frozen_time=frozen)["id"]
        made = self.post("customers", payment_method=card, metadata={"tenant_id": "acme"}, **more)
        return str(made["id"])

    def subscribe(self, customer: str, price: str, **more: Any) -> str:
        items = [{"price": self.prices[price], **more.pop("item", {})}]
        return str(self.post("subscriptions", customer=customer, items=items, **more)["id"])

    def bring_to_now(self, customer: str) -> None:
        clock = self.get(f"customers/{customer}")["test_clock"]
        self.post(f"test_helpers/test_clocks/{clock}/advance", frozen_time=self.account.now)

    def handle(self) -> None:
        """Let the worker's job run for what has come in."""
        came = StripeEvent.objects.waiting().order_by("created", "id").values_list("event_id", flat=True)
        store.handle_all(list(came), now=timezone.now())

    def comes_to(self, state: str, limit: str) -> bool:
        def there() -> bool:
            self.handle()
            account = BillingAccount.objects.filter(tenant__slug="acme", deleted_at=None).first()
            window = BudgetWindow.objects.filter(tenant__slug="acme", closed_at=None).first()
            if account is None or window is None:
                return False
            return (account.state, window.limit_nanos) == (state, make.nanos(limit))

        return eventually(there, within_s=20)

    def is_settled(self) -> bool:
        """Whether all webhooks have come and had their effect, and reading everything anew says nothing else."""

        def quiet() -> bool:
            self.handle()
            return not self.account.state.outgoing and not StripeEvent.objects.waiting().exists()

        if not eventually(quiet, within_s=20) or StripeEvent.objects.exclude(error="").exists():
            return False
        again = catch_up.reconcile(now=timezone.now())
        return (again.figures["differed"], again.figures["failed"]) == (0, 0)


@pytest.fixture
def business(product: Product, settings: Any) -> Iterator[Business]:
    events.standard_plans()
    make.tenant("acme")
    account = SimulatedStripe(clock=time.time, seed="journey")
    postman = Postman(account)
    with served(account.app) as url:
        account.state.base_url = url
        settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = "sk_test_journey", url
        settings.STRIPE_SANDBOX_URL, settings.APP_URL, settings.DEBUG = url, product.url, True
        account.send_webhooks(product.url + signing.PATH, secret=signing.SECRET, events=sorted(handlers.asked_for()))
        prices = {}
        for name, fields in PRICES.items():
            wanted = {"currency": "usd", "product_data": {"name": name}, **fields}
            prices[name] = str(account.call("POST", "/v1/prices", wanted)["id"])
        settings.STRIPE_TOPUP_PRICE = prices["top-up"]
        postman.start()
        try:
            yield Business(account, product, prices)
        finally:
            postman.stop()


def test_sign_up_use_up_buy_more_and_leave(product: Product, business: Business) -> None:
    tenant = Tenant.objects.get(slug="acme")
    key = product.key(of=tenant)
    customer = business.customer()
    sub = business.subscribe(customer, "standard")
    assert business.comes_to("active", "50")
    assert product.chat(key).status_code == 200

    window = BudgetWindow.objects.get(tenant=tenant, closed_at=None)
    rest = f"{(window.limit_nanos - window.settled_nanos) / 10**9:.9f}"
    ledger.record(make.reporting(rest, by=make.caller(tenant)), now=timezone.now())
    refused = product.chat(key)
    assert refused.status_code == 402

    # A human opens the link of the refusal, and pays on the hosted page.
    link = refused.json()["error"]["metadata"]["upgrade_url"]
    opened = httpx.get(link, follow_redirects=False, timeout=30)
    checkout = opened.headers["location"]
    assert urlsplit(checkout).netloc == urlsplit(business.account.state.base_url).netloc
    assert httpx.get(checkout).status_code == 200
    assert httpx.post(checkout, data={"method": "pm_card_visa"}, follow_redirects=False).status_code == 303
    assert business.comes_to("active", "70")
    assert product.chat(key).status_code == 200

    business.account.call("DELETE", f"/v1/subscriptions/{sub}")
    assert eventually(lambda: (business.handle(), BillingAccount.objects.get().state)[1] == "closed", within_s=20)
    assert business.is_settled()
    # What is left of the top-up was paid for beside the plan.
    assert product.chat(key).status_code == 200
    left = BudgetWindow.objects.get(tenant=tenant, closed_at=None)
    rest = f"{(left.limit_nanos - left.settled_nanos) / 10**9:.9f}"
    assert 19.9 < float(rest) < 20
    ledger.record(make.reporting(rest, by=make.caller(tenant), request_id="all of it"), now=timezone.now())
    assert product.chat(key).status_code == 402


def test_a_renewal_that_fails_leaves_a_tenth_until_it_is_paid(product: Product, business: Business) -> None:
    # So long ago that any month is over, and its renewal was tried.
    customer = business.customer(days_ago=33)
    business.subscribe(customer, "standard")
    failing = {"default_payment_method": "pm_card_chargeCustomerFail"}
    business.post(f"customers/{customer}", invoice_settings=failing)
    business.bring_to_now(customer)
    assert business.comes_to("provisional", "5")
    (failed,) = business.get("invoices", customer=customer, status="open")["data"]
    business.post(f"invoices/{failed['id']}/pay", payment_method="pm_card_visa")
    assert business.comes_to("active", "50")
    assert business.is_settled()


def test_an_upgrade_is_paid_for_the_rest_of_its_month(product: Product, business: Business) -> None:
    customer = business.customer()
    sub = business.subscribe(customer, "standard")
    assert business.comes_to("active", "50")
    item = business.get(f"subscriptions/{sub}")["items"]["data"][0]["id"]
    change = {"id": item, "price": business.prices["premium"]}
    business.post(f"subscriptions/{sub}", items=[change], proration_behavior="always_invoice")

    def raised() -> bool:
        business.handle()
        return BudgetWindow.objects.get(tenant__slug="acme", closed_at=None).limit_nanos > make.nanos("199.9")

    assert eventually(raised, within_s=20)
    paid = business.account.books.paid(customer)
    assert sum(span.amount for span in paid) <= 20_000
    assert business.is_settled()


def test_what_was_paid_for_is_gone_with_the_money(product: Product, business: Business) -> None:
    customer = business.customer()
    business.subscribe(customer, "standard")
    assert business.comes_to("active", "50")
    (charge,) = business.get("charges", customer=customer)["data"]
    dispute = business.account.dispute(charge["id"])

    def frozen() -> bool:
        business.handle()
        return BudgetWindow.objects.get(tenant__slug="acme", closed_at=None).limit_nanos < make.nanos("50")

    assert eventually(frozen, within_s=20)
    business.account.close_dispute(dispute["id"], won=True)
    assert business.comes_to("active", "50")
    business.post("refunds", charge=charge["id"])
    assert eventually(frozen, within_s=20)
    assert business.account.books.share_undone(business.account.books.spans[0].invoice) == 1


def test_events_that_were_lost_are_fetched(product: Product, business: Business) -> None:
    business.account.send_webhooks(
        business.product.url + "/api/nowhere", secret=signing.SECRET, events=["customer.created"]
    )
    customer = business.customer()
    business.subscribe(customer, "standard")
    now = timezone.now() + timedelta(seconds=1)
    done = catch_up.backfill(since=now - timedelta(hours=1), now=now)
    assert done.figures["missing"] > 3
    assert business.comes_to("active", "50")


def test_usage_is_told_to_its_meter_and_billed_by_it(product: Product, business: Business, settings: Any) -> None:
    settings.STRIPE_METERS = {"llm_cost": "microdollars"}
    meter = business.post(
        "billing/meters", display_name="Cost", event_name="llm_cost", default_aggregation={"formula": "sum"}
    )["id"]
    customer = business.customer()
    business.subscribe(customer, "standard")
    assert business.comes_to("active", "50")
    tenant = Tenant.objects.get(slug="acme")
    now = timezone.now()
    # The meter counts from two hours ago; the hour of the spend is over by now.
    outbox.write(now=now - timedelta(hours=2))
    ledger.record(
        make.reporting("3", by=make.caller(tenant), occurred_at=now - timedelta(hours=1, minutes=10)), now=now
    )
    outbox.write(now=now)
    sent = outbox.drain(clock=timezone.now)
    counted = business.get(
        f"billing/meters/{meter}/event_summaries",
        customer=customer,
        start_time=business.account.now // 3600 * 3600 - DAY_S,
        end_time=business.account.now // 3600 * 3600 + DAY_S,
    )["data"]
    assert (sent, [row["aggregated_value"] for row in counted]) == (1, [3_000_000.0])
    assert MeterEvent.objects.get(value__gt=0).state == "sent"


def test_the_story_is_told_a_button_a_step(product: Product, business: Business) -> None:
    console = Client()
    console.force_login(make.person("olga", is_superuser=True))

    def press(step: str) -> str:
        answer = console.post(f"/admin/story/{step}/", follow=True)
        assert answer.status_code == 200
        return answer.content.decode()

    def now() -> story.StoryStatus:
        business.handle()
        return story.status(now=timezone.now())

    assert "sign up to begin" in console.get("/admin/story/").content.decode()
    # After a step the page looks again a few times, and then no more.
    for wait, url in (("5", "/admin/story/?wait=4"), ("1", "/admin/story/")):
        assert f'url={url}"' in console.get(f"/admin/story/?wait={wait}").content.decode()
    assert 'http-equiv="refresh"' not in console.get("/admin/story/?wait=6").content.decode()
    assert "There is no budget to use up" in press("use-up")
    assert "has paid for a week" in press("sign-up")
    assert eventually(lambda: now().budget is not None, within_s=20)
    assert (now().budget.limit_nanos, now().is_used_up) == (make.nanos("5"), False)  # type: ignore[union-attr]
    assert "signed up already" in press("sign-up")
    assert "have used up the budget" in press("use-up")
    assert now().is_used_up
    assert "The top-up is paid" in press("pay")
    assert eventually(lambda: not now().is_used_up, within_s=20)
    first = BillingAccount.objects.get(tenant__slug=story.TENANT)
    assert "a new week begins in" in press("renew")
    renewed = business.get("invoices", customer=first.stripe_customer_id, status="paid")["data"]
    assert [one["billing_reason"] for one in renewed] == ["subscription_cycle", "manual", "subscription_create"]
    assert eventually(lambda: not now().waiting, within_s=20)
    assert "has only begun" in press("renew")
    assert "The customer is deleted" in press("start-over")
    assert eventually(lambda: now().account is None, within_s=20)
    assert "has paid for a week" in press("sign-up")
    assert eventually(lambda: now().account is not None, within_s=20)
    assert now().account.stripe_customer_id != first.stripe_customer_id  # type: ignore[union-attr]
    # What the one before bought and did not use counts for its tenant, and the page says so.
    assert eventually(lambda: now().budget.limit_nanos == make.nanos("25"), within_s=20)  # type: ignore[union-attr]
    shown = console.get("/admin/story/")
    assert next(card.value for card in shown.context["cards"] if card.title == "Top-ups") == "$20.00"
    assert "just now" in shown.content.decode()


def test_the_story_is_nobodys_without_a_simulated_stripe(product: Product, business: Business, settings: Any) -> None:
    console = Client()
    console.force_login(make.person("olga", is_superuser=True))
    assert console.get("/admin/story/").status_code == 200
    assert console.get("/admin/story/sign-up/").status_code == 404
    assert console.post("/admin/story/nothing/").status_code == 404
    viewer = Client()
    viewer.force_login(make.person("vera", "viewer"))
    assert viewer.post("/admin/story/sign-up/").status_code == 403
    settings.STRIPE_API_BASE = "https://api.stripe.com"
    assert console.get("/admin/story/").status_code == 403
    assert console.post("/admin/story/sign-up/").status_code == 403
    assert not BillingAccount.objects.exists()
