"""The model side's prices, lent to governance.

Governance knows no provider and no price. `settings.GOVERNANCE_QUOTER` names a function with this signature:

    quote(*, model, input_tokens, max_tokens) -> policies.Quote | None     (None: the model has no price)
"""

from collections.abc import Callable
from functools import partial
from typing import cast

from django.conf import settings
from django.utils.module_loading import import_string

from governance.rules.calls import Usage
from governance.rules.decision import Quote, Quoter


def by_tokens(*, input_tokens: int, max_tokens: int) -> Quoter:
    """Prices a call of known size at any model."""
    quote = cast(Callable[..., Quote | None], import_string(settings.GOVERNANCE_QUOTER))

    def quoter(model: str) -> Quote | None:
        return quote(model=model, input_tokens=input_tokens, max_tokens=max_tokens)

    return quoter


def fixed(cost_nanos: int) -> Quoter:
    """An explicit estimate, which stands for whichever model serves."""
    return partial(Quote, cost_nanos=cost_nanos)


def true_cost(usage: Usage) -> tuple[int, str] | None:
    """What usage cost in nanodollars, and the price rule that says so; None where the model has no price.

    `settings.GOVERNANCE_PRICER` names the model side's function: `cost_of(usage) -> (nanos, rule) | None`.
    """
    price = cast(Callable[[Usage], tuple[int, str] | None], import_string(settings.GOVERNANCE_PRICER))
    return price(usage)
