"""`manage.py create_api_key`"""

import getpass
import json
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from governance.actions import tenancy
from governance.audit import Actor
from governance.ledger import clock
from governance.management.terminal import TerminalCommand
from governance.models import Agent, Tenant
from governance.models.tenancy import Role
from governance.rules import names
from governance.rules.errors import FieldError, Unknown

MOST_DAYS = 36_500


class Command(TerminalCommand):
    help = "Issue an API key and print it: it is shown here and never again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", default="", help="slug; for the roles agent and tenant")
        parser.add_argument("--agent", default="", help="slug; for the role agent")
        parser.add_argument("--role", default=Role.AGENT.value, choices=Role.values, help="default: agent")
        parser.add_argument("--name", default="", help="what the key is for")
        parser.add_argument("--expires-in-days", type=int, help="default: never")
        parser.add_argument("--create", action="store_true", help="make the tenant and the agent where missing")
        parser.add_argument("--dry-run", action="store_true", help="check everything, and keep nothing")
        parser.add_argument("--json", action="store_true", help="print {key, prefix, tenant, agent, role}")

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        try:
            with transaction.atomic():
                issued = issue(**options)
                transaction.set_rollback(dry_run)
        except FieldError as error:
            unknown = isinstance(error, Unknown) and not options["create"]
            hint = " --create makes it." if unknown else ""
            raise CommandError(f"--{error.field}: {error.message}{hint}") from error
        if dry_run:
            issued |= {"key": "", "prefix": ""}
        if options["json"]:
            self.stdout.write(json.dumps(issued))
        elif dry_run:
            self.stdout.write(f"Would issue a key for {_holder(issued)}.")
        else:
            self.stdout.write(f"Key for {_holder(issued)}, shown only now:\n{issued['key']}")


def issue(
    *, tenant: str, agent: str, role: str, name: str, create: bool, expires_in_days: int | None, **_: Any
) -> dict[str, Any]:
    by, now = Actor(f"command line ({getpass.getuser()})"), clock.now()
    owner = _tenant(tenant, create, by) if tenant else None
    if agent and owner is None:
        raise FieldError("tenant", "Name the agent's tenant.")
    bound = _agent(owner, agent, create, by) if owner and agent else None
    if expires_in_days is not None and not -MOST_DAYS <= expires_in_days <= MOST_DAYS:
        raise FieldError("expires-in-days", f"{MOST_DAYS} at most.")
    expires_at = None if expires_in_days is None else now + timedelta(days=expires_in_days)
    text, key = tenancy.issue_key(
        role=role, tenant=owner, agent=bound, name=name, expires_at=expires_at, by=by, now=now
    )
    return {
        "key": text,
        "prefix": key.prefix,
        "tenant": tenant or None,
        "agent": bound.slug if bound else None,
        "role": role,
    }


def _tenant(slug: str, create: bool, by: Actor) -> Tenant:
    if create and not Tenant.objects.filter(slug=slug).exists():
        return tenancy.create_tenant(slug=slug, by=by, now=timezone.now())
    return tenancy.tenant_named(slug)


def _agent(tenant: Tenant, slug: str, create: bool, by: Actor) -> Agent:
    if create and not Agent.objects.filter(tenant=tenant, slug=names.checked("agent", slug)).exists():
        return tenancy.create_agent(tenant=tenant, slug=slug, by=by, now=timezone.now())
    return tenancy.agent_named(tenant, slug)


def _holder(issued: dict[str, Any]) -> str:
    named = " / ".join(part for part in (issued["tenant"], issued["agent"]) if part)
    return f"{named} ({issued['role']})" if named else str(issued["role"])
