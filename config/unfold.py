"""How the console looks and what its sidebar holds (see django-unfold's settings)."""

from typing import Any

from django.templatetags.static import static
from django.urls import reverse_lazy

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Spend Governor",
    "SITE_HEADER": "Spend Governor",
    "SITE_SUBHEADER": "Budgets of AI agents",
    "SITE_SYMBOL": "account_balance_wallet",
    "SITE_URL": None,
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "BORDER_RADIUS": "8px",
    "STYLES": [lambda request: static("console/console.css")],
    "SCRIPTS": [lambda request: static("console/console.js"), lambda request: static("console/overview.js")],
    "LOGIN": {"form": "config.console.sign_in.SignInForm"},
    "ACCOUNT": {"navigation": [{"title": "Second factor", "link": reverse_lazy("admin:second-factor")}]},
    "DASHBOARD_CALLBACK": "config.console.site.dashboard",
    "SIDEBAR": {
        "show_search": True,
        "command_search": False,
        "show_all_applications": False,
        "navigation": "config.console.menu.navigation",
    },
    "TABS": "config.console.menu.tabs",
    # Teal for what is spent and for every act; amber and red are left to states.
    "COLORS": {
        "primary": {
            "50": "oklch(97.9% .013 183)",
            "100": "oklch(95.1% .035 183)",
            "200": "oklch(90.6% .07 182)",
            "300": "oklch(84.6% .105 181)",
            "400": "oklch(75.5% .125 182)",
            "500": "oklch(65.5% .115 183)",
            "600": "oklch(51.5% .095 184)",
            "700": "oklch(47% .085 185)",
            "800": "oklch(40.5% .068 186)",
            "900": "oklch(35.5% .055 187)",
            "950": "oklch(25% .042 189)",
        },
    },
}
