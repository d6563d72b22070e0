"""Paths below /api/."""

from governance.api.routes import both
from llm.api import models, prices, route, tools

urlpatterns = [
    *both("models", models.Models.as_view(), name="models"),
    *both("models/<path:id>/clear-overruns", models.ClearOverruns.as_view(), name="model-clear-overruns"),
    # An id may hold a slash: openai/gpt-5.
    *both("models/<path:id>", models.OneModel.as_view(), name="model"),
    *both("prices", prices.Prices.as_view(), name="prices"),
    *both("prices/<int:id>", prices.OnePrice.as_view(), name="price"),
    *both("prices/<int:id>/correct", prices.PriceCorrect.as_view(), name="price-correct"),
    *both("tools", tools.Tools.as_view(), name="tools"),
    *both("llm/route", route.RouteView.as_view(), name="llm-route"),
]
