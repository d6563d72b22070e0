"""/api/alerts: what is wrong, who is told of it and how, and what came of telling them."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance import alerts
from governance.actions import alert_channels, tenancy
from governance.api.fields import Id, Name, OptionalAct, Query, Strict, Text
from governance.api.permissions import OPERATORS
from governance.api.views import ControlView, ListView, columns_of, describe_list, presenter
from governance.models import Alert, AlertChannel, AlertDelivery, AlertNotice
from governance.rules import alert_templates, alerting
from governance.rules.alerting import Pace
from governance.rules.errors import NotOpen

WORDS = ", ".join(f"{{{name}}}" for name in alert_templates.NAMES)


class AlertBody(serializers.Serializer[Any]):
    """Something that is wrong, from when it was first seen until it is over or somebody has seen to it."""

    id = serializers.IntegerField()
    kind = serializers.CharField()
    subject = serializers.CharField()
    severity = serializers.ChoiceField(choices=Alert.Severity.choices)
    message = serializers.CharField()
    count = serializers.IntegerField(help_text="How often it was seen.")
    first_at = serializers.DateTimeField()
    last_at = serializers.DateTimeField()
    cleared_at = serializers.DateTimeField(allow_null=True)
    cleared_by = serializers.CharField(help_text="Empty where it was over by itself.")


class AlertQuery(Query):
    open = serializers.BooleanField(required=False, help_text="Only those that are open, or only those that are over.")
    kind = Name("label", required=False)
    severity = serializers.ChoiceField(choices=Alert.Severity.choices, required=False)


class Alerts(ListView):
    acts_on = "governance.alert"
    table_name = "alerts"

    @describe_list("alerts_list", AlertBody, AlertQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(AlertQuery, request.query_params.dict())
        if "open" in asked:
            asked["cleared_at__isnull"] = asked.pop("open")
        rows = Alert.objects.filter(**asked).order_by("-id")
        return self.listed(rows, presenter(AlertBody), columns=columns_of(AlertBody))


class AlertAcknowledge(ControlView):
    acts_on = "governance.alert"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="alerts_acknowledge", request=OptionalAct, responses=AlertBody)
    def post(self, request: Request, id: int) -> Response:
        """You have seen to it. It opens again if it is seen again."""
        row = self.one(Alert.objects.all(), pk=id)
        reason = self.valid(OptionalAct, request.data)["reason"]
        try:
            alerts.acknowledge(alert=row, by=self.by.actor, now=self.now, reason=reason)
        except alerts.AlertCleared as error:
            raise NotOpen("", str(error)) from error
        return Response(AlertBody(row).data)


class ChannelBody(Strict):
    """Where somebody is told, and of what. What opens it goes in as `secret` and never comes out."""

    id = serializers.IntegerField(read_only=True)
    name = Text(max_length=100)
    kind = serializers.ChoiceField(
        choices=AlertChannel.Kind.choices, help_text="apprise: chats, pagers and push, by a URL of Apprise's."
    )
    tenant = Name(
        "tenant",
        source="tenant.slug",
        required=False,
        allow_null=True,
        default=None,
        help_text="Whose it is: it is told of that customer alone. None: the operators'.",
    )
    target = Text(
        required=False,
        allow_blank=True,
        default="",
        max_length=1000,
        help_text="E-mail addresses, comma-separated, or a webhook's address. Empty for Apprise.",
    )
    secret = Text(write_only=True, required=False, max_length=2000, help_text="Apprise's URL.")
    enabled = serializers.BooleanField(required=False)
    min_severity = serializers.ChoiceField(choices=Alert.Severity.choices, required=False)
    areas = serializers.ListField(
        child=serializers.ChoiceField(choices=alerting.AREAS), required=False, max_length=20, help_text="None: all."
    )
    tenants = serializers.ListField(
        child=Name("tenant"), required=False, max_length=1000, help_text="Of which customers. None: all."
    )
    pace = serializers.ChoiceField(
        choices=[pace.value for pace in Pace], required=False, help_text="Of what is not critical."
    )
    quiet_from = serializers.TimeField(required=False, allow_null=True)
    quiet_until = serializers.TimeField(required=False, allow_null=True)
    time_zone = Text(required=False, max_length=64)
    tells_ends = serializers.BooleanField(required=False)
    subject_template = Text(required=False, allow_blank=True, max_length=alert_templates.LONGEST_SUBJECT)
    text_template = Text(
        required=False,
        allow_blank=True,
        max_length=alert_templates.LONGEST_TEXT,
        help_text=f"Own words, in which {WORDS} are filled in; it must have {{link}}. Empty: ours.",
    )
    failures = serializers.IntegerField(read_only=True, help_text="Tries in vain in a row.")
    last_error = serializers.CharField(read_only=True)
    last_sent_at = serializers.DateTimeField(read_only=True, allow_null=True)
    created_at = serializers.DateTimeField(read_only=True)


class MadeChannelBody(ChannelBody):
    """A channel as it is answered once: with what a webhook's receiver checks signatures with."""

    signing_secret = serializers.CharField(required=False, help_text="A webhook's, whsec_...; shown this once.")


class ChannelQuery(Query):
    tenant = Name("tenant", required=False)
    kind = serializers.ChoiceField(choices=AlertChannel.Kind.choices, required=False)
    enabled = serializers.BooleanField(required=False)


class Channels(ListView):
    acts_on = "governance.alertchannel"
    table_name = "alert-channels"

    @describe_list("alert_channels_list", ChannelBody, ChannelQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(ChannelQuery, request.query_params.dict())
        slug = asked.pop("tenant", None)
        rows = _channels().filter(**asked, **({"tenant__slug": slug} if slug else {}))
        return self.listed(rows, presenter(ChannelBody), columns=columns_of(ChannelBody))

    @extend_schema(operation_id="alert_channels_create", request=ChannelBody, responses={201: MadeChannelBody})
    def post(self, request: Request) -> Response:
        """A second one of the same name is a 409. A webhook's signing secret is in this answer alone."""
        asked = _internal(self.valid(ChannelBody, request.data))
        made = alert_channels.create(**asked, by=self.by.actor, now=self.now)
        return Response(_with_secret(made), status=201)


class OneChannel(ControlView):
    acts_on = "governance.alertchannel"

    @extend_schema(operation_id="alert_channels_get", responses=ChannelBody)
    def get(self, request: Request, id: int) -> Response:
        return Response(ChannelBody(self.one(_channels(), pk=id)).data)

    @extend_schema(operation_id="alert_channels_change", request=ChannelBody(partial=True), responses=ChannelBody)
    def patch(self, request: Request, id: int) -> Response:
        """Where it sends and what it is told of; whose it is, and of what kind, stays: that is another channel."""
        channel = self.one(_channels(), pk=id)
        changes = _internal(self.valid(ChannelBody, request.data, partial=True))
        secret = changes.pop("secret", "")
        for fixed in ("kind", "tenant"):
            if fixed in changes and changes.pop(fixed) != getattr(channel, fixed):
                raise serializers.ValidationError({fixed: ["cannot be changed: make another channel."]})
        changed = alert_channels.change(channel=channel, changes=changes, secret=secret, by=self.by.actor, now=self.now)
        return Response(ChannelBody(changed).data)

    @extend_schema(operation_id="alert_channels_delete", responses={204: None})
    def delete(self, request: Request, id: int) -> Response:
        """With what was sent to it. One that ALERT_URLS names is a 409."""
        alert_channels.delete(channel=self.one(_channels(), pk=id), by=self.by.actor, now=self.now)
        return Response(status=204)


class DeliveryBody(serializers.Serializer[Any]):
    """One alert for one channel."""

    id = serializers.UUIDField()
    channel = serializers.CharField(source="channel.name")
    tenant = serializers.CharField(source="notice.tenant.slug", allow_null=True, default=None)
    kind = serializers.CharField(source="notice.kind")
    what = serializers.ChoiceField(source="notice.what", choices=AlertNotice.What.values)
    severity = serializers.ChoiceField(source="notice.severity", choices=Alert.Severity.choices)
    title = serializers.CharField(source="notice.title")
    state = serializers.ChoiceField(choices=AlertDelivery.State.choices)
    tries = serializers.IntegerField()
    error = serializers.CharField()
    created_at = serializers.DateTimeField()
    next_at = serializers.DateTimeField(allow_null=True, help_text="When it is sent, or tried again.")
    sent_at = serializers.DateTimeField(allow_null=True)
    message_id = serializers.UUIDField(allow_null=True, help_text="A webhook's `webhook-id`.")


class DeliveryQuery(Query):
    channel = Id(required=False)
    state = serializers.ChoiceField(choices=AlertDelivery.State.choices, required=False)


class ChannelTest(ControlView):
    acts_on = "governance.alertchannel"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="alert_channels_test", request=None, responses=DeliveryBody)
    def post(self, request: Request, id: int) -> Response:
        """Sends one message now, whatever the rules and quiet hours say, and answers with what came of it."""
        channel = self.one(_channels(), pk=id)
        tried = alert_channels.try_out(channel=channel, by=self.by.actor, clock=timezone.now)
        return Response(DeliveryBody(self.one(_deliveries(), pk=tried.pk)).data)


class ChannelRotate(ControlView):
    acts_on = "governance.alertchannel"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="alert_channels_rotate", request=None, responses=MadeChannelBody)
    def post(self, request: Request, id: int) -> Response:
        """A webhook gets another signing secret, which counts from the next message on."""
        made = alert_channels.rotate(channel=self.one(_channels(), pk=id), by=self.by.actor, now=self.now)
        return Response(_with_secret(made))


class Deliveries(ListView):
    acts_on = "governance.alertdelivery"
    table_name = "alert-deliveries"

    @describe_list("alert_deliveries_list", DeliveryBody, DeliveryQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(DeliveryQuery, request.query_params.dict())
        rows = _deliveries().filter(**asked)
        return self.listed(rows, presenter(DeliveryBody), columns=columns_of(DeliveryBody))


class OneDelivery(ControlView):
    acts_on = "governance.alertdelivery"

    @extend_schema(operation_id="alert_deliveries_get", responses=DeliveryBody)
    def get(self, request: Request, id: Any) -> Response:
        return Response(DeliveryBody(self.one(_deliveries(), pk=id)).data)


class DeliveryReplay(ControlView):
    acts_on = "governance.alertdelivery"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="alert_deliveries_replay", request=OptionalAct, responses=DeliveryBody)
    def post(self, request: Request, id: Any) -> Response:
        """Sends what was given up, or was sent, once more: as a message of its own."""
        row = self.one(_deliveries(), pk=id)
        reason = self.valid(OptionalAct, request.data)["reason"]
        alert_channels.replay(delivery=row, by=self.by.actor, now=self.now, reason=reason)
        return Response(DeliveryBody(self.one(_deliveries(), pk=id)).data)


def _channels() -> Any:
    return AlertChannel.objects.select_related("tenant").order_by("-id")


def _deliveries() -> Any:
    return AlertDelivery.objects.select_related("channel", "notice__tenant").order_by("-id")


def _with_secret(made: alert_channels.Made) -> dict[str, Any]:
    shown = dict(ChannelBody(made.channel).data)
    return shown | ({"signing_secret": made.secret} if made.secret else {})


def _internal(asked: dict[str, Any]) -> dict[str, Any]:
    """Validated fields in the domain's types."""
    if "tenant" in asked:
        slug = (asked["tenant"] or {}).get("slug")
        asked["tenant"] = tenancy.tenant_named(slug) if slug else None
    return asked
