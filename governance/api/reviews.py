"""/api/spend/reviews: reports of spend beyond what the tenant's budgets left, and an operator's word on them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import Q
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.actions import reviews
from governance.api import errors
from governance.api.fields import Act, Dollars, NameFilter, PeriodQuery, looked_for
from governance.api.once import OnceView
from governance.api.permissions import EVERYONE, OPERATORS
from governance.api.views import ControlView, ListView, columns_of, describe_list
from governance.models import PendingReport
from governance.queries.spend import TimeRange
from governance.rules import money
from governance.rules.reports import ReportBound
from governance.rules.visibility import Audience

REJECTED = "report_rejected"


class BoundBody(serializers.Serializer[Any]):
    """What a report was held against; without a scope, what may be reported in a day without a budget."""

    scope = serializers.CharField(allow_null=True)
    window = serializers.CharField(allow_null=True)
    left = Dollars(allow_null=True, help_text="Of what the reader is not shown the amounts of: null.")


class ReviewBody(serializers.Serializer[PendingReport]):
    """A report: `charged` was charged at once, `waiting` is what is charged as well if it is accepted."""

    id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=PendingReport.Status.choices)
    tenant = serializers.CharField(source="tenant.slug")
    agent = serializers.CharField()
    key = serializers.CharField(source="key.prefix", default=None, allow_null=True)
    user = serializers.CharField()
    session = serializers.CharField()
    task = serializers.CharField()
    provider = serializers.CharField()
    model_requested = serializers.CharField()
    model_served = serializers.CharField()
    request_id = serializers.CharField()
    reservation = serializers.UUIDField(allow_null=True)
    input_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cost = Dollars(source="cost_nanos")
    charged = Dollars(source="charged_nanos")
    waiting = Dollars(source="waiting_nanos")
    bound = serializers.SerializerMethodField()
    entry = serializers.UUIDField(allow_null=True, help_text="The ledger's line that it became.")
    occurred_at = serializers.DateTimeField()
    reported_at = serializers.DateTimeField()
    decided_at = serializers.DateTimeField(allow_null=True)
    decided_by = serializers.CharField(help_text='Who decided; to a tenant\'s keys a person is "an operator".')
    reason = serializers.CharField()

    @extend_schema_field(BoundBody)
    def get_bound(self, row: PendingReport) -> dict[str, Any]:
        bound = _bound(row)
        shown = self.context["audience"].sees_amounts(bound.scope)
        return {
            "scope": bound.scope or None,
            "window": bound.kind or None,
            "left": money.format_dollars(max(0, bound.room_nanos)) if shown else None,
        }


class ReviewQuery(PeriodQuery):
    """Filters of the reports; `from` and `to` are of `reported_at`."""

    tenant = NameFilter("tenant", required=False)
    agent = NameFilter("agent", required=False)
    status = serializers.ChoiceField(choices=PendingReport.Status.values, required=False)
    request_id = NameFilter("request_id", required=False)
    reservation = serializers.UUIDField(required=False)


class Reviews(ListView):
    acts_on = "governance.pendingreport"
    roles = {"GET": EVERYONE}
    table_name = "reviews"

    @describe_list("spend_reviews_list", ReviewBody, ReviewQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(ReviewQuery, request.query_params.dict())
        period = TimeRange(asked.pop("from", None), asked.pop("to", None))
        where = Q(**{looked_for(name, value): value for name, value in asked.items()})
        rows = reviews.seen_by(self.by.reader).filter(where, period.on("reported_at"))
        return self.listed(rows, lambda page: [shown(self, row) for row in page], columns=columns_of(ReviewBody))


class OneReview(ControlView):
    acts_on = "governance.pendingreport"
    roles = {"GET": EVERYONE}

    @extend_schema(operation_id="spend_reviews_get", responses=ReviewBody)
    def get(self, request: Request, id: UUID) -> Response:
        return Response(shown(self, self.one(reviews.seen_by(self.by.reader), pk=id)))


class ReviewAccept(ControlView):
    acts_on = "governance.pendingreport"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="spend_reviews_accept", request=Act, responses=ReviewBody)
    def post(self, request: Request, id: UUID) -> Response:
        """Charge what waits, in the windows that it belonged to when it was reported, once."""
        asked = self.valid(Act, request.data)
        row = self.one(reviews.seen_by(self.by.reader), pk=id)
        done = reviews.accept(report=row, reason=asked["reason"], by=self.by.actor, now=self.now)
        return Response(shown(self, done))


class ReviewReject(ControlView):
    acts_on = "governance.pendingreport"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="spend_reviews_reject", request=Act, responses=ReviewBody)
    def post(self, request: Request, id: UUID) -> Response:
        """Say that what waits was not spent. It stays listed, and is never charged."""
        asked = self.valid(Act, request.data)
        row = self.one(reviews.seen_by(self.by.reader), pk=id)
        done = reviews.reject(report=row, reason=asked["reason"], by=self.by.actor, now=self.now)
        return Response(shown(self, done))


def shown(view: ControlView, row: PendingReport) -> dict[str, Any]:
    """A report as it is printed for whoever asks."""
    audience = view.by.audience
    return {**ReviewBody(row, context={"audience": audience}).data, "decided_by": audience.actor(row.decided_by)}


def needs_review(view: OnceView, row: PendingReport) -> Response:
    """The answer to a report that was kept, and to its repeats until it is accepted; the report is in it."""
    # What was kept is known by its own id; when it is decided, a repeat under the same key is answered by that.
    view.is_passing = True
    rejected = row.status == PendingReport.Status.REJECTED
    answer = errors.body(
        REJECTED if rejected else reviews.ALERT, _sentence(row, view.by.audience), "cost", view.request
    )
    answer["error"]["report"] = shown(view, row)
    return Response(answer, status=409)


def _sentence(row: PendingReport, audience: Audience) -> str:
    waiting, charged = money.format_dollars(row.waiting_nanos), money.format_dollars(row.charged_nanos)
    if row.status == PendingReport.Status.REJECTED:
        return f"An operator has rejected this report, {row.pk}: ${waiting} of it is not charged."
    bound = _bound(row)
    left = f" (${money.format_dollars(max(0, bound.room_nanos))})" if audience.sees_amounts(bound.scope) else ""
    what = f"{audience.named(bound.scope, bound.kind)} leaves" if bound.scope else "may be reported unreviewed"
    held = f"${charged} is charged, and " if row.reservation else ""
    return f"{held}${waiting} is more than {what}{left}: it is kept as report {row.pk}, and waits for an operator."


def _bound(row: PendingReport) -> ReportBound:
    return ReportBound(row.bound_nanos, row.bound_scope, row.bound_window)
