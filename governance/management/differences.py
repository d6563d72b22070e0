"""What a command is about to change, shown before it is agreed to: a line for each thing, below it what differs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from django.core.management.base import CommandError, OutputWrapper

from governance.management.policy_tables import CHANGED, CREATED, UNCHANGED, FieldDifference
from governance.rules import policy

MARKS = {CREATED: "+", CHANGED: "~", UNCHANGED: "="}


class ShownChange(Protocol):
    """`action` is one of `MARKS`."""

    @property
    def table(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def differences(self) -> tuple[FieldDifference, ...]: ...


def lines(changes: Sequence[ShownChange]) -> Iterator[str]:
    for change in changes:
        yield f"{MARKS[change.action]} {change.name}"
        for each in change.differences:
            old = "" if change.action == CREATED else f"{_as_text(each.field, each.old)} → "
            yield f"    {each.field}: {old}{_as_text(each.field, each.new)}"


def summary(changes: Sequence[ShownChange], *, dry_run: bool) -> str:
    """ "Applied: 1 created, 2 unchanged." """
    counts = Counter(change.action for change in changes)
    if not counts[CREATED] + counts[CHANGED]:
        return "Nothing differs."
    would = "Would be applied" if dry_run else "Applied"
    return f"{would}: {', '.join(f'{counts[action]} {action}' for action in MARKS if counts[action])}."


def are_agreed_to(output: OutputWrapper, is_json: bool) -> bool:
    """Asks whoever is at the terminal. Raises CommandError where they are not."""
    if is_json or not sys.stdin.isatty():
        raise CommandError("Nothing was applied: say --yes, or --dry-run to look alone")
    output.write("Apply this? [y/N] ", ending="")
    output.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("Nothing was applied")
    return True


def to_json(changes: Sequence[ShownChange]) -> dict[str, Any]:
    counts = Counter(change.action for change in changes)
    rows = [
        {
            "table": change.table,
            "name": change.name,
            "action": change.action,
            "fields": {each.field: {"old": each.old, "new": each.new} for each in change.differences},
        }
        for change in changes
    ]
    return {"changes": rows, **{action: counts[action] for action in MARKS}}


def _as_text(field: str, value: Any) -> str:
    """A value as people write it: "$12.50", "a, b", "none"."""
    if value is None or value == [] or value == "":
        return policy.NONE
    if isinstance(value, bool):
        return str(value).lower()
    if field in ("limit", "dollars_per_minute", "usd_per_call"):
        return f"${value}"
    if field in policy.COLUMNS and isinstance(value, list):
        return policy.to_text(field, value).replace("\n", "; ")
    return str(value)
