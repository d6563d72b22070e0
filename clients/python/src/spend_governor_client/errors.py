"""What can go wrong. Each error carries the gateway's own code and sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class GovernorError(Exception):
    """The base of all. `status` is 0 where nothing was answered, `request_id` what to ask operators about."""

    code: str
    message: str
    status: int = 0
    param: str | None = None
    request_id: str | None = None
    retry_after_s: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        values = (self.code, self.message, self.status, self.param, self.request_id, self.retry_after_s)
        return (type(self), (*values, dict(self.details)))


class Refused(GovernorError):
    """A budget, a limit or a stop is in the way: nothing is held, and the provider must not be called.

    `decision` says which budget, what is left of it and when it resets; empty where the key may not see it.
    """

    @property
    def decision(self) -> Mapping[str, Any]:
        return self.details.get("decision") or {}

    @property
    def is_passing(self) -> bool:
        """Whether the same call may be allowed in a moment: other calls hold the money, or a minute's limit is full."""
        return self.status == 429 and self.retry_after_s is not None


class NotAllowed(GovernorError):
    """The key is unknown, revoked, or may not do this."""


class Invalid(GovernorError):
    """The request is wrong; `param` names what."""


class Conflict(GovernorError):
    """It cannot be done any more: the reservation is resolved, its period over, or the request's id in use."""


class NeedsReview(Conflict):
    """More was claimed than the tenant's budgets leave; an operator decides. `details["report"]` is what was kept."""


class Unavailable(GovernorError):
    """The gateway could not be reached or could not decide, after all tries. What was asked may have been done."""


class Unsettled(RuntimeError):
    """A block of `with governor.hold(...)` ended well and had said neither what was used nor that nothing was.

    The hold is left as it is: where nobody settles it, it is charged whole when it expires.
    """


KINDS: Mapping[int, type[GovernorError]] = {
    400: Invalid,
    401: NotAllowed,
    402: Refused,
    403: NotAllowed,
    404: Invalid,
    409: Conflict,
    413: Invalid,
    422: Invalid,
    429: Refused,
}


def from_answer(status: int, body: Any, *, retry_after_s: float | None) -> GovernorError:
    """The error that an answer tells. One that is not the gateway's own, as a proxy's page, is told by its status."""
    told = body.get("error") if isinstance(body, dict) else None
    told = told if isinstance(told, dict) else {}
    kind = KINDS.get(status, Unavailable)
    if status == 403 and told.get("decision"):
        kind = Refused
    if status == 409 and told.get("report"):
        kind = NeedsReview
    return kind(
        code=str(told.get("code") or f"http_{status}"),
        message=str(told.get("message") or "The answer is not the gateway's own."),
        status=status,
        param=told.get("param"),
        request_id=told.get("request_id"),
        retry_after_s=retry_after_s,
        details=told,
    )
