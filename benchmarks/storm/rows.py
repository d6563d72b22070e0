"""`python -m benchmarks.storm.rows`: the ledger's rows as one line of JSON. Times in seconds since 1970."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

import django


def main() -> None:
    django.setup()
    from django.db import transaction

    from governance.models import Budget, BudgetWindow, Reservation, SpendEntry

    with transaction.atomic():
        found = {
            "budgets": [
                {"id": row.pk, "hard_e4": row.hard_e4, "scope": row.scope, "window": row.window}
                for row in Budget.objects.select_related("tenant")
            ],
            "windows": list(
                BudgetWindow.objects.values(
                    *("id", "budget_id", "subject", "opened_at", "closed_at", "ends_at"),
                    *("limit_nanos", "settled_nanos", "reserved_nanos"),
                )
            ),
            "reservations": list(
                Reservation.objects.values(
                    *("id", "tenant__slug", "agent", "status", "amount_nanos", "windows"),
                    *("reserved_at", "expires_at", "resolved_at"),
                )
            ),
            "entries": list(
                SpendEntry.objects.values(
                    *("id", "kind", "tenant__slug", "reservation_id", "corrects_id", "request_id", "windows"),
                    *("cost_nanos", "overage_nanos", "certainty", "reason", "recorded_at", "model_served"),
                    *("input_tokens", "output_tokens", "price_rule"),
                )
            ),
        }
    print(json.dumps(found, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value))


if __name__ == "__main__":
    main()
