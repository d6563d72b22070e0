"""Bringing charges to another price: what they were charged stays, and the difference is a row that corrects them.

Whoever knows prices says what a charge should cost (`price`); here it is locked, compared and posted, once for each
price however often it is asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import uuid_utils.compat as uuids
from django.db import transaction

from governance import ledger
from governance.actions.corrections import CORRECTED, LAST_WORDS
from governance.ledger.call_rules import LATE_SETTLE
from governance.ledger.operations import Adjust
from governance.models import BudgetWindow, Reservation, SpendEntry
from governance.rules import policy
from governance.rules.calls import Usage
from governance.rules.decision import state_of

REPRICED = "repriced"
# Behind a rule's name, how often a charge was brought to it: each time it had got rows since.
AGAIN = "~"


@dataclass(frozen=True, slots=True)
class Charge:
    """A call as it stands with all its corrections. `usage` and `price_rule` are the last that were reported."""

    entry: SpendEntry
    usage: Usage
    price_rule: str
    # What it cost as a price was last brought to bear on it, and by which rule; and what it costs by now.
    priced_nanos: int
    priced_by: str
    cost_nanos: int
    is_estimate: bool
    # An operator said what it cost, or that it cost nothing: no price says otherwise.
    has_last_word: bool
    # The names of the rules that it was brought to before.
    repriced_by: frozenset[str]


@dataclass(frozen=True, slots=True)
class Change:
    """A charge and what it costs by the right rule."""

    charge: Charge
    cost_nanos: int
    rule: str

    @property
    def delta_nanos(self) -> int:
        return self.cost_nanos - self.charge.cost_nanos


@dataclass(frozen=True, slots=True)
class WindowChange:
    """A budget's window before and after. `is_open`: calls are decided by it now."""

    window: BudgetWindow
    settled_nanos: int
    old_state: str
    new_state: str

    @property
    def is_open(self) -> bool:
        return self.window.closed_at is None

    @property
    def unblocks(self) -> bool:
        return self.is_open and self.old_state == BudgetWindow.State.STOPPED != self.new_state


# What a charge should cost and by which rule; None where it is to stay as it is.
Price = Callable[[Charge], tuple[int, str] | None]


def changes(entries: Sequence[SpendEntry], price: Price) -> list[Change]:
    """What bringing charges to `price` would post. Nothing is locked or written."""
    found = []
    for charge in charges(entries):
        priced = price(charge)
        # Charged by that very rule: it is right already, whatever an operator has made of it since; unless the rule
        # had fewer rows when it was.
        if priced is None or priced == (charge.priced_nanos, charge.priced_by.partition(AGAIN)[0]):
            continue
        nanos, rule = priced
        if nanos != charge.cost_nanos:
            found.append(Change(charge, nanos, _unused(rule, charge.repriced_by)))
    return found


def _unused(rule: str, names: Collection[str]) -> str:
    """A rule's name, or that of its next edition: the database takes one correction of a charge for each name."""
    editions = sum(name.partition(AGAIN)[0] == rule for name in names)
    return f"{rule}{AGAIN}{editions + 1}" if editions else rule


@ledger.run_again
def post(entries: Sequence[SpendEntry], price: Price, *, now: datetime) -> list[Change]:
    """Post the differences, all or none. Raises LedgerError where a window's figures would fall below zero."""
    with transaction.atomic():
        made = changes(_locked(entries), price)
        ledger.apply_within(
            [
                Adjust(uuids.uuid7(), change.charge.entry.pk, change.delta_nanos, REPRICED, price_rule=change.rule)
                for change in made
            ],
            now=now,
        )
    return made


def charges(entries: Sequence[SpendEntry]) -> list[Charge]:
    """The charges among the entries, with what corrected them since."""
    corrections: dict[object, list[SpendEntry]] = defaultdict(list)
    rows = SpendEntry.objects.filter(corrects__in=[entry.pk for entry in entries]).order_by("id")
    for row in rows:
        corrections[row.corrects_id].append(row)
    return [_charge(entry, corrections[entry.pk]) for entry in entries if entry.kind == SpendEntry.Kind.CHARGE]


def windows_after(deltas_nanos: Mapping[int, int]) -> list[WindowChange]:
    """What would become of windows, by id, if so much more (or less) were settled in them."""
    rows = BudgetWindow.objects.select_related("budget__tenant").filter(pk__in=deltas_nanos).order_by("id")
    return [_after(row, row.settled_nanos + deltas_nanos[row.pk]) for row in rows]


def _charge(entry: SpendEntry, corrections: Sequence[SpendEntry]) -> Charge:
    late = next((row for row in corrections if row.reason == LATE_SETTLE), None)
    said = late or entry
    # The last that a price said: each makes up what all before it came to.
    by_price = max((at for at, row in enumerate(corrections) if row.reason in (LATE_SETTLE, REPRICED)), default=-1)
    return Charge(
        entry=entry,
        usage=Usage(
            provider=said.provider,
            model=said.model_served,
            input_tokens=said.input_tokens,
            cached_tokens=said.cached_tokens,
            output_tokens=said.output_tokens,
            unit=said.unit,
            units=said.units,
        ),
        price_rule=said.price_rule,
        priced_nanos=entry.cost_nanos + sum(row.cost_nanos for row in corrections[: by_price + 1]),
        priced_by=corrections[by_price].price_rule if by_price >= 0 else entry.price_rule,
        cost_nanos=entry.cost_nanos + sum(row.cost_nanos for row in corrections),
        is_estimate=said.certainty == SpendEntry.Certainty.ESTIMATED,
        has_last_word=any(row.reason in (*LAST_WORDS, CORRECTED) for row in corrections),
        repriced_by=frozenset(row.price_rule for row in corrections if row.reason == REPRICED),
    )


def _locked(entries: Sequence[SpendEntry]) -> list[SpendEntry]:
    """Those that are still there, locked against others who correct them: reservations first, each in key order."""
    holds = {entry.reservation_id for entry in entries if entry.reservation_id is not None}
    kept = {row.pk for row in Reservation.objects.select_for_update().filter(pk__in=holds).order_by("pk")}
    loose = [entry.pk for entry in entries if entry.reservation_id is None]
    kept_loose = {row.pk for row in SpendEntry.objects.select_for_update().filter(pk__in=loose).order_by("pk")}
    return [entry for entry in entries if entry.reservation_id in kept or entry.pk in kept_loose]


def _after(window: BudgetWindow, settled_nanos: int) -> WindowChange:
    new_state = state_of(settled_nanos, window.limit_nanos, policy.of(policy.columns_of(window.budget))).value
    return WindowChange(window, settled_nanos, window.state, new_state)
