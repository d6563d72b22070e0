"""Where localstripe, another's understanding of Stripe, and the simulated one both know something, they agree.

localstripe prorates without regard to time and has graduated tiers that charge twice, so these are left out.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from billing.sandbox import SimulatedStripe
from tests.billing.sandbox.conftest import Shop
from tests.environment import ROOT
from tests.product import eventually

KEY = {"authorization": "Bearer sk_test_of_localstripe"}
CARDS = {True: ("4242424242424242", "pm_card_visa"), False: ("4000000000000341", "pm_card_chargeCustomerFail")}
VOLUME = [
    {"up_to": "5", "unit_amount": 700, "flat_amount": 100},
    {"up_to": "inf", "unit_amount": 500, "flat_amount": 0},
]


@pytest.fixture(scope="module")
def other() -> Iterator[httpx.Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.fakes.localstripe_server", str(port)]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=KEY, timeout=30) as client,
    ):

        def up() -> bool:
            try:
                return client.get("/v1/customers").status_code == 200
            except httpx.TransportError:
                return False

        try:
            assert eventually(up, within_s=30)
            yield client
        finally:
            process.terminate()


def ask(other: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = other.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def seen(invoice: dict[str, Any], subscription: dict[str, Any]) -> dict[str, Any]:
    """What both say of a subscription and its first invoice, each in its own shapes."""
    lines = invoice["lines"]["data"]
    item = subscription["items"]["data"][0]
    return {
        "total": invoice["total"],
        "paid": invoice["status"] == "paid",
        "status": subscription["status"],
        "lines": [(line["amount"], line["quantity"]) for line in lines],
        "days": (lines[0]["period"]["end"] - lines[0]["period"]["start"]) // 86_400,
        "quantity": item["quantity"],
    }


def at_theirs(other: httpx.Client, price: dict[str, Any], quantity: int, *, card: bool) -> dict[str, Any]:
    customer = ask(other, "/v1/customers", email="a@example.com")["id"]
    number = {"number": CARDS[card][0], "exp_month": "12", "exp_year": "2050", "cvc": "123"}
    token = ask(other, "/v1/tokens", card=number, key="pk_test_of_localstripe")["id"]
    source = ask(other, f"/v1/customers/{customer}/sources", source=token)["id"]
    ask(other, f"/v1/customers/{customer}", default_source=source)
    product = ask(other, "/v1/products", name="Plan", type="service")["id"]
    plan = {name: value for name, value in price.items() if name != "unit_amount"}
    if "unit_amount" in price:
        plan["amount"] = price["unit_amount"]
    made = ask(other, "/v1/plans", product=product, currency="usd", **plan)["id"]
    items = [{"plan": made, "quantity": quantity}]
    sub = ask(other, "/v1/subscriptions", customer=customer, items=items, enable_incomplete_payments=True)
    return seen(other.get(f"/v1/invoices/{sub['latest_invoice']}").json(), sub)


def at_ours(price: dict[str, Any], quantity: int, *, card: bool) -> dict[str, Any]:
    # The calendar of the same day: months differ.
    shop = Shop(SimulatedStripe(now=int(time.time())))
    customer = shop.customer(CARDS[card][1])
    interval = price["interval"]
    rest = {name: value for name, value in price.items() if name not in ("interval", "unit_amount")}
    made = shop.price(price.get("unit_amount"), interval, **rest)
    sub = shop.subscribe(customer, made, quantity=quantity)
    return seen(shop.get(f"invoices/{sub['latest_invoice']}"), sub)


@pytest.mark.parametrize("card", [True, False], ids=["good", "failing"])
@pytest.mark.parametrize(
    ("price", "quantity"),
    [
        *(({"unit_amount": 5000, "interval": interval}, 1) for interval in ("day", "week", "month", "year")),
        ({"unit_amount": 1000, "interval": "month"}, 7),
        *(
            ({"interval": "month", "billing_scheme": "tiered", "tiers_mode": "volume", "tiers": VOLUME}, quantity)
            for quantity in (1, 5, 6, 40)
        ),
    ],
)
def test_a_first_invoice_is_the_same(other: httpx.Client, price: dict[str, Any], quantity: int, card: bool) -> None:
    theirs, ours = at_theirs(other, price, quantity, card=card), at_ours(price, quantity, card=card)
    # A calendar day apart where daylight saving time begins or ends: localstripe counts in the machine's zone.
    assert abs(theirs.pop("days") - ours.pop("days")) <= 1
    assert theirs == ours
