"""Paths below /billing/, for people who pay."""

from billing import pages
from governance.api.routes import both

urlpatterns = [
    *both("topup/done", pages.topup_done, name="topup-done"),
    *both("topup/cancelled", pages.topup_cancelled, name="topup-cancelled"),
    *both("topup/<str:token>", pages.topup, name="topup"),
]
