"""All the ways in which the model's API of the storm answers: well, oddly, wrongly, half, late and not at all. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from benchmarks.answers import USAGES_THAT_TELL, Answer

PACES = (100.0, 200.0, 300.0)
# One that comes at once has so few tokens that nobody leaves in the middle of it.
MOST_AT_ONCE, MOST_PACED = 150, 600


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """`fails`: what the gateway then answers with, also a 5xx, is the upstream's doing. `hangs`: it says nothing for
    so long that its client may leave. `disobeys`: it spends more than it was allowed to, which no gateway prevents."""

    answer: Answer
    weight: int = 1
    fails: bool = False
    hangs: bool = False
    disobeys: bool = False

    @property
    def tells(self) -> bool:
        """Whether it says its true cost to those who read to the end."""
        answer = self.answer
        spoils = self.fails or self.hangs or self.disobeys or answer.script is not None
        spoils = spoils or answer.model is not None or answer.text_model is not None
        return not spoils and answer.is_billed and answer.usage in USAGES_THAT_TELL and answer.usage_at != "first"


def _one(name: str, weight: int = 1, *, fails: bool = False, hangs: bool = False, **parts: Any) -> Behaviour:
    return Behaviour(answer=Answer(name=name, **parts), weight=weight, fails=fails, hangs=hangs)


def _said(body: bytes, *, status: int = 200, content_type: str = "application/json") -> list[bytes | float | str]:
    head = f"HTTP/1.1 {status} As Told\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return [head.encode() + body]


_WHOLE_ANSWER = b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
_CUT_ANSWER = _WHOLE_ANSWER + b'{"role":"assistant","content":"' + b"7" * 30
_BROKEN_ANSWER = _WHOLE_ANSWER + b'{"role":"assistant","content":"' + b"7" * 30 + b'"}}]]'
_THOUGHT = (
    _WHOLE_ANSWER + b'{"content":[{"type":"thinking","thinking":[{"type":"text","text":"' + b"7" * 30 + b'"}]}]}}]}'
)
_FAILED_CALL = (
    b'{"error":{"message":"no call of a tool","code":"tool_use_failed","failed_generation":"' + b"7" * 30 + b'"}}'
)
ERROR = {"message": "The model is overloaded.", "type": "server_error", "code": "overloaded"}

WELL: tuple[Behaviour, ...] = (
    _one("honest", 12),
    _one("paced", 8, pace=200.0),
    _one("words", 4, token_bytes=4, pace=200.0),
    _one("many events at once", 2, event_tokens=7),
    _one("logprobs", 3, logprobs=True, pace=300.0),
    _one("reasoning", 2, text_field="reasoning_content", pace=200.0),
    _one("thought unseen", 2, unseen_tokens=50),
    _one("tool call", 2, text_field="tool_calls"),
    _one("all at its end", 4, text_field="tool_calls", pace=200.0, whole_from=0),
    _one("some, and the rest at its end", 2, pace=200.0, whole_from=30),
    _one("refusal", 1, text_field="refusal"),
    _one("letters of four bytes", 1, text="😀é"),
    _one("lone surrogate", 1, text="\ud83d"),
    _one("minus infinity", 1, more={"score": float("-inf")}),
    _one("cached", 2, cached_tokens=10),
    _one("cached at the top", 1, cached_tokens=10, usage="cached_at_top"),
    _one("nothing of the prompt", 1, usage="no_prompt"),
    _one("usage last", 2, usage_at="end"),
    _one("usage in every event", 2, usage_at="every"),
    _one("usage in the choice", 1, usage_at="choice"),
    _one("usage in x_groq", 1, usage_at="x_groq"),
    _one("floats", 1, usage="floats"),
    _one("digits as text", 1, usage="texts"),
    _one("zero usage later", 1, usage="zero_later", usage_at="end"),
    _one("null usage later", 1, usage="null_later", usage_at="end"),
    _one("growing usage", 1, usage="growing", usage_at="end"),
    _one("until the connection closes", 1, transfer="close"),
    _one("crlf", 1, framing="sse_crlf"),
    _one("dribbled", 1, dribble=(700, 0.02)),
    _one("slow head", 1, head_after_s=2.0),
    _one("open after done", 2, stays_open=True),
    _one("no done, heartbeats", 2, done=False, stays_open=True, heartbeat_s=0.5),
    _one("no done", 1, done=False),
    _one("single line ends", 2, framing="sse_single"),
    _one("lines of json", 2, framing="ndjson"),
    _one("json to a stream", 3, framing="json"),
    _one("201", 1, status=201),
    _one("206", 1, status=206),
)
ODD: tuple[Behaviour, ...] = (
    *(
        _one(f"usage: {usage}", usage=usage)
        for usage in """none null no_output no_output_no_total null_output zero_output negative true list peta
        past_64_bits larger_total other_names fraction""".split()  # noqa: SIM905
    ),
    _one("smaller usage later", 1, usage="smaller_later", usage_at="end"),
    _one("usage in pieces", 1, usage="in_pieces", usage_at="end"),
    _one("no usage, paced", 3, usage="none", pace=200.0),
    _one("usage first", 1, usage_at="first", pace=200.0),
    _one("no usage in json to a stream", 1, framing="json", usage="none"),
    _one("no usage in lines of json", 1, framing="ndjson", usage="none"),
    _one("thinking parts, no usage", tokens=30, script=_said(_THOUGHT)),
    _one("unknown model serves", 1, model="gpt-9-ultra", pace=200.0),
    _one("unknown model in its text", 1, text_model="gpt-9-ultra", pace=200.0),
    Behaviour(answer=Answer(name="disobeys", obeys_max_tokens=False, pace=300.0), disobeys=True),
    Behaviour(answer=Answer(name="keeps going", keeps_going=True, pace=200.0), weight=2),
)
WRONG: tuple[Behaviour, ...] = (
    _one("an error first", fails=True, error=ERROR, error_after=0, tokens=0, billed=False),
    _one("an error in the middle", fails=True, error=ERROR, error_after=20, pace=200.0),
    _one("400", fails=True, status=400, error={"message": "no"}),
    _one("403", fails=True, status=403, error={"message": "The request was blocked by guardrails."}),
    _one("422", fails=True, status=422, error={"message": "no"}),
    _one("429", fails=True, status=429, error={"message": "slower"}, headers={"retry-after": "1"}),
    _one("500", fails=True, status=500, error=ERROR),
    _one("503", fails=True, status=503, error=ERROR, headers={"retry-after": "1"}),
    _one("529", fails=True, status=529, error=ERROR),
    _one("500 after the work", fails=True, status=500, billed=True),
    _one("504 after the work", fails=True, status=504, billed=True, usage="none"),
    _one("reset before the head", fails=True, ends_after_bytes=0, billed=False),
    _one("reset in the head", fails=True, ends_after_bytes=30, tokens=1, billed=False),
    _one("reset after some", 2, fails=True, ends_after_tokens=20, pace=200.0),
    _one("closed after some", 2, fails=True, ends_after_tokens=20, ends_by="close", pace=200.0),
    _one("reset after all but the usage", fails=True, tokens=40, ends_after_tokens=40, pace=200.0),
    _one("stuck in the middle", fails=True, hangs=True, ends_after_tokens=20, ends_by="hang", pace=200.0),
    _one("never begins", fails=True, hangs=True, script=["hang"], tokens=0),
    _one("a page", fails=True, billed=False, script=_said(b"<html>Sign in</html>", content_type="text/html")),
    _one("an empty object", fails=True, billed=False, script=_said(b"{}")),
    _one("nothing", fails=True, billed=False, script=_said(b"")),
    _one("an error body in a 200", fails=True, billed=False, script=_said(b'{"error":{"message":"overloaded"}}')),
    _one("half of the json", 2, fails=True, tokens=30, script=_said(_CUT_ANSWER)),
    _one("another end of the json", fails=True, tokens=30, script=_said(_BROKEN_ANSWER)),
    _one("a json that breaks off", fails=True, framing="json", ends_after_bytes=150, ends_by="close"),
    _one("a failed call in a refusal", fails=True, tokens=30, billed=True, script=_said(_FAILED_CALL, status=400)),
    _one("a failed call in a 200", fails=True, tokens=30, script=_said(_FAILED_CALL)),
)
ALL = (*WELL, *ODD, *WRONG)
BY_NAME = {behaviour.answer.name: behaviour for behaviour in ALL}
# These say themselves how much they write.
_OF_THEIR_OWN = frozenset(
    behaviour.answer.name for behaviour in ALL if behaviour.answer.tokens != Answer().tokens or behaviour.answer.script
)


def chosen(random: Random, among: Sequence[Behaviour] = ALL) -> Behaviour:
    """One of them, of some length of its own."""
    [found] = random.choices(among, weights=[behaviour.weight for behaviour in among])
    answer = found.answer
    if answer.name in _OF_THEIR_OWN:
        return found
    if answer.pace is None:
        return replace(found, answer=replace(answer, tokens=random.randint(1, MOST_AT_ONCE)))
    pace, tokens = random.choice(PACES), random.randint(30, MOST_PACED)
    return replace(found, answer=replace(answer, pace=pace, tokens=tokens))
