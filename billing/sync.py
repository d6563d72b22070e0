"""Bring a tenant's budget to what its customer's subscriptions come to.

A reading of Stripe is taken outside any transaction and numbered before it begins. It is written only under the
customer's lock and only while no later reading has begun, so a slow worker never overwrites newer state, and no
database lock is held while Stripe answers: model calls never wait for Stripe.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q

from billing import accounts, mirror, shapes, stripe_client
from billing.accounts import STRIPE
from billing.entitlement import LIVE, Entitlement, Period, State, entitle
from billing.models import BillingAccount, CatalogEntry, Plan, Trial
from billing.valuation import Level, PlanRule
from governance import audit, budgets, ledger
from governance.audit import Actor
from governance.models import Budget, BudgetWindow, ScopeType, Tenant
from governance.operations import ChangeLimit, OpenPeriod
from governance.windows import WindowKind

log = logging.getLogger(__name__)

SOURCE = "stripe"
# A reading overtaken by a later one is taken anew, so often.
READINGS = 5
CATALOG_AGE = timedelta(days=1)
# Billing decides over the tenant's standing in these states; in the others it leaves it alone.
STOPPING = (State.SUSPENDED, State.CLOSED)
# What is left of a window whose period is over can be spent until the next one opens.
SPENDABLE = (*LIVE, State.LAPSED)


class Overtaken(Exception):
    """Another worker began a later reading of this customer; this one must not be written."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What Stripe said of a customer, and the number the reading was given before it began."""

    number: int
    picture: stripe_client.CustomerPicture
    products: tuple[stripe_client.Fetched, ...] = field(default=())


def customer(customer_id: str, *, now: datetime) -> BillingAccount:
    """Read one customer anew (from Stripe with a key, else from the mirror) and write what follows."""
    for _ in range(READINGS):
        reading = read(customer_id, now=now)
        try:
            with transaction.atomic():
                return write(customer_id, reading, now=now)
        except Overtaken:
            continue
    raise stripe_client.StripeUnavailable(f"{customer_id} is being read by too many workers at once")


def due(*, now: datetime, limit: int = 200) -> int:
    """Sync accounts whose period is over, or whose tenant's status does not fit; how many.

    Time alone ends a period, opens the next month of an annual plan, and suspends after the days of grace.
    """
    over = Q(period_end__lte=now, state__in=LIVE)
    unfit = Q(state__in=STOPPING, tenant__status=Tenant.Status.ACTIVE)
    claims = Q(tenant__isnull=True, claimed_tenant__in=Tenant.objects.filter(billing_account=None).values("slug"))
    found = BillingAccount.objects.filter(over | unfit | claims)
    ids = list(found.order_by("period_end").values_list("stripe_customer_id", flat=True)[:limit])
    for customer_id in ids:
        try:
            customer(customer_id, now=now)
        except stripe_client.StripeError as error:
            # The others must not wait for this one; it is due again at the next run.
            log.warning("customer %s was not synced: %s", customer_id, error)
    return len(ids)


def read(customer_id: str, *, now: datetime) -> Reading | None:
    """Ask Stripe about a customer; None without an API key. Raises StripeUnavailable, StripeRefused."""
    if not stripe_client.is_configured():
        return None
    account = accounts.of_customer(customer_id)
    with transaction.atomic():
        BillingAccount.objects.filter(pk=account.pk).update(fetches=F("fetches") + 1)
        number = BillingAccount.objects.values_list("fetches", flat=True).get(pk=account.pk)
    return look(customer_id, number, now=now)


def look(customer_id: str, number: int, *, now: datetime) -> Reading:
    """A reading under a number that its caller has. Raises StripeUnavailable, StripeRefused."""
    picture = stripe_client.customer_picture(customer_id)
    return Reading(number, picture, _products(picture, now))


def write(customer_id: str, reading: Reading | None, *, now: datetime) -> BillingAccount:
    """Write what a reading (or the mirror alone) comes to, in the caller's transaction. Raises Overtaken."""
    account = accounts.locked(customer_id)
    if reading is not None:
        if account.fetches != reading.number:
            raise Overtaken
        _keep(account, reading, now)
    accounts.settle_claim(account=account, now=now)
    settle(account, now=now)
    return account


def settle(account: BillingAccount, *, now: datetime, anew: bool = False) -> Entitlement:
    """Compute and write, from the mirror. `account` is locked. `anew`: plans as they are now, also in this window."""
    found = _entitlement(account, now=now, kept={} if anew else account.kept_values)
    if not anew and (found.period is None or found.period.starts_at != account.window_start):
        # A new window takes plans and metadata as they are now.
        found = _entitlement(account, now=now, kept={})
    if account.tenant is not None:
        _remember_trials(account.tenant, found)
        if found.period is not None and found.limit_nanos is not None:
            _give(account, account.tenant, found.period, found.limit_nanos, found, now)
        _set_standing(account.tenant, found, now)
    _note(account, found)
    return found


def override(*, account: BillingAccount, limit_nanos: int | None, by: Actor, now: datetime) -> None:
    """An operator's own limit for the tenant, in place of the plan's; None returns to the plan."""
    with transaction.atomic():
        account = accounts.locked(account.stripe_customer_id)
        old, account.limit_override_nanos = account.limit_override_nanos, limit_nanos
        account.save(update_fields=["limit_override_nanos"])
        audit.record(
            action="billing.override", target=f"customer {account}", by=by, now=now,
            old={"limit_nanos": old}, new={"limit_nanos": limit_nanos},
        )  # fmt: skip
        settle(account, now=now)


def concerned_by(kind: str) -> Collection[str]:
    """Customers with a price whose limit comes from less than a price's (or product's) metadata: news may map it."""
    level = Level.PRODUCT_METADATA if kind == CatalogEntry.Kind.PRODUCT else Level.PRICE_METADATA
    rows = BillingAccount.objects.exclude(kept_values={}).values_list("stripe_customer_id", "kept_values")
    return sorted(id for id, kept in rows if any(value[0] < level for value in kept.values()))


def _entitlement(account: BillingAccount, *, now: datetime, kept: dict[str, Any]) -> Entitlement:
    if account.deleted_at is not None:
        return Entitlement(State.CLOSED, reasons=("customer_deleted",))
    tried = Trial.objects.filter(tenant=account.tenant).values_list("product_id", "subscription_id")
    return entitle(
        subscriptions=mirror.subscriptions(account),
        invoices=mirror.invoices(account),
        plans=plan_rules(),
        override_nanos=account.limit_override_nanos,
        kept={price: (int(level), int(limit)) for price, (level, limit) in kept.items()},
        trials_used=dict(tried) if account.tenant_id else {},
        now=now,
    )


def plan_rules() -> list[PlanRule]:
    return [
        PlanRule(
            name=plan.name, limit_nanos=plan.limit_nanos, price_ids=frozenset(plan.price_ids),
            lookup_keys=frozenset(plan.lookup_keys), product_ids=frozenset(plan.product_ids),
            is_default=plan.is_default, per_unit=plan.per_unit, monthly=plan.monthly,
        )
        for plan in Plan.objects.all()
    ]  # fmt: skip


def _give(
    account: BillingAccount, tenant: Tenant, period: Period, granted_nanos: int, found: Entitlement, now: datetime
) -> None:
    """The tenant's window and its limit."""
    budget = _budget(tenant, granted_nanos, found, now)
    open_now = _open_window(budget)
    if account.window_start is None or period.starts_at > account.window_start:
        used = _used_before(open_now, period, found)
    else:
        used = account.used_before_nanos
    limit = max(1, granted_nanos - used)
    opening = OpenPeriod(
        budget_id=budget.pk, starts_at=period.starts_at, ends_at=period.ends_at, limit_nanos=limit,
        source_kind=SOURCE, source_id=account.stripe_customer_id, actor=STRIPE.name,
        reason=f"{found.state} period of {found.subscription_id}",
    )  # fmt: skip
    [result] = ledger.apply_within([opening], now=now)
    if result.opened or account.window_start is None or period.starts_at >= account.window_start:
        account.window_start, account.used_before_nanos = period.starts_at, used
    if result.opened or found.state in SPENDABLE:
        _set_limit(budget, limit, found, now)


def _used_before(open_now: BudgetWindow | None, period: Period, found: Entitlement) -> int:
    """How much of what earlier periods of other subscriptions still give was used before this window opened."""
    if open_now is None or open_now.starts_at >= period.starts_at or not found.earlier_nanos:
        return 0
    return min(found.earlier_nanos, open_now.committed_nanos)


def _set_limit(budget: Budget, limit_nanos: int, found: Entitlement, now: datetime) -> None:
    """Raise or lower what is open, at once; nothing is written where nothing differs."""
    reason = f"plan {found.plan or 'of its price'}"
    if budget.limit_nanos != limit_nanos:
        budgets.change(budget=budget, changes={"limit_nanos": limit_nanos}, by=STRIPE, now=now, reason=reason)
        return
    window = _open_window(budget)
    if window is not None and window.limit_nanos != limit_nanos:
        ledger.apply_within([ChangeLimit(budget.pk, limit_nanos, reason, STRIPE.name)], now=now)


def _open_window(budget: Budget) -> BudgetWindow | None:
    return budget.windows.filter(closed_at__isnull=True).first()


def _budget(tenant: Tenant, limit_nanos: int, found: Entitlement, now: datetime) -> Budget:
    """The tenant's billing-cycle budget: an operator's is taken over with its caps, else the plan makes one."""
    rows = Budget.objects.filter(tenant=tenant, scope_type=ScopeType.TENANT, window=WindowKind.BILLING_CYCLE.value)
    known = rows.first()
    if known is None:
        plan = Plan.objects.filter(name=found.plan).first() or Plan.objects.filter(is_default=True).first()
        policy = {} if plan is None else {
            "soft_cap": plan.soft_cap, "hard_cap": plan.hard_cap, "downgrade_rules": plan.downgrade_rules,
            "disabled_tools": plan.disabled_tools,
        }  # fmt: skip
        return budgets.create(
            scope_type=ScopeType.TENANT, window=WindowKind.BILLING_CYCLE.value, limit_nanos=limit_nanos,
            tenant=tenant, source=Budget.Source.STRIPE, by=STRIPE, now=now, **policy,
        )  # fmt: skip
    if known.source != Budget.Source.STRIPE:
        rows.update(source=Budget.Source.STRIPE)
        audit.record(
            action="budget.take_over", target=str(known), by=STRIPE, now=now,
            old={"source": known.source}, new={"source": Budget.Source.STRIPE.value},
        )  # fmt: skip
        known.source = Budget.Source.STRIPE
    return known


def _set_standing(tenant: Tenant, found: Entitlement, now: datetime) -> None:
    """Suspend or take back; a tenant that an operator paused stays paused."""
    status = Tenant.Status
    if found.state in STOPPING:
        old, new = status.ACTIVE, status.SUSPENDED
    elif found.state in LIVE:
        old, new = status.SUSPENDED, status.ACTIVE
    else:
        return
    if Tenant.objects.filter(pk=tenant.pk, status=old).update(status=new):
        tenant.status = new
        audit.record(
            action="tenant.suspend" if new == status.SUSPENDED else "tenant.unsuspend", target=f"tenant {tenant}",
            by=STRIPE, now=now, reason=", ".join(found.reasons) or str(found.state),
            old={"status": old.value}, new={"status": new.value},
        )  # fmt: skip


def _note(account: BillingAccount, found: Entitlement) -> None:
    reasons = list(found.reasons)
    if account.tenant is None:
        reasons.append(accounts.why_unbound(account))
    account.state, account.plan = found.state.value, found.plan[:200]
    account.limit_nanos, account.subscription_id = found.limit_nanos, found.subscription_id
    account.period_start = found.period.starts_at if found.period else None
    account.period_end = found.period.ends_at if found.period else None
    account.reasons = reasons
    account.kept_values = {price: list(value) for price, value in sorted(found.kept.items())}
    account.save(
        update_fields=[
            "state", "plan", "limit_nanos", "subscription_id", "period_start", "period_end", "reasons",
            "kept_values", "window_start", "used_before_nanos",
        ]
    )  # fmt: skip


def _remember_trials(tenant: Tenant, found: Entitlement) -> None:
    for product_id, subscription_id in found.trials.items():
        Trial.objects.get_or_create(tenant=tenant, product_id=product_id, defaults={"subscription_id": subscription_id})


def _keep(account: BillingAccount, reading: Reading, now: datetime) -> None:
    picture = reading.picture
    version = mirror.version_of_reading(reading.number, now)
    account.fetched_at = now
    account.deleted_at = (account.deleted_at or now) if picture.customer.get("deleted") else None
    account.save(update_fields=["fetched_at", "deleted_at"])
    for data in reading.products:
        mirror.take_catalog(data, version=version, now=now, force=True)
    for data in picture.subscriptions:
        mirror.take_subscription(account, data, version=version, now=now, force=True)
    for data in picture.invoices:
        mirror.take_invoice(account, data, version=version, now=now, force=True)
    for data in (picture.customer, *picture.subscriptions):
        accounts.claim(account=account, slug=shapes.claimed_tenant(data), now=now)


def _products(picture: stripe_client.CustomerPicture, now: datetime) -> tuple[stripe_client.Fetched, ...]:
    """Products of the customer's prices that are not known yet, or not lately."""
    ids = {
        item.price.product_id
        for data in picture.subscriptions
        for item in shapes.subscription(data).items
        if item.price.product_id
    }
    fresh = CatalogEntry.objects.filter(stripe_id__in=ids, updated_at__gt=now - CATALOG_AGE)
    missing = ids - set(fresh.values_list("stripe_id", flat=True))
    return tuple(stripe_client.product(id) for id in sorted(missing))
