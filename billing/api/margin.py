"""/api/billing/margin: what tenants pay beside what their models cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request

from billing.models import BillingAccount
from billing.queries import margin
from billing.queries.margin import Margin
from governance.api.fields import Dollars, Name, PeriodQuery, Strict
from governance.api.permissions import READERS
from governance.api.views import ListView, columns_of, describe_list
from governance.models import Tenant
from governance.queries.spend import TimeRange
from governance.rules import money


class OtherRevenue(serializers.DictField):
    """Revenue in currencies other than dollars, as decimal strings of their own: {"eur": "45.00"}."""

    child = serializers.CharField()

    def to_representation(self, value: Any) -> dict[str, str]:
        return {currency: money.format_dollars(nanos) for currency, nanos in value.items()}


class MarginBody(Strict):
    """A tenant's revenue, net of tax and refunds, and its settled model cost, both of the period asked for."""

    tenant = serializers.CharField(read_only=True)
    plan = serializers.CharField(read_only=True)
    state = serializers.ChoiceField(choices=BillingAccount.State.choices, read_only=True)
    revenue = Dollars(source="revenue_nanos", read_only=True)
    other_revenue = OtherRevenue(source="other", read_only=True)
    cost = Dollars(source="cost_nanos", read_only=True)
    margin = Dollars(
        source="margin_nanos", allow_null=True, read_only=True, help_text="Null where some revenue is in other money."
    )
    margin_ratio = serializers.SerializerMethodField(help_text="Of the revenue; null without any.")

    def get_margin_ratio(self, row: Margin) -> float | None:
        # For show only: money is not counted with it.
        return None if row.margin_e4 is None else row.margin_e4 / 10_000


class MarginQuery(PeriodQuery):
    tenant = Name("tenant", required=False)
    worst = serializers.IntegerField(
        required=False, min_value=1, max_value=100, help_text="Only so many tenants, those that lose most first."
    )


class Margins(ListView):
    acts_on = "billing.billingaccount"
    table_name = "billing-margin"
    roles = {"GET": READERS}

    @describe_list("billing_margin_list", MarginBody, MarginQuery)
    def get(self, request: Request) -> Any:
        """Revenue counts as the time passes that it pays for; costs by the hours that begin in the period."""
        asked = self.valid(MarginQuery, request.query_params.dict())
        period = TimeRange(asked.get("from"), asked.get("to"))
        where = {"slug": asked["tenant"]} if "tenant" in asked else {}
        columns = columns_of(MarginBody)
        if "worst" in asked:
            rows = margin.worst(period=period, count=asked["worst"], **where)
            return self.answered(_printed(rows), columns=columns, next=None, previous=None)

        def present(some: Sequence[Tenant]) -> list[dict[str, Any]]:
            return _printed(margin.of(some, period=period))

        return self.listed(margin.tenants(**where), present, columns=columns)


def _printed(rows: Sequence[Margin]) -> list[dict[str, Any]]:
    return [dict(row) for row in MarginBody(rows, many=True).data]
