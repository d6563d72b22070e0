"""What a model's API is told to answer with, and the bytes that come of it. Pure.

An `Answer` is one answer in all its parts: how much is written, how fast, in which text, how it is counted, framed and
broken off. All of it is JSON as well, so that a test, a request's own text or a control path can ask for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

ACTS = ("reset", "close", "hang")
# A request asks for an answer of its own by this mark in any text of it, with the answer's JSON before `MARK_END`.
MARK, MARK_END = "[[answer:", ":answer]]"
# Of one token, about 2 kB: what `top_logprobs` adds to each.
_LOGPROBS = [{"token": f"tok{n}", "logprob": -float(n) - 0.123456789, "bytes": [116, 111, 107]} for n in range(28)]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Spans are in seconds. Where something is to happen after so many tokens or bytes, 0 is at once, None never.

    `script`: the bytes themselves, head included, instead of a generated answer: bytes are sent, numbers are pauses,
    "reset", "close" and "hang" are what they say. `tokens` is what the books count for it, `max_tokens` at most.
    """

    name: str = ""
    # What is written: tokens of each of `n` answers (None: all that was asked for), in pieces of `token_bytes` bytes:
    # digits where that is 1. `unseen_tokens` are thought, paid for and never shown.
    tokens: int | None = 20
    token_bytes: int = 1
    unseen_tokens: int = 0
    text: str = ""
    text_field: str = "content"
    logprobs: bool = False
    obeys_max_tokens: bool = True
    # How fast: tokens a second (None: in one burst), in events of so many; the rest is about the bytes.
    pace: float | None = None
    event_tokens: int = 1
    # From this token on it writes without sending, and sends that in one event at its end, as Mistral does with a tool
    # call. The stream has begun before, with a part that holds nothing.
    whole_from: int | None = None
    head_after_s: float = 0.0
    dribble: tuple[int, float] | None = None
    heartbeat_s: float | None = None
    # How it says what it used, by the names of `usage_blocks`, or the very block.
    usage: Any = "honest"
    usage_at: str = "finish"
    cached_tokens: int = 0
    counts: str = "texts"
    # Further fields of each event, or of the plain answer.
    more: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    # What the events of a stream name, but for the last, where that is another model.
    text_model: str | None = None
    # Status, head and framing.
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    framing: str = "sse"
    transfer: str = "chunked"
    done: bool = True
    finish: str | None = None
    # Of a stream: nothing ends it, but for its peer.
    stays_open: bool = False
    # How it goes wrong: an error instead of the rest, or the end of the connection.
    error: Mapping[str, Any] | None = None
    error_after: int = 0
    ends_after_tokens: int | None = None
    ends_after_bytes: int | None = None
    ends_by: str = "reset"
    keeps_going: bool = False
    # Whether work is done and paid for: None where the status says so.
    billed: bool | None = None
    script: Sequence[bytes | float | str] | None = None

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Raises TypeError for a part that there is not."""
        parts = dict(told)
        if isinstance(script := parts.get("script"), list):
            parts["script"] = [
                step.encode("latin-1") if isinstance(step, str) and step not in ACTS else step for step in script
            ]
        if isinstance(dribble := parts.get("dribble"), list):
            parts["dribble"] = (int(dribble[0]), float(dribble[1]))
        return cls(**parts)

    def to_json(self) -> dict[str, Any]:
        """What differs from the usual answer."""
        usual = type(self)()
        told = {part.name: getattr(self, part.name) for part in fields(self)}
        changed = {name: value for name, value in told.items() if value != getattr(usual, name)}
        if self.script is not None:
            changed["script"] = [step.decode("latin-1") if isinstance(step, bytes) else step for step in self.script]
        return changed

    @property
    def is_billed(self) -> bool:
        return self.status < 400 if self.billed is None else self.billed

    def marked(self, **more: Any) -> str:
        """The text by which a request asks for this answer; `more` are marks of the request's own, for the books."""
        return MARK + json.dumps({"answer": self.to_json(), **more}) + MARK_END


def marks_in(text: str) -> dict[str, Any]:
    """What the first mark in a text says; nothing where there is none, or it has been cut."""
    start = text.find(MARK)
    end = text.find(MARK_END, start)
    if start < 0 or end < 0:
        return {}
    found: dict[str, Any] = json.loads(text[start + len(MARK) : end])
    return found


@dataclass(frozen=True)
class Used:
    """Tokens that an answer has cost so far; `cached_tokens` are of the prompt's."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0

    def block(self) -> dict[str, Any]:
        block: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.prompt_tokens + self.output_tokens,
        }
        if self.cached_tokens:
            block["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        return block


def usage_blocks(answer: Answer, used: Used) -> list[Any]:
    """The blocks by which an answer says what it used, true or odd; the last one comes last. None: no block.

    Odd ones are those that real endpoints have sent.
    """
    true = used.block()
    prompt, output = used.prompt_tokens, used.output_tokens
    if not isinstance(answer.usage, str):
        return [answer.usage]
    odd: dict[str, list[Any]] = {
        "honest": [true],
        "none": [],
        "null": [None],
        "floats": [{name: float(number) for name, number in true.items() if not isinstance(number, dict)}],
        "texts": [{name: str(number) for name, number in true.items() if not isinstance(number, dict)}],
        "fraction": [true | {"completion_tokens": output + 0.5}],
        "no_output": [{"prompt_tokens": prompt, "total_tokens": prompt + output}],
        "no_output_no_total": [{"prompt_tokens": prompt}],
        "null_output": [true | {"completion_tokens": None}],
        "zero_output": [true | {"completion_tokens": 0, "total_tokens": prompt}],
        "negative": [true | {"completion_tokens": -output}],
        "true": [true | {"completion_tokens": True}],
        "list": [[prompt, output]],
        "peta": [true | {"completion_tokens": 10**15, "total_tokens": 10**15}],
        "past_64_bits": [true | {"completion_tokens": 2**70}],
        "smaller_later": [true, {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}],
        "zero_later": [true, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}],
        "null_later": [true, None],
        "growing": [Used(prompt, max(1, output // 2)).block(), true],
        "in_pieces": [Used(prompt, output // 2).block(), Used(0, output - output // 2).block()],
        "no_prompt": [true | {"prompt_tokens": 0, "total_tokens": output}],
        "cached_at_top": [_without_details(true) | {"cached_tokens": used.cached_tokens}],
        # Counted by a proxy outside the prompt, or by one that adds what nobody knows.
        "larger_total": [true | {"total_tokens": 10 * (prompt + output)}],
        "other_names": [{"input_tokens": prompt, "output_tokens": output}],
    }
    return odd[answer.usage]


def _without_details(block: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name != "prompt_tokens_details"}


# By these the true cost can be read.
USAGES_THAT_TELL = (
    "honest",
    "no_prompt",
    "cached_at_top",
    "floats",
    "texts",
    "zero_later",
    "null_later",
    "growing",
)


def token_texts(answer: Answer, count: int, first: int = 0) -> str:
    """The text of so many tokens, from the token numbered `first` on."""
    if answer.text:
        # A token a letter, so that letters stay whole; it starts again at its end.
        return "".join(answer.text[number % len(answer.text)] for number in range(first, first + count))
    if answer.token_bytes == 1:
        return "".join(str(number * 7 % 10) for number in range(first, first + count))
    return (" " + "abcdefghijkl" * answer.token_bytes)[: answer.token_bytes] * count


def _delta(answer: Answer, text: str) -> dict[str, Any]:
    if answer.text_field == "tool_calls":
        return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
    return {answer.text_field: text}


def _choice(answer: Answer, text: str, *, index: int, count: int, finish: str | None, plain: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": finish}
    if plain:
        message: dict[str, Any] = {"role": "assistant", "content": "", **_delta(answer, text)}
        if answer.text_field == "tool_calls":
            call = {"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": text}}
            message["tool_calls"] = [call]
        choice["message"] = message
    else:
        choice["delta"] = _delta(answer, text) if text else {}
    if answer.logprobs:
        token = {"token": text[:1], "logprob": -0.1, "bytes": [48], "top_logprobs": _LOGPROBS}
        choice["logprobs"] = {"content": [token] * count}
    return choice


def plain_body(answer: Answer, *, model: str, tokens: int, n: int, used: Used) -> bytes:
    """A whole answer as one JSON object."""
    if answer.error is not None:
        return json.dumps({"error": answer.error}).encode()
    text = token_texts(answer, tokens)
    finish = answer.finish or "stop"
    choices = [_choice(answer, text, index=i, count=tokens, finish=finish, plain=True) for i in range(n)]
    body: dict[str, Any] = {"id": "cmpl-1", "object": "chat.completion", "created": 1, "model": model}
    body |= {"choices": choices, **answer.more}
    blocks = usage_blocks(answer, used)
    if blocks:
        # Of one that has several in a stream, the true one.
        _place(answer, body, choices, blocks[0] if len(blocks) == 1 else used.block())
    return json.dumps(body).encode()


def embeddings_body(*, model: str, count: int, used: Used) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": [0.1, 0.2]} for index in range(count)]
    usage = {"prompt_tokens": used.prompt_tokens, "total_tokens": used.prompt_tokens, "completion_tokens": 0}
    return json.dumps({"id": "e", "object": "list", "model": model, "data": data, "usage": usage}).encode()


def _place(answer: Answer, chunk: dict[str, Any], choices: list[dict[str, Any]], block: Any) -> None:
    if answer.usage_at == "choice":
        if choices:
            choices[0]["usage"] = block
    elif answer.usage_at == "x_groq":
        chunk["x_groq"] = {"usage": block}
    else:
        chunk["usage"] = block


class Events:
    """The events of one streamed answer, framed as the answer wants them."""

    def __init__(self, answer: Answer, *, model: str, n: int) -> None:
        self._answer = answer
        self._n = n
        self._head = {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, **answer.more}
        self._text_head = self._head if answer.text_model is None else self._head | {"model": answer.text_model}

    def framed(self, chunk: Mapping[str, Any] | str) -> bytes:
        data = chunk if isinstance(chunk, str) else json.dumps(chunk)
        form = {"sse": "data: {}\n\n", "sse_crlf": "data: {}\r\n\r\n", "sse_single": "data: {}\n", "ndjson": "{}\n"}
        return form[self._answer.framing].format(data).encode()

    def begun(self) -> bytes:
        """The first part of each answer, which says that it is one."""
        parts = [
            {"index": i, "delta": {"role": "assistant", "content": ""}, "finish_reason": None} for i in range(self._n)
        ]
        return b"".join(self.framed({**self._text_head, "choices": [part]}) for part in parts)

    def written(self, first: int, count: int, used: Used) -> bytes:
        """So many tokens of each answer, from the one numbered `first` on."""
        answer = self._answer
        text = token_texts(answer, count, first)
        sent = b""
        for index in range(self._n):
            choices = [_choice(answer, text, index=index, count=count, finish=None, plain=False)]
            chunk: dict[str, Any] = {**self._text_head, "choices": choices}
            if answer.usage_at == "every" or (answer.usage_at == "first" and first == 0):
                for block in usage_blocks(answer, used)[-1:]:
                    chunk["usage"] = block
            sent += self.framed(chunk)
        return sent

    def ended(self, used: Used, *, by_length: bool) -> bytes:
        return b"".join(self._ending(used, self._answer.finish or ("length" if by_length else "stop")))

    def _ending(self, used: Used, finish: str) -> Iterator[bytes]:
        answer = self._answer
        blocks = usage_blocks(answer, used) if answer.usage_at in ("finish", "end", "choice", "x_groq", "every") else []
        choices = [_choice(answer, "", index=i, count=0, finish=finish, plain=False) for i in range(self._n)]
        chunk: dict[str, Any] = {**self._head, "choices": choices}
        if answer.usage_at != "end" and blocks:
            _place(answer, chunk, choices, blocks.pop(0))
        yield self.framed(chunk)
        for block in blocks:
            yield self.framed({**self._head, "choices": [], "usage": block})
        if answer.done and answer.framing != "ndjson":
            yield self.framed("[DONE]")

    def error(self) -> bytes:
        return self.framed({"error": self._answer.error})
