"""The operators' console: the admin site, its sidebar and its first page."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.apps import apps
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.sites import UnfoldAdminSite

from config.console import queries
from governance.console.pages import ConsolePage

# (group, its items: model label -> title and icon). A model that no app registers is left out.
GROUPS: tuple[tuple[str, dict[str, tuple[str, str]]], ...] = (
    (
        "Budgets",
        {
            "governance.budget": ("Budgets", "savings"),
            "governance.budgetwindow": ("Windows", "date_range"),
            "governance.budgetevent": ("Events", "notifications_active"),
            "governance.allowance": ("Raises & top-ups", "add_card"),
            "governance.ratelimit": ("Rate limits", "speed"),
            "governance.emergencystop": ("Emergency stops", "emergency_home"),
            "governance.refusedcall": ("Refused calls", "block"),
        },
    ),
    (
        "Spend",
        {
            "governance.spendentry": ("Ledger", "receipt_long"),
            "governance.pendingreport": ("Reports to review", "rate_review"),
            "governance.reservation": ("Reservations", "hourglass_top"),
            "governance.spendrollup": ("Hourly sums", "bar_chart"),
            "governance.anomaly": ("Anomalies", "troubleshoot"),
        },
    ),
    (
        "Tenants & keys",
        {
            "governance.tenant": ("Tenants", "apartment"),
            "governance.agent": ("Agents", "smart_toy"),
            "governance.apikey": ("API keys", "key"),
        },
    ),
    (
        "Models",
        {
            "llm.model": ("Models", "neurology"),
            "llm.modelalias": ("Aliases", "alternate_email"),
            "llm.price": ("Prices", "sell"),
            "llm.providerendpoint": ("Providers", "hub"),
        },
    ),
    (
        "Billing",
        {
            "billing.plan": ("Plans", "workspace_premium"),
            "billing.billingaccount": ("Accounts", "account_balance"),
            "billing.subscription": ("Subscriptions", "autorenew"),
            "billing.invoice": ("Invoices", "request_quote"),
            "billing.payment": ("Refunds and disputes", "currency_exchange"),
            "billing.topup": ("Top-ups", "add_card"),
            "billing.billingperiod": ("Periods", "date_range"),
            "billing.stripeevent": ("Stripe inbox", "inbox"),
            "billing.striperun": ("Stripe runs", "search_check"),
            "billing.meterevent": ("Usage outbox", "outbox"),
            "billing.usagemeter": ("Usage meters", "speed"),
            "billing.metererrorreport": ("Meter errors", "running_with_errors"),
            "billing.outboundrequest": ("Requests to Stripe", "send"),
        },
    ),
    (
        "System",
        {
            "governance.alert": ("Alerts", "notification_important"),
            "governance.auditentry": ("Audit trail", "policy"),
            "governance.ledgercheck": ("Ledger checks", "fact_check"),
            "governance.ledgerjudgement": ("Judgements", "balance"),
            "governance.alertchannel": ("Alert channels", "campaign"),
            "governance.alertdelivery": ("Alert deliveries", "outgoing_mail"),
            "auth.user": ("Users", "person"),
            "auth.group": ("Roles", "shield_person"),
            "axes.accesslog": ("Sign-ins", "login"),
            "axes.accessfailurelog": ("Failed sign-ins", "no_accounts"),
            "axes.accessattempt": ("Lock-outs", "lock_clock"),
        },
    ),
)
APP_GROUPS = {"llm": "Models", "billing": "Billing"}


class ConsoleSite(UnfoldAdminSite):
    """The operators' console."""

    index_title = "Overview"

    def admin_view(self, view: queries.View, cacheable: bool = False) -> Any:
        return super().admin_view(queries.forgiving(view), cacheable)

    def extra_urls(self) -> list[URLPattern]:
        from config.console import second_factor_page, sign_in, story_page

        return [
            *(page.url(self) for page in pages()),
            path("story/<slug:step>/", self.admin_view(story_page.act), name="story-step"),
            path("login/code/", partial(sign_in.code_page, site=self), name="sign-in-code"),
            path("second-factor/", self.admin_view(partial(second_factor_page.page, site=self)), name="second-factor"),
        ]

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The password; whoever has a second factor is asked for its code next."""
        from config.console import sign_in

        try:
            answer: HttpResponse = super().login(request, extra_context)
        except sign_in.CodeNeeded as needed:
            return sign_in.go_on_to_code(request, needed.user)
        return answer

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponseBase:
        from config.console import own_password

        return own_password.page(request, self)


def pages() -> tuple[ConsolePage, ...]:
    """All pages that are no model's; in the sidebar they come before the models of their group."""
    # Not at the top: what registers models needs the site, which is being made while this module is read.
    from billing.console import margin_page, stripe_page
    from config.console import overview, story_page
    from governance.console import judgement_page

    return (overview.LIVE, judgement_page.PAGE, stripe_page.PAGE, margin_page.PAGE, story_page.PAGE)


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's DASHBOARD_CALLBACK."""
    from config.console import overview

    return context | overview.context(request, timezone.now())


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The sidebar: what is registered and what this user may see, in groups."""
    from django.contrib import admin

    registered = {model._meta.label_lower: model for model in admin.site._registry}
    groups: list[dict[str, Any]] = [
        {"title": "", "items": [{"title": "Overview", "icon": "dashboard", "link": reverse("admin:index")}]}
    ]
    for title, items in _with_the_rest(set(registered)):
        shown = [
            _item(*items[label], label)
            for label in items
            if label in registered and admin.site._registry[registered[label]].has_view_permission(request)
        ]
        first = [
            {"title": page.title, "icon": page.icon, "link": reverse(f"admin:{page.name}")}
            for page in pages()
            if page.group == title and page.permission(request)
        ]
        if first or shown:
            groups.append({"title": title, "separator": True, "items": [*first, *shown]})
    groups[-1]["items"].append({"title": "API documentation", "icon": "menu_book", "link": reverse("docs")})
    return groups


def _with_the_rest(labels: set[str]) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """The groups, with models that no group names under their app's, else under System."""
    groups = {title: dict(items) for title, items in GROUPS}
    named = {label for items in groups.values() for label in items}
    for label in sorted(labels - named):
        model = apps.get_model(label)
        group = APP_GROUPS.get(model._meta.app_label, "System")
        groups[group][label] = (str(model._meta.verbose_name_plural).capitalize(), "table_rows")
    return list(groups.items())


def _item(title: str, icon: str, label: str) -> dict[str, Any]:
    return {"title": title, "icon": icon, "link": reverse(f"admin:{label.replace('.', '_')}_changelist")}
