from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.db import connection
from django.utils import timezone

from governance import ledger
from governance.actions import corrections
from governance.audit import Actor
from governance.ledger.operations import Adjust
from governance.models import AuditEntry, BudgetWindow, SpendEntry
from governance.rules.errors import FieldError, NotOpen
from governance.upkeep import reconcile
from tests import factories
from tests.factories import NOON, nanos
from tests.governance.api.conftest import Api

PAT = Actor("pat")
WHY: dict[str, Any] = {"reason": "the provider's bill", "by": PAT, "now": NOON}


@pytest.fixture
def estimate(db: None) -> Iterator[SpendEntry]:
    """Ten cents of a call whose process died: charged whole when its hold expired."""
    factories.budget("1")
    operation = factories.reserving("0.10")
    ledger.reserve(operation, now=NOON)
    assert ledger.expire_due(now=NOON + timedelta(days=1)) == 1
    yield SpendEntry.objects.get()
    assert reconcile.check() == []


def settled() -> int:
    return BudgetWindow.objects.get().settled_nanos


def open_ones() -> list[SpendEntry]:
    return list(corrections.open_estimates(SpendEntry.objects.all()))


@pytest.mark.parametrize(("cost", "delta"), [(None, "0"), ("0.10", "0"), ("0.04", "-0.06"), ("0.15", "0.05")])
def test_confirming_posts_the_difference_also_where_there_is_none(
    estimate: SpendEntry, cost: str | None, delta: str
) -> None:
    done = corrections.confirm(entry=estimate, cost_nanos=nanos(cost) if cost else None, **WHY)
    row = SpendEntry.objects.get(pk=done.entry_id)
    assert (row.kind, row.reason, row.certainty, row.corrects_id) == (
        "adjustment",
        "confirmed",
        "confirmed",
        estimate.pk,
    )
    assert (row.cost_nanos, done.delta_nanos) == (nanos(delta), nanos(delta))
    assert settled() == nanos("0.10") + nanos(delta)
    assert open_ones() == []


def test_voiding_takes_back_what_is_left_of_it(estimate: SpendEntry) -> None:
    ledger.adjust(repriced(estimate, "-0.02"), now=NOON)
    done = corrections.void(entry=estimate, **WHY)
    row = SpendEntry.objects.get(pk=done.entry_id)
    assert (row.kind, row.reason, row.cost_nanos) == ("reversal", "voided", -nanos("0.08"))
    assert settled() == 0
    assert open_ones() == []


def repriced(entry: SpendEntry, dollars: str) -> Adjust:
    return Adjust(uuids.uuid7(), entry.pk, nanos(dollars), "repriced")


def test_each_leaves_an_audit_row_with_old_and_new(estimate: SpendEntry) -> None:
    corrections.confirm(entry=estimate, cost_nanos=nanos("0.04"), **WHY)
    row = AuditEntry.objects.get()
    assert (row.action, row.actor, row.reason) == ("entry.confirm", "pat", "the provider's bill")
    assert row.target == f"entry {estimate.pk}"
    assert (row.old, row.new) == ({"cost_nanos": nanos("0.10")}, {"cost_nanos": nanos("0.04")})


@pytest.mark.parametrize("first", ["confirm", "void"])
@pytest.mark.parametrize("second", ["confirm", "void"])
def test_the_last_word_is_said_once(estimate: SpendEntry, first: str, second: str) -> None:
    getattr(corrections, first)(entry=estimate, **WHY)
    before = settled()
    with pytest.raises(NotOpen, match="confirmed" if first == "confirm" else "voided"):
        getattr(corrections, second)(entry=estimate, **WHY)
    assert (settled(), SpendEntry.objects.count(), AuditEntry.objects.count()) == (before, 2, 1)


def test_the_constraint_alone_lets_one_word_through(estimate: SpendEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    corrections.confirm(entry=estimate, **WHY)
    answers = iter([True, False])
    monkeypatch.setattr(corrections, "is_open", lambda entry: next(answers))
    with pytest.raises(NotOpen):
        corrections.void(entry=estimate, **WHY)
    assert settled() == nanos("0.10")


def test_what_is_certain_is_not_corrected(estimate: SpendEntry) -> None:
    certain = ledger.record(factories.reporting("0.01"), now=NOON)
    with pytest.raises(NotOpen, match="only an estimated charge"):
        corrections.void(entry=SpendEntry.objects.get(pk=certain.entry_id), **WHY)


def test_a_late_settlement_is_the_last_word(estimate: SpendEntry) -> None:
    assert estimate.reservation_id is not None
    ledger.settle(factories.settling(estimate.reservation_id, "0.03"), now=NOON + timedelta(days=1))
    assert open_ones() == []
    with pytest.raises(NotOpen, match="settled late"):
        corrections.confirm(entry=estimate, **WHY)
    assert settled() == nanos("0.03")


def test_a_late_settlement_that_is_an_estimate_too_is_still_to_be_confirmed(estimate: SpendEntry) -> None:
    assert estimate.reservation_id is not None
    late = factories.settling(estimate.reservation_id, "0.03", certainty="estimated", reason="usage_missing")
    ledger.settle(late, now=NOON + timedelta(days=1))
    assert open_ones() == [estimate]
    corrections.confirm(entry=estimate, cost_nanos=nanos("0.02"), **WHY)
    assert (settled(), open_ones()) == (nanos("0.02"), [])


def test_an_estimate_without_a_reservation_is_corrected_too(db: None) -> None:
    made = ledger.record(factories.reporting("0.10", certainty="estimated"), now=NOON)
    entry = SpendEntry.objects.get(pk=made.entry_id)
    corrections.void(entry=entry, **WHY)
    assert corrections.charged_nanos(entry) == 0


@pytest.mark.parametrize(("fields", "field"), [({"cost_nanos": -1}, "cost"), ({"reason": " "}, "reason")])
def test_a_bad_word_is_refused_with_its_field(estimate: SpendEntry, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        corrections.confirm(entry=estimate, **(WHY | fields))
    assert caught.value.field == field
    assert settled() == nanos("0.10")


@pytest.mark.django_db(transaction=True)
def test_of_many_operators_at_once_one_has_the_last_word() -> None:
    factories.budget("1")
    ledger.reserve(factories.reserving("0.10"), now=NOON)
    ledger.expire_due(now=NOON + timedelta(days=1))
    entry = SpendEntry.objects.get()
    start = threading.Barrier(6)

    def say(number: int) -> bool:
        try:
            start.wait(5)
            if number % 2:
                corrections.void(entry=entry, **WHY)
            else:
                corrections.confirm(entry=entry, cost_nanos=nanos("0.04"), **WHY)
        except NotOpen:
            return False
        else:
            return True
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(say, range(6)))
    assert said.count(True) == 1
    assert settled() == (0 if said.index(True) % 2 else nanos("0.04"))
    assert AuditEntry.objects.count() == 1
    assert reconcile.check() == []


class TestOverTheApi:
    def test_an_operator_confirms_and_voids_with_a_reason(self, estimate: SpendEntry, operator_api: Api) -> None:
        path = f"/api/spend/{estimate.pk}"
        missing = operator_api.post(f"{path}/confirm", {"cost": "0.04"})
        assert (missing.status_code, missing.json()["error"]["param"]) == (400, "reason")
        done = operator_api.post(f"{path}/confirm", {"cost": "0.04", "reason": "bill"})
        assert (done.status_code, done.json()["delta"], done.json()["cost"]) == (200, "-0.06", "0.04")
        again = operator_api.post(f"{path}/void", {"reason": "bill"})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
        assert "confirmed already" in again.json()["error"]["message"]

    def test_open_ones_are_listed(self, estimate: SpendEntry, operator_api: Api) -> None:
        def listed() -> list[str]:
            return [row["id"] for row in operator_api.get("/api/spend", open="true").json()["results"]]

        ledger.record(factories.reporting("0.01"), now=timezone.now())
        assert listed() == [str(estimate.pk)]
        assert operator_api.post(f"/api/spend/{estimate.pk}/void", {"reason": "bill"}).json()["cost"] == "0.00"
        assert listed() == []


@pytest.fixture
def operator_api(db: None) -> Api:
    return Api(*factories.key(role="operator"))
