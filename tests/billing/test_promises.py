"""What billing promises, a class each: those that need more than one module. `ELSEWHERE` names the tests of the rest.

The promises on late workers, usage, exploits and conservation have files of their own.
"""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from billing.inbox import catch_up, envelope, store
from billing.models import StripeEvent
from billing.stripe_api import client
from governance.models import AuditEntry, BudgetEvent, BudgetWindow, Tenant
from tests import factories
from tests.billing import signing
from tests.billing.conftest import Deliver, window_of
from tests.billing.events import (
    DAY,
    START,
    checkout_completed,
    event,
    invoice,
    invoice_paid,
    recorded,
    standard_plans,
    subscription,
    subscription_created,
    subscription_updated,
)
from tests.billing.test_order import Undo, state
from tests.concurrency.test_gateway_processes import web_process
from tests.fakes import stripe_api
from tests.product import Product, eventually

STANDARD, PREMIUM = factories.nanos("50"), factories.nanos("200")
NEXT = START + 30 * DAY

# Promise -> the tests of it that stand beside what they test.
ELSEWHERE = {
    1: (
        "inbox/test_killed_workers.py::test_an_event_whose_worker_is_killed_has_its_effect_once",
        "inbox/test_store.py::test_event_whose_worker_died_is_found_by_the_sweep",
        "inbox/test_store.py::test_effect_and_mark_are_one_transaction",
        "api/test_webhook.py::test_a_broker_is_never_waited_for",
    ),
    2: (
        "test_concurrency.py::test_concurrent_posts_of_one_event_are_one_row_and_one_effect",
        "inbox/test_store.py::test_one_fact_under_two_event_ids_has_one_effect",
        "inbox/test_catch_up.py::test_the_whole_log_three_times_changes_nothing",
    ),
    3: (
        "test_order.py::test_recorded_streams_shuffled_and_repeated_end_in_the_same_state",
        "test_order.py::test_made_up_stream_in_any_order_with_repetitions_ends_in_the_same_state",
    ),
    4: (
        "inbox/test_catch_up.py::test_the_second_run_writes_nothing",
        "inbox/test_catch_up.py::test_after_an_outage_what_was_missed_comes_and_operators_are_told",
    ),
    6: (
        "api/test_webhook.py::test_noise_is_refused_without_a_row",
        "api/test_webhook.py::test_unreadable_signature_headers_are_refused",
        "api/test_webhook.py::test_signed_noise_is_handled_or_refused_but_never_an_error",
    ),
    7: (
        "api/test_webhook.py::test_both_secrets_work_while_rotating",
        "inbox/test_endpoint.py::test_an_endpoint_of_another_version_is_replaced_and_then_disabled_on_request",
    ),
    8: (
        "stripe_api/test_client.py::test_outage_keeps_the_last_state_and_the_event",
        "inbox/test_store.py::test_failures_back_off_and_end_in_the_dead_letter",
    ),
    9: ("api/test_webhook.py::test_the_view_opens_no_socket",),
}


@pytest.mark.parametrize("name", [name for names in ELSEWHERE.values() for name in names])
def test_what_stands_elsewhere_is_there(name: str) -> None:
    file, _, test = name.partition("::")
    text = (Path(__file__).parent / file).read_text()
    assert re.search(rf"^ *def {test}\(", text, re.MULTILINE), name


def signed_post(url: str, sent: dict[str, Any]) -> httpx.Response:
    body = json.dumps(sent).encode()
    headers = signing.signed_headers(body, signing.SECRET, int(time.time()))
    return httpx.post(url + signing.PATH, content=body, headers=headers, timeout=30)


class TestPromise1A200MeansDurable:
    def test_with_the_broker_down_and_the_web_process_killed_after_its_answer(
        self, process_environment: dict[str, str]
    ) -> None:
        standard_plans()
        factories.tenant("acme")
        environment = process_environment | {
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "STRIPE_WEBHOOK_SECRET": signing.SECRET,
        }
        with web_process(environment) as (url, process):
            for sent in (checkout_completed(), invoice_paid()):
                assert signed_post(url, sent).status_code == 200
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        assert StripeEvent.objects.waiting().count() == 2
        assert store.sweep(now=timezone.now() + store.HEAD_START) == 2
        assert window_of().limit_nanos == STANDARD


@pytest.mark.django_db
class TestPromise3OrderDoesNotMatter:
    @pytest.mark.parametrize("name", ["current_shapes", "old_shapes"])
    def test_recorded_streams_backwards_and_doubled(self, tenant: Tenant, deliver: Deliver, name: str) -> None:
        """The worst order there is; random ones are in test_order.py."""
        factories.tenant("t1")
        stream = recorded(name)
        now = START.fromtimestamp(max(one["created"] for one in stream), tz=START.tzinfo)
        outcomes = []
        for order in (stream, [*reversed(stream), *stream, *reversed(stream)]):
            try:
                with transaction.atomic():
                    deliver(order, now=now)
                    outcomes.append(state())
                    raise Undo
            except Undo:
                pass
        assert outcomes[0] == outcomes[1]
        assert outcomes[0]["accounts"]


def life(stripe: stripe_api.Account) -> list[dict[str, Any]]:
    """A customer joins, upgrades and is renewed, and another leaves: Stripe's truth now, and the events on the way."""
    renewed: dict[str, Any] = {"period_start": NEXT, "period_end": NEXT + 30 * DAY}
    stripe.customer()
    stripe.customer("cus_gone", tenant="gone")
    stripe.subscriptions = [
        subscription(price="price_premium", **renewed),
        subscription(customer="cus_gone", subscription="sub_gone", status="canceled"),
    ]
    stripe.invoices = [
        invoice(),
        invoice(billing_reason="subscription_cycle", price="price_premium", **renewed),
        invoice(customer="cus_gone", subscription="sub_gone"),
    ]
    cycle = {"billing_reason": "subscription_cycle", "price": "price_premium", **renewed}
    stripe.events = [
        checkout_completed(id="evt_1"),
        subscription_created(id="evt_2"),
        invoice_paid(id="evt_3"),
        subscription_updated(price="price_premium", created=START + DAY, id="evt_4"),
        subscription_created(customer="cus_gone", subscription="sub_gone", id="evt_5"),
        invoice_paid(customer="cus_gone", subscription="sub_gone", id="evt_6"),
        event("customer.subscription.deleted", stripe.subscriptions[1], created=START + 2 * DAY, id="evt_7"),
        invoice_paid(created=NEXT, id="evt_8", **cycle),
    ]
    return stripe.events


@pytest.fixture
def stripe(tenant: Tenant, settings: Any) -> Iterator[stripe_api.Account]:
    factories.tenant("gone")
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    settings.APP_URL = "https://governor.example.com"
    with stripe_api.answering() as account:
        yield account


def comes_to() -> dict[str, Any]:
    """The state without what tells one reading of Stripe from another."""
    found = state()
    return {name: found[name] for name in ("accounts", "windows", "budgets", "tenants")}


@pytest.mark.django_db
class TestPromise4WhatIsLostComesBack:
    @pytest.mark.parametrize("by", ["backfill", "reconcile"])
    @hypothesis_settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_whatever_is_lost_the_state_comes_back(
        self, stripe: stripe_api.Account, deliver: Deliver, by: str, data: st.DataObject
    ) -> None:
        events, now = life(stripe), NEXT + DAY
        came = data.draw(st.lists(st.sampled_from(events), unique_by=lambda one: one["id"]))
        outcomes = []
        for arrived in (events, came):
            try:
                with transaction.atomic():
                    deliver(arrived, now=now)
                    if arrived is came:
                        self.catch_up(by, now)
                    outcomes.append(comes_to())
                    raise Undo
            except Undo:
                pass
        assert outcomes[0] == outcomes[1]
        assert [window[3] for window in outcomes[0]["windows"]] == [PREMIUM]

    @staticmethod
    def catch_up(by: str, now: Any) -> None:
        if by == "backfill":
            catch_up.backfill(since=now - 29 * DAY, now=now)
            store.sweep(now=now)
        else:
            catch_up.reconcile(now=now)
        before = AuditEntry.objects.count(), BudgetEvent.objects.count(), list(BudgetWindow.objects.values())
        again = catch_up.reconcile(now=now)
        assert (again.figures["differed"], again.lines) == (0, [])
        assert (AuditEntry.objects.count(), BudgetEvent.objects.count(), list(BudgetWindow.objects.values())) == before


class TestPromise7SecretRotationLosesNothing:
    @pytest.mark.django_db
    def test_events_signed_with_either_secret_come_in_all_along(
        self, post: Any, settings: Any, dispatched: list[str], tenant: Tenant
    ) -> None:
        old, new = signing.SECRET, "whsec_new"
        accepted = []
        # The old one alone; both, in either order, while Stripe changes over; the new one alone.
        for secrets, used in (([old], [old]), ([old, new], [old, new]), ([new, old], [new, old]), ([new], [new])):
            settings.STRIPE_WEBHOOK_SECRETS = secrets
            for secret in used:
                sent = invoice_paid()
                assert post(sent, secret=secret).status_code == 200
                accepted.append(sent["id"])
        assert set(StripeEvent.objects.values_list("event_id", flat=True)) == set(accepted)
        assert post(invoice_paid(), secret=old).status_code == 400


class TestPromise8AnOutageOfStripe:
    @pytest.mark.parametrize("status", [401, 429, 500])
    def test_blocks_no_call_and_loses_no_webhook(
        self, product: Product, settings: Any, trusting: None, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        monkeypatch.setattr("stripe._http_client.HTTPClient._sleep_time_seconds", lambda *_, **__: 0)
        settings.STRIPE_SECRET_KEY = "sk_test_1"
        standard_plans()
        key = product.key()
        with stripe_api.answering() as stripe:
            now = timezone.now().replace(microsecond=0)
            period: dict[str, Any] = {"period_start": now - DAY, "period_end": now + 29 * DAY}
            stripe.customer()
            stripe.subscriptions, stripe.invoices = [subscription(**period)], [invoice(**period)]
            joined = invoice_paid(**period)
            assert signed_post(product.url, joined).status_code == 200
            assert store.process(joined["id"], now=now)

            stripe.fails = status
            stripe.subscriptions = [subscription(price="price_premium", **period)]
            upgraded = subscription_updated(price="price_premium", **period)
            assert signed_post(product.url, upgraded).status_code == 200
            assert not store.process(upgraded["id"], now=now)
            # The last good state is enforced meanwhile.
            assert product.chat(key).status_code == 200
            assert window_of().limit_nanos == STANDARD

            stripe.fails = 0
            assert store.sweep(now=now + store.LEASE) == 1
            assert window_of().limit_nanos == PREMIUM

    def test_a_stripe_that_never_answers_keeps_no_call_waiting(
        self, product: Product, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker hangs in its reading; it holds no lock, so calls and webhooks go by it."""
        asked, answered = threading.Event(), threading.Event()

        def hang(customer_id: str) -> Any:
            asked.set()
            answered.wait(30)
            raise client.StripeUnavailable("timeout")

        settings.STRIPE_SECRET_KEY = "sk_test_1"
        monkeypatch.setattr(client, "customer_snapshot", hang)
        key = product.key()
        factories.budget("5.00")
        sent, now = invoice_paid(), timezone.now()
        store.store(envelope.parse(json.dumps(sent)), now=now)
        worker = threading.Thread(target=_handled, args=(sent["id"], now))
        worker.start()
        try:
            assert asked.wait(10)
            assert product.chat(key).status_code == 200
            assert signed_post(product.url, invoice_paid()).status_code == 200
        finally:
            answered.set()
            worker.join(30)
        assert eventually(lambda: StripeEvent.objects.get(event_id=sent["id"]).attempts == 1)


def _handled(event_id: str, now: Any) -> None:
    try:
        store.process(event_id, now=now)
    finally:
        connection.close()


@pytest.mark.django_db
class TestPromise9Acknowledgement:
    """How long it takes is measured by `python -m benchmarks`; what it does is bounded here."""

    def test_it_asks_the_database_a_fixed_few_times(
        self, post: Any, dispatched: list[str], django_assert_max_num_queries: Any
    ) -> None:
        for number in range(20):
            post(invoice_paid(id=f"evt_before_{number}"))
        with django_assert_max_num_queries(4):
            assert post(invoice_paid()).status_code == 200
        with django_assert_max_num_queries(1):
            assert post(invoice_paid(id="evt_before_1")).json()["duplicate"]
