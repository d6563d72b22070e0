"""The synthetic customers, and what is measured on them."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from governance.rules.anomalies import HourFigures, Metric
from governance.sandbox import measurement, traces
from governance.sandbox.methods import METHODS, Method
from governance.sandbox.traces import DAY, HOUR, STARTS_AT, Label, Trace, ZoneInfo


def measured(*args: str) -> Any:
    out = StringIO()
    call_command("measure_anomalies", *args, "--json", stdout=out, stderr=StringIO())
    return json.loads(out.getvalue())


def test_the_same_seed_makes_the_same_customers() -> None:
    one, again, other = (traces.traces(seed=seed, customers=4, days=3) for seed in (5, 5, 6))
    assert one == again
    assert one != other
    # The first of many are the same as the first of few.
    assert traces.traces(seed=5, customers=2, days=3) == one[:2]


def test_trouble_is_labelled_within_the_judged_time_and_shows_in_the_figures() -> None:
    made = traces.traces(seed=1, customers=60, days=7)
    labels = [(trace, label) for trace in made for label in trace.labels]
    assert {label.kind for _, label in labels} == set(traces.TROUBLES)
    for trace, label in labels:
        assert trace.judged_from <= label.starts_at < label.ends_at <= trace.ends_at
        hours = [trace.hours.get(label.starts_at + HOUR * number, HourFigures()) for number in range(6)]
        assert any(figures != HourFigures() for figures in hours)


def test_ours_finds_more_than_a_static_threshold_with_fewer_false_alarms() -> None:
    found = measured("--customers", "12", "--days", "4", "--methods", "robust,static,z-score")
    ours = next(each for each in found["robust (ours)"] if each["number"] == 1)
    static = next(each for each in found["static threshold"] if each["number"] == 10)
    usual = next(each for each in found["plain z-score"] if each["number"] == 3)
    assert ours["recall"] >= static["recall"]
    assert ours["false_per_thousand_days"] < static["false_per_thousand_days"]
    assert ours["false_per_thousand_days"] < usual["false_per_thousand_days"]


def test_alarms_close_together_are_one_and_those_of_trouble_are_none() -> None:
    label = Label("loop", STARTS_AT + 10 * HOUR, STARTS_AT + 12 * HOUR, Metric.COST)
    trace = Trace("t", "office", ZoneInfo("UTC"), {}, STARTS_AT, STARTS_AT + DAY, (label,))
    places = (1, 2, 5, 11, 14, 20)
    scores = {STARTS_AT + HOUR * place: 2.0 for place in places}
    method = Method("m", lambda trace: scores, 1.0, (1.0, 3.0))
    at_one, at_three = measurement.measure(method, [(trace, scores)])
    assert (at_one.recall, at_one.false_alarms, at_one.late, at_one.false_per_thousand) == (1.0, 2, 1, 2000)
    assert (at_three.recall, at_three.false_alarms, at_three.late) == (0.0, 0, 0.0)
    assert dict(measurement.by_kind(at_one)) == {"loop": "1/1"}


def test_forecasts_are_measured_beside_what_one_would_guess() -> None:
    found = measured("--customers", "3", "--days", "8", "--forecasts")
    assert set(found["day"]["weighted"]) == {"forecast", "run rate", "as before", "mean of 7 days"}
    assert 0 <= found["day"]["inside"] <= 1


def test_people_read_tables() -> None:
    out = StringIO()
    call_command("measure_anomalies", "--customers", "1", "--days", "3", "--methods", "static", stdout=out)
    assert "static threshold: usual number 10" in out.getvalue()
    out = StringIO()
    call_command("measure_anomalies", "--customers", "2", "--days", "8", "--forecasts", stdout=out)
    assert "inside their band" in out.getvalue()


@pytest.mark.parametrize("args", [("--customers", "0"), ("--days", "2"), ("--methods", "robust,mine")])
def test_wrong_arguments_are_named(args: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match=args[0]):
        call_command("measure_anomalies", *args)


def test_a_library_that_is_not_there_is_named() -> None:
    try:
        import statsmodels  # noqa: F401
    except ImportError:
        with pytest.raises(CommandError, match="needs a package"):
            call_command("measure_anomalies", "--customers", "3", "--days", "3", "--methods", "stl", stderr=StringIO())


def test_methods_have_a_usual_number() -> None:
    assert all(method.usual > 0 for method in METHODS.values())
    assert timedelta(days=traces.HISTORY_DAYS) == timedelta(days=28)
