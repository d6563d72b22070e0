"""What budgets saved this month, in lines that say how each figure is known."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from django.urls import reverse

from governance.console import display, ranges
from governance.queries.savings import Savings
from governance.queries.spend import TimeRange
from governance.rules.spend_sums import HOUR


@dataclass(frozen=True, slots=True)
class SavingLine:
    """`why` says how it is known; `link` leads to its calls."""

    title: str
    amount: str
    words: str
    why: str
    link: str = ""


def lines(found: Savings, month: TimeRange) -> list[SavingLine]:
    """Only what there was: a line of nothing says nothing."""
    moved, told = found.downgrades, []
    if moved.calls or moved.unknown:
        unknown = f", and {moved.unknown:,} without a price to compare" if moved.unknown else ""
        told.append(
            SavingLine(
                "Downgrades",
                display.dollars(moved.nanos),
                f"{moved.calls:,} calls went to cheaper models{unknown}",
                "What their tokens would have cost at the models that were asked for, less what they cost",
                _month_of_calls(month, "downgraded"),
            )
        )
    if found.cached_tokens:
        told.append(
            SavingLine(
                "Caches",
                display.dollars(found.cached_nanos),
                f"{found.cached_tokens:,} tokens of input came from providers' caches",
                "The catalogue's price of input, less that of cached input",
            )
        )
    if found.clamped:
        told.append(
            SavingLine(
                "Clamps",
                "–",
                f"{found.clamped:,} answers were kept to what the money covered",
                "How long they would have been otherwise nobody knows",
            )
        )
    if found.prevented:
        uncounted = f"; {found.uncounted:,} of them have no amount" if found.uncounted else ""
        told.append(
            SavingLine(
                "Prevented by caps",
                f"up to {display.dollars(found.prevented_nanos)}",
                f"{found.prevented:,} calls were refused for want of budget{uncounted}",
                "The most that they would have cost. One that was tried again counts each time",
                _month_of_calls(month, "refused"),
            )
        )
    return told


def _month_of_calls(month: TimeRange, status: str) -> str:
    if month.starts_at is None or month.ends_at is None:
        return ""
    times = ranges.hours(month.starts_at, month.ends_at + HOUR)
    return f"{reverse('admin:calls')}?{urlencode(times | {'status': status})}"
