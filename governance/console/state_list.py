"""Lists whose tabs, order and pages are made of how their rows stand now: budgets, customers, models. Worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils import timezone
from unfold.views import ChangeList

# What of a list's address is its own, beside Django's filters.
STATE, SORT = "state", "sort"


@dataclass(frozen=True, slots=True)
class StateTab:
    words: str
    count: int
    link: str
    is_chosen: bool


class StateList(ChangeList):
    """Django's list, filtered and searched by it.

    A subclass says how rows stand (`standings`, each with a `state`), by what they can be sorted (`orders`, the usual
    one first), and what is shown of those of a page (`rows_of`, `row_of`).
    """

    states: ClassVar[Sequence[str]]
    # States that have a tab where nothing is in them.
    always_shown: ClassVar[Sequence[str]]
    orders: ClassVar[Mapping[str, Callable[[Any], Any]]]
    # How a tab calls a state, where not by its own name.
    words: ClassVar[Mapping[str, str]] = {}

    def standings(self, now: datetime) -> Sequence[Any]:
        raise NotImplementedError

    def rows_of(self, standings: Sequence[Any], now: datetime) -> Sequence[Any]:
        raise NotImplementedError

    def row_of(self, shown: Any) -> Any:
        raise NotImplementedError

    def get_filters_params(self, params: Any = None) -> Any:
        found = super().get_filters_params(params)
        self.own = {name: found.pop(name, [""])[-1] for name in (STATE, SORT)}
        return found

    def get_results(self, request: HttpRequest) -> None:
        now = timezone.now()
        everything = self.standings(now)
        self.state = self.own[STATE] if self.own[STATE] in self.states else ""
        self.sort = self.own[SORT] if self.own[SORT] in self.orders else self.usual
        self.chosen = sorted((one for one in everything if self.state in ("", one.state)), key=self.orders[self.sort])
        self.tabs = self._tabs(Counter(one.state for one in everything))
        self.paginator = Paginator(self.chosen, self.list_per_page)
        # A page that is not there is the last one.
        self.page = self.paginator.get_page(self.page_num)  # type: ignore[has-type]
        self.page_num = self.page.number
        self.rows = self.rows_of(list(self.page.object_list), now)
        self.result_list: Any = [self.row_of(shown) for shown in self.rows]
        self.result_count = self.full_result_count = len(self.chosen)
        self.show_full_result_count = self.show_admin_actions = False
        self.can_show_all, self.multi_page = False, self.paginator.num_pages > 1

    @property
    def usual(self) -> str:
        return next(iter(self.orders))

    def address(self, **changes: str | int) -> str:
        """This list with something else of it; what is empty is left out."""
        asked = {name: values[-1] for name, values in self.filter_params.items()}
        kept = asked | {"q": self.query, STATE: self.state, SORT: self.sort} | changes
        usual = {SORT: self.usual, "p": 1}
        return "?" + urlencode({name: value for name, value in kept.items() if value and usual.get(name) != value})

    def _tabs(self, counts: Counter[str]) -> list[StateTab]:
        shown = ["", *(state for state in self.states if counts[state] or state in (self.state, *self.always_shown))]
        return [
            StateTab(
                self.words.get(state, state).capitalize() or "All",
                counts[state] if state else counts.total(),
                self.address(state=state),
                state == self.state,
            )
            for state in shown
        ]

    @property
    def sorts(self) -> dict[str, str]:
        """The address of each order, by its name."""
        return {name: self.address(sort=name) for name in self.orders}

    @property
    def before(self) -> str:
        return self.address(p=self.page_num - 1) if self.page.has_previous() else ""

    @property
    def after(self) -> str:
        return self.address(p=self.page_num + 1) if self.page.has_next() else ""
