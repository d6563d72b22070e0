"""What a policy would have done to calls that are past: each is decided on again, by the same function. Pure.

The budget is looked at alone, as if no other governed its calls. Amounts are integer nanodollars.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count

from governance.rules import decision
from governance.rules.decision import Action, Call, Decision, Quote, Quoter, WindowView
from governance.rules.policy import Policy


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call as it was: in which window, when it was asked for and when it was charged, and what it cost.

    `output_tokens`: what it wrote; None where that is not known, as of a call that was refused then. `times`: how many
    there were like it, one after another.
    """

    window_id: int
    asked_at: datetime
    settled_at: datetime
    model: str
    quote: Quoter
    # Its names: another model than these costs by its tokens.
    served: frozenset[str]
    cost_nanos: int
    output_tokens: int | None = None
    times: int = 1

    def cost_at(self, held: Quote) -> int:
        """What it would have cost at what was held for it."""
        if held.model in self.served or not self.served.isdisjoint(held.names):
            written = self.output_tokens or 0
            is_whole = held.max_tokens is None or written <= held.max_tokens
            return self.cost_nanos if is_whole else held.cost_nanos
        if self.output_tokens is None or held.max_tokens is None:
            return held.cost_nanos
        return held.with_most(min(self.output_tokens, held.max_tokens)).cost_nanos


@dataclass(slots=True)
class ReplayOutcome:
    """How many calls were decided how, when first, and what they come to."""

    looked_at: int = 0
    refused: int = 0
    waited: int = 0
    clamped: int = 0
    warned: int = 0
    # By the model asked for and the one that served.
    downgrades: Counter[tuple[str, str]] = field(default_factory=Counter)
    first_refused_at: datetime | None = None
    first_downgraded_at: datetime | None = None
    spent_nanos: int = 0

    @property
    def downgraded(self) -> int:
        return self.downgrades.total()

    def note(self, call: PastCall, decided: Decision, times: int) -> None:
        self.looked_at += times
        if decided.action is Action.IN_FLIGHT:
            self.waited += times
        elif not decided.allowed:
            self.refused += times
            self.first_refused_at = self.first_refused_at or call.asked_at
        elif decided.action is Action.DEGRADE:
            self.downgrades[call.model, decided.model] += times
            self.first_downgraded_at = self.first_downgraded_at or call.asked_at
        elif decided.action is Action.WARN:
            self.warned += times
        self.clamped += times * decided.clamped


def replay(
    calls: Iterable[PastCall],
    windows: Mapping[int, WindowView],
    policy: Policy,
    *,
    limit_nanos: Callable[[int], int],
) -> ReplayOutcome:
    """Decide on each call in the order in which they came. Money is held from then on until its call is charged.

    `windows` are as they stood before the first of the calls; `limit_nanos` is the limit to decide by of each.
    """
    views = {id: replace(view, policy=policy, limit_nanos=limit_nanos(id)) for id, view in windows.items()}
    outcome, running, order = ReplayOutcome(), list[tuple[datetime, int, int, int, int]](), count()

    def settle_until(at: datetime | None) -> None:
        while running and (at is None or running[0][0] <= at):
            _, _, id, held_nanos, cost_nanos = heapq.heappop(running)
            view = views[id]
            views[id] = replace(
                view,
                settled_nanos=max(0, view.settled_nanos + cost_nanos),
                reserved_nanos=view.reserved_nanos - held_nanos,
            )
            outcome.spent_nanos += cost_nanos

    for call in sorted(calls, key=lambda call: call.asked_at):
        left = call.times
        while left:
            settle_until(call.asked_at)
            view = views[call.window_id]
            decided = decision.decide(Call(call.model, call.quote), [view])
            times = _alike(call, view, decided, left)
            outcome.note(call, decided, times)
            left -= times
            if decided.quote is None:
                continue
            held_nanos, cost_nanos = times * decided.quote.cost_nanos, times * call.cost_at(decided.quote)
            views[call.window_id] = replace(view, reserved_nanos=view.reserved_nanos + held_nanos)
            heapq.heappush(running, (call.settled_at, next(order), call.window_id, held_nanos, cost_nanos))
    settle_until(None)
    return outcome


def _alike(call: PastCall, view: WindowView, decided: Decision, most: int) -> int:
    """Of so many calls like this one, how many are decided on like it: a refused one changes nothing, and what the
    others spend makes decisions stricter, never milder.
    """
    if decided.quote is None:
        return most
    cost_nanos, least = call.cost_at(decided.quote), 1
    while least < most:
        middle = (least + most + 1) // 2
        later = replace(view, settled_nanos=view.settled_nanos + (middle - 1) * cost_nanos)
        again = decision.decide(Call(call.model, call.quote), [later])
        if (again.action, again.quote) == (decided.action, decided.quote):
            least = middle
        else:
            most = middle - 1
    return least
