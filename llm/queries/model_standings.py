"""How each model of the catalogue stands now: whether it can be called, what it costs, and how it answers here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from llm.catalogue import snapshot
from llm.models import Model
from llm.queries import model_use
from llm.queries.model_use import Used
from llm.rules.pricing import Rates
from llm.state import breakers
from llm.state.breakers import BreakerStatus

# Every state that a list tells apart, the worst first.
IMPAIRED, UNPRICED, DEPRECATED, SERVED, PREVIEW, RETIRED = STATES = (
    *("impaired", "unpriced", "deprecated", "served", "preview", "retired"),
)


@dataclass(frozen=True, slots=True)
class ModelStanding:
    """`rates` as they count at the moment; None: calls of it are refused. `breaker` is this machine's."""

    model: Model
    rates: Rates | None
    breaker: BreakerStatus | None
    used: tuple[Used, ...] = ()

    @property
    def state(self) -> str:
        """The one of STATES that it is listed under."""
        status = self.model.status
        if status in (Model.Status.PREVIEW, Model.Status.RETIRED):
            return str(status)
        if self.rates is None:
            return UNPRICED
        if self.breaker is not None and self.breaker.is_impaired:
            return IMPAIRED
        return DEPRECATED if status == Model.Status.DEPRECATED else SERVED

    @property
    def calls(self) -> int:
        return sum(one.calls for one in self.used)

    @property
    def cost_nanos(self) -> int:
        return sum(one.cost_nanos for one in self.used)


def standings(rows: Iterable[Model], *, now: datetime, at: datetime) -> list[ModelStanding]:
    """In the order of the rows, whose aliases and prices are read already. `at`: the database's now, for prices."""
    rows = list(rows)
    used = model_use.used(rows, now=now)
    return [standing(row, at=at, used=used[row.pk], now=now) for row in rows]


def standing(row: Model, *, now: datetime, at: datetime, used: Iterable[Used] = ()) -> ModelStanding:
    return ModelStanding(
        row,
        snapshot.rates_at(model=row, at=at),
        breakers.shared().status(f"{row.provider}/{row.name}", now.timestamp()),
        tuple(used),
    )
