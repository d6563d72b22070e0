"""What no call can cost or use: refused where somebody can be told, and charged where the money is spent already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.db import IntegrityError, transaction

from governance import ledger
from governance.ledger.batch import Batch
from governance.ledger.operations import Adjust, Extend
from governance.models import Budget, BudgetWindow, RateBucket, RateLimit, Reservation, SpendEntry, SpendRollup
from governance.rules import money
from governance.rules.buckets import E6
from governance.rules.calls import Usage
from governance.rules.decision import Reason
from governance.upkeep import sql as upkeep
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]

MOST = money.MAX_AMOUNT_NANOS
TEN_MILLION = "10000000"


def held(cost: str = "0.10", **fields: Any) -> Any:
    op = make.reserving(cost, **fields)
    assert ledger.reserve(op, now=NOON).allowed
    return op


IMPLAUSIBLE = [
    {"cost_nanos": MOST + 1},
    {"cost_nanos": 2**63},
    {"cost_nanos": 2**70},
    {"cost_nanos": -1},
    {"usage": Usage("mistral", "large", 2**62, 0, 5)},
    {"usage": Usage("mistral", "large", 0, 0, 2**63)},
    {"usage": Usage("mistral", "large", 5, 2**64, 5)},
    {"usage": Usage("mistral", "large", -1, 0, 5)},
    {"usage": Usage("mistral", "ocr", unit="page", units=2**62)},
]


@pytest.mark.parametrize("said", IMPLAUSIBLE)
class TestASettlementThatCannotBe:
    def test_is_charged_at_its_hold_as_an_estimate_that_says_what_it_was_told(self, said: dict[str, Any]) -> None:
        make.budget("1.00")
        op = held()
        settle = replace(make.settling(op.reservation_id, "0.01", metadata={"kept": 1}), **said)
        assert ledger.settle(settle, now=NOON).charged_nanos == nanos("0.10")
        entry = SpendEntry.objects.get()
        assert (entry.cost_nanos, entry.certainty, entry.reason) == (nanos("0.10"), "estimated", "implausible")
        assert entry.metadata["kept"] == 1
        told = entry.metadata["reported"]
        assert told["cost_nanos"] == str(settle.cost_nanos)
        assert told["output_tokens"] == str(settle.usage.output_tokens)
        assert Reservation.objects.get().status == "settled"

    def test_does_not_touch_its_neighbours(self, said: dict[str, Any]) -> None:
        make.budget("1.00")
        ops = [held() for _ in range(3)]
        settles = [make.settling(op.reservation_id, "0.02") for op in ops]
        settles[1] = replace(settles[1], **said)
        results = ledger.apply(settles, now=NOON)
        assert [result.charged_nanos for result in results] == [nanos("0.02"), nanos("0.10"), nanos("0.02")]

    def test_that_comes_late_leaves_the_charge_at_the_hold(self, said: dict[str, Any]) -> None:
        make.budget("1.00")
        op = held()
        ledger.expire_due(now=NOON + timedelta(days=1))
        settle = replace(make.settling(op.reservation_id, "0.01"), **said)
        result = ledger.settle(settle, now=NOON + timedelta(days=1))
        assert (result.late, result.charged_nanos) == (True, nanos("0.10"))
        assert BudgetWindow.objects.get().settled_nanos == nanos("0.10")


def test_the_largest_settlement_there_is_lands_in_full_and_is_an_overage() -> None:
    make.budget("1.00")
    op = held()
    settle = replace(make.settling(op.reservation_id), cost_nanos=MOST)
    assert ledger.settle(settle, now=NOON).overage_nanos == MOST - nanos("0.10")
    assert BudgetWindow.objects.get().settled_nanos == MOST


@pytest.mark.parametrize(
    "report",
    [
        {"cost_nanos": MOST + 1},
        {"cost_nanos": 2**70},
        {"usage": Usage("mistral", "large", 2**62, 0, 0)},
        {"usage": Usage("mistral", "large", 1, 0, 10**12 + 1)},
        {"usage": Usage("mistral", "ocr", unit="page", units=2**63)},
    ],
)
def test_a_report_that_cannot_be_is_refused_and_leaves_its_neighbours_alone(report: dict[str, Any]) -> None:
    make.budget("1.00")
    good, bad = make.reporting("0.01"), replace(make.reporting("0.01"), **report)
    first, refused, last = ledger.apply([good, bad, make.reporting("0.02")], now=NOON)
    assert isinstance(refused, ledger.OutOfBounds)
    assert refused.field == ("usage" if "usage" in report else "cost")
    assert (first.cost_nanos, last.cost_nanos) == (nanos("0.01"), nanos("0.02"))
    assert SpendEntry.objects.count() == 2


def test_a_hold_beyond_the_bound_of_an_amount_is_refused() -> None:
    make.budget("1000000000")
    with pytest.raises(ledger.OutOfBounds, match="10,000,000 dollars"):
        ledger.reserve(make.reserving("10000000.000000001"), now=NOON)
    dear = make.reserving("10000000.000000001")
    with pytest.raises(ledger.OutOfBounds, match="10,000,000 dollars"):
        ledger.dry_run(dear.caller, dear.call, now=NOON)
    op = held(TEN_MILLION)
    with pytest.raises(ledger.OutOfBounds, match="10,000,000 dollars"):
        ledger.extend(Extend(op.reservation_id, more_nanos=1), now=NOON)
    ledger.extend(Extend(op.reservation_id), now=NOON)
    assert Reservation.objects.get().amount_nanos == MOST


def test_a_correction_beyond_the_bound_of_an_amount_is_refused() -> None:
    make.budget("1.00")
    done = ledger.record(make.reporting("1"), now=NOON)
    for delta_nanos in (MOST + 1, -MOST - 1):
        with pytest.raises(ledger.OutOfBounds):
            ledger.adjust(Adjust(uuids.uuid7(), done.entry_id, delta_nanos, "why"), now=NOON)


class TestFullSums:
    """With room for two of the largest amounts in a sum, where there is room for 400."""

    @pytest.fixture(autouse=True)
    def _low_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(money, "MAX_SUM", 2 * MOST)

    def filled(self) -> Any:
        """The last of the reports that a window takes."""
        ledger.record(make.reporting(TEN_MILLION), now=NOON)
        return ledger.record(make.reporting(TEN_MILLION), now=NOON)

    def test_a_full_window_takes_no_report_and_no_correction_upwards(self) -> None:
        make.budget("1.00")
        last = self.filled()
        with pytest.raises(ledger.OutOfBounds, match=r"tenant:acme .* 20,000,000 dollars"):
            ledger.record(make.reporting("0.000000001"), now=NOON)
        with pytest.raises(ledger.OutOfBounds):
            ledger.adjust(Adjust(uuids.uuid7(), last.entry_id, 1, "why"), now=NOON)
        assert ledger.record(make.reporting("0"), now=NOON).cost_nanos == 0

    def test_settlements_and_expiry_land_in_a_full_window_which_stays_at_its_bound(self) -> None:
        make.budget("1.00")
        ops = [held() for _ in range(4)]
        ledger.record(make.reporting(TEN_MILLION), now=NOON)
        ledger.record(make.reporting("9999998"), now=NOON)
        for op in ops[:2]:
            ledger.settle(make.settling(op.reservation_id, "5"), now=NOON)
        assert ledger.expire_due(now=NOON + timedelta(days=1)) == 2
        window = BudgetWindow.objects.get()
        assert (window.settled_nanos, window.reserved_nanos) == (money.MAX_SUM, 0)
        costs = {entry.cost_nanos for entry in SpendEntry.objects.all()}
        assert costs == {MOST, nanos("9999998"), nanos("5"), nanos("0.10")}

    def test_what_is_taken_back_of_more_than_the_bound_leaves_the_sum_at_it(self) -> None:
        """Closed to whatever is unclear: the sum does not know how far beyond it was, and a repair counts anew."""
        make.budget("1.00")
        op = held()
        last = self.filled()
        ledger.settle(make.settling(op.reservation_id, "7"), now=NOON)
        ledger.adjust(Adjust(uuids.uuid7(), last.entry_id, -nanos("5"), "why"), now=NOON)
        assert BudgetWindow.objects.get().settled_nanos == money.MAX_SUM

    def test_everybodys_sum_is_nobodys_to_fill(self) -> None:
        Budget.objects.create(scope_type="platform", window="day", limit_nanos=nanos("1.00"))
        self.filled()
        other = make.caller(make.tenant("globex"))
        assert ledger.record(make.reporting("1", by=other), now=NOON).cost_nanos == nanos("1")
        assert BudgetWindow.objects.get().settled_nanos == money.MAX_SUM

    def test_many_of_the_largest_reports_by_many_agents(self) -> None:
        make.budget("1.00")
        callers = [make.caller(agent=f"agent-{n}") for n in range(5)]
        results = ledger.apply([make.reporting(TEN_MILLION, by=by) for by in callers for _ in range(3)], now=NOON)
        taken = [result for result in results if not isinstance(result, Exception)]
        assert len(taken) == 2
        assert {type(result) for result in results if result not in taken} == {ledger.OutOfBounds}
        assert BudgetWindow.objects.get().settled_nanos == money.MAX_SUM


class TestAFullHour:
    """The constraint of the hourly sums is the database's; nothing of Python stands before it."""

    @pytest.fixture
    def by(self) -> Iterator[Any]:
        by = make.caller(agent="invoices")
        ledger.record(make.reporting("1", by=by), now=NOON)
        SpendRollup.objects.update(cost_nanos=money.MAX_SUM - 5)
        yield by
        # Counted anew from the lines, before the invariants are looked at.
        upkeep.mend_rollups(upkeep.rollups())

    def test_takes_no_report_and_no_correction(self, by: Any) -> None:
        entry = SpendEntry.objects.get()
        for op in (make.reporting("1", by=by), Adjust(uuids.uuid7(), entry.pk, nanos("1"), "why")):
            [refused] = ledger.apply([op], now=NOON)
            assert isinstance(refused, ledger.OutOfBounds)
            assert "4,000,000,000 dollars" in str(refused)

    def test_takes_no_report_within_somebodys_transaction(self, by: Any) -> None:
        with pytest.raises(ledger.OutOfBounds, match="4,000,000,000 dollars"), transaction.atomic():
            ledger.apply_within([make.reporting("1", by=by)], now=NOON)
        assert SpendEntry.objects.count() == 1

    def test_takes_settlements_also_beside_a_report(self, by: Any) -> None:
        op = held(by=by)
        settle = make.settling(op.reservation_id, "2")
        refused, done = ledger.apply([make.reporting("1", by=by), settle], now=NOON)
        assert isinstance(refused, ledger.OutOfBounds)
        assert done.charged_nanos == nanos("2")
        assert SpendRollup.objects.get(agent="invoices").cost_nanos == money.MAX_SUM

    def test_hundreds_of_the_largest_reports_in_one_batch(self, by: Any) -> None:
        """More at once than 64 bits hold: each alone is taken, as long as its hour has room."""
        results = ledger.apply([make.reporting(TEN_MILLION, by=by) for _ in range(3)], now=NOON)
        assert {type(result) for result in results} == {ledger.OutOfBounds}
        other = make.caller(agent="other")
        results = ledger.apply([make.reporting(TEN_MILLION, by=other) for _ in range(2100)], now=NOON)
        taken = [result for result in results if not isinstance(result, Exception)]
        assert len(taken) == money.MAX_SUM // MOST
        assert {type(result) for result in results if isinstance(result, Exception)} == {ledger.OutOfBounds}
        assert SpendRollup.objects.get(agent="other").cost_nanos == money.MAX_SUM

    def test_is_no_other_constraint(self, by: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(batch: Batch) -> None:
            raise IntegrityError("another constraint")

        monkeypatch.setattr(Batch, "write", fail)
        [failed] = ledger.apply([make.reporting("1", by=by)], now=NOON)
        assert isinstance(failed, IntegrityError)
        with pytest.raises(IntegrityError), transaction.atomic():
            ledger.apply_within([make.reporting("1", by=by)], now=NOON)


class TestBuckets:
    """A level is never above two ceilings, whatever is booked: no limit is closed for longer than its two minutes."""

    @pytest.fixture
    def limit(self) -> RateLimit:
        return RateLimit.objects.create(
            scope_type="platform", tokens_per_minute=1_000, nanos_per_minute=nanos("1"), requests_per_minute=100
        )

    def settle_huge(self) -> None:
        usage = Usage("mistral", "large", 0, 0, 10**12)
        for op in [held("0.10"), held("0.10")]:
            ledger.settle(replace(make.settling(op.reservation_id, "1000"), usage=usage), now=NOON)

    def test_a_settlement_of_nothing_and_a_trillion_tokens_closes_a_limit_for_two_minutes(self, limit: Any) -> None:
        self.settle_huge()
        bucket = RateBucket.objects.get()
        assert bucket.level_tokens_e6 == 2 * 1_000 * E6
        assert bucket.level_nanos == 2 * nanos("1")
        other = make.caller(make.tenant("globex"))
        refused = ledger.reserve(make.reserving("0.10", by=other), now=NOON + timedelta(seconds=50))
        assert refused.reason == Reason.RATE_LIMITED
        assert ledger.reserve(make.reserving("0.10", by=other), now=NOON + timedelta(minutes=2)).allowed

    def test_a_level_that_is_too_high_already_comes_down_as_it_is_read(self, limit: Any) -> None:
        held("0.10")
        RateBucket.objects.update(level_tokens_e6=10**18, level_nanos=10**18, level_requests_e6=10**18)
        assert not ledger.reserve(make.reserving("0.10"), now=NOON).allowed
        assert ledger.reserve(make.reserving("0.10"), now=NOON + timedelta(minutes=2)).allowed

    @pytest.mark.parametrize("ceiling", [10, None, 10**6])
    def test_a_ceiling_that_was_lowered_or_taken_away_meanwhile(self, limit: Any, ceiling: int | None) -> None:
        self.settle_huge()
        RateLimit.objects.update(tokens_per_minute=ceiling)
        self_again = ledger.reserve(make.reserving("0.10"), now=NOON + timedelta(minutes=2))
        assert self_again.allowed
        bucket = RateBucket.objects.get()
        assert bucket.level_tokens_e6 <= 2 * (ceiling or 0) * E6

    def test_what_a_large_call_did_not_use_is_given_back_of_what_counted_alone(self, limit: Any) -> None:
        """Ten dollars held in a bucket of two: when nine were used, the two are still full."""
        op = held("10")
        assert RateBucket.objects.get().level_nanos == 2 * nanos("1")
        ledger.settle(make.settling(op.reservation_id, "9"), now=NOON)
        assert RateBucket.objects.get().level_nanos == 2 * nanos("1")

    def test_what_is_released_is_given_back_whole(self, limit: Any) -> None:
        op = held("10")
        ledger.release(make.releasing(op.reservation_id), now=NOON)
        bucket = RateBucket.objects.get()
        assert (bucket.level_nanos, bucket.level_requests_e6, bucket.level_tokens_e6) == (0, 0, 0)

    def test_a_limit_without_a_ceiling_holds_nothing(self) -> None:
        RateLimit.objects.create(scope_type="platform", requests_per_minute=100)
        self.settle_huge()
        bucket = RateBucket.objects.get()
        assert (bucket.level_nanos, bucket.level_tokens_e6) == (0, 0)
