"""Paths below /api/."""

from billing.api import margin, references
from billing.api import plans as api
from billing.api.webhook import stripe_webhook
from governance.api.routes import both

urlpatterns = [
    *both("webhooks/stripe", stripe_webhook, name="stripe-webhook"),
    *both("billing/accounts", api.Accounts.as_view(), name="billing-accounts"),
    *both("billing/references", references.References.as_view(), name="billing-references"),
    *both("billing/margin", margin.Margins.as_view(), name="billing-margin"),
    *both("plans", api.Plans.as_view(), name="plans"),
    *both("plans/<int:id>", api.OnePlan.as_view(), name="plan"),
]
