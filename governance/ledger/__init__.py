"""The only writer of windows, reservations, entries and rollups. Callers import this package: `ledger.reserve(...)`.

`book` applies operations in batches and `writer` gathers a process's operations into them; the operations themselves
are in `operations`, what comes back in `results`, how acts reach very many windows in `acts`. Everything else here is
the ledger's own.
"""

from governance.ledger.book import (
    ATTEMPTS,
    adjust,
    apply,
    apply_within,
    change_limit,
    dry_run,
    expire_due,
    extend,
    follow,
    follow_acts,
    lock_windows,
    open_period,
    record,
    release,
    reserve,
    reset,
    roll_windows,
    run_again,
    settle,
    take_report_turn,
    tenants_of,
    try_to_write,
)
from governance.ledger.clock import by_database
from governance.ledger.held_up import try_for
from governance.ledger.locks import RETRYABLE_SQLSTATES
from governance.ledger.results import (
    AdjustResult,
    AlreadyResolved,
    ExtendRefused,
    HeldUp,
    InReview,
    LedgerError,
    LedgerUnavailable,
    OutOfBounds,
    PeriodResult,
    RecordResult,
    ReservationUnknown,
    ResetResult,
    SettleResult,
)
from governance.ledger.sql_dialect import briefly, patiently

__all__ = [
    "ATTEMPTS",
    "RETRYABLE_SQLSTATES",
    "AdjustResult",
    "AlreadyResolved",
    "ExtendRefused",
    "HeldUp",
    "InReview",
    "LedgerError",
    "LedgerUnavailable",
    "OutOfBounds",
    "PeriodResult",
    "RecordResult",
    "ReservationUnknown",
    "ResetResult",
    "SettleResult",
    "adjust",
    "apply",
    "apply_within",
    "briefly",
    "by_database",
    "change_limit",
    "dry_run",
    "expire_due",
    "extend",
    "follow",
    "follow_acts",
    "lock_windows",
    "open_period",
    "patiently",
    "record",
    "release",
    "reserve",
    "reset",
    "roll_windows",
    "run_again",
    "settle",
    "take_report_turn",
    "tenants_of",
    "try_for",
    "try_to_write",
]
