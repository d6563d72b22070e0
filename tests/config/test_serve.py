"""`manage.py serve` as one meets it: real processes, real signals."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from config.supervisor import answers, free_port
from tests.environment import ROOT


class Served:
    """A running `serve`, with a taken SANDBOX_URL so that the sandbox has to move."""

    def __init__(self, environment: dict[str, str], folder: Path, sandbox_port: int) -> None:
        self.port = free_port("127.0.0.1")
        self.log = folder / "serve.log"
        sandbox = {"SANDBOX_URL": f"http://127.0.0.1:{sandbox_port}"}
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--port", str(self.port)],
                env=environment | sandbox,
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )

    def wait_for(self, line: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while line not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def children(self) -> dict[str, psutil.Process]:
        """The direct ones, by what they run. Celery writes a title over its command where setproctitle is installed."""
        words = {"config web": "web", " worker": "worker", " beat": "beat", "simulate_mistral": "sandbox"}
        return {
            name: child
            for child in psutil.Process(self.process.pid).children()
            for word, name in words.items()
            if is_alive(child) and word in " ".join(child.cmdline())
        }


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def served(process_environment: dict[str, str], tmp_path: Path) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = Served(process_environment, tmp_path, taken.getsockname()[1])
        running.wait_for("is ready on")
        yield running
        if running.process.poll() is None:
            running.process.terminate()
            running.process.wait(timeout=20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_runs_everything_and_ends_cleanly(served: Served, number: signal.Signals) -> None:
    family = psutil.Process(served.process.pid).children(recursive=True)
    assert set(served.children()) == {"web", "worker", "beat", "sandbox"}
    assert answers(f"http://127.0.0.1:{served.port}/v1/models")

    served.process.send_signal(number)

    assert served.process.wait(timeout=12) == 0, served.log.read_text()
    assert served.log.read_text().rstrip().endswith("Ended.")
    assert [child for child in family if is_alive(child)] == []


def test_a_process_that_dies_comes_back(served: Served) -> None:
    family = served.children()
    first = family["web"]

    first.kill()
    family["beat"].kill()

    served.wait_for("The beat process ended (status -9); it starts again in 1 s.")

    served.wait_for("The web process ended (status -9); it starts again in 1 s.")
    deadline = time.monotonic() + 30
    while not answers(f"http://127.0.0.1:{served.port}/api/health/live"):
        assert time.monotonic() < deadline, served.log.read_text()
        time.sleep(0.1)
    assert served.children()["web"].pid != first.pid
