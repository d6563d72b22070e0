"""What Stripe said last: subscriptions, invoices, payments and what became of them, prices and products.

With an API key the rows are what was just fetched. Without one the events' own objects stand in, and an older event
never overwrites a newer one: versions order what events say of one object in the same way whatever order they come in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from django.db import IntegrityError, transaction
from django.db.models import Q

from billing.models import BillingAccount, CatalogEntry, Invoice, Mirrored, Payment, StripeEvent, Subscription
from billing.rules import refunds
from billing.rules.refunds import Known, Refund
from billing.stripe_api import objects

Row = TypeVar("Row", bound=Mirrored)
# Price or product id -> what is kept of it; empty where nothing is.
Catalog = dict[str, dict[str, Any]]

# Events of one second tell their order by what they are about: nothing is updated before it is created.
TYPE_RANKS = {"created": 1, "deleted": 9}
USUAL_RANK = 5
STATUS_RANKS = {
    "draft": 1,
    "incomplete": 1,
    "trialing": 2,
    "open": 2,
    "active": 3,
    "past_due": 4,
    "unpaid": 5,
    "uncollectible": 5,
    "paused": 5,
    "void": 6,
    "paid": 7,
    "canceled": 8,
    "incomplete_expired": 8,
}
# A fetched object is newer than all events of its second.
FETCHED = "99"


@dataclass(frozen=True, slots=True)
class Facts:
    """A customer's subscriptions by id, its invoices that are paid or may be, and what became of their payments."""

    subscriptions: Mapping[str, objects.StripeSubscription]
    invoices: Sequence[objects.StripeInvoice]
    payments: Sequence[Known]
    refunds: Mapping[str, Refund]


def version_of(event: StripeEvent) -> str:
    """Sorts as text: Stripe's second, the kind of event, the object's status and period, then the event's id."""
    data = event.object
    kind = TYPE_RANKS.get(event.type.rsplit(".", 1)[-1], USUAL_RANK)
    status = STATUS_RANKS.get(objects.text(data.get("status")), 0)
    starts = [item.starts_at for item in objects.subscription(data).items if item.starts_at]
    period = int(max(starts).timestamp()) if starts else 0
    return f"{event.created:012d}.{kind:02d}.{status:02d}.{period:012d}.{event.event_id}"


def version_of_reading(number: int, now: datetime) -> str:
    return f"{int(now.timestamp()):012d}.{FETCHED}.{number:012d}"


def take_subscription(
    account: BillingAccount, data: Mapping[str, Any], *, version: str, now: datetime, force: bool = False
) -> bool:
    """Keep a subscription unless what is kept is newer; whether it was kept. `force`: it was just fetched."""
    read = objects.subscription(data)
    # The prices of its items are told in full here, and only by their ids on invoices.
    for item in objects.members(data.get("items")):
        for price in (item.get("price"), item.get("plan")):
            if objects.text(objects.mapping(price).get("id")):
                take_catalog(objects.mapping(price), version=version, now=now)
    return bool(read.id) and _take(
        Subscription,
        read.id,
        data,
        version=version,
        now=now,
        force=force,
        account=account,
        status=read.status[:30],
    )


def take_invoice(
    account: BillingAccount, data: Mapping[str, Any], *, version: str, now: datetime, force: bool = False
) -> bool:
    """Keep an invoice unless what is kept is newer; whether it was kept. `force`: it was just fetched."""
    read = objects.invoice(data)
    return bool(read.id) and _take(
        Invoice,
        read.id,
        data,
        version=version,
        now=now,
        force=force,
        account=account,
        status=read.status[:30],
        subscription_id=read.subscription_id,
        billing_reason=read.billing_reason[:40],
    )


def take_payment(
    account: BillingAccount | None, data: Mapping[str, Any], *, version: str, now: datetime, force: bool = False
) -> bool:
    """Keep a charge, refund, dispute or credit note unless what is kept is newer; whether it was kept."""
    read = objects.payment(data)
    if not read.id or read.kind not in objects.PAYMENTS:
        return False
    known = {} if account is None else {"account": account}
    return _take(
        Payment,
        read.id,
        data,
        version=version,
        now=now,
        force=force,
        kind=read.kind,
        charge_id=read.charge_id,
        intent_id=read.intent_id,
        invoice_id=read.invoice_id,
        **known,
    )


def payer_of(data: Mapping[str, Any]) -> str:
    """The customer whose payment an object is about, as far as what is kept tells; empty where it does not."""
    read = objects.payment(data)
    rows = Payment.objects.filter(account__isnull=False).filter(_about(read.charge_id, read.intent_id))
    if (found := rows.values_list("account__stripe_customer_id", flat=True).first()) is not None:
        return str(found)
    if read.invoice_id:
        owner = Invoice.objects.filter(stripe_id=read.invoice_id)
        return str(owner.values_list("account__stripe_customer_id", flat=True).first() or "")
    # Older invoices name their charge and payment intent.
    for field, id in (("charge", read.charge_id), ("payment_intent", read.intent_id)):
        owner = Invoice.objects.filter(**{f"data__{field}": id}) if id else Invoice.objects.none()
        if (found := owner.values_list("account__stripe_customer_id", flat=True).first()) is not None:
            return str(found)
    return ""


def known_object(id: str) -> dict[str, Any]:
    """What is kept of one of Stripe's objects; empty where nothing is."""
    for model in (Subscription, Invoice, Payment, CatalogEntry):
        if found := model._default_manager.filter(stripe_id=id).values_list("data", flat=True).first():
            return dict(found)
    is_customer = BillingAccount.objects.filter(stripe_customer_id=id).exists()
    return {"id": id, "object": "customer"} if is_customer else {}


def take_catalog(data: Mapping[str, Any], *, version: str, now: datetime, force: bool = False) -> bool:
    """Keep a price, plan or product unless what is kept is newer; whether it was kept."""
    kind = kind_of(data)
    id = objects.text(data.get("id"))
    if not id:
        return False
    taken = _take(CatalogEntry, id, data, version=version, now=now, force=force, kind=kind)
    if key := objects.text(data.get("lookup_key"))[:255]:
        # Of several keys the first, in whatever order they are heard of.
        earlier = Q(sold_as="") | Q(sold_as_version__gt=version)
        CatalogEntry.objects.filter(earlier, stripe_id=id).update(sold_as=key, sold_as_version=version)
    return taken


def kind_of(data: Mapping[str, Any]) -> str:
    return CatalogEntry.Kind.PRODUCT if data.get("object") == "product" else CatalogEntry.Kind.PRICE


def subscriptions(account: BillingAccount) -> list[objects.StripeSubscription]:
    known: Catalog = {}
    return [objects.subscription(with_catalog(row.data, known)) for row in account.subscriptions.order_by("stripe_id")]


def invoices(account: BillingAccount) -> list[objects.StripeInvoice]:
    rows = account.invoices.filter(status__in=("paid", "open")).order_by("stripe_id")
    # The same few prices are on all of them: each is looked up once.
    known: Catalog = {}
    return [objects.invoice(with_catalog(row.data, known)) for row in rows]


def facts(account: BillingAccount) -> Facts:
    paid = invoices(account)
    known = payments(account, paid)
    return Facts({one.id: one for one in subscriptions(account)}, paid, known, refunds.of_invoices(paid, known))


def payments(account: BillingAccount, paid: Sequence[objects.StripeInvoice]) -> list[Known]:
    """What is known of the payments of a customer's invoices, also where it came before anybody knew whose it was."""
    names = {name for invoice in paid for name in invoice.payments}
    known = list(account.payments.values_list("charge_id", "intent_id"))
    names |= {name for pair in known for name in pair if name}
    ids = {invoice.id for invoice in paid}
    rows = Payment.objects.filter(
        Q(account=account) | Q(charge_id__in=names) | Q(intent_id__in=names) | Q(invoice_id__in=ids)
    )
    return [Known(objects.payment(row.data), int(row.version.split(".", 1)[0])) for row in rows.order_by("stripe_id")]


def _about(charge_id: str, intent_id: str) -> Q:
    found = Q(pk__in=[])
    if charge_id:
        found |= Q(charge_id=charge_id)
    return found | Q(intent_id=intent_id) if intent_id else found


def with_catalog(data: Mapping[str, Any], known: Catalog | None = None) -> dict[str, Any]:
    """A subscription or invoice whose prices carry their own and their product's metadata, as last seen.

    `known` keeps what was looked up for the next object.
    """
    known = {} if known is None else known
    found = dict(data)
    for name in ("items", "lines"):
        if name in found:
            found[name] = [_with_price(dict(member), known) for member in objects.members(found[name])]
    return found


def _with_price(member: dict[str, Any], catalog: Catalog) -> dict[str, Any]:
    details = objects.mapping(objects.mapping(member.get("pricing")).get("price_details"))
    embedded = details.get("price") or member.get("price") or member.get("plan")
    price: dict[str, Any] = {"id": embedded} if isinstance(embedded, str) else dict(objects.mapping(embedded))
    if not price:
        return member
    known = _known(objects.text(price.get("id")), catalog)
    price = price | known
    product = price.get("product") or details.get("product")
    product_id = objects.identifier(product)
    price["product"] = {**objects.mapping(product), "id": product_id, **_known(product_id, catalog)}
    member.pop("pricing", None)
    # Older shapes mark a subscription's lines by having a plan at all.
    slot = "plan" if "plan" in member and "price" not in member else "price"
    member[slot] = price
    return member


def _known(id: str, catalog: Catalog) -> dict[str, Any]:
    if id not in catalog:
        row = CatalogEntry.objects.filter(stripe_id=id).first() if id else None
        catalog[id] = dict(row.data) if row else {}
        if row and row.sold_as:
            catalog[id]["lookup_key"] = objects.text(row.data.get("lookup_key")) or row.sold_as
    return catalog[id]


def _take(
    model: type[Row],
    id: str,
    data: Mapping[str, Any],
    *,
    version: str,
    now: datetime,
    force: bool,
    **columns: Any,
) -> bool:
    values = {"data": dict(data), "version": version, "updated_at": now, **columns}
    row = model._default_manager.select_for_update().filter(stripe_id=id).first()
    if row is None:
        try:
            with transaction.atomic():
                model._default_manager.create(stripe_id=id, **values)
            return True
        except IntegrityError:
            # Another worker made it at this moment; only catalog entries are shared between customers.
            row = model._default_manager.select_for_update().get(stripe_id=id)
    if row.version >= version and not force:
        return False
    for name, value in values.items():
        setattr(row, name, value)
    row.save()
    return True
