"""What is told of a call that has ended, and of each of its attempts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from governance.rules.calls import Caller
from llm.gateway.errors import GatewayError
from llm.gateway.http import Exchange
from llm.state.telemetry import Attempt, EndedCall, trace_context

if TYPE_CHECKING:
    from llm.gateway.holds import Hold
    from llm.rules.client_requests import Request

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


def attempt(
    exchange: Exchange,
    hold: Hold,
    *,
    kind: str,
    request: Request,
    caller: Caller,
    first_byte_s: float | None,
    error: str,
) -> Attempt:
    """What is told of one attempt; by an estimate where nothing was charged."""
    charge = hold.charge
    usage = charge.usage if charge else hold.usage.estimated()
    return Attempt(
        kind=kind,
        provider=usage.provider,
        model_requested=request.model[:LONGEST_MODEL],
        model_served=usage.model,
        tenant=caller.tenant,
        agent=caller.agent,
        request_id=exchange.request_id,
        reservation_id=str(hold.id),
        streamed=request.stream,
        input_tokens=usage.input_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        reserved_nanos=hold.held_nanos,
        cost_nanos=charge.cost_nanos if charge else 0,
        certainty=charge.certainty if charge else "",
        error=error,
        duration_s=time.monotonic() - hold.since,
        first_byte_s=first_byte_s,
        traceparent=trace_context(exchange.header("traceparent")),
        ended_at=time.time(),
        span=exchange.notes.attempt_span,
    )


def _action(exchange: Exchange) -> str:
    notes = exchange.notes
    if notes.decision is not None:
        return notes.decision.action.value
    if notes.code:
        return REFUSED
    return REPLAY if exchange.started else LEFT
