"""Streams of server-sent events: split as they come, read, and written. Pure.

A stream is relayed as the bytes it came in; the reader looks at each event once, for its usage and its text. What
comes in another framing than a stream should (one JSON, a JSON a line, events without the empty lines between them) is
read as what it is, and passed on as the events that clients expect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from governance.rules import money
from governance.rules.calls import Usage
from llm.rules.answers import CHUNK, Mended, read_json, token_counts

DONE = b"data: [DONE]\n\n"
# Says nothing to a client but that the stream lives.
COMMENT = b":\n\n"
# An empty line ends an event, and so do several. Lines end in CRLF, LF or CR; (?>...) keeps CRLF from being two ends.
_END = re.compile(rb"(?>\r\n|\n|\r){2,}")
_LONGEST_END = 4
# A line's end and what shows that another line of data begins.
_LONGEST_START = 8
# A line's end that another line of data follows: of one event in several lines, or of two that nothing keeps apart.
_NEXT_LINE = re.compile(rb"(?>\r\n|\n|\r)(?=data:)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BEFORE_JSON = b" \t\r\n\xef\xbb\xbf"
# What an answer says of itself. All other text in it counts as written by the model, known or not.
_ABOUT_ANSWER = frozenset(
    """id object created model usage system_fingerprint service_tier provider obfuscation p x_groq error citations
    search_results prompt_filter_results prompt_logprobs prompt_token_ids kv_transfer_params timings usageMetadata
    governor type code request_id created_at done_reason""".split()  # noqa: SIM905
)
_ABOUT_CHOICE = frozenset(
    """index finish_reason native_finish_reason stop_reason matched_stop logprobs content_filter_results
    content_filter_offsets token_ids prompt_token_ids usage role id type""".split()  # noqa: SIM905
)
# What endpoints put beside what a model wrote, as large as it comes: what searches and tools have found, what they were
# sent, pictures and sounds, what is sealed. Text in any other place is the model's.
_BESIDE = frozenset(
    """annotations audio b64_json citations context documents encrypted_content executed_tools extra_content
    grounding_metadata groundingMetadata hidden_states image_url images inline_data input_audio metadata prompt
    prompt_logprobs provider_metadata provider_specific_fields references request safety_ratings search_info
    search_results signature thought_signature videos warnings web_search""".split()  # noqa: SIM905
)
_EMPTY: tuple[Any, ...] = (None, "", [], {})
# Names that give text its place. All others, and numbers, may be the model's: arguments that come unpacked.
_PLACES = frozenset(
    """delta message content text thinking reasoning reasoning_content refusal tool_calls function name
    arguments""".split()  # noqa: SIM905
)
# Where an answer's plain texts are.
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning", "refusal")
_ARGUMENTS = frozenset({"arguments", "input"})
_NOTHING: frozenset[str] = frozenset()
_BESIDE_CHOICE = _ABOUT_CHOICE | _BESIDE
# How lines of an event begin that hold no data; the last is a comment's.
_FIELDS = (b"event:", b"id:", b"retry:", b":")
# What one event may have values of; more in one takes everybody's time to be looked at.
MOST_VALUES = 50_000
# An id or a fingerprint; what is longer is a text.
_LONGEST_MARK = 256


@dataclass(slots=True)
class Event:
    """One event. `raw` is what came, its empty line included; `data` its JSON object, None where it holds none.

    `unread`: what else it holds that nobody can read, without what says that it lives.
    """

    raw: bytes
    data: dict[str, Any] | None = None
    done: bool = False
    unread: bytes = b""

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of what the model wrote in this event, at most: all of an event that nobody can read."""
        return len(self.unread) + (answer_bytes(self.data) if self.data is not None else 0)

    @property
    def finished(self) -> list[int]:
        """The answers that end here, by their index."""
        return [
            index if isinstance(index := choice.get("index"), int) else 0
            for choice in choices_of(self.data)
            if choice.get("finish_reason")
        ]


class EventReader:
    """Splits a stream into events. Of a stream as it should be, joined `raw` and `rest()` are the bytes that came.

    Each byte is looked at a few times, however small the pieces are in which a large event comes.
    """

    __slots__ = ("_buffer", "_is_json", "_seen", "_single_ends", "_whole")

    def __init__(self) -> None:
        self._buffer = bytearray()
        # Where no event ends before.
        self._seen = 0
        # None: nothing has come yet.
        self._is_json: bool | None = None
        self._single_ends = False
        # What the buffer begins with can be read as a whole only, when its end has come.
        self._whole = False

    @property
    def waiting(self) -> bytes:
        """What has come of an event that is not complete."""
        return bytes(self._buffer)

    @property
    def waiting_size(self) -> int:
        """Bytes of it."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes, in order."""
        self._buffer += chunk
        if self._is_json is None and (begun := chunk.lstrip(_BEFORE_JSON)):
            self._is_json = begun[:1] in (b"{", b"[")
        if self._is_json:
            return self._lines_of_json()
        events = []
        start = 0
        while end := _END.search(self._buffer, max(start, self._seen)):
            stop = end.end()
            # The CR may be half of a CRLF whose LF is on its way.
            if stop == len(self._buffer) and self._buffer.endswith(b"\r"):
                break
            events += read_events(bytes(self._buffer[start:stop]))
            start = stop
        if start:
            self._take(start)
        events += self._without_ends()
        self._seen = max(0, len(self._buffer) - _LONGEST_END)
        return events

    def rest(self) -> tuple[list[Event], bytes]:
        """What came after the last complete event: events that only lack their end, or bytes that nobody can read."""
        rest = bytes(self._buffer)
        self._take(len(rest))
        if not rest.strip():
            return [], rest
        events = _whole_json(rest) if self._is_json else read_events(rest + b"\n\n")
        return (events, b"") if all(event.done or event.data is not None for event in events) else ([], rest)

    def _take(self, size: int) -> None:
        del self._buffer[:size]
        self._seen, self._whole = 0, False

    def _without_ends(self) -> list[Event]:
        """Events of a stream that leaves the empty lines out: a line of data that is whole by itself is one."""
        events: list[Event] = []
        while not self._whole:
            pattern = _LINE_END if self._single_ends else _NEXT_LINE
            end = pattern.search(self._buffer, max(0, self._seen - _LONGEST_START))
            if end is None:
                break
            event = read_event(bytes(self._buffer[: end.start()]) + b"\n\n")
            if event.data is None and not event.done:
                # Nor will it be with what follows.
                self._whole = True
                break
            self._single_ends = True
            events.append(event)
            self._take(end.end())
        return events

    def _lines_of_json(self) -> list[Event]:
        """The objects of complete lines; of one JSON in several lines nothing until its end."""
        events: list[Event] = []
        while not self._whole and (end := self._buffer.find(b"\n", self._seen)) >= 0:
            line = bytes(self._buffer[:end]).strip()
            data = read_json(line) if line else {}
            if not isinstance(data, dict):
                self._whole = True
                break
            if line:
                events.append(_json_event(data))
            self._take(end + 1)
        self._seen = len(self._buffer)
        return events


def read_event(raw: bytes) -> Event:
    """One complete event. What is no JSON object is relayed all the same, with no data."""
    text, others = _lines_of(raw)
    if text == b"[DONE]":
        return Event(raw, done=True, unread=others)
    data = read_json(text) if text and text.count(b",") <= MOST_VALUES else None
    if not isinstance(data, dict):
        return Event(raw, unread=(text + b"\n" + others).strip())
    chunk = as_chunk(data)
    return Event(raw if chunk is data and not isinstance(data, Mended) else write_event(chunk), chunk, unread=others)


def read_events(raw: bytes) -> list[Event]:
    """The events of one block of lines: one, unless each of its lines of data is an object by itself."""
    event = read_event(raw)
    if event.data is not None or event.done or raw.count(b"data:") < 2:
        return [event]
    lines = [line for line in raw.splitlines() if line.startswith(b"data:")]
    found = [read_event(line + b"\n\n") for line in lines]
    return found if all(one.done or one.data is not None for one in found) else [event]


def as_chunk(data: dict[str, Any]) -> dict[str, Any]:
    """A whole answer as the one chunk of a stream; anything else as it is."""
    choices = choices_of(data)
    if not choices or not any(isinstance(choice.get("message"), dict) for choice in choices):
        return data
    chunks = [
        {**{name: value for name, value in choice.items() if name != "message"}, "delta": _delta(choice["message"])}
        if isinstance(choice.get("message"), dict)
        else choice
        for choice in choices
    ]
    return {**data, "object": CHUNK, "choices": chunks}


def is_stream(body: bytes) -> bool:
    """Whether a body is one of events, whatever its head says."""
    return body.lstrip(_BEFORE_JSON).startswith((b"data:", b"event:", b"id:", b":"))


def choices_of(data: Any) -> list[dict[str, Any]]:
    """The answers in an answer or a chunk; none where it has another shape."""
    choices = data.get("choices") if isinstance(data, dict) else None
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def write_event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def with_cost(event: Event, *, cost_nanos: int) -> bytes:
    """The event with `usage.cost_usd` added, a decimal string of dollars; unchanged where it has no usage."""
    usage = event.data.get("usage") if event.data else None
    if event.data is None or not isinstance(usage, dict):
        return event.raw
    return write_event({**event.data, "usage": {**usage, "cost_usd": money.format_dollars(cost_nanos)}})


def end_chunk(
    *,
    like: Mapping[str, Any] | None,
    model: str,
    ends: Mapping[int, str],
    request_id: str = "",
    created: int = 0,
    **more: Any,
) -> bytes:
    """The chunk that ends answers which are still open: of each by its index why.

    `like` is the last chunk seen (its id, model and time are kept), None before the first. `DONE` has to follow.
    """
    own = {"id": request_id, "object": CHUNK, "created": created, "model": model}
    head = own | {name: like[name] for name in own if like and like.get(name)}
    choices = [{"index": index, "delta": {"content": ""}, "finish_reason": end} for index, end in ends.items()]
    return write_event({**head, "choices": choices, **more})


def final_chunk(
    *,
    like: Mapping[str, Any] | None,
    model: str,
    usage: Usage,
    cost_nanos: int,
    reason: str,
    request_id: str = "",
    created: int = 0,
    indexes: Iterable[int] = (0,),
) -> bytes:
    """The last chunk of a stream that is stopped: as if its length had run out, which every client understands.

    `indexes` are the answers still open. `reason` goes under a key of our own, which clients ignore. See `end_chunk`.
    """
    return end_chunk(
        like=like,
        model=model,
        ends=dict.fromkeys(indexes, "length"),
        request_id=request_id,
        created=created,
        usage={**token_counts(usage), "cost_usd": money.format_dollars(cost_nanos)},
        governor={"stopped": reason},
    )


def answer_bytes(answer: Any) -> int:
    """UTF-8 bytes of all text in an answer or a chunk that the model may have written: no token has less than one.

    Log probabilities, which repeat the text, do not count; a field that nobody knows does.
    """
    if not isinstance(answer, dict):
        return 0
    total = 0
    for name, value in answer.items():
        if name == "choices" and isinstance(value, list):
            total += sum(_text_bytes(choice, _ABOUT_CHOICE) for choice in value)
        elif name not in _ABOUT_ANSWER or _is_text(value):
            total += _text_bytes(value, _ABOUT_CHOICE)
    return total


def begun_calls(answer: Any) -> int:
    """Tool calls that begin in an answer or a chunk: those that have an id or a name there."""
    parts = (choice.get(name) for choice in choices_of(answer) for name in ("delta", "message"))
    calls = (part.get("tool_calls") for part in parts if isinstance(part, dict))
    return sum(_begins_call(call) for listed in calls if isinstance(listed, list) for call in listed)


def _begins_call(call: Any) -> bool:
    if not isinstance(call, dict):
        return False
    function = call.get("function")
    return bool(call.get("id") or (isinstance(function, dict) and function.get("name")))


def answer_texts(answer: Any) -> Iterator[tuple[tuple[int, str], str]]:
    """Of what `answer_bytes` counts, the plain texts of a chat's answers: ((answer, field), text).

    Without texts in places that nobody knows, and without tool calls, which are written by other rules than texts.
    """
    for choice in choices_of(answer):
        index = choice.get("index")
        for part in (choice.get("delta"), choice.get("message")):
            if isinstance(part, dict):
                for field in _TEXT_FIELDS:
                    for text in _plain_texts(part.get(field)):
                        yield (index if isinstance(index, int) else 0, field), text


def plain_bytes(answer: Any) -> int:
    """Of what `answer_bytes` counts, what stands where all models write: texts, and the arguments of tool calls."""
    total = sum(len(text.encode(errors="surrogatepass")) for _, text in answer_texts(answer))
    for choice in choices_of(answer):
        for part in (choice.get("delta"), choice.get("message")):
            calls = part.get("tool_calls") if isinstance(part, dict) else None
            for call in calls if isinstance(calls, list) else ():
                function = call.get("function") if isinstance(call, dict) else None
                arguments = function.get("arguments") if isinstance(function, dict) else None
                total += len(arguments.encode(errors="surrogatepass")) if isinstance(arguments, str) else 0
    return total


def written_bytes(answer: Any) -> int:
    """Of what `answer_bytes` counts, what stands in its answers, but for what endpoints are known to put there.

    Beside them an endpoint may say anything, as what its searches have found.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    return sum(_text_bytes(choice, _BESIDE_CHOICE) for choice in choices) if isinstance(choices, list) else 0


def _is_text(value: Any) -> bool:
    """Whether what stands in the place of a mark (an id, a reason, a role) is longer than any."""
    return isinstance(value, str) and len(value) > _LONGEST_MARK


def _plain_texts(value: Any) -> Iterator[str]:
    """A text, or those of the parts that it comes in."""
    if isinstance(value, str):
        yield value
    for part in value if isinstance(value, list) else ():
        if isinstance(part, dict) and isinstance(text := part.get("text"), str):
            yield text


def _text_bytes(value: Any, about: frozenset[str]) -> int:
    """Bytes of every text in a value, but for what is under the names `about`; in arguments names are the model's.

    Elsewhere a field that holds nothing is a server's form.
    """
    total = 0
    waiting = [(value, about)]
    while waiting:
        value, about = waiting.pop()
        if isinstance(value, str):
            total += len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
        elif isinstance(value, list):
            waiting += [(inner, about) for inner in value]
        elif isinstance(value, dict):
            for name, inner in value.items():
                if name in about:
                    is_counted = name not in _BESIDE and _is_text(inner)
                else:
                    is_counted = inner not in _EMPTY or about is _NOTHING
                if is_counted:
                    waiting.append((inner, _NOTHING if name in _ARGUMENTS else about))
                    if name not in _PLACES:
                        waiting.append((name, about))
        elif value is not None:
            total += len(str(value))
    return total


def _lines_of(raw: bytes) -> tuple[bytes, bytes]:
    """The data of an event, and lines of it that are no field of one, or longer than any but data."""
    if raw.startswith(b"data: {"):
        # Nearly every event is one line; JSON holds no raw line ends.
        text = raw[6:].strip()
        if b"\n" not in text and b"\r" not in text:
            return text, b""
    data, others = [], []
    for line in raw.removeprefix(b"\xef\xbb\xbf").splitlines():
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line.startswith(_FIELDS) or len(line) > _LONGEST_MARK:
            others.append(line)
    return b"\n".join(data).strip(), b"\n".join(others).strip()


def _delta(message: Mapping[str, Any]) -> dict[str, Any]:
    """A whole message as a part of one: its tool calls are numbered."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    numbered = [{"index": at, **call} if isinstance(call, dict) else call for at, call in enumerate(calls)]
    return {**message, "tool_calls": numbered}


def _whole_json(data: bytes) -> list[Event]:
    found = read_json(data.strip(_BEFORE_JSON))
    objects = found if isinstance(found, list) else [found]
    if not objects or not all(isinstance(each, dict) for each in objects):
        return [Event(data, unread=data)]
    return [_json_event(each) for each in objects]


def _json_event(data: dict[str, Any]) -> Event:
    chunk = as_chunk(data)
    return Event(write_event(chunk), chunk)
