"""What the ledger says about itself, for Prometheus. Read from the database at each scrape: right for all processes.

Labels are bounded: states and window kinds are few, and of providers and models only those dearest so far are
named; the others are added up under "other". Amounts are dollars as floats, because Prometheus has no other numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from django.db.models import Count, F, Q
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from governance.models import (
    Alert,
    AlertDelivery,
    BudgetWindow,
    EmergencyStop,
    LedgerCheck,
    PendingReport,
    ReportMail,
    Reservation,
    ScopeType,
    SpendEntry,
)
from governance.queries import jobs, judgement
from governance.queries.spend import summary
from governance.queries.sums import LongSum
from governance.rules import money
from governance.rules.windows import WindowKind

NAMED_MODELS = 100
OTHER = "other"
NEAR_CAP_PERCENT = 90
PREFIX = "spend_governor"


def collect(now: datetime) -> Iterator[Metric]:
    """Every figure as of `now`."""
    yield from _ledger(now)
    yield from _judgement(now)
    yield from _reservations(now)
    yield _windows()
    yield _near_cap(now)
    yield from _jobs(now)
    yield from _spend()
    yield _alerts()
    yield _outboxes()
    yield from _reports()
    yield _gauge(
        "emergency_stops", "Emergency stops that are active.", EmergencyStop.objects.filter(lifted_at=None).count()
    )


def _ledger(now: datetime) -> Iterator[Metric]:
    """Nothing before the first check: a drift of zero would be a claim that nobody has checked."""
    last = LedgerCheck.objects.order_by("-id").first()
    if last is None:
        return
    yield _gauge("ledger_drift", "Figures of the ledger that the last check found drifted.", last.drifts)
    age_s = (now - last.checked_at).total_seconds()
    yield _gauge("ledger_check_age_seconds", "Seconds since the ledger was last checked.", age_s)
    yield _gauge("ledger_check_duration_seconds", "Seconds the last check took.", last.took_ms / 1000)


def _judgement(now: datetime) -> Iterator[Metric]:
    """As it was last judged; nothing before that. Kinds and reasons are words of our own code."""
    last = judgement.last()
    if last is None:
        return
    yield _gauge("providers_disagreeing", "Days that a provider reports another amount of.", last.disagreeing)
    yield _gauge("providers_silent", "Accounts that should have reported their costs and did not.", last.silent)
    yield _gauge(
        "ledger_judgement_age_seconds",
        "Seconds since the ledger was last compared with its providers.",
        (now - last.judged_at).total_seconds(),
    )
    dollars = GaugeMetricFamily(
        f"{PREFIX}_unproven_dollars",
        "Dollars of the days last judged that rest on the ledger's own word.",
        labels=["kind", "reason"],
    )
    sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in last.details["unproven"]:
        sums[row["kind"], row["reason"]] += Decimal(row["amount"])
    for key, amount in sums.items():
        dollars.add_metric(key, float(amount))
    yield dollars


def _reservations(now: datetime) -> Iterator[Metric]:
    pending = Reservation.objects.filter(status=Reservation.Status.PENDING)
    held = pending.aggregate(count=Count("pk"), nanos=LongSum("amount_nanos"))
    yield _gauge("reservations_pending", "Calls in flight: reservations that are not resolved yet.", held["count"])
    yield _gauge("reserved_dollars", "Dollars that calls in flight hold.", _dollars(held["nanos"] or 0))
    overdue = pending.filter(expires_at__lte=now).count()
    yield _gauge("reservations_overdue", "Reservations past their time that expiry has not resolved yet.", overdue)
    # Not a counter: retention takes old ones out.
    expired = Reservation.objects.filter(status=Reservation.Status.EXPIRED).count()
    yield _gauge("reservations_expired", "Kept reservations that expired: calls that died.", expired)
    overages = SpendEntry.objects.filter(overage_nanos__gt=0).count()
    yield _gauge("overages", "Kept entries that cost more than they had reserved.", overages)


def _windows() -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_windows", "Open budget windows.", labels=["state", "window"])
    rows = BudgetWindow.objects.filter(closed_at=None).order_by().values_list("state", "budget__window")
    counts = {(state, kind): count for state, kind, count in rows.annotate(count=Count("pk"))}
    for state in BudgetWindow.State.values:
        for kind in WindowKind:
            family.add_metric([state, kind.value], counts.get((state, kind.value), 0))
    return family


def _near_cap(now: datetime) -> Metric:
    """What is spent and held counts: a call finds that much taken."""
    family = GaugeMetricFamily(
        f"{PREFIX}_windows_near_cap",
        f"Open budget windows of which {NEAR_CAP_PERCENT} percent of the limit, or more, are spent or held.",
        labels=["scope"],
    )
    open_ones = BudgetWindow.objects.filter(Q(ends_at=None) | Q(ends_at__gt=now), closed_at=None)
    # Whole numbers, in an order in which the largest amount stays one.
    most = F("limit_nanos") - F("limit_nanos") / 100 * (100 - NEAR_CAP_PERCENT)
    near = open_ones.filter(settled_nanos__gte=most - F("reserved_nanos"))
    counts = dict(near.order_by().values_list("budget__scope_type").annotate(Count("pk")))
    for scope in ScopeType.values:
        family.add_metric([scope], counts.get(scope, 0))
    return family


def _jobs(now: datetime) -> Iterator[Metric]:
    """Nothing before the first of them has run: then nobody knows."""
    found = jobs.statuses(now=now)
    if not found:
        return
    at = GaugeMetricFamily(
        f"{PREFIX}_job_last_success_timestamp_seconds", "When a periodic job succeeded last.", labels=["task"]
    )
    took = GaugeMetricFamily(f"{PREFIX}_job_duration_seconds", "What that run took.", labels=["task"])
    late = GaugeMetricFamily(f"{PREFIX}_job_late", "1 where a job has not succeeded in time.", labels=["task"])
    failures = GaugeMetricFamily(f"{PREFIX}_job_failures", "How often it failed in a row.", labels=["task"])
    for job in found:
        if job.succeeded_at is not None:
            at.add_metric([job.name], job.succeeded_at.timestamp())
            took.add_metric([job.name], job.took_s or 0.0)
        late.add_metric([job.name], job.late_since is not None)
        failures.add_metric([job.name], job.failures)
    yield from (at, took, late, failures)


def _alerts() -> Metric:
    """Kinds are words of our own code, so they are few."""
    family = GaugeMetricFamily(f"{PREFIX}_alerts_open", "Alerts that nobody has seen to.", labels=["kind"])
    rows = Alert.objects.filter(cleared_at=None).order_by().values_list("kind").annotate(count=Count("pk"))
    for kind, count in rows:
        family.add_metric([kind], count)
    return family


def _outboxes() -> Metric:
    """Of an only channel that takes nothing no alert could tell."""
    family = GaugeMetricFamily(
        f"{PREFIX}_outbox_messages", "Alerts and reports by e-mail that are to leave.", labels=["of", "state"]
    )
    for of, rows in (("alerts", AlertDelivery.objects.all()), ("reports", ReportMail.objects.all())):
        unsent = rows.filter(state__in=("pending", "sending")).order_by()
        failing = unsent.exclude(error="").count()
        family.add_metric([of, "waiting"], unsent.count() - failing)
        family.add_metric([of, "failing"], failing)
    return family


def _reports() -> Iterator[Metric]:
    """Reports beyond what tenants' budgets left, which count nowhere yet."""
    waiting = PendingReport.objects.filter(status=PendingReport.Status.WAITING)
    found = waiting.aggregate(count=Count("pk"), nanos=LongSum(F("cost_nanos") - F("charged_nanos")))
    yield _gauge("reports_waiting", "Reports of spend that wait for an operator.", found["count"])
    yield _gauge("reports_waiting_dollars", "Dollars that these would charge.", _dollars(found["nanos"] or 0))


def _spend() -> Iterator[Metric]:
    """From the rollups, which outlive the entries. Spend is a gauge: a correction may lower it."""
    labels = ["provider", "model"]
    dollars = GaugeMetricFamily(f"{PREFIX}_spend_dollars", "Dollars spent so far.", labels=labels)
    calls = CounterMetricFamily(f"{PREFIX}_calls", "Calls charged.", labels=labels)
    tokens = CounterMetricFamily(f"{PREFIX}_tokens", "Tokens charged.", labels=[*labels, "kind"])
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for place, row in enumerate(summary(group_by=["provider", "model"])):
        key = (row["provider"], row["model"]) if place < NAMED_MODELS else (OTHER, OTHER)
        added = (row["cost_nanos"], row["calls"], row["input_tokens"], row["output_tokens"])
        sums[key] = [a + b for a, b in zip(sums[key], added, strict=True)]
    for key, (nanos, count, input_tokens, output_tokens) in sums.items():
        dollars.add_metric(key, _dollars(nanos))
        calls.add_metric(key, count)
        tokens.add_metric([*key, "input"], input_tokens)
        tokens.add_metric([*key, "output"], output_tokens)
    yield from (dollars, calls, tokens)


def _gauge(name: str, explained: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", explained, value=value)


def _dollars(nanos: int) -> float:
    return float(money.dollars_from_nanos(nanos))
