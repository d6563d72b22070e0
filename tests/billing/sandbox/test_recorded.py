"""Where the recorded events of a real account and the simulated Stripe overlap, they look alike.

What a real object has, the simulated one has too, at every level and with values of the same kind; what it leaves out
is named here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from billing.sandbox import SimulatedStripe
from tests.billing import events
from tests.billing.sandbox.conftest import Shop

# Said in fewer words: what only Stripe's payment network and its risk department know.
LEFT_OUT = {
    "charge.outcome",
    "charge.payment_method_details.card",
    "dispute.evidence",
    "dispute.payment_method_details.card",
    "dispute.balance_transactions[]",
    "payment_method.card",
    "payment_intent.payment_method_options",
}


def recorded() -> list[dict[str, Any]]:
    return [event for event in events.recorded("current_shapes") if event["data"]["object"]["object"] in KINDS]


KINDS = (
    *("customer", "product", "price", "subscription", "invoice", "invoiceitem", "payment_intent", "charge"),
    *("payment_method", "dispute"),
)


@pytest.fixture
def simulated(account: SimulatedStripe) -> dict[str, list[dict[str, Any]]]:
    """Type of event -> the objects of those that the same acts bring."""
    shop = Shop(account)
    customer = shop.customer(email="a@example.com")
    price = shop.price(20_000)
    sub = shop.subscribe(customer, price, quantity=2)["id"]
    shop.post(f"subscriptions/{sub}", items=[{"id": shop.item(sub), "quantity": 1}], proration_behavior="none")
    shop.post(f"subscriptions/{sub}", items=[{"id": shop.item(sub), "quantity": 2}])
    shop.subscribe(customer, price, collection_method="send_invoice", days_until_due=30)
    invoice = shop.post("invoices", customer=customer)["id"]
    once = shop.post("prices", currency="usd", unit_amount=777, product_data={"name": "One-time item"})["id"]
    shop.post("invoiceitems", customer=customer, invoice=invoice, pricing={"price": once})
    shop.post(f"invoices/{invoice}/pay")
    dispute = account.dispute(shop.all("charges", customer=customer)[0]["id"])
    account.close_dispute(dispute["id"], won=False)
    found: dict[str, list[dict[str, Any]]] = {}
    for event in account.events:
        found.setdefault(event["type"], []).append(event)
    return found


def differences(real: Any, ours: Any, place: str) -> Iterator[str]:
    """What the real one has that ours lacks, or has as something else."""
    if place in LEFT_OUT or real is None:
        return
    if isinstance(real, dict):
        if not isinstance(ours, dict):
            yield f"{place}: {type(ours).__name__}"
            return
        for name, value in real.items():
            inner = f"{place}.{name}"
            if name not in ours and inner not in LEFT_OUT and not place.endswith("metadata"):
                yield f"{inner}: missing"
            elif name in ours and ours[name] is not None:
                yield from differences(value, ours[name], inner)
    elif isinstance(real, list):
        if real and isinstance(ours, list) and ours:
            yield from differences(real[0], ours[0], f"{place}[]")
    elif type(real) is not type(ours):
        yield f"{place}: {type(ours).__name__}, not {type(real).__name__}"


@pytest.mark.parametrize("event", recorded(), ids=lambda event: f"{event['type']}-{event['id'][-4:]}")
def test_a_recorded_event_has_its_like(event: dict[str, Any], simulated: dict[str, list[dict[str, Any]]]) -> None:
    alike = simulated.get(event["type"], [])
    if event["type"] == "charge.updated":
        # Sent for what happens behind a charge, such as its receipt; nothing here asks for it.
        alike = simulated["charge.succeeded"]
    assert alike, f"no {event['type']} was simulated"
    assert set(event) - {"pending_webhooks"} <= set(alike[0])
    real = event["data"]["object"]
    assert min((list(differences(real, one["data"]["object"], real["object"])) for one in alike), key=len) == []


def test_the_comparison_finds_what_is_missing(simulated: dict[str, list[dict[str, Any]]]) -> None:
    real = next(event for event in recorded() if event["type"] == "invoice.paid")["data"]["object"]
    ours = dict(simulated["invoice.paid"][0]["data"]["object"])
    ours.pop("billing_reason")
    ours["lines"] = []
    assert set(differences(real, ours, "invoice")) == {"invoice.billing_reason: missing", "invoice.lines: list"}
