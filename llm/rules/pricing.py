"""Usage x price -> cost. Pure: no Django, no clock, no I/O.

Rates are integer **picodollars per unit**; 0.15 dollars a million tokens are 150,000 picodollars a token. The one
rounding to nanodollars is done by `governance.rules.money`: up for what is held, half up for what is charged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from governance.rules import money
from governance.rules.calls import Usage
from governance.rules.decision import Quote

# Mistral's surcharges and discounts, in hundredths; used where the catalogue has no row of its own.
ZONE_E2: Mapping[str, int] = {"global": 100, "eu": 110, "us": 110}
BATCH_E2 = 50
# Mistral's zones are called as providers of their own: the same models, at their zone's rates.
DEFAULT_PROVIDER = "mistral"
ZONE_PROVIDERS: Mapping[str, str] = {"mistral-eu": "eu", "mistral-us": "us"}
STANDARD_TIER = "standard"
# Kinds whose answer is made of output tokens: without an output rate they have no price.
WRITING_KINDS = frozenset({"chat", "fim"})
# The provider's own prompt for reasoning, safety and JSON modes.
HIDDEN_PROMPT_TOKENS = 1_024
# What Mistral alone watches over a prompt with.
GUARDS = frozenset({"guardrails", "safe_prompt"})
# A picture costs at most this at Mistral where the model is not known to take less: 64 rows of 64 patches and their
# row marks. Of a model elsewhere this number says that nobody has said what its pictures cost.
UNKNOWN_IMAGE_TOKENS = 4_200
# The most that one picture costs at any model of these APIs, from what they document. Endpoints that merely speak
# their dialects make what they like of one.
DOCUMENTED_IMAGE_TOKENS: Mapping[str, int] = {
    # 30,000 patches, beyond which a picture is refused, at the largest factor, 2.46; by tiles a picture comes to 48,169
    # (2,833 and 8 x 5,667). https://developers.openai.com/api/docs/guides/images-vision
    "openai": 73_800,
    # Resized to 2,576 pixels a side, in patches of 28: 92 rows of 92.
    # https://platform.claude.com/docs/en/build-with-claude/vision
    "anthropic": 8_464,
}


@dataclass(frozen=True, slots=True)
class Rates:
    """Picodollars a token, or a page. `rule` names the price, "mistral/mistral-small-2603@2026-03-16"."""

    input_picos: int = 0
    cached_picos: int = 0
    output_picos: int = 0
    # Picodollars a unit, for what is not counted in tokens: {"page": 4_000_000_000}.
    units: Mapping[str, int] = field(default_factory=dict)
    by_token: bool = True
    rule: str = ""
    # Of calls with more input tokens than so many, which pay for all of their tokens by these; the longest come last.
    longer: tuple[tuple[int, Rates], ...] = ()

    def of(self, input_tokens: int) -> Rates:
        """Those of a call with so much input."""
        return next((rates for above, rates in reversed(self.longer) if input_tokens > above), self)


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue at one provider, at the rates of the moment.

    `id` is what clients call it, one model's alone: bare for the default provider ("mistral-small-2603"), else with
    the provider ("mistral-eu/mistral-small-2603"). `names` are its ids and aliases both ways, for rules to match;
    `upstream` is the provider's own id.
    """

    id: str
    names: frozenset[str]
    upstream: str = ""
    # What else clients may call it.
    aliases: tuple[str, ...] = ()
    provider: str = "mistral"
    owned_by: str = "mistralai"
    kinds: frozenset[str] = frozenset({"chat"})
    capabilities: frozenset[str] = frozenset()
    context_tokens: int | None = None
    image_tokens: int = UNKNOWN_IMAGE_TOKENS
    # "openai" or "anthropic", where its provider is that very API.
    provider_kind: str = ""
    status: str = "ga"
    # None: the model is known but has no price now, so it is refused, never free.
    rates: Rates | None = None
    batch_rates: Rates | None = None
    # Of tiers that have a row of their own, by what answers call them.
    tier_rates: Mapping[str, Rates | None] = field(default_factory=dict)

    @property
    def is_mistrals(self) -> bool:
        """Whether Mistral itself serves it, in one of its zones."""
        return self.provider == DEFAULT_PROVIDER or self.provider in ZONE_PROVIDERS

    @property
    def abilities(self) -> frozenset[str]:
        """What the catalogue says that it can do, and what comes with its provider."""
        return self.capabilities | GUARDS if self.is_mistrals else self.capabilities

    @property
    def most_image_tokens(self) -> int | None:
        """The most tokens of one picture; None where nobody knows. What the catalogue says of a model comes first."""
        if self.is_mistrals or self.image_tokens != UNKNOWN_IMAGE_TOKENS:
            return self.image_tokens
        return DOCUMENTED_IMAGE_TOKENS.get(self.provider_kind)


def rates_from(
    picos: Mapping[str, int], *, kinds: Iterable[str], rule: str, zone: str = "global", batch: bool = False
) -> Rates | None:
    """The rates that `picos` (unit kind -> picodollars a unit) make for a model of `kinds`; None if it has no price.

    Cached input without a rate of its own is charged as input.
    """
    by_token = "input" in picos
    if by_token and "output" not in picos and not WRITING_KINDS.isdisjoint(kinds):
        return None
    units = {kind: rate for kind, rate in picos.items() if kind not in ("input", "cached_input", "output")}
    if not by_token and not units:
        return None
    rates = Rates(
        input_picos=picos.get("input", 0),
        cached_picos=picos.get("cached_input", picos.get("input", 0)),
        output_picos=picos.get("output", 0),
        units=units,
        by_token=by_token,
        rule=rule,
    )
    return scaled(rates, hundredths=ZONE_E2[zone] * (BATCH_E2 if batch else 100) // 100)


def scaled(rates: Rates, *, hundredths: int) -> Rates:
    """The same rates times `hundredths`/100, fractions of a picodollar rounded up."""
    if hundredths == 100:
        return rates
    return replace(
        rates,
        input_picos=scaled_picos(rates.input_picos, hundredths=hundredths),
        cached_picos=scaled_picos(rates.cached_picos, hundredths=hundredths),
        output_picos=scaled_picos(rates.output_picos, hundredths=hundredths),
        units={kind: scaled_picos(picos, hundredths=hundredths) for kind, picos in rates.units.items()},
    )


def scaled_picos(picos: int, *, hundredths: int) -> int:
    """A rate times `hundredths`/100, a fraction of a picodollar rounded up."""
    return -(-picos * hundredths // 100)


def cost_picos(usage: Usage, rates: Rates) -> int | None:
    """What `usage` costs at `rates`, exactly; None where the rates do not price its unit.

    Cached tokens are part of the input tokens and are clamped to them: a provider's slip cannot make a call negative.
    """
    if usage.unit != "token":
        rate = rates.units.get(usage.unit)
        return None if rate is None else max(0, usage.units) * rate
    return _token_picos(usage, rates.of(usage.input_tokens)) if rates.by_token else None


def _token_picos(usage: Usage, rates: Rates) -> int:
    input_tokens = max(0, usage.input_tokens)
    cached_tokens = min(max(0, usage.cached_tokens), input_tokens)
    return (
        (input_tokens - cached_tokens) * rates.input_picos
        + cached_tokens * rates.cached_picos
        + max(0, usage.output_tokens) * rates.output_picos
    )


def cost_nanos(usage: Usage, rates: Rates) -> int | None:
    """What to charge for `usage`, in nanodollars, half rounded up; None where the rates do not price its unit."""
    picos = cost_picos(usage, rates)
    return None if picos is None else money.round_from_picos(picos)


def quote_tokens(
    entry: Entry,
    *,
    model: str,
    input_tokens: int,
    max_tokens: int | None,
    n: int = 1,
    capable: bool = True,
    asked_tokens: int | None = None,
) -> Quote | None:
    """The worst case of a call at `entry`, asked for as `model`: all input read, not cached, and all output written.

    `max_tokens` None: the call writes nothing (embeddings), and there is nothing to clamp. None: no price by token.
    `asked_tokens`: as long as one answer may be by its request, where more may be written; without it `max_tokens`.
    """
    if entry.rates is None or not entry.rates.by_token:
        return None
    # A prompt that its provider puts before the client's may take a call to the price of longer ones.
    rates = entry.rates.of(input_tokens + HIDDEN_PROMPT_TOKENS)
    fixed_picos = input_tokens * max(rates.input_picos, rates.cached_picos)
    output_picos = n * rates.output_picos
    return Quote(
        model=model,
        cost_nanos=money.ceil_from_picos(fixed_picos + (max_tokens or 0) * output_picos),
        names=entry.names,
        capable=capable,
        fixed_picos=fixed_picos,
        picos_per_output_token=output_picos,
        max_tokens=max_tokens,
        input_tokens=input_tokens,
        answers=n,
        unasked_tokens=0 if asked_tokens is None else (max_tokens or 0) - asked_tokens,
    )


def quote_units(entry: Entry, *, model: str, unit: str, units: int, capable: bool = False) -> Quote | None:
    """The price of `units` of what is not counted in tokens; None where the model has no such price."""
    rate = entry.rates.units.get(unit) if entry.rates else None
    if rate is None:
        return None
    picos = units * rate
    return Quote(
        model=model,
        cost_nanos=money.ceil_from_picos(picos),
        names=entry.names,
        capable=capable,
        fixed_picos=picos,
    )
