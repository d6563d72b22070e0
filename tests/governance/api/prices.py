"""Prices lent to governance in these tests: a dollar a million tokens in, two out; `mystery` has none."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from governance.rules import money
from governance.rules.calls import Usage
from governance.rules.decision import Quote
from governance.rules.overruns import ModelOverrun

IN_PICOS, OUT_PICOS = 1_000_000, 2_000_000


def quote(
    *,
    model: str,
    input_tokens: int,
    max_tokens: int,
    asked: Iterable[str] = (),
    overruns: Sequence[ModelOverrun] = (),
) -> Quote | None:
    if model == "mystery":
        return None
    fixed = input_tokens * IN_PICOS
    return Quote(
        model,
        cost_nanos=money.ceil_from_picos(fixed + max_tokens * OUT_PICOS),
        fixed_picos=fixed,
        picos_per_output_token=OUT_PICOS,
        max_tokens=max_tokens,
    )


def cost_of(usage: Usage, *, at: datetime | None = None) -> tuple[int, str] | None:
    if usage.model == "mystery":
        return None
    picos = usage.input_tokens * IN_PICOS + usage.output_tokens * OUT_PICOS
    return money.round_from_picos(picos), "test:1"
