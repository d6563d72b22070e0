"""`manage.py stripe_replay`"""

import getpass
import json
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from billing.inbox import catch_up, store
from billing.management import arguments
from billing.models import StripeEvent
from governance.audit import Actor
from governance.management.terminal import TerminalCommand


class Command(TerminalCommand):
    help = (
        "Handle events of the inbox again: by id, by type, by when they came, or those that were put aside after too"
        " many tries. Handling an event twice does nothing more. Exit status 1 where one could not be handled."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("event", nargs="*", help="ids of events: evt_…")
        parser.add_argument(
            "--type", action="append", default=[], metavar="TYPE", help="such as invoice.paid; repeatable"
        )
        parser.add_argument(
            "--since", type=arguments.moment, metavar="WHEN", help=f"received then or later: {arguments.WHEN}"
        )
        parser.add_argument("--until", type=arguments.moment, metavar="WHEN", help="received before that")
        parser.add_argument("--dead", action="store_true", help="only dead letters; of all times unless said otherwise")
        parser.add_argument("--dry-run", action="store_true", help="only name the events")
        parser.add_argument("--json", action="store_true", help="print {events, handled, left, dry_run}")

    def handle(self, *, event: list[str], dry_run: bool, **options: Any) -> None:
        found = self._found(event, **options)
        now = timezone.now()
        report = catch_up.ignore if options["json"] or options["verbosity"] == 0 else self.stderr.write
        ids = list(found.order_by("created", "id").values_list("event_id", flat=True))
        handled, due = 0, list[str]()
        if not dry_run:
            by = Actor(f"command line ({getpass.getuser()})")
            due = store.replay(events=found, by=by, now=now)
            handled = store.handle_all(due, now=now, report=report)
        if options["json"]:
            self.stdout.write(
                json.dumps({"events": ids, "handled": handled, "left": len(ids) - handled, "dry_run": dry_run})
            )
        else:
            for id in ids if dry_run else ():
                self.stdout.write(f"Would handle {id}.")
            self.stdout.write(
                f"{len(ids)} events, {handled} handled, {len(ids) - len(due) if not dry_run else 0} not ours."
            )
        if not dry_run and handled < len(ids):
            raise SystemExit(1)

    def _found(
        self, ids: list[str], *, type: list[str], since: datetime | None, until: datetime | None, dead: bool, **_: Any
    ) -> Any:
        if not (ids or type or since or until or dead):
            raise CommandError("Say which events: ids, --type, --since, --until or --dead.")
        found = StripeEvent.objects.dead() if dead else StripeEvent.objects.all()
        if ids:
            found = found.filter(event_id__in=ids)
            unknown = sorted(set(ids) - set(found.values_list("event_id", flat=True)))
            if unknown:
                raise CommandError(f"There is no {'dead ' if dead else ''}event {unknown[0]!r} in the inbox.")
        if type:
            found = found.filter(type__in=type)
        if since:
            found = found.filter(received_at__gte=since)
        return found.filter(received_at__lt=until) if until else found
