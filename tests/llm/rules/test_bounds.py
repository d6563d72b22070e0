"""The bound of a call before it is made: nothing that a model may read is left out of it."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.rules.decision import Quote
from llm.rules import bounds, mistral_dialect
from llm.rules.bounds import UnboundedInput
from llm.rules.pricing import Entry, Rates

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
    quote = bounds.quote(bounds.chat(payload), at, model=at.id)
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

    assert bounds.quote(estimate, entry("m", rates=None), model="m") is None
    assert bounds.quote(estimate, None, model="other") is None


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


DOCUMENT = {"type": "document_url", "document_url": "https://example.com/a.pdf"}


def test_what_has_no_bound_counts_as_all_that_the_model_can_read_where_that_is_allowed() -> None:
    estimate = bounds.chat(asked(said([DOCUMENT]), max_tokens=10, tools=[TOOL]), reserve_unbounded=True)

    assert estimate.needs == {"tools"}
    quote = bounds.quote(estimate, entry("m", context_tokens=32_000), model="m")
    assert quote is not None
    assert quote.cost_nanos == 32_000 * 1_000 + 10 * 2_000


def test_what_has_no_bound_lacks_one_at_a_model_of_unknown_context() -> None:
    estimate = bounds.chat(asked(said([DOCUMENT])), reserve_unbounded=True)

    assert estimate.lacks(entry("m", context_tokens=None)) == {"bound"}
    assert bounds.quote(estimate, entry("m", context_tokens=None), model="m") is None


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
        "messages": [{"content": [{"source": {"type": "base64", "data": "A" * 9_000}}, {"type": "text", "text": "é"}]}],
    }
    assert 60 < bounds.body_text(body) < 300


def test_the_text_of_a_provider_s_body_has_the_same_hidden_prompts() -> None:
    plain = bounds.chat(asked(said("a")))
    with_json = bounds.chat(asked(said("a"), response_format={"type": "json_object"}))

    assert plain.with_text(500).text_tokens == 500
    assert with_json.with_text(500).text_tokens == 500 + bounds.HIDDEN_PROMPT_TOKENS


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
    filled = bounds.quote(bounds.fim({"prompt": "é", "suffix": "b", "max_tokens": 5}), coder, model="c")
    embedded = bounds.embeddings({"input": ["é" * 50, "b"]})

    assert filled is not None
    assert not filled.capable
    assert filled.fixed_picos == (8 + 2 + 1) * 1_000_000
    assert embedded.input_tokens >= 101
    assert embedded.max_tokens is None
    quote = bounds.quote(embedded, entry("e"), model="e")
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
        ({"document": {"type": "image_url"}}, "page", 1),
        ({"pages": [1], "document_annotation_format": {"type": "json_schema"}}, "annotated_page", 1),
    ],
)
def test_ocr_is_bounded_by_its_pages(fields: dict[str, Any], unit: str, pages: int) -> None:
    estimate = bounds.ocr(fields)

    assert (estimate.unit, estimate.units) == (unit, pages)
    reader = entry("o", rates=Rates(units={"page": 4_000_000_000, "annotated_page": 5_000_000_000}, by_token=False))
    quote = bounds.quote(estimate, reader, model="o")
    assert quote is not None
    assert quote.cost_nanos == pages * (4_000_000 if unit == "page" else 5_000_000)


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
        request = mistral_dialect.parse(orjson.dumps(payload))
        estimate = bounds.chat(request.payload)
    except (mistral_dialect.DialectError, UnboundedInput):
        return
    assert estimate.input_tokens > 0
    assert estimate.max_tokens is not None
    assert estimate.max_tokens > 0
