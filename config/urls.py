"""Where everything but /v1/ is answered. Each app's paths work with and without a trailing slash."""

from django.contrib import admin
from django.http import Http404
from django.templatetags.static import static
from django.urls import include, path, re_path
from django.views.defaults import page_not_found
from django.views.generic import RedirectView

from config import health_api, unknown_paths
from config.metrics import metrics
from governance.api import customer_pages, raise_pages, report_pages
from governance.api.errors import unknown_path
from governance.api.routes import both

handler400 = "config.unknown_paths.bad_request"
handler404 = "config.unknown_paths.unknown"
handler500 = "config.unknown_paths.failed"

urlpatterns = [
    # No text in the database has a NUL, and PostgreSQL would not even look.
    re_path("^api/[^\0]*\0", unknown_path),
    re_path("^(?:admin|billing|customers|raises|reports)/[^\0]*\0", page_not_found, {"exception": Http404()}),
    path("", unknown_paths.root),
    path("admin", unknown_paths.root),
    # Stripe runs' former address, for bookmarks.
    re_path(
        r"^admin/billing/stripecheck/(?P<rest>.*)$",
        RedirectView.as_view(url="/admin/billing/striperun/%(rest)s", query_string=True),
    ),
    path("admin/", admin.site.urls),
    path("metrics", metrics, name="metrics"),
    path("metrics/", metrics),
    path("billing/", include("billing.api.topup_urls")),
    *both("reports/unsubscribe/<str:token>", report_pages.unsubscribe, name="report-unsubscribe"),
    *both("customers/<str:token>", customer_pages.show, name="customer-page"),
    *both("raises/<str:token>", raise_pages.ask, name="raise-ask"),
    # Browsers ask for it on pages that name no icon.
    path("favicon.ico", RedirectView.as_view(url=static("governance/icon.svg"))),
]
urlpatterns.append(
    path(
        "api/",
        include(
            [
                *both("health", health_api.Health.as_view(), name="health"),
                *both("health/live", health_api.Live.as_view(), name="health-live"),
                *both("health/ready", health_api.Ready.as_view(), name="health-ready"),
            ]
        ),
    )
)
for module in ("governance.api.urls", "llm.api.urls", "billing.urls"):
    urlpatterns.append(path("api/", include(module)))
urlpatterns.append(re_path(r"^api(?:/|$)", unknown_path))
urlpatterns.append(re_path("", unknown_paths.unknown))
