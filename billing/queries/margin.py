"""What each tenant pays, beside what its models cost: revenue of the mirror's invoices against the ledger's rollups.

Revenue in dollars and costs make a margin. Other currencies are shown as they are: no rate is invented, and the
margin of a tenant that pays in one is not known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from django.db.models import Exists, OuterRef, Q, QuerySet

from billing.models import BillingAccount, Invoice, Payment
from billing.queries import revenue
from billing.queries.revenue import USD, Bill
from billing.rules import refunds
from billing.rules.refunds import Known, Refund, RefundKind
from billing.stripe_api import objects
from governance.models import SpendRollup, Tenant
from governance.queries.spend import TimeRange
from governance.queries.sums import LongSum

# Rows that are held at a time.
CHUNK = 200
WORST = 5
ALWAYS = TimeRange()
UNTOUCHED = Refund(RefundKind.NONE)


@dataclass(frozen=True, slots=True)
class Margin:
    """A tenant's period, in nanodollars. `other` maps each other currency to nano-units of it.

    `account_id`: the customer that pays for it, of which there may be none.
    """

    tenant: str
    plan: str
    state: str
    revenue_nanos: int
    cost_nanos: int
    other: Mapping[str, int] = field(default_factory=dict)
    tenant_id: int | None = None
    account_id: int | None = None

    @property
    def margin_nanos(self) -> int | None:
        """None where a part of the revenue is in another currency."""
        return None if self.other else self.revenue_nanos - self.cost_nanos

    @property
    def margin_e4(self) -> int | None:
        """Ten-thousandths of the revenue; None without any."""
        if self.margin_nanos is None or self.revenue_nanos <= 0:
            return None
        return self.margin_nanos * 10_000 // self.revenue_nanos


def tenants(**where: str) -> QuerySet[Tenant]:
    """Those that pay or spend, newest first; `slug` names one."""
    pays = Exists(BillingAccount.objects.filter(tenant=OuterRef("pk")))
    spends = Exists(SpendRollup.objects.filter(tenant=OuterRef("pk")))
    return Tenant.objects.filter(pays | spends, **where).order_by("-id")


def of(some: Sequence[Tenant], *, period: TimeRange = ALWAYS) -> list[Margin]:
    """The margins of some tenants, in their order; a handful of queries however many they are."""
    return _margins(some, Q(tenant__in=some), period, are_all=False)


def every(*, period: TimeRange = ALWAYS, **where: str) -> list[Margin]:
    """As few queries: of all tenants the tables are read whole, as no database takes the names of so many."""
    if where:
        return of(list(tenants(**where)), period=period)
    return _margins(tenants(), Q(tenant__isnull=False), period, are_all=True)


def worst(*, period: TimeRange = ALWAYS, count: int = WORST, **where: str) -> list[Margin]:
    """The tenants that cost most beyond what they pay, the worst first; those without a known margin are left out."""
    rows = every(period=period, **where)
    known = [(one.margin_nanos, one.tenant, one) for one in rows if one.margin_nanos is not None]
    return [one for _, _, one in sorted(known, key=lambda row: row[:2])[:count]]


def _margins(some: Iterable[Tenant], whose: Q, period: TimeRange, *, are_all: bool) -> list[Margin]:
    """`whose`: which accounts and sums are of these tenants."""
    accounts = {account.tenant_id: account for account in BillingAccount.objects.filter(whose)}
    bills = _bills(BillingAccount.objects.filter(whose), are_all=are_all)
    costs = _costs(whose, period)
    return [_margin(tenant, accounts.get(tenant.pk), bills, costs.get(tenant.pk, 0), period) for tenant in some]


def _margin(
    tenant: Tenant, account: BillingAccount | None, bills: Mapping[int, list[Bill]], cost_nanos: int, period: TimeRange
) -> Margin:
    paid = bills.get(account.pk, []) if account else []
    sums = revenue.total(paid, period.starts_at, period.ends_at)
    return Margin(
        tenant=tenant.slug,
        plan=account.plan if account else "",
        state=account.state if account else BillingAccount.State.NONE.value,
        revenue_nanos=sums.pop(USD, 0),
        cost_nanos=cost_nanos,
        other=sums,
        tenant_id=tenant.pk,
        account_id=account.pk if account else None,
    )


def _costs(where: Q, period: TimeRange) -> dict[int, int]:
    """Tenant -> settled nanodollars of the hours that begin in the period."""
    rows = SpendRollup.objects.filter(where, period.on("hour")).values("tenant_id")
    return {row["tenant_id"]: row["sum"] for row in rows.annotate(sum=LongSum("cost_nanos")).order_by()}


def _bills(accounts: QuerySet[BillingAccount], *, are_all: bool) -> dict[int, list[Bill]]:
    """Account -> what its paid invoices brought in."""
    paid = Invoice.objects.filter(account__in=accounts, status="paid").order_by("account_id", "stripe_id")

    def rows() -> Iterable[Invoice]:
        # All there are would be too much to hold: they are read twice, a part at a time.
        return paid.iterator(chunk_size=CHUNK) if are_all else paid

    payments = _payments(rows(), are_all=are_all)
    found: dict[int, list[Bill]] = {}
    for account_id, group in groupby(rows(), key=lambda row: row.account_id):
        invoices = list(group)
        read = [objects.invoice(row.data) for row in invoices]
        gone = refunds.of_invoices(read, payments.get(account_id, []), {})
        found[account_id] = [revenue.bill(row.data, gone.get(row.stripe_id, UNTOUCHED)) for row in invoices]
    return found


def _payments(invoices: Iterable[Invoice], *, are_all: bool) -> dict[int, list[Known]]:
    """Account -> charges, refunds, disputes and credit notes, also those that name no customer but an invoice of it."""
    owner: dict[str, int] = {}
    for row in invoices:
        owner.update(dict.fromkeys((row.stripe_id, *objects.invoice(row.data).payments), row.account_id))
    names = [*owner]
    named = Q(invoice_id__in=names) | Q(charge_id__in=names) | Q(intent_id__in=names)
    of_these = Q() if are_all else Q(account__in=set(owner.values())) | named
    found: dict[int, list[Known]] = defaultdict(list)
    for payment in Payment.objects.filter(of_these).order_by("stripe_id").iterator(chunk_size=CHUNK):
        ids = (payment.invoice_id, payment.charge_id, payment.intent_id)
        payer = payment.account_id or next((owner[name] for name in ids if name in owner), None)
        if payer is not None:
            found[payer].append(Known(objects.payment(payment.data), int(payment.version.split(".", 1)[0])))
    return found
