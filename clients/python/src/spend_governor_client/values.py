"""What goes there and what comes back. Dollars are `Decimal`, times are aware."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol, Self, TypeVar

from spend_governor_client.errors import Unavailable

Dollars = Decimal | str | int


def dollars(amount: Dollars) -> str:
    """As the API takes it. A float has no exact amount, so it is refused."""
    if isinstance(amount, float | bool):
        raise TypeError(f"dollars must be a Decimal, a text or a whole number, not {amount!r}")
    value = Decimal(amount)
    if not value.is_finite():
        raise ValueError(f"{amount!r} is no amount of dollars")
    return format(value, "f")


@dataclass(frozen=True)
class Usage:
    """Tokens of one call; the cached ones are part of the input."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


def usage_of(answer: Any) -> Usage:
    """What an answer of OpenAI's, Mistral's or Anthropic's client says it used; ValueError where it says nothing."""
    told = _read(answer, "usage")
    if told is None:
        raise ValueError("the answer has no usage: settle with its tokens or its cost")
    cached = _read(_read(told, "prompt_tokens_details"), "cached_tokens") or 0
    if (input_tokens := _read(told, "prompt_tokens")) is not None:
        return Usage(int(input_tokens), int(_read(told, "completion_tokens") or 0), int(cached))
    if (input_tokens := _read(told, "input_tokens")) is None:
        raise ValueError("the answer's usage is of no known form: settle with its tokens or its cost")
    details = _read(told, "input_tokens_details")
    if details is not None:
        return Usage(
            int(input_tokens), int(_read(told, "output_tokens") or 0), int(_read(details, "cached_tokens") or 0)
        )
    # Anthropic counts what it read from and wrote to its cache beside the input.
    read, written = (int(_read(told, f"cache_{what}_input_tokens") or 0) for what in ("read", "creation"))
    return Usage(int(input_tokens) + read + written, int(_read(told, "output_tokens") or 0), read)


def _read(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def at_most(*inputs: Any) -> int:
    """Tokens that texts, messages and tools have at the most: no text has more tokens than bytes."""
    return sum(len(json.dumps(one, ensure_ascii=False, default=str).encode()) for one in inputs)


class Readable(Protocol):
    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self: ...


Value = TypeVar("Value", bound=Readable)


def understood(kind: type[Value], body: Mapping[str, Any]) -> Value:
    """The answer as a value. One that is none, as somebody else's JSON, is the gateway's absence."""
    try:
        return kind.read(body)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise Unavailable("unreadable", f"The answer is not the gateway's: {error!r}.", status=200) from error


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


@dataclass(frozen=True)
class Held:
    """What a reservation was answered. `model` is the one to call: near a limit a cheaper one than was asked for.

    Of a tool `model` is the tool too.
    """

    id: str
    model: str
    model_requested: str
    amount: Decimal
    action: str
    warning: str | None
    disabled_tools: tuple[str, ...]
    max_tokens: int | None
    expires_at: datetime | None
    tool: str | None = None

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Held:
        return cls(
            id=body["id"],
            model=body["model"],
            model_requested=body["model_requested"],
            amount=Decimal(body["amount"]),
            action=body.get("action") or "allow",
            warning=body.get("warning"),
            disabled_tools=tuple(body.get("disabled_tools") or ()),
            max_tokens=body.get("max_tokens"),
            expires_at=_moment(body.get("expires_at")),
            tool=body.get("tool"),
        )


@dataclass(frozen=True)
class Reservation:
    """A hold as it stands: pending, settled, released or expired. `cost` is what was charged, where it was."""

    id: str
    status: str
    model: str
    amount: Decimal
    cost: Decimal | None
    expires_at: datetime | None

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Reservation:
        cost = body.get("cost")
        return cls(
            id=body["id"],
            status=body["status"],
            model=body["model"],
            amount=Decimal(body["amount"]),
            cost=None if cost is None else Decimal(cost),
            expires_at=_moment(body.get("expires_at")),
        )


@dataclass(frozen=True)
class Settled:
    """What was charged; `overage` is what it exceeded the hold by, `late` whether the hold had expired."""

    id: str
    entry: str
    cost: Decimal
    overage: Decimal
    late: bool

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Settled:
        return cls(body["id"], body["entry"], Decimal(body["cost"]), Decimal(body["overage"]), body["late"])


@dataclass(frozen=True)
class Reported:
    """A call that was made without a hold, as it was charged; `duplicate` where its `request_id` was known."""

    id: str
    request_id: str
    cost: Decimal
    duplicate: bool

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Reported:
        return cls(body["id"], body["request_id"], Decimal(body["cost"]), body["duplicate"])
