"""What happens to a call while it is answered, for whoever is told of it at its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from governance.rules.calls import Caller
from governance.rules.decision import Decision
from llm.rules.client_requests import Request
from llm.state.telemetry import Attempt, TraceSpan, sent_traceparent


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

    def leaves(self, *, after_s: float) -> None:
        """An attempt is sent to its model, so long after the call came; its place in a trace goes with it."""
        if self.before_s is None:
            self.before_s = after_s
        if self.span is not None:
            self.attempt_span = self.span.child()
            sent_traceparent.set(self.attempt_span.traceparent)

    def attempted(self, attempt: Attempt) -> None:
        """The attempt under way is over."""
        self.attempts.append(attempt)
        self.attempt_span = None
