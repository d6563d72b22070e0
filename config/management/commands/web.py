"""`manage.py web`: the web processes of a production set-up, both planes behind one port."""

from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import CommandParser

from config import checks
from governance.management.terminal import TerminalCommand

# A process that says nothing for so long is replaced. The ledger's transactions end by themselves in half of it.
HUNG_S = 60


class Command(TerminalCommand):
    help = (
        "Serve both planes in the foreground, with bounds for slow and idle connections. SIGTERM ends it: no new "
        "request is taken, and those that run have --grace seconds."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
        parser.add_argument("--port", type=int, default=8000, help="port to listen on (default %(default)s)")
        parser.add_argument("--workers", type=int, default=1, help="processes; needs PostgreSQL (default %(default)s)")
        parser.add_argument(
            "--grace",
            type=int,
            default=settings.SHUTDOWN_GRACE_S,
            help="seconds to end in (default SHUTDOWN_GRACE_S, %(default)s)",
        )
        parser.add_argument("--application", default="config.asgi:application", help="what is served (%(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        # Without a setting nobody's word on who calls counts; uvicorn alone would believe this machine's.
        trusted = ",".join(settings.FORWARDED_ALLOW_IPS)
        for problem in [] if settings.DEBUG else checks.trust():
            self.stderr.write(f"Warning: {problem.msg} {problem.hint}")
        uvicorn.run(
            options["application"],
            host=options["host"],
            port=options["port"],
            workers=options["workers"],
            http="config.connections:GuardedConnection",
            ws="none",
            lifespan="on",
            proxy_headers=bool(trusted),
            forwarded_allow_ips=trusted,
            server_header=False,
            access_log=False,
            # What it says goes where all else does, as lines with an end.
            log_config=None,
            log_level="warning",
            timeout_graceful_shutdown=options["grace"],
            # One that is not scheduled for a while, on a machine that is busy or frozen, goes on with its calls: after
            # five seconds uvicorn would kill it, and all of them with it.
            timeout_worker_healthcheck=HUNG_S,
        )
