"""The catalogue of models and their prices. Prices are never overwritten: a wrong one is superseded by a later row."""

from __future__ import annotations

from typing import Any, Never

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from governance.rules import names
from governance.rules.calls import TOOL_PROVIDER
from governance.rules.errors import FieldError
from llm.rules import addresses, price_periods, request_fields
from llm.rules.capabilities import CAPABILITIES, KINDS, TOOL
from llm.rules.pricing import UNKNOWN_IMAGE_TOKENS


def check_name(name: str) -> None:
    """Raises the ValidationError of a model's name that no call could name."""
    try:
        names.checked("model", name, field="name")
    except FieldError as error:
        raise ValidationError({"name": error.message}) from error


class Model(models.Model):
    """A model, named as its provider does; two may use one name. Only a served one (ga, deprecated) can be called.

    A tool that agents run themselves is one as well, at the provider `tool`: see `llm.catalogue.tools`.
    """

    class Status(models.TextChoices):
        GA = "ga", "served"
        PREVIEW = "preview", "preview: not served until confirmed"
        DEPRECATED = "deprecated", "deprecated: still served"
        RETIRED = "retired"

    SERVED = (Status.GA, Status.DEPRECATED)

    name = models.CharField("id", max_length=100, help_text="The provider's own id, not an alias.")
    provider = models.CharField(max_length=40, default="mistral")
    owned_by = models.CharField(max_length=40, default="mistralai")
    kinds = models.JSONField(default=list)
    capabilities = models.JSONField(default=list, blank=True)
    context_tokens = models.PositiveIntegerField(null=True, blank=True)
    image_tokens = models.PositiveIntegerField(
        default=UNKNOWN_IMAGE_TOKENS, help_text="The most tokens that one picture may cost."
    )
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.GA)
    # What the provider says of it, as the nightly look at its list found it.
    billing_name = models.CharField(max_length=100, blank=True, help_text="What the provider's invoices call it.")
    deprecated_at = models.DateTimeField(null=True, blank=True, help_text="From when on the provider lets it go.")
    replacement = models.CharField(max_length=100, blank=True, help_text="What the provider would put in its place.")
    listed_at = models.DateTimeField(null=True, blank=True, help_text="When the provider's list last named it.")

    class Meta:
        ordering = ["name", "provider"]
        constraints = [
            models.UniqueConstraint(fields=["provider", "name"], name="model_one_per_provider"),
            models.CheckConstraint(condition=~Q(name=""), name="model_has_a_name"),
            models.CheckConstraint(condition=~Q(provider=""), name="model_has_a_provider"),
            models.CheckConstraint(
                condition=Q(status__in=["ga", "preview", "deprecated", "retired"]), name="model_status_known"
            ),
            models.CheckConstraint(
                condition=Q(context_tokens__isnull=True) | Q(context_tokens__gt=0),
                name="model_context_positive",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        problems = {}
        for field, known in (("kinds", KINDS), ("capabilities", CAPABILITIES)):
            words = getattr(self, field)
            if not isinstance(words, list) or any(word not in known for word in words):
                problems[field] = f"A list of any of: {', '.join(known)}."
        if (self.provider == TOOL_PROVIDER) != (self.kinds == [TOOL]):
            problems["kinds"] = f"What is priced by the call is of the kind {TOOL} and the provider {TOOL_PROVIDER}."
        if ModelAlias.objects.filter(provider=self.provider, name=self.name).exists():
            problems["name"] = f"{self.name!r} is an alias of another model."
        if problems:
            raise ValidationError(problems)
        check_name(self.name)


class ModelAlias(models.Model):
    """Another name of a model, such as mistral-small-latest. At one provider a name means one model."""

    name = models.CharField(max_length=100)
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="aliases")
    # The model's own, kept here for the constraint.
    provider = models.CharField(max_length=40, editable=False)

    class Meta:
        ordering = ["name", "provider"]
        verbose_name_plural = "model aliases"
        constraints = [
            models.UniqueConstraint(fields=["provider", "name"], name="alias_one_per_provider"),
            models.CheckConstraint(condition=~Q(name=""), name="alias_has_a_name"),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.provider = self.model.provider
        super().save(*args, **kwargs)

    def clean(self) -> None:
        check_name(self.name)
        if getattr(self, "model_id", None) is None:
            return
        self.provider = self.model.provider
        if Model.objects.filter(provider=self.provider, name=self.name).exists():
            raise ValidationError({"name": f"{self.name!r} is the id of a model."})
        if ModelAlias.objects.filter(provider=self.provider, name=self.name).exclude(pk=self.pk).exists():
            raise ValidationError({"name": f"{self.name!r} is an alias already."})


class PriceQuerySet(models.QuerySet["Price"]):
    """Prices are added, never changed and never deleted: entries name the rule that they were charged by."""

    def update(self, **kwargs: Any) -> Never:
        raise TypeError("a price is never changed; add one that supersedes it or begins later")

    def delete(self) -> Never:
        raise TypeError("a price is never deleted; add one that supersedes it or begins later")


class Price(models.Model):
    """What one unit costs from a moment on, in picodollars (10^-12 USD); the latest row that has begun counts.

    A wrong price is put right by a row of the same moment that `supersedes` it: then the wrong one never counts again,
    for the past neither, and `llm.catalogue.repricing` posts what calls were charged too much or too little.
    """

    class Unit(models.TextChoices):
        INPUT = "input", "input token"
        CACHED_INPUT = "cached_input", "cached input token"
        OUTPUT = "output", "output token"
        PAGE = "page"
        ANNOTATED_PAGE = "annotated_page", "annotated page"
        AUDIO_SECOND = "audio_second", "second of audio"
        CALL = "call", "call of a tool"

    class Zone(models.TextChoices):
        GLOBAL = "global"
        EU = "eu", "EU"
        US = "us", "US"

    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="prices")
    unit = models.CharField(max_length=16, choices=Unit.choices)
    picos_per_unit = models.BigIntegerField(
        "picodollars a unit", help_text="0.15 dollars a million tokens are 150000 picodollars a token."
    )
    currency = models.CharField(max_length=3, default="USD")
    zone = models.CharField("API zone", max_length=8, choices=Zone.choices, default=Zone.GLOBAL)
    tier = models.CharField("service tier", max_length=16, default="standard")
    batch = models.BooleanField(default=False)
    above_input_tokens = models.PositiveIntegerField(
        "above input tokens",
        default=0,
        db_default=0,
        help_text="200000 where a price list says: prompts above 200k. All of a call with more input tokens costs this,"
        " or the price of shorter calls where that is more. 0: calls of any length.",
    )
    effective_from = models.DateTimeField(null=True, blank=True, help_text="Empty: since before our records.")
    source = models.CharField(max_length=200, blank=True)
    verified_at = models.DateTimeField(null=True, blank=True)
    supersedes = models.OneToOneField(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="superseded_by"
    )
    recorded_at = models.DateTimeField(null=True, blank=True, help_text="Empty: shipped with the product.")

    objects = PriceQuerySet.as_manager()

    class Meta:
        ordering = ["model__name", "unit", "-effective_from", "-id"]
        constraints = [
            models.CheckConstraint(condition=Q(picos_per_unit__gte=0), name="price_not_negative"),
            models.CheckConstraint(condition=Q(currency="USD"), name="price_in_usd"),
            models.CheckConstraint(
                condition=Q(
                    unit__in=["input", "cached_input", "output", "page", "annotated_page", "audio_second", "call"]
                ),
                name="price_unit_known",
            ),
            models.CheckConstraint(condition=Q(zone__in=["global", "eu", "us"]), name="price_zone_known"),
            models.CheckConstraint(
                condition=Q(above_input_tokens=0) | Q(unit__in=["input", "cached_input", "output"]),
                name="price_by_length_is_of_tokens",
                violation_error_message="Only tokens have a price of longer calls.",
            ),
            models.UniqueConstraint(
                fields=["model", "unit", "currency", "zone", "tier", "batch", "above_input_tokens", "effective_from"],
                condition=Q(effective_from__isnull=False, supersedes__isnull=True),
                name="price_once_per_moment",
            ),
            models.UniqueConstraint(
                fields=["model", "unit", "currency", "zone", "tier", "batch", "above_input_tokens"],
                condition=Q(effective_from__isnull=True, supersedes__isnull=True),
                name="price_once_since_ever",
            ),
        ]

    def __str__(self) -> str:
        length = f" above {self.above_input_tokens:,}" if self.above_input_tokens else ""
        price = price_periods.of_unit(self.unit, self.picos_per_unit)
        return f"{self.model} {self.get_unit_display()}{length}: {price}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("a price is never changed; add one that supersedes it or begins later")
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> Never:
        raise TypeError("a price is never deleted; add one that supersedes it or begins later")


class ProviderEndpoint(models.Model):
    """A provider that operators add. `llm.providers.endpoints` saves it; the gateway reads it again within seconds."""

    class Kind(models.TextChoices):
        OPENAI_COMPATIBLE = "openai_compatible", "any that speaks OpenAI's dialect"
        OPENAI = "openai", "OpenAI"
        ANTHROPIC = "anthropic", "Anthropic"

    name = models.SlugField(max_length=40, unique=True, help_text="What the catalogue's models name as their provider.")
    kind = models.CharField(max_length=20, choices=Kind.choices, default=Kind.OPENAI_COMPATIBLE)
    base_url = models.CharField(
        "base URL",
        max_length=300,
        help_text="As the provider's own client takes it: with /v1 for OpenAI and its likes, without for Anthropic.",
    )
    key_env = models.CharField(
        "variable of the key",
        max_length=80,
        blank=True,
        help_text="The environment variable that holds the key, such as GROQ_API_KEY; or enter a key below.",
    )
    sealed_key = models.TextField(blank=True, editable=False)
    extra_fields = models.CharField(
        "extra request fields",
        max_length=500,
        blank=True,
        default="",
        db_default="",
        help_text="Fields of a chat that this endpoint takes and nobody else knows, such as top_n_sigma: numbers, flags"
        " and short texts under these names are passed on. None may make a call dearer.",
    )
    enabled = models.BooleanField(default=True)
    updated_at = models.DateTimeField(editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=~Q(name="") & ~Q(name__in=addresses.RESERVED_NAMES), name="provider_name_free"
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["openai_compatible", "openai", "anthropic"]), name="provider_kind_known"
            ),
            models.CheckConstraint(condition=Q(key_env="") | Q(sealed_key=""), name="provider_one_key"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def extra_names(self) -> list[str]:
        return (self.extra_fields or "").replace(",", " ").split()

    def clean(self) -> None:
        problems = {
            "name": "" if addresses.NAME.fullmatch(self.name or "") else "Use small letters, digits and hyphens.",
            "base_url": addresses.problem_with_base(self.base_url or "", private_allowed=settings.PRIVATE_ENDPOINTS),
            "key_env": addresses.problem_with_variable(self.key_env) if self.key_env else "",
            "extra_fields": request_fields.problem_with_extra(self.extra_names),
        }
        if self.extra_names and self.kind != self.Kind.OPENAI_COMPATIBLE:
            problems["extra_fields"] = "Only endpoints that speak OpenAI's dialect, and are not OpenAI, take any."
        if self.name in addresses.RESERVED_NAMES:
            problems["name"] = f"{self.name} is configured by the environment."
        if self.name == TOOL_PROVIDER:
            problems["name"] = f"{self.name} is what tools are priced under."
        if found := {field: problem for field, problem in problems.items() if problem}:
            raise ValidationError(found)
