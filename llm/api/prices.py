"""/api/prices: what units cost from when on. Rows are added, or corrected by a row of their own; never changed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance import ledger
from governance.api.fields import Moment, Name, OptionalAct, Query, Strict, Text
from governance.api.views import ControlView, ListView, columns_of, describe_list, presenter
from governance.rules.errors import Conflict
from llm.api.models import READ_BY_ALL
from llm.catalogue import prices, seed
from llm.models import Price
from llm.rules import price_periods


@extend_schema_field({"type": "string", "format": "decimal", "examples": ["0.15"]})
class PerMillion(serializers.Field[int, Any, str, Any]):
    """Picodollars a unit inside, dollars a million units outside."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, str | int | Decimal):
            raise serializers.ValidationError('must be dollars a million units, such as "0.15".')
        try:
            return seed.picos_per_unit(str(data).strip())
        except ValueError as error:
            raise serializers.ValidationError(f"{error}.") from error

    def to_representation(self, value: int) -> str:
        return prices.per_million(value)


@extend_schema_serializer(component_name="Price")
class PriceBody(Strict):
    """What a unit costs. Without `effective_from` a new one counts from now on; null means since ever."""

    id = serializers.IntegerField(read_only=True)
    model = Text(max_length=141, help_text="An id or alias; with its provider where several have it.")
    provider = serializers.CharField(source="model.provider", read_only=True)
    unit = serializers.ChoiceField(choices=Price.Unit.values)
    usd_per_million = PerMillion(source="picos_per_unit")
    picos_per_unit = serializers.IntegerField(read_only=True)
    zone = serializers.ChoiceField(choices=Price.Zone.values, required=False, default="global")
    tier = Text(max_length=16, required=False, default="standard")
    batch = serializers.BooleanField(required=False, default=False)
    above_input_tokens = serializers.IntegerField(
        min_value=0,
        max_value=2**31 - 1,
        required=False,
        default=0,
        help_text="Of calls with more input tokens than so many; 0: of any length.",
    )
    effective_from = Moment(required=False, allow_null=True)
    source = Text(max_length=200, required=False, allow_blank=True, default="")  # type: ignore[assignment]
    verified_at = Moment(required=False, allow_null=True)
    recorded_at = serializers.DateTimeField(read_only=True, allow_null=True)
    supersedes = serializers.IntegerField(source="supersedes_id", read_only=True, allow_null=True)
    superseded_by = serializers.SerializerMethodField()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["above_input_tokens"] and attrs["unit"] not in price_periods.TOKENS:
            raise serializers.ValidationError({"above_input_tokens": ["only tokens have a price of longer calls."]})
        return attrs

    def get_superseded_by(self, row: Price) -> int | None:
        successor = getattr(row, "superseded_by", None)
        return None if successor is None else successor.pk

    def to_representation(self, instance: Price) -> dict[str, Any]:
        return {**super().to_representation(instance), "model": instance.model.name}


class PriceQuery(Query):
    model = Name("model", required=False)
    provider = Name("provider", required=False)
    unit = serializers.ChoiceField(choices=Price.Unit.values, required=False)
    zone = serializers.ChoiceField(choices=Price.Zone.values, required=False)
    tier = Text(required=False, max_length=16)
    batch = serializers.BooleanField(required=False)
    superseded = serializers.BooleanField(required=False, help_text="Whether it was wrong and another stands for it.")


class CorrectBody(OptionalAct):
    """What it should have been from its beginning."""

    usd_per_million = PerMillion()
    source = Text(max_length=200, required=False, allow_blank=True, default="")  # type: ignore[assignment]
    reason = Text(max_length=300)


class Prices(ListView):
    acts_on = "llm.price"
    roles = READ_BY_ALL
    table_name = "prices"

    @describe_list("prices_list", PriceBody, PriceQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(PriceQuery, request.query_params.dict())
        rows = _every()
        if (name := asked.pop("model", None)) is not None:
            rows = rows.filter(model=_model(name))
        if (provider := asked.pop("provider", None)) is not None:
            rows = rows.filter(model__provider=provider)
        if (superseded := asked.pop("superseded", None)) is not None:
            rows = rows.filter(superseded_by__isnull=not superseded)
        return self.listed(rows.filter(**asked), presenter(PriceBody), columns=columns_of(PriceBody))

    @extend_schema(operation_id="prices_create", request=PriceBody, responses={201: PriceBody})
    def post(self, request: Request) -> Response:
        """A second one for the same moment is a 409: choose a later one, or correct the first."""
        asked = self.valid(PriceBody, request.data)
        model = _model(asked.pop("model"))
        if "effective_from" not in asked:
            asked["effective_from"] = ledger.by_database(self.now)
        try:
            made = prices.add(price=Price(model=model, **asked), by=self.by.actor, now=self.now)
        except prices.PriceExists as error:
            raise Conflict("", str(error)) from error
        return Response(PriceBody(made).data, status=201)


class OnePrice(ControlView):
    acts_on = "llm.price"
    roles = READ_BY_ALL

    @extend_schema(operation_id="prices_get", responses=PriceBody)
    def get(self, request: Request, id: int) -> Response:
        return Response(PriceBody(self.one(_every(), pk=id)).data)


class PriceCorrect(ControlView):
    acts_on = "llm.price"
    roles = READ_BY_ALL

    @extend_schema(operation_id="prices_correct", request=CorrectBody, responses={201: PriceBody})
    def post(self, request: Request, id: int) -> Response:
        """Supersede a wrong price from its beginning. What calls were charged by it stays until `reprice` is run."""
        wrong = self.one(_every(), pk=id)
        asked = self.valid(CorrectBody, request.data)
        try:
            right = prices.correct(
                price=wrong,
                picos_per_unit=asked["usd_per_million"],
                source=asked["source"],
                by=self.by.actor,
                now=self.now,
                reason=asked["reason"],
            )
        except prices.CorrectedBefore as error:
            raise Conflict("", str(error)) from error
        return Response(PriceBody(right).data, status=201)


def _every() -> QuerySet[Price]:
    return Price.objects.select_related("model", "superseded_by").order_by("-id")


def _model(name: str) -> Any:
    try:
        return prices.model_named(name)
    except prices.ModelUnknown as error:
        raise serializers.ValidationError({"model": [f"{error}."]}) from error
