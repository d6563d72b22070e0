"""Whatever an upstream sends, its readers answer, and none of what it makes of a usage is below zero or endless."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from governance.rules.calls import Usage
from llm.providers import ProviderError
from llm.providers.anthropic import _paid_refusal, _Shaping, _translated
from llm.rules import anthropic_answers, joined_events, openai_dialect, shown_work, sse, unreadable, usage
from llm.rules.answers import read_json
from llm.rules.stated_errors import error_in
from llm.rules.stream_usage import StreamUsage
from llm.rules.told_usage import ToldUsage
from llm.rules.tool_calls import CallParts, with_text_arguments
from llm.rules.transcription import read_seconds

# What the dialects know, so that odd values stand where something is looked for.
NAMES = """choices delta message content text thinking index finish_reason tool_calls function name arguments id type
error code status usage prompt_tokens completion_tokens total_tokens input_tokens output_tokens cached_tokens
prompt_tokens_details completion_tokens_details cache_creation cache_read_input_tokens cache_creation_input_tokens
usageMetadata promptTokenCount timings prompt_n cache_n x_groq response model content_block input partial_json
stop_reason usage_info pages_processed prompt_audio_seconds""".split()  # noqa: SIM905
WORDS = """message_start content_block_start content_block_delta content_block_stop message_delta message_stop text
tool_use text_delta input_json_delta thinking_delta stop error function 12 \ud83d""".split()  # noqa: SIM905
HUGE = [2**53, 2**63, 2**64, -1, 10**400, 1e308, 12.0, 0.5, float("nan"), float("inf"), -float("inf")]
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2**70), st.sampled_from(HUGE), st.sampled_from(WORDS), st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)),
    max_leaves=12,
)
calls = st.fixed_dictionaries({"index": scalars}, optional={"id": scalars, "function": values, "type": scalars})
chunks = st.fixed_dictionaries(
    {"choices": st.lists(st.fixed_dictionaries({"delta": st.one_of(
        values, st.fixed_dictionaries({"tool_calls": st.lists(st.one_of(calls, values), max_size=3)})
    )}, optional={"index": values, "finish_reason": values, "message": values, "usage": values}), max_size=2)},
    optional={"usage": values, "error": values, "model": values},
)  # fmt: skip
blocks = st.fixed_dictionaries(
    {"type": st.sampled_from(WORDS)},
    optional={"index": values, "message": values, "delta": values, "content_block": values, "usage": values},
)
objects = st.one_of(values, chunks, blocks)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """As an upstream may write it: a value, twice the same key, nested without end, or bytes of any kind."""
    text = json.dumps(draw(objects)).encode(errors="surrogatepass")
    match draw(st.integers(0, 6)):
        case 0:
            return draw(st.binary(max_size=30))
        case 1:
            return text[: draw(st.integers(0, len(text)))] + draw(st.sampled_from([b"", b"\xff", b"\xed\xa0\xbd"]))
        case 2:
            return b'{"usage": {"prompt_tokens": 1, "prompt_tokens": %s}, "usage": %s}' % (text, text)
        case 3:
            depth = draw(st.sampled_from([200, 300, 5000]))
            return b'{"error":' + b"[" * depth + text + b"]" * depth + b"}"
    return text


streams = st.lists(
    st.tuples(st.sampled_from([b"data: ", b"data:", b"event: x\ndata: ", b"id: 1\n", b""]), written(),
              st.sampled_from([b"\n\n", b"\n", b"\r\n\r\n", b"\r", b""])),
    max_size=4,
).map(lambda lines: b"".join(b"".join(line) for line in lines))  # fmt: skip
bounded = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def is_sound(found: Usage | None) -> bool:
    return found is None or (
        0 <= found.cached_tokens <= found.input_tokens <= 4 * usage.MOST_TOKENS
        and 0 <= found.output_tokens <= 4 * usage.MOST_TOKENS
        and 0 < found.units <= 8 * usage.MOST_TOKENS
    )


@given(written())
@bounded
def test_whatever_a_body_says_its_readers_answer(body: bytes) -> None:
    said = read_json(body)
    for found in (
        usage.read_tokens(said),
        usage.read_tokens(said, writes=False),
        usage.read_pages(said),
        read_seconds(said),
    ):
        assert is_sound(found)
    error_in(said)
    openai_dialect.out_of_money(body)
    openai_dialect.renamed_length(b'{"max_tokens": 5}', body)
    for status in (400, 402, 429):
        anthropic_answers.out_of_money(status, {}, body)
    orjson.dumps(anthropic_answers.refusal(body))
    unreadable.shows_work(body)
    unreadable.begins_answer(body, "choices")
    unreadable.is_answer(unreadable.readable(body)[0])
    shown_work.of(shown_work.refusal(body), asked=shown_work.AskedTexts(lambda: body), is_answer=True)
    with_text_arguments(said)
    assert sse.answer_bytes(said) >= sse.written_bytes(said) >= 0
    _paid_refusal(body, created=0, left_out=str)
    with contextlib.suppress(ProviderError):
        _translated(body, created=0)


@given(streams, st.integers(1, 40))
@bounded
def test_whatever_a_stream_says_it_is_read_and_passed_on(body: bytes, size: int) -> None:
    reader, shaper, told, counts = sse.EventReader(), openai_dialect.Shaper(), StreamUsage(2), ToldUsage(2)
    events = [event for at in range(0, len(body), size) for event in reader.feed(body[at : at + size])]
    events += reader.rest()[0]
    passed = b""
    for event in events:
        data = event.data or {}
        found = counts.took(data, usage.read_tokens(data), usage.least_tokens(data))
        told.took(event, found, text_bytes=event.text_bytes)
        passed += shaper.feed(event)
    passed += shaper.rest()
    assert is_sound(told.used)
    assert told.used is None or counts.least is not None
    assert shaper.kept_bytes >= 0
    joined_events.whole_answer(body)
    joined_events.whole_answer(passed)


@given(st.lists(objects, max_size=4))
@bounded
def test_whatever_events_hold_they_are_shaped(datas: list[Any]) -> None:
    said = b"".join(b"data: " + json.dumps(data).encode(errors="surrogatepass") + b"\n\n" for data in datas)
    reader, shaper = sse.EventReader(), openai_dialect.Shaper()
    for event in reader.feed(said):
        shaper.feed(event)
        sse.with_cost(event, cost_nanos=1)
        assert event.text_bytes >= 0
    shaper.rest()
    _paid_refusal(said, created=0, left_out=str)


@given(st.lists(st.one_of(calls, values), max_size=5))
@example([{"function": {"name": "f", "arguments": "{}"}}, {"function": "x"}])
@bounded
def test_whatever_parts_of_calls_there_are_they_come_together(parts: list[Any]) -> None:
    # As they are once they were read.
    parts = read_json(json.dumps(parts).encode(errors="surrogatepass")) or []
    made = CallParts()
    for part in parts:
        made.took(part)
    orjson.dumps(made.whole())
    assert made.text_bytes >= 0


# What Anthropic's events hold is caught where they are translated, event by event: its bytes count all the same.
@given(st.lists(blocks, max_size=4))
@bounded
def test_an_event_of_anthropic_s_that_cannot_be_translated_says_so_as_it_always_does(datas: list[Any]) -> None:
    shaping = _Shaping(created=0)
    for data in datas:
        for event in sse.EventReader().feed(b"data: " + json.dumps(data).encode(errors="surrogatepass") + b"\n\n"):
            with contextlib.suppress(TypeError, ValueError, AttributeError, KeyError):
                shaping.feed(event)
    shaping.rest()
    assert shaping.kept_bytes >= 0
