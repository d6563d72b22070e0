"""What an answer says of its own price: the tier that served it, and what it cost. Pure.

Endpoints tell these because they may differ from what tokens come to at one rate. Neither makes a call cheaper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from governance.rules import money

# Tiers that cost the standard price or less. All others may cost more.
_NOT_DEARER = frozenset({"auto", "default", "standard", "standard_only", "on_demand", "flex", "batch", "scale"})
# A dollar has 10^10 of them: https://docs.x.ai/developers/cost-tracking
_TICKS_PER_NANO = 10


def dearer_tier(answer: Mapping[str, Any]) -> str:
    """The service tier that served an answer, where it may cost more than the standard one; else empty."""
    for holder in (answer, *_blocks(answer)):
        tier = holder.get("service_tier")
        if isinstance(tier, str) and tier and tier.lower() not in _NOT_DEARER:
            return tier.lower()
    return ""


def cost_nanos(answer: Mapping[str, Any]) -> int:
    """What an answer says that it cost, half a nanodollar rounded up; 0 where it does not say.

    xAI tells ticks. OpenRouter tells dollars, and what they are made of beside them, as nobody else does; of a call on
    one's own key what its provider charges comes on top (https://openrouter.ai/docs/use-cases/usage-accounting).
    """
    return max((_block_nanos(block) for block in _blocks(answer)), default=0)


def _block_nanos(block: Mapping[str, Any]) -> int:
    ticks = _amount(block.get("cost_in_usd_ticks"))
    nanos = ticks / _TICKS_PER_NANO
    details = block.get("cost_details")
    if isinstance(details, dict):
        dollars = _amount(block.get("cost"))
        if block.get("is_byok") is True:
            dollars += _amount(details.get("upstream_inference_cost"))
        nanos = max(nanos, dollars * money.NANOS_PER_DOLLAR)
    return int(nanos.to_integral_value(ROUND_HALF_UP))


def _blocks(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Everything in an answer that may count its usage."""
    for holder in (answer, answer.get("response"), answer.get("message")):
        if isinstance(holder, dict) and isinstance(block := holder.get("usage"), dict):
            yield block


def _amount(value: Any) -> Decimal:
    """A number above zero, of dollars or of ticks; none where it is no number, or more than any call can cost."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return Decimal(0)
    try:
        # A float's shortest digits are those that were sent.
        found = money.decimal(str(value))
    except money.AmountError:
        return Decimal(0)
    return max(Decimal(0), found)
