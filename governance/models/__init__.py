"""Tables of the governance app. Money tables are written by `governance.ledger` alone."""

from governance.models.budgets import Budget, BudgetWindow, ScopeType
from governance.models.events import AuditEntry, BudgetEvent
from governance.models.spend import Reservation, SpendEntry, SpendRollup
from governance.models.tenancy import Agent, ApiKey, Tenant

__all__ = [
    "Agent",
    "ApiKey",
    "AuditEntry",
    "Budget",
    "BudgetEvent",
    "BudgetWindow",
    "Reservation",
    "ScopeType",
    "SpendEntry",
    "SpendRollup",
    "Tenant",
]
