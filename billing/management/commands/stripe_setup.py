"""`manage.py stripe_setup`"""

import getpass
import json
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from billing.inbox import endpoint
from billing.inbox.endpoint import Setup
from billing.stripe_api import client
from governance.audit import Actor
from governance.management.terminal import TerminalCommand


class Command(TerminalCommand):
    help = (
        "Make or mend the webhook endpoint at Stripe: the pinned API version and exactly the events that are used."
        " A new endpoint's secret is printed once. A second run does nothing. Exit status 1 where something is wrong"
        " with the endpoint afterwards."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--url", help=f"where Stripe sends to; default: APP_URL and {endpoint.PATH}")
        parser.add_argument(
            "--meters", action="store_true", help="also make the meters of STRIPE_METERS, and hear of their errors"
        )
        parser.add_argument(
            "--retire",
            action="store_true",
            help="disable our endpoints of other versions; do so once the new"
            " endpoint's secret is in STRIPE_WEBHOOK_SECRET",
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what is wrong and what would be done")
        parser.add_argument("--json", action="store_true", help="print {url, actions, secrets, findings, dry_run}")

    def handle(self, *, url: str | None, meters: bool, retire: bool, dry_run: bool, **options: Any) -> None:
        if not client.is_configured():
            raise CommandError("STRIPE_SECRET_KEY is not set.")
        try:
            url = endpoint.checked_url(url) if url else endpoint.our_url()
            by = Actor(f"command line ({getpass.getuser()})")
            done = endpoint.set_up(url=url, dry_run=dry_run, meters=meters, retire=retire, by=by, now=timezone.now())
        except endpoint.NotReachable as error:
            raise CommandError(f"--url: {error}") from error
        except client.StripeError as error:
            raise CommandError(f"Stripe did not do it: {error}") from error
        if options["json"]:
            printed = {"url": url, "actions": done.actions, "secrets": done.secrets, "dry_run": dry_run}
            printed |= {"failed": done.failed} if done.failed else {}
            self.stdout.write(json.dumps(printed | {"findings": [asdict(one) for one in done.findings]}))
        else:
            self._say(done, url, meters=meters, dry_run=dry_run)
        if done.is_wrong:
            raise SystemExit(1)

    def _say(self, done: Setup, url: str, *, meters: bool, dry_run: bool) -> None:
        for action in done.actions:
            self.stdout.write(f"{'Would' if dry_run else 'Did'}: {action}.")
        for finding in done.findings:
            self.stdout.write(finding.message)
        for id, secret in done.secrets.items():
            self.stdout.write(f"The secret of {id}, shown only now; add it to STRIPE_WEBHOOK_SECRET: {secret}")
        if done.failed:
            self.stdout.write(f"Stripe did not do all of it: {done.failed}. Run this again.")
        if meters and not settings.STRIPE_METERS:
            self.stdout.write("STRIPE_METERS names no meter, so none was made.")
        if not done.actions and not done.findings:
            self.stdout.write(f"The endpoint {url} is as it should be.")
