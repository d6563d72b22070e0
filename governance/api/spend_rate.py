"""/api/spend/rate: how fast money goes now."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.api.fields import Dollars, NameFilter, Query, Whole
from governance.api.permissions import EVERYONE
from governance.api.views import ControlView
from governance.queries import spend

LONGEST_MINUTES = 24 * 60
COLUMNS = {"tenant": "tenant__slug", "agent": "agent", "model": "model_served"}


class RateQuery(Query):
    minutes = Whole(default=15, min_value=1, max_value=LONGEST_MINUTES)
    tenant = NameFilter("tenant", required=False)
    agent = NameFilter("agent", required=False)
    model = NameFilter("model", required=False, help_text="The one that served.")


class RateBody(serializers.Serializer[Any]):
    """Settled money of the last minutes; what calls in flight hold is not in it."""

    dollars_per_minute = Dollars()
    spent = Dollars()
    calls = serializers.IntegerField()
    minutes = serializers.IntegerField()
    until = serializers.DateTimeField()


class SpendRate(ControlView):
    acts_on = "governance.spendentry"
    roles = {"GET": EVERYONE}

    @extend_schema(operation_id="spend_rate", parameters=[RateQuery], responses=RateBody)
    def get(self, request: Request) -> Response:
        """The mean over the last `minutes`, 15 unless told."""
        asked = self.valid(RateQuery, request.query_params.dict())
        minutes = asked.pop("minutes")
        where = Q(**{f"{COLUMNS[name]}__in": value for name, value in asked.items()})
        cost_nanos, calls = spend.recent(reader=self.by.reader, minutes=minutes, now=self.now, where=where)
        found = {
            "dollars_per_minute": cost_nanos // minutes,
            "spent": cost_nanos,
            "calls": calls,
            "minutes": minutes,
            "until": self.now,
        }
        return Response(RateBody(found).data)
