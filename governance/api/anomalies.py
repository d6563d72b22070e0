"""/api/spend/anomalies: hours out of all proportion, what was done about them by itself, and people's word on them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.actions import anomalies as acts
from governance.actions import anomaly_words
from governance.api.fields import Dollars, NameFilter, OptionalAct, Query, looked_for
from governance.api.permissions import EVERYONE, OPERATORS
from governance.api.views import ControlView, ListView, columns_of, describe_list
from governance.models import Anomaly
from governance.queries import anomalies
from governance.rules import money
from governance.rules.anomalies import Metric

COLUMNS = {"tenant": "tenant__slug", "agent": "agent"}


class AnomalyBody(serializers.Serializer[Anomaly]):
    """One figure of an agent, a customer or a model beyond its bound.

    Of the metrics `cost` and `cost_per_call` the figures are dollars; else they are numbers of calls.
    """

    id = serializers.IntegerField()
    subject_type = serializers.CharField()
    subject = serializers.CharField()
    tenant = serializers.CharField(source="tenant.slug", default=None, allow_null=True)
    agent = serializers.CharField()
    model = serializers.CharField()
    metric = serializers.ChoiceField(choices=[each.value for each in Metric])
    hour = serializers.DateTimeField()
    observed = serializers.SerializerMethodField()
    expected = serializers.SerializerMethodField()
    bound = serializers.SerializerMethodField()
    sentence = serializers.SerializerMethodField()
    started_at = serializers.DateTimeField()
    last_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    act = serializers.CharField(help_text="What was done by itself; `notify`: nothing but to tell of it.")
    act_note = serializers.CharField()
    acted_at = serializers.DateTimeField(allow_null=True)
    spent_when_acted = Dollars(source="acted_spent_nanos", allow_null=True)
    undone_at = serializers.DateTimeField(allow_null=True)

    def get_observed(self, row: Anomaly) -> str:
        return _figure(row, row.observed)

    def get_expected(self, row: Anomaly) -> str:
        return _figure(row, row.expected)

    def get_bound(self, row: Anomaly) -> str:
        return _figure(row, row.bound)

    def get_sentence(self, row: Anomaly) -> str:
        return anomaly_words.sentence(row)


class AnomalyQuery(Query):
    tenant = NameFilter("tenant", required=False)
    agent = NameFilter("agent", required=False)
    metric = serializers.ChoiceField(choices=[each.value for each in Metric], required=False)
    open = serializers.BooleanField(required=False, help_text="Only those that are not over, or only those that are.")


class Anomalies(ListView):
    acts_on = "governance.anomaly"
    roles = {"GET": EVERYONE}
    table_name = "anomalies"

    @describe_list("spend_anomalies", AnomalyBody, AnomalyQuery)
    def get(self, request: Request) -> Any:
        """Of whom the reader may see, the newest first. Figures are null for a key whose tenant shows no amounts."""
        asked = self.valid(AnomalyQuery, request.query_params.dict())
        rows = anomalies.found(reader=self.by.reader)
        if "open" in asked:
            rows = rows.filter(ended_at__isnull=asked.pop("open"))
        rows = rows.filter(**{looked_for(name, value, **COLUMNS): value for name, value in asked.items()})
        return self.listed(rows, lambda found: [to_api(self, row) for row in found], columns=columns_of(AnomalyBody))


class AnomalyDismiss(ControlView):
    acts_on = "governance.anomaly"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="spend_anomaly_dismiss", request=OptionalAct, responses=AnomalyBody)
    def post(self, request: Request, id: int) -> Response:
        """It is usual: over, and not told again for a day unless it doubles. What was done by itself holds on."""
        row = self.one(anomalies.found(), pk=id)
        reason = self.valid(OptionalAct, request.data)["reason"]
        return Response(to_api(self, acts.dismiss(anomaly=row, reason=reason, by=self.by.actor, now=self.now)))


class AnomalyUndo(ControlView):
    acts_on = "governance.anomaly"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="spend_anomaly_undo", request=OptionalAct, responses=AnomalyBody)
    def post(self, request: Request, id: int) -> Response:
        """Lets go whom it paused or degraded, from the next call on."""
        row = self.one(anomalies.found(), pk=id)
        reason = self.valid(OptionalAct, request.data)["reason"]
        return Response(to_api(self, acts.undo(anomaly=row, reason=reason, by=self.by.actor, now=self.now)))


def to_api(view: ControlView, row: Anomaly) -> dict[str, Any]:
    """An anomaly as whoever asks is answered; without amounts where the tenant shows its keys none."""
    found = dict(AnomalyBody(row).data)
    if view.by.audience.sees_amounts(f"agent:{row.agent}"):
        return found
    return found | dict.fromkeys(("observed", "expected", "bound", "spent_when_acted")) | {"sentence": ""}


def _figure(row: Anomaly, figure: int) -> str:
    return money.format_dollars(figure) if Metric(row.metric).is_money else str(figure)
