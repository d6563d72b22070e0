"""What credits carry on of payments that went back; in cents, of months of $50 and $200."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from billing.rules import standing
from billing.rules.credits import charges_of, paid_with
from billing.rules.refunds import Known, Losses, Refund, RefundKind
from billing.stripe_api.objects import Line, StripeInvoice, StripePayment, StripePrice

DAY = timedelta(days=1)
START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + 30 * DAY
HALF = Fraction(1, 2)


def line(id: str, amount: int, price: str = "price_a", *, day: int = 0, **fields: Any) -> Line:
    values = {"credit": amount < 0, "proration": day > 0, "recurring": day == 0, "listed": amount} | fields
    return Line(id, StripePrice(id=price), 1, START + day * DAY, END, amount=amount, **values)


def invoice(id: str, *lines: Line, day: int = 0, **fields: Any) -> StripeInvoice:
    total = sum(one.amount for one in lines)
    values = {"total": total, "amount_paid": max(0, total), "created_at": START + day * DAY} | fields
    return StripeInvoice(id, "sub_1", "paid", "", lines, payments=frozenset({f"ch_{id}"}), **values)


def back(invoice: StripeInvoice, kind: str = "charge", **fields: Any) -> Known:
    """Its payment went back whole."""
    amount, charge_id = invoice.amount_paid, f"ch_{invoice.id}"
    id = charge_id if kind == "charge" else f"{kind}_{invoice.id}"
    values = {"status": "succeeded", "refunded": amount if kind == "charge" else 0} | fields
    return Known(StripePayment(id, kind, amount=amount, charge_id=charge_id, **values), 0)


def lost(*invoices: StripeInvoice, to: tuple[Known, ...]) -> dict[str, Fraction]:
    return standing.lost(standing.of_invoices(invoices, to))


FIRST = invoice("in_1", line("il_1", 20_000))
# Half of it is credited, and pays for $100 of the other plan together with $50.
OTHER = invoice("in_2", line("il_2", -10_000, day=15), line("il_3", 15_000, "price_b", day=15), day=15)


class TestACharge:
    def test_is_the_one_that_was_billed_last_to_the_same_end(self) -> None:
        again = invoice("in_3", line("il_4", -7_500, "price_b", day=20), line("il_5", 5_000, day=20), day=20)
        last = invoice("in_4", line("il_6", -2_500, day=25), day=25)
        found = charges_of([FIRST, OTHER, again, last])
        assert {id: charge.id for id, (_, charge) in found.items()} == {"il_2": "il_1", "il_4": "il_3", "il_6": "il_5"}

    def test_is_of_the_same_invoice_where_it_was_charged_and_credited_at_once(self) -> None:
        both = [line("il_4", -9_000, "price_b", day=20), line("il_3", 15_000, "price_b", day=15)]
        found = charges_of([FIRST, invoice("in_2", *both, line("il_2", -10_000, day=15), day=20)])
        assert {id: charge.id for id, (_, charge) in found.items()} == {"il_4": "il_3", "il_2": "il_1"}

    def test_is_the_last_around_a_credit_that_ends_before_any(self) -> None:
        """As a change before the last one's time has it, or an end in mid-period."""
        until = START + 20 * DAY
        early = [
            replace(one, ends_at=until)
            for one in (line("il_6", -1_000, day=15), line("il_7", -1_000, "price_b", day=15))
        ]
        found = charges_of([FIRST, OTHER, invoice("in_3", *early, day=20)])
        assert {id: charge.id for id, (_, charge) in found.items()} == {"il_2": "il_1", "il_6": "il_1", "il_7": "il_3"}
        before = replace(line("il_6", -1_000, "price_b", day=14), ends_at=until)
        dateless = replace(line("il_8", -1_000, day=15), ends_at=None)
        assert charges_of([FIRST, OTHER, invoice("in_3", before, dateless)]).keys() == {"il_2"}
        once = replace(line("il_9", 100), starts_at=None)
        assert charges_of([invoice("in_3", once), invoice("in_4", early[0])]) == {}

    def test_is_not_known_of_what_no_paid_invoice_charged_nor_of_what_has_no_price(self) -> None:
        assert charges_of([OTHER, invoice("in_3", line("il_4", 500, ""), line("il_5", -500, ""))]) == {}


def test_an_upgrade_loses_what_its_credit_took_back_and_the_credit_takes_back_nothing() -> None:
    assert lost(FIRST, OTHER, to=(back(FIRST),)) == {"in_1": 1, "in_2": Fraction(2, 3), "il_2": 1}
    assert lost(FIRST, OTHER, to=(back(OTHER),)) == {"in_2": Fraction(1, 3), "il_2": 0}
    assert lost(FIRST, OTHER, to=(back(FIRST), back(OTHER))) == {"in_1": 1, "in_2": 1, "il_2": 1}


def test_what_becomes_of_an_older_payment_is_told_of_what_it_paid_for() -> None:
    def told(*known: Known) -> dict[str, str]:
        return {id: one.reason for id, one in standing.of_invoices([FIRST, OTHER], known).items()}

    assert told(back(FIRST)) == {"in_1": "refunded", "in_2": "credit_undone"}
    assert told(back(FIRST, "dispute", status="lost")) == {"in_1": "disputed", "in_2": "disputed"}
    assert Refund(RefundKind.NONE).reason == ""


@pytest.mark.parametrize(("status", "lost_in_it"), [("lost", 1), ("needs_response", 0)])
def test_a_dispute_is_carried_on_as_one(status: str, lost_in_it: int) -> None:
    found = standing.of_invoices([FIRST, OTHER], [back(FIRST, "dispute", status=status)])
    share = Fraction(2, 3)
    assert found["in_2"].undone == Losses(share, share, share * lost_in_it)
    assert standing.disputed(found) == {"in_1": 1, "in_2": share, "il_2": 1}
    assert standing.lost_in_dispute(found) == {"in_1": lost_in_it, "in_2": share * lost_in_it, "il_2": lost_in_it}


def test_what_an_invoice_credits_of_itself_pays_for_nothing() -> None:
    charged = [line("il_2", 15_000, "price_b", day=15), line("il_3", -9_000, "price_b", day=20)]
    only = invoice("in_2", *charged, day=20)
    assert lost(only, to=(back(only),)) == {"in_2": 1, "il_3": 1}


def test_of_a_line_that_a_credit_note_took_whole_a_credit_takes_back_nothing() -> None:
    bought = invoice("in_1", line("il_1", 20_000), line("il_0", 5_000, "price_once"))
    note = Known(
        StripePayment("cn_1", "credit_note", "issued", 20_000, invoice_id="in_1", lines=(("il_1", 20_000),)), 0
    )
    assert lost(bought, OTHER, to=(note,)) == {"in_1": 0, "il_1": 1, "in_2": Fraction(2, 3), "il_2": 1}


class TestABalance:
    LESS = invoice(
        "in_2",
        line("il_2", -10_000, day=15),
        line("il_3", 2_500, "price_b", day=15),
        day=15,
        balance_after=-7_500,
    )

    def month(self, **fields: Any) -> StripeInvoice:
        values = {"amount_paid": 0, "balance_before": -7_500, "balance_after": -2_500} | fields
        return invoice("in_3", line("il_4", 5_000, "price_b", recurring=True), day=30, **values)

    def test_carries_on_what_credits_left_there(self) -> None:
        last = invoice("in_4", line("il_5", 5_000, "price_b"), day=60, amount_paid=2_500, balance_before=-2_500)
        found = lost(FIRST, self.LESS, self.month(), last, to=(back(FIRST),))
        assert found == {"in_1": 1, "in_2": 1, "il_2": 1, "in_3": 1, "in_4": HALF}

    def test_carries_as_much_as_it_has_left_and_its_share_of_what_was_added(self) -> None:
        taken_away = self.month(balance_before=-5_000, balance_after=0)
        assert lost(FIRST, self.LESS, taken_away, to=(back(FIRST),))["in_3"] == 1
        given_more = self.month(balance_before=-15_000, balance_after=-10_000)
        assert lost(FIRST, self.LESS, given_more, to=(back(FIRST),))["in_3"] == HALF
        none = self.month(balance_before=0, balance_after=0, amount_paid=5_000)
        assert "in_3" not in lost(FIRST, self.LESS, none, to=(back(FIRST),))
        owed = self.month(balance_before=500, balance_after=0, amount_paid=5_500)
        assert "in_3" not in lost(FIRST, self.LESS, owed, to=(back(FIRST),))

    def test_is_each_currencys_own(self) -> None:
        other = invoice("in_9", line("il_9", 5_000, "price_c"), day=20, currency="eur")
        assert lost(FIRST, self.LESS, other, self.month(), to=(back(FIRST),))["in_3"] == 1

    def test_pays_when_an_invoice_is_finalized(self) -> None:
        """The month was a draft when the credit came about."""
        month = self.month(created_at=START + 14 * DAY, finalized_at=START + 16 * DAY)
        assert lost(FIRST, self.LESS, month, to=(back(FIRST),))["in_3"] == 1

    def test_leaves_nothing_of_a_month_whose_rest_was_refunded(self) -> None:
        month = self.month(balance_before=-2_500, balance_after=0, amount_paid=2_500)
        assert lost(FIRST, self.LESS, month, to=(back(FIRST),))["in_3"] == HALF
        assert lost(FIRST, self.LESS, month, to=(back(FIRST), back(month)))["in_3"] == 1
        # Where the rest of it stands, that is a gift.
        assert lost(FIRST, self.LESS, month, to=(back(month),))["in_3"] == 0

    def note(self, amount: int, day: int = 5, **fields: Any) -> Known:
        values = {"invoice_id": "in_1", "unrefunded": amount, "to_balance": amount, "created_at": START + day * DAY}
        return Known(StripePayment("cn_1", "credit_note", "issued", amount, **values | fields), 0)

    def test_has_what_credit_notes_gave_as_far_as_the_payment_stands(self) -> None:
        month = self.month(balance_before=-5_000, balance_after=0)
        whole = (self.note(5_000), back(FIRST, "dispute", status="lost"))
        found = standing.of_invoices([FIRST, month], whole)
        assert found["in_3"].undone == Losses(Fraction(1), Fraction(1), Fraction(1))
        open_one = standing.of_invoices(
            [FIRST, month], (self.note(5_000), back(FIRST, "dispute", status="under_review"))
        )
        assert open_one["in_3"].undone == Losses(Fraction(1), Fraction(1), Fraction(0))
        part = (self.note(5_000), back(FIRST, "charge", refunded=17_000))
        assert lost(FIRST, month, to=part)["in_3"] == Fraction(2, 5)
        assert "in_3" not in lost(FIRST, month, to=(self.note(5_000),))

    def test_has_what_a_note_gave_in_the_same_second_where_it_was_there(self) -> None:
        gone = (self.note(5_000), back(FIRST, "dispute", status="lost"))
        same = {"created_at": START + 5 * DAY, "number": "A-1"}
        # The last one takes what the note left.
        last = invoice("in_4", line("il_5", 5_000, "price_b"), day=60, amount_paid=0, balance_before=-5_000)
        found = lost(FIRST, self.month(balance_before=-5_000, balance_after=0, **same), to=gone)
        assert found == {"in_1": 1, "in_3": 1}
        before = self.month(balance_before=0, balance_after=0, amount_paid=5_000, **same)
        assert lost(FIRST, before, last, to=gone) == {"in_1": 1, "in_4": 1}

    def test_has_what_was_overpaid_as_far_as_the_payment_stands(self) -> None:
        charged = {"amount_paid": 25_000, "overpaid": 5_000, "paid_at": START + DAY}
        first = invoice("in_1", line("il_1", 20_000), **charged)
        month = self.month(balance_before=-5_000, balance_after=0)
        assert lost(first, month, to=(back(first),))["in_3"] == 1
        assert lost(first, month, to=()) == {}


class TestADraft:
    """A renewal that was credited before it was finalized."""

    MONTH = replace(FIRST, finalized_at=START + 20 * DAY)
    # What is credited of it, less half of that, pays half of it in turn.
    LESS = invoice(
        "in_2",
        line("il_2", -20_000, day=15),
        line("il_3", 10_000, "price_b", day=15),
        day=15,
        balance_after=-10_000,
    )
    PAID_SO = replace(MONTH, amount_paid=10_000, balance_before=-10_000)

    def test_pays_for_what_its_credit_paid_for(self) -> None:
        assert lost(self.MONTH, OTHER, to=()) == {}
        assert lost(self.MONTH, OTHER, to=(back(FIRST),)) == {"in_1": 1, "in_2": Fraction(2, 3), "il_2": 1}
        assert lost(self.PAID_SO, self.LESS, to=()) == {}

    def test_is_paid_by_its_own_credit_as_far_as_the_rest_stands(self) -> None:
        gone = {"in_1": 1, "in_2": 1, "il_2": 1}
        assert lost(self.PAID_SO, self.LESS, to=(back(self.PAID_SO, "dispute", status="lost"),)) == gone
        # What went back is all that was paid.
        assert lost(self.PAID_SO, self.LESS, to=(back(self.PAID_SO),)) == gone
        half = back(self.PAID_SO, "dispute", status="lost")
        half = replace(half, payment=replace(half.payment, amount=5_000))
        found = standing.of_invoices([self.PAID_SO, self.LESS], [half])
        assert found["in_1"].undone == found["in_2"].undone == Losses(HALF, HALF, HALF)

    def test_is_no_money_before_it_is_paid(self) -> None:
        opened = replace(self.MONTH, status="open", amount_paid=0)
        assert lost(opened, OTHER, to=()) == {"in_2": Fraction(2, 3), "il_2": 1}


class TestWhatWasNeverPaid:
    OPEN = replace(invoice("in_2", line("il_2", -10_000, day=15), line("il_3", 15_000, "price_b", day=15), day=15))
    BACK = invoice("in_3", line("il_4", -15_000, "price_b", day=15), line("il_5", 10_000, day=15), day=16)

    @pytest.mark.parametrize("status", ["open", "void", "uncollectible"])
    def test_is_no_money_when_it_is_credited(self, status: str) -> None:
        opened = replace(self.OPEN, status=status, amount_paid=0)
        assert lost(FIRST, opened, self.BACK, to=()) == {"in_3": 1, "il_4": 1}
        # Nor is what nobody charged at all.
        assert lost(FIRST, self.BACK, to=()) == {"in_3": 1, "il_4": 1}

    def test_is_so_as_far_as_it_is_not_paid(self) -> None:
        """What was paid of it is money, once; it gave nothing that a credit could take back."""
        opened = replace(self.OPEN, status="open", amount_paid=3_000)
        assert lost(FIRST, opened, self.BACK, to=()) == {"in_3": Fraction(4, 5), "il_4": 1}
        part = back(opened, refunded=1_500)
        assert lost(FIRST, opened, self.BACK, to=(part,))["in_3"] == Fraction(9, 10)

    def test_is_so_when_it_is_paid_afterwards(self) -> None:
        assert lost(FIRST, self.OPEN, self.BACK, to=()) == {}

    def test_a_discount_is_no_credit_for_time(self) -> None:
        given = invoice("in_1", line("il_1", 20_000), line("il_2", -5_000, proration=False))
        assert lost(given, to=()) == {}


def test_what_credit_paid_of_an_invoice_is_that_of_its_lines_and_of_the_balance() -> None:
    assert paid_with(invoice("in_1")) == paid_with(invoice("in_1", line("a", 5000))) == 0
    assert paid_with(invoice("in_1", line("a", 5000), line("b", -2500, day=15))) == HALF
    found = invoice("in_1", line("a", 5000), balance_before=-3000, balance_after=-500, amount_paid=2500)
    assert paid_with(found) == HALF
    # What a balance is owed, or is left with more, pays nothing.
    assert paid_with(replace(found, balance_before=3000, balance_after=0)) == 0
    assert paid_with(replace(found, balance_before=0, balance_after=3000)) == 0
    assert paid_with(invoice("in_1", line("a", 5000), line("b", -9000, day=15))) == 1
