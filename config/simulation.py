"""Agents that call the running product through Mistral's own client, each in a thread, as real ones would."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import httpx2
from mistralai.client import Mistral
from mistralai.client.errors import MistralError

from governance import proxies

LARGE, SMALL = "mistral-large-latest", "mistral-small-latest"
# A runaway agent's loop: it sends its whole mailbox along, over and over.
RUNAWAY_TOKENS = 2_000
MAILBOX = "Re: Fwd: Invoice 4711 is overdue. Please see the whole conversation below. " * 800
# It does not end by itself: it goes on for so long, unless it is refused.
RUNAWAY_S = 60.0
# A refused agent asks so often in a row before it gives up.
GIVE_UP_AFTER = 3
PROMPTS: Mapping[str, Sequence[str]] = {
    "invoices": (
        "Match invoice 4711 against the purchase orders.",
        "Extract the line items, totals and due date.",
        "Draft a reminder for the overdue invoice.",
    ),
    "churn": (
        "Score this account's risk of leaving, with reasons.",
        "Summarise the last ten support tickets of this customer.",
    ),
    "support": (
        "Answer: where is my parcel?",
        "Answer: how do I change my plan?",
        "Translate this reply into French.",
    ),
}
TOOLS = ("lookup_order", "web_search")
# The code of a refusal because the agent is paused.
PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one call came to. Amounts are dollars, empty where the answer did not say."""

    agent: str
    asked: str
    served: str = ""
    status: int = 200
    code: str = ""
    cost: str = ""
    remaining: str = ""
    state: str = ""
    tools_taken: str = ""
    clamped: str = ""
    took_s: float = 0.0

    @property
    def outcome(self) -> str:
        """One word for it: served, moved, clamped, stopped, waiting, refused."""
        if self.status == 200:
            if self.served != self.asked:
                return "moved"
            return "clamped" if self.clamped else "served"
        if self.code == PAUSED:
            return "paused"
        return {402: "stopped", 429: "waiting"}.get(self.status, "refused")


@dataclass(slots=True)
class Tally:
    """One agent's calls, added up."""

    outcomes: dict[str, int] = field(default_factory=dict)
    dollars: Decimal = Decimal(0)
    began: float = field(default_factory=time.monotonic)
    # From its first call on; None where nobody paused it.
    paused_after_s: float | None = None

    def add(self, seen: Seen) -> None:
        if seen.outcome == "paused" and self.paused_after_s is None:
            self.paused_after_s = time.monotonic() - self.began
        self.outcomes[seen.outcome] = self.outcomes.get(seen.outcome, 0) + 1
        self.dollars += Decimal(seen.cost or 0)


def run(
    *, url: str, keys: Mapping[str, str], calls: int, pause_s: float, runaway: str, tell: Callable[[Seen], None]
) -> dict[str, Tally]:
    """Have every agent make `calls` calls, all at the same time; `tell` hears of each one. The totals by agent.

    The one that runs away goes on for `RUNAWAY_S` where those are fewer.
    """
    tallies = {agent: Tally() for agent in keys}
    lock = threading.Lock()
    stopping = threading.Event()

    def live(agent: str) -> None:
        refused = 0
        for seen in _calls(url, agent, keys[agent], calls=calls, runs_away=agent == runaway):
            with lock:
                tallies[agent].add(seen)
                tell(seen)
            refused = 0 if seen.status == 200 else refused + 1
            if refused == GIVE_UP_AFTER or stopping.wait(pause_s):
                return

    threads = [threading.Thread(target=live, args=(agent,), daemon=True) for agent in keys]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stopping.set()
    return tallies


def _calls(url: str, agent: str, key: str, *, calls: int, runs_away: bool) -> Iterator[Seen]:
    role = agent.rpartition("/")[2]
    chance = random.Random(agent)  # noqa: S311 - a demo's dice
    until = time.monotonic() + (RUNAWAY_S if runs_away else 0.0)
    made = 0
    with _client(url, key) as (client, headers):
        while made < calls or time.monotonic() < until:
            made += 1
            prompt = chance.choice(PROMPTS.get(role, PROMPTS["support"]))
            body: dict[str, Any] = {
                "model": LARGE if runs_away or chance.random() < 0.6 else SMALL,
                "messages": [{"role": "user", "content": MAILBOX + prompt if runs_away else prompt}],
                "max_tokens": RUNAWAY_TOKENS if runs_away else chance.choice((80, 200, 400)),
            }
            if chance.random() < 0.3:
                body["tools"] = [
                    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in TOOLS
                ]
            yield _call(client, headers, agent, body)


def _call(client: Mistral, headers: dict[str, str], agent: str, body: Mapping[str, Any]) -> Seen:
    began = time.monotonic()
    headers.clear()
    status, code = 200, ""
    try:
        client.chat.complete(**body)
    except MistralError as error:
        status = error.status_code
        code = str(_json(error.body).get("code") or "")
    except httpx2.TransportError as error:
        status, code = 0, type(error).__name__
    return Seen(
        agent=agent,
        asked=body["model"],
        served=headers.get("x-model-served", ""),
        status=status,
        code=code,
        cost=headers.get("x-request-cost-usd", ""),
        remaining=headers.get("x-budget-remaining-usd", ""),
        state=headers.get("x-budget-state", ""),
        tools_taken=headers.get("x-tools-disabled", ""),
        clamped=headers.get("x-max-tokens-clamped", ""),
        took_s=time.monotonic() - began,
    )


@contextmanager
def _client(url: str, key: str) -> Iterator[tuple[Mistral, dict[str, str]]]:
    """Mistral's client, unmodified, and the headers of the last answer it got."""
    headers: dict[str, str] = {}

    def keep(response: httpx2.Response) -> None:
        headers.update(response.headers)

    # This machine is not asked for at a proxy.
    outside = not proxies.is_loopback(urlsplit(url).hostname or "")
    with (
        httpx2.Client(trust_env=outside, event_hooks={"response": [keep]}, timeout=120) as http,
        Mistral(api_key=key, server_url=url, client=http) as client,
    ):
        yield client, headers


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
