"""A provider that refuses us, not the call: operators are told, clients get a 503, and it is over when it is over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance import ledger
from governance.ledger import batch
from governance.models import Alert, SpendEntry
from llm.gateway.application import gateway
from llm.rules import bounds, routing
from llm.rules.pricing import Entry
from llm.state import routing as state_routing
from tests import factories as make
from tests.llm.gateway.test_chat import nothing_is_held
from tests.llm.gateway.test_odd_answers import plain
from tests.product import Product, eventually


@pytest.mark.parametrize(
    ("status", "code"), [(401, "upstream_auth"), (403, "upstream_auth"), (402, "provider_spend_limit")]
)
def test_operators_are_alerted_and_the_client_is_not_blamed(product: Product, status: int, code: str) -> None:
    make.budget("1.00")
    product.sandbox.next(f"status={status}", times=3)
    answers = [product.chat(product.key()) for _ in range(3)]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, code)}
    alert = Alert.objects.get()
    assert (alert.kind, alert.subject, alert.severity, alert.cleared_at) == (code, "mistral", "critical", None)
    assert str(status) in alert.message
    # Told once, not with each call.
    assert alert.count == 1
    assert nothing_is_held()


def test_the_alert_is_over_with_the_next_answer(product: Product) -> None:
    make.budget("1.00")
    product.sandbox.next("status=401")
    product.chat(product.key())
    assert product.chat(product.key()).status_code == 200
    assert eventually(lambda: Alert.objects.get().cleared_at is not None)


def test_an_alert_that_cannot_be_kept_does_not_change_the_answer(product: Product, monkeypatch) -> None:
    from django.db import OperationalError

    def away(**_: object) -> None:
        raise OperationalError("away")

    monkeypatch.setattr("governance.alerts.report", away)
    make.budget("1.00")
    product.sandbox.next("status=401")
    assert product.chat(product.key()).json()["code"] == "upstream_auth"
    assert "mistral" not in gateway.provider_failures._fine


def test_windows_that_never_hold_still_are_worth_another_try(product: Product, monkeypatch) -> None:
    make.budget("1.00")
    monkeypatch.setattr(batch, "LOOKS", 0)
    monkeypatch.setattr(batch, "CALM_LOOKS", 0)
    answer = product.chat(product.key())
    assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert not product.sandbox.requests


def test_whom_a_lock_holds_up_is_told_so(product: Product, monkeypatch) -> None:
    make.budget("1.00")
    monkeypatch.setattr(ledger, "apply", lambda ops, **_: [ledger.HeldUp("acme") for _ in ops])
    answer = product.chat(product.key())
    assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
    assert "The spend ledger is locked for acme; nothing was sent to the model." in answer.json()["message"]


GUARDED = {"guardrails": [{"block_on_error": True, "moderation_llm_v2": {"action": "block"}}]}
BLOCKED = {"error": {"message": "Content blocked by guardrail", "status": 403}, "guardrails": {"results": {}}}
FLAGGED = {
    "error": {"code": 403, "message": "Your input was refused", "metadata": {"reasons": ["x"], "flagged_input": "y"}}
}
OF_THE_KEY = {"error": {"type": "permission_error", "message": "Your API key may not use this model."}}
OF_NOTHING = {"error": {"message": "Forbidden"}}


def forbids(said: object) -> Answer:
    return replace(plain(said, 403), billed=False, tokens=0)


def test_a_guardrail_that_stops_a_prompt_is_told_to_the_client_alone(product: Product) -> None:
    make.budget("1.00")
    key = product.key()
    product.sandbox.behave("blocked")
    for stream in (False, True):
        # A chain follows on this model, of models that would answer.
        answer = product.chat(key, model="mistral-large-latest", stream=stream, **GUARDED)
        assert (answer.status_code, answer.json()["error"]["message"]) == (403, "Content blocked by guardrail")
    assert len(product.sandbox.requests) == 2
    assert not Alert.objects.exists()
    assert not SpendEntry.objects.exists()
    assert nothing_is_held()
    assert product.chat(key, model="mistral-large-latest").status_code == 200


def test_a_prompt_that_a_stand_in_stops_goes_no_further(product: Product) -> None:
    make.budget("1.00")
    product.sandbox.behave("blocked")
    product.sandbox.next("status=503")
    answer = product.chat(product.key(), model="mistral-large-latest", **GUARDED)
    assert answer.status_code == 403
    assert len(product.sandbox.requests) == 2


@pytest.mark.parametrize("said", [BLOCKED, FLAGGED, {"message": "Prompt injection patterns detected"}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_403_about_the_request_says_nothing_against_the_key(
    product: Product, booked: BookedUpstream, said: object, stream: bool
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(*[forbids(said)] * 3)
    for number in range(3):
        answer = product.chat(key, stream=stream, messages=[{"role": "user", "content": f"Hi {number}"}])
        assert (answer.status_code, answer.json()) == (403, said)
    assert len(booked.books.entries) == 3
    assert not Alert.objects.exists()
    assert booked.books.spent_nanos == 0
    assert not SpendEntry.objects.exists()
    assert nothing_is_held()


def test_a_403_that_names_the_key_is_about_it(product: Product, booked: BookedUpstream) -> None:
    make.budget("1.00")
    booked.next(forbids(OF_THE_KEY))
    assert product.chat(product.key()).json()["code"] == "upstream_auth"
    assert Alert.objects.get().kind == "upstream_auth"


@pytest.mark.parametrize("said", [OF_NOTHING, {}, []])
def test_a_403_that_says_nothing_is_about_the_key_when_the_next_innocent_call_meets_it_too(
    product: Product, booked: BookedUpstream, said: object
) -> None:
    make.budget("1.00")
    key = product.key()

    def ask(text: str, **fields: object) -> tuple[int, str]:
        answer = product.chat(key, messages=[{"role": "user", "content": text}], **fields)
        return answer.status_code, answer.json().get("code", "")

    def seen(text: str, *answers: Answer, **fields: object) -> tuple[int, str]:
        booked.next(*answers)
        return ask(text, **fields)

    refused = (403, "upstream_forbidden")
    assert seen("bad", forbids(said)) == refused
    # Its own repeat, and one that guardrails may have stopped, prove nothing.
    assert seen("bad", forbids(said)) == refused
    assert seen("worse", forbids(said), **GUARDED) == refused
    # An answer clears it.
    assert ask("good")[0] == 200
    assert seen("bad", forbids(said)) == refused
    assert not Alert.objects.exists()
    assert seen("innocent", forbids(said)) == (503, "upstream_auth")
    assert Alert.objects.get().kind == "upstream_auth"
    assert nothing_is_held()


def test_a_page_of_a_firewall_is_not_passed_on(product: Product, booked: BookedUpstream) -> None:
    make.budget("1.00")
    page = b"<html><script>alert(1)</script></html>"
    head = b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % len(page)
    booked.next(Answer(script=[head + page], tokens=0))
    answer = product.chat(product.key())
    assert (answer.status_code, answer.json()["code"]) == (403, "upstream_forbidden")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("guard", [GUARDED, {"safe_prompt": True}], ids=["guardrails", "safe_prompt"])
@pytest.mark.parametrize("likes", ["openai_compatible", "anthropic"], indirect=True)
def test_no_prompt_with_guardrails_moves_to_a_provider_without(
    product: Product, booked: BookedUpstream, likes: str, guard: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = (routing.PoolModel("mistral-small-latest"), routing.PoolModel("likes/m"))
    file = routing.Routing(pool=pool, chains={"c": ("mistral-small-latest", "likes/m")})
    monkeypatch.setattr(state_routing, "options", lambda catalogue: routing.Options(file, catalogue))
    booked.books.rates = booked.books.rates | {"mistral-small": (150_000, 15_000, 600_000)}

    def served_by(**fields: object) -> list[str]:
        booked.books.entries.clear()
        booked.next(plain({"error": {"message": "overloaded"}}, 503))
        product.chat(likes, model="mistral-small-latest", **fields)
        return [entry.model for entry in booked.books.entries]

    assert served_by() == ["mistral-small-latest", "m"]
    assert served_by(**guard) == ["mistral-small-latest"]
    strategy = {"headers": {"x-strategy": "quality"}}
    assert "m" not in served_by(**guard, **strategy)


@pytest.mark.parametrize("likes", ["openai_compatible", "anthropic"], indirect=True)
def test_guardrails_asked_of_a_provider_without_are_a_400(product: Product, booked: BookedUpstream, likes: str) -> None:
    answer = product.chat(likes, model="likes/m", **GUARDED)
    assert (answer.status_code, answer.json()["param"]) == (400, "guardrails")
    assert not booked.books.entries


def test_no_rule_leads_a_prompt_with_guardrails_to_a_model_without() -> None:
    entry = Entry("likes/m", frozenset({"likes/m"}), provider="likes", capabilities=frozenset({"chat"}))
    guarded = bounds.chat({"messages": [{"role": "user", "content": "Hi"}], **GUARDED})
    assert guarded.lacks(entry) == {"guardrails"}
    assert not guarded.lacks(replace(entry, provider="mistral"))
