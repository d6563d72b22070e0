"""Run the simulated Stripe by itself."""

from __future__ import annotations

import secrets
import signal
import time
from pathlib import Path
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from billing.inbox import handlers
from billing.sandbox import Postman, SimulatedStripe, StateUnreadable, StripeRefusal
from billing.stripe_api import client
from governance.management.terminal import TerminalCommand

STATE = "simulated_stripe.json"


class Command(TerminalCommand):
    help = (
        "Run a simulated Stripe: the real wire format and signed webhooks, no account and no money. "
        "Ends on SIGINT and SIGTERM; what it knows is kept in a file."
    )
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (default: %(default)s).")
        parser.add_argument("--port", type=int, default=8020, help="Port to listen on (default: %(default)s).")
        parser.add_argument("--state", default="", help=f"File for what it knows (default: {STATE} under VAR_DIR).")
        parser.add_argument("--forget", action="store_true", help="Begin anew, whatever the file says.")
        parser.add_argument("--api-key", default="", help="Accept this key alone (default: any test key).")
        parser.add_argument(
            "--webhook", default="", help="Send webhooks to this address, signed with the secret below."
        )
        parser.add_argument("--webhook-secret", default="", help="whsec_...; a new one is printed where none is given.")
        parser.add_argument(
            "--after-last-try",
            choices=("cancel", "unpaid", "past_due"),
            default="cancel",
            help="What becomes of a subscription whose payment failed for the last time (default: %(default)s).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if client.is_live():
            raise CommandError("STRIPE_SECRET_KEY is a live key: nothing on this machine stands in for Stripe with it.")
        host, port = options["host"], options["port"]
        path = Path(options["state"]) if options["state"] else settings.VAR_DIR / STATE
        if options["forget"]:
            path.unlink(missing_ok=True)
        try:
            account = SimulatedStripe(
                clock=time.time,
                # Others' ids than those of an account that was here before.
                seed=secrets.token_hex(3),
                path=path,
                api_key=options["api_key"],
                base_url=f"http://{f'[{host}]' if ':' in host else host}:{port}",
                after_last_try=options["after_last_try"],
            )
        except (StateUnreadable, ValueError) as error:
            raise CommandError(str(error)) from error
        if options["webhook"]:
            self._send_to(account, options["webhook"], options["webhook_secret"])
        self.stdout.write(f"Simulated Stripe on {account.state.base_url} (no money moves; Ctrl-C ends it)")
        self.stdout.flush()
        for number in (signal.SIGINT, signal.SIGTERM):
            # The server hears of it first and ends; then it is raised again, and must not end us before all is kept.
            signal.signal(number, lambda *_: None)
        postman = Postman(account)
        postman.start()
        try:
            uvicorn.run(account.app, host=host, port=port, access_log=False, log_level="warning", lifespan="off")
        finally:
            postman.stop()

    def _send_to(self, account: SimulatedStripe, url: str, secret: str) -> None:
        """Send all that the product asks for to an address, and to no other."""
        if not secret:
            secret = f"whsec_{secrets.token_hex(16)}"
            self.stdout.write(f"Webhooks are signed with STRIPE_WEBHOOK_SECRET={secret}")
        try:
            account.send_webhooks(url, secret=secret, events=sorted(handlers.asked_for()))
        except StripeRefusal as refusal:
            raise CommandError(f"--webhook: {refusal}") from refusal
