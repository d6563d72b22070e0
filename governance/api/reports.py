"""/api/reports: who gets weekly and monthly reports by e-mail, and how one reads."""

from __future__ import annotations

from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from governance.actions import report_subscriptions, tenancy
from governance.api.fields import Name, OptionalAct, Query, Strict, Text, missing, surplus
from governance.api.permissions import OPERATORS, READERS
from governance.api.views import ControlView, ListView, columns_of, describe_list, presenter
from governance.models import ReportSubscription, ScopeType, Tenant
from governance.models.tenancy import Role
from governance.queries.breakdown import MoreThanRead
from governance.reports import mails
from governance.rules import report_periods
from governance.rules.errors import FieldError, NotOpen, OverBound
from governance.rules.report_periods import Cadence, ReportPeriod

SCOPES = PLATFORM, TENANT = ScopeType.PLATFORM.value, ScopeType.TENANT.value
CADENCES = [cadence.value for cadence in Cadence]
# Before it nobody used anything, and no period has one before it in the end.
EARLIEST = date(2001, 1, 1)
OF_WHOM = "A report of the whole platform is asked for by name: nobody gets it for having left a field empty."


class OfWhom(serializers.Serializer[Any]):
    """What is of one customer, or of all of them."""

    scope_type = serializers.ChoiceField(choices=SCOPES, help_text=OF_WHOM)
    tenant = Name("tenant", required=False, allow_null=True, default=None, help_text="Of a tenant's report alone.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "scope_type" in attrs and (attrs["scope_type"] == TENANT) != bool(attrs["tenant"]):
            if attrs["tenant"]:
                raise surplus("tenant", "a report of the platform is of all tenants: leave it out.")
            raise missing("tenant", "name it, or ask for the report of the platform.")
        return attrs


class SubscriptionBody(OfWhom, Strict):
    """One address that gets one kind of report, until somebody ends it."""

    id = serializers.IntegerField(read_only=True)
    address = Text(max_length=254)
    cadence = serializers.ChoiceField(choices=CADENCES)
    time_zone = Text(required=False, max_length=64, help_text="Of its days and weeks. By default the tenant's, or UTC.")
    since = serializers.DateTimeField(read_only=True, help_text="Periods that were over by then are told by none.")
    ended_at = serializers.DateTimeField(read_only=True, allow_null=True)
    ended_by = serializers.CharField(read_only=True, help_text="Empty while it is sent.")

    def to_representation(self, instance: ReportSubscription) -> dict[str, Any]:
        return {**super().to_representation(instance), "tenant": instance.tenant.slug if instance.tenant else None}


class SubscriptionQuery(Query):
    scope_type = serializers.ChoiceField(choices=SCOPES, required=False)
    tenant = Name("tenant", required=False)
    cadence = serializers.ChoiceField(choices=CADENCES, required=False)
    open = serializers.BooleanField(required=False, help_text="Only those that are sent, or only those that ended.")


class ReportSubscriptions(ListView):
    acts_on = "governance.reportsubscription"
    table_name = "report-subscriptions"
    refuses = {"POST": (409,)}

    @describe_list("report_subscriptions_list", SubscriptionBody, SubscriptionQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(SubscriptionQuery, request.query_params.dict())
        rows = _subscriptions()
        if "scope_type" in asked:
            rows = rows.filter(tenant__isnull=asked["scope_type"] == PLATFORM)
        if "tenant" in asked:
            rows = rows.filter(tenant__slug=asked["tenant"])
        if "cadence" in asked:
            rows = rows.filter(cadence=asked["cadence"])
        if "open" in asked:
            rows = rows.filter(ended_at__isnull=asked["open"])
        return self.listed(rows, presenter(SubscriptionBody), columns=columns_of(SubscriptionBody))

    @extend_schema(
        operation_id="report_subscriptions_create", request=SubscriptionBody, responses={201: SubscriptionBody}
    )
    def post(self, request: Request) -> Response:
        """Sent from the period on that runs now. One that was ended is begun again; one that is sent is a 409."""
        asked = self.valid(SubscriptionBody, request.data)
        made = report_subscriptions.subscribe(
            tenant=_tenant(asked),
            address=asked["address"],
            cadence=asked["cadence"],
            time_zone=asked.get("time_zone", ""),
            by=self.by.actor,
            now=self.now,
        )
        return Response(SubscriptionBody(made).data, status=201)


class OneReportSubscription(ControlView):
    acts_on = "governance.reportsubscription"

    @extend_schema(operation_id="report_subscriptions_get", responses=SubscriptionBody)
    def get(self, request: Request, id: int) -> Response:
        return Response(SubscriptionBody(self.one(_subscriptions(), pk=id)).data)


class ReportSubscriptionEnd(ControlView):
    acts_on = "governance.reportsubscription"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="report_subscriptions_end", request=OptionalAct, responses=SubscriptionBody)
    def post(self, request: Request, id: int) -> Response:
        """Nothing more is sent, and what waits is dropped. One that has ended is a 409."""
        row = self.one(_subscriptions(), pk=id)
        reason = self.valid(OptionalAct, request.data)["reason"]
        if not report_subscriptions.end(subscription=row, by=self.by.actor, now=self.now, reason=reason):
            raise NotOpen("", f"it was ended by {row.ended_by} already")
        return Response(SubscriptionBody(self.one(_subscriptions(), pk=id)).data)


class PreviewQuery(OfWhom, Query):
    cadence = serializers.ChoiceField(choices=CADENCES)
    first = serializers.DateField(required=False, help_text="A day of the period. By default the last that is over.")


class PreviewBody(serializers.Serializer[Any]):
    """A report as it is read; `html` holds its picture."""

    subject = serializers.CharField()
    first_day = serializers.DateField()
    last_day = serializers.DateField()
    time_zone = serializers.CharField()
    text = serializers.CharField()
    html = serializers.CharField()
    csv = serializers.CharField()


class ReportPreview(ControlView):
    """A tenant's key is shown its own."""

    permissions = {"GET": "governance.view_spendentry"}
    roles = {"GET": READERS | {Role.TENANT}}
    refuses = {"GET": (422,)}

    @extend_schema(operation_id="report_preview", parameters=[PreviewQuery], responses=PreviewBody)
    def get(self, request: Request) -> Response:
        """Of a period that is over. Nothing is sent."""
        asked = self.valid(PreviewQuery, request.query_params.dict())
        own = self.by.reader.tenant
        if own is not None and asked["tenant"] != own.slug:
            raise PermissionDenied(f"Your role reads the report of {own.slug} alone.")
        tenant = _tenant(asked)
        zone = tenant.zone if tenant else ZoneInfo("UTC")
        period = self._period(Cadence(asked["cadence"]), asked.get("first"), zone)
        try:
            report = mails.preview(tenant=tenant, period=period, now=self.now)
        except MoreThanRead as error:
            raise OverBound("cadence", f"must be of less: {error}") from error
        found = {
            "subject": report.subject,
            "first_day": period.first,
            "last_day": period.last,
            "time_zone": str(zone),
            "text": report.text,
            "html": report.html,
            "csv": report.csv,
        }
        return Response(PreviewBody(found).data)

    def _period(self, cadence: Cadence, day: date | None, zone: ZoneInfo) -> ReportPeriod:
        latest = report_periods.last_ended(cadence, self.now, zone)
        if day is None:
            return latest
        if not EARLIEST <= day <= latest.last:
            raise FieldError("first", f"must be a day from {EARLIEST} to {latest.last}, when the last period ended")
        return report_periods.holding(cadence, day, zone)


def _subscriptions() -> Any:
    return ReportSubscription.objects.select_related("tenant").order_by("-id")


def _tenant(asked: dict[str, Any]) -> Tenant | None:
    return tenancy.tenant_named(asked["tenant"]) if asked["tenant"] else None
