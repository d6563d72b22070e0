"""Which page of the console each model of this app has; the console's site loads this list."""

from django.contrib import admin

from governance.console import (
    alert_channel_pages,
    alert_pages,
    anomaly_pages,
    budget_admins,
    entry_admins,
    ledger_admins,
    limit_admins,
    refusal_admins,
    review_admins,
    tenancy_admins,
)
from governance.models import (
    Agent,
    Alert,
    AlertChannel,
    AlertDelivery,
    Allowance,
    Anomaly,
    AnomalyRule,
    ApiKey,
    AuditEntry,
    Budget,
    BudgetEvent,
    BudgetWindow,
    EmergencyStop,
    LedgerCheck,
    LedgerJudgement,
    PendingReport,
    RateLimit,
    RefusedCall,
    Reservation,
    SpendEntry,
    SpendRollup,
    Tenant,
)

ADMINS = {
    Budget: budget_admins.BudgetAdmin,
    BudgetWindow: budget_admins.BudgetWindowAdmin,
    BudgetEvent: budget_admins.BudgetEventAdmin,
    Allowance: budget_admins.AllowanceAdmin,
    RateLimit: limit_admins.RateLimitAdmin,
    EmergencyStop: limit_admins.EmergencyStopAdmin,
    RefusedCall: refusal_admins.RefusalAdmin,
    SpendEntry: entry_admins.SpendEntryAdmin,
    PendingReport: review_admins.PendingReportAdmin,
    Reservation: ledger_admins.ReservationAdmin,
    SpendRollup: ledger_admins.SpendRollupAdmin,
    LedgerCheck: ledger_admins.LedgerCheckAdmin,
    LedgerJudgement: ledger_admins.LedgerJudgementAdmin,
    AuditEntry: ledger_admins.AuditEntryAdmin,
    Alert: alert_pages.AlertAdmin,
    AlertChannel: alert_channel_pages.AlertChannelAdmin,
    AlertDelivery: alert_channel_pages.AlertDeliveryAdmin,
    Anomaly: anomaly_pages.AnomalyAdmin,
    AnomalyRule: anomaly_pages.AnomalyRuleAdmin,
    Tenant: tenancy_admins.TenantAdmin,
    Agent: tenancy_admins.AgentAdmin,
    ApiKey: tenancy_admins.ApiKeyAdmin,
}
for model, admin_class in ADMINS.items():
    admin.site.register(model, admin_class)
