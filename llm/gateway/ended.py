"""What is told of a call that has ended."""

from __future__ import annotations

import time

from governance.rules.calls import Caller
from llm.gateway.errors import GatewayError
from llm.gateway.http import Exchange
from llm.state.telemetry import EndedCall, trace_context

NOBODY = Caller(0, "")
# Of calls about which nothing was decided: malformed, or by nobody known; answered with what is kept under their
# Idempotency-Key; given up by their client before.
REFUSED, REPLAY, LEFT = "refused", "replay", "left"
# A name may be of any length before it is looked up.
LONGEST_MODEL = 120


def refused(exchange: Exchange, error: GatewayError) -> None:
    """Note what a call is answered with in place of what it asked for."""
    notes = exchange.notes
    notes.code, notes.decision = error.code, error.decision or notes.decision


def told(exchange: Exchange) -> EndedCall:
    notes, caller = exchange.notes, exchange.notes.caller or NOBODY
    return EndedCall(
        request_id=exchange.request_id,
        route=notes.route,
        status=exchange.status,
        action=_action(exchange),
        reason=notes.decision.reason.value if notes.decision else "",
        code=notes.code,
        tenant=caller.tenant,
        agent=caller.agent,
        user=caller.user,
        session=caller.session,
        task=caller.task,
        key=caller.key_prefix,
        model_requested=notes.request.model[:LONGEST_MODEL] if notes.request else "",
        streamed=bool(notes.request and notes.request.stream),
        client_left=exchange.is_gone or not exchange.ended,
        duration_s=time.perf_counter() - exchange.arrived,
        before_s=notes.before_s,
        ended_at=time.time(),
        traceparent=notes.attempts[-1].traceparent if notes.attempts else trace_context(exchange.header("traceparent")),
        attempts=tuple(notes.attempts),
        span=notes.span,
    )


def _action(exchange: Exchange) -> str:
    notes = exchange.notes
    if notes.decision is not None:
        return notes.decision.action.value
    if notes.code:
        return REFUSED
    return REPLAY if exchange.started else LEFT
