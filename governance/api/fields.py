"""Serializer fields and the strict serializer that all bodies and queries go through."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from django.utils.dateparse import parse_date
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.fields import empty

from governance.actions import scoped_rules
from governance.rules import money, names
from governance.rules.errors import FieldError

BEYOND = "out_of_bounds"
MISSING, SURPLUS, UNKNOWN = "missing_field", "surplus_field", "unknown_field"
_WHOLE = re.compile(r"[+-]?[0-9]+")
# Read by pagination and content negotiation, so never unknown in a query.
COMMON_PARAMETERS = {"cursor", "page_size", "format"}


def missing(field: str, message: str) -> serializers.ValidationError:
    """The request lacks a field: the error to raise."""
    return serializers.ValidationError({field: [message]}, code=MISSING)


def surplus(field: str, message: str) -> serializers.ValidationError:
    """The request has a field beside another one that it cannot go with: the error to raise."""
    return serializers.ValidationError({field: [message]}, code=SURPLUS)


class Strict(serializers.Serializer[Any]):
    """Refuses fields it does not know: a typo in `soft_cap` must not quietly leave the default in place.

    Fields that are only answered may be sent back; they are ignored.
    """

    def run_validation(self, data: Any = empty) -> Any:
        if isinstance(data, Mapping):
            unknown = [name for name in data if name not in self.fields and name not in self.ignored]
            if unknown:
                known = ", ".join(name for name, field in self.fields.items() if not field.read_only)
                raise serializers.ValidationError(
                    {str(unknown[0]): [f"is not known here. There are: {known}."]}, code=UNKNOWN
                )
        return super().run_validation(data)

    ignored: frozenset[str] = frozenset()


def readable(kind: type[serializers.Serializer[Any]], body: Any, names: Collection[str]) -> dict[str, Any]:
    """Of these fields of a body those that `kind` reads, as it does: each by itself, though another be refused."""
    found: dict[str, Any] = {}
    for name, field in kind().fields.items():
        if name in names and isinstance(body, Mapping) and name in body:
            with suppress(serializers.ValidationError):
                found[name] = field.run_validation(body[name])
    return found


class Query(Strict):
    """The query string of a list."""

    ignored = frozenset(COMMON_PARAMETERS)


@extend_schema_field({"type": "string", "format": "decimal", "examples": ["12.50"]})
class Dollars(serializers.Field[int, Any, str, Any]):
    """Nanodollars inside, a decimal string of dollars outside. Accepts numbers too."""

    default_error_messages = {
        "positive": "must be more than 0 dollars.",
        "negative": "must not be below 0 dollars.",
    }

    def __init__(self, *, minimum: int = 0, most: int = money.MAX_AMOUNT_NANOS, **kwargs: Any) -> None:
        self.minimum, self.most = minimum, most
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, str | int | Decimal):
            raise serializers.ValidationError('must be an amount of dollars such as "12.50".')
        try:
            nanos = money.nanos_from_dollars(data.strip() if isinstance(data, str) else data, most=self.most)
        except money.TooMuch as error:
            most = money.whole_dollars(self.most)
            raise serializers.ValidationError(f"must be at most {most}.", code=BEYOND) from error
        except money.AmountError as error:
            raise serializers.ValidationError(str(error)) from error
        if nanos < self.minimum:
            self.fail("positive" if self.minimum else "negative")
        return nanos

    def to_representation(self, value: int) -> str:
        return money.format_dollars(value)


class Whole(serializers.IntegerField):
    """A whole number; as text, in ASCII digits and nothing else."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, str) and not _WHOLE.fullmatch(data.strip()):
            self.fail("invalid")
        return super().to_internal_value(data)


class Id(Whole):
    """A row's number: one that a database can have."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_value=1, max_value=2**63 - 1, **kwargs)


class Count(Whole):
    """A whole number from `least` on. More than `most` is a 422 that names the bound."""

    def __init__(self, *, least: int = 0, most: int = money.MAX_UNITS, **kwargs: Any) -> None:
        self.most = most
        super().__init__(min_value=least, **kwargs)

    def to_internal_value(self, data: Any) -> int:
        value = super().to_internal_value(data)
        if value > self.most:
            raise serializers.ValidationError(f"must be at most {self.most:,}.", code=BEYOND)
        return value


@extend_schema_field(OpenApiTypes.NUMBER)
class Ratio(serializers.Field[Decimal, Any, Any, Any]):
    """A share of a limit: a number or a string comes in, a JSON number goes out."""

    def to_internal_value(self, data: Any) -> Decimal:
        if isinstance(data, bool) or not isinstance(data, str | int | Decimal):
            raise serializers.ValidationError("must be a number such as 0.8.")
        try:
            return money.decimal(data.strip() if isinstance(data, str) else data)
        except money.AmountError as error:
            raise serializers.ValidationError("must be a number such as 0.8.") from error

    def to_representation(self, value: Any) -> float:
        # For show only: a ratio is compared as a Decimal.
        return float(value)


class Moment(serializers.DateTimeField):
    """A time with its zone, or a date, which means its first instant in UTC."""

    def to_internal_value(self, value: Any) -> datetime:
        if isinstance(value, str):
            # A + that nobody encoded reaches us as a space.
            value = value.strip().replace(" ", "+") if "T" in value else value
            if day := _date(value):
                value = datetime.combine(day, time.min).isoformat() + "Z"
        if not isinstance(value, str):
            raise serializers.ValidationError("must be a time such as 2026-01-31T12:00:00Z.")
        return super().to_internal_value(value)


class Text(serializers.CharField):
    """A string, and nothing that merely can be made one: 7 is no name."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Name(Text):
    """A name of a kind of `rules.names`, in the form that is kept."""

    def __init__(self, kind: str, **kwargs: Any) -> None:
        self.kind = kind
        super().__init__(**{"trim_whitespace": False, "max_length": names.KINDS[kind].most} | kwargs)

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            self.fail("invalid")
        try:
            name = self.read(data.strip(" "))
        except FieldError as error:
            raise serializers.ValidationError(error.message) from error
        if not name and not self.allow_blank:
            self.fail("blank")
        return name

    def read(self, text: str) -> Any:
        return names.checked(self.kind, text)


class CallName(Name):
    """What a call names, which is somebody: not `*`."""

    def read(self, text: str) -> str:
        return names.of_call(self.kind, text)


class NameFilter(Name):
    """A name to look for: the spellings that rows may have it in, for `__in`."""

    def __init__(self, kind: str, **kwargs: Any) -> None:
        # Of each spelling, not of how many there are.
        super().__init__(kind, **{"max_length": None} | kwargs)

    def read(self, text: str) -> Any:
        return names.spellings(self.kind, text) if text else ""


class ScopeKeyFilter(Text):
    """The key of a rule's scope to look for, of whichever kind."""

    def to_internal_value(self, data: Any) -> Any:
        try:
            return scoped_rules.stored_keys(super().to_internal_value(data))
        except FieldError as error:
            raise serializers.ValidationError(error.message) from error


def looked_for(name: str, value: Any, **columns: str) -> str:
    """The lookup of a filter of ledger rows: a name has several spellings. `columns` that have other names here."""
    column = {"tenant": "tenant__slug", "key": "key__prefix", "model": "model_served"} | columns
    found = column.get(name, name)
    return f"{found}__in" if isinstance(value, tuple) else found


class Names(serializers.ListField):
    """A list of names; one name alone is a list of one."""

    child = Name("tool")

    def to_internal_value(self, data: Any) -> list[Any]:
        return super().to_internal_value([data] if isinstance(data, str) else data)


class Act(Strict):
    """An act that needs a reason."""

    reason = Text(max_length=300)


class OptionalAct(Strict):
    """An act that may give a reason."""

    reason = Text(max_length=300, required=False, allow_blank=True, default="")


class PeriodQuery(Query):
    """`from` and `to`, half open."""

    def get_fields(self) -> dict[str, Any]:
        period = {name: Moment(required=False) for name in ("from", "to")}
        return {**super().get_fields(), **period}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "from" in attrs and "to" in attrs and attrs["to"] <= attrs["from"]:
            raise serializers.ValidationError({"to": ["must be after from."]})
        return attrs


class CallQuery(PeriodQuery):
    """Filters of what calls left behind: for whom, by which key, of which model."""

    tenant = NameFilter("tenant", required=False)
    agent = NameFilter("agent", required=False)
    key = NameFilter("key", required=False, help_text="A key's prefix.")
    user = NameFilter("user", required=False)
    session = NameFilter("session", required=False)
    task = NameFilter("task", required=False)
    model = NameFilter("model", required=False)


def _date(text: str) -> date | None:
    try:
        return parse_date(text)
    except ValueError:
        return None
