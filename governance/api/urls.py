"""Paths under /api/ that are governance's."""

from typing import Any

from drf_spectacular.views import SpectacularRedocView, SpectacularSwaggerSplitView

from governance.api import (
    allowances,
    budgets,
    corrections,
    decisions,
    document,
    rate_limits,
    reconciliation,
    refusals,
    reservations,
    reviews,
    spend,
    spend_rate,
    stops,
    tenants,
)
from governance.api.routes import both

OPEN: dict[str, Any] = {"authentication_classes": [], "permission_classes": []}

urlpatterns = [
    *both("schema", document.Document.as_view(**OPEN), name="schema"),
    *both("docs", SpectacularSwaggerSplitView.as_view(url_name="schema", **OPEN), name="docs"),
    *both("redoc", SpectacularRedocView.as_view(url_name="schema", **OPEN), name="redoc"),
    *both("budgets", budgets.Budgets.as_view(), name="budgets"),
    *both("budgets/<int:id>", budgets.OneBudget.as_view(), name="budget"),
    *both("budgets/<int:id>/reset", budgets.BudgetReset.as_view(), name="budget-reset"),
    *both("budgets/<int:id>/windows", budgets.BudgetWindows.as_view(), name="budget-windows"),
    *both("budgets/<int:id>/events", budgets.BudgetEvents.as_view(), name="budget-events"),
    *both("budgets/<int:id>/allowances", allowances.Allowances.as_view(), name="budget-allowances"),
    *both("allowances/<int:id>/end", allowances.AllowanceEnd.as_view(), name="allowance-end"),
    *both("decisions", decisions.Decisions.as_view(), name="decisions"),
    *both("reconciliation", reconciliation.Reconciliation.as_view(), name="reconciliation"),
    *both("refusals", refusals.Refusals.as_view(), name="refusals"),
    *both("refusals/<str:request_id>", refusals.OneRefusal.as_view(), name="refusal"),
    *both("reservations", reservations.Reservations.as_view(), name="reservations"),
    *both("reservations/<uuid:id>", reservations.OneReservation.as_view(), name="reservation"),
    *both("reservations/<uuid:id>/settle", reservations.ReservationSettle.as_view(), name="reservation-settle"),
    *both("reservations/<uuid:id>/extend", reservations.ReservationExtend.as_view(), name="reservation-extend"),
    *both("reservations/<uuid:id>/release", reservations.ReservationRelease.as_view(), name="reservation-release"),
    *both("spend", spend.Spend.as_view(), name="spend"),
    *both("spend/rate", spend_rate.SpendRate.as_view(), name="spend-rate"),
    *both("spend/summary", spend.SpendSummary.as_view(), name="spend-summary"),
    *both("spend/reviews", reviews.Reviews.as_view(), name="spend-reviews"),
    *both("spend/reviews/<uuid:id>", reviews.OneReview.as_view(), name="spend-review"),
    *both("spend/reviews/<uuid:id>/accept", reviews.ReviewAccept.as_view(), name="spend-review-accept"),
    *both("spend/reviews/<uuid:id>/reject", reviews.ReviewReject.as_view(), name="spend-review-reject"),
    *both("spend/<uuid:id>/confirm", corrections.SpendConfirm.as_view(), name="spend-confirm"),
    *both("spend/<uuid:id>/void", corrections.SpendVoid.as_view(), name="spend-void"),
    *both("spend/<uuid:id>/correct", corrections.SpendCorrect.as_view(), name="spend-correct"),
    *both("stops", stops.Stops.as_view(), name="stops"),
    *both("stops/<int:id>", stops.OneStop.as_view(), name="stop"),
    *both("stops/<int:id>/lift", stops.StopLift.as_view(), name="stop-lift"),
    *both("rate-limits", rate_limits.RateLimits.as_view(), name="rate-limits"),
    *both("rate-limits/<int:id>", rate_limits.OneRateLimit.as_view(), name="rate-limit"),
    *both("tenants", tenants.Tenants.as_view(), name="tenants"),
    *both("tenants/<slug:slug>", tenants.OneTenant.as_view(), name="tenant"),
    *both("tenants/<slug:slug>/pause", tenants.TenantPause.as_view(), name="tenant-pause"),
    *both("tenants/<slug:slug>/resume", tenants.TenantResume.as_view(), name="tenant-resume"),
    *both("agents", tenants.Agents.as_view(), name="agents"),
    *both("agents/<int:id>", tenants.OneAgent.as_view(), name="agent"),
    *both("agents/<int:id>/pause", tenants.AgentPause.as_view(), name="agent-pause"),
    *both("agents/<int:id>/resume", tenants.AgentResume.as_view(), name="agent-resume"),
    *both("keys", tenants.Keys.as_view(), name="keys"),
    *both("keys/<int:id>", tenants.OneKey.as_view(), name="key"),
    *both("keys/<int:id>/revoke", tenants.KeyRevoke.as_view(), name="key-revoke"),
    *both("keys/<int:id>/rotate", tenants.KeyRotate.as_view(), name="key-rotate"),
]
