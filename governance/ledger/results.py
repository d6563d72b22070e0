"""What the ledger answers, and the ways it can fail. Amounts are integer nanodollars."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from governance.rules import refusals
from governance.rules.decision import Action, Decision, Reason, WindowView
from governance.rules.reports import ReportBound


class LedgerError(Exception):
    """Something the ledger refuses to do."""


class LedgerUnavailable(LedgerError):
    """The database cannot be reached, or others kept changing the windows that were needed: worth another try.

    Nothing was done, unless it is `unsure`: the commit's answer was lost.
    """

    def __init__(self, message: str, *, unsure: bool = False) -> None:
        super().__init__(message)
        self.unsure = unsure


class HeldUp(LedgerUnavailable):
    """Somebody else has a lock on what a tenant's operation needs: nothing was done. Those of others go on."""

    def __init__(self, tenant: str) -> None:
        super().__init__(f"a lock in the database holds up {tenant or 'this'}")
        self.tenant = tenant


class ReservationUnknown(LedgerError):
    """No reservation (or entry) has this id."""

    def __init__(self, id: UUID) -> None:
        super().__init__(f"there is no reservation {id}")
        self.id = id


class WindowGone(LedgerError):
    """A window that a pending reservation holds money in is not there any more: somebody deleted it by hand."""

    def __init__(self, id: UUID, window_id: int) -> None:
        super().__init__(f"reservation {id} holds money in window {window_id}, which is not there")
        self.id = id


class AlreadyResolved(LedgerError):
    """The reservation was settled, released or expired before; `status` says which."""

    def __init__(self, id: UUID, status: str) -> None:
        super().__init__(f"reservation {id} is already {status}")
        self.id, self.status = id, status


class OutOfBounds(LedgerError):
    """An amount, a count or a sum would pass its bound, see `governance.rules.money`; `field` is what asks for it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class HoldBeyondBound(OutOfBounds):
    """A tenant's key would hold more for calls of its own than its word is worth without a budget of the tenant's."""


class ReserveAnew(LedgerError):
    """The hold can have no more, whatever the money: it is too old, or what governs its call is not what has it."""


class RequestIdReused(LedgerError):
    """The request id names another report of the tenant already."""

    field = "request_id"


class TooManyNames(LedgerError):
    """A tenant has brought a budget for each one as many new names within an hour as it may."""

    def __init__(self, most: int) -> None:
        decision = Decision(Action.HARD_STOP, Reason.TOO_MANY_NAMES, most_names=most)
        super().__init__(f"{refusals.sentence(decision)}.")
        self.wait = refusals.wait_s(decision)


class ExtendRefused(LedgerError):
    """The hold cannot grow, or live longer: `decision` says why, as that on a call that is refused."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(f"{refusals.sentence(decision)}.")
        self.decision = decision


@dataclass(frozen=True, slots=True)
class InReview:
    """Money that a tenant's key reported beyond its bound: not charged, it waits for an operator.

    `windows` are those it would be charged in; `corrects_id` is the charge that it would add to, if there is one.
    """

    waiting_nanos: int
    bound: ReportBound
    windows: tuple[int, ...]
    corrects_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class SettleResult:
    """`windows`: those it was charged in, as they are afterwards.

    `late`: the reservation had expired, and the difference was posted as an adjustment. `in_review`: what of the cost
    is not in `charged_nanos`, and waits.
    """

    entry_id: UUID
    charged_nanos: int
    overage_nanos: int = 0
    late: bool = False
    windows: tuple[WindowView, ...] = ()
    in_review: InReview | None = None


@dataclass(frozen=True, slots=True)
class RecordResult:
    entry_id: UUID
    cost_nanos: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class AdjustResult:
    entry_id: UUID
    delta_nanos: int


@dataclass(frozen=True, slots=True)
class ResetResult:
    """How many windows a reset closes and opens; where they are very many, some of them do so within minutes."""

    closed: int
    opened: int


@dataclass(frozen=True, slots=True)
class FollowResult:
    """`done`: no open window is behind the acts on its budget; else the next slice is of the subjects `after` one."""

    done: bool
    after: str | None = None


@dataclass(frozen=True, slots=True)
class PeriodResult:
    """`opened` is False where this grant had opened its window before, or a newer period is open already."""

    window_id: int
    opened: bool
