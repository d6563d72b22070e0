"""What a customer of the simulated Stripe may spend at a moment, from the stand-in's own books: no rule of `billing`'s.

Nanodollars as fractions, Unix seconds. A span gives its price's budget times the share of the interval that it covers,
a credit takes that back; what was paid back whole, or is in dispute, gives nothing, nor does what credits for it, or
what they left on the balance, paid for.
"""

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from billing.sandbox import PaidSpan, SimulatedStripe, times

DAY, HOUR = 86_400, 3_600
GRACE_S = 7 * DAY
GIVES_NOTHING = ("canceled", "incomplete", "incomplete_expired", "unpaid", "paused")
Cycle = tuple[str, int]
Span = tuple[int, int]


@dataclass(frozen=True)
class Sold:
    """What a price gives: a budget for a month (or for what it bills at once) or a percent of what is charged."""

    budget: int = 0
    per_unit: bool = False
    percent: int = 0
    monthly: bool = True
    unit: int = 10_000_000  # nanodollars in a currency's smallest unit

    def worth(self, quantity: int, cycle: Cycle, start: int) -> Fraction:
        nanos = Fraction(self.budget * (quantity if self.per_unit else 1))
        days = {"day": 1, "week": 7}.get(cycle[0], 0) * cycle[1] if self.monthly else 0
        return nanos * days * DAY / (times.boundary(start, "month", 1, 1) - start) if days else nanos


def is_whole(span: Span, cycle: Cycle) -> bool:
    """Months differ by a tenth; what is shorter than the shortest is a part of one."""
    return (span[1] - span[0]) * 10 >= (times.boundary(span[0], *cycle, 1) - span[0]) * 9


class Oracle:
    def __init__(self, account: SimulatedStripe, sold: Mapping[str, Sold]) -> None:
        self.state, self.books, self.sold = account.state, account.books, sold

    def bounds(self, customer: str, at: int) -> tuple[Fraction, Fraction]:
        """The least and the most that can be spent of what is current at a moment, where nothing of it is used."""
        least = most = Fraction(0)
        self.lost = self.undone(customer)
        for sub in self.state.rows("subscription", customer=customer):
            if sub["status"] not in GIVES_NOTHING:
                spans = [one for one in self.books.paid(customer) if one.subscription == sub["id"] and one.list_amount]
                paid = self.paid(spans, at)
                least, most = least + paid[0], most + paid[1]
                for item in self.state.rows("subscription_item", subscription=sub["id"]):
                    most += self.credit(sub, item, spans, at)
        return least, most

    def paid(self, spans: list[PaidSpan], at: int) -> tuple[Fraction, Fraction]:
        """The least and the most that a subscription's spans give at a moment."""
        least = most = Fraction(0)
        cycles: dict[Cycle, list[PaidSpan]] = defaultdict(list)
        for one in spans:
            if not one.arrears:
                is_month = self.sold[one.price].monthly and one.interval in ("month", "year")
                cycles["month" if is_month else one.interval, 1 if is_month else one.interval_count].append(one)
        for cycle, group in cycles.items():
            values = sorted(
                max(Fraction(0), sum((self.given(one, group, cycle, period) for one in group), Fraction(0)))
                for period in periods(group, cycle, at)
            )
            least, most = least + sum(values[:1]), most + sum(values[-1:])
        return least, most

    def given(self, one: PaidSpan, group: list[PaidSpan], cycle: Cycle, period: Span) -> Fraction:
        if not (stands := 1 - self.lost[one.line]):
            return Fraction(0)
        sold, own = self.sold[one.price], (one.interval, one.interval_count)
        wholes = intervals(one, group, cycle)
        number, all = (
            sum(Fraction(max(0, min(one.end, end, b) - max(one.start, start, a)), b - a) for a, b in wholes)
            for start, end in (period, (one.start, one.end))
        )
        if sold.percent:
            # All that it gives together is what was charged.
            return stands * Fraction(one.amount * sold.unit * sold.percent, 100) * number / all
        return stands * (1 if one.list_amount > 0 else -1) * sold.worth(one.quantity, own, wholes[0][0]) * number

    def undone(self, customer: str) -> dict[str, Fraction]:
        """How much of each line stands on no payment; of a credit, how much of what it took back."""
        lost: dict[str, Fraction] = {}
        # A credit note is after all that was finalized by then, and what was overpaid as well.
        paid = {one.invoice for one in self.books.paid(customer)}
        steps = [(self.finalized_at(id), "invoice", id) for id in paid]
        notes = self.state.rows("credit_note", customer=customer)
        steps += [((one["created"], "~"), "note", one["id"]) for one in notes if one["customer_balance_transaction"]]
        steps += [((self.books.payments[id].at, "~"), "overpaid", id) for id in paid]
        balance = Fraction(0)
        for _, what, id in sorted(steps):
            if what == "invoice":
                balance = self.pay(id, balance, lost)
            elif what == "note":
                note = self.state.get("credit_note", id)
                moved = sum(one["post_payment_amount"] for one in notes if one["invoice"] == note["invoice"])
                balance += min(Fraction(note["post_payment_amount"]), self.beyond(note["invoice"], moved))
            elif beyond := self.state.get("invoice", id)["amount_overpaid"]:
                balance += beyond * max(lost[one.line] for one in self.books.paid(customer) if one.invoice == id)
        return lost

    def pay(self, id: str, balance: Fraction, lost: dict[str, Fraction]) -> Fraction:
        """An invoice is finalized and paid: what is lost of its lines, and of the balance that it leaves."""
        row, spans = self.state.get("invoice", id), [one for one in self.books.spans if one.invoice == id]
        total, mine = max(0, self.books.payments[id].total), {one.line for one in spans}
        held, moved = max(0, -row["starting_balance"]), row["ending_balance"] - row["starting_balance"]
        balance = min(balance, Fraction(held))
        drawn = balance * Fraction(max(0, min(held, moved)), held) if held else Fraction(0)
        # What an invoice gives back of itself pays nothing; nor does what gives back what was never paid.
        older = [one for one in spans if one.amount < 0 and one.gives_back and one.gives_back not in mine]
        in_all = total - sum(one.amount for one in older)
        carried = drawn - sum(one.amount * lost.get(one.gives_back, 1) for one in older)
        back = self.gone(id, total)
        # A refund in part is a gift, unless nothing else is left.
        in_part = sum((one.amount for one in self.books.undone(id)), 0)
        back = in_part if in_part + carried >= in_all else back
        share = min(Fraction(1), (carried + back) / in_all) if in_all > 0 else Fraction(0)
        lost |= dict.fromkeys(mine, share) | {one.line: lost.get(one.gives_back, Fraction(1)) for one in older}
        return balance + share * max(0, -moved) - drawn

    def beyond(self, invoice: str, noted: int) -> Fraction:
        """What went back of a payment beyond what notes to the balance left of it."""
        paid = self.books.payments[invoice]
        back = sum(one.amount for one in self.books.undone(invoice))
        return Fraction(max(0, min(noted, back - max(paid.total, paid.cash))))

    def finalized_at(self, id: str) -> tuple[int, str]:
        row = self.state.get("invoice", id)
        return row["status_transitions"]["finalized_at"] or row["created"], row["number"]

    def gone(self, invoice: str, total: int) -> int:
        """What was paid back whole, or is in dispute: nothing else is."""
        disputed = sum(one.amount for one in self.books.undone(invoice) if one.kind == "dispute")
        return total if self.books.share_undone(invoice) == 1 else disputed

    def credit(self, sub: dict[str, Any], item: dict[str, Any], spans: list[PaidSpan], at: int) -> Fraction:
        """What the policy may give of a period that is not paid for: all where that was agreed, else a tenth."""
        price, start, quantity = self.state.get("price", item["price"]), item["current_period_start"], item["quantity"]
        about = price["recurring"]
        covering = (one for one in spans if one.item == item["id"] and one.start <= at < one.end)
        # What was credited, as of a year that became a month, covers nothing any more.
        if about["usage_type"] != "metered" and sum(1 if one.list_amount > 0 else -1 for one in covering) > 0:
            return Fraction(0)
        one, typed = (self.listed(price, number, start) for number in (1, max(1, quantity or 1)))
        # A quantity is whatever somebody typed: it counts as far as it was paid for, or billed, before.
        whole = one if sub["status"] == "trialing" else min(typed, one + self.known(sub, spans))
        in_grace, status = at - start < GRACE_S, sub["status"]
        by_agreement = about["usage_type"] == "metered" and status != "trialing" and (in_grace or status != "past_due")
        # An invoice is finalized an hour after its period began, and due so long after that.
        terms = (sub["days_until_due"] or 0) * DAY + HOUR
        if (sub["days_until_due"] and at - start < terms) or by_agreement:
            return whole
        return whole / 10 if in_grace or status == "trialing" else Fraction(0)

    def listed(self, price: dict[str, Any], quantity: int, start: int) -> Fraction:
        """What a price's whole interval gives at its list amount."""
        about, sold = price["recurring"], self.sold[price["id"]]
        charged = Fraction((price["unit_amount"] or 0) * quantity, 100)
        return sold.worth(quantity, (about["interval"], about["interval_count"]), start) + (
            charged * sold.percent * sold.unit
        )

    def known(self, sub: dict[str, Any], spans: list[PaidSpan]) -> Fraction:
        """The most that was paid for in one period, or that the first invoice bills."""
        paid = (self.paid(spans, at)[1] for at in {one.start for one in spans if one.list_amount > 0})
        first = next((one["id"] for one in self.state.rows("invoice", _subscription=sub["id"])), "")
        lines = [
            one for one in self.state.rows("line_item", invoice=first) if one["amount"] > 0 and one["_charge"].item
        ]
        billed = (
            self.listed(one["_charge"].price, one["quantity"], one["period"]["start"])
            for one in lines
            if one["_charge"].price["recurring"]
        )
        return max(sum(billed, Fraction(0)), *paid, Fraction(0))


def intervals(one: PaidSpan, group: list[PaidSpan], cycle: Cycle) -> list[Span]:
    """A span's own: of a change, those of the period that it ends with."""
    of = [other for other in group if not other.proration and other.end == one.end and other.start <= one.start]
    start, end = (of[0].start, of[0].end) if one.proration and of else (one.start, one.end)
    if cycle != ("month", 1) or end - start <= 32 * DAY:
        if is_whole((start, end), cycle):
            return [(start, end)]
        # Until an anchor a part is charged by the interval that ends there, as far as its price says what that costs.
        is_told = one.whole_amount and cycle == (one.interval, one.interval_count) and cycle[0] in times.MONTHS
        return [(times.boundary(end, *cycle, -1), end) if is_told else (start, times.boundary(start, *cycle, 1))]
    starts = [times.boundary(start, "month", 1, number) for number in range(38)]
    return [pair for pair in itertools.pairwise(starts) if pair[0] < end]


def periods(group: list[PaidSpan], cycle: Cycle, at: int) -> list[Span]:
    """The periods that may be the current one: those billed whole that hold a moment and were not credited for it."""
    charged = [one for one in group if one.list_amount > 0 and one.start <= at < one.end]
    whole = [one for one in charged if not one.proration] or charged[:1]
    begun = {one.start for one in whole} & {one.start for one in group if one.list_amount < 0}
    found = []
    for one in (one for one in whole if not any(one.start < start for start in begun)):
        starts = [times.boundary(one.start, "month", 1, number) for number in range(38)]
        month = max(number for number, start in enumerate(starts) if number == 0 or start <= at)
        is_cut = cycle == ("month", 1) and one.end - one.start > 32 * DAY
        found.append((starts[month], min(one.end, starts[month + 1])) if is_cut else (one.start, one.end))
    return found
