"""What a policy would have done to a budget's latest calls: reads them, and has them decided on again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from governance import ports
from governance.models import ApiKey, Budget, BudgetWindow, RefusedCall, ScopeType, SpendEntry
from governance.models.budgets import EACH
from governance.rules import names, policy, replay
from governance.rules.decision import Quote, Quoter, Reason, WindowView
from governance.rules.policy import Policy
from governance.rules.replay import PastCall, ReplayOutcome

PERIOD = timedelta(days=30)
# So many of the latest calls are decided on again; of these that a scope does not name, so many are passed over.
MOST_CALLS, MOST_REFUSALS, MOST_WINDOWS, MOST_ROWS = 5_000, 500, 5_000, 50_000
_OF_MONEY = (Reason.BUDGET_EXHAUSTED, Reason.DOWNGRADE_REFUSED)
# What is read of an entry.
_COLUMNS = (
    "windows",
    "occurred_at",
    "recorded_at",
    "model_requested",
    "model_served",
    "cost_nanos",
    "input_tokens",
    "output_tokens",
    "reservation__amount_nanos",
    "reservation__tokens",
    "reservation__reserved_at",
    "reservation__resolved_at",
)


@dataclass(frozen=True, slots=True)
class PolicyPreview:
    """The same calls under the policy as it is and as it was typed. `since`: when the first of them was made.

    `is_part`: there were more in the 30 days than are looked at.
    """

    now: ReplayOutcome
    then: ReplayOutcome
    since: datetime | None
    is_part: bool


def preview(budget: Budget, *, typed: Policy, limit_nanos: int, now: datetime) -> PolicyPreview:
    """What `typed` and a limit would have done to the calls of the last 30 days, had this budget alone governed them.

    Each is held for as it was then, or at what another model may cost by today's prices; the caller was content with
    any model, one that can do the job. Calls that were reported afterwards, and those that this budget refused, are
    taken for calls that asked; the latter cost what they needed at the least. Tools are not known of past calls.
    """
    rows = list(latest(budget, now=now)[: MOST_CALLS + 1])
    is_part, rows = len(rows) > MOST_CALLS, rows[:MOST_CALLS]
    windows = _windows(budget, {id for row in rows for id in row["windows"]})
    # Those of one moment stay in their order.
    calls = [call for row in reversed(rows) for call in _as_call(row, windows)]
    since = min((call.asked_at for call in calls), default=now - PERIOD)
    refused = list(_refused(budget, windows, since=since if is_part else now - PERIOD))
    as_it_is = policy.of(policy.columns_of(budget))
    views = _views(budget, as_it_is, windows, calls)

    def decided(by: Policy, base_nanos: int) -> ReplayOutcome:
        limits = {id: base_nanos + window.extra_nanos for id, window in windows.items()}
        return replay.replay([*calls, *refused], views, by, limit_nanos=limits.__getitem__)

    return PolicyPreview(
        now=decided(as_it_is, budget.limit_nanos),
        then=decided(typed, limit_nanos),
        since=min((call.asked_at for call in (*calls, *refused)), default=None),
        is_part=is_part,
    )


def latest(budget: Budget, *, now: datetime) -> QuerySet[SpendEntry, dict[str, Any]]:
    """The charges of a budget's scope in the last 30 days, the newest first; not those far behind others' calls."""
    rows = SpendEntry.objects.order_by("-id")
    if budget.tenant is not None:
        rows = rows.filter(tenant=budget.tenant)
    furthest: list[UUID] = list(rows.values_list("pk", flat=True)[MOST_ROWS : MOST_ROWS + 1])
    if furthest:
        rows = rows.filter(pk__gt=furthest[0])
    asked = Q(occurred_at__gte=now - PERIOD, kind=SpendEntry.Kind.CHARGE)
    found: QuerySet[SpendEntry, dict[str, Any]] = rows.filter(in_scope(budget), asked).values(*_COLUMNS)
    return found


def in_scope(budget: Budget) -> Q:
    """The entries and refusals that name a budget's scope, in its tenant."""
    kind, key = budget.scope_type, budget.scope_key
    if kind in (ScopeType.PLATFORM, ScopeType.TENANT):
        return Q()
    if kind == ScopeType.KEY:
        return ~Q(key=None) if key == EACH else Q(key__in=ApiKey.objects.filter(Q(prefix=key) | Q(rotated_from=key)))
    return ~Q(**{kind: ""}) if key == EACH else Q(**{f"{kind}__in": names.spellings(kind, key)})


def _windows(budget: Budget, ids: set[int]) -> Mapping[int, BudgetWindow]:
    """The budget's windows among these, and its open ones."""
    if not ids:
        return {window.pk: window for window in budget.windows.filter(closed_at=None)[:MOST_CALLS]}
    found = budget.windows.filter(pk__gte=min(ids)).order_by("-id")[:MOST_WINDOWS]
    return {window.pk: window for window in found if window.pk in ids or window.closed_at is None}


def _as_call(row: Mapping[str, Any], windows: Mapping[int, BudgetWindow]) -> Iterator[PastCall]:
    """The row as a call, where one of its windows is the budget's."""
    window_id = next((id for id in row["windows"] if id in windows), None)
    if window_id is None:
        return
    asked_at = row["reservation__reserved_at"] or row["occurred_at"]
    asked = row["model_requested"] or row["model_served"]
    quoted = _quoted(asked, row["input_tokens"], _most_tokens(row))
    served = quoted.names if quoted and row["model_served"] in quoted.names else frozenset({row["model_served"]})
    yield PastCall(
        window_id=window_id,
        asked_at=asked_at,
        settled_at=max(asked_at, row["reservation__resolved_at"] or asked_at),
        model=asked,
        quote=_quoter(row, asked, quoted, is_as_asked=asked in served or row["model_served"] == asked),
        served=served,
        cost_nanos=row["cost_nanos"],
        output_tokens=row["output_tokens"],
    )


def _most_tokens(row: Mapping[str, Any]) -> int:
    """What the call may have been allowed to write: what was held for beside its input, and no less than it wrote."""
    written, held_tokens = int(row["output_tokens"]), int(row["reservation__tokens"] or 0)
    return max(written, held_tokens - int(row["input_tokens"]))


def _quoter(row: Mapping[str, Any], asked: str, quoted: Quote | None, *, is_as_asked: bool) -> Quoter:
    """Prices of a past call: the hold as it was at the model that it asked for and got, others by today's prices."""
    held_nanos = row["reservation__amount_nanos"]
    held_nanos = row["cost_nanos"] if held_nanos is None else held_nanos
    first = quoted if quoted and not is_as_asked else replace(quoted or Quote(asked, 0), cost_nanos=held_nanos)

    def quote(model: str) -> Quote | None:
        return first if model == asked else _quoted(model, row["input_tokens"], _most_tokens(row))

    return quote


def _quoted(model: str, input_tokens: int, max_tokens: int) -> Quote | None:
    return ports.by_tokens(input_tokens=input_tokens, max_tokens=max_tokens)(model)


def _refused(budget: Budget, windows: Mapping[int, BudgetWindow], *, since: datetime) -> Iterator[PastCall]:
    """The calls that this budget refused, in the windows that are known."""
    rows = RefusedCall.objects.filter(in_scope(budget), refused_at__gte=since, reason__in=_OF_MONEY)
    if budget.tenant is not None:
        rows = rows.filter(tenant=budget.tenant)
    for row in rows.order_by("-id")[:MOST_REFUSALS]:
        scope = next((each["scope"] for each in row.budgets if each["budget_id"] == budget.pk), None)
        if scope is None or row.wanted_nanos is None:
            continue
        window = _at(windows, scope.partition(":")[2], row.refused_at)
        if window is None:
            continue
        yield PastCall(
            window_id=window.pk,
            asked_at=row.refused_at,
            settled_at=row.refused_at,
            model=row.model,
            quote=_only(Quote(row.model, row.wanted_nanos)),
            served=frozenset({row.model}),
            cost_nanos=row.wanted_nanos,
        )


def _at(windows: Mapping[int, BudgetWindow], subject: str, at: datetime) -> BudgetWindow | None:
    for window in windows.values():
        until = min((end for end in (window.closed_at, window.ends_at) if end), default=None)
        if window.subject == subject and window.starts_at <= at and (until is None or at <= until):
            return window
    return None


def _views(
    budget: Budget, by: Policy, windows: Mapping[int, BudgetWindow], calls: list[PastCall]
) -> dict[int, WindowView]:
    """The windows as they stood before the calls that are looked at: with what else they have settled."""
    of_calls: Counter[int] = Counter()
    for call in calls:
        of_calls[call.window_id] += call.cost_nanos
    return {
        id: WindowView(
            budget_id=budget.pk,
            window_id=id,
            scope=budget.scope,
            scope_type=budget.scope_type,
            scope_key=window.subject,
            kind=budget.window,
            starts_at=window.starts_at,
            ends_at=window.ends_at,
            limit_nanos=window.limit_nanos,
            settled_nanos=max(0, window.settled_nanos - of_calls[id]),
            reserved_nanos=0,
            policy=by,
        )
        for id, window in windows.items()
    }


def _only(quote: Quote) -> Quoter:
    """Prices one model, and no other."""
    return lambda model: quote if model == quote.model else None
