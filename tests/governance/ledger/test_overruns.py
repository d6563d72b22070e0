"""An overrun is in force for whoever reserves once the settlement that showed it has landed, in every process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
import uuid_utils.compat as uuids

from governance import ledger
from governance.actions import overruns
from governance.audit import Actor
from governance.ledger.operations import Expire
from governance.models import Overrun
from governance.rules.decision import Decision, Quote, Quoter
from governance.rules.overruns import ModelOverrun
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]
SEEN = ModelOverrun("own/m", "tools", tokens=18_000, permitted=48)


def priced(seen: Sequence[ModelOverrun]) -> Quoter:
    return lambda model: Quote(model, seen[0].tokens * 1_000)


def reserve() -> tuple[object, Decision]:
    op = make.reserving("0.10")
    op = replace(op, call=replace(op.call, overrun_quote=priced))
    would = ledger.dry_run(op.caller, op.call, now=NOON)
    decision = ledger.reserve(op, now=NOON)
    assert decision.quote is not None
    assert would.quote == decision.quote
    return op.reservation_id, decision


def held_nanos() -> int:
    quote = reserve()[1].quote
    assert quote is not None
    return quote.cost_nanos


def test_the_next_call_is_priced_with_it_and_after_a_clearing_the_next_is_not():
    id, decision = reserve()
    assert decision.quote.cost_nanos == nanos("0.10")
    ledger.settle(replace(make.settling(id), overruns=(SEEN,)), now=NOON)
    assert held_nanos() == 18_000_000
    row = Overrun.objects.get()
    assert (row.place, row.asked, row.tokens, row.permitted, row.reservation_id) == ("own/m", "tools", 18_000, 48, id)
    assert overruns.clear(places=["own/m"], by=Actor(name="ops"), now=NOON) == 1
    assert held_nanos() == nanos("0.10")


def test_the_largest_of_several_is_kept_whatever_their_order_also_in_one_batch():
    ids = [reserve()[0] for _ in range(4)]
    sizes = [500, 18_000, 900, 20_000]
    settlements = [
        replace(make.settling(id), overruns=(replace(SEEN, tokens=size),)) for id, size in zip(ids, sizes, strict=True)
    ]
    ledger.apply(settlements[:3], now=NOON)
    assert Overrun.objects.get().tokens == 18_000
    ledger.settle(settlements[3], now=NOON)
    assert Overrun.objects.get().tokens == 20_000


def test_one_that_comes_after_a_clearing_is_in_force_again():
    ids = [reserve()[0] for _ in range(2)]
    ledger.settle(replace(make.settling(ids[0]), overruns=(SEEN,)), now=NOON)
    overruns.clear(places=["own/m"], by=Actor(name="ops"), now=NOON)
    ledger.settle(replace(make.settling(ids[1]), overruns=(SEEN,)), now=NOON)
    assert overruns.in_force().count() == 1
    assert Overrun.objects.count() == 2


def test_a_settlement_that_comes_after_its_expiry_puts_it_in_force_all_the_same():
    id, _ = reserve()
    assert ledger.apply([Expire(id)], now=NOON + timedelta(days=2)) == [True]
    ledger.settle(replace(make.settling(id), overruns=(SEEN,)), now=NOON)
    assert overruns.in_force().exists()


def test_a_settlement_that_is_refused_puts_nothing_in_force():
    with pytest.raises(ledger.ReservationUnknown):
        ledger.settle(replace(make.settling(uuids.uuid7()), overruns=(SEEN,)), now=NOON)
    assert not Overrun.objects.exists()
