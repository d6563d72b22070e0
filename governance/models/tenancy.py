"""Who calls: tenants, their agents and the keys that name them."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime
from zoneinfo import ZoneInfo, available_timezones

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils.crypto import salted_hmac

from governance.rules import names
from governance.rules.errors import FieldError

KEY_PREFIX = "sg_"
# Of a key that was issued elsewhere, whose text nobody here has seen.
ADOPTED_PREFIX = "ext_"
DIGEST = re.compile("[0-9a-f]{64}")


class Tenant(models.Model):
    """A customer of the business: the one whose agents spend and whose subscription pays."""

    class Status(models.TextChoices):
        ACTIVE = "active"
        PAUSED = "paused", "paused by an operator"
        SUSPENDED = "suspended", "suspended by billing"

    slug = models.SlugField(unique=True, help_text="Names the tenant in the API, filters and commands.")
    name = models.CharField(max_length=200)
    time_zone = models.CharField(
        max_length=64,
        default="UTC",
        help_text="IANA name; calendar windows (day, week, month) follow it.",
    )
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.ACTIVE)
    show_amounts = models.BooleanField(
        default=True, help_text="Whether refusals show agents the amounts of the budget that refused."
    )
    default_max_tokens = models.PositiveIntegerField(
        default=4096, help_text="Put on calls that name no max_tokens; without it a call has no bound."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["slug"]
        constraints = [
            models.CheckConstraint(condition=~Q(slug=""), name="tenant_slug_not_empty"),
            models.CheckConstraint(
                condition=Q(status__in=["active", "paused", "suspended"]), name="tenant_status_known"
            ),
            models.CheckConstraint(condition=Q(default_max_tokens__gt=0), name="tenant_max_tokens_positive"),
        ]

    def __str__(self) -> str:
        return self.slug

    def clean(self) -> None:
        self.name = _name("label", self.name, field="name")
        if self.time_zone and self.time_zone not in available_timezones():
            raise ValidationError({"time_zone": f"{self.time_zone!r} is not an IANA time zone such as Europe/Paris."})

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


class Agent(models.Model):
    """One AI agent of a tenant. Registered by an operator, or by the first call that names it."""

    class Status(models.TextChoices):
        ACTIVE = "active"
        PAUSED = "paused"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="agents")
    slug = models.CharField(max_length=100)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.ACTIVE)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["tenant__slug", "slug"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "slug"], name="agent_unique_in_tenant"),
            models.CheckConstraint(condition=~Q(slug=""), name="agent_slug_not_empty"),
            models.CheckConstraint(condition=Q(status__in=["active", "paused"]), name="agent_status_known"),
        ]

    def __str__(self) -> str:
        return f"{self.tenant.slug}/{self.slug}"

    def clean(self) -> None:
        self.slug = _name("agent", self.slug, field="slug")


class Role(models.TextChoices):
    AGENT = "agent", "agent: calls models, reads its own budgets"
    TENANT = "tenant", "tenant: calls models, reads its tenant's budgets and spend"
    OPERATOR = "operator", "operator: everything"
    VIEWER = "viewer", "viewer: reads everything"


class ApiKey(models.Model):
    """A bearer key. Shown once when made; only its SHA-256 digest and a prefix for recognition are kept."""

    Role = Role

    name = models.CharField(max_length=200, blank=True)
    prefix = models.CharField(max_length=16, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    role = models.CharField(max_length=12, choices=Role.choices)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="keys")
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, null=True, blank=True, related_name="keys")
    issued_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
        help_text="Under /api/ the key may do nothing that this user may not. Empty: made on the command line.",
    )
    # Of a key that took the place of another: the prefix of the first of these.
    rotated_from = models.CharField(max_length=16, blank=True, default="", db_default="", editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                name="api_key_role_fits_binding",
                condition=(
                    Q(role="agent", tenant__isnull=False, agent__isnull=False)
                    | Q(role="tenant", tenant__isnull=False, agent__isnull=True)
                    | Q(role__in=["operator", "viewer"], tenant__isnull=True, agent__isnull=True)
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.prefix}… ({self.role})"

    @property
    def scope_key(self) -> str:
        """What budgets and rate limits of a key know it by: one that is rotated goes on in the same windows."""
        return self.rotated_from or self.prefix

    def is_usable(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def _name(kind: str, text: str, *, field: str) -> str:
    """A name in the form that is kept. Raises the ValidationError of its field."""
    try:
        return names.of_call(kind, text, field=field)
    except FieldError as error:
        raise ValidationError({field: error.message}) from error


class TenantStaff(models.Model):
    """The one tenant that a console user of the role "tenant staff" sees."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="tenant_staff")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="staff")

    class Meta:
        # Granted with the role, by owners.
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.user} of {self.tenant.slug}"


def digest_of(key: str) -> str:
    """The stored form of a key. A plain hash is enough: keys are 32 random bytes, not passwords."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key(
    *, role: str, tenant: Tenant | None = None, agent: Agent | None = None, name: str = ""
) -> tuple[str, ApiKey]:
    """An unsaved key and its text, which can be had only here."""
    text = KEY_PREFIX + secrets.token_urlsafe(32)
    return text, ApiKey(name=name, prefix=text[:10], digest=digest_of(text), role=role, tenant=tenant, agent=agent)


def adopted_prefix(digest: str) -> str:
    """What a key from elsewhere is recognised by: 48 bits, the same at each look.

    Made with SECRET_KEY: people choose keys elsewhere, and a piece of the digest itself would let whoever may see
    prefixes try words against it.
    """
    return ADOPTED_PREFIX + salted_hmac("governance.adopted_key", digest, algorithm="sha256").hexdigest()[:12]
