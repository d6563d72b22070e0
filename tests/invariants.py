"""The ledger's invariants, for tests of its operations alone."""

from __future__ import annotations

from governance.upkeep import reconcile
from governance.upkeep.reconcile import Drift


def drifts() -> list[Drift]:
    """All but that a window's limit is its budget's: an operation of the ledger changes the one, its caller the other."""
    return [drift for drift in reconcile.check() if (drift.invariant, drift.figure) != (7, "limit_nanos")]
