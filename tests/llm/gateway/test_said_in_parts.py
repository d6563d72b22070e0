"""Usage of which only a part is said, or that is said beside an error or another model's name: each part is charged.

Calls go on until the cap stops them, or for a while; whatever was sent by then, the ledger has no less than the books.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import SpendEntry
from llm.gateway import streaming as streaming_module
from tests import factories as make
from tests.llm.gateway.test_chat import streaming
from tests.llm.gateway.test_overruns import (  # noqa: F401  (fixtures)
    INPUT,
    OUTPUT,
    ask,
    held_nanos,
    product,
    settled,
    thinker,
)
from tests.llm.gateway.test_said_in_between import HEAD, TIMES, chunk, framed, leave, model_of, spent
from tests.product import Product

DONE = (framed(b"data: [DONE]\n\n"), b"0\r\n\r\n")
USED = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
MOST_CALLS = 8
# How Llama 3 cuts ASCII: no token reaches across two pieces.
PIECES = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}| ?[^\sA-Za-z0-9]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def text(model: str = "thinker", **more: Any) -> bytes:
    return chunk(model=model, choices=[{"index": 0, "delta": {"content": "x"}, "finish_reason": None}], **more)


def end(model: str = "thinker", **more: Any) -> bytes:
    return chunk(model=model, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], **more)


def plain(status: int, said: Any, *, then: tuple[str, ...] = ()) -> Answer:
    body = json.dumps(said).encode()
    head = f"HTTP/1.1 {status} As Told\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return Answer(script=[head.encode() + body, *then], tokens=0)


def costs(product: Product, booked: BookedUpstream, answer: Answer, each_nanos: int, cap: str, **fields: Any) -> None:  # noqa: F811
    """Each such call costs so much, and the cap holds but for the one that passes it."""
    make.budget(cap)
    key = product.key()
    booked.usual = answer
    for _ in range(MOST_CALLS):
        if ask(product, key, **fields) == 402:
            break
    assert settled(booked)
    assert booked.books.entries
    assert spent() >= len(booked.books.entries) * each_nanos


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    "usage",
    [
        {"total_tokens": 10_020},
        {"completion_tokens": 20, "total_tokens": 10_020},
        {"prompt_tokens": None, "completion_tokens": 20, "total_tokens": 10_020},
    ],
    ids=["total", "total and written", "no number of read"],
)
def test_a_total_tells_what_was_read(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    usage: Any,
    stream: bool,
) -> None:
    costs(product, booked, Answer(tokens=20, usage=usage), 10_000 * INPUT + 20 * OUTPUT, "0.005", stream=stream)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_what_is_said_to_be_read_and_the_text_that_came_add_up(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    stream: bool,
) -> None:
    answer = Answer(tokens=230, usage={"prompt_tokens": 1_000})
    costs(product, booked, answer, 1_000 * INPUT + 230 * OUTPUT, "0.002", stream=stream, max_tokens=256)


def test_anthropics_first_count_and_the_text_that_came_add_up(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    def event(kind: str, **more: Any) -> bytes:
        return framed(f"event: {kind}\ndata: ".encode() + json.dumps({"type": kind} | more).encode() + b"\n\n")

    model_of("claude", "c")
    message = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": []}
    counted = {"usage": {"input_tokens": 1_000, "output_tokens": 1}}
    answer = Answer(
        script=[
            HEAD,
            event("message_start", message=message | counted),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            *[event("content_block_delta", index=0, delta={"type": "text_delta", "text": "7"})] * 230,
            "close",
        ],
        tokens=0,
    )
    each_nanos = 1_000 * INPUT + 230 * OUTPUT
    costs(product, booked, answer, each_nanos, "0.002", stream=True, max_tokens=256, model="claude/c")


def test_a_smaller_count_at_the_end_takes_nothing_away(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    first = chunk(choices=[{"index": 0, "delta": {"content": ""}}], usage={"prompt_tokens": 1_000})
    answer = Answer(script=[HEAD, first, *[text()] * 20, end(usage=USED), *DONE], tokens=0)
    costs(product, booked, answer, 1_000 * INPUT + 20 * OUTPUT, "0.001", stream=True)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10_000},
        {"total_tokens": 10_000},
        {"prompt_tokens": 10_000, "completion_tokens": None},
        {"prompt_tokens": 10_000, "completion_tokens": 0, "total_tokens": 10_000},
    ],
    ids=["read", "total", "nothing of written", "whole"],
)
@pytest.mark.parametrize("status", [200, 400, 403, 413, 529])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_an_error_costs_what_is_said_beside_it(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    dialect: str,
    status: int,
    usage: dict[str, Any],
) -> None:
    error = {"message": "Stopped by the content filter.", "type": "invalid_request_error", "code": "content_filter"}
    said, name = {"error": error, "usage": usage}, "own/thinker"
    if dialect == "anthropic":
        if "prompt_tokens" not in usage:
            pytest.skip("Anthropic has no total")
        model_of("claude", "c")
        used = {"input_tokens": 10_000, "output_tokens": usage.get("completion_tokens")}
        said, name = {"type": "error", "error": error, "usage": used}, "claude/c"
    costs(product, booked, plain(status, said), 10_000 * INPUT, "0.004", model=name)


@pytest.mark.parametrize("where", ["at its usage", "in its text", "never"])
def test_the_dearest_model_that_a_stream_names_is_charged(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    where: str,
) -> None:
    model_of("own", "dear", times=TIMES)
    middle, last = (
        text("dear" if where == "in its text" else "thinker"),
        "dear" if where == "at its usage" else "thinker",
    )
    answer = Answer(script=[HEAD, *[middle] * 20, end(), chunk(model=last, choices=[], usage=USED), *DONE], tokens=0)
    each_nanos = (10 * INPUT + 20 * OUTPUT) * (1 if where == "never" else TIMES)
    costs(product, booked, answer, each_nanos, "0.01", stream=True)
    if where == "never":
        assert set(SpendEntry.objects.values_list("cost_nanos", flat=True)) == {each_nanos}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_name_that_nobody_knows_makes_nothing_cheaper(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    stream: bool,
) -> None:
    usage = {"prompt_tokens": 1_000, "completion_tokens": 20, "total_tokens": 1_020}
    answer = Answer(tokens=20, model="/models/llama-7b.gguf", usage=usage)
    costs(product, booked, answer, 1_000 * INPUT + 20 * OUTPUT, "0.001", stream=stream)


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_what_is_kept_for_an_hour_costs_as_such_whether_that_is_told_or_not(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    dialect: str,
) -> None:
    written = {"prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 1_990}}
    usage: dict[str, Any] = {"prompt_tokens": 2_000, "completion_tokens": 20, "total_tokens": 2_020} | written
    answer, name = Answer(tokens=20, usage=usage), "own/thinker"
    if dialect == "anthropic":
        model_of("claude", "c")
        said = {"id": "m", "type": "message", "role": "assistant", "model": "c", "stop_reason": "end_turn"}
        usage = {"input_tokens": 10, "cache_creation_input_tokens": 1_990, "output_tokens": 20}
        content = [{"type": "text", "text": "7" * 20}]
        answer, name = plain(200, said | {"content": content, "usage": usage}), "claude/c"
    marked = {"type": "text", "text": "7" * 2_000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    messages = [{"role": "user", "content": [marked]}]
    each_nanos = (10 + 2 * 1_990) * INPUT + 20 * OUTPUT
    costs(product, booked, answer, each_nanos, "0.004", messages=messages, model=name)
    assert set(SpendEntry.objects.values_list("cost_nanos", "certainty")) == {(each_nanos, "confirmed")}


def test_a_reason_to_stop_in_every_chunk_ends_nothing(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    """As Gemini's first API has it, and proxies in front of it."""
    written, times = 50, 10
    part = b"".join([chunk(choices=[{"index": 0, "delta": {"content": "7"}, "finish_reason": "stop"}])] * written)
    usage = {"prompt_tokens": 10, "completion_tokens": written * times, "total_tokens": 10 + written * times}
    steps = [HEAD, *[part, 0.25] * times, chunk(choices=[], usage=usage), *DONE]
    make.budget("1.00")
    booked.next(Answer(script=steps, tokens=0))
    body = {"model": "own/thinker", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1_000}
    with streaming(product, product.key(), **body) as response:
        assert response.read().count(b'"7"') == written * times
    assert settled(booked)
    row = SpendEntry.objects.get()
    assert (row.certainty, row.cost_nanos) == ("confirmed", 10 * INPUT + written * times * OUTPUT)


@pytest.mark.parametrize("usage", [True, False], ids=["usage in each", "no usage"])
@pytest.mark.parametrize("how", ["leaves", "reset", "silent"])
def test_what_ends_in_every_chunk_and_then_breaks_off_is_cut(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    usage: bool,
) -> None:
    monkeypatch.setattr(streaming_module, "ENDED_IN_TEXT_S", 0.5)
    steps: list[Any] = [HEAD]
    for written in range(20, 100, 20):
        choice = {"index": 0, "delta": {"content": "7" * 20}, "finish_reason": "stop"}
        used = {"prompt_tokens": 10, "completion_tokens": written, "total_tokens": 10 + written}
        steps += [chunk(choices=[choice], **({"usage": used} if usage else {})), 0.1]
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(script=[*steps, 0.4, "reset"] if how == "reset" else [*steps, 30.0], tokens=0))
    assert (leave(product, key) if how == "leaves" else ask(product, key, stream=True)) == 200
    assert settled(booked)
    row = SpendEntry.objects.get()
    # Nobody knows what was written meanwhile.
    assert row.certainty == "estimated"
    assert row.cost_nanos >= held_nanos()


def test_who_leaves_after_one_part_that_says_it_is_the_last_is_charged_as_in_the_midst(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    choice = {"index": 0, "delta": {"content": "7" * 20}, "finish_reason": "stop"}
    part = chunk(choices=[choice], usage={"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30})
    make.budget("1.00")
    booked.next(Answer(script=[HEAD, part, 5.0, part], tokens=0))
    body = {"model": "own/thinker", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 48}
    with streaming(product, product.key(), **body):
        time.sleep(0.8)
    assert settled(booked)
    row = SpendEntry.objects.get()
    assert (row.certainty, row.cost_nanos) == ("estimated", held_nanos())


@pytest.mark.parametrize("where", ["tools", "calls"])
def test_json_that_go_escapes_is_held_for(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    where: str,
) -> None:
    """Ollama's templates write tools and calls by json.Marshal."""
    html, parameters = "<>" * 500, {"type": "object", "properties": {}}
    tool = {"type": "function", "function": {"name": "look", "description": html, "parameters": parameters}}
    function = {"name": "look", "arguments": json.dumps({"html": html})}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    answered = {"role": "tool", "tool_call_id": "1", "content": "x"}
    asked = (
        {"tools": [tool]} if where == "tools" else {"messages": [{"role": "user", "content": "Hi"}, called, answered]}
    )
    read = len(PIECES.findall(html.replace("<", "\\u003c").replace(">", "\\u003e"))) + 20
    make.budget("1.00")
    booked.next(Answer(tokens=20, usage={"prompt_tokens": read, "completion_tokens": 20, "total_tokens": read + 20}))
    assert ask(product, product.key(), **asked) == 200
    assert settled(booked)
    assert SpendEntry.objects.get().overage_nanos == 0


def test_a_pause_after_a_text_that_says_it_is_the_last_ends_nothing(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    part = chunk(choices=[{"index": 0, "delta": {"content": "7"}, "finish_reason": "stop"}])
    answer = Answer(script=[HEAD, part, 2.0, part, chunk(choices=[], usage=USED), *DONE], tokens=0)
    costs(product, booked, answer, 10 * INPUT + 20 * OUTPUT, "0.00004", stream=True)
    assert SpendEntry.objects.first().certainty == "confirmed"


def test_a_usage_behind_the_end_counts_where_it_has_come_with_it(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    used = chunk(choices=[], usage={"prompt_tokens": 1_000, "completion_tokens": 1, "total_tokens": 1_001})
    answer = Answer(script=[HEAD, end(), DONE[0] + used, DONE[1]], tokens=0)
    costs(product, booked, answer, 1_000 * INPUT + OUTPUT, "0.001", stream=True)


def test_an_answer_behind_a_status_that_only_begins_is_charged(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    message = {"role": "assistant", "content": "x" * 20}
    said = {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USED}
    costs(product, booked, plain(101, said, then=("close",)), 10 * INPUT + 20 * OUTPUT, "0.001")


def test_tools_that_a_template_indents_are_held_for(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    parameters = {"type": "object", "properties": {"a": {"default": [[1]] * 1_000}}}
    tool = {"type": "function", "function": {"name": "look", "parameters": parameters}}
    read = len(PIECES.findall(json.dumps(tool, indent=4))) + 16
    make.budget("1.00")
    booked.next(Answer(tokens=20, usage={"prompt_tokens": read, "completion_tokens": 20, "total_tokens": read + 20}))
    assert ask(product, product.key(), tools=[tool]) == 200
    assert settled(booked)
    assert SpendEntry.objects.get().overage_nanos == 0


def test_letters_that_stand_for_many_are_held_for(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    # U+FDFA has 3 bytes, and 18 letters in 4 words where a tokenizer brings it to NFKC.
    read = 4 * 2_000 + 6
    make.budget("1.00")
    booked.next(Answer(tokens=20, usage={"prompt_tokens": read, "completion_tokens": 20, "total_tokens": read + 20}))
    assert ask(product, product.key(), messages=[{"role": "user", "content": "\ufdfa" * 2_000}]) == 200
    assert settled(booked)
    assert SpendEntry.objects.get().overage_nanos == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"2": 100, "55": 99}, "ignore_eos": True},
        {"include_reasoning": False},
        {"reasoning": {"exclude": True}},
    ],
    ids=["steered", "thoughts left out", "thoughts excluded"],
)
def test_who_asks_for_tokens_that_no_text_shows_is_charged_the_hold_when_it_leaves(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    fields: dict[str, Any],
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(tokens=None, unseen_tokens=1_500, pace=200.0, head_after_s=0.2))
    assert leave(product, key, max_tokens=2_000, **fields) == 200
    assert settled(booked)
    assert spent() == held_nanos()
    assert spent() >= booked.books.spent_nanos


@pytest.mark.parametrize("parts", ["bare", "none"])
def test_what_is_withheld_for_a_long_stop_is_charged_when_its_client_leaves(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    parts: str,
) -> None:
    """vLLM holds back as many letters as the longest `stop` has, less one."""
    withheld, shown = 180, 12
    bare = chunk(choices=[{"index": 0, "delta": {"content": ""}, "finish_reason": None}])
    word = chunk(choices=[{"index": 0, "delta": {"content": "word"}, "finish_reason": None}])
    first = [bare] * withheld if parts == "bare" else []
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(script=[HEAD, word, 0.2, *first, *[word, 0.02] * shown, *[bare, 0.05] * 40], tokens=0))
    body = {"model": "own/thinker", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1_000}
    with streaming(product, key, stop=["x" * (4 * withheld + 1)], **body) as response:
        for _ in response.iter_lines():
            break
    assert settled(booked)
    assert spent() >= (withheld + 1) * OUTPUT


def test_what_azures_content_filter_refuses_is_billed(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"jailbreak": {"filtered": True}}}
    error = {"message": "The prompt was filtered.", "code": "content_filter", "status": 400, "innererror": inner}
    make.budget("1.00")
    booked.next(plain(400, {"error": error}))
    assert ask(product, product.key()) == 400
    assert settled(booked)
    row = SpendEntry.objects.get()
    assert (row.certainty, row.cost_nanos) == ("estimated", held_nanos())
