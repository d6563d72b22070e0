"""The product as it is shipped: started from `requirements/runtime.txt` alone, by the commands of `deploy/`.

The tests' own environment has more in it, and would lend the product what it forgot to ask for.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml
from django.utils import timezone

from config.supervisor import free_port
from governance import ledger
from governance.models import Reservation
from tests import factories as make
from tests.config.test_deployment import PRODUCTION
from tests.environment import ROOT

PACKAGES = ("governance", "llm", "billing", "config")
# The extras `prices`, `tokenizers` and `otel`: asked for where they are used, and missed by nobody.
OPTIONAL = {"genai_prices", "numpy", "opentelemetry", "statsmodels", "tiktoken", "tokenizers"}
# Longer than the slowest start on a busy machine, and than the 15 seconds of beat's most frequent task.
PATIENCE_S = 90
HOST = "127.0.0.1"
SCRAPE_TOKEN = "wj3m8xq2-scrape-token-of-a-test"

IMPORT_ALL = """
import importlib, json, sys, django
django.setup()
failed = {}
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
print(json.dumps(failed))
"""
FIND_ALL = """
import json, sys
from importlib.util import find_spec
print(json.dumps([name for name in json.load(sys.stdin) if find_spec(name) is None]))
"""


def environment(shipped: Path, var_dir: Path, **values: str) -> dict[str, str]:
    """Production's, with nothing of this process's own: its programs and no others but the system's."""
    return PRODUCTION | {"PATH": f"{shipped}:{os.defpath}", "VAR_DIR": str(var_dir), "ALLOWED_HOSTS": HOST} | values


def modules() -> dict[str, Path]:
    """The product's own, by name."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    return names | {"manage": ROOT / "manage.py"}


def imported(file: Path) -> set[str]:
    """The top-level names that a file imports anywhere, also where it does so late."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def asked(shipped: Path, code: str, names: list[str], var_dir: Path) -> Any:
    """What `code`, given `names`, prints in the shipped environment."""
    done = subprocess.run(
        [shipped / "python", "-c", code],
        input=json.dumps(names),
        env=environment(shipped, var_dir, DJANGO_SETTINGS_MODULE="config.settings"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_module_of_the_product_can_be_imported(shipped: Path, tmp_path: Path) -> None:
    assert asked(shipped, IMPORT_ALL, list(modules()), tmp_path) == {}


def test_what_the_product_imports_late_is_shipped_too(shipped: Path, tmp_path: Path) -> None:
    names = set().union(*(imported(file) for file in modules().values()))
    assert {"celery", "django", "genai_prices"} <= names

    assert set(asked(shipped, FIND_ALL, sorted(names), tmp_path)) <= OPTIONAL


def commands() -> dict[str, list[str]]:
    """What deploy/compose.yaml starts of ours; a service without a command runs the image's."""
    image = re.search(r"^CMD (\[.+\])", (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", ""), re.MULTILINE)
    assert image
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    return {
        name: service.get("command", json.loads(image[1])) for name, service in services.items() if "build" in service
    }


def test_operations_tells_the_commands_that_compose_starts() -> None:
    manual = (ROOT / "docs/operations.md").read_text()
    told = dict(re.findall(r"^\| (\w+) \| `((?:python|celery) .+?)` \|", manual, re.MULTILINE))

    assert set(told) == {"web", "worker", "beat"}
    for name, command in told.items():
        words = iter(commands()[name])
        assert all(word in words for word in command.split()), name


class Processes:
    """Each started from the shipped environment in a folder of its own, as if on a machine of its own."""

    def __init__(self, shipped: Path, folder: Path, **values: str) -> None:
        self._shipped, self._folder, self._values = shipped, folder, values
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], *, var_dir: str = "") -> None:
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                command,
                env=environment(self._shipped, self._folder / (var_dir or name), **self._values),
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, name: str) -> None:
        """Wait for the end of what ends by itself."""
        assert self._running.pop(name).wait(PATIENCE_S) == 0, self.said(name)

    def end(self, name: str) -> None:
        """Ask for the end as systemd and Docker do."""
        process = self._running[name]
        process.terminate()
        assert process.wait(PATIENCE_S) == 0, self.said(name)
        del self._running[name]

    def wait(self, what: str, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            for name, process in self._running.items():
                assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.said(name)}"
            said = "".join(f"\n{name} said:\n{self.said(name)}" for name in self._running)
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s.{said}"
            time.sleep(0.1)

    def said(self, name: str) -> str:
        return self._log(name).read_text()

    def kill(self) -> None:
        """Whatever a failed test left, with its children."""
        for process in self._running.values():
            # It may have ended by itself.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@pytest.fixture
def several_machines(shipped: Path, live_database: str, redis_url: str, tmp_path: Path) -> Iterator[Processes]:
    values = {"DATABASE_URL": live_database, "REDIS_URL": redis_url, "METRICS_TOKEN": SCRAPE_TOKEN}
    processes = Processes(shipped, tmp_path, **values)
    yield processes
    processes.kill()


def answer(url: str) -> int:
    """The status of a page, 0 where nobody listens."""
    try:
        return httpx.get(url, timeout=10).status_code
    except httpx.TransportError:
        return 0


def scraped(base: str) -> str:
    return httpx.get(f"{base}/metrics", headers={"authorization": f"Bearer {SCRAPE_TOKEN}"}, timeout=10).text


def hold_overdue() -> None:
    """For a call that died an hour ago. Beat has a worker expire it, and nobody else touches it."""
    make.budget()
    ledger.reserve(make.reserving(), now=timezone.now() - timedelta(hours=1))
    assert Reservation.objects.get().status == Reservation.Status.PENDING


def test_web_worker_and_beat_run_on_redis_from_what_is_shipped(several_machines: Processes) -> None:
    run, command, port = several_machines, commands(), free_port(HOST)
    base = f"http://{HOST}:{port}"
    hold_overdue()

    run.start("migrate", command["migrate"], var_dir="web")
    run.finish("migrate")
    # Of an option that is given twice the last counts: web gets a free port, the others say what they do.
    run.start("web", [*command["web"], "--host", HOST, "--port", str(port)])
    run.start("worker", [*command["worker"], "--loglevel", "INFO"])
    run.start("beat", [*command["beat"], "--loglevel", "INFO"])

    run.wait("web is ready", lambda: answer(f"{base}/api/health/ready") == 200)
    run.wait("the worker is ready", lambda: " ready." in run.said("worker"))
    assert httpx.get(f"{base}/api/health").json()["services"]["broker"] == "ok"
    assert [answer(base + path) for path in ("/api/schema", "/api/docs", "/admin/login/")] == [200, 200, 200]
    run.wait("beat sends what is due", lambda: "Sending due task governance.tasks.expire_" in run.said("beat"))
    run.wait("the worker does it", lambda: Reservation.objects.get().status == Reservation.Status.EXPIRED)
    run.wait("the job's end is told", lambda: 'job_late{task="expire_reservations"} 0.0' in scraped(base))
    run.wait("both web processes are told of", lambda: 'processes{role="web"} 2.0' in scraped(base))
    if promtool := os.environ.get("PROMTOOL") or shutil.which("promtool"):
        done = subprocess.run(
            [promtool, "check", "metrics"], input=scraped(base), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    for name in ("beat", "worker", "web"):
        run.end(name)
        assert "Traceback" not in run.said(name), run.said(name)


@pytest.mark.sqlite_only
def test_serve_runs_from_what_is_shipped(shipped: Path, live_database: str, tmp_path: Path) -> None:
    unit = (ROOT / "deploy/spend-governor.service").read_text()
    command = re.findall(r"^ExecStart(?:Pre)?=\S+/\.venv/bin/(python .+)$", unit, re.MULTILINE)
    assert len(command) == 2
    processes = Processes(shipped, tmp_path, DATABASE_URL=live_database)
    try:
        processes.start("migrate", command[0].split(), var_dir="serve")
        processes.finish("migrate")
        processes.start("serve", [*command[1].split(), "--port", str(free_port(HOST))])
        processes.wait("serve is ready", lambda: "is ready on" in processes.said("serve"))
        processes.end("serve")
        assert processes.said("serve").rstrip().endswith("Ended.")
    finally:
        processes.kill()
