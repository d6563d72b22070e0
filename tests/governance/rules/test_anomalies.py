"""Which hours are out of all proportion, and which only look so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from governance.rules import anomalies
from governance.rules.anomalies import DAY, HOUR, Bounds, Excess, HourFigures, Least, Metric, explains

# A Tuesday, at an hour that offices work.
NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
CENT = 10_000_000
LEAST = Least(cost_nanos=25 * CENT)
PARIS = ZoneInfo("Europe/Paris")


def calls(count: int, *, cents: float = 10, failures: int = 0) -> HourFigures:
    return HourFigures(count, round(count * cents * CENT), failures)


def past(days: int, of: Callable[[datetime], HourFigures], *, until: datetime = NOW) -> dict[datetime, HourFigures]:
    """Each hour of so many days, as `of` says it by its moment."""
    hours = [until - HOUR * number for number in range(1, days * 24 + 1)]
    return {at: of(at) for at in hours if of(at) != HourFigures()}


def bounds(history: dict[datetime, HourFigures], *, hour: datetime = NOW, zone: ZoneInfo = PARIS) -> Bounds:
    found = anomalies.bounds(history, hour=hour, zone=zone, least=LEAST)
    assert found is not None
    return found


def judged(history: dict[datetime, HourFigures], seen: HourFigures, *, hour: datetime = NOW) -> list[str]:
    return [one.metric.value for one in bounds(history, hour=hour).judge(seen)]


def even(at: datetime) -> HourFigures:
    return calls(10)


def office(at: datetime) -> HourFigures:
    """A hundred calls an hour in working hours of working days, hardly any else."""
    local = at.astimezone(PARIS)
    return calls(100) if local.weekday() < 5 and 9 <= local.hour < 18 else calls(1)


def test_an_hour_like_all_others_is_usual_and_one_ten_times_as_large_is_not() -> None:
    history = past(10, even)
    assert bounds(history).cost[0] == pytest.approx(100 * CENT)
    assert judged(history, calls(20)) == []
    assert judged(history, calls(100)) == ["cost"]


def test_the_hour_itself_and_what_comes_after_it_is_not_compared_with() -> None:
    history = past(10, even)
    later = {NOW + HOUR * number: calls(1_000) for number in range(30)}
    assert bounds(history | later) == bounds(history)


@pytest.mark.parametrize(
    "history",
    [
        {},
        past(2, even),
        # Eleven active hours of twenty days.
        past(20, lambda at: even(at) if at.hour == 12 and at > NOW - DAY * 11.5 else HourFigures()),
    ],
)
def test_nothing_is_said_at_a_cold_start(history: dict[datetime, HourFigures]) -> None:
    assert anomalies.bounds(history, hour=NOW, zone=PARIS, least=LEAST) is None


def test_what_is_far_back_is_forgotten() -> None:
    assert anomalies.bounds(past(20, even, until=NOW - DAY * 28), hour=NOW, zone=PARIS, least=LEAST) is None


def test_less_than_is_worth_telling_is_not_told() -> None:
    history = past(10, lambda at: calls(1, cents=0.01))
    assert judged(history, calls(20, cents=1)) == []
    assert judged(history, calls(29, cents=1)) == ["cost"]


def test_more_calls_that_cost_nothing_are_told_as_calls() -> None:
    history = past(10, lambda at: calls(5, cents=0))
    assert judged(history, calls(20, cents=0)) == []
    assert judged(history, calls(60, cents=0)) == ["calls"]


def test_the_hour_of_the_day_counts_by_the_customers_clock() -> None:
    history = past(28, office)
    at_noon, at_night = bounds(history), bounds(history, hour=NOW.replace(hour=1))
    assert at_noon.cost[0] == pytest.approx(1_000 * CENT, rel=0.01)
    assert at_night.cost[0] == pytest.approx(10 * CENT, rel=0.01)
    # A loop at night of what the day has is not told at once, twice of it is.
    assert judged(history, calls(140), hour=NOW.replace(hour=1)) == []
    assert judged(history, calls(200), hour=NOW.replace(hour=1)) == ["cost"]
    assert judged(history, calls(200)) == []


def test_the_weekday_counts_once_two_weeks_are_known() -> None:
    sunday = NOW - DAY * 2
    assert bounds(past(26, office, until=sunday), hour=sunday).cost[0] == pytest.approx(10 * CENT, rel=0.01)


def test_a_monday_after_the_first_week_end_is_no_anomaly() -> None:
    monday = NOW - DAY
    assert judged(past(4, office, until=monday), office(monday), hour=monday) == []


def test_what_came_at_this_hour_of_two_weeks_may_come_again() -> None:
    weekly = past(28, lambda at: calls(300) if at.weekday() == 1 and at.hour in (11, 12, 13) else calls(2))
    assert judged(weekly, calls(300)) == []
    once = past(28, lambda at: calls(300) if at == NOW - DAY * 7 else calls(2))
    assert judged(once, calls(300)) == ["cost"]


def test_steady_growth_is_quiet() -> None:
    growing = past(28, lambda at: calls(round(100 * 1.05 ** (28 - (NOW - at) / DAY))))
    today = round(100 * 1.05**28)
    assert bounds(growing).cost[0] == pytest.approx(today * 10 * CENT, rel=0.1)
    assert judged(growing, calls(today)) == []


def test_a_new_level_is_usual_after_half_a_day_of_it() -> None:
    level = past(14, lambda at: calls(80) if at >= NOW - HOUR * 12 else calls(10))
    assert judged(level, calls(90)) == []
    short = past(14, lambda at: calls(80) if at >= NOW - HOUR * 4 else calls(10))
    assert judged(short, calls(90)) == ["cost"]


def test_spikes_in_the_history_hardly_raise_the_bound() -> None:
    spiked = past(14, lambda at: calls(400) if (at - NOW) // HOUR % 41 == 7 else calls(10))
    assert judged(spiked, calls(1_700)) == ["cost"]
    assert bounds(spiked).cost[0] == pytest.approx(100 * CENT)


def test_uneven_hours_have_a_wider_bound_and_no_endless_one() -> None:
    uneven = past(28, lambda at: calls((1, 10, 100, 3, 30)[(at - NOW) // HOUR % 5]))
    assert judged(uneven, calls(100)) == []
    assert judged(uneven, calls(401)) == ["cost"]


def test_of_few_hours_with_spend_the_highest_bounds() -> None:
    # Twelve hours are active, by calls that cost nothing but for four.
    free = {NOW - DAY * number: calls(1, cents=0) for number in range(1, 15)}
    rare = free | {NOW - DAY * number - HOUR: calls(2, cents=20) for number in (2, 5, 9, 11)}
    assert bounds(rare).cost == (0, 160 * CENT)


def test_hours_without_any_like_them_go_by_those_around_them() -> None:
    # Known for three days and some hours: two days have the hour after midnight.
    history = past(4, lambda at: calls(10) if at.hour != 12 else HourFigures())
    assert judged(history, calls(10)) == []


def test_no_hour_like_it_at_all_is_judged_by_busy_ones() -> None:
    young = past(3, even)
    # In Kiritimati, thirteen hours ahead of Paris, days are counted otherwise; the figures are the same.
    assert bounds(young, zone=ZoneInfo("Pacific/Kiritimati")).cost == bounds(young).cost


class TestACall:
    def test_that_costs_more_than_usual_is_told_apart_from_more_calls(self) -> None:
        history = past(10, lambda at: calls(50, cents=1))
        assert judged(history, calls(50, cents=2)) == []
        assert judged(history, calls(30, cents=4)) == ["cost_per_call"]

    def test_of_few_tells_nothing(self) -> None:
        history = past(10, lambda at: calls(50, cents=1))
        assert judged(history, calls(9, cents=13)) == []

    def test_whose_excess_is_small_tells_nothing(self) -> None:
        history = past(10, lambda at: calls(50, cents=0.01))
        assert judged(history, calls(40, cents=0.5)) == []

    def test_is_not_judged_where_hardly_an_hour_has_some(self) -> None:
        assert bounds(past(10, lambda at: calls(2))).per_call is None


class TestFailures:
    def test_beyond_what_is_usual_are_told(self) -> None:
        history = past(10, lambda at: calls(100, cents=0.01, failures=1))
        assert judged(history, calls(100, cents=0.01, failures=7)) == []
        assert judged(history, calls(60, cents=0.01, failures=40)) == ["failures"]

    def test_that_are_usual_are_not(self) -> None:
        history = past(10, lambda at: calls(60, cents=0.01, failures=40))
        assert judged(history, calls(60, cents=0.01, failures=45)) == []

    def test_of_few_calls_an_hour_go_by_all_of_them(self) -> None:
        history = past(10, lambda at: calls(2, cents=0.01))
        assert judged(history, HourFigures(0, 0, 12)) == ["failures"]
        assert judged(history, HourFigures(0, 0, 7)) == []

    def test_alone_have_been_seen_before(self) -> None:
        history = past(10, lambda at: HourFigures(0, 0, 2))
        assert bounds(history).failing == (1.0, 2.0)


def test_what_agents_have_too_much_of_explains_their_customer() -> None:
    whole = Excess(Metric.COST, 1_000, 100, 300)
    agent = Excess(Metric.COST, 700, 60, 200)
    assert explains([agent], whole)
    assert not explains([Excess(Metric.COST, 600, 60, 200)], whole)
    assert not explains([Excess(Metric.CALLS, 700, 60, 200)], whole)
    assert not explains([], whole)
    dear = Excess(Metric.COST_PER_CALL, 10, 1, 3)
    assert explains([dear], dear)
    assert not explains([agent], dear)


def test_each_hour_of_a_course_is_judged_by_those_before_it() -> None:
    history = past(4, even)
    found = list(anomalies.course(history, until=NOW - HOUR, count=30, zone=PARIS, least=LEAST))
    assert [at for at, _, _ in found] == [NOW - HOUR * number for number in range(30, 0, -1)]
    # The first ones were too early to be judged.
    assert [judge is None for _, _, judge in found] == [True] * 6 + [False] * 24
    assert found[-1][2] == bounds(history, hour=NOW - HOUR)


def test_hours_of_two_are_added_up() -> None:
    assert HourFigures(1, 2, 3) + HourFigures(10, 20, 30) == HourFigures(11, 22, 33)


def test_figures_are_read_by_their_metric() -> None:
    seen = HourFigures(4, 10, 3)
    assert [seen.of(metric) for metric in Metric] == [10, 4, 2, 3]
    assert HourFigures().of(Metric.COST_PER_CALL) == 0


def test_costs_are_money_and_the_rest_are_numbers_of_calls() -> None:
    assert [metric for metric in Metric if metric.is_money] == [Metric.COST, Metric.COST_PER_CALL]
