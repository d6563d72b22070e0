"""Requests to Stripe: typed reads, bounds, the rate limit, and failures told apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import responses
import stripe

from billing.stripe_api import client, meters
from tests.billing.events import START

API = "https://api.stripe.com"
BUSY = {"error": {"message": "Too many requests"}}


@pytest.fixture(autouse=True)
def _key(settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = "sk_test_1"


@pytest.fixture
def api() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(client, "sleep", found.append)
    monkeypatch.setattr("stripe._http_client.HTTPClient._sleep_time_seconds", lambda *_, **__: 0)
    return found


@pytest.mark.parametrize(
    ("read", "path"),
    [
        (lambda: client.charge("ch_1"), "/v1/charges/ch_1"),
        (lambda: client.price("price_1"), "/v1/prices/price_1"),
        (lambda: client.product("prod_1"), "/v1/products/prod_1"),
        (lambda: client.event("evt_1"), "/v2/core/events/evt_1"),
        (lambda: client.checkout_session("cs_1"), "/v1/checkout/sessions/cs_1"),
    ],
)
def test_reads_are_plain_dictionaries_of_the_pinned_version(
    api: responses.RequestsMock, read: Callable[[], Any], path: str
) -> None:
    api.add("GET", API + path, json={"id": "x", "object": "thing", "metadata": {"a": "b"}})
    found = read()
    assert (type(found), found["metadata"]) == (dict, {"a": "b"})
    request = api.calls[0].request
    assert request.headers["Stripe-Version"] == "2026-10-28.endive"
    assert request.headers["Authorization"] == "Bearer sk_test_1"


def test_every_request_is_bounded_in_time(api: responses.RequestsMock) -> None:
    api.add("GET", f"{API}/v1/charges/ch_1", json={"id": "ch_1"})
    client.charge("ch_1")
    assert api.calls[0].request.req_kwargs["timeout"] == (3.05, 10)


def test_a_post_carries_the_key_it_is_given(api: responses.RequestsMock) -> None:
    api.add("POST", f"{API}/v1/checkout/sessions", json={"id": "cs_1", "url": "https://x.test"})
    client.create_checkout_session({"mode": "payment"}, key="key_1")
    assert api.calls[0].request.headers["Idempotency-Key"] == "key_1"


class TestRateLimit:
    def test_it_is_waited_out_longer_each_time(self, api: responses.RequestsMock, slept: list[float]) -> None:
        for status in (429, 429, 429, 200):
            api.add("GET", f"{API}/v1/charges/ch_1", status=status, json={"id": "ch_1"})
        assert client.charge("ch_1")["id"] == "ch_1"
        assert [round(seconds / wanted) for seconds, wanted in zip(slept, (0.5, 1, 2), strict=True)] == [1, 1, 1]

    def test_and_given_up_in_the_end(self, api: responses.RequestsMock, slept: list[float]) -> None:
        api.add("GET", f"{API}/v1/charges/ch_1", status=429, json=BUSY)
        with pytest.raises(client.StripeUnavailable) as raised:
            client.charge("ch_1")
        assert (raised.value.status, len(api.calls), len(slept)) == (429, 4, 3)

    def test_what_stripe_asks_for_counts_within_bounds(self, api: responses.RequestsMock, slept: list[float]) -> None:
        for after in ("3", "600", "soon"):
            api.add("GET", f"{API}/v1/charges/ch_1", status=429, headers={"Retry-After": after}, json=BUSY)
        api.add("GET", f"{API}/v1/charges/ch_1", json={"id": "ch_1"})
        client.charge("ch_1")
        assert 2.4 <= slept[0] <= 3.6
        assert 6.4 <= slept[1] <= 9.6
        assert 1.6 <= slept[2] <= 2.4

    def test_a_post_is_repeated_under_the_same_key(self, api: responses.RequestsMock, slept: list[float]) -> None:
        for status in (429, 200):
            api.add("POST", f"{API}/v1/checkout/sessions", status=status, json={"id": "cs_1"})
        client.create_checkout_session({"mode": "payment"}, key="key_1")
        assert {call.request.headers["Idempotency-Key"] for call in api.calls} == {"key_1"}


class TestFailures:
    @pytest.mark.parametrize("status", [401, 403, 409, 500, 502, 503])
    def test_some_pass(self, api: responses.RequestsMock, slept: list[float], status: int) -> None:
        api.add("GET", f"{API}/v1/charges/ch_1", status=status, json={"error": {"message": "no"}})
        with pytest.raises(client.StripeUnavailable) as raised:
            client.charge("ch_1")
        assert (raised.value.status, slept) == (status, [])

    @pytest.mark.parametrize("status", [400, 402, 404])
    def test_some_are_final(self, api: responses.RequestsMock, slept: list[float], status: int) -> None:
        error = {"message": "no", "code": "resource_missing"}
        api.add("GET", f"{API}/v1/charges/ch_1", status=status, json={"error": error})
        with pytest.raises(client.StripeRefused) as raised:
            client.charge("ch_1")
        assert (raised.value.status, raised.value.code, len(api.calls)) == (status, "resource_missing", 1)

    @pytest.mark.parametrize("failure", [requests.ConnectTimeout("slow"), requests.ConnectionError("gone")])
    def test_no_answer_is_no_status(self, api: responses.RequestsMock, slept: list[float], failure: Exception) -> None:
        api.add("GET", f"{API}/v1/charges/ch_1", body=failure)
        with pytest.raises(client.StripeUnavailable) as raised:
            client.charge("ch_1")
        assert raised.value.status is None
        assert len(api.calls) == 1 + client.NETWORK_RETRIES


class TestMeters:
    def test_a_meters_own_names_for_customer_and_value_are_used(self, api: responses.RequestsMock) -> None:
        meter = {
            "id": "mtr_1",
            "event_name": "llm_cost",
            "default_aggregation": {"formula": "count"},
            "customer_mapping": {"event_payload_key": "who"},
            "value_settings": {"event_payload_key": "how_much"},
        }
        listing = {"object": "list", "data": [meter, {"id": "mtr_2"}], "has_more": False, "url": "/v1/x"}
        api.add("GET", f"{API}/v1/billing/meters", json=listing)
        found = meters.active()["llm_cost"]
        assert (found.sums, found.customer_key, found.value_key) == (False, "who", "how_much")

    def test_a_stream_whose_session_ended_begins_another(self, api: responses.RequestsMock, slept: list[float]) -> None:
        session = {"authentication_token": "t", "expires_at": "2026-03-10T12:15:00Z"}
        api.add("POST", f"{API}/v2/billing/meter_event_session", json=session)
        gone = {"error": {"type": "temporary_session_expired", "code": "billing_meter_event_session_expired"}}
        stream = "https://meter-events.stripe.com/v2/billing/meter_event_stream"
        api.add("POST", stream, status=400, json=gone)
        api.add("POST", stream, json={})
        reporter = meters.Reporter("stream")
        meter = meters.Meter("mtr_1", "llm_cost", sums=True)
        usage = meters.UsageEvent("id_1", "ch_1", 5, START)
        with pytest.raises(client.StripeUnavailable):
            reporter.send(meter, usage, now=START)
        assert reporter.send(meter, usage, now=START) is True
        paths = [call.request.url.rsplit("/", 1)[1] for call in api.calls]
        assert paths == ["meter_event_session", "meter_event_stream"] * 2
        assert json.loads(api.calls[-1].request.body)["events"][0]["payload"] == {
            "stripe_customer_id": "ch_1",
            "value": "5",
        }

    def test_what_stands_in_for_stripe_stands_in_for_its_streams(self, settings: Any) -> None:
        settings.STRIPE_API_BASE = "http://127.0.0.1:9"
        addresses = client.make_client()._requestor.base_addresses
        assert {addresses["api"], addresses["meter_events"]} == {"http://127.0.0.1:9"}
        settings.STRIPE_API_BASE = stripe.DEFAULT_API_BASE
        assert client.make_client()._requestor.base_addresses["meter_events"].endswith("meter-events.stripe.com")


def test_products_are_asked_for_one_by_one_where_no_list_of_them_is_known(api: responses.RequestsMock) -> None:
    api.add("GET", f"{API}/v1/products", status=400, json={"error": {"message": "Unknown parameter: ids"}})
    for id in ("prod_1", "prod_2"):
        api.add("GET", f"{API}/v1/products/{id}", json={"id": id, "object": "product"})
    assert [one["id"] for one in client.products(["prod_1", "prod_2"])] == ["prod_1", "prod_2"]
