"""What Stripe said last about its objects."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from billing.models.accounts import BillingAccount


class Mirrored(models.Model):
    """What Stripe said last about one of its objects. `version` orders what events said of it."""

    stripe_id = models.CharField(max_length=255, unique=True)
    data = models.JSONField()
    version = models.CharField(max_length=320)
    updated_at = models.DateTimeField()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.stripe_id


class Subscription(Mirrored):
    account = models.ForeignKey(BillingAccount, on_delete=models.PROTECT, related_name="subscriptions")
    status = models.CharField(max_length=30, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [models.CheckConstraint(condition=~Q(stripe_id=""), name="subscription_id_not_empty")]


class Invoice(Mirrored):
    account = models.ForeignKey(BillingAccount, on_delete=models.PROTECT, related_name="invoices")
    subscription_id = models.CharField(max_length=255, blank=True)
    status = models.CharField(max_length=30, blank=True)
    billing_reason = models.CharField(max_length=40, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [models.CheckConstraint(condition=~Q(stripe_id=""), name="invoice_id_not_empty")]


class CatalogEntry(Mirrored):
    """A price (or plan, as older versions say) or product, for its metadata and lookup key."""

    class Kind(models.TextChoices):
        PRICE = "price"
        PRODUCT = "product"

    kind = models.CharField(max_length=8, choices=Kind.choices)
    # The first lookup key: a price keeps the plan it was sold under when its key moves on to another.
    sold_as = models.CharField(max_length=255, blank=True, default="", db_default="")
    sold_as_version = models.CharField(max_length=320, blank=True, default="", db_default="")

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "catalog entries"
        constraints = [
            models.CheckConstraint(condition=~Q(stripe_id=""), name="catalog_id_not_empty"),
            models.CheckConstraint(condition=Q(kind__in=["price", "product"]), name="catalog_kind_known"),
        ]


class Payment(Mirrored):
    """A charge, or what became of one: a refund, a dispute, a credit note. Most name no customer, only a charge."""

    account = models.ForeignKey(
        BillingAccount, on_delete=models.PROTECT, null=True, blank=True, related_name="payments"
    )
    kind = models.CharField(max_length=12)
    charge_id = models.CharField(max_length=255, blank=True)
    intent_id = models.CharField(max_length=255, blank=True)
    invoice_id = models.CharField(max_length=255, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=["charge", "refund", "dispute", "credit_note"]), name="payment_kind_known"
            ),
        ]
        indexes = [
            models.Index(fields=["charge_id"], name="payment_by_charge"),
            models.Index(fields=["intent_id"], name="payment_by_intent"),
        ]
