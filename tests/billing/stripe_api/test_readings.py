"""What is read of a customer of the simulated Stripe: as much as says anything, and each time alike."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.accounts import sync
from billing.inbox import catch_up, runs
from billing.models import BillingAccount, Invoice
from billing.sandbox import views
from billing.stripe_api import client
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, START, Shop

STANDARD = factories.nanos("50")
ACME = {"tenant_id": "acme"}


def at(shop: Shop) -> datetime:
    return datetime.fromtimestamp(shop.account.now, UTC)


def test_addresses_that_carry_a_token_make_no_reading_differ(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, show = itertools.count(), views.show

    def with_tokens(*args: Any) -> Any:
        """As Stripe has them: another each time that the object is read."""
        shown = show(*args)
        for kind, name in (("invoice", "hosted_invoice_url"), ("invoice", "invoice_pdf"), ("charge", "receipt_url")):
            if shown.get("object") == kind:
                shown[name] = f"https://pay.stripe.com/{shown['id']}/{next(tokens)}?s=ap"
        return shown

    monkeypatch.setattr(views, "show", with_tokens)
    shop.subscribe(shop.customer(metadata=ACME), shop.price(5000, lookup_key="standard"))
    assert catch_up.reconcile(now=START).figures["differed"] == 1
    digest = BillingAccount.objects.get().read_digest
    again = catch_up.reconcile(now=START)
    assert (again.figures["differed"], again.lines) == (0, [])
    assert BillingAccount.objects.get().read_digest == digest
    assert next(tokens) > 4


def test_a_year_that_was_paid_before_very_many_small_invoices_is_read(shop: Shop) -> None:
    customer = shop.customer(metadata=ACME)
    shop.subscribe(customer, shop.price(60_000, "year", lookup_key="standard"))
    shop.account.advance(by=DAY)
    for _ in range(210):
        invoice = shop.post("invoices", customer=customer)["id"]
        shop.post(f"invoices/{invoice}/finalize")
    sync.customer(customer, now=at(shop))
    assert window_of().limit_nanos == STANDARD


def test_what_is_too_old_to_say_anything_is_not_read(shop: Shop) -> None:
    customer = shop.customer(metadata=ACME)
    for days in (0, 3 * 366, 2):
        shop.account.advance(by=days * DAY)
        shop.post(f"invoices/{shop.post('invoices', customer=customer)['id']}/finalize")
    sync.customer(customer, now=at(shop))
    assert Invoice.objects.count() == 2


def test_an_invoice_that_was_voided_is_open_no_more(shop: Shop) -> None:
    customer = shop.customer(metadata=ACME)
    terms: dict[str, Any] = {"collection_method": "send_invoice", "days_until_due": 30}
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"), **terms)
    shop.account.advance(by=7200)
    assert sync.customer(customer, now=at(shop)).state == "provisional"
    [invoice] = shop.invoices(customer)
    shop.post(f"invoices/{invoice['id']}/void")
    found = sync.customer(customer, now=at(shop))
    assert (Invoice.objects.get().status, found.state) == ("void", "pending")


@pytest.mark.parametrize("kind", ["product", "price"])
def test_what_was_deleted_is_worth_what_it_was_to_who_subscribes_to_it(
    shop: Shop, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan of older versions can be deleted, and its product then; its subscribers go on."""
    product = shop.post("products", name="Old", metadata={"llm_budget_usd": "70"})["id"]
    price, customer = shop.price(5000, product=product), shop.customer(metadata=ACME)
    sub = shop.subscribe(customer, price)["id"]
    if kind == "price":
        shop.post(f"subscriptions/{sub}", items=[{"id": shop.item(sub), "price": shop.price(4000, product=product)}])
    else:
        sync.customer(customer, now=at(shop))
    del shop.account.state.tables[kind][{"product": product, "price": price}[kind]]
    shop.account.advance(by=31 * DAY + 7200)
    done = catch_up.reconcile(now=at(shop))
    assert (done.figures["failed"], window_of().limit_nanos) == (0, factories.nanos("70"))
    # Once a day is enough to hear of it.
    asked: list[str] = []
    monkeypatch.setattr(client, kind, lambda id: asked.append(id))
    sync.customer(customer, now=at(shop))
    assert not asked


def test_a_product_that_only_an_invoice_names_is_asked_for_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    customer = shop.customer(metadata=ACME)
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    for _ in range(3):
        shop.post("invoiceitems", customer=customer, amount=100, currency="usd")
    invoice = shop.post("invoices", customer=customer, pending_invoice_items_behavior="include")["id"]
    shop.post(f"invoices/{invoice}/pay")
    asked: list[str] = []
    products = client.products
    monkeypatch.setattr(client, "products", lambda ids: asked.extend(ids) or products(ids))
    counts = []
    for _ in range(3):
        asked.clear()
        sync.customer(customer, now=at(shop))
        counts.append(len(asked))
        shop.account.advance(by=DAY + 1)
    # Of its subscription's it hears once a day.
    assert counts == [4, 1, 1]


def test_customers_that_cannot_be_read_keep_nobody_waiting(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    price = shop.price(5000, lookup_key="standard")
    for place in range(3):
        customer = shop.customer()
        shop.subscribe(customer, price)
        sync.customer(customer, now=at(shop))
        BillingAccount.objects.filter(stripe_customer_id=customer).update(due_at=START + timedelta(minutes=place))
    broken = list(BillingAccount.objects.order_by("due_at").values_list("stripe_customer_id", flat=True))[:2]
    snapshot = client.customer_snapshot

    def read(customer_id: str) -> client.CustomerSnapshot:
        if customer_id == broken[0]:
            raise client.StripeRefused("No such customer", status=404)
        return snapshot(customer_id) if customer_id != broken[1] else snapshot("")

    monkeypatch.setattr(client, "customer_snapshot", read)
    later = START + timedelta(hours=1)
    assert [sync.due(now=later, limit=1) for _ in range(4)] == [1, 1, 1, 0]
    assert sync.due(now=later + sync.AFTER_FAILURE) == 2


def test_a_listing_of_all_customers_whose_place_is_lost_begins_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 1)
    price = shop.price(5000, lookup_key="standard")
    subs = [shop.subscribe(shop.customer(), price)["id"] for _ in range(2)]
    run = runs.begin("reconcile", now=at(shop))
    # Where the listing was is no more: its test clock is deleted.
    runs.keep(run, cursor="sub_gone")
    for place in (subs[1], "0"):
        assert not catch_up._reconcile_slice(run, now=at(shop), enough=lambda: True)
        assert run.cursor == place
    assert BillingAccount.objects.count() == 2


@pytest.mark.parametrize("what", ["lines", "items"])
def test_a_customer_of_many_products_takes_few_requests_and_queries_a_night(
    shop: Shop, what: str, django_assert_max_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invoice lines of a price of their own, as amounts of a moment are; and items of a subscription."""
    prices = [
        shop.price(100 + cents, metadata={"llm_budget_usd": "1"}) for cents in range(20 if what == "items" else 1)
    ]
    customer = shop.customer(metadata=ACME)
    shop.subscribe(customer, *prices)
    for _ in range(100 if what == "lines" else 0):
        shop.post("invoiceitems", customer=customer, amount=100, currency="usd")
    if what == "lines":
        invoice = shop.post("invoices", customer=customer, pending_invoice_items_behavior="include")["id"]
        shop.post(f"invoices/{invoice}/pay")
    requests: list[str] = []
    reply = shop.account.reply
    monkeypatch.setattr(
        shop.account, "reply", lambda method, path, *more: requests.append(path) or reply(method, path, *more)
    )
    catch_up.reconcile(now=at(shop))
    for _ in range(2):
        shop.account.advance(by=DAY + 1)
        requests.clear()
        with django_assert_max_num_queries(25):
            assert catch_up.reconcile(now=at(shop)).figures["differed"] == 0
        assert len(requests) <= 8


def test_news_of_a_product_whose_event_is_lost_reaches_all_who_have_it(shop: Shop) -> None:
    product = shop.post("products", name="New")["id"]
    price, tenants = shop.price(5000, product=product), ("acme", "globex")
    for slug in tenants:
        factories.tenant(slug)
        shop.subscribe(shop.customer(metadata={"tenant_id": slug}), price)
    catch_up.reconcile(now=at(shop))
    shop.account.advance(by=DAY + 1)
    shop.post(f"products/{product}", metadata={"llm_budget_usd": "70"})
    assert catch_up.reconcile(now=at(shop)).figures["differed"] == 2
    assert {window_of(slug).limit_nanos for slug in tenants} == {factories.nanos("70")}
