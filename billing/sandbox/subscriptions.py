"""Subscriptions: how they begin, renew, pause, resume and end. `changes` is for what is changed in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from billing.sandbox import amounts, catalogue, customers, invoices, item_charges, lines, payments, times
from billing.sandbox.lines import LineCharge
from billing.sandbox.state import State
from billing.sandbox.wire import Row, declined, refused

# A first payment may take so long before the subscription expires.
INCOMPLETE_S = 23 * times.HOUR_S
ENDED = ("canceled", "incomplete_expired")
# Statuses of subscriptions that come to their next period.
RENEWING = ("active", "trialing", "past_due", "unpaid")
MOST_ITEMS = 20


def told(state: State, sub: Row, before: Row, type: str = "customer.subscription.updated") -> Row:
    """Send what changed of a subscription since it was shown as `before`, if anything did."""
    after = state.show(state, sub)
    previous = {name: value for name, value in before.items() if after.get(name) != value}
    if previous or not type.endswith(".updated"):
        state.emit(type, sub, previous or None)
        _tell_features(state, sub["customer"])
    return sub


def _tell_features(state: State, customer_id: str) -> None:
    """Send the customer's summary of entitlements where its subscriptions bring others than before."""
    customer = state.find("customer", customer_id)
    if customer is None or customer.get("deleted"):
        return
    products = {
        state.get("price", item["price"])["product"]
        for sub in state.rows("subscription", customer=customer_id)
        if sub["status"] in ("active", "trialing", "past_due")
        for item in sub["_items"]
    }
    found = [row["entitlement_feature"] for row in state.rows("product_feature") if row["_product"] in products]
    if [one["id"] for one in found] == customer.get("_features", []):
        return
    customer["_features"] = [one["id"] for one in found]
    rows = [
        state.add("entitlements.active_entitlement", {"feature": one["id"], "lookup_key": one["lookup_key"]})
        for one in found
    ]
    customer["_entitlements"] = rows
    summary = {
        "object": "entitlements.active_entitlement_summary",
        "customer": customer_id,
        "livemode": False,
        "_entitlements": rows,
    }
    state.emit("entitlements.active_entitlement_summary.updated", summary)


# The beginning


def create(state: State, form: Any) -> Row:
    """A new subscription with its first invoice, paid or not. Raises StripeRefusal."""
    customer = customers.living(state, form.customer)
    now = state.time_of(customer)
    trial_ends = _trial_end(form, now)
    item_charges.make_prices(state, form.items)
    sub = _new(state, customer, form, now)
    try:
        for place, given in enumerate(form.items):
            sub["_items"].append(item_charges.new_item(state, sub, given, place))
        item_charges.check_items(state, sub, sub["_items"])
        anchor = _anchor(state, sub, form, now, trial_ends)
        sub["discounts"] = lines.add_discounts(state, sub, form.discounts)
        method = sub["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
        if form.payment_behavior == "error_if_incomplete" and not trial_ends and payments.would_fail(state, method):
            raise declined("Your card was declined.", "card_declined")
    except Exception:
        _forget(state, sub)
        raise
    sub["billing_cycle_anchor"] = anchor
    customer["currency"] = customer["currency"] or sub["currency"]
    charges = _first_charges(state, sub, form, now, trial_ends)
    if form.cancel_at_period_end:
        sub.update(cancel_at_period_end=True, cancel_at=period_end(sub), canceled_at=now)
    _begin(state, sub, form, charges)
    return sub


def _forget(state: State, sub: Row) -> None:
    for item in sub["_items"]:
        del state.tables["subscription_item"][item["id"]]
    del state.tables["subscription"][sub["id"]]


def _begin(state: State, sub: Row, form: Any, charges: Sequence[LineCharge]) -> None:
    for place, extra in enumerate(form.add_invoice_items or ()):
        price = state.get("price", extra.price, f"add_invoice_items[{place}][price]")
        quantity, at = 1 if extra.quantity is None else extra.quantity, state.time_of(sub)
        charges = [
            *charges,
            LineCharge(price, quantity, at, at, catalogue.cost(price, quantity), subscription=sub["id"]),
        ]
    by_card = sub["collection_method"] == "charge_automatically"
    waits = by_card and sum(charge.amount for charge in charges) > 0
    sub["status"] = "trialing" if sub["trial_end"] else "incomplete" if waits else "active"
    state.emit("customer.subscription.created", sub)
    _tell_features(state, sub["customer"])
    invoice = item_charges.bill(state, sub, "subscription_create", charges)
    if form.payment_behavior == "default_incomplete":
        invoices.finalize(state, invoice)
    else:
        item_charges.settle_up(state, sub, invoice)


def _trial_end(form: Any, now: int) -> int | None:
    if form.trial_end is not None and form.trial_period_days is not None:
        raise refused("You may only specify one of these parameters: trial_end, trial_period_days.", param="trial_end")
    if form.trial_period_days:
        return int(now + form.trial_period_days * times.DAY_S)
    if form.trial_end in (None, "now"):
        return None
    if form.trial_end <= now:
        raise refused("Invalid timestamp: must be in the future.", param="trial_end")
    return int(form.trial_end)


def _anchor(state: State, sub: Row, form: Any, now: int, trial_ends: int | None) -> int:
    if form.billing_cycle_anchor is None:
        return trial_ends or now
    latest = max(
        times.next_boundary(trial_ends or now, *item_charges.step_of(state, item), after=trial_ends or now)
        for item in sub["_items"]
    )
    if not (trial_ends or now) <= form.billing_cycle_anchor <= latest:
        raise refused(
            "billing_cycle_anchor cannot be in the past, or later than the next natural billing date.",
            param="billing_cycle_anchor",
        )
    return int(form.billing_cycle_anchor)


def _first_charges(state: State, sub: Row, form: Any, now: int, trial_ends: int | None) -> list[LineCharge]:
    """What the first invoice is for, and with it the first periods of the items."""
    charges: list[LineCharge] = []
    anchor, since = sub["billing_cycle_anchor"], form.backdate_start_date
    if since is not None and since >= now:
        raise refused("backdate_start_date must be in the past.", param="backdate_start_date")
    for item in sub["_items"]:
        step = item_charges.step_of(state, item)
        end = trial_ends or (anchor if anchor > now else times.next_boundary(anchor, *step, after=now))
        item.update(current_period_start=now, current_period_end=end)
        if since is not None and not item_charges.is_metered(state, item) and form.proration_behavior != "none":
            until = anchor if anchor > now and not trial_ends else now
            charges.append(_backdated(state, sub, item, since, until))
            if until > now:
                item["current_period_start"] = since
                continue
        if trial_ends:
            charges.append(item_charges.trial_charge(state, sub, item, now, end))
        elif item_charges.is_metered(state, item):
            charges.append(item_charges.usage_charge(state, sub, item, now, now))
        elif anchor > now:
            charges += _until_anchor(state, sub, item, form, now)
        else:
            charges.append(item_charges.whole_charge(state, sub, item, now, end))
    if since is not None:
        sub["start_date"] = since
    return charges


def _backdated(state: State, sub: Row, item: Row, since: int, until: int) -> LineCharge:
    whole, left, of = times.intervals(*item_charges.step_of(state, item), since, until)
    cost = item_charges.cost_of(state, item)
    return item_charges.first_part(
        state, sub, item, since, until, whole * cost + amounts.part(cost, left, of, sub["currency"])
    )


def _until_anchor(state: State, sub: Row, item: Row, form: Any, now: int) -> list[LineCharge]:
    """The part of an interval until the first full period begins; nothing for it where nothing is prorated."""
    anchor = sub["billing_cycle_anchor"]
    if form.proration_behavior == "none":
        return []
    of = times.whole_period(anchor, *item_charges.step_of(state, item), anchor)
    amount = amounts.part(item_charges.cost_of(state, item), min(anchor - now, of), of, sub["currency"])
    return [item_charges.first_part(state, sub, item, now, anchor, amount)]


# The periods


def period_end(sub: Row) -> int:
    return max(int(item["current_period_end"]) for item in sub["_items"])


def next_end(sub: Row) -> int:
    return min(int(item["current_period_end"]) for item in sub["_items"])


def renew(state: State, sub: Row) -> None:
    """Bring the items whose period is over to their next one, and bill it: usage in arrears, the rest ahead."""
    now, before = state.time_of(sub), state.show(state, sub)
    after_trial = sub["status"] == "trialing"
    if after_trial and not _goes_on_after_trial(state, sub, before):
        return
    charges, spans = [], []
    for item in sub["_items"]:
        start, end = item["current_period_start"], item["current_period_end"]
        if end > now:
            continue
        spans.append((start, end))
        following = times.next_boundary(sub["billing_cycle_anchor"], *item_charges.step_of(state, item), after=end)
        if item_charges.is_metered(state, item):
            charges.append(item_charges.usage_charge(state, sub, item, start, end, free=after_trial))
        else:
            charges.append(item_charges.whole_charge(state, sub, item, end, following))
        item.update(current_period_start=end, current_period_end=following)
    if after_trial:
        sub["status"] = "active"
    told(state, sub, before)
    invoice = item_charges.bill(state, sub, "subscription_cycle", charges, period=min(spans))
    _go_on_with(state, sub, invoice, now)


def _goes_on_after_trial(state: State, sub: Row, before: Row) -> bool:
    """Whether a trial without a payment method is followed by an invoice; else the subscription pauses or ends."""
    customer = state.get("customer", sub["customer"])
    method = sub["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    behaviour = sub["trial_settings"]["end_behavior"]["missing_payment_method"]
    if method or behaviour == "create_invoice" or sub["collection_method"] == "send_invoice":
        return True
    if behaviour == "cancel":
        end(state, sub, reason="payment_failed")
        return False
    sub["status"] = "paused"
    told(state, sub, before, "customer.subscription.paused")
    return False


def _go_on_with(state: State, sub: Row, invoice: Row, now: int) -> None:
    """A renewal's draft is finalized an hour later, unless collection is paused or given up."""
    paused = sub["pause_collection"]
    if sub["status"] == "unpaid" or (paused and paused["behavior"] == "keep_as_draft"):
        invoice["auto_advance"] = False
    elif paused:
        invoices.finalize(state, invoice)
        if invoice["status"] == "open":
            how = invoices.void if paused["behavior"] == "void" else invoices.give_up
            how(state, invoice)
    else:
        finalize_later(invoice, now)


def finalize_later(invoice: Row, now: int) -> None:
    invoice["_finalize_at"] = invoice["automatically_finalizes_at"] = now + invoices.DRAFT_S


# The end


def end(state: State, sub: Row, *, reason: str = "cancellation_requested") -> Row:
    """Over now: no period comes any more, and what is open is asked for no longer."""
    now = state.time_of(sub)
    sub.update(status="canceled", ended_at=now, canceled_at=sub["canceled_at"] or now, pending_update=None)
    sub["cancellation_details"] = {**sub["cancellation_details"], "reason": reason}
    for invoice in state.rows("invoice", _subscription=sub["id"]):
        if invoice["status"] in ("draft", "open"):
            invoice.update(auto_advance=False, next_payment_attempt=None, _finalize_at=None)
    schedule = state.find("subscription_schedule", sub["schedule"])
    if schedule and schedule["status"] == "active":
        schedule.update(status="canceled", canceled_at=now, current_phase=None)
        state.emit("subscription_schedule.canceled", schedule)
    state.emit("customer.subscription.deleted", sub)
    _tell_features(state, sub["customer"])
    return sub


def expire(state: State, sub: Row) -> None:
    """The first payment never came."""
    before = state.show(state, sub)
    sub.update(status="incomplete_expired", ended_at=state.time_of(sub))
    told(state, sub, before)
    invoice = state.find("invoice", sub["latest_invoice"])
    if invoice and invoice["status"] == "open":
        invoices.void(state, invoice)


def alive(sub: Row) -> Row:
    """The subscription, where it can still be changed. Raises StripeRefusal."""
    if sub["status"] in ENDED:
        raise refused(f"No such subscription: {sub['id']}", code="resource_missing", status=404)
    return sub


def _new(state: State, customer: Row, form: Any, now: int) -> Row:
    prices = [state.find("price", item.price) for item in form.items]
    first = next((price for price in prices if price), None)
    if form.collection_method == "send_invoice" and form.days_until_due is None:
        raise refused("Missing required param: days_until_due.", param="days_until_due", code="parameter_missing")
    method = form.default_payment_method
    own = customers.own_method(state, customer, method, "default_payment_method") if method else None
    flexible = {"flexible": {"proration_discounts": "included"}, "type": "flexible", "updated_at": now}
    classic = {"flexible": None, "type": "classic", "updated_at": now}
    missing = form.trial_settings.end_behavior.missing_payment_method if form.trial_settings else "create_invoice"
    trial_ends = _trial_end(form, now)
    return state.add(
        "subscription",
        {
            **_nothing_of_a_subscription(),
            "billing_cycle_anchor": now,
            "billing_mode": classic if form.billing_mode and form.billing_mode.type == "classic" else flexible,
            "cancel_at": form.cancel_at,
            "collection_method": form.collection_method,
            "created": now,
            "currency": form.currency or (first["currency"] if first else "usd"),
            "customer": customer["id"],
            "days_until_due": form.days_until_due,
            "default_payment_method": own["id"] if own else None,
            "description": form.description or None,
            "metadata": dict(form.metadata or {}),
            "start_date": now,
            "status": "incomplete",
            "test_clock": customer["test_clock"],
            "trial_end": trial_ends,
            "trial_settings": {"end_behavior": {"missing_payment_method": missing}},
            "trial_start": now if trial_ends else None,
            "_items": [],
        },
    )


def _nothing_of_a_subscription() -> Row:
    """The fields that say nothing until something happens."""
    nothing = (
        *("application", "application_fee_percent", "billing_cycle_anchor_config", "billing_thresholds", "canceled_at"),
        *("customer_account", "default_source", "ended_at", "latest_invoice", "managed_payments"),
        *("next_pending_invoice_item_invoice", "on_behalf_of", "pause_collection", "pending_invoice_item_interval"),
        *("pending_setup_intent", "pending_update", "schedule", "transfer_data"),
    )
    return {
        **dict.fromkeys(nothing),
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_schedules": [],
        "cancel_at_period_end": False,
        "cancellation_details": {"comment": None, "feedback": None, "feedback_option": None, "reason": None},
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {
            "account_tax_ids": None,
            "custom_fields": None,
            "description": None,
            "footer": None,
            "issuer": {"type": "self"},
        },
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "_trial_told": False,
        "_pending": None,
    }
