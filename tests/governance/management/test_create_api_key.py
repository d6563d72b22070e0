from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from governance.models import ApiKey, AuditEntry, Tenant
from governance.models.tenancy import digest_of
from tests import factories

pytestmark = pytest.mark.django_db


def run(*args: str) -> str:
    told = io.StringIO()
    call_command("create_api_key", *args, stdout=told)
    return told.getvalue()


def test_it_prints_a_key_that_works_as_json() -> None:
    factories.agent()
    found: dict[str, Any] = json.loads(run("--tenant", "acme", "--agent", "invoices", "--json"))
    assert found == {
        "key": found["key"],
        "prefix": found["key"][:10],
        "tenant": "acme",
        "agent": "invoices",
        "role": "agent",
    }
    assert ApiKey.objects.get().digest == digest_of(found["key"])
    assert AuditEntry.objects.get().actor.startswith("command line")


def test_a_missing_tenant_or_agent_is_made_only_when_asked() -> None:
    with pytest.raises(CommandError, match=r"--tenant: There is no tenant 'acme'\. --create makes it"):
        run("--tenant", "acme", "--agent", "invoices")
    run("--tenant", "acme", "--agent", "invoices", "--create")
    run("--tenant", "acme", "--agent", "invoices", "--create")
    assert (Tenant.objects.count(), ApiKey.objects.count()) == (1, 2)


def test_a_dry_run_keeps_nothing() -> None:
    assert "Would issue a key for acme / invoices (agent)" in run(
        "--tenant", "acme", "--agent", "invoices", "--create", "--dry-run"
    )
    assert not Tenant.objects.exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--role", "agent"], "--tenant"),
        (["--agent", "x"], "--tenant"),
        (["--tenant", "acme", "--role", "operator"], "--tenant"),
        (["--role", "operator", "--expires-in-days", "0"], "--expires_at"),
        (["--role", "operator", "--expires-in-days", "99999999999"], "--expires-in-days: 36500 at most"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option_s_name(args: list[str], says: str) -> None:
    factories.tenant()
    with pytest.raises(CommandError, match=says):
        run(*args)


def test_an_operator_s_key_belongs_to_no_tenant() -> None:
    assert json.loads(run("--role", "operator", "--json"))["tenant"] is None
