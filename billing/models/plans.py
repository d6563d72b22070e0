"""What a subscription is worth as a budget."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from governance.models.policies import PolicyFields


class Plan(PolicyFields):
    """What a subscription is worth as a budget, with its policy. Matched by ids and lookup keys, never by a name."""

    class Upgrade(models.TextChoices):
        PAID = "paid", "as far as it is paid"
        WHOLE = "whole", "whole, at once"

    class Downgrade(models.TextChoices):
        NOW = "now", "now"
        PERIOD_END = "period_end", "at the period's end"

    class Pause(models.TextChoices):
        PAST_DUE = "past_due", "a late payment"
        SUSPENDED = "suspended", "suspended"
        IGNORE = "ignore", "nothing"

    name = models.CharField(max_length=100, unique=True)
    limit_nanos = models.BigIntegerField(help_text="Budget for each period, in nanodollars.")
    price_ids = models.JSONField(default=list, blank=True, help_text='Stripe price ids: ["price_…"]')
    lookup_keys = models.JSONField(default=list, blank=True, help_text="Lookup keys of Stripe prices.")
    product_ids = models.JSONField(default=list, blank=True, help_text='Stripe product ids: ["prod_…"]')
    per_unit = models.BooleanField(default=False, help_text="The limit counts once for each unit of quantity.")
    monthly = models.BooleanField(
        default=True,
        help_text="The limit is for a month, also where a year is billed; otherwise for the billing period.",
    )
    trial_percent = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Of the limit, while a trial runs. Empty: as everywhere."
    )
    provisional_percent = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Of the limit, until a new period is paid. Empty: as everywhere."
    )
    grace_days = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Days until an unpaid period suspends the tenant. Empty: as everywhere."
    )
    credit_percent = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        help_text="Of the limit, while a period is paid for later by agreement: with usage-based prices, and within an "
        "invoice's terms. Empty: as everywhere.",
    )
    upgrade = models.CharField(
        max_length=5,
        choices=Upgrade.choices,
        blank=True,
        default="",
        db_default="",
        help_text="How far a rise in mid-period counts. Empty: as everywhere.",
    )
    upgrade_times = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        help_text="A rise that counts whole makes the limit at most so many times what was paid. Empty: as everywhere.",
    )
    downgrade = models.CharField(
        max_length=10,
        choices=Downgrade.choices,
        blank=True,
        default="",
        db_default="",
        help_text="When one that Stripe has not credited yet lowers the limit. Empty: as everywhere.",
    )
    pause = models.CharField(
        max_length=9,
        choices=Pause.choices,
        blank=True,
        default="",
        db_default="",
        help_text="What a subscription whose collection is paused counts as. Empty: as everywhere.",
    )
    is_default = models.BooleanField(
        default=False, help_text="Used, with an alert, where nothing matches a subscription's prices."
    )
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["limit_nanos", "name"]
        constraints = [
            *PolicyFields.Meta.constraints,
            models.CheckConstraint(condition=Q(limit_nanos__gt=0), name="plan_limit_positive"),
            models.CheckConstraint(
                condition=(Q(trial_percent__isnull=True) | Q(trial_percent__lte=100))
                & (Q(provisional_percent__isnull=True) | Q(provisional_percent__lte=100))
                & (Q(credit_percent__isnull=True) | Q(credit_percent__lte=100)),
                name="plan_percentages_in_range",
            ),
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="plan_one_default"),
        ]

    def __str__(self) -> str:
        return self.name
