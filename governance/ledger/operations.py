"""What can be asked of the ledger: plain, immutable operations. `governance.ledger.apply` carries them out.

Amounts are integer nanodollars, times aware UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuids

from governance.rules.calls import Caller, Usage
from governance.rules.decision import Call
from governance.rules.overruns import ModelOverrun
from governance.rules.reports import ReportTrust

# The reason of a charge whose hold was gone when it came.
HOLD_LOST = "hold_lost"


@dataclass(frozen=True, slots=True)
class Reserve:
    """Decide on a call and, where it may go, hold its worst-case cost. Answered by a `decision.Decision`.

    `model_requested` is what the client asked for, where the call is tried at another model. `trust`, where a tenant's
    key holds for a call of its own: only its word says that there is one, so it is bounded as reports are. `is_repeat`:
    an earlier try, whose answer nobody has heard, may have held it; then it is AlreadyResolved, whatever is so by now.
    `is_unpriced`: its model has no price, so that it is any name which the key thinks of.
    """

    reservation_id: UUID
    caller: Caller
    call: Call
    provider: str = ""
    ttl_s: int | None = None
    model_requested: str = ""
    trust: ReportTrust | None = None
    is_repeat: bool = False
    is_unpriced: bool = False


@dataclass(frozen=True, slots=True)
class Extend:
    """Keep a running call's reservation alive, and hold `more_nanos` for it where they fit.

    More money is asked for as a reservation is: a caller who is stopped, paused, suspended or without a key gets none.
    So is time, where it is `asked` for by whoever makes the call; without that it only protects what is held. `trust`:
    see Reserve. `by_holder`: who asks is whom the hold is for, with a key that is good; the one that it was made with
    may have been rotated since.
    """

    reservation_id: UUID
    more_nanos: int = 0
    ttl_s: int | None = None
    asked: bool = False
    by_holder: bool = False
    trust: ReportTrust | None = None

    @property
    def asks_for_leave(self) -> bool:
        return self.asked or self.more_nanos > 0


@dataclass(frozen=True, slots=True)
class Settle:
    """Charge what a call truly cost and return the rest of its hold.

    `trust`, where a tenant's key says what it cost: beyond its bound the hold is charged, and the rest waits.
    `overruns` are in force for every process once this has landed. `caller`: who is charged where the hold is not there
    any more, see `unheld`.
    """

    reservation_id: UUID
    cost_nanos: int
    usage: Usage
    certainty: str = "confirmed"
    reason: str = ""
    price_rule: str = ""
    request_id: str = ""
    occurred_at: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    trust: ReportTrust | None = None
    overruns: tuple[ModelOverrun, ...] = ()
    caller: Caller | None = None

    def unheld(self) -> Record | None:
        """The same charge without its hold, once however often it is made; None where nobody knows for whom."""
        if self.caller is None:
            return None
        return Record(
            entry_id=uuids.uuid7(),
            caller=self.caller,
            request_id=str(self.reservation_id),
            cost_nanos=self.cost_nanos,
            usage=self.usage,
            certainty=self.certainty,
            reason=self.reason or HOLD_LOST,
            price_rule=self.price_rule,
            occurred_at=self.occurred_at,
            metadata={**self.metadata, "request_id": self.request_id},
        )


@dataclass(frozen=True, slots=True)
class Release:
    """Return a whole hold: nothing was spent."""

    reservation_id: UUID


@dataclass(frozen=True, slots=True)
class Expire:
    """Resolve a reservation whose time ran out: charged in full as an estimate."""

    reservation_id: UUID


@dataclass(frozen=True, slots=True)
class Record:
    """Charge a call that was made without a reservation. A repeated request id is a no-op.

    `trust`, where a tenant's key reports it: beyond its bound nothing is charged. `windows` are those to charge where
    that was settled when it was reported; None: those that govern the caller now.
    """

    entry_id: UUID
    caller: Caller
    request_id: str
    cost_nanos: int
    usage: Usage
    model_requested: str = ""
    certainty: str = "confirmed"
    reason: str = ""
    price_rule: str = ""
    occurred_at: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    trust: ReportTrust | None = None
    windows: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Adjust:
    """Correct an entry by `delta_nanos` with a new row that names it; `price_rule` is why, where a price is."""

    entry_id: UUID
    corrects_id: UUID
    delta_nanos: int
    reason: str
    kind: str = "adjustment"
    price_rule: str = ""


@dataclass(frozen=True, slots=True)
class Reset:
    """Close a budget's open windows (one subject's, or all of them) and open new ones now."""

    budget_id: int
    reason: str
    actor: str
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class OpenPeriod:
    """Open a billing period's window, once for each grant (`source_kind`, `source_id`, `starts_at`).

    The window opens only where it is newer than the open one; a grant for an older period changes nothing.
    """

    budget_id: int
    starts_at: datetime
    ends_at: datetime
    limit_nanos: int
    source_kind: str
    source_id: str
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class ChangeLimit:
    """Give a budget's open windows a new limit, at once; states and thresholds follow."""

    budget_id: int
    limit_nanos: int
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class ReviewAllowances:
    """Bring a budget's open windows (one subject's, or all) up to date with its allowances, which have just changed."""

    budget_id: int
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Follow:
    """Bring the next of a budget's open windows up to date with the acts that these follow one after another.

    Those of the subjects `after` one; None: from the first.
    """

    budget_id: int
    after: str | None = None


Operation = (
    Reserve
    | Extend
    | Settle
    | Release
    | Expire
    | Record
    | Adjust
    | Reset
    | OpenPeriod
    | ChangeLimit
    | ReviewAllowances
    | Follow
)
