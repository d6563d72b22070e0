"""How Stripe's side is: what came last, what waits, what failed, and what the last runs over it found.

Read from our own tables: nobody is asked, so that it can be asked often.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from django.conf import settings
from django.db import DatabaseError
from django.db.models import Count, Min, QuerySet
from django.utils import timezone

from billing.inbox import runs
from billing.models import BillingAccount, StripeEvent, StripeRun
from billing.stripe_api import client

# Events are handled within a second or two; what waits longer is stuck.
LATE = timedelta(minutes=15)
# Customers are read anew each night, events looked for each hour; beat may be late by as much again.
RECONCILE_STALE = timedelta(hours=36)
BACKFILL_STALE = timedelta(hours=3)
# Lags are those of so many latest events.
SAMPLE = 100

# States in which a customer's money would be spendable, were it anybody's.
SPENDABLE = ("active", "trial", "provisional", "lapsed")

NOT_CONFIGURED, NO_SECRET = "not_configured", "webhook_secret_missing"
CONFIGURED, FAILING, STALE = "configured", "failing", "stale"


@dataclass(frozen=True, slots=True)
class Lag:
    """Seconds, of the latest events: the usual one and the worst. None where there are none."""

    median_s: float | None
    worst_s: float | None


@dataclass(frozen=True, slots=True)
class StripeHealth:
    """`delivery` is from Stripe's second to ours, `handling` from there to the effect."""

    setting: str
    live: bool | None
    last_event: StripeEvent | None
    delivery: Lag
    handling: Lag
    waiting: int
    oldest_waiting_at: datetime | None
    failing: int
    dead: int
    quarantined: int
    unbound: int
    endpoint: StripeRun | None
    backfill: StripeRun | None
    reconcile: StripeRun | None
    problems: tuple[str, ...]


def describe(*, now: datetime) -> StripeHealth:
    """Everything that the console's page and the metrics show."""
    delivery, handling = _lags()
    waits = StripeEvent.objects.waiting().aggregate(count=Count("pk"), oldest=Min("received_at"))
    return StripeHealth(
        setting=setting(),
        live=client.is_live(),
        last_event=StripeEvent.objects.defer("payload").order_by("-id").first(),
        delivery=delivery,
        handling=handling,
        waiting=waits["count"],
        oldest_waiting_at=waits["oldest"],
        failing=StripeEvent.objects.waiting().filter(attempts__gt=0).count(),
        dead=StripeEvent.objects.dead().count(),
        quarantined=StripeEvent.objects.quarantined().count(),
        unbound=unbound().count(),
        **{kind: runs.last(kind) for kind in StripeRun.Kind.values},
        problems=tuple(problems(now=now)),
    )


def state() -> str:
    """One word for /api/health: not_configured, webhook_secret_missing, configured, stale or failing."""
    try:
        found = problems(now=timezone.now())
    except DatabaseError:
        # That the database is away is told beside this.
        return setting()
    if any(code not in ("reconcile_stale", "backfill_stale") for code in found):
        return FAILING
    return STALE if found else setting()


def setting() -> str:
    """Without a key, Stripe's events are taken at their word instead of being fetched again."""
    if not client.is_configured():
        return NOT_CONFIGURED
    return CONFIGURED if settings.STRIPE_WEBHOOK_SECRETS else NO_SECRET


def problems(*, now: datetime) -> list[str]:
    """Codes: dead_letters, lagging, endpoint, backfill_stale, reconcile_stale. Few and indexed queries."""
    found = []
    if StripeEvent.objects.dead().exists():
        found.append("dead_letters")
    if StripeEvent.objects.waiting().filter(received_at__lt=now - LATE).exists():
        found.append("lagging")
    if not client.is_configured():
        return found
    endpoint = runs.last(StripeRun.Kind.ENDPOINT)
    if endpoint is not None and endpoint.figures.get("serious"):
        found.append("endpoint")
    for kind, longest in ((StripeRun.Kind.BACKFILL, BACKFILL_STALE), (StripeRun.Kind.RECONCILE, RECONCILE_STALE)):
        last = runs.last(kind)
        if last is not None and now - last.started_at > longest:
            found.append(f"{kind}_stale")
    return found


def unbound() -> QuerySet[BillingAccount]:
    """Customers whose subscriptions count for nobody."""
    return BillingAccount.objects.filter(tenant=None, state__in=SPENDABLE)


def _lags() -> tuple[Lag, Lag]:
    latest = StripeEvent.objects.order_by("-id").values_list("created", "received_at", "processed_at")[:SAMPLE]
    rows = list(latest)
    delivered = [max(0.0, received.timestamp() - created) for created, received, _ in rows]
    handled = [(processed - received).total_seconds() for _, received, processed in rows if processed]
    return _lag(delivered), _lag(handled)


def _lag(seconds: list[float]) -> Lag:
    return Lag(median(seconds), max(seconds)) if seconds else Lag(None, None)
