"""The storm's judge sees what does not hold, and only that; and a storm of half a minute finds nothing."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.storm import bodies, judge
from benchmarks.storm.acts import Act
from benchmarks.storm.behaviours import ALL, BY_NAME
from benchmarks.storm.calls import Call, read_answer
from benchmarks.storm.evidence import Evidence

# UUIDs of version 7 and 8: the gateway's holds, and agents' own.
GATEWAYS = "01a219a7-c3b9-72ca-ae76-a3ef2a436e68"
OWN = "01a219a7-c3b9-82ca-ae76-a3ef2a436e68"


def call(**parts: Any) -> Call:
    usual: dict[str, Any] = {
        "number": 1,
        "tenant": "acme",
        "client": "reads",
        "lie": "",
        "answer": "honest",
        "stream": False,
    }
    seen = {
        "status": 200,
        "request_id": GATEWAYS,
        "whole": True,
        "key": "",
        "once": "",
        "headers": {},
        "body": b"",
        "ended_at": 110.5,
    }
    return Call(**(usual | seen | parts))


def at_rest() -> dict[str, Any]:
    """One call, one hold of an agent's own and one report, all of them right. Nanodollars; the cap is 1,000."""
    books = {
        "request_id": GATEWAYS,
        "label": "call-1",
        "answer": "honest",
        "key": "acme",
        "cost_nanos": 400,
        "sent_nanos": 400,
        "prompt_tokens": 10,
        "output_tokens": 20,
        "began_at": 110.0,
        "ended_at": 111.0,
        "gone_at": None,
    }
    hold = {"tenant__slug": "acme", "agent": "mails", "amount_nanos": 500, "windows": [1], "resolved_at": 112.0}
    hold |= {"status": "settled", "expires_at": 200.0, "reserved_at": 109.0}
    entry = {"kind": "charge", "tenant__slug": "acme", "windows": [1], "overage_nanos": 0, "certainty": "confirmed"}
    entry |= {"reason": "", "recorded_at": 112.0}
    return {
        "calls": [call()],
        "books": [books],
        "rows": {
            "budgets": [{"id": 1, "hard_e4": 5_000, "scope": "acme"}],
            "windows": [
                {
                    "id": 1,
                    "budget_id": 1,
                    "subject": "acme",
                    "opened_at": 100.0,
                    "closed_at": None,
                    "limit_nanos": 2_000,
                }
            ],
            "reservations": [{**hold, "id": GATEWAYS}, {**hold, "id": OWN}],
            "entries": [
                {**entry, "reservation_id": GATEWAYS, "request_id": GATEWAYS, "cost_nanos": 400},
                {**entry, "reservation_id": OWN, "request_id": "", "cost_nanos": 300},
                {**entry, "reservation_id": None, "request_id": "r", "cost_nanos": 250},
            ],
        },
        "acts": [
            Act("limit", 1.0, {"budget": 1, "limit_nanos": 2_000}, 2.0, 201),
            Act("settle", 111.0, {"reservation": OWN, "cost_nanos": 300}, 112.0, 200),
            Act("report", 111.0, {"request_id": "r", "cost_nanos": 250, "by": "agent"}, 112.0, 201),
            Act("stop", 120.0, {"tenant": "acme", "path": "stops"}, 121.0, 201),
            Act("lift", 125.0, {"tenant": "acme"}, 126.0, 200),
        ],
        "drift": [],
        "now": 150.0,
        "expired_at": 140.0,
    }


def checks(parts: dict[str, Any]) -> set[str]:
    return {breach.check for breach in judge.breaches(Evidence(**parts))}


def test_what_is_right_is_no_breach() -> None:
    assert checks(at_rest()) == set()


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(parts: dict[str, Any]) -> None:
        *way, last = path.split(".")
        at: Any = parts
        for name in way:
            at = at[int(name)] if name.isdigit() else at[name]
        if isinstance(at, Act | Call):
            setattr(at, last, value)
        else:
            at[int(last) if last.isdigit() else last] = value

    return change


def add(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(parts: dict[str, Any]) -> None:
        at: Any = parts
        for name in path.split("."):
            at = at[name]
        at.append(value)

    return change


def both(*changes: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def change(parts: dict[str, Any]) -> None:
        for one in changes:
            one(parts)

    return change


def odd(name: str) -> Callable[[dict[str, Any]], None]:
    return both(put("calls.0.answer", name), put("books.0.answer", name))


def limited(nanos: int, sent_at: float, done_at: float, status: int = 200) -> Callable[[dict[str, Any]], None]:
    return add("acts", Act("limit", sent_at, {"budget": 1, "limit_nanos": nanos}, done_at, status))


def reported(nanos: int, by: str) -> Callable[[dict[str, Any]], None]:
    about = {"request_id": "r", "cost_nanos": nanos, "by": by}
    return both(put("rows.entries.2.cost_nanos", nanos), put("acts.2.about", about))


def extended(at: float) -> Callable[[dict[str, Any]], None]:
    about = {"reservation": OWN, "tenant": "acme", "agent": "mails"}
    return add("acts", Act("extend", at, about, at + 1, 200))


def reserved(done_at: float) -> Callable[[dict[str, Any]], None]:
    return add("acts", Act("reserve", 122.0, {}, done_at, 201, {"id": OWN}))


REFUSED = both(put("calls.0.status", 502), put("calls.0.code", "upstream_failed"))
LEFT = both(put("calls.0.client", "leaves"), put("calls.0.whole", False), put("rows.entries.0.certainty", "estimated"))
OVERTIME = both(put("rows.reservations.1.status", "pending"), put("rows.reservations.1.expires_at", 120.0))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            both(put("books.0.sent_nanos", 401), odd("usage: none"), put("rows.entries.0.certainty", "estimated")),
            {"charged less than the truth", "a tenant charged less"},
        ),
        (put("rows.entries.0.reservation_id", None), {"charged less than the truth", "a tenant charged less"}),
        (put("rows.entries.0.cost_nanos", 401), {"not charged exactly"}),
        (put("rows.entries.0.certainty", "estimated"), {"not charged exactly"}),
        (put("books.0.request_id", ""), {"charged less than the truth"}),
        (reported(301, "agent"), {"over a cap"}),
        (limited(1_200, 105.0, 106.0), {"over a cap"}),
        (put("rows.entries.0.overage_nanos", 1), {"above its hold"}),
        (put("rows.reservations.0.status", "pending"), {"still held"}),
        (OVERTIME, {"still held"}),
        (both(OVERTIME, put("rows.reservations.1.expires_at", 145.0)), set()),
        (both(LEFT, put("calls.0.stream", True), put("books.0.gone_at", 116.0)), {"an upstream left running"}),
        (both(LEFT, put("calls.0.stream", True), put("books.0.ended_at", None)), {"an upstream left running"}),
        (add("drift", {"invariant": "1", "subject": "window 1"}), {"the ledger has drifted"}),
        (both(put("calls.0.status", 500), put("calls.0.code", "internal_error")), {"a wrong answer"}),
        (REFUSED, {"a wrong answer"}),
        (put("calls.0.overdue", True), {"a client that waits"}),
        (put("calls.0.whole", False), {"half an answer"}),
        (put("acts.2.status", 500), {"an act that broke"}),
        (put("acts.4.status", None), {"an act that broke"}),
        (put("rows.reservations.0.reserved_at", 123.0), {"admitted while stopped"}),
        (extended(122.0), {"admitted while stopped"}),
        # It was asked for while stopped, and admitted when that was lifted.
        (both(put("rows.reservations.1.reserved_at", 123.0), reserved(127.0)), set()),
        (both(put("rows.reservations.1.reserved_at", 123.0), reserved(124.0)), {"admitted while stopped"}),
        (put("rows.reservations.0.resolved_at", 132.0), {"not cut by a stop"}),
        (put("rows.entries.2.cost_nanos", 240), {"not as it was told"}),
        (put("rows.entries.1.cost_nanos", 310), {"not as it was told"}),
        (
            both(put("calls.0.once", "k"), add("calls", call(number=2, once="k", request_id="other"))),
            {"answered twice under one key"},
        ),
    ],
)
def test_each_breach_is_seen_and_no_other(change: Callable[[dict[str, Any]], None], found: set[str]) -> None:
    parts = copy.deepcopy(at_rest())
    change(parts)
    assert checks(parts) == found


@pytest.mark.parametrize(
    "change",
    [
        # Refused by an upstream that fails, or after too many failures.
        both(odd("500"), REFUSED),
        both(put("calls.0.status", 503), put("calls.0.code", "breaker_open")),
        # It hangs by itself, or its client went.
        both(odd("never begins"), put("calls.0.whole", False)),
        LEFT,
        # A whole answer is waited for although its client went.
        both(LEFT, put("rows.reservations.0.status", "pending"), put("books.0.ended_at", None)),
        # What stayed at the upstream is no gateway's to know; what was written against orders no gateway's to prevent.
        both(odd("keeps going"), put("books.0.cost_nanos", 9_000), LEFT),
        both(odd("disobeys"), put("books.0.sent_nanos", 9_000)),
        # An operator may report more than is left, and an agent hold before a stop and after it.
        reported(9_000, "operator"),
        put("rows.reservations.0.reserved_at", 119.0),
        extended(119.0),
        extended(124.5),
        # The limit was lowered when all had been admitted, or may still have been the old one.
        limited(1_000, 113.0, 114.0),
        limited(1_000, 105.0, 149.0),
        limited(1_000, 105.0, 106.0, 400),
        # The same answer again.
        both(put("calls.0.once", "k"), add("calls", call(number=2, once="k", replayed=True))),
    ],
)
def test_what_nobody_can_be_blamed_for_is_none(change: Callable[[dict[str, Any]], None]) -> None:
    parts = copy.deepcopy(at_rest())
    change(parts)
    assert checks(parts) == set()


def test_what_is_beyond_a_gateway_counts_where_it_is_asked_for() -> None:
    parts = at_rest() | {"beyond": True}
    put("books.0.cost_nanos", 9_000)(parts)
    assert "charged less than the truth" in checks(parts)
    assert "over a cap" in checks(parts)


def test_a_raised_limit_counts_from_when_it_may_have_been_in_force() -> None:
    parts = at_rest()
    put("books.0.sent_nanos", 500)(parts)
    put("books.0.cost_nanos", 500)(parts)
    put("rows.entries.0.cost_nanos", 500)(parts)
    assert checks(parts) == {"over a cap"}
    limited(4_000, 108.0, 108.5)(parts)
    assert checks(parts) == set()


def test_a_client_reads_what_it_got() -> None:
    seen = call(status=None, whole=False, request_id="")
    head = (
        b"HTTP/1.1 200 OK\r\nX-Request-Id: abc\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    said = b'data: {"governor":{"stopped":"emergency_stop"}}\n\ndata: [DONE]\n\n'
    whole = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(said), said)
    read_answer(seen, whole[:-5], closed=False)
    assert (seen.status, seen.request_id, seen.whole, seen.stopped) == (200, "abc", False, "emergency_stop")
    read_answer(seen, whole, closed=False)
    assert seen.whole
    refused = call(status=None, whole=False)
    body = b'{"code":"budget_exhausted"}'
    read_answer(refused, b"HTTP/1.1 402 No\r\ncontent-length: 27\r\n\r\n" + body, closed=False)
    assert (refused.status, refused.code, refused.whole) == (402, "budget_exhausted", True)


def test_behaviours_are_known_by_their_names_and_can_be_asked_for() -> None:
    assert len(BY_NAME) == len(ALL)
    for behaviour in ALL:
        assert Answer.from_json(behaviour.answer.to_json()) == behaviour.answer
    assert not BY_NAME["usage: none"].tells
    assert BY_NAME["honest"].tells


def test_a_second_key_comes_first() -> None:
    said = bodies.twice({"max_tokens": 5}, "max_tokens", 9)
    assert said == b'{"max_tokens": 9, "max_tokens": 5}'


@pytest.mark.skipif("STORM" not in os.environ, reason="a storm is another one each time: make storm, or STORM=1")
def test_a_short_storm_finds_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.storm", "--short"],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "config.settings"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert "everything held" in done.stdout
    assert done.returncode == 0
