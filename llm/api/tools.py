"""/api/tools: what calls of tools and searches cost that agents run themselves."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.api.fields import Dollars, Moment, Name, Query, Strict, Text
from governance.api.views import ListView, columns_of, describe_list, presenter
from governance.ledger import clock
from governance.rules.calls import DEAREST_CALL_NANOS, LONGEST_TOOL
from governance.rules.errors import Conflict
from llm.api.models import READ_BY_ALL, STATUSES
from llm.catalogue import prices, tools
from llm.models import Model


@extend_schema_serializer(component_name="Tool")
class ToolBody(serializers.Serializer[Model]):
    """A tool, and what a call of it costs now. Its prices of all times are those of the model `tool/` and its name."""

    name = serializers.CharField()
    status = serializers.ChoiceField(choices=STATUSES)
    usd_per_call = serializers.SerializerMethodField(help_text="Null: it has no price now, so its calls are refused.")

    def get_usd_per_call(self, row: Model) -> str | None:
        nanos = tools.call_nanos(row, at=clock.known_now())
        return None if nanos is None else Dollars().to_representation(nanos)


@extend_schema_serializer(component_name="ToolPrice")
class ToolPriceBody(Strict):
    """What a call costs, from now on or from another moment."""

    name = Name("tool", max_length=LONGEST_TOOL)
    usd_per_call = Dollars(most=DEAREST_CALL_NANOS)
    effective_from = Moment(required=False)
    source = Text(max_length=200, required=False, allow_blank=True, default="")  # type: ignore[assignment]


class Tools(ListView):
    # Who prices models prices tools.
    acts_on = "llm.price"
    roles = READ_BY_ALL
    table_name = "tools"

    @describe_list("tools_list", ToolBody)
    def get(self, request: Request) -> Any:
        self.valid(Query, request.query_params.dict())
        return self.listed(tools.every().order_by("-id"), presenter(ToolBody), columns=columns_of(ToolBody))

    @extend_schema(operation_id="tools_price", request=ToolPriceBody, responses={201: ToolBody})
    def post(self, request: Request) -> Response:
        """Price a tool; its first price makes it known. A second one for the same moment is a 409.

        A wrong price is corrected as a model's is, at `/api/prices`.
        """
        asked = self.valid(ToolPriceBody, request.data)
        try:
            price = tools.set_price(
                name=asked["name"],
                nanos_per_call=asked["usd_per_call"],
                effective_from=asked.get("effective_from"),
                source=asked["source"],
                by=self.by.actor,
                now=self.now,
            )
        except prices.PriceExists as error:
            raise Conflict("", str(error)) from error
        return Response(ToolBody(tools.every().get(pk=price.model_id)).data, status=201)
