"""What was held and what was spent. Rows are written by `governance.ledger` alone."""

from __future__ import annotations

from typing import Any

import uuid_utils.compat as uuids
from django.db import models
from django.db.models import Q

from governance.models.bounds import within
from governance.models.tenancy import ApiKey, Tenant
from governance.rules import money


class Attribution(models.Model):
    """Who a call is for, and on what: shared by reservations and entries. Names are text, as the call gave them."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+", db_index=False)
    agent = models.CharField(max_length=100, blank=True)
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False)
    user = models.CharField(max_length=200, blank=True)
    session = models.CharField(max_length=200, blank=True)
    task = models.CharField(max_length=200, blank=True)
    provider = models.CharField(max_length=40, blank=True)
    model_requested = models.CharField(max_length=120, blank=True)
    model_served = models.CharField(max_length=120, blank=True)
    # Ids of the windows charged. A list, not a table: read by reconciliation alone, and a table would cost each
    # call two to four more rows.
    windows = models.JSONField(default=list)

    class Meta:
        abstract = True


class Reservation(Attribution):
    """A hold made before a call leaves. PENDING -> SETTLED | RELEASED | EXPIRED, once only."""

    class Status(models.TextChoices):
        PENDING = "pending"
        SETTLED = "settled"
        RELEASED = "released"
        EXPIRED = "expired"

    id = models.UUIDField(primary_key=True, default=uuids.uuid7, editable=False)
    amount_nanos = models.BigIntegerField()
    # What the rate limits counted for it: the ids of their buckets (the column is named as they once were), and the
    # tokens it may use.
    buckets = models.JSONField(default=list, db_column="meters")
    tokens = models.BigIntegerField(default=0)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.PENDING)
    reserved_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(amount_nanos__gte=0), name="reservation_amount_not_negative"),
            models.CheckConstraint(
                condition=within(money.MAX_AMOUNT_NANOS, "amount_nanos") & within(money.MAX_UNITS, "tokens"),
                name="reservation_within_bounds",
            ),
            models.CheckConstraint(
                condition=Q(status="pending", resolved_at__isnull=True)
                | Q(status__in=["settled", "released", "expired"], resolved_at__isnull=False),
                name="reservation_resolved_or_pending",
            ),
        ]
        indexes = [
            models.Index(fields=["expires_at"], condition=Q(status="pending"), name="reservation_due"),
            # The rare ends: metrics count them, retention deletes them.
            models.Index(
                fields=["status", "resolved_at"],
                condition=Q(status__in=["released", "expired"]),
                name="reservation_unsettled",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)


class SpendEntry(Attribution):
    """One line of the ledger: append-only (a trigger refuses updates). Corrections are new rows that name theirs."""

    class Kind(models.TextChoices):
        CHARGE = "charge"
        ADJUSTMENT = "adjustment"
        REVERSAL = "reversal"

    class Certainty(models.TextChoices):
        CONFIRMED = "confirmed"
        ESTIMATED = "estimated"

    id = models.UUIDField(primary_key=True, default=uuids.uuid7, editable=False)
    kind = models.CharField(max_length=12, choices=Kind.choices, default=Kind.CHARGE)
    reservation = models.ForeignKey(
        Reservation, on_delete=models.PROTECT, null=True, blank=True, related_name="entries", db_index=False
    )
    corrects = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="corrections", db_index=False
    )
    request_id = models.CharField(max_length=100, blank=True)
    input_tokens = models.BigIntegerField(default=0, help_text="Including cached ones.")
    cached_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    unit = models.CharField(max_length=16, default="token")
    units = models.BigIntegerField(default=0, help_text="Pages, seconds or characters, where the unit is no token.")
    price_rule = models.CharField(max_length=120, blank=True)
    cost_nanos = models.BigIntegerField()
    overage_nanos = models.BigIntegerField(default=0, help_text="What the cost exceeded its reservation by.")
    certainty = models.CharField(max_length=12, choices=Certainty.choices, default=Certainty.CONFIRMED)
    reason = models.CharField(max_length=60, blank=True)
    occurred_at = models.DateTimeField()
    recorded_at = models.DateTimeField()
    metadata = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "spend entries"
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="charge", corrects__isnull=True) | ~Q(kind="charge"),
                name="entry_charge_corrects_nothing",
            ),
            models.CheckConstraint(
                condition=~Q(kind="charge") | Q(cost_nanos__gte=0), name="entry_charge_not_negative"
            ),
            models.CheckConstraint(
                condition=Q(input_tokens__gte=0, cached_tokens__gte=0, output_tokens__gte=0, units__gte=0),
                name="entry_usage_not_negative",
            ),
            models.CheckConstraint(
                condition=within(money.MAX_AMOUNT_NANOS, "cost_nanos", least=-money.MAX_AMOUNT_NANOS)
                & within(money.MAX_AMOUNT_NANOS, "overage_nanos")
                & within(money.MAX_UNITS, "input_tokens", "cached_tokens", "output_tokens", "units"),
                name="entry_within_bounds",
            ),
            # A reservation is charged once; a report of a call made elsewhere counts once per tenant and request id.
            models.UniqueConstraint(
                fields=["reservation"],
                condition=Q(kind="charge", reservation__isnull=False),
                name="entry_one_charge_per_reservation",
            ),
            models.UniqueConstraint(
                fields=["tenant", "request_id"],
                condition=Q(kind="charge", reservation__isnull=True),
                name="entry_one_per_reported_request",
            ),
            models.UniqueConstraint(
                fields=["reservation"],
                condition=Q(kind="adjustment", reason="late_settle"),
                name="entry_one_late_settle_per_reservation",
            ),
            # An estimate is confirmed or voided once, whoever of two operators comes first.
            models.UniqueConstraint(
                fields=["corrects"],
                condition=Q(reason__in=["confirmed", "voided"]),
                name="entry_one_last_word_per_estimate",
            ),
            # A corrected price is charged once, however often and by however many it is posted.
            models.UniqueConstraint(
                fields=["corrects", "price_rule"],
                condition=Q(reason="repriced"),
                name="entry_repriced_once_for_a_price",
            ),
        ]
        indexes = [
            models.Index(fields=["tenant", "-id"], name="entry_by_tenant"),
            # A tenant's calls of a range of time: the console's list of them.
            models.Index(fields=["tenant", "-occurred_at"], name="entry_by_tenant_and_time"),
            models.Index(fields=["corrects"], condition=Q(corrects__isnull=False), name="entry_by_corrected"),
            models.Index(fields=["-id"], condition=Q(certainty="estimated"), name="entry_estimated"),
            # Periods of time are read, proved and purged by it.
            models.Index(fields=["occurred_at"], name="entry_by_time"),
            models.Index(fields=["occurred_at"], condition=Q(certainty="estimated"), name="entry_estimated_by_time"),
            # What the database looks for whenever a reservation is deleted.
            models.Index(fields=["reservation"], condition=Q(reservation__isnull=False), name="entry_by_reservation"),
            models.Index(fields=["recorded_at"], condition=Q(overage_nanos__gt=0), name="entry_overages"),
            # What a tenant's keys have reported lately beside every budget of its own.
            models.Index(fields=["tenant", "recorded_at"], condition=Q(reason="unbudgeted"), name="entry_unbudgeted"),
        ]

    def __str__(self) -> str:
        return str(self.id)


# What an hour's figures may be; corrections of another hour's price may bring one below zero.
SUMS_WITHIN_BOUNDS = within(
    money.MAX_SUM, "calls", "input_tokens", "cached_tokens", "output_tokens", "cost_nanos", least=-money.MAX_SUM
)


class HourlySums(models.Model):
    """Sums of entries per hour (of `occurred_at`, UTC) and kind of call."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    agent = models.CharField(max_length=100, blank=True)
    provider = models.CharField(max_length=40, blank=True)
    model = models.CharField(max_length=120, blank=True)
    hour = models.DateTimeField()
    calls = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost_nanos = models.BigIntegerField(default=0)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.tenant} {self.hour:%Y-%m-%d %H}h"

    def save(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("hourly sums are written by governance.ledger and governance.upkeep.retention alone")


class SpendRollup(HourlySums):
    """What was spent in an hour, kept in the transaction that writes the entries; it outlives them."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "hour", "agent", "provider", "model"], name="rollup_one_per_hour_and_kind"
            ),
            models.CheckConstraint(condition=Q(calls__gte=0), name="rollup_calls_not_negative"),
            models.CheckConstraint(condition=SUMS_WITHIN_BOUNDS, name="rollup_within_bounds"),
        ]
        indexes = [models.Index(fields=["hour"], name="rollup_by_hour")]


class PurgedSpend(HourlySums):
    """What retention deleted of an hour's entries: with what is left of them it still proves the rollup."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "hour", "agent", "provider", "model"], name="purged_one_per_hour_and_kind"
            ),
            models.CheckConstraint(condition=Q(calls__gte=0), name="purged_calls_not_negative"),
            models.CheckConstraint(condition=SUMS_WITHIN_BOUNDS, name="purged_within_bounds"),
        ]
        indexes = [models.Index(fields=["hour"], name="purged_by_hour")]
