from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.db import IntegrityError, connection
from django.utils import timezone

from governance import ledger
from governance.actions import corrections, repricing, reviews
from governance.audit import Actor
from governance.ledger.operations import Adjust
from governance.models import AuditEntry, BudgetWindow, PendingReport, SpendEntry
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


@pytest.fixture
def certain(db: None) -> Iterator[SpendEntry]:
    """A dollar that was reported, and is confirmed."""
    factories.budget("10")
    yield SpendEntry.objects.get(pk=ledger.record(factories.reporting("1"), now=NOON).entry_id)
    assert reconcile.check() == []


def test_only_an_estimate_is_confirmed(certain: SpendEntry) -> None:
    with pytest.raises(NotOpen, match="only an estimated charge"):
        corrections.confirm(entry=certain, **WHY)


def test_what_is_certain_is_voided_once(certain: SpendEntry) -> None:
    done = corrections.void(entry=certain, **WHY)
    row = SpendEntry.objects.get(pk=done.entry_id)
    assert (row.kind, row.reason, row.cost_nanos, settled()) == ("reversal", "voided", -nanos("1"), 0)
    with pytest.raises(NotOpen, match="voided already"):
        corrections.void(entry=certain, **WHY)
    assert AuditEntry.objects.get().action == "entry.void"


@pytest.mark.parametrize(("cost", "delta"), [("0.25", "-0.75"), ("3", "2"), ("0", "-1")])
def test_a_confirmed_line_is_set_to_another_amount(certain: SpendEntry, cost: str, delta: str) -> None:
    done = corrections.correct(entry=certain, cost_nanos=nanos(cost), **WHY)
    row = SpendEntry.objects.get(pk=done.entry_id)
    assert (row.kind, row.reason, row.certainty, row.corrects_id) == (
        "adjustment",
        "corrected",
        "confirmed",
        certain.pk,
    )
    assert (row.cost_nanos, settled()) == (nanos(delta), nanos(cost))
    audit = AuditEntry.objects.get()
    assert (audit.action, audit.old, audit.new) == (
        "entry.correct",
        {"cost_nanos": nanos("1")},
        {"cost_nanos": nanos(cost)},
    )


def test_it_may_be_corrected_again_and_after_its_last_word(certain: SpendEntry) -> None:
    for cost in ("0.25", "0", "5"):
        corrections.correct(entry=certain, cost_nanos=nanos(cost), **WHY)
    corrections.void(entry=certain, **WHY)
    assert settled() == 0
    corrections.correct(entry=certain, cost_nanos=nanos("0.50"), **WHY)
    assert settled() == corrections.charged_nanos(certain) == nanos("0.50")


def test_an_amount_said_of_an_open_estimate_confirms_it(estimate: SpendEntry) -> None:
    corrections.correct(entry=estimate, cost_nanos=nanos("0.04"), **WHY)
    assert (open_ones(), settled()) == ([], nanos("0.04"))
    assert AuditEntry.objects.get().action == "entry.correct"
    with pytest.raises(NotOpen, match="confirmed already"):
        corrections.confirm(entry=estimate, **WHY)
    corrections.correct(entry=estimate, cost_nanos=nanos("0.05"), **WHY)
    assert settled() == nanos("0.05")


def test_what_it_costs_already_is_no_correction(certain: SpendEntry) -> None:
    with pytest.raises(NotOpen, match="just that already"):
        corrections.correct(entry=certain, cost_nanos=nanos("1"), **WHY)
    assert SpendEntry.objects.count() == 1


@pytest.mark.parametrize("act", [corrections.void, partial(corrections.correct, cost_nanos=1)])
def test_a_correction_is_not_corrected_but_its_charge(certain: SpendEntry, act: Any) -> None:
    done = corrections.correct(entry=certain, cost_nanos=nanos("2"), **WHY)
    with pytest.raises(NotOpen, match=f"corrects the charge {certain.pk}"):
        act(entry=SpendEntry.objects.get(pk=done.entry_id), **WHY)


def test_what_was_settled_late_is_corrected_too(estimate: SpendEntry) -> None:
    assert estimate.reservation_id is not None
    ledger.settle(factories.settling(estimate.reservation_id, "0.03"), now=NOON + timedelta(days=1))
    with pytest.raises(NotOpen, match="settled late"):
        corrections.void(entry=estimate, **WHY)
    corrections.correct(entry=estimate, cost_nanos=0, **WHY)
    assert settled() == 0


def test_below_zero_nothing_is_corrected(certain: SpendEntry) -> None:
    with pytest.raises(FieldError):
        corrections.correct(entry=certain, cost_nanos=-1, **WHY)
    assert settled() == nanos("1")


@pytest.mark.parametrize("act", [corrections.void, partial(corrections.correct, cost_nanos=1)])
def test_a_charge_with_a_report_in_review_waits_for_that(db: None, act: Any) -> None:
    factories.budget("1")
    operation = factories.reserving("0.10")
    ledger.reserve(operation, now=NOON)
    trust = reviews.trust_in(tenant_id=factories.tenant().pk, agent_is_fixed=False)
    kept = reviews.settle(
        operation=factories.settling(operation.reservation_id, "9", trust=trust), tenant="acme", now=NOON
    )
    assert isinstance(kept, PendingReport)
    with pytest.raises(NotOpen, match="waits for review"):
        act(entry=SpendEntry.objects.get(), **WHY)
    reviews.reject(report=kept, **WHY)
    act(entry=SpendEntry.objects.get(), **WHY)
    assert settled() in (0, 1)


def test_no_price_changes_what_an_operator_corrected(certain: SpendEntry) -> None:
    corrections.correct(entry=certain, cost_nanos=nanos("2"), **WHY)
    [charge] = repricing.charges([certain])
    assert charge.has_last_word


def test_a_failure_that_is_no_last_word_is_not_called_one(certain: SpendEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise IntegrityError

    monkeypatch.setattr(ledger, "apply_within", fail)
    with pytest.raises(IntegrityError):
        corrections.void(entry=certain, **WHY)


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
def test_what_many_operators_say_at_once_is_what_one_of_them_said() -> None:
    factories.budget("10")
    entry = SpendEntry.objects.get(pk=ledger.record(factories.reporting("1"), now=NOON).entry_id)
    start = threading.Barrier(6)

    def say(number: int) -> None:
        try:
            start.wait(5)
            if number == 5:
                corrections.void(entry=entry, **WHY)
            else:
                corrections.correct(entry=entry, cost_nanos=nanos(f"0.{number + 1}"), **WHY)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(say, range(6)))
    assert settled() == corrections.charged_nanos(entry)
    assert settled() in {0, *(nanos(f"0.{number + 1}") for number in range(5))}
    assert AuditEntry.objects.count() == 6
    assert reconcile.check() == []


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

    def test_a_confirmed_line_is_corrected_and_voided(self, certain: SpendEntry, operator_api: Api) -> None:
        path = f"/api/spend/{certain.pk}"
        missing = operator_api.post(f"{path}/correct", {"reason": "bill"})
        assert (missing.status_code, missing.json()["error"]["param"]) == (400, "cost")
        done = operator_api.post(f"{path}/correct", {"cost": "0.04", "reason": "bill"})
        assert (done.status_code, done.json()["delta"], done.json()["cost"]) == (200, "-0.96", "0.04")
        assert operator_api.post(f"{path}/void", {"reason": "bill"}).json()["cost"] == "0.00"
        same = operator_api.post(f"{path}/correct", {"cost": "0", "reason": "bill"})
        assert (same.status_code, same.json()["error"]["code"]) == (409, "conflict")

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
