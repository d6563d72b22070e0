"""Top-ups: budget bought in addition, once for each paid invoice line whose price says `llm_topup_usd`.

A checkout that makes no invoice counts by itself. A top-up counts from the first window that is open after it is
paid. What becomes of an unused rest is policy: it rolls over until it is used, or goes with the window.

A tenant without a subscription has it in the windows that are open then, those of its own or of the default budget: an
allowance of the ledger's each, of which its first subscription takes over what is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from math import floor
from typing import cast

from django.conf import settings
from django.db.models import Q, QuerySet

from billing.accounts import past_windows
from billing.accounts.binding import STRIPE
from billing.models import BillingAccount, TopUp
from billing.rules import balance
from billing.rules.credits import paid_with
from billing.rules.refunds import Known, Refund, RefundKind, of_intent, taken_back
from billing.rules.valuation import TOPUP_KEY, read_amount, topup_nanos
from billing.stripe_api import objects
from billing.stripe_api.objects import StripeInvoice
from governance import ledger
from governance.actions import allowances
from governance.models import Allowance, BudgetWindow, ScopeType, Tenant
from governance.queries import budget_status, holds
from governance.rules import money
from governance.rules.windows import WindowKind

NOT_REFUNDED = Refund(RefundKind.NONE)


def note(
    account: BillingAccount,
    invoices: Sequence[StripeInvoice],
    refunds: Mapping[str, Refund],
    payments: Sequence[Known],
    *,
    now: datetime,
) -> set[str]:
    """Keep the top-ups that invoices sell, and what was refunded of those known; reasons why one is none."""
    reasons: set[str] = set()
    known = {row.key: row for row in TopUp.objects.filter(account=account)}
    for invoice in invoices:
        for key, nanos in _sold(invoice, reasons):
            if key not in known:
                known[key] = TopUp.objects.create(
                    key=key, account=account, amount_nanos=nanos, invoice_id=invoice.id, noted_at=now
                )
            _note_credit(known[key], invoice)
    of_lines = _taken_back(known, invoices, refunds)
    for key, row in known.items():
        refund = _gone(row, refunds, payments)
        # What a note gave back of its line is in no dispute.
        lost = refund.undone.lost_in_dispute * (1 - refund.lines.get(key, Fraction(0)))
        _refund(row, of_lines.get(key, refund.gone), lost)
    return reasons


def note_checkout(account: BillingAccount, data: objects.Object, *, now: datetime) -> None:
    """Keep the top-up that a paid checkout without an invoice sells, by its lines' prices or its own metadata."""
    session = objects.checkout(data)
    if nanos := sold_by(session):
        TopUp.objects.get_or_create(
            key=session.id,
            defaults={"account": account, "amount_nanos": nanos, "intent_id": session.intent_id, "noted_at": now},
        )


def sold_by(session: objects.Checkout) -> int:
    """What a checkout adds to a budget, in nanodollars: 0 where it is not paid, or has an invoice that says it."""
    if session.mode != "payment" or not session.paid or session.invoiced or not session.id:
        return 0
    reasons: set[str] = set()
    lines = sum((topup_nanos(line.price, reasons) or 0) * line.price.sold(line.quantity) for line in session.lines)
    return min(money.MAX_LIMIT_NANOS, lines or read_amount(session.metadata, TOPUP_KEY, reasons) or 0)


def take_back(row: TopUp, payments: Sequence[Known]) -> None:
    """Keep what was refunded of a checkout's top-up, or is in dispute."""
    refund = of_intent(row.intent_id, payments)
    _refund(row, refund.gone, refund.undone.lost_in_dispute)


def of_tenant(account: BillingAccount, tenant: Tenant, *, now: datetime) -> list[balance.Purchase]:
    """The tenant's top-ups that count in its windows, whoever bought them. `account` is its customer."""
    expires = settings.STRIPE_TOPUPS == "expire"
    rows = (
        TopUp.objects.filter(tenant=tenant, counts_from__isnull=False)
        .order_by("counts_from", "key")
        .select_related("account")
    )
    return [
        balance.Purchase(
            row.key,
            row.counts_from,
            row.amount_nanos,
            row.refunded_nanos,
            expires,
            row.disputed_nanos,
            _used_before(row),
            row.credited_nanos,
            _owed_by_former(row, account, now),
        )
        for row in rows
        if row.counts_from is not None
    ]


def _owed_by_former(row: TopUp, account: BillingAccount, now: datetime) -> int:
    """What another customer owes, that bought a top-up with credit: its debts are with it, and not with the tenant."""
    if not row.credited_nanos or row.account is None or row.account == account:
        return 0
    return past_windows.owed_by(row.account, now=now)


def uncounted(account: BillingAccount, tenant: Tenant, *, now: datetime) -> list[TopUp]:
    """Top-ups that count in no window of a subscription yet, with what was used of them before there was one."""
    rows = list(_bought(account, tenant))
    given = [one for row in rows for one in _given(row)]
    # All of them before any is ended, as they share windows.
    used = {one.pk: [_beyond_others(one), one.amount_nanos, _held(one)] for one in given}
    for row in rows:
        mine = [used[one.pk] for one in given if one.reason == _reason(row)]
        if mine and settings.STRIPE_TOPUPS == "expire":
            row.used_before_nanos = row.amount_nanos
        elif mine:
            row.held_before = {"used": row.used_before_nanos, "windows": mine}
            _used_before(row)
    for one in given:
        # The default budget counts no more beside a subscription's; the tenant's own do.
        if one.budget.tenant_id is None and allowances.state(one, now=now) == allowances.RUNNING:
            allowances.end(allowance=one, by=STRIPE, now=now, reason="counts beside the subscription")
    return rows


def _used_before(row: TopUp) -> int:
    """What was used of a top-up in no window of a subscription: what calls hold there counts until they have ended."""
    if not row.held_before:
        return row.used_before_nanos
    windows = row.held_before["windows"]
    used = (min(most, max(0, beyond + holds.charged(ids))) for beyond, most, ids in windows)
    row.used_before_nanos = min(row.amount_nanos, row.held_before["used"] + max(used))
    if not holds.pending(held_before([row])):
        row.held_before = {}
    if row.counts_from is not None:
        row.save(update_fields=["used_before_nanos", "held_before"])
    return row.used_before_nanos


def held_before(rows: Sequence[TopUp]) -> list[str]:
    """The ids of calls that are under way in windows without a subscription, and may be drawn on these."""
    return sorted({id for row in rows for *_, ids in row.held_before.get("windows", ()) for id in ids})


def has_any(account: BillingAccount, tenant: Tenant) -> bool:
    """Whether the tenant has top-ups, used up or not."""
    return TopUp.objects.filter(_whose(account, tenant)).exists()


def bought_at(account: BillingAccount, tenant: Tenant) -> datetime | None:
    """When the first of the top-ups was heard of that count in no window of a subscription yet."""
    return _bought(account, tenant).values_list("noted_at", flat=True).first()


def count_in(bought: Sequence[TopUp], tenant: Tenant, starts_at: datetime) -> None:
    """Let top-ups count from the window that begins at `starts_at`."""
    for row in bought:
        row.tenant, row.counts_from = tenant, starts_at
        row.save(update_fields=["tenant", "counts_from", "used_before_nanos", "held_before"])


def uncount(account: BillingAccount, tenant: Tenant, drawn: Mapping[str, int], *, now: datetime) -> None:
    """Let the tenant's top-ups count in no window of a subscription any more, less what was `drawn` on each there and
    before, in nanodollars by their keys. `account` is the tenant's, and locked."""
    for row in TopUp.objects.filter(tenant=tenant, counts_from__isnull=False):
        row.used_before_nanos = min(row.amount_nanos, drawn.get(row.key, 0))
        # Windows that begin with it are others from now on.
        row.counts_from, row.noted_at = None, now
        if row.account_id in (account.pk, None):
            # To be given to the windows that are open without one.
            row.tenant = None
        row.save(update_fields=["tenant", "counts_from", "used_before_nanos", "noted_at"])


def count_without_window(account: BillingAccount | None, tenant: Tenant, *, now: datetime) -> None:
    """Add top-ups to the open windows of a tenant that has no subscription, and take back what was refunded of them."""
    windows = budget_status.live(
        BudgetWindow.objects.filter(tenant=tenant, budget__scope_type=ScopeType.TENANT).exclude(
            budget__window=WindowKind.BILLING_CYCLE.value
        ),
        now=now,
    ).select_related("budget")
    bought = list(_bought(account, tenant))
    if not bought:
        return
    # All at once, as a call takes them: `top_up` takes its own, and who holds a budget's windows must wait neither for
    # another's turn nor for a window that comes before.
    subjects = {(window.budget_id, window.subject) for window in windows}
    ledger.lock_windows(*{budget_id for budget_id, _ in subjects}, subjects=subjects)
    found = list(windows.all())
    for row in bought:
        if row.tenant is not None:
            _take_back(row, [one for one in _given(row) if one.window in found], now)
        elif found and _left(row):
            # What an open window has beyond its limit of what was used before is counted there again.
            beyond = (max(0, window.settled_nanos - window.limit_nanos) for window in found)
            row.tenant, row.used_before_nanos = tenant, row.used_before_nanos - min(row.used_before_nanos, *beyond)
            row.save(update_fields=["tenant", "used_before_nanos"])
            for window in found:
                _give(row, window, _left(row), now)


def _whose(account: BillingAccount | None, tenant: Tenant) -> Q:
    """Top-ups for a tenant: bought by its customer, by one that gave it up, or by nobody's checkout that names it."""
    named = Q(account=None, named_tenant=tenant.slug)
    return Q(tenant=tenant) | Q(tenant=None) & (named | Q(account=account) if account else named)


def _bought(account: BillingAccount | None, tenant: Tenant) -> QuerySet[TopUp]:
    """Those that no subscription's window counts."""
    return TopUp.objects.filter(_whose(account, tenant), counts_from=None).order_by("pk")


def _given(row: TopUp) -> list[Allowance]:
    """What windows without a subscription were given of a top-up."""
    if row.tenant_id is None:
        return []
    named = Allowance.objects.filter(window__tenant=row.tenant_id, actor=STRIPE.name, reason=_reason(row))
    return list(named.select_related("budget", "window"))


def _give(row: TopUp, window: BudgetWindow, nanos: int, now: datetime) -> None:
    allowances.top_up(
        budget=window.budget, subject=window.subject, amount_nanos=nanos, reason=_reason(row), by=STRIPE, now=now
    )


def _take_back(row: TopUp, given: Sequence[Allowance], now: datetime) -> None:
    """Leave in open windows what was not refunded, or what is used of it; a refund that failed is given again."""
    for one in given:
        window = cast(BudgetWindow, one.window)
        nanos = max(_used_of(one), _left(row))
        if nanos != one.amount_nanos:
            allowances.end(allowance=one, by=STRIPE, now=now, reason=f"refunded: {row.key}")
            if nanos:
                _give(row, window, nanos, now)


def _left(row: TopUp) -> int:
    """What a top-up comes to in windows without a subscription, in nanodollars."""
    return max(0, row.amount_nanos - row.refunded_nanos - row.used_before_nanos)


def _used_of(allowance: Allowance) -> int:
    """What is used of a top-up in its window: of several the older one first, and after the limit itself."""
    return min(allowance.amount_nanos, max(0, _beyond_others(allowance)))


def _beyond_others(allowance: Allowance) -> int:
    """What is used of its window, calls under way apart, beyond all that comes before a top-up; below 0 where that is
    not used up."""
    window = cast(BudgetWindow, allowance.window)
    later = sum(window.allowances.filter(pk__gte=allowance.pk).values_list("amount_nanos", flat=True))
    return window.settled_nanos - (window.limit_nanos - later)


def _held(allowance: Allowance) -> list[str]:
    window = cast(BudgetWindow, allowance.window)
    return holds.under_way(window) if window.reserved_nanos else []


def _reason(row: TopUp) -> str:
    # What windows were given before a subscription that came to nothing is used, or counts anew.
    less = f", {money.format_dollars(row.used_before_nanos)} used before" if row.used_before_nanos else ""
    return f"top-up {row.key}"[: 300 - len(less)] + less


def _sold(invoice: StripeInvoice, reasons: set[str]) -> Iterator[tuple[str, int]]:
    """The lines of a paid invoice that sell top-ups: the line's id, and nanodollars."""
    if invoice.status != "paid":
        return
    for key, line in _keyed(invoice):
        nanos = None if line.credit or line.proration else topup_nanos(line.price, reasons)
        if nanos and (sold := line.price.sold(line.quantity)):
            yield key, min(money.MAX_LIMIT_NANOS, nanos * sold)


def _keyed(invoice: StripeInvoice) -> Iterator[tuple[str, objects.Line]]:
    """Its lines by the keys of the top-ups that they sell."""
    for number, line in enumerate(invoice.lines):
        yield line.id or f"{invoice.id}/{number}", line


def _taken_back(
    known: Mapping[str, TopUp], invoices: Sequence[StripeInvoice], refunds: Mapping[str, Refund]
) -> dict[str, Fraction]:
    """How much went back of the top-ups that lines of refunded invoices sold, by their keys."""
    found: dict[str, Fraction] = {}
    for invoice in invoices:
        if invoice.id in refunds:
            sold = {key: line for key, line in _keyed(invoice) if key in known}
            found |= zip(sold, taken_back(refunds[invoice.id], invoice, list(sold.values())), strict=True)
    return found


def _gone(row: TopUp, refunds: Mapping[str, Refund], payments: Sequence[Known]) -> Refund:
    return refunds.get(row.invoice_id, NOT_REFUNDED) if row.invoice_id else of_intent(row.intent_id, payments)


def _note_credit(row: TopUp, invoice: StripeInvoice) -> None:
    """What of a top-up was paid with credit, in the amount that it was first seen with."""
    nanos = floor(row.amount_nanos * paid_with(invoice))
    if nanos != row.credited_nanos:
        row.credited_nanos = nanos
        row.save(update_fields=["credited_nanos"])


def _refund(row: TopUp, gone: Fraction, lost: Fraction) -> None:
    """As much of the amount as of the payment went back or is in dispute, and as was lost in one."""
    refunded = floor(row.amount_nanos * gone)
    values = refunded, min(refunded, floor(row.amount_nanos * lost))
    if values != (row.refunded_nanos, row.disputed_nanos):
        row.refunded_nanos, row.disputed_nanos = values
        row.save(update_fields=["refunded_nanos", "disputed_nanos"])
