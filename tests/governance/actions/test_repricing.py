"""The ledger's side of repricing: one difference for each charge and price, whoever posts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import uuid_utils.compat as uuids
from django.db import IntegrityError, transaction

from governance import ledger
from governance.actions import repricing
from governance.actions.repricing import Charge
from governance.ledger.operations import Adjust
from governance.models import BudgetWindow, SpendEntry
from governance.upkeep import reconcile
from tests import factories
from tests.concurrency.processes import in_threads
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def ledger_holds(db: None) -> Iterator[None]:
    yield
    assert reconcile.check() == []


def entry(cost: str = "0.60") -> SpendEntry:
    return SpendEntry.objects.get(pk=ledger.record(factories.reporting(cost), now=NOON).entry_id)


def halved(charge: Charge) -> tuple[int, str]:
    return nanos("0.30"), "right"


def adjusted() -> list[int]:
    return list(SpendEntry.objects.filter(reason="repriced").values_list("cost_nanos", flat=True))


@pytest.mark.django_db(transaction=True)
def test_one_difference_is_posted_by_many_at_once() -> None:
    entries = [entry() for _ in range(3)]
    made = in_threads(8, lambda index: len(repricing.post(entries, halved, now=NOON)))
    assert sorted(made) == [0] * 7 + [3]
    assert adjusted() == [-nanos("0.30")] * 3


def test_the_database_itself_takes_a_correction_once_for_a_price() -> None:
    there = entry()
    for rule in ("right", "righter"):
        ledger.adjust(Adjust(uuids.uuid7(), there.pk, -1, "repriced", price_rule=rule), now=NOON)
    with pytest.raises(IntegrityError), transaction.atomic():
        ledger.apply_within([Adjust(uuids.uuid7(), there.pk, -1, "repriced", price_rule="right")], now=NOON)


def test_what_the_ledger_refuses_leaves_nothing_of_its_batch() -> None:
    factories.budget("5")
    entries = [entry(), entry()]
    BudgetWindow.objects.update(settled_nanos=nanos("0.20"))
    with pytest.raises(ledger.LedgerError, match="below zero"):
        repricing.post(entries, halved, now=NOON)
    assert adjusted() == []
    BudgetWindow.objects.update(settled_nanos=nanos("1.20"))


def test_only_charges_are_priced_again() -> None:
    there = entry()
    ledger.adjust(Adjust(uuids.uuid7(), there.pk, -nanos("0.10"), "a credit"), now=NOON)
    rows = list(SpendEntry.objects.all())
    [change] = repricing.changes(rows, halved)
    assert (change.charge.entry, change.charge.cost_nanos, change.delta_nanos) == (there, nanos("0.50"), -nanos("0.20"))


def test_a_window_s_state_is_foretold() -> None:
    factories.budget("1.00", soft_cap="0.8", downgrade_rules=[{"from": ["large"], "to": "small"}])
    entry("0.60")
    window = BudgetWindow.objects.get()
    told = {delta: repricing.windows_after({window.pk: nanos(delta)})[0].new_state for delta in ("0", "0.20", "0.40")}
    assert told == {"0": "active", "0.20": "degraded", "0.40": "stopped"}
