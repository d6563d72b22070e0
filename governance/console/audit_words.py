"""What a row of the audit trail says, as a sentence, and what it links to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from django.db.models import Model
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from governance.console import changes
from governance.models import Agent, ApiKey, AuditEntry, Tenant

# By the whole action, or by what is done, whatever it is done to.
DONE: Mapping[str, str] = {
    "accept": "accepted",
    "acknowledge": "acknowledged",
    "add": "added",
    "adopt": "took over",
    "apply_now": "applied plans to",
    "approve": "approved a raise of",
    "ask": "asked for more of",
    "begin": "began",
    "bind": "bound",
    "change": "changed",
    "clear": "cleared",
    "confirm": "confirmed the cost of",
    "correct": "corrected",
    "create": "made",
    "decline": "declined a raise of",
    "delete": "deleted",
    "disable": "took out of force",
    "dismiss": "let go",
    "end": "ended",
    "extend": "extended",
    "issue": "issued",
    "lift": "lifted the stop of",
    "pause": "paused",
    "purge": "deleted what was kept of",
    "reject": "rejected",
    "release": "released",
    "remove": "removed",
    "renew_codes": "made new recovery codes for",
    "repair": "repaired",
    "replay": "sent again",
    "reprice": "priced anew",
    "reset": "reset",
    "restore": "restored",
    "resume": "resumed",
    "retry": "tried again",
    "revoke": "revoked",
    "rotate": "rotated",
    "settle": "settled",
    "start": "stopped",
    "status": "changed",
    "suspend": "suspended",
    "take_over": "took over",
    "test": "sent a test to",
    "try": "sent a test call with",
    "undo": "undid",
    "unlock": "unlocked",
    "unsuspend": "lifted the suspension of",
    "void": "voided",
    "billing.override": "took over the budgets of",
    "billing.process_again": "had handled again",
    "billing.refer": "named the payer of",
    "billing.set_up_endpoint": "set up the webhook endpoint",
    "budget.allowance_end": "ended what was given in addition to",
    "budget.raise": "raised",
    "budget.top_up": "topped up",
    "page_link.make": "made a link to the read-only page of",
    "page_link.end": "took back a link to the read-only page of",
    "page_link.end_all": "took back all links to the read-only page of",
    "price.add": "priced",
    "report.send_test": "sent a test report to",
    "second_factor.remove": "removed the second factor of",
    "second_factor.set_up": "set up the second factor of",
    "spend.report": "reported spend of",
    "tenant.import": "brought over",
    "user.grant": "changed what may be done by",
    "user.password": "set the password of",
}
# Of these the target is a name alone.
NOUNS: Mapping[str, str] = {
    "budget": "budget",
    "model": "model",
    "modelalias": "alias",
    "overrun": "budget",
    "plan": "plan",
    "price": "model",
    "provider": "provider",
    "raise": "budget",
    "rate_limit": "rate limit",
}
CHANGED = ("change", "grant", "rename", "status")


def sentence(row: AuditEntry) -> SafeString:
    """What was done to what: "changed budget acme per month: soft cap 80% → 60%". Who did it stands beside it."""
    kind, _, act = row.action.partition(".")
    done = DONE.get(row.action) or DONE.get(act) or act.replace("_", " ")
    noun = NOUNS.get(kind, "")
    told = "" if not noun or row.target.startswith(f"{noun} ") or act == "apply_now" else f"{noun} "
    return format_html("{} {}<bdi>{}</bdi>{}", done, told, row.target, _figures(row, act))


def _figures(row: AuditEntry, act: str) -> SafeString | str:
    old, new = row.old or {}, row.new or {}
    if act in CHANGED:
        return format_html(": {}", changes.differences(old, new))
    if row.action in ("budget.raise", "budget.top_up"):
        # "raised the limit by $5.00 until Friday", of which the budget's page has its own first words.
        return format_html(" by {}", changes.given(new))
    if row.action == "budget.create":
        return format_html(": limit {}", changes.value("limit_nanos", new.get("limit_nanos")))
    if row.action == "key.issue" and new.get("role"):
        return f" of the role {new['role']}"
    return ""


def kept(row: AuditEntry) -> list[tuple[str, str, str]]:
    """All that differs, or was there at one end alone: (what, before, after)."""
    return list(changes.differing(row.old or {}, row.new or {}))


# What a target begins with, and the row that it names.
OBJECTS: Mapping[str, Callable[[str], Model | None]] = {
    "tenant": lambda name: Tenant.objects.filter(slug=name).first(),
    "agent": lambda name: Agent.objects.filter(
        tenant__slug=name.partition("/")[0], slug=name.partition("/")[2]
    ).first(),
    "key": lambda name: ApiKey.objects.filter(prefix=name).first(),
}


def link(row: AuditEntry) -> str:
    """The page of what was acted on, where that is known by its name; empty otherwise."""
    kind, _, name = row.target.partition(" ")
    found = OBJECTS[kind](name) if kind in OBJECTS else None
    return reverse(f"admin:governance_{found._meta.model_name}_change", args=[found.pk]) if found else ""
