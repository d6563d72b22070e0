"""/api/spend/forecast: when a budget runs out, with the interval that eight in ten forecasts end in."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.api.fields import Dollars, Id, Name, Query
from governance.api.permissions import EVERYONE
from governance.api.views import ControlView
from governance.models import Budget
from governance.queries import budget_status, forecasts
from governance.queries.forecasts import Outlook
from governance.rules.errors import OverBound
from governance.rules.forecast import Basis

# Each is reckoned while the caller waits.
MOST = 20
AMOUNTS = ("spent", "limit", "expected", "low", "high")


class ForecastQuery(Query):
    budget = Id(required=False, help_text="A budget's id; else all that the reader may see.")
    tenant = Name("tenant", required=False)


class ForecastBody(serializers.Serializer[Any]):
    """What becomes of a budget's current window, by the usual hours before it.

    `runs_out_at` is null where the money lasts; `earliest` and `latest` are when it would run out if more or less is
    spent than expected, null where it then lasts. `expected`, `low` and `high` are what will have been spent at
    `until`: the window's end, or sixty days from now. `basis` is null, and so is the rest, where too little is known.
    """

    budget = serializers.IntegerField()
    scope = serializers.CharField()
    window = serializers.CharField()
    subject = serializers.CharField()
    spent = Dollars(allow_null=True)
    limit = Dollars(allow_null=True)
    resets_at = serializers.DateTimeField(allow_null=True)
    basis = serializers.ChoiceField(choices=[each.value for each in Basis], allow_null=True)
    runs_out_at = serializers.DateTimeField(allow_null=True)
    earliest = serializers.DateTimeField(allow_null=True)
    latest = serializers.DateTimeField(allow_null=True)
    until = serializers.DateTimeField(allow_null=True)
    expected = Dollars(allow_null=True)
    low = Dollars(allow_null=True)
    high = Dollars(allow_null=True)


class ForecastsBody(serializers.Serializer[Any]):
    results = ForecastBody(many=True)


class SpendForecast(ControlView):
    acts_on = "governance.budget"
    roles = {"GET": EVERYONE}
    refuses = {"GET": (422,)}

    @extend_schema(operation_id="spend_forecast", parameters=[ForecastQuery], responses=ForecastsBody)
    def get(self, request: Request) -> Response:
        """Of one budget, or of those in force that the reader may see, twenty at most."""
        asked = self.valid(ForecastQuery, request.query_params.dict())
        rows = budget_status.readable_budgets(self.by.reader)
        if "budget" in asked:
            found = [self.one(rows, pk=asked["budget"])]
        else:
            where = Q(tenant__slug=asked["tenant"]) if "tenant" in asked else Q()
            found = list(rows.filter(where, enabled=True)[: MOST + 1])
            if len(found) > MOST:
                raise OverBound("budget", f"must be named where there are more than {MOST} budgets.")
        now_at = budget_status.current(found, now=self.now, reader=self.by.reader)
        outlooks = [(row, forecasts.of_budget(row, now_at[row.pk], now=self.now)) for row in found]
        return Response({"results": [self._to_api(row, outlook) for row, outlook in outlooks]})

    def _to_api(self, budget: Budget, outlook: Outlook) -> dict[str, Any]:
        made, status = outlook.forecast, outlook.status
        last = made.points[-1] if made else None
        found = {
            "budget": budget.pk,
            "scope": budget.scope,
            "window": budget.window,
            "subject": status.subject,
            "spent": status.settled_nanos,
            "limit": status.limit_nanos,
            "resets_at": status.ends_at,
            "basis": made.basis.value if made else None,
            "runs_out_at": made.runs_out_at if made else None,
            "earliest": made.earliest if made else None,
            "latest": made.latest if made else None,
            "until": last.at if last else None,
            "expected": last.expected_nanos if last else None,
            "low": last.low_nanos if last else None,
            "high": last.high_nanos if last else None,
        }
        shown = dict(ForecastBody(found).data)
        sees = self.by.audience.sees_amounts(budget.scope)
        return shown if sees else shown | dict.fromkeys(AMOUNTS)
