"""Calls to OpenAI and Anthropic through the gateway: what each ending leaves in the ledger and tells the client.

The fakes behind refuse what the real APIs refuse. Real clients, OpenAI's and Mistral's, read the answers.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from governance.audit import Actor
from governance.models import Alert, BudgetWindow, RefusedCall, Reservation, SpendEntry
from llm.catalogue import snapshot
from llm.gateway.application import gateway
from llm.models import Model, Price, ProviderEndpoint
from llm.providers import endpoints
from llm.rules.stream_count import UNTIL_IT_STOPS
from llm.sandbox import Sandbox
from tests import factories as make
from tests.factories import nanos
from tests.fakes import anthropic_api, openai_api
from tests.fakes.scripted import Fake
from tests.llm.gateway.test_chat import chunks_of, nothing_is_held, streaming
from tests.product import Product, eventually
from tests.servers import served

MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5"}
# Nanodollars a token: input, cached, output.
INPUT, CACHED, OUTPUT = 1_000, 100, 5_000
# Both fakes count 40 tokens of prompt; 16 and 10 of them cached.
COST = {
    name: (40 - cached) * INPUT + cached * CACHED + 12 * OUTPUT for name, cached in (("openai", 16), ("anthropic", 10))
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
TEXT = "Good morning to you."


@pytest.fixture
def openai_fake(settings: Any) -> Iterator[openai_api.OpenAI]:
    fake = openai_api.OpenAI()
    with served(fake) as url:
        settings.OPENAI_API_BASE, settings.OPENAI_API_KEY = f"{url}/v1", fake.key
        yield fake


@pytest.fixture
def anthropic_fake(settings: Any) -> Iterator[anthropic_api.Anthropic]:
    fake = anthropic_api.Anthropic()
    with served(fake) as url:
        settings.ANTHROPIC_API_BASE, settings.ANTHROPIC_API_KEY = url, fake.key
        yield fake


@pytest.fixture(params=["openai", "anthropic"])
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fakes(openai_fake: openai_api.OpenAI, anthropic_fake: anthropic_api.Anthropic) -> dict[str, Fake]:
    return {"openai": openai_fake, "anthropic": anthropic_fake}


@pytest.fixture
def models(transactional_db: None, shipped_catalogue: None) -> None:
    for name, model in MODELS.items():
        serve(name, model)


@pytest.fixture
def product(fakes: dict[str, Fake], models: None, product: Product) -> Iterator[Product]:
    make.budget("1.00")
    yield product
    snapshot.forget()


@pytest.fixture
def fake(fakes: dict[str, Fake], provider: str) -> Fake:
    return fakes[provider]


@pytest.fixture
def model(provider: str) -> str:
    return MODELS[provider]


def serve(provider: str, name: str, *capabilities: str, kinds: Sequence[str] = ("chat",)) -> Model:
    """Put a model into the catalogue, with prices."""
    row = Model.objects.create(
        name=name,
        provider=provider,
        owned_by=provider,
        kinds=list(kinds),
        capabilities=[*kinds, "tools", "json", "vision", *capabilities],
        context_tokens=200_000,
    )
    for unit, nanos_each in (("input", INPUT), ("cached_input", CACHED), ("output", OUTPUT)):
        Price(model=row, unit=unit, picos_per_unit=nanos_each * 1000).save()
    snapshot.forget()
    snapshot.current()
    return row


def entry() -> SpendEntry:
    return SpendEntry.objects.get()


def client_of(product: Product) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{product.url}/v1", api_key=product.key(), max_retries=0)


def test_a_plain_answer_is_charged_to_the_cached_token(product: Product, fake: Fake, provider: str, model: str) -> None:
    response = product.chat(product.key(), model=model)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == 40
    assert (entry().cost_nanos, entry().certainty, entry().provider) == (COST[provider], "confirmed", provider)
    assert (entry().input_tokens, entry().output_tokens) == (40, 12)
    assert nanos(response.headers["x-request-cost-usd"]) == COST[provider]
    assert nothing_is_held()


def test_a_stream_is_read_by_mistrals_own_client(product: Product, fake: Fake, provider: str, model: str) -> None:
    from mistralai.client import Mistral

    with Mistral(api_key=product.key(), server_url=product.url) as client:
        events = list(
            client.chat.stream(
                model=model,
                messages=[{"role": "user", "content": "Hi"}],
                tools=[TOOL],
                tool_choice="any",
                max_tokens=99,
            )
        )
    choices = [choice for event in events for choice in event.data.choices]
    calls = [call for choice in choices for call in choice.delta.tool_calls or []]
    assert [(call.function.name, json.loads(str(call.function.arguments))) for call in calls] == [
        ("weather", {"city": "Zürich"})
    ]
    assert choices[-1].finish_reason == "tool_calls"
    assert events[-1].data.usage is not None
    assert events[-1].data.usage.prompt_tokens == 40
    assert entry().cost_nanos == COST[provider]


def test_a_stream_is_read_by_openais_own_client(product: Product, fake: Fake, provider: str, model: str) -> None:
    stream = client_of(product).chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=99,
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (40, 12)
    assert entry().cost_nanos == COST[provider]


def test_a_conversation_with_tools_and_pictures_is_taken(
    product: Product, fake: Fake, provider: str, model: str
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zug"}'}}
    answer = client_of(product).chat.completions.create(
        model=model,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it like there?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "Sunny."},
            {"role": "user", "content": "And tomorrow?"},
        ],
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        seed=7,
        temperature=0.2,
        user="u1",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "w", "schema": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        },
    )
    [called] = answer.choices[0].message.tool_calls or []
    assert (called.type, called.id) == ("function", "call_weather" if provider == "openai" else "toolu_weather")
    assert entry().cost_nanos == COST[provider]


def test_without_its_last_tool_a_call_with_tools_behind_it_still_goes(product: Product, fake: Fake, model: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny."},
    ]
    response = product.chat(product.key(), model=model, messages=messages)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == TEXT


def test_what_the_api_refuses_goes_to_the_client_and_costs_nothing(product: Product, fake: Fake, model: str) -> None:
    fake.next.append((400, {}, fake.error(openai_api.Refused(400, "max_tokens: too many for this model"))))
    response = product.chat(product.key(), model=model)
    assert response.status_code == 400
    assert "too many for this model" in response.json()["error"]["message"]
    assert not SpendEntry.objects.exists()
    assert nothing_is_held()


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("openai", 429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
        ("anthropic", 402, {"type": "error", "error": {"type": "billing_error", "message": "Pay."}}),
        (
            "anthropic",
            400,
            {
                "type": "error",
                "error": {
                    "type": "invalid_request_error",
                    "message": "Your credit balance is too low to access the API.",
                },
            },
        ),
    ],
)
def test_an_empty_account_is_the_operators_matter(
    product: Product, fakes: dict[str, Fake], name: str, status: int, body: dict[str, Any]
) -> None:
    fakes[name].next.append((status, {}, body))
    response = product.chat(product.key(), model=MODELS[name])
    assert (response.status_code, response.json()["code"]) == (503, "provider_spend_limit")
    assert "quota" not in response.text
    assert "credit" not in response.text
    assert not SpendEntry.objects.exists()
    assert nothing_is_held()


def test_a_rate_limit_stays_one(product: Product, fake: Fake, model: str) -> None:
    fake.next.append((429, {"retry-after": "7"}, fake.error(openai_api.Refused(429, "Slow down."))))
    response = product.chat(product.key(), model=model)
    assert (response.status_code, response.json()["code"]) == (429, "upstream_rate_limit")
    assert response.headers["retry-after"] == "7"


def test_overload_is_a_failure_of_the_model(product: Product, fakes: dict[str, Fake]) -> None:
    fakes["anthropic"].next.append(
        (529, {}, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    )
    response = product.chat(product.key(), model=MODELS["anthropic"])
    assert (response.status_code, response.json()["code"]) == (503, "upstream_failed")
    assert nothing_is_held()


def test_our_own_key_is_never_the_clients_mistake_and_is_told_to_nobody(
    product: Product, fake: Fake, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = fake.key
    fake.key = "another"
    response = product.chat(product.key(), model=model)
    assert (response.status_code, response.json()["code"]) == (503, "upstream_auth")
    assert key not in response.text + str(response.headers) + caplog.text
    assert nothing_is_held()


def quoting(key: str) -> dict[str, Any]:
    """An error with a key in every place that a body has, and one behind so much that it may be cut there."""
    said = f"Incorrect API key provided: {key}."
    error = {"message": said, "type": "invalid_request_error", "code": key, "param": [key], key: {"said": [said]}}
    return {"type": "error", "error": error, "detail": [{"loc": ["body", key], "msg": "x" * 475 + key, "type": key}]}


def shows(key: str, text: str) -> bool:
    """Whether more of a key is shown than those beginnings that APIs quote."""
    return key[: len(key) // 2] in text or key[len(key) // 2 :] in text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/llm/route"])
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 413, 422, 429, 500, 503])
def test_a_refusal_that_quotes_our_key_shows_it_nowhere(
    product: Product, fake: Fake, model: str, caplog: pytest.LogCaptureFixture, status: int, path: str
) -> None:
    caplog.set_level(logging.DEBUG)
    fake.next.extend([(status, {}, quoting(fake.key))] * 3)
    messages = [{"role": "user", "content": "Hi"}]
    response = product.post(path, product.key(), model=model, messages=messages, max_tokens=9)
    assert response.status_code >= 400
    kept = [list(kind.objects.values()) for kind in (Alert, RefusedCall, SpendEntry)]
    assert not shows(fake.key, f"{response.text}{response.headers}{caplog.text}{kept}")


@pytest.mark.parametrize("content_type", ["text/html", "text/event-stream"])
def test_nor_does_what_is_no_json(product: Product, fake: Fake, model: str, content_type: str) -> None:
    said = [f"<h1>{fake.key}</h1>".encode(), f"data: {json.dumps(quoting(fake.key))}\n\n".encode()]
    fake.next.append((400, {"content-type": content_type}, said["event" in content_type]))
    response = product.chat(product.key(), model=model)
    assert response.status_code == 400
    assert not shows(fake.key, response.text)


@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize("with_choices", [False, True])
def test_an_error_in_a_stream_that_quotes_our_key_shows_it_nowhere(
    product: Product, fakes: dict[str, Fake], caplog: pytest.LogCaptureFixture, has_begun: bool, with_choices: bool
) -> None:
    """Also where it comes as a part of an answer, and in two pieces."""
    caplog.set_level(logging.DEBUG)
    fake = fakes["openai"]
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": quoting(fake.key)}
    said = openai_api.event(quoting(fake.key) | ({"choices": [choice]} if with_choices else {}))
    cut = said.index(fake.key.encode()) + 9
    fake.pause_s = 0.05
    fake.next.append((200, {}, [*(opening("openai") if has_begun else []), said[:cut], said[cut:]]))
    with streaming(product, product.key(), model=MODELS["openai"]) as response:
        text = response.read().decode()
    assert text
    assert not shows(fake.key, text + caplog.text)


def test_an_error_in_mid_stream_ends_it_in_a_way_that_clients_take(
    product: Product, fake: Fake, provider: str, model: str
) -> None:
    fake.next.append((200, {}, [*opening(provider), failing(provider)]))
    with streaming(product, product.key(), model=model) as response:
        chunks = chunks_of(response.read().decode())
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "Good morning"
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert (entry().certainty, entry().reason) == ("estimated", "upstream_cut")
    assert 0 < entry().cost_nanos < 200 * OUTPUT
    assert nothing_is_held()


def test_a_stream_that_is_an_error_from_the_start_is_no_stream(
    product: Product, fake: Fake, provider: str, model: str
) -> None:
    fake.next.append((200, {}, [failing(provider)]))
    with streaming(product, product.key(), model=model) as response:
        # As the status that it stands for.
        assert response.status_code in (502, 503)
        assert json.loads(response.read())["code"] == "upstream_failed"
    # Who is overloaded has done nothing; a server that failed may have.
    assert SpendEntry.objects.exists() == (provider == "openai")
    assert nothing_is_held()


def test_a_tool_call_that_breaks_off_is_paid_for_as_far_as_it_came(
    product: Product, fake: Fake, provider: str, model: str
) -> None:
    pieces = list(whole_stream(fake, provider, tools=[TOOL]))
    cut = next(at for at, piece in enumerate(pieces) if b"rich" in piece or b"\\u00fc" in piece)
    fake.next.append((200, {}, [*pieces[:cut], failing(provider)]))
    with streaming(product, product.key(), model=model, tools=[TOOL]) as response:
        chunks = chunks_of(response.read().decode())
    [call] = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls") or ()]
    assert call["function"]["name"] == "weather"
    assert call["function"]["arguments"].startswith('{"city')
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    written = len((call["function"]["name"] + call["function"]["arguments"]).encode())
    assert entry().cost_nanos >= written * OUTPUT
    assert nothing_is_held()


def test_a_client_that_leaves_takes_the_call_along_and_pays_for_what_came(
    product: Product, fake: Fake, provider: str, model: str
) -> None:
    fake.next.append((200, {}, [*opening(provider), *([more(provider)] * 400)]))
    fake.pause_s = 0.02
    with streaming(product, product.key(), model=model) as response:
        next(response.iter_raw())
    assert eventually(lambda: fake.seen[-1].closed_early)
    assert eventually(nothing_is_held)
    assert (entry().certainty, entry().reason) == ("estimated", "client_closed")
    assert entry().cost_nanos > 0


def test_a_client_that_leaves_in_the_middle_of_a_tool_call_pays_for_what_it_has_not_seen(
    product: Product, fake: Fake, provider: str, model: str
) -> None:
    pieces = list(whole_stream(fake, provider, tools=[TOOL]))
    # The city's name goes on and on.
    at = next(at for at, piece in enumerate(pieces) if b'"ci' in piece)
    fake.next.append((200, {}, [*pieces[: at + 1], *([pieces[at + 1]] * 400)]))
    fake.pause_s = 0.02
    with streaming(product, product.key(), model=model, tools=[TOOL], max_tokens=1_000) as response:
        came = b""
        for chunk in response.iter_raw():
            came += chunk
            if came.count(b":\n\n") >= 20:
                break
    assert b"tool_calls" not in came
    assert eventually(nothing_is_held)
    left = entry()
    assert (left.certainty, left.reason) == ("estimated", "client_closed")
    text = "".join(anthropic_api.TEXT) if provider == "anthropic" else ""
    assert left.output_tokens > len(text) + 10 + UNTIL_IT_STOPS
    assert left.cost_nanos > left.output_tokens * OUTPUT


def test_a_model_that_hides_its_reasoning_is_charged_whole_where_its_stream_breaks(
    product: Product, fake: Fake, provider: str
) -> None:
    serve(provider, "claude-thinker" if provider == "anthropic" else "gpt-thinker", "reasoning")
    fake.next.append((200, {}, [*opening(provider), failing(provider)]))
    name = "claude-thinker" if provider == "anthropic" else "gpt-thinker"
    with streaming(product, product.key(), model=name, max_tokens=100) as response:
        held = nanos(response.headers["x-reserved-usd"])
        response.read()
    assert entry().cost_nanos == held >= 100 * OUTPUT


@pytest.mark.parametrize("stream", [False, True])
def test_without_usage_what_came_is_counted_strictly(
    product: Product, fake: Fake, provider: str, model: str, stream: bool
) -> None:
    if stream:
        pieces = [piece for piece in whole_stream(fake, provider) if b'"output_tokens": 12' not in piece]
        pieces = [piece for piece in pieces if b'"prompt_tokens"' not in piece]
        fake.next.append((200, {}, pieces))
        with streaming(product, product.key(), model=model) as response:
            chunks_of(response.read().decode())
    else:
        answer = dict(fake.answer(*request_of(fake, provider)))
        del answer["usage"]
        fake.next.append((200, {}, answer))
        assert product.chat(product.key(), model=model).status_code == 200
    assert (entry().certainty, entry().reason) == ("estimated", "usage_missing")
    # A byte is a token: it is more than it was, and no more than it can have been.
    assert 12 * OUTPUT < entry().cost_nanos < Reservation.objects.get().amount_nanos
    assert nothing_is_held()


def test_a_cookie_of_one_answer_goes_with_no_other_call(
    product: Product, fake: Fake, provider: str, model: str
) -> None:
    fake.next.append((200, {"set-cookie": "whose=acme; Path=/"}, fake.answer(*request_of(fake, provider))))
    for _ in range(2):
        assert product.chat(product.key(), model=model).status_code == 200

    assert [request.headers.get("cookie") for request in fake.seen[-2:]] == [None, None]


def test_an_answer_that_comes_compressed_all_the_same_is_read(
    product: Product, fake: Fake, provider: str, model: str
) -> None:
    answer = gzip.compress(json.dumps(fake.answer(*request_of(fake, provider))).encode())
    fake.next.append((200, {"content-encoding": "gzip"}, answer))
    response = product.chat(product.key(), model=model)
    assert fake.seen[-1].headers["accept-encoding"] == "identity"
    assert response.json()["choices"][0]["message"]["content"] == TEXT
    assert (entry().cost_nanos, entry().certainty) == (COST[provider], "confirmed")


@pytest.mark.parametrize(("body", "paid"), [(b"<html>", 0), (b"{}", 0), (b'{"id": "m", "content": [{"type": "te', 1)])
def test_garbage_is_no_answer_and_is_charged_where_it_may_have_been_one(
    product: Product, fakes: dict[str, Fake], body: bytes, paid: int
) -> None:
    fakes["anthropic"].next.append((200, {}, body))
    response = product.chat(product.key(), model=MODELS["anthropic"])
    assert (response.status_code, response.json()["code"]) == (502, "upstream_garbage")
    assert [row.certainty for row in SpendEntry.objects.all()] == ["estimated"] * paid
    assert nothing_is_held()


def test_several_answers_are_refused_before_anything_is_sent(product: Product, fakes: dict[str, Fake]) -> None:
    response = product.chat(product.key(), model=MODELS["anthropic"], n=2)
    assert (response.status_code, response.json()["param"]) == (400, "n")
    assert fakes["anthropic"].seen == []
    assert nothing_is_held()


def test_the_bound_that_was_held_goes_along(product: Product, fake: Fake, provider: str, model: str) -> None:
    product.chat(product.key(), model=model, max_tokens=77)
    name = "max_completion_tokens" if provider == "openai" else "max_tokens"
    assert fake.seen[-1].body[name] == 77
    assert BudgetWindow.objects.get().settled_nanos == COST[provider]


def test_a_model_whose_provider_has_no_key_is_named_and_not_listed(product: Product) -> None:
    serve("groq", "llama-4")
    response = product.chat(product.key(), model="llama-4")
    assert (response.status_code, response.json()["code"]) == (400, "provider_not_configured")
    assert "groq" in response.json()["message"]
    listed = {card["id"] for card in product.get("/v1/models", product.key()).json()["data"]}
    assert f"openai/{MODELS['openai']}" in listed
    assert not [name for name in listed if "llama" in name]
    assert not SpendEntry.objects.exists()


def test_an_unknown_model_of_a_provider_without_a_key_is_one_without_a_price(product: Product) -> None:
    serve("groq", "llama-4")
    response = product.chat(product.key(), model="groq/llama-9")
    assert (response.status_code, response.json()["code"]) == (400, "model_not_priced")


def request_of(fake: Fake, provider: str, **fields: Any) -> tuple[str, dict[str, str], dict[str, Any]]:
    """What the gateway would send for a short question."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    if provider == "openai":
        headers = {"authorization": f"Bearer {fake.key}"}
        return "/v1/chat/completions", headers, {"model": MODELS[provider], "messages": messages, **fields}
    tools = [{"name": "weather", "input_schema": {"type": "object"}} for _ in fields.pop("tools", ())]
    body = {"model": MODELS[provider], "messages": messages, "max_tokens": 9, **fields}
    return (
        "/v1/messages",
        {"x-api-key": fake.key, "anthropic-version": "2023-06-01"},
        body | ({"tools": tools} if tools else {}),
    )


def whole_stream(fake: Fake, provider: str, **fields: Any) -> list[bytes]:
    options = {"stream_options": {"include_usage": True}} if provider == "openai" else {}
    return list(fake.answer(*request_of(fake, provider, stream=True, **options, **fields)))  # type: ignore[arg-type]


def opening(provider: str) -> list[bytes]:
    """A stream up to "Good morning"."""
    head = {"id": "c", "created": 1, "model": MODELS[provider], "object": "chat.completion.chunk"}
    if provider == "openai":
        deltas: list[dict[str, Any]] = [
            {"role": "assistant", "content": ""},
            {"content": "Good"},
            {"content": " morning"},
        ]
        return [
            openai_api.event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            for delta in deltas
        ]
    event = anthropic_api.event
    return [
        event("message_start", message={"id": "m", "model": MODELS[provider], "usage": anthropic_api.USAGE}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Good"}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": " morning"}),
    ]


def more(provider: str) -> bytes:
    return opening(provider)[-1]


def failing(provider: str) -> bytes:
    if provider == "openai":
        return openai_api.event({"error": {"message": "The server had an error", "type": "server_error"}})
    return anthropic_api.event("error", error={"type": "overloaded_error", "message": "Overloaded"})


def test_the_clients_own_words_survive(product: Product, fakes: dict[str, Fake]) -> None:
    """What the translation for Mistral drops, and only OpenAI knows."""
    fields = {
        "verbosity": "low",
        "logit_bias": {"1": 1},
        "user": "u1",
        "prompt_cache_key": "k",
        "service_tier": "priority",
    }
    assert product.chat(product.key(), model=MODELS["openai"], **fields).status_code == 200
    sent = fakes["openai"].seen[-1].body
    assert sent | {"service_tier": "default"} == sent
    assert {name: sent[name] for name in ("verbosity", "logit_bias", "user", "prompt_cache_key")} == {
        name: fields[name] for name in ("verbosity", "logit_bias", "user", "prompt_cache_key")
    }


def test_what_only_mistral_knows_is_translated(product: Product, fakes: dict[str, Fake]) -> None:
    body = {
        "model": MODELS["openai"],
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "https://example.com/a.png"}]}],
        "random_seed": 5,
        "safe_prompt": True,
        "tool_choice": "any",
        "tools": [TOOL],
        "metadata": {"agent": "x"},
        "max_tokens": 50,
    }
    response = httpx.post(
        f"{product.url}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {product.key()}"},
        timeout=30,
    )
    assert response.status_code == 200, response.text
    sent = fakes["openai"].seen[-1].body
    assert (sent["seed"], sent["tool_choice"]) == (5, "required")
    assert sent["messages"][0]["content"][0]["image_url"] == {"url": "https://example.com/a.png"}
    assert not {"random_seed", "safe_prompt", "metadata", "max_tokens"} & set(sent)


PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": "https://example.com/a.png"}]}]


def test_a_picture_that_costs_66_000_tokens_passes_no_cap(product: Product, fakes: dict[str, Fake]) -> None:
    used = {"prompt_tokens": 66_000, "completion_tokens": 2, "total_tokens": 66_002}
    key, asked = product.key(), {"model": MODELS["openai"], "messages": PICTURE, "max_tokens": 10}
    for _ in range(20):
        fakes["openai"].next.append((200, {}, json.dumps({"choices": [], "usage": used}).encode()))
        product.chat(key, **asked)
    window = BudgetWindow.objects.get()
    assert 0 < window.settled_nanos <= window.limit_nanos
    assert window.settled_nanos == len(fakes["openai"].seen) * (66_000 * INPUT + 2 * OUTPUT)
    assert not SpendEntry.objects.filter(overage_nanos__gt=0).exists()


def test_pictures_are_refused_where_nobody_knows_what_they_cost(
    product: Product, fakes: dict[str, Fake], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = serve("likes", "some-vl")
    # Its likes take `max_tokens`, which OpenAI refuses.
    monkeypatch.setattr(openai_api, "check", lambda _: None)
    row = ProviderEndpoint(name="likes", kind="openai_compatible", base_url=settings.OPENAI_API_BASE)
    endpoints.save(row=row, new_key=fakes["openai"].key, by=Actor(name="ops"), now=make.NOON)
    key, asked = product.key(), {"model": "likes/some-vl", "messages": PICTURE, "max_tokens": 10}
    assert eventually(lambda: product.chat(key, model="likes/some-vl").status_code == 200)
    sent = len(fakes["openai"].seen)

    refused = product.chat(key, **asked)
    assert (refused.status_code, refused.json()["code"], refused.json()["param"]) == (400, "unbounded_input", "model")
    assert "likes/some-vl is not known" in refused.json()["message"]
    assert len(fakes["openai"].seen) == sent

    settings.UNBOUNDED_INPUTS = "reserve_full_context"
    assert product.chat(key, **asked).status_code == 200
    # All of its context may be written into a cache, at 1.25 times the price.
    assert Reservation.objects.latest("reserved_at").amount_nanos == 250_000 * INPUT + 10 * OUTPUT

    settings.UNBOUNDED_INPUTS = "refuse"
    model.image_tokens = 6_404
    model.save()
    snapshot.forget()
    snapshot.current()
    assert product.chat(key, **asked).status_code == 200
    assert Reservation.objects.latest("reserved_at").amount_nanos < 9_000 * INPUT


def test_a_provider_that_an_operator_adds_is_called_without_a_restart(
    product: Product, fakes: dict[str, Fake], settings: Any
) -> None:
    serve("own", "gpt-oss")
    key = product.key()
    assert product.chat(key, model="gpt-oss").json()["code"] == "provider_not_configured"
    row = ProviderEndpoint(name="own", kind="openai", base_url=settings.OPENAI_API_BASE)
    by = Actor(name="ops")
    endpoints.save(row=row, new_key=fakes["openai"].key, by=by, now=make.NOON)
    assert eventually(lambda: product.chat(key, model="gpt-oss").status_code == 200)
    assert entry().provider == "own"
    row.enabled = False
    endpoints.save(row=row, new_key="", by=by, now=make.NOON)
    assert eventually(lambda: product.chat(key, model="gpt-oss").status_code == 400)
    assert "is switched off" in product.chat(key, model="gpt-oss").json()["message"]


@pytest.fixture
def eu_zone(settings: Any, sandbox: Sandbox, sandbox_url: str) -> None:
    settings.MISTRAL_EU_API_BASE, settings.MISTRAL_EU_API_KEY = sandbox_url, "eu-key"


def test_a_zone_of_mistrals_is_called_at_its_own_price(eu_zone: None, product: Product) -> None:
    response = product.chat(product.key(), model="mistral-eu/mistral-large-latest")
    assert response.status_code == 200, response.text
    usage = response.json()["usage"]
    assert entry().cost_nanos == usage["prompt_tokens"] * 550 + usage["completion_tokens"] * 1650
    assert (entry().provider, entry().certainty) == ("mistral-eu", "confirmed")
    sent = product.sandbox.requests[-1]
    assert sent.body["model"] == "mistral-large-latest"
    assert (
        product.chat(product.key(), model="mistral-us/mistral-large-latest").json()["code"] == "provider_not_configured"
    )


@pytest.fixture
def chain(models: None, settings: Any, tmp_path: Path, provider: str) -> None:
    """Where Mistral's large model does not answer, the provider's stands in."""
    settings.ROUTER_CONFIG = tmp_path / "routing.yaml"
    elsewhere = f"{provider}/{MODELS[provider]}"
    settings.ROUTER_CONFIG.write_text(
        f"pool:\n  - {{id: mistral-large-latest}}\n  - {{id: {elsewhere}}}\n"
        f"chains:\n  default: [mistral-large-latest, {elsewhere}]\n"
    )


@pytest.mark.parametrize("stream", [False, True])
def test_another_providers_model_stands_in(chain: None, product: Product, provider: str, stream: bool) -> None:
    product.sandbox.next("status=429")
    fields = {"tools": [TOOL], "tool_choice": "any", "random_seed": 3, "temperature": 0.3, "stream": stream}
    response = product.chat(product.key(), **fields)
    assert response.status_code == 200, response.text
    assert response.headers["x-downgrade-reason"] == "fallback"
    # The call comes before the end.
    answer = chunks_of(response.text)[-2]["choices"][0]["delta"] if stream else response.json()["choices"][0]["message"]
    assert answer["tool_calls"][0]["function"]["name"] == "weather"
    assert (entry().provider, entry().cost_nanos) == (provider, COST[provider])
    assert entry().model_requested == "mistral-large-latest"
    assert nothing_is_held()


def test_a_stand_in_that_cannot_take_the_request_is_not_what_the_client_is_told_of(
    chain: None, product: Product, fake: Fake
) -> None:
    product.sandbox.next("status=429")
    refused = openai_api.Refused(400, "Unsupported value: 'temperature'")
    fake.next.append((400, {}, fake.error(refused)))
    response = product.chat(product.key(), temperature=0.3)
    assert (response.status_code, response.json()["code"]) == (429, "upstream_rate_limit")
    assert len(fake.seen) == 1
    assert not SpendEntry.objects.exists()
    assert nothing_is_held()


def test_one_without_a_key_does_not(chain: None, product: Product, fakes: dict[str, Fake], provider: str) -> None:
    gateway.providers._by_name.pop(provider)
    product.sandbox.next("status=500")
    assert product.chat(product.key()).json()["code"] == "upstream_failed"
    assert fakes[provider].seen == []


@pytest.fixture
def no_mistral(product: Product) -> None:
    del gateway.providers._by_name["mistral"]


def test_a_model_that_nobody_knows_is_called_unknown_whatever_keys_there_are(
    no_mistral: None, product: Product
) -> None:
    assert product.chat(product.key(), model="no-such-model").json()["code"] == "model_not_priced"
    assert product.chat(product.key(), model="mistral-large-latest").json()["code"] == "provider_not_configured"


def test_embeddings_are_made_and_charged(product: Product, fakes: dict[str, Fake]) -> None:
    serve("openai", "text-embedding-3-small", kinds=["embedding"])
    key = product.key()
    body = {"model": "text-embedding-3-small", "input": ["a"], "encoding_format": "float", "dimensions": 2}
    response = product.post("/v1/embeddings", key, **body)
    assert response.status_code == 200, response.text
    assert response.json()["data"][0]["embedding"] == [0.1, 0.2]
    assert entry().cost_nanos == 5 * INPUT
    assert fakes["openai"].seen[-1].body == body


@pytest.mark.parametrize(
    "hidden",
    [
        {"reasoning_content": "x" * 50_000},
        {"reasoning": "x" * 50_000},
        {"refusal": "x" * 50_000},
        {"annotations": [{"text": "x" * 50_000}]},
        {"name": "x" * 50_000},
        {"a_field_of_tomorrow": {"deep": ["x" * 50_000]}},
    ],
)
def test_what_only_some_providers_are_sent_is_held_for_there(
    product: Product, fake: Fake, provider: str, model: str, hidden: dict[str, Any]
) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", **hidden}]
    product.chat(product.key(), model=model, messages=messages, max_tokens=10)
    held = Reservation.objects.get().amount_nanos
    left = json.dumps(fake.seen[-1].body)
    # A byte of what left is a token at most.
    assert held >= (len(left) - 600) * INPUT
    assert ("x" * 50_000 in left) is (provider == "openai" and held > 50_000 * INPUT)


def test_fields_of_endpoints_of_one_s_own_are_counted_and_passed_on(
    product: Product, openai_fake: openai_api.OpenAI
) -> None:
    schema = {"type": "object", "description": "x" * 5_000}
    product.chat(product.key(), model=MODELS["openai"], guided_json=schema)
    assert openai_fake.seen[-1].body["guided_json"] == schema
    assert Reservation.objects.get().amount_nanos > 5_000 * INPUT
