"""Stripe's event types and what each asks for. An event is a hint to look again: its effect is that of the state it
leads to.

With an API key the state is read from Stripe before the transaction; without one the event's object stands in.
A type that is not here is kept and asks for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from billing.accounts import binding, budget_windows, guests, mirror, purchases, sync
from billing.models import BillingAccount, Invoice, StripeEvent
from billing.rules.entitlement import EntitlementState
from billing.stripe_api import client, objects
from billing.usage import proof
from governance import alerts

# Customer id -> what Stripe says of it now; None without an API key.
Readings = Mapping[str, sync.Reading | None]
Handler = Callable[[StripeEvent, Readings, datetime], None]

NOT_FINALIZED = "invoice_not_finalized"
FINISHED = ("paid", "void", "uncollectible")


@dataclass(frozen=True, slots=True)
class EventType:
    """`names_a_charge`: its objects name a charge, or are one, and need not name a customer. `thin`: it comes without
    its data, which is fetched, from an event destination in place of the endpoint."""

    handler: Handler
    names_a_charge: bool = False
    thin: bool = False


def complete(event: StripeEvent) -> StripeEvent:
    """A thin event with the object that it is about, as its twin among the others has it, and a checkout of nobody's
    with its lines; others as they are. Raises StripeError.
    """
    session = objects.checkout(event.object)
    is_checkout = event.object.get("object") == "checkout.session" and session.id and session.mode == "payment"
    if is_checkout and not event.customer_id and client.is_configured():
        # No reading of a customer brings them.
        return event.about(dict(client.checkout_session(session.id)), type=event.type, customer_id="")
    id, url = (objects.text(event.related.get(name)) for name in ("id", "url"))
    # An event destination can send `invoice.paid` as `v1.invoice.paid`, without the invoice.
    name = ACCOUNT_TWINS.get(event.type, event.type.removeprefix("v1."))
    if not id or event.type in EVENT_TYPES or name not in EVENT_TYPES:
        return event
    is_account = event.type in ACCOUNT_TWINS
    if is_account and not BillingAccount.objects.filter(stripe_customer_id=id).exists():
        # Accounts are also those whom a platform pays.
        return event
    found = dict(client.related(url)) if client.is_configured() else mirror.known_object(id)
    if is_account:
        found |= {"id": id, "object": objects.ACCOUNT}
    return event.about(found, type=name, customer_id=objects.customer_id(found)) if found else event


def readings(event: StripeEvent, *, now: datetime, known: Readings | None = None) -> Readings:
    """Ask Stripe about the customer an event concerns, before any transaction. Raises StripeError.

    `known`: what was read already, after the event had come.
    """
    type, known = EVENT_TYPES.get(event.type), known or {}
    if type is None:
        return {}
    customer_id = event.customer_id or (_payer(event) if type.names_a_charge else "")
    if not customer_id:
        return {}
    reading = known[customer_id] if customer_id in known else sync.read(customer_id, now=now)
    return {customer_id: _with_checkout(reading, event)}


def _with_checkout(reading: sync.Reading | None, event: StripeEvent) -> sync.Reading | None:
    """The reading with what a checkout sold that made no invoice: no list of a customer's tells of it."""
    session = objects.checkout(event.object)
    if reading is None or event.object.get("object") != "checkout.session" or session.mode != "payment":
        return reading
    if session.invoiced or not session.id:
        return reading
    found = client.checkout_session(session.id)
    return replace(reading, snapshot=replace(reading.snapshot, checkouts=(found,)))


def _payer(event: StripeEvent) -> str:
    """Whose money a refund or dispute is about: they name the charge alone, whose customer Stripe knows. One that has
    none is of the customer whose invoice it paid."""
    charge_id = objects.identifier(event.object.get("charge"))
    charge = client.charge(charge_id) if charge_id and client.is_configured() else event.object
    return objects.customer_id(charge) or mirror.payer_of(charge)


def handle(event: StripeEvent, readings: Readings, *, now: datetime) -> None:
    """Carry out an event in the caller's transaction; a type that asks for nothing is fine."""
    known = EVENT_TYPES.get(event.type)
    if known is not None:
        known.handler(event, readings, now)


def _bind(event: StripeEvent, readings: Readings, now: datetime) -> None:
    """A finished checkout, or a customer or subscription that names its tenant."""

    def take(account: BillingAccount) -> None:
        if event.object.get("object") == "checkout.session" and readings.get(account.stripe_customer_id) is None:
            purchases.note_checkout(account, event.object, now=now)

    if not event.customer_id:
        guests.note(event.object, now=now)
        return
    account = _sync(event, readings, now, take)
    if account is None or account.tenant is None or objects.checkout(event.object).mode != "subscription":
        return
    if account.state in (EntitlementState.NONE, EntitlementState.PENDING):
        # Its subscription may be heard of later, or be paid later; one that is over already is not waited for.
        budget_windows.hold_back(account.tenant, now=now)


def _payment(event: StripeEvent, readings: Readings, now: datetime) -> None:
    """A refund, a dispute, or what became of one."""
    if any(reading is not None and reading.snapshot.payments is not None for reading in readings.values()):
        _resync(event, readings, now)
        return
    version = mirror.version_of(event)
    if not (event.customer_id or readings):
        # Nobody knows yet whose it is: it is found when the charge or the invoice comes.
        mirror.take_payment(None, event.object, version=version, now=now)
        guests.note_payment(event.object, now=now)
        return

    def take(account: BillingAccount) -> None:
        mirror.take_payment(account, event.object, version=version, now=now)

    _sync(event, readings, now, take)


def _customer_deleted(event: StripeEvent, readings: Readings, now: datetime) -> None:
    def close(account: BillingAccount) -> None:
        account.deleted_at = account.deleted_at or now
        account.save(update_fields=["deleted_at"])

    _sync(event, readings, now, close)


def _tells_objects(reading: sync.Reading | None) -> bool:
    """Whether a reading says what there is of a customer: of one that is deleted events alone do."""
    return reading is not None and not reading.snapshot.customer.get("deleted")


def _subscription(event: StripeEvent, readings: Readings, now: datetime) -> None:
    def take(account: BillingAccount) -> None:
        if not _tells_objects(readings.get(event.customer_id)):
            mirror.take_subscription(account, event.object, version=mirror.version_of(event), now=now)

    _sync(event, readings, now, take)


def _invoice(event: StripeEvent, readings: Readings, now: datetime) -> None:
    def take(account: BillingAccount) -> None:
        if not _tells_objects(readings.get(event.customer_id)):
            mirror.take_invoice(account, event.object, version=mirror.version_of(event), now=now)

    _sync(event, readings, now, take)


def _finished_invoice(event: StripeEvent, readings: Readings, now: datetime) -> None:
    """Paid, voided or given up: nothing is left to be done about it."""
    _invoice(event, readings, now)
    alerts.clear(kind=NOT_FINALIZED, subject=objects.text(event.object.get("id")), now=now)


def _finalization_failed(event: StripeEvent, readings: Readings, now: datetime) -> None:
    """Stripe asks for no payment until somebody mends the invoice, and nothing here can."""
    _invoice(event, readings, now)
    invoice_id = objects.text(event.object.get("id"))
    if not invoice_id or Invoice.objects.filter(stripe_id=invoice_id, status__in=FINISHED).exists():
        return
    error = objects.mapping(event.object.get("last_finalization_error"))
    message = f"Stripe cannot finalize an invoice of {event.customer_id}: {objects.text(error.get('message'))}"
    alerts.report(kind=NOT_FINALIZED, subject=invoice_id, message=message.rstrip(": "), now=now)


def _resync(event: StripeEvent, readings: Readings, now: datetime) -> None:
    """Nothing of the event itself counts: whoever it concerns is computed anew."""
    _sync(event, readings, now, lambda account: None)


def _meter_error(event: StripeEvent, readings: Readings, now: datetime) -> None:
    """A thin event: what it is about is fetched when the outbox is drained."""
    proof.note_meter_error(event=event, now=now)


def _catalog(event: StripeEvent, readings: Readings, now: datetime) -> None:
    """Changed metadata is for new windows; prices that nothing mapped so far are looked at again.

    However many customers they concern: no transaction holds the windows of more than one.
    """
    # Customers are locked before prices, as whoever reads one of them does. They are looked at also where a reading of
    # one of them has brought the news before.
    sync.look_again(event.object, now=now)
    mirror.take_catalog(event.object, version=mirror.version_of(event), now=now)


def _sync(
    event: StripeEvent, readings: Readings, now: datetime, take: Callable[[BillingAccount], None]
) -> BillingAccount | None:
    """Lock the customer, keep what the event brings, and write what follows; None where it concerns nobody."""
    customer_id = event.customer_id or next(iter(readings), "")
    if not customer_id:
        # A checkout or invoice without a customer concerns nobody's budget.
        return None
    account = binding.locked(customer_id)
    take(account)
    return sync.write(customer_id, readings.get(customer_id), now=now, said=event.object)


# All that is known of a type of event is its row here: adding a row subscribes to it, fetches what was missed of it,
# and handles it.
EVENT_TYPES: dict[str, EventType] = {
    "checkout.session.completed": EventType(_bind),
    # Methods that take days, such as a debit of a bank account, are paid or fail long after the checkout is complete.
    "checkout.session.async_payment_succeeded": EventType(_bind),
    "checkout.session.async_payment_failed": EventType(_bind),
    "customer.created": EventType(_bind),
    "customer.updated": EventType(_bind),
    "customer.deleted": EventType(_customer_deleted),
    "customer.subscription.created": EventType(_subscription),
    "customer.subscription.updated": EventType(_subscription),
    "customer.subscription.deleted": EventType(_subscription),
    "customer.subscription.paused": EventType(_subscription),
    "customer.subscription.resumed": EventType(_subscription),
    "customer.subscription.trial_will_end": EventType(_subscription),
    "customer.subscription.pending_update_applied": EventType(_subscription),
    "customer.subscription.pending_update_expired": EventType(_subscription),
    # From here on the terms of an invoice that is sent run.
    "invoice.finalized": EventType(_invoice),
    "invoice.paid": EventType(_finished_invoice),
    "invoice.payment_succeeded": EventType(_finished_invoice),
    "invoice.payment_failed": EventType(_invoice),
    "invoice.payment_action_required": EventType(_invoice),
    "invoice.finalization_failed": EventType(_finalization_failed),
    "invoice.overdue": EventType(_invoice),
    "invoice.voided": EventType(_finished_invoice),
    "invoice.marked_uncollectible": EventType(_finished_invoice),
    "charge.refunded": EventType(_payment, names_a_charge=True),
    # One that is cancelled is told of by this alone.
    "refund.updated": EventType(_payment, names_a_charge=True),
    "refund.failed": EventType(_payment, names_a_charge=True),
    "credit_note.created": EventType(_payment),
    "credit_note.voided": EventType(_payment),
    "charge.dispute.created": EventType(_payment, names_a_charge=True),
    # An inquiry, which takes no money, becomes a dispute that does.
    "charge.dispute.updated": EventType(_payment, names_a_charge=True),
    "charge.dispute.funds_withdrawn": EventType(_payment, names_a_charge=True),
    "charge.dispute.closed": EventType(_payment, names_a_charge=True),
    "charge.dispute.funds_reinstated": EventType(_payment, names_a_charge=True),
    "entitlements.active_entitlement_summary.updated": EventType(_resync),
    "v1.billing.meter.error_report_triggered": EventType(_meter_error, thin=True),
    "price.created": EventType(_catalog),
    "price.updated": EventType(_catalog),
    "plan.created": EventType(_catalog),
    "plan.updated": EventType(_catalog),
    "product.created": EventType(_catalog),
    "product.updated": EventType(_catalog),
}
# Accounts v2: what an account that is a customer says in place of what a customer does.
ACCOUNT_TWINS = {"v2.core.account.updated": "customer.updated", "v2.core.account.closed": "customer.deleted"}
# An answer other than 2xx to it delays the finalising of invoices by up to 72 hours, so it is never asked for.
HOLDS_UP_INVOICES = "invoice.created"


def is_known(type: str) -> bool:
    """Whether events of a type ask for something, however they come."""
    return type in EVENT_TYPES or type in ACCOUNT_TWINS or type.removeprefix("v1.") in EVENT_TYPES


def asked_for(*, thin: bool = False) -> frozenset[str]:
    """The types that our endpoint at Stripe is to send; `thin`: those of the event destination beside it."""
    return frozenset(name for name, one in EVENT_TYPES.items() if one.thin == thin) - {HOLDS_UP_INVOICES}
