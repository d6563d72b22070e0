"""Paths below /api/."""

from governance.api.routes import both
from llm.api import route

urlpatterns = [
    *both("llm/route", route.Route.as_view(), name="llm-route"),
]
