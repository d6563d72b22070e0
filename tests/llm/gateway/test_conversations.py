"""Conversations that other clients and other providers have begun: each provider gets them as it takes them.

The simulated Mistral refuses what the real one refuses; operators' endpoints stand on an API with its own books.
"""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import pytest
from django.core.exceptions import ValidationError

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.audit import Actor
from governance.models import Overrun, Reservation, SpendEntry
from llm.models import ProviderEndpoint
from llm.providers import endpoints
from tests import factories as make
from tests.llm.gateway.test_against_books import ask, holds_by_the_books, ledger_nanos
from tests.llm.gateway.test_chat import chunks_of, nothing_is_held, streaming
from tests.llm.gateway.test_odd_answers import CLOSES, DONE, anthropic, charged_since, compatible, event, plain
from tests.product import Product, eventually

USER = {"role": "user", "content": "What is it like in Zug?"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
USAGE = {"prompt_tokens": 14, "completion_tokens": 3, "total_tokens": 17}
SIGNATURE = {"google": {"thought_signature": "c2lnbmF0dXJl" * 40}}


@pytest.fixture
def key(product: Product) -> str:
    make.budget("10.00")
    return product.key()


def call(id: Any, name: str = "weather", arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def used(*ids: Any) -> list[dict[str, Any]]:
    results = [{"role": "tool", "tool_call_id": id, "content": "Sunny."} for id in ids]
    return [USER, {"role": "assistant", "content": None, "tool_calls": [call(id) for id in ids]}, *results]


def sent(booked: BookedUpstream) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(booked.books.entries[-1].body)
    return body


# Ids of tool calls ----------------------------------------------------------------------------------------------------

FOREIGN_IDS = [
    "call_PTLP8xhu3uwZk4l3nlnrrJha",
    "toolu_01A09q90qw90lq917835lq9",
    "0b34fc13-6a6c-4a1e-9d38-3c0e0d8a9d43",
    "1",
    "turn1_0",
    "abcdefgh-",
    "für-immer",
    "x" * 300,
    7,
]


@pytest.mark.parametrize("id", FOREIGN_IDS)
def test_a_call_that_began_elsewhere_has_an_id_that_mistral_takes(product: Product, key: str, id: Any) -> None:
    response = product.chat(key, messages=used(id), tools=[TOOL])
    assert response.status_code == 200, response.text
    _, asked, result = product.sandbox.requests[-1].body["messages"]
    assert asked["tool_calls"][0]["id"] == result["tool_call_id"]
    row = Reservation.objects.get()
    assert row.amount_nanos >= SpendEntry.objects.get().cost_nanos > 0


def test_an_id_is_the_same_in_every_request_and_mistrals_own_stays(product: Product, key: str) -> None:
    longer = [*used("call_1", "abcDEF123"), {"role": "assistant", "content": "Sunny."}, USER]
    for messages in (used("call_1", "abcDEF123"), longer):
        response = product.chat(key, messages=messages, tools=[TOOL])
        assert response.status_code == 200, response.text
    first, second = ([c["id"] for c in r.body["messages"][1]["tool_calls"]] for r in product.sandbox.requests)
    assert first == second
    assert (first[1], len(first[0]), first[0].isalnum()) == ("abcDEF123", 9, True)


@pytest.mark.parametrize(
    ("called", "answered"),
    [
        (["same", "same"], ["same", "same"]),
        ([None, None], [None, None]),
        (["null", ""], ["", "null"]),
        (["call_a", "call_b"], ["call_b", "call_a"]),
        (["call_a", "call_b"], [None, None]),
    ],
)
def test_ids_that_tell_nothing_are_told_by_their_order(
    product: Product, key: str, called: list[Any], answered: list[Any]
) -> None:
    calls = {"role": "assistant", "content": "", "tool_calls": [call(id) for id in called]}
    results = [{"role": "tool", "tool_call_id": id, "content": "Sunny."} for id in answered]
    results = [{name: value for name, value in message.items() if value is not None} for message in results]
    response = product.chat(key, messages=[USER, calls, *results], tools=[TOOL])
    assert response.status_code == 200, response.text


def test_longer_names_are_held_for(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.usual = Answer(tokens=20)
    messages = used(*(str(number) for number in range(40)))
    assert ask(product, key, stream=False, messages=messages, tools=[TOOL])[0] == 200
    assert holds_by_the_books(booked)
    # A byte is a token, and what leaves is longer than what came.
    assert booked.books.entries[0].prompt_tokens > 0
    assert SpendEntry.objects.get().cost_nanos == booked.books.spent_nanos


@pytest.mark.parametrize("place", ["part", "message", "tool", "function", "call", "null"])
def test_what_only_other_providers_know_is_kept_from_mistral(product: Product, key: str, place: str) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}

    def at(name: str) -> dict[str, Any]:
        return mark if name == place else {}

    function = {"name": "weather", "parameters": {}, **at("function")}
    if place == "null":
        function |= {"strict": None, "description": None}
    messages = [
        {"role": "system", "content": "Be brief.", **at("message")},
        {"role": "user", "content": [{"type": "text", "text": "Hi", **at("part")}]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{**call("call_1"), **at("call"), "extra_content": SIGNATURE}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."},
    ]
    response = product.chat(key, messages=messages, tools=[{"type": "function", "function": function, **at("tool")}])
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        (
            [USER, {"role": "assistant", "content": None, "tool_calls": [call("call_1")]}, USER],
            "messages.1.tool_calls.0",
        ),
        ([USER, {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."}], "messages.1.tool_call_id"),
        ([USER, {"role": "assistant", "content": "It is"}], "messages.1"),
        ([{**USER, "mood": "good"}], "messages.0.mood"),
    ],
)
def test_what_cannot_be_carried_is_told_by_the_name_of_its_field(
    product: Product, key: str, messages: list[Any], field: str
) -> None:
    response = product.chat(key, messages=messages, tools=[TOOL])
    assert (response.status_code, response.json()["param"]) == (400, field)
    assert field in response.json()["message"]
    assert not product.sandbox.requests
    assert nothing_is_held()


def test_a_user_who_speaks_after_a_result_is_answered_and_what_leaves_is_held_for(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    booked.usual = Answer(tokens=20)
    messages = [message for number in range(40) for message in (*used(str(number)), USER)]
    assert ask(product, key, stream=False, messages=messages, tools=[TOOL])[0] == 200
    assert [message["role"] for message in sent(booked)["messages"]].count("assistant") == 80
    assert holds_by_the_books(booked)
    assert SpendEntry.objects.get().cost_nanos == booked.books.spent_nanos


# What providers add to tool calls -------------------------------------------------------------------------------------


def parts(*each: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"tool_calls": list(each)}, "finish_reason": finish}
    return event({"id": "c", "model": "m", "choices": [choice]} | more)


def calls_in(said: str) -> list[dict[str, Any]]:
    return [
        c for chunk in chunks_of(said) for choice in chunk["choices"] for c in choice["delta"].get("tool_calls") or ()
    ]


@compatible
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_providers_own_fields_on_a_call_come_to_the_client_and_go_back(
    product: Product, booked: BookedUpstream, likes: str, stream: bool
) -> None:
    made = call("function-call-1", index=0, extra_content=SIGNATURE)
    if stream:
        booked.usual = Answer(script=[CLOSES, parts(made), parts(finish="tool_calls", usage=USAGE), DONE, "close"])
        found = calls_in(ask(product, likes, model="likes/m", stream=True)[1])
    else:
        choice = {"index": 0, "message": {"role": "assistant", "tool_calls": [made]}, "finish_reason": "tool_calls"}
        booked.usual = plain({"model": "m", "choices": [choice], "usage": USAGE})
        answer = json.loads(ask(product, likes, model="likes/m", stream=False)[1])
        found = answer["choices"][0]["message"]["tool_calls"]
    assert [c["extra_content"] for c in found] == [SIGNATURE]
    assert [c["id"] for c in found] == ["function-call-1"]

    said = {"role": "assistant", "content": "", "tool_calls": found}
    result = {"role": "tool", "tool_call_id": "function-call-1", "content": "Sunny."}
    charged = charged_since(product, booked, likes, Answer(tokens=20), messages=[USER, said, result], tools=[TOOL])
    assert sent(booked)["messages"][1]["tool_calls"][0]["extra_content"] == SIGNATURE
    assert charged == booked.books.entries[-1].cost_nanos
    held = Reservation.objects.latest("reserved_at").amount_nanos
    # Each byte of it is held for.
    assert held >= 150 * len(SIGNATURE["google"]["thought_signature"]) + charged


@compatible
@pytest.mark.parametrize("hidden", [{"image": "x"}, {"extra_content": {"a": [{"video_url": "x"}]}}])
def test_no_media_hide_in_a_call(product: Product, booked: BookedUpstream, likes: str, hidden: dict[str, Any]) -> None:
    messages = used("call_1")
    messages[1]["tool_calls"][0] |= hidden
    status, said = ask(product, likes, model="likes/m", stream=False, messages=messages)
    assert (status, json.loads(said)["code"]) == (400, "unbounded_input")
    assert not booked.books.entries


ZUG, BERN = '{"city":"Zug"}', '{"city":"Bern"}'


def part(arguments: Any = "", id: str | None = None, name: str | None = None, index: int | None = 0) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    told = {key: value for key, value in (("id", id), ("index", index)) if value is not None}
    return {**told, "function": function}


@compatible
@pytest.mark.parametrize(
    "pieces",
    [
        [[part(ZUG, "a", "weather"), part(BERN, "b", "weather")]],
        [[part(ZUG, "a", "weather")], [part(BERN, "b", "weather")]],
        [[part("", "a", "weather"), part(ZUG)], [part("", "b", "weather")], [part(BERN)]],
        [[part('{"city":', "a", "weather")], [part('"Zug"}', "a")], [part(BERN, "b", "weather")]],
        [[part('{"city":', "a", "weather")], [part(BERN, "b", "weather")], [part('"Zug"}', "a")]],
        [[part(ZUG, None, "weather")], [part(BERN, None, "weather")]],
        [[part(ZUG, None, "weather"), part(BERN, None, "weather")]],
        [[part(ZUG, "a", "weather", None), part(BERN, "b", "weather", None)]],
        [[part('{"city":', "a", "weather", 1)], [part('"Zug"}', index=1)], [part(BERN, "b", "weather", 2)]],
        [[part({"city": "Zug"}, "a", "weather"), part({"city": "Bern"}, "b", "weather")]],
    ],
)
def test_parallel_calls_stay_apart_however_they_are_numbered(
    product: Product, booked: BookedUpstream, likes: str, pieces: list[Any]
) -> None:
    written = [parts(*each) for each in pieces]
    booked.usual = Answer(script=[CLOSES, *written, parts(finish="tool_calls", usage=USAGE), DONE, "close"])
    for stream in (True, False):
        said = ask(product, likes, model="likes/m", stream=stream)[1]
        found = calls_in(said) if stream else json.loads(said)["choices"][0]["message"]["tool_calls"]
        assert [json.loads(c["function"]["arguments"]) for c in found] == [{"city": "Zug"}, {"city": "Bern"}]
        assert len({c["index"] for c in found}) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("arguments", [{"city": "Zug"}, {}, ["Zug"], 5, None], ids=str)
@pytest.mark.parametrize("likes", ["openai_compatible"], indirect=True)
@pytest.mark.parametrize("model", ["likes/m", "mistral-small-latest"])
def test_arguments_are_a_text_whatever_they_came_as(
    product: Product, booked: BookedUpstream, likes: str, arguments: Any, stream: bool, model: str
) -> None:
    booked.books.rates = booked.books.rates | {"mistral-small": (150_000, 15_000, 600_000)}
    made = {"id": "a", "index": 0, "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": "", "tool_calls": [made]}
    choice = {"index": 0, "finish_reason": "tool_calls", ("delta" if stream else "message"): message}
    body = {"id": "c", "model": model.removeprefix("likes/"), "choices": [choice], "usage": USAGE}
    booked.usual = Answer(script=[CLOSES, event(body), DONE, "close"]) if stream else plain(body)
    before = ledger_nanos()
    status, said = ask(product, likes, model=model, stream=stream)
    assert status == 200
    found = calls_in(said) if stream else json.loads(said)["choices"][0]["message"]["tool_calls"]
    text = found[0]["function"]["arguments"]
    # Mistral's own parts go on as they come.
    nothing = "" if stream and model != "likes/m" else "{}"
    assert text == nothing if arguments is None else json.loads(text) == arguments
    assert eventually(lambda: ledger_nanos() - before == 14 * 150 + 3 * 600)


# The order in which clients' helpers read calls -----------------------------------------------------------------------

CALLED = [("a", ZUG), ("b", BERN)]


def anthropics_calls() -> list[bytes]:
    def one(index: int, id: str, arguments: str) -> list[dict[str, Any]]:
        block = {"type": "tool_use", "id": id, "name": "weather", "input": {}}
        delta = {"type": "input_json_delta", "partial_json": arguments}
        return [
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]

    message = {"id": "msg", "model": "m", "usage": {"input_tokens": 14, "output_tokens": 1}}
    written = [event for index, call in enumerate(CALLED) for event in one(index, *call)]
    end = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}}
    events = [{"type": "message_start", "message": message}, *written, end, {"type": "message_stop"}]
    return [event(each) for each in events]


@pytest.mark.parametrize(
    ("likes", "model", "is_joined"),
    [
        ("openai_compatible", "likes/m", True),
        ("openai_compatible", "likes/m", False),
        ("anthropic", "likes/m", False),
        ("openai_compatible", "mistral-small-latest", True),
    ],
    indirect=["likes"],
)
def test_each_call_comes_in_a_chunk_of_its_own_before_the_end_and_the_usage_with_it(
    product: Product, booked: BookedUpstream, likes: str, model: str, is_joined: bool, request: pytest.FixtureRequest
) -> None:
    booked.books.rates = booked.books.rates | {"mistral-small": (150_000, 15_000, 600_000)}
    kind = request.node.callspec.params["likes"]
    made = [call(id, arguments=text, index=index) for index, (id, text) in enumerate(CALLED)]
    written = [parts(*made, finish="tool_calls", usage=USAGE, model=model.removeprefix("likes/"))]
    if not is_joined:
        usage = event({"id": "c", "model": "m", "choices": [], "usage": USAGE})
        written = [*(parts(each) for each in made), parts(finish="tool_calls"), usage]
    if kind == "anthropic":
        written = anthropics_calls()
    booked.usual = Answer(script=[CLOSES, *written, *([] if kind == "anthropic" else [DONE]), "close"])
    before = ledger_nanos()
    chunks = chunks_of(ask(product, likes, model=model, stream=True)[1])
    said = [chunk for chunk in chunks if chunk["choices"][0]["delta"].get("tool_calls")]
    calls = [[(c["id"], c["function"]["arguments"]) for c in ch["choices"][0]["delta"]["tool_calls"]] for ch in said]
    assert calls == [[each] for each in CALLED]
    assert [(chunk["choices"][0]["finish_reason"], "usage" in chunk) for chunk in said] == [(None, False)] * 2
    end = chunks[-1]
    assert (end["choices"], end["usage"]["total_tokens"]) == (
        [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}],
        17,
    )
    assert {chunk["id"] for chunk in said} == {end["id"]}
    assert eventually(lambda: ledger_nanos() - before == 14 * 150 + 3 * 600)
    assert end["usage"]["cost_usd"] == "0.0000039"


# A cache at a provider ------------------------------------------------------------------------------------------------


def anthropics(tokens: int, written: int, age: str) -> dict[str, Any]:
    creation = {
        "ephemeral_5m_input_tokens": 0,
        "ephemeral_1h_input_tokens": 0,
        f"ephemeral_{age}_input_tokens": written,
    }
    counts = {"input_tokens": 3, "cache_creation_input_tokens": written, "cache_read_input_tokens": 0}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": {**counts, "cache_creation": creation, "output_tokens": tokens},
    }


LONG = "Zug is a town. " * 50


@anthropic
@pytest.mark.parametrize(
    ("age", "mark", "price_e2"), [("5m", {}, 125), ("5m", {"ttl": "5m"}, 125), ("1h", {"ttl": "1h"}, 200)]
)
@pytest.mark.parametrize("place", ["part", "message", "system", "tool", "result"])
def test_a_mark_for_the_cache_goes_to_anthropic_and_is_held_for_at_the_price_of_writing(
    product: Product, booked: BookedUpstream, likes: str, age: str, mark: dict[str, Any], price_e2: int, place: str
) -> None:
    told = {"cache_control": {"type": "ephemeral", **mark}}

    def at(name: str) -> dict[str, Any]:
        return told if name == place else {}

    messages = [
        {
            "role": "system",
            "content": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": LONG, **at("system")}],
        },
        {"role": "user", "content": [{"type": "text", "text": LONG, **at("part")}], **at("message")},
        {"role": "assistant", "content": "", "tool_calls": [call("call_1")]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": LONG, **at("result")}]},
    ]
    # All that was sent is written, each byte a token.
    most = len(json.dumps(messages))
    answer = plain(anthropics(2, most, age))
    before = ledger_nanos()
    booked.usual = answer
    body = {"model": "likes/m", "messages": messages, "max_tokens": 10, "tools": [{**TOOL, **at("tool")}]}
    response = product.post("/v1/chat/completions", likes, **body)
    assert response.status_code == 200, response.text
    assert json.dumps(told)[1:-1] in json.dumps(sent(booked))
    assert eventually(nothing_is_held)
    row = SpendEntry.objects.latest("id")
    assert row.cost_nanos == ledger_nanos() - before == (3 + -(-most * price_e2 // 100)) * 150 + 2 * 600
    assert (row.overage_nanos, row.certainty) == (0, "confirmed")
    assert Reservation.objects.latest("reserved_at").amount_nanos >= row.cost_nanos


@pytest.mark.parametrize("likes", ["openai", "openai_compatible"], indirect=True)
def test_what_an_endpoint_writes_into_its_cache_by_itself_is_held_for(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    """As OpenAI does from GPT-5.6 on, of prompts from 1,024 tokens: no field asks for it, and it costs 1.25 times."""
    most = 20_010
    written = {"prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": most - 10}}
    usage = {"prompt_tokens": most, "completion_tokens": 2, "total_tokens": most + 2, **written}
    each_nanos = (10 + 20_000 * 5 // 4) * 150 + 2 * 600
    text = "7" * (most - 10)
    charged_since(product, booked, likes, Answer(tokens=2, usage=usage), messages=[{"role": "user", "content": text}])
    row = SpendEntry.objects.latest("id")
    assert (row.cost_nanos, row.overage_nanos, row.certainty) == (each_nanos, 0, "confirmed")
    assert not Overrun.objects.exists()


@compatible
def test_a_mark_for_the_cache_is_held_for_at_every_endpoint_that_may_write_one(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    part = {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    holds = []
    for content in ([part], [{"type": "text", "text": LONG}]):
        charged_since(product, booked, likes, Answer(tokens=5), messages=[{"role": "user", "content": content}])
        holds.append(Reservation.objects.latest("reserved_at").amount_nanos - 500 * 600)
    assert "cache_control" in booked.books.entries[0].body.decode()
    # Twice, in place of what any of its prompts may cost.
    assert holds[0] * 125 > holds[1] * 200


@anthropic
@pytest.mark.parametrize("mark", ["ephemeral", {"type": "lasting"}, {"type": "ephemeral", "ttl": "1d"}, {"a": 1}])
def test_a_mark_that_anthropic_does_not_know_is_a_400(
    product: Product, booked: BookedUpstream, likes: str, mark: Any
) -> None:
    content = [{"type": "text", "text": "Hi", "cache_control": mark}]
    response = product.chat(likes, model="likes/m", messages=[{"role": "user", "content": content}])
    assert response.status_code == 400
    assert response.json()["param"].endswith("cache_control")
    assert not booked.books.entries


@anthropic
def test_an_id_that_anthropic_refuses_becomes_one_that_it_takes(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    booked.usual = plain(anthropics(2, 0, "5m"))
    assert product.chat(likes, model="likes/m", messages=used("für:1"), tools=[TOOL]).status_code == 200
    _, asked, result = sent(booked)["messages"]
    id = asked["content"][0]["id"]
    assert id == result["content"][0]["tool_use_id"]
    assert (len(id), id.isascii()) == (9, True)


# Embeddings of tokens -------------------------------------------------------------------------------------------------


@compatible
@pytest.mark.parametrize(("given", "tokens"), [([1, 2, 3], 3), ([[1, 2], [3, 4, 5]], 5)])
def test_tokens_are_embedded_where_the_provider_takes_them(
    product: Product, booked: BookedUpstream, likes: str, given: Any, tokens: int
) -> None:
    from llm.catalogue import snapshot
    from llm.models import Model

    Model.objects.filter(name="m", provider="likes").update(kinds=["chat", "embedding"])
    snapshot.forget()
    snapshot.current()
    before = ledger_nanos()
    response = product.post("/v1/embeddings", likes, model="likes/m", input=given)
    assert response.status_code == 200, response.text
    assert sent(booked)["input"] == given
    assert booked.idle()
    assert ledger_nanos() - before >= booked.books.spent_nanos
    # A token is a token: no more than the marks around each list come on top.
    assert Reservation.objects.latest("reserved_at").amount_nanos <= (tokens + 8 * 3) * 150


@pytest.mark.parametrize("given", [[1, 2, 3], [[1, 2]]])
def test_mistral_embeds_no_tokens(product: Product, key: str, given: Any) -> None:
    response = product.post("/v1/embeddings", key, model="mistral-embed", input=given)
    assert (response.status_code, response.json()["param"]) == (400, "input")
    assert not product.sandbox.requests
    assert nothing_is_held()


@pytest.mark.parametrize("given", [[1, "a"], [-1], [1.5], [True], [[]], [[1], "a"], [2**31]])
def test_what_is_neither_text_nor_tokens_is_refused(product: Product, key: str, given: Any) -> None:
    response = product.post("/v1/embeddings", key, model="mistral-embed", input=given)
    assert (response.status_code, response.json()["param"]) == (400, "input")


# The bound's name -----------------------------------------------------------------------------------------------------


@compatible
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("asked", ["max_tokens", "max_completion_tokens"])
def test_an_endpoint_gets_the_bound_under_the_name_that_it_takes(
    product: Product, booked: BookedUpstream, likes: str, asked: str, stream: bool
) -> None:
    refusal = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )

    def newer_alone(request: Any) -> Answer | None:
        wants = "max_tokens" in json.loads(request.body)
        return plain({"error": {"message": refusal, "code": "unsupported_parameter"}}, 400) if wants else None

    booked.answer_to = newer_alone
    booked.usual = Answer(tokens=900)
    body = {"model": "likes/m", "messages": [USER], "stream": stream, asked: 40}
    for _ in range(2):
        before, entries = ledger_nanos(), len(booked.books.entries)
        response = product.post("/v1/chat/completions", likes, **body)
        assert response.status_code == 200, response.text
        assert booked.idle()
        assert eventually(nothing_is_held)
        assert sent(booked)["max_completion_tokens"] == 40
        assert "max_tokens" not in sent(booked)
        # It was bounded, and what it wrote is what was charged.
        assert booked.books.entries[-1].output_tokens == 40
        assert ledger_nanos() - before == sum(
            entry.cost_nanos for entry in booked.books.entries[entries:] if b'"max_tokens"' not in entry.body
        )
    # It had to be told once.
    assert len(booked.books.entries) - entries == 1


@compatible
def test_an_endpoint_that_says_nothing_of_the_name_is_not_asked_twice(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    booked.usual = plain({"error": {"message": "max_tokens is too large for this model."}}, 400)
    assert product.chat(likes, model="likes/m").status_code == 400
    assert len(booked.books.entries) == 1


# Fields that ask for nothing ------------------------------------------------------------------------------------------


@compatible
@pytest.mark.parametrize(
    "fields", [{"best_of": 1}, {"echo": False}, {"use_beam_search": False}, {"usage": {"include": True}}]
)
@pytest.mark.parametrize("model", ["likes/m", "mistral-small-latest"])
def test_a_field_that_changes_nothing_is_no_mistake(
    product: Product, booked: BookedUpstream, likes: str, fields: dict[str, Any], model: str
) -> None:
    booked.books.rates = booked.books.rates | {"mistral-small": (150_000, 15_000, 600_000)}
    charged = charged_since(product, booked, likes, Answer(tokens=20), model=model, **fields)
    assert charged == booked.books.entries[-1].cost_nanos
    assert not fields.keys() & sent(booked).keys()


@pytest.mark.parametrize("fields", [{"best_of": 2}, {"echo": True}, {"use_beam_search": True}, {"models": ["a", "b"]}])
def test_a_field_that_makes_a_call_dearer_is_refused(product: Product, key: str, fields: dict[str, Any]) -> None:
    response = product.chat(key, **fields)
    assert (response.status_code, response.json()["code"]) == (400, "unknown_field")


@compatible
def test_a_field_that_an_operator_lets_through_goes_to_that_endpoint_alone_and_is_held_for(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    fields = {"top_n_sigma": 1.5, "dry": True, "flavour": "f" * 200}

    def ask_with(model: str, **more: Any) -> httpx.Response:
        return product.chat(likes, model=model, **more)

    assert ask_with("likes/m", **fields).json()["code"] == "unknown_field"
    row = ProviderEndpoint.objects.get(name="likes")
    row.extra_fields = "top_n_sigma, dry flavour"
    row.full_clean()
    endpoints.save(row=row, new_key="", by=Actor(name="ops"), now=make.NOON)
    assert eventually(lambda: ask_with("likes/m", dry=True).status_code == 200)
    holds = []
    for more in ({}, fields):
        before, entries = ledger_nanos(), len(booked.books.entries)
        response = ask_with("likes/m", **more)
        assert response.status_code == 200, response.text
        assert sent(booked) | more == sent(booked)
        assert booked.idle()
        assert eventually(nothing_is_held)
        assert ledger_nanos() - before == sum(entry.cost_nanos for entry in booked.books.entries[entries:])
        holds.append(Reservation.objects.latest("reserved_at").amount_nanos)
    assert holds[1] - holds[0] >= 200 * 150

    count = len(booked.books.entries)
    for wrong in ({"flavour": "f" * 300}, {"flavour": ["f"]}, {"dry": {"a": 1}}):
        answer = ask_with("likes/m", **wrong)
        assert (answer.status_code, answer.json()["param"]) == (400, *wrong)
    elsewhere = ask_with("mistral-small-latest", dry=True)
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (400, "unsupported_field")
    assert len(booked.books.entries) == count


@pytest.mark.parametrize("name", ["best_of", "models", "max_new_tokens", "n", "temperature", "Big", "a-b", "x" * 65])
def test_no_field_that_makes_a_call_dearer_can_be_let_through(db: None, name: str) -> None:
    row = ProviderEndpoint(name="own", base_url="https://example.com/v1", extra_fields=name, updated_at=make.NOON)
    with pytest.raises(ValidationError) as refused:
        row.full_clean()
    assert "extra_fields" in refused.value.message_dict


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(("mode", "choice"), [("auto", "auto"), ("required", "any")])
def test_allowed_tools_are_those_that_are_sent(product: Product, key: str, mode: str, choice: str) -> None:
    allowed = [{"type": "function", "function": {"name": "b"}}, {"type": "function", "name": "c"}]
    wanted = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
    response = product.chat(key, tools=[named("a"), named("b"), named("c")], tool_choice=wanted)
    assert response.status_code == 200, response.text
    body = product.sandbox.requests[-1].body
    assert ([tool["function"]["name"] for tool in body["tools"]], body["tool_choice"]) == (["b", "c"], choice)


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "allowed_tools": {"mode": "some", "tools": [{"name": "a"}]}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "name": "z"}]}},
    ],
)
def test_allowed_tools_that_are_not_there_are_a_400(product: Product, key: str, wanted: dict[str, Any]) -> None:
    response = product.chat(key, tools=[named("a")], tool_choice=wanted)
    assert (response.status_code, response.json()["param"]) == (400, "tool_choice")


# What clients are told ------------------------------------------------------------------------------------------------


def without_bound(product: Product, key: str, **fields: Any) -> httpx.Response:
    body = {"model": "mistral-medium-latest", "messages": [USER], **fields}
    return product.post("/v1/chat/completions", key, **body)


def test_a_bound_that_was_put_in_is_told_and_one_that_was_asked_for_is_not(product: Product, key: str) -> None:
    response = without_bound(product, key)
    assert response.headers["x-max-tokens-default"] == "4096"
    assert product.sandbox.requests[-1].body["max_tokens"] == 4096
    with streaming(product, key, max_tokens=None) as stream:
        stream.read()
    assert stream.headers["x-max-tokens-default"] == "4096"
    assert "x-max-tokens-default" not in without_bound(product, key, max_tokens=50).headers


@pytest.mark.parametrize("fields", [{"reasoning_effort": "high"}, {"prompt_mode": "reasoning"}])
def test_a_model_that_thinks_may_write_more_by_default(product: Product, key: str, settings: Any, fields: Any) -> None:
    settings.DEFAULT_THINKING_TOKENS = 10_000
    response = without_bound(product, key, **fields)
    assert response.headers["x-max-tokens-default"] == "14096"
    assert product.sandbox.requests[-1].body["max_tokens"] == 14_096
    assert Reservation.objects.get().amount_nanos >= 14_096 * 7_500


def test_every_name_that_may_be_called_is_listed(product: Product, key: str) -> None:
    listed = {card["id"]: card for card in product.get("/v1/models", key).json()["data"]}
    assert {"mistral-small-latest", "mistral-large-latest", "mistral-small-2603"} <= listed.keys()
    assert listed["mistral-small-latest"]["root"] == "mistral-small-2603"
    for name in listed:
        assert product.get(f"/v1/models/{name}", key).json()["id"] == listed[name]["root"]
