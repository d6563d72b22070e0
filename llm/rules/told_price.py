"""What an answer, or a refusal, says of its own price: the tier that served it, and what it cost. Pure.

Endpoints tell these because they may differ from what tokens come to at one rate. Neither makes a call cheaper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from governance.rules import money

# Tiers that cost the standard price or less. All others may cost more.
_NOT_DEARER = frozenset({"auto", "default", "standard", "standard_only", "on_demand", "flex", "batch", "scale"})
# Where Anthropic may have served an answer at its usual price; within the US alone costs a tenth more
# (https://platform.claude.com/docs/en/build-with-claude/data-residency).
_ANYWHERE = frozenset({"global", "not_available"})
# A dollar has 10^10 of them: https://docs.x.ai/developers/cost-tracking
_TICKS_PER_NANO = 10
# What a usage has of all this beside its tokens.
IN_USAGE = ("service_tier", "inference_geo", "cost", "cost_details", "cost_in_usd_ticks", "is_byok")
# What xAI charges for a request that it refuses by its guidelines, and how it says so
# (https://docs.x.ai/docs/models#usage-guidelines-violation-fee).
VIOLATION, _VIOLATION_NANOS = "Failed check: SAFETY_CHECK", money.NANOS_PER_DOLLAR // 20


def dearer_tiers(answer: Mapping[str, Any]) -> Iterator[str]:
    """The service tiers that served an answer, where they may cost more than the standard one; "geo-us": the place."""
    for holder in (*_holders(answer), *_blocks(answer)):
        tier = _word(holder, "service_tier")
        if tier and tier not in _NOT_DEARER:
            yield tier
        place = _word(holder, "inference_geo")
        if place and place not in _ANYWHERE:
            yield f"geo-{place}"


def fee_nanos(refusal: Mapping[str, Any]) -> int:
    """What a refusal costs by its provider's price list, though nothing was read and nothing written."""
    return _VIOLATION_NANOS if any(VIOLATION in str(holder.get("error")) for holder in _holders(refusal)) else 0


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


def _holders(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Everything in an answer, or in a refusal, that may have a usage."""
    for holder in (answer, answer.get("response"), answer.get("message"), answer.get("error")):
        if isinstance(holder, dict):
            yield holder


def _blocks(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (block for holder in _holders(answer) if isinstance(block := holder.get("usage"), dict))


def _word(holder: Mapping[str, Any], name: str) -> str:
    said = holder.get(name)
    return said.lower() if isinstance(said, str) else ""


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
