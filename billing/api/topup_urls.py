"""Paths below /billing/, for people who pay."""

from billing.api import topup_pages
from governance.api.routes import both

urlpatterns = [
    *both("topup/done", topup_pages.topup_done, name="topup-done"),
    *both("topup/cancelled", topup_pages.topup_cancelled, name="topup-cancelled"),
    *both("topup/<str:token>", topup_pages.topup, name="topup"),
]
