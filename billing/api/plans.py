"""/api/plans and /api/billing/accounts"""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts import plans
from billing.models import BillingAccount, Plan
from governance.api.fields import Dollars, Name, Query, Strict, Text, Whole
from governance.api.permissions import READERS
from governance.api.policies import PolicyBody
from governance.api.views import ControlView, ListView, columns_of, describe_list, presenter
from governance.rules import money

READ = {"GET": READERS}


class NameList(serializers.ListField):
    child = Text(max_length=255)


class PlanBody(PolicyBody):
    """What a subscription is worth as a budget; matched by price ids, lookup keys or product ids."""

    id = serializers.IntegerField(read_only=True)
    name = Text(max_length=100)
    limit = Dollars(source="limit_nanos", minimum=1, most=money.MAX_LIMIT_NANOS)
    price_ids = NameList(required=False)
    lookup_keys = NameList(required=False)
    product_ids = NameList(required=False)
    per_unit = serializers.BooleanField(required=False)
    monthly = serializers.BooleanField(required=False)
    trial_percent = Whole(required=False, allow_null=True, min_value=0, max_value=100)
    provisional_percent = Whole(required=False, allow_null=True, min_value=0, max_value=100)
    grace_days = Whole(required=False, allow_null=True, min_value=0, max_value=plans.MOST_GRACE_DAYS)
    credit_percent = Whole(required=False, allow_null=True, min_value=0, max_value=100)
    upgrade = serializers.ChoiceField(choices=Plan.Upgrade.choices, required=False, allow_blank=True)
    upgrade_times = Whole(required=False, allow_null=True, min_value=1, max_value=plans.MOST_TIMES)
    downgrade = serializers.ChoiceField(choices=Plan.Downgrade.choices, required=False, allow_blank=True)
    pause = serializers.ChoiceField(choices=Plan.Pause.choices, required=False, allow_blank=True)
    is_default = serializers.BooleanField(required=False)


class AccountBody(Strict):
    """A Stripe customer, the tenant it pays for, and what its subscriptions come to."""

    tenant = serializers.CharField(source="tenant.slug", default=None, allow_null=True, read_only=True)
    stripe_customer_id = serializers.CharField(read_only=True)
    plan = serializers.CharField(read_only=True)
    state = serializers.ChoiceField(choices=BillingAccount.State.choices, read_only=True)
    limit = Dollars(source="limit_nanos", allow_null=True, read_only=True)
    period_start = serializers.DateTimeField(allow_null=True, read_only=True)
    period_end = serializers.DateTimeField(allow_null=True, read_only=True)
    reasons = serializers.ListField(child=serializers.CharField(), read_only=True)


class AccountQuery(Query):
    tenant = Name("tenant", required=False)
    state = serializers.ChoiceField(choices=BillingAccount.State.choices, required=False)
    stripe_customer_id = Text(required=False)
    bound = serializers.BooleanField(required=False, help_text="false: customers whose tenant nobody knows yet.")


class Accounts(ListView):
    acts_on = "billing.billingaccount"
    table_name = "billing-accounts"
    roles = READ

    @describe_list("billing_accounts_list", AccountBody, AccountQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(AccountQuery, request.query_params.dict())
        bound = asked.pop("bound", None)
        where = {"tenant__slug" if name == "tenant" else name: value for name, value in asked.items()}
        if bound is not None:
            where["tenant__isnull"] = not bound
        rows = BillingAccount.objects.filter(**where).select_related("tenant").order_by("-id")
        return self.listed(rows, presenter(AccountBody), columns=columns_of(AccountBody))


class Plans(ListView):
    acts_on = "billing.plan"
    table_name = "plans"

    @describe_list("plans_list", PlanBody)
    def get(self, request: Request) -> Any:
        self.valid(Query, request.query_params.dict())
        return self.listed(Plan.objects.order_by("-id"), presenter(PlanBody), columns=columns_of(PlanBody))

    @extend_schema(operation_id="plans_create", request=PlanBody, responses={201: PlanBody})
    def post(self, request: Request) -> Response:
        return save(self, Plan(), self.valid(PlanBody, request.data), status=201)


class OnePlan(ControlView):
    acts_on = "billing.plan"

    @extend_schema(operation_id="plans_get", responses=PlanBody)
    def get(self, request: Request, id: int) -> Response:
        return Response(PlanBody(self.one(Plan.objects.all(), pk=id)).data)

    @extend_schema(operation_id="plans_change", request=PlanBody(partial=True), responses=PlanBody)
    def patch(self, request: Request, id: int) -> Response:
        plan = self.one(Plan.objects.all(), pk=id)
        return save(self, plan, self.valid(PlanBody, request.data, partial=True), status=200)


def save(view: ControlView, plan: Plan, changes: dict[str, Any], *, status: int) -> Response:
    """The saved plan as it is answered."""
    plans.save(plan=plan, changes=changes, by=view.by.actor, now=view.now)
    return Response(PlanBody(plan).data, status=status)
