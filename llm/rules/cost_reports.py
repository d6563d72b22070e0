"""What providers answer when asked for their costs, read strictly: dollars of each day (UTC). Pure.

The shapes are those of OpenAI's `GET /v1/organization/costs`, Anthropic's `GET /v1/organizations/cost_report` and
OpenRouter's `GET /api/v1/activity`. A report is a witness against the ledger: what is odd in it makes all of it
unreadable, for half a sum would accuse or acquit wrongly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any, NoReturn

DAY_S = 86_400
# A day of one account does not cost more dollars than that, and no amount is longer than so many characters.
MOST_DOLLARS = 1_000_000_000
LONGEST_NUMBER, LONGEST_TOKEN = 100, 1_000
# More digits than any sum of such amounts has.
DIGITS = 60
NANOS_PER_DOLLAR, NANOS_PER_CENT = 1_000_000_000, 10_000_000
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,6})?")
DAY = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})( 00:00:00)?")
# OpenRouter reports this many days, the last ones that are over.
OPENROUTER_DAYS = 30


class ReportUnreadable(ValueError):
    """The answer is no report in the documented shape. The message has none of its words."""


class OtherCurrency(ValueError):
    """The report is not in dollars."""


@dataclass(frozen=True, slots=True)
class ReportPage:
    """Nanodollars of days, and what to ask for next; empty on the last page."""

    days: Mapping[date, int]
    next_page: str


def openai_page(body: bytes) -> ReportPage:
    """A page of daily buckets, amounts in dollars. Raises ReportUnreadable, OtherCurrency."""

    def day(bucket: dict[str, Any]) -> date:
        starts_at, ends_at = (_whole(bucket.get(name)) for name in ("start_time", "end_time"))
        if starts_at % DAY_S or ends_at - starts_at != DAY_S:
            raise ReportUnreadable("a bucket is no day")
        return datetime.fromtimestamp(starts_at, tz=UTC).date()

    def amount(result: dict[str, Any]) -> Decimal:
        paid = _object(result.get("amount"))
        return _dollars_only(paid.get("value"), paid.get("currency"))

    return _page(body, day, amount, NANOS_PER_DOLLAR)


def anthropic_page(body: bytes) -> ReportPage:
    """A page of daily buckets, amounts in cents. Raises ReportUnreadable, OtherCurrency."""

    def day(bucket: dict[str, Any]) -> date:
        starts_at, ends_at = (_midnight(bucket.get(name)) for name in ("starting_at", "ending_at"))
        if ends_at - starts_at != timedelta(days=1):
            raise ReportUnreadable("a bucket is no day")
        return starts_at.date()

    def amount(result: dict[str, Any]) -> Decimal:
        return _dollars_only(result.get("amount"), result.get("currency"))

    return _page(body, day, amount, NANOS_PER_CENT)


def openrouter_days(body: bytes, *, today: date) -> dict[date, int]:
    """Nanodollars of each of the last days that are over; one that nobody called on is zero. Raises ReportUnreadable.

    What was paid with the account's own key at the model's provider is no less a cost of its calls.
    """
    amounts: dict[date, list[Decimal]] = {today - timedelta(days=ago): [] for ago in range(1, OPENROUTER_DAYS + 1)}
    for row in _list(_parsed(body).get("data")):
        item = _object(row)
        day = _named_day(item.get("date"))
        byok = item.get("byok_usage_inference")
        amounts.setdefault(day, []).extend([_amount(item.get("usage")), Decimal(0) if byok is None else _amount(byok)])
    return {day: _nanos(paid, NANOS_PER_DOLLAR) for day, paid in amounts.items()}


def merged(days: Mapping[date, int], more: Mapping[date, int]) -> dict[date, int]:
    """The days of two pages. Raises ReportUnreadable where a day is in both: nobody can say which is meant."""
    if days.keys() & more.keys():
        raise ReportUnreadable("a day is reported twice")
    return {**days, **more}


def _page(
    body: bytes,
    day: Callable[[dict[str, Any]], date],
    amount: Callable[[dict[str, Any]], Decimal],
    nanos_per_unit: int,
) -> ReportPage:
    answer = _parsed(body)
    days: dict[date, int] = {}
    for one in _list(answer.get("data")):
        bucket = _object(one)
        results = [amount(_object(result)) for result in _list(bucket.get("results"))]
        days = merged(days, {day(bucket): _nanos(results, nanos_per_unit)})
    has_more, next_page = answer.get("has_more"), answer.get("next_page")
    if has_more is False:
        return ReportPage(days, "")
    if has_more is not True or not isinstance(next_page, str) or not 0 < len(next_page) <= LONGEST_TOKEN:
        raise ReportUnreadable("whether there is another page is not said")
    return ReportPage(days, next_page)


def _parsed(body: bytes) -> dict[str, Any]:
    """JSON of exact numbers, in which no name stands twice."""
    try:
        return _object(
            json.loads(
                body,
                parse_float=_decimal,
                parse_int=_decimal,
                parse_constant=_no_number,
                object_pairs_hook=_once,
            )
        )
    except ReportUnreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise ReportUnreadable("it is no JSON") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ReportUnreadable("a name stands twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ReportUnreadable("a number is none")


def _decimal(text: str) -> Decimal:
    if len(text) > LONGEST_NUMBER or not NUMBER.fullmatch(text):
        raise ReportUnreadable("an amount is no number")
    return Decimal(text)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ReportUnreadable("an object is missing")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ReportUnreadable("a list is missing")
    return value


def _whole(value: Any) -> int:
    """Seconds since 1970, of a time before the year 3000."""
    if not isinstance(value, Decimal) or not 0 <= value < 32_503_680_000 or value != value.to_integral_value():
        raise ReportUnreadable("a time is none")
    return int(value)


def _midnight(value: Any) -> datetime:
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ReportUnreadable("a time is none") from error
    if at.utcoffset() != timedelta(0) or at.time() != at.time().min:
        raise ReportUnreadable("a bucket is no day")
    return at


def _named_day(value: Any) -> date:
    found = DAY.fullmatch(value) if isinstance(value, str) else None
    try:
        return date.fromisoformat(found[1] if found else "")
    except ValueError as error:
        raise ReportUnreadable("a day is none") from error


def _dollars_only(value: Any, currency: Any) -> Decimal:
    if not isinstance(currency, str):
        raise ReportUnreadable("the currency is not said")
    if currency.lower() != "usd":
        raise OtherCurrency
    return _amount(value)


def _amount(value: Any) -> Decimal:
    """A number or the text of one, from zero to more than any day costs, in cents too."""
    amount = _decimal(value) if isinstance(value, str) else value
    if not isinstance(amount, Decimal):
        raise ReportUnreadable("an amount is no number")
    if not 0 <= amount <= MOST_DOLLARS * 100:
        raise ReportUnreadable("an amount cannot be")
    return amount


def _nanos(amounts: Iterable[Decimal], nanos_per_unit: int) -> int:
    """The sum, rounded half up once."""
    with localcontext(prec=DIGITS):
        total = sum(amounts, Decimal(0)) * nanos_per_unit
        if total > MOST_DOLLARS * NANOS_PER_DOLLAR:
            raise ReportUnreadable("an amount cannot be")
        return int(total.to_integral_value(ROUND_HALF_UP))
