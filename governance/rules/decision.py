"""The decision: may this call go, at which model, with which tools? The same for the real thing and the dry run.

Amounts are integer nanodollars; ratios are integer ten-thousandths (0.8 is 8000), so that nothing is compared
through a float. No Django, no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import cast

from governance.rules import money
from governance.rules.buckets import NOTHING, Amount, BucketView, amount_of
from governance.rules.overruns import ModelOverrun
from governance.rules.policy import Policy, Rule
from governance.rules.scopes import PLATFORM


class Action(StrEnum):
    ALLOW = "allow"
    WARN = "warn"
    DEGRADE = "degrade"
    DISABLE_TOOLS = "disable-tools"
    HARD_STOP = "hard-stop"
    IN_FLIGHT = "in-flight"


class Reason(StrEnum):
    """Why a call was refused or changed; the data plane's error codes are made from these."""

    NONE = ""
    TENANT_PAUSED = "tenant_paused"
    TENANT_SUSPENDED = "tenant_suspended"
    AGENT_PAUSED = "agent_paused"
    KEY_INVALID = "key_invalid"
    MODEL_NOT_PRICED = "model_not_priced"
    TOOL_NOT_PRICED = "tool_not_priced"
    BUDGET_EXHAUSTED = "budget_exhausted"
    DOWNGRADE_REFUSED = "downgrade_refused"
    TOOL_DISABLED = "tool_disabled"
    BUDGET_IN_FLIGHT = "budget_in_flight"
    RATE_LIMITED = "rate_limit_exceeded"
    EMERGENCY_STOP = "emergency_stop"
    TOO_MANY_NAMES = "too_many_names"
    BUDGET_CLOSED = "budget_closed"
    SOFT_CAP = "soft_cap"
    DOWNGRADE_RULE = "downgrade_rule"


class State(StrEnum):
    """State of a window, from settled money alone."""

    ACTIVE = "active"
    WARNED = "warned"
    DEGRADED = "degraded"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Quote:
    """The worst-case price of one call at one model.

    `cost_nanos` is rounded up. For the clamp, where token counts are known: `fixed_picos` is what the call costs
    before its first output token, `picos_per_output_token` what each of `max_tokens` adds (all answers of `n`).
    """

    model: str
    cost_nanos: int
    names: frozenset[str] = frozenset()
    capable: bool = True
    fixed_picos: int = 0
    picos_per_output_token: int = 0
    max_tokens: int | None = None
    input_tokens: int = 0
    answers: int = 1
    # Of `max_tokens`, what is not asked for: the model may write it all the same, so nothing can be clamped.
    unasked_tokens: int = 0

    @property
    def asked_tokens(self) -> int | None:
        """How long one answer may be by its request."""
        return None if self.max_tokens is None else self.max_tokens - self.unasked_tokens

    @property
    def tokens(self) -> int:
        """The tokens that are held for, as limits a minute count them."""
        return self.input_tokens + self.answers * (self.max_tokens or 0)

    def clamped(self, room_nanos: int) -> Quote | None:
        """The same call with the most output tokens that `room_nanos` covers, or None where that is unknown."""
        if self.max_tokens is None or self.picos_per_output_token <= 0 or self.unasked_tokens:
            return None
        tokens = min(self.max_tokens, (room_nanos * 1000 - self.fixed_picos) // self.picos_per_output_token)
        return self.with_most(tokens) if tokens > 0 else None

    def with_most(self, tokens: int) -> Quote:
        """The same call with so many output tokens at most."""
        cost_nanos = money.ceil_from_picos(self.fixed_picos + tokens * self.picos_per_output_token)
        return replace(self, max_tokens=tokens, cost_nanos=cost_nanos)


# Prices a call at a model; None where the model has no price.
Quoter = Callable[[str], Quote | None]


def fixed(cost_nanos: int) -> Quoter:
    """An explicit estimate, which stands for whichever model serves."""
    return partial(Quote, cost_nanos=cost_nanos)


@dataclass(frozen=True, slots=True)
class WindowView:
    """One window as a decision sees it."""

    budget_id: int
    window_id: int
    scope: str
    scope_type: str
    scope_key: str
    kind: str
    starts_at: datetime
    ends_at: datetime | None
    limit_nanos: int
    settled_nanos: int
    reserved_nanos: int
    policy: Policy
    # Of a goal that has ended: nothing new is held.
    is_closed: bool = False
    # The part of the limit that was left of the window before.
    carried_nanos: int = 0

    @property
    def committed_nanos(self) -> int:
        return self.settled_nanos + self.reserved_nanos

    @property
    def cap_nanos(self) -> int:
        """Where the money is used up: the hard cap."""
        return money.share_nanos(self.limit_nanos, self.policy.hard_e4)

    @property
    def room_nanos(self) -> int:
        """What a new reservation may still hold under the hard cap; negative after an overage."""
        return money.room_nanos(
            limit_nanos=self.limit_nanos, hard_e4=self.policy.hard_e4, committed_nanos=self.committed_nanos
        )

    @property
    def remaining_nanos(self) -> int:
        """What can still be spent, as it is shown to people."""
        return money.remaining_nanos(
            limit_nanos=self.limit_nanos, hard_e4=self.policy.hard_e4, committed_nanos=self.committed_nanos
        )

    @property
    def state(self) -> State:
        return state_of(self.settled_nanos, self.limit_nanos, self.policy)

    @property
    def spent_out(self) -> bool:
        """Settled money alone has reached the hard cap."""
        return self.settled_nanos * 10_000 >= self.limit_nanos * self.policy.hard_e4

    def pressed_by(self, cost_nanos: int) -> bool:
        """The projection reaches the soft cap."""
        return self.reaches(self.policy.soft_e4, cost_nanos)

    def share_of(self, rule: Rule) -> int | None:
        """From which share of the limit a rule of this window's policy counts; None: never."""
        return self.policy.soft_e4 if rule.at_e4 is None else rule.at_e4

    def reaches(self, share_e4: int | None, cost_nanos: int) -> bool:
        """The projection reaches a share of the limit."""
        projected = self.committed_nanos + cost_nanos
        return share_e4 is not None and projected * 10_000 >= self.limit_nanos * share_e4

    def admits(self, cost_nanos: int) -> bool:
        return not self.spent_out and cost_nanos <= self.room_nanos

    def would_admit_alone(self, cost_nanos: int) -> bool:
        """It would fit were it not for the reservations in flight."""
        return not self.spent_out and cost_nanos <= self.room_nanos + self.reserved_nanos


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked: the model, its price at any model, and what may be changed about it.

    Of a call of a tool `model` is the tool, which forces itself, so that it is refused where it is taken away.

    `alternatives` are models that would do as well, in order of preference: the first that the money allows is taken.
    """

    model: str
    quote: Quoter
    tools: tuple[str, ...] = ()
    forced_tool: str = ""
    allow_downgrade: bool = True
    # Why the caller may not call at all (paused, suspended, revoked), or nothing.
    blocked: Reason = Reason.NONE
    alternatives: tuple[str, ...] = ()
    # Of one that is held and is to be held anew for more: what its rate limits have counted of it.
    booked: Amount = NOTHING
    # Whether the caller may know what its tenant's budgets have left.
    shows_amounts: bool = True
    # What is said where it has no price.
    unpriced: Reason = Reason.MODEL_NOT_PRICED
    # The prices where models are known to pass their bounds; None: nobody asks for that.
    overrun_quote: Callable[[Sequence[ModelOverrun]], Quoter] | None = None

    def knowing(self, overruns: Sequence[ModelOverrun]) -> Call:
        """The call, priced with the overruns in force."""
        if not overruns or self.overrun_quote is None:
            return self
        return replace(self, quote=self.overrun_quote(overruns))


@dataclass(frozen=True, slots=True)
class Downgrade:
    """A rule that a call followed, and the window whose policy asked for it.

    `share_e4`: from which share of the limit on it counts.
    """

    view: WindowView
    rule: Rule
    share_e4: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. `quote` is what to reserve; None where the call is refused.

    `downgrades` are the rules that led to its model: one, or more where a model on the way could not do the job or did
    not fit.
    """

    action: Action
    reason: Reason = Reason.NONE
    model: str = ""
    quote: Quote | None = None
    disabled_tools: tuple[str, ...] = ()
    clamped: bool = False
    # The window that decided: of a refusal the one that refused, of a downgrade the one that caused it.
    because: WindowView | None = None
    views: tuple[WindowView, ...] = ()
    downgrades: tuple[Downgrade, ...] = ()
    # Of a rate limit that refused: which one, and when to come back.
    limited_by: BucketView | None = None
    retry_after_s: int = 0
    # Of a call that waits for those in flight: what it needs at the least.
    wanted_nanos: int = 0
    # Of a call that names one more than there may be: how many.
    most_names: int = 0
    # Of a call that was refused for want of money: what it needs at the model that it may go to.
    wanted: Quote | None = None

    @property
    def allowed(self) -> bool:
        return self.quote is not None

    @property
    def tightest(self) -> WindowView | None:
        return tightest(self.views)


# What another model might be let through in spite of.
_FOR_WANT_OF_MONEY = frozenset({Reason.BUDGET_EXHAUSTED, Reason.DOWNGRADE_REFUSED, Reason.BUDGET_IN_FLIGHT})


def decide(call: Call, views: Sequence[WindowView], buckets: Sequence[BucketView] = ()) -> Decision:
    """Apply the decision table to one call, every window that governs it and every rate limit; the strictest wins.

    Where the money does not reach for the model asked for, its alternatives are tried in order; if none may go, the
    refusal of what needed the least is the answer, so that what it says was missing is what would have done.
    """
    refusal: Decision | None = None
    for model in (call.model, *call.alternatives):
        decision = _decide(call if model == call.model else replace(call, model=model), views, buckets)
        if decision.allowed:
            return decision
        if refusal is None or _needs_less(decision, refusal):
            refusal = decision
        if refusal.reason not in _FOR_WANT_OF_MONEY:
            return refusal
    return cast(Decision, refusal)


def _needs_less(one: Decision, other: Decision) -> bool:
    return one.wanted is not None and other.wanted is not None and one.wanted.cost_nanos < other.wanted.cost_nanos


def _decide(call: Call, views: Sequence[WindowView], buckets: Sequence[BucketView]) -> Decision:
    def refuse(
        action: Action, reason: Reason, because: WindowView | None = None, wanted: Quote | None = None
    ) -> Decision:
        return Decision(action, reason, model=call.model, because=because, views=tuple(views), wanted=wanted)

    if call.blocked:
        return refuse(Action.HARD_STOP, call.blocked)
    if closed := next((view for view in views if view.is_closed), None):
        return refuse(Action.HARD_STOP, Reason.BUDGET_CLOSED, closed)
    asked = call.quote(call.model)
    if asked is None:
        return refuse(Action.HARD_STOP, call.unpriced)
    pressed = tightest(view for view in views if view.pressed_by(asked.cost_nanos))
    reached = _candidates(call, asked, views)
    candidates = [quote for quote, _ in reached]
    if len(candidates) > 1 and not call.allow_downgrade:
        return refuse(Action.HARD_STOP, Reason.DOWNGRADE_REFUSED, reached[-1][1][0].view, asked)

    chosen = _choose(candidates, views, shows_amounts=call.shows_amounts)
    if chosen is Action.IN_FLIGHT:
        waiting = refuse(chosen, Reason.BUDGET_IN_FLIGHT, tightest(views), candidates[-1])
        return replace(waiting, wanted_nanos=candidates[-1].cost_nanos)
    if isinstance(chosen, Action):
        # Calls in flight may hold the rest of another window; this one would refuse without them too.
        because = min(views, key=lambda view: view.room_nanos + view.reserved_nanos)
        return refuse(chosen, Reason.BUDGET_EXHAUSTED, because, candidates[-1])
    removed = _removed_tools(call, asked, views)
    if call.forced_tool and call.forced_tool in removed:
        return refuse(Action.DISABLE_TOOLS, Reason.TOOL_DISABLED, pressed)
    if slowest := _slowest(call, chosen, buckets):
        refusal = refuse(Action.IN_FLIGHT, Reason.RATE_LIMITED)
        return replace(refusal, limited_by=slowest[1], retry_after_s=slowest[0])
    downgrades = next((steps for quote, steps in reached if quote.model == chosen.model), ())
    return Decision(
        _action(degraded=chosen.model != asked.model, removed=bool(removed), pressed=pressed is not None),
        reason=Reason.SOFT_CAP if pressed else Reason.DOWNGRADE_RULE if downgrades else Reason.NONE,
        model=chosen.model,
        quote=chosen,
        disabled_tools=removed,
        clamped=chosen not in candidates,
        because=downgrades[0].view if downgrades else pressed,
        views=tuple(views),
        downgrades=downgrades,
    )


def tightest(views: Iterable[WindowView]) -> WindowView | None:
    """The window with the least room: the one to show, and the one that refuses first."""
    return min(views, key=lambda view: view.room_nanos, default=None)


def state_of(settled_nanos: int, limit_nanos: int, policy: Policy) -> State:
    share = settled_nanos * 10_000
    if share >= limit_nanos * policy.hard_e4:
        return State.STOPPED
    if policy.soft_e4 is not None and share >= limit_nanos * policy.soft_e4:
        return State.DEGRADED if policy.rules or policy.disabled_tools else State.WARNED
    if policy.warn_e4 is not None and share >= limit_nanos * policy.warn_e4:
        return State.WARNED
    return State.ACTIVE


def crossed(settled_nanos: int, limit_nanos: int, policy: Policy) -> tuple[int, ...]:
    """The alert thresholds (ten-thousandths) that settled money has reached."""
    return tuple(e4 for e4 in policy.thresholds_e4 if settled_nanos * 10_000 >= limit_nanos * e4)


def _candidates(call: Call, asked: Quote, views: Sequence[WindowView]) -> list[tuple[Quote, tuple[Downgrade, ...]]]:
    """The model asked for, and those that downgrade rules lead to, each with the rules that led there.

    The first rule that matches is followed, and no other, where its model fits. Where that one does not fit, cannot do
    the job or has no price, the next is that matches the call's model or one reached so far; it is judged at the price
    of the last model that could serve. Cycles are cut.
    """
    found: list[tuple[Quote, tuple[Downgrade, ...]]] = [(asked, ())]
    steps: list[Downgrade] = []
    names = {call.model, *asked.names}
    while step := _next_rule(names, found[-1][0].cost_nanos, views):
        names.add(step.rule.to)
        steps.append(step)
        quote = call.quote(step.rule.to)
        if quote is None:
            continue
        names.update(quote.names)
        if not quote.capable:
            continue
        found.append((quote, tuple(steps)))
        if _fits(quote, views):
            break
    return found


def _next_rule(names: Collection[str], cost_nanos: int, views: Sequence[WindowView]) -> Downgrade | None:
    """The first rule that counts for one of these models, in the order of the windows, and leads to none of them."""
    return next(
        (
            Downgrade(view, rule, share_e4)
            for view in views
            for rule in view.policy.rules
            if (share_e4 := view.share_of(rule)) is not None
            and view.reaches(share_e4, cost_nanos)
            and rule.matches(names)
            and rule.to not in names
        ),
        None,
    )


def _fits(quote: Quote, views: Sequence[WindowView]) -> bool:
    return all(view.admits(quote.cost_nanos) for view in views)


def _choose(candidates: Sequence[Quote], views: Sequence[WindowView], *, shows_amounts: bool) -> Quote | Action:
    """What to reserve, or why nothing can be: the money is used up, or held by calls in flight."""
    # The last one is what the policy asks for; an earlier model is taken only where it alone fits.
    for quote in reversed(candidates):
        if _fits(quote, views):
            return quote
    if any(all(view.would_admit_alone(quote.cost_nanos) for view in views) for quote in candidates):
        return Action.IN_FLIGHT
    if clamped := _clamp(candidates, views, room_nanos=lambda view: view.room_nanos, shows_amounts=shows_amounts):
        return clamped
    later = _clamp(candidates, views, room_nanos=lambda view: view.room_nanos + view.reserved_nanos)
    return Action.IN_FLIGHT if later else Action.HARD_STOP


def _slowest(call: Call, quote: Quote, buckets: Sequence[BucketView]) -> tuple[int, BucketView] | None:
    """(seconds to wait, limit) of the rate limit that makes the call wait longest; None where none does."""
    more = amount_of(cost_nanos=quote.cost_nanos, tokens=quote.tokens).plus(call.booked.negated())
    waits = [(wait_s, bucket) for bucket in buckets if (wait_s := bucket.wait_s(more))]
    return max(waits, key=lambda found: found[0], default=None)


def _action(*, degraded: bool, removed: bool, pressed: bool) -> Action:
    if degraded:
        return Action.DEGRADE
    if removed:
        return Action.DISABLE_TOOLS
    return Action.WARN if pressed else Action.ALLOW


def _clamp(
    candidates: Sequence[Quote],
    views: Sequence[WindowView],
    *,
    room_nanos: Callable[[WindowView], int],
    shows_amounts: bool = True,
) -> Quote | None:
    """The last candidate with as many output tokens as the money covers, where every policy allows that.

    What a budget covers whose amounts the caller is not shown (the platform's; its tenant's, if that wishes so) is
    rounded down to a power of two: the bound is told to the client, which could reckon from it what is left.
    """
    if any(view.spent_out or not view.policy.clamp for view in views):
        return None
    narrowest = min(views, key=room_nanos)
    quote = candidates[-1].clamped(room_nanos(narrowest))
    least = max(view.policy.clamp_min_tokens for view in views)
    if quote is None or quote.max_tokens is None or quote.max_tokens < least:
        return None
    if narrowest.scope_type == PLATFORM or not shows_amounts:
        return quote.with_most(max(least, 1 << quote.max_tokens.bit_length() - 1))
    return quote


def _removed_tools(call: Call, asked: Quote, views: Sequence[WindowView]) -> tuple[str, ...]:
    taken: set[str] = set()
    for view in views:
        if view.policy.disabled_tools and view.pressed_by(asked.cost_nanos):
            taken |= view.policy.disabled_tools
    return tuple(tool for tool in call.tools if tool in taken)
