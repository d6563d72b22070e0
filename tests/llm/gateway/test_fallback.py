"""A model that does not answer: the next one does, with a hold of its own, until the client has been sent a byte."""

from __future__ import annotations

import time
from typing import Any

import pytest

from governance.models import Reservation, SpendEntry
from llm.gateway import calls
from llm.gateway.application import gateway
from llm.rules import breakers
from tests import factories as make
from tests.llm.gateway.test_chat import chunks_of, nothing_is_held, streaming
from tests.product import Product

# The shipped chain: mistral-large-2512 -> mistral-small-latest -> ministral-8b-latest -> …
NEXT = "mistral-small-latest"


@pytest.fixture
def key(product: Product) -> str:
    make.budget("1.00")
    return product.key()


def models_asked(product: Product) -> list[Any]:
    return [request.model for request in product.sandbox.requests]


@pytest.mark.parametrize("behaviour", ["status=500", "status=503", "status=429", "cut-stream=1"])
def test_the_next_model_answers_a_plain_call(product: Product, key: str, behaviour: str) -> None:
    product.sandbox.next(behaviour)
    response = product.chat(key)
    assert response.status_code == 200, response.text
    assert models_asked(product) == ["mistral-large-latest", NEXT]
    headers = response.headers
    assert (headers["x-model-requested"], headers["x-model-served"]) == ("mistral-large-latest", NEXT)
    assert headers["x-downgrade-reason"] == "fallback"
    entry = SpendEntry.objects.order_by("-id").first()
    assert entry is not None
    assert (entry.model_requested, entry.model_served) == ("mistral-large-latest", "mistral-small-2603")
    assert entry.request_id == headers["x-request-id"]
    # The second hold is at the second model's price.
    assert Reservation.objects.get(pk=entry.reservation_id).amount_nanos < 100 * 1500
    assert nothing_is_held()


def test_what_stands_in_for_a_model_is_worked_out_only_where_it_must(
    product: Product, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked_out: list[Any] = []
    candidates = calls.candidates

    def noted(*args: Any, **kwargs: Any) -> Any:
        worked_out.append(kwargs["asked"].name)
        return candidates(*args, **kwargs)

    monkeypatch.setattr(calls, "candidates", noted)
    assert product.chat(key).status_code == 200
    assert worked_out == []
    product.sandbox.next("status=500")
    assert product.chat(key).headers["x-model-served"] == NEXT
    assert worked_out == ["mistral-large-latest"]


@pytest.mark.parametrize("behaviour", ["status=500", "status=429"])
def test_the_next_model_answers_a_stream(product: Product, key: str, behaviour: str) -> None:
    product.sandbox.next(behaviour)
    with streaming(product, key) as response:
        chunks = chunks_of(response.read().decode())
    assert response.headers["x-model-served"] == NEXT
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    # What failed after it was sent may have worked.
    first = "settled" if behaviour == "status=500" else "released"
    assert [row.status for row in Reservation.objects.order_by("pk")] == [first, "settled"]


def test_a_stream_that_has_begun_is_never_sent_again(product: Product, key: str) -> None:
    product.sandbox.next("cut-stream=3")
    with streaming(product, key) as response:
        chunks = chunks_of(response.read().decode())
    assert chunks[-1]["governor"] == {"stopped": "upstream_cut"}
    assert len(product.sandbox.requests) == 1


def test_what_is_wrong_with_the_request_is_tried_nowhere_else(product: Product, key: str) -> None:
    product.sandbox.next("status=400")
    assert product.chat(key).status_code == 400
    assert len(product.sandbox.requests) == 1


def test_a_key_that_is_refused_is_tried_at_no_other_model_of_that_provider(product: Product, key: str) -> None:
    product.sandbox.next("status=401", times=4)
    assert product.chat(key).json()["code"] == "upstream_auth"
    assert len(product.sandbox.requests) == 1


def test_whoever_allows_no_other_model_gets_none(product: Product, key: str) -> None:
    product.sandbox.next("status=500")
    response = product.post(
        "/v1/chat/completions",
        key,
        headers={"x-allow-downgrade": "false"},
        model="mistral-large-latest",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=10,
    )
    assert (response.status_code, response.json()["code"]) == (502, "upstream_failed")
    assert models_asked(product) == ["mistral-large-latest"]


def test_where_all_fail_the_first_failure_is_told(product: Product, key: str) -> None:
    product.sandbox.next("status=503|latency=0.01")
    product.sandbox.next("status=500", times=9)
    response = product.chat(key)
    assert (response.status_code, response.json()["code"]) == (503, "upstream_failed")
    assert models_asked(product)[0] == "mistral-large-latest"
    assert len(models_asked(product)) == len(set(models_asked(product))) == 4
    assert nothing_is_held()
    assert {row.reason for row in SpendEntry.objects.all()} == {"upstream_failed"}


def test_a_dearer_model_stands_in_only_within_the_budget(product: Product) -> None:
    # Small is asked for; after it the chain goes to cheaper ones only, so medium never stands in.
    make.budget("1.00")
    product.sandbox.next("status=500", times=9)
    product.chat(product.key(), model=NEXT)
    assert "mistral-medium-latest" not in models_asked(product)


def test_a_failed_attempt_that_spent_leaves_room_for_the_next_or_the_call_ends(product: Product) -> None:
    # Room for one hold at large's price; a cut answer is charged whole, and small's hold must fit into the rest.
    make.budget("0.0003", soft_cap=None)
    product.sandbox.next("cut-stream=1")
    response = product.chat(product.key(), max_tokens=150)
    assert response.status_code in (200, 502)
    assert sum(entry.cost_nanos for entry in SpendEntry.objects.all()) <= 300_000


def test_a_model_that_keeps_failing_is_left_alone(product: Product, key: str) -> None:
    for _ in range(breakers.FAILURES):
        product.sandbox.next("status=500")
        assert product.chat(key).status_code == 200
    product.sandbox.forget()
    assert product.chat(key).headers["x-model-served"] == NEXT
    assert models_asked(product) == [NEXT]
    [status] = [each for each in gateway.breakers.snapshot(time.time()) if each.is_impaired]
    assert status.name == "mistral/mistral-large-2512"


def test_a_call_that_only_an_open_breaker_s_model_could_answer_says_so(product: Product, key: str) -> None:
    product.sandbox.next("status=500", times=breakers.FAILURES)
    fields = {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
    for _ in range(breakers.FAILURES):
        product.post("/v1/chat/completions", key, headers={"x-allow-downgrade": "false"}, **fields)
    response = product.post("/v1/chat/completions", key, headers={"x-allow-downgrade": "false"}, **fields)
    assert (response.status_code, response.json()["code"]) == (503, "breaker_open")
    assert response.headers["retry-after"] == "5"
    assert len(product.sandbox.requests) == breakers.FAILURES


def test_a_model_that_limits_its_rate_is_left_alone_for_as_long_as_it_asks(product: Product, key: str) -> None:
    product.sandbox.next("status=429")
    fields = {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
    for _ in range(2):
        response = product.post("/v1/chat/completions", key, headers={"x-allow-downgrade": "false"}, **fields)
        assert (response.status_code, response.json()["code"]) == (429, "upstream_rate_limit")
        assert response.headers["retry-after"] == "1"
    assert len(product.sandbox.requests) == 1


@pytest.fixture
def rival(product: Product) -> str:
    of = make.tenant("rival")
    make.budget("1.00", tenant=of)
    return product.key(of=of)


def test_one_tenants_failures_close_no_model_to_another(product: Product, key: str, rival: str) -> None:
    for _ in range(breakers.FAILURES):
        # Each walks the whole chain.
        product.sandbox.next("status=500", times=9)
        product.chat(key)
    product.sandbox.reset()
    assert (product.chat(key).status_code, len(product.sandbox.requests)) == (503, 0)
    response = product.chat(rival)
    assert (response.status_code, response.headers["x-model-served"]) == (200, "mistral-large-latest")
    shown = gateway.breakers.status("mistral/mistral-large-2512", time.time())
    assert shown is not None
    assert (shown.label, shown.tenants) == ("closed", 1)


def test_an_outage_that_two_tenants_meet_closes_the_model_to_a_third(product: Product, key: str, rival: str) -> None:
    for caller in [key] * 5 + [rival] * 2:
        product.sandbox.next("status=500")
        product.chat(caller)
    third = make.tenant("third")
    make.budget("1.00", tenant=third)
    product.sandbox.forget()
    assert product.chat(product.key(of=third)).headers["x-model-served"] == NEXT
    assert models_asked(product) == [NEXT]


def test_a_rate_limit_that_one_tenant_meets_holds_up_no_other(product: Product, key: str, rival: str) -> None:
    product.sandbox.next("status=429", times=9)
    assert product.chat(key).status_code == 429
    product.sandbox.reset()
    assert (product.chat(key).status_code, len(product.sandbox.requests)) == (429, 0)
    assert product.chat(rival).headers["x-model-served"] == "mistral-large-latest"


def test_a_strategy_chooses_and_the_money_narrows_it_down(product: Product) -> None:
    make.budget("0.0001", soft_cap=None)
    response = product.post(
        "/v1/chat/completions",
        product.key(),
        headers={"x-strategy": "quality"},
        model="auto",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=100,
    )
    # Medium would cost 0.00075 and large 0.00015: too much.
    assert response.status_code == 200, response.text
    assert response.headers["x-model-served"] == NEXT
    assert response.headers["x-downgrade-reason"] == "strategy"


def test_where_nothing_fits_the_call_is_refused(product: Product) -> None:
    make.budget("0.000001", soft_cap=None)
    response = product.post(
        "/v1/chat/completions",
        product.key(),
        headers={"x-strategy": "cost-optimized"},
        model="auto",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=100,
    )
    assert (response.status_code, response.json()["code"]) == (402, "budget_exhausted")
    assert not product.sandbox.requests


def test_where_no_model_of_a_strategy_will_do_it_is_said_why(product: Product, key: str) -> None:
    ask = {"headers": {"x-strategy": "cost-optimized"}, "model": "auto"}
    long = product.chat(key, **ask, messages=[{"role": "user", "content": "x " * 300_000}])
    assert (long.status_code, long.json()["code"], long.json()["param"]) == (400, "model_not_capable", "messages")
    assert "No model of the strategy cost-optimized reads as much" in long.json()["message"]
    endless = product.post("/api/llm/route", key, prompt="Hi", max_tokens=9_000_000)
    said = endless.json()["error"]
    assert (endless.status_code, said["code"], said["param"]) == (400, "model_not_capable", "max_tokens")
    assert "max_tokens up to" in said["message"]


def test_an_unknown_strategy_is_named(product: Product, key: str) -> None:
    response = product.post(
        "/v1/chat/completions",
        key,
        headers={"x-strategy": "cheapest"},
        model="auto",
        messages=[{"role": "user", "content": "Hi"}],
    )
    body = response.json()
    assert (response.status_code, body["code"], body["param"]) == (400, "unknown_strategy", "x-strategy")
    assert "cost-optimized" in body["message"]


def test_a_call_without_a_verdict_gives_its_probe_back(product: Product, key: str) -> None:
    place, past = "mistral/mistral-large-2512", time.time() - breakers.OPEN_S - 1
    for _ in range(breakers.FAILURES):
        gateway.breakers.failed(place, make.tenant().pk, past)
    for _ in range(breakers.PROBES + 1):
        # Our key says nothing of the model.
        product.sandbox.next("status=401")
        product.chat(key)
    product.sandbox.forget()
    assert product.chat(key).headers["x-model-served"] == "mistral-large-latest"


def test_what_stands_in_for_a_resting_model_is_chosen_by_the_money_too(product: Product) -> None:
    # Small is too dear for what is left, the 3B model is not.
    make.budget("0.00003", soft_cap=None)
    for name in ("mistral-large-2512",):
        for _ in range(breakers.FAILURES):
            gateway.breakers.failed(f"mistral/{name}", make.tenant().pk, time.time())
    response = product.chat(product.key(), max_tokens=150)
    assert response.status_code == 200, response.text
    assert response.headers["x-model-served"].startswith("ministral-")
    assert response.headers["x-downgrade-reason"] == "fallback"
