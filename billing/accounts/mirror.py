"""What Stripe said last: subscriptions, invoices, payments and what became of them, prices and products.

With an API key the rows are what was just fetched. Without one the events' own objects stand in, and an older event
never overwrites a newer one: versions order what events say of one object in the same way whatever order they come in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from django.db import IntegrityError, transaction
from django.db.models import Q

from billing.models import (
    BillingAccount,
    BillingPeriod,
    CatalogEntry,
    Invoice,
    Mirrored,
    Payment,
    StripeEvent,
    Subscription,
    TopUp,
)
from billing.rules import standing
from billing.rules.refunds import Known, Refund
from billing.stripe_api import objects

Row = TypeVar("Row", bound=Mirrored)
# Price or product id -> what is kept of it; empty where nothing is.
Catalog = dict[str, dict[str, Any]]
Columns = dict[str, Any]

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
    "failed": 8,
    "canceled": 8,
    "incomplete_expired": 8,
}
# A fetched object is newer than all events of its second, unless one says that the object went on since.
FETCHED = "99"


@dataclass(frozen=True, slots=True)
class Facts:
    """A customer's subscriptions by id, its invoices that are paid or may be, and what became of their payments."""

    subscriptions: Mapping[str, objects.StripeSubscription]
    invoices: Sequence[objects.StripeInvoice]
    payments: Sequence[Known]
    refunds: Mapping[str, Refund]


def version_of(event: StripeEvent) -> str:
    """Sorts as text: Stripe's second, the kind of event, how far the object is, then the event's id."""
    kind = TYPE_RANKS.get(event.type.rsplit(".", 1)[-1], USUAL_RANK)
    status, reached = _progress(event.object)
    return f"{event.created:012d}.{kind:02d}.{status:02d}.{reached:012d}.{event.event_id}"


def _progress(data: Mapping[str, Any]) -> tuple[int, int]:
    """How far an object is: its status, and within that the period it is in, or what of a charge was refunded."""
    status = STATUS_RANKS.get(objects.text(data.get("status")), 0)
    starts = [item.starts_at for item in objects.subscription(data).items if item.starts_at]
    return status, int(max(starts).timestamp()) if starts else objects.whole(data.get("amount_refunded"))


def version_of_reading(number: int, now: datetime) -> str:
    return f"{int(now.timestamp()):012d}.{FETCHED}.{number:012d}"


def take_subscription(account: BillingAccount, data: Mapping[str, Any], *, version: str, now: datetime) -> bool:
    """Keep a subscription unless what is kept is newer; whether it was kept."""
    for price in _told_prices(data):
        take_catalog(price, version=version, now=now)
    read = objects.subscription(data)
    columns: Columns = {"account": account, "status": read.status[:30]}
    return bool(read.id) and _take(Subscription, read.id, data, version=version, now=now, **columns)


def take_invoice(account: BillingAccount, data: Mapping[str, Any], *, version: str, now: datetime) -> bool:
    """Keep an invoice unless what is kept is newer; whether it was kept."""
    id, columns = _of_invoice(data)
    return bool(id) and _take(Invoice, id, data, version=version, now=now, account=account, **columns)


def take_payment(account: BillingAccount | None, data: Mapping[str, Any], *, version: str, now: datetime) -> bool:
    """Keep a charge, refund, dispute or credit note unless what is kept is newer; whether it was kept."""
    id, columns = _of_payment(data)
    if account is not None:
        columns["account"] = account
    return bool(id) and _take(Payment, id, data, version=version, now=now, **columns)


def take_read(
    account: BillingAccount,
    *,
    subscriptions: Sequence[Mapping[str, Any]],
    invoices: Sequence[Mapping[str, Any]],
    payments: Sequence[Mapping[str, Any]],
    catalog: Sequence[Mapping[str, Any]],
    version: str,
    now: datetime,
) -> None:
    """Keep what was just read of a customer, in a few queries however much it is: nothing that is kept is newer."""
    prices = [price for data in subscriptions for price in _told_prices(data)]
    _take_whole_catalog([*prices, *catalog], version=version, now=now)
    read = {data["id"]: (data, {"status": objects.text(data.get("status"))[:30]}) for data in subscriptions}
    is_news = [
        _take_all(Subscription, read, account=account, version=version, now=now),
        _take_all(Invoice, _by_id(invoices, _of_invoice), account=account, version=version, now=now),
        _take_all(Payment, _by_id(payments, _of_payment), account=account, version=version, now=now),
    ]
    if any(is_news):
        _tell_heirs(account, now)


def _tell_heirs(account: BillingAccount, now: datetime) -> None:
    """Have those computed anew who have a tenant that this customer paid for, or bought something for, before them:
    what stands of that counts for theirs."""
    paid_for, bought_for = (
        model._default_manager.filter(account=account, tenant__isnull=False).order_by().values("tenant")
        for model in (BillingPeriod, TopUp)
    )
    heirs = BillingAccount.objects.filter(Q(tenant__in=paid_for) | Q(tenant__in=bought_for)).exclude(pk=account.pk)
    heirs.update(due_at=now)


def _told_prices(subscription: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The prices of a subscription's items, which are told in full here, and only by their ids on invoices. The plan
    that stands beside a price says less of it."""
    items = objects.members(subscription.get("items"))
    prices = [objects.mapping(item.get("price")) or objects.mapping(item.get("plan")) for item in items]
    return [price for price in prices if objects.text(price.get("id"))]


def _of_invoice(data: Mapping[str, Any]) -> tuple[str, Columns]:
    read = objects.invoice(data)
    columns = {"status": read.status[:30], "subscription_id": read.subscription_id}
    return read.id, columns | {"billing_reason": read.billing_reason[:40]}


def _of_payment(data: Mapping[str, Any]) -> tuple[str, Columns]:
    """No id where it is none of the kinds that are kept."""
    read = objects.payment(data)
    columns = {"kind": read.kind, "charge_id": read.charge_id, "intent_id": read.intent_id}
    return read.id if read.kind in objects.PAYMENTS else "", columns | {"invoice_id": read.invoice_id}


def _by_id(
    read: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], tuple[str, Columns]]
) -> dict[str, tuple[Mapping[str, Any], Columns]]:
    found = {}
    for data in read:
        id, columns = of(data)
        if id:
            found[id] = data, columns
    return found


def payer_of(data: Mapping[str, Any]) -> str:
    """The customer whose payment an object is about, as far as what is kept tells; empty where it does not."""
    read = objects.payment(data)
    rows = Payment.objects.filter(account__isnull=False).filter(_about(read.charge_id, read.intent_id))
    if (found := rows.values_list("account__stripe_customer_id", flat=True).first()) is not None:
        return str(found)
    paid = Q(stripe_id=read.invoice_id)
    for id in {read.charge_id, read.intent_id} - {""}:
        # Older invoices name their charge and payment intent themselves.
        paid |= Q(data__charge=id) | Q(data__payment_intent=id) | Q(data__payments__icontains=f'"{id}"')
    return str(Invoice.objects.filter(paid).values_list("account__stripe_customer_id", flat=True).first() or "")


def intents_of(data: Mapping[str, Any]) -> set[str]:
    """The payment intents that a charge, refund or dispute is about, as far as what is kept tells."""
    read = objects.payment(data)
    rows = Payment.objects.filter(_about(read.charge_id, read.intent_id))
    return {read.intent_id, *rows.values_list("intent_id", flat=True)} - {""}


def payments_of(intent_id: str) -> list[Known]:
    """What is known of the payment of one intent."""
    if not intent_id:
        return []
    charges = Payment.objects.filter(intent_id=intent_id).exclude(charge_id="")
    return _known(Q(intent_id=intent_id) | Q(charge_id__in=charges.values("charge_id")))


def known_object(id: str) -> dict[str, Any]:
    """What is kept of one of Stripe's objects; empty where nothing is."""
    for model in (Subscription, Invoice, Payment, CatalogEntry):
        if found := model._default_manager.filter(stripe_id=id).values_list("data", flat=True).first():
            return dict(found)
    is_customer = BillingAccount.objects.filter(stripe_customer_id=id).exists()
    return {"id": id, "object": "customer"} if is_customer else {}


def take_catalog(data: Mapping[str, Any], *, version: str, now: datetime) -> bool:
    """Keep a price, plan or product unless what is kept is newer; whether it was kept."""
    taken = False
    for id, (one, columns) in _of_catalog([data]).items():
        taken = _take(CatalogEntry, id, one, version=version, now=now, **columns)
    _note_sold_as([data], version)
    return taken


def _take_whole_catalog(read: Sequence[Mapping[str, Any]], *, version: str, now: datetime) -> None:
    """Keep prices and products that were just read, in a few queries however many they are."""
    _take_all(CatalogEntry, _of_catalog(read), account=None, version=version, now=now)
    _note_sold_as(read, version)


def confirm_catalog(ids: Sequence[str], *, now: datetime) -> None:
    """Note that prices and products were read, and say what is kept of them."""
    CatalogEntry.objects.filter(stripe_id__in=ids).update(updated_at=now)


def _of_catalog(read: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Mapping[str, Any], Columns]]:
    found = {objects.text(data.get("id")): data for data in read}
    found.pop("", None)
    # Who subscribes to what was deleted goes on: it is worth what it was.
    deleted = [id for id, data in found.items() if data.get("deleted")]
    for id, data in CatalogEntry.objects.filter(stripe_id__in=deleted).values_list("stripe_id", "data"):
        found[id] = {**data, **found[id]}
    return {id: (data, {"kind": kind_of(data)}) for id, data in found.items()}


def _note_sold_as(read: Sequence[Mapping[str, Any]], version: str) -> None:
    """Of several lookup keys of a price the first counts, in whatever order they are heard of."""
    keys = {objects.text(data.get("id")): objects.text(data.get("lookup_key"))[:255] for data in read}
    keyed = [id for id, key in keys.items() if key]
    later = Q(sold_as="") | Q(sold_as_version__gt=version)
    rows = CatalogEntry.objects.select_for_update().filter(later, stripe_id__in=keyed)
    for row in rows:
        row.sold_as, row.sold_as_version = keys[row.stripe_id], version
    CatalogEntry.objects.bulk_update(rows, ["sold_as", "sold_as_version"])


def kind_of(data: Mapping[str, Any]) -> str:
    return CatalogEntry.Kind.PRODUCT if data.get("object") == "product" else CatalogEntry.Kind.PRICE


def prices_of(product_id: str) -> set[str]:
    """The ids of a product's prices that are kept."""
    rows = CatalogEntry.objects.filter(kind=CatalogEntry.Kind.PRICE, data__product=product_id)
    return set(rows.values_list("stripe_id", flat=True))


def buyers_of(ids: Collection[str]) -> set[int]:
    """The accounts that bought one of these prices or products once, by their keys."""
    bought = Invoice.objects.filter(subscription_id="", status="paid").values_list("account_id", "data")
    return {pk for pk, data in bought.iterator() if _names_any(data, ids)}


def _names_any(data: Mapping[str, Any], ids: Collection[str]) -> bool:
    found = [(line, _price_in(line)) for line in objects.members(data.get("lines"))]
    return any(price.get("id") in ids or _product_in(line, price) in ids for line, price in found)


def facts(account: BillingAccount) -> Facts:
    subscriptions = [row.data for row in account.subscriptions.order_by("stripe_id")]
    # Those that are void or given up charged what a credit may take back all the same.
    rows = account.invoices.exclude(status="draft").order_by("stripe_id")
    invoices = [row.data for row in rows]
    # The same few prices are on all of them.
    known = catalog_of([*subscriptions, *invoices])
    subs = [objects.subscription(with_catalog(data, known)) for data in subscriptions]
    read = [objects.invoice(with_catalog(data, known)) for data in invoices]
    paid = payments(account, read)
    current = [one for one in read if one.status in ("paid", "open")]
    return Facts({one.id: one for one in subs}, current, paid, standing.of_invoices(read, paid))


def catalog_of(read: Sequence[Mapping[str, Any]]) -> Catalog:
    """What is kept of all prices and products that objects name."""
    members = [one for data in read for name in ("items", "lines") for one in objects.members(data.get(name))]
    prices = {objects.text(_price_in(member).get("id")) for member in members} - {""}
    known = _rows_of(prices)
    products = {
        _product_in(member, _price_in(member) | known.get(_price_in(member).get("id", ""), {})) for member in members
    }
    products.discard("")
    return known | _rows_of(products)


def _rows_of(ids: Collection[str]) -> Catalog:
    found: Catalog = {}
    for row in CatalogEntry.objects.filter(stripe_id__in=ids) if ids else ():
        found[row.stripe_id] = dict(row.data)
        if row.sold_as:
            found[row.stripe_id]["lookup_key"] = objects.text(row.data.get("lookup_key")) or row.sold_as
    return found


def payments(account: BillingAccount, paid: Sequence[objects.StripeInvoice]) -> list[Known]:
    """What is known of the payments of a customer's invoices, also where it came before anybody knew whose it was."""
    names = {name for invoice in paid for name in invoice.payments}
    known = list(account.payments.values_list("charge_id", "intent_id"))
    names |= {name for pair in known for name in pair if name}
    ids = {invoice.id for invoice in paid}
    return _known(Q(account=account) | Q(charge_id__in=names) | Q(intent_id__in=names) | Q(invoice_id__in=ids))


def _known(which: Q) -> list[Known]:
    rows = Payment.objects.filter(which).order_by("stripe_id")
    return [Known(objects.payment(row.data), int(row.version.split(".", 1)[0])) for row in rows]


def _about(charge_id: str, intent_id: str) -> Q:
    found = Q(pk__in=[])
    if charge_id:
        found |= Q(charge_id=charge_id)
    return found | Q(intent_id=intent_id) if intent_id else found


def with_catalog(data: Mapping[str, Any], known: Catalog | None = None) -> dict[str, Any]:
    """A subscription or invoice whose prices carry their own and their product's metadata, as last seen.

    `known` is what was looked up for it and others.
    """
    known = catalog_of([data]) if known is None else known
    found = dict(data)
    for name in ("items", "lines"):
        if name in found:
            found[name] = [_with_price(dict(member), known) for member in objects.members(found[name])]
    return found


def _with_price(member: dict[str, Any], known: Catalog) -> dict[str, Any]:
    price = _price_in(member)
    if not price:
        return member
    price = price | known.get(objects.text(price.get("id")), {})
    product_id = _product_in(member, price)
    price["product"] = {**objects.mapping(price.get("product")), "id": product_id, **known.get(product_id, {})}
    member.pop("pricing", None)
    # Older shapes mark a subscription's lines by having a plan at all.
    slot = "plan" if "plan" in member and "price" not in member else "price"
    member[slot] = price
    return member


def _price_in(member: Mapping[str, Any]) -> dict[str, Any]:
    """The price of an item or line as it is told there: its id at least; empty where there is none."""
    details = objects.mapping(objects.mapping(member.get("pricing")).get("price_details"))
    embedded = details.get("price") or member.get("price") or member.get("plan")
    return {"id": embedded} if isinstance(embedded, str) else dict(objects.mapping(embedded))


def _product_in(member: Mapping[str, Any], price: Mapping[str, Any]) -> str:
    details = objects.mapping(objects.mapping(member.get("pricing")).get("price_details"))
    return objects.identifier(price.get("product") or details.get("product"))


def _take_all(
    model: type[Row],
    read: Mapping[str, tuple[Mapping[str, Any], Columns]],
    *,
    account: BillingAccount | None,
    version: str,
    now: datetime,
) -> bool:
    """Keep what was read: of the account's, or of what all accounts share. Whether anything of it is new."""
    owner = {} if account is None else {"account_id": account.pk}
    rows = {row.stripe_id: row for row in model._default_manager.select_for_update().filter(stripe_id__in=read)}
    new, changed = [], []
    for id, (data, columns) in read.items():
        values = {"data": dict(data), **owner, **columns}
        if (row := rows.get(id)) is None:
            new.append(model(stripe_id=id, version=version, updated_at=now, **values))
        elif any(getattr(row, name) != value for name, value in values.items()):
            for name, value in values.items():
                setattr(row, name, value)
            changed.append(row)
    names = {"data", *owner, *(name for _, columns in read.values() for name in columns)}
    # Of what is shared another worker may have made a row at this moment, of as new a reading.
    model._default_manager.bulk_create(new, ignore_conflicts=account is None)
    model._default_manager.bulk_update(changed, sorted(names))
    model._default_manager.filter(stripe_id__in=rows).update(version=version, updated_at=now)
    return bool(new or changed)


def _take(
    model: type[Row],
    stripe_id: str,
    data: Mapping[str, Any],
    *,
    version: str,
    now: datetime,
    **columns: Any,
) -> bool:
    if not _take_newer(model, stripe_id, data, version=version, now=now, **columns):
        return False
    if (account := columns.get("account")) is not None:
        _tell_heirs(account, now)
    return True


def _take_newer(
    model: type[Row], stripe_id: str, data: Mapping[str, Any], *, version: str, now: datetime, **columns: Any
) -> bool:
    values = {"data": dict(data), "version": version, "updated_at": now, **columns}
    row = model._default_manager.select_for_update().filter(stripe_id=stripe_id).first()
    if row is None:
        try:
            with transaction.atomic():
                model._default_manager.create(stripe_id=stripe_id, **values)
            return True
        except IntegrityError:
            # Another worker made it at this moment; only catalog entries are shared between customers.
            row = model._default_manager.select_for_update().get(stripe_id=stripe_id)
    if row.version >= version and not _went_on(row, data, version):
        return False
    for name, value in values.items():
        setattr(row, name, value)
    row.save()
    return True


def _went_on(row: Mirrored, data: Mapping[str, Any], version: str) -> bool:
    """Whether an event tells what came after a reading of its second: of who was deleted in it nothing else does."""
    second, _, _ = version.partition(".")
    return row.version.startswith(f"{second}.{FETCHED}.") and _progress(data) > _progress(row.data)
