"""The list of models: one row each with what it costs, how it stands and what it was used for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.safestring import SafeString

from governance.console import display
from governance.console.calls_page import Badge
from governance.console.state_list import StateList
from governance.ledger import clock
from llm.console import rates
from llm.models import Model
from llm.queries import model_standings, model_use
from llm.queries.model_standings import STATES, ModelStanding
from llm.queries.model_use import USED_DAYS, Used
from llm.rules.pricing import WRITING_KINDS

SORTS: dict[str, Callable[[ModelStanding], Any]] = {
    "spent": lambda one: (-one.cost_nanos, -one.calls),
    "calls": lambda one: -one.calls,
    "name": lambda one: one.model.name,
    # What has no price by token comes last of those that are sorted by theirs.
    "price": lambda one: (one.rates is None or not one.rates.by_token, one.rates.input_picos if one.rates else 0),
}
# Words and tones of the states; a colour is never alone.
WORDS: dict[str, tuple[str, str]] = {
    "impaired": ("impaired", "stopped"),
    "unpriced": ("no price", "stopped"),
    "deprecated": ("deprecated", "warned"),
    "served": ("served", "active"),
    "preview": ("preview", "info"),
    "retired": ("retired", "off"),
}


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model as the list shows it. `calls_link` and `spend_link`: where the figures come from."""

    standing: ModelStanding
    targets: int = 0

    @property
    def model(self) -> Model:
        return self.standing.model

    @property
    def aliases(self) -> str:
        return ", ".join(alias.name for alias in self.model.aliases.all())

    @property
    def prices(self) -> tuple[str, str, str]:
        return rates.token_cells(self.standing.rates, writes=not WRITING_KINDS.isdisjoint(self.model.kinds))

    @property
    def by_token(self) -> bool:
        return self.standing.rates is not None and self.standing.rates.by_token

    @property
    def units(self) -> list[str]:
        return rates.unit_words(self.standing.rates)

    @property
    def kinds(self) -> str:
        return ", ".join(kind for kind in self.model.kinds if kind != "chat")

    @property
    def context(self) -> str:
        return rates.tokens(self.model.context_tokens)

    @property
    def badges(self) -> list[Badge]:
        return badges(self.standing)

    @property
    def calls(self) -> str:
        return display.count(self.standing.calls) if self.standing.calls else "–"

    @property
    def spent(self) -> SafeString | str:
        return display.exact(self.standing.cost_nanos) if self.standing.calls else "–"

    @property
    def links(self) -> tuple[str, str]:
        """Of the calls and of the spend: where one name has them all there, else to the model's own list of names."""
        if len(self.standing.used) == 1:
            return use_links(self.standing.used[0])
        here = f"{reverse('admin:llm_model_change', args=[self.model.pk])}#used"
        return here, here


def use_links(used: Used) -> tuple[str, str]:
    asked = urlencode({"range": f"{USED_DAYS}d", "model": used.name, "provider": used.provider})
    return f"{reverse('admin:calls')}?{asked}", f"{reverse('admin:spend')}?{asked}"


def badges(standing: ModelStanding) -> list[Badge]:
    """Its state, what its breaker says, and the bounds that it passed."""
    found = [Badge(*WORDS[standing.state], _meaning(standing))] if standing.state != "impaired" else []
    if status := standing.breaker:
        if status.is_impaired:
            found.append(Badge(status.label, "stopped", "Its breaker, as calls from this machine went"))
        elif status.tenants:
            word = f"open for {status.tenants} customer{'s' if status.tenants > 1 else ''}"
            found.append(Badge(word, "warned", "Their calls alone fail there"))
    if overran := overrun_words(standing.model):
        found.append(Badge("passed its bound", "stopped", overran))
    return found


def overrun_words(model: Model) -> str:
    sides = (("overran_tokens", "written"), ("overread_tokens", "read"))
    seen = [f"{tokens:,} {what}" for name, what in sides if (tokens := getattr(model, name, None)) is not None]
    return f"{', '.join(seen)}, beyond what was asked for" if seen else ""


def _meaning(standing: ModelStanding) -> str:
    if standing.state == "unpriced":
        return "Calls of it are refused, never free"
    if standing.state == "deprecated" and standing.model.replacement:
        return f"{standing.model.replacement} would replace it"
    return ""


class StandingList(StateList):
    """The catalogue, by how its models stand."""

    states, always_shown, orders = STATES, ("served",), SORTS
    words = {state: words for state, (words, _) in WORDS.items()}

    def standings(self, now: datetime) -> list[ModelStanding]:
        return model_standings.standings(self.queryset, now=now, at=clock.known_now())

    def rows_of(self, standings: Sequence[ModelStanding], now: datetime) -> list[ModelRow]:
        targets = model_use.targets([one.model for one in standings])
        return [ModelRow(one, targets[one.model.pk]) for one in standings]

    def row_of(self, shown: ModelRow) -> Model:
        return shown.model
