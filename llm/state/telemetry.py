"""What a governed call tells whoever watches: one record an attempt, in OpenTelemetry's terms for generative AI.

Names are those of its semantic conventions (gen_ai.*, 2026); money is ours (spend_governor.*). Prompts and answers are
never in a record. Observers are called after the answer has been sent; what goes wrong in one changes no call.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.utils.module_loading import import_string

from governance.rules import money

log = logging.getLogger(__name__)

# The conventions' names where they differ from ours.
_PROVIDERS = {"mistral": "mistral_ai", "mistral-eu": "mistral_ai", "mistral-us": "mistral_ai"}
# W3C Trace Context; a version after 00 may have more behind it, which nobody reads.
_TRACE_CONTEXT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?")
_OPERATIONS = {
    "chat": "chat",
    "fim": "text_completion",
    "embedding": "embeddings",
}


# What the request that is being sent to a model names as its parent; empty where nobody traces.
sent_traceparent: ContextVar[str] = ContextVar("sent_traceparent", default="")


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """A stretch of a trace, by its ids in hexadecimal. `parent_id` is empty where it begins one."""

    trace_id: str
    span_id: str
    parent_id: str
    flags: str

    @classmethod
    def under(cls, traceparent: str) -> TraceSpan:
        """Within the trace that a client named, or a new one where it named none that can be."""
        parts = traceparent.split("-")
        if len(parts) < 4 or parts[0] == "ff" or not int(parts[1], 16) or not int(parts[2], 16):
            return cls(f"{random.getrandbits(128):032x}", _span_id(), "", "01")
        # Of the flags one is known, and what is not is not passed on.
        return cls(parts[1], _span_id(), parts[2], f"{int(parts[3], 16) & 1:02x}")

    def child(self) -> TraceSpan:
        return TraceSpan(self.trace_id, _span_id(), self.span_id, self.flags)

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def _span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of a model that ended, well or not. Durations in seconds, None where it did not come so far."""

    kind: str
    provider: str
    model_requested: str
    model_served: str
    tenant: str
    agent: str
    request_id: str
    reservation_id: str
    streamed: bool
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reserved_nanos: int
    cost_nanos: int
    # "confirmed" by the provider's count, "estimated", or empty where nothing was charged.
    certainty: str
    # Why it did not end well: `upstream_timeout`, `client_closed`, …; empty where it did.
    error: str
    duration_s: float
    first_byte_s: float | None
    # The W3C trace context that the client sent, or empty.
    traceparent: str
    # Seconds since 1970; and where it is in a trace, where that is told.
    ended_at: float = 0.0
    span: TraceSpan | None = None

    @property
    def operation(self) -> str:
        return _OPERATIONS.get(self.kind, self.kind)

    @property
    def provider_name(self) -> str:
        return _PROVIDERS.get(self.provider, self.provider)

    def attributes(self) -> dict[str, str | int]:
        """A span's attributes; what is not known is left out."""
        found: dict[str, str | int] = {
            "gen_ai.operation.name": self.operation,
            "gen_ai.provider.name": self.provider_name,
            "gen_ai.request.model": self.model_requested,
            "gen_ai.response.model": self.model_served,
            "gen_ai.agent.id": self.agent,
            "gen_ai.usage.input_tokens": self.input_tokens,
            "gen_ai.usage.cache_read.input_tokens": self.cached_tokens,
            "gen_ai.usage.output_tokens": self.output_tokens,
            "error.type": self.error,
            "spend_governor.tenant": self.tenant,
            "spend_governor.request.id": self.request_id,
            "spend_governor.cost.usd": money.format_dollars(self.cost_nanos),
            "spend_governor.reserved.usd": money.format_dollars(self.reserved_nanos),
            "spend_governor.cost.certainty": self.certainty,
        }
        return {name: value for name, value in found.items() if value != ""}


def trace_context(header: str) -> str:
    """A `traceparent` header as far as it is one; empty where it is not."""
    return header if _TRACE_CONTEXT.fullmatch(header) else ""


@dataclass(slots=True)
class EndedCall:
    """One request for a model that ended, well, refused or otherwise, with all its attempts. Durations in seconds.

    Changed by nobody; not frozen, as making a frozen one takes three times as long.
    """

    request_id: str
    # The path that it came to.
    route: str
    status: int
    # allow, warn, degrade, disable-tools, hard-stop, in-flight; where nothing was decided refused, replay or left.
    action: str
    # Why it was decided so, or empty; and the code of the error that it was answered with, or empty.
    reason: str
    code: str
    tenant: str
    agent: str
    user: str
    session: str
    task: str
    # The beginning of the key that people know it by.
    key: str
    model_requested: str
    streamed: bool
    client_left: bool
    duration_s: float
    # Until it was sent on, None where it never was.
    before_s: float | None
    ended_at: float
    traceparent: str
    attempts: tuple[Attempt, ...]
    span: TraceSpan | None = None

    @property
    def cost_nanos(self) -> int:
        """What all its attempts cost."""
        return sum(attempt.cost_nanos for attempt in self.attempts)

    @property
    def model_served(self) -> str:
        return self.attempts[-1].model_served if self.attempts else ""


Observer = Callable[[Attempt], None]
CallObserver = Callable[[EndedCall], None]


class Telemetry:
    """The observers of one process: ours, and the operators' own (`settings.TELEMETRY_OBSERVERS`)."""

    def __init__(
        self, observers: Iterable[Observer], calls: Iterable[CallObserver] = (), *, traces: bool = False
    ) -> None:
        """`traces`: calls and attempts are given their places in a trace, and models are told of it."""
        self._observers = tuple(observers)
        self._calls = tuple(calls)
        self.traces = traces

    @classmethod
    def load(
        cls,
        names: Iterable[str],
        *,
        always: Iterable[Observer] = (),
        calls: Iterable[CallObserver] = (),
        traces: bool = False,
    ) -> Telemetry:
        """Those of `always`, and the callables of these dotted names. Raises ImportError where one leads nowhere."""
        return cls([*always, *(import_string(name) for name in names)], calls, traces=traces)

    def ended(self, attempt: Attempt) -> None:
        for observer in self._observers:
            _tell(observer, attempt)

    def call_ended(self, call: EndedCall) -> None:
        for observer in self._calls:
            _tell(observer, call)


def _tell(observer: Callable[[Any], None], what: Attempt | EndedCall) -> None:
    try:
        observer(what)
    except Exception:
        log.exception("an observer of calls failed; the call is not changed by that")
