"""Noting refusals: bounded, never in the way, and written when it can be."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError

from governance import tasks
from governance.actions import refusal_log
from governance.actions.refusal_log import NotedRefusal, RefusalLog
from governance.models import RefusedCall
from tests import factories
from tests.factories import NOON


@pytest.fixture
def log(settings: Any) -> RefusalLog:
    settings.REFUSALS_A_MINUTE = 3
    return RefusalLog()


def refused(id: str = "r", *, agent: str = "invoices", reason: str = "paused", **fields: Any) -> NotedRefusal:
    caller = factories.caller(agent=agent, **fields)
    return NotedRefusal(id, caller, "large", ("search",), reason, 403, NOON, sentence="No.", param="model")


def counts() -> list[tuple[str, str, int]]:
    return list(RefusedCall.objects.order_by("pk").values_list("agent", "request_id", "more"))


@pytest.mark.django_db
def test_so_many_a_minute_are_kept_and_the_rest_counted_on_the_last(log: RefusalLog) -> None:
    for number in range(10):
        log.note(refused(f"r-{number}"))
    log.note(refused("other", reason="stopped"))
    log.note(replace(refused("later"), at=NOON + timedelta(minutes=1)))
    log.flush()
    assert counts() == [
        ("invoices", "r-0", 0),
        ("invoices", "r-1", 0),
        ("invoices", "r-2", 7),
        ("invoices", "other", 0),
        ("invoices", "later", 0),
    ]


@pytest.mark.django_db
def test_what_other_processes_kept_of_a_minute_counts(log: RefusalLog) -> None:
    for process in (RefusalLog(), log):
        for number in range(2):
            process.note(refused(f"r-{number}"))
        process.flush()
    assert [more for _, _, more in counts()] == [0, 0, 1]


@pytest.mark.django_db
def test_ever_new_names_of_agents_are_bounded_by_their_tenant(log: RefusalLog, settings: Any) -> None:
    for number in range(100):
        log.note(refused(f"r-{number}", agent=f"agent-{number}"))
    log.flush()
    assert RefusedCall.objects.exclude(request_id="").count() == refusal_log.AGENTS_WORTH * 3
    assert counts()[-1] == ("", "", 40)
    log.note(refused("again", agent="one more"))
    log.flush()
    assert counts()[-1] == ("", "", 41)


def many(log: RefusalLog, number: int, *, reason: str = "paused", at: Any = NOON) -> None:
    """So many in as many minutes, that no bound of a minute is met."""
    for minute in range(number):
        log.note(replace(refused(f"{reason}-{minute}", reason=reason), at=at + timedelta(minutes=minute)))
    log.flush()


@pytest.mark.django_db
def test_so_many_a_day_are_kept_of_a_tenant_and_the_rest_counted_by_the_hour(log: RefusalLog, settings: Any) -> None:
    settings.REFUSALS_A_DAY = 8
    many(log, 10)
    # One reason leaves the other half to others, whoever makes refusals of it.
    many(log, 3, reason="stopped")
    many(log, 3, reason="key_invalid")
    rows = RefusedCall.objects.order_by("pk")
    kept = [row.request_id for row in rows if row.request_id]
    assert kept == [*(f"paused-{n}" for n in range(4)), *(f"stopped-{n}" for n in range(3)), "key_invalid-0"]
    counted = [(row.reason, row.agent, row.more) for row in rows if not row.request_id]
    assert counted == [("paused", "", 6), ("key_invalid", "", 2)]

    log.note(replace(refused("again"), at=NOON + timedelta(minutes=20)))
    log.note(replace(refused("an hour later"), at=NOON + timedelta(hours=1)))
    log.note(replace(refused("of another"), caller=factories.caller(factories.tenant("globex"))))
    log.note(replace(refused("tomorrow"), at=NOON + timedelta(days=1)))
    log.flush()
    assert [row.more for row in rows.filter(reason="paused", request_id="")] == [7, 1]
    assert {"of another", "tomorrow"} == set(rows.values_list("request_id", flat=True)) - {*kept, ""}


@pytest.mark.django_db
def test_what_is_counted_of_a_minute_makes_no_rows_when_the_day_is_full(log: RefusalLog, settings: Any) -> None:
    settings.REFUSALS_A_DAY, settings.REFUSALS_A_MINUTE = 1, 1
    for number in range(10):
        log.note(refused(f"r-{number}", agent=f"agent-{number % 5}"))
    log.flush()
    assert counts() == [("agent-0", "r-0", 1), ("", "", 8)]


@pytest.mark.django_db
def test_what_other_processes_kept_of_a_day_counts_after_a_while(
    log: RefusalLog, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REFUSALS_A_DAY = 8
    many(log, 2)
    many(RefusalLog(), 2, at=NOON + timedelta(hours=1))
    monkeypatch.setattr(refusal_log, "COUNT_GOOD_FOR_S", 0)
    many(log, 2, at=NOON + timedelta(hours=2))
    assert RefusedCall.objects.exclude(request_id="").count() == 4
    assert counts()[-1] == ("", "", 2)


@pytest.mark.django_db
def test_a_full_queue_counts_and_blocks_nobody(log: RefusalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal_log, "MOST_WAITING", 1)
    for number in range(3):
        log.note(refused(f"r-{number}"))
    log.flush()
    assert counts() == [("invoices", "r-0", 2)]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("code", "act"),
    [
        ("missing_field", "with model"),
        ("unknown_field", "without model"),
        ("unsupported_field", "without model"),
        ("surplus_field", "without model"),
        ("sent_twice", "with one model"),
        ("invalid_type", "with another model"),
    ],
)
def test_a_malformed_call_is_told_what_it_would_pass_with(log: RefusalLog, code: str, act: str) -> None:
    log.note(replace(refused("r-1"), reason=code))
    log.flush()
    assert RefusedCall.objects.get().act == act


@pytest.mark.django_db
def test_names_that_no_column_takes_are_cut_and_cleaned(log: RefusalLog) -> None:
    log.note(replace(refused("r" * 500), model="m\0\ud800" + "x" * 500, tools=("t\0",)))
    log.flush()
    row = RefusedCall.objects.get()
    assert (len(row.request_id), row.model[:3], row.tools, row.act) == (100, "m?x", ["t"], "with another model")


@pytest.mark.django_db
def test_what_waits_holds_no_more_than_its_row_will(log: RefusalLog) -> None:
    long = "x" * 1_000_000
    caller = factories.caller(agent=long, user=long, session=long, task=long)
    for number in range(5):
        noted = NotedRefusal(f"r-{number}{long}", caller, long, [long] * 1_000, long, 400, NOON, long, long)
        log.note(noted)
    assert _texts_of(log) < 200_000
    log.flush()
    # Of one agent and reason, however long they were: three rows, and the rest on the last.
    assert [(len(agent), more) for agent, _, more in counts()] == [(100, 0), (100, 0), (100, 2)]
    row = RefusedCall.objects.earliest("pk")
    assert (len(row.tools), len(row.tools[0]), len(row.model), len(row.sentence)) == (20, 64, 120, 500)


def _texts_of(log: RefusalLog) -> int:
    """Of all that a log holds in memory."""
    return len(pickle.dumps([log._noted, log._rest, log._kept]))


@pytest.mark.django_db
def test_while_the_database_is_away_they_wait(log: RefusalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    write = refusal_log._write

    def away(*args: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(refusal_log, "_write", away)
    for number in range(5):
        log.note(refused(f"r-{number}"))
    log.flush()
    monkeypatch.setattr(refusal_log, "MOST_WAITING", 2)
    log.flush()
    assert counts() == []
    monkeypatch.setattr(refusal_log, "_write", write)
    log.flush()
    assert counts() == [("invoices", "r-0", 0), ("invoices", "r-1", 3)]


@pytest.mark.django_db(transaction=True)
def test_one_that_cannot_be_written_takes_no_other_along(log: RefusalLog) -> None:
    log.note(refused("good"))
    log.note(replace(refused("orphan"), caller=replace(factories.caller(), tenant_id=10**9)))
    log.flush()
    assert [id for _, id, _ in counts()] == ["good"]


@pytest.mark.django_db(transaction=True)
def test_a_thread_writes_them_and_the_rest_at_the_end(log: RefusalLog) -> None:
    log.start()
    log.note(refused("r-1"))
    log.close()
    assert [id for _, id, _ in counts()] == ["r-1"]
    assert not [thread for thread in threading.enumerate() if thread.name == "refusal-log"]


@pytest.mark.django_db
def test_they_are_purged_when_they_are_old(log: RefusalLog, settings: Any, time_machine: Any) -> None:
    settings.REFUSALS_DAYS = 30
    log.note(refused("old"))
    log.note(replace(refused("young"), at=NOON + timedelta(seconds=1)))
    log.flush()
    time_machine.move_to(NOON + timedelta(days=30, seconds=1), tick=False)
    assert tasks.purge_refusals() == 1
    assert [id for _, id, _ in counts()] == ["young"]


@pytest.mark.django_db
def test_processes_count_in_one_order_so_that_none_waits_for_another(
    log: RefusalLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    monkeypatch.setattr(refusal_log, "_add", lambda group, *_: counted.append(group))
    for agent in ("c", "a", "b"):
        log._count((factories.tenant().pk, agent, "budget", 1))
    log.flush()
    assert [agent for _, agent, _, _ in counted] == ["a", "b", "c"]
