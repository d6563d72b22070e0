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

    def __init__(self, held: Held, *, calls: int = 1) -> None:
        self.held = held
        # Of a tool, how many are held.
        self.calls = calls
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

    @property
    def tool(self) -> str | None:
        """The tool that is held for, where it is one."""
        return self.held.tool

    def _told_by(
        self, answer: Any, *, cost: Dollars | None, usage: Usage | None, calls: int | None
    ) -> tuple[Usage | None, int | None]:
        """What was used, where only an answer says so. Whatever is the matter with that, something was spent."""
        self.keep()
        if usage is not None or cost is not None or calls is not None:
            return usage, calls
        if self.tool is not None:
            return None, self.calls
        return (usage_of(answer) if answer is not None else None), None

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
