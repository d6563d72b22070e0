"""Every refusal in one table: what is answered to a call that may not go, whichever envelope carries it.

The statuses are chosen by what real clients do with them: 402 is retried by none, 429 is sent again by most. The data
plane and the control plane add their envelopes, and their own names for the call's fields. No Django, no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from governance.rules import money
from governance.rules.decision import Decision, Reason
from governance.rules.scopes import PLATFORM
from governance.rules.visibility import STAFF, Audience, ShownWindow
from governance.rules.windows import WindowKind

BUDGET_EXHAUSTED = "budget_exhausted"
NEVER_RETRY = ("x-should-retry", "false")
# For what calls in flight hold.
LONGEST_WAIT_S = 5
# A call may go in spite of these.
NEAR_THE_LIMIT = "The budget is near its limit"
# A call may go in spite of these; what is said of it all the same.
NO_REFUSALS = {
    Reason.NONE: "",
    Reason.SOFT_CAP: NEAR_THE_LIMIT,
    Reason.DOWNGRADE_RULE: "The budget asks for a cheaper model",
}
# What the fields of a `decision.Call` are called in a request, unless an envelope has its own word for them.
FIELDS = {name: name for name in ("model", "forced_tool", "allow_downgrade")}
OF_A_TOOL = {**FIELDS, "model": "tool", "forced_tool": "tool"}


@dataclass(frozen=True, slots=True)
class Row:
    """`sentence` is without its full stop, with the call's fields and the limits' figures in braces.

    `param` is the field of the call that is at fault. `wait_s` says in how many seconds to come back; None: nobody
    knows, so there is no Retry-After.
    """

    reason: Reason
    status: int
    code: str
    sentence: str
    param: str = ""
    wait_s: Callable[[Decision], int] | None = None

    def answered(self, *, over_budget_status: int) -> int:
        """The status; for an exhausted budget the one that is configured, for clients that know no 402."""
        return over_budget_status if self.code == BUDGET_EXHAUSTED else self.status

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """A 402 is final, also where it goes out as a 429."""
        return (NEVER_RETRY,) if self.status == 402 else ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client is answered, but for the envelope."""

    status: int
    code: str
    message: str
    param: str | None
    headers: tuple[tuple[str, str], ...]


def _until_returned_s(decision: Decision) -> int:
    """1 to 5 seconds: as if what the window's calls hold came back evenly within five.

    Of the platform's budget always five: less would tell each tenant how much of it all hold.
    """
    view = decision.because
    if view is None or view.reserved_nanos <= 0:
        return 1
    if view.scope_type == PLATFORM:
        return LONGEST_WAIT_S
    missing_nanos = decision.wanted_nanos - view.remaining_nanos
    return max(1, min(LONGEST_WAIT_S, -(-LONGEST_WAIT_S * missing_nanos // view.reserved_nanos)))


def _until_emptied_s(decision: Decision) -> int:
    return max(1, decision.retry_after_s)


TABLE = (
    Row(Reason.TENANT_PAUSED, 403, "paused", "An operator has paused this tenant"),
    Row(Reason.AGENT_PAUSED, 403, "paused", "An operator has paused this agent"),
    Row(Reason.EMERGENCY_STOP, 403, "emergency_stop", "An operator has stopped these calls"),
    Row(Reason.TENANT_SUSPENDED, 402, "subscription_inactive", "The subscription is not active"),
    Row(Reason.KEY_INVALID, 401, "invalid_api_key", "This API key is revoked or has expired"),
    Row(
        Reason.TOO_MANY_NAMES,
        429,
        "too_many_names",
        "More than {most_names:,} agents, users, sessions or tasks were new to one budget within an hour, or models to"
        " an hour's sums: name one that is known there, or try again later",
        wait_s=lambda _: 60,
    ),
    Row(Reason.BUDGET_CLOSED, 403, "budget_closed", "The budget of this task or session is closed"),
    Row(
        Reason.MODEL_NOT_PRICED,
        400,
        "model_not_priced",
        "The catalogue has no price for this model, so it is not called: {asked!r}",
        param="model",
    ),
    Row(
        Reason.TOOL_NOT_PRICED,
        400,
        "tool_not_priced",
        "No price is known for this tool, so it is not run: {asked!r}",
        param="model",
    ),
    Row(
        Reason.TOOL_DISABLED,
        400,
        "tool_disabled",
        "{forced_tool} names a tool that is taken away near the budget's limit",
        param="forced_tool",
    ),
    Row(Reason.BUDGET_EXHAUSTED, 402, BUDGET_EXHAUSTED, "The budget is used up"),
    Row(
        Reason.DOWNGRADE_REFUSED,
        402,
        BUDGET_EXHAUSTED,
        "Only a cheaper model is within the budget, and {allow_downgrade} is false",
    ),
    Row(
        Reason.BUDGET_IN_FLIGHT,
        429,
        "budget_in_flight",
        "The rest of the budget is held by calls in flight; try again shortly",
        wait_s=_until_returned_s,
    ),
    Row(
        Reason.RATE_LIMITED,
        429,
        "rate_limit_exceeded",
        "Too fast for a limit a minute of {limit}; try again in {wait_s} s",
        wait_s=_until_emptied_s,
    ),
)
ROWS = {row.reason: row for row in TABLE}


def refusal(
    decision: Decision,
    *,
    over_budget_status: int,
    audience: Audience = STAFF,
    fields: Mapping[str, str] = FIELDS,
    runs_out_at: datetime | None = None,
) -> Refusal:
    """The answer to a call that was not let through.

    `over_budget_status` is 402 or 429. In the message are only the figures that `audience` is shown. `fields` are the
    envelope's names for the call's fields. `runs_out_at`: when the budget that it names does, as it was last forecast.
    Raises KeyError for a decision that lets the call through.
    """
    row = ROWS[decision.reason]
    message = sentence(decision, fields=fields)
    if decision.because is not None:
        message = f"{message}: {_describe(audience.window(decision.because, runs_out_at))}"
    headers, seconds = row.headers, wait_s(decision)
    if seconds is not None:
        headers = (*headers, ("retry-after", str(seconds)))
    return Refusal(
        status=row.answered(over_budget_status=over_budget_status),
        code=row.code,
        message=f"{message}.",
        param=fields[row.param] if row.param else None,
        headers=headers,
    )


def wait_s(decision: Decision) -> int | None:
    """In how many seconds a refused call may come back; None where nobody knows. Raises KeyError as `refusal` does."""
    found = ROWS[decision.reason].wait_s
    return found(decision) if found else None


def sentence(decision: Decision, *, fields: Mapping[str, str] = FIELDS) -> str:
    """Why a call was refused or is warned, for people, without its full stop; empty where nothing is to be said."""
    if decision.reason in NO_REFUSALS:
        return NO_REFUSALS[decision.reason]
    row = ROWS[decision.reason]
    limit = decision.limited_by.scope if decision.limited_by else ""
    limit = "the platform" if limit == PLATFORM else limit
    figures = {"limit": limit, "wait_s": wait_s(decision), "most_names": decision.most_names}
    return row.sentence.format(asked=decision.model, **figures, **fields)


def rfc3339(at: datetime) -> str:
    """An aware UTC moment as it is written: "2026-03-10T12:00:00Z"."""
    return at.isoformat().replace("+00:00", "Z")


def _describe(window: ShownWindow) -> str:
    if window.limit_nanos is None or window.settled_nanos is None:
        return f"{window.name}{times(window)}"
    spent, limit = money.format_dollars(window.settled_nanos), money.format_dollars(window.limit_nanos)
    return f"{window.name}, ${spent} of ${limit} spent{times(window)}"


def times(window: ShownWindow) -> str:
    """When a budget is used up and when it begins anew, as far as that is known: what follows its name or figures.

    Of a hold that was to grow no later period is told, as that would have nothing for it.
    """
    said = []
    if window.runs_out_at is not None:
        said.append(f"runs out about {rfc3339(window.runs_out_at)} at the usual pace")
    if window.kind == WindowKind.LIFETIME:
        said.append("does not reset by itself")
    elif window.ends_at is not None:
        at = rfc3339(window.ends_at)
        ends_by_act = WindowKind(window.kind).ends_by_act
        said.append(f"resets once the period after {at} is paid" if ends_by_act else f"resets at {at}")
    return f"; it {' and '.join(said)}" if said else ""
