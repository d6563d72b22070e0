"""The rules of reporting usage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rules import usage
from billing.rules.usage import Step, Sums, Verdict

NOW = datetime(2026, 3, 10, 12, 30, tzinfo=UTC)
TEN = datetime(2026, 3, 10, 10, 0, tzinfo=UTC)


def test_units_are_whole_and_what_is_less_than_one_joins_when_the_hour_grows() -> None:
    assert usage.units_of(Sums(cost_nanos=1_999), "microdollars") == 1
    assert usage.units_of(Sums(cost_nanos=2_000), "microdollars") == 2
    assert usage.units_of(Sums(tokens=7, calls=2), "tokens") == 7
    assert usage.units_of(Sums(tokens=7, calls=2), "calls") == 2


def test_what_is_taken_back_is_carried_until_something_is_left_to_send() -> None:
    assert usage.step(-40, 0) == Step(0, -40)
    assert usage.step(30, -40) == Step(0, -10)
    assert usage.step(100, -10) == Step(90, 0)
    assert usage.step(11, -10) == Step(1, 0)
    assert usage.step(10, -10) == Step(0, 0)


@given(st.lists(st.integers(-(10**9), 10**9)))
def test_all_that_is_sent_and_carried_is_all_that_changed(changes: list[int]) -> None:
    sent = carried = 0
    for units in changes:
        step = usage.step(units, carried)
        assert step.value >= 0
        assert step.carried_units <= 0
        sent, carried = sent + step.value, step.carried_units
    assert sent + carried == sum(changes)


def test_an_event_is_stamped_within_its_hour_and_never_in_the_future() -> None:
    assert usage.stamp(TEN, period_end=None, now=NOW) == TEN + timedelta(minutes=59, seconds=59)


def test_the_last_hour_of_a_period_is_stamped_within_the_period() -> None:
    end = TEN + timedelta(minutes=30)
    assert usage.stamp(TEN, period_end=end, now=NOW) == end - timedelta(seconds=1)
    for other in (TEN, TEN + timedelta(hours=1), TEN + timedelta(days=3)):
        assert usage.stamp(TEN, period_end=other, now=NOW) == TEN + timedelta(minutes=59, seconds=59)


def test_an_hour_too_old_for_stripe_is_stamped_in_the_last_full_one() -> None:
    old = NOW - timedelta(days=35)
    assert usage.stamp(old, period_end=None, now=NOW) == NOW.replace(hour=11, minute=59, second=59)
    oldest = NOW - timedelta(days=34)
    assert usage.stamp(oldest, period_end=None, now=NOW) == oldest + timedelta(minutes=59, seconds=59)


def test_an_hour_that_nothing_happened_in_has_no_units() -> None:
    assert [usage.units_of(Sums(), unit) for unit in usage.Unit] == [0, 0, 0]
    assert Sums().cost_nanos == 0


def test_an_identifier_is_trusted_for_twenty_hours() -> None:
    assert usage.may_resend(None, NOW)
    assert usage.may_resend(NOW, NOW + timedelta(hours=19, minutes=59))
    assert not usage.may_resend(NOW, NOW + timedelta(hours=20))


@pytest.mark.parametrize(
    ("total", "verdict"), [(150, Verdict.ARRIVED), (100, Verdict.MISSING), (120, Verdict.UNCLEAR), (0, Verdict.UNCLEAR)]
)
def test_stripes_sum_says_whether_what_is_held_arrived(total: int, verdict: Verdict) -> None:
    assert usage.verdict(total=total, sent=100, held=50) is verdict


@pytest.mark.parametrize(
    ("total", "verdict"),
    [(100, Verdict.MISSING), (120, Verdict.UNCLEAR), (150, Verdict.ARRIVED), (151, Verdict.ARRIVED)],
)
def test_of_an_hour_that_was_put_back_stripe_may_have_more(total: int, verdict: Verdict) -> None:
    assert usage.verdict(total=total, sent=100, held=50, was_restored=True) is verdict


def test_an_identifier_is_that_of_the_change_and_goes_with_its_time() -> None:
    def made(
        customer: str = "cus_1", meter: str = "llm_cost", *, tenant: int = 1, hour: datetime = TEN, n: int = 0
    ) -> UUID:
        return usage.identifier(customer, meter, tenant_id=tenant, hour=hour, sequence=n)

    first = made()
    assert (first, first.version, first.variant) == (made(), 7, "specified in RFC 4122")
    others = [made("cus_2"), made(meter="tokens"), made(tenant=2), made(n=1), made(hour=TEN + timedelta(hours=1))]
    assert len({first, *others}) == 6
    assert max(made(n=n) for n in range(20)) < made(hour=TEN + timedelta(hours=1))


def test_an_error_report_names_some_of_what_it_counts() -> None:
    data = {
        "developer_message_summary": "There are 3 invalid events",
        "reason": {
            "error_count": 3,
            "error_types": [
                {
                    "code": "meter_event_customer_not_found",
                    "error_count": 3,
                    "sample_errors": [{"error_message": "No customer", "request": {"identifier": "a"}}],
                }
            ],
        },
    }
    found = usage.error_report(data)
    assert found is not None
    assert (found.count, found.summary) == (3, "There are 3 invalid events")
    assert found.failures == (usage.Failure("a", "meter_event_customer_not_found", "No customer"),)


@pytest.mark.parametrize("data", [None, {}, {"reason": None}, {"reason": "odd"}, [], "x"])
def test_a_report_without_details_says_nothing(data: object) -> None:
    assert usage.error_report(data) is None


def test_odd_reports_do_not_break() -> None:
    found = usage.error_report({"reason": {"error_count": True, "error_types": [{"sample_errors": [{}, 3]}]}})
    assert found == usage.ErrorReport(0, ())


def test_delays_grow_to_an_hour() -> None:
    assert [usage.delay(n) for n in (1, 2, 50)] == [
        timedelta(seconds=30),
        timedelta(minutes=1),
        timedelta(hours=1),
    ]
