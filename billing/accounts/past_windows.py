"""What was used of windows that are over, and what was paid for them, as is known now."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from django.db.models import Q

from billing.accounts import mirror, policy, window_rows
from billing.models import BillingAccount, BillingPeriod
from billing.rules import balance, grants, kept_worths
from billing.rules.balance import Ended, Spell
from billing.rules.shares import WindowShare, is_due, left_behind, once, paid_for
from billing.rules.valuation import PlanRule, Pricing
from governance.models import BudgetWindow, Tenant
from governance.queries import holds

SOURCE = "stripe"
LAST = datetime.max.replace(tzinfo=UTC)


def spells(
    account: BillingAccount,
    windows: Sequence[BudgetWindow],
    tenant: Tenant,
    *,
    before: datetime,
    facts: mirror.Facts,
    now: datetime,
) -> list[Spell]:
    """The windows that are over and bear on a tenant's, with what was paid for them, as is known now: its own, and its
    customer's in other tenants, as what that one owes and has used goes with it."""
    own, elsewhere = Q(tenant=tenant, starts_at__lt=before), Q(account=account) & ~Q(tenant=tenant) & ~Q(parts=[])
    rows = list(BillingPeriod.objects.filter(own | elsewhere).select_related("account").order_by("starts_at"))
    if not rows:
        return []
    mine = [row for row in rows if row.tenant_id == tenant.pk]
    used = dict(zip(mine, _used_since(windows, [*(row.starts_at for row in mine), before]), strict=True))
    used |= _used_elsewhere([row for row in rows if row.tenant_id != tenant.pk])
    others = {row.account_id: row.account for row in rows if row.account_id != account.pk}
    known = {account.pk: facts} | {id: mirror.facts(other) for id, other in others.items()}
    plans = policy.plan_rules()
    found = []
    # Those of former customers first: what they left unused repays what the tenant owes, and nothing that this one
    # brings along.
    for row in sorted(rows, key=lambda row: (row.account_id == account.pk, row.starts_at)):
        parts = paid_parts(row, known[row.account_id], plans, now, is_former=row.account_id != account.pk)
        spell = _spell(row, parts, used[row])
        found.append(spell if row.tenant_id == tenant.pk else _of_parts(spell))
    return found


def owed_by(account: BillingAccount, *, now: datetime) -> int:
    """What a customer owes of what it paid for, in whichever tenant, in nanodollars."""
    used = _used_elsewhere(BillingPeriod.objects.filter(account=account).exclude(parts=[]))
    if not used:
        return 0
    facts, plans = mirror.facts(account), policy.plan_rules()
    found = [_of_parts(_spell(row, paid_parts(row, facts, plans, now), nanos)) for row, nanos in used.items()]
    return balance.carried(found, (), alive=()).debt_nanos


def _spell(row: BillingPeriod, parts: Sequence[WindowShare], used_nanos: int) -> Spell:
    # What was used above every limit there was, as a report of spend can be, was no limit's doing: it is not owed.
    return Spell(
        row.starts_at,
        tuple(map(window_rows.drawable, once(parts))),
        min(used_nanos, row.peak_nanos),
        window_rows.draws(row),
        window_rows.undone(row),
        # What was under way when it was looked at last; its draws are as they were then.
        [Ended(holds.charged(ids), *more) for ids, *more in row.held],
    )


def _of_parts(spell: Spell) -> Spell:
    """What was used of a window's parts alone: its tenant's top-ups stay with that, and count in it from no moment."""
    keys = {part.key for part in spell.parts}
    draws = {key: draw for key, draw in spell.draws.items() if key in keys}
    of_parts, of_all = (sum(draw.nanos for draw in all.values()) for all in (draws, spell.draws))
    used = max(min(spell.used_nanos, of_parts), spell.used_nanos - (of_all - of_parts))
    return replace(spell, starts_at=grants.FIRST, used_nanos=used, draws=draws)


def paid_parts(
    row: BillingPeriod, facts: mirror.Facts, plans: Sequence[PlanRule], now: datetime, *, is_former: bool = False
) -> tuple[WindowShare, ...]:
    """A window's parts with what was paid for each, as is known now. `is_former`: another customer pays by now."""
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
        part = paid_for(replace(part, cycle=cycle, period=period), lines, facts.refunds)
        parts.append(left_behind(part, lines, facts.refunds) if is_former else part)
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


def _used_elsewhere(rows: Iterable[BillingPeriod]) -> dict[BillingPeriod, int]:
    """What was used or is held in each of these windows."""
    found = dict[BillingPeriod, int]()
    for tenant, mine in itertools.groupby(sorted(rows, key=lambda row: row.tenant_id), key=lambda row: row.tenant_id):
        windows = BudgetWindow.objects.filter(tenant=tenant, source_kind=SOURCE).order_by("starts_at")
        starts = BillingPeriod.objects.filter(tenant=tenant).order_by("starts_at").values_list("starts_at", flat=True)
        used = dict(zip(starts, _used_since(list(windows), [*starts, LAST]), strict=True))
        found |= {row: used[row.starts_at] for row in mine}
    return dict(sorted(found.items(), key=lambda pair: pair[0].starts_at))
