"""A call that somebody of the console sends to try a key: governed and charged as any call of its holder's."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any
from urllib.parse import unquote

import orjson
import uuid_utils.compat as uuids

from governance.ports import TriedCall
from llm.gateway import bodies, inside
from llm.rules import refusal_words, sse
from llm.rules.answers import read_json

PATH = "/v1/chat/completions"
PROMPT = "Say hello in five words."
MAX_TOKENS = 32
# Whoever waits looks at a page.
TIMEOUT_S = 60.0
LONGEST = 400


def send(*, key_id: int, tenant_id: int, text: str, model: str) -> TriedCall:
    """See `governance.ports.TryCall`."""
    body = orjson.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": MAX_TOKENS})
    request_id = str(uuids.uuid7())
    try:
        answer = inside.post(
            PATH,
            body,
            headers={"authorization": f"Bearer {text}"},
            request_id=request_id,
            called={},
            whose=(key_id, tenant_id),
            left=Future(),
            timeout_s=TIMEOUT_S,
        )
    except bodies.TooManyThreads as error:
        return TriedCall(429, f"{error}", "too_many_calls")
    except inside.GatewayAway as error:
        return TriedCall(503, f"No call was sent: {error}.", "gateway_away")
    return _read(answer, request_id)


def _read(answer: inside.InsideAnswer, request_id: str) -> TriedCall:
    headers = answer.headers
    said = read_json(answer.body)
    name = headers.get("x-request-id") or request_id
    cost = headers.get("x-request-cost-usd", "")
    if answer.status != 200:
        words = refusal_words.words_of(said)
        message = words.message or "The model's API refused the request."
        return TriedCall(answer.status, message[:LONGEST], words.code or "refused_upstream", name, cost=cost)
    model = unquote(headers.get("x-model-served", ""))
    return TriedCall(200, _text(said)[:LONGEST], "", name, model, cost)


def _text(said: Any) -> str:
    """What the model wrote, where it is a text."""
    choices = sse.choices_of(said) if isinstance(said, dict) else []
    messages = (choice.get("message") for choice in choices)
    found = next((message.get("content") for message in messages if isinstance(message, dict)), "")
    return found if isinstance(found, str) else ""
