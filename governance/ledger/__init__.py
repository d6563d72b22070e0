"""The only writer of windows, reservations, entries and rollups. Callers import this package: `ledger.reserve(...)`.

`book` applies operations in batches and `writer` gathers a process's operations into them; the operations themselves
are in `operations`, what comes back in `results`. Everything else here is the ledger's own.
"""

from governance.ledger.book import (
    ATTEMPTS,
    RETRYABLE_SQLSTATES,
    adjust,
    apply,
    apply_within,
    change_limit,
    dry_run,
    expire_due,
    extend,
    lock_windows,
    open_period,
    record,
    release,
    reserve,
    reset,
    roll_windows,
    run_again,
    settle,
)
from governance.ledger.results import (
    AdjustResult,
    AlreadyResolved,
    ExtendRefused,
    LedgerError,
    LedgerUnavailable,
    PeriodResult,
    RecordResult,
    ReservationUnknown,
    ResetResult,
    SettleResult,
)

__all__ = [
    "ATTEMPTS",
    "RETRYABLE_SQLSTATES",
    "AdjustResult",
    "AlreadyResolved",
    "ExtendRefused",
    "LedgerError",
    "LedgerUnavailable",
    "PeriodResult",
    "RecordResult",
    "ReservationUnknown",
    "ResetResult",
    "SettleResult",
    "adjust",
    "apply",
    "apply_within",
    "change_limit",
    "dry_run",
    "expire_due",
    "extend",
    "lock_windows",
    "open_period",
    "record",
    "release",
    "reserve",
    "reset",
    "roll_windows",
    "run_again",
    "settle",
]
