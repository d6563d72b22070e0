"""Changes of running subscriptions: quantities, prices, intervals, anchors and trials, with what they prorate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from billing.sandbox import amounts, catalogue, customers, invoices, item_charges, lines, payments, subscriptions, times
from billing.sandbox.lines import LineCharge
from billing.sandbox.state import State
from billing.sandbox.wire import Row, declined, refused

SIMPLE = ("description", "collection_method", "days_until_due")


@dataclass(slots=True)
class ChangePlan:
    """What a change comes to before anything is done: the items after it, what is prorated, and what is billed now."""

    items: list[Row]
    at: int
    prorations: list[LineCharge] = field(default_factory=list)
    whole: list[LineCharge] = field(default_factory=list)
    # (item, start, end): the periods that begin with the change.
    periods: list[tuple[Row, int, int]] = field(default_factory=list)
    # Debits that are given back from `at` on.
    credited: list[Row] = field(default_factory=list)
    gone: list[Row] = field(default_factory=list)
    bills_now: bool = False


def update(state: State, sub: Row, form: Any) -> Row:
    """What the API is asked for. Nothing is changed where it is refused. Raises StripeRefusal."""
    subscriptions.alive(sub)
    if sub["pending_update"] and (form.items or form.trial_end is not None):
        raise refused("A pending update must be paid or expire before further changes.", code="pending_update")
    before = state.show(state, sub)
    _check(state, sub, form)
    item_charges.make_prices(state, form.items)
    plan = _plan(state, sub, form)
    if plan is not None and _waits_for_payment(state, sub, form, plan):
        _keep_pending(state, sub, form, plan)
    else:
        _set_fields(state, sub, form)
        if plan is not None:
            carry_out(state, sub, plan)
    subscriptions.told(state, sub, before)
    if plan is not None and not sub["pending_update"]:
        _bill(state, sub, form.proration_behavior, plan)
    return sub


def _check(state: State, sub: Row, form: Any) -> None:
    if form.default_payment_method:
        customer = customers.living(state, sub["customer"])
        form.default_payment_method = customers.own_method(
            state, customer, form.default_payment_method, "default_payment_method"
        )["id"]
    if form.collection_method == "send_invoice" and (form.days_until_due or sub["days_until_due"]) is None:
        raise refused("Missing required param: days_until_due.", param="days_until_due", code="parameter_missing")
    if isinstance(form.trial_end, int) and form.trial_end <= state.time_of(sub):
        raise refused("Invalid timestamp: must be in the future.", param="trial_end")


def _set_fields(state: State, sub: Row, form: Any) -> None:
    given, now = form.model_fields_set, state.time_of(sub)
    for name in SIMPLE:
        if name in given:
            sub[name] = getattr(form, name) or None
    if "default_payment_method" in given:
        sub["default_payment_method"] = form.default_payment_method or None
    if "metadata" in given:
        sub["metadata"] = catalogue.merge(sub["metadata"], form.metadata)
    if "pause_collection" in given:
        paused = form.pause_collection
        sub["pause_collection"] = paused.model_dump() if paused else None
    if "discounts" in given:
        sub["discounts"] = lines.add_discounts(state, sub, form.discounts) if form.discounts else []
    if "cancel_at_period_end" in given:
        leaves = form.cancel_at_period_end
        sub.update(
            cancel_at_period_end=leaves,
            cancel_at=subscriptions.period_end(sub) if leaves else None,
            canceled_at=now if leaves else None,
        )
    if "cancel_at" in given:
        at = {"min_period_end": subscriptions.next_end, "max_period_end": subscriptions.period_end}
        wanted = at[form.cancel_at](sub) if form.cancel_at in at else form.cancel_at or None
        sub.update(cancel_at=wanted, cancel_at_period_end=False, canceled_at=now if wanted else None)
    if form.trial_settings:
        missing = form.trial_settings.end_behavior.missing_payment_method
        sub["trial_settings"] = {"end_behavior": {"missing_payment_method": missing}}


# What a change comes to


def _plan(state: State, sub: Row, form: Any) -> ChangePlan | None:
    """The plan of a change of items, anchor or trial; None where it is about none of these. Raises StripeRefusal."""
    anew = form.billing_cycle_anchor is not None and form.billing_cycle_anchor.type == "now"
    if not form.items and not anew and form.trial_end is None and not form.add_invoice_items:
        return None
    return plan_of(
        state,
        sub,
        form.items or (),
        behaviour=form.proration_behavior,
        at=form.proration_date,
        anew=anew,
        trial_end=form.trial_end,
        extra=form.add_invoice_items or (),
    )


def plan_of(
    state: State,
    sub: Row,
    specs: Sequence[Any],
    *,
    behaviour: str,
    at: int | None = None,
    anew: bool = False,
    trial_end: int | str | None = None,
    extra: Sequence[Any] = (),
) -> ChangePlan:
    """Work a change out. Raises StripeRefusal; the subscription is as it was either way."""
    now = state.time_of(sub)
    at = now if at is None else at
    after, changed = _items_after(state, sub, specs)
    kept = {item["id"] for item in after}
    plan = ChangePlan(items=after, at=at, gone=[item for item in sub["_items"] if item["id"] not in kept])
    item_charges.check_items(state, sub, after)
    prorates, on_trial = behaviour != "none", sub["status"] == "trialing" and trial_end != "now"
    restarts = anew or trial_end == "now" or _interval_changes(state, sub, after) or _begins_to_cost(state, sub, after)
    if isinstance(trial_end, int):
        _into_trial(state, sub, plan, now, trial_end, prorates=prorates)
    elif restarts and not (on_trial and not anew):
        _restart(state, sub, plan, now, prorates=prorates)
    else:
        _in_mid_period(state, sub, plan, changed, at, prorates=prorates and not on_trial)
    plan.bills_now = plan.bills_now or (behaviour == "always_invoice" and bool(plan.prorations))
    for one in extra:
        price, quantity = state.get("price", one.price, "add_invoice_items[0][price]"), one.quantity or 1
        plan.prorations.append(
            LineCharge(price, quantity, now, now, catalogue.cost(price, quantity), subscription=sub["id"])
        )
    return plan


def _items_after(state: State, sub: Row, specs: Sequence[Any]) -> tuple[list[Row], set[str]]:
    """The items as copies with what is changed of them, and the ids of those that are changed or new."""
    after = {item["id"]: dict(item) for item in sub["_items"]}
    changed: set[str] = set()
    for place, spec in enumerate(specs):
        if not spec.id:
            item = item_charges.new_item(state, sub, spec, place)
            del state.tables["subscription_item"][item["id"]]
            after[item["id"]] = item
            changed.add(item["id"])
            continue
        known = after.get(spec.id)
        if known is None:
            raise refused(
                f"No such subscription item: '{spec.id}'", param=f"items[{place}][id]", code="resource_missing"
            )
        if spec.deleted:
            del after[spec.id]
            continue
        if _change_item(state, known, spec, place):
            changed.add(spec.id)
    return list(after.values()), changed


def _change_item(state: State, item: Row, spec: Any, place: int) -> bool:
    """Whether a copy of an item was changed in what it costs. Raises StripeRefusal."""
    old = item["price"], item["quantity"]
    if spec.price:
        item["price"] = item_charges.recurring_price(state, spec.price, f"items[{place}][price]")["id"]
    metered = item_charges.is_metered(state, item)
    if spec.quantity is not None and metered:
        raise refused("You cannot set the quantity for metered plans.", param=f"items[{place}][quantity]")
    if metered:
        item["quantity"] = None
    elif spec.quantity is not None:
        item["quantity"] = spec.quantity
    elif item["quantity"] is None or (spec.price and spec.price != old[0]):
        # A price without a quantity is for one; Stripe asks for both to be told.
        item["quantity"] = item["quantity"] or 1
    if spec.metadata is not None:
        item["metadata"] = catalogue.merge(item["metadata"], spec.metadata)
    return (item["price"], item["quantity"]) != old


def _interval_changes(state: State, sub: Row, after: Sequence[Row]) -> bool:
    """Whether an item that stays is billed in another rhythm: then its period begins anew."""
    old = {item["id"]: item_charges.step_of(state, item) for item in sub["_items"]}
    return any(item["id"] in old and item_charges.step_of(state, item) != old[item["id"]] for item in after)


def _begins_to_cost(state: State, sub: Row, after: Sequence[Row]) -> bool:
    """Whether what was free is so no more: then its period begins anew, too."""

    def is_free(items: Sequence[Row]) -> bool:
        return not any(item_charges.is_metered(state, one) or item_charges.cost_of(state, one) for one in items)

    return is_free(sub["_items"]) and not is_free(after)


def _in_mid_period(state: State, sub: Row, plan: ChangePlan, changed: set[str], at: int, *, prorates: bool) -> None:
    """Unused time of what was billed is given back, and the rest of the period is billed as it is from now on."""
    before = {item["id"]: item for item in sub["_items"]}
    for item in plan.gone:
        if prorates:
            credit(state, sub, item, at, plan)
    for item in plan.items:
        if item["id"] not in changed:
            continue
        step = item_charges.step_of(state, item)
        known = before.get(item["id"])
        if known is None:
            end = times.next_boundary(sub["billing_cycle_anchor"], *step, after=at)
            if sub["status"] == "trialing":
                end = sub["trial_end"]
            plan.periods.append((item, at, end))
        else:
            end = item["current_period_end"]
            if prorates:
                credit(state, sub, known, at, plan)
        if prorates and not item_charges.is_metered(state, item):
            of = times.whole_period(sub["billing_cycle_anchor"], *step, end)
            amount = amounts.part(item_charges.cost_of(state, item), min(end - at, of), of, sub["currency"])
            plan.prorations.append(item_charges.part_charge(state, sub, item, at, end, amount))


def _restart(state: State, sub: Row, plan: ChangePlan, now: int, *, prorates: bool) -> None:
    """A new period of every item begins now, and is billed now."""
    plan.bills_now = True
    for item in sub["_items"] if prorates else ():
        credit(state, sub, item, now, plan)
    for item in plan.items:
        end = times.next_boundary(now, *item_charges.step_of(state, item), after=now)
        if item_charges.is_metered(state, item):
            free = sub["status"] == "trialing"
            start = item["current_period_start"] or now
            plan.whole.append(item_charges.usage_charge(state, sub, item, start, now, free=free))
        else:
            plan.whole.append(item_charges.whole_charge(state, sub, item, now, end))
        plan.periods.append((item, now, end))


def _into_trial(state: State, sub: Row, plan: ChangePlan, now: int, ends: int, *, prorates: bool) -> None:
    """Free days: the period is the trial's, and what was paid for beyond now is given back where it is prorated."""
    plan.bills_now = True
    for item in sub["_items"]:
        if prorates and sub["status"] != "trialing":
            credit(state, sub, item, now, plan)
    for item in plan.items:
        plan.whole.append(item_charges.trial_charge(state, sub, item, now, ends))
        plan.periods.append((item, now, ends))


def credit(state: State, sub: Row, item: Row, at: int, plan: ChangePlan) -> None:
    """Give back what was billed of an item for time after `at`, net of the discounts it was billed with."""
    for debit in item["_debits"]:
        if debit["end"] <= at or any(debit is known for known in plan.credited):
            continue
        start = max(at, debit["start"])
        numerator, denominator = debit["end"] - start, debit["end"] - debit["start"]
        amount = amounts.part(debit["amount"], numerator, denominator, sub["currency"])
        off = [
            (str(id), -amounts.part(value, numerator, denominator, sub["currency"])) for id, value in debit["discounts"]
        ]
        price = state.get("price", debit["price"])
        plan.credited.append(debit)
        plan.prorations.append(
            LineCharge(
                price,
                debit["quantity"],
                start,
                debit["end"],
                -amount,
                subscription=sub["id"],
                item=item["id"],
                proration=True,
                gives_back=debit.get("line", ["", ""]),
                description=f"Unused time on {price['nickname'] or price['id']}",
                discounts=off,
            )
        )


# Carrying it out


def carry_out(state: State, sub: Row, plan: ChangePlan) -> None:
    """Make the subscription what the plan says, and let its prorations wait for an invoice."""
    now, customer = state.time_of(sub), state.get("customer", sub["customer"])
    for item, start, end in plan.periods:
        item.update(current_period_start=start, current_period_end=end)
    known = {item["id"]: item for item in sub["_items"]}
    items = []
    for item in plan.items:
        if item["id"] in known:
            known[item["id"]].update(item)
            items.append(known[item["id"]])
        else:
            state.tables["subscription_item"][item["id"]] = item
            items.append(item)
    sub["_items"] = items
    for debit in plan.credited:
        cut(debit, max(plan.at, debit["start"]))
    if plan.whole:
        _start_periods(sub, plan, now)
    for charge in plan.prorations:
        lines.pending(state, customer, charge)
        item_charges.note_debit(state, charge, charge.discounts or ())
    for item in plan.gone:
        del state.tables["subscription_item"][item["id"]]


def cut(debit: Row, at: int) -> None:
    """What is left of a debit once its time after `at` was given back."""
    length = debit["end"] - debit["start"]
    if not length:
        return
    left = max(0, at - debit["start"])
    debit["amount"] = debit["amount"] * left // length
    debit["discounts"] = [[id, value * left // length] for id, value in debit["discounts"]]
    debit["end"] = max(at, debit["start"])


def _start_periods(sub: Row, plan: ChangePlan, now: int) -> None:
    trial = next((charge for charge in plan.whole if charge.trial and charge.end > now), None)
    if trial is not None:
        sub.update(status="trialing", trial_start=now, trial_end=trial.end, billing_cycle_anchor=trial.end)
        return
    if sub["status"] == "trialing":
        sub["status"] = "active"
    if sub["trial_end"] and sub["trial_end"] > now:
        sub["trial_end"] = now
    sub["billing_cycle_anchor"] = now


def _bill(state: State, sub: Row, behaviour: str, plan: ChangePlan) -> None:
    if not plan.bills_now:
        return
    invoice = item_charges.bill(state, sub, "subscription_update", plan.whole)
    item_charges.settle_up(state, sub, invoice)


def apply(state: State, sub: Row, specs: Sequence[Any], *, behaviour: str) -> None:
    """A change that nobody asks for at this moment, such as a schedule's next phase."""
    before = state.show(state, sub)
    plan = plan_of(state, sub, specs, behaviour=behaviour)
    carry_out(state, sub, plan)
    subscriptions.told(state, sub, before)
    _bill(state, sub, behaviour, plan)


# Changes that wait for their payment


def _waits_for_payment(state: State, sub: Row, form: Any, plan: ChangePlan) -> bool:
    """Whether a change is not made before it is paid, and cannot be paid now. Raises StripeRefusal."""
    due = sum(charge.amount for charge in (*plan.whole, *plan.prorations))
    if form.payment_behavior not in ("error_if_incomplete", "pending_if_incomplete") or due <= 0 or not plan.bills_now:
        return False
    customer = state.get("customer", sub["customer"])
    method = sub["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    if not payments.would_fail(state, method):
        return False
    if form.payment_behavior == "error_if_incomplete":
        raise declined("Your card was declined.", "card_declined")
    return True


def _keep_pending(state: State, sub: Row, form: Any, plan: ChangePlan) -> None:
    """The invoice of a change that is made only if it is paid within a day."""
    customer, now = state.get("customer", sub["customer"]), state.time_of(sub)
    invoice = invoices.draft(
        state,
        customer,
        "subscription_update",
        currency=sub["currency"],
        charges=[*plan.prorations, *plan.whole],
        sub=sub,
        with_pending=False,
        collection_method=sub["collection_method"],
    )
    sub["pending_update"] = {
        "billing_cycle_anchor": now if form.billing_cycle_anchor else None,
        "expires_at": now + subscriptions.INCOMPLETE_S,
        "subscription_items": [state.show(state, item) for item in plan.items],
        "trial_end": form.trial_end if isinstance(form.trial_end, int) else None,
        "trial_from_plan": None,
    }
    sub["_pending"] = {
        "invoice": invoice["id"],
        "specs": [one.model_dump(exclude={"price_data"}) for one in form.items or ()],
        "anew": bool(form.billing_cycle_anchor and form.billing_cycle_anchor.type == "now"),
        "trial_end": form.trial_end,
    }
    item_charges.settle_up(state, sub, invoice)


def make_pending(state: State, sub: Row, invoice: Row) -> None:
    """The invoice of a waiting change is paid: it is made, and nothing of it is billed again."""
    kept, before = sub["_pending"], state.show(state, sub)
    sub.update(pending_update=None, _pending=None)
    specs = [Spec(**one) for one in kept["specs"]]
    plan = plan_of(state, sub, specs, behaviour="none", anew=kept["anew"], trial_end=kept["trial_end"])
    billed = [line["_charge"] for line in invoice["_lines"]]
    plan.prorations, plan.bills_now = [], False
    carry_out(state, sub, plan)
    given_back = {charge.item for charge in billed if charge.amount < 0}
    for item in sub["_items"]:
        if item["id"] in given_back:
            for debit in item["_debits"]:
                cut(debit, min(debit["end"], state.time_of(sub)))
    for charge in billed:
        item_charges.note_debit(state, charge, charge.discounts or ())
    subscriptions.told(state, sub, before, "customer.subscription.pending_update_applied")


def drop_pending(state: State, sub: Row) -> None:
    """Nobody paid for a change in time: it is not made, and its invoice is void."""
    kept, before = sub["_pending"], state.show(state, sub)
    sub.update(pending_update=None, _pending=None)
    subscriptions.told(state, sub, before, "customer.subscription.pending_update_expired")
    invoice = state.find("invoice", kept["invoice"])
    if invoice and invoice["status"] == "open":
        invoices.void(state, invoice)


@dataclass(frozen=True, slots=True)
class Spec:
    """A change of one item, as the API's form has it."""

    id: str = ""
    price: str = ""
    quantity: int | None = None
    deleted: bool = False
    metadata: Any = None
    clear_usage: bool | None = None
