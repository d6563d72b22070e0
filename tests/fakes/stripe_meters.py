"""Stripe's meters as they behave: an identifier counts once within 24 hours, and again after that.

`FakeMeters` is an ASGI application, for processes; `answering` puts it in the place of Stripe's API in this one.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests
import responses

DAY = timedelta(hours=24)
HOSTS = re.compile(r"https://(api|meter-events)\.stripe\.com/v[12]/.*")
Answer = tuple[int, dict[str, Any]]


@dataclass
class Counted:
    identifier: str
    customer: str
    value: int
    at: datetime
    received_at: datetime
    encoding: str


@dataclass
class FakeMeters:
    """`counted` is what Stripe would bill; `requests` are those that reached it, `before_answer` runs before each."""

    now: datetime
    meters: dict[str, str] = field(default_factory=lambda: {"llm_cost": "mtr_1"})
    formula: str = "sum"
    down: bool = False
    # Events are counted, and no answer to them arrives.
    deaf: bool = False
    # The most events of one customer that were under way at once, where it is served over HTTP.
    busiest: int = 0
    under_way: Counter[str] = field(default_factory=Counter)
    counted: list[Counted] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    refuse: Callable[[str], Answer | None] = lambda identifier: None
    after_counting: Callable[[], None] = lambda: None
    after_summing: Callable[[], None] = lambda: None
    answers: list[Answer] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(one.value for one in self.counted)

    def answer(self, method: str, url: str, headers: Any, body: str) -> Answer:
        parts = urlsplit(url)
        path = parts.path
        self.requests.append((method, path))
        if self.down:
            return 503, {"error": {"message": "down"}}
        if self.answers and method == "POST":
            return self.answers.pop(0)
        if path == "/v1/billing/meters":
            return 200, {"object": "list", "has_more": False, "url": path, "data": self._definitions()}
        if path.endswith("/event_summaries"):
            return self._summaries(path.split("/")[4], dict(parse_qsl(parts.query)))
        if path.startswith("/v2/core/events/"):
            found = self.events.get(path.rsplit("/", 1)[1])
            return (200, found) if found else (404, {"error": {"message": "No such event", "code": "not_found"}})
        if path == "/v2/billing/meter_event_session":
            expires = (self.now + timedelta(minutes=15)).isoformat()
            return 200, {
                "object": "v2.billing.meter_event_session",
                "id": "bmes_1",
                "authentication_token": "token_1",
                "created": self.now.isoformat(),
                "expires_at": expires,
                "livemode": False,
            }
        answer = self._events(path, headers, body)
        if self.deaf:
            raise requests.ConnectionError("cut")
        return answer

    def _definitions(self) -> list[dict[str, Any]]:
        return [
            {
                "id": id,
                "object": "billing.meter",
                "event_name": name,
                "status": "active",
                "default_aggregation": {"formula": self.formula},
                "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
                "value_settings": {"event_payload_key": "value"},
            }
            for name, id in self.meters.items()
        ]

    def _events(self, path: str, headers: Any, body: str) -> Answer:
        self.keys.append(headers["Idempotency-Key"])
        if path == "/v1/billing/meter_events":
            flat = dict(parse_qsl(body))
            payload = {key[8:-1]: value for key, value in flat.items() if key.startswith("payload[")}
            at = datetime.fromtimestamp(int(flat["timestamp"]), UTC)
            return self._count(flat["identifier"], payload, at, "v1")
        sent = json.loads(body)
        if path == "/v2/billing/meter_event_stream":
            assert headers["Authorization"] == "Bearer token_1"
            for event in sent["events"]:
                status, answer = self._count(
                    event["identifier"], event["payload"], datetime.fromisoformat(event["timestamp"]), "stream"
                )
            return (200, {}) if status == 200 else (status, answer)
        at = datetime.fromisoformat(sent["timestamp"])
        return self._count(sent["identifier"], sent["payload"], at, "v2")

    def _count(self, identifier: str, payload: dict[str, str], at: datetime, encoding: str) -> Answer:
        if refused := self.refuse(identifier):
            return refused
        if any(one.identifier == identifier and self.now < one.received_at + DAY for one in self.counted):
            message = f"An event already exists with identifier {identifier}."
            return 400, {"error": {"type": "invalid_request_error", "message": message}}
        assert re.fullmatch(r"[1-9]\d*", payload["value"]), "only whole, positive usage is taken"
        customer = payload["stripe_customer_id"]
        self.counted.append(Counted(identifier, customer, int(payload["value"]), at, self.now, encoding))
        self.after_counting()
        return 200, {"object": "billing.meter_event", "identifier": identifier}

    def _summaries(self, meter_id: str, query: dict[str, str]) -> Answer:
        assert meter_id in self.meters.values()
        start, end = int(query["start_time"]), int(query["end_time"])
        assert start % 60 == end % 60 == 0
        found = [
            one.value for one in self.counted if one.customer == query["customer"] and start <= one.at.timestamp() < end
        ]
        row = {
            "id": "mes_1",
            "object": "billing.meter_event_summary",
            "aggregated_value": float(sum(found)),
            "start_time": start,
            "end_time": end,
            "meter": meter_id,
            "livemode": False,
        }
        self.after_summing()
        return 200, {"object": "list", "has_more": False, "url": "/v1/x", "data": [row] if found else []}

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """The same over HTTP."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {key.decode().title(): value.decode() for key, value in scope["headers"]}
        url = scope["path"] + "?" + scope["query_string"].decode()
        customer = dict(parse_qsl(body.decode())).get("payload[stripe_customer_id]", "")
        if customer:
            self.under_way[customer] += 1
            self.busiest = max(self.busiest, self.under_way[customer])
            await asyncio.sleep(0.01)
        status, answer = self.answer(scope["method"], url, headers, body.decode())
        self.under_way[customer] -= 1
        content = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": content})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


@contextmanager
def answering(fake: FakeMeters) -> Iterator[FakeMeters]:
    """`fake` in the place of Stripe's API."""

    def callback(request: Any) -> tuple[int, dict[str, str], str]:
        body = request.body.decode() if isinstance(request.body, bytes) else request.body or ""
        status, answer = fake.answer(request.method, request.url, request.headers, body)
        return status, {}, json.dumps(answer)

    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        for method in ("GET", "POST"):
            mock.add_callback(method, HOSTS, callback)
        yield fake
