"""Answers in odd orders and shapes, from each kind of endpoint: what arrived is charged, and nothing breaks."""

from __future__ import annotations

import io
import json
import time
import wave
from typing import Any

import httpx2 as httpx
import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import Alert, Reservation, SpendEntry
from tests import factories as make
from tests.llm.gateway.test_against_books import ask, holds_by_the_books, ledger_nanos, open_stream
from tests.product import Product, eventually

CLOSES = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
DIGITS = "1" * 400


def event(data: Any, name: str = "") -> bytes:
    named = f"event: {name}\n".encode() if name else b""
    return named + b"data: " + json.dumps(data).encode() + b"\n\n"


def text(said: str, finish: str | None = None, index: int = 0, model: str = "mistral-small-2603", **more: Any) -> bytes:
    choice = {"index": index, "delta": {"content": said}, "finish_reason": finish}
    return event({"id": "c", "model": model, "choices": [choice], **more})


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def plain(body: Any, status: int = 200) -> Answer:
    data = json.dumps(body).encode()
    head = b"HTTP/1.1 %d Said\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(data))
    return Answer(script=[head + data], tokens=len(DIGITS))


@pytest.fixture
def key(product: Product) -> str:
    make.budget("10.00")
    return product.key()


def asked(product: Product, booked: BookedUpstream, key: str, *script: Any, tokens: int, **fields: Any) -> str:
    booked.usual = Answer(script=list(script), tokens=tokens)
    said = ask(product, key, **({"stream": True} | fields))[1]
    assert holds_by_the_books(booked)
    return said


HALF = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"' + DIGITS.encode()


@pytest.mark.parametrize("how", ["reset", "close"])
def test_half_an_event_counts(product: Product, booked: BookedUpstream, key: str, how: str) -> None:
    asked(product, booked, key, CHUNKED, chunked(text("1")), 0.2, chunked(HALF), 0.3, how, tokens=401)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_a_tool_goes_on_with_no_function(
    product: Product, booked: BookedUpstream, key: str, stream: bool
) -> None:
    parts = [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}, {"index": 0, "function": "x"}]
    said = b"".join(event({"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]}) for part in parts)
    booked.usual = Answer(script=[CLOSES + said + text("", "stop") + DONE, "close"], tokens=2)
    assert ask(product, key, stream=stream)[0] == 200
    assert holds_by_the_books(booked)


USED = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}


@pytest.mark.parametrize(
    "script",
    [
        [CLOSES, event({"model": "mistral-small-2603", "choices": [], "usage": USED}), 0.2, "reset"],
        [CHUNKED, chunked(text(DIGITS)), chunked(event({"choices": [], "usage": USED})), 0.2, "close"],
        [CLOSES, event({"model": "mistral-small-2603", "choices": [], "usage": USED}), 0.2, "close"],
    ],
)
def test_usage_that_no_end_follows_is_not_the_last_word(
    product: Product, booked: BookedUpstream, key: str, script: list[Any]
) -> None:
    asked(product, booked, key, *script, tokens=400)
    assert SpendEntry.objects.get().certainty == "estimated"


GARBLED = b'data: {"choices":[{"index":0,"delta":{"content":"' + DIGITS.encode() + b"\n\n"
ENDS = text("1", "stop") + event(
    {"model": "mistral-small-2603", "choices": [], "usage": {"prompt_tokens": 14, "completion_tokens": 1}}
)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize(
    "rest",
    [
        GARBLED,
        GARBLED + DONE,
        GARBLED[:-2],
        DONE[:-2] + b"\n" + GARBLED,
        DONE + GARBLED[:-2],
    ],
    ids=["event", "before the end", "half an event", "with the end", "behind the end"],
)
def test_text_that_nobody_can_read_after_the_usage_counts(
    product: Product, booked: BookedUpstream, key: str, rest: bytes, stream: bool
) -> None:
    asked(product, booked, key, CLOSES + ENDS + rest, "close", tokens=401, stream=stream)
    row = SpendEntry.objects.get()
    assert row.certainty == "estimated"


@pytest.mark.parametrize("rest", [b"", DONE, DONE[:-1], b": keeps alive\n\n" + DONE], ids=str)
def test_an_end_without_more_text_leaves_the_usage_the_last_word(
    product: Product, booked: BookedUpstream, key: str, rest: bytes
) -> None:
    asked(product, booked, key, CLOSES + ENDS + rest, "close", tokens=1)
    row = SpendEntry.objects.get()
    assert (row.certainty, row.output_tokens) == ("confirmed", 1)


def test_a_client_that_leaves_after_some_usage_pays_for_what_came(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    booked.next(Answer(script=[CLOSES, text(DIGITS), event({"choices": [], "usage": USED}), 5.0, "close"], tokens=440))
    client = open_stream(product, key, max_tokens=600)
    client.recv(100)
    time.sleep(0.2)
    client.close()
    assert eventually(lambda: SpendEntry.objects.exists())
    assert holds_by_the_books(booked)


@pytest.mark.parametrize(
    "before",
    [
        event({"type": "response.output_text.delta", "delta": DIGITS}),
        event({"usage": {"prompt_tokens": 14, "completion_tokens": 300, "total_tokens": 314}}),
    ],
)
def test_what_came_before_an_error_is_paid_for(
    product: Product, booked: BookedUpstream, key: str, before: bytes
) -> None:
    asked(product, booked, key, CLOSES + before + event({"error": {"message": "overloaded"}}), "close", tokens=300)


@pytest.mark.parametrize("finish", ["stop", "null"])
@pytest.mark.parametrize("index", [0, 1])
def test_text_after_an_end_says_that_it_was_none(
    product: Product, booked: BookedUpstream, key: str, finish: str, index: int
) -> None:
    steps = [step for _ in range(12) for step in (0.2, text("1" * 100, None, index))]
    asked(product, booked, key, CLOSES, text("1", finish), *steps, "close", tokens=1_201, max_tokens=4_000)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", ["id", "type", "role", "usage", "logprobs"])
def test_arguments_may_have_any_name(
    product: Product, booked: BookedUpstream, key: str, name: str, stream: bool
) -> None:
    call = {"index": 0, "id": "abcdefghi", "function": {"name": "f", "arguments": {name: DIGITS}}}
    part = {"content": "", "tool_calls": [call]}
    choice = {"index": 0, "finish_reason": "tool_calls", ("delta" if stream else "message"): part}
    body = {"id": "c", "model": "mistral-small-2603", "choices": [choice]}
    if stream:
        asked(product, booked, key, CLOSES + event(body) + DONE, "close", tokens=400)
        return
    booked.usual = plain(body)
    ask(product, key, stream=False)
    assert holds_by_the_books(booked)


@pytest.mark.parametrize("status", [400, 422, 429, 500])
def test_an_answer_is_one_whatever_its_status(product: Product, booked: BookedUpstream, key: str, status: int) -> None:
    booked.usual = plain({"choices": [{"index": 0, "message": {"content": DIGITS}}]}, status)
    ask(product, key, stream=False)
    assert holds_by_the_books(booked)


@pytest.mark.parametrize("beside", ["prompt_logprobs", "search_results", "images"])
def test_what_tools_found_is_no_reason_to_doubt_a_count(
    product: Product, booked: BookedUpstream, key: str, beside: str
) -> None:
    found = [{"title": "t", "snippet": "x" * 2_000} for _ in range(5)]
    used = {"prompt_tokens": 14, "completion_tokens": 2, "total_tokens": 16}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    booked.usual = plain({"model": "mistral-small-2603", "choices": [choice], "usage": used, beside: found})
    ask(product, key, stream=False)
    assert SpendEntry.objects.get().certainty == "confirmed"
    assert ledger_nanos() == 14 * 150 + 2 * 600


def test_more_than_mistral_was_asked_for_is_not_believed(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.next(Answer(tokens=20, usage={"prompt_tokens": 14, "completion_tokens": 100_000, "total_tokens": 100_014}))
    ask(product, key, stream=True)
    row = SpendEntry.objects.get()
    assert (row.reason, row.cost_nanos) == ("usage_implausible", Reservation.objects.get().amount_nanos)


def test_pages_beyond_all_documents_are_charged_at_the_hold(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.next(plain({"model": "mistral-ocr-latest", "pages": [], "usage_info": {"pages_processed": 10**9}}))
    picture = {"type": "image_url", "image_url": "https://example.com/x.png"}
    response = product.post("/v1/ocr", key, model="mistral-ocr-latest", document=picture, pages=[0])
    row = SpendEntry.objects.get()
    assert (row.reason, row.cost_nanos) == ("usage_implausible", Reservation.objects.get().amount_nanos)
    assert response.headers["x-request-cost-usd"] == "0.004"


def said_to_have_used(read: int, wrote: int, model: str = "mistral-small-2603") -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": "1"}, "finish_reason": "stop"}
    used = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
    return plain({"id": "c", "model": model, "choices": [choice], "usage": used})


@pytest.mark.parametrize(
    "answer",
    [
        said_to_have_used(100_000, 1),
        said_to_have_used(2_000, 1),
        said_to_have_used(14, 565),
        said_to_have_used(14, 500, "mistral-medium-latest"),
    ],
    ids=["read far more", "read more", "wrote more", "a dearer model"],
)
def test_more_than_a_request_permits_is_charged_at_the_hold(
    product: Product, booked: BookedUpstream, key: str, answer: Answer
) -> None:
    booked.next(answer)
    ask(product, key, stream=False)
    row = SpendEntry.objects.get()
    assert (row.reason, row.certainty) == ("usage_implausible", "estimated")
    assert row.cost_nanos == Reservation.objects.get().amount_nanos
    assert eventually(lambda: Alert.objects.filter(kind="usage_implausible").exists())


def test_a_short_prompt_of_a_provider_s_own_is_paid_for_and_seen(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    booked.next(said_to_have_used(900, 500))
    ask(product, key, stream=False)
    row = SpendEntry.objects.get()
    assert (row.certainty, row.cost_nanos) == ("confirmed", 900 * 150 + 500 * 600)
    assert row.overage_nanos == row.cost_nanos - Reservation.objects.get().amount_nanos > 0


def test_a_few_tokens_more_than_were_asked_for_are_paid_for(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.next(said_to_have_used(14, 564))
    ask(product, key, stream=False)
    row = SpendEntry.objects.get()
    assert (row.certainty, row.cost_nanos) == ("confirmed", 14 * 150 + 564 * 600)


def test_more_pages_than_are_listed_are_charged_at_the_hold(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.next(plain({"model": "mistral-ocr-latest", "pages": [], "usage_info": {"pages_processed": 2}}))
    document = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
    product.post("/v1/ocr", key, model="mistral-ocr-latest", document=document, pages=[0])
    row = SpendEntry.objects.get()
    assert (row.reason, row.cost_nanos) == ("usage_implausible", Reservation.objects.get().amount_nanos)


def test_audio_beyond_the_longest_is_charged_at_the_hold(product: Product, booked: BookedUpstream, key: str) -> None:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(bytes(16_000))
    booked.next(plain({"model": "voxtral-mini-latest", "text": "hi", "usage": {"prompt_audio_seconds": 1e9}}))
    httpx.post(
        product.url + "/v1/audio/transcriptions",
        data={"model": "voxtral-mini-latest"},
        files={"file": ("a.wav", sound.getvalue())},
        headers={"authorization": f"Bearer {key}"},
        timeout=30,
    )
    row = SpendEntry.objects.get()
    assert (row.reason, row.cost_nanos) == ("usage_implausible", Reservation.objects.get().amount_nanos)


def test_more_tokens_than_an_embedding_s_text_has_are_not_believed(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    used = {"prompt_tokens": 8_000, "total_tokens": 8_000}
    booked.next(plain({"model": "mistral-embed", "data": [], "usage": used}))
    product.post("/v1/embeddings", key, model="mistral-embed", input="Hi")
    assert SpendEntry.objects.get().reason == "usage_implausible"


@pytest.mark.parametrize("size", [300_000, 3_000_000])
def test_one_large_event_is_no_backlog(product: Product, booked: BookedUpstream, key: str, size: int) -> None:
    choice = {"index": 0, "delta": {"content": ""}, "logprobs": {"content": [{"token": "a" * size}]}}
    large = event({"id": "c", "model": "mistral-small-2603", "choices": [choice]})
    used = {"prompt_tokens": 14, "completion_tokens": 3, "total_tokens": 17}
    said = asked(
        product, booked, key, CLOSES + text("111") + large + text("", "stop", usage=used) + DONE, "close", tokens=3
    )
    assert said.endswith("data: [DONE]\n\n")
    assert len(said) > size


@pytest.mark.parametrize(
    "message",
    [
        {"content": "x", "images": ["https://example.com/a.png"]},
        {"content": "x", "attachments": [{"file_id": "f-1"}]},
        {"content": [{"type": "text", "text": "x", "image_url": {"url": "https://example.com/a.png"}}]},
        {"content": [{"type": "text", "text": "x", "video_url": {"url": "https://example.com/a.mp4"}}]},
        {"content": [{"type": "text", "text": "x", "input_audio": {"data": "AAAA"}}]},
        {"content": [{"type": "reference", "reference_ids": [1], "file_id": "f"}]},
    ],
)
def test_media_in_a_place_of_text_are_refused(
    product: Product, booked: BookedUpstream, key: str, message: dict[str, Any]
) -> None:
    status, said = ask(product, key, stream=False, messages=[{"role": "user", **message}])
    assert (status, json.loads(said)["code"]) == (400, "unbounded_input")
    assert booked.books.entries == []


def used(output_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 14, "completion_tokens": output_tokens, "total_tokens": 14 + output_tokens}


LONG = text("1" * 250)
LAST = {"prompt_tokens": 0, "completion_tokens": 126, "total_tokens": 126}
IN_EVENTS = {
    "larger later": text("1", usage=used(1)) + LONG + text("", "stop", usage=used(251)) + DONE,
    "piece by piece": text("1" * 125, usage=used(125)) + text("1" * 126, "stop", usage=LAST) + DONE,
    "piece by piece in a choice": LONG
    + event({"choices": [{"index": 0, "delta": {"content": "1"}, "usage": used(125)}]})
    + event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": LAST}]})
    + DONE,
    "usage first": text("1", usage=used(1)) + LONG + text("", "stop") + DONE,
    "smaller later": LONG + text("", "stop", usage=used(251)) + event({"choices": [], "usage": used(1)}) + DONE,
    "cut after its first usage": text("1", usage=used(1)) + LONG,
    "cut in an event": text("1", usage=used(1))
    + text("1" * 50)
    + b'data: {"choices": [{"delta": {"content": "'
    + b"1" * 200,
    "in a choice": LONG
    + event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": used(251)}]})
    + event({"choices": [{"index": 0, "delta": {}, "usage": used(1)}]})
    + DONE,
    "text after its end": text("1", "stop", usage=used(1)) + LONG,
    "an error after some": text("1") + LONG + event({"error": {"message": "overloaded"}}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("case", IN_EVENTS)
def test_events_count_alike_whoever_asked_for_them(
    product: Product, booked: BookedUpstream, key: str, case: str, stream: bool
) -> None:
    asked(product, booked, key, CLOSES + IN_EVENTS[case], "close", tokens=251, stream=stream)
    expected = "confirmed" if case == "larger later" else "estimated"
    assert {row.certainty for row in SpendEntry.objects.all()} == {expected}


TWICE = {
    "a count": b'{"prompt_tokens":14,"completion_tokens":400,"completion_tokens":2}',
    "a usage": b'{"prompt_tokens":14,"completion_tokens":400},"usage":{"prompt_tokens":1,"completion_tokens":2}',
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("what", TWICE)
def test_a_usage_that_is_said_twice_is_none(
    product: Product, booked: BookedUpstream, key: str, what: str, stream: bool
) -> None:
    kind = b"delta" if stream else b"message"
    choice = b'{"index":0,"%s":{"content":"%s"},"finish_reason":"stop"}' % (kind, DIGITS.encode())
    data = b'{"id":"c","model":"mistral-small-2603","choices":[%s],"usage":%s}' % (choice, TWICE[what])
    body = b"data: " + data + b"\n\n" + DONE if stream else data
    head = CLOSES if stream else b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    asked(product, booked, key, head + body, "close", tokens=400, stream=stream)
    assert SpendEntry.objects.get().reason == "usage_missing"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_marks_around_tool_calls_are_written_too(
    product: Product, booked: BookedUpstream, key: str, stream: bool
) -> None:
    # [TOOL_CALLS]f[CALL_ID]abcdef001[ARGS]{}, fifty times: 3 marks, 9 tokens of the id, 1 and 2.
    calls = [{"index": i, "id": f"abcdef{i:03}", "function": {"name": "f", "arguments": "{}"}} for i in range(50)]
    choice = {"index": 0, "finish_reason": "tool_calls", ("delta" if stream else "message"): {"tool_calls": calls}}
    body = {"id": "c", "model": "mistral-small-2603", "choices": [choice]}
    if stream:
        asked(product, booked, key, CLOSES + event(body) + DONE, "close", tokens=751, max_tokens=2_000)
        return
    booked.usual = Answer(script=plain(body).script, tokens=751)
    ask(product, key, stream=False, max_tokens=2_000)
    assert holds_by_the_books(booked)


def test_the_end_of_an_answer_is_a_token(product: Product, booked: BookedUpstream, key: str) -> None:
    asked(product, booked, key, CLOSES + text("1" * 100) + text("", "stop") + DONE, "close", tokens=101)


@pytest.mark.parametrize("pause", [0.3, 0.8])
def test_a_larger_usage_after_the_end_is_waited_for(
    product: Product, booked: BookedUpstream, key: str, pause: float
) -> None:
    late = event({"choices": [], "usage": used(400)}) + DONE
    asked(product, booked, key, CLOSES + text("1" * 20) + text("", "stop", usage=used(20)), pause, late, tokens=400)


# Endpoints that operators add ------------------------------------------------------------------------------


compatible = pytest.mark.parametrize("likes", ["openai_compatible"], indirect=True)
anthropic = pytest.mark.parametrize("likes", ["anthropic"], indirect=True)


def charged_since(product: Product, booked: BookedUpstream, key: str, answer: Answer, **fields: Any) -> int:
    before = ledger_nanos()
    booked.usual = answer
    ask(product, key, **({"stream": True, "model": "likes/m"} | fields))
    assert booked.idle()
    assert eventually(lambda: not Reservation.objects.filter(status="pending").exists())
    return ledger_nanos() - before


@compatible
@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [{"index": 0, "id": "x", "type": "custom", "custom": {"name": "f", "input": DIGITS}}]},
        {"tool_calls": DIGITS},
        {"function_call": {"arguments": DIGITS}},
        DIGITS,
    ],
)
def test_a_compatible_endpoint_s_oddities_count(
    product: Product, booked: BookedUpstream, likes: str, delta: Any
) -> None:
    odd = event({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    script = [CLOSES + text("1", model="m") + odd + text("", "stop", model="m") + DONE, "close"]
    assert charged_since(product, booked, likes, Answer(script=script, tokens=401)) >= 401 * 600


@compatible
@pytest.mark.parametrize("how", ["reset", "close"])
def test_half_an_event_of_a_compatible_endpoint_counts(
    product: Product, booked: BookedUpstream, likes: str, how: str
) -> None:
    script = [CHUNKED, chunked(text("1", model="m")), 0.2, chunked(HALF), 0.3, how]
    assert charged_since(product, booked, likes, Answer(script=script, tokens=401)) >= 401 * 600


@compatible
@pytest.mark.parametrize("rest", [[step for _ in range(60) for step in (b": ping\n\n", 0.1)], [6.0]], ids=["pings", ""])
def test_an_end_without_usage_ends_a_compatible_endpoint_s_stream(
    product: Product, booked: BookedUpstream, likes: str, rest: list[Any]
) -> None:
    began = time.monotonic()
    script = [CLOSES, text("1" * 5, model="m"), text("", "stop", model="m"), *rest, "close"]
    charged_since(product, booked, likes, Answer(script=script, tokens=5))
    assert time.monotonic() - began < 5


def left_after(product: Product, booked: BookedUpstream, key: str, *script: Any, tokens: int, **fields: Any) -> int:
    """What is charged to a client that leaves when so much has come and the script's last pause has begun."""
    before = ledger_nanos()
    booked.next(Answer(script=[*script, 30.0, "close"], tokens=tokens))
    client = open_stream(product, key, model="likes/m", max_tokens=3_000, **fields)
    time.sleep(0.3 + sum(step for step in script if isinstance(step, float)))
    client.close()
    assert booked.idle()
    assert eventually(lambda: not Reservation.objects.filter(status="pending").exists())
    return ledger_nanos() - before


@compatible
@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ([CLOSES, text("", model="m"), 1.5], {}),
        ([CLOSES, text("", model="m"), 1.5], {"reasoning_effort": "high"}),
        # It thinks before it writes, and its thoughts are not shown.
        ([CLOSES, text("", model="m"), 1.5, *(text("1", model="m"), 0.05) * 20], {}),
        ([CLOSES, *(text("1", model="m"), 0.05) * 20], {"reasoning_effort": "low"}),
    ],
    ids=["silent", "asked to think", "has thought", "thinks beside it"],
)
def test_what_a_model_may_have_thought_unseen_is_paid_for(
    product: Product, booked: BookedUpstream, likes: str, script: list[Any], fields: dict[str, Any]
) -> None:
    charged = left_after(product, booked, likes, *script, tokens=2_000, **fields)
    assert charged >= booked.books.spent_nanos


@compatible
@pytest.mark.parametrize(
    ("read", "wrote", "is_believed"),
    [(14, 190_000, False), (100_000, 1, False), (5_000, 1, True), (14, 5_000, True)],
    ids=["writes too much", "reads too much", "a prompt of its own", "thoughts beside it"],
)
def test_so_much_is_believed_of_a_compatible_endpoint(
    product: Product, booked: BookedUpstream, likes: str, read: int, wrote: int, is_believed: bool
) -> None:
    answer = said_to_have_used(read, wrote, "m")
    charged = charged_since(product, booked, likes, answer, stream=False, max_tokens=10)
    held = Reservation.objects.latest("reserved_at").amount_nanos
    assert charged == (read * 150 + wrote * 600 if is_believed else held)


@compatible
def test_what_an_endpoint_wrote_although_it_was_told_not_to_is_believed(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    said = {"index": 0, "message": {"role": "assistant", "content": "1" * 20_000}, "finish_reason": "stop"}
    used = {"prompt_tokens": 14, "completion_tokens": 30_000, "total_tokens": 30_014}
    answer = plain({"id": "c", "model": "m", "choices": [said], "usage": used})
    assert charged_since(product, booked, likes, answer, stream=False, max_tokens=10) == 14 * 150 + 30_000 * 600


def block(number: int, started: Any) -> bytes:
    kind = "content_block_start"
    return event({"type": kind, "index": number, "content_block": started}, kind)


def grown(number: int, delta: Any) -> bytes:
    kind = "content_block_delta"
    return event({"type": kind, "index": number, "delta": delta}, kind)


START = event(
    {
        "type": "message_start",
        "message": {"id": "m", "type": "message", "model": "m", "usage": {"input_tokens": 10, "output_tokens": 1}},
    },
    "message_start",
)


@anthropic
@pytest.mark.parametrize("stop", [{}, {"usage": {}}, {"usage": {"output_tokens": None}}], ids=["none", "empty", "null"])
@pytest.mark.parametrize("first", [1, 8])
def test_what_an_answer_begins_with_is_not_what_it_used(
    product: Product, booked: BookedUpstream, likes: str, first: int, stop: dict[str, Any]
) -> None:
    start = START.replace(b'"output_tokens": 1', b'"output_tokens": %d' % first)
    said = block(0, {"type": "text", "text": ""}) + grown(0, {"type": "text_delta", "text": "1" * 250 * first})
    end = event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, **stop}, "message_delta")
    script = [CLOSES + start + said + end + event({"type": "message_stop"}, "message_stop"), "close"]
    charged = charged_since(product, booked, likes, Answer(script=script, tokens=250 * first), max_tokens=3_000)
    assert charged >= booked.books.spent_nanos
    assert "usage_missing" in {row.reason for row in SpendEntry.objects.all()}


@anthropic
@pytest.mark.parametrize(
    "odd",
    [
        block(1, {"type": "server_tool_use", "id": "s", "name": "w"})
        + grown(1, {"type": "input_json_delta", "partial_json": DIGITS}),
        block(1, {"type": "new", "x": ""}) + grown(1, {"type": "new_delta", "x": DIGITS}),
        block(1, {"type": "tool_use", "id": "t", "name": "f", "input": {"a": DIGITS}}),
        block(1, {"type": "thinking", "thinking": DIGITS}),
        block(1, {"type": "redacted_thinking", "data": DIGITS}),
        block(1, {"type": "text", "text": ""})
        + grown(1, {"type": "citations_delta", "citation": {"cited_text": DIGITS}}),
    ],
    ids=["server tool", "unknown", "tool", "thinking", "redacted", "citation"],
)
def test_blocks_that_have_no_place_in_a_chat_count(
    product: Product, booked: BookedUpstream, likes: str, odd: bytes
) -> None:
    said = block(0, {"type": "text", "text": ""}) + grown(0, {"type": "text_delta", "text": "1"})
    script = [CLOSES + START + said, 0.1, odd, 0.2, "reset"]
    assert charged_since(product, booked, likes, Answer(script=script, tokens=401)) >= 401 * 600


@anthropic
@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "1"}, {"type": "server_tool_use", "id": "s", "name": "w", "input": {"q": DIGITS}}],
        [{"type": "text", "text": "1"}, {"type": "redacted_thinking", "data": DIGITS}],
        5,
        [None, 1],
        [{"type": "text", "text": 5}],
        [{"type": "tool_use", "input": "text", "name": None}],
    ],
)
def test_whatever_a_message_holds_it_is_no_failure_of_ours_and_counts(
    product: Product, booked: BookedUpstream, likes: str, content: Any
) -> None:
    answer = plain({"id": "m", "type": "message", "role": "assistant", "model": "m", "content": content})
    charged = charged_since(product, booked, likes, answer, stream=False)
    assert "interrupted" not in {row.reason for row in SpendEntry.objects.all()}
    assert charged >= (401 * 600 if isinstance(content, list) and len(content) == 2 and content[0] else 600)
