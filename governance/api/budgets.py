"""/api/budgets"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import Q
from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.actions import budgets, goals, tenancy
from governance.api.fields import Act, Dollars, Name, OptionalAct, Query, Ratio, ScopeKeyFilter, Text, looked_for
from governance.api.once import PARAMETER, OnceView, once
from governance.api.permissions import EVERYONE, OPERATORS
from governance.api.policies import PolicyBody
from governance.api.views import ControlView, ListView, Present, columns_of, describe_list, presenter
from governance.models import Budget, BudgetEvent, BudgetForecast, BudgetWindow, ScopeType, Tenant
from governance.models.budgets import WINDOW_CHOICES
from governance.queries import budget_status, forecasts
from governance.queries.budget_status import BudgetStatus
from governance.rules import money, policy
from governance.rules.errors import Conflict
from governance.rules.visibility import Audience

READ_BY_ALL = {"GET": EVERYONE, "POST": OPERATORS}
# The API's names of the fields that the ledger calls otherwise.
RENAMED = {"limit": "limit_nanos"}


# Null for a key whose tenant shows no amounts.
AMOUNTS = ("limit", "extra", "carried", "carry_over", "spent", "reserved", "remaining", "utilization")


class BudgetBody(PolicyBody):
    """A budget, and where its current window stands."""

    id = serializers.IntegerField(read_only=True)
    tenant = Name("tenant", required=False, allow_null=True, default=None)
    scope_type = serializers.ChoiceField(choices=ScopeType.values)
    scope_key = Text(required=False, allow_blank=True, default="", max_length=200)
    scope = serializers.CharField(read_only=True)
    window = serializers.ChoiceField(choices=[value for value, _ in WINDOW_CHOICES])
    limit = Dollars(minimum=1, most=money.MAX_LIMIT_NANOS)
    carry_over = Text(
        required=False,
        allow_null=True,
        max_length=32,
        help_text='What is left when a window ends is added to the next, at most so much: "25%" of the limit, or'
        ' "10.00" dollars. Null: nothing is.',
    )
    enabled = serializers.BooleanField(required=False)
    source = serializers.CharField(read_only=True)  # type: ignore[assignment]
    subject = serializers.CharField(read_only=True, help_text="Of a budget for each one: the fullest one's name.")
    extra = Dollars(
        read_only=True, allow_null=True, help_text="What allowances add to the limit in the current window."
    )
    carried = Dollars(
        read_only=True, allow_null=True, help_text="What the current window took over of what the last one had left."
    )
    spent = Dollars(read_only=True, allow_null=True)
    reserved = Dollars(read_only=True, allow_null=True)
    remaining = Dollars(read_only=True, allow_null=True)
    utilization = Ratio(read_only=True, allow_null=True, help_text="The share of the limit and extra that is spent.")
    state = serializers.CharField(read_only=True)
    starts_at = serializers.DateTimeField(read_only=True)
    resets_at = serializers.DateTimeField(read_only=True, allow_null=True)
    closed_at = serializers.DateTimeField(
        read_only=True, allow_null=True, help_text="Of a goal that has ended: its calls are refused since then."
    )
    runs_out_at = serializers.DateTimeField(
        read_only=True, allow_null=True, help_text="As it was forecast at `forecast_at`; null: it lasts."
    )
    forecast_at = serializers.DateTimeField(
        read_only=True,
        allow_null=True,
        help_text="At most two hours ago. Null: nothing is known, or it is a budget for each one.",
    )
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)


@extend_schema_serializer(component_name="Budget")
class ShownBudgetBody(BudgetBody):
    """A budget as it is answered: amounts are null for whom they are not shown."""

    limit = Dollars(allow_null=True)


class BudgetQuery(Query):
    tenant = Name("tenant", required=False)
    scope_type = serializers.ChoiceField(choices=ScopeType.values, required=False)
    scope_key = ScopeKeyFilter(required=False)
    window = serializers.ChoiceField(choices=[value for value, _ in WINDOW_CHOICES], required=False)
    enabled = serializers.BooleanField(required=False)


class WindowBody(serializers.Serializer[BudgetWindow]):
    """One period of a budget for one subject."""

    id = serializers.IntegerField()
    budget = serializers.IntegerField(source="budget_id")
    subject = serializers.CharField()
    starts_at = serializers.DateTimeField()
    ends_at = serializers.DateTimeField(allow_null=True)
    limit = Dollars(
        source="limit_nanos", allow_null=True, help_text="With what allowances add and what was taken over."
    )
    extra = Dollars(
        source="extra_nanos", allow_null=True, help_text="The part of the limit that comes from allowances."
    )
    carried = Dollars(
        source="carried_nanos", allow_null=True, help_text="The part of the limit that was left of the window before."
    )
    spent = Dollars(source="settled_nanos", allow_null=True)
    reserved = Dollars(source="reserved_nanos", allow_null=True)
    remaining = Dollars(source="remaining_nanos", allow_null=True)
    utilization = Ratio(allow_null=True)
    state = serializers.CharField()
    closed_at = serializers.DateTimeField(allow_null=True)


class EventBody(serializers.Serializer[BudgetEvent]):
    """One change in a budget's life."""

    id = serializers.IntegerField()
    budget = serializers.IntegerField(source="budget_id")
    window = serializers.IntegerField(source="window_id")
    subject = serializers.CharField(source="window.subject")
    kind = serializers.CharField()
    threshold = serializers.CharField()
    old_state = serializers.CharField()
    new_state = serializers.CharField()
    reason = serializers.CharField()
    actor = serializers.CharField(help_text='Who did it; to a tenant\'s keys a person is "an operator".')
    spent = Dollars(source="settled_nanos", allow_null=True)
    limit = Dollars(source="limit_nanos", allow_null=True)
    occurred_at = serializers.DateTimeField()


class ResetAct(Act):
    subject = Text(
        required=False,
        allow_null=True,
        default=None,
        max_length=310,
        help_text="Of a budget for each one: whose window. Left out: all of its open windows.",
    )


class ResetBody(serializers.Serializer[Any]):
    closed = serializers.IntegerField()
    opened = serializers.IntegerField()
    budget = ShownBudgetBody()


def to_api(budget: Budget, now_at: BudgetStatus, ahead: BudgetForecast | None, *, audience: Audience) -> dict[str, Any]:
    """A budget as the API answers it."""
    own = {
        name: getattr(budget, RENAMED.get(name, name))
        for name, field in BudgetBody().fields.items()
        if not hasattr(BudgetStatus, name)
        and name
        not in (
            "extra",
            "carried",
            "spent",
            "reserved",
            "remaining",
            "resets_at",
            "runs_out_at",
            "forecast_at",
            "tenant",
        )
    }
    shown = BudgetBody(
        {
            **own,
            "tenant": budget.tenant.slug if budget.tenant else None,
            "subject": now_at.subject,
            "extra": now_at.extra_nanos,
            "carried": now_at.carried_nanos,
            "spent": now_at.settled_nanos,
            "reserved": now_at.reserved_nanos,
            "remaining": now_at.remaining_nanos,
            "utilization": now_at.utilization,
            "state": now_at.state,
            "starts_at": now_at.starts_at,
            "resets_at": now_at.ends_at,
            "runs_out_at": ahead.runs_out_at if ahead else None,
            "forecast_at": ahead.made_at if ahead else None,
        }
    ).data
    return shown if audience.sees_amounts(budget.scope) else without_amounts(shown)


def without_amounts(row: dict[str, Any]) -> dict[str, Any]:
    """A printed row of a budget, a window or an event, for whom amounts are not shown."""
    return {name: None if name in AMOUNTS else value for name, value in row.items()}


class BudgetView(ControlView):
    """What views of one budget share."""

    acts_on = "governance.budget"

    def budget(self, id: int) -> Budget:
        return self.one(budget_status.readable_budgets(self.by.reader), pk=id)

    def all_to_api(self, rows: Sequence[Budget]) -> list[dict[str, Any]]:
        now_at = budget_status.current(rows, now=self.now, reader=self.by.reader)
        ahead = forecasts.kept(now_at, now=self.now)
        return [to_api(row, now_at[row.pk], ahead.get(row.pk), audience=self.by.audience) for row in rows]

    def one_to_api(self, budget: Budget) -> dict[str, Any]:
        return self.all_to_api([budget])[0]

    def history(self, budget: Budget, kind: type[serializers.Serializer[Any]]) -> Present:
        """Prints a budget's windows or events for whoever asks."""
        present, audience = presenter(kind), self.by.audience

        def shown(row: dict[str, Any]) -> dict[str, Any]:
            row = row | ({"actor": audience.actor(row["actor"])} if "actor" in row else {})
            return row if audience.sees_amounts(budget.scope) else without_amounts(row)

        return lambda rows: [shown(row) for row in present(rows)]


class Budgets(BudgetView, ListView):
    roles = READ_BY_ALL
    table_name = "budgets"

    @describe_list("budgets_list", ShownBudgetBody, BudgetQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(BudgetQuery, request.query_params.dict())
        slug = asked.pop("tenant", None)
        asked = {looked_for(name, value): value for name, value in asked.items()}
        where = Q(**asked) & (Q(tenant__slug=slug) if slug else Q())
        rows = budget_status.readable_budgets(self.by.reader).filter(where)
        return self.listed(rows, self.all_to_api, columns=columns_of(BudgetBody))

    @extend_schema(operation_id="budgets_create", request=BudgetBody, responses={201: ShownBudgetBody})
    def post(self, request: Request) -> Response:
        budget = budgets.create(**_internal(self.valid(BudgetBody, request.data)), by=self.by.actor, now=self.now)
        return Response(self.one_to_api(budget), status=201)


class OneBudget(BudgetView):
    roles = READ_BY_ALL

    @extend_schema(operation_id="budgets_get", responses=ShownBudgetBody)
    def get(self, request: Request, id: int) -> Response:
        return Response(self.one_to_api(self.budget(id)))

    @extend_schema(operation_id="budgets_change", request=BudgetBody(partial=True), responses=ShownBudgetBody)
    def patch(self, request: Request, id: int) -> Response:
        budget = self.budget(id)
        asked = self.valid(BudgetBody, request.data, partial=True)
        return self._changed(budget, {name: asked[name] for name in request.data if name in asked})

    @extend_schema(operation_id="budgets_replace", request=BudgetBody, responses=ShownBudgetBody)
    def put(self, request: Request, id: int) -> Response:
        """All of it anew: what is left out goes back to its default."""
        budget = self.budget(id)
        return self._changed(budget, _defaults() | self.valid(BudgetBody, request.data))

    @extend_schema(operation_id="budgets_delete", responses={204: None, 200: ShownBudgetBody})
    def delete(self, request: Request, id: int) -> Response:
        """Gone (204) where it has no history; else it is disabled and answered (200)."""
        budget = self.budget(id)
        if budgets.delete(budget=budget, by=self.by.actor, now=self.now):
            return Response(status=204)
        return Response(self.one_to_api(self.budget(id)))

    def _changed(self, budget: Budget, asked: dict[str, Any]) -> Response:
        changes = _internal(asked)
        if budget.scope_type == ScopeType.TENANT and changes.get("scope_key") == "":
            # Stored as the tenant's slug; leaving it out says the same.
            del changes["scope_key"]
        budgets.change(budget=budget, changes=changes, by=self.by.actor, now=self.now)
        return Response(self.one_to_api(self.budget(budget.pk)))


class BudgetOnce(OnceView, BudgetView):
    """An act on a budget that adds up, so that a repeat under an Idempotency-Key is answered alone."""

    is_for_all = True

    def owner(self, request: Request, **where: Any) -> Tenant | None:
        return self.budget(where["id"]).tenant

    def refuse_cut_off(self) -> None:
        """Raises Conflict where an earlier run may have done it, and died before it could say."""
        if self.claim and self.claim.taken_over:
            raise Conflict(
                "",
                "an earlier run of this request was cut off, and may have done it already: look at the budget, and ask"
                " again under a new Idempotency-Key where it has not.",
            )


class BudgetReset(BudgetOnce):
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="budgets_reset", parameters=[PARAMETER], request=ResetAct, responses=ResetBody)
    @once
    def post(self, request: Request, id: int) -> Response:
        """Closes the current window of `subject`, or else every open one of the budget, and opens new ones now."""
        budget = self.budget(id)
        asked = self.valid(ResetAct, request.data)
        self.refuse_cut_off()
        done = budgets.reset(budget=budget, **asked, by=self.by.actor, now=self.now)
        return Response({"closed": done.closed, "opened": done.opened, "budget": self.one_to_api(budget)})


class BudgetClose(BudgetView):
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="budgets_close", request=OptionalAct, responses=ShownBudgetBody)
    def post(self, request: Request, id: int) -> Response:
        """Ends a goal: its calls are refused from now on, and what is held runs to its end.

        Closed again it stays as it is.
        """
        budget = self.budget(id)
        reason = self.valid(OptionalAct, request.data)["reason"]
        closed = goals.close(budget=budget, reason=reason, by=self.by.actor, now=self.now)
        return Response(self.one_to_api(closed))


class BudgetWindows(BudgetView, ListView):
    acts_on = "governance.budgetwindow"
    roles = {"GET": EVERYONE}
    table_name = "windows"

    @describe_list("budgets_windows", WindowBody)
    def get(self, request: Request, id: int) -> Any:
        budget = self.budget(id)
        self.valid(Query, request.query_params.dict())
        rows = budget_status.readable_windows(self.by.reader).filter(budget=budget).select_related("budget")
        return self.listed(rows, self.history(budget, WindowBody), columns=columns_of(WindowBody))


class BudgetEvents(BudgetView, ListView):
    acts_on = "governance.budgetevent"
    roles = {"GET": EVERYONE}
    table_name = "events"

    @describe_list("budgets_events", EventBody)
    def get(self, request: Request, id: int) -> Any:
        budget = self.budget(id)
        self.valid(Query, request.query_params.dict())
        rows = BudgetEvent.objects.filter(budget=budget).select_related("window").order_by("-id")
        if self.by.tenant is not None:
            rows = rows.filter(window__in=budget_status.readable_windows(self.by.reader).order_by().values("pk"))
        return self.listed(rows, self.history(budget, EventBody), columns=columns_of(EventBody))


def _internal(asked: dict[str, Any]) -> dict[str, Any]:
    """Validated fields under the domain's names."""
    fields = {RENAMED.get(name, name): value for name, value in asked.items()}
    if fields.get("tenant"):
        fields["tenant"] = tenancy.tenant_named(fields["tenant"])
    return fields


def _defaults() -> dict[str, Any]:
    """What a budget has where nobody says otherwise."""
    return {name: policy.default(name) for name in policy.COLUMNS} | {"carry_over": None, "enabled": True}
