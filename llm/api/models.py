"""/api/models: the catalogue, with what each model costs now."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.api.fields import Name, OptionalAct, Query
from governance.api.permissions import EVERYONE, OPERATORS
from governance.api.views import ControlView, ListView, columns_of, describe_list, presenter
from governance.ledger import clock
from llm.catalogue import overruns, prices, snapshot
from llm.models import Model
from llm.rules.capabilities import KINDS
from llm.rules.pricing import DEFAULT_PROVIDER, Rates

STATUSES = tuple(Model.Status.values)
READ_BY_ALL = {"GET": EVERYONE, "POST": OPERATORS}


@extend_schema_serializer(component_name="Model")
class ModelBody(serializers.Serializer[Model]):
    """A model; its rates are dollars a million units as they count now, in the zone that is called."""

    id = serializers.SerializerMethodField(help_text="What calls name it by.")
    provider = serializers.CharField()
    name = serializers.CharField(help_text="The provider's own id.")
    aliases = serializers.SerializerMethodField()
    status = serializers.ChoiceField(choices=STATUSES)
    kinds = serializers.ListField(child=serializers.CharField())
    capabilities = serializers.ListField(child=serializers.CharField())
    context_tokens = serializers.IntegerField(allow_null=True)
    rates = serializers.SerializerMethodField()
    price_rule = serializers.SerializerMethodField(help_text="As ledger entries name it; null: it has no price.")
    longer = serializers.SerializerMethodField(help_text="The rates of calls with more input tokens than so many.")
    billing_name = serializers.CharField()
    deprecated_at = serializers.DateTimeField(allow_null=True)
    replacement = serializers.CharField()
    listed_at = serializers.DateTimeField(allow_null=True)
    overran_tokens = serializers.IntegerField(
        allow_null=True,
        help_text="The largest answer beyond its `max_tokens`, which is held for no more; null: it keeps to it.",
    )
    overread_tokens = serializers.IntegerField(
        allow_null=True,
        help_text="The largest input (tokens, pages, seconds) beyond what was sent; null: it reads no more than that.",
    )

    def get_id(self, row: Model) -> str:
        return row.name if row.provider == DEFAULT_PROVIDER else f"{row.provider}/{row.name}"

    def get_aliases(self, row: Model) -> list[str]:
        return [alias.name for alias in row.aliases.all()]

    def get_rates(self, row: Model) -> dict[str, str] | None:
        rates = self._now(row)
        return None if rates is None else _by_unit(rates)

    def get_price_rule(self, row: Model) -> str | None:
        rates = self._now(row)
        return None if rates is None else rates.rule

    def get_longer(self, row: Model) -> list[dict[str, Any]]:
        rates = self._now(row)
        return [
            {"above_input_tokens": above, "rates": _by_unit(longer), "price_rule": longer.rule}
            for above, longer in (rates.longer if rates else ())
        ]

    def _now(self, row: Model) -> Rates | None:
        return snapshot.rates_at(model=row, at=clock.known_now())


class ModelQuery(Query):
    provider = Name("provider", required=False)
    status = serializers.ChoiceField(choices=STATUSES, required=False)
    kind = serializers.ChoiceField(choices=KINDS, required=False)


class Models(ListView):
    acts_on = "llm.model"
    roles = READ_BY_ALL
    table_name = "models"

    @describe_list("models_list", ModelBody, ModelQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(ModelQuery, request.query_params.dict())
        kind = asked.pop("kind", None)
        rows = _every().filter(**asked)
        if kind is not None:
            # Lists in JSON cannot be searched alike on all databases; the quotes keep "ocr" from meaning "ocrs".
            rows = rows.filter(kinds__icontains=f'"{kind}"')
        return self.listed(rows, presenter(ModelBody), columns=columns_of(ModelBody))


class OneModel(ControlView):
    acts_on = "llm.model"
    roles = READ_BY_ALL

    @extend_schema(operation_id="models_get", responses=ModelBody)
    def get(self, request: Request, id: str) -> Response:
        """By its id, bare or with its provider, or by an alias."""
        try:
            row = prices.model_named(id.rstrip("/"))
        except prices.ModelUnknown as error:
            raise Http404 from error
        return Response(ModelBody(self.one(_every(), pk=row.pk)).data)


class ClearOverruns(ControlView):
    acts_on = "llm.model"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="models_clear_overruns", request=OptionalAct, responses=ModelBody)
    def post(self, request: Request, id: str) -> Response:
        """`max_tokens` bounds the model again, from the next call on, until an answer shows otherwise."""
        try:
            row = prices.model_named(id)
        except prices.ModelUnknown as error:
            raise Http404 from error
        reason = self.valid(OptionalAct, request.data)["reason"]
        overruns.clear(model=row, reason=reason, by=self.by.actor, now=self.now)
        return Response(ModelBody(self.one(_every(), pk=row.pk)).data)


def _every() -> QuerySet[Model]:
    return overruns.shown(Model.objects.prefetch_related("aliases", "prices")).order_by("-id")


def _by_unit(rates: Rates) -> dict[str, str]:
    tokens = {"input": rates.input_picos, "cached_input": rates.cached_picos, "output": rates.output_picos}
    picos = {**(tokens if rates.by_token else {}), **rates.units}
    return {unit: prices.per_million(each) for unit, each in picos.items()}
