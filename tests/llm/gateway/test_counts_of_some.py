"""What an answer says of some of it is not believed of all: of several answers, of its pages, of the model it names."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import Alert, Overrun, SpendEntry
from llm.catalogue import snapshot
from llm.models import Model, ModelAlias
from tests import factories as make
from tests.llm.gateway.test_overruns import (  # noqa: F401  (fixtures)
    INPUT,
    OUTPUT,
    ask,
    held_nanos,
    product,
    scripted,
    settled,
    thinker,
)
from tests.llm.gateway.test_said_in_between import HEAD, TIMES, chunk, framed, leave, model_of
from tests.product import Product, eventually

ANSWERS, TOKENS = 3, 200
DIGITS = "7" * TOKENS
DONE = (framed(b"data: [DONE]\n\n"), b"0\r\n\r\n")
TRUTH = 10 * INPUT + ANSWERS * TOKENS * OUTPUT


def used(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}


def stream(*counted: int, indexes: tuple[int, ...] = (0, 1, 2), tokens: int = TOKENS) -> Answer:
    """Three answers, whose ends come one by one: those of these indexes last, and with their count."""
    parts = [chunk(choices=[{"index": at, "delta": {"content": DIGITS}, "finish_reason": None}]) for at in indexes]
    end = {"delta": {}, "finish_reason": "stop"}
    parts += [chunk(choices=[end | {"index": at}]) for at in indexes if at not in counted]
    parts += [chunk(choices=[end | {"index": at, "usage": used(tokens)}]) for at in counted]
    return Answer(script=[HEAD, *parts, *DONE], tokens=ANSWERS * tokens)


def beside(at_most: int) -> Answer:
    """Three answers, with a count beside the end of each, of so many tokens at most."""
    parts = [chunk(choices=[{"index": at, "delta": {"content": DIGITS}, "finish_reason": None}]) for at in range(3)]
    for at in range(ANSWERS):
        end = {"index": at, "delta": {}, "finish_reason": "stop"}
        parts.append(chunk(choices=[end], usage=used(min(at_most, (at + 1) * TOKENS))))
    return Answer(script=[HEAD, *parts, *DONE], tokens=ANSWERS * TOKENS)


def plain(*counted: int, **more: Any) -> Answer:
    choices: list[dict[str, Any]] = [
        {"index": at, "finish_reason": "stop", "message": {"role": "assistant", "content": DIGITS}}
        for at in range(ANSWERS)
    ]
    for at in counted:
        choices[at]["usage"] = used(TOKENS)
    return scripted(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "thinker", "choices": choices} | more
    )


def charged(product: Product, booked: BookedUpstream, answer: Answer, **fields: Any) -> SpendEntry:  # noqa: F811
    make.budget("100.00")
    booked.next(answer)
    assert ask(product, product.key(), **fields) == 200
    assert settled(booked)
    return SpendEntry.objects.get()


@pytest.mark.parametrize(
    ("answer", "is_stream"),
    [
        (stream(0, 1), True),
        (stream(0), True),
        (stream(0, 0, 0, indexes=(0, 0, 0)), True),
        (stream(0, 0, 0), True),
        (beside(TOKENS), True),
        (plain(0, 1), False),
        (plain(2), False),
        (plain(2, usage={"prompt_tokens": 10}), False),
        (plain(0, 1, usage=used(TOKENS)), False),
    ],
    ids=[
        "2 of 3",
        "1 of 3",
        "one index",
        "one thrice",
        "beside each end",
        "plain 2",
        "plain 1",
        "beside a half",
        "beside a smaller one",
    ],
)
def test_answers_without_a_count_are_charged_by_what_came_of_them(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    answer: Answer,
    is_stream: bool,
) -> None:
    row = charged(product, booked, answer, n=ANSWERS, max_tokens=300, stream=is_stream)
    assert row.certainty == "estimated"
    assert TRUTH <= row.cost_nanos <= held_nanos()


@pytest.mark.parametrize(
    ("answer", "is_stream"),
    [(stream(2, 0, 1), True), (plain(0, 1, 2), False), (plain(0, usage=used(ANSWERS * TOKENS)), False)],
    ids=["stream", "plain", "of the call"],
)
def test_answers_that_all_have_their_count_are_charged_so(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    answer: Answer,
    is_stream: bool,
) -> None:
    row = charged(product, booked, answer, n=ANSWERS, max_tokens=300, stream=is_stream)
    assert (row.certainty, row.cost_nanos) == ("confirmed", TRUTH)


def test_where_those_that_were_counted_thought_unseen_so_may_the_others(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    row = charged(product, booked, stream(0, 1, tokens=2_000), n=ANSWERS, max_tokens=2_000, stream=True)
    assert row.cost_nanos >= 10 * INPUT + ANSWERS * 2_000 * OUTPUT


def scanned(shown: int, **said: Any) -> Answer:
    pages = [{"index": at, "markdown": "x"} for at in range(shown)]
    return scripted({"model": "mistral-ocr-latest", "pages": pages, **said})


@pytest.mark.parametrize("listed", [None, [0]], ids=["unmeasured", "one page"])
@pytest.mark.parametrize("said", [1, 9, 10, None])
def test_pages_that_came_are_charged_whatever_is_said(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    said: int | None,
    listed: list[int] | None,
) -> None:
    make.budget("100.00")
    key = product.key()
    booked.next(scanned(10, usage_info={"pages_processed": said}))
    document = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
    fields = {"pages": listed} if listed else {}
    assert product.post("/v1/ocr", key, model="mistral-ocr-latest", document=document, **fields).status_code == 200
    row = SpendEntry.objects.get()
    assert row.units == 10 if said or listed else row.units > 10
    assert row.certainty == ("confirmed" if said == 10 and not listed else "estimated")
    if said in (1, 9):
        assert eventually(lambda: Alert.objects.filter(kind="usage_implausible").exists())
    # More pages than were asked for are held for from then on.
    assert Overrun.objects.exists() == bool(listed)


def test_an_answer_of_endless_pages_is_charged_no_more_than_a_document_may_have(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    make.budget("100.00")
    booked.next(scanned(50_000))
    document = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
    key = product.key()
    assert product.post("/v1/ocr", key, model="mistral-ocr-latest", document=document, pages=[0]).status_code == 200
    assert SpendEntry.objects.get().units == 4_000


def named(*names: str, last: str | None = None) -> Answer:
    """A stream whose parts name these models, and its end that one."""
    text = {"index": 0, "delta": {"content": "7"}, "finish_reason": None}
    parts = [chunk(model=name, choices=[text]) for name in names]
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    parts.append(chunk(model=last, choices=[end], usage=used(TOKENS)))
    return Answer(script=[HEAD, *parts, *DONE], tokens=TOKENS)


JUNK = tuple(f"junk-{at}" for at in range(20))


@pytest.mark.parametrize(
    "answer",
    [named("mega-9000"), named("mega-9000", last="thinker"), named(*["thinker"] * 20, *JUNK, last="thinker")],
    ids=["no name at its end", "the asked one at its end", "many"],
)
def test_a_model_without_a_price_that_any_part_names_is_charged_at_the_hold(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    answer: Answer,
) -> None:
    row = charged(product, booked, answer, max_tokens=300, stream=True)
    assert (row.certainty, row.reason, row.cost_nanos) == ("estimated", "model_unknown", held_nanos())
    assert eventually(lambda: Alert.objects.filter(kind="model_unknown", subject="own/thinker").exists())


def test_the_model_behind_a_deployment_is_charged_as_that_where_an_alias_says_so(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    """At Azure a call names a deployment, and its answer the model that was put there."""
    ModelAlias.objects.create(name="mega-9000", model=Model.objects.get(provider="own", name="thinker"))
    snapshot.forget()
    snapshot.current()
    row = charged(product, booked, named("mega-9000", last="mega-9000"), max_tokens=300, stream=True)
    assert (row.certainty, row.model_served, row.cost_nanos) == ("confirmed", "thinker", 10 * INPUT + TOKENS * OUTPUT)


def test_so_it_is_though_no_usage_comes(product: Product, booked: BookedUpstream) -> None:  # noqa: F811
    row = charged(product, booked, Answer(tokens=20, usage="none", model="mega-9000"), max_tokens=300)
    assert (row.certainty, row.cost_nanos) == ("estimated", held_nanos())
    assert eventually(lambda: Alert.objects.filter(kind="model_unknown", subject="own/thinker").exists())


def test_so_it_is_though_its_client_leaves(product: Product, booked: BookedUpstream) -> None:  # noqa: F811
    make.budget("100.00")
    text = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
    steps: list[Any] = [HEAD]
    for _ in range(60):
        steps += [chunk(model="mega-9000", choices=[text]), 0.03]
    booked.next(Answer(script=steps, tokens=0))
    assert leave(product, product.key(), max_tokens=300) == 200
    assert SpendEntry.objects.get().cost_nanos == held_nanos()


@pytest.mark.parametrize("last", [None, "thinker"])
@pytest.mark.parametrize("models", [30, 1])
def test_the_dearest_of_all_models_that_are_named_is_charged(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    models: int,
    last: str | None,
) -> None:
    for at in range(models - 1):
        model_of("own", f"cheap-{at}")
    model_of("own", "dear", times=TIMES)
    names = [f"cheap-{at}" for at in range(models - 1)]
    row = charged(product, booked, named(*names, "dear", last=last), max_tokens=300, stream=True)
    assert row.cost_nanos == TIMES * (10 * INPUT + TOKENS * OUTPUT)
    assert row.model_served == "dear"


def test_a_dearer_line_of_mistrals_is_believed_as_far_as_the_hold(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    answer = named("mistral-large-latest", last="mistral-small-latest")
    row = charged(product, booked, answer, model="mistral-small-latest", max_tokens=201, stream=True)
    assert (row.certainty, row.cost_nanos) == ("estimated", held_nanos())
    assert eventually(lambda: Alert.objects.filter(kind="usage_implausible").exists())


@pytest.mark.parametrize("model", ["mistral-large-latest", "mistral-small-latest"])
def test_what_a_model_reads_of_a_picture_beyond_its_bound_is_held_for_from_then_on(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
    model: str,
) -> None:
    make.budget("100.00")
    key = product.key()
    url = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 40).decode()
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]
    booked.usual = Answer(tokens=1, usage={"prompt_tokens": 100_000, "completion_tokens": 1, "total_tokens": 100_001})
    assert ask(product, key, model=model, messages=picture) == 200
    seen = Overrun.objects.get()
    assert (seen.side, seen.tokens, seen.asked) == ("input", 100_000, "pictures")
    # It is believed and charged, for once beyond its hold.
    row = SpendEntry.objects.get()
    assert row.certainty == "confirmed"
    assert row.overage_nanos > 0
    small = held_nanos()

    booked.usual = Answer(tokens=1)
    assert ask(product, key, model=model) == 200
    assert held_nanos() <= small
    booked.usual = Answer(tokens=1, usage={"prompt_tokens": 100_000, "completion_tokens": 1, "total_tokens": 100_001})
    assert ask(product, key, model=model, messages=picture) == 200
    assert held_nanos() > row.cost_nanos
    assert SpendEntry.objects.filter(overage_nanos=0).count() == 2


def test_pictures_that_read_as_they_should_are_no_overrun(
    product: Product,  # noqa: F811
    booked: BookedUpstream,
) -> None:
    make.budget("100.00")
    url = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 40).decode()
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]
    booked.next(Answer(tokens=1, usage={"prompt_tokens": 2_000, "completion_tokens": 1, "total_tokens": 2_001}))
    assert ask(product, product.key(), model="mistral-small-latest", messages=picture) == 200
    assert not Overrun.objects.exists()
