"""What commands write for terminals, and what is logged, also of names from before they were checked."""

from __future__ import annotations

import io
import logging
import logging.config
from importlib import import_module
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
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
    form = dict(settings.LOGGING["formatters"]["line"])
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
