"""The kinds of values that forms carry, and how what does not fit is refused. Values come as texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from billing.sandbox import times, wire


def _whole(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}", value):
        return int(value)
    raise ValueError(f"Invalid integer: {value}")


def _moment(value: Any) -> int:
    found = _whole(value)
    if not 0 <= found <= times.LATEST:
        raise ValueError(f"Invalid timestamp: {value} is no moment until the year 2100, in seconds of Unix time.")
    return found


def _flag(value: Any) -> bool:
    if value in ("true", "false"):
        return bool(value == "true")
    raise ValueError(f"Invalid boolean: {value}")


def _decimal(value: Any) -> str:
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        found = Decimal("NaN")
    # As long as Stripe's longest amounts, and as fine as its finest.
    if not found.is_finite() or not 0 <= found < 10**12 or found != round(found, 12):
        raise ValueError(f"Invalid decimal: {value}")
    return str(value)


def _currency(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch("[a-zA-Z]{3}", value):
        return value.lower()
    raise ValueError(f"Invalid currency: {value}")


Whole = Annotated[int, BeforeValidator(_whole)]
Moment = Annotated[int, BeforeValidator(_moment)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
# So that what they come to is a number of 64 bits, as JSON's are.
Quantity = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=999_999)]
# Stripe's longest trial is two years.
TrialDays = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=730)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Exact = Annotated[str, BeforeValidator(_decimal)]
Currency = Annotated[str, BeforeValidator(_currency)]
Metadata = dict[str, str] | Literal[""] | None
Interval = Literal["day", "week", "month", "year"]
ListedStatus = Literal[
    "active",
    "all",
    "canceled",
    "ended",
    "incomplete",
    "incomplete_expired",
    "past_due",
    "paused",
    "trialing",
    "unpaid",
]
Proration = Literal["create_prorations", "always_invoice", "none"]
Incomplete = Literal["allow_incomplete", "default_incomplete", "error_if_incomplete", "pending_if_incomplete"]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Plain(Form):
    """A request that says nothing but what is to be shown in full."""

    expand: list[str] = []


class Listed(Plain):
    limit: Whole | None = None
    starting_after: str = ""
    ending_before: str = ""


class Range(Form):
    gte: Whole | None = None
    gt: Whole | None = None
    lte: Whole | None = None
    lt: Whole | None = None


class ListedByTime(Listed):
    created: Range | Whole | None = None


FormKind = TypeVar("FormKind", bound=Form)


def read(kind: type[FormKind], params: Mapping[str, Any]) -> FormKind:
    """The parameters as the form has them. Raises the StripeRefusal of the first that does not fit."""
    try:
        return kind.model_validate(params)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise _refusal(kind, first) from error


def _refusal(kind: type[Form], error: Any) -> wire.StripeRefusal:
    place = [part for part in error["loc"] if isinstance(part, int) or _is_named(part, error)]
    name = str(place[0]) + "".join(f"[{part}]" for part in place[1:]) if place else ""
    value = error["input"]
    match error["type"]:
        case "extra_forbidden":
            return wire.refused(f"Received unknown parameter: {name}", param=name, code="parameter_unknown")
        case "missing":
            return wire.refused(f"Missing required param: {name}.", param=name, code="parameter_missing")
        case "literal_error":
            return wire.refused(
                f"Invalid {name}: must be one of {error['msg'].removeprefix('Input should be ')}", param=name
            )
        case "value_error":
            message = error["msg"].removeprefix("Value error, ")
            code = "parameter_invalid_integer" if "integer" in message else ""
            return wire.refused(message, param=name, code=code)
        case "list_type":
            return wire.refused("Invalid array", param=name)
        case "model_type" | "dict_type" | "model_attributes_type":
            return wire.refused("Invalid object", param=name)
        case "greater_than_equal" | "less_than_equal":
            return wire.refused(f"Invalid non-negative integer: {value}", param=name, code="parameter_invalid_integer")
        case _:
            return wire.refused(f"Invalid {name}: {value}", param=name)


def _is_named(part: str, error: Any) -> bool:
    """Whether a part of a place is a parameter's name, not one of pydantic's for the branch of a choice."""
    return bool(re.fullmatch(r"[a-z_]+", part)) and part not in ("int", "str", "literal", "bool", "list")
