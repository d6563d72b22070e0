"""What a 403 is about: the request, which a guardrail or a moderation stops, or our key. Pure.

Mistral's guardrails answer so (https://docs.mistral.ai/resources/deprecated/guardrailing/mistral_moderation_2411), and
OpenRouter's moderation does (https://openrouter.ai/docs/errors): a key is no worse for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from llm.rules.answers import read_json

# Names under which a moderation says what it found.
_FINDINGS = frozenset({"guardrails", "guardrail", "flagged_input", "moderation", "content_filter_result", "reasons"})
_ABOUT_REQUEST = re.compile(
    r"guardrail|moderat|flagged|content.?(?:policy|filter)|prompt.?injection|jailbreak|unsafe|harmful|safety"
    r"|(?:request|prompt|input|content|message)s? (?:was |is |were )?(?:blocked|rejected|refused)"
)
_ABOUT_KEY = re.compile(
    r"api.?key|\bkey\b|permission|unauthori[sz]ed|authenticat|credential|\btoken\b|account|organi[sz]ation|workspace|"
    r"project|subscription|\bplan\b|\baccess\b|region|country|\bip\b"
)


# Azure bills what its content filter refuses, prompt and answer
# (https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter).
_BILLED = "ResponsibleAIPolicyViolation"


class About(StrEnum):
    REQUEST = "request"
    KEY = "key"
    UNCLEAR = "unclear"


def is_billed(said: Any) -> bool:
    """Whether a refusal, given its JSON, is one of those that cost what an answer does."""
    return _BILLED in str(said)


def about(body: bytes) -> About:
    """What the body of a 403 says that it is about. A page that no API wrote says nothing."""
    said = read_json(body)
    if not isinstance(said, dict):
        return About.UNCLEAR
    error = said.get("error")
    holders = [holder for holder in (said, error) if isinstance(holder, dict)]
    holders += [inner for holder in holders if isinstance(inner := holder.get("metadata"), dict)]
    if any(holder.get(name) for holder in holders for name in _FINDINGS):
        return About.REQUEST
    words = " ".join(_words(holders, error)).lower()
    if _ABOUT_REQUEST.search(words):
        return About.REQUEST
    return About.KEY if _ABOUT_KEY.search(words) else About.UNCLEAR


def _words(holders: Sequence[Mapping[str, Any]], error: Any) -> Iterator[str]:
    if isinstance(error, str):
        yield error
    for holder in holders:
        for name in ("message", "detail", "type", "code"):
            if isinstance(text := holder.get(name), str):
                yield text[:2_000]
