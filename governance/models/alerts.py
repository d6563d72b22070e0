"""What operators should know of and mend."""

from __future__ import annotations

import uuid_utils.compat as uuids
from django.db import models
from django.db.models import F, Q

from governance.models.budgets import BudgetWindow
from governance.models.events import BudgetEvent
from governance.models.tenancy import Tenant
from governance.rules import alert_templates, alerting
from governance.rules.alerting import Pace


class Alert(models.Model):
    """Something that is wrong, from when it was first seen until it is over or an operator has seen to it.

    There is one open alert for each kind and subject. Written by `governance.alerts`.
    """

    class Severity(models.TextChoices):
        INFO = "info"
        WARNING = "warning"
        CRITICAL = "critical"

    kind = models.CharField(max_length=60)
    subject = models.CharField(max_length=255, blank=True)
    severity = models.CharField(max_length=8, choices=Severity.choices)
    message = models.CharField(max_length=1000)
    count = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    cleared_at = models.DateTimeField(null=True, blank=True)
    cleared_by = models.CharField(max_length=150, blank=True, help_text="Empty: it was over by itself.")

    class Meta:
        ordering = ["-last_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=~Q(kind=""), name="alert_has_a_kind"),
            models.CheckConstraint(
                condition=Q(severity__in=["info", "warning", "critical"]), name="alert_severity_known"
            ),
            models.CheckConstraint(condition=Q(last_at__gte=F("first_at")), name="alert_last_after_first"),
            models.CheckConstraint(
                condition=Q(cleared_at__isnull=False) | Q(cleared_by=""), name="alert_cleared_by_somebody_is_cleared"
            ),
            models.UniqueConstraint(
                fields=["kind", "subject"], condition=Q(cleared_at__isnull=True), name="alert_one_open_each"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}".strip()


SEVERITY_KNOWN = Q(severity__in=alerting.SEVERITIES)


class AlertChannel(models.Model):
    """Where somebody is told, and of what. What opens it (a URL with a password, a secret) is sealed.

    Written by `governance.actions.alert_channels`; those of ALERT_URLS by `governance.alerts.environment`.
    """

    class Kind(models.TextChoices):
        EMAIL = "email", "e-mail"
        WEBHOOK = "webhook", "webhook, signed"
        APPRISE = "apprise", "chat, pager, push (Apprise)"

    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="alert_channels",
        help_text="Whose it is: it is told of that customer alone, and nothing wider. Empty: the operators'.",
    )
    target = models.CharField(
        max_length=1000, blank=True, help_text="E-mail addresses, comma-separated, or the webhook's address."
    )
    sealed = models.TextField(blank=True, editable=False)
    is_pager = models.BooleanField(default=False, editable=False, help_text="It makes one incident of what is one.")
    # Of ALERT_URLS: which of its parts; the part itself is nowhere but there.
    digest_of_url = models.CharField(max_length=64, null=True, blank=True, unique=True, editable=False)
    enabled = models.BooleanField(default=True)
    min_severity = models.CharField(
        max_length=8, choices=Alert.Severity.choices, default=Alert.Severity.WARNING, verbose_name="from severity"
    )
    areas = models.JSONField(default=list, blank=True, help_text="What it is told of. None: all.")
    tenants = models.JSONField(default=list, blank=True, help_text="Of which customers. None: all, and the platform.")
    pace = models.CharField(
        max_length=8,
        choices=[
            (Pace.AT_ONCE.value, "at once"),
            (Pace.HOURLY.value, "once an hour"),
            (Pace.DAILY.value, "once a day, at 8:00"),
        ],
        default=Pace.AT_ONCE.value,
        help_text="What is critical comes at once.",
    )
    quiet_from = models.TimeField(null=True, blank=True, help_text="What is not critical waits until quiet hours end.")
    quiet_until = models.TimeField(null=True, blank=True)
    time_zone = models.CharField(max_length=64, default="UTC", help_text="Of quiet hours and digests: an IANA name.")
    tells_ends = models.BooleanField(default=True, help_text="Whether it is told, too, when something is over.")
    subject_template = models.CharField(
        max_length=alert_templates.LONGEST_SUBJECT, blank=True, default="", db_default="", verbose_name="own subject"
    )
    text_template = models.TextField(blank=True, default="", db_default="", verbose_name="own text")
    # Tries in vain in a row, and until when nothing is tried.
    failures = models.PositiveIntegerField(default=0, editable=False)
    retry_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_error = models.CharField(max_length=500, blank=True, editable=False)
    last_sent_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=~Q(name=""), name="alert_channel_named"),
            models.CheckConstraint(condition=Q(kind__in=["email", "webhook", "apprise"]), name="alert_channel_known"),
            models.CheckConstraint(
                condition=Q(tenant=None) | ~Q(kind="apprise"), name="alert_channel_of_a_customer_is_plain"
            ),
            models.CheckConstraint(
                condition=Q(min_severity__in=alerting.SEVERITIES), name="alert_channel_severity_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class AlertNotice(models.Model):
    """Something to tell: a row of the outbox, written in the transaction of what it tells of."""

    class What(models.TextChoices):
        OPENED = "opened"
        OVER = "over"
        TEST = "test"

    # What begins and ends together: a pager makes one incident of it.
    incident = models.CharField(max_length=100)
    what = models.CharField(max_length=6, choices=What.choices, default=What.OPENED)
    kind = models.CharField(max_length=60)
    severity = models.CharField(max_length=8, choices=Alert.Severity.choices)
    title = models.CharField(max_length=200)
    message = models.CharField(max_length=1000)
    actor = models.CharField(
        max_length=150, blank=True, default="", db_default="", help_text="Who did it, as operators are told."
    )
    facts = models.JSONField(default=dict, blank=True)
    path = models.CharField(max_length=300, blank=True, help_text="Of the page where one acts.")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    is_for_tenant = models.BooleanField(default=False, help_text="It shows nothing wider than its customer.")
    event = models.OneToOneField(BudgetEvent, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    window = models.ForeignKey(BudgetWindow, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    channel = models.ForeignKey(
        AlertChannel, on_delete=models.CASCADE, null=True, blank=True, related_name="+", help_text="Of a test."
    )
    occurred_at = models.DateTimeField()
    # When it was put before the channels.
    spread_at = models.DateTimeField(null=True, blank=True)
    over_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=~Q(incident="") & ~Q(kind="") & ~Q(title=""), name="notice_says_what"),
            models.CheckConstraint(condition=SEVERITY_KNOWN, name="notice_severity_known"),
            models.CheckConstraint(condition=Q(what__in=["opened", "over", "test"]), name="notice_what_known"),
            models.CheckConstraint(condition=~Q(is_for_tenant=True, tenant=None), name="notice_for_a_tenant_names_it"),
        ]
        indexes = [
            models.Index(fields=["id"], condition=Q(spread_at=None), name="notice_to_spread"),
            models.Index(fields=["window"], condition=Q(what="opened", over_at=None), name="notice_open_of_window"),
            models.Index(fields=["incident"], name="notice_by_incident"),
            models.Index(fields=["occurred_at"], name="notice_by_time"),
        ]

    def __str__(self) -> str:
        return self.title


class AlertDelivery(models.Model):
    """One notice for one channel. Its message's id is the same at every try, so that a receiver can tell repeats."""

    class State(models.TextChoices):
        PENDING = "pending"
        SENDING = "sending"
        SENT = "sent"
        DEAD = "dead", "given up"
        DROPPED = "dropped", "not needed any more"

    id = models.UUIDField(primary_key=True, default=uuids.uuid7, editable=False)
    notice = models.ForeignKey(AlertNotice, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.ForeignKey(AlertChannel, on_delete=models.CASCADE, related_name="deliveries")
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING)
    # Deliveries that went in one message have one; none before the first try.
    message_id = models.UUIDField(null=True, blank=True)
    tries = models.PositiveIntegerField(default=0)
    claim = models.PositiveIntegerField(default=0, editable=False)
    next_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    tried_at = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "alert deliveries"
        constraints = [
            models.UniqueConstraint(fields=["notice", "channel"], name="delivery_once_a_channel"),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "sending", "sent", "dead", "dropped"]), name="delivery_state_known"
            ),
            models.CheckConstraint(
                condition=Q(state="sent", sent_at__isnull=False) | ~Q(state="sent") & Q(sent_at=None),
                name="delivery_sent_when",
            ),
            models.CheckConstraint(
                condition=Q(next_at__isnull=False) | ~Q(state__in=["pending", "sending"]), name="delivery_due_when"
            ),
        ]
        indexes = [
            models.Index(fields=["next_at"], condition=Q(state__in=["pending", "sending"]), name="delivery_due"),
        ]

    def __str__(self) -> str:
        return f"{self.notice} to {self.channel}"
