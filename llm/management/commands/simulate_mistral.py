"""Run the simulated Mistral by itself."""

from __future__ import annotations

from typing import Any

import uvicorn
from django.core.management.base import CommandError, CommandParser

from governance.management.terminal import TerminalCommand
from llm.sandbox import ControlError, Sandbox


class Command(TerminalCommand):
    help = "Run a simulated Mistral: the real wire format, no key and no cost. Ends on SIGINT and SIGTERM."
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (default: %(default)s).")
        parser.add_argument("--port", type=int, default=8010, help="Port to listen on (default: %(default)s).")
        parser.add_argument("--latency-ms", type=int, default=0, help="Time before the first byte of an answer.")
        parser.add_argument("--pace-ms", type=int, default=0, help="Time between the chunks of a stream.")
        parser.add_argument("--api-key", default="", help="Accept this key alone (default: any).")
        parser.add_argument(
            "--behaviour", default="", help='How to answer, such as "output=200" or "status=500|latency=0.2".'
        )
        parser.add_argument(
            "--keep-requests", type=int, default=1_000, help="Requests remembered for /control/requests."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["latency_ms"] < 0 or options["pace_ms"] < 0:
            raise CommandError("--latency-ms and --pace-ms cannot be negative.")
        try:
            sandbox = Sandbox(
                api_key=options["api_key"],
                latency_s=options["latency_ms"] / 1_000,
                pace_s=options["pace_ms"] / 1_000,
                default=options["behaviour"],
                keep_requests=options["keep_requests"],
            )
        except ControlError as error:
            raise CommandError(f"--behaviour: {error}.") from error
        host, port = options["host"], options["port"]
        self.stdout.write(f"Simulated Mistral on http://{host}:{port}/v1 (answers cost nothing; Ctrl-C ends it)")
        self.stdout.flush()
        uvicorn.run(sandbox.app, host=host, port=port, access_log=False, log_level="warning", lifespan="off")
