"""Requests as plain data, and what is done about each answer. No I/O: `plain` and `tied` send and wait."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx2 as httpx

from spend_governor_client import errors
from spend_governor_client.values import Dollars, Usage, dollars

# Nobody can tell whether it was done: asked again under the same key, it is done once.
UNSURE = (502, 503, 504)
STILL_RUNNING = "idempotency_in_progress"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
REPLAYED = "x-idempotent-replay"


@dataclass
class Ask:
    """One request with its tries. Raises a GovernorError, or says for how long to wait before the next try."""

    path: str
    body: Mapping[str, Any]
    tries: int
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    # How long to go on waiting for what is refused for the moment.
    patience_s: float = 0.0
    failures: int = 0
    refusals: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """A refusal is kept under its key like any answer, so what is asked anew after one has a key of its own."""
        return {"idempotency-key": f"{self.key}:{self.refusals}" if self.refusals else self.key}

    def pause_after_failure(self, error: httpx.TransportError) -> float:
        self.failures += 1
        if self.failures >= self.tries:
            raise errors.Unavailable("unreachable", f"{type(error).__name__}: {error}") from error
        return self._pause()

    def read(self, response: httpx.Response) -> Mapping[str, Any] | float:
        """The answer's body, or seconds to wait."""
        body = _json(response)
        if response.is_success and isinstance(body, dict):
            return body
        told = errors.from_answer(response.status_code, body, retry_after_s=_retry_after(response))
        is_unsure = response.status_code in UNSURE or told.code == STILL_RUNNING
        if is_unsure and REPLAYED not in response.headers:
            self.failures += 1
            if self.failures < self.tries:
                return self._pause(told.retry_after_s)
        if isinstance(told, errors.Refused) and told.is_passing:
            wait_s = max(told.retry_after_s or 0.0, FIRST_PAUSE_S)
            if wait_s <= self.patience_s:
                self.patience_s -= wait_s
                self.refusals += 1
                return wait_s
        raise told

    def _pause(self, said_s: float | None = None) -> float:
        """Twice as long each time, by chance shorter, so that those who failed together do not come back together."""
        if said_s is not None:
            return min(said_s, LONGEST_PAUSE_S)
        most_s = min(FIRST_PAUSE_S * 2**self.failures, LONGEST_PAUSE_S)
        return float(most_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return None


def given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def cost_or_usage(cost: Dollars | None, usage: Usage | None, calls: int | None = None) -> dict[str, Any]:
    if [cost, usage, calls].count(None) != 2:
        raise TypeError("say what it cost, what it used, or how many calls of a tool ran: one of these")
    if cost is not None:
        return {"cost": dollars(cost)}
    return asdict(usage) if usage is not None else {"calls": calls}


def of_tool(tool: str | None, calls: int | None) -> dict[str, Any]:
    if calls is not None and tool is None:
        raise TypeError("calls are of a tool: name it")
    return given(tool=tool, calls=calls)


def spent(cost: Dollars | None, usage: Usage | None, tool: str | None, calls: int | None) -> dict[str, Any]:
    """What a call cost or used that was made without a hold; of a tool, what it costs is known."""
    if tool is None:
        return cost_or_usage(cost, usage) | of_tool(tool, calls)
    if usage is not None:
        raise TypeError("tokens are of a model: say how many calls of the tool there were, or what they cost")
    return of_tool(tool, calls) | given(cost=None if cost is None else dollars(cost))


def estimate(input_tokens: int | None, max_tokens: int | None, estimated_cost: Dollars | None) -> dict[str, Any]:
    if estimated_cost is not None:
        return {"estimated_cost": dollars(estimated_cost)}
    return given(input_tokens=input_tokens, max_tokens=max_tokens)
