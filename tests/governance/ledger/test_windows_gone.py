"""Windows that somebody deleted by hand while reservations hold money in them."""

import logging
from datetime import timedelta

import pytest

from governance import ledger
from governance.ledger.results import WindowGone
from governance.models import Alert, BudgetEvent, BudgetWindow, Reservation
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


def test_expiry_moves_on_past_more_than_it_takes_at_once_and_tells_of_them_once() -> None:
    make.budget("1.00")
    lost = [make.reserving("0.01") for _ in range(3)]
    ledger.apply(lost, now=NOON)
    BudgetEvent.objects.all().delete()
    BudgetWindow.objects.all().delete()
    kept = [make.reserving("0.01") for _ in range(5)]
    ledger.apply(kept, now=NOON + timedelta(seconds=1))
    later = NOON + timedelta(days=1)
    assert [ledger.expire_due(now=later, limit=2) for _ in range(2)] == [5, 0]
    assert Reservation.objects.filter(status="pending").count() == len(lost)
    alert = Alert.objects.get()
    assert (alert.kind, alert.cleared_at) == ("reservations_not_expired", None)
    assert alert.message.startswith("3 reservations cannot be expired")
    Reservation.objects.filter(status="pending").delete()
    ledger.expire_due(now=later)
    assert Alert.objects.get().cleared_at == later
