"""Calls of a model whose tokenizer the owner has named: less is held and charged, and never less than the truth."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from governance.models import Reservation
from llm.rules import bounds, exact_count, stream_count
from llm.rules.stream_count import MARKS, UNTIL_IT_STOPS
from llm.state import tokenizers
from llm.state.tokenizers import AT_ONCE_BYTES
from tests import factories as make
from tests.fakes.pair_tokenizer import LEARNED_FROM, PairTokenizer, write_tekken
from tests.llm.gateway import test_endings
from tests.llm.gateway.test_chat import entry, nothing_is_held, streaming
from tests.llm.gateway.test_endings import Upstream, chunk, head, stream_of
from tests.llm.state import test_tokenizers
from tests.product import Product

upstream, extra = test_endings.upstream, test_tokenizers.extra
MODEL = "mistral-large-2512"
INPUT, OUTPUT = 500, 1_500  # nanodollars a token of it
PIECES = [piece for word in LEARNED_FROM.split(" ") for piece in (word, " ")]
# What the upstreams below have truly written: a token a piece at least.
TRUTH = len(PIECES)


@pytest.fixture(autouse=True)
def tokenizer(settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PairTokenizer:
    """What TOKENIZERS names for the model, in place of what is read from its file."""
    found = PairTokenizer(name="tekken.json")
    settings.TOKENIZERS = {"mistral-large-latest": tmp_path / "tekken.json"}
    monkeypatch.setattr(tokenizers, "read", lambda path: found)
    # However busy the machine is that tries it.
    monkeypatch.setattr(tokenizers, "PATIENCE_S", 30.0)
    return found


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes at once here shows no pace, so that what is charged is one number."""
    monkeypatch.setattr(stream_count, "PACED_OVER_S", 60.0)


@pytest.fixture
def key(tokenizer: PairTokenizer, product: Product) -> str:
    make.budget("1.00")
    return product.key()


def stream_cut_after(pieces: list[str], **delta: Any) -> bytes:
    more = [chunk()] if not delta else [chunk().replace(b'{"content": ""}', json.dumps(delta).encode())]
    return stream_of(*map(chunk, pieces), *more)


def read(product: Product, key: str, **fields: Any) -> None:
    with streaming(product, key, max_tokens=2_000, **fields) as response:
        response.read()
    assert nothing_is_held()


def test_an_answer_without_usage_is_charged_at_the_count_of_its_text(
    product: Product,
    upstream: Upstream,
    key: str,
    tokenizer: PairTokenizer,
) -> None:
    upstream(stream_cut_after(PIECES))
    read(product, key)
    exact = exact_count.answer_tokens(tokenizer, {(0, "content"): [*PIECES, ""]})
    assert entry().output_tokens == exact + MARKS + UNTIL_IT_STOPS < len(LEARNED_FROM)
    assert entry().output_tokens >= TRUTH + UNTIL_IT_STOPS
    assert entry().cost_nanos == entry().input_tokens * INPUT + entry().output_tokens * OUTPUT
    assert (entry().certainty, entry().reason) == ("estimated", "upstream_cut")
    assert entry().metadata == {"tokenizer": "tekken.json"}


def test_what_is_written_letter_by_letter_is_charged_by_the_letter(
    product: Product,
    upstream: Upstream,
    key: str,
) -> None:
    upstream(stream_cut_after(list(LEARNED_FROM)))
    read(product, key)
    assert entry().output_tokens >= len(LEARNED_FROM)


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"1278": -100}},
        {"frequency_penalty": 1.5},
        {"temperature": 1.5},
        {"response_format": {"type": "json_object"}},
        {"stop": ["\n\n"]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_whoever_steers_the_tokens_is_charged_by_bytes(
    product: Product,
    upstream: Upstream,
    key: str,
    fields: dict[str, Any],
) -> None:
    upstream(stream_cut_after(PIECES))
    read(product, key, **fields)
    # Of what it is to stop at, all but one letter may be kept back.
    withheld = len(fields["stop"][0]) - 1 if "stop" in fields else 0
    assert entry().output_tokens == len(LEARNED_FROM) + 1 + withheld + MARKS + UNTIL_IT_STOPS


@pytest.mark.parametrize(
    "delta",
    [
        {"nobody_knows": LEARNED_FROM},
        {"tool_calls": [{"index": 0, "function": {"name": "", "arguments": LEARNED_FROM}}]},
        {"content": [{"type": "text", "nobody_knows": LEARNED_FROM}]},
    ],
    ids=["a field", "a tool call", "a part"],
)
def test_text_in_other_places_counts_by_its_bytes(
    product: Product,
    upstream: Upstream,
    key: str,
    delta: dict[str, Any],
) -> None:
    upstream(stream_cut_after(PIECES, **delta))
    read(product, key)
    assert len(LEARNED_FROM) + TRUTH + UNTIL_IT_STOPS < entry().output_tokens < 2 * len(LEARNED_FROM)


def test_half_an_event_at_the_end_counts_by_its_bytes(
    product: Product,
    upstream: Upstream,
    key: str,
) -> None:
    half = chunk(LEARNED_FROM).rstrip()[:-4]
    upstream(stream_of(*map(chunk, PIECES), half))
    read(product, key)
    assert entry().output_tokens > TRUTH + len(LEARNED_FROM)


def test_a_whole_answer_without_usage_is_counted(
    product: Product,
    upstream: Upstream,
    key: str,
    tokenizer: PairTokenizer,
) -> None:
    message = {"role": "assistant", "content": LEARNED_FROM}
    body = {"id": "a", "model": MODEL, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    upstream(head(content_type="application/json") + json.dumps(body).encode())
    assert product.chat(key, max_tokens=2_000).status_code == 200
    counted = exact_count.answer_tokens(tokenizer, {(0, "content"): [LEARNED_FROM]})
    assert entry().output_tokens == counted + MARKS < len(LEARNED_FROM)
    assert entry().output_tokens > tokenizer.count(LEARNED_FROM)
    assert (entry().certainty, entry().reason) == ("estimated", "usage_missing")


def test_a_count_that_takes_too_long_is_one_of_bytes(
    product: Product,
    upstream: Upstream,
    key: str,
    tokenizer: PairTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizers, "PATIENCE_S", 0.05)
    monkeypatch.setattr(tokenizers, "AT_ONCE_BYTES", 10)
    monkeypatch.setattr(tokenizer, "count", lambda text: time.sleep(0.2) or 1)
    upstream(stream_cut_after(PIECES))
    read(product, key)
    assert entry().output_tokens == len(LEARNED_FROM) + 1 + MARKS + UNTIL_IT_STOPS


class TestAdmission:
    PROMPT = LEARNED_FROM * 100

    def ask(self, product: Product, key: str, prompt: Any = PROMPT, **fields: Any) -> int:
        messages = [{"role": "user", "content": prompt}]
        return product.chat(key, messages=messages, max_tokens=10, **fields).status_code

    def test_a_long_prompt_that_fits_by_its_tokens_goes(self, product: Product, tokenizer: PairTokenizer) -> None:
        in_tokens = exact_count.tokens_within(tokenizer, self.PROMPT)
        marks = bounds.TOKENS_PER_REQUEST + bounds.TOKENS_PER_MESSAGE
        most = (in_tokens + marks) * INPUT + 10 * OUTPUT
        assert len(self.PROMPT) > AT_ONCE_BYTES
        assert len(self.PROMPT) > 2 * in_tokens
        make.budget(f"{most / 10**9:.9f}")
        key = product.key()
        assert self.ask(product, key, self.PROMPT + " more") == 402
        assert self.ask(product, key) == 200
        assert Reservation.objects.get().amount_nanos == most

    def test_parts_are_counted_each(self, product: Product, key: str, tokenizer: PairTokenizer) -> None:
        parts = [{"type": "text", "text": LEARNED_FROM}, {"type": "text", "text": LEARNED_FROM}]
        assert self.ask(product, key, parts) == 200
        held = Reservation.objects.get().amount_nanos - 10 * OUTPUT
        assert 2 * tokenizer.count(LEARNED_FROM) < held / INPUT < 2 * len(LEARNED_FROM)

    def test_a_model_that_nobody_named_one_for_counts_by_bytes(self, product: Product, key: str) -> None:
        assert self.ask(product, key, LEARNED_FROM, model="mistral-small-latest") == 200
        assert entry().model_served.startswith("mistral-small")
        assert Reservation.objects.get().amount_nanos >= len(LEARNED_FROM) * 150

    def test_what_tools_say_and_are_counts_by_bytes(self, product: Product, key: str) -> None:
        tool = {"type": "function", "function": {"name": "f", "description": self.PROMPT, "parameters": {}}}
        assert self.ask(product, key, "Hi", tools=[tool]) == 200
        assert Reservation.objects.get().amount_nanos > len(self.PROMPT) * INPUT

    def test_a_tokenizer_that_counted_too_little_is_used_no_more(
        self,
        product: Product,
        upstream: Upstream,
        key: str,
        tokenizer: PairTokenizer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(tokenizer, "count", lambda text: 0)
        upstream(stream_of(chunk("a", prompt=len(LEARNED_FROM) // 3, completion=2, finish="stop")))
        for _ in range(2):
            with streaming(product, key, messages=[{"role": "user", "content": LEARNED_FROM}]) as response:
                response.read()
        first, second = Reservation.objects.order_by("reserved_at").values_list("amount_nanos", flat=True)
        assert second - first > len(LEARNED_FROM) // 2 * INPUT

    def test_a_rule_leads_to_a_model_that_is_counted_too(self, product: Product, tokenizer: PairTokenizer) -> None:
        most = exact_count.tokens_within(tokenizer, self.PROMPT) * INPUT + 100 * INPUT + 10 * OUTPUT
        make.budget(
            f"{most / 10**9:.9f}", soft_cap="0.01", downgrade_rules=[{"from": ["mistral-medium-latest"], "to": MODEL}]
        )
        messages = [{"role": "user", "content": self.PROMPT}]
        response = product.chat(product.key(), model="mistral-medium-latest", messages=messages, max_tokens=10)
        assert (response.status_code, response.headers.get("x-model-served")) == (200, MODEL)


class TestFromItsFile:
    @pytest.fixture(autouse=True)
    def tokenizer(self, extra: None, settings: Any, tmp_path: Path) -> None:
        settings.TOKENIZERS = {"mistral-large-latest": write_tekken(tmp_path / "tekken.json")}

    def test_a_models_own_file_counts_its_calls(self, product: Product, upstream: Upstream, key: str) -> None:
        upstream(stream_cut_after(PIECES))
        read(product, key, messages=[{"role": "user", "content": LEARNED_FROM}])
        assert entry().metadata == {"tokenizer": "tekken.json"}
        assert 10 < entry().input_tokens < len(LEARNED_FROM) * 2 / 3
        assert TRUTH + UNTIL_IT_STOPS <= entry().output_tokens < len(LEARNED_FROM)

    @pytest.mark.parametrize("mark", ["<s>", "[INST]"])
    def test_marks_in_a_prompt_count_by_their_bytes(
        self, product: Product, upstream: Upstream, key: str, mark: str
    ) -> None:
        upstream(stream_cut_after(PIECES))
        prompt = LEARNED_FROM + (" the" + mark) * 100 + " the end"
        read(product, key, messages=[{"role": "user", "content": prompt}])
        assert entry().input_tokens > len(prompt)
