"""What an answer says before its end counts, however the call ends; what is no text of a model's does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import Alert, Overrun, Reservation, SpendEntry
from llm.catalogue import snapshot
from llm.models import Model, Price
from tests import factories as make
from tests.factories import nanos
from tests.llm.gateway.test_chat import nothing_is_held, streaming
from tests.llm.gateway.test_overruns import (  # noqa: F401
    CONTEXT,
    INPUT,
    OUTPUT,
    ask,
    hear,
    held_nanos,
    product,
    reading,
    scripted,
    settled,
    thinker,
)
from tests.product import Product, eventually

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TIMES = 100


def framed(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


def chunk(**more: Any) -> bytes:
    said = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "thinker"} | more
    return framed(b"data: " + json.dumps(said).encode() + b"\n\n")


def counting(read: int, *, model: str = "thinker", usage: bool = True) -> Answer:
    """A slow stream whose every chunk says what was used so far."""
    steps: list[Any] = [HEAD]
    for written in range(1, 40):
        used = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
        steps += [chunk(model=model, choices=[choice], **({"usage": used} if usage else {})), 0.03]
    return Answer(script=steps, tokens=0)


def anthropics(read: int) -> Answer:
    """Its first event says what was read, and the last one would say what was written."""

    def event(kind: str, **more: Any) -> bytes:
        return framed(f"event: {kind}\ndata: ".encode() + json.dumps({"type": kind} | more).encode() + b"\n\n")

    message = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": []}
    steps: list[Any] = [
        HEAD,
        event("message_start", message=message | {"usage": {"input_tokens": read, "output_tokens": 1}}),
    ]
    steps.append(event("content_block_start", index=0, content_block={"type": "text", "text": ""}))
    for _ in range(40):
        steps += [event("content_block_delta", index=0, delta={"type": "text_delta", "text": "x"}), 0.03]
    return Answer(script=steps, tokens=0)


def model_of(provider: str, name: str, *, times: int = 1) -> None:
    row = Model.objects.create(
        name=name,
        provider=provider,
        owned_by="x",
        kinds=["chat"],
        capabilities=["chat"],
        context_tokens=CONTEXT,
    )
    for unit, nanos_each in (("input", INPUT), ("output", OUTPUT)):
        Price(model=row, unit=unit, picos_per_unit=times * nanos_each * 1000).save()
    snapshot.forget()
    snapshot.current()


def leave(product: Product, key: str, **fields: Any) -> int:  # noqa: F811
    """Begin a stream, read its first bytes, and go."""
    body = {"model": "own/thinker", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 48} | fields
    with streaming(product, key, **body) as response:
        if response.status_code == 200:
            next(response.iter_raw())
        else:
            response.read()
    assert eventually(nothing_is_held)
    return response.status_code


def spent() -> int:
    return sum(SpendEntry.objects.values_list("cost_nanos", flat=True))


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_what_a_stream_said_it_had_read_is_charged_though_its_client_leaves(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    dialect: str,
) -> None:
    model_of("claude", "c")
    make.budget("0.0004")
    key = product.key()
    answer, name = (counting(1_000), "own/thinker") if dialect == "openai" else (anthropics(1_000), "claude/c")
    statuses = []
    for _ in range(4):
        booked.next(answer)
        statuses.append(leave(product, key, model=name))
    # Each has read $0.00015, and written something.
    assert statuses[0] == 200
    assert statuses[-1] == 402
    assert spent() >= statuses.count(200) * (1_000 * INPUT + OUTPUT)


@pytest.mark.parametrize("usage", [True, False])
def test_a_dearer_model_that_a_stream_names_is_charged_though_its_client_leaves(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    usage: bool,
) -> None:
    model_of("own", "dear", times=TIMES)
    make.budget("1.00")
    key = product.key()
    booked.next(counting(10, model="dear", usage=usage))
    assert leave(product, key) == 200
    assert spent() >= TIMES * (10 * INPUT + OUTPUT)


def test_a_dearer_model_that_an_answer_without_usage_names_is_charged(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    model_of("own", "dear", times=TIMES)
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(tokens=20, usage="none", model="dear"))
    assert ask(product, key) == 200
    assert spent() >= TIMES * (INPUT + 20 * OUTPUT)
    # Mistral serves what it was asked for, or another model of its line.
    booked.next(Answer(tokens=20, usage="none", model="mistral-large-latest"))
    before = spent()
    assert ask(product, key, model="mistral-small-latest") == 200
    assert spent() - before <= held_nanos()


@pytest.mark.parametrize("side", ["input", "output"])
def test_one_absurd_count_hides_no_later_one_that_is_true(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    side: str,
) -> None:
    def answer(tokens: int) -> Answer:
        used = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": tokens + 3}
        return reading(tokens) if side == "input" else Answer(tokens=10, usage=used)

    make.budget("1.00")
    key = product.key()
    for tokens, status in ((10**12, 200), (1_000_000, 200), (1_000_000, 400)):
        booked.usual = answer(tokens)
        assert ask(product, key) == status


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_prefix_that_the_answer_repeats_is_not_written_by_the_model(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    stream: bool,
) -> None:
    make.budget("1.00")
    key = product.key()
    prefix = "a" * 1_000
    used = {"prompt_tokens": 1_010, "completion_tokens": 1, "total_tokens": 1_011}
    choice = {"index": 0, "finish_reason": "stop"}
    if stream:
        told = chunk(model="m", choices=[choice | {"delta": {"content": prefix + "b"}}], usage=used)
        booked.next(Answer(script=[HEAD, told, framed(b"data: [DONE]\n\n"), b"0\r\n\r\n"], tokens=0))
    else:
        said = {"id": "c", "object": "chat.completion", "created": 1, "model": "mistral-large-latest", "usage": used}
        message = {"role": "assistant", "content": prefix + "b"}
        booked.next(scripted(said | {"choices": [choice | {"message": message}]}))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": prefix, "prefix": True}]
    fields = {"model": "mistral-large-latest", "messages": messages, "max_tokens": 1}
    assert ask(product, key, stream=stream, **fields) == 200
    assert settled(booked)
    assert not Overrun.objects.exists()
    assert SpendEntry.objects.get().overage_nanos == 0


def test_what_a_search_found_is_no_text_and_ends_no_stream(product: Product, booked: BookedUpstream) -> None:  # noqa: F811
    make.budget("1.00")
    key = product.key()
    finds = [{"title": "x" * 2_000, "unknown": ["y" * 2_000]}]
    choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
    steps: list[Any] = [HEAD, *[chunk(choices=[choice], found_by_search=finds)] * 20]
    used = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    steps += [
        chunk(choices=[choice | {"finish_reason": "stop"}], usage=used),
        framed(b"data: [DONE]\n\n"),
        b"0\r\n\r\n",
    ]
    booked.next(Answer(script=steps, tokens=0))
    assert ask(product, key, stream=True) == 200
    assert settled(booked)
    row = SpendEntry.objects.get()
    assert (row.certainty, row.cost_nanos) == ("confirmed", 10 * INPUT + 20 * OUTPUT)


def test_a_long_sound_is_charged_in_full_and_ends_the_route_for_nobody_else(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    make.budget("100.00")
    key = product.key()
    whose = f"tenant-{make.tenant().pk}"
    said = {"model": "voxtral-mini-latest", "text": "hi", "usage": {"prompt_audio_seconds": 14_400}}
    booked.next(scripted(said))
    assert hear(product, key, packed=True) == 200
    row = SpendEntry.objects.get()
    assert (row.units, row.certainty) == (14_400, "confirmed")
    assert row.overage_nanos > 0
    assert Overrun.objects.get().asked == f"{whose} unmeasured"
    booked.next(scripted(said | {"usage": {"prompt_audio_seconds": 1}}))
    assert hear(product, key) == 200
    assert hear(product, key, packed=True) == 400
    assert nanos("0.01") > held_nanos()


def test_a_sound_that_goes_on_behind_the_seconds_it_tells_is_charged_as_it_goes(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    make.budget("100.00")
    segments = [{"start": 0, "end": 9.5, "text": "hi"}, {"start": 9.5, "end": 3_599.2, "text": "ho"}]
    said = {"model": "voxtral-mini-latest", "text": "hi", "usage": {"prompt_audio_seconds": 1}, "segments": segments}
    booked.next(scripted(said))
    assert hear(product, product.key(), packed=True) == 200
    row = SpendEntry.objects.get()
    assert (row.units, row.certainty, row.reason) == (3_600, "estimated", "usage_implausible")
    assert eventually(lambda: Alert.objects.filter(kind="usage_implausible").exists())


def test_a_version_beside_the_model_is_no_other_model(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    make.budget("1.00")
    used = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    choice = {"index": 0, "message": {"role": "assistant", "content": "x" * 20}, "finish_reason": "stop"}
    booked.next(scripted({"model": "thinker", "model_version": "1.1.0", "choices": [choice], "usage": used}))
    assert ask(product, product.key()) == 200
    assert settled(booked)
    row = SpendEntry.objects.get()
    assert (row.certainty, row.cost_nanos) == ("confirmed", 10 * INPUT + 20 * OUTPUT)


@pytest.mark.parametrize("usage", [{}, {"usage": {"prompt_tokens": 10}}], ids=["nothing", "half"])
def test_text_in_any_place_may_be_written_where_nothing_is_said_of_what_was(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    usage: dict[str, Any],
) -> None:
    make.budget("100.00")
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    booked.next(scripted({"model": "thinker", "choices": [choice], "notes": "y" * 100_000} | usage))
    assert ask(product, product.key()) == 200
    assert settled(booked)
    row = SpendEntry.objects.get()
    assert (row.certainty, row.cost_nanos) == ("estimated", Reservation.objects.get().amount_nanos)
    assert not Overrun.objects.exists()


@pytest.mark.parametrize("output", [None, -5, 2**70, "many", "none"], ids=str)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_half_a_usage_is_a_least_that_is_charged_and_learned_from(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    output: Any,
    stream: bool,
) -> None:
    make.budget("0.013")
    key = product.key()
    used = {"prompt_tokens": 30_000} | ({} if output == "none" else {"completion_tokens": output})
    booked.usual = Answer(tokens=10, usage=used)
    assert [ask(product, key, stream=stream) for _ in range(4)] == [200] * 3 + [402]
    assert Overrun.objects.get().tokens == 30_000
    # From the second on each is charged what it has read.
    assert spent() >= 2 * 30_000 * INPUT


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("code", [500, 502, 504, None], ids=str)
def test_a_failure_that_is_stated_in_a_200_costs_what_it_costs_under_its_own_status(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    code: int | None,
    stream: bool,
) -> None:
    make.budget("1.00")
    key = product.key()
    error = {"error": {"message": "upstream provider disconnected"} | ({"code": code} if code else {})}
    said = framed(b"data: " + json.dumps(error).encode() + b"\n\n")
    booked.next(Answer(script=[HEAD, said, b"0\r\n\r\n"], tokens=48) if stream else scripted(error))
    assert ask(product, key, stream=stream) >= 500
    assert settled(booked)
    assert SpendEntry.objects.get().cost_nanos == held_nanos()
    assert spent() >= 48 * OUTPUT


def test_a_refusal_that_bills_is_not_sent_again_under_the_newer_name(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    make.budget("1.00")
    key = product.key()
    usage = {"prompt_tokens": 1_000, "completion_tokens": 10, "total_tokens": 1_010}
    said = json.dumps({"error": {"message": "use max_completion_tokens"}, "usage": usage}).encode()
    head = b"HTTP/1.1 400 Refused\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(said)
    booked.next(*[Answer(script=[head + said], tokens=0)] * 2)
    assert ask(product, key) == 400
    assert settled(booked)
    assert len(booked.books.entries) == 1
    assert spent() == 1_000 * INPUT + 10 * OUTPUT
