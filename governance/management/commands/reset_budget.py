"""`manage.py reset_budget`"""

import getpass
import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from governance.actions import budgets, scoped_rules
from governance.audit import Actor
from governance.management.terminal import TerminalCommand
from governance.models import Budget, BudgetWindow, ScopeType
from governance.rules import money
from governance.rules.errors import FieldError


class Command(TerminalCommand):
    help = "Close a budget's open window with a reason and open a new one now. History is kept."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", default="", help="the tenant's slug; empty for a platform budget")
        parser.add_argument("--scope", default="tenant", choices=ScopeType.values, help="default: tenant")
        parser.add_argument("--key", default="", help="the agent, user, … of the scope; * for an each-one budget")
        parser.add_argument("--window", help="which of the scope's budgets, where there are several")
        parser.add_argument("--reason", required=True, help="kept in the audit trail")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be reset")
        parser.add_argument("--json", action="store_true", help="print {budgets, closed, opened}")

    def handle(self, *, reason: str, dry_run: bool, **options: Any) -> None:
        try:
            found = self._budgets(**options)
        except FieldError as error:
            raise CommandError(f"--{error.field}: {error.message}") from error
        if dry_run:
            closed = opened = BudgetWindow.objects.filter(budget__in=found, closed_at=None).count()
        else:
            by, now = Actor(f"command line ({getpass.getuser()})"), timezone.now()
            try:
                results = [budgets.reset(budget=budget, reason=reason, by=by, now=now) for budget in found]
            except FieldError as error:
                raise CommandError(f"--{error.field}: {error.message}") from error
            closed, opened = sum(r.closed for r in results), sum(r.opened for r in results)
        if options["json"]:
            names = [str(budget) for budget in found]
            self.stdout.write(json.dumps({"budgets": names, "closed": closed, "opened": opened, "dry_run": dry_run}))
            return
        for budget in found:
            limit = money.format_dollars(budget.limit_nanos)
            self.stdout.write(f"{'Would reset' if dry_run else 'Reset'} {budget} (${limit}).")
        self.stdout.write(f"{closed} windows closed, {opened} opened.")

    def _budgets(self, *, tenant: str, scope: str, key: str, window: str | None, **_: Any) -> list[Budget]:
        found = Budget.objects.filter(scope_type=scope).select_related("tenant")
        found = found.filter(tenant__slug=tenant) if tenant else found.filter(tenant=None)
        if scope not in (ScopeType.TENANT, ScopeType.PLATFORM) or key:
            found = found.filter(scope_key__in=scoped_rules.stored_keys(key, field="key"))
        if window:
            found = found.filter(window=window)
        if not found:
            named = " ".join(filter(None, [tenant, scope, key, window]))
            raise CommandError(f"There is no budget for {named!r}.")
        return list(found)
