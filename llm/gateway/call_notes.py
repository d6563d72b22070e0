"""What happens to a call while it is answered, for whoever is told of it at its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from governance.rules.calls import Caller
from governance.rules.decision import Decision
from llm.rules.client_requests import Request
from llm.state.telemetry import Attempt, TraceSpan


@dataclass(slots=True)
class CallNotes:
    """Filled in as the call goes on. One without a `route` is no call of a model, and nobody is told."""

    route: str = ""
    caller: Caller | None = None
    request: Request | None = None
    decision: Decision | None = None
    # Of the error that it was answered with.
    code: str = ""
    # Seconds from its arrival until it was sent on.
    before_s: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    # Its own place in a trace, and that of the attempt under way, where these are told.
    span: TraceSpan | None = None
    attempt_span: TraceSpan | None = None
