"""Stripe's customers, and what their subscriptions, top-ups and trials come to."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from governance.models import Tenant


class BillingAccount(models.Model):
    """A Stripe customer, the tenant it pays for, and what its subscriptions come to.

    The row is the customer's lock. `fetches` counts the readings of Stripe begun for it; `written` is the number of the
    one that was written last, before which the others are out of date. A worker that reads it for its events has its
    turn until `turn_until`. Written by `billing.accounts.sync` and `billing.accounts.binding`.
    """

    class State(models.TextChoices):
        ACTIVE = "active"
        TRIAL = "trial"
        PROVISIONAL = "provisional", "provisional: payment is on its way"
        FROZEN = "frozen", "frozen: the payment went back or is in dispute"
        FREE = "free", "free: the free tier's limit"
        LAPSED = "lapsed", "lapsed: the paid period is over"
        SUSPENDED = "suspended"
        PENDING = "pending", "pending: nothing paid yet"
        CLOSED = "closed"
        NONE = "none", "no subscription"

    class ClaimSource(models.TextChoices):
        """Who says that the customer pays for the tenant it claims. `PURCHASE`: the business, of a checkout or invoice
        that sells something once, which lowers nobody's budget."""

        PAYER = "payer", "whoever paid"
        PURCHASE = "purchase", "a purchase of ours"
        BUSINESS = "business", "our reference, or Stripe's metadata"

    stripe_customer_id = models.CharField(max_length=255, unique=True)
    tenant = models.OneToOneField(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="billing_account"
    )
    claimed_tenant = models.CharField(
        max_length=200,
        blank=True,
        help_text="The tenant that Stripe's objects name, and about which no operator has decided.",
    )
    # Claims of versions before this field are nobody's word until Stripe's objects name the tenant again.
    claim_source = models.CharField(
        max_length=8, choices=ClaimSource.choices, default=ClaimSource.PAYER, db_default=ClaimSource.PAYER.value
    )
    claim_reference = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="The reference of ours that it came with; it is spent.",
    )
    decided_claims = models.JSONField(
        default=list,
        db_default=models.Value([], models.JSONField()),
        blank=True,
        help_text="Tenants about which an operator has decided.",
    )
    has_begun = models.BooleanField(
        default=False, db_default=False, help_text="A subscription of it was paid for once, or tried."
    )
    limit_override_nanos = models.BigIntegerField(null=True, blank=True)
    state = models.CharField(max_length=12, choices=State.choices, default=State.NONE)
    plan = models.CharField(max_length=200, blank=True)
    limit_nanos = models.BigIntegerField(null=True, blank=True)
    period_start = models.DateTimeField(null=True, blank=True)
    period_end = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(
        null=True, blank=True, help_text="When time alone changes what its subscriptions come to."
    )
    subscription_id = models.CharField(max_length=255, blank=True)
    reasons = models.JSONField(default=list, blank=True)
    # What the prices of its subscriptions were worth when the spans began that they count in: `rules.kept_worths`.
    kept_values = models.JSONField(default=dict, blank=True)
    window_start = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    fetches = models.PositiveBigIntegerField(default=0)
    written = models.PositiveBigIntegerField(default=0, db_default=0)
    turn_until = models.DateTimeField(null=True, blank=True)
    fetched_at = models.DateTimeField(null=True, blank=True)
    # Of what was read last and of all else that what it came to follows from.
    read_digest = models.CharField(max_length=64, blank=True, default="", db_default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["stripe_customer_id"]
        indexes = [models.Index(fields=["due_at"], name="account_by_due_at")]
        constraints = [
            models.CheckConstraint(condition=~Q(stripe_customer_id=""), name="account_customer_not_empty"),
            models.CheckConstraint(
                condition=Q(limit_override_nanos__isnull=True) | Q(limit_override_nanos__gt=0),
                name="account_override_positive",
            ),
            models.CheckConstraint(
                condition=Q(limit_nanos__isnull=True) | Q(limit_nanos__gt=0), name="account_limit_positive"
            ),
            models.CheckConstraint(
                condition=Q(period_start__isnull=True, period_end__isnull=True) | Q(period_end__gt=F("period_start")),
                name="account_period_ends_after_start",
            ),
            models.UniqueConstraint(
                fields=["claim_reference"], condition=~Q(claim_reference=""), name="account_reference_once"
            ),
        ]

    def __str__(self) -> str:
        return self.stripe_customer_id


class BillingPeriod(models.Model):
    """One window of a tenant that Stripe opened: whose periods it is made of, and what their prices were worth.

    What was used is the ledger's to say, what was paid the invoices'. Written by `billing.accounts.budget_windows`.
    """

    account = models.ForeignKey(BillingAccount, on_delete=models.PROTECT, related_name="periods")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    parts = models.JSONField(default=list)
    kept_values = models.JSONField(default=dict)
    given_nanos = models.BigIntegerField(
        default=0, help_text="Given by an operator, as rows of earlier versions have it; never owed."
    )
    peak_nanos = models.BigIntegerField(default=0, help_text="The highest limit that the window had, in nanodollars.")
    # Of parts and top-ups, by their keys, what of the window's use was drawn on each when it was looked at last, and
    # the most that could be; without a key what was used beyond everything.
    draws = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()))
    # Of parts that lost some of what they allowed, each time: how much was lost, what stood then, what was used by
    # then, and whether an operator took it away.
    undone = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()))
    # Calls that were under way when something came to allow less: their ids, the most that each part and
    # top-up had for them, and how many losses of each part were known before.
    held = models.JSONField(default=list, db_default=models.Value([], models.JSONField()))
    seen_nanos = models.BigIntegerField(
        null=True,
        blank=True,
        help_text="What was used when it was looked at last, in nanodollars; None once it is known that less is.",
    )
    past_nanos = models.BigIntegerField(
        null=True,
        blank=True,
        help_text="What was used in the windows before it when it was looked at last, in nanodollars.",
    )

    class Meta:
        ordering = ["-starts_at"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "starts_at"], name="billing_period_once"),
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="billing_period_ends_after_start"),
            models.CheckConstraint(
                condition=Q(given_nanos__gte=0, peak_nanos__gte=0),
                name="billing_period_not_negative",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} from {self.starts_at:%Y-%m-%d %H:%M}"


class TopUp(models.Model):
    """Budget bought in addition, once for each invoice line (or checkout without an invoice). The amount is kept as
    it was when it was first seen. `account`: who bought it, None where Stripe made no customer. Written by
    `billing.accounts.purchases` and `billing.accounts.guests`.
    """

    key = models.CharField(max_length=255, unique=True, help_text="Stripe's id of the invoice line or checkout.")
    account = models.ForeignKey(BillingAccount, on_delete=models.PROTECT, related_name="topups", null=True, blank=True)
    named_tenant = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="The tenant that the business named for a checkout without a customer.",
    )
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    amount_nanos = models.BigIntegerField()
    refunded_nanos = models.BigIntegerField(default=0)
    disputed_nanos = models.BigIntegerField(
        default=0, db_default=0, help_text="What of the refunded was lost in a dispute, in nanodollars."
    )
    credited_nanos = models.BigIntegerField(
        default=0, db_default=0, help_text="What of it was paid with credit, in nanodollars."
    )
    used_before_nanos = models.BigIntegerField(
        default=0, db_default=0, help_text="Used before the tenant had a subscription, in nanodollars."
    )
    # Of calls that were under way then: what was used without them, and for each window what was used of it beyond the
    # rest of its limit, the most that it has of the top-up, and their ids.
    held_before = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()))
    invoice_id = models.CharField(max_length=255, blank=True)
    intent_id = models.CharField(max_length=255, blank=True)
    noted_at = models.DateTimeField()
    counts_from = models.DateTimeField(null=True, blank=True, help_text="Start of the first window it counts in.")

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=~Q(key=""), name="topup_key_not_empty"),
            models.CheckConstraint(
                condition=Q(amount_nanos__gt=0, refunded_nanos__gte=0, refunded_nanos__lte=F("amount_nanos")),
                name="topup_amounts_in_range",
            ),
            models.CheckConstraint(
                condition=Q(disputed_nanos__gte=0, disputed_nanos__lte=F("refunded_nanos")),
                name="topup_disputed_in_range",
            ),
            models.CheckConstraint(
                condition=Q(used_before_nanos__gte=0, used_before_nanos__lte=F("amount_nanos")),
                name="topup_used_before_in_range",
            ),
            models.CheckConstraint(
                condition=Q(counts_from__isnull=True) | Q(tenant__isnull=False), name="topup_counts_for_a_tenant"
            ),
            models.CheckConstraint(
                condition=Q(account__isnull=False) | ~Q(named_tenant=""), name="topup_is_for_somebody"
            ),
        ]

    def __str__(self) -> str:
        return self.key


class Trial(models.Model):
    """A tenant's one trial of a product, and the subscription that had it."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    product_id = models.CharField(max_length=255)
    subscription_id = models.CharField(max_length=255)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "product_id"], name="trial_once_per_product"),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.product_id}"
