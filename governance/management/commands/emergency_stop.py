"""`manage.py emergency_stop`"""

import getpass
import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from governance.actions import stops, tenancy
from governance.audit import Actor
from governance.management.terminal import TerminalCommand
from governance.models import Agent, EmergencyStop, Tenant
from governance.rules.errors import Conflict, FieldError, NotOpen


class Command(TerminalCommand):
    help = (
        "Refuse every call of an agent, a tenant or, with neither, of everybody from now on, and cut the running "
        "ones; or lift such a stop. Exits with 1 where it is stopped, or lifted, already."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", default="", help="the tenant's slug; empty for everything")
        parser.add_argument("--agent", default="", help="one agent of the tenant alone")
        parser.add_argument("--reason", required=True, help="shown to operators and kept in the audit trail")
        parser.add_argument("--lift", action="store_true", help="lift the stop instead")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be stopped or lifted")
        parser.add_argument("--json", action="store_true", help="print {id, stops, tenant, agent, active, reason}")

    def handle(self, *, tenant: str, agent: str, reason: str, lift: bool, dry_run: bool, **options: Any) -> None:
        try:
            covered = self._covered(tenant, agent)
            act = self._lift if lift else self._stop
            row = act(*covered, reason=reason, dry_run=dry_run)
        except (Conflict, NotOpen) as error:
            raise CommandError(str(error)) from error
        except FieldError as error:
            raise CommandError(f"--{error.field}: {error.message}") from error
        if options["json"]:
            self.stdout.write(json.dumps(_printed(row) | {"dry_run": dry_run}))
            return
        would = ("Would lift" if lift else "Would stop") if dry_run else "Lifted" if lift else "Stopped"
        self.stdout.write(f"{would}: {stops.whom(row)}.")

    def _covered(self, tenant: str, agent: str) -> tuple[Tenant | None, Agent | None]:
        if not tenant:
            if agent:
                raise FieldError("tenant", "name the agent's tenant")
            return None, None
        found = tenancy.tenant_named(tenant)
        return found, tenancy.agent_named(found, agent) if agent else None

    def _stop(self, tenant: Tenant | None, agent: Agent | None, *, reason: str, dry_run: bool) -> EmergencyStop:
        if dry_run:
            return EmergencyStop(tenant=tenant, agent=agent, reason=reason)
        return stops.stop(tenant=tenant, agent=agent, reason=reason, by=_actor(), now=timezone.now())

    def _lift(self, tenant: Tenant | None, agent: Agent | None, *, reason: str, dry_run: bool) -> EmergencyStop:
        row = stops.active().filter(tenant=tenant, agent=agent).first()
        if row is None:
            named = stops.whom(EmergencyStop(tenant=tenant, agent=agent))
            raise CommandError(f"There is no stop of {named} to lift.")
        return row if dry_run else stops.lift(stop=row, reason=reason, by=_actor(), now=timezone.now())


def _actor() -> Actor:
    return Actor(f"command line ({getpass.getuser()})")


def _printed(row: EmergencyStop) -> dict[str, Any]:
    return {
        "id": row.pk,
        "stops": stops.whom(row),
        "tenant": row.tenant.slug if row.tenant else None,
        "agent": row.agent.slug if row.agent else None,
        "active": row.pk is not None and row.lifted_at is None,
        "reason": row.reason,
    }
