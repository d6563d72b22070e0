"""/api/refusals: why calls were refused, with the figures of that moment and what would have let them through."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.api.fields import CallQuery, Dollars, NameFilter, Text, Whole, looked_for
from governance.api.permissions import EVERYONE
from governance.api.views import ControlView, ListView, columns_of, describe_list
from governance.models import RefusedCall
from governance.queries import refusals
from governance.queries.spend import TimeRange
from governance.rules.remedies import Blocker
from governance.rules.visibility import Audience


class BlockerBody(serializers.Serializer[Any]):
    """A budget that had no room, as it stood; null is what the reader is not shown."""

    budget = serializers.IntegerField(allow_null=True)
    scope = serializers.CharField()
    window = serializers.CharField()
    limit = Dollars(allow_null=True)
    spent = Dollars(allow_null=True)
    reserved = Dollars(allow_null=True)
    remaining = Dollars(allow_null=True)
    missing = Dollars(allow_null=True, help_text="How much higher its limit would have had to be.")
    resets_at = serializers.DateTimeField(allow_null=True)


class RefusalBody(serializers.Serializer[Any]):
    """A call that was refused. `would_pass` says what would have let it through: each part alone.

    `more` others like it in the same minute have no row; a row that stands for these alone has no `request_id`.
    """

    request_id = serializers.CharField(allow_null=True)
    refused_at = serializers.DateTimeField()
    tenant = serializers.CharField()
    agent = serializers.CharField()
    key = serializers.CharField(allow_null=True)
    user = serializers.CharField()
    session = serializers.CharField()
    task = serializers.CharField()
    model = serializers.CharField()
    tools = serializers.ListField(child=serializers.CharField())
    reason = serializers.CharField()
    status = serializers.IntegerField()
    message = serializers.CharField()
    scope = serializers.CharField(allow_null=True, help_text="Of the budget or rate limit that refused.")
    window = serializers.CharField(allow_null=True)
    cost = Dollars(allow_null=True, help_text="What the call needed at the least.")
    max_tokens = serializers.IntegerField(allow_null=True)
    budgets = BlockerBody(many=True)
    would_pass = serializers.CharField(allow_null=True)
    more = serializers.IntegerField()


class RefusalQuery(CallQuery):
    reason = Text(required=False, max_length=60)
    status = Whole(required=False, min_value=400, max_value=599)
    request_id = NameFilter("request_id", required=False)


class Refusals(ListView):
    acts_on = "governance.refusedcall"
    roles = {"GET": EVERYONE}
    table_name = "refusals"

    @describe_list("refusals_list", RefusalBody, RefusalQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(RefusalQuery, request.query_params.dict())
        period = TimeRange(asked.pop("from", None), asked.pop("to", None))
        where = Q(**{looked_for(name, value, model="model"): value for name, value in asked.items()})
        rows = refusals.seen_by(self.by.reader).filter(where, period.on("refused_at"))
        audience = self.by.audience
        return self.listed(
            rows, lambda page: [shown(row, audience=audience) for row in page], columns=columns_of(RefusalBody)
        )


class OneRefusal(ControlView):
    acts_on = "governance.refusedcall"
    roles = {"GET": EVERYONE}

    @extend_schema(operation_id="refusals_get", responses=RefusalBody)
    def get(self, request: Request, request_id: str) -> Response:
        """Why the call with this request id was refused."""
        row = self.one(refusals.seen_by(self.by.reader), request_id=request_id)
        return Response(shown(row, audience=self.by.audience))


def shown(row: RefusedCall, *, audience: Audience) -> dict[str, Any]:
    """A refusal as it is printed for whoever asks."""
    body = {
        "request_id": row.request_id or None,
        "refused_at": row.refused_at,
        "tenant": row.tenant.slug,
        "agent": row.agent,
        "key": row.key.prefix if row.key else None,
        "user": row.user,
        "session": row.session,
        "task": row.task,
        "model": row.model,
        "tools": row.tools,
        "reason": row.reason,
        "status": row.status,
        "message": row.sentence,
        "scope": row.scope or None,
        "window": row.window or None,
        "cost": row.wanted_nanos,
        "max_tokens": row.max_tokens,
        "budgets": [_blocker(blocker, audience) for blocker in refusals.remedy_of(row).blockers],
        "would_pass": refusals.would_pass(row, audience=audience) or None,
        "more": row.more,
    }
    return dict(RefusalBody(body).data)


def _blocker(blocker: Blocker, audience: Audience) -> dict[str, Any]:
    figures = {
        "limit": blocker.limit_nanos,
        "spent": blocker.settled_nanos,
        "reserved": blocker.reserved_nanos,
        "remaining": blocker.remaining_nanos,
        "missing": blocker.missing_nanos,
    }
    return {
        "budget": blocker.budget_id if audience.is_own(blocker.scope) else None,
        "scope": blocker.scope,
        "window": blocker.kind,
        "resets_at": blocker.ends_at,
        **(figures if audience.sees_amounts(blocker.scope) else dict.fromkeys(figures)),
    }
