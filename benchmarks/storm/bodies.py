"""What the storm's clients send: chat requests that are in order, and those that lie. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

GOOD_MODELS = ("mistral-small-latest", "mistral-small-latest", "ministral-8b-latest", "mistral-large-latest")
# Where answers fail, so that the circuit breakers of the others stay closed.
BAD_MODELS = ("ministral-14b-latest", "ministral-3b-latest", "codestral-latest", "mistral-medium-latest")
LONG = 50_000
# What is paid for by those that take the first of two equal keys.
_GREEDY = 1_500

Payload = dict[str, Any]


def honest(*, model: str, text: str, stream: bool, max_tokens: int | None) -> Payload:
    payload: Payload = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
    return payload if max_tokens is None else payload | {"max_tokens": max_tokens}


def honest_bytes(payload: Mapping[str, Any]) -> bytes:
    return json.dumps(payload, ensure_ascii=False).encode("utf-8", "surrogatepass")


def twice(payload: Payload, name: str, first: Any) -> bytes:
    """The payload with one more field before all others; where it has one of that name, that one is the last."""
    return b"{" + json.dumps(name).encode() + b": " + json.dumps(first).encode() + b", " + honest_bytes(payload)[1:]


def _in_message(name: str, value: Any) -> Callable[[Payload, Random], bytes]:
    def said(payload: Payload, _: Random) -> bytes:
        message = {"role": "assistant", "content": "Yes.", name: value}
        return honest_bytes(
            payload | {"messages": [*payload["messages"], message, {"role": "user", "content": "Go on."}]}
        )

    return said


def _with(**fields: Any) -> Callable[[Payload, Random], bytes]:
    return lambda payload, _: honest_bytes(payload | fields)


def _odd(name: str, values: tuple[Any, ...]) -> Callable[[Payload, Random], bytes]:
    return lambda payload, random: honest_bytes(payload | {name: random.choice(values)})


def _long_messages(payload: Payload, _: Random) -> bytes:
    text = payload["messages"][0]["content"]
    return twice(payload, "messages", [{"role": "user", "content": text + "1" * LONG}])


LIES: Mapping[str, Callable[[Payload, Random], bytes]] = {
    "two max_tokens": lambda payload, _: twice(payload | {"max_tokens": 5}, "max_tokens", _GREEDY),
    "MAX_TOKENS": lambda payload, _: twice(payload | {"max_tokens": 5}, "MAX_TOKENS", _GREEDY),
    "two n": lambda payload, _: twice(payload | {"n": 1}, "n", 8),
    "two models": lambda payload, _: twice(payload, "model", "mistral-large-latest"),
    "two messages": _long_messages,
    "two streams": lambda payload, _: twice(payload, "stream", not payload["stream"]),
    "best_of": _with(best_of=8),
    "max_output_tokens": _with(max_output_tokens=_GREEDY),
    "models": _with(models=["openai/gpt-9", "mistral-large-latest"]),
    "plugins": _with(plugins=[{"id": "web", "max_results": 100}]),
    "provider": _with(provider={"order": ["dearest"]}),
    "unknown text": _with(instructions="1" * LONG),
    "reasoning_content": _in_message("reasoning_content", "1" * LONG),
    "reasoning": _in_message("reasoning", "1" * LONG),
    "refusal": _in_message("refusal", "1" * LONG),
    "annotations": _in_message("annotations", [{"type": "url_citation", "text": "1" * LONG}]),
    "name": _in_message("name", "1" * LONG),
    "an odd model": _odd("model", ("gpt-9", "", " mistral-small-latest", "MISTRAL-SMALL", "m" * 300, None, 5, "\0")),
    "another's name of a model": _odd("model", ("mistral/mistral-small-latest", "mistral-small-2603")),
    "odd max_tokens": _odd("max_tokens", (0, -1, 10**9, "5", None, 5.0, True, 2**70, [5], 0.5, {})),
    "odd n": _odd("n", (0, -1, 3, "3", None, 3.0, True, 10**6)),
    "odd stream": _odd("stream", (1, "true", None, [])),
    "no messages": _with(messages=[]),
    "no list": _with(messages="Hi"),
    "no object": lambda payload, _: json.dumps([payload]).encode(),
    "no json": lambda payload, _: honest_bytes(payload)[:-2],
    "lone surrogate": lambda payload, _: honest_bytes(payload | {"user": "\ud83d"}),
}


def dense(random: Random) -> str:
    """Digits: text of a token a byte."""
    return "".join(random.choices("0123456789", k=random.choice((10, 100, 1_000, 8_000))))
