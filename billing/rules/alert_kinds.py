"""What the kinds of alerts that billing reports mean to people. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from governance.rules.alert_kinds import AlertKind
from governance.rules.alerting import Area


def _kind(title: str, page: str, advice: str = "", button: str = "See it in the console") -> AlertKind:
    return AlertKind(title, Area.BILLING, page, advice, button)


_CUSTOMERS, _USAGE = "billing_billingaccount_changelist", "billing_meterevent_changelist"
_UNBOUND, _STRIPE, _PLANS = "unbound", "stripe-health", "billing_plan_changelist"

KINDS: Mapping[str, AlertKind] = {
    "dead_letter": _kind(
        "An event of Stripe's was given up",
        "billing_stripeevent_changelist",
        "Mend what its row says, then replay it.",
        "Replay the event",
    ),
    "stripe_events_missed": _kind("Stripe's webhooks were lost", _STRIPE, "They have been fetched since."),
    "stripe_endpoint": _kind("Stripe's webhook endpoint is wrong", _STRIPE, "Run stripe_setup."),
    "invoice_not_finalized": _kind("Stripe cannot finish an invoice", "billing_invoice_changelist"),
    "checkout_without_customer": _kind("Somebody paid, and nobody knows for whom", _UNBOUND, button="Bind the payment"),
    "topup_checkout": _kind("Nobody can buy a top-up", _STRIPE, "See STRIPE_TOPUP_PRICE."),
    "meter_event_failed": _kind("Stripe refuses usage", _USAGE, button="See the usage outbox"),
    "meter_mismatch": _kind("Stripe counts another usage", _USAGE, button="See the usage outbox"),
    "meter_missing": _kind("Stripe has no such meter", _STRIPE, "Make the meter at Stripe; usage waits."),
    "meter_error": _kind("Stripe could not count usage", "billing_metererrorreport_changelist"),
    "unmapped_plan": _kind("A plan is unknown", _PLANS, button="Map the price to a plan"),
    "no_default_plan": _kind("There is no default plan", _PLANS, button="Choose a default plan"),
    "invalid_metadata": _kind("Stripe's metadata cannot be used", _CUSTOMERS),
    "no_exchange_rate": _kind("A currency has no rate", _CUSTOMERS, "See STRIPE_EXCHANGE_RATES."),
    "disputed": _kind("A payment is in dispute", "billing_payment_changelist"),
    "refunded": _kind("A payment was refunded", "billing_payment_changelist"),
    "partial_refund": _kind("A payment was refunded in part", "billing_payment_changelist"),
    "credit_undone": _kind("A customer paid with credit that is no money", "billing_payment_changelist"),
    "tenant_taken": _kind("Two customers pay for one tenant", _UNBOUND, button="Decide who pays"),
    "unknown_tenant": _kind("A Stripe customer is bound to nobody", _UNBOUND, button="Bind the customer"),
    "unproven_claim": _kind("A Stripe customer is bound to nobody", _UNBOUND, button="Bind or dismiss the claim"),
    "tenant_has_budgets": _kind("A customer pays, and has budgets of its own", _UNBOUND, button="Decide what counts"),
    "names_another_tenant": _kind("A Stripe customer names another tenant", _UNBOUND, button="Decide for whom it pays"),
}
