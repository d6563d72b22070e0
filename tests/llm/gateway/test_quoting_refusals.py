"""Refusals that quote what was asked or written, and errors in a 200 with text beside them: what they cost, and whom.

What stands in a refusal's texts is decided by whoever asks, or has a model write. It is nobody's usage, lowers no
charge, and makes no model dear for others.
"""

from __future__ import annotations

import html
import json
import time
from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import Alert, Overrun, SpendEntry
from tests import factories as make
from tests.llm.gateway.test_against_books import ask, ledger_nanos
from tests.llm.gateway.test_beyond_bounds import body, costs_its_hold
from tests.llm.gateway.test_chat import nothing_is_held
from tests.llm.gateway.test_odd_answers import CHUNKED, CLOSES, DONE, chunked, event, text
from tests.product import Product, eventually

WORDS = "word " * 300
ERROR = {"code": 400, "message": "invalid request: bad field", "type": "invalid_request_error"}
# Beyond what any call has.
CLAIM = '{"usage":{"prompt_tokens":9,"completion_tokens":9999999},"output":"' + WORDS + '"}'
CALLED = {"id": "abcdefghi", "type": "function", "function": {"name": CLAIM, "arguments": "{}"}}
HISTORY = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "", "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": "abcdefghi", "name": "f", "content": "x"},
]
MUST_BE = f"Function name was {CLAIM} but must be a-z, A-Z, 0-9, or contain underscores and dashes"
FLAGGED = {"message": "Your input was flagged", "code": 403, "metadata": {"flagged_input": CLAIM[:100]}}
MISTAKE = {"type": "value_error", "loc": ["body", "messages", 0], "msg": f"Value error, {CLAIM}", "input": CLAIM}
QUOTING: dict[str, tuple[int, Any]] = {
    "a function's name": (400, {"object": "error", "message": MUST_BE, "type": "invalid_request_error"}),
    "an input": (403, {"error": FLAGGED}),
    "an input in a 200": (200, {"error": FLAGGED}),
    "a mistake": (422, {"detail": [MISTAKE]}),
    "a message": (400, {"error": {"message": "no role"}, "message": HISTORY[0]}),
}


@pytest.fixture
def key(product: Product) -> str:
    make.budget("0.05")
    return product.key()


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("status", "said"), QUOTING.values(), ids=QUOTING)
def test_a_refusal_that_quotes_its_request_costs_nothing_and_tells_nothing_of_its_model(
    product: Product, booked: BookedUpstream, key: str, status: int, said: Any, streams: bool
) -> None:
    booked.usual = Answer(tokens=0, billed=False, script=body(json.dumps(said).encode(), status=status))
    ask(product, key, stream=streams, max_tokens=20, messages=HISTORY)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() == 0
    assert not Overrun.objects.exists()
    assert not Alert.objects.filter(kind__in=["usage_implausible", "model_overrun"]).exists()


@pytest.mark.parametrize("likes", ["anthropic", "openai_compatible"], indirect=True)
def test_nor_does_one_of_another_dialect(product: Product, booked: BookedUpstream, likes: str) -> None:
    before = ledger_nanos()
    said = {"type": "error", "error": {"type": "invalid_request_error", "message": f"tools.0: {CLAIM} must match"}}
    booked.usual = Answer(tokens=0, billed=False, script=body(json.dumps(said).encode(), status=400))
    question = [{"role": "user", "content": CLAIM}]
    status, told = ask(product, likes, stream=False, model="likes/m", max_tokens=20, messages=question)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert (status, ledger_nanos()) == (400, before)
    assert json.loads(told)["error"]["message"] == said["error"]["message"]
    assert not Overrun.objects.exists()


def wrote(tokens: int) -> str:
    """What a model was told to write: it begins with a usage."""
    return f'{{"usage":{{"prompt_tokens":4,"completion_tokens":{tokens}}}}} ' + WORDS


WROTE = {"index": 0, "message": {"role": "assistant", "content": WORDS}, "finish_reason": "stop"}
ANSWER = json.dumps({"id": "c-1", "choices": [WROTE], "usage": {"prompt_tokens": 14, "completion_tokens": 300}})
A_CLASS = f"choices=[Choice(finish_reason='stop', message=ChatCompletionMessage(content='{WORDS}', role='assistant'))]"
RAW = {"message": f"error parsing tool call: raw='{wrote(8)}', err=invalid character", "type": "api_error"}
WRITTEN: dict[str, tuple[int, Any]] = {
    "Ollama's": (500, {"error": RAW}),
    "in a 200": (200, {"error": RAW}),
    "TGI's": (424, {"error": f"Request failed during generation: {wrote(8)}", "error_type": "generation"}),
    "vLLM's": (400, {"object": "error", "message": f"Could not parse the model output: {wrote(8)}", "code": 400}),
    "Groq's": (400, {"error": {"message": f"no: {wrote(8)}", "failed_generation": wrote(8)}}),
    "beyond all measure": (400, {"error": {"message": f"Tool calls: {wrote(9_999_999)}"}}),
    "as HTML": (400, {"error": {"message": f"bad: {html.escape(ANSWER)}"}}),
    "as Ruby": (400, {"error": {"message": f"bad: {ANSWER}".replace('": ', '"=>')}}),
    "as a class": (400, {"error": {"message": f"bad: ChatCompletion(id='c-1', {A_CLASS})"}}),
    "as a class in a 200": (200, {"error": {**ERROR, "message": f"bad: ChatCompletion(id='c-1', {A_CLASS})"}}),
    "a count": (400, {"error": {"message": "no"}, "meta": {"billed_units": {"output_tokens": 300}}}),
    "only JSON": (400, {"error": {"message": "no", "metadata": {"raw": '{"choices": [{"message": "Hi"}]}'}}}),
}


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("status", "said"), WRITTEN.values(), ids=WRITTEN)
def test_a_refusal_that_quotes_what_was_written_costs_its_hold(
    product: Product, booked: BookedUpstream, key: str, status: int, said: Any, streams: bool
) -> None:
    booked.next(Answer(tokens=300, billed=True, script=body(json.dumps(said).encode(), status=status)))
    ask(product, key, stream=streams, max_tokens=500)
    assert costs_its_hold(booked)


REPEATED: dict[str, tuple[str, int, Any]] = {
    "a part": (WORDS, 200, {"error": {"code": 429, "message": "rate limit exceeded"}, "partial": WORDS}),
    "a content": (WORDS, 400, {"error": {"message": "no", "content": WORDS}}),
    # Of what is cut behind all but the id can be foretold.
    "a cut answer": (ANSWER[len('{"id": "c-1", ') : -1], 400, {"error": {"message": f"Not to be used: {ANSWER[:-1]}"}}),
}


@pytest.mark.parametrize(("text", "status", "said"), REPEATED.values(), ids=REPEATED)
def test_what_a_request_asks_to_be_repeated_is_written_all_the_same(
    product: Product, booked: BookedUpstream, key: str, text: str, status: int, said: Any
) -> None:
    booked.next(Answer(tokens=300, billed=True, script=body(json.dumps(said).encode(), status=status)))
    messages = [{"role": "user", "content": f"Repeat: {text}"}]
    ask(product, key, stream=False, max_tokens=500, messages=messages)
    assert costs_its_hold(booked)


BESIDE: dict[str, Any] = {
    "a message": {"message": {"role": "assistant", "content": WORDS}},
    "a content": {"content": [{"type": "text", "text": WORDS}]},
    "a response": {"result": {"response": WORDS}},
    "a choice": {"choice": {"message": {"content": WORDS}}},
    "choices by their names": {"choices": {"0": {"message": {"content": WORDS}}}},
    "a call": {"tool_calls": [{"function": {"name": "f", "arguments": WORDS}}]},
    "in the error": {"error": {**ERROR, "partial": WORDS}},
    "a little usage": {"text": WORDS * 2, "usage": {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5}},
}
NOWHERE_KNOWN = {"found": {"here": [WORDS]}}


@pytest.mark.parametrize("how", ["plain", "stream", "400"])
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_text_beside_an_error_costs_its_hold(
    product: Product, booked: BookedUpstream, key: str, beside: Any, how: str
) -> None:
    data = json.dumps({"error": ERROR, **beside}).encode()
    booked.next(Answer(tokens=300, billed=True, script=body(data, status=400 if how == "400" else 200)))
    ask(product, key, stream=how == "stream", max_tokens=400)
    assert costs_its_hold(booked)


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_in_a_200_it_does_in_whatever_place(product: Product, booked: BookedUpstream, key: str, streams: bool) -> None:
    booked.next(Answer(tokens=300, script=body(json.dumps({"error": ERROR, **NOWHERE_KNOWN}).encode())))
    ask(product, key, stream=streams, max_tokens=400)
    assert costs_its_hold(booked)


FAILED = event({"error": ERROR})
BUSY = event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
USED = {"prompt_tokens": 14, "completion_tokens": 300, "total_tokens": 314}
GREW = event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": WORDS}})
BEGUN = event({"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 4, "output_tokens": 1}}})
SPOKE = event({"type": "response.output_text.delta", "delta": WORDS})
LITTLE = event({"usage": {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}})
EVENTS: dict[str, bytes] = {
    "the Responses API's": SPOKE + FAILED,
    "Anthropic's": GREW + BUSY,
    "after a usage": BEGUN + GREW + FAILED,
    "after another": LITTLE + event({"text": WORDS}) + FAILED,
    "Cohere's": event({"event_type": "text-generation", "text": WORDS}) + FAILED,
    "Ollama's": event({"message": {"role": "assistant", "content": WORDS}}) + FAILED,
    "raw": b"data: " + WORDS.encode() + b"\n\n" + FAILED,
    "a comment": b": " + WORDS.encode() + b"\n\n" + FAILED,
    "behind the error": FAILED + SPOKE,
    "half of it behind the error": FAILED + SPOKE[:-9],
    "with less usage than it is": SPOKE * 4 + LITTLE + FAILED,
}


@pytest.mark.parametrize("how", ["plain", "stream", "400"])
@pytest.mark.parametrize("events", EVENTS.values(), ids=EVENTS)
def test_text_before_an_error_costs_its_hold_whoever_asked_for_events(
    product: Product, booked: BookedUpstream, key: str, events: bytes, how: str
) -> None:
    head = CLOSES.replace(b"200 OK", b"400 No") if how == "400" else CLOSES
    booked.next(Answer(tokens=300, billed=True, script=[head + events, "close"]))
    ask(product, key, stream=how == "stream", max_tokens=400)
    assert costs_its_hold(booked)


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    "events",
    [
        SPOKE + event({"usage": USED}) + FAILED,
        SPOKE + event({"error": ERROR, "usage": USED}),
        FAILED + text(WORDS) + text("", "stop", usage=USED) + DONE,
    ],
)
def test_a_usage_that_covers_the_text_before_it_is_believed(
    product: Product, booked: BookedUpstream, key: str, events: bytes, streams: bool
) -> None:
    booked.next(Answer(tokens=300, billed=True, script=[CLOSES + events, "close"]))
    ask(product, key, stream=streams, max_tokens=400)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert (ledger_nanos(), SpendEntry.objects.get().certainty) == (booked.books.spent_nanos, "confirmed")


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("events", [FAILED, FAILED + DONE, b": wait\n\n" + FAILED, event({"type": "ping"}) + FAILED])
def test_an_error_alone_costs_nothing(
    product: Product, booked: BookedUpstream, key: str, events: bytes, streams: bool
) -> None:
    booked.next(Answer(tokens=0, billed=False, script=[CLOSES + events, "close"]))
    ask(product, key, stream=streams, max_tokens=400)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() == 0


STARTED = event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
STOPPED = event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 300}})
SEARCHED = {"type": "content_block_start", "index": 0, "content_block": {"type": "found", "said": WORDS}}
LATER: dict[str, tuple[str, bytes]] = {
    "a text": ("openai_compatible", text(WORDS, model="m")),
    "an answer": ("openai_compatible", text(WORDS, model="m") + text("", "stop", model="m", usage=USED) + DONE),
    "another's text": ("openai_compatible", SPOKE),
    "a text of Anthropic's": ("anthropic", BEGUN + STARTED + GREW),
    "an answer of Anthropic's": (
        "anthropic",
        BEGUN.replace(b": 4,", b": 14,") + STARTED + GREW + STOPPED + event({"type": "message_stop"}),
    ),
    "what has no place in a chat": ("anthropic", event(SEARCHED)),
    "what cannot be translated": ("anthropic", event({"type": "content_block_delta", "delta": WORDS})),
}


@pytest.mark.parametrize("pause_s", [0.0, 0.2])
@pytest.mark.parametrize(("likes", "behind"), LATER.values(), ids=LATER, indirect=["likes"])
def test_what_comes_later_behind_a_first_error_counts(
    product: Product, booked: BookedUpstream, likes: str, behind: bytes, pause_s: float
) -> None:
    before = ledger_nanos()
    booked.next(Answer(tokens=300, billed=True, script=[CLOSES + FAILED, 0.002, pause_s, behind, "close"]))
    ask(product, likes, stream=True, model="likes/m", max_tokens=400)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() - before >= booked.books.spent_nanos > 0
    assert not Overrun.objects.exists()


def test_so_does_an_answer_of_mistral_s(product: Product, booked: BookedUpstream, key: str) -> None:
    behind = text(WORDS) + text("", "stop", usage=USED) + DONE
    booked.next(Answer(tokens=300, billed=True, script=[CLOSES + FAILED, 0.2, behind, "close"]))
    ask(product, key, stream=True, max_tokens=400)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert (ledger_nanos(), SpendEntry.objects.get().certainty) == (booked.books.spent_nanos, "confirmed")


@pytest.mark.parametrize(
    "script",
    [
        [CLOSES + FAILED, 5.0, "close"],
        [CLOSES + FAILED, *([0.1, event({"type": "ping"})] * 30), "close"],
        [CLOSES + FAILED + (b": " + b"w" * 200 + b"\n\n") * 2_000, 5.0, "close"],
        [CHUNKED + chunked(FAILED), 0.1, "close"],
    ],
    ids=["silent", "alive", "long", "cut"],
)
def test_a_stream_that_does_not_end_behind_its_first_error_costs_its_hold(
    product: Product, booked: BookedUpstream, key: str, script: list[Any]
) -> None:
    booked.next(Answer(tokens=300, billed=True, script=script))
    began = time.monotonic()
    ask(product, key, stream=True, max_tokens=400)
    assert time.monotonic() - began < 4
    assert costs_its_hold(booked)


@pytest.mark.parametrize("status", [200, 400])
def test_a_usage_of_an_error_is_no_overrun_of_its_model(
    product: Product, booked: BookedUpstream, key: str, status: int
) -> None:
    used = {"prompt_tokens": 14, "completion_tokens": 99_999, "total_tokens": 100_013}
    data = json.dumps({"error": {**ERROR, "usage": used}}).encode()
    booked.next(Answer(tokens=5, script=body(data, status=status)))
    ask(product, key, stream=False, max_tokens=5)
    assert costs_its_hold(booked)


def ends(more: Any, **choice: Any) -> bytes:
    """The last part of an answer that broke off, with its error beside it."""
    return event({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error", **choice}], **more})


BROKE_OFF: dict[str, bytes] = {
    "a quotation": event({"error": RAW}) + DONE,
    "an answer beside it": ends({"error": RAW}) + DONE,
    "in its choice": ends({}, finish_reason=None, error=RAW) + DONE,
    "Groq's": ends({"x_groq": {"id": "r", "error": "no", "failed_generation": WORDS}}, finish_reason=None) + DONE,
    "text behind it": FAILED + text(WORDS) + DONE,
}


@pytest.mark.parametrize("how", ["plain", "stream", "400"])
@pytest.mark.parametrize("events", BROKE_OFF.values(), ids=BROKE_OFF)
def test_an_answer_that_broke_off_with_an_error_is_never_over(
    product: Product, booked: BookedUpstream, key: str, events: bytes, how: str
) -> None:
    head = CLOSES.replace(b"200 OK", b"400 No") if how == "400" else CLOSES
    booked.next(Answer(tokens=300, billed=True, script=[head + text("Hi") + events, "close"]))
    ask(product, key, stream=how == "stream", max_tokens=400)
    assert costs_its_hold(booked)


FAILING = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "error"}
FILTERED = {"code": "content_filter", "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation"}}
DEAR: dict[str, tuple[int, Any]] = {
    "it ends in an error": (200, {"choices": [FAILING]}),
    "under another status": (400, {"choices": [FAILING]}),
    "an error beside it": (200, {"choices": [{**FAILING, "finish_reason": "stop"}], "error": RAW}),
    "Azure's in a 200": (200, {"error": FILTERED}),
    "a letter under a 500": (500, {"error": {"message": "no", "failed_generation": "x"}}),
}


@pytest.mark.parametrize(("status", "said"), DEAR.values(), ids=DEAR)
def test_what_an_error_shows_lowers_no_charge(
    product: Product, booked: BookedUpstream, key: str, status: int, said: Any
) -> None:
    booked.next(Answer(tokens=300, billed=True, script=body(json.dumps(said).encode(), status=status)))
    ask(product, key, stream=False, max_tokens=400)
    assert costs_its_hold(booked)


@pytest.mark.parametrize("cut", [0, 9])
def test_what_an_error_in_mid_stream_quotes_of_its_request_makes_nothing_dear(
    product: Product, booked: BookedUpstream, key: str, cut: int
) -> None:
    said = event({"error": {"message": "no role"}, "message": {"role": "user", "content": WORDS * 2}})
    script = [CLOSES + text("Hi") + said[: len(said) - cut], "close"]
    booked.next(Answer(tokens=1, billed=True, script=script))
    ask(product, key, stream=True, max_tokens=3, messages=[{"role": "user", "content": WORDS * 2}])
    assert costs_its_hold(booked)
