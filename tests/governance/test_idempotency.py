from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection
from django.db.models import QuerySet

from governance import idempotency, tasks
from governance.idempotency import ALIVE_FOR, KEPT_FOR, Claim, StoredAnswer
from governance.models import KeptAnswer
from tests import factories
from tests.factories import NOON

OK = StoredAnswer(200, [("x-request-id", "r1")], b"\x00{}")
LATER = NOON + timedelta(seconds=1)


def digest(body: bytes = b"{}", **change: Any) -> str:
    said: dict[str, Any] = {"method": "POST", "path": "/api/spend", "agent": ""} | change
    return idempotency.digest(**said, body=body)


def begin(key: str = "k1", *, now: datetime = NOON, body: bytes = b"{}") -> Claim | StoredAnswer | None:
    return idempotency.begin(tenant_id=factories.tenant().pk, key=key, digest=digest(body), now=now)


def claimed(key: str = "k1", *, now: datetime = NOON) -> Claim:
    claim = begin(key, now=now)
    assert isinstance(claim, Claim)
    return claim


@pytest.mark.django_db
class TestOneKey:
    def test_a_kept_answer_is_given_again_to_the_byte(self) -> None:
        assert idempotency.keep(claimed(), OK)
        assert begin(now=LATER) == OK

    def test_nobody_else_may_run_it_meanwhile(self) -> None:
        claimed()
        assert begin(now=LATER) is None

    def test_another_request_is_refused_also_while_the_first_runs(self) -> None:
        claim = claimed()
        for _ in range(2):
            with pytest.raises(idempotency.KeyReused):
                begin(body=b"[]", now=LATER)
            idempotency.keep(claim, OK)

    def test_a_key_belongs_to_one_tenant(self) -> None:
        claimed()
        other = factories.tenant("globex").pk
        assert isinstance(idempotency.begin(tenant_id=other, key="k1", digest=digest(b"[]"), now=NOON), Claim)

    def test_a_forgotten_one_may_be_begun_anew_even_for_another_request(self) -> None:
        idempotency.forget(claimed())
        assert isinstance(begin(body=b"[]"), Claim)

    def test_whoever_lost_to_one_that_is_forgotten_already_looks_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def lost(self: Any, **values: Any) -> None:
            raise IntegrityError

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(QuerySet, "create", lost)
            assert idempotency.begin(tenant_id=None, key="k1", digest=digest(), now=NOON) is None
        assert isinstance(begin(), Claim)

    @pytest.mark.parametrize("status", [401, 402, 403, 429])
    def test_refusals_that_pass_are_not_kept(self, status: int) -> None:
        assert not idempotency.keep(claimed(), StoredAnswer(status, [], b""))
        assert isinstance(begin(body=b"[]"), Claim)

    @pytest.mark.parametrize("status", [200, 201, 400, 404, 409, 422])
    def test_what_would_be_answered_alike_is_kept(self, status: int) -> None:
        answer = StoredAnswer(status, [], b"{}")
        assert idempotency.keep(claimed(), answer)
        assert begin() == answer

    @pytest.mark.parametrize("status", [500, 503])
    def test_after_a_failure_of_ours_a_repeat_goes_on_under_the_same_name(self, status: int) -> None:
        claim = claimed()
        assert not idempotency.keep(claim, StoredAnswer(status, [], b""))
        again = begin(now=LATER)
        assert again == Claim(claim.id, 2, NOON)
        assert isinstance(again, Claim)
        assert again.taken_over

    def test_an_answer_that_is_too_long_is_not_kept(self) -> None:
        assert not idempotency.keep(claimed(), StoredAnswer(200, [], bytes(idempotency.MOST_BYTES + 1)))
        assert isinstance(begin(), Claim)


@pytest.mark.django_db
class TestADeadRun:
    def test_it_is_taken_over_once_it_gives_no_sign_of_life(self) -> None:
        first = claimed()
        assert begin(now=NOON + ALIVE_FOR - timedelta(seconds=1)) is None
        second = begin(now=NOON + ALIVE_FOR)
        assert second == Claim(first.id, 2, NOON)
        assert begin(now=NOON + ALIVE_FOR) is None

    def test_of_two_who_saw_it_dead_one_takes_it_over(self) -> None:
        claimed()
        seen = KeptAnswer.objects.get()
        assert idempotency._take_over(seen, NOON + ALIVE_FOR) is not None
        assert idempotency._take_over(seen, NOON + ALIVE_FOR) is None

    def test_a_sign_of_life_puts_that_off(self) -> None:
        idempotency.stay_alive(claimed(), now=NOON + timedelta(seconds=30))
        assert begin(now=NOON + ALIVE_FOR) is None

    def test_it_has_no_say_when_it_comes_back(self) -> None:
        first = claimed()
        second = begin(now=NOON + ALIVE_FOR)
        assert isinstance(second, Claim)
        assert not idempotency.keep(first, StoredAnswer(200, [], b"late"))
        idempotency.forget(first)
        idempotency.let_go(first)
        assert begin(now=NOON + ALIVE_FOR) is None
        assert idempotency.keep(second, OK)
        assert begin(now=NOON + ALIVE_FOR) == OK


@pytest.mark.django_db
class TestAfterADay:
    def test_the_key_may_be_used_for_something_new_before_any_purge(self) -> None:
        idempotency.keep(claimed(), OK)
        assert begin(now=NOON + KEPT_FOR - timedelta(seconds=1)) == OK
        tomorrow = NOON + KEPT_FOR
        # The stale row goes first; the next look begins.
        assert begin(now=tomorrow, body=b"[]") is None
        assert isinstance(begin(now=tomorrow, body=b"[]"), Claim)

    def test_the_purge_takes_old_ones_in_batches_and_leaves_the_rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(idempotency, "PURGE_BATCH", 2)
        for number in range(5):
            idempotency.keep(claimed(f"old {number}"), OK)
        idempotency.keep(claimed("new", now=LATER), OK)
        assert idempotency.purge(now=NOON + KEPT_FOR) == 5
        assert [row.key for row in KeptAnswer.objects.all()] == ["new"]

    def test_a_run_that_still_lives_is_left_alone(self) -> None:
        claim = claimed()
        idempotency.stay_alive(claim, now=NOON + KEPT_FOR)
        assert idempotency.purge(now=NOON + KEPT_FOR) == 0

    def test_beat_purges(self) -> None:
        claimed(now=NOON - timedelta(days=365))
        assert tasks.purge_kept_answers() == 1


def test_a_digest_stands_for_method_path_agent_and_body() -> None:
    assert digest() == digest(path="/api/spend/")
    others = [digest(b"{} "), digest(method="PUT"), digest(path="/api/x"), digest(agent="a")]
    assert len({digest(), *others}) == 5
    whom = [digest(whom=["x-user: u1"]), digest(whom=["x-user: u2"]), digest(whom=["x-task: u1"])]
    assert len({digest(), *whom}) == 4
    assert digest(whom=()) == digest()


def test_patience_ends() -> None:
    waits = list(idempotency.pauses())
    assert idempotency.PATIENCE_S <= sum(waits) <= idempotency.PATIENCE_S + max(waits)
    assert waits[0] < 0.05


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("dead", [False, True])
def test_of_many_at_once_one_runs(dead: bool) -> None:
    tenant_id = factories.tenant().pk
    now = NOON
    if dead:
        claimed()
        now = NOON + ALIVE_FOR
    start = threading.Barrier(6)

    def look(_: int) -> Any:
        try:
            start.wait(5)
            return idempotency.begin(tenant_id=tenant_id, key="k1", digest=digest(), now=now)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(look, range(6)))
    assert sum(isinstance(one, Claim) for one in found) == 1
    assert found.count(None) == 5
