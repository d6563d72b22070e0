"""Buying more: the link in a refusal, the page it opens, the checkout that page leads to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import responses
import time_machine
from django.test import Client

from billing.accounts import topups
from billing.models import BillingAccount, OutboundRequest
from governance import ports
from governance.models import Alert, Tenant
from tests import factories
from tests.billing.events import START
from tests.product import Product

SESSIONS = "https://api.stripe.com/v1/checkout/sessions"
PRICE = "price_topup_20"


@pytest.fixture(autouse=True)
def _for_sale(settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    settings.STRIPE_TOPUP_PRICE = PRICE
    settings.APP_URL = "https://governor.test"


class Checkouts:
    """Stripe's checkout sessions."""

    def __init__(self, api: responses.RequestsMock) -> None:
        self.made: list[dict[str, str]] = []
        self.keys: list[str] = []
        self.status = "open"
        self.failure: tuple[int, str] | None = None
        api.add_callback("POST", SESSIONS, self.create)
        api.add_callback("GET", f"{SESSIONS}/cs_1", lambda _: self.answer("cs_1"))

    def create(self, request: Any) -> tuple[int, dict[str, str], str]:
        self.keys.append(request.headers["Idempotency-Key"])
        if self.failure:
            return self.failure[0], {}, json.dumps({"error": {"message": self.failure[1]}})
        asked = dict(parse_qsl(request.body))
        # As Stripe: an account is no customer, nor a customer an account.
        for name, prefix in (("customer", "cus_"), ("customer_account", "acct_")):
            if not asked.get(name, prefix).startswith(prefix):
                return 400, {}, json.dumps({"error": {"message": f"No such {name}: '{asked[name]}'", "param": name}})
        self.made.append(asked)
        return self.answer(f"cs_{len(self.made)}")

    def answer(self, id: str) -> tuple[int, dict[str, str], str]:
        url = f"https://checkout.stripe.com/{id}"
        return 200, {}, json.dumps({"id": id, "object": "checkout.session", "status": self.status, "url": url})


@pytest.fixture
def stripe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkouts]:
    monkeypatch.setattr("stripe._http_client.HTTPClient._sleep_time_seconds", lambda *_, **__: 0)
    with responses.RequestsMock(assert_all_requests_are_fired=False) as api:
        yield Checkouts(api)


@pytest.fixture
def acme(db: None) -> Tenant:
    return factories.tenant("acme")


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(START, tick=False) as traveller:
        yield traveller


def opened(client: Client, link: str | None, method: str = "GET") -> Any:
    assert link is not None
    return client.generic(method, urlsplit(link).path)


class TestLink:
    def test_it_is_ours_and_the_same_for_all_refusals_of_an_hour(self) -> None:
        link = topups.link(tenant="acme", now=START)
        assert link is not None
        assert link.startswith("https://governor.test/billing/topup/acme.")
        assert topups.link(tenant="acme", now=START + timedelta(minutes=59)) == link
        assert topups.link(tenant="globex", now=START) != link

    @pytest.mark.parametrize("missing", ["STRIPE_SECRET_KEY", "STRIPE_TOPUP_PRICE"])
    def test_there_is_none_where_nothing_can_be_bought(self, settings: Any, missing: str) -> None:
        setattr(settings, missing, "")
        assert topups.link(tenant="acme", now=START) is None

    def test_only_a_budget_that_stripe_fills_is_helped_by_buying(self) -> None:
        assert ports.upgrade_url(tenant="acme", window="billing_cycle", now=START)
        assert ports.upgrade_url(tenant="acme", window="day", now=START) is None
        assert ports.upgrade_url(tenant="", window="billing_cycle", now=START) is None


@pytest.mark.django_db
class TestPage:
    def test_it_opens_a_checkout_for_the_tenant_and_goes_there(
        self, client: Client, stripe: Checkouts, acme: Tenant, clock: Any
    ) -> None:
        response = opened(client, topups.link(tenant="acme", now=START))
        assert (response.status_code, response["Location"]) == (302, "https://checkout.stripe.com/cs_1")
        [made] = stripe.made
        assert (made["mode"], made["line_items[0][price]"], made["line_items[0][quantity]"]) == ("payment", PRICE, "1")
        assert (made["client_reference_id"], made["metadata[tenant_id]"]) == ("acme", "acme")
        # The grant is by the invoice's line, so there must be an invoice.
        assert made["invoice_creation[enabled]"] == "true"
        assert made["invoice_creation[invoice_data][metadata][tenant_id]"] == "acme"
        assert made["customer_creation"] == "always"
        assert stripe.keys == [str(OutboundRequest.objects.get().key)]

    def test_a_known_customer_pays_as_itself(self, stripe: Checkouts, acme: Tenant) -> None:
        BillingAccount.objects.create(stripe_customer_id="cus_acme", tenant=acme)
        topups.checkout_url(tenant=acme, now=START)
        assert stripe.made[0]["customer"] == "cus_acme"
        assert "customer_creation" not in stripe.made[0]

    def test_an_account_that_is_a_customer_pays_as_itself(self, stripe: Checkouts, acme: Tenant) -> None:
        BillingAccount.objects.create(stripe_customer_id="acct_acme", tenant=acme)
        topups.checkout_url(tenant=acme, now=START)
        assert stripe.made[0]["customer_account"] == "acct_acme"
        assert not {"customer", "customer_creation"} & stripe.made[0].keys()

    def test_opened_twice_it_leads_to_one_checkout(self, stripe: Checkouts, acme: Tenant) -> None:
        urls = {topups.checkout_url(tenant=acme, now=START + timedelta(hours=n)) for n in range(3)}
        assert (len(urls), len(stripe.made)) == (1, 1)

    def test_once_paid_it_leads_to_a_new_one(self, stripe: Checkouts, acme: Tenant) -> None:
        topups.checkout_url(tenant=acme, now=START)
        stripe.status = "complete"
        topups.checkout_url(tenant=acme, now=START + timedelta(minutes=1))
        assert len(stripe.made) == 2

    def test_two_tenants_have_a_checkout_each(self, stripe: Checkouts, acme: Tenant) -> None:
        topups.checkout_url(tenant=acme, now=START)
        topups.checkout_url(tenant=factories.tenant("globex"), now=START)
        assert [made["client_reference_id"] for made in stripe.made] == ["acme", "globex"]

    def test_an_expired_link_says_so(self, client: Client, stripe: Checkouts, acme: Tenant, clock: Any) -> None:
        link = topups.link(tenant="acme", now=START)
        clock.move_to(START + topups.LINK_LIFE - timedelta(seconds=1))
        assert opened(client, link).status_code == 302
        clock.move_to(START + topups.LINK_LIFE)
        response = opened(client, link)
        assert (response.status_code, len(stripe.made)) == (410, 1)
        assert "expired" in response.content.decode()

    @pytest.mark.parametrize("spoil", [lambda s: s[:-2], lambda s: s.replace("acme", "globex"), lambda s: s + "x"])
    def test_a_link_of_somebody_else_leads_nowhere(
        self, client: Client, stripe: Checkouts, acme: Tenant, clock: Any, spoil: Any
    ) -> None:
        factories.tenant("globex")
        response = opened(client, spoil(topups.link(tenant="acme", now=START)))
        assert (response.status_code, stripe.made) == (404, [])
        assert "leads nowhere" in response.content.decode()

    def test_a_tenant_that_is_gone(self, client: Client, stripe: Checkouts, clock: Any) -> None:
        assert opened(client, topups.link(tenant="gone", now=START)).status_code == 404

    def test_nothing_is_sold_any_more(self, client: Client, acme: Tenant, settings: Any, clock: Any) -> None:
        link = topups.link(tenant="acme", now=START)
        settings.STRIPE_TOPUP_PRICE = ""
        assert opened(client, link).status_code == 404

    @pytest.mark.parametrize(("status", "wanted"), [(503, 503), (429, 503), (400, 502)])
    def test_stripes_trouble_is_a_page_and_not_a_crash(
        self, client: Client, stripe: Checkouts, acme: Tenant, clock: Any, status: int, wanted: int
    ) -> None:
        stripe.failure = (status, "No such price")
        response = opened(client, topups.link(tenant="acme", now=START))
        assert response.status_code == wanted
        assert Alert.objects.filter(kind="topup_checkout").exists() == (wanted == 502)

    def test_looking_does_not_open_a_checkout(
        self, client: Client, stripe: Checkouts, acme: Tenant, clock: Any
    ) -> None:
        assert opened(client, topups.link(tenant="acme", now=START), "HEAD").status_code == 200
        assert opened(client, topups.link(tenant="acme", now=START), "POST").status_code == 405
        assert stripe.made == []

    def test_the_checkout_leads_back_to_pages_of_ours(self, client: Client) -> None:
        for path, word in (("done", "Paid"), ("cancelled", "Not paid"), ("done/", "Paid")):
            response = client.get(f"/billing/topup/{path}")
            assert response.status_code == 200
            assert word in response.content.decode()


class TestGateway:
    """What an agent is told, through the running product, which never calls Stripe for it."""

    def test_a_refusal_and_the_budget_show_the_link(self, product: Product) -> None:
        factories.budget("0.000001", window="billing_cycle", scope_type="tenant")
        key = product.key()
        refused = product.chat(key)
        assert refused.status_code == 402
        for link in (
            refused.json()["error"]["metadata"]["upgrade_url"],
            product.get("/v1/budget", key).json()["upgrade_url"],
        ):
            assert link.startswith("https://governor.test/billing/topup/acme.")

    def test_without_stripe_there_is_no_link(self, product: Product, settings: Any) -> None:
        settings.STRIPE_SECRET_KEY = ""
        factories.budget("0.000001", window="billing_cycle", scope_type="tenant")
        key = product.key()
        assert product.chat(key).json()["error"]["metadata"]["upgrade_url"] is None
        assert product.get("/v1/budget", key).json()["upgrade_url"] is None
