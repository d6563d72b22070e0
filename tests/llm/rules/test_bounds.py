"""The bound of a call before it is made: nothing that a model may read is left out of it."""

import base64
import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.rules.decision import Quote
from governance.rules.overruns import ModelOverrun, Side
from llm.rules import anthropic_dialect, bounds, client_requests, estimates, pricing
from llm.rules.bounds import UnboundedInput
from llm.rules.estimates import Estimate
from llm.rules.pricing import Entry, Rates
from llm.rules.request_checks import DialectError

RATES = Rates(input_picos=1_000_000, cached_picos=100_000, output_picos=2_000_000)
ALL = frozenset({"chat", "tools", "json", "vision", "reasoning"})
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def entry(name: str, **fields: Any) -> Entry:
    return Entry(**{"id": name, "names": frozenset({name}), "capabilities": ALL, "rates": RATES, **fields})


def asked(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [*messages], **fields}


def said(content: Any, role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(contents=st.lists(texts, min_size=1, max_size=5))
def test_bound_is_at_least_the_bytes_of_all_text(contents: list[str]) -> None:
    estimate = bounds.chat(asked(*map(said, contents)))

    assert estimate.input_tokens >= sum(len(text.encode()) for text in contents) + 4 * len(contents) + 8


@given(
    parts=st.lists(texts, min_size=1, max_size=4), thought=texts, role=st.sampled_from(["user", "assistant", "tool"])
)
def test_bound_counts_text_and_thinking_in_parts(parts: list[str], thought: str, role: str) -> None:
    content = [{"type": "text", "text": text} for text in parts]
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": thought}]}
    size = sum(len(text.encode()) for text in (*parts, thought))

    assert bounds.chat(asked(said([*content, thinking], role))).input_tokens >= size


@given(schema=json_values, arguments=texts, description=texts)
def test_bound_counts_tools_schemas_and_earlier_calls_as_templates_write_them(
    schema: Any, arguments: str, description: str
) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": description, "parameters": schema}}
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    payload = asked(said(None, "assistant", tool_calls=[call]), tools=[tool], response_format=wanted)
    spaced = json.dumps([tool], ensure_ascii=False) + json.dumps([call], ensure_ascii=False)
    size = len(spaced.encode()) + len(json.dumps(wanted, ensure_ascii=False).encode())

    assert bounds.chat(payload).input_tokens >= size


def test_bound_counts_the_spaces_of_a_long_schema() -> None:
    schema = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(300)}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]

    assert bounds.chat(asked(said("a"), tools=tools)).input_tokens >= len(json.dumps(tools))


@given(answer=texts)
def test_bound_counts_a_tools_answer_as_quoted_json(answer: str) -> None:
    estimate = bounds.chat(asked(said(answer, "tool", tool_call_id="1", name="f")))

    assert estimate.input_tokens >= len(orjson.dumps({"content": answer, "call_id": "1"}))


@pytest.mark.parametrize(
    "more",
    [
        {"prediction": {"type": "content", "content": "x" * 5_000}},
        {"guardrails": [{"note": "x" * 5_000}]},
        {"a_field_of_tomorrow": "x" * 5_000},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"description": "x" * 5_000}}}},
    ],
)
def test_bound_counts_fields_that_a_model_may_read(more: dict[str, Any]) -> None:
    assert bounds.chat(asked(said("a"), **more)).input_tokens > 5_000


@pytest.mark.parametrize("arguments", ['{"a":1,"b":[2,3]}', {"a": 1, "b": [2, 3]}])
def test_bound_counts_an_earlier_call_spaced_out_and_its_marks(arguments: Any) -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    plain = bounds.chat(asked(said(None, "assistant"))).input_tokens
    spaced = {"id": "1", "function": {"name": "f", "arguments": '{"a": 1, "b": [2, 3]}'}}
    shown = spaced if isinstance(arguments, str) else call
    # Quotes inside of a string have a backslash.
    size = len(json.dumps(shown)) + bounds.TOKENS_PER_TOOL

    counted = bounds.chat(asked(said(None, "assistant", tool_calls=[call]))).input_tokens - plain
    # The four commas and colons inside of a string may count twice, for it and for the JSON around it.
    assert size <= counted <= size + 4


@pytest.mark.parametrize(
    "thinking", ["x" * 900, [{"type": "text", "text": "x" * 900}], [{"text": "x" * 800}, "x" * 100]]
)
def test_bound_counts_thinking_in_any_shape(thinking: Any) -> None:
    estimate = bounds.chat(asked(said([{"type": "thinking", "thinking": thinking}], "assistant")))

    assert 900 < estimate.input_tokens < 1_000


def test_bound_counts_unknown_fields_of_a_message() -> None:
    estimate = bounds.chat(asked(said("", "assistant", reasoning_content="x" * 5_000)))

    assert estimate.input_tokens > 5_000


def test_bound_leaves_out_what_no_model_reads() -> None:
    plain = bounds.chat(asked(said("hello")))

    assert plain.input_tokens == 8 + 4 + 5
    assert bounds.chat(asked(said("hello"), metadata={"note": "x" * 900}, stop=["x"])) == plain


def test_picture_costs_what_the_model_makes_of_it_and_its_base64_nothing() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 500_000}}
    estimate = bounds.chat(asked(said([{"type": "text", "text": "look"}, picture, picture])))

    assert estimate.images == 2
    assert estimate.text_tokens < 100
    assert estimate.input_tokens == estimate.text_tokens + 2 * 4_200
    assert estimate.input_tokens_at(entry("m", image_tokens=3_080)) == estimate.text_tokens + 2 * 3_080


SEEN = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}}


@pytest.mark.parametrize(
    ("fields", "tokens_each"),
    [
        ({}, 4_200),
        ({"provider": "mistral-eu"}, 4_200),
        ({"image_tokens": 3_080}, 3_080),
        # A picture of 131 kB was charged as 66,000 tokens at OpenAI.
        ({"provider": "openai", "provider_kind": "openai"}, 73_800),
        ({"provider": "claude", "provider_kind": "anthropic"}, 8_464),
        # What the catalogue says of a model comes first.
        ({"provider": "openai", "provider_kind": "openai", "image_tokens": 1_445}, 1_445),
        ({"provider": "groq", "image_tokens": 6_404}, 6_404),
    ],
)
def test_a_picture_is_bounded_as_its_provider_documents(fields: dict[str, Any], tokens_each: int) -> None:
    estimate = bounds.chat(asked(said([SEEN, SEEN]), max_tokens=10))
    model = entry("m", **fields)
    quote = estimates.quote(estimate, model, model="m")

    assert quote is not None
    assert quote.input_tokens == estimate.text_tokens + 2 * tokens_each
    assert estimate.lacks(model) == set()
    # Together they are no more than the model can read; and what mostly fits is not kept from it.
    short = estimates.quote(estimate, replace(model, context_tokens=10_000), model="m")
    assert short is not None
    assert short.input_tokens == estimate.text_tokens + min(10_000, 2 * tokens_each)
    assert estimate.lacks(replace(model, context_tokens=10_000)) == set()
    assert estimate.lacks(replace(model, context_tokens=2_000)) == {"context"}


@pytest.mark.parametrize("provider", ["groq", "own", "openrouter", "mistral-proxy", "openai"])
@pytest.mark.parametrize("kind", ["", "openai_compatible"])
def test_a_picture_has_no_bound_where_nobody_says_what_it_costs(provider: str, kind: str) -> None:
    """An endpoint is what it is, not what it is called."""
    model = entry("m", provider=provider, provider_kind=kind, context_tokens=32_000)
    refused = bounds.chat(asked(said([SEEN]), max_tokens=10))
    reserved = bounds.chat(asked(said([SEEN]), max_tokens=10), reserve_unbounded=True)

    assert "bound" in refused.lacks(model)
    assert estimates.quote(refused, model, model="m") is None
    assert "m is not known" in refused.no_bound_at(model)
    assert "bound" not in reserved.lacks(model)
    quote = estimates.quote(reserved, model, model="m")
    assert quote is not None
    assert quote.input_tokens == 32_000
    unknown = replace(model, context_tokens=None)
    assert reserved.lacks(unknown) == {"bound"}
    assert estimates.quote(reserved, unknown, model="m") is None
    assert "how much the model can read" in reserved.no_bound_at(unknown)
    # Text alone is no picture.
    assert bounds.chat(asked(said("a"))).lacks(model) == set()


@pytest.mark.parametrize(
    ("part", "size"),
    [
        ({"type": "image_url", "image_url": "https://example.com/a.png"}, 0),
        ({"type": "image_url", "image_url": "http://example.com/" + "a" * 5_000}, 0),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9_000, "detail": "low"}}, 0),
        ({"type": "image_url", "image_url": {"url": "DATA:Image/PNG;base64," + "A" * 9_000}}, 0),
        # Whatever else a part holds may be read as text.
        ({**SEEN, "text": "x" * 5_000}, 5_000),
        ({**SEEN, "url": "x" * 5_000}, 5_000),
        ({**SEEN, "detail": "x" * 5_000}, 5_000),
        ({"type": "image_url", "image_url": {"url": "https://e.com/a", "detail": "x" * 5_000}}, 5_000),
        ({"type": "image_url", "image_url": {"url": "https://e.com/a", "text": "x"}, "text": "x" * 5_000}, 5_000),
        ({"type": "image_url", "image_url": {"url": "https://e.com/a", "detail": ["low"] * 1_000}}, 5_000),
        ({"type": "image_url", "image_url": "x" * 5_000}, 5_000),
        ({"type": "image_url", "image_url": {"url": "file:" + "x" * 5_000}}, 5_000),
    ],
)
def test_what_comes_along_with_a_picture_is_counted(part: dict[str, Any], size: int) -> None:
    estimate = bounds.chat(asked(said([part])))

    assert estimate.images == 1
    assert size <= estimate.text_tokens - (8 + 4) <= size * 2 + (100 if size else 0)


@pytest.mark.parametrize("media", ["application/pdf", "video/mp4", "audio/wav", "text/plain", "", "imag/png"])
def test_data_that_is_no_picture_has_no_bound(media: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"Data:{media};base64,AAAA"}}

    with pytest.raises(UnboundedInput) as caught:
        bounds.chat(asked(said("a"), said([part])))
    assert caught.value.param == "messages.1.content.0"


@pytest.mark.parametrize("kind", ["document_url", "file", "input_audio", "resource", "resource_link", "audio_url"])
def test_content_without_a_bound_is_refused_naming_it(kind: str) -> None:
    with pytest.raises(UnboundedInput, match=kind) as caught:
        bounds.chat(asked(said("a"), said([{"type": "text", "text": "b"}, {"type": kind, kind: "x"}])))
    assert caught.value.param == "messages.1.content.1"


def test_document_inside_thinking_is_refused() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "document_url", "document_url": "x"}]}
    with pytest.raises(UnboundedInput):
        bounds.chat(asked(said([thinking], "assistant")))


@pytest.mark.parametrize("kind", ["image_generation", "document_library", "connector", "web_search", "custom"])
def test_tool_that_runs_at_the_provider_is_refused(kind: str) -> None:
    with pytest.raises(UnboundedInput) as caught:
        bounds.chat(asked(said("a"), tools=[TOOL, {"type": kind}]))
    assert caught.value.param == "tools.1.type"


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set()),
        ({"tools": [TOOL]}, {"tools"}),
        ({"tools": []}, set()),
        ({"response_format": {"type": "text"}}, set()),
        ({"response_format": {}}, set()),
        ({"response_format": {"type": "json_object"}}, {"json"}),
        ({"response_format": {"type": "json_schema"}}, {"json"}),
        ({"reasoning_effort": "high"}, {"reasoning"}),
        ({"reasoning_effort": "none"}, set()),
        ({"prompt_mode": "reasoning"}, {"reasoning"}),
    ],
)
def test_needs_follow_the_request(fields: dict[str, Any], needs: set[str]) -> None:
    assert bounds.chat(asked(said("a"), **fields)).needs == needs


def test_modes_with_a_prompt_of_the_providers_own_cost_more() -> None:
    plain = bounds.chat(asked(said("a"))).input_tokens

    for fields in ({"safe_prompt": True}, {"prompt_mode": "reasoning"}, {"reasoning_effort": "low"}):
        assert bounds.chat(asked(said("a"), **fields)).input_tokens == plain + 1_024


def quoted(payload: dict[str, Any], at: Entry) -> Quote:
    quote = estimates.quote(bounds.chat(payload), at, model=at.id)
    assert quote is not None
    return quote


def test_a_quote_prices_the_worst_case_with_every_answer_of_n() -> None:
    quote = quoted(asked(said("hello"), max_tokens=10, n=3), entry("m"))

    assert quote.fixed_picos == 17 * 1_000_000
    assert quote.picos_per_output_token == 3 * 2_000_000
    assert quote.max_tokens == 10
    assert quote.cost_nanos == 17_000 + 3 * 10 * 2_000


def test_a_quote_uses_the_default_length_and_never_more_than_the_context() -> None:
    assert quoted(asked(said("a")), entry("m")).max_tokens == 4_096
    assert quoted(asked(said("a"), max_tokens=10**9), entry("m", context_tokens=32_000)).max_tokens == 32_000


def test_there_is_no_quote_for_an_unknown_or_unpriced_model() -> None:
    estimate = bounds.chat(asked(said("a")))

    assert estimates.quote(estimate, entry("m", rates=None), model="m") is None
    assert estimates.quote(estimate, None, model="other") is None


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "json"),
        ({"reasoning_effort": "high"}, "reasoning"),
    ],
)
def test_model_that_cannot_do_the_job_is_not_capable(fields: dict[str, Any], missing: str) -> None:
    payload = asked(said("a"), **fields)

    assert quoted(payload, entry("m")).capable
    assert not quoted(payload, entry("m", capabilities=ALL - {missing})).capable


def test_model_without_eyes_or_with_a_short_context_is_not_capable() -> None:
    picture = {"type": "image_url", "image_url": "https://example.com/a.png"}

    assert not quoted(asked(said([picture])), entry("m", capabilities=ALL - {"vision"})).capable
    assert not quoted(asked(said("x" * 900), max_tokens=200), entry("m", context_tokens=1_000)).capable
    assert quoted(asked(said("x" * 700), max_tokens=200), entry("m", context_tokens=1_000)).capable
    assert not quoted(asked(said("a")), entry("m", kinds=frozenset({"embedding"}))).capable


def test_lacks_names_what_is_missing() -> None:
    estimate = bounds.chat(asked(said("a"), tools=[TOOL]))

    assert estimate.lacks(entry("m")) == set()
    embedder = entry("m", kinds=frozenset({"embedding"}), capabilities=frozenset({"embedding"}), context_tokens=10)
    assert estimate.lacks(embedder) == {"chat", "tools", "context"}
    seen = bounds.chat(asked(said([SEEN]), tools=[TOOL]))
    assert seen.lacks(entry("m", provider="own", capabilities=ALL - {"tools"})) == {"tools", "bound"}


DOCUMENT = {"type": "document_url", "document_url": "https://example.com/a.pdf"}


def test_what_has_no_bound_counts_as_all_that_the_model_can_read_where_that_is_allowed() -> None:
    estimate = bounds.chat(asked(said([DOCUMENT]), max_tokens=10, tools=[TOOL]), reserve_unbounded=True)

    assert estimate.needs == {"tools"}
    quote = estimates.quote(estimate, entry("m", context_tokens=32_000), model="m")
    assert quote is not None
    assert quote.cost_nanos == 32_000 * 1_000 + 10 * 2_000


def test_what_has_no_bound_is_answered_as_often_as_it_asks() -> None:
    estimate = bounds.chat(asked(said([DOCUMENT]), max_tokens=10, n=3), reserve_unbounded=True)
    quote = estimates.quote(estimate, entry("m", context_tokens=32_000), model="m")
    assert quote is not None
    assert quote.cost_nanos == 32_000 * 1_000 + 3 * 10 * 2_000


def test_tools_count_beside_messages() -> None:
    plain = bounds.chat(asked(said("x" * 5_000))).text_tokens
    tools = bounds.chat(asked(said("a"), tools=[TOOL])).text_tokens - bounds.chat(asked(said("a"))).text_tokens
    assert bounds.chat(asked(said("x" * 5_000), tools=[TOOL])).text_tokens == plain + tools


def test_what_has_no_bound_lacks_one_at_a_model_of_unknown_context() -> None:
    estimate = bounds.chat(asked(said([DOCUMENT])), reserve_unbounded=True)

    assert estimate.lacks(entry("m", context_tokens=None)) == {"bound"}
    assert estimates.quote(estimate, entry("m", context_tokens=None), model="m") is None


def test_audio_in_a_chat_is_refused_whatever_is_allowed() -> None:
    audio = {"type": "input_audio", "input_audio": "AAAA"}
    for parts in ([audio], [audio, DOCUMENT], [DOCUMENT, audio]):
        with pytest.raises(UnboundedInput):
            bounds.chat(asked(said("a"), said(parts)), reserve_unbounded=True)


def test_a_picture_s_part_hides_no_text() -> None:
    hidden = "x" * 5_000
    for part in (
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": hidden}},
        {"type": "image_url", "image_url": "https://example.com/a.png", "text": hidden},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "more": [{"text": hidden}]}},
    ):
        estimate = bounds.chat(asked(said([part])))
        assert (estimate.images, estimate.text_tokens > 5_000) == (1, True)


@pytest.mark.parametrize(
    "field",
    [
        {"tool_choice": {"type": "function", "function": {"name": "find", "description": "x" * 5_000}}},
        {"reasoning_effort": "x" * 5_000},
        {"n": ["x" * 5_000]},
    ],
)
def test_whatever_is_text_in_a_field_counts(field: dict[str, Any]) -> None:
    assert bounds.chat_text(asked(said("a"), tools=[TOOL], **field)) > 5_000


def test_a_body_of_another_shape_counts_whole_but_for_its_pictures() -> None:
    body = {
        "system": "be brief",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "data": "A" * 9_000}},
                    {"type": "text", "text": "é"},
                ],
            }
        ],
    }
    assert 60 < bounds.body_text(anthropic_dialect.without_pictures(body)) < 300


def test_the_text_of_a_provider_s_body_has_the_same_hidden_prompts() -> None:
    plain = bounds.chat(asked(said("a")))
    with_json = bounds.chat(asked(said("a"), response_format={"type": "json_object"}))

    assert plain.with_text(500).text_tokens == 500
    assert with_json.with_text(500).text_tokens == 500 + pricing.HIDDEN_PROMPT_TOKENS


def test_a_message_counts_all_of_its_fields() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": "{}"}}
    fields = {"name": "x" * 300, "content": "y" * 500, "tool_calls": [call], "prefix": True}
    each = [bounds.chat(asked({"role": "assistant", name: value})).text_tokens for name, value in fields.items()]
    marks = bounds.TOKENS_PER_REQUEST + bounds.TOKENS_PER_MESSAGE
    # In whatever order they come.
    for names in (fields, reversed(fields), sorted(fields)):
        whole = bounds.chat(asked({"role": "assistant"} | {name: fields[name] for name in names})).text_tokens
        assert whole - marks == sum(tokens - marks for tokens in each)


class TestThinking:
    """What a model thinks beside the default length of its answer, and beside the length that was asked for."""

    @pytest.mark.parametrize(
        ("fields", "model", "most"),
        [
            ({}, entry("m", capabilities=ALL - {"reasoning"}), 4_096),
            # Mistral's think where they are asked to, others by themselves.
            ({}, entry("m"), 4_096),
            ({"reasoning_effort": "high"}, entry("m"), 24_096),
            ({}, entry("m", provider="own"), 24_096),
            # Whoever says a length has it.
            ({"max_tokens": 100, "reasoning_effort": "high"}, entry("m", provider="own"), 100),
            # More than the model can write, nobody can.
            ({"reasoning_effort": "high"}, entry("m", context_tokens=10_000), 10_000),
        ],
    )
    def test_has_tokens_of_its_own_by_default(self, fields: dict[str, Any], model: Entry, most: int) -> None:
        estimate = bounds.chat(asked(said("a"), **fields), default_thinking_tokens=20_000)
        assert estimate.max_tokens_at(model) == most

    def test_has_them_also_where_the_input_has_no_bound(self) -> None:
        estimate = bounds.chat(
            asked(said([DOCUMENT]), reasoning_effort="high"), default_thinking_tokens=20_000, reserve_unbounded=True
        )
        assert estimate.max_tokens_at(entry("m")) == 24_096

    def test_has_none_where_nothing_is_said(self) -> None:
        assert bounds.chat(asked(said("a"), reasoning_effort="high")).max_tokens_at(entry("m")) == 4_096

    def test_that_was_asked_for_comes_on_top(self) -> None:
        estimate = replace(bounds.chat(asked(said("a"), max_tokens=100)), tokens_beside=30_000)
        assert estimate.max_tokens_at(entry("m")) == 30_100
        assert estimate.max_tokens_at(entry("m", context_tokens=20_000)) == 20_000

    def test_is_none_of_calls_that_write_nothing(self) -> None:
        estimate = replace(bounds.embeddings({"input": "a"}), tokens_beside=30_000, thinking_tokens=30_000)
        assert estimate.max_tokens_at(entry("m", provider="own")) is None

    @pytest.mark.parametrize("part", [None, "x", [{"type": "reference"}, {"type": "tool_reference"}, {"text": "x"}]])
    def test_of_earlier_answers_is_taken_in_any_shape(self, part: Any) -> None:
        content = [{"type": "thinking", "thinking": part}, {"type": "refusal", "refusal": "x" * 500}]
        assert 500 < bounds.chat(asked(said(content, "assistant"))).input_tokens < 750


class TestCaches:
    @pytest.mark.parametrize(
        ("mark", "e2"),
        [
            ({"type": "ephemeral"}, 125),
            ({"type": "ephemeral", "ttl": None}, 125),
            ({"type": "ephemeral", "ttl": "5m"}, 125),
            ({"type": "ephemeral", "ttl": "1h"}, 200),
            # What nobody can read may be for an hour.
            ({"ttl": "soon"}, 200),
            ("ephemeral", 200),
        ],
    )
    def test_what_may_be_written_into_one_costs_more(self, mark: Any, e2: int) -> None:
        part = {"type": "text", "text": "x", "cache_control": mark}
        for payload in (
            asked(said([{"type": "text", "text": "y"}, part]), said("z")),
            asked(said("x", cache_control=mark)),
            asked(said("x"), tools=[TOOL, {**TOOL, "cache_control": mark}]),
            # The longest of them counts.
            asked(said([part]), said([{**part, "cache_control": {"ttl": "5m"}}]), tools=[TOOL]),
        ):
            assert bounds.write_price_e2(payload) == e2

    def test_without_a_mark_nothing_is_written(self) -> None:
        assert bounds.write_price_e2(asked(said([{"type": "text", "text": "x", "cache_control": None}]))) == 100
        assert bounds.write_price_e2(asked(said("x"), tools=[TOOL], cache_control={})) == 100

    def test_a_quote_has_it_in_its_input_rounded_up(self) -> None:
        estimate = bounds.chat(asked(said("hello!")))
        quote = estimates.quote(replace(estimate, input_e2=125), entry("m"), model="asked")
        assert quote is not None
        # Of 18.
        assert (quote.input_tokens, quote.model) == (23, "asked")


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({"type": "image_url", "image_url": "https://example.com/a.png"}, "input.image_url"),
        ([{"role": "user", "content": [{"type": "text", "file_id": "f"}]}], "input.file_id"),
        # The last as well as the first.
        ([[{"role": "user", "content": "x", "images": ["x"]}], [{"role": "user", "content": "x"}]], "input.images"),
        (["x", {"a": {"b": [["c", {"audio": None}]]}}, "y"], "input.audio"),
    ],
)
def test_media_in_a_moderation_have_no_bound_at_any_depth(value: Any, param: str) -> None:
    with pytest.raises(UnboundedInput) as refused:
        bounds.moderations({"input": value})
    assert refused.value.param == param


@pytest.mark.parametrize("value", ["image", ["image", "file"], [[{"role": "user", "content": "image_url"}]]])
def test_words_about_media_are_moderated_as_text(value: Any) -> None:
    assert bounds.moderations({"input": value}).text_tokens > 8


@pytest.mark.parametrize("hidden", [{"image": "x"}, {"extra": {"a": [{"video_url": "x"}]}}])
@pytest.mark.parametrize("in_function", [True, False])
def test_media_beside_a_calls_arguments_have_no_bound(hidden: dict[str, Any], in_function: bool) -> None:
    function = {"name": "f", "arguments": "{}", **(hidden if in_function else {})}
    call = {"id": "1", "index": 0, "type": "function", "function": function, **({} if in_function else hidden)}
    plain = {"id": "0", "function": {"name": "f", "arguments": '{"image": "x"}'}}
    with pytest.raises(UnboundedInput) as refused:
        bounds.chat(asked(said("a"), said(None, "assistant", tool_calls=[plain, call])))
    assert refused.value.param is not None
    assert refused.value.param.startswith("messages.1.tool_calls.1.")


def test_a_tool_may_be_called_with_a_picture_s_name() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": {"image": "x"}}}
    assert bounds.chat(asked(said(None, "assistant", tool_calls=[call]))).images == 0


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ([1, 2, 3], 8 + 3 + 8),
        ([[1, 2, 3], [4]], 8 + 3 + 8 + 1 + 8),
        # A list of nothing, and what is no list of tokens, count by their bytes.
        (["ab", "c"], 8 + 2 + 8 + 1 + 8),
        ([[1, 2], "ab"], 8 + 6 + 8 + 2 + 8),
        ([1, True], 8 + 1 + 8 + 4 + 8),
        ([[1], [True]], 8 + 3 + 8 + 6 + 8),
        ([[1.5]], 8 + 5 + 8),
    ],
)
def test_an_input_of_tokens_has_as_many_as_it_lists(value: Any, tokens: int) -> None:
    estimate = bounds.embeddings({"input": value})
    assert (estimate.kind, estimate.text_tokens) == ("embedding", tokens)


def test_moderations_are_bounded_by_their_texts() -> None:
    estimate = bounds.moderations({"input": ["é" * 50, "b"]})

    assert estimate.kind == "moderation"
    assert estimate.text_tokens >= 101
    assert estimate.max_tokens is None


def test_a_file_at_the_provider_is_read_only_where_that_is_allowed() -> None:
    document = {"document": {"type": "file", "file_id": "f"}}

    with pytest.raises(UnboundedInput) as caught:
        bounds.ocr(document)
    assert caught.value.param == "document.file_id"
    assert bounds.ocr(document, reserve_unbounded=True, max_pages=30).units == 30


def test_other_kinds_are_bounded_and_never_moved_to_another_model() -> None:
    coder = entry("c", kinds=frozenset({"fim"}))
    filled = estimates.quote(bounds.fim({"prompt": "é", "suffix": "b", "max_tokens": 5}), coder, model="c")
    embedded = bounds.embeddings({"input": ["é" * 50, "b"]})

    assert filled is not None
    assert not filled.capable
    assert filled.fixed_picos == (8 + 2 + 1) * 1_000_000
    assert embedded.input_tokens >= 101
    assert embedded.max_tokens is None
    quote = estimates.quote(embedded, entry("e"), model="e")
    assert quote is not None
    assert quote.cost_nanos == embedded.input_tokens * 1_000
    assert quote.clamped(10**9) is None


@pytest.mark.parametrize(
    ("fields", "unit", "pages"),
    [
        ({"pages": [0, 5]}, "page", 2),
        ({"pages": "0-3, 7"}, "page", 5),
        ({"pages": "all"}, "page", 1_000),
        ({}, "page", 1_000),
        ({"pages": []}, "page", 1_000),
        ({"pages": "7"}, "page", 1),
        ({"pages": [999_999]}, "page", 1),
        ({"pages": "0-1999"}, "page", 2_000),
        ({"pages": [*range(1_500)]}, "page", 1_500),
        # Ranges that overlap may be read twice.
        ({"pages": "0-3,2-5"}, "page", 8),
        ({"pages": [1], "document_annotation_format": {"type": "json_schema"}}, "annotated_page", 1),
        ({"pages": [1], "bbox_annotation_format": {}}, "annotated_page", 1),
    ],
)
def test_ocr_is_bounded_by_its_pages(fields: dict[str, Any], unit: str, pages: int) -> None:
    estimate = bounds.ocr(fields)

    assert (estimate.unit, estimate.units) == (unit, pages)
    reader = entry("o", rates=Rates(units={"page": 4_000_000_000, "annotated_page": 5_000_000_000}, by_token=False))
    quote = estimates.quote(estimate, reader, model="o")
    assert quote is not None
    assert quote.cost_nanos == pages * (4_000_000 if unit == "page" else 5_000_000)


@pytest.mark.parametrize(
    "pages",
    [
        None,
        ["0-999"],
        ["0"],
        [0, "1"],
        [[0, 1]],
        [{"from": 0, "to": 9}],
        [0, 0],
        [-1],
        [0, -1],
        [0.0],
        [True],
        [False, 1],
        [None],
        [2**70],
        [1_000_000],
        "9-0",
        "0-3,9-0",
        "-1",
        "-5-3",
        "0--3",
        "1-",
        "0-3-9",
        "0,,1",
        "0,",
        "",
        "all",
        "0-9999999",
        "0-99999999999999999999",
        "0x10",
        "1.5",
        "1e3",
        "٠-٩",
        "0 - 3",
        "0-3;7",
        "0\n",
        0,
        5,
        {"0": "999"},
        {},
        True,
    ],
    ids=repr,
)
def test_pages_that_are_not_plainly_listed_are_all_that_there_may_be(pages: Any) -> None:
    """Whoever reads them may take them for more: `["0-999"]` is one entry of a list, and a thousand pages."""
    assert bounds.ocr({"pages": pages}, max_pages=700).units == 700
    assert bounds.ocr({"pages": pages, "document": {"type": "image_url", "image_url": "x"}}, max_pages=700).units == 700


def base64_of(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


PNG, JPEG = b"\x89PNG\r\n\x1a\n" + bytes(30), b"\xff\xd8\xff\xe0" + bytes(30)


@pytest.mark.parametrize("image", [base64_of(PNG), base64_of(JPEG, "image/jpeg"), base64_of(PNG, "image/jpg")])
def test_a_picture_that_is_in_the_request_has_one_page(image: str) -> None:
    assert bounds.ocr({"document": {"type": "image_url", "image_url": image}}).units == 1
    assert bounds.ocr({"document": {"type": "image_url", "image_url": {"url": image}}, "pages": ["0-999"]}).units == 1


@pytest.mark.parametrize(
    "document",
    [
        None,
        "a.png",
        {"type": "image_url"},
        {"type": "image_url", "image_url": None},
        {"type": "image_url", "image_url": 5},
        {"type": "image_url", "image_url": {"url": None}},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "image_url", "image_url": {"url": "https://example.com/report.pdf"}},
        {"type": "image_url", "image_url": base64_of(b"%PDF-1.7")},
        # A file that readers of either kind take.
        {"type": "image_url", "image_url": base64_of(JPEG + b"%PDF-1.7", "image/jpeg")},
        {"type": "image_url", "image_url": base64_of(b"II*\0" + bytes(30))},
        {"type": "image_url", "image_url": base64_of(b"II*\0" + bytes(30), "image/tiff")},
        {"type": "image_url", "image_url": base64_of(b"GIF89a" + bytes(30), "image/gif")},
        {"type": "image_url", "image_url": base64_of(PNG, "application/pdf")},
        {"type": "image_url", "image_url": base64_of(PNG) + "!"},
        {"type": "image_url", "image_url": base64_of(PNG)[:-3] + "\n=="},
        {"type": "image_url", "image_url": "data:image/png;base64,"},
        {"type": "image_url", "image_url": "data:image/png;base64,é"},
        {"type": "document_url", "image_url": base64_of(PNG)},
        {"type": "image_url", "image_url": base64_of(PNG), "document_url": "https://example.com/report.pdf"},
        {"type": "image_url", "image_url": {"url": base64_of(PNG), "document_url": "https://example.com/r.pdf"}},
    ],
)
def test_what_may_be_a_document_has_as_many_pages_as_there_may_be(document: Any) -> None:
    assert bounds.ocr({"document": document}).units == 1_000
    assert bounds.ocr({"document": document, "pages": [0, 1]}).units == 2


@given(
    body=st.dictionaries(
        st.sampled_from(
            [
                "model",
                "messages",
                "tools",
                "n",
                "max_tokens",
                "prediction",
                "response_format",
                "tool_choice",
                "reasoning_effort",
            ]
        ),
        json_values,
    ),
    content=json_values,
    tool=json_values,
)
def test_whatever_the_dialect_accepts_can_be_estimated(body: dict[str, Any], content: Any, tool: Any) -> None:
    payload = {"model": "m", "messages": [{"role": "user", "content": content}], "tools": [tool], **body}
    try:
        request = client_requests.parse(orjson.dumps(payload))
        estimate = bounds.chat(request.payload)
    except (DialectError, UnboundedInput):
        return
    assert estimate.input_tokens > 0
    assert estimate.max_tokens is not None
    assert estimate.max_tokens > 0


class TestTexts:
    def test_what_is_nothing_but_text_is_told_apart(self) -> None:
        parts = [
            {"type": "text", "text": "two"},
            {"type": "image_url", "image_url": "data:image/png;base64,AA"},
            {"text": "3"},
            {"type": "reference", "text": "no text of the message's"},
        ]
        messages = [said("one", role="system"), said(parts), said("four", role="tool"), said(None, role="assistant")]
        assert set(bounds.chat_texts({"messages": messages})) == {"one", "two", "3"}
        assert bounds.chat(asked(said("one"), tools=[TOOL])).texts == ("one",)

    def test_each_is_counted_with_its_bytes(self) -> None:
        assert bounds.fim({"prompt": "ab", "suffix": "c"}).texts == ("ab", "c")
        assert bounds.fim({"prompt": "ab", "suffix": None}).texts == ("ab",)
        assert bounds.embeddings({"input": "ab"}).texts == ("ab",)
        assert bounds.embeddings({"input": ["ab", "c", [1, 2]]}).texts == ("ab", "c")
        assert bounds.embeddings({"input": None}).texts == ()

    @given(
        content=st.lists(st.builds(said, texts) | st.builds(lambda text: said([{"type": "text", "text": text}]), texts))
    )
    def test_there_are_never_fewer_tokens_than_bytes_of_texts(self, content: list[Any]) -> None:
        found = bounds.chat(asked(*content))
        assert found.text_tokens >= sum(len(text.encode()) for text in found.texts)

    def test_what_is_saved_comes_off_but_for_a_prompt_of_the_providers_own(self) -> None:
        estimate = bounds.chat(asked(said("x" * 5_000)))
        assert estimate.with_saved(3_000, entry("m")).text_tokens == estimate.text_tokens - 3_000
        elsewhere = entry("m", provider="groq")
        hidden = pricing.HIDDEN_PROMPT_TOKENS
        assert estimate.with_saved(3_000, elsewhere).text_tokens == estimate.text_tokens - 3_000 + hidden
        assert estimate.with_saved(hidden - 1, elsewhere).text_tokens == estimate.text_tokens

    def test_a_body_of_another_shape_says_what_its_texts_are(self) -> None:
        estimate = bounds.chat(asked(said("one")))
        assert estimate.with_text(9).texts == ()
        assert estimate.with_text(9, ("two",)).texts == ("two",)


@pytest.mark.parametrize(("text", "size"), [("\U0001d160" * 100, 1_200), ("e\u0301" * 100, 300), ("é" * 100, 200)])
def test_a_text_counts_in_the_normal_form_that_has_more_bytes(text: str, size: int) -> None:
    marks = bounds.TOKENS_PER_REQUEST + bounds.TOKENS_PER_MESSAGE
    assert bounds.chat(asked(said(text))).text_tokens == size + marks
    assert bounds.chat(asked(said(text, "tool", tool_call_id="1"))).text_tokens > size


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (said("x", images=["https://example.com/a.png"]), "messages.0.images"),
        (said([{"type": "text", "text": "x", "video_url": {"url": "x"}}]), "messages.0.content.0.video_url"),
    ],
)
def test_media_in_a_place_of_text_have_no_bound(message: dict[str, Any], param: str) -> None:
    with pytest.raises(UnboundedInput) as refused:
        bounds.chat(asked(message))
    assert refused.value.param == param


@pytest.mark.parametrize("nothing", [None, [], {}, ""])
def test_nothing_in_a_place_of_media_is_nothing(nothing: Any) -> None:
    part = {"type": "text", "text": "x", "image_url": nothing}
    fields = dict.fromkeys(("audio", "images", "files", "documents", "attachments"), nothing)
    assert bounds.chat(asked(said([part], **fields))).images == 0


class TestAModelThatPassesItsBound:
    CALL = bounds.chat(asked(said("Hi"), max_tokens=10))

    def knowing(self, tokens: int, *, place: str = "groq/m") -> Estimate:
        return self.CALL.knowing([ModelOverrun("groq/m", "", 50), ModelOverrun("groq/m", "", tokens)], place)

    def test_is_held_for_its_context_and_asked_for_what_was_asked(self) -> None:
        model = entry("m", context_tokens=1_000)
        found = estimates.quote(self.knowing(500), model, model="m")
        assert found is not None
        assert (found.max_tokens, found.asked_tokens) == (1_000, 10)
        elsewhere = estimates.quote(self.knowing(500, place="together/m"), model, model="m")
        assert elsewhere is not None
        assert elsewhere.max_tokens == 10

    def test_that_reads_more_than_it_is_sent_is_held_for_as_much_of_each_input(self) -> None:
        model = entry("m", context_tokens=1_000)
        seen = [ModelOverrun("groq/m", "", 500, side=Side.INPUT)]
        for call, inputs in (
            (self.CALL, 1),
            (bounds.embeddings({"input": "Hi"}), 1),
            (bounds.embeddings({"input": ["Hi", "there"]}), 2),
            (bounds.embeddings({"input": [7, 8, 9]}), 1),
            (bounds.embeddings({"input": [[7, 8], [9]]}), 2),
            (bounds.moderations({"input": "Hi"}), 1),
            (bounds.moderations({"input": ["Hi", "you", "there"]}), 3),
            (bounds.moderations({"input": [[said("Hi")], [said("you")]]}), 2),
        ):
            known = call.knowing(seen, "groq/m")
            assert known.held_input_at(model) == inputs * 1_000
            assert known.held_tokens_at(model) == call.held_tokens_at(model)
            assert call.knowing(seen, "groq/other") is call
        longer = bounds.embeddings({"input": "x" * 2_000}).knowing(seen, "groq/m")
        assert longer.held_input_at(model) > 2_000

    def test_what_is_read_of_pictures_makes_calls_without_them_no_dearer(self) -> None:
        model = entry("m", context_tokens=100_000)
        picture = {"type": "image_url", "image_url": "https://example.com/a.png"}
        pictures = bounds.chat(asked(said([picture]), max_tokens=10))
        of_pictures = [ModelOverrun("groq/m", estimates.PICTURES, 50_000, side=Side.INPUT)]
        assert pictures.knowing(of_pictures, "groq/m").held_input_at(model) == 100_000
        assert self.CALL.knowing(of_pictures, "groq/m") is self.CALL
        of_all = [ModelOverrun("groq/m", "", 50_000, side=Side.INPUT)]
        assert pictures.knowing(of_all, "groq/m").held_input_at(model) == 100_000

    def test_of_pages_all_that_a_document_may_have_is_held_for(self) -> None:
        document = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
        call = bounds.ocr({"document": document, "pages": [3]}, max_pages=50)
        assert call.held_units == 1
        known = call.knowing([ModelOverrun("groq/m", "", 40, side=Side.INPUT)], "groq/m")
        assert known.held_units == 50
        assert known.unbounded_at(entry("m")) is None
        longer = call.knowing([ModelOverrun("groq/m", "", 51, side=Side.INPUT)], "groq/m")
        assert longer.unbounded_at(entry("m")) is Side.INPUT

    def test_passes_either_bound_by_itself(self) -> None:
        model = entry("m", context_tokens=1_000)
        both = [ModelOverrun("groq/m", "", 500), ModelOverrun("groq/m", "", 1_001, side=Side.INPUT)]
        assert self.CALL.knowing(both, "groq/m").unbounded_at(model) is Side.INPUT
        assert "m reads more than it is sent" in self.CALL.knowing(both, "groq/m").no_bound_at(model)
        assert self.CALL.knowing(both[:1], "groq/m").unbounded_at(model) is None

    @pytest.mark.parametrize(
        ("context", "seen", "bounded"),
        [
            (1_000, 1_000, True),
            (1_000, 1_001, False),
            (None, 60, False),
            (1_000, estimates.LONGEST_CONTEXT, False),
        ],
    )
    def test_has_a_bound_where_its_context_is_known_and_not_passed(
        self, context: int | None, seen: int, bounded: bool
    ) -> None:
        model, call = entry("m", context_tokens=context), self.knowing(seen)
        assert call.is_bounded_at(model) is bounded
        assert ("m writes more than `max_tokens`" in call.no_bound_at(model)) is not bounded


@pytest.mark.parametrize(
    ("last", "echoed_bytes"),
    [
        (said("aé", "assistant", prefix=True), 3),
        (
            said(
                [{"type": "text", "text": "ab"}, {"type": "reference", "reference_ids": [1]}], "assistant", prefix=True
            ),
            2,
        ),
        (said("aé", "assistant"), 0),
        (said("Hi"), 0),
    ],
)
def test_what_an_answer_is_to_begin_with_is_known(last: dict[str, Any], echoed_bytes: int) -> None:
    assert bounds.chat(asked(said("Hi"), last)).echoed_bytes == echoed_bytes
    unbounded = said([{"type": "document_url", "document_url": "https://example.com/a.pdf"}])
    assert bounds.chat(asked(unbounded, last), reserve_unbounded=True).echoed_bytes == echoed_bytes


def test_a_text_counts_in_the_normal_form_that_has_the_most_bytes() -> None:
    # As it is; composed letters that are shorter apart; letters that stand for many.
    for text, size in (("é", 2), ("\u0958", 6), ("\ufdfa", 33), ("\ufb01", 3)):
        assert bounds.chat({"messages": [{"role": "user", "content": text}]}, default_max_tokens=1).text_tokens == (
            bounds.chat({"messages": [{"role": "user", "content": "a"}]}, default_max_tokens=1).text_tokens + size - 1
        )


def test_what_a_template_indents_has_so_many_tokens_more() -> None:
    assert bounds.indents(None) == bounds.indents([]) == 0
    # Three pairs of brackets and one comma.
    assert bounds.indents([{"a": [1, 2]}]) == 7 * bounds.TOKENS_PER_INDENT


@pytest.mark.parametrize(
    ("stop", "withheld_bytes"),
    [(None, 0), ([], 0), ("", 0), ("\n\n", 1), (["a", "ééé"], 5), (["x" * 700, "y"], 699), ("\ud83d", 2)],
)
def test_the_longest_text_to_stop_at_may_be_withheld(stop: Any, withheld_bytes: int) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}], "stop": stop}
    assert bounds.chat(chat).withheld_bytes == withheld_bytes
    assert bounds.fim({"prompt": "a", "stop": stop}).withheld_bytes == withheld_bytes


def test_marks_in_any_order_are_counted_in_no_time() -> None:
    """To bring so many into order takes hours."""
    text = "a" + "\u0301" * 100_000 + "\u0327" * 100_000
    assert bounds.chat({"messages": [{"role": "user", "content": text}]}).text_tokens >= 400_001


def test_what_go_escapes_has_so_many_tokens_more() -> None:
    assert bounds.escapes(None) == bounds.escapes([]) == 0
    assert bounds.escapes([{"a": "<b> & \u2028\u2029"}]) == 5 * bounds.TOKENS_PER_ESCAPE
