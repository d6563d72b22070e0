"""The catalogue in the console: models, their aliases, and prices, which are added and never changed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminPasswordWidget

from governance.console.admins import ConsoleAdmin, actor
from llm import addresses, catalog, endpoints, prices
from llm.models import Model, ModelAlias, Price, ProviderEndpoint
from llm.providers import trial


class CatalogueAdmin(ConsoleAdmin):
    """Saves through the domain function, which leaves the audit row."""

    def save_model(self, request: HttpRequest, obj: Any, form: forms.ModelForm[Any], change: bool) -> None:
        old = {name: str(form.initial.get(name)) for name in form.changed_data} if change else None
        prices.save(row=obj, old=old, by=actor(request), now=timezone.now())


@admin.register(Model)
class ModelAdmin(CatalogueAdmin):
    list_display = ("name", "state", "kind_list", "capability_list", "context_tokens", "input_price", "output_price")
    list_filter = ("status", "provider")
    search_fields = ("name", "aliases__name")
    fieldsets = (
        (None, {"fields": (("name", "status"), ("provider", "owned_by"))}),
        ("What it can do", {"fields": ("kinds", "capabilities", ("context_tokens", "image_tokens"))}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        return super().get_queryset(request).prefetch_related("aliases", "prices")  # type: ignore[no-any-return]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        # Entries of the ledger name a model by its id.
        return ("name", "provider") if obj else ()

    @display(
        description="status",
        ordering="status",
        label={"ga": "success", "preview": "info", "deprecated": "warning", "retired": "danger"},
    )
    def state(self, model: Model) -> tuple[str, str]:
        return model.status, model.get_status_display()

    @display(description="kinds")
    def kind_list(self, model: Model) -> str:
        return ", ".join(model.kinds)

    @display(description="can")
    def capability_list(self, model: Model) -> str:
        return ", ".join(word for word in model.capabilities if word not in model.kinds)

    @display(description="input, $ per million")
    def input_price(self, model: Model) -> str:
        return _now(model, "input_picos")

    @display(description="output, $ per million")
    def output_price(self, model: Model) -> str:
        return _now(model, "output_picos")


@admin.register(ModelAlias)
class ModelAliasAdmin(CatalogueAdmin):
    list_display = ("name", "model")
    list_filter = ("model",)
    search_fields = ("name", "model__name")
    autocomplete_fields = ("model",)
    list_select_related = ("model",)


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]
    """People know prices in dollars a million units; the catalogue keeps picodollars a unit."""

    usd_per_million = forms.DecimalField(
        label="Dollars per million units",
        min_value=Decimal(0),
        max_digits=16,
        decimal_places=6,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text="Tokens or pages: 0.15 a million tokens, 4000 a million pages.",
    )

    class Meta:
        model = Price
        fields = ("model", "unit", "zone", "tier", "batch", "effective_from", "source", "verified_at")

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        dollars = self.cleaned_data.get("usd_per_million")
        if dollars is not None:
            self.instance.picos_per_unit = int(dollars * prices.PICOS_PER_DOLLAR_PER_MILLION)
        if not self.errors and self._taken():
            self.add_error("effective_from", "There is a price from that very moment on; choose a later one.")
        return cleaned

    def _taken(self) -> bool:
        key = {name: self.cleaned_data[name] for name in ("model", "unit", "zone", "tier", "batch")}
        since = self.cleaned_data["effective_from"]
        moment = {"effective_from": since} if since else {"effective_from__isnull": True}
        return Price.objects.filter(**key, **moment).exists()


@admin.register(Price)
class PriceAdmin(ConsoleAdmin):
    form = PriceForm
    list_display = ("model", "unit", "dollars", "effective_from", "zone", "tier", "batch", "source", "verified_at")
    list_filter = ("unit", "zone", "batch", "model")
    search_fields = ("model__name", "model__aliases__name", "source")
    autocomplete_fields = ("model",)
    list_select_related = ("model",)
    readonly_fields = ("dollars",)
    ordering = ("model__name", "unit", "-effective_from")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A wrong price is superseded by a later one."""
        return False

    def get_fields(self, request: HttpRequest, obj: Price | None = None) -> tuple[str | tuple[str, ...], ...]:
        amount = "dollars" if obj else "usd_per_million"
        return ("model", ("unit", amount), ("zone", "tier", "batch"), "effective_from", ("source", "verified_at"))

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"effective_from": timezone.now(), **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: Price, form: forms.ModelForm[Price], change: bool) -> None:
        prices.add(price=obj, by=actor(request), now=timezone.now())

    @display(description="$ per million", ordering="picos_per_unit")
    def dollars(self, price: Price) -> str:
        return _per_million(price.picos_per_unit)


class ProviderEndpointForm(forms.ModelForm):  # type: ignore[type-arg]
    """A key goes in here; it never comes out again."""

    new_key = forms.CharField(
        label="Key",
        required=False,
        strip=True,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="Kept encrypted and shown to nobody. Leave it empty to keep the key that is there.",
    )

    class Meta:
        model = ProviderEndpoint
        fields = ("name", "kind", "base_url", "key_env", "enabled")

    def clean_base_url(self) -> str:
        return str(self.cleaned_data["base_url"]).rstrip("/")

    def clean_new_key(self) -> str:
        key = str(self.cleaned_data["new_key"] or "")
        if problem := addresses.problem_with_key(key):
            raise forms.ValidationError(problem)
        return key

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        new_key, key_env = (self.cleaned_data.get(name) or "" for name in ("new_key", "key_env"))
        if new_key and key_env:
            self.add_error("new_key", "Enter a key or name its variable, not both.")
        elif not self.errors:
            self._check_key(new_key)
        return cleaned

    def _check_key(self, new_key: str) -> None:
        before = ProviderEndpoint.objects.filter(pk=self.instance.pk).first()
        row = ProviderEndpoint(**{name: self.cleaned_data[name] for name in ("kind", "base_url", "key_env")})
        try:
            endpoints.check_key(row=row, before=before, new_key=new_key)
        except endpoints.KeyNeeded as error:
            self.add_error("new_key", str(error))


@admin.register(ProviderEndpoint)
class ProviderEndpointAdmin(ConsoleAdmin):
    """Where models can be called besides the environment's providers. Seen by staff, changed by operators."""

    form = ProviderEndpointForm
    list_display = ("name", "kind", "base_url", "key", "enabled")
    search_fields = ("name", "base_url")
    fieldsets = (
        (None, {"fields": (("name", "kind"), "base_url", "enabled")}),
        ("Its key", {"fields": (("key_env", "new_key"),)}),
    )
    actions_list = ("try_all",)
    actions_detail = ("try_one",)

    def get_readonly_fields(self, request: HttpRequest, obj: ProviderEndpoint | None = None) -> tuple[str, ...]:
        # The catalogue's models and the ledger's entries go by the name.
        return ("name",) if obj else ()

    def get_fieldsets(self, request: HttpRequest, obj: ProviderEndpoint | None = None) -> Any:
        if self.has_change_permission(request, obj):
            return super().get_fieldsets(request, obj)
        return ((None, {"fields": ("name", "kind", "base_url", "key", "enabled")}),)

    def save_model(
        self, request: HttpRequest, obj: ProviderEndpoint, form: forms.ModelForm[ProviderEndpoint], change: bool
    ) -> None:
        endpoints.save(row=obj, new_key=form.cleaned_data["new_key"], by=actor(request), now=timezone.now())

    @display(description="key")
    def key(self, endpoint: ProviderEndpoint) -> str:
        return endpoint.key_env or ("set" if endpoint.sealed_key else "none")

    @action(description="Try all connections", url_path="try", permissions=["operate"], icon="network_check")
    def try_all(self, request: HttpRequest) -> HttpResponse:
        self._tell(request, trial.try_out())
        return HttpResponseRedirect(reverse("admin:llm_providerendpoint_changelist"))

    @action(description="Try the connection", url_path="try", permissions=["operate"], icon="network_check")
    def try_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        endpoint = get_object_or_404(ProviderEndpoint, pk=object_id)
        tried = trial.try_out(only=endpoint.name)
        self._tell(request, tried)
        if not tried:
            messages.warning(request, f"{endpoint.name} is switched off, or its key cannot be had.")
        return HttpResponseRedirect(reverse("admin:llm_providerendpoint_change", args=(object_id,)))

    def _tell(self, request: HttpRequest, tried: list[trial.Trial]) -> None:
        for one in tried:
            tell = messages.success if one.works else messages.error
            tell(request, f"{one.provider}: {one.message}")


def _now(model: Model, rate: str) -> str:
    rates = catalog.rates_at(model=model, at=timezone.now())
    return _per_million(getattr(rates, rate)) if rates and rates.by_token else "-"


def _per_million(picos: int) -> str:
    dollars = Decimal(picos) / prices.PICOS_PER_DOLLAR_PER_MILLION
    return f"{dollars.normalize():f}"
