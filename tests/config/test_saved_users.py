"""What is done to users on the command line is in the audit trail, and keeps nobody waiting."""

from __future__ import annotations

import getpass
import io
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection

from governance import audit
from governance.models import AuditEntry

pytestmark = pytest.mark.django_db(transaction=True)
OLD, NEW = "seventeen-llamas", "eighteen-llamas"


@pytest.fixture
def olga() -> User:
    return User.objects.create_user("olga", password=OLD)


def typing(monkeypatch: pytest.MonkeyPatch, *typed: str) -> None:
    """Somebody at a terminal, for whom no transaction may wait."""
    waiting = iter(typed)

    def ask(prompt: str = "", stream: Any = None) -> str:
        assert not connection.in_atomic_block
        return next(waiting)

    monkeypatch.setattr(getpass, "getpass", ask)


def run(command: str, *args: str, **options: Any) -> None:
    call_command(command, *args, stdout=io.StringIO(), stderr=io.StringIO(), **options)


def test_a_changed_password_is_kept(olga: User, monkeypatch: pytest.MonkeyPatch) -> None:
    typing(monkeypatch, NEW, "another", "short", "short", NEW, NEW)
    run("changepassword", "olga")
    assert User.objects.get().check_password(NEW)
    row = AuditEntry.objects.get()
    assert (row.action, row.target, row.new) == ("user.password", "user olga", None)
    assert row.actor.startswith("command line (")


def test_one_that_is_refused_leaves_no_row(olga: User, monkeypatch: pytest.MonkeyPatch) -> None:
    typing(monkeypatch, *["short"] * 6)
    with pytest.raises(CommandError):
        run("changepassword", "olga")
    assert User.objects.get().check_password(OLD)
    assert not AuditEntry.objects.exists()


def test_no_transaction_waits_for_who_types(monkeypatch: pytest.MonkeyPatch) -> None:
    typing(monkeypatch, *[NEW] * 2)
    terminal = SimpleNamespace(isatty=lambda: True)
    run("createsuperuser", username="root", email="root@example.test", interactive=True, stdin=terminal)
    assert User.objects.get().is_superuser
    assert AuditEntry.objects.get().action == "user.create"


@pytest.mark.parametrize("command", ["createsuperuser", "changepassword"])
def test_what_cannot_be_kept_is_not_done(olga: User, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("the audit trail cannot be written")

    typing(monkeypatch, NEW, NEW)
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", NEW)
    monkeypatch.setattr(audit, "record", fail)
    given: dict[str, Any] = {"username": "root", "email": "root@example.test", "interactive": False}
    args = ["olga"] if command == "changepassword" else []
    with pytest.raises(RuntimeError):
        run(command, *args, **({} if args else given))
    assert User.objects.get().check_password(OLD)
