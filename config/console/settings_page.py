"""The console's page of settings: who may what, providers, what is wrong, what was done lately, and the jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from config.console.user_admins import WHAT_THEY_DO, is_owner
from governance import alerts
from governance.console import alert_pages, audit_words, display
from governance.console.base import may
from governance.console.pages import ConsolePage
from governance.models import AlertChannel, AuditEntry
from governance.queries import jobs
from llm.console import provider_list
from llm.models import ProviderEndpoint

LATEST, MOST_ALERTS, MOST_NAMES = 8, 5, 6
# Of more console users than these the first are told by role.
MOST_PEOPLE = 500
# What beat's jobs do, by their tasks.
JOBS: Mapping[str, str] = {
    "send_alerts": "Tells whoever is to be told",
    "expire_reservations": "Gives back what calls that died had reserved",
    "follow_acts": "Has very many windows follow what was done to their budget",
    "watch_spend": "Looks for hours out of all proportion",
    "sweep_inbox": "Handles Stripe's events that are due",
    "roll_windows": "Closes windows whose time is over",
    "look_at_conditions": "Looks for what nobody reports by itself",
    "look_at_breakers": "Looks for models that do not answer",
    "look_ahead": "Looks for budgets that will not last",
    "heal": "Fetches what Stripe's webhooks missed",
    "report_usage": "Tells Stripe's meters what was used",
    "send_reports": "Sends the weekly and monthly reports",
    "purge_kept_answers": "Deletes answers kept for requests that are sent again",
    "forecast_budgets": "Reckons when budgets run out",
    "reconcile_ledger": "Proves that the ledger has not drifted",
    "purge_refusals": "Deletes refused calls that are old enough",
    "purge_alerts": "Deletes what was told long ago",
    "purge_sign_ins": "Deletes what is kept of sign-ins",
    "review_usage": "Notes late corrections of what was used",
    "judge_ledger": "Compares the ledger with providers' bills",
    "sync_models": "Takes over the providers' lists of models",
}
TONES = {jobs.OK: "active", jobs.LATE: "stopped", jobs.FAILING: "warned", jobs.WAITING: "off"}


@dataclass(frozen=True, slots=True)
class JobLine:
    """`state` and `tone`: as of all states; `error`: what its last run ended with, where that failed."""

    name: str
    words: str
    every: str
    succeeded: SafeString | str
    took: str
    state: str
    tone: str
    error: str


@dataclass(frozen=True, slots=True)
class RoleLine:
    name: str
    does: str
    people: list[str]
    more: int


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """Each part for whoever may see the table behind it."""
    found: dict[str, Any] = {"jobs": [_job(status) for status in jobs.statuses(now=now)]}
    if is_owner(request):
        people = User.objects.filter(is_active=True, is_staff=True)
        known = list(people.order_by("username").prefetch_related("groups")[:MOST_PEOPLE])
        unprotected = people.exclude(totpdevice__confirmed=True).count()
        found |= {"roles": list(_roles(known)), "unprotected": unprotected}
    if may(request, "llm.view_providerendpoint"):
        found["providers"] = provider_list.rows(ProviderEndpoint.objects.order_by("name"), now=now)
        found["may_test"] = may(request, "llm.change_providerendpoint")
        found["may_add"] = may(request, "llm.add_providerendpoint")
    if may(request, "governance.view_alert"):
        found |= {
            "alerts": alert_pages.open_ones(limit=MOST_ALERTS),
            "open_alerts": alerts.open_ones().count(),
            "channels": AlertChannel.objects.filter(enabled=True).count(),
        }
    if may(request, "governance.view_auditentry"):
        found["acts"] = [
            (
                row.actor,
                audit_words.sentence(row),
                row.reason,
                display.moment(row.occurred_at),
                reverse("admin:governance_auditentry_change", args=[row.pk]),
            )
            for row in AuditEntry.objects.order_by("-id")[:LATEST]
        ]
    return found


def _job(status: jobs.JobStatus) -> JobLine:
    return JobLine(
        name=status.name,
        words=JOBS.get(status.name, status.name.replace("_", " ").capitalize()),
        every=_every(status.period),
        succeeded=display.moment(status.succeeded_at, "second") if status.succeeded_at else "never yet",
        took="–" if status.took_s is None else display.duration(timedelta(seconds=status.took_s)),
        state=f"{status.state}, running" if status.running_since else status.state,
        tone=TONES[status.state],
        error=status.error if status.failures else "",
    )


def _every(period: timedelta) -> str:
    """ "10 s", "15 min", "6 h", "1 d"."""
    seconds = int(period.total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _roles(people: list[User]) -> Iterator[RoleLine]:
    """Superusers may do everything, and need no role."""
    names: dict[str, list[str]] = {}
    for user in people:
        for role in ["superuser"] if user.is_superuser else [group.name for group in user.groups.all()]:
            names.setdefault(role, []).append(user.username)
    roles: list[tuple[str, str]] = [("superuser", "everything, and makes others superusers"), *WHAT_THEY_DO.items()]
    for role, does in roles:
        found = names.get(role, [])
        yield RoleLine(role, does, found[:MOST_NAMES], max(0, len(found) - MOST_NAMES))


PAGE = ConsolePage(
    title="Settings", path="settings/", name="settings", template="console/settings.html", context=context
)
