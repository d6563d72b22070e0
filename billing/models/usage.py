"""Usage on its way to Stripe's meters."""

from __future__ import annotations

import uuid_utils.compat as uuids
from django.db import models
from django.db.models import F, Q

from billing.models.accounts import BillingAccount
from governance.models import Tenant


class MeterUnit(models.TextChoices):
    """What one of a meter's units is."""

    MICRODOLLARS = "microdollars", "micro-dollars of cost"
    TOKENS = "tokens"
    CALLS = "calls"


class UsageMeter(models.Model):
    """One customer's usage on one of Stripe's meters. The row is the lock of its outbox. Written by
    `billing.usage.outbox`.

    `busy_until` and `claims` belong to the one call to Stripe that may be under way for it: Stripe allows one a
    customer and meter, and a claim that was overtaken has no say.
    """

    account = models.ForeignKey(BillingAccount, on_delete=models.PROTECT, related_name="usage_meters")
    event_name = models.CharField(max_length=100)
    unit = models.CharField(max_length=12, choices=MeterUnit.choices)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    since = models.DateTimeField(help_text="The first hour that is reported.")
    carried_units = models.BigIntegerField(default=0, help_text="Taken back, and not yet set off: 0 or less.")
    busy_until = models.DateTimeField(null=True, blank=True)
    claims = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["account", "event_name"], name="usage_meter_one_per_customer"),
            models.CheckConstraint(condition=Q(carried_units__lte=0), name="usage_meter_carries_no_credit_out"),
        ]

    def __str__(self) -> str:
        return f"{self.event_name} of {self.tenant_id}"


class MeterEvent(models.Model):
    """The outbox of usage: what an hour's rollups came to, or changed by since, as one event for Stripe's meter.

    The id is the event's `identifier`, the same whenever the row is made, so that Stripe knows it again where a backup
    was put back. `units` is what the hour changed by; `value` is what is sent: the units less what earlier hours took
    back. Amounts never change: a failed row that is tried again is replaced by a new one.
    """

    class State(models.TextChoices):
        PENDING = "pending"
        SENDING = "sending", "sending: asked, and not known to have arrived"
        SENT = "sent"
        CARRIED = "carried", "carried: less than nothing, set off later"
        FAILED = "failed"
        HELD = "held", "held: to be compared with Stripe's sums"
        VOID = "void", "void: not to be sent"

    id = models.UUIDField(primary_key=True, default=uuids.uuid7, editable=False)
    meter = models.ForeignKey(UsageMeter, on_delete=models.PROTECT, related_name="events")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    stripe_customer_id = models.CharField(max_length=255)
    event_name = models.CharField(max_length=100)
    hour = models.DateTimeField()
    sequence = models.PositiveIntegerField(help_text="0 is the hour's first row, later ones are what changed after.")
    units = models.BigIntegerField()
    value = models.BigIntegerField()
    carried_units = models.BigIntegerField(default=0, help_text="What is still to be set off after this row.")
    # The time the event carries: within `hour` wherever Stripe still takes that.
    stamped_at = models.DateTimeField()
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    # Of the current round of attempts; Stripe knows our identifier again for 24 h after it.
    first_attempt_at = models.DateTimeField(null=True, blank=True)
    last_attempt_at = models.DateTimeField(null=True, blank=True)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    claim = models.PositiveBigIntegerField(default=0)
    replaces = models.OneToOneField("self", on_delete=models.PROTECT, null=True, blank=True, related_name="replaced_by")
    error = models.TextField(blank=True)
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "event_name", "hour", "sequence"], name="meter_event_one_per_hour_and_change"
            ),
            models.CheckConstraint(
                condition=Q(value__gt=0, carried_units=0) | Q(value=0, carried_units__lte=0),
                name="meter_event_sends_or_carries",
            ),
            models.CheckConstraint(
                condition=Q(state="carried", value=0) | (~Q(state="carried") & Q(value__gt=0)),
                name="meter_event_sends_no_nothing",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["sending", "sent", "held"]) | Q(last_attempt_at__isnull=False),
                name="meter_event_attempted_before_sent",
            ),
        ]
        indexes = [
            models.Index(fields=["event_name", "hour"], name="meter_event_by_hour"),
            models.Index(
                fields=["meter", "hour"], condition=Q(state__in=["pending", "sending"]), name="meter_event_unsent"
            ),
            models.Index(fields=["state", "-id"], name="meter_event_by_state"),
        ]

    def __str__(self) -> str:
        return f"{self.event_name} {self.hour:%Y-%m-%d %H}h {self.value}"


class Restoration(models.Model):
    """The database was put back to what it was at `made_at`. What was sent to Stripe since then, it does not know."""

    made_at = models.DateTimeField()
    restored_at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(restored_at__gte=F("made_at")), name="restoration_goes_back"),
        ]

    def __str__(self) -> str:
        return f"put back to {self.made_at:%Y-%m-%d %H:%M}"


class MeterErrorReport(models.Model):
    """Stripe's word that usage it took could not be counted. Its details are fetched when the outbox is drained."""

    event_id = models.CharField(max_length=255, unique=True)
    meter_id = models.CharField(max_length=255, blank=True)
    noted_at = models.DateTimeField()
    read_at = models.DateTimeField(null=True, blank=True)
    errors = models.PositiveIntegerField(default=0, help_text="Events that could not be counted.")
    named = models.PositiveIntegerField(default=0, help_text="Those of them that the report names.")
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["id"], condition=Q(read_at__isnull=True), name="meter_error_unread")]

    def __str__(self) -> str:
        return self.event_id
