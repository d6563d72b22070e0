"""What is exchanged with Stripe: the inbox of its events, our requests, and our runs over what is there."""

from __future__ import annotations

from typing import Any

import uuid_utils.compat as uuids
from django.db import models
from django.db.models import F, Q


class EventQuerySet(models.QuerySet["StripeEvent"]):
    def waiting(self) -> EventQuerySet:
        return self.filter(processed_at__isnull=True, quarantine_reason="")

    def dead(self) -> EventQuerySet:
        """Those that failed too often, or that Stripe refuses: an operator's to replay."""
        return self.exclude(quarantine_reason="").filter(dead_at__isnull=False)

    def quarantined(self) -> EventQuerySet:
        """Those of another account or mode: kept, and not ours to act on."""
        return self.exclude(quarantine_reason="").filter(dead_at__isnull=True)


class StripeEvent(models.Model):
    """The inbox: one row for each event Stripe sent, kept as it came. Written by `billing.inbox.store`."""

    event_id = models.CharField(max_length=255, unique=True)
    type = models.CharField(max_length=120)
    customer_id = models.CharField(max_length=255, blank=True)
    api_version = models.CharField(max_length=60, blank=True)
    livemode = models.BooleanField(default=False)
    # Stripe's time of the event, in Unix seconds: what events of one object are ordered by.
    created = models.BigIntegerField()
    payload = models.JSONField()
    received_at = models.DateTimeField()
    processed_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)
    # Why it is put aside: it is not ours, or (with `dead_at`) every try failed.
    quarantine_reason = models.CharField(max_length=300, blank=True)
    dead_at = models.DateTimeField(null=True, blank=True)

    objects = EventQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=~Q(event_id=""), name="event_id_not_empty"),
            models.CheckConstraint(
                condition=Q(processed_at__isnull=True) | Q(quarantine_reason=""),
                name="event_processed_or_quarantined",
            ),
            models.CheckConstraint(
                condition=Q(dead_at__isnull=True) | ~Q(quarantine_reason=""), name="event_dead_with_a_reason"
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_attempt_at"],
                condition=Q(processed_at__isnull=True, quarantine_reason=""),
                name="event_waiting",
            ),
            models.Index(fields=["customer_id"], name="event_by_customer"),
            models.Index(fields=["id"], condition=~Q(quarantine_reason=""), name="event_put_aside"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.event_id}"

    @property
    def account(self) -> str:
        """The connected account the event belongs to; empty for our own."""
        found = self.payload.get("account") or self.payload.get("context")
        return found if isinstance(found, str) else ""

    @property
    def object(self) -> dict[str, Any]:
        """The Stripe object the event is about; empty for thin events."""
        data = self.payload.get("data")
        found = data.get("object") if isinstance(data, dict) else None
        return found if isinstance(found, dict) else {}

    @property
    def related(self) -> dict[str, Any]:
        """What a thin event is about: `id`, `type` and `url`; empty for the others."""
        found = self.payload.get("related_object")
        return found if isinstance(found, dict) else {}

    def about(self, data: dict[str, Any], *, type: str, customer_id: str) -> StripeEvent:
        """The same event as if it had come with its object. It is no row."""
        payload = {**self.payload, "data": {"object": data}}
        known = {"event_id": self.event_id, "livemode": self.livemode, "created": self.created}
        return StripeEvent(**known, type=type, customer_id=customer_id, payload=payload, received_at=self.received_at)


class OutboundRequest(models.Model):
    """A POST to Stripe. Its key is committed before it is sent, so that a repeat of it cannot do it twice.

    Written by `billing.stripe_api.posts`.
    """

    class State(models.TextChoices):
        OPEN = "open", "open: not answered yet"
        DONE = "done"
        FAILED = "failed"

    key = models.UUIDField(primary_key=True, default=uuids.uuid7, editable=False)
    kind = models.CharField(max_length=40)
    subject = models.CharField(max_length=255)
    digest = models.CharField(max_length=64, help_text="SHA-256 of what is asked for.")
    state = models.CharField(max_length=6, choices=State.choices, default=State.OPEN)
    created_at = models.DateTimeField()
    answered_at = models.DateTimeField(null=True, blank=True)
    object_id = models.CharField(max_length=255, blank=True, help_text="What Stripe made.")
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "subject", "digest"], condition=Q(state="open"), name="outbound_one_open_request"
            ),
            models.CheckConstraint(
                condition=Q(state="open", answered_at__isnull=True)
                | Q(state__in=["done", "failed"], answered_at__isnull=False),
                name="outbound_answered_or_open",
            ),
        ]
        indexes = [models.Index(fields=["kind", "subject", "-created_at"], name="outbound_by_subject")]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"


class StripeRun(models.Model):
    """A run over Stripe's endpoint for us, the events that never came, or all customers. The row is its lock.

    Written by `billing.inbox`. `cursor` is where a long one goes on, in whichever process.
    """

    class Kind(models.TextChoices):
        ENDPOINT = "endpoint", "the webhook endpoint"
        BACKFILL = "backfill", "events that did not come"
        RECONCILE = "reconcile", "all customers"

    kind = models.CharField(max_length=9, choices=Kind.choices)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    busy_until = models.DateTimeField(null=True, blank=True)
    since = models.DateTimeField(null=True, blank=True, help_text="A backfill's: events created from here on.")
    cursor = models.CharField(max_length=255, blank=True)
    figures = models.JSONField(default=dict, help_text="What was counted: seen, missing, differed, failed, …")
    findings = models.JSONField(default=list, help_text="What was wrong, a line each; the first of many.")

    class Meta:
        ordering = ["-id"]
        # Its first name: processes of the version before go on while a new one is rolled out.
        db_table = "billing_stripecheck"
        verbose_name = "Stripe run"
        verbose_name_plural = "Stripe runs"
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=["endpoint", "backfill", "reconcile"]), name="check_kind_known"
            ),
            models.CheckConstraint(
                condition=Q(finished_at__isnull=True) | Q(finished_at__gte=F("started_at")),
                name="check_ends_after_start",
            ),
            models.UniqueConstraint(
                fields=["kind"], condition=Q(finished_at__isnull=True), name="check_one_of_a_kind_under_way"
            ),
        ]
        indexes = [models.Index(fields=["kind", "-id"], name="check_by_kind")]

    def __str__(self) -> str:
        return f"{self.kind} {self.started_at:%Y-%m-%d %H:%M}"
