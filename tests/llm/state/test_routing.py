"""The routing file in force: followed while it is good, kept while it is not."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import pytest
from django.core import checks

from governance.models import Alert
from llm.catalogue import snapshot
from llm.models import Model
from llm.rules.routing import PoolModel
from llm.rules.routing_yaml import RoutingError
from llm.state import routing
from llm.state.routing import SHIPPED, Watcher
from tests.product import eventually

SMALL = "pool: [{id: small}]\n"
LARGE = "pool: [{id: large}]\n"
BAD = "pool: [{id: larg}]\n"
KNOWN = {"small": "small", "large": "large"}

pytestmark = pytest.mark.django_db


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "routing.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def watcher(path: Path) -> Watcher:
    watcher = Watcher(path, known=lambda: KNOWN)
    watcher.load()
    return watcher


def pool(watcher: Watcher) -> list[str]:
    return [each.name for each in watcher.current().pool]


def open_alerts() -> list[tuple[str, str, int]]:
    return list(Alert.objects.filter(cleared_at=None).values_list("kind", "subject", "count"))


class TestStart:
    def test_a_good_file_is_in_force(self, watcher):
        assert watcher.current().pool == (PoolModel("small"),)

    @pytest.mark.parametrize("content", [b"", BAD.encode(), b"\xff\xfe", b"pool: ["])
    def test_a_bad_one_stops_the_start_with_its_place(self, path, content):
        path.write_bytes(content)
        with pytest.raises(RoutingError, match=rf"^{path}:1:\d+: "):
            Watcher(path, known=lambda: KNOWN).load()

    def test_a_missing_one_stops_the_start(self, tmp_path):
        with pytest.raises(RoutingError, match="It cannot be read: No such file"):
            Watcher(tmp_path / "none", known=lambda: KNOWN).load()

    def test_a_good_start_ends_the_alert_of_the_process_before(self, watcher, path):
        path.write_text(BAD)
        watcher.look()
        path.write_text(LARGE)
        Watcher(path, known=lambda: KNOWN).load()
        assert open_alerts() == []


class TestChanges:
    def test_a_good_change_is_taken_over(self, watcher, path):
        path.write_text(LARGE)
        assert watcher.look()
        assert pool(watcher) == ["large"]

    def test_a_bad_change_leaves_the_last_good_one_in_force_and_is_told_once(self, watcher, path, caplog):
        path.write_text(BAD)
        for _ in range(3):
            assert not watcher.look()
            os.utime(path)
        assert pool(watcher) == ["small"]
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
            f"routing file {path}:1:13: The catalogue has no model 'larg'; did you mean large. "
            "The last good one stays in force."
        ]
        assert open_alerts() == [("routing_file", str(path), 1)]

    @pytest.mark.parametrize("after", [SMALL, LARGE])
    def test_the_alert_ends_when_the_file_is_good_again(self, watcher, path, after):
        path.write_text(BAD)
        watcher.look()
        path.write_text(after)
        watcher.look()
        assert open_alerts() == []
        assert pool(watcher) == [after[12:17]]

    def test_another_mistake_is_told_too(self, watcher, path):
        for text in (BAD, "pool: [{id: smal}]\n"):
            path.write_text(text)
            watcher.look()
        assert open_alerts() == [("routing_file", str(path), 2)]

    def test_a_file_that_goes_away_is_a_bad_change(self, watcher, path):
        path.unlink()
        for _ in range(3):
            watcher.look()
        assert pool(watcher) == ["small"]
        assert "cannot be read" in Alert.objects.get().message
        assert open_alerts() == [("routing_file", str(path), 1)]
        path.write_text(SMALL)
        watcher.look()
        assert open_alerts() == []


class TestFollowing:
    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch):
        monkeypatch.setattr(routing, "LOOK_EVERY_S", 0.0)

    def test_whoever_asks_gets_the_change_soon(self, watcher, path):
        path.write_text(LARGE)
        assert eventually(lambda: pool(watcher) == ["large"])

    def test_a_change_that_leaves_time_and_size_alone_is_seen(self, watcher, path):
        # Written just now by the watcher's clock, which need not be the file system's.
        os.utime(path, (time.time(), time.time()))
        watcher.look()
        before = path.stat()
        path.write_text(LARGE)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
        assert eventually(lambda: pool(watcher) == ["large"])

    def test_a_file_that_is_put_in_the_place_of_the_old_one_is_seen(self, watcher, path, tmp_path):
        new = tmp_path / "new.yaml"
        new.write_text(LARGE)
        os.utime(new, (1, 1))
        new.replace(path)
        assert eventually(lambda: pool(watcher) == ["large"])

    def test_a_settled_file_is_not_read_again(self, watcher, path, monkeypatch):
        os.utime(path, (1, 1))
        watcher.look()
        monkeypatch.setattr(threading, "Thread", None)
        assert pool(watcher) == ["small"]

    def test_the_file_is_looked_at_once_a_second(self, watcher, path, monkeypatch):
        monkeypatch.setattr(routing, "LOOK_EVERY_S", 60.0)
        watcher.current()
        watcher._look_at = time.monotonic() + 60
        monkeypatch.setattr(os, "stat", None)
        assert [pool(watcher) for _ in range(3)] == [["small"]] * 3

    def test_a_process_that_follows_it_knows_a_change_before_the_next_call(self, watcher, path, monkeypatch):
        monkeypatch.setattr(routing, "LOOK_EVERY_S", 0.01)
        before = set(threading.enumerate())
        watcher.follow()
        watcher.follow()
        assert len(set(threading.enumerate()) - before) == 1
        path.write_text(LARGE)
        assert eventually(lambda: watcher._routing.pool == (PoolModel("large"),))
        assert pool(watcher) == ["large"]
        # The follower is nobody's from here on.
        monkeypatch.setattr(routing, "LOOK_EVERY_S", 3600.0)


class TestNames:
    def test_every_name_of_the_catalogue_is_known_by_its_models_id(self):
        names = routing.known_names()
        assert names["mistral-small-latest"] == names["mistral/mistral-small-2603"] == "mistral-small-2603"
        assert names["mistral-eu/mistral-small-latest"] == "mistral-eu/mistral-small-2603"
        assert "mistral-tiny" not in names

    def test_a_model_that_is_no_longer_served_is_still_known(self):
        """Else taking a model out of service would keep the gateway from starting."""
        Model.objects.filter(name="mistral-small-2603").update(status="retired")
        snapshot.forget()
        names = routing.known_names()
        assert snapshot.resolve("mistral-small-latest") is None
        assert names["mistral-small-latest"] == "mistral-small-2603"
        assert names["mistral-eu/mistral-small-latest"] == "mistral-eu/mistral-small-2603"
        snapshot.forget()

    def test_the_products_own_file_serves_any_catalogue(self, monkeypatch):
        monkeypatch.setattr(routing, "known_names", dict)
        assert routing._watcher.__wrapped__(SHIPPED).load().pool


class TestSystemCheck:
    def test_the_products_own_file_needs_none(self):
        assert [each for each in checks.run_checks() if each.id == "llm.E001"] == []

    def test_a_bad_file_is_an_error_with_its_place(self, path, settings):
        path.write_text("pool: [")
        settings.ROUTER_CONFIG = path
        found = [each for each in checks.run_checks() if each.id == "llm.E001"]
        assert [each.msg for each in found] == [
            f"{path}:1:8: It is no YAML: expected the node content, but found '<stream end>'."
        ]

    def test_it_asks_no_database(self, path, settings, django_assert_num_queries):
        path.write_text(BAD)
        settings.ROUTER_CONFIG = path
        with django_assert_num_queries(0):
            assert [each for each in checks.run_checks() if each.id == "llm.E001"] == []
