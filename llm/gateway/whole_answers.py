"""Answers that came whole, whatever they are: a JSON object, a stream that nobody asked for, or a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import orjson

from governance.rules.calls import Usage
from llm.gateway import errors
from llm.gateway.answer_memory import Share
from llm.gateway.bodies import Turn
from llm.gateway.holds import Hold
from llm.providers import Answer, ProviderError
from llm.providers.http import endless
from llm.rules import joined_events, refusal_words, shown_work, sse, usage
from llm.rules.answers import as_json, read_json, without_vectors
from llm.rules.shown_work import AskedTexts, ShownWork
from llm.rules.stated_errors import error_in
from llm.rules.stream_usage import StreamUsage
from llm.rules.tool_calls import with_text_arguments

# So much of a stream is read before others have their turn.
SLICE_BYTES = 128 * 1024
# What an answer may have values of, but for vectors: in memory each is as large as dozens of bytes of text.
MOST_VALUES = 1_000_000
# Of what a refusal says in a form of its own.
MOST_DETAIL = 1_000


@dataclass(frozen=True, slots=True)
class Streamed:
    """A plain call's answer that came as a stream. `is_over`: it came to its end."""

    answer: dict[str, Any]
    told: StreamUsage
    is_over: bool


async def read(answer: Answer, share: Share, turn: Turn, *, most_bytes: int) -> tuple[bytes, ProviderError | None]:
    """A body in Mistral's shape; as far as it came where it broke off or cannot be read, and why.

    It is held in `share`, and waits for room there. One of more than `most_bytes` is cut: it takes everybody's time to
    be read.
    """
    # A bytearray would be copied again and again as it grows.
    came, size, broken = list[bytes](), 0, None
    try:
        async for part in answer.parts():
            size += len(part)
            await share.hold(size)
            came.append(part)
            if size > most_bytes:
                raise endless()
    except ProviderError as error:
        broken = error
    data = b"".join(came)
    if broken is None:
        try:
            return await turn.work(len(data), partial(answer.whole, data)), None
        except ProviderError as error:
            broken = error
    return data, broken


def count_work(
    said: Mapping[str, Any], hold: Hold, *, asked: AskedTexts | None = None, is_answer: bool = False
) -> tuple[Usage | None, ShownWork]:
    """Count what an error shows of work before it. What it says was used, and the rest of what it shows.

    See `shown_work.of`.
    """
    work = shown_work.of(said, asked=asked, is_answer=is_answer)
    hold.count.keeps(work.text_bytes)
    used = reduce(usage.larger, map(hold.reported, work.counts), None)
    return used, work


async def count_broken(data: bytes, hold: Hold, turn: Turn, *, answers: int) -> None:
    """Count a body that is no whole answer by what of it came; nobody has seen when, so more may have been written."""
    streamed = await read_events(data, hold, turn, answers=answers)
    if streamed is None or not sse.choices_of(streamed.answer):
        await turn.work(len(data), partial(hold.count.broke, data))
    hold.count.lose()


async def read_events(data: bytes, hold: Hold, turn: Turn, *, answers: int) -> Streamed | None:
    """What a body says that is a stream, counted as it is in a stream; None for any other.

    A large one is read slice by slice beside the event loop, so that other keys have their turns there.
    """
    if not sse.is_stream(data):
        return None
    reading = _Reading(hold, answers)
    for start in range(0, len(data), SLICE_BYTES):
        await turn.work(len(data), partial(reading.feed, data[start : start + SLICE_BYTES]))
    return await turn.work(len(data), reading.finish)


def count_events(events: Iterable[sse.Event], hold: Hold, told: StreamUsage) -> None:
    """Count events of which nobody has seen when they came. What an error says is none of an answer's text."""
    for event in events:
        text_bytes = len(event.unread) if error_in(event.data) else event.text_bytes
        hold.count.came(event, text_bytes=text_bytes)
        told.took(event, hold.reported(event.data or {}), text_bytes=text_bytes)


class _Reading:
    """A body that is a stream, as it is read."""

    def __init__(self, hold: Hold, answers: int) -> None:
        self._hold = hold
        self._reader = sse.EventReader()
        self._joined = joined_events.Joined()
        self._told = StreamUsage(answers)
        # What is not counted yet: what never brings anything of an answer is no stream.
        self._came: list[sse.Event] = []
        self._is_done = False

    def feed(self, part: bytes) -> None:
        self._take(self._reader.feed(part))

    def finish(self) -> Streamed | None:
        """What all of it says."""
        last, unread = self._reader.rest()
        self._take(last)
        answer = self._joined.answer()
        if answer is None:
            return None
        self._hold.count.broke(unread)
        if unread.strip():
            self._told.took_unread()
        return Streamed(answer, self._told, is_over=self._told.have_ended or self._is_done)

    def _take(self, events: Iterable[sse.Event]) -> None:
        for event in events:
            self._joined.took(event)
            self._came.append(event)
        if not self._joined.has_begun:
            return
        count_events(self._came, self._hold, self._told)
        self._is_done = self._is_done or any(event.done for event in self._came)
        self._came.clear()


def said(
    data: bytes, streamed: Streamed | None, hold: Hold, *, has_vectors: bool
) -> tuple[bytes, dict[str, Any], Usage | None]:
    """A plain answer as it is to be passed on, what it says, and what was used; also of one that came as a stream."""
    if streamed is not None:
        data = orjson.dumps(streamed.answer)
    found = json_object(data, has_vectors=has_vectors)
    if with_text_arguments(found):
        data = orjson.dumps(found)
    data = as_json(data, found, has_all=not has_vectors)
    return data, found, hold.reported(found) if streamed is None else streamed.told.used


def json_object(data: bytes, *, has_vectors: bool = False) -> dict[str, Any]:
    """The object that a body is, or an empty one; of vectors, of which it may have thousands, each is an empty list.

    What has too many values is read as nothing that anybody can read.
    """
    text = without_vectors(data) if has_vectors else data
    if len(text) > MOST_VALUES and text.count(b",") > MOST_VALUES:
        return {}
    parsed = read_json(text)
    return parsed if isinstance(parsed, dict) else {}


def refusal(data: bytes, *, status: int) -> bytes:
    """A refusal's body as clients can read it: the JSON object that an error is, in the words of the model's API.

    The words of a page, of a proxy or a firewall, are not; its status is. A `detail` that is no list of mistakes is
    said in our own form: with a 422, Mistral's client takes it for one, and breaks.
    """
    try:
        said = orjson.loads(data)
    except orjson.JSONDecodeError:
        said = None
    message = f"The model's API refused the request with status {status}."
    if isinstance(said, dict):
        detail = said.get("detail")
        if detail is None or _are_mistakes(detail):
            return data
        message = detail if isinstance(detail, str) else orjson.dumps(detail).decode()[:MOST_DETAIL]
    elif isinstance(said, list):
        message = refusal_words.words_of(said).message or message
    return orjson.dumps(errors.bad_request(message, code="upstream_refused").body())


def _are_mistakes(detail: Any) -> bool:
    """Whether these are as FastAPI, which Mistral uses, tells them: where and what each is."""
    return isinstance(detail, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("loc"), list)
        and all(type(step) in (str, int) for step in one["loc"])
        and isinstance(one.get("msg"), str)
        and isinstance(one.get("type"), str)
        for one in detail
    )
