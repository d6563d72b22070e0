"""Windows that somebody deleted by hand while reservations hold money in them."""

import logging
from datetime import timedelta

import pytest

from governance import ledger
from governance.ledger.results import WindowGone
from governance.models import BudgetEvent, BudgetWindow, Reservation
from tests import factories as make
from tests.factories import NOON

pytestmark = pytest.mark.django_db


def test_what_holds_money_there_is_refused_and_expiry_goes_on_with_the_others(caplog: pytest.LogCaptureFixture) -> None:
    make.budget("1.00")
    lost = make.reserving("0.10")
    ledger.reserve(lost, now=NOON)
    BudgetEvent.objects.all().delete()
    BudgetWindow.objects.all().delete()
    kept = make.reserving("0.20")
    ledger.reserve(kept, now=NOON)
    for act in (ledger.settle, ledger.release):
        operation = make.settling(lost.reservation_id) if act is ledger.settle else make.releasing(lost.reservation_id)
        with pytest.raises(WindowGone, match="which is not there"):
            act(operation, now=NOON)  # type: ignore[operator]
    with caplog.at_level(logging.ERROR):
        assert ledger.expire_due(now=NOON + timedelta(days=1)) == 1
    assert str(lost.reservation_id) in caplog.text
    assert Reservation.objects.get(pk=kept.reservation_id).status == "expired"
    assert Reservation.objects.get(pk=lost.reservation_id).status == "pending"
