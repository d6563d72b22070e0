"""What the audit trail and a budget's events say, as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from governance.console import display
from governance.console.percents import percent
from governance.models import AuditEntry, BudgetEvent
from governance.rules import policy

# What people call the fields of a budget.
FIELDS = {
    "limit_nanos": "limit",
    "soft_cap": "soft cap",
    "hard_cap": "hard cap",
    "warn_at": "warning",
    "alert_thresholds": "alert thresholds",
    "downgrade_rules": "downgrade rules",
    "disabled_tools": "disabled tools",
    "clamp": "clamp",
    "clamp_min_tokens": "fewest tokens of a clamp",
    "carry_over": "carried over",
    "enabled": "in force",
}
SHARES = ("soft_cap", "hard_cap", "warn_at")
ACTS = {
    "budget.create": "made it",
    "budget.change": "changed",
    "budget.disable": "took it out of force",
    "budget.delete": "deleted it",
    "budget.raise": "raised the limit",
    "budget.top_up": "topped it up",
    "budget.allowance_end": "ended what it was given in addition",
    "budget.reset": "reset it",
    "budget.close": "closed it",
}


def of_audit(row: AuditEntry) -> SafeString | str:
    """What was done to a budget: "changed limit $50.00 → $75.00, soft cap 80% → 60%"."""
    words = ACTS.get(row.action, row.action.partition(".")[2].replace("_", " "))
    old, new = row.old or {}, row.new or {}
    if row.action == "budget.create":
        return format_html("{}: limit {}", words, value("limit_nanos", new.get("limit_nanos")))
    if row.action in ("budget.raise", "budget.top_up"):
        return format_html("{} by {}", words, given(new))
    if row.action == "budget.change":
        return format_html("{} {}", words, differences(old, new))
    return words


def given(new: Mapping[str, Any]) -> SafeString:
    """What a raise or a top-up gives: "$5.00 until Fri, Dec 4, 18:00"."""
    until = new.get("ends_at")
    lasting = format_html(" until {}", display.moment(datetime.fromisoformat(until), "day")) if until else ""
    return format_html("{}{}", display.dollars(new.get("amount_nanos")), lasting)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> SafeString | str:
    """Each field that differs, with what it was and what it became."""
    found = list(differing(old, new))
    return format_html_join(", ", "{} <del>{}</del> → <ins>{}</ins>", found) if found else "nothing"


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(what, before, after) of each field that differs."""
    # PostgreSQL keeps no order of its own.
    said = {**old, **new}
    for name in [*(name for name in FIELDS if name in said), *sorted(said.keys() - FIELDS.keys())]:
        before, after = value(name, old.get(name)), value(name, new.get(name))
        if before != after:
            yield FIELDS.get(name, name.removesuffix("_nanos").replace("_", " ")), before, after


def value(name: str, kept: Any) -> str:
    """A budget's field as people read it: dollars, percent, rules."""
    if name in (*policy.COLUMNS, "carry_over") and kept in (None, [], ""):
        return "none"
    if kept is None:
        return "–"
    if name.endswith("_nanos"):
        return display.dollars(kept)
    if name == "carry_over":
        return f"at most {kept}" if kept.endswith("%") else f"at most ${kept}"
    if name in SHARES:
        return shown(kept)
    if name == "alert_thresholds":
        return ", ".join(map(shown, kept))
    if name == "downgrade_rules":
        return "; ".join(_rule(each) for each in kept)
    if isinstance(kept, bool):
        return "yes" if kept else "no"
    if isinstance(kept, dict):
        return ", ".join(f"{key} {value(key, part)}" for key, part in kept.items()) or "none"
    return ", ".join(map(str, kept)) or "none" if isinstance(kept, list) else str(kept)


def shown(share: Decimal | str) -> str:
    """A share in percent, in one word."""
    return f"{percent(share)}%"


def _rule(kept: Mapping[str, Any]) -> str:
    at = f" from {shown(kept['at'])}" if kept.get("at") else ""
    return f"{', '.join(kept['from'])} → {kept['to']}{at}"


def of_events(rows: Sequence[BudgetEvent]) -> str:
    """What happened to a window: "reached 50%, 80% of its limit", "active → warned". Several are thresholds."""
    row = rows[0]
    if row.kind == BudgetEvent.Kind.THRESHOLD_BREACH:
        shares = sorted(Decimal(each.threshold) for each in rows)
        return f"reached {', '.join(map(shown, shares))} of its limit"
    if row.kind == BudgetEvent.Kind.HARD_STOP:
        return "stopped calls"
    if row.kind == BudgetEvent.Kind.BUDGET_RESET:
        return "reset it"
    return f"went from {row.old_state} to {row.new_state}"
