"""Looks at Stripe: begun once, gone on with by whichever process comes, and kept for the health panel."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q

from billing.models import StripeCheck

# Who goes on with a look has it for so long; a process that died does not keep it longer.
LEASE = timedelta(minutes=5)
KEPT_OF_A_KIND = 200
MOST_FINDINGS = 100


def note(kind: str, *, now: datetime, figures: dict[str, int], findings: Sequence[str] = ()) -> StripeCheck:
    """Keep a look that was over at once."""
    row = StripeCheck(kind=kind, started_at=now, finished_at=now, figures=figures)
    row.findings = list(findings)[:MOST_FINDINGS]
    row.save()
    _prune(kind)
    return row


def begin(kind: str, *, now: datetime, since: datetime | None = None) -> StripeCheck:
    """A new look; the one under way where there is one."""
    try:
        with transaction.atomic():
            return StripeCheck.objects.create(kind=kind, started_at=now, since=since)
    except IntegrityError:
        return StripeCheck.objects.get(kind=kind, finished_at=None)


def under_way(kind: str) -> StripeCheck | None:
    return StripeCheck.objects.filter(kind=kind, finished_at=None).first()


def last(kind: str) -> StripeCheck | None:
    """The latest look that came to its end."""
    return StripeCheck.objects.filter(kind=kind, finished_at__isnull=False).order_by("-id").first()


def take(check: StripeCheck, *, now: datetime) -> bool:
    """Go on with a look that nobody else goes on with; whether it is ours now."""
    free = StripeCheck.objects.filter(Q(busy_until=None) | Q(busy_until__lte=now), pk=check.pk, finished_at=None)
    taken = bool(free.update(busy_until=now + LEASE))
    if taken:
        check.refresh_from_db()
    return taken


def keep(check: StripeCheck, *, cursor: str) -> None:
    """What is done so far is done, should the process die now."""
    check.cursor = cursor
    check.findings = check.findings[:MOST_FINDINGS]
    check.save(update_fields=["cursor", "figures", "findings"])


def pause(check: StripeCheck, *, until: datetime | None) -> None:
    """Let somebody else go on with it, from `until` on or at once."""
    check.busy_until = until
    check.save(update_fields=["busy_until"])


def finish(check: StripeCheck, *, now: datetime) -> None:
    check.finished_at, check.busy_until = now, None
    check.findings = check.findings[:MOST_FINDINGS]
    check.save()
    _prune(check.kind)


def count(check: StripeCheck, **figures: int) -> None:
    """Add to the figures of a look."""
    for name, more in figures.items():
        check.figures[name] = check.figures.get(name, 0) + more


def picture(check: StripeCheck) -> dict[str, Any]:
    """What a command prints of it as JSON."""
    return {
        "kind": check.kind,
        "started_at": check.started_at.isoformat(),
        "since": check.since.isoformat() if check.since else None,
        **check.figures,
        "findings": check.findings,
    }


def _prune(kind: str) -> None:
    old = StripeCheck.objects.filter(kind=kind).order_by("-id").values_list("pk", flat=True)[KEPT_OF_A_KIND:]
    StripeCheck.objects.filter(pk__in=list(old)).delete()
