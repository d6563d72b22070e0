"""The pinned SDK works unmodified against the simulated Stripe, and meets its errors as it meets the real one's."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from billing.sandbox import SimulatedStripe, StripeRefusal, wire
from billing.stripe_api import client as ours


def test_both_speak_the_same_version() -> None:
    assert wire.API_VERSION == stripe.api_version == ours.API_VERSION


def test_a_subscription_from_its_product_to_its_paid_invoice(sdk: stripe.StripeClient) -> None:
    product = sdk.v1.products.create({"name": "Standard", "metadata": {"llm_budget_usd": "50"}})
    price = sdk.v1.prices.create(
        {
            "product": product.id,
            "currency": "usd",
            "unit_amount": 5000,
            "recurring": {"interval": "month"},
            "lookup_key": "standard",
        }
    )
    customer = sdk.v1.customers.create({"email": "a@example.com", "payment_method": "pm_card_visa"})
    made = sdk.v1.subscriptions.create({"customer": customer.id, "items": [{"price": price.id}]})
    again = sdk.v1.subscriptions.retrieve(made.id, {"expand": ["latest_invoice"]})
    assert (again.status, again["items"].data[0].price.lookup_key) == ("active", "standard")
    assert isinstance(again.latest_invoice, stripe.Invoice)
    assert (again.latest_invoice.status, again.latest_invoice.amount_paid) == ("paid", 5000)
    listed: Any = {"customer": customer.id, "expand": ["data.payments"]}
    (invoice,) = sdk.v1.invoices.list(listed).data
    assert invoice.payments is not None
    intent = sdk.v1.payment_intents.retrieve(str(invoice.payments.data[0].payment.payment_intent))
    assert (intent.status, intent.amount_received) == ("succeeded", 5000)
    (charge,) = sdk.v1.charges.list({"customer": customer.id}).data
    refund = sdk.v1.refunds.create({"charge": charge.id, "amount": 100})
    assert (refund.status, sdk.v1.charges.retrieve(charge.id).amount_refunded) == ("succeeded", 100)


def test_lists_are_paged_through(sdk: stripe.StripeClient) -> None:
    made = [sdk.v1.customers.create({"name": str(number)}).id for number in range(23)]
    assert [one.id for one in sdk.v1.customers.list({"limit": 10}).auto_paging_iter()] == list(reversed(made))
    page = sdk.v1.customers.list({"limit": 5, "ending_before": made[10]})
    assert [one.id for one in page.data] == list(reversed(made[11:16]))


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"emial": "a@example.com"}, "parameter_unknown", "emial"),
        ({"balance": "much"}, "parameter_invalid_integer", "balance"),
        ({"test_clock": "clock_1"}, "resource_missing", "test_clock"),
        ({"metadata": ["a"]}, None, "metadata"),
        ({"invoice_settings": {"footer": "x"}}, "parameter_unknown", "invoice_settings[footer]"),
    ],
)
def test_what_does_not_fit_is_refused(sdk: stripe.StripeClient, params: Any, code: str | None, param: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        sdk.v1.customers.create(params)
    assert (caught.value.http_status, caught.value.code, caught.value.param) == (400, code, param)


def test_unknown_ids_and_paths_are_not_found(sdk: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        sdk.v1.customers.retrieve("cus_nobody")
    assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")
    assert "No such customer: 'cus_nobody'" in str(caught.value)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        sdk.v1.subscriptions.list({"customer": "cus_nobody"})
    assert (caught.value.http_status, caught.value.param) == (400, "customer")
    with pytest.raises(stripe.InvalidRequestError) as caught:
        sdk.v1.payouts.list()
    assert caught.value.http_status == 404


@pytest.mark.parametrize("key", ["sk_live_1", "rk_live_1", "nonsense"])
def test_only_test_keys_are_let_in(account: SimulatedStripe, sdk: stripe.StripeClient, key: str) -> None:
    other = stripe.StripeClient(key, http_client=stripe.RequestsClient())
    with pytest.raises(stripe.AuthenticationError):
        other.v1.customers.create({"name": "a"})
    assert not account.call("GET", "/v1/customers")["data"]


def test_a_live_key_cannot_even_be_expected() -> None:
    with pytest.raises(ValueError, match="live key"):
        SimulatedStripe(api_key="sk_live_1")


def test_an_idempotency_key_does_things_once(sdk: stripe.StripeClient, account: SimulatedStripe) -> None:
    first = sdk.v1.customers.create({"name": "a"}, {"idempotency_key": "k1"})
    again = sdk.v1.customers.create({"name": "a"}, {"idempotency_key": "k1"})
    assert first.id == again.id
    with pytest.raises(stripe.IdempotencyError):
        sdk.v1.customers.create({"name": "b"}, {"idempotency_key": "k1"})
    account.advance(by=25 * 3600)
    assert sdk.v1.customers.create({"name": "b"}, {"idempotency_key": "k1"}).id != first.id


def test_a_declined_payment_is_a_card_error(sdk: stripe.StripeClient) -> None:
    customer = sdk.v1.customers.create({"payment_method": "pm_card_chargeCustomerFail"})
    with pytest.raises(stripe.CardError) as caught:
        sdk.v1.payment_intents.create(
            {
                "amount": 500,
                "currency": "usd",
                "customer": customer.id,
                "confirm": True,
                "payment_method": "pm_card_chargeCustomerFail",
            }
        )
    assert (caught.value.http_status, caught.value.code) == (402, "card_declined")


def test_what_cannot_be_expanded_is_refused(sdk: stripe.StripeClient) -> None:
    customer = sdk.v1.customers.create({"name": "a"})
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        sdk.v1.customers.retrieve(customer.id, {"expand": ["name"]})


def test_meters_of_every_encoding_count_an_identifier_once(sdk: stripe.StripeClient, account: SimulatedStripe) -> None:
    customer = sdk.v1.customers.create({"name": "a"})
    meter = sdk.v1.billing.meters.create(
        {"display_name": "Cost", "event_name": "llm_cost", "default_aggregation": {"formula": "sum"}}
    )
    start = account.now // 60 * 60

    def payload(value: str) -> dict[str, str]:
        return {"stripe_customer_id": customer.id, "value": value}

    one: Any = {"event_name": "llm_cost", "payload": payload("3"), "identifier": "e1", "timestamp": account.now}
    sdk.v1.billing.meter_events.create(one)
    with pytest.raises(stripe.InvalidRequestError, match="event already exists with identifier"):
        sdk.v1.billing.meter_events.create(one)
    sdk.v2.billing.meter_events.create({"event_name": "llm_cost", "payload": payload("4"), "identifier": "e2"})
    session = sdk.v2.billing.meter_event_session.create()
    stream = stripe.StripeClient(session.authentication_token, http_client=stripe.RequestsClient())
    stream.v2.billing.meter_event_stream.create(
        {"events": [{"event_name": "llm_cost", "payload": payload("5"), "identifier": "e3"}]}
    )
    span: Any = {"customer": customer.id, "start_time": start, "end_time": start + 3600}
    (row,) = sdk.v1.billing.meters.event_summaries.list(meter.id, span).data
    assert row.aggregated_value == 12


def test_webhook_endpoints_and_destinations_tell_their_secret_once(sdk: stripe.StripeClient) -> None:
    made = sdk.v1.webhook_endpoints.create({"url": "https://example.com/hook", "enabled_events": ["invoice.paid"]})
    assert made.secret
    assert made.secret.startswith("whsec_")
    assert "secret" not in sdk.v1.webhook_endpoints.retrieve(made.id).to_dict()
    sdk.v1.webhook_endpoints.update(made.id, {"disabled": True})
    assert sdk.v1.webhook_endpoints.list().data[0].status == "disabled"
    wanted: Any = {
        "name": "ours",
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": ["v1.billing.meter.error_report_triggered"],
        "webhook_endpoint": {"url": "https://example.com/hook"},
        "include": ["webhook_endpoint.signing_secret"],
    }
    destination = sdk.v2.core.event_destinations.create(wanted)
    assert destination.webhook_endpoint is not None
    assert destination.webhook_endpoint.signing_secret
    with pytest.raises(stripe.InvalidRequestError, match="https"):
        sdk.v1.webhook_endpoints.create({"url": "http://example.com/hook", "enabled_events": ["*"]})


def test_test_clocks_move_their_customers_alone(sdk: stripe.StripeClient, account: SimulatedStripe) -> None:
    past = account.now - 40 * 86_400
    clock = sdk.v1.test_helpers.test_clocks.create({"frozen_time": past})
    customer = sdk.v1.customers.create({"test_clock": clock.id, "payment_method": "pm_card_visa"})
    price = sdk.v1.prices.create(
        {"currency": "usd", "product_data": {"name": "P"}, "unit_amount": 700, "recurring": {"interval": "week"}}
    )
    sdk.v1.subscriptions.create({"customer": customer.id, "items": [{"price": price.id}]})
    with pytest.raises(stripe.InvalidRequestError, match="two intervals"):
        sdk.v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": past + 15 * 86_400})
    for days in (8, 15):
        sdk.v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": past + days * 86_400})
    assert sdk.v1.test_helpers.test_clocks.retrieve(clock.id).status == "ready"
    invoices = sdk.v1.invoices.list({"customer": customer.id}).data
    assert [invoice.status for invoice in invoices] == ["paid"] * 3
    assert invoices[0].created == past + 14 * 86_400
    sdk.v1.test_helpers.test_clocks.delete(clock.id)
    assert not sdk.v1.customers.list().data


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"unit_amount": 5, "unit_amount_decimal": "5"}, "unit_amount"),
        ({"billing_scheme": "tiered", "tiers_mode": "volume"}, "unit_amount"),
        ({"billing_scheme": "tiered", "tiers": [{"up_to": "inf", "unit_amount": 5}]}, "tiers"),
        (
            {
                "billing_scheme": "tiered",
                "tiers_mode": "volume",
                "tiers": [{"up_to": 5, "unit_amount": 5}, {"up_to": 3, "unit_amount": 4}],
            },
            "tiers[1][up_to]",
        ),
        ({"unit_amount": 5, "recurring": {"interval": "month", "usage_type": "metered"}}, "recurring[meter]"),
        ({"unit_amount": 5, "recurring": {"interval": "year", "interval_count": 4}}, "recurring[interval_count]"),
        ({"custom_unit_amount": {"enabled": True}, "recurring": {"interval": "month"}}, "custom_unit_amount"),
        ({"unit_amount": 5, "lookup_key": "taken"}, "lookup_key"),
        ({"unit_amount": 5, "product": "prod_1"}, "product"),
    ],
)
def test_a_price_that_makes_no_sense_is_refused_and_leaves_nothing(
    account: SimulatedStripe, params: dict[str, Any], param: str
) -> None:
    taken = {"currency": "usd", "unit_amount": 5, "product_data": {"name": "x"}, "lookup_key": "taken"}
    account.call("POST", "/v1/prices", taken)
    with pytest.raises(StripeRefusal) as caught:
        account.call("POST", "/v1/prices", {"currency": "usd", "product_data": {"name": "y"}, **params})
    assert caught.value.body["error"]["param"] == param
    assert [len(account.call("GET", f"/v1/{kind}")["data"]) for kind in ("prices", "products")] == [1, 1]


def test_a_lookup_key_moves_on_to_a_newer_price(sdk: stripe.StripeClient) -> None:
    def price(**more: Any) -> stripe.Price:
        wanted: Any = {"currency": "usd", "unit_amount": 5, "product_data": {"name": "x"}, "lookup_key": "standard"}
        return sdk.v1.prices.create(wanted | more)

    old = price()
    new = price(transfer_lookup_key=True)
    assert sdk.v1.prices.retrieve(old.id).lookup_key is None
    assert [one.id for one in sdk.v1.prices.list({"lookup_keys": ["standard"]}).data] == [new.id]
