"""`manage.py serve`: web, worker with its schedule, and the sandbox, for one machine."""

import io
import ipaddress
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, connection, connections
from django.db.migrations.executor import MigrationExecutor

from config.installation import INSTALLED
from config.supervisor import Child, PortTaken, StartFailed, Supervisor, answers, claim, free_port
from governance.management.terminal import TerminalCommand


class Command(TerminalCommand):
    help = (
        "Run the product on this machine in the foreground: web, worker with its schedule and, with DEBUG "
        "and without MISTRAL_API_KEY, a simulated Mistral. Ends cleanly on SIGINT and SIGTERM."
    )
    # `serve` says in one sentence what the system checks would say in a page.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
        parser.add_argument("--port", type=int, default=8000, help="port to listen on (default %(default)s)")
        parser.add_argument("--workers", type=int, default=None, help="web processes; needs PostgreSQL")
        parser.add_argument(
            "--allow-debug", action="store_true", help="with DEBUG, listen on an address that others can reach"
        )
        parser.add_argument("--no-sandbox", action="store_true", help="start no simulated Mistral")
        parser.add_argument("--demo", action="store_true", help="first apply migrations and add demo data")

    def handle(self, *args: Any, host: str, port: int, workers: int | None, **options: Any) -> None:
        try:
            claim(host, port)
        except PortTaken as error:
            raise CommandError(f"{error} For example: make run PORT=8001, or manage.py serve --port 8001.") from error
        if settings.DEBUG and not options["allow_debug"] and not is_loopback(host):
            raise CommandError(
                f"With DEBUG whoever reaches {host} sees settings and code on error pages. Set DEBUG=false, or listen "
                "on 127.0.0.1; --allow-debug starts it all the same, in a network where nobody else is."
            )
        if not os.environ.get("APP_URL"):
            os.environ["APP_URL"] = settings.APP_URL = f"http://127.0.0.1:{port}"
        notes = prepare_demo() if options["demo"] else ""
        require_migrated()
        if not settings.DEBUG:
            call_command("collectstatic", interactive=False, verbosity=0)
        sandbox = None if options["no_sandbox"] else sandbox_address()
        children = [web(host, port, web_processes(workers), sandbox), worker(sandbox)]
        if sandbox is not None:
            children.insert(0, simulated_mistral(*sandbox))
        # The children have connections of their own.
        connections.close_all()
        self.supervise(children, host=host, port=port, notes=notes, sandbox=sandbox is not None)

    def supervise(self, children: list[Child], *, host: str, port: int, notes: str, sandbox: bool) -> None:
        lock = threading.Lock()

        def say(line: str) -> None:
            with lock:
                self.stdout.write(line)
                self.stdout.flush()

        forget_figures(Path(settings.METRICS_DIR))
        supervisor = Supervisor(children, say=say)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: supervisor.stop())
        shown = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        local = shown.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")  # noqa: S104 - not bound here
        try:
            supervisor.run(
                ready=lambda: answers(f"{local}/api/health/live"),
                on_ready=lambda: say(banner(shown, notes=notes, sandbox=sandbox)),
            )
        except StartFailed as error:
            raise CommandError(str(error)) from error
        say("Ended.")


def is_loopback(host: str) -> bool:
    """Whether all addresses of a host are this machine's alone."""
    found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def prepare_demo() -> str:
    """Migrates, adds demo data, and returns what there is to tell about it."""
    call_command("migrate", interactive=False, verbosity=0)
    told = io.StringIO()
    call_command("seed_demo", stdout=told)
    return told.getvalue().strip()


def forget_figures(folder: Path) -> None:
    """What processes counted that have ended; those that start now count from zero, as Prometheus expects."""
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)


def require_migrated() -> None:
    try:
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        raise CommandError(f"The database does not answer: {str(error).strip()}") from error
    if pending:
        raise CommandError(f"{len(pending)} migrations are not applied. Run: manage.py migrate")


def web_processes(asked: int | None) -> int:
    """SQLite has one writer at a time: a second process would wait for the first, not help it."""
    if connection.vendor == "sqlite":
        if asked not in (None, 1):
            raise CommandError("SQLite takes one web process. Set DATABASE_URL to PostgreSQL for more.")
        return 1
    return asked or 2


def sandbox_address() -> tuple[str, int] | None:
    """Where the simulated Mistral will listen: SANDBOX_URL, or a free port where that one is taken."""
    parts = urlsplit(settings.SANDBOX_URL)
    if not settings.DEBUG or settings.MISTRAL_API_KEY or settings.MISTRAL_API_BASE != settings.SANDBOX_URL:
        return None
    host = parts.hostname or "127.0.0.1"
    port = parts.port or 80
    try:
        claim(host, port)
    except PortTaken:
        port = free_port(host)
    return host, port


def environment(sandbox: tuple[str, int] | None) -> dict[str, str]:
    """What the children inherit. The address of a sandbox that had to move goes with it."""
    found = dict(os.environ)
    # Celery's warning about root: in a container the product is root, and its tasks are its own code.
    found["PYTHONWARNINGS"] = "ignore:You're running the worker with superuser"
    if INSTALLED:
        # Or `-m` would look for `config` in the working directory first.
        found["PYTHONSAFEPATH"] = "1"
    if sandbox is not None:
        found["SANDBOX_URL"] = found["MISTRAL_API_BASE"] = f"http://{sandbox[0]}:{sandbox[1]}"
    return found


def web(host: str, port: int, processes: int, sandbox: tuple[str, int] | None) -> Child:
    command = [
        *(sys.executable, "-m", "config", "web", "--host", host, "--port", str(port)),
        *("--workers", str(processes), "--grace", "5"),
    ]
    return Child(name="web", command=command, environment=environment(sandbox))


def worker(sandbox: tuple[str, int] | None) -> Child:
    command = [
        # Celery looks for `config` in the working directory first, unless it is imported already.
        *(sys.executable, "-c", "import config, celery.__main__; celery.__main__.main()"),
        *("--quiet", "-A", "config", "worker", "--beat"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"),
    ]
    return Child(name="worker", command=command, environment=environment(sandbox))


def simulated_mistral(host: str, port: int) -> Child:
    command = [sys.executable, "-m", "config", "simulate_mistral", "--host", host, "--port", str(port)]
    return Child(name="sandbox", command=command, environment=environment((host, port)))


def banner(address: str, *, notes: str, sandbox: bool) -> str:
    models = "a simulated Mistral (set MISTRAL_API_KEY for the real one)" if sandbox else settings.MISTRAL_API_BASE
    lines = [
        "",
        f"Spend Governor is ready on {address}",
        f"  console   {address}/admin/",
        f"  gateway   {address}/v1/   calls go to {models}",
        f"  API       {address}/api/docs",
        *(["", notes] if notes else []),
        "",
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines)
