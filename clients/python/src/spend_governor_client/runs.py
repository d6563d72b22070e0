"""What callbacks of agents' frameworks have in common: a run of a model is held when it begins, settled when it ends.

A callback hears of a call and cannot change it: where a budget leaves a cheaper model, or a shorter answer, than is
asked for, the call is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from spend_governor_client.common import OnError, Open
from spend_governor_client.errors import Refused
from spend_governor_client.values import Usage, at_most

logger = logging.getLogger("spend_governor_client")
MAX_TOKENS = 4_096
# What frameworks and providers call the bound of an answer.
BOUNDS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "num_predict")

H = TypeVar("H", bound=Open)


@dataclass(frozen=True)
class Begun:
    """A run that is about to call a model, as far as a framework tells; what is None is not said."""

    inputs: Any
    model: str | None = None
    max_tokens: int | None = None
    # Answers that are asked for at once.
    answers: int = 1


def bound_of(*told: Mapping[str, Any]) -> int | None:
    """The most output tokens that somebody says, the first who does."""
    found = (one.get(name) for one in told for name in BOUNDS)
    return next((int(value) for value in found if isinstance(value, int) and value > 0), None)


def base_of(module: str, name: str) -> Any:
    """A framework's own class, to build on; `object` where the framework is not installed."""
    try:
        return getattr(import_module(module), name)
    except ImportError:
        return object


class Runs(Generic[H]):
    """The holds of runs that have not ended, by the names of the runs."""

    def __init__(self, *, model: str | None, max_tokens: int, on_error: OnError, reserve: Mapping[str, Any]) -> None:
        self._model, self._max_tokens, self._on_error = model, max_tokens, on_error
        self._reserve = dict(reserve)
        self._holds: dict[str, H] = {}

    def wanted(self, begun: Begun) -> dict[str, Any]:
        """What `reserve` is asked for: the bytes of the input and the bound of the answer are the most it can be."""
        model = begun.model or self._model
        if not model:
            raise ValueError("nobody says which model is called: name one when you make the callback")
        tokens = {
            "input_tokens": at_most(begun.inputs),
            "max_tokens": (begun.max_tokens or self._max_tokens) * max(1, begun.answers),
        }
        return {"model": model, "allow_downgrade": False} | tokens | self._reserve

    def begin(self, run: str, hold: H) -> None:
        self._holds[run] = hold

    @staticmethod
    def too_short(hold: Open, wanted: Mapping[str, Any]) -> Refused | None:
        """What is raised where a budget leaves a shorter answer than the call may give; its hold is to be released."""
        left, asked = hold.held.max_tokens, wanted.get("max_tokens")
        if left is None or asked is None or left >= asked:
            return None
        message = f"The budget leaves {left} of {asked} output tokens: ask for no more than that."
        return Refused("answer_too_long", message, status=402)

    def spend(self, run: str) -> None:
        """Something of the answer has come: it will be billed, whatever fails from now on."""
        if run in self._holds:
            self._holds[run].keep()

    def end(self, run: str) -> H | None:
        """The hold of a run that has ended, well or not; None where nothing is held for it."""
        return self._holds.pop(run, None)

    def is_given_back(self, hold: Open, error: BaseException) -> bool:
        """Whether it is released, as its run failed. Whoever stops listening has a provider that bills all the same."""
        return isinstance(error, Exception) and hold._is_given_back(self._on_error)


def unsettled(hold: Open, why: object) -> None:
    """An answer is not taken from whoever paid for it because it could not be settled."""
    logger.warning("reservation %s is not settled, and charged whole when it expires: %s", hold.id, why)


def usage_in(told: Any) -> Usage | None:
    """The usage that LangChain writes on a message, which is the same for all providers."""
    if not isinstance(told, Mapping) or told.get("input_tokens") is None:
        return None
    details = told.get("input_token_details") or {}
    return Usage(int(told["input_tokens"]), int(told.get("output_tokens") or 0), int(details.get("cache_read") or 0))
