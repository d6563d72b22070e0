"""Asking for more than a budget leaves: which refusals lead there, and what may be asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from governance.rules import money
from governance.rules.alerting import one_line
from governance.rules.decision import Decision, Reason
from governance.rules.errors import FieldError
from governance.rules.scopes import PLATFORM

LINK_LIFE = timedelta(days=3)
# Of one request. Whoever needs more than that has somebody to talk to.
MOST_NANOS = 100_000 * money.NANOS_PER_DOLLAR
# Of one tenant: whoever has its links is not to fill operators' mailboxes.
MOST_A_DAY = 20
# Both together, as "asker: reason", are the reason of the top-up that is made of it, which has 300 characters.
LONGEST_ASKER, LONGEST_REASON = 90, 200
_HARD_CAPS = (Reason.BUDGET_EXHAUSTED, Reason.DOWNGRADE_REFUSED)


@dataclass(frozen=True, slots=True)
class WishForMore:
    """What somebody asks for, in the form that is kept. `amount_nanos` is on top of the limit."""

    amount_nanos: int
    asker: str
    reason: str


def window_to_raise(decision: Decision) -> int | None:
    """The window of which more can be asked for, where its hard cap refused a call.

    None for the platform's, of which a tenant learns no more than that there is one, and for one that no call has
    opened, which cannot be topped up.
    """
    because = decision.because
    if decision.reason not in _HARD_CAPS or because is None or because.scope_type == PLATFORM:
        return None
    return because.window_id or None


def wish(*, amount_nanos: int, asker: str, reason: str) -> WishForMore:
    """What may be asked for; words as one line. Raises FieldError."""
    if amount_nanos <= 0:
        raise FieldError("amount", "must be more than 0 dollars")
    money.refuse_beyond("amount", amount_nanos, most=MOST_NANOS)
    return WishForMore(
        amount_nanos,
        _words("asker", asker, LONGEST_ASKER, missing="say who you are"),
        _words("reason", reason, LONGEST_REASON, missing="say what it is for"),
    )


def _words(field: str, text: str, most: int, *, missing: str) -> str:
    words = one_line(text, most + 1)
    if not words:
        raise FieldError(field, missing)
    if len(words) > most:
        raise FieldError(field, f"may have at most {most} characters")
    return words
