"""`manage.py stripe_reference`"""

import getpass
import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from billing.accounts import binding, references
from governance.actions import tenancy
from governance.audit import Actor
from governance.management.terminal import TerminalCommand
from governance.rules.errors import FieldError


class Command(TerminalCommand):
    help = (
        "Make a signed reference for a payment link, pricing table or buy button: whoever pays with it first"
        f" pays for the tenant. It is good for {references.LIFE.days} days. Nothing is sent to Stripe."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tenant", help="the tenant's slug")
        parser.add_argument("--link", default="", help="a payment link, to be printed with the reference")
        parser.add_argument("--json", action="store_true", help="print {tenant, reference, expires_at, url}")

    def handle(self, *, tenant: str, link: str, **options: Any) -> None:
        try:
            made, url = binding.refer(
                tenant=tenancy.tenant_named(tenant),
                payment_link=link,
                by=Actor(f"command line ({getpass.getuser()})"),
                now=timezone.now(),
            )
        except FieldError as error:
            raise CommandError(error.message) from error
        if options["json"]:
            figures = {"tenant": tenant, "reference": made.text, "expires_at": made.expires_at.isoformat(), "url": url}
            self.stdout.write(json.dumps(figures))
        else:
            self.stdout.write(url or made.text)
            self.stderr.write(f"Good until {made.expires_at:%Y-%m-%d %H:%M} UTC, for the first customer that pays.")
