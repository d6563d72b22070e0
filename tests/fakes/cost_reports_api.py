"""What providers report of their own costs: OpenAI's, Anthropic's and OpenRouter's, in the shapes that they document.

Dollars of each day are set in `days`; `said` takes the place of the next answers, to be as odd as a test likes.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

ONE_DAY = timedelta(days=1)


@dataclass
class CostReports:
    """An ASGI application. A page has `days_a_page` days; `pause_s` goes before each answer, `trickle_s` within."""

    key: str = "sk-admin-secret"
    days: dict[date, str] = field(default_factory=dict)
    days_a_page: int = 31
    currency: str = "usd"
    left_out: frozenset[date] = frozenset()
    said: deque[tuple[int, bytes]] = field(default_factory=deque)
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    trickle_s: float | None = None
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append((scope["path"], query))
        await asyncio.sleep(self.pause_s)
        status, body = self.said.popleft() if self.said else self.answer(scope["path"], headers, query)
        raw = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        if self.trickle_s is not None:
            for letter in body:
                await send({"type": "http.response.body", "body": bytes([letter]), "more_body": True})
                await asyncio.sleep(self.trickle_s)
            body = b""
        await send({"type": "http.response.body", "body": body})

    def answer(self, path: str, headers: dict[str, str], query: dict[str, str]) -> tuple[int, bytes]:
        if path == "/v1/organizations/cost_report":
            if (headers.get("x-api-key"), headers.get("anthropic-version")) != (self.key, "2023-06-01"):
                return 401, b'{"type": "error"}'
            since, until = (datetime.fromisoformat(query[name]).date() for name in ("starting_at", "ending_at"))
            return 200, self.page(query, since, until, self.anthropic)
        if headers.get("authorization") != f"Bearer {self.key}":
            return 401, f"Incorrect API key provided: {headers.get('authorization')}".encode()
        if path == "/v1/organization/costs":
            since, until = (
                datetime.fromtimestamp(int(query[name]), tz=UTC).date() for name in ("start_time", "end_time")
            )
            return 200, self.page(query, since, until, self.openai)
        if path == "/v1/activity":
            return 200, json.dumps({"data": [self.openrouter(day, paid) for day, paid in self.days.items()]}).encode()
        return 404, b"{}"

    def page(self, query: dict[str, str], since: date, until: date, bucket: Callable[[date], Any]) -> bytes:
        assert query["bucket_width"] == "1d"
        assert 1 <= int(query["limit"]) <= 31
        first = date.fromisoformat(query["page"].removeprefix("page_")) if "page" in query else since
        asked = [first + timedelta(days=n) for n in range((until - first).days)]
        rest = asked[self.days_a_page :]
        return json.dumps(
            {
                "data": [bucket(day) for day in asked[: self.days_a_page] if day not in self.left_out],
                "has_more": bool(rest),
                "next_page": f"page_{rest[0]}" if rest else None,
            }
        ).encode()

    def openai(self, day: date) -> dict[str, Any]:
        starts_at = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
        paid = [self.days[day]] if day in self.days else []
        return {
            "object": "bucket",
            "start_time": starts_at,
            "end_time": starts_at + 86_400,
            "results": [
                {"object": "organization.costs.result", "amount": {"value": float(dollars), "currency": self.currency}}
                for dollars in paid
            ],
        }

    def anthropic(self, day: date) -> dict[str, Any]:
        paid = [self.days[day]] if day in self.days else []
        return {
            "starting_at": f"{day}T00:00:00Z",
            "ending_at": f"{day + ONE_DAY}T00:00:00Z",
            "results": [
                {"amount": str(Decimal(dollars) * 100), "currency": self.currency.upper(), "cost_type": None}
                for dollars in paid
            ],
        }

    def openrouter(self, day: date, dollars: str) -> dict[str, Any]:
        return {"date": str(day), "model": "openai/gpt-5", "usage": float(dollars), "byok_usage_inference": 0}
