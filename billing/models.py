"""Plans, Stripe's customers, mirrors of what Stripe said last, and the inbox of its events."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import uuid_utils.compat as uuids
from django.db import models
from django.db.models import F, Q

from governance.models import Tenant


class Plan(models.Model):
    """What a subscription is worth as a budget. Matched by ids and lookup keys, never by a name."""

    name = models.CharField(max_length=100, unique=True)
    limit_nanos = models.BigIntegerField(help_text="Budget for each period, in nanodollars.")
    soft_cap = models.DecimalField(max_digits=5, decimal_places=4, default=Decimal("0.8"))
    hard_cap = models.DecimalField(max_digits=5, decimal_places=4, default=Decimal("1"))
    downgrade_rules = models.JSONField(
        default=list,
        blank=True,
        help_text='[{"from": ["mistral-large-latest"], "to": "mistral-small-latest"}]',
    )
    disabled_tools = models.JSONField(default=list, blank=True)
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
    is_default = models.BooleanField(
        default=False, help_text="Used, with an alert, where nothing matches a subscription's prices."
    )
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["limit_nanos", "name"]
        constraints = [
            models.CheckConstraint(condition=Q(limit_nanos__gt=0), name="plan_limit_positive"),
            models.CheckConstraint(condition=Q(hard_cap__gt=0) & Q(hard_cap__lte=1), name="plan_hard_cap_in_range"),
            models.CheckConstraint(
                condition=Q(soft_cap__gt=0) & Q(soft_cap__lt=F("hard_cap")),
                name="plan_soft_cap_below_hard_cap",
            ),
            models.CheckConstraint(
                condition=(Q(trial_percent__isnull=True) | Q(trial_percent__lte=100))
                & (Q(provisional_percent__isnull=True) | Q(provisional_percent__lte=100)),
                name="plan_percentages_in_range",
            ),
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="plan_one_default"),
        ]

    def __str__(self) -> str:
        return self.name


class BillingAccount(models.Model):
    """A Stripe customer, the tenant it pays for, and what its subscriptions come to.

    The row is the customer's lock. `fetches` counts the readings of Stripe begun for it: one that is not the last
    is out of date. Written by `billing.sync` and `billing.accounts`.
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

    stripe_customer_id = models.CharField(max_length=255, unique=True)
    tenant = models.OneToOneField(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="billing_account"
    )
    claimed_tenant = models.CharField(
        max_length=200,
        blank=True,
        help_text="The tenant that Stripe's objects name; bound where it exists and is free.",
    )
    limit_override_nanos = models.BigIntegerField(null=True, blank=True)
    state = models.CharField(max_length=12, choices=State.choices, default=State.NONE)
    plan = models.CharField(max_length=200, blank=True)
    limit_nanos = models.BigIntegerField(null=True, blank=True)
    period_start = models.DateTimeField(null=True, blank=True)
    period_end = models.DateTimeField(null=True, blank=True)
    subscription_id = models.CharField(max_length=255, blank=True)
    reasons = models.JSONField(default=list, blank=True)
    # What the prices of the window now open were worth when it opened.
    kept_values = models.JSONField(default=dict, blank=True)
    window_start = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    fetches = models.PositiveBigIntegerField(default=0)
    fetched_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["stripe_customer_id"]
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
        ]

    def __str__(self) -> str:
        return self.stripe_customer_id


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


class BillingPeriod(models.Model):
    """One window of a tenant that Stripe opened: whose periods it is made of, and what their prices were worth.

    What was used is the ledger's to say, what was paid the invoices'. Written by `billing.spending`.
    """

    account = models.ForeignKey(BillingAccount, on_delete=models.PROTECT, related_name="periods")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    parts = models.JSONField(default=list)
    kept_values = models.JSONField(default=dict)
    floor_nanos = models.BigIntegerField(default=0, help_text="Used already when a top-up was bought, in nanodollars.")
    given_nanos = models.BigIntegerField(default=0, help_text="Given by an operator; it is never owed.")
    peak_nanos = models.BigIntegerField(default=0, help_text="The highest limit that the window had, in nanodollars.")

    class Meta:
        ordering = ["-starts_at"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "starts_at"], name="billing_period_once"),
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="billing_period_ends_after_start"),
            models.CheckConstraint(
                condition=Q(floor_nanos__gte=0, given_nanos__gte=0, peak_nanos__gte=0),
                name="billing_period_not_negative",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} from {self.starts_at:%Y-%m-%d %H:%M}"


class TopUp(models.Model):
    """Budget bought in addition, once for each invoice line (or checkout without an invoice). The amount is kept as
    it was when it was first seen. Written by `billing.spending`.
    """

    key = models.CharField(max_length=255, unique=True, help_text="Stripe's id of the invoice line or checkout.")
    account = models.ForeignKey(BillingAccount, on_delete=models.PROTECT, related_name="topups")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    amount_nanos = models.BigIntegerField()
    refunded_nanos = models.BigIntegerField(default=0)
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
                condition=Q(counts_from__isnull=True) | Q(tenant__isnull=False), name="topup_counts_for_a_tenant"
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
    """The inbox: one row for each event Stripe sent, kept as it came. Written by `billing.inbox`."""

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


class OutboundRequest(models.Model):
    """A POST to Stripe. Its key is committed before it is sent, so that a repeat of it cannot do it twice.

    Written by `billing.outbound`.
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


class MeterUnit(models.TextChoices):
    """What one of a meter's units is."""

    MICRODOLLARS = "microdollars", "micro-dollars of cost"
    TOKENS = "tokens"
    CALLS = "calls"


class UsageMeter(models.Model):
    """One customer's usage on one of Stripe's meters. The row is the lock of its outbox. Written by `billing.outbox`.

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

    The id is the event's `identifier`. `units` is what the hour changed by; `value` is what is sent: the units less
    what earlier hours took back. Amounts never change: a failed row that is tried again is replaced by a new one.
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


class StripeCheck(models.Model):
    """A look at Stripe: at its endpoint for us, for events that never came, or at all customers. The row is its lock.

    Written by `billing.healing` and `billing.endpoint`. `cursor` is where a long one goes on, in whichever process.
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
        verbose_name = "look at Stripe"
        verbose_name_plural = "looks at Stripe"
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
