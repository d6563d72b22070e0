"""The catalogue in the console: models, their aliases, and prices, which are added and never changed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminTextInputWidget,
)

from governance.console import display as show
from governance.console import reasons
from governance.console.amounts import AmountField
from governance.console.base import ConsoleAdmin, actor, may
from governance.ledger import clock
from llm.catalogue import overruns, prices
from llm.console import model_list, model_page, rates
from llm.console.model_list import StandingList
from llm.models import Model, Price
from llm.rules.capabilities import CAPABILITIES, KINDS
from llm.rules.price_periods import TOKENS
from llm.rules.pricing import UNKNOWN_IMAGE_TOKENS

PLACE = ("zone", "tier", "batch", "above_input_tokens")


class CatalogueAdmin(ConsoleAdmin):
    """Saves through the domain function, which leaves the audit row."""

    def save_model(self, request: HttpRequest, obj: Any, form: forms.ModelForm[Any], change: bool) -> None:
        old = {name: str(form.initial.get(name)) for name in form.changed_data} if change else None
        prices.save(row=obj, old=old, by=actor(request), now=timezone.now())


class ModelForm(forms.ModelForm):  # type: ignore[type-arg]
    """Words are ticked, not typed as JSON."""

    kinds = forms.MultipleChoiceField(
        choices=[(word, word) for word in KINDS], widget=UnfoldAdminCheckboxSelectMultipleWidget, required=False
    )
    capabilities = forms.MultipleChoiceField(
        choices=[(word, word) for word in CAPABILITIES], widget=UnfoldAdminCheckboxSelectMultipleWidget, required=False
    )

    class Meta:
        model = Model
        fields = "__all__"  # noqa: DJ007 - the admin names its fields


class ModelAdmin(CatalogueAdmin):
    form = ModelForm
    change_list_template = "console/models.html"
    add_form_template = "admin/change_form.html"
    change_form_template = "console/model.html"
    list_display = ("__str__",)
    list_per_page = 100
    list_filter = ("provider", "status")
    list_filter_sheet = True
    search_fields = ("name", "provider", "aliases__name")
    search_help_text = "A model, one of its other names, or a provider."
    ordering = ("name", "provider")
    actions_detail = ("serve_one", "retire_one", "clear_overruns")
    fieldsets = (
        (None, {"fields": (("name", "status"), ("provider", "owned_by"))}),
        (
            "What it can do",
            {
                "description": f"A picture counts as its image tokens at most. {UNKNOWN_IMAGE_TOKENS:,} of them "
                "say of a model that is not Mistral's that nobody knows: it counts as what OpenAI or Anthropic "
                "document, and is refused at any other provider.",
                "fields": ("kinds", "capabilities", ("context_tokens", "image_tokens")),
            },
        ),
        (
            "What its provider says",
            {
                "description": "From the provider's list of models, which is looked at every night.",
                "fields": (("billing_name", "listed_at"), ("deprecated_at", "replacement")),
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        # Django looks once for what a row is; a price's successor is asked for on every page of a model.
        priced = Prefetch("prices", Price.objects.select_related("superseded_by"))
        return overruns.shown(super().get_queryset(request).prefetch_related("aliases", priced))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[StandingList]:
        return StandingList

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        def read() -> dict[str, Any]:
            # Only where the page is shown: what was saved leads to another request.
            return model_page.context(self.row(request, object_id), timezone.now())

        may_price = may(request, "llm.add_price")
        more = {"read": read, "may_add_price": may_price, "may_correct": may(request, "llm.change_price")}
        return super().change_view(request, object_id, form_url, {**more, **(extra_context or {})})

    def get_actions_detail(self, request: HttpRequest, object_id: int | str) -> list[Any]:
        """Without what would do nothing."""
        row = self.get_object(request, str(object_id))
        if row is None:
            return []
        done = {"serve_one": row.status == Model.Status.GA, "retire_one": row.status == Model.Status.RETIRED}
        done["clear_overruns"] = not model_list.overrun_words(row)
        found: list[Any] = super().get_actions_detail(request, object_id)
        return [each for each in found if not any(each.action_name.endswith(name) for name in done if done[name])]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        said = ("billing_name", "listed_at", "deprecated_at", "replacement")
        # Entries of the ledger name a model by its id.
        return ("name", "provider", *said) if obj else said

    @action(description="Confirm and serve", url_path="serve", permissions=["operate"], icon="check_circle")
    def serve_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(
            request,
            object_id,
            verb="Serve",
            status=Model.Status.GA,
            explanation="From now on calls may name it, at the prices that its page shows. Check them first.",
        )

    @action(description="Retire", url_path="retire", permissions=["operate"], icon="do_not_disturb_on")
    def retire_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(
            request,
            object_id,
            verb="Retire",
            status=Model.Status.RETIRED,
            explanation="From now on calls that name it are refused. What was spent on it stays as it is.",
        )

    @action(description="Clear overruns", url_path="clear-overruns", permissions=["operate"], icon="restart_alt")
    def clear_overruns(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.row(request, object_id)
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Clear a model's overruns",
            verb="Clear",
            explanation="It wrote more than max_tokens, so its calls hold for all that it may write. From now on they "
            "hold for max_tokens again, until an answer passes it: each call that runs then may pass its cap.",
            rows=[row],
            act=lambda model, reason: overruns.clear(model=model, reason=reason, by=by, now=now),
            back=reverse("admin:llm_model_change", args=[row.pk]),
        )

    def _ask(
        self, request: HttpRequest, object_id: str, *, verb: str, status: Model.Status, explanation: str
    ) -> HttpResponse:
        row = self.row(request, object_id)
        by, now = actor(request), timezone.now()

        def act(model: Model, reason: str) -> None:
            try:
                prices.change_status(model=model, status=status, reason=reason, by=by, now=now)
            except prices.Unpriced as error:
                raise reasons.ActRefused(str(error)) from error

        return reasons.ask(
            request,
            model_admin=self,
            title=f"{verb} a model",
            verb=verb,
            explanation=explanation,
            rows=[row],
            act=act,
            back=reverse("admin:llm_model_change", args=[row.pk]),
        )


class ModelAliasAdmin(CatalogueAdmin):
    list_display = ("name", "model", "provider")
    list_filter = ("provider", "model")
    search_fields = ("name", "model__name")
    autocomplete_fields = ("model",)
    list_select_related = ("model",)


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]
    """People know prices in dollars a million units; the catalogue keeps picodollars a unit."""

    usd_per_million = AmountField(
        label="Dollars per million units",
        min_value=Decimal(0),
        max_digits=16,
        decimal_places=6,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text="0.15 a million tokens, 4000 a million pages, 50 a million seconds of audio.",
    )

    class Meta:
        model = Price
        fields = ("model", "unit", *PLACE, "effective_from", "source", "verified_at")

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        dollars = self.cleaned_data.get("usd_per_million")
        if dollars is not None:
            self.instance.picos_per_unit = int(dollars * prices.PICOS_PER_DOLLAR_PER_MILLION)
        return cleaned

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            prices.validate(self.instance)
        except prices.PriceExists as error:
            self.add_error("effective_from", str(error))


class CorrectForm(reasons.ReasonForm):
    usd_per_million = AmountField(
        label="Dollars per million units, as it should have been",
        min_value=Decimal(0),
        max_digits=16,
        decimal_places=6,
        widget=UnfoldAdminDecimalFieldWidget,
    )
    source = forms.CharField(max_length=200, required=False, widget=UnfoldAdminTextInputWidget)
    field_order = ("usd_per_million", "source", "reason")


class PriceAdmin(ConsoleAdmin):
    form = PriceForm
    list_display = ("named", "unit", "amount", "begins", "state", "place", "source")
    list_filter = ("unit", "zone", "tier", "batch", "model__provider", "model")
    search_fields = ("model__name", "model__aliases__name", "source")
    autocomplete_fields = ("model",)
    list_select_related = ("model", "superseded_by")
    readonly_fields = ("dollars", "state")
    ordering = ("model__name", "unit", "-effective_from", "-id")
    actions_detail = ("correct_one",)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A wrong price is superseded by a later one."""
        return False

    def get_fields(self, request: HttpRequest, obj: Price | None = None) -> tuple[str | tuple[str, ...], ...]:
        if obj is None:
            return ("model", ("unit", "usd_per_million"), PLACE, "effective_from", "source", "verified_at")
        begins = ("effective_from", "state")
        return ("model", ("unit", "dollars"), PLACE, begins, "source", "verified_at", ("supersedes", "recorded_at"))

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        # As prices begin: by the database's clock.
        return {"effective_from": clock.now(), **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: Price, form: forms.ModelForm[Price], change: bool) -> None:
        prices.add(price=obj, by=actor(request), now=timezone.now())

    @action(description="Correct", url_path="correct", permissions=["operate"], icon="edit")
    def correct_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        wrong = self.row(request, object_id)
        by, now = actor(request), timezone.now()

        def act(price: Price, *, usd_per_million: Decimal, source: str, reason: str) -> None:
            picos = int(usd_per_million * prices.PICOS_PER_DOLLAR_PER_MILLION)
            try:
                prices.correct(price=price, picos_per_unit=picos, source=source, by=by, now=now, reason=reason)
            except prices.CorrectedBefore as error:
                raise reasons.ActRefused(str(error)) from error

        return reasons.ask(
            request,
            model_admin=self,
            title="Correct a price",
            verb="Correct",
            explanation="It was wrong all along: the right one takes its place from its very beginning. What calls "
            f"were charged by it stays until `manage.py reprice {wrong.model}` is run, which shows first what it does.",
            rows=[wrong],
            act=act,
            back=reverse("admin:llm_model_change", args=[wrong.model_id]),
            asks=CorrectForm,
        )

    @display(description="Model", header=True, ordering="model__name")
    def named(self, price: Price) -> list[str]:
        return [price.model.name, price.model.provider]

    @display(description="State", label={"superseded": "danger", "coming": "info", "begun": "success"})
    def state(self, price: Price) -> str:
        return model_page.state_of(price, at=clock.known_now())

    @display(description="Price", ordering="picos_per_unit")
    def amount(self, price: Price) -> Any:
        per = " a million" if price.unit in TOKENS and price.picos_per_unit else ""
        return format_html(
            '<span class="sg-what sg-right">{}{}</span>', rates.cell(price.unit, price.picos_per_unit), per
        )

    @display(description="From", ordering="effective_from")
    def begins(self, price: Price) -> Any:
        return show.moment(price.effective_from, "year") if price.effective_from else "the beginning"

    @display(description="Where", ordering="zone")
    def place(self, price: Price) -> str:
        return model_page.place_words(model_page.place_of(price))

    @display(description="$ per million", ordering="picos_per_unit")
    def dollars(self, price: Price) -> str:
        return _per_million(price.picos_per_unit)


def _per_million(picos: int | None) -> str:
    # A form that says that it began with more rows than there are is drawn with rows of nothing.
    return "" if picos is None else prices.per_million(picos)
