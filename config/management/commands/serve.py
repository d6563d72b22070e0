"""`manage.py serve`: web, worker, beat with its schedule, and what stands in for others, for one machine."""

import io
import ipaddress
import os
import secrets
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from billing.inbox import endpoint, handlers
from config import demo_stripe, logs
from config.installation import INSTALLED
from config.management.commands.seed_demo import Kept
from config.supervisor import Child, PortTaken, StartFailed, Supervisor, answers, claim, free_port
from governance.management.terminal import TerminalCommand

STRIPES_OWN = "https://api.stripe.com"
STRIPE_STATE = "simulated_stripe.json"


class Command(TerminalCommand):
    help = (
        "Run the product on this machine in the foreground: web, worker, beat with its schedule and, with DEBUG "
        "and without MISTRAL_API_KEY, a simulated Mistral; with --demo and without STRIPE_SECRET_KEY a simulated "
        "Stripe, too. Ends cleanly on SIGINT and SIGTERM."
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
        parser.add_argument("--no-sandbox", action="store_true", help="start no simulated Mistral, and no Stripe")
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
        if not (os.environ.get("APP_URL") or os.environ.get("APP_URL_FILE")):
            os.environ["APP_URL"] = settings.APP_URL = f"http://127.0.0.1:{port}"
        notes = prepare_demo() if options["demo"] else ""
        require_migrated()
        if not settings.DEBUG:
            call_command("collectstatic", interactive=False, verbosity=0)
        sandbox = None if options["no_sandbox"] else sandbox_address()
        stripe = None
        if options["demo"] and not options["no_sandbox"] and (address := stripe_address()) is not None:
            stripe = prepare_stripe(*address, webhook=webhook_url(host, port))
        inherited = environment(sandbox, stripe)
        children = [web(host, port, web_processes(workers), inherited), worker(inherited), beat(inherited)]
        if stripe is not None:
            children.insert(0, simulated_stripe(stripe, inherited))
        if sandbox is not None:
            children.insert(0, simulated_mistral(*sandbox, inherited))
        # The children have connections of their own.
        connections.close_all()
        standing_in = StandIns(models=sandbox is not None, stripe=stripe is not None)
        self.supervise(children, host=host, port=port, notes=notes, standing_in=standing_in)

    def supervise(self, children: list[Child], *, host: str, port: int, notes: str, standing_in: "StandIns") -> None:
        lock = threading.Lock()

        def say(line: str) -> None:
            if settings.LOG_FORMAT == "json" and not line.startswith("{"):
                at = timezone.now().isoformat(timespec="milliseconds")
                line = logs.as_json({"time": at, "level": "INFO", "logger": "serve", "message": line.strip()})
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
                on_ready=lambda: say(banner(shown, notes=notes, standing_in=standing_in)),
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
    if not settings.DEBUG or settings.MISTRAL_API_KEY or settings.MISTRAL_API_BASE != settings.SANDBOX_URL:
        return None
    return free_address(settings.SANDBOX_URL)


@dataclass(frozen=True, slots=True)
class StandIns:
    """Who is simulated on this machine."""

    models: bool = False
    stripe: bool = False


@dataclass(frozen=True, slots=True)
class StripeStandIn:
    """The simulated Stripe: where it listens, and what the product and it know of each other."""

    host: str
    port: int
    key: str
    webhook: str
    webhook_secret: str
    topup_price: str

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def stripe_address() -> tuple[str, int] | None:
    """Where the simulated Stripe will listen; None where there is a key, or something else stands in already."""
    untouched = not settings.STRIPE_SECRET_KEY and not settings.STRIPE_WEBHOOK_SECRETS
    if not settings.DEBUG or not untouched or settings.STRIPE_API_BASE != STRIPES_OWN:
        return None
    return free_address(settings.STRIPE_SANDBOX_URL)


def free_address(url: str) -> tuple[str, int]:
    """The address, or a free port of its host where that one is taken."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    try:
        claim(host, port)
    except PortTaken:
        port = free_port(host)
    return host, port


def webhook_url(host: str, port: int) -> str:
    """Our own webhook, as what runs on this machine reaches it."""
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{local}:{port}{endpoint.PATH}"


def prepare_stripe(host: str, port: int, *, webhook: str) -> StripeStandIn:
    """The demo's customers at a simulated Stripe, and secrets that are the same at the next start."""
    kept = Kept(settings.VAR_DIR / "demo.json")
    key = kept.values.setdefault("stripe_key", f"sk_test_simulated_{secrets.token_hex(12)}")
    secret = kept.values.setdefault("stripe_webhook_secret", f"whsec_{secrets.token_hex(16)}")
    kept.save()
    topup = demo_stripe.prepare(
        settings.VAR_DIR / STRIPE_STATE,
        url=webhook,
        secret=secret,
        events=sorted(handlers.asked_for()),
        now=timezone.now(),
    )
    return StripeStandIn(host, port, key, webhook, secret, topup)


def environment(sandbox: tuple[str, int] | None, stripe: StripeStandIn | None = None) -> dict[str, str]:
    """What the children inherit. The addresses of those that stand in for others go with it."""
    found = dict(os.environ)
    # Celery's warning about root: in a container the product is root, and its tasks are its own code.
    found["PYTHONWARNINGS"] = "ignore:You're running the worker with superuser"
    if INSTALLED:
        # Or `-m` would look for `config` in the working directory first.
        found["PYTHONSAFEPATH"] = "1"
    if sandbox is not None:
        found["SANDBOX_URL"] = found["MISTRAL_API_BASE"] = f"http://{sandbox[0]}:{sandbox[1]}"
    if stripe is not None:
        found["STRIPE_SANDBOX_URL"] = found["STRIPE_API_BASE"] = stripe.url
        found["STRIPE_SECRET_KEY"], found["STRIPE_WEBHOOK_SECRET"] = stripe.key, stripe.webhook_secret
        if not settings.STRIPE_TOPUP_PRICE:
            found["STRIPE_TOPUP_PRICE"] = stripe.topup_price
    return found


def web(host: str, port: int, processes: int, inherited: dict[str, str]) -> Child:
    command = [
        *(sys.executable, "-m", "config", "web", "--host", host, "--port", str(port)),
        *("--workers", str(processes), "--grace", "5"),
    ]
    return Child(name="web", command=command, environment=inherited)


def worker(inherited: dict[str, str]) -> Child:
    options = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return Child(name="worker", command=celery("worker", *options), environment=inherited)


def beat(inherited: dict[str, str]) -> Child:
    """Of its own: a worker says nothing of a beat within it that has ended, and starts no other one."""
    return Child(name="beat", command=celery("beat"), environment=inherited)


def celery(*words: str) -> list[str]:
    # Celery looks for `config` in the working directory first, unless it is imported already.
    start = [sys.executable, "-c", "import config, celery.__main__; celery.__main__.main()"]
    return [*start, "--quiet", "-A", "config", *words, "--loglevel", "WARNING"]


def simulated_mistral(host: str, port: int, inherited: dict[str, str]) -> Child:
    command = [sys.executable, "-m", "config", "simulate_mistral", "--host", host, "--port", str(port)]
    return Child(name="sandbox", command=command, environment=inherited)


def simulated_stripe(stripe: StripeStandIn, inherited: dict[str, str]) -> Child:
    command = [
        *(sys.executable, "-m", "config", "simulate_stripe", "--host", stripe.host, "--port", str(stripe.port)),
        *("--api-key", stripe.key, "--webhook", stripe.webhook, "--webhook-secret", stripe.webhook_secret),
    ]
    return Child(name="stripe", command=command, environment=inherited)


def banner(address: str, *, notes: str, standing_in: StandIns) -> str:
    simulated = "a simulated Mistral (set MISTRAL_API_KEY for the real one)"
    models = simulated if standing_in.models else settings.MISTRAL_API_BASE
    story = [f"  story     {address}/admin/story/   sign up, use up, pay, renew: at a simulated Stripe"]
    lines = [
        "",
        f"Spend Governor is ready on {address}",
        f"  console   {address}/admin/",
        f"  gateway   {address}/v1/   calls go to {models}",
        f"  API       {address}/api/docs",
        *(story if standing_in.stripe else []),
        *(["", notes] if notes else []),
        "",
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines)
