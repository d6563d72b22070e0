"""Runs over what is at Stripe: begun once, gone on with by whichever process comes, kept for the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q

from billing.models import StripeRun

# Who goes on with a run has it for so long; a process that died does not keep it longer.
LEASE = timedelta(minutes=5)
KEPT_OF_A_KIND = 200
MOST_FINDINGS = 100


def note(kind: str, *, now: datetime, figures: Mapping[str, Any], findings: Sequence[str] = ()) -> StripeRun:
    """Keep a run that was over at once."""
    row = StripeRun(kind=kind, started_at=now, finished_at=now, figures=dict(figures))
    row.findings = list(findings)[:MOST_FINDINGS]
    row.save()
    _prune(kind)
    return row


def begin(kind: str, *, now: datetime, since: datetime | None = None) -> StripeRun:
    """A new run; the one under way where there is one."""
    try:
        with transaction.atomic():
            return StripeRun.objects.create(kind=kind, started_at=now, since=since)
    except IntegrityError:
        return StripeRun.objects.get(kind=kind, finished_at=None)


def under_way(kind: str) -> StripeRun | None:
    return StripeRun.objects.filter(kind=kind, finished_at=None).first()


def last(kind: str) -> StripeRun | None:
    """The latest run that came to its end."""
    return StripeRun.objects.filter(kind=kind, finished_at__isnull=False).order_by("-id").first()


def take(run: StripeRun, *, now: datetime) -> bool:
    """Go on with a run that nobody else goes on with; whether it is ours now."""
    free = StripeRun.objects.filter(Q(busy_until=None) | Q(busy_until__lte=now), pk=run.pk, finished_at=None)
    taken = bool(free.update(busy_until=now + LEASE))
    if taken:
        run.refresh_from_db()
    return taken


def keep(run: StripeRun, *, cursor: str) -> None:
    """What is done so far is done, should the process die now."""
    run.cursor = cursor
    run.findings = run.findings[:MOST_FINDINGS]
    run.save(update_fields=["cursor", "figures", "findings"])


def pause(run: StripeRun, *, until: datetime | None) -> None:
    """Let somebody else go on with it, from `until` on or at once."""
    run.busy_until = until
    run.save(update_fields=["busy_until"])


def finish(run: StripeRun, *, now: datetime) -> None:
    run.finished_at, run.busy_until = now, None
    run.findings = run.findings[:MOST_FINDINGS]
    run.save()
    _prune(run.kind)


def count(run: StripeRun, **figures: int) -> None:
    """Add to the figures of a run."""
    for name, more in figures.items():
        run.figures[name] = run.figures.get(name, 0) + more


def _prune(kind: str) -> None:
    old = StripeRun.objects.filter(kind=kind).order_by("-id").values_list("pk", flat=True)[KEPT_OF_A_KIND:]
    StripeRun.objects.filter(pk__in=list(old)).delete()
