"""/api/raises: what agents' owners ask for from the links of refused calls, and an operator's word on it."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.actions import raises
from governance.api.fields import Act, Dollars, NameFilter, PeriodQuery, Strict, looked_for
from governance.api.permissions import OPERATORS, READERS
from governance.api.views import ControlView, ListView, columns_of, describe_list, presenter
from governance.models import RaiseRequest
from governance.queries.spend import TimeRange


class RaiseBody(serializers.Serializer[RaiseRequest]):
    """More, for one window of a budget. `asker` and `reason` are the words of whoever had the link."""

    id = serializers.IntegerField()
    status = serializers.ChoiceField(choices=RaiseRequest.Status.choices)
    tenant = serializers.CharField(source="window.tenant.slug")
    budget = serializers.IntegerField(source="window.budget_id")
    scope = serializers.CharField(source="window.budget.scope")
    window = serializers.CharField(source="window.budget.window")
    subject = serializers.CharField(source="window.subject")
    amount = Dollars(source="amount_nanos")
    asker = serializers.CharField()
    reason = serializers.CharField()
    asked_at = serializers.DateTimeField()
    resets_at = serializers.DateTimeField(source="window.ends_at", allow_null=True)
    decided_at = serializers.DateTimeField(allow_null=True)
    decided_by = serializers.CharField()
    answer = serializers.CharField(help_text="Why it was declined.")


class RaiseQuery(PeriodQuery):
    """Filters of the requests; `from` and `to` are of `asked_at`."""

    tenant = NameFilter("tenant", required=False)
    status = serializers.ChoiceField(choices=RaiseRequest.Status.values, required=False)


class Raises(ListView):
    acts_on = "governance.raiserequest"
    roles = {"GET": READERS}
    table_name = "raises"

    @describe_list("raises_list", RaiseBody, RaiseQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(RaiseQuery, request.query_params.dict())
        period = TimeRange(asked.pop("from", None), asked.pop("to", None))
        where = Q(**{looked_for(name, value, tenant="window__tenant__slug"): value for name, value in asked.items()})
        rows = raises.listed().filter(where, period.on("asked_at"))
        return self.listed(rows, presenter(RaiseBody), columns=columns_of(RaiseBody))


class RaiseDecision(ControlView):
    """Decided by whoever may raise budgets."""

    permissions = {"POST": "governance.add_allowance"}
    roles = {"POST": OPERATORS}


class RaiseApprove(RaiseDecision):
    @extend_schema(operation_id="raises_approve", request=Strict, responses=RaiseBody)
    def post(self, request: Request, id: int) -> Response:
        """Top up the window that it was asked for, at once and no other. It can be decided once."""
        asked = self.one(raises.listed(), pk=id)
        self.valid(Strict, request.data)
        return Response(RaiseBody(raises.approve(asked=asked, by=self.by.actor, now=self.now)).data)


class RaiseDecline(RaiseDecision):
    @extend_schema(operation_id="raises_decline", request=Act, responses=RaiseBody)
    def post(self, request: Request, id: int) -> Response:
        """Say no, with a reason that whoever asked reads. It can be decided once."""
        asked = self.one(raises.listed(), pk=id)
        reason = self.valid(Act, request.data)["reason"]
        return Response(RaiseBody(raises.decline(asked=asked, reason=reason, by=self.by.actor, now=self.now)).data)
