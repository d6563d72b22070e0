from __future__ import annotations

from math import inf
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.db import transaction

from governance import replica
from governance.models import ApiKey, Budget, SpendEntry
from governance.replica import Behind, ReplicaWatch, Router

ROUTER = Router()


def test_history_is_tables_that_there_are() -> None:
    assert {apps.get_model(label)._meta.label_lower for label in replica.HISTORY} == replica.HISTORY


@pytest.mark.django_db(transaction=True)
class TestRouter:
    def test_history_is_read_from_the_replica_while_a_request_may(self) -> None:
        assert ROUTER.db_for_read(SpendEntry) == "default"
        with replica.reading() as reading:
            assert not reading.is_used
            assert ROUTER.db_for_read(SpendEntry) == "replica"
            assert reading.is_used
        assert ROUTER.db_for_read(SpendEntry) == "default"

    @pytest.mark.parametrize("model", [ApiKey, Budget, User])
    def test_what_is_decided_by_is_read_from_the_primary(self, model: Any) -> None:
        with replica.reading() as reading:
            assert ROUTER.db_for_read(model) == "default"
        assert not reading.is_used

    def test_whoever_writes_in_the_same_transaction_reads_the_primary(self) -> None:
        with replica.reading(), transaction.atomic():
            assert ROUTER.db_for_read(SpendEntry) == "default"

    def test_the_rest_of_a_request_can_be_of_the_primary(self) -> None:
        with replica.reading():
            replica.read_primary()
            assert ROUTER.db_for_read(SpendEntry) == "default"
        replica.read_primary()

    def test_a_row_of_the_replica_is_written_to_the_primary(self) -> None:
        row = SpendEntry()
        row._state.db = "replica"
        with replica.reading():
            assert ROUTER.db_for_write(SpendEntry, instance=row) == "default"
        assert ROUTER.db_for_read(SpendEntry, instance=row) == "default"
        assert ROUTER.allow_relation(row, Budget())
        assert ROUTER.allow_migrate("default", "governance")
        assert not ROUTER.allow_migrate("replica", "governance")


class TestBehind:
    def test_it_is_not_known_before_the_replica_has_come_to_where_the_primary_was(self) -> None:
        behind = Behind()
        assert behind.seconds(0) == inf
        behind.note(began_s=10, written=100, replayed=99)
        assert behind.seconds(11) == inf
        behind.note(began_s=12, written=120, replayed=100)
        assert behind.seconds(13) == 3

    def test_a_primary_that_writes_nothing_leaves_nobody_behind(self) -> None:
        behind = Behind()
        for second in range(100):
            behind.note(began_s=second, written=100, replayed=100)
        assert behind.seconds(100) == 1

    def test_a_replica_that_stands_still_is_ever_further_behind(self) -> None:
        behind = Behind()
        for second in range(100):
            behind.note(began_s=second, written=100 + second, replayed=110)
        assert behind.seconds(100) == 90

    def test_it_grows_where_nobody_looks(self) -> None:
        behind = Behind()
        behind.note(began_s=0, written=1, replayed=1)
        assert behind.seconds(60) == 60

    def test_what_comes_back_has_to_catch_up_first(self) -> None:
        behind = Behind()
        behind.note(began_s=0, written=100, replayed=100)
        behind.forget()
        behind.note(began_s=1, written=100, replayed=20)
        assert behind.seconds(1) == inf

    def test_a_long_outage_is_remembered_as_one(self) -> None:
        behind = Behind()
        for second in range(replica.PLACES * 2):
            behind.note(began_s=second, written=second + 1, replayed=0)
        assert behind.seconds(replica.PLACES * 2) == inf


class TestWatch:
    @pytest.fixture
    def places(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What the next looks find, the last one again and again: places in the log, or an error."""
        found: list[Any] = []

        def look() -> tuple[int, int]:
            seen = found.pop(0) if len(found) > 1 else found[0]
            if isinstance(seen, Exception):
                raise seen
            return seen

        monkeypatch.setattr(replica, "_places", look)
        return found

    def test_it_is_read_once_it_has_been_looked_at(self, places: list[Any]) -> None:
        places.append((7, 7))
        watch = ReplicaWatch()
        assert not watch.has_begun
        watch._look()
        assert watch.state() == "ok"

    def test_one_that_is_behind_is_lagging(self, places: list[Any]) -> None:
        places.append((7, 6))
        watch = ReplicaWatch()
        watch._look()
        assert (watch.state(), watch.behind_s()) == ("lagging", inf)

    def test_one_that_cannot_be_looked_at_is_down_and_comes_back(
        self, places: list[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        places.extend([replica.NotItsReplica("It is none."), (7, 7)])
        watch = ReplicaWatch()
        watch._look()
        watch._tell()
        assert watch.state() == "down"
        watch._look()
        watch._tell()
        assert watch.state() == "ok"
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]

    def test_a_request_that_failed_keeps_others_from_it_until_the_next_look(self, places: list[Any]) -> None:
        places.append((7, 7))
        watch = ReplicaWatch()
        watch._look()
        watch.failed()
        assert watch.state() == "down"
        watch._look()
        assert watch.state() == "ok"
