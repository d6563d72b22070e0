"""A model that does not answer for a while is an alert, and one that fails now and then is none."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from governance import alerts
from governance.models import Alert
from llm.rules.breakers import FAILURES, OPEN_S, PROBES
from llm.state import breakers as shared_breakers
from llm.state import watch
from llm.state.breakers import Breakers
from tests.factories import NOON

pytestmark = pytest.mark.django_db
NAME = "mistral/mistral-small-2603"
NOW = 1_800_000_000.0
TENANT, ANOTHER = 1, 2
Look = Callable[[float], int]


@pytest.fixture
def breakers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Breakers]:
    breakers = Breakers(tmp_path / "breakers", well_for_s=0)
    monkeypatch.setattr(shared_breakers, "shared", lambda: breakers)
    yield breakers
    breakers.close()


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Look:
    def look(at: float) -> int:
        monkeypatch.setattr(watch.time, "time", lambda: at)
        return watch.look(now=NOON)

    return look


def fail(breakers: Breakers, *tenants: int, now: float) -> None:
    for tenant in tenants:
        breakers.failed(NAME, tenant, now)


def try_again(breakers: Breakers, *, now: float, well: bool, tenant: int = TENANT) -> None:
    assert breakers.admits(NAME, tenant, now)
    if well:
        breakers.succeeded(NAME, tenant, None, now)
    else:
        breakers.failed(NAME, tenant, now)


def test_one_that_opened_often_and_was_well_again_each_time_is_no_alert(breakers: Breakers, look: Look) -> None:
    now = NOW
    for _ in range(5):
        fail(breakers, *[TENANT] * FAILURES, now=now)
        assert look(now) == 0
        now += OPEN_S
        for _ in range(PROBES):
            try_again(breakers, now=now, well=True)
    assert not Alert.objects.exists()


@pytest.mark.parametrize("tenants", [(TENANT,) * FAILURES, (TENANT, ANOTHER) * FAILURES])
def test_one_that_fails_whenever_it_is_tried_again_is_one(
    breakers: Breakers, look: Look, tenants: tuple[int, ...]
) -> None:
    now = NOW
    fail(breakers, *tenants, now=now)
    alerts.report(kind=watch.FAILING, subject=f"{NAME} at elsewhere", message="Theirs to judge.", now=NOON)
    for trials in range(watch.TRIALS):
        assert look(now) == 0, trials
        now += OPEN_S
        try_again(breakers, now=now, well=False)
    assert look(now) == 1
    [mine] = Alert.objects.filter(subject=f"{NAME} at {socket.gethostname()}")
    assert mine.message == f"{NAME} failed whenever it was tried again, 2 times in a row."
    now += OPEN_S
    for _ in range(PROBES):
        try_again(breakers, now=now, well=True)
    assert look(now) == 0
    assert Alert.objects.get(cleared_at=None).subject == f"{NAME} at elsewhere"
    watch.look(now=NOON + alerts.conditions.GONE_AFTER + timedelta(minutes=1))
    assert not Alert.objects.filter(cleared_at=None).exists()
