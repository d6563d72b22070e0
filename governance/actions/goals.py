"""A goal's budget: what one task or session may cost in all its life, closed as it ends.

It is a budget like any other, for a lifetime and one name. What is new is that it can be over: calls of it are refused
from then on, and what is held runs to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from governance import audit, ledger
from governance.audit import Actor
from governance.models import Budget
from governance.rules.errors import FieldError, Gone

SHAPE = "only one for a lifetime of one task or one session"


@ledger.run_again
@transaction.atomic
def close(*, budget: Budget, by: Actor, now: datetime, reason: str = "") -> Budget:
    """End a goal: from now on its calls are refused. One that is closed already stays as it is.

    Raises FieldError for any other budget, Gone.
    """
    if not budget.is_goal:
        raise FieldError("", f"{budget} is not closed: {SHAPE} is. Reset, change or disable it")
    # Calls that have the window come before, and their holds run on; those that wait for it are refused.
    ledger.lock_windows(budget.pk)
    row = Budget.objects.select_for_update(of=("self",)).select_related("tenant").filter(pk=budget.pk).first()
    if row is None:
        raise Gone("the budget has just been deleted")
    if row.closed_at is None:
        row.closed_at = ledger.by_database(now)
        row.save(update_fields=["closed_at", "updated_at"])
        new: Mapping[str, Any] = {"closed_at": row.closed_at.isoformat()}
        audit.record(action="budget.close", target=str(row), by=by, now=now, reason=reason.strip(), new=new)
    return row
