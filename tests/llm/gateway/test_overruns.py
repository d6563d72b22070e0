"""Models that write beyond `max_tokens` or read beyond what was sent: what one answer shows holds for the next call.

In every process. The endpoint's own books say what was spent; 20 such calls spent 36 times a cap.
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.actions import budgets
from governance.audit import Actor
from governance.models import Alert, AuditEntry, BudgetWindow, Overrun, Reservation, SpendEntry
from llm.catalogue import snapshot
from llm.models import Model, ModelAlias, Price, ProviderEndpoint
from llm.providers import endpoints
from tests import factories as make
from tests.factories import nanos
from tests.llm.gateway.test_chat import nothing_is_held, streaming
from tests.product import Product, eventually

INPUT, OUTPUT = 150, 600
CONTEXT = 32_000
# All that a model can read, where it goes into its provider's cache.
WRITTEN = CONTEXT * INPUT * 5 // 4
THINKS = Answer(tokens=10, unseen_tokens=18_000, obeys_max_tokens=False)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def thinker(transactional_db: None, shipped_catalogue: None, booked: BookedUpstream) -> Iterator[Model]:
    row = Model.objects.create(
        name="thinker",
        provider="own",
        owned_by="own",
        kinds=["chat"],
        capabilities=["chat", "tools", "json"],
        context_tokens=CONTEXT,
    )
    for unit, nanos_each in (("input", INPUT), ("output", OUTPUT)):
        Price(model=row, unit=unit, picos_per_unit=nanos_each * 1000).save()
    for name, kind in (("own", "openai_compatible"), ("claude", "anthropic")):
        base = booked.base_url + ("/v1" if name == "own" else "")
        endpoint = ProviderEndpoint(name=name, kind=kind, base_url=base)
        endpoints.save(row=endpoint, new_key="k", by=Actor(name="ops"), now=make.NOON)
    snapshot.forget()
    booked.books.rates["thinker"] = (INPUT * 1000, INPUT * 1000, OUTPUT * 1000)
    yield row
    del booked.books.rates["thinker"]
    snapshot.forget()


@pytest.fixture
def product(thinker: Model, product: Product) -> Product:
    return product


def ask(product: Product, key: str, *, stream: bool = False, **fields: Any) -> int:
    body = {"model": "own/thinker", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 48} | fields
    if not stream:
        return product.post("/v1/chat/completions", key, **body).status_code
    with streaming(product, key, **body) as response:
        response.read()
        return response.status_code


def held_nanos() -> int:
    return Reservation.objects.latest("reserved_at").amount_nanos


def settled(booked: BookedUpstream) -> bool:
    return booked.idle() and eventually(nothing_is_held)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_of_20_calls_one_passes_the_cap(product: Product, booked: BookedUpstream, stream: bool) -> None:
    make.budget("0.01")
    key = product.key()
    booked.usual = THINKS
    statuses = [ask(product, key, stream=stream) for _ in range(20)]
    assert statuses == [200] + [402] * 19
    assert len(booked.books.entries) == 1
    seen = Overrun.objects.get()
    assert (seen.place, seen.asked, seen.tokens, seen.permitted) == ("own/thinker", "", 18_010, 48)
    assert seen.reservation_id == SpendEntry.objects.get().reservation_id


def test_of_calls_at_once_those_that_ran_pass_the_cap_and_no_later_one(
    product: Product, booked: BookedUpstream
) -> None:
    make.budget("0.01")
    key = product.key()
    booked.usual = Answer(tokens=10, unseen_tokens=18_000, obeys_max_tokens=False, head_after_s=0.5)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: ask(product, key), range(8))) == {200}
    assert [ask(product, key) for _ in range(3)] == [402] * 3
    assert len(booked.books.entries) == 8
    assert Overrun.objects.count() == 1


def test_later_calls_hold_for_the_context_ask_for_no_more_and_are_charged_what_they_used(
    product: Product, booked: BookedUpstream
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.usual = THINKS
    ask(product, key)
    before = SpendEntry.objects.get().cost_nanos, booked.books.spent_nanos
    assert ask(product, key) == ask(product, key, stream=True) == 200
    assert settled(booked)
    assert held_nanos() >= CONTEXT * OUTPUT
    assert json.loads(booked.books.entries[-1].body)["max_tokens"] == 48
    charged = sum(row.cost_nanos for row in SpendEntry.objects.all()) - before[0]
    assert charged == booked.books.spent_nanos - before[1]
    assert SpendEntry.objects.filter(certainty="confirmed", overage_nanos=0).count() == 2
    assert Overrun.objects.count() == 1


def test_a_model_that_passes_its_bound_and_has_no_other_is_refused_until_an_operator_has_seen_to_it(
    product: Product, booked: BookedUpstream, thinker: Model
) -> None:
    make.budget("1.00")
    thinker.context_tokens = None
    thinker.save()
    snapshot.forget()
    snapshot.current()
    key, operator = product.key(), product.key(role="operator")
    booked.next(THINKS)
    assert ask(product, key) == 200
    refused = product.chat(key, model="own/thinker", max_tokens=48)
    assert (refused.status_code, refused.json()["code"]) == (400, "unbounded_output")
    assert "more than `max_tokens`" in refused.json()["message"]
    assert len(booked.books.entries) == 1
    alert = lambda: Alert.objects.filter(kind="model_overruns", subject="own/thinker", cleared_at=None)  # noqa: E731
    assert eventually(lambda: alert().exists())
    assert "18,010 tokens where 48 were permitted" in alert().get().message
    assert product.get("/api/models/own/thinker", operator).json()["overran_tokens"] == 18_010

    assert product.post("/api/models/own/thinker/clear-overruns", key).status_code == 403
    cleared = product.post("/api/models/own/thinker/clear-overruns", operator, reason="it keeps to it now")
    assert (cleared.status_code, cleared.json()["overran_tokens"]) == (200, None)
    assert product.post("/api/models/own/thinker/clear-overruns", operator).status_code == 409
    assert not alert().exists()
    assert AuditEntry.objects.get(action="overrun.clear").target == "own/thinker"
    assert ask(product, key) == 200


def test_an_answer_above_the_context_shows_that_this_bounds_nothing_either(
    product: Product, booked: BookedUpstream, thinker: Model
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(tokens=10, unseen_tokens=CONTEXT + 1, obeys_max_tokens=False))
    assert ask(product, key) == 200
    assert ask(product, key) == 400
    thinker.context_tokens = 64_000
    thinker.save()
    snapshot.forget()
    snapshot.current()
    assert ask(product, key) == 200


@pytest.mark.parametrize("usage", ["none", "honest", {"prompt_tokens": 3, "completion_tokens": 48}], ids=str)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_text_that_came_beyond_all_that_could_is_charged_whatever_is_reported(
    product: Product, booked: BookedUpstream, stream: bool, usage: Any
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(
        Answer(tokens=18_000, token_bytes=4, text_field="reasoning_content", obeys_max_tokens=False, usage=usage)
    )
    ask(product, key, stream=stream)
    assert settled(booked)
    row = SpendEntry.objects.get()
    assert row.cost_nanos >= booked.books.spent_nanos
    assert row.overage_nanos > 0
    assert Overrun.objects.get().asked == ""


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"n": 2}, "answers"),
        ({"tools": [TOOL]}, "tools"),
        ({"reasoning_effort": "high"}, "thinking"),
        ({"enable_thinking": True, "thinking_budget": 100}, "thinking"),
        ({"tools": [TOOL], "reasoning_effort": "high"}, "thinking tools"),
    ],
    ids=str,
)
def test_what_a_request_asks_for_makes_other_requests_no_dearer_and_is_not_asked_for_twice(
    product: Product, booked: BookedUpstream, fields: dict[str, Any], asked: str
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(THINKS)
    assert ask(product, key, **fields) == 200
    assert Overrun.objects.get().asked == asked
    assert ask(product, key) == 200
    assert held_nanos() < 1_000 * OUTPUT
    assert ask(product, key, **fields) == 200
    assert held_nanos() >= CONTEXT * OUTPUT


@pytest.mark.parametrize("reported", [1, 16, 65])
def test_marks_and_least_lengths_of_an_endpoint_are_no_overrun(
    product: Product, booked: BookedUpstream, reported: int
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(tokens=reported, obeys_max_tokens=False))
    assert ask(product, key, max_tokens=1) == 200
    assert not Overrun.objects.exists()


@pytest.mark.parametrize("tokens", [2, 65, 66])
def test_a_model_of_mistrals_that_writes_a_little_more_is_charged_so_and_stops_at_its_cap(
    product: Product, booked: BookedUpstream, tokens: int
) -> None:
    make.budget("0.00003")
    key = product.key()
    booked.usual = Answer(tokens=tokens, obeys_max_tokens=False)
    statuses = [ask(product, key, model="mistral-small-latest", max_tokens=1) for _ in range(30)]
    assert booked.idle()
    assert statuses[-1] == 402
    dearest = max(entry.cost_nanos for entry in booked.books.entries)
    assert booked.books.spent_nanos <= nanos("0.00003") + dearest
    if tokens <= 65:
        assert sum(SpendEntry.objects.values_list("cost_nanos", flat=True)) == booked.books.spent_nanos


def test_it_holds_by_every_name_that_leads_to_the_model(
    product: Product, booked: BookedUpstream, thinker: Model
) -> None:
    ModelAlias(name="other-name", model=thinker).save()
    snapshot.forget()
    snapshot.current()
    rule = {"from": ["mistral-large-latest"], "to": "own/thinker"}
    make.budget("0.50", downgrade_rules=[rule], soft_cap="0.0001")
    key = product.key()
    booked.next(THINKS)
    assert ask(product, key, model="thinker") == 200
    for name in ("own/other-name", "other-name", "mistral-large-latest"):
        assert ask(product, key, model=name) == 200
        assert booked.books.entries[-1].model == "thinker"
        assert held_nanos() >= CONTEXT * OUTPUT


def test_mistrals_models_are_held_to_it_too(product: Product, booked: BookedUpstream) -> None:
    make.budget("10.00")
    key = product.key()
    booked.next(THINKS)
    assert ask(product, key, model="mistral-small-latest") == 200
    assert Overrun.objects.get().place.startswith("mistral/mistral-small")
    assert ask(product, key, model="mistral-small-latest") == 200
    assert held_nanos() >= 100_000 * OUTPUT


def test_anthropics_are_held_to_it_too(product: Product, booked: BookedUpstream, thinker: Model) -> None:
    row = Model.objects.create(
        name="c", provider="claude", owned_by="x", kinds=["chat"], capabilities=["chat"], context_tokens=CONTEXT
    )
    for unit, nanos_each in (("input", INPUT), ("output", OUTPUT)):
        Price(model=row, unit=unit, picos_per_unit=nanos_each * 1000).save()
    snapshot.forget()
    snapshot.current()
    make.budget("1.00")
    key = product.key()
    said = json.dumps(
        {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "c",
            "content": [{"type": "text", "text": "Hi"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 18_000},
        }
    ).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(said)
    booked.next(*[Answer(script=[head + said], tokens=18_000)] * 2)
    assert ask(product, key, model="claude/c") == 200
    assert ask(product, key, model="claude/c") == 200
    assert held_nanos() >= CONTEXT * OUTPUT
    assert SpendEntry.objects.latest("occurred_at").cost_nanos == 3 * INPUT + 18_000 * OUTPUT


def test_a_lie_beyond_all_measure_makes_its_own_model_dear_and_no_other(
    product: Product, booked: BookedUpstream
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(tokens=10, usage="peta"))
    assert ask(product, key) == 200
    assert ask(product, key, model="mistral-small-latest") == 200
    assert held_nanos() < 1_000 * OUTPUT
    # Nor does it take that away, however often it is told.
    booked.next(*[Answer(tokens=10, usage="peta")] * 2)
    assert [ask(product, key) for _ in range(3)] == [200] * 3
    assert nanos("0.02") > held_nanos() >= CONTEXT * OUTPUT
    assert all(one.tokens <= CONTEXT for one in Overrun.objects.all())


@pytest.mark.parametrize("pages", [None, [0]], ids=["unmeasured", "measured"])
def test_nor_does_one_about_pages(product: Product, booked: BookedUpstream, pages: list[int] | None) -> None:
    make.budget("100.00")
    key = product.key()
    booked.next(*[scanned(10**8)] * 3)
    assert [scan(product, key, pages=pages) for _ in range(3)] == [200] * 3
    assert all(one.tokens <= 1_000 for one in Overrun.objects.all())


def reading(tokens: int) -> Answer:
    """An answer whose endpoint bills so much input, whatever was sent: it searched, or has a prompt of its own."""
    return Answer(tokens=10, usage={"prompt_tokens": tokens, "completion_tokens": 10, "total_tokens": tokens + 10})


def embedded(tokens: int) -> Answer:
    said = {"object": "list", "model": "mistral-embed", "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return scripted(said | {"data": [{"object": "embedding", "index": 0, "embedding": [0.1]}]})


def scanned(pages: int) -> Answer:
    said = {"pages": [], "model": "mistral-ocr-latest", "usage_info": {"pages_processed": pages}}
    return scripted(said)


def scripted(said: dict[str, Any]) -> Answer:
    body = json.dumps(said).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return Answer(script=[head + body], tokens=0)


def embed(product: Product, key: str, text: Any = "Hi") -> int:
    return product.post("/v1/embeddings", key, model="mistral-embed", input=text).status_code


def scan(product: Product, key: str, *, pages: Sequence[int] | None = (0,)) -> int:
    document = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
    asked = {} if pages is None else {"pages": pages}
    return product.post("/v1/ocr", key, model="mistral-ocr-latest", document=document, **asked).status_code


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("read", [2_000, 17_000, 30_000])
def test_of_20_calls_whose_endpoint_reads_more_than_was_sent_one_passes_the_cap(
    product: Product, booked: BookedUpstream, read: int, stream: bool
) -> None:
    make.budget("0.0003" if read < 10_000 else "0.004")
    key = product.key()
    booked.usual = reading(read)
    statuses = [ask(product, key, stream=stream) for _ in range(20)]
    assert statuses == [200] + [402] * 19
    seen = Overrun.objects.get()
    assert (seen.place, seen.side, seen.tokens) == ("own/thinker", "input", read)
    assert seen.permitted < 1_000


def test_once_it_read_more_its_context_is_held_for_and_what_it_reads_is_charged(
    product: Product, booked: BookedUpstream
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.usual = reading(30_000)
    ask(product, key)
    before = sum(row.cost_nanos for row in SpendEntry.objects.all())
    assert ask(product, key) == ask(product, key, stream=True) == 200
    assert settled(booked)
    assert WRITTEN <= held_nanos() < WRITTEN + 100 * OUTPUT
    charged = sum(row.cost_nanos for row in SpendEntry.objects.all()) - before
    assert charged == 2 * (30_000 * INPUT + 10 * OUTPUT)
    assert SpendEntry.objects.filter(certainty="confirmed", overage_nanos=0).count() == 2
    assert Overrun.objects.count() == 1


def test_a_model_that_reads_above_its_context_is_refused_until_an_operator_has_seen_to_it(
    product: Product, booked: BookedUpstream, thinker: Model
) -> None:
    make.budget("1.00")
    key, operator = product.key(), product.key(role="operator")
    booked.next(reading(CONTEXT + 1))
    assert ask(product, key) == 200
    refused = product.chat(key, model="own/thinker", max_tokens=48)
    assert (refused.status_code, refused.json()["code"]) == (400, "unbounded_input")
    assert "reads more than it is sent" in refused.json()["message"]
    assert len(booked.books.entries) == 1
    alert = lambda: Alert.objects.filter(kind="model_overruns", subject="own/thinker", cleared_at=None)  # noqa: E731
    assert eventually(lambda: alert().exists())
    assert "own/thinker read 32,001 tokens" in alert().get().message
    shown = product.get("/api/models/own/thinker", operator).json()
    assert (shown["overran_tokens"], shown["overread_tokens"]) == (None, CONTEXT + 1)
    cleared = product.post("/api/models/own/thinker/clear-overruns", operator)
    assert (cleared.status_code, cleared.json()["overread_tokens"]) == (200, None)
    assert ask(product, key) == 200


def test_what_was_asked_for_makes_other_requests_input_no_dearer(product: Product, booked: BookedUpstream) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(reading(30_000))
    assert ask(product, key, tools=[TOOL]) == 200
    assert ask(product, key) == 200
    assert held_nanos() < 1_000 * OUTPUT
    assert ask(product, key, tools=[TOOL]) == 200
    assert held_nanos() >= CONTEXT * INPUT


@pytest.mark.parametrize("beyond", ["input", "output"])
def test_both_sides_are_kept_and_each_holds_for_its_own(product: Product, booked: BookedUpstream, beyond: str) -> None:
    make.budget("1.00")
    key = product.key()
    for answer in (THINKS, reading(30_000)) if beyond == "input" else (reading(30_000), THINKS):
        booked.next(answer)
        assert ask(product, key) == 200
    assert sorted(Overrun.objects.values_list("side", "tokens")) == [("input", 30_000), ("output", 18_010)]
    assert ask(product, key) == 200
    assert held_nanos() == WRITTEN + CONTEXT * OUTPUT


def test_a_prompt_of_an_endpoints_own_is_charged_and_a_short_one_is_no_overrun(
    product: Product, booked: BookedUpstream
) -> None:
    make.budget("1.00")
    key = product.key()
    for read, overruns in ((1_000, 0), (16_000, 1)):
        booked.next(reading(read))
        assert ask(product, key) == 200
        assert settled(booked)
        assert SpendEntry.objects.latest("occurred_at").cost_nanos == read * INPUT + 10 * OUTPUT
        assert Overrun.objects.count() == overruns


@pytest.mark.parametrize("read", [512, 1_030, 8_000])
def test_of_20_embeddings_whose_endpoint_reads_more_than_was_sent_one_passes_the_cap(
    product: Product, booked: BookedUpstream, read: int
) -> None:
    make.budget("0.00002")
    key = product.key()
    booked.usual = embedded(read)
    statuses = [embed(product, key) for _ in range(20)]
    assert statuses == [200] + [402] * 19


def test_each_input_of_an_embedding_is_held_for_and_believed_by_itself(
    product: Product, booked: BookedUpstream
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(embedded(8_000))
    assert embed(product, key) == 200
    assert Overrun.objects.get().tokens == 8_000
    one = held_nanos()
    for inputs, of in ((["Hi"] * 3, 3), ("Hi", 1)):
        booked.next(embedded(of * 7_000))
        assert embed(product, key, inputs) == 200
        assert held_nanos() == of * 8_000 * 100
        assert SpendEntry.objects.latest("occurred_at").cost_nanos == of * 7_000 * 100
    assert one < 2_000


def test_pages_beyond_those_asked_for_are_held_for_from_then_on(product: Product, booked: BookedUpstream) -> None:
    make.budget("100.00")
    key = product.key()
    booked.usual = scanned(40)
    assert scan(product, key) == 200
    one = SpendEntry.objects.get().cost_nanos
    seen = Overrun.objects.get()
    assert (seen.side, seen.tokens, seen.permitted) == ("input", 40, 1)
    assert scan(product, key) == 200
    assert held_nanos() == 1_000 * one
    assert SpendEntry.objects.latest("occurred_at").cost_nanos == 40 * one


def test_more_pages_than_any_document_has_are_refused_from_then_on(product: Product, booked: BookedUpstream) -> None:
    make.budget("100.00")
    key = product.key()
    booked.usual = scanned(1_001)
    assert [scan(product, key) for _ in range(2)] == [200, 400]


def test_seconds_that_a_sound_cannot_have_are_held_for_from_then_on(product: Product, booked: BookedUpstream) -> None:
    make.budget("100.00")
    key = product.key()
    for seconds, overruns in ((60, 0), (61, 1), (3_000, 1)):
        said = {"model": "voxtral-mini-latest", "text": "hi", "usage": {"prompt_audio_seconds": seconds}}
        booked.next(scripted(said))
        assert hear(product, key) == 200
        assert Overrun.objects.count() == overruns
    last = SpendEntry.objects.latest("occurred_at")
    assert (last.certainty, last.units, last.overage_nanos) == ("confirmed", 3_000, 0)
    booked.next(scripted(said | {"usage": {"prompt_audio_seconds": 50_000}}))
    assert [hear(product, key) for _ in range(2)] == [200, 400]


@pytest.mark.parametrize("packed", [False, True], ids=["measured", "unmeasured"])
def test_a_sound_that_is_longer_than_it_seems_makes_other_tenants_sounds_no_dearer(
    product: Product, booked: BookedUpstream, packed: bool
) -> None:
    ours, theirs = make.tenant("acme"), make.tenant("beta")
    for tenant in (ours, theirs):
        make.budget("100.00", tenant=tenant)
    key, other = product.key(of=ours), product.key(of=theirs)
    said = {"model": "voxtral-mini-latest", "text": "hi", "usage": {"prompt_audio_seconds": 20_000}}
    booked.next(scripted(said))
    assert hear(product, key, packed=packed) == 200
    assert str(ours.pk) in Overrun.objects.get().asked
    assert hear(product, key, packed=packed) == 400
    booked.next(scripted(said | {"usage": {"prompt_audio_seconds": 1}}))
    assert hear(product, other, packed=packed) == 200
    assert held_nanos() == (10_800 if packed else 60) * 50_000


def test_sound_that_is_counted_up_to_minutes_passes_no_cap(product: Product, booked: BookedUpstream) -> None:
    """At once, of a second each, in window after window."""
    budget = make.budget("0.01")
    key = product.key()
    booked.usual = scripted({"model": "voxtral-mini-latest", "text": "hi", "usage": {"prompt_audio_seconds": 60}})
    for spent_before in (0, 3):
        with ThreadPoolExecutor(8) as pool:
            assert [*pool.map(lambda _: hear(product, key), range(8))].count(200) == 3
        billed_nanos = 60 * 50_000 * (len(booked.books.entries) - spent_before)
        window = BudgetWindow.objects.get(closed_at__isnull=True)
        assert window.settled_nanos == billed_nanos <= nanos("0.01")
        budgets.reset(budget=budget, reason="next", by=Actor("ada"), now=timezone.now())
    assert not SpendEntry.objects.filter(overage_nanos__gt=0).exists()
    assert not Overrun.objects.exists()


def hear(product: Product, key: str, *, packed: bool = False) -> int:
    """One second of silence; packed, nobody here knows how long it is."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(bytes(16_000))
    return httpx.post(
        product.url + "/v1/audio/transcriptions",
        data={"model": "voxtral-mini-latest"},
        files={"file": ("a.ogg", b"OggS" + bytes(100)) if packed else ("a.wav", sound.getvalue())},
        headers={"authorization": f"Bearer {key}"},
        timeout=30,
    ).status_code


@pytest.mark.parametrize("answer", [THINKS, reading(30_000)], ids=["writes", "reads"])
@pytest.mark.parametrize("tools", [[], ["look"]], ids=["plain", "tools"])
def test_a_dry_run_and_a_hold_of_an_agents_own_are_priced_by_it_too(
    product: Product, booked: BookedUpstream, thinker: Model, answer: Answer, tools: list[str]
) -> None:
    make.budget("1.00")
    key = product.key()
    sized = {"model": "own/thinker", "input_tokens": 10, "max_tokens": 48, "tools": tools}
    plain = Decimal(product.post("/api/decisions", key, **sized).json()["estimated_cost"])
    booked.next(answer)
    ask(product, key, **({"tools": [TOOL]} if tools else {}))
    each = OUTPUT if answer is THINKS else INPUT
    assert Decimal(product.post("/api/decisions", key, **sized).json()["estimated_cost"]) * 10**9 >= CONTEXT * each
    assert product.post("/api/reservations", key, **sized).status_code == 201
    assert held_nanos() >= CONTEXT * each
    others = product.post("/api/decisions", key, **(sized | {"tools": []})).json()
    assert (Decimal(others["estimated_cost"]) == plain) is bool(tools)

    thinker.context_tokens = None
    thinker.save()
    snapshot.forget()
    snapshot.current()
    assert product.post("/api/decisions", key, **sized).json()["reason"] == "model_not_priced"
