"""How long the console and the API take for their pages and lists, and how many calls a second the ledger takes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime
from statistics import median, quantiles
from typing import Any

import uuid_utils.compat as uuids
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from benchmarks.history.filling import BY, Places
from governance import ledger
from governance.actions import tenancy
from governance.ledger.operations import Reserve, Settle
from governance.models import Agent, SpendEntry
from governance.rules.calls import Caller, Usage
from governance.rules.decision import Call, Quote

BATCH, WRITING_S = 64, 10.0
COST_NANOS = 250_000
MODEL = "mistral-small-2603"


def write(places: Places) -> int:
    """Calls a second that the ledger holds and charges, in batches, without a gateway in front of it."""
    chosen = random.Random(7311)
    call = Call(model=MODEL, quote=lambda model: Quote(model, 2 * COST_NANOS))
    used = Usage("mistral", MODEL, 900, 0, 300)
    began, calls = time.monotonic(), 0
    while time.monotonic() - began < WRITING_S:
        owners = chosen.choices(places.tenants, k=BATCH)
        callers = [Caller(owner.pk, owner.slug, f"agent-{chosen.randrange(places.agents_of_each)}") for owner in owners]
        ids = [uuids.uuid7() for _ in callers]
        held = [Reserve(id, caller, call, provider="mistral") for id, caller in zip(ids, callers, strict=True)]
        settled = [Settle(id, COST_NANOS, used) for id in ids]
        for operations in (held, settled):
            for result in ledger.apply(operations, now=timezone.now()):
                if isinstance(result, Exception):
                    raise result
        calls += BATCH
    return round(calls / (time.monotonic() - began))


def pages(places: Places) -> list[str]:
    """What operators look at every day, and what programs read."""
    owner, own = places.tenants[0], places.budgets[1]
    agent = Agent.objects.filter(tenant=owner).earliest("pk")
    last = SpendEntry.objects.exclude(request_id="").order_by("pk").last() or SpendEntry.objects.latest("pk")
    console = [
        "", "?range=7d", "?range=30d", "overview/", "overview/happened/",
        "spend/", "spend/?range=30d", "spend/?range=30d&by=customer&then=model",
        f"spend/?range=30d&tenant={owner.slug}",
        "calls/", f"calls/?q={last.request_id}", f"calls/?tenant={owner.slug}",
        "governance/budget/", f"governance/budget/{own.pk}/change/",
        "governance/tenant/", f"governance/tenant/{owner.pk}/change/", f"governance/agent/{agent.pk}/change/",
        "governance/budgetwindow/", "governance/budgetevent/", "governance/spendentry/", "governance/spendrollup/",
        "governance/reservation/", f"governance/spendentry/{last.pk}/change/", f"search/?q={last.request_id}",
        "savings/", "judgement/", "margin/", "reports/",
    ]  # fmt: skip
    api = [
        "spend", f"spend?tenant={owner.slug}", "spend/summary?group_by=tenant", "spend/summary?group_by=model,day",
        f"spend/forecast?budget={own.pk}", "spend/rate", "budgets", f"budgets/{own.pk}", f"budgets/{own.pk}/windows",
        "refusals", "tenants", "agents",
    ]  # fmt: skip
    return [f"/admin/{path}" for path in console] + [f"/api/{path}" for path in api]


def ask_for_pages(places: Places, times: int, now: datetime, *, report: Callable[[str], None]) -> dict[str, Any]:
    """Of each page: milliseconds at the median and at p95 of one process, and queries."""
    owner = get_user_model().objects.create_superuser("benchmark")
    key, _ = tenancy.issue_key(role="operator", by=BY, now=now)
    client = Client(headers={"authorization": f"Bearer {key}"}, raise_request_exception=False, SERVER_NAME="127.0.0.1")
    client.force_login(owner)
    found = {}
    for path in pages(places):
        report(path)
        with CaptureQueriesContext(connection) as queries:
            answer = client.get(path)
        figures: dict[str, Any] = {"queries": len(queries)}
        took_ms = [_took_ms(client, path) for _ in range(times)]
        figures |= {"p50_ms": round(median(took_ms)), "p95_ms": round(quantiles(took_ms, n=20)[-1])}
        found[path] = figures | ({} if answer.status_code == 200 else {"status": answer.status_code})
    return found


def _took_ms(client: Client, path: str) -> float:
    began = time.perf_counter()
    client.get(path)
    return 1000 * (time.perf_counter() - began)
