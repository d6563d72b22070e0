"""The event types we ask Stripe for. Pure.

Never `invoice.created`: an answer other than 2xx to it delays the finalising of invoices by up to 72 hours.
"""

from __future__ import annotations

SNAPSHOTS = frozenset(
    {
        "checkout.session.completed",
        "customer.updated",
        "customer.deleted",
        "customer.subscription.created",
        "customer.subscription.updated",
        "customer.subscription.deleted",
        "customer.subscription.paused",
        "customer.subscription.resumed",
        "customer.subscription.trial_will_end",
        "customer.subscription.pending_update_applied",
        "customer.subscription.pending_update_expired",
        "invoice.paid",
        "invoice.payment_succeeded",
        "invoice.payment_failed",
        "invoice.payment_action_required",
        "invoice.finalization_failed",
        "invoice.overdue",
        "invoice.voided",
        "invoice.marked_uncollectible",
        "charge.refunded",
        "refund.failed",
        "credit_note.created",
        "charge.dispute.created",
        "charge.dispute.closed",
        "charge.dispute.funds_reinstated",
        "product.updated",
        "price.updated",
        "entitlements.active_entitlement_summary.updated",
    }
)
# Without their data, which is fetched: they come from an event destination, not from the endpoint.
THIN = frozenset({"v1.billing.meter.error_report_triggered"})
