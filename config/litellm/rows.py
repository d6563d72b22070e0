"""A row of LiteLLM's, read by its fields' names. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from governance.rules import money
from governance.rules.errors import quoted

# Of an amount: LiteLLM adds floats up, so that its sums are finer than a nanodollar.
_NANO = Decimal("0.000000001")
_MOST_DOLLARS = money.dollars_from_nanos(money.MAX_NANOS)
_MOST_WHOLE = Decimal(2**63)


class BadExport(ValueError):
    """What was given is not what LiteLLM says; the message names file or table, row and field."""


@dataclass(frozen=True, slots=True)
class LitellmRow:
    """One row, and where it stands: "keys.json: row 3". Each reader raises BadExport for a value of another kind."""

    place: str = field(compare=False)
    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Empty where there is none."""
        value = self.values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.wrong(name, "must be text")
        return value

    def id(self, name: str) -> str:
        """Text by which a row is known here as well, so that it must be one that a database keeps."""
        value = self.text(name)
        if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
            raise self.wrong(name, "has characters that no database keeps")
        return value

    def needed(self, name: str) -> str:
        if not (value := self.id(name)):
            raise self.wrong(name, "is needed")
        return value

    def dollars(self, name: str, *, rounding: str = ROUND_FLOOR) -> int | None:
        """Nanodollars; of more than can be kept the most that can: nobody spends either."""
        value = self._number(name)
        if value is None:
            return None
        if value > _MOST_DOLLARS:
            return money.MAX_NANOS
        try:
            return money.nanos_from_dollars(money.decimal(value.quantize(_NANO, rounding=rounding)))
        except ArithmeticError as error:
            raise self.wrong(name, f"must be an amount of dollars, not {quoted(value)}") from error
        except money.AmountError as error:
            raise self.wrong(name, str(error)) from error

    def whole(self, name: str) -> int | None:
        """The most that is told apart is 2**63."""
        value = self._number(name)
        if value is None:
            return None
        value = max(min(value, _MOST_WHOLE), -_MOST_WHOLE)
        if value != value.to_integral_value():
            raise self.wrong(name, f"must be a whole number, not {quoted(value)}")
        return int(value)

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return bool(value)

    def moment(self, name: str) -> datetime | None:
        """Without an offset it is UTC, as its database keeps it."""
        text = self.text(name)
        if not text:
            return None
        try:
            at = datetime.fromisoformat(text)
            return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        except (ValueError, OverflowError) as error:
            raise self.wrong(name, "must be a time such as 2026-03-01T12:00:00Z") from error

    def listed(self, name: str) -> list[Any]:
        value = self.values.get(name)
        if value is not None and not isinstance(value, list):
            raise self.wrong(name, "must be a list")
        return value or []

    def inner(self, name: str) -> LitellmRow:
        """An object within, empty where there is none."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "must be an object")
        return LitellmRow(f"{self.place}: {name}", value or {})

    def inner_rows(self, name: str) -> list[LitellmRow]:
        rows = self.listed(name)
        if any(not isinstance(each, dict) for each in rows):
            raise self.wrong(name, "must be a list of objects")
        return [LitellmRow(f"{self.place}: {name}, {number}", each) for number, each in enumerate(rows, 1)]

    def wrong(self, name: str, message: str) -> BadExport:
        return BadExport(f"{self.place}: {name}: {message}")

    def _number(self, name: str) -> Decimal | None:
        value = self.values.get(name)
        if value is None:
            return None
        # As PostgreSQL writes a float8 in JSON.
        if value == "Infinity":
            return Decimal(value)
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise self.wrong(name, "must be a number")
        return Decimal(value)
