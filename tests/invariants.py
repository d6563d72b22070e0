"""The ledger's invariants, for tests of its operations alone."""

from __future__ import annotations

from governance.upkeep import reconcile
from governance.upkeep.reconcile import Drift


def drifts() -> list[Drift]:
    """All but that a window's limit is its budget's: the ledger changes the one, whoever calls it the other."""
    return [drift for drift in reconcile.check() if (drift.invariant, drift.figure) != (7, "limit_nanos")]
