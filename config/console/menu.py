"""The console's menu: nine entries, and under each one the tabs of its pages and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse

from governance.console.pages import ConsolePage


@dataclass(frozen=True, slots=True)
class Section:
    """An entry of the menu. `tabs`: names of pages and labels of models, with their titles; the first one shown leads.

    A page or a model that nothing registers, or that its reader may not see, is left out.
    """

    title: str
    icon: str
    tabs: tuple[tuple[str, str], ...]
    # The app whose other models come here.
    app: str = ""


SECTIONS = (
    Section("Overview", "dashboard", (("index", "Overview"), ("story", "The story"))),
    Section(
        "Spend",
        "bar_chart",
        (
            ("spend", "Spend"),
            ("governance.spendrollup", "Hourly sums"),
            ("governance.pendingreport", "Reports to review"),
            ("judgement", "Providers' bills"),
            ("governance.anomaly", "Anomalies"),
            ("governance.anomalyrule", "What anomalies do"),
            ("advice", "Savings"),
            ("reports", "Reports by e-mail"),
        ),
    ),
    Section(
        "Calls",
        "receipt_long",
        (
            ("calls", "Calls"),
            ("governance.spendentry", "Ledger"),
            ("governance.refusedcall", "Refused"),
            ("governance.reservation", "Reservations"),
        ),
    ),
    Section(
        "Budgets",
        "savings",
        (
            ("governance.budget", "Budgets"),
            ("governance.budgetwindow", "Windows"),
            ("governance.budgetevent", "Events"),
            ("governance.allowance", "Raises and top-ups"),
            ("governance.raiserequest", "Raises asked for"),
            ("governance.ratelimit", "Rate limits"),
            ("governance.emergencystop", "Emergency stops"),
        ),
    ),
    Section(
        "Customers",
        "apartment",
        (
            ("governance.tenant", "Customers"),
            ("governance.agent", "Agents"),
            ("governance.pagelink", "Read-only pages"),
        ),
    ),
    Section("Keys", "key", (("governance.apikey", "Keys"),)),
    Section(
        "Models",
        "neurology",
        (
            ("llm.model", "Models"),
            ("tools", "Tools"),
            ("playground", "Playground"),
            ("routing", "Pool and chains"),
            ("llm.price", "Prices"),
            ("offers", "Prices elsewhere"),
            ("llm.modelalias", "Aliases"),
            ("llm.providerendpoint", "Providers"),
        ),
        app="llm",
    ),
    Section(
        "Billing",
        "account_balance",
        (
            ("stripe-health", "Stripe"),
            ("billing.stripeevent", "Inbox"),
            ("margin", "Margin"),
            ("billing.plan", "Plans"),
            ("unbound", "To bind"),
            ("billing.billingaccount", "Stripe customers"),
            ("billing.subscription", "Subscriptions"),
            ("billing.invoice", "Invoices"),
            ("billing.payment", "Refunds and disputes"),
            ("billing.topup", "Top-ups"),
            ("billing.billingperiod", "Periods"),
            ("billing.striperun", "Runs"),
            ("billing.meterevent", "Usage outbox"),
            ("billing.usagemeter", "Usage meters"),
            ("billing.metererrorreport", "Meter errors"),
            ("billing.outboundrequest", "Requests to Stripe"),
        ),
        app="billing",
    ),
    Section(
        "Settings",
        "settings",
        (
            ("settings", "Settings"),
            ("auth.user", "People"),
            ("auth.group", "Roles"),
            ("governance.alert", "Alerts"),
            ("governance.alertchannel", "Alert channels"),
            ("governance.alertdelivery", "Alert deliveries"),
            ("governance.reportsubscription", "Report readers"),
            ("governance.reportmail", "Reports sent"),
            ("governance.auditentry", "Audit trail"),
            ("governance.ledgercheck", "Ledger checks"),
            ("governance.ledgerjudgement", "Judgements"),
            ("axes.accesslog", "Sign-ins"),
            ("axes.accessfailurelog", "Failed sign-ins"),
            ("axes.accessattempt", "Lock-outs"),
            ("docs", "API documentation"),
        ),
    ),
)
# Where models come that no section names and that are of no section's app.
REST = "Settings"
# Addresses that are no page of the console's own, and who may open them is decided there.
OTHERS = ("index", "docs")


@dataclass(frozen=True, slots=True)
class Tab:
    """A page or a table as one reader sees it. `model` is the table's label, none of a page."""

    title: str
    link: str
    model: str = ""


def pages() -> tuple[ConsolePage, ...]:
    """All pages that are no model's."""
    # Not at the top: what registers models needs the site, which is being made while this module is read.
    from billing.console import margin_page, stripe_page, unbound_page
    from config.console import overview, settings_page, story_page
    from governance.console import calls_page, judgement_page, reports_page, spend_page
    from llm.console import advice_page, offers_page, playground_page, routing_page, tools_page

    return (
        overview.LIVE,
        overview.HAPPENED,
        spend_page.PAGE,
        calls_page.PAGE,
        judgement_page.PAGE,
        advice_page.PAGE,
        reports_page.PAGE,
        reports_page.MAIL,
        playground_page.PAGE,
        routing_page.PAGE,
        offers_page.PAGE,
        tools_page.PAGE,
        stripe_page.PAGE,
        margin_page.PAGE,
        unbound_page.PAGE,
        settings_page.PAGE,
        story_page.PAGE,
    )


def shown(request: HttpRequest) -> list[tuple[Section, list[Tab]]]:
    """What whoever asks may see: each section with its tabs, those without any left out.

    Worked out once for each request: a page's menu, its tabs and its head ask for it.
    """
    found: list[tuple[Section, list[Tab]]] | None = getattr(request, "_console_menu", None)
    if found is None:
        found = request._console_menu = _permitted(request)  # type: ignore[attr-defined]
    return found


def _permitted(request: HttpRequest) -> list[tuple[Section, list[Tab]]]:
    permitted = {name: _page(name) for name in OTHERS}
    permitted |= {page.name: _page(page.name) for page in pages() if page.permission(request) and not page.is_part}
    permitted |= {
        label: Tab("", reverse(f"admin:{label.replace('.', '_')}_changelist"), label)
        for label, model_admin in _registered().items()
        if model_admin.has_view_permission(request)
    }
    sections = [
        (
            section,
            [
                Tab(title, permitted[name].link, permitted[name].model)
                for name, title in [*section.tabs, *_unnamed(section)]
                if name in permitted
            ],
        )
        for section in SECTIONS
    ]
    return [(section, tabs) for section, tabs in sections if tabs]


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Unfold's SIDEBAR["navigation"]."""
    items = [
        {"title": section.title, "icon": section.icon, "link": tabs[0].link, "active": _is_at(request, tabs)}
        for section, tabs in shown(request)
    ]
    return [{"title": "", "items": items}]


def tabs(request: HttpRequest) -> list[dict[str, Any]]:
    """Unfold's TABS: a section's tabs stand over its tables, and over pages that name the section."""
    return [
        {
            "page": section.title,
            "models": [tab.model for tab in tabs if tab.model],
            "items": [{"title": tab.title, "link": tab.link, "active": _is_at(request, [tab])} for tab in tabs],
        }
        for section, tabs in shown(request)
        if len(tabs) > 1
    ]


def place(request: HttpRequest) -> tuple[Section, Tab, Tab] | None:
    """The section that the page which is asked for is in, its first tab and the page's own; None for one in none."""
    return next(
        ((section, tabs[0], tab) for section, tabs in shown(request) for tab in tabs if _is_at(request, [tab])), None
    )


def section_at(request: HttpRequest) -> str:
    """The title of the section that the page which is asked for is in; empty for one in none."""
    found = place(request)
    return found[0].title if found else ""


def _is_at(request: HttpRequest, tabs: Sequence[Tab]) -> bool:
    """Every address of the console begins with the overview's, which is at its own alone."""
    return any(
        request.path == tab.link or (request.path.startswith(tab.link) and tab.link != reverse("admin:index"))
        for tab in tabs
    )


def _page(name: str) -> Tab:
    return Tab("", reverse(name if name == "docs" else f"admin:{name}"))


def _registered() -> dict[str, admin.ModelAdmin[Any]]:
    return {model._meta.label_lower: model_admin for model, model_admin in admin.site._registry.items()}


def _unnamed(section: Section) -> list[tuple[str, str]]:
    """The models that no section names: those of the section's app, or of no section's app at all."""
    named = {name for each in SECTIONS for name, _ in each.tabs}
    models = [apps.get_model(label) for label in sorted(set(_registered()) - named)]
    apps_of_sections = {each.app for each in SECTIONS}
    return [
        (model._meta.label_lower, str(model._meta.verbose_name_plural).capitalize())
        for model in models
        if model._meta.app_label == section.app
        or (section.title == REST and model._meta.app_label not in apps_of_sections)
    ]
