"""Whose windows the ledger says something else of than when they were looked at last. Stripe need not be asked."""

from __future__ import annotations

from django.db.models import F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from billing.accounts import past_windows
from billing.models import BillingPeriod
from governance.models import BudgetWindow
from governance.queries import holds
from governance.queries.sums import LongSum


def changed() -> list[str]:
    """The customers in whose windows less is used by now, or a call has ended that something waits for; and those of
    whose windows that are over the ledger says something else, as where an operator has corrected a charge."""
    windows = BudgetWindow.objects.filter(tenant=OuterRef("tenant"), source_kind=past_windows.SOURCE).order_by()
    over = windows.filter(starts_at__lt=OuterRef("starts_at")).values("tenant").annotate(nanos=LongSum("settled_nanos"))
    rows = BillingPeriod.objects.filter(account__window_start=F("starts_at"), account__tenant=F("tenant")).annotate(
        used=Subquery(windows.filter(closed_at=None).values("settled_nanos")[:1]),
        # Where it is not known how that was, or there are none, nothing.
        since_then=Coalesce(Subquery(over.values("nanos")) - F("past_nanos"), 0),
    )
    waits = Q(seen_nanos__isnull=False) & ~Q(held=[])
    found = rows.filter(Q(used__lt=F("seen_nanos")) | ~Q(since_then=0) | waits).select_related("account")
    return [
        row.account.stripe_customer_id
        for row in found
        if row.since_then
        or (row.used is not None and row.used < (row.seen_nanos or 0))
        or holds.ended([id for ids, *_ in row.held for id in ids])
    ]


def heard(customer_id: str) -> None:
    """What the ledger says of a customer's windows is heard: of what is not to be spent any more nothing will be seen
    again. To be called before the customer is written, which notes what it sees."""
    rows = BillingPeriod.objects.filter(account__stripe_customer_id=customer_id, account__window_start=F("starts_at"))
    rows.update(seen_nanos=None, past_nanos=None)
