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
from governance.models.anomalies import Act
from governance.queries.spend import EVERYTHING, Reader
from governance.queries.sums import LongSum
from governance.rules.anomalies import HISTORY, Figures

# Hours of a model are those of all customers, sums of very many rows.
HISTORY_OF_MODELS = timedelta(days=14)
Kind = Anomaly.SubjectType
Hours = dict[datetime, Figures]


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """Whose hours are looked at: an agent's, a customer's, or those of a provider's model."""

    kind: str
    tenant_id: int = 0
    agent: str = ""
    provider: str = ""
    model: str = ""


def of_hour(hour: datetime) -> dict[Subject, Figures]:
    """What each subject has in an hour, as far as it is over."""
    found: defaultdict[Subject, Figures] = defaultdict(Figures)
    for row in SpendRollup.objects.filter(hour=hour).values(*COLUMNS, "calls", "cost_nanos").order_by():
        for subject in _subjects(row):
            found[subject] += Figures(row["calls"], max(0, row["cost_nanos"]))
    for row in FailedCalls.objects.filter(hour=hour).values(*COLUMNS, "failures").order_by():
        for subject in _subjects(row):
            found[subject] += Figures(failures=row["failures"])
    return dict(found)


COLUMNS = ("tenant_id", "agent", "provider", "model")


def _subjects(row: Mapping[str, Any]) -> Iterator[Subject]:
    yield Subject(Kind.TENANT, row["tenant_id"])
    if row["agent"]:
        yield Subject(Kind.AGENT, row["tenant_id"], row["agent"])
    if row["model"]:
        yield Subject(Kind.MODEL, provider=row["provider"], model=row["model"])


def histories(subjects: Collection[Subject], *, before: datetime) -> dict[Subject, Hours]:
    """The hours before one, of each; two queries for each customer among them, and two for all models."""
    found: dict[Subject, Hours] = {subject: {} for subject in subjects}
    for tenant_id in {subject.tenant_id for subject in subjects if subject.tenant_id}:
        _read(found, Q(tenant_id=tenant_id), ("tenant_id", "agent"), before - HISTORY, before)
    models = {subject.model for subject in subjects if subject.kind == Kind.MODEL}
    if models:
        _read(found, Q(model__in=models), ("provider", "model"), before - HISTORY_OF_MODELS, before)
    return found


def _read(found: dict[Subject, Hours], where: Q, columns: tuple[str, ...], since: datetime, before: datetime) -> None:
    period = where & Q(hour__gte=since, hour__lt=before)
    blank = {"tenant_id": 0, "agent": "", "provider": "", "model": ""}
    spent = SpendRollup.objects.filter(period).order_by().values("hour", *columns)
    for row in spent.annotate(sum_calls=LongSum("calls"), sum_nanos=LongSum("cost_nanos")).iterator():
        figures = Figures(row["sum_calls"] or 0, max(0, row["sum_nanos"] or 0))
        _add(found, blank | row, figures)
    failed = FailedCalls.objects.filter(period).order_by().values("hour", *columns)
    for row in failed.annotate(sum_failures=LongSum("failures")).iterator():
        _add(found, blank | row, Figures(failures=row["sum_failures"] or 0))


def _add(found: dict[Subject, Hours], row: Mapping[str, Any], figures: Figures) -> None:
    at = row["hour"].astimezone(UTC)
    by_tenant = Subject(Kind.TENANT, row["tenant_id"])
    for subject in (
        by_tenant,
        Subject(Kind.AGENT, row["tenant_id"], row["agent"]),
        Subject(Kind.MODEL, provider=row["provider"], model=row["model"]),
    ):
        if (hours := found.get(subject)) is not None:
            hours[at] = hours.get(at, Figures()) + figures


def tenants(subjects: Collection[Subject]) -> Mapping[int, Tenant]:
    return Tenant.objects.in_bulk({subject.tenant_id for subject in subjects if subject.tenant_id})


def zone_of(subject: Subject, owners: Mapping[int, Tenant]) -> ZoneInfo:
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
    return found(reader=reader).filter(acted_at__isnull=False, undone_at=None).exclude(act=Act.NOTIFY)
