"""What was used of windows that are over, and what was paid for them, as is known now."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from billing.accounts import mirror, policy, window_rows
from billing.models import BillingAccount, BillingPeriod
from billing.rules import grants, kept_worths
from billing.rules.balance import Ended, Spell
from billing.rules.shares import WindowShare, is_due, once, paid_for
from billing.rules.valuation import PlanRule, Pricing
from governance.models import BudgetWindow, Tenant
from governance.queries import holds


def spells(
    account: BillingAccount,
    windows: Sequence[BudgetWindow],
    tenant: Tenant,
    *,
    before: datetime,
    facts: mirror.Facts,
    now: datetime,
) -> list[Spell]:
    """The tenant's earlier windows with what was paid for them, as is known now."""
    rows = list(
        BillingPeriod.objects.filter(tenant=tenant, starts_at__lt=before)
        .select_related("account")
        .order_by("starts_at")
    )
    if not rows:
        return []
    used = _used_since(windows, [*(row.starts_at for row in rows), before])
    others = {row.account_id: row.account for row in rows if row.account_id != account.pk}
    known = {account.pk: facts} | {id: mirror.facts(other) for id, other in others.items()}
    plans = policy.plan_rules()
    return [
        # What was used above every limit there was, as a report of spend can be, was no limit's doing: it is not owed.
        Spell(
            row.starts_at,
            tuple(map(window_rows.drawable, once(paid_parts(row, known[row.account_id], plans, now)))),
            min(nanos, row.peak_nanos),
            window_rows.draws(row),
            window_rows.undone(row),
            # What was under way when it was looked at last; its draws are as they were then.
            [Ended(holds.charged(ids), *more) for ids, *more in row.held],
        )
        for row, nanos in zip(rows, used, strict=True)
    ]


def paid_parts(
    row: BillingPeriod, facts: mirror.Facts, plans: Sequence[PlanRule], now: datetime
) -> tuple[WindowShare, ...]:
    """A window's parts with what was paid for each, as is known now."""
    rates, parts = policy.current().rates, []
    for part in window_rows.parts(row):
        kept = kept_worths.of(part.subscription_id, kept_worths.read(row.kept_values, since=row.starts_at))
        pricing = Pricing(plans, kept, rates=rates)
        sub = facts.subscriptions.get(part.subscription_id)
        if sub is not None and kept:
            # What has become an item since says nothing of then.
            sub = replace(sub, items=tuple(item for item in sub.items if item.price.id in kept))
        # Those alone: a price that bills each day has a window and an invoice for each of three years.
        invoices = grants.about(part.period, facts.invoices)
        known = grants.of(sub, part.subscription_id, invoices, pricing, set())
        cycle = part.cycle or grants.cycle_at(known, part.period.starts_at)
        lines = [one for name, all in known.items() if cycle in ("", str(name)) for one in all]
        if is_due(part, sub, now):
            # From here on it counts as far as it was paid for.
            part = replace(part, given_nanos=0)
        period = grants.until_next(part.period, lines)
        parts.append(paid_for(replace(part, cycle=cycle, period=period), lines, facts.refunds))
    covered = [max(part.paid_nanos, part.given_nanos) for part in parts]
    # Rows of earlier versions have what an operator had given; it is in `undone` by now.
    if parts and (missing := row.given_nanos - sum(covered)) > 0:
        parts[-1] = replace(parts[-1], given_nanos=covered[-1] + missing)
    return tuple(parts)


def _used_since(windows: Sequence[BudgetWindow], starts: Sequence[datetime]) -> list[int]:
    """What was used or is held between these moments; nothing in a window that was reset, which gave it anew."""
    used = [(one.starts_at, one.committed_nanos) for one in windows]
    return [
        next((nanos for at, nanos in reversed(used) if begins <= at < ends), 0)
        for begins, ends in itertools.pairwise(starts)
    ]
