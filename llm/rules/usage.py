"""stub"""

from dataclasses import replace
from typing import Any

from governance.rules.calls import Usage
from llm.rules import mistral_dialect


def read_tokens(answer: Any, *, model: str = "", writes: bool = True) -> Usage | None:
    return mistral_dialect.read_usage(answer, model=model)


def larger(earlier: Usage | None, later: Usage | None) -> Usage | None:
    if earlier is None or later is None:
        return later or earlier
    return replace(
        later,
        input_tokens=max(earlier.input_tokens, later.input_tokens),
        output_tokens=max(earlier.output_tokens, later.output_tokens),
    )


def implausible(usage: Usage, *, most_input: int, most_output: int, answer_bytes: int | None) -> str:
    if usage.input_tokens + usage.output_tokens > most_input + most_output:
        return "usage_implausible"
    if answer_bytes and usage.output_tokens * 256 < answer_bytes:
        return "usage_implausible"
    return ""
