"""When budgets run out, as answers tell it: what was last kept, read beside the calls, which wait for none of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from governance.models import BudgetForecast
from governance.queries import forecasts
from governance.rules.decision import WindowView

log = logging.getLogger(__name__)

# What is read is reckoned every ten minutes.
RENEW_PERIOD_S = 60.0
Read = Callable[[], Awaitable[Mapping[int, BudgetForecast]]]


class KnownForecasts:
    """The forecasts of one process: empty until they are first read, and soon again where they cannot be."""

    def __init__(self) -> None:
        self._kept: Mapping[int, BudgetForecast] = {}

    async def keep_current(self, read: Read) -> None:
        while True:
            try:
                self._kept = await read()
            except Exception:
                log.exception("forecasts could not be read; the known ones stay for as long as they are fresh")
            await asyncio.sleep(RENEW_PERIOD_S)

    def runs_out_at(self, view: WindowView, *, now: datetime) -> datetime | None:
        return forecasts.runs_out_at(self._kept.get(view.budget_id), view, now=now)
