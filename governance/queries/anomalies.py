"""Reads for anomalies: what each agent, customer and model had in an hour and in the hours before, and what was found.

From hourly sums and the counts of failed calls, never from entries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Q, QuerySet

from governance.models import Anomaly, FailedCalls, SpendRollup, Tenant
from governance.models.anomalies import AnomalyAct
from governance.queries.spend import EVERYTHING, Reader
from governance.queries.sums import LongSum
from governance.rules.anomalies import HISTORY, HourFigures

# Hours of a model are those of all customers, sums of very many rows.
HISTORY_OF_MODELS = timedelta(days=14)
Kind = Anomaly.SubjectType
Hours = dict[datetime, HourFigures]


@dataclass(frozen=True, slots=True, order=True)
class Watched:
    """Whose hours are looked at: an agent's, a customer's, or those of a provider's model."""

    kind: str
    tenant_id: int = 0
    agent: str = ""
    provider: str = ""
    model: str = ""


def of_hour(hour: datetime) -> dict[Watched, HourFigures]:
    """What each subject has in an hour, as far as it is over."""
    found: defaultdict[Watched, HourFigures] = defaultdict(HourFigures)
    for row in SpendRollup.objects.filter(hour=hour).values(*COLUMNS, "calls", "cost_nanos").order_by():
        for subject in _subjects(row):
            found[subject] += HourFigures(row["calls"], max(0, row["cost_nanos"]))
    for row in FailedCalls.objects.filter(hour=hour).values(*COLUMNS, "failures").order_by():
        for subject in _subjects(row):
            found[subject] += HourFigures(failures=row["failures"])
    return dict(found)


COLUMNS = ("tenant_id", "agent", "provider", "model")


def _subjects(row: Mapping[str, Any]) -> Iterator[Watched]:
    yield Watched(Kind.TENANT, row["tenant_id"])
    if row["agent"]:
        yield Watched(Kind.AGENT, row["tenant_id"], row["agent"])
    if row["model"]:
        yield Watched(Kind.MODEL, provider=row["provider"], model=row["model"])


def histories(subjects: Collection[Watched], *, before: datetime) -> dict[Watched, Hours]:
    """The hours before one, of each; two queries for each customer among them, and two for all models."""
    found: dict[Watched, Hours] = {subject: {} for subject in subjects}
    for tenant_id in {subject.tenant_id for subject in subjects if subject.tenant_id}:
        _read(found, Q(tenant_id=tenant_id), ("tenant_id", "agent"), before - HISTORY, before)
    models = {subject.model for subject in subjects if subject.kind == Kind.MODEL}
    if models:
        _read(found, Q(model__in=models), ("provider", "model"), before - HISTORY_OF_MODELS, before)
    return found


def _read(found: dict[Watched, Hours], where: Q, columns: tuple[str, ...], since: datetime, before: datetime) -> None:
    period = where & Q(hour__gte=since, hour__lt=before)
    blank = {"tenant_id": 0, "agent": "", "provider": "", "model": ""}
    spent = SpendRollup.objects.filter(period).order_by().values("hour", *columns)
    for row in spent.annotate(sum_calls=LongSum("calls"), sum_nanos=LongSum("cost_nanos")).iterator():
        figures = HourFigures(row["sum_calls"] or 0, max(0, row["sum_nanos"] or 0))
        _add(found, blank | row, figures)
    failed = FailedCalls.objects.filter(period).order_by().values("hour", *columns)
    for row in failed.annotate(sum_failures=LongSum("failures")).iterator():
        _add(found, blank | row, HourFigures(failures=row["sum_failures"] or 0))


def _add(found: dict[Watched, Hours], row: Mapping[str, Any], figures: HourFigures) -> None:
    at = row["hour"].astimezone(UTC)
    by_tenant = Watched(Kind.TENANT, row["tenant_id"])
    for subject in (
        by_tenant,
        Watched(Kind.AGENT, row["tenant_id"], row["agent"]),
        Watched(Kind.MODEL, provider=row["provider"], model=row["model"]),
    ):
        if (hours := found.get(subject)) is not None:
            hours[at] = hours.get(at, HourFigures()) + figures


def tenants(subjects: Collection[Watched]) -> Mapping[int, Tenant]:
    return Tenant.objects.in_bulk({subject.tenant_id for subject in subjects if subject.tenant_id})


def zone_of(subject: Watched, owners: Mapping[int, Tenant]) -> ZoneInfo:
    """By whose clock its days go: the customer's; for a model, which all use, UTC."""
    return owners[subject.tenant_id].zone if subject.tenant_id in owners else ZoneInfo("UTC")


def found(*, reader: Reader = EVERYTHING) -> QuerySet[Anomaly]:
    """What was found of those whom the reader may see, the newest first."""
    return Anomaly.objects.filter(reader.scope).select_related("tenant", "guard").order_by("-id")


def of_alert(subject: str) -> Anomaly | None:
    """The newest that an alert of the kind "anomaly" is about, by the alert's subject: "cost of agent acme/support"."""
    metric, _, whom = subject.partition(" of ")
    kind, _, name = whom.partition(" ")
    return found().filter(metric=metric, subject_type=kind, subject=name).first()


def open_ones(*, reader: Reader = EVERYTHING) -> QuerySet[Anomaly]:
    """What is not over."""
    return found(reader=reader).filter(ended_at=None)


def holding(*, reader: Reader = EVERYTHING) -> QuerySet[Anomaly]:
    """Those whose act holds on: an agent that is paused or degraded by itself, and that nobody let go."""
    return found(reader=reader).filter(acted_at__isnull=False, undone_at=None).exclude(act=AnomalyAct.NOTIFY)
