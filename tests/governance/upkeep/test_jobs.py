"""Periodic jobs: one run at a time, its end noted, a late one known."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import OperationalError, connection
from django.utils import timezone

from config.celery import PERIODS, app
from governance import ledger
from governance.models import BudgetWindow, Job, SpendEntry, SpendRollup
from governance.queries import jobs as job_queries
from governance.rules import money
from governance.upkeep import jobs
from tests import factories as make

NAME = "governance.tasks.reconcile_ledger"
pytestmark = pytest.mark.django_db


def status(name: str = NAME) -> job_queries.JobStatus:
    [found] = [each for each in job_queries.statuses(now=timezone.now()) if each.task == name]
    return found


def test_no_two_jobs_have_one_short_name() -> None:
    assert len({job_queries.short(task) for task in PERIODS}) == len(PERIODS)


def test_a_run_notes_its_end_and_makes_all_jobs_known() -> None:
    assert job_queries.statuses(now=timezone.now()) == []
    with time_machine.travel(make.NOON, tick=False):
        assert jobs.run(NAME, lambda: 7) == 7
        assert (status().state, status().succeeded_at, status().running_since) == ("ok", make.NOON, None)
        assert status().took_s is not None
        assert {each.state for each in job_queries.statuses(now=make.NOON)} == {"ok", "waiting"}
    assert set(Job.objects.values_list("name", flat=True)) == set(PERIODS)
    assert not Job.objects.exclude(held_by=None).exists()


def test_a_second_run_is_left_out_while_the_first_goes_on() -> None:
    def second() -> None:
        pytest.fail("it ran beside the first")

    assert jobs.run(NAME, lambda: jobs.run(NAME, second)) is None
    assert jobs.run(NAME, lambda: jobs.run("llm.tasks.sync_models", lambda: "another one")) == "another one"


def test_a_run_that_was_killed_holds_up_the_next_for_a_minute() -> None:
    with time_machine.travel(make.NOON, tick=False) as traveller:
        assert jobs._is_taken(NAME, jobs.uuid4())
        assert status().running_since == make.NOON
        assert jobs.run(NAME, lambda: "ran") is None
        traveller.shift(jobs.LEASE)
        assert status().running_since is None
        assert jobs.run(NAME, lambda: "ran") == "ran"


def test_a_run_that_lost_its_turn_does_not_end_that_of_another(caplog: pytest.LogCaptureFixture) -> None:
    def stopped_for_long() -> None:
        Job.objects.filter(name=NAME).update(held_by=jobs.uuid4())

    jobs.run(NAME, stopped_for_long)
    assert "another run began" in caplog.text
    assert Job.objects.get(name=NAME).held_by is not None


def test_a_failure_is_raised_kept_and_forgotten_when_it_succeeds() -> None:
    def fail() -> None:
        raise ValueError("no such day\0\n" + "x" * 600)

    for _ in range(2):
        with pytest.raises(ValueError, match="no such day"):
            jobs.run(NAME, fail)
    found = status()
    assert (found.state, found.failures) == ("failing", 2)
    assert found.error.startswith("ValueError: no such day")
    assert len(found.error) == jobs.LONGEST_ERROR
    assert "\n" not in found.error
    jobs.run(NAME, lambda: None)
    assert (status().state, status().failures, status().error) == ("ok", 0, "")


def test_a_failure_that_cannot_be_noted_is_raised_all_the_same(monkeypatch: Any) -> None:
    def fail() -> None:
        monkeypatch.setattr(jobs, "_end", gone)
        raise ValueError("first")

    def gone(*args: Any, **said: Any) -> bool:
        raise OperationalError("gone")

    with pytest.raises(ValueError, match="first"):
        jobs.run(NAME, fail)


def test_a_success_that_cannot_be_noted_is_one_all_the_same(monkeypatch: Any, caplog: Any) -> None:
    def gone(*args: Any, **said: Any) -> bool:
        raise OperationalError("gone")

    monkeypatch.setattr(jobs, "_end", gone)
    assert jobs.run(NAME, lambda: 7) == 7
    assert "could not be noted" in caplog.text


@pytest.mark.parametrize("period", [timedelta(seconds=15), timedelta(hours=1), timedelta(days=1)])
def test_a_job_is_late_after_two_periods_and_two_minutes(period: timedelta) -> None:
    name = next(name for name, found in PERIODS.items() if found == period)
    with time_machine.travel(make.NOON, tick=False) as traveller:
        jobs.run(name, lambda: None)
        traveller.shift(2 * period + timedelta(seconds=119))
        assert name not in [each.task for each in job_queries.late(now=timezone.now())]
        traveller.shift(timedelta(seconds=1))
        assert name in [each.task for each in job_queries.late(now=timezone.now())]
        assert status(name).late_since == timezone.now()
        jobs.run(name, lambda: None)
        assert status(name).state == "ok"


def test_a_job_that_never_ran_is_late_from_when_others_began() -> None:
    with time_machine.travel(make.NOON, tick=False) as traveller:
        jobs.run("governance.tasks.expire_reservations", lambda: None)
        traveller.shift(timedelta(hours=2, minutes=2))
        assert status().state == "late"
        # One that only a newer version knows is missed when that has begun to run jobs.
        Job.objects.filter(name=NAME).delete()
        assert status().state == "waiting"


@pytest.mark.django_db(transaction=True)
def test_a_long_run_holds_on_and_one_that_cannot_says_so(monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(jobs, "RENEWED_EVERY_S", 0.01)
    with time_machine.travel(make.NOON, tick=False) as traveller:
        run_id = jobs.uuid4()
        assert jobs._is_taken(NAME, run_id)
        traveller.shift(timedelta(seconds=50))
        with jobs._kept(NAME, run_id):
            while Job.objects.get(name=NAME).held_until != timezone.now() + jobs.LEASE:
                connection.close()
        monkeypatch.setattr(jobs.clock, "now", lambda: (_ for _ in ()).throw(OperationalError("gone")))
        with jobs._kept(NAME, run_id):
            while "could not be held on" not in caplog.text:
                threading.Event().wait(0.005)


@pytest.mark.django_db(transaction=True)
def test_of_many_that_begin_at_once_one_runs() -> None:
    barrier, ran = threading.Barrier(6), []
    release = threading.Event()

    def begin() -> None:
        barrier.wait()
        try:
            jobs.run(NAME, lambda: (ran.append(1), release.wait(5)))
        finally:
            connection.close()
            done.release()

    done = threading.Semaphore(0)
    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        done.acquire()
    release.set()
    for thread in threads:
        thread.join()
    assert ran == [1]


def test_what_beat_runs_goes_through_it_and_other_tasks_do_not() -> None:
    app.loader.import_default_modules()
    app.tasks["governance.tasks.roll_windows"]()
    assert Job.objects.get(name="governance.tasks.roll_windows").succeeded_at is not None
    count = Job.objects.count()
    assert app.tasks["billing.tasks.process_event"]("evt_none") is False
    assert Job.objects.count() == count


def test_every_job_run_twice_does_what_it_does_once() -> None:
    """Figures of money after a second run are those after the first."""
    app.loader.import_default_modules()
    make.budget("1.00")
    now = timezone.now()
    ledger.reserve(make.reserving("0.50"), now=now - timedelta(days=1))
    ledger.record(make.reporting("0.25"), now=now)

    def figures() -> list[Any]:
        return [
            sorted(table.objects.values_list(*fields))
            for table, fields in (
                (SpendEntry, ("id", "cost_nanos")),
                (SpendRollup, ("id", "cost_nanos", "calls")),
                (BudgetWindow, ("id", "settled_nanos", "reserved_nanos", "state")),
            )
        ]

    seen = []
    for _ in range(2):
        for name in PERIODS:
            if name != "llm.tasks.sync_models":
                app.tasks[name]()
        seen.append(figures())
    assert seen[0] == seen[1]
    assert sum(cost for _, cost in seen[0][0]) == money.NANOS_PER_DOLLAR * 3 // 4
