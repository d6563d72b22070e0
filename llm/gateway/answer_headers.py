"""What the headers of an answer say of its call: what was done to it, how its budget stands, how long it took."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from governance.ledger.results import SettleResult
from governance.rules import money, names
from governance.rules.decision import Action, Decision
from governance.rules.visibility import Audience
from llm.gateway import errors
from llm.gateway.forecasts import KnownForecasts
from llm.gateway.holds import Hold
from llm.rules.client_requests import Request


def of_call(
    hold: Hold, request: Request, *, request_id: str, audience: Audience, chosen: bool
) -> list[tuple[str, str]]:
    """What was done to the call, for whoever sent it. `chosen`: its model, by a strategy."""
    decision, requested = hold.decision, request.model
    headers = [
        ("x-request-id", request_id),
        ("x-model-requested", names.for_header(requested)),
        ("x-model-served", names.for_header(decision.model)),
        ("x-reserved-usd", money.format_dollars(hold.quote.cost_nanos)),
    ]
    if reason := _reason(decision, requested, chosen=chosen, audience=audience):
        headers.append(("x-downgrade-reason", names.for_header(reason)))
    if decision.disabled_tools:
        headers.append(("x-tools-disabled", ",".join(map(names.for_header, decision.disabled_tools))))
    if request.max_tokens is None and hold.quote.max_tokens is not None:
        headers.append(("x-max-tokens-default", str(hold.quote.asked_tokens)))
    if decision.clamped:
        headers.append(("x-max-tokens-clamped", str(hold.quote.asked_tokens)))
    return headers


def _reason(decision: Decision, requested: str, *, chosen: bool, audience: Audience) -> str:
    """Why another model serves than the one requested; empty where it does not. `chosen`: by a strategy."""
    if decision.model == requested:
        return ""
    if decision.action is not Action.DEGRADE or decision.because is None:
        return "strategy" if chosen else "fallback"
    return f"{decision.reason.value} of {audience.window(decision.because).name}"


def budget(
    hold: Hold, audience: Audience, result: SettleResult | None, forecasts: KnownForecasts, *, now: datetime
) -> list[tuple[str, str]]:
    """The tightest budget that may be shown, after this call: as settled, or (not yet settled) as held."""
    decided = audience.tightest(hold.decision.views)
    if decided is None:
        return []
    settled = (view for view in (result.windows if result else ()) if view.window_id == decided.window_id)
    shown = next(settled, None) or replace(decided, reserved_nanos=decided.reserved_nanos + hold.quote.cost_nanos)
    return errors.budget_headers(audience.window(shown, forecasts.runs_out_at(shown, now=now)))


def timing(arrived: float, sent: float, answered: float) -> str:
    """Milliseconds before the call was sent on, and until the model's answer began."""
    return f"gateway;dur={(sent - arrived) * 1000:.1f}, upstream;dur={(answered - sent) * 1000:.1f}"
