"""Real clients, each in a process of its own, and the count of the requests that arrive from them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.clients.processes import ClientProcess
from tests.product import Product

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CLIENTS_PYTHON = ROOT / ".venv" / "clients" / "bin" / "python"
NODE_MODULES = HERE / "node" / "node_modules"
OLDEST_NODE = 20


class Arrivals:
    """Counts requests of the data plane by their bearer key before the application sees them."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._by_key: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            authorization = dict(scope["headers"]).get(b"authorization", b"").decode()
            self._by_key[authorization.removeprefix("Bearer ")] += 1
        await self._application(scope, receive, send)

    def of(self, key: str) -> int:
        return self._by_key[key]


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    from config import asgi

    counting = Arrivals(asgi.application)
    monkeypatch.setattr(asgi, "application", counting)
    return counting


@pytest.fixture
def product(arrivals: Arrivals, product: Product) -> Product:
    """The running product, with `arrivals` in front of it."""
    return product


@pytest.fixture(scope="session")
def clients() -> Iterator[ClientProcesses]:
    processes = ClientProcesses()
    yield processes
    processes.stop()


class ClientProcesses:
    """One process for each client that was asked for; it stays for the run, as importing one takes seconds."""

    def __init__(self) -> None:
        self._running: dict[str, ClientProcess] = {}

    def of(self, script: str, *, interpreter: str) -> ClientProcess:
        name = f"{interpreter} {script}"
        if name not in self._running:
            self._running[name] = ClientProcess([*command(interpreter), str(HERE / script)], environment())
        return self._running[name]

    def stop(self) -> None:
        for process in self._running.values():
            process.stop()


def command(interpreter: str) -> list[str]:
    """How to start a script, or a skip that says what is missing."""
    if interpreter == "suite":
        return [sys.executable]
    if interpreter == "clients":
        if not CLIENTS_PYTHON.exists():
            pytest.skip("the Python clients are not installed: make .venv/clients.installed")
        return [str(CLIENTS_PYTHON)]
    return [find_node()]


def find_node() -> str:
    """Node's path. Without one that has the clients these tests are skipped, or fail where REQUIRE_NODE is set."""
    if not (node := shutil.which("node")):
        missing("there is no node on the PATH")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        missing(f"node {version} is older than {OLDEST_NODE}")
    if not NODE_MODULES.exists():
        missing("the Node clients are not installed: make .venv/node_clients.installed")
    return node


def missing(reason: str) -> NoReturn:
    if os.environ.get("REQUIRE_NODE") == "1":
        pytest.fail(f"{reason}; and REQUIRE_NODE=1.")
    pytest.skip(reason)


def environment() -> dict[str, str]:
    """Nothing of the developer's own keys or proxies; and no price list fetched by litellm."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT") if name in os.environ}
    return kept | {"LITELLM_LOCAL_MODEL_COST_MAP": "true", "LANGSMITH_TRACING": "false", "NO_PROXY": "*"}
