"""Which page of the console each model of this app has; the console's site loads this list."""

from django.contrib import admin

from billing.console import account_admins, inbox_admin, plan_admin, stripe_admins, usage_admins
from billing.models import (
    BillingAccount,
    BillingPeriod,
    CatalogEntry,
    Invoice,
    MeterErrorReport,
    MeterEvent,
    OutboundRequest,
    Payment,
    Plan,
    StripeEvent,
    StripeRun,
    Subscription,
    TopUp,
    UsageMeter,
)

ADMINS = {
    Plan: plan_admin.PlanAdmin,
    BillingAccount: account_admins.BillingAccountAdmin,
    TopUp: account_admins.TopUpAdmin,
    BillingPeriod: account_admins.BillingPeriodAdmin,
    Subscription: stripe_admins.SubscriptionAdmin,
    Invoice: stripe_admins.InvoiceAdmin,
    Payment: stripe_admins.PaymentAdmin,
    CatalogEntry: stripe_admins.CatalogEntryAdmin,
    StripeEvent: inbox_admin.StripeEventAdmin,
    StripeRun: stripe_admins.StripeRunAdmin,
    MeterEvent: usage_admins.MeterEventAdmin,
    UsageMeter: usage_admins.UsageMeterAdmin,
    MeterErrorReport: usage_admins.MeterErrorReportAdmin,
    OutboundRequest: usage_admins.OutboundRequestAdmin,
}
for model, admin_class in ADMINS.items():
    admin.site.register(model, admin_class)
