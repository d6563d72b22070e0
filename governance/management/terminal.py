"""Commands that write for terminals: a name from an old row moves no cursor and hides nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, OutputWrapper
from django.db import InterfaceError, OperationalError, ProgrammingError

from governance.rules import names

# How a file of tables ends its lines; alone, the first of them goes back over the line.
CRLF = "\r\n"
# Exit status where it cannot be told: the database, or a provider, is away.
AWAY = 3


class PrintableOutput(OutputWrapper):
    """Writes what a terminal obeys, or shows as nothing, as its number; lines and tabs stay."""

    def write(  # type: ignore[override]  # as OutputWrapper's own
        self, msg: str = "", style_func: Callable[[str], str] | None = None, ending: str | None = None
    ) -> None:
        lines = (names.printable(line, keep="\n\t") for line in str(msg).split(CRLF))
        super().write(CRLF.join(lines), style_func, ending)


class TerminalCommand(BaseCommand):
    """What all commands of the product are. A failure is one sentence; with --json, one object on stdout."""

    def __init__(self, stdout: Any = None, stderr: Any = None, **options: Any) -> None:
        super().__init__(stdout, stderr, **options)
        style = self.stderr.style_func
        self.stdout, self.stderr = PrintableOutput(stdout or sys.stdout), PrintableOutput(stderr or sys.stderr)
        self.stderr.style_func = style

    def execute(self, *args: Any, **options: Any) -> str | None:
        for name in ("stdout", "stderr"):
            if given := options.pop(name, None):
                setattr(self, name, PrintableOutput(given))
        try:
            return super().execute(*args, **options)
        except (OperationalError, InterfaceError, ProgrammingError) as error:
            if isinstance(error, ProgrammingError) and not _lacks_tables(error):
                raise
            failure = database_away(error)
        except CommandError as error:
            failure = error
        if options.get("json") and getattr(self, "_called_from_command_line", False):
            self.stdout.write(json.dumps({"error": {"message": str(failure)}}))
            sys.exit(failure.returncode)
        raise failure


def database_away(error: Exception) -> CommandError:
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    if _lacks_tables(error):
        return CommandError(f"The database is not migrated ({why}). Run: manage.py migrate", returncode=AWAY)
    return CommandError(f"The database does not answer: {why}", returncode=AWAY)


def _lacks_tables(error: Exception) -> bool:
    """Whether a table or a column is not there, in either database's words."""
    return getattr(error.__cause__, "sqlstate", None) in ("42P01", "42703") or "no such " in str(error)
