"""Answers in shapes that clients cannot read: put right where that invents nothing, else a 502; the money is the same.

What comes is read by the types of two clients, Mistral's and OpenAI's, and as strictly as they can be.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest
from mistralai.client.models import ChatCompletionResponse, CompletionChunk, EmbeddingResponse, ModerationResponse
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import SpendEntry
from llm.rules.tool_calls import MISTRALS_IDS
from tests import factories as make
from tests.llm.gateway.test_against_books import ask, holds_by_the_books
from tests.llm.gateway.test_odd_answers import (
    CLOSES,
    DIGITS,
    DONE,
    anthropic,
    block,
    charged_since,
    compatible,
    event,
    grown,
    plain,
)
from tests.product import Product

USED = {"prompt_tokens": 14, "completion_tokens": 2, "total_tokens": 16}
COST = 14 * 150 + 2 * 600
HI = {"role": "assistant", "content": "Hi"}


@pytest.fixture
def key(product: Product) -> str:
    make.budget("10.00")
    return product.key()


def whole(choice: Any = None, **over: Any) -> dict[str, Any]:
    """An answer as it should be, but for what is said otherwise."""
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "mistral-small-2603", "usage": USED}
    return body | {"choices": [{"index": 0, "finish_reason": "stop", **(choice or {"message": HI})}]} | over


def calling(*calls: Any) -> dict[str, Any]:
    return whole({"message": {"role": "assistant", "content": "", "tool_calls": list(calls)}})


def read(said: str) -> ChatCompletion:
    """What both clients make of an answer."""
    ChatCompletionResponse.model_validate_json(said)
    return ChatCompletion.model_validate_json(said)


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"message": {"content": "Hi"}}, "Hi"),
        ({"message": {"role": None, "content": "Hi"}}, "Hi"),
        ({"message": {"role": "model", "content": "Hi"}}, "Hi"),
        ({"message": "Hi"}, "Hi"),
        ({"message": None}, ""),
        ({"delta": HI}, "Hi"),
        ({"delta": "Hi"}, "Hi"),
        ({"text": "Hi"}, "Hi"),
        ({"message": {"role": "assistant", "content": 5}}, "5"),
        ({"message": HI, "finish_reason": None}, "Hi"),
        ({"message": HI, "index": None}, "Hi"),
    ],
)
def test_a_message_is_one_wherever_it_is_said(
    product: Product, booked: BookedUpstream, key: str, choice: dict[str, Any], text: str
) -> None:
    booked.usual = plain(whole(choice))
    status, said = ask(product, key, stream=False)
    answer = read(said).choices[0]
    assert (status, answer.message.content, answer.finish_reason, answer.index) == (200, text, "stop", 0)
    assert SpendEntry.objects.get().cost_nanos == COST


F = {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ({"function": F}, "{}"),
        ({"id": None, "type": None, "function": F}, "{}"),
        ({"id": "", "index": "0", "function": F}, "{}"),
        ({"id": "null", "function": F}, "{}"),
        ({"function": {"name": "f", "arguments": {"a": [1]}}}, '{"a":[1]}'),
        ({"function": {"name": "f", "arguments": None}}, "{}"),
        ({"function": {"name": "f"}}, "{}"),
        ({"function": {"name": "f", "arguments": ""}}, "{}"),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_call_of_a_tool_has_an_id_and_its_arguments_as_a_text(
    product: Product, booked: BookedUpstream, key: str, call: dict[str, Any], arguments: str, listed: bool
) -> None:
    message = {"role": "assistant", "content": "", "tool_calls": [call, call] if listed else call}
    booked.usual = plain(whole({"message": message, "finish_reason": None}))
    answer = read(ask(product, key, stream=False)[1]).choices[0]
    calls = answer.message.tool_calls or []
    assert [(each.type, each.function.name, each.function.arguments) for each in calls] == [  # type: ignore[union-attr]
        ("function", "f", arguments)
    ] * (2 if listed else 1)
    assert all(MISTRALS_IDS.fullmatch(each.id) for each in calls)
    assert len({each.id for each in calls}) == len(calls)
    assert answer.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "call",
    [
        {"id": "abcdefghi", "type": "function", "function": None},
        {"id": "abcdefghi", "function": "f"},
        {"id": "abcdefghi", "function": {"name": None, "arguments": DIGITS}},
        None,
        DIGITS,
    ],
)
def test_a_call_of_nothing_is_none_and_paid_for(product: Product, booked: BookedUpstream, key: str, call: Any) -> None:
    body = calling(call, {"id": "abcdefghi", "type": "function", "function": F})
    booked.usual = Answer(script=plain(body | {"usage": None}).script, tokens=401 if DIGITS in json.dumps(call) else 1)
    calls = read(ask(product, key, stream=False)[1]).choices[0].message.tool_calls or []
    assert [each.id for each in calls] == ["abcdefghi"]
    assert holds_by_the_books(booked)


@pytest.mark.parametrize("said", [None, [14, 2], "16", {}, {"prompt_tokens": 14}, {**USED, "completion_tokens": "2"}])
def test_a_usage_that_clients_cannot_read_is_what_is_charged(
    product: Product, booked: BookedUpstream, key: str, said: Any
) -> None:
    booked.usual = plain(whole(usage=said))
    told = read(ask(product, key, stream=False)[1]).usage
    row = SpendEntry.objects.get()
    assert told is not None
    assert (told.prompt_tokens, told.completion_tokens) == (row.input_tokens, row.output_tokens)
    assert told.total_tokens == row.input_tokens + row.output_tokens


@pytest.mark.parametrize("choices", [None, {"index": 0, "message": HI}, "Hi", [None], ["Hi"], 5, DIGITS])
@pytest.mark.parametrize("usage", [USED, None], ids=["used", "untold"])
@compatible
def test_what_is_no_answer_is_a_502_and_costs_what_it_says_or_shows(
    product: Product, booked: BookedUpstream, likes: str, choices: Any, usage: Any
) -> None:
    tokens = len(DIGITS) if choices == DIGITS else 2
    body = whole(choices=choices, usage=usage and usage | {"completion_tokens": tokens}, model="m")
    booked.usual = Answer(script=plain(body).script, tokens=tokens)
    before = sum(row.cost_nanos for row in SpendEntry.objects.all())
    response = product.chat(likes, model="likes/m", max_tokens=500)
    assert (response.status_code, response.json()["code"]) == (502, "upstream_garbage")
    assert response.json()["message"] == "The model's API sent no answer that could be read."
    charged = sum(row.cost_nanos for row in SpendEntry.objects.all()) - before
    if usage:
        assert charged == 14 * 150 + tokens * 600
    else:
        assert charged >= booked.books.spent_nanos
        assert SpendEntry.objects.latest("recorded_at").certainty == "estimated"


@pytest.mark.parametrize("data", [None, {}, "x", [None]])
def test_nor_is_an_answer_of_another_route_without_what_it_is_asked_for(
    product: Product, booked: BookedUpstream, key: str, data: Any
) -> None:
    used = {"prompt_tokens": 2, "total_tokens": 2}
    booked.usual = plain({"id": "e", "object": "list", "model": "mistral-embed", "data": data, "usage": used})
    response = product.post("/v1/embeddings", key, model="mistral-embed", input="Hi")
    assert (response.status_code, response.json()["code"]) == (502, "upstream_garbage")
    assert {row.input_tokens for row in SpendEntry.objects.all()} == {2}


@pytest.mark.parametrize("usage", [None, [2], {"prompt_tokens": 2}])
def test_embeddings_say_what_they_used(product: Product, booked: BookedUpstream, key: str, usage: Any) -> None:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
    booked.usual = plain({"id": "e", "object": "list", "model": "mistral-embed", "data": data, "usage": usage})
    response = product.post("/v1/embeddings", key, model="mistral-embed", input="Hi")
    EmbeddingResponse.model_validate_json(response.text)
    told = CreateEmbeddingResponse.model_validate_json(response.text).usage
    assert told.prompt_tokens == told.total_tokens == SpendEntry.objects.get().input_tokens


@pytest.mark.parametrize("texts", [1, 200])
@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 2, "total_tokens": 2}])
def test_embeddings_as_openai_says_them_are_read_by_mistrals_client_however_many_there_are(
    product: Product, booked: BookedUpstream, key: str, texts: int, usage: Any
) -> None:
    """OpenAI's have no id."""
    vector = [0.001 * index for index in range(300)]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(texts)]
    booked.usual = plain({"object": "list", "data": data, "model": "mistral-embed", "usage": usage, "id": None})
    response = product.post("/v1/embeddings", key, model="mistral-embed", input=["Hi"] * texts)
    read = EmbeddingResponse.model_validate_json(response.text)
    assert [one.embedding for one in read.data] == [vector] * texts
    assert read.usage.total_tokens == SpendEntry.objects.get().input_tokens
    assert read.id == response.headers["x-request-id"]


@pytest.mark.parametrize("texts", [3, 200])
def test_vectors_that_are_none_stay_in_their_places(
    product: Product, booked: BookedUpstream, key: str, texts: int
) -> None:
    vector = [0.001 * index for index in range(300)]
    data: list[Any] = [{"object": "embedding", "index": index, "embedding": vector} for index in range(texts)]
    data[1] = None
    used = {"prompt_tokens": 2, "total_tokens": 2}
    booked.usual = plain({"object": "list", "data": data, "model": "mistral-embed", "usage": used})
    response = product.post("/v1/embeddings", key, model="mistral-embed", input=["Hi"] * texts)
    read = EmbeddingResponse.model_validate_json(response.text)
    assert [one.embedding for one in read.data] == [vector, [], *[vector] * (texts - 2)]
    assert SpendEntry.objects.get().input_tokens == 2


def test_vectors_say_which_they_are(product: Product, booked: BookedUpstream, key: str) -> None:
    used = {"prompt_tokens": 2, "total_tokens": 2}
    vector = [0.001 * index for index in range(300)]
    data = [{"embedding": vector}, {"object": "embedding", "embedding": vector}, {"embedding": True}]
    booked.usual = plain({"object": "list", "data": data, "model": "mistral-embed", "usage": used})
    response = product.post("/v1/embeddings", key, model="mistral-embed", input=["Hi"] * 3)
    read = CreateEmbeddingResponse.model_validate_json(response.text)
    assert [(one.object, one.index, one.embedding) for one in read.data] == [
        ("embedding", 0, vector),
        ("embedding", 1, vector),
        ("embedding", 2, []),
    ]


def test_judgements_that_are_none_stay_in_their_places(product: Product, booked: BookedUpstream, key: str) -> None:
    judged = {"categories": {"pii": True, "violence": None}, "category_scores": {"pii": 0.9, "violence": None}}
    used = {"prompt_tokens": 2, "total_tokens": 2}
    booked.usual = plain({"id": "e", "model": "mistral-moderation-2603", "results": [None, judged], "usage": used})
    response = product.post("/v1/moderations", key, model="mistral-moderation-latest", input=["Hi", "You"])
    read = ModerationResponse.model_validate_json(response.text)
    assert [(one.categories, one.category_scores) for one in read.results] == [
        (None, None),
        ({"pii": True}, {"pii": 0.9}),
    ]


LOGPROBS = {"content": [{"token": "a", "logprob": -math.inf, "bytes": None, "top_logprobs": []}]}


def no_number(constant: str) -> None:
    raise AssertionError(constant)


def test_numbers_that_json_has_not_are_null(product: Product, booked: BookedUpstream, key: str) -> None:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "1"},
        "logprobs": LOGPROBS,
    }
    booked.usual = plain(whole(choices=[choice], usage=USED))
    said = json.loads(product.chat(key, model="mistral-small-latest").content, parse_constant=no_number)
    assert said["choices"][0]["logprobs"]["content"][0]["logprob"] is None


# Streams ---------------------------------------------------------------------------------------------------


def chunk(delta: Any, finish: Any = None, index: Any = 0, **over: Any) -> bytes:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mistral-small-2603"}
    return event(head | {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]} | over)


def chunks_in(said: str) -> list[ChatCompletionChunk]:
    """The chunks of a stream that ends as it should; both clients read each of its events."""
    assert said.endswith("data: [DONE]\n\n")
    assert said.count("[DONE]") == 1
    datas = [line.removeprefix("data: ") for line in said.splitlines() if line.startswith("data: {")]
    assert len(datas) + 1 == sum(line.startswith("data:") for line in said.splitlines())
    for data in datas:
        CompletionChunk.model_validate_json(data)
    return [ChatCompletionChunk.model_validate_json(data) for data in datas]


def streamed(product: Product, booked: BookedUpstream, key: str, *events: bytes) -> list[ChatCompletionChunk]:
    booked.usual = Answer(script=[CLOSES + b"".join(events), "close"], tokens=1)
    status, said = ask(product, key, stream=True)
    assert status == 200
    assert holds_by_the_books(booked)
    return chunks_in(said)


ENDS = chunk({"content": ""}, "stop", usage=USED)
START, STOP = (
    event({"type": f"message_{kind}", "message": {"id": "m"}}, f"message_{kind}") for kind in ("start", "stop")
)


def test_so_they_are_in_a_stream(product: Product, booked: BookedUpstream, key: str) -> None:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mistral-small-2603"}
    choice = {"index": 0, "finish_reason": None, "delta": {"content": "1"}, "logprobs": LOGPROBS}
    odd, usual = event(head | {"choices": [choice]}), chunk({"content": ""}, None, x=1.50)
    booked.usual = Answer(script=[CLOSES + odd + usual + ENDS, "close"], tokens=1)
    said = ask(product, key, stream=True)[1]
    found = [json.loads(line[6:], parse_constant=no_number) for line in said.splitlines() if line[:7] == "data: {"]
    assert found[0]["choices"][0]["logprobs"]["content"][0]["logprob"] is None
    assert usual.decode() in said


@pytest.mark.parametrize(
    "odd",
    [
        event({}),
        event({"type": "ping"}, "ping"),
        START,
        STOP,
        event(None),
        event([1]),
        b"data: {no JSON\n\n",
        event({"choices": {"index": 0, "delta": {"content": "x"}}}),
        event({"choices": "x"}),
        event({"id": "c", "choices": [None]}),
    ],
)
def test_what_is_no_chunk_says_that_the_stream_lives(
    product: Product, booked: BookedUpstream, key: str, odd: bytes
) -> None:
    chunks = streamed(product, booked, key, odd, chunk({"content": "Hi"}), odd, ENDS, odd, DONE)
    assert "".join(choice.delta.content or "" for each in chunks for choice in each.choices) == "Hi"
    assert [choice.finish_reason for each in chunks for choice in each.choices] == [None, "stop"]


def test_such_an_event_leaves_the_last_usage_its_cost(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.usual = Answer(script=[CLOSES + chunk({"content": "Hi"}) + ENDS + event({}) + DONE, "close"], tokens=1)
    said = ask(product, key, stream=True)[1]
    assert f'"cost_usd":"{COST / 10**9:.7f}' in said
    assert SpendEntry.objects.get().certainty == "confirmed"


@pytest.mark.parametrize(
    ("delta", "text"),
    [({"content": "Hi"}, "Hi"), ("Hi", "Hi"), (None, ""), ({"role": 5, "content": "Hi"}, "Hi"), ({"content": 5}, "5")],
)
@pytest.mark.parametrize("finish", ["stop", 1])
def test_a_part_is_one_however_it_is_said(
    product: Product, booked: BookedUpstream, key: str, delta: Any, text: str, finish: Any
) -> None:
    chunks = streamed(product, booked, key, chunk(delta, index=None), chunk(None, finish), DONE)
    assert "".join(choice.delta.content or "" for each in chunks for choice in each.choices) == text
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_part_of_a_completion_is_one_of_a_chat(product: Product, booked: BookedUpstream, key: str) -> None:
    parts = [event({"model": "mistral-small-2603", "choices": [{"text": text}]}) for text in ("H", "i")]
    chunks = streamed(product, booked, key, *parts, ENDS, DONE)
    assert "".join(choice.delta.content or "" for each in chunks for choice in each.choices) == "Hi"


@pytest.mark.parametrize(
    ("said", "end"),
    [
        ([chunk({"content": "Hi"})], "stop"),
        ([chunk({"content": "Hi"}), event({"model": "mistral-small-2603", "choices": [], "usage": USED})], "stop"),
        ([chunk({"content": "Hi"}), event({"model": "mistral-small-2603", "choices": None, "usage": USED})], "stop"),
        ([chunk({"tool_calls": [{"id": "abcdefghi", "index": 0, "function": F}]})], "tool_calls"),
        ([], "stop"),
    ],
    ids=["text", "usage", "usage without choices", "calls", "nothing"],
)
def test_a_stream_that_is_over_says_so(
    product: Product, booked: BookedUpstream, key: str, said: list[bytes], end: str
) -> None:
    chunks = streamed(product, booked, key, *said, DONE)
    assert chunks[-1].choices[0].finish_reason == end
    assert sum(choice.finish_reason is not None for each in chunks for choice in each.choices) == 1
    if len(said) == 2:
        assert (SpendEntry.objects.get().certainty, SpendEntry.objects.get().cost_nanos) == ("confirmed", COST)


def test_of_several_answers_those_that_are_open_end(product: Product, booked: BookedUpstream, key: str) -> None:
    said = CLOSES + chunk({"content": "1"}) + chunk({"content": "2"}, index=1) + chunk({}, "length", index=1) + DONE
    booked.usual = Answer(script=[said, "close"], tokens=1)
    chunks = chunks_in(ask(product, key, stream=True, n=2)[1])
    ends = [(choice.index, choice.finish_reason) for each in chunks for choice in each.choices if choice.finish_reason]
    assert ends == [(1, "length"), (0, "stop")]


@pytest.mark.parametrize("usage", [[14, 2], "16", {**USED, "completion_tokens": 2.5}, {"prompt_tokens": None}])
def test_a_usage_that_no_client_reads_is_none_or_what_was_read(
    product: Product, booked: BookedUpstream, key: str, usage: Any
) -> None:
    chunks = streamed(product, booked, key, chunk({"content": "Hi"}), chunk({}, "stop", usage=usage), DONE)
    row = SpendEntry.objects.get()
    if (told := chunks[-1].usage) is not None:
        assert (told.prompt_tokens, told.completion_tokens) == (row.input_tokens, row.output_tokens)


@pytest.mark.parametrize(
    "part",
    [
        {"function": F},
        {"id": None, "index": None, "function": {"name": "f", "arguments": {}}},
        {"id": "null", "function": {"name": "f", "arguments": "{}"}},
    ],
)
def test_a_call_in_a_stream_has_an_id_and_a_number(
    product: Product, booked: BookedUpstream, key: str, part: dict[str, Any]
) -> None:
    chunks = streamed(product, booked, key, chunk({"tool_calls": [part, part, None]}), chunk({}, "tool_calls"), DONE)
    calls = [call for each in chunks for choice in each.choices for call in choice.delta.tool_calls or []]
    assert [(call.index, call.function and call.function.name) for call in calls] == [(0, "f"), (1, "f")]
    assert len({call.id for call in calls if MISTRALS_IDS.fullmatch(call.id or "")}) == 2
    assert all(json.loads(call.function.arguments or "") == {} for call in calls if call.function)


def test_a_part_of_a_call_that_says_nothing_stays_a_part(product: Product, booked: BookedUpstream, key: str) -> None:
    parts = [{"index": 0, "id": "abcdefghi", "function": None}, {"index": 0, "function": F}]
    said = [chunk({"tool_calls": [part]}) for part in parts]
    chunks = streamed(product, booked, key, said[0], chunk({}, "tool_calls"), DONE)
    [call] = [call for each in chunks for choice in each.choices for call in choice.delta.tool_calls or []]
    assert (call.id, call.function and call.function.arguments) == ("abcdefghi", "")


@anthropic
@pytest.mark.parametrize(
    "events",
    [
        START + block(0, {"type": "text", "text": ""}) + grown(0, {"type": "text_delta", "text": "1"}) + STOP,
        START + STOP,
        event({"type": "message_start"}) + event({}) + STOP,
    ],
)
def test_a_message_that_counts_nothing_is_a_stream_and_paid_for(
    product: Product, booked: BookedUpstream, likes: str, events: bytes
) -> None:
    booked.usual = Answer(script=[CLOSES + events, "close"], tokens=1)
    chunks = chunks_in(ask(product, likes, stream=True, model="likes/m")[1])
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert SpendEntry.objects.latest("recorded_at").certainty == "estimated"


# The log ---------------------------------------------------------------------------------------------------

MALFORMED = event({"type": "message_start", "message": "m"}) + grown(0, DIGITS) * 3


@anthropic
@pytest.mark.parametrize("status", [200, 500])
def test_malformed_events_are_a_line_that_says_whose_they_are(
    product: Product, booked: BookedUpstream, likes: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    head = CLOSES.replace(b"200 OK", b"%d Said" % status)
    said = START + grown(0, {"type": "text_delta", "text": "1"}) + MALFORMED + STOP
    with caplog.at_level(logging.WARNING):
        charged = charged_since(product, booked, likes, Answer(script=[head + said, "close"], tokens=401))
    assert charged >= booked.books.spent_nanos
    [line] = [record for record in caplog.records if "translated" in record.getMessage()]
    assert (line.levelname, line.exc_info) == ("WARNING", None)
    assert "an event of likes cannot be translated: AttributeError" in line.getMessage()
    assert str(SpendEntry.objects.latest("recorded_at").request_id) in line.getMessage()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR and record.exc_info]
