"""What Stripe's objects say, in the same classes for every API version. Pure: dictionaries in, dataclasses out.

Current versions keep a period on the subscription's items and an invoice's subscription under `parent`; older ones
on the subscription and the invoice themselves, with `plan` where there is `price` today. What cannot be read is
left empty rather than guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

Object = Mapping[str, Any]
NOTHING: Object = {}
# 1 January 2100: a timestamp beyond it is no time of ours.
LATEST_TIMESTAMP = 4_102_444_800


@dataclass(frozen=True, slots=True)
class StripePrice:
    """`interval` is Stripe's: day, week, month, year, or empty for a one-time price. Amounts are in the currency's
    smallest unit; `unit_amount` is None where an amount is not so many units. `metered`: it bills what was used.
    `per_package` units are sold at once, and one that is begun counts where it `rounds_up`. `payer_decides`: on the
    amount."""

    id: str
    product_id: str = ""
    lookup_key: str = ""
    interval: str = ""
    interval_count: int = 1
    unit_amount: int | None = None
    currency: str = ""
    metered: bool = False
    per_package: int = 1
    rounds_up: bool = False
    payer_decides: bool = False
    metadata: Object = field(default_factory=dict)
    product_metadata: Object = field(default_factory=dict)

    @property
    def rhythm(self) -> tuple[str, int]:
        """How often it bills."""
        return self.interval, self.interval_count

    def sold(self, quantity: int) -> int:
        """How many of it are sold as a quantity: packages, where it has some."""
        return (quantity + (self.per_package - 1 if self.rounds_up else 0)) // self.per_package


@dataclass(frozen=True, slots=True)
class Item:
    id: str
    price: StripePrice
    quantity: int
    starts_at: datetime | None
    ends_at: datetime | None

    @property
    def product(self) -> str:
        """The id of what it sells: of its price where that has no product."""
        return self.price.product_id or self.price.id


@dataclass(frozen=True, slots=True)
class StripeSubscription:
    """`days_until_due`: the terms of its invoices, where they are sent and not collected."""

    id: str
    status: str
    items: tuple[Item, ...]
    trial_starts_at: datetime | None = None
    trial_ends_at: datetime | None = None
    cancel_at_period_end: bool = False
    collection_paused: bool = False
    cancels_at: datetime | None = None
    starts_at: datetime | None = None
    days_until_due: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """An invoice line. `recurring`: it bills a subscription's item for a whole period, and is no proration.

    `amount` is net of discounts and `listed` before them, in the currency's smallest unit; less than nothing for a
    credit, and nothing for one of what was free. Of its taxes `tax` comes on top, and both include `included_tax`.
    """

    id: str
    price: StripePrice
    quantity: int
    starts_at: datetime | None
    ends_at: datetime | None
    recurring: bool
    proration: bool
    amount: int = 0
    credit: bool = False
    currency: str = ""
    listed: int = 0
    subscription_id: str = ""
    tax: int = 0
    included_tax: int = 0

    @property
    def with_tax(self) -> int:
        return self.amount + self.tax


@dataclass(frozen=True, slots=True)
class StripeInvoice:
    """`payments` are the ids of its charges and payment intents, as far as the object names them; `tells_payments`: all
    that it has. `total` is what they, the customer's balance and credit notes `credited_before` paid together,
    `credited` what later ones took back. The customer's balance was `balance_before`, less than nothing where it is
    credit, and `balance_after`; `overpaid` went there beside. `due_at` has one that is sent, to be paid by then."""

    id: str
    subscription_id: str
    status: str
    billing_reason: str
    lines: tuple[Line, ...]
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    amount_paid: int = 0
    total: int = 0
    credited: int = 0
    credited_before: int = 0
    balance_before: int = 0
    balance_after: int = 0
    currency: str = ""
    created_at: datetime | None = None
    due_at: datetime | None = None
    paid_at: datetime | None = None
    finalized_at: datetime | None = None
    overpaid: int = 0
    number: str = ""
    payments: frozenset[str] = frozenset()
    tells_payments: bool = False


@dataclass(frozen=True, slots=True)
class StripePayment:
    """A charge, or what became of one: a refund, a dispute, a credit note. Amounts in the currency's smallest unit.

    `refunded` is a charge's. `moved` is what a dispute put into the business's balance, less than nothing where it took
    more; None where it says nothing of that. `unrefunded` is what a credit note gave back after the payment without a
    refund: to the customer's balance (`to_balance`), or outside Stripe. `lines`: what it credits of an invoice's lines,
    by their ids, before discounts and tax.
    """

    id: str
    kind: str
    status: str
    amount: int
    charge_id: str = ""
    intent_id: str = ""
    invoice_id: str = ""
    refunded: int = 0
    unrefunded: int = 0
    to_balance: int = 0
    lines: tuple[tuple[str, int], ...] = ()
    currency: str = ""
    moved: int | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout session. Its lines are there only where they were asked for. `invoiced`: it has an invoice, or will
    have one once it is paid."""

    id: str
    mode: str
    paid: bool
    invoiced: bool
    intent_id: str
    created_at: datetime | None
    metadata: Object
    lines: tuple[Line, ...]


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def mapping(value: Any) -> Object:
    return value if isinstance(value, dict) else NOTHING


def identifier(value: Any) -> str:
    """The id in a reference, which is an id or, expanded, the object itself."""
    return text(mapping(value).get("id")) or text(value)


def moment(value: Any) -> datetime | None:
    """A Unix time in seconds as aware UTC; None for anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < LATEST_TIMESTAMP:
        return None
    return datetime.fromtimestamp(value, UTC)


def whole(value: Any) -> int:
    """A whole number; 0 for anything that is none."""
    return _maybe(value) or 0


def members(value: Any) -> Iterator[Object]:
    """The objects of a Stripe list, or of a plain array."""
    found = mapping(value).get("data", value)
    if isinstance(found, list):
        yield from (item for item in found if isinstance(item, dict))


def customer_id(data: Object) -> str:
    """The customer (or, with Accounts v2, the account that is one) an object belongs to; a customer's own id."""
    if data.get("object") in ("customer", ACCOUNT):
        return text(data.get("id"))
    return identifier(data.get("customer")) or identifier(data.get("customer_account"))


# Whose metadata is the business's alone to write, with its secret key or in the Dashboard. A payment method's, say, can
# be set in the payer's browser (https://docs.stripe.com/metadata).
ACCOUNT = "v2.core.account"
NAME_TENANTS = ("checkout.session", "customer", ACCOUNT, "subscription", "invoice")


def named_tenant(data: Object) -> str:
    """The tenant that the business says an object is for: in its metadata, or its subscription's."""
    if data.get("object") not in NAME_TENANTS:
        return ""
    details = mapping(mapping(data.get("parent")).get("subscription_details"))
    places = (data, mapping(data.get("subscription_details")), details)
    slugs = (text(mapping(place.get("metadata")).get("tenant_id")).strip() for place in places)
    return next(filter(None, slugs), "")


def payer_reference(data: Object) -> str:
    """The reference of a checkout: of a payment link, pricing table or buy button, whoever opens it writes it."""
    return text(data.get("client_reference_id")).strip() if data.get("object") == "checkout.session" else ""


def is_purchase(data: Object) -> bool:
    """Whether an object sells something once and has no part in a subscription."""
    if data.get("object") == "checkout.session":
        return data.get("mode") == "payment"
    return data.get("object") == "invoice" and not invoice_subscription(data)


def subscription(data: Object) -> StripeSubscription:
    top = moment(data.get("current_period_start")), moment(data.get("current_period_end"))
    items = tuple(_item(raw, top) for raw in members(data.get("items")))
    if not items and (data.get("plan") or data.get("price")):
        items = (_item(data, top),)
    return StripeSubscription(
        id=text(data.get("id")),
        status=text(data.get("status")),
        items=items,
        trial_starts_at=moment(data.get("trial_start")),
        trial_ends_at=moment(data.get("trial_end")),
        cancel_at_period_end=data.get("cancel_at_period_end") is True,
        collection_paused=bool(mapping(data.get("pause_collection"))),
        cancels_at=moment(data.get("cancel_at")),
        starts_at=moment(data.get("start_date")),
        days_until_due=whole(data.get("days_until_due")) if data.get("collection_method") == "send_invoice" else 0,
    )


def invoice(data: Object) -> StripeInvoice:
    return StripeInvoice(
        id=text(data.get("id")),
        subscription_id=invoice_subscription(data),
        status=text(data.get("status")) or ("paid" if data.get("paid") is True else ""),
        billing_reason=text(data.get("billing_reason")),
        lines=tuple(_line(raw) for raw in members(data.get("lines"))),
        starts_at=moment(data.get("period_start")),
        ends_at=moment(data.get("period_end")),
        amount_paid=whole(data.get("amount_paid")),
        total=whole(data.get("total")),
        credited=whole(data.get("post_payment_credit_notes_amount")),
        credited_before=whole(data.get("pre_payment_credit_notes_amount")),
        balance_before=whole(data.get("starting_balance")),
        balance_after=whole(data.get("ending_balance")),
        currency=text(data.get("currency")),
        created_at=moment(data.get("created")) or moment(data.get("date")),
        due_at=moment(data.get("due_date")),
        paid_at=moment(mapping(data.get("status_transitions")).get("paid_at")),
        finalized_at=moment(mapping(data.get("status_transitions")).get("finalized_at")),
        overpaid=whole(data.get("amount_overpaid")),
        number=text(data.get("number")),
        payments=frozenset(_payments(data)),
        tells_payments="payments" in data or whole(data.get("amount_paid_off_stripe")) > 0,
    )


def _payments(data: Object) -> Iterator[str]:
    for place in (data, *(mapping(raw.get("payment")) for raw in members(data.get("payments")))):
        for name in ("charge", "payment_intent"):
            if found := identifier(place.get(name)):
                yield found


PAYMENTS = ("charge", "refund", "dispute", "credit_note")


def payment(data: Object) -> StripePayment:
    """A charge, refund, dispute or credit note."""
    kind, id = text(data.get("object")), text(data.get("id"))
    moved = [whole(raw.get("amount")) for raw in members(data.get("balance_transactions"))]
    by_refunds = sum(whole(raw.get("amount_refunded")) for raw in members(data.get("refunds")))
    # Older versions name one refund, without its amount.
    is_told = kind == "credit_note" and "refunds" in data
    unrefunded = max(0, whole(data.get("post_payment_amount")) - by_refunds) if is_told else 0
    return StripePayment(
        id=id,
        kind=kind,
        status=text(data.get("status")),
        amount=whole(data.get("amount")),
        charge_id=id if kind == "charge" else identifier(data.get("charge")),
        intent_id=identifier(data.get("payment_intent")),
        invoice_id=identifier(data.get("invoice")),
        refunded=whole(data.get("amount_refunded")),
        unrefunded=unrefunded,
        to_balance=max(0, unrefunded - whole(data.get("out_of_band_amount"))),
        lines=tuple(
            (id, whole(raw.get("amount")))
            for raw in members(data.get("lines"))
            if (id := identifier(raw.get("invoice_line_item")))
        ),
        currency=text(data.get("currency")),
        moved=sum(moved) if moved else None,
        created_at=moment(data.get("created")),
    )


def checkout(data: Object) -> Checkout:
    return Checkout(
        id=text(data.get("id")),
        mode=text(data.get("mode")),
        paid=data.get("payment_status") in ("paid", "no_payment_required"),
        invoiced=bool(identifier(data.get("invoice")) or mapping(data.get("invoice_creation")).get("enabled")),
        intent_id=identifier(data.get("payment_intent")),
        created_at=moment(data.get("created")),
        metadata=mapping(data.get("metadata")),
        lines=tuple(_line(raw) for raw in members(data.get("line_items"))),
    )


def invoice_subscription(data: Object) -> str:
    details = mapping(mapping(data.get("parent")).get("subscription_details"))
    found = identifier(details.get("subscription")) or identifier(data.get("subscription"))
    if found:
        return found
    return next((owner for raw in members(data.get("lines")) if (owner := _line_subscription(raw))), "")


def price(data: Object) -> StripePrice:
    """A price, or the plan of older versions."""
    recurring = mapping(data.get("recurring")) or data
    product = data.get("product")
    packages = mapping(data.get("transform_quantity"))
    in_steps = data.get("billing_scheme") == "tiered" or bool(packages)
    return StripePrice(
        id=text(data.get("id")),
        product_id=identifier(product),
        lookup_key=text(data.get("lookup_key")),
        interval=text(recurring.get("interval")),
        interval_count=max(0, whole(recurring.get("interval_count"))) or 1,
        unit_amount=None if in_steps else _maybe(data.get("unit_amount", data.get("amount"))),
        currency=text(data.get("currency")),
        metered=recurring.get("usage_type") == "metered",
        per_package=max(1, whole(packages.get("divide_by"))),
        rounds_up=packages.get("round") == "up",
        payer_decides=bool(data.get("custom_unit_amount")),
        metadata=mapping(data.get("metadata")),
        product_metadata=mapping(mapping(product).get("metadata")),
    )


def _item(data: Object, top: tuple[datetime | None, datetime | None]) -> Item:
    found = _price_of(data)
    if data.get("quantity") is None and "quantity" in data:
        # What is licensed has a quantity.
        found = replace(found, metered=True)
    return Item(
        id=text(data.get("id")),
        price=found,
        quantity=_quantity(data.get("quantity")),
        starts_at=moment(data.get("current_period_start")) or top[0],
        ends_at=moment(data.get("current_period_end")) or top[1],
    )


def _price_of(data: Object) -> StripePrice:
    found = data.get("price") or data.get("plan")
    return StripePrice(id=found) if isinstance(found, str) else price(mapping(found))


def _line(data: Object) -> Line:
    parent = mapping(data.get("parent"))
    item_details = mapping(parent.get("subscription_item_details"))
    details = item_details or mapping(parent.get("invoice_item_details"))
    proration = data.get("proration") is True or details.get("proration") is True
    credited = mapping(mapping(details.get("proration_details")).get("credited_items"))
    belongs = bool(item_details) or data.get("type") == "subscription" or bool(data.get("plan"))
    period = mapping(data.get("period"))
    amount = whole(data.get("amount"))
    discounts = data.get("discount_amounts")
    discount = sum(whole(mapping(raw).get("amount")) for raw in discounts) if isinstance(discounts, list) else 0
    return Line(
        id=text(data.get("id")),
        price=_line_price(data),
        quantity=_quantity(data.get("quantity")),
        starts_at=moment(period.get("start")),
        ends_at=moment(period.get("end")),
        recurring=belongs and not proration and data.get("type") != "invoiceitem",
        proration=proration,
        amount=amount - discount,
        credit=amount < 0 or (proration and amount == 0 and bool(credited)),
        currency=text(data.get("currency")),
        listed=amount,
        subscription_id=_line_subscription(data),
        tax=_taxes(data, included=False),
        included_tax=_taxes(data, included=True),
    )


def _taxes(data: Object, *, included: bool) -> int:
    """Taxes on top of a line's amount, or that it includes. Newer versions say how, older ones whether."""
    taxes = (*members(data.get("taxes")), *members(data.get("tax_amounts")))
    how = "inclusive" if included else "exclusive"
    return sum(
        whole(one.get("amount")) for one in taxes if one.get("tax_behavior") == how or one.get("inclusive") is included
    )


def _line_price(data: Object) -> StripePrice:
    details = mapping(mapping(data.get("pricing")).get("price_details"))
    if details:
        found = details.get("price")
        read = price(found) if isinstance(found, dict) else StripePrice(id=text(found))
        return read if read.product_id else StripePrice(id=read.id, product_id=identifier(details.get("product")))
    return _price_of(data)


def _line_subscription(data: Object) -> str:
    parent = mapping(data.get("parent"))
    for key in ("subscription_item_details", "invoice_item_details"):
        if found := identifier(mapping(parent.get(key)).get("subscription")):
            return found
    return identifier(data.get("subscription"))


def _maybe(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _quantity(value: Any) -> int:
    """No quantity at all is one; none is none."""
    found = _maybe(value)
    return 1 if found is None else max(0, found)
