"""A customer's life at a Stripe with a state of its own, which posts its signed webhooks to the running product.

localstripe is another's understanding of Stripe than ours, in old shapes: what our own fakes got wrong shows here.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone

from billing.inbox import catch_up, store
from billing.models import BillingAccount, StripeEvent
from governance.models import BudgetWindow, Tenant
from tests import factories as make
from tests.billing import events, signing
from tests.environment import ROOT
from tests.product import Product, eventually

KEY = "sk_test_of_localstripe"
GOOD_CARD, BAD_CARD = "4242424242424242", "4000000000000341"
DAY_S = 86_400
# Until the first period is over.
REST_S = 4


class LocalStripe:
    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = httpx.post(self.url + path, json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()) if answer.text else {}

    def use_card(self, customer: str, number: str) -> None:
        card = {"number": number, "exp_month": "12", "exp_year": "2050", "cvc": "123"}
        token = self.post("/v1/tokens", card=card, key="pk_test_of_localstripe")
        source = self.post(f"/v1/customers/{customer}/sources", source=token["id"])
        self.post(f"/v1/customers/{customer}", default_source=source["id"])

    def subscribe(self, customer: str) -> str:
        product = self.post(
            "/v1/products",
            name="Standard",
            type="service",
            metadata={
                "llm_budget_usd": "50",
                "llm_budget_period": "billing",
            },
        )
        plan = self.post("/v1/plans", product=product["id"], amount=5000, currency="usd", interval="day")
        begun = int(time.time()) - DAY_S + REST_S
        made = self.post(
            "/v1/subscriptions", customer=customer, items=[{"plan": plan["id"]}], backdate_start_date=begun
        )
        return str(made["id"])


@pytest.fixture
def stripe(product: Product, settings: Any) -> Iterator[LocalStripe]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.fakes.localstripe_server", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            assert eventually(lambda: is_up(url), within_s=30)
            settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = KEY, url
            events.standard_plans()
            local = LocalStripe(url)
            local.post("/_config/webhooks/ours", url=product.url + signing.PATH, secret=signing.SECRET)
            yield local
        finally:
            process.terminate()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/customers").status_code == 401
    except httpx.TransportError:
        return False


def comes_to(state: str, limit: str, *, periods: int) -> bool:
    """Whether what webhooks bring leads there, handled as they come in."""

    def there() -> bool:
        came = StripeEvent.objects.waiting().order_by("created", "id").values_list("event_id", flat=True)
        store.handle_all(list(came), now=timezone.now())
        account = BillingAccount.objects.filter(tenant__slug="acme").first()
        window = BudgetWindow.objects.filter(tenant__slug="acme", closed_at=None).first()
        if account is None or window is None or BudgetWindow.objects.count() != periods:
            return False
        return account.state == state and window.limit_nanos == make.nanos(limit)

    return eventually(there, within_s=20)


def test_sign_up_fail_to_renew_and_recover(product: Product, stripe: LocalStripe) -> None:
    key = product.key()
    customer = stripe.post("/v1/customers", email="ann@example.com", metadata={"tenant_id": "acme"})["id"]
    stripe.use_card(customer, GOOD_CARD)

    # Signing up gives what was paid for.
    subscription = stripe.subscribe(customer)
    ends_at = time.time() + REST_S
    assert comes_to("active", "50", periods=1)
    assert product.chat(key).status_code == 200
    assert BudgetWindow.objects.get().settled_nanos > 0

    # The renewal fails: a tenth, until it is paid.
    stripe.use_card(customer, BAD_CARD)
    assert eventually(lambda: time.time() > ends_at, within_s=10)
    failed = stripe.post(f"/_config/renew/{subscription}")
    assert failed["status"] == "open"
    assert comes_to("provisional", "5", periods=2)
    assert product.chat(key).status_code == 200

    # Another card, and the same invoice is paid: the whole budget of the same period, and what was used counts.
    used = BudgetWindow.objects.get(closed_at=None).settled_nanos
    stripe.use_card(customer, GOOD_CARD)
    stripe.post(f"/v1/invoices/{failed['invoice']}/pay")
    assert comes_to("active", "50", periods=2)
    assert BudgetWindow.objects.get(closed_at=None).settled_nanos == used > 0

    # All events come in the end, none failed, and neither Stripe's list of them nor its customers say anything else.
    assert eventually(lambda: missing() == 0, within_s=10)
    assert comes_to("active", "50", periods=2)
    assert not StripeEvent.objects.exclude(error="").exists()
    again = catch_up.reconcile(now=timezone.now())
    assert (again.figures["differed"], again.figures["failed"]) == (0, 0), again.lines
    assert Tenant.objects.get(slug="acme").status == "active"


def missing() -> int:
    now = timezone.now()
    return catch_up.backfill(since=now - timedelta(days=1), now=now, dry_run=True).figures["missing"]
