"""`manage.py check_budget`"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from governance import ledger
from governance.actions import tenancy
from governance.management.terminal import TerminalCommand
from governance.models import ApiKey
from governance.rules import money, names, policy, refusals
from governance.rules.calls import Caller
from governance.rules.decision import Action, Call, Decision, Downgrade, Reason, State, WindowView, fixed
from governance.rules.errors import FieldError

FINE, PRESSED, STOPPED, FAILED = 0, 1, 2, 3
# Why a caller may not call at all, whatever the budgets say.
BLOCKED = (
    Reason.EMERGENCY_STOP,
    Reason.TENANT_PAUSED,
    Reason.TENANT_SUSPENDED,
    Reason.AGENT_PAUSED,
    Reason.KEY_INVALID,
    Reason.TOO_MANY_NAMES,
    Reason.BUDGET_CLOSED,
)
COLUMNS = ("scope", "window", "state", "spent", "reserved", "limit", "remaining", "resets_at")


class Command(TerminalCommand):
    help = (
        "Show the budgets that govern a caller; with --cost, what would be decided about such a call. Nothing is held"
        " or written. Exit status 0 when all is well (with --cost: allowed as it is), 1 when a budget is warned or"
        " degraded (allowed with a warning or a change), 2 when one is stopped or the caller may not call (refused);"
        " 3 when it cannot be told."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", required=True, help="the tenant's slug")
        for name in names.OF_A_CALL:
            parser.add_argument(f"--{name}", default="", help=f"the {name} the call names")
        parser.add_argument("--key", default="", help="the prefix of the API key")
        parser.add_argument("--cost", help="dollars that the call costs at most: decide about it")
        parser.add_argument("--model", default="", help="with --cost: the model asked for")
        parser.add_argument(
            "--tool", action="append", default=[], help="with --cost: a tool it carries; may be repeated"
        )
        parser.add_argument("--json", action="store_true", help="print {allowed, action, reason, state, budgets, …}")

    def handle(self, *, cost: str | None, **options: Any) -> None:
        try:
            nanos = money.nanos_from_dollars(cost or 0)
            caller = _caller(**options)
        except money.AmountError as error:
            raise CommandError(f"--cost: {error}", returncode=FAILED) from error
        except FieldError as error:
            raise CommandError(f"--{error.field}: {error.message}", returncode=FAILED) from error
        if nanos < 0:
            raise CommandError("--cost: must be 0 or more", returncode=FAILED)
        call = Call(model=options["model"], quote=fixed(nanos), tools=tuple(options["tool"]))
        decision = ledger.dry_run(caller, call, now=timezone.now())
        status = _of_decision(decision) if cost is not None else _of_states(decision)
        if options["json"]:
            self.stdout.write(json.dumps(_answer(decision, asked=cost is not None, status=status)))
        else:
            self._print(decision, asked=cost is not None)
        if status:
            sys.exit(status)

    def _print(self, decision: Decision, *, asked: bool) -> None:
        shown = [[names.printable(str(cell or "-")) for cell in _row(view).values()] for view in decision.views]
        rows = [COLUMNS, *shown]
        widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
        for row in rows if decision.views else []:
            self.stdout.write("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
        if not decision.views:
            self.stdout.write("No budget governs this caller.")
        if asked:
            self.stdout.write(f"Decision: {decision.action}{f' to {decision.model}' * (decision.action == 'degrade')}")
        for step in decision.downgrades if asked else ():
            self.stdout.write(f"  by the rule {_rule(step)} of {step.view.scope} per {step.view.kind}")
        if (asked and decision.reason) or decision.reason in BLOCKED:
            self.stdout.write(f"{refusals.sentence(decision)}.")


def _caller(*, tenant: str, key: str, **options: Any) -> Caller:
    owner = tenancy.tenant_named(tenant)
    known = ApiKey.objects.filter(tenant=owner, prefix=key).first() if key else None
    if key and known is None:
        raise FieldError("key", f"{tenant} has no key {key!r}.")
    named = {name: names.of_call(name, options[name]) for name in names.OF_A_CALL}
    prefix = known.scope_key if known else ""
    return Caller(tenant_id=owner.pk, tenant=owner.slug, key_id=known.pk if known else None, key_prefix=prefix, **named)


def _of_decision(decision: Decision) -> int:
    if not decision.allowed:
        return STOPPED
    return FINE if decision.action == Action.ALLOW else PRESSED


def _of_states(decision: Decision) -> int:
    states = {view.state for view in decision.views}
    if decision.reason in BLOCKED or State.STOPPED in states:
        return STOPPED
    return FINE if states <= {State.ACTIVE} else PRESSED


def _answer(decision: Decision, *, asked: bool, status: int) -> dict[str, Any]:
    about_the_call: Mapping[str, Any] = {
        "allowed": decision.allowed,
        "action": decision.action.value,
        "suggested_model": decision.model if decision.action == Action.DEGRADE else None,
        "downgrades": [{"scope": step.view.scope, "rule": _rule(step)} for step in decision.downgrades],
        "disabled_tools": list(decision.disabled_tools),
    }
    reason = decision.reason.value if asked or decision.reason in BLOCKED else ""
    return {
        **(about_the_call if asked else {}),
        "reason": reason or None,
        "status": ("ok", "pressed", "stopped")[status],
        "budgets": [_row(view) for view in decision.views],
    }


def _rule(step: Downgrade) -> str:
    """As people type it, with the share from which it counts."""
    rule = {"from": sorted(step.rule.sources), "to": step.rule.to, "at": f"{step.share_e4 / 10_000:g}"}
    return policy.to_text("downgrade_rules", [rule])


def _row(view: WindowView) -> dict[str, Any]:
    amounts = (view.settled_nanos, view.reserved_nanos, view.limit_nanos, view.remaining_nanos)
    spent, reserved, limit, rest = (money.format_dollars(nanos) for nanos in amounts)
    resets_at = view.ends_at.isoformat(timespec="seconds") if view.ends_at else None
    return dict(
        zip(COLUMNS, (view.scope, view.kind, view.state.value, spent, reserved, limit, rest, resets_at), strict=True)
    )
