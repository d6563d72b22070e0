"""`manage.py try_providers`"""

import dataclasses
import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.management.terminal import TerminalCommand
from llm.providers import trial

FAILED = 1


class Command(TerminalCommand):
    help = (
        "Try every provider that has a key, from the environment or the console: list its models, call none. Writes"
        " and costs nothing. Exit status 0 when all work, 1 when one does not."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", nargs="?", default="", help="only this provider, such as mistral-eu")
        parser.add_argument("--json", action="store_true", help="print [{provider, works, message, models}, …]")

    def handle(self, *, name: str, **options: Any) -> None:
        tried = trial.try_out(only=name)
        if not tried:
            missing = f"There is no provider {name} with a key." if name else "No provider has a key."
            raise CommandError(missing, returncode=FAILED)
        if options["json"]:
            self.stdout.write(json.dumps([dataclasses.asdict(one) for one in tried]))
        else:
            for one in tried:
                self.stdout.write(f"{one.provider}: {one.message}")
        if not all(one.works for one in tried):
            sys.exit(FAILED)
