"""What a report says: its figures, and how many queries they take."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from PIL import Image

from governance import ledger
from governance.queries import report_figures
from governance.queries.report_figures import ReportFigures
from governance.reports import charts, rendering
from governance.reports.charts import ChartBar
from governance.rules.report_periods import Cadence, ReportPeriod
from tests import factories as make
from tests.factories import nanos
from tests.governance.reports.conftest import MONDAY, spend, two_weeks

pytestmark = pytest.mark.django_db
BERLIN = ZoneInfo("Europe/Berlin")
WEEK = ReportPeriod(Cadence.WEEKLY, date(2026, 3, 9), ZoneInfo("UTC"))


def figures(period: ReportPeriod = WEEK, now: datetime = MONDAY) -> ReportFigures:
    return report_figures.of_period(tenant=None, period=period, now=now)


@pytest.mark.parametrize(
    ("sunday", "midnight"),
    [(date(2026, 3, 29), "2026-03-29T22:00"), (date(2026, 10, 25), "2026-10-25T23:00")],
)
def test_the_day_on_which_clocks_change_ends_at_its_own_midnight(sunday: date, midnight: str) -> None:
    end = datetime.fromisoformat(midnight).replace(tzinfo=UTC)
    spend("1.00", end - timedelta(minutes=1))
    spend("10.00", end)
    found = figures(ReportPeriod(Cadence.WEEKLY, sunday - timedelta(days=6), BERLIN), now=end + timedelta(days=1))
    assert found.days[sunday].cost_nanos == found.total.cost_nanos == nanos("1.00")


def test_the_dearest_are_named_and_the_rest_is_summed_up() -> None:
    for number in range(report_figures.MOST_LINES + 3):
        spend(f"{number + 1}.00", MONDAY - timedelta(days=1), agent=f"agent-{number}")
    table = figures().tables["agent"]
    assert [line.key for line in table.lines][:2] == [("acme", "agent-10"), ("acme", "agent-9")]
    assert (table.left_out, table.rest.cost_nanos, table.rest.calls) == (3, nanos("6"), 3)
    assert set(figures().tables) == {"customer", "agent", "model"}
    own = report_figures.of_period(tenant=make.tenant(), period=WEEK, now=MONDAY)
    assert set(own.tables) == {"agent", "model"}


def test_budgets_near_their_cap_and_those_that_run_out_are_told() -> None:
    near, soon, _ = make.budget("1.00"), make.budget("9.00", window="week"), make.budget("90.00", window="month")
    ledger.record(make.reporting("0.80"), now=MONDAY)
    make.kept_forecast(soon, now=MONDAY, runs_out_in=timedelta(days=2))
    later = MONDAY + timedelta(minutes=1)
    assert [one.window.budget for one in figures(now=later).budgets] == [soon, near]
    told = rendering.render(figures(now=later), image=str).text
    assert (
        "The weekly budget of acme: $0.80 of $9.00 (8 %). At this rate it runs out on Wednesday 18 March, 08:00."
        in told
    )
    assert "$0.80 of $1.00 (80 %)" in told
    # Of what has no forecast nobody knows whether it lasts.
    assert "until it resets" not in told


def test_budgets_that_are_used_up_come_before_those_that_will_be() -> None:
    used_up, soon = make.budget("1.00", window="month"), make.budget("9.00", window="week")
    ledger.record(make.reporting("1.00"), now=MONDAY)
    make.kept_forecast(soon, now=MONDAY, runs_out_in=timedelta(days=2))
    found = figures(now=MONDAY + timedelta(minutes=1))
    assert [one.window.budget for one in found.budgets] == [used_up, soon]
    assert "$1.00 of $1.00 (100 %). It is used up." in rendering.render(found, image=str).text


def test_what_only_the_latest_calls_tell_is_said_to_be_of_them() -> None:
    found = figures()
    partly = replace(found, savings=replace(found.savings, clamped=2, since=MONDAY - timedelta(days=2)))
    told = rendering.render(partly, image=str).text
    assert "Calls that were moved or kept shorter are counted from Saturday 14 March, 08:00 on alone." in told
    assert "on alone" not in rendering.render(found, image=str).text


def test_it_takes_as_many_queries_whoever_spends() -> None:
    def asked() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            figures()
        return len(queries)

    two_weeks()
    few = asked()
    for name in ("globex", "initech", "hooli"):
        two_weeks(make.tenant(name))
        make.budget("1.00", tenant=make.tenant(name), scope_key=name)
    assert asked() == few <= 20


@pytest.mark.parametrize(
    ("now", "before", "words"), [(0, 0, "–"), (5, 0, "new"), (5, 5, "no change"), (1, 4, "-75.0 %")]
)
def test_a_change_is_said_in_words(now: int, before: int, words: str) -> None:
    assert rendering.change(now, before) == words


@pytest.mark.parametrize("amounts", [[0] * 7, [-5] * 31, [1] + [10**18] * 30, list(range(28))])
def test_any_days_can_be_drawn(amounts: list[int]) -> None:
    drawn = charts.png([ChartBar(str(n), "$1,000,000,000.00", amount) for n, amount in enumerate(amounts)])
    picture = Image.open(BytesIO(drawn))
    assert picture.size == (charts.WIDTH * charts.SCALE, charts.HEIGHT * charts.SCALE)
    # It lies on whatever ground a mail program has.
    assert picture.getpixel((0, 0)) == (0, 0, 0, 0)
    assert len(drawn) < 20_000
