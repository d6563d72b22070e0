"""What a LiteLLM's limits are here: budgets for windows of the calendar, and a rate limit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from config.litellm.aliases import Leave
from config.litellm.export import LitellmLimits
from governance.rules import money
from governance.rules.windows import WindowKind

# LiteLLM's durations that say the same as a window here.
WINDOWS: Mapping[str, WindowKind] = {
    **dict.fromkeys(("1h", "60m", "3600s", "hourly"), WindowKind.HOUR),
    **dict.fromkeys(("24h", "1d", "daily"), WindowKind.DAY),
    **dict.fromkeys(("7d", "1w", "weekly"), WindowKind.WEEK),
    **dict.fromkeys(("30d", "1mo", "monthly"), WindowKind.MONTH),
    "": WindowKind.LIFETIME,
}
# A limit that lets nothing pass: a budget must be above 0.
LEAST_NANOS = 1
BEYOND = "a limit of more than can be kept here, which nobody reaches: it is the most that can be"


@dataclass(frozen=True, slots=True)
class BudgetWanted:
    window: str
    limit_nanos: int
    alert_thresholds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitsWanted:
    """What one scope of a customer may spend and call. A ceiling of None is none."""

    scope_type: str
    scope_key: str
    budgets: tuple[BudgetWanted, ...] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


def of(limits: LitellmLimits, *, tenant: str, scope_type: str, scope_key: str, leave: Leave) -> LimitsWanted:
    """The budgets and the rate limit of one scope. What of them cannot be here goes to `leave`: why, and whose."""
    told = tenant if scope_type == "tenant" else f"{tenant} {scope_type}:{scope_key}"
    lowest: dict[WindowKind, int] = {}
    thresholds: dict[WindowKind, tuple[str, ...]] = {}
    for window, nanos, duration in _budgets(limits):
        if window is None:
            amount = money.format_dollars(nanos)
            leave(f"a budget for {duration!r}, which is no window here", f"{told} (${amount})")
            continue
        if nanos > money.MAX_LIMIT_NANOS:
            leave(BEYOND, told)
            nanos = money.MAX_LIMIT_NANOS
        lowest[window] = min(nanos, lowest.get(window, nanos))
    main = _window(limits.duration) if limits.max_nanos is not None else None
    if limits.soft_nanos:
        share_e4 = _soft_share(limits, main)
        if main is not None and 0 < share_e4 < 10_000:
            thresholds[main] = (f"{money.decimal(share_e4).scaleb(-4).normalize():f}", "1")
        else:
            leave("a soft budget that is no share of a budget here: set an alert threshold", told)
    if LEAST_NANOS in lowest.values():
        leave("a budget of which nothing is left: no call passes until its limit is raised", told)
    elif main is not None and main is not WindowKind.LIFETIME and limits.spent_nanos:
        amount = money.format_dollars(limits.spent_nanos)
        leave("what was spent in LiteLLM's current window: here it begins at zero", f"{told} (${amount})")
    budgets = (BudgetWanted(window.value, nanos, thresholds.get(window, ())) for window, nanos in lowest.items())
    ceilings = [limits.requests_per_minute or None, limits.tokens_per_minute or None]
    if any(each is not None and each > money.MAX_UNITS for each in ceilings):
        leave(BEYOND, told)
    requests, tokens = (each and min(each, money.MAX_UNITS) for each in ceilings)
    return LimitsWanted(scope_type, scope_key, tuple(budgets), requests, tokens)


def _window(duration: str) -> WindowKind | None:
    return WINDOWS.get(duration.strip().lower())


def _soft_share(limits: LitellmLimits, window: WindowKind | None) -> int:
    """The soft budget in ten-thousandths of the limit, rounded down: told a little early rather than late."""
    spent = limits.spent_nanos if window is WindowKind.LIFETIME else 0
    left = (limits.max_nanos or 0) - spent
    return ((limits.soft_nanos or 0) - spent) * 10_000 // left if left > 0 else 0


def _budgets(limits: LitellmLimits) -> Iterator[tuple[WindowKind | None, int, str]]:
    """(window, limit, LiteLLM's duration); of one for a lifetime what is left of it."""
    if limits.max_nanos is not None:
        window = _window(limits.duration)
        spent = limits.spent_nanos if window is WindowKind.LIFETIME else 0
        yield window, max(limits.max_nanos - spent, LEAST_NANOS), limits.duration
    for duration, nanos in limits.windows:
        yield (_window(duration) if duration else None), max(nanos, LEAST_NANOS), duration


def lowest(several: Iterable[LimitsWanted]) -> LimitsWanted:
    """What all of several allow, who are one scope here: of each window the lowest budget, of each ceiling the lowest.

    As each of them alone could have spent no more.
    """
    first, *others = several
    budgets = {each.window: each for each in first.budgets}
    requests, tokens = [first.requests_per_minute], [first.tokens_per_minute]
    for one in others:
        for each in one.budgets:
            budgets[each.window] = min(each, budgets.get(each.window, each), key=lambda budget: budget.limit_nanos)
        requests.append(one.requests_per_minute)
        tokens.append(one.tokens_per_minute)
    return LimitsWanted(
        first.scope_type,
        first.scope_key,
        tuple(budgets.values()),
        min(filter(None, requests), default=None),
        min(filter(None, tokens), default=None),
    )
