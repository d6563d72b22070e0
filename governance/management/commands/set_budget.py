"""`manage.py set_budget`"""

import getpass
import json
from argparse import BooleanOptionalAction
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from governance.actions import budgets, tenancy
from governance.audit import Actor
from governance.management.terminal import TerminalCommand
from governance.models import Budget, ScopeType
from governance.rules import carry_over, money, policy
from governance.rules.errors import Conflict, FieldError
from governance.rules.windows import WindowKind

# How people know a budget's fields: the option that a column is given by, where it has another name.
OPTIONS = {
    "limit_nanos": "limit",
    "scope_type": "scope",
    "scope_key": "key",
    "alert_thresholds": "alert_at",
    "downgrade_rules": "downgrade",
    "disabled_tools": "disable_tool",
}


class Command(TerminalCommand):
    help = (
        "Create a budget, or change the one its scope and window have already. What is not given stays as it is;"
        " a new budget needs --limit. Takes hold at once, and is audited."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", default="", help="the tenant's slug; empty for the platform or each tenant")
        parser.add_argument("--scope", default=ScopeType.TENANT.value, choices=ScopeType.values, help="default: tenant")
        parser.add_argument("--key", default="", help="the agent, user, … of the scope; * for each one separately")
        parser.add_argument("--window", required=True, choices=[kind.value for kind in WindowKind])
        parser.add_argument("--limit", help="dollars, such as 12.50")
        parser.add_argument("--soft-cap", metavar="SHARE", help="share of the limit, such as 0.8; none for no soft cap")
        parser.add_argument("--hard-cap", metavar="SHARE", help="share of the limit, at most 1")
        parser.add_argument("--warn-at", metavar="SHARE", help="share below the soft cap; none for no early warning")
        parser.add_argument("--alert-at", metavar="SHARES", help="comma-separated, such as 0.5,0.9; none for no alerts")
        parser.add_argument(
            "--downgrade",
            action="append",
            metavar="RULE",
            help='"a,b->c at 0.9": from models a and b to c, from that share of the limit on, or without one from the'
            " soft cap on; the first that matches is followed; may be repeated; none",
        )
        parser.add_argument(
            "--disable-tool", action="append", metavar="TOOL", help="from the soft cap on; repeated; none"
        )
        parser.add_argument("--clamp", action=BooleanOptionalAction, help="lower max_tokens to what the money covers")
        parser.add_argument("--clamp-min-tokens", type=int, metavar="N")
        parser.add_argument(
            "--carry-over", metavar="MOST", help='of what is left added to the next window: "25%%", or dollars; none'
        )
        parser.add_argument("--enabled", action=BooleanOptionalAction, help="whether it governs anything")
        parser.add_argument("--reason", default="", help="kept in the audit trail")
        parser.add_argument("--dry-run", action="store_true", help="check everything, and keep nothing")
        parser.add_argument("--json", action="store_true", help="print {action, budget, old, dry_run}")

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        try:
            with transaction.atomic():
                action, budget, old = put(now=timezone.now(), **options)
                transaction.set_rollback(dry_run)
        except (Conflict, money.AmountError) as error:
            raise CommandError(str(error)) from error
        except FieldError as error:
            raise CommandError(f"--{_option(error.field)}: {error.message}") from error
        if options["json"]:
            answer = {"action": action, "budget": shown(budget), "old": old, "dry_run": dry_run}
            self.stdout.write(json.dumps(answer, default=str))
            return
        limit = money.format_dollars(budget.limit_nanos)
        self.stdout.write(f"{'Would be ' * dry_run}{action}: {budget} (${limit})")
        new = shown(budget)
        for name in sorted(old):
            if old[name] != new[name]:
                self.stdout.write(f"  {name}: {old[name]} → {new[name]}")


def put(*, now: datetime, reason: str, **options: Any) -> tuple[str, Budget, dict[str, Any]]:
    """("created", "changed" or "unchanged", the budget, what it was). Raises what budgets and tenancy raise."""
    by = Actor(f"command line ({getpass.getuser()})")
    tenant = tenancy.tenant_named(options["tenant"]) if options["tenant"] else None
    scope: dict[str, Any] = {
        "tenant": tenant,
        "scope_type": options["scope"],
        "scope_key": options["key"],
        "window": options["window"],
    }
    changes = changes_of(options)
    known = budgets.find(**scope)
    if known is None:
        if "limit_nanos" not in changes:
            raise FieldError("limit", "a new budget needs one")
        return "created", budgets.create(**scope, **changes, by=by, now=now), {}
    old = shown(known)
    changed = budgets.change(budget=known, changes=changes, by=by, now=now, reason=reason)
    return "unchanged" if shown(changed) == old else "changed", changed, old


def changes_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a budget that were given. Raises FieldError."""
    given: dict[str, Any] = {}
    if options["limit"] is not None:
        given["limit_nanos"] = _nanos(options["limit"])
    if options["carry_over"] is not None:
        given["carry_over"] = carry_over.parse(options["carry_over"])
    for name in (*policy.COLUMNS, "enabled"):
        value = options[OPTIONS.get(name, name)]
        if value is None:
            continue
        if value == "" or (isinstance(value, list) and "" in value):
            # More likely a variable that is not set than a wish for none.
            raise FieldError(name, f"must not be empty; {policy.NONE} is said by that word")
        if isinstance(value, list):
            value = [text for text in value if text != policy.NONE]
            # A rule a line; a tool's name is taken as it is, commas and all.
            value = "\n".join(value) if name == "downgrade_rules" else policy.parse(name, value)
        given[name] = policy.from_text(name, value) if isinstance(value, str) else value
    return given


def shown(budget: Budget) -> dict[str, Any]:
    """A budget as the API shows it; dollars and shares as text."""
    found = budgets.BUDGETS.to_audit(budget)
    identity = {
        "id": budget.pk,
        "tenant": budget.tenant.slug if budget.tenant else None,
        "scope_type": budget.scope_type,
        "scope_key": budget.scope_key,
        "window": budget.window,
        "limit": money.format_dollars(found.pop("limit_nanos")),
    }
    return identity | found


def _nanos(text: str) -> int:
    try:
        return money.nanos_from_dollars(text)
    except money.AmountError as error:
        raise FieldError("limit", str(error)) from error


def _option(field: str) -> str:
    """The option that a field of a budget is given by."""
    return OPTIONS.get(field, field).replace("_", "-")
