"""Refunds, disputes and credit notes: the window is frozen at what is used, and opened again when the money is back."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest

from billing.models import BillingAccount
from billing.rules import refunds, standing
from billing.rules.refunds import Refund, RefundKind
from billing.stripe_api import objects
from billing.stripe_api.objects import Line, StripeInvoice, StripePayment, StripePrice
from governance import ledger
from governance.models import Alert, Tenant
from tests import factories
from tests.billing.conftest import Deliver, window_of
from tests.billing.events import DAY, START, checkout_completed, event, invoice_paid, seconds, subscription_created

pytestmark = pytest.mark.django_db
STANDARD = factories.nanos("50")
NEXT, AFTER = START + 30 * DAY, START + 60 * DAY
PAID = {"charge": "ch_1", "payment_intent": "pi_1"}


def joined() -> list[dict[str, Any]]:
    return [checkout_completed(), subscription_created(), invoice_paid(**PAID)]


def charge(refunded: int, *, at: Any = START + DAY, **fields: Any) -> dict[str, Any]:
    data = {
        "id": "ch_1",
        "object": "charge",
        "customer": "cus_acme",
        "amount": 5000,
        "amount_refunded": refunded,
        "payment_intent": "pi_1",
        "currency": "usd",
        "created": seconds(START),
        "status": "succeeded",
    }
    return event("charge.refunded", data | fields, created=at)


def failed_refund(amount: int, *, at: Any) -> dict[str, Any]:
    data = {"id": "re_1", "object": "refund", "charge": "ch_1", "amount": amount, "status": "failed"}
    return event("refund.failed", data, created=at)


def dispute(status: str, kind: str = "created", *, at: Any = START + DAY, **fields: Any) -> dict[str, Any]:
    data = {"id": "dp_1", "object": "dispute", "charge": "ch_1", "amount": 5000, "status": status}
    return event(f"charge.dispute.{kind}", data | fields, created=at)


def spend(dollars: str) -> None:
    ledger.record(factories.reporting(dollars), now=START)


def test_a_full_refund_freezes_the_window_at_what_is_used(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    spend("12")
    deliver(charge(5000), now=START + DAY)
    window, account = window_of(), BillingAccount.objects.get()
    assert (window.limit_nanos, window.remaining_nanos) == (factories.nanos("12"), 0)
    assert (account.state, account.reasons) == ("frozen", ["refunded"])
    assert Alert.objects.filter(kind="refunded", cleared_at=None).count() == 1


def test_a_refund_that_failed_opens_it_again_in_either_order(tenant: Tenant, deliver: Deliver) -> None:
    for order in (1, -1):
        deliver(joined())
        spend("1")
        stream = [charge(5000), failed_refund(5000, at=START + 2 * DAY)]
        deliver(stream[::order], now=START + 2 * DAY)
        assert window_of().limit_nanos == STANDARD
        assert BillingAccount.objects.get().state == "active"


def test_a_partial_refund_is_told_and_changes_nothing(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined(), charge(2000))
    assert window_of().limit_nanos == STANDARD
    assert [(alert.kind, alert.severity) for alert in Alert.objects.all()] == [("partial_refund", "info")]


@pytest.mark.parametrize("early", [True, False])
def test_a_dispute_freezes_and_a_won_one_restores(tenant: Tenant, deliver: Deliver, early: bool) -> None:
    """Also where it is heard of before the payment it is about: it names a charge and no customer."""
    deliver(*([dispute("needs_response"), joined()] if early else [joined(), dispute("needs_response")]))
    # No limit is less than a billionth of a dollar.
    assert (BillingAccount.objects.get().state, window_of().remaining_nanos) == ("frozen", 1)
    deliver(dispute("won", "closed", at=START + 3 * DAY), now=START + 3 * DAY)
    assert (BillingAccount.objects.get().state, window_of().limit_nanos) == ("active", STANDARD)
    assert not Alert.objects.filter(kind="disputed", cleared_at=None).exists()


def test_a_dispute_whose_funds_came_back_restores(tenant: Tenant, deliver: Deliver) -> None:
    moved = {"balance_transactions": [{"amount": -5000}, {"amount": 5000}]}
    deliver(joined(), dispute("needs_response"))
    deliver(dispute("under_review", "funds_reinstated", at=START + 2 * DAY, **moved))
    assert window_of().limit_nanos == STANDARD


def test_an_inquiry_is_no_dispute_yet(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined(), dispute("warning_needs_response"))
    assert window_of().limit_nanos == STANDARD


def test_a_lost_dispute_is_owed_by_the_next_period_and_a_refund_is_not(tenant: Tenant, deliver: Deliver) -> None:
    renewal = {"billing_reason": "subscription_cycle", "period_start": NEXT, "period_end": AFTER}
    deliver(joined())
    spend("30")
    deliver(charge(5000), invoice_paid(**renewal), now=NEXT)
    assert window_of().limit_nanos == STANDARD
    deliver(dispute("lost", "closed", at=NEXT + DAY), now=NEXT + DAY)
    assert window_of().limit_nanos == factories.nanos("20")
    assert "owed:30.00" in BillingAccount.objects.get().reasons


@pytest.mark.parametrize("how", ["credit note", "unlinked charge"])
def test_what_goes_back_otherwise_counts_too(tenant: Tenant, deliver: Deliver, how: str) -> None:
    """A credit note names the invoice; a charge that no object ties to one is told by its amount and time."""
    deliver(checkout_completed(), subscription_created(), invoice_paid())
    note = {
        "id": "cn_1",
        "object": "credit_note",
        "customer": "cus_acme",
        "amount": 5000,
        "status": "issued",
        "invoice": invoice_paid()["data"]["object"]["id"],
    }
    deliver(event("credit_note.created", note) if how == "credit note" else charge(5000))
    assert BillingAccount.objects.get().state == "frozen"


# What follows is about the rules alone, without an account.
def said(kind: str, id: str = "x_1", *, status: str = "succeeded", at_s: int = 0, **fields: Any) -> refunds.Known:
    values: dict[str, Any] = {"amount": 5000, "charge_id": id if kind == "charge" else "ch_1"}
    return refunds.Known(StripePayment(id, kind, status, **values | fields), at_s)


def became(*known: refunds.Known, **fields: Any) -> Refund:
    """What became of an invoice of 5000 that was paid by `ch_1`."""
    paid = StripeInvoice(
        "in_1", "sub_1", "paid", "", (), **{"amount_paid": 5000} | fields, payments=frozenset({"ch_1"})
    )
    return standing.of_invoices([paid], known).get("in_1", Refund(RefundKind.NONE))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("needs_response", "DISPUTED"),
        ("under_review", "DISPUTED"),
        ("lost", "DISPUTED"),
        ("won", "NONE"),
        ("prevented", "NONE"),
        ("warning_needs_response", "NONE"),
        ("warning_under_review", "NONE"),
        ("warning_closed", "NONE"),
    ],
)
def test_a_dispute_counts_unless_it_takes_no_money(status: str, kind: str) -> None:
    assert became(said("dispute", status=status)).kind == RefundKind[kind]
    assert became(said("dispute", status=status, moved=0)) == Refund(RefundKind.NONE)
    assert (
        became(said("dispute", status=status, moved=-5000)).kind
        == RefundKind["NONE" if status == "won" else "DISPUTED"]
    )


@pytest.mark.parametrize(
    ("status", "lost"),
    [("needs_response", 0), ("appeal_under_review", 0), ("warning_under_review", 0), ("lost", 1), ("prevented", 1)],
)
def test_what_a_dispute_took_is_lost_once_nobody_can_win_it(status: str, lost: int) -> None:
    found = became(said("dispute", status=status, moved=-5000))
    assert (found.undone.lost, found.undone.lost_in_dispute, found.is_open) == (1, lost, not lost)


@pytest.mark.parametrize(
    ("amount", "kind"), [(0, "NONE"), (1, "PARTIAL"), (4999, "PARTIAL"), (5000, "REFUNDED"), (5001, "REFUNDED")]
)
def test_all_that_was_paid_is_a_refund_and_less_a_partial_one(amount: int, kind: str) -> None:
    assert became(said("charge", "ch_1", refunded=amount)) == Refund(RefundKind[kind], amount)
    assert became(credited=amount) == Refund(RefundKind[kind], amount)
    assert became(said("credit_note", status="issued", amount=amount)) == Refund(RefundKind[kind], amount)
    assert became(said("credit_note", status="void", amount=amount)) == Refund(RefundKind.NONE)


def test_a_credit_notes_refund_counts_once_and_two_notes_twice() -> None:
    note, other = (said("credit_note", f"cn_{number}", status="issued", amount=1000) for number in (1, 2))
    assert became(said("charge", "ch_1", refunded=1000), note, credited=1000) == Refund(RefundKind.PARTIAL, 1000)
    assert became(note, other).refunded == 2000


def test_what_is_credited_without_a_refund_adds_to_what_is_refunded() -> None:
    note = said("credit_note", "cn_1", status="issued", amount=2500, unrefunded=2500)
    half = said("charge", "ch_1", refunded=2500)
    assert became(half, note, credited=2500) == Refund(RefundKind.REFUNDED, 5000)
    void = said("credit_note", "cn_1", status="void", amount=2500, unrefunded=2500)
    assert became(half, void) == Refund(RefundKind.PARTIAL, 2500)


@pytest.mark.parametrize(
    ("fields", "unrefunded"),
    [
        ({"refunds": []}, 3000),
        ({"refunds": [{"amount_refunded": 1000}, {"amount_refunded": 500}]}, 1500),
        ({"refunds": [{"amount_refunded": 3000}]}, 0),
        ({"refund": "re_1"}, 0),
    ],
)
def test_a_credit_note_says_what_no_refund_carries(fields: dict[str, Any], unrefunded: int) -> None:
    note = {"id": "cn_1", "object": "credit_note", "amount": 5000, "post_payment_amount": 3000} | fields
    assert objects.payment(note).unrefunded == unrefunded


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_a_refund_that_failed_since_is_no_refund(status: str) -> None:
    charge = said("charge", "ch_1", refunded=3000, at_s=10)
    for at_s, left in ((9, 3000), (10, 2000), (11, 2000)):
        failed = said("refund", "re_1", status=status, amount=1000, at_s=at_s)
        assert became(failed, charge).refunded == left
    unlinked = said("refund", "re_1", status=status, amount=1000, at_s=11, charge_id="", invoice_id="in_1")
    assert became(unlinked, charge).refunded == 2000
    more = said("refund", "re_1", status=status, amount=4000, at_s=11)
    assert became(more, charge) == Refund(RefundKind.NONE)
    assert became(said("refund", "re_1", amount=1000, at_s=11), charge).refunded == 3000


def test_refunds_of_several_charges_add_up_and_a_failed_charge_takes_nothing_off() -> None:
    first, second = said("charge", "ch_1", refunded=1000), said("charge", "ch_2", refunded=2000, invoice_id="in_1")
    declined = said("charge", "ch_3", status="failed", invoice_id="in_1")
    assert became(first, second, declined).refunded == 3000
    others = said("refund", "re_1", status="failed", amount=1000, at_s=1, charge_id="ch_2")
    assert became(first, second, others).refunded == 2000


def test_a_payment_without_an_invoice_is_known_by_its_intent_and_by_its_charges() -> None:
    charge = said("charge", "ch_1", intent_id="pi_1", refunded=1000)
    other = said("charge", "ch_2", intent_id="pi_2", refunded=5000)
    loose = said("dispute", "dp_0", status="lost", charge_id="")
    assert refunds.of_intent("pi_1", [charge, other, loose]) == Refund(RefundKind.PARTIAL, 1000)
    assert refunds.of_intent("pi_2", [charge, other, loose]) == Refund(RefundKind.REFUNDED, 5000)
    by_charge = said("dispute", "dp_1", status="lost")
    assert refunds.of_intent("pi_1", [by_charge, charge]) == Refund(RefundKind.DISPUTED, 5000)
    assert refunds.of_intent("pi_2", [by_charge, charge, other]) == Refund(RefundKind.REFUNDED, 5000)
    by_intent = said("dispute", "dp_1", status="lost", charge_id="", intent_id="pi_1")
    assert refunds.of_intent("pi_1", [by_intent, charge]) == Refund(RefundKind.DISPUTED, 5000)
    assert refunds.of_intent("", [charge, loose, said("charge", "", refunded=5000)]) == Refund(RefundKind.NONE)
    # An attempt that was declined before has paid for nothing.
    declined = said("charge", "ch_0", intent_id="pi_2", status="failed")
    assert refunds.of_intent("pi_2", [declined, other]) == Refund(RefundKind.REFUNDED, 5000)
    assert refunds.of_intent("pi_2", [declined, other]).gone == 1
    # Another's dispute that names no charge is not that of an intent whose charge is not known either.
    unknown = said("credit_note", "cn_1", status="issued", amount=1, charge_id="", intent_id="pi_1")
    assert refunds.of_intent("pi_1", [unknown, loose]) == Refund(RefundKind.REFUNDED, 1)


def paid_on(day: int, id: str = "in_1", **fields: Any) -> StripeInvoice:
    values: dict[str, Any] = {"amount_paid": 5000, "currency": "usd", "created_at": START + day * DAY}
    return StripeInvoice(id, "sub_1", "paid", "", **{"lines": ()} | values | fields)


def loose_charge(at: Any = START, **fields: Any) -> refunds.Known:
    return said("charge", "ch_9", **{"refunded": 5000, "currency": "usd", "created_at": at} | fields)


def test_what_names_no_invoice_belongs_to_the_nearest_of_its_amount() -> None:
    near, far = paid_on(1, "in_1"), paid_on(-2, "in_2")
    assert list(standing.of_invoices([far, near], [loose_charge()])) == ["in_1"]
    assert list(standing.of_invoices([paid_on(3)], [loose_charge()])) == ["in_1"]
    late = START + 3 * DAY + timedelta(seconds=1)
    assert list(standing.of_invoices([paid_on(0)], [loose_charge(late)])) == []
    dispute_later = said("dispute", "dp_9", status="lost", charge_id="ch_9", currency="usd", created_at=late)
    assert list(standing.of_invoices([paid_on(0)], [dispute_later])) == ["in_1"]


@pytest.mark.parametrize(
    "invoice",
    [
        paid_on(0, amount_paid=4999),
        paid_on(0, currency="eur"),
        paid_on(0, created_at=None),
        paid_on(0, payments=frozenset({"ch_1"})),
    ],
    ids=["another amount", "another currency", "no time", "paid by a charge that it names"],
)
def test_an_invoice_that_does_not_fit_is_not_guessed(invoice: StripeInvoice) -> None:
    assert standing.of_invoices([invoice], [loose_charge()]) == {}


def test_an_invoice_is_guessed_once_and_a_refund_never_guesses() -> None:
    two = [loose_charge(), said("charge", "ch_8", refunded=5000, currency="usd", created_at=START)]
    found = standing.of_invoices([paid_on(0, "in_1"), paid_on(1, "in_2")], two)
    assert {id: one.refunded for id, one in found.items()} == {"in_1": 5000, "in_2": 5000}
    free = paid_on(0, amount_paid=0)
    assert standing.of_invoices([free], [loose_charge(amount=0)]) == {}
    assert standing.of_invoices([paid_on(0, currency="")], [loose_charge()]).keys() == {"in_1"}
    assert standing.of_invoices([paid_on(0)], [loose_charge(created_at=None)]) == {}
    declined = said("charge", "ch_7", status="failed", currency="usd", created_at=START)
    assert standing.of_invoices([paid_on(0)], [declined, loose_charge()]).keys() == {"in_1"}
    for intent_id in ("", "pi_9"):
        fields = {"charge_id": "", "intent_id": intent_id, "currency": "usd", "created_at": START}
        assert standing.of_invoices([paid_on(0)], [said("credit_note", "cn_1", status="issued", **fields)]) == {}
        # One that never guesses keeps no other from it.
        refund = said("refund", "a_1", **fields)
        assert standing.of_invoices([paid_on(0)], [refund, loose_charge()]).keys() == {"in_1"}
    assert standing.of_invoices([paid_on(0, amount_paid=1)], [loose_charge(amount=1)]).keys() == {"in_1"}


def test_a_charge_ties_the_names_together_that_others_know_one_of() -> None:
    charge = said("charge", "ch_1", intent_id="pi_1", invoice_id="in_1")
    by_intent = said("dispute", "dp_1", status="lost", charge_id="", intent_id="pi_1")
    by_charge = said("dispute", "dp_1", status="lost", charge_id="ch_1")
    for one in (by_intent, by_charge):
        assert standing.of_invoices([paid_on(0)], [charge, one]) == {"in_1": Refund(RefundKind.DISPUTED, 5000)}
    guessed = loose_charge(intent_id="pi_1", refunded=0)
    assert standing.of_invoices([paid_on(0)], [guessed, by_intent]) == {"in_1": Refund(RefundKind.DISPUTED, 5000)}


def test_an_invoice_that_says_how_it_was_paid_is_paid_by_no_charge_that_it_does_not_name(tenant: Tenant) -> None:
    at = {"created": seconds(START)}
    plain = {"id": "in_1", "object": "invoice", "status": "paid", "amount_paid": 5000, **at}
    beside = charge(5000)["data"]["object"]
    known = [refunds.Known(objects.payment(beside), seconds(START))]
    told: dict[str, Any]
    for told, kind in (
        ({}, RefundKind.REFUNDED),
        ({"amount_paid_off_stripe": 0}, RefundKind.REFUNDED),
        ({"amount_paid_off_stripe": 5000}, None),
        ({"payments": {"object": "list", "data": []}}, None),
        ({"payments": {"object": "list", "data": [{"payment": {"charge": "ch_2"}}]}}, None),
        ({"payments": {"object": "list", "data": [{"payment": {"charge": "ch_1"}}]}}, RefundKind.REFUNDED),
    ):
        found = standing.of_invoices([objects.invoice(plain | told)], known).get("in_1")
        assert (found.kind if found else None) == kind


@pytest.mark.parametrize(
    ("refund", "lost"),
    [
        (Refund(RefundKind.NONE), 0),
        (Refund(RefundKind.PARTIAL, 40, 50, 50), 0),
        (Refund(RefundKind.REFUNDED, 50, 50, 50), 1),
        # Beside a credit of 150 on the same invoice.
        (Refund(RefundKind.REFUNDED, 50, 50, 200), Fraction(1, 4)),
        (Refund(RefundKind.REFUNDED, 90, 50, 50), 1),
        (Refund(RefundKind.DISPUTED, 10, 50, 50), Fraction(1, 5)),
        (Refund(RefundKind.DISPUTED), 1),
    ],
)
def test_what_went_back_whole_or_is_in_dispute_is_lost(refund: Refund, lost: Fraction) -> None:
    assert refund.undone.lost == lost


def test_a_dispute_is_over_what_it_says_or_all() -> None:
    paid = {"id": "in_1", "object": "invoice", "status": "paid", "total": 5000, "amount_paid": 5000, "charge": "ch_1"}
    credited = [{"id": "il_1", "amount": -15_000}, {"id": "il_2", "amount": 20_000}]

    def lost(*amounts: int, refunded: int = 0, **more: Any) -> Fraction:
        known = [charge(refunded)["data"]["object"]]
        known += [
            dispute("needs_response", id=f"dp_{number}", amount=amount)["data"]["object"]
            for number, amount in enumerate(amounts)
        ]
        read = [refunds.Known(objects.payment(one), seconds(START)) for one in known]
        return standing.of_invoices([objects.invoice(paid | more)], read)["in_1"].undone.lost

    assert [lost(500), lost(500, 500), lost(5000), lost(9000)] == [Fraction(1, 10), Fraction(1, 5), 1, 1]
    # What was refunded beside it is gone by now; one that does not say how much is over all.
    assert [lost(500, refunded=4500), lost(500, refunded=4499), lost(0)] == [1, Fraction(1, 10), 1]
    assert lost(5000, lines={"data": credited}) == Fraction(1, 4)


def on_top(amount: int) -> dict[str, Any]:
    return {"taxes": [{"amount": amount, "tax_behavior": "exclusive"}]}


def of_old(amount: int, *, inclusive: bool) -> dict[str, Any]:
    return {"tax_amounts": [{"amount": amount, "inclusive": inclusive}]}


@pytest.mark.parametrize(
    ("total", "taxes"),
    [
        (7500, ({}, {})),
        (8925, (on_top(1900), on_top(-475))),
        # As older versions say it; and in the price.
        (8925, (of_old(1900, inclusive=False), of_old(-475, inclusive=False))),
        (7500, (of_old(1597, inclusive=True), of_old(-399, inclusive=True))),
        (7500, ({"taxes": [{"amount": 1597, "tax_behavior": "inclusive"}]}, {"taxes": None})),
    ],
)
def test_what_credits_paid_for_stands_whatever_tax_is_on_it(total: int, taxes: tuple[Any, Any]) -> None:
    """An upgrade of $100 with a credit of $25, which is refunded whole."""
    lines = [{"id": "il_1", "amount": 10_000} | taxes[0], {"id": "il_2", "amount": -2500} | taxes[1]]
    paid = {"id": "in_1", "object": "invoice", "status": "paid", "total": total, "amount_paid": total, "charge": "ch_1"}
    known = [said("charge", "ch_1", amount=total, refunded=total)]
    invoice = objects.invoice(paid | {"lines": {"data": lines}})
    assert standing.of_invoices([invoice], known)["in_1"].undone.lost == Fraction(3, 4)


def test_of_lines_whose_taxes_differ_each_has_its_own() -> None:
    """A plan of $50 with 7 % and a top-up of $20 with 19 %: $23.80 are the top-up's, and half of that is half of it."""
    lines = [{"id": "il_1", "amount": 5000, **on_top(350)}, {"id": "il_2", "amount": 2000, **on_top(380)}]
    invoice = objects.invoice({"id": "in_1", "total": 7730, "charge": "ch_1", "lines": {"data": lines}})

    def taken(cents: int) -> Fraction:
        known = [said("charge", "ch_1", amount=7730, refunded=cents)]
        return refunds.taken_back(standing.of_invoices([invoice], known)["in_1"], invoice, [invoice.lines[1]])[0]

    assert [taken(cents) for cents in (1190, 2380, 7000)] == [Fraction(1, 2), 1, 1]


def sold_once(id: str, amount: int, **fields: Any) -> Line:
    values = {"recurring": False, "proration": False, "amount": amount, "listed": amount} | fields
    return Line(id, StripePrice("price_x"), 1, None, None, **values)


NAMED: dict[str, Any] = {"payments": frozenset({"ch_1"}), "tells_payments": True}
PLAN, TOPUP, OTHER = sold_once("il_plan", 5000), sold_once("il_topup", 2000), sold_once("il_other", 1000)


def taken(
    kind: RefundKind, refunded: int, *sold: Line, lines: Any = None, beside: int = 0, paid: int = 8000
) -> list[Fraction]:
    """What went back of what an invoice of $80, with a tax of nothing, sold once."""
    gone = Refund(kind, refunded, paid, paid, beside, lines or {}, is_open=kind == RefundKind.DISPUTED)
    invoice = StripeInvoice("in_1", "sub_1", "paid", "", (PLAN, TOPUP, OTHER), total=paid)
    return refunds.taken_back(gone, invoice, sold or (TOPUP, OTHER))


def test_a_refund_in_part_is_of_what_was_sold_once_before_it_is_of_a_plan() -> None:
    half, all = [Fraction(1, 2)] * 2, [Fraction(1)] * 2
    assert [taken(RefundKind.PARTIAL, cents) for cents in (1500, 3000, 7000)] == [half, all, all]
    assert taken(RefundKind.REFUNDED, 8000) == all
    assert taken(RefundKind.NONE, 0) == [0, 0]
    # Tax went back with it.
    assert taken(RefundKind.PARTIAL, 1800, paid=9600) == half


def test_a_refund_in_part_is_of_the_lines_that_a_credit_note_is_of() -> None:
    noted = {"il_topup": Fraction(1, 2)}
    assert taken(RefundKind.PARTIAL, 1000, lines=noted) == [Fraction(1, 2), 0]
    assert taken(RefundKind.PARTIAL, 2000, lines=noted) == [Fraction(3, 4), Fraction(1, 2)]
    assert taken(RefundKind.PARTIAL, 5000, lines={"il_plan": Fraction(1)}) == [0, 0]
    # A note that says more than went back takes what it says.
    assert taken(RefundKind.PARTIAL, 0, lines={"il_plan": Fraction(1)}) == [0, 0]


def test_a_dispute_in_part_is_of_everything_alike_and_a_refund_beside_it_is_not() -> None:
    assert taken(RefundKind.DISPUTED, 4000) == [Fraction(1, 2)] * 2
    assert taken(RefundKind.DISPUTED, 4000, beside=600) == [Fraction(7, 10)] * 2
    assert taken(RefundKind.DISPUTED, 4000, beside=2400) == [Fraction(1)] * 2
    assert taken(RefundKind.DISPUTED, 8000) == [Fraction(1)] * 2


def test_what_credits_paid_for_stands_of_everything_alike_when_all_the_rest_goes_back() -> None:
    """Of lines of $80 and a credit of $20, of which $60 were paid and are refunded."""
    credit = sold_once("il_credit", -2000)
    invoice = StripeInvoice(
        "in_1", "sub_1", "paid", "", (PLAN, TOPUP, OTHER, credit), total=6000, amount_paid=6000, **NAMED
    )

    def left(*notes: tuple[str, int]) -> list[int]:
        known = [said("charge", "ch_1", amount=6000, refunded=6000)]
        fields: dict[str, Any] = {"invoice_id": "in_1", "charge_id": "", "amount": sum(amount for _, amount in notes)}
        known += [said("credit_note", "cn_1", status="issued", lines=notes, **fields)] if notes else []
        found = standing.of_invoices([invoice], known)
        [gone, lost] = found["in_1"], standing.lost(found)
        plan = max(lost["in_1"], lost.get("il_plan", Fraction(0)))
        taken = [plan, *refunds.taken_back(gone, invoice, [TOPUP, OTHER])]
        return [round(one.amount * (1 - share)) for one, share in zip((PLAN, TOPUP, OTHER), taken, strict=True)]

    assert left() == [1250, 500, 250]
    # What a note took whole is gone, and what a credit paid for is of the others.
    assert left(("il_topup", 2000)) == [1667, 0, 333]
    assert left(("il_plan", 5000)) == [0, 1333, 667]
    assert left(("il_topup", 1000)) == [1250, 500, 250]
    assert left(("il_plan", 5000), ("il_other", 1000)) == [0, 2000, 0]
    assert left(("il_plan", 5000), ("il_topup", 2000), ("il_other", 1000)) == [0, 0, 0]


def test_nothing_goes_back_of_what_nothing_was_paid_for() -> None:
    free = sold_once("il_free", 0, listed=2000)
    assert taken(RefundKind.PARTIAL, 1000, free) == [0]
    invoice = StripeInvoice("in_1", "sub_1", "paid", "", (free,))
    assert refunds.taken_back(Refund(RefundKind.PARTIAL, 10, 100, 100), invoice, [free]) == [0]
    assert taken(RefundKind.REFUNDED, 8000, free) == [1]


def test_what_credit_notes_are_of_is_told_by_line() -> None:
    def note(id: str, *lines: tuple[str, int], status: str = "issued") -> refunds.Known:
        return said("credit_note", id, status=status, invoice_id="in_1", charge_id="", amount=1, lines=lines)

    discounted = sold_once("il_topup", 1000, listed=2000)
    invoice = paid_on(0, lines=(PLAN, discounted))
    notes = [note("cn_1", ("il_topup", 500), ("il_plan", 4000)), note("cn_2", ("il_plan", 4000), ("il_else", 9))]
    found = standing.of_invoices([invoice], [*notes, note("cn_3", ("il_topup", 2000), status="void")])
    # By what a line was before its discount, and of none more than all.
    assert found["in_1"].lines == {"il_topup": Fraction(1, 4), "il_plan": 1}
    assert standing.lost(found) == {"in_1": 0, "il_plan": 1}
    read = objects.payment({"object": "credit_note", "id": "cn_1", "lines": {"data": [{"amount": 7}, NOTED]}})
    assert read.lines == (("il_1", 8),)


NOTED = {"amount": 8, "invoice_line_item": "il_1"}


def test_how_much_of_a_payment_went_back_counts_gifts() -> None:
    kind = RefundKind
    assert [Refund(kind.NONE).gone, Refund(kind.PARTIAL, 10, 50).gone, Refund(kind.REFUNDED, 60, 50).gone] == [
        0,
        Fraction(1, 5),
        1,
    ]
    assert [Refund(kind.DISPUTED).gone, Refund(kind.DISPUTED, 10, 50, beside=10).gone] == [1, Fraction(2, 5)]
    # Of that no more is owed than is in dispute.
    assert [Refund(kind.REFUNDED, 50, 50, 50).undone.disputed, Refund(kind.PARTIAL, 10, 50, 50).undone.disputed] == [
        0,
        0,
    ]
    assert [Refund(kind.DISPUTED, is_open=True).undone.disputed, Refund(kind.DISPUTED).undone.disputed] == [1, 0]
    assert Refund(kind.DISPUTED, 10, 50, 50, 10, is_open=True).undone.disputed == Fraction(1, 5)


def test_of_what_is_in_disputes_that_is_lost_which_says_so() -> None:
    def lost(*disputes: tuple[str, int], refunded: int = 0, paid: int = 5000) -> list[Fraction]:
        known = [said("charge", "ch_1", amount=paid, refunded=refunded)] if paid else []
        known += [said("dispute", f"dp_{number}", status=how, amount=of) for number, (how, of) in enumerate(disputes)]
        found = became(*known, amount_paid=paid)
        return [found.undone.disputed, found.undone.lost_in_dispute]

    assert lost(("needs_response", 5000)) == lost(("under_review", 0)) == lost(("charge_refunded", 5000)) == [1, 0]
    assert lost(("lost", 5000)) == lost(("lost", 0)) == [1, 1]
    assert lost(("lost", 1000)) == [Fraction(1, 5)] * 2
    assert lost(("won", 5000), ("lost", 1000)) == [Fraction(1, 5)] * 2
    assert lost(("lost", 1000), ("under_review", 1500)) == [Fraction(1, 2), Fraction(1, 5)]
    assert lost(("lost", 1000), ("under_review", 0)) == [1, Fraction(1, 5)]
    # What was refunded beside it is no part of it, also where nothing is left, once nothing may be won any more.
    assert lost(("lost", 1000), refunded=4000) == [Fraction(1, 5)] * 2
    assert lost(("lost", 1000), ("under_review", 1000), refunded=3000) == [1, Fraction(1, 5)]
    # Nobody knows what was paid.
    assert [lost((how, 5000), paid=0) for how in ("lost", "under_review")] == [[1, 1], [1, 0]]
