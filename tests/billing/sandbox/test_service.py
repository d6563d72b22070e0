"""The account as a service: its clock, its file, its checkouts' pages, and its webhooks at a real receiver."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2 as httpx
import pytest

from billing.sandbox import Postman, SimulatedStripe, StateUnreadable, StripeRefusal
from billing.stripe_api import signatures
from tests.billing.sandbox.conftest import DAY, START, Shop
from tests.product import eventually
from tests.servers import served

SECRET = "whsec_receiver"
KEY = {"authorization": "Bearer sk_test_1"}


class Receiver:
    """Takes webhooks, but for as many as it is told to refuse."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.refuses = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                now = START.fromtimestamp(time.time(), START.tzinfo)
                signatures.verify(body=body, header=self.headers["stripe-signature"], secrets=[SECRET], now=now)
                outer.refuses -= 1
                if outer.refuses < 0:
                    outer.taken.append(json.loads(body))
                self.send_response(200 if outer.refuses < 0 else 500)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.taken]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    thread = Thread(target=found.server.serve_forever, daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join(5)


@pytest.fixture
def delivering(account: SimulatedStripe) -> Iterator[Postman]:
    postman = Postman(account)
    postman.start()
    yield postman
    postman.stop()


def test_webhooks_come_signed_in_their_order_and_only_those_asked_for(
    account: SimulatedStripe, receiver: Receiver, delivering: Postman
) -> None:
    account.send_webhooks(receiver.url, secret=SECRET, events=["customer.created", "customer.updated"])
    customer = account.call("POST", "/v1/customers", {"name": "a"})["id"]
    account.call("POST", f"/v1/customers/{customer}", {"name": "b"})
    account.call("POST", "/v1/products", {"name": "P"})
    assert eventually(lambda: receiver.types == ["customer.created", "customer.updated"])
    assert receiver.taken[1]["data"]["previous_attributes"] == {"name": "a"}
    assert not account.state.outgoing
    assert [one["pending_webhooks"] for one in account.events if one["type"] == "customer.created"] == [0]


def test_a_webhook_that_was_refused_comes_again(
    account: SimulatedStripe, receiver: Receiver, delivering: Postman
) -> None:
    receiver.refuses = 1
    account.send_webhooks(receiver.url, secret=SECRET, events=["customer.created"])
    account.call("POST", "/v1/customers", {"name": "a"})
    assert eventually(lambda: receiver.types == ["customer.created"], within_s=10)


def test_what_was_on_its_way_goes_on_to_where_the_product_has_moved(account: SimulatedStripe) -> None:
    account.send_webhooks("http://127.0.0.1:1/hook", secret=SECRET, events=["customer.created"])
    account.call("POST", "/v1/customers", {"name": "a"})
    account.send_webhooks("http://127.0.0.1:2/hook", secret=SECRET, events=["customer.created"])
    ((_, event, endpoint),) = account.take_outgoing(time.time())
    assert (event["type"], endpoint["url"]) == ("customer.created", "http://127.0.0.1:2/hook")


def test_thin_events_leave_their_data_out_until_they_are_asked_for(account: SimulatedStripe) -> None:
    account.call(
        "POST",
        "/v1/billing/meters",
        {"display_name": "C", "event_name": "c", "default_aggregation": {"formula": "sum"}},
    )
    payload = {"stripe_customer_id": "cus_nobody", "value": "1"}
    account.call("POST", "/v1/billing/meter_events", {"event_name": "c", "payload": payload, "identifier": "e1"})
    thin = account.events[-1]
    assert (thin["type"], "data" in thin) == ("v1.billing.meter.error_report_triggered", False)
    whole = account.call("GET", f"/v2/core/events/{thin['id']}")
    sample = whole["data"]["reason"]["error_types"][0]["sample_errors"][0]
    assert sample["request"]["identifier"] == "e1"


def test_the_state_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "stripe.json"
    first = SimulatedStripe(now=int(START.timestamp()), path=path)
    shop = Shop(first)
    customer = shop.customer()
    price = shop.price(3100)
    sub = shop.subscribe(customer, price)["id"]
    first.advance(by=10 * DAY)
    shop.post(f"subscriptions/{sub}", items=[{"id": shop.item(sub), "quantity": 3}])
    session = shop.post("checkout/sessions", mode="subscription", line_items=[{"price": price, "quantity": 1}])["id"]
    first.save()
    assert path.stat().st_mode & 0o077 == 0

    second = SimulatedStripe(path=path)
    assert second.now == first.now
    for account in (first, second):
        # Both go on alike: the same renewals, prorations and payments.
        account.complete_checkout(session)
        account.advance(by=40 * DAY)
    again = Shop(second)
    assert again.invoices(customer) == shop.invoices(customer)
    assert second.books == first.books
    assert second.events == first.events

    path.write_text('{"layout": 0}')
    with pytest.raises(StateUnreadable):
        SimulatedStripe(path=path)


def test_a_clock_that_runs_brings_what_falls_due(tmp_path: Path) -> None:
    wall = START.timestamp()
    account = SimulatedStripe(clock=lambda: wall)
    shop = Shop(account)
    customer = shop.customer()
    shop.subscribe(customer, shop.price(100, "day"))
    wall += DAY + 7200
    account.tick()
    assert len(shop.invoices(customer)) == 2
    # Moved ahead, it runs on from there.
    account.advance(by=DAY)
    assert account.now == int(wall) + DAY
    wall += 3600
    account.tick()
    assert (account.now, len(shop.invoices(customer))) == (int(wall) + DAY, 3)


def test_a_checkout_is_paid_on_its_page(account: SimulatedStripe) -> None:
    shop = Shop(account)
    price = shop.price(5000)
    with served(account.app) as url:
        account.state.base_url = url
        wanted = {
            "mode": "subscription",
            "line_items": [{"price": price, "quantity": 1}],
            "client_reference_id": "acme",
        }
        session = shop.post("checkout/sessions", **wanted, success_url=f"{url}/?done={{CHECKOUT_SESSION_ID}}")
        page = httpx.get(session["url"])
        assert (page.status_code, "50.00 USD" in page.text) == (200, True)
        declined = httpx.post(session["url"], data={"method": "pm_card_chargeCustomerFail"})
        assert (declined.status_code, "declined" in declined.text) == (402, True)
        paid = httpx.post(session["url"], data={"method": "pm_card_visa"}, follow_redirects=False)
        assert (paid.status_code, paid.headers["location"]) == (303, f"{url}/?done={session['id']}")
        assert "complete" in httpx.get(session["url"]).text
    done = shop.get(f"checkout/sessions/{session['id']}", expand=["line_items", "subscription"])
    assert (done["status"], done["payment_status"], done["subscription"]["status"]) == ("complete", "paid", "active")
    assert done["line_items"]["data"][0]["price"]["id"] == price
    assert done["client_reference_id"] == "acme"
    assert shop.told()[-1] == "checkout.session.completed"


def test_a_checkout_by_a_bank_debit_is_complete_before_it_is_paid(account: SimulatedStripe) -> None:
    shop = Shop(account)
    for method, word in (("pm_usBankAccount_success", "succeeded"), ("pm_usBankAccount_insufficientFunds", "failed")):
        price = (
            shop.price(2000, recurring=None)
            if False
            else shop.post("prices", currency="usd", unit_amount=2000, product_data={"name": "Top-up"})["id"]
        )
        session = shop.post(
            "checkout/sessions",
            mode="payment",
            line_items=[{"price": price, "quantity": 1}],
            customer_creation="always",
            invoice_creation={"enabled": True},
        )
        done = account.complete_checkout(session["id"], method=method)
        assert (done["status"], done["payment_status"]) == ("complete", "unpaid")
        account.advance(by=5 * DAY)
        assert f"checkout.session.async_payment_{word}" in shop.told()
        paid = shop.get(f"checkout/sessions/{session['id']}")["payment_status"]
        assert (paid == "paid") == (word == "succeeded")


def test_a_payer_chooses_an_amount_within_bounds(account: SimulatedStripe) -> None:
    shop = Shop(account)
    custom = {"enabled": True, "minimum": 500, "maximum": 10_000}
    price = shop.post("prices", currency="usd", custom_unit_amount=custom, product_data={"name": "Top-up"})["id"]
    session = shop.post("checkout/sessions", mode="payment", line_items=[{"price": price, "quantity": 1}])["id"]
    for amount in (None, 499, 10_001):
        with pytest.raises(StripeRefusal):
            account.complete_checkout(session, amount=amount)
    assert account.complete_checkout(session, amount=1234)["amount_total"] == 1234
    (charge,) = shop.all("charges")
    assert (charge["amount"], charge["customer"]) == (1234, None)


def test_an_attempt_that_is_declined_is_a_charge_of_the_intent_that_is_paid_later(account: SimulatedStripe) -> None:
    shop = Shop(account)
    custom = {"enabled": True, "minimum": 500, "maximum": 10_000}
    price = shop.post("prices", currency="usd", custom_unit_amount=custom, product_data={"name": "Top-up"})["id"]
    session = shop.post("checkout/sessions", mode="payment", line_items=[{"price": price, "quantity": 1}])["id"]
    ways = ("pm_card_chargeDeclined", "pm_card_chargeCustomerFail", "pm_card_authenticationRequired")
    for amount, way in enumerate(ways, start=501):
        with pytest.raises(StripeRefusal, match="declined"):
            account.complete_checkout(session, method=way, amount=amount)
    intent = account.complete_checkout(session, amount=2000)["payment_intent"]
    charges = shop.all("charges", payment_intent=intent)
    found = [(one["amount"], one["status"]) for one in reversed(charges)]
    assert found == [*((amount, "failed") for amount in (501, 502, 503)), (2000, "succeeded")]


def test_a_session_that_nobody_pays_expires(account: SimulatedStripe) -> None:
    shop = Shop(account)
    session = shop.post("checkout/sessions", mode="subscription", line_items=[{"price": shop.price(), "quantity": 1}])
    account.advance(by=DAY)
    assert shop.get(f"checkout/sessions/{session['id']}")["status"] == "expired"
    with pytest.raises(StripeRefusal, match="expired"):
        account.complete_checkout(session["id"])


def test_what_no_api_does_is_controlled_with_the_same_key(account: SimulatedStripe) -> None:
    shop = Shop(account)
    customer = shop.customer()
    shop.subscribe(customer, shop.price(5000))
    (charge,) = shop.all("charges")
    with served(account.app) as url:
        assert httpx.post(f"{url}/control/clock", json={"by": 60}).status_code == 401
        live = httpx.post(f"{url}/control/clock", json={"by": 60}, headers={"authorization": "Bearer sk_live_1"})
        assert (live.status_code, account.now) == (401, int(START.timestamp()))
        moved = httpx.post(f"{url}/control/clock", json={"by": 60}, headers=KEY)
        assert moved.json() == {"now": int(START.timestamp()) + 60}
        dispute = httpx.post(f"{url}/control/disputes", json={"charge": charge["id"]}, headers=KEY).json()
        books = httpx.get(f"{url}/control/books", params={"customer": customer}, headers=KEY).json()
        assert [one["amount"] for one in books["spans"]] == [5000]
        assert [one["in_force"] for one in books["undoings"]] == [True]
        closed = httpx.post(f"{url}/control/disputes/{dispute['id']}/close", json={"won": True}, headers=KEY)
        assert closed.json()["status"] == "won"
        assert httpx.post(f"{url}/control/nothing", json={}, headers=KEY).status_code == 404
        assert httpx.get(f"{url}/control/books", params={"customer": "cus_nobody"}, headers=KEY).json()["spans"] == []
        other = httpx.get(f"{url}/v1/customers", headers=KEY | {"stripe-version": "2020-08-27"})
        assert (other.status_code, "Invalid Stripe API version" in other.text) == (400, True)
        assert httpx.get(url).json()["service"] == "simulated Stripe"


@pytest.mark.parametrize(
    "moved", [{"to": 1e30}, {"to": 1_900_000_000_000}, {"by": 4 * 366 * DAY}, {"by": -DAY}, {"by": "x"}, {"by": [1]}]
)
def test_a_clock_is_moved_forwards_within_bounds(account: SimulatedStripe, moved: dict[str, Any]) -> None:
    shop = Shop(account)
    shop.subscribe(shop.customer(), shop.price(5000))
    headers = KEY | {"content-type": "application/json"}
    refused = account.reply("POST", "/control/clock", "", headers, json.dumps(moved).encode())
    assert (refused.status, account.now) == (400, int(START.timestamp()))
    account.advance(by=32 * DAY)
    assert len(shop.all("invoices")) == 2


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("customers", "metadata" + "[a]" * 20_000 + "=1"),
        ("prices", "currency=usd&unit_amount_decimal=1e400&product_data[name]=x"),
        ("prices", "currency=usd&unit_amount_decimal=0.0000000000001&product_data[name]=x"),
        ("prices", "currency=usd&unit_amount=9999999999999&product_data[name]=x"),
        ("test_helpers/test_clocks", "frozen_time=99999999999"),
        ("test_helpers/test_clocks", "frozen_time=-1"),
        ("subscriptions", "customer={customer}&items[0][price]={price}&backdate_start_date=-9999999999"),
        ("subscriptions", "customer={customer}&items[0][price]={price}&trial_period_days=99999999"),
        ("subscriptions", "customer={customer}&items[0][price]={price}&quantity=9999999999"),
        ("subscriptions", "customer={customer}&items[0][price]={price}&items[0][quantity]=9999999999"),
    ],
)
def test_what_is_beyond_all_measure_is_refused_by_name(account: SimulatedStripe, path: str, form: str) -> None:
    shop = Shop(account)
    body = form.format(customer=shop.customer(), price=shop.price(5000)).encode()
    found = account.reply("POST", f"/v1/{path}", "", KEY, body)
    error = json.loads(found.body)["error"]
    assert (found.status, error["type"], bool(error["param"])) == (400, "invalid_request_error", True)


def test_ids_differ_between_accounts_and_repeat_within_one_seed() -> None:
    def first(seed: str) -> str:
        return str(SimulatedStripe(now=1, seed=seed).call("POST", "/v1/customers", {"name": "a"})["id"])

    assert first("a") == first("a") != first("b")


def test_events_are_listed_for_thirty_days_newest_first(account: SimulatedStripe) -> None:
    shop = Shop(account)
    shop.customer("")
    account.advance(by=29 * DAY)
    shop.customer("")
    assert [one["type"] for one in shop.all("events")] == ["customer.created"] * 2
    since = {"gte": account.now - DAY, "lte": account.now}
    (newest,) = shop.all("events", created=since, types=["customer.created"])
    assert shop.get(f"events/{newest['id']}") == newest
    account.advance(by=2 * DAY)
    shop.customer("")
    assert len(shop.all("events")) == 2
