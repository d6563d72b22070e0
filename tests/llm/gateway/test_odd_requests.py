"""Requests that try to be counted as less than what leaves, or to break whoever counts them."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import pytest

from benchmarks.answers import Answer
from benchmarks.books import Request, prompt_tokens
from benchmarks.own_books import BookedUpstream
from governance.models import Reservation, SpendEntry
from llm.providers import Provider
from llm.providers.anthropic import Anthropic
from llm.providers.mistral import Mistral
from llm.providers.openai_compatible import OpenAICompatible
from llm.rules import bounds, client_requests
from llm.rules.bounds import UnboundedInput
from llm.rules.request_checks import DialectError
from llm.rules.request_fields import KNOWN
from tests import factories as make
from tests.llm.gateway.test_against_books import ask, ledger_nanos, open_stream
from tests.llm.gateway.test_chat import nothing_is_held
from tests.product import Product, eventually

LONG = "1" * 60_000
MODELS = {"mistral": "mistral-small-latest", "openai_compatible": "likes/m", "anthropic": "likes/m"}
compatible = pytest.mark.parametrize("likes", ["openai_compatible"], indirect=True)
anthropic = pytest.mark.parametrize("likes", ["anthropic"], indirect=True)
# All ways to ask for thinking beside an answer.
THINKING: list[dict[str, Any]] = [
    {"enable_thinking": True, "thinking_budget": 30_000},
    {"thinking_budget": 30_000},
    {"thinking": {"type": "enabled", "budget_tokens": 30_000}},
    {"reasoning": {"max_tokens": 30_000}},
    {"chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 30_000}},
    {"chat_template_kwargs": {"thinking_budget": 30_000}},
]


@pytest.fixture
def key(product: Product) -> str:
    make.budget("10.00")
    return product.key()


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def called_with(arguments: str) -> list[dict[str, Any]]:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "ok"},
    ]


def is_held_for(booked: BookedUpstream, since: int) -> bool:
    """Whether the holds of calls after the first `since` cover what the API was paid for."""
    assert booked.idle()
    assert eventually(nothing_is_held)
    holds = Reservation.objects.order_by("reserved_at", "pk")[since:]
    assert sum(hold.amount_nanos for hold in holds) >= booked.books.spent_nanos
    assert not SpendEntry.objects.filter(overage_nanos__gt=0).exists()
    return True


def one_word(request: Request) -> Answer:
    """A message of Anthropic's that counts what was sent."""
    said = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    used = {"input_tokens": prompt_tokens(request, "texts"), "output_tokens": 1}
    data = json.dumps({**said, "content": [{"type": "text", "text": "1"}], "usage": used}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
    return Answer(script=[head + data], tokens=1)


PICTURE = {"type": "base64", "media_type": "image/png", "data": LONG}


@anthropic
@pytest.mark.parametrize(
    "fields",
    [
        {"messages": called_with(json.dumps(PICTURE))},
        {"messages": called_with(json.dumps({"type": "image", "source": PICTURE}))},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": PICTURE}}}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {"a": PICTURE}}}}},
    ],
    ids=["arguments", "image in arguments", "parameters", "schema"],
)
def test_only_a_picture_s_data_counts_as_a_picture(
    product: Product, booked: BookedUpstream, likes: str, fields: dict[str, Any]
) -> None:
    before = Reservation.objects.count()
    booked.answer_to = one_word
    ask(product, likes, stream=False, model="likes/m", max_tokens=5, **fields)
    assert booked.books.spent_nanos > 60_000 * 150
    assert is_held_for(booked, before)


SEARCH = {"type": "function", "function": {"name": "search", "parameters": {}}}


@anthropic
def test_what_takes_a_disabled_tool_s_place_is_held_for(product: Product, booked: BookedUpstream, likes: str) -> None:
    make.budget("10.00", window="month", soft_cap="0.0001", disabled_tools=["search"])
    names = [f"{number:06d}{'1' * 7_994}" for number in range(8)]
    ids = [f"c{number}" for number in range(8)]
    calls = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for id, name in zip(ids, names, strict=True)
    ]
    results = [{"role": "tool", "tool_call_id": id, "content": "1"} for id in ids]
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": calls}, *results]
    before = Reservation.objects.count()
    booked.answer_to = one_word
    ask(product, likes, stream=False, model="likes/m", max_tokens=5, messages=messages, tools=[SEARCH])
    assert [tool["name"] for tool in json.loads(booked.books.entries[-1].body)["tools"]] == names
    assert is_held_for(booked, before)


@anthropic
def test_a_tool_that_cannot_be_counted_is_refused_when_it_is_disabled_too(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    make.budget("10.00", window="month", soft_cap="0.0001", disabled_tools=["search"])
    odd = {"type": "function", "function": {"name": "search", "parameters": ["x"]}}
    long = [{"role": "user", "content": LONG}]
    status, said = ask(product, likes, stream=False, model="likes/m", max_tokens=5, messages=long, tools=[odd])
    assert (status, json.loads(said)["param"]) == (400, "tools.0.function.parameters")
    assert booked.books.entries == []


@compatible
@pytest.mark.parametrize("fields", THINKING)
@pytest.mark.parametrize("limit", ["10.00", "0.01"], ids=["", "clamped"])
def test_what_may_be_thought_beside_an_answer_is_held_for(
    product: Product, booked: BookedUpstream, likes: str, fields: dict[str, Any], limit: str
) -> None:
    def answer(request: Request) -> Answer:
        asked = request.payload
        budgets = [asked.get("thinking_budget")]
        budgets += [
            holder.get(name)
            for holder, name in (
                (asked.get("thinking") or {}, "budget_tokens"),
                (asked.get("reasoning") or {}, "max_tokens"),
                (asked.get("chat_template_kwargs") or {}, "thinking_budget"),
            )
        ]
        thought = sum(filter(None, budgets))
        seen.append((thought, asked["max_tokens"]))
        return Answer(
            tokens=asked["max_tokens"],
            unseen_tokens=thought,
            obeys_max_tokens=False,
            model="m",
            framing="json",
        )

    seen: list[tuple[int, int]] = []
    before = Reservation.objects.count()
    booked.answer_to = answer
    tight = None if limit == "10.00" else make.budget(limit, tenant=make.tenant("tight"))
    key = product.key(of=tight.tenant) if tight is not None else likes
    status, said = ask(product, key, stream=False, model="likes/m", max_tokens=10, **fields)
    if status == 200:
        assert is_held_for(booked, before)
        assert seen == [(30_000, 10)] if tight is None else sum(seen[0]) < 20_000
    else:
        assert tight is not None, said


@compatible
@pytest.mark.parametrize("fields", THINKING)
@pytest.mark.parametrize(
    ("stream", "usage", "ends"),
    [
        (False, "none", None),
        (True, "no_output_no_total", None),
        (True, "none", 60),
    ],
    ids=["plain", "stream", "cut"],
)
def test_thinking_that_was_asked_for_and_is_not_shown_is_charged(
    product: Product,
    booked: BookedUpstream,
    likes: str,
    fields: dict[str, Any],
    stream: bool,
    usage: str,
    ends: int | None,
) -> None:
    before, held = ledger_nanos(), Reservation.objects.count()
    answer = Answer(tokens=80, unseen_tokens=30_000, obeys_max_tokens=False, usage=usage, model="m")
    booked.next(replace(answer, ends_after_tokens=ends, ends_by="close"))
    ask(product, likes, stream=stream, model="likes/m", max_tokens=100, **fields)
    assert is_held_for(booked, held)
    assert ledger_nanos() - before >= booked.books.spent_nanos > 0


@compatible
@pytest.mark.parametrize("fields", THINKING)
def test_thinking_that_was_asked_for_is_charged_when_the_client_leaves(
    product: Product, booked: BookedUpstream, likes: str, fields: dict[str, Any]
) -> None:
    before, held = ledger_nanos(), Reservation.objects.count()
    answer = Answer(tokens=400, unseen_tokens=30_000, obeys_max_tokens=False, usage="none", model="m")
    booked.next(replace(answer, pace=100))
    client = open_stream(product, likes, model="likes/m", max_tokens=1_000, **fields)
    client.recv(100)
    time.sleep(0.5)
    client.close()
    assert is_held_for(booked, held)
    assert ledger_nanos() - before >= booked.books.spent_nanos > 0


@compatible
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"enable_thinking": True}, "enable_thinking"),
        ({"enable_thinking": True, "thinking_budget": 0}, "enable_thinking"),
        ({"reasoning": {"effort": "high", "max_tokens": 0}}, "reasoning.effort"),
        ({"enable_thinking": "false"}, "enable_thinking"),
        ({"enable_thinking": 0}, "enable_thinking"),
        ({"thinking": {"type": "enabled"}}, "thinking.type"),
        ({"thinking": {"type": "disabled", "depth": 5}}, "thinking.depth"),
        ({"thinking": True}, "thinking"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"thinking_budget": "30000"}, "thinking_budget"),
        ({"thinking_budget": True}, "thinking_budget"),
        ({"thinking_budget": 3e4}, "thinking_budget"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning": {"enabled": True}}, "reasoning.enabled"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"thinking": True}}, "chat_template_kwargs.thinking"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
    ],
)
def test_a_wish_to_think_without_a_number_is_refused(
    product: Product, booked: BookedUpstream, likes: str, fields: dict[str, Any], named: str
) -> None:
    status, said = ask(product, likes, stream=False, model="likes/m", **fields)
    assert (status, json.loads(said)["param"]) == (400, named)
    assert booked.books.entries == []


@compatible
@pytest.mark.parametrize(
    "fields",
    [
        {"enable_thinking": False},
        {"thinking": {"type": "disabled"}},
        {"reasoning": {"effort": "none", "exclude": True}},
        {"chat_template_kwargs": {"enable_thinking": False, "custom": "x"}},
        {"reasoning_effort": "low"},
        {"thinking": None},
    ],
)
def test_a_wish_not_to_think_is_passed_on(
    product: Product, booked: BookedUpstream, likes: str, fields: dict[str, Any]
) -> None:
    booked.usual = Answer(tokens=2)
    assert ask(product, likes, stream=False, model="likes/m", **fields)[0] == 200


@pytest.mark.parametrize("field", ["reasoning_effort", "prompt_mode"])
@pytest.mark.parametrize("value", [[LONG], {"a": LONG}, 5, True])
def test_a_mode_is_a_word(product: Product, booked: BookedUpstream, key: str, field: str, value: Any) -> None:
    status, said = ask(product, key, stream=False, **{field: value})
    assert (status, json.loads(said)["param"]) == (400, field)
    assert booked.books.entries == []


@pytest.mark.parametrize(
    "item",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"role": "user", "content": [{"type": "image_url", "image_url": "https://example.com/a.png"}]},
        [{"role": "user", "content": [{"type": "document_url", "document_url": "https://example.com/a.pdf"}]}],
    ],
)
@pytest.mark.parametrize("path", ["/v1/moderations", "/v1/chat/moderations"])
def test_pictures_are_not_moderated(product: Product, booked: BookedUpstream, key: str, path: str, item: Any) -> None:
    response = product.post(path, key, model="mistral-moderation-latest", input=[item])
    assert (response.status_code, response.json()["code"]) == (400, "unbounded_input")
    assert booked.books.entries == []


# Nothing that a client sends is a failure of ours -------------------------------------------------------------

ODD = [None, True, False, 0, -1, 1.5, 10**30, "", "x", [], {}, [1], ["x"], [None], [[]], [{}], {"a": 1}]
ODD += [{"type": 1}, {"type": "x"}, {"type": ["x"]}, [{"type": {}}], nested(30), nested(300), {"a": nested(300)}]
SCHEMA_WORDS = ("type", "description", "properties", "items", "anyOf", "oneOf", "allOf", "$defs", "enum", "required")
UNREAD = ("metadata", "stop", "user", "logit_bias", "stream_options")
FIELDS = sorted(KNOWN["chat"] - {"stream"})


def in_message(role: str, /, **fields: Any) -> dict[str, Any]:
    needs = {"tool_call_id": "abcdefghi"} if role == "tool" else {}
    message = {"role": role, "content": "x"} | needs | fields
    return {"messages": [message, {"role": "user", "content": "x"}]}


def odd_requests() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{name: value} for name in FIELDS for value in ODD]
    names = "role content name tool_calls tool_call_id prefix audio refusal annotations function_call reasoning_content"
    for value in ODD:
        found += [in_message("assistant", **{name: value}) for name in f"{names} cache_control x".split()]
        found += [in_message(role, content=value) for role in ("system", "user", "tool")]
        found += [
            in_message("user", content=[{"type": kind, kind: value}])
            for kind in ("text", "image_url", "thinking", "reference", "refusal", "input_audio")
        ]
        found += [
            in_message(
                "user", content=[{"type": "image_url", "image_url": {"url": "https://example.com/a.png", name: value}}]
            )
            for name in ("url", "detail", "x")
        ]
        found += [in_message("user", content=[{"type": "text", "text": "x", "cache_control": value}])]
        call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        found += [in_message("assistant", tool_calls=[{**call, name: value}]) for name in (*call, "index", "x")]
        found += [
            in_message("assistant", tool_calls=[{**call, "function": {**call["function"], name: value}}])
            for name in ("name", "arguments", "x")
        ]
        function = {"name": "f", "description": "x", "parameters": {}}
        tool = {"type": "function", "function": function}
        found += [{"tools": [{**tool, name: value}]} for name in (*tool, "x", "cache_control")]
        found += [{"tools": [{**tool, "function": {**function, name: value}}]} for name in (*function, "strict", "x")]
        found += [{"tools": [tool], "tool_choice": {"type": "function", "function": {"name": value}}}]
        found += [{"tools": [tool], "tool_choice": {"type": "allowed_tools", "allowed_tools": value}}]
        found += [{"tools": [tool], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": value}}]
        found += [
            {"response_format": {"type": value}},
            {"response_format": {"type": "json_schema", "json_schema": value}},
        ]
        found += [{"response_format": {"type": "json_schema", "json_schema": {"schema": value}}}]
        found += [
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"minLength": 3, name: value}}}}
            for name in SCHEMA_WORDS
        ]
    for depth in (100, 200, 300, 900):
        lists = "[" * depth + "]" * depth
        found += [{"messages": called_with(lists)}, {"messages": called_with(f'{{"a":{lists}}}')}]
    return found


PROVIDERS: list[Provider] = [
    Mistral(api_base="http://localhost", api_key="k"),
    Anthropic(api_base="http://localhost", api_key="k"),
    OpenAICompatible(name="openai", api_base="http://localhost", api_key="k", native=True),
    OpenAICompatible(name="likes", api_base="http://localhost", api_key="k"),
]


@pytest.mark.parametrize("provider", PROVIDERS, ids=["mistral", "anthropic", "openai", "compatible"])
@pytest.mark.parametrize("model", ["m", "claude-sonnet-4-0"])
def test_whatever_a_request_holds_it_is_bounded_and_written_or_refused(provider: Provider, model: str) -> None:
    """What leaves is what was counted; nothing but a refusal comes of what cannot be."""
    written = 0
    for fields in odd_requests():
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 5} | fields)
        try:
            request = client_requests.parse(body.encode())
            estimate = provider.bound(request, bounds.chat(request.payload))
            left = provider.body(request, model=model, max_tokens=5 + estimate.tokens_beside, disabled_tools=())
        except (DialectError, UnboundedInput):
            continue
        written += 1
        unread = sum(len(json.dumps(fields[name])) for name in fields if name in UNREAD)
        assert estimate.input_tokens + unread + 400 >= len(left) // 2, body[:300]
    assert written > 100


@pytest.mark.parametrize("likes", ["openai_compatible", "anthropic"], indirect=True)
def test_no_request_is_a_failure_of_ours(product: Product, booked: BookedUpstream, likes: str) -> None:
    booked.usual = Answer(tokens=1)

    def status_of(call: tuple[str, dict[str, Any]]) -> tuple[int, str]:
        model, fields = call
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 5} | fields
        response = product.post("/v1/chat/completions", likes, **body)
        return response.status_code, response.text

    calls = [(model, fields) for fields in odd_requests()[::37] for model in ("likes/m", "mistral-small-latest")]
    with ThreadPoolExecutor(8) as pool:
        found = list(zip(calls, pool.map(status_of, calls), strict=True))
    bad = [(str(call)[:200], status, said[:200]) for call, (status, said) in found if status == 500]
    assert not bad, (len(bad), bad[:20])
    assert any(status == 200 for _, (status, _) in found)


@anthropic
@pytest.mark.parametrize("depth", [80, 300])
def test_the_depth_of_what_is_unpacked_is_bounded(
    product: Product, booked: BookedUpstream, likes: str, depth: int
) -> None:
    arguments = '{"a":' + "[" * depth + "]" * depth + "}"
    status, said = ask(product, likes, stream=False, model="likes/m", messages=called_with(arguments))
    assert (status, json.loads(said)["code"]) == (400, "out_of_bounds")
    assert "64 levels" in json.loads(said)["message"]


def test_the_depth_of_a_body_is_bounded(product: Product, booked: BookedUpstream, key: str) -> None:
    status, said = ask(product, key, stream=False, metadata={"a": nested(300)})
    assert (status, json.loads(said)["code"]) == (400, "out_of_bounds")
    assert "64 levels" in json.loads(said)["message"]


@anthropic
def test_what_breaks_the_count_at_one_provider_breaks_no_other_call(
    product: Product, booked: BookedUpstream, likes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise TypeError("a defect")

    booked.usual = Answer(tokens=2)
    monkeypatch.setattr(Anthropic, "bound", fail)
    with ThreadPoolExecutor(12) as pool:
        models = ["likes/m", "mistral-small-latest"] * 12
        found = pool.map(lambda model: (model, ask(product, likes, stream=False, model=model)[0]), models)
        assert set(found) == {("likes/m", 400), ("mistral-small-latest", 200)}


@compatible
def test_what_only_one_provider_is_sent_is_refused_where_it_has_no_bound(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    booked.usual = Answer(tokens=2)
    status, said = ask(product, likes, stream=False, model="likes/m", **in_message("assistant", audio="y"))
    assert (status, json.loads(said)["param"]) == (400, "messages.0.audio")
    assert booked.books.entries == []


@pytest.mark.parametrize("kind", ["application/json; x=\u20ac", "multipart/form-data; boundary=\u20ac", "\u20ac"])
@pytest.mark.parametrize(("path", "status"), [("chat/completions", 200), ("audio/transcriptions", 400)])
def test_a_content_type_in_any_letters_is_read_or_refused(
    product: Product, booked: BookedUpstream, key: str, kind: str, path: str, status: int
) -> None:
    booked.usual = Answer(tokens=2)
    body = {"model": MODELS["mistral"], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    for more in ({}, {"idempotency-key": "k"}):
        headers = {"authorization": f"Bearer {key}", "content-type": kind.encode(), **more}
        answer = httpx.post(f"{product.url}/v1/{path}", content=json.dumps(body), headers=headers, timeout=30)
        assert answer.status_code == status, answer.text
        assert status == 200 or answer.json()["code"] == "invalid_content_type"
