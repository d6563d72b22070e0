"""What a charge keeps of the decision that let it through, and how it is told. Pure.

Only what is out of the ordinary is noted: of a call that went as it was asked for there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from governance.rules.decision import Action, Decision
from governance.rules.visibility import Audience

KEY = "decision"
_TOLD = {
    Action.WARN: "Let through and announced: {because} was near its cap.",
    Action.DEGRADE: "Downgraded from {asked} to {model}: {because} was near its cap.",
    Action.DISABLE_TOOLS: "Let through without some tools: {because} was near its cap.",
}


def noted(decision: Decision, *, asked: str) -> dict[str, Any]:
    """For the `metadata` of the charge, JSON; empty where the call went as it was asked for. `asked`: which model."""
    is_moved = decision.model != asked
    if decision.action is Action.ALLOW and not (is_moved or decision.clamped):
        return {}
    note: dict[str, Any] = {"action": str(decision.action), "asked": asked, "model": decision.model}
    if decision.because is not None:
        note |= {"scope": decision.because.scope, "window": decision.because.kind}
    if decision.clamped and decision.quote is not None:
        note["max_tokens"] = decision.quote.max_tokens
    if decision.disabled_tools:
        note["tools"] = list(decision.disabled_tools)
    return {KEY: note}


def is_downgrade(metadata: Mapping[str, Any], *, asked: str, held_for: str) -> bool:
    """Whether a budget moved the call to another model: not where an alias reads differently, or another answered.

    `held_for`: the model that its hold was for, by the name under which it was meant. Where nothing was noted the two
    names say it.
    """
    note = metadata.get(KEY)
    if isinstance(note, Mapping):
        return note.get("action") == Action.DEGRADE
    return bool(asked and held_for) and asked != held_for


def told(metadata: Mapping[str, Any], *, audience: Audience) -> list[str]:
    """Sentences of what was decided, as far as `audience` may know it."""
    note = metadata.get(KEY)
    if not isinstance(note, Mapping):
        return []
    scope = note.get("scope")
    because = audience.named(scope, note.get("window", "")) if scope else "a budget"
    asked, model = note.get("asked", ""), note.get("model", "")
    sentences = [_TOLD[note["action"]].format(because=because, asked=asked, model=model)] if _is_told(note) else []
    if note.get("action") != Action.DEGRADE and asked != model:
        sentences.append(f"{model} answered in the place of {asked}.")
    if tools := note.get("tools"):
        sentences.append(f"Taken away: {', '.join(tools)}.")
    if most := note.get("max_tokens"):
        sentences.append(f"Its answer was kept to {most:,} tokens, which is what the money covered.")
    return sentences


def _is_told(note: Mapping[str, Any]) -> bool:
    return note.get("action") in _TOLD
