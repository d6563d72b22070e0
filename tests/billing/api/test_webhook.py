"""The webhook endpoint: what it accepts, what it refuses, and that a 200 means a committed row."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import pytest_socket
from django.db import DatabaseError
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from billing import dispatch, tasks
from billing.inbox import handlers, store
from billing.models import BillingAccount, StripeEvent
from billing.stripe_api import signatures
from tests.billing.events import event, invoice_paid
from tests.billing.signing import PATH, SECRET, signed_headers

pytestmark = pytest.mark.django_db
Post = Callable[..., Any]
FUZZ = hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _no_broker(dispatched: list[str]) -> None:
    pass


def refusal(response: Any, status: int, code: str) -> str:
    """The message of a refusal, which must have left no row."""
    assert response.status_code == status, response.content
    error = response.json()["error"]
    assert error["code"] == code
    assert error["request_id"]
    assert not StripeEvent.objects.exists()
    return str(error["message"])


def test_signed_event_is_stored_and_dispatched_after_commit(
    post: Post, dispatched: list[str], django_capture_on_commit_callbacks: Any
) -> None:
    sent = invoice_paid()
    with django_capture_on_commit_callbacks(execute=True):
        response = post(sent)
        assert dispatched == []
    assert (response.status_code, response.json()) == (
        200,
        {"received": True, "id": sent["id"], "duplicate": False},
    )
    assert dispatched == [sent["id"]]
    row = StripeEvent.objects.get()
    assert (row.event_id, row.type, row.customer_id) == (sent["id"], "invoice.paid", "cus_acme")
    assert row.payload == sent
    assert row.processed_at is None


def test_trailing_slash_is_the_same_path(client: Client) -> None:
    body = json.dumps(invoice_paid()).encode()
    headers = signed_headers(body, SECRET, int(time.time()))
    response = client.generic("POST", PATH + "/", body, content_type="application/json", headers=headers)
    assert response.status_code == 200


def test_csrf_checks_do_not_stop_stripe() -> None:
    body = json.dumps(invoice_paid()).encode()
    headers = signed_headers(body, SECRET, int(time.time()))
    strict = Client(enforce_csrf_checks=True)
    assert strict.generic("POST", PATH, body, headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD"])
def test_other_methods_are_405(client: Client, method: str) -> None:
    response = client.generic(method, PATH)
    assert (response.status_code, response["Allow"]) == (405, "POST")


def test_without_a_secret_the_answer_names_the_variable(post: Post, settings: Any) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = []
    assert "STRIPE_WEBHOOK_SECRET" in refusal(post(invoice_paid()), 503, "not_configured")


def test_forged_signature_is_refused(post: Post) -> None:
    refusal(post(invoice_paid(), secret="whsec_guess"), 400, "invalid_signature")


def test_body_changed_after_signing_is_refused(client: Client) -> None:
    body = json.dumps(invoice_paid()).encode()
    headers = signed_headers(body, SECRET, int(time.time()))
    refusal(client.generic("POST", PATH, body + b" ", headers=headers), 400, "invalid_signature")


def test_unsigned_body_is_refused(client: Client) -> None:
    refusal(client.post(PATH, invoice_paid(), content_type="application/json"), 400, "invalid_signature")


@pytest.mark.parametrize("offset", [-301, 302])
def test_stale_and_future_timestamps_are_refused(post: Post, offset: int) -> None:
    refusal(post(invoice_paid(), at=int(time.time()) + offset), 400, "invalid_signature")


@pytest.mark.parametrize("stamp", ["x=0, t={fresh},", "t={fresh},", " t={fresh},", "t ={fresh},", "x=0,t=+{fresh},"])
def test_an_old_signature_beside_a_fresh_timestamp_is_refused(client: Client, stamp: str) -> None:
    body = orjson.dumps(invoice_paid())
    signed = signed_headers(body, SECRET, int(time.time()) - 7_776_000)["Stripe-Signature"]
    header = stamp.format(fresh=int(time.time())) + signed

    refusal(client.generic("POST", PATH, body, headers={"Stripe-Signature": header}), 400, "invalid_signature")


@pytest.mark.parametrize("offset", [-290, 290])
def test_timestamps_within_the_tolerance_are_accepted(post: Post, offset: int) -> None:
    assert post(invoice_paid(), at=int(time.time()) + offset).status_code == 200


def test_both_secrets_work_while_rotating(post: Post, settings: Any) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = ["whsec_new", SECRET]
    assert post(invoice_paid(), secret=SECRET).status_code == 200
    assert post(invoice_paid(), secret="whsec_new").status_code == 200
    settings.STRIPE_WEBHOOK_SECRETS = ["whsec_new"]
    assert post(invoice_paid(), secret=SECRET).status_code == 400


@pytest.mark.parametrize(
    "header",
    ["", "t=", "t=abc,v1=00", "v1=00", "t=99999999999999999999,v1=0", "t=1", ",,,", "t=1,v1=\x7fé", "t=1,t=2"],
)
def test_unreadable_signature_headers_are_refused(client: Client, header: str) -> None:
    response = client.generic("POST", PATH, b"{}", headers={"Stripe-Signature": header})
    refusal(response, 400, "invalid_signature")


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe\x00",
        b"",
        b"null",
        b"[]",
        b'"evt"',
        b"7",
        b"{",
        b'{"object": "charge"}',
        b"[" * 5000,
        b'{"object": "event", "id": 7, "type": "x", "created": 1}',
        b'{"object": "event", "id": "", "type": "x", "created": 1}',
        b'{"object": "event", "id": "evt_1", "type": ["x"], "created": 1}',
        b'{"object": "event", "id": "evt_1", "type": "x", "created": "soon"}',
        b'{"object": "event", "id": "evt_1", "type": "x", "created": 1e300}',
        b'{"object": "event", "id": "evt_1", "type": "x", "created": true}',
        b'{"object": "event", "id": "evt_1", "type": "x", "created": NaN}',
        b'{"object": "event", "id": "\\ud800", "type": "x", "created": 1}',
        b'{"object": "event", "id": "evt_1", "type": "x", "created": 1, "data": ' + b'{"a":' * 90 + b"1" + b"}" * 91,
        b'{"object": "event", "id": "' + b"e" * 300 + b'", "type": "x", "created": 1}',
    ],
)
def test_signed_bodies_that_are_no_event_are_refused(post: Post, body: bytes) -> None:
    refusal(post(body), 400, "invalid_body")


def test_body_over_the_cap_is_refused_before_it_is_hashed(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    def hashed(**_: Any) -> None:
        raise AssertionError("an oversized body was hashed")

    monkeypatch.setattr(signatures, "verify", hashed)
    refusal(post(b"x" * (512 * 1024 + 1)), 413, "body_too_large")


def test_nul_characters_are_stored_as_a_replacement(post: Post) -> None:
    sent = invoice_paid()
    sent["data"]["object"]["description"] = "a\x00b"
    assert post(sent).status_code == 200
    assert StripeEvent.objects.get().object["description"] == "a�b"


def test_unknown_types_and_thin_events_are_stored(post: Post) -> None:
    thin = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2026-03-01T10:00:00.000Z",
        "livemode": False,
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    }
    assert post(thin).status_code == 200
    assert post(event("some.new.type", {"id": "x_1", "object": "x"})).status_code == 200
    for row in StripeEvent.objects.all():
        assert store.process(row.event_id, now=row.received_at)


def test_events_of_connected_accounts_and_of_the_other_mode_are_kept_apart(post: Post, settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    assert post({**invoice_paid(), "livemode": True}).status_code == 200
    assert post({**invoice_paid(), "account": "acct_other"}).status_code == 200
    rows = StripeEvent.objects.order_by("id")
    assert [row.quarantine_reason for row in rows] == [
        "of live mode, but the key is a test key",
        "of the connected account acct_other",
    ]
    assert not any(store.process(row.event_id, now=row.received_at) for row in rows)
    assert not BillingAccount.objects.exists()


def test_fifty_posts_of_one_event_are_one_row(post: Post) -> None:
    sent = invoice_paid()
    answers = [post(sent) for _ in range(50)]
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["duplicate"] for answer in answers] == [False] + [True] * 49
    assert StripeEvent.objects.count() == 1


def test_database_away_asks_stripe_to_send_again(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise DatabaseError("connection refused")

    monkeypatch.setattr(StripeEvent, "save", away)
    refusal(post(invoice_paid()), 503, "unavailable")


def test_the_view_opens_no_socket(post: Post, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    post(invoice_paid())  # the database connection is open from here on
    pytest_socket.disable_socket()
    try:
        assert post(invoice_paid()).status_code == 200
    finally:
        pytest_socket.enable_socket()


def broker(monkeypatch: pytest.MonkeyPatch, apply_async: Callable[..., None]) -> None:
    """In place of the list that other tests of this file dispatch to."""
    monkeypatch.undo()
    monkeypatch.setattr(tasks.process_event, "apply_async", apply_async)
    monkeypatch.setattr(dispatch, "_sender", None)


def test_broker_that_fails_does_not_matter(
    post: Post, settings: Any, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    asked = threading.Semaphore(0)

    def down(*_: Any, **__: Any) -> None:
        asked.release()
        raise ConnectionError("no broker")

    broker(monkeypatch, down)
    settings.STRIPE_WEBHOOK_SECRETS = [SECRET]
    with django_capture_on_commit_callbacks(execute=True):
        assert [post(invoice_paid()).status_code for _ in range(2)] == [200, 200]
    # The second is tried too: the first failure has not ended the thread.
    assert asked.acquire(timeout=5)
    assert asked.acquire(timeout=5)
    assert StripeEvent.objects.waiting().count() == 2


def test_a_broker_is_never_waited_for(
    post: Post, settings: Any, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    asked, released = threading.Event(), threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        asked.set()
        released.wait(10)

    broker(monkeypatch, hang)
    settings.STRIPE_WEBHOOK_SECRETS = [SECRET]
    try:
        with django_capture_on_commit_callbacks(execute=True):
            assert post(invoice_paid()).status_code == 200
            assert post(invoice_paid()).status_code == 200
        assert asked.wait(5)
    finally:
        released.set()


@FUZZ
@given(header=st.text(max_size=200), body=st.binary(max_size=2000))
def test_noise_is_refused_without_a_row(client: Client, header: str, body: bytes) -> None:
    clean = header.encode("latin-1", "replace").decode("latin-1").replace("\r", "").replace("\n", "")
    response = client.generic("POST", PATH, body, HTTP_STRIPE_SIGNATURE=clean)
    assert response.status_code == 400
    assert not StripeEvent.objects.exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.sampled_from(
    [
        "id",
        "object",
        "customer",
        "items",
        "lines",
        "status",
        "parent",
        "metadata",
        "period",
        "plan",
        "price",
        "subscription",
        "billing_reason",
        "data",
        "created",
        "trial_end",
        "pricing",
        "quantity",
    ]
)
SHAPED = st.recursive(JSON, lambda inner: st.dictionaries(NAMES, inner, max_size=8), max_leaves=20)


@FUZZ
@given(data=SHAPED, kind=st.sampled_from(sorted(handlers.EVENT_TYPES)), number=st.integers(0, 10**6))
def test_signed_noise_is_handled_or_refused_but_never_an_error(post: Post, data: Any, kind: str, number: int) -> None:
    if isinstance(data, dict):
        data = {"customer": "cus_noise", "id": "x_noise", **data}
    sent = {**event(kind, {}), "id": f"evt_noise_{number}", "data": {"object": data}}
    response = post(sent)
    assert response.status_code in (200, 400)
    row = StripeEvent.objects.filter(event_id=sent["id"]).first()
    if row is not None:
        store.process(row.event_id, now=row.received_at)
        row.refresh_from_db()
        assert row.error == ""
