"""What a policy would have done to a budget's latest calls: reads them, and has them decided on again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from governance import ports
from governance.models import ApiKey, Budget, BudgetWindow, RefusedCall, ScopeType, SpendEntry
from governance.models.budgets import EACH
from governance.queries.sums import LongSum
from governance.rules import names, policy, replay
from governance.rules.calls import TOOL_PROVIDER
from governance.rules.decision import Quote, Quoter, Reason, WindowView
from governance.rules.policy import Policy
from governance.rules.replay import PastCall, ReplayOutcome

PERIOD = timedelta(days=30)
# So many of the latest calls, and of the latest rows of refused ones, are decided on again; of calls that a scope does
# not name, so many are passed over.
MOST_CALLS, MOST_REFUSALS, MOST_WINDOWS, MOST_ROWS = 5_000, 5_000, 5_000, 50_000
_OF_MONEY = (Reason.BUDGET_EXHAUSTED, Reason.DOWNGRADE_REFUSED, Reason.BUDGET_IN_FLIGHT)
# What is read of an entry.
_COLUMNS = (
    "windows",
    "occurred_at",
    "recorded_at",
    "model_requested",
    "model_served",
    "provider",
    "input_tokens",
    "output_tokens",
    "reservation__amount_nanos",
    "reservation__tokens",
    "reservation__reserved_at",
    "reservation__resolved_at",
)
_OF_REFUSALS = ("refused_at", "model", "wanted_nanos", "budgets", "more")


@dataclass(frozen=True, slots=True)
class PolicyPreview:
    """The same calls under the policy as it is and as it was typed. `since`: when the first of them was made.

    `is_part`: there were more in the 30 days than are looked at, or some that were only counted, not by their budget.
    """

    now: ReplayOutcome
    then: ReplayOutcome
    since: datetime | None
    is_part: bool


def preview(budget: Budget, *, typed: Policy, limit_nanos: int, now: datetime) -> PolicyPreview:
    """What `typed` and a limit would have done to the calls of the last 30 days, had this budget alone governed them.

    Each is held for as it was then, or at what another model may cost by today's prices, and cost what its corrections
    have left; the caller was content with any model, one that can do the job. Calls that were reported afterwards, and
    those that this budget refused or had wait, are taken for calls that asked, one that was sent again for another;
    the latter cost what they needed at the least. Tools are not known of past calls.
    """
    since = now - PERIOD
    counts_more = PERIOD.days > settings.REFUSALS_DAYS or _counts_more(budget, since=since)
    rows, charges_are_cut = _latest(budget, since=since)
    if charges_are_cut:
        since = min(map(_asked_at, rows), default=since)
    refusals, refusals_are_cut = _refused(budget, since=since)
    if refusals_are_cut:
        since = refusals[-1]["refused_at"]
        rows = [row for row in rows if _asked_at(row) >= since]
    windows, windows_are_cut = _windows(budget, closed_since=min([since, *map(_asked_at, rows)]))
    # Those of one moment stay in their order.
    calls = [call for row in reversed(rows) for call in _as_call(row, windows)]
    refused = list(_as_refused(budget, windows, refusals))
    as_it_is = policy.of(policy.columns_of(budget))
    views = _views(budget, as_it_is, windows, calls)

    def decided(by: Policy, base_nanos: int) -> ReplayOutcome:
        limits = {id: base_nanos + window.extra_nanos + window.carried_nanos for id, window in windows.items()}
        return replay.replay([*calls, *refused], views, by, limit_nanos=limits.__getitem__)

    return PolicyPreview(
        now=decided(as_it_is, budget.limit_nanos),
        then=decided(typed, limit_nanos),
        since=min((call.asked_at for call in (*calls, *refused)), default=None),
        is_part=charges_are_cut or refusals_are_cut or windows_are_cut or counts_more,
    )


def _latest(budget: Budget, *, since: datetime) -> tuple[list[dict[str, Any]], bool]:
    """The charges of a budget's scope, the newest first, and whether there were more: not looked for is what is far
    behind others' calls.
    """
    rows, is_cut = SpendEntry.objects.order_by("-id"), False
    if budget.tenant is not None:
        rows = rows.filter(tenant=budget.tenant)
    for id, recorded_at in list(rows.values_list("pk", "recorded_at")[MOST_ROWS : MOST_ROWS + 1]):
        rows, is_cut = rows.filter(pk__gt=id), recorded_at >= since
    corrections = SpendEntry.objects.filter(corrects=OuterRef("pk")).order_by().values("corrects")
    corrected = Subquery(corrections.annotate(sum_nanos=LongSum("cost_nanos")).values("sum_nanos"))
    found = (
        rows.filter(in_scope(budget), occurred_at__gte=since, kind=SpendEntry.Kind.CHARGE)
        .annotate(charged_nanos=F("cost_nanos") + Coalesce(corrected, 0))
        .values(*_COLUMNS, "charged_nanos")
    )
    latest = list(found[: MOST_CALLS + 1])
    return latest[:MOST_CALLS], is_cut or len(latest) > MOST_CALLS


def _refused(budget: Budget, *, since: datetime) -> tuple[list[dict[str, Any]], bool]:
    """The rows of calls that were refused for want of money, the newest first, and whether there were more."""
    rows = _refusals(budget, since=since).filter(in_scope(budget)).exclude(request_id="").order_by("-id")
    latest: list[dict[str, Any]] = list(rows.values(*_OF_REFUSALS)[: MOST_REFUSALS + 1])
    return latest[:MOST_REFUSALS], len(latest) > MOST_REFUSALS


def _refusals(budget: Budget, *, since: datetime) -> QuerySet[RefusedCall]:
    rows = RefusedCall.objects.filter(refused_at__gte=since, reason__in=_OF_MONEY)
    return rows if budget.tenant is None else rows.filter(tenant=budget.tenant)


def _counts_more(budget: Budget, *, since: datetime) -> bool:
    """Whether refusals were counted of which nobody knows whether they were this budget's."""
    whose = in_scope(budget) | Q(agent="") if budget.scope_type == ScopeType.AGENT else Q()
    return _refusals(budget, since=since).filter(whose, request_id="").exists()


def in_scope(budget: Budget) -> Q:
    """The entries and refusals that name a budget's scope, in its tenant."""
    kind, key = budget.scope_type, budget.scope_key
    if kind in (ScopeType.PLATFORM, ScopeType.TENANT):
        return Q()
    if kind == ScopeType.KEY:
        return ~Q(key=None) if key == EACH else Q(key__in=ApiKey.objects.filter(Q(prefix=key) | Q(rotated_from=key)))
    return ~Q(**{kind: ""}) if key == EACH else Q(**{f"{kind}__in": names.spellings(kind, key)})


def _windows(budget: Budget, *, closed_since: datetime) -> tuple[Mapping[int, BudgetWindow], bool]:
    """The budget's windows that were open since some time, and whether there were more."""
    latest = list(budget.windows.order_by("-id")[: MOST_WINDOWS + 1])
    opened = list(budget.windows.filter(closed_at=None).order_by("-id")[: MOST_WINDOWS + 1])
    is_cut = len(opened) > MOST_WINDOWS or (len(latest) > MOST_WINDOWS and latest[-1].opened_at >= closed_since)
    found = {window.pk: window for window in (*latest[:MOST_WINDOWS], *opened[:MOST_WINDOWS])}
    return {
        id: window for id, window in found.items() if window.closed_at is None or window.closed_at >= closed_since
    }, is_cut


def _asked_at(row: Mapping[str, Any]) -> datetime:
    at: datetime = row["reservation__reserved_at"] or row["occurred_at"]
    return at


def _as_call(row: Mapping[str, Any], windows: Mapping[int, BudgetWindow]) -> Iterator[PastCall]:
    """The row as a call, where one of its windows is the budget's."""
    window_id = next((id for id in row["windows"] if id in windows), None)
    if window_id is None:
        return
    asked_at = _asked_at(row)
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
        cost_nanos=row["charged_nanos"],
        output_tokens=row["output_tokens"],
    )


def _most_tokens(row: Mapping[str, Any]) -> int:
    """What the call may have been allowed to write: what was held for beside its input, and no less than it wrote."""
    written, held_tokens = int(row["output_tokens"]), int(row["reservation__tokens"] or 0)
    return max(written, held_tokens - int(row["input_tokens"]))


def _quoter(row: Mapping[str, Any], asked: str, quoted: Quote | None, *, is_as_asked: bool) -> Quoter:
    """Prices of a past call: the hold as it was at the model that it asked for and got, others by today's prices."""
    held_nanos = row["reservation__amount_nanos"]
    held_nanos = row["charged_nanos"] if held_nanos is None else held_nanos
    first = quoted if quoted and not is_as_asked else replace(quoted or Quote(asked, 0), cost_nanos=held_nanos)

    def quote(model: str) -> Quote | None:
        if model == asked:
            return first
        # No model does what a tool does.
        is_tool = row["provider"] == TOOL_PROVIDER
        return None if is_tool else _quoted(model, row["input_tokens"], _most_tokens(row))

    return quote


def _quoted(model: str, input_tokens: int, max_tokens: int) -> Quote | None:
    return ports.by_tokens(input_tokens=input_tokens, max_tokens=max_tokens)(model)


def _as_refused(
    budget: Budget, windows: Mapping[int, BudgetWindow], rows: Iterable[Mapping[str, Any]]
) -> Iterator[PastCall]:
    """The calls that this budget refused, in the windows that are known; with those that were only counted."""
    of_subject: defaultdict[str, list[BudgetWindow]] = defaultdict(list)
    for window in sorted(windows.values(), key=lambda window: window.starts_at, reverse=True):
        of_subject[window.subject].append(window)
    for row in rows:
        scope = next((each["scope"] for each in row["budgets"] if each["budget_id"] == budget.pk), None)
        if scope is None or row["wanted_nanos"] is None:
            continue
        refusing = _at(of_subject[scope.partition(":")[2]], row["refused_at"])
        if refusing is None:
            continue
        yield PastCall(
            window_id=refusing.pk,
            asked_at=row["refused_at"],
            settled_at=row["refused_at"],
            model=row["model"],
            quote=_only(Quote(row["model"], row["wanted_nanos"])),
            served=frozenset({row["model"]}),
            cost_nanos=row["wanted_nanos"],
            times=1 + row["more"],
        )


def _at(windows: Iterable[BudgetWindow], at: datetime) -> BudgetWindow | None:
    """Of one subject's windows, the latest first, the one that was open at a moment."""
    for window in windows:
        until = min((end for end in (window.closed_at, window.ends_at) if end), default=None)
        if window.starts_at <= at and (until is None or at <= until):
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
