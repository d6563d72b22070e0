"""What an account's reasons tell a person: alerts that are raised when they come, and over when they go."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from billing.accounts import binding
from billing.models import BillingAccount
from governance import alerts

# Reasons that need a person: how grave they are, and what is said.
ALERTS = {
    "unmapped_plan": (
        "warning",
        "No plan or metadata says what the prices of {customer} are worth ({tenant}): the default plan's limit holds.",
    ),
    "no_default_plan": ("critical", "Prices of {customer} ({tenant}) are unmapped, and there is no default plan."),
    "invalid_metadata": (
        "warning",
        "Stripe's metadata of {customer} ({tenant}) has no usable {detail}; what held before holds on.",
    ),
    "no_exchange_rate": (
        "warning",
        "{customer} ({tenant}) pays in {detail}, which STRIPE_EXCHANGE_RATES does not "
        "name: its share of revenue counts as nothing.",
    ),
    "disputed": (
        "critical",
        "A payment of {customer} ({tenant}) is in dispute: what is in dispute pays for no budget, beyond what is used.",
    ),
    "refunded": (
        "warning",
        "A payment of {customer} ({tenant}) was refunded: what it paid for allows no more than what is used.",
    ),
    "partial_refund": ("info", "A payment of {customer} ({tenant}) was refunded in part; its budget is unchanged."),
    "credit_undone": (
        "warning",
        "{customer} ({tenant}) paid with credit for what was refunded or never paid, which allows nothing: take what is"
        " left of its balance away.",
    ),
    "tenant_taken": ("warning", "{customer} names the tenant {detail}, which another customer pays for already."),
    "unknown_tenant": ("warning", "{customer} names the tenant {detail}, which does not exist."),
    "unproven_claim": (
        "warning",
        "Whoever paid as {customer} named the tenant {detail}, and nothing of ours did: bind or dismiss it.",
    ),
    "tenant_has_budgets": (
        "warning",
        "{customer} names the tenant {detail}, which has budgets of its own: its subscriptions count once an operator "
        "says so in the console.",
    ),
    "names_another_tenant": (
        "warning",
        "{customer} pays for {tenant}, and Stripe's objects name the tenant {detail} by now: an operator decides.",
    ),
}


def tell(account: BillingAccount, reasons: list[str], *, now: datetime) -> None:
    """Raise and clear the alerts of what has changed; `account` has the reasons of before."""
    before, after = _alerting(account.reasons), _alerting(reasons)
    for code in sorted(after - before):
        kind, _, detail = code.partition(":")
        severity, message = ALERTS[kind]
        words = message.format(customer=account, tenant=account.tenant or "no tenant", detail=detail)
        subject = f"{account} {detail}".strip()
        alerts.report(kind=kind, subject=subject, message=words, severity=severity, tenant=account.tenant_id, now=now)
    for code in sorted(before - after):
        kind, _, detail = code.partition(":")
        alerts.clear(kind=kind, subject=f"{account} {detail}".strip(), now=now)


def _alerting(reasons: Collection[str]) -> set[str]:
    """The reasons that need a person. What a customer without a tenant would get matters once it has one."""
    unbound = {code for code in reasons if code.partition(":")[0] in binding.UNBOUND}
    return {code for code in unbound or reasons if code.partition(":")[0] in ALERTS}
