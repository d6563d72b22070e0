"""POST /api/llm/route: governed as any call, in the control plane's words."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any

import httpx2 as httpx
import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import RefusedCall, SpendEntry
from llm.api import route
from llm.gateway import bodies, inside
from llm.gateway.application import gateway
from llm.gateway.bodies import Held
from tests import factories as make
from tests.factories import nanos
from tests.llm.gateway.test_chat import nothing_is_held
from tests.llm.gateway.test_odd_answers import plain
from tests.product import Product, eventually

PROMPT = "Which invoices are overdue?"


@pytest.fixture
def key(product: Product) -> str:
    make.budget("1.00")
    return product.key()


def asked(product: Product, key: str, **fields: Any) -> Any:
    return product.post("/api/llm/route", key, **({"prompt": PROMPT, "max_tokens": 60} | fields))


def test_a_prompt_is_answered_and_charged(product: Product, key: str) -> None:
    response = asked(product, key, model="mistral-small-latest")
    assert response.status_code == 200, response.text
    body, entry = response.json(), SpendEntry.objects.get()
    assert body["content"]
    assert (body["model"], body["strategy"]) == ("mistral-small-latest", None)
    assert nanos(body["cost"]) == entry.cost_nanos > 0
    assert body["usage"]["output_tokens"] == entry.output_tokens
    assert body["usage"]["total_tokens"] == entry.input_tokens + entry.output_tokens
    assert body["latency_ms"] > 0
    assert body["decision"]["model_requested"] == "mistral-small-latest"
    assert nanos(body["decision"]["reserved"]) >= entry.cost_nanos
    assert body["request_id"] == entry.request_id
    assert nothing_is_held()


ODD: list[list[dict[str, Any]]] = [
    [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": PROMPT}],
    [{"role": "function", "name": "f", "content": "x"}],
    [{"role": "user", "content": PROMPT, "zzz": 1}],
    [{"role": "user", "content": PROMPT}, {"role": "assistant", "refusal": "No."}, {"role": "user", "content": "Why?"}],
    [{"role": "user", "name": "ann", "content": [{"type": "text", "text": PROMPT, "cache_control": {"type": "x"}}]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}],
]


@pytest.mark.parametrize("messages", ODD)
def test_a_conversation_is_taken_as_that_of_v1_is(product: Product, key: str, messages: list[dict[str, Any]]) -> None:
    asked = {"messages": messages, "model": "mistral-small-latest", "max_tokens": 9}
    said = [product.post(path, key, **asked) for path in ("/v1/chat/completions", "/api/llm/route")]
    assert len({answer.status_code for answer in said}) == 1
    if said[0].status_code == 200:
        assert product.sandbox.requests[-1].body["messages"] == product.sandbox.requests[-2].body["messages"]
    else:
        refused = [said[0].json(), said[1].json()["error"]]
        assert len({one["param"] for one in refused}) == len({one["message"] for one in refused}) == 1


def test_messages_go_as_they_are(product: Product, key: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    response = product.post("/api/llm/route/", key, messages=messages, model="mistral-small-latest")
    assert response.status_code == 200, response.text
    assert product.sandbox.requests[-1].body["messages"] == messages


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": PROMPT, "messages": [{"role": "user", "content": "Hi"}]}, "prompt"),
        ({}, "prompt"),
        ({"messages": [{"role": "user"}, {"role": "nobody", "content": "Hi"}]}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages"),
        ({"messages": [{}]}, "messages"),
        ({"prompt": PROMPT, "max_tokens": 0}, "max_tokens"),
        ({"prompt": PROMPT, "strategy": "quality", "model": "mistral-small-latest"}, "model"),
        ({"prompt": PROMPT, "temprature": 1}, "temprature"),
    ],
)
def test_a_mistake_is_named(product: Product, key: str, fields: dict[str, Any], param: str) -> None:
    response = product.post("/api/llm/route", key, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith(param)
    assert not product.sandbox.requests


def shown(product: Product, key: str, response: Any) -> dict[str, Any]:
    """The row of a refused call."""
    assert eventually(RefusedCall.objects.exists)
    return dict(product.get(f"/api/refusals/{response.headers['x-request-id']}", key).json())


@pytest.mark.parametrize(
    ("fields", "param", "would_pass"),
    [
        ({}, "prompt", "with prompt"),
        ({"prompt": PROMPT, "messages": [{"role": "user", "content": "Hi"}]}, "prompt", "without prompt"),
        ({"prompt": PROMPT, "strategy": "quality", "model": "mistral-small-latest"}, "model", "without model"),
        # What the gateway refuses is told in the words of this API.
        ({"prompt": PROMPT, "strategy": "nope"}, "strategy", "with another strategy"),
        ({"prompt": "x" * 2_000_000, "strategy": "quality"}, "prompt", "with another prompt"),
    ],
)
def test_a_refusal_names_a_field_of_this_api(
    product: Product, key: str, fields: dict[str, Any], param: str, would_pass: str
) -> None:
    response = product.post("/api/llm/route", key, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert shown(product, key, response)["would_pass"] == would_pass


def test_a_call_that_allows_no_cheaper_model_is_told_so_in_the_words_of_this_api(product: Product) -> None:
    make.budget("0.01", soft_cap="0.01", downgrade_rules=[{"from": ["*"], "to": "mistral-small-latest"}])
    key = product.key()
    dear = {"model": "mistral-medium-latest", "max_tokens": 50, "prompt": "Hi"}
    response = product.post("/api/llm/route", key, **dear, allow_downgrade=False)
    assert response.status_code == 402, response.text
    assert "and allow_downgrade is false" in response.json()["error"]["message"]
    assert "and allow_downgrade is false" in shown(product, key, response)["message"]


def called_with(arguments: str) -> str:
    """The field of a model that calls a function."""
    call = f'{{"id": "abcdefghi", "function": {{"name": "f", "arguments": {arguments}}}}}'
    return f'"messages": [{{"role": "assistant", "content": "a", "tool_calls": [{call}]}}]'


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"prompt": "a\\ud800"', "prompt"),
        ('"messages": [{"role": "user", "content": "a\\ud800"}]', "messages.0.content"),
        (
            '"messages": [{"role": "user", "content": [{"type": "text", "text": "\\udfff"}]}]',
            "messages.0.content.0.text",
        ),
        ('"messages": [{"role": "user", "content": "a", "\\ud800": 1}]', "messages.0"),
        (called_with('"\\ud800"'), "messages.0.tool_calls.0.function.arguments"),
        (called_with('{"x": "\\ud800"}'), "messages.0.tool_calls.0.function.arguments.x"),
        (called_with('{"\\ud800": 1}'), "messages.0.tool_calls.0.function.arguments"),
        (called_with(f'{{"x": {2**64}}}'), "messages.0.tool_calls.0.function.arguments.x"),
        (called_with(f'{{"x": {-(2**63) - 1}}}'), "messages.0.tool_calls.0.function.arguments.x"),
        (called_with(f'{{"x": {"9" * 200}}}'), "messages.0.tool_calls.0.function.arguments.x"),
        (called_with('{"x": 1e400}'), "messages.0.tool_calls.0.function.arguments.x"),
        (called_with('{"x": -1.5e999}'), "messages.0.tool_calls.0.function.arguments.x"),
        (called_with(f'{{"x": {"[" * 300 + "]" * 300}}}'), "messages.0.tool_calls.0.function.arguments.x"),
        (f'"prompt": "a", "max_tokens": {2**64}', "max_tokens"),
        (f'"prompt": "a", "max_tokens": {2**63}', "max_tokens"),
    ],
)
def test_what_cannot_be_sent_on_is_named(product: Product, key: str, fields: str, param: str) -> None:
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    response = httpx.post(product.url + "/api/llm/route", content=f"{{{fields}}}", headers=sent, timeout=30)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith(param)
    assert not product.sandbox.requests


def test_what_can_be_sent_on_goes_on(product: Product, key: str) -> None:
    for value in (2**64 - 1, -(2**63), "\0", "\U0001f600"):
        [message] = json.loads(f"{{{called_with(json.dumps({'x': value}))}}}")["messages"]
        called = {"role": "tool", "tool_call_id": "abcdefghi", "content": "ok"}
        messages = [{"role": "user", "content": PROMPT}, message, called]
        response = product.post("/api/llm/route", key, messages=messages, model="mistral-small-latest", max_tokens=5)
        assert response.status_code == 200, response.text


def test_numbers_go_on_as_numbers(product: Product, key: str) -> None:
    given = {"lat": 48.8566, "steps": [0.1, -2.5e-7, 1e300, 100.0, 7], "text": "0.1"}
    [message] = json.loads(f"{{{called_with(json.dumps(given))}}}")["messages"]
    called = {"role": "tool", "tool_call_id": "abcdefghi", "content": "ok"}
    messages = [{"role": "user", "content": PROMPT}, message, called]
    response = product.post("/api/llm/route", key, messages=messages, model="mistral-small-latest", max_tokens=5)
    assert response.status_code == 200, response.text
    assert product.sandbox.requests[-1].body["messages"][1]["tool_calls"][0]["function"]["arguments"] == given


def test_at_the_hard_cap_it_is_refused_like_any_call(product: Product) -> None:
    make.budget("0.00001")
    response = asked(product, product.key(), model="mistral-large-latest")
    assert response.status_code == 402
    error = response.json()["error"]
    assert (error["code"], error["metadata"]["budget"]) == ("budget_exhausted", "tenant:acme")
    assert response.headers["x-should-retry"] == "false"
    assert not product.sandbox.requests


@pytest.mark.parametrize(
    ("body", "message", "code", "param"),
    [
        (
            {"error": {"message": "Too long.", "param": "messages", "code": "context_length_exceeded"}},
            *("Too long.", "context_length_exceeded", "messages"),
        ),
        (
            {"detail": [{"loc": ["body", "messages", 0], "msg": "Field required"}]},
            *("Field required", "refused_upstream", "messages.0"),
        ),
        ({"detail": []}, "The model's API refused the request.", "refused_upstream", None),
        ({"object": "error", "message": "No.", "code": 1}, "No.", "1", None),
        ({"error": "just words"}, "just words", "refused_upstream", None),
        (
            {"object": "error", "message": {"detail": [{"loc": ["body", "n"], "msg": "Too many"}]}, "code": None},
            *("Too many", "refused_upstream", "n"),
        ),
        ({"message": "No.", "param": {"a": 1}, "code": {"b": 1}}, "No.", "refused_upstream", None),
        ([{"error": {"message": "No.", "code": 400}}], "No.", "400", None),
    ],
)
def test_what_the_models_api_refused_is_said_in_its_words(
    product: Product, key: str, monkeypatch: pytest.MonkeyPatch, body: Any, message: str, code: str, param: str | None
) -> None:
    refused = inside.InsideAnswer(400, {}, json.dumps(body).encode())
    monkeypatch.setattr(inside, "post", lambda *_, **__: refused)
    error = asked(product, key).json()["error"]
    assert (error["message"], error["code"], error["param"]) == (message, code, param)


def test_only_a_status_of_this_api_is_passed_on(product: Product, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    described = product.get("/api/schema?format=json", key).json()["paths"]["/api/llm/route"]["post"]["responses"]
    for status in range(400, 600):
        refused = inside.InsideAnswer(status, {}, b'{"error": "words"}')
        monkeypatch.setattr(inside, "post", lambda *_, refused=refused, **__: refused)
        answer = asked(product, key)
        assert str(answer.status_code) in described
        assert answer.status_code == (status if status in route.STATUSES else 400)
        assert answer.json()["error"]["message"] == "words"
    assert {400, 402, 403, 404, 409, 413, 422, 429, 502, 503, 504} <= route.STATUSES


def test_only_a_key_that_may_spend_may_route(product: Product) -> None:
    assert asked(product, product.key(role="operator")).status_code == 403
    assert asked(product, "").status_code == 401


def test_a_repeat_under_its_key_is_answered_as_before(product: Product, key: str) -> None:
    fields = {"prompt": PROMPT, "model": "mistral-small-latest"}
    first, again = (
        product.post("/api/llm/route", key, headers={"idempotency-key": "once"}, **fields) for _ in range(2)
    )
    assert first.json()["content"] == again.json()["content"]
    assert [answer.headers.get("x-idempotent-replay") for answer in (first, again)] == [None, "true"]
    assert SpendEntry.objects.count() == len(product.sandbox.requests) == 1


def test_without_a_gateway_in_the_process_it_says_so(client: Any, db: None) -> None:
    make.budget("1.00")
    text, _ = make.key(role="agent")
    response = client.post(
        "/api/llm/route",
        {"prompt": PROMPT},
        content_type="application/json",
        headers={"authorization": f"Bearer {text}"},
    )
    assert (response.status_code, response.json()["error"]["code"]) == (503, "gateway_away")


def test_an_answer_that_never_ends_is_given_up(product: Product, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    post = inside.post
    monkeypatch.setattr(route.inside, "post", lambda *args, **kwargs: post(*args, **kwargs, timeout_s=0.2))
    product.sandbox.next("latency=30")
    assert asked(product, key, model="mistral-small-latest").json()["error"]["code"] == "gateway_away"


def test_so_many_calls_wait_for_a_model_at_a_time(product: Product, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other, rival = product.key(), product.key(of=make.tenant("globex"))
    few = Held(of_a_key=1, of_a_tenant=2, of_all=6, refusal=bodies.TooManyThreads)
    monkeypatch.setattr(gateway, "threads", few)
    with slow_calls(product, [key, other]):
        assert eventually(lambda: few._held.total() == 3 * 2)
        refused = asked(product, key, model="mistral-small-latest")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_calls")
        assert refused.headers["retry-after"] == "5"
        assert "of this key wait" in refused.json()["error"]["message"]
        assert shown(product, key, refused)["reason"] == "too_many_calls"
        assert asked(product, rival, model="mistral-small-latest").status_code == 200
        # At /v1 a call takes no thread.
        assert product.chat(key).status_code == 200
    assert asked(product, key, model="mistral-small-latest").status_code == 200
    assert not few._held


def test_whoever_leaves_gives_its_thread_back_and_pays_as_at_v1(product: Product, key: str) -> None:
    with slow_calls(product, [key], latency_s=10):
        assert eventually(lambda: gateway.threads._held.total() == 3)
    assert eventually(lambda: not gateway.threads._held, within_s=5)
    assert not SpendEntry.objects.exists()
    # The threads of those who come next are free.
    began_s = time.monotonic()
    assert [product.get("/api/budgets", key).status_code for _ in range(10)] == [200] * 10
    assert time.monotonic() - began_s < 8
    assert eventually(SpendEntry.objects.exists, within_s=20)
    assert nothing_is_held()


@contextmanager
def slow_calls(product: Product, keys: list[str], *, latency_s: int = 4) -> Iterator[None]:
    """Calls of these keys that their model takes some seconds for; at the end those who made them leave."""
    connections = []
    for key in keys:
        product.sandbox.next(f"latency={latency_s}")
        connection = HTTPConnection(product.url.removeprefix("http://"))
        body = json.dumps({"prompt": PROMPT, "model": "mistral-small-latest", "max_tokens": 5})
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request("POST", "/api/llm/route", body, headers)
        connections.append(connection)
        assert eventually(lambda: len(product.sandbox.requests) == len(connections))
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (Answer(tokens=3, usage="none"), "074"),
        (Answer(tokens=3, usage="list"), "074"),
        (plain({"choices": [{"message": {"content": "Hi"}}]}), "Hi"),
        (plain({"choices": [{"message": {"content": [{"type": "text", "text": "Hi"}, {"type": "odd"}, 5]}}]}), "Hi"),
        (plain({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}), None),
        (plain({"choices": [5, {"message": 5}], "id": 5}), None),
    ],
)
def test_an_answer_that_lacks_what_it_should_have_is_one_and_is_charged(
    product: Product, booked: BookedUpstream, key: str, answer: Answer, content: str | None
) -> None:
    booked.next(replace(answer, tokens=3))
    response = asked(product, key, model="mistral-small-latest")
    assert response.status_code == 200, response.text
    assert response.json()["content"] == content
    assert (
        nanos(response.json()["cost"]) == SpendEntry.objects.get().cost_nanos >= booked.books.entries[0].output_tokens
    )
    assert nothing_is_held()
