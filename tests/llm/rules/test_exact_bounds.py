"""The bound of a call to the token: what each part of a body counts, so that nothing falls out of the sum unseen."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from llm.rules import anthropic_dialect, bounds, estimates
from llm.rules.bounds import UnboundedInput
from llm.rules.estimates import Estimate
from llm.rules.pricing import Entry, Rates

CHAT = frozenset({"chat", "tools", "json", "vision", "reasoning"})
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
PICTURE = {"type": "image_url", "image_url": "https://example.com/a.png"}
# Of each request, and of each message.
REQUEST, MESSAGE = 8, 4


def entry(**fields: Any) -> Entry:
    values: dict[str, Any] = {"id": "m", "names": frozenset({"m"}), "capabilities": CHAT, "rates": Rates(1, 1, 1)}
    return Entry(**values | fields)


def spaced(value: Any) -> int:
    """Bytes of JSON with a space after each comma and colon, those within texts too."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode()) + text.count(",") + text.count(":")


def text_of(*messages: dict[str, Any], **fields: Any) -> int:
    return bounds.chat({"model": "m", "messages": list(messages), **fields}).text_tokens


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def test_messages_count_their_bytes_and_their_marks() -> None:
    assert text_of(user("")) == REQUEST + MESSAGE
    assert text_of(user("abc")) == REQUEST + MESSAGE + 3
    assert text_of(user("äß€")) == REQUEST + MESSAGE + 7
    assert text_of(user("abc"), user("de")) == REQUEST + 2 * MESSAGE + 5
    assert text_of(user('a"b\n')) == REQUEST + MESSAGE + 4
    assert text_of({"role": "user"}) == text_of(user(None)) == REQUEST + MESSAGE


def test_a_tools_answer_counts_as_quoted_json() -> None:
    answer = {"role": "tool", "content": 'a"b\n'}
    assert text_of(answer) == REQUEST + MESSAGE + spaced('a"b\n')


def test_every_other_field_of_a_message_counts_with_its_name() -> None:
    assert text_of(user("abc", name="ann")) == REQUEST + MESSAGE + 3 + spaced({"name": "ann"})
    assert text_of(user("abc", name=None, prefix=True)) == REQUEST + MESSAGE + 3 + spaced({"prefix": True})


def test_parts_count_as_json_and_pictures_apart() -> None:
    parts = [{"type": "text", "text": "abc"}, {"type": "reference", "reference_ids": [1]}, {"text": "x"}]
    assert text_of(user(parts)) == REQUEST + MESSAGE + sum(map(spaced, parts))
    estimate = bounds.chat({"messages": [user([*parts, PICTURE, PICTURE]), user([PICTURE])]})
    assert (estimate.text_tokens, estimate.images) == (REQUEST + 2 * MESSAGE + sum(map(spaced, parts)), 3)
    assert estimate.input_tokens == estimate.text_tokens + 3 * 4_200
    assert estimate.texts == ("abc", "x")
    assert estimate.needs == {"vision"}


@pytest.mark.parametrize("detail", ["low", "high", "auto", "original"])
def test_the_details_of_a_picture_are_known_and_all_else_beside_it_counts(detail: str) -> None:
    def beside(**fields: Any) -> int:
        image = {"url": "https://example.com/a.png", **fields}
        return text_of(user([{"type": "image_url", "image_url": image}])) - REQUEST - MESSAGE

    assert beside() == beside(detail=detail) == 0
    assert beside(detail="x" * 90) > 90
    assert beside(note="x" * 90) > 90


def test_tools_count_as_json_with_their_marks_each() -> None:
    assert text_of(user("a"), tools=[TOOL, TOOL]) == REQUEST + MESSAGE + 1 + spaced([TOOL, TOOL]) + 2 * 96
    assert text_of(user("a"), tools=[]) == REQUEST + MESSAGE + 1
    unnamed = {"function": {"name": "find"}}
    assert text_of(user("a"), tools=[unnamed]) == REQUEST + MESSAGE + 1 + spaced([unnamed]) + 96


def test_an_earlier_tool_call_counts_spaced_out() -> None:
    def call(arguments: Any) -> dict[str, Any]:
        return {"id": "1", "function": {"name": "f", "arguments": arguments}}

    def of_calls(*calls: dict[str, Any]) -> int:
        return text_of({"role": "assistant", "tool_calls": list(calls)}) - REQUEST - MESSAGE

    packed = call('{"a":1,"b":[2,3]}')
    # The two colons and two commas of the text have spaces once it is unpacked.
    assert of_calls(packed) == spaced(packed) + 4 + 96
    assert of_calls(call({"a": 1})) == spaced(call({"a": 1})) + 96
    assert of_calls({"id": "1"}) == spaced({"id": "1"}) + 96
    assert of_calls({"function": "f"}) == spaced({"function": "f"}) + 96
    assert of_calls(packed, call("")) == of_calls(packed) + of_calls(call(""))


def test_other_fields_count_unless_no_model_reads_them() -> None:
    plain = text_of(user("a"))
    for unread in (
        {"metadata": {"a": "b"}},
        {"stop": ["x"]},
        {"user": "ann"},
        {"prompt_cache_key": "k"},
        {"safety_identifier": "s"},
        {"logit_bias": {"1": 2}},
        {"stream_options": {"include_usage": True}},
        {"service_tier": "flex"},
        {"temperature": 1.5, "n": 1, "stream": True, "seed": None},
    ):
        assert text_of(user("a"), **unread) == plain
    for read in ({"prediction": {"content": "x"}}, {"guardrails": [1]}, {"anything": "x"}):
        assert text_of(user("a"), **read) == plain + spaced(read)


def test_a_mode_counts_as_its_prompt_and_one_that_is_too_long_as_text_too() -> None:
    plain = text_of(user("a"))
    for mode in ({"prompt_mode": "reasoning"}, {"reasoning_effort": "x" * 16}):
        assert text_of(user("a"), **mode) == plain + 1_024
    long = {"reasoning_effort": "x" * 17}
    assert text_of(user("a"), **long) == plain + 1_024 + spaced(long)
    assert text_of(user("a"), reasoning_effort="none") == plain
    assert text_of(user("a"), safe_prompt=True) == plain + 1_024
    wanted = {"response_format": {"type": "json_object"}}
    assert text_of(user("a"), **wanted) == plain + 1_024 + spaced(wanted)
    text = {"response_format": {"type": "text"}}
    assert text_of(user("a"), **text) == plain + spaced(text)


def test_how_many_and_how_long_the_answers_may_be() -> None:
    def answers(kind: Any, **fields: Any) -> tuple[int | None, int]:
        found = kind({"messages": [user("a")], "prompt": "a", **fields}, default_max_tokens=77)
        return found.max_tokens, found.n

    for kind in (bounds.chat, bounds.fim):
        assert answers(kind) == answers(kind, max_tokens=None, n=None) == (77, 1)
        assert answers(kind, max_tokens=5, n=3) == (5, 3)
    unbounded = {"messages": [user([{"type": "document_url"}])]}
    whole = bounds.chat({**unbounded, "max_tokens": 5, "n": 3, "tools": [TOOL]}, reserve_unbounded=True)
    assert whole == Estimate(
        "chat", 0, max_tokens=5, n=3, needs=frozenset({"tools"}), whole_context=True, reserve_unbounded=False
    )
    default = bounds.chat(unbounded, default_max_tokens=77, reserve_unbounded=True)
    assert (default.max_tokens, default.n) == (77, 1)
    assert bounds.chat({"messages": [user("a")]}).max_tokens == bounds.fim({"prompt": "a"}).max_tokens == 4_096


def test_fill_in_the_middle_counts_both_texts() -> None:
    found = bounds.fim({"prompt": "abc", "suffix": "€"})
    assert (found.kind, found.text_tokens, found.texts) == ("fim", REQUEST + 6, ("abc", "€"))
    assert bounds.fim({"prompt": "abc", "suffix": None}).text_tokens == REQUEST + 3


@pytest.mark.parametrize(
    ("value", "tokens", "texts"),
    [
        ("ab€", REQUEST + 5, ("ab€",)),
        (["ab", "€"], REQUEST + 2 + REQUEST + 3 + REQUEST, ("ab", "€")),
        ([[1, 2], "a"], REQUEST + spaced([1, 2]) + REQUEST + 1 + REQUEST, ("a",)),
        ({"a": "b"}, REQUEST + spaced({"a": "b"}) + REQUEST, ()),
    ],
)
def test_inputs_count_each_with_its_marks(value: Any, tokens: int, texts: tuple[str, ...]) -> None:
    embedded = bounds.embeddings({"input": value})
    assert (embedded.kind, embedded.text_tokens, embedded.texts) == ("embedding", tokens, texts)
    assert (embedded.max_tokens, embedded.n, embedded.unit) == (None, 1, "token")
    moderated = bounds.moderations({"input": value})
    assert (moderated.kind, moderated.text_tokens) == ("moderation", tokens)


def test_pages_are_a_kind_of_their_own() -> None:
    found = bounds.ocr({"document": {}, "pages": [0, 2]})
    assert (found.kind, found.text_tokens, found.unit, found.units) == ("ocr", 0, "page", 2)
    assert bounds.ocr({"document": {}}).units == 1_000


def test_a_refusal_names_where_the_unbounded_is() -> None:
    for payload, param in (
        ({"messages": [user("a"), user([{"type": "text"}, {"type": "document_url"}])]}, "messages.1.content.1"),
        (
            {"messages": [user([{"type": "thinking", "thinking": [{"type": "text"}, {"type": "x"}]}])]},
            "messages.0.content.0.thinking",
        ),
        ({"messages": [user("a")], "tools": [TOOL, {"type": "web_search"}]}, "tools.1.type"),
        ({"messages": [user([{**PICTURE, "image_url": "data:text/plain;base64,AA=="}])]}, "messages.0.content.0"),
    ):
        with pytest.raises(UnboundedInput) as refused:
            bounds.chat(payload)
        assert refused.value.param == param
    with pytest.raises(UnboundedInput) as refused:
        bounds.ocr({"document": {"file_id": "f"}})
    assert refused.value.param == "document.file_id"


def test_a_body_of_another_shape_counts_whole_but_for_the_data_of_its_pictures() -> None:
    picture = {"type": "base64", "media_type": "image/png", "data": "x" * 500}

    def body(block: Any) -> dict[str, Any]:
        result = {"type": "tool_result", "tool_use_id": "a", "content": [block]}
        return {"system": "abc", "messages": [{"role": "user", "content": [block, result, {**result, "content": []}]}]}

    def text_of(whole: Any) -> int:
        return bounds.body_text(anthropic_dialect.without_pictures(whole))

    image = {"type": "image", "source": picture}
    assert text_of(body(image)) == REQUEST + spaced(body({**image, "source": picture | {"data": ""}}))
    for other in (
        {"type": "image", "source": {"type": "url", "url": "x" * 500}},
        {"type": "tool_use", "id": "a", "name": "f", "input": picture},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"type": "image", "source": picture}},
        {"type": "text", "text": "x", "source": picture},
    ):
        assert text_of(body(other)) == REQUEST + spaced(body(other))
    assert text_of({**body(image), "tools": [picture]}) - text_of(body(image)) > 500


def test_the_bound_at_a_model_has_its_pictures_and_its_providers_own_prompt() -> None:
    call = Estimate("chat", 100, images=2, needs=frozenset({"tools", "vision"}))
    assert call.input_tokens_at(entry()) == 100 + 2 * 4_200
    assert call.input_tokens_at(entry(provider="openai", provider_kind="openai")) == 100 + 1_024 + 2 * 73_800
    assert replace(call, needs=frozenset()).input_tokens_at(entry(provider="x", image_tokens=10)) == 120
    # Together they are no more than the model can read.
    assert call.input_tokens_at(entry(context_tokens=5_000)) == 100 + 5_000
    whole = Estimate("chat", 100, whole_context=True)
    assert whole.input_tokens_at(entry(context_tokens=5_000)) == 5_000
    assert whole.input_tokens_at(entry()) == 0


def test_a_model_lacks_what_it_cannot_do_or_hold() -> None:
    call = Estimate("chat", 100, max_tokens=50, needs=frozenset({"tools"}))
    assert call.lacks(entry(context_tokens=150)) == frozenset()
    assert call.lacks(entry(context_tokens=149)) == {"context"}
    assert call.lacks(entry(capabilities=frozenset({"chat"}))) == {"tools"}
    assert call.lacks(entry(kinds=frozenset({"fim"}))) == {"chat"}
    silent = replace(call, max_tokens=None)
    assert silent.lacks(entry(context_tokens=100)) == frozenset()
    assert silent.lacks(entry(context_tokens=99)) == {"context"}
    # A picture that may cost 73,800 tokens mostly costs 4,200.
    seen = replace(call, images=1, needs=frozenset())
    at_openai = {"provider": "openai", "provider_kind": "openai"}
    assert seen.lacks(entry(context_tokens=4_350, **at_openai)) == frozenset()
    assert seen.lacks(entry(context_tokens=4_349, **at_openai)) == {"context"}
    assert seen.lacks(entry(provider="groq")) == {"bound"}
    assert (
        replace(seen, max_tokens=None, reserve_unbounded=True).lacks(entry(provider="groq", context_tokens=9_000))
        == frozenset()
    )


def test_hidden_prompts_and_saved_tokens() -> None:
    call = Estimate("chat", 100, needs=frozenset({"json"}))
    assert call.with_text(70, ("a",)) == replace(call, text_tokens=70 + 1_024, texts=("a",))
    assert replace(call, needs=frozenset({"reasoning"})).with_text(70).text_tokens == 70 + 1_024
    assert replace(call, needs=frozenset({"tools"})).with_text(70).text_tokens == 70
    long = Estimate("chat", 5_000)
    assert long.with_saved(2_000, entry()).text_tokens == 3_000
    assert long.with_saved(2_000, entry(provider="openai")).text_tokens == 5_000 - 2_000 + 1_024
    assert long.with_saved(1_000, entry(provider="openai")).text_tokens == 5_000


def test_who_may_write_what_nobody_sees() -> None:
    for capabilities, provider, hides in (
        ({"reasoning"}, "openai", True),
        ({"reasoning"}, "mistral", False),
        ({"reasoning"}, "mistral-eu", False),
        ({"tools"}, "openai", False),
    ):
        assert estimates.hides_output(entry(capabilities=frozenset(capabilities), provider=provider)) is hides


def test_a_quote_is_capable_of_chats_that_a_model_can_do_alone() -> None:
    pages = entry(rates=Rates(units={"page": 1_000}, by_token=False), kinds=frozenset({"ocr", "chat"}))
    read = estimates.quote(Estimate("ocr", 0, unit="page", units=3), pages, model="m")
    assert read is not None
    assert (read.cost_nanos, read.capable) == (3, False)
    heard = estimates.quote(Estimate("chat", 0, unit="page", units=3), pages, model="m")
    assert heard is not None
    assert heard.capable
    written = estimates.quote(Estimate("fim", 10, max_tokens=50, n=2), entry(kinds=frozenset({"fim"})), model="m")
    assert written is not None
    assert (written.capable, written.max_tokens, written.answers, written.input_tokens) == (False, 50, 2, 10)
    short = estimates.quote(Estimate("chat", 10, max_tokens=50), entry(context_tokens=40), model="m")
    assert short is not None
    assert (short.capable, short.max_tokens) == (False, 40)
