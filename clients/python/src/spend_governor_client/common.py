"""What the client for plain code and the one for asyncio have in common: all that waits for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from spend_governor_client.errors import Unsettled
from spend_governor_client.exchange import Ask, given
from spend_governor_client.values import Dollars, Held, Usage, usage_of

OnError = Literal["release", "keep"]
TIMEOUT_S = 30.0
TRIES = 4


class Open:
    """A hold that is open."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.is_resolved = self.is_spent = False

    @property
    def id(self) -> str:
        return self.held.id

    @property
    def model(self) -> str:
        """The model to call: near a limit it may be a cheaper one than was asked for."""
        return self.held.model

    def keep(self) -> None:
        """Something was spent: whatever fails from now on, the hold is not given back, and charged when it expires."""
        self.is_spent = True

    def _told_by(self, answer: Any, *, cost: Dollars | None, usage: Usage | None) -> Usage | None:
        """What was used, where only an answer says so. Whatever is the matter with that, something was spent."""
        self.keep()
        return usage_of(answer) if answer is not None and usage is None and cost is None else usage

    def _is_given_back(self, on_error: OnError) -> bool:
        """Whether it is released, as its block failed."""
        return not (self.is_resolved or self.is_spent) and on_error == "release"

    def _be_resolved(self) -> None:
        """Raises Unsettled where its block has ended well without."""
        if not self.is_resolved:
            raise Unsettled(f"reservation {self.id} was neither settled nor released")


class Asking:
    """The gateway at `url`, and with which key and how often it is asked."""

    def __init__(self, url: str, key: str, *, tries: int) -> None:
        self._tries = tries
        self._url, self._headers = url.rstrip("/"), {"authorization": f"Bearer {key}"}

    def _ask(self, path: str, body: Mapping[str, Any], *, key: str | None, patience_s: float) -> Ask:
        return Ask(path, body, tries=self._tries, patience_s=patience_s, **given(key=key))
