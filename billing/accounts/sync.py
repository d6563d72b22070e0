"""Bring a tenant's budget to what its customer's subscriptions come to.

A reading of Stripe is taken outside any transaction and numbered before it begins. It is written only under the
customer's lock and only while none is that began later, so a slow worker never overwrites newer state, and no
database lock is held while Stripe answers: model calls never wait for Stripe.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta

import orjson
from django.db import transaction
from django.db.models import F, Q

from billing.accounts import binding, budget_windows, mirror, policy, purchases, reason_alerts, window_watch
from billing.accounts.binding import STRIPE
from billing.models import BillingAccount, CatalogEntry, Plan, Trial
from billing.rules import kept_worths
from billing.rules.balance import Limit
from billing.rules.entitlement import LIVE, Entitlement, EntitlementState, closed, entitle
from billing.rules.kept_worths import Kept
from billing.rules.valuation import TOPUP_KEY, Level
from billing.stripe_api import client, objects
from governance import audit, ledger
from governance.audit import Actor
from governance.models import Tenant
from governance.rules import money

log = logging.getLogger(__name__)

# Whoever reads a customer for its events has it for so long; a worker that died does not keep it longer.
TURN = timedelta(minutes=1)
CATALOG_AGE = timedelta(days=1)
# Of who spends top-ups alone it is asked so often whether they are used up.
TOPUPS_AGE = timedelta(days=1)
# A customer that is due and could not be read is due again after so long.
AFTER_FAILURE = timedelta(minutes=10)
# Billing decides over the tenant's status in these states; in the others it leaves it alone.
STOPPING = (EntitlementState.SUSPENDED, EntitlementState.CLOSED)
# What is left of a window whose period is over can be spent until the next one opens.
SPENDABLE = (*LIVE, EntitlementState.LAPSED)
# What was given counts as begun, if nothing was paid yet.
BEGUN = (EntitlementState.ACTIVE, EntitlementState.TRIAL, EntitlementState.PROVISIONAL)
# Stripe's statuses of a subscription whose first payment, or trial, has not come about.
NEVER_BEGAN = ("incomplete", "incomplete_expired")


@dataclass(frozen=True, slots=True)
class Reading:
    """What Stripe said of a customer, and the number the reading was given before it began."""

    number: int
    snapshot: client.CustomerSnapshot
    products: tuple[client.Fetched, ...] = field(default=())


def customer(customer_id: str, *, now: datetime) -> BillingAccount:
    """Read one customer anew (from Stripe with a key, else from the mirror) and write what follows."""
    reading = read(customer_id, now=now)
    return ledger.run_again(transaction.atomic(write))(customer_id, reading, now=now)


@contextmanager
def turn(customer_id: str, *, now: datetime) -> Iterator[datetime | None]:
    """One worker's turn at reading a customer: None for the one who has it, else until when another has it.

    Nothing hangs on it but how often Stripe is asked: readings side by side are written in their order.
    """
    account, until = binding.of_customer(customer_id), now + TURN
    mine = BillingAccount.objects.filter(pk=account.pk)
    if not mine.filter(Q(turn_until=None) | Q(turn_until__lte=now)).update(turn_until=until):
        yield mine.values_list("turn_until", flat=True).get() or now
        return
    try:
        yield None
    finally:
        mine.filter(turn_until=until).update(turn_until=None)


def due(*, now: datetime, limit: int = 200) -> int:
    """Sync accounts that time has changed, or whose tenant's status does not fit; how many.

    Time alone ends a period, opens the next month of an annual plan, and suspends after the days of grace.
    """
    # Of these the ledger says something else, and Stripe need not be asked.
    for customer_id in window_watch.changed():
        try:
            ledger.run_again(transaction.atomic(_hear))(customer_id, now=now)
        except Exception:
            log.exception("customer %s could not be computed", customer_id)
            with transaction.atomic():
                window_watch.heard(customer_id)
                BillingAccount.objects.filter(stripe_customer_id=customer_id).update(due_at=now)
    # Rows of the version before this field have none; they are over when their period is.
    over = Q(due_at__lte=now) | Q(due_at__isnull=True, period_end__lte=now, state__in=LIVE)
    unfit = Q(state__in=STOPPING, tenant__status=Tenant.Status.ACTIVE, has_begun=True, due_at=None)
    by_act = binding.claims_to_retry() | binding.waits_for_nothing()
    found = BillingAccount.objects.filter(over | unfit | by_act).select_related("tenant")
    ids: list[str] = []
    # Of some nothing comes but by an act of a person, however often they are looked at; time alone comes first. Read
    # before any is synced: what is still open is in the way of their transactions.
    for account in found.annotate(is_over=over).order_by("due_at", "period_end").iterator():
        if account.is_over or not binding.is_held_up(account):
            ids.append(account.stripe_customer_id)
        if len(ids) == limit:
            break
    for customer_id in ids:
        try:
            customer(customer_id, now=now)
            continue
        except client.StripeError as error:
            log.warning("customer %s was not synced: %s", customer_id, error)
        except Exception:
            log.exception("customer %s could not be computed", customer_id)
        # The others must not wait for it, at the next run neither.
        BillingAccount.objects.filter(stripe_customer_id=customer_id).update(due_at=now + AFTER_FAILURE)
    return len(ids)


def read(customer_id: str, *, now: datetime) -> Reading | None:
    """Ask Stripe about a customer; None without an API key. Raises StripeUnavailable, StripeRefused."""
    if not client.is_configured():
        return None
    account = binding.of_customer(customer_id)
    with transaction.atomic():
        BillingAccount.objects.filter(pk=account.pk).update(fetches=F("fetches") + 1)
        number = BillingAccount.objects.values_list("fetches", flat=True).get(pk=account.pk)
    return read_as(customer_id, number, now=now)


def read_as(customer_id: str, number: int, *, now: datetime) -> Reading:
    """A reading under a number that its caller has. Raises StripeUnavailable, StripeRefused."""
    snapshot = client.customer_snapshot(customer_id)
    return Reading(number, snapshot, _products(snapshot, now))


def write(
    customer_id: str, reading: Reading | None, *, now: datetime, said: objects.Object | None = None
) -> BillingAccount:
    """Write what a reading (or the mirror alone) comes to, in the caller's transaction.

    Of one that began before the one that is written only the checkouts count: no list tells of those. What the object
    of an event `said` of its tenant comes after what was read, which is the same whichever event comes first.
    """
    account = binding.locked(customer_id)
    for data in reading.snapshot.checkouts if reading else ():
        purchases.note_checkout(account, data, now=now)
    if reading is not None and reading.number > account.written:
        _keep(account, reading, now)
    elif reading is not None:
        reading = None
    if said:
        binding.claim(account=account, data=said, now=now)
    binding.bind_claimed(account=account, now=now)
    _apply_reading(account, reading, now)
    # Who pays by now comes before who does not.
    if account.state in LIVE and binding.bind_claimed(account=account, now=now):
        _apply_reading(account, reading, now)
    return account


def _hear(customer_id: str, *, now: datetime) -> None:
    """Write what a customer comes to by what the ledger says now. It is heard with that, or not at all."""
    window_watch.heard(customer_id)
    write(customer_id, None, now=now)


@contextmanager
def standing_in(*, tenant: str, now: datetime) -> Iterator[None]:
    """While a budget of a tenant's own goes, in the caller's transaction: whoever pays for the tenant, or waits for it,
    is brought to what its subscriptions come to at the end, if no such budget is left.

    Customers are locked before budgets and windows, as ever. Stripe is not asked.
    """
    waiting = Q(tenant=None, claimed_tenant=tenant)
    rows = BillingAccount.objects.filter(Q(tenant__slug=tenant) | waiting).select_for_update(of=("self",))
    customer_ids = list(rows.order_by("pk").values_list("stripe_customer_id", flat=True))
    yield
    if not binding.OWN_BUDGETS.filter(tenant__slug=tenant).exists():
        for customer_id in customer_ids:
            write(customer_id, None, now=now)


def _apply_reading(account: BillingAccount, reading: Reading | None, now: datetime) -> None:
    if reading is not None:
        # Kept with what the reading comes to.
        account.read_digest = _digest(account, reading)
    apply(account, now=now)


def is_unchanged(account: BillingAccount, reading: Reading, *, now: datetime) -> bool:
    """Whether nothing that a customer comes to can be other than when it was read last: it says the same, plans,
    settings and operators do, and the time has not come for a change. `account` is locked."""
    waits = account.tenant_id is None and account.claimed_tenant != ""
    is_due = account.due_at is not None and account.due_at <= now
    is_new = account.read_digest == ""
    if is_new or waits or is_due or reading.number <= account.written:
        return False
    return account.read_digest == _digest(account, reading)


def confirm(account: BillingAccount, reading: Reading, *, now: datetime) -> None:
    """Note that a reading said what was known. `account` is locked."""
    BillingAccount.objects.filter(pk=account.pk).update(fetched_at=now, written=reading.number)
    mirror.confirm_catalog([one["id"] for one in reading.products], now=now)


def _digest(account: BillingAccount, reading: Reading) -> str:
    read = reading.snapshot
    said = (read.customer, read.subscriptions, read.invoices, read.payments, read.checkouts)
    # Another customer's reading may have brought what its prices and products say now.
    catalog = mirror.catalog_of([*read.subscriptions, *read.invoices])
    catalog |= {one["id"]: {**catalog.get(one["id"], {}), **one} for one in reading.products}
    claims = (account.claimed_tenant, account.decided_claims, binding.waits_for_consent(account))
    of_ours = (account.tenant_id, account.limit_override_nanos, *claims)
    plans = list(Plan.objects.order_by("pk").values())
    data = orjson.dumps(
        [said, catalog, of_ours, plans, asdict(policy.current())], default=str, option=orjson.OPT_SORT_KEYS
    )
    return hashlib.sha256(data).hexdigest()


def apply(account: BillingAccount, *, now: datetime, anew: bool = False, by_operator: bool = False) -> Entitlement:
    """Compute and write, from the mirror. `account` is locked. `anew`: plans as they are now, also in spans that have
    begun. `by_operator`: what it comes to less is an operator's doing, and never owed."""
    facts = mirror.facts(account)
    kept = {} if anew else kept_worths.read(account.kept_values, since=account.window_start)
    found = replace(_entitlement(account, facts, now=now, kept=kept), by_operator=by_operator)
    wrong = purchases.note(account, facts.invoices, facts.refunds, facts.payments, now=now)
    account.has_begun = account.has_begun or found.state in BEGUN or _has_begun(facts)
    limit = None
    if found.state != EntitlementState.NONE and binding.waits_for_consent(account):
        wrong.add(f"{binding.WAITS_FOR_CONSENT}:{account.tenant}")
    elif account.tenant is not None:
        limit = _give(account, account.tenant, found, facts, now)
    if found.state in STOPPING and limit is not None:
        # Nobody says when they are used up.
        found = replace(found, until=now + TOPUPS_AGE)
    _note(account, replace(found, reasons=(*found.reasons, *sorted(wrong))), limit, now)
    return found


def _has_begun(facts: mirror.Facts) -> bool:
    """Whether a subscription was ever paid for, if with credit or a coupon, or tried. Nobody is stopped, nor given the
    free tier's limit in place of what holds, for one that never began."""
    return any(invoice.subscription_id and invoice.status == "paid" for invoice in facts.invoices) or any(
        sub.trial_ends_at is not None and sub.status not in NEVER_BEGAN for sub in facts.subscriptions.values()
    )


def _give(
    account: BillingAccount, tenant: Tenant, found: Entitlement, facts: mirror.Facts, now: datetime
) -> Limit | None:
    """Bring the tenant to what its customer has come to; the limit of its window, where it has one."""
    limit = None
    if found.state in (*STOPPING, EntitlementState.FREE) and not account.has_begun:
        if found.state != EntitlementState.SUSPENDED:
            budget_windows.let_go(account, tenant, facts, now=now)
            purchases.count_without_window(account, tenant, now=now)
        return None
    for product_id, subscription_id in found.trials.items():
        Trial.objects.get_or_create(tenant=tenant, product_id=product_id, defaults={"subscription_id": subscription_id})
    if found.period is not None and found.state in SPENDABLE:
        limit = budget_windows.apply(account, tenant, found, facts, now=now)
    elif found.state == EntitlementState.PENDING:
        budget_windows.hold_back(tenant, now=now)
        limit = budget_windows.end_spending(account, tenant, found, facts, now=now)
    elif found.state == EntitlementState.NONE:
        purchases.count_without_window(account, tenant, now=now)
    elif purchases.has_any(account, tenant):
        ended = budget_windows.end_spending(account, tenant, found, facts, now=now)
        limit = ended if ended is not None and ended.left_nanos else None
    _set_tenant_status(tenant, found, now, stops=found.state in STOPPING and limit is None)
    return limit


@ledger.run_again
def override(*, account: BillingAccount, limit_nanos: int | None, by: Actor, now: datetime) -> None:
    """An operator's own limit for the tenant, in place of the plan's; None returns to the plan. Raises OverBound."""
    money.refuse_beyond("limit_override", limit_nanos or 0, most=money.MAX_LIMIT_NANOS)
    with transaction.atomic():
        account = binding.locked(account.stripe_customer_id)
        old, account.limit_override_nanos = account.limit_override_nanos, limit_nanos
        account.save(update_fields=["limit_override_nanos"])
        audit.record(
            action="billing.override",
            target=f"customer {account}",
            by=by,
            now=now,
            old={"limit_nanos": old},
            new={"limit_nanos": limit_nanos},
        )
        apply(account, now=now, by_operator=True)


def look_again(entry: objects.Object, *, now: datetime) -> None:
    """Have customers looked at again, each in a transaction of its own, whom news of a price or product may concern.

    Their price's limit comes from less than such metadata; or they bought something once that sells a top-up now.
    """
    kind, id = mirror.kind_of(entry), objects.text(entry.get("id"))
    level, prices = Level.PRICE_METADATA, {id}
    if kind == CatalogEntry.Kind.PRODUCT:
        level, prices = Level.PRODUCT_METADATA, mirror.prices_of(id)
    rows = BillingAccount.objects.exclude(kept_values={}).values_list("pk", "kept_values")
    known = ((pk, key.split()[-1], value) for pk, values in rows.iterator() for key, value in values.items())
    found = {pk for pk, price, value in known if price in prices and value[0] < level}
    if TOPUP_KEY in objects.mapping(entry.get("metadata")):
        found |= mirror.buyers_of({id, *prices})
    locked = BillingAccount.objects.select_for_update().filter(pk__in=found).order_by("pk")
    BillingAccount.objects.filter(pk__in=list(locked.values_list("pk", flat=True))).update(due_at=now)


def _entitlement(account: BillingAccount, facts: mirror.Facts, *, now: datetime, kept: Kept) -> Entitlement:
    if account.deleted_at is not None:
        return closed(policy=policy.current(), now=now, reasons=("customer_deleted",))
    tried = Trial.objects.filter(tenant=account.tenant).values_list("product_id", "subscription_id")
    return entitle(
        subscriptions=list(facts.subscriptions.values()),
        invoices=facts.invoices,
        plans=policy.plan_rules(),
        override_nanos=account.limit_override_nanos,
        kept=kept,
        trials_used=dict(tried) if account.tenant_id else {},
        now=now,
        policy=policy.current(),
        refunds=facts.refunds,
    )


def _set_tenant_status(tenant: Tenant, found: Entitlement, now: datetime, *, stops: bool) -> None:
    """Suspend or take back; a tenant that an operator paused stays paused."""
    status = Tenant.Status
    if stops:
        old, new = status.ACTIVE, status.SUSPENDED
    elif found.state in (*LIVE, *STOPPING):
        old, new = status.SUSPENDED, status.ACTIVE
    else:
        return
    if Tenant.objects.filter(pk=tenant.pk, status=old).update(status=new):
        tenant.status = new
        audit.record(
            action="tenant.suspend" if new == status.SUSPENDED else "tenant.unsuspend",
            target=f"tenant {tenant}",
            by=STRIPE,
            now=now,
            reason=", ".join(found.reasons) or str(found.state),
            old={"status": old.value},
            new={"status": new.value},
        )


def _note(account: BillingAccount, found: Entitlement, limit: Limit | None, now: datetime) -> None:
    reasons = list(found.reasons)
    if limit is not None and limit.owed_nanos:
        reasons.append(f"owed:{money.format_dollars(limit.owed_nanos)}")
    if limit is not None and limit.topups_nanos:
        reasons.append(f"topups:{money.format_dollars(limit.topups_nanos)}")
    if account.tenant is None:
        reasons.append(binding.why_unbound(account, state=found.state.value))
    elif binding.names_another(account):
        reasons.append(f"names_another_tenant:{account.claimed_tenant}")
    reason_alerts.tell(account, reasons, now=now)
    account.state, account.plan = found.state.value, found.plan[:200]
    account.limit_nanos, account.subscription_id = found.limit_nanos or None, found.subscription_id
    if limit is not None and found.state == EntitlementState.FROZEN:
        account.limit_nanos = max(1, limit.nanos)
    account.period_start = found.period.starts_at if found.period else None
    account.period_end = found.period.ends_at if found.period else None
    account.due_at = found.until if found.until and found.until > now else None
    account.reasons = reasons
    account.kept_values = {key: list(value) for key, value in sorted(found.kept.items())}
    account.save(
        update_fields=[
            "state",
            "plan",
            "limit_nanos",
            "subscription_id",
            "period_start",
            "period_end",
            "due_at",
            "reasons",
            "kept_values",
            "window_start",
            "has_begun",
            "fetched_at",
            "written",
            "deleted_at",
            "read_digest",
        ]
    )


def _keep(account: BillingAccount, reading: Reading, now: datetime) -> None:
    snapshot = reading.snapshot
    version = mirror.version_of_reading(reading.number, now)
    account.fetched_at, account.written = now, reading.number
    account.deleted_at = (account.deleted_at or now) if snapshot.customer.get("deleted") else None
    mirror.take_read(
        account,
        subscriptions=snapshot.subscriptions,
        invoices=snapshot.invoices,
        payments=snapshot.payments or (),
        catalog=reading.products,
        version=version,
        now=now,
    )
    # Of several subscriptions that name a tenant each the first one.
    begun = sorted(
        snapshot.subscriptions, key=lambda one: (objects.whole(one.get("created")), objects.text(one.get("id")))
    )
    for data in (snapshot.customer, *begun):
        binding.claim(account=account, data=data, now=now)


def _products(snapshot: client.CustomerSnapshot, now: datetime) -> tuple[client.Fetched, ...]:
    """Products of the customer's prices that are not known yet; of what it is subscribed to, or not lately."""
    items = (item for data in snapshot.subscriptions for item in objects.subscription(data).items)
    subscribed = {item.price.product_id for item in items}
    ids = (subscribed | {line.price.product_id for line in _bought(snapshot)}) - {""}
    known = CatalogEntry.objects.filter(stripe_id__in=ids)
    stale = Q(stripe_id__in=subscribed, updated_at__lte=now - CATALOG_AGE)
    missing = ids - set(known.exclude(stale).values_list("stripe_id", flat=True))
    return (*_prices(snapshot), *client.products(sorted(missing)))


def _prices(snapshot: client.CustomerSnapshot) -> Iterator[client.Fetched]:
    """Prices that invoices name by their id alone, and that are not known yet."""
    known = {item.price.id for data in snapshot.subscriptions for item in objects.subscription(data).items}
    ids = {line.price.id for line in _bought(snapshot)} - known - {""}
    for id in sorted(ids - set(CatalogEntry.objects.filter(stripe_id__in=ids).values_list("stripe_id", flat=True))):
        yield client.price(id)


def _bought(snapshot: client.CustomerSnapshot) -> Iterator[objects.Line]:
    for data in snapshot.invoices:
        yield from objects.invoice(data).lines
