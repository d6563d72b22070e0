"""Stripe's side in the console: one page that says whether money and budgets still follow each other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from billing.models import StripeEvent, StripeRun
from billing.queries import health
from billing.queries.health import Lag, StripeHealth
from governance.console.base import may
from governance.console.display import Card
from governance.console.pages import ConsolePage

SHOWN = 8
PROBLEMS = {
    "dead_letters": "Events were put aside after too many tries. Mend the cause, then replay them.",
    "lagging": "Events wait for longer than a quarter of an hour. Is a worker running?",
    "endpoint": "The webhook endpoint at Stripe is not as it should be. Run manage.py stripe_setup.",
    "backfill_stale": "Missing events have not been looked for lately. Is beat running, and does Stripe answer?",
    "reconcile_stale": "Customers have not been read anew lately. Is beat running, and does Stripe answer?",
}
SETTINGS = {
    health.CONFIGURED: "",
    health.NOT_CONFIGURED: "STRIPE_SECRET_KEY is not set: events are taken at their word, and what is lost stays lost.",
    health.NO_SECRET: "STRIPE_WEBHOOK_SECRET is not set, so webhooks are refused.",
}


@dataclass(frozen=True, slots=True)
class LastRun:
    """One kind of run: when it was last begun, and what it found."""

    title: str
    tone: str
    summary: str
    at: datetime | None
    findings: tuple[str, ...]


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    found = health.describe(now=now)
    return {
        "now": now,
        "mode": {True: "live mode", False: "test mode"}.get(found.live) if found.live is not None else "no key",
        "setting": SETTINGS[found.setting],
        "problems": [PROBLEMS[code] for code in found.problems],
        "cards": _cards(found, now),
        "runs": [_endpoint(found.endpoint), _backfill(found.backfill), _reconcile(found.reconcile)],
        "dead": list(StripeEvent.objects.dead().defer("payload").order_by("-id")[:SHOWN]),
        "unbound": list(health.unbound().order_by("-id")[:SHOWN]),
    }


def _cards(found: StripeHealth, now: datetime) -> list[Card]:
    events = reverse("admin:billing_stripeevent_changelist")
    customers = reverse("admin:billing_billingaccount_changelist")
    last = found.last_event
    oldest = (
        f"the oldest for {_span((now - found.oldest_waiting_at).total_seconds())}" if found.oldest_waiting_at else ""
    )
    return [
        Card(
            "Last event",
            f"{_span((now - last.received_at).total_seconds())} ago" if last else "never",
            last.type if last else "no webhook has come yet",
            "inbox",
            link=events,
        ),
        Card(
            "Waiting",
            f"{found.waiting:,}",
            oldest or "everything is handled",
            "hourglass_top",
            "danger" if "lagging" in found.problems else "",
            f"{events}?state=waiting",
        ),
        Card(
            "Failed",
            f"{found.dead:,}",
            f"{found.failing:,} tried again, {found.quarantined:,} not ours",
            "mark_email_unread",
            "danger" if found.dead else "warning" if found.failing else "",
            f"{events}?state=put+aside",
        ),
        Card("Lag", _lag(found.handling), f"after {_lag(found.delivery)} on the way, usually", "timer"),
        Card(
            "Unbound",
            f"{found.unbound:,}",
            "customers that pay for no tenant",
            "person_search",
            "warning" if found.unbound else "",
            f"{customers}?tenant__isempty=1",
        ),
    ]


def _endpoint(run: StripeRun | None) -> LastRun:
    if run is None:
        return LastRun("Webhook endpoint", "neutral", "not checked yet", None, ())
    if run.figures.get("failed"):
        tone, summary = "warning", "Stripe did not say"
    elif run.figures.get("local"):
        tone, summary = "neutral", "not reachable from Stripe"
    elif run.figures.get("serious"):
        tone, summary = "danger", "wrong"
    else:
        tone, summary = "success", "as it should be"
    return LastRun("Webhook endpoint", tone, summary, run.started_at, tuple(run.findings))


def _backfill(run: StripeRun | None) -> LastRun:
    if run is None:
        return LastRun("Missing events", "neutral", "not looked for yet", None, ())
    missing, unsent = run.figures.get("missing", 0), run.figures.get("unsent", 0)
    summary = f"{missing:,} of {run.figures.get('seen', 0):,} had not come" if missing else "none is missing"
    summary += f", {unsent:,} of a type that the endpoint does not send" if unsent else ""
    return LastRun("Missing events", "warning" if missing else "success", summary, run.started_at, tuple(run.findings))


def _reconcile(run: StripeRun | None) -> LastRun:
    if run is None:
        return LastRun("All customers", "neutral", "not read yet", None, ())
    failed, differed = run.figures.get("failed", 0), run.figures.get("differed", 0)
    summary = f"{run.figures.get('customers', 0):,} read, {differed:,} differed"
    summary += f", {failed:,} could not be read" if failed else ""
    return LastRun("All customers", "warning" if failed else "success", summary, run.started_at, tuple(run.findings))


def _lag(lag: Lag) -> str:
    return "-" if lag.median_s is None else _span(lag.median_s)


def _span(seconds: float) -> str:
    """A length of time in its one fitting unit."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


PAGE = ConsolePage(
    title="Stripe",
    path="stripe/",
    name="stripe-health",
    template="console/stripe.html",
    context=context,
    permission=lambda request: may(request, "billing.view_stripeevent"),
)
