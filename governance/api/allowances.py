"""/api/budgets/{id}/allowances: more than the limit, for a time."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.actions import allowances
from governance.api.budgets import BudgetOnce, BudgetView, ShownBudgetBody
from governance.api.fields import Dollars, Moment, OptionalAct, Query, Strict, Text
from governance.api.once import PARAMETER, once
from governance.api.permissions import OPERATORS, READERS
from governance.api.views import ListView, columns_of, describe_list, presenter
from governance.ledger import clock
from governance.models import Allowance, Budget
from governance.rules import money
from governance.rules.errors import FieldError


class AllowanceBody(Strict):
    """With `ends_at` a raise of the limit until then; without it a top-up of the current window alone."""

    id = serializers.IntegerField(read_only=True)
    budget = serializers.IntegerField(source="budget_id", read_only=True)
    kind = serializers.SerializerMethodField()
    state = serializers.SerializerMethodField()
    amount = Dollars(source="amount_nanos", minimum=1, most=money.MAX_LIMIT_NANOS)
    starts_at = Moment(required=False, help_text="Of a raise; now, unless told.")
    ends_at = Moment(required=False, allow_null=True)
    subject = Text(
        source="window.subject",
        required=False,
        allow_null=True,
        default=None,
        max_length=310,
        help_text="Of a top-up of a budget for each one: whose window.",
    )
    reason = Text(max_length=300)
    actor = serializers.CharField(read_only=True)
    created_at = serializers.DateTimeField(read_only=True)

    def get_kind(self, row: Allowance) -> str:
        return "raise" if row.ends_at else "top-up"

    def get_state(self, row: Allowance) -> str:
        return allowances.state(row, now=clock.known_now())


class Allowances(BudgetOnce, ListView):
    acts_on = "governance.allowance"
    roles = {"GET": READERS, "POST": OPERATORS}
    table_name = "allowances"

    @describe_list("allowances_list", AllowanceBody)
    def get(self, request: Request, id: int) -> Any:
        budget = self.budget(id)
        self.valid(Query, request.query_params.dict())
        rows = Allowance.objects.filter(budget=budget).select_related("window").order_by("-id")
        return self.listed(rows, presenter(AllowanceBody), columns=columns_of(AllowanceBody))

    @extend_schema(
        operation_id="allowances_create",
        parameters=[PARAMETER],
        request=AllowanceBody,
        responses={201: AllowanceBody},
    )
    @once
    def post(self, request: Request, id: int) -> Response:
        """Takes hold at once, and ends by itself."""
        budget, asked = self.budget(id), self.valid(AllowanceBody, request.data)
        self.refuse_cut_off()
        made = self._grant(budget, asked)
        return Response(AllowanceBody(made).data, status=201)

    def _grant(self, budget: Budget, asked: dict[str, Any]) -> Allowance:
        given: dict[str, Any] = {"budget": budget, "amount_nanos": asked["amount_nanos"], "reason": asked["reason"]}
        subject = (asked["window"] or {}).get("subject")
        if asked.get("ends_at") is None:
            if "starts_at" in asked:
                raise FieldError("starts_at", "a top-up begins now; a raise needs ends_at too")
            return allowances.top_up(**given, subject=subject, by=self.by.actor, now=self.now)
        if subject is not None:
            raise FieldError("subject", "a raise is for every window of the budget; leave it out")
        return allowances.raise_limit(
            **given, starts_at=asked.get("starts_at"), ends_at=asked["ends_at"], by=self.by.actor, now=self.now
        )


class AllowanceEnd(BudgetView):
    acts_on = "governance.allowance"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="allowances_end", request=OptionalAct, responses=ShownBudgetBody)
    def post(self, request: Request, id: int) -> Response:
        """Ends now; the budget is answered. One that has not begun, or a top-up, leaves its audit rows alone."""
        allowance = self.one(Allowance.objects.all(), pk=id)
        reason = self.valid(OptionalAct, request.data)["reason"]
        allowances.end(allowance=allowance, reason=reason, by=self.by.actor, now=self.now)
        return Response(self.one_to_api(self.budget(allowance.budget_id)))
