"""Top-ups: budget bought in addition, once for each paid invoice line whose price says `llm_topup_usd`.

A checkout that makes no invoice counts by itself. A top-up counts from the first window that is open after it is
paid. What becomes of an unused rest is policy: it rolls over until it is used, or goes with the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from django.conf import settings
from django.db.models import Q

from billing.accounts.binding import STRIPE
from billing.models import BillingAccount, TopUp
from billing.rules import balance
from billing.rules.refunds import Known, Refund, RefundKind, of_intent
from billing.rules.valuation import TOPUP_KEY, read_amount, topup_nanos
from billing.stripe_api import objects
from billing.stripe_api.objects import StripeInvoice
from governance import ledger
from governance.actions import allowances
from governance.models import BudgetWindow, ScopeType, Tenant
from governance.queries import budget_status
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
    for row in known.values():
        _refund(
            row, refunds.get(row.invoice_id, NOT_REFUNDED) if row.invoice_id else of_intent(row.intent_id, payments)
        )
    return reasons


def note_checkout(account: BillingAccount, data: objects.Object, *, now: datetime) -> None:
    """Keep the top-up that a paid checkout without an invoice sells, by its lines' prices or its own metadata."""
    session = objects.checkout(data)
    if session.mode != "payment" or not session.paid or session.invoice_id or not session.id:
        return
    reasons: set[str] = set()
    lines = sum((topup_nanos(line.price, reasons) or 0) * line.quantity for line in session.lines)
    nanos = min(money.MAX_LIMIT_NANOS, lines or read_amount(session.metadata, TOPUP_KEY, reasons) or 0)
    if nanos:
        TopUp.objects.get_or_create(
            key=session.id,
            defaults={"account": account, "amount_nanos": nanos, "intent_id": session.intent_id, "noted_at": now},
        )


def of_tenant(tenant: Tenant) -> list[balance.Purchase]:
    """The tenant's top-ups that count in its windows."""
    expires = settings.STRIPE_TOPUPS == "expire"
    return [
        balance.Purchase(row.key, row.counts_from, row.amount_nanos, row.refunded_nanos, expires)
        for row in TopUp.objects.filter(tenant=tenant, counts_from__isnull=False).order_by("counts_from", "key")
        if row.counts_from is not None
    ]


def count_in(account: BillingAccount, tenant: Tenant, starts_at: datetime) -> int:
    """Let top-ups that were bought since count from the window that begins at `starts_at`; how many."""
    new = Q(account=account, counts_from__isnull=True) & (Q(tenant=None) | Q(tenant=tenant))
    return TopUp.objects.filter(new).update(tenant=tenant, counts_from=starts_at)


def count_without_window(account: BillingAccount, tenant: Tenant, *, now: datetime) -> None:
    """Add top-ups to the open windows of a tenant that has no subscription: those of its own or the default budget."""
    windows = budget_status.live(
        BudgetWindow.objects.filter(tenant=tenant, budget__scope_type=ScopeType.TENANT).exclude(
            budget__window=WindowKind.BILLING_CYCLE.value
        ),
        now=now,
    ).select_related("budget")
    bought = list(TopUp.objects.filter(account=account, tenant=None, counts_from__isnull=True, refunded_nanos=0))
    if not bought:
        return
    # All at once, as a call takes them: `top_up` takes its own, and who holds a budget's windows must wait neither for
    # another's turn nor for a window that comes before.
    subjects = {(window.budget_id, window.subject) for window in windows}
    ledger.lock_windows(*{budget_id for budget_id, _ in subjects}, subjects=subjects)
    found = list(windows.all())
    if not found:
        return
    for row in bought:
        row.tenant = tenant
        row.save(update_fields=["tenant"])
        for window in found:
            allowances.top_up(
                budget=window.budget,
                subject=window.subject,
                amount_nanos=row.amount_nanos,
                reason=f"top-up {row.key}"[:300],
                by=STRIPE,
                now=now,
            )


def _sold(invoice: StripeInvoice, reasons: set[str]) -> Iterator[tuple[str, int]]:
    """The lines of a paid invoice that sell top-ups: the line's id, and nanodollars."""
    if invoice.status != "paid":
        return
    for number, line in enumerate(invoice.lines):
        nanos = None if line.credit or line.proration else topup_nanos(line.price, reasons)
        if nanos and line.quantity:
            yield line.id or f"{invoice.id}/{number}", min(money.MAX_LIMIT_NANOS, nanos * line.quantity)


def _refund(row: TopUp, gone: Refund) -> None:
    """As much of the amount as of the payment went back."""
    refunded = 0
    if gone.kind.is_whole:
        refunded = row.amount_nanos
    elif gone.kind == RefundKind.PARTIAL:
        refunded = min(row.amount_nanos, row.amount_nanos * gone.refunded // gone.paid)
    if refunded != row.refunded_nanos:
        row.refunded_nanos = refunded
        row.save(update_fields=["refunded_nanos"])
