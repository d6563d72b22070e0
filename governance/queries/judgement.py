"""Sums of the ledger as a judge wants them: by provider and day, and of the lines that rest on its own word.

Both read a bounded period: the first from the hourly rollups, the second by the entries' time, for rollups do not know
how certain their lines were.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, time
from typing import Any

from django.db.models import Case, CharField, Count, Exists, F, OuterRef, Q, Sum, Value, When
from django.db.models.functions import Cast, Replace, Substr, TruncDay

from governance.models import LedgerJudgement, SpendEntry, SpendRollup
from governance.queries.spend import TimeRange
from governance.rules import money
from governance.rules.judgement import AGENT_SETTLED, OTHERS, OwnWord
from governance.rules.reports import OWN_VERSION

# A correction that says what a line truly cost: an operator's word, or a settlement that came late.
LAST_WORDS = ("confirmed", "voided")
LATE_SETTLE = "late_settle"
# The rule of a line whose cost, and not only its usage, is an agent's word.
REPORTED = "reported"
# The version of the UUIDs of agents' own holds (`governance.rules.reports.is_own`).
_OWN = f"{OWN_VERSION:x}"
# What agents say: of calls that they hold for and settle themselves (also where the reason tells another thing of the
# line, as that no budget of theirs bounds it), and of those that they only report. Of entries with their `version`.
_TWO_PHASE = (
    Q(price_rule=REPORTED) | Q(reason=AGENT_SETTLED) | Q(version=_OWN, certainty=SpendEntry.Certainty.CONFIRMED)
)
_TOLD = Q(reservation=None) | _TWO_PHASE


def _version(id: str) -> Substr:
    """A UUID's version. SQLite keeps it without dashes."""
    return Substr(Replace(Cast(id, CharField()), Value("-"), Value("")), 13, 1)


def last() -> LedgerJudgement | None:
    """The latest judgement that was kept."""
    return LedgerJudgement.objects.order_by("-id").first()


def period(since: date, until: date) -> TimeRange:
    """The whole days in [since, until), UTC."""
    starts_at, ends_at = (datetime.combine(day, time.min, tzinfo=UTC) for day in (since, until))
    return TimeRange(starts_at, ends_at)


def charged(*, since: date, until: date) -> dict[tuple[str, date], int]:
    """Nanodollars by the ledger's name of a provider and day."""
    rows = SpendRollup.objects.filter(period(since, until).on("hour")).order_by()
    days = rows.annotate(day=TruncDay("hour", tzinfo=UTC)).values("provider", "day").annotate(**_exact("cost_nanos"))
    return {(row["provider"], row["day"].date()): _nanos(row) for row in days}


def told(*, since: date, until: date) -> dict[tuple[str, date], int]:
    """Nanodollars that agents say calls of their own cost, by the ledger's name of a provider and day.

    That is all that a tenant's key reported or held for by itself, whatever the ledger charged it by, with what
    corrected it. What operators recorded is none of it: they put a day right that a provider disagreed on.
    """
    rows = SpendEntry.objects.filter(period(since, until).on("occurred_at")).annotate(
        version=_version("reservation_id"), version_of_corrected=_version("corrects__reservation_id")
    )
    charges = Q(kind=SpendEntry.Kind.CHARGE, key__isnull=False) & (Q(reservation=None) | Q(version=_OWN))
    corrected = Q(corrects__reservation=None) | Q(version_of_corrected=_OWN)
    corrections = Q(corrects__isnull=False, corrects__key__isnull=False) & corrected
    said = rows.filter(charges | corrections).order_by().annotate(day=TruncDay("occurred_at", tzinfo=UTC))
    days = said.values("provider", "day").annotate(**_exact("cost_nanos"))
    return {(row["provider"], row["day"].date()): _nanos(row) for row in days}


def own_words(*, since: date, until: date, named: Collection[str]) -> list[OwnWord]:
    """The lines that no answer of a model proves, of the providers `named`; those of all others as `OTHERS`."""
    entries = SpendEntry.objects.filter(period(since, until).on("occurred_at"), kind=SpendEntry.Kind.CHARGE).order_by()
    provider = Case(When(provider__in=list(named), then=F("provider")), default=Value(OTHERS), output_field=CharField())
    rows = entries.annotate(place=provider, version=_version("reservation_id"))
    estimated = Q(certainty=SpendEntry.Certainty.ESTIMATED)
    corrections = SpendEntry.objects.filter(corrects=OuterRef("pk")).annotate(version=_version("reservation_id"))
    # A late settlement by an agent is its word once more.
    late = Q(reason=LATE_SETTLE, certainty=SpendEntry.Certainty.CONFIRMED) & ~_TWO_PHASE
    judged = corrections.filter(Q(reason__in=LAST_WORDS) | late)
    unjudged = (
        rows.filter(estimated | _TOLD)
        .filter(~Exists(judged))
        .annotate(
            sort=Case(When(_TOLD, then=Value("reported")), default=Value("estimated")),
            why=Case(
                When(reservation=None, then=Value("spend_report")),
                When(_TWO_PHASE, then=Value("two_phase")),
                default=F("reason"),
                output_field=CharField(),
            ),
        )
        .values("place", "sort", "why")
        .annotate(lines=Count("pk"), **_exact("cost_nanos"))
    )
    over = (
        rows.filter(overage_nanos__gt=0)
        .annotate(sort=Value("overage"), why=F("reason"))
        .values("place", "sort", "why")
        .annotate(lines=Count("pk"), **_exact("overage_nanos"))
    )
    found = [OwnWord(row["place"], row["sort"], row["why"], row["lines"], _nanos(row)) for row in (*unjudged, *over)]
    return sorted(found, key=lambda one: (-one.nanos, one.provider, one.kind, one.reason))


def _exact(column: str) -> dict[str, Any]:
    """A sum in two parts, whole dollars and the rest: SQLite gives up at one that 64 bits do not hold."""
    return {
        "sum_dollars": Sum(F(column) / money.NANOS_PER_DOLLAR),
        "sum_rest": Sum(F(column) % money.NANOS_PER_DOLLAR),
    }


def _nanos(row: Any) -> int:
    return int(row["sum_dollars"]) * money.NANOS_PER_DOLLAR + int(row["sum_rest"])
