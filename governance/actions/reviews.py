"""Reports of spend by tenants' own keys: charged as far as they are believed, kept for an operator beyond that.

A report is only a claim, so it may take from a budget no more than the tenant's own budgets leave. What is beyond is
kept whole, listed, and counts nowhere until an operator accepts it: no cent is lost, and no cap of others is passed.
"""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import uuid_utils.compat as uuids
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Count, F, QuerySet

from governance import alerts, audit, ledger
from governance.audit import Actor
from governance.ledger import call_rules
from governance.ledger.operations import Adjust, Record, Settle
from governance.ledger.results import AlreadyResolved, InReview, RecordResult, SettleResult
from governance.models import PendingReport, Reservation, Tenant
from governance.queries.spend import Reader
from governance.queries.sums import LongSum
from governance.rules import money
from governance.rules.calls import Caller, Usage
from governance.rules.errors import FieldError, NotOpen
from governance.rules.reports import ACCEPTED_REPORT, ReportTrust

ALERT = "report_needs_review"


# Of one tenant. More would be no help to whoever decides on them, and a load that one tenant puts on all.
MOST_WAITING = 1000


class TooManyWaiting(Exception):
    """As many of the tenant's reports wait as may: nothing was kept or charged. `wait`: seconds until another try."""

    wait = 60


def trust_in(*, tenant_id: int, agent_is_fixed: bool) -> ReportTrust:
    """How far reports of a tenant's key are believed: by the tenant's budgets, else by REPORT_REVIEW_ABOVE a day."""
    above = settings.REPORT_REVIEW_ABOVE
    unbudgeted_nanos = 0 if above is None else money.nanos_from_dollars(above)
    return ReportTrust(tenant_id, unbudgeted_nanos, agent_is_fixed)


def report(*, report: Record, now: datetime) -> RecordResult | PendingReport:
    """Charge a call that a tenant's key reports, or keep the report for review; a repeated request id does nothing.

    The report says how far it is believed (`trust`). A repeat of one that was kept is answered with the row that is.
    Raises TooManyWaiting.
    """
    act = functools.partial(_report, report, now)
    try:
        return ledger.try_for(report.caller.tenant, act, needing=report, now=now)
    except IntegrityError:
        # Reported by an operator between our look and our insert; the second look finds it.
        return ledger.try_for(report.caller.tenant, act, needing=report, now=now)


def settle(*, operation: Settle, tenant: str, now: datetime) -> SettleResult | PendingReport:
    """Charge what a tenant's key says a held call cost; beyond its bound the hold, and the rest is kept for review.

    The tenant is named by its slug. A repeat of one that was kept is answered with the row that is. Raises
    TooManyWaiting, and what `ledger.settle` raises.
    """
    try:
        return ledger.try_for(tenant, functools.partial(_settle, operation, now), needing=operation, now=now)
    except AlreadyResolved:
        kept = PendingReport.objects.filter(reservation=operation.reservation_id, cost_nanos=operation.cost_nanos)
        if row := kept.select_related("tenant", "key").first():
            return row
        raise


def accept(*, report: PendingReport, reason: str, by: Actor, now: datetime) -> PendingReport:
    """Charge what waits, in the windows that it belonged to when it was reported. Raises NotOpen, FieldError."""
    return _decide(report, PendingReport.Status.ACCEPTED, reason, by, now)


def reject(*, report: PendingReport, reason: str, by: Actor, now: datetime) -> PendingReport:
    """Say that what waits was not spent: it stays listed and is never charged. Raises NotOpen, FieldError."""
    return _decide(report, PendingReport.Status.REJECTED, reason, by, now)


def waiting() -> QuerySet[PendingReport]:
    """The reports that nobody has decided on, newest first."""
    return PendingReport.objects.filter(status=PendingReport.Status.WAITING).select_related("tenant", "key")


def check_waiting(report: PendingReport) -> None:
    """Raise NotOpen where it is decided already."""
    if report.status != PendingReport.Status.WAITING:
        raise NotOpen("", f"it is {report.status} already.")


def waits_for(charge: UUID) -> bool:
    """Whether a report about this charge waits: it is decided before the charge is corrected."""
    return waiting().filter(corrects=charge).exists()


def waiting_sums(**where: Any) -> tuple[int, int]:
    """(reports, nanodollars) that wait."""
    sums = waiting().filter(**where).aggregate(count=Count("pk"), nanos=LongSum(F("cost_nanos") - F("charged_nanos")))
    return sums["count"], sums["nanos"] or 0


def seen_by(reader: Reader) -> QuerySet[PendingReport]:
    """The reports that a reader may see, newest first."""
    return PendingReport.objects.filter(reader.scope).select_related("tenant", "key").order_by("-id")


@ledger.run_again
@transaction.atomic
def _report(report: Record, now: datetime) -> RecordResult | PendingReport:
    tenant_id = report.caller.tenant_id
    # Before we look, so that of two reports of one call only one is charged or kept.
    ledger.take_report_turn(tenant_id)
    kept = PendingReport.objects.filter(tenant=tenant_id, request_id=report.request_id, reservation=None)
    if row := kept.select_related("tenant", "key").first():
        call_rules.refuse_reuse(report, agent=row.agent)
        if row.entry is None:
            return row
        return RecordResult(row.entry, row.cost_nanos, duplicate=True)
    [done] = ledger.apply_within([report], now=now)
    if isinstance(done, RecordResult):
        return done
    caller, usage = report.caller, report.usage
    return _keep(
        done,
        report,
        now=now,
        tenant_id=tenant_id,
        **{name: getattr(caller, name) for name in ("agent", "key_id", "user", "session", "task")},
        provider=usage.provider,
        model_requested=report.model_requested or usage.model,
        model_served=usage.model,
    )


@ledger.run_again
@transaction.atomic
def _settle(operation: Settle, now: datetime) -> SettleResult | PendingReport:
    [done] = ledger.apply_within([operation], now=now)
    settled = cast(SettleResult, done)
    if settled.in_review is None:
        return settled
    held, usage = Reservation.objects.get(pk=operation.reservation_id), operation.usage
    return _keep(
        settled.in_review,
        operation,
        now=now,
        reservation=held.pk,
        **{name: getattr(held, name) for name in ("tenant_id", "agent", "key_id", "user", "session", "task")},
        provider=usage.provider or held.provider,
        model_requested=held.model_requested,
        model_served=usage.model or held.model_served,
    )


def _keep(found: InReview, told: Record | Settle, *, now: datetime, **who: Any) -> PendingReport:
    """Keep what waits, in the transaction that found it beyond its bound, and tell the operators.

    Raises TooManyWaiting, so that this transaction leaves no trace: what was held stays held.
    """
    if waiting().filter(tenant=who["tenant_id"]).count() >= MOST_WAITING:
        raise TooManyWaiting("too many reports wait for an operator; this one was not kept. Send it again later.")
    row = PendingReport.objects.create(
        **who,
        request_id=told.request_id,
        input_tokens=told.usage.input_tokens,
        cached_tokens=told.usage.cached_tokens,
        output_tokens=told.usage.output_tokens,
        price_rule=told.price_rule,
        corrects=found.corrects_id,
        windows=list(found.windows),
        cost_nanos=told.cost_nanos,
        charged_nanos=told.cost_nanos - found.waiting_nanos,
        bound_scope=found.bound.scope,
        bound_window=found.bound.kind,
        bound_nanos=found.bound.room_nanos,
        occurred_at=told.occurred_at or ledger.by_database(now),
        reported_at=now,
    )
    _tell(row.tenant, now)
    return row


@ledger.run_again
@transaction.atomic
def _decide(report: PendingReport, status: str, reason: str, by: Actor, now: datetime) -> PendingReport:
    if not reason.strip():
        raise FieldError("reason", "say why.")
    # The tenant's turn, so that the alert that follows is right whatever is reported meanwhile.
    ledger.take_report_turn(report.tenant_id)
    row = PendingReport.objects.select_related("tenant", "key").get(pk=report.pk)
    check_waiting(row)
    if status == PendingReport.Status.ACCEPTED:
        row.entry = _charge(row, now)
    row.status, row.reason, row.decided_at, row.decided_by = status, reason.strip()[:300], now, by.name[:150]
    row.save(update_fields=["entry", "status", "reason", "decided_at", "decided_by"])
    audit.record(
        action=f"report.{'accept' if status == PendingReport.Status.ACCEPTED else 'reject'}",
        target=f"report {row.pk} of {row.tenant.slug}",
        reason=reason,
        by=by,
        now=now,
        old={"cost_nanos": row.cost_nanos, "charged_nanos": row.charged_nanos},
        new={"entry": str(row.entry)} if row.entry else None,
    )
    _tell(row.tenant, now)
    return row


def _charge(row: PendingReport, now: datetime) -> UUID:
    """Charge what waits; the line's id. A report that an operator has made meanwhile is that one, charged once."""
    if row.corrects is not None:
        change = Adjust(uuids.uuid7(), row.corrects, row.waiting_nanos, ACCEPTED_REPORT, price_rule=row.price_rule)
        return cast(UUID, ledger.apply_within([change], now=now)[0].entry_id)
    caller = Caller(
        tenant_id=row.tenant_id,
        tenant=row.tenant.slug,
        agent=row.agent,
        key_id=row.key_id,
        key_prefix=row.key.scope_key if row.key else "",
        user=row.user,
        session=row.session,
        task=row.task,
    )
    charge = Record(
        entry_id=uuids.uuid7(),
        caller=caller,
        request_id=row.request_id,
        cost_nanos=row.cost_nanos,
        usage=Usage(row.provider, row.model_served, row.input_tokens, row.cached_tokens, row.output_tokens),
        model_requested=row.model_requested,
        reason=ACCEPTED_REPORT,
        price_rule=row.price_rule,
        occurred_at=row.occurred_at,
        windows=tuple(row.windows),
    )
    return cast(UUID, ledger.apply_within([charge], now=now)[0].entry_id)


def _tell(tenant: Tenant, now: datetime) -> None:
    """One alert for each tenant, while any of its reports waits."""
    count, nanos = waiting_sums(tenant=tenant)
    if not count:
        alerts.clear(kind=ALERT, subject=tenant.slug, now=now)
        return
    those = "A report" if count == 1 else f"{count} reports"
    message = f"{those} of spend, ${money.format_dollars(nanos)} beyond {tenant.slug}'s budgets: accept or reject"
    alerts.report(kind=ALERT, subject=tenant.slug, message=f"{message}.", tenant=tenant, now=now)
