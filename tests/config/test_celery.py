"""Background jobs: what is scheduled exists, and tasks travel over either broker."""

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings

from config.celery import PERIODS, app, schedule
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


def run(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("broker", ["folders", "redis"])
def test_a_task_reaches_a_worker(
    broker: str, process_environment: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    environment = process_environment | {"REDIS_URL": redis_url if broker == "redis" else ""}
    run(SEND, environment)
    assert run(SIZE, environment) == "1"

    command = [sys.executable, "-m", "celery", "-A", "config", "worker", "--pool", "solo", "--without-mingle"]
    with (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while run(SIZE, environment) != "0":
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
    finally:
        worker.terminate()
        assert worker.wait(timeout=15) == 0
