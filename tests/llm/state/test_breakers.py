"""The breakers' file: shared by processes, and never what stops a call."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.utils import timezone

from llm.models import Model
from llm.rules.breakers import FAILURES, OPEN_S, PROBE_S, PROBES, Phase
from llm.state import breakers as shared_breakers
from llm.state import metrics
from llm.state.breakers import Breakers, BreakerStatus
from tests.concurrency.processes import FORK, in_processes
from tests.product import eventually

NAME = "mistral/mistral-small-2603"
NOW = 1_800_000_000.0
TENANT, OTHER_TENANT, THIRD_TENANT = 1, 2, 3
LATER = NOW + OPEN_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "breakers"


@pytest.fixture
def breakers(path: Path) -> Iterator[Breakers]:
    breakers = Breakers(path)
    yield breakers
    breakers.close()


def fail(breakers: Breakers, name: str = NAME, now: float = NOW) -> None:
    for _ in range(FAILURES):
        breakers.failed(name, TENANT, now)


def statuses(breakers: Breakers, now: float = NOW) -> dict[str, BreakerStatus]:
    return {status.name: status for status in breakers.snapshot(now)}


class TestOneProcess:
    def test_a_model_that_keeps_failing_is_left_alone_and_the_others_are_not(self, breakers):
        fail(breakers)
        assert not breakers.admits(NAME, TENANT, NOW)
        assert breakers.blocks(NAME, TENANT, NOW)
        assert breakers.admits("mistral/other", TENANT, NOW)

    def test_three_good_probes_bring_it_back(self, breakers):
        fail(breakers)
        assert [breakers.admits(NAME, TENANT, LATER) for _ in range(PROBES + 1)] == [True, True, True, False]
        for _ in range(PROBES):
            breakers.succeeded(NAME, TENANT, 12, LATER)
        assert breakers.admits(NAME, TENANT, LATER)
        assert statuses(breakers, LATER)[NAME].phase is Phase.CLOSED

    def test_a_look_takes_no_probe(self, breakers):
        fail(breakers)
        assert not any(breakers.blocks(NAME, TENANT, LATER) for _ in range(10))
        assert sum(breakers.admits(NAME, TENANT, LATER) for _ in range(10)) == PROBES

    def test_a_cool_down_is_bounded(self, breakers):
        now = time.time()
        breakers.cool_down(NAME, TENANT, now + 86_400)
        assert not breakers.admits(NAME, TENANT, now + 1)
        assert breakers.admits(NAME, TENANT, now + 301)

    def test_the_mean_latency_is_kept_and_forgotten(self, breakers):
        breakers.succeeded(NAME, TENANT, 100, NOW)
        breakers.succeeded(NAME, TENANT, 200, NOW + 1)
        assert breakers.latency_ms(NAME, NOW + 1) == 120
        assert breakers.latency_ms(NAME, NOW + 700) is None
        assert breakers.latency_ms("mistral/other", NOW) is None

    def test_a_healthy_model_is_not_written_for_each_call(self, breakers, path):
        breakers.succeeded(NAME, TENANT, 100, NOW)
        before = path.read_bytes()
        breakers.succeeded(NAME, TENANT, 900, NOW + 0.01)
        breakers.succeeded(NAME, TENANT, None, NOW + 10)
        assert path.read_bytes() == before

    def test_the_snapshot_tells_of_every_model(self, breakers):
        fail(breakers)
        breakers.succeeded("mistral/good", TENANT, 20, NOW)
        breakers.failed("openai/gpt", TENANT, NOW)
        breakers.cool_down("openai/gpt", TENANT, NOW + 30, NOW)
        found = statuses(breakers)
        assert list(found) == ["mistral/good", NAME, "openai/gpt"]
        assert [each.phase for each in found.values()] == [Phase.CLOSED, Phase.OPEN, Phase.CLOSED]
        assert [each.is_impaired for each in found.values()] == [False, True, True]
        assert found["mistral/good"].breaker.latency_ms == 20
        assert breakers.status(NAME, NOW) == found[NAME]
        assert breakers.status("mistral/other", NOW) is None

    def test_more_names_than_fit_push_out_the_oldest_and_break_nothing(self, breakers, monkeypatch):
        monkeypatch.setattr(shared_breakers, "SLOTS", 4)
        shared_breakers._key.cache_clear()
        for number in range(100):
            fail(breakers, f"other/{number}", NOW + number)
        assert not breakers.admits("other/99", TENANT, NOW + 99)
        assert 4 <= len(breakers.snapshot(NOW)) <= 4 + shared_breakers.WINDOW
        shared_breakers._key.cache_clear()

    def test_a_name_of_any_length_and_letters_has_a_breaker(self, breakers):
        for name in ("", "é" * 500, "x" * 5000, "a\nb"):
            fail(breakers, name)
            assert not breakers.admits(name, TENANT, NOW)
        assert len(breakers.snapshot(NOW)) == 4


class TestAFileThatIsNotAsItShouldBe:
    @pytest.mark.parametrize("content", [b"", b"x", b"GIF89a" * 100_000, os.urandom(300_000), shared_breakers.MAGIC])
    def test_a_foreign_file_is_made_anew(self, path, content):
        path.write_bytes(content)
        breakers = Breakers(path)
        fail(breakers)
        assert not breakers.admits(NAME, TENANT, NOW)
        assert path.stat().st_size == shared_breakers.FILE_BYTES
        breakers.close()

    @pytest.mark.parametrize("wound", [lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 1000)])
    def test_a_file_cut_short_under_way_costs_what_was_known(self, breakers, path, wound):
        fail(breakers)
        wound(path)
        assert breakers.admits(NAME, TENANT, NOW)
        fail(breakers)
        assert not breakers.admits(NAME, TENANT, NOW)
        assert not Breakers(path).admits(NAME, TENANT, NOW)

    def test_a_slot_with_a_wrong_byte_counts_as_unknown_and_is_written_again(self, breakers, path):
        fail(breakers)
        data = bytearray(path.read_bytes())
        data[data.index(NAME.encode())] ^= 1
        path.write_bytes(data)
        assert breakers.admits(NAME, TENANT, NOW)
        assert breakers.snapshot(NOW) == []
        fail(breakers)
        assert not breakers.admits(NAME, TENANT, NOW)

    def test_a_deleted_file_is_made_again_by_whoever_writes_next(self, breakers, path):
        fail(breakers)
        path.unlink()
        fail(breakers)
        assert not Breakers(path).admits(NAME, TENANT, NOW)

    def test_where_there_can_be_no_file_every_model_is_called(self, tmp_path, caplog):
        breakers = Breakers(tmp_path)
        for _ in range(3):
            fail(breakers)
            breakers.succeeded(NAME, TENANT, 10, NOW)
            breakers.cool_down(NAME, TENANT, NOW + 10)
            breakers.release_probe(NAME, TENANT)
            assert breakers.admits(NAME, TENANT, NOW)
        assert breakers.snapshot(NOW) == []
        assert breakers.latency_ms(NAME, NOW) is None
        assert len(caplog.records) == 1

    def test_the_file_is_the_owners_alone(self, breakers, path):
        fail(breakers)
        assert path.stat().st_mode & 0o777 == 0o600


class TestLooks:
    """How often the file is looked at, and how late what others meet is known."""

    @pytest.fixture
    def looks(self, monkeypatch) -> list[int]:
        sizes: list[int] = []
        pread = os.pread

        def counted(fd: int, size: int, at: int) -> bytes:
            sizes.append(size)
            return pread(fd, size, at)

        monkeypatch.setattr(shared_breakers.os, "pread", counted)
        return sizes

    def test_calls_at_a_healthy_model_look_once_in_a_while(self, path, looks):
        breakers = Breakers(path, well_for_s=60)
        breakers.succeeded(NAME, TENANT, 100, NOW)
        before = breakers.admits(NAME, TENANT, NOW), len(looks)
        for _ in range(10):
            assert not breakers.blocks(NAME, TENANT, NOW)
            assert breakers.admits(NAME, OTHER_TENANT, NOW)
            breakers.succeeded(NAME, TENANT, None, NOW)
            assert breakers.latency_ms(NAME, NOW) == 100
        assert (True, len(looks)) == before

    def test_what_another_process_meets_is_known_a_moment_later(self, path):
        mine, other = Breakers(path, well_for_s=0.3), Breakers(path)
        assert mine.admits(NAME, TENANT, NOW)
        fail(other)
        assert mine.admits(NAME, TENANT, NOW)
        assert eventually(lambda: not mine.admits(NAME, TENANT, NOW), within_s=2)
        assert mine.blocks(NAME, TENANT, NOW)

    def test_what_the_process_meets_itself_it_knows_at_once(self, path):
        breakers = Breakers(path, well_for_s=60)
        for _ in range(FAILURES):
            assert breakers.admits(NAME, TENANT, NOW)
            breakers.failed(NAME, TENANT, NOW)
        assert not breakers.admits(NAME, TENANT, NOW)
        breakers.cool_down("mistral/other", TENANT, NOW + 10, NOW)
        assert breakers.blocks("mistral/other", TENANT, NOW)

    @pytest.mark.parametrize(
        "trouble", [lambda b: b.failed(NAME, TENANT, NOW), lambda b: b.cool_down(NAME, TENANT, NOW)]
    )
    def test_what_is_held_against_a_model_is_looked_at_anew(self, path, looks, trouble):
        mine, other = Breakers(path, well_for_s=60), Breakers(path)
        trouble(mine)
        assert mine.admits(NAME, TENANT, NOW + 1)
        fail(other, now=NOW + 1)
        assert not mine.admits(NAME, TENANT, NOW + 1)


class TestSeveralProcesses:
    @pytest.fixture
    def patience(self, monkeypatch):
        """A machine with other work may leave the holder of a lock waiting for longer than a call would wait for it."""
        monkeypatch.setattr("llm.state.breakers.LONGEST_WAIT_S", 30.0)

    def test_failures_of_all_count_together(self, path, patience):
        def work(index: int) -> None:
            breakers = Breakers(path)
            for _ in range(50):
                breakers.failed(f"{NAME}-{index % 2}", TENANT, NOW)

        in_processes(4, work)
        found = statuses(Breakers(path))
        assert [found[f"{NAME}-{index}"].phase for index in range(2)] == [Phase.OPEN] * 2
        assert [found[f"{NAME}-{index}"].breaker.openings for index in range(2)] == [1] * 2

    def test_no_failure_is_lost_among_many(self, path, patience, monkeypatch):
        monkeypatch.setattr("llm.rules.breakers.FAILURES", 10**6)

        def work(index: int) -> None:
            breakers = Breakers(path)
            for _ in range(300):
                breakers.failed(NAME, TENANT, NOW)

        in_processes(4, work)
        assert statuses(Breakers(path))[NAME].breaker.failures == 1200

    def test_three_probes_go_however_many_ask_at_once(self, path, patience):
        fail(Breakers(path))

        def work(index: int) -> int:
            breakers = Breakers(path)
            return sum(breakers.admits(NAME, TENANT, LATER) for _ in range(20))

        assert sum(in_processes(6, work)) == PROBES

    def test_new_names_of_many_at_once_get_one_slot_each(self, path, patience):
        def work(index: int) -> None:
            breakers = Breakers(path)
            for number in range(100):
                breakers.failed(f"other/{number}", TENANT, NOW)

        in_processes(4, work)
        snapshot = Breakers(path).snapshot(NOW)
        assert sorted(each.name for each in snapshot) == sorted(f"other/{number}" for number in range(100))
        assert {each.breaker.failures for each in snapshot} == {4}

    def test_the_probe_of_a_killed_process_makes_room_in_time(self, path):
        breakers = Breakers(path)
        fail(breakers)
        child = FORK.Process(target=take_all_probes_and_die, args=(path,))
        child.start()
        child.join(20)
        assert child.exitcode == -signal.SIGKILL
        assert not breakers.admits(NAME, TENANT, LATER)
        assert breakers.admits(NAME, TENANT, LATER + PROBE_S)

    def test_a_child_has_probes_of_its_own(self, breakers):
        """A fork shares the file's descriptor and the memory, and must be told apart all the same."""
        fail(breakers)
        assert breakers.admits(NAME, TENANT, LATER)

        def verdict_of_a_stranger(index: int) -> None:
            breakers.failed(NAME, TENANT, LATER)

        in_processes(1, verdict_of_a_stranger)
        assert statuses(breakers, LATER)[NAME].phase is Phase.HALF_OPEN

    def test_a_process_that_hangs_with_the_lock_holds_nobody_up(self, breakers, path):
        fail(breakers)
        with locked_by_another(path):
            began = time.monotonic()
            assert breakers.blocks(NAME, TENANT, NOW)
            assert not breakers.admits(NAME, TENANT, LATER)
            breakers.failed(NAME, TENANT, LATER)
            breakers.succeeded("mistral/other", TENANT, 10, NOW)
            assert time.monotonic() - began < 5 * shared_breakers.LONGEST_WAIT_S
        assert breakers.admits(NAME, TENANT, LATER)

    def test_threads_of_one_process_do_not_undo_each_other(self, breakers, monkeypatch):
        monkeypatch.setattr("llm.rules.breakers.FAILURES", 10**6)
        monkeypatch.setattr(shared_breakers, "LONGEST_WAIT_S", 10)
        barrier = threading.Barrier(4)

        def work() -> None:
            barrier.wait()
            for _ in range(200):
                breakers.failed(NAME, TENANT, NOW)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses(breakers)[NAME].breaker.failures == 800


def take_all_probes_and_die(path: Path) -> None:
    breakers = Breakers(path)
    assert [breakers.admits(NAME, TENANT, LATER) for _ in range(PROBES)] == [True] * PROBES
    os.kill(os.getpid(), signal.SIGKILL)


class locked_by_another:
    """The whole file, locked by a process that does nothing more."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.done, has_it = FORK.Event(), FORK.Event()
        self.child = FORK.Process(target=self.hold, args=(has_it.set,))
        self.child.start()
        assert has_it.wait(20)

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.child.join(20)

    def hold(self, tell: Callable[[], None]) -> None:
        with self.path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            tell()
            self.done.wait(20)


class TestWhatIsShown:
    @pytest.fixture(autouse=True)
    def of_this_machine(self, breakers, monkeypatch):
        monkeypatch.setattr(shared_breakers, "shared", lambda: breakers)

    def test_the_state_of_mistral(self, breakers, settings):
        now = time.time()
        settings.MISTRAL_API_KEY = ""
        assert shared_breakers.state() in ("sandbox", "not_configured")
        settings.MISTRAL_API_KEY = "key"
        breakers.succeeded("mistral/good", TENANT, 10, now)
        fail(breakers, "openai/gpt", now)
        assert shared_breakers.state() == "configured"
        fail(breakers, NAME, now)
        assert shared_breakers.state() == "failing"
        fail(breakers, "mistral/good", now - OPEN_S)
        assert shared_breakers.state() == "down"
        assert breakers.admits("mistral/good", TENANT, now)
        breakers.succeeded("mistral/good", TENANT, 10, now)
        assert shared_breakers.state() == "failing"

    def test_what_failed_long_ago_and_was_not_tried_since_is_no_state(self, breakers, settings):
        settings.MISTRAL_API_KEY = "key"
        fail(breakers, NAME, time.time() - 700)
        assert shared_breakers.state() == "configured"

    @pytest.mark.django_db
    def test_the_health_of_the_whole_says_so(self, breakers, client):
        fail(breakers, NAME, time.time())
        found = client.get("/api/health").json()
        assert found["services"]["mistral"] == "down"
        assert found["status"] == "degraded"

    @pytest.mark.django_db
    def test_the_console_shows_it_beside_the_model(self, breakers, admin_client):
        now = time.time()
        fail(breakers, NAME, now)
        breakers.succeeded("mistral/mistral-large-2512", TENANT, 350, now)
        assert ">open<" in admin_client.get("/admin/llm/model/").content.decode()
        fast = Model.objects.get(name="mistral-large-2512")
        page = admin_client.get(f"/admin/llm/model/{fast.pk}/change/").content.decode()
        assert "350 ms of late" in page

    def test_the_metrics(self, breakers):
        now = timezone.now()
        fail(breakers, NAME, now.timestamp())
        breakers.succeeded("mistral/good", TENANT, 10, now.timestamp())
        breakers.failed("mistral/good", TENANT, now.timestamp())
        breakers.cool_down("mistral/good", TENANT, now.timestamp() + 9, now.timestamp())
        found = {
            (sample.name, sample.labels["model"]): sample.value
            for family in metrics.collect(now)
            for sample in family.samples
            if "model" in sample.labels
        }
        assert found["spend_governor_breaker_open", NAME] == 1
        assert found["spend_governor_breaker_openings_total", NAME] == 1
        assert found["spend_governor_model_cooling", NAME] == 0
        assert found["spend_governor_breaker_open", "mistral/good"] == 0
        assert found["spend_governor_model_cooling", "mistral/good"] == 1
