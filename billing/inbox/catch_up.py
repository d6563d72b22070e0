"""What webhooks lost, brought back: events that never came, and customers as Stripe has them now.

Both only bring what is true at Stripe, so each may be done at any time, twice, or by two processes at once. Long ones
go on in slices from where they are; a process that dies costs one slice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction

from billing.accounts import binding, sync
from billing.inbox import endpoint, envelope, handlers, runs, store
from billing.models import BillingAccount, Mirrored, StripeEvent, StripeRun
from billing.stripe_api import client, objects
from governance import alerts
from governance.models import BudgetWindow
from governance.rules import money

log = logging.getLogger(__name__)
Report = Callable[[str], Any]

# Stripe lists events of so long.
LISTED = timedelta(days=30)
# A webhook may be on its way for so long; what is younger is not missing yet.
ON_ITS_WAY = timedelta(minutes=5)
# Events of one moment may be listed late: runs overlap.
OVERLAP = timedelta(minutes=15)
EVERY = timedelta(hours=1)
AGAIN_AFTER_FAILURE = timedelta(minutes=10)
# All customers are read anew each night from this hour (UTC) on.
NIGHT_HOUR = 3
# What one task does of a long run before it leaves the rest to the next.
SLICE_S = 40.0
MISSED_ALERT = "stripe_events_missed"
CUSTOMERS_A_STEP = 20
CUSTOMERS_A_REPORT = 50
MOST_LINES = 10_000


class BadRange(ValueError):
    """Stripe has no events of that time; the message says of which it has."""


class _Undo(Exception):
    """Rolls a dry run back."""


@dataclass(slots=True)
class Outcome:
    """What a command prints: figures, and lines on what was found."""

    figures: dict[str, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    event_ids: list[str] = field(default_factory=list)

    def count(self, **more: int) -> None:
        for name, number in more.items():
            self.figures[name] = self.figures.get(name, 0) + number


def ignore(line: str) -> None:
    """A `report` that nobody reads."""


# Backfill


def backfill(*, since: datetime, now: datetime, dry_run: bool = False, report: Report = ignore) -> Outcome:
    """Keep the events from `since` on that never came; a dry run only names them. Raises BadRange, StripeError."""
    if not now - LISTED <= since < now:
        raise BadRange(f"Stripe lists events of the last {LISTED.days} days alone.")
    done = Outcome(figures={"seen": 0, "missing": 0})
    for page in _pages(since, now, after=""):
        missing = _missing(page)
        done.count(seen=len(page), missing=len(missing))
        done.event_ids += [str(one["id"]) for one in missing]
        done.lines += [f"{one['id']} {one['type']}" for one in missing]
        if not dry_run:
            _store(missing, now)
        report(f"{done.figures['seen']} events seen, {done.figures['missing']} of them missing")
    return done


def backfill_since(*, now: datetime) -> datetime:
    """Up to when it is known that no event is missing; from there on nobody has looked yet."""
    last = runs.last(StripeRun.Kind.BACKFILL)
    earliest = now - LISTED + EVERY
    return max(earliest, last.started_at - ON_ITS_WAY - OVERLAP) if last else earliest


def _backfill_slice(run: StripeRun, *, now: datetime, enough: Callable[[], bool]) -> bool:
    """Go on with a backfill; whether it is through."""
    since, until = run.since or run.started_at, run.started_at - ON_ITS_WAY
    for page in _pages(since, until, after=run.cursor):
        missing = _missing(page)
        _store(missing, now)
        left_out = len(missing) - _lost(missing)
        runs.count(run, seen=len(page), missing=len(missing), **({"unsent": left_out} if left_out else {}))
        run.findings += [f"{one['id']} {one['type']}" for one in missing]
        runs.keep(run, cursor=str(page[-1]["id"]))
        if enough():
            return False
    return True


def _lost(missing: Sequence[dict[str, Any]]) -> int:
    """How many were lost on the way: those of types that Stripe sent us when they were made, and sends us still.

    The runs over the endpoint say which. Of a time that none of them speaks of, the inbox does: a type is sent from
    the first event of it that came as a webhook. Where none ever came at all, everything was lost.
    """
    if not missing:
        return 0
    rows = StripeRun.objects.filter(kind=StripeRun.Kind.ENDPOINT, figures__has_key="sent").order_by("started_at")
    told = [(row.started_at.timestamp(), frozenset(row.figures["sent"])) for row in rows]
    unknown = any(not told or int(one["created"]) < told[0][0] for one in missing)
    first = _first_webhooks() if unknown else {}

    def was_sent(type: str, created: int) -> bool:
        if told and type not in told[-1][1]:
            return False
        before = [sent for at, sent in told if at <= created]
        return type in before[-1] if before else not first or first.get(type, created + 1) <= created

    return sum(was_sent(str(one["type"]), int(one["created"])) for one in missing)


def _first_webhooks() -> dict[str, int]:
    """Type -> when the first event of it that came as a webhook was made, in Unix seconds."""
    first: dict[str, int] = {}
    events = StripeEvent.objects.order_by().values_list("type", "created", "received_at")
    for type, created, received_at in events.iterator():
        # What is younger no backfill fetches.
        if received_at.timestamp() < created + ON_ITS_WAY.total_seconds():
            first[type] = min(created, first.get(type, created))
    return first


def _pages(since: datetime, until: datetime, *, after: str) -> Iterator[list[dict[str, Any]]]:
    """Stripe's events of a time, newest first, a request each. Raises StripeUnavailable, StripeRefused."""
    created = {"gte": int(since.timestamp()), "lte": int(until.timestamp())}
    more = True
    while more:
        wanted: Any = {"created": created, "limit": client.PAGE} | ({"starting_after": after} if after else {})
        page = client.ask(partial(_page, wanted))
        found = [one.to_dict(for_json=True) for one in page.data]
        if not found:
            return
        yield found
        after, more = found[-1]["id"], page.has_more


def _page(wanted: Any, api: client.Client) -> client.Events:
    return api.v1.events.list(wanted)


def _missing(page: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a page that something here is done about, and that are not in the inbox."""
    wanted = {str(one["id"]): one for one in page if one.get("type") in handlers.EVENT_TYPES}
    known = set(StripeEvent.objects.filter(event_id__in=wanted).values_list("event_id", flat=True))
    return [one for id, one in wanted.items() if id not in known]


def _store(events: Sequence[dict[str, Any]], now: datetime) -> None:
    """Due at once: the sweep takes them, oldest first. One that cannot be kept does not hold up the others."""
    envelopes = []
    for one in events:
        try:
            envelopes.append(envelope.envelope(one))
        except envelope.NotAnEvent as error:
            log.error("Stripe's event %s cannot be kept: %s", one.get("id"), error)
    store.store_all(envelopes, now=now)


# Reconcile


def reconcile(*, now: datetime, dry_run: bool = False, report: Report = ignore) -> Outcome:
    """Read every customer anew and write what follows; what differed, a line each. A second run finds nothing.

    Without an API key what was said last is computed anew. Raises StripeError where customers cannot be listed.
    """
    done = Outcome(figures={"customers": 0, "differed": 0, "failed": 0})
    known = set(BillingAccount.objects.values_list("stripe_customer_id", flat=True))
    ids = sorted(known | (_at_stripe() if client.is_configured() else set()))
    for place, customer_id in enumerate(ids, start=1):
        _reconcile_one(customer_id, done, now=now, dry_run=dry_run)
        if place % CUSTOMERS_A_REPORT == 0:
            report(f"{place} of {len(ids)} customers")
    if not dry_run:
        runs.note(StripeRun.Kind.RECONCILE, now=now, figures=done.figures, findings=done.lines)
    return done


def _reconcile_slice(run: StripeRun, *, now: datetime, enough: Callable[[], bool]) -> bool:
    """Go on with all customers, in the order of their rows; whether it is through.

    First those that Stripe alone knows get a row, a page of subscriptions at a time: until then the cursor is the last
    of these. A page, or a customer, is done at least, or slices that are short would never end.
    """
    while not run.cursor.isdecimal():
        ids, last = _page_at_stripe(after=run.cursor)
        binding.make_known(ids)
        runs.keep(run, cursor=last or "0")
        if enough():
            return False
    while True:
        rows = BillingAccount.objects.filter(pk__gt=int(run.cursor)).order_by("pk")
        found = list(rows.values_list("pk", "stripe_customer_id")[:CUSTOMERS_A_STEP])
        if not found:
            return True
        for pk, customer_id in found:
            done = Outcome()
            _reconcile_one(customer_id, done, now=now, dry_run=False)
            runs.count(run, **done.figures)
            run.findings += done.lines
            runs.keep(run, cursor=str(pk))
            if enough():
                return False


def _at_stripe() -> set[str]:
    ids, last = _page_at_stripe(after="")
    while last:
        more, last = _page_at_stripe(after=last)
        ids |= more
    return ids


def _page_at_stripe(*, after: str) -> tuple[set[str], str]:
    """The customers of Stripe's next subscriptions, and the last of these; none where there are no more."""
    wanted: Any = {"status": "all", "limit": client.PAGE} | ({"starting_after": after} if after else {})
    try:
        page = client.ask(lambda api: api.v1.subscriptions.list(wanted))
    except client.StripeRefused as error:
        if not after or error.code != "resource_missing":
            raise
        # The place is lost where that subscription is no more: from the first one again.
        return _page_at_stripe(after="")
    found = [one.to_dict(for_json=True) for one in page.data]
    last = str(found[-1]["id"]) if found and page.has_more else ""
    return {objects.customer_id(one) for one in found} - {""}, last


def _reconcile_one(customer_id: str, done: Outcome, *, now: datetime, dry_run: bool) -> None:
    try:
        differences = _recompute(customer_id, now=now, dry_run=dry_run)
    except client.StripeError as error:
        done.count(customers=1, failed=1)
        done.lines.append(f"{customer_id}: not read: {error}")
        return
    except Exception as error:
        # Whatever is wrong with this one, the others must not wait for it.
        log.exception("customer %s could not be computed", customer_id)
        done.count(customers=1, failed=1)
        done.lines.append(f"{customer_id}: {type(error).__name__}: {error}")
        return
    done.count(customers=1, differed=bool(differences), failed=0)
    # All are counted; of a run over very many not all are told.
    done.lines += [f"{customer_id}: {line}" for line in differences][: MOST_LINES - len(done.lines)]


def _recompute(customer_id: str, *, now: datetime, dry_run: bool) -> list[str]:
    """Read and write one customer; what is other than before. A dry run takes it all back."""
    reading = _read_without_trace(customer_id, now) if dry_run else sync.read(customer_id, now=now)
    found: list[str] = []
    try:
        with transaction.atomic():
            account = binding.locked(customer_id)
            if reading is not None and sync.is_unchanged(account, reading, now=now):
                if not dry_run:
                    sync.confirm(account, reading, now=now)
                return []
            before = _describe(account)
            after = _describe(sync.write(customer_id, reading, now=now))
            found = [
                f"{name}: {_in_words(before.get(name))} -> {_in_words(after.get(name))}"
                for name in {**before, **after}
                if before.get(name) != after.get(name)
            ]
            if dry_run:
                raise _Undo
    except _Undo:
        pass
    return found


def _read_without_trace(customer_id: str, now: datetime) -> sync.Reading | None:
    """A reading that leaves no trace: it takes no number of its own, and makes no row."""
    if not client.is_configured():
        return None
    known = BillingAccount.objects.filter(stripe_customer_id=customer_id).values_list("fetches", flat=True).first()
    return sync.read_as(customer_id, (known or 0) + 1, now=now)


def _describe(account: BillingAccount) -> dict[str, Any]:
    """What a customer comes to, and what it follows from: name -> value."""
    tenant = account.tenant
    found: dict[str, Any] = {
        "tenant": tenant.slug if tenant else None,
        "status": tenant.status if tenant else None,
        "state": str(account.state),
        "plan": account.plan,
        "limit": _dollars(account.limit_nanos),
        "period": _span(account.period_start, account.period_end),
        "reasons": ", ".join(account.reasons),
        "deleted": account.deleted_at is not None,
    }
    windows = BudgetWindow.objects.filter(tenant=tenant, closed_at=None, source_id=account.stripe_customer_id)
    for window in windows if tenant else ():
        name = f"window {_span(window.starts_at, window.ends_at)}"
        found[name] = f"{_dollars(window.limit_nanos)}, {window.state}"
    for model in Mirrored.__subclasses__():
        if any(one.name == "account" for one in model._meta.get_fields()):
            mirrored: Any = model._default_manager
            rows = mirrored.filter(account=account).values_list("stripe_id", "data")
            found |= {f"{model._meta.verbose_name} {id}": data for id, data in rows}
    return found


def _in_words(value: Any) -> str:
    """Of an object of Stripe's its status; two versions of it may have the same."""
    if isinstance(value, dict):
        return str(value.get("status") or "kept")
    return "none" if value in (None, "") else str(value)


def _span(starts_at: datetime | None, ends_at: datetime | None) -> str:
    if starts_at is None:
        return ""
    return f"{starts_at:%Y-%m-%d %H:%M} to {ends_at:%Y-%m-%d %H:%M}" if ends_at else f"from {starts_at:%Y-%m-%d %H:%M}"


def _dollars(nanos: int | None) -> str:
    return "" if nanos is None else f"${money.format_dollars(nanos)}"


# By themselves


def run_due(*, now: datetime, slice_s: float = SLICE_S) -> list[StripeRun]:
    """Do what is due, or go on with it: beat asks every minute, and a machine that was off asks when it is back.

    The endpoint is checked and missing events are fetched every hour; all customers are read anew once a night.
    """
    if not client.is_configured():
        return []
    due: list[Callable[[], StripeRun | None]] = [
        lambda: _check_endpoint(now),
        lambda: _go_on(_due_backfill(now), _backfill_slice, now=now, slice_s=slice_s),
        lambda: _go_on(_due_reconcile(now), _reconcile_slice, now=now, slice_s=slice_s),
    ]
    return [run for one in due if (run := one()) is not None]


def _check_endpoint(now: datetime) -> StripeRun | None:
    last = runs.last(StripeRun.Kind.ENDPOINT)
    wait = AGAIN_AFTER_FAILURE if last and last.figures.get("failed") else EVERY
    if last is not None and now < last.started_at + wait:
        return None
    try:
        return endpoint.check(now=now)
    except endpoint.NotReachable as error:
        return runs.note(StripeRun.Kind.ENDPOINT, now=now, figures={"local": 1}, findings=[str(error)])
    except client.StripeError as error:
        return runs.note(StripeRun.Kind.ENDPOINT, now=now, figures={"failed": 1}, findings=[f"not read: {error}"])


def _due_backfill(now: datetime) -> StripeRun | None:
    kind = StripeRun.Kind.BACKFILL
    last = runs.last(kind)
    if runs.under_way(kind) is None and last is not None and now < last.started_at + EVERY:
        return None
    return runs.begin(kind, now=now, since=backfill_since(now=now))


def _due_reconcile(now: datetime) -> StripeRun | None:
    kind = StripeRun.Kind.RECONCILE
    tonight = now.replace(hour=NIGHT_HOUR, minute=0, second=0, microsecond=0)
    night = tonight if tonight <= now else tonight - timedelta(days=1)
    last = runs.last(kind)
    if runs.under_way(kind) is None and last is not None and last.started_at >= night:
        return None
    return runs.begin(kind, now=now)


def _go_on(run: StripeRun | None, slice: Callable[..., bool], *, now: datetime, slice_s: float) -> StripeRun | None:
    """One slice of a long run. Where Stripe does not answer, the next is some minutes away."""
    if run is None or not runs.take(run, now=now):
        return None
    ends = time.monotonic() + slice_s
    try:
        through = slice(run, now=now, enough=lambda: time.monotonic() > ends)
    except client.StripeError as error:
        log.warning("the run over Stripe (%s) goes on later: %s", run.kind, error)
        runs.count(run, interrupted=1)
        runs.keep(run, cursor=run.cursor)
        runs.pause(run, until=now + AGAIN_AFTER_FAILURE)
        return run
    if not through:
        runs.pause(run, until=None)
        return run
    runs.finish(run, now=now)
    if run.kind == StripeRun.Kind.BACKFILL:
        _alert_of_missed(run, now)
    return run


def _alert_of_missed(run: StripeRun, now: datetime) -> None:
    if not StripeRun.objects.filter(kind=run.kind, finished_at__isnull=False).exclude(pk=run.pk).exists():
        # The first run fetches what there was before there was an endpoint.
        return
    # What the endpoint does not send was not lost on the way; the run over the endpoint says so.
    missed = run.figures.get("missing", 0) - run.figures.get("unsent", 0)
    if missed:
        message = f"{missed} of Stripe's events never came as a webhook and were fetched; look at the endpoint."
        alerts.report(kind=MISSED_ALERT, subject="webhooks", message=message, now=now)
    else:
        alerts.clear(kind=MISSED_ALERT, subject="webhooks", now=now)
