"""What Stripe's side says about itself, for Prometheus; read from the database at each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Count, Min
from prometheus_client.core import GaugeMetricFamily, Metric

from billing.models import MeterEvent, UsageMeter
from billing.queries import health
from governance.queries.sums import LongSum

PREFIX = "spend_governor_stripe"
NOT_SENT = ("pending", "sending", "failed", "held")


def collect(now: datetime) -> Iterator[Metric]:
    """The figures of the console's page. What is not known yet is left out: zero would be a claim."""
    found = health.describe(now=now)
    yield _gauge("inbox_waiting", "Stripe's events that are not handled yet.", found.waiting)
    age_s = _age_s(found.oldest_waiting_at, now)
    yield _gauge("inbox_age_seconds", "Seconds the oldest of them has waited; 0 where none does.", age_s)
    yield _gauge("inbox_failing", "Of those that wait, how many failed before.", found.failing)
    yield _gauge("inbox_dead_letters", "Events that were put aside after too many tries.", found.dead)
    yield _gauge("inbox_quarantined", "Events of another account or mode.", found.quarantined)
    yield _gauge("unbound_customers", "Customers whose subscriptions count for no tenant.", found.unbound)
    if found.last_event is not None:
        age_s = _age_s(found.last_event.received_at, now)
        yield _gauge("last_event_age_seconds", "Seconds since the last event came.", age_s)
    for name, lag in (("delivery", found.delivery), ("handling", found.handling)):
        if lag.median_s is not None and lag.worst_s is not None:
            yield _lag(name, lag.median_s, lag.worst_s)
    if found.endpoint is not None:
        serious = found.endpoint.figures.get("serious", 0)
        yield _gauge("endpoint_findings", "What was wrong with the webhook endpoint when last looked at.", serious)
    for name, run in (("backfill", found.backfill), ("reconcile", found.reconcile)):
        if run is not None:
            explained = f"Seconds since the last {name} that came to its end was begun."
            yield _gauge(f"{name}_age_seconds", explained, _age_s(run.started_at, now))
    yield from _usage(now)


def _usage(now: datetime) -> Iterator[Metric]:
    """The outbox of Stripe's meters; nothing where it has never been used."""
    if not MeterEvent.objects.exists():
        return
    unsent = MeterEvent.objects.filter(state__in=NOT_SENT)
    counts = dict(unsent.order_by().values_list("state").annotate(Count("pk")))
    family = GaugeMetricFamily(f"{PREFIX}_usage_events", "Rows of usage that have not been sent.", labels=["state"])
    for state in NOT_SENT:
        family.add_metric([state], counts.get(state, 0))
    yield family
    oldest = unsent.filter(state__in=("pending", "sending")).aggregate(oldest=Min("created_at"))["oldest"]
    yield _gauge(
        "usage_age_seconds", "Seconds the oldest row to send has waited; 0 where none does.", _age_s(oldest, now)
    )
    carried = UsageMeter.objects.aggregate(sum=LongSum("carried_units"))["sum"] or 0
    yield _gauge("usage_carried_units", "Units taken back that later usage is still to set off.", -carried)


def _lag(name: str, median_s: float, worst_s: float) -> Metric:
    explained = {
        "delivery": "Seconds from Stripe's event to its arrival, of the latest events.",
        "handling": "Seconds from an event's arrival to its effect, of the latest events.",
    }[name]
    family = GaugeMetricFamily(f"{PREFIX}_{name}_lag_seconds", explained, labels=["of"])
    family.add_metric(["median"], median_s)
    family.add_metric(["worst"], worst_s)
    return family


def _age_s(at: datetime | None, now: datetime) -> float:
    return (now - at).total_seconds() if at else 0.0


def _gauge(name: str, explained: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", explained, value=value)
