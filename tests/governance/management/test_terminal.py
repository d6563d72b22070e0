"""What commands write for terminals, and what is logged, also of names from before they were checked."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.core.management.base import CommandParser
from django.db import connection
from django.test import Client
from django.utils import timezone

from config.logs import UnknownHosts
from governance.management.terminal import TerminalCommand
from governance.models import SpendRollup
from tests import factories as make

ODD = "evil\x1b[2J\x9b\u202e\rbot\nforged  9.99"
APPS = ("governance", "llm", "billing", "config")
COMMANDS = sorted(path for app in APPS for path in Path(app).glob("management/commands/[a-z]*.py"))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_every_command_writes_for_terminals(path: Path) -> None:
    module = import_module(".".join(path.with_suffix("").parts))
    assert issubclass(module.Command, TerminalCommand)


def written(*args: str) -> str:
    out = io.StringIO()
    call_command(*args, stdout=out)
    return out.getvalue()


def run_away(*args: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command whose database is away."""
    away = os.environ | {"DATABASE_URL": "postgres://u:hunter2@127.0.0.1:9/none?connect_timeout=1"}
    done = subprocess.run([sys.executable, "manage.py", *args], env=away, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_where_the_database_is_away_a_command_says_so_in_a_line_and_exits_with_3() -> None:
    status, out, err = run_away("check_budget", "--tenant", "acme", "--json")
    assert status == 3
    assert json.loads(out)["error"]["message"].startswith("The database does not answer: ")
    # The pool has its own lines in the log.
    assert "Traceback" not in err
    status, out, err = run_away("showmigrations")
    assert (status, out) == (3, "")
    assert err.splitlines()[-1].startswith("The database does not answer: ")
    assert "Traceback" not in err
    assert "hunter2" not in err


@pytest.mark.django_db
def test_a_database_that_lacks_tables_is_to_be_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM governance_later")

    monkeypatch.setattr("governance.actions.tenancy.tenant_named", read)
    with pytest.raises(CommandError, match=r"not migrated .*governance_later.* Run: manage.py migrate") as raised:
        call_command("emergency_stop", "--tenant", "acme", "--reason", "r")
    assert raised.value.returncode == 3


def test_other_failures_keep_their_status_and_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    class Refuses(TerminalCommand):
        def add_arguments(self, parser: CommandParser) -> None:
            parser.add_argument("--json", action="store_true")

        def handle(self, **options: object) -> None:
            raise CommandError("no", returncode=7)

    for args, out, err in (((), "", "CommandError: no\n"), (("--json",), '{"error": {"message": "no"}}\n', "")):
        with pytest.raises(SystemExit) as ended:
            Refuses().run_from_argv(["manage.py", "refuses", *args])
        assert ended.value.code == 7
        assert capsys.readouterr() == (out, err)


@pytest.mark.django_db
@pytest.mark.parametrize("form", [(), ("--csv",), ("--json",)])
def test_a_report_of_old_rows_moves_no_cursor(form: tuple[str, ...]) -> None:
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    SpendRollup.objects.bulk_create([SpendRollup(tenant=make.tenant(), agent=ODD, hour=hour, calls=1, cost_nanos=5)])
    found = written("spend_report", "--by", "agent", *form)
    assert "evil" in found
    assert not set(found.replace("\r\n", "")) & set("\x1b\x9b\u202e\r")
    if not form:
        assert r"evil\x1b[2J\x9b\u202e\x0dbot\x0aforged" in found


@pytest.mark.django_db
@pytest.mark.parametrize(
    "args",
    [
        ("set_budget", "--tenant", "acme", "--scope", "user", "--key", "a\x1b", "--window", "day", "--limit", "1"),
        ("reset_budget", "--tenant", "acme", "--scope", "user", "--key", "a\u202e", "--reason", "r"),
        ("check_budget", "--tenant", "acme", "--user", "a\0"),
        ("check_budget", "--tenant", "ac\0me"),
        ("emergency_stop", "--tenant", "acme", "--agent", "a\x9b", "--reason", "r"),
        ("create_api_key", "--tenant", "acme", "--agent", "a\nb", "--create"),
        ("create_api_key", "--tenant", "acme", "--agent", "a", "--name", "a\x1bb", "--create"),
        ("spend_report", "--agent", "a\x07"),
        ("spend_report", "--tenant", "a\x07"),
        ("review_reports", "--tenant", "a\x07"),
    ],
)
def test_a_command_refuses_what_is_no_name_and_says_which(args: tuple[str, ...]) -> None:
    make.tenant()
    with pytest.raises(
        CommandError, match=r"^--(key|user|tenant|agent|name|scope_key): may not have control"
    ) as refused:
        written(*args)
    assert "use letters" in str(refused.value)


@pytest.mark.django_db
def test_commands_mean_one_agent_however_it_is_spelled() -> None:
    make.key(agent_slug="bot")
    assert '"agent": "bot"' in written("create_api_key", "--tenant", "acme", "--agent", "Bot ", "--create", "--json")
    assert "Stopped: agent acme/bot" in written("emergency_stop", "--tenant", "acme", "--agent", "BOT", "--reason", "r")
    budget = ("--tenant", "acme", "--scope", "agent", "--window", "day", "--limit", "1")
    assert "created: acme agent:bot" in written("set_budget", *budget, "--key", "Bot")
    assert "unchanged: acme agent:bot" in written("set_budget", *budget, "--key", " bOT")
    reset = ("--tenant", "acme", "--scope", "agent", "--reason", "r")
    assert "Reset acme agent:bot" in written("reset_budget", *reset, "--key", "BOT")


def logging_to(logged: io.StringIO) -> logging.Logger:
    handler = logging.StreamHandler(logged)
    form = dict(settings.LOGGING["formatters"]["text"])
    made = logging.config.DictConfigurator({}).configure_formatter(form)  # type: ignore[attr-defined]
    handler.setFormatter(made)
    log = logging.Logger("odd")
    log.addHandler(handler)
    return log


def test_a_log_line_has_an_end_whatever_a_client_wrote() -> None:
    logged = io.StringIO()
    log = logging_to(logged)
    for long in ("h" * 60_000, "\u202e" * 60_000):
        log.error("Invalid HTTP_HOST header: %r.", long)
        try:
            raise ValueError(long)
        except ValueError:
            log.exception("failed")
    assert max(map(len, logged.getvalue().splitlines())) < 13_000
    assert "characters more)" in logged.getvalue()

    before = len(logged.getvalue())
    try:
        raise ValueError("h\n" * 60_000)
    except ValueError:
        log.exception("failed")
    # Where it came from, and what it was, are both there.
    traceback = logged.getvalue()[before:]
    assert traceback.count("\n") < 210
    assert "Traceback" in traceback
    assert "lines more)" in traceback


def test_a_host_of_thousands_of_characters_is_logged_in_short(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = io.StringIO()
    # Another test's may have been told a moment ago, and this one would be counted only.
    monkeypatch.setattr(logging.getLogger("django.security.DisallowedHost"), "filters", [UnknownHosts()])
    with caplog.at_level(logging.WARNING):
        assert Client(headers={"host": "h" * 60_000}).get("/api/health").status_code == 400
    for record in caplog.records:
        logging_to(logged).handle(record)
    assert "HTTP_HOST" in logged.getvalue()
    assert len(logged.getvalue()) < 20_000


def test_a_log_line_is_one_line() -> None:
    logged = io.StringIO()
    log = logging_to(logged)
    log.error("of %s", ODD)
    assert logged.getvalue().count("\n") == 1
    assert r"of evil\x1b[2J\x9b\u202e\x0dbot\x0aforged" in logged.getvalue()
    try:
        raise ValueError(ODD)
    except ValueError:
        log.exception("failed")
    assert "Traceback (most recent call last):\n" in logged.getvalue()
    assert not set(logged.getvalue()) & set("\x1b\x9b\u202e\r")
