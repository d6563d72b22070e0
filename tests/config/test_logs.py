"""Lines of the log: as JSON, one object each, about one request, and never with what nobody may read."""

from __future__ import annotations

import json
import logging
import sys
import threading
from typing import Any

import pytest
import time_machine

from config import logs
from config.celery import app
from governance import request_ids
from governance.models import SpendEntry
from governance.rules.calls import Caller
from llm.gateway import ended
from llm.gateway.application import gateway
from llm.gateway.http import Exchange
from llm.rules.client_requests import Request
from llm.state import call_log
from llm.state.aside import Aside
from llm.state.telemetry import EndedCall, Telemetry
from tests import factories as make
from tests.product import Product, eventually


def line(message: str, *arguments: Any, exc_info: Any = None, **more: Any) -> dict[str, Any]:
    record = logging.makeLogRecord(
        {"name": "llm", "levelname": "ERROR", "msg": message, "args": arguments, "exc_info": exc_info, **more}
    )
    written = logs.JsonLines().format(record)
    assert "\n" not in written
    found: dict[str, Any] = json.loads(written)
    return found


def test_a_line_is_one_object_whatever_it_says() -> None:
    found = line("%s said\n%s \x1b[31m", "évil", "{")
    assert found["message"] == "évil said\\x0a{ \\x1b[31m"
    assert (found["level"], found["logger"]) == ("ERROR", "llm")
    assert found["time"].endswith("+00:00")
    assert "request_id" not in found
    assert line("\ud800 lone")["message"]
    assert line("x", fields={"agent": "\ud800", "n": object})["agent"]
    assert len(line("x" * 5_000)["message"]) < 2_100


def test_a_traceback_stays_in_its_line() -> None:
    try:
        raise ValueError("of two\nlines")
    except ValueError:
        found = line("failed", exc_info=sys.exc_info())
    assert "ValueError: of two" in found["exception"]
    assert line("failed", exc_text="Traceback: kept")["exception"] == "Traceback: kept"


def test_a_line_names_the_request_or_the_task_that_it_was_written_for(db: None) -> None:
    with request_ids.known_as("r-1"):
        assert line("x")["request_id"] == "r-1"
        assert line("x", fields={"request_id": "r-2"})["request_id"] == "r-2"
    assert "request_id" not in line("x")
    app.loader.import_default_modules()
    seen = []
    task = app.tasks["governance.tasks.roll_windows"]
    task.push_request(id="task-1")
    try:
        original, task.run = task.run, lambda: seen.append(line("x")["request_id"])
        task()
    finally:
        task.run = original
        task.pop_request()
    assert seen == ["task-1"]


@pytest.fixture
def lines(product: Product, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """The lines of calls that have ended, and all others that were written meanwhile."""
    aside: Aside[EndedCall] = Aside("log", call_log.CallLines().write)
    aside.start()
    monkeypatch.setattr(gateway, "telemetry", Telemetry([], calls=[aside.put]))
    caplog.set_level(logging.INFO)
    caplog.handler.setFormatter(logs.JsonLines())

    def written(number: int) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            told = [record for record in caplog.records if record.name == "spend_governor.calls"]
            return [json.loads(logs.JsonLines().format(record)) for record in told]

        assert eventually(lambda: len(found()) >= number)
        return found()

    yield written
    aside.close()


def test_each_call_is_a_line_with_the_id_that_it_has_everywhere(
    product: Product, lines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    make.budget("1.00")
    key = product.key()
    secret = "my grandmother's recipe"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    messages = [{"role": "user", "content": secret}]
    answer = product.chat(key, messages=messages, headers={"x-user": "ada", "traceparent": trace})
    [told] = lines(1)
    id = answer.headers["x-request-id"]
    assert told["request_id"] == id
    assert product.sandbox.requests[-1].headers["x-request-id"] == id
    assert SpendEntry.objects.get().request_id == id
    assert told | {"latency_ms": 0, "overhead_ms": 0, "time": ""} == {
        "time": "",
        "level": "INFO",
        "logger": "spend_governor.calls",
        "message": "call",
        "request_id": id,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "route": "/v1/chat/completions",
        "status": 200,
        "tenant": "acme",
        "agent": "invoices",
        "user": "ada",
        "key": told["key"],
        "model_requested": "mistral-large-latest",
        "model_served": "mistral-large-2512",
        "provider": "mistral",
        "decision": "allow",
        "cost_usd": answer.headers["x-request-cost-usd"],
        "certainty": "confirmed",
        "input_tokens": answer.json()["usage"]["prompt_tokens"],
        "output_tokens": answer.json()["usage"]["completion_tokens"],
        "attempts": 1,
        "streamed": False,
        "client_left": False,
        "latency_ms": 0,
        "overhead_ms": 0,
    }
    assert key.startswith(told["key"])
    assert len(told["key"]) < len(key) / 2
    assert secret not in caplog.text
    assert key not in caplog.text
    assert answer.json()["choices"][0]["message"]["content"] not in caplog.text


def test_what_was_refused_or_failed_says_why(product: Product, lines: Any) -> None:
    make.budget("0.000001", scope_type="agent", scope_key="poor")
    make.budget("1.00")
    poor, rich = product.key(agent="poor"), product.key(agent="rich")
    product.chat(poor)
    product.chat("sg_unknown")
    product.chat(rich, model="no-such-model")
    product.sandbox.next("status=400")
    product.chat(rich, messages=[{"role": "user", "content": "x"}])
    repeated = {"idempotency-key": "once"}
    for _ in range(2):
        product.chat(rich, headers=repeated)
    found = lines(6)
    assert [(told["status"], told["decision"], told.get("error", "")) for told in found] == [
        (402, "hard-stop", "budget_exhausted"),
        (401, "refused", "invalid_api_key"),
        (400, "hard-stop", "model_not_priced"),
        (400, "allow", ""),
        (200, "allow", ""),
        (200, "replay", ""),
    ]
    assert found[0]["agent"] == "poor"
    assert found[0]["reason"] == "budget_exhausted"
    assert "tenant" not in found[1]
    assert len({told["request_id"] for told in found}) == 6
    assert [told["cost_usd"] == "0.00" for told in found] == [True, True, True, True, False, True]


def test_strangers_fill_no_disk(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    exchange = Exchange({"method": "POST", "path": "/v1/chat/completions", "headers": []}, None, None, request_id="r")
    exchange.notes.route, exchange.notes.code = exchange.path, "invalid_api_key"
    with time_machine.travel(make.NOON, tick=False) as traveller:
        strangers = [ended.told(exchange) for _ in range(1_000)]
        traveller.shift(1)
        lines = call_log.CallLines()
        lines.write([*strangers, ended.told(exchange)])
        exchange.notes.caller = Caller(1, "acme")
        lines.write([ended.told(exchange)] * 20)
    told = [record.fields for record in caplog.records if record.name == "spend_governor.calls"]
    assert len(told) == 10 + 1 + 20
    assert told[10]["left_out"] == 990
    assert "left_out" not in told[11]


def test_a_call_that_was_given_up_was_neither_refused_nor_replayed() -> None:
    exchange = Exchange({"method": "POST", "path": "/v1/chat/completions", "headers": []}, None, None, request_id="r")
    assert ended.told(exchange).action == "left"
    exchange.notes.request = Request(b"", {}, "m" * 1_000_000)
    assert len(ended.told(exchange).model_requested) == 120


def test_what_there_is_no_room_for_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[tuple[str, int]] = []
    monkeypatch.setattr("llm.state.metrics.dropped", lambda *told: dropped.append(told))
    taken: list[int] = []

    def take(items: Any) -> None:
        if 3 in items:
            raise OSError("no space left on device")
        taken.extend(items)

    full: Aside[int] = Aside("log", take, most=2)
    for number in range(3):
        full.put(number)
    assert dropped == [("log", 1)]
    full.start()
    full.close()
    assert taken == [0, 1]
    failing: Aside[int] = Aside("log", take)
    failing.put(3)
    failing.start()
    failing.close()
    assert dropped == [("log", 1), ("log", 1)]
    assert taken == [0, 1]


def test_what_is_not_taken_in_time_at_the_end_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[tuple[str, int]] = []
    monkeypatch.setattr("llm.state.metrics.dropped", lambda *told: dropped.append(told))
    release = threading.Event()
    hanging: Aside[int] = Aside("otel", lambda items: release.wait(10))
    hanging._waiting.extend(range(1_000))
    hanging.start()
    hanging.close(timeout_s=0.3)
    release.set()
    assert dropped == [("otel", 1_000 - 512)]
