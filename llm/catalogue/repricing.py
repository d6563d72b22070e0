"""After a wrong price was superseded: what calls were charged too much or too little is posted as adjustments.

Each call is priced again from its tokens, at the rates that count today for the moment it was made. Left alone are
calls whose cost somebody stated (reports with a cost of their own, estimates without tokens, an operator's last word)
and calls from before any price. A run may be ended at any time and started again: each call is adjusted once.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Exists, OuterRef, Q, QuerySet

from governance import audit
from governance.actions import corrections, repricing
from governance.actions.repricing import Change, Charge, WindowChange
from governance.audit import Actor
from governance.ledger.call_rules import LATE_SETTLE
from governance.ledger.results import LedgerError
from governance.models import SpendEntry
from governance.rules.errors import FieldError
from llm.catalogue import snapshot
from llm.models import Model
from llm.rules import pricing
from llm.rules.pricing import Rates

BATCH = 500
# "mistral/mistral-small-2603@2026-03-16#2>200000+eu+batch"; see price_rows._rule.
RULE = re.compile(r"(?P<model>.+)@(?P<since>[^@#>+]+)(#\d+)?(>\d+)?(?P<marks>(\+[\w-]+)*)")

Progress = Callable[[int], None]


@dataclass(slots=True)
class TenantSum:
    """One tenant's part: calls that change, what they were charged, and what they should have been."""

    calls: int = 0
    before_nanos: int = 0
    after_nanos: int = 0


@dataclass(slots=True)
class RepricingResult:
    """What repricing a model does, or (`dry_run`) would do. `looked_at` are the calls that a price rule charged."""

    model: str
    dry_run: bool
    looked_at: int = 0
    by_tenant: dict[str, TenantSum] = field(default_factory=dict)
    windows: list[WindowChange] = field(default_factory=list)
    # Calls that stay as they are, by why.
    estimates: int = 0
    last_words: int = 0
    unpriced: int = 0
    # Calls whose window would have fallen below zero.
    refused: int = 0

    @property
    def changed(self) -> int:
        return sum(tenant.calls for tenant in self.by_tenant.values())

    @property
    def delta_nanos(self) -> int:
        return sum(tenant.after_nanos - tenant.before_nanos for tenant in self.by_tenant.values())

    @property
    def unblocked(self) -> list[WindowChange]:
        return [change for change in self.windows if change.unblocks]

    def count(self, changes: list[Change]) -> None:
        for change in changes:
            tenant = self.by_tenant.setdefault(change.charge.entry.tenant.slug, TenantSum())
            tenant.calls += 1
            tenant.before_nanos += change.charge.cost_nanos
            tenant.after_nanos += change.cost_nanos


def silence(_looked_at: int) -> None:
    """Nobody wants to know how far it is."""


def preview(
    *, model: Model, starts_at: datetime | None, ends_at: datetime, progress: Progress = silence
) -> RepricingResult:
    """What `run` would do now. Nothing is written or locked."""
    judge = _Judge(model, RepricingResult(str(model), dry_run=True))
    deltas_nanos: dict[int, int] = defaultdict(int)
    for entries in _batches(model, starts_at, ends_at):
        found = repricing.changes(entries, judge.price)
        judge.outcome.count(found)
        for change in found:
            for window in change.charge.entry.windows:
                deltas_nanos[window] += change.delta_nanos
        judge.outcome.looked_at += len(entries)
        progress(judge.outcome.looked_at)
    judge.outcome.estimates += _bare_estimates(model, starts_at, ends_at)
    judge.outcome.windows = repricing.windows_after(deltas_nanos)
    return judge.outcome


def run(
    *,
    model: Model,
    starts_at: datetime | None,
    ends_at: datetime,
    reason: str,
    by: Actor,
    now: datetime,
    progress: Progress = silence,
) -> RepricingResult:
    """Post what calls of [starts_at, ends_at) were charged wrongly; a stopped budget with room again lets calls in.

    Each batch of calls is one transaction. Raises FieldError.
    """
    if not reason.strip():
        raise FieldError("reason", "say why.")
    expected = preview(model=model, starts_at=starts_at, ends_at=ends_at)
    audit.record(
        action="price.reprice",
        target=str(model),
        by=by,
        now=now,
        reason=reason,
        old={"calls": expected.changed, "cost_nanos": _sum(expected, "before_nanos")},
        new={
            "from": starts_at.isoformat() if starts_at else None,
            "to": ends_at.isoformat(),
            "cost_nanos": _sum(expected, "after_nanos"),
        },
    )
    judge = _Judge(model, RepricingResult(str(model), dry_run=False))
    for entries in _batches(model, starts_at, ends_at):
        judge.outcome.count(_post(entries, judge, now))
        judge.outcome.looked_at += len(entries)
        progress(judge.outcome.looked_at)
    judge.outcome.estimates += expected.estimates
    judge.outcome.windows = _as_they_are_now(expected.windows)
    return judge.outcome


class _Judge:
    """Says what a charge should have cost, and counts those that it has to leave alone."""

    def __init__(self, model: Model, outcome: RepricingResult) -> None:
        self.outcome = outcome
        self._model = Model.objects.prefetch_related("prices").get(pk=model.pk)
        self._prefix = f"{model.provider}/{model.name}@"
        # Rates are the same from one beginning of a price to the next.
        self._beginnings = sorted(price.effective_from for price in self._model.prices.all() if price.effective_from)
        self._rates: dict[tuple[int, str, bool, str], Rates | None] = {}

    def price(self, charge: Charge) -> tuple[int, str] | None:
        """See `repricing.Price`."""
        if not charge.price_rule.startswith(self._prefix):
            return None
        if charge.has_last_word:
            self.outcome.last_words += 1
            return None
        used = charge.usage
        if charge.is_estimate and not (used.input_tokens or used.output_tokens or used.units):
            return None
        rates = self._rates_of(charge)
        nanos = pricing.cost_nanos(used, rates) if rates else None
        if rates is None or nanos is None:
            self.outcome.unpriced += 1
            return None
        return nanos, rates.of(used.input_tokens).rule

    def _rates_of(self, charge: Charge) -> Rates | None:
        at, (zone, batch, tier) = charge.entry.occurred_at, place_of(charge.price_rule)
        key = bisect_right(self._beginnings, at), zone, batch, tier
        if key not in self._rates:
            self._rates[key] = snapshot.rates_at(model=self._model, at=at, zone=zone, batch=batch, tier=tier)
        return self._rates[key]


def place_of(rule: str) -> tuple[str, bool, str]:
    """The zone, whether it was a batch job, and the tier that a price rule was for."""
    found = RULE.fullmatch(rule)
    marks = found["marks"].split("+")[1:] if found else []
    zone = next((mark for mark in marks if mark in pricing.ZONE_E2), "global")
    tiers = [mark for mark in marks if mark not in (zone, "batch")]
    return zone, "batch" in marks, tiers[0] if tiers else pricing.STANDARD_TIER


def _post(entries: list[SpendEntry], judge: _Judge, now: datetime) -> list[Change]:
    """A batch; where the ledger refuses one of its calls, each by itself."""
    counted = judge.outcome.last_words, judge.outcome.unpriced
    try:
        return repricing.post(entries, judge.price, now=now)
    except LedgerError:
        judge.outcome.last_words, judge.outcome.unpriced = counted
        if len(entries) == 1:
            judge.outcome.refused += 1
            return []
    return [change for entry in entries for change in _post([entry], judge, now)]


def _batches(model: Model, starts_at: datetime | None, ends_at: datetime) -> Iterator[list[SpendEntry]]:
    """The calls that a rule of the model charged, or charged late, in the order of their time."""
    prefix = f"{model.provider}/{model.name}@"
    late = SpendEntry.objects.filter(corrects=OuterRef("pk"), reason=LATE_SETTLE, price_rule__startswith=prefix)
    rows = _charged(starts_at, ends_at).filter(Q(price_rule__startswith=prefix) | Exists(late))
    rows = rows.select_related("tenant").order_by("occurred_at", "id")
    batch = list(rows[:BATCH])
    while batch:
        yield batch
        last = batch[-1]
        after = Q(occurred_at__gt=last.occurred_at) | Q(occurred_at=last.occurred_at, id__gt=last.id)
        batch = list(rows.filter(after, occurred_at__gte=last.occurred_at)[:BATCH])


def _charged(starts_at: datetime | None, ends_at: datetime) -> QuerySet[SpendEntry]:
    rows = SpendEntry.objects.filter(kind=SpendEntry.Kind.CHARGE, occurred_at__lt=ends_at)
    return rows if starts_at is None else rows.filter(occurred_at__gte=starts_at)


def _bare_estimates(model: Model, starts_at: datetime | None, ends_at: datetime) -> int:
    """Estimates of the model that no rule charged: for an operator to confirm or void."""
    names = [model.name, *model.aliases.values_list("name", flat=True)]
    zones = pricing.ZONE_PROVIDERS if model.provider == pricing.DEFAULT_PROVIDER else ()
    rows = corrections.open_estimates(_charged(starts_at, ends_at))
    return rows.filter(provider__in=[model.provider, *zones], model_served__in=names, price_rule="").count()


def _as_they_are_now(expected: list[WindowChange]) -> list[WindowChange]:
    now_there = {change.window.pk: change for change in repricing.windows_after({c.window.pk: 0 for c in expected})}
    return [
        WindowChange(before.window, now_there[before.window.pk].settled_nanos, before.old_state, after.old_state)
        for before in expected
        if (after := now_there.get(before.window.pk)) is not None
    ]


def _sum(outcome: RepricingResult, name: str) -> int:
    return sum(getattr(tenant, name) for tenant in outcome.by_tenant.values())
