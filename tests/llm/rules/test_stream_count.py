"""What an answer has come to while it still comes: a byte is a token."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from governance.rules.decision import Quote
from llm.rules import exact_count, sse
from llm.rules.stream_count import CALL_MARKS, FRAME_BYTES, MARKS, NOTICES_AFTER_S, UNTIL_IT_STOPS, StreamCount
from llm.rules.usage import LONGEST_TOKEN_BYTES

# 100 input tokens at 1 nanodollar, 1,000 output tokens at 2.
QUOTE = Quote(
    model="m",
    cost_nanos=2_100,
    fixed_picos=100_000,
    picos_per_output_token=2_000,
    max_tokens=1_000,
    input_tokens=100,
)


def counting(quote: Quote = QUOTE, *, come: int, hides: bool = False) -> StreamCount:
    count = StreamCount(quote, hides=hides)
    count.arrived(come)
    return count


def test_a_byte_that_has_come_is_a_token_up_to_all_that_may_be_written() -> None:
    assert counting(come=40).tokens(cut=False) == 40 + MARKS
    assert counting(come=5_000).tokens(cut=False) == 1_000
    count = counting(come=40)
    count.arrived(2)
    assert count.tokens(cut=False) == 42 + MARKS


def test_a_model_that_is_stopped_writes_on_until_it_notices() -> None:
    assert streamed((1, 40)).tokens(cut=True) == 40 + MARKS + UNTIL_IT_STOPS
    assert counting(come=999).tokens(cut=True) == 1_000
    fast = StreamCount(QUOTE)
    fast.arrived(300, seconds=0.1)
    fast.arrived(300, seconds=0.5)
    assert fast.tokens(cut=True) == 600 + MARKS + 300
    fast.arrived(100, seconds=2.5)
    assert fast.tokens(cut=True) == 700 + MARKS + 70
    assert fast.tokens(cut=False) == 700 + MARKS


def test_what_comes_at_once_was_written_in_a_tenth_of_a_second() -> None:
    """Nobody knows how fast it was: 30 tokens in 0.1 s, then two tenths of silence in which it wrote another 65."""
    assert streamed((0.1, 30), now=0.318).tokens(cut=True) == 30 + MARKS + 141
    assert counting(come=40).tokens(cut=True) == 40 + MARKS + 100


def test_of_what_has_not_come_or_does_not_show_nobody_knows() -> None:
    assert counting(come=0).tokens(cut=False) is None
    assert counting(come=0).tokens(cut=True) is None
    assert StreamCount(QUOTE).tokens(cut=True) is None
    assert counting(come=40, hides=True).tokens(cut=False) is None
    assert counting(replace(QUOTE, max_tokens=None), come=40).tokens(cut=False) is None
    reset = counting(come=40)
    reset.lose()
    assert reset.tokens(cut=True) is None


def streamed(*texts: tuple[float, int], now: float = 0.0, quote: Quote = QUOTE, **options: Any) -> StreamCount:
    """Texts of so many bytes, by the second that they came at."""
    count = StreamCount(quote, **options)
    for seconds, size in texts:
        count.arrived(size, seconds=seconds)
    count.passed(now)
    return count


def test_only_a_text_of_just_now_shows_that_all_before_has_come() -> None:
    assert streamed((0, 0), (1, 40), now=1 + NOTICES_AFTER_S).tokens(cut=True) == 40 + MARKS + UNTIL_IT_STOPS
    assert streamed((0, 0), (1, 40), now=1.26).tokens(cut=True) is None
    # Neither signs of life nor parts without a text show anything.
    assert streamed((0, 0), (1, 40), (2, 0), (3, 0)).tokens(cut=True) is None
    # Of an answer that is whole everything has come.
    assert streamed((0, 0), (1, 40), now=9).tokens(cut=False) == 40 + MARKS
    # 400 bytes a second for the quarter that it was silent for, and for the one in which it notices.
    assert streamed((0, 0), (1, 400), (2, 400), now=2.25).tokens(cut=True) == 1_000
    assert streamed((0, 0), (1, 200), (2, 200), now=2.25).tokens(cut=True) == 400 + MARKS + 100


def test_one_of_several_answers_may_be_kept_back_while_another_comes() -> None:
    assert streamed((1, 40), quote=replace(QUOTE, answers=2)).tokens(cut=True) is None
    assert streamed((1, 40), quote=replace(QUOTE, answers=2)).tokens(cut=False) == 40 + 2 * MARKS


def test_a_model_that_may_think_unseen_did_in_a_long_pause() -> None:
    assert streamed((1.1, 40), shows_all=False).tokens(cut=True) is None
    assert streamed((0.5, 40), (1.6, 1), (1.7, 40), shows_all=False).tokens(cut=True) is None
    assert streamed((1.0, 40), (2.0, 40), shows_all=False).tokens(cut=True) == 80 + MARKS + UNTIL_IT_STOPS
    # One that shows what it thinks has sent it by then.
    assert streamed((5, 40)).tokens(cut=True) == 40 + MARKS + UNTIL_IT_STOPS
    assert streamed((5, 40), shows_all=False).tokens(cut=False) == 40 + MARKS


def test_the_input_and_so_many_tokens_have_a_price() -> None:
    assert counting(come=40).cost_nanos(40) == 100 + 80
    # Of three answers each token is one answer's: 6,000 picodollars buy one of each.
    three = counting(replace(QUOTE, answers=3, picos_per_output_token=6_000), come=40)
    assert three.cost_nanos(40) == 100 + 80
    assert three.tokens(cut=False) == 40 + 3 * MARKS
    assert counting(replace(QUOTE, answers=3), come=5_000).tokens(cut=False) == 3_000


def test_more_than_all_tokens_can_be_is_an_overrun() -> None:
    most_bytes = 1_000 * LONGEST_TOKEN_BYTES
    for text_bytes, overruns in ((most_bytes, False), (most_bytes + 1, True)):
        count = StreamCount(QUOTE)
        count.arrived(text_bytes, part("x" * text_bytes))
        assert count.overruns is overruns
        assert count.overrun_tokens == (text_bytes if overruns else 0)
    # What nobody knows may be what a tool has found.
    assert not counting(come=most_bytes + 1).overruns


def test_what_an_answer_repeats_of_its_request_is_not_written() -> None:
    count = StreamCount(replace(QUOTE, answers=2), echoed_bytes=5)
    for text in ("Dear A", "Dear B", "C"):
        count.arrived(len(text), part(text))
    assert (count.arrived_bytes, count.written_bytes) == (13, 3)


def part(text: Any, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}} | fields]}


def keeping(*parts: Any, quote: Quote = QUOTE, **options: Any) -> StreamCount:
    count = StreamCount(quote, **({"keeps_texts": True} | options))
    for answer in parts:
        count.arrived(sse.answer_bytes(answer), answer)
    return count


def test_texts_are_kept_in_the_pieces_and_answers_that_they_came_in() -> None:
    count = keeping(part("ab"), part("c", index=1), part("d"), part(None), part("e", index="x"))
    assert count.text_bytes == 5
    assert count.take_texts() == {(0, "content"): ["ab", "d", "e"], (1, "content"): ["c"]}
    assert count.take_texts() == {}


def test_texts_that_were_counted_are_so_many_tokens_and_marks() -> None:
    count = keeping(part("a" * 100))
    count.take_texts()
    count.arrived(7, seconds=1.0)
    assert count.tokens(cut=False) == 107 + MARKS
    count.counted(30)
    assert count.tokens(cut=False) == 30 + MARKS + 7
    assert count.tokens(cut=True) == 30 + MARKS + 7 + UNTIL_IT_STOPS


def test_each_answer_has_marks_of_its_own_and_no_text_is_more_than_its_bytes() -> None:
    count = keeping(part("a" * 100), quote=replace(QUOTE, answers=3))
    count.counted(30)
    assert count.tokens(cut=False) == 30 + 3 * MARKS
    count.counted(110)
    assert count.tokens(cut=False) == 100 + 3 * MARKS


def test_what_comes_after_the_texts_were_taken_counts_by_its_bytes() -> None:
    count = keeping(part("a" * 100))
    count.take_texts()
    count.arrived(50, part("b" * 50))
    count.counted(10)
    assert count.tokens(cut=False) == 10 + MARKS + 50


def test_texts_too_long_to_count_are_not_kept() -> None:
    count = keeping(part("a" * exact_count.MOST_BYTES), part("b"), part("c"))
    assert (count.take_texts(), count.text_bytes) == ({}, 0)
    count.counted(0)
    assert count.tokens(cut=False) == QUOTE.max_tokens


def test_pieces_without_text_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_count, "MOST_BYTES", 10_000)
    count = keeping(part([{"text": ""}] * exact_count.MOST_BYTES), part("a" * 100))
    assert count.take_texts() == {}


def test_nothing_is_kept_where_nobody_counts_or_the_answer_hides_some() -> None:
    assert keeping(part("a"), keeps_texts=False).take_texts() == {}
    assert keeping(part("a"), hides=True).take_texts() == {}


def test_a_call_without_a_length_has_no_most_and_nothing_overruns_it_before_it_comes() -> None:
    silent = StreamCount(replace(QUOTE, max_tokens=None, answers=2))
    assert silent.most_tokens == 0
    assert not silent.overruns
    assert StreamCount(replace(QUOTE, answers=3)).most_tokens == 3_000


def test_the_pace_is_that_of_the_latest_second() -> None:
    count = StreamCount(QUOTE)
    count.arrived(400, seconds=4.0)
    count.arrived(400, seconds=1.0)
    # A quarter of a second of 800 bytes in four seconds is 50.
    assert count.tokens(cut=True) == 850 + MARKS
    slow = StreamCount(QUOTE)
    slow.arrived(385, seconds=2.0)
    # Of 192.5 bytes a second 48.125 are written on, and so 49 tokens at most.
    assert slow.tokens(cut=True) == 385 + MARKS + 49


def test_nothing_is_kept_unless_somebody_counts() -> None:
    count = StreamCount(QUOTE)
    count.arrived(3, part("abc"))
    assert (count.take_texts(), count.text_bytes) == ({}, 0)


def test_texts_of_just_so_many_bytes_are_counted() -> None:
    count = keeping(part("a" * exact_count.MOST_BYTES))
    assert count.text_bytes == exact_count.MOST_BYTES
    assert keeping(part("a" * exact_count.MOST_BYTES), part("b")).text_bytes == 0


def test_each_tool_call_has_marks_of_its_own() -> None:
    calls = [
        {"id": "abcdefghi", "function": {"name": "f", "arguments": "{}"}},
        {"function": {"arguments": "{}"}},
        "odd",
    ]
    begun = {"choices": [{"delta": {"tool_calls": calls}}, {"message": {"tool_calls": [{"function": {"name": "f"}}]}}]}
    count = StreamCount(QUOTE)
    count.arrived(20, begun)
    count.arrived(20, {"choices": [{"delta": {"tool_calls": "odd"}}, {"delta": None}]})
    assert count.tokens(cut=False) == 40 + MARKS + 2 * CALL_MARKS


def test_what_may_be_withheld_counts_where_an_answer_is_cut() -> None:
    count = StreamCount(QUOTE, withheld_bytes=20)
    count.arrived(40, part("a" * 40), seconds=1.0)
    assert count.tokens(cut=False) == 40 + MARKS
    assert count.tokens(cut=True) == 40 + 20 + MARKS + UNTIL_IT_STOPS


def test_what_cannot_be_read_counts_by_what_it_holds() -> None:
    count = StreamCount(QUOTE)
    broken = b'data: {"id": "' + b"i" * 100 + b'", "choices": [{"delta": {"content": "abc'
    count.broke(broken)
    assert (count.arrived_bytes, count.written_bytes) == (len(broken), 3)
    # Without answers it may be a part of one, or anything else.
    count.broke(b'{"text": "' + b"x" * 2_000)
    assert (count.written_bytes, count.answer_bytes) == (3, 3 + 2_000)
    count.broke(b"{what is this")
    count.broke(b" \n")
    assert (count.written_bytes, count.answer_bytes) == (3, 3 + 2_000 + 13)


LONG = b"x" * 2 * 1_000 * LONGEST_TOKEN_BYTES


def has_overrun(count: StreamCount) -> bool:
    overruns = count.overruns
    assert (count.overrun_tokens > 0, count.shown_tokens > 1_000) == (overruns, overruns)
    return overruns


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices": [{"message": {"content": "' + LONG,
        b'data: {"choices": [{"delta": {"content": "' + LONG,
        b'event: x\nid: 1\ndata: {"choices": [{"delta": {"content": "' + LONG,
        b'{"id": "data: x", "choices": [{"delta": {"content": "' + LONG,
        b'{"type": "message", "content": [{"text": "' + LONG,
    ],
)
def test_what_cannot_be_read_is_written_where_it_begins_as_an_answer(data: bytes) -> None:
    count = StreamCount(QUOTE)
    count.broke(data)
    assert has_overrun(count)
    event = StreamCount(QUOTE)
    event.came(sse.Event(data, unread=data), text_bytes=len(data))
    assert has_overrun(event)


@pytest.mark.parametrize(
    "data",
    [
        LONG,
        b'{"content": "' + LONG,
        b'{"message": {"content": "' + LONG,
        b'{"choices": "' + LONG,
        b'["data: x", {"choices": [{"delta": {"content": "' + LONG,
        b"id: x\n" * 25 + b'data: {"choices": [{"delta": {"content": "' + LONG,
    ],
)
def test_what_was_read_as_no_answer_is_not_written_whatever_else_is(data: bytes) -> None:
    count = StreamCount(QUOTE)
    count.broke(data)
    count.came(sse.Event(data, unread=data), text_bytes=len(data))
    count.arrived(5, {"text": "xxxxx"})
    count.arrived(5, {"choices": []})
    count.arrived(5, ["choices"])
    assert not has_overrun(count)
    count.arrived(0, part(""))
    assert not has_overrun(count)
    count.broke(data)
    assert (has_overrun(count), count.written_bytes) == (False, 0)


def test_what_is_kept_back_is_written_once_an_answer_is_read() -> None:
    count = StreamCount(QUOTE)
    count.keeps(len(LONG))
    assert not has_overrun(count)
    count.arrived(0, part(""))
    assert has_overrun(count)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_what_follows_half_a_text_behind_a_line_s_end_is_somebody_else_s(ending: bytes) -> None:
    half = b'{"choices": [{"delta": {"content": "abc'
    log = b"ERROR bad message: " + LONG
    for take in (
        lambda count: count.broke(half + ending + log),
        lambda count: count.came(sse.read_event(b"data: " + half + ending + log + 2 * ending), text_bytes=len(log)),
    ):
        count = StreamCount(QUOTE)
        take(count)
        assert (count.written_bytes, has_overrun(count)) == (3, False)
        assert count.answer_bytes >= len(log)


def test_an_event_counts_with_what_is_unread_of_it() -> None:
    count = StreamCount(QUOTE)
    event = sse.read_event(b'data: {"choices": [{"delta": {"content": "abc"}}]}\nxyz\n: sign of life\n\n')
    count.came(event, text_bytes=event.text_bytes, seconds=1.0)
    assert (event.unread, count.arrived_bytes, count.written_bytes) == (b"xyz", 6, 3)
    assert count.answer_bytes == 6


def test_of_an_event_that_nobody_can_read_the_rest_holds_as_much_text_as_its_beginning() -> None:
    for name, written_bytes in ((b"metadata", 0), (b"content", 99_900)):
        count = StreamCount(QUOTE)
        unread = b'{"choices": [{"delta": {"%s": "' % name + b"x" * 100_000
        count.came(sse.Event(b"", unread=unread), text_bytes=len(unread))
        assert written_bytes <= count.written_bytes <= 1.001 * written_bytes


def test_behind_an_answer_that_is_over_nothing_is_written() -> None:
    answer = b'{"choices": [{"message": {"content": "abc"}}]}'
    for take in (
        lambda count: count.broke(answer + LONG * 3),
        lambda count: count.came(sse.Event(b"", unread=answer + LONG), text_bytes=len(LONG)),
    ):
        count = StreamCount(QUOTE)
        take(count)
        assert (count.written_bytes, count.answer_bytes >= len(LONG)) == (3, True)


LOGPROBS = b'{"token":"x","logprob":-0.1,"top_logprobs":[%s]},' % b",".join([b'{"token":"y","logprob":-9.25}'] * 40)


@pytest.mark.parametrize(
    ("head", "each", "overruns"),
    [
        (b'{"choices":[{"message":{"content":"%s"},"logprobs":{"content":[' % (b"x" * 1_000), LOGPROBS, False),
        (b'{"choices":[{"logprobs":{"content":[', LOGPROBS, False),
        (b'{"choices":[{"message":{"content":"', b"text ", True),
    ],
)
def test_of_an_answer_too_long_to_be_read_the_rest_holds_as_much_text_as_its_beginning(
    head: bytes, each: bytes, overruns: bool
) -> None:
    count = StreamCount(QUOTE)
    body = (head + each * (8 * 1024**2 // len(each)))[: 8 * 1024**2]
    count.broke(body)
    assert (has_overrun(count), count.arrived_bytes) == (overruns, len(body))
    assert (count.written_bytes > len(body) // 2) == overruns


def test_what_waits_counts_as_written() -> None:
    count = StreamCount(QUOTE)
    count.keeps(7)
    assert (count.arrived_bytes, count.written_bytes) == (7, 7)


def test_text_in_unknown_places_is_written_but_for_a_frame() -> None:
    count = StreamCount(QUOTE)
    size = 1_000 * LONGEST_TOKEN_BYTES
    said = {"choices": [{"delta": {"thinking": "x" * (size + FRAME_BYTES)}}]}
    count.arrived(sse.answer_bytes(said), said)
    assert (count.written_bytes, count.overruns) == (size, False)
    count.arrived(1, part("y"))
    # Once it is more than can be, all of it counts.
    assert (count.overruns, count.overrun_tokens) == (True, size + 1 + FRAME_BYTES)
    assert count.shown_tokens == 1_001


def test_where_no_answer_says_its_usage_all_that_came_may_be_written() -> None:
    count = StreamCount(QUOTE, echoed_bytes=2)
    said = part("abc", annotations="x" * (FRAME_BYTES + 10))
    count.arrived(sse.answer_bytes(said), said)
    assert (count.written_bytes, count.answer_bytes) == (1, 1)
    count.end_untold()
    assert (count.written_bytes, count.answer_bytes) == (1, 3 + 10 + len("annotations"))
    count.shows(5_000)
    count.end_untold()
    assert count.answer_bytes == 3 + 10 + len("annotations") + 5_000


def test_who_writes_nothing_passes_no_bound() -> None:
    count = StreamCount(replace(QUOTE, max_tokens=None))
    count.keeps(10_000)
    assert (count.written_bytes, count.overruns, count.overrun_tokens) == (0, False, 0)


def test_what_nobody_writes_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    count = StreamCount(replace(QUOTE, max_tokens=None))
    looked: list[Any] = []
    monkeypatch.setattr(sse, "written_bytes", lambda answer: looked.append(answer) or 0)
    count.arrived(1, {"data": [{"embedding": [0.1] * 1_024}]})
    count.broke(b'{"data": [{"embedding": [0.1, ')
    assert looked == []
    StreamCount(QUOTE).arrived(1, {"data": []})
    assert looked == [{"data": []}]


def test_of_an_answer_of_which_some_is_lost_nobody_knows_how_much_was_written() -> None:
    count = counting(come=40)
    count.lose()
    assert count.tokens(cut=False) is None


ROLE = {"choices": [{"delta": {"role": "assistant"}}]}


@pytest.mark.parametrize(
    "part",
    [
        {"error": {"message": "no"}, "message": {"role": "user", "content": "a" * 10_000}},
        {"choices": [{"delta": {"content": "a" * 10_000}}], "error": {"message": "no"}},
    ],
)
def test_what_an_error_quotes_shows_nothing_of_the_model(part: dict[str, Any]) -> None:
    for take in (
        lambda count: count.came(sse.Event(b"", part), text_bytes=10_000),
        lambda count: count.broke(json.dumps(part).encode()[:-1]),
        lambda count: count.shows(10_000),
    ):
        count = StreamCount(replace(QUOTE, max_tokens=1))
        count.arrived(0, ROLE)
        take(count)
        assert (count.is_answer, count.overruns, count.written_bytes) == (True, False, 0)
        assert count.arrived_bytes >= 10_000


def test_what_an_error_shows_was_written() -> None:
    count = StreamCount(QUOTE)
    count.arrived(2, {"choices": [{"delta": {"content": "Hi"}}]})
    count.shows(100)
    count.end_untold()
    assert (count.arrived_bytes, count.written_bytes, count.answer_bytes) == (102, 2, 102)
