"""Stripe's side in the console: how far it is connected, and whether money and budgets still follow each other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse

from billing.console import unbound_page
from billing.inbox import endpoint
from billing.models import StripeEvent, StripeRun
from billing.queries import connection, health, proposals
from billing.queries.connection import Stage, StepState
from billing.queries.health import Lag, StripeHealth
from billing.stripe_api import client
from governance.console import display
from governance.console.base import actor, may
from governance.console.display import Card
from governance.console.pages import ConsolePage

SHOWN = 8
CHECK, SET_UP, DO_SET_UP = "check", "set_up", "do_set_up"
STEP_TONES = {StepState.DONE: "success", StepState.TODO: "neutral", StepState.WRONG: "warning"}


@dataclass(frozen=True, slots=True)
class LastRun:
    """One kind of run: when it was last begun, and what it found."""

    title: str
    tone: str
    summary: str
    at: datetime | None
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, what to do about it, and where."""

    words: str
    todo: str
    link: str = ""
    link_words: str = ""


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step of connecting, with where it is gone on with in the console."""

    number: int
    step: Stage
    tone: str
    link: str
    link_words: str


def context(request: HttpRequest, now: datetime) -> dict[str, Any] | HttpResponse:
    """The page; or, of a POST, what was asked for on it. Raises PermissionDenied."""
    if request.method == "POST":
        return _act(request, now)
    found = health.describe(now=now)
    steps = connection.steps(found)
    waiting = proposals.waiting().order_by("-id")
    may_act = may(request, "billing.change_stripeevent")
    may_bind, may_add = may(request, "billing.change_billingaccount"), may(request, "governance.add_tenant")
    return {
        "now": now,
        "may_act": may_act,
        "may_bind": may_bind,
        "mode": _mode(found),
        "verdict": _verdict(found, steps, now),
        "problems": _problems(found),
        "steps": [_row(number, step) for number, step in enumerate(steps, start=1)],
        "done": sum(step.state == StepState.DONE for step in steps),
        "is_connected": connection.is_connected(steps),
        "has_key": client.is_configured(),
        "cards": _cards(found, now),
        "runs": [_endpoint(found.endpoint), _backfill(found.backfill), _reconcile(found.reconcile)],
        "dead": list(StripeEvent.objects.dead().defer("payload").order_by("-id")[:SHOWN]),
        "rows": [
            unbound_page.row(one, may_act=may_bind, may_add=may_add) for one in proposals.of(list(waiting[:SHOWN]))
        ],
    }


def _mode(found: StripeHealth) -> str:
    if connection.is_simulated():
        return "simulated"
    return {True: "live mode", False: "test mode"}[found.live] if found.live is not None else "no key"


def _verdict(found: StripeHealth, steps: list[Stage], now: datetime) -> tuple[str, str]:
    """(tone, sentence): how it stands, in words."""
    if found.problems:
        return "danger", "Something is in the way between Stripe and your budgets."
    if not connection.is_connected(steps):
        left = [step for step in steps if step.state != StepState.DONE]
        return "neutral", f"Stripe is not connected yet: next, {left[0].title[0].lower()}{left[0].title[1:]}."
    last = found.last_event
    ago = f", the last one {display.duration(now - last.received_at)} ago" if last else ""
    if found.waiting:
        count = "1 event is" if found.waiting == 1 else f"{found.waiting:,} events are"
        return "success", f"Stripe is connected: {count} being handled{ago}."
    return "success", f"Stripe is connected: every event had its effect{ago}."


def _problems(found: StripeHealth) -> list[Problem]:
    inbox, runs = (reverse(f"admin:billing_{name}_changelist") for name in ("stripeevent", "striperun"))
    dead = "1 event was" if found.dead == 1 else f"{found.dead:,} events were"
    known = {
        "dead_letters": Problem(
            f"{dead} put aside after too many tries, and had no effect.",
            "Mend the cause, then replay.",
            f"{inbox}?state=put+aside",
            "See why",
        ),
        "lagging": Problem(
            "Events have waited for longer than a quarter of an hour.",
            "Is a worker running?",
            f"{inbox}?state={'failing' if found.failing else 'waiting'}",
            "See which",
        ),
        "endpoint": Problem(
            "The webhook endpoint at Stripe is not as it should be.", "Have it mended below, or run stripe_setup."
        ),
        "backfill_stale": Problem(
            "Missing events have not been looked for lately.", "Is beat running, and does Stripe answer?", runs, "Runs"
        ),
        "reconcile_stale": Problem(
            "Customers have not been read anew lately.", "Is beat running, and does Stripe answer?", runs, "Runs"
        ),
    }
    return [known[code] for code in found.problems]


def _row(number: int, step: Stage) -> StepRow:
    links = {
        "plans": (reverse("admin:billing_plan_changelist"), "Plans"),
        "customers": (reverse("admin:unbound"), "Customers to bind"),
        "event": (reverse("admin:billing_stripeevent_changelist"), "Inbox"),
    }
    return StepRow(number, step, STEP_TONES[step.state], *links.get(step.key, ("", "")))


def _act(request: HttpRequest, now: datetime) -> HttpResponse:
    """Look at the endpoint at Stripe, say what would be done to it, or do that."""
    if not may(request, "billing.change_stripeevent"):
        raise PermissionDenied
    wanted, back = request.POST.get("act"), redirect("admin:stripe-health")
    if not client.is_configured():
        messages.error(request, "STRIPE_SECRET_KEY is not set, so Stripe cannot be asked.")
        return back
    try:
        if wanted == CHECK:
            run = endpoint.check(now=now)
            serious = run.figures.get("serious", 0)
            words = "The endpoint is as it should be." if not serious else " ".join(run.findings)
            messages.add_message(request, messages.WARNING if serious else messages.SUCCESS, words)
        elif wanted in (SET_UP, DO_SET_UP):
            return _set_up(request, now, dry_run=wanted == SET_UP)
    except endpoint.NotReachable as error:
        messages.error(request, str(error))
    except client.StripeError as error:
        messages.error(request, f"Stripe did not do it: {error}")
    return back


def _set_up(request: HttpRequest, now: datetime, *, dry_run: bool) -> HttpResponse:
    """A page that says what would be done; once it is done, with the secrets that Stripe shows once.

    Raises StripeError, NotReachable.
    """
    # Not at the top: the site is being made while this module is read.
    from django.contrib import admin

    url = endpoint.our_url()
    done = endpoint.set_up(url=url, dry_run=dry_run, by=actor(request), now=now)
    if not dry_run and done.actions and not done.failed:
        # What was made stands, with its secret, whether or not Stripe answers once more.
        with suppress(client.StripeError):
            endpoint.check(now=now)
    around = {**admin.site.each_context(request), "title": "Set up the webhook endpoint"}
    shown = {"url": url, "done": done, "is_done": not dry_run, "act": DO_SET_UP, "back": reverse("admin:stripe-health")}
    return TemplateResponse(request, "console/stripe_setup.html", {**around, **shown})


def _cards(found: StripeHealth, now: datetime) -> list[Card]:
    events = reverse("admin:billing_stripeevent_changelist")
    last = found.last_event
    oldest = f"the oldest for {display.duration(now - found.oldest_waiting_at)}" if found.oldest_waiting_at else ""
    fresh = found.waiting - found.failing
    return [
        Card(
            "Last event",
            f"{display.duration(now - last.received_at)} ago" if last else "never",
            last.type if last else "no webhook has come yet",
            "inbox",
            link=events,
        ),
        Card(
            "Waiting",
            f"{fresh:,}",
            f"and {found.failing:,} tried again, {oldest}" if found.failing else oldest or "everything is handled",
            "hourglass_top",
            "danger" if "lagging" in found.problems else "",
            f"{events}?state={'waiting' if fresh or not found.failing else 'failing'}",
        ),
        Card(
            "Put aside",
            f"{found.dead:,}",
            f"{found.failing:,} tried again, {found.quarantined:,} not ours",
            "mark_email_unread",
            "danger" if found.dead else "warning" if found.failing else "",
            f"{events}?state=put+aside",
        ),
        Card("Lag", _lag(found.handling), f"after {_lag(found.delivery)} on the way, usually", "timer"),
        Card(
            "To bind",
            f"{found.unbound:,}",
            "customers that pay for nobody",
            "person_search",
            "warning" if found.unbound else "",
            reverse("admin:unbound"),
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
    return display.duration(None if lag.median_s is None else timedelta(seconds=max(0.0, lag.median_s)))


PAGE = ConsolePage(
    title="Stripe",
    path="stripe/",
    name="stripe-health",
    template="console/stripe.html",
    context=context,
    permission=lambda request: may(request, "billing.view_stripeevent"),
)
