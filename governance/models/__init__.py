"""Tables of the governance app. Money tables are written by `governance.ledger` alone."""

from governance.models.alerts import Alert, AlertChannel, AlertDelivery, AlertNotice
from governance.models.anomalies import Anomaly, AnomalyRule, BudgetForecast, FailedCalls
from governance.models.budgets import Allowance, Budget, BudgetAct, BudgetWindow, ScopeType
from governance.models.events import AuditEntry, BudgetEvent, LedgerCheck, LedgerJudgement
from governance.models.idempotency import KeptAnswer
from governance.models.jobs import Job
from governance.models.limits import EmergencyStop, Overrun, RateBucket, RateLimit, RuleChange
from governance.models.page_links import PageLink
from governance.models.raises import RaiseRequest
from governance.models.refusals import RefusedCall
from governance.models.report_mails import ReportMail, ReportSubscription
from governance.models.reports import PendingReport
from governance.models.saved_views import SavedView
from governance.models.spend import PurgedSpend, Reservation, SpendEntry, SpendRollup
from governance.models.tenancy import Agent, ApiKey, Tenant, TenantStaff

__all__ = [
    "Agent",
    "Alert",
    "AlertChannel",
    "AlertDelivery",
    "AlertNotice",
    "Allowance",
    "Anomaly",
    "AnomalyRule",
    "ApiKey",
    "AuditEntry",
    "Budget",
    "BudgetAct",
    "BudgetEvent",
    "BudgetForecast",
    "BudgetWindow",
    "EmergencyStop",
    "FailedCalls",
    "Job",
    "KeptAnswer",
    "LedgerCheck",
    "LedgerJudgement",
    "Overrun",
    "PageLink",
    "PendingReport",
    "PurgedSpend",
    "RaiseRequest",
    "RateBucket",
    "RateLimit",
    "RefusedCall",
    "ReportMail",
    "ReportSubscription",
    "Reservation",
    "RuleChange",
    "SavedView",
    "ScopeType",
    "SpendEntry",
    "SpendRollup",
    "Tenant",
    "TenantStaff",
]
