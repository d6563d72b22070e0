"""Whose windows the ledger says something else of than when they were looked at last. Stripe need not be asked."""

from __future__ import annotations

from django.db.models import F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from billing.accounts import budget_windows
from billing.models import BillingPeriod
from governance.models import BudgetWindow
from governance.queries import holds
from governance.queries.sums import LongSum


def changed() -> list[str]:
    """The customers of windows whose limit counts something as used, or waits for calls that are under way, where by
    now less is used, or one of these has ended; and those of whose windows that are over the ledger says something else
    by now, as where an operator has corrected a charge."""
    windows = BudgetWindow.objects.filter(tenant=OuterRef("tenant"), source_kind=budget_windows.SOURCE).order_by()
    over = windows.filter(starts_at__lt=OuterRef("starts_at")).values("tenant").annotate(nanos=LongSum("settled_nanos"))
    rows = BillingPeriod.objects.filter(account__window_start=F("starts_at"), account__tenant=F("tenant"))
    rows = rows.annotate(
        used=Subquery(windows.filter(closed_at=None).values("settled_nanos")[:1]),
        # Where it is not known how that was, or there are none, nothing.
        since_then=Coalesce(Subquery(over.values("nanos")) - F("past_nanos"), 0),
    )
    found = [
        row
        for row in rows.filter(Q(seen_nanos__isnull=False) | ~Q(since_then=0)).select_related("account")
        if row.since_then
        or (row.used is not None and row.used < (row.seen_nanos or 0))
        or holds.ended([id for ids, _ in row.held for id in ids])
    ]
    # Of one that is not to be spent any more nothing will be seen again.
    BillingPeriod.objects.filter(pk__in=[row.pk for row in found]).update(seen_nanos=None, past_nanos=None)
    return [row.account.stripe_customer_id for row in found]
