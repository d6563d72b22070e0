"""One line of the log for each call of a model, for those who read it by machine (LOG_FORMAT=json).

Who, what, what was decided, and what it cost; never a prompt, an answer or a key. Of a key it has the beginning that
people know it by.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from governance.rules import money
from llm.state.telemetry import EndedCall

log = logging.getLogger("spend_governor.calls")
STRANGERS_A_SECOND = 10


class CallLines:
    """Writes a line for each call; `write` is called by one thread.

    Anybody may call without a key, and as often: of those that nobody is known to have made, a second has a few lines,
    and the next says how many were left out.
    """

    def __init__(self) -> None:
        self._second, self._written, self._left_out = 0, 0, 0

    def write(self, calls: Sequence[EndedCall]) -> None:
        for call in calls:
            if call.tenant:
                log.info("call", extra={"fields": fields(call)})
            elif self._has_room(int(call.ended_at)):
                log.info("call", extra={"fields": fields(call) | self._more()})

    def _has_room(self, second: int) -> bool:
        if second != self._second:
            self._second, self._written = second, 0
        self._written += 1
        self._left_out += self._written > STRANGERS_A_SECOND
        return self._written <= STRANGERS_A_SECOND

    def _more(self) -> dict[str, int]:
        left_out, self._left_out = self._left_out, 0
        return {"left_out": left_out} if left_out else {}


def fields(call: EndedCall) -> dict[str, str | int | float | bool]:
    """What is known of a call; what is not is left out."""
    attempts = call.attempts
    found: dict[str, str | int | float | bool | None] = {
        "request_id": call.request_id,
        "trace_id": call.traceparent.split("-")[1] if call.traceparent else "",
        "route": call.route,
        "status": call.status or None,
        "tenant": call.tenant,
        "agent": call.agent,
        "user": call.user,
        "session": call.session,
        "task": call.task,
        "key": call.key,
        "model_requested": call.model_requested,
        "model_served": call.model_served,
        "provider": attempts[-1].provider if attempts else "",
        "decision": call.action,
        "reason": call.reason,
        "error": call.code or (attempts[-1].error if attempts else ""),
        "cost_usd": money.format_dollars(call.cost_nanos),
        "certainty": attempts[-1].certainty if attempts else "",
        "input_tokens": sum(attempt.input_tokens for attempt in attempts if attempt.certainty),
        "output_tokens": sum(attempt.output_tokens for attempt in attempts if attempt.certainty),
        "attempts": len(attempts),
        "streamed": call.streamed,
        "client_left": call.client_left,
        "latency_ms": round(call.duration_s * 1000, 1),
        "overhead_ms": None if call.before_s is None else round(call.before_s * 1000, 1),
    }
    return {name: value for name, value in found.items() if value not in ("", None)}
