"""What endpoints of one's own may be asked to think beside the length of their answers. Pure.

`max_tokens` bounds thinking too where a model's own API or vLLM serves it, and does not at others (DashScope, GLM,
SiliconFlow). So a number of tokens for thinking is held for beside it, and goes out no larger than what was held for;
a wish to think without one is refused. `reasoning_effort` is bounded by the answer's length wherever it is documented.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.rules.request_checks import MOST_TOKENS, DialectError

# Numbers of tokens: a field, or one in the object under it.
_BUDGETS = (
    ("thinking_budget",),
    ("thinking", "budget_tokens"),
    ("reasoning", "max_tokens"),
    ("chat_template_kwargs", "thinking_budget"),
)
# Where an endpoint reads that it is to think, the values that ask for nothing, and the number that bounds it.
_SWITCHES: tuple[tuple[tuple[str, ...], tuple[Any, ...], tuple[str, ...]], ...] = (
    (("enable_thinking",), (False,), ("thinking_budget",)),
    (("thinking", "type"), ("disabled",), ("thinking", "budget_tokens")),
    (("reasoning", "effort"), ("none",), ("reasoning", "max_tokens")),
    (("reasoning", "enabled"), (False,), ("reasoning", "max_tokens")),
    (("chat_template_kwargs", "enable_thinking"), (False,), ("chat_template_kwargs", "thinking_budget")),
    (("chat_template_kwargs", "thinking"), (False,), ("chat_template_kwargs", "thinking_budget")),
    (("chat_template_kwargs", "reasoning_effort"), ("none",), ("chat_template_kwargs", "thinking_budget")),
)
# All that objects may hold whose fields decide on thinking; others have more, for the model's template.
_KNOWN: Mapping[str, frozenset[str]] = {
    "thinking": frozenset({"type", "budget_tokens"}),
    "reasoning": frozenset({"effort", "max_tokens", "enabled", "exclude", "summary"}),
}


def tokens_beside(payload: Mapping[str, Any]) -> int:
    """Tokens that one answer may have beyond its length. Raises DialectError for what has no number."""
    for name in ("thinking", "reasoning", "chat_template_kwargs"):
        _check_object(payload.get(name), name)
    for switch, off, budget in _SWITCHES:
        value = _at(payload, switch)
        # 0 is no False here: what is not written as it should be may be read as anything.
        if value is None or any(value is one or (isinstance(one, str) and value == one) for one in off):
            continue
        # 0 bounds no thinking that is switched on: endpoints read it as no bound, too.
        if not _at(payload, budget):
            raise DialectError(
                f"`{'.'.join(switch)}` is taken only with a number of tokens in `{'.'.join(budget)}`: nothing else"
                " says what may be thought beside `max_tokens`.",
                ".".join(switch),
                "unbounded_output",
            )
    return sum(_budget(payload, place) for place in _BUDGETS)


def within(payload: Mapping[str, Any], most_tokens: int) -> tuple[dict[str, Any], int]:
    """The payload whose thinking and answer are `most_tokens` together, and the length that is left for the answer."""
    bounded, left = dict(payload), most_tokens
    numbers = {place: asked for place in _BUDGETS if (asked := _budget(payload, place))}
    for later, (place, asked) in zip(reversed(range(len(numbers))), numbers.items(), strict=True):
        # One token is left for the answer and for each number that follows: none at all is read as no bound.
        given = max(1, min(asked, left - 1 - later))
        left = max(1, left - given)
        if given == asked:
            continue
        if len(place) == 1:
            bounded[place[0]] = given
        else:
            bounded[place[0]] = {**bounded[place[0]], place[1]: given}
    return bounded, left


def _check_object(value: Any, name: str) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise DialectError(f"`{name}` must be an object.", name, "invalid_type")
    for inner in value.keys() - _KNOWN.get(name, value.keys()):
        raise DialectError(
            f"`{name}.{inner[:100]}` is not known here, so its cost cannot be bounded: leave it out.",
            f"{name}.{inner[:100]}",
            "unknown_field",
        )


def _budget(payload: Mapping[str, Any], place: tuple[str, ...]) -> int:
    value = _at(payload, place)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= MOST_TOKENS:
        name = ".".join(place)
        raise DialectError(f"`{name}` must be a whole number from 0 to {MOST_TOKENS}.", name, "invalid_type")
    return value


def _at(payload: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    value: Any = payload
    for name in place:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
