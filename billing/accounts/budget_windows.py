"""A tenant's windows as its customer's subscriptions pay for them: opened, limited, and kept to what was paid.

`apply` runs under the customer's lock, with the tenant's windows locked before the budget. Everything that bears on
a limit is computed anew each time: what was paid from the mirror, what was used from the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

from billing.accounts import mirror, past_windows, policy, purchases, window_rows
from billing.accounts.binding import OWN_BUDGETS, STRIPE
from billing.models import BillingAccount, BillingPeriod, Plan
from billing.rules import balance, grants
from billing.rules.balance import NO_DRAW, Draw, Ended, Limit, Spell
from billing.rules.entitlement import Entitlement, EntitlementState
from billing.rules.grants import Period
from billing.rules.shares import WindowShare, is_same, stopped
from governance import audit, ledger
from governance.actions import budgets
from governance.ledger.operations import ChangeLimit, OpenPeriod
from governance.models import Budget, BudgetWindow, ScopeType, Tenant
from governance.queries import holds
from governance.rules import money
from governance.rules import policy as budget_policy
from governance.rules.errors import Conflict
from governance.rules.windows import WindowKind

# What a window's row keeps of how it was found when it was looked at last.
NOTED = ("draws", "undone", "held", "peak_nanos", "seen_nanos", "past_nanos")
# What a customer's plan says of its budget, whatever an operator has set since.
CAPS_AND_RULES = ("soft_cap", "hard_cap", "downgrade_rules", "disabled_tools")


def apply(account: BillingAccount, tenant: Tenant, found: Entitlement, facts: mirror.Facts, *, now: datetime) -> Limit:
    """Open the window of an entitlement's period where it is new, and give it its limit. `account` is locked."""
    period = cast(Period, found.period)
    bought = purchases.uncounted(account, tenant, now=now)
    budget = _budget(tenant, found.limit_nanos or 0, found, now)
    ledger.lock_windows(budget.pk)
    last = BillingPeriod.objects.filter(tenant=tenant).first()
    starts_at = _start(account, period, last, now)
    is_new = last is None or starts_at > last.starts_at
    before = {} if last is None else _allowed(last)
    new = {} if last is None or is_new else _new(last, found)
    row = _row(account, tenant, starts_at, found, None if is_new else last)
    known = {name: getattr(row, name) for name in NOTED}
    windows = list(budget.windows.filter(source_kind=past_windows.SOURCE).order_by("starts_at"))
    past = past_windows.spells(account, windows, tenant, before=starts_at, facts=facts, now=now)
    parts = tuple(map(window_rows.drawable, (*found.parts, *_over(row, found, facts, now))))
    settled = sum(one.settled_nanos for one in windows if one.starts_at < starts_at)
    row.past_nanos = min(money.MAX_SUM, settled)
    ended = _ended(row, windows)
    # An operator's own limit is all there is.
    own_nanos = found.limit_nanos if "override" in found.reasons else None
    owes_nothing = own_nanos is not None or found.state == EntitlementState.TRIAL
    lowered = _lowered(before, found)

    def looked(window: BudgetWindow | None, **since: Any) -> Limit:
        topups = purchases.of_tenant(account, tenant, now=now)
        carried = balance.carried(past, topups, alive=[part.key for part in parts])
        used = window.settled_nanos if window else 0
        draws = new | window_rows.draws(row)
        spell = Spell(row.starts_at, parts, used, draws, window_rows.undone(row), **since)
        limit = balance.limit(carried, spell, topups, owes_nothing=owes_nothing, at_most_nanos=own_nanos)
        return _noted(row, limit, window)

    opened = next((one for one in windows if one.closed_at is None), None)
    limit = looked(None if is_new else opened, ended=ended, lowered=lowered)
    opening = OpenPeriod(
        budget_id=budget.pk,
        starts_at=starts_at,
        ends_at=row.ends_at,
        limit_nanos=_possible(limit),
        source_kind=past_windows.SOURCE,
        source_id=account.stripe_customer_id,
        actor=STRIPE.name,
        reason=f"{found.state} period of {found.subscription_id or found.plan}",
    )
    ledger.apply_within([opening], now=now)
    account.window_start = starts_at
    if bought:
        purchases.count_in(bought, tenant, starts_at)
        row.held = _waiting_for(row, purchases.held_before(bought), {})
        # What was used beyond everything before the purchase is none of it.
        limit = looked(_open_window(budget))
    if any(getattr(row, name) != value for name, value in known.items()):
        row.save(update_fields=list(known))
    _set_policy(budget, account, found, now)
    _set_limit(budget, _possible(limit), found, now)
    return limit


def _start(account: BillingAccount, period: Period, last: BillingPeriod | None, now: datetime) -> datetime:
    """When the window of a period begins: never before the last one of its tenant, in which all of its parts are drawn
    on. Where another customer paid for that one, what is used of it is no part of this one."""
    if last is None or period.starts_at > last.starts_at:
        return period.starts_at
    return last.starts_at if last.account_id == account.pk else max(now, last.starts_at + timedelta(microseconds=1))


def hold_back(tenant: Tenant, *, now: datetime) -> None:
    """A tenant whose subscription is not paid yet has nothing to spend, in place of the platform's default budget.
    What budgets of its own allow stays."""
    known = _known_budget(tenant)
    if not OWN_BUDGETS.filter(tenant=tenant).exists() and (known is None or not known.enabled):
        # One that an operator has switched off, and did not delete, stays so.
        with suppress(Conflict):
            _make_budget(tenant, 1, None, now)


def end_spending(
    account: BillingAccount, tenant: Tenant, found: Entitlement, facts: mirror.Facts, *, now: datetime
) -> Limit | None:
    """Nothing that was paid for is current: of the last window what is used stays, and no more can be spent but what
    was bought beside the plan. None where nothing ever was. `account` is locked.

    A billing period's window ends by an act alone.
    """
    begun = account.window_start
    row = BillingPeriod.objects.filter(tenant=tenant, starts_at=begun).first() if begun else None
    bought_at = None if row else purchases.bought_at(account, tenant)
    if row is not None:
        paid = past_windows.paid_parts(row, facts, policy.plan_rules(), now)
        parts = tuple(stopped(window_rows.part(raw), one) for raw, one in zip(row.parts, paid, strict=True))
        found = replace(found, period=Period(row.starts_at, row.ends_at), parts=parts, kept={})
    elif bought_at is not None and (account.has_begun or not OWN_BUDGETS.filter(tenant=tenant).exists()):
        found = replace(found, period=grants.month(bought_at, now))
    else:
        return None
    return apply(account, tenant, found, facts, now=now)


def let_go(account: BillingAccount, tenant: Tenant, facts: mirror.Facts, *, now: datetime) -> None:
    """Nothing came of a subscription that never began: what held its tenant back goes, and what is left of the top-ups
    that could be spent meanwhile counts as before it. That waits for calls that hold of these. `account` is locked."""
    held = _known_budget(tenant)
    if held is None or not _holds_back(held):
        return
    ledger.lock_windows(held.pk)
    rows = BillingPeriod.objects.filter(tenant=tenant)
    if last := rows.order_by("starts_at").last():
        windows = list(held.windows.filter(source_kind=past_windows.SOURCE).order_by("starts_at"))
        if under_way := [id for window in windows if window.reserved_nanos for id in holds.under_way(window)]:
            last.held, last.seen_nanos = _waiting_for(last, under_way, {}), 0
            last.save(update_fields=["held", "seen_nanos"])
            return
        past = past_windows.spells(account, windows, tenant, before=last.ends_at, facts=facts, now=now)
        drawn = balance.carried(past, purchases.of_tenant(account, tenant, now=now), alive=()).drawn
        purchases.uncount(account, tenant, drawn, now=now)
        rows.delete()
        account.window_start = None
    budgets.delete(budget=held, by=STRIPE, now=now)


def _allowed(row: BillingPeriod) -> dict[str, tuple[int, bool]]:
    """What each part of a window allowed when that was looked at last, and whether by an operator's own limit."""
    draws = window_rows.draws(row)
    return {
        part.key: (0 if draws.get(part.key, NO_DRAW).is_stopped else part.limit_nanos, part.is_own)
        for part in window_rows.parts(row)
    }


def _new(row: BillingPeriod, found: Entitlement) -> dict[str, Draw]:
    """What parts had that a window has since it was looked at last: nothing, whatever was used beyond the others."""
    known = window_rows.parts(row)
    return {part.key: NO_DRAW for part in found.parts if not any(is_same(part, one) for one in known)}


def _lowered(before: Mapping[str, tuple[int, bool]], found: Entitlement) -> dict[str, int]:
    """How much less each part allows than before where that is an operator's doing, as of an operator's own limit."""
    lowered = {}
    for part in found.parts:
        allows = 0 if part.frozen else part.limit_nanos
        old, was_own = before.get(part.key, (allows, False))
        lowered[part.key] = old - allows if found.by_operator or was_own or part.is_own else 0
    return lowered


def _noted(row: BillingPeriod, limit: Limit, window: BudgetWindow | None) -> Limit:
    """Note in the row of a window what it was found to be."""
    if limit.most_nanos and window is not None and window.reserved_nanos:
        row.held = _waiting_for(row, holds.under_way(window), limit.most_nanos, limit.falls)
    row.draws = {key: list(astuple(draw)) for key, draw in sorted(limit.draws.items()) if key or draw.nanos}
    row.undone = {key: [list(astuple(fall)) for fall in one.falls] for key, one in sorted(limit.undone.items())}
    row.peak_nanos = max(row.peak_nanos, limit.nanos - limit.beyond_nanos)
    row.seen_nanos = window.settled_nanos if window is not None else 0
    return limit


def _waiting_for(
    row: BillingPeriod, ids: Sequence[str], most_nanos: Mapping[str, int], falls: Mapping[str, int] | None = None
) -> list[Any]:
    """What is noted of calls under way, and those that have come since: ids, and the most that each part and top-up had
    for them, and how many falls of each were known."""
    known = {id for ids, *_ in row.held for id in ids}
    new = [id for id in ids if id not in known]
    more = [dict(sorted(one.items())) for one in (most_nanos, falls or {})]
    return [*row.held, [new, *more]] if new else row.held


def _ended(row: BillingPeriod, windows: Sequence[BudgetWindow]) -> list[Ended]:
    """What the calls cost that were under way and have ended; the others stay noted. Of those that began in an earlier
    window what they hold counts as used there; when they end, that is looked at again."""
    for window in windows:
        if window.starts_at < row.starts_at and window.reserved_nanos:
            row.held = _waiting_for(row, holds.under_way(window), {})
    costs = holds.ended([id for ids, *_ in row.held for id in ids])
    found = [Ended(sum(costs.get(id, 0) for id in ids), *more) for ids, *more in row.held]
    left = [[[id for id in ids if id not in costs], *more] for ids, *more in row.held]
    row.held = [one for one in left if one[0]]
    return [one for one in found if one.nanos]


def _row(
    account: BillingAccount, tenant: Tenant, starts_at: datetime, found: Entitlement, row: BillingPeriod | None
) -> BillingPeriod:
    """The record of the current window, made or brought up to date; written only where it differs.

    What was a part of it and is no more, as of a subscription that has ended, stays: what was used of it was paid for.
    """
    ends_at = cast(Period, found.period).ends_at
    values: dict[str, Any] = {
        "account_id": account.pk,
        "ends_at": max(ends_at, starts_at + timedelta(microseconds=1)),
        "parts": [window_rows.stored(part) for part in found.parts],
        "kept_values": (row.kept_values if row else {}) | {key: list(value) for key, value in found.kept.items()},
    }
    keys = {part.key for part in found.parts}
    values["parts"] += [raw for raw in (row.parts if row else ()) if window_rows.part(raw).key not in keys]
    if row is None:
        return BillingPeriod.objects.create(tenant=tenant, starts_at=starts_at, **values)
    changed = [name for name, value in values.items() if getattr(row, name) != value]
    for name in changed:
        setattr(row, name, values[name])
    if changed:
        row.save(update_fields=[name.removesuffix("_id") for name in changed])
    return row


def _over(row: BillingPeriod, found: Entitlement, facts: mirror.Facts, now: datetime) -> list[WindowShare]:
    """Parts of the current window that do not count any more, however they went (cancelled, unpaid, paused, an item
    removed): what is used of them stays, and beyond what was paid for is owed."""
    keys = {part.key for part in found.parts}
    parts = window_rows.parts(row)
    if all(part.key in keys for part in parts):
        return []
    known = zip(parts, past_windows.paid_parts(row, facts, policy.plan_rules(), now), strict=True)
    gone = [(part, paid) for part, paid in known if part.key not in keys]
    # The same time is paid for once, though it is known by now to have begun at another moment.
    return [stopped(part, paid) for part, paid in gone if not any(is_same(paid, one) for one in found.parts)]


def _set_policy(budget: Budget, account: BillingAccount, found: Entitlement, now: datetime) -> None:
    """The policy of the plan where the customer has changed plans; and the caps of the metadata."""
    wanted: dict[str, Any] = {}
    if account.plan and found.plan != account.plan and found.state != EntitlementState.FREE:
        wanted = _policy_of(found.plan, instead_of=account.plan)
    for name, share_e4 in (("soft_cap", found.soft_e4), ("hard_cap", found.hard_e4)):
        if share_e4 is not None:
            wanted[name] = Decimal(share_e4) / 10_000
    soft, hard = (wanted.get(name, getattr(budget, name)) for name in ("soft_cap", "hard_cap"))
    if soft is not None and soft >= hard and found.hard_e4 is not None:
        # The metadata lowers the hard cap below the soft one that was there: then there is no soft one.
        wanted["soft_cap"] = None
    elif soft is not None and soft >= hard:
        wanted.pop("soft_cap", None)
    soft, warn = (wanted.get(name, getattr(budget, name)) for name in ("soft_cap", "warn_at"))
    if warn is not None and (soft is None or warn >= soft):
        # A soft cap this low leaves nothing to warn of before it.
        wanted["warn_at"] = None
    changes = {name: value for name, value in wanted.items() if getattr(budget, name) != value}
    if changes:
        budgets.change(budget=budget, changes=changes, by=STRIPE, now=now, reason=f"plan {found.plan or 'metadata'}")


def _set_limit(budget: Budget, limit_nanos: int, found: Entitlement, now: datetime) -> None:
    """Raise or lower what is open, at once; nothing is written where nothing differs."""
    reason = "awaiting payment" if found.state == EntitlementState.PENDING else f"plan {found.plan or 'of its price'}"
    if budget.limit_nanos != limit_nanos:
        budgets.change(budget=budget, changes={"limit_nanos": limit_nanos}, by=STRIPE, now=now, reason=reason)
        return
    window = _open_window(budget)
    if window is not None and window.limit_nanos - window.extra_nanos != limit_nanos:
        ledger.apply_within([ChangeLimit(budget.pk, limit_nanos, reason, STRIPE.name)], now=now)


def _open_window(budget: Budget) -> BudgetWindow | None:
    return budget.windows.filter(closed_at__isnull=True).first()


def _possible(limit: Limit) -> int:
    """A limit that a budget can have; none is nothing."""
    return max(1, min(money.MAX_LIMIT_NANOS, limit.nanos))


def _known_budget(tenant: Tenant) -> Budget | None:
    return Budget.objects.filter(
        tenant=tenant, scope_type=ScopeType.TENANT, window=WindowKind.BILLING_CYCLE.value
    ).first()


def _budget(tenant: Tenant, limit_nanos: int, found: Entitlement, now: datetime) -> Budget:
    """The tenant's billing-cycle budget: an operator's is taken over with its caps, else the plan makes one."""
    known = _known_budget(tenant)
    if known is None:
        plan = Plan.objects.filter(name=found.plan).first() or Plan.objects.filter(is_default=True).first()
        return _make_budget(tenant, max(1, limit_nanos), plan, now)
    if known.source != Budget.Source.STRIPE:
        ledger.lock_windows(known.pk)
        Budget.objects.filter(pk=known.pk).update(source=Budget.Source.STRIPE)
        old, new = {"source": known.source}, {"source": Budget.Source.STRIPE.value}
        audit.record(action="budget.take_over", target=str(known), by=STRIPE, now=now, old=old, new=new)
        known.source = Budget.Source.STRIPE
    elif _holds_back(known) and (found.parts or not known.enabled):
        plan = Plan.objects.filter(name=found.plan).first() or Plan.objects.filter(is_default=True).first()
        changes = {"enabled": True} | (budget_policy.columns_of(plan) if plan else {})
        return budgets.change(budget=known, changes=changes, by=STRIPE, now=now, reason=f"plan {found.plan}")
    return known


def _holds_back(budget: Budget) -> bool:
    """Whether a budget stands for a tenant that has paid for nothing yet but top-ups."""
    is_ours = budget.source == Budget.Source.STRIPE
    return is_ours and not BillingPeriod.objects.filter(tenant__budgets=budget).exclude(parts=[]).exists()


def _make_budget(tenant: Tenant, limit_nanos: int, plan: Plan | None, now: datetime) -> Budget:
    return budgets.create(
        scope_type=ScopeType.TENANT,
        window=WindowKind.BILLING_CYCLE.value,
        limit_nanos=limit_nanos,
        tenant=tenant,
        source=Budget.Source.STRIPE,
        by=STRIPE,
        now=now,
        **(budget_policy.columns_of(plan) if plan else {}),
    )


def _policy_of(plan: str, *, instead_of: str) -> dict[str, Any]:
    """What a plan, which takes the place of another, says of its budget's policy.

    Further than its caps and rules, what both plans leave at its default stays as an operator has set it.
    """
    new, old = (Plan.objects.filter(name=name).first() for name in (plan, instead_of))
    if new is None:
        return {}
    values, before = budget_policy.columns_of(new), budget_policy.columns_of(old or new)
    left_alone = {
        name
        for name, column in budget_policy.COLUMNS.items()
        # A row that nobody has saved since an earlier version may spell the same value in another way.
        if column.kind.read(values[name]) == column.kind.read(before[name]) == column.kind.read(column.default)
    }
    return {name: value for name, value in values.items() if name in CAPS_AND_RULES or name not in left_alone}
