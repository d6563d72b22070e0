"""The operations that are simulated: method and path, the form that is taken, and what answers.

Each answer is a row, a page of rows, or a ready-made object. `{...}` in a path is the id of the row that it is about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from billing.sandbox import (
    catalogue,
    changes,
    checkouts,
    clocks,
    customers,
    drafts,
    endings,
    endpoints,
    fields,
    forms,
    invoices,
    meters,
    newer,
    one_item,
    payment_forms,
    payments,
    schedules,
    selections,
    subscriptions,
    undoings,
    views,
    wire,
)
from billing.sandbox.fields import Form
from billing.sandbox.selections import Select
from billing.sandbox.state import State
from billing.sandbox.wire import Row

Act = Callable[[State, Row, Any], Row]


@dataclass(frozen=True, slots=True)
class Operation:
    """`kind`: of the row that the path's id names. `select`: a list, newest first; else `act` answers."""

    method: str
    path: str
    form: type[Form]
    act: Act | None = None
    select: Select | None = None
    kind: str = ""
    oldest_first: bool = False

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{\w+\}", r"([^/]+)", self.path))


def answer(state: State, operation: Operation, id: str, params: Mapping[str, Any]) -> Row:
    """Do what is asked for, and show what comes of it. Raises StripeRefusal."""
    row: Row = state.get(operation.kind, id) if operation.kind else {}
    form: Any = fields.read(operation.form, params)
    if operation.select is not None:
        found = [one for one in operation.select(state, row, form) if _in_range(one, getattr(form, "created", None))]
        ordered = found if operation.oldest_first else list(reversed(found))
        page, has_more = wire.page(ordered, limit=form.limit, after=form.starting_after, before=form.ending_before)
        url = operation.path.replace("{id}", id)
        return views.shown_list(state, page, url, has_more=has_more, expand=form.expand)
    assert operation.act is not None  # noqa: S101 - an operation has one of the two
    made = operation.act(state, row, form)
    # What is deleted, and what shows more than its row, is shown already.
    is_row = made.get("id") in state.tables[str(made.get("object"))] and "secret" not in made
    return views.show(state, made, form.expand) if is_row else made


def _in_range(row: Row, created: Any) -> bool:
    if created is None:
        return True
    at = row["created"]
    if isinstance(created, int):
        return bool(at == created)
    return bool(
        (created.gte is None or at >= created.gte)
        and (created.gt is None or at > created.gt)
        and (created.lte is None or at <= created.lte)
        and (created.lt is None or at < created.lt)
    )


def _retrieve(state: State, row: Row, form: Any) -> Row:
    if row.get("deleted") and row["object"] != "customer":
        raise wire.no_such(row["object"], row["id"])
    return row


def _delete_customer(state: State, row: Row, form: Any) -> Row:
    for sub in state.rows("subscription", customer=row["id"]):
        if sub["status"] not in subscriptions.ENDED:
            subscriptions.end(state, sub)
    return customers.delete(state, row)


def _get(path: str, kind: str) -> Operation:
    return Operation("GET", path, fields.Plain, _retrieve, kind=kind)


def _list(path: str, form: type[Form], select: Select, **more: Any) -> Operation:
    return Operation("GET", path, form, select=select, **more)


def _post(path: str, form: type[Form], act: Act, kind: str = "") -> Operation:
    return Operation("POST", path, form, act, kind=kind)


def _delete(path: str, act: Act, kind: str, form: type[Form] = fields.Plain) -> Operation:
    return Operation("DELETE", path, form, act, kind=kind)


OPERATIONS = (
    # Catalogue
    _post("/v1/products", forms.ProductForm, lambda s, r, f: catalogue.add_product(s, f)),
    _list(
        "/v1/products",
        forms.ProductList,
        lambda s, r, f: (
            one for one in selections.of_kind("product", "active")(s, r, f) if not f.ids or one["id"] in f.ids
        ),
    ),
    _get("/v1/products/{id}", "product"),
    _post("/v1/products/{id}", forms.ProductChange, catalogue.change_product, "product"),
    _delete("/v1/products/{id}", lambda s, r, f: catalogue.delete_product(s, r), "product"),
    _post("/v1/products/{id}/features", forms.ProductFeatureForm, catalogue.attach_feature, "product"),
    _post("/v1/prices", forms.StripePriceForm, lambda s, r, f: catalogue.add_price(s, f)),
    _list(
        "/v1/prices",
        forms.PriceList,
        lambda s, r, f: (
            one
            for one in selections.of_kind("price", "active", "currency", "product", "type")(s, r, f)
            if not f.lookup_keys or one["lookup_key"] in f.lookup_keys
        ),
    ),
    _get("/v1/prices/{id}", "price"),
    _post("/v1/prices/{id}", forms.PriceChange, catalogue.change_price, "price"),
    _post("/v1/coupons", forms.CouponForm, lambda s, r, f: catalogue.add_coupon(s, f)),
    _list("/v1/coupons", fields.ListedByTime, selections.of_kind("coupon")),
    _get("/v1/coupons/{id}", "coupon"),
    _post("/v1/coupons/{id}", forms.CouponChange, catalogue.change_coupon, "coupon"),
    _delete("/v1/coupons/{id}", lambda s, r, f: catalogue.delete_coupon(s, r), "coupon"),
    _post("/v1/entitlements/features", forms.FeatureForm, lambda s, r, f: catalogue.add_feature(s, f)),
    _list("/v1/entitlements/features", fields.Listed, selections.of_kind("entitlements.feature")),
    _list("/v1/entitlements/active_entitlements", forms.EntitlementList, selections.all_entitlements),
    # Customers
    _post("/v1/customers", forms.CustomerForm, lambda s, r, f: customers.add(s, f)),
    _list("/v1/customers", forms.CustomerList, selections.of_kind("customer", "email", "test_clock")),
    _get("/v1/customers/{id}", "customer"),
    _post("/v1/customers/{id}", forms.CustomerChange, customers.change, "customer"),
    _delete("/v1/customers/{id}", _delete_customer, "customer"),
    _post("/v1/customers/{id}/balance_transactions", forms.BalanceForm, customers.adjust_balance, "customer"),
    _list(
        "/v1/customers/{id}/balance_transactions",
        fields.Listed,
        lambda s, r, f: s.rows("customer_balance_transaction", customer=r["id"]),
        kind="customer",
    ),
    _list(
        "/v1/customers/{id}/payment_methods",
        forms.MethodList,
        lambda s, r, f: s.rows("payment_method", customer=r["id"]),
        kind="customer",
    ),
    _post("/v1/payment_methods", forms.MethodForm, lambda s, r, f: customers.add_method(s, f)),
    _list("/v1/payment_methods", forms.MethodList, selections.of_kind("payment_method", "customer", "type")),
    _get("/v1/payment_methods/{id}", "payment_method"),
    _post("/v1/payment_methods/{id}/detach", fields.Plain, lambda s, r, f: customers.detach(s, r), "payment_method"),
    # Subscriptions
    _post("/v1/subscriptions", forms.SubscriptionForm, lambda s, r, f: subscriptions.create(s, f)),
    _list("/v1/subscriptions", forms.SubscriptionList, selections.all_subscriptions),
    _get("/v1/subscriptions/{id}", "subscription"),
    _post("/v1/subscriptions/{id}", forms.SubscriptionChange, changes.update, "subscription"),
    _delete("/v1/subscriptions/{id}", endings.cancel, "subscription", forms.SubscriptionCancel),
    _post("/v1/subscriptions/{id}/resume", forms.SubscriptionResume, endings.resume, "subscription"),
    _list(
        "/v1/subscription_items",
        forms.ItemList,
        lambda s, r, f: s.get("subscription", f.subscription, "subscription")["_items"],
        oldest_first=True,
    ),
    _get("/v1/subscription_items/{id}", "subscription_item"),
    _post("/v1/subscription_items", forms.OneItemForm, lambda s, r, f: one_item.add(s, f)),
    _post("/v1/subscription_items/{id}", forms.OneItemChange, one_item.change, "subscription_item"),
    _delete("/v1/subscription_items/{id}", one_item.delete, "subscription_item", forms.OneItemDelete),
    _post("/v1/subscription_schedules", forms.ScheduleForm, lambda s, r, f: schedules.create(s, f)),
    _list("/v1/subscription_schedules", forms.ScheduleList, selections.of_kind("subscription_schedule", "customer")),
    _get("/v1/subscription_schedules/{id}", "subscription_schedule"),
    _post("/v1/subscription_schedules/{id}", forms.ScheduleChange, schedules.update, "subscription_schedule"),
    _post(
        "/v1/subscription_schedules/{id}/release",
        fields.Plain,
        lambda s, r, f: schedules.release(s, r),
        "subscription_schedule",
    ),
    _post(
        "/v1/subscription_schedules/{id}/cancel",
        fields.Plain,
        lambda s, r, f: schedules.cancel(s, r),
        "subscription_schedule",
    ),
    # Invoices
    _post("/v1/invoices", payment_forms.InvoiceForm, drafts.new_invoice),
    _list("/v1/invoices", payment_forms.InvoiceList, selections.all_invoices),
    _get("/v1/invoices/{id}", "invoice"),
    _post("/v1/invoices/{id}", payment_forms.InvoiceChange, drafts.change_invoice, "invoice"),
    _delete("/v1/invoices/{id}", lambda s, r, f: invoices.delete_draft(s, r), "invoice"),
    _post("/v1/invoices/{id}/finalize", payment_forms.InvoiceFinalize, drafts.finalize, "invoice"),
    _post("/v1/invoices/{id}/pay", payment_forms.InvoicePay, invoices.pay, "invoice"),
    _post("/v1/invoices/{id}/void", fields.Plain, lambda s, r, f: invoices.void(s, r), "invoice"),
    _post("/v1/invoices/{id}/mark_uncollectible", fields.Plain, lambda s, r, f: invoices.give_up(s, r), "invoice"),
    _post("/v1/invoices/{id}/send", fields.Plain, drafts.send, "invoice"),
    _post("/v1/invoices/{id}/attach_payment", payment_forms.AttachPayment, drafts.attach, "invoice"),
    _list("/v1/invoices/{id}/lines", fields.Listed, lambda s, r, f: r["_lines"], kind="invoice", oldest_first=True),
    _list(
        "/v1/invoice_payments", payment_forms.PaymentList, selections.of_kind("invoice_payment", "invoice", "status")
    ),
    _get("/v1/invoice_payments/{id}", "invoice_payment"),
    _post("/v1/invoiceitems", payment_forms.InvoiceItemForm, drafts.new_invoice_item),
    _list("/v1/invoiceitems", payment_forms.InvoiceItemList, selections.all_invoice_items),
    _get("/v1/invoiceitems/{id}", "invoiceitem"),
    _delete("/v1/invoiceitems/{id}", drafts.delete_invoice_item, "invoiceitem"),
    # Payments, and what takes them back
    _post("/v1/payment_intents", payment_forms.IntentForm, lambda s, r, f: payments.create(s, f)),
    _list("/v1/payment_intents", payment_forms.ByCustomer, selections.of_kind("payment_intent", "customer")),
    _get("/v1/payment_intents/{id}", "payment_intent"),
    _post("/v1/payment_intents/{id}/confirm", payment_forms.IntentConfirm, payments.confirm_form, "payment_intent"),
    _post("/v1/payment_intents/{id}/cancel", fields.Plain, lambda s, r, f: payments.cancel(s, r), "payment_intent"),
    _list("/v1/charges", payment_forms.ChargeList, selections.of_kind("charge", "customer", "payment_intent")),
    _get("/v1/charges/{id}", "charge"),
    _post("/v1/refunds", payment_forms.RefundForm, lambda s, r, f: undoings.refund(s, f)),
    _list("/v1/refunds", payment_forms.RefundList, selections.of_kind("refund", "charge", "payment_intent")),
    _get("/v1/refunds/{id}", "refund"),
    _post("/v1/refunds/{id}", payment_forms.RefundChange, undoings.change_refund, "refund"),
    _post("/v1/credit_notes", payment_forms.CreditNoteForm, lambda s, r, f: undoings.credit_note(s, f)),
    _list("/v1/credit_notes", payment_forms.CreditNoteList, selections.of_kind("credit_note", "customer", "invoice")),
    _get("/v1/credit_notes/{id}", "credit_note"),
    _post("/v1/credit_notes/{id}/void", fields.Plain, lambda s, r, f: undoings.void_note(s, r), "credit_note"),
    _list(
        "/v1/credit_notes/{id}/lines",
        fields.Listed,
        lambda s, r, f: r["_lines"],
        kind="credit_note",
        oldest_first=True,
    ),
    _list("/v1/disputes", payment_forms.RefundList, selections.of_kind("dispute", "charge", "payment_intent")),
    _get("/v1/disputes/{id}", "dispute"),
    _post("/v1/disputes/{id}", payment_forms.DisputeAnswer, undoings.answer_dispute, "dispute"),
    _post("/v1/disputes/{id}/close", fields.Plain, lambda s, r, f: undoings.close_dispute(s, r, won=False), "dispute"),
    # Checkout
    _post("/v1/checkout/sessions", payment_forms.CheckoutForm, lambda s, r, f: checkouts.create(s, f)),
    _list(
        "/v1/checkout/sessions",
        payment_forms.CheckoutList,
        selections.of_kind("checkout.session", "customer", "payment_intent", "status", "subscription"),
    ),
    _get("/v1/checkout/sessions/{id}", "checkout.session"),
    _post(
        "/v1/checkout/sessions/{id}/expire", fields.Plain, lambda s, r, f: checkouts.expire(s, r), "checkout.session"
    ),
    _list(
        "/v1/checkout/sessions/{id}/line_items",
        fields.Listed,
        lambda s, r, f: r["_line_items"],
        kind="checkout.session",
        oldest_first=True,
    ),
    # Meters
    _post("/v1/billing/meters", payment_forms.MeterForm, lambda s, r, f: meters.add(s, f)),
    _list("/v1/billing/meters", payment_forms.MeterList, selections.of_kind("billing.meter", "status")),
    _get("/v1/billing/meters/{id}", "billing.meter"),
    _post(
        "/v1/billing/meters/{id}/deactivate",
        fields.Plain,
        lambda s, r, f: meters.switch(s, r, active=False),
        "billing.meter",
    ),
    _post(
        "/v1/billing/meters/{id}/reactivate",
        fields.Plain,
        lambda s, r, f: meters.switch(s, r, active=True),
        "billing.meter",
    ),
    _list(
        "/v1/billing/meters/{id}/event_summaries",
        payment_forms.SummaryForm,
        lambda s, r, f: meters.summaries(s, r, f),
        kind="billing.meter",
        oldest_first=True,
    ),
    _post("/v1/billing/meter_events", payment_forms.MeterEventForm, newer.new_meter_event),
    # Clocks, events and where they go
    _post("/v1/test_helpers/test_clocks", payment_forms.ClockForm, lambda s, r, f: clocks.add(s, f)),
    _list("/v1/test_helpers/test_clocks", fields.Listed, selections.of_kind("test_helpers.test_clock")),
    _get("/v1/test_helpers/test_clocks/{id}", "test_helpers.test_clock"),
    _post(
        "/v1/test_helpers/test_clocks/{id}/advance",
        payment_forms.ClockAdvance,
        clocks.advance,
        "test_helpers.test_clock",
    ),
    _delete("/v1/test_helpers/test_clocks/{id}", lambda s, r, f: clocks.delete(s, r), "test_helpers.test_clock"),
    _list("/v1/events", payment_forms.EventList, selections.all_events),
    _post(
        "/v1/webhook_endpoints",
        payment_forms.EndpointForm,
        lambda s, r, f: endpoints.with_secret(s, endpoints.add(s, f)),
    ),
    _list("/v1/webhook_endpoints", fields.Listed, selections.of_kind("webhook_endpoint")),
    _get("/v1/webhook_endpoints/{id}", "webhook_endpoint"),
    _post("/v1/webhook_endpoints/{id}", payment_forms.EndpointChange, endpoints.change, "webhook_endpoint"),
    _delete("/v1/webhook_endpoints/{id}", lambda s, r, f: endpoints.delete(s, r), "webhook_endpoint"),
)
_ATTACH = re.compile(r"/v1/payment_methods/([^/]+)/attach")
_EVENT = re.compile(r"/v1/events/([^/]+)")


def find(method: str, path: str) -> tuple[Operation, str] | None:
    """The operation of a path, and the id in it."""
    for operation in OPERATIONS:
        if operation.method == method and (found := operation.pattern.fullmatch(path)):
            return operation, found[1] if found.groups() else ""
    return None


def special(state: State, method: str, path: str, params: Mapping[str, Any]) -> Row | None:
    """What has no row of its own to act on: events, test methods by name, and the newer API. Raises StripeRefusal."""
    if method == "GET" and (found := _EVENT.fullmatch(path)):
        fields.read(fields.Plain, params)
        return newer.event_of(state, found[1], "event")
    if method == "POST" and (found := _ATTACH.fullmatch(path)):
        form = fields.read(forms.AttachForm, params)
        made = customers.attach(state, found[1], customers.living(state, form.customer))
        return views.show(state, made, form.expand)
    return newer.answer(state, method, path.split("/")[1:], params) if path.startswith("/v2/") else None
