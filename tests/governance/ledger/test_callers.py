"""Whom a hold and a charge are for: read back, it is the caller that the call was made by."""

from __future__ import annotations

from dataclasses import fields

import pytest

from governance import ledger
from governance.ledger import sql
from governance.ledger.sql_dialect import answer
from governance.models import ApiKey
from governance.rules.calls import Caller
from tests import factories as make
from tests.factories import NOON

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]


@pytest.mark.parametrize("rotated_from", ["", "sg_before"])
def test_a_caller_is_the_same_when_it_is_read_back(rotated_from: str) -> None:
    _, key = make.key()
    ApiKey.objects.update(rotated_from=rotated_from)
    key.refresh_from_db()
    by = make.caller(agent="invoices", key_id=key.pk, key_prefix=key.scope_key, user="ann", session="s1", task="t1")
    assert all(getattr(by, field.name) for field in fields(Caller)), "a field that this test does not try"
    op = make.reserving(by=by)
    ledger.reserve(op, now=NOON)
    charge = ledger.settle(make.settling(op.reservation_id), now=NOON)
    assert answer(sql.reservations([op.reservation_id]))[op.reservation_id].caller == by
    assert [row.caller for row in sql.entries([charge.entry_id])] == [by]


def test_without_a_key_too() -> None:
    op = make.reserving(by=make.caller(agent="invoices"))
    ledger.reserve(op, now=NOON)
    assert answer(sql.reservations([op.reservation_id]))[op.reservation_id].caller == op.caller
