"""What is known of a call while it is asked for, so that a refusal can be noted with who asked for what."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils import timezone

from governance.actions.refusal_log import NotedRefusal, RefusalLog
from governance.rules.calls import Caller
from llm.gateway import callers, errors
from llm.gateway.http import Exchange
from llm.gateway.identities import Identity
from llm.rules.client_requests import Request
from llm.rules.estimates import Estimate

# The model's own word, or its silence, is no refusal of ours.
UPSTREAM = "upstream_error"
# What still runs may be asked for again.
STILL_RUNNING = 409


@dataclass(slots=True)
class Asked:
    """A call as far as it has been read. Making one costs next to nothing: most are never refused."""

    exchange: Exchange
    identity: Identity
    request: Request | None = None
    estimate: Estimate | None = None
    caller: Caller | None = None
    is_noted: bool = False

    def note(self, error: errors.GatewayError, log: RefusalLog) -> None:
        """Note a refusal, once."""
        if self.is_noted or not _is_ours(error):
            return
        self.is_noted = True
        decision, request = error.decision, self.request
        log.note(
            NotedRefusal(
                request_id=self.exchange.request_id,
                caller=self.caller or self.identity.caller(**callers.known(self.exchange, request)),
                model=request.model if request else "",
                tools=request.tools if request else (),
                reason=decision.reason.value if decision else error.code,
                status=error.status,
                at=timezone.now(),
                sentence=error.message,
                param=error.param or "",
                decision=decision,
                free_at=error.free_at,
                fields=errors.fields_as(self.exchange.called),
            )
        )

    def noted(self, error: errors.GatewayError, log: RefusalLog) -> errors.GatewayError:
        """The refusal itself, noted: to be raised without a name, by which its frames, and a body, would keep alive."""
        self.note(error, log)
        return error


def _is_ours(error: errors.GatewayError) -> bool:
    """Whether it is we who refused: so it is where a model is left alone, for then nothing is sent to it."""
    if error.free_at is not None:
        return True
    return error.status < 500 and error.status != STILL_RUNNING and error.type != UPSTREAM
